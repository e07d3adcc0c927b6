//! What the machine says of this process: memory, busy cores, room on the disk.

use std::path::Path;
use std::time::Instant;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::runlog::Sys;

/// Reads the machine; keeps the last look, from which the busy cores follow.
#[derive(Debug)]
pub struct Machine {
    system: System,
    pid: Pid,
    last: Option<Instant>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { system: System::new(), pid: Pid::from_u32(std::process::id()), last: None }
    }
}

impl Machine {
    /// The machine now. Where the system does not tell, the field is missing. Cores are a mean since the last call.
    pub fn read(&mut self, folder: &Path) -> Sys {
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        let pids = ProcessesToUpdate::Some(&[self.pid]);
        self.system.refresh_processes_specifics(pids, false, what);
        let has_last = self.last.replace(Instant::now()).is_some();
        let process = self.system.process(self.pid);
        Sys {
            rss_bytes: process.map(sysinfo::Process::memory).filter(|bytes| *bytes > 0),
            cpu_cores: process.filter(|_| has_last).map(|p| f64::from(p.cpu_usage()) / 100.0),
            disk_free_bytes: free_bytes(folder),
        }
    }
}

/// Seconds that this process has computed, of all its threads together; none where the system does not tell.
pub fn cpu_seconds() -> Option<f64> {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    Some(system.process(pid)?.accumulated_cpu_time() as f64 / 1e3)
}

/// Bytes that a user may still write where a folder is.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Bytes that a user may still write where a folder is.
#[cfg(not(unix))]
pub fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_its_folder_has_room() {
        let mut machine = Machine::default();
        let folder = std::env::temp_dir();
        let first = machine.read(&folder);
        assert!(first.rss_bytes.is_some_and(|bytes| bytes > 1 << 20), "{first:?}");
        assert!(first.disk_free_bytes.is_some_and(|bytes| bytes > 0), "{first:?}");
        assert_eq!(first.cpu_cores, None);
        assert!(machine.read(&folder).cpu_cores.is_some());
    }
}
