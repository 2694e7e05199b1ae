//! Queries one by one, each with its own keys and no others, on vectors of any width.
//!
//! The one idea: where a query attends to a few keys that its neighbours do not share, elements of a row are lanes, as for
//! few queries: a vector of keys at a time has an accumulator each, whose lanes are summed together. What other queries
//! of the tile attend to is not visited.
//!
//! The contract of each function is in [`crate::abi::Table`].

use crate::abi::BK;
use crate::softmax::exp_nonpositive;
use crate::vector::{Blocks, F32, Vector};

/// Vectors of a query that stay in registers while its keys are gone over.
const HELD: usize = 4;

/// Calls a block function of as many keys as there are, at most sixteen.
macro_rules! by_keys {
    ($v:ty, $whole:literal, $keys:expr, $args:tt) => {
        match $keys {
            1 => <$v>::own_dots::<1, $whole> $args,
            2 => <$v>::own_dots::<2, $whole> $args,
            3 => <$v>::own_dots::<3, $whole> $args,
            4 => <$v>::own_dots::<4, $whole> $args,
            5 => <$v>::own_dots::<5, $whole> $args,
            6 => <$v>::own_dots::<6, $whole> $args,
            7 => <$v>::own_dots::<7, $whole> $args,
            8 => <$v>::own_dots::<8, $whole> $args,
            // Vectors of eight go no further.
            9 if <$v>::WIDTH > 8 => <$v>::own_dots::<9, $whole> $args,
            10 if <$v>::WIDTH > 8 => <$v>::own_dots::<10, $whole> $args,
            11 if <$v>::WIDTH > 8 => <$v>::own_dots::<11, $whole> $args,
            12 if <$v>::WIDTH > 8 => <$v>::own_dots::<12, $whole> $args,
            13 if <$v>::WIDTH > 8 => <$v>::own_dots::<13, $whole> $args,
            14 if <$v>::WIDTH > 8 => <$v>::own_dots::<14, $whole> $args,
            15 if <$v>::WIDTH > 8 => <$v>::own_dots::<15, $whole> $args,
            _ if <$v>::WIDTH > 8 => <$v>::own_dots::<16, $whole> $args,
            _ => <$v>::own_dots::<8, $whole> $args,
        }
    };
}

/// The keys of a row: where their addresses are, and how many; `list` is room for them.
///
/// # Safety
/// `rows` is the address of `keys` addresses.
#[inline(always)]
unsafe fn own_keys(
    rows: *const *const f32,
    keys: usize,
    mask: *const u64,
    row: usize,
    list: &mut [*const f32; BK],
) -> (*const *const f32, usize) {
    let all = u64::MAX >> (BK - keys);
    // SAFETY: promised by the caller; a mask has a word for each row.
    unsafe {
        let bits = if mask.is_null() { all } else { *mask.add(row) & all };
        let (count, first) = (bits.count_ones() as usize, bits.trailing_zeros() as usize % BK);
        let run = bits >> first;
        if run & run.wrapping_add(1) == 0 {
            return (rows.add(first), count);
        }
        let mut rest = bits;
        for at in &mut list[..count] {
            *at = *rows.add(rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
        (list.as_ptr(), count)
    }
}

/// See [`crate::abi::Table::own_qk`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn own_qk<V: Blocks>(
    q: *const f32,
    k: *const *const f32,
    keys: i64,
    d: i64,
    rows: i64,
    mask: *const u64,
    s: *mut f32,
) {
    let (keys, d) = (keys as usize, d as usize);
    let mut list = [core::ptr::null(); BK];
    for row in 0..rows as usize {
        // SAFETY: rows, keys and scores are within the sizes that the caller promised: a vector of scores ends in the row.
        unsafe {
            let (own, count) = own_keys(k, keys, mask, row, &mut list);
            let (q, s) = (q.add(row * d), s.add(row * BK));
            let mut key = 0;
            while key < count {
                let (own, s, some) = (own.add(key), s.add(key), (count - key).min(V::WIDTH));
                key += if d % V::WIDTH == 0 {
                    by_keys!(V, true, some, (q, own, d, s))
                } else {
                    by_keys!(V, false, some, (q, own, d, s))
                };
            }
        }
    }
}

/// Scores of `KEYS` keys, at most as many as a vector has lanes, of which one is written. `WHOLE` says that rows end with a
/// vector. Returns `KEYS`.
#[inline(always)]
pub(crate) unsafe fn own_dots<V: Vector, const KEYS: usize, const WHOLE: bool>(
    q: *const f32,
    rows: *const *const f32,
    d: usize,
    s: *mut f32,
) -> usize {
    // SAFETY: the caller gives `d` elements of the query and of each key, and room for a vector of scores.
    unsafe {
        let mut sum = [V::set(0.0); KEYS];
        let mut i = 0;
        while i + HELD * V::WIDTH <= d {
            let mut query = [V::set(0.0); HELD];
            for (held, query) in query.iter_mut().enumerate() {
                *query = V::load(q.add(i + held * V::WIDTH));
            }
            for (key, sum) in sum.iter_mut().enumerate() {
                let row = (*rows.add(key)).add(i);
                for (held, query) in query.iter().enumerate() {
                    *sum = V::load(row.add(held * V::WIDTH)).fma(*query, *sum);
                }
            }
            i += HELD * V::WIDTH;
        }
        while i + V::WIDTH <= d {
            let query = V::load(q.add(i));
            for (key, sum) in sum.iter_mut().enumerate() {
                *sum = V::load((*rows.add(key)).add(i)).fma(query, *sum);
            }
            i += V::WIDTH;
        }
        if !WHOLE && i < d {
            let query = V::load_some::<F32>(q.add(i).cast(), d - i);
            for (key, sum) in sum.iter_mut().enumerate() {
                *sum = V::load_some::<F32>((*rows.add(key)).add(i).cast(), d - i).fma(query, *sum);
            }
        }
        let mut square = V::square();
        for (all, sum) in square.as_mut().iter_mut().zip(sum) {
            *all = sum;
        }
        V::sums(square).store(s);
    }
    KEYS
}

/// See [`crate::abi::Table::own_pv`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn own_pv<V: Blocks>(
    s: *mut f32,
    v: *const *const f32,
    keys: i64,
    dv: i64,
    rows: i64,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    acc: *mut f32,
) {
    let (keys, dv) = (keys as usize, dv as usize);
    let mut list = [core::ptr::null(); BK];
    for row in 0..rows as usize {
        // SAFETY: rows, keys and dims are within the sizes that the caller promised.
        unsafe {
            let (own, count) = own_keys(v, keys, mask, row, &mut list);
            if count == 0 {
                continue;
            }
            let (p, acc) = (s.add(row * BK), acc.add(row * dv));
            let factor = own_softmax::<V>(p, count, m.add(row), l.add(row));
            let mut dim = 0;
            while dim < dv {
                let left = dv - dim;
                let of = (dim, left.min(V::WIDTH));
                dim += if left >= 64 && V::WIDTH == 8 {
                    V::own_values::<8, true>(p, (own, count), of, factor, acc)
                } else if left >= 4 * V::WIDTH {
                    V::own_values::<4, true>(p, (own, count), of, factor, acc)
                } else if left >= V::WIDTH {
                    V::own_values::<1, true>(p, (own, count), of, factor, acc)
                } else {
                    V::own_values::<1, false>(p, (own, count), of, factor, acc)
                };
            }
        }
    }
}

/// Makes the scores of a row exponentials; returns the factor of what was there before. The scores end within the row's
/// [`BK`] elements, of which those after them become 0 as far as a vector reaches.
#[inline(always)]
unsafe fn own_softmax<V: Vector>(p: *mut f32, count: usize, m: *mut f32, l: *mut f32) -> f32 {
    // SAFETY: the caller gives the row, and one element of the others.
    unsafe {
        for j in count..count.next_multiple_of(V::WIDTH) {
            p.add(j).write(f32::NEG_INFINITY);
        }
        let old = *m;
        let mut top = V::set(old);
        for j in (0..count).step_by(V::WIDTH) {
            // A NaN is never the maximum: it reaches the row through its exponential.
            top = V::load(p.add(j)).max(top);
        }
        let new = top.largest();
        // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
        let origin = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let mut total = V::set(0.0);
        for j in (0..count).step_by(V::WIDTH) {
            let e = exp_nonpositive(V::load(p.add(j)).sub(V::set(origin)), None);
            e.store(p.add(j));
            total = total.add(e);
        }
        let factor = if old == new {
            1.0
        } else if old == f32::NEG_INFINITY {
            0.0
        } else {
            // All lanes are alike.
            exp_nonpositive(V::set(old - origin), None).largest()
        };
        *m = new;
        *l = *l * factor + total.total();
        factor
    }
}

/// Adds the values of a row's keys, each times its weight at `p`, to `WIDE` vectors of dims from `dim` on, or to fewer
/// than a vector where they are not `WHOLE`. Returns how many dims.
#[inline(always)]
pub(crate) unsafe fn own_values<V: Vector, const WIDE: usize, const WHOLE: bool>(
    p: *const f32,
    (rows, count): (*const *const f32, usize),
    (dim, some): (usize, usize),
    factor: f32,
    acc: *mut f32,
) -> usize {
    // SAFETY: the caller gives `count` weights and rows, which have these dims as the accumulator has.
    unsafe {
        let mut sum = [V::set(0.0); WIDE];
        for key in 0..count {
            let (weight, row) = (V::set(*p.add(key)), (*rows.add(key)).add(dim));
            for (i, sum) in sum.iter_mut().enumerate() {
                let at = row.add(i * V::WIDTH);
                let value = if WHOLE { V::load(at) } else { V::load_some::<F32>(at.cast(), some) };
                *sum = value.fma(weight, *sum);
            }
        }
        for (i, sum) in sum.into_iter().enumerate() {
            let at = acc.add(dim + i * V::WIDTH);
            if WHOLE {
                V::load(at).fma(V::set(factor), sum).store(at);
            } else {
                V::load_some::<F32>(at.cast(), some).fma(V::set(factor), sum).store_some::<F32>(at.cast(), some);
            }
        }
    }
    WIDE * some
}
