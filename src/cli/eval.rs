//! `fullrank eval`: loss and perplexity of a run or a model on text.

use std::io::{self, Write};

use serde_json::json;

use super::args::EvalArgs;
use super::{print, text};
use crate::data::cache::TokenCache;
use crate::data::dataset::unigram_perplexity;
use crate::data::loader::count_blocks;
use crate::data::text::Validation;
use crate::data::{Corpus, Dataset, ValidationBlocks};
use crate::error::{Error, Result};
use crate::run::eval::evaluate;
use crate::run::open::{Opened, open_source};
use crate::run::session::with_threads;

/// Evaluates and prints one result. Without `--data` on the validation text of the run's own data; with it
/// on all of the text given.
pub fn eval(args: EvalArgs) -> Result<()> {
    with_threads(0, move || {
        let Opened { model, tokenizer, config, name, .. } = open_source(&args.source)?;
        let seq_len = args.max_seq_length.or(config.data.max_seq_length).unwrap_or(256);
        let seq_len = seq_len.min(model.config.max_position_embeddings);
        let source = args.data.as_deref().unwrap_or(&config.data.data);
        let cache = TokenCache::of_user();
        let corpus = Corpus::open(source, config.data.valid_fraction)?;
        let tokens = if args.data.is_some() {
            // The text is for evaluation alone: whatever share a run would hold out, all of it counts.
            let documents = match corpus.validation {
                Validation::Documents(documents) => documents,
                Validation::ShareAtEnd(_) => corpus.train,
            };
            cache.tokens(&documents, &tokenizer)?.tokens
        } else {
            Dataset::prepare(&corpus, &tokenizer, seq_len, &cache)?.valid
        };
        if count_blocks(tokens.len(), seq_len) == 0 {
            let (found, needed) = (tokens.len(), seq_len + 1);
            return Err(Error::file(
                source,
                format!("the text has {found} tokens, one block of {seq_len} needs {needed}"),
                "give a longer text",
            ));
        }
        let unigram = unigram_perplexity(&tokens)?;
        let blocks = ValidationBlocks::new(tokens, seq_len)?;
        let batch_size = config.train.batch_size.unwrap_or(4);
        let result = evaluate(&model, &blocks, batch_size, args.batches)?;
        let (loss, perplexity) = (result.loss, result.perplexity());
        let mut stdout = io::stdout();
        if args.json {
            let value = json!({
                "model": name,
                "data": source,
                "loss": loss,
                "perplexity": perplexity,
                "unigram_perplexity": unigram,
                "tokens": result.tokens,
            });
            return text::print_json(&mut stdout, &value);
        }
        let tokens = text::count(result.tokens);
        writeln!(
            stdout,
            "{name}\n  text        {source}, {tokens} tokens in blocks of {seq_len}\n  loss        \
             {loss:.4}\n  perplexity  {perplexity:.2} (token frequencies alone: {unigram:.1})"
        )
        .map_err(print::stdout_failed)
    })
}
