//! Which parts of a chat's text are to be learned: those that the assistant says.
//!
//! A template is a program, so its text cannot be cut by looking for marks. It is run on the beginnings
//! of the chat instead: what it writes for the messages before a turn, with the words that introduce the
//! assistant, ends where the turn begins; what it writes up to and with the turn ends where the turn ends.
//! Both are checked to be beginnings of the whole. Some templates write a turn differently once others
//! follow (Qwen3 leaves out what was thought); there the turn's end is found by its content and the mark
//! behind it. Where neither holds, the row is refused: a wrong mask would be learned from in silence.

use std::ops::Range;

use crate::formats::chat::{ChatTemplate, Message};

/// A chat is run once for every turn, so a row of many turns and much text costs their product.
const MAX_WORK: usize = 1 << 28;

const ASSISTANT: &str = "assistant";

/// The text of a chat and the parts of it, in bytes, that are to be learned: every turn of the assistant,
/// or everything from message `given` on. A turn's part has the mark that ends it. Where the parts cannot be found,
/// there are none unless they are `needed`.
///
/// Errors: why the row cannot be used, as the end of a sentence that begins with its line.
pub(super) fn render(
    template: &ChatTemplate,
    messages: &[Message],
    given: Option<usize>,
    needed: bool,
) -> Result<(String, Vec<Range<usize>>), String> {
    let whole = write(template, messages, false)?;
    let parts = parts(&Run { template, messages, whole: &whole }, given);
    let parts = if needed { parts? } else { parts.unwrap_or_default() };
    Ok((whole, parts))
}

fn parts(run: &Run<'_>, given: Option<usize>) -> Result<Vec<Range<usize>>, String> {
    let messages = run.messages;
    let turns = messages.iter().filter(|message| message.role == ASSISTANT).count();
    let bytes: usize = messages.iter().map(|message| message.content.len() + 16).sum();
    if turns.saturating_mul(bytes) > MAX_WORK {
        return Err(format!(
            "has {turns} turns of the assistant in {bytes} bytes, too many to find where each begins; \
             cut it into several rows, or train on all of it with --mask-prompt false"
        ));
    }
    match given {
        Some(given) => {
            let answer = run.start(given)?..run.whole.len();
            Ok(vec![answer])
        }
        None => (0..messages.len())
            .filter(|index| messages[*index].role == ASSISTANT)
            .map(|index| run.turn(index))
            .collect(),
    }
}

fn write(template: &ChatTemplate, messages: &[Message], asks: bool) -> Result<String, String> {
    template.render(messages, asks).map_err(|error| format!("does not fit the template: {error}"))
}

struct Run<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    whole: &'a str,
}

impl Run<'_> {
    /// Where the words of the turn of message `index` begin.
    fn start(&self, index: usize) -> Result<usize, String> {
        let before = write(self.template, &self.messages[..index], true)?;
        if self.whole.starts_with(&before) {
            return Ok(before.len());
        }
        // The words that ask for an answer may hold more than those that stand before one.
        let settled = write(self.template, &self.messages[..index], false)?;
        let common = common_start(self.whole, &before);
        if self.whole.starts_with(&settled) && common > settled.len() {
            return Ok(common);
        }
        Err(format!(
            "cannot be masked: the template writes what stands before messages[{index}] differently once \
             it follows; train on all of it with --mask-prompt false"
        ))
    }

    fn turn(&self, index: usize) -> Result<Range<usize>, String> {
        let start = self.start(index)?;
        if index + 1 == self.messages.len() {
            return Ok(start..self.whole.len());
        }
        let alone = write(self.template, &self.messages[..=index], false)?;
        if self.whole.starts_with(&alone) && alone.len() >= start {
            return Ok(start..alone.len());
        }
        let content = self.messages[index].content.trim();
        let end = alone.rfind(content).and_then(|at| {
            let mark = &alone[at + content.len()..];
            let rest = self.whole.get(start..)?;
            let at = start + rest.find(content)? + content.len();
            self.whole.get(at..)?.starts_with(mark).then_some(at + mark.len())
        });
        end.map(|end| start..end).ok_or_else(|| {
            format!(
                "cannot be masked: the template writes messages[{index}] differently once others follow; \
                 train on all of it with --mask-prompt false"
            )
        })
    }
}

/// The length of the longest common beginning, at a character's end.
fn common_start(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    pairs.map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                          {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
    }

    fn chat(messages: &[(&str, &str)]) -> Vec<Message> {
        messages.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    fn learned(source: &str, messages: &[(&str, &str)], given: Option<usize>) -> Vec<String> {
        let (text, spans) = render(&template(source), &chat(messages), given, true).unwrap();
        spans.into_iter().map(|span| text[span].to_owned()).collect()
    }

    const FOUR: [(&str, &str); 4] =
        [("user", "Hi"), ("assistant", "Hello."), ("user", "Hello."), ("assistant", "So?")];

    #[test]
    fn every_turn_of_the_assistant_counts_with_the_mark_that_ends_it() {
        assert_eq!(learned(CHATML, &FOUR, None), ["Hello.<|im_end|>\n", "So?<|im_end|>\n"]);
        assert_eq!(learned(CHATML, &FOUR[..3], None), ["Hello.<|im_end|>\n"]);
        assert!(learned(CHATML, &FOUR[..1], None).is_empty());
    }

    #[test]
    fn what_is_given_does_not_count() {
        assert_eq!(learned(CHATML, &FOUR, Some(3)), ["So?<|im_end|>\n"]);
    }

    #[test]
    fn a_template_that_leaves_out_earlier_thoughts_is_followed() {
        // As Qwen3's: the last turn has the marks of thinking, earlier ones have not.
        let source = "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}\
                      <think></think>{% endif %}{{ m.content }}<end>{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(learned(source, &FOUR, None), ["Hello.<end>", "<think></think>So?<end>"]);
    }

    #[test]
    fn words_that_only_ask_for_an_answer_are_no_part_of_it() {
        // As DeepSeek-R1's: the question ends with an open mark that a finished turn has not.
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}\
                      {% if add_generation_prompt %}<assistant><think>{% endif %}";
        assert_eq!(learned(source, &FOUR, None), ["Hello.<end>", "So?<end>"]);
    }

    #[test]
    fn a_template_whose_beginnings_differ_is_refused() {
        let source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let error = render(&template(source), &chat(&FOUR), None, true).unwrap_err();
        assert!(error.contains("cannot be masked") && error.contains("messages[1]"), "{error}");
        let (text, parts) = render(&template(source), &chat(&FOUR), None, false).unwrap();
        assert_eq!((text.as_str(), parts.len()), ("4HiHello.Hello.So?", 0));
        let raises = template("{{ raise_exception('no') }}");
        let error = render(&raises, &chat(&FOUR), None, false).unwrap_err();
        assert_eq!(error, "does not fit the template: the chat template, line 1: no");
    }

    #[test]
    fn a_row_whose_turns_would_take_hours_is_refused() {
        let many: Vec<Message> = (0..200_000).map(|_| Message::new("assistant", "a")).collect();
        let error = render(&template(CHATML), &many, None, true).unwrap_err();
        assert!(error.contains("too many"), "{error}");
        assert!(render(&template(CHATML), &many, None, false).is_ok());
    }
}
