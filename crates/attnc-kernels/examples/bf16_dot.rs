//! What dot products of bf16 pairs (AVX512-BF16) could gain: their rate beside that of single-precision multiply-adds.
//!
//! ```sh
//! cargo run --release -p attnc-kernels --example bf16_dot
//! ```
//!
//! One dot product does the work of two multiply-adds. Prints how many of each a core does in a nanosecond, best of 50
//! bursts, with 12 independent accumulators; both from registers, and with one operand broadcast from memory, as kernels
//! use them.

use std::io::{self, Write};

#[cfg(target_arch = "x86_64")]
fn main() -> io::Result<()> {
    let mut out = io::stdout();
    if !(std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bf16")) {
        return writeln!(out, "this CPU lacks AVX512-BF16");
    }
    let k = [0x3f80_3f80_u32; 64];
    let mut lines = Vec::new();
    // SAFETY: detection succeeded.
    unsafe {
        lines.push(("multiply-adds, registers", best(|n| burst::singles(n, None))));
        lines.push(("dot products, registers", best(|n| burst::pairs(n, None))));
        lines.push(("multiply-adds, broadcast", best(|n| burst::singles(n, Some(&k)))));
        lines.push(("dot products, broadcast", best(|n| burst::pairs(n, Some(&k)))));
    }
    for (what, rate) in &lines {
        writeln!(out, "{what}: {rate:.2} vectors a nanosecond")?;
    }
    for (i, from) in [(0, "registers"), (2, "memory")] {
        let ratio = 2.0 * lines[i + 1].1 / lines[i].1;
        writeln!(out, "work of dot products over that of multiply-adds, {from}: {ratio:.2}")?;
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> io::Result<()> {
    writeln!(io::stdout(), "this CPU is no x86-64")
}

/// Instructions a nanosecond, of bursts of a number of rounds that return how many they did.
#[cfg(target_arch = "x86_64")]
fn best(burst: impl Fn(usize) -> usize) -> f64 {
    let time = || {
        let begin = std::time::Instant::now();
        let done = burst(20_000);
        done as f64 / begin.elapsed().as_nanos() as f64
    };
    (0..50).map(|_| time()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
mod burst {
    use core::arch::x86_64::*;
    use core::hint::black_box;

    /// Independent accumulators.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn singles(rounds: usize, k: Option<&[u32; 64]>) -> usize {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut sum = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            match k {
                None => sum.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(a, b, *sum)),
                Some(k) => {
                    for (sum, k) in sum.iter_mut().zip(black_box(k)) {
                        *sum = _mm512_fmadd_ps(a, _mm512_set1_ps(f32::from_bits(*k)), *sum);
                    }
                }
            }
        }
        black_box(sum);
        rounds * CHAINS
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn pairs(rounds: usize, k: Option<&[u32; 64]>) -> usize {
        // SAFETY: both types are 64 bytes in which every bit pattern is a value.
        let of = |x: u32| unsafe { core::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x as i32)) };
        let (a, b) = (of(black_box(0x3f00_3f00)), of(black_box(0x3e80_3e80)));
        let mut sum = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            match k {
                None => sum.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, a, b)),
                Some(k) => {
                    for (sum, k) in sum.iter_mut().zip(black_box(k)) {
                        *sum = _mm512_dpbf16_ps(*sum, a, of(*k));
                    }
                }
            }
        }
        black_box(sum);
        rounds * CHAINS
    }
}
