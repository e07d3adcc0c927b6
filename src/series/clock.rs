//! Where each row of a table stands on the axes that a chart may have.

/// The horizontal axis of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Axis {
    /// Updates applied.
    #[default]
    Step,
    /// Tokens trained on.
    Tokens,
    /// Seconds of training, pauses and other members left out.
    Active,
    /// Seconds since the run began, by the clock on the wall.
    Wall,
    /// Floating-point operations of training, estimated.
    Flop,
    /// Passes over the training text.
    Epoch,
}

impl Axis {
    /// All axes, in the order in which a key goes through them.
    pub const ALL: [Self; 6] =
        [Self::Step, Self::Tokens, Self::Active, Self::Wall, Self::Flop, Self::Epoch];

    /// Its name in titles and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Active => "active time",
            Self::Wall => "wall time",
            Self::Flop => "FLOP",
            Self::Epoch => "epoch",
        }
    }

    /// The axis after this one.
    #[must_use]
    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|axis| *axis == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }
}

/// One moment of a run, on every axis that events tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moment {
    /// Updates applied.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training.
    pub active_s: f64,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
}

/// What training costs by tokens: the updates of a warm start at one price, the others at another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WarmStart {
    /// Tokens of the warm start.
    pub tokens: f64,
    /// Operations of training one of them.
    pub flop_per_token: f64,
}

/// The moments of a table's rows, oldest first, and what turns them into the axes that follow from others. No moment
/// lies before the one above it on any axis, so that places can be searched for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clock {
    steps: Vec<u32>,
    tokens: Vec<u64>,
    active_s: Vec<f64>,
    /// Hundredths of a second since the first row: half of the memory of a date, and enough for 497 days.
    since: Vec<u32>,
    first_ms: i64,
    /// When the run began, in milliseconds since 1970.
    pub start_ms: i64,
    /// Operations of training one token; 0 where it is not known.
    pub flop_per_token: f64,
    /// The part that costs otherwise.
    pub warm_start: WarmStart,
    /// Tokens of one pass over the text; 0 where it is not known.
    pub tokens_per_epoch: f64,
}

impl Clock {
    /// Adds the moment of another row. On an axis on which it would lie before the last row it lies where that does.
    pub fn push(&mut self, moment: Moment) {
        if self.is_empty() {
            self.first_ms = moment.ts_ms;
        }
        let step = u32::try_from(moment.step).unwrap_or(u32::MAX);
        let since = moment.ts_ms.saturating_sub(self.first_ms).max(0) / 10;
        let since = u32::try_from(since).unwrap_or(u32::MAX);
        let active_s = if moment.active_s.is_finite() { moment.active_s } else { 0.0 };
        let last = |values: &[u32]| values.last().copied().unwrap_or(0);
        let step = step.max(last(&self.steps));
        let since = since.max(last(&self.since));
        let tokens = moment.tokens.max(self.tokens.last().copied().unwrap_or(0));
        let active_s = active_s.max(self.active_s.last().copied().unwrap_or(active_s));
        super::push(&mut self.steps, step);
        super::push(&mut self.since, since);
        super::push(&mut self.tokens, tokens);
        super::push(&mut self.active_s, active_s);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The moment of a row, to a hundredth of a second.
    pub fn moment(&self, row: usize) -> Option<Moment> {
        Some(Moment {
            step: u64::from(*self.steps.get(row)?),
            tokens: *self.tokens.get(row)?,
            active_s: *self.active_s.get(row)?,
            ts_ms: self.first_ms.saturating_add(10 * i64::from(*self.since.get(row)?)),
        })
    }

    /// The updates applied at a row.
    pub fn step(&self, row: usize) -> Option<u64> {
        self.steps.get(row).map(|step| u64::from(*step))
    }

    /// Drops the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.steps.truncate(rows);
        self.tokens.truncate(rows);
        self.active_s.truncate(rows);
        self.since.truncate(rows);
    }

    /// An empty clock that turns moments into places as this one does.
    #[must_use]
    pub fn like(&self) -> Self {
        Self {
            start_ms: self.start_ms,
            flop_per_token: self.flop_per_token,
            warm_start: self.warm_start,
            tokens_per_epoch: self.tokens_per_epoch,
            ..Self::default()
        }
    }

    /// Bytes held for rows.
    pub fn bytes(&self) -> usize {
        4 * (self.steps.capacity() + self.since.capacity())
            + 8 * (self.tokens.capacity() + self.active_s.capacity())
    }

    /// Whether rows have places on an axis: a run need not tell what an update costs.
    pub fn has(&self, axis: Axis) -> bool {
        match axis {
            Axis::Flop => self.flop_per_token > 0.0,
            Axis::Epoch => self.tokens_per_epoch > 0.0,
            _ => true,
        }
    }

    /// A moment's place on an axis; NaN where the run does not tell it.
    pub fn place(&self, moment: Moment, axis: Axis) -> f64 {
        match axis {
            Axis::Step => moment.step as f64,
            Axis::Active => moment.active_s,
            Axis::Wall => moment.ts_ms.saturating_sub(self.start_ms) as f64 / 1000.0,
            Axis::Tokens | Axis::Flop | Axis::Epoch => self.by_tokens(moment.tokens, axis),
        }
    }

    fn by_tokens(&self, tokens: u64, axis: Axis) -> f64 {
        let tokens = tokens as f64;
        match axis {
            Axis::Flop if self.flop_per_token > 0.0 => {
                let warm = tokens.min(self.warm_start.tokens);
                warm * self.warm_start.flop_per_token + (tokens - warm) * self.flop_per_token
            }
            Axis::Epoch if self.tokens_per_epoch > 0.0 => tokens / self.tokens_per_epoch,
            Axis::Flop | Axis::Epoch => f64::NAN,
            _ => tokens,
        }
    }

    /// The place of a row; NaN where there is none.
    #[inline]
    pub fn at(&self, row: usize, axis: Axis) -> f64 {
        match axis {
            Axis::Step => self.steps.get(row).map_or(f64::NAN, |step| f64::from(*step)),
            Axis::Active => self.active_s.get(row).copied().unwrap_or(f64::NAN),
            Axis::Wall => self.moment(row).map_or(f64::NAN, |moment| self.place(moment, axis)),
            Axis::Tokens | Axis::Flop | Axis::Epoch => {
                self.tokens.get(row).map_or(f64::NAN, |tokens| self.by_tokens(*tokens, axis))
            }
        }
    }

    /// First row at or after a place on an axis; the number of rows where there is none.
    pub fn row_at(&self, axis: Axis, place: f64) -> usize {
        self.first_row(axis, 0..self.len(), |at| at >= place)
    }

    /// First row after a place on an axis.
    pub fn row_after(&self, axis: Axis, place: f64) -> usize {
        self.first_row(axis, 0..self.len(), |at| at > place)
    }

    /// First of some rows whose place has a property that all places after it have too.
    pub fn first_row(
        &self,
        axis: Axis,
        rows: std::ops::Range<usize>,
        has: impl Fn(f64) -> bool,
    ) -> usize {
        let (mut low, mut high) = (rows.start, rows.end.min(self.len()).max(rows.start));
        while low < high {
            let middle = low + (high - low) / 2;
            if has(self.at(middle, axis)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// The row that lies nearest to a place on an axis; `None` without rows or without places.
    pub fn nearest(&self, axis: Axis, place: f64) -> Option<usize> {
        if self.is_empty() || !self.has(axis) || place.is_nan() {
            return None;
        }
        let after = self.row_at(axis, place).min(self.len() - 1);
        let before = after.saturating_sub(1);
        let distance = |row: usize| (self.at(row, axis) - place).abs();
        Some(if distance(before) <= distance(after) { before } else { after })
    }

    /// The moment of an update that was told late: the row with its number, or the nearest before it.
    pub fn moment_of_step(&self, step: u64) -> Option<Moment> {
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        let row = self.steps.partition_point(|row| *row <= step).checked_sub(1)?;
        self.moment(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(step: u64, ts_ms: i64) -> Moment {
        Moment { step, tokens: 100 * step, active_s: 0.5 * step as f64, ts_ms }
    }

    #[test]
    fn rows_stand_on_every_axis_that_is_told() {
        let mut clock = Clock { start_ms: 1000, ..Clock::default() };
        (1..=4).for_each(|step| clock.push(moment(step, 1000 + 500 * step as i64)));
        let at = |axis| clock.at(1, axis);
        assert_eq!((at(Axis::Step), at(Axis::Tokens)), (2.0, 200.0));
        assert_eq!((at(Axis::Active), at(Axis::Wall)), (1.0, 1.0));
        assert!(at(Axis::Flop).is_nan() && at(Axis::Epoch).is_nan());
        assert!(!clock.has(Axis::Flop) && clock.nearest(Axis::Flop, 1.0).is_none());
        assert!(clock.at(9, Axis::Step).is_nan());
        clock.flop_per_token = 2.0;
        clock.warm_start = WarmStart { tokens: 150.0, flop_per_token: 3.0 };
        clock.tokens_per_epoch = 400.0;
        assert_eq!(clock.at(1, Axis::Flop), 150.0 * 3.0 + 50.0 * 2.0);
        assert_eq!(clock.at(1, Axis::Epoch), 0.5);
    }

    #[test]
    fn no_row_lies_before_the_one_above_it() {
        let mut clock = Clock::default();
        for (step, ts) in [(5, 9000), (3, 4000), (7, 9500)] {
            clock.push(moment(step, ts));
        }
        for axis in [Axis::Step, Axis::Tokens, Axis::Active, Axis::Wall] {
            let places: Vec<f64> = (0..3).map(|row| clock.at(row, axis)).collect();
            assert!(places.is_sorted(), "{axis:?} {places:?}");
        }
        assert_eq!(clock.row_at(Axis::Step, 5.0), 0);
        assert_eq!(clock.row_after(Axis::Step, 5.0), 2);
        assert_eq!(clock.nearest(Axis::Step, 6.4), Some(2));
        assert_eq!(clock.moment_of_step(6).unwrap().step, 5);
        assert_eq!(clock.moment_of_step(4), None);
    }
}
