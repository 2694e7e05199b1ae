//! The row-set analysis against the oracle: random sets, every pair looked at.
//!
//! Sets are drawn as small trees that print readably and shrink; each is built into a program, analysed, and
//! compared with the predicate evaluated pair by pair.

use std::sync::Arc;

use attnc_pattern::analysis::{Analysis, Class, Role, Rows, Tiles, count, row_set, tile_set, transpose};
use attnc_pattern::analysis::print::{rows_text, tiles_text};
use attnc_pattern::env::{DrawTable, Env, MapData};
use attnc_pattern::expr::{AxisId, Cmp, DrawId, ExprId, Exprs, MapId, Node, OrderId, SizeId, Un, Var};
use attnc_pattern::oracle::{Evaluator, Point};
use attnc_pattern::program::{
    Axis, Draw, DrawScope, Map, MapKind, Order, OrderKind, Program, Segment, Size, Space,
};
use attnc_syntax::diag::Span;
use proptest::prelude::*;

/// A set.
#[derive(Clone, Debug)]
enum Set {
    /// `a * k + b * q + c op 0`, its terms on either side.
    Affine { a: i64, b: i64, c: i64, op: u8, left: u8 },
    /// `lo <= q / block - k / block <= hi`
    Blocks { block: i64, lo: i64, len: i64 },
    /// `(s * (k - q) / block + c) % period < width`, `q` or not.
    Comb { relative: bool, flip: bool, block: i64, c: i64, period: i64, width: i64 },
    /// `k % period op q % period`
    SameClass { period: i64, op: u8 },
    /// `(c * k + q) % period == r`
    Multiple { c: i64, period: i64, r: i64 },
    /// `|q - k - c| op w`
    Abs { c: i64, w: i64, op: u8 },
    /// `(q - k - c)^2 op w`
    Square { c: i64, w: i64, op: u8 },
    /// `min(k, q - c) op max(d, k - q)`
    Extremes { c: i64, d: i64, op: u8 },
    /// `k - k % block op q - c`
    Floor { block: i64, c: i64, op: u8 },
    /// Distance in blocks is 0 or a power of two.
    Pow2 { block: i64 },
    /// `if q < c { k < d } else { k >= d }`
    Choice { c: i64, d: i64 },
    SameDoc,
    /// `each doc { 0 <= q - k < w }`
    DocWindow { w: i64 },
    DocOf { op: u8, doc: i64 },
    Map { number: u32 },
    Drawn { number: u32 },
    /// Coordinates `lo <= k.axis - q.axis <= hi`, clamped at the edges or not.
    Near { axis: usize, lo: i64, len: i64, clamp: bool },
    /// Equal residues on an axis.
    Dilated { axis: usize, period: i64 },
    /// A comparison of a coordinate with a constant.
    Coordinate { axis: usize, c: i64, op: u8 },
    /// A distance over some axes.
    Disc { axes: Vec<usize>, r: i64, inside: bool },
    /// Both tokens in the grid.
    Grid,
    /// A window of the index in the order.
    Along { c: i64, w: i64 },
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
            axes.push(Axis { name: format!("a{i}"), segment: usize::from(!world.text_last), extent: x, stride });
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
            segment: usize::from(!world.text_last),
            kind: OrderKind::Raster(raster),
            span: Span::default(),
        });
        for (i, kind) in [MapKind::Bool, MapKind::Blocks(3), MapKind::Csr].into_iter().enumerate() {
            program.maps.push(Map { name: format!("m{i}"), kind, per_head: false, span: Span::default() });
        }
        let all = program.exprs.bool(true);
        for (unit, scope) in [(1, DrawScope::Row), (4, DrawScope::Row), (4, DrawScope::Head)] {
            program.draws.push(Draw { count: 3, seed: 1, of: all, unit, scope, span: Span::default() });
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
        let dense = (0..n_q * n_k).map(|_| u8::from(noise(&mut s) % 3 == 0)).collect();
        let (rows, block_cols) = (n_q.div_ceil(3), n_k.div_ceil(3));
        let blocks = (0..rows * block_cols).map(|_| u8::from(noise(&mut s) % 3 == 0)).collect();
        let (mut indptr, mut indices) = (vec![0], vec![]);
        for _ in 0..n_q {
            indices.extend((0..w.n_k).filter(|_| noise(&mut s) % 4 == 0));
            indptr.push(indices.len() as i64);
        }
        let total = w.text + w.extents.iter().product::<i64>();
        let draws = [(1, false), (4, false), (4, true)].map(|(unit, head)| {
            let (first, last) = (w.q_start / unit, (w.q_start + w.n_q) / unit);
            let rows = if head { 1 } else { last - first + 1 };
            let mut chosen = vec![];
            for _ in 0..rows {
                let mut row: Vec<i64> = (0..noise(&mut s) % 4).map(|_| (noise(&mut s) as i64) % (total / unit + 1)).collect();
                row.sort_unstable();
                row.dedup();
                row.resize(3, -1);
                chosen.extend(row);
            }
            DrawTable { chosen: chosen.into(), count: 3, first: if head { 0 } else { first } }
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
        Data { dense, blocks, block_cols, indptr, indices, draws: draws.to_vec(), order: order.into() }
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

fn check_rows(program: &Program, analysis: &Analysis, env: &Env<'_>, expected: impl Fn(i64, i64) -> bool) -> Result<(), TestCaseError> {
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

fn check_tiles(program: &mut Program, analysis: &Analysis, env: &Env<'_>, size: (i64, i64), expected: &[Vec<bool>]) -> Result<(), TestCaseError> {
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
            prop_assert!(!some || row.may.contains(k), "may misses key {k} of queries {first}..={last} in\n{}", tiles_text(tiles_of, &set));
            prop_assert!(every || !row.must.contains(k), "must claims key {k} of queries {first}..={last} in\n{}", tiles_text(tiles_of, &set));
        }
        let listed: Vec<(i64, Class)> = row.tiles(env, size.1).collect();
        for tile in 0..env.n_k.div_euclid(size.1) + 1 {
            let columns = (tile * size.1) as usize..((tile + 1) * size.1).min(env.n_k).max(tile * size.1) as usize;
            let pairs = || (first..=last).flat_map(|q| columns.clone().map(move |c| of(q)[c]));
            match listed.iter().find(|t| t.0 == tile) {
                None => prop_assert!(!pairs().any(|p| p), "tile {tile} of queries {first} is not listed"),
                Some((_, Class::Full)) => prop_assert!(pairs().all(|p| p), "tile {tile} of queries {first} is not full"),
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
    (extents, 0..5_i64, any::<bool>(), any::<bool>(), any::<u64>(), (0..1000_i64, 0..1000_i64, 0..1000_i64, 0..1000_i64))
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
        1 => Just(Set::Grid),
        1 => (-5..5_i64, 1..9_i64).prop_map(|(c, w)| Set::Along { c, w }),
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
    #![proptest_config(ProptestConfig { cases: 20000, failure_persistence: None, ..ProptestConfig::default() })]

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
