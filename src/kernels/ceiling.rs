//! How long work takes on a device, and what the device can do at most: how fast it copies, how fast it
//! multiplies and adds. `bench` sets the operations beside these.

use std::time::Instant;

use rayon::prelude::*;

use crate::device::Device;
use crate::device::gpu::{Gpu, Tiling};

use super::gpu::ceiling;
use super::launch;
pub use super::launch::ProgramTime;
use super::math::vectorised;

/// Runs `run` and says how many seconds it took, by the device's own timestamps where it has them and else by
/// the clock, from an idle device to an idle device.
pub fn timed<R>(device: &Device, run: impl FnOnce() -> R) -> (R, f64) {
    device.wait();
    let Some(gpu) = device.gpu() else {
        let begin = Instant::now();
        let result = run();
        return (result, begin.elapsed().as_secs_f64());
    };
    let ((result, by_clock), by_device) = launch::seconds_of(gpu, || {
        let begin = Instant::now();
        let result = run();
        (result, begin)
    });
    device.wait();
    let by_clock = by_clock.elapsed().as_secs_f64();
    (result, by_device.unwrap_or(by_clock))
}

/// Runs `run` and says how long each program of `shaders/` took in it, one launch at a time, the longest first; empty on
/// the CPU backend.
pub fn profiled<R>(device: &Device, run: impl FnOnce() -> R) -> (R, Vec<ProgramTime>) {
    device.wait();
    launch::profiled(run)
}

/// Bytes that the pools of a GPU have taken from its driver; None for the CPU backend.
pub fn pool_bytes(device: &Device) -> Option<u64> {
    device.gpu().map(|gpu| launch::pool_bytes(gpu))
}

/// The most a device gave in a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Bytes read and written in a second by a copy of large buffers.
    pub bytes_per_s: f64,
    /// Multiplications and additions in a second, f32.
    pub flop_per_s: f64,
}

impl Ceilings {
    /// Measures a device; takes about a second.
    pub fn measure(device: &Device) -> Self {
        let (bytes_per_s, flop_per_s) = match device.gpu() {
            Some(gpu) => (gpu_copy(device, gpu), gpu_products(device, gpu)),
            None => (cpu_copy(device), cpu_products(device)),
        };
        Self { bytes_per_s, flop_per_s }
    }

    /// The shortest time in which `flop` operations on `bytes` bytes can be done.
    pub fn least_seconds(&self, flop: f64, bytes: f64) -> f64 {
        (flop / self.flop_per_s).max(bytes / self.bytes_per_s)
    }
}

/// The shortest of some runs, after one that warms up.
fn shortest(device: &Device, mut run: impl FnMut()) -> f64 {
    run();
    (0..5).map(|_| timed(device, &mut run).1).fold(f64::INFINITY, f64::min)
}

fn gpu_copy(device: &Device, gpu: &Gpu) -> f64 {
    // Larger than any cache of a GPU; a software adapter copies an eighth of that in as long.
    let most: u64 = if gpu.tiling == Tiling::Workgroup { 256 << 20 } else { 32 << 20 };
    let quads = most.min(gpu.max_binding) as usize / 16;
    let (from, to) = (launch::fresh(gpu, [4 * quads]), launch::fresh(gpu, [4 * quads]));
    32.0 * quads as f64 / shortest(device, || ceiling::copy(&from, &to))
}

fn gpu_products(device: &Device, gpu: &Gpu) -> f64 {
    let (invocations, turns) = match gpu.tiling {
        Tiling::Workgroup => (1 << 20, 256),
        Tiling::Direct => (1 << 14, 256),
    };
    let sums = launch::fresh(gpu, [invocations]);
    let seconds = shortest(device, || ceiling::multiply_and_add(&sums, turns));
    (2 * ceiling::STEPS_A_TURN * turns * invocations) as f64 / seconds
}

fn cpu_copy(device: &Device) -> f64 {
    const LEN: usize = 16 << 20;
    const PART: usize = 1 << 16;
    let from = vec![1.0f32; LEN];
    let mut to = vec![0.0f32; LEN];
    let seconds = shortest(device, || {
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
            to.copy_from_slice(from);
        });
        std::hint::black_box(&to);
    });
    8.0 * LEN as f64 / seconds
}

fn cpu_products(device: &Device) -> f64 {
    const TURNS: usize = 100_000;
    const CHAINS: usize = 192;
    let tasks = 4 * rayon::current_num_threads();
    let task = |task: usize| {
        vectorised(
            #[inline(always)]
            || {
                let mut chains = [task as f32; CHAINS];
                for _ in 0..TURNS {
                    for chain in &mut chains {
                        *chain = chain.mul_add(0.999, 0.001);
                    }
                }
                chains.iter().sum::<f32>()
            },
        )
    };
    let seconds = shortest(device, || {
        std::hint::black_box((0..tasks).into_par_iter().map(task).sum::<f32>());
    });
    (2 * CHAINS * TURNS * tasks) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_is_that_of_the_narrower_limit() {
        let ceilings = Ceilings { bytes_per_s: 10.0, flop_per_s: 100.0 };
        assert_eq!(ceilings.least_seconds(200.0, 10.0), 2.0);
        assert_eq!(ceilings.least_seconds(0.0, 10.0), 1.0);
    }

    #[test]
    fn work_takes_time_on_the_cpu() {
        let (result, seconds) = timed(&Device::cpu(), || 7);
        assert_eq!(result, 7);
        assert!(seconds >= 0.0);
        assert_eq!(pool_bytes(&Device::cpu()), None);
    }
}
