//! Where the candidate vectors of a side wait: on the device, or on the host where the device has no room for
//! them (the pools of a layer are as large as its factors would be at full rank).

use crate::config::RunConfig;
use crate::device::Device;
use crate::device::memory::Category;
use crate::kernels::Matrix;
use crate::kernels::switch::Exchange;
use crate::methods::footprint;
use crate::model::ModelConfig;
use crate::model::config::{TargetLayer, target_layers};

use super::layer::is_fixed;
use super::side::Moves;

/// Candidates of one side, a vector a row.
#[derive(Debug)]
pub(super) enum Pool {
    /// `[C, len]` on the device.
    Device(Matrix),
    /// The same in host memory.
    Host(HostPool),
}

/// A pool in host memory. Only the rows of an exchange visit the device.
#[derive(Debug)]
pub(super) struct HostPool {
    values: Vec<f32>,
    len: usize,
    /// Rows that left the factor and are still on the device, with their places here. They are read when they
    /// are asked for, so that an exchange does not wait for the device.
    coming: Option<(Matrix, Vec<usize>)>,
}

/// A pool whose rows are on the device for an exchange.
pub(super) struct Lender {
    /// The rest of a pool on the host, and the places of the rows in it.
    kept: Option<(HostPool, Vec<usize>)>,
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Lender {
    /// The exchange in the numbers of the lent rows.
    pub(super) fn exchange<'a>(&'a self, moves: &'a Moves) -> Exchange<'a> {
        Exchange { vectors: &moves.vectors, from: &self.from, to: &self.to }
    }

    /// The pool with the rows after the exchange.
    pub(super) fn take_back(self, rows: Matrix) -> Pool {
        match self.kept {
            None => Pool::Device(rows),
            Some((mut pool, places)) => {
                pool.coming = Some((rows, places));
                Pool::Host(pool)
            }
        }
    }
}

impl Pool {
    pub(super) fn new(values: Vec<f32>, len: usize, on_host: bool, device: &Device) -> Self {
        if on_host {
            return Self::Host(HostPool { values, len, coming: None });
        }
        let rows = values.len() / len;
        Self::Device(Matrix::from_host(values, [rows, len], device, Category::Pools))
    }

    /// The rows that an exchange moves, on the device, and who takes them back.
    pub(super) fn lend(self, moves: &Moves, device: &Device) -> (Matrix, Lender) {
        match self {
            Self::Device(rows) => {
                let (from, to) = (moves.from.clone(), moves.to.clone());
                (rows, Lender { kept: None, from, to })
            }
            Self::Host(mut pool) => {
                pool.settle();
                let mut places: Vec<usize> = moves.from.iter().chain(&moves.to).copied().collect();
                places.sort_unstable();
                places.dedup();
                let values = places.iter().flat_map(|&row| pool.row(row)).copied().collect();
                let shape = [places.len(), pool.len];
                let rows = Matrix::from_host(values, shape, device, Category::Activations);
                let number = |row: &usize| places.partition_point(|other| other < row);
                let from = moves.from.iter().map(number).collect();
                let to = moves.to.iter().map(number).collect();
                (rows, Lender { kept: Some((pool, places)), from, to })
            }
        }
    }

    /// All candidates, for a checkpoint.
    pub(super) fn snapshot(&self) -> Matrix {
        match self {
            Self::Device(pool) => pool.clone(),
            Self::Host(pool) => pool.snapshot(),
        }
    }
}

impl HostPool {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.len..][..self.len]
    }

    /// Takes in the rows that are still on the device.
    fn settle(&mut self) {
        if let Some((visiting, rows)) = self.coming.take() {
            place(&mut self.values, self.len, &visiting, &rows);
        }
    }

    fn snapshot(&self) -> Matrix {
        let mut values = self.values.clone();
        if let Some((visiting, rows)) = &self.coming {
            place(&mut values, self.len, visiting, rows);
        }
        let shape = [values.len() / self.len, self.len];
        Matrix::from_host(values, shape, &Device::cpu(), Category::Pools)
    }
}

fn place(values: &mut [f32], len: usize, visiting: &Matrix, rows: &[usize]) {
    for (row, new) in rows.iter().zip(visiting.to_host().chunks(len)) {
        values[row * len..][..len].copy_from_slice(new);
    }
}

/// Numbers in both pools of a layer, wherever they wait: `C·(m + n)`, none where nothing is ever switched.
pub(super) fn numbers(config: &RunConfig, layer: &TargetLayer) -> u128 {
    let candidates = layer.max_rank();
    if is_fixed(candidates, footprint::rank(config, layer)) {
        0
    } else {
        layer.factor_len(candidates)
    }
}

/// Bytes of all pools of a model for a configuration whose rank is set.
pub fn bytes(config: &RunConfig, shape: &ModelConfig) -> u64 {
    let sum: u128 = target_layers(shape).iter().map(|layer| numbers(config, layer)).sum();
    u64::try_from(4 * sum).unwrap_or(u64::MAX)
}

/// Whether the pools wait on the host: asked for, or (`auto`) because they would take more than a quarter of
/// the memory budget.
pub fn waits_on_host(setting: &str, pool_bytes: u64, budget: Option<f64>) -> bool {
    const GIB: f64 = (1u64 << 30) as f64;
    match setting {
        "host" => true,
        "device" => false,
        _ => budget.is_some_and(|gib| pool_bytes as f64 > gib * GIB / 4.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_larger_than_a_quarter_of_the_budget_wait_on_the_host() {
        assert!(!waits_on_host("auto", 1 << 30, None));
        assert!(!waits_on_host("auto", 1 << 30, Some(4.0)));
        assert!(waits_on_host("auto", (1 << 30) + 1, Some(4.0)));
        assert!(waits_on_host("host", 0, None));
        assert!(!waits_on_host("device", 1 << 40, Some(1.0)));
    }
}
