//! Scalar and row arithmetic that vectorises: `exp`, `σ`, sums and maxima in a fixed order.
//!
//! The binary targets the oldest x86-64; [`vectorised`] compiles a loop once more for AVX2 and AVX-512
//! and picks at run time. Everything called inside must be `#[inline(always)]`. There is no fused
//! multiply-add and no reordering in here, so the bits are the same on every CPU.

/// Runs `f` with the widest vector instructions of this CPU.
#[inline(always)]
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Independent partial sums of a row: one AVX-512 register of f32.
const LANES: usize = 16;

/// `1.5·2²³`: adding it leaves the rounded integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

/// `eˣ`, within 2 units in the last place on `[-87.3, 88]`; outside it stays at the nearer end. NaN in,
/// NaN out. Reduction and polynomial as in Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons instead of `clamp`: they let NaN through.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    y * f32::from_bits(exponent << 23)
}

/// `1/(1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `Σ f(aᵢ, bᵢ)` in f32, in [`LANES`] interleaved partial sums added as a tree.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += f(a, b);
    }
    tree(lanes, |x, y| x + y)
}

/// `Σ f(xᵢ)`.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(x, x, |x, _| f(x))
}

/// `Σ x²` in f64.
#[inline(always)]
pub(super) fn sum_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            let value = f64::from(block[l]);
            lanes[l] += value * value;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    tree(lanes, |x, y| x + y)
}

/// The largest value; NaN may be passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let larger = |x: f32, y: f32| if x > y { x } else { y };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = larger(block[l], lanes[l]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = larger(x, *lane);
    }
    tree(lanes, larger)
}

/// Replaces every `x` by `e^(x - shift)` and returns the sum.
#[inline(always)]
pub(super) fn exp_and_sum(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            block[l] = exp(block[l] - shift);
            lanes[l] += block[l];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *lane += *x;
    }
    tree(lanes, |x, y| x + y)
}

/// Joins the lanes pairwise; written out, because LLVM keeps only loops of constant length in registers.
#[inline(always)]
fn tree<T: Copy + Default>(lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut eight = [T::default(); 8];
    for l in 0..8 {
        eight[l] = f(lanes[l], lanes[l + 8]);
    }
    let mut four = [T::default(); 4];
    for l in 0..4 {
        four[l] = f(eight[l], eight[l + 4]);
    }
    f(f(four[0], four[2]), f(four[1], four[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..4_000_000 {
            let x = -87.3 + 175.3 * (i as f32 / 4_000_000.0);
            let right = f64::from(x).exp();
            let unit = f64::from((right as f32).next_up() - right as f32);
            worst = worst.max((f64::from(exp(x)) - right).abs() / unit);
        }
        assert!(worst < 2.0, "worst error {worst} units");
    }

    #[test]
    fn exp_is_exact_at_zero_and_stays_finite_and_passes_nan_on() {
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
        assert!(sigmoid(f32::NAN).is_nan());
        assert_eq!(sigmoid(0.0), 0.5);
    }

    #[test]
    fn sums_do_not_depend_on_the_instruction_set() {
        let x: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.37).sin()).collect();
        let wide = vectorised(|| (sum(&x, |v| v * v), sum_squares(&x), max(&x)));
        assert_eq!(wide, (sum(&x, |v| v * v), sum_squares(&x), max(&x)));
    }
}
