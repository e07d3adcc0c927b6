//! Text and rows to batches: where they come from, their tokens on disk, and blocks of tokens in order.
//!
//! A text is cut into blocks (`text`, `pieces`, `cache`, `tokens`). Rows of JSONL are read line by line
//! (`jsonl`), told apart by kind (`rows`), written by the model's chat template with the parts that are to be
//! learned (`spans`), encoded and marked (`encode`, `row_cache`), and packed into blocks (`pack`, `packed`).
//!
//! The order of the data depends on the data seed and the epoch and on nothing else, so that every
//! method and model sees the same batches. This room is a leaf: it yields ids as plain numbers on
//! the host.

pub mod cache;
pub mod dataset;
mod encode;
mod jsonl;
pub mod loader;
mod pack;
pub mod packed;
mod pieces;
pub mod row_cache;
pub mod rows;
mod spans;
pub mod text;
pub mod tokens;

pub use self::dataset::{DataFacts, Dataset, RowFacts, RowOptions, SplitFacts};
pub use self::loader::{Batch, IGNORED, Loader, Position, ValidationBlocks};
pub use self::packed::Blocks;
pub use self::text::Corpus;
pub use self::tokens::Tokens;
