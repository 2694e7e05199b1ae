//! The online softmax over a tile of scores, on vectors of any width.
//!
//! The one idea: two passes, the maximum and then the exponentials, each over a few vectors of queries side by side, which
//! wait for each other's latencies. Keys go in short runs: a processor foresees the end of a short loop, and sums of runs
//! are summed apart.
//!
//! The contract is in [`crate::abi::Table`].

use core::ptr::null;

use crate::abi::LANE_STEP;
use crate::vector::{Blocks, Vector};

/// Keys of a run.
const RUN: usize = 16;
/// Keys of a step without a branch.
const STEP: usize = 4;

/// ln of the smallest normal number: below, [`exp_nonpositive`] gives 0.
const EXP_FLUSH: f32 = -87.336_54;
/// Adding it rounds to an integer in the low bits of the mantissa, to which 127 is added: shifted to the place of the
/// exponent they are a power of two.
const ROUND_BIASED: f32 = 12_582_912.0 + 127.0;
/// Coefficients of P, constant first, in `2^r - 1` = r P(r) of r in `-1/2 ..= 1/2`, at most 1.6 units of rounding off.
#[allow(clippy::approx_constant, reason = "the best first coefficient of five, not ln 2")]
const EXP2_M1: [f32; 5] = [0.693_147, 0.240_222_47, 0.055_507_11, 0.009_671_291, 0.001_326_952_1];

/// `exp` of x <= 0 in `lanes`: at most 3 + |x| / 4 ulp off where the result is normal, 0 below (also for -inf), exactly 1
/// at 0, NaN for NaN. In the other lanes, 0.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub(crate) unsafe fn exp_nonpositive<V: Vector>(x: V, lanes: Option<V::Lanes>) -> V {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let (log2_e, round) = (V::set(core::f32::consts::LOG2_E), V::set(ROUND_BIASED));
        let biased = x.fma(log2_e, round);
        let r = x.fms(log2_e, biased.sub(round));
        let mut p = V::set(EXP2_M1[4]);
        for c in EXP2_M1[..4].iter().rev() {
            p = p.fma(r, V::set(*c));
        }
        let power = biased.to_exponent();
        // NaN is not less, and passes.
        let some = x.not_less(V::set(EXP_FLUSH));
        let some = match lanes {
            Some(lanes) => V::both(lanes, some),
            None => some,
        };
        p.mul(r).fma(power, power).only(some)
    }
}

/// See [`crate::abi::Table::softmax`].
///
/// # Safety
/// As there, and for [`Vector`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe fn softmax<V: Blocks>(
    s: *mut f32,
    keys: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> i64 {
    let (keys, lanes, bq) = (keys as usize, lanes as usize, bq as usize);
    let mut changed = false;
    let mut lane = 0;
    while lane < lanes {
        // SAFETY: vectors are within the sizes that the caller promised.
        unsafe {
            let (s, m, l, alpha) = (s.add(lane), m.add(lane), l.add(lane), alpha.add(lane));
            let panels = (lanes - lane) / LANE_STEP;
            let vectors = LANE_STEP / V::WIDTH;
            let (done, more) = match (vectors, mask.is_null()) {
                (2, true) => (1, V::columns::<false, 2>(s, keys, bq, null(), m, l, alpha)),
                (2, false) => (1, V::columns::<true, 2>(s, keys, bq, mask.add(lane), m, l, alpha)),
                (_, true) if panels >= 4 => (4, V::columns::<false, 4>(s, keys, bq, null(), m, l, alpha)),
                (_, true) if panels >= 2 => (2, V::columns::<false, 2>(s, keys, bq, null(), m, l, alpha)),
                (_, true) => (1, V::columns::<false, 1>(s, keys, bq, null(), m, l, alpha)),
                (_, false) if panels >= 2 => (2, V::columns::<true, 2>(s, keys, bq, mask.add(lane), m, l, alpha)),
                (_, false) => (1, V::columns::<true, 1>(s, keys, bq, mask.add(lane), m, l, alpha)),
            };
            changed |= more;
            lane += done * LANE_STEP;
        }
    }
    i64::from(changed)
}

/// [`softmax`] of `COLS` vectors of queries; whether a factor is not 1.
#[inline(always)]
pub(crate) unsafe fn columns<V: Vector, const MASKED: bool, const COLS: usize>(
    s: *mut f32,
    keys: usize,
    bq: usize,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> bool {
    // SAFETY: the caller gives `keys` rows of scores and as many elements of the others as the vectors have lanes; masks if
    // there are any.
    unsafe {
        let (zero, one, none) = (V::set(0.0), V::set(1.0), V::set(f32::NEG_INFINITY));
        let mut masks = [V::masks([0; LANE_STEP].as_ptr()); COLS];
        let mut old = [zero; COLS];
        for col in 0..COLS {
            if MASKED {
                masks[col] = V::masks(mask.add(col * V::WIDTH));
            }
            old[col] = V::load(m.add(col * V::WIDTH));
        }

        // Of even and odd keys, so that half as many wait for each other.
        let mut tops = [old; 2];
        for run in (0..keys).step_by(RUN) {
            let masks = of_half(&masks, run / 32);
            let end = keys.min(run + RUN);
            let mut key = run;
            while key + STEP <= end {
                for j in 0..STEP {
                    raise::<V, MASKED, COLS>(&mut tops[j % 2], s.add((key + j) * bq), &masks, (key + j) % 32);
                }
                key += STEP;
            }
            for key in key..end {
                raise::<V, MASKED, COLS>(&mut tops[0], s.add(key * bq), &masks, key % 32);
            }
        }
        let mut top = tops[0];
        for (top, other) in top.iter_mut().zip(tops[1]) {
            *top = top.max(other);
        }

        // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
        let mut origin = top;
        for origin in &mut origin {
            *origin = origin.only(origin.differs(none));
        }
        let mut total = [zero; COLS];
        for run in (0..keys).step_by(RUN) {
            let masks = of_half(&masks, run / 32);
            let end = keys.min(run + RUN);
            let mut sum = [zero; COLS];
            let mut key = run;
            while key + STEP <= end {
                for j in 0..STEP {
                    exponentials::<V, MASKED, COLS>(&mut sum, s.add((key + j) * bq), origin, &masks, (key + j) % 32);
                }
                key += STEP;
            }
            for key in key..end {
                exponentials::<V, MASKED, COLS>(&mut sum, s.add(key * bq), origin, &masks, key % 32);
            }
            for (total, sum) in total.iter_mut().zip(sum) {
                *total = total.add(sum);
            }
        }

        let mut changed = false;
        for col in 0..COLS {
            let moved = old[col].differs(top[col]);
            let factor = exp_nonpositive(old[col].sub(origin[col]), None).or_else(moved, one);
            let (m, l, alpha) = (m.add(col * V::WIDTH), l.add(col * V::WIDTH), alpha.add(col * V::WIDTH));
            top[col].store(m);
            V::load(l).fma(factor, total[col]).store(l);
            factor.store(alpha);
            changed |= V::any(factor.differs(one));
        }
        changed
    }
}

/// The masks of a half of the keys.
#[inline(always)]
fn of_half<M: Copy, const COLS: usize>(masks: &[[M; 2]; COLS], half: usize) -> [M; COLS] {
    let mut of = [masks[0][0]; COLS];
    for (of, masks) in of.iter_mut().zip(masks) {
        *of = if half == 0 { masks[0] } else { masks[1] };
    }
    of
}

/// Raises maxima to a key's scores, at `s`.
#[inline(always)]
unsafe fn raise<V: Vector, const MASKED: bool, const COLS: usize>(
    top: &mut [V; COLS],
    s: *const f32,
    masks: &[V::Masks; COLS],
    key: usize,
) {
    for (col, top) in top.iter_mut().enumerate() {
        // SAFETY: the caller gives `COLS` vectors of scores.
        unsafe {
            let s = V::load(s.add(col * V::WIDTH));
            // A NaN is never the maximum: it reaches the row through its exponential.
            *top = if MASKED { s.max_in(*top, V::lanes_of(masks[col], key)) } else { s.max(*top) };
        }
    }
}

/// Makes a key's scores, at `s`, exponentials, and adds them to `sum`.
#[inline(always)]
unsafe fn exponentials<V: Vector, const MASKED: bool, const COLS: usize>(
    sum: &mut [V; COLS],
    s: *mut f32,
    origin: [V; COLS],
    masks: &[V::Masks; COLS],
    key: usize,
) {
    for (col, sum) in sum.iter_mut().enumerate() {
        // SAFETY: the caller gives `COLS` vectors of scores.
        unsafe {
            let at = s.add(col * V::WIDTH);
            let x = V::load(at).sub(origin[col]);
            let p = exp_nonpositive(x, if MASKED { Some(V::lanes_of(masks[col], key)) } else { None });
            p.store(at);
            *sum = sum.add(p);
        }
    }
}
