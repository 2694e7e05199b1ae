//! Elements of tensors that are made of queries, keys and other tensors, one at a time.

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::sources::dot;
use crate::env::Env;
use crate::expr::ExprId;
use crate::program::{Hash, Program};

/// The real that a formula is at a position; `env` is that of the head.
///
/// # Errors
/// An expression without a value.
pub fn element(program: &Program, value: ExprId, env: &Env<'_>, position: i64) -> Result<f64, EvalError> {
    Evaluator::new(program, env, &[value]).real(value, Point { k: Some(position), ..Point::default() })
}

/// The bucket of a row: bit r is set where the product with plane r, a column of `planes`, is positive.
#[must_use]
pub fn bucket(hash: Hash, row: &[f64], planes: &[f64]) -> u32 {
    let bits = planes.len().checked_div(row.len()).unwrap_or(0);
    let mut number = 0;
    for r in 0..bits {
        let plane: Vec<f64> = (0..row.len()).map(|c| planes[c * bits + r]).collect();
        if dot(row, &plane) > 0.0 {
            number |= 1 << r;
        }
    }
    if hash.gray { number ^ (number >> 1) } else { number }
}
