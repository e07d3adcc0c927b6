//! The memory ledger: how many bytes the engine's tensors hold, by category, now and at most.
//!
//! Every tensor made by `kernels` carries a [`Ticket`]; making it adds its bytes, dropping the last
//! handle takes them away. `estimate` predicts the high-water mark that stands here after a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::Faults;

/// What a tensor is for; the memory table has one row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Model weights, dense.
    Weights,
    /// Low-rank factors and whatever else a method adds to the weights.
    Adapters,
    /// Gradients of trainable parameters.
    Gradients,
    /// Optimizer moments and counters.
    Optimizer,
    /// Candidate pools of SwitchLoRA.
    Pools,
    /// Everything that lives within one forward and backward pass.
    Activations,
}

impl Category {
    /// All categories, in the order of the memory table.
    pub const ALL: [Self; 6] = [
        Self::Weights,
        Self::Adapters,
        Self::Gradients,
        Self::Optimizer,
        Self::Pools,
        Self::Activations,
    ];

    /// The name used in events and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Adapters => "adapters",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Pools => "pools",
            Self::Activations => "activations",
        }
    }
}

/// Bytes held, by category, with the high-water mark of the sum. Every tensor of a device knows it, so the
/// faults that a tensor meets are recorded here too.
#[derive(Debug, Default)]
pub struct Ledger {
    now: [AtomicU64; 6],
    peak: AtomicU64,
    faults: Arc<Faults>,
}

/// A reading of the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes held now, in the order of [`Category::ALL`].
    pub now: [u64; 6],
    /// The largest sum since the start or the last [`Ledger::reset_peak`].
    pub peak: u64,
}

impl Reading {
    /// Bytes held now, all categories together.
    pub fn total(&self) -> u64 {
        self.now.iter().sum()
    }
}

impl Ledger {
    /// A ledger with nothing in it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A ledger with nothing in it, for a device whose errors are recorded in `faults`.
    pub fn with_faults(faults: Arc<Faults>) -> Arc<Self> {
        Arc::new(Self { faults, ..Self::default() })
    }

    /// A ledger with nothing in it, for the same device.
    pub fn emptied(&self) -> Arc<Self> {
        Self::with_faults(Arc::clone(&self.faults))
    }

    /// What went wrong on the device.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What is held now and was held at most.
    pub fn read(&self) -> Reading {
        Reading {
            now: std::array::from_fn(|i| self.now[i].load(Ordering::Relaxed)),
            peak: self.peak.load(Ordering::Relaxed),
        }
    }

    /// Starts a new high-water mark from what is held now.
    pub fn reset_peak(&self) {
        self.peak.store(self.read().total(), Ordering::Relaxed);
    }

    fn add(&self, category: Category, bytes: u64) {
        self.now[category as usize].fetch_add(bytes, Ordering::Relaxed);
        self.peak.fetch_max(self.read().total(), Ordering::Relaxed);
    }

    fn sub(&self, category: Category, bytes: u64) {
        self.now[category as usize].fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One tensor's entry in the ledger; dropping it takes the bytes away.
#[derive(Debug)]
pub struct Ticket {
    ledger: Arc<Ledger>,
    category: Category,
    bytes: u64,
}

impl Ticket {
    /// Adds `bytes` to the ledger for as long as the ticket lives.
    pub fn new(ledger: &Arc<Ledger>, category: Category, bytes: u64) -> Arc<Self> {
        ledger.add(category, bytes);
        Arc::new(Self { ledger: Arc::clone(ledger), category, bytes })
    }

    /// The ledger this ticket belongs to.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ledger.sub(self.category, self.bytes);
    }
}

/// Memory and swap of the machine, where the system says it in `/proc`.
pub fn machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    Some((kib("MemTotal:")? + kib("SwapTotal:")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_counts_what_lives_and_remembers_the_peak() {
        let ledger = Ledger::new();
        let weights = Ticket::new(&ledger, Category::Weights, 100);
        let scratch = Ticket::new(&ledger, Category::Activations, 50);
        drop(scratch);
        assert_eq!(ledger.read().total(), 100);
        assert_eq!(ledger.read().peak, 150);
        ledger.reset_peak();
        assert_eq!(ledger.read().peak, 100);
        drop(weights);
        assert_eq!(ledger.read().total(), 0);
    }
}
