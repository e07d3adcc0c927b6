//! How often SwitchLoRA switches, and that never switching is plain LoRA.

use super::fixture::{
    LINEARS, assert_same, config, engine, parameter_bits, snapshot, switch_once, train,
};

// Invariant 8: counts follow `(r/interval0)·(1 − e^(−θT))/θ`, each layer and all together.
#[test]
fn switch_counts_follow_the_formula() {
    let (total, rank, interval0, ratio) = (1_000u64, 8usize, 40.0, 0.1);
    for rate in ["paper", "code"] {
        let mut config = config("switchlora");
        config.train.rank = Some(rank);
        config.train.iters = Some(total);
        config.switchlora.interval0 = interval0;
        config.switchlora.ratio = ratio;
        config.switchlora.freeze = 1;
        config.switchlora.rate = rate.into();
        let mut shape = super::fixture::shape();
        shape.num_key_value_heads = 4;
        let mut engine = super::fixture::engine_of(&config, shape);
        let mut counts = [0u32; LINEARS];
        for _ in 0..total {
            for layer in switch_once(&mut engine) {
                assert_eq!(layer.k, layer.wanted, "nothing limits the switches here");
                counts[layer.layer as usize] += layer.k;
            }
        }
        let span = ratio * total as f64;
        let (expected, variance) = if rate == "paper" {
            let theta = 3f64.ln() / span;
            let expected = rank as f64 / interval0 * (1.0 - (-theta * total as f64).exp()) / theta;
            // One draw with probability p an update: Σ p(1 − p), below Σ p.
            (expected, expected)
        } else {
            let p = |t: u64| rank as f64 / interval0 * 0.3f64.powf((t + 1) as f64 / span);
            let sum: f64 = (0..total).map(p).sum();
            (sum, sum)
        };
        for (layer, &count) in counts.iter().enumerate() {
            let difference = (f64::from(count) - expected).abs();
            assert!(
                difference < 4.0 * variance.sqrt(),
                "{rate}, layer {layer}: {count} switches, expected {expected}"
            );
        }
        let all: u32 = counts.iter().sum();
        let layers = LINEARS as f64;
        assert!(
            (f64::from(all) - layers * expected).abs() < 4.0 * (layers * variance).sqrt(),
            "{rate}: {all} switches, expected {}",
            layers * expected
        );
        assert!(counts.iter().any(|&count| count != counts[0]), "each layer draws for itself");
    }
}

// Invariant 7: whole runs, every weight and moment.
#[test]
fn never_switching_is_plain_lora_with_this_init_bit_for_bit() {
    let mut never = config("switchlora");
    never.switchlora.interval0 = f64::INFINITY;
    let mut plain = config("lora");
    plain.lora.init = Some("switchlora".into());
    for config in [&mut never, &mut plain] {
        config.train.alpha = Some(1.0);
        config.train.max_grad_norm = Some(0.5);
        config.train.weight_decay = 0.01;
        config.train.lr_schedule = Some("cosine".into());
        config.train.warmup_steps = Some(3);
        config.train.iters = Some(12);
    }
    let (mut never, mut plain) = (engine(&never), engine(&plain));
    let start = parameter_bits(&never.model);
    for _ in 0..12 {
        train(&mut never, 1);
        train(&mut plain, 1);
        let (mut ours, theirs) = (snapshot(&mut never), snapshot(&mut plain));
        // SwitchLoRA has pools, pointers and a counter for each vector; the rest is the same.
        let rank = 4;
        for (name, bits) in &mut ours {
            if name.ends_with("lora_A.step") || name.ends_with("lora_B.step") {
                assert_eq!(*bits, vec![never.t as u32; rank], "{name}: all counters agree");
                bits.truncate(1);
            }
        }
        ours.retain(|name, _| !name.contains(".pool_") && name != "state.json");
        let mut theirs = theirs;
        theirs.remove("state.json");
        assert_same("never switching against plain LoRA", &ours, &theirs);
    }
    assert_ne!(start, parameter_bits(&never.model));
}
