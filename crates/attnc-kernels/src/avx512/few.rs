//! Tiles of few queries, as AVX2's ([`crate::avx2::few`]): elements of a row side by side, in vectors of sixteen.
//!
//! The one idea: four queries by four rows of K, or by four vectors of V, fill sixteen accumulators, so that what is
//! computed stays well below what memory takes, conversion of f16 and bf16 included. A query's numbers are formed
//! in the same order whatever queries are beside it.
//!
//! The contract of each function is in [`crate::abi::Table`].

use core::arch::x86_64::*;

use super::{WIDTH, first, from_f16};
use crate::abi::{Ahead, BK, CACHE_LINE, DType, FEW};
use crate::avx2::few::{Asked, Stream};
use crate::scalar;
use crate::softmax::exp_nonpositive;
use crate::vector::{BF16, F16, F32, in_pairs, size};

/// Queries that share what has been read.
pub(super) const QUERIES: usize = 4;
/// Vectors of a row of V beside them.
const WIDE: usize = 4;
/// Keys whose values are read column by column, so that rows follow one another closely.
const GROUP: usize = 16;

/// The first `n` of sixteen elements of a type, then zeros.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
unsafe fn load<const T: u32>(at: *const u8, n: usize) -> __m512 {
    // SAFETY: the caller gives the address of `n` elements, or of sixteen; others are not read.
    unsafe {
        if T == F32 {
            return if n >= WIDTH { _mm512_loadu_ps(at.cast()) } else { _mm512_maskz_loadu_ps(first(n), at.cast()) };
        }
        let halves =
            if n >= WIDTH { _mm256_loadu_si256(at.cast()) } else { _mm256_maskz_loadu_epi16(first(n), at.cast()) };
        match T {
            F16 => from_f16(halves),
            _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))),
        }
    }
}

/// The sum of the lanes of each of sixteen vectors.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
pub(super) fn sums(x: [__m512; WIDTH]) -> __m512 {
    // Each step sums two halves of two vectors, and puts the second vector's beside the first's.
    let by_one = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let by_two = |a, b| {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    };
    let by_four =
        |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
    // After two steps each quarter holds sums of its own of four vectors.
    let four = |at: usize| by_two(by_one(x[at], x[at + 1]), by_one(x[at + 2], x[at + 3]));
    by_four(by_four(four(0), four(4)), by_four(four(8), four(12)))
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe extern "C" fn qk(
    q: *const f32,
    k: *const u8,
    dtype: i64,
    k_stride: i64,
    keys: i64,
    d: i64,
    lanes: i64,
    s: *mut f32,
    ahead: *const Ahead,
) {
    let rows = Rows { at: k, stride: k_stride as isize, keys: keys as usize, dim: d as usize };
    // SAFETY: as the caller promised.
    unsafe {
        let ahead = rows.stream(*ahead);
        match DType::of_code(dtype) {
            DType::F32 => rows.qk::<F32>(q, lanes as usize, s, ahead),
            DType::F16 => rows.qk::<F16>(q, lanes as usize, s, ahead),
            DType::Bf16 => rows.qk::<BF16>(q, lanes as usize, s, ahead),
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe extern "C" fn pv(
    p: *const f32,
    v: *const u8,
    dtype: i64,
    v_stride: i64,
    keys: i64,
    dv: i64,
    lanes: i64,
    mask: *const u64,
    alpha: *const f32,
    acc: *mut f32,
    ahead: *const Ahead,
) {
    let rows = Rows { at: v, stride: v_stride as isize, keys: keys as usize, dim: dv as usize };
    // SAFETY: as the caller promised.
    unsafe {
        let finite = mask.is_null()
            || match DType::of_code(dtype) {
                DType::F32 => rows.all_finite::<F32>(),
                DType::F16 => rows.all_finite::<F16>(),
                DType::Bf16 => rows.all_finite::<BF16>(),
            };
        if !finite {
            // A masked value must not be multiplied, not even by zero.
            return scalar::few_pv(p, v, dtype, v_stride, keys, dv, lanes, mask, alpha, acc, ahead);
        }
        let ahead = rows.stream(*ahead);
        match DType::of_code(dtype) {
            DType::F32 => rows.pv::<F32>(p, lanes as usize, alpha, acc, ahead),
            DType::F16 => rows.pv::<F16>(p, lanes as usize, alpha, acc, ahead),
            DType::Bf16 => rows.pv::<BF16>(p, lanes as usize, alpha, acc, ahead),
        }
    }
}

/// Rows of K or V.
#[derive(Clone, Copy)]
struct Rows {
    at: *const u8,
    stride: isize,
    keys: usize,
    dim: usize,
}

impl Rows {
    /// What to ask memory for.
    fn stream(self, next: Ahead) -> Stream {
        Stream::new(self.at, self.stride, self.keys, next)
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn qk<const T: u32>(self, q: *const f32, lanes: usize, s: *mut f32, ahead: Stream) {
        for lane in (0..lanes).step_by(QUERIES) {
            // SAFETY: lanes are within the sizes that the caller promised.
            unsafe {
                let (q, s) = (q.add(lane * self.dim), s.add(lane));
                // What comes next is asked for once.
                let ahead = if lane == 0 { ahead } else { ahead.nothing() };
                match lanes - lane {
                    1 => self.qk_lanes::<T, 1>(q, s, ahead),
                    2 => self.qk_lanes::<T, 2>(q, s, ahead),
                    3 => self.qk_lanes::<T, 3>(q, s, ahead),
                    _ => self.qk_lanes::<T, 4>(q, s, ahead),
                }
            }
        }
        if lanes <= QUERIES {
            for key in 0..self.keys {
                // SAFETY: the scores have room for [`FEW`] lanes.
                unsafe { _mm_storeu_ps(s.add(key * FEW + QUERIES), _mm_setzero_ps()) };
            }
        }
    }

    /// Scores of `LANES` queries, four keys at a time; of lanes up to the fourth, zeros.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn qk_lanes<const T: u32, const LANES: usize>(self, q: *const f32, s: *mut f32, ahead: Stream) {
        const KEYS: usize = 4;
        let line = CACHE_LINE / size::<T>();
        for first in (0..self.keys).step_by(KEYS) {
            // Beyond the last key it is read again.
            let row = |key: usize| self.at.wrapping_offset((first + key).min(self.keys - 1) as isize * self.stride);
            let rows: [*const u8; KEYS] = core::array::from_fn(row);
            let asked = ahead.beside(first);
            let mut sum = [[_mm512_setzero_ps(); QUERIES]; KEYS];
            // SAFETY: keys, lanes and elements are within the sizes that the caller promised.
            unsafe {
                let mut step = |i: usize, n: usize| {
                    let q: [__m512; LANES] =
                        core::array::from_fn(|lane| load::<F32>(q.wrapping_add(lane * self.dim + i).cast(), n));
                    for (row, sum) in rows.iter().zip(&mut sum) {
                        let k = load::<T>(row.wrapping_add(i * size::<T>()), n);
                        for (sum, q) in sum.iter_mut().zip(q) {
                            *sum = _mm512_fmadd_ps(k, q, *sum);
                        }
                    }
                };
                let soon = KEYS as isize * self.stride;
                let ask = |i: usize| asked.lines_beside(rows, soon, i * size::<T>());
                let mut i = 0;
                while i + line <= self.dim {
                    ask(i);
                    for j in (0..line).step_by(WIDTH) {
                        step(i + j, WIDTH);
                    }
                    i += line;
                }
                if i < self.dim {
                    ask(i);
                    while i < self.dim {
                        step(i, WIDTH.min(self.dim - i));
                        i += WIDTH;
                    }
                }
                let flat: [__m512; WIDTH] = core::array::from_fn(|i| sum[i / QUERIES][i % QUERIES]);
                let scores = sums(flat);
                let quarters = [
                    _mm512_castps512_ps128(scores),
                    _mm512_extractf32x4_ps::<1>(scores),
                    _mm512_extractf32x4_ps::<2>(scores),
                    _mm512_extractf32x4_ps::<3>(scores),
                ];
                for (key, four) in quarters.into_iter().enumerate().take(self.keys - first) {
                    _mm_storeu_ps(s.add((first + key) * FEW), four);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn pv<const T: u32>(self, p: *const f32, lanes: usize, alpha: *const f32, acc: *mut f32, ahead: Stream) {
        for first in (0..self.keys).step_by(GROUP) {
            let at = self.at.wrapping_offset(first as isize * self.stride);
            let group = Rows { at, keys: GROUP.min(self.keys - first), ..self };
            let alpha = if first == 0 { alpha } else { core::ptr::null() };
            let asked = ahead.beside(first);
            for lane in (0..lanes).step_by(QUERIES) {
                // SAFETY: keys and lanes are within the sizes that the caller promised.
                unsafe {
                    let (p, acc) = (p.add(first * FEW + lane), acc.add(lane * self.dim));
                    let alpha = if alpha.is_null() { alpha } else { alpha.add(lane) };
                    // What comes next is asked for once.
                    let asked = if lane == 0 { asked } else { Asked { at, stride: self.stride } };
                    match lanes - lane {
                        1 => group.pv_lanes::<T, 1>(p, alpha, acc, asked),
                        2 => group.pv_lanes::<T, 2>(p, alpha, acc, asked),
                        3 => group.pv_lanes::<T, 3>(p, alpha, acc, asked),
                        _ => group.pv_lanes::<T, 4>(p, alpha, acc, asked),
                    }
                }
            }
        }
    }

    /// All dims of `LANES` queries, [`WIDE`] vectors at a time and then one.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn pv_lanes<const T: u32, const LANES: usize>(
        self,
        p: *const f32,
        alpha: *const f32,
        acc: *mut f32,
        asked: Asked,
    ) {
        let mut dim = 0;
        while dim < self.dim {
            // SAFETY: dims are within the sizes that the caller promised.
            unsafe {
                if dim + WIDE * WIDTH <= self.dim {
                    self.pv_block::<T, LANES, WIDE>(p, alpha, acc, dim, WIDTH, asked);
                    dim += WIDE * WIDTH;
                } else {
                    self.pv_block::<T, LANES, 1>(p, alpha, acc, dim, WIDTH.min(self.dim - dim), asked);
                    dim += WIDTH;
                }
            }
        }
    }

    /// Dims from `dim` on, `WIDE` vectors of `n` elements each.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn pv_block<const T: u32, const LANES: usize, const WIDE: usize>(
        self,
        p: *const f32,
        alpha: *const f32,
        acc: *mut f32,
        dim: usize,
        n: usize,
        asked: Asked,
    ) {
        let mut sum = [[_mm512_setzero_ps(); WIDE]; LANES];
        // SAFETY: keys, lanes and dims are within the sizes that the caller promised.
        unsafe {
            let mut row = self.at.wrapping_add(dim * size::<T>());
            for key in 0..self.keys {
                asked.lines(key, dim * size::<T>(), WIDE * WIDTH * size::<T>());
                let v: [__m512; WIDE] =
                    core::array::from_fn(|i| load::<T>(row.wrapping_add(i * WIDTH * size::<T>()), n));
                for (lane, sum) in sum.iter_mut().enumerate() {
                    let p = _mm512_set1_ps(*p.add(key * FEW + lane));
                    for (sum, v) in sum.iter_mut().zip(v) {
                        *sum = _mm512_fmadd_ps(v, p, *sum);
                    }
                }
                row = row.wrapping_offset(self.stride);
            }
            for (lane, sum) in sum.into_iter().enumerate() {
                let factor = _mm512_set1_ps(if alpha.is_null() { 1.0 } else { *alpha.add(lane) });
                for (i, sum) in sum.into_iter().enumerate() {
                    let at = acc.add(lane * self.dim + dim + i * WIDTH);
                    let new = _mm512_fmadd_ps(load::<F32>(at.cast(), n), factor, sum);
                    if n >= WIDTH {
                        _mm512_storeu_ps(at, new);
                    } else {
                        _mm512_mask_storeu_ps(at, first(n), new);
                    }
                }
            }
        }
    }

    /// Whether neither infinities nor NaN are among the elements.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    unsafe fn all_finite<const T: u32>(self) -> bool {
        // 0 x is 0 for finite x only, and a sum with NaN stays NaN.
        let mut sum = _mm512_setzero_ps();
        for key in 0..self.keys {
            for dim in (0..self.dim).step_by(WIDTH) {
                let at = self.at.wrapping_offset(key as isize * self.stride).wrapping_add(dim * size::<T>());
                // SAFETY: keys and dims are within the sizes that the caller promised.
                let x = unsafe { load::<T>(at, self.dim - dim) };
                sum = _mm512_fmadd_ps(x, _mm512_setzero_ps(), sum);
            }
        }
        _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sum, sum) == 0
    }
}

/// Scores of keys: with `HALF` four queries of four keys are a vector, else eight of two.
#[derive(Clone, Copy)]
struct Scores<const MASKED: bool, const HALF: bool> {
    s: *mut f32,
    /// The masks' bits of keys `32 * half ..`, of the queries of a vector, each shifted by its key's place there.
    words: [__m512i; 2],
}

impl<const MASKED: bool, const HALF: bool> Scores<MASKED, HALF> {
    /// Queries and keys of a vector.
    const QUERIES: usize = if HALF { QUERIES } else { FEW };
    const STEP: usize = WIDTH / Self::QUERIES;

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    fn new(s: *mut f32, masks: [u64; FEW]) -> Self {
        let words = core::array::from_fn(|half| {
            let word = |i: usize| (masks[i % Self::QUERIES] >> (half * BK / 2 + i / Self::QUERIES)) as i32;
            let words: [i32; WIDTH] = core::array::from_fn(word);
            // SAFETY: sixteen words.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        });
        Scores { s, words }
    }

    /// The vector of `n` keys that begins with key `key`; zeros for other keys.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn load(self, key: usize, n: usize) -> __m512 {
        // SAFETY: the caller promised these rows.
        unsafe {
            let at = self.s.add(key * FEW);
            let pair = _mm512_maskz_loadu_ps(first(n * FEW), at);
            if !HALF {
                return pair;
            }
            let next = _mm512_maskz_loadu_ps(first((n * FEW).saturating_sub(WIDTH)), at.wrapping_add(WIDTH));
            let index = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
            _mm512_permutex2var_ps(pair, index, next)
        }
    }

    /// Writes it back.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn store(self, key: usize, n: usize, x: __m512) {
        // SAFETY: as in `load`.
        unsafe {
            let at = self.s.add(key * FEW);
            let (mut pair, mut next) = (x, x);
            if HALF {
                pair = _mm512_shuffle_f32x4::<0b01_01_00_00>(x, x);
                next = _mm512_shuffle_f32x4::<0b11_11_10_10>(x, x);
            }
            _mm512_mask_storeu_ps(at, first(n * FEW), pair);
            if HALF {
                _mm512_mask_storeu_ps(at.wrapping_add(WIDTH), first((n * FEW).saturating_sub(WIDTH)), next);
            }
        }
    }

    /// Where `n` keys from `key` on are attended to.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    fn attended(self, key: usize, n: usize) -> __mmask16 {
        let present = first(n * Self::QUERIES);
        if !MASKED {
            return present;
        }
        // A vector's keys are in one half: it begins with a multiple of their number.
        let words = _mm512_srl_epi32(self.words[key / 32], _mm_cvtsi32_si128((key % 32) as i32));
        _mm512_mask_test_epi32_mask(present, words, _mm512_set1_epi32(1))
    }
}

/// `op` of all vectors' parts that belong to one query, in each of them: neighbouring keys first.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn across<const HALF: bool>(x: [__m512; 2], op: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let halves = |x| _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x);
    if HALF {
        let x = op(x[0], _mm512_shuffle_f32x4::<0b10_11_00_01>(x[0], x[0]));
        return op(x, halves(x));
    }
    op(op(x[0], halves(x[0])), op(x[1], halves(x[1])))
}

/// The softmax step of a tile of few queries; the lanes whose factor is not 1. While it computes nothing is asked of memory,
/// so that it has to be short.
///
/// # Safety
/// `keys` rows of [`FEW`] scores, and [`FEW`] elements of the others.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn softmax_of<const MASKED: bool, const HALF: bool>(
    s: *mut f32,
    keys: usize,
    masks: [u64; FEW],
    m: *mut f32,
    l: *mut f32,
    alpha: *mut f32,
) -> u32 {
    let scores = Scores::<MASKED, HALF>::new(s, masks);
    let step = Scores::<MASKED, HALF>::STEP;
    // SAFETY: as the caller promised.
    unsafe {
        let old = _mm256_loadu_ps(m);
        let old = _mm512_broadcast_f32x8(if HALF { _mm256_permute2f128_ps::<0x00>(old, old) } else { old });
        let mut tops = [old; 2];
        let mut raise = |key: usize, n: usize| {
            // A NaN is never the maximum: it reaches the row through its exponential.
            let top = &mut tops[key / step % 2];
            *top = _mm512_mask_max_ps(*top, scores.attended(key, n), scores.load(key, n), *top);
        };
        in_pairs!(raise, keys, step);
        // Of eight queries both vectors belong to the same, of four one does for its keys alone.
        let both = _mm512_max_ps(tops[0], tops[1]);
        let top = across::<HALF>([both; 2], |a, b| _mm512_max_ps(a, b));
        // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
        let none = _mm512_set1_ps(f32::NEG_INFINITY);
        let origin = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(top, none), top);
        let moved = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(old, top);
        let factor = exp_nonpositive(_mm512_sub_ps(old, origin), None);
        let factor = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), moved, factor);
        // Of four queries each quarter sums keys of its own; of eight, each half of two vectors does.
        let mut sums = [_mm512_setzero_ps(); 2];
        let mut weigh = |key: usize, n: usize| {
            let p = exp_nonpositive(_mm512_sub_ps(scores.load(key, n), origin), Some(scores.attended(key, n)));
            scores.store(key, n, p);
            let sum = &mut sums[if HALF { 0 } else { key / step % 2 }];
            *sum = _mm512_add_ps(*sum, p);
        };
        in_pairs!(weigh, keys, step);
        let sum = across::<HALF>(sums, |a, b| _mm512_add_ps(a, b));
        let low = |x| _mm512_castps512_ps256(x);
        _mm256_storeu_ps(m, low(top));
        _mm256_storeu_ps(l, _mm256_fmadd_ps(_mm256_loadu_ps(l), low(factor), low(sum)));
        _mm256_storeu_ps(alpha, low(factor));
        u32::from(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(factor, _mm512_set1_ps(1.0)))
    }
}
