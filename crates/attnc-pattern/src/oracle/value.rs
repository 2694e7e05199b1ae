//! Values and arithmetic: integers exact (128 bits, checked), division flooring, reals in f64.

use super::fault::FaultKind;
use crate::expr::{Bin, Cmp, Un};

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i128),
    /// A real.
    Real(f64),
    /// A truth value.
    Bool(bool),
}

/// An element, by an index that may lie anywhere.
pub(super) fn at<T: Copy>(items: &[T], index: i128) -> Result<T, FaultKind> {
    usize::try_from(index).ok().and_then(|i| items.get(i)).copied().ok_or(FaultKind::OutOfRange)
}

/// An operation with one operand that reads nothing else.
pub(super) fn unary(op: Un, a: Value) -> Result<Value, FaultKind> {
    Ok(match (op, a) {
        (Un::Neg, Value::Real(x)) => Value::Real(-x),
        (Un::Abs, Value::Real(x)) => Value::Real(x.abs()),
        (Un::Exp, Value::Real(x)) => Value::Real(x.exp()),
        (Un::Log, Value::Real(x)) => Value::Real(x.ln()),
        (Un::Sqrt, Value::Real(x)) => Value::Real(x.sqrt()),
        (Un::Tanh, Value::Real(x)) => Value::Real(x.tanh()),
        (Un::ToReal, Value::Int(x)) => Value::Real(x as f64),
        (Un::Neg, Value::Int(x)) => Value::Int(x.checked_neg().ok_or(FaultKind::Overflow)?),
        (Un::Abs, Value::Int(x)) => Value::Int(x.checked_abs().ok_or(FaultKind::Overflow)?),
        (Un::Pow2, Value::Int(x)) if x < 0 => Value::Int(0),
        (Un::Pow2, Value::Int(x)) if x < 62 => Value::Int(1 << x),
        (Un::Pow2, Value::Int(_)) => return Err(FaultKind::Domain),
        (Un::Log2, Value::Int(x)) => Value::Int(x.checked_ilog2().map_or(-1, i128::from)),
        (Un::Isqrt, Value::Int(x)) => Value::Int(x.checked_isqrt().unwrap_or(-1)),
        _ => return Err(FaultKind::Kind),
    })
}

/// An operation with two operands of one kind.
pub(super) fn binary(op: Bin, a: Value, b: Value) -> Result<Value, FaultKind> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => {
            let divided = || a.checked_div_euclid(b).zip(a.checked_rem_euclid(b));
            let value = match op {
                Bin::Add => a.checked_add(b),
                Bin::Sub => a.checked_sub(b),
                Bin::Mul => a.checked_mul(b),
                Bin::Div | Bin::Mod if b == 0 => return Err(FaultKind::DivisionByZero),
                // Euclid's remainder is never negative; flooring gives it the sign of the divisor.
                Bin::Div => divided().map(|(q, r)| if r != 0 && b < 0 { q - 1 } else { q }),
                Bin::Mod => divided().map(|(_, r)| if r != 0 && b < 0 { r + b } else { r }),
                Bin::Min => Some(a.min(b)),
                Bin::Max => Some(a.max(b)),
            };
            value.map(Value::Int).ok_or(FaultKind::Overflow)
        }
        (Value::Real(a), Value::Real(b)) => Ok(Value::Real(match op {
            Bin::Add => a + b,
            Bin::Sub => a - b,
            Bin::Mul => a * b,
            Bin::Div => a / b,
            Bin::Mod => return Err(FaultKind::Kind),
            // A NaN stays one, whichever operand it is.
            Bin::Min | Bin::Max if a.is_nan() || b.is_nan() => f64::NAN,
            Bin::Min => a.min(b),
            Bin::Max => a.max(b),
        })),
        _ => Err(FaultKind::Kind),
    }
}

/// A comparison of two operands of one kind.
pub(super) fn compare(op: Cmp, a: Value, b: Value) -> Result<Value, FaultKind> {
    fn holds<T: PartialOrd>(op: Cmp, a: T, b: T) -> Value {
        Value::Bool(match op {
            Cmp::Lt => a < b,
            Cmp::Le => a <= b,
            Cmp::Eq => a == b,
            Cmp::Ne => a != b,
        })
    }
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(holds(op, a, b)),
        (Value::Real(a), Value::Real(b)) => Ok(holds(op, a, b)),
        _ => Err(FaultKind::Kind),
    }
}
