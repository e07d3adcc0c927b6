//! Clipping of gradients beside their second moments, and masks of places.

use fullrank::device::Device;
use fullrank::device::memory::Category::Activations;
use fullrank::kernels::Matrix;
use fullrank::kernels::spikes::{Mask, SpikeRule, clip_spikes};

use crate::forms::{TOLERANCE, Values, assert_near, in_every_form, vector, wide};

/// The rule, entry by entry: the gradient, how many were clipped, and the largest ratio.
fn plain(grad: &[f32], v: &[f32], scale: f32, rule: SpikeRule) -> (Vec<f64>, f64, f64) {
    let (mut count, mut largest) = (0.0, 0f64);
    let entry = |(place, (&g, &v)): (usize, (&f32, &f32))| {
        if rule.mask.is_some_and(|mask| !mask.keeps(place)) {
            return 0.0;
        }
        let x = f64::from(g) * f64::from(scale);
        let v = f64::from(v);
        match rule.threshold {
            Some(threshold) if v > 0.0 && x * x > threshold * v => {
                count += 1.0;
                largest = largest.max(x * x / v);
                x.signum() * (threshold * v).sqrt() / f64::from(scale)
            }
            _ => f64::from(g),
        }
    };
    let grad = grad.iter().zip(v).enumerate().map(entry).collect();
    (grad, count, largest)
}

#[test]
fn clipping_of_spikes_agrees_with_a_plain_loop() {
    in_every_form(|device: &Device| {
        let mut values = Values(91);
        for shape in [[1, 1], [3, 5], [64, 16], [130, 257], [7, 20_000], [700, 512]] {
            let len = shape[0] * shape[1];
            let grad = values.vec(len);
            // Second moments of any size, some of them 0: nothing to compare with.
            let v: Vec<f32> =
                values.vec(len).iter().map(|v| if *v < -1.0 { 0.0 } else { v * v }).collect();
            for (threshold, mask) in [
                (Some(2.0), None),
                (Some(0.5), Some(Mask { key: 77, density: 0.3 })),
                (None, Some(Mask { key: 0xffff_fff1, density: 0.9 })),
                (Some(f64::INFINITY), None),
                (None, None),
            ] {
                let rule = SpikeRule { threshold, mask };
                let on =
                    |values: &[f32]| Matrix::from_host(values.to_vec(), shape, device, Activations);
                let (scale, tally) = (vector(vec![0.5], device), vector(vec![3.0, 0.25], device));
                let (got, tally) = clip_spikes(on(&grad), &scale, &on(&v), rule, tally);
                let (right, count, largest) = plain(&grad, &v, 0.5, rule);
                assert_near("gradient", &wide(&got), &right, TOLERANCE);
                let tally = wide(&tally);
                assert_eq!(tally[0], 3.0 + count, "{shape:?}, {rule:?}: how many were clipped");
                let largest = largest.max(0.25);
                assert!((tally[1] / largest - 1.0).abs() < 1e-5, "{tally:?} for {largest}");
                if threshold == Some(2.0) && len > 100 {
                    assert!(count > 0.02 * len as f64 && count < 0.9 * len as f64, "{count}");
                }
            }
        }
    });
}

#[test]
fn a_mask_keeps_its_share_and_another_key_keeps_others() {
    const PLACES: usize = 100_000;
    for density in [0.01, 0.25, 0.5, 0.9, 1.0] {
        let kept = |key| -> Vec<bool> {
            let mask = Mask { key, density };
            (0..PLACES).map(|place| mask.keeps(place)).collect()
        };
        let (one, two) = (kept(1), kept(2));
        let share = |of: &dyn Fn(usize) -> bool| {
            (0..PLACES).filter(|&place| of(place)).count() as f64 / PLACES as f64
        };
        let error = 4.0 * (density * (1.0 - density) / PLACES as f64).sqrt() + 1e-5;
        assert!((share(&|i| one[i]) - density).abs() < error, "{density}");
        assert!((share(&|i| one[i] && two[i]) - density * density).abs() < error, "{density}");
        let neighbours = share(&|i| i > 0 && one[i] && one[i - 1]);
        assert!((neighbours - density * density).abs() < error + 2e-5, "{density}");
    }
}
