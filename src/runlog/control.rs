//! Commands to a live run, through the file `control.jsonl` in its folder: works for another
//! terminal, a script or ssh, on every system, and file permissions say who may.
//!
//! Anyone appends a line; the trainer reads new lines between two updates and answers each with a
//! `cmd` event that carries the command's id. What was written before the trainer's process started
//! is never carried out again.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::now_ms;
use super::index::RunDir;
use super::lines::Lines;
use crate::error::{Error, Result};

/// The words of the commands, as scripts write them.
pub const WORDS: [&str; 9] =
    ["pause", "resume", "unload", "checkpoint", "sample", "eval", "spectra", "stop", "set"];

/// What a run can be asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub enum Action {
    /// Wait after the current update.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Write a checkpoint after the current update.
    Checkpoint,
    /// End after the current update, with a checkpoint.
    Stop,
    /// Let the model write text.
    Sample,
    /// Measure the validation loss.
    Eval,
    /// Measure spectra and ranks.
    Spectra,
    /// Write a checkpoint, free the device's memory and wait; the run comes back with `resume`.
    Unload,
    /// Change a setting from the next update on.
    Set {
        /// The setting.
        key: String,
        /// Its new value.
        value: Value,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Stop => f.write_str("stop"),
            Self::Sample => f.write_str("sample"),
            Self::Eval => f.write_str("eval"),
            Self::Spectra => f.write_str("spectra"),
            Self::Unload => f.write_str("unload"),
            Self::Set { key, value } => write!(f, "set {key}={value}"),
        }
    }
}

impl Action {
    /// Reads a word, and for `set` its `KEY=VALUE`. A value that is not JSON is taken as text.
    ///
    /// Errors: `Error::Config` for anything else.
    pub fn parse(word: &str, argument: Option<&str>) -> Result<Self> {
        let bare = match word {
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "unload" => Self::Unload,
            "checkpoint" => Self::Checkpoint,
            "sample" => Self::Sample,
            "eval" => Self::Eval,
            "spectra" => Self::Spectra,
            "stop" => Self::Stop,
            "set" => return Self::parse_set(argument),
            _ => {
                return Err(Error::config(
                    format!("unknown command \"{word}\""),
                    format!("use one of: {}", WORDS.join(", ")),
                ));
            }
        };
        match argument {
            None => Ok(bare),
            Some(extra) => Err(Error::config(
                format!("{word} takes no argument, found \"{extra}\""),
                format!("write `{word}` alone"),
            )),
        }
    }

    fn parse_set(pair: Option<&str>) -> Result<Self> {
        let example = "write for example `set learning_rate=1e-4`";
        let Some(pair) = pair else { return Err(Error::config("set needs KEY=VALUE", example)) };
        match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let (key, value) = (key.trim().to_string(), value.trim());
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                Ok(Self::Set { key, value })
            }
            _ => Err(Error::config(format!("set {pair}: not of the form KEY=VALUE"), example)),
        }
    }
}

/// An action with the id that its answer carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Unique among the commands of a run.
    pub id: String,
    /// When it was written, in milliseconds since 1970.
    pub ts: i64,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
}

impl Command {
    /// A new command with an id of its own.
    pub fn new(action: Action) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let ts = now_ms();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { id: format!("{ts}-{}-{count}", std::process::id()), ts, action }
    }

    /// Appends the command to the run's file, in one write.
    ///
    /// Errors: `Error::Io`.
    pub fn send(&self, run: &RunDir) -> Result<()> {
        let path = run.control();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let json = serde_json::to_string(self)
            .map_err(|error| Error::io("write", &path)(std::io::Error::other(error)))?;
        // A sender that was killed may have left half a line; it must not swallow this one.
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last).map_err(Error::io("read", &path))?;
        }
        let start = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{start}{json}\n").as_bytes()).map_err(Error::io("write", &path))
    }
}

/// The trainer's side: reads the commands that came since the last look.
#[derive(Debug)]
pub struct ControlReader {
    lines: Lines,
}

impl ControlReader {
    /// Starts at the end of what the file holds now: older commands were for older processes.
    pub fn open(run: &RunDir) -> Result<Self> {
        Ok(Self { lines: Lines::from_end(run.control())? })
    }

    /// The commands that came since the last call, oldest first; costs one look at the file's length
    /// where none came. Lines that are no commands are skipped.
    pub fn poll(&mut self) -> Result<Vec<Command>> {
        let mut commands = Vec::new();
        self.lines.read(|line| commands.extend(serde_json::from_slice::<Command>(line).ok()))?;
        Ok(commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn run() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(folder.path());
        (folder, run)
    }

    #[test]
    fn commands_arrive_once_in_order_and_old_ones_never() {
        let (_folder, run) = run();
        Command::new(Action::Stop).send(&run).unwrap();
        let mut reader = ControlReader::open(&run).unwrap();
        assert_eq!(reader.poll().unwrap(), []);
        let sent = [
            Command::new(Action::Pause),
            Command::new(Action::Set { key: "learning_rate".into(), value: 0.001.into() }),
            Command::new(Action::Checkpoint),
        ];
        for command in &sent {
            command.send(&run).unwrap();
        }
        assert_eq!(reader.poll().unwrap(), sent);
        assert_eq!(reader.poll().unwrap(), []);
        assert_ne!(sent[0].id, sent[1].id);
    }

    #[test]
    fn the_file_may_appear_after_the_reader() {
        let (_folder, run) = run();
        let mut reader = ControlReader::open(&run).unwrap();
        assert_eq!(reader.poll().unwrap(), []);
        Command::new(Action::Resume).send(&run).unwrap();
        assert_eq!(reader.poll().unwrap().len(), 1);
    }

    #[test]
    fn half_a_line_does_not_swallow_the_next_command() {
        let (_folder, run) = run();
        std::fs::write(run.control(), "").unwrap();
        let mut reader = ControlReader::open(&run).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(run.control())
            .unwrap()
            .write_all(b"{\"id\":\"x\",\"ts\":1,\"cmd\":\"st")
            .unwrap();
        assert_eq!(reader.poll().unwrap(), []);
        let command = Command::new(Action::Checkpoint);
        command.send(&run).unwrap();
        assert_eq!(reader.poll().unwrap(), [command]);
    }

    #[test]
    fn a_command_looks_as_scripts_write_it() {
        let text = r#"{"id":"7","ts":5,"cmd":"set","key":"lr","value":0.5}"#;
        let command: Command = serde_json::from_str(text).unwrap();
        assert_eq!(command.action.to_string(), "set lr=0.5");
        assert_eq!(serde_json::to_string(&command).unwrap(), text);
    }

    #[test]
    fn words_become_actions_and_wrong_ones_say_what_is_right() {
        assert_eq!(Action::parse("stop", None).unwrap(), Action::Stop);
        let set = Action::Set { key: "lr".into(), value: 0.5.into() };
        assert_eq!(Action::parse("set", Some("lr = 0.5")).unwrap(), set);
        let set = Action::Set { key: "name".into(), value: "a=b".into() };
        assert_eq!(Action::parse("set", Some("name=a=b")).unwrap(), set);
        for (word, argument) in [
            ("halt", None),
            ("set", None),
            ("set", Some("lr")),
            ("set", Some("=1")),
            ("stop", Some("now")),
        ] {
            let error = Action::parse(word, argument).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
