//! Why an expression has no value, and where it was asked for one.

use attnc_syntax::diag::{Diagnostic, Span};

/// Where an expression is evaluated; variables that are `None` are errors where they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Position of the query.
    pub q: Option<i64>,
    /// Position of the key.
    pub k: Option<i64>,
    /// The score being modified.
    pub score: Option<f64>,
    /// Number of the null slot, of a slot of a level, or, in a gate, of a channel.
    pub slot: Option<i64>,
}

impl Point {
    /// A query and a key.
    #[must_use]
    pub fn pair(q: i64, k: i64) -> Self {
        Point { q: Some(q), k: Some(k), ..Point::default() }
    }
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A variable that has no value here.
    Unbound,
    /// An integer beyond 128 bits.
    Overflow,
    /// An integer divided by zero.
    DivisionByZero,
    /// An operand outside the domain of its operation.
    Domain,
    /// An index outside a tensor, map, table, draw, order or the documents.
    OutOfRange,
    /// Run-time data that was not given.
    Missing,
    /// An operand of the wrong kind; no checked program has one.
    Kind,
}

/// An expression without a value, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalError {
    /// Why.
    pub kind: FaultKind,
    /// One sentence naming what was read and the index.
    pub message: String,
    /// Where the expression was written, if it was.
    pub span: Option<Span>,
    /// Where it was evaluated.
    pub point: Point,
}

impl EvalError {
    /// As a diagnostic, `E0708`.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        let mut message = self.message.clone();
        for (name, value) in [("query", self.point.q), ("key", self.point.k)] {
            if let Some(value) = value {
                message += &format!(", at {name} {value}");
            }
        }
        let d = match self.span {
            Some(span) => Diagnostic::error("E0708", span, message, "has no value"),
            None => Diagnostic::global("E0708", message),
        };
        match self.kind {
            FaultKind::OutOfRange => d.help("keep the index in range with `min` and `max`, or give a larger tensor"),
            FaultKind::Missing => d.help("give it with the inputs of the run"),
            _ => d,
        }
    }
}
