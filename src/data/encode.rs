//! A row as marked ids: each id with two marks, whether a row begins there and whether it is to be learned.
//!
//! - Text: all of it is learned, and the end of text after it.
//! - Prompt and completion as texts: the completion and the end of text. The two are joined as they are.
//! - A chat: what its template writes, with the assistant's parts (`spans`) learned.
//!
//! A text is encoded as a whole, as the model will see it, and an id counts if it has any of the text to be
//! learned. Texts get what the tokenizer adds to every text (a begin of text, mostly); a template writes its
//! own, so nothing is added there and nothing is doubled.

use std::ops::Range;

use super::rows::Row;
use super::spans;
use crate::error::Error;
use crate::formats::chat::ChatTemplate;
use crate::formats::tokenizer::Tokenizer;

/// The id is to be learned.
pub(super) const LEARNED: u32 = 1 << 31;
/// A row begins with this id.
pub(super) const FIRST: u32 = 1 << 30;
/// What is left of a marked id.
pub(super) const ID: u32 = FIRST - 1;

/// Why a row cannot be used.
#[derive(Debug)]
pub(super) enum RowError {
    /// The row is wrong; others may be right.
    Row(String),
    /// Every row of its kind fails, so there is no use in going on.
    All(Error),
}

/// Turns rows into ids.
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<&'a ChatTemplate>,
    /// Rows are of no use without the parts that are to be learned.
    pub needs_parts: bool,
}

impl Encoder<'_> {
    /// The marked ids of a row; at least two.
    pub fn encode(&self, row: &Row) -> Result<Vec<u32>, RowError> {
        // Before the tokenizer adds its own, which would be learned alone.
        let is_empty = match row {
            Row::Text(text) => text.is_empty(),
            Row::Completion { prompt, completion } => prompt.is_empty() && completion.is_empty(),
            Row::Chat { .. } => false,
        };
        if is_empty {
            return Err(RowError::Row(NO_TEXT.into()));
        }
        let ids = match row {
            Row::Text(text) => self.text(text, 0)?,
            Row::Completion { prompt, completion } => {
                self.text(&format!("{prompt}{completion}"), prompt.len())?
            }
            Row::Chat { messages, given } => {
                let template = self.template.ok_or_else(|| RowError::All(no_template()))?;
                let (text, learned) = spans::render(template, messages, *given, self.needs_parts)
                    .map_err(RowError::Row)?;
                self.marked(&text, &learned, false)?
            }
        };
        if ids.len() < 2 {
            return Err(RowError::Row(NO_TEXT.into()));
        }
        let mut ids = ids;
        ids[0] |= FIRST;
        Ok(ids)
    }

    /// A text and the end of text, learned from byte `given` on.
    fn text(&self, text: &str, given: usize) -> Result<Vec<u32>, RowError> {
        let end = self.tokenizer.eos();
        let learned = given..text.len();
        let mut ids = self.marked(text, &[learned], true)?;
        // Some tokenizers add the end themselves.
        if ids.len() > 1 && ids.last().is_some_and(|last| last & ID == end) {
            ids.pop();
        }
        // And some texts begin with the mark that the tokenizer adds.
        if let [first, second, ..] = ids[..]
            && Some(first & ID) == self.tokenizer.bos()
            && second & ID == first & ID
            && first & ID != end
        {
            ids.remove(0);
        }
        ids.push(end | LEARNED);
        Ok(ids)
    }

    fn marked(
        &self,
        text: &str,
        learned: &[Range<usize>],
        with_special: bool,
    ) -> Result<Vec<u32>, RowError> {
        let encoded = self.tokenizer.encode_with_places(text, with_special);
        let encoded = encoded.map_err(|error| RowError::Row(format!("cannot be used: {error}")))?;
        let mut spans = learned.iter().filter(|span| !span.is_empty()).peekable();
        let marked = encoded.into_iter().map(|(id, place)| {
            while spans.next_if(|span| span.end <= place.start && !place.is_empty()).is_some() {}
            let counts = spans.peek().is_some_and(|span| {
                !place.is_empty() && place.start < span.end && place.end > span.start
            });
            if counts { id | LEARNED } else { id }
        });
        Ok(marked.collect())
    }
}

const NO_TEXT: &str = "has no text";

fn no_template() -> Error {
    Error::config(
        "the data have chats, and the model brings no chat template",
        "give --chat-template chatml for a plain one, or --chat-template FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::chat::Message;

    fn decoded(tokenizer: &Tokenizer, ids: &[u32], learned: bool) -> String {
        let kept = ids.iter().filter(|id| (**id & LEARNED != 0) == learned).map(|id| id & ID);
        tokenizer.decode(&kept.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_completion_and_the_end_of_text_are_learned() {
        for tokenizer in [Tokenizer::bytes().unwrap(), Tokenizer::builtin().unwrap()] {
            let encoder = Encoder { tokenizer: &tokenizer, template: None, needs_parts: true };
            let row = Row::Completion { prompt: "It was a".into(), completion: " truth".into() };
            let ids = encoder.encode(&row).unwrap();
            assert_eq!(decoded(&tokenizer, &ids, false), "It was a");
            assert_eq!(decoded(&tokenizer, &ids, true), " truth<|endoftext|>");
            assert!(ids[0] & FIRST != 0 && ids[1..].iter().all(|id| id & FIRST == 0));
            let text = encoder.encode(&Row::Text("It was a truth".into())).unwrap();
            assert_eq!(decoded(&tokenizer, &text, true), "It was a truth<|endoftext|>");
        }
    }

    #[test]
    fn an_id_that_begins_in_the_prompt_counts_with_the_completion() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let encoder = Encoder { tokenizer: &tokenizer, template: None, needs_parts: true };
        let whole = tokenizer.encode(" the").unwrap();
        assert_eq!(whole.len(), 1);
        let row = Row::Completion { prompt: " t".into(), completion: "he".into() };
        let ids = encoder.encode(&row).unwrap();
        assert_eq!(ids, [whole[0] | LEARNED | FIRST, tokenizer.eos() | LEARNED]);
    }

    #[test]
    fn the_parts_of_a_chat_that_the_assistant_says_are_learned() {
        let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                      {% if add_generation_prompt %}assistant: {% endif %}";
        let template = ChatTemplate::new(source, None, None).unwrap();
        let tokenizer = Tokenizer::bytes().unwrap();
        let encoder =
            Encoder { tokenizer: &tokenizer, template: Some(&template), needs_parts: true };
        let said = [("user", "é?"), ("assistant", "ä."), ("user", "so"), ("assistant", "…")];
        let messages = said.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        let ids = encoder.encode(&Row::Chat { messages, given: None }).unwrap();
        assert_eq!(decoded(&tokenizer, &ids, true), "ä.\n…\n");
        assert_eq!(decoded(&tokenizer, &ids, false), "user: é?\nassistant: user: so\nassistant: ");
    }

    #[test]
    fn rows_without_text_and_chats_without_a_template_are_refused() {
        let tokenizer = Tokenizer::bytes().unwrap();
        let encoder = Encoder { tokenizer: &tokenizer, template: None, needs_parts: true };
        assert!(matches!(encoder.encode(&Row::Text(String::new())), Err(RowError::Row(_))));
        let messages = vec![Message::new("user", "a")];
        let row = Row::Chat { messages, given: None };
        assert!(matches!(encoder.encode(&row), Err(RowError::All(_))));
    }

    #[test]
    fn a_row_without_text_is_refused_where_the_tokenizer_begins_every_text() {
        let folder = tempfile::tempdir().unwrap();
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [
                {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                 "normalized": false, "special": true},
                {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                 "normalized": false, "special": true}
            ],
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
            },
            "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2}, "merges": []}
        });
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        assert!(tokenizer.adds_bos());
        let encoder = Encoder { tokenizer: &tokenizer, template: None, needs_parts: true };
        assert_eq!(encoder.encode(&Row::Text("a".into())).unwrap().len(), 3);
        let empty = Row::Completion { prompt: String::new(), completion: String::new() };
        for row in [Row::Text(String::new()), empty] {
            let refused = encoder.encode(&row);
            assert!(
                matches!(&refused, Err(RowError::Row(why)) if why == "has no text"),
                "{refused:?}"
            );
        }
    }
}
