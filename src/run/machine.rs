//! What the machine says of this process: memory, busy cores, room on the disk, the battery.

use std::path::Path;
use std::time::Instant;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::runlog::Sys;

/// Where Linux tells of batteries; other systems have no such folder.
pub const POWER: &str = "/sys/class/power_supply";

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
            battery_percent: battery_percent(Path::new(POWER)),
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

/// Charge of the machine's battery in percent, while it runs on it: `None` on mains power, without a battery, and where
/// the system does not tell. Of several batteries the fullest counts, as the others are emptied before it.
pub fn battery_percent(power: &Path) -> Option<u32> {
    let mut is_discharging = false;
    let mut fullest = None;
    for supply in std::fs::read_dir(power).ok()?.flatten() {
        let read = |name: &str| std::fs::read_to_string(supply.path().join(name)).ok();
        let is = |name: &str, word: &str| read(name).is_some_and(|text| text.trim() == word);
        // Mice and keyboards have batteries of their own.
        if !is("type", "Battery") || is("scope", "Device") {
            continue;
        }
        is_discharging |= is("status", "Discharging");
        fullest = fullest.max(read("capacity").and_then(|text| text.trim().parse::<u32>().ok()));
    }
    fullest.filter(|_| is_discharging)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_battery_counts_while_the_machine_runs_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            let supply = folder.path().join(name);
            std::fs::create_dir_all(&supply).unwrap();
            for (file, text) in files {
                std::fs::write(supply.join(file), format!("{text}\n")).unwrap();
            }
        };
        let percent = || battery_percent(folder.path());
        assert_eq!(battery_percent(&folder.path().join("none")), None);
        supply("AC", &[("type", "Mains"), ("online", "0")]);
        supply(
            "mouse",
            &[
                ("type", "Battery"),
                ("scope", "Device"),
                ("status", "Discharging"),
                ("capacity", "3"),
            ],
        );
        assert_eq!(percent(), None, "no battery of its own");
        supply("BAT0", &[("type", "Battery"), ("status", "Charging"), ("capacity", "17")]);
        assert_eq!(percent(), None, "mains power");
        supply("BAT0", &[("status", "Discharging")]);
        assert_eq!(percent(), Some(17));
        supply("BAT1", &[("type", "Battery"), ("status", "Not charging"), ("capacity", "80")]);
        assert_eq!(percent(), Some(80));
    }

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
