//! Meaning of attention patterns: checked programs, row-set analysis, oracle.
//!
//! This crate says *which* pairs attend. It knows nothing of tiles, schedules, kernels or targets,
//! so that the oracle cannot share a mistake with what it judges.

#![forbid(unsafe_code)]

pub mod analysis;
pub mod build;
pub mod check;
pub mod env;
pub mod expr;
pub mod oracle;
pub mod order;
pub mod prepare;
pub mod program;
pub mod random;
pub mod rowset;
pub mod selection;
pub mod slots;
pub mod tolerance;
