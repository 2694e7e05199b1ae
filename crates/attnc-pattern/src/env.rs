//! What is known when something is computed: lengths, coordinates, and run-time data by borrowed slices.
//!
//! An [`Env`] is one (batch item, head): evaluators read it, nobody writes it. It knows no tensors Q, K, V.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(doc)]
use crate::expr::Var;
use crate::expr::{Extent, LevelId, MapId, ScoreId, SelectId};

/// Lengths, coordinates and run-time data of one head.
#[derive(Clone, Debug, Default)]
pub struct Env<'a> {
    /// Number of queries.
    pub n_q: i64,
    /// Number of keys.
    pub n_k: i64,
    /// Position of the first query.
    pub q_start: i64,
    /// Position of the first key.
    pub k_start: i64,
    /// Query head.
    pub head: i64,
    /// Number of query heads.
    pub heads: i64,
    /// Layer.
    pub layer: i64,
    /// Step.
    pub step: i64,
    /// Dimension of queries and keys.
    pub dim: i64,
    /// Branch of a merge.
    pub branch: i64,
    /// The class, or the numbering by orders, that lengths and starts above belong to, if they are those of one.
    pub class: Option<Class>,
    /// Values of the program's sizes, by `SizeId`.
    pub sizes: Vec<i64>,
    /// Document offsets, `docs + 1` ascending positions from 0; empty if not given.
    pub docs: &'a [i64],
    /// Maps, by `MapId`.
    pub maps: Vec<MapData<'a>>,
    /// Tensors, by `TensorId`.
    pub tensors: Vec<TensorData<'a>>,
    /// What was chosen for this head, by `DrawId`: at random ([`crate::random`]), or by score.
    pub draws: Vec<DrawTable>,
    /// Members of levels whose slots are not ranges of positions, by `LevelId`; empty for the others.
    pub levels: Vec<LevelTable>,
    /// Index in the order of each position of the sequence, by `OrderId`; see [`crate::order`].
    pub orders: Vec<std::sync::Arc<[u32]>>,
    /// Position that has each index, by `OrderId`: the inverse of `orders`.
    pub positions: Vec<std::sync::Arc<[u32]>>,
    /// What the caller gives instead of having it computed, and what it asks for; the same for all heads of an item.
    pub exchange: std::sync::Arc<Exchange<'a>>,
}

/// What a launch and its caller exchange beside tensors: levels, scores and selections that the caller gives instead of
/// having them computed, and those that it asks for.
#[derive(Clone, Debug, Default)]
pub struct Exchange<'a> {
    /// Selections that are given; their tables are in [`Env::draws`].
    pub selects: BTreeSet<SelectId>,
    /// The first rows of levels, from the first slot that the launch has: the others are computed.
    pub levels: BTreeMap<(LevelId, Side), GivenRows<'a>>,
    /// Scores after all their steps: a row for each row, a column for each candidate; of heads of the output, or one for
    /// all.
    pub scores: BTreeMap<ScoreId, GivenRows<'a>>,
    /// Selections that are asked for.
    pub asked_selects: BTreeSet<SelectId>,
    /// Levels that are asked for.
    pub asked_levels: BTreeSet<(LevelId, Side)>,
    /// Scores that are asked for.
    pub asked_scores: BTreeSet<ScoreId>,
}

impl Exchange<'_> {
    /// Nothing is given and nothing asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let given = self.selects.is_empty() && self.levels.is_empty() && self.scores.is_empty();
        given && self.asked_selects.is_empty() && self.asked_levels.is_empty() && self.asked_scores.is_empty()
    }
}

/// Which rows of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Those of queries; by head of the output.
    Q,
    /// Those of keys; by KV head, or by head of the output where slots differ between heads.
    K,
    /// Those of values; as those of keys, and by head of the output where queries weigh them.
    V,
}

/// Rows of reals for some heads of a batch item, row-major.
#[derive(Clone, Copy, Debug)]
pub struct GivenRows<'a> {
    /// `[heads, rows, cols]`
    pub data: &'a [f32],
    /// How many heads; 1 may be all of them.
    pub heads: usize,
    /// Rows of a head.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
}

impl<'a> GivenRows<'a> {
    /// The rows of a head.
    #[must_use]
    pub fn head(&self, head: usize) -> &'a [f32] {
        let (all, head) = (self.rows * self.cols, if self.heads == 1 { 0 } else { head });
        self.data.get(head * all..(head + 1) * all).unwrap_or(&[])
    }
}

/// The positions of one residue, or all in another order, as a sequence of their own. See [`Var::Class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The residue; 0 for an order.
    pub residue: i64,
    /// What it is a residue of; 1 for an order.
    pub modulus: i64,
    /// Of the whole launch: position of the first query, of the first key, number of queries, of keys.
    pub given: [i64; 4],
}

impl Env<'_> {
    /// Parts of an `offsets` map; 0 where it was not given.
    #[must_use]
    pub fn parts(&self, map: MapId) -> i64 {
        match self.maps.get(map.0 as usize) {
            Some(MapData::Csr { indptr, .. }) => (indptr.len() as i64 - 1).max(0),
            _ => 0,
        }
    }

    /// Residue of the class; 0 without one.
    #[must_use]
    pub fn residue(&self) -> i64 {
        self.class.map_or(0, |c| c.residue)
    }

    /// What the residue is one of; 1 without a class.
    #[must_use]
    pub fn modulus(&self) -> i64 {
        self.class.map_or(1, |c| c.modulus)
    }

    /// A length or start of the whole launch.
    #[must_use]
    pub fn given(&self, extent: Extent) -> i64 {
        let own = [self.q_start, self.k_start, self.n_q, self.n_k];
        self.class.map_or(own, |c| c.given)[extent as usize]
    }

    /// The environment of class `residue` modulo `modulus`, which is at least 1.
    #[must_use]
    pub fn of_class(&self, modulus: i64, residue: i64) -> Self {
        let (q_start, n_q) = in_class(self.q_start, self.n_q, modulus, residue);
        let (k_start, n_k) = in_class(self.k_start, self.n_k, modulus, residue);
        let class = Class { residue, modulus, given: [self.q_start, self.k_start, self.n_q, self.n_k] };
        Env { q_start, n_q, k_start, n_k, class: Some(class), ..self.clone() }
    }

    /// The environment of numbering queries and keys by their index in orders of so many positions: both begin at 0,
    /// and an index that the launch does not have has no row.
    #[must_use]
    pub fn in_orders(&self, queries: i64, keys: i64) -> Self {
        let class = Class { residue: 0, modulus: 1, given: [self.q_start, self.k_start, self.n_q, self.n_k] };
        Env { q_start: 0, n_q: queries, k_start: 0, n_k: keys, class: Some(class), ..self.clone() }
    }
}

/// Of the positions `start .. start + len`, those of one residue: the first as a position of the class, and how many.
#[must_use]
pub fn in_class(start: i64, len: i64, modulus: i64, residue: i64) -> (i64, i64) {
    let up = |position: i64| (position - residue + modulus - 1).div_euclid(modulus);
    let first = up(start);
    (first, (up(start + len) - first).max(0))
}

/// A map of one head.
#[derive(Clone, Copy, Debug)]
pub enum MapData<'a> {
    /// Not given.
    Absent,
    /// `rows x cols` bytes, 0 = not in the set; of pairs or of blocks.
    Dense {
        /// Row-major bytes.
        data: &'a [u8],
        /// Number of columns.
        cols: usize,
    },
    /// Compressed rows.
    Csr {
        /// `n_q + 1` ascending offsets from 0.
        indptr: &'a [i64],
        /// Key columns from 0, ascending in a row.
        indices: &'a [i64],
    },
}

/// Reals that are borrowed or shared: a copy of them is no copy of the elements.
#[derive(Clone, Debug)]
pub enum Reals<'a> {
    /// The caller's.
    Given(&'a [f32]),
    /// Made.
    Made(std::sync::Arc<Vec<f32>>),
}

impl Default for Reals<'_> {
    fn default() -> Self {
        Reals::Given(&[])
    }
}

impl std::ops::Deref for Reals<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Reals::Given(data) => data,
            Reals::Made(data) => data,
        }
    }
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Reals<'a> {
    fn from(data: &'a T) -> Self {
        Reals::Given(data.as_ref())
    }
}

impl From<Vec<f32>> for Reals<'_> {
    fn from(data: Vec<f32>) -> Self {
        Reals::Made(data.into())
    }
}

/// A dense row-major tensor of reals.
#[derive(Clone, Debug, Default)]
pub struct TensorData<'a> {
    /// Elements: the caller's, or made when a launch is prepared.
    pub data: Reals<'a>,
    /// Extents.
    pub dims: Vec<usize>,
}

impl TensorData<'_> {
    /// Bytes that it holds itself.
    #[must_use]
    pub fn made_bytes(&self) -> usize {
        match &self.data {
            Reals::Given(_) => 0,
            Reals::Made(data) => data.capacity() * size_of::<f32>(),
        }
    }
}

/// What a draw chose: row r has `chosen[r * count .. (r + 1) * count]`, ascending, each once, then -1; `counts[r]` of
/// them.
#[derive(Clone, Debug, Default)]
pub struct DrawTable {
    /// Candidates in units from position 0.
    pub chosen: std::sync::Arc<[i64]>,
    /// Entries of a row.
    pub count: usize,
    /// First row held (in units); 0 for draws of a head, which have one row.
    pub first: i64,
    /// How many candidates each row has; empty: as many as come before the first -1.
    pub counts: std::sync::Arc<[u32]>,
    /// How often each of `chosen` was drawn, by its place there; empty for draws without replacement.
    pub times: std::sync::Arc<[u32]>,
}

impl DrawTable {
    /// Whether the same was chosen.
    #[must_use]
    pub fn chose_alike(&self, other: &DrawTable) -> bool {
        (self.count, self.first) == (other.count, other.first) && self.chosen == other.chosen
    }
}

/// Slots of a level as lists of positions: slot j has `members[begin[j] .. begin[j + 1]]`, in the order of the level.
#[derive(Clone, Debug, Default)]
pub struct LevelTable {
    /// `slots + 1` ascending offsets from 0.
    pub begin: std::sync::Arc<[i64]>,
    /// Positions of keys (and queries: the launch has the whole sequence).
    pub members: std::sync::Arc<[i64]>,
    /// Last position of each slot in original order: `Un::SlotLast`.
    pub last: std::sync::Arc<[i64]>,
}

impl DrawTable {
    /// How many candidates row `row` of the table has, from 0.
    #[must_use]
    pub fn chosen_for(&self, row: usize) -> usize {
        if let Some(&n) = self.counts.get(row) {
            return n as usize;
        }
        let of_row = row.checked_mul(self.count).and_then(|from| self.chosen.get(from..from.checked_add(self.count)?));
        of_row.map_or(0, |of_row| of_row.partition_point(|&c| c >= 0))
    }

    /// How often a head drew a candidate.
    #[must_use]
    pub fn times_of(&self, candidate: i64) -> u32 {
        match self.chosen.iter().position(|&c| c == candidate) {
            Some(place) => self.times.get(place).copied().unwrap_or(1),
            None => 0,
        }
    }
}
