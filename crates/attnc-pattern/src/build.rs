//! Constructors of expressions that fold constants and keep one spelling for equal things.
//!
//! Every rule keeps the value for all inputs; integer constants that would overflow stay unfolded
//! (the checker reports overflow in what a person wrote). Nothing here knows of queries or tiles.

use crate::expr::{Bin, Cmp, ExprId, Exprs, Node, Ty, Un, Var};

/// floor(a / b), for b != 0.
#[must_use]
pub fn floor_div(a: i64, b: i64) -> Option<i64> {
    let q = a.checked_div(b)?;
    if a % b != 0 && ((a < 0) != (b < 0)) { q.checked_sub(1) } else { Some(q) }
}

/// a - floor(a / b) * b, for b != 0: the sign of b.
#[must_use]
pub fn floor_mod(a: i64, b: i64) -> Option<i64> {
    let r = a.checked_rem(b)?;
    Some(if r != 0 && ((r < 0) != (b < 0)) { r + b } else { r })
}

impl Exprs {
    /// a + b
    pub fn add(&mut self, a: ExprId, b: ExprId) -> ExprId {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => {
                if let Some(v) = x.checked_add(y) {
                    return self.int(v);
                }
            }
            (Some(0), _) => return b,
            (_, Some(0)) => return a,
            // Constants to the right, and gathered: (x + 1) + 2 = x + 3.
            (Some(_), None) => return self.add(b, a),
            (None, Some(y)) => {
                if let Node::Bin(Bin::Add, x, c) = *self.node(a)
                    && let Some(c) = self.as_int(c)
                    && let Some(v) = c.checked_add(y)
                {
                    let v = self.int(v);
                    return self.add(x, v);
                }
                if let Node::Bin(Bin::Sub, c, x) = *self.node(a)
                    && let Some(c) = self.as_int(c)
                    && let Some(v) = c.checked_add(y)
                {
                    let v = self.int(v);
                    return self.sub(v, x);
                }
            }
            (None, None) => {}
        }
        if let (Some(x), Some(y)) = (self.as_real(a), self.as_real(b)) {
            return self.real(x + y);
        }
        self.intern(Node::Bin(Bin::Add, a, b))
    }

    /// a - b
    pub fn sub(&mut self, a: ExprId, b: ExprId) -> ExprId {
        if let (Some(x), Some(y)) = (self.as_real(a), self.as_real(b)) {
            return self.real(x - y);
        }
        if self.ty(a) == Ty::Int {
            if a == b {
                return self.int(0);
            }
            if let Some(y) = self.as_int(b)
                && let Some(v) = y.checked_neg()
            {
                let v = self.int(v);
                return self.add(a, v);
            }
            // (x + c) - x = c and x - (x + c) = -c, so that a span of constant length is seen.
            if let Node::Bin(Bin::Add, x, c) = *self.node(a) {
                if x == b {
                    return c;
                }
                if c == b {
                    return x;
                }
                if self.as_int(c).is_some() {
                    let d = self.sub(x, b);
                    return self.add(d, c);
                }
            }
            if let Node::Bin(Bin::Add, x, c) = *self.node(b)
                && let Some(v) = self.as_int(c).and_then(i64::checked_neg)
            {
                let d = self.sub(a, x);
                let v = self.int(v);
                return self.add(d, v);
            }
        }
        self.intern(Node::Bin(Bin::Sub, a, b))
    }

    /// a * b
    pub fn mul(&mut self, a: ExprId, b: ExprId) -> ExprId {
        match (self.as_int(a), self.as_int(b)) {
            (Some(x), Some(y)) => {
                if let Some(v) = x.checked_mul(y) {
                    return self.int(v);
                }
            }
            (Some(_), None) => return self.mul(b, a),
            (None, Some(0)) => return b,
            (None, Some(1)) => return a,
            _ => {}
        }
        match (self.as_real(a), self.as_real(b)) {
            (Some(x), Some(y)) => return self.real(x * y),
            (Some(1.0), _) => return b,
            (_, Some(1.0)) => return a,
            _ => {}
        }
        self.intern(Node::Bin(Bin::Mul, a, b))
    }

    /// floor(a / b) of integers, a / b of reals.
    pub fn div(&mut self, a: ExprId, b: ExprId) -> ExprId {
        match (self.as_int(a), self.as_int(b)) {
            (_, Some(1)) => return a,
            (Some(x), Some(y)) if y != 0 => {
                if let Some(v) = floor_div(x, y) {
                    return self.int(v);
                }
            }
            // (a / x) / y = a / (x y) for positive x and y.
            (None, Some(y)) if y > 0 => {
                if let Node::Bin(Bin::Div, n, x) = *self.node(a)
                    && let Some(x) = self.as_int(x)
                    && x > 0
                    && let Some(v) = x.checked_mul(y)
                {
                    let v = self.int(v);
                    return self.div(n, v);
                }
                // (x * m) / y = x * (m / y) where y divides m.
                if let Node::Bin(Bin::Mul, x, m) = *self.node(a)
                    && let Some(m) = self.as_int(m)
                    && m % y == 0
                {
                    let m = self.int(m / y);
                    return self.mul(x, m);
                }
            }
            _ => {}
        }
        if let (Some(x), Some(y)) = (self.as_real(a), self.as_real(b)) {
            return self.real(x / y);
        }
        self.intern(Node::Bin(Bin::Div, a, b))
    }

    /// a - floor(a / b) * b
    pub fn modulo(&mut self, a: ExprId, b: ExprId) -> ExprId {
        match (self.as_int(a), self.as_int(b)) {
            (_, Some(1)) => return self.int(0),
            (Some(x), Some(y)) if y != 0 => {
                if let Some(v) = floor_mod(x, y) {
                    return self.int(v);
                }
            }
            _ => {}
        }
        self.intern(Node::Bin(Bin::Mod, a, b))
    }

    /// The smaller.
    pub fn min(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.extreme(Bin::Min, a, b)
    }

    /// The larger.
    pub fn max(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.extreme(Bin::Max, a, b)
    }

    fn extreme(&mut self, op: Bin, a: ExprId, b: ExprId) -> ExprId {
        if a == b {
            return a;
        }
        if let (Some(x), Some(y)) = (self.as_int(a), self.as_int(b)) {
            return self.int(if op == Bin::Min { x.min(y) } else { x.max(y) });
        }
        // x and x + c: the constant decides.
        if self.ty(a) == Ty::Int {
            let d = self.sub(a, b);
            if let Some(d) = self.as_int(d) {
                return if (d <= 0) == (op == Bin::Min) { a } else { b };
            }
        }
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        self.intern(Node::Bin(op, a, b))
    }

    /// One operand.
    pub fn un(&mut self, op: Un, a: ExprId) -> ExprId {
        if let Some(x) = self.as_int(a) {
            let folded = match op {
                Un::Neg => x.checked_neg(),
                Un::Abs => x.checked_abs(),
                Un::Pow2 => Some(if (0..62).contains(&x) { 1 << x } else { 0 }),
                Un::Log2 => Some(if x > 0 { i64::from(x.ilog2()) } else { -1 }),
                Un::Isqrt => Some(if x >= 0 { x.isqrt() } else { -1 }),
                Un::ToReal => return self.real(x as f64),
                _ => None,
            };
            if let Some(v) = folded {
                return self.int(v);
            }
        }
        if let Some(x) = self.as_real(a) {
            let folded = match op {
                Un::Neg => Some(-x),
                Un::Abs => Some(x.abs()),
                Un::Exp => Some(x.exp()),
                Un::Log => Some(x.ln()),
                Un::Sqrt => Some(x.sqrt()),
                Un::Tanh => Some(x.tanh()),
                _ => None,
            };
            if let Some(v) = folded {
                return self.real(v);
            }
        }
        if op == Un::Neg && self.ty(a) == Ty::Int {
            let zero = self.int(0);
            return self.sub(zero, a);
        }
        self.intern(Node::Un(op, a))
    }

    /// An integer as a real; a real as it is.
    pub fn to_real(&mut self, a: ExprId) -> ExprId {
        if self.ty(a) == Ty::Int { self.un(Un::ToReal, a) } else { a }
    }

    /// A comparison.
    pub fn cmp(&mut self, op: Cmp, a: ExprId, b: ExprId) -> ExprId {
        let known = if let (Some(x), Some(y)) = (self.as_real(a), self.as_real(b)) {
            Some(match op {
                Cmp::Lt => x < y,
                Cmp::Le => x <= y,
                Cmp::Eq => x == y,
                Cmp::Ne => x != y,
            })
        } else if self.ty(a) == Ty::Int {
            let d = self.sub(a, b);
            self.as_int(d).map(|d| match op {
                Cmp::Lt => d < 0,
                Cmp::Le => d <= 0,
                Cmp::Eq => d == 0,
                Cmp::Ne => d != 0,
            })
        } else {
            None
        };
        match known {
            Some(v) => self.bool(v),
            None => self.intern(Node::Cmp(op, a, b)),
        }
    }

    /// a < b
    pub fn lt(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.cmp(Cmp::Lt, a, b)
    }

    /// a <= b
    pub fn le(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.cmp(Cmp::Le, a, b)
    }

    /// a == b
    pub fn eq(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.cmp(Cmp::Eq, a, b)
    }

    /// All hold; no operand means true.
    pub fn and(&mut self, xs: impl IntoIterator<Item = ExprId>) -> ExprId {
        let mut flat: Vec<ExprId> = Vec::new();
        for x in xs {
            match self.node(x) {
                Node::Bool(true) => {}
                Node::Bool(false) => return x,
                Node::And(ys) => flat.extend(ys.clone()),
                _ => flat.push(x),
            }
        }
        flat.sort();
        flat.dedup();
        let unequal = |a, b| flat.iter().any(|&x| *self.node(x) == Node::Cmp(Cmp::Ne, a, b));
        if flat.iter().any(|&x| matches!(*self.node(x), Node::Cmp(Cmp::Eq, a, b) if unequal(a, b))) {
            return self.bool(false);
        }
        match flat.len() {
            0 => self.bool(true),
            1 => flat[0],
            _ => self.intern(Node::And(flat)),
        }
    }

    /// One holds; no operand means false.
    pub fn or(&mut self, xs: impl IntoIterator<Item = ExprId>) -> ExprId {
        let mut flat: Vec<ExprId> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for x in xs {
            let parts = match self.node(x) {
                Node::Bool(false) => continue,
                Node::Bool(true) => return x,
                Node::Or(ys) => ys.clone(),
                _ => vec![x],
            };
            flat.extend(parts.into_iter().filter(|p| seen.insert(*p)));
        }
        match flat.len() {
            0 => self.bool(false),
            1 => flat[0],
            _ => self.intern(Node::Or(flat)),
        }
    }

    /// Does not hold.
    pub fn not(&mut self, a: ExprId) -> ExprId {
        match self.node(a).clone() {
            Node::Bool(v) => self.bool(!v),
            Node::Not(x) => x,
            Node::Cmp(op, x, y) if self.ty(x) == Ty::Int => match op {
                Cmp::Lt => self.le(y, x),
                Cmp::Le => self.lt(y, x),
                Cmp::Eq => self.cmp(Cmp::Ne, x, y),
                Cmp::Ne => self.eq(x, y),
            },
            _ => self.intern(Node::Not(a)),
        }
    }

    /// Condition, value if it holds, value if not.
    pub fn select(&mut self, c: ExprId, a: ExprId, b: ExprId) -> ExprId {
        match self.as_bool(c) {
            Some(true) => a,
            Some(false) => b,
            None if a == b => a,
            None => self.intern(Node::Select(c, a, b)),
        }
    }

    /// The same operation on other operands (as [`Exprs::operands`] lists them), simplified again.
    pub fn rebuild(&mut self, id: ExprId, ops: &[ExprId]) -> ExprId {
        match self.node(id).clone() {
            Node::Int(_) | Node::Real(_) | Node::Bool(_) | Node::Var(_) => id,
            Node::Un(op, _) => self.un(op, ops[0]),
            Node::Not(_) => self.not(ops[0]),
            Node::Bin(op, ..) => self.bin(op, ops[0], ops[1]),
            Node::Cmp(op, ..) => self.cmp(op, ops[0], ops[1]),
            Node::And(_) => self.and(ops.iter().copied()),
            Node::Or(_) => self.or(ops.iter().copied()),
            Node::Select(..) => self.select(ops[0], ops[1], ops[2]),
            Node::Load(t, _) => self.intern(Node::Load(t, ops.to_vec())),
            Node::MapAt(m, ..) => self.intern(Node::MapAt(m, ops[0], ops[1])),
            Node::Drawn(d, ..) => self.intern(Node::Drawn(d, ops[0], ops[1])),
            Node::DrawAt(d, ..) => self.intern(Node::DrawAt(d, ops[0], ops[1])),
        }
    }

    /// Two operands.
    pub fn bin(&mut self, op: Bin, a: ExprId, b: ExprId) -> ExprId {
        match op {
            Bin::Add => self.add(a, b),
            Bin::Sub => self.sub(a, b),
            Bin::Mul => self.mul(a, b),
            Bin::Div => self.div(a, b),
            Bin::Mod => self.modulo(a, b),
            Bin::Min => self.min(a, b),
            Bin::Max => self.max(a, b),
        }
    }

    /// Replaces variables throughout an expression; spans follow.
    pub fn substitute(&mut self, root: ExprId, mut with: impl FnMut(&mut Exprs, Var) -> Option<ExprId>) -> ExprId {
        let order = self.reachable(&[root]);
        let mut new: rustc_hash::FxHashMap<ExprId, ExprId> = rustc_hash::FxHashMap::default();
        for id in order {
            let replaced = if let Node::Var(v) = *self.node(id) {
                with(self, v).unwrap_or(id)
            } else {
                let ops: Vec<ExprId> = self.operands(id).iter().map(|o| new[o]).collect();
                self.rebuild(id, &ops)
            };
            if let Some(span) = self.span(id) {
                self.set_span(replaced, span);
            }
            new.insert(id, replaced);
        }
        new[&root]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_floors_as_in_python() {
        for a in -20..=20 {
            for b in [-7, -3, -1, 1, 2, 5] {
                let (d, m) = (floor_div(a, b).unwrap(), floor_mod(a, b).unwrap());
                assert_eq!(d * b + m, a);
                assert!(if b > 0 { (0..b).contains(&m) } else { (b + 1..=0).contains(&m) });
            }
        }
        assert_eq!(floor_div(i64::MIN, -1), None);
    }

    #[test]
    fn a_window_of_constant_length_is_seen() {
        let mut e = Exprs::new();
        let q = e.var(Var::Q);
        let one = e.int(1);
        let w = e.int(64);
        let end = e.add(q, one);
        let start = e.sub(q, w);
        let length = e.sub(end, start);
        assert_eq!(e.as_int(length), Some(65));
    }
}
