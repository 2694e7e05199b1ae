//! `exp`, `log` and `tanh` on vectors of 8 singles.
//!
//! The one idea: reduce, evaluate a polynomial by Horner's rule, put the exponent back. Whatever is NaN stays NaN, so
//! the operands of every `min` and `max` stand in the order that keeps it (the second one wins).

use core::arch::x86_64::*;

use crate::abi::{Math, Math4};
use crate::softmax;

/// [`Math`] by the polynomials of this module.
pub(crate) const MATH: Math = Math { exp: exp1, log: log1, tanh: tanh1 };
/// [`Math4`] by the polynomials of this module.
pub(crate) const MATH4: Math4 = Math4 { exp: exp4, log: log4, tanh: tanh4 };

// ln 2 in two parts, the first with few enough bits for exact products with exponents.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
/// Coefficients of P, constant first, in `exp(r) - 1` = r + r^2 P(r) of r in `-ln2/2 ..= ln2/2`, truncated at a fifth of an
/// ulp.
const EXP_M1: [f32; 5] = [0.5, 0.166_665_77, 0.041_666_556, 0.008_363_179, 0.001_392_618_4];

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn set(x: f32) -> __m256 {
    _mm256_set1_ps(x)
}

/// `exp(r) - 1` of r in `-ln2/2 ..= ln2/2`. The polynomial is split in halves (Estrin): a short chain, not few operations,
/// is what counts between independent lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn exp_m1_reduced(r: __m256) -> __m256 {
    let square = _mm256_mul_ps(r, r);
    let low = _mm256_fmadd_ps(set(EXP_M1[1]), r, set(EXP_M1[0]));
    let high = _mm256_fmadd_ps(set(EXP_M1[3]), r, set(EXP_M1[2]));
    let high = _mm256_fmadd_ps(set(EXP_M1[4]), square, high);
    let p = _mm256_fmadd_ps(high, square, low);
    _mm256_fmadd_ps(p, square, r)
}

/// [`softmax::exp_nonpositive`] of two vectors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn exp_nonpositive(x: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: this function has the instruction set.
    unsafe { [softmax::exp_nonpositive(x[0], None), softmax::exp_nonpositive(x[1], None)] }
}

/// `exp` of any x.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn exp(x: __m256) -> __m256 {
    let x = _mm256_max_ps(set(-105.0), _mm256_min_ps(set(89.0), x));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        set(core::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, set(LN2_HI), x);
    let r = _mm256_fnmadd_ps(n, set(LN2_LO), r);
    // The power in two factors: it may be 2^128, or less than the smallest normal number.
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let power = |n| {
        let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    };
    let (first, second) = (power(half), power(_mm256_sub_epi32(n, half)));
    _mm256_mul_ps(_mm256_fmadd_ps(exp_m1_reduced(r), first, first), second)
}

/// Natural logarithm; polynomial of Cephes' `logf`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn log(x: __m256) -> __m256 {
    let subnormal = _mm256_cmp_ps::<_CMP_LT_OQ>(x, set(f32::MIN_POSITIVE));
    let scaled = _mm256_blendv_ps(x, _mm256_mul_ps(x, set(33_554_432.0)), subnormal);
    let lost = _mm256_and_ps(subnormal, set(25.0));
    // x = 2^e (1 + f) with 1 + f between the roots of 1/2 and 2.
    let bits = _mm256_castps_si256(scaled);
    let root = _mm256_set1_epi32(core::f32::consts::FRAC_1_SQRT_2.to_bits() as i32);
    let e = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, root));
    let f = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(e)));
    let f = _mm256_sub_ps(f, set(1.0));
    let e = _mm256_sub_ps(_mm256_cvtepi32_ps(e), lost);

    let mut p = set(7.037_683_6e-2);
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = _mm256_fmadd_ps(p, f, set(c));
    }
    let square = _mm256_mul_ps(f, f);
    let y = _mm256_mul_ps(_mm256_mul_ps(p, f), square);
    let y = _mm256_fmadd_ps(e, set(LN2_LO), y);
    let y = _mm256_fnmadd_ps(square, set(0.5), y);
    let y = _mm256_fmadd_ps(e, set(LN2_HI), _mm256_add_ps(f, y));

    // Comparisons are false for NaN and true for what follows, so NaN and negative numbers give NaN.
    let infinite = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, set(f32::INFINITY));
    let y = _mm256_blendv_ps(y, x, infinite);
    let zero = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, set(0.0));
    let y = _mm256_blendv_ps(y, set(f32::NEG_INFINITY), zero);
    let outside = _mm256_cmp_ps::<_CMP_NGE_UQ>(x, set(0.0));
    _mm256_blendv_ps(y, set(f32::NAN), outside)
}

/// Coefficients, highest first, of P in `tanh(x)` = x + x^3 P(x^2) of x in `-0.625 ..= 0.625`.
pub(crate) const TANH: [f32; 5] = [-5.704_988_6e-3, 2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1];

/// Hyperbolic tangent: Cephes' polynomial near 0, by `exp` elsewhere.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn tanh(x: __m256) -> __m256 {
    let sign = _mm256_and_ps(x, set(-0.0));
    let size = _mm256_andnot_ps(set(-0.0), x);
    let square = _mm256_mul_ps(x, x);
    let mut p = set(TANH[0]);
    for &c in &TANH[1..] {
        p = _mm256_fmadd_ps(p, square, set(c));
    }
    let near = _mm256_fmadd_ps(_mm256_mul_ps(p, square), size, size);
    let grown = exp(_mm256_add_ps(size, size));
    let far = _mm256_sub_ps(set(1.0), _mm256_div_ps(set(2.0), _mm256_add_ps(grown, set(1.0))));
    let is_near = _mm256_cmp_ps::<_CMP_LT_OQ>(size, set(0.625));
    _mm256_or_ps(_mm256_blendv_ps(far, near, is_near), sign)
}

macro_rules! entry {
    ($one:ident, $four:ident, $eight:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe extern "C" fn $one(x: f32) -> f32 {
            _mm256_cvtss_f32($eight(set(x)))
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        #[allow(improper_ctypes_definitions, reason = "a vector register is a machine type of the C ABI on x86-64")]
        unsafe extern "C" fn $four(x: __m128) -> __m128 {
            _mm256_castps256_ps128($eight(_mm256_zextps128_ps256(x)))
        }
    };
}
entry!(exp1, exp4, exp);
entry!(log1, log4, log);
entry!(tanh1, tanh4, tanh);
