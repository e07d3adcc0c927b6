//! [`TrainOps`]: every operation of training as one coarse call on a backend.
//!
//! The default bodies are burn operations: readable, slow, right on any backend. `cpu` overrides them
//! for flex and `gpu` for wgpu. Parameters `in place` are given back; a default body may return a new
//! tensor instead. The public functions of this room check shapes before they come here.

use std::cell::Cell;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, backend_extension};

use super::attention::{self, AttentionShape};
use super::matmul::{self, Layout};
use super::packed::{self, Packing};
use super::rope::{self, Rotation};
use super::scaling::{self, Along};
use super::spikes::{self, SpikeRule};
use super::switch::{self, Switch};
use super::update::{self, AdamW, Axis};
use super::{bias, clip, embedding, lora, loss, magnitude, norm, parts, sparse, swiglu};

thread_local! {
    pub(super) static DEFAULT_BODIES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with the default bodies instead of the CPU kernels on this thread. For tests: it lets each
/// of them judge both forms of an operation.
#[doc(hidden)]
pub fn with_default_bodies<R>(f: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            DEFAULT_BODIES.set(self.0);
        }
    }
    let _reset = Reset(DEFAULT_BODIES.replace(true));
    f()
}

/// An operand that may be missing (the macro takes no `Option` among inputs).
#[derive(ExtensionType)]
pub enum MaybeTensor<B: Backend> {
    /// It is there.
    Given(FloatTensor<B>),
    /// It is missing.
    Absent,
}

impl<B: Backend> MaybeTensor<B> {
    /// From the option that callers have.
    pub fn new(option: Option<FloatTensor<B>>) -> Self {
        option.map_or(Self::Absent, Self::Given)
    }

    /// Back to an option.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Given(tensor) => Some(tensor),
            Self::Absent => None,
        }
    }
}

/// Indices that may be missing.
#[derive(ExtensionType)]
pub enum MaybeIndices<B: Backend> {
    /// They are there.
    Given(IntTensor<B>),
    /// They are missing.
    Absent,
}

impl<B: Backend> MaybeIndices<B> {
    /// From the option that callers have.
    pub fn new(option: Option<IntTensor<B>>) -> Self {
        option.map_or(Self::Absent, Self::Given)
    }

    /// Back to an option.
    pub fn into_option(self) -> Option<IntTensor<B>> {
        match self {
            Self::Given(tensor) => Some(tensor),
            Self::Absent => None,
        }
    }
}

/// The operations of training, by backend.
#[backend_extension(Flex, Cube)]
pub trait TrainOps: Backend {
    /// Takes a tensor that is no longer needed; says whether its storage is kept for the next one.
    fn recycle(x: FloatTensor<Self>) -> bool {
        drop(x);
        false
    }

    /// Sets every element of `x`, in place.
    fn fill(x: FloatTensor<Self>, value: f32) -> FloatTensor<Self> {
        super::fallback::shifted::<Self>(super::fallback::zeroed::<Self>(&x), value)
    }

    /// Zeroes `x` in place.
    fn zero(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::fallback::zeroed::<Self>(&x)
    }

    /// `scale · A · B`.
    fn matmul(
        scale: f32,
        layout: Layout,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        matmul::default_matmul::<Self>(scale, layout, a, b)
    }

    /// `C += scale · A · B`; `c` in place.
    fn matmul_add(
        c: FloatTensor<Self>,
        scale: f32,
        layout: Layout,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        matmul::default_matmul_add::<Self>(c, scale, layout, a, b)
    }

    /// `(y, h)` of [`lora::lora_linear`].
    fn lora_linear(
        x: FloatTensor<Self>,
        #[extension_type] w: MaybeTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let w = w.into_option();
        lora::default_lora_linear::<Self>(x, w, a, b, scale)
    }

    /// `(dx, g)` of [`lora::lora_input_grad`]; `acc` in place.
    fn lora_input_grad(
        #[extension_type] acc: MaybeTensor<Self>,
        dy: FloatTensor<Self>,
        #[extension_type] w: MaybeTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let acc = acc.into_option();
        let w = w.into_option();
        lora::default_lora_input_grad::<Self>(acc, dy, w, a, b, scale)
    }

    /// `x·Wᵀ` or `x·W`, and `low_scale·P·Q` where both are given, added to `acc` in place if given; `words` and `scales`
    /// hold W.
    fn packed_product(
        #[extension_type] acc: MaybeTensor<Self>,
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        #[extension_type] p: MaybeTensor<Self>,
        #[extension_type] q: MaybeTensor<Self>,
        low_scale: f32,
        layout: Layout,
        packing: Packing,
    ) -> FloatTensor<Self> {
        let low = p.into_option().zip(q.into_option()).map(|(p, q)| (p, q, low_scale));
        let acc = acc.into_option();
        packed::default_packed_product::<Self>(acc, x, words, scales, low, layout, packing)
    }

    /// `(y, rstd)`.
    fn rms_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::default_rms_norm::<Self>(x, gain, eps)
    }

    /// `x + delta`; `delta` in place.
    fn add_residual(x: FloatTensor<Self>, delta: FloatTensor<Self>) -> FloatTensor<Self> {
        super::fallback::add::<Self>(delta, x)
    }

    /// `(sum, y, rstd)`; `delta` in place becomes the sum.
    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        norm::default_add_rms_norm::<Self>(x, delta, gain, eps)
    }

    /// `x · rstd · gain`.
    fn rms_norm_apply(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        norm::default_rms_norm_apply::<Self>(x, gain, rstd)
    }

    /// `(residual_grad, gain_grad)`, both in place.
    fn rms_norm_backward(
        residual_grad: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        #[extension_type] gain_grad: MaybeTensor<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let gain_grad = gain_grad.into_option();
        norm::default_rms_norm_backward::<Self>(residual_grad, dy, x, gain, rstd, gain_grad)
    }

    /// Rotates `x` in place.
    fn rope(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        rope::default_rope::<Self>(x, positions, cos, sin, rotation)
    }

    /// `(o, lse)`.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        #[extension_type] documents: MaybeIndices<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        attention::default_attention::<Self>(q, k, v, documents.into_option(), shape)
    }

    /// `(dq, dk, dv)`.
    fn attention_backward(
        d_out: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        #[extension_type] documents: MaybeIndices<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let documents = documents.into_option();
        attention::default_attention_backward::<Self>(d_out, q, k, v, out, lse, documents, shape)
    }

    /// Copies `rows` into `cache` in place.
    fn copy_rows(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self> {
        attention::default_copy_rows::<Self>(cache, rows, at)
    }

    /// `gate·σ(gate)·up`.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        swiglu::default_swiglu::<Self>(gate, up)
    }

    /// `(d_gate, d_up, h)` in the places of `gate`, `up` and `dh`.
    fn swiglu_backward(
        dh: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        swiglu::default_swiglu_backward::<Self>(dh, gate, up)
    }

    /// Rows of `table`.
    fn embedding(ids: IntTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        embedding::default_embedding::<Self>(ids, table)
    }

    /// Adds rows of `dx` to `acc` in place, whose rows are those of the ids from `first` on; `order` sorts positions by id.
    fn embedding_grad(
        acc: FloatTensor<Self>,
        dx: FloatTensor<Self>,
        ids: IntTensor<Self>,
        order: IntTensor<Self>,
        first: usize,
    ) -> FloatTensor<Self> {
        let _ = order;
        parts::default_embedding_grad::<Self>(acc, dx, ids, first)
    }

    /// Adds rows of a part of a table to `out` in place: of the ids from `first` on that it has.
    fn embedding_rows(
        out: FloatTensor<Self>,
        ids: IntTensor<Self>,
        table: FloatTensor<Self>,
        first: usize,
    ) -> FloatTensor<Self> {
        parts::default_embedding_rows::<Self>(out, ids, table, first)
    }

    /// Writes `narrow` to the columns of `wide` from `at` on, in place.
    fn put_columns(
        wide: FloatTensor<Self>,
        narrow: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self> {
        parts::default_put_columns::<Self>(wide, narrow, at)
    }

    /// The `width` columns from `at` on.
    fn take_columns(wide: FloatTensor<Self>, at: usize, width: usize) -> FloatTensor<Self> {
        parts::default_take_columns::<Self>(wide, at, width)
    }

    /// `(losses, logits)`, both in place: the losses from `first` on of these rows of logits, which become `grad_scale`
    /// times their gradient if that is wanted.
    fn logit_losses(
        losses: FloatTensor<Self>,
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        first: usize,
        wants_grad: bool,
        grad_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let scale = wants_grad.then_some(grad_scale);
        loss::default_logit_losses::<Self>(losses, logits, targets, first, scale)
    }

    /// `acc += Σ losses` in place.
    fn add_losses(acc: FloatTensor<Self>, losses: FloatTensor<Self>) -> FloatTensor<Self> {
        super::fallback::add::<Self>(acc, Self::float_sum_dim(losses, 0))
    }

    /// `(loss_acc, d_hidden, d_head)`; `loss_acc` and `d_head` in place.
    fn cross_entropy(
        loss_acc: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad_scale: f32,
        #[extension_type] d_head: MaybeTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let d_head = d_head.into_option();
        loss::default_cross_entropy::<Self>(loss_acc, hidden, head, targets, grad_scale, d_head)
    }

    /// Loss of each token.
    fn token_losses(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        loss::default_token_losses::<Self>(hidden, head, targets)
    }

    /// `(w, a, b, pool_a, pool_b, norm)`; all but the norm in place.
    fn switch(
        w: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        pool_a: FloatTensor<Self>,
        pool_b: FloatTensor<Self>,
        switch: &Switch<'_>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        switch::default_switch::<Self>(w, a, b, pool_a, pool_b, switch)
    }

    /// `(exp_avg, exp_avg_sq, counters)`, all in place.
    fn restart(
        exp_avg: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        counters: IntTensor<Self>,
        axis: Axis,
        vectors: &[usize],
        since: i32,
        until: i32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, IntTensor<Self>) {
        switch::default_restart::<Self>(exp_avg, exp_avg_sq, counters, axis, vectors, since, until)
    }

    /// `(param, exp_avg, exp_avg_sq)`, all in place.
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        grad_scale: FloatTensor<Self>,
        exp_avg: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        hyper: AdamW,
        step: u32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        update::default_adamw::<Self>(param, grad, grad_scale, exp_avg, exp_avg_sq, hyper, step)
    }

    /// `(param, exp_avg, exp_avg_sq)`, all in place, with a step per vector.
    fn adamw_vectors(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        grad_scale: FloatTensor<Self>,
        exp_avg: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        counters: IntTensor<Self>,
        hyper: AdamW,
        t: u32,
        axis: Axis,
        decay_frozen: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        update::default_adamw_vectors::<Self>(
            param,
            grad,
            grad_scale,
            exp_avg,
            exp_avg_sq,
            counters,
            hyper,
            t,
            axis,
            decay_frozen,
        )
    }

    /// `acc += Σ x²` in place.
    fn add_sum_squares(acc: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        clip::default_add_sum_squares::<Self>(acc, x)
    }

    /// `x` times factors, in place.
    fn scale(x: FloatTensor<Self>, factors: FloatTensor<Self>, along: Along) -> FloatTensor<Self> {
        scaling::default_scale::<Self>(x, factors, along)
    }

    /// `acc += rate·factor·x`, in place.
    fn add_scaled(
        acc: FloatTensor<Self>,
        rate: f32,
        factor: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        scaling::default_add_scaled::<Self>(acc, rate, factor, x)
    }

    /// Norms of the vectors of `x` over those of `y`.
    fn norm_ratios(x: FloatTensor<Self>, y: FloatTensor<Self>, along: Along) -> FloatTensor<Self> {
        scaling::default_norm_ratios::<Self>(x, y, along)
    }

    /// `(factor, norm, ratio)` of [`scaling::limit_growth`].
    fn limit_growth(
        squares: FloatTensor<Self>,
        previous: FloatTensor<Self>,
        gamma: f64,
        unit: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        scaling::default_limit_growth::<Self>(squares, previous, gamma, unit)
    }

    /// `(grad, tally)` of [`spikes::clip_spikes`], both in place.
    fn clip_spikes(
        grad: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        rule: SpikeRule,
        tally: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        spikes::default_clip_spikes::<Self>(grad, scale, exp_avg_sq, rule, tally)
    }

    /// `dense[places[k]] += values[k]`, in place.
    fn scatter_add(
        dense: FloatTensor<Self>,
        places: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::default_scatter_add::<Self>(dense, places, values)
    }

    /// `dense[places[k]]`, added to `acc` in place if given.
    fn gather(
        #[extension_type] acc: MaybeTensor<Self>,
        dense: FloatTensor<Self>,
        places: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::default_gather::<Self>(acc.into_option(), dense, places)
    }

    /// `(length, factor)` of [`magnitude::magnitude_factor`], from the products.
    fn magnitude_factor(
        magnitude: FloatTensor<Self>,
        squares: FloatTensor<Self>,
        b: FloatTensor<Self>,
        crossed: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        magnitude::default_magnitude_factor::<Self>(magnitude, squares, b, crossed)
    }

    /// `x` times factors by column.
    fn scale_columns(x: FloatTensor<Self>, factors: FloatTensor<Self>) -> FloatTensor<Self> {
        magnitude::default_scale_columns::<Self>(x, factors)
    }

    /// `acc += Σ dy·z / length` by column, in place.
    fn magnitude_grad(
        acc: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        z: FloatTensor<Self>,
        length: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        magnitude::default_magnitude_grad::<Self>(acc, dy, z, length)
    }

    /// `y += bias` on every row; `y` in place.
    fn add_bias(y: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        bias::default_add_bias::<Self>(y, bias)
    }

    /// `acc += Σ dy` by column, in place.
    fn bias_grad(acc: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        bias::default_bias_grad::<Self>(acc, dy)
    }

    /// The factor that brings a gradient to `max_norm`.
    fn clip_factor(sum_squares: FloatTensor<Self>, max_norm: f64) -> FloatTensor<Self> {
        clip::default_clip_factor::<Self>(sum_squares, max_norm)
    }

    /// `yes` where the number is finite and not negative, else `no`.
    fn guard(x: FloatTensor<Self>, yes: f32, no: f32) -> FloatTensor<Self> {
        clip::default_guard::<Self>(x, yes, no)
    }

    /// `[a, b, serial]` of two `[1]`; the last is another number if the device did not do all that was queued.
    fn pair(a: FloatTensor<Self>, b: FloatTensor<Self>, serial: f32) -> FloatTensor<Self> {
        let serial = super::fallback::constant::<Self, 1>(vec![serial], [1], &a);
        Self::float_cat(vec![a, b, serial], 0)
    }

    /// A copy in storage of its own.
    fn copy(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::fallback::scaled::<Self>(x, 1.0)
    }
}
