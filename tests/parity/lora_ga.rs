//! The authors' LoRA-GA: factors and compensated weight from given singular vectors, and from our own.

use super::{assert_close, model_with_layer, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::linalg::svd::Svd;
use fullrank::methods::factors::attach;
use fullrank::methods::lora_ga::start::{Direction, Length, factors};
use fullrank::methods::singular::{Decomposition, leading};
use std::path::Path;

/// Columns of `[len, k]`.
fn columns(values: &[f64], k: usize) -> Vec<Vec<f64>> {
    (0..k).map(|i| values.iter().skip(i).step_by(k).copied().collect()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// `Σ x_i x_iᵀ` of vectors, `[len, len]`.
fn projector(vectors: &[Vec<f64>]) -> Vec<f32> {
    let len = vectors[0].len();
    let entry = |i: usize, j: usize| vectors.iter().map(|x| x[i] * x[j]).sum::<f64>() as f32;
    (0..len * len).map(|at| entry(at / len, at % len)).collect()
}

/// `x_i · x_j` of vectors.
fn gram(vectors: &[Vec<f64>]) -> Vec<f32> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>() as f32;
    vectors.iter().flat_map(|x| vectors.iter().map(move |y| dot(x, y))).collect()
}

pub fn check(path: &Path, device: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let text = |key: &str| file.metadata()[key].clone();
    let indices = |key: &str| -> Vec<usize> { serde_json::from_str(&text(key)).unwrap() };
    let (rank, scale) = (number(&file, "rank") as usize, number(&file, "scaling"));
    let [m, n] = file.shape("W").unwrap()[..] else { panic!("W [m,n]") };
    let stabilised = text("use_rslora") == "true";
    let divisor = if stabilised { (rank as f64).sqrt() } else { rank as f64 };
    assert_eq!(scale, number(&file, "lora_alpha") / divisor);

    let places = Direction::from_name(&text("direction")).unwrap().places(rank, 0, "layer");
    assert_eq!(places, (indices("A_singular_indices"), indices("B_singular_indices")));
    let length = Length::from_name(&text("scale"), number(&file, "stable_gamma")).unwrap();
    let c = length.of(m, scale, || panic!("no case goes by the weight"));
    assert!((c - number(&file, "adapter_factor")).abs() < 1e-12, "length {c}");

    // Starting from the singular vectors that the authors' code had.
    let stored = Svd {
        u: columns(&wide(&values(&file, "U")), 2 * rank),
        s: wide(&values(&file, "S")),
        v: columns(&wide(&values(&file, "V")), 2 * rank),
    };
    let [a, b] = factors(&stored, &places, c);
    assert_close("A", &a, &values(&file, "A"), 1e-5);
    assert_close("B", &b, &values(&file, "B"), 1e-5);
    let (corrected, _) = compensated(&file, device, [m, n], rank, scale as f32, [a, b]);
    assert_close("W_corrected", &corrected, &values(&file, "W_corrected"), 1e-5);

    // From the gradient, by our own decomposition.
    let svd =
        leading(&wide(&values(&file, "G")), [m, n], 2 * rank, Decomposition::Auto, 0, "layer")
            .unwrap();
    let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    assert_close("S", &narrow(&svd.s), &narrow(&file.read_f64("S_exact").unwrap()), 2e-5);
    let [a, b] = factors(&svd, &places, c);
    let (rows_a, columns_b) =
        (wide(&a).chunks(n).map(<[f64]>::to_vec).collect::<Vec<_>>(), columns(&wide(&b), rank));
    for (what, ours, exact, at) in
        [("A", &rows_a, "V_exact", &places.0), ("B", &columns_b, "U_exact", &places.1)]
    {
        let exact = columns(&file.read_f64(exact).unwrap(), 2 * rank);
        let chosen: Vec<Vec<f64>> =
            at.iter().map(|&i| exact[i].iter().map(|v| c * v).collect()).collect();
        assert_close(&format!("span of {what}"), &projector(ours), &projector(&chosen), 2e-5);
        let square: Vec<f32> = (0..rank * rank)
            .map(|i| if i % (rank + 1) == 0 { (c * c) as f32 } else { 0.0 })
            .collect();
        assert_close(&format!("length of {what}"), &gram(ours), &square, 2e-5);
    }
    let (_, whole) = compensated(&file, device, [m, n], rank, scale as f32, [a, b]);
    assert_close("W' + s·B·A", &whole, &values(&file, "W"), 2e-5);
}

/// The compensated weight, and it with `s·B·A` added again in f64.
fn compensated(
    file: &SafetensorsFile,
    device: &Device,
    [m, n]: [usize; 2],
    rank: usize,
    scale: f32,
    [a, b]: [Vec<f32>; 2],
) -> (Vec<f32>, Vec<f32>) {
    let (mut model, id) = model_with_layer(m, n, device);
    let weight = model.linears()[id.0].weight.unwrap();
    let w = Matrix::from_host(values(file, "W"), [m, n], device, Category::Weights);
    model.params.set(weight, w);
    attach(&mut model, id, rank, scale, (a.clone(), b.clone()), true);
    let corrected = model.params.value(weight).to_host();
    let whole = corrected.iter().enumerate().map(|(at, &w)| {
        let (i, j) = (at / n, at % n);
        let product = (0..rank).map(|l| f64::from(b[i * rank + l]) * f64::from(a[l * n + j]));
        (f64::from(w) + f64::from(scale) * product.sum::<f64>()) as f32
    });
    let whole = whole.collect();
    (corrected, whole)
}
