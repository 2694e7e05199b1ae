//! From constraints on the key to pieces: disjunctive form, one piece for each conjunction.
//!
//! A conjunction's bounds become one range, its coordinates a nest of loops over the outer axes of a grid and
//! a range on the innermost constrained one. Pieces that are provably empty, or inside another, are left out.
//! Beyond [`MOST`] pieces the largest part becomes a filter: the set stays exact, its cost does not.

use std::collections::BTreeMap;

use super::linear::Algebra;
use super::solve::{Form, Leaf, Solver};
use super::{Note, Reason};
use crate::expr::{AxisId, ExprId, Node, Var};
use crate::rowset::{Comb, Loop, Piece, RowSet};

/// Most pieces of a row set.
pub(super) const MOST: usize = 128;

/// Pairs of pieces are compared up to this many pieces.
const COMPARED: usize = 24;

/// All of these hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Conjunction {
    from: Vec<ExprId>,
    below: Vec<ExprId>,
    guards: Vec<ExprId>,
    combs: Vec<Comb>,
    filters: Vec<ExprId>,
    loops: Vec<(u32, ExprId, ExprId)>,
    axes: BTreeMap<AxisId, Coordinates>,
}

/// What is known of one coordinate.
#[derive(Clone, Debug, Default, PartialEq)]
struct Coordinates {
    from: Vec<ExprId>,
    below: Vec<ExprId>,
    combs: Vec<Comb>,
}

fn insert<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

impl Conjunction {
    fn add(&mut self, leaf: Leaf) {
        match leaf {
            Leaf::Guard(e) => insert(&mut self.guards, e),
            Leaf::From(e) => insert(&mut self.from, e),
            Leaf::Below(e) => insert(&mut self.below, e),
            Leaf::Comb(c) => insert(&mut self.combs, c),
            Leaf::AxisFrom(a, e) => insert(&mut self.axes.entry(a).or_default().from, e),
            Leaf::AxisBelow(a, e) => insert(&mut self.axes.entry(a).or_default().below, e),
            Leaf::AxisComb(a, c) => insert(&mut self.axes.entry(a).or_default().combs, c),
            Leaf::Loop { var, lo, hi } => insert(&mut self.loops, (var, lo, hi)),
            Leaf::Filter(e) => insert(&mut self.filters, e),
        }
    }

    fn join(&self, other: &Conjunction) -> Conjunction {
        let mut all = self.clone();
        other.from.iter().for_each(|&e| insert(&mut all.from, e));
        other.below.iter().for_each(|&e| insert(&mut all.below, e));
        other.guards.iter().for_each(|&e| insert(&mut all.guards, e));
        other.combs.iter().for_each(|c| insert(&mut all.combs, c.clone()));
        other.filters.iter().for_each(|&e| insert(&mut all.filters, e));
        other.loops.iter().for_each(|&l| insert(&mut all.loops, l));
        for (&axis, c) in &other.axes {
            let mine = all.axes.entry(axis).or_default();
            c.from.iter().for_each(|&e| insert(&mut mine.from, e));
            c.below.iter().for_each(|&e| insert(&mut mine.below, e));
            c.combs.iter().for_each(|c| insert(&mut mine.combs, c.clone()));
        }
        all
    }

    /// Whether nothing can satisfy the bounds, by proof.
    fn is_empty(&self, algebra: &mut Algebra<'_>) -> bool {
        let crossed = |algebra: &mut Algebra<'_>, from: &[ExprId], below: &[ExprId]| {
            from.iter().any(|&f| below.iter().any(|&b| algebra.proves_le(b, f)))
        };
        if crossed(algebra, &self.from, &self.below) {
            return true;
        }
        self.axes.values().any(|c| crossed(algebra, &c.from, &c.below))
    }
}

impl Solver<'_, '_> {
    /// The row set of a form.
    pub(super) fn row_set(&mut self, form: &Form) -> RowSet {
        let conjunctions = self.disjunction(form, MOST);
        let mut pieces: Vec<Piece> = Vec::new();
        for c in conjunctions {
            if let Some(piece) = self.piece(c)
                && !pieces.contains(&piece)
            {
                pieces.push(piece);
            }
        }
        self.merge(&mut pieces);
        RowSet { pieces }
    }

    /// At most `most` conjunctions.
    fn disjunction(&mut self, form: &Form, most: usize) -> Vec<Conjunction> {
        match form {
            Form::Leaf(leaf) => {
                let mut c = Conjunction::default();
                c.add(leaf.clone());
                vec![c]
            }
            Form::Or(parts, source) => {
                let mut all: Vec<Conjunction> = Vec::new();
                for part in parts {
                    all.extend(self.disjunction(part, most));
                    if all.len() > most {
                        return vec![self.as_filter(*source)];
                    }
                }
                all
            }
            Form::And(parts) => {
                let mut all = vec![Conjunction::default()];
                let (mut leaves, mut unions) = (vec![], vec![]);
                gather(parts, &mut leaves, &mut unions);
                for leaf in leaves {
                    all[0].add(leaf.clone());
                }
                if all[0].is_empty(&mut self.algebra) {
                    return vec![];
                }
                // What is left of the unions is one filter: bounds that it does not change are not looked at again.
                let mut rest = vec![];
                for union in unions {
                    let factor = self.disjunction(union, most);
                    if all.len() * factor.len() > most
                        && let Form::Or(_, source) = union
                        && factor.len() > 1
                    {
                        rest.push(*source);
                        continue;
                    }
                    let mut product = Vec::with_capacity(all.len() * factor.len());
                    for a in &all {
                        for b in &factor {
                            let joined = a.join(b);
                            if !joined.is_empty(&mut self.algebra) && !product.contains(&joined) {
                                product.push(joined);
                            }
                        }
                    }
                    all = product;
                }
                for source in rest {
                    let Conjunction { filters, guards, .. } = self.as_filter(source);
                    for c in &mut all {
                        c.filters.extend(&filters);
                        c.guards.extend(&guards);
                    }
                }
                all
            }
        }
    }

    fn as_filter(&mut self, source: ExprId) -> Conjunction {
        let note = Note {
            span: self.algebra.exprs.span(source),
            why: format!("is a union of more than {MOST} pieces"),
            reason: Reason::Form,
        };
        self.note(note);
        let mut c = Conjunction::default();
        let source = self.algebra.canon(source);
        c.add(if self.reads_key(source) { Leaf::Filter(source) } else { Leaf::Guard(source) });
        c
    }

    /// The largest of several lower bounds (or the smallest of upper ones), dominated ones left out.
    fn tightest(&mut self, mut bounds: Vec<ExprId>, lower: bool) -> Option<ExprId> {
        bounds.sort();
        bounds.dedup();
        let mut kept: Vec<ExprId> = Vec::new();
        for (i, &b) in bounds.iter().enumerate() {
            let dominated = bounds.iter().enumerate().any(|(j, &other)| {
                let (weaker, stronger) = if lower { (b, other) } else { (other, b) };
                // Of two equal bounds the first stays.
                i != j
                    && self.algebra.proves_le(weaker, stronger)
                    && (j < i || !self.algebra.proves_le(stronger, weaker))
            });
            if !dominated {
                kept.push(b);
            }
        }
        kept.into_iter().reduce(|a, b| if lower { self.algebra.max(a, b) } else { self.algebra.min(a, b) })
    }

    fn piece(&mut self, mut c: Conjunction) -> Option<Piece> {
        let mut loops: Vec<Loop> = Vec::new();
        self.place_axes(&mut c, &mut loops);
        let zero = self.algebra.int(0);
        let free = c.loops.iter().map(|&(var, lo, hi)| Loop { var, lo, hi, step: 1, phase: zero, span: None });
        let loops = self.ordered(free.chain(loops).collect());
        let k_start = self.algebra.exprs.var(Var::KStart);
        let n_k = self.algebra.exprs.var(Var::NK);
        let k_end = self.algebra.add(k_start, n_k);
        while self.only_tooth(&mut c) {}
        self.test_only_key(&mut c);
        let start = self.tightest(c.from, true).unwrap_or(k_start);
        let end = self.tightest(c.below, false).unwrap_or(k_end);
        if self.algebra.proves_le(end, start) {
            return None;
        }
        for l in &loops {
            if self.algebra.proves_le(l.hi, l.lo) {
                return None;
            }
        }
        c.guards.sort();
        let guard = self.algebra.exprs.and(c.guards.iter().copied());
        let guard = match self.algebra.exprs.as_bool(guard) {
            Some(true) => None,
            Some(false) => return None,
            None => Some(guard),
        };
        c.filters.sort();
        let filter = self.algebra.exprs.and(c.filters.iter().copied());
        let filter = match self.algebra.exprs.as_bool(filter) {
            Some(true) => None,
            Some(false) => return None,
            None => Some(filter),
        };
        let mut piece = Piece { loops, guard, start, end, combs: c.combs, filter };
        self.find_spans(&mut piece);
        piece.combs.sort_by_key(|c| (c.period, c.width, c.phase));
        Some(self.numbered(piece))
    }

    /// Where bounds leave one period of a comb, its tooth in there takes their place, if it is whole.
    fn only_tooth(&mut self, c: &mut Conjunction) -> bool {
        let reads_query = |this: &Self, e: ExprId| this.algebra.exprs.reads(e, |v| v == Var::Q);
        for i in 0..c.combs.len() {
            let Comb { period, width, phase } = c.combs[i];
            for f in 0..c.from.len() {
                let from = c.from[f];
                // For a tile of queries, periods that differ and one comb say more than teeth that differ.
                if reads_query(self, from) && !reads_query(self, phase) {
                    continue;
                }
                let after = self.algebra.add(from, period);
                let Some(b) = c.below.iter().position(|&b| b == after) else { continue };
                let offset = self.algebra.sub(phase, from);
                let offset = self.algebra.linear(offset);
                let (_, place) = self.algebra.parts(&offset, period);
                let place = self.algebra.expr(&place);
                let zero = self.algebra.int(0);
                let end = self.algebra.add(place, width);
                if self.algebra.proves_le(zero, place) && self.algebra.proves_le(end, period) {
                    c.from[f] = self.algebra.add(from, place);
                    c.below[b] = self.algebra.add(from, end);
                    c.combs.remove(i);
                    return true;
                }
            }
        }
        false
    }

    /// Where bounds leave one key, what would be tested of it is known before.
    fn test_only_key(&mut self, c: &mut Conjunction) {
        if c.filters.is_empty() {
            return;
        }
        let only = c.from.iter().copied().find(|&from| {
            let next = self.algebra.offset(from, 1);
            c.below.contains(&next)
        });
        let Some(only) = only else { return };
        let k = self.algebra.exprs.var(Var::K);
        for filter in std::mem::take(&mut c.filters) {
            let guard = self.replaced(filter, k, only);
            let guard = self.algebra.canon(guard);
            c.add(Leaf::Guard(guard));
        }
    }

    /// Whether a key with these bounds lies in a segment. Positions begin at 0, and with the last segment a
    /// closed space ends.
    fn inside(&mut self, c: &Conjunction, segment: usize, begin: ExprId, end: ExprId) -> bool {
        let space = self.context.space;
        let closed = space.total.is_some() && segment + 1 == space.segments.len();
        let first = self.algebra.exprs.as_int(begin) == Some(0);
        (first || c.from.iter().any(|&f| self.algebra.proves_le(begin, f)))
            && (closed || c.below.iter().any(|&b| self.algebra.proves_le(b, end)))
    }

    /// Turns coordinates into loops and a range.
    fn place_axes(&mut self, c: &mut Conjunction, loops: &mut Vec<Loop>) {
        let space = self.context.space;
        let mut nested = false;
        for (number, segment) in space.segments.iter().enumerate() {
            let constrained: Vec<usize> =
                (0..segment.axes.len()).filter(|&i| c.axes.contains_key(&segment.axes[i])).collect();
            let Some(&last) = constrained.last() else { continue };
            let begin = self.algebra.canon(segment.begin);
            let end = self.algebra.add(begin, segment.len);
            if nested || !self.inside(c, number, begin, end) {
                for i in constrained {
                    let axis = segment.axes[i];
                    if let Some(known) = c.axes.remove(&axis) {
                        self.flat(c, begin, axis, i == 0, known);
                    }
                }
                continue;
            }
            nested = true;
            let outer = &space.axes[segment.axes[0].0 as usize];
            let whole = self.algebra.mul(outer.extent, outer.stride);
            let len = self.algebra.canon(segment.len);
            if whole == len {
                // The loops stay inside the segment by themselves.
                c.from.retain(|&f| !self.algebra.proves_le(f, begin));
                c.below.retain(|&b| !self.algebra.proves_le(end, b));
            }
            let mut base = begin;
            for (depth, &axis) in segment.axes[..last].iter().enumerate() {
                let stride = self.algebra.canon(space.axes[axis.0 as usize].stride);
                let known = c.axes.remove(&axis).unwrap_or_default();
                let mut l = self.axis_loop(c, axis, known);
                if depth == 0 {
                    self.narrow(c, &mut l, begin, stride);
                }
                l.span = Some((base, stride));
                let v = self.algebra.exprs.var(Var::Loop(l.var));
                let here = self.algebra.mul(v, stride);
                base = self.algebra.add(base, here);
                loops.push(l);
            }
            let axis = segment.axes[last];
            let known = c.axes.remove(&axis).unwrap_or_default();
            self.innermost(c, axis, known, base);
        }
    }

    /// The loop over a coordinate: one that is there already, if it gives the coordinate's value.
    fn axis_loop(&mut self, c: &mut Conjunction, axis: AxisId, known: Coordinates) -> Loop {
        let extent = self.algebra.canon(self.context.space.axes[axis.0 as usize].extent);
        let zero = self.algebra.int(0);
        let given = known.from.iter().find_map(|&f| match *self.algebra.exprs.node(f) {
            Node::Var(Var::Loop(n)) => c.loops.iter().position(|l| l.0 == n).map(|at| (at, f)),
            _ => None,
        });
        let given = given.filter(|&(_, f)| {
            let next = self.algebra.offset(f, 1);
            known.below.contains(&next)
        });
        let (var, mut lows, mut highs) = match given {
            Some((at, f)) => {
                let (var, lo, hi) = c.loops.remove(at);
                let next = self.algebra.offset(f, 1);
                let (mut lows, mut highs) = (vec![lo], vec![hi]);
                // What reads another loop is tested: as a bound it could make two loops wait for each other.
                for x in known.from.into_iter().filter(|&x| x != f) {
                    if self.reads_loop(x) {
                        let guard = self.algebra.exprs.le(x, f);
                        c.add(Leaf::Guard(guard));
                    } else {
                        lows.push(x);
                    }
                }
                for x in known.below.into_iter().filter(|&x| x != next) {
                    if self.reads_loop(x) {
                        let guard = self.algebra.exprs.lt(f, x);
                        c.add(Leaf::Guard(guard));
                    } else {
                        highs.push(x);
                    }
                }
                (var, lows, highs)
            }
            None => (self.fresh_loop().0, known.from, known.below),
        };
        lows.push(zero);
        highs.push(extent);
        let lo = self.tightest(lows, true).unwrap_or(zero);
        let hi = self.tightest(highs, false).unwrap_or(extent);
        let mut l = Loop { var, lo, hi, step: 1, phase: zero, span: None };
        let v = self.algebra.exprs.var(Var::Loop(var));
        for comb in known.combs {
            match (self.algebra.exprs.as_int(comb.period), self.algebra.exprs.as_int(comb.width)) {
                (Some(period), Some(1)) if l.step == 1 => {
                    l.step = period;
                    l.phase = comb.phase;
                }
                _ => {
                    let guard = self.in_comb(v, &comb);
                    c.add(Leaf::Guard(guard));
                }
            }
        }
        l
    }

    fn reads_loop(&self, e: ExprId) -> bool {
        self.algebra.exprs.reads(e, |v| matches!(v, Var::Loop(_)))
    }

    fn in_comb(&mut self, v: ExprId, comb: &Comb) -> ExprId {
        let e = &mut *self.algebra.exprs;
        let from = e.sub(v, comb.phase);
        let remainder = e.modulo(from, comb.period);
        let inside = e.lt(remainder, comb.width);
        self.algebra.canon(inside)
    }

    /// The outermost coordinate follows from bounds on the position, where it has none of its own.
    fn narrow(&mut self, c: &Conjunction, l: &mut Loop, begin: ExprId, stride: ExprId) {
        if self.algebra.exprs.as_int(l.lo) == Some(0) {
            for &from in &c.from {
                if !self.reads_loop(from) {
                    let offset = self.algebra.sub(from, begin);
                    let first = self.algebra.div(offset, stride);
                    l.lo = self.algebra.max(l.lo, first);
                }
            }
        }
        if matches!(self.algebra.exprs.node(l.hi), Node::Int(_) | Node::Var(Var::Size(_))) {
            for &below in &c.below {
                if !self.reads_loop(below) {
                    let offset = self.algebra.sub(below, begin);
                    let last = self.algebra.div_ceil(offset, stride);
                    l.hi = self.algebra.min(l.hi, last);
                }
            }
        }
    }

    /// The range on the innermost constrained axis, `base` being where its coordinate is 0.
    fn innermost(&mut self, c: &mut Conjunction, axis: AxisId, known: Coordinates, base: ExprId) {
        let a = &self.context.space.axes[axis.0 as usize];
        let (extent, stride) = (self.algebra.canon(a.extent), self.algebra.canon(a.stride));
        let zero = self.algebra.int(0);
        let at = |this: &mut Self, coordinate: ExprId| {
            let offset = this.algebra.mul(coordinate, stride);
            this.algebra.add(base, offset)
        };
        // A loop over coordinates stays on the axis by itself.
        let clipped = match (&*known.from, &*known.below) {
            (&[from], &[_]) => match *self.algebra.exprs.node(from) {
                Node::Var(Var::Loop(n)) => match c.loops.iter().find(|l| l.0 == n) {
                    Some(&(_, lo, hi)) => self.algebra.nonnegative(lo) && self.algebra.proves_le(hi, extent),
                    None => false,
                },
                _ => false,
            },
            _ => false,
        };
        let clip = |bound: ExprId| (!clipped).then_some(bound);
        let lows = known.from.into_iter().chain(clip(zero)).collect();
        let highs = known.below.into_iter().chain(clip(extent)).collect();
        let lo = self.tightest(lows, true).unwrap_or(zero);
        let hi = self.tightest(highs, false).unwrap_or(extent);
        let (start, end) = (at(self, lo), at(self, hi));
        c.add(Leaf::From(start));
        c.add(Leaf::Below(end));
        for comb in known.combs {
            let period = self.algebra.mul(comb.period, stride);
            let width = self.algebra.mul(comb.width, stride);
            let phase = at(self, comb.phase);
            c.add(Leaf::Comb(Comb { period, width, phase }));
        }
    }

    /// A coordinate as plain arithmetic of the position, where the segment is not given.
    fn flat(&mut self, c: &mut Conjunction, begin: ExprId, axis: AxisId, outermost: bool, known: Coordinates) {
        let a = &self.context.space.axes[axis.0 as usize];
        let (extent, stride) = (self.algebra.canon(a.extent), self.algebra.canon(a.stride));
        let zero = self.algebra.int(0);
        let at = |this: &mut Self, coordinate: ExprId| {
            let offset = this.algebra.mul(coordinate, stride);
            this.algebra.add(begin, offset)
        };
        if outermost {
            for from in known.from {
                let from = at(self, from);
                c.add(Leaf::From(from));
            }
            for below in known.below {
                let below = at(self, below);
                c.add(Leaf::Below(below));
            }
        } else {
            let some = !known.from.is_empty() || !known.below.is_empty();
            let lows = known.from.into_iter().chain([zero]).collect();
            let highs = known.below.into_iter().chain([extent]).collect();
            let lo = self.tightest(lows, true).unwrap_or(zero);
            let hi = self.tightest(highs, false).unwrap_or(extent);
            let length = self.algebra.sub(hi, lo);
            if some && !self.is_of_launch(length) {
                let x = self.coordinate(begin, stride, extent);
                let (from, to) = (self.algebra.exprs.le(lo, x), self.algebra.exprs.lt(x, hi));
                c.add(Leaf::Filter(from));
                c.add(Leaf::Filter(to));
                self.note_outside();
            } else if some && !(lo == zero && hi == extent) {
                let nonempty = self.algebra.exprs.lt(lo, hi);
                let nonempty = self.algebra.canon(nonempty);
                if self.algebra.exprs.as_bool(nonempty) != Some(true) {
                    c.add(Leaf::Guard(nonempty));
                }
                let width = self.algebra.mul(length, stride);
                let period = self.algebra.mul(extent, stride);
                let phase = at(self, lo);
                c.add(Leaf::Comb(Comb { period, width, phase }));
            }
        }
        for comb in known.combs {
            let divides = outermost
                || self
                    .algebra
                    .exprs
                    .as_int(extent)
                    .zip(self.algebra.exprs.as_int(comb.period))
                    .is_some_and(|(extent, period)| extent % period == 0);
            if divides {
                let period = self.algebra.mul(comb.period, stride);
                let width = self.algebra.mul(comb.width, stride);
                let phase = at(self, comb.phase);
                c.add(Leaf::Comb(Comb { period, width, phase }));
            } else {
                let x = self.coordinate(begin, stride, extent);
                let p = self.in_comb(x, &comb);
                c.add(Leaf::Filter(p));
                self.note_outside();
            }
        }
    }

    /// An inner coordinate of the key.
    fn coordinate(&mut self, begin: ExprId, stride: ExprId, extent: ExprId) -> ExprId {
        let e = &mut *self.algebra.exprs;
        let k = e.var(Var::K);
        let x = e.sub(k, begin);
        let x = e.div(x, stride);
        e.modulo(x, extent)
    }

    fn note_outside(&mut self) {
        let why = "compares a coordinate outside of its segment".to_owned();
        self.note(Note { span: None, why, reason: Reason::Form });
    }

    /// Loops in an order in which each reads only those before it; spans that would read further in are dropped.
    fn ordered(&mut self, mut rest: Vec<Loop>) -> Vec<Loop> {
        let mut placed: Vec<Loop> = Vec::new();
        while !rest.is_empty() {
            let vars: Vec<u32> = rest.iter().map(|l| l.var).collect();
            let reads = |this: &Self, e: ExprId| {
                this.algebra.exprs.reads(e, |v| matches!(v, Var::Loop(n) if vars.contains(&n)))
            };
            // Bounds read only loops made before theirs: one is always free.
            let next = (0..rest.len())
                .find(|&i| ![rest[i].lo, rest[i].hi, rest[i].phase].iter().any(|&e| reads(self, e)))
                .unwrap_or(0);
            let mut l = rest[next].clone();
            l.span = l.span.filter(|s| !reads(self, s.0) && !reads(self, s.1));
            rest.remove(next);
            placed.push(l);
        }
        placed
    }

    /// Finds `base + v * stride` in the ends of a range: a loop over blocks of keys.
    fn find_spans(&mut self, piece: &mut Piece) {
        for i in 0..piece.loops.len() {
            if piece.loops[i].span.is_some() {
                continue;
            }
            let v = self.algebra.exprs.var(Var::Loop(piece.loops[i].var));
            let inner: Vec<u32> = piece.loops[i..].iter().map(|l| l.var).collect();
            let n = piece.loops[i].var;
            let (start, end) = (piece.start, piece.end);
            for from in self.operands_of(start, true) {
                let mut at = |value: i64| {
                    let e = self.algebra.exprs.substitute(from, |e, x| (x == Var::Loop(n)).then(|| e.int(value)));
                    self.algebra.canon(e)
                };
                let (base, next) = (at(0), at(1));
                let stride = self.algebra.sub(next, base);
                let here = self.algebra.mul(v, stride);
                let reads_inner =
                    |e: ExprId| self.algebra.exprs.reads(e, |x| matches!(x, Var::Loop(n) if inner.contains(&n)));
                if base == next || reads_inner(base) || reads_inner(stride) || !self.algebra.nonnegative(stride) {
                    continue;
                }
                if self.algebra.add(base, here) != from {
                    continue;
                }
                let limit = self.algebra.add(from, stride);
                if self.operands_of(end, false).iter().any(|&below| self.algebra.proves_le(below, limit)) {
                    piece.loops[i].span = Some((base, stride));
                    break;
                }
            }
        }
    }

    /// Operands of a nest of maxima (or minima).
    fn operands_of(&self, e: ExprId, max: bool) -> Vec<ExprId> {
        use crate::expr::Bin;
        match *self.algebra.exprs.node(e) {
            Node::Bin(op, a, b) if op == (if max { Bin::Max } else { Bin::Min }) => {
                let mut all = self.operands_of(a, max);
                all.extend(self.operands_of(b, max));
                all
            }
            _ => vec![e],
        }
    }

    /// Variables of loops numbered from 0, so that equal pieces are equal.
    fn numbered(&mut self, piece: Piece) -> Piece {
        let old: Vec<u32> = piece.loops.iter().map(|l| l.var).collect();
        if old.is_empty() {
            return piece;
        }
        let algebra = &mut self.algebra;
        let mut renamed = |e: ExprId| {
            let new = algebra.exprs.substitute(e, |exprs, v| match v {
                Var::Loop(n) => old.iter().position(|&o| o == n).map(|i| exprs.var(Var::Loop(i as u32))),
                _ => None,
            });
            algebra.canon(new)
        };
        Piece {
            loops: piece
                .loops
                .iter()
                .enumerate()
                .map(|(i, l)| Loop {
                    var: i as u32,
                    lo: renamed(l.lo),
                    hi: renamed(l.hi),
                    step: l.step,
                    phase: renamed(l.phase),
                    span: l.span.map(|(base, stride)| (renamed(base), renamed(stride))),
                })
                .collect(),
            guard: piece.guard.map(&mut renamed),
            start: renamed(piece.start),
            end: renamed(piece.end),
            combs: piece
                .combs
                .iter()
                .map(|c| Comb { period: renamed(c.period), width: renamed(c.width), phase: renamed(c.phase) })
                .collect(),
            filter: piece.filter.map(&mut renamed),
        }
    }

    /// Joins pieces whose ranges provably touch, and drops those inside another.
    fn merge(&mut self, pieces: &mut Vec<Piece>) {
        self.merge_constants(pieces);
        if pieces.len() > COMPARED {
            return;
        }
        let mut changed = true;
        while changed {
            changed = false;
            'pairs: for i in 0..pieces.len() {
                for j in 0..pieces.len() {
                    if i == j {
                        continue;
                    }
                    if self.covers(&pieces[i], &pieces[j]) {
                        pieces.remove(j);
                        changed = true;
                        break 'pairs;
                    }
                    if let Some(joined) = self.joined(&pieces[i], &pieces[j]) {
                        pieces[i.min(j)] = joined;
                        pieces.remove(i.max(j));
                        changed = true;
                        break 'pairs;
                    }
                }
            }
        }
    }

    /// Whether every key of `b` is one of `a`, by proof.
    pub(super) fn covers(&mut self, a: &Piece, b: &Piece) -> bool {
        let plain = a.loops.is_empty() || a.loops == b.loops;
        let guard = a.guard.is_none() || a.guard == b.guard;
        let filter = a.filter.is_none() || a.filter == b.filter;
        if !plain || !guard || !filter || !a.combs.iter().all(|c| b.combs.contains(c)) {
            return false;
        }
        self.starts_before(a.start, b.start) && self.ends_after(a.end, b.end)
    }

    fn starts_before(&mut self, a: ExprId, b: ExprId) -> bool {
        matches!(*self.algebra.exprs.node(a), Node::Var(Var::KStart)) || self.algebra.proves_le(a, b)
    }

    fn ends_after(&mut self, a: ExprId, b: ExprId) -> bool {
        let (k_start, n_k) = (self.algebra.exprs.var(Var::KStart), self.algebra.exprs.var(Var::NK));
        let k_end = self.algebra.add(k_start, n_k);
        a == k_end || self.algebra.proves_le(b, a)
    }

    fn joined(&mut self, a: &Piece, b: &Piece) -> Option<Piece> {
        if a.loops != b.loops || a.guard != b.guard || a.filter != b.filter {
            return None;
        }
        if a.combs == b.combs {
            let touch = self.starts_before(a.start, b.start)
                && self.algebra.proves_le(b.start, a.end)
                && self.ends_after(b.end, a.end);
            return touch.then(|| Piece { end: b.end, ..a.clone() });
        }
        // Two teeth side by side are one.
        if a.start != b.start || a.end != b.end || a.combs.len() != 1 || b.combs.len() != 1 {
            return None;
        }
        let (x, y) = (&a.combs[0], &b.combs[0]);
        if x.period != y.period {
            return None;
        }
        let after = self.algebra.add(x.phase, x.width);
        let gap = self.algebra.sub(y.phase, after);
        let gap = self.algebra.exprs.modulo(gap, x.period);
        let gap = self.algebra.canon(gap);
        let width = self.algebra.add(x.width, y.width);
        if self.algebra.exprs.as_int(gap) != Some(0) || !self.algebra.proves_le(width, x.period) {
            return None;
        }
        let combs = if width == x.period { vec![] } else { vec![Comb { width, ..x.clone() }] };
        Some(Piece { combs, ..a.clone() })
    }

    /// Ranges with constant ends are sorted and joined, however many there are.
    fn merge_constants(&mut self, pieces: &mut Vec<Piece>) {
        let constant = |this: &Self, p: &Piece| {
            let plain = p.loops.is_empty() && p.guard.is_none() && p.filter.is_none() && p.combs.is_empty();
            plain.then(|| this.algebra.exprs.as_int(p.start).zip(this.algebra.exprs.as_int(p.end))).flatten()
        };
        let mut ranges: Vec<(i64, i64)> = pieces.iter().filter_map(|p| constant(self, p)).collect();
        if ranges.len() < 2 {
            return;
        }
        ranges.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        let first = pieces.iter().position(|p| constant(self, p).is_some()).unwrap_or(0);
        pieces.retain(|p| constant(self, p).is_none());
        let joined: Vec<Piece> = joined
            .into_iter()
            .map(|(start, end)| Piece {
                loops: vec![],
                guard: None,
                start: self.algebra.int(start),
                end: self.algebra.int(end),
                combs: vec![],
                filter: None,
            })
            .collect();
        pieces.splice(first..first, joined);
    }
}

/// Leaves and unions of nested conjunctions.
fn gather<'f>(parts: &'f [Form], leaves: &mut Vec<&'f Leaf>, unions: &mut Vec<&'f Form>) {
    for part in parts {
        match part {
            Form::Leaf(leaf) => leaves.push(leaf),
            Form::And(inner) => gather(inner, leaves, unions),
            Form::Or(..) => unions.push(part),
        }
    }
}
