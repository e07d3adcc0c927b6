//! The device as a resource: which backend computes, and how much memory the engine holds there.
//!
//! The only room that opens a backend. `kernels` takes tensors from it; everybody above sees a
//! [`Device`] and its [`memory::Ledger`] and nothing of burn.

use std::sync::Arc;

pub mod memory;

use memory::Ledger;

/// Where training runs, and the ledger of what it holds there.
#[derive(Debug, Clone)]
pub struct Device {
    tensor: burn::tensor::Device,
    ledger: Arc<Ledger>,
    name: String,
}

impl Device {
    /// The CPU backend. Uses the rayon pool that the caller runs in.
    pub fn cpu() -> Self {
        Self { tensor: burn::tensor::Device::flex(), ledger: Ledger::new(), name: "cpu".into() }
    }

    /// What tensors on this device are accounted in.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Short name for facts and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tensor_device(&self) -> &burn::tensor::Device {
        &self.tensor
    }
}
