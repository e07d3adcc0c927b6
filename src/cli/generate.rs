//! `fullrank generate`: continues a prompt, or answers in a chat, token by token.

use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use super::args::GenerateArgs;
use super::{print, source};
use crate::error::{Error, Result};
use crate::formats::chat::{ChatTemplate, Message};
use crate::model::generate::Sampling;
use crate::random::stream;
use crate::run::generate::{End, Writer, Written, cut, prompt_ids};
use crate::run::open::Opened;
use crate::run::session::with_threads;

/// A message on the terminal is one line; more than this is not typed.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// What a conversation understands besides messages.
const COMMANDS: &str = "/reset begins anew, Ctrl-C ends an answer, /quit the chat, /help says this";

/// Prints the prompt and its continuation, or the answers of a chat, as they are made.
pub fn generate(args: GenerateArgs) -> Result<()> {
    with_threads(0, move || {
        let opened = source::open(&args.source)?;
        if args.chat { chat(&args, &opened) } else { continue_prompt(&args, &opened) }
    })
}

fn writer<'a>(args: &GenerateArgs, opened: &'a Opened, capacity: usize) -> Result<Writer<'a>> {
    let sampling = Sampling {
        temperature: args.temperature as f32,
        top_k: args.top_k,
        top_p: args.top_p as f32,
        min_p: args.min_p as f32,
        repetition_penalty: args.repetition_penalty as f32,
    };
    let random = stream(args.seed, "generate", "text", 0);
    let writer = Writer::new(&opened.model, &opened.tokenizer, capacity, sampling, random)?;
    let writer = if args.chat { writer.for_chat() } else { writer };
    Ok(if args.ignore_eos { writer.without_end() } else { writer })
}

fn continue_prompt(args: &GenerateArgs, opened: &Opened) -> Result<()> {
    let prompt = args.prompt.as_deref().unwrap_or(&opened.config.train.sample_prompt);
    let mut ids = prompt_ids(&opened.tokenizer, prompt)?;
    cut(
        &mut ids,
        opened.tokenizer.bos(),
        opened.model.config.max_position_embeddings,
        args.max_tokens,
    );
    emit(prompt)?;
    let mut writer = writer(args, opened, ids.len().saturating_add(args.max_tokens))?;
    answer(args, &mut writer, &ids)?;
    emit("\n")
}

/// Reads a text, writes on and shows it.
fn answer(args: &GenerateArgs, writer: &mut Writer, ids: &[u32]) -> Result<Written> {
    let start = Instant::now();
    writer.read(ids)?;
    let read_s = start.elapsed().as_secs_f64();
    let written = writer.write(args.max_tokens, &mut emit)?;
    let write_s = start.elapsed().as_secs_f64() - read_s;
    if args.stats {
        print::notice(&format!(
            "{{\"prompt_tokens\":{},\"prompt_s\":{read_s:.4},\"tokens\":{},\"s\":{write_s:.4},\"tokens_per_s\":{:.3}}}",
            ids.len(),
            written.tokens,
            written.tokens as f64 / write_s
        ));
    }
    Ok(written)
}

/// Shows a piece of text as it is made.
fn emit(piece: &str) -> Result<()> {
    let mut stdout = io::stdout();
    let piece = if stdout.is_terminal() { without_orders(piece) } else { Cow::Borrowed(piece) };
    stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()).map_err(print::stdout_failed)
}

/// A text without the characters that a terminal takes for orders, which no model is to give.
fn without_orders(text: &str) -> Cow<'_, str> {
    let is_order = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(is_order) {
        Cow::Owned(text.replace(is_order, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A chat: one message given with the command or as its input, or a conversation on the terminal.
fn chat(args: &GenerateArgs, opened: &Opened) -> Result<()> {
    let template = opened.tokenizer.chat_template()?.ok_or_else(|| {
        Error::config(
            format!("{} has no chat template", opened.name),
            "use a model that was tuned for chats, or leave out --chat to continue a text",
        )
    })?;
    let system = args.system.iter().map(|text| Message::new("system", text.as_str()));
    let interrupt = Interrupt::default();
    let mut session = Session {
        args,
        opened,
        template,
        writer: writer(args, opened, usize::MAX)?.stopped_by(Arc::clone(&interrupt.stop)),
        interrupt,
        system: system.collect(),
        messages: Vec::new(),
    };
    if let Some(message) = &args.prompt {
        return session.say(message);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return session.converse(&mut stdin.lock());
    }
    let mut message = String::new();
    stdin
        .lock()
        .take(MAX_MESSAGE_BYTES)
        .read_to_string(&mut message)
        .map_err(Error::io("read", "standard input"))?;
    session.say(message.trim_end())
}

/// Ctrl-C in a conversation: it ends an answer; at the prompt it ends the program.
#[derive(Default)]
struct Interrupt {
    is_waiting: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    fn listen(&self) -> Result<()> {
        let failed = || Error::io("listen for signals of", "the process");
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&self.is_waiting))
            .map_err(failed())?;
        flag::register(SIGINT, Arc::clone(&self.stop)).map_err(failed())?;
        Ok(())
    }
}

struct Session<'a> {
    args: &'a GenerateArgs,
    opened: &'a Opened,
    template: ChatTemplate,
    writer: Writer<'a>,
    interrupt: Interrupt,
    system: Vec<Message>,
    messages: Vec<Message>,
}

impl Session<'_> {
    /// Answers a message, in the light of those before.
    fn say(&mut self, message: &str) -> Result<()> {
        self.messages.push(Message::new("user", message));
        let all: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
        let text = self.template.render(&all, true)?;
        let ids = self.opened.tokenizer.encode(&text)?;
        let written = answer(self.args, &mut self.writer, &ids)?;
        self.messages.push(Message::new("assistant", written.text.as_str()));
        emit("\n")?;
        match written.end {
            End::Token => {}
            End::Length => print::notice(&format!(
                "(cut after {} tokens; --max-tokens N allows more)",
                written.tokens
            )),
            End::Context => {
                print::notice("(the model's context is full; /reset begins a new chat)");
            }
            End::Stopped => print::notice("(stopped)"),
        }
        Ok(())
    }

    /// Messages from the terminal, a line each.
    fn converse(&mut self, input: &mut dyn BufRead) -> Result<()> {
        print::notice(&format!("chat with {}; {COMMANDS}", self.opened.name));
        self.interrupt.listen()?;
        loop {
            self.interrupt.is_waiting.store(true, Ordering::SeqCst);
            // A Ctrl-C that came after the end of an answer is not for the next one.
            self.interrupt.stop.store(false, Ordering::SeqCst);
            emit("> ")?;
            let mut line = Vec::new();
            input
                .take(MAX_MESSAGE_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", "standard input"))?;
            self.interrupt.is_waiting.store(false, Ordering::SeqCst);
            if line.is_empty() {
                return emit("\n");
            }
            match String::from_utf8_lossy(&line).trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/reset" => {
                    self.messages.clear();
                    print::notice("(a new chat)");
                }
                "/help" => print::notice(COMMANDS),
                message => {
                    let before = self.messages.len();
                    match self.say(message) {
                        // A message that does not fit, or that the template refuses, is not the end of the chat.
                        Err(error @ Error::Config { .. }) => {
                            self.messages.truncate(before);
                            print::notice(&format!("{error}: {}", error.remedy()));
                        }
                        other => other?,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_orders_from_a_model() {
        assert_eq!(without_orders("a\tb\n é"), "a\tb\n é");
        assert_eq!(without_orders("\x1b[2Ja\r\x07\u{9b}"), "\u{fffd}[2Ja\u{fffd}\u{fffd}\u{fffd}");
    }
}
