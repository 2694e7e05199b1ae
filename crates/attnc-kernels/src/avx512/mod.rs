//! The kernels for AVX-512 (F, DQ, BW and VL).
//!
//! The one idea: a panel of 16 queries is one vector, and masks are registers. A block of accumulators covers all the
//! panels of a tile of 64 queries, 6 keys (`qk`) or value dims (`pv`) x 4 panels in 24 registers, so that each element of
//! K and V is read once and 10 loads serve 24 multiply-adds; fewer panels take more keys or dims.
//! Where a masked score or a vanishing exponential is to be 0, the last operation of its computation is a masked one.
//!
//! Dot products of bf16 pairs (AVX512-BF16) are left out: on Sapphire Rapids they issue half as often as
//! single-precision multiply-adds, so that rows converted once a tile are as fast and exact.
//!
//! Tiles of few queries wait for memory, not for the width of vectors: their kernels are AVX2's.
//!
//! As in AVX2's version a tile's contribution is summed apart and then added to the accumulator.
//!
//! The contract of each function is in [`crate::abi::Table`]; addresses of rows are [`crate::tensor`]'s concern.

use core::arch::x86_64::*;
use core::ptr::null;

use crate::abi::{FEW, LANE_STEP, Table};
use crate::avx2;
use crate::avx2::math::{EXP_FLUSH, EXP_M1, LN2_HI, LN2_LO, ROUND_BIASED};
use crate::tensor::packed;
use crate::{count, scalar};

mod rows;

/// The table of these kernels. What touches one lane, or is a fill, is the scalar version's.
pub(crate) const TABLE: Table = Table {
    pack_q: rows::pack_q,
    kv_tile: rows::kv_tile,
    qk,
    few_qk: avx2::few::qk,
    few_pv: avx2::few::pv,
    softmax,
    pv,
    null_slot: scalar::null_slot,
    start: scalar::start,
    finish: rows::finish,
    pool_sum: crate::select::avx512::pool_sum,
    pool_max: crate::select::avx512::pool_max,
    keep: crate::select::avx512::keep,
    reduce: crate::select::avx512::reduce,
};

/// Singles in a vector, in a panel of queries and in a cache line.
const WIDTH: usize = 16;
const _: () = assert!(LANE_STEP == WIDTH);
/// Elements of a row of Q and K whose products are summed before the next ones: that part of four
/// panels fills two thirds of the first-level cache.
const DIM_CHUNK: usize = 128;

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe extern "C" fn qk(
    q: *const f32,
    k: *const f32,
    k_stride: i64,
    keys: i64,
    d: i64,
    lanes: i64,
    bq: i64,
    s: *mut f32,
) {
    count::add(keys, d, lanes);
    let (keys, d, lanes, bq, stride) = (keys as usize, d as usize, lanes as usize, bq as usize, k_stride as isize);
    let mut lane = 0;
    while lane < lanes {
        // The first panels ask for the tile that follows in memory, which is the next one more often than not.
        let ahead = if lane == 0 { keys as isize * stride } else { 0 };
        // SAFETY: panels are within the sizes that the caller promised.
        unsafe {
            let (q, s) = (q.add(packed(lane, 0, d)), s.add(lane));
            lane += LANE_STEP
                * match (lanes - lane) / LANE_STEP {
                    1 => qk_panels::<1, 16>(q, k, stride, keys, d, bq, ahead, s),
                    2 | 3 => qk_panels::<2, 12>(q, k, stride, keys, d, bq, ahead, s),
                    _ => qk_panels::<4, 6>(q, k, stride, keys, d, bq, ahead, s),
                };
        }
    }
}

/// Scores of `PANELS` panels, in blocks of `BLOCK` keys and at the end of smaller powers of two. Returns `PANELS`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn qk_panels<const PANELS: usize, const BLOCK: usize>(
    q: *const f32,
    k: *const f32,
    stride: isize,
    keys: usize,
    d: usize,
    bq: usize,
    ahead: isize,
    s: *mut f32,
) -> usize {
    for chunk in (0..d).step_by(DIM_CHUNK) {
        let dims = chunk..d.min(chunk + DIM_CHUNK);
        let mut key = 0;
        while key < keys {
            // SAFETY: blocks cover the keys that the caller gives.
            unsafe {
                let (k, s) = (k.offset(key as isize * stride), s.add(key * bq));
                key += match keys - key {
                    n if n >= BLOCK => qk_block::<PANELS, BLOCK>(q, k, stride, d, dims.clone(), bq, ahead, s),
                    n if n >= 8 && BLOCK > 8 => qk_block::<PANELS, 8>(q, k, stride, d, dims.clone(), bq, ahead, s),
                    4.. => qk_block::<PANELS, 4>(q, k, stride, d, dims.clone(), bq, ahead, s),
                    2.. => qk_block::<PANELS, 2>(q, k, stride, d, dims.clone(), bq, ahead, s),
                    _ => qk_block::<PANELS, 1>(q, k, stride, d, dims.clone(), bq, ahead, s),
                };
            }
        }
    }
    PANELS
}

/// Adds the products of elements `dims` to the scores of `KEYS` keys and `PANELS` panels, which begin with element 0; on
/// the way asks for the rows that lie `ahead` elements from these. Returns `KEYS`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn qk_block<const PANELS: usize, const KEYS: usize>(
    q: *const f32,
    k: *const f32,
    stride: isize,
    d: usize,
    dims: core::ops::Range<usize>,
    bq: usize,
    ahead: isize,
    s: *mut f32,
) -> usize {
    let mut sum = [[_mm512_setzero_ps(); PANELS]; KEYS];
    // SAFETY: the caller gives `d` rows of each panel of Q, `KEYS` rows of K and of S.
    unsafe {
        if dims.start > 0 {
            for (key, sum) in sum.iter_mut().enumerate() {
                for (panel, sum) in sum.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(s.add(key * bq + panel * WIDTH));
                }
            }
        }
        for line in dims.clone().step_by(WIDTH) {
            for key in 0..KEYS {
                let next = k.wrapping_offset(key as isize * stride + ahead).wrapping_add(line);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
            }
            for i in line..dims.end.min(line + WIDTH) {
                let mut row = [_mm512_setzero_ps(); PANELS];
                for (panel, row) in row.iter_mut().enumerate() {
                    *row = _mm512_loadu_ps(q.add((panel * d + i) * WIDTH));
                }
                for (key, sum) in sum.iter_mut().enumerate() {
                    let k = _mm512_set1_ps(*k.offset(key as isize * stride + i as isize));
                    for (sum, row) in sum.iter_mut().zip(row) {
                        *sum = _mm512_fmadd_ps(k, row, *sum);
                    }
                }
            }
        }
        for (key, sum) in sum.into_iter().enumerate() {
            for (panel, sum) in sum.into_iter().enumerate() {
                _mm512_storeu_ps(s.add(key * bq + panel * WIDTH), sum);
            }
        }
    }
    KEYS
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe extern "C" fn pv(
    p: *const f32,
    v: *const f32,
    v_stride: i64,
    keys: i64,
    dv: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
) {
    count::add(keys, dv, lanes);
    let (keys, dv, lanes, bq, stride) = (keys as usize, dv as usize, lanes as usize, bq as usize, v_stride as isize);
    // SAFETY: blocks cover dims, keys and lanes within the sizes that the caller promised.
    unsafe {
        // Without a mask a zero weight times a non-finite value is NaN, as it should be.
        if !mask.is_null() && !all_finite(v, stride, keys, dv) {
            return pv_masked(p, v, stride, keys, dv, lanes, bq, mask, alpha, acc);
        }
        let mut lane = 0;
        while lane < lanes {
            let ahead = if lane == 0 { keys as isize * stride } else { 0 };
            let alpha = if alpha.is_null() { alpha } else { alpha.add(lane) };
            let (p, acc) = (p.add(lane), acc.add(packed(lane, 0, dv)));
            lane += LANE_STEP
                * match (lanes - lane) / LANE_STEP {
                    1 => pv_panels::<1, 16>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                    2 | 3 => pv_panels::<2, 12>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                    _ => pv_panels::<4, 6>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                };
        }
    }
}

/// Values of `PANELS` panels, in blocks of `BLOCK` dims and at the end of smaller powers of two. Returns `PANELS`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn pv_panels<const PANELS: usize, const BLOCK: usize>(
    p: *const f32,
    v: *const f32,
    stride: isize,
    keys: usize,
    dv: usize,
    bq: usize,
    ahead: isize,
    alpha: *const f32,
    acc: *mut f32,
) -> usize {
    let mut dim = 0;
    while dim < dv {
        let left = dv - dim;
        // A line of V's rows is asked for by the block that reads the first of it.
        let ahead = if dim % WIDTH == 0 || dim % WIDTH + BLOCK.min(left) > WIDTH { ahead } else { 0 };
        // SAFETY: blocks cover the dims that the caller gives.
        unsafe {
            let (v, acc) = (v.add(dim), acc.add(dim * WIDTH));
            dim += match left {
                n if n >= BLOCK => pv_block::<PANELS, BLOCK>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                n if n >= 8 && BLOCK > 8 => pv_block::<PANELS, 8>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                4.. => pv_block::<PANELS, 4>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                2.. => pv_block::<PANELS, 2>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
                _ => pv_block::<PANELS, 1>(p, v, stride, keys, dv, bq, ahead, alpha, acc),
            };
        }
    }
    PANELS
}

/// `DIMS` dims of `PANELS` panels: `acc = acc * alpha + sum over keys`; on the way asks for the rows that lie `ahead`
/// elements from these. Returns `DIMS`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn pv_block<const PANELS: usize, const DIMS: usize>(
    p: *const f32,
    v: *const f32,
    stride: isize,
    keys: usize,
    dv: usize,
    bq: usize,
    ahead: isize,
    alpha: *const f32,
    acc: *mut f32,
) -> usize {
    let mut sum = [[_mm512_setzero_ps(); PANELS]; DIMS];
    // SAFETY: the caller gives `keys` rows of P and of V (`DIMS` elements of each), and `DIMS` rows of each panel of the
    // accumulator.
    unsafe {
        for key in 0..keys {
            let mut row = [_mm512_setzero_ps(); PANELS];
            for (panel, row) in row.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(p.add(key * bq + panel * WIDTH));
            }
            let v = v.offset(key as isize * stride);
            _mm_prefetch::<_MM_HINT_T1>(v.wrapping_offset(ahead).wrapping_add(DIMS - 1).cast());
            for (dim, sum) in sum.iter_mut().enumerate() {
                let v = _mm512_set1_ps(*v.add(dim));
                for (sum, row) in sum.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(v, row, *sum);
                }
            }
        }
        for panel in 0..PANELS {
            let factor = load_factor(alpha, panel * WIDTH);
            for (dim, sum) in sum.iter().enumerate() {
                add_scaled(acc.add((panel * dv + dim) * WIDTH), factor, sum[panel]);
            }
        }
    }
    DIMS
}

/// Whether the tile of V holds neither infinities nor NaN.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn all_finite(v: *const f32, stride: isize, keys: usize, dv: usize) -> bool {
    // 0 x is 0 for finite x only, and a sum with NaN stays NaN.
    let zero = _mm512_setzero_ps();
    let mut sum = [zero; 4];
    for key in 0..keys {
        for i in (0..dv).step_by(4 * WIDTH) {
            for (j, sum) in sum.iter_mut().enumerate() {
                let at = i + j * WIDTH;
                // SAFETY: the caller gives `keys` rows of `dv` elements, and lanes outside the mask are not read.
                let x = unsafe {
                    let row = v.offset(key as isize * stride);
                    _mm512_maskz_loadu_ps(first(dv.saturating_sub(at)), row.wrapping_add(at))
                };
                *sum = _mm512_fmadd_ps(x, zero, *sum);
            }
        }
    }
    let sum = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sum, sum) == 0
}

/// The first `n` lanes of a vector, or all.
#[inline]
fn first(n: usize) -> __mmask16 {
    if n >= WIDTH { !0 } else { (1 << n) - 1 }
}

/// [`pv`] where a masked value must not be multiplied, not even by zero. For values that are not finite, thus rare.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe fn pv_masked(
    p: *const f32,
    v: *const f32,
    stride: isize,
    keys: usize,
    dv: usize,
    lanes: usize,
    bq: usize,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
) {
    for panel in (0..lanes).step_by(LANE_STEP) {
        // SAFETY: dims, keys and lanes are within the sizes that the caller promised.
        unsafe {
            let factor = load_factor(alpha, panel);
            let mask = PanelMask::load(mask.add(panel));
            for dim in 0..dv {
                let mut sum = _mm512_setzero_ps();
                for key in 0..keys {
                    let v = _mm512_set1_ps(*v.offset(key as isize * stride + dim as isize));
                    let p = _mm512_loadu_ps(p.add(key * bq + panel));
                    sum = _mm512_mask3_fmadd_ps(v, p, sum, mask.of(key / 32, key));
                }
                add_scaled(acc.add(packed(panel, dim, dv)), factor, sum);
            }
        }
    }
}

/// The factors of the panel that begins with `lane`; ones if there are none.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn load_factor(alpha: *const f32, lane: usize) -> __m512 {
    // SAFETY: the caller gives null, or the factors of this panel.
    if alpha.is_null() { _mm512_set1_ps(1.0) } else { unsafe { _mm512_loadu_ps(alpha.add(lane)) } }
}

/// `acc = acc * factor + sum` of one dim.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn add_scaled(acc: *mut f32, factor: __m512, sum: __m512) {
    // SAFETY: the caller gives the address of 16 elements.
    unsafe { _mm512_storeu_ps(acc, _mm512_fmadd_ps(_mm512_loadu_ps(acc), factor, sum)) }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
unsafe extern "C" fn softmax(
    s: *mut f32,
    keys: i64,
    lanes: i64,
    bq: i64,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> i64 {
    if bq as usize == FEW {
        // SAFETY: as the caller promised; machines with AVX-512 have AVX2.
        return unsafe { avx2::few::softmax(s, keys, lanes, mask, m, l, alpha) };
    }
    let (keys, lanes, bq) = (keys as usize, lanes as usize, bq as usize);
    let mut changed = 0;
    let mut lane = 0;
    while lane < lanes {
        // SAFETY: panels are within the sizes that the caller promised.
        unsafe {
            let (s, m, l, alpha) = (s.add(lane), m.add(lane), l.add(lane), alpha.add(lane));
            let (panels, more) = match ((lanes - lane) / LANE_STEP, mask.is_null()) {
                (1, true) => (1, softmax_panels::<false, 1>(s, keys, bq, null(), m, l, alpha)),
                (2 | 3, true) => (2, softmax_panels::<false, 2>(s, keys, bq, null(), m, l, alpha)),
                (_, true) => (4, softmax_panels::<false, 4>(s, keys, bq, null(), m, l, alpha)),
                (1, false) => (1, softmax_panels::<true, 1>(s, keys, bq, mask.add(lane), m, l, alpha)),
                _ => (2, softmax_panels::<true, 2>(s, keys, bq, mask.add(lane), m, l, alpha)),
            };
            changed |= more;
            lane += panels * LANE_STEP;
        }
    }
    i64::from(changed)
}

/// [`softmax`] of `PANELS` panels, which wait for each other's latencies; the lanes, of any panel, whose factor is not 1.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn softmax_panels<const MASKED: bool, const PANELS: usize>(
    s: *mut f32,
    keys: usize,
    bq: usize,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> __mmask16 {
    let one = _mm512_set1_ps(1.0);
    // SAFETY: the caller gives `keys` rows of scores and as many elements of the others as the panels have lanes; masks if
    // there are any.
    unsafe {
        let mut masks = [PanelMask::NONE; PANELS];
        let mut old = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            if MASKED {
                masks[panel] = PanelMask::load(mask.add(panel * WIDTH));
            }
            old[panel] = _mm512_loadu_ps(m.add(panel * WIDTH));
        }
        let part = |panel: usize, half, key| if MASKED { masks[panel].of(half, key) } else { !0 };

        let mut top = old;
        for half in 0..2 {
            for key in half * 32..keys.min(half * 32 + 32) {
                for (panel, top) in top.iter_mut().enumerate() {
                    let s = _mm512_loadu_ps(s.add(key * bq + panel * WIDTH));
                    // A NaN is never the maximum: it reaches the row through its exponential.
                    *top = _mm512_mask_max_ps(*top, part(panel, half, key), s, *top);
                }
            }
        }

        // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
        let mut origin = top;
        for origin in &mut origin {
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(*origin, _mm512_set1_ps(f32::NEG_INFINITY));
            *origin = _mm512_maskz_mov_ps(some, *origin);
        }
        let mut total = [_mm512_setzero_ps(); PANELS];
        for half in 0..2 {
            // Halves are summed apart: half as many roundings one after the other.
            let mut sum = [_mm512_setzero_ps(); PANELS];
            for key in half * 32..keys.min(half * 32 + 32) {
                for (panel, sum) in sum.iter_mut().enumerate() {
                    let at = s.add(key * bq + panel * WIDTH);
                    let x = _mm512_sub_ps(_mm512_loadu_ps(at), origin[panel]);
                    let p = exp_nonpositive(x, part(panel, half, key));
                    _mm512_storeu_ps(at, p);
                    *sum = _mm512_add_ps(*sum, p);
                }
            }
            for (total, sum) in total.iter_mut().zip(sum) {
                *total = _mm512_add_ps(*total, sum);
            }
        }

        let mut changed = 0;
        for panel in 0..PANELS {
            let factor = exp_nonpositive(_mm512_sub_ps(old[panel], origin[panel]), !0);
            let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(old[panel], top[panel]);
            let factor = _mm512_mask_mov_ps(factor, same, one);
            let (m, l, alpha) = (m.add(panel * WIDTH), l.add(panel * WIDTH), alpha.add(panel * WIDTH));
            _mm512_storeu_ps(m, top[panel]);
            _mm512_storeu_ps(l, _mm512_fmadd_ps(_mm512_loadu_ps(l), factor, total[panel]));
            _mm512_storeu_ps(alpha, factor);
            changed |= _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(factor, one);
        }
        changed
    }
}

/// The masks of a panel as 32-bit lanes.
#[derive(Clone, Copy)]
struct PanelMask {
    /// `words[half]` holds the bits of keys `32 * half ..`.
    words: [__m512i; 2],
}

impl PanelMask {
    /// No key takes part.
    const NONE: PanelMask = {
        // SAFETY: zeros are a value of a vector.
        unsafe { core::mem::zeroed() }
    };

    /// # Safety
    /// `mask` is the address of 16 masks.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn load(mask: *const u64) -> PanelMask {
        // SAFETY: the caller gives 16 masks.
        let masks = unsafe { [_mm512_loadu_si512(mask.cast()), _mm512_loadu_si512(mask.add(8).cast())] };
        let halves = |[a, b]: [__m512i; 2]| {
            let a = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(a));
            _mm512_inserti64x4::<1>(a, _mm512_cvtepi64_epi32(b))
        };
        let upper = [_mm512_srli_epi64::<32>(masks[0]), _mm512_srli_epi64::<32>(masks[1])];
        PanelMask { words: [halves(masks), halves(upper)] }
    }

    /// The lanes that key `key`, of half `half`, takes part in.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    fn of(self, half: usize, key: usize) -> __mmask16 {
        _mm512_test_epi32_mask(self.words[half], _mm512_set1_epi32(1 << (key % 32)))
    }
}

/// `exp` of x <= 0 in the lanes of `keep`: at most 2 ulp off where the result is normal, 0 below (also for -inf), exactly
/// 1 at 0, NaN for NaN; 0 in the other lanes.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn exp_nonpositive(x: __m512, keep: __mmask16) -> __m512 {
    let set = |x: f32| _mm512_set1_ps(x);
    let biased = _mm512_fmadd_ps(x, set(core::f32::consts::LOG2_E), set(ROUND_BIASED));
    let n = _mm512_sub_ps(biased, set(ROUND_BIASED));
    let r = _mm512_fnmadd_ps(n, set(LN2_HI), x);
    let r = _mm512_fnmadd_ps(n, set(LN2_LO), r);
    let square = _mm512_mul_ps(r, r);
    let low = _mm512_fmadd_ps(set(EXP_M1[1]), r, set(EXP_M1[0]));
    let high = _mm512_fmadd_ps(set(EXP_M1[3]), r, set(EXP_M1[2]));
    let high = _mm512_fmadd_ps(set(EXP_M1[4]), square, high);
    let y = _mm512_fmadd_ps(_mm512_fmadd_ps(high, square, low), square, r);
    let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(biased)));
    // True for NaN, which passes.
    let some = _mm512_mask_cmp_ps_mask::<_CMP_NLT_UQ>(keep, x, set(EXP_FLUSH));
    _mm512_maskz_fmadd_ps(some, y, power, power)
}
