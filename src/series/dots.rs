//! Which dot of a chart a place of an axis falls into.

/// A stretch of an axis, cut into dots from left to right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dots {
    /// The left end.
    pub low: f64,
    /// The right end.
    pub high: f64,
    /// How many dots there are.
    pub count: usize,
    /// Whether the dots are even in the logarithm; places that are not above 0 then have none.
    pub is_log: bool,
}

impl Dots {
    /// The dot of a place. It grows with the place; `None` outside the stretch, and where there is no stretch.
    pub fn of(&self, place: f64) -> Option<usize> {
        let inside = place >= self.low && place <= self.high && self.count > 0;
        if !inside || (self.is_log && self.low <= 0.0) {
            return None;
        }
        let share = if self.is_log {
            (place / self.low).ln() / (self.high / self.low).ln()
        } else {
            (place - self.low) / (self.high - self.low)
        };
        // One place only: the first dot. The right end belongs to the last dot.
        let dot = if share.is_finite() { share * self.count as f64 } else { 0.0 };
        Some((dot as usize).min(self.count - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_even_on_their_axis() {
        let dots = Dots { low: 0.0, high: 10.0, count: 5, is_log: false };
        let places = [0.0, 1.9, 2.0, 9.9, 10.0].map(|place| dots.of(place));
        assert_eq!(places, [Some(0), Some(0), Some(1), Some(4), Some(4)]);
        assert_eq!([-0.1, 10.1, f64::NAN].map(|place| dots.of(place)), [None; 3]);
        let dots = Dots { low: 1.0, high: 1e4, count: 4, is_log: true };
        assert_eq!([1.0, 9.0, 11.0, 1e4].map(|place| dots.of(place)), [0, 0, 1, 3].map(Some));
        assert_eq!(Dots { low: 0.0, ..dots }.of(5.0), None);
    }

    #[test]
    fn a_single_place_is_the_first_dot() {
        let dots = Dots { low: 3.0, high: 3.0, count: 7, is_log: false };
        assert_eq!(dots.of(3.0), Some(0));
        assert_eq!(Dots { count: 0, ..dots }.of(3.0), None);
    }
}
