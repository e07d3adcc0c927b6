//! A counter on the device that every hand-over of queued work advances, and its twin on the host. A driver that drops
//! what waits too long says nothing of it; then the two differ at the next read-back. If it drops the read-back itself, the
//! serial number that comes back is an older one.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use burn::backend::wgpu::CubeTensor;

use super::super::launch::{self, Shader};
use super::fill::fill;

static COUNT: Shader = Shader::new("count", include_str!("../../../shaders/count.wgsl"));

/// Where the counters begin anew, so that they stay exact in f32.
const ROUND: u32 = 1 << 20;

/// The counter of a device. Each thread has its own, as each has its own queue of work.
struct Canary {
    /// Never dropped: a thread that ends can no longer give memory back.
    counter: ManuallyDrop<CubeTensor>,
    counted: u32,
}

thread_local! {
    static CANARIES: RefCell<Vec<Canary>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with the canary of the device of `like`.
fn with<R>(like: &CubeTensor, f: impl FnOnce(&mut Canary) -> R) -> R {
    let mut canaries = CANARIES.take();
    let place = canaries.iter().position(|canary| canary.counter.device == like.device);
    let place = place.unwrap_or_else(|| {
        let counter = launch::empty(like, [1]);
        fill(&counter, 0.0);
        canaries.push(Canary { counter: ManuallyDrop::new(counter), counted: 0 });
        canaries.len() - 1
    });
    let result = f(&mut canaries[place]);
    CANARIES.set(canaries);
    result
}

/// Counts a hand-over of what is queued; comes last in it.
pub(in crate::kernels) fn count(like: &CubeTensor) {
    with(like, |canary| {
        COUNT.launch().tensor(&canary.counter).over(1);
        canary.counted = (canary.counted + 1) % ROUND;
    });
}

/// The counter, and what it must be.
pub(super) fn state<R>(like: &CubeTensor, f: impl FnOnce(&CubeTensor, f32) -> R) -> R {
    with(like, |canary| f(&canary.counter, canary.counted as f32))
}

/// Counts on the host alone, on every device of this thread, as if a hand-over had been lost. For tests.
pub(in crate::kernels) fn miscount() {
    CANARIES.with_borrow_mut(|all| all.iter_mut().for_each(|canary| canary.counted += 1));
}
