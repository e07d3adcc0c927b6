//! The rank of what a run has added to its weights: bounded for LoRA, not for SwitchLoRA.

use faer::Mat;

use fullrank::config::RunConfig;
use fullrank::runlog::Body;

use super::fixture::{all_effective, busy_switchlora, config, engine, train};

/// Singular values of `W_eff(t) − W_eff(0)` of each layer, over the largest of the layer.
fn spectra(config: &RunConfig, updates: u64) -> Vec<Vec<f64>> {
    let mut engine = engine(config);
    let start = all_effective(&engine.model);
    train(&mut engine, updates);
    let linears = engine.model.linears();
    let spectrum = |(linear, (before, after)): (&fullrank::model::Linear, (Vec<f64>, Vec<f64>))| {
        let columns = linear.cols;
        let change = Mat::from_fn(linear.rows, columns, |i, j| {
            after[i * columns + j] - before[i * columns + j]
        });
        let values: Vec<f64> = change.singular_values().unwrap();
        values.iter().map(|value| value / values[0]).collect()
    };
    let changes = start.into_iter().zip(all_effective(&engine.model));
    linears.iter().zip(changes).map(spectrum).collect()
}

const RANK: usize = 2;
/// W has not moved and the factors are exact in f64: what is left of a rank is rounding.
const ROUNDING: f64 = 1e-12;

// Section 3: `B(t)·A(t)` alone where B starts at zero, and less its start otherwise.
#[test]
fn the_update_of_lora_has_at_most_the_rank_of_its_factors() {
    for (init, bound) in [
        ("standard", RANK),
        ("gaussian", RANK),
        ("both_kaiming", 2 * RANK),
        ("switchlora", 2 * RANK),
    ] {
        let mut config = config("lora");
        config.train.rank = Some(RANK);
        config.lora.init = Some(init.into());
        for (layer, spectrum) in spectra(&config, 40).iter().enumerate() {
            assert!(spectrum[bound] < ROUNDING, "{init}, layer {layer}: {spectrum:?}");
            assert!(spectrum[bound - 1] > 1e-5, "{init}, layer {layer}: {spectrum:?}");
        }
    }
}

// Invariant 10.
#[test]
fn the_update_of_switchlora_grows_beyond_twice_its_rank() {
    for selection in ["contiguous", "random"] {
        let mut config = busy_switchlora();
        config.train.rank = Some(RANK);
        config.switchlora.freeze = 1;
        config.switchlora.interval0 = 2.0;
        config.switchlora.selection = selection.into();
        for (layer, spectrum) in spectra(&config, 60).iter().enumerate() {
            let beyond = spectrum[2 * RANK];
            assert!(beyond > 1e-2, "{selection}, layer {layer}: {spectrum:?}");
            // Eight candidates at least on each side: the whole space of the layer is reached.
            let last = spectrum.last().unwrap();
            assert!(*last > 1e-5, "{selection}, layer {layer}: {spectrum:?}");
        }
    }
}

// The norm in the event is that of the change of W.
#[test]
fn the_event_of_a_switch_tells_the_size_of_the_correction() {
    let mut config = busy_switchlora();
    config.train.learning_rate = Some(0.0);
    let mut engine = engine(&config);
    let weights = |engine: &fullrank::run::engine::Engine| -> Vec<Vec<f64>> {
        let model = &engine.model;
        let linears = model.linears().iter();
        linears.map(|linear| super::fixture::wide(model, linear.weight.unwrap())).collect()
    };
    let mut compared = 0;
    for _ in 0..20 {
        let before = weights(&engine);
        train(&mut engine, 1);
        // Else the next update would read it.
        engine.read_late_events();
        let after = weights(&engine);
        for (t, event) in std::mem::take(&mut engine.late_events) {
            assert_eq!(t, engine.t, "the update that switched");
            let Body::Switch(switch) = event else { continue };
            for layer in &switch.l {
                let place = layer.layer as usize;
                let change = after[place].iter().zip(&before[place]);
                let norm = change.map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
                if layer.k == 0 {
                    assert_eq!((norm, layer.dw_norm.to_bits()), (0.0, 0), "nothing for nothing");
                    continue;
                }
                // The event combines the corrections of the two sides as if they were orthogonal.
                let ratio = norm / layer.dw_norm;
                assert!((0.6..1.5).contains(&ratio), "{norm} against {}", layer.dw_norm);
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "only {compared} switches");
}
