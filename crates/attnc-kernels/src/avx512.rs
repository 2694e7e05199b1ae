//! AVX-512 (F, DQ, BW and VL): vectors of 16 singles, and the kernels on them.
//!
//! The one idea: a panel of 16 queries is one vector, and lanes that are left out are a mask register, under which the last
//! operation of a computation is done.

use core::arch::x86_64::*;

use crate::avx2::BITS;
use crate::vector::{BF16, F16, F32, Vector, instructions};

mod few;

crate::vector::table!("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c", __m512, avx512);

/// Singles in a vector.
const WIDTH: usize = 16;

/// The first `n` lanes, or all.
const fn first(n: usize) -> __mmask16 {
    if n < WIDTH { (1 << n) - 1 } else { !0 }
}

impl Vector for __m512 {
    const WIDTH: usize = WIDTH;
    const REGISTERS: usize = 32;
    type Square = [__m512; WIDTH];
    type Lanes = __mmask16;
    type Masks = __m512i;

    #[inline(always)]
    unsafe fn both(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    unsafe fn any(lanes: __mmask16) -> bool {
        lanes != 0
    }

    instructions! {
        fn set(x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }

        fn load(at: *const f32) -> __m512 {
            _mm512_loadu_ps(at)
        }

        fn store(self, at: *mut f32) {
            _mm512_storeu_ps(at, self);
        }

        fn load_of<const T: u32>(at: *const u8) -> __m512 {
            match T {
                F32 => _mm512_loadu_ps(at.cast()),
                F16 => from_f16(_mm256_loadu_si256(at.cast())),
                _ => from_bf16(_mm256_loadu_si256(at.cast())),
            }
        }

        fn load_some<const T: u32>(at: *const u8, n: usize) -> __m512 {
            match T {
                F32 => _mm512_maskz_loadu_ps(first(n), at.cast()),
                F16 => from_f16(_mm256_maskz_loadu_epi16(first(n), at.cast())),
                _ => from_bf16(_mm256_maskz_loadu_epi16(first(n), at.cast())),
            }
        }

        fn store_of<const T: u32>(self, at: *mut u8) {
            match T {
                F32 => _mm512_storeu_ps(at.cast(), self),
                F16 => _mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self)),
                BF16 => _mm256_storeu_si256(at.cast(), to_bf16(self)),
                _ => unreachable!(),
            }
        }

        fn store_some<const T: u32>(self, at: *mut u8, n: usize) {
            match T {
                F32 => _mm512_mask_storeu_ps(at.cast(), first(n), self),
                F16 => {
                    let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self);
                    _mm256_mask_storeu_epi16(at.cast(), first(n), halves);
                }
                BF16 => _mm256_mask_storeu_epi16(at.cast(), first(n), to_bf16(self)),
                _ => unreachable!(),
            }
        }

        fn add(self, other: __m512) -> __m512 {
            _mm512_add_ps(self, other)
        }

        fn sub(self, other: __m512) -> __m512 {
            _mm512_sub_ps(self, other)
        }

        fn mul(self, other: __m512) -> __m512 {
            _mm512_mul_ps(self, other)
        }

        fn div(self, other: __m512) -> __m512 {
            _mm512_div_ps(self, other)
        }

        fn fma(self, by: __m512, more: __m512) -> __m512 {
            _mm512_fmadd_ps(self, by, more)
        }

        fn fms(self, by: __m512, less: __m512) -> __m512 {
            _mm512_fmsub_ps(self, by, less)
        }

        fn max(self, other: __m512) -> __m512 {
            _mm512_max_ps(self, other)
        }

        fn max_in(self, other: __m512, lanes: __mmask16) -> __m512 {
            // The choice is no part of a chain of maxima.
            _mm512_max_ps(_mm512_mask_blend_ps(lanes, _mm512_set1_ps(f32::NEG_INFINITY), self), other)
        }

        fn to_exponent(self) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self)))
        }

        fn sums(square: [__m512; WIDTH]) -> __m512 {
            few::sums(square)
        }

        fn total(self) -> f32 {
            _mm512_reduce_add_ps(self)
        }

        fn largest(self) -> f32 {
            _mm512_reduce_max_ps(self)
        }

        fn transpose(square: [__m512; WIDTH]) -> [__m512; WIDTH] {
            transpose(square)
        }

        fn square() -> [__m512; WIDTH] {
            [_mm512_setzero_ps(); WIDTH]
        }

        fn differs(self, other: __m512) -> __mmask16 {
            _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self, other)
        }

        fn not_less(self, other: __m512) -> __mmask16 {
            _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self, other)
        }

        fn is_nan(self) -> __mmask16 {
            _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self)
        }

        fn only(self, lanes: __mmask16) -> __m512 {
            _mm512_maskz_mov_ps(lanes, self)
        }

        fn or_else(self, lanes: __mmask16, other: __m512) -> __m512 {
            _mm512_mask_mov_ps(other, lanes, self)
        }

        fn masks(at: *const u64) -> [__m512i; 2] {
            let (a, b) = (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(8).cast()));
            let low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(a));
            let low = _mm512_inserti64x4::<1>(low, _mm512_cvtepi64_epi32(b));
            let (a, b) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let high = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(a));
            [low, _mm512_inserti64x4::<1>(high, _mm512_cvtepi64_epi32(b))]
        }

        fn lanes_of(masks: __m512i, key: usize) -> __mmask16 {
            _mm512_test_epi32_mask(masks, _mm512_set1_epi32(BITS[key]))
        }
    }
}

/// Singles of halves. Without a word on exceptions, so that it may be one operation with a load, and takes one unit and not
/// two.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn from_f16(x: __m256i) -> __m512 {
    _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(x)
}

/// Singles whose upper halves are given.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn from_bf16(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
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

/// Four vectors, in each quarter of which a row of four becomes a column.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn quarters(r: [__m512; 4]) -> [__m512; 4] {
    // Pairs, then pairs of pairs.
    let lo = [_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpacklo_ps(r[2], r[3])];
    let hi = [_mm512_unpackhi_ps(r[0], r[1]), _mm512_unpackhi_ps(r[2], r[3])];
    [
        _mm512_shuffle_ps::<LOW>(lo[0], lo[1]),
        _mm512_shuffle_ps::<HIGH>(lo[0], lo[1]),
        _mm512_shuffle_ps::<LOW>(hi[0], hi[1]),
        _mm512_shuffle_ps::<HIGH>(hi[0], hi[1]),
    ]
}

/// Lower halves of two vectors, or of two quarters.
const LOW: i32 = 0b01_00_01_00;
/// Upper halves.
const HIGH: i32 = 0b11_10_11_10;

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline]
fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut quarter = r;
    for i in (0..16).step_by(4) {
        // Quarter L of `quarter[i + c]` is column 4 L + c of rows i .. i + 4.
        quarter[i..i + 4].copy_from_slice(&quarters([r[i], r[i + 1], r[i + 2], r[i + 3]]));
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
