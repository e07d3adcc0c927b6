//! rsLoRA and LoRA+: LoRA but for one number.

use fullrank::methods::Export;
use fullrank::model::LinearId;

use super::fixture::{
    assert_exports_as_an_adapter, assert_same, config, engine, snapshot, train, wide,
};

// Section 10.1.
#[test]
fn rslora_divides_alpha_by_the_root_of_the_rank_and_is_lora_in_everything_else() {
    let mut stabilised = config("rslora");
    let mut plain = config("lora");
    stabilised.train.alpha = Some(8.0);
    plain.train.alpha = Some(16.0);
    let (mut ours, mut theirs) = (engine(&stabilised), engine(&plain));
    for linear in ours.model.linears() {
        assert_eq!(linear.adapter.unwrap().scale, 4.0, "8 / √4");
    }
    train(&mut ours, 10);
    train(&mut theirs, 10);
    assert_same("after 10 updates", &snapshot(&mut ours), &snapshot(&mut theirs));
    assert_eq!(ours.method.name(), "rslora");
}

// Section 10.2.
#[test]
fn lora_plus_with_ratio_one_is_lora_bit_for_bit() {
    let mut plus = config("lora-plus");
    plus.lora_plus.ratio = 1.0;
    plus.train.weight_decay = 0.01;
    plus.train.max_grad_norm = Some(0.5);
    let mut plain = plus.clone();
    plain.train.method = "lora".into();
    let (mut ours, mut theirs) = (engine(&plus), engine(&plain));
    train(&mut ours, 12);
    train(&mut theirs, 12);
    assert_same("after 12 updates", &snapshot(&mut ours), &snapshot(&mut theirs));
    assert_eq!(ours.method.name(), "lora-plus");
}

// Section 10.2: Adam's first step is the learning rate itself in every entry with a gradient.
#[test]
fn lora_plus_moves_b_by_its_ratio_times_the_rate_of_everything_else() {
    let mut plus = config("lora-plus");
    plus.lora.init = Some("both_kaiming".into());
    plus.lora_plus.ratio = 16.0;
    plus.train.learning_rate = Some(1e-3);
    let mut engine = engine(&plus);
    let ids = engine.model.params.ids();
    let before: Vec<_> = ids.iter().map(|&id| wide(&engine.model, id)).collect();
    train(&mut engine, 1);
    for (&id, before) in ids.iter().zip(&before) {
        let param = engine.model.params.get(id);
        if !param.trainable {
            continue;
        }
        let after = wide(&engine.model, id);
        let moved = after.iter().zip(before).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        let expected = if param.name.ends_with("lora_B") { 16e-3 } else { 1e-3 };
        assert!((moved / expected - 1.0).abs() < 1e-3, "{}: {moved}", param.name);
    }
}

#[test]
fn the_factors_are_an_adapter_of_the_original_weight_where_they_start_at_zero() {
    for method in ["lora", "rslora", "lora-plus"] {
        assert_exports_as_an_adapter(&config(method), 4);
    }
    let mut compensated = config("lora");
    compensated.lora.init = Some("both_kaiming".into());
    compensated.train.train_non_targets = Some(false);
    let engine = engine(&compensated);
    assert_eq!(engine.method.export(&engine.model), Export::Merged);
    assert!(engine.method.plain_adapter(&engine.model, LinearId(0)).is_none());
}
