//! Bounds of integers, for positions and sizes up to [`MAX_LEN`].
//!
//! The one idea: interval arithmetic over the arena, once for each expression. It tells which integers fit
//! vectors of 32 bits and which divisions need no correction of signs. What is not known is bounded
//! by what a plan promises of every integer, 2^62. Nothing here knows of code.

use attnc_pattern::expr::{Bin, ExprId, Node, Ty, Un, Var};
use attnc_plan::MAX_LEN;

use super::Emitter;

/// No integer of a plan is further from 0.
const LIMIT: i64 = 1 << 62;

impl Emitter<'_> {
    pub(super) fn fits_i32(&mut self, id: ExprId) -> bool {
        let (lo, hi) = self.range(id);
        lo >= i64::from(i32::MIN) && hi <= i64::from(i32::MAX)
    }

    /// Least and greatest value of an integer.
    pub(super) fn range(&mut self, id: ExprId) -> (i64, i64) {
        if let Some(&known) = self.ranges.get(&id) {
            return known;
        }
        let exprs = &self.program.exprs;
        for e in exprs.reachable(&[id]) {
            if exprs.ty(e) == Ty::Int && !self.ranges.contains_key(&e) {
                let (lo, hi) = self.range_of_node(e);
                let within = |x: i128| x.clamp(-i128::from(LIMIT), i128::from(LIMIT)) as i64;
                self.ranges.insert(e, (within(lo), within(hi)));
            }
        }
        self.ranges.get(&id).copied().unwrap_or((-LIMIT, LIMIT))
    }

    /// Bounds of an integer from those of its operands.
    fn range_of_node(&self, id: ExprId) -> (i128, i128) {
        let unknown = (-i128::from(LIMIT), i128::from(LIMIT));
        let most = i128::from(MAX_LEN);
        let of = |e: &ExprId| self.ranges.get(e).map_or(unknown, |&(lo, hi)| (i128::from(lo), i128::from(hi)));
        let hull = |c: &[i128]| (c.iter().copied().min().unwrap_or(0), c.iter().copied().max().unwrap_or(0));
        match self.program.exprs.node(id) {
            Node::Int(v) => (i128::from(*v), i128::from(*v)),
            Node::Var(Var::Loop(_)) => unknown,
            Node::Var(Var::Modulus) => (1, most),
            Node::Var(_) => (0, most),
            Node::Un(op, a) => match op {
                Un::Neg => {
                    let (lo, hi) = of(a);
                    (-hi, -lo)
                }
                Un::Abs => {
                    let (lo, hi) = of(a);
                    (0, lo.abs().max(hi.abs()))
                }
                Un::Pow2 => (0, i128::from(LIMIT)),
                Un::Log2 => (-1, 62),
                Un::Isqrt => (-1, of(a).1.max(0).isqrt()),
                Un::DocOf => (-1, most),
                Un::DocBegin | Un::DocEnd | Un::OrderIndex(_) | Un::OrderPosition(_) => (0, most),
                Un::Table(t) => {
                    let table = &self.program.tables[t.0 as usize];
                    let (lo, hi) = (table.iter().min().copied(), table.iter().max().copied());
                    (i128::from(lo.unwrap_or(0)), i128::from(hi.unwrap_or(0)))
                }
                Un::CsrBegin(_) => (0, i128::from(LIMIT)),
                _ => unknown,
            },
            Node::Bin(op, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                match op {
                    Bin::Add => (al + bl, ah + bh),
                    Bin::Sub => (al - bh, ah - bl),
                    Bin::Mul => hull(&[al * bl, al * bh, ah * bl, ah * bh]),
                    // A quotient by at least 1 is no further from 0.
                    Bin::Div if bl >= 0 => (al.min(0), ah.max(0)),
                    Bin::Mod if bl >= 0 => (0, bh.max(1) - 1),
                    Bin::Min => (al.min(bl), ah.min(bh)),
                    Bin::Max => (al.max(bl), ah.max(bh)),
                    Bin::Div | Bin::Mod => unknown,
                }
            }
            Node::Select(_, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                (al.min(bl), ah.max(bh))
            }
            _ => unknown,
        }
    }
}
