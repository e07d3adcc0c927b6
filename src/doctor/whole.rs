//! What single operations do not show: errors that grow with depth, and the largest buffer.

use std::fs;

use crate::device::Device;
use crate::device::adapter::Kind;
use crate::device::memory::Category::Activations;
use crate::kernels::attention::copy_rows;
use crate::kernels::embedding::embedding;
use crate::kernels::ops::with_default_bodies;
use crate::kernels::{Matrix, Vector};
use crate::model::backward::GradientSink;
use crate::model::config::{Rope, RopeKind, Variant};
use crate::model::{Batch, Gradients, Model, ModelConfig};

use super::probe::{Operand, Probe, ids};

const SEED: u64 = 11;
const SEQ_LEN: usize = 128;
const SEQUENCES: usize = 2;
/// Both sides round in f32, 12 layers deep; measured some 1e-6.
const GRADIENT_TOLERANCE: f64 = 1e-4;
/// Some drivers bind all there is; no tensor of a model is larger than this.
const MOST_BYTES: u64 = 4 << 30;

fn config() -> ModelConfig {
    ModelConfig {
        variant: Variant::default(),
        hidden_size: 256,
        intermediate_size: 683,
        num_hidden_layers: 12,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 32,
        rms_norm_eps: 1e-6,
        vocab_size: 1024,
        max_position_embeddings: SEQ_LEN,
        tie_word_embeddings: false,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        // Large enough that every layer bends the stream.
        initializer_range: 0.05,
    }
}

/// Loss and gradients by name.
type Pass = (f32, Vec<(String, Vec<f32>)>);

/// One forward and backward pass of the same model and batch.
fn pass(device: &Device, timed: &mut dyn FnMut(&mut dyn FnMut())) -> Pass {
    let mut model = Model::init(config(), SEED, device);
    let tokens = ids(1, SEQUENCES * (SEQ_LEN + 1), 1024);
    let rows = || tokens.chunks(SEQ_LEN + 1);
    let inputs: Vec<i32> = rows().flat_map(|row| &row[..SEQ_LEN]).copied().collect();
    let targets: Vec<i32> = rows().flat_map(|row| &row[1..]).copied().collect();
    let batch = Batch::new(&inputs, &targets, SEQ_LEN, device);
    let mut gradients = Gradients::default();
    let mut loss = Some(Vector::zeros([1], device, Activations));
    timed(&mut || {
        let mut keep = |_: &mut _, _, grad| Some(grad);
        let mut sink = GradientSink::new(&mut gradients, true, &mut keep);
        let scale = 1.0 / batch.counted as f32;
        loss =
            loss.take().map(|loss| model.forward_backward(&batch, loss, scale, false, &mut sink));
    });
    let loss = loss.and_then(|loss| loss.to_host().first().copied()).unwrap_or(f32::NAN);
    let named = gradients.ids().into_iter().filter_map(|id| {
        let grad = gradients.get(id)?.to_host();
        Some((model.params.get(id).name.clone(), grad))
    });
    (loss, named.collect())
}

/// The loss and every gradient of a model of 12 layers beside those of the CPU; of the CPU itself beside those of
/// its operations written in another way.
pub fn twelve_layers(probe: &mut Probe<'_>) {
    probe.shape(format!("{SEQUENCES} x {SEQ_LEN} tokens, forward and backward, beside the CPU"));
    let device = probe.device;
    let (loss, gradients) = pass(device, &mut |run| probe.timed(run));
    let on_cpu = || pass(&Device::cpu(), &mut |run| run());
    let (right_loss, right) =
        if device.gpu().is_some() { on_cpu() } else { with_default_bodies(on_cpu) };
    probe.compare("loss", &[loss], &[f64::from(right_loss)]);
    for ((name, got), (_, right)) in gradients.iter().zip(&right) {
        let right: Vec<f64> = right.iter().copied().map(f64::from).collect();
        probe.compare_within(GRADIENT_TOLERANCE, &format!("gradient of {name}"), got, &right);
    }
    let names = |grads: &[(String, Vec<f32>)]| grads.len() as f64;
    probe.compare("number of gradients", &[gradients.len() as f32], &[names(&right)]);
}

/// A buffer as large as the device binds, written and read at its ends.
pub fn largest_buffer(probe: &mut Probe<'_>) {
    const WIDTH: usize = 1024;
    let device = probe.device;
    let most = device.gpu().map_or(1 << 30, |gpu| gpu.max_binding.min(MOST_BYTES));
    let is_on_host =
        device.gpu().is_none_or(|gpu| matches!(gpu.kind, Kind::Software | Kind::Integrated));
    // In the machine's own memory a quarter of what is free must be enough.
    let room = if is_on_host { free_bytes().map_or(most, |free| free / 4) } else { most };
    let rows = (most.min(room) / (4 * WIDTH as u64)) as usize;
    probe.shape(format!("{} MiB, both ends", (rows * WIDTH * 4) >> 20));
    let ends = Operand::new(1, [2, WIDTH], 1.0);
    let end = |row: usize| {
        let values = ends.host()[row * WIDTH..(row + 1) * WIDTH].to_vec();
        Matrix::from_host(values, [1, WIDTH], device, Activations)
    };
    let (first, last) = (end(0), end(1));
    let places = probe.indices(&[0, rows as i32 - 1, rows as i32 / 2]);
    let read = probe.timed(|| {
        let buffer = Matrix::zeros([rows, WIDTH], device, Activations);
        let buffer = copy_rows(copy_rows(buffer, &first, 0), &last, rows - 1);
        embedding(&places, &buffer)
    });
    let right: Vec<f64> = ends.wide().into_iter().chain(vec![0.0; WIDTH]).collect();
    probe.compare("ends and middle", &read.to_host(), &right);
}

/// Memory that is free on this machine, where the system says it.
fn free_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
