//! Text of attention patterns: tokens, syntax tree, formatter, diagnostics as data.
//!
//! Everything here is about spelling. Nothing here knows what a pattern means,
//! which names exist, or where files come from.

#![forbid(unsafe_code)]

pub mod ast;
mod build;
pub mod codes;
pub mod construct;
pub mod diag;
mod dump;
mod format;
mod items;
mod parse;
mod pretty;
mod token;

pub use dump::dump;
pub use format::{format, print_expr, print_file};
pub use items::MAX_NESTING;
pub use parse::{MAX_SOURCE, Parsed, parse};
pub use token::{Comment, words};
