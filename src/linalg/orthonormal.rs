//! Orthonormal sets of vectors: Gram–Schmidt, the sign rule, overlap of two spans.

/// A source of random vectors of a given length, for directions that the data does not determine.
pub type RandomVectors<'a> = dyn FnMut(usize) -> Vec<f64> + 'a;

/// A vector whose rest outside the earlier ones is below this share of it counts as dependent on them.
const DEPENDENT: f64 = 1e-10;

/// Makes the rows of `len` entries orthonormal, in order; one that depends on those before it is replaced
/// by a random direction. Each is projected twice, which is enough for f64's precision.
///
/// There may be at most `len` rows.
pub fn orthonormalise(rows: &mut [f64], len: usize, random: &mut RandomVectors<'_>) {
    assert!(rows.len() <= len * len, "at most {len} orthonormal vectors of {len} entries");
    for start in (0..rows.len()).step_by(len.max(1)) {
        let (done, rest) = rows.split_at_mut(start);
        let row = &mut rest[..len];
        while !normalise(row, done) {
            row.copy_from_slice(&random(len));
        }
    }
}

/// Removes from `row` what lies in the span of `done` and scales it to length 1; false where nothing is left.
fn normalise(row: &mut [f64], done: &[f64]) -> bool {
    let before = norm(row);
    if before == 0.0 {
        return false;
    }
    for value in &mut *row {
        *value /= before;
    }
    for _ in 0..2 {
        for other in done.chunks_exact(row.len()) {
            let along = dot(row, other);
            for (value, other) in row.iter_mut().zip(other) {
                *value -= along * other;
            }
        }
        let rest = norm(row);
        if rest < DEPENDENT {
            return false;
        }
        for value in &mut *row {
            *value /= rest;
        }
    }
    true
}

/// Makes the entry of largest magnitude of each row positive (the first of equals), so that a decomposition
/// has one answer.
pub fn fix_signs(rows: &mut [f64], len: usize) {
    for row in rows.chunks_exact_mut(len.max(1)) {
        let largest =
            row.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            for value in row {
                *value = -*value;
            }
        }
    }
}

/// How much two spans of `r` orthonormal rows share: `‖A·Bᵀ‖²/r`, 1 for the same span, 0 for orthogonal ones.
pub fn overlap(a: &[f32], b: &[f32], len: usize) -> f64 {
    let wide = |row: &[f32]| row.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let b: Vec<Vec<f64>> = b.chunks_exact(len.max(1)).map(wide).collect();
    let squares = a.chunks_exact(len.max(1)).map(|row| {
        let row = wide(row);
        b.iter().map(|other| dot(&row, other).powi(2)).sum::<f64>()
    });
    squares.sum::<f64>() / b.len().max(1) as f64
}

/// How far the spans of two sets of rows are apart, by the projection metric of subspaces: `√(r − ‖U·Vᵀ‖²)` for
/// orthonormal rows `U` and `V` of the two, `r` the larger dimension. 0 for the same span, `√r` for orthogonal ones.
/// Rows that depend on those before them add nothing. `None` where a set spans nothing.
pub fn distance(a: &[f64], b: &[f64], len: usize) -> Option<f64> {
    let (u, v) = (basis(a, len), basis(b, len));
    let rows = |x: &[f64]| x.len() / len.max(1);
    if u.is_empty() || v.is_empty() {
        return None;
    }
    let shared =
        u.chunks_exact(len).flat_map(|row| v.chunks_exact(len).map(move |other| dot(row, other)));
    let shared: f64 = shared.map(|cosine| cosine * cosine).sum();
    Some((rows(&u).max(rows(&v)) as f64 - shared).max(0.0).sqrt())
}

/// Orthonormal rows of `len` entries with the span of these.
fn basis(rows: &[f64], len: usize) -> Vec<f64> {
    let mut basis: Vec<f64> = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(len.max(1)) {
        let mut row = row.to_vec();
        if normalise(&mut row, &basis) {
            basis.extend(row);
        }
    }
    basis
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    // Scaled, so that tiny entries do not vanish when squared.
    let largest = x.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * x.iter().map(|v| (v / largest).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependent_rows_are_replaced_by_random_ones() {
        let mut rows = vec![3.0, 4.0, 0.0, 6.0, 8.0, 0.0, 0.0, 0.0, 0.0];
        let mut draws = [vec![0.0, 0.0, 2.0], vec![1.0, 1.0, 1.0]].into_iter();
        orthonormalise(&mut rows, 3, &mut |_| draws.next().unwrap());
        for (i, a) in rows.chunks(3).enumerate() {
            for (j, b) in rows.chunks(3).enumerate() {
                let wanted = f64::from(u8::from(i == j));
                assert!((dot(a, b) - wanted).abs() < 1e-14, "rows {i} and {j} of {rows:?}");
            }
        }
        assert!((rows[0] - 0.6).abs() < 1e-15 && (rows[1] - 0.8).abs() < 1e-15);
    }

    #[test]
    fn the_largest_entry_of_each_vector_becomes_positive() {
        let mut rows = vec![0.1, -0.9, 0.3, 0.8];
        fix_signs(&mut rows, 2);
        assert_eq!(rows, [-0.1, 0.9, 0.3, 0.8]);
    }

    #[test]
    fn overlap_is_one_for_the_same_span_and_zero_for_orthogonal_ones() {
        let (x, y) = ([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.6f32, 0.8, 0.0, -0.8, 0.6, 0.0]);
        assert!((overlap(&x, &y, 3) - 1.0).abs() < 1e-6);
        assert_eq!(overlap(&x[..3], &[0.0, 0.0, 1.0], 3), 0.0);
    }

    #[test]
    fn spans_are_apart_by_the_sines_of_their_angles() {
        // The plane of x and y, given in two ways, and one that is turned around x by 30 degrees.
        let plane = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let same = [3.0, 4.0, 0.0, 6.0, 8.0, 0.0, -8.0, 6.0, 0.0];
        let turned = [2.0, 0.0, 0.0, 5.0, 0.75_f64.sqrt(), 0.5];
        let close = |found: Option<f64>, wanted: f64| (found.unwrap() - wanted).abs() < 1e-7;
        assert!(close(distance(&plane, &same, 3), 0.0));
        assert!(
            close(distance(&plane, &turned, 3), 0.5) && close(distance(&turned, &plane, 3), 0.5)
        );
        assert!(close(distance(&plane[..3], &plane[3..], 3), 1.0));
        // A line in a plane, and one across it.
        assert!(close(distance(&plane, &plane[..3], 3), 1.0));
        assert!(close(distance(&plane, &[0.0, 0.0, 7.0], 3), 2.0_f64.sqrt()));
        assert_eq!(distance(&plane, &[0.0; 6], 3), None);
    }
}
