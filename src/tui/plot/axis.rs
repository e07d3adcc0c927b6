//! The range of an axis: where a value stands on it, where its ticks are and how they are called.

use crate::report::ticks;

/// A stretch of an axis. It is never empty and never reaches what has no place on it: both ends are finite, the
/// higher one is above the lower, and both are above 0 where the axis is logarithmic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxisRange {
    /// The left or lower end.
    pub low: f64,
    /// The right or upper end.
    pub high: f64,
    /// Whether distances are those of logarithms.
    pub is_log: bool,
}

/// Values beyond this are taken for it, so that differences stay finite.
const LARGEST: f64 = 1e300;
/// The same on an axis of logarithms, so that the ratio of its ends stays finite.
const LARGEST_RATIO: f64 = 1e150;
/// Parts of a range to whose ends it is rounded out.
const PARTS: f64 = 10.0;
/// Ranges narrower than this share of their ends cannot be told apart by their ticks.
const NARROWEST: f64 = 1e-9;

/// How far beyond an end a value still stands on it, as a part of the range: ends are rounded, and so are stored numbers.
const SLACK: f64 = 1e-6;

impl AxisRange {
    /// A range between two values, whatever they are: ends that are not usable are replaced.
    pub fn new(low: f64, high: f64, is_log: bool) -> Self {
        let usable = |value: f64| value.is_finite() && (!is_log || value > 0.0);
        let (mut low, mut high) = match (usable(low), usable(high)) {
            (true, true) => (low.min(high), low.max(high)),
            (true, false) => (low, low),
            (false, true) if is_log => (high / 1e3, high),
            (false, true) => (high, high),
            (false, false) if is_log => (0.1, 1.0),
            (false, false) => (0.0, 1.0),
        };
        if is_log {
            let (least, most) = (1.0 / LARGEST_RATIO, LARGEST_RATIO);
            (low, high) = (low.clamp(least, most), high.clamp(least, most));
            if high / low < 1.0 + NARROWEST {
                (low, high) = (low / 1.1, high * 1.1);
            }
        } else {
            (low, high) = (low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST));
            if high - low <= NARROWEST * low.abs().max(high.abs()) {
                let room = if high == 0.0 { 0.5 } else { 0.05 * high.abs() };
                (low, high) = (low - room, high + room);
            }
        }
        Self { low, high, is_log }
    }

    /// A range around the values that have a place on it, rounded out so that it changes only when a value leaves
    /// it by more than a tenth of its width; `None` where no value has a place.
    pub fn around(values: impl IntoIterator<Item = f64>, is_log: bool) -> Option<Self> {
        let usable =
            values.into_iter().filter(|value| value.is_finite() && (!is_log || *value > 0.0));
        let (low, high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        (low <= high).then(|| Self::new(low, high, is_log).rounded_out())
    }

    /// Like [`around`](Self::around), without the extreme percent of the values on either side.
    pub fn around_most(values: impl IntoIterator<Item = f64>, is_log: bool) -> Option<Self> {
        let usable =
            values.into_iter().filter(|value| value.is_finite() && (!is_log || *value > 0.0));
        let mut sorted: Vec<f64> = usable.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let cut = sorted.len() / 100 + usize::from(sorted.len() >= 20 && sorted.len() < 100);
        Self::around(sorted.get(cut..sorted.len() - cut)?.iter().copied(), is_log)
    }

    fn rounded_out(self) -> Self {
        let (low, high) =
            if self.is_log { (self.low.log10(), self.high.log10()) } else { (self.low, self.high) };
        let step = round_step((high - low) / PARTS);
        let (down, up) = ((low / step + SLACK).floor() * step, (high / step - SLACK).ceil() * step);
        if !(down.is_finite() && up.is_finite() && up > down) {
            return self;
        }
        if self.is_log {
            Self::new(10_f64.powf(down), 10_f64.powf(up), true)
        } else {
            Self::new(down, up, false)
        }
    }

    /// How far along the range a value stands: 0 at the low end, 1 at the high end, less or more outside; `None`
    /// for a value that has no place on the axis.
    pub fn share(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.is_log && value <= 0.0) {
            return None;
        }
        let share = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        match share {
            _ if !share.is_finite() => None,
            _ if (-SLACK..0.0).contains(&share) => Some(0.0),
            _ if share > 1.0 && share <= 1.0 + SLACK => Some(1.0),
            _ => Some(share),
        }
    }

    /// The value at a share of the range.
    pub fn at(&self, share: f64) -> f64 {
        if self.is_log {
            self.low * (self.high / self.low).powf(share)
        } else {
            self.low + (self.high - self.low) * share
        }
    }

    /// Whether a value lies inside.
    pub fn contains(&self, value: f64) -> bool {
        value >= self.low && value <= self.high
    }

    /// Round values inside the range, about `wanted` of them.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        let size = self.low.abs().max(self.high.abs());
        if self.high - self.low < NARROWEST * size || !(1e-140..1e140).contains(&size) {
            return Vec::new();
        }
        let mut ticks = if self.is_log {
            ticks::logarithmic(self.low, self.high)
        } else {
            ticks::linear(self.low, self.high, wanted)
        };
        let room = 1e-6 * (self.high - self.low);
        ticks.retain(|tick| *tick >= self.low - room && *tick <= self.high + room);
        ticks
    }

    /// Round times inside the range, which is in seconds, about `wanted` of them.
    pub fn time_ticks(&self, wanted: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / wanted.max(1) as f64;
        let round = [
            60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0, 21_600.0, 43_200.0,
            86_400.0,
        ];
        if self.is_log || rough <= 30.0 || rough > 86_400.0 * 100.0 {
            return self.ticks(wanted);
        }
        let step = round.into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or_else(|| 86_400.0 * round_step(rough / 86_400.0).max(1.0));
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        (0..=(last - first).max(-1.0) as i64).map(|n| (first + n as f64) * step).collect()
    }
}

/// The end of an axis that grows with a run: the next of ten round numbers a decade, about a quarter apart, so
/// that the axis stands still most of the time.
pub fn grown(end: f64) -> f64 {
    const STEPS: [f64; 10] = [1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.4, 8.0];
    if !(end.is_finite() && end > 0.0 && end < LARGEST) {
        return 1.0;
    }
    let power = 10_f64.powf(end.log10().floor());
    let step = STEPS.into_iter().map(|step| step * power).find(|step| *step >= end * (1.0 - 1e-9));
    step.unwrap_or(10.0 * power)
}

/// 1, 2, 2.5 or 5 times a power of ten, not below the given width.
fn round_step(width: f64) -> f64 {
    let power = 10_f64.powf(width.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= width * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// A value in at most `width` characters, with fewer digits where it must be; `None` where even one digit is too long.
pub fn label(value: f64, width: usize) -> Option<String> {
    if !value.is_finite() {
        return Some(
            if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "inf"
            } else {
                "−inf"
            }
            .into(),
        )
        .filter(|text: &String| text.chars().count() <= width);
    }
    let with_digits = |digits: usize| {
        let rounded = format!("{value:.digits$e}").parse().unwrap_or(value);
        ticks::name(rounded)
    };
    (0..=4).rev().map(with_digits).find(|text| text.chars().count() <= width)
}

/// A time in seconds as short words: `45s`, `2.5s`, `15m`, `1h30m`, `2d3h`.
pub fn time_label(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "–".into();
    }
    let sign = if seconds < 0.0 { "−" } else { "" };
    let seconds = seconds.abs();
    if seconds < 59.95 {
        return format!("{sign}{}s", label(seconds, 6).unwrap_or_default());
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) =
        (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    let pair = |a: u64, unit: &str, b: u64, small: &str| {
        if b == 0 { format!("{sign}{a}{unit}") } else { format!("{sign}{a}{unit}{b:02}{small}") }
    };
    match (days, hours) {
        (0, 0) => pair(minutes, "m", rest, "s"),
        (0, _) => pair(hours, "h", minutes, "m"),
        _ => pair(days, "d", hours, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_rounded_out_and_hold_still() {
        let range = AxisRange::around([3.02, 9.7], false).unwrap();
        assert_eq!((range.low, range.high), (3.0, 10.0));
        assert_eq!(AxisRange::around([3.1, 9.9], false), Some(range), "inside: nothing moves");
        assert_ne!(AxisRange::around([3.1, 10.1], false), Some(range));
        let log = AxisRange::around([0.011, 95.0], true).unwrap();
        assert!((log.low - 0.01).abs() < 1e-9 && (log.high - 100.0).abs() < 1e-6, "{log:?}");
        assert_eq!(AxisRange::around([f64::NAN, f64::INFINITY], false), None);
        assert_eq!(AxisRange::around([-1.0, 0.0], true), None);
    }

    #[test]
    fn outliers_leave_the_range_when_asked() {
        let mut values: Vec<f64> = (0..200).map(|i| 1.0 + f64::from(i) / 200.0).collect();
        values[100] = 1e6;
        assert!(AxisRange::around(values.iter().copied(), false).unwrap().high >= 1e6);
        assert!(AxisRange::around_most(values, false).unwrap().high < 3.0);
        let few = AxisRange::around_most([1.0, 50.0], false).unwrap();
        assert!(few.contains(1.0) && few.contains(50.0), "two values are no outliers");
    }

    #[test]
    fn axes_grow_by_about_a_quarter() {
        assert_eq!([0.9, 1.0, 1.1, 7.0, 8.1, 310.0].map(grown), [1.0, 1.0, 1.25, 8.0, 10.0, 320.0]);
        assert_eq!([0.0, -3.0, f64::NAN, f64::INFINITY].map(grown), [1.0; 4]);
    }

    #[test]
    fn labels_lose_digits_before_they_lose_their_end() {
        assert_eq!(label(12.345, 6).as_deref(), Some("12.345"));
        assert_eq!(label(1234.5, 5).as_deref(), Some("1.23k"));
        assert_eq!(label(0.000_871, 6).as_deref(), Some("8.7e−4"));
        assert_eq!(label(f64::NAN, 3).as_deref(), Some("NaN"));
        assert_eq!(label(-0.000_123, 2), None);
    }

    #[test]
    fn times_are_short_and_their_ticks_round() {
        let words = [0.0, 2.5, 59.0, 60.0, 95.0, 3600.0, 5400.0, 90_000.0].map(time_label);
        assert_eq!(words, ["0s", "2.5s", "59s", "1m", "1m35s", "1h", "1h30m", "1d01h"]);
        let ticks = AxisRange::new(0.0, 3120.0, false).time_ticks(4);
        assert_eq!(ticks, [0.0, 900.0, 1800.0, 2700.0]);
        assert!(AxisRange::new(0.0, 1e9, false).time_ticks(5).len() <= 7);
    }

    proptest! {
        #[test]
        fn any_two_values_make_a_range(a in any::<f64>(), b in any::<f64>(), is_log: bool, v in any::<f64>()) {
            let range = AxisRange::new(a, b, is_log);
            prop_assert!(range.low.is_finite() && range.high.is_finite() && range.high > range.low);
            prop_assert!(!is_log || range.low > 0.0);
            prop_assert!(range.ticks(5).len() < 100);
            prop_assert!(range.time_ticks(5).len() < 100);
            if let Some(share) = range.share(v) {
                prop_assert!(share.is_finite());
            }
            if let Some(around) = AxisRange::around([a, b], is_log) {
                for value in [a, b].into_iter().filter(|v| v.abs() < 1e149 && (!is_log || *v > 1e-149)) {
                    if value.is_finite() && (!is_log || value > 0.0) {
                        let share = around.share(value).unwrap_or(9.0);
                        prop_assert!((-1e-3..=1.001).contains(&share), "{value} in {around:?}: {share}");
                    }
                }
            }
        }

        #[test]
        fn a_place_and_its_share_belong_together(low in -1e6_f64..1e6, width in 1e-3_f64..1e6, share in 0.0_f64..1.0) {
            for range in [AxisRange::new(low, low + width, false), AxisRange::new(low.abs() + 1e-6, low.abs() + width, true)] {
                let back = range.share(range.at(share)).unwrap();
                prop_assert!((back - share).abs() < 1e-6, "{range:?} {share} {back}");
            }
        }

        #[test]
        fn labels_fit(value in any::<f64>(), width in 0_usize..12) {
            if let Some(text) = label(value, width) {
                prop_assert!(text.chars().count() <= width);
            }
        }
    }
}
