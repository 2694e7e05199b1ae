//! A calibration that is built in: what a CPU of the present day takes, by the vectors of its kernels.
//!
//! The one idea: whoever has to choose before a machine is known, or must choose alike on every machine, takes these
//! rates. They are those of one thread of a server CPU (Sapphire Rapids) among two, rounded; only their ratios
//! matter where alternatives are compared. What a machine really takes is measured, not guessed: [`crate::model`].
//! Nothing here knows of machines.

use crate::model::{Calibration, Rates, Term};

/// Vectors of eight singles.
const AVX2: &[(Term, f64)] = &[
    (Term::Products, 0.056),
    (Term::Softmax, 0.49),
    (Term::Masked, 0.053),
    (Term::Keys, 0.039),
    (Term::Gathered, 1.0),
    (Term::Strided, 0.78),
    (Term::Few, 0.51),
    (Term::Streamed, 0.32),
    (Term::Own, 0.077),
    (Term::Chunks, 93.0),
    (Term::Rows, 2.3),
    (Term::Tasks, 470.0),
    (Term::Tiles, 43.0),
    (Term::Bits, 8.9),
    (Term::Tested, 0.84),
    (Term::Modified, 0.05),
    (Term::Functions, 1.1),
    (Term::Lookups, 0.28),
    (Term::Ordered, 180.0),
    (Term::Launches, 4_000.0),
];

/// Vectors of sixteen singles.
const AVX512: &[(Term, f64)] = &[
    (Term::Products, 0.028),
    (Term::Softmax, 0.17),
    (Term::Masked, 0.057),
    (Term::Keys, 0.049),
    (Term::Gathered, 0.96),
    (Term::Strided, 0.85),
    (Term::Few, 0.41),
    (Term::Streamed, 0.36),
    (Term::Own, 0.053),
    (Term::Chunks, 160.0),
    (Term::Rows, 2.3),
    (Term::Tasks, 490.0),
    (Term::Tiles, 43.0),
    (Term::Bits, 9.2),
    (Term::Tested, 0.9),
    (Term::Modified, 0.02),
    (Term::Functions, 0.43),
    (Term::Lookups, 0.05),
    (Term::Ordered, 190.0),
    (Term::Launches, 4_500.0),
];

/// Bytes that stay in a cache.
const CACHE: f64 = 33_554_432.0;

fn rates(of: &[(Term, f64)]) -> Rates {
    let mut rates = Rates::default();
    for &(term, nanos) in of {
        rates[term] = nanos;
    }
    rates
}

/// The rates by which passes choose, whatever the machine: those of AVX2.
#[must_use]
pub fn reference() -> Rates {
    rates(AVX2)
}

/// What a machine with `threads` threads whose vectors hold `lanes` singles may take, where nothing was measured.
#[must_use]
pub fn calibration(lanes: usize, threads: usize) -> Calibration {
    let mut rates = if lanes >= 16 { rates(AVX512) } else { rates(AVX2) };
    if lanes < 8 {
        // Without vectors every element is on its own.
        for &term in Term::ALL.iter().filter(|t| !matches!(t, Term::Streamed | Term::Ordered | Term::Launches)) {
            rates[term] *= 8.0;
        }
    }
    Calibration { rates, threads: threads.max(1), alone: 1.0, cache: CACHE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_has_a_rate() {
        for list in [AVX2, AVX512] {
            assert!(Term::ALL.iter().all(|&term| rates(list)[term] > 0.0) && list.len() == Term::COUNT);
        }
    }

    #[test]
    fn wider_vectors_take_less() {
        let products = |lanes| calibration(lanes, 2).rates[Term::Products];
        assert!(products(16) < products(8) && products(8) < products(1));
    }
}
