//! Rows and templates that are wrong in every way that comes to mind: each is refused with its line and a reason, the
//! rest of the file is used, nothing panics and nothing takes memory without bound.

// clippy.toml allows these in test functions; the functions that help them are not recognised.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::fuzz;
use fullrank::data::cache::TokenCache;
use fullrank::data::row_cache::RowFormat;
use fullrank::data::rows::parse;
use fullrank::data::{Corpus, Dataset, RowOptions};
use fullrank::error::Result;
use fullrank::formats::chat::{ChatTemplate, Message};
use fullrank::formats::tokenizer::Tokenizer;
use proptest::prelude::*;

/// Prepares rows as a run would, with blocks of 64 tokens.
fn prepare(folder: &Path, rows: &[u8], template: Option<&ChatTemplate>) -> Result<Dataset> {
    let path = folder.join("rows.jsonl");
    fs::write(&path, rows).unwrap();
    let tokenizer = Tokenizer::bytes().unwrap();
    let corpus = Corpus::from_path(&path, 0.1)?;
    let format = RowFormat { tokenizer: &tokenizer, template, strict: false, mask_prompt: true };
    let options = RowOptions { format, seq_len: 64, packing: true };
    Dataset::prepare_rows(&corpus, options, &TokenCache::in_memory())
}

/// Lines that are no rows, each with a part of what must be said of it.
fn wrong_lines() -> Vec<(Vec<u8>, &'static str)> {
    let mut lines: Vec<(Vec<u8>, &'static str)> = [
        // JSON
        ("{", "is not JSON: EOF while parsing an object"),
        ("{\"text\": \"a\"", "is not JSON: EOF"),
        ("{\"text\": \"a}", "is not JSON: EOF while parsing a string"),
        ("{\"text\": \"a\"} x", "is not JSON: trailing characters"),
        ("{\"text\": \"a\"}{\"text\": \"b\"}", "is not JSON: trailing characters"),
        ("{\"text\": \"a\",}", "is not JSON: trailing comma"),
        ("{'text': 'a'}", "is not JSON: key must be a string"),
        ("{text: \"a\"}", "is not JSON: key must be a string"),
        ("{\"text\": NaN}", "is not JSON: expected value"),
        ("{\"text\": 1e999}", "is not JSON: number out of range"),
        ("{\"text\": 01}", "is not JSON: invalid number"),
        ("{\"text\": \"\\x\"}", "is not JSON: invalid escape"),
        ("{\"text\": \"\\ud800\"}", "is not JSON"),
        ("{\"text\": \"\\u12\"}", "is not JSON"),
        ("{\"text\": \"a\tb\"}", "is not JSON: control character"),
        ("{\"text\"}", "is not JSON: expected `:`"),
        ("\u{0}", "is not JSON: expected value"),
        ("nothing", "is not JSON: expected ident"),
        ("text,label", "is not JSON"),
        ("<html>", "is not JSON: expected value"),
        // not an object
        ("[]", "is a list, expected an object"),
        ("[{\"text\": \"a\"}]", "is a list"),
        ("\"text\"", "is a text, expected an object"),
        ("3", "is a number"),
        ("null", "is null"),
        ("true", "is true or false"),
        // keys
        ("{}", "has no keys"),
        ("{\"Text\": \"a\"}", "has the keys \"Text\"; expected"),
        ("{\"chosen\": \"a\", \"rejected\": \"b\"}", "has the keys \"chosen\", \"rejected\""),
        ("{\"content\": \"a\"}", "expected \"messages\""),
        // text
        ("{\"text\": null}", "has null as \"text\", expected a text"),
        ("{\"text\": [\"a\"]}", "has a list as \"text\""),
        ("{\"text\": {}}", "has an object as \"text\""),
        ("{\"text\": false}", "has true or false as \"text\""),
        // prompt and completion
        ("{\"prompt\": \"a\"}", "has no \"completion\""),
        ("{\"completion\": \"a\"}", "has no \"prompt\""),
        ("{\"prompt\": \"a\", \"completion\": null}", "as \"completion\"; expected two texts"),
        ("{\"prompt\": \"a\", \"completion\": []}", "has a text as \"prompt\" and a list"),
        ("{\"prompt\": [], \"completion\": []}", "has no message in \"prompt\""),
        (
            "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": []}",
            "has no message in \"completion\"",
        ),
        ("{\"prompt\": [\"a\"], \"completion\": [\"b\"]}", "has a text as prompt[0]"),
        // messages
        ("{\"messages\": null}", "has null as \"messages\", expected a list"),
        ("{\"messages\": \"a\"}", "has a text as \"messages\""),
        ("{\"messages\": {}}", "has an object as \"messages\""),
        ("{\"messages\": []}", "has no message in \"messages\""),
        ("{\"messages\": [null]}", "has null as messages[0], expected an object"),
        ("{\"messages\": [[]]}", "has a list as messages[0]"),
        ("{\"messages\": [{}]}", "has no \"role\" in messages[0]"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "has no \"content\" in messages[0]"),
        ("{\"messages\": [{\"role\": 1, \"content\": \"a\"}]}", "has a number as \"role\""),
        ("{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "has null as \"content\""),
        ("{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", "has a number as \"content\""),
        ("{\"messages\": [{\"role\": \"user\", \"content\": [3]}]}", "part that is no text"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"text\": \"a\"}]}]}",
            "part that is no text",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
            "part that is no text",
        ),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{}]}]}",
            "has \"tool_calls\", which are not supported",
        ),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": [{\"name\": \"f\"}]}",
            "has \"tools\", which are not supported",
        ),
        // ShareGPT
        ("{\"conversations\": []}", "has no message in \"conversations\""),
        ("{\"conversations\": [{\"from\": \"human\"}]}", "has no \"value\" in conversations[0]"),
        ("{\"conversations\": [{\"value\": \"a\"}]}", "has no \"from\" in conversations[0]"),
        (
            "{\"conversations\": [{\"from\": \"robot\", \"value\": \"a\"}]}",
            "has the unknown \"from\" \"robot\" in conversations[0]",
        ),
        (
            "{\"conversations\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "has no \"from\" in conversations[0]",
        ),
        // Alpaca
        ("{\"instruction\": \"a\"}", "has no \"output\""),
        ("{\"output\": \"a\"}", "has no \"instruction\""),
        ("{\"instruction\": 1, \"output\": \"a\"}", "has a number as \"instruction\""),
        ("{\"instruction\": \"a\", \"output\": []}", "has a list as \"output\""),
        ("{\"instruction\": \"a\", \"input\": 1, \"output\": \"b\"}", "has a number as \"input\""),
    ]
    .into_iter()
    .map(|(line, reason)| (line.as_bytes().to_vec(), reason))
    .collect();
    lines.extend([
        // encodings
        (b"{\"text\": \"na\xefve\"}".to_vec(), "is not UTF-8: wrong byte at column 13"),
        (b"\xff\xfe{\x00\"\x00".to_vec(), "is not UTF-8: wrong byte at column 1"),
        (b"{\"text\": \"\xe2\x82\"}".to_vec(), "is not UTF-8"),
        (b"{\"text\": \"\xed\xa0\x80\"}".to_vec(), "is not UTF-8"),
        (b"\x1f\x8b\x08\x00".to_vec(), "is not UTF-8"),
        // nesting
        ("[".repeat(1_000_000).into_bytes(), "recursion limit exceeded"),
        ("{\"text\":".repeat(1_000_000).into_bytes(), "recursion limit exceeded"),
        (
            format!("{{\"messages\": {}{}}}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
            "recursion limit exceeded",
        ),
        // length of what is shown
        (format!("{{\"{}\": 1}}", "k".repeat(9 << 20)).into_bytes(), "\"kkkkkkkk"),
    ]);
    lines
}

#[test]
fn every_wrong_line_is_refused_with_a_reason_that_fits_a_line() {
    let lines = wrong_lines();
    assert!(lines.len() >= 70, "{}", lines.len());
    for (line, expected) in &lines {
        let reason = parse(line).unwrap_err();
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]);
        assert!(reason.contains(expected), "{shown}: {reason}");
        assert!(reason.len() < 600 && !reason.contains('\n'), "{shown}: {reason}");
    }
}

#[test]
fn wrong_lines_are_counted_and_the_good_ones_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = Vec::new();
    let lines = wrong_lines();
    for (line, _) in &lines {
        file.write_all(line).unwrap();
        file.write_all(b"\n{\"text\": \"good\"}\r\n\n").unwrap();
    }
    let data = prepare(folder.path(), &file, None).unwrap();
    let (train, valid) =
        (data.facts.train.rows.clone().unwrap(), data.facts.valid.rows.clone().unwrap());
    assert_eq!(train.bad_rows, lines.len() as u64);
    assert_eq!(train.rows + valid.rows, lines.len() as u64);
    assert!(data.notes[0].starts_with(&format!("{} of {} rows", lines.len(), 2 * lines.len())));
    assert!(data.notes[1].contains("rows.jsonl, line 1 is not JSON"), "{:?}", data.notes);
    // The fourth bad line is the tenth of the file, as each is followed by a good and an empty one.
    assert!(data.notes[4].contains("line 10 is not JSON: trailing"), "{:?}", data.notes);
}

#[test]
fn lines_of_ten_megabytes_and_more_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let long = |bytes: usize| format!("{{\"text\": \"{}\"}}\n", "x".repeat(bytes));
    let mut file = long(9 << 20);
    file += &long(11 << 20);
    file += &"[".repeat(30 << 20);
    file += "\n{\"text\": \"good\"}\n{\"text\": \"good\"}";
    let data = prepare(folder.path(), file.as_bytes(), None).unwrap();
    let rows = data.facts.train.rows.as_ref().unwrap();
    assert_eq!((rows.rows, rows.bad_rows, rows.truncated), (2, 2, 1));
    assert_eq!(rows.longest, (9 << 20) + 1);
    let notes = data.notes.join("\n");
    assert!(notes.contains("line 2 has 11534348 bytes, at most 10485760 are read"), "{notes}");
    assert!(notes.contains("line 3 has 31457280 bytes"), "{notes}");
}

#[test]
fn files_without_a_usable_row_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |rows: &[u8]| prepare(folder.path(), rows, None).unwrap_err().to_string();
    assert!(fails(b"").ends_with("is empty (0 bytes)"));
    assert!(fails(b"\n \n\t\n").ends_with("has no rows"));
    assert!(fails(b"\xef\xbb\xbf").ends_with("has no rows"));
    assert!(fails(b"{}\n").contains("none of its 1 rows can be used; line 1 has no keys"));
    assert!(fails(b"{\"text\": \"\"}\n").contains("line 1 has no text"));
    assert!(fails(b"{\"text\": \"one\"}\n").contains("has one row that can be used"));
    let prompts =
        format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}\n", "a".repeat(99)).repeat(4);
    assert!(fails(prompts.as_bytes()).contains("none of 3 rows has anything to learn within"));
    let chats = b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n";
    assert!(fails(chats).contains("the model brings no chat template"));
}

/// Templates that do not write this chat, each with a part of what must be said.
const WRONG_TEMPLATES: &[(&str, &str)] = &[
    ("{% for m in messages %}", "line 1"),
    ("{{ messages", "line 1"),
    ("a\nb\n{% endfor %}", "line 3"),
    ("{% if %}{% endif %}", "line 1"),
    ("{{ 1 + }}", "line 1"),
    ("{% unknown %}", "line 1"),
    ("{{ raise_exception('no system role') }}", "line 1: no system role"),
    ("\n\n{{ raise_exception('third') }}", "line 3: third"),
    ("{% for m in messages %}\n{{ raise_exception(m.role) }}{% endfor %}", "line 2: user"),
    ("{{ unknown_function() }}", "line 1"),
    ("{{ messages | unknown_filter }}", "line 1"),
    ("{{ messages[0].content.unknown_method() }}", "line 1"),
    ("{{ messages.x.y }}", "line 1"),
    ("{{ nothing.content }}", "line 1"),
    ("{{ messages + 3 }}", "line 1"),
    ("{{ 1 // 0 }}", "line 1"),
    ("{{ strftime_now('%!') }}", "line 1"),
    ("{{ strftime_now() }}", "line 1"),
    ("{{ range(100000000) }}", "line 1"),
    ("{% include 'other' %}", "line 1"),
    ("{% import 'other' as o %}", "line 1"),
    ("{% extends 'other' %}", "line 1"),
    ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "line 1"),
    (
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ messages }}{% endfor %}{% endfor %}",
        "text without end",
    ),
];

#[test]
fn templates_that_fail_give_their_line() {
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "Hello")];
    for (source, expected) in WRONG_TEMPLATES {
        let result = ChatTemplate::new(source, None, None).and_then(|t| t.render(&messages, false));
        let error = result.expect_err(source).to_string();
        assert!(
            error.contains("the chat template") && error.contains(expected),
            "{source}: {error}"
        );
    }
}

#[test]
fn a_template_that_fits_some_rows_only_loses_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let template = ChatTemplate::new(
        "{% for m in messages %}\n{% if m.role == 'system' %}\n\
         {{ raise_exception('System role not supported') }}{% endif %}\n\
         {{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
        None,
        None,
    )
    .unwrap();
    let chat = |first: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"{first}\", \"content\": \"a\"}}, {{\"role\": \"assistant\", \
             \"content\": \"b\"}}]}}\n"
        )
    };
    let rows = [chat("user"), chat("system"), chat("user")].concat();
    let data = prepare(folder.path(), rows.as_bytes(), Some(&template)).unwrap();
    assert_eq!(data.facts.train.rows.as_ref().unwrap().bad_rows, 1);
    let note = &data.notes[1];
    assert!(
        note.contains("line 2 does not fit the template: the chat template, line 3: System"),
        "{note}"
    );
}

fn good_lines() -> Vec<&'static str> {
    vec![
        "{\"text\": \"It is é\"}",
        "{\"prompt\": \"a\", \"completion\": \"b\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}",
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}",
        "{\"instruction\": \"a\", \"input\": \"c\", \"output\": \"b\"}",
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"b\"}]}",
    ]
}

/// Whatever the bytes are, the good rows before and after them are used, and positions add up.
#[test]
fn any_bytes_between_good_rows_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let template = ChatTemplate::chatml("<|im_end|>").unwrap();
    let pick = (0_usize..6, 0_usize..200, any::<u8>(), 0_u8..4);
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let strategy = (prop::collection::vec(pick, 1..12), noise);
    fuzz::each("rows", 400, &strategy, |(picks, noise)| {
        let mut file = b"{\"text\": \"good\"}\n".to_vec();
        for (kind, at, byte, how) in picks {
            let mut line = good_lines()[kind].as_bytes().to_vec();
            let at = at % line.len();
            match how {
                0 => line[at] = byte,
                1 => line.truncate(at),
                2 => line.insert(at, byte),
                _ => {
                    line.remove(at);
                }
            }
            file.extend(line);
            file.push(b'\n');
        }
        file.extend(&noise);
        file.extend(b"\n{\"text\": \"good\"}\n");
        let data = prepare(folder.path(), &file, Some(&template)).unwrap();
        let (train, valid) =
            (data.facts.train.rows.clone().unwrap(), data.facts.valid.rows.clone().unwrap());
        let lines =
            file.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()).count() as u64;
        prop_assert_eq!(train.kinds.values().sum::<u64>() + train.bad_rows, lines);
        prop_assert!(
            train.rows + train.dropped + valid.rows + valid.dropped == lines - train.bad_rows
        );
        let mut loader = data.loader(1).unwrap();
        let batch = loader.next_batch(3).unwrap();
        prop_assert_eq!(batch.inputs.len(), 3 * 64);
        prop_assert!(batch.inputs.iter().all(|id| (0..257).contains(id)));
        prop_assert!(batch.targets.iter().any(|id| *id >= 0));
        Ok(())
    });
}
