//! A chat on a terminal: questions and answers in turns, an answer that is interrupted, and the end of input.
#![allow(clippy::unwrap_used)] // helpers of tests may unwrap

use std::fmt::Write as _;
use std::fs;

use serde_json::json;

use crate::common::{Place, read_json, write_json};
use crate::tui_pty::Tty;

/// A place with a tiny model in `model` that brings a chat template, and a context in which an answer takes long.
fn place() -> Place {
    let place = Place::new();
    let mut rows = String::new();
    for i in 0..60 {
        let row = json!({"messages": [
            {"role": "user", "content": format!("What is {i}?")},
            {"role": "assistant", "content": format!("It is {}.", i + 1)}]});
        writeln!(rows, "{row}").unwrap();
    }
    fs::write(place.path("rows.jsonl"), rows).unwrap();
    let more = "--data rows.jsonl --chat-template chatml --max-seq-length 96 --iters 30 --method full \
                --learning-rate 0.01";
    let run = place.train("chat", more);
    fs::rename(run.model(), place.path("model")).unwrap();
    let path = place.path("model/config.json");
    let mut config = read_json(&path);
    config["max_position_embeddings"] = json!(40_000);
    write_json(&path, &config);
    place
}

/// How often the screen has a text.
fn count(tty: &Tty, what: &str) -> usize {
    tty.text().matches(what).count()
}

/// Waits until the chat waits for a message, for the nth time since the screen was empty.
fn see_prompt(tty: &Tty, times: usize) {
    tty.wait("prompt", |tty| {
        let text = tty.text();
        let prompts = text.lines().filter(|line| line.starts_with('>')).count();
        prompts >= times && text.trim_end().lines().last().is_some_and(|line| line.trim() == ">")
    });
}

#[test]
fn a_chat_goes_on_over_turns_and_ends_with_its_input() {
    let place = place();
    let line = "generate model --chat --ignore-eos --max-tokens 6 --temperature 0";
    let mut tty = Tty::start(&place, line);
    tty.see("chat with");
    tty.see("/reset begins anew");
    for turn in 1..=2 {
        see_prompt(&tty, turn);
        tty.press("What is 7?\r");
        tty.wait("answer", |tty| {
            count(tty, "(cut after 6 tokens; --max-tokens N allows more)") == turn
        });
    }
    tty.press("/reset\r");
    tty.see("(a new chat)");
    see_prompt(&tty, 4);
    tty.press("\x04");
    assert_eq!(tty.end(), 0);
}

#[test]
fn an_interrupt_ends_an_answer_and_at_the_prompt_the_chat() {
    let place = place();
    let line = "generate model --chat --ignore-eos --max-tokens 1000000 --temperature 1";
    for (key, code) in [("\x04", 0), ("\x03", 130)] {
        let mut tty = Tty::start(&place, line);
        tty.see("/reset begins anew");
        for _turn in 1..=2 {
            see_prompt(&tty, 1);
            tty.press("What is 7?\r");
            tty.see("What is 7?");
            // Under way is an answer that fills the screen.
            tty.wait("answer", |tty| !tty.text().contains("What is 7?"));
            tty.press("\x03");
            tty.see("(stopped)");
        }
        see_prompt(&tty, 1);
        tty.press(key);
        assert_eq!(tty.end(), code);
    }
}
