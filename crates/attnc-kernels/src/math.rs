//! `exp`, `log` and `tanh` for compiled score modifiers.
//!
//! The one idea: two tables, one real ([`Math`]) and four reals (`Math4`), that give the same bits
//! for the same input, so that a driver may take either for any score. The scalar tables
//! are the standard library's functions; those of AVX2 are polynomials with these bounds, in units in the last place:
//!
//! | function | error | notes |
//! | --- | --- | --- |
//! | `exp` | 2 ulp | subnormal results within 1 of their last place; overflow gives infinity |
//! | `log` | 2 ulp | every positive number, subnormal ones included; 0 gives -inf, below 0 NaN |
//! | `tanh` | 4 ulp | odd, exact at 0 and in the limits |
//!
//! NaN gives NaN.

use crate::abi::Math;

/// [`Math`] from the standard library.
pub(crate) const SCALAR: Math = Math { exp: scalar_exp, log: scalar_log, tanh: scalar_tanh };

extern "C" fn scalar_exp(x: f32) -> f32 {
    x.exp()
}

extern "C" fn scalar_log(x: f32) -> f32 {
    x.ln()
}

extern "C" fn scalar_tanh(x: f32) -> f32 {
    x.tanh()
}

#[cfg(target_arch = "x86_64")]
pub(crate) use four::SCALAR4;

#[cfg(target_arch = "x86_64")]
#[allow(improper_ctypes_definitions, reason = "a vector register is a machine type of the C ABI on x86-64")]
mod four {
    use core::arch::x86_64::__m128;

    use crate::abi::Math4;

    /// `Math4` from the standard library, lane by lane.
    pub(crate) const SCALAR4: Math4 = Math4 { exp, log, tanh };

    fn each(x: __m128, f: impl Fn(f32) -> f32) -> __m128 {
        // SAFETY: both types are 16 bytes in which every bit pattern is a value.
        let lanes: [f32; 4] = unsafe { core::mem::transmute(x) };
        // SAFETY: as above.
        unsafe { core::mem::transmute(lanes.map(f)) }
    }

    extern "C" fn exp(x: __m128) -> __m128 {
        each(x, f32::exp)
    }

    extern "C" fn log(x: __m128) -> __m128 {
        each(x, f32::ln)
    }

    extern "C" fn tanh(x: __m128) -> __m128 {
        each(x, f32::tanh)
    }
}
