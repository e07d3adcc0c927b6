//! Host buffers that are used again: what the CPU backend's arrays and scratch live in.
//!
//! A training step makes and drops the same few hundred buffers every time. The system's allocator
//! gives such memory back and faults it in again, page by page and zeroed, which costs more than
//! 100 ms a step (glibc, 2 shared cores, the buffers of 2048 tokens of the reference shape: 30,000 to
//! 43,000 faults; none with the pool). And a buffer that is about to be overwritten need not be
//! cleared. Values never depend on the pool: whoever takes a `buffer` writes all of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Smaller buffers are left to the allocator: 16 KiB.
const MIN_LEN: usize = 4 * 1024;
/// Above so many waiting bytes a new buffer first frees as much as it needs, oldest first. So the
/// pool never makes the process larger than its largest need plus this: 64 MiB.
const FREELY_KEPT_BYTES: usize = 64 << 20;

/// Buffers waiting for their next use, the last used at the back (its pages are the warmest).
struct Pool {
    waiting: VecDeque<Vec<f32>>,
    bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { waiting: VecDeque::new(), bytes: 0 });

impl Pool {
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let found = self.waiting.iter().rposition(|buffer| buffer.len() == len);
        let buffer = found.and_then(|at| self.waiting.remove(at))?;
        self.bytes -= 4 * len;
        Some(buffer)
    }

    /// Takes out old buffers, for the caller to free outside the lock.
    fn make_room(&mut self, len: usize) -> Vec<Vec<f32>> {
        let mut freed = Vec::new();
        let mut missing = 4 * len;
        while missing > 0 && self.bytes > FREELY_KEPT_BYTES {
            let Some(buffer) = self.waiting.pop_front() else { break };
            self.bytes -= 4 * buffer.len();
            missing = missing.saturating_sub(4 * buffer.len());
            freed.push(buffer);
        }
        freed
    }
}

fn with_pool<R>(run: impl FnOnce(&mut Pool) -> R) -> R {
    run(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A buffer with any values in it, all of which the caller overwrites.
pub(super) fn buffer(len: usize) -> Vec<f32> {
    taken(len).unwrap_or_else(|| vec![0.0; len])
}

/// A buffer of zeros.
pub(super) fn zeroed(len: usize) -> Vec<f32> {
    match taken(len) {
        Some(mut buffer) => {
            buffer.fill(0.0);
            buffer
        }
        None => vec![0.0; len],
    }
}

fn taken(len: usize) -> Option<Vec<f32>> {
    if len < MIN_LEN {
        return None;
    }
    let (taken, freed) = with_pool(|pool| match pool.take(len) {
        Some(buffer) => (Some(buffer), Vec::new()),
        None => (None, pool.make_room(len)),
    });
    drop(freed);
    taken
}

/// Keeps a buffer for its next use, unless it is small; says whether.
pub(super) fn give_back(buffer: Vec<f32>) -> bool {
    if buffer.len() < MIN_LEN || buffer.capacity() != buffer.len() {
        return false;
    }
    with_pool(|pool| {
        pool.bytes += 4 * buffer.len();
        pool.waiting.push_back(buffer);
    });
    true
}

/// A buffer for the time of one operation, with any values in it at first.
pub(super) struct Scratch(pub(super) Vec<f32>);

impl Scratch {
    pub(super) fn new(len: usize) -> Self {
        Self(buffer(len))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

/// Fills everything that waits with NaN: tests show with it that no kernel reads what it did not write.
#[doc(hidden)]
pub fn poison() {
    with_pool(|pool| pool.waiting.iter_mut().for_each(|buffer| buffer.fill(f32::NAN)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_zeroed_ones_are_zero() {
        // A length that nothing else uses, as other tests share the pool.
        let len = 123_457;
        give_back(vec![3.0; len]);
        assert_eq!(buffer(len)[7], 3.0);
        give_back(vec![3.0; len]);
        assert!(zeroed(len).iter().all(|&x| x == 0.0));
        assert!(with_pool(|pool| pool.take(len)).is_none());
    }

    #[test]
    fn old_buffers_make_room_for_new_sizes() {
        let mut pool = Pool { waiting: VecDeque::new(), bytes: 0 };
        let len = 4 << 20;
        for _ in 0..6 {
            pool.waiting.push_back(vec![0.0; len]);
            pool.bytes += 4 * len;
        }
        assert_eq!(pool.make_room(len).len(), 1, "as much as the new one needs");
        assert_eq!(pool.make_room(10 * len).len(), 1, "and not below what is kept freely");
    }
}
