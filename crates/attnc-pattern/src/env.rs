//! What is known when something is computed: lengths, coordinates, and run-time data by borrowed slices.
//!
//! An [`Env`] is one (batch item, head): evaluators read it, nobody writes it. It knows no tensors Q, K, V.

use std::borrow::Cow;

use crate::expr::Extent;
#[cfg(doc)]
use crate::expr::Var;

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
    /// Draws made for this head, by `DrawId`; see [`crate::random`].
    pub draws: Vec<DrawTable>,
    /// Index in the order of each position of the sequence, by `OrderId`; see [`crate::order`].
    pub orders: Vec<std::sync::Arc<[u32]>>,
    /// Position that has each index, by `OrderId`: the inverse of `orders`.
    pub positions: Vec<std::sync::Arc<[u32]>>,
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

/// A dense row-major tensor of reals.
#[derive(Clone, Debug, Default)]
pub struct TensorData<'a> {
    /// Elements: the caller's, or made when a launch is prepared.
    pub data: Cow<'a, [f32]>,
    /// Extents.
    pub dims: Vec<usize>,
}

/// What a draw chose: row r has `chosen[r * count .. (r + 1) * count]`, ascending, each once, then -1.
#[derive(Clone, Debug, Default)]
pub struct DrawTable {
    /// Candidates in units from position 0.
    pub chosen: std::sync::Arc<[i64]>,
    /// Entries of a row.
    pub count: usize,
    /// First row held (in units); 0 for draws of a head, which have one row.
    pub first: i64,
    /// How often each of `chosen` was drawn, by its place there; empty for draws without replacement.
    pub times: std::sync::Arc<[u32]>,
}

impl DrawTable {
    /// How often a head drew a candidate.
    #[must_use]
    pub fn times_of(&self, candidate: i64) -> u32 {
        match self.chosen.iter().position(|&c| c == candidate) {
            Some(place) => self.times.get(place).copied().unwrap_or(1),
            None => 0,
        }
    }
}
