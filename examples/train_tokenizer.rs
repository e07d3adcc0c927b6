//! Trains `assets/tokenizer-4096.json`: a byte-level BPE on the five training novels of the corpus.
//!
//! `cargo run --release --example train_tokenizer [OUTPUT]`. The result depends only on the texts
//! and the numbers below, so running it again must give the committed file.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, TokenizerImpl};

/// Entries of the vocabulary: the end-of-text token, 256 bytes and 3,839 merges.
const VOCAB_SIZE: usize = 4096;

/// The novels that are trained on; *Persuasion* stays unseen, as it is the validation text.
const NOVELS: [&str; 5] = [
    "emma.txt",
    "mansfield-park.txt",
    "northanger-abbey.txt",
    "pride-and-prejudice.txt",
    "sense-and-sensibility.txt",
];

type BytePair =
    TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, DecoderWrapper>;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let output =
        std::env::args_os().nth(1).map_or(assets.join("tokenizer-4096.json"), PathBuf::from);

    let mut texts = Vec::new();
    for novel in NOVELS {
        texts.push(fs::read_to_string(assets.join("corpus").join(novel))?);
    }

    // No prefix space and no trimming, so that decoding gives back every byte of the text.
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = BytePair::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));

    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.iter())?;
    tokenizer.save(&output, false)?;
    Ok(())
}
