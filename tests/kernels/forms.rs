//! The forms of an operation that a check runs on, and what checks share.

use std::sync::{Mutex, OnceLock, PoisonError};

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::launch::recorded;
use fullrank::kernels::ops::with_default_bodies;
use fullrank::kernels::{Array, Matrix, Vector, pool};

use crate::devices;
use crate::replay::Replay;

pub const TOLERANCE: f64 = 2e-5;

/// Reproducible test values in about -1.7..1.7 (xorshift, uniform).
pub struct Values(pub u64);

impl Values {
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.4
    }

    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }

    pub fn matrix(&mut self, device: &Device, shape: [usize; 2]) -> Matrix {
        Matrix::from_host(self.vec(shape[0] * shape[1]), shape, device, Activations)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() / 3.4 + 0.5) * n as f32) as usize).min(n - 1)
    }
}

pub fn wide<const D: usize>(x: &Array<D>) -> Vec<f64> {
    x.to_host().into_iter().map(f64::from).collect()
}

pub fn vector(values: Vec<f32>, device: &Device) -> Vector {
    let n = values.len();
    Vector::from_host(values, [n], device, Activations)
}

#[track_caller]
pub fn assert_close<const D: usize>(what: &str, got: &Array<D>, right: &[f64]) {
    assert_near(what, &wide(got), right, TOLERANCE);
}

#[track_caller]
pub fn assert_near(what: &str, got: &[f64], right: &[f64], tolerance: f64) {
    assert_eq!(got.len(), right.len(), "{what}: number of values");
    let largest = right.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (got, right)) in got.iter().zip(right).enumerate() {
        let error = (got - right).abs() / largest;
        assert!(error <= tolerance, "{what}: value {i} is {got}, not {right} ({error:e})");
    }
}

/// The GPUs, each with what repeats its launches.
fn gpus() -> &'static Mutex<Vec<(Device, Replay)>> {
    static GPUS: OnceLock<Mutex<Vec<(Device, Replay)>>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let replay = |device: &Device| (device.clone(), Replay::new(&devices::adapter().unwrap()));
        Mutex::new(devices::gpus().iter().map(replay).collect())
    })
}

/// Runs `check` on the GPU in both tilings. Every launch is then repeated on a device with the limits of
/// WebGPU, bounds checks on and canaries around each buffer, and must give the same values.
pub fn on_gpus(check: impl Fn(&Device)) {
    for (device, replay) in gpus().lock().unwrap_or_else(PoisonError::into_inner).iter() {
        check(device);
        for launch in recorded(|| check(device)) {
            replay.assert_agrees(&launch);
        }
        device.check().unwrap();
    }
}

/// Runs `check` on the GPU in both tilings and leaves it at that: for tensors near the limits.
pub fn on_gpus_once(check: impl Fn(&Device)) {
    for (device, _) in gpus().lock().unwrap_or_else(PoisonError::into_inner).iter() {
        check(device);
        device.check().unwrap();
    }
}

/// Runs a check with the CPU kernels, once more in storage full of NaN, with the default bodies, and on the
/// GPU.
pub fn in_every_form(check: impl Fn(&Device)) {
    let device = Device::cpu();
    check(&device);
    pool::poison();
    check(&device);
    with_default_bodies(|| check(&device));
    on_gpus(check);
}

/// Runs `run` in pools of 1, 2 and 3 threads and compares the bits of what it returns.
pub fn assert_same_bits_for_any_number_of_threads(run: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let mut results = (1..=3).map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        pool.install(&run).into_iter().map(bits).collect::<Vec<_>>()
    });
    let first = results.next().unwrap();
    for (i, other) in results.enumerate() {
        assert!(first == other, "{} threads give other bits than 1", i + 2);
    }
}
