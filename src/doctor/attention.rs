//! Attention over 2048 tokens with shared key heads, and its cache.

use rayon::prelude::*;

use crate::device::memory::Category::Activations;
use crate::kernels::Matrix;
use crate::kernels::attention::{self as kernel, AttentionShape};

use super::probe::{Operand, Probe, dot, sample};

const TOKENS: usize = 2048;
const DIM: usize = 64;

/// The operands and their values by head, so that a row of a head lies together.
struct Case {
    shape: AttentionShape,
    q: Operand,
    k: Operand,
    v: Operand,
    d_out: Operand,
}

/// Softmax weights of a query, and the log of their sum.
struct Weights {
    weights: Vec<f64>,
    lse: f64,
}

impl Case {
    fn new(probe: &mut Probe<'_>) -> Self {
        let heads = if probe.is_slow() { 4 } else { 8 };
        let kv_heads = heads / 2;
        probe.shape(format!("1 x {TOKENS} tokens, {heads} heads of {DIM}"));
        let shape = AttentionShape {
            batch: 1,
            queries: TOKENS,
            keys: TOKENS,
            heads,
            kv_heads,
            head_dim: DIM,
        };
        let new = |seed, heads: usize| Operand::new(seed, [TOKENS, heads * DIM], 2.0);
        Self {
            shape,
            q: new(1, heads),
            k: new(2, kv_heads),
            v: new(3, kv_heads),
            d_out: new(4, heads),
        }
    }

    /// The rows of one head, one after another.
    fn head(operand: &Operand, head: usize) -> Vec<f64> {
        let row = |row| (0..DIM).map(move |i| operand.at(row, head * DIM + i));
        (0..TOKENS).flat_map(row).collect()
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.shape.heads / self.shape.kv_heads)
    }
}

fn row(values: &[f64], row: usize) -> &[f64] {
    &values[row * DIM..(row + 1) * DIM]
}

/// What query `at` sees of the keys up to its own place.
fn weights(q: &[f64], keys: &[f64], at: usize) -> Weights {
    let scale = (DIM as f64).sqrt();
    let scores: Vec<f64> = (0..=at).map(|key| dot(row(q, at), row(keys, key)) / scale).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let lse = largest + sum.ln();
    Weights { weights: scores.iter().map(|score| (score - lse).exp()).collect(), lse }
}

fn add(sum: &mut [f64], factor: f64, values: &[f64]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

pub fn attention(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let [q, k, v] = [case.q, case.k, case.v].map(|operand| operand.on(probe.device));
    let (out, lse) = probe.timed(|| kernel::attention(&q, &k, &v, case.shape));
    let (out, lse) = (out.to_host(), lse.to_host());
    for head in [0, case.shape.heads - 1] {
        let q = Case::head(&case.q, head);
        let [k, v] = [case.k, case.v].map(|kv| Case::head(&kv, case.kv_head(head)));
        let mut right_lse = Vec::new();
        let (mut got, mut got_lse, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for at in sample(TOKENS) {
            let seen = weights(&q, &k, at);
            let mut sum = vec![0.0; DIM];
            for (key, weight) in seen.weights.iter().enumerate() {
                add(&mut sum, *weight, row(&v, key));
            }
            right.extend(sum);
            right_lse.push(seen.lse);
            let first = (at * case.shape.heads + head) * DIM;
            got.extend_from_slice(&out[first..first + DIM]);
            got_lse.push(lse[head * TOKENS + at]);
        }
        probe.compare(&format!("output of head {head}"), &got, &right);
        probe.compare(&format!("log of the sum of head {head}"), &got_lse, &right_lse);
    }
}

/// The gradients of one query head: `dq` of every row, and what it adds to `dk` and `dv` of the sampled keys.
struct HeadGrads {
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

fn head_grads(case: &Case, head: usize, keys: &[usize]) -> HeadGrads {
    let [q, d_out] = [case.q, case.d_out].map(|operand| Case::head(&operand, head));
    let [k, v] = [case.k, case.v].map(|operand| Case::head(&operand, case.kv_head(head)));
    let scale = (DIM as f64).sqrt();
    let new = || HeadGrads {
        dq: Vec::new(),
        dk: vec![0.0; keys.len() * DIM],
        dv: vec![0.0; keys.len() * DIM],
    };
    let parts: Vec<HeadGrads> = (0..TOKENS)
        .into_par_iter()
        .chunks(64)
        .map(|queries| {
            let mut grads = new();
            for at in queries {
                let seen = weights(&q, &k, at).weights;
                let d_weights: Vec<f64> =
                    (0..=at).map(|key| dot(row(&d_out, at), row(&v, key))).collect();
                let mean = dot(&seen, &d_weights);
                let d_score = |key: usize| seen[key] * (d_weights[key] - mean) / scale;
                let mut dq = vec![0.0; DIM];
                for key in 0..=at {
                    add(&mut dq, d_score(key), row(&k, key));
                }
                grads.dq.extend(dq);
                for (place, &key) in keys.iter().enumerate().filter(|&(_, &key)| key <= at) {
                    let range = place * DIM..(place + 1) * DIM;
                    add(&mut grads.dk[range.clone()], d_score(key), row(&q, at));
                    add(&mut grads.dv[range], seen[key], row(&d_out, at));
                }
            }
            grads
        })
        .collect();
    let mut all = new();
    for grads in parts {
        all.dq.extend(grads.dq);
        add(&mut all.dk, 1.0, &grads.dk);
        add(&mut all.dv, 1.0, &grads.dv);
    }
    all
}

pub fn attention_backward(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let [q, k, v, d_out] =
        [case.q, case.k, case.v, case.d_out].map(|operand| operand.on(probe.device));
    let (out, lse) = kernel::attention(&q, &k, &v, case.shape);
    let (dq, dk, dv) =
        probe.timed(|| kernel::attention_backward(&d_out, &q, &k, &v, &out, &lse, case.shape));
    let sampled = sample(TOKENS);
    let pick = |values: &[f32], heads: usize, head: usize| -> Vec<f32> {
        let row = |&at: &usize| &values[(at * heads + head) * DIM..][..DIM];
        sampled.iter().flat_map(row).copied().collect()
    };
    let [dq, dk, dv] = [dq, dk, dv].map(|grad| grad.to_host());
    // The query heads of the last key head, which share it.
    let kv_head = case.shape.kv_heads - 1;
    let group = case.shape.heads / case.shape.kv_heads;
    let (mut right_dk, mut right_dv) =
        (vec![0.0; sampled.len() * DIM], vec![0.0; sampled.len() * DIM]);
    for head in kv_head * group..(kv_head + 1) * group {
        let grads = head_grads(&case, head, &sampled);
        add(&mut right_dk, 1.0, &grads.dk);
        add(&mut right_dv, 1.0, &grads.dv);
        let right: Vec<f64> = sampled.iter().flat_map(|&at| row(&grads.dq, at)).copied().collect();
        probe.compare(&format!("dq of head {head}"), &pick(&dq, case.shape.heads, head), &right);
    }
    probe.compare("dk", &pick(&dk, case.shape.kv_heads, kv_head), &right_dk);
    probe.compare("dv", &pick(&dv, case.shape.kv_heads, kv_head), &right_dv);
}

pub fn copy_rows(probe: &mut Probe<'_>) {
    const WIDTH: usize = 1024;
    const AT: usize = 4000;
    probe.shape(format!("7 rows of {WIDTH} into 4096"));
    let rows = Operand::new(1, [7, WIDTH], 1.0);
    let (rows_on, cache) =
        (rows.on(probe.device), Matrix::zeros([4096, WIDTH], probe.device, Activations));
    let cache = probe.timed(|| kernel::copy_rows(cache, &rows_on, AT));
    probe.compare_entries("cache", &cache, |place| {
        let (row, column) = (place / WIDTH, place % WIDTH);
        if (AT..AT + 7).contains(&row) { rows.at(row - AT, column) } else { 0.0 }
    });
    let got = cache.to_host()[AT * WIDTH..(AT + 7) * WIDTH].to_vec();
    probe.compare("copied rows", &got, &rows.wide());
}
