//! AVX2, FMA and F16C: vectors of 8 singles, and the kernels on them.
//!
//! The one idea: a panel of queries is two vectors, and lanes that are left out are lanes of ones, which as reals are NaN:
//! a maximum passes over them.

use core::arch::x86_64::*;

use crate::vector::{BF16, F16, F32, Vector, instructions, size};

pub(crate) mod few;
pub(crate) mod math;

crate::vector::table!("avx2,fma,f16c", __m256, avx2);

/// Singles in a vector.
const WIDTH: usize = 8;

/// Bit j alone.
pub(crate) static BITS: [i32; 32] = {
    let mut bits = [0; 32];
    let mut j = 0;
    while j < bits.len() {
        bits[j] = 1 << j;
        j += 1;
    }
    bits
};

impl Vector for __m256 {
    const WIDTH: usize = WIDTH;
    const REGISTERS: usize = 16;
    type Square = [__m256; WIDTH];
    /// Ones in the lanes that are *not* among them.
    type Lanes = __m256;
    type Masks = __m256i;

    instructions! {
        fn set(x: f32) -> __m256 {
            _mm256_set1_ps(x)
        }

        fn load(at: *const f32) -> __m256 {
            _mm256_loadu_ps(at)
        }

        fn store(self, at: *mut f32) {
            _mm256_storeu_ps(at, self);
        }

        fn load_of<const T: u32>(at: *const u8) -> __m256 {
            match T {
                F32 => _mm256_loadu_ps(at.cast()),
                F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))),
            }
        }

        fn load_some<const T: u32>(at: *const u8, n: usize) -> __m256 {
            let mut bytes = [0_u8; WIDTH * 4];
            core::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n * size::<T>());
            Self::load_of::<T>(bytes.as_ptr())
        }

        fn store_of<const T: u32>(self, at: *mut u8) {
            match T {
                F32 => _mm256_storeu_ps(at.cast(), self),
                F16 => _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self)),
                BF16 => _mm_storeu_si128(at.cast(), to_bf16(self)),
                _ => unreachable!(),
            }
        }

        fn store_some<const T: u32>(self, at: *mut u8, n: usize) {
            let mut bytes = [0_u8; WIDTH * 4];
            self.store_of::<T>(bytes.as_mut_ptr());
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, n * size::<T>());
        }

        fn add(self, other: __m256) -> __m256 {
            _mm256_add_ps(self, other)
        }

        fn sub(self, other: __m256) -> __m256 {
            _mm256_sub_ps(self, other)
        }

        fn mul(self, other: __m256) -> __m256 {
            _mm256_mul_ps(self, other)
        }

        fn div(self, other: __m256) -> __m256 {
            _mm256_div_ps(self, other)
        }

        fn fma(self, by: __m256, more: __m256) -> __m256 {
            _mm256_fmadd_ps(self, by, more)
        }

        fn fms(self, by: __m256, less: __m256) -> __m256 {
            _mm256_fmsub_ps(self, by, less)
        }

        fn max(self, other: __m256) -> __m256 {
            _mm256_max_ps(self, other)
        }

        fn max_in(self, other: __m256, lanes: __m256) -> __m256 {
            _mm256_max_ps(_mm256_or_ps(self, lanes), other)
        }

        fn to_exponent(self) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self)))
        }

        fn sums(square: [__m256; WIDTH]) -> __m256 {
            few::sums(square)
        }

        fn total(self) -> f32 {
            let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }

        fn largest(self) -> f32 {
            let four = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }

        fn transpose(square: [__m256; WIDTH]) -> [__m256; WIDTH] {
            transpose(square)
        }

        fn square() -> [__m256; WIDTH] {
            [_mm256_setzero_ps(); WIDTH]
        }

        fn differs(self, other: __m256) -> __m256 {
            _mm256_cmp_ps::<_CMP_EQ_OQ>(self, other)
        }

        fn not_less(self, other: __m256) -> __m256 {
            _mm256_cmp_ps::<_CMP_LT_OQ>(self, other)
        }

        fn is_nan(self) -> __m256 {
            _mm256_cmp_ps::<_CMP_ORD_Q>(self, self)
        }

        fn both(a: __m256, b: __m256) -> __m256 {
            _mm256_or_ps(a, b)
        }

        fn any(lanes: __m256) -> bool {
            _mm256_movemask_ps(lanes) != 0xff
        }

        fn only(self, lanes: __m256) -> __m256 {
            _mm256_andnot_ps(lanes, self)
        }

        fn or_else(self, lanes: __m256, other: __m256) -> __m256 {
            _mm256_blendv_ps(self, other, lanes)
        }

        fn masks(at: *const u64) -> [__m256i; 2] {
            let (a, b) = (_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(4).cast()));
            // The shuffles work in halves of 128 bits.
            let low = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let high = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            let (low, high) =
                (_mm256_permute4x64_pd::<0b11_01_10_00>(low), _mm256_permute4x64_pd::<0b11_01_10_00>(high));
            [_mm256_castpd_si256(low), _mm256_castpd_si256(high)]
        }

        fn lanes_of(masks: __m256i, key: usize) -> __m256 {
            let bit = _mm256_and_si256(masks, _mm256_set1_epi32(BITS[key]));
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(bit, _mm256_setzero_si256()))
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
fn transpose(r: [__m256; WIDTH]) -> [__m256; WIDTH] {
    // Halves of 128 bits become columns, then change places.
    let top = halves([r[0], r[1], r[2], r[3]]);
    let bottom = halves([r[4], r[5], r[6], r[7]]);
    let mut out = r;
    for i in 0..4 {
        out[i] = _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
        out[i + 4] = _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
    }
    out
}

/// Four vectors, in each half of which a row of four becomes a column.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves(r: [__m256; 4]) -> [__m256; 4] {
    // Pairs, then pairs of pairs.
    let lo = [_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpacklo_ps(r[2], r[3])];
    let hi = [_mm256_unpackhi_ps(r[0], r[1]), _mm256_unpackhi_ps(r[2], r[3])];
    [
        _mm256_shuffle_ps::<0b01_00_01_00>(lo[0], lo[1]),
        _mm256_shuffle_ps::<0b11_10_11_10>(lo[0], lo[1]),
        _mm256_shuffle_ps::<0b01_00_01_00>(hi[0], hi[1]),
        _mm256_shuffle_ps::<0b11_10_11_10>(hi[0], hi[1]),
    ]
}

/// The columns of rows of singles, as many of each as a vector has lanes. Rows are read by halves, each to the place that
/// it will have.
///
/// # Safety
/// `at` are addresses of `WIDTH` singles each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) unsafe fn transposed(at: [*const u8; WIDTH]) -> [__m256; WIDTH] {
    let mut out = [_mm256_setzero_ps(); WIDTH];
    for half in 0..2 {
        let mut rows = [_mm256_setzero_ps(); 4];
        for (i, rows) in rows.iter_mut().enumerate() {
            // SAFETY: the caller promises rows of 8 singles.
            unsafe {
                let of = |row: usize| _mm_loadu_ps(at[row].cast::<f32>().add(4 * half));
                *rows = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(of(i)), of(i + 4));
            }
        }
        out[4 * half..4 * half + 4].copy_from_slice(&halves(rows));
    }
    out
}
