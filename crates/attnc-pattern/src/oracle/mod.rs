//! The oracle: attention straight from its definition, in f64, with every pair looked at.
//!
//! It is plain and slow on purpose and shares nothing with the analysis or a target, so that agreement
//! means something. [`value`] computes, [`eval`] says what an expression is worth, [`mod@entries`] whom a
//! query attends to, [`mod@attend`] what comes out. Nothing here knows of row sets, tiles or targets.

pub mod attend;
pub mod entries;
pub mod eval;
pub mod fault;
pub mod value;

pub use attend::{Head, OracleError, Output, RowFacts, View, attend};
pub use entries::{Attended, Slot, candidates, entries, mask, membership, row};
pub use eval::Evaluator;
pub use fault::{EvalError, FaultKind, Point};
pub use value::Value;
