//! Launches of more work than a slow GPU should get at once: they go in parts, and nothing else can tell.

use fullrank::device::Device;
use fullrank::device::gpu::Tiling;
use fullrank::kernels::Array;
use fullrank::kernels::attention::{AttentionShape, attention, attention_backward};
use fullrank::kernels::launch::{recorded, split_above};
use fullrank::kernels::lora::lora_linear;
use fullrank::kernels::matmul::{Layout, matmul, matmul_add};

use crate::forms::{Values, on_gpus_once};

/// The bits of products and of attention, forward and backward.
fn results(device: &Device) -> Vec<Vec<f32>> {
    let mut values = Values(9);
    let mut found = Vec::new();
    for (m, n, k) in [(257, 130, 70), (65, 200, 4200), (40, 520, 9)] {
        let (a, b) = (values.matrix(device, [m, k]), values.matrix(device, [n, k]));
        found.push(matmul(Layout::Nt, &a, &b).to_host());
        let c = values.matrix(device, [m, n]);
        found.push(matmul_add(c, 0.5, Layout::Nt, &a, &b).to_host());
        let (down, up) = (values.matrix(device, [4, k]), values.matrix(device, [n, 4]));
        found.push(lora_linear(&a, Some(&b), &down, &up, 0.7).0.to_host());
    }
    let s = AttentionShape { batch: 2, queries: 70, keys: 70, heads: 4, kv_heads: 2, head_dim: 16 };
    let q = values.matrix(device, [140, 64]);
    let [k, v] = [(), ()].map(|()| values.matrix(device, [140, 32]));
    let d_out = values.matrix(device, [140, 64]);
    let (out, lse) = attention(&q, &k, &v, s);
    let (dq, dk, dv) = attention_backward(&d_out, &q, &k, &v, &out, &lse, s);
    found.extend([&out, &dq, &dk, &dv].map(Array::to_host));
    found
}

#[test]
fn a_launch_in_parts_has_the_bits_of_the_whole() {
    on_gpus_once(|device| {
        let whole = results(device);
        split_above(Some(100_000));
        let mut parts = Vec::new();
        let launches = recorded(|| parts = results(device));
        split_above(None);
        assert_eq!(parts, whole);
        if device.gpu().is_some_and(|gpu| gpu.tiling == Tiling::Workgroup) {
            for name in ["matmul_tile", "attention", "attention_dq", "attention_dkv"] {
                let count = launches.iter().filter(|launch| launch.name == name).count();
                assert!(count > 6, "{name} was launched {count} times");
            }
        }
    });
}
