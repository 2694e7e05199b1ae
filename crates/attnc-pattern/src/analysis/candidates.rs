//! Candidates of a draw from the closed forms of its set: what the oracle finds by trying every unit.

use std::ops::Range;

use super::{EvalError, Role, RowWalker, Rows, row_set};
use crate::env::Env;
use crate::expr::DrawId;
use crate::program::{DrawScope, Program};

/// The candidate set of a draw, compiled once for any lengths.
#[derive(Clone, Debug)]
pub struct Candidates {
    rows: Rows,
    unit: i64,
    scope: DrawScope,
}

impl Candidates {
    /// Analyses the set of a draw.
    #[must_use]
    pub fn new(program: &Program, draw: DrawId) -> Self {
        let mut program = program.clone();
        let of = program.draw(draw).of;
        let found = row_set(&mut program, of, Role::Row);
        let draw = program.draw(draw);
        Candidates { rows: Rows::new(&program, &found.rows), unit: draw.unit, scope: draw.scope }
    }

    /// Candidates in one environment, which holds the draws that the set itself reads.
    ///
    /// # Errors
    /// Data that the environment lacks.
    pub fn walker<'a>(&'a self, env: &'a Env<'a>) -> Result<CandidateWalker<'a>, EvalError> {
        Ok(CandidateWalker { walker: self.rows.walker(env)?, unit: self.unit, scope: self.scope })
    }
}

/// Gives the candidates of one row after the other.
#[derive(Clone, Debug)]
pub struct CandidateWalker<'a> {
    walker: RowWalker<'a>,
    unit: i64,
    scope: DrawScope,
}

impl CandidateWalker<'_> {
    /// Appends the candidates of row `row`, in units, as disjoint ascending ranges: the units whose first
    /// position is in the set of the query at the first position of the row's unit.
    ///
    /// # Errors
    /// An integer that does not fit 64 bits.
    pub fn row(&mut self, row: i64, found: &mut Vec<Range<i64>>) -> Result<(), EvalError> {
        let q = match self.scope {
            DrawScope::Row => row * self.unit,
            DrawScope::Head => 0,
        };
        for keys in self.walker.row(q)?.ranges() {
            // ceil(start / unit) .. ceil(end / unit); positions are not negative.
            let units = (keys.start() + self.unit - 1) / self.unit..(keys.end() + self.unit) / self.unit;
            if units.start < units.end {
                found.push(units);
            }
        }
        Ok(())
    }
}
