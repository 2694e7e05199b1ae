//! The verifier: what every plan must keep after every pass, and the only maker of [`VerifiedPlan`].
//!
//! Rules: (1) tile sizes are ones that kernels have; (2) every expression has the kind its place asks
//! for and lies in the arena; (3) it reads only what is known there: a row set `Q`, a tile set `QLo` and
//! `QHi`, both the loops around them, only filters `K`, only modifiers `Score`, only null biases `Slot`;
//! (4) loop variables are bound once and before use, steps are at least 1; (5) combs have
//! `1 <= width <= period` and neither reads a query; (6) a tile set has one piece for each of its row set,
//! with its loops or none and at most its combs, and claims nothing for certain where there is a filter;
//! (7) numberings are over what there is; (8) a stage comes after those that make what it reads, and a selection walks the
//! rows of its table.
//! A broken rule is a mistake of a pass, never of a user.

use attnc_pattern::expr::{ExprId, OrderId, Ty, Var};
use attnc_pattern::program::Budget;
use attnc_pattern::rowset::{Piece, TilePiece};

use crate::inplace::InPlace;
use crate::plan::{Entry, Plan, View};

/// A plan that the verifier has passed. Back ends take nothing else.
#[derive(Clone, Debug)]
pub struct VerifiedPlan(Plan);

impl std::ops::Deref for VerifiedPlan {
    type Target = Plan;
    fn deref(&self) -> &Plan {
        &self.0
    }
}

/// Why a plan was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that does not hold, and where.
    pub rule: String,
}

/// How far a plan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Row sets are there.
    Rows,
    /// Tile sets are there.
    Tiles,
}

/// Whether a finished plan keeps every rule.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify(plan: &Plan) -> Result<(), Refusal> {
    check(plan, Stage::Tiles)
}

/// Makes the witness.
pub(crate) fn seal(plan: Plan) -> Result<VerifiedPlan, (Box<Plan>, Refusal)> {
    match check(&plan, Stage::Tiles) {
        Ok(()) => Ok(VerifiedPlan(plan)),
        Err(refusal) => Err((Box::new(plan), refusal)),
    }
}

/// Checks every rule that a plan at `stage` must keep.
pub(crate) fn check(plan: &Plan, stage: Stage) -> Result<(), Refusal> {
    let c = Checker { plan };
    c.expr("require", plan.require, Ty::Bool, launch)?;
    if plan.stages.is_empty() {
        return refuse("a plan has at least one stage");
    }
    stages_in_order(plan)?;
    for choose in &plan.chooses {
        let select = plan.program.select(choose.select);
        c.expr("capacity", select.capacity, Ty::Int, launch)?;
        for listed in choose.scored.iter().flat_map(|s| s.sampled.iter().chain(&s.listed)) {
            c.expr("items", listed.set, Ty::Bool, |v| launch(v) || v == Var::K)?;
        }
        match (&choose.scored, &select.budget) {
            (None, Budget::Nearest(_)) => {}
            (None, _) if choose.energy.is_some() => {}
            (Some(s), _) if s.walk.view == View::Rows => {}
            _ => return refuse("a selection takes the nearest, or walks the rows of its table"),
        }
    }
    if let Some(takes) = plan.rows.as_ref().and_then(InPlace::takes) {
        c.expr("queries of a branch", takes.set, Ty::Bool, |v| launch(v) || v == Var::K)?;
    }
    if plan.rows.is_some() && plan.stages.iter().any(|s| s.view != View::Rows) {
        return refuse("what stands in place of queries is walked as it is listed");
    }
    let scored = plan.chooses.iter().filter_map(|c| c.scored.as_ref()).map(|s| &s.walk);
    for s in scored.chain(&plan.stages) {
        match s.view {
            View::Classes(modulus) => {
                c.expr("modulus", modulus, Ty::Int, launch)?;
                if plan.program.exprs.as_int(modulus).is_some_and(|m| m < 1) {
                    return refuse("a modulus is at least 1");
                }
            }
            View::Walk(order) if !c.has(order) => return refuse("a walk by an order that is not there"),
            View::Ordered { queries, keys } if !c.has(queries) || !c.has(keys) => {
                return refuse("a numbering by an order that is not there");
            }
            _ => {}
        }
        if s.tile.k != 64 || s.tile.q == 0 || s.tile.q > 64 || !s.tile.q.is_multiple_of(16) {
            return refuse(format!("tile {} x {}: queries are 16, 32, 48 or 64, keys 64", s.tile.q, s.tile.k));
        }
        if s.own && !plan.may_own(s) {
            return refuse(
                "queries go one by one where scores are used as they are, and few have no code of their own",
            );
        }
        c.expr("scale", s.scale, Ty::Real, launch)?;
        if let Some(score) = s.score {
            c.expr("score", score, Ty::Real, |v| pair(v) || v == Var::Score)?;
        }
        for entry in &s.entries {
            match entry {
                Entry::Null { slots, bias } => {
                    if *slots < 0 {
                        return refuse("a negative number of null slots");
                    }
                    if let Some(b) = bias {
                        c.expr("null bias", *b, Ty::Real, |v| row(v) || v == Var::Slot)?;
                    }
                }
                Entry::Tokens { set, rows, tiles, bias } => {
                    c.expr("set", *set, Ty::Bool, pair)?;
                    if let Some(b) = bias {
                        c.expr("bias", *b, Ty::Real, pair)?;
                    }
                    for p in &rows.pieces {
                        c.piece(p)?;
                    }
                    if stage == Stage::Tiles && !s.view.is_listed() {
                        if tiles.pieces.len() != rows.pieces.len() {
                            return refuse("a tile set has one piece for each of its row set");
                        }
                        for (r, t) in rows.pieces.iter().zip(&tiles.pieces) {
                            c.tile_piece(r, t)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Every stage comes after those that it reads.
fn stages_in_order(plan: &Plan) -> Result<(), Refusal> {
    let graph = plan.graph();
    // Nodes are numbered in the order in which stages run.
    let ascends = |edge| graph.edge_endpoints(edge).is_some_and(|(from, to)| from < to);
    if graph.edge_indices().all(ascends) { Ok(()) } else { refuse("a stage reads what is made after it") }
}

/// Known for a whole launch of a head.
fn launch(v: Var) -> bool {
    !matches!(v, Var::Q | Var::K | Var::Score | Var::Slot | Var::Loop(_) | Var::QLo | Var::QHi)
}

/// Known for a query.
fn row(v: Var) -> bool {
    launch(v) || v == Var::Q
}

/// Known for a pair.
fn pair(v: Var) -> bool {
    row(v) || v == Var::K
}

/// Known for a tile of queries.
fn tile(v: Var) -> bool {
    launch(v) || matches!(v, Var::QLo | Var::QHi)
}

fn refuse<T>(rule: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { rule: rule.into() })
}

struct Checker<'a> {
    plan: &'a Plan,
}

impl Checker<'_> {
    fn has(&self, order: OrderId) -> bool {
        (order.0 as usize) < self.plan.program.orders.len()
    }

    fn expr(&self, what: &str, id: ExprId, ty: Ty, known: impl Fn(Var) -> bool) -> Result<(), Refusal> {
        let exprs = &self.plan.program.exprs;
        if id.0 as usize >= exprs.len() {
            return refuse(format!("{what}: no such expression"));
        }
        if exprs.ty(id) != ty {
            return refuse(format!("{what}: expected {ty:?}, found {:?}", exprs.ty(id)));
        }
        if exprs.reads(id, |v| !known(v)) {
            return refuse(format!("{what}: reads what is not known there"));
        }
        Ok(())
    }

    fn piece(&self, p: &Piece) -> Result<(), Refusal> {
        let mut bound: Vec<u32> = Vec::new();
        for l in &p.loops {
            let known = |v| row(v) || matches!(v, Var::Loop(n) if bound.contains(&n));
            for e in [l.lo, l.hi, l.phase] {
                self.expr("loop bound", e, Ty::Int, known)?;
            }
            if let Some((base, stride)) = l.span {
                self.expr("loop span", base, Ty::Int, known)?;
                self.expr("loop span", stride, Ty::Int, known)?;
            }
            if l.step < 1 {
                return refuse("a loop steps by at least 1");
            }
            if bound.contains(&l.var) {
                return refuse(format!("loop variable {} is bound twice", l.var));
            }
            bound.push(l.var);
        }
        let known = |v| row(v) || matches!(v, Var::Loop(n) if bound.contains(&n));
        if let Some(g) = p.guard {
            self.expr("guard", g, Ty::Bool, known)?;
        }
        self.expr("start", p.start, Ty::Int, known)?;
        self.expr("end", p.end, Ty::Int, known)?;
        if let Some(f) = p.filter {
            self.expr("filter", f, Ty::Bool, |v| known(v) || v == Var::K)?;
        }
        for comb in &p.combs {
            self.comb(comb.period, comb.width)?;
            self.expr("comb phase", comb.phase, Ty::Int, known)?;
        }
        Ok(())
    }

    fn comb(&self, period: ExprId, width: ExprId) -> Result<(), Refusal> {
        self.expr("comb period", period, Ty::Int, launch)?;
        self.expr("comb width", width, Ty::Int, launch)?;
        let exprs = &self.plan.program.exprs;
        if let (Some(p), Some(w)) = (exprs.as_int(period), exprs.as_int(width))
            && !(1 <= w && w <= p)
        {
            return refuse(format!("a comb of width {w} in period {p}"));
        }
        Ok(())
    }

    fn tile_piece(&self, r: &Piece, t: &TilePiece) -> Result<(), Refusal> {
        // Without loops it says that any key may be meant.
        if !(t.loops.is_empty() || t.loops.len() == r.loops.len()) || t.combs.len() > r.combs.len() {
            return refuse("a tile piece has the loops of its row piece, or none, and no comb more");
        }
        if r.filter.is_some() && t.must.is_some() {
            return refuse("a filtered piece claims nothing for certain");
        }
        let mut bound: Vec<u32> = Vec::new();
        for l in &t.loops {
            let known = |v| tile(v) || matches!(v, Var::Loop(n) if bound.contains(&n));
            for e in [l.lo, l.hi, l.must_lo, l.must_hi, l.phase] {
                self.expr("tile loop bound", e, Ty::Int, known)?;
            }
            if l.step < 1 || bound.contains(&l.var) {
                return refuse("a tile loop steps by at least 1 and binds a new variable");
            }
            bound.push(l.var);
        }
        let known = |v| tile(v) || matches!(v, Var::Loop(n) if bound.contains(&n));
        if let Some(g) = t.guard {
            self.expr("tile guard", g, Ty::Bool, known)?;
        }
        self.expr("tile start", t.start, Ty::Int, known)?;
        self.expr("tile end", t.end, Ty::Int, known)?;
        if let Some(m) = &t.must {
            if let Some(g) = m.guard {
                self.expr("must guard", g, Ty::Bool, known)?;
            }
            self.expr("must start", m.start, Ty::Int, known)?;
            self.expr("must end", m.end, Ty::Int, known)?;
        }
        for comb in &t.combs {
            self.comb(comb.period, comb.width)?;
            self.expr("comb phase", comb.phase_lo, Ty::Int, known)?;
            self.expr("comb phase", comb.phase_hi, Ty::Int, known)?;
        }
        Ok(())
    }
}
