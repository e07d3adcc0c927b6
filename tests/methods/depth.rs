//! Ranks that go linearly with depth (section 10.10), for every method with a rank.

use fullrank::config::RunConfig;

use super::fixture::{
    assert_exports_as_an_adapter, assert_same, config, engine, engine_of, relora, shape, snapshot,
    train,
};

fn by_depth(method: &str, first: usize, last: usize) -> RunConfig {
    let mut config = if method == "relora" { relora(0, 100) } else { config(method) };
    config.train.rank = Some(first.max(last));
    config.train.rank_first = Some(first);
    config.train.rank_last = Some(last);
    config
}

/// Of every adapter in the model's order.
fn ranks(config: &RunConfig, blocks: usize) -> Vec<usize> {
    let mut shape = shape();
    shape.num_hidden_layers = blocks;
    let engine = engine_of(config, shape);
    let adapters = engine.model.linears().iter().map(|linear| linear.adapter.unwrap());
    adapters.map(|adapter| engine.model.params.value(adapter.a).shape()[0]).collect()
}

#[test]
fn every_layer_has_the_rank_of_its_depth() {
    let adapters =
        ["lora", "rslora", "lora-plus", "switchlora", "relora", "lora-ga", "pissa", "dora"];
    for method in adapters {
        let found = ranks(&by_depth(method, 2, 4), 3);
        let expected: Vec<usize> = [2, 3, 4].into_iter().flat_map(|rank| [rank; 7]).collect();
        assert_eq!(found, expected, "{method}");
        assert_eq!(ranks(&by_depth(method, 3, 4), 1), [3; 7], "{method} with one block");
        // The key projection is 8 x 16.
        let clamped = ranks(&by_depth(method, 2, 12), 2);
        let most = if method == "lora-ga" { 4 } else { 8 };
        assert_eq!((clamped[1], clamped[8]), (2, most), "{method}");
    }
}

#[test]
fn the_subspaces_of_projecting_methods_have_the_rank_of_their_depth() {
    for method in ["galore", "fira"] {
        let mut engine = engine(&by_depth(method, 2, 5));
        train(&mut engine, 1);
        for (place, linear) in engine.model.linears().iter().enumerate() {
            let id = linear.weight.unwrap();
            let shape = engine.method.moment_shape(id).unwrap();
            let rank = if place < 7 { 2 } else { 5 };
            assert_eq!(shape.into_iter().min().unwrap(), rank, "{method}, {}", linear.name);
        }
    }
}

#[test]
fn the_same_rank_at_both_ends_is_the_plain_rank() {
    for method in ["lora", "switchlora", "galore"] {
        let (mut ends, mut plain) = (engine(&by_depth(method, 4, 4)), engine(&config(method)));
        train(&mut ends, 6);
        train(&mut plain, 6);
        assert_same(method, &snapshot(&mut ends), &snapshot(&mut plain));
    }
}

#[test]
fn an_adapter_with_ranks_by_depth_is_exported() {
    let mut config = by_depth("lora", 2, 4);
    config.train.rank = Some(4);
    let engine = engine(&config);
    assert_eq!(engine.events.len(), engine.model.linears().len(), "no clamp is told");
    assert_exports_as_an_adapter(&config, 4);
}
