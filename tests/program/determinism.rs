//! The same configuration gives the same bits: model, moments, pools, counters, data position, and
//! every loss in the log; whatever the number of threads, the view, or the interruptions of the loop.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common::{self, Place, assert_same_files, assert_same_run, newest_checkpoint, numbers};

const METHODS: &[&str] = fullrank::methods::NAMES;

#[test]
fn two_runs_give_the_same_bits_with_any_number_of_threads() {
    let place = Place::new();
    for method in METHODS {
        let train = |name: &str, threads: usize| {
            let more = format!("--method {method} --iters 16 --threads {threads}");
            place.train(&format!("{method}-{name}"), &more)
        };
        let first = train("first", 1);
        assert!(numbers(&first).len() >= 16);
        for (name, threads) in [("again", 1), ("two", 2), ("three", 3)] {
            assert_same_run(&first, &train(name, threads));
        }
    }
}

/// Sizes at which rows, columns and reductions do not divide evenly among threads, and sums have more than one chunk.
#[test]
fn threads_do_not_matter_at_uneven_sizes_either() {
    let place = Place::new();
    let more = "--hidden-size 72 --num-attention-heads 6 --num-key-value-heads 2 --intermediate-size 187 \
                --max-seq-length 77 --batch-size 7 --tokenizer builtin --iters 6 \
                --switchlora-interval0 10 --switchlora-ratio 1";
    let one = place.train("one", &format!("{more} --threads 1"));
    let told = numbers(&one);
    assert!(told.iter().any(|line| line.contains("switch")), "something was switched");
    // A switch is told late, with the step it belongs to and before the next.
    let steps = told.iter().map(|line| line.split(':').next().unwrap().parse::<u64>().unwrap());
    assert!(steps.is_sorted(), "{told:#?}");
    assert_same_run(&one, &place.train("two", &format!("{more} --threads 2")));
    assert_same_run(&one, &place.train("five", &format!("{more} --threads 5")));
}

#[test]
fn the_view_changes_nothing() {
    let place = Place::new();
    let none = place.train("none", "--iters 12");
    for ui in ["line", "json", "auto"] {
        place.ok(&format!("{} --ui {ui}", Place::train_line(ui, "--iters 12")));
        assert_same_run(&none, &place.find(ui));
    }
}

/// Reports, evaluations, samples and checkpoints only look.
#[test]
fn looking_at_a_run_changes_nothing() {
    let place = Place::new();
    let often = "--eval-every 1 --checkpoint-every 1 --sample-every 1 --steps-per-report 1";
    let seldom = "--eval-every 50 --checkpoint-every 0 --steps-per-report 50";
    let often = place.train("often", &format!("--iters 12 {often}"));
    let seldom = place.train("seldom", &format!("--iters 12 {seldom}"));
    let (a, b) = (newest_checkpoint(&often), newest_checkpoint(&seldom));
    assert_same_files(&a, &b, &["state.json"]);
    assert_same_files(&often.model(), &seldom.model(), &[]);
}

#[test]
fn recomputing_activations_gives_the_same_bits() {
    let place = Place::new();
    for method in METHODS {
        let more = format!("--method {method} --iters 8");
        let kept = place.train(&format!("{method}-kept"), &more);
        let more = format!("{more} --grad-checkpoint");
        let recomputed = place.train(&format!("{method}-recomputed"), &more);
        assert_same_run(&kept, &recomputed);
    }
}

#[test]
fn another_seed_gives_other_bits_and_another_data_seed_another_order() {
    let place = Place::new();
    let losses = |name: &str, more: &str| numbers(&place.train(name, more));
    let zero = losses("zero", "--iters 4");
    let other = losses("other", "--iters 4 --seed 1");
    let order = losses("order", "--iters 4 --data-seed 1");
    assert_ne!(zero, other);
    assert_ne!(zero, order);
    assert_ne!(zero[0], other[0], "another start has another loss before the first update");
    assert_eq!(zero[0], order[0], "the start is the same for any order of the data");
}

/// LoRA-GA sees the first batches before the run; the training begins with them all the same.
#[test]
fn looking_ahead_does_not_change_the_order_of_the_data() {
    let place = Place::new();
    let seen = ["lora", "lora-ga"].map(|method| {
        let run = place.train(method, &format!("--method {method} --iters 4"));
        let state = common::read_json(newest_checkpoint(&run).join("state.json"));
        let lines = numbers(&run);
        let loss = lines.iter().find_map(|line| line.split_once(": loss ")?.1.split(' ').next());
        (state["progress"]["position"].clone(), loss.unwrap().parse::<f64>().unwrap())
    });
    let [(lora, lora_loss), (ga, ga_loss)] = seen;
    assert_eq!(lora, ga, "the data position after the run");
    assert!((lora_loss / ga_loss - 1.0).abs() < 1e-5, "first losses {lora_loss}, {ga_loss}");
}
