//! What one run of a template may still do: rounds, bytes of one value, bytes of all that it makes.
//!
//! The bounds grow with the chat, so a long chat has room for its copies, and a template that makes much of
//! little is stopped early. All numbers belong to the thread on which the template runs.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::{self, Write};

use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

/// Rounds of all loops, calls of macros and statements together. A chat of 100,000 messages needs less than half.
const MAX_ROUNDS: usize = 2_000_000;
/// Bytes of one value, and how many for each byte of the chat and the template.
const VALUE_BYTES: usize = 2 << 20;
const VALUE_SHARE: usize = 8;
/// Bytes of all values and writings together, likewise.
const MADE_BYTES: usize = 64 << 20;
const MADE_SHARE: usize = 64;
/// What an entry of a list or an object takes beside its text.
const ENTRY_BYTES: usize = 24;
/// Entries that cost as much time as a round.
const ENTRIES_OF_A_ROUND: usize = 16;
/// Levels of lists and objects; more is a value that holds itself, or wants to be.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy)]
struct Left {
    rounds: usize,
    value: usize,
    made: usize,
}

thread_local! {
    static LEFT: Cell<Left> = const { Cell::new(Left { rounds: 0, value: 0, made: 0 }) };
    /// Texts that are counted already, by place and length: values share their texts.
    static SEEN: RefCell<HashSet<(usize, usize)>> = RefCell::default();
}

pub(super) fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Starts to count for a template that runs on this thread, over texts of `bytes` with its own.
pub(in crate::formats) fn begin(bytes: usize) {
    LEFT.set(Left {
        rounds: MAX_ROUNDS,
        value: bytes.saturating_mul(VALUE_SHARE).saturating_add(VALUE_BYTES),
        made: bytes.saturating_mul(MADE_SHARE).saturating_add(MADE_BYTES),
    });
    SEEN.with_borrow_mut(HashSet::clear);
}

/// Counts a round.
pub(super) fn round(rounds: usize) -> Result<(), Error> {
    let mut left = LEFT.get();
    let rounds = left.rounds.checked_sub(rounds);
    left.rounds = rounds.ok_or_else(|| wrong("the template goes round without end"))?;
    LEFT.set(left);
    Ok(())
}

/// Counts bytes that are made, or will be.
pub(super) fn made(bytes: usize) -> Result<(), Error> {
    let mut left = LEFT.get();
    let made = left.made.checked_sub(bytes);
    left.made = made.ok_or_else(|| wrong("the template makes text without end"))?;
    LEFT.set(left);
    Ok(())
}

/// Refuses what would be larger than one value may be.
pub(super) fn fits(bytes: Option<usize>) -> Result<(), Error> {
    let most = LEFT.get().value;
    match bytes {
        Some(bytes) if bytes <= most => Ok(()),
        _ => Err(wrong(format!("the template makes a text of more than {most} bytes"))),
    }
}

/// What a value holds, in bytes of text and entries, as often as it holds it; counts what is new of it.
pub(super) fn measure(value: &Value) -> Result<usize, Error> {
    let mut size = Size::default();
    size.add(value, 0)?;
    round(size.entries / ENTRIES_OF_A_ROUND)?;
    made(size.new)?;
    Ok(size.bytes)
}

#[derive(Default)]
struct Size {
    bytes: usize,
    entries: usize,
    new: usize,
}

impl Size {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong("the template makes a value that is nested too deeply"));
        }
        self.entries += 1;
        self.bytes += ENTRY_BYTES;
        if let Some(text) = value.as_str() {
            self.bytes += text.len();
            let place = (text.as_ptr() as usize, text.len());
            if SEEN.with_borrow_mut(|seen| seen.insert(place)) {
                self.new += text.len();
            }
        }
        fits(Some(self.bytes))?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    self.new += ENTRY_BYTES;
                    self.add(&item, depth + 1)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    self.add(&key, depth + 1)?;
                    self.add(&value.get_item(&key)?, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The text of a value, written within the bounds.
pub(super) fn text_of(text: fmt::Arguments<'_>) -> Result<String, Error> {
    let mut bounded = Bounded { text: String::new(), room: LEFT.get().value };
    if bounded.write_fmt(text).is_err() {
        fits(None)?;
    }
    made(bounded.text.len())?;
    Ok(bounded.text)
}

struct Bounded {
    text: String,
    room: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.room = self.room.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}

/// Counts every value that is written, as blocks and macros keep what is written in them.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.set_formatter(|out: &mut Output, state: &mut State, value: &Value| {
        // What stands for a character of HTML or JSON has six at most.
        let growth = if *state.auto_escape() == AutoEscape::None { 1 } else { 6 };
        let written = match value.as_str() {
            Some(text) => text.len(),
            None => text_of(format_args!("{value}"))?.len(),
        };
        made(written.saturating_mul(growth))?;
        minijinja::escape_formatter(out, state, value)
    });
}
