//! Levels and selections: rows pooled into one, and the best of many scores.
//!
//! The one idea: a candidate is one number, [`key`], whose order is the order of selections: higher scores first, of
//! equal scores the lowest index. The best of any set of candidates are then the smallest of a set of integers,
//! whatever the order in which they came. Sums go over rows in order, a tile's apart, and never across elements, so that
//! every instruction set gives the same bits.
//!
//! Functions with a contract in [`crate::abi::Table`] are written once, plainly, and compiled for each instruction set.
//! Nothing here knows of patterns, plans or threads.

use crate::abi::{BK, BQ_MAX, LANE_STEP};

/// Candidates of the queries of a tile while their scores come.
#[derive(Debug)]
#[repr(C)]
pub struct Kept {
    /// For each lane `capacity` [`key`]s, of which the first `len` are there.
    pub list: *mut u64,
    /// Keys of a lane.
    pub capacity: i64,
    /// How many of the best are wanted: a full list is cut to them. With `capacity` of them nothing is cut, and the
    /// capacity is one that all candidates fit in.
    pub wanted: i64,
    /// Keys that are there.
    pub len: [i64; BQ_MAX],
    /// Scores below this one are not among the best.
    pub least: [f32; BQ_MAX],
}

impl Kept {
    /// Lists without a candidate.
    #[must_use]
    pub fn new(list: *mut u64, capacity: usize, wanted: usize) -> Kept {
        let (capacity, wanted) = (capacity as i64, wanted.min(capacity) as i64);
        Kept { list, capacity, wanted, len: [0; BQ_MAX], least: [f32::NEG_INFINITY; BQ_MAX] }
    }
}

/// One value for each pair of a lane and a slot, while the scores of its keys come.
#[derive(Debug)]
#[repr(C)]
pub struct Grid {
    /// Values `[slot][bq]`, of which there are `slots`: -inf where there is none yet.
    pub values: *mut f32,
    /// How many scores above -inf have come, `[slot][bq]`; or null.
    pub counts: *mut f32,
    /// Slot of each key, or [`u32::MAX`] for none; null where keys are slots.
    pub slot_of: *const u32,
    /// 1 for the sum of what comes, 0 for the largest. A NaN and -inf count as if absent.
    pub sums: i64,
    /// Number of slots.
    pub slots: i64,
    /// Not 0: the driver keeps a running maximum and sum of exponentials of all scores of a lane, with 2 of those that are
    /// numbers. Kernels do not look at it.
    pub totals: i64,
}

/// Room for the best `wanted` of `candidates`: all of them if they are few, else so much that cutting costs little.
#[must_use]
pub fn capacity(wanted: usize, candidates: usize) -> usize {
    candidates.min(wanted.saturating_mul(2).saturating_add(2 * BK))
}

/// A candidate as a number: ascending numbers are descending scores, of equal scores ascending indices. The score is no
/// NaN; the two zeros are equal.
#[inline(always)]
#[must_use]
pub fn key(score: f32, index: u32) -> u64 {
    let bits = (score + 0.0).to_bits();
    // Ascending with the score: negative numbers descend with their bits.
    let ascending = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(!ascending) << 32 | u64::from(index)
}

/// The score of a candidate.
#[inline(always)]
#[must_use]
pub fn score(key: u64) -> f32 {
    let ascending = !(key >> 32) as u32;
    f32::from_bits(ascending ^ (((!ascending as i32 >> 31) as u32) | 0x8000_0000))
}

/// The index of a candidate.
#[inline(always)]
#[must_use]
pub fn index(key: u64) -> u32 {
    key as u32
}

/// Moves the `wanted` best candidates to the front, in no order, and returns how many there are.
pub fn best(list: &mut [u64], wanted: usize) -> usize {
    if wanted == 0 {
        return 0;
    }
    if wanted < list.len() {
        list.select_nth_unstable(wanted - 1);
    }
    wanted.min(list.len())
}

/// Adds rows, times weights if there are any, to `acc`; the sum of these rows is formed on its own.
///
/// # Safety
/// `rows` holds `keys` rows of `d` elements, `stride` elements apart, `weights` is null or has `keys`, `acc` has `d`.
#[inline(always)]
unsafe fn sum(rows: *const f32, stride: i64, keys: i64, d: i64, weights: *const f32, acc: *mut f32) {
    const COLUMNS: usize = 32;
    let (keys, d, stride) = (keys as usize, d as usize, stride as isize);
    // SAFETY: rows, weights and elements are within the sizes that the caller promised.
    unsafe {
        let whole = d - d % COLUMNS;
        for first in (0..whole).step_by(COLUMNS) {
            let mut sum = [0.0f32; COLUMNS];
            for key in 0..keys {
                let row = &*rows.offset(key as isize * stride).add(first).cast::<[f32; COLUMNS]>();
                let weight = if weights.is_null() { 1.0 } else { *weights.add(key) };
                for (sum, x) in sum.iter_mut().zip(row) {
                    *sum += weight * x;
                }
            }
            let acc = &mut *acc.add(first).cast::<[f32; COLUMNS]>();
            for (acc, sum) in acc.iter_mut().zip(sum) {
                *acc += sum;
            }
        }
        for i in whole..d {
            let mut sum = 0.0;
            for key in 0..keys {
                let weight = if weights.is_null() { 1.0 } else { *weights.add(key) };
                sum += weight * *rows.offset(key as isize * stride).add(i);
            }
            *acc.add(i) += sum;
        }
    }
}

/// Replaces `acc` by the larger of it and each row, element by element; an element with a NaN stays one.
///
/// # Safety
/// As for [`sum`].
#[inline(always)]
unsafe fn max(rows: *const f32, stride: i64, keys: i64, d: i64, acc: *mut f32) {
    // SAFETY: rows and elements are within the sizes that the caller promised.
    unsafe {
        for key in 0..keys as usize {
            let row = rows.offset(key as isize * stride as isize);
            for i in 0..d as usize {
                let (x, old) = (*row.add(i), *acc.add(i));
                *acc.add(i) = if x > old || x.is_nan() { x } else { old };
            }
        }
    }
}

/// Takes in the scores of a chunk.
///
/// # Safety
/// `s` has `keys * bq` elements, `mask` is null or has `lanes`, `numbers` has `keys`, `kept` has lists for lanes
/// `lane .. lane + lanes`; `keys <= 64`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn keep(
    s: *const f32,
    keys: i64,
    lane: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    numbers: *const u32,
    kept: *mut Kept,
) {
    let (keys, lanes, bq) = (keys as usize, lanes as usize, bq as usize);
    let every = u64::MAX >> (BK - keys);
    // SAFETY: keys and lanes are within the sizes that the caller promised, and each list holds its capacity.
    unsafe {
        let kept = &mut *kept;
        for panel in (0..lanes).step_by(LANE_STEP) {
            let width = LANE_STEP.min(lanes - panel);
            let mut hits = [0_u64; LANE_STEP];
            let at = lane as usize + panel;
            if width == LANE_STEP {
                let least: [f32; LANE_STEP] = std::array::from_fn(|i| kept.least[at + i]);
                for key in 0..keys {
                    let row = &*s.add(key * bq + panel).cast::<[f32; LANE_STEP]>();
                    for ((hits, s), least) in hits.iter_mut().zip(row).zip(&least) {
                        *hits |= u64::from(s >= least) << key;
                    }
                }
            } else {
                for key in 0..keys {
                    for (i, hits) in hits[..width].iter_mut().enumerate() {
                        *hits |= u64::from(*s.add(key * bq + panel + i) >= kept.least[at + i]) << key;
                    }
                }
            }
            for (i, hits) in hits[..width].iter().enumerate() {
                let mut rest = hits & every & if mask.is_null() { u64::MAX } else { *mask.add(panel + i) };
                if rest == 0 {
                    continue;
                }
                let (list, capacity) = (kept.list.add((at + i) * kept.capacity as usize), kept.capacity as usize);
                let mut len = kept.len[at + i] as usize;
                while rest != 0 {
                    let j = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    let score = *s.add(j * bq + panel + i);
                    if score < kept.least[at + i] {
                        continue;
                    }
                    if len == capacity {
                        len = cut(std::slice::from_raw_parts_mut(list, len), kept.wanted as usize);
                        if len == capacity {
                            // All are wanted, and the caller has promised room for them.
                            debug_assert!(false, "a candidate beyond the capacity");
                            break;
                        }
                        kept.least[at + i] = list_least(std::slice::from_raw_parts(list, len));
                        if score < kept.least[at + i] {
                            continue;
                        }
                    }
                    *list.add(len) = key(score, *numbers.add(j));
                    len += 1;
                }
                kept.len[at + i] = len as i64;
            }
        }
    }
}

/// Takes the scores of a chunk into the values of their slots.
///
/// # Safety
/// As for [`keep`], with `grid` for all lanes of a tile of `bq`; slots are below the number of slots.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn reduce(
    s: *const f32,
    keys: i64,
    lane: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    numbers: *const u32,
    grid: *mut Grid,
) {
    let chunk = Scores { s, keys: keys as usize, lane: lane as usize, lanes: lanes as usize, bq: bq as usize, mask };
    // SAFETY: promised by the caller.
    unsafe {
        let grid = &*grid;
        match (grid.sums != 0, mask.is_null()) {
            (false, true) => reduce_as::<false, false>(&chunk, numbers, grid),
            (false, false) => reduce_as::<false, true>(&chunk, numbers, grid),
            (true, true) => reduce_as::<true, false>(&chunk, numbers, grid),
            (true, false) => reduce_as::<true, true>(&chunk, numbers, grid),
        }
    }
}

/// Scores of a chunk, and which of them count.
struct Scores {
    s: *const f32,
    keys: usize,
    lane: usize,
    lanes: usize,
    bq: usize,
    /// Bits of keys for each lane; all count without.
    mask: *const u64,
}

/// As [`reduce`]: sums or the largest, with masks or without. Keys of one slot follow one another more often than not:
/// their values stay in registers.
///
/// # Safety
/// As for [`reduce`].
#[inline(always)]
unsafe fn reduce_as<const SUMS: bool, const MASKED: bool>(chunk: &Scores, numbers: *const u32, grid: &Grid) {
    let Scores { s, keys, lane, lanes, bq, mask } = *chunk;
    // SAFETY: keys, lanes and slots are within the sizes that the caller promised.
    unsafe {
        let slot_of = |key: usize| {
            let number = *numbers.add(key);
            if grid.slot_of.is_null() { number } else { *grid.slot_of.add(number as usize) }
        };
        for panel in (0..lanes).step_by(LANE_STEP) {
            let width = LANE_STEP.min(lanes - panel);
            let mut masks = [u64::MAX; LANE_STEP];
            if MASKED {
                masks[..width].copy_from_slice(std::slice::from_raw_parts(mask.add(panel), width));
            }
            let mut key = 0;
            while key < keys {
                let slot = slot_of(key);
                let mut end = key + 1;
                while end < keys && slot_of(end) == slot {
                    end += 1;
                }
                if i64::from(slot) < grid.slots {
                    let at = slot as usize * bq + lane + panel;
                    let (values, counts) = (grid.values.add(at), grid.counts.wrapping_add(at));
                    if width == LANE_STEP {
                        let values = &mut *values.cast::<[f32; LANE_STEP]>();
                        let (mut all, mut met) = (*values, [0.0_f32; LANE_STEP]);
                        for key in key..end {
                            let row = &*s.add(key * bq + panel).cast::<[f32; LANE_STEP]>();
                            for i in 0..LANE_STEP {
                                let takes = !MASKED || masks[i] >> key & 1 == 1;
                                all[i] = folded::<SUMS>(all[i], row[i], takes);
                                met[i] += f32::from(u8::from(takes & (row[i] > f32::NEG_INFINITY)));
                            }
                        }
                        *values = all;
                        if !grid.counts.is_null() {
                            let counts = &mut *counts.cast::<[f32; LANE_STEP]>();
                            counts.iter_mut().zip(met).for_each(|(count, met)| *count += met);
                        }
                    } else {
                        for (i, mask) in masks[..width].iter().enumerate() {
                            for key in key..end {
                                let (score, value) = (*s.add(key * bq + panel + i), &mut *values.add(i));
                                let takes = mask >> key & 1 == 1;
                                *value = folded::<SUMS>(*value, score, takes);
                                if !grid.counts.is_null() && takes && score > f32::NEG_INFINITY {
                                    *counts.add(i) += 1.0;
                                }
                            }
                        }
                    }
                }
                key = end;
            }
        }
    }
}

/// A value with a score taken in. NaN and -inf count as if absent.
#[inline(always)]
fn folded<const SUMS: bool>(value: f32, score: f32, takes: bool) -> f32 {
    let there = takes & (score > f32::NEG_INFINITY);
    if SUMS {
        let sum = if value == f32::NEG_INFINITY { score } else { value + score };
        if there { sum } else { value }
    } else if there & (score > value) {
        score
    } else {
        value
    }
}

/// Cuts a list to the wanted ones; the last of these is the worst.
#[inline(never)]
fn cut(list: &mut [u64], wanted: usize) -> usize {
    best(list, wanted)
}

/// The score of the worst of a list that was cut: the last one.
fn list_least(list: &[u64]) -> f32 {
    list.last().map_or(f32::INFINITY, |&k| score(k))
}

/// The functions above for an instruction set.
macro_rules! compiled {
    ($(#[$feature:meta])? $name:ident) => {
        /// As compiled for one instruction set.
        pub(crate) mod $name {
            use super::{Grid, Kept};

            /// See [`crate::abi::Table::pool_sum`].
            ///
            /// # Safety
            /// `rows` holds `keys` rows of `d` elements, `weights` is null or has `keys`, `acc` has `d`.
            $(#[$feature])?
            pub(crate) unsafe extern "C" fn pool_sum(
                rows: *const f32, stride: i64, keys: i64, d: i64, weights: *const f32, acc: *mut f32,
            ) {
                // SAFETY: promised by the caller.
                unsafe { super::sum(rows, stride, keys, d, weights, acc) }
            }

            /// See [`crate::abi::Table::pool_max`].
            ///
            /// # Safety
            /// `rows` holds `keys` rows of `d` elements, `acc` has `d`.
            $(#[$feature])?
            pub(crate) unsafe extern "C" fn pool_max(rows: *const f32, stride: i64, keys: i64, d: i64, acc: *mut f32) {
                // SAFETY: promised by the caller.
                unsafe { super::max(rows, stride, keys, d, acc) }
            }

            /// See [`crate::abi::Table::keep`].
            ///
            /// # Safety
            /// `s` has `keys * bq` elements, `mask` is null or has `lanes`, `numbers` has `keys`, `kept` has lists for
            /// these lanes; `keys <= 64`.
            $(#[$feature])?
            #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
            pub(crate) unsafe extern "C" fn keep(
                s: *const f32, keys: i64, lane: i64, lanes: i64, bq: i64, mask: *const u64, numbers: *const u32,
                kept: *mut Kept,
            ) {
                // SAFETY: promised by the caller.
                unsafe { super::keep(s, keys, lane, lanes, bq, mask, numbers, kept) }
            }

            /// See [`crate::abi::Table::reduce`].
            ///
            /// # Safety
            /// As for `keep`; `grid` holds values for all lanes of a tile of `bq`.
            $(#[$feature])?
            #[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
            pub(crate) unsafe extern "C" fn reduce(
                s: *const f32, keys: i64, lane: i64, lanes: i64, bq: i64, mask: *const u64, numbers: *const u32,
                grid: *mut Grid,
            ) {
                // SAFETY: promised by the caller.
                unsafe { super::reduce(s, keys, lane, lanes, bq, mask, numbers, grid) }
            }
        }
    };
}

compiled!(plain);
#[cfg(target_arch = "x86_64")]
compiled!(
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2
);
#[cfg(target_arch = "x86_64")]
compiled!(
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    avx512
);
