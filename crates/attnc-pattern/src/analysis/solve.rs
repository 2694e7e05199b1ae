//! From a predicate to constraints on the key: every comparison solved for `K`.
//!
//! A predicate becomes a [`Form`], a tree of *and* and *or* over [`Leaf`] constraints that say what `K` is,
//! not what is true of it: bounds, combs, bounds on one coordinate of a grid, loops that give `K` piecewise.
//! Solving recurses into the one part of a sum that reads the key: a floor, a remainder, an absolute value, a
//! document, a square. What has no solution here stays a predicate, with a note.
//! Nothing here knows how constraints are joined into pieces.

mod loops;
mod modular;

use rustc_hash::FxHashMap;

use attnc_syntax::diag::Span;

use super::linear::{Algebra, Linear, Memo, gcd};
use super::pieces::MOST;
use super::{Note, Reason};

use crate::expr::{AxisId, Bin, Cmp, ExprId, Node, Ty, Un, Var};
use crate::program::{Draw, Map, Order, Space};
use crate::rowset::Comb;

/// Terms solved for one set; what is left after that many is tested key by key.
const MOST_STEPS: u32 = 1 << 13;

/// Notes of one set.
const MOST_NOTES: usize = 16;

/// Loops get numbers from here while a set is analysed; pieces number theirs from 0.
const FIRST_LOOP: u32 = 1 << 16;

/// A tree of constraints.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// One constraint.
    Leaf(Leaf),
    /// All of them; none means every key.
    And(Vec<Form>),
    /// One of them; none means no key. The expression says the same.
    Or(Vec<Form>, ExprId),
}

/// One constraint on the key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaf {
    /// A truth value without the key.
    Guard(ExprId),
    /// `K >= e`
    From(ExprId),
    /// `K < e`
    Below(ExprId),
    /// A comb of keys.
    Comb(Comb),
    /// The coordinate on an axis is at least this.
    AxisFrom(AxisId, ExprId),
    /// The coordinate on an axis is less than this.
    AxisBelow(AxisId, ExprId),
    /// A comb of coordinates on an axis.
    AxisComb(AxisId, Comb),
    /// For some value of the variable in `lo .. hi`.
    Loop { var: u32, lo: ExprId, hi: ExprId },
    /// A predicate over the key.
    Filter(ExprId),
}

/// Parts of a program that solving reads.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) space: &'a Space,
    pub(super) orders: &'a [Order],
    pub(super) maps: &'a [Map],
    pub(super) draws: &'a [Draw],
}

/// Inclusive bounds without the key.
#[derive(Clone, Copy)]
struct Range {
    lo: Option<ExprId>,
    hi: Option<ExprId>,
}

impl Range {
    fn only(v: ExprId) -> Self {
        Range { lo: Some(v), hi: Some(v) }
    }
}

/// Solves predicates for the key.
pub(super) struct Solver<'a, 'e> {
    pub(super) algebra: Algebra<'e>,
    pub(super) context: Context<'a>,
    pub(super) notes: Vec<Note>,
    /// What `coordinate - offset` looks like for each axis, and the offset.
    coordinates: FxHashMap<ExprId, (AxisId, i64)>,
    reads_key: Memo<bool>,
    next_loop: u32,
    steps: u32,
    place: Option<Span>,
}

impl<'a, 'e> Solver<'a, 'e> {
    pub(super) fn new(mut algebra: Algebra<'e>, context: Context<'a>) -> Self {
        let mut coordinates = FxHashMap::default();
        let k = algebra.exprs.var(Var::K);
        for segment in &context.space.segments {
            for (depth, &axis) in segment.axes.iter().enumerate() {
                let a = &context.space.axes[axis.0 as usize];
                let e = &mut *algebra.exprs;
                let mut x = e.sub(k, segment.begin);
                x = e.div(x, a.stride);
                if depth > 0 {
                    x = e.modulo(x, a.extent);
                }
                let linear = algebra.linear(x);
                if let [(atom, 1)] = *linear.terms
                    && atom != k
                {
                    coordinates.entry(atom).or_insert((axis, linear.constant));
                }
            }
        }
        Solver {
            algebra,
            context,
            notes: vec![],
            coordinates,
            reads_key: Memo::new(),
            next_loop: FIRST_LOOP,
            steps: 0,
            place: None,
        }
    }

    pub(super) fn reads_key(&mut self, id: ExprId) -> bool {
        if let Some(&r) = self.reads_key.get(id) {
            return r;
        }
        let reads = match *self.algebra.exprs.node(id) {
            Node::Var(v) => v == Var::K,
            _ => self.algebra.exprs.operands(id).into_iter().any(|o| self.reads_key(o)),
        };
        self.reads_key.insert(id, reads);
        reads
    }

    /// Whether an expression is the same for every query, key and iteration.
    pub(super) fn is_of_launch(&self, e: ExprId) -> bool {
        !self.algebra.exprs.reads(e, |v| matches!(v, Var::Q | Var::K | Var::Loop(_)))
    }

    pub(super) fn fresh_loop(&mut self) -> (u32, ExprId) {
        let var = self.next_loop;
        self.next_loop += 1;
        (var, self.algebra.exprs.var(Var::Loop(var)))
    }

    /// What a predicate, or its opposite, says of the key.
    pub(super) fn form(&mut self, e: ExprId, holds: bool) -> Form {
        let outer = self.place;
        if let Some(span) = self.algebra.exprs.span(e) {
            self.place = Some(span);
        }
        let form = self.form_here(e, holds);
        self.place = outer;
        form
    }

    fn form_here(&mut self, e: ExprId, holds: bool) -> Form {
        if !self.reads_key(e) {
            let guard = if holds { e } else { self.algebra.exprs.not(e) };
            return self.guard(guard);
        }
        match self.algebra.exprs.node(e).clone() {
            Node::Not(x) => self.form(x, !holds),
            Node::And(xs) if holds => self.all(xs, true),
            Node::Or(xs) if !holds => self.all(xs, false),
            Node::And(xs) | Node::Or(xs) if xs.len() > MOST => {
                let source = if holds { e } else { self.algebra.exprs.not(e) };
                self.filter(source, Reason::Form, &format!("is a union of more than {MOST} pieces"))
            }
            Node::And(xs) | Node::Or(xs) => {
                let parts = xs.into_iter().map(|x| self.form(x, holds)).collect();
                let source = if holds { e } else { self.algebra.exprs.not(e) };
                Form::Or(parts, source)
            }
            Node::Cmp(op, a, b) if self.algebra.exprs.ty(a) == Ty::Int => match (op, holds) {
                (Cmp::Lt, true) => self.compare(Cmp::Lt, a, b),
                (Cmp::Lt, false) => self.compare(Cmp::Le, b, a),
                (Cmp::Le, true) => self.compare(Cmp::Le, a, b),
                (Cmp::Le, false) => self.compare(Cmp::Lt, b, a),
                (Cmp::Eq, true) | (Cmp::Ne, false) => self.compare(Cmp::Eq, a, b),
                (Cmp::Ne, true) | (Cmp::Eq, false) => self.compare(Cmp::Ne, a, b),
            },
            Node::Select(c, a, b) => {
                let (then, other) = (self.form(a, holds), self.form(b, holds));
                let (yes, no) = (self.form(c, true), self.form(c, false));
                let source = if holds { e } else { self.algebra.exprs.not(e) };
                Form::Or(vec![Form::And(vec![yes, then]), Form::And(vec![no, other])], source)
            }
            Node::MapAt(m, row, col) => self.map(m, row, col, e, holds),
            Node::Drawn(d, row, candidate) => self.drawn(d, row, candidate, e, holds),
            _ => {
                let e = if holds { e } else { self.algebra.exprs.not(e) };
                self.filter(e, Reason::Form, "compares reals that depend on the key")
            }
        }
    }

    /// All of them. Where one says which document the key is in, the others may use it.
    fn all(&mut self, xs: Vec<ExprId>, holds: bool) -> Form {
        let k = self.algebra.exprs.var(Var::K);
        let doc = self.algebra.exprs.un(Un::DocOf, k);
        let known = xs.iter().enumerate().find_map(|(i, &x)| {
            let (a, b) = match *self.algebra.exprs.node(x) {
                Node::Cmp(Cmp::Eq, a, b) if holds => (a, b),
                Node::Cmp(Cmp::Ne, a, b) if !holds => (a, b),
                _ => return None,
            };
            [(a, b), (b, a)].into_iter().find(|&(a, b)| a == doc && !self.reads_key(b)).map(|(_, b)| (i, b))
        });
        let (mut parts, mut ranges) = (vec![], Vec::<(Linear, Range, Option<Span>)>::new());
        for (i, x) in xs.into_iter().enumerate() {
            let x = match known {
                Some((at, value)) if at != i => self.replaced(x, doc, value),
                _ => x,
            };
            // Both ends of one range are solved together.
            let Some((key, range)) = self.range_of(x, holds) else {
                parts.push(self.form(x, holds));
                continue;
            };
            match ranges.iter_mut().find(|r| r.0 == key) {
                Some(known) => {
                    let join = |a: Option<ExprId>, b: Option<ExprId>, f: &mut dyn FnMut(ExprId, ExprId) -> ExprId| {
                        match (a, b) {
                            (Some(a), Some(b)) => Some(f(a, b)),
                            (a, b) => a.or(b),
                        }
                    };
                    known.1.lo = join(known.1.lo, range.lo, &mut |a, b| self.algebra.max(a, b));
                    known.1.hi = join(known.1.hi, range.hi, &mut |a, b| self.algebra.min(a, b));
                }
                None => ranges.push((key, range, self.algebra.exprs.span(x))),
            }
        }
        for (key, range, span) in ranges {
            let outer = self.place;
            self.place = span.or(outer);
            parts.push(self.key_in(&key, range));
            self.place = outer;
        }
        Form::And(parts)
    }

    /// A comparison as a range of what reads the key, where both ends should be solved together.
    fn range_of(&mut self, e: ExprId, holds: bool) -> Option<(Linear, Range)> {
        let Node::Cmp(op, a, b) = *self.algebra.exprs.node(e) else { return None };
        if self.algebra.exprs.ty(a) != Ty::Int {
            return None;
        }
        let (op, a, b) = match (op, holds) {
            (Cmp::Lt | Cmp::Le, true) => (op, a, b),
            (Cmp::Lt, false) => (Cmp::Le, b, a),
            (Cmp::Le, false) => (Cmp::Lt, b, a),
            _ => return None,
        };
        let d = self.algebra.difference(a, b)?;
        let hi = self.algebra.int(if op == Cmp::Lt { -1 } else { 0 });
        let (key, range) = self.isolated(&d, Range { lo: None, hi: Some(hi) })?;
        match *key.terms {
            [] => None,
            [(atom, 1)] if self.ends_in_bounds(atom) => None,
            _ => Some((key, range)),
        }
    }

    /// Whether a range of a term becomes bounds of the key, each end for itself.
    fn ends_in_bounds(&mut self, atom: ExprId) -> bool {
        if self.coordinates.contains_key(&atom) {
            return true;
        }
        match *self.algebra.exprs.node(atom) {
            Node::Var(_) | Node::Un(Un::DocOf, _) => true,
            Node::Bin(Bin::Div, g, _) => {
                let g = self.algebra.linear(g);
                matches!(*self.split(&g).0.terms, [(inner, _)] if self.ends_in_bounds(inner))
            }
            _ => false,
        }
    }

    pub(super) fn replaced(&mut self, root: ExprId, from: ExprId, to: ExprId) -> ExprId {
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in self.algebra.exprs.reachable(&[root]) {
            let replaced = if id == from {
                to
            } else {
                let operands: Vec<ExprId> = self.algebra.exprs.operands(id).iter().map(|o| new[o]).collect();
                self.algebra.exprs.rebuild(id, &operands)
            };
            if let Some(span) = self.algebra.exprs.span(id) {
                self.algebra.exprs.set_span(replaced, span);
            }
            new.insert(id, replaced);
        }
        new[&root]
    }

    fn guard(&mut self, e: ExprId) -> Form {
        let e = self.algebra.canon(e);
        match self.algebra.exprs.as_bool(e) {
            Some(true) => Form::And(vec![]),
            Some(false) => Form::Or(vec![], e),
            None => Form::Leaf(Leaf::Guard(e)),
        }
    }

    fn filter(&mut self, e: ExprId, reason: Reason, why: &str) -> Form {
        let note = Note { span: self.place, why: why.to_owned(), reason };
        self.note(note);
        let e = self.algebra.canon(e);
        match self.algebra.exprs.as_bool(e) {
            Some(true) => Form::And(vec![]),
            Some(false) => Form::Or(vec![], e),
            None => Form::Leaf(Leaf::Filter(e)),
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        if self.notes.len() < MOST_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn compare(&mut self, op: Cmp, a: ExprId, b: ExprId) -> Form {
        let Some(d) = self.algebra.difference(a, b) else {
            let e = self.algebra.exprs.cmp(op, a, b);
            return self.filter(e, Reason::Form, "its constants are too large");
        };
        let zero = self.algebra.int(0);
        let minus = self.algebra.int(-1);
        match op {
            Cmp::Lt => self.sum_in(&d, Range { lo: None, hi: Some(minus) }),
            Cmp::Le => self.sum_in(&d, Range { lo: None, hi: Some(zero) }),
            Cmp::Eq => self.sum_in(&d, Range::only(zero)),
            Cmp::Ne => self.sum_not_zero(&d),
        }
    }

    fn sum_not_zero(&mut self, d: &Linear) -> Form {
        let (key, rest) = self.split(d);
        // The complement of a comb is a comb.
        if let [(atom, c @ (1 | -1))] = *key.terms
            && !self.coordinates.contains_key(&atom)
            && let Node::Bin(Bin::Mod, g, m) = *self.algebra.exprs.node(atom)
            && let Some(value) = rest.times(-c)
        {
            let value = self.algebra.expr(&value);
            let zero = self.algebra.int(0);
            let last = self.algebra.offset(m, -1);
            let inside = self.algebra.proves_le(zero, value) && self.algebra.proves_le(value, last);
            let phase = self.algebra.offset(value, 1);
            let g = self.algebra.linear(g);
            let comb = self.modular(&g, m, phase, last);
            let comb = match self.algebra.exprs.as_int(m) {
                Some(m) if m >= 2 => comb,
                _ => {
                    let two = self.algebra.int(2);
                    let wide = self.algebra.exprs.le(two, m);
                    Form::And(vec![self.guard(wide), comb])
                }
            };
            if inside {
                return comb;
            }
            let below = self.algebra.exprs.lt(value, zero);
            let above = self.algebra.exprs.le(m, value);
            let source = self.algebra.compared(Cmp::Ne, d);
            return Form::Or(vec![self.guard(below), self.guard(above), comb], source);
        }
        let (one, minus) = (self.algebra.int(1), self.algebra.int(-1));
        let below = self.sum_in(d, Range { lo: None, hi: Some(minus) });
        let above = self.sum_in(d, Range { lo: Some(one), hi: None });
        let source = self.algebra.compared(Cmp::Ne, d);
        Form::Or(vec![below, above], source)
    }

    /// Terms that read the key, and the rest.
    fn split(&mut self, sum: &Linear) -> (Linear, Linear) {
        let (mut key, mut rest) = (Linear::default(), Linear::constant(sum.constant));
        for &(id, c) in &sum.terms {
            if self.reads_key(id) { &mut key } else { &mut rest }.terms.push((id, c));
        }
        (key, rest)
    }

    /// `lo <= x <= hi` for any integer expression.
    fn int_in(&mut self, x: ExprId, range: Range) -> Form {
        let x = self.algebra.linear(x);
        self.sum_in(&x, range)
    }

    fn as_predicate(&mut self, sum: &Linear, range: Range) -> ExprId {
        let x = self.algebra.expr(sum);
        let e = &mut *self.algebra.exprs;
        if range.lo == range.hi
            && let Some(v) = range.lo
        {
            let p = e.eq(x, v);
            return self.algebra.canon(p);
        }
        let lo = range.lo.map(|lo| e.le(lo, x));
        let hi = range.hi.map(|hi| e.le(x, hi));
        let p = e.and(lo.into_iter().chain(hi));
        self.algebra.canon(p)
    }

    fn sum_in(&mut self, sum: &Linear, range: Range) -> Form {
        if !sum.terms.iter().any(|t| self.reads_key(t.0)) {
            let guard = self.as_predicate(sum, range);
            return self.guard(guard);
        }
        let zero = self.algebra.int(0);
        if range.lo == Some(zero)
            && range.hi == Some(zero)
            && let Some(form) = self.power_of_two(sum)
        {
            return form;
        }
        match self.isolated(sum, range) {
            Some((key, range)) => self.key_in(&key, range),
            None => {
                let p = self.as_predicate(sum, range);
                self.filter(p, Reason::Form, "its constants are too large")
            }
        }
    }

    /// The terms that read the key, the first positive and without a common factor, and their range.
    fn isolated(&mut self, sum: &Linear, range: Range) -> Option<(Linear, Range)> {
        let (key, rest) = self.split(sum);
        let rest = self.algebra.expr(&rest);
        let moved = |this: &mut Self, e: Option<ExprId>| e.map(|e| this.algebra.sub(e, rest));
        let range = Range { lo: moved(self, range.lo), hi: moved(self, range.hi) };
        let Some(&(_, first)) = key.terms.first() else { return Some((key, range)) };
        let common = key.terms.iter().fold(0, |g, t| gcd(g, t.1));
        let common = if first < 0 { common.checked_neg()? } else { common };
        let terms = key.terms.iter().map(|&(id, c)| c.checked_div(common).map(|c| (id, c)));
        let key = Linear { terms: terms.collect::<Option<_>>()?, constant: 0 };
        Some((key, self.divided(range, common)))
    }

    fn key_in(&mut self, key: &Linear, range: Range) -> Form {
        match *key.terms {
            [(atom, 1)] => self.atom_in(atom, range),
            _ => self.several_in(key, range),
        }
    }

    /// Bounds of x from bounds of x * c, for integers.
    fn divided(&mut self, range: Range, c: i64) -> Range {
        let magnitude = self.algebra.int(c.abs());
        let range = if c < 0 {
            let zero = self.algebra.int(0);
            let flip = |this: &mut Self, e: Option<ExprId>| e.map(|e| this.algebra.sub(zero, e));
            Range { lo: flip(self, range.hi), hi: flip(self, range.lo) }
        } else {
            range
        };
        Range {
            lo: range.lo.map(|e| self.algebra.div_ceil(e, magnitude)),
            hi: range.hi.map(|e| self.algebra.div(e, magnitude)),
        }
    }

    /// A sum of several terms that read the key.
    fn several_in(&mut self, key: &Linear, range: Range) -> Form {
        if let Some(form) = self.squares(key, range).or_else(|| self.common_factor(key, range)) {
            return form;
        }
        if let Some(value) = range.lo.filter(|_| range.lo == range.hi)
            && let Some(form) = self.digits(key, value)
        {
            return form;
        }
        // x % m = x - m * (x / m), either way, if one term remains.
        for &(id, c) in &key.terms {
            let Node::Bin(op @ (Bin::Mod | Bin::Div), g, m) = *self.algebra.exprs.node(id) else { continue };
            let (part, factor) = match (op, self.algebra.exprs.as_int(m)) {
                (Bin::Mod, _) => {
                    let quotient = self.algebra.div(g, m);
                    (self.algebra.mul(quotient, m), c)
                }
                (_, Some(value)) if value != 0 && c % value == 0 => {
                    let remainder = self.algebra.exprs.modulo(g, m);
                    (self.algebra.canon(remainder), c / value)
                }
                _ => continue,
            };
            let without = Linear { terms: key.terms.iter().copied().filter(|t| t.0 != id).collect(), constant: 0 };
            let (whole, part) = (self.algebra.linear(g), self.algebra.linear(part));
            let Some(sum) = without.plus(&whole, factor).and_then(|s| s.plus(&part, -factor)) else { continue };
            if self.split(&sum).0.terms.len() == 1 {
                return self.sum_in(&sum, range);
            }
        }
        let p = self.as_predicate(key, range);
        self.filter(p, Reason::Form, "adds several terms that depend on the key")
    }

    /// Numbers of several digits, the lowest of which has as many values as the others are multiplied by:
    /// `a * m + d == value` with `0 <= d < m` is `a == value / m & d == value % m`.
    fn digits(&mut self, key: &Linear, value: ExprId) -> Option<Form> {
        for &(id, c) in &key.terms {
            let (m, read): (Vec<_>, Vec<_>) = self.algebra.factors(id).into_iter().partition(|&f| !self.reads_key(f));
            if read.is_empty() {
                continue;
            }
            let m = match m.into_iter().reduce(|a, b| self.algebra.mul(a, b)) {
                Some(m) => m,
                None if c.unsigned_abs() > 1 => self.algebra.int(c.checked_abs()?),
                None => continue,
            };
            let (high, low) = self.algebra.parts(key, m);
            if low.terms.is_empty() || high.terms.is_empty() {
                continue;
            }
            if !self.is_digit(&low, m) {
                continue;
            }
            // A number of the same digits comes apart as the key does.
            let parts = self.algebra.linear(value);
            let (quotient, remainder) = self.algebra.parts(&parts, m);
            let (quotient, remainder) = if self.is_digit(&remainder, m) {
                (self.algebra.expr(&quotient), self.algebra.expr(&remainder))
            } else {
                let remainder = self.algebra.exprs.modulo(value, m);
                (self.algebra.div(value, m), self.algebra.canon(remainder))
            };
            let high = self.sum_in(&high, Range::only(quotient));
            return Some(Form::And(vec![high, self.sum_in(&low, Range::only(remainder))]));
        }
        None
    }

    /// Whether `0 <= x < m` for all inputs, by proof.
    fn is_digit(&mut self, x: &Linear, m: ExprId) -> bool {
        let (zero, last) = (self.algebra.int(0), self.algebra.offset(m, -1));
        let x = self.algebra.expr(x);
        self.algebra.proves_le(zero, x) && self.algebra.proves_le(x, last)
    }

    fn atom_in(&mut self, atom: ExprId, range: Range) -> Form {
        if let Some(&(axis, offset)) = self.coordinates.get(&atom) {
            let lo = range.lo.map(|lo| Leaf::AxisFrom(axis, self.algebra.offset(lo, offset)));
            let hi = range.hi.map(|hi| Leaf::AxisBelow(axis, self.algebra.offset(hi, offset + 1)));
            return Form::And(lo.into_iter().chain(hi).map(Form::Leaf).collect());
        }
        // Each absolute value or choice may double what is inside it.
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return self.atom_filter(atom, range, "is nested too deeply");
        }
        let zero = self.algebra.int(0);
        match self.algebra.exprs.node(atom).clone() {
            Node::Var(Var::K) => {
                let lo = range.lo.map(|lo| Form::Leaf(Leaf::From(lo)));
                let hi = range.hi.map(|hi| Form::Leaf(Leaf::Below(self.algebra.offset(hi, 1))));
                Form::And(lo.into_iter().chain(hi).collect())
            }
            Node::Bin(Bin::Div, g, b) if !self.reads_key(b) && self.algebra.nonnegative(b) => {
                let lo = range.lo.map(|lo| self.algebra.mul(lo, b));
                let hi = range.hi.map(|hi| {
                    let next = self.algebra.offset(hi, 1);
                    let end = self.algebra.mul(next, b);
                    self.algebra.offset(end, -1)
                });
                self.int_in(g, Range { lo, hi })
            }
            Node::Bin(Bin::Mod, g, m) if self.is_of_launch(m) && self.algebra.nonnegative(m) => {
                self.remainder_in(g, m, range)
            }
            Node::Bin(op @ (Bin::Min | Bin::Max), a, b) => {
                // A minimum is at most x if one operand is, at least x if both are.
                let of = |this: &mut Self, range: Range| [this.int_in(a, range), this.int_in(b, range)];
                let lo = range.lo.map(|lo| of(self, Range { lo: Some(lo), hi: None }));
                let hi = range.hi.map(|hi| of(self, Range { lo: None, hi: Some(hi) }));
                let (every, some) = if op == Bin::Min { (lo, hi) } else { (hi, lo) };
                let half = if op == Bin::Min { Range { lo: None, ..range } } else { Range { hi: None, ..range } };
                let mut parts: Vec<Form> = every.into_iter().flatten().collect();
                if let Some([x, y]) = some {
                    let atom = Linear::atom(atom);
                    let source = self.as_predicate(&atom, half);
                    parts.push(self.either(x, y, source));
                }
                Form::And(parts)
            }
            Node::Un(Un::Abs, x) => {
                let flip = |this: &mut Self, e: ExprId| this.algebra.sub(zero, e);
                let mut parts = vec![];
                if let Some(hi) = range.hi {
                    let lo = flip(self, hi);
                    parts.push(self.int_in(x, Range { lo: Some(lo), hi: Some(hi) }));
                }
                if let Some(lo) = range.lo {
                    parts.push(self.away_from_zero(x, lo, atom, lo));
                }
                Form::And(parts)
            }
            Node::Bin(Bin::Mul, a, b) if a == b => self.square_in(atom, a, range),
            Node::Bin(Bin::Mul, ..) => self.product_in(atom, range),
            Node::Select(c, a, b) => {
                let (yes, no) = (self.form(c, true), self.form(c, false));
                let (then, other) = (self.int_in(a, range), self.int_in(b, range));
                let atom = Linear::atom(atom);
                let source = self.as_predicate(&atom, range);
                Form::Or(vec![Form::And(vec![yes, then]), Form::And(vec![no, other])], source)
            }
            Node::Un(Un::DocOf, x) if matches!(*self.algebra.exprs.node(x), Node::Var(Var::K)) => {
                let docs = self.algebra.exprs.var(Var::Docs);
                if range.lo.is_some_and(|lo| self.algebra.proves_le(docs, lo)) {
                    let none = self.algebra.exprs.bool(false);
                    return Form::Or(vec![], none);
                }
                let e = &mut *self.algebra.exprs;
                let lo = range.lo.map(|lo| Form::Leaf(Leaf::From(e.un(Un::DocBegin, lo))));
                let hi = range.hi.map(|hi| Form::Leaf(Leaf::Below(e.un(Un::DocEnd, hi))));
                Form::And(lo.into_iter().chain(hi).collect())
            }
            Node::Un(op @ (Un::Log2 | Un::Isqrt), x) => match self.inverse(op, range) {
                Some(inner) => self.int_in(x, inner),
                None => self.atom_filter(atom, range, "inverts a logarithm or root of the key"),
            },
            Node::Un(Un::OrderIndex(order), x) if matches!(*self.algebra.exprs.node(x), Node::Var(Var::K)) => {
                self.order_in(order, atom, range)
            }
            Node::Un(Un::OrderIndex(_), _) => {
                self.atom_filter(atom, range, "reads an order at a position other than the key's")
            }
            Node::Un(Un::OrderPosition(order), x)
                if matches!(*self.algebra.exprs.node(x), Node::Var(Var::K)) && range.lo == range.hi =>
            {
                match range.lo {
                    Some(position) => self.key_at(order, position),
                    None => Form::And(vec![]),
                }
            }
            Node::Un(Un::Table(_), _) => self.atom_filter(atom, range, "looks the key up in a table"),
            Node::Un(Un::DocOf | Un::DocBegin | Un::DocEnd, _) => {
                self.atom_filter(atom, range, "reads documents at a position other than the key's")
            }
            _ => self.atom_filter(atom, range, "has no closed-form solution for the key"),
        }
    }

    /// One of two. A bound that a condition without the key lifts stays one bound.
    fn either(&mut self, x: Form, y: Form, source: ExprId) -> Form {
        fn single(form: &Form) -> Option<&Leaf> {
            match form {
                Form::Leaf(leaf) => Some(leaf),
                Form::And(parts) if parts.len() == 1 => single(&parts[0]),
                _ => None,
            }
        }
        let (guard, bound) = match (single(&x), single(&y)) {
            (Some(Leaf::Guard(g)), Some(bound)) | (Some(bound), Some(Leaf::Guard(g))) => (*g, bound.clone()),
            _ => return Form::Or(vec![x, y], source),
        };
        let (start, count) = (self.algebra.exprs.var(Var::KStart), self.algebra.exprs.var(Var::NK));
        let end = self.algebra.add(start, count);
        let lifted = match bound {
            Leaf::From(e) => Leaf::From(self.algebra.exprs.select(guard, start, e)),
            Leaf::Below(e) => Leaf::Below(self.algebra.exprs.select(guard, end, e)),
            Leaf::AxisFrom(axis, e) => {
                let (least, _) = self.coordinate_bounds(axis, end);
                Leaf::AxisFrom(axis, self.algebra.exprs.select(guard, least, e))
            }
            Leaf::AxisBelow(axis, e) => {
                let (_, most) = self.coordinate_bounds(axis, end);
                Leaf::AxisBelow(axis, self.algebra.exprs.select(guard, most, e))
            }
            _ => return Form::Or(vec![x, y], source),
        };
        Form::Leaf(lifted)
    }

    /// What no coordinate is less than, and what every one is less than; the outermost is not limited by its
    /// segment.
    fn coordinate_bounds(&mut self, axis: AxisId, end: ExprId) -> (ExprId, ExprId) {
        let space = self.context.space;
        let a = &space.axes[axis.0 as usize];
        let segment = &space.segments[a.segment];
        let zero = self.algebra.int(0);
        if segment.axes.first() == Some(&axis) {
            (self.algebra.sub(zero, segment.begin), end)
        } else {
            (zero, self.algebra.canon(a.extent))
        }
    }

    fn atom_filter(&mut self, atom: ExprId, range: Range, why: &str) -> Form {
        let p = self.as_predicate(&Linear::atom(atom), range);
        self.filter(p, Reason::Form, why)
    }

    /// `x <= -by` or `x >= by`; the same as `atom >= lo`.
    fn away_from_zero(&mut self, x: ExprId, by: ExprId, atom: ExprId, lo: ExprId) -> Form {
        let zero = self.algebra.int(0);
        let low = self.algebra.sub(zero, by);
        let below = self.int_in(x, Range { lo: None, hi: Some(low) });
        let above = self.int_in(x, Range { lo: Some(by), hi: None });
        let source = self.as_predicate(&Linear::atom(atom), Range { lo: Some(lo), hi: None });
        Form::Or(vec![below, above], source)
    }

    fn square_in(&mut self, square: ExprId, root: ExprId, range: Range) -> Form {
        let zero = self.algebra.int(0);
        let mut parts = vec![];
        if let Some(hi) = range.hi {
            let hi = self.algebra.exprs.un(Un::Isqrt, hi);
            let lo = self.algebra.sub(zero, hi);
            parts.push(self.int_in(root, Range { lo: Some(lo), hi: Some(hi) }));
        }
        if let Some(lo) = range.lo {
            // The least t >= 0 with t * t >= lo.
            let before = self.algebra.offset(lo, -1);
            let by = self.algebra.exprs.un(Un::Isqrt, before);
            let by = self.algebra.offset(by, 1);
            parts.push(self.away_from_zero(root, by, square, lo));
        }
        Form::And(parts)
    }

    /// If a term is a product of one factor that reads the key and others that do not: that one, and the others.
    fn factored(&mut self, atom: ExprId) -> Option<(ExprId, ExprId)> {
        let (key, other): (Vec<_>, Vec<_>) = self.algebra.factors(atom).into_iter().partition(|&f| self.reads_key(f));
        let [x] = *key else { return None };
        let mut y = self.algebra.int(1);
        for f in other {
            y = self.algebra.mul(y, f);
        }
        Some((x, y))
    }

    fn product_in(&mut self, atom: ExprId, range: Range) -> Form {
        match self.factored(atom) {
            Some(factors) => self.multiple_in(&Linear::atom(atom), factors, range),
            None => self.atom_filter(atom, range, "multiplies terms that depend on the key"),
        }
    }

    /// A sum whose terms are all multiples of the key or of one of its coordinates.
    fn common_factor(&mut self, key: &Linear, range: Range) -> Option<Form> {
        let (mut common, mut by) = (None, self.algebra.int(0));
        for &(id, c) in &key.terms {
            let (x, y) = self.factored(id)?;
            if *common.get_or_insert(x) != x {
                return None;
            }
            let c = self.algebra.int(c);
            let y = self.algebra.mul(y, c);
            by = self.algebra.add(by, y);
        }
        let x = common?;
        let plain = self.coordinates.contains_key(&x) || matches!(self.algebra.exprs.node(x), Node::Var(_));
        plain.then(|| self.multiple_in(key, (x, by), range))
    }

    /// A sum that is `x * y`, of which x reads the key and y does not.
    fn multiple_in(&mut self, sum: &Linear, (x, y): (ExprId, ExprId), range: Range) -> Form {
        let zero = self.algebra.int(0);
        let over = |this: &mut Self, range: Range, y: ExprId| {
            let lo = range.lo.map(|e| this.algebra.div_ceil(e, y));
            let hi = range.hi.map(|e| this.algebra.div(e, y));
            this.int_in(x, Range { lo, hi })
        };
        let positive = over(self, range, y);
        if self.algebra.positive(y) {
            return positive;
        }
        let guarded = |this: &mut Self, g: ExprId, form: Form| Form::And(vec![this.guard(g), form]);
        let above = self.algebra.exprs.lt(zero, y);
        let at = self.algebra.exprs.eq(y, zero);
        let at_zero = self.as_predicate(&Linear::default(), range);
        let at_zero = self.guard(at_zero);
        let mut cases = vec![guarded(self, above, positive), guarded(self, at, at_zero)];
        if !self.algebra.nonnegative(y) {
            let flip = |this: &mut Self, e: Option<ExprId>| e.map(|e| this.algebra.sub(zero, e));
            let negated = Range { lo: flip(self, range.hi), hi: flip(self, range.lo) };
            let less = self.algebra.sub(zero, y);
            let form = over(self, negated, less);
            let below = self.algebra.exprs.lt(y, zero);
            cases.push(guarded(self, below, form));
        }
        let source = self.as_predicate(sum, range);
        Form::Or(cases, source)
    }

    /// Bounds of x from constant bounds of its logarithm or root.
    fn inverse(&mut self, op: Un, range: Range) -> Option<Range> {
        let exprs = &*self.algebra.exprs;
        let constant = |e: Option<ExprId>| match e {
            None => Some(None),
            Some(e) => exprs.as_int(e).filter(|v| (-1..=1 << 20).contains(v)).map(Some),
        };
        let (lo, hi) = (constant(range.lo)?, constant(range.hi)?);
        let first = |v: i64| match op {
            Un::Log2 if v < 62 => Some(if v < 0 { i64::MIN } else { 1 << v }),
            Un::Isqrt => Some(if v < 0 { i64::MIN } else { v * v }),
            _ => None,
        };
        let lo = lo.map(first).map_or(Some(None), |v| v.map(Some))?;
        let hi = hi.map(|v| first(v + 1)).map_or(Some(None), |v| v.map(Some))?;
        let lo = lo.filter(|&v| v != i64::MIN).map(|v| self.algebra.int(v));
        let hi = hi.map(|v| self.algebra.int(v - 1));
        Some(Range { lo, hi })
    }
}
