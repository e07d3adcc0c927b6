//! `torch.optim.AdamW`: parameter and both moments after each of the steps.

use super::{assert_close, number, values};
use fullrank::device::Device;
use fullrank::device::memory::Category;
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::kernels::update::{AdamForm, AdamW};
use fullrank::kernels::{Matrix, Vector};
use fullrank::model::{Params, Role};
use fullrank::optim::Optimizer;
use std::path::Path;

pub fn check(path: &Path, device: &Device) {
    let file = SafetensorsFile::open(path).unwrap();
    let hyper = AdamW {
        learning_rate: 0.0,
        beta1: number(&file, "beta1"),
        beta2: number(&file, "beta2"),
        eps: number(&file, "eps"),
        weight_decay: number(&file, "weight_decay"),
        form: AdamForm::Torch,
    };
    let one = Vector::from_host(vec![1.0], [1], device, Category::Activations);
    for name in ["p1d", "p2d"] {
        let init = file.read_f32(&format!("{name}.init")).unwrap();
        let shape = match init.shape[..] {
            [n] => [1, n],
            [m, n] => [m, n],
            _ => panic!("{name}: a vector or a matrix"),
        };
        let len = init.values.len();
        let upload = |values| Matrix::from_host(values, shape, device, Category::Weights);
        let mut params = Params::default();
        let id = params.add(name, init.shape.clone(), Role::Network, upload(init.values), true);
        let mut optimizer = Optimizer::new(hyper, device);
        let grads = values(&file, &format!("{name}.grad"));
        let (mut param, mut exp_avg, mut exp_avg_sq) = (Vec::new(), Vec::new(), Vec::new());
        for grad in grads.chunks(len) {
            let grad = upload(grad.to_vec());
            optimizer.update(&mut params, id, grad, &one, number(&file, "lr"));
            let (_, moments) = optimizer.iter().next().unwrap();
            exp_avg.extend(moments.exp_avg.to_host());
            exp_avg_sq.extend(moments.exp_avg_sq.to_host());
            param.extend(params.value(id).to_host());
        }
        for (what, ours) in [("param", param), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
            let key = format!("{name}.{what}");
            assert_close(&key, &ours, &values(&file, &key), 2e-6);
        }
    }
}
