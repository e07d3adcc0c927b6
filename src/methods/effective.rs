//! The weight that a layer applies, on the host in f64: what rank metrics are measured on. Reads the device and
//! changes nothing.

use crate::kernels::Matrix;
use crate::linalg::spectrum::Product;
use crate::model::{Adapter, Linear, Model};

/// `W + s·B·A` of a layer, row-major `[m, n]`, or with a sparse part in the place of `W`; only the parts that it has;
/// times the trained lengths. Where merges go into f32 values beside a weight in few bits, W is these: that is what the
/// change since the start is counted in.
pub fn weight(model: &Model, linear: &Linear) -> Vec<f64> {
    let mut values = match linear.weight {
        Some(id) => wide(&model.params.host_values(&[id])),
        None => vec![0.0; linear.rows * linear.cols],
    };
    if let Some(sparse) = &linear.sparse {
        let kept = model.params.value(sparse.values).to_host();
        for (value, place) in kept.into_iter().zip(sparse.places.to_host()) {
            values[place as usize] += f64::from(value);
        }
    }
    if let Some(product) = adapter(model, linear) {
        product.add_to(&mut values);
    }
    if let Some(magnitude) = &linear.magnitude {
        let factors = magnitude.factor().to_host();
        for (row, factor) in values.chunks_exact_mut(linear.cols).zip(factors) {
            for value in row {
                *value *= f64::from(factor);
            }
        }
    }
    values
}

/// `(s·B)·A` of a layer's factors, where it has a pair.
pub fn adapter(model: &Model, linear: &Linear) -> Option<Product> {
    let Adapter { a, b, scale, .. } = linear.adapter?;
    let host = |matrix: &Matrix| wide(&matrix.to_host());
    let (a, b) = (host(model.params.value(a)), host(model.params.value(b)));
    Some(scaled(b, a, scale, linear))
}

/// `(s·B)·A` of factors on the host, `B [m, r]` and `A [r, n]`.
pub fn scaled(mut b: Vec<f64>, a: Vec<f64>, scale: f32, linear: &Linear) -> Product {
    for value in &mut b {
        *value *= f64::from(scale);
    }
    Product { left: b, right: a, rows: linear.rows, cols: linear.cols }
}

/// `now − before` of two products of one shape as a single product:
/// `[now.left, −before.left]·[now.right; before.right]`.
pub fn difference(now: Product, before: &Product) -> Product {
    let Product { left, mut right, rows, cols } = now;
    let (k, l) = (left.len().checked_div(rows).unwrap_or(0), before.inner());
    let mut joined = Vec::with_capacity(rows * (k + l));
    for row in 0..rows {
        joined.extend_from_slice(&left[row * k..][..k]);
        joined.extend(before.left[row * l..][..l].iter().map(|value| -value));
    }
    right.extend_from_slice(&before.right);
    Product { left: joined, right, rows, cols }
}

/// The values in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
