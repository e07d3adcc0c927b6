//! Every operation once more as plain loops in f64: what the tests hold the kernels against.
//!
//! Never optimised, and never used outside tests. Matrices are row-major slices; sizes come as
//! arguments where they cannot be read from a slice.

use super::attention::AttentionShape;
use super::loss::IGNORED;
use super::matmul::Layout;
use super::switch::{Exchange, Switch};
use super::update::{AdamForm, AdamW};

/// `A · B` with `(M, N, K)`.
pub fn matmul(layout: Layout, a: &[f64], b: &[f64], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let a = if layout == Layout::Tn { a[l * m + i] } else { a[i * k + l] };
                let b = if layout == Layout::Nt { b[j * k + l] } else { b[l * n + j] };
                c[i * n + j] += a * b;
            }
        }
    }
    c
}

/// `(y, rstd)` of RMSNorm.
pub fn rms_norm(x: &[f64], gain: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let mut y = Vec::new();
    let mut rstds = Vec::new();
    for row in x.chunks(gain.len()) {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / gain.len() as f64;
        let rstd = 1.0 / (mean + eps).sqrt();
        y.extend(row.iter().zip(gain).map(|(x, gain)| x * rstd * gain));
        rstds.push(rstd);
    }
    (y, rstds)
}

/// `(dx, d_gain)` of RMSNorm.
pub fn rms_norm_backward(
    dy: &[f64],
    x: &[f64],
    gain: &[f64],
    rstd: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let width = gain.len();
    let mut dx = vec![0.0; x.len()];
    let mut d_gain = vec![0.0; width];
    for (t, &rstd) in rstd.iter().enumerate() {
        let at = t * width;
        let along: f64 = (0..width).map(|j| dy[at + j] * gain[j] * x[at + j]).sum();
        for j in 0..width {
            dx[at + j] =
                rstd * dy[at + j] * gain[j] - x[at + j] * rstd.powi(3) * along / width as f64;
            d_gain[j] += dy[at + j] * x[at + j] * rstd;
        }
    }
    (dx, d_gain)
}

/// Rotates by `sign` times the angle of each row's position.
pub fn rope(
    x: &[f64],
    width: usize,
    positions: &[i32],
    cos: &[f64],
    sin: &[f64],
    half: usize,
    sign: f64,
) -> Vec<f64> {
    let mut y = x.to_vec();
    for (t, &position) in positions.iter().enumerate() {
        for head in 0..width / (2 * half) {
            for i in 0..half {
                let at = t * width + head * 2 * half + i;
                let angle = position as usize * half + i;
                let (cos, sin) = (cos[angle], sign * sin[angle]);
                y[at] = x[at] * cos - x[at + half] * sin;
                y[at + half] = x[at + half] * cos + x[at] * sin;
            }
        }
    }
    y
}

/// Softmax weights of one query row and head over the keys it sees, and the log of their sum.
fn attention_row(
    q: &[f64],
    k: &[f64],
    s: AttentionShape,
    sequence: usize,
    head: usize,
    row: usize,
) -> (Vec<f64>, f64) {
    let d = s.head_dim;
    let q_at = (sequence * s.queries + row) * s.heads * d + head * d;
    let kv_head = head / (s.heads / s.kv_heads);
    let visible = s.keys - s.queries + row + 1;
    let scores: Vec<f64> = (0..visible)
        .map(|key| {
            let k_at = (sequence * s.keys + key) * s.kv_heads * d + kv_head * d;
            (0..d).map(|i| q[q_at + i] * k[k_at + i]).sum::<f64>() / (d as f64).sqrt()
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let lse = largest + sum.ln();
    (scores.iter().map(|score| (score - lse).exp()).collect(), lse)
}

/// `(o, lse)` of causal attention.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], s: AttentionShape) -> (Vec<f64>, Vec<f64>) {
    let d = s.head_dim;
    let mut out = vec![0.0; s.batch * s.queries * s.heads * d];
    let mut lses = Vec::new();
    for sequence in 0..s.batch {
        for head in 0..s.heads {
            let kv_head = head / (s.heads / s.kv_heads);
            for row in 0..s.queries {
                let (weights, lse) = attention_row(q, k, s, sequence, head, row);
                lses.push(lse);
                let at = (sequence * s.queries + row) * s.heads * d + head * d;
                for (key, weight) in weights.iter().enumerate() {
                    let v_at = (sequence * s.keys + key) * s.kv_heads * d + kv_head * d;
                    for i in 0..d {
                        out[at + i] += weight * v[v_at + i];
                    }
                }
            }
        }
    }
    (out, lses)
}

/// `(dq, dk, dv)` of causal attention.
pub fn attention_backward(
    d_out: &[f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    s: AttentionShape,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let d = s.head_dim;
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for sequence in 0..s.batch {
        for head in 0..s.heads {
            let kv_head = head / (s.heads / s.kv_heads);
            for row in 0..s.queries {
                let (weights, _) = attention_row(q, k, s, sequence, head, row);
                let at = (sequence * s.queries + row) * s.heads * d + head * d;
                let kv_at = |key: usize| (sequence * s.keys + key) * s.kv_heads * d + kv_head * d;
                let d_weights: Vec<f64> = (0..weights.len())
                    .map(|key| (0..d).map(|i| d_out[at + i] * v[kv_at(key) + i]).sum())
                    .collect();
                let mean: f64 = weights.iter().zip(&d_weights).map(|(w, dw)| w * dw).sum();
                for (key, (weight, d_weight)) in weights.iter().zip(&d_weights).enumerate() {
                    let d_score = weight * (d_weight - mean) / (d as f64).sqrt();
                    for i in 0..d {
                        dq[at + i] += d_score * k[kv_at(key) + i];
                        dk[kv_at(key) + i] += d_score * q[at + i];
                        dv[kv_at(key) + i] += weight * d_out[at + i];
                    }
                }
            }
        }
    }
    (dq, dk, dv)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `gate·σ(gate)·up`.
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(&g, &u)| g * sigmoid(g) * u).collect()
}

/// `(d_gate, d_up)` of SwiGLU.
pub fn swiglu_backward(dh: &[f64], gate: &[f64], up: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
    let d_gate = dh.iter().zip(gate).zip(up).map(|((d, &g), u)| d * u * slope(g)).collect();
    let d_up = dh.iter().zip(gate).map(|(d, &g)| d * g * sigmoid(g)).collect();
    (d_gate, d_up)
}

/// Rows of `table` by id.
pub fn embedding(ids: &[i32], table: &[f64], width: usize) -> Vec<f64> {
    ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect()
}

/// Gradient of the table of `rows` rows.
pub fn embedding_grad(ids: &[i32], dx: &[f64], rows: usize, width: usize) -> Vec<f64> {
    let mut grad = vec![0.0; rows * width];
    for (t, &id) in ids.iter().enumerate() {
        for j in 0..width {
            grad[id as usize * width + j] += dx[t * width + j];
        }
    }
    grad
}

/// `(losses, d_hidden, d_head)` of the cross-entropy of `hidden·headᵀ`, gradients of the sum.
pub fn cross_entropy(
    hidden: &[f64],
    head: &[f64],
    targets: &[i32],
    width: usize,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (tokens, vocabulary) = (targets.len(), head.len() / width);
    let mut logits = matmul(Layout::Nt, hidden, head, (tokens, vocabulary, width));
    let mut losses = vec![0.0; tokens];
    for ((row, loss), &target) in logits.chunks_mut(vocabulary).zip(&mut losses).zip(targets) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        if target == IGNORED {
            row.fill(0.0);
            continue;
        }
        *loss = lse - row[target as usize];
        for x in row.iter_mut() {
            *x = (*x - lse).exp();
        }
        row[target as usize] -= 1.0;
    }
    let d_hidden = matmul(Layout::Nn, &logits, head, (tokens, width, vocabulary));
    let d_head = matmul(Layout::Tn, &logits, hidden, (vocabulary, width, tokens));
    (losses, d_hidden, d_head)
}

/// One AdamW update of one element: `(param, exp_avg, exp_avg_sq)`.
pub fn adamw((p, m, v): (f64, f64, f64), grad: f64, hyper: AdamW, step: u32) -> (f64, f64, f64) {
    let AdamW { learning_rate, beta1, beta2, eps, weight_decay, form } = hyper;
    let m = beta1 * m + (1.0 - beta1) * grad;
    let v = beta2 * v + (1.0 - beta2) * grad * grad;
    let correction1 = 1.0 - beta1.powi(step as i32);
    let correction2 = (1.0 - beta2.powi(step as i32)).sqrt();
    let keep = 1.0 - learning_rate * weight_decay;
    let p = match form {
        AdamForm::Torch => {
            p * keep - learning_rate / correction1 * m / (v.sqrt() / correction2 + eps)
        }
        AdamForm::Reference => {
            (p - learning_rate * correction2 / correction1 * m / (v.sqrt() + eps)) * keep
        }
    };
    (p, m, v)
}

/// A switch of `w [M, N]`, `a [R, N]`, `b [M, R]` and the pools `[C, N]` and `[C, M]`. Returns the squared norm of the
/// change of `w`, which is that of `-s·B·A`.
pub fn switch(
    w: &mut [f64],
    a: &mut [f64],
    b: &mut [f64],
    [pool_a, pool_b]: [&mut [f64]; 2],
    (m, n): (usize, usize),
    switch: &Switch<'_>,
) -> f64 {
    let rank = a.len() / n;
    let before = matmul(Layout::Nn, b, a, (m, n, rank));
    exchange(a, pool_a, n, &switch.a);
    let mut columns = transpose(b, rank);
    exchange(&mut columns, pool_b, m, &switch.b);
    b.copy_from_slice(&transpose(&columns, m));
    let after = matmul(Layout::Nn, b, a, (m, n, rank));
    let mut norm = 0.0;
    for ((w, before), after) in w.iter_mut().zip(before).zip(after) {
        let change = f64::from(switch.scale) * (before - after);
        *w += change;
        norm += change * change;
    }
    norm
}

fn exchange(vectors: &mut [f64], pool: &mut [f64], length: usize, exchange: &Exchange<'_>) {
    for (&i, &row) in exchange.vectors.iter().zip(exchange.from) {
        pool[row * length..][..length].copy_from_slice(&vectors[i * length..][..length]);
    }
    for (&i, &row) in exchange.vectors.iter().zip(exchange.to) {
        vectors[i * length..][..length].copy_from_slice(&pool[row * length..][..length]);
    }
}

/// The transpose of a matrix of `columns` columns.
pub fn transpose(x: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|j| x.iter().skip(j).step_by(columns)).copied().collect()
}
