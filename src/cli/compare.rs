//! `fullrank compare`: several methods side by side, and a table of what they reached.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::args::{CompareArgs, CompareStart, UiMode};
use super::line::LINE_EVERY;
use super::screen::{self, Lines, Stage};
use super::train::tell_signal;
use super::{log, print, text, words};
use crate::compare::{self, Observer, Outcome, config_of};
use crate::error::{Error, Result};
use crate::report::Comparison;
use crate::run::commands::Signals;
use crate::run::session::with_threads;
use crate::runlog::compare::{CompareDir, Plan};
use crate::runlog::{
    Body, EndStatus, Event, EventSink, Level, RunDir, Status, Summary, find_comparison,
};
use crate::tui::action::ViewId;
use crate::tui::source::LiveSink;

/// Trains the members of a comparison and prints the table.
///
/// Errors: `Error::Run` if a member failed or diverged (the others are trained and in the table),
/// `Error::Interrupted` with every member's checkpoint written.
pub fn compare(args: CompareArgs, stdout: &mut dyn Write) -> Result<()> {
    let CompareArgs { start, out, ui, ascii } = args;
    let dir = match start {
        CompareStart::New { wanted, name } => {
            let plan = compare::make(&wanted)?;
            let dir = CompareDir::create(&out, &name.unwrap_or_else(|| names(&plan)), &plan)?;
            if ui != UiMode::None {
                let count = plan.members.len();
                print::notice(&format!("comparing {count} runs in {}", dir.path().display()));
            }
            dir
        }
        CompareStart::Resume(what) => find_comparison(&out, &what)?.ok_or_else(|| {
            Error::config(
                format!("no comparison \"{what}\" in {}", out.display()),
                "name its folder, compare-…; `fullrank compare --methods …` starts one",
            )
        })?,
    };
    go_on(&dir, ui, ascii, stdout)
}

/// Trains what is left of a comparison.
pub(super) fn go_on(
    dir: &CompareDir,
    ui: UiMode,
    ascii: bool,
    stdout: &mut dyn Write,
) -> Result<()> {
    let _lock = dir.lock()?;
    let plan = dir.plan()?;
    let threads = match plan.members.first() {
        Some(member) => config_of(dir, &plan, member)?.train.threads,
        None => 0,
    };
    let outcome = if ui == UiMode::Tui {
        let work = |stage: &Stage| {
            let mut view = OnScreen::new(dir, &plan, stage)?;
            let outcome =
                with_threads(threads, || compare::train(dir, &plan, &stage.signals, &mut view))?;
            if outcome.signal.is_some() {
                stage.leave();
            }
            Ok(outcome)
        };
        let lines = |_: &[RunDir]| -> Result<Lines<'static>> {
            let mut view = View::new(dir, &plan, UiMode::Line)?;
            Ok(Box::new(move |member, event: &Event| view.on_event(member, event)))
        };
        screen::show(ascii, ViewId::Compare, work, lines)?
    } else {
        let mut view = View::new(dir, &plan, ui)?;
        let name = dir.path().display().to_string();
        let signals = Signals::listen(move |press| {
            let after = format!("`fullrank resume {name}` goes on from the members' checkpoints");
            tell_signal(ui, &words::on_signal(press, || after.clone()));
        })?;
        with_threads(threads, || compare::train(dir, &plan, &signals, &mut view))?
    };
    let table = Comparison::read(dir, &plan)?.table();
    table.write(dir.path())?;
    if let Some(signal) = outcome.signal {
        return Err(Error::Interrupted { signal, run: Some(dir.path().display().to_string()) });
    }
    if ui != UiMode::Json {
        text::print(stdout, &table.text())?;
    }
    check(&outcome, dir.path())
}

/// An error where members did not end well.
fn check(outcome: &Outcome, dir: &Path) -> Result<()> {
    let failed: Vec<&str> = outcome.failed().map(|ending| ending.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::run(
        format!("{} of {} runs failed: {}", failed.len(), outcome.members.len(), failed.join(", ")),
        format!(
            "the table says why; after the cause is mended `fullrank resume {}` tries failed ones again",
            dir.display()
        ),
    ))
}

/// A name made from the methods.
fn names(plan: &Plan) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for member in &plan.members {
        if let Some(method) = member.settings.get("train.method")
            && !methods.contains(&method.as_str())
        {
            methods.push(method);
        }
    }
    if methods.len() > 4 { format!("{}-methods", methods.len()) } else { methods.join("-") }
}

/// Hands what members do to the full screen.
struct OnScreen<'a> {
    stage: &'a Stage,
    members: Vec<RunDir>,
    sinks: Vec<LiveSink>,
}

impl<'a> OnScreen<'a> {
    fn new(dir: &CompareDir, plan: &Plan, stage: &'a Stage) -> Result<Self> {
        stage.feed.captured_to(dir.path())?;
        let members: Vec<RunDir> =
            plan.members.iter().map(|member| dir.member(&member.name)).collect();
        let sinks = members.iter().map(|member| stage.own(member)).collect::<Result<_>>()?;
        Ok(Self { stage, members, sinks })
    }
}

impl Observer for OnScreen<'_> {
    fn on_turn(&mut self, member: usize) {
        let member = &self.members[member];
        // A log that cannot be opened is not worth the run.
        log::to(member.path().is_dir().then(|| log::open(&member.log()).ok()).flatten());
    }

    fn on_event(&mut self, member: usize, event: &Event) {
        self.sinks[member].on_event(event);
    }

    fn on_note(&mut self, note: &str) {
        self.stage.say(note);
    }
}

/// Shows what members do: a line for each per interval, and what happens to them.
struct View {
    ui: UiMode,
    members: Vec<Seen>,
    width: usize,
    is_stdout_closed: bool,
}

/// A member as the view knows it.
struct Seen {
    name: String,
    log_path: std::path::PathBuf,
    log: Option<Arc<File>>,
    summary: Summary,
    /// When its last line was printed.
    printed: Option<i64>,
}

impl View {
    fn new(dir: &CompareDir, plan: &Plan, ui: UiMode) -> Result<Self> {
        let seen = |name: &String| {
            let run = dir.member(name);
            Ok(Seen {
                name: name.clone(),
                log_path: run.log(),
                log: None,
                summary: Summary::of(&run)?,
                printed: None,
            })
        };
        let members: Vec<Seen> =
            plan.members.iter().map(|member| seen(&member.name)).collect::<Result<_>>()?;
        let width = members.iter().map(|seen| seen.name.chars().count()).max().unwrap_or(0);
        Ok(Self { ui, members, width, is_stdout_closed: false })
    }

    fn say(&self, member: usize, words: &str) {
        let name = &self.members[member].name;
        let line = format!("{name:<width$}  {words}", width = self.width);
        print::notice(text::printable(&line).trim_end());
    }

    fn show(&mut self, member: usize, event: &Event) {
        let seen = &mut self.members[member];
        seen.summary.add(event);
        let (summary, all) = (&seen.summary, text::count(seen.summary.run.steps));
        let at = |what: &str| {
            let width = all.len();
            format!("{what:<5} {:>width$}/{all}", text::count(event.step))
        };
        let words = match &event.body {
            Body::Step(update) => {
                let every = i64::try_from(LINE_EVERY.as_millis()).unwrap_or(i64::MAX);
                let is_last = event.step == summary.run.steps;
                let is_due = seen.printed.is_none_or(|printed| event.ts - printed >= every);
                if !is_due && !is_last {
                    return;
                }
                seen.printed = Some(event.ts);
                let loss = summary.smooth.value().unwrap_or(update.loss);
                format!(
                    "{}  loss {:<7} lr {}  grad {:<5} {:>7} tok/s  time {}",
                    at("step"),
                    text::loss(loss),
                    text::lr(update.lr),
                    text::short(update.grad_norm),
                    text::rate(update.tok_s),
                    text::clock(update.active_s),
                )
            }
            Body::Eval(eval) => {
                format!(
                    "{}  loss {:<7} ppl {}",
                    at("eval"),
                    text::loss(eval.loss),
                    text::ppl(eval.ppl)
                )
            }
            Body::Skip(skip) => format!("{}  {}", at("skip"), skip.reason),
            Body::Alert(alert) if alert.level != Level::Info => {
                format!("alert {} {}", alert.what, alert.remedy)
            }
            Body::Log(message) if message.level != Level::Info => format!("note  {}", message.msg),
            Body::Pause(pause) => format!("{}  {}", at("pause"), pause.reason),
            // The warning that follows says it in full.
            Body::Resume(resume) if resume.rollback.is_some() => return,
            Body::Resume(resume) => match resume.from_step {
                Some(step) => format!("goes on from step {}", text::count(step)),
                None => "goes on".into(),
            },
            Body::End(end) if end.status != EndStatus::Finished => {
                format!("{}  {} {}", at("end"), Status::of(false, summary.last_word), end.what)
            }
            Body::End(_) => format!("{}  finished", at("end")),
            _ => return,
        };
        self.say(member, &words);
    }

    /// The event as a line of JSON, with the member's name.
    fn show_json(&mut self, member: usize, event: &Event) {
        let name = &self.members[member].name;
        let line = serde_json::to_value(event).ok().and_then(|mut value| {
            value.as_object_mut()?.insert("member".into(), name.as_str().into());
            serde_json::to_string(&value).ok()
        });
        if let (false, Some(line)) = (self.is_stdout_closed, line) {
            let mut stdout = std::io::stdout();
            let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
            self.is_stdout_closed = written.is_err();
        }
    }
}

impl Observer for View {
    fn on_turn(&mut self, member: usize) {
        let seen = &mut self.members[member];
        if seen.log.is_none() && seen.log_path.parent().is_some_and(Path::is_dir) {
            // A log that cannot be opened is not worth the run.
            seen.log = log::open(&seen.log_path).ok();
        }
        log::to(seen.log.clone());
    }

    fn on_event(&mut self, member: usize, event: &Event) {
        match self.ui {
            UiMode::None => {}
            UiMode::Json => self.show_json(member, event),
            UiMode::Auto | UiMode::Tui | UiMode::Line => self.show(member, event),
        }
    }

    fn on_note(&mut self, note: &str) {
        if self.ui != UiMode::None {
            print::notice(note);
        }
    }
}
