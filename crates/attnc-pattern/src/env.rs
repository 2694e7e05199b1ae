//! What is known when something is computed: lengths, coordinates, and run-time data by borrowed slices.
//!
//! An [`Env`] is one (batch item, head): evaluators read it, nobody writes it. It knows no tensors Q, K, V.

use std::borrow::Cow;

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
