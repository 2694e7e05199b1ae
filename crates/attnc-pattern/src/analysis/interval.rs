//! Bounds of an expression while some of its variables run over intervals.
//!
//! The bounds are expressions themselves: `q - 5` over `q in a ..= b` is `a - 5 ..= b - 5`. They hold for
//! every value and are reached where the expression is made of monotone parts that do not share a variable
//! (sums are taken in normal form, so that `q - 2 * q` counts as one part). A truth value becomes two:
//! what holds for every value and what holds for some. Nothing here knows of tiles or pieces.

use super::linear::{Algebra, Linear, Memo};
use crate::expr::{Bin, Cmp, ExprId, Node, Ty, Un, Var};

/// Inclusive bounds of an integer; `None` where nothing is known.
pub(crate) type Bounds = Option<(ExprId, ExprId)>;

/// Bounds under one assignment of intervals to variables.
pub(crate) struct Intervals<'a, 'e> {
    pub(crate) algebra: &'a mut Algebra<'e>,
    vars: Vec<(Var, ExprId, ExprId)>,
    reads: Memo<bool>,
    ints: Memo<Bounds>,
    truths: Memo<(ExprId, ExprId)>,
}

impl<'a, 'e> Intervals<'a, 'e> {
    pub(crate) fn new(algebra: &'a mut Algebra<'e>, vars: Vec<(Var, ExprId, ExprId)>) -> Self {
        Intervals { algebra, vars, reads: Memo::new(), ints: Memo::new(), truths: Memo::new() }
    }

    /// Whether an expression reads a variable that runs.
    pub(crate) fn reads(&mut self, id: ExprId) -> bool {
        if let Some(&r) = self.reads.get(id) {
            return r;
        }
        let reads = match *self.algebra.exprs.node(id) {
            Node::Var(v) => self.vars.iter().any(|x| x.0 == v),
            _ => self.algebra.exprs.operands(id).into_iter().any(|o| self.reads(o)),
        };
        self.reads.insert(id, reads);
        reads
    }

    /// Bounds of an integer expression.
    pub(crate) fn int(&mut self, id: ExprId) -> Bounds {
        if !self.reads(id) {
            return Some((id, id));
        }
        if let Some(&b) = self.ints.get(id) {
            return b;
        }
        let linear = self.algebra.linear(id);
        let bounds = self.linear(&linear);
        self.ints.insert(id, bounds);
        bounds
    }

    /// Bounds of a sum.
    fn linear(&mut self, linear: &Linear) -> Bounds {
        let (mut lo, mut hi) = (Linear::constant(linear.constant), Linear::constant(linear.constant));
        for &(atom, c) in &linear.terms {
            let (a, b) = self.atom(atom)?;
            let (a, b) = if c > 0 { (a, b) } else { (b, a) };
            let (a, b) = (self.algebra.linear(a), self.algebra.linear(b));
            lo = lo.plus(&a, c)?;
            hi = hi.plus(&b, c)?;
        }
        let (lo, hi) = (self.algebra.expr(&lo), self.algebra.expr(&hi));
        Some((self.algebra.canon(lo), self.algebra.canon(hi)))
    }

    fn atom(&mut self, id: ExprId) -> Bounds {
        if !self.reads(id) {
            return Some((id, id));
        }
        match *self.algebra.exprs.node(id) {
            Node::Var(v) => self.vars.iter().find(|x| x.0 == v).map(|x| (x.1, x.2)),
            Node::Bin(op, a, b) => match op {
                Bin::Min | Bin::Max => {
                    let ((al, ah), (bl, bh)) = (self.int(a)?, self.int(b)?);
                    let pick = if op == Bin::Min { Algebra::min } else { Algebra::max };
                    Some((pick(self.algebra, al, bl), pick(self.algebra, ah, bh)))
                }
                Bin::Mul if a == b => {
                    let (lo, hi) = self.int(a)?;
                    let zero = self.algebra.int(0);
                    let away = self.algebra.sub(zero, hi);
                    let nearest = self.algebra.max(lo, away);
                    let nearest = self.algebra.max(nearest, zero);
                    let least = self.algebra.mul(nearest, nearest);
                    let (x, y) = (self.algebra.mul(lo, lo), self.algebra.mul(hi, hi));
                    Some((least, self.algebra.max(x, y)))
                }
                Bin::Mul => self.monomial(id),
                Bin::Div if !self.reads(b) && self.algebra.nonnegative(b) => {
                    let (lo, hi) = self.int(a)?;
                    Some((self.algebra.div(lo, b), self.algebra.div(hi, b)))
                }
                Bin::Mod if !self.reads(b) && self.algebra.nonnegative(b) => {
                    let zero = self.algebra.int(0);
                    let last = self.algebra.offset(b, -1);
                    let Some((lo, hi)) = self.int(a) else { return Some((zero, last)) };
                    // Within one period the remainder runs with its operand.
                    let (x, y) = (self.algebra.div(lo, b), self.algebra.div(hi, b));
                    let same = self.algebra.exprs.eq(x, y);
                    let (ml, mh) = (self.modulo(lo, b), self.modulo(hi, b));
                    let e = &mut *self.algebra.exprs;
                    Some((e.select(same, ml, zero), e.select(same, mh, last)))
                }
                _ => None,
            },
            Node::Un(op, a) => match op {
                Un::Pow2
                | Un::Log2
                | Un::Isqrt
                | Un::DocOf
                | Un::DocBegin
                | Un::DocEnd
                | Un::CsrBegin(_)
                | Un::PartOf(_) => {
                    let (lo, hi) = self.int(a)?;
                    let e = &mut *self.algebra.exprs;
                    Some((e.un(op, lo), e.un(op, hi)))
                }
                Un::Abs => {
                    let (lo, hi) = self.int(a)?;
                    let zero = self.algebra.int(0);
                    let (neg_lo, neg_hi) = (self.algebra.sub(zero, lo), self.algebra.sub(zero, hi));
                    let nearest = self.algebra.max(lo, neg_hi);
                    Some((self.algebra.max(nearest, zero), self.algebra.max(hi, neg_lo)))
                }
                _ => None,
            },
            Node::Select(c, a, b) => {
                let ((al, ah), (bl, bh)) = (self.int(a)?, self.int(b)?);
                let (every, some) = self.truth(c);
                let (least, most) = (self.algebra.min(al, bl), self.algebra.max(ah, bh));
                let e = &mut *self.algebra.exprs;
                let (lo, hi) = (e.select(some, least, bl), e.select(some, most, bh));
                Some((e.select(every, al, lo), e.select(every, ah, hi)))
            }
            _ => None,
        }
    }

    fn modulo(&mut self, a: ExprId, b: ExprId) -> ExprId {
        let m = self.algebra.exprs.modulo(a, b);
        self.algebra.canon(m)
    }

    /// A product of atoms: bounds multiplied factor by factor.
    fn monomial(&mut self, id: ExprId) -> Bounds {
        let mut product: Bounds = None;
        for factor in self.algebra.factors(id) {
            let (fl, fh) = self.atom(factor)?;
            let Some((lo, hi)) = product else {
                product = Some((fl, fh));
                continue;
            };
            let (ll, hh) = (self.algebra.mul(lo, fl), self.algebra.mul(hi, fh));
            product = Some(if self.algebra.nonnegative(lo) && self.algebra.nonnegative(fl) {
                (ll, hh)
            } else {
                let (lh, hl) = (self.algebra.mul(lo, fh), self.algebra.mul(hi, fl));
                let (a, b) = (self.algebra.min(ll, hh), self.algebra.min(lh, hl));
                let (c, d) = (self.algebra.max(ll, hh), self.algebra.max(lh, hl));
                (self.algebra.min(a, b), self.algebra.max(c, d))
            });
        }
        product
    }

    /// What holds if the expression does for every value, and what holds if it does for some.
    pub(crate) fn truth(&mut self, id: ExprId) -> (ExprId, ExprId) {
        if !self.reads(id) {
            return (id, id);
        }
        if let Some(&t) = self.truths.get(id) {
            return t;
        }
        let unknown = (self.algebra.exprs.bool(false), self.algebra.exprs.bool(true));
        let truth = match self.algebra.exprs.node(id).clone() {
            Node::Cmp(op, a, b) if self.algebra.exprs.ty(a) == Ty::Int => self.compared(op, a, b).unwrap_or(unknown),
            Node::And(xs) => self.all(xs, |e, xs| e.and(xs)),
            Node::Or(xs) => self.all(xs, |e, xs| e.or(xs)),
            Node::Not(x) => {
                let (every, some) = self.truth(x);
                let e = &mut *self.algebra.exprs;
                (e.not(some), e.not(every))
            }
            Node::Select(c, a, b) => {
                let ((c1, c2), (a1, a2), (b1, b2)) = (self.truth(c), self.truth(a), self.truth(b));
                let e = &mut *self.algebra.exprs;
                let (no, maybe_no) = (e.not(c2), e.not(c1));
                let (x, y) = (e.and([c1, a1]), e.and([no, b1]));
                let z = e.and([a1, b1]);
                let every = e.or([x, y, z]);
                let (x, y) = (e.and([c2, a2]), e.and([maybe_no, b2]));
                (every, e.or([x, y]))
            }
            _ => unknown,
        };
        self.truths.insert(id, truth);
        truth
    }

    fn all(
        &mut self,
        xs: Vec<ExprId>,
        join: impl Fn(&mut crate::expr::Exprs, Vec<ExprId>) -> ExprId,
    ) -> (ExprId, ExprId) {
        let (every, some): (Vec<_>, Vec<_>) = xs.into_iter().map(|x| self.truth(x)).unzip();
        (join(self.algebra.exprs, every), join(self.algebra.exprs, some))
    }

    fn compared(&mut self, op: Cmp, a: ExprId, b: ExprId) -> Option<(ExprId, ExprId)> {
        let d = self.algebra.difference(a, b)?;
        let (lo, hi) = self.linear(&d)?;
        let zero = self.algebra.int(0);
        let e = &mut *self.algebra.exprs;
        Some(match op {
            Cmp::Lt | Cmp::Le => (e.cmp(op, hi, zero), e.cmp(op, lo, zero)),
            Cmp::Eq | Cmp::Ne => {
                let (from, to) = (e.eq(lo, zero), e.eq(hi, zero));
                let every = e.and([from, to]);
                let (from, to) = (e.le(lo, zero), e.le(zero, hi));
                let some = e.and([from, to]);
                if op == Cmp::Eq { (every, some) } else { (e.not(some), e.not(every)) }
            }
        })
    }
}
