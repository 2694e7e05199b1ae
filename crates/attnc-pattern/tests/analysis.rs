//! The row-set analysis against the oracle: random sets, every pair looked at.
//!
//! Sets are drawn as small trees that print readably and shrink; each is built into a program, analysed, and
//! compared with the predicate evaluated pair by pair.

use std::sync::Arc;

use attnc_pattern::analysis::print::{rows_text, tiles_text};
use attnc_pattern::analysis::{
    Analysis, Class, Emptiness, EvalError, Role, Rows, Tiles, check_empty, count, dead_arms, row_set, tile_set,
    transpose,
};
use attnc_pattern::env::{DrawTable, Env, MapData};
use attnc_pattern::expr::{AxisId, Cmp, DrawId, ExprId, Exprs, MapId, Node, OrderId, SizeId, Un, Var};
use attnc_pattern::oracle::{Evaluator, Point};
use attnc_pattern::program::{
    Attention, Axis, Chooser, Draw, DrawScope, Entry, Map, MapKind, Order, OrderKind, Program, Segment, Size, Source,
    Space,
};
use attnc_syntax::diag::Span;
use proptest::prelude::*;

/// A set.
#[derive(Clone, Debug)]
enum Set {
    /// `a * k + b * q + c op 0`, its terms on either side.
    Affine {
        a: i64,
        b: i64,
        c: i64,
        op: u8,
        left: u8,
    },
    /// `lo <= q / block - k / block <= hi`
    Blocks {
        block: i64,
        lo: i64,
        len: i64,
    },
    /// `(s * (k - q) / block + c) % period < width`, `q` or not.
    Comb {
        relative: bool,
        flip: bool,
        block: i64,
        c: i64,
        period: i64,
        width: i64,
    },
    /// `k % period op q % period`
    SameClass {
        period: i64,
        op: u8,
    },
    /// `(c * k + q) % period == r`
    Multiple {
        c: i64,
        period: i64,
        r: i64,
    },
    /// `|q - k - c| op w`
    Abs {
        c: i64,
        w: i64,
        op: u8,
    },
    /// `(q - k - c)^2 op w`
    Square {
        c: i64,
        w: i64,
        op: u8,
    },
    /// `min(k, q - c) op max(d, k - q)`
    Extremes {
        c: i64,
        d: i64,
        op: u8,
    },
    /// `k - k % block op q - c`
    Floor {
        block: i64,
        c: i64,
        op: u8,
    },
    /// Distance in blocks is 0 or a power of two.
    Pow2 {
        block: i64,
    },
    /// `if q < c { k < d } else { k >= d }`
    Choice {
        c: i64,
        d: i64,
    },
    SameDoc,
    /// `each doc { 0 <= q - k < w }`
    DocWindow {
        w: i64,
    },
    DocOf {
        op: u8,
        doc: i64,
    },
    Map {
        number: u32,
    },
    Drawn {
        number: u32,
    },
    /// Coordinates `lo <= k.axis - q.axis <= hi`, clamped at the edges or not.
    Near {
        axis: usize,
        lo: i64,
        len: i64,
        clamp: bool,
    },
    /// Equal residues on an axis.
    Dilated {
        axis: usize,
        period: i64,
    },
    /// A comparison of a coordinate with a constant.
    Coordinate {
        axis: usize,
        c: i64,
        op: u8,
    },
    /// A distance over some axes.
    Disc {
        axes: Vec<usize>,
        r: i64,
        inside: bool,
    },
    /// The number of the key's box among boxes of these sizes is that of the query's and `c`, or `c` alone.
    Box {
        sizes: Vec<i64>,
        c: i64,
        relative: bool,
        op: u8,
    },
    /// The key, as a number of digits, one for each axis, has those of the box of the query's coordinates; `c` is added
    /// to the last.
    Digits {
        sizes: Vec<i64>,
        c: i64,
    },
    /// Both tokens in the grid.
    Grid,
    /// A window of the index in the order.
    Along {
        c: i64,
        w: i64,
    },
    /// A block map over the index in the order.
    MapAlong,
    Not(Box<Set>),
    All(Vec<Set>),
    Any(Vec<Set>),
}

const OPS: u8 = 6;

fn compare(e: &mut Exprs, op: u8, a: ExprId, b: ExprId) -> ExprId {
    match op % OPS {
        0 => e.lt(a, b),
        1 => e.le(a, b),
        2 => e.lt(b, a),
        3 => e.le(b, a),
        4 => e.eq(a, b),
        _ => e.cmp(Cmp::Ne, a, b),
    }
}

/// The world of a case: lengths and the space.
#[derive(Clone, Debug)]
struct World {
    n_q: i64,
    n_k: i64,
    q_start: i64,
    k_start: i64,
    text: i64,
    extents: Vec<i64>,
    /// Extents are run-time sizes, not constants.
    sizes: bool,
    /// Text follows the grid.
    text_last: bool,
    docs: Vec<i64>,
    bits: u64,
}

struct Builder<'w> {
    world: &'w World,
    program: Program,
    q: ExprId,
    k: ExprId,
}

impl<'w> Builder<'w> {
    fn new(world: &'w World) -> Self {
        let mut program = Program::default();
        let e = &mut program.exprs;
        let (q, k) = (e.var(Var::Q), e.var(Var::K));
        let mut sizes = vec![];
        let mut extent = |e: &mut Exprs, v: i64| {
            if !world.sizes {
                return e.int(v);
            }
            sizes.push(Size { name: format!("s{}", sizes.len()), span: Span::default() });
            e.var(Var::Size(SizeId(sizes.len() as u32 - 1)))
        };
        let text = extent(e, world.text);
        let extents: Vec<ExprId> = world.extents.iter().map(|&x| extent(e, x)).collect();
        program.sizes = sizes;
        let zero = e.int(0);
        let mut stride = e.int(1);
        let mut axes = vec![];
        for (i, &x) in extents.iter().enumerate().rev() {
            axes.push(Axis {
                name: format!("a{i}"),
                segment: usize::from(!world.text_last),
                extent: x,
                stride,
                span: Default::default(),
            });
            stride = e.mul(stride, x);
        }
        axes.reverse();
        let ids = (0..axes.len() as u32).map(AxisId).collect();
        let total = e.add(text, stride);
        let line = |begin| Segment { name: "text".into(), begin, len: text, axes: vec![], open: false };
        let grid = |begin| Segment { name: "grid".into(), begin, len: stride, axes: ids, open: false };
        let segments = if world.text_last { vec![grid(zero), line(stride)] } else { vec![line(zero), grid(text)] };
        program.space = Space { segments, axes, total: Some(total) };
        let raster: Vec<AxisId> = (0..extents.len() as u32).rev().map(AxisId).collect();
        program.orders.push(Order {
            name: "z".into(),
            segment: Some(usize::from(!world.text_last)),
            kind: OrderKind::Raster(raster),
            span: Span::default(),
        });
        for (i, kind) in [MapKind::Bool, MapKind::Blocks(3), MapKind::Csr, MapKind::Blocks(3)].into_iter().enumerate() {
            program.maps.push(Map { name: format!("m{i}"), kind, per_head: false, span: Span::default() });
        }
        let all = program.exprs.bool(true);
        for (unit, scope) in [(1, DrawScope::Row), (4, DrawScope::Row), (4, DrawScope::Head)] {
            program.draws.push(Draw {
                chooser: Chooser::Random { count: 3, seed: 1 },
                of: all,
                unit,
                scope,
                weight: None,
                span: Span::default(),
            });
        }
        program.uses_docs = true;
        Builder { world, program, q, k }
    }

    fn int(&mut self, v: i64) -> ExprId {
        self.program.exprs.int(v)
    }

    /// Both tokens lie in the grid.
    fn in_grid(&mut self) -> ExprId {
        let segment = self.program.space.segments[usize::from(!self.world.text_last)].clone();
        let (q, k) = (self.q, self.k);
        let e = &mut self.program.exprs;
        let end = e.add(segment.begin, segment.len);
        let mut all = vec![];
        for x in [q, k] {
            if !self.world.text_last {
                all.push(e.le(segment.begin, x));
            } else {
                all.push(e.lt(x, end));
            }
        }
        e.and(all)
    }

    fn coordinate(&mut self, axis: usize, x: ExprId) -> ExprId {
        let begin = self.program.space.segments[usize::from(!self.world.text_last)].begin;
        let a = self.program.space.axes[axis].clone();
        let e = &mut self.program.exprs;
        let x = e.sub(x, begin);
        let x = e.div(x, a.stride);
        if axis == 0 { x } else { e.modulo(x, a.extent) }
    }

    /// Boxes of a size on an axis.
    fn boxes(&mut self, axis: usize, size: i64) -> ExprId {
        let extent = self.program.space.axes[axis].extent;
        let e = &mut self.program.exprs;
        let (less, size) = (e.int(size - 1), e.int(size));
        let up = e.add(extent, less);
        e.div(up, size)
    }

    fn build(&mut self, set: &Set) -> ExprId {
        let (q, k) = (self.q, self.k);
        let rank = self.world.extents.len();
        match set {
            Set::Affine { a, b, c, op, left } => {
                let e = &mut self.program.exprs;
                let mut sides = [e.int(0), e.int(0)];
                let constant = e.int(1);
                for (i, (x, factor)) in [(k, *a), (q, *b), (constant, *c)].into_iter().enumerate() {
                    let side = usize::from(left >> i & 1);
                    let factor = e.int(if side == 0 { factor } else { -factor });
                    let term = e.mul(x, factor);
                    sides[side] = e.add(sides[side], term);
                }
                compare(e, *op, sides[0], sides[1])
            }
            Set::Blocks { block, lo, len } => {
                let e = &mut self.program.exprs;
                let (b, lo, hi) = (e.int(*block), e.int(*lo), e.int(lo + len));
                let (x, y) = (e.div(q, b), e.div(k, b));
                let d = e.sub(x, y);
                let (from, to) = (e.le(lo, d), e.le(d, hi));
                e.and([from, to])
            }
            Set::Comb { relative, flip, block, c, period, width } => {
                let e = &mut self.program.exprs;
                let mut x = k;
                if *relative {
                    x = e.sub(k, q);
                }
                if *flip {
                    x = e.un(Un::Neg, x);
                }
                let (b, c, p, w) = (e.int(*block), e.int(*c), e.int(*period), e.int(*width));
                x = e.div(x, b);
                x = e.add(x, c);
                x = e.modulo(x, p);
                e.lt(x, w)
            }
            Set::SameClass { period, op } => {
                let e = &mut self.program.exprs;
                let p = e.int(*period);
                let (x, y) = (e.modulo(k, p), e.modulo(q, p));
                compare(e, *op, x, y)
            }
            Set::Multiple { c, period, r } => {
                let e = &mut self.program.exprs;
                let (c, p, r) = (e.int(*c), e.int(*period), e.int(*r));
                let x = e.mul(k, c);
                let x = e.add(x, q);
                let x = e.modulo(x, p);
                e.eq(x, r)
            }
            Set::Abs { c, w, op } => {
                let e = &mut self.program.exprs;
                let (c, w) = (e.int(*c), e.int(*w));
                let d = e.sub(q, k);
                let d = e.sub(d, c);
                let d = e.un(Un::Abs, d);
                compare(e, *op, d, w)
            }
            Set::Square { c, w, op } => {
                let e = &mut self.program.exprs;
                let (c, w) = (e.int(*c), e.int(*w));
                let d = e.sub(q, k);
                let d = e.sub(d, c);
                let d = e.mul(d, d);
                compare(e, *op, d, w)
            }
            Set::Extremes { c, d, op } => {
                let e = &mut self.program.exprs;
                let (c, d) = (e.int(*c), e.int(*d));
                let x = e.sub(q, c);
                let x = e.min(k, x);
                compare(e, *op, x, d)
            }
            Set::Floor { block, c, op } => {
                let e = &mut self.program.exprs;
                let (b, c) = (e.int(*block), e.int(*c));
                let r = e.modulo(k, b);
                let x = e.sub(k, r);
                let y = e.sub(q, c);
                compare(e, *op, x, y)
            }
            Set::Pow2 { block } => {
                let e = &mut self.program.exprs;
                let b = e.int(*block);
                let (x, y) = (e.div(q, b), e.div(k, b));
                let d = e.sub(x, y);
                let zero = e.int(0);
                let log = e.un(Un::Log2, d);
                let power = e.un(Un::Pow2, log);
                let (after, same, is) = (e.le(zero, d), e.eq(d, zero), e.eq(power, d));
                let some = e.or([same, is]);
                e.and([after, some])
            }
            Set::Choice { c, d } => {
                let e = &mut self.program.exprs;
                let (c, d) = (e.int(*c), e.int(*d));
                let (when, a, b) = (e.lt(q, c), e.lt(k, d), e.le(d, k));
                e.select(when, a, b)
            }
            Set::SameDoc => {
                let e = &mut self.program.exprs;
                let (x, y) = (e.un(Un::DocOf, q), e.un(Un::DocOf, k));
                e.eq(x, y)
            }
            Set::DocWindow { w } => {
                let same = self.build(&Set::SameDoc);
                let e = &mut self.program.exprs;
                // Positions local to the document of each.
                let local = |e: &mut Exprs, x: ExprId| {
                    let doc = e.un(Un::DocOf, x);
                    let begin = e.un(Un::DocBegin, doc);
                    e.sub(x, begin)
                };
                let (x, y) = (local(e, q), local(e, k));
                let d = e.sub(x, y);
                let (zero, w) = (e.int(0), e.int(*w));
                let (from, to) = (e.le(zero, d), e.lt(d, w));
                e.and([same, from, to])
            }
            Set::DocOf { op, doc } => {
                let e = &mut self.program.exprs;
                let (x, doc) = (e.un(Un::DocOf, k), e.int(*doc));
                compare(e, *op, x, doc)
            }
            Set::Map { number } => {
                let e = &mut self.program.exprs;
                let (q0, k0) = (e.var(Var::QStart), e.var(Var::KStart));
                let (mut row, mut col) = (e.sub(q, q0), e.sub(k, k0));
                if *number == 1 {
                    let b = e.int(3);
                    (row, col) = (e.div(row, b), e.div(col, b));
                }
                e.intern(Node::MapAt(MapId(*number), row, col))
            }
            Set::Drawn { number } => {
                let unit = self.program.draws[*number as usize].unit;
                let e = &mut self.program.exprs;
                let b = e.int(unit);
                let (row, col) = (e.div(q, b), e.div(k, b));
                e.intern(Node::Drawn(DrawId(*number), row, col))
            }
            Set::Near { axis, lo, len, clamp } => {
                let axis = axis % rank;
                let inside = self.in_grid();
                let (x, y) = (self.coordinate(axis, q), self.coordinate(axis, k));
                let extent = self.program.space.axes[axis].extent;
                let e = &mut self.program.exprs;
                let (lo, length) = (e.int(*lo), e.int(*len));
                let mut from = e.add(x, lo);
                if *clamp {
                    let most = e.sub(extent, length);
                    let zero = e.int(0);
                    from = e.max(from, zero);
                    from = e.min(from, most);
                }
                let to = e.add(from, length);
                let (a, b) = (e.le(from, y), e.lt(y, to));
                e.and([inside, a, b])
            }
            Set::Dilated { axis, period } => {
                let axis = axis % rank;
                let inside = self.in_grid();
                let (x, y) = (self.coordinate(axis, q), self.coordinate(axis, k));
                let e = &mut self.program.exprs;
                let p = e.int(*period);
                let d = e.sub(x, y);
                let r = e.modulo(d, p);
                let zero = e.int(0);
                let same = e.eq(r, zero);
                e.and([inside, same])
            }
            Set::Coordinate { axis, c, op } => {
                let axis = axis % rank;
                let y = self.coordinate(axis, k);
                let c = self.int(*c);
                compare(&mut self.program.exprs, *op, y, c)
            }
            Set::Disc { axes, r, inside } => {
                let mut sum = self.int(0);
                let mut axes: Vec<usize> = axes.iter().map(|a| a % rank).collect();
                axes.dedup();
                for axis in axes {
                    let (x, y) = (self.coordinate(axis, q), self.coordinate(axis, k));
                    let e = &mut self.program.exprs;
                    let d = e.sub(x, y);
                    let square = e.mul(d, d);
                    sum = e.add(sum, square);
                }
                let grid = self.in_grid();
                let square = self.int(r * r);
                let e = &mut self.program.exprs;
                let near = e.lt(sum, square);
                let near = if *inside { near } else { e.not(near) };
                e.and([grid, near])
            }
            Set::Box { sizes, c, relative, op } => {
                let (mut x, mut y) = (self.int(0), self.int(0));
                for (axis, &size) in sizes.iter().enumerate().take(rank) {
                    let count = self.boxes(axis, size);
                    for (sum, at) in [(&mut x, q), (&mut y, k)] {
                        let coordinate = self.coordinate(axis, at);
                        let e = &mut self.program.exprs;
                        let size = e.int(size);
                        let here = e.div(coordinate, size);
                        *sum = e.mul(*sum, count);
                        *sum = e.add(*sum, here);
                    }
                }
                let c = self.int(*c);
                let e = &mut self.program.exprs;
                let value = if *relative { e.add(x, c) } else { c };
                compare(e, *op, y, value)
            }
            Set::Digits { sizes, c } => {
                let (mut rest, mut all) = (k, vec![]);
                for axis in (0..rank).rev() {
                    let count = self.boxes(axis, sizes[axis]);
                    let x = self.coordinate(axis, q);
                    let c = self.int(if axis + 1 == rank { *c } else { 0 });
                    let e = &mut self.program.exprs;
                    let size = e.int(sizes[axis]);
                    let here = e.div(x, size);
                    let here = e.add(here, c);
                    let digit = if axis > 0 { e.modulo(rest, count) } else { rest };
                    all.push(e.eq(digit, here));
                    rest = e.div(rest, count);
                }
                self.program.exprs.and(all)
            }
            Set::Grid => self.in_grid(),
            Set::Along { c, w } => {
                let e = &mut self.program.exprs;
                let order = Un::OrderIndex(OrderId(0));
                let (x, y) = (e.un(order, q), e.un(order, k));
                let d = e.sub(x, y);
                let (c, w) = (e.int(*c), e.int(c + w));
                let (from, to) = (e.le(c, d), e.lt(d, w));
                e.and([from, to])
            }
            Set::MapAlong => {
                let e = &mut self.program.exprs;
                let order = Un::OrderIndex(OrderId(0));
                let (x, y) = (e.un(order, q), e.un(order, k));
                let b = e.int(3);
                let (x, y) = (e.div(x, b), e.div(y, b));
                e.intern(Node::MapAt(MapId(3), x, y))
            }
            Set::Not(x) => {
                let x = self.build(x);
                self.program.exprs.not(x)
            }
            Set::All(xs) => {
                let xs: Vec<ExprId> = xs.iter().map(|x| self.build(x)).collect();
                self.program.exprs.and(xs)
            }
            Set::Any(xs) => {
                let xs: Vec<ExprId> = xs.iter().map(|x| self.build(x)).collect();
                self.program.exprs.or(xs)
            }
        }
    }
}

/// Run-time data of a world, reproducible from its bits.
struct Data {
    dense: Vec<u8>,
    blocks: Vec<u8>,
    block_cols: usize,
    /// Blocks over all positions.
    whole: Vec<u8>,
    whole_cols: usize,
    indptr: Vec<i64>,
    indices: Vec<i64>,
    draws: Vec<DrawTable>,
    order: Arc<[u32]>,
}

fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

impl Data {
    fn new(w: &World) -> Self {
        let mut s = w.bits;
        let (n_q, n_k) = (w.n_q as usize, w.n_k as usize);
        let dense = (0..n_q * n_k).map(|_| u8::from(noise(&mut s).is_multiple_of(3))).collect();
        let (rows, block_cols) = (n_q.div_ceil(3), n_k.div_ceil(3));
        let blocks = (0..rows * block_cols).map(|_| u8::from(noise(&mut s).is_multiple_of(3))).collect();
        let (mut indptr, mut indices) = (vec![0], vec![]);
        for _ in 0..n_q {
            indices.extend((0..w.n_k).filter(|_| noise(&mut s).is_multiple_of(4)));
            indptr.push(indices.len() as i64);
        }
        let total = w.text + w.extents.iter().product::<i64>();
        let whole_cols = (total as usize).div_ceil(3);
        let whole = (0..whole_cols * whole_cols).map(|_| u8::from(noise(&mut s).is_multiple_of(3))).collect();
        let draws = [(1, false), (4, false), (4, true)].map(|(unit, head)| {
            let (first, last) = (w.q_start / unit, (w.q_start + w.n_q) / unit);
            let rows = if head { 1 } else { last - first + 1 };
            let mut chosen = vec![];
            for _ in 0..rows {
                let mut row: Vec<i64> =
                    (0..noise(&mut s) % 4).map(|_| (noise(&mut s) as i64) % (total / unit + 1)).collect();
                row.sort_unstable();
                row.dedup();
                row.resize(3, -1);
                chosen.extend(row);
            }
            DrawTable {
                chosen: chosen.into(),
                count: 3,
                first: if head { 0 } else { first },
                counts: [].into(),
                times: [].into(),
            }
        });
        // The raster of the reversed axes.
        let mut order: Vec<u32> = (0..total as u32 + 40).collect();
        let begin = if w.text_last { 0 } else { w.text };
        for cell in 0..w.extents.iter().product::<i64>() {
            let (mut rest, mut coordinates) = (cell, vec![]);
            for &x in w.extents.iter().rev() {
                coordinates.push(rest % x);
                rest /= x;
            }
            // `coordinates` is innermost first: outermost first in the order.
            let mut index = 0;
            for (&c, &x) in coordinates.iter().zip(w.extents.iter().rev()) {
                index = index * x + c;
            }
            order[(begin + cell) as usize] = (begin + index) as u32;
        }
        Data {
            dense,
            blocks,
            block_cols,
            whole,
            whole_cols,
            indptr,
            indices,
            draws: draws.to_vec(),
            order: order.into(),
        }
    }

    fn env<'a>(&'a self, w: &'a World) -> Env<'a> {
        let sizes = if w.sizes { std::iter::once(w.text).chain(w.extents.iter().copied()).collect() } else { vec![] };
        Env {
            n_q: w.n_q,
            n_k: w.n_k,
            q_start: w.q_start,
            k_start: w.k_start,
            heads: 1,
            dim: 8,
            sizes,
            docs: &w.docs,
            maps: vec![
                MapData::Dense { data: &self.dense, cols: w.n_k as usize },
                MapData::Dense { data: &self.blocks, cols: self.block_cols },
                MapData::Csr { indptr: &self.indptr, indices: &self.indices },
                MapData::Dense { data: &self.whole, cols: self.whole_cols },
            ],
            draws: self.draws.clone(),
            orders: vec![self.order.clone()],
            ..Env::default()
        }
    }
}

fn swapped<'a>(env: &Env<'a>) -> Env<'a> {
    Env { n_q: env.n_k, n_k: env.n_q, q_start: env.k_start, k_start: env.q_start, ..env.clone() }
}

/// Whether each pair belongs to the set, by the oracle; row by row.
fn truth(program: &Program, env: &Env<'_>, set: ExprId) -> Vec<Vec<bool>> {
    let mut oracle = Evaluator::new(program, env, &[set]);
    (env.q_start..env.q_start + env.n_q)
        .map(|q| {
            let keys = env.k_start..env.k_start + env.n_k;
            keys.map(|k| oracle.truth(set, Point::pair(q, k)).expect("the set has a value")).collect()
        })
        .collect()
}

fn check_rows(
    program: &Program,
    analysis: &Analysis,
    env: &Env<'_>,
    expected: impl Fn(i64, i64) -> bool,
) -> Result<(), TestCaseError> {
    let rows = Rows::new(program, &analysis.rows);
    let mut walker = rows.walker(env).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let mut total = 0;
    for q in env.q_start..env.q_start + env.n_q {
        let row = walker.row(q).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let keys = env.k_start..env.k_start + env.n_k;
        let want: Vec<i64> = keys.clone().filter(|&k| expected(q, k)).collect();
        let got: Vec<i64> = keys.filter(|&k| row.contains(k)).collect();
        prop_assert_eq!(&got, &want, "keys of query {} in\n{}", q, rows_text(program, &analysis.rows));
        let spelt: Vec<i64> = row.ranges().flatten().collect();
        prop_assert_eq!(&spelt, &want, "ranges of query {}", q);
        let mut last = i64::MIN;
        for r in row.ranges() {
            prop_assert!(*r.start() > last.saturating_add(1) || last == i64::MIN, "ranges touch at query {q}");
            last = *r.end();
        }
        prop_assert_eq!(row.count(), want.len() as u64, "count of query {}", q);
        total += want.len() as u128;
    }
    let counted = count(program, &analysis.rows, env).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(counted, total);
    Ok(())
}

fn check_tiles(
    program: &mut Program,
    analysis: &Analysis,
    env: &Env<'_>,
    size: (i64, i64),
    expected: &[Vec<bool>],
) -> Result<(), TestCaseError> {
    let set = tile_set(&mut program.exprs, &analysis.rows);
    let tiles = Tiles::new(program, &set);
    let tiles_of = &*program;
    let mut walker = tiles.walker(env).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let mut first = env.q_start;
    while first < env.q_start + env.n_q {
        let last = (first + size.0 - 1).min(env.q_start + env.n_q - 1);
        let row = walker.row(first, last).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let of = |q: i64| &expected[(q - env.q_start) as usize];
        for k in env.k_start..env.k_start + env.n_k {
            let column = (k - env.k_start) as usize;
            let some = (first..=last).any(|q| of(q)[column]);
            let every = (first..=last).all(|q| of(q)[column]);
            prop_assert!(
                !some || row.may.contains(k),
                "may misses key {k} of queries {first}..={last} in\n{}",
                tiles_text(tiles_of, &set)
            );
            prop_assert!(
                every || !row.must.contains(k),
                "must claims key {k} of queries {first}..={last} in\n{}",
                tiles_text(tiles_of, &set)
            );
        }
        let listed: Vec<(i64, Class)> = row.tiles(env, size.1).collect();
        for tile in 0..env.n_k.div_euclid(size.1) + 1 {
            let columns = (tile * size.1) as usize..((tile + 1) * size.1).min(env.n_k).max(tile * size.1) as usize;
            let pairs = || (first..=last).flat_map(|q| columns.clone().map(move |c| of(q)[c]));
            match listed.iter().find(|t| t.0 == tile) {
                None => prop_assert!(!pairs().any(|p| p), "tile {tile} of queries {first} is not listed"),
                Some((_, Class::Full)) => {
                    prop_assert!(pairs().all(|p| p), "tile {tile} of queries {first} is not full")
                }
                Some((_, Class::Partial)) => {}
            }
        }
        first += size.0;
    }
    Ok(())
}

fn check(set: &Set, world: &World, size: (i64, i64)) -> Result<(), TestCaseError> {
    let mut builder = Builder::new(world);
    let id = builder.build(set);
    let mut program = builder.program;
    let data = Data::new(world);
    let env = data.env(world);
    let expected = truth(&program, &env, id);
    let holds = |q: i64, k: i64| expected[(q - env.q_start) as usize][(k - env.k_start) as usize];
    let rows = row_set(&mut program, id, Role::Row);
    for piece in &rows.rows.pieces {
        for comb in &piece.combs {
            for e in [comb.period, comb.width] {
                let varies = program.exprs.reads(e, |v| matches!(v, Var::Q | Var::K | Var::Loop(_)));
                prop_assert!(!varies, "a comb that varies in\n{}", rows_text(&program, &rows.rows));
            }
        }
    }
    check_rows(&program, &rows, &env, holds)?;
    check_tiles(&mut program, &rows, &env, size, &expected)?;
    let columns = row_set(&mut program, id, Role::Column);
    check_rows(&program, &columns, &swapped(&env), |k, q| holds(q, k))?;
    let once = transpose(&mut program.exprs, id);
    let twice = transpose(&mut program.exprs, once);
    let again = row_set(&mut program, twice, Role::Row);
    prop_assert_eq!(again.rows, rows.rows, "transposed twice");
    Ok(())
}

fn arb_world() -> impl Strategy<Value = World> {
    let extents = prop_oneof![
        (1..6_i64, 1..7_i64).prop_map(|(a, b)| vec![a, b]),
        (1..4_i64, 1..5_i64, 1..5_i64).prop_map(|(a, b, c)| vec![a, b, c]),
    ];
    (
        extents,
        0..5_i64,
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
        (0..1000_i64, 0..1000_i64, 0..1000_i64, 0..1000_i64),
    )
        .prop_map(|(extents, text, sizes, text_last, bits, picks)| {
            let total = text + extents.iter().product::<i64>();
            let q_start = picks.0 % total;
            let n_q = 1 + picks.1 % (total - q_start);
            let k_start = picks.2 % total;
            let n_k = 1 + picks.3 % (total - k_start);
            let (mut docs, mut s) = (vec![0], bits);
            while docs[docs.len() - 1] < total {
                docs.push((docs[docs.len() - 1] + (noise(&mut s) % 9) as i64).min(total));
            }
            World { n_q, n_k, q_start, k_start, text, extents, sizes, text_last, docs, bits }
        })
}

fn arb_flat() -> impl Strategy<Value = Set> {
    prop_oneof![
        4 => (-3..=3_i64, -3..=3_i64, -12..12_i64, 0..OPS, 0..8_u8)
            .prop_map(|(a, b, c, op, left)| Set::Affine { a, b, c, op, left }),
        2 => (1..7_i64, -3..3_i64, 0..3_i64).prop_map(|(block, lo, len)| Set::Blocks { block, lo, len }),
        3 => (any::<bool>(), any::<bool>(), 1..4_i64, -5..5_i64, 1..9_i64, 1..5_i64).prop_map(
            |(relative, flip, block, c, period, width)| Set::Comb { relative, flip, block, c, period, width }
        ),
        1 => (1..9_i64, 0..OPS).prop_map(|(period, op)| Set::SameClass { period, op }),
        1 => (-4..5_i64, 1..9_i64, -1..9_i64).prop_map(|(c, period, r)| Set::Multiple { c, period, r }),
        1 => (-4..5_i64, -2..9_i64, 0..OPS).prop_map(|(c, w, op)| Set::Abs { c, w, op }),
        1 => (-4..5_i64, -2..30_i64, 0..OPS).prop_map(|(c, w, op)| Set::Square { c, w, op }),
        1 => (-4..5_i64, -2..9_i64, 0..OPS).prop_map(|(c, d, op)| Set::Extremes { c, d, op }),
        1 => (1..6_i64, -4..9_i64, 0..OPS).prop_map(|(block, c, op)| Set::Floor { block, c, op }),
        1 => (1..4_i64).prop_map(|block| Set::Pow2 { block }),
        1 => (0..20_i64, 0..20_i64).prop_map(|(c, d)| Set::Choice { c, d }),
    ]
}

fn arb_data() -> impl Strategy<Value = Set> {
    prop_oneof![
        Just(Set::SameDoc),
        (1..6_i64).prop_map(|w| Set::DocWindow { w }),
        (0..OPS, 0..4_i64).prop_map(|(op, doc)| Set::DocOf { op, doc }),
        (0..3_u32).prop_map(|number| Set::Map { number }),
        (0..3_u32).prop_map(|number| Set::Drawn { number }),
    ]
}

fn arb_grid() -> impl Strategy<Value = Set> {
    prop_oneof![
        3 => (0..3_usize, -3..2_i64, 1..4_i64, any::<bool>()).prop_map(|(axis, lo, len, clamp)| Set::Near { axis, lo, len, clamp }),
        1 => (0..3_usize, 1..4_i64).prop_map(|(axis, period)| Set::Dilated { axis, period }),
        1 => (0..3_usize, 0..4_i64, 0..OPS).prop_map(|(axis, c, op)| Set::Coordinate { axis, c, op }),
        2 => (prop::collection::vec(0..3_usize, 1..4), 1..5_i64, any::<bool>())
            .prop_map(|(axes, r, inside)| Set::Disc { axes, r, inside }),
        2 => (prop::collection::vec(1..4_i64, 3), -2..6_i64, any::<bool>(), prop_oneof![3 => Just(4), 1 => 0..OPS])
            .prop_map(|(sizes, c, relative, op)| Set::Box { sizes, c, relative, op }),
        2 => (prop::collection::vec(1..4_i64, 3), -1..2_i64).prop_map(|(sizes, c)| Set::Digits { sizes, c }),
        1 => Just(Set::Grid),
        1 => (-5..5_i64, 1..9_i64).prop_map(|(c, w)| Set::Along { c, w }),
        1 => Just(Set::MapAlong),
    ]
}

fn arb_set(leaf: impl Strategy<Value = Set> + 'static) -> impl Strategy<Value = Set> {
    leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            1 => inner.clone().prop_map(|x| Set::Not(Box::new(x))),
            2 => prop::collection::vec(inner.clone(), 1..4).prop_map(Set::All),
            2 => prop::collection::vec(inner, 1..4).prop_map(Set::Any),
        ]
    })
}

fn arb_size() -> impl Strategy<Value = (i64, i64)> {
    (1..9_i64, 1..9_i64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_of_positions(set in arb_set(arb_flat()), world in arb_world(), size in arb_size()) {
        check(&set, &world, size)?;
    }

    #[test]
    fn sets_of_data(set in arb_set(prop_oneof![arb_data(), arb_flat()]), world in arb_world(), size in arb_size()) {
        check(&set, &world, size)?;
    }

    #[test]
    fn sets_of_coordinates(set in arb_set(prop_oneof![2 => arb_grid(), 1 => arb_flat()]), world in arb_world(), size in arb_size()) {
        check(&set, &world, size)?;
    }

    #[test]
    fn spellings_of_one_comparison_are_one_row_set(a in prop_oneof![-3..=-1_i64, 1..=3_i64], b in -3..=3_i64, c in -20..20_i64, op in 0..OPS) {
        let world = World {
            n_q: 1, n_k: 1, q_start: 0, k_start: 0, text: 1, extents: vec![1, 1], sizes: false, text_last: false,
            docs: vec![0, 2], bits: 0,
        };
        let mut builder = Builder::new(&world);
        let ids: Vec<ExprId> = (0..8).map(|left| builder.build(&Set::Affine { a, b, c, op, left })).collect();
        let mut program = builder.program;
        let sets: Vec<_> = ids.into_iter().map(|id| row_set(&mut program, id, Role::Row).rows).collect();
        for set in &sets {
            prop_assert_eq!(set, &sets[0]);
        }
    }
}

/// An open axis with `n` queries and keys.
fn line(n: i64) -> World {
    World {
        n_q: n,
        n_k: n,
        q_start: 0,
        k_start: 0,
        text: 0,
        extents: vec![1, 1],
        sizes: false,
        text_last: false,
        docs: vec![],
        bits: 0,
    }
}

/// The program of one set over an open axis.
fn open_program(world: &World, set: &Set) -> (Program, ExprId) {
    let mut builder = Builder::new(world);
    let id = builder.build(set);
    let mut program = builder.program;
    program.space = Space::default();
    program.orders.clear();
    (program, id)
}

fn attend(program: &mut Program, set: ExprId) {
    let e = &mut program.exprs;
    let (one, n_q, n_k) = (e.int(1), e.var(Var::NQ), e.var(Var::NK));
    let (some, fits) = (e.le(one, n_q), e.le(n_q, n_k));
    let require = e.and([some, fits]);
    let scale = e.real(1.0);
    program.attentions.push(Attention {
        name: "a".into(),
        docs: vec![],
        scale,
        score: None,
        align: None,
        empty: None,
        require,
        demands: vec![],
        depends_on_alignment: true,
        merge: None,
        pooled: None,
        entries: vec![Entry { source: Source::Tokens(set), bias: None, score: None, span: Span::default() }],
        span: Span::default(),
    });
}

/// The first query without a key among all launches of up to `most` tokens: tokens, query.
fn first_empty(program: &Program, set: ExprId, most: i64) -> Option<(i64, i64)> {
    (1..=most).find_map(|n| {
        let world = line(n);
        let data = Data::new(&world);
        let env = data.env(&world);
        let rows = truth(program, &env, set);
        rows.iter().position(|row| !row.contains(&true)).map(|q| (n, q as i64))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn emptiness_is_never_wrong(set in arb_set(arb_flat())) {
        let (mut program, id) = open_program(&line(1), &set);
        attend(&mut program, id);
        let found = first_empty(&program, id, 30);
        match check_empty(&mut program, 0) {
            Emptiness::Never => prop_assert_eq!(found, None, "claimed to have no empty row"),
            Emptiness::Counterexample(c) => {
                if c.n_k <= 30 {
                    prop_assert_eq!(found, Some((c.n_k, c.query)), "not the smallest");
                }
                let world = line(c.n_k);
                let data = Data::new(&world);
                let rows = truth(&program, &data.env(&world), id);
                prop_assert!(!rows[c.query as usize].contains(&true), "the row is not empty: {c:?}");
            }
            Emptiness::Unknown { .. } => {}
        }
    }

    #[test]
    fn dead_arms_are_dead(arms in prop::collection::vec(arb_flat(), 2..4), around in arb_flat()) {
        let set = Set::All(vec![around.clone(), Set::Any(arms.clone())]);
        let (mut program, _) = open_program(&line(1), &set);
        let mut builder = Builder { world: &line(1), q: program.exprs.var(Var::Q), k: program.exprs.var(Var::K), program };
        let around = builder.build(&around);
        let ids: Vec<ExprId> = arms.iter().map(|a| builder.build(a)).collect();
        program = builder.program;
        for (i, &id) in ids.iter().enumerate() {
            program.exprs.set_span(id, Span { start: i as u32 + 1, ..Span::default() });
        }
        let union = program.exprs.or(ids.iter().copied());
        let id = program.exprs.and([around, union]);
        attend(&mut program, id);
        let dead = dead_arms(&mut program, 0);
        // All dead arms at once: the set is the same without them.
        let kept: Vec<ExprId> = ids
            .iter()
            .copied()
            .filter(|&x| !dead.iter().any(|d| Some(d.span) == program.exprs.span(x)))
            .collect();
        let union = program.exprs.or(kept);
        let without = program.exprs.and([around, union]);
        for n in 1..20 {
            let world = line(n);
            let data = Data::new(&world);
            let env = data.env(&world);
            prop_assert_eq!(truth(&program, &env, id), truth(&program, &env, without), "with {} tokens: {:?}", n, &dead);
        }
    }
}

/// The row set of a set over an open axis, as text.
fn shown(set: &Set) -> String {
    let (mut program, id) = open_program(&line(1), set);
    let found = row_set(&mut program, id, Role::Row);
    assert!(found.exact, "{:?}", found.notes);
    rows_text(&program, &found.rows)
}

/// `q - k < w` and `k <= q`.
fn window(w: i64) -> Set {
    Set::All(vec![
        Set::Affine { a: -1, b: 1, c: -w, op: 0, left: 0 },
        Set::Affine { a: 1, b: -1, c: 0, op: 1, left: 0 },
    ])
}

#[test]
fn common_sets_have_the_form_one_would_write() {
    assert_eq!(shown(&window(8)), "k in q - 7 .. q + 1\n");
    let below = |c: i64| Set::Affine { a: 1, b: 0, c: -c, op: 0, left: 0 };
    let sinks = Set::Any(vec![window(8), Set::All(vec![window(1 << 20), below(4)])]);
    assert!(shown(&sinks).starts_with("k in q - 7 .. q + 1\n"), "{}", shown(&sinks));
    assert_eq!(shown(&Set::Blocks { block: 64, lo: -1, len: 2 }), "k in q / 64 * 64 - 64 .. q / 64 * 64 + 128\n");
    let comb = |relative, block, period| Set::Comb { relative, flip: false, block, c: 0, period, width: 1 };
    assert_eq!(shown(&comb(true, 1, 16)), "k in k_start .. k_start + n_k & (k - q) % 16 < 1\n");
    assert_eq!(shown(&comb(false, 64, 16)), "k in k_start .. k_start + n_k & k % 1024 < 64\n");
    assert_eq!(shown(&Set::Not(Box::new(comb(false, 1, 16)))), "k in k_start .. k_start + n_k & (k - 1) % 16 < 15\n");
    assert_eq!(shown(&Set::SameClass { period: 7, op: 4 }), "k in k_start .. k_start + n_k & (k - q) % 7 < 1\n");
    assert_eq!(shown(&Set::SameDoc), "k in doc_begin(doc(q)) .. doc_end(doc(q))\n");
    let pow2 = shown(&Set::Pow2 { block: 1 });
    assert_eq!(
        pow2,
        "k in q .. q + 1\nfor i0 in 0 .. log2(q - k_start) + 1\n  k in q - pow2(i0) .. q - pow2(i0) + 1\n"
    );
}

#[test]
fn unions_join_where_they_provably_touch() {
    assert_eq!(shown(&Set::Any(vec![window(4), window(8)])), "k in q - 7 .. q + 1\n");
    let key = |k: i64| Set::Affine { a: 1, b: 0, c: -k, op: 4, left: 0 };
    assert_eq!(shown(&Set::Any(vec![key(3), key(5), key(4)])), "k in 3 .. 6\n");
    let early = Set::Affine { a: 1, b: 0, c: -3, op: 0, left: 0 };
    let late = Set::Affine { a: 1, b: 0, c: -3, op: 2, left: 0 };
    assert_eq!(shown(&Set::All(vec![early, late])), "none\n");
}

#[test]
fn grids_become_loops_over_outer_axes() {
    let world = World { text: 3, extents: vec![8, 9], sizes: true, ..line(75) };
    let mut builder = Builder::new(&world);
    let near = |axis| Set::Near { axis, lo: -1, len: 3, clamp: false };
    let id = builder.build(&Set::All(vec![near(0), near(1)]));
    let mut program = builder.program;
    let found = row_set(&mut program, id, Role::Row);
    assert_eq!(
        rows_text(&program, &found.rows),
        "for i0 in max(0, (q - s0) / s2 - 1) .. min(s1, (q - s0) / s2 + 2) at s0 by s2\n  \
           if s0 <= q\n    \
             k in s0 + max(0, (q - s0) % s2 - 1) + s2 * i0 .. s0 + min(s2, (q - s0) % s2 + 2) + s2 * i0\n"
    );
}

#[test]
fn numbers_of_boxes_are_solved_digit_by_digit() {
    let world = World { extents: vec![5, 7, 9], sizes: true, ..line(315) };
    let mut builder = Builder::new(&world);
    let sizes = vec![2, 3, 4];
    let same =
        builder.build(&Set::All(vec![Set::Grid, Set::Box { sizes: sizes.clone(), c: 0, relative: true, op: 4 }]));
    let digits = builder.build(&Set::Digits { sizes, c: 0 });
    let mut program = builder.program;
    for (id, loops) in [(same, 2), (digits, 0)] {
        let found = row_set(&mut program, id, Role::Row);
        assert!(found.exact, "{:?}", found.notes);
        let text = rows_text(&program, &found.rows);
        let [piece] = &*found.rows.pieces else { panic!("one piece:\n{text}") };
        assert!(piece.combs.is_empty() && piece.loops.len() == loops, "{text}");
    }
}

#[test]
fn a_set_of_too_many_pieces_stays_exact() {
    let odd = |i: i64| Set::Affine { a: 1, b: 0, c: -2 * i, op: 4, left: 0 };
    let set = Set::Any((0..200).map(odd).collect());
    let (mut program, id) = open_program(&line(1), &set);
    let found = row_set(&mut program, id, Role::Row);
    assert!(!found.exact && found.rows.pieces.len() == 1 && found.notes.len() == 1, "{:?}", found.notes);
    let world = line(50);
    let data = Data::new(&world);
    let row = Rows::new(&program, &found.rows).row(&data.env(&world), 7).unwrap();
    assert!(row.ranges().map(|r| *r.start()).eq((0..25).map(|i| 2 * i)));
}

#[test]
fn a_row_is_made_once_for_queries_that_share_it() {
    let causal = Set::Affine { a: 1, b: -1, c: 0, op: 1, left: 0 };
    let blocks = Set::Pow2 { block: 8 };
    let world = line(64);
    let data = Data::new(&world);
    // Queries of a block have one row, and causal ones a row each: that of the block, up to themselves.
    for (set, each) in [(blocks.clone(), 8), (Set::All(vec![blocks, causal]), 1)] {
        let (mut program, id) = open_program(&line(1), &set);
        let found = row_set(&mut program, id, Role::Row);
        let rows = Rows::new(&program, &found.rows);
        let env = data.env(&world);
        let (mut walker, mut last) = (rows.walker(&env).unwrap(), None);
        for q in (0..64).chain([5, 5, 70, 6]) {
            assert_eq!(walker.go_to(q).unwrap(), last.replace(q / each) != Some(q / each), "query {q}");
            let alone = rows.row(&env, q).unwrap();
            assert!(walker.here().ranges().eq(alone.ranges()), "query {q}");
        }
    }
}

#[test]
fn an_overflow_is_an_error() {
    let (mut program, id) = open_program(&line(1), &Set::Affine { a: 1, b: -(1 << 62), c: 0, op: 0, left: 0 });
    let found = row_set(&mut program, id, Role::Row);
    let world = line(9);
    let data = Data::new(&world);
    let rows = Rows::new(&program, &found.rows);
    assert!(rows.row(&data.env(&world), 1).is_ok());
    assert_eq!(rows.row(&data.env(&world), 8), Err(EvalError::Overflow { q: 8 }));
}

#[test]
fn data_that_is_missing_is_an_error() {
    let (mut program, id) = open_program(&line(1), &Set::SameDoc);
    let found = row_set(&mut program, id, Role::Row);
    let env = Env { n_q: 4, n_k: 4, ..Env::default() };
    let missing = Rows::new(&program, &found.rows).row(&env, 0);
    assert_eq!(missing, Err(EvalError::Missing { what: "document offsets".into() }));
}

#[test]
fn tiles_of_bands_and_blocks_are_exact() {
    let near = Set::Near { axis: 0, lo: -3, len: 7, clamp: true };
    for set in [window(5), Set::Blocks { block: 4, lo: -1, len: 2 }, Set::Abs { c: 1, w: 6, op: 0 }, near] {
        let mut world = line(40);
        world.extents = vec![40, 1];
        let mut builder = Builder::new(&world);
        let id = builder.build(&set);
        let mut program = builder.program;
        let data = Data::new(&world);
        let env = data.env(&world);
        let expected = truth(&program, &env, id);
        let rows = row_set(&mut program, id, Role::Row).rows;
        let set_of_tiles = tile_set(&mut program.exprs, &rows);
        let tiles = Tiles::new(&program, &set_of_tiles);
        for size in [1, 3, 8] {
            for first in (0..40).step_by(size as usize) {
                let last = (first + size - 1).min(39);
                let row = tiles.row(&env, first, last).unwrap();
                for k in 0..40_i64 {
                    let of = |q: i64| expected[q as usize][k as usize];
                    assert_eq!(
                        row.may.contains(k),
                        (first..=last).any(of),
                        "may: key {k}, queries {first}..={last}: {set:?}"
                    );
                    assert_eq!(
                        row.must.contains(k),
                        (first..=last).all(of),
                        "must: key {k}, queries {first}..={last}: {set:?}"
                    );
                }
            }
        }
    }
}
