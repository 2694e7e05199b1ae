//! Random patterns, odd sizes, every target against the oracle with every optional pass, with none and with some. What fails shrinks to a pattern that a person can read.

use attnc_tests::compare::{Case, against_oracle};
use attnc_tests::generate::{Forms, Set, set};
use proptest::prelude::*;

/// An attention over a random set: rows may be empty, and the two may be of different lengths.
fn attention(set: &Set) -> String {
    format!("attention any {{\n  align = end\n  empty = zero\n  require 0 <= n_q & 0 <= n_k\n  attend {set}\n}}\n")
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn on_a_line(set in set(Forms::default()), n in 0usize..150, short in 0usize..40, seed in 0u64..99) {
        let case = Case { lengths: (n.saturating_sub(short), n), seed, ..Case::default() };
        against_oracle(&attention(&set), &case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn on_a_grid(set in set(Forms { grid: true, docs: false }), h in 6i64..13, w in 6i64..17, seed in 0u64..99) {
        let sizes = vec![("grid.h".to_string(), h), ("grid.w".to_string(), w)];
        let n = (h * w) as usize;
        let case = Case { lengths: (n, n), sizes, seed, ..Case::default() };
        let text = format!("space grid(h, w)\n\norder curve = hilbert(h, w)\norder columns = raster(w, h)\n\n{}", attention(&set));
        against_oracle(&text, &case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn over_documents(set in set(Forms { grid: false, docs: true }), n in 1usize..150, short in 0usize..40, seed in 0u64..99) {
        let case = Case { lengths: (n - short.min(n - 1), n), seed, ..Case::default() };
        against_oracle(&attention(&set), &case).map_err(TestCaseError::fail)?;
    }
}
