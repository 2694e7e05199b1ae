//! The `reorder` pass: what is sparse in the given order and dense in another runs in the other.
//!
//! Two numberings pay on their own. Keys a multiple of m away from their query (dilated, strided, diagonals) are
//! a dense band in the *class* of positions with the query's residue: such pieces become a stage over classes,
//! less what the other pieces hold, so that no pair counts twice. Neighbourhoods on a grid overlap most for queries
//! of a small box: their stage *walks* queries box by box. Nothing here knows of targets or of sizes at run time.

use std::sync::Arc;

use attnc_pattern::analysis::{self, Note};
use attnc_pattern::expr::{Cmp, ExprId, Exprs, Extent, OrderId, Var};
use attnc_pattern::program::{Empty, Order, OrderKind, Program};
use attnc_pattern::rowset::{Piece, RowSet, TileSet};

use crate::passes::Options;
use crate::plan::{Attend, Entry, Plan, Role, View};

pub(crate) fn reorder(plan: &mut Plan, _: &Options, _: &mut Vec<Note>) {
    let [stage] = plan.stages.as_slice() else { return };
    if stage.role != Role::RowWalk || stage.view != View::Given || plan.is_dynamic() {
        return;
    }
    // Rows without entries are looked for stage by stage: a row may be empty in one of two.
    if plan.empty != Some(Empty::Error)
        && let Some(modulus) = modulus(&mut Arc::make_mut(&mut plan.program).exprs, stage)
        && let Some(stages) = classes(Arc::make_mut(&mut plan.program), stage, modulus)
    {
        plan.stages = stages;
    }
    for stage in &mut plan.stages {
        if stage.view == View::Given
            && let Some(order) = boxes(Arc::make_mut(&mut plan.program), stage)
        {
            stage.view = View::Walk(order);
        }
    }
}

/// The largest modulus by which a piece keeps to the query's class.
fn modulus(exprs: &mut Exprs, stage: &Attend) -> Option<i64> {
    let pieces = stage.entries.iter().flat_map(|e| match e {
        Entry::Tokens { rows, .. } => rows.pieces.as_slice(),
        Entry::Null { .. } => &[],
    });
    pieces.filter_map(|p| class_of(exprs, p)).max()
}

/// m, if a piece holds only keys that are a multiple of m away from the query.
fn class_of(exprs: &mut Exprs, piece: &Piece) -> Option<i64> {
    let [comb] = piece.combs.as_slice() else { return None };
    let (period, width) = (exprs.as_int(comb.period)?, exprs.as_int(comb.width)?);
    if !piece.loops.is_empty() || piece.filter.is_some() || width != 1 || period < 2 {
        return None;
    }
    let q = exprs.var(Var::Q);
    let ahead = exprs.sub(comb.phase, q);
    let ahead = exprs.modulo(ahead, comb.period);
    (exprs.as_int(ahead) == Some(0)).then_some(period)
}

/// The stage as given, without the pieces that keep to classes, and a stage of these. `None` if either has no
/// closed form.
fn classes(program: &mut Program, stage: &Attend, modulus: i64) -> Option<Vec<Attend>> {
    let (mut given, mut apart) = (Vec::new(), Vec::new());
    for entry in &stage.entries {
        let Entry::Tokens { set, rows, bias, .. } = entry else {
            given.push(entry.clone());
            continue;
        };
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for piece in &rows.pieces {
            if class_of(&mut program.exprs, piece) == Some(modulus) { &mut ours } else { &mut others }
                .push(piece.clone());
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
fn any(exprs: &mut Exprs, pieces: &[Piece]) -> Option<ExprId> {
    let (k, k_start, n_k) = (exprs.var(Var::K), exprs.var(Var::KStart), exprs.var(Var::NK));
    let k_end = exprs.add(k_start, n_k);
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
        if piece.end != k_end {
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

/// An expression over the positions of one class.
fn in_class(exprs: &mut Exprs, expr: ExprId, modulus: i64) -> ExprId {
    exprs.substitute(expr, |e, v| {
        Some(match v {
            Var::Q | Var::K => {
                let (at, m, class) = (e.var(v), e.int(modulus), e.var(Var::Class));
                let at = e.mul(m, at);
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
    let axes = &space.segments[segment].axes;
    let reads_runtime = stage.entries.iter().any(|e| match e {
        Entry::Tokens { rows, .. } => rows.pieces.iter().any(|p| p.filter.is_some()),
        Entry::Null { .. } => false,
    });
    if reads_runtime {
        return None;
    }
    let sides: &[i64] = match axes.len() {
        2 => &[8, 8],
        3 => &[4, 4, 4],
        _ => return None,
    };
    debug_assert_eq!(sides.iter().product::<i64>(), TILE as i64);
    let tiles: Vec<_> = axes.iter().copied().zip(sides.iter().copied()).collect();
    let named: Vec<String> =
        tiles.iter().map(|(axis, side)| format!("{} = {side}", program.axis(*axis).name)).collect();
    let name = format!("tile({})", named.join(", "));
    program.orders.push(Order { name, segment: Some(segment), kind: OrderKind::Tile(tiles), span: Default::default() });
    Some(OrderId(program.orders.len() as u32 - 1))
}
