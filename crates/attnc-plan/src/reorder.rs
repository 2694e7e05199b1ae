//! The `reorder` pass: what is sparse in the given order and dense in another runs in the other.
//!
//! Sets that are written along an order run in it ([`crate::ordered`]). Two more numberings pay on their own. Keys a multiple of m away from their query (dilated, strided, diagonals) are
//! a dense band in the *class* of positions with the query's residue: such pieces become a stage over classes,
//! less what the other pieces hold, so that no pair counts twice. Neighbourhoods on a grid overlap most for queries
//! of a small box: their stage *walks* queries box by box. Nothing here knows of targets or of sizes at run time.

use std::sync::Arc;

use attnc_pattern::analysis::{self, Note};
use attnc_pattern::expr::{Bin, Cmp, ExprId, Exprs, Extent, Node, OrderId, Var};
use attnc_pattern::program::{Empty, Order, OrderKind, Program};
use attnc_pattern::rowset::{Piece, RowSet, TileSet};

use crate::choice::Machine;
use crate::cost::PANEL;
use crate::ordered::{along, permuted, queries_along};
use crate::passes::Options;
use crate::plan::{Attend, Entry, Plan, Role, View};

pub(crate) fn reorder(plan: &mut Plan, options: &Options, _: &mut Vec<Note>) {
    // Rows without entries are looked for stage by stage: a row may be empty in one of two.
    let whole = plan.empty == Some(Empty::Error);
    let program = Arc::make_mut(&mut plan.program);
    let given = |s: &Attend| s.role == Role::RowWalk && s.view == View::Given && s.reads.q.is_none();
    let mut reordered = Vec::with_capacity(plan.stages.len());
    for mut stage in plan.stages.drain(..) {
        match stage.reads.kv {
            _ if !given(&stage) => reordered.push(stage),
            None => reordered.extend(in_orders(program, stage, whole, options.machine.as_ref())),
            // Slots of a level lie in the order that the level has; queries that share slots lie apart.
            Some(_) => {
                stage.view = queries_along(program, &stage).map_or(View::Given, View::Walk);
                reordered.push(stage);
            }
        }
    }
    plan.stages = reordered;
}

/// A stage over tokens as stages in the orders in which their sets are dense.
fn in_orders(program: &mut Program, stage: Attend, whole: bool, machine: Option<&Machine>) -> Vec<Attend> {
    let mut stages = vec![stage];
    for found in [along, permuted, classes] {
        // What is left in the given order may be dense in the next.
        let Some(at) = stages.iter().position(|s| s.view == View::Given) else { break };
        let orders = program.orders.len();
        let Some(more) = found(program, &stages[at], whole) else { continue };
        if machine.is_some_and(|machine| dearer(machine, program, &stages[at], &more)) {
            program.orders.truncate(orders);
        } else {
            stages.splice(at..=at, more);
        }
    }
    for stage in stages.iter_mut().filter(|s| s.view == View::Given) {
        if let Some(order) = boxes(program, stage) {
            stage.view = View::Walk(order);
        }
    }
    stages
}

/// Whether stages over classes of fewer than [`PANEL`] residues are predicted to take no less than the given one: a few
/// keys a class are visited sooner beside those of the others. With more residues each query of a panel has keys of its
/// own in the given order, and nothing is asked. What cannot be counted before it runs, or takes longer to count than a
/// plan may, is not dearer.
fn dearer(machine: &Machine, program: &Program, given: &Attend, others: &[Attend]) -> bool {
    let few = |s: &Attend| match s.view {
        View::Classes(modulus) => program.exprs.as_int(modulus).is_some_and(|m| m < PANEL as i64),
        _ => false,
    };
    if !others.iter().any(few) {
        return false;
    }
    let Some(given) = machine.least(program, given) else { return false };
    let others: Option<f64> = others.iter().map(|stage| machine.least(program, stage)).sum();
    others.is_some_and(|others| others >= given)
}

/// The modulus by which a piece keeps to the query's class: the largest constant, else one that is known when run.
fn modulus(exprs: &mut Exprs, stage: &Attend) -> Option<ExprId> {
    let pieces = stage.entries.iter().flat_map(Entry::pieces);
    let found: Vec<ExprId> = pieces.filter_map(|p| class_of(exprs, p)).collect();
    found.iter().copied().max_by_key(|&m| exprs.as_int(m)).or_else(|| found.first().copied())
}

/// m, if a piece holds only keys that are a multiple of m away from the query.
fn class_of(exprs: &mut Exprs, piece: &Piece) -> Option<ExprId> {
    let [comb] = piece.combs.as_slice() else { return None };
    let width = exprs.as_int(comb.width)?;
    if !piece.loops.is_empty()
        || piece.filter.is_some()
        || width != 1
        || exprs.as_int(comb.period).is_some_and(|p| p < 2)
    {
        return None;
    }
    let q = exprs.var(Var::Q);
    let ahead = exprs.sub(comb.phase, q);
    // A period that is known when run divides 0.
    let ahead = if exprs.as_int(ahead) == Some(0) { ahead } else { exprs.modulo(ahead, comb.period) };
    (exprs.as_int(ahead) == Some(0)).then_some(comb.period)
}

/// The stage as given, without the pieces that keep to classes, and a stage of these. `None` if either has no
/// closed form, and for a single stage.
fn classes(program: &mut Program, stage: &Attend, whole: bool) -> Option<Vec<Attend>> {
    let modulus = modulus(&mut program.exprs, stage).filter(|_| !whole)?;
    let (mut given, mut apart) = (Vec::new(), Vec::new());
    for entry in &stage.entries {
        let Entry::Tokens { set, rows, bias, .. } = entry else {
            given.push(entry.clone());
            continue;
        };
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for piece in &rows.pieces {
            if class_of(&mut program.exprs, piece) == Some(modulus) {
                // In a class the comb says nothing.
                ours.push(Piece { combs: vec![], ..piece.clone() });
            } else {
                others.push(piece.clone());
            }
        }
        if ours.is_empty() {
            given.push(entry.clone());
            continue;
        }
        let exprs = &mut program.exprs;
        let of_class = any(exprs, &ours)?;
        let rest = any(exprs, &others)?;
        let not_rest = exprs.not(rest);
        let own = exprs.and([of_class, not_rest]);
        let own = in_class(exprs, own, modulus);
        let found = analysis::row_set(program, own, analysis::Role::Row);
        if !found.exact {
            return None;
        }
        let own_bias = bias.map(|b| in_class(&mut program.exprs, b, modulus));
        apart.push(Entry::Tokens { set: own, rows: found.rows, tiles: TileSet::default(), bias: own_bias });
        if !others.is_empty() {
            let rows = RowSet { pieces: others };
            given.push(Entry::Tokens { set: *set, rows, tiles: TileSet::default(), bias: *bias });
        }
    }
    let exprs = &mut program.exprs;
    let apart = Attend {
        view: View::Classes(modulus),
        scale: in_class(exprs, stage.scale, modulus),
        score: stage.score.map(|s| in_class(exprs, s, modulus)),
        entries: apart,
        ..stage.clone()
    };
    let mut stages = vec![apart];
    if !given.is_empty() {
        stages.insert(0, Attend { entries: given, ..stage.clone() });
    }
    Some(stages)
}

/// The predicate of pieces without loops.
pub(crate) fn any(exprs: &mut Exprs, pieces: &[Piece]) -> Option<ExprId> {
    let (k, k_start) = (exprs.var(Var::K), exprs.var(Var::KStart));
    let mut arms = Vec::new();
    for piece in pieces {
        if !piece.loops.is_empty() {
            return None;
        }
        let mut all: Vec<ExprId> = piece.guard.iter().chain(&piece.filter).copied().collect();
        // What every key satisfies says nothing.
        if piece.start != k_start {
            all.push(exprs.le(piece.start, k));
        }
        if !is_end(exprs, piece.end) {
            all.push(exprs.lt(k, piece.end));
        }
        for comb in &piece.combs {
            let ahead = exprs.sub(k, comb.phase);
            let ahead = exprs.modulo(ahead, comb.period);
            all.push(exprs.cmp(Cmp::Lt, ahead, comb.width));
        }
        arms.push(exprs.and(all));
    }
    Some(exprs.or(arms))
}

/// Whether an expression is one past the last key.
pub(crate) fn is_end(exprs: &Exprs, e: ExprId) -> bool {
    let is = |e: ExprId, v: Var| *exprs.node(e) == Node::Var(v);
    let Node::Bin(Bin::Add, a, b) = *exprs.node(e) else { return false };
    (is(a, Var::KStart) && is(b, Var::NK)) || (is(a, Var::NK) && is(b, Var::KStart))
}

/// An expression over the positions of one class.
fn in_class(exprs: &mut Exprs, expr: ExprId, modulus: ExprId) -> ExprId {
    // What is known when run is one number to the analysis, whatever it is made of.
    let modulus = if exprs.as_int(modulus).is_some() { modulus } else { exprs.var(Var::Modulus) };
    exprs.substitute(expr, |e, v| {
        Some(match v {
            Var::Q | Var::K => {
                let (at, class) = (e.var(v), e.var(Var::Class));
                let at = e.mul(modulus, at);
                e.add(at, class)
            }
            Var::QStart => e.var(Var::Given(Extent::QStart)),
            Var::KStart => e.var(Var::Given(Extent::KStart)),
            Var::NQ => e.var(Var::Given(Extent::NQ)),
            Var::NK => e.var(Var::Given(Extent::NK)),
            _ => return None,
        })
    })
}

/// Queries of a tile.
const TILE: usize = 64;

/// An order of boxes of [`TILE`] cells, if the stage holds neighbourhoods on the grid of one segment.
fn boxes(program: &mut Program, stage: &Attend) -> Option<OrderId> {
    // A loop over rows of a grid advances by the positions of a row.
    let stride = stage.entries.iter().find_map(|e| match e {
        Entry::Tokens { rows, .. } => rows.pieces.iter().flat_map(|p| &p.loops).find_map(|l| l.span.map(|s| s.1)),
        Entry::Null { .. } => None,
    })?;
    let space = &program.space;
    let at = space.axes.iter().position(|a| a.stride == stride)?;
    let segment = space.axes[at].segment;
    let reads_runtime = stage.entries.iter().any(|e| match e {
        Entry::Tokens { rows, .. } => rows.pieces.iter().any(|p| p.filter.is_some()),
        Entry::Null { .. } => false,
    });
    if reads_runtime {
        return None;
    }
    let distances = distances(program, stage, segment);
    let axes = &program.space.segments[segment].axes;
    let sides: &[i64] = match axes.len() {
        2 => &[8, 8],
        3 => &[4, 4, 4],
        _ => return None,
    };
    debug_assert_eq!(sides.iter().product::<i64>(), TILE as i64);
    let tiles = axes.iter().copied().zip(sides.iter().copied());
    let named = tiles.clone().zip(&distances).map(|((axis, side), distance)| {
        let name = &program.axis(axis).name;
        if *distance == 1 { format!("{name} = {side}") } else { format!("{name} = {side} step {distance}") }
    });
    let name = format!("tile({})", named.collect::<Vec<_>>().join(", "));
    // Boxes follow one another so that the rows of K and V of neighbours stay in a cache, whatever the sides of the grid.
    let kind = OrderKind::Spread(tiles.zip(distances).map(|((axis, side), distance)| (axis, side, distance)).collect());
    program.orders.push(Order { name, segment: Some(segment), kind, span: Default::default() });
    Some(OrderId(program.orders.len() as u32 - 1))
}

/// How far apart the keys of a neighbourhood are on each axis of a segment: cells of one residue share keys.
fn distances(program: &Program, stage: &Attend, segment: usize) -> Vec<i64> {
    let axes = &program.space.segments[segment].axes;
    let pieces = stage.entries.iter().flat_map(Entry::pieces);
    let mut distances = vec![i64::MAX; axes.len()];
    for piece in pieces.filter(|p| !p.loops.is_empty() && p.loops.iter().all(|l| l.span.is_some())) {
        let inner = match piece.combs.as_slice() {
            [comb] if program.exprs.as_int(comb.width) == Some(1) => program.exprs.as_int(comb.period).unwrap_or(1),
            _ => 1,
        };
        let steps = piece.loops.iter().map(|l| l.step).chain([inner]).chain(std::iter::repeat(1));
        for (distance, step) in distances.iter_mut().zip(steps) {
            *distance = (*distance).min(step);
        }
    }
    distances.into_iter().map(|d| if d == i64::MAX { 1 } else { d }).collect()
}
