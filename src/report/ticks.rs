//! Where the ticks of an axis stand, and how they are called.

/// Round values that cover `low..high` in about `wanted` steps of 1, 2 or 5 times a power of ten.
pub fn linear(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    if !(low.is_finite() && high.is_finite() && high > low) {
        return Vec::new();
    }
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
    // Where a step has not all its digits, or is infinite, no multiple of it is a round value.
    if !(power.is_normal() && step.is_normal()) {
        return Vec::new();
    }
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|number| number as f64 * step).collect()
}

/// Values for an axis of logarithms: powers of ten where there are several, else round values between them.
pub fn logarithmic(low: f64, high: f64) -> Vec<f64> {
    if !(low > 0.0 && high.is_finite() && high > low) {
        return Vec::new();
    }
    let decades = high.log10() - low.log10();
    if decades < 0.7 {
        return linear(low, high, 6);
    }
    let factors: &[f64] = match decades {
        d if d > 3.0 => &[1.0],
        d if d > 1.3 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
    };
    let every = (decades / 8.0).ceil().max(1.0) as i32;
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let powers = (first..=last).filter(|power| power.rem_euclid(every) == 0);
    let all = powers.flat_map(|power| factors.iter().map(move |f| f * 10_f64.powi(power)));
    all.filter(|value| *value >= low * (1.0 - 1e-9) && *value <= high * (1.0 + 1e-9)).collect()
}

/// The name of a tick: as few digits as it needs, `k`, `M`, `G`, `T` for large numbers.
pub fn name(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let size = value.abs();
    if !(1e-3..1e18).contains(&size) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e").replace('-', "\u{2212}");
    }
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit_size, unit) =
        units.into_iter().find(|(unit, _)| size >= *unit * 0.999_999).unwrap_or((1.0, ""));
    let scaled = format!("{:.4}", value / unit_size);
    let short = scaled.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", short.replace('-', "\u{2212}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round_and_inside() {
        assert_eq!(linear(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear(3.1, 4.9, 4), [3.5, 4.0, 4.5]);
        assert_eq!(linear(-1.0, 1.0, 4), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert!(linear(1.0, 1.0, 4).is_empty() && linear(f64::NAN, 1.0, 4).is_empty());
    }

    #[test]
    fn ranges_at_the_ends_of_the_numbers_have_few_ticks_or_none() {
        let ends = [0.0, 5e-324, 1e-320, 1e-308, 1.0, 1.0 + f64::EPSILON, 1e300, 1.7e308, f64::MAX];
        let ends = ends.into_iter().flat_map(|end| [end, -end]);
        let ends: Vec<f64> = ends.collect();
        for (low, high) in ends.iter().flat_map(|low| ends.iter().map(move |high| (*low, *high))) {
            for wanted in [0, 1, 7] {
                let ticks = linear(low, high, wanted);
                assert!(ticks.len() <= wanted.max(1) + 3, "{low} to {high}: {ticks:?}");
                assert!(ticks.iter().all(|tick| tick.is_finite()), "{low} to {high}: {ticks:?}");
            }
            assert!(logarithmic(low, high).len() < 40, "{low} to {high}");
        }
        assert!(linear(0.0, 5e-324, 6).is_empty());
    }

    #[test]
    fn logarithmic_ticks_suit_the_range() {
        assert_eq!(logarithmic(1e-3, 1e3), [1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3]);
        assert_eq!(logarithmic(1.9, 11.0), [2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]);
        assert_eq!(logarithmic(3.0, 5.0), [3.0, 3.5, 4.0, 4.5, 5.0]);
        assert!(logarithmic(1e-30, 1e30).len() < 12);
        assert!(logarithmic(0.0, 1.0).is_empty());
    }

    #[test]
    fn names_are_short() {
        let names = [0.0, 0.002, 2.5, 1500.0, 1e6, 2.5e9, 1e15, -3.0, 1e-8].map(name);
        assert_eq!(names, ["0", "0.002", "2.5", "1.5k", "1M", "2.5G", "1P", "−3", "1e−8"]);
    }
}
