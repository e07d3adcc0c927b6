//! The rows of JSONL data: one JSON object a line, of five kinds that are told apart by their keys.
//!
//! | kind | keys | becomes |
//! |---|---|---|
//! | text | `text` | a document |
//! | completion | `prompt`, `completion`: texts, or lists of messages | a text, or a chat |
//! | messages | `messages: [{role, content}]` | a chat |
//! | ShareGPT | `conversations: [{from, value}]` | a chat |
//! | Alpaca | `instruction`, `input` (may be missing), `output` | a chat of two messages |
//!
//! Other keys are passed over, except `tools`: a row that needs them would be learned wrongly without.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::formats::chat::Message;

/// The kinds of rows, by how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// `{"text"}`.
    Text,
    /// `{"prompt", "completion"}`.
    Completion,
    /// `{"messages"}`.
    Messages,
    /// `{"conversations"}`.
    ShareGpt,
    /// `{"instruction", "input", "output"}`.
    Alpaca,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A document.
    Text(String),
    /// A text of which the second part is to be learned.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to follow.
        completion: String,
    },
    /// A chat.
    Chat {
        /// All of its messages.
        messages: Vec<Message>,
        /// How many of them, at the start, are given; `None`: all but those of the assistant.
        given: Option<usize>,
    },
}

/// Reads a line.
///
/// Errors: what is wrong with it, as the end of a sentence that begins with the line's number.
pub fn parse(line: &[u8]) -> Result<(RowKind, Row), String> {
    let text = std::str::from_utf8(line).map_err(|error| {
        format!("is not UTF-8: wrong byte at column {}", error.valid_up_to() + 1)
    })?;
    let value: Value = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    let Value::Object(row) = value else {
        return Err(format!("is {}, expected an object", kind_of(&value)));
    };
    if row.get("tools").is_some_and(|tools| !is_empty(tools)) {
        return Err("has \"tools\", which are not supported: leave the row or the key out".into());
    }
    let has = |key: &str| row.contains_key(key);
    if has("messages") {
        let messages = messages(&row, "messages", "role", "content", |role| Ok(role.to_owned()))?;
        return Ok((RowKind::Messages, Row::Chat { messages, given: None }));
    }
    if has("conversations") {
        let messages = messages(&row, "conversations", "from", "value", share_gpt_role)?;
        return Ok((RowKind::ShareGpt, Row::Chat { messages, given: None }));
    }
    if has("prompt") || has("completion") {
        return completion(&row).map(|row| (RowKind::Completion, row));
    }
    if has("instruction") || has("output") {
        return alpaca(&row).map(|row| (RowKind::Alpaca, row));
    }
    if has("text") {
        return Ok((RowKind::Text, Row::Text(text_in(&row, "text")?.to_owned())));
    }
    let keys: Vec<String> =
        row.keys().take(6).map(|key| format!("\"{}\"", shortened(key))).collect();
    let found =
        if keys.is_empty() { "no keys".into() } else { format!("the keys {}", keys.join(", ")) };
    Err(format!(
        "has {found}; expected \"messages\", \"conversations\", \"prompt\" and \"completion\", \
         \"instruction\" and \"output\", or \"text\""
    ))
}

/// `serde_json`'s message without its place in the line's own count of lines, which is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    format!("is not JSON: {what} at column {}", error.column())
}

fn completion(row: &Map<String, Value>) -> Result<Row, String> {
    let part = |key: &str| row.get(key).ok_or_else(|| format!("has no \"{key}\""));
    match (part("prompt")?, part("completion")?) {
        (Value::String(prompt), Value::String(completion)) => {
            Ok(Row::Completion { prompt: prompt.clone(), completion: completion.clone() })
        }
        (Value::Array(_), Value::Array(_)) => {
            let as_is = |role: &str| Ok(role.to_owned());
            let messages_of = |key| messages(row, key, "role", "content", as_is);
            let mut messages = messages_of("prompt")?;
            let given = messages.len();
            messages.extend(messages_of("completion")?);
            Ok(Row::Chat { messages, given: Some(given) })
        }
        (prompt, completion) => Err(format!(
            "has {} as \"prompt\" and {} as \"completion\"; expected two texts, or two lists of messages",
            kind_of(prompt),
            kind_of(completion)
        )),
    }
}

fn alpaca(row: &Map<String, Value>) -> Result<Row, String> {
    let instruction = text_in(row, "instruction")?;
    let input = match row.get("input") {
        None | Some(Value::Null) => "",
        Some(_) => text_in(row, "input")?,
    };
    let output = text_in(row, "output")?;
    let question = match input {
        "" => instruction.to_owned(),
        input => format!("{instruction}\n\n{input}"),
    };
    let messages = vec![Message::new("user", question), Message::new("assistant", output)];
    Ok(Row::Chat { messages, given: None })
}

/// The messages in a field, at least one.
fn messages(
    row: &Map<String, Value>,
    key: &str,
    role_key: &str,
    content_key: &str,
    role_of: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<Message>, String> {
    let list = match row.get(key) {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(format!("has no message in \"{key}\"")),
        Some(other) => return Err(format!("has {} as \"{key}\", expected a list", kind_of(other))),
        None => return Err(format!("has no \"{key}\"")),
    };
    let message = |(index, value): (usize, &Value)| {
        let place = format!("{key}[{index}]");
        let Value::Object(object) = value else {
            return Err(format!("has {} as {place}, expected an object", kind_of(value)));
        };
        let role = text_in(object, role_key).map_err(|reason| format!("{reason} in {place}"))?;
        let role = role_of(role).map_err(|reason| format!("{reason} in {place}"))?;
        let content = content_of(object, content_key).map_err(|r| format!("{r} in {place}"))?;
        Ok(Message::new(role, content))
    };
    list.iter().enumerate().map(message).collect()
}

/// What a message says: a text, or a list of parts that are all text.
fn content_of(message: &Map<String, Value>, key: &str) -> Result<String, String> {
    if message.get("tool_calls").is_some_and(|calls| !is_empty(calls)) {
        return Err("has \"tool_calls\", which are not supported,".into());
    }
    let Some(Value::Array(parts)) = message.get(key) else {
        return text_in(message, key).map(str::to_owned);
    };
    let mut content = String::new();
    for part in parts {
        let is_text = part.get("type").and_then(Value::as_str) == Some("text");
        match part.get("text").and_then(Value::as_str).filter(|_| is_text) {
            Some(text) => content.push_str(text),
            None => return Err(format!("has a part that is no text as \"{key}\"")),
        }
    }
    Ok(content)
}

/// ShareGPT's names of the roles, and those of tools that write its form.
fn share_gpt_role(from: &str) -> Result<String, String> {
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "bing" | "bard" | "model" | "assistant" => "assistant",
        "system" => "system",
        other => return Err(format!("has the unknown \"from\" \"{}\"", shortened(other))),
    };
    Ok(role.to_owned())
}

fn text_in<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("has {} as \"{key}\", expected a text", kind_of(other))),
        None => Err(format!("has no \"{key}\"")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The beginning of a name that may be of any length and hold anything.
fn shortened(name: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = name.chars().take(MOST).flat_map(char::escape_debug).collect();
    if name.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> Row {
        parse(line.as_bytes()).unwrap().1
    }

    fn wrong(line: &str) -> String {
        parse(line.as_bytes()).unwrap_err()
    }

    fn chat(messages: &[(&str, &str)], given: Option<usize>) -> Row {
        let messages = messages.iter().map(|(role, content)| Message::new(*role, *content));
        Row::Chat { messages: messages.collect(), given }
    }

    #[test]
    fn the_five_kinds_are_told_apart_by_their_keys() {
        assert_eq!(row(r#"{"text": "a", "meta": 1}"#), Row::Text("a".into()));
        assert_eq!(
            row(r#"{"prompt": "a", "completion": "b"}"#),
            Row::Completion { prompt: "a".into(), completion: "b".into() }
        );
        assert_eq!(
            row(r#"{"prompt": [{"role": "user", "content": "a"}],
                    "completion": [{"role": "assistant", "content": "b"}]}"#),
            chat(&[("user", "a"), ("assistant", "b")], Some(1))
        );
        assert_eq!(
            row(
                r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "text": ""}"#
            ),
            chat(&[("user", "a")], None)
        );
        assert_eq!(
            row(
                r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#
            ),
            chat(&[("user", "a"), ("assistant", "b")], None)
        );
        assert_eq!(
            row(r#"{"instruction": "a", "input": "", "output": "b"}"#),
            chat(&[("user", "a"), ("assistant", "b")], None)
        );
        assert_eq!(
            row(r#"{"instruction": "a", "input": "c", "output": "b", "tools": []}"#),
            chat(&[("user", "a\n\nc"), ("assistant", "b")], None)
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert_eq!(wrong("{"), "is not JSON: EOF while parsing an object at column 1");
        assert_eq!(wrong("[]"), "is a list, expected an object");
        assert_eq!(
            parse(b"{\"text\": \"\xff\"}").unwrap_err(),
            "is not UTF-8: wrong byte at column 11"
        );
        assert_eq!(wrong(r#"{"prompt": "a"}"#), "has no \"completion\"");
        assert_eq!(wrong(r#"{"text": 1}"#), "has a number as \"text\", expected a text");
        let role = wrong(r#"{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}"#);
        assert_eq!(role, "has no \"role\" in messages[1]");
        assert!(
            wrong(r#"{"chosen": 1}"#).starts_with("has the keys \"chosen\"; expected \"messages\"")
        );
        assert!(wrong("{}").starts_with("has no keys"));
        assert!(
            wrong(r#"{"conversations": [{"from": "tool", "value": "a"}]}"#).contains("unknown")
        );
        assert!(wrong(&"[".repeat(100_000)).contains("recursion limit"));
    }
}
