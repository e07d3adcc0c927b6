//! A row of numbers in one line of cells.

/// Heights of a cell, lowest first.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The newest part of some values as `width` signs, one of equally many neighbouring values each (their mean). The
/// smallest is the lowest sign; a stretch without a finite value is blank; all alike is half high.
pub fn spark(values: &[f64], width: usize) -> String {
    if width == 0 || values.is_empty() {
        return String::new();
    }
    signs(values, values.len().div_ceil(width))
}

/// The newest of a column that grows, as at most `width` signs of at most `most` values each. Once there are as many, the
/// signs stand still until one is full: only the last changes with each value.
pub fn growing(values: &[f32], width: usize, most: usize) -> String {
    if width == 0 || values.is_empty() {
        return String::new();
    }
    let of_each = values.len().div_ceil(width).min(most.max(1));
    let last = (values.len() - 1) / of_each;
    let newest = &values[last.saturating_sub(width - 1) * of_each..];
    let newest: Vec<f64> = newest.iter().copied().map(f64::from).collect();
    signs(&newest, of_each)
}

fn signs(values: &[f64], of_each: usize) -> String {
    let means: Vec<Option<f64>> = values
        .chunks(of_each)
        .map(|chunk| {
            let finite = || chunk.iter().filter(|value| value.is_finite());
            let count = finite().count();
            (count > 0).then(|| finite().map(|value| value / count as f64).sum())
        })
        .collect();
    let known = || means.iter().flatten().copied();
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let sign = |mean: &Option<f64>| match mean {
        None => ' ',
        Some(_) if high - low <= 1e-9 * high.abs().max(low.abs()) => LEVELS[3],
        Some(mean) => {
            let share = (mean / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
            LEVELS[((share * 8.0) as usize).min(7)]
        }
    };
    means.iter().map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_growing_column_only_the_last_sign_changes() {
        let height = |i: usize| [3.0, 0.0, 9.0][(i / 64).min(2)] / 2.0 + (i % 3) as f32;
        let values: Vec<f32> = (0..1000).map(height).collect();
        let mut before = growing(&values[..600], 9, 64);
        assert_eq!(before.chars().count(), 9);
        for len in 601..640 {
            let now = growing(&values[..len], 9, 64);
            assert_eq!(
                now.chars().take(8).collect::<String>(),
                before.chars().take(8).collect::<String>()
            );
            before = now;
        }
        assert_eq!(growing(&values[..641], 9, 64).chars().count(), 9);
        assert_eq!(growing(&[0.0, 1.0, 2.0, 4.0], 4, 64), "▁▃▅█");
        assert_eq!(growing(&[], 4, 64), "");
    }

    #[test]
    fn the_smallest_is_low_and_the_largest_high() {
        assert_eq!(spark(&[0.0, 1.0, 2.0, 4.0], 4), "▁▃▅█");
        assert_eq!(spark(&[1.0, 1.0, f64::NAN, 1.0], 4), "▄▄ ▄");
        assert_eq!(spark(&[1.0, 3.0, 5.0, 7.0], 2), "▁█");
        assert_eq!((spark(&[], 4), spark(&[1.0], 0)), (String::new(), String::new()));
        assert_eq!(spark(&[-1e308, 1e308, f64::INFINITY], 3), "▁█ ");
    }
}
