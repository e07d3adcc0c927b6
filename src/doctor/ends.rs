//! Both ends of a network with a vocabulary of 32,000: the embedding, and the head with its loss.

use rayon::prelude::*;

use crate::device::memory::Category::Activations;
use crate::kernels::loss::{self as head_loss, HeadGrad, IGNORED};
use crate::kernels::{Matrix, Vector, embedding as table};

use super::probe::{Operand, Probe, dot, ids};

const VOCABULARY: usize = 32_000;
const WIDTH: usize = 512;
const TOKENS: usize = 2048;

pub fn embedding(probe: &mut Probe<'_>) {
    probe.shape(format!("{TOKENS} rows of [{VOCABULARY}, {WIDTH}]"));
    let rows = Operand::new(1, [VOCABULARY, WIDTH], 1.0);
    let mut ids = ids(2, TOKENS, VOCABULARY);
    (ids[0], ids[1]) = (0, VOCABULARY as i32 - 1);
    let (on, ids_on) = (rows.on(probe.device), probe.indices(&ids));
    let got = probe.timed(|| table::embedding(&ids_on, &on));
    probe.compare_rows("row", &got, |at| rows.row(ids[at] as usize));
}

pub fn embedding_grad(probe: &mut Probe<'_>) {
    probe.shape(format!("{TOKENS} rows into [{VOCABULARY}, {WIDTH}]"));
    let dx = Operand::new(1, [TOKENS, WIDTH], 1.0);
    // Many positions share an id, as frequent words do; 700 of them the last one.
    let mut ids = ids(2, TOKENS, 50);
    ids[100..800].fill(VOCABULARY as i32 - 1);
    let mut order: Vec<i32> = (0..TOKENS as i32).collect();
    order.sort_by_key(|&at| (ids[at as usize], at));
    let (dx_on, ids_on, order) = (dx.on(probe.device), probe.indices(&ids), probe.indices(&order));
    let acc = Matrix::zeros([VOCABULARY, WIDTH], probe.device, Activations);
    let got = probe.timed(|| table::embedding_grad(acc, &dx_on, &ids_on, &order));
    let host = got.to_host();
    let mut right = Vec::new();
    let mut values = Vec::new();
    for id in (0..50).chain([VOCABULARY / 2, VOCABULARY - 1]) {
        let mut sum = vec![0.0; WIDTH];
        for at in (0..TOKENS).filter(|&at| ids[at] as usize == id) {
            sum.iter_mut().zip(dx.row(at)).for_each(|(sum, dx)| *sum += dx);
        }
        right.extend(sum);
        values.extend_from_slice(&host[id * WIDTH..(id + 1) * WIDTH]);
    }
    probe.compare("gradient", &values, &right);
}

/// A head with targets, and the log of every token's softmax sum.
struct Case {
    hidden: Operand,
    head: Operand,
    targets: Vec<i32>,
    head_values: Vec<f64>,
    lse: Vec<f64>,
}

impl Case {
    fn new(probe: &mut Probe<'_>) -> Self {
        let (tokens, width) = if probe.is_slow() { (256, 128) } else { (512, 256) };
        probe.shape(format!("{tokens} tokens, {width} to {VOCABULARY}"));
        let hidden = Operand::new(1, [tokens, width], 1.0);
        let head = Operand::new(2, [VOCABULARY, width], 0.5);
        let mut targets = ids(3, tokens, VOCABULARY);
        targets[1] = IGNORED;
        // Among the rows of the head that are compared.
        (targets[0], targets[2]) = (0, VOCABULARY as i32 - 1);
        let head_values = head.wide();
        let lse = (0..tokens)
            .into_par_iter()
            .chunks(8)
            .flat_map_iter(|tokens| lse_of(&hidden, &head_values, &tokens))
            .collect();
        Self { hidden, head, targets, head_values, lse }
    }

    fn loss(&self, token: usize) -> f64 {
        match self.targets[token] {
            IGNORED => 0.0,
            id => self.lse[token] - dot(&self.hidden.row(token), self.head_row(id as usize)),
        }
    }

    fn head_row(&self, id: usize) -> &[f64] {
        let width = self.head.columns;
        &self.head_values[id * width..(id + 1) * width]
    }

    /// The gradient of a token's loss with respect to the logit of `id`.
    fn d_logit(&self, token: usize, hidden: &[f64], id: usize) -> f64 {
        if self.targets[token] == IGNORED {
            return 0.0;
        }
        let p = (dot(hidden, self.head_row(id)) - self.lse[token]).exp();
        if self.targets[token] == id as i32 { p - 1.0 } else { p }
    }
}

/// Of several tokens at once, so that the head goes through the cache once for all of them.
fn lse_of(hidden: &Operand, head: &[f64], tokens: &[usize]) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = tokens.iter().map(|&token| hidden.row(token)).collect();
    let mut logits = vec![Vec::with_capacity(VOCABULARY); rows.len()];
    for word in head.chunks_exact(hidden.columns) {
        for (logits, row) in logits.iter_mut().zip(&rows) {
            logits.push(dot(row, word));
        }
    }
    let lse = |logits: &Vec<f64>| {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
    };
    logits.iter().map(lse).collect()
}

pub fn token_losses(probe: &mut Probe<'_>) {
    let case = Case::new(probe);
    let (hidden, head, targets) =
        (case.hidden.on(probe.device), case.head.on(probe.device), probe.indices(&case.targets));
    let losses = probe.timed(|| head_loss::token_losses(&hidden, &head, &targets));
    probe.compare_entries("loss", &losses, |token| case.loss(token));
}

pub fn cross_entropy(probe: &mut Probe<'_>) {
    const SCALE: f32 = 0.25;
    let case = Case::new(probe);
    let (hidden, head, targets) =
        (case.hidden.on(probe.device), case.head.on(probe.device), probe.indices(&case.targets));
    let zero = Vector::zeros([1], probe.device, Activations);
    let acc = Matrix::zeros(head.shape(), probe.device, Activations);
    let grads = probe.timed(|| {
        head_loss::cross_entropy(zero, &hidden, &head, &targets, SCALE, HeadGrad::Into(acc))
    });
    let (tokens, width) = (case.hidden.rows, case.hidden.columns);
    let sum: f64 = (0..tokens).map(|token| case.loss(token)).sum();
    probe.compare("sum of the losses", &grads.loss_sum.to_host(), &[sum]);
    probe.compare_rows("gradient of the hidden states", &grads.d_hidden, |token| {
        let hidden = case.hidden.row(token);
        let mut right = vec![0.0; width];
        for id in 0..VOCABULARY {
            let d = f64::from(SCALE) * case.d_logit(token, &hidden, id);
            right.iter_mut().zip(case.head_row(id)).for_each(|(right, w)| *right += d * w);
        }
        right
    });
    let rows: Vec<Vec<f64>> = (0..tokens).map(|token| case.hidden.row(token)).collect();
    if let Some(d_head) = grads.d_head {
        probe.compare_rows("gradient of the head", &d_head, |id| {
            let mut right = vec![0.0; width];
            for (token, hidden) in rows.iter().enumerate() {
                let d = f64::from(SCALE) * case.d_logit(token, hidden, id);
                right.iter_mut().zip(hidden).for_each(|(right, h)| *right += d * h);
            }
            right
        });
    }
}
