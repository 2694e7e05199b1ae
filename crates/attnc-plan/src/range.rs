//! Proof that 64-bit integers suffice: interval arithmetic over every expression of a plan.
//!
//! Positions and sizes are at most [`MAX_LEN`]; launches beyond it are refused. An expression that may
//! leave the range -2^62 .. 2^62 for such sizes is refused here, so that compiled code may wrap freely.

use rustc_hash::FxHashMap;

use attnc_pattern::expr::{Bin, ExprId, Exprs, Node, Ty, Un, Var};

use crate::MAX_LEN;
use crate::plan::{Entry, Plan};

const LIMIT: i128 = 1 << 62;

/// Checks every integer of the plan.
///
/// # Errors
/// The first expression that may not fit.
pub fn fits(plan: &Plan) -> Result<(), ExprId> {
    let mut roots = vec![plan.require];
    for s in &plan.stages {
        roots.push(s.scale);
        roots.extend(s.score);
        for entry in &s.entries {
            match entry {
                Entry::Null { bias, .. } => roots.extend(*bias),
                Entry::Tokens { set, rows, tiles, bias } => {
                    roots.push(*set);
                    roots.extend(*bias);
                    for p in &rows.pieces {
                        for l in &p.loops {
                            roots.extend([l.lo, l.hi, l.phase]);
                        }
                        roots.extend([p.start, p.end]);
                        roots.extend(p.guard.iter().chain(&p.filter));
                        roots.extend(p.combs.iter().flat_map(|c| [c.period, c.width, c.phase]));
                    }
                    for p in &tiles.pieces {
                        for l in &p.loops {
                            roots.extend([l.lo, l.hi, l.must_lo, l.must_hi, l.phase]);
                        }
                        roots.extend([p.start, p.end]);
                        roots.extend(p.guard);
                        roots.extend(p.must.iter().flat_map(|m| [m.start, m.end].into_iter().chain(m.guard)));
                        roots.extend(p.combs.iter().flat_map(|c| [c.period, c.width, c.phase_lo, c.phase_hi]));
                    }
                }
            }
        }
    }
    let loops = loop_bounds(plan);
    let exprs = &plan.program.exprs;
    let bounds = Bounds { plan, exprs, loops: &loops };
    let mut known: FxHashMap<ExprId, (i128, i128)> = FxHashMap::default();
    for id in exprs.reachable(&roots) {
        if exprs.ty(id) != Ty::Int {
            continue;
        }
        let (lo, hi) = bounds.interval(id, &known);
        if lo < -LIMIT || hi > LIMIT {
            return Err(id);
        }
        known.insert(id, (lo, hi));
    }
    Ok(())
}

/// Bounds of loop variables by number, over all loops that bind one: a loop runs over what lies between its bounds.
fn loop_bounds(plan: &Plan) -> FxHashMap<u32, (i128, i128)> {
    let exprs = &plan.program.exprs;
    let mut found: FxHashMap<u32, (i128, i128)> = FxHashMap::default();
    // Inner bounds read outer variables, and pieces share numbers: repeat until nothing grows. Numbers of loops
    // are few, and each round can only be caused by a deeper loop.
    for _ in 0..8 {
        let before = found.clone();
        let mut visit = |var: u32, lo: ExprId, hi: ExprId| {
            let bounds = Bounds { plan, exprs, loops: &before };
            let mut known = FxHashMap::default();
            for id in exprs.reachable(&[lo, hi]) {
                if exprs.ty(id) == Ty::Int {
                    let range = bounds.interval(id, &known);
                    known.insert(id, range);
                }
            }
            let range = (known[&lo].0, known[&hi].1);
            let all = found.entry(var).or_insert(range);
            *all = (all.0.min(range.0), all.1.max(range.1));
        };
        for stage in &plan.stages {
            for entry in &stage.entries {
                if let Entry::Tokens { rows, tiles, .. } = entry {
                    rows.pieces.iter().flat_map(|p| &p.loops).for_each(|l| visit(l.var, l.lo, l.hi));
                    tiles.pieces.iter().flat_map(|p| &p.loops).for_each(|l| visit(l.var, l.lo, l.hi));
                }
            }
        }
        if found == before {
            return found;
        }
    }
    // What still grows is not bounded.
    found.values_mut().for_each(|v| *v = (-LIMIT, LIMIT));
    found
}

struct Bounds<'a> {
    plan: &'a Plan,
    exprs: &'a Exprs,
    loops: &'a FxHashMap<u32, (i128, i128)>,
}

impl Bounds<'_> {
    /// Whether an expression is a length of the space or a product of different extents of one segment: launches
    /// refuse spaces beyond [`MAX_LEN`], and every axis that is used has at least one coordinate.
    fn is_extent(&self, id: ExprId) -> bool {
        let space = &self.plan.program.space;
        if space.total == Some(id) || space.segments.iter().any(|s| s.begin == id || s.len == id) {
            return true;
        }
        let mut factors = vec![id];
        let mut extents: Vec<ExprId> = vec![];
        while let Some(factor) = factors.pop() {
            match self.exprs.node(factor) {
                Node::Bin(Bin::Mul, a, b) => factors.extend([*a, *b]),
                _ => extents.push(factor),
            }
        }
        space.segments.iter().any(|segment| {
            let mut axes: Vec<ExprId> = segment.axes.iter().map(|a| self.plan.program.axis(*a).extent).collect();
            extents.iter().all(|e| axes.iter().position(|a| a == e).map(|at| axes.swap_remove(at)).is_some())
        })
    }

    /// `x` and `b` of a product `(x / b) * b` with a positive `b`.
    fn floored(&self, a: ExprId, b: ExprId) -> Option<(ExprId, ExprId)> {
        let positive = |e: ExprId| match *self.exprs.node(e) {
            Node::Bin(Bin::Max, x, y) => [x, y].iter().any(|&c| self.exprs.as_int(c).is_some_and(|c| c > 0)),
            _ => self.exprs.as_int(e).is_some_and(|c| c > 0),
        };
        [(a, b), (b, a)].into_iter().find_map(|(quotient, by)| match *self.exprs.node(quotient) {
            Node::Bin(Bin::Div, x, d) if d == by && positive(by) => Some((x, by)),
            _ => None,
        })
    }

    /// Bounds of one integer, operands being known.
    fn interval(&self, id: ExprId, known: &FxHashMap<ExprId, (i128, i128)>) -> (i128, i128) {
        let Bounds { plan, exprs, loops } = self;
        let len = i128::from(MAX_LEN);
        if exprs.as_int(id).is_none() && self.is_extent(id) {
            return (0, len);
        }
        let of = |e: &ExprId| known[e];
        match exprs.node(id) {
            Node::Int(v) => (i128::from(*v), i128::from(*v)),
            Node::Var(v) => match v {
                Var::Loop(n) => loops.get(n).copied().unwrap_or((0, 0)),
                Var::Modulus => (1, len),
                _ => (0, len),
            },
            Node::Bin(op, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                match op {
                    Bin::Add => (al + bl, ah + bh),
                    Bin::Sub => (al - bh, ah - bl),
                    // A floor times its divisor is at most what was divided.
                    Bin::Mul if let Some((x, by)) = self.floored(*a, *b) => {
                        let ((xl, xh), (_, bh)) = (of(&x), of(&by));
                        (xl.min(0) - bh, xh.max(0))
                    }
                    Bin::Mul => {
                        let c = [
                            al.saturating_mul(bl),
                            al.saturating_mul(bh),
                            ah.saturating_mul(bl),
                            ah.saturating_mul(bh),
                        ];
                        // A square is not negative.
                        let least = if a == b { 0 } else { c.into_iter().min().unwrap_or(0) };
                        (least, c.into_iter().max().unwrap_or(0))
                    }
                    Bin::Div if bl >= 1 => {
                        let c = [al.div_euclid(bl), al.div_euclid(bh), ah.div_euclid(bl), ah.div_euclid(bh)];
                        (c.into_iter().min().unwrap_or(0), c.into_iter().max().unwrap_or(0))
                    }
                    Bin::Div => {
                        let m = al.abs().max(ah.abs());
                        (-m, m)
                    }
                    Bin::Mod if bl >= 0 => (0, bh.max(1) - 1),
                    Bin::Mod => (bl.min(0), bh.max(0)),
                    Bin::Min => (al.min(bl), ah.min(bh)),
                    Bin::Max => (al.max(bl), ah.max(bh)),
                }
            }
            Node::Select(_, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                (al.min(bl), ah.max(bh))
            }
            Node::Un(op, a) => match op {
                Un::Neg => {
                    let (l, h) = of(a);
                    (-h, -l)
                }
                Un::Abs => {
                    let (l, h) = of(a);
                    (0, l.abs().max(h.abs()))
                }
                Un::Pow2 => (0, 1i128 << of(a).1.clamp(0, 62)),
                Un::Log2 => (-1, i128::from(of(a).1.max(1).ilog2())),
                Un::Isqrt => (-1, of(a).1.max(0).isqrt()),
                Un::Table(t) => {
                    let t = &plan.program.tables[t.0 as usize];
                    (i128::from(t.iter().copied().min().unwrap_or(0)), i128::from(t.iter().copied().max().unwrap_or(0)))
                }
                Un::CsrBegin(_) => (0, len * 1024),
                _ => (-1, len),
            },
            Node::DrawAt(..) => (-1, len),
            _ => (0, 0),
        }
    }
}
