//! What this machine can do at most: fused multiply-adds and reads of memory.
//!
//! The one idea: bursts of known work without a clock or threads; the caller times them and runs
//! them side by side, as [`read_bandwidth`] does with reads. Nothing here knows of attention.

use std::sync::Barrier;
use std::time::Instant;

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
    #[cfg(target_arch = "x86_64")]
    if Avx2::detect().is_some() {
        // SAFETY: detection succeeded.
        return unsafe { read_burst_avx2(data) };
    }
    read_burst_plain(data)
}

/// Singles ahead of those being read that memory is asked for: reading waits for nothing else.
#[cfg(target_arch = "x86_64")]
const READ_AHEAD: usize = 2048;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn read_burst_avx2(data: &[f32]) -> f32 {
    use core::arch::x86_64::*;

    let mut sum = [_mm256_setzero_ps(); 8];
    let chunks = data.chunks_exact(8 * sum.len());
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for line in 0..4 {
            _mm_prefetch::<_MM_HINT_T1>(chunk.as_ptr().wrapping_add(READ_AHEAD + 16 * line).cast());
        }
        for (sum, x) in sum.iter_mut().zip(chunk.chunks_exact(8)) {
            // SAFETY: eight elements.
            *sum = unsafe { _mm256_add_ps(*sum, _mm256_loadu_ps(x.as_ptr())) };
        }
    }
    let mut lanes = [0.0f32; 8];
    // SAFETY: room for eight elements.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), sum.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b)))
    };
    rest + lanes.iter().sum::<f32>()
}

/// Bytes a second that `threads` threads read side by side from `bytes` bytes of memory, each its own share in order: the
/// best of five rounds.
#[must_use]
pub fn read_bandwidth(threads: usize, bytes: usize) -> f64 {
    let threads = threads.max(1);
    let share = (bytes / size_of::<f32>() / threads).max(1);
    // Not zero, so that every page is memory of its own.
    let data = vec![1.0f32; share * threads];
    let mut best = 0.0f64;
    for _ in 0..5 {
        let barrier = Barrier::new(threads);
        let read = |part: &[f32]| {
            barrier.wait();
            let begin = Instant::now();
            core::hint::black_box(read_burst(part));
            (begin, Instant::now())
        };
        let times: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = data.chunks(share).map(|part| scope.spawn(|| read(part))).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let begin = times.iter().map(|t| t.0).min();
        let end = times.iter().map(|t| t.1).max();
        if let Some((begin, end)) = begin.zip(end) {
            let seconds = end.duration_since(begin).as_secs_f64().max(1e-9);
            best = best.max((data.len() * size_of::<f32>()) as f64 / seconds);
        }
    }
    best
}

fn read_burst_plain(data: &[f32]) -> f32 {
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
    fn bandwidth_is_a_rate() {
        for (threads, bytes) in [(0, 0), (1, 1 << 20), (3, 1 << 20)] {
            let rate = read_bandwidth(threads, bytes);
            assert!(rate.is_finite() && rate > 0.0);
        }
    }

    #[test]
    fn reading_reaches_every_element() {
        for n in [0, 1, 63, 64, 65, 1000] {
            assert_eq!(read_burst(&vec![1.0; n]), n as f32);
            assert_eq!(read_burst_plain(&vec![1.0; n]), n as f32);
        }
    }
}
