//! Windows of key tiles: which keys of each tile some query attends to, and the chunks that kernels visit for them.
//!
//! The one idea: a driver fills one row of bits a query for each tile that is not wholly attended to; the rows
//! together say which keys are of use to which panels of queries. A tile whose useful keys lie close together is
//! visited where it lies, in groups of keys, each for the panels that it is of use to; useful keys of the others
//! are *gathered* into common chunks, so that a stripe, a random key or the end of a range costs what it holds and
//! not a tile. Chunks depend only on the rows of bits and not on how tiles fall into windows: what is gathered is kept
//! until a chunk is full ([`Visits`] foretells what is visited).
//!
//! Where keys are *listed*, as in a search, there are no tiles: a row of bits is one of listed keys, and every
//! [`BK`] of them are a chunk as they are.
//!
//! Everything is total: ranges are clipped, and nothing overflows. The contract of each function is in
//! [`crate::abi::Support`]. Nothing here knows of patterns.

use crate::abi::{BK, BQ_MAX, FEW, HALF, LANE_STEP};
use crate::tiles::{TileMarks, comb_bits, marks_is_must, marks_next, range_bits};

/// Most tiles in a window.
pub const WINDOW_TILES: usize = 32;
/// Most panels of queries in a tile.
pub const PANELS: usize = BQ_MAX / LANE_STEP;
/// Least keys of a group, those of a tile that are visited by the same panels; but for the last of a tile.
const GROUP: u32 = 8;
/// As many pairs of a key and a lane cost what another chunk does, D being 64: between those of AVX2 and of AVX-512.
const CHUNK_PAIRS: usize = 64;
/// Most chunks that a window holds: each tile in groups, and what was gathered before.
const CHUNKS: usize = WINDOW_TILES * (BK / GROUP as usize) + 1;
/// Tiles from the first of a window that are found by a table.
const NEAR: usize = 256;
const TILE: i64 = BK as i64;

/// Keys that are visited together, by the same queries: at most one tile of them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Chunk {
    /// Numbers of the keys, ascending.
    pub keys: *const u32,
    /// How many.
    pub count: i64,
    /// The first key where they are contiguous, else -1.
    pub first: i64,
    /// First lane that visits them, a multiple of a panel.
    pub lane: i64,
    /// How many lanes, a multiple of a panel; all of a tile of few queries.
    pub lanes: i64,
    /// How many of the keys, from the first on, the first half panel visits: none of the others is of use to it.
    pub half: i64,
    /// One row of bits for each of these lanes, or null where every query attends to every key.
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
    pub chunk: [Chunk; CHUNKS],
    /// Rows of bits, by partial tile and lane.
    pub bits: [[u64; BQ_MAX]; WINDOW_TILES],
    /// Rows of bits of groups that do not begin at the first key of their tile, and of gathered keys.
    shifted: [[u64; BQ_MAX]; CHUNKS],
    /// Numbers of keys, by chunk.
    keys: [[u32; BK]; CHUNKS],
    /// Rows of bits of the keys that are being gathered.
    pending: [u64; BQ_MAX],
    /// Their numbers.
    pending_keys: [u32; BK],
    /// How many they are.
    pending_count: usize,
    /// Whether the last window has come.
    last: bool,
    /// Column of the first partial tile that is not before the first one plus the index.
    near: [u8; NEAR],
    /// Chunks so far.
    chunks: usize,
    /// Keys of the launch.
    n_k: i64,
    /// Tiles from this one on are not visited.
    end: i64,
    /// Queries of the tile.
    rows: usize,
    /// By tile, which keys are there; null where all are.
    present: *const u64,
    /// Keys of the window where they are listed, ascending; else null.
    pub listed: *const u32,
    /// How many they are.
    listed_count: usize,
}

/// Keys from the first useful one to the last.
fn width(useful: u64) -> u32 {
    u64::BITS - useful.leading_zeros() - useful.trailing_zeros()
}

/// Whether the keys of a tile are visited where they lie, `useful` being those that some query attends to: more than a
/// few, and hardly a gap.
fn in_place(useful: u64) -> bool {
    let (count, width) = (useful.count_ones(), width(useful));
    count >= 24 && 16 * count >= 15 * width
}

/// Groups of the keys of a tile that is visited where it lies: for each the first key and the number of keys, and the
/// first panel and one past the last that visit it. A group ends where what panels attend to changes, if going on would
/// visit more in vain than another group costs.
fn groups(panels: &[u64]) -> impl Iterator<Item = (u32, u32, usize, usize)> + '_ {
    let some = panels.iter().fold(0, |all, panel| all | panel);
    // Keys that other panels attend to than to the key before.
    let changes = panels.iter().fold(0, |all, panel| all | (panel ^ panel << 1));
    let (mut at, end) = (some.trailing_zeros(), u64::BITS - some.leading_zeros());
    let alike = move |at: u32| {
        let rest = changes & u64::MAX.checked_shl(at + 1).unwrap_or(0);
        let key = 1_u64 << at;
        let from = panels.iter().position(|p| p & key != 0);
        let to = panels.iter().rposition(|p| p & key != 0);
        (rest.trailing_zeros().min(end), from.unwrap_or(0), to.map_or(0, |to| to + 1))
    };
    std::iter::from_fn(move || {
        while at < end {
            let first = at;
            let (mut stop, mut from, mut to) = alike(at);
            while stop < end && from < to {
                let (after, a, b) = alike(stop);
                let together = if a < b { (from.min(a), to.max(b)) } else { (from, to) };
                let in_vain = |keys: u32, panels: usize| keys as usize * (together.1 - together.0 - panels) * LANE_STEP;
                let more = in_vain(stop - first, to - from) + in_vain(after - stop, b - a);
                if stop - first >= GROUP && more > CHUNK_PAIRS {
                    break;
                }
                (stop, from, to) = (after, together.0, together.1);
            }
            at = stop;
            if from < to {
                return Some((first, stop - first, from, to));
            }
        }
        None
    })
}

/// Lanes that visit what panels `from .. to` of a tile of `rows` queries attend to: whole panels, or a few queries.
fn lanes(rows: usize, from: usize, to: usize) -> usize {
    if rows <= FEW && from < to { rows } else { (to - from) * LANE_STEP }
}

/// Of a group of `count` keys from key `first` on, how many the first half of its first panel visits, which attends to
/// `useful` keys of the tile: all, unless those after its last are a group themselves. Few queries are no panel.
fn half(rows: usize, useful: u64, first: u32, count: u32) -> u32 {
    let visited = count.min(u64::BITS - (useful >> first).leading_zeros());
    if rows > FEW && count - visited >= GROUP { visited } else { count }
}

/// What the kernels visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// Pairs of a key and a lane of panels that visit it.
    pub pairs: u64,
    /// Those of them that are left out, since half a panel has no use for them.
    pub spared: u64,
    /// Chunks.
    pub chunks: u64,
    /// Gathered keys.
    pub copied: u64,
}

/// Foretells what the kernels visit, tile by tile in ascending order, as pairs of a key and a lane.
#[derive(Clone, Copy, Debug)]
pub struct Visits {
    /// Queries of the tile.
    rows: usize,
    pairs: u64,
    /// Those that half panels leave out.
    spared: u64,
    chunks: u64,
    copied: u64,
    /// Panels that the chunk being gathered is of use to, first and one past the last, and its keys.
    gathered: (usize, usize, u32),
}

impl Visits {
    /// Of a tile of `rows` queries nothing has been taken.
    #[must_use]
    pub fn of(rows: usize) -> Visits {
        Visits { rows, pairs: 0, spared: 0, chunks: 0, copied: 0, gathered: (0, 0, 0) }
    }

    /// Lanes that visit a key of use to every panel.
    #[must_use]
    pub fn lanes(&self) -> usize {
        lanes(self.rows, 0, self.rows.div_ceil(LANE_STEP))
    }

    /// Takes a tile, of which each half panel of queries attends to the given keys.
    pub fn tile(&mut self, halves: &[u64]) {
        let (panels, count) = panels_of(halves);
        let panels = &panels[..count];
        let some = panels.iter().fold(0, |all, panel| all | panel);
        if in_place(some) {
            for (skip, keys, from, to) in groups(panels) {
                self.pairs += u64::from(keys) * lanes(self.rows, from, to) as u64;
                self.spared += u64::from(keys - half(self.rows, halves[2 * from], skip, keys)) * HALF as u64;
                self.chunks += 1;
            }
            return;
        }
        let mut rest = some;
        while rest != 0 {
            let key = rest & rest.wrapping_neg();
            rest ^= key;
            for (panel, _) in panels.iter().enumerate().filter(|(_, bits)| *bits & key != 0) {
                let (from, to, keys) = self.gathered;
                self.gathered =
                    if from == to { (panel, panel + 1, keys) } else { (from.min(panel), to.max(panel + 1), keys) };
            }
            self.gathered.2 += 1;
            if self.gathered.2 == u64::BITS {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (from, to, keys) = std::mem::take(&mut self.gathered);
        self.pairs += u64::from(keys) * lanes(self.rows, from, to) as u64;
        self.chunks += u64::from(keys > 0);
        self.copied += u64::from(keys);
    }

    /// What is visited, all tiles of a query tile having been taken.
    #[must_use]
    pub fn finish(mut self) -> Visited {
        self.flush();
        let Visits { pairs, spared, chunks, copied, .. } = self;
        Visited { pairs, spared, chunks, copied }
    }
}

impl Window {
    /// Adds a chunk of keys that `keys` numbers, of panels `from .. to`, `half` of them of use to the first half panel.
    fn add(&mut self, first: i64, count: u32, (from, to): (usize, usize), half: u32, mask: *const u64) {
        let (lane, lanes) = ((from * LANE_STEP) as i64, lanes(self.rows, from, to) as i64);
        let mask = if mask.is_null() { mask } else { mask.wrapping_add(from * LANE_STEP) };
        let keys = self.keys[self.chunks].as_ptr();
        self.chunk[self.chunks] =
            Chunk { keys, count: i64::from(count), first, lane, lanes, half: i64::from(half), mask };
        self.chunks += 1;
    }

    /// Adds a chunk of contiguous keys.
    fn add_range(&mut self, first: i64, count: u32, panels: (usize, usize), half: u32, mask: *const u64) {
        for (j, key) in self.keys[self.chunks][..count as usize].iter_mut().enumerate() {
            *key = first as u32 + j as u32;
        }
        self.add(first, count, panels, half, mask);
    }

    /// Which keys of a tile are there.
    ///
    /// # Safety
    /// `present` is null or has a word for the tile.
    unsafe fn present_of(&self, tile: i64) -> u64 {
        // SAFETY: promised by the caller.
        if self.present.is_null() { u64::MAX } else { unsafe { *self.present.offset(tile as isize) } }
    }

    /// Leaves out of the rows of bits the keys that are not there.
    ///
    /// # Safety
    /// As for [`Self::present_of`], for the tiles of the window.
    unsafe fn drop_absent(&mut self) {
        if self.present.is_null() {
            return;
        }
        for column in 0..self.partial as usize {
            // SAFETY: promised by the caller.
            let present = unsafe { self.present_of(self.tile[column]) };
            self.bits[column][..self.rows].iter_mut().for_each(|row| *row &= present);
        }
    }

    /// Begins a window of listed keys, ascending, at least one and at most [`WINDOW_TILES`] chunks of them, which stay
    /// where they are; rows of bits are empty.
    ///
    /// # Safety
    /// The window is in memory whose bytes have been written, and for as long as it is used the keys are there.
    pub unsafe fn list(window: *mut Window, rows: usize, keys: &[u32]) {
        // SAFETY: as in `window_begin`.
        unsafe { window_begin(window, rows as i64, 0, 0, std::ptr::null()) };
        // SAFETY: as there.
        let w = unsafe { &mut *window };
        let (Some(&first), Some(&last)) = (keys.first(), keys.last()) else { return };
        (w.listed, w.listed_count, w.chunks) = (keys.as_ptr(), keys.len(), 0);
        (w.from, w.to) = (i64::from(first), i64::from(last) + 1);
        w.partial = keys.len().div_ceil(BK) as i64;
        let lanes = w.panels() * LANE_STEP;
        w.bits[..w.partial as usize].iter_mut().for_each(|rows| rows[..lanes].fill(0));
    }

    /// Whether the window is one of listed keys.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !self.listed.is_null()
    }

    /// The listed keys of a partial "tile".
    fn listed(&self, column: usize) -> &[u32] {
        // SAFETY: who has listed the keys has promised that they are there.
        let keys = unsafe { std::slice::from_raw_parts(self.listed, self.listed_count) };
        &keys[column * BK..self.listed_count.min((column + 1) * BK)]
    }

    /// Bits of the listed keys of a column that are among `start .. end`.
    #[must_use]
    pub fn listed_bits(&self, column: usize, start: i64, end: i64) -> u64 {
        let keys = self.listed(column);
        let (Some(&first), Some(&last)) = (keys.first(), keys.last()) else { return 0 };
        let before = |at: i64| keys.partition_point(|&key| i64::from(key) < at);
        let from = if start <= i64::from(first) { 0 } else { before(start) };
        let to = if end > i64::from(last) { keys.len() } else { before(end) };
        if from < to { (u64::MAX >> (BK - (to - from))) << from } else { 0 }
    }

    /// Adds those of the listed keys that are among `start .. end` to the rows of some lanes.
    pub fn add_listed(&mut self, lanes: std::ops::Range<usize>, start: i64, end: i64) {
        for column in 0..self.partial as usize {
            let bits = self.listed_bits(column, start, end);
            self.bits[column][lanes.clone()].iter_mut().for_each(|row| *row |= bits);
        }
    }

    /// Makes chunks of listed keys; how many.
    pub fn listed_chunks(&mut self) -> i64 {
        let rows = self.rows;
        for column in 0..self.partial as usize {
            let count = self.listed(column).len();
            let panels = some_of_panels(&self.bits[column][..rows]);
            let (Some(from), Some(to)) = (panels.iter().position(|&p| p != 0), panels.iter().rposition(|&p| p != 0))
            else {
                continue;
            };
            let wanted = u64::MAX >> (BK - count);
            let lanes = from * LANE_STEP..((to + 1) * LANE_STEP).min(rows);
            let whole = self.bits[column][lanes].iter().all(|&row| row == wanted);
            let mask = if whole { std::ptr::null() } else { self.bits[column].as_ptr() };
            self.add(-1, count as u32, (from, to + 1), count as u32, mask);
            self.chunk[self.chunks - 1].keys = self.listed.wrapping_add(column * BK);
        }
        self.chunks as i64
    }

    /// The chunk after `chunk`, which is one of these.
    #[must_use]
    pub fn after(&self, chunk: &Chunk) -> Option<&Chunk> {
        let at = (std::ptr::from_ref(chunk).addr() - self.chunk.as_ptr().addr()) / size_of::<Chunk>();
        self.chunk[..self.chunks].get(at + 1)
    }

    /// Panels of the tile of queries.
    fn panels(&self) -> usize {
        self.rows.div_ceil(LANE_STEP)
    }

    /// Partial tiles that keys `start .. end` touch.
    fn columns(&self, start: i64, end: i64) -> std::ops::Range<usize> {
        if start >= end {
            return 0..0;
        }
        let tiles = &self.tile[..self.partial as usize];
        // Within the window, as `start` and `end` are.
        let (from, to) = (start / TILE - self.from / TILE, (end - 1) / TILE + 1 - self.from / TILE);
        if to < NEAR as i64 {
            return usize::from(self.near[from as usize])..usize::from(self.near[to as usize]);
        }
        tiles.partition_point(|&t| t < start / TILE)..tiles.partition_point(|&t| t < (end - 1) / TILE + 1)
    }
}

/// Begins the windows of a query tile of `rows` queries and `n_k` keys, up to tile `end`: nothing is gathered.
pub(crate) unsafe extern "C" fn window_begin(window: *mut Window, rows: i64, n_k: i64, end: i64, present: *const u64) {
    // SAFETY: the driver gives its own window, whose fields are numbers and pointers that any bits are valid for,
    // but for `last`.
    unsafe {
        (&raw mut (*window).last).write(false);
        let w = &mut *window;
        (w.rows, w.n_k, w.end, w.pending_count, w.present) = (rows as usize, n_k, end, 0, present);
        w.listed = std::ptr::null();
        w.pending.fill(0);
    }
}

/// Begins a window of marked tiles from `from` up. Returns the tile to go on from, or -1 where no tile is marked and
/// nothing gathered is left. Full tiles become chunks; rows of bits of the others are empty.
pub(crate) unsafe extern "C" fn window_next(window: *mut Window, marks: *const TileMarks, from: i64) -> i64 {
    // SAFETY: as in `window_begin`, which came before.
    let w = unsafe { &mut *window };
    w.chunks = 0;
    let panels = (0, w.panels());
    let (mut partial, mut seen, mut next) = (0, 0, from);
    while seen < WINDOW_TILES {
        // SAFETY: the marks are those of the driver's thread.
        let tile = unsafe { marks_next(marks, next) };
        if tile < 0 || tile >= w.end {
            break;
        }
        // A short tile at the end goes with the partial ones, so that it may be gathered as they are.
        let whole = w.n_k - tile * TILE >= TILE;
        // SAFETY: as above; the driver gives a word for every tile.
        if whole && unsafe { marks_is_must(marks, tile) != 0 && w.present_of(tile) == u64::MAX } {
            w.add_range(tile * TILE, BK as u32, panels, BK as u32, std::ptr::null());
        } else {
            w.tile[partial] = tile;
            w.bits[partial].fill(0);
            partial += 1;
        }
        seen += 1;
        next = tile + 1;
    }
    w.partial = partial as i64;
    (w.from, w.to) = (0, 0);
    if partial > 0 {
        let (first, last) = (w.tile[0], w.tile[partial - 1]);
        (w.from, w.to) = (first * TILE, (last * TILE + TILE).min(w.n_k));
        let mut column = 0;
        for at in 0..((last - first + 2) as usize).min(NEAR) {
            while column < partial && w.tile[column] < first + at as i64 {
                column += 1;
            }
            w.near[at] = column as u8;
        }
    }
    if seen > 0 {
        return next;
    }
    // One more for what was gathered.
    if std::mem::replace(&mut w.last, true) || w.pending_count == 0 { -1 } else { from }
}

/// Adds keys `start .. end` to the row of lane `lane`.
pub(crate) unsafe extern "C" fn window_range(window: *mut Window, lane: i64, start: i64, end: i64) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    let (start, end) = (start.max(w.from), end.min(w.to));
    if start >= end {
        return;
    }
    if w.is_listed() {
        return w.add_listed(lane as usize..lane as usize + 1, start, end);
    }
    // Most ranges, of which there are many, lie in one tile.
    let (tile, at) = (start as u64 / BK as u64, (start as u64 / BK as u64 - w.from as u64 / BK as u64) as usize);
    if tile == (end - 1) as u64 / BK as u64 && at + 1 < NEAR {
        let column = usize::from(w.near[at]);
        if column < w.near[at + 1].into() {
            w.bits[column][lane as usize] |= (u64::MAX >> (TILE - (end - start))) << (start as u64 % BK as u64);
        }
        return;
    }
    for column in w.columns(start, end) {
        w.bits[column][lane as usize] |= range_bits(start, end, w.tile[column] * TILE);
    }
}

/// Adds keys `start .. end` to the rows of lanes `from .. to`.
pub(crate) unsafe extern "C" fn window_rows(window: *mut Window, from: i64, to: i64, start: i64, end: i64) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    let (start, end) = (start.max(w.from), end.min(w.to));
    if w.is_listed() {
        return w.add_listed(from as usize..to as usize, start, end);
    }
    for column in w.columns(start, end) {
        let bits = range_bits(start, end, w.tile[column] * TILE);
        w.bits[column][from as usize..to as usize].iter_mut().for_each(|row| *row |= bits);
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
    if w.is_listed() {
        for column in 0..w.partial as usize {
            let mut bits = w.listed_bits(column, start, end);
            for (j, &key) in w.listed(column).iter().enumerate() {
                bits &= !(u64::from(comb_bits(i64::from(key), period, width, phase) & 1 == 0) << j);
            }
            w.bits[column][lane as usize] |= bits;
        }
        return;
    }
    for column in w.columns(start, end) {
        let at = w.tile[column] * TILE;
        w.bits[column][lane as usize] |= range_bits(start, end, at) & comb_bits(at, period, width, phase);
    }
}

/// Makes chunks of the partial tiles; the number of all chunks.
pub(crate) unsafe extern "C" fn window_chunks(window: *mut Window) -> i64 {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    // SAFETY: the driver gives a word for every tile.
    unsafe { w.drop_absent() };
    if w.partial > 0 {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("bmi2") {
            // SAFETY: the instruction is there.
            unsafe { chunks_bmi2(w) };
            return w.chunks as i64;
        }
        chunks(w, pext);
    } else if w.last {
        flush(w);
    }
    w.chunks as i64
}

/// Makes a chunk of each partial tile, of all keys from the first useful one to the last; the number of all chunks.
pub(crate) unsafe extern "C" fn window_own(window: *mut Window) -> i64 {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    // SAFETY: the driver gives a word for every tile.
    unsafe { w.drop_absent() };
    let rows = w.rows;
    for column in 0..w.partial as usize {
        let useful = w.bits[column][..rows].iter().fold(0, |some, row| some | row);
        if useful == 0 {
            continue;
        }
        let (skip, count) = (useful.trailing_zeros(), width(useful));
        let shifted = &mut w.shifted[w.chunks];
        shifted[rows..].fill(0);
        for (to, row) in shifted[..rows].iter_mut().zip(&w.bits[column][..rows]) {
            *to = row >> skip;
        }
        let mask = shifted.as_ptr();
        w.add_range(w.tile[column] * TILE + i64::from(skip), count, (0, w.panels()), count, mask);
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
    for column in 0..w.partial as usize {
        let halves = some_of_halves(&w.bits[column][..rows]);
        let (panels, _) = panels_of(&halves);
        let panels = &panels[..w.panels()];
        let some = panels.iter().fold(0, |all, panel| all | panel);
        if some == 0 {
            continue;
        }
        let first = w.tile[column] * TILE;
        if in_place(some) {
            for (skip, count, from, to) in groups(panels) {
                let lanes = from * LANE_STEP..(to * LANE_STEP).min(rows);
                let wanted = (u64::MAX >> (u64::BITS - count)) << skip;
                let whole = w.bits[column][lanes.clone()].iter().all(|row| row & wanted == wanted);
                let mask = if whole {
                    std::ptr::null()
                } else if skip == 0 {
                    w.bits[column].as_ptr()
                } else {
                    let shifted = &mut w.shifted[w.chunks];
                    shifted[from * LANE_STEP..to * LANE_STEP].fill(0);
                    for (to, row) in shifted[lanes.clone()].iter_mut().zip(&w.bits[column][lanes]) {
                        *to = row >> skip;
                    }
                    shifted.as_ptr()
                };
                let half = half(rows, halves[2 * from], skip, count);
                w.add_range(first + i64::from(skip), count, (from, to), half, mask);
            }
            continue;
        }
        let mut rest = some;
        while rest != 0 {
            // Those of the keys that have room in the chunk.
            let room = BK - w.pending_count;
            let mut taken = rest;
            if rest.count_ones() as usize > room {
                taken = 0;
                let mut left = rest;
                for _ in 0..room {
                    taken |= left & left.wrapping_neg();
                    left &= left - 1;
                }
            }
            for (to, &row) in w.pending[..rows].iter_mut().zip(&w.bits[column][..rows]) {
                *to |= pext(row, taken) << w.pending_count;
            }
            let mut each = taken;
            while each != 0 {
                w.pending_keys[w.pending_count] = first as u32 + each.trailing_zeros();
                w.pending_count += 1;
                each &= each - 1;
            }
            rest &= !taken;
            if w.pending_count == BK {
                flush(w);
            }
        }
    }
}

/// For each half panel, the keys that some query of it attends to.
fn some_of_halves(rows: &[u64]) -> [u64; 2 * PANELS] {
    let mut halves = [0; 2 * PANELS];
    for (half, rows) in halves.iter_mut().zip(rows.chunks(HALF)) {
        *half = rows.iter().fold(0, |some, row| some | row);
    }
    halves
}

/// For each panel, the keys that one of its halves attends to; and how many panels there are.
fn panels_of(halves: &[u64]) -> ([u64; PANELS], usize) {
    let mut panels = [0; PANELS];
    for (panel, halves) in panels.iter_mut().zip(halves.chunks(2)) {
        *panel = halves.iter().fold(0, |some, half| some | half);
    }
    (panels, halves.len().div_ceil(2))
}

/// For each panel, the keys that some query of it attends to.
fn some_of_panels(rows: &[u64]) -> [u64; PANELS] {
    panels_of(&some_of_halves(rows)).0
}

/// Makes a chunk of the gathered keys; where they happen to be contiguous they are visited where they lie.
fn flush(w: &mut Window) {
    let (rows, count) = (w.rows, std::mem::take(&mut w.pending_count));
    let Some(last) = count.checked_sub(1) else { return };
    let panels = some_of_panels(&w.pending[..rows]);
    let from = panels.iter().position(|&p| p != 0).unwrap_or(0);
    let to = panels.iter().rposition(|&p| p != 0).map_or(0, |p| p + 1);
    let wanted = u64::MAX >> (BK - count);
    let whole = w.pending[from * LANE_STEP..(to * LANE_STEP).min(rows)].iter().all(|&row| row == wanted);
    w.shifted[w.chunks] = std::mem::replace(&mut w.pending, [0; BQ_MAX]);
    let mask = if whole { std::ptr::null() } else { w.shifted[w.chunks].as_ptr() };
    let (first, contiguous) = (w.pending_keys[0], (w.pending_keys[last] - w.pending_keys[0]) as usize == last);
    w.keys[w.chunks] = w.pending_keys;
    w.add(if contiguous { i64::from(first) } else { -1 }, count as u32, (from, to), count as u32, mask);
}

/// Notes for each query whether it attends to a key of the window; full tiles count for every query.
pub(crate) unsafe extern "C" fn window_seen(window: *mut Window) {
    // SAFETY: as in `window_next`.
    let w = unsafe { &mut *window };
    // SAFETY: the driver gives a word for every tile.
    unsafe { w.drop_absent() };
    let full = u64::from(w.chunks > 0);
    for (lane, seen) in w.seen[..w.rows].iter_mut().enumerate() {
        *seen |= w.bits[..w.partial as usize].iter().fold(full, |any, column| any | column[lane]);
    }
}
