//! Random patterns, odd sizes, every target against the oracle with every optional pass, with none and with some. What fails shrinks to a pattern that a person can read.

use attnc::DType;
use attnc_tests::compare::{Case, against_oracle, against_oracle_on_gpu, has_gpu};
use attnc_tests::generate::{Forms, Set, chosen, set};
use proptest::prelude::*;

/// An attention over a random set: rows may be empty, and the two may be of different lengths.
fn attention(set: &Set) -> String {
    format!("attention any {{\n  align = end\n  empty = zero\n  require 0 <= n_q & 0 <= n_k\n  attend {set}\n}}\n")
}

/// An attention on a grid with orders.
fn on_grid(set: &Set) -> String {
    format!("space grid(h, w)\n\norder curve = hilbert(h, w)\norder columns = raster(w, h)\n\n{}", attention(set))
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() }
}

/// Shaders take a driver longer than kernels take us.
fn few() -> ProptestConfig {
    ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn on_a_gpu(set in set(Forms::default()), n in 0usize..150, short in 0usize..40, seed in 0u64..99) {
        if has_gpu() {
            let dtype = if seed % 2 == 0 { DType::F16 } else { DType::F32 };
            let case = Case { lengths: (n.saturating_sub(short), n), seed, dtype, ..Case::default() };
            against_oracle_on_gpu(&attention(&set), &case).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn grids_on_a_gpu(set in set(Forms { grid: true, docs: false }), h in 6i64..13, w in 6i64..17, seed in 0u64..99) {
        if has_gpu() {
            let sizes = vec![("grid.h".to_string(), h), ("grid.w".to_string(), w)];
            let n = (h * w) as usize;
            let case = Case { lengths: (n, n), sizes, seed, dtype: DType::F16, ..Case::default() };
            against_oracle_on_gpu(&on_grid(&set), &case).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn documents_on_a_gpu(set in set(Forms { grid: false, docs: true }), n in 1usize..150, seed in 0u64..99) {
        if has_gpu() {
            let case = Case { lengths: (n, n), seed, ..Case::default() };
            against_oracle_on_gpu(&attention(&set), &case).map_err(TestCaseError::fail)?;
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn on_a_line(set in set(Forms::default()), n in 0usize..150, short in 0usize..40, seed in 0u64..99) {
        let case = Case { lengths: (n.saturating_sub(short), n), seed, ..Case::default() };
        against_oracle(&attention(&set), &case).map_err(TestCaseError::fail)?;
    }

    /// Queries that other heads' are folded with, and somewhat more.
    #[test]
    fn of_few_queries(set in set(Forms::default()), n_q in 1usize..20, n in 1usize..300, groups in 1usize..3, seed in 0u64..99) {
        let case = Case { lengths: (n_q, n.max(n_q)), heads: (4, groups), seed, ..Case::default() };
        against_oracle(&attention(&set), &case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn on_a_grid(set in set(Forms { grid: true, docs: false }), h in 6i64..13, w in 6i64..17, seed in 0u64..99) {
        let sizes = vec![("grid.h".to_string(), h), ("grid.w".to_string(), w)];
        let n = (h * w) as usize;
        let case = Case { lengths: (n, n), sizes, seed, ..Case::default() };
        against_oracle(&on_grid(&set), &case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn over_documents(set in set(Forms { grid: false, docs: true }), n in 1usize..150, short in 0usize..40, seed in 0u64..99) {
        let case = Case { lengths: (n - short.min(n - 1), n), seed, ..Case::default() };
        against_oracle(&attention(&set), &case).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn over_what_is_chosen(chosen in chosen(), n in 1usize..150, seed in 0u64..99) {
        let case = Case { lengths: (n, n), seed, ..Case::default() };
        against_oracle(&chosen.to_string(), &case).map_err(TestCaseError::fail)?;
    }
}
