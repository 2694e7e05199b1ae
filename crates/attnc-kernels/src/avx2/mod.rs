//! The kernels for AVX2, FMA and F16C.
//!
//! The one idea: queries are lanes, and a block of accumulators never leaves the registers. `qk` forms
//! 6 keys x 16 queries in twelve registers, reading 2 vectors of Q and broadcasting 6 elements of K a step; `pv` forms
//! 6 value dims x 16 queries the same way, with the reduction over keys. Twelve independent accumulators cover
//! the latency of two fused multiply-adds a cycle, and 8 loads a step stay below the load ports' limit.
//! Outer loops go over panels of 16 queries, so that a panel of Q (or P) and the tile's rows stay in the first-level cache.
//!
//! A tile's contribution is summed apart and then added to the accumulator, so that the error
//! grows with the number of tiles and not of keys.
//!
//! The contract of each function is in [`crate::abi::Table`]; addresses of rows are [`crate::tensor`]'s concern.

use core::arch::x86_64::*;
use core::ptr::null;

use crate::abi::{FEW, LANE_STEP, Table};
use crate::tensor::packed;
use crate::{count, scalar};

pub(crate) mod few;
pub(crate) mod math;
pub(crate) mod rows;

use math::exp_nonpositive;

/// The table of these kernels. What touches one lane, or is a fill, is the scalar version's.
pub(crate) const TABLE: Table = Table {
    pack_q: rows::pack_q,
    kv_tile: rows::kv_tile,
    qk,
    few_qk: few::qk,
    few_pv: few::pv,
    softmax,
    pv,
    null_slot: scalar::null_slot,
    start: scalar::start,
    finish: rows::finish,
    pool_sum: crate::select::avx2::pool_sum,
    pool_max: crate::select::avx2::pool_max,
    keep: crate::select::avx2::keep,
    reduce: crate::select::avx2::reduce,
};

/// Singles in a vector.
const WIDTH: usize = 8;
/// Rows (keys or value dims) of a register block.
const BLOCK: usize = 6;
/// Value dims that are finished for all queries before the next: whole cache lines of V's rows, few
/// enough for them and P to share the first-level cache.
const DIM_CHUNK: usize = 8 * BLOCK;
/// Singles in a cache line.
const CACHE_LINE: usize = 16;

/// Two vectors: one panel of queries.
type Panel = [__m256; 2];
const _: () = assert!(LANE_STEP == 2 * WIDTH);

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load_panel(at: *const f32) -> Panel {
    // SAFETY: the caller gives the address of 16 elements.
    unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(WIDTH))] }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn store_panel(at: *mut f32, x: Panel) {
    // SAFETY: the caller gives the address of 16 elements.
    unsafe {
        _mm256_storeu_ps(at, x[0]);
        _mm256_storeu_ps(at.add(WIDTH), x[1]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
    let (keys, d, bq, stride) = (keys as usize, d as usize, bq as usize, k_stride as isize);
    for panel in (0..lanes as usize).step_by(LANE_STEP) {
        let mut key = 0;
        while key < keys {
            let block = block(keys - key);
            let next = k.wrapping_offset((keys + key) as isize * stride);
            prefetch(next, stride, block, d, panel / LANE_STEP, lanes as usize / LANE_STEP);
            // SAFETY: blocks cover keys and lanes within the sizes that the caller promised.
            unsafe {
                let (q, s) = (q.add(packed(panel, 0, d)), s.add(key * bq + panel));
                let k = k.offset(key as isize * stride);
                match block {
                    1 => qk_block::<1>(q, k, stride, d, bq, s),
                    2 => qk_block::<2>(q, k, stride, d, bq, s),
                    3 => qk_block::<3>(q, k, stride, d, bq, s),
                    4 => qk_block::<4>(q, k, stride, d, bq, s),
                    5 => qk_block::<5>(q, k, stride, d, bq, s),
                    _ => qk_block::<BLOCK>(q, k, stride, d, bq, s),
                }
            }
            key += block;
        }
    }
}

/// Rows of the next block when `left` are: the last two are alike, since small blocks leave units idle.
fn block(left: usize) -> usize {
    if left > BLOCK && left < 2 * BLOCK { left.div_ceil(2) } else { left.min(BLOCK) }
}

/// Brings share `share` of `shares` of the cache lines of `rows` rows of `dim` elements, line by line, to the
/// second-level cache. Each block asks so for a part of the tile that follows in memory, which is the next one more often
/// than not: the tile's order of reading, blocks of rows or of columns, is nothing that hardware foresees.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn prefetch(base: *const f32, stride: isize, rows: usize, dim: usize, share: usize, shares: usize) {
    for row in 0..rows {
        let row = base.wrapping_offset(row as isize * stride);
        let mut i = share * CACHE_LINE;
        while i < dim {
            _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(i).cast());
            i += shares * CACHE_LINE;
        }
    }
}

/// Scores of `KEYS` keys and one panel.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn qk_block<const KEYS: usize>(q: *const f32, k: *const f32, stride: isize, d: usize, bq: usize, s: *mut f32) {
    let mut sum = [[_mm256_setzero_ps(); 2]; KEYS];
    // SAFETY: the caller gives `d` rows of Q, `KEYS` rows of K and of S.
    unsafe {
        for i in 0..d {
            let q = load_panel(q.add(i * LANE_STEP));
            for (key, sum) in sum.iter_mut().enumerate() {
                let k = _mm256_broadcast_ss(&*k.offset(key as isize * stride + i as isize));
                sum[0] = _mm256_fmadd_ps(k, q[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(k, q[1], sum[1]);
            }
        }
        for (key, sum) in sum.into_iter().enumerate() {
            store_panel(s.add(key * bq), sum);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
        let panels = lanes / LANE_STEP;
        for chunk in (0..dv).step_by(DIM_CHUNK) {
            let end = dv.min(chunk + DIM_CHUNK);
            // Each panel of queries asks for a part of the keys that follow, each block of it for a few of them.
            let few = keys.div_ceil(panels * (end - chunk).div_ceil(BLOCK));
            let mut next = v.wrapping_offset(keys as isize * stride).wrapping_add(chunk);
            for panel in (0..lanes).step_by(LANE_STEP) {
                let factor = load_factor(alpha, panel);
                let p = p.add(panel);
                let mut dim = chunk;
                while dim < end {
                    prefetch(next, stride, few, end - chunk, 0, 1);
                    next = next.wrapping_offset(few as isize * stride);
                    let (v, acc) = (v.add(dim), acc.add(packed(panel, dim, dv)));
                    let block = block(end - dim);
                    match block {
                        1 => pv_block::<1>(p, v, stride, keys, bq, factor, acc),
                        2 => pv_block::<2>(p, v, stride, keys, bq, factor, acc),
                        3 => pv_block::<3>(p, v, stride, keys, bq, factor, acc),
                        4 => pv_block::<4>(p, v, stride, keys, bq, factor, acc),
                        5 => pv_block::<5>(p, v, stride, keys, bq, factor, acc),
                        _ => pv_block::<BLOCK>(p, v, stride, keys, bq, factor, acc),
                    }
                    dim += block;
                }
            }
        }
    }
}

/// `DIMS` dims of one panel: `acc = acc * factor + sum over keys`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn pv_block<const DIMS: usize>(
    p: *const f32,
    v: *const f32,
    stride: isize,
    keys: usize,
    bq: usize,
    factor: Panel,
    acc: *mut f32,
) {
    let mut sum = [[_mm256_setzero_ps(); 2]; DIMS];
    // SAFETY: the caller gives `keys` rows of P and of V (`DIMS` elements of each), and `DIMS` rows of the accumulator.
    unsafe {
        for key in 0..keys {
            let p = load_panel(p.add(key * bq));
            let row = v.offset(key as isize * stride);
            for (dim, sum) in sum.iter_mut().enumerate() {
                let v = _mm256_broadcast_ss(&*row.add(dim));
                sum[0] = _mm256_fmadd_ps(v, p[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(v, p[1], sum[1]);
            }
        }
        for (dim, sum) in sum.into_iter().enumerate() {
            add_scaled(acc.add(dim * LANE_STEP), factor, sum);
        }
    }
}

/// Whether the tile of V holds neither infinities nor NaN.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn all_finite(v: *const f32, stride: isize, keys: usize, dv: usize) -> bool {
    // 0 x is 0 for finite x only, and a sum with NaN stays NaN.
    let zero = _mm256_setzero_ps();
    let mut sum = [zero; 4];
    let mut tail = 0.0f32;
    for key in 0..keys {
        // SAFETY: the caller gives `keys` rows of `dv` elements.
        unsafe {
            let row = v.offset(key as isize * stride);
            let mut i = 0;
            while i + 4 * WIDTH <= dv {
                for (lane, sum) in sum.iter_mut().enumerate() {
                    *sum = _mm256_fmadd_ps(_mm256_loadu_ps(row.add(i + lane * WIDTH)), zero, *sum);
                }
                i += 4 * WIDTH;
            }
            while i + WIDTH <= dv {
                sum[0] = _mm256_fmadd_ps(_mm256_loadu_ps(row.add(i)), zero, sum[0]);
                i += WIDTH;
            }
            for i in i..dv {
                tail += 0.0 * *row.add(i);
            }
        }
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(sum, sum);
    _mm256_movemask_ps(nan) == 0 && !tail.is_nan()
}

/// [`pv`] where a masked value must not be multiplied, not even by zero. For values that are not finite, thus rare.
#[target_feature(enable = "avx2,fma,f16c")]
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
                let mut sum = [_mm256_setzero_ps(); 2];
                for half in 0..2 {
                    let keys = half * 32..keys.min(half * 32 + 32);
                    let mut bits = mask.last(half, keys.len());
                    for key in keys.rev() {
                        let v = _mm256_broadcast_ss(&*v.offset(key as isize * stride + dim as isize));
                        let v = pick([v; 2], &mut bits, _mm256_setzero_ps());
                        let p = load_panel(p.add(key * bq + panel));
                        sum = [_mm256_fmadd_ps(v[0], p[0], sum[0]), _mm256_fmadd_ps(v[1], p[1], sum[1])];
                    }
                }
                add_scaled(acc.add(packed(panel, dim, dv)), factor, sum);
            }
        }
    }
}

/// The factors of a panel; ones if there are none.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load_factor(alpha: *const f32, panel: usize) -> Panel {
    // SAFETY: the caller gives null, or the factors of this panel.
    if alpha.is_null() { [_mm256_set1_ps(1.0); 2] } else { unsafe { load_panel(alpha.add(panel)) } }
}

/// `acc = acc * factor + sum` of one dim.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn add_scaled(acc: *mut f32, factor: Panel, sum: Panel) {
    // SAFETY: the caller gives the address of 16 elements.
    unsafe {
        let old = load_panel(acc);
        store_panel(acc, [_mm256_fmadd_ps(old[0], factor[0], sum[0]), _mm256_fmadd_ps(old[1], factor[1], sum[1])]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
        // SAFETY: as the caller promised.
        return unsafe { few::softmax(s, keys, lanes, mask, m, l, alpha) };
    }
    let (keys, bq) = (keys as usize, bq as usize);
    let mut rescale = 0;
    for panel in (0..lanes as usize).step_by(LANE_STEP) {
        // SAFETY: keys and lanes are within the sizes that the caller promised.
        unsafe {
            let (m, l, alpha) = (m.add(panel), l.add(panel), alpha.add(panel));
            let changed = if mask.is_null() {
                softmax_panel::<false>(s.add(panel), keys, bq, null(), m, l, alpha)
            } else {
                softmax_panel::<true>(s.add(panel), keys, bq, mask.add(panel), m, l, alpha)
            };
            rescale |= i64::from(changed);
        }
    }
    rescale
}

/// [`softmax`] of one panel; whether a factor is not 1.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn softmax_panel<const MASKED: bool>(
    s: *mut f32,
    keys: usize,
    bq: usize,
    mask: *const u64,
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> bool {
    // SAFETY: the caller gives `keys` rows of scores, 16 masks if there are any, and 16 elements of the others.
    unsafe {
        let mask = PanelMask::load(mask);
        let old = load_panel(m);
        let top = maximum::<MASKED>(s, keys, bq, mask, old);
        store_panel(m, top);
        let (origin, factor) = origin_and_factor(old, top);
        let sum = exponentials::<MASKED>(s, keys, bq, mask, origin);
        let old = load_panel(l);
        store_panel(l, [_mm256_fmadd_ps(old[0], factor[0], sum[0]), _mm256_fmadd_ps(old[1], factor[1], sum[1])]);
        store_panel(alpha, factor);
        let one = _mm256_set1_ps(1.0);
        let changed = [_mm256_cmp_ps::<_CMP_NEQ_UQ>(factor[0], one), _mm256_cmp_ps::<_CMP_NEQ_UQ>(factor[1], one)];
        _mm256_movemask_ps(_mm256_or_ps(changed[0], changed[1])) != 0
    }
}

/// The masks of a panel. Blends look at signs of lanes, so the masks are kept as 32-bit lanes, whose bits a shift
/// brings to the sign one key after the other, from the last to the first.
#[derive(Clone, Copy)]
struct PanelMask {
    /// `words[half]` holds the bits of keys `32 * half ..`.
    words: [[__m256i; 2]; 2],
}

impl PanelMask {
    /// # Safety
    /// `mask` is null or the address of 16 masks.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(mask: *const u64) -> PanelMask {
        if mask.is_null() {
            return PanelMask { words: [[_mm256_set1_epi32(-1); 2]; 2] };
        }
        let [mut low_words, mut high_words] = [[_mm256_setzero_si256(); 2]; 2];
        for (lanes, (low_words, high_words)) in low_words.iter_mut().zip(&mut high_words).enumerate() {
            // SAFETY: the caller gives 16 masks.
            let (a, b) = unsafe {
                let mask = mask.add(lanes * WIDTH);
                (_mm256_loadu_ps(mask.cast()), _mm256_loadu_ps(mask.add(4).cast()))
            };
            let low = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let high = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            // The shuffles worked in halves of 128 bits.
            *low_words = _mm256_castpd_si256(_mm256_permute4x64_pd::<0b11_01_10_00>(low));
            *high_words = _mm256_castpd_si256(_mm256_permute4x64_pd::<0b11_01_10_00>(high));
        }
        PanelMask { words: [low_words, high_words] }
    }

    /// The bits of key `32 * half + count - 1` in the signs.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn last(self, half: usize, count: usize) -> [__m256i; 2] {
        let shift = _mm_cvtsi32_si128(32 - count as i32);
        [_mm256_sll_epi32(self.words[half][0], shift), _mm256_sll_epi32(self.words[half][1], shift)]
    }
}

/// `x` where the signs of `bits` say so, else `absent`; moves the next lower bits to the signs.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pick(x: Panel, bits: &mut [__m256i; 2], absent: __m256) -> Panel {
    let signs = [_mm256_castsi256_ps(bits[0]), _mm256_castsi256_ps(bits[1])];
    *bits = [_mm256_slli_epi32::<1>(bits[0]), _mm256_slli_epi32::<1>(bits[1])];
    [_mm256_blendv_ps(absent, x[0], signs[0]), _mm256_blendv_ps(absent, x[1], signs[1])]
}

/// Maxima of a panel's scores and `top`. A NaN is never the maximum: it reaches the row through its exponential.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn maximum<const MASKED: bool>(s: *const f32, keys: usize, bq: usize, mask: PanelMask, mut top: Panel) -> Panel {
    for half in 0..2 {
        let keys = half * 32..keys.min(half * 32 + 32);
        let mut bits = mask.last(half, keys.len());
        for key in keys.rev() {
            // SAFETY: the caller gives the rows of these scores.
            let mut s = unsafe { load_panel(s.add(key * bq)) };
            if MASKED {
                s = pick(s, &mut bits, _mm256_set1_ps(f32::NEG_INFINITY));
            }
            top = [_mm256_max_ps(s[0], top[0]), _mm256_max_ps(s[1], top[1])];
        }
    }
    top
}

/// From the old and new maxima: what to subtract from scores, and the factor for what was summed before.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn origin_and_factor(old: Panel, new: Panel) -> (Panel, Panel) {
    let (one, none) = (_mm256_set1_ps(1.0), _mm256_set1_ps(f32::NEG_INFINITY));
    // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
    let origin = [
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(new[0], none), new[0]),
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(new[1], none), new[1]),
    ];
    let factor = exp_nonpositive([_mm256_sub_ps(old[0], origin[0]), _mm256_sub_ps(old[1], origin[1])]);
    let factor = [
        _mm256_blendv_ps(factor[0], one, _mm256_cmp_ps::<_CMP_EQ_OQ>(old[0], new[0])),
        _mm256_blendv_ps(factor[1], one, _mm256_cmp_ps::<_CMP_EQ_OQ>(old[1], new[1])),
    ];
    (origin, factor)
}

/// Scores become exp(s - origin), masked ones 0; returns the sums over keys.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn exponentials<const MASKED: bool>(
    s: *mut f32,
    keys: usize,
    bq: usize,
    mask: PanelMask,
    origin: Panel,
) -> Panel {
    let mut total = [_mm256_setzero_ps(); 2];
    for half in 0..2 {
        // Halves are summed apart: half as many roundings one after the other.
        let mut sum = [_mm256_setzero_ps(); 2];
        let keys = half * 32..keys.min(half * 32 + 32);
        let mut bits = mask.last(half, keys.len());
        for key in keys.rev() {
            // SAFETY: the caller gives the rows of these scores.
            unsafe {
                let at = s.add(key * bq);
                let s = load_panel(at);
                let x = [_mm256_sub_ps(s[0], origin[0]), _mm256_sub_ps(s[1], origin[1])];
                let mut p = exp_nonpositive(x);
                if MASKED {
                    p = pick(p, &mut bits, _mm256_setzero_ps());
                }
                store_panel(at, p);
                sum = [_mm256_add_ps(sum[0], p[0]), _mm256_add_ps(sum[1], p[1])];
            }
        }
        total = [_mm256_add_ps(total[0], sum[0]), _mm256_add_ps(total[1], sum[1])];
    }
    total
}
