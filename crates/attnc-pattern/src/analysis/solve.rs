//! From a predicate to constraints on the key: every comparison solved for `K`.
//!
//! A predicate becomes a [`Form`], a tree of *and* and *or* over [`Leaf`] constraints that say what `K` is,
//! not what is true of it: bounds, combs, bounds on one coordinate of a grid, loops that give `K` piecewise.
//! Solving recurses into the one part of a sum that reads the key: a floor, a remainder, an absolute value, a
//! document, a square. What has no solution here stays a predicate, with a note.
//! Nothing here knows how constraints are joined into pieces.

use std::collections::HashMap;

use attnc_syntax::diag::Span;

use super::interval::Intervals;
use super::linear::{Algebra, Linear, gcd};
use super::{Note, Reason};
use crate::expr::{AxisId, Bin, Cmp, DrawId, ExprId, MapId, Node, OrderId, Ty, Un, Var};
use crate::program::{Draw, DrawScope, Map, MapKind, Order, OrderKind, Space};
use crate::rowset::Comb;

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
    coordinates: HashMap<ExprId, (AxisId, i64)>,
    reads_key: HashMap<ExprId, bool>,
    next_loop: u32,
    place: Option<Span>,
}

impl<'a, 'e> Solver<'a, 'e> {
    pub(super) fn new(mut algebra: Algebra<'e>, context: Context<'a>) -> Self {
        let mut coordinates = HashMap::new();
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
            reads_key: HashMap::new(),
            next_loop: FIRST_LOOP,
            place: None,
        }
    }

    pub(super) fn reads_key(&mut self, id: ExprId) -> bool {
        if let Some(&r) = self.reads_key.get(&id) {
            return r;
        }
        let reads = match *self.algebra.exprs.node(id) {
            Node::Var(v) => v == Var::K,
            _ => self.algebra.exprs.operands(id).into_iter().any(|o| self.reads_key(o)),
        };
        self.reads_key.insert(id, reads);
        reads
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
                    let join = |a: Option<ExprId>, b: Option<ExprId>, f: &mut dyn FnMut(ExprId, ExprId) -> ExprId| match (a, b) {
                        (Some(a), Some(b)) => Some(f(a, b)),
                        (a, b) => a.or(b),
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

    fn replaced(&mut self, root: ExprId, from: ExprId, to: ExprId) -> ExprId {
        let mut new: HashMap<ExprId, ExprId> = HashMap::new();
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
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        let e = self.algebra.canon(e);
        match self.algebra.exprs.as_bool(e) {
            Some(true) => Form::And(vec![]),
            Some(false) => Form::Or(vec![], e),
            None => Form::Leaf(Leaf::Filter(e)),
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
        if let Some(form) = self.squares(key, range) {
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

    fn atom_in(&mut self, atom: ExprId, range: Range) -> Form {
        if let Some(&(axis, offset)) = self.coordinates.get(&atom) {
            let lo = range.lo.map(|lo| Leaf::AxisFrom(axis, self.algebra.offset(lo, offset)));
            let hi = range.hi.map(|hi| Leaf::AxisBelow(axis, self.algebra.offset(hi, offset + 1)));
            return Form::And(lo.into_iter().chain(hi).map(Form::Leaf).collect());
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
            Node::Bin(Bin::Mod, g, m) if !self.reads_key(m) && self.algebra.nonnegative(m) => {
                let last = self.algebra.offset(m, -1);
                let lo = range.lo.map_or(zero, |lo| self.algebra.max(lo, zero));
                let hi = range.hi.map_or(last, |hi| self.algebra.min(hi, last));
                if lo == zero && hi == last {
                    return Form::And(vec![]);
                }
                let some = self.algebra.exprs.le(lo, hi);
                let end = self.algebra.offset(hi, 1);
                let width = self.algebra.sub(end, lo);
                let g = self.algebra.linear(g);
                let comb = self.modular(&g, m, lo, width);
                if self.algebra.proves_le(lo, hi) {
                    return comb;
                }
                Form::And(vec![self.guard(some), comb])
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
                    let atom = Linear { terms: vec![(atom, 1)], constant: 0 };
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
                let atom = Linear { terms: vec![(atom, 1)], constant: 0 };
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
        let p = self.as_predicate(&Linear { terms: vec![(atom, 1)], constant: 0 }, range);
        self.filter(p, Reason::Form, why)
    }

    /// `x <= -by` or `x >= by`; the same as `atom >= lo`.
    fn away_from_zero(&mut self, x: ExprId, by: ExprId, atom: ExprId, lo: ExprId) -> Form {
        let zero = self.algebra.int(0);
        let low = self.algebra.sub(zero, by);
        let below = self.int_in(x, Range { lo: None, hi: Some(low) });
        let above = self.int_in(x, Range { lo: Some(by), hi: None });
        let source = self.as_predicate(&Linear { terms: vec![(atom, 1)], constant: 0 }, Range { lo: Some(lo), hi: None });
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

    /// A product of one factor that reads the key and others that do not.
    fn product_in(&mut self, atom: ExprId, range: Range) -> Form {
        let (key, other): (Vec<_>, Vec<_>) =
            self.algebra.factors(atom).into_iter().partition(|&f| self.reads_key(f));
        let [x] = *key else {
            return self.atom_filter(atom, range, "multiplies terms that depend on the key");
        };
        let mut y = self.algebra.int(1);
        for f in other {
            y = self.algebra.mul(y, f);
        }
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
        let source = self.as_predicate(&Linear { terms: vec![(atom, 1)], constant: 0 }, range);
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

    /// `Pow2(Log2 d) == d`: d is 0 or a power of two, one value for each exponent.
    fn power_of_two(&mut self, sum: &Linear) -> Option<Form> {
        let distance = sum.terms.iter().find_map(|&(id, c)| {
            let Node::Un(Un::Pow2, l) = *self.algebra.exprs.node(id) else { return None };
            let Node::Un(Un::Log2, d) = *self.algebra.exprs.node(l) else { return None };
            let term = Linear { terms: vec![(id, 1)], constant: 0 };
            let d = self.algebra.linear(d);
            let rest = sum.plus(&term, -c)?;
            (c.abs() == 1 && rest == d.times(-c)?).then_some(d)
        })?;
        let d = self.algebra.expr(&distance);
        let (_, most) = self.over_keys(d)?;
        let (var, j) = self.fresh_loop();
        let e = &mut *self.algebra.exprs;
        let last = e.un(Un::Log2, most);
        let power = e.un(Un::Pow2, j);
        let (lo, hi) = (self.algebra.int(0), self.algebra.offset(last, 1));
        let zero = self.algebra.int(0);
        let same = self.sum_in(&distance, Range::only(zero));
        let apart = self.sum_in(&distance, Range::only(power));
        let source = self.algebra.compared(Cmp::Eq, sum);
        Some(Form::Or(vec![same, Form::And(vec![Form::Leaf(Leaf::Loop { var, lo, hi }), apart])], source))
    }

    /// Bounds of an expression over all keys.
    fn over_keys(&mut self, e: ExprId) -> Option<(ExprId, ExprId)> {
        let start = self.algebra.exprs.var(Var::KStart);
        let count = self.algebra.exprs.var(Var::NK);
        let end = self.algebra.add(start, count);
        let last = self.algebra.offset(end, -1);
        Intervals::new(&mut self.algebra, vec![(Var::K, start, last)]).int(e)
    }

    /// A sum of squares of coordinates: a disc, a ball, or what is outside of one.
    fn squares(&mut self, key: &Linear, range: Range) -> Option<Form> {
        let sign = key.terms[0].1;
        if sign.abs() != 1 || key.terms.iter().any(|t| t.1 != sign) {
            return None;
        }
        let range = if sign < 0 { self.divided(range, -1) } else { range };
        let mut roots = vec![];
        for &(id, _) in &key.terms {
            let Node::Bin(Bin::Mul, a, b) = *self.algebra.exprs.node(id) else { return None };
            let root = self.algebra.linear(a);
            let (inner, _) = self.split(&root);
            let [(atom, 1 | -1)] = *inner.terms else { return None };
            if a != b {
                return None;
            }
            roots.push((self.coordinates.get(&atom).map_or(u32::MAX, |a| a.0.0), atom, root));
        }
        roots.sort_by_key(|r| (r.0, r.1));
        let roots: Vec<_> = roots.into_iter().map(|(_, atom, root)| (atom, root)).collect();
        // Outside of a ball every value of the outer coordinates counts: they must have an end.
        if range.hi.is_none() && roots[..roots.len() - 1].iter().any(|r| !self.coordinates.contains_key(&r.0)) {
            return None;
        }
        self.ball(&roots, range)
    }

    /// `lo <= sum of root^2 <= hi`: the first root runs, the others solve what is left.
    fn ball(&mut self, roots: &[(ExprId, Linear)], range: Range) -> Option<Form> {
        let ((atom, root), inner) = roots.split_first()?;
        if inner.is_empty() {
            let root = self.algebra.expr(root);
            let square = self.algebra.exprs.intern(Node::Bin(Bin::Mul, root, root));
            return Some(self.square_in(square, root, range));
        }
        let (var, v) = self.fresh_loop();
        let axis = self.coordinates.get(atom).copied();
        let value = self.algebra.offset(v, -axis.map_or(0, |a| a.1));
        let (key, rest) = self.split(root);
        let sign = key.terms[0].1;
        // root = sign * atom + rest is 0 at the centre.
        let centre = rest.times(-sign)?;
        let centre = self.algebra.expr(&centre);
        let centre = self.algebra.offset(centre, axis.map_or(0, |a| a.1));
        let zero = self.algebra.int(0);
        let extent = axis.map(|(axis, _)| self.context.space.axes[axis.0 as usize].extent);
        let (mut lo, mut hi) = (zero, extent.unwrap_or(zero));
        if let Some(most) = range.hi {
            let reach = self.algebra.exprs.un(Un::Isqrt, most);
            lo = self.algebra.sub(centre, reach);
            hi = self.algebra.add(centre, reach);
            hi = self.algebra.offset(hi, 1);
            if let Some(extent) = extent {
                lo = self.algebra.max(lo, zero);
                hi = self.algebra.min(hi, extent);
            }
        }
        let away = self.algebra.sub(v, centre);
        let used = self.algebra.exprs.mul(away, away);
        let left = |this: &mut Self, e: Option<ExprId>| e.map(|e| this.algebra.sub(e, used));
        let range = Range { lo: left(self, range.lo), hi: left(self, range.hi) };
        let here = self.atom_in(*atom, Range::only(value));
        let others = self.ball(inner, range)?;
        Some(Form::And(vec![Form::Leaf(Leaf::Loop { var, lo, hi }), here, others]))
    }

    /// `(x - phase) % m < width`
    fn modular(&mut self, x: &Linear, m: ExprId, phase: ExprId, width: ExprId) -> Form {
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
        let inverse = (0..reduced).find(|&u| (i128::from(u) * i128::from(unit)).rem_euclid(reduced.into()) == i128::from(1 % reduced));
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
            Node::Bin(Bin::Div, g, b) if !self.reads_key(b) && self.algebra.nonnegative(b) => {
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

    fn negated_if(&mut self, e: ExprId, holds: bool) -> ExprId {
        if holds { e } else { self.algebra.exprs.not(e) }
    }

    /// A loop over the one value of an expression without the key: inside it the value is exact
    /// for a whole tile of queries, too.
    fn pinned(&mut self, e: ExprId, loops: &mut Vec<Form>) -> ExprId {
        let e = self.algebra.canon(e);
        if self.algebra.exprs.as_int(e).is_some() {
            return e;
        }
        let (var, v) = self.fresh_loop();
        let hi = self.algebra.offset(e, 1);
        loops.push(Form::Leaf(Leaf::Loop { var, lo: e, hi }));
        v
    }

    /// A loop over all values of an expression of the key, and the keys of one value.
    fn spread(&mut self, e: ExprId, loops: &mut Vec<Form>) -> Option<ExprId> {
        let (lo, hi) = self.over_keys(e)?;
        let (var, v) = self.fresh_loop();
        let hi = self.algebra.offset(hi, 1);
        loops.push(Form::Leaf(Leaf::Loop { var, lo, hi }));
        let keys = self.int_in(e, Range::only(v));
        loops.push(keys);
        Some(v)
    }

    fn map(&mut self, m: MapId, row: ExprId, col: ExprId, e: ExprId, holds: bool) -> Form {
        let kind = self.context.maps[m.0 as usize].kind;
        let (row_key, col_key) = (self.reads_key(row), self.reads_key(col));
        let mut parts = vec![];
        match kind {
            MapKind::Blocks(_) if row_key != col_key => {
                let (fixed, running) = if col_key { (row, col) } else { (col, row) };
                let fixed = self.pinned(fixed, &mut parts);
                if let Some(running) = self.spread(running, &mut parts) {
                    let (r, c) = if col_key { (fixed, running) } else { (running, fixed) };
                    let at = self.algebra.exprs.intern(Node::MapAt(m, r, c));
                    let at = self.negated_if(at, holds);
                    parts.push(Form::Leaf(Leaf::Guard(at)));
                    return Form::And(parts);
                }
            }
            MapKind::Csr if holds && col_key && !row_key => {
                let r = self.pinned(row, &mut parts);
                let next = self.algebra.offset(r, 1);
                let e = &mut *self.algebra.exprs;
                let (lo, hi) = (e.un(Un::CsrBegin(m), r), e.un(Un::CsrBegin(m), next));
                let (var, j) = self.fresh_loop();
                parts.push(Form::Leaf(Leaf::Loop { var, lo, hi }));
                let column = self.algebra.exprs.un(Un::CsrIndex(m), j);
                parts.push(self.int_in(col, Range::only(column)));
                return Form::And(parts);
            }
            _ => {}
        }
        let e = self.negated_if(e, holds);
        self.filter(e, Reason::Data, "reads a map pair by pair")
    }

    fn drawn(&mut self, d: DrawId, row: ExprId, candidate: ExprId, e: ExprId, holds: bool) -> Form {
        let draw = &self.context.draws[d.0 as usize];
        let (count, unit) = (draw.count, draw.unit);
        // One row serves a head.
        let row = if draw.scope == DrawScope::Head { self.algebra.int(0) } else { row };
        let (row_key, candidate_key) = (self.reads_key(row), self.reads_key(candidate));
        let mut parts = vec![];
        if !row_key && !candidate_key {
            let at = self.algebra.exprs.intern(Node::Drawn(d, row, candidate));
            let at = self.negated_if(at, holds);
            return self.guard(at);
        }
        if holds && candidate_key && !row_key {
            let r = self.pinned(row, &mut parts);
            let (var, j) = self.fresh_loop();
            let (lo, hi) = (self.algebra.int(0), self.algebra.int(count));
            parts.push(Form::Leaf(Leaf::Loop { var, lo, hi }));
            let at = self.algebra.exprs.intern(Node::DrawAt(d, r, j));
            let zero = self.algebra.int(0);
            let some = self.algebra.exprs.le(zero, at);
            parts.push(Form::Leaf(Leaf::Guard(some)));
            parts.push(self.int_in(candidate, Range::only(at)));
            return Form::And(parts);
        }
        if unit > 1 && row_key != candidate_key {
            let (fixed, running) = if candidate_key { (row, candidate) } else { (candidate, row) };
            let fixed = self.pinned(fixed, &mut parts);
            if let Some(running) = self.spread(running, &mut parts) {
                let (r, c) = if candidate_key { (fixed, running) } else { (running, fixed) };
                let at = self.algebra.exprs.intern(Node::Drawn(d, r, c));
                let at = self.negated_if(at, holds);
                parts.push(Form::Leaf(Leaf::Guard(at)));
                return Form::And(parts);
            }
        }
        let e = self.negated_if(e, holds);
        self.filter(e, Reason::Data, "reads a random choice pair by pair")
    }

    /// An interval of the index in an order. In a raster it is a nest of loops over coordinates.
    fn order_in(&mut self, order: OrderId, atom: ExprId, range: Range) -> Form {
        let space = self.context.space;
        let order = &self.context.orders[order.0 as usize];
        let segment = &space.segments[order.segment];
        let OrderKind::Raster(axes) = &order.kind else {
            return self.atom_filter(atom, range, "takes a range of a curve, which is not a union of boxes");
        };
        let begin = self.algebra.canon(segment.begin);
        let end = self.algebra.add(begin, segment.len);
        let zero = self.algebra.int(0);
        // Others keep their places.
        let k = self.algebra.exprs.var(Var::K);
        let before = Form::And(vec![Form::Leaf(Leaf::Below(begin)), self.atom_in(k, range)]);
        let after = Form::And(vec![Form::Leaf(Leaf::From(end)), self.atom_in(k, range)]);
        let mut inside = vec![Form::Leaf(Leaf::From(begin)), Form::Leaf(Leaf::Below(end))];
        let mut strides = vec![];
        let mut stride = self.algebra.int(1);
        for axis in axes.iter().rev() {
            strides.push(stride);
            stride = self.algebra.mul(stride, space.axes[axis.0 as usize].extent);
        }
        let (mut lo, mut hi) = (
            range.lo.map(|lo| self.algebra.sub(lo, begin)),
            range.hi.map(|hi| self.algebra.sub(hi, begin)),
        );
        for (i, (&axis, stride)) in axes.iter().zip(strides.into_iter().rev()).enumerate() {
            let extent = space.axes[axis.0 as usize].extent;
            let first = lo.map(|lo| self.algebra.div(lo, stride)).map_or(zero, |lo| self.algebra.max(lo, zero));
            let last = hi.map(|hi| {
                let last = self.algebra.div(hi, stride);
                self.algebra.offset(last, 1)
            });
            let bound = last.map_or(extent, |last| self.algebra.min(last, extent));
            if i + 1 == axes.len() {
                inside.push(Form::Leaf(Leaf::AxisFrom(axis, first)));
                inside.push(Form::Leaf(Leaf::AxisBelow(axis, bound)));
                break;
            }
            let (var, v) = self.fresh_loop();
            inside.push(Form::Leaf(Leaf::Loop { var, lo: first, hi: bound }));
            inside.push(Form::Leaf(Leaf::AxisFrom(axis, v)));
            inside.push(Form::Leaf(Leaf::AxisBelow(axis, self.algebra.offset(v, 1))));
            let used = self.algebra.mul(v, stride);
            lo = lo.map(|lo| self.algebra.sub(lo, used));
            hi = hi.map(|hi| self.algebra.sub(hi, used));
        }
        let source = self.as_predicate(&Linear { terms: vec![(atom, 1)], constant: 0 }, range);
        Form::Or(vec![before, after, Form::And(inside)], source)
    }
}
