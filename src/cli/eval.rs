//! `fullrank eval`: loss and perplexity of a run or a model on text.

use std::io::{self, Write};

use serde_json::json;

use super::args::EvalArgs;
use super::{print, source, text};
use crate::config::RunConfig;
use crate::data::cache::TokenCache;
use crate::data::dataset::row_blocks;
use crate::data::loader::count_blocks;
use crate::data::row_cache::RowFormat;
use crate::data::text::{Format, Validation};
use crate::data::{Blocks, Corpus, Dataset, RowOptions, ValidationBlocks};
use crate::error::{Error, Result};
use crate::formats::tokenizer::Tokenizer;
use crate::run::eval::evaluate;
use crate::run::open::Opened;
use crate::run::plan::with_template;
use crate::run::session::with_threads;
use crate::run::setup::{data_template, row_options};

/// Evaluates and prints one result. Without `--data` on the validation text of the run's own data; with it
/// on all of the text given.
pub fn eval(args: EvalArgs) -> Result<()> {
    with_threads(0, move || {
        let Opened { model, tokenizer, config, name, .. } = source::open(&args.source)?;
        let tokenizer = with_template(tokenizer, args.chat_template.as_deref())?;
        let seq_len = args.max_seq_length.or(config.data.max_seq_length).unwrap_or(256);
        let seq_len = seq_len.min(model.config.max_position_embeddings);
        let source = args.data.as_deref().unwrap_or(&config.data.data);
        let corpus = Corpus::open(source, config.data.valid_fraction)?;
        let blocks = match corpus.format {
            Format::Text => text_blocks(corpus, args.data.is_some(), &tokenizer, seq_len)?,
            Format::Rows => {
                let is_own = args.data.is_none();
                row_blocks_of(corpus, is_own, &config, &tokenizer, seq_len)?
            }
        };
        let unigram = blocks.unigram_perplexity()?;
        let blocks = ValidationBlocks::over(blocks)?;
        let batch_size = config.train.batch_size.unwrap_or(4);
        let result = evaluate(&model, &blocks, batch_size, args.batches)?;
        let (loss, perplexity) = (result.loss, result.perplexity());
        let mut stdout = io::stdout();
        if args.json {
            let mut value = json!({
                "model": name,
                "data": source,
                "loss": loss,
                "perplexity": perplexity,
                "unigram_perplexity": unigram,
                "tokens": result.tokens,
            });
            if let Some((loss, tokens)) = result.completions {
                value["completion_loss"] = json!(loss);
                value["completion_perplexity"] = json!(loss.exp());
                value["completion_tokens"] = json!(tokens);
            }
            return text::print_json(&mut stdout, &value);
        }
        let tokens = text::count(result.tokens);
        writeln!(
            stdout,
            "{name}\n  text        {source}, {tokens} tokens in blocks of {seq_len}\n  loss        \
             {loss:.4}\n  perplexity  {perplexity:.2} (token frequencies alone: {unigram:.1})"
        )
        .map_err(print::stdout_failed)?;
        if let Some((loss, tokens)) = result.completions {
            let (perplexity, tokens) = (loss.exp(), text::count(tokens));
            writeln!(
                stdout,
                "  completions {loss:.4}, perplexity {perplexity:.2}, over their {tokens} tokens alone"
            )
            .map_err(print::stdout_failed)?;
        }
        Ok(())
    })
}

/// The blocks of a text. One that is `given` is for evaluation alone: whatever share a run would hold out, all of
/// it counts.
fn text_blocks(
    corpus: Corpus,
    is_given: bool,
    tokenizer: &Tokenizer,
    seq_len: usize,
) -> Result<Blocks> {
    let cache = TokenCache::of_user();
    if !is_given {
        return Ok(Dataset::prepare(&corpus, tokenizer, seq_len, &cache)?.valid);
    }
    let documents = match corpus.validation {
        Validation::Documents(documents) => documents,
        Validation::ShareAtEnd(_) => corpus.train,
    };
    let tokens = cache.tokens(&documents, tokenizer)?.tokens;
    if count_blocks(tokens.len(), seq_len) == 0 {
        let (found, needed) = (tokens.len(), seq_len + 1);
        return Err(Error::file(
            corpus.source,
            format!("the text has {found} tokens, one block of {seq_len} needs {needed}"),
            "give a longer text",
        ));
    }
    Ok(Blocks::Text { tokens, seq_len })
}

/// The blocks of rows, every token of which counts; what is said of completions is taken from the same pass. Of rows
/// that are given: those of `test.jsonl`, else of `valid.jsonl`, else all.
fn row_blocks_of(
    corpus: Corpus,
    is_own: bool,
    config: &RunConfig,
    tokenizer: &Tokenizer,
    seq_len: usize,
) -> Result<Blocks> {
    let cache = TokenCache::of_user();
    let template = data_template(tokenizer)?;
    let options = row_options(config, tokenizer, template.as_ref(), seq_len);
    let format = RowFormat { mask_prompt: false, ..options.format };
    let options = RowOptions { format, ..options };
    let (blocks, notes) = if is_own {
        let dataset = Dataset::prepare_rows(&corpus, options, &cache)?;
        (dataset.valid, dataset.notes)
    } else {
        let documents = match (corpus.test, corpus.validation) {
            (Some(test), _) => vec![test],
            (None, Validation::Documents(documents)) => documents,
            (None, Validation::ShareAtEnd(_)) => corpus.train,
        };
        row_blocks(&documents, options, &cache)?
    };
    for note in notes {
        print::notice(&note);
    }
    Ok(blocks)
}
