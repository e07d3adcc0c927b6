//! The authors' ReLoRA: merging with a new pair, and pruning of moments.

use std::path::Path;

use super::{assert_close, model_with_layer, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::Matrix;
use fullrank::kernels::lora::lora_linear;
use fullrank::methods::factors;
use fullrank::methods::relora::merge;
use fullrank::methods::relora::prune::{magnitude_mask, random_mask, threshold};
use fullrank::model::Model;

pub fn check_merge(path: &Path, device: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let ([m, n], rank) = (sizes(&file, "W_before"), number(&file, "rank") as usize);
    let (mut model, id) = model_with_layer(m, n, device);
    let scale = number(&file, "scaling") as f32;
    let pair = (values(&file, "A"), values(&file, "B"));
    let (adapter, _) = factors::attach(&mut model, id, rank, scale, pair, false);
    let linear = model.linears()[id.0].clone();
    let weight = linear.weight.unwrap();
    let upload = |name: &str| {
        let (values, shape) = (values(&file, name), sizes(&file, name));
        Matrix::from_host(values, shape, device, Category::Weights)
    };
    model.params.set(weight, upload("W_before"));
    let x = upload("x");
    let output = |model: &Model| {
        let value = |id| model.params.value(id);
        let (w, a, b) = (value(weight), value(adapter.a), value(adapter.b));
        lora_linear(&x, Some(w), a, b, scale).0.to_host()
    };
    assert_close("y_before", &output(&model), &values(&file, "y_before"), 1e-6);
    let (dw_norm, error) = merge(&mut model, &linear, values(&file, "A_after_example")).unwrap();
    let host = |id| model.params.value(id).to_host();
    assert_close("W_after", &host(weight), &values(&file, "W_after"), 1e-6);
    assert_eq!(host(adapter.a), values(&file, "A_after_example"));
    assert_eq!(host(adapter.b), values(&file, "B_after"));
    assert_close("y_after", &output(&model), &values(&file, "y_after"), 1e-6);

    let (before, after) = (values(&file, "W_before"), values(&file, "W_after"));
    let squares = before.iter().zip(&after).map(|(b, a)| (f64::from(*a) - f64::from(*b)).powi(2));
    let norm = squares.sum::<f64>().sqrt();
    assert!((dw_norm / norm - 1.0).abs() < 1e-6, "norm {dw_norm}, theirs {norm}");
    assert!(error < 1e-5, "merge error {error}");

    // Our own draw has the bound of theirs: 1/√n.
    let bound = number(&file, "reinit_bound") as f32;
    let drawn = factors::draw_a(&linear, 200, 0, 1);
    let largest = drawn.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    assert!(largest <= bound && largest > 0.98 * bound, "{largest} against {bound}");
}

fn sizes(file: &SafetensorsFile, name: &str) -> [usize; 2] {
    let shape = &file.read_f32(name).unwrap().shape;
    [shape[0], shape[1]]
}

pub fn check_prune(path: &Path, _: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let kept = |tensor: &[f32], mask: Vec<bool>| -> Vec<f32> {
        tensor.iter().zip(mask).map(|(&value, keep)| if keep { value } else { 0.0 }).collect()
    };
    let mut compared = 0;
    for name in ["exp_avg", "exp_avg_sq", "with_ties"] {
        let tensor = values(&file, name);
        for ratio in ["0.5", "0.9", "0.99"] {
            let p: f64 = ratio.parse().unwrap();
            let theirs = values(&file, &format!("{name}.magnitude_{ratio}"));
            assert_eq!(kept(&tensor, magnitude_mask(&tensor, p)), theirs, "{name} at {ratio}");
            let theirs = values(&file, &format!("{name}.threshold_{ratio}"));
            assert_close(name, &[threshold(&tensor, p)], &theirs, 1e-6);
            compared += 1;
        }
    }
    for ratio in ["0.9", "0.999"] {
        let tensor = values(&file, "exp_avg");
        let mask = random_mask(&values(&file, &format!("uniform_{ratio}")), ratio.parse().unwrap());
        assert_eq!(kept(&tensor, mask), values(&file, &format!("exp_avg.random_{ratio}")));
    }
    assert_eq!(compared, 9);
}
