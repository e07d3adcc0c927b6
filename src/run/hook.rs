//! The command that an alert starts, in a shell of its own beside the run. It gets what happened in its environment; the
//! run never waits for it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Result};
use crate::runlog::Alert;

/// Commands that run at once: a command that hangs must not pile up behind a run with many alerts.
const MOST: usize = 4;

/// Starts the command, and collects those that ended.
#[derive(Debug, Default)]
pub struct Hook {
    running: Vec<Child>,
}

impl Hook {
    /// Starts `command` for an alert of the run in `folder` at an update. Its output is thrown away: what it prints
    /// would tear a screen.
    ///
    /// Errors: `Error::Io` if there is no shell, `Error::Run` while four earlier ones have not ended.
    pub fn start(&mut self, command: &str, folder: &Path, step: u64, alert: &Alert) -> Result<()> {
        self.running.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if self.running.len() >= MOST {
            return Err(Error::run(
                format!("on_alert was not started: {MOST} earlier ones still run"),
                "give on_alert a command that ends",
            ));
        }
        let mut shell = shell(command);
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        shell
            .env("FULLRANK_RUN", folder)
            .env("FULLRANK_STEP", step.to_string())
            .env("FULLRANK_LEVEL", alert.level.word())
            .env("FULLRANK_ALERT", &alert.what)
            .env("FULLRANK_REMEDY", &alert.remedy)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.running.push(shell.spawn().map_err(Error::io("start", command))?);
        Ok(())
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("/bin/sh");
    // A group of its own: Ctrl-C is for the run.
    shell.args(["-c", command]).process_group(0);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.args(["/C", command]);
    shell
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)] // tests may
mod tests {
    use super::*;
    use crate::runlog::Level;
    use std::time::{Duration, Instant};

    #[test]
    fn the_command_learns_what_happened_and_nothing_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let alert =
            Alert { level: Level::Warn, what: "a \"spike\" $HOME".into(), remedy: "look".into() };
        let command = "printf '%s|%s|%s|%s' \"$FULLRANK_STEP\" \"$FULLRANK_LEVEL\" \
                       \"$FULLRANK_ALERT\" \"$FULLRANK_REMEDY\" > \"$FULLRANK_RUN/said\"; \
                       mv \"$FULLRANK_RUN/said\" \"$FULLRANK_RUN/told\"";
        Hook::default().start(command, folder.path(), 42, &alert).unwrap();
        let start = Instant::now();
        let told = folder.path().join("told");
        while !told.exists() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(std::fs::read_to_string(told).unwrap(), "42|warn|a \"spike\" $HOME|look");
    }

    #[test]
    fn commands_that_hang_do_not_pile_up() {
        let mut hook = Hook::default();
        let folder = tempfile::tempdir().unwrap();
        let start = |hook: &mut Hook| hook.start("sleep 60", folder.path(), 1, &Alert::default());
        (0..MOST).for_each(|_| start(&mut hook).unwrap());
        let error = start(&mut hook).unwrap_err();
        assert!(error.to_string().contains("still run"), "{error}");
        for child in &mut hook.running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        start(&mut hook).unwrap();
        hook.running[0].kill().unwrap();
        hook.running[0].wait().unwrap();
    }
}
