//! Conditions that give the key piece by piece: a loop runs over values, inside it the key is a range.
//!
//! Powers of two, discs and balls, maps and random choices, and ranges of an order. A loop over the one row of
//! a query is worth its while: inside it the row is exact for a whole tile of queries.

use rustc_hash::FxHashMap;

use super::{Form, Leaf, Range, Solver};
use crate::analysis::Reason;
use crate::analysis::interval::Intervals;
use crate::analysis::linear::Linear;
use crate::expr::{AxisId, Bin, Cmp, DrawId, ExprId, MapId, Node, OrderId, Un, Var};
use crate::program::{Chooser, DrawScope, MapKind, OrderKind};

impl Solver<'_, '_> {
    /// `Pow2(Log2 d) == d`: d is 0 or a power of two, one value for each exponent.
    pub(super) fn power_of_two(&mut self, sum: &Linear) -> Option<Form> {
        let distance = sum.terms.iter().find_map(|&(id, c)| {
            let Node::Un(Un::Pow2, l) = *self.algebra.exprs.node(id) else { return None };
            let Node::Un(Un::Log2, d) = *self.algebra.exprs.node(l) else { return None };
            let term = Linear::atom(id);
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
    pub(super) fn over_keys(&mut self, e: ExprId) -> Option<(ExprId, ExprId)> {
        let start = self.algebra.exprs.var(Var::KStart);
        let count = self.algebra.exprs.var(Var::NK);
        let end = self.algebra.add(start, count);
        let last = self.algebra.offset(end, -1);
        Intervals::new(&mut self.algebra, vec![(Var::K, start, last)]).int(e)
    }

    /// A sum of squares of coordinates: a disc, a ball, or what is outside of one.
    pub(super) fn squares(&mut self, key: &Linear, range: Range) -> Option<Form> {
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

    pub(super) fn map(&mut self, m: MapId, row: ExprId, col: ExprId, e: ExprId, holds: bool) -> Form {
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

    pub(super) fn drawn(&mut self, d: DrawId, row: ExprId, candidate: ExprId, e: ExprId, holds: bool) -> Form {
        let draw = &self.context.draws[d.0 as usize];
        let unit = draw.unit;
        let most = match draw.chooser {
            Chooser::Random { count, .. } => Some(count),
            Chooser::Select { .. } => None,
        };
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
            let lo = self.algebra.int(0);
            let hi = match most {
                Some(count) => self.algebra.int(count),
                None => self.algebra.exprs.un(Un::DrawCount(d), r),
            };
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

    /// The one key of a numbering by index that has a position.
    pub(super) fn key_at(&mut self, order: OrderId, position: ExprId) -> Form {
        let e = &mut *self.algebra.exprs;
        let index = e.un(Un::OrderIndex(order), position);
        let (start, count) = (e.var(Var::KStart), e.var(Var::NK));
        let end = self.algebra.add(start, count);
        // A numbering has all indices and nothing else, and what is no position has none.
        let zero = self.algebra.int(0);
        let (from, to) = (self.algebra.exprs.le(zero, position), self.algebra.exprs.lt(position, end));
        let there = [self.guard(from), self.guard(to)];
        let next = self.algebra.offset(index, 1);
        Form::And(there.into_iter().chain([Leaf::From(index), Leaf::Below(next)].map(Form::Leaf)).collect())
    }

    /// An interval of the index in an order. In a raster it is a nest of loops over coordinates.
    pub(super) fn order_in(&mut self, order: OrderId, atom: ExprId, range: Range) -> Form {
        let space = self.context.space;
        let order = &self.context.orders[order.0 as usize];
        if let OrderKind::Sort(_) = order.kind {
            let p = self.as_predicate(&Linear::atom(atom), range);
            return self.filter(p, Reason::Data, "takes a range of an order that is given when run");
        }
        let (OrderKind::Raster(axes), Some(number)) = (&order.kind, order.segment) else {
            return self.atom_filter(atom, range, "takes a range of a curve, which is not a union of boxes");
        };
        let segment = &space.segments[number];
        let begin = self.algebra.canon(segment.begin);
        let end = self.algebra.add(begin, segment.len);
        // Others keep their places.
        let k = self.algebra.exprs.var(Var::K);
        let mut places = vec![];
        if self.algebra.exprs.as_int(begin) != Some(0) {
            places.push(Form::And(vec![Form::Leaf(Leaf::Below(begin)), self.atom_in(k, range)]));
        }
        if space.total.is_none() || number + 1 < space.segments.len() {
            places.push(Form::And(vec![Form::Leaf(Leaf::From(end)), self.atom_in(k, range)]));
        }
        let mut inside = vec![Form::Leaf(Leaf::From(begin)), Form::Leaf(Leaf::Below(end))];
        let place = |axis: AxisId| axes.iter().position(|&a| a == axis).unwrap_or(0);
        let mut strides = vec![self.algebra.int(1); axes.len()];
        for i in (1..axes.len()).rev() {
            strides[i - 1] = self.algebra.mul(strides[i], space.axes[axes[i].0 as usize].extent);
        }
        // The innermost axes that follow each other in the order as they do in the sequence are one: with the
        // others fixed, a range of the index is a range of positions.
        let mut outer = segment.axes.len() - 1;
        while outer > 0 && place(segment.axes[outer - 1]) + 1 == place(segment.axes[outer]) {
            outer -= 1;
        }
        let step = strides[place(segment.axes[segment.axes.len() - 1])];
        let (mut lo, mut hi) = (range.lo, range.hi);
        for e in [&mut lo, &mut hi].into_iter().flatten() {
            *e = self.algebra.sub(*e, begin);
        }
        let zero = self.algebra.int(0);
        let mut base = begin;
        for &axis in &segment.axes[..outer] {
            let extent = self.algebra.canon(space.axes[axis.0 as usize].extent);
            let stride = strides[place(axis)];
            let (var, v) = self.fresh_loop();
            let (mut first, mut after) = (zero, extent);
            // On the outermost axis of the order the range says which coordinates.
            if place(axis) == 0 {
                if let Some(lo) = range.lo {
                    let lo = self.algebra.sub(lo, begin);
                    let lo = self.algebra.div(lo, stride);
                    first = self.algebra.max(lo, zero);
                }
                if let Some(hi) = range.hi {
                    let hi = self.algebra.sub(hi, begin);
                    let hi = self.algebra.div(hi, stride);
                    let hi = self.algebra.offset(hi, 1);
                    after = self.algebra.min(hi, extent);
                }
            }
            inside.push(Form::Leaf(Leaf::Loop { var, lo: first, hi: after }));
            inside.push(Form::Leaf(Leaf::AxisFrom(axis, v)));
            inside.push(Form::Leaf(Leaf::AxisBelow(axis, self.algebra.offset(v, 1))));
            let used = self.algebra.mul(v, stride);
            for e in [&mut lo, &mut hi].into_iter().flatten() {
                *e = self.algebra.sub(*e, used);
            }
            let here = self.algebra.mul(v, space.axes[axis.0 as usize].stride);
            base = self.algebra.add(base, here);
        }
        let lo = lo.map(|lo| self.algebra.div_ceil(lo, step));
        let after = hi.map(|hi| {
            let last = self.algebra.div(hi, step);
            self.algebra.offset(last, 1)
        });
        if outer + 1 == segment.axes.len() {
            let axis = segment.axes[outer];
            inside.extend(lo.map(|lo| Form::Leaf(Leaf::AxisFrom(axis, lo))));
            inside.extend(after.map(|after| Form::Leaf(Leaf::AxisBelow(axis, after))));
        } else {
            inside.extend(lo.map(|lo| Form::Leaf(Leaf::From(self.algebra.add(base, lo)))));
            inside.extend(after.map(|after| Form::Leaf(Leaf::Below(self.algebra.add(base, after)))));
        }
        let source = self.as_predicate(&Linear::atom(atom), range);
        places.push(Form::And(inside));
        Form::Or(places, source)
    }

    /// The set without orders that change nothing: rasters in the order of the space.
    pub(in crate::analysis) fn without_idle_orders(&mut self, set: ExprId) -> ExprId {
        let context = self.context;
        let idle = |o: OrderId| {
            let order = &context.orders[o.0 as usize];
            let own = order.segment.map(|s| &context.space.segments[s].axes);
            matches!(&order.kind, OrderKind::Raster(axes) if Some(axes) == own)
        };
        let reached = self.algebra.exprs.reachable(&[set]);
        if !reached.iter().any(|&id| matches!(*self.algebra.exprs.node(id), Node::Un(Un::OrderIndex(o), _) if idle(o)))
        {
            return set;
        }
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in reached {
            let operands: Vec<ExprId> = self.algebra.exprs.operands(id).iter().map(|o| new[o]).collect();
            let made = match *self.algebra.exprs.node(id) {
                Node::Un(Un::OrderIndex(o), _) if idle(o) => operands[0],
                _ => self.algebra.exprs.rebuild(id, &operands),
            };
            if let Some(span) = self.algebra.exprs.span(id) {
                self.algebra.exprs.set_span(made, span);
            }
            new.insert(id, made);
        }
        new[&set]
    }
}
