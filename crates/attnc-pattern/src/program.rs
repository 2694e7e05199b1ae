//! A checked program: what each name of a `.attn` file means, with nothing left to look up.
//!
//! A set is a `Bool` expression over `Q` and `K` ([`crate::expr`]). Sizes and run-time data are named
//! here and given by a [`crate::env::Env`] when something is computed. Nothing here knows of tiles or targets.

use attnc_syntax::diag::Span;

pub use crate::selection::*;

use crate::expr::{AxisId, DrawId, ExprId, Exprs, LevelId, MapId, Node, OrderId, ScoreId, SelectId, SizeId, TensorId};

/// A checked program. Read-only for everyone after the checker.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// All expressions of the program.
    pub exprs: Exprs,
    /// Run-time sizes, by [`SizeId`].
    pub sizes: Vec<Size>,
    /// Run-time tensors, by [`TensorId`].
    pub tensors: Vec<Tensor>,
    /// Run-time maps, by [`MapId`].
    pub maps: Vec<Map>,
    /// Tables of chosen candidates, random or by score, by [`DrawId`].
    pub draws: Vec<Draw>,
    /// Levels, by [`LevelId`]; a parent comes before its children.
    pub levels: Vec<Level>,
    /// Scores, by [`ScoreId`].
    pub scores: Vec<Score>,
    /// Selections, by [`SelectId`]: one that another reads comes before it.
    pub selects: Vec<Select>,
    /// Constant tables, by `TableId`.
    pub tables: Vec<Vec<i64>>,
    /// The token space.
    pub space: Space,
    /// Declared orders, by [`OrderId`].
    pub orders: Vec<Order>,
    /// Attentions, bare patterns without arguments among them, in the order written (imports are not listed).
    pub attentions: Vec<Attention>,
    /// Models.
    pub models: Vec<Model>,
    /// Whether the program reads document offsets.
    pub uses_docs: bool,
}

/// A run-time size, given by name (`--size NAME=V`).
#[derive(Clone, Debug)]
pub struct Size {
    /// `prefix`, `video.h`, `n_text`.
    pub name: String,
    /// Where it was declared.
    pub span: Span,
}

/// What a tensor is made of that is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Of what a draw chose: see [`Draw::weight`].
    Weight(DrawId),
    /// Element [h, i] is a real over `K`, which is i, over `Head`, which is h, and tensors.
    Formula(ExprId),
    /// Element [h, i] is the number of the bucket of the row at position i; 0 where the launch has none.
    Hash(Hash),
}

/// Bits of a bucket's number at most: an f32 holds all of them.
pub const MOST_BITS: usize = 24;

/// A locality-sensitive hash by planes: bit r of a row x tells whether <x, P_r> > 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Of rows of queries, not of keys.
    pub queries: bool,
    /// `[d, bits]` or `[heads, d, bits]`.
    pub planes: TensorId,
    /// The bits b are read as b xor (b >> 1).
    pub gray: bool,
}

/// A run-time tensor of reals.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name, also in tensors files.
    pub name: String,
    /// Extents over sizes, `Heads`, `NQ`, `NK`, `Dim`.
    pub dims: Vec<ExprId>,
    /// What it is made of where it is not given.
    pub of: Option<Made>,
    /// Where it was declared.
    pub span: Span,
}

/// How a run-time map is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapKind {
    /// One byte a pair: `[n_q, n_k]`.
    Bool,
    /// One byte a pair of blocks: `[ceil(n_q / B), ceil(n_k / B)]`.
    Blocks(i64),
    /// `indptr[n_q + 1]` and `indices[nnz]`, columns ascending in each row.
    Csr,
    /// `indptr[parts + 1]`, ascending positions from 0 to the end of the keys: no set, but boundaries of slots.
    /// Given as [`MapData::Csr`](crate::env::MapData::Csr) without indices.
    Offsets,
}

/// A set given when run.
#[derive(Clone, Debug)]
pub struct Map {
    /// Its name, also in tensors files.
    pub name: String,
    /// How it is stored.
    pub kind: MapKind,
    /// A leading axis of query heads.
    pub per_head: bool,
    /// Where it was declared.
    pub span: Span,
}

/// Whom a draw is shared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrawScope {
    /// Each row (of `unit` positions) has its own.
    Row,
    /// One for a head.
    Head,
}

/// Who chooses.
#[derive(Clone, Debug, PartialEq)]
pub enum Chooser {
    /// `random COUNT of SET per SCOPE seed SEED`: `count` candidates without replacement, by Philox4x32-10
    /// (`attnc_pattern::random` documents the generator). `draw ..` is with replacement.
    Random {
        /// How many, at most.
        count: i64,
        /// The seed.
        seed: i64,
    },
    /// A selection, in the launch: table `table` of [`Select::tables`].
    Select {
        /// The selection.
        select: SelectId,
        /// Which of its tables.
        table: usize,
    },
}

/// A table of candidates chosen for each row: before a launch, at random, or in it, by score.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Who chooses.
    pub chooser: Chooser,
    /// Of a random choice the candidates: a predicate over `Q` and `K`, read at the first position of each unit.
    /// Of a selection `true`: see [`Select::within`].
    pub of: ExprId,
    /// Positions in one unit of candidates, and of rows of a random choice: 1, or B inside `block B`; of a selection
    /// whose slots are blocks of positions, their size.
    pub unit: i64,
    /// Rows or heads.
    pub scope: DrawScope,
    /// With replacement: the bias of a key that was drawn m times, log m. It is a `Load` over `K` of a tensor
    /// that is made when a launch is prepared; m equal terms of a softmax are one term with this bias.
    pub weight: Option<ExprId>,
    /// Where it was written.
    pub span: Span,
}

/// Named segments over the token axis, in order.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// The segments; empty means one open axis of tokens.
    pub segments: Vec<Segment>,
    /// All axes, by [`AxisId`].
    pub axes: Vec<Axis>,
    /// Number of positions of all segments; `None` where the last segment (or the whole axis) is open.
    /// Neither `KStart + NK` nor `QStart + NQ` may exceed it at launch.
    pub total: Option<ExprId>,
}

/// A segment: positions `begin .. begin + len`.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// First position.
    pub begin: ExprId,
    /// Number of positions; for an open segment `KStart + NK - begin`, not less than 0.
    pub len: ExprId,
    /// Its axes, outermost first; empty for a line.
    pub axes: Vec<AxisId>,
    /// Takes what is left of the sequence.
    pub open: bool,
}

/// An axis: coordinate = `(position - begin) / stride % extent`.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// Index of its segment.
    pub segment: usize,
    /// Number of coordinates.
    pub extent: ExprId,
    /// Positions from one coordinate to the next: the product of the extents inside it.
    pub stride: ExprId,
    /// Where it was declared.
    pub span: Span,
}

/// A declared order of one segment or of the whole sequence; other positions keep their places.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its name.
    pub name: String,
    /// Index of its segment; `None` for the positions from 0 that a sort without a segment has values of.
    pub segment: Option<usize>,
    /// Which curve.
    pub kind: OrderKind,
    /// Where it was declared.
    pub span: Span,
}

/// A condition on the sizes of a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// A truth value over sizes and counts.
    pub holds: ExprId,
    /// What asks for it.
    pub span: Span,
    /// What is wrong there if it does not hold.
    pub otherwise: &'static str,
}

/// Curves over the axes of a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum OrderKind {
    /// Row-major in another nesting of the axes, outermost first; every axis once.
    Raster(Vec<AxisId>),
    /// Tiles of the given sizes in row-major order, row-major inside; axes left out are outermost and untiled.
    Tile(Vec<(AxisId, i64)>),
    /// Tiles of the given sizes of the cells whose coordinates have one residue, residues outermost, tiles along a Morton
    /// curve, row-major inside: an axis, the size on it and the distance of cells. Two axes of neighbouring cells whose inner
    /// one is at most two tiles long are row-major. A schedule's alone: no pattern declares it.
    Spread(Vec<(AxisId, i64, i64)>),
    /// Bits interleaved, the last axis lowest; cells outside the grid are left out. Axes left out are outermost.
    Morton(Vec<AxisId>),
    /// Hilbert curve of two axes; cells outside the grid are left out. Axes left out are outermost.
    Hilbert(Vec<AxisId>),
    /// By the values of a tensor, `[positions]` or `[heads, positions]`; equal ones keep their order.
    Sort(TensorId),
}

/// Where queries stand against keys when `n_q != n_k` and no starts are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Align {
    /// `q_start = 0`
    Start,
    /// `q_start = n_k - n_q`
    End,
}

/// What an empty row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Empty {
    /// o = 0, lse = -inf.
    Zero,
    /// An error at launch, before anything is written.
    Error,
}

/// One attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Name of the attention or of the bare pattern.
    pub name: String,
    /// Its `///` lines.
    pub docs: Vec<String>,
    /// The scale: a real over `Dim`, sizes and counts.
    pub scale: ExprId,
    /// The modifier: a real over `Score`, positions, head, tensors; absent = identity.
    pub score: Option<ExprId>,
    /// Declared alignment.
    pub align: Option<Align>,
    /// Declared policy.
    pub empty: Option<Empty>,
    /// It has no entries, but is made of others.
    pub merge: Option<Merge>,
    /// Its queries are slots of a level.
    pub pooled: Option<Pooled>,
    /// Sizes it is for: a truth value over sizes and counts. Default `1 <= NQ <= NK`.
    pub require: ExprId,
    /// What `require` is made of, each with what asks for it.
    pub demands: Vec<Demand>,
    /// A row set depends on where queries stand against keys.
    pub depends_on_alignment: bool,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Where it was written.
    pub span: Span,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it attends to.
    pub source: Source,
    /// Added to the modified score; for null slots it is the whole logit.
    pub bias: Option<ExprId>,
    /// The modifier of the score, read at the slots of the entry's level; for tokens [`Attention::score`] stands.
    pub score: Option<ExprId>,
    /// Where it was written.
    pub span: Span,
}

/// What an entry attends to.
#[derive(Clone, Debug)]
pub enum Source {
    /// Tokens of a set: a `Bool` expression over `Q` and `K`.
    Tokens(ExprId),
    /// Slots of a level: a pair expression ([`crate::selection`]), as are bias and score of the entry. An entry at a
    /// level whose slots are tokens and that derives Q is scored by that Q.
    Slots(LevelId, ExprId),
    /// `n` null slots (V = 0); the logit of slot `Slot` is the entry's bias, 0 without one.
    Null(i64),
}

/// A model: which attention each (step, layer, head) has.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Number of layers.
    pub layers: i64,
    /// Number of steps; 1 if it has none.
    pub steps: i64,
    /// Query heads.
    pub heads: i64,
    /// KV heads.
    pub kv_heads: i64,
    /// KV head of each query head, where it is not `head * kv_heads / heads`; by query head.
    pub head_map: Option<Vec<i64>>,
    /// First match wins; the checker has shown that exactly one written arm or the rest matches.
    pub arms: Vec<ModelArm>,
    /// Where it was written.
    pub span: Span,
}

/// One flattened arm.
#[derive(Clone, Debug)]
pub struct ModelArm {
    /// A truth value over `Step`, `Layer`, `Head`.
    pub when: ExprId,
    /// Index into [`Program::attentions`], or `None` for `skip`.
    pub attention: Option<usize>,
    /// Where it was written.
    pub span: Span,
}

impl Program {
    /// The size with this name.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<SizeId> {
        self.sizes.iter().position(|s| s.name == name).map(|i| SizeId(i as u32))
    }

    /// A tensor.
    #[must_use]
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// A map.
    #[must_use]
    pub fn map(&self, id: MapId) -> &Map {
        &self.maps[id.0 as usize]
    }

    /// A draw.
    #[must_use]
    pub fn draw(&self, id: DrawId) -> &Draw {
        &self.draws[id.0 as usize]
    }

    /// Whether an attention depends on the data of a launch, or is made of others: whether it has levels, selections,
    /// a merge, or queries of its own.
    #[must_use]
    pub fn is_dynamic(&self, attention: usize) -> bool {
        let a = &self.attentions[attention];
        if a.merge.is_some() || a.pooled.is_some() {
            return true;
        }
        // Most programs have neither.
        if self.levels.is_empty() && self.selects.is_empty() {
            return false;
        }
        let needs = crate::prepare::needs(self, &[attention]);
        !needs.levels.is_empty() || !needs.selects.is_empty()
    }

    /// Whether the pairs of an attention depend on the values of queries, keys or other tensors by score: whether it,
    /// or one that it merges, selects.
    #[must_use]
    pub fn selects(&self, attention: usize) -> bool {
        self.attentions[attention].merge.is_some()
            || !self.selects.is_empty() && !crate::prepare::needs(self, &[attention]).selects.is_empty()
    }

    /// A level.
    #[must_use]
    pub fn level(&self, id: LevelId) -> &Level {
        &self.levels[id.0 as usize]
    }

    /// A score.
    #[must_use]
    pub fn score(&self, id: ScoreId) -> &Score {
        &self.scores[id.0 as usize]
    }

    /// A selection.
    #[must_use]
    pub fn select(&self, id: SelectId) -> &Select {
        &self.selects[id.0 as usize]
    }

    /// An order.
    #[must_use]
    pub fn order(&self, id: OrderId) -> &Order {
        &self.orders[id.0 as usize]
    }

    /// The draw with replacement that makes a set a multiset: one of its conjuncts says that the key was drawn.
    #[must_use]
    pub fn multiset(&self, set: ExprId) -> Option<DrawId> {
        let drawn = |e: ExprId| match *self.exprs.node(e) {
            Node::Drawn(d, ..) if self.draw(d).weight.is_some() => Some(d),
            _ => None,
        };
        match self.exprs.node(set) {
            Node::And(xs) => xs.iter().find_map(|&x| drawn(x)),
            _ => drawn(set),
        }
    }

    /// An axis.
    #[must_use]
    pub fn axis(&self, id: AxisId) -> &Axis {
        &self.space.axes[id.0 as usize]
    }
}
