//! Training without a screen: a progress bar on a terminal, otherwise one dense line per interval.
//!
//! It sees only events. Words for people go to stderr; with `--ui json` the events themselves go to
//! stdout and nothing else does.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pace::Pace;
use super::show::quoted;
use super::text::{self, clock, count};
use super::words;
use crate::runlog::{Body, EndStatus, Event, EventSink, Level, Resume, RunDir, Step, Summary};

/// How often a line is printed where there is no terminal.
pub const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often a terminal is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 8;
/// Width of quoted samples, in characters.
const SAMPLE_WIDTH: usize = 88;

/// How training is shown without the full screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A progress bar, with lines above it for what happened. For terminals.
    Bar,
    /// One line per interval and one for what happened. For files and pipes.
    Lines,
    /// Every event as a line of JSON on stdout.
    Json,
    /// Nothing.
    None,
}

impl Mode {
    /// The bar where stderr is a terminal that can move its cursor, else lines.
    pub fn for_stderr() -> Self {
        let is_dumb = super::screen::is_dumb();
        let is_ci = std::env::var_os("CI").is_some();
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        if is_terminal && !is_dumb && !is_ci { Self::Bar } else { Self::Lines }
    }
}

/// The view. It is an [`EventSink`]: the trainer hands it every event.
pub struct LineView {
    mode: Mode,
    every: Duration,
    run: RunDir,
    next: Vec<String>,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
    summary: Summary,
    pace: Pace,
    /// When the last line of an update was printed, and of which.
    printed: Option<(i64, u64)>,
    last_step: Option<(i64, u64, Step)>,
    switched: u64,
    is_stdout_closed: bool,
}

impl LineView {
    /// A view of the run in `run` on the process's own stdout and stderr.
    pub fn new(mode: Mode, run: RunDir) -> Self {
        let mut view =
            Self::with_outputs(mode, run, Box::new(std::io::stdout()), Box::new(std::io::stderr()));
        if mode == Mode::Bar {
            view.bar = Some(new_bar(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)));
        }
        view
    }

    /// A view that writes to the given places. [`Mode::Bar`] has no bar here, only lines.
    pub fn with_outputs(
        mode: Mode,
        run: RunDir,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            mode,
            every: LINE_EVERY,
            run,
            next: Vec::new(),
            stdout,
            stderr,
            bar: None,
            summary: Summary::default(),
            pace: Pace::default(),
            printed: None,
            last_step: None,
            switched: 0,
            is_stdout_closed: false,
        }
    }

    /// Sets how often a line is printed.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Tells the view what the run did before this process, for a resumed run.
    #[must_use]
    pub fn after(mut self, history: Summary) -> Self {
        self.summary = history;
        self
    }

    /// Sets the commands that the last words propose, in place of the usual ones.
    #[must_use]
    pub fn next_commands(mut self, commands: Vec<String>) -> Self {
        self.next = commands;
        self
    }

    fn say(&mut self, line: &str) {
        // The screen of a run is not worth the run: a closed stderr is ignored.
        if let Some(bar) = &self.bar {
            bar.suspend(|| {
                let _ = writeln!(self.stderr, "{line}");
            });
        } else {
            let _ = writeln!(self.stderr, "{line}");
        }
    }

    /// A line about something that happened at a step, aligned with the lines of the updates.
    fn say_at(&mut self, what: &str, step: u64, words: &str) {
        let line = format!("{} {}", self.start(what, step), text::printable(words));
        self.say(line.trim_end());
    }

    /// `step     100/2,000   5.0%`, in columns that do not move during the run.
    fn start(&self, what: &str, step: u64) -> String {
        let all = self.summary.run.steps;
        if all == 0 {
            return format!("{what:<8}{:>9} ", count(step));
        }
        let total = count(all);
        let percent = 100.0 * step as f64 / all as f64;
        format!("{what:<8}{:>width$}/{total} {percent:>5.1}% ", count(step), width = total.len())
    }

    fn show(&mut self, event: &Event) {
        let step = event.step;
        match &event.body {
            Body::Run(run) => {
                if let Some(bar) = &self.bar {
                    bar.set_length(run.steps);
                }
                for line in words::first(run, &self.run) {
                    self.say(&line);
                }
            }
            Body::Phase(phase) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(text::printable(&format!("{} {}", phase.name, phase.detail)));
                }
                if !phase.detail.is_empty() {
                    // Of names that are wider than the column, the rest goes on in the text.
                    let words = match phase.name.len() {
                        ..8 => format!("{:<7} {}", phase.name, phase.detail),
                        _ => format!("{:<7} {}: {}", "phase", phase.name, phase.detail),
                    };
                    self.say(&text::printable(&words));
                }
            }
            Body::Clamp(clamp) => {
                let words = format!(
                    "{}: rank {} instead of {} {}",
                    clamp.layer, clamp.rank, clamp.wanted, clamp.reason
                );
                self.say_message(Level::Info, words.trim_end());
            }
            Body::Step(update) => self.show_step(event.ts, step, update),
            Body::Skip(skip) => self.say_at("skip", step, &skip.reason),
            Body::Eval(eval) => {
                let is_best = self.summary.best_eval().is_some_and(|best| best.step == step);
                let mark = if is_best && self.summary.evals.len() > 1 { "  best" } else { "" };
                let words =
                    format!("loss {}  ppl {}{mark}", text::loss(eval.loss), text::ppl(eval.ppl));
                self.say_at("eval", step, &words);
            }
            Body::Switch(switch) => {
                self.switched += switch.l.iter().map(|layer| 2 * u64::from(layer.k)).sum::<u64>();
            }
            Body::Reset(reset) => {
                let words = format!(
                    "{}: moments cut back ({}), {:.1} % and {:.1} % are zero",
                    reset.count,
                    reset.mode,
                    100.0 * reset.m_zeroed,
                    100.0 * reset.v_zeroed
                );
                self.say_at("restart", step, &words);
            }
            Body::Ckpt(ckpt) => {
                let mark = if ckpt.is_best { "  best" } else { "" };
                let words = format!("{}  {}{mark}", ckpt.path, text::bytes(ckpt.bytes));
                self.say_at("saved", step, &words);
            }
            Body::Sample(sample) => {
                self.say_at("sample", step, "");
                for line in quoted(sample, SAMPLE_WIDTH) {
                    self.say(&format!("        {line}"));
                }
            }
            Body::Alert(alert) => {
                self.say_message(alert.level, &alert.what);
                if !alert.remedy.is_empty() {
                    self.say(&text::printable(&format!("        {}", alert.remedy)));
                }
            }
            // Before the first update they are about how the run began; later ones are for the log.
            Body::Log(log) if log.level != Level::Info || self.last_step.is_none() => {
                self.say_message(log.level, &log.msg);
            }
            Body::Cmd(cmd) => {
                let result = if cmd.ok { "" } else { "refused: " };
                self.say_at("command", step, &format!("{}  {result}{}", cmd.cmd, cmd.what));
            }
            Body::Pause(pause) => {
                self.pace = Pace::default();
                if let Some(bar) = &self.bar {
                    bar.set_message("paused");
                }
                self.say_at("paused", step, &pause.reason);
            }
            Body::Resume(resume) => {
                self.pace = Pace::default();
                if resume.rollback.is_some() {
                    // The warning that follows says it in full.
                    return;
                }
                let words = match resume {
                    Resume { from_step: Some(from), .. } => {
                        format!("from the checkpoint of step {}", count(*from))
                    }
                    Resume { from_step: None, .. } => String::new(),
                };
                self.say_at("resumed", step, &words);
            }
            Body::End(end) => self.show_end(end.status, &end.what),
            _ => {}
        }
    }

    fn say_message(&mut self, level: Level, message: &str) {
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "note",
        };
        self.say(&text::printable(&format!("{word:<8}{message}")));
    }

    fn show_step(&mut self, ts: i64, step: u64, update: &Step) {
        self.pace.add(ts, step, update);
        self.last_step = Some((ts, step, update.clone()));
        if self.mode == Mode::Bar && self.bar.is_some() {
            self.move_bar(step, update);
            return;
        }
        let is_last = step == self.summary.run.steps;
        let is_due = is_last
            || self.printed.is_none_or(|(printed, _)| {
                ts.saturating_sub(printed)
                    >= i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX)
            });
        if is_due {
            self.print_step(ts, step, update);
        }
    }

    fn print_step(&mut self, ts: i64, step: u64, update: &Step) {
        self.printed = Some((ts, step));
        let run = &self.summary.run;
        let loss = text::loss(self.summary.smooth.value().unwrap_or(update.loss));
        let lr = text::lr(update.lr);
        let grad = text::short(update.grad_norm);
        let rate = text::rate(self.pace.tok_s().unwrap_or(update.tok_s));
        let tokens = count(update.tokens);
        let learned = words::learned(run, step, update.tokens);
        let width = count(run.steps.saturating_mul(run.tokens_per_step)).len();
        let time = clock(update.active_s);
        let left = text::or_absent(self.pace.left_s(run, step, update), clock);
        self.say(&format!(
            "{} loss {loss:<6}  lr {lr}  grad {grad:<4}  {rate:>7} {learned}tok/s  {tokens:>width$} {learned}tokens  \
             time {time:>5}  left {left:>5}",
            self.start("step", step),
        ));
    }

    fn move_bar(&self, step: u64, update: &Step) {
        let Some(bar) = &self.bar else { return };
        let smooth = self.summary.smooth.value().unwrap_or(update.loss);
        let left = text::or_absent(self.pace.left_s(&self.summary.run, step, update), clock);
        bar.set_prefix(self.start("step", step).trim_end().to_string());
        // A narrow terminal cuts off the end, so what matters most comes first.
        bar.set_message(format!(
            "loss {}  ppl {}  left {left}  {} {}tok/s  lr {}  time {}",
            text::loss(smooth),
            text::ppl(smooth.exp()),
            text::rate(self.pace.tok_s().unwrap_or(update.tok_s)),
            words::learned(&self.summary.run, step, update.tokens),
            text::lr(update.lr),
            clock(update.active_s),
        ));
        bar.set_position(step);
    }

    fn show_end(&mut self, status: EndStatus, what: &str) {
        if let Some((ts, step, update)) = self.last_step.take()
            && self.bar.is_none()
            && self.printed.is_none_or(|(_, printed)| printed != step)
        {
            self.print_step(ts, step, &update);
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let (summary, run) = (&self.summary, &self.run);
        for line in words::last(summary, run, self.switched, status, what, &self.next) {
            self.say(&line);
        }
    }
}

impl EventSink for LineView {
    fn on_event(&mut self, event: &Event) {
        match self.mode {
            Mode::None => {}
            Mode::Json => {
                if let (false, Ok(line)) = (self.is_stdout_closed, event.to_line()) {
                    let written =
                        writeln!(self.stdout, "{line}").and_then(|()| self.stdout.flush());
                    self.is_stdout_closed = written.is_err();
                }
            }
            Mode::Bar | Mode::Lines => {
                self.summary.add(event);
                self.show(event);
            }
        }
    }
}

impl Drop for LineView {
    /// Leaves the terminal without a half-drawn bar when a run ends without its `end` event.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target);
    let template = "{prefix} {bar:12.cyan} {wide_msg}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸─")),
        Err(_) => bar, // the template is ours and right; the plain bar would do as well
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::test_runs;
    use super::*;
    use crate::runlog::{Alert, Clamp, End, Log, Pause, Run, Sample, Skip};

    /// A place to write to that can be read afterwards.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn events(bodies: Vec<(i64, u64, Body)>) -> Vec<Event> {
        (1..).zip(bodies).map(|(seq, (ts, step, body))| Event { seq, ts, step, body }).collect()
    }

    fn watch(mode: Mode, events: &[Event]) -> (String, String) {
        let (stdout, stderr) = (Page::default(), Page::default());
        let run = RunDir::at("runs/20261121-180011-demo");
        let outputs = (Box::new(stdout.clone()), Box::new(stderr.clone()));
        let mut view = LineView::with_outputs(mode, run, outputs.0, outputs.1);
        for event in events {
            view.on_event(event);
        }
        (stdout.text(), stderr.text())
    }

    fn whole_run() -> Vec<Event> {
        let mut bodies = test_runs::events("switchlora", 30);
        let sample = Sample { prompt: "It is".into(), text: " a truth\nthat \u{1b}[2J".into() };
        bodies.push((test_runs::END - 1000, 30, sample.into()));
        let end = End { status: EndStatus::Finished, what: String::new() };
        bodies.push((test_runs::END, 30, end.into()));
        events(bodies)
    }

    #[test]
    fn a_run_without_a_terminal_is_a_page_of_plain_lines() {
        let (stdout, stderr) = watch(Mode::Lines, &whole_run());
        assert_eq!(stdout, "");
        assert!(!stderr.contains('\u{1b}') && !stderr.contains('\r'));
        assert_eq!(
            stderr,
            "\
method  switchlora, rank 64
model   demo: 3,212,288 parameters, 1,064,960 trained
data    five novels by Jane Austen: 1,002,003 tokens, 120,034 for validation
plan    30 updates of 2,048 tokens, seed 42
device  CPU, 2 threads
folder  runs/20261121-180011-demo

eval     0/30   0.0%  loss 8.3000  ppl 4,023.87
step     1/30   3.3%  loss 4.9950  lr 1.00e-3  grad 1.25    1,024 tok/s   2,048 tokens  time  0:02  left     -
step     6/30  20.0%  loss 4.9820  lr 1.67e-4  grad 1.25    1,024 tok/s  12,288 tokens  time  0:12  left  0:48
eval    10/30  33.3%  loss 5.4000  ppl 221.41  best
step    11/30  36.7%  loss 4.9683  lr 9.09e-5  grad 1.25    1,024 tok/s  22,528 tokens  time  0:22  left  0:38
step    16/30  53.3%  loss 4.9538  lr 6.25e-5  grad 1.25    1,024 tok/s  32,768 tokens  time  0:32  left  0:28
eval    20/30  66.7%  loss 4.9000  ppl 134.29  best
saved   20/30  66.7%  checkpoints/step-00000020  39.1 MiB  best
step    21/30  70.0%  loss 4.9387  lr 4.76e-5  grad 1.25    1,024 tok/s  43,008 tokens  time  0:42  left  0:18
step    26/30  86.7%  loss 4.9229  lr 3.85e-5  grad 1.25    1,024 tok/s  53,248 tokens  time  0:52  left  0:08
step    30/30 100.0%  loss 4.9097  lr 3.33e-5  grad 1.25    1,024 tok/s  61,440 tokens  time  1:00  left  0:00
eval    30/30 100.0%  loss 4.4000  ppl 81.45  best
sample  30/30 100.0%
        │ It is a truth
        │ that �[2J

finished after 30 updates
  trained                61,440 tokens in 1:00, 1,024 tokens/s
  validation perplexity  81.45
  unigram perplexity     431.20
  vectors switched       12
  run folder             runs/20261121-180011-demo
  next                   fullrank show 20261121-180011-demo
"
        );
    }

    #[test]
    fn everything_that_can_happen_has_a_line() {
        let run = Run { steps: 2000, ..Run::default() };
        let bodies: Vec<Body> = vec![
            run.into(),
            Clamp { layer: "k_proj".into(), wanted: 64, rank: 32, ..Clamp::default() }.into(),
            Skip { reason: "loss is nan".into(), ..Skip::default() }.into(),
            Alert { level: Level::Warn, what: "slow".into(), remedy: "close tabs".into() }.into(),
            Pause { reason: "by ctl".into() }.into(),
            Resume::default().into(),
            Resume { from_step: Some(1000), from_seq: Some(5), rollback: None }.into(),
            Resume {
                from_step: Some(1000),
                from_seq: Some(5),
                rollback: Some(crate::runlog::Rollback { count: 1, ..Default::default() }),
            }
            .into(),
            Log { level: Level::Warn, msg: "went back from update 1200 to 1000".into() }.into(),
            End { status: EndStatus::Stopped, what: "by the user".into() }.into(),
        ];
        let events = events(bodies.into_iter().map(|body| (0, 1200, body)).collect());
        let (_, stderr) = watch(Mode::Lines, &events);
        let lines: Vec<&str> = stderr.lines().skip(7).collect();
        assert_eq!(
            lines,
            [
                "note    k_proj: rank 32 instead of 64",
                "skip    1,200/2,000  60.0%  loss is nan",
                "warning slow",
                "        close tabs",
                "paused  1,200/2,000  60.0%  by ctl",
                "resumed 1,200/2,000  60.0%",
                "resumed 1,200/2,000  60.0%  from the checkpoint of step 1,000",
                "warning went back from update 1200 to 1000",
                "",
                "stopped after 1,000 updates: by the user",
                "  updates skipped        1",
                "  run folder             runs/20261121-180011-demo",
                "  next                   fullrank resume 20261121-180011-demo",
                "                         fullrank show 20261121-180011-demo",
            ]
        );
    }

    #[test]
    fn json_is_the_log_on_stdout_and_none_is_silence() {
        let events = whole_run();
        let (stdout, stderr) = watch(Mode::Json, &events);
        assert_eq!(stderr, "");
        let read: Vec<Event> =
            stdout.lines().map(|line| Event::parse(line.as_bytes()).unwrap()).collect();
        assert_eq!(read, events);
        assert_eq!(watch(Mode::None, &events), (String::new(), String::new()));
    }

    #[test]
    fn tokens_that_are_only_read_are_told_from_those_that_are_learned() {
        let run = Run { steps: 5, tokens_per_step: 128, ..Run::default() };
        let (loss, lr, grad_norm) = (1.0, 0.1, 1.0);
        let step = Step { loss, lr, grad_norm, tokens: 105, active_s: 10.5, tok_s: 10.0 };
        let mut bodies: Vec<(i64, u64, Body)> = vec![(0, 0, run.into()), (0, 5, step.into())];
        bodies.push((0, 5, End { status: EndStatus::Finished, what: String::new() }.into()));
        let (_, stderr) = watch(Mode::Lines, &events(bodies));
        assert!(stderr.contains(" 10 learned tok/s "), "{stderr}");
        assert!(
            stderr.contains("105 learned tokens of 640 read in 0:10, 10 learned tokens/s"),
            "{stderr}"
        );
    }

    #[test]
    fn the_time_left_is_the_pace_or_the_limit() {
        let limited = Run { steps: 1000, max_s: Some(90.0), ..Run::default() };
        let update = |n: u64| Step {
            loss: f64::NAN,
            lr: 0.1,
            grad_norm: f64::INFINITY,
            tokens: 10 * n,
            active_s: n as f64,
            tok_s: 10.0,
        };
        let mut bodies: Vec<(i64, u64, Body)> = vec![(0, 0, limited.into())];
        bodies.extend((1..=30).map(|n| (1000 * n as i64, n, update(n).into())));
        let (_, stderr) = watch(Mode::Lines, &events(bodies.clone()));
        let last = stderr.lines().last().unwrap();
        assert!(last.ends_with("left  1:09"), "90 s less 21 s: {last}");
        assert!(last.contains("loss nan     lr") && last.contains("grad inf"), "{last}");
        bodies[0].2 = Run { steps: 1000, ..Run::default() }.into();
        let (_, stderr) = watch(Mode::Lines, &events(bodies));
        let last = stderr.lines().last().unwrap();
        assert!(last.ends_with("left 16:19"), "979 updates of a second: {last}");
    }

    #[test]
    fn a_bar_that_nobody_sees_fails_nothing() {
        let outputs = (Box::new(Page::default()), Box::new(Page::default()));
        let run = RunDir::at("runs/x");
        let mut view = LineView::with_outputs(Mode::Bar, run, outputs.0, outputs.1);
        view.bar = Some(new_bar(ProgressDrawTarget::hidden()));
        for event in whole_run() {
            view.on_event(&event);
        }
        assert!(view.bar.is_none(), "cleared at the end");
    }
}
