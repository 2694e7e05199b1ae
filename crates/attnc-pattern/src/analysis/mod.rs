//! Row-set analysis: from a predicate over a query and a key to the keys of each query in closed form.
//!
//! [`row_set`] solves the predicate for the key, [`tile_set`] widens the answer to a tile of queries, and
//! [`Rows`] and [`Tiles`] evaluate both. One analysis serves tiles, costs, pictures, diagnostics and the
//! column view. Nothing here knows of tile sizes, kernels, targets or the oracle.

mod candidates;
mod empty;
mod interval;
mod linear;
mod lint;
mod pieces;
pub mod print;
mod prove;
mod rows;
mod solve;
mod tape;
mod tiles;
mod values;
mod widen;

use attnc_syntax::diag::Span;

use crate::expr::{ExprId, Exprs, Var};
use crate::program::Program;
use crate::rowset::RowSet;

pub use candidates::{CandidateWalker, Candidates};
pub use empty::{Counterexample, DeadArm, Emptiness, check_empty, dead_arms};
pub use lint::{CODES, empty_rows, lint, lint_attention};
pub use rows::{CombRun, EvalError, Matches, Ranges, Row, RowWalker, Rows, count};
pub use tiles::{Class, TileRow, TileWalker, Tiles};
pub use values::Values;
pub use widen::tile_set;

/// Which view of a set a row set gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The keys of each query.
    Row,
    /// The queries of each key. In such a row set `Q` is the position of the key, `QStart` and `NQ` those of
    /// the keys, and ranges are ranges of queries, clipped to `KStart .. KStart + NK`, those of the queries:
    /// a reader exchanges the two in its [`crate::env::Env`] and needs to know nothing else.
    Column,
}

/// Why a part of a predicate is tested key by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It has a form that the analysis does not solve.
    Form,
    /// It reads run-time data pair by pair.
    Data,
}

/// A part of a predicate that is not in closed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it was written, if known.
    pub span: Option<Span>,
    /// What it does, to be read after "this condition".
    pub why: String,
    /// Whether its form or its data is the reason.
    pub reason: Reason,
}

/// A row set and how it was reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// The set.
    pub rows: RowSet,
    /// No key needs to be tested: nothing in the set is a filter.
    pub exact: bool,
    /// The conditions that are tested key by key.
    pub notes: Vec<Note>,
}

/// The row set of a predicate over `Q` and `K`. The program gains expressions and changes in nothing else.
pub fn row_set(program: &mut Program, set: ExprId, role: Role) -> Analysis {
    let set = match role {
        Role::Row => set,
        Role::Column => transpose(&mut program.exprs, set),
    };
    let Program { exprs, space, orders, maps, draws, .. } = program;
    let context = solve::Context { space, orders, maps, draws };
    let mut solver = solve::Solver::new(linear::Algebra::new(exprs), context);
    let set = solver.without_idle_orders(set);
    let form = solver.form(set, true);
    let rows = solver.row_set(&form);
    let exact = rows.pieces.iter().all(|p| p.filter.is_none());
    let notes = if exact { vec![] } else { solver.notes };
    Analysis { rows, exact, notes }
}

/// The set with query and key exchanged; twice is the identity.
pub fn transpose(exprs: &mut Exprs, set: ExprId) -> ExprId {
    exprs.substitute(set, |e, v| {
        let other = match v {
            Var::Q => Var::K,
            Var::K => Var::Q,
            Var::QStart => Var::KStart,
            Var::KStart => Var::QStart,
            Var::NQ => Var::NK,
            Var::NK => Var::NQ,
            _ => return None,
        };
        Some(e.var(other))
    })
}
