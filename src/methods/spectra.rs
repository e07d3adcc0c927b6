//! What an event says of a matrix's singular values.

use crate::linalg::spectrum::Spectrum;
use crate::runlog::Rank;

/// Singular values in one event, at most.
const MOST_VALUES: usize = 64;
/// Values at most this share of the largest do not count in the numerical rank.
const TAU: f64 = 1e-3;

/// The event with all that is read off the singular values; its other fields stay.
pub fn told(spectrum: &Spectrum, event: Rank) -> Rank {
    let count = |count: usize| count as u64;
    let values = spectrum.sample(MOST_VALUES);
    Rank {
        form: spectrum.form().name().into(),
        effective: spectrum.effective(),
        energy_effective: spectrum.energy_effective(),
        stable: spectrum.stable(),
        numerical: count(spectrum.numerical(TAU)),
        strict: spectrum.strict().map(count),
        above_tenth: count(spectrum.above(0.1)),
        energy90: count(spectrum.energy(0.90)),
        energy99: count(spectrum.energy(0.99)),
        tail: spectrum.tail(),
        norm: spectrum.norm(),
        sigma: values.into_iter().map(|(place, sigma)| (count(place), sigma)).collect(),
        ..event
    }
}
