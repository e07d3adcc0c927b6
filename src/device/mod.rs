//! The device as a resource: which backend computes, how much memory the engine holds there, and what
//! went wrong.
//!
//! The only room that opens a backend. `kernels` takes tensors from it; everybody above sees a
//! [`Device`] and its [`memory::Ledger`] and nothing of burn or wgpu.

use std::sync::Arc;

use crate::error::{Error, Result};

pub mod adapter;
pub mod fault;
pub mod gpu;
pub mod memory;

use adapter::{Adapter, HOW_TO_GET_A_DRIVER, Kind};
use fault::Fault;
use gpu::{Gpu, Tiling};
use memory::Ledger;

/// Where training runs, and the ledger of what it holds there.
#[derive(Debug, Clone)]
pub struct Device {
    tensor: burn::tensor::Device,
    ledger: Arc<Ledger>,
    name: String,
    gpu: Option<Arc<Gpu>>,
    /// The limit that a test sets in the place of the device's own.
    binding_limit: Option<u64>,
}

impl Device {
    /// The CPU backend. Uses the rayon pool that the caller runs in.
    pub fn cpu() -> Self {
        let tensor = burn::tensor::Device::flex();
        Self { tensor, ledger: Ledger::new(), name: "cpu".into(), gpu: None, binding_limit: None }
    }

    /// Opens what `choice` names: `auto` (a discrete GPU, an integrated one, or the CPU backend), `gpu`,
    /// `gpu:N` (by the numbers of `fullrank devices`), `software` (a driver that computes on the
    /// CPU) or `cpu`.
    ///
    /// Errors: `Error::Device` where there is no such adapter or its driver refuses.
    pub fn open(choice: &str, tiling: Option<Tiling>) -> Result<Self> {
        if choice == "cpu" {
            return Ok(Self::cpu());
        }
        let all = Adapter::all();
        let is_gpu = |adapter: &&Adapter| adapter.kind != Kind::Software;
        let none = |what: String| Error::Device { what, remedy: HOW_TO_GET_A_DRIVER.into() };
        match choice {
            "auto" => match Adapter::auto(&all) {
                Some(number) => all[number].open(tiling),
                None => Ok(Self::cpu()),
            },
            "gpu" => match all.iter().find(is_gpu) {
                Some(adapter) => adapter.open(tiling),
                None => Err(none(no_gpu(&all))),
            },
            "software" => match all.iter().find(|a| a.kind == Kind::Software) {
                Some(adapter) => adapter.open(tiling),
                None => Err(none("no software adapter was found".into())),
            },
            _ => {
                let number = choice.strip_prefix("gpu:").and_then(|n| n.parse::<usize>().ok());
                let Some(number) = number else {
                    return Err(Error::config(
                        format!("device `{choice}` is not known"),
                        "use auto, cpu, gpu, gpu:N or software",
                    ));
                };
                match all.get(number) {
                    Some(adapter) => adapter.open(tiling),
                    None if all.is_empty() => Err(none("no adapter was found".into())),
                    None => Err(no_adapter(number, all.len())),
                }
            }
        }
    }

    /// The same device with an empty ledger: for a run that begins when another is through with it.
    #[must_use]
    pub fn with_new_ledger(&self) -> Self {
        Self { ledger: self.ledger.emptied(), ..self.clone() }
    }

    /// What tensors on this device are accounted in.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Short name for facts and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The GPU, unless this is the CPU backend.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }

    /// Bytes of one array at most; none on the CPU backend. Tables of rows are cut into parts below it.
    pub fn binding_limit(&self) -> Option<u64> {
        self.binding_limit.or(self.gpu.as_ref().map(|gpu| gpu.max_binding))
    }

    /// The same device with a lower limit. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_binding_limit(&self, bytes: u64) -> Self {
        Self { binding_limit: Some(bytes), ..self.clone() }
    }

    /// Errors if something went wrong on the device since it was opened.
    pub fn check(&self) -> Result<()> {
        if self.gpu.is_some() && self.ledger.faults().is_refusal() {
            // What a lost device refuses may be told before its loss, which the wait brings out.
            self.wait();
        }
        self.ledger.faults().check()
    }

    /// Waits until everything that was asked of the device is done. A failure is found by [`Device::check`].
    pub fn wait(&self) {
        if let Err(error) = self.tensor.sync() {
            self.ledger.faults().record(Fault::of_read(&error.to_string()));
        }
    }

    /// Gives memory that no tensor uses any more back to the system, as far as the driver does.
    pub fn release_unused(&self) {
        self.wait();
        self.tensor.memory_cleanup();
        self.wait();
    }

    /// burn's device. Outside `kernels` only for measurements beside burn.
    #[doc(hidden)]
    pub fn tensor_device(&self) -> &burn::tensor::Device {
        &self.tensor
    }
}

fn no_adapter(number: usize, count: usize) -> Error {
    let there = match count {
        1 => "gpu:0 only".into(),
        _ => format!("gpu:0 to gpu:{}", count - 1),
    };
    Error::Device {
        what: format!("there is no gpu:{number}, there is {there}"),
        remedy: "see `fullrank devices`, and name one of them".into(),
    }
}

fn no_gpu(all: &[Adapter]) -> String {
    match all.first() {
        Some(adapter) => format!(
            "no GPU was found, only {} (a driver that computes on the CPU; --device software takes it)",
            adapter.name
        ),
        None => "no GPU was found".into(),
    }
}
