//! Decompositions on the CPU in f64, by faer: plain slices in and out, row-major, sequential inside one
//! matrix, so that the bits depend on the values only. Callers run several matrices in parallel.

pub mod svd;

/// Turns a vector so that its entry of largest magnitude (the first of equals) is positive: the sign of a
/// singular vector is free, and this makes it a function of the vector's line alone.
pub fn canonical_sign(vector: &mut [f64]) {
    let mut largest = 0.0f64;
    for &value in vector.iter() {
        if value.abs() > largest.abs() {
            largest = value;
        }
    }
    if largest < 0.0 {
        for value in vector {
            *value = -*value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_entry_becomes_positive() {
        for (given, expected) in [
            ([1.0, -3.0, 2.0], [-1.0, 3.0, -2.0]),
            ([1.0, 3.0, -2.0], [1.0, 3.0, -2.0]),
            ([-2.0, 2.0, 1.0], [2.0, -2.0, -1.0]),
            ([0.0; 3], [0.0; 3]),
        ] {
            let mut vector = given;
            canonical_sign(&mut vector);
            assert_eq!(vector, expected);
        }
    }
}
