//! Expressions by form, and the algebra of sets.
//!
//! Every form is lowered to one expression of the arena; a kind that does not fit is an error where it was
//! written. Chains are walked in loops, so that a union of many arms costs no stack.

use attnc_syntax::ast::{Expr, ExprKind, InSet};
use attnc_syntax::diag::{Diagnostic, Span};

use super::scope::{self, Cx, Val};
use super::spell::spell;
use super::{Checker, MAX_DEPTH, MAX_LENGTH, MAX_NODES, MAX_STEPS};
use crate::expr::{ExprId, Ty};

impl<'a> Checker<'a> {
    /// Any expression.
    pub(super) fn lower(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        self.steps += 1;
        self.depth += 1;
        let value = if self.within_limits(cx, e.span) { self.lower_kind(cx, e) } else { None };
        self.depth -= 1;
        value
    }

    fn within_limits(&mut self, cx: &Cx<'a>, span: Span) -> bool {
        let what = if self.depth > MAX_DEPTH {
            "nests too deeply"
        } else if self.steps > MAX_STEPS || self.exprs.len() > MAX_NODES {
            "grows too large"
        } else {
            return !self.exhausted;
        };
        if !std::mem::replace(&mut self.exhausted, true) {
            self.fail::<()>(
                cx,
                Diagnostic::error(
                    "E0213",
                    span,
                    format!("the program {what} when patterns are expanded"),
                    "reached here",
                )
                .help("use fewer patterns inside patterns"),
            );
        }
        false
    }

    fn lower_kind(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        match &e.kind {
            ExprKind::Int(v) => Some(Val::plain(self.exprs.int(*v))),
            ExprKind::Float(v) => Some(Val::plain(self.exprs.real(*v))),
            ExprKind::Name(name) => self.name(cx, name, e.span),
            ExprKind::Field(of, field) => self.field(cx, of, field),
            ExprKind::Call(name, args) => self.call(cx, name, args, e.span),
            ExprKind::Index(name, indices) => self.index(cx, name, indices),
            ExprKind::Neg(x) => self.negative(cx, x, e.span),
            ExprKind::Sum(first, rest) => self.sum(cx, first, rest, e.span),
            ExprKind::Product(first, rest) => self.product(cx, first, rest, e.span),
            ExprKind::Compare(first, rest) => self.compare(cx, first, rest, e.span),
            ExprKind::In(x, InSet::Range(range)) => self.in_range(cx, x, range, e.span),
            ExprKind::In(x, InSet::List(list)) => self.in_list(cx, x, list, e.span),
            ExprKind::In(x, InSet::Segment(name)) => self.is_in_segment(cx, x, name, e.span),
            ExprKind::In(x, InSet::Call(name, args)) => self.in_sample(cx, x, name, args, e.span),
            ExprKind::Not(x) => {
                let x = self.set(cx, x)?;
                let not = self.exprs.not(x);
                Some(self.marked(cx, not, e.span))
            }
            ExprKind::And(xs) => {
                let xs = self.sets(cx, xs)?;
                let and = self.exprs.and(xs);
                Some(self.marked(cx, and, e.span))
            }
            ExprKind::Or(xs) => self.union(cx, xs, e.span),
            ExprKind::Except(first, rest) => {
                let first = self.set(cx, first);
                let rest = self.sets(cx, rest);
                let mut all = vec![first?];
                for x in rest? {
                    all.push(self.exprs.not(x));
                }
                let and = self.exprs.and(all);
                Some(self.marked(cx, and, e.span))
            }
            ExprKind::Paren(x) => self.lower(cx, x),
            _ => self.form(cx, e),
        }
    }

    /// A set (a condition, where sets are not meant): a truth value.
    pub(super) fn set(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<ExprId> {
        let value = self.lower(cx, e)?;
        match self.exprs.ty(value.id) {
            Ty::Bool => {
                let value = self.marked(cx, value.id, e.span);
                Some(value.id)
            }
            ty => {
                let what = if cx.place.may & scope::KEY != 0 { "a set" } else { "a condition" };
                let help = if what == "a set" {
                    format!("compare it: `q - k < {}`", spell(e))
                } else {
                    format!("compare it: `{} <= 4096`", spell(e))
                };
                self.wrong_kind(cx, e.span, what, ty, Some(help))
            }
        }
    }

    /// Several sets, all of them lowered even if one has an error.
    fn sets(&mut self, cx: &Cx<'a>, xs: &'a [Expr]) -> Option<Vec<ExprId>> {
        let mut ids = Vec::with_capacity(xs.len());
        let mut fine = true;
        for x in xs {
            match self.set(cx, x) {
                Some(id) => ids.push(id),
                None => fine = false,
            }
        }
        fine.then_some(ids)
    }

    fn union(&mut self, cx: &Cx<'a>, xs: &'a [Expr], span: Span) -> Option<Val> {
        let xs = self.sets(cx, xs)?;
        let or = self.exprs.or(xs);
        Some(self.marked(cx, or, span))
    }

    /// Remembers where a set was written: in the compiled file, if it is used there.
    pub(super) fn marked(&mut self, cx: &Cx<'a>, id: ExprId, span: Span) -> Val {
        self.mark(cx, id, span);
        Val::plain(id)
    }

    /// See [`Checker::marked`].
    pub(super) fn mark(&mut self, cx: &Cx<'a>, id: ExprId, span: Span) {
        if self.exprs.as_bool(id).is_none() {
            self.exprs.set_span(id, cx.frame.shown.unwrap_or(span));
        }
    }

    /// An integer.
    pub(super) fn int(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        let value = self.lower(cx, e)?;
        match self.exprs.ty(value.id) {
            Ty::Int => Some(value),
            ty => self.wrong_kind(cx, e.span, "an integer", ty, None),
        }
    }

    /// An integer or a real.
    pub(super) fn number(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<Val> {
        let value = self.lower(cx, e)?;
        match self.exprs.ty(value.id) {
            Ty::Bool => self.wrong_kind(cx, e.span, "a number", Ty::Bool, None),
            _ => Some(value),
        }
    }

    /// A real; integers become reals.
    pub(super) fn real(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<ExprId> {
        let value = self.number(cx, e)?;
        Some(self.exprs.to_real(value.id))
    }

    /// An integer that is known when compiling.
    pub(super) fn constant_int(&mut self, cx: &Cx<'a>, e: &'a Expr) -> Option<i64> {
        let id = self.int(cx, e)?.id;
        match self.exprs.as_int(id) {
            Some(v) => Some(v),
            None => self.not_constant(cx, e.span),
        }
    }

    /// An integer of at least 1, and no larger than a length, that is known when compiling.
    pub(super) fn positive(&mut self, cx: &Cx<'a>, e: &'a Expr, what: &str) -> Option<i64> {
        match self.constant_int(cx, e)? {
            v if v < 1 => self.not_positive(cx, e.span, what, v),
            v if v > MAX_LENGTH => self.fail(
                cx,
                Diagnostic::error(
                    "E0301",
                    e.span,
                    format!("{what} is longer than any sequence"),
                    format!("this is {v}"),
                )
                .help(format!("the longest sequence has {MAX_LENGTH} positions")),
            ),
            v => Some(v),
        }
    }

    /// Reports a kind that does not fit.
    pub(super) fn wrong_kind<T>(
        &mut self,
        cx: &Cx<'a>,
        span: Span,
        expected: &str,
        found: Ty,
        help: Option<String>,
    ) -> Option<T> {
        let found = match found {
            Ty::Int => "an integer",
            Ty::Real => "a real",
            Ty::Bool if cx.place.may & scope::KEY != 0 => "a set",
            Ty::Bool => "a condition",
        };
        self.other_kind(cx, span, expected, found, help)
    }

    pub(super) fn other_kind<T>(
        &mut self,
        cx: &Cx<'a>,
        span: Span,
        expected: &str,
        found: &str,
        help: Option<String>,
    ) -> Option<T> {
        let mut error =
            Diagnostic::error("E0204", span, format!("expected {expected}, found {found}"), format!("this is {found}"));
        error.help = help;
        self.fail(cx, error)
    }

    /// Reports something that cannot be said here.
    pub(super) fn no_meaning<T>(&mut self, cx: &Cx<'a>, span: Span, message: String, help: &str) -> Option<T> {
        self.fail(cx, Diagnostic::error("E0209", span, message, "has no meaning here").help(help))
    }

    /// Whether something may be read here.
    pub(super) fn may(&mut self, cx: &Cx<'a>, what: scope::May, name: &str, span: Span) -> Option<()> {
        if cx.place.may & what == what {
            return Some(());
        }
        let help = match what {
            scope::SCORE => "it is the scaled dot product: `score = 30.0 * tanh(score / 30.0)`",
            scope::SLOT => "it counts the slots of `null N bias ..`",
            scope::TENSORS => "tensors are read in scores and biases",
            _ if cx.place.may == 0 => "use numbers and params",
            _ => "use sizes and params",
        };
        self.no_meaning(cx, span, format!("`{name}` cannot be read in {}", cx.place.name), help)
    }
}
