//! `fullrank generate`: continues a prompt, token by token.

use std::io::{self, Write};

use super::args::GenerateArgs;
use super::print;
use crate::error::Result;
use crate::model::generate::Sampling;
use crate::random::stream;
use crate::run::eval::continue_text;
use crate::run::open::{Opened, open_source};
use crate::run::session::with_threads;

/// Prints the prompt and its continuation as they are made.
pub fn generate(args: GenerateArgs) -> Result<()> {
    with_threads(0, move || {
        let Opened { model, tokenizer, config, .. } = open_source(&args.source)?;
        let prompt = args.prompt.as_deref().unwrap_or(&config.train.sample_prompt);
        let sampling = Sampling {
            temperature: args.temperature as f32,
            top_k: args.top_k,
            top_p: args.top_p as f32,
        };
        let mut stdout = io::stdout();
        let mut emit = |piece: &str| {
            let written = stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush());
            written.map_err(print::stdout_failed)
        };
        emit(prompt)?;
        let mut random = stream(args.seed, "generate", "text", 0);
        continue_text(
            &model,
            &tokenizer,
            prompt,
            args.max_tokens,
            sampling,
            &mut random,
            &mut emit,
        )?;
        emit("\n")
    })
}
