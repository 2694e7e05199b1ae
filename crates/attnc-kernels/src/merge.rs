//! Joining two attentions over disjoint keys.
//!
//! The one idea: an output with its log-sum-exp is all that is needed of a part. Nothing here knows of tiles.

use core::fmt;

/// Why [`merge`] refused its slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// The two `lse` have different numbers of rows.
    Rows {
        /// Rows of the first.
        first: usize,
        /// Rows of the second.
        second: usize,
    },
    /// The two outputs have different lengths.
    Outputs {
        /// Elements of the first.
        first: usize,
        /// Elements of the second.
        second: usize,
    },
    /// The elements of an output are no multiple of the rows.
    Ragged {
        /// Elements of an output.
        elements: usize,
        /// Rows.
        rows: usize,
    },
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MergeError::Rows { first, second } => {
                write!(f, "lse of {first} rows cannot be merged with lse of {second}")
            }
            MergeError::Outputs { first, second } => {
                write!(f, "an output of {first} elements cannot be merged with one of {second}")
            }
            MergeError::Ragged { elements, rows } => write!(f, "{elements} elements do not make {rows} equal rows"),
        }
    }
}

impl core::error::Error for MergeError {}

/// Merges the attention `(o2, lse2)` into `(o1, lse1)`.
///
/// Outputs are `[rows][dv]`, contiguous; `lse` has one number a row. With `lse = log(exp lse1 + exp lse2)`,
///
/// ```text
/// o = exp(lse1 - lse) o1 + exp(lse2 - lse) o2
/// ```
///
/// A part with `lse = -inf` (an empty row) leaves the other as it is, bit for bit, whatever its output
/// holds; two of them give `o = 0`, `lse = -inf`. NaN and `+inf` in a `lse` give NaN. The result is the same, bit for bit, with
/// the parts exchanged.
///
/// # Errors
/// If the lengths do not fit; nothing is written then.
pub fn merge(o1: &mut [f32], lse1: &mut [f32], o2: &[f32], lse2: &[f32]) -> Result<(), MergeError> {
    let rows = lse1.len();
    if lse2.len() != rows {
        return Err(MergeError::Rows { first: rows, second: lse2.len() });
    }
    if o2.len() != o1.len() {
        return Err(MergeError::Outputs { first: o1.len(), second: o2.len() });
    }
    if if rows == 0 { !o1.is_empty() } else { !o1.len().is_multiple_of(rows) } {
        return Err(MergeError::Ragged { elements: o1.len(), rows });
    }
    if o1.is_empty() {
        merge_lse(lse1, lse2);
        return Ok(());
    }
    let dv = o1.len() / rows;
    let parts = o1.chunks_exact_mut(dv).zip(o2.chunks_exact(dv)).zip(lse1.iter().zip(lse2));
    for ((a, b), (&la, &lb)) in parts {
        match (la == f32::NEG_INFINITY, lb == f32::NEG_INFINITY) {
            (true, true) => a.fill(0.0),
            (true, false) => a.copy_from_slice(b),
            (false, true) => {}
            (false, false) => {
                let top = la.max(lb);
                let (wa, wb) = ((la - top).exp(), (lb - top).exp());
                let sum = wa + wb;
                for (x, &y) in a.iter_mut().zip(b) {
                    *x = (*x * wa + y * wb) / sum;
                }
            }
        }
    }
    merge_lse(lse1, lse2);
    Ok(())
}

fn merge_lse(lse1: &mut [f32], lse2: &[f32]) {
    for (a, &b) in lse1.iter_mut().zip(lse2) {
        *a = match (*a == f32::NEG_INFINITY, b == f32::NEG_INFINITY) {
            (true, _) => b,
            (false, true) => *a,
            (false, false) => {
                let top = a.max(b);
                top + ((*a - top).exp() + (b - top).exp()).ln()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: f32 = f32::NEG_INFINITY;

    #[test]
    fn agrees_with_the_formula() {
        let (mut o, mut lse) = (vec![1.0, 2.0, 3.0, 4.0], vec![0.5, -20.0]);
        merge(&mut o, &mut lse, &[5.0, 6.0, 7.0, 8.0], &[1.5, 80.0]).unwrap();
        let joint = (0.5f64.exp() + 1.5f64.exp()).ln();
        let expected = (0.5 - joint).exp() + 5.0 * (1.5 - joint).exp();
        assert!((f64::from(o[0]) - expected).abs() < 1e-6);
        assert!((f64::from(lse[0]) - joint).abs() < 1e-6);
        assert_eq!((&o[2..], lse[1]), (&[7.0, 8.0][..], 80.0));
    }

    #[test]
    fn empty_parts_are_neutral() {
        let (mut o, mut lse) = (vec![f32::NAN, 3.0, f32::INFINITY], vec![EMPTY, 0.1, EMPTY]);
        merge(&mut o, &mut lse, &[7.0, f32::NAN, f32::NAN], &[0.3, EMPTY, EMPTY]).unwrap();
        assert_eq!((o, lse), (vec![7.0, 3.0, 0.0], vec![0.3, 0.1, EMPTY]));
    }

    #[test]
    fn nan_and_overflow_are_not_hidden() {
        let (mut o, mut lse) = (vec![1.0, 1.0], vec![f32::NAN, f32::INFINITY]);
        merge(&mut o, &mut lse, &[2.0, 2.0], &[0.0, 0.0]).unwrap();
        assert!(o.iter().chain(&lse).all(|x| x.is_nan()), "{o:?} {lse:?}");
    }

    #[test]
    fn order_of_parts_does_not_matter() {
        let (a, la) = ([0.1f32, 0.7, -3.3], [1.25f32, -0.75, 9.0]);
        let (b, lb) = ([1.9f32, -0.7, 0.3], [0.5f32, 2.25, 8.5]);
        let (mut x, mut lx) = (a, la);
        let (mut y, mut ly) = (b, lb);
        merge(&mut x, &mut lx, &b, &lb).unwrap();
        merge(&mut y, &mut ly, &a, &la).unwrap();
        assert_eq!((x, lx), (y, ly));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (mut o, mut lse) = (vec![0.0; 6], vec![0.0; 2]);
        assert_eq!(merge(&mut o, &mut lse, &[0.0; 6], &[0.0; 3]), Err(MergeError::Rows { first: 2, second: 3 }));
        assert_eq!(merge(&mut o, &mut lse, &[0.0; 4], &[0.0; 2]), Err(MergeError::Outputs { first: 6, second: 4 }));
        assert_eq!(
            merge(&mut o, &mut [0.0; 4], &[0.0; 6], &[0.0; 4]),
            Err(MergeError::Ragged { elements: 6, rows: 4 })
        );
        assert_eq!(merge(&mut [1.0], &mut [], &[1.0], &[]), Err(MergeError::Ragged { elements: 1, rows: 0 }));
        assert_eq!(merge(&mut [], &mut [0.0], &[], &[0.0]), Ok(()));
    }
}
