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

/// The moments of a table's rows, oldest first, and what turns them into the axes that follow from others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clock {
    moments: Vec<Moment>,
    /// When the run began, in milliseconds since 1970.
    pub start_ms: i64,
    /// Operations of training one token; 0 where it is not known.
    pub flop_per_token: f64,
    /// Tokens of one pass over the text; 0 where it is not known.
    pub tokens_per_epoch: f64,
}

impl Clock {
    /// Adds the moment of another row.
    pub fn push(&mut self, moment: Moment) {
        self.moments.push(moment);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// The moment of a row.
    pub fn moment(&self, row: usize) -> Option<Moment> {
        self.moments.get(row).copied()
    }

    /// Drops the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.moments.truncate(rows);
    }

    /// A moment's place on an axis; NaN where the run does not tell it.
    pub fn place(&self, moment: Moment, axis: Axis) -> f64 {
        let known = |value: f64| if value > 0.0 { value } else { f64::NAN };
        match axis {
            Axis::Step => moment.step as f64,
            Axis::Tokens => moment.tokens as f64,
            Axis::Active => moment.active_s,
            Axis::Wall => (moment.ts_ms - self.start_ms) as f64 / 1000.0,
            Axis::Flop => moment.tokens as f64 * known(self.flop_per_token),
            Axis::Epoch => moment.tokens as f64 / known(self.tokens_per_epoch),
        }
    }

    /// The place of a row; NaN where there is none.
    pub fn at(&self, row: usize, axis: Axis) -> f64 {
        self.moment(row).map_or(f64::NAN, |moment| self.place(moment, axis))
    }

    /// First row at or after a place on an axis.
    pub fn row_at(&self, axis: Axis, place: f64) -> usize {
        self.moments.partition_point(|moment| self.place(*moment, axis) < place)
    }
}
