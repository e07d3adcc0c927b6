//! `fullrank ctl`: sends a command to a live run and waits for its answer.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::text;
use crate::error::{Error, Result};
use crate::runlog::status::Status;
use crate::runlog::summary::RunState;
use crate::runlog::{Action, Body, Command, Event, Resume, RunDir, Tail, find};

/// How long an answer is waited for; a run answers between two updates.
pub const WAIT: Duration = Duration::from_secs(10);
/// How often the log is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sends `action` to the run `name` and, with `wait`, says what the run did. No answer in time is no
/// error: a long update may be under way, and the command stays in the run's file.
///
/// Errors: `Error::Run` if there is no such run, it is not live, or it refuses.
pub fn ctl(
    out: &Path,
    name: &str,
    action: Action,
    wait: Option<Duration>,
    stdout: &mut dyn Write,
) -> Result<()> {
    let run = find(out, name)?;
    let state = RunState::of(&run)?;
    if !state.status.is_live() {
        return Err(not_live(&run, state.status, &action));
    }
    if (action == Action::Pause) == (state.status == Status::Paused)
        && matches!(action, Action::Pause | Action::Resume)
    {
        let what = if action == Action::Pause { "already paused" } else { "not paused" };
        return text::print(stdout, &format!("{} is {what}\n", run.name()));
    }
    let mut answers = Tail::from_end(run.events())?;
    let command = Command::new(action);
    command.send(&run)?;
    let Some(wait) = wait else {
        return text::print(stdout, &format!("sent {} to {}\n", command.action, run.name()));
    };
    let deadline = Instant::now() + wait;
    loop {
        let is_live = run.is_locked()?; // asked before the log is read: the last words come first
        for event in answers.poll()? {
            if let Some(answer) = answer(&command, &event) {
                let answer = answer.map_err(|what| {
                    Error::run(
                        format!("run {} refused {}: {what}", run.name(), command.action),
                        format!("look at the run with `fullrank show {}`", run.as_argument()),
                    )
                })?;
                return text::print(stdout, &format!("{}: {answer}\n", run.name()));
            }
        }
        if !is_live {
            return Err(not_live(&run, RunState::of(&run)?.status, &command.action));
        }
        if Instant::now() >= deadline {
            let line = format!(
                "sent {} to {}; no answer after {} s, it acts when its current update is done\n",
                command.action,
                run.name(),
                wait.as_secs()
            );
            return text::print(stdout, &line);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn not_live(run: &RunDir, status: Status, action: &Action) -> Error {
    let argument = run.as_argument();
    let remedy = match status {
        Status::Finished => format!("look at it with `fullrank show {argument}`"),
        _ => format!("go on with `fullrank resume {argument}`"),
    };
    Error::run(format!("run {} is {status}, so it cannot {action}", run.name()), remedy)
}

/// What an event says about a command: done with a text, refused with a reason, or nothing.
fn answer(command: &Command, event: &Event) -> Option<std::result::Result<String, String>> {
    let at = || format!("at step {}", text::count(event.step));
    match (&event.body, &command.action) {
        (Body::Cmd(cmd), _) if cmd.id == command.id => {
            if !cmd.ok {
                return Some(Err(cmd.what.clone()));
            }
            let what = if cmd.what.is_empty() { "done" } else { &cmd.what };
            Some(Ok(format!("{} {}, {what}", command.action, at())))
        }
        (Body::Pause(_), Action::Pause) => Some(Ok(format!("paused {}", at()))),
        (Body::Resume(Resume { from_step: None, .. }), Action::Resume) => {
            Some(Ok(format!("goes on {}", at())))
        }
        (Body::Ckpt(ckpt), Action::Checkpoint) => Some(Ok(format!("wrote {}", ckpt.path))),
        (Body::End(_), Action::Stop) => Some(Ok(format!("stopped {}", at()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_runs;
    use super::*;
    use crate::runlog::{Cmd, ControlReader, End, EndStatus, Pause, RunWriter};

    fn send(out: &Path, action: Action, wait: Option<Duration>) -> Result<String> {
        let mut stdout = Vec::new();
        ctl(out, "latest", action, wait, &mut stdout)?;
        Ok(String::from_utf8(stdout).unwrap())
    }

    /// Sends `action` to a run whose trainer answers with what `reply` makes of the command.
    fn talk(
        action: Action,
        reply: impl FnOnce(&Command) -> Body + Send + 'static,
    ) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let run = test_runs::crashed(folder.path(), "20261121-190000-lora");
        let lock = run.lock().unwrap();
        let mut reader = ControlReader::open(&run).unwrap();
        let mut writer = RunWriter::open(run.events()).unwrap();
        let trainer = std::thread::spawn(move || {
            let _lock = lock;
            loop {
                if let Some(command) = reader.poll().unwrap().first() {
                    let body = reply(command);
                    writer.emit(11, body).unwrap();
                    writer.flush().unwrap();
                    // A trainer that lives on; the lock must outlast the answer.
                    std::thread::sleep(Duration::from_millis(200));
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let answer = send(folder.path(), action, Some(Duration::from_secs(20)));
        trainer.join().unwrap();
        answer
    }

    #[test]
    fn a_live_run_gets_the_command_and_its_answer_is_shown() {
        let paused = talk(Action::Pause, |_| Pause::default().into()).unwrap();
        assert_eq!(paused, "20261121-190000-lora: paused at step 11\n");
        let set = Action::Set { key: "learning_rate".into(), value: 0.001.into() };
        let done = talk(set, |command| {
            let cmd = command.action.to_string();
            Cmd {
                id: command.id.clone(),
                cmd,
                ok: true,
                what: "was 0.002".into(),
                ..Cmd::default()
            }
            .into()
        });
        let expected = "20261121-190000-lora: set learning_rate=0.001 at step 11, was 0.002\n";
        assert_eq!(done.unwrap(), expected);
        let stopped =
            talk(Action::Stop, |_| End { status: EndStatus::Stopped, what: String::new() }.into());
        assert_eq!(stopped.unwrap(), "20261121-190000-lora: stopped at step 11\n");
    }

    #[test]
    fn a_refusal_is_an_error_with_the_reason() {
        let set = Action::Set { key: "rank".into(), value: 8.into() };
        let error = talk(set, |command| {
            let what = "rank needs a restart".into();
            Cmd { id: command.id.clone(), ok: false, what, ..Cmd::default() }.into()
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "run 20261121-190000-lora refused set rank=8: rank needs a restart"
        );
    }

    #[test]
    fn a_run_that_is_not_live_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        test_runs::finished(folder.path(), "20261120-180011-demo");
        let error = send(folder.path(), Action::Pause, None).unwrap_err();
        assert_eq!(error.to_string(), "run 20261120-180011-demo is finished, so it cannot pause");
        let crashed = test_runs::crashed(folder.path(), "20261121-190000-lora");
        let error = send(folder.path(), Action::Resume, None).unwrap_err();
        assert!(error.to_string().contains("is crashed"), "{error}");
        let folder = crashed.path().display();
        assert_eq!(error.remedy(), format!("go on with `fullrank resume {folder}`"));
        assert!(!crashed.control().exists(), "nothing was sent");
    }

    #[test]
    fn no_answer_in_time_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let run = test_runs::crashed(folder.path(), "20261121-190000-lora");
        let _lock = run.lock().unwrap();
        let text = send(folder.path(), Action::Stop, Some(Duration::ZERO)).unwrap();
        assert!(text.contains("no answer after 0 s"), "{text}");
        let text = send(folder.path(), Action::Stop, None).unwrap();
        assert_eq!(text, "sent stop to 20261121-190000-lora\n");
        let text = send(folder.path(), Action::Resume, None).unwrap();
        assert_eq!(text, "20261121-190000-lora is not paused\n");
    }
}
