//! Row sets: what a set is for one query, as a bounded union of pieces with closed-form ends.
//!
//! A [`RowSet`] is a small program over `Q`, sizes and run-time data. For a query it denotes the keys
//!
//! ```text
//! union over pieces { for loops { if guard { k in start .. end, every comb holds, filter holds } } }
//! ```
//!
//! A one-dimensional window is one piece without loops; a neighbourhood on a grid loops over the outer
//! axes; a disc has an inner interval that depends on the loop; a run-time map loops over stored entries.
//! The same form serves the evaluator here, the compiled driver and the shader.
//!
//! [`TileSet`] is the same for a tile of queries `QLo ..= QHi`: what some query may and what every query
//! must attend to. `may` never misses a key and `must` never claims one too many.
//! Nothing here knows of tile sizes, kernels or targets.

use crate::expr::{Bin, ExprId, Exprs, Node, Var};

/// A union of pieces; pieces may overlap.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RowSet {
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// One piece. All expressions read `Q`, sizes and coordinates, and variables of loops further out.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Loops, outermost first.
    pub loops: Vec<Loop>,
    /// Emits nothing where this does not hold.
    pub guard: Option<ExprId>,
    /// First key position.
    pub start: ExprId,
    /// One past the last key position; nothing if not greater than `start`. Both lie within
    /// `KStart ..= KStart + NK` only after clipping by the reader.
    pub end: ExprId,
    /// All of them hold for a key of the piece.
    pub combs: Vec<Comb>,
    /// What ranges and combs do not say: a predicate over `Q` and `K`, tested key by key.
    pub filter: Option<ExprId>,
}

impl Piece {
    /// What a variable of a loop that runs once stands for; any other expression is itself.
    #[must_use]
    pub fn pinned(&self, exprs: &Exprs, id: ExprId) -> ExprId {
        let Node::Var(Var::Loop(var)) = *exprs.node(id) else { return id };
        let once = self.loops.iter().find(|l| l.var == var && l.runs_once(exprs));
        once.map_or(id, |l| l.lo)
    }
}

impl Loop {
    /// Whether it has one value: the first.
    #[must_use]
    pub fn runs_once(&self, exprs: &Exprs) -> bool {
        match *exprs.node(self.hi) {
            Node::Bin(Bin::Add, a, b) => a == self.lo && exprs.as_int(b) == Some(1),
            _ => exprs.as_int(self.lo).zip(exprs.as_int(self.hi)).is_some_and(|(lo, hi)| lo + 1 == hi),
        }
    }
}

/// `for var in (lo .. hi)`, from the first value congruent to `phase` modulo `step`.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// Number of the variable: `Var::Loop(var)`.
    pub var: u32,
    /// First value.
    pub lo: ExprId,
    /// One past the last value.
    pub hi: ExprId,
    /// Distance of values, at least 1.
    pub step: i64,
    /// Values are congruent to this modulo `step`; ignored when `step` is 1.
    pub phase: ExprId,
    /// If present, iteration `v` emits only keys in `base + v * stride .. base + (v + 1) * stride`:
    /// a reader that wants a range of keys may clip the loop.
    pub span: Option<(ExprId, ExprId)>,
}

/// Keys with `(k - phase) mod period < width` (floor modulo).
#[derive(Clone, Debug, PartialEq)]
pub struct Comb {
    /// At least 1; a constant or a run-time size (an integer expression without `Q` and `K`).
    pub period: ExprId,
    /// At least 1 and at most `period` where the guard holds; without `Q` and `K`, as the period.
    pub width: ExprId,
    /// Reads `Q` in general.
    pub phase: ExprId,
}

/// A row set for a tile of queries. Expressions read `QLo` and `QHi` in place of `Q`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TileSet {
    /// One for each piece of the row set.
    pub pieces: Vec<TilePiece>,
}

/// One piece of a tile set: loops and ranges of `may`, and inside them what `must` hold.
#[derive(Clone, Debug, PartialEq)]
pub struct TilePiece {
    /// Loops of `may`; a reader runs these.
    pub loops: Vec<TileLoop>,
    /// `may` emits nothing where this does not hold.
    pub guard: Option<ExprId>,
    /// First key some query may attend to.
    pub start: ExprId,
    /// One past the last such key.
    pub end: ExprId,
    /// Holds where the range of `must` is valid (with every loop variable inside its `must` bounds);
    /// `None` means that nothing is known for certain. Of a piece with combs every query has those keys of
    /// the range that all combs hold; their phases are then the same for every query.
    pub must: Option<Must>,
    /// Combs of `may`.
    pub combs: Vec<TileComb>,
}

/// Loop of a tile piece.
#[derive(Clone, Debug, PartialEq)]
pub struct TileLoop {
    /// Number of the variable.
    pub var: u32,
    /// Least first value over the queries.
    pub lo: ExprId,
    /// Greatest end over the queries.
    pub hi: ExprId,
    /// Every query has the values `must_lo .. must_hi`.
    pub must_lo: ExprId,
    /// See `must_lo`.
    pub must_hi: ExprId,
    /// Distance of values; 1 where the phase differs between queries.
    pub step: i64,
    /// Phase, the same for every query where `step` is not 1.
    pub phase: ExprId,
    /// As in [`Loop::span`].
    pub span: Option<(ExprId, ExprId)>,
}

/// Keys that every query attends to.
#[derive(Clone, Debug, PartialEq)]
pub struct Must {
    /// Condition, if any.
    pub guard: Option<ExprId>,
    /// First key.
    pub start: ExprId,
    /// One past the last key.
    pub end: ExprId,
}

/// A comb for a tile: the phase lies in `phase_lo ..= phase_hi`; if they differ it may only be used for `may`.
#[derive(Clone, Debug, PartialEq)]
pub struct TileComb {
    /// As in [`Comb`].
    pub period: ExprId,
    /// As in [`Comb`].
    pub width: ExprId,
    /// Least phase over the queries.
    pub phase_lo: ExprId,
    /// Greatest phase over the queries.
    pub phase_hi: ExprId,
}
