//! Chat templates: a model's own Jinja template turns messages into the text that it was tuned on.
//!
//! A template comes from the network and is run, so it gets nothing but the values below, and what it
//! writes, how often it goes round and how long its texts get is bounded (`ticks`). The settings and functions are
//! those of transformers, for which templates are made.

mod json;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{Environment, ErrorKind};

use super::json::{Fields, read_bytes};
use super::ticks;
use crate::error::{Error, Result};

const NAME: &str = "chat template";
/// No chat comes near this; a template that writes more does not end.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// ChatML with `END` in the place of what ends a message.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + END + '\\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant`, or another name that the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A message as a template sees it: an object with its keys in the order in which Python's have them, as templates
/// print messages with `tojson`.
#[derive(Debug)]
struct Shown {
    role: Value,
    content: Value,
}

impl Object for Shown {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(self.role.clone()),
            "content" => Some(self.content.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// A chat template, parsed.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// The template in a file of its own, without the texts of tokens.
    ///
    /// Errors: [`Error::Io`], [`Error::File`] for a file that is no template.
    pub fn of_file(path: &Path) -> Result<Self> {
        let remedy = "mend the template there, or name another one";
        let source = String::from_utf8(read_bytes(path)?)
            .map_err(|error| Error::file(path, format!("is not UTF-8: {error}"), remedy))?;
        Self::parse(source, None, None).map_err(|error| Error::file(path, describe(&error), remedy))
    }

    /// A template from its text, with the texts of the tokens that begin and end a text.
    ///
    /// Errors: [`Error::Config`] with the line, for a text that is no template.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        Self::parse(source.to_owned(), bos.map(str::to_owned), eos.map(str::to_owned))
            .map_err(|error| Error::config(describe(&error), REMEDY))
    }

    fn parse(
        source: String,
        bos: Option<String>,
        eos: Option<String>,
    ) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_filter("tojson", |value: &Value, options: Kwargs| json::tojson(value, &options));
        // None has no entries to minijinja, and is no list to Python: `tools is iterable and tools | length`.
        environment
            .add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        ticks::install(&mut environment);
        environment.add_template_owned(NAME, ticks::with_ticks(&source)?)?;
        Ok(Self { environment, source, bos, eos })
    }

    /// ChatML, for a model that brings no template: each message between a begin with its role and `end`.
    ///
    /// `end` is what the model stops at: `<|im_end|>` or its end of text.
    pub fn chatml(end: &str) -> Result<Self> {
        let source = CHATML.replace("END", &serde_json::Value::from(end).to_string());
        Self::new(&source, None, None)
    }

    /// The same template with a date that stands still, as data that are made again must be the same: the date that
    /// the templates of Llama 3 fall back to.
    #[must_use]
    pub fn at_fixed_date(mut self) -> Self {
        self.environment.add_function("strftime_now", |format: &str| {
            let date = jiff::civil::date(2024, 7, 26).at(0, 0, 0, 0);
            jiff::fmt::strtime::format(format, date).map_err(|error| wrong_pattern(&error))
        });
        self
    }

    /// What decides the texts that it writes, as a hash in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [Some(&self.source), self.bos.as_ref(), self.eos.as_ref()] {
            hasher.update(&[u8::from(part.is_some())]);
            let text = part.map_or("", String::as_str);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a chat. `add_generation_prompt`: ends with what introduces the assistant's next message.
    ///
    /// Errors: [`Error::Config`] with the template's line and reason, as where it raises one.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.try_render(messages, add_generation_prompt).map_err(|error| {
            Error::config(describe(&error), "check the roles and their order, and the template")
        })
    }

    fn try_render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, minijinja::Error> {
        // The objects that hold them.
        const OF_MESSAGE: usize = 64;
        let sizes =
            messages.iter().map(|message| message.role.len() + message.content.len() + OF_MESSAGE);
        let bytes = self.source.len() + sizes.sum::<usize>();
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let (role, content) = (message.role.as_str(), message.content.as_str());
                Value::from_object(Shown { role: role.into(), content: content.into() })
            })
            .collect();
        let mut values = BTreeMap::from([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            // As transformers gives them where a caller gives none.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(text) = text {
                values.insert(name, Value::from(text.as_str()));
            }
        }
        let context = Value::from_pairs(values);
        let mut output = Bounded(Vec::new());
        ticks::begin(bytes);
        self.environment.get_template(NAME)?.render_captured_to(context, &mut output)?;
        String::from_utf8(output.0).map_err(|_| {
            minijinja::Error::new(ErrorKind::BadSerialization, "the template wrote no UTF-8")
        })
    }
}

const REMEDY: &str = "use the tokenizer files that belong to the model";

/// Output of bounded length.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the template writes more than 64 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template in `tokenizer_config.json`: a text, or a list of named ones of which `default` is taken.
pub(super) fn configured(fields: Fields) -> Result<Option<String>> {
    use serde_json::Value as Json;
    const KEY: &str = "chat_template";
    const WANTED: &str = "a text, or a list of templates with one named \"default\"";
    match fields.get(KEY) {
        None => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(value @ Json::Array(templates)) => {
            let is_default = |t: &&Json| t.get("name").and_then(Json::as_str) == Some("default");
            let default = templates.iter().find(is_default);
            match default.and_then(|template| template.get("template")).and_then(Json::as_str) {
                Some(source) => Ok(Some(source.to_owned())),
                None => Err(fields.wrong(KEY, value, WANTED)),
            }
        }
        Some(value) => Err(fields.wrong(KEY, value, WANTED)),
    }
}

/// The text of a special token, given as a text or as an object with `content`.
pub(super) fn token_text(fields: &Fields, key: &str) -> Result<Option<String>> {
    use serde_json::Value as Json;
    match fields.get(key) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(value) => match value.get("content").and_then(Json::as_str) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(fields.wrong(key, value, "a text or an object with \"content\"")),
        },
    }
}

/// What a template's error says, with the line.
fn describe(error: &minijinja::Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(", line {line}"));
    // Of a write that failed the reason is in the error below.
    let below = (error.kind() == ErrorKind::WriteFailure).then(|| error.source()).flatten();
    let reason = match (error.detail(), below) {
        (_, Some(below)) => below.to_string(),
        (Some(detail), None) => detail.to_owned(),
        (None, None) => error.kind().to_string(),
    };
    format!("the chat template{line}: {reason}")
}

/// The time in the local zone, by the `strftime` pattern that the template gives.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| wrong_pattern(&error))
}

fn wrong_pattern(error: &jiff::Error) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Vec<Message> {
        vec![Message::new("user", "Hi <there>"), Message::new("assistant", "\"Hello\"")]
    }

    fn render(source: &str) -> Result<String> {
        ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&chat(), true)
    }

    #[test]
    fn templates_see_messages_tokens_and_the_generation_prompt() {
        let text = render(
            "{{ bos_token }}{% for m in messages %}\n{% if loop.first %}[{{ m.role }}]{% endif %}\
             {{ m['content'] | trim }}{{ eos_token }}{% endfor %}\
             {% if add_generation_prompt %}A:{% endif %}",
        );
        assert_eq!(text.unwrap(), "<s>[user]Hi <there></s>\"Hello\"</s>A:");
    }

    #[test]
    fn python_methods_and_json_are_as_templates_expect_them() {
        let text =
            render("{{ messages[0].content.split(' ')[0].lower() }} {{ messages[1] | tojson }}");
        assert_eq!(text.unwrap(), "hi {\"role\": \"assistant\", \"content\": \"\\\"Hello\\\"\"}");
        let source = "{% set m = messages[0] %}{{ m.get('role') }} {{ m.get('name', 'x') }} {{ m.keys() | join }} \
                      {{ m is mapping }} {{ 'role' in m }} {{ m.name is defined }} {{ m == messages[1] }} \
                      {{ m | length }} {% for key, value in m.items() %}{{ key }}={{ value }};{% endfor %}";
        assert_eq!(
            render(source).unwrap(),
            "user x rolecontent True True False False 2 role=user;content=Hi <there>;"
        );
        assert_eq!(render("{{ strftime_now('%Y') }}").unwrap().len(), 4);
        assert_eq!(render("{% if tools is not none %}tools{% endif %}-").unwrap(), "-");
        let source =
            "{% for v in [none, nothing, 'a', [], {}, 1] %}{{ v is iterable }} {% endfor %}";
        assert_eq!(render(source).unwrap(), "False True True True True False ");
    }

    /// What the templates of Llama 3, Qwen and `SmolLM3` use of the language.
    #[test]
    fn the_constructs_of_common_templates_work() {
        let source = "{%- set ns = namespace(last=messages|length - 1, seen=true) %}\n\
            {%- for m in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    \
            {%- if ns.seen and m.role == \"user\" and m.content is string and not (m.content.startswith('<t>')) %}\n        \
            {%- set ns.seen = false %}{%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n\
            {%- if tools is defined and tools %}tools{% endif %}\n\
            {%- for m in messages %}\n    {%- if loop.index0 > ns.last %}{%- generation %}\n        \
            {{- '<' + m.role + '>' + m.content.split('</think>')[-1].lstrip('\\n') ~ (m['content'] | trim | length) }}\n    \
            {%- endgeneration %}{%- elif m.role != 'user' %}{%- continue %}\n    {%- else %}\n        \
            {{- m.content.strip().rstrip('>').upper() }}\n    {%- endif %}\n{%- endfor %}\n\
            {%- if enable_thinking is defined and enable_thinking is false %}no{% endif %}";
        assert_eq!(render(source).unwrap(), "HI <THERE<assistant>\"Hello\"7");
    }

    #[test]
    fn chatml_is_what_it_should_be() {
        let template = ChatTemplate::chatml("<|im_end|>").unwrap();
        assert_eq!(
            template.render(&chat(), false).unwrap(),
            "<|im_start|>user\nHi <there><|im_end|>\n<|im_start|>assistant\n\"Hello\"<|im_end|>\n"
        );
        assert!(template.render(&chat(), true).unwrap().ends_with("<|im_start|>assistant\n"));
    }

    #[test]
    fn a_fixed_date_stands_still_and_the_fingerprint_is_of_all_that_counts() {
        let template = |bos| ChatTemplate::new("{{ strftime_now('%d %b %Y %H') }}", bos, None);
        let fixed = template(None).unwrap().at_fixed_date();
        assert_eq!(fixed.render(&chat(), false).unwrap(), "26 Jul 2024 00");
        assert_eq!(fixed.fingerprint(), template(None).unwrap().fingerprint());
        assert_ne!(fixed.fingerprint(), template(Some("")).unwrap().fingerprint());
    }

    #[test]
    fn a_template_that_raises_gives_its_line_and_reason() {
        let error = render("\n\n{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(error.to_string().contains("line 3: roles must alternate"), "{error}");
        let error = render("{% for m in messages %}").unwrap_err();
        assert!(error.to_string().contains("chat template, line 1"), "{error}");
        assert!(render("{{ strftime_now('%!') }}").is_err());
    }

    #[test]
    fn a_template_that_writes_without_end_is_stopped() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }} {{ b }} \
                      {% endfor %}{% endfor %}";
        assert!(render(source).is_err());
    }
}
