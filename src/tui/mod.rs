//! The full screen: look at runs, act on them, compare and replay them.
//!
//! Data goes one way. A [`source`] gives events (of the run in this process, of a growing log or of a
//! finished one), [`model::RunModel`] takes them in, a view draws what the model holds. Keys and the mouse
//! become [`action::Action`]s by one table, [`keymap`]; `update` changes the [`app::App`] and answers
//! with [`action::Effect`]s, the only things that reach out of it. Views are functions of the app and a size.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | events of a run, live, from a growing log, or replayed |
//! | [`model`] | what a run has told so far |
//! | [`app`] | everything on the screen: runs, axes, the state of each view |
//! | [`action`], [`keymap`] | what keys do, in one table |
//! | [`edit`] | lines of text that are being edited |
//! | [`settings`] | settings that may change in flight |
//! | [`shell`] | what stands around every view |
//! | [`page`] | a drawn screen as text or as a picture |
//! | [`views`] | one file a view |
//! | [`plot`] | charts, heat maps and bars over a buffer of cells |
//! | [`filter`] | the filter of run lists |
//! | [`prefs`] | how a user wants the screen |
//! | [`export`] | the panel in focus as files |
//! | [`saved`] | what a user chose on the screen, kept with the run |
//! | [`measure`] | a screen without a terminal, for measurements |
//! | [`theme`] | colours and signs, for every terminal |
//! | [`term`] | the terminal: its modes and their undoing, captured output, the loop |

pub mod action;
pub mod app;
pub mod edit;
pub mod export;
pub mod filter;
#[cfg(test)]
pub mod fixture;
pub mod keymap;
pub mod measure;
pub mod model;
pub mod page;
pub mod plot;
pub mod prefs;
pub mod saved;
pub mod settings;
pub mod sheet;
pub mod shell;
pub mod source;
pub mod term;
pub mod theme;
pub mod views;
