//! Proof that machine integers suffice: interval arithmetic over every expression of a plan.
//!
//! Positions and sizes are at most [`MAX_LEN`]; launches beyond it are refused. An expression that may
//! leave the range -2^62 .. 2^62 for such sizes is refused here, so that compiled code may wrap freely.
//! A back end with 32-bit integers asks again for each launch, whose lengths and sizes are known: [`fits_i32`].

use rustc_hash::FxHashMap;

use attnc_pattern::env::{Env, MapData};
use attnc_pattern::expr::{Bin, ExprId, Exprs, Extent, Node, Ty, Un, Var};
use attnc_pattern::program::Segment;
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
    let mut known: FxHashMap<ExprId, Bound> = FxHashMap::default();
    for id in bounds.exprs.reachable(roots) {
        if bounds.exprs.ty(id) != Ty::Int {
            continue;
        }
        let bound = bounds.bound(id, &known);
        let (lo, hi) = bound.range;
        if lo < -limit || hi > limit {
            return Err(id);
        }
        known.insert(id, bound);
    }
    Ok(())
}

/// Every stage that walks pairs.
fn walks(plan: &Plan) -> impl Iterator<Item = &Attend> {
    plan.chooses.iter().filter_map(|c| c.scored.as_ref()).map(|s| &s.walk).chain(&plan.stages)
}

/// What is known of an integer.
struct Bound {
    range: (i128, i128),
    share: Option<Share>,
}

/// It is not negative, and at most a number times the product of some extents, of different axes of one segment,
/// divided by that of others.
#[derive(Clone)]
struct Share {
    times: i128,
    of: Vec<ExprId>,
    by: Vec<ExprId>,
}

impl Share {
    /// A bound of the product.
    fn times(&self, other: &Share) -> Share {
        let (of, by) = ([&self.of[..], &other.of].concat(), [&self.by[..], &other.by].concat());
        Share { times: self.times.saturating_mul(other.times), of: without(&of, &by), by: without(&by, &of) }
    }

    /// A bound of what has both as bounds, numbers being joined.
    fn or(&self, other: &Share, join: impl Fn(i128, i128) -> i128) -> Share {
        let of = [&self.of[..], &without(&other.of, &self.of)].concat();
        let by = without(&self.by, &without(&self.by, &other.by));
        Share { times: join(self.times, other.times), of, by }
    }
}

/// The factors of `all` that are left when those of `some` are taken away.
fn without(all: &[ExprId], some: &[ExprId]) -> Vec<ExprId> {
    let mut left = all.to_vec();
    for factor in some {
        if let Some(at) = left.iter().position(|l| l == factor) {
            left.swap_remove(at);
        }
    }
    left
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
                let bound = bounds.bound(id, &known);
                known.insert(id, bound);
            }
        }
        let range = (known[&lo].range.0, known[&hi].range.1);
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
    /// Whether an expression is a length of the space, or an extent: launches refuse spaces beyond [`MAX_LEN`].
    fn is_length(&self, id: ExprId) -> bool {
        let space = &self.plan.program.space;
        let of_segment = |s: &Segment| s.begin == id || s.len == id;
        space.total == Some(id) || space.segments.iter().any(of_segment) || self.is_extent(id)
    }

    fn is_extent(&self, id: ExprId) -> bool {
        let space = &self.plan.program.space;
        space.segments.iter().flat_map(|s| &s.axes).any(|&axis| self.plan.program.axis(axis).extent == id)
    }

    /// The factors of a product of extents.
    fn factors(&self, id: ExprId) -> Option<Vec<ExprId>> {
        match *self.exprs.node(id) {
            _ if self.is_extent(id) => Some(vec![id]),
            Node::Bin(Bin::Mul, a, b) => Some([self.factors(a)?, self.factors(b)?].concat()),
            _ => None,
        }
    }

    /// A bound of an integer by extents, operands and their bounds being known. Every axis that is used has at least
    /// one coordinate, so that what is at most some extents is at most these and others, too.
    fn share(&self, id: ExprId, known: &FxHashMap<ExprId, Bound>) -> Option<Share> {
        let exprs = self.exprs;
        if self.is_extent(id) {
            return Some(Share { times: 1, of: vec![id], by: vec![] });
        }
        let of = |e: ExprId| known[&e].share.as_ref();
        let Node::Bin(op, a, b) = *exprs.node(id) else { return None };
        let found = match op {
            Bin::Mul => of(a)?.times(of(b)?),
            Bin::Add => of(a)?.or(of(b)?, |a, b| a.saturating_add(b)),
            Bin::Max => of(a)?.or(of(b)?, |a, b| a.max(b)),
            // Either is a bound: that by extents says more than that by a number.
            Bin::Min => [of(a), of(b)].into_iter().flatten().max_by_key(|s| (s.of.len(), -s.times))?.clone(),
            Bin::Sub if known[&b].range.0 >= 0 => of(a)?.clone(),
            Bin::Sub => return None,
            Bin::Mod => of(b)?.clone(),
            Bin::Div if known[&b].range.0 >= 1 => match (exprs.node(a), exprs.as_int(b)) {
                // An extent divided and rounded up.
                (&Node::Bin(Bin::Add, x, up), Some(b)) if exprs.as_int(up) == Some(b - 1) => of(x)?.clone(),
                _ => of(a)?.clone(),
            },
            Bin::Div => of(a)?.times(&Share { times: 1, of: vec![], by: self.factors(b)? }),
        };
        // Of one segment, and of each of its axes once: their product is a length.
        self.plan
            .program
            .space
            .segments
            .iter()
            .any(|segment| {
                let own: Vec<ExprId> = segment.axes.iter().map(|a| self.plan.program.axis(*a).extent).collect();
                without(&found.of, &own).is_empty()
            })
            .then_some(found)
    }

    /// What is known of one integer, operands being known.
    fn bound(&self, id: ExprId, known: &FxHashMap<ExprId, Bound>) -> Bound {
        let mut range = self.interval(id, known);
        if !matches!(self.launch, Known::Any) || self.plan.program.space.axes.is_empty() {
            return Bound { range, share: None };
        }
        let share = self.share(id, known);
        if let Some(share) = &share {
            let most = if share.of.is_empty() { 1 } else { self.launch.most() };
            range.1 = range.1.min(share.times.saturating_mul(most));
        }
        let plain = || Share { times: range.1, of: vec![], by: vec![] };
        Bound { range, share: (range.0 >= 0).then(|| share.unwrap_or_else(plain)) }
    }

    /// `x` and `b` of a product `(x / b) * b`.
    fn floored(&self, a: ExprId, b: ExprId) -> Option<(ExprId, ExprId)> {
        [(a, b), (b, a)].into_iter().find_map(|(quotient, by)| match *self.exprs.node(quotient) {
            Node::Bin(Bin::Div, x, d) if d == by => Some((x, by)),
            _ => None,
        })
    }

    /// Bounds of one integer, operands being known.
    fn interval(&self, id: ExprId, known: &FxHashMap<ExprId, Bound>) -> (i128, i128) {
        let Bounds { plan, exprs, loops, launch } = self;
        let len = launch.most();
        if matches!(launch, Known::Any) && exprs.as_int(id).is_none() && self.is_length(id) {
            return (0, len);
        }
        let of = |e: &ExprId| known[e].range;
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
                    Bin::Div if bl >= 0 => {
                        let (least, most) = (bl.max(1), bh.max(1));
                        let c = [al, ah].into_iter().flat_map(|a| [a.div_euclid(least), a.div_euclid(most)]);
                        // What is divided by 0 is 0.
                        let c = c.chain((bl == 0).then_some(0));
                        (c.clone().min().unwrap_or(0), c.max().unwrap_or(0))
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
