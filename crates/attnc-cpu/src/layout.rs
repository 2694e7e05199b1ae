//! What compiled code and its stages read: one [`Ctx`] for each (batch item, head), one [`Scratch`] for each thread.
//!
//! The one idea: both are `repr(C)` structs of this module, and generated code takes every offset from
//! `offset_of!`, so that a field is stated once. Run-time data is bound here so that an address computed
//! from clamped indices is always valid: data that is empty points to one zero element.
//! Nothing here knows of code generation.

use std::marker::PhantomData;

use attnc_kernels::abi::{BK, KvView, Next, Table};
use attnc_kernels::select::{Grid, Kept};
use attnc_kernels::tiles::TileMarks;
use attnc_kernels::window::Window;
use attnc_pattern::env::{Env, MapData};

use crate::singles::Singles;

/// One (batch item, head): coordinates and data of the pattern, then where tensors lie.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Ctx {
    pub(crate) n_q: i64,
    pub(crate) n_k: i64,
    pub(crate) q_start: i64,
    pub(crate) k_start: i64,
    pub(crate) head: i64,
    pub(crate) heads: i64,
    pub(crate) layer: i64,
    pub(crate) step: i64,
    pub(crate) dim: i64,
    /// Branch of a merge.
    pub(crate) branch: i64,
    /// Residue of the class that this is, or 0.
    pub(crate) residue: i64,
    /// What it is a residue of, or 1.
    pub(crate) modulus: i64,
    /// As [`attnc_pattern::env::Class::given`].
    pub(crate) given: [i64; 4],
    /// Number of documents.
    pub(crate) docs: i64,
    /// `docs + 1` offsets (at least one number).
    pub(crate) doc_offsets: *const i64,
    pub(crate) sizes: *const i64,
    pub(crate) maps: *const MapRef,
    pub(crate) tensors: *const TensorRef,
    pub(crate) draws: *const DrawRef,
    pub(crate) orders: *const OrderRef,
    /// Last positions of slots, by level.
    pub(crate) levels: *const SlotsRef,
    /// The kernels.
    pub(crate) table: *const Table,
    /// Addresses of the functions that code calls.
    pub(crate) callees: *const usize,
    /// Constant tables of the program, by number.
    pub(crate) tables: *const *const i64,
    /// Rows of queries of this head.
    pub(crate) q: Rows<*const u8>,
    pub(crate) k: KvView,
    pub(crate) v: KvView,
    /// Some of the same rows as singles, if their head has a place for them.
    pub(crate) k_singles: Singles,
    pub(crate) v_singles: Singles,
    /// Rows of output of this head.
    pub(crate) out: Rows<*mut u8>,
    /// Numbers of the queries in the order of the stage, for whole tiles; or null where that is the given order. In a
    /// numbering by orders, their indices. Of folded heads, those of each lane.
    pub(crate) walk: *const u32,
    /// The head of each lane of folded heads, for whole tiles; else null.
    pub(crate) lane_heads: *const u32,
    /// Lanes of folded heads; queries of the launch.
    pub(crate) lanes: i64,
    /// Which keys of a numbering by orders the launch has, one word a tile; or null.
    pub(crate) present: *const u64,
    /// Tiles of keys to visit.
    pub(crate) first_tile: i64,
    /// One past the last of them.
    pub(crate) end_tile: i64,
    /// Keys that a search looks at, ascending, and how many.
    pub(crate) listed: *const u32,
    pub(crate) listed_count: i64,
    /// The place of each among the slots whose values are asked for.
    pub(crate) listed_slots: *const u32,
    /// 1 if null slots are among what is attended to here, else 0.
    pub(crate) nulls: i64,
    /// Output of the stages before this one.
    pub(crate) from: Rows<*const u8>,
    /// Their `lse`.
    pub(crate) from_lse: *const f32,
    /// Bytes from row to row of it.
    pub(crate) from_lse_stride: i64,
    /// First `lse` of this head, or null.
    pub(crate) lse: *mut f32,
    /// Bytes from row to row of `lse`.
    pub(crate) lse_stride: i64,
    /// As [`Rows::index`], of `lse`.
    pub(crate) lse_index: *const u32,
}

/// Rows of one head, or of folded heads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Rows<P> {
    pub(crate) base: P,
    pub(crate) dtype: i64,
    pub(crate) row_stride: i64,
    pub(crate) col_stride: i64,
    /// Numbers of the rows by lane, or null where they follow one another.
    pub(crate) index: *const u32,
}

impl<P> Rows<P> {
    /// Where a kernel begins with row `first` of those at `base`, and its row numbers.
    pub(crate) fn from(&self, base: *const u8, first: i64) -> (*const u8, *const u32) {
        if self.index.is_null() {
            (base.wrapping_offset((first * self.row_stride) as isize), std::ptr::null())
        } else {
            (base, self.index.wrapping_offset(first as isize))
        }
    }
}

/// A run-time map.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MapRef {
    /// Dense bytes, at least one.
    pub(crate) data: *const u8,
    /// Rows of a dense map.
    pub(crate) rows: i64,
    /// Columns of a dense map.
    pub(crate) cols: i64,
    /// Offsets of compressed rows, at least one.
    pub(crate) indptr: *const i64,
    /// Number of offsets, at least 1.
    pub(crate) offsets: i64,
    /// Columns of entries, at least one.
    pub(crate) indices: *const i64,
    /// Number of entries that may be read, at least 1.
    pub(crate) entries: i64,
}

/// A run-time tensor.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TensorRef {
    /// At least one element.
    pub(crate) data: *const f32,
    /// Extents, at least 1 each.
    pub(crate) dims: *const i64,
}

/// What a draw or a selection chose: row r has entries `r * count ..`, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DrawRef {
    /// Of a draw: 64-bit integers, -1 after the last of a row.
    pub(crate) drawn: *const i64,
    /// Of a selection, and null for a draw: 32-bit integers.
    pub(crate) selected: *const u32,
    /// Of a selection: how many entries each row has.
    pub(crate) counts: *const u32,
    pub(crate) rows: i64,
    pub(crate) count: i64,
    pub(crate) first: i64,
}

/// Indices of positions in a declared order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct OrderRef {
    /// At least one number.
    pub(crate) index: *const u32,
    /// How many, at least 1.
    pub(crate) len: i64,
    /// Position of each index; at least one number.
    pub(crate) position: *const u32,
    /// How many, at least 1.
    pub(crate) positions: i64,
}

/// Last positions of the slots of a level.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct SlotsRef {
    /// At least one number.
    pub(crate) last: *const i64,
    /// How many, at least 1.
    pub(crate) len: i64,
}

static ZERO_I64: i64 = 0;
static ZERO_U32: u32 = 0;
static ZERO_F32: f32 = 0.0;
static ZERO_U8: u8 = 0;

/// The slice's first element and length, or one zero.
fn first<T>(slice: &[T], zero: &'static T) -> (*const T, i64) {
    if slice.is_empty() { (zero, 1) } else { (slice.as_ptr(), slice.len() as i64) }
}

/// Run-time data of an [`Env`] in the form that compiled code reads.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) maps: Vec<MapRef>,
    pub(crate) tensors: Vec<TensorRef>,
    pub(crate) draws: Vec<DrawRef>,
    pub(crate) orders: Vec<OrderRef>,
    pub(crate) levels: Vec<SlotsRef>,
    /// Extents of all tensors, one after another; `tensors` points into it.
    _dims: Vec<i64>,
    env: PhantomData<&'a Env<'a>>,
}

impl<'a> Bound<'a> {
    /// Refers to the data of `env`.
    pub(crate) fn new(env: &'a Env<'a>) -> Bound<'a> {
        let maps = env.maps.iter().map(|map| {
            let (data, cols) = match map {
                MapData::Dense { data, cols } => (*data, *cols),
                _ => (&[][..], 0),
            };
            let (indptr, indices) = match map {
                MapData::Csr { indptr, indices } => (*indptr, *indices),
                _ => (&[][..], &[][..]),
            };
            let rows = data.len().checked_div(cols).unwrap_or(0);
            let ((indptr, offsets), (indices, entries)) = (first(indptr, &ZERO_I64), first(indices, &ZERO_I64));
            let data = first(data, &ZERO_U8).0;
            MapRef { data, rows: rows as i64, cols: cols as i64, indptr, offsets, indices, entries }
        });
        let extents = |t: &attnc_pattern::env::TensorData<'_>| {
            // An empty tensor reads as one zero, whatever its extents.
            let empty = t.data.is_empty();
            t.dims.iter().map(|&n| if empty { 1 } else { n as i64 }).collect::<Vec<_>>()
        };
        let dims: Vec<i64> = env.tensors.iter().flat_map(extents).collect();
        let mut at = dims.as_ptr();
        let tensors = env.tensors.iter().map(|t| {
            let dims = at;
            at = at.wrapping_add(t.dims.len());
            TensorRef { data: first(&t.data, &ZERO_F32).0, dims }
        });
        let tensors = tensors.collect();
        let draws = env.draws.iter().map(|d| DrawRef {
            drawn: d.chosen.as_ptr(),
            selected: std::ptr::null(),
            counts: std::ptr::null(),
            rows: d.chosen.len().checked_div(d.count).unwrap_or(0) as i64,
            count: d.count as i64,
            first: d.first,
        });
        let orders = env.orders.iter().enumerate().map(|(i, order)| {
            let (index, len) = first(order, &ZERO_U32);
            let (position, positions) = first(env.positions.get(i).map_or(&[], |p| &p[..]), &ZERO_U32);
            OrderRef { index, len, position, positions }
        });
        let levels = env.levels.iter().map(|l| {
            let (last, len) = first(&l.last, &ZERO_I64);
            SlotsRef { last, len }
        });
        Bound {
            levels: levels.collect(),
            maps: maps.collect(),
            tensors,
            draws: draws.collect(),
            orders: orders.collect(),
            _dims: dims,
            env: PhantomData,
        }
    }
}

/// Working memory of one thread for one tile of queries at a time.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Scratch {
    /// Which tiles of keys to visit.
    pub(crate) marks: *mut TileMarks,
    /// Rows of bits of some of these tiles, and the chunks of keys to visit for them.
    pub(crate) window: *mut Window,
    /// Scores `[BK][bq]`.
    pub(crate) s: *mut f32,
    /// Queries of a tile, a multiple of 16 or `FEW`: the stride of everything transposed.
    pub(crate) bq: i64,
    /// Queries `[d][bq]`.
    pub(crate) q: *mut f32,
    /// Accumulator `[dv][bq]`.
    pub(crate) acc: *mut f32,
    /// Running maxima `[bq]`.
    pub(crate) m: *mut f32,
    /// Running sums `[bq]`.
    pub(crate) l: *mut f32,
    /// Factors `[bq]`.
    pub(crate) alpha: *mut f32,
    /// Rows of K or V that had to be converted, `[BK][max(d, dv)]`.
    pub(crate) copy: *mut f32,
    /// Addresses of rows of K, `[BK]`.
    pub(crate) keys: *mut *const u8,
    /// Addresses of rows of V, `[BK]`.
    pub(crate) values: *mut *const u8,
    /// What modifiers read next: `elements` are `[BK]` addresses.
    pub(crate) next: Next,
    /// First query of the tile, numbered within the head (or the folded heads).
    pub(crate) first: i64,
    /// Queries of the tile.
    pub(crate) rows: i64,
    /// What a selection keeps.
    pub(crate) kept: *mut Kept,
    /// What a selection reduces scores to.
    pub(crate) grid: *mut Grid,
    /// Memory of a selection.
    pub(crate) more: *mut u8,
}

/// Alignment of everything in a scratch.
pub(crate) const ALIGN: usize = 64;

/// Sizes that a scratch depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScratchSize {
    pub(crate) bq: usize,
    pub(crate) d: usize,
    pub(crate) dv: usize,
    /// Bytes of tile marks.
    pub(crate) marks: usize,
    /// Bytes that selections need.
    pub(crate) more: usize,
}

impl ScratchSize {
    /// Bytes of each part, in the order of [`Scratch::cut`].
    fn parts(self) -> Option<[usize; 10]> {
        let ScratchSize { bq, d, dv, marks, more } = self;
        let f32s = |rows: usize, cols: usize| rows.checked_mul(cols)?.checked_mul(4)?.checked_next_multiple_of(ALIGN);
        Some([
            marks.checked_next_multiple_of(ALIGN)?,
            size_of::<Window>().checked_next_multiple_of(ALIGN)?,
            f32s(BK, bq)?,
            f32s(d, bq)?,
            f32s(dv, bq)?,
            // Three vectors, each aligned.
            f32s(1, bq)?.checked_mul(3)?,
            f32s(BK, d.max(dv))?,
            3 * BK * size_of::<*const u8>(),
            // Without selections nobody looks at these.
            if more == 0 { 0 } else { (size_of::<Kept>() + size_of::<Grid>()).checked_next_multiple_of(ALIGN)? },
            more.checked_next_multiple_of(ALIGN)?,
        ])
    }

    /// Bytes of a scratch; `None` if there is no such number.
    pub(crate) fn bytes(self) -> Option<usize> {
        self.parts()?.into_iter().try_fold(0_usize, usize::checked_add)
    }
}

impl Scratch {
    /// Cuts a scratch from memory of [`ScratchSize::bytes`] bytes at an address that is a multiple of [`ALIGN`].
    pub(crate) fn cut(memory: *mut u8, size: ScratchSize) -> Option<Scratch> {
        let parts = size.parts()?;
        let mut at = memory;
        let mut next = parts.into_iter().map(|bytes| {
            let part = at;
            at = at.wrapping_add(bytes);
            part
        });
        let (marks, window, s, q, acc) = (next.next()?, next.next()?, next.next()?, next.next()?, next.next()?);
        let (vectors, copy, keys) = (next.next()?.cast::<f32>(), next.next()?, next.next()?.cast::<*const u8>());
        let (kept, more) = (next.next()?.cast::<Kept>(), next.next()?);
        let vector = (parts[5] / 3) / size_of::<f32>();
        Some(Scratch {
            marks: marks.cast(),
            window: window.cast(),
            s: s.cast(),
            bq: size.bq as i64,
            q: q.cast(),
            acc: acc.cast(),
            m: vectors,
            l: vectors.wrapping_add(vector),
            alpha: vectors.wrapping_add(2 * vector),
            copy: copy.cast(),
            keys,
            values: keys.wrapping_add(BK),
            next: Next { elements: keys.wrapping_add(2 * BK), ..Next::NOTHING },
            first: 0,
            rows: 0,
            kept,
            grid: kept.wrapping_add(1).cast(),
            more,
        })
    }
}
