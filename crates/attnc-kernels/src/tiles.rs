//! Integer helpers of compiled drivers: which tiles of keys a query tile visits, bit rows of partial
//! tiles, and a little number theory.
//!
//! The one idea: a query tile's tiles are *marked* in a bitmap with a summary of which words are not zero, so that
//! marking is a few words a range, and visiting and clearing cost what was marked. "May" says that some key of a tile
//! may take part for some query; "must" that every key does for every query, so that no mask is needed.
//!
//! Everything is total: ranges are clipped, and nothing overflows. The contract of each function is in
//! [`crate::abi::Support`]. Nothing here knows of patterns.

use crate::abi::{BK, Support};
use crate::window::{
    window_begin, window_chunks, window_comb, window_next, window_own, window_range, window_rows, window_seen,
};

const TILE: i64 = BK as i64;
const WORD: i64 = u64::BITS as i64;

impl Support {
    /// The helpers; they are the same on every machine.
    #[must_use]
    pub fn get() -> Support {
        Support {
            marks_bytes,
            marks_init,
            marks_clear,
            marks_mark,
            marks_comb,
            marks_next,
            marks_is_must,
            window_begin,
            window_next,
            window_range,
            window_rows,
            window_comb,
            window_chunks,
            window_own,
            window_seen,
            range_bits,
            comb_bits,
            isqrt,
            log2,
            partition,
        }
    }
}

/// Marks of tiles, in memory that the caller owns. What follows this header: a summary (bit w says that
/// "may" word w is not zero), the "may" words, the "must" words (a subset of "may").
#[derive(Debug)]
#[repr(C)]
pub struct TileMarks {
    n_k: i64,
    /// The last keys that were marked as "must", first and one past the last, with those before them that they follow.
    run: (i64, i64),
}

/// Words for `n` bits, `n >= 0`.
fn words(n: i64) -> i64 {
    n.unsigned_abs().div_ceil(WORD as u64) as i64
}

/// Tiles for `n_k` keys.
fn tiles(n_k: i64) -> i64 {
    n_k.max(0).unsigned_abs().div_ceil(TILE as u64) as i64
}

/// The three bitmaps behind a header.
struct Bitmaps<'a> {
    n_k: i64,
    run: &'a mut (i64, i64),
    summary: &'a mut [u64],
    may: &'a mut [u64],
    must: &'a mut [u64],
}

impl Bitmaps<'_> {
    /// # Safety
    /// `marks` was made by [`marks_init`] in memory of [`marks_bytes`], which nobody else uses during `'a`.
    unsafe fn of<'a>(marks: *mut TileMarks) -> Bitmaps<'a> {
        // SAFETY: the header is initialised, and the memory behind it holds these words.
        unsafe {
            let n_k = (*marks).n_k;
            let n = words(tiles(n_k));
            let (summary_len, len) = (words(n) as usize, n as usize);
            let first = marks.add(1).cast::<u64>();
            Bitmaps {
                n_k,
                run: &mut (*marks).run,
                summary: core::slice::from_raw_parts_mut(first, summary_len),
                may: core::slice::from_raw_parts_mut(first.add(summary_len), len),
                must: core::slice::from_raw_parts_mut(first.add(summary_len + len), len),
            }
        }
    }

    /// Clips a range of keys.
    fn clip(&self, start: i64, end: i64) -> (i64, i64) {
        (start.max(0), end.min(self.n_k))
    }

    /// Marks what keys `start .. end` touch, and among it what lies wholly inside `must_start .. must_end` and what it
    /// follows.
    fn mark(&mut self, start: i64, end: i64, must_start: i64, must_end: i64) {
        let (start, end) = self.clip(start, end);
        if start >= end {
            return;
        }
        let of = |key: i64| key as u64 / TILE as u64;
        let may = (of(start) as i64, of(end - 1) as i64 + 1);
        let (word, last) = ((may.0 as u64 / WORD as u64) as usize, (of(end - 1) / WORD as u64) as usize);
        if word == last {
            // Most ranges, of which there are many.
            let run = may.1 - may.0;
            self.may[word] |= ones(run) << (may.0 as u64 % WORD as u64);
            self.summary[word / WORD as usize] |= 1 << (word % WORD as usize);
        } else {
            set(self.may, may.0, may.1);
            set(self.summary, word as i64, last as i64 + 1);
        }

        let (must_start, must_end) = self.clip(must_start, must_end);
        if must_start >= must_end {
            return;
        }
        // Rows of a grid that is attended to over its whole width follow one another, and share tiles.
        let follows = (self.run.0..=self.run.1).contains(&must_start);
        let begin = if follows { self.run.0 } else { must_start };
        *self.run = (begin, if follows { must_end.max(self.run.1) } else { must_end });
        let first = tiles(begin).max(may.0);
        let last = if must_end == self.n_k { tiles(self.n_k) } else { must_end / TILE };
        set(self.must, first, last.min(may.1));
    }

    fn clear(&mut self) {
        for (i, summary) in self.summary.iter_mut().enumerate() {
            while *summary != 0 {
                let word = i * WORD as usize + summary.trailing_zeros() as usize;
                self.may[word] = 0;
                self.must[word] = 0;
                *summary &= *summary - 1;
            }
        }
        *self.run = (0, 0);
    }

    fn next(&self, from: i64) -> Option<i64> {
        let from = from.max(0);
        let word = from / WORD;
        let rest = *self.may.get(usize::try_from(word).ok()?)? & (u64::MAX << (from % WORD));
        if rest != 0 {
            return Some(word * WORD + i64::from(rest.trailing_zeros()));
        }
        let after = word + 1;
        let mut i = usize::try_from(after / WORD).ok()?;
        let mut summary = *self.summary.get(i)? & (u64::MAX << (after % WORD));
        while summary == 0 {
            i += 1;
            summary = *self.summary.get(i)?;
        }
        let word = i * WORD as usize + summary.trailing_zeros() as usize;
        Some(word as i64 * WORD + i64::from(self.may[word].trailing_zeros()))
    }
}

/// Sets bits `from .. to`.
fn set(bits: &mut [u64], from: i64, to: i64) {
    if from >= to {
        return;
    }
    let (first, last) = ((from / WORD) as usize, ((to - 1) / WORD) as usize);
    let head = u64::MAX << (from % WORD);
    let tail = u64::MAX >> (WORD - 1 - (to - 1) % WORD);
    if first == last {
        bits[first] |= head & tail;
    } else {
        bits[first] |= head;
        bits[first + 1..last].fill(u64::MAX);
        bits[last] |= tail;
    }
}

extern "C" fn marks_bytes(n_k: i64) -> i64 {
    let n = words(tiles(n_k));
    size_of::<TileMarks>() as i64 + 8 * (words(n) + 2 * n)
}

unsafe extern "C" fn marks_init(marks: *mut TileMarks, n_k: i64) {
    let n_k = n_k.max(0);
    // SAFETY: the caller gives `marks_bytes(n_k)` bytes; the words behind the header are zeroed
    // before anything refers to them.
    unsafe {
        marks.cast::<u8>().write_bytes(0, marks_bytes(n_k) as usize);
        marks.write(TileMarks { n_k, run: (0, 0) });
    }
}

unsafe extern "C" fn marks_clear(marks: *mut TileMarks) {
    // SAFETY: promised by the caller.
    unsafe { Bitmaps::of(marks) }.clear();
}

unsafe extern "C" fn marks_mark(marks: *mut TileMarks, start: i64, end: i64, must_start: i64, must_end: i64) {
    // SAFETY: promised by the caller.
    unsafe { Bitmaps::of(marks) }.mark(start, end, must_start, must_end);
}

#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe extern "C" fn marks_comb(
    marks: *mut TileMarks,
    start: i64,
    end: i64,
    must_start: i64,
    must_end: i64,
    period: i64,
    width: i64,
    phase_lo: i64,
    phase_hi: i64,
) {
    // SAFETY: promised by the caller.
    let mut marks = unsafe { Bitmaps::of(marks) };
    let (start, end) = marks.clip(start, end);
    if start >= end || width <= 0 || phase_lo > phase_hi {
        return;
    }
    if width >= period {
        return marks.mark(start, end, must_start, must_end);
    }
    // A run of each phase has `width` keys; the runs of all phases together, `spread`.
    let drift = phase_hi.saturating_sub(phase_lo);
    let spread = width.saturating_add(drift);
    if period <= TILE || spread >= period {
        return marks.mark(start, end, 0, 0);
    }
    // The run that holds `start`, or begins after it, comes first.
    let residue = (start.rem_euclid(period) - phase_lo.rem_euclid(period)).rem_euclid(period);
    let mut run = if residue < spread { start - residue } else { start + (period - residue).min(end - start) };
    while run < end {
        let stop = run.saturating_add(spread);
        // Common to all phases.
        let (must_from, must_to) = if drift == 0 { (run.max(must_start), stop.min(must_end)) } else { (0, 0) };
        marks.mark(run.max(start), stop.min(end), must_from, must_to);
        run = run.saturating_add(period);
    }
}

pub(crate) unsafe extern "C" fn marks_next(marks: *const TileMarks, from: i64) -> i64 {
    // SAFETY: promised by the caller; nothing is written.
    unsafe { Bitmaps::of(marks.cast_mut()) }.next(from).unwrap_or(-1)
}

pub(crate) unsafe extern "C" fn marks_is_must(marks: *const TileMarks, tile: i64) -> i64 {
    // SAFETY: promised by the caller; nothing is written.
    let marks = unsafe { Bitmaps::of(marks.cast_mut()) };
    let word = usize::try_from(tile).ok().and_then(|tile| marks.must.get(tile / WORD as usize));
    word.map_or(0, |word| (word >> (tile % WORD) & 1) as i64)
}

pub(crate) extern "C" fn range_bits(start: i64, end: i64, k0: i64) -> u64 {
    let from = start.saturating_sub(k0).clamp(0, WORD);
    let to = end.saturating_sub(k0).clamp(0, WORD);
    if from >= to { 0 } else { ones(to - from) << from }
}

/// The lowest `n` bits, `1 <= n`; all for `n >= 64`.
fn ones(n: i64) -> u64 {
    u64::MAX >> (WORD - n.min(WORD))
}

pub(crate) extern "C" fn comb_bits(k0: i64, period: i64, width: i64, phase: i64) -> u64 {
    if width <= 0 {
        return 0;
    }
    if width >= period {
        return u64::MAX;
    }
    // Where bit 0 stands in its period.
    let at = (k0.rem_euclid(period) - phase.rem_euclid(period)).rem_euclid(period);
    // One period of bits: what is left of the run at bit 0, and the next run.
    let mut bits = if at < width { ones(width - at) } else { 0 };
    let next = period - at;
    if next < WORD {
        bits |= ones(width) << next;
    }
    if period < WORD {
        bits &= ones(period);
        let mut known = period;
        while known < WORD {
            bits |= bits << known;
            known *= 2;
        }
    }
    bits
}

extern "C" fn isqrt(x: i64) -> i64 {
    x.checked_isqrt().unwrap_or(-1)
}

extern "C" fn log2(x: i64) -> i64 {
    x.checked_ilog2().map_or(-1, i64::from)
}

unsafe extern "C" fn partition(offsets: *const i64, n: i64, pos: i64) -> i64 {
    if n <= 0 {
        return -1;
    }
    // SAFETY: the caller gives `n` offsets.
    let offsets = unsafe { core::slice::from_raw_parts(offsets, n as usize) };
    offsets.partition_point(|&offset| offset <= pos) as i64 - 1
}
