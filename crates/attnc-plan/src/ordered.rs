//! Stages that number queries and keys by their index in declared orders.
//!
//! `along z { .. }` speaks of places in an order, and so of scattered positions: in the numbering by index the same
//! set is what was written inside the braces, with closed ends and full tiles. What a set says of positions besides
//! (`causal`, `same doc`, coordinates) becomes a test of pairs, but for ends of segments, which an order keeps. Parts
//! of a union that only positions describe well stay in a stage of their own, and this stage leaves their pairs out.
//! Nothing here knows of targets or of sizes at run time.

use attnc_pattern::analysis;
use attnc_pattern::expr::{Cmp, ExprId, Exprs, Extent, Node, OrderId, Un, Var};
use attnc_pattern::program::{OrderKind, Program};
use attnc_pattern::rowset::{Piece, TileSet};
use rustc_hash::FxHashMap;

use crate::plan::{Attend, Entry, View};

/// Most parts that a union is taken apart into.
const MOST_ARMS: usize = 16;

/// The stage as stages in the given order and in those that its sets are written along; one stage if `whole` asks for
/// it. `None` where nothing is written along an order or nothing is won.
pub(crate) fn ordered(program: &mut Program, stage: &Attend, whole: bool) -> Option<Vec<Attend>> {
    let numbering = Numbering::of(program, stage)?;
    let (mut given, mut apart) = (Vec::new(), Vec::new());
    for entry in &stage.entries {
        let Entry::Tokens { set, bias, .. } = entry else {
            given.push(entry.clone());
            continue;
        };
        let Some((ours, rest)) = numbering.parted(&mut program.exprs, *set) else {
            given.push(entry.clone());
            continue;
        };
        let exprs = &mut program.exprs;
        let mut own = exprs.or(ours);
        let not_rest = (!rest.is_empty()).then(|| {
            let rest: Vec<ExprId> = rest.iter().map(|&arm| numbering.numbered(exprs, arm)).collect();
            let rest = exprs.or(rest);
            exprs.not(rest)
        });
        let mut rows = analysis::row_set(program, own, analysis::Role::Row).rows;
        if rows.pieces.iter().any(|p| tests_all(&mut program.exprs, p)) {
            return None;
        }
        if let Some(not_rest) = not_rest {
            let exprs = &mut program.exprs;
            own = exprs.and([own, not_rest]);
            for piece in &mut rows.pieces {
                piece.filter = Some(exprs.and(piece.filter.into_iter().chain([not_rest])));
            }
        }
        let own_bias = bias.map(|b| numbering.numbered(&mut program.exprs, b));
        apart.push(Entry::Tokens { set: own, rows, tiles: TileSet::default(), bias: own_bias });
        if !rest.is_empty() {
            let set = program.exprs.or(rest);
            let rows = analysis::row_set(program, set, analysis::Role::Row).rows;
            given.push(Entry::Tokens { set, rows, tiles: TileSet::default(), bias: *bias });
        }
    }
    if apart.is_empty() {
        return None;
    }
    let exprs = &mut program.exprs;
    // Null slots alone are no reason for a stage.
    if given.iter().all(|e| matches!(e, Entry::Null { .. })) {
        for entry in given.drain(..) {
            if let Entry::Null { slots, bias } = entry {
                apart.push(Entry::Null { slots, bias: bias.map(|b| numbering.numbered(exprs, b)) });
            }
        }
    }
    if whole && !given.is_empty() {
        return None;
    }
    let apart = Attend {
        view: View::Ordered { queries: numbering.queries, keys: numbering.keys },
        scale: numbering.numbered(exprs, stage.scale),
        score: stage.score.map(|s| numbering.numbered(exprs, s)),
        entries: apart,
        ..stage.clone()
    };
    let mut stages = vec![apart];
    if !given.is_empty() {
        stages.insert(0, Attend { entries: given, ..stage.clone() });
    }
    Some(stages)
}

/// Whether every key there is would be tested.
fn tests_all(exprs: &mut Exprs, piece: &Piece) -> bool {
    let (start, n) = (exprs.var(Var::KStart), exprs.var(Var::NK));
    let end = exprs.add(start, n);
    piece.filter.is_some() && piece.loops.is_empty() && piece.combs.is_empty() && (piece.start, piece.end) == (start, end)
}

/// Which orders number queries and keys.
struct Numbering {
    queries: OrderId,
    keys: OrderId,
    /// Positions that no order moves anything across: the ends of segments.
    ends: Vec<ExprId>,
}

impl Numbering {
    /// The first orders of queries and keys that a set of the stage is written along, unless they change nothing.
    fn of(program: &mut Program, stage: &Attend) -> Option<Numbering> {
        let sets = stage.entries.iter().filter_map(|e| match e {
            Entry::Tokens { set, .. } => Some(*set),
            Entry::Null { .. } => None,
        });
        let sets: Vec<ExprId> = sets.collect();
        let Program { exprs, space, orders, .. } = program;
        let along = |var: Var| {
            let of = |id: ExprId| match *exprs.node(id) {
                Node::Un(Un::OrderIndex(o), x) if *exprs.node(x) == Node::Var(var) => Some(o),
                _ => None,
            };
            exprs.reachable(&sets).into_iter().find_map(of)
        };
        let keys = along(Var::K)?;
        let queries = along(Var::Q).unwrap_or(keys);
        let moves = |o: OrderId| {
            let order = &orders[o.0 as usize];
            let own = order.segment.map(|s| &space.segments[s].axes);
            !matches!(&order.kind, OrderKind::Raster(axes) if Some(axes) == own)
        };
        if !moves(keys) && !moves(queries) {
            return None;
        }
        let mut ends = Vec::new();
        if [queries, keys].iter().all(|o| orders[o.0 as usize].segment.is_some()) {
            for segment in &space.segments {
                ends.extend([segment.begin, exprs.add(segment.begin, segment.len)]);
            }
        }
        Some(Numbering { queries, keys, ends })
    }

    /// An expression over indices.
    fn numbered(&self, exprs: &mut Exprs, root: ExprId) -> ExprId {
        let (q, k) = (exprs.var(Var::Q), exprs.var(Var::K));
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in exprs.reachable(&[root]) {
            let made = match *exprs.node(id) {
                Node::Var(Var::Q) => exprs.un(Un::OrderPosition(self.queries), q),
                Node::Var(Var::K) => exprs.un(Un::OrderPosition(self.keys), k),
                Node::Var(Var::QStart) => exprs.var(Var::Given(Extent::QStart)),
                Node::Var(Var::KStart) => exprs.var(Var::Given(Extent::KStart)),
                Node::Var(Var::NQ) => exprs.var(Var::Given(Extent::NQ)),
                Node::Var(Var::NK) => exprs.var(Var::Given(Extent::NK)),
                Node::Un(Un::OrderIndex(o), x) if (o, x) == (self.queries, q) => q,
                Node::Un(Un::OrderIndex(o), x) if (o, x) == (self.keys, k) => k,
                // A position is before the end of a segment if its index is.
                Node::Cmp(Cmp::Lt, a, b) if (a == q || a == k) && self.ends.contains(&b) => exprs.lt(a, new[&b]),
                Node::Cmp(Cmp::Le, a, b) if (b == q || b == k) && self.ends.contains(&a) => exprs.le(new[&a], b),
                _ => {
                    let operands: Vec<ExprId> = exprs.operands(id).iter().map(|o| new[o]).collect();
                    exprs.rebuild(id, &operands)
                }
            };
            new.insert(id, made);
        }
        new[&root]
    }

    /// The parts of a union that are closed in the numbering, as expressions over indices, and the other parts as they
    /// are. `None` if no part is written along the orders.
    fn parted(&self, exprs: &mut Exprs, set: ExprId) -> Option<(Vec<ExprId>, Vec<ExprId>)> {
        let k = exprs.var(Var::K);
        let arms = arms(exprs, set).unwrap_or_else(|| vec![set]);
        let (mut ours, mut rest, mut some) = (Vec::new(), Vec::new(), false);
        for arm in arms {
            let index = exprs.un(Un::OrderIndex(self.keys), k);
            let along = reads(exprs, arm, index);
            let numbered = self.numbered(exprs, arm);
            let position = exprs.un(Un::OrderPosition(self.keys), k);
            if along || !reads(exprs, numbered, position) {
                ours.push(numbered);
            } else {
                rest.push(arm);
            }
            some |= along;
        }
        some.then_some((ours, rest))
    }
}

/// Whether an expression has another in it.
fn reads(exprs: &Exprs, root: ExprId, what: ExprId) -> bool {
    exprs.reachable(&[root]).binary_search(&what).is_ok()
}

/// A predicate as a union, conjunctions taken apart; `None` if that makes too many parts.
fn arms(exprs: &mut Exprs, set: ExprId) -> Option<Vec<ExprId>> {
    let found = match exprs.node(set).clone() {
        Node::Or(xs) => {
            let mut all = Vec::new();
            for x in xs {
                all.extend(arms(exprs, x)?);
            }
            all
        }
        Node::And(xs) => {
            let mut all = vec![exprs.bool(true)];
            for x in xs {
                let more = arms(exprs, x)?;
                if all.len() * more.len() > MOST_ARMS {
                    return None;
                }
                let pairs: Vec<(ExprId, ExprId)> =
                    all.iter().flat_map(|&a| more.iter().map(move |&b| (a, b))).collect();
                all = pairs.into_iter().map(|(a, b)| exprs.and([a, b])).collect();
            }
            all
        }
        _ => vec![set],
    };
    (found.len() <= MOST_ARMS).then_some(found)
}
