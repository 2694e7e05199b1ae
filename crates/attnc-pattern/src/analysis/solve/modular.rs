//! Remainders that depend on the key, solved as combs.
//!
//! `(c * K + f) % m < w` is a comb for `c = 1` and `-1`, floors inside make longer periods, multiples of the
//! key several combs of a shorter one. Complements of combs are combs.

use super::{Form, Leaf, Range, Solver};
use crate::analysis::Reason;
use crate::analysis::linear::{Linear, gcd};
use crate::expr::{Bin, ExprId, Node, Var};
use crate::rowset::Comb;

impl Solver<'_, '_> {
    /// `lo <= g % m <= hi`, for `m` of the launch.
    pub(super) fn remainder_in(&mut self, g: ExprId, m: ExprId, range: Range) -> Form {
        let zero = self.algebra.int(0);
        let last = self.algebra.offset(m, -1);
        let sum = self.algebra.linear(g);
        if let Some(value) = range.lo.filter(|_| range.lo == range.hi)
            && let [(_, 1 | -1)] = *self.split(&sum).0.terms
        {
            // One residue: what is none is guarded against. A divisor is at least 1, so that 0 always is one.
            let mut parts = vec![];
            let low = self.algebra.exprs.as_int(value).is_some_and(|v| v <= 0);
            for (a, b, known) in [(zero, value, false), (value, last, low)] {
                if !known && !self.algebra.proves_le(a, b) {
                    let is = self.algebra.exprs.le(a, b);
                    parts.push(self.guard(is));
                }
            }
            let one = self.algebra.int(1);
            parts.push(self.modular(&sum, m, value, one));
            return Form::And(parts);
        }
        let lo = range.lo.map_or(zero, |lo| self.algebra.max(lo, zero));
        // A remainder has a divisor of at least 1, and the last one is at least 0.
        let hi = match range.hi {
            Some(hi) if self.algebra.exprs.as_int(hi).is_some_and(|hi| hi <= 0) => hi,
            Some(hi) => self.algebra.min(hi, last),
            None => last,
        };
        if lo == zero && hi == last {
            return Form::And(vec![]);
        }
        let mut parts = vec![];
        if !self.algebra.proves_le(lo, hi) {
            let some = self.algebra.exprs.le(lo, hi);
            parts.push(self.guard(some));
        }
        let end = self.algebra.offset(hi, 1);
        let width = self.algebra.sub(end, lo);
        if self.is_of_launch(width) {
            parts.push(self.modular(&sum, m, lo, width));
            return Form::And(parts);
        }
        // Teeth as long as the query says: one period after the other.
        let quotient = self.algebra.div(g, m);
        let Some((first, most)) = self.over_keys(quotient) else {
            let atom = self.algebra.exprs.modulo(g, m);
            return self.atom_filter(atom, range, "takes a remainder whose quotient has no bounds");
        };
        let (var, v) = self.fresh_loop();
        let base = self.algebra.mul(v, m);
        let bounds = Range { lo: Some(self.algebra.add(base, lo)), hi: Some(self.algebra.add(base, hi)) };
        let after = self.algebra.offset(most, 1);
        parts.push(Form::Leaf(Leaf::Loop { var, lo: first, hi: after }));
        parts.push(self.sum_in(&sum, bounds));
        Form::And(parts)
    }

    /// `(x - phase) % m < width`
    pub(super) fn modular(&mut self, x: &Linear, m: ExprId, phase: ExprId, width: ExprId) -> Form {
        let (key, rest) = self.split(x);
        let rest = self.algebra.expr(&rest);
        let phase = self.algebra.sub(phase, rest);
        let fall_back = |this: &mut Self, why: &str| {
            let x = this.algebra.expr(&key);
            let e = &mut *this.algebra.exprs;
            let from = e.sub(x, phase);
            let remainder = e.modulo(from, m);
            let p = e.lt(remainder, width);
            if this.reads_key(p) { this.filter(p, Reason::Form, why) } else { this.guard(p) }
        };
        match *key.terms {
            [(atom, 1)] => self.atom_modular(atom, m, phase, width),
            [(atom, -1)] => {
                // -a in phase .. phase + width is a in -(phase + width) + 1 ..= -phase.
                let end = self.algebra.add(phase, width);
                let one = self.algebra.int(1);
                let phase = self.algebra.sub(one, end);
                self.atom_modular(atom, m, phase, width)
            }
            [(atom, c)] => match (self.algebra.exprs.as_int(m), self.algebra.exprs.as_int(width)) {
                (Some(period), Some(w @ 1..=16)) => self.congruent(atom, c, period, phase, w),
                _ => fall_back(self, "takes the remainder of a multiple of the key"),
            },
            _ => fall_back(self, "takes the remainder of several terms that depend on the key"),
        }
    }

    /// `c * a = phase + i (mod period)` for some `0 <= i < width`.
    fn congruent(&mut self, atom: ExprId, c: i64, period: i64, phase: ExprId, width: i64) -> Form {
        let c = c.rem_euclid(period);
        let common = gcd(c, period);
        let (reduced, unit) = (period / common, c / common);
        let inverse = (0..reduced)
            .find(|&u| (i128::from(u) * i128::from(unit)).rem_euclid(reduced.into()) == i128::from(1 % reduced));
        let divisor = self.algebra.int(common);
        let modulus = self.algebra.int(reduced);
        let one = self.algebra.int(1);
        let zero = self.algebra.int(0);
        let inverse = self.algebra.int(inverse.unwrap_or(0));
        let mut cases = vec![];
        for i in 0..width {
            let target = self.algebra.offset(phase, i);
            let left = self.algebra.exprs.modulo(target, divisor);
            let fits = self.algebra.exprs.eq(left, zero);
            let fits = self.guard(fits);
            let quotient = self.algebra.div(target, divisor);
            let residue = self.algebra.mul(quotient, inverse);
            let comb = if reduced == 1 { Form::And(vec![]) } else { self.atom_modular(atom, modulus, residue, one) };
            cases.push(Form::And(vec![fits, comb]));
        }
        let e = &mut *self.algebra.exprs;
        let (factor, m, w) = (e.int(c), e.int(period), e.int(width));
        let scaled = e.mul(atom, factor);
        let from = e.sub(scaled, phase);
        let remainder = e.modulo(from, m);
        let source = e.lt(remainder, w);
        Form::Or(cases, source)
    }

    fn atom_modular(&mut self, atom: ExprId, m: ExprId, phase: ExprId, width: ExprId) -> Form {
        if let Some(&(axis, offset)) = self.coordinates.get(&atom) {
            let phase = self.algebra.offset(phase, offset);
            let phase = self.phase(phase, m);
            return Form::Leaf(Leaf::AxisComb(axis, Comb { period: m, width, phase }));
        }
        match self.algebra.exprs.node(atom).clone() {
            Node::Var(Var::K) => {
                let phase = self.phase(phase, m);
                Form::Leaf(Leaf::Comb(Comb { period: m, width, phase }))
            }
            Node::Bin(Bin::Div, g, b) if self.is_of_launch(b) && self.algebra.nonnegative(b) => {
                let m = self.algebra.mul(m, b);
                let phase = self.algebra.mul(phase, b);
                let width = self.algebra.mul(width, b);
                let g = self.algebra.linear(g);
                self.modular(&g, m, phase, width)
            }
            Node::Bin(Bin::Mod, g, inner)
                if self
                    .algebra
                    .exprs
                    .as_int(inner)
                    .zip(self.algebra.exprs.as_int(m))
                    .is_some_and(|(inner, m)| inner > 0 && m > 0 && inner % m == 0) =>
            {
                let g = self.algebra.linear(g);
                self.modular(&g, m, phase, width)
            }
            _ => {
                let e = &mut *self.algebra.exprs;
                let from = e.sub(atom, phase);
                let remainder = e.modulo(from, m);
                let p = e.lt(remainder, width);
                self.filter(p, Reason::Form, "takes a remainder of a term without a closed-form solution for the key")
            }
        }
    }

    /// One spelling for equal phases.
    fn phase(&mut self, phase: ExprId, m: ExprId) -> ExprId {
        let reduced = self.algebra.exprs.modulo(phase, m);
        let reduced = self.algebra.canon(reduced);
        match *self.algebra.exprs.node(reduced) {
            Node::Bin(Bin::Mod, x, n) if n == m => x,
            _ => reduced,
        }
    }
}
