//! When a target agrees with the oracle: the one place where bounds are written down.
//!
//! With D = max(D_k, D_v), u = 2^-24, max|s| and max|V| over the entries of the row,
//!
//! ```text
//! |o   - o*|   <= (16 + 4 sqrt(D)) u (1 + max|s|) max|V|  (+ 2^-10 max|V| where P is rounded to f16, 2^-7 to bf16)
//!                 + rounding of the output type
//! |lse - lse*| <= (16 + 4 sqrt(D)) u (1 + max|s|)
//! ```
//!
//! Scores s are taken after the modifier, with and without the bias, whichever is larger; -inf and other
//! non-finite ones are left out. Rounding to f16 is 2^-11 |o*| and at least half a subnormal step, to
//! bf16 2^-8 |o*|; f32 outputs may flush subnormals to 0.
//!
//! lse = -inf must be met exactly. A row that the oracle finds non-finite (its entries hold a non-finite
//! input) is not compared; every other row must be finite and within its bound. Padding is not looked at, nor the
//! log-sum-exp of a merge, which has none.

use crate::oracle::{Output, RowFacts};

/// Unit of rounding of f32.
pub const UNIT: f64 = 1.0 / 16_777_216.0;

/// Element types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// What a target rounds beyond f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rounding {
    /// Type of the output.
    pub out: Dtype,
    /// Type to which the weights P are rounded before they meet V.
    pub weights: Dtype,
}

impl Rounding {
    /// The greatest error of an output element whose true value is `exact`.
    #[must_use]
    pub fn out_bound(self, dim: usize, facts: &RowFacts, exact: f64) -> f64 {
        let weights = match self.weights {
            Dtype::F32 => 0.0,
            Dtype::F16 => 2_f64.powi(-10),
            Dtype::Bf16 => 2_f64.powi(-7),
        };
        let out = match self.out {
            Dtype::F32 => f64::from(f32::MIN_POSITIVE),
            Dtype::F16 => (2_f64.powi(-11) * exact.abs()).max(2_f64.powi(-25)),
            Dtype::Bf16 => (2_f64.powi(-8) * exact.abs()).max(f64::from(f32::MIN_POSITIVE)),
        };
        (lse_bound(dim, facts) + weights) * facts.max_value + out
    }
}

/// The greatest error of a log-sum-exp; `dim` is the larger of D_k and D_v.
#[must_use]
pub fn lse_bound(dim: usize, facts: &RowFacts) -> f64 {
    (16.0 + 4.0 * (dim as f64).sqrt()) * UNIT * (1.0 + facts.max_score)
}

/// What a target computed, read by (head, row, column) and (head, row).
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// An element of the output.
    pub out: &'a dyn Fn(usize, usize, usize) -> f64,
    /// A log-sum-exp, where the target returns one.
    pub lse: Option<&'a dyn Fn(usize, usize) -> f64>,
}

/// A place in an output; `col` is `None` for a log-sum-exp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Batch item.
    pub batch: usize,
    /// Query head.
    pub head: usize,
    /// Row.
    pub row: usize,
    /// Column.
    pub col: Option<usize>,
}

/// The error that comes nearest to its bound, or goes furthest beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Worst {
    /// Distance from the oracle; infinite where one of the two is not finite and they differ.
    pub error: f64,
    /// Its bound.
    pub bound: f64,
    /// `error / bound`: more than 1 fails.
    pub ratio: f64,
    /// Where; `None` if nothing was compared.
    pub place: Option<Place>,
}

impl Worst {
    fn see(&mut self, exact: f64, got: f64, bound: f64, place: Place) {
        let error = if exact == got { 0.0 } else { (exact - got).abs() };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        let ratio = if error == 0.0 { 0.0 } else { error / bound };
        if self.place.is_none() || ratio > self.ratio {
            *self = Worst { error, bound, ratio, place: Some(place) };
        }
    }

    fn merge(&mut self, other: Worst) {
        if other.place.is_some() && (self.place.is_none() || other.ratio > self.ratio) {
            *self = other;
        }
    }
}

/// How near a target came.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Report {
    /// Of the output.
    pub out: Worst,
    /// Of the log-sum-exp.
    pub lse: Worst,
    /// Rows compared.
    pub compared: u64,
    /// Rows not compared, because the oracle found them non-finite.
    pub non_finite: u64,
}

impl Report {
    /// Every error is within its bound.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.out.ratio <= 1.0 && self.lse.ratio <= 1.0
    }

    /// Takes in another report, of another batch item or case.
    pub fn merge(&mut self, other: &Report) {
        self.out.merge(other.out);
        self.lse.merge(other.lse);
        self.compared += other.compared;
        self.non_finite += other.non_finite;
    }
}

/// Compares a target with the oracle for one batch item.
#[must_use]
pub fn compare(oracle: &Output, target: Target<'_>, rounding: Rounding, batch: usize) -> Report {
    let [_, rows, dim_v] = oracle.shape;
    let dim = oracle.dim.max(dim_v);
    let mut report = Report::default();
    for (i, facts) in oracle.rows.iter().enumerate() {
        if facts.padding {
            continue;
        }
        let (head, row) = (i / rows, i % rows);
        let exact = &oracle.out[i * dim_v..][..dim_v];
        let lse = oracle.lse[i];
        let nothing = lse == f64::NEG_INFINITY && !facts.merged;
        if !(lse.is_finite() || nothing || facts.merged) || exact.iter().any(|o| !o.is_finite()) {
            report.non_finite += 1;
            continue;
        }
        report.compared += 1;
        for (col, &exact) in exact.iter().enumerate() {
            // A row without weight is 0 exactly.
            let bound = if nothing { 0.0 } else { rounding.out_bound(dim, facts, exact) };
            let place = Place { batch, head, row, col: Some(col) };
            report.out.see(exact, (target.out)(head, row, col), bound, place);
        }
        if let Some(got) = target.lse.filter(|_| !facts.merged) {
            let place = Place { batch, head, row, col: None };
            report.lse.see(lse, got(head, row), lse_bound(dim, facts), place);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle(out: &[f64], lse: f64, max_score: f64, max_value: f64) -> Output {
        let facts = RowFacts { entries: 1, max_score, max_value, padding: false, merged: false };
        Output { shape: [1, 1, out.len()], dim: 64, out: out.to_vec(), lse: vec![lse], rows: vec![facts] }
    }

    fn verdict(oracle: &Output, out: f64, lse: f64, rounding: Rounding) -> Report {
        compare(oracle, Target { out: &|_, _, _| out, lse: Some(&|_, _| lse) }, rounding, 3)
    }

    #[test]
    fn the_bound_is_the_one_of_the_page() {
        let oracle = oracle(&[1.0], 2.0, 5.0, 3.0);
        let unit = 48.0 * UNIT * 6.0;
        let exact = verdict(&oracle, 1.0, 2.0, Rounding::default());
        assert!(exact.passed() && exact.out.ratio == 0.0 && exact.compared == 1);
        assert!(verdict(&oracle, 1.0 + 0.99 * unit * 3.0, 2.0, Rounding::default()).passed());
        let beyond = verdict(&oracle, 1.0 - 1.01 * unit * 3.0, 2.0, Rounding::default());
        assert!(!beyond.passed());
        assert_eq!(beyond.out.place, Some(Place { batch: 3, head: 0, row: 0, col: Some(0) }));
        assert!(verdict(&oracle, 1.0, 2.0 - 0.99 * unit, Rounding::default()).passed());
        assert!(!verdict(&oracle, 1.0, 2.0 + 1.01 * unit, Rounding::default()).passed());
    }

    #[test]
    fn rounding_of_weights_and_output_widens_it() {
        let oracle = oracle(&[1.0], 0.0, 0.0, 2.0);
        let half = Rounding { out: Dtype::F16, weights: Dtype::F16 };
        let facts = &oracle.rows[0];
        let bound = 48.0 * UNIT * 2.0 + 2.0 / 1024.0 + 1.0 / 2048.0;
        assert!((half.out_bound(64, facts, 1.0) - bound).abs() < 1e-15);
        let bf16 = Rounding { out: Dtype::Bf16, weights: Dtype::Bf16 };
        assert!((bf16.out_bound(64, facts, -1.0) - (48.0 * UNIT * 2.0 + 2.0 / 128.0 + 1.0 / 256.0)).abs() < 1e-15);
        let zero = RowFacts::default();
        assert_eq!(half.out_bound(64, &zero, 0.0), 2_f64.powi(-25));
    }

    #[test]
    fn nothing_attended_is_exactly_nothing() {
        let oracle = oracle(&[0.0], f64::NEG_INFINITY, 0.0, 1.0);
        assert!(verdict(&oracle, 0.0, f64::NEG_INFINITY, Rounding::default()).passed());
        assert!(verdict(&oracle, -0.0, f64::NEG_INFINITY, Rounding::default()).passed());
        assert!(!verdict(&oracle, 1e-30, f64::NEG_INFINITY, Rounding::default()).passed());
        assert!(!verdict(&oracle, 0.0, -1e30, Rounding::default()).passed());
        assert!(!verdict(&oracle, 0.0, f64::NAN, Rounding::default()).passed());
    }

    #[test]
    fn non_finite_rows_are_skipped_and_others_must_be_finite() {
        let mut two = oracle(&[f64::NAN], f64::NAN, 0.0, 1.0);
        two.shape = [1, 2, 1];
        two.out.push(0.5);
        two.lse.push(0.0);
        two.rows.push(RowFacts { entries: 1, max_score: 0.0, max_value: 1.0, padding: false, merged: false });
        let good = compare(&two, Target { out: &|_, _, _| 0.5, lse: None }, Rounding::default(), 0);
        assert!(good.passed() && good.compared == 1 && good.non_finite == 1 && good.lse.place.is_none());
        for bad in [f64::NAN, f64::INFINITY] {
            let report = compare(&two, Target { out: &|_, _, _| bad, lse: None }, Rounding::default(), 0);
            assert!(!report.passed() && report.out.ratio.is_infinite());
            assert_eq!(report.out.place.map(|p| p.row), Some(1));
        }
    }

    #[test]
    fn the_worst_of_several_reports_stays() {
        let oracle = oracle(&[1.0], 2.0, 5.0, 3.0);
        let mut all = verdict(&oracle, 1.0, 2.0, Rounding::default());
        let bad = verdict(&oracle, 1.5, 2.0, Rounding::default());
        all.merge(&bad);
        all.merge(&verdict(&oracle, 1.0, 2.0, Rounding::default()));
        assert_eq!((all.out, all.compared), (bad.out, 3));
    }
}
