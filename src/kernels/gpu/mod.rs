//! [`TrainOps`] on wgpu: every operation as WGSL programs of `shaders/`.
//!
//! One file per family of operations: it checks what the public function cannot see, chooses the tiling of the
//! device, and launches. The programs and `reference` say what is computed.

use burn::backend::wgpu::{CubeBackend, CubeTensor};

use crate::device::gpu::Tiling;

use super::attention::AttentionShape;
use super::launch;
use super::matmul::Layout;
use super::ops::{MaybeIndices, MaybeTensor, TrainOps};
use super::packed::Packing;
use super::rope::Rotation;
use super::scaling::Along;
use super::spikes::SpikeRule;
use super::switch::Switch;
use super::update::{AdamW, Axis};

mod attention;
mod bias;
pub(super) mod canary;
pub(super) mod ceiling;
mod clip;
mod embedding;
pub(super) mod fill;
mod grid;
mod lora;
mod loss;
mod magnitude;
mod matmul;
mod norm;
mod parts;
mod rope;
mod rows;
mod scaling;
mod sparse;
mod spikes;
mod sums;
mod swiglu;
mod switch;
mod update;

/// Invocations of a workgroup and number of workgroups for an element-wise program over `n` invocations.
fn elementwise_groups(like: &CubeTensor, n: usize) -> (usize, usize) {
    // A software adapter runs one invocation per lane of its vectors.
    let workgroup = match launch::gpu(like).tiling {
        Tiling::Workgroup => 256,
        Tiling::Direct => 64,
    };
    (workgroup, n.div_ceil(workgroup))
}

impl TrainOps for CubeBackend {
    fn zero(x: CubeTensor) -> CubeTensor {
        fill::fill(&x, 0.0);
        x
    }

    fn fill(x: CubeTensor, value: f32) -> CubeTensor {
        fill::fill(&x, value);
        x
    }

    fn matmul(scale: f32, layout: Layout, a: CubeTensor, b: CubeTensor) -> CubeTensor {
        matmul::matmul(scale, layout, &a, &b)
    }

    fn matmul_add(
        c: CubeTensor,
        scale: f32,
        layout: Layout,
        a: CubeTensor,
        b: CubeTensor,
    ) -> CubeTensor {
        launch::assert_unique(&c, "matmul_add");
        matmul::matmul_into(&c, matmul::Write::Add, scale, layout, &a, &b);
        c
    }

    fn lora_linear(
        x: CubeTensor,
        w: MaybeTensor<CubeBackend>,
        a: CubeTensor,
        b: CubeTensor,
        scale: f32,
    ) -> (CubeTensor, CubeTensor) {
        let w = w.into_option();
        lora::lora_linear(&x, w.as_ref(), &a, &b, scale)
    }

    fn lora_input_grad(
        acc: MaybeTensor<CubeBackend>,
        dy: CubeTensor,
        w: MaybeTensor<CubeBackend>,
        a: CubeTensor,
        b: CubeTensor,
        scale: f32,
    ) -> (CubeTensor, CubeTensor) {
        let acc = acc.into_option();
        let w = w.into_option();
        lora::lora_input_grad(acc, &dy, w.as_ref(), &a, &b, scale)
    }

    fn packed_product(
        acc: MaybeTensor<CubeBackend>,
        x: CubeTensor,
        words: CubeTensor,
        scales: CubeTensor,
        p: MaybeTensor<CubeBackend>,
        q: MaybeTensor<CubeBackend>,
        low_scale: f32,
        layout: Layout,
        packing: Packing,
    ) -> CubeTensor {
        let low = p.into_option().zip(q.into_option());
        let low = low.as_ref().map(|(p, q)| matmul::Low { p, q, scale: low_scale });
        let w = matmul::PackedRows { words: &words, scales: &scales, packing };
        matmul::packed_product(acc.into_option(), layout, &x, w, low)
    }

    fn rms_norm(x: CubeTensor, gain: CubeTensor, eps: f32) -> (CubeTensor, CubeTensor) {
        norm::rms_norm(&x, &gain, eps)
    }

    fn add_residual(x: CubeTensor, delta: CubeTensor) -> CubeTensor {
        norm::add_residual(&x, delta)
    }

    fn add_rms_norm(
        x: CubeTensor,
        delta: CubeTensor,
        gain: CubeTensor,
        eps: f32,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        norm::add_rms_norm(&x, delta, &gain, eps)
    }

    fn rms_norm_apply(x: CubeTensor, gain: CubeTensor, rstd: CubeTensor) -> CubeTensor {
        norm::rms_norm_apply(&x, &gain, &rstd)
    }

    fn rms_norm_backward(
        residual_grad: CubeTensor,
        dy: CubeTensor,
        x: CubeTensor,
        gain: CubeTensor,
        rstd: CubeTensor,
        gain_grad: MaybeTensor<CubeBackend>,
    ) -> (CubeTensor, Option<CubeTensor>) {
        let gain_grad = gain_grad.into_option();
        norm::rms_norm_backward(residual_grad, &dy, &x, &gain, &rstd, gain_grad)
    }

    fn rope(
        x: CubeTensor,
        positions: CubeTensor,
        cos: CubeTensor,
        sin: CubeTensor,
        rotation: Rotation,
    ) -> CubeTensor {
        rope::rope(x, &positions, &cos, &sin, rotation)
    }

    fn attention(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        documents: MaybeIndices<CubeBackend>,
        shape: AttentionShape,
    ) -> (CubeTensor, CubeTensor) {
        attention::attention(&q, &k, &v, documents.into_option().as_ref(), shape)
    }

    fn attention_backward(
        d_out: CubeTensor,
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        out: CubeTensor,
        lse: CubeTensor,
        documents: MaybeIndices<CubeBackend>,
        shape: AttentionShape,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let documents = documents.into_option();
        attention::attention_backward(&d_out, &q, &k, &v, &out, &lse, documents.as_ref(), shape)
    }

    fn copy_rows(cache: CubeTensor, rows: CubeTensor, at: usize) -> CubeTensor {
        attention::copy_rows(cache, &rows, at)
    }

    fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
        swiglu::swiglu(&gate, &up)
    }

    fn swiglu_backward(
        dh: CubeTensor,
        gate: CubeTensor,
        up: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        swiglu::swiglu_backward(dh, gate, up)
    }

    fn embedding(ids: CubeTensor, table: CubeTensor) -> CubeTensor {
        embedding::embedding(&ids, &table)
    }

    fn embedding_grad(
        acc: CubeTensor,
        dx: CubeTensor,
        ids: CubeTensor,
        order: CubeTensor,
        first: usize,
    ) -> CubeTensor {
        embedding::embedding_grad(acc, &dx, &ids, &order, first)
    }

    fn embedding_rows(
        out: CubeTensor,
        ids: CubeTensor,
        table: CubeTensor,
        first: usize,
    ) -> CubeTensor {
        embedding::embedding_rows(out, &ids, &table, first)
    }

    fn put_columns(wide: CubeTensor, narrow: CubeTensor, at: usize) -> CubeTensor {
        parts::put_columns(wide, &narrow, at)
    }

    fn take_columns(wide: CubeTensor, at: usize, width: usize) -> CubeTensor {
        parts::take_columns(&wide, at, width)
    }

    fn logit_losses(
        losses: CubeTensor,
        logits: CubeTensor,
        targets: CubeTensor,
        first: usize,
        wants_grad: bool,
        grad_scale: f32,
    ) -> (CubeTensor, CubeTensor) {
        loss::logit_losses(losses, logits, &targets, first, wants_grad.then_some(grad_scale))
    }

    fn add_losses(acc: CubeTensor, losses: CubeTensor) -> CubeTensor {
        loss::add_losses(acc, &losses)
    }

    fn cross_entropy(
        loss_acc: CubeTensor,
        hidden: CubeTensor,
        head: CubeTensor,
        targets: CubeTensor,
        grad_scale: f32,
        d_head: MaybeTensor<CubeBackend>,
    ) -> (CubeTensor, CubeTensor, Option<CubeTensor>) {
        let d_head = d_head.into_option();
        loss::cross_entropy(loss_acc, &hidden, &head, &targets, grad_scale, d_head)
    }

    fn token_losses(hidden: CubeTensor, head: CubeTensor, targets: CubeTensor) -> CubeTensor {
        loss::token_losses(&hidden, &head, &targets)
    }

    fn switch(
        w: CubeTensor,
        a: CubeTensor,
        b: CubeTensor,
        pool_a: CubeTensor,
        pool_b: CubeTensor,
        switch: &Switch<'_>,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        switch::switch(w, a, b, pool_a, pool_b, switch)
    }

    fn restart(
        exp_avg: CubeTensor,
        exp_avg_sq: CubeTensor,
        counters: CubeTensor,
        axis: Axis,
        vectors: &[usize],
        since: i32,
        until: i32,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        switch::restart(exp_avg, exp_avg_sq, counters, axis, vectors, since, until)
    }

    fn adamw(
        param: CubeTensor,
        grad: CubeTensor,
        grad_scale: CubeTensor,
        exp_avg: CubeTensor,
        exp_avg_sq: CubeTensor,
        hyper: AdamW,
        step: u32,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        update::adamw((param, exp_avg, exp_avg_sq), &grad, &grad_scale, hyper, step)
    }

    fn adamw_vectors(
        param: CubeTensor,
        grad: CubeTensor,
        grad_scale: CubeTensor,
        exp_avg: CubeTensor,
        exp_avg_sq: CubeTensor,
        counters: CubeTensor,
        hyper: AdamW,
        t: u32,
        axis: Axis,
        decay_frozen: bool,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let state = (param, exp_avg, exp_avg_sq);
        update::adamw_vectors(state, &grad, &grad_scale, &counters, hyper, t, axis, decay_frozen)
    }

    fn add_sum_squares(acc: CubeTensor, x: CubeTensor) -> CubeTensor {
        clip::add_sum_squares(acc, &x)
    }

    fn scale(x: CubeTensor, factors: CubeTensor, along: Along) -> CubeTensor {
        scaling::scale(x, &factors, along)
    }

    fn add_scaled(acc: CubeTensor, rate: f32, factor: CubeTensor, x: CubeTensor) -> CubeTensor {
        scaling::add_scaled(acc, rate, &factor, &x)
    }

    fn norm_ratios(x: CubeTensor, y: CubeTensor, along: Along) -> CubeTensor {
        scaling::norm_ratios(&x, &y, along)
    }

    fn limit_growth(
        squares: CubeTensor,
        previous: CubeTensor,
        gamma: f64,
        unit: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        scaling::limit_growth(&squares, &previous, gamma, unit)
    }

    fn clip_spikes(
        grad: CubeTensor,
        scale: CubeTensor,
        exp_avg_sq: CubeTensor,
        rule: SpikeRule,
        tally: CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        spikes::clip_spikes(grad, &scale, &exp_avg_sq, rule, tally)
    }

    fn scatter_add(dense: CubeTensor, places: CubeTensor, values: CubeTensor) -> CubeTensor {
        sparse::scatter_add(dense, &places, &values)
    }

    fn gather(acc: MaybeTensor<CubeBackend>, dense: CubeTensor, places: CubeTensor) -> CubeTensor {
        sparse::gather(acc.into_option(), &dense, &places)
    }

    fn magnitude_factor(
        magnitude: CubeTensor,
        squares: CubeTensor,
        b: CubeTensor,
        crossed: CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        magnitude::magnitude_factor(&magnitude, &squares, &b, &crossed)
    }

    fn scale_columns(x: CubeTensor, factors: CubeTensor) -> CubeTensor {
        magnitude::scale_columns(&x, &factors)
    }

    fn magnitude_grad(
        acc: CubeTensor,
        dy: CubeTensor,
        z: CubeTensor,
        length: CubeTensor,
    ) -> CubeTensor {
        magnitude::magnitude_grad(acc, &dy, &z, &length)
    }

    fn add_bias(y: CubeTensor, bias: CubeTensor) -> CubeTensor {
        bias::add_bias(y, &bias)
    }

    fn bias_grad(acc: CubeTensor, dy: CubeTensor) -> CubeTensor {
        bias::bias_grad(acc, &dy)
    }

    fn clip_factor(sum_squares: CubeTensor, max_norm: f64) -> CubeTensor {
        clip::clip_factor(&sum_squares, max_norm)
    }

    fn guard(x: CubeTensor, yes: f32, no: f32) -> CubeTensor {
        clip::guard(&x, yes, no)
    }

    fn pair(a: CubeTensor, b: CubeTensor, serial: f32) -> CubeTensor {
        clip::pair(&a, &b, serial)
    }

    fn copy(x: CubeTensor) -> CubeTensor {
        clip::copy(&x)
    }
}
