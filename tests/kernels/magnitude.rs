//! Trained lengths of the rows of a weight: factors, scaling by column, gradient.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::Matrix;
use fullrank::kernels::magnitude::{magnitude_factor, magnitude_grad, scale_columns};
use fullrank::kernels::packed::Weight;

use crate::forms::{TOLERANCE, Values, assert_close, assert_near, in_every_form, vector, wide};

/// Tokens and outputs.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 5], [64, 4], [65, 31], [200, 256], [2, 20_000]];

#[test]
fn columns_are_scaled_and_the_gradient_of_the_lengths_is_the_sum_over_tokens() {
    in_every_form(|device| {
        let mut values = Values(19);
        for [tokens, width] in SHAPES {
            let what = format!("{tokens} x {width}");
            let shape = [tokens, width];
            let (z, dy) = (values.matrix(device, shape), values.matrix(device, shape));
            let factors = vector(values.vec(width), device);
            let by_column: Vec<f64> =
                wide(&z).iter().zip(wide(&factors).iter().cycle()).map(|(z, f)| z * f).collect();
            assert_close(&what, &scale_columns(&z, &factors), &by_column);

            let lengths: Vec<f32> = values.vec(width).into_iter().map(|v| v.abs() + 0.5).collect();
            let lengths = vector(lengths, device);
            let acc = values.matrix(device, [1, width]);
            let (wz, wdy, wide_lengths) = (wide(&z), wide(&dy), wide(&lengths));
            let right: Vec<f64> = wide(&acc)
                .iter()
                .enumerate()
                .map(|(j, acc)| {
                    let terms = (0..tokens).map(|t| wdy[t * width + j] * wz[t * width + j]);
                    acc + terms.sum::<f64>() / wide_lengths[j]
                })
                .collect();
            let start = acc.duplicate(device, Activations);
            let got = magnitude_grad(acc, &dy, &z, &lengths);
            assert_close(&what, &got, &right);
            let again = magnitude_grad(start, &dy, &z, &lengths);
            assert_eq!(got.to_host(), again.to_host(), "the same bits twice");
        }
    });
}

#[test]
fn lengths_are_those_of_the_whole_rows() {
    in_every_form(|device| {
        let mut values = Values(23);
        for [outputs, inputs, rank] in
            [[1, 1, 1], [5, 3, 2], [33, 65, 4], [64, 32, 31], [300, 20, 7], [17, 129, 129]]
        {
            let what = format!("{outputs} x {inputs}, rank {rank}");
            let w = values.matrix(device, [outputs, inputs]);
            let a = values.matrix(device, [rank, inputs]);
            let b = values.matrix(device, [outputs, rank]);
            let magnitude = values.matrix(device, [1, outputs]);
            let scale = 0.3f32;
            let (ww, wa, wb) = (wide(&w), wide(&a), wide(&b));
            let squares =
                ww.chunks(inputs).map(|row| row.iter().map(|v| v * v).sum::<f64>() as f32);
            let squares = vector(squares.collect(), device);
            let row_length = |i: usize| {
                let entry = |j: usize| {
                    let product = (0..rank).map(|l| wb[i * rank + l] * wa[l * inputs + j]);
                    ww[i * inputs + j] + f64::from(scale) * product.sum::<f64>()
                };
                (0..inputs).map(|j| entry(j).powi(2)).sum::<f64>().sqrt()
            };
            let lengths: Vec<f64> = (0..outputs).map(row_length).collect();
            let factors: Vec<f64> =
                wide(&magnitude).iter().zip(&lengths).map(|(m, length)| m / length).collect();
            let (got, factor) =
                magnitude_factor(&magnitude, &squares, Weight::Dense(&w), &a, &b, scale);
            assert_close(&what, &got, &lengths);
            // Short rows lose digits in the sum, and the factor is their reciprocal.
            assert_near(&what, &wide(&factor), &factors, 20.0 * TOLERANCE);
        }
    });
}

#[test]
fn a_row_of_zeros_has_a_finite_factor() {
    in_every_form(|device| {
        let zeros = |shape| Matrix::zeros(shape, device, Activations);
        let (w, a, b) = (zeros([3, 4]), zeros([2, 4]), zeros([3, 2]));
        let squares = vector(vec![0.0; 3], device);
        let (length, factor) =
            magnitude_factor(&zeros([1, 3]), &squares, Weight::Dense(&w), &a, &b, 1.0);
        assert!(length.to_host().iter().all(|&v| v > 0.0 && v < 1e-11));
        assert_eq!(factor.to_host(), [0.0; 3]);
    });
}
