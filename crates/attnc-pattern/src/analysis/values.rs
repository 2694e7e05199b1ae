//! Real expressions over a query and a channel, as numbers: weights of outputs.

use super::rows::EvalError;
use super::tape::{Builder, Code, Machine, Slot, Tape};
use crate::env::Env;
use crate::expr::{ExprId, Var};
use crate::program::Program;

/// A compiled real over `Q` and `Channel`.
#[derive(Clone, Debug)]
pub struct Values {
    tape: Tape,
    value: Slot,
    by_channel: Code,
    by_query: bool,
}

impl Values {
    /// Compiles an expression of a program.
    #[must_use]
    pub fn new(program: &Program, expr: ExprId) -> Values {
        let mut builder = Builder::new(program, &[expr]);
        let (value, by_channel) = (builder.slot(expr), builder.key_code(&[expr]));
        let by_query = program.exprs.reads(expr, |v| v == Var::Q);
        Values { tape: builder.finish(), value, by_channel, by_query }
    }

    /// Whether queries have values of their own.
    #[must_use]
    pub fn by_query(&self) -> bool {
        self.by_query
    }

    /// The values of channels from 0 on, for the query at position `q`.
    ///
    /// # Errors
    /// Data that is missing, and integers that do not fit.
    pub fn row(&self, env: &Env<'_>, q: i64, channels: &mut [f32]) -> Result<(), EvalError> {
        let mut machine = Machine::new(&self.tape, env)?;
        machine.set_row(q);
        for (channel, value) in channels.iter_mut().enumerate() {
            machine.set_key(channel as i64, &self.by_channel);
            *value = f64::from_bits(machine.get(self.value) as u64) as f32;
        }
        if machine.overflowed() { Err(EvalError::Overflow { q }) } else { Ok(()) }
    }
}
