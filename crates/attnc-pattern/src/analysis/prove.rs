//! Proofs of truth values from what is known of their variables.
//!
//! What is known is a list of sums that are at least 0. A comparison is proved by taking known sums away from
//! it until nothing negative is left; a truth value by its operands, and by cases where one condition decides.
//! `false` never means that the opposite holds. Nothing here knows of attentions.

use super::linear::{Algebra, Linear};

use crate::expr::{Bin, Cmp, ExprId, Node, Ty, Var};
use crate::program::Space;

/// Known sums taken away one after the other.
const STEPS: u32 = 4;

/// Proves truth values of one query.
pub(super) struct Prover<'a, 'e> {
    pub(super) algebra: &'a mut Algebra<'e>,
    space: &'a Space,
    /// Sums that are at least 0.
    known: Vec<Linear>,
}

impl<'a, 'e> Prover<'a, 'e> {
    pub(super) fn new(algebra: &'a mut Algebra<'e>, space: &'a Space) -> Self {
        Prover { algebra, space, known: vec![] }
    }

    /// Takes a condition as given, as far as it is made of comparisons.
    pub(super) fn assume(&mut self, e: ExprId) {
        match self.algebra.exprs.node(e).clone() {
            Node::And(xs) => xs.into_iter().for_each(|x| self.assume(x)),
            Node::Cmp(op, a, b) if self.algebra.exprs.ty(a) == Ty::Int => {
                let Some(d) = self.algebra.difference(b, a) else { return };
                let sums = match op {
                    Cmp::Le => vec![Some(d)],
                    Cmp::Lt => vec![d.plus(&Linear::constant(-1), 1)],
                    Cmp::Eq => vec![d.times(-1), Some(d)],
                    Cmp::Ne => vec![],
                };
                self.known.extend(sums.into_iter().flatten());
            }
            _ => {}
        }
    }

    /// Adds what follows from the segment that the query is known to lie in.
    pub(super) fn place_query(&mut self) {
        let q = self.algebra.exprs.var(Var::Q);
        for segment in &self.space.segments {
            let Some(&outer) = segment.axes.first() else { continue };
            let axis = &self.space.axes[outer.0 as usize];
            let e = &mut *self.algebra.exprs;
            let offset = e.sub(q, segment.begin);
            let end = e.add(segment.begin, segment.len);
            let (from, to) = (e.le(segment.begin, q), e.lt(q, end));
            let coordinate = e.div(offset, axis.stride);
            let inside = e.lt(coordinate, axis.extent);
            if self.proves(from, 0) && self.proves(to, 0) {
                self.assume(inside);
                let zero = self.algebra.int(0);
                let not_before = self.algebra.exprs.le(zero, coordinate);
                self.assume(not_before);
            }
        }
    }

    /// Whether `e` holds, with up to `cases` conditions taken apart.
    pub(super) fn proves(&mut self, e: ExprId, cases: u32) -> bool {
        let e = self.algebra.canon(e);
        let direct = match self.algebra.exprs.node(e).clone() {
            Node::Bool(v) => return v,
            Node::And(xs) => return xs.into_iter().all(|x| self.proves(x, cases)),
            Node::Or(xs) => xs.into_iter().any(|x| self.proves(x, 0)),
            Node::Cmp(op, a, b) if self.algebra.exprs.ty(a) == Ty::Int => self.compares(op, a, b),
            Node::Select(c, a, b) => (a == b || self.proves(c, 0)) && self.proves(a, cases),
            _ => false,
        };
        if direct || cases == 0 {
            return direct;
        }
        let Some(condition) = self.undecided(e) else { return false };
        let opposite = self.algebra.exprs.not(condition);
        for (given, value) in [(condition, true), (opposite, false)] {
            let value = self.algebra.exprs.bool(value);
            let rest = self.replaced(e, condition, opposite, value);
            let known = self.known.len();
            self.assume(given);
            self.place_query();
            let proved = self.proves(rest, cases - 1);
            self.known.truncate(known);
            if !proved {
                return false;
            }
        }
        true
    }

    /// A comparison inside `e` to take apart; one that decides a whole arm comes first.
    fn undecided(&mut self, e: ExprId) -> Option<ExprId> {
        match self.algebra.exprs.node(e).clone() {
            Node::And(xs) => xs.into_iter().find_map(|x| self.undecided(x)),
            Node::Or(mut xs) => {
                xs.sort_by_key(|&x| match self.algebra.exprs.node(x) {
                    Node::And(parts) => parts.len(),
                    _ => 1,
                });
                xs.into_iter().find_map(|x| self.undecided(x))
            }
            Node::Not(x) => self.undecided(x),
            Node::Select(c, a, b) => [c, a, b].into_iter().find_map(|x| self.undecided(x)),
            Node::Cmp(op, a, b) if self.algebra.exprs.ty(a) == Ty::Int => (!self.compares(op, a, b)).then_some(e),
            _ => None,
        }
    }

    fn replaced(&mut self, e: ExprId, condition: ExprId, opposite: ExprId, value: ExprId) -> ExprId {
        let other = self.algebra.exprs.not(value);
        let mut new = rustc_hash::FxHashMap::default();
        for id in self.algebra.exprs.reachable(&[e]) {
            let made = if id == condition {
                value
            } else if id == opposite {
                other
            } else {
                let operands: Vec<ExprId> = self.algebra.exprs.operands(id).iter().map(|o| new[o]).collect();
                self.algebra.exprs.rebuild(id, &operands)
            };
            new.insert(id, made);
        }
        new[&e]
    }

    fn compares(&mut self, op: Cmp, a: ExprId, b: ExprId) -> bool {
        let Some(d) = self.algebra.difference(b, a) else { return false };
        let less =
            |this: &mut Self, d: &Linear| d.plus(&Linear::constant(-1), 1).is_some_and(|d| this.nonnegative(&d, STEPS));
        match op {
            Cmp::Le => self.nonnegative(&d, STEPS),
            Cmp::Lt => less(self, &d),
            Cmp::Eq => self.nonnegative(&d, STEPS) && d.times(-1).is_some_and(|d| self.nonnegative(&d, STEPS)),
            Cmp::Ne => less(self, &d) || d.times(-1).is_some_and(|d| less(self, &d)),
        }
    }

    fn positive(&mut self, e: ExprId) -> bool {
        let one = self.algebra.int(1);
        self.algebra.difference(e, one).is_some_and(|d| self.nonnegative(&d, 1))
    }

    /// Whether a sum is at least 0.
    fn nonnegative(&mut self, d: &Linear, steps: u32) -> bool {
        if self.algebra.bounds_of(d).0.is_some_and(|lo| lo >= 0) {
            return true;
        }
        if steps == 0 {
            return false;
        }
        // Operands of a minimum each have their own proof; floors that add are exact to undo, and leave more to
        // those that subtract.
        let mut terms = d.terms.clone();
        terms.sort_by_key(|&(id, c)| match self.algebra.exprs.node(id) {
            Node::Bin(Bin::Min | Bin::Max, ..) | Node::Select(..) => 0,
            Node::Bin(Bin::Div, ..) if c == 1 => 1,
            _ => 2,
        });
        for (id, c) in terms {
            let Some(without) = d.plus(&Linear::atom(id), c.wrapping_neg()) else {
                return false;
            };
            let with = |this: &mut Self, x: ExprId| {
                let x = this.algebra.linear(x);
                without.plus(&x, c).is_some_and(|d| this.nonnegative(&d, steps - 1))
            };
            match self.algebra.exprs.node(id).clone() {
                // A minimum is one of its operands, and at most each of them.
                Node::Bin(op @ (Bin::Min | Bin::Max), a, b) => {
                    return if (op == Bin::Min) == (c > 0) {
                        with(self, a) && with(self, b)
                    } else {
                        with(self, a) || with(self, b)
                    };
                }
                Node::Select(_, a, b) => return with(self, a) && with(self, b),
                // x % m <= m - 1
                Node::Bin(Bin::Mod, _, m) if c < 0 && self.positive(m) => {
                    let last = self.algebra.offset(m, -1);
                    if with(self, last) {
                        return true;
                    }
                }
                // floor(x / b) >= r is x >= b * r; floor(x / b) <= r is x <= b * r + b - 1.
                Node::Bin(Bin::Div, x, b) if c.abs() == 1 => {
                    if let Some(b) = self.algebra.exprs.as_int(b)
                        && b > 0
                    {
                        let x = self.algebra.linear(x);
                        let slack = if c > 0 { 0 } else { b - 1 };
                        let scaled = without.times(b).and_then(|w| w.plus(&Linear::constant(slack), 1));
                        let Some(sum) = scaled.and_then(|s| s.plus(&x, c)) else { return false };
                        let sum = self.algebra.recombined(sum);
                        return self.nonnegative(&sum, steps - 1);
                    }
                }
                // x - b + 1 <= b * (x / b) <= x
                Node::Bin(Bin::Div, x, b) => {
                    if let Some(b) = self.algebra.exprs.as_int(b)
                        && b > 0
                        && c % b == 0
                    {
                        let x = self.algebra.linear(x);
                        let slack = if c > 0 { 1 - b } else { 0 };
                        let relaxed = x.plus(&Linear::constant(slack), 1).and_then(|x| without.plus(&x, c / b));
                        if relaxed.is_some_and(|d| self.nonnegative(&d, steps - 1)) {
                            return true;
                        }
                    }
                }
                Node::Bin(Bin::Mul, a, b) if c < 0 => {
                    let floor = |x: ExprId, y: ExprId| match *self.algebra.exprs.node(x) {
                        Node::Bin(Bin::Div, whole, by) if by == y => Some((whole, y)),
                        _ => None,
                    };
                    if let Some((whole, by)) = floor(a, b).or_else(|| floor(b, a))
                        && self.positive(by)
                        && with(self, whole)
                    {
                        return true;
                    }
                }
                _ => {}
            }
        }
        for i in 0..self.known.len() {
            let k = &self.known[i];
            // Only what removes a term can help.
            let factor = d.terms.iter().find_map(|&(id, c)| {
                let known = k.terms.iter().find(|t| t.0 == id)?.1;
                (c.signum() == known.signum() && c % known == 0).then_some(c / known)
            });
            if let Some(factor) = factor
                && let Some(rest) = d.plus(k, factor.wrapping_neg())
                && self.nonnegative(&rest, steps - 1)
            {
                return true;
            }
        }
        false
    }
}
