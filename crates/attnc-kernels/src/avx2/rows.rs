//! Moving rows between tensors and tiles: packing queries, reading K and V, writing outputs.
//!
//! The one idea: 8 x 8 blocks, transposed in registers, with conversion on the way; what has no unit
//! inner stride, and the ends of rows, go element by element into the same blocks.

use core::arch::x86_64::*;

use super::WIDTH;
use crate::abi::{DType, FEW, KvView};
use crate::scalar::finish_lse;
use crate::tensor::{indexed, packed};

/// Rows that are fetched ahead of the one being copied.
const AHEAD: usize = 4;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// One row of a tensor: its first element, element type and inner stride in bytes.
#[derive(Clone, Copy)]
struct Row {
    at: *mut u8,
    dtype: DType,
    step: isize,
}

impl Row {
    /// Contiguous singles.
    fn singles(at: *mut f32) -> Row {
        Row { at: at.cast(), dtype: DType::F32, step: DType::F32.size() as isize }
    }

    fn element(self, i: usize) -> *mut u8 {
        self.at.wrapping_offset(i as isize * self.step)
    }

    fn contiguous(self) -> bool {
        self.step == self.dtype.size() as isize
    }

    /// Elements `i .. i + n` in the first `n <= 8` lanes, zero in the others.
    ///
    /// # Safety
    /// The row has these elements.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load(self, i: usize, n: usize) -> __m256 {
        let at = self.element(i);
        // SAFETY: the caller promises `n` elements, 8 of them contiguous in the first branch.
        unsafe {
            if n == WIDTH && self.contiguous() {
                match self.dtype {
                    DType::F32 => _mm256_loadu_ps(at.cast()),
                    DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                    DType::Bf16 => {
                        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                    }
                }
            } else {
                let mut lanes = [0.0f32; WIDTH];
                for (j, lane) in lanes[..n].iter_mut().enumerate() {
                    *lane = self.dtype.load(self.element(i + j));
                }
                _mm256_loadu_ps(lanes.as_ptr())
            }
        }
    }

    /// Writes the first `n <= 8` lanes of `x` to elements `i .. i + n`, rounded to nearest even.
    ///
    /// # Safety
    /// The row has these elements, and they may be written.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn store(self, i: usize, n: usize, x: __m256) {
        let at = self.element(i);
        // SAFETY: the caller promises `n` elements, 8 of them contiguous in the first branch.
        unsafe {
            if n == WIDTH && self.contiguous() {
                match self.dtype {
                    DType::F32 => _mm256_storeu_ps(at.cast(), x),
                    DType::F16 => _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)),
                    DType::Bf16 => _mm_storeu_si128(at.cast(), to_bf16(x)),
                }
            } else {
                let mut lanes = [0.0f32; WIDTH];
                _mm256_storeu_ps(lanes.as_mut_ptr(), x);
                for (j, &lane) in lanes[..n].iter().enumerate() {
                    self.dtype.store(self.element(i + j), lane);
                }
            }
        }
    }
}

/// Upper halves of singles, rounded to nearest even; NaN stays (quiet) NaN.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_bf16(x: __m256) -> __m128i {
    let bits = _mm256_castps_si256(x);
    let upper = _mm256_srli_epi32::<16>(bits);
    // Just under half of the last place, and one more if that place is odd.
    let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    let carry = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, carry));
    let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    let result = _mm256_blendv_epi8(rounded, quiet, nan);
    let packed = _mm256_packus_epi32(result, result);
    _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b00_00_10_00>(packed))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    // Pairs of rows, pairs of pairs, then the halves of 128 bits.
    let lo = |i: usize| _mm256_unpacklo_ps(r[i], r[i + 1]);
    let hi = |i: usize| _mm256_unpackhi_ps(r[i], r[i + 1]);
    let (a, b) = ([lo(0), lo(2), lo(4), lo(6)], [hi(0), hi(2), hi(4), hi(6)]);
    let even = |t: [__m256; 4], i: usize| _mm256_shuffle_ps::<0b01_00_01_00>(t[i], t[i + 1]);
    let odd = |t: [__m256; 4], i: usize| _mm256_shuffle_ps::<0b11_10_11_10>(t[i], t[i + 1]);
    let top = [even(a, 0), odd(a, 0), even(b, 0), odd(b, 0)];
    let bottom = [even(a, 2), odd(a, 2), even(b, 2), odd(b, 2)];
    let mut out = r;
    for i in 0..4 {
        out[i] = _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
        out[i + 4] = _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
    }
    out
}

#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe extern "C" fn pack_q(
    src: *const u8,
    dtype: i64,
    row_stride: i64,
    col_stride: i64,
    index: *const u32,
    rows: i64,
    bq: i64,
    d: i64,
    scale: f32,
    dst: *mut f32,
) {
    let dtype = DType::of_code(dtype);
    let (rows, bq, d) = (rows as usize, bq as usize, d as usize);
    let scale = _mm256_set1_ps(scale);
    if bq == FEW {
        for lane in 0..rows {
            // SAFETY: rows and elements are within the sizes that the caller promised.
            unsafe {
                let at = src.offset(indexed(index, lane) * row_stride as isize).cast_mut();
                let (from, to) = (Row { at, dtype, step: col_stride as isize }, Row::singles(dst.add(lane * d)));
                for i in (0..d).step_by(WIDTH) {
                    let n = WIDTH.min(d - i);
                    to.store(i, n, _mm256_mul_ps(from.load(i, n), scale));
                }
            }
        }
        return;
    }
    for lane in (0..bq).step_by(WIDTH) {
        let present = rows.saturating_sub(lane).min(WIDTH);
        // SAFETY: rows, elements and lanes are within the sizes that the caller promised.
        unsafe {
            let row = |i: usize| Row {
                at: src.offset(indexed(index, lane + i) * row_stride as isize).cast_mut(),
                dtype,
                step: col_stride as isize,
            };
            for i in (0..d).step_by(WIDTH) {
                let n = WIDTH.min(d - i);
                let mut block = [_mm256_setzero_ps(); WIDTH];
                for (r, x) in block[..present].iter_mut().enumerate() {
                    *x = _mm256_mul_ps(row(r).load(i, n), scale);
                }
                for (j, &x) in transpose(block)[..n].iter().enumerate() {
                    _mm256_storeu_ps(dst.add(packed(lane, i + j, d)), x);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe extern "C" fn kv_tile(
    view: *const KvView,
    first: i64,
    keys: i64,
    scratch: *mut f32,
    stride: *mut i64,
) -> i64 {
    // SAFETY: the caller promises a view that holds the rows, and room for them in `scratch`.
    unsafe {
        let view = &*view;
        let (first, keys, dim) = (first as usize, keys as usize, view.dim as usize);
        if let Some((at, step)) = view.in_place(first, keys) {
            *stride = step;
            return at as i64;
        }
        let dtype = DType::of_code(i64::from(view.dtype));
        let bytes = dim * dtype.size();
        for key in 0..keys {
            // Rows that are far apart or listed are nothing that hardware foresees.
            if key + AHEAD < keys {
                let next = view.row(first + key + AHEAD);
                for line in (0..bytes).step_by(CACHE_LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
                }
            }
            let from = Row { at: view.row(first + key).cast_mut(), dtype, step: view.col_stride as isize };
            let to = Row::singles(scratch.add(key * dim));
            if dtype == DType::F32 && from.contiguous() {
                core::ptr::copy_nonoverlapping(from.at.cast::<f32>(), scratch.add(key * dim), dim);
                continue;
            }
            for i in (0..dim).step_by(WIDTH) {
                let n = WIDTH.min(dim - i);
                to.store(i, n, from.load(i, n));
            }
        }
        *stride = dim as i64;
        scratch as i64
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(crate) unsafe extern "C" fn finish(
    acc: *const f32,
    m: *const f32,
    l: *const f32,
    rows: i64,
    bq: i64,
    dv: i64,
    dst: *mut u8,
    dtype: i64,
    row_stride: i64,
    col_stride: i64,
    index: *const u32,
    lse: *mut f32,
    lse_stride: i64,
    lse_index: *const u32,
) {
    let dtype = DType::of_code(dtype);
    let dv = dv as usize;
    // SAFETY: as the caller promised.
    unsafe { finish_lse(m, l, rows, lse_index, lse, lse_stride) }
    if bq as usize == FEW {
        for lane in 0..rows as usize {
            // SAFETY: rows and elements are within the sizes that the caller promised.
            unsafe {
                let at = dst.offset(indexed(index, lane) * row_stride as isize);
                let (from, to) =
                    (Row::singles(acc.add(lane * dv).cast_mut()), Row { at, dtype, step: col_stride as isize });
                let sum = _mm256_broadcast_ss(&*l.add(lane));
                let empty = _mm256_cmp_ps::<_CMP_EQ_OQ>(sum, _mm256_setzero_ps());
                for i in (0..dv).step_by(WIDTH) {
                    let n = WIDTH.min(dv - i);
                    to.store(i, n, _mm256_andnot_ps(empty, _mm256_div_ps(from.load(i, n), sum)));
                }
            }
        }
        return;
    }
    for lane in (0..rows as usize).step_by(WIDTH) {
        let present = WIDTH.min(rows as usize - lane);
        // SAFETY: rows, elements and lanes are within the sizes that the caller promised; `bq` is a multiple of 8.
        unsafe {
            let sum = _mm256_loadu_ps(l.add(lane));
            let empty = _mm256_cmp_ps::<_CMP_EQ_OQ>(sum, _mm256_setzero_ps());
            let row = |i: usize| Row {
                at: dst.offset(indexed(index, lane + i) * row_stride as isize),
                dtype,
                step: col_stride as isize,
            };
            for i in (0..dv).step_by(WIDTH) {
                let n = WIDTH.min(dv - i);
                let mut block = [_mm256_setzero_ps(); WIDTH];
                for (j, x) in block[..n].iter_mut().enumerate() {
                    let o = _mm256_div_ps(_mm256_loadu_ps(acc.add(packed(lane, i + j, dv))), sum);
                    *x = _mm256_andnot_ps(empty, o);
                }
                for (r, &x) in transpose(block)[..present].iter().enumerate() {
                    row(r).store(i, n, x);
                }
            }
        }
    }
}
