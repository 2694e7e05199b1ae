//! Facts of expressions, bottom-up: between which integers a value lies, and what it reads.
//!
//! Both are conservative: a bound may be wide, never too narrow; a reading may be claimed too often.
//! Positions and sizes are below [`MAX_LENGTH`], which whoever launches a program ensures.
//! Nothing here reports anything.

use std::ops::{BitOr, BitOrAssign};

use crate::expr::{Bin, ExprId, Exprs, Node, Un, Var};

/// Sequences, sizes and counts of a launch are at most this long.
pub const MAX_LENGTH: i64 = 1 << 29;
/// Heads and dimensions are at most this many.
const MAX_HEADS: i64 = 1 << 16;

/// The integers between which a value lies, both included. Beyond 64 bits the ends are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) lo: i64,
    pub(super) hi: i64,
}

impl Bounds {
    const ANY: Bounds = Bounds { lo: i64::MIN, hi: i64::MAX };

    /// `lo ..= hi`
    pub(super) const fn new(lo: i64, hi: i64) -> Self {
        Bounds { lo, hi }
    }

    fn hull(ends: impl IntoIterator<Item = i128>) -> Self {
        let (mut lo, mut hi) = (i128::MAX, i128::MIN);
        for end in ends {
            (lo, hi) = (lo.min(end), hi.max(end));
        }
        let clip = |v: i128| v.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Bounds { lo: clip(lo), hi: clip(hi) }
    }

    /// Whether 64 bits were not enough.
    pub(super) fn overflows(self) -> bool {
        self.lo == i64::MIN || self.hi == i64::MAX
    }

    /// Whether the value may be `v`.
    pub(super) fn contains(self, v: i64) -> bool {
        (self.lo..=self.hi).contains(&v)
    }
}

/// What a value reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Reads(u8);

impl Reads {
    /// The position of the query.
    pub(super) const Q: Reads = Reads(1);
    /// The position of the key.
    pub(super) const K: Reads = Reads(2);
    /// A comparison of the query's position with the key's.
    pub(super) const RELATION: Reads = Reads(4);
    /// Something else that differs within a launch: the head, the layer, a score, a tensor.
    pub(super) const OTHER: Reads = Reads(8);

    /// All of `other`.
    pub(super) fn has(self, other: Reads) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Reads {
    type Output = Reads;
    fn bitor(self, other: Reads) -> Reads {
        Reads(self.0 | other.0)
    }
}

impl BitOrAssign for Reads {
    fn bitor_assign(&mut self, other: Reads) {
        *self = *self | other;
    }
}

/// Facts of all expressions of one arena, computed as the arena grows.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    bounds: Vec<Bounds>,
    reads: Vec<Reads>,
    /// Positions are below this.
    positions: i64,
}

impl Facts {
    pub(super) fn new() -> Self {
        Facts { bounds: Vec::new(), reads: Vec::new(), positions: MAX_LENGTH }
    }

    /// The sequence has at most `total` positions. Facts known already stay as wide as they are.
    pub(super) fn set_positions(&mut self, total: i64) {
        self.positions = total.clamp(1, MAX_LENGTH);
    }

    /// Between which integers an `Int` expression lies.
    pub(super) fn bounds(&mut self, exprs: &Exprs, id: ExprId) -> Bounds {
        self.extend(exprs);
        self.bounds[id.0 as usize]
    }

    /// What an expression reads.
    pub(super) fn reads(&mut self, exprs: &Exprs, id: ExprId) -> Reads {
        self.extend(exprs);
        self.reads[id.0 as usize]
    }

    /// States bounds that arithmetic alone does not show.
    pub(super) fn state(&mut self, exprs: &Exprs, id: ExprId, bounds: Bounds) {
        self.extend(exprs);
        let known = &mut self.bounds[id.0 as usize];
        *known = Bounds { lo: known.lo.max(bounds.lo), hi: known.hi.min(bounds.hi) };
    }

    fn extend(&mut self, exprs: &Exprs) {
        for i in self.bounds.len()..exprs.len() {
            let id = ExprId(i as u32);
            let bounds = self.bounds_of(exprs, id);
            let reads = self.reads_of(exprs, id);
            self.bounds.push(bounds);
            self.reads.push(reads);
        }
    }

    fn reads_of(&self, exprs: &Exprs, id: ExprId) -> Reads {
        match exprs.node(id) {
            Node::Var(Var::Q) => return Reads::Q,
            Node::Var(Var::K) => return Reads::K,
            Node::Var(Var::Head | Var::Layer | Var::Step | Var::Score | Var::Slot | Var::Loop(_)) => {
                return Reads::OTHER;
            }
            // Rows and columns of data that is given for this launch: no relation of positions.
            Node::MapAt(..) => return Reads::OTHER,
            _ => {}
        }
        let mut reads = Reads::default();
        for x in exprs.operands(id) {
            reads |= self.reads[x.0 as usize];
        }
        // Which candidates a row draws depends on where the row stands among them.
        let relates = match exprs.node(id) {
            Node::Cmp(..) => reads.has(Reads::Q | Reads::K),
            Node::Drawn(..) | Node::DrawAt(..) => reads.has(Reads::Q),
            _ => false,
        };
        if matches!(exprs.node(id), Node::Load(..)) {
            reads |= Reads::OTHER;
        }
        if relates { reads | Reads::RELATION } else { reads }
    }

    fn bounds_of(&self, exprs: &Exprs, id: ExprId) -> Bounds {
        let of = |x: ExprId| self.bounds[x.0 as usize];
        match *exprs.node(id) {
            Node::Int(v) => Bounds::new(v, v),
            Node::Var(var) => match var {
                Var::Q | Var::K => Bounds::new(0, self.positions - 1),
                Var::QStart | Var::KStart | Var::NQ | Var::NK | Var::Given(_) | Var::Class | Var::Modulus => {
                    Bounds::new(0, self.positions)
                }
                Var::Head => Bounds::new(0, MAX_HEADS - 1),
                Var::Heads | Var::Dim => Bounds::new(1, MAX_HEADS),
                Var::Layer | Var::Step | Var::Slot => Bounds::new(0, MAX_LENGTH - 1),
                Var::Docs | Var::Size(_) => Bounds::new(0, MAX_LENGTH),
                Var::Score | Var::Loop(_) | Var::QLo | Var::QHi => Bounds::ANY,
            },
            Node::Un(op, x) => {
                let x = of(x);
                match op {
                    Un::Neg => Bounds::hull([-i128::from(x.lo), -i128::from(x.hi)]),
                    Un::Abs => {
                        let ends = [i128::from(x.lo).abs(), i128::from(x.hi).abs()];
                        Bounds::hull(ends.into_iter().chain(x.contains(0).then_some(0)))
                    }
                    Un::Pow2 => Bounds::new(0, if x.hi < 62 { 1 << x.hi.max(0) } else { 1 << 61 }),
                    Un::Log2 => Bounds::new(-1, if x.hi > 0 { i64::from(x.hi.ilog2()) } else { -1 }),
                    Un::Isqrt => Bounds::new(-1, if x.hi >= 0 { x.hi.isqrt() } else { -1 }),
                    Un::DocOf | Un::DocBegin | Un::DocEnd | Un::OrderIndex(_) | Un::OrderPosition(_) => {
                        Bounds::new(0, self.positions)
                    }
                    _ => Bounds::ANY,
                }
            }
            Node::Bin(Bin::Mul, a, b) if a == b => {
                let ends = [i128::from(of(a).lo), i128::from(of(a).hi)].map(|x| x * x);
                Bounds::hull(ends.into_iter().chain(of(a).contains(0).then_some(0)))
            }
            Node::Bin(op, a, b) => {
                let (a, b) = (of(a), of(b));
                let ends = |f: fn(i128, i128) -> i128| {
                    let (al, ah, bl, bh) = (a.lo.into(), a.hi.into(), b.lo.into(), b.hi.into());
                    Bounds::hull([f(al, bl), f(al, bh), f(ah, bl), f(ah, bh)])
                };
                match op {
                    Bin::Add => ends(|a, b| a + b),
                    Bin::Sub => ends(|a, b| a - b),
                    Bin::Mul => ends(|a, b| a * b),
                    Bin::Min => ends(i128::min),
                    Bin::Max => ends(i128::max),
                    // For a divisor that may be 0 the quotient by 1 or -1 is the largest there is.
                    Bin::Div if b.contains(0) => {
                        let (lo, hi) = (i128::from(a.lo), i128::from(a.hi));
                        Bounds::hull([lo, -lo, hi, -hi])
                    }
                    Bin::Div => ends(floor_div),
                    Bin::Mod if b.lo > 0 && a.lo >= 0 => Bounds::new(0, a.hi.min(b.hi - 1)),
                    Bin::Mod if b.lo > 0 => Bounds::new(0, b.hi - 1),
                    Bin::Mod => {
                        let most = i128::from(b.lo).abs().max(i128::from(b.hi).abs()) - 1;
                        Bounds::hull([-most, most])
                    }
                }
            }
            Node::Select(_, a, b) => {
                let (a, b) = (of(a), of(b));
                Bounds::new(a.lo.min(b.lo), a.hi.max(b.hi))
            }
            _ => Bounds::ANY,
        }
    }
}

/// Division that floors.
fn floor_div(a: i128, b: i128) -> i128 {
    let q = a / b;
    if a % b != 0 && ((a < 0) != (b < 0)) { q - 1 } else { q }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_for_every_value() {
        let mut e = Exprs::new();
        let mut facts = Facts::new();
        facts.set_positions(40);
        let q = e.var(Var::Q);
        let seven = e.int(-7);
        let (x, y) = (e.add(q, seven), e.int(5));
        type Exact = fn(i64) -> i64;
        let forms: [(Bin, Exact); 6] = [
            (Bin::Add, |x| x + 5),
            (Bin::Sub, |x| x - 5),
            (Bin::Mul, |x| x * 5),
            (Bin::Div, |x| x.div_euclid(5)),
            (Bin::Mod, |x| x.rem_euclid(5)),
            (Bin::Min, |x| x.min(5)),
        ];
        for (op, exact) in forms {
            let id = e.bin(op, x, y);
            let bounds = facts.bounds(&e, id);
            let values: Vec<i64> = (0..40).map(|q| exact(q - 7)).collect();
            assert_eq!(bounds.lo, *values.iter().min().unwrap(), "{op:?}");
            assert_eq!(bounds.hi, *values.iter().max().unwrap(), "{op:?}");
        }
    }

    #[test]
    fn a_cube_of_positions_overflows() {
        let mut e = Exprs::new();
        let mut facts = Facts::new();
        let q = e.var(Var::Q);
        let square = e.mul(q, q);
        let cube = e.mul(square, q);
        assert!(!facts.bounds(&e, square).overflows());
        assert!(facts.bounds(&e, cube).overflows());
    }

    #[test]
    fn a_relation_is_a_comparison_of_both_positions() {
        let mut e = Exprs::new();
        let mut facts = Facts::new();
        let (q, k, n) = (e.var(Var::Q), e.var(Var::K), e.int(4));
        let (row, column, causal) = (e.lt(q, n), e.lt(k, n), e.le(k, q));
        let cross = e.or([row, column]);
        assert!(!facts.reads(&e, cross).has(Reads::RELATION));
        let both = e.and([cross, causal]);
        assert!(facts.reads(&e, both).has(Reads::RELATION));
    }
}
