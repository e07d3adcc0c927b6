//! How much arithmetic an update costs, by method: the horizontal axis on which cheap updates count as cheap.
//!
//! Multiply-adds of a layer `m × n` with rank `r`, for one token: full rank `3·m·n` (forward, gradient of the input,
//! gradient of the weight); with factors `2·m·n + 3·r·(m + n)`, as the weight has no gradient; factors without a weight
//! `3·r·(m + n)`; heads that all see every token their ranks together; projected gradients `3·m·n`, and `2·r·m·n` once an update; `SLTrain`, which makes the weight and its
//! gradient, `3·m·n`, and `4·r·m·n` once an update. The head costs `3·V·h`, or
//! `2·V·h` where it is frozen, attention `3·h·T` with the causal half left out. Two operations each. What methods do now and then (switches, merges,
//! decompositions) is not counted: it is below one percent at the documented intervals.

use serde_json::Value;

use super::series::History;

/// What the weights and factors of a method cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    Full,
    /// As many pairs of factors as each token meets.
    Factors(u32),
    FactorsAlone,
    Projected,
    /// The weight is put together from factors and sparse values, and its gradient taken apart again.
    Assembled,
}

fn cost(method: &str, config: &toml::Table) -> Option<Cost> {
    let setting = |table: &str, key: &str| config.get(table)?.get(key);
    let word = |table: &str, key: &str| setting(table, key).and_then(toml::Value::as_str);
    Some(match method {
        "full" | "spam" => Cost::Full,
        "lora" | "rslora" | "lora-plus" if word("lora", "base") == Some("none") => {
            Cost::FactorsAlone
        }
        "lora" | "switchlora" | "relora" | "rslora" | "lora-plus" | "lora-ga" | "pissa"
        | "dora" => Cost::Factors(1),
        "inrank" => Cost::FactorsAlone,
        "sltrain" => Cost::Assembled,
        "lte" => match word("lte", "mhlora") {
            Some("mean" | "sum") => {
                let heads = setting("lte", "heads").and_then(toml::Value::as_integer)?;
                Cost::Factors(u32::try_from(heads).ok()?)
            }
            // Each token meets one head and its snapshot.
            _ => Cost::Factors(2),
        },
        "galore" | "fira" | "adarankgrad" => Cost::Projected,
        _ => return None,
    })
}

/// The network's shape, as `facts.json` holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    hidden: f64,
    inner: f64,
    layers: f64,
    queries: f64,
    keys: f64,
    vocab: f64,
    seq: f64,
}

impl Shape {
    /// Reads it from the facts and the configuration of a run; `None` where something is missing.
    pub fn read(facts: &Value, config: &toml::Table) -> Option<Self> {
        let model = facts.get("model")?;
        let number = |key: &str| model.get(key).and_then(Value::as_f64);
        let (hidden, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        let head = number("head_dim").unwrap_or(hidden / heads);
        let seq = config.get("data")?.get("max_seq_length")?.as_integer()?;
        Some(Self {
            hidden,
            inner: number("intermediate_size")?,
            layers: number("num_hidden_layers")?,
            queries: heads * head,
            keys: number("num_key_value_heads").unwrap_or(heads) * head,
            vocab: number("vocab_size")?,
            seq: seq as f64,
        })
    }

    /// The linear layers of a block, as outputs and inputs.
    fn linears(&self) -> [(f64, f64); 7] {
        let Self { hidden, inner, queries, keys, .. } = *self;
        [
            (queries, hidden),
            (keys, hidden),
            (keys, hidden),
            (hidden, queries),
            (inner, hidden),
            (inner, hidden),
            (hidden, inner),
        ]
    }
}

/// Operations of each update of a run; `None` for a method or a shape that is not known.
pub fn of_updates(history: &History, shape: &Shape) -> Option<Vec<f64>> {
    let cost = cost(&history.run.method, &history.config)?;
    let setting = |table: &str, key: &str| history.config.get(table)?.get(key)?.as_integer();
    let rank = history.run.rank.unwrap_or(0) as f64;
    let tokens = history.run.tokens_per_step as f64;
    let train = history.config.get("train");
    let trains_head = train.and_then(|train| train.get("train_non_targets")?.as_bool());
    // Through a frozen one the gradient only passes.
    let head_passes = if trains_head == Some(false) { 2.0 } else { 3.0 };
    let warm_start = setting(&history.run.method, "warm_start").unwrap_or(0).cast_unsigned();
    let update = |cost: Cost| {
        let layer = |(m, n): (f64, f64)| {
            let r = rank.min(m).min(n);
            let factors = 3.0 * r * (m + n);
            match cost {
                Cost::Full => tokens * 3.0 * m * n,
                Cost::Factors(pairs) => tokens * (2.0 * m * n + f64::from(pairs) * factors),
                Cost::FactorsAlone => tokens * factors,
                Cost::Projected => tokens * 3.0 * m * n + 2.0 * r * m * n,
                Cost::Assembled => tokens * 3.0 * m * n + 4.0 * r * m * n,
            }
        };
        let linears: f64 = shape.linears().into_iter().map(layer).sum();
        let attention = tokens * 3.0 * shape.queries * shape.seq;
        let head = tokens * head_passes * shape.vocab * shape.hidden;
        2.0 * (shape.layers * (linears + attention) + head)
    };
    let (warm, usual) = (update(Cost::Full), update(cost));
    Some(
        history
            .points
            .iter()
            .map(|point| if point.step <= warm_start { warm } else { usual })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::{events, step};
    use super::*;
    use crate::runlog::Run;
    use serde_json::json;

    fn shape() -> Shape {
        let facts = json!({"model": {
            "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4,
            "intermediate_size": 688, "num_hidden_layers": 6, "vocab_size": 4096,
        }});
        let config = "[data]\nmax_seq_length = 256\n".parse().unwrap();
        Shape::read(&facts, &config).unwrap()
    }

    fn per_token(method: &str, rank: u64, config: &str) -> Vec<f64> {
        let run = Run {
            method: method.into(),
            rank: Some(rank),
            tokens_per_step: 2048,
            ..Run::default()
        };
        let mut history =
            History::of(events([(0, run.into()), step(1, 1.0, 1.0), step(2, 1.0, 1.0)]));
        history.config = config.parse().unwrap();
        let updates = of_updates(&history, &shape()).unwrap();
        updates.into_iter().map(|flop| flop / 2048.0).collect()
    }

    #[test]
    fn the_reference_shape_has_the_published_cost() {
        // 34.7 million in linear layers (head included) and, by halves, 4.9 in attention a token.
        let attention = 2.0 * 6.0 * 3.0 * 256.0 * 256.0;
        assert!((per_token("full", 64, "")[0] - attention - 34.7e6).abs() < 0.1e6);
        assert!((per_token("switchlora", 64, "")[0] - attention - 36.5e6).abs() < 0.1e6);
        assert!((2.0 * attention - 4.9e6).abs() < 0.3e6);
    }

    #[test]
    fn a_warm_start_costs_full_rank() {
        let flop = per_token("relora", 8, "[relora]\nwarm_start = 1\n");
        assert_eq!(flop[0], per_token("full", 8, "")[0]);
        assert_eq!(flop[1], per_token("lora", 8, "")[0]);
        assert!(flop[1] < flop[0]);
        assert!(per_token("lora", 8, "[lora]\nbase = \"none\"\n")[0] < flop[1]);
    }

    #[test]
    fn relatives_heads_and_frozen_heads_cost_what_they_compute() {
        let of = |method: &str, config: &str| per_token(method, 8, config)[0];
        let none = "[lora]\nbase = \"none\"\n";
        for method in ["rslora", "lora-plus"] {
            assert_eq!(of(method, ""), of("lora", ""));
            assert_eq!(of(method, none), of("lora", none));
        }
        assert_eq!(of("dora", none), of("lora", ""), "the table is not DoRA's");
        // Pairs of factors beside the first: 7 layers of 6 blocks at rank 8.
        let pair = of("lora", "") - {
            let dense = |m: f64, n: f64| 2.0 * m * n;
            let block = 4.0 * dense(256.0, 256.0) + 3.0 * dense(256.0, 688.0);
            let (attention, head) = (3.0 * 256.0 * 256.0, 3.0 * 4096.0 * 256.0);
            2.0 * (6.0 * (block + attention) + head)
        };
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        close(pair, 2.0 * 6.0 * 3.0 * 8.0 * (4.0 * 512.0 + 3.0 * 944.0));
        close(of("lte", "[lte]\nheads = 4\nmhlora = \"off\"\n") - of("lora", ""), pair);
        close(of("lte", "[lte]\nheads = 4\nmhlora = \"sum\"\n") - of("lora", ""), 3.0 * pair);
        let frozen = "[train]\ntrain_non_targets = false\n";
        close(of("lora", "") - of("lora", frozen), 2.0 * 4096.0 * 256.0);
    }

    #[test]
    fn what_is_not_known_has_no_cost() {
        let history = History::of(events([step(1, 1.0, 1.0)]));
        assert_eq!(of_updates(&history, &shape()), None);
        assert_eq!(Shape::read(&json!({}), &toml::Table::new()), None);
    }
}
