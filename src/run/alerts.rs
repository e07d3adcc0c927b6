//! What a user should hear of while a run trains: spikes, divergence, updates that are not finite, adapters that do not
//! move, updates that hang, a disk, a memory or a battery that runs out. Every rule is a function of what the events say.
//!
//! What the rules about losses and gradients remember is part of a run's progress: a run that goes on from a checkpoint
//! warns where one that never stopped does, and a policy that acts on it does so at the same updates.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::runlog::{Alert, Level, Rank, Skip, Step};

/// Updates over which mean and spread are taken.
const WINDOW: f64 = 50.0;
/// Updates before a spread means anything.
const SETTLED: u64 = 50;
/// A spike is this many standard deviations above the mean.
const SPIKE: f64 = 8.0;
/// A spike has passed after so many updates without another.
const PASSES: u64 = 50;
/// Nats by which the smoothed loss must have risen above its lowest to be called divergence.
const RISE: f64 = 1.0;
/// Updates between two alerts of one kind.
const QUIET: u64 = 100;
/// Updates after which an adapter that has not moved is a fault.
const MOVED_BY: u64 = 20;
/// An update that takes this many times the median of those before it hangs…
const STALL: f64 = 10.0;
/// …if that is also this many seconds more.
const STALL_S: f64 = 5.0;
/// Updates of which the median is taken, and how many there must be.
const TIMED: usize = 65;
const TIMED_LEAST: usize = 8;
/// A battery with less than this many percent is nearly empty.
const BATTERY: u32 = 20;
/// A disk with room for fewer checkpoints than this is nearly full.
const ROOM: u64 = 3;

/// A mean and a variance that forget.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Running {
    mean: f64,
    variance: f64,
    count: u64,
}

impl Running {
    /// How many standard deviations a value lies above the mean; none before the spread has settled. Then takes it in.
    fn deviation(&mut self, value: f64) -> Option<f64> {
        let spread = self.variance.sqrt().max(1e-3 * self.mean.abs()).max(f64::MIN_POSITIVE);
        let above = (self.count >= SETTLED).then(|| (value - self.mean) / spread);
        // A spike must not widen the spread so far that the next one goes unseen.
        let taken = above.map_or(value, |above| self.mean + above.min(SPIKE) * spread);
        self.count += 1;
        let weight = 1.0 / (self.count as f64).min(WINDOW);
        let change = taken - self.mean;
        self.mean += weight * change;
        self.variance = (1.0 - weight) * (self.variance + weight * change * change);
        above
    }
}

/// A rule that stays quiet for a while after it has spoken.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Quiet(Option<u64>);

impl Quiet {
    fn may_speak(&mut self, step: u64) -> bool {
        let may = self.0.is_none_or(|last| step >= last + QUIET);
        if may {
            self.0 = Some(step);
        }
        may
    }
}

/// The lowest smoothed loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Lowest {
    loss: f64,
    /// Completed updates of the weights whose loss made it so low.
    weights: u64,
}

/// Spikes that follow one another, by the completed updates of the weights that showed them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Series {
    first: u64,
    last: u64,
}

/// Training that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Completed updates of the first weights that are not to be trusted.
    pub since: u64,
    /// What the alert says.
    pub what: String,
}

/// The rules with what they remember. What depends on the machine and not on the numbers is forgotten by a checkpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Alerts {
    loss: Running,
    grad_norm: Running,
    #[serde(skip_serializing_if = "Option::is_none")]
    lowest: Option<Lowest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spikes: Option<Series>,
    spike: Quiet,
    divergence: Quiet,
    skip: Quiet,
    #[serde(skip)]
    still: Quiet,
    #[serde(skip)]
    disk: Quiet,
    #[serde(skip)]
    memory: Quiet,
    #[serde(skip)]
    stall: Quiet,
    #[serde(skip)]
    battery: Quiet,
    /// Seconds of the newest updates, oldest first.
    #[serde(skip)]
    times: VecDeque<f64>,
    /// What was told and nobody has taken yet.
    #[serde(skip)]
    trouble: Option<Trouble>,
}

fn warn(what: String, remedy: &str) -> Alert {
    Alert { level: Level::Warn, what, remedy: remedy.into() }
}

impl Alerts {
    /// Training that went wrong, once for each alert that says so: a loss that diverged, an update that was not finite.
    /// A spike alone is none.
    pub fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// After an update: `t` counts it, its loss is that of the weights before it.
    pub fn after_step(&mut self, t: u64, step: &Step) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let weights = t.saturating_sub(1);
        let rules = [
            ("loss", step.loss, &mut self.loss),
            ("gradient norm", step.grad_norm, &mut self.grad_norm),
        ];
        let mut spike = None;
        for (name, value, running) in rules {
            let mean = running.mean;
            if let Some(above) = running.deviation(value)
                && above > SPIKE
            {
                spike = Some(format!("{name} {value:.3} is {above:.0} σ above its mean {mean:.3}"));
            }
        }
        let smooth = self.loss.mean;
        let is_settled = self.loss.count >= SETTLED;
        if is_settled && self.lowest.is_none_or(|lowest| smooth <= lowest.loss) {
            self.lowest = Some(Lowest { loss: smooth, weights });
            // A run that learns on has overcome them.
            self.spikes = None;
        }
        if let Some(what) = spike {
            let first = self.spiking(weights).map_or(weights, |series| series.first);
            self.spikes = Some(Series { first, last: weights });
            if self.spike.may_speak(t) {
                alerts.push(warn(
                    what,
                    "one spike passes; several ask for a lower learning rate or a lower max_grad_norm",
                ));
            }
        }
        if let Some(lowest) = self.risen()
            && self.divergence.may_speak(t)
        {
            let what = format!("the smoothed loss rose from {:.3} to {smooth:.3}", lowest.loss);
            self.trouble = Some(Trouble { since: lowest.weights + 1, what: what.clone() });
            alerts.push(warn(what, "the run may be diverging: lower the learning rate, or stop and resume from an earlier checkpoint"));
        }
        alerts
    }

    /// The lowest smoothed loss, where the smoothed loss of now is far above it.
    fn risen(&self) -> Option<Lowest> {
        self.lowest.filter(|lowest| self.loss.mean > lowest.loss + RISE)
    }

    /// The spikes that have not passed yet.
    fn spiking(&self, weights: u64) -> Option<Series> {
        self.spikes.filter(|series| weights <= series.last + PASSES)
    }

    /// After an update, applied or not, that took so many seconds.
    pub fn after_time(&mut self, t: u64, seconds: f64) -> Option<Alert> {
        let mut sorted: Vec<f64> = self.times.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY);
        let has_median = sorted.len() >= TIMED_LEAST;
        self.times.push_back(seconds);
        if self.times.len() > TIMED {
            self.times.pop_front();
        }
        let hung = has_median && seconds > STALL * median && seconds > median + STALL_S;
        (hung && self.stall.may_speak(t)).then(|| {
            warn(
                format!("an update took {seconds:.0} s, the median is {median:.2} s"),
                "the machine slept, swaps or is shared: look at what else runs on it",
            )
        })
    }

    /// After the machine was read, while it runs on its battery.
    pub fn after_battery(&mut self, t: u64, percent: u32) -> Option<Alert> {
        (percent < BATTERY && self.battery.may_speak(t)).then(|| {
            warn(
                format!("the battery has {percent} % left"),
                "plug the machine in, or pause the run; alert_policy = \"pause\" does it by itself",
            )
        })
    }

    /// After an update that was not applied.
    pub fn after_skip(&mut self, t: u64, skip: &Skip) -> Option<Alert> {
        if !self.skip.may_speak(t) {
            return None;
        }
        let what = format!("an update was skipped: {}", skip.reason);
        let first_spike = self.spiking(t).map(|series| series.first);
        let turn = self.risen().map(|lowest| lowest.weights + 1);
        let since = [first_spike, turn].into_iter().flatten().fold(t, u64::min);
        self.trouble = Some(Trouble { since, what: what.clone() });
        Some(warn(
            what,
            "weights and moments are as before; if it goes on, lower the learning rate",
        ))
    }

    /// After the change of a layer's weight was measured.
    pub fn after_rank(&mut self, t: u64, rank: &Rank) -> Option<Alert> {
        let is_still = rank.matrix == "change" && rank.norm == 0.0 && t >= MOVED_BY;
        (is_still && self.still.may_speak(t)).then(|| {
            warn(
                format!("{} has not moved in {t} updates", rank.layer),
                "look at the learning rate and at what the method trains",
            )
        })
    }

    /// After a checkpoint of so many bytes, with so many left on its disk.
    pub fn after_checkpoint(&mut self, t: u64, bytes: u64, free: Option<u64>) -> Option<Alert> {
        let free = free.filter(|free| *free < ROOM * bytes)?;
        self.disk.may_speak(t).then(|| {
            let mib = |bytes: u64| bytes / (1 << 20);
            warn(
                format!("the disk has {} MiB left, a checkpoint takes {}", mib(free), mib(bytes)),
                "free some space, or keep fewer checkpoints (keep_checkpoints)",
            )
        })
    }

    /// After the ledger was read.
    pub fn after_memory(&mut self, t: u64, peak: u64, predicted: u64) -> Option<Alert> {
        let is_over = peak > predicted + predicted / 10;
        (is_over && self.memory.may_speak(t)).then(|| {
            let mib = |bytes: u64| bytes / (1 << 20);
            warn(
                format!("memory reached {} MiB, {} were predicted", mib(peak), mib(predicted)),
                "if the device runs out, take a smaller batch or --grad-checkpoint",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(loss: f64, grad_norm: f64) -> Step {
        Step { loss, grad_norm, lr: 1e-3, tokens: 0, active_s: 0.0, tok_s: 0.0 }
    }

    /// A quiet run: values that swing a little.
    #[test]
    fn an_update_that_hangs_is_told_once_and_slow_ones_are_not() {
        let mut alerts = Alerts::default();
        assert_eq!(alerts.after_time(1, 900.0), None, "the first one compiles");
        for t in 2..20 {
            assert_eq!(alerts.after_time(t, 0.2), None);
        }
        assert_eq!(alerts.after_time(20, 4.0), None, "twenty times as long, and yet short");
        let told = alerts.after_time(21, 30.0).unwrap();
        assert!(told.what.contains("30 s") && told.what.contains("0.20 s"), "{}", told.what);
        assert_eq!(alerts.after_time(22, 30.0), None, "quiet for a while");
        let mut slow = Alerts::default();
        assert!((0..50).all(|t| slow.after_time(t, 60.0 + t as f64).is_none()));
    }

    #[test]
    fn a_battery_is_told_of_below_a_fifth() {
        let mut alerts = Alerts::default();
        assert_eq!(alerts.after_battery(1, 20), None);
        assert!(alerts.after_battery(2, 19).unwrap().what.contains("19 %"));
        assert_eq!(alerts.after_battery(3, 18), None);
        assert!(alerts.after_battery(200, 5).is_some());
    }

    fn settled() -> Alerts {
        let mut alerts = Alerts::default();
        for t in 0..200 {
            let swing = if t % 2 == 0 { 0.01 } else { -0.01 };
            assert_eq!(alerts.after_step(t, &step(4.0 + swing, 1.0 + swing)), []);
        }
        alerts
    }

    #[test]
    fn a_spike_is_told_once_and_the_next_one_after_a_while() {
        let mut alerts = settled();
        let told = alerts.after_step(200, &step(4.0, 14.2));
        assert!(told[0].what.starts_with("gradient norm 14.2"), "{told:?}");
        assert_eq!(alerts.after_step(201, &step(4.0, 14.2)), []);
        for t in 202..320 {
            alerts.after_step(t, &step(4.0, 1.0));
        }
        assert_eq!(alerts.after_step(320, &step(9.0, 1.0)).len(), 1);
    }

    #[test]
    fn a_loss_that_rises_for_long_is_divergence() {
        let mut alerts = settled();
        let mut told = Vec::new();
        for t in 200..600 {
            told.extend(alerts.after_step(t, &step(4.0 + (t - 200) as f64 * 0.02, 1.0)));
        }
        assert!(told.iter().any(|alert| alert.what.contains("smoothed loss rose")), "{told:?}");
    }

    #[test]
    fn divergence_began_after_the_lowest_smoothed_loss_and_is_taken_once() {
        let mut alerts = settled();
        assert_eq!(alerts.take_trouble(), None);
        let mut told = 0;
        for t in 200..400 {
            told += alerts.after_step(t, &step(4.0 + (t - 199) as f64 * 0.1, 1.0)).len();
            if let Some(trouble) = alerts.take_trouble() {
                assert!(told > 0 && t > 205, "{t}");
                assert!((195..=200).contains(&trouble.since), "{trouble:?}");
                assert!(trouble.what.contains("smoothed loss rose"), "{trouble:?}");
                assert_eq!(alerts.take_trouble(), None);
                return;
            }
        }
        panic!("it is not told");
    }

    #[test]
    fn an_update_that_is_not_finite_went_wrong_with_the_spikes_before_it() {
        let skipped = |alerts: &mut Alerts, t| {
            assert!(alerts.after_skip(t, &Skip::default()).is_some());
            alerts.take_trouble().unwrap().since
        };
        let mut alerts = settled();
        assert_eq!(skipped(&mut alerts, 200), 200, "out of nothing");
        let mut alerts = settled();
        assert_eq!(alerts.after_step(200, &step(4.0, 30.0)).len(), 1);
        assert_eq!(alerts.take_trouble(), None, "one spike passes");
        assert_eq!(alerts.after_step(201, &step(4.005, 30.0)), [], "told already");
        assert_eq!(skipped(&mut alerts, 202), 199, "the weights that spiked first");
        let mut alerts = settled();
        alerts.after_step(200, &step(4.0, 30.0));
        for t in 201..260 {
            alerts.after_step(t, &step(4.005, 1.0));
        }
        assert_eq!(skipped(&mut alerts, 260), 260, "that spike is long over");
        let mut alerts = settled();
        alerts.after_step(200, &step(4.0, 30.0));
        for t in 201..210 {
            alerts.after_step(t, &step(3.0, 1.0));
        }
        assert_eq!(skipped(&mut alerts, 210), 210, "the loss has fallen since");
    }

    #[test]
    fn a_checkpoint_keeps_what_the_numbers_have_told() {
        let mut alerts = settled();
        alerts.after_step(200, &step(4.0, 30.0));
        alerts.after_time(200, 1.0);
        let text = serde_json::to_string(&alerts).unwrap();
        let mut back: Alerts = serde_json::from_str(&text).unwrap();
        assert!(back != alerts, "times are of the machine");
        assert_eq!(back.after_step(201, &step(4.0, 30.0)), [], "it has spoken");
        assert_eq!(serde_json::to_string(&back).unwrap(), {
            alerts.after_step(201, &step(4.0, 30.0));
            serde_json::to_string(&alerts).unwrap()
        });
    }

    #[test]
    fn a_falling_loss_is_quiet_from_the_start() {
        let mut alerts = Alerts::default();
        for t in 0..2000 {
            let loss = 3.0 + 5.0 * (-(t as f64) / 300.0).exp() + 0.05 * f64::from(t as u32 % 7);
            assert_eq!(alerts.after_step(t, &step(loss, 1.0 + 0.1 * (t % 5) as f64)), [], "{t}");
        }
    }

    #[test]
    fn what_does_not_move_fills_up_or_is_skipped_is_told() {
        let mut alerts = Alerts::default();
        let still = Rank { layer: "q".into(), matrix: "change".into(), ..Rank::default() };
        assert_eq!(alerts.after_rank(5, &still), None);
        assert!(alerts.after_rank(20, &still).is_some());
        assert!(alerts.after_rank(21, &still).is_none());
        assert!(alerts.after_rank(200, &Rank { norm: 1.0, ..still }).is_none());
        assert!(alerts.after_checkpoint(1, 100, Some(301)).is_none());
        assert!(alerts.after_checkpoint(1, 100, None).is_none());
        assert!(alerts.after_checkpoint(1, 100, Some(299)).is_some());
        assert!(alerts.after_memory(1, 110, 100).is_none());
        assert!(alerts.after_memory(1, 111, 100).is_some());
        assert!(alerts.after_skip(1, &Skip::default()).is_some());
        assert!(alerts.after_skip(2, &Skip::default()).is_none());
    }
}
