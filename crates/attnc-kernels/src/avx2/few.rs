//! Tiles of few queries: the elements of a row lie side by side in vectors, not the queries.
//!
//! The one idea: with a handful of queries the time is that of reading K and V once, so that every element is
//! converted in registers, used for four queries at a time, and rows that come next are asked for all the while.
//! Eight accumulators cover the latency of two multiply-adds a cycle; `qk` sums their lanes in one tree of eight.
//! A query's numbers are formed in the same order whatever queries are beside it.
//!
//! The contract of each function is in [`crate::abi::Table`].

use core::arch::x86_64::*;

use super::WIDTH;
use super::math::exp_nonpositive;
use crate::abi::{Ahead, BK, CACHE_LINE, DType, FEW};
use crate::scalar;
use crate::vector::{BF16, F16, F32, in_pairs, size};

const _: () = assert!(FEW == WIDTH);
/// Queries that share what has been read.
pub(super) const QUERIES: usize = 4;
/// Accumulators of a block.
const SUMS: usize = 8;

/// Eight elements of a type.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load<const T: u32>(at: *const u8) -> __m256 {
    // SAFETY: the caller gives the address of 8 elements.
    unsafe {
        match T {
            F32 => _mm256_loadu_ps(at.cast()),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
            _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))),
        }
    }
}

/// The first `n` of them, then zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn load_some<const T: u32>(at: *const u8, n: usize) -> __m256 {
    let mut bytes = [0_u8; WIDTH * 4];
    // SAFETY: the caller gives the address of `n` elements, fewer than 8.
    unsafe {
        core::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n * size::<T>());
        load::<T>(bytes.as_ptr())
    }
}

/// Rows between the one that is read and the one that is asked for: more than memory's latency lets pass.
const DISTANCE: usize = 32;
/// Keys whose values are read column by column, so that rows follow one another closely.
const GROUP: usize = 16;

/// The rows of a tile and those that come next, asked for evenly while the tile is computed: a burst would wait for
/// itself, and a pause leaves memory idle.
///
/// What is asked for follows from what is read, so that a loop holds an address and no state. Addresses are never read
/// from; beside rows after which nothing comes, the rows themselves are asked for, which costs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    at: *const u8,
    stride: isize,
    keys: usize,
    next: Ahead,
}

/// Rows to ask for while others are read.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) at: *const u8,
    pub(crate) stride: isize,
}

impl Stream {
    /// For a tile of `keys` rows; the first of them, as many as the tile before has and at most [`DISTANCE`], were asked
    /// for with that.
    pub(crate) fn new(at: *const u8, stride: isize, keys: usize, next: Ahead) -> Stream {
        Stream { at, stride, keys, next }
    }

    /// For a tile that has been asked for already.
    pub(crate) fn nothing(self) -> Stream {
        Stream { keys: 0, next: Ahead { rows: 0, ..self.next }, ..self }
    }

    /// What to ask for while the rows from `first` on are read.
    pub(crate) fn beside(&self, first: usize) -> Asked {
        let row = first + DISTANCE.min(self.keys);
        let from = |at: *const u8, stride: isize, row| Asked {
            at: at.wrapping_offset((row as isize).wrapping_mul(stride)),
            stride,
        };
        if row < self.keys {
            return from(self.at, self.stride, row);
        }
        let row = row - self.keys;
        if row < self.next.rows as usize {
            return from(self.next.at, self.next.stride as isize, row);
        }
        from(self.at, self.stride, first)
    }
}

impl Asked {
    /// Asks for the line at `byte` of the `row`-th row.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn line(self, row: usize, byte: usize) {
        // To the second-level cache: what the first one waits for at once is few lines.
        _mm_prefetch::<_MM_HINT_T1>(
            self.at.wrapping_offset((row as isize).wrapping_mul(self.stride)).wrapping_add(byte).cast(),
        );
    }

    /// Asks for the lines of `bytes` bytes of a row from `byte` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(crate) fn lines(self, row: usize, byte: usize, bytes: usize) {
        (0..bytes.div_ceil(CACHE_LINE)).for_each(|line| self.line(row, byte + line * CACHE_LINE));
    }

    /// Asks for the line at `byte` of a row for each of `rows`, and for that of the row `soon` bytes after each, which is
    /// multiplied in a moment: multiply-adds that wait for the second-level cache leave no room for what else could be
    /// asked for.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(crate) fn lines_beside<const KEYS: usize>(self, rows: [*const u8; KEYS], soon: isize, byte: usize) {
        for (key, row) in rows.into_iter().enumerate() {
            self.line(key, byte);
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_offset(soon).wrapping_add(byte).cast());
        }
    }
}

/// Sums of the lanes of eight vectors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums(x: [__m256; SUMS]) -> __m256 {
    let pair = |a, b| _mm256_hadd_ps(a, b);
    let low = pair(pair(x[0], x[1]), pair(x[2], x[3]));
    let high = pair(pair(x[4], x[5]), pair(x[6], x[7]));
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
}

#[target_feature(enable = "avx2,fma,f16c")]
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
    let (keys, d, lanes, stride) = (keys as usize, d as usize, lanes as usize, k_stride as isize);
    // SAFETY: as the caller promised.
    unsafe {
        let ahead = Stream::new(k, stride, keys, *ahead);
        match DType::of_code(dtype) {
            DType::F32 => qk_of::<F32>(q, k, stride, keys, d, lanes, s, ahead),
            DType::F16 => qk_of::<F16>(q, k, stride, keys, d, lanes, s, ahead),
            DType::Bf16 => qk_of::<BF16>(q, k, stride, keys, d, lanes, s, ahead),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "those of the contract")]
unsafe fn qk_of<const T: u32>(
    q: *const f32,
    k: *const u8,
    stride: isize,
    keys: usize,
    d: usize,
    lanes: usize,
    s: *mut f32,
    ahead: Stream,
) {
    for lane in (0..lanes).step_by(QUERIES) {
        // SAFETY: lanes are within the sizes that the caller promised.
        unsafe {
            let (q, s) = (q.add(lane * d), s.add(lane));
            // What comes next is asked for once.
            let asked = if lane == 0 { ahead } else { ahead.nothing() };
            match lanes - lane {
                1 => qk_lanes::<T, 1, 4>(q, k, stride, keys, d, s, asked),
                2 => qk_lanes::<T, 2, 4>(q, k, stride, keys, d, s, asked),
                3 => qk_lanes::<T, 3, 2>(q, k, stride, keys, d, s, asked),
                _ => qk_lanes::<T, 4, 2>(q, k, stride, keys, d, s, asked),
            }
        }
    }
    if lanes <= QUERIES {
        for key in 0..keys {
            // SAFETY: the scores have room for [`FEW`] lanes.
            unsafe { _mm_storeu_ps(s.add(key * FEW + QUERIES), _mm_setzero_ps()) };
        }
    }
}

/// Scores of `LANES` queries, `KEYS` keys at a time; of lanes up to the fourth, zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
#[allow(clippy::too_many_arguments, reason = "those of the contract")]
unsafe fn qk_lanes<const T: u32, const LANES: usize, const KEYS: usize>(
    q: *const f32,
    k: *const u8,
    stride: isize,
    keys: usize,
    d: usize,
    s: *mut f32,
    ahead: Stream,
) {
    let line = CACHE_LINE / size::<T>();
    for first in (0..keys).step_by(KEYS) {
        // Beyond the last key it is read again.
        let row = |key: usize| k.wrapping_offset((first + key).min(keys - 1) as isize * stride);
        let rows: [*const u8; KEYS] = core::array::from_fn(row);
        let asked = ahead.beside(first);
        let mut sum = [[_mm256_setzero_ps(); KEYS]; LANES];
        // SAFETY: keys, lanes and elements are within the sizes that the caller promised.
        unsafe {
            let mut step = |i: usize, n: usize| {
                let k: [__m256; KEYS] = core::array::from_fn(|key| {
                    let at = rows[key].wrapping_add(i * size::<T>());
                    if n == WIDTH { load::<T>(at) } else { load_some::<T>(at, n) }
                });
                for (lane, sum) in sum.iter_mut().enumerate() {
                    let at = q.add(lane * d + i).cast();
                    let q = if n == WIDTH { load::<F32>(at) } else { load_some::<F32>(at, n) };
                    for (sum, k) in sum.iter_mut().zip(k) {
                        *sum = _mm256_fmadd_ps(k, q, *sum);
                    }
                }
            };
            let soon = 2 * KEYS as isize * stride;
            let ask = |i: usize| asked.lines_beside(rows, soon, i * size::<T>());
            let mut i = 0;
            while i + line <= d {
                ask(i);
                for j in (0..line).step_by(WIDTH) {
                    step(i + j, WIDTH);
                }
                i += line;
            }
            if i < d {
                ask(i);
                while i < d {
                    step(i, WIDTH.min(d - i));
                    i += WIDTH;
                }
            }
            store_scores(sum, s.add(first * FEW), keys - first);
        }
    }
}

/// Stores the sums of lanes of `left` keys at most, four lanes each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn store_scores<const LANES: usize, const KEYS: usize>(sum: [[__m256; KEYS]; LANES], s: *mut f32, left: usize) {
    let per = SUMS / KEYS;
    let mut flat = [_mm256_setzero_ps(); SUMS];
    for (lane, sum) in sum.into_iter().enumerate() {
        for (key, sum) in sum.into_iter().enumerate() {
            flat[key * per + lane] = sum;
        }
    }
    let scores = sums(flat);
    // SAFETY: the caller gives room for four lanes of each of the `left` keys.
    unsafe {
        if per == QUERIES {
            _mm_storeu_ps(s, _mm256_castps256_ps128(scores));
            if left > 1 {
                _mm_storeu_ps(s.add(FEW), _mm256_extractf128_ps::<1>(scores));
            }
            return;
        }
        let mut all = [0.0f32; SUMS];
        _mm256_storeu_ps(all.as_mut_ptr(), scores);
        for key in 0..KEYS.min(left) {
            let mut four = [0.0f32; QUERIES];
            four[..LANES].copy_from_slice(&all[key * per..key * per + LANES]);
            s.add(key * FEW).cast::<[f32; QUERIES]>().write(four);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
    let values = Values { v, stride: v_stride as isize, keys: keys as usize, dv: dv as usize };
    // SAFETY: as the caller promised.
    unsafe {
        let finite = mask.is_null()
            || match DType::of_code(dtype) {
                DType::F32 => values.all_finite::<F32>(),
                DType::F16 => values.all_finite::<F16>(),
                DType::Bf16 => values.all_finite::<BF16>(),
            };
        if !finite {
            // A masked value must not be multiplied, not even by zero.
            return scalar::few_pv(p, v, dtype, v_stride, keys, dv, lanes, mask, alpha, acc, ahead);
        }
        let lanes = lanes as usize;
        let ahead = Stream::new(v, values.stride, values.keys, *ahead);
        match DType::of_code(dtype) {
            DType::F32 => values.pv::<F32>(p, lanes, alpha, acc, ahead),
            DType::F16 => values.pv::<F16>(p, lanes, alpha, acc, ahead),
            DType::Bf16 => values.pv::<BF16>(p, lanes, alpha, acc, ahead),
        }
    }
}

/// Rows of V.
#[derive(Clone, Copy)]
struct Values {
    v: *const u8,
    stride: isize,
    keys: usize,
    dv: usize,
}

impl Values {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pv<const T: u32>(self, p: *const f32, lanes: usize, alpha: *const f32, acc: *mut f32, ahead: Stream) {
        for first in (0..self.keys).step_by(GROUP) {
            let v = self.v.wrapping_offset(first as isize * self.stride);
            let group = Values { v, keys: GROUP.min(self.keys - first), ..self };
            let alpha = if first == 0 { alpha } else { core::ptr::null() };
            // SAFETY: keys are within the sizes that the caller promised.
            unsafe { group.pv_group::<T>(p.add(first * FEW), lanes, alpha, acc, ahead.beside(first)) }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn pv_group<const T: u32>(
        self,
        p: *const f32,
        lanes: usize,
        alpha: *const f32,
        acc: *mut f32,
        asked: Asked,
    ) {
        for lane in (0..lanes).step_by(QUERIES) {
            // SAFETY: lanes are within the sizes that the caller promised.
            unsafe {
                let (p, acc) = (p.add(lane), acc.add(lane * self.dv));
                let alpha = if alpha.is_null() { alpha } else { alpha.add(lane) };
                // What comes next is asked for once.
                let asked = if lane == 0 { asked } else { Asked { at: self.v, stride: self.stride } };
                match lanes - lane {
                    1 => self.pv_lanes::<T, 1, 8>(p, alpha, acc, asked),
                    2 => self.pv_lanes::<T, 2, 4>(p, alpha, acc, asked),
                    3 => self.pv_lanes::<T, 3, 2>(p, alpha, acc, asked),
                    _ => self.pv_lanes::<T, 4, 2>(p, alpha, acc, asked),
                }
            }
        }
    }

    /// All dims of `LANES` queries, `WIDE` vectors at a time.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn pv_lanes<const T: u32, const LANES: usize, const WIDE: usize>(
        self,
        p: *const f32,
        alpha: *const f32,
        acc: *mut f32,
        asked: Asked,
    ) {
        let dv = self.dv;
        let mut dim = 0;
        // SAFETY: dims are within the sizes that the caller promised.
        unsafe {
            while dim + WIDE * WIDTH <= dv {
                self.pv_block::<T, LANES, WIDE>(p, alpha, acc, dim, WIDTH, asked);
                dim += WIDE * WIDTH;
            }
            while dim < dv {
                let n = WIDTH.min(dv - dim);
                self.pv_block::<T, LANES, 1>(p, alpha, acc, dim, n, asked);
                dim += WIDTH;
            }
        }
    }

    /// Dims from `dim` on, `WIDE` vectors of `n` elements each.
    #[target_feature(enable = "avx2,fma,f16c")]
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
        let mut sum = [[_mm256_setzero_ps(); WIDE]; LANES];
        // SAFETY: keys, lanes and dims are within the sizes that the caller promised.
        unsafe {
            let mut row = self.v.wrapping_add(dim * size::<T>());
            for key in 0..self.keys {
                asked.lines(key, dim * size::<T>(), WIDE * WIDTH * size::<T>());
                let v: [__m256; WIDE] = core::array::from_fn(|i| {
                    let at = row.wrapping_add(i * WIDTH * size::<T>());
                    if n == WIDTH { load::<T>(at) } else { load_some::<T>(at, n) }
                });
                for (lane, sum) in sum.iter_mut().enumerate() {
                    let p = _mm256_broadcast_ss(&*p.add(key * FEW + lane));
                    for (sum, v) in sum.iter_mut().zip(v) {
                        *sum = _mm256_fmadd_ps(v, p, *sum);
                    }
                }
                row = row.wrapping_offset(self.stride);
            }
            for (lane, sum) in sum.into_iter().enumerate() {
                let factor = if alpha.is_null() { _mm256_set1_ps(1.0) } else { _mm256_broadcast_ss(&*alpha.add(lane)) };
                for (i, sum) in sum.into_iter().enumerate() {
                    let at = acc.add(lane * self.dv + dim + i * WIDTH);
                    if n == WIDTH {
                        _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_loadu_ps(at), factor, sum));
                    } else {
                        let new = _mm256_fmadd_ps(load_some::<F32>(at.cast(), n), factor, sum);
                        let mut all = [0.0f32; WIDTH];
                        _mm256_storeu_ps(all.as_mut_ptr(), new);
                        core::ptr::copy_nonoverlapping(all.as_ptr(), at, n);
                    }
                }
            }
        }
    }

    /// Whether neither infinities nor NaN are among the values.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn all_finite<const T: u32>(self) -> bool {
        // 0 x is 0 for finite x only, and a sum with NaN stays NaN.
        let mut sum = _mm256_setzero_ps();
        for key in 0..self.keys {
            for dim in (0..self.dv).step_by(WIDTH) {
                let at = self.v.wrapping_offset(key as isize * self.stride).wrapping_add(dim * size::<T>());
                let n = WIDTH.min(self.dv - dim);
                // SAFETY: keys and dims are within the sizes that the caller promised.
                let v = unsafe { if n == WIDTH { load::<T>(at) } else { load_some::<T>(at, n) } };
                sum = _mm256_fmadd_ps(v, _mm256_setzero_ps(), sum);
            }
        }
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(sum, sum)) == 0
    }
}

/// Where scores of keys are: with `HALF` four queries of two keys share a vector, else eight of one fill it.
#[derive(Clone, Copy)]
struct Scores<const MASKED: bool, const HALF: bool> {
    s: *mut f32,
    /// The masks' bits of keys `32 * half ..`, of the queries of a vector.
    words: [__m256i; 2],
}

impl<const MASKED: bool, const HALF: bool> Scores<MASKED, HALF> {
    /// Keys of a vector.
    const STEP: usize = if HALF { 2 } else { 1 };

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new(s: *mut f32, masks: [u64; FEW]) -> Self {
        let words = core::array::from_fn(|half| {
            let word = |lane: usize| {
                let lane = if HALF { lane % QUERIES } else { lane };
                (masks[lane] >> (half * BK / 2)) as i32
            };
            let words: [i32; FEW] = core::array::from_fn(word);
            // SAFETY: eight words.
            unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
        });
        Scores { s, words }
    }

    /// The vector of `n` keys that begins with key `key`; a key too many reads as that one.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(self, key: usize, n: usize) -> __m256 {
        // SAFETY: the caller promised these rows.
        unsafe {
            let at = self.s.add(key * FEW);
            if !HALF {
                return _mm256_loadu_ps(at);
            }
            let next = if n > 1 { at.add(FEW) } else { at };
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(next))
        }
    }

    /// Writes it back.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store(self, key: usize, n: usize, x: __m256) {
        // SAFETY: as in `load`.
        unsafe {
            let at = self.s.add(key * FEW);
            if !HALF {
                return _mm256_storeu_ps(at, x);
            }
            _mm_storeu_ps(at, _mm256_castps256_ps128(x));
            if n > 1 {
                _mm_storeu_ps(at.add(FEW), _mm256_extractf128_ps::<1>(x));
            }
        }
    }

    /// `x` of the vector of `n` keys that begins with key `key` where a key is attended to, else `absent`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn pick(self, key: usize, n: usize, x: __m256, absent: __m256) -> __m256 {
        let x = if MASKED {
            // A vector's keys are in one half: it begins with an even one.
            let first = 31 - (key % 32) as i32;
            let second = if HALF { first - 1 } else { first };
            let shifts = _mm256_setr_epi32(first, first, first, first, second, second, second, second);
            let signs = _mm256_sllv_epi32(self.words[key / 32], shifts);
            _mm256_blendv_ps(absent, x, _mm256_castsi256_ps(signs))
        } else {
            x
        };
        if n < Self::STEP { _mm256_blend_ps::<0b1111_0000>(x, absent) } else { x }
    }
}

/// The softmax step of a tile of few queries; the lanes whose factor is not 1.
///
/// # Safety
/// `keys` rows of [`FEW`] scores, and [`FEW`] elements of the others.
#[target_feature(enable = "avx2,fma,f16c")]
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
    let whole = keys / (2 * step) * (2 * step);
    let (none, zero, one) = (_mm256_set1_ps(f32::NEG_INFINITY), _mm256_setzero_ps(), _mm256_set1_ps(1.0));
    let crossed = |x| _mm256_permute2f128_ps::<0x01>(x, x);
    // SAFETY: as the caller promised.
    unsafe {
        let mut old = _mm256_loadu_ps(m);
        if HALF {
            old = _mm256_permute2f128_ps::<0x00>(old, old);
        }
        let mut tops = [old; 2];
        let mut raise = |key: usize, n: usize| {
            // A NaN is never the maximum: it reaches the row through its exponential.
            let top = &mut tops[key / step % 2];
            *top = _mm256_max_ps(scores.pick(key, n, scores.load(key, n), none), *top);
        };
        in_pairs!(raise, keys, step);
        let mut top = _mm256_max_ps(tops[0], tops[1]);
        if HALF {
            top = _mm256_max_ps(crossed(top), top);
        }
        // While all scores are -inf any finite number serves: exp(-inf - 0) = 0, and not NaN.
        let origin = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(top, none), top);
        let [factor, _] = exp_nonpositive([_mm256_sub_ps(old, origin); 2]);
        let factor = _mm256_blendv_ps(factor, one, _mm256_cmp_ps::<_CMP_EQ_OQ>(old, top));
        // Even keys and odd ones are summed apart.
        let mut sum = [zero; 2];
        let mut add = |key: usize, n: usize, p: __m256| {
            let p = scores.pick(key, n, p, zero);
            scores.store(key, n, p);
            let sum = &mut sum[if HALF { 0 } else { key % 2 }];
            *sum = _mm256_add_ps(*sum, p);
        };
        for key in (0..whole).step_by(2 * step) {
            let p = exp_nonpositive([key, key + step].map(|key| _mm256_sub_ps(scores.load(key, step), origin)));
            add(key, step, p[0]);
            add(key + step, step, p[1]);
        }
        for key in (whole..keys).step_by(step) {
            let n = step.min(keys - key);
            let [p, _] = exp_nonpositive([_mm256_sub_ps(scores.load(key, n), origin); 2]);
            add(key, n, p);
        }
        let sum = _mm256_add_ps(sum[0], if HALF { crossed(sum[0]) } else { sum[1] });
        _mm256_storeu_ps(m, top);
        _mm256_storeu_ps(l, _mm256_fmadd_ps(_mm256_loadu_ps(l), factor, sum));
        _mm256_storeu_ps(alpha, factor);
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(factor, one)) as u32
    }
}
