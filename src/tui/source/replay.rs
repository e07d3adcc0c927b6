//! A log played again at its own pace or faster.

use std::time::{Duration, Instant};

use super::load::Facts;
use super::{BATCH, Outlet};
use crate::runlog::status::LastWord;
use crate::runlog::{Event, Status, Tail};
use crate::tui::app::Msg;
use crate::tui::model::RunModel;

/// How long it waits before it looks whether anybody still listens.
const SLICE: Duration = Duration::from_millis(50);
/// What is due within this time goes together: nobody sees frames that are nearer.
const TOGETHER: Duration = Duration::from_millis(20);
/// A wait longer than this, by the clock of the log, was a pause or an interruption; it is cut to this.
const LONGEST_WAIT_MS: i64 = 60_000;

/// Sends the events of a log when they are due.
pub(super) fn play(out: Outlet, speed: f64) {
    if let Some(mut player) = Player::start(out, speed) {
        player.run();
    }
}

struct Player {
    out: Outlet,
    speed: f64,
    began: Instant,
    /// Milliseconds of the log that were played, long waits cut.
    played_ms: i64,
    last_ts: Option<i64>,
    last_word: LastWord,
    batch: Vec<Event>,
}

impl Player {
    fn start(out: Outlet, speed: f64) -> Option<Self> {
        let mut model = RunModel::new(Some(out.dir.path().to_path_buf()));
        model.set_facts(Facts::read(&out.dir));
        model.replay = Some(speed);
        out.send(Msg::Loaded(out.place, Box::new(model)))?;
        Some(Self {
            out,
            speed: if speed > 0.0 { speed } else { 1.0 },
            began: Instant::now(),
            played_ms: 0,
            last_ts: None,
            last_word: LastWord::default(),
            batch: Vec::new(),
        })
    }

    fn run(&mut self) -> Option<()> {
        let mut tail = Tail::new(self.out.dir.events());
        let mut listens = Some(());
        let read = tail.each(|event| {
            if listens.is_some() {
                listens = self.play(event);
            }
        });
        listens?;
        self.out.send_events(std::mem::take(&mut self.batch))?;
        if let Err(error) = read {
            self.out.complain(&error)?;
        }
        match self.out.dir.is_locked() {
            Ok(is_locked) => {
                let status = Status::of(is_locked, self.last_word);
                self.out.send(Msg::Status(self.out.place, status))?;
            }
            // Whether it lives cannot be said; what it told was shown.
            Err(error) => self.out.complain(&error)?,
        }
        self.out.send(Msg::Notice("the replay is over".into()))
    }

    fn play(&mut self, event: Event) -> Option<()> {
        let waited = event.ts.saturating_sub(self.last_ts.unwrap_or(event.ts));
        self.played_ms = self.played_ms.saturating_add(waited.clamp(0, LONGEST_WAIT_MS));
        self.last_ts = Some(event.ts);
        let due = Duration::try_from_secs_f64(self.played_ms as f64 / 1000.0 / self.speed);
        let due = due.unwrap_or(Duration::MAX);
        if due > self.began.elapsed() + TOGETHER || self.batch.len() >= BATCH {
            self.out.send_events(std::mem::take(&mut self.batch))?;
        }
        while let Some(left) = due.checked_sub(self.began.elapsed()).filter(|left| *left > TOGETHER)
        {
            if self.out.is_over() {
                return None;
            }
            std::thread::sleep(left.min(SLICE));
        }
        self.last_word = self.last_word.after(&event);
        self.batch.push(event);
        Some(())
    }
}
