//! Moving rows between tensors and tiles: packing queries, reading K and V, writing outputs.
//!
//! The one idea: 16 x 16 blocks, transposed in registers, with conversion on the way; the ends of rows
//! are masked, and what has no unit inner stride goes element by element into the same blocks.

use core::arch::x86_64::*;

use super::{WIDTH, first as first_lanes};
use crate::abi::{DType, FEW, KvView};
use crate::avx2;
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
    fn element(self, i: usize) -> *mut u8 {
        self.at.wrapping_offset(i as isize * self.step)
    }

    fn contiguous(self) -> bool {
        self.step == self.dtype.size() as isize
    }

    /// Elements `i .. i + n` in the first `n <= 16` lanes, zero in the others.
    ///
    /// # Safety
    /// The row has these elements.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn load(self, i: usize, n: usize) -> __m512 {
        let at = self.element(i);
        let lanes = first_lanes(n);
        // SAFETY: the caller promises `n` elements; lanes outside the mask are not read.
        unsafe {
            if !self.contiguous() {
                let mut lanes = [0.0f32; WIDTH];
                for (j, lane) in lanes[..n].iter_mut().enumerate() {
                    *lane = self.dtype.load(self.element(i + j));
                }
                return _mm512_loadu_ps(lanes.as_ptr());
            }
            match self.dtype {
                DType::F32 => _mm512_maskz_loadu_ps(lanes, at.cast()),
                DType::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, at.cast())),
                DType::Bf16 => {
                    let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, at.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            }
        }
    }

    /// Writes the first `n <= 16` lanes of `x` to elements `i .. i + n`, rounded to nearest even.
    ///
    /// # Safety
    /// The row has these elements, and they may be written.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
    #[inline]
    unsafe fn store(self, i: usize, n: usize, x: __m512) {
        let at = self.element(i);
        let lanes = first_lanes(n);
        // SAFETY: the caller promises `n` elements; lanes outside the mask are not written.
        unsafe {
            if !self.contiguous() {
                let mut lanes = [0.0f32; WIDTH];
                _mm512_storeu_ps(lanes.as_mut_ptr(), x);
                for (j, &lane) in lanes[..n].iter().enumerate() {
                    self.dtype.store(self.element(i + j), lane);
                }
                return;
            }
            match self.dtype {
                DType::F32 => _mm512_mask_storeu_ps(at.cast(), lanes, x),
                DType::F16 => {
                    let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                    _mm256_mask_storeu_epi16(at.cast(), lanes, halves);
                }
                DType::Bf16 => _mm256_mask_storeu_epi16(at.cast(), lanes, to_bf16(x)),
            }
        }
    }
}

/// Upper halves of singles, rounded to nearest even; NaN stays (quiet) NaN. The instruction of AVX512-BF16 flushes
/// subnormal numbers.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn to_bf16(x: __m512) -> __m256i {
    let bits = _mm512_castps_si512(x);
    let upper = _mm512_srli_epi32::<16>(bits);
    // Just under half of the last place, and one more if that place is odd.
    let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    let carry = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, carry));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let result = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
    _mm512_cvtepi32_epi16(result)
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut quarter = r;
    for i in (0..16).step_by(4) {
        // Four rows: pairs, then pairs of pairs. Quarter L of `quarter[i + c]` is column 4 L + c of rows i .. i + 4.
        let lo = [_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpacklo_ps(r[i + 2], r[i + 3])];
        let hi = [_mm512_unpackhi_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i + 2], r[i + 3])];
        quarter[i] = _mm512_shuffle_ps::<LOW>(lo[0], lo[1]);
        quarter[i + 1] = _mm512_shuffle_ps::<HIGH>(lo[0], lo[1]);
        quarter[i + 2] = _mm512_shuffle_ps::<LOW>(hi[0], hi[1]);
        quarter[i + 3] = _mm512_shuffle_ps::<HIGH>(hi[0], hi[1]);
    }
    let mut out = r;
    for c in 0..4 {
        // Four vectors of four quarters are transposed in turn.
        let [q0, q1, q2, q3] = [0, 4, 8, 12].map(|i| quarter[i + c]);
        let (a, b) = (_mm512_shuffle_f32x4::<LOW>(q0, q1), _mm512_shuffle_f32x4::<LOW>(q2, q3));
        out[c] = _mm512_shuffle_f32x4::<EVEN>(a, b);
        out[4 + c] = _mm512_shuffle_f32x4::<ODD>(a, b);
        let (a, b) = (_mm512_shuffle_f32x4::<HIGH>(q0, q1), _mm512_shuffle_f32x4::<HIGH>(q2, q3));
        out[8 + c] = _mm512_shuffle_f32x4::<EVEN>(a, b);
        out[12 + c] = _mm512_shuffle_f32x4::<ODD>(a, b);
    }
    out
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(super) unsafe extern "C" fn pack_q(
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
    if bq as usize == FEW {
        // SAFETY: as the caller promised; AVX-512's machines run AVX2's kernels.
        return unsafe {
            avx2::rows::pack_q(src, dtype, row_stride, col_stride, index, rows, bq, d, scale, dst);
        };
    }
    let dtype = DType::of_code(dtype);
    let (rows, bq, d) = (rows as usize, bq as usize, d as usize);
    let scale = _mm512_set1_ps(scale);
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
                let mut block = [_mm512_setzero_ps(); WIDTH];
                for (r, x) in block[..present].iter_mut().enumerate() {
                    *x = _mm512_mul_ps(row(r).load(i, n), scale);
                }
                for (j, &x) in transpose(block)[..n].iter().enumerate() {
                    _mm512_storeu_ps(dst.add(packed(lane, i + j, d)), x);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(super) unsafe extern "C" fn kv_tile(
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
            let to = Row { at: scratch.add(key * dim).cast(), dtype: DType::F32, step: DType::F32.size() as isize };
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

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub(super) unsafe extern "C" fn finish(
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
    if bq as usize == FEW {
        // SAFETY: as in `pack_q`.
        return unsafe {
            avx2::rows::finish(
                acc, m, l, rows, bq, dv, dst, dtype, row_stride, col_stride, index, lse, lse_stride, lse_index,
            );
        };
    }
    let dtype = DType::of_code(dtype);
    let dv = dv as usize;
    for lane in (0..rows as usize).step_by(WIDTH) {
        let present = WIDTH.min(rows as usize - lane);
        // SAFETY: rows, elements and lanes are within the sizes that the caller promised; `bq` is a multiple of 16.
        unsafe {
            let sum = _mm512_loadu_ps(l.add(lane));
            // True for NaN, which passes.
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(sum, _mm512_setzero_ps());
            let row = |i: usize| Row {
                at: dst.offset(indexed(index, lane + i) * row_stride as isize),
                dtype,
                step: col_stride as isize,
            };
            for i in (0..dv).step_by(WIDTH) {
                let n = WIDTH.min(dv - i);
                let mut block = [_mm512_setzero_ps(); WIDTH];
                for (j, x) in block[..n].iter_mut().enumerate() {
                    *x = _mm512_maskz_div_ps(some, _mm512_loadu_ps(acc.add(packed(lane, i + j, dv))), sum);
                }
                for (r, &x) in transpose(block)[..present].iter().enumerate() {
                    row(r).store(i, n, x);
                }
            }
        }
    }
    // SAFETY: as the caller promised.
    unsafe { finish_lse(m, l, rows, lse_index, lse, lse_stride) }
}
