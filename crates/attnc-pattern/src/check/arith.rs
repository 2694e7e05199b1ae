//! Numbers and comparisons: exact integers, reals, ranges, and the proofs that nothing overflows or divides by zero.
//!
//! Constants are computed with checks; of what depends on a run, bounds show that 64 bits suffice. A
//! comparison that names coordinates holds only for tokens of their segment.

use attnc_syntax::ast::{CmpOp, Expr, ExprKind, MulOp, Name, RangeExpr};
use attnc_syntax::diag::{Diagnostic, Span};

use super::Checker;
use super::facts::Reads;
use super::scope::{self, Cx, Val};
use super::spell::spell;
use crate::build::{floor_div, floor_mod};
use crate::expr::{Bin, Cmp, ExprId, Ty, Un};
use crate::program::Demand;

/// Numbers that a sample may be drawn from.
const MOST_SAMPLED: i64 = 4096;

/// Both ends of a range; `None` is open. From `lo`, before `hi`.
struct Ends {
    lo: Option<ExprId>,
    hi: Option<ExprId>,
}

impl<'a> Checker<'a> {
    pub(super) fn negative(&mut self, cx: &Cx<'a>, x: &'a Expr, span: Span) -> Option<Val> {
        let value = self.number(cx, x)?;
        if self.exprs.as_int(value.id) == Some(i64::MIN) {
            return self.overflow(cx, span);
        }
        Some(Val { id: self.exprs.un(Un::Neg, value.id), ..value })
    }

    pub(super) fn sum(&mut self, cx: &Cx<'a>, first: &'a Expr, rest: &'a [(bool, Expr)], span: Span) -> Option<Val> {
        let mut operands = vec![(Bin::Add, first)];
        operands.extend(rest.iter().map(|(minus, e)| (if *minus { Bin::Sub } else { Bin::Add }, e)));
        self.chain(cx, operands, span)
    }

    pub(super) fn product(
        &mut self,
        cx: &Cx<'a>,
        first: &'a Expr,
        rest: &'a [(MulOp, Expr)],
        span: Span,
    ) -> Option<Val> {
        let mut operands = vec![(Bin::Mul, first)];
        operands.extend(rest.iter().map(|(op, e)| {
            let op = match op {
                MulOp::Mul => Bin::Mul,
                MulOp::Div => Bin::Div,
                MulOp::Mod => Bin::Mod,
            };
            (op, e)
        }));
        self.chain(cx, operands, span)
    }

    pub(super) fn chain(&mut self, cx: &Cx<'a>, operands: Vec<(Bin, &'a Expr)>, span: Span) -> Option<Val> {
        let values: Vec<Option<Val>> = operands.iter().map(|(_, e)| self.lower(cx, e)).collect();
        let mut numbers = Vec::with_capacity(values.len());
        for (value, &(_, e)) in values.into_iter().zip(&operands) {
            let value = value?;
            if self.exprs.ty(value.id) == Ty::Bool {
                let op = operands[1].0;
                let help = match op {
                    Bin::Sub => format!(
                        "a difference of sets is written `{} except {}`",
                        spell(operands[0].1),
                        spell(operands[1].1)
                    ),
                    Bin::Add => {
                        format!("a union of sets is written `{} | {}`", spell(operands[0].1), spell(operands[1].1))
                    }
                    _ => format!(
                        "an intersection of sets is written `{} & {}`",
                        spell(operands[0].1),
                        spell(operands[1].1)
                    ),
                };
                return self.wrong_kind(cx, e.span, "a number", Ty::Bool, Some(help));
            }
            numbers.push(value);
        }
        let axes = self.same_axes(cx, numbers.iter().copied())?;
        let mut result = numbers[0].id;
        for (value, &(op, e)) in numbers.iter().zip(&operands).skip(1) {
            result = self.arithmetic(cx, op, result, value.id, e.span, span)?;
        }
        Some(Val { id: result, axes })
    }

    /// One operation; `divisor` is the place of `b`.
    fn arithmetic(&mut self, cx: &Cx<'a>, op: Bin, a: ExprId, b: ExprId, divisor: Span, span: Span) -> Option<ExprId> {
        if self.exprs.ty(a) != Ty::Int || self.exprs.ty(b) != Ty::Int {
            if op == Bin::Mod {
                let help = Some("`%` is for integers".to_owned());
                return self.wrong_kind(cx, span, "an integer", Ty::Real, help);
            }
            let (a, b) = (self.exprs.to_real(a), self.exprs.to_real(b));
            if op == Bin::Div && self.exprs.as_real(b) == Some(0.0) {
                return self.zero_division(cx, divisor);
            }
            let id = self.exprs.bin(op, a, b);
            return self.finite(cx, id, span);
        }
        if matches!(op, Bin::Div | Bin::Mod) {
            self.divides(cx, b, divisor)?;
        }
        if let (Some(x), Some(y)) = (self.exprs.as_int(a), self.exprs.as_int(b)) {
            let value = match op {
                Bin::Add => x.checked_add(y),
                Bin::Sub => x.checked_sub(y),
                Bin::Mul => x.checked_mul(y),
                Bin::Div => floor_div(x, y),
                Bin::Mod => floor_mod(x, y),
                Bin::Min => Some(x.min(y)),
                Bin::Max => Some(x.max(y)),
            };
            return match value {
                Some(v) => Some(self.exprs.int(v)),
                None => self.overflow(cx, span),
            };
        }
        let id = self.exprs.bin(op, a, b);
        self.fits(cx, id, &[a, b], span)
    }

    fn overflow<T>(&mut self, cx: &Cx<'a>, span: Span) -> Option<T> {
        self.fail(
            cx,
            Diagnostic::error("E0301", span, "a constant does not fit into 64 bits", "overflows")
                .help("use smaller numbers"),
        )
    }

    fn zero_division<T>(&mut self, cx: &Cx<'a>, span: Span) -> Option<T> {
        self.fail(
            cx,
            Diagnostic::error("E0303", span, "division by zero", "this is 0").help("divide by something else"),
        )
    }

    /// An integer whose bounds show that 64 bits suffice.
    pub(super) fn fits(&mut self, cx: &Cx<'a>, id: ExprId, of: &[ExprId], span: Span) -> Option<ExprId> {
        let known = self.exprs.ty(id) != Ty::Int
            || !self.facts.bounds(&self.exprs, id).overflows()
            || of.iter().any(|&x| self.facts.bounds(&self.exprs, x).overflows());
        if known {
            return Some(id);
        }
        self.fail(
            cx,
            Diagnostic::error("E0302", span, "an integer may not fit into 64 bits", "overflows for long sequences")
                .help("positions and sizes go up to 536870912: divide first, or multiply fewer of them"),
        )
    }

    /// A real that, if it is known, is a finite number.
    pub(super) fn finite(&mut self, cx: &Cx<'a>, id: ExprId, span: Span) -> Option<ExprId> {
        if self.exprs.as_real(id).is_none_or(f64::is_finite) {
            return Some(id);
        }
        self.fail(
            cx,
            Diagnostic::error("E0301", span, "a constant is not a finite real number", "has no finite value")
                .help("use other numbers"),
        )
    }

    /// A divisor must not be zero: by its bounds, or by what a launch must fulfil.
    fn divides(&mut self, cx: &Cx<'a>, divisor: ExprId, span: Span) -> Option<()> {
        if self.exprs.as_int(divisor) == Some(0) {
            return self.zero_division(cx, span);
        }
        if !self.facts.bounds(&self.exprs, divisor).contains(0) {
            return Some(());
        }
        let of_launch = self.facts.reads(&self.exprs, divisor) == Reads::default();
        if of_launch && cx.place.may & scope::COUNTS != 0 && !matches!(cx.place, scope::TENSOR_EXTENT | scope::ELEMENT)
        {
            let zero = self.exprs.int(0);
            let fine = self.exprs.cmp(Cmp::Ne, divisor, zero);
            self.launch.push(Demand { holds: fine, span, otherwise: "divides by 0" });
            return Some(());
        }
        self.fail(
            cx,
            Diagnostic::error("E0313", span, "a divisor may be zero", "may be 0")
                .help("make it positive, for example `max(1, ..)`"),
        )
    }

    /// The one segment whose coordinates several values name.
    pub(super) fn same_axes(
        &mut self,
        cx: &Cx<'a>,
        values: impl IntoIterator<Item = Val>,
    ) -> Option<Option<(usize, Span)>> {
        let mut axes: Option<(usize, Span)> = None;
        for (segment, span) in values.into_iter().filter_map(|v| v.axes) {
            let (first, place) = *axes.get_or_insert((segment, span));
            if first != segment {
                let name = |i: usize| self.program.space.segments[i].name.clone();
                let (one, two) = (name(first), name(segment));
                return self.fail(
                    cx,
                    Diagnostic::error(
                        "E0211",
                        span,
                        "a comparison names coordinates of two segments",
                        format!("of `{two}`"),
                    )
                    .label(place, format!("of `{one}`"))
                    .help("no token is in both segments; positions (`q.pos`) are common to all"),
                );
            }
        }
        Some(axes)
    }

    pub(super) fn compare(
        &mut self,
        cx: &Cx<'a>,
        first: &'a Expr,
        rest: &'a [(CmpOp, Expr)],
        span: Span,
    ) -> Option<Val> {
        let values: Vec<Option<Val>> =
            std::iter::once(first).chain(rest.iter().map(|(_, e)| e)).map(|e| self.comparand(cx, e)).collect();
        let mut values = values.into_iter().collect::<Option<Vec<Val>>>()?;
        if values.iter().any(|v| self.exprs.ty(v.id) == Ty::Real) {
            values.iter_mut().for_each(|v| v.id = self.exprs.to_real(v.id));
        }
        let mut links = Vec::new();
        for (pair, (op, _)) in values.windows(2).zip(rest) {
            let axes = self.same_axes(cx, pair.iter().copied())?;
            let (a, b) = (pair[0].id, pair[1].id);
            let link = match op {
                CmpOp::Lt => self.exprs.lt(a, b),
                CmpOp::Le => self.exprs.le(a, b),
                CmpOp::Gt => self.exprs.lt(b, a),
                CmpOp::Ge => self.exprs.le(b, a),
                CmpOp::Eq => self.exprs.eq(a, b),
                CmpOp::Ne => self.exprs.cmp(Cmp::Ne, a, b),
            };
            self.mark(cx, link, span);
            links.push(link);
            links.push(self.both_in(axes.map(|(s, _)| s)));
        }
        let and = self.exprs.and(links);
        Some(self.marked(cx, and, span))
    }

    /// What can be compared: integers.
    fn comparand(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        let value = self.lower(cx, e)?;
        let help = match self.exprs.ty(value.id) {
            Ty::Int => return Some(value),
            // Candidates may be told apart by numbers that are given, such as those of buckets.
            Ty::Real if cx.place == scope::WITHIN => return Some(value),
            Ty::Real => "sets compare integers",
            Ty::Bool => "join sets with `&`, `|` and `except`",
        };
        let ty = self.exprs.ty(value.id);
        self.wrong_kind(cx, e.span, "an integer", ty, Some(help.to_owned()))
    }

    pub(super) fn in_range(&mut self, cx: &Cx<'a>, x: &'a Expr, range: &'a RangeExpr, span: Span) -> Option<Val> {
        let value = self.comparand(cx, x);
        let end = match bare(x) {
            Some(true) => Some(cx.scope.end_q),
            Some(false) => Some(cx.scope.end_k),
            None => None,
        };
        let lo = range.lo.as_deref().map(|e| self.bound(cx, e, end));
        let hi = range.hi.as_deref().map(|e| self.bound(cx, e, end));
        let step = range.step.as_deref().map(|e| self.positive(cx, e, "a step"));
        let (value, lo, hi, step) = (value?, transpose(lo)?, transpose(hi)?, transpose(step)?);
        let axes = self.same_axes(cx, [Some(value), lo, hi].into_iter().flatten())?;
        let hi = match hi {
            Some(hi) if self.exprs.as_int(hi.id) == Some(i64::MAX) && range.inclusive => {
                return self.overflow(cx, range.span);
            }
            Some(hi) if range.inclusive => {
                let one = self.exprs.int(1);
                let next = self.exprs.add(hi.id, one);
                Some(self.fits(cx, next, &[hi.id], range.span)?)
            }
            hi => hi.map(|v| v.id),
        };
        let ends = Ends { lo: lo.map(|v| v.id), hi };
        self.some_number(cx, &ends, step, range.span)?;
        self.in_reach(cx, value.id, &ends, range.span, end.is_some())?;
        let mut links = vec![self.both_in(axes.map(|(s, _)| s))];
        links.extend(ends.lo.map(|lo| self.exprs.le(lo, value.id)));
        links.extend(ends.hi.map(|hi| self.exprs.lt(value.id, hi)));
        if let Some(step) = step {
            let (m, zero) = (self.exprs.int(step), self.exprs.int(0));
            let rest = self.exprs.modulo(value.id, m);
            links.push(self.exprs.eq(rest, zero));
        }
        for &link in &links {
            self.mark(cx, link, span);
        }
        let and = self.exprs.and(links);
        Some(self.marked(cx, and, span))
    }

    /// A bound of a range; with a leading minus it counts from `end`.
    fn bound(&mut self, cx: &Cx<'a>, e: &'a Expr, end: Option<ExprId>) -> Option<Val> {
        let value = self.int(cx, e)?;
        match end {
            Some(end) if leads_with_minus(e) => Some(Val { id: self.exprs.add(end, value.id), ..value }),
            _ => Some(value),
        }
    }

    /// A range whose ends are known holds at least one number.
    fn some_number(&mut self, cx: &Cx<'a>, ends: &Ends, step: Option<i64>, span: Span) -> Option<()> {
        let (Some(lo), Some(hi)) = (ends.lo, ends.hi) else { return Some(()) };
        let length = self.exprs.sub(hi, lo);
        let Some(length) = self.exprs.as_int(length) else { return Some(()) };
        // The first multiple of the step that is not below `lo`.
        let skipped = match (self.exprs.as_int(lo), step) {
            (Some(lo), Some(step)) => (step - lo.rem_euclid(step)) % step,
            _ => 0,
        };
        if length > skipped {
            return Some(());
        }
        let what = if length <= 0 { "a range holds nothing" } else { "no multiple of the step is in a range" };
        self.fail(
            cx,
            Diagnostic::error("E0306", span, what, "no number is in here")
                .help("a range is `lo .. hi` without `hi`, or `lo ..= hi` with it; `none` is the empty set"),
        )
    }

    /// A range hits some value of `x`, by the bounds of `x`; one of bare positions holds nothing else.
    fn in_reach(&mut self, cx: &Cx<'a>, x: ExprId, ends: &Ends, span: Span, bare: bool) -> Option<()> {
        if self.facts.reads(&self.exprs, x) == Reads::default() {
            return Some(());
        }
        let reach = self.facts.bounds(&self.exprs, x);
        let lo = ends.lo.and_then(|e| self.exprs.as_int(e));
        let hi = ends.hi.and_then(|e| self.exprs.as_int(e));
        // Positions and coordinates are what the file itself declares; differences may well be smaller than a window.
        let (first, last) = if bare { (reach.lo, reach.hi + 1) } else { (i64::MIN, i64::MAX) };
        let inside = |end: Option<i64>| end.is_none_or(|end| (first..=last).contains(&end));
        if lo.is_none_or(|lo| lo <= reach.hi) && hi.is_none_or(|hi| hi > reach.lo) && inside(lo) && inside(hi) {
            return Some(());
        }
        let help = if bare {
            "positions count from 0 and end with the space; from the end they are written `-32 ..`"
        } else {
            "write another range"
        };
        self.fail(
            cx,
            Diagnostic::error(
                "E0307",
                span,
                "a range leaves what is compared with it",
                format!("the values are {} ..= {}", reach.lo, reach.hi),
            )
            .help(help),
        )
    }

    pub(super) fn in_list(&mut self, cx: &Cx<'a>, x: &'a Expr, list: &'a [Expr], span: Span) -> Option<Val> {
        let value = self.comparand(cx, x);
        let items: Vec<Option<Val>> = list.iter().map(|e| self.int(cx, e)).collect();
        let value = value?;
        let items = items.into_iter().collect::<Option<Vec<Val>>>()?;
        let axes = self.same_axes(cx, std::iter::once(value).chain(items.iter().copied()))?;
        let mut arms = Vec::with_capacity(items.len());
        for (item, e) in items.iter().zip(list) {
            let one = self.exprs.int(1);
            let next = self.exprs.add(item.id, one);
            self.in_reach(cx, value.id, &Ends { lo: Some(item.id), hi: Some(next) }, e.span, bare(x).is_some())?;
            let arm = self.exprs.eq(value.id, item.id);
            self.mark(cx, arm, e.span);
            arms.push(arm);
        }
        let any = self.exprs.or(arms);
        let inside = self.both_in(axes.map(|(s, _)| s));
        let and = self.exprs.and([any, inside]);
        Some(self.marked(cx, and, span))
    }

    /// `q % 128 in sample(32, 128, 7)`: 32 of the numbers below 128, by Philox with seed 7, drawn when compiled.
    pub(super) fn in_sample(
        &mut self,
        cx: &Cx<'a>,
        x: &'a Expr,
        name: &'a Name,
        args: &'a [Expr],
        span: Span,
    ) -> Option<Val> {
        if name.text != "sample" {
            return self.unknown_word(cx, name, "list of numbers", &["sample"]);
        }
        let [count, below, seed] = args else {
            let help = "write `sample(32, 128, 7)`: how many, of how many, and the seed";
            let error = Diagnostic::error("E0206", span, "`sample` takes three numbers", "not three");
            return self.fail(cx, error.help(help));
        };
        let value = self.comparand(cx, x);
        let (count, below) = (self.positive(cx, count, "a count"), self.positive(cx, below, "a bound"));
        let (seed, value) = (self.constant_int(cx, seed), value?);
        let (count, below, seed) = (count?, below?, seed?);
        if below > MOST_SAMPLED {
            let message = format!("a sample of {below} numbers is written out");
            return self.no_meaning(cx, args[1].span, message, "at most 4096 are possible; draw keys with `random`");
        }
        let axes = self.same_axes(cx, [value])?;
        let chosen = crate::random::choose(seed, 0, 0, 0, count.unsigned_abs(), below.unsigned_abs());
        let mut arms = Vec::with_capacity(chosen.len());
        for number in chosen {
            let number = self.exprs.int(number as i64);
            arms.push(self.exprs.eq(value.id, number));
        }
        let any = self.exprs.or(arms);
        let inside = self.both_in(axes.map(|(s, _)| s));
        let and = self.exprs.and([any, inside]);
        Some(self.marked(cx, and, span))
    }

    pub(super) fn is_in_segment(&mut self, cx: &Cx<'a>, x: &'a Expr, name: &'a Name, span: Span) -> Option<Val> {
        let Some(query) = bare(x) else {
            let help = format!("write `q in {0}` or `k in {0}`", name.text);
            return self.no_meaning(cx, x.span, "only tokens lie in a segment".to_owned(), &help);
        };
        let what = if query { scope::QUERY } else { scope::KEY };
        self.may(cx, what, if query { "q" } else { "k" }, x.span)?;
        let segment = self.segment(cx, name)?;
        if cx.scope.block.is_some() {
            return self.tokens_only(cx, span, "segments are made of tokens");
        }
        let position = if query { self.tokens.q } else { self.tokens.k };
        let inside = self.in_segment(segment, position);
        Some(self.marked(cx, inside, span))
    }
}

/// Whether an expression is plain `q` (true) or `k` (false).
fn bare(e: &Expr) -> Option<bool> {
    match &e.kind {
        ExprKind::Name(name) if name == "q" => Some(true),
        ExprKind::Name(name) if name == "k" => Some(false),
        ExprKind::Paren(inner) => bare(inner),
        _ => None,
    }
}

/// Whether the first thing written is a minus.
fn leads_with_minus(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Neg(_) => true,
        ExprKind::Int(v) => *v < 0,
        ExprKind::Sum(first, _) | ExprKind::Product(first, _) => leads_with_minus(first),
        _ => false,
    }
}

/// An absent part is fine; a part with an error is not.
fn transpose<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
    }
}
