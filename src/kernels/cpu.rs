//! [`TrainOps`] on flex: parallel loops over slices and tiles of matrix products, one function beside
//! each operation. Here they are only wired up, with the way back to the default bodies for tests.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::attention::{self, AttentionShape};
use super::matmul::{self, Layout};
use super::ops::{DEFAULT_BODIES, MaybeIndices, MaybeTensor, TrainOps};
use super::packed::{self, Packing};
use super::rope::{self, Rotation};
use super::scaling::{self, Along};
use super::spikes::{self, SpikeRule};
use super::switch::{self, Switch};
use super::update::{self, AdamW, Axis};
use super::{bias, clip, embedding, flex, lora, loss, magnitude, norm, parts, sparse, swiglu};

impl TrainOps for Flex {
    fn recycle(x: FloatTensor<Self>) -> bool {
        flex::recycle(x)
    }

    fn matmul(
        scale: f32,
        layout: Layout,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return matmul::default_matmul::<Self>(scale, layout, a, b);
        }
        matmul::flex_matmul(scale, layout, &a, &b)
    }

    fn matmul_add(
        c: FloatTensor<Self>,
        scale: f32,
        layout: Layout,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return matmul::default_matmul_add::<Self>(c, scale, layout, a, b);
        }
        matmul::flex_matmul_add(c, scale, layout, &a, &b)
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        w: MaybeTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let w = w.into_option();
        if DEFAULT_BODIES.get() {
            return lora::default_lora_linear::<Self>(x, w, a, b, scale);
        }
        lora::flex_lora_linear(&x, w.as_ref(), &a, &b, scale)
    }

    fn lora_input_grad(
        acc: MaybeTensor<Self>,
        dy: FloatTensor<Self>,
        w: MaybeTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let acc = acc.into_option();
        let w = w.into_option();
        if DEFAULT_BODIES.get() {
            return lora::default_lora_input_grad::<Self>(acc, dy, w, a, b, scale);
        }
        lora::flex_lora_input_grad(acc, &dy, w.as_ref(), &a, &b, scale)
    }

    fn packed_product(
        acc: MaybeTensor<Self>,
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        p: MaybeTensor<Self>,
        q: MaybeTensor<Self>,
        low_scale: f32,
        layout: Layout,
        packing: Packing,
    ) -> FloatTensor<Self> {
        let (acc, low) = (acc.into_option(), p.into_option().zip(q.into_option()));
        if DEFAULT_BODIES.get() {
            let low = low.map(|(p, q)| (p, q, low_scale));
            let default = packed::default_packed_product::<Self>;
            return default(acc, x, words, scales, low, layout, packing);
        }
        let low = low.as_ref().map(|(p, q)| (p, q, low_scale));
        packed::flex_packed_product(acc, &x, &words, &scales, low, layout, packing)
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return norm::default_rms_norm::<Self>(x, gain, eps);
        }
        norm::flex_rms_norm(&x, &gain, eps)
    }

    fn add_residual(x: FloatTensor<Self>, delta: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return super::fallback::add::<Self>(delta, x);
        }
        norm::flex_add_residual(&x, delta)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return norm::default_add_rms_norm::<Self>(x, delta, gain, eps);
        }
        norm::flex_add_rms_norm(&x, delta, &gain, eps)
    }

    fn rms_norm_apply(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return norm::default_rms_norm_apply::<Self>(x, gain, rstd);
        }
        norm::flex_rms_norm_apply(&x, &gain, &rstd)
    }

    fn rms_norm_backward(
        residual_grad: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        gain_grad: MaybeTensor<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let gain_grad = gain_grad.into_option();
        if DEFAULT_BODIES.get() {
            return norm::default_rms_norm_backward::<Self>(
                residual_grad,
                dy,
                x,
                gain,
                rstd,
                gain_grad,
            );
        }
        norm::flex_rms_norm_backward(residual_grad, &dy, &x, &gain, &rstd, gain_grad)
    }

    fn rope(
        x: FloatTensor<Self>,
        positions: IntTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return rope::default_rope::<Self>(x, positions, cos, sin, rotation);
        }
        rope::flex_rope(x, &positions, &cos, &sin, rotation)
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        documents: MaybeIndices<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let documents = documents.into_option();
        if DEFAULT_BODIES.get() {
            return attention::default_attention::<Self>(q, k, v, documents, shape);
        }
        attention::flex_attention(&q, &k, &v, documents.as_ref(), shape)
    }

    fn attention_backward(
        d_out: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        documents: MaybeIndices<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let documents = documents.into_option();
        if DEFAULT_BODIES.get() {
            let default = attention::default_attention_backward::<Self>;
            return default(d_out, q, k, v, out, lse, documents, shape);
        }
        let documents = documents.as_ref();
        attention::flex_attention_backward(&d_out, &q, &k, &v, &out, &lse, documents, shape)
    }

    fn copy_rows(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return attention::default_copy_rows::<Self>(cache, rows, at);
        }
        attention::flex_copy_rows(cache, &rows, at)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return swiglu::default_swiglu::<Self>(gate, up);
        }
        swiglu::flex_swiglu(&gate, &up)
    }

    fn swiglu_backward(
        dh: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return swiglu::default_swiglu_backward::<Self>(dh, gate, up);
        }
        swiglu::flex_swiglu_backward(dh, gate, up)
    }

    fn embedding(ids: IntTensor<Self>, table: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return embedding::default_embedding::<Self>(ids, table);
        }
        embedding::flex_embedding(&ids, &table)
    }

    fn embedding_grad(
        acc: FloatTensor<Self>,
        dx: FloatTensor<Self>,
        ids: IntTensor<Self>,
        order: IntTensor<Self>,
        first: usize,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return parts::default_embedding_grad::<Self>(acc, dx, ids, first);
        }
        embedding::flex_embedding_grad(acc, &dx, &ids, &order, first)
    }

    fn cross_entropy(
        loss_acc: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        grad_scale: f32,
        d_head: MaybeTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let d_head = d_head.into_option();
        if DEFAULT_BODIES.get() {
            return loss::default_cross_entropy::<Self>(
                loss_acc, hidden, head, targets, grad_scale, d_head,
            );
        }
        loss::flex_cross_entropy(loss_acc, &hidden, &head, &targets, grad_scale, d_head)
    }

    fn token_losses(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return loss::default_token_losses::<Self>(hidden, head, targets);
        }
        loss::flex_token_losses(&hidden, &head, &targets)
    }

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
        if DEFAULT_BODIES.get() {
            return switch::default_switch::<Self>(w, a, b, pool_a, pool_b, switch);
        }
        switch::flex_switch(w, a, b, pool_a, pool_b, switch)
    }

    fn restart(
        exp_avg: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        counters: IntTensor<Self>,
        axis: Axis,
        vectors: &[usize],
        since: i32,
        until: i32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, IntTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return switch::default_restart::<Self>(
                exp_avg, exp_avg_sq, counters, axis, vectors, since, until,
            );
        }
        switch::flex_restart(exp_avg, exp_avg_sq, counters, axis, vectors, since, until)
    }

    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        grad_scale: FloatTensor<Self>,
        exp_avg: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        hyper: AdamW,
        step: u32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return update::default_adamw::<Self>(
                param, grad, grad_scale, exp_avg, exp_avg_sq, hyper, step,
            );
        }
        update::flex_adamw(param, &grad, &grad_scale, exp_avg, exp_avg_sq, hyper, step)
    }

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
        if DEFAULT_BODIES.get() {
            return update::default_adamw_vectors::<Self>(
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
            );
        }
        update::flex_adamw_vectors(
            param,
            &grad,
            &grad_scale,
            exp_avg,
            exp_avg_sq,
            &counters,
            hyper,
            t,
            axis,
            decay_frozen,
        )
    }

    fn add_sum_squares(acc: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return clip::default_add_sum_squares::<Self>(acc, x);
        }
        clip::flex_add_sum_squares(acc, &x)
    }

    fn scale(x: FloatTensor<Self>, factors: FloatTensor<Self>, along: Along) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return scaling::default_scale::<Self>(x, factors, along);
        }
        scaling::flex_scale(x, &factors, along)
    }

    fn add_scaled(
        acc: FloatTensor<Self>,
        rate: f32,
        factor: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return scaling::default_add_scaled::<Self>(acc, rate, factor, x);
        }
        scaling::flex_add_scaled(acc, rate, &factor, &x)
    }

    fn norm_ratios(x: FloatTensor<Self>, y: FloatTensor<Self>, along: Along) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return scaling::default_norm_ratios::<Self>(x, y, along);
        }
        scaling::flex_norm_ratios(&x, &y, along)
    }

    fn limit_growth(
        squares: FloatTensor<Self>,
        previous: FloatTensor<Self>,
        gamma: f64,
        unit: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return scaling::default_limit_growth::<Self>(squares, previous, gamma, unit);
        }
        scaling::flex_limit_growth(&squares, &previous, gamma, unit)
    }

    fn clip_spikes(
        grad: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        exp_avg_sq: FloatTensor<Self>,
        rule: SpikeRule,
        tally: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return spikes::default_clip_spikes::<Self>(grad, scale, exp_avg_sq, rule, tally);
        }
        spikes::flex_clip_spikes(grad, &scale, &exp_avg_sq, rule, tally)
    }

    fn scatter_add(
        dense: FloatTensor<Self>,
        places: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return sparse::default_scatter_add::<Self>(dense, places, values);
        }
        sparse::flex_scatter_add(dense, &places, &values)
    }

    fn gather(
        acc: MaybeTensor<Self>,
        dense: FloatTensor<Self>,
        places: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let acc = acc.into_option();
        if DEFAULT_BODIES.get() {
            return sparse::default_gather::<Self>(acc, dense, places);
        }
        sparse::flex_gather(acc, &dense, &places)
    }

    fn magnitude_factor(
        magnitude: FloatTensor<Self>,
        squares: FloatTensor<Self>,
        b: FloatTensor<Self>,
        crossed: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if DEFAULT_BODIES.get() {
            return magnitude::default_magnitude_factor::<Self>(magnitude, squares, b, crossed);
        }
        magnitude::flex_magnitude_factor(&magnitude, &squares, &b, &crossed)
    }

    fn scale_columns(x: FloatTensor<Self>, factors: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return magnitude::default_scale_columns::<Self>(x, factors);
        }
        magnitude::flex_scale_columns(&x, &factors)
    }

    fn magnitude_grad(
        acc: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        z: FloatTensor<Self>,
        length: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return magnitude::default_magnitude_grad::<Self>(acc, dy, z, length);
        }
        magnitude::flex_magnitude_grad(acc, &dy, &z, &length)
    }

    fn add_bias(y: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return bias::default_add_bias::<Self>(y, bias);
        }
        bias::flex_add_bias(y, &bias)
    }

    fn bias_grad(acc: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return bias::default_bias_grad::<Self>(acc, dy);
        }
        bias::flex_bias_grad(acc, &dy)
    }

    fn embedding_rows(
        out: FloatTensor<Self>,
        ids: IntTensor<Self>,
        table: FloatTensor<Self>,
        first: usize,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return parts::default_embedding_rows::<Self>(out, ids, table, first);
        }
        parts::flex_embedding_rows(out, &ids, &table, first)
    }

    fn put_columns(
        wide: FloatTensor<Self>,
        narrow: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return parts::default_put_columns::<Self>(wide, narrow, at);
        }
        parts::flex_put_columns(wide, &narrow, at)
    }

    // Also in place of the default body, which may give a view of the wide matrix.
    fn take_columns(wide: FloatTensor<Self>, at: usize, width: usize) -> FloatTensor<Self> {
        parts::flex_take_columns(&wide, at, width)
    }

    fn logit_losses(
        losses: FloatTensor<Self>,
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        first: usize,
        wants_grad: bool,
        grad_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let scale = wants_grad.then_some(grad_scale);
        if DEFAULT_BODIES.get() {
            return loss::default_logit_losses::<Self>(losses, logits, targets, first, scale);
        }
        loss::flex_logit_losses(losses, logits, &targets, first, scale)
    }

    fn add_losses(acc: FloatTensor<Self>, losses: FloatTensor<Self>) -> FloatTensor<Self> {
        loss::flex_add_losses(acc, &losses)
    }

    fn clip_factor(sum_squares: FloatTensor<Self>, max_norm: f64) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return clip::default_clip_factor::<Self>(sum_squares, max_norm);
        }
        clip::flex_clip_factor(&sum_squares, max_norm)
    }

    fn guard(x: FloatTensor<Self>, yes: f32, no: f32) -> FloatTensor<Self> {
        if DEFAULT_BODIES.get() {
            return clip::default_guard::<Self>(x, yes, no);
        }
        clip::flex_guard(&x, yes, no)
    }

    fn pair(a: FloatTensor<Self>, b: FloatTensor<Self>, serial: f32) -> FloatTensor<Self> {
        let [a, b] = [a, b].map(|x| flex::values(&x)[0]);
        flex::vector(vec![a, b, serial])
    }
}
