//! What of a program depends on the data: levels, scores, selections, and merges of attentions.
//!
//! One idea: a selection is a [`Draw`](crate::program::Draw) whose choice is by score. A table of chosen slots for each
//! row ([`DrawTable`](crate::env::DrawTable)) is all that the rest of a program sees of it, as `Drawn`, `DrawAt` and
//! `DrawCount`; who makes the table, and how, is told here.
//!
//! **Where rows and slots stand.** A level cuts the positions into slots. Wherever a set or a number is read at a slot,
//! the slot stands where its last position stands, in original order; a row that is a slot of queries stands where its
//! last query stands. So a slot is causal if its last position is, and blocks, windows, segments and other selections
//! mean at a level what they mean for that one token.
//!
//! Expressions of this module are over two kinds of variables, and each field says which:
//!
//! - *slot expressions* over `Slot`, a number of a slot, and the lengths and starts of the launch;
//! - *pair expressions* over `Q`, a position of a query (the last of its row), and `K`, the number of a slot of the
//!   level that is read, in which `NK` is the number of slots and `KStart` is 0; lengths and starts of the launch are
//!   [`Var::Given`](crate::expr::Var::Given). Where keys themselves are read, `K` is a position and nothing is renamed.
//!
//! Nothing here computes anything.

use attnc_syntax::diag::Span;

use crate::expr::{AxisId, DrawId, ExprId, LevelId, MapId, OrderId, ScoreId, SelectId, TensorId};

/// A level: K and V (and Q, for scores) derived from the tokens, or from another level, slot by slot.
///
/// With `m(j)` the members of slot j (positions, or slots of the parent) that the launch has:
///
/// ```text
/// Mean          X'_j = sum over i in m(j) of X_i / |m(j)|             a short last slot has its true mean
/// Max           X'_jc = max over i in m(j) of X_ic
/// Weighted(W)   X'_j = sum over i in m(j) of W[place of i in j] X_i   no renormalisation; K and V alike
/// SoftmaxMean   Q'_j, K'_j = max as above; V'_j = sum of p_i V_i,
///               p = softmax over i in m(j) of <Q'_j, K_i> / sqrt(d)
/// Channels(t)   X'_jc = X_jc if channel c is in the table t, else 0   slots are tokens
/// Quantised     X'_jc = s round(X_jc / s), s = max |X| over the block / (2^(bits - 1) - 1); ties to even;
///               0 for a block of zeros                                slots are tokens
/// ```
///
/// Levels have the KV heads of K and V and the query heads of Q. What is not derived (`of`) is the parent's own: a
/// level `of k` has the values of the tokens, and slots of the tokens.
#[derive(Clone, Debug)]
pub struct Level {
    /// Its name.
    pub name: String,
    /// The level whose slots are pooled; `None`: the tokens.
    pub parent: Option<LevelId>,
    /// How positions (slots of the parent) are cut into slots.
    pub partition: Partition,
    /// The order whose places are cut, for [`Partition::Blocks`] and [`Partition::Into`] of tokens.
    pub order: Option<OrderId>,
    /// How members become one.
    pub pool: Pool,
    /// Which of Q, K, V are derived.
    pub of: Derived,
    /// Number of slots of the keys: over the lengths and starts of the launch.
    pub slots: ExprId,
    /// Slot of the query at `Q`.
    pub slot_q: ExprId,
    /// Slot of the key at position `K`.
    pub slot_k: ExprId,
    /// Whether the query at `Q`, the key at position `K`, has a slot; `None`: every one.
    pub inside: Option<(ExprId, ExprId)>,
    /// Last position of slot `Slot` that the launch has a key for: a slot expression.
    pub last: ExprId,
    /// Last position of slot `Slot` that the launch has a query for: a slot expression.
    pub last_q: ExprId,
    /// Number of keys in slot `Slot`: a slot expression.
    pub len: ExprId,
    /// Where it was declared.
    pub span: Span,
}

/// How a sequence is cut into slots. Without another word the sequence is that of positions from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Partition {
    /// Slot = place / B, with the place in [`Level::order`] or the parent's slot; the last may be short.
    Blocks(i64),
    /// N slots: slot i begins at `floor(i n / N)`, n = number of keys.
    Into(i64),
    /// Boxes of a grid: along each axis of one segment, in its order, blocks of so many coordinates, `None` = the
    /// whole axis. Slots are numbered row-major in boxes, the last axis innermost; members of a slot row-major too.
    Axes(Vec<(AxisId, Option<i64>)>),
    /// Run-time boundaries: [`MapKind::Offsets`](crate::program::MapKind::Offsets).
    Offsets(MapId),
}

/// How the members of a slot become one. See [`Level`].
#[derive(Clone, Debug, PartialEq)]
pub enum Pool {
    /// Nothing is derived: the slots serve as rows and candidates.
    Nothing,
    /// Their mean.
    Mean,
    /// The maximum of each channel.
    Max,
    /// Their sum, weighted by a tensor of one weight for each place in a slot (`[B]`, or one axis for each axis of
    /// the box).
    Weighted(TensorId),
    /// Keys and queries by maximum, values by a softmax inside the slot.
    SoftmaxMean,
    /// Channels that a selection over channels chose.
    Channels(DrawId),
    /// Rounded to so many bits, with one scale for each block of so many tokens and head.
    Quantised {
        /// 4 or 8.
        bits: u32,
        /// Tokens of a block; from position 0.
        block: i64,
    },
}

/// Which of Q, K and V a level derives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Derived {
    /// Queries.
    pub q: bool,
    /// Keys.
    pub k: bool,
    /// Values.
    pub v: bool,
}

/// What rows or candidates are, and how they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// There is one, number 0: a selection shared by the queries of a head. It stands at the last query.
    One,
    /// Queries, by position.
    Queries,
    /// Keys, by position.
    Keys,
    /// Slots of a level.
    Slots(LevelId),
    /// Branches of a merge, from 0 (`Var::Branch`), as many as this expression over sizes says.
    Branches(ExprId),
    /// Channels of Q and K, from 0.
    Channels,
}

/// A score: a real for each (row, candidate), made from items by steps.
///
/// Items are the rows of the two operands (or positions of queries and keys, without a product). An item pair (i, j)
/// that `only` holds for has the value `value`, in which `Score` is the product `<x_i, y_j>`, not scaled. Then the
/// steps, in order. A pair without any item, and a value that is not a number, scores -inf and is never chosen.
#[derive(Clone, Debug)]
pub struct Score {
    /// Its name; generated for one that is written inside a selection.
    pub name: String,
    /// The operands of the product, if the score has one.
    pub dot: Option<(Operand, Operand)>,
    /// Which item pairs there are: a pair expression; `None`: all.
    pub only: Option<ExprId>,
    /// The value of an item pair: a pair expression over `Score`, positions, tensors.
    pub value: ExprId,
    /// What is done to the values, in order.
    pub steps: Vec<Step>,
    /// Rows after all steps.
    pub rows: Index,
    /// Candidates after all steps.
    pub slots: Index,
    /// Where it was declared.
    pub span: Span,
}

impl Score {
    /// Whether it is its value and nothing else: a number of a pair, whoever asks.
    pub(crate) fn is_plain(&self) -> bool {
        self.dot.is_none() && self.only.is_none() && self.steps.is_empty() && self.slots != Index::Channels
    }
}

/// An operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// What has the rows.
    pub rows: Rows,
    /// Which head's.
    pub heads: Heads,
    /// Rows divided by their Euclidean length (0 stays 0).
    pub unit: bool,
}

/// What the rows of an operand are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Queries of a level.
    LevelQ(LevelId),
    /// Keys of a level.
    LevelK(LevelId),
    /// Rows of a tensor `[C, d]` or `[heads, C, d]`: C branches.
    Tensor(TensorId),
}

/// Whose rows an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heads {
    /// The head at hand (its KV head for keys).
    Own,
    /// The mean over the query heads of its KV head, for keys the KV head.
    Group,
    /// The mean over all heads.
    All,
}

/// A step of a score.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Values of candidates in one slot become one. The candidates are then slots of `into`.
    Keys {
        /// How.
        op: Reduce,
        /// A level; [`Index::One`] is all of them.
        into: Index,
    },
    /// Values of rows in one slot become one. The rows are then slots of `into`.
    Queries {
        /// How.
        op: Reduce,
        /// A level; [`Index::One`] is all of them.
        into: Index,
    },
    /// Brought to one scale.
    Norm {
        /// How.
        norm: Norm,
        /// Over all pairs of the head, not over the candidates of each row.
        head: bool,
    },
}

/// How several values become one. Those that are -inf are left out; where all are, the result is -inf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// The largest.
    Max,
    /// Their sum.
    Sum,
    /// Their sum divided by the number of item pairs that the block has and the score is for.
    Mean,
}

/// How values of a row (or head) are brought to one scale; x over the candidates that are not -inf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// `exp(x - max) / sum of exp(x - max)`
    Softmax,
    /// `exp(x - max)`
    Exp,
    /// `(x - min) / (max - min)`; all 0 where max = min.
    MinMax,
    /// `x / sum of x`; all 0 where the sum is 0.
    RowSum,
}

/// A selection: for each row the slots that are chosen, in one table or, for bands, one for each band.
///
/// The candidates of a row are the slots of `slots` for which `within` holds and `besides` does not, with a score
/// above -inf. Those for which `including` holds score +inf: they are chosen first and count. Pairs are ranked by
/// descending score; equal scores by the lower slot, then the lower row. `pool` says which pairs are ranked
/// together and share the budget; from the ranking the budget takes a beginning, see [`Budget`]. More are asked for
/// than there are: all are taken.
///
/// A score of other rows or candidates than the selection's is read at the row and slot in which the last position of
/// the selection's stands: so tokens may be chosen by the score of their chunk.
///
/// In a set the name of the selection holds for a pair (q, k) if the slot of k is chosen for the row of q, or if
/// `besides` holds.
#[derive(Clone, Debug)]
pub struct Select {
    /// Its name.
    pub name: String,
    /// By which score; `None` for [`Budget::Nearest`].
    pub score: Option<ScoreId>,
    /// The rows of its tables.
    pub rows: Index,
    /// The candidates.
    pub slots: Index,
    /// What shares a budget.
    pub pool: Among,
    /// Candidates: a pair expression; `None`: all.
    pub within: Option<ExprId>,
    /// Had already: no candidates, but their mass counts: a pair expression.
    pub besides: Option<ExprId>,
    /// Chosen first: a pair expression.
    pub including: Option<ExprId>,
    /// How many.
    pub budget: Budget,
    /// At least so many candidates, whatever the budget says.
    pub at_least: i64,
    /// Its tables: one, or one for each band, by ascending rank.
    pub tables: Vec<DrawId>,
    /// The most slots that a row of a table can hold, over the lengths and starts of the launch: widths of tables.
    pub capacity: ExprId,
    /// Where it was declared.
    pub span: Span,
}

/// Which pairs are ranked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Among {
    /// The candidates of each row.
    Row,
    /// All pairs of the head.
    Head,
}

/// How much of a ranking is taken. `c` is the number of its candidates.
#[derive(Clone, Debug, PartialEq)]
pub enum Budget {
    /// So many: an integer over sizes and lengths.
    Top(ExprId),
    /// `ceil(f c)`
    Frac(f64),
    /// The shortest beginning whose scores, with those of `besides`, add up to at least `p` times the sum over
    /// candidates and `besides`; all where none does. Scores must not be negative.
    Mass(f64),
    /// Those with a score above this.
    Above(f64),
    /// So many with the largest positions, instead of a score.
    Nearest(i64),
    /// As many as another selection chose: in its only row, or in the row with the same number.
    CountOf(SelectId),
    /// Bands of a ranking, see [`Band`].
    Bands(Vec<Band>),
    /// A search instead of a ranking of all candidates, see [`Refine`].
    Refine(Refine),
}

/// A band: ranks from the end of the band before it, in which the first begins at 0, up to its end.
///
/// ```text
/// end    = floor(upto c), or with `mass` 1 + the number of ranks whose cumulated share of the score is <= upto
///          and not before floor(least c) + 1, if there is a `least`
/// length = end - begin, at least 0, rounded up to a multiple of `align`; down if that goes beyond c
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Its name.
    pub name: String,
    /// Fraction of the candidates, or of the mass, at which it ends. An exact decimal.
    pub upto: f64,
    /// `upto` is a share of the score.
    pub mass: bool,
    /// Fraction of the candidates of which it ends behind the last, whatever their mass. An exact decimal.
    pub least: Option<f64>,
    /// Its length is a multiple of this.
    pub align: i64,
}

/// HiP's tree: a search for the n best of a row's candidates that looks at `O(n log(c / n))` of them.
///
/// The candidates `x_0 < x_1 < .. < x_(c-1)` of a row are cut into nodes (begin, size):
///
/// ```text
/// c <= n: all are chosen. Otherwise node i of n = (floor(i c / n), floor((i + 1) c / n) - floor(i c / n))
/// ceil(log2(c / n)) times:
///   each node (b, s) becomes (b, h) and (b + h, s - h), h = floor(s / 2)
///   the score of a node is that of x_(b + floor(s / 2)) (`center`) or x_b (`first`); of size 0: never kept
///   the n best of the 2n nodes are kept: equal scores by the lower b
/// chosen are the x_b of the nodes that are left
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Refine {
    /// n.
    pub leaves: i64,
    /// Which candidate stands for a node.
    pub rep: Rep,
}

/// Which candidate stands for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rep {
    /// The first.
    First,
    /// The one in the middle.
    Center,
}

/// How the outputs of other attentions become one. A merge has no log-sum-exp.
///
/// ```text
/// Gate(g)    o_q = sum over arms a of g_a(q, channel) o_q^a; with one gate for two arms the second is 1 - g
/// Mean       o_q = sum over branches c in B(q) of o_q^c / |B(q)|, 0 where B(q) is empty;
///            B(q) = { c in 0 .. count : `takes` holds }. o^c is the one arm with `Var::Branch` = c. A row without
///            keys in a branch counts as 0
/// ```
#[derive(Clone, Debug)]
pub enum MergeKind {
    /// Weights of the arms: reals over `Q`, `Head`, `Layer`, `Step`, `Var::Channel` and tensors; one for each arm.
    Gate(Vec<ExprId>),
    /// The mean over branches, or over the arms if there are no branches.
    Mean {
        /// Branches and whom they take.
        branches: Option<Branches>,
    },
}

/// Branches of a mean.
#[derive(Clone, Debug)]
pub struct Branches {
    /// How many, over sizes.
    pub count: ExprId,
    /// Whether a query takes part in a branch: over `Q` and `Var::Branch`; `None`: always.
    pub takes: Option<ExprId>,
}

/// A merge: instead of entries of its own, an attention has the outputs of others.
#[derive(Clone, Debug)]
pub struct Merge {
    /// How.
    pub kind: MergeKind,
    /// Indices into [`Program::attentions`](crate::program::Program::attentions); none of them merges its own arm.
    pub arms: Vec<usize>,
}

/// Queries of a level instead of the tokens' own: the attention is computed once for each slot of queries, and a
/// query has the output of its slot, or one between those of the slots around it.
///
/// `Bilinear`: along each axis with boxes of b > 1 coordinates, a query at coordinate x has the place
/// `u = (x + 1/2) / b - 1/2` among the boxes (half-pixel centres), clamped to `0 ..= boxes - 1`, and the outputs of
/// floor(u) and floor(u) + 1 with weights 1 - frac(u), frac(u); weights of axes multiply. It has no log-sum-exp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// A level with Q.
    pub level: LevelId,
    /// Between slots, not that of the query's slot.
    pub bilinear: bool,
}
