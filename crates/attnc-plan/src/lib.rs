//! Plans: *how* a pattern is computed. Stages, tiles, row sets, exact cost, verifier, passes.
//!
//! The pipeline on one screen:
//!
//! ```text
//! Program, attention -> Plan::new -> PASSES (each followed by the verifier) -> VerifiedPlan -> a back end
//! ```
//!
//! A plan never changes a result beyond rounding. Nothing here knows of machine code, shaders or files.

#![forbid(unsafe_code)]

pub mod choice;
pub mod choose;
pub mod codes;
pub mod cost;
pub mod inplace;
pub mod items;
pub mod layer;
pub mod members;
pub mod model;
mod ordered;
pub mod passes;
pub mod plan;
pub mod print;
pub mod range;
mod reorder;
pub mod typical;
pub mod verify;

pub use choice::Machine;
pub use choose::{Choose, Energy, Missing, Pool, Scored, Stage};
pub use cost::{Cost, Counted, PANEL, Visited, Visits, cost, count, count_while, moduli_of};
pub use inplace::InPlace;
pub use layer::LayerPlan;
pub use passes::{Built, Options, PASSES, Pass, PlanError, build, build_each};
pub use plan::{Attend, Entry, FEW_QUERIES, Few, Plan, Reads, Role, Tile, View, queries_by_class};
pub use verify::{Refusal, VerifiedPlan, verify};

/// Most positions of a sequence: 2^29. Integer ranges are proved for lengths up to it.
pub const MAX_LEN: i64 = 1 << 29;
