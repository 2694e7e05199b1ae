//! Merges from their definition: outputs of other attentions, weighed or averaged.

use super::attend::{OracleError, RowFacts};
use super::entries::queries;
use super::eval::Evaluator;
use super::fault::Point;
use super::head::{HeadOf, Rows};
use super::level::size;
use super::sources::Matrix;
use crate::program::{Branches, Merge, MergeKind};

impl HeadOf<'_> {
    /// The output of a merge, which has no log-sum-exp.
    pub(super) fn merge(self, merge: &Merge) -> Result<Rows, OracleError> {
        let n = self.env.n_q as usize;
        let cols = self.sources.v.first().map_or(0, |v| v.cols);
        let mut sum = Rows {
            out: Matrix { data: vec![0.0; n * cols], cols },
            lse: vec![f64::NAN; n],
            facts: vec![RowFacts { merged: true, ..RowFacts::default() }; n],
        };
        match &merge.kind {
            MergeKind::Mean { branches: Some(branches) } => self.over(branches, merge.arms[0], &mut sum)?,
            MergeKind::Mean { branches: None } => {
                let share = 1.0 / merge.arms.len() as f64;
                for &arm in &merge.arms {
                    add(&mut sum, &self.attend(arm)?, |_, _| Ok(Some(share)))?;
                }
            }
            MergeKind::Gate(gates) => {
                for (&arm, &gate) in merge.arms.iter().zip(gates) {
                    let mut evaluator = Evaluator::new(self.program, self.env, &[gate]);
                    let q = |row: usize| self.env.q_start + row as i64;
                    add(&mut sum, &self.attend(arm)?, |row, c| {
                        let point = Point { q: Some(q(row)), slot: Some(c as i64), ..Point::default() };
                        Ok(Some(evaluator.real(gate, point)?))
                    })?;
                }
            }
        }
        Ok(sum)
    }

    /// The mean over the branches that a query takes part in.
    fn over(self, branches: &Branches, arm: usize, sum: &mut Rows) -> Result<(), OracleError> {
        let n = sum.facts.len();
        let mut taken = vec![0_u32; n];
        for branch in 0..size(self.program, self.env, branches.count)? {
            let env = crate::env::Env { branch, ..self.env.clone() };
            let inner = HeadOf { env: &env, ..self };
            let mut takes = vec![true; n];
            if let Some(set) = branches.takes {
                let mut evaluator = Evaluator::new(self.program, &env, &[set]);
                for (takes, q) in takes.iter_mut().zip(queries(&env)) {
                    *takes = evaluator.truth(set, Point { q: Some(q), ..Point::default() })?;
                }
            }
            taken.iter_mut().zip(&takes).for_each(|(n, &t)| *n += u32::from(t));
            add(sum, &inner.attend(arm)?, |row, _| Ok(takes[row].then_some(1.0)))?;
        }
        for (row, &taken) in taken.iter().enumerate() {
            if taken > 0 {
                let cols = sum.out.cols;
                sum.out.data[row * cols..(row + 1) * cols].iter_mut().for_each(|o| *o /= f64::from(taken));
            }
        }
        Ok(())
    }
}

/// Adds the rows of an arm, each channel with its weight; `None` leaves a row out.
fn add(
    sum: &mut Rows,
    arm: &Rows,
    mut weight: impl FnMut(usize, usize) -> Result<Option<f64>, OracleError>,
) -> Result<(), OracleError> {
    let cols = sum.out.cols;
    for row in 0..sum.facts.len() {
        let mut largest = None;
        for c in 0..cols {
            if let Some(weight) = weight(row, c)? {
                sum.out.data[row * cols + c] += weight * arm.out.row(row)[c];
                largest = Some(largest.unwrap_or(0.0_f64).max(weight.abs()));
            }
        }
        if let Some(largest) = largest {
            let mut facts = arm.facts[row];
            facts.max_value *= largest.max(1.0);
            sum.facts[row].join(&facts);
        }
    }
    Ok(())
}
