//! What this machine can do at most: fused multiply-adds and reads of memory.
//!
//! The one idea: bursts of known work without a clock or threads; the caller times them and runs
//! them side by side. Nothing here knows of attention.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512};

/// Independent accumulators: two units times a latency of four or five cycles, and some to spare.
const CHAINS: usize = 12;

/// Runs `iterations` rounds of 12 independent multiply-adds on the widest vectors of `isa`, or of the target's
/// baseline where this machine lacks it. Returns the FLOPs executed and a number that keeps them from being left out.
#[must_use]
pub fn fma_burst(isa: Isa, iterations: u64) -> (u64, f32) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: detection succeeded.
        Isa::Avx512 if Avx512::detect().is_some() => unsafe { fma_burst_avx512(iterations) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: detection succeeded.
        Isa::Avx2 if Avx2::detect().is_some() => unsafe { fma_burst_avx2(iterations) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE2.
        _ => unsafe { fma_burst_sse2(iterations) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => fma_burst_plain(iterations),
    }
}

/// Vectors of four; left to itself the compiler spills the accumulators.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn fma_burst_sse2(iterations: u64) -> (u64, f32) {
    use core::arch::x86_64::*;

    let a = _mm_set1_ps(core::hint::black_box(0.999));
    let b = _mm_set1_ps(core::hint::black_box(0.001));
    let mut x = [_mm_set1_ps(1.0); CHAINS];
    for _ in 0..iterations {
        for x in &mut x {
            *x = _mm_add_ps(_mm_mul_ps(*x, a), b);
        }
    }
    let sum = x.into_iter().fold(_mm_setzero_ps(), |sum, x| _mm_add_ps(sum, x));
    (iterations * 2 * (CHAINS * 4) as u64, _mm_cvtss_f32(sum))
}

#[cfg(not(target_arch = "x86_64"))]
fn fma_burst_plain(iterations: u64) -> (u64, f32) {
    let (a, b) = (core::hint::black_box(0.999_f32), core::hint::black_box(0.001_f32));
    let mut x = [1.0f32; CHAINS * 4];
    for _ in 0..iterations {
        for x in &mut x {
            *x = *x * a + b;
        }
    }
    (iterations * 2 * (CHAINS * 4) as u64, x.iter().sum())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn fma_burst_avx2(iterations: u64) -> (u64, f32) {
    use core::arch::x86_64::*;

    let a = _mm256_set1_ps(core::hint::black_box(0.999));
    let b = _mm256_set1_ps(core::hint::black_box(0.001));
    let mut x = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..iterations {
        for x in &mut x {
            *x = _mm256_fmadd_ps(*x, a, b);
        }
    }
    let sum = x.into_iter().fold(_mm256_setzero_ps(), |sum, x| _mm256_add_ps(sum, x));
    (iterations * 2 * (CHAINS * 8) as u64, _mm256_cvtss_f32(sum))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fma_burst_avx512(iterations: u64) -> (u64, f32) {
    use core::arch::x86_64::*;

    let a = _mm512_set1_ps(core::hint::black_box(0.999));
    let b = _mm512_set1_ps(core::hint::black_box(0.001));
    let mut x = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..iterations {
        for x in &mut x {
            *x = _mm512_fmadd_ps(*x, a, b);
        }
    }
    let sum = x.into_iter().fold(_mm512_setzero_ps(), |sum, x| _mm512_add_ps(sum, x));
    (iterations * 2 * (CHAINS * 16) as u64, _mm512_cvtss_f32(sum))
}

/// Reads every element once, in order, and returns their sum (in no particular order): the
/// bandwidth of the level of memory that holds them.
#[must_use]
pub fn read_burst(data: &[f32]) -> f32 {
    let mut sum = [0.0f32; 64];
    let chunks = data.chunks_exact(sum.len());
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (sum, x) in sum.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    rest + sum.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_do_the_work_they_state() {
        for (isa, _) in Isa::available() {
            let (flops, sink) = fma_burst(isa, 1000);
            assert!(flops >= 2 * 1000 * CHAINS as u64 && sink.is_finite() && sink > 0.0);
            assert_eq!(fma_burst(isa, 3000).0, 3 * flops);
        }
    }

    #[test]
    fn reading_reaches_every_element() {
        for n in [0, 1, 63, 64, 65, 1000] {
            assert_eq!(read_burst(&vec![1.0; n]), n as f32);
        }
    }
}
