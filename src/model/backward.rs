//! The backward pass, written out block by block; each finished gradient goes to a [`GradientSink`].

use crate::device::memory::Category;
use crate::kernels::attention::attention_backward_within;
use crate::kernels::embedding::embedding_part_grad;
use crate::kernels::norm::{rms_norm, rms_norm_apply, rms_norm_backward};
use crate::kernels::parts::cross_entropy_of;
use crate::kernels::rope::{Rotation, rope};
use crate::kernels::swiglu::swiglu_backward;
use crate::kernels::{Matrix, Vector};

use super::llama::{Batch, BlockTrace, DOWN, GATE, HeadNormTrace, K, Model, O, Q, UP, V};
use super::params::{Gradients, ParamId, Params};

/// What becomes of a finished gradient: `Some` keeps it for the update, `None` says that it was used up.
pub type GradientHook<'a> = dyn FnMut(&mut Params, ParamId, Matrix) -> Option<Matrix> + 'a;

/// Collects gradients over micro-batches and hands each to the hook when it is complete.
pub struct GradientSink<'a> {
    gradients: &'a mut Gradients,
    /// Whether this is the update's last micro-batch: its gradients are complete.
    is_last: bool,
    hook: &'a mut GradientHook<'a>,
}

impl<'a> GradientSink<'a> {
    /// A sink for one micro-batch.
    pub fn new(
        gradients: &'a mut Gradients,
        is_last: bool,
        hook: &'a mut GradientHook<'a>,
    ) -> Self {
        Self { gradients, is_last, hook }
    }

    /// The sum so far, to add to in place.
    pub(super) fn accumulated(&mut self, id: ParamId) -> Option<Matrix> {
        self.gradients.take(id)
    }

    /// Takes a gradient in, with the earlier micro-batches already in it.
    pub(super) fn deliver(&mut self, params: &mut Params, id: ParamId, grad: Matrix) {
        self.store(id, grad);
        self.finish(params, id);
    }

    /// The same, or zeros of the parameter's shape.
    pub(super) fn zeroed_or_accumulated(&mut self, params: &Params, id: ParamId) -> Matrix {
        self.accumulated(id).unwrap_or_else(|| params.value(id).zeros_like(Category::Gradients))
    }

    fn store(&mut self, id: ParamId, grad: Matrix) {
        self.gradients.put(id, grad.labelled(Category::Gradients));
    }

    fn finish(&mut self, params: &mut Params, id: ParamId) {
        if !self.is_last {
            return;
        }
        if let Some(grad) = self.gradients.take(id)
            && let Some(kept) = (self.hook)(params, id, grad)
        {
            self.gradients.put(id, kept);
        }
    }
}

impl Model {
    /// One micro-batch forward and backward. Gradients of `grad_scale · Σ token losses` go to the sink;
    /// the sum of the token losses is added to `loss_acc [1]`, which is given back.
    /// With `recompute` only block inputs are kept and each block runs forward again before its backward.
    /// A slice of a batch runs with the parameters of its replica.
    pub fn forward_backward(
        &mut self,
        batch: &Batch,
        loss_acc: Vector,
        grad_scale: f32,
        recompute: bool,
        sink: &mut GradientSink<'_>,
    ) -> Vector {
        if let Some(index) = batch.replica {
            return self.as_replica(index, |model| {
                model.run_both(batch, loss_acc, grad_scale, recompute, sink)
            });
        }
        self.run_both(batch, loss_acc, grad_scale, recompute, sink)
    }

    fn run_both(
        &mut self,
        batch: &Batch,
        loss_acc: Vector,
        grad_scale: f32,
        recompute: bool,
        sink: &mut GradientSink<'_>,
    ) -> Vector {
        let mut x = self.embedded(&batch.inputs);
        let mut traces = Vec::new();
        let mut inputs = Vec::new();
        for index in 0..self.blocks.len() {
            if recompute {
                inputs.push(x.clone());
                x = self.block_forward(index, x, batch).0;
            } else {
                let (output, trace) = self.block_forward(index, x, batch);
                traces.push(trace);
                x = output;
            }
        }

        let (loss, mut dx) = self.head_backward(batch, &x, loss_acc, grad_scale, sink);
        for index in (0..self.blocks.len()).rev() {
            let trace = match inputs.pop() {
                Some(input) => self.block_forward(index, input, batch).1,
                None => match traces.pop() {
                    Some(trace) => trace,
                    None => unreachable!("every block left a trace or its input"),
                },
            };
            dx = self.block_backward(index, dx, trace, batch, sink);
        }

        let mut first = 0;
        for part in self.embed.clone() {
            if self.params.is_trainable(part) {
                let acc = sink.zeroed_or_accumulated(&self.params, part);
                let grad = embedding_part_grad(acc, first, &dx, &batch.inputs, &batch.order);
                sink.deliver(&mut self.params, part, grad);
            }
            first += self.params.get(part).shape[0];
        }
        loss
    }

    /// Final norm, head and loss: the loss and the gradient of the last block's output.
    fn head_backward(
        &mut self,
        batch: &Batch,
        x: &Matrix,
        loss_acc: Vector,
        grad_scale: f32,
        sink: &mut GradientSink<'_>,
    ) -> (Vector, Matrix) {
        let (normed, rstd) = rms_norm(x, self.params.value(self.final_norm), self.eps());
        let head = self.head_ids().to_vec();
        let is_trained = head.iter().all(|&part| self.params.is_trainable(part));
        let mut zeroed = |&part| sink.zeroed_or_accumulated(&self.params, part);
        let head_grad = is_trained.then(|| head.iter().map(&mut zeroed).collect());
        let result = cross_entropy_of(
            loss_acc,
            &normed,
            &self.values(&head),
            &batch.targets,
            grad_scale,
            head_grad,
            &self.device,
        );
        drop(normed);
        for (part, grad) in head.into_iter().zip(result.d_head.into_iter().flatten()) {
            if self.head.is_some() {
                sink.deliver(&mut self.params, part, grad);
            } else {
                // Tied: the embedding adds its own share before the gradient is complete.
                sink.store(part, grad);
            }
        }
        // The stream ends here, so no gradient bypasses the norm.
        let bypass = Matrix::zeros(result.d_hidden.shape(), &self.device, Category::Activations);
        let dx = self.norm_backward(self.final_norm, bypass, &result.d_hidden, x, &rstd, sink);
        (result.loss_sum, dx)
    }

    /// The gradient of a block's input from that of its output, `[T, C]`.
    fn block_backward(
        &mut self,
        index: usize,
        dy: Matrix,
        trace: BlockTrace,
        batch: &Batch,
        sink: &mut GradientSink<'_>,
    ) -> Matrix {
        let block = self.blocks[index].clone();
        let layer = |model: &Self, place| model.linear(&block, place).clone();
        let BlockTrace {
            x,
            rstd_input,
            q,
            k,
            q_norm,
            k_norm,
            v,
            attended,
            lse,
            middle,
            rstd_post,
            gate,
            up,
            mut linears,
        } = trace;
        let mut kept = |place: usize| std::mem::take(&mut linears[place]);

        // MLP: y = middle + down(silu(gate) ⊙ up)
        let (down, gate_proj, up_proj) = (layer(self, DOWN), layer(self, GATE), layer(self, UP));
        let (d_inner, g_down) = down.input_grad(&self.params, None, &dy);
        let (d_gate, d_up, inner) = swiglu_backward(d_inner, gate, up);
        down.weight_grad(&mut self.params, sink, &inner, &dy, kept(DOWN), g_down);
        drop(inner);
        let (d_normed, g_gate) = gate_proj.input_grad(&self.params, None, &d_gate);
        let (d_normed, g_up) = up_proj.input_grad(&self.params, Some(d_normed), &d_up);
        let normed = rms_norm_apply(&middle, self.params.value(block.post_norm), &rstd_post);
        gate_proj.weight_grad(&mut self.params, sink, &normed, &d_gate, kept(GATE), g_gate);
        drop(d_gate);
        up_proj.weight_grad(&mut self.params, sink, &normed, &d_up, kept(UP), g_up);
        drop((d_up, normed));
        let d_middle =
            self.norm_backward(block.post_norm, dy, &d_normed, &middle, &rstd_post, sink);
        drop((d_normed, middle));

        // Attention: middle = x + o(attend(rope(q), rope(k), v))
        let (q_proj, k_proj, v_proj, o_proj) =
            (layer(self, Q), layer(self, K), layer(self, V), layer(self, O));
        let (d_attended, g_o) = o_proj.input_grad(&self.params, None, &d_middle);
        o_proj.weight_grad(&mut self.params, sink, &attended, &d_middle, kept(O), g_o);
        let shape = self.attention_shape(batch.batch, batch.seq_len, batch.seq_len);
        let documents = batch.documents.as_ref();
        let (dq, dk, dv) =
            attention_backward_within(&d_attended, &q, &k, &v, &attended, &lse, documents, shape);
        drop((d_attended, q, k, v, attended));
        let unrotate = |y| rope(y, &batch.positions, &self.cos, &self.sin, Rotation::Backward);
        let (dq, dk) = (unrotate(dq), unrotate(dk));
        let dq = self.head_norm_backward(block.q_norm, q_norm, dq, sink);
        let dk = self.head_norm_backward(block.k_norm, k_norm, dk, sink);
        let (d_normed, g_q) = q_proj.input_grad(&self.params, None, &dq);
        let (d_normed, g_k) = k_proj.input_grad(&self.params, Some(d_normed), &dk);
        let (d_normed, g_v) = v_proj.input_grad(&self.params, Some(d_normed), &dv);
        let normed = rms_norm_apply(&x, self.params.value(block.input_norm), &rstd_input);
        for (linear, place, dy, g) in
            [(&q_proj, Q, &dq, g_q), (&k_proj, K, &dk, g_k), (&v_proj, V, &dv, g_v)]
        {
            linear.weight_grad(&mut self.params, sink, &normed, dy, kept(place), g);
        }
        drop((dq, dk, dv, normed));
        self.norm_backward(block.input_norm, d_middle, &d_normed, &x, &rstd_input, sink)
    }

    /// Adds a norm's input gradient to `bypass` and delivers its gain's gradient.
    fn norm_backward(
        &mut self,
        gain: ParamId,
        bypass: Matrix,
        dy: &Matrix,
        x: &Matrix,
        rstd: &Vector,
        sink: &mut GradientSink<'_>,
    ) -> Matrix {
        let is_trained = self.params.is_trainable(gain);
        let acc = is_trained.then(|| sink.zeroed_or_accumulated(&self.params, gain));
        let (dx, grad) = rms_norm_backward(bypass, dy, x, self.params.value(gain), rstd, acc);
        if let Some(grad) = grad {
            sink.deliver(&mut self.params, gain, grad);
        }
        dx
    }

    /// The gradient of what a norm on heads read, from that of what it gave; in place of it where there is no norm.
    fn head_norm_backward(
        &mut self,
        gain: Option<ParamId>,
        trace: Option<HeadNormTrace>,
        dy: Matrix,
        sink: &mut GradientSink<'_>,
    ) -> Matrix {
        let (Some(gain), Some(HeadNormTrace { x, rstd })) = (gain, trace) else { return dy };
        let shape = dy.shape();
        let dy = dy.reshaped(x.shape());
        // Nothing goes around this norm.
        let bypass = Matrix::zeros(x.shape(), &self.device, Category::Activations);
        self.norm_backward(gain, bypass, &dy, &x, &rstd, sink).reshaped(shape)
    }
}
