//! The head and the cross-entropy, a chunk of tokens at a time.

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{Shader, assert_unique, elements, empty, sizes};
use super::super::loss::{IGNORED, gpu_chunk_tokens};
use super::super::matmul::Layout;
use super::matmul::{Rows, Write, matmul_into};
use super::rows::{over_one, over_rows, vector};

static CROSS_ENTROPY: Shader = Shader::new(
    "cross_entropy",
    concat!(
        include_str!("../../../shaders/exponential.wgsl"),
        include_str!("../../../shaders/row_sum.wgsl"),
        include_str!("../../../shaders/cross_entropy.wgsl")
    ),
);
static SUM_LOSSES: Shader = Shader::new(
    "sum_losses",
    concat!(
        include_str!("../../../shaders/row_sum.wgsl"),
        include_str!("../../../shaders/sum_losses.wgsl")
    ),
);

/// What a pass over the tokens leaves: the losses, and between chunks the logits.
struct Pass<'a> {
    hidden: &'a CubeTensor,
    head: &'a CubeTensor,
    targets: &'a CubeTensor,
    losses: CubeTensor,
    logits: CubeTensor,
    chunk: usize,
}

impl<'a> Pass<'a> {
    fn new(hidden: &'a CubeTensor, head: &'a CubeTensor, targets: &'a CubeTensor) -> Self {
        let ([tokens, _], [vocabulary, _]) = (sizes(hidden), sizes(head));
        let chunk = gpu_chunk_tokens(vocabulary).min(tokens);
        let losses = empty(hidden, [tokens]);
        let logits = empty(hidden, [chunk, vocabulary]);
        Self { hidden, head, targets, losses, logits, chunk }
    }

    /// Computes every chunk's logits and losses, turns the logits into their gradient if a scale is given, and
    /// calls `each` with the chunk's first token, their number, and the logits.
    fn run(&self, grad_scale: Option<f32>, each: impl Fn(usize, usize, Rows<'_>)) {
        let [tokens, _] = sizes(self.hidden);
        for first in (0..tokens).step_by(self.chunk.max(1)) {
            let count = self.chunk.min(tokens - first);
            let hidden = Rows::new(self.hidden, first, count);
            let logits = Rows::new(&self.logits, 0, count);
            matmul_into(logits, Write::Replace, 1.0, Layout::Nt, hidden, self.head);
            losses_of(&self.losses, &self.logits, count, self.targets, first, grad_scale);
            each(first, count, logits);
        }
    }
}

/// The losses from `first` on of `count` rows of logits, which become their gradient if a scale is given.
fn losses_of(
    losses: &CubeTensor,
    logits: &CubeTensor,
    count: usize,
    targets: &CubeTensor,
    first: usize,
    grad_scale: Option<f32>,
) {
    let [_, vocabulary] = sizes(logits);
    let launch = CROSS_ENTROPY
        .launch()
        .constant("VOCABULARY", vocabulary)
        .constant("VEC", vector(vocabulary))
        .constant("GRAD", u32::from(grad_scale.is_some()));
    let launch = launch.tensor(logits).tensor(targets).tensor(losses);
    let launch = launch.uint(count).uint(first).uint(IGNORED.cast_unsigned());
    let launch = launch.float(grad_scale.unwrap_or(0.0)).float(f32::NAN);
    over_rows(launch.work(count * vocabulary * 32), logits, count);
}

/// `(losses, logits)`, both in place: as [`losses_of`], for all rows of the logits.
pub(super) fn logit_losses(
    losses: CubeTensor,
    logits: CubeTensor,
    targets: &CubeTensor,
    first: usize,
    grad_scale: Option<f32>,
) -> (CubeTensor, CubeTensor) {
    assert_unique(&losses, "logit_losses");
    assert_unique(&logits, "logit_losses");
    let [count, _] = sizes(&logits);
    losses_of(&losses, &logits, count, targets, first, grad_scale);
    (losses, logits)
}

/// `acc += Σ losses`, in place.
pub(super) fn add_losses(acc: CubeTensor, losses: &CubeTensor) -> CubeTensor {
    assert_unique(&acc, "add_losses");
    let launch = SUM_LOSSES.launch().tensor(&acc).tensor(losses).uint(elements(losses));
    over_one(launch, losses);
    acc
}

pub(super) fn cross_entropy(
    loss_acc: CubeTensor,
    hidden: &CubeTensor,
    head: &CubeTensor,
    targets: &CubeTensor,
    grad_scale: f32,
    d_head: Option<CubeTensor>,
) -> (CubeTensor, CubeTensor, Option<CubeTensor>) {
    if let Some(d_head) = &d_head {
        assert_unique(d_head, "cross_entropy");
    }
    let d_hidden = empty::<2>(hidden, sizes(hidden));
    let pass = Pass::new(hidden, head, targets);
    pass.run(Some(grad_scale), |first, count, d_logits| {
        let target = Rows::new(&d_hidden, first, count);
        matmul_into(target, Write::Replace, 1.0, Layout::Nn, d_logits, head);
        if let Some(d_head) = &d_head {
            let hidden = Rows::new(hidden, first, count);
            matmul_into(d_head, Write::Add, 1.0, Layout::Tn, d_logits, hidden);
        }
    });
    (add_losses(loss_acc, &pass.losses), d_hidden, d_head)
}

pub(super) fn token_losses(
    hidden: &CubeTensor,
    head: &CubeTensor,
    targets: &CubeTensor,
) -> CubeTensor {
    let pass = Pass::new(hidden, head, targets);
    pass.run(None, |_, _, _| ());
    pass.losses
}
