//! The oracle: attention straight from its definition, in f64, with every pair looked at.
//!
//! It is plain and slow on purpose and shares nothing with the analysis or a target, so that agreement
//! means something. [`value`] computes, [`eval`] says what an expression is worth, [`mod@entries`] whom a
//! query attends to, [`mod@attend`] what comes out; `level`, `score`, `steps`, `field`, `select` and `refine` say
//! what depends on the data, `merge` what is made of several, `made` what tensors hold that are not given, and [`mod@judge`] whether another selection is as good.
//! Nothing here knows of row sets, tiles or targets.

pub mod attend;
pub mod entries;
pub mod eval;
pub mod fault;
mod field;
mod head;
pub mod judge;
mod level;
mod made;
mod merge;
mod refine;
mod score;
mod select;
mod sources;
mod steps;
pub mod value;

pub use attend::{Head, OracleError, Output, RowFacts, View, attend, attend_given, level_rows, score_rows, select};
pub use entries::{Attended, Slot, candidates, entries, mask, membership, row};
pub use eval::Evaluator;
pub use fault::{EvalError, FaultKind, Point};
pub use judge::{Misfit, judge};
pub use made::{bucket, element};
pub use value::Value;
