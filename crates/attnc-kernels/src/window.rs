//! Windows of key tiles: which keys of each tile some query attends to, and the chunks that kernels visit for them.
//!
//! The one idea: a driver fills one row of bits a query for each tile that is not wholly attended to; the rows
//! together say which keys are of use to anybody. A tile whose useful keys lie close together is visited where it
//! lies, trimmed to them; useful keys of the others are *gathered* into common chunks, so that a stripe, a
//! random key or the end of a range costs what it holds and not a tile. How many keys are visited depends only on
//! the rows of bits ([`visited`]), not on how tiles fall into windows.
//!
//! Everything is total: ranges are clipped, and nothing overflows. The contract of each function is in
//! [`crate::abi::Support`]. Nothing here knows of patterns.

use crate::abi::{BK, BQ_MAX};
use crate::tiles::{TileMarks, comb_bits, marks_is_must, marks_next, range_bits};

/// Most tiles in a window.
pub const WINDOW_TILES: usize = 32;
const TILE: i64 = BK as i64;

/// Keys that are visited together: at most one tile of them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Chunk {
    /// Numbers of the keys, ascending.
    pub keys: *const u32,
    /// How many.
    pub count: i64,
    /// The first key where they are contiguous, else -1.
    pub first: i64,
    /// One row of bits for each lane, or null where every query attends to every key.
    pub mask: *const u64,
}

/// A window: at most [`WINDOW_TILES`] tiles at a time.
#[derive(Debug)]
#[repr(C)]
pub struct Window {
    /// Partial tiles: for each the driver fills rows of bits.
    pub partial: i64,
    /// First key of the first partial tile.
    pub from: i64,
    /// One past the last key of the last partial tile.
    pub to: i64,
    /// Numbers of the partial tiles, ascending.
    pub tile: [i64; WINDOW_TILES],
    /// For each query, not 0 if it attends to a key; kept by the driver from window to window.
    pub seen: [u64; BQ_MAX],
    /// Chunks to visit.
    pub chunk: [Chunk; 2 * WINDOW_TILES],
    /// Rows of bits, by partial tile and lane.
    pub bits: [[u64; BQ_MAX]; WINDOW_TILES],
    /// Rows of bits of gathered keys.
    gathered: [[u64; BQ_MAX]; WINDOW_TILES],
    /// Numbers of keys, by chunk.
    keys: [[u32; BK]; 2 * WINDOW_TILES],
    /// Chunks so far.
    chunks: usize,
    /// Keys of the launch.
    n_k: i64,
    /// Queries of the tile.
    rows: usize,
}

/// Whether the keys of a tile are visited where they lie, `useful` being those that some query attends to: at least
/// half a panel of them and hardly a gap.
fn in_place(useful: u64) -> bool {
    let (count, width) = (useful.count_ones(), width(useful));
    count >= 24 && 16 * count >= 15 * width
}

/// Keys from the first useful one to the last.
fn width(useful: u64) -> u32 {
    u64::BITS - useful.leading_zeros() - useful.trailing_zeros()
}

/// How many keys are visited of a tile, `useful` being those that some query attends to.
#[must_use]
pub fn visited(useful: u64) -> u32 {
    if useful == 0 {
        0
    } else if in_place(useful) {
        width(useful)
    } else {
        useful.count_ones()
    }
}

impl Window {
    /// Adds a chunk of contiguous keys.
    fn add_range(&mut self, first: i64, count: i64, mask: *const u64) {
        let keys = &mut self.keys[self.chunks];
        for (j, key) in keys[..count as usize].iter_mut().enumerate() {
            *key = first as u32 + j as u32;
        }
        self.chunk[self.chunks] = Chunk { keys: keys.as_ptr(), count, first, mask };
        self.chunks += 1;
    }

    /// Partial tiles that keys `start .. end` may touch: the first, and the number of tiles of the sequence they end before.
    fn columns(&self, start: i64, end: i64) -> std::ops::Range<usize> {
        let tiles = &self.tile[..self.partial as usize];
        let Some(&first) = tiles.first() else { return 0..0 };
        if start >= end {
            return 0..0;
        }
        let (from, to) = (start / TILE, (end - 1) / TILE + 1);
        let last = tiles[tiles.len() - 1];
        if last - first + 1 == tiles.len() as i64 {
            let clip = |t: i64| (t - first).clamp(0, tiles.len() as i64) as usize;
            return clip(from)..clip(to);
        }
        tiles.partition_point(|&t| t < from)..tiles.partition_point(|&t| t < to)
    }
}

/// Begins a window of marked tiles from `from` up, for `rows` queries. Returns the tile to go on from, or -1 where
/// no tile is marked. Full tiles become chunks; rows of bits of the others are empty.
pub(crate) unsafe extern "C" fn window_next(
    window: *mut Window,
    marks: *const TileMarks,
    from: i64,
    rows: i64,
    n_k: i64,
) -> i64 {
    // SAFETY: the driver gives its own window, whose fields are numbers and pointers that any bits are valid for.
    let w = unsafe { &mut *window };
    w.chunks = 0;
    w.n_k = n_k;
    w.rows = rows as usize;
    let (mut partial, mut seen, mut next) = (0, 0, from);
    while seen < WINDOW_TILES {
        // SAFETY: the marks are those of the driver's thread.
        let tile = unsafe { marks_next(marks, next) };
        if tile < 0 {
            break;
        }
        // SAFETY: as above.
        if unsafe { marks_is_must(marks, tile) } != 0 {
            w.add_range(tile * TILE, TILE.min(n_k - tile * TILE), std::ptr::null());
        } else {
            w.tile[partial] = tile;
            w.bits[partial].fill(0);
            partial += 1;
        }
        seen += 1;
        next = tile + 1;
    }
    w.partial = partial as i64;
    (w.from, w.to) = match partial {
        0 => (0, 0),
        _ => (w.tile[0] * TILE, (w.tile[partial - 1] * TILE + TILE).min(n_k)),
    };
    if seen == 0 { -1 } else { next }
}

/// Adds keys `start .. end` to the row of lane `lane`.
pub(crate) unsafe extern "C" fn window_range(window: *mut Window, lane: i64, start: i64, end: i64) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    let (start, end) = (start.max(w.from), end.min(w.to));
    for column in w.columns(start, end) {
        w.bits[column][lane as usize] |= range_bits(start, end, w.tile[column] * TILE);
    }
}

/// Adds those of keys `start .. end` with `(k - phase) mod period < width` to the row of lane `lane`.
pub(crate) unsafe extern "C" fn window_comb(
    window: *mut Window,
    lane: i64,
    start: i64,
    end: i64,
    period: i64,
    width: i64,
    phase: i64,
) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    let (start, end) = (start.max(w.from), end.min(w.to));
    for column in w.columns(start, end) {
        let at = w.tile[column] * TILE;
        w.bits[column][lane as usize] |= range_bits(start, end, at) & comb_bits(at, period, width, phase);
    }
}

/// Makes chunks of the partial tiles; the number of all chunks.
pub(crate) unsafe extern "C" fn window_chunks(window: *mut Window) -> i64 {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    if w.partial > 0 {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("bmi2") {
            // SAFETY: the instruction is there.
            unsafe { chunks_bmi2(w) };
            return w.chunks as i64;
        }
        chunks(w, pext);
    }
    w.chunks as i64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi2")]
unsafe fn chunks_bmi2(w: &mut Window) {
    chunks(w, |bits, of| core::arch::x86_64::_pext_u64(bits, of));
}

/// Bits of `bits` at the places of `of`, side by side.
fn pext(bits: u64, of: u64) -> u64 {
    let (mut rest, mut at, mut out) = (of, 0, 0);
    while rest != 0 {
        out |= (bits >> rest.trailing_zeros() & 1) << at;
        at += 1;
        rest &= rest - 1;
    }
    out
}

#[inline(always)]
fn chunks(w: &mut Window, pext: impl Fn(u64, u64) -> u64) {
    let rows = w.rows;
    // Gathered keys so far in the chunk that is being filled, and which it is.
    let (mut filled, mut into) = (0, 0);
    let (mut list, mut common) = ([0_u32; BK], true);
    for column in 0..w.partial as usize {
        let (mut some, mut all) = (0, u64::MAX);
        for &row in &w.bits[column][..rows] {
            some |= row;
            all &= row;
        }
        if some == 0 {
            continue;
        }
        let first = w.tile[column] * TILE;
        if in_place(some) {
            let skip = some.trailing_zeros();
            if skip > 0 {
                w.bits[column][..rows].iter_mut().for_each(|row| *row >>= skip);
            }
            let whole = all == some && some.count_ones() == width(some);
            let mask = if whole { std::ptr::null() } else { w.bits[column].as_ptr() };
            w.add_range(first + i64::from(skip), i64::from(width(some)), mask);
            continue;
        }
        let mut rest = some;
        while rest != 0 {
            // Those of the keys that have room in the chunk.
            let room = BK - filled;
            let mut taken = rest;
            if rest.count_ones() as usize > room {
                taken = 0;
                let mut left = rest;
                for _ in 0..room {
                    taken |= left & left.wrapping_neg();
                    left &= left - 1;
                }
            }
            if filled == 0 {
                w.gathered[into].fill(0);
                common = true;
            }
            for (to, &row) in w.gathered[into][..rows].iter_mut().zip(&w.bits[column][..rows]) {
                *to |= pext(row, taken) << filled;
            }
            common &= all & taken == taken;
            let mut each = taken;
            while each != 0 {
                list[filled] = first as u32 + each.trailing_zeros();
                filled += 1;
                each &= each - 1;
            }
            rest &= !taken;
            if filled == BK {
                add_gathered(w, &list, filled, into, common);
                (filled, into) = (0, into + 1);
            }
        }
    }
    if filled > 0 {
        add_gathered(w, &list, filled, into, common);
    }
}

/// Adds a chunk of gathered keys; where they happen to be contiguous they are visited where they lie.
fn add_gathered(w: &mut Window, list: &[u32; BK], count: usize, from: usize, common: bool) {
    let mask = if common { std::ptr::null() } else { w.gathered[from].as_ptr() };
    if (list[count - 1] - list[0]) as usize == count - 1 {
        return w.add_range(i64::from(list[0]), count as i64, mask);
    }
    let keys = &mut w.keys[w.chunks];
    keys.copy_from_slice(list);
    w.chunk[w.chunks] = Chunk { keys: keys.as_ptr(), count: count as i64, first: -1, mask };
    w.chunks += 1;
}

/// Notes for each query whether it attends to a key of the window; full tiles count for every query.
pub(crate) unsafe extern "C" fn window_seen(window: *mut Window) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    let full = u64::from(w.chunks > 0);
    for (lane, seen) in w.seen[..w.rows].iter_mut().enumerate() {
        *seen |= w.bits[..w.partial as usize].iter().fold(full, |any, column| any | column[lane]);
    }
}
