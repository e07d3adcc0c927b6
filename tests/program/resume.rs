//! A run that was stopped and went on has the bits of one that was never stopped: after `kill -9` at
//! any moment, after signals, in the middle of a freeze, of a warm start, of a save.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::common::{
    self, Place, assert_same_checkpoint, assert_same_run, is_step, newest_checkpoint, numbers,
    read_json, status, stderr,
};
use fullrank::runlog::status::Status;
use fullrank::runlog::{Body, EndStatus, RunDir, read_log};

/// Switches often and to the end of the run, so that every checkpoint falls into a freeze.
const SWITCHING: &str = "--switchlora-interval0 10 --switchlora-ratio 1 --switchlora-freeze 5";

/// Trains without a stop, and again with a `kill -9` at each of these steps; the bits must be the same.
fn assert_survives(place: &Place, name: &str, more: &str, kills: &[u64]) -> RunDir {
    let straight = place.train(&format!("{name}-straight"), more);
    let killed = format!("{name}-killed");
    let run = place.killed(&killed, more, None, is_step(kills[0]));
    for &step in &kills[1..] {
        let mut live = place.start_resume(&killed, "--threads 1");
        live.wait_for_step(step);
        live.kill();
    }
    // On a busy machine a late kill may come after the end.
    if status(&run) != Status::Finished {
        assert_eq!(status(&run), Status::Crashed);
        place.ok(&format!("resume {killed} --ui none --threads 2"));
    }
    assert_eq!(status(&run), Status::Finished);
    assert_same_run(&straight, &run);
    run
}

/// How many vectors are frozen in a checkpoint of SwitchLoRA.
fn frozen_vectors(checkpoint: &std::path::Path) -> usize {
    let state = read_json(checkpoint.join("state.json"));
    let t = state["progress"]["t"].as_i64().unwrap();
    let layers = state["method"]["layers"].as_array().unwrap();
    let sides = layers.iter().flat_map(|layer| [&layer["a"], &layer["b"]]);
    let until = sides.flat_map(|side| side["frozen_until"].as_array().unwrap());
    until.filter(|until| until.as_i64().unwrap() > t).count()
}

// The kill at step 2 is before the first checkpoint: the run begins anew, with the same estimate.
#[test]
fn lora_ga_survives_being_killed() {
    let place = Place::new();
    let more = "--method lora-ga --lora-ga-sequences 10 --iters 16 --checkpoint-every 4";
    assert_survives(&place, "ga", more, &[2, 6, 11]);
}

#[test]
fn full_rank_training_survives_being_killed() {
    let place = Place::new();
    assert_survives(&place, "full", "--method full --iters 24 --checkpoint-every 5", &[7, 13, 21]);
    let more = "--method full --iters 14 --checkpoint-every 4 --tie-word-embeddings \
                --num-key-value-heads 1 --weight-decay 0.1 --adam-form reference --seed 3";
    assert_survives(&place, "tied", more, &[3, 9]);
}

#[test]
fn lora_survives_being_killed() {
    let place = Place::new();
    assert_survives(&place, "lora", "--method lora --iters 24 --checkpoint-every 5", &[6, 14, 22]);
    let more =
        "--method lora --lora-init both_kaiming --lora-base none --iters 14 --checkpoint-every 4";
    assert_survives(&place, "product", more, &[5, 11]);
    let more = "--method lora --lora-init switchlora --iters 14 --checkpoint-every 4 --seed 1";
    assert_survives(&place, "compensated", more, &[6]);
}

#[test]
fn switchlora_survives_being_killed_in_the_middle_of_a_freeze() {
    let place = Place::new();
    for (seed, kills) in [(0, [7, 13, 21]), (1, [2, 12, 17]), (2, [5, 10, 23])] {
        let more = format!("{SWITCHING} --iters 24 --checkpoint-every 3 --seed {seed}");
        // The checkpoint that the resumed run begins with must be one with frozen vectors.
        let name = format!("look-{seed}");
        let run = place.killed(&name, &more, None, is_step(kills[1]));
        let checkpoint = newest_checkpoint(&run);
        assert!(frozen_vectors(&checkpoint) > 0, "{}", checkpoint.display());
        assert_survives(&place, &format!("switch-{seed}"), &more, &kills);
    }
}

#[test]
fn the_other_forms_of_switchlora_survive_being_killed() {
    let place = Place::new();
    let base = format!("{SWITCHING} --iters 20 --checkpoint-every 3");
    let more =
        "--switchlora-selection random --switchlora-count-frozen-steps false --weight-decay 0.1";
    assert_survives(&place, "random", &format!("{base} {more}"), &[8, 14]);
    let more = "--switchlora-rate code --switchlora-decay-frozen --weight-decay 0.1 --rank 5";
    assert_survives(&place, "code", &format!("{base} {more}"), &[8, 14]);
    // At full rank nothing is left to switch; the layers train as plain LoRA.
    assert_survives(&place, "fixed", &format!("{base} --rank 32"), &[11]);
}

#[test]
fn a_warm_start_survives_being_killed_before_at_and_after_its_end() {
    let place = Place::new();
    // A checkpoint at 4 (warm), at 8 (factors just made) and at 12.
    let more = format!("{SWITCHING} --switchlora-warm-start 8 --iters 20 --checkpoint-every 4");
    assert_survives(&place, "warm", &more, &[6, 10, 14]);
}

#[test]
fn relora_survives_being_killed_around_its_restarts() {
    let place = Place::new();
    // Warm start up to 6, merges after 13 and 19: checkpoints at 4, 8, 12 (one update before a merge), 16, 20.
    let more =
        "--method relora --relora-warm-start 6 --relora-cycle 6 --iters 24 --checkpoint-every 4";
    assert_survives(&place, "relora", more, &[3, 7, 14]);
}

#[test]
fn accumulation_recomputation_and_epochs_survive_being_killed() {
    let place = Place::new();
    let text = fs::read(place.path("text.txt")).unwrap();
    fs::write(place.path("short.txt"), &text[..3_000]).unwrap();
    // 87 blocks are an epoch; 12 blocks an update: the order is shuffled anew in update 8 and 15.
    let more = format!(
        "{SWITCHING} --data short.txt --iters 20 --checkpoint-every 3 --grad-accumulation-steps 3 \
         --grad-checkpoint"
    );
    let run = assert_survives(&place, "epochs", &more, &[8, 16]);
    let state = read_json(newest_checkpoint(&run).join("state.json"));
    assert_eq!(state["progress"]["position"]["epoch"], 2);
}

#[test]
fn a_run_without_a_checkpoint_starts_again_from_its_beginning() {
    let place = Place::new();
    assert_survives(&place, "early", "--iters 12 --checkpoint-every 8", &[3]);
}

/// The kill falls before, into and after the writing of a checkpoint, the export, and the last words.
#[test]
fn a_kill_at_any_moment_of_saving_loses_nothing() {
    let place = Place::new();
    let more = format!("{SWITCHING} --iters 12 --checkpoint-every 4 --eval-every 4");
    let straight = place.train("straight", &more);
    let (mut halves, mut after_end) = (0, 0);
    for round in 0..200_u64 {
        if round >= 28 && halves > 0 {
            break;
        }
        let name = format!("kill-{round}");
        let mut live = place.start(&name, &more);
        // The last event before a save is an evaluation (of step 12 for the last save and the export).
        let step = if round % 2 == 0 { 4 } else { 12 };
        live.wait_for(|event| matches!(event.body, Body::Eval(_)) && event.step == step);
        let delay = (round / 2) % 14;
        std::thread::sleep(Duration::from_micros(delay * delay * 400));
        live.kill();
        let run = place.find(&name);
        let leftovers = fs::read_dir(run.checkpoints()).map_or(0, |entries| {
            entries
                .filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.')
                .count()
        });
        halves += leftovers;
        if status(&run) == Status::Finished {
            after_end += 1;
        } else {
            place.ok(&format!("resume {name} --ui none"));
        }
        assert_same_run(&straight, &run);
        assert_eq!(status(&run), Status::Finished);
        let names: Vec<_> = fs::read_dir(run.checkpoints())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().all(|name| name.starts_with("step-")), "left over: {names:?}");
    }
    println!("{halves} checkpoints were half written, {after_end} runs were done before the kill");
    assert!(halves > 0, "no kill fell into a save");
}

/// All updates are done and saved, but `model/` is not written: resuming does that.
#[test]
fn a_run_killed_before_its_export_is_completed_by_resume() {
    let place = Place::new();
    let straight = place.train("straight", "--iters 8");
    let mut live = place.start("killed", "--iters 8");
    live.wait_for(|event| matches!(event.body, Body::Ckpt(_)) && event.step == 8);
    live.kill();
    let run = place.find("killed");
    if status(&run) != Status::Finished {
        fs::remove_dir_all(run.model()).ok();
        place.ok("resume killed --ui none");
    }
    assert_same_run(&straight, &run);
}

/// A process killed between two renames leaves the old checkpoint of a step under another name.
#[test]
fn a_checkpoint_that_was_moved_aside_is_found_again() {
    let place = Place::new();
    let straight = place.train("straight", "--iters 8 --checkpoint-every 4");
    let run = place.killed("killed", "--iters 8 --checkpoint-every 4", Some(4), is_step(5));
    let checkpoint = newest_checkpoint(&run);
    fs::rename(&checkpoint, checkpoint.with_extension("replaced")).unwrap();
    fs::create_dir(run.checkpoints().join(".step-00000007.partial")).unwrap();
    let (events, output) = place.start_resume("killed", "").end();
    assert!(output.status.success());
    let from = events.iter().find_map(|event| match &event.body {
        Body::Resume(resume) => resume.from_step,
        _ => None,
    });
    assert_eq!(from, Some(4));
    assert!(!run.checkpoints().join(".step-00000007.partial").exists());
    assert_same_run(&straight, &run);
}

#[test]
fn a_signal_ends_a_run_with_a_checkpoint_and_resume_gives_the_same_bits() {
    let place = Place::new();
    let more = format!("{SWITCHING} --iters 30 --checkpoint-every 100");
    let straight = place.train("straight", &more);
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let mut live = place.start(signal, &more);
        live.wait_for_step(7);
        live.signal(signal);
        let (events, output) = live.end();
        assert_eq!(output.status.code(), Some(128 + number));
        let run = place.find(signal);
        let expected = format!(
            "no usable GPU was found: training on the CPU\nstopping after this update; Ctrl-C again ends now, without a \
             checkpoint\nerror: stopped by signal {number}, checkpoint written\n  \
             try: go on with `fullrank resume {}`\n",
            run.name()
        );
        assert_eq!(stderr(&output), expected);
        assert!(matches!(&events.last().unwrap().body, Body::End(end)
            if end.status == EndStatus::Interrupted));
        assert_eq!(status(&run), Status::Interrupted);
        let step = events.last().unwrap().step;
        assert_eq!(newest_checkpoint(&run), run.checkpoint(step), "the last update is saved");
        assert!(!run.model().exists());
        place.ok(&format!("resume {signal} --ui none"));
        assert_same_run(&straight, &run);
    }
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let place = Place::new();
    // One update takes seconds, so that the first signal cannot be acted on before the second.
    let more = "--hidden-size 256 --num-attention-heads 4 --intermediate-size 1024 --batch-size 64 \
                --max-seq-length 128 --grad-accumulation-steps 8 --eval-batches 1 --iters 8";
    let mut live = place.start("big", more);
    live.wait_for(|event| matches!(event.body, Body::Eval(_)));
    live.signal("INT");
    std::thread::sleep(Duration::from_millis(100));
    live.signal("INT");
    let (_, output) = live.end();
    assert_eq!(output.status.code(), Some(130), "{:?}", output.status.signal());
    let said = stderr(&output);
    assert!(!said.contains("checkpoint written"), "{said}");
    let run = place.find("big");
    let last = format!(
        "ended without a checkpoint: the run has none yet, `fullrank resume {}` begins it again\n",
        run.name()
    );
    assert!(said.ends_with(&last), "{said}");
    assert_eq!(status(&run), Status::Crashed);
}

#[test]
fn a_signal_cuts_the_first_evaluation_short_and_resume_makes_it_whole() {
    let place = Place::new();
    // The first evaluation has some hundred batches.
    let more = "--batch-size 1 --eval-batches 0 --valid-fraction 0.2 --iters 1";
    let mut live = place.start("cut", more);
    live.wait_for(|event| matches!(&event.body, Body::Phase(phase) if phase.name == "train"));
    live.signal("INT");
    let (events, output) = live.end();
    assert_eq!(output.status.code(), Some(130));
    assert!(!events.iter().any(|event| matches!(event.body, Body::Eval(_))), "{events:?}");
    let run = place.find("cut");
    assert_eq!(newest_checkpoint(&run), run.checkpoint(0));
    place.ok("resume cut --ui none");
    let evals = read_log(run.events()).unwrap().events.into_iter();
    let evals: Vec<u64> =
        evals.filter(|event| matches!(event.body, Body::Eval(_))).map(|event| event.step).collect();
    assert_eq!(evals, [0, 1]);
}

#[test]
fn a_run_whose_time_is_up_goes_on_with_the_same_bits() {
    let place = Place::new();
    let more = format!("{SWITCHING} --iters 400 --eval-every 500 --checkpoint-every 500");
    let straight = place.train("straight", &more);
    // 0.06 seconds are a part of the run, however fast the machine.
    place.ok(&format!(
        "{} --ui none",
        Place::train_line("timed", &format!("{more} --max-minutes 0.001"))
    ));
    let run = place.find("timed");
    let state = || read_json(newest_checkpoint(&run).join("state.json"));
    let first = state()["progress"]["t"].as_u64().unwrap();
    assert!(first > 0 && first < 400, "{first}");
    assert!(run.model().is_dir(), "a run whose time is up is exported");
    let mut done = first;
    while done < 400 {
        place.ok("resume timed --ui none");
        let now = state()["progress"]["t"].as_u64().unwrap();
        assert!(now > done, "each resume gets the same time again");
        done = now;
    }
    // Each end is evaluated besides, so only the updates are compared, and the tensors.
    let updates = |run: &RunDir| -> Vec<String> {
        numbers(run).into_iter().filter(|line| !line.contains("eval")).collect()
    };
    common::assert_same_lines(&updates(&straight), &updates(&run), "timed");
    let (a, b) = (newest_checkpoint(&straight), newest_checkpoint(&run));
    common::assert_same_files(&a, &b, &["state.json"]);
    common::assert_same_files(&straight.model(), &run.model(), &[]);
}

#[test]
fn a_finished_run_is_made_longer_and_keeps_its_beginning() {
    let place = Place::new();
    let run = place.train("long", "--iters 12 --lr-schedule constant");
    let before = numbers(&run);
    place.ok("resume long --extend 20 --ui none");
    let after = numbers(&run);
    assert_eq!(after[..before.len()], before[..]);
    let steps = after.iter().filter(|line| line.contains("loss")).count();
    assert_eq!(steps, 20);
    let config = fs::read_to_string(run.config()).unwrap();
    assert!(config.contains("\niters = 20\n"), "{config}");
    assert_eq!(status(&run), Status::Finished);
    // With a constant rate and plain full-rank training nothing else depends on the length.
    let short = place.train("short", "--method full --iters 12 --lr-schedule constant");
    place.ok("resume short --extend 20 --ui none");
    let whole = "--method full --iters 20 --lr-schedule constant --warmup-steps 1 --eval-every 1 \
                 --checkpoint-every 3";
    let whole = place.train("whole", whole);
    let (a, b) = (newest_checkpoint(&short), newest_checkpoint(&whole));
    common::assert_same_files(&a, &b, &["state.json"]);
}

#[test]
fn every_checkpoint_of_a_run_is_the_one_of_a_shorter_stop() {
    let place = Place::new();
    let more = format!("{SWITCHING} --iters 12 --checkpoint-every 2 --keep-checkpoints 9");
    let whole = place.train("whole", &more);
    let cut = place.killed("cut", &more, None, is_step(7));
    for checkpoint in cut.list_checkpoints().unwrap() {
        assert_same_checkpoint(&checkpoint.path, &whole.checkpoint(checkpoint.step));
    }
}
