//! Stages that number queries and keys by their index in orders.
//!
//! `along z { .. }` speaks of places in an order, and so of scattered positions: in the numbering by index the same
//! set is what was written inside the braces, with closed ends and full tiles. What a set says of positions besides
//! (`causal`, `same doc`) becomes a test of pairs, but for ends of segments, which an order keeps. In the same way a
//! set that keeps to the query's coordinate on inner axes of a grid (the same place in every frame) is dense where
//! those axes are outermost: rasters in another nesting number a grid of the same axes, so that coordinates stay
//! closed. Parts of a union that only positions describe well stay in a stage of their own, and the numbered stage
//! leaves their pairs out. Nothing here knows of targets or of sizes at run time.

use attnc_pattern::analysis;
use attnc_pattern::expr::{AxisId, Bin, Cmp, ExprId, Exprs, Extent, Node, OrderId, Un, Var};
use attnc_pattern::program::{Axis, Order, OrderKind, Program, Space};
use attnc_pattern::rowset::{Piece, RowSet, TileSet};
use rustc_hash::FxHashMap;

use crate::plan::{Attend, Entry, View};
use crate::reorder::is_end;

/// Most parts that a union is taken apart into.
const MOST_ARMS: usize = 16;
/// Keys side by side on the innermost axis up to which another nesting is looked for.
const NARROW: i64 = 4;
/// Keys that follow one another in the other nesting from which on it is dense.
const WIDE: i64 = 32;

/// The stage as stages in the given order and in those that its sets are written along; one stage if `whole` asks for
/// it. `None` where nothing is written along an order or nothing is won.
pub(crate) fn along(program: &mut Program, stage: &Attend, whole: bool) -> Option<Vec<Attend>> {
    let numbering = Numbering::along(program, stage)?;
    let k = program.exprs.var(Var::K);
    let index = program.exprs.un(Un::OrderIndex(numbering.keys), k);
    stages(program, stage, whole, &numbering, |program, arm| match reads(&program.exprs, arm, index) {
        true => Fit::Own,
        false => Fit::Either,
    })
}

/// The stage as stages in the given order and in another nesting of the axes of a grid. `None` where no set keeps to
/// coordinates of inner axes.
pub(crate) fn permuted(program: &mut Program, stage: &Attend, whole: bool) -> Option<Vec<Attend>> {
    let nesting = stage.entries.iter().find_map(|e| match e {
        Entry::Tokens { rows, .. } => nesting_of(program, rows),
        Entry::Null { .. } => None,
    })?;
    let numbering = Numbering::nested(program, &nesting)?;
    let found = stages(program, stage, whole, &numbering, |program, arm| {
        let rows = analysis::row_set(program, arm, analysis::Role::Row).rows;
        if nesting_of(program, &rows).is_some_and(|n| n == nesting) { Fit::Closed } else { Fit::Other }
    });
    if found.is_none() {
        program.orders.pop();
    }
    found
}

/// How a part of a union is suited to a numbering.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It belongs there.
    Own,
    /// It belongs there if it is closed there.
    Closed,
    /// It may go there if it is closed there and nothing stays behind.
    Either,
    /// It does not.
    Other,
}

/// Stages in the given order and in a numbering.
fn stages(
    program: &mut Program,
    stage: &Attend,
    whole: bool,
    numbering: &Numbering,
    fit: impl Fn(&mut Program, ExprId) -> Fit,
) -> Option<Vec<Attend>> {
    let (mut given, mut apart) = (Vec::new(), Vec::new());
    for entry in &stage.entries {
        let Entry::Tokens { set, bias, .. } = entry else {
            given.push(entry.clone());
            continue;
        };
        let (ours, rest) = numbering.parted(program, *set, &fit);
        if ours.is_empty() {
            given.push(entry.clone());
            continue;
        }
        let (own, rows) = numbering.rows(program, &ours, &rest)?;
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

/// The order in which queries that share keys follow one another: the first that a set of the stage has queries along.
pub(crate) fn queries_along(program: &Program, stage: &Attend) -> Option<OrderId> {
    order_of(program, stage, Var::Q).filter(|&order| moves(program, order))
}

/// The first order by which a set of the stage numbers queries, or keys.
fn order_of(program: &Program, stage: &Attend, var: Var) -> Option<OrderId> {
    let exprs = &program.exprs;
    let sets = stage.entries.iter().filter_map(|e| match e {
        Entry::Tokens { set, .. } => Some(*set),
        Entry::Null { .. } => None,
    });
    let sets: Vec<ExprId> = sets.collect();
    let of = |id: ExprId| match *exprs.node(id) {
        Node::Un(Un::OrderIndex(o), x) if *exprs.node(x) == Node::Var(var) => Some(o),
        _ => None,
    };
    exprs.reachable(&sets).into_iter().find_map(of)
}

/// Whether an order is another than the given one.
fn moves(program: &Program, order: OrderId) -> bool {
    let order = program.order(order);
    let own = order.segment.map(|s| &program.space.segments[s].axes);
    !matches!(&order.kind, OrderKind::Raster(axes) if Some(axes) == own)
}

/// Which orders number queries and keys.
struct Numbering {
    queries: OrderId,
    keys: OrderId,
    /// Positions that no order moves anything across: the ends of segments.
    ends: Vec<ExprId>,
    /// Position of the query and of the key, over their indices.
    positions: [ExprId; 2],
    /// Coordinates of both, over positions and over indices.
    coordinates: FxHashMap<ExprId, ExprId>,
    /// The space as indices see it, if it is a grid of the same axes.
    space: Option<Space>,
}

impl Numbering {
    /// The first orders of queries and keys that a set of the stage is written along, unless they change nothing.
    fn along(program: &mut Program, stage: &Attend) -> Option<Numbering> {
        let keys = order_of(program, stage, Var::K)?;
        let queries = order_of(program, stage, Var::Q).unwrap_or(keys);
        if !moves(program, keys) && !moves(program, queries) {
            return None;
        }
        let Program { exprs, space, orders, .. } = program;
        let within = [queries, keys].iter().all(|o| orders[o.0 as usize].segment.is_some());
        let ends = if within { ends(exprs, space) } else { vec![] };
        let (q, k) = (exprs.var(Var::Q), exprs.var(Var::K));
        let positions = [exprs.un(Un::OrderPosition(queries), q), exprs.un(Un::OrderPosition(keys), k)];
        Some(Numbering { queries, keys, ends, positions, coordinates: FxHashMap::default(), space: None })
    }

    /// Another nesting of the axes of a segment, for queries and keys; it becomes an order of the program.
    fn nested(program: &mut Program, Nesting { segment, axes }: &Nesting) -> Option<Numbering> {
        let Program { exprs, space, orders, .. } = program;
        let mut nested = space.clone();
        nested.segments[*segment].axes.clone_from(axes);
        let mut stride = exprs.int(1);
        for &axis in axes.iter().rev() {
            nested.axes[axis.0 as usize].stride = stride;
            stride = exprs.mul(stride, space.axes[axis.0 as usize].extent);
        }
        let (begin, len) = (space.segments[*segment].begin, space.segments[*segment].len);
        let end = exprs.add(begin, len);
        let mut coordinates = FxHashMap::default();
        let variables = [Var::Q, Var::K].map(|v| exprs.var(v));
        let positions = variables.map(|at| {
            let mut position = begin;
            for &axis in axes {
                let Axis { stride, .. } = space.axes[axis.0 as usize];
                let here = coordinate(exprs, space, axis, at);
                let there = coordinate(exprs, &nested, axis, at);
                coordinates.insert(here, there);
                let offset = exprs.mul(there, stride);
                position = exprs.add(position, offset);
            }
            // Positions of other segments keep their places.
            let (from, to) = (exprs.le(begin, at), exprs.lt(at, end));
            let inside = exprs.and([from, to]);
            exprs.select(inside, position, at)
        });
        // A coordinate that is a sum is no part of others that could be found.
        if coordinates.keys().any(|&c| !matches!(exprs.node(c), Node::Bin(Bin::Div | Bin::Mod, ..))) {
            return None;
        }
        let names: Vec<&str> = axes.iter().map(|a| space.axes[a.0 as usize].name.as_str()).collect();
        let name = format!("raster({})", names.join(", "));
        let ends = ends(exprs, space);
        orders.push(Order {
            name,
            segment: Some(*segment),
            kind: OrderKind::Raster(axes.clone()),
            span: Default::default(),
        });
        let order = OrderId(orders.len() as u32 - 1);
        Some(Numbering { queries: order, keys: order, ends, positions, coordinates, space: Some(nested) })
    }

    /// An expression over indices.
    fn numbered(&self, exprs: &mut Exprs, root: ExprId) -> ExprId {
        let (q, k) = (exprs.var(Var::Q), exprs.var(Var::K));
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in exprs.reachable(&[root]) {
            let made = match *exprs.node(id) {
                _ if self.coordinates.contains_key(&id) => self.coordinates[&id],
                Node::Var(Var::Q) => self.positions[0],
                Node::Var(Var::K) => self.positions[1],
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

    /// The parts of a union that belong to the numbering, over indices, and the other parts as they are.
    fn parted(
        &self,
        program: &mut Program,
        set: ExprId,
        fit: &impl Fn(&mut Program, ExprId) -> Fit,
    ) -> (Vec<ExprId>, Vec<ExprId>) {
        let arms = arms(&mut program.exprs, set).unwrap_or_else(|| vec![set]);
        let (mut own, mut either, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for arm in arms {
            let fit = fit(program, arm);
            let numbered = self.numbered(&mut program.exprs, arm);
            let closed = !reads(&program.exprs, numbered, self.positions[1]);
            match fit {
                Fit::Own => own.push(numbered),
                Fit::Closed if closed => own.push(numbered),
                Fit::Either if closed => either.push((arm, numbered)),
                _ => rest.push(arm),
            }
        }
        if own.is_empty() {
            return (own, rest);
        }
        for (arm, numbered) in either {
            if rest.is_empty() { own.push(numbered) } else { rest.push(arm) }
        }
        (own, rest)
    }

    /// The set and the rows of parts over indices, less other parts over positions; `None` if all keys would be tested.
    fn rows(&self, program: &mut Program, ours: &[ExprId], rest: &[ExprId]) -> Option<(ExprId, RowSet)> {
        let exprs = &mut program.exprs;
        let ours = exprs.or(ours.iter().copied());
        let rest: Vec<ExprId> = rest.iter().map(|&arm| self.numbered(exprs, arm)).collect();
        let rest = exprs.or(rest);
        let not_rest = exprs.not(rest);
        let own = exprs.and([ours, not_rest]);
        // What is closed may be left out in closed form.
        if !reads(exprs, rest, self.positions[1]) {
            let found = self.analysed(program, own);
            if found.exact {
                return Some((own, found.rows));
            }
        }
        let mut rows = self.analysed(program, ours).rows;
        let exprs = &mut program.exprs;
        if rows.pieces.iter().any(|p| tests_all(exprs, p)) {
            return None;
        }
        if exprs.as_bool(not_rest).is_none() {
            for piece in &mut rows.pieces {
                piece.filter = Some(exprs.and(piece.filter.into_iter().chain([not_rest])));
            }
        }
        Some((own, rows))
    }

    /// The rows of a set over indices.
    fn analysed(&self, program: &mut Program, set: ExprId) -> analysis::Analysis {
        let Some(space) = &self.space else { return analysis::row_set(program, set, analysis::Role::Row) };
        let given = std::mem::replace(&mut program.space, space.clone());
        let found = analysis::row_set(program, set, analysis::Role::Row);
        program.space = given;
        found
    }
}

/// The first and last position of every segment.
fn ends(exprs: &mut Exprs, space: &Space) -> Vec<ExprId> {
    space.segments.iter().flat_map(|s| [s.begin, exprs.add(s.begin, s.len)]).collect()
}

/// The coordinate of a position, as the checker writes it.
fn coordinate(exprs: &mut Exprs, space: &Space, axis: AxisId, at: ExprId) -> ExprId {
    let Axis { segment, extent, stride, .. } = space.axes[axis.0 as usize];
    let segment = &space.segments[segment];
    let inside = exprs.sub(at, segment.begin);
    let x = exprs.div(inside, stride);
    if segment.axes.first() == Some(&axis) { x } else { exprs.modulo(x, extent) }
}

/// Whether every key there is would be tested.
pub(crate) fn tests_all(exprs: &Exprs, piece: &Piece) -> bool {
    let everything = *exprs.node(piece.start) == Node::Var(Var::KStart) && is_end(exprs, piece.end);
    piece.filter.is_some() && piece.loops.is_empty() && piece.combs.is_empty() && everything
}

/// Another nesting of the axes of a segment.
#[derive(Clone, PartialEq, Eq)]
struct Nesting {
    segment: usize,
    /// Outermost first.
    axes: Vec<AxisId>,
}

/// The nesting in which a row set of few keys side by side is dense: the axis with most keys innermost.
fn nesting_of(program: &mut Program, rows: &RowSet) -> Option<Nesting> {
    rows.pieces.iter().find_map(|piece| {
        let Program { exprs, space, .. } = &mut *program;
        let width = |exprs: &mut Exprs, from, to| {
            let width = exprs.sub(to, from);
            exprs.as_int(width)
        };
        let inner = width(exprs, piece.start, piece.end).filter(|w| *w <= NARROW)?;
        if piece.filter.is_some() || !piece.combs.is_empty() || piece.loops.iter().any(|l| l.step != 1) {
            return None;
        }
        let (_, stride) = piece.loops.first()?.span?;
        let outermost = space.axes.iter().find(|a| a.stride == stride)?;
        let axes = &space.segments[outermost.segment].axes;
        if axes.len() != piece.loops.len() + 1 || !piece.loops.iter().all(|l| l.span.is_some()) {
            return None;
        }
        // Ends that sizes clip count as far apart.
        let of_loop = |l: &attnc_pattern::rowset::Loop| width(exprs, l.lo, l.hi).unwrap_or(i64::MAX);
        let mut widths: Vec<i64> = piece.loops.iter().map(of_loop).collect();
        widths.push(inner);
        let mut nesting: Vec<(i64, AxisId)> = widths.into_iter().zip(axes.iter().copied()).collect();
        nesting.sort_by_key(|n| n.0);
        let wide = nesting.last().is_some_and(|n| n.0 >= WIDE);
        wide.then(|| Nesting { segment: outermost.segment, axes: nesting.into_iter().map(|n| n.1).collect() })
    })
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
