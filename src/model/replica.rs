//! Replicas: networks that share every dense weight and have adapters, embedding, norms and head of their own.
//!
//! Each trains on its slice of a batch. A pass runs on one slice with the replica's parameters in the places of
//! the network's, so nothing in the forward and backward passes knows of them, no weight is copied, and each token
//! is computed once. Outside such a pass the network is itself: dense weights without adapters, and the values
//! that the replicas last agreed on.

use super::linear::Adapter;
use super::llama::{Batch, Model};
use super::params::ParamId;

/// What one replica has of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// The adapter of each linear layer, in the order of [`Model::linears`].
    pub adapters: Vec<Adapter>,
    /// In the order of [`Model::non_targets`]: its own parameters, or the network's where those are frozen.
    pub non_targets: Vec<ParamId>,
}

impl Replica {
    /// The parameters that are trained on this replica's slices alone.
    pub fn parameters(&self) -> impl Iterator<Item = ParamId> {
        let factors = self.adapters.iter().flat_map(|adapter| [adapter.a, adapter.b]);
        factors.chain(self.non_targets.iter().copied())
    }
}

impl Model {
    /// The replicas; none in an ordinary network.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Puts replicas on the network, one adapter for each linear layer and one id for each non-target.
    pub fn set_replicas(&mut self, replicas: Vec<Replica>) {
        let (linears, non_targets) = (self.linears.len(), self.non_targets().len());
        for replica in &replicas {
            assert_eq!(replica.adapters.len(), linears, "an adapter for each linear layer");
            assert_eq!(replica.non_targets.len(), non_targets, "an id for each non-target");
        }
        self.replicas = replicas;
    }

    /// A micro-batch of `inputs.len() / seq_len` sequences: whole, or cut into one slice for each replica, in order.
    pub fn batches(&self, inputs: &[i32], targets: &[i32], seq_len: usize) -> Vec<Batch> {
        self.packed_batches(inputs, targets, None, seq_len)
    }

    /// [`Model::batches`] of loaded blocks.
    pub fn batches_of(&self, batch: &crate::data::Batch) -> Vec<Batch> {
        self.packed_batches(&batch.inputs, &batch.targets, batch.bounds(), batch.seq_len)
    }

    fn packed_batches(
        &self,
        inputs: &[i32],
        targets: &[i32],
        documents: Option<&[i32]>,
        seq_len: usize,
    ) -> Vec<Batch> {
        if self.replicas.is_empty() {
            return vec![Batch::packed(inputs, targets, documents, seq_len, &self.device)];
        }
        let slices = self.replicas.len();
        let tokens = inputs.len() / slices;
        assert_eq!(tokens * slices, inputs.len(), "a batch is cut into {slices} equal slices");
        let slices = inputs.chunks_exact(tokens).zip(targets.chunks_exact(tokens)).enumerate();
        let of = |(index, (inputs, targets)): (usize, (&[i32], &[i32]))| Batch {
            replica: Some(index),
            ..Batch::packed(
                inputs,
                targets,
                documents.map(|documents| &documents[2 * index * tokens..2 * (index + 1) * tokens]),
                seq_len,
                &self.device,
            )
        };
        slices.map(of).collect()
    }

    /// Runs `pass` with the parameters of a replica in their places.
    pub fn as_replica<R>(&mut self, index: usize, pass: impl FnOnce(&mut Self) -> R) -> R {
        self.exchange(index);
        let result = pass(self);
        self.exchange(index);
        result
    }

    /// Exchanges the network's own parameters with those of a replica; twice is nothing.
    fn exchange(&mut self, index: usize) {
        let Self { replicas, linears, blocks, embed, final_norm, head, .. } = self;
        let replica = &mut replicas[index];
        let (mut norms, mut head_norms) = (Vec::new(), Vec::new());
        for block in blocks {
            norms.extend([&mut block.input_norm, &mut block.post_norm]);
            head_norms.extend([&mut block.q_norm, &mut block.k_norm].into_iter().flatten());
        }
        let biases = linears.iter_mut().filter_map(|linear| linear.bias.as_mut());
        let plain = embed.iter_mut().chain(norms).chain([final_norm]);
        let places = plain.chain(head.iter_mut().flatten()).chain(head_norms).chain(biases);
        for (place, own) in places.zip(&mut replica.non_targets) {
            std::mem::swap(place, own);
        }
        // The network itself has no adapters then: a replica's are put on and taken off.
        for (linear, adapter) in linears.iter_mut().zip(&replica.adapters) {
            linear.adapter = match linear.adapter {
                Some(_) => None,
                None => Some(*adapter),
            };
        }
    }
}
