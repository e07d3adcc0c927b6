//! What went wrong on a device. Drivers tell it late and elsewhere (a callback, a read-back long after
//! the call that caused it), so it is recorded here, the first by kind, and asked for at the points
//! where the host waits for the device anyway.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// A device error that cannot be mended by going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The driver refused memory.
    OutOfMemory(String),
    /// The device is gone: a driver reset, a time-out, an unplugged GPU.
    Lost(String),
    /// The driver refused a kernel or a launch.
    Refused(String),
}

/// The first fault of a device.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Option<Fault>>);

impl Faults {
    /// Keeps `fault` if it is the first. A loss replaces a refusal: what follows a loss is refused.
    pub fn record(&self, fault: Fault) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaces = matches!((&*first, &fault), (Some(Fault::Refused(_)), Fault::Lost(_)));
        if first.is_none() || replaces {
            *first = Some(fault);
        }
    }

    /// Whether the fault so far is a refusal.
    pub(super) fn is_refusal(&self) -> bool {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*first, Some(Fault::Refused(_)))
    }

    /// The error for the first fault, if there was one.
    pub fn check(&self) -> crate::error::Result<()> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match first {
            None => Ok(()),
            Some(fault) => Err(fault.into()),
        }
    }
}

impl Fault {
    /// The fault behind a failed read-back. The message is all that comes through burn.
    pub fn of_read(message: &str) -> Self {
        let why = cause(message);
        if message.contains("poison") || message.contains("Poison") || message.contains("lost") {
            Self::Lost(why)
        } else if message.contains("OutOfMemory") || message.contains("out of memory") {
            Self::OutOfMemory(why)
        } else {
            Self::Refused(why)
        }
    }
}

/// The telling lines of a nested message: from the line that names a cause on, or the first ones.
pub(super) fn cause(message: &str) -> String {
    const FRAMES: [&str; 4] =
        ["An error happened during execution", "Validation Error", "Caused by:", "Backtrace:"];
    const CAUSES: [&str; 3] = ["compilation failed", "refused", "poisoned"];
    let message = message.replace("\\n", "\n");
    let lines = message.lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty() && !FRAMES.contains(line)).collect();
    let names_cause = |line: &&str| CAUSES.iter().any(|cause| line.contains(cause));
    let first = lines.iter().position(names_cause).unwrap_or(0);
    lines[first.min(lines.len())..].iter().take(2).copied().collect::<Vec<_>>().join(" ")
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (what, remedy) = match fault {
            Fault::OutOfMemory(why) => (
                format!("the device is out of memory: {why}"),
                "use a smaller --batch-size, --max-seq-length or --rank, or --grad-checkpoint; \
                 `fullrank train --dry-run` says what a run needs; the last checkpoint is intact",
            ),
            Fault::Lost(why) => (
                format!("the device was lost: {why}"),
                "go on with `fullrank resume RUN`; if it happens again use a smaller --batch-size \
                 or --device cpu, and look for a newer driver",
            ),
            Fault::Refused(why) => (
                format!("the device refused a kernel: {why}"),
                "run `fullrank doctor` and report what it prints; --device cpu works without the GPU; \
                 the last checkpoint is intact",
            ),
        };
        Self::Device { what, remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_down_to_its_cause() {
        let message = "An error happened during execution\nCaused by:\n  WGSL compilation failed for \
                       kernel `swiglu`: expected\n  ┌─ wgsl:1:1\n  │ more";
        let Fault::Refused(why) = Fault::of_read(message) else { unreachable!() };
        assert_eq!(why, "WGSL compilation failed for kernel `swiglu`: expected ┌─ wgsl:1:1");
        let lost =
            Fault::of_read("Read(\"The device is poisoned\\nCaused by:\\n  Destroyed: \\n\")");
        assert_eq!(lost, Fault::Lost("Read(\"The device is poisoned Destroyed:".into()));
    }

    #[test]
    fn the_first_fault_stays_but_a_loss_explains_refusals() {
        let faults = Faults::default();
        assert!(faults.check().is_ok());
        faults.record(Fault::Refused("a".into()));
        faults.record(Fault::OutOfMemory("b".into()));
        assert!(faults.check().unwrap_err().to_string().contains("refused"));
        faults.record(Fault::Lost("c".into()));
        faults.record(Fault::Refused("d".into()));
        assert_eq!(faults.check().unwrap_err().to_string(), "the device was lost: c");
        assert_eq!(faults.check().unwrap_err().exit_code(), 4);
    }
}
