//! Llama 3's stretched angles: GGUF stores the divisor of each frequency as a tensor, Hugging Face the
//! four numbers that they come from.

use super::super::hf_config::{HfConfig, RopeKind};
use super::metadata::Metadata;
use crate::error::Result;

/// The tensor with a divisor for each pair of a head's elements.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Where a file says which context the angles were made for.
pub(super) const ORIGINAL_CONTEXT: &str = "llama.rope.scaling.original_context_length";
/// `low_freq_factor` and `high_freq_factor` of every Llama 3 model.
const BANDS: (f64, f64) = (1.0, 4.0);
/// The context that Llama 3 models were first trained on.
const LLAMA3_CONTEXT: usize = 8192;
/// Divisors are f32 and go through a few roundings.
const TOLERANCE: f64 = 1e-4;
const MAX_CONTEXT: usize = 1 << 24;

/// The divisor of each frequency `θ^(-2i/D)`; `None` where all angles are used as they are, or divided by
/// one number.
pub(super) fn factors(config: &HfConfig) -> Option<Vec<f32>> {
    let RopeKind::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = config.rope.kind
    else {
        return None;
    };
    let original = original_max_position_embeddings as f64;
    let divisor = |i: usize| {
        let exponent = (2 * i) as f64 / config.head_dim as f64;
        let wavelength = 2.0 * std::f64::consts::PI * config.rope.theta.powf(exponent);
        if wavelength < original / high_freq_factor {
            1.0
        } else if wavelength > original / low_freq_factor {
            factor
        } else {
            let share =
                (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - share) / factor + share)
        }
    };
    Some((0..config.head_dim / 2).map(|i| divisor(i) as f32).collect())
}

/// The kind of angles whose divisors these are.
///
/// Errors: divisors that Llama 3's rule does not give for any context that is a power of two or that the file
/// names.
pub(super) fn kind_of_factors(
    metadata: &Metadata,
    config: &HfConfig,
    found: &[f32],
) -> Result<RopeKind> {
    let factor = found.iter().copied().fold(1.0f32, f32::max);
    if found.len() == config.head_dim / 2 && found.iter().all(|&x| x == 1.0) {
        return Ok(RopeKind::Default);
    }
    let named = metadata.count(ORIGINAL_CONTEXT, MAX_CONTEXT)?;
    let powers = (4..24).map(|power| 1 << power);
    for original in named.into_iter().chain([LLAMA3_CONTEXT]).chain(powers) {
        let kind = RopeKind::Llama3 {
            factor: f64::from(factor),
            low_freq_factor: BANDS.0,
            high_freq_factor: BANDS.1,
            original_max_position_embeddings: original,
        };
        let mut candidate = config.clone();
        candidate.rope.kind = kind;
        let wanted = factors(&candidate).unwrap_or_default();
        let is_near = |(a, b): (&f32, &f32)| {
            (f64::from(*a) - f64::from(*b)).abs() <= TOLERANCE * f64::from(*b)
        };
        if found.len() == wanted.len() && found.iter().zip(&wanted).all(is_near) {
            return Ok(kind);
        }
    }
    Err(metadata.unsupported(
        format!("{FACTORS} holds {} divisors that are not those of Llama 3's rule", found.len()),
        "use the Hugging Face checkpoint of the model, whose config.json has the numbers",
    ))
}
