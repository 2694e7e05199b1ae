//! Proof that machine integers suffice: interval arithmetic over every expression of a plan.
//!
//! Positions and sizes are at most [`MAX_LEN`]; launches beyond it are refused. An expression that may
//! leave the range -2^62 .. 2^62 for such sizes is refused here, so that compiled code may wrap freely.
//! A back end with 32-bit integers asks again for each launch, whose lengths and sizes are known: [`fits_i32`].

use rustc_hash::FxHashMap;

use attnc_pattern::env::{Env, MapData};
use attnc_pattern::expr::{Bin, ExprId, Exprs, Extent, Node, Ty, Un, Var};
use attnc_pattern::selection::Budget;

use crate::MAX_LEN;
use crate::inplace::InPlace;
use crate::plan::{Attend, Entry, Plan};

const LIMIT: i128 = 1 << 62;

/// What is known of the variables of a launch.
enum Known<'a> {
    /// Nothing but that positions, sizes and counts are at most [`MAX_LEN`].
    Any,
    /// The launch; and a bound of all its positions, documents and ranks.
    Launch(&'a Env<'a>, i128),
}

impl<'a> Known<'a> {
    fn of(env: &'a Env<'a>) -> Known<'a> {
        let orders = env.orders.iter().map(|o| o.len() as i64).max().unwrap_or(0);
        let ends = [env.q_start + env.n_q, env.k_start + env.n_k, orders, env.docs.last().copied().unwrap_or(0)];
        let most = ends.into_iter().max().unwrap_or(0).max(env.docs.len() as i64);
        Known::Launch(env, i128::from(most))
    }

    /// No position is greater, nor any document or rank.
    fn most(&self) -> i128 {
        match self {
            Known::Any => i128::from(MAX_LEN),
            Known::Launch(_, most) => *most,
        }
    }

    fn var(&self, var: Var) -> (i128, i128) {
        if var == Var::Modulus {
            return (1, self.most());
        }
        let Known::Launch(env, most) = self else { return (0, self.most()) };
        // Lengths and starts may be those of a class, which are less.
        let upto = |v: i64| (0, i128::from(v));
        let exactly = |v: i64| (i128::from(v), i128::from(v));
        match var {
            Var::QStart => upto(env.q_start),
            Var::KStart => upto(env.k_start),
            Var::NQ => upto(env.n_q),
            Var::NK => upto(env.n_k),
            Var::Q | Var::QLo | Var::QHi => upto(env.q_start + env.n_q),
            Var::K => upto(env.k_start + env.n_k),
            Var::Given(Extent::QStart) => exactly(env.q_start),
            Var::Given(Extent::KStart) => exactly(env.k_start),
            Var::Given(Extent::NQ) => exactly(env.n_q),
            Var::Given(Extent::NK) => exactly(env.n_k),
            Var::Head => exactly(env.head),
            Var::Heads => exactly(env.heads),
            Var::Layer => exactly(env.layer),
            Var::Step => exactly(env.step),
            Var::Dim => exactly(env.dim),
            Var::Docs => upto(env.docs.len() as i64),
            Var::Size(id) => env.sizes.get(id.0 as usize).map_or((0, *most), |&v| exactly(v)),
            _ => (0, *most),
        }
    }

    /// Entries of a compressed map.
    fn entries(&self, map: usize) -> i128 {
        match self {
            Known::Any => i128::from(MAX_LEN) * 1024,
            Known::Launch(env, most) => match env.maps.get(map) {
                Some(MapData::Csr { indices, .. }) => indices.len() as i128,
                _ => *most,
            },
        }
    }
}

/// Checks every integer of the plan.
///
/// # Errors
/// The first expression that may not fit.
pub fn fits(plan: &Plan) -> Result<(), ExprId> {
    within(plan, &Known::Any, LIMIT)
}

/// Checks that every integer of the plan fits 32 bits in a launch.
///
/// # Errors
/// The first expression that may not fit.
pub fn fits_i32(plan: &Plan, env: &Env<'_>) -> Result<(), ExprId> {
    within(plan, &Known::of(env), i128::from(i32::MAX))
}

/// Checks that every integer of expressions of a plan's program fits 32 bits in a launch.
///
/// # Errors
/// The first expression that may not fit.
pub fn exprs_fit_i32(plan: &Plan, roots: &[ExprId], env: &Env<'_>) -> Result<(), ExprId> {
    let (loops, launch) = (Loops::default(), Known::of(env));
    let exprs = &plan.program.exprs;
    let bounds = Bounds { plan, exprs, loops: &loops, launch: &launch };
    checked(&bounds, roots, i128::from(i32::MAX))
}

fn within(plan: &Plan, launch: &Known<'_>, limit: i128) -> Result<(), ExprId> {
    let exprs = &plan.program.exprs;
    // Pieces number their loops alike: each is looked at with its own.
    let check = |roots: &[ExprId], loops: &Loops| checked(&Bounds { plan, exprs, loops, launch }, roots, limit);
    let mut everywhere = vec![plan.require];
    everywhere.extend(plan.rows.as_ref().and_then(InPlace::takes).map(|takes| takes.set));
    // A walk over candidates has their sets; whoever ranks without one decides pairs by what was written.
    if matches!(launch, Known::Launch(..)) {
        for select in plan.chooses.iter().map(|c| plan.program.select(c.select)) {
            everywhere.extend(select.within.into_iter().chain(select.besides).chain(select.including));
            everywhere.push(select.capacity);
            if let Budget::Top(count) = select.budget {
                everywhere.push(count);
            }
        }
    }
    for s in walks(plan) {
        everywhere.push(s.scale);
        everywhere.extend(s.score);
        for entry in &s.entries {
            match entry {
                Entry::Null { bias, .. } => everywhere.extend(*bias),
                Entry::Tokens { set, rows, tiles, bias } => {
                    everywhere.push(*set);
                    everywhere.extend(*bias);
                    for p in &rows.pieces {
                        let loops = loops_of(plan, launch, p.loops.iter().map(|l| (l.var, l.lo, l.hi)));
                        let mut roots = vec![p.start, p.end];
                        roots.extend(p.loops.iter().flat_map(|l| [l.lo, l.hi, l.phase]));
                        roots.extend(p.guard.iter().chain(&p.filter));
                        roots.extend(p.combs.iter().flat_map(|c| [c.period, c.width, c.phase]));
                        check(&roots, &loops)?;
                    }
                    for p in &tiles.pieces {
                        let loops = loops_of(plan, launch, p.loops.iter().map(|l| (l.var, l.lo, l.hi)));
                        let mut roots = vec![p.start, p.end];
                        roots.extend(p.loops.iter().flat_map(|l| [l.lo, l.hi, l.must_lo, l.must_hi, l.phase]));
                        roots.extend(p.guard);
                        roots.extend(p.must.iter().flat_map(|m| [m.start, m.end].into_iter().chain(m.guard)));
                        roots.extend(p.combs.iter().flat_map(|c| [c.period, c.width, c.phase_lo, c.phase_hi]));
                        check(&roots, &loops)?;
                    }
                }
            }
        }
    }
    check(&everywhere, &Loops::default())
}

/// Checks every integer of some expressions.
fn checked(bounds: &Bounds<'_>, roots: &[ExprId], limit: i128) -> Result<(), ExprId> {
    let mut known: FxHashMap<ExprId, (i128, i128)> = FxHashMap::default();
    for id in bounds.exprs.reachable(roots) {
        if bounds.exprs.ty(id) != Ty::Int {
            continue;
        }
        let (lo, hi) = bounds.interval(id, &known);
        if lo < -limit || hi > limit {
            return Err(id);
        }
        known.insert(id, (lo, hi));
    }
    Ok(())
}

/// Every stage that walks pairs.
fn walks(plan: &Plan) -> impl Iterator<Item = &Attend> {
    plan.chooses.iter().filter_map(|c| c.scored.as_ref()).map(|s| &s.walk).chain(&plan.stages)
}

/// Bounds of loop variables by number.
type Loops = FxHashMap<u32, (i128, i128)>;

/// Bounds of the variables of a nest of loops, the outermost first, each of which reads those before it: a loop runs over
/// what lies between its bounds.
fn loops_of(plan: &Plan, launch: &Known<'_>, nest: impl Iterator<Item = (u32, ExprId, ExprId)>) -> Loops {
    let exprs = &plan.program.exprs;
    let mut found = Loops::default();
    for (var, lo, hi) in nest {
        let bounds = Bounds { plan, exprs, loops: &found, launch };
        let mut known = FxHashMap::default();
        for id in exprs.reachable(&[lo, hi]) {
            if exprs.ty(id) == Ty::Int {
                let range = bounds.interval(id, &known);
                known.insert(id, range);
            }
        }
        let range = (known[&lo].0, known[&hi].1);
        found.insert(var, range);
    }
    found
}

struct Bounds<'a> {
    plan: &'a Plan,
    exprs: &'a Exprs,
    loops: &'a Loops,
    launch: &'a Known<'a>,
}

impl Bounds<'_> {
    /// Whether an expression is a length of the space or a product of different extents of one segment: launches
    /// refuse spaces beyond [`MAX_LEN`], and every axis that is used has at least one coordinate.
    fn is_extent(&self, id: ExprId) -> bool {
        let space = &self.plan.program.space;
        if space.total == Some(id) || space.segments.iter().any(|s| s.begin == id || s.len == id) {
            return true;
        }
        if !matches!(self.exprs.node(id), Node::Bin(Bin::Mul, ..)) {
            let extent = |axis| self.plan.program.axis(axis).extent;
            return space.segments.iter().flat_map(|s| &s.axes).any(|&axis| extent(axis) == id);
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

    /// `x` and `b` of a product `(x / b) * b`.
    fn floored(&self, a: ExprId, b: ExprId) -> Option<(ExprId, ExprId)> {
        [(a, b), (b, a)].into_iter().find_map(|(quotient, by)| match *self.exprs.node(quotient) {
            Node::Bin(Bin::Div, x, d) if d == by => Some((x, by)),
            _ => None,
        })
    }

    /// Bounds of one integer, operands being known.
    fn interval(&self, id: ExprId, known: &FxHashMap<ExprId, (i128, i128)>) -> (i128, i128) {
        let Bounds { plan, exprs, loops, launch } = self;
        let len = launch.most();
        if matches!(launch, Known::Any) && exprs.as_int(id).is_none() && self.is_extent(id) {
            return (0, len);
        }
        let of = |e: &ExprId| known[e];
        match exprs.node(id) {
            Node::Int(v) => (i128::from(*v), i128::from(*v)),
            Node::Var(v) => match v {
                Var::Loop(n) => loops.get(n).copied().unwrap_or((0, 0)),
                _ => launch.var(*v),
            },
            Node::Bin(op, a, b) => {
                let ((al, ah), (bl, bh)) = (of(a), of(b));
                match op {
                    Bin::Add => (al + bl, ah + bh),
                    Bin::Sub => (al - bh, ah - bl),
                    // A floor times its divisor is at most what was divided, and 0 where the divisor is.
                    Bin::Mul if let Some((x, by)) = self.floored(*a, *b).filter(|f| of(&f.1).0 >= 0) => {
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
                Un::CsrBegin(map) => (0, launch.entries(map.0 as usize)),
                _ => (-1, len),
            },
            Node::DrawAt(..) => (-1, len),
            _ => (0, 0),
        }
    }
}
