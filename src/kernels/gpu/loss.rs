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
        let ([tokens, _], [vocabulary, _]) = (sizes(self.hidden), sizes(self.head));
        for first in (0..tokens).step_by(self.chunk.max(1)) {
            let count = self.chunk.min(tokens - first);
            let hidden = Rows::new(self.hidden, first, count);
            let logits = Rows::new(&self.logits, 0, count);
            matmul_into(logits, Write::Replace, 1.0, Layout::Nt, hidden, self.head);
            let launch = CROSS_ENTROPY
                .launch()
                .constant("VOCABULARY", vocabulary)
                .constant("VEC", vector(vocabulary))
                .constant("GRAD", u32::from(grad_scale.is_some()));
            let launch = launch.tensor(&self.logits).tensor(self.targets).tensor(&self.losses);
            let launch = launch.uint(count).uint(first).uint(IGNORED.cast_unsigned());
            let launch = launch.float(grad_scale.unwrap_or(0.0)).float(f32::NAN);
            over_rows(launch.work(count * vocabulary * 32), self.hidden, count);
            each(first, count, logits);
        }
    }
}

pub(super) fn cross_entropy(
    loss_acc: CubeTensor,
    hidden: &CubeTensor,
    head: &CubeTensor,
    targets: &CubeTensor,
    grad_scale: f32,
    d_head: Option<CubeTensor>,
) -> (CubeTensor, CubeTensor, Option<CubeTensor>) {
    assert_unique(&loss_acc, "cross_entropy");
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
    let tokens = elements(&pass.losses);
    let launch = SUM_LOSSES.launch().tensor(&loss_acc).tensor(&pass.losses).uint(tokens);
    over_one(launch, hidden);
    (loss_acc, d_hidden, d_head)
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
