//! Scaling by rows and columns, norm ratios, the limiter.

use fullrank::device::memory::Category::Activations;
use fullrank::kernels::scaling::{Along, add_scaled, limit_growth, norm_ratios, scale};

use crate::forms::{TOLERANCE, Values, assert_near, in_every_form, vector, wide};

#[test]
fn scaling_and_norm_ratios_agree_with_plain_loops() {
    in_every_form(|device| {
        let mut values = Values(77);
        for [m, n] in
            [[1, 1], [3, 5], [130, 257], [1, 20_001], [7, 20_000], [20_000, 4], [700, 512]]
        {
            let (x, y) = (values.matrix(device, [m, n]), values.matrix(device, [m, n]));
            let (wx, wy) = (wide(&x), wide(&y));
            for along in [Along::All, Along::Rows, Along::Columns] {
                let (count, index): (usize, fn(usize, usize) -> usize) = match along {
                    Along::All => (1, |_, _| 0),
                    Along::Rows => (m, |k, n| k / n),
                    Along::Columns => (n, |k, n| k % n),
                };
                let factors = vector(values.vec(count), device);
                let of = wide(&factors);
                let got = scale(x.duplicate(device, Activations), &factors, along);
                let expected: Vec<f64> =
                    wx.iter().enumerate().map(|(k, v)| v * of[index(k, n)]).collect();
                assert_near("scale", &wide(&got), &expected, TOLERANCE);
                let norms = |x: &[f64]| {
                    let mut sums = vec![0.0; count];
                    for (k, v) in x.iter().enumerate() {
                        sums[index(k, n)] += v * v;
                    }
                    sums
                };
                let expected: Vec<f64> = norms(&wx)
                    .iter()
                    .zip(norms(&wy))
                    .map(|(x, y)| x.sqrt() / (y.sqrt() + 1e-8))
                    .collect();
                let ratios = norm_ratios(&x, &y, along);
                assert_near("ratios", &wide(&ratios), &expected, TOLERANCE);
                let again = norm_ratios(&x, &y, along).to_host();
                assert_eq!(ratios.to_host(), again, "the same bits twice");
            }
            let factor = vector(vec![0.5], device);
            let got = add_scaled(x.duplicate(device, Activations), -3.0, &factor, &y);
            let expected: Vec<f64> = wx.iter().zip(&wy).map(|(x, y)| x - 1.5 * y).collect();
            assert_near("sum", &wide(&got), &expected, TOLERANCE);
        }
    });
}

#[test]
fn growth_is_limited_only_beyond_gamma_and_a_zero_norm_is_not_kept() {
    in_every_form(|device| {
        let limit = |squares: f32, previous: f32| {
            let (now, before) = (vector(vec![squares], device), vector(vec![previous], device));
            let limited = limit_growth(&now, &before, 1.01, 2.0);
            [limited.factor, limited.norm, limited.ratio].map(|x| x.to_host()[0])
        };
        assert_eq!(limit(4.0, 0.0), [1.0, 4.0, 0.0], "nothing to compare with");
        let [factor, norm, ratio] = limit(4.0, 2.0);
        assert!((ratio - 2.0).abs() < 1e-6 && (factor - 0.505).abs() < 1e-6);
        assert!((norm - 2.02).abs() < 1e-5);
        let [factor, norm, _] = limit(1.0, 2.0);
        assert_eq!((factor, norm), (1.0, 2.0), "below the limit nothing changes");
        assert_eq!(limit(0.0, 3.0)[1], 3.0, "zero is not remembered");
    });
}
