//! Declared orders as permutations: the index of every position of the sequence.
//!
//! One idea serves all curves: each cell of the segment's grid has a key (coordinates in another nesting,
//! a tile and a place in it, interleaved bits, a place on a curve), and its index is the rank of its key.
//! Cells outside the grid are thus left out by themselves, and short tiles at the edge need no care.
//! Axes that an order leaves out are outermost, in the order of the space. Positions of other segments
//! keep their places. A sort takes its keys from a tensor instead, one for each position that it moves.
//! Nothing here knows of expressions beyond the sizes it reads.

use std::sync::Arc;

use crate::env::Env;
use crate::expr::{AxisId, ExprId, OrderId, TensorId};
use crate::oracle::{Evaluator, Point};
use crate::prepare::EnvError;
use crate::program::{OrderKind, Program};

/// The longest sequence that may have an order. With it, every key below fits in 64 bits: it is less than
/// the square of the number of cells.
pub const MAX_POSITIONS: i64 = 1 << 28;

/// The index in `order` of each position, from 0 to the last that a query, a key or a segment has.
///
/// # Errors
/// Sizes that are missing, negative or too large, an order over axes that do not form its segment, or values
/// that cannot be sorted or are not as many as there are positions.
pub fn index(program: &Program, order: OrderId, env: &Env<'_>) -> Result<Arc<[u32]>, EnvError> {
    let declared = program.order(order);
    let fail = |reason: String| EnvError::Order { name: declared.name.clone(), reason, span: declared.span };
    let values = match declared.kind {
        OrderKind::Sort(by) => values(program, by, env).map_err(fail)?,
        _ => &[],
    };
    let Laid { begin, cells, axes, total } = laid(program, order, env, values.len())?;
    if total > MAX_POSITIONS {
        return Err(fail(format!("is one of {total} positions, and {MAX_POSITIONS} are possible")));
    }
    let mut index: Vec<u32> = (0..total as u32).collect();
    if let OrderKind::Sort(_) = declared.kind
        && values.len() as i64 != cells
    {
        return Err(fail(format!("sorts {cells} positions by {} values", values.len())));
    }
    let key = key_of(&declared.kind, &axes).map_err(fail)?;
    let mut coords = vec![0; axes.len()];
    let mut ranked: Vec<(u64, u32)> = Vec::with_capacity(cells as usize);
    for cell in 0..cells {
        let mut rest = cell;
        for (c, axis) in coords.iter_mut().zip(&axes).rev() {
            *c = rest % axis.extent;
            rest /= axis.extent;
        }
        let sorted = values.get(cell as usize).map(|&v| ascending(v));
        ranked.push((sorted.unwrap_or_else(|| key(&coords)), cell as u32));
    }
    sort(&mut ranked);
    for (rank, (_, cell)) in ranked.into_iter().enumerate() {
        index[begin as usize + cell as usize] = begin as u32 + rank as u32;
    }
    Ok(index.into())
}

/// Sorts cells, which ascend, by key: digit by digit, from the lowest, since keys of a grid have few.
fn sort(ranked: &mut Vec<(u64, u32)>) {
    const DIGIT: u32 = 11;
    const VALUES: usize = 1 << DIGIT;
    if ranked.len() < VALUES {
        return ranked.sort_unstable();
    }
    let bits = u64::BITS - ranked.iter().fold(0, |all, (key, _)| all | key).leading_zeros();
    let mut sorted = vec![(0, 0); ranked.len()];
    for shift in (0..bits).step_by(DIGIT as usize) {
        let digit = |key: u64| (key >> shift) as usize % VALUES;
        let mut places = [0_usize; VALUES];
        ranked.iter().for_each(|&(key, _)| places[digit(key)] += 1);
        let mut before = 0;
        for place in &mut places {
            before += std::mem::replace(place, before);
        }
        for &(key, cell) in &*ranked {
            let place = &mut places[digit(key)];
            sorted[*place] = (key, cell);
            *place += 1;
        }
        std::mem::swap(ranked, &mut sorted);
    }
}

/// Where the cells of an order lie.
struct Laid {
    begin: i64,
    cells: i64,
    axes: Vec<Axis>,
    /// Positions that the order gives an index.
    total: i64,
}

/// Lays an order out; `sorted` is how many values it sorts by.
fn laid(program: &Program, order: OrderId, env: &Env<'_>, sorted: usize) -> Result<Laid, EnvError> {
    let declared = program.order(order);
    let fail = |reason: String| EnvError::Order { name: declared.name.clone(), reason, span: declared.span };
    let mut axes = Vec::new();
    let (begin, cells) = match declared.segment.map(|s| &program.space.segments[s]) {
        None => (0, sorted as i64),
        Some(segment) => {
            let mut cells = 1_i64;
            for &axis in &segment.axes {
                let extent = size(program, env, program.axis(axis).extent)?;
                cells = cells.checked_mul(extent).ok_or_else(|| fail("has more cells than can be counted".into()))?;
                axes.push(Axis { id: axis, extent });
            }
            if segment.axes.is_empty() {
                cells = size(program, env, segment.len)?;
            }
            (size(program, env, segment.begin)?, cells)
        }
    };
    let ends = [begin.saturating_add(cells), env.q_start.saturating_add(env.n_q), env.k_start.saturating_add(env.n_k)];
    let mut total = ends.into_iter().max().unwrap_or(0);
    if let Some(fixed) = program.space.total {
        total = total.max(size(program, env, fixed)?);
    }
    Ok(Laid { begin, cells, axes, total })
}

/// How many positions the index of an order has; 0 if it has none.
#[must_use]
pub fn positions(program: &Program, order: OrderId, env: &Env<'_>) -> usize {
    match env.orders.get(order.0 as usize).filter(|known| !known.is_empty()) {
        Some(known) => known.len(),
        None => laid(program, order, env, 0).map_or(0, |laid| laid.total as usize),
    }
}

/// As [`index`]: what the environment has, or made anew for an order that only a schedule knows.
///
/// # Errors
/// As for [`index`].
pub fn of(program: &Program, order: OrderId, env: &Env<'_>) -> Result<Arc<[u32]>, EnvError> {
    match env.orders.get(order.0 as usize).filter(|known| !known.is_empty()) {
        Some(known) => Ok(known.clone()),
        None => index(program, order, env),
    }
}

/// The queries of a launch, by number within it, as they come in `order`.
///
/// # Errors
/// As for [`index`].
pub fn walk(program: &Program, order: OrderId, env: &Env<'_>) -> Result<Vec<u32>, EnvError> {
    let index = of(program, order, env)?;
    // Where the launch has every position, ranks are numbers; else what is missing leaves no gap.
    let (start, len) = (env.q_start as usize, env.n_q as usize);
    let mut walk = vec![u32::MAX; index.len()];
    for (number, &rank) in index[start..start + len].iter().enumerate() {
        walk[rank as usize] = number as u32;
    }
    walk.retain(|&number| number != u32::MAX);
    Ok(walk)
}

/// The position that has each index; an index that no position has is its own.
#[must_use]
pub fn inverse(index: &[u32]) -> Arc<[u32]> {
    let mut positions: Vec<u32> = (0..index.len() as u32).collect();
    for (position, &at) in index.iter().enumerate() {
        if let Some(slot) = positions.get_mut(at as usize) {
            *slot = position as u32;
        }
    }
    positions.into()
}

/// Positions `start .. start + len` as they come in an order: for each its index and its number from `start`,
/// ascending by index. `None` if the order does not give each of them an index of its own.
#[must_use]
pub fn ranked(index: &[u32], start: i64, len: i64) -> Option<Vec<(u32, u32)>> {
    let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
    let mut number = vec![u32::MAX; index.len()];
    for (i, &at) in index.get(start..start.checked_add(len)?)?.iter().enumerate() {
        *number.get_mut(at as usize)? = i as u32;
    }
    let ranked = number.into_iter().enumerate().filter(|n| n.1 != u32::MAX).map(|(at, i)| (at as u32, i));
    let ranked: Vec<(u32, u32)> = ranked.collect();
    (ranked.len() == len).then_some(ranked)
}

/// A size of the launch that cannot be negative.
///
/// # Errors
/// An expression without a value, or with one that is no size.
pub fn size(program: &Program, env: &Env<'_>, expr: ExprId) -> Result<i64, EnvError> {
    let value = Evaluator::new(program, env, &[expr]).int(expr, Point::default())?;
    match i64::try_from(value) {
        Ok(v) if v >= 0 => Ok(v),
        _ => Err(EnvError::Space { value }),
    }
}

/// What the head of `env` sorts by, one value for each position.
fn values<'e>(program: &Program, by: TensorId, env: &'e Env<'_>) -> Result<&'e [f32], String> {
    let name = &program.tensor(by).name;
    let given = env.tensors.get(by.0 as usize).ok_or_else(|| format!("sorts by `{name}`, which was not given"))?;
    let head = usize::try_from(env.head).unwrap_or(usize::MAX);
    let own = match *given.dims {
        [_] => Some(&given.data[..]),
        [_, n] => given.data.get(head.saturating_mul(n)..head.saturating_add(1).saturating_mul(n)),
        _ => None,
    };
    let own = own.ok_or_else(|| format!("sorts by `{name}`, which has no row for head {head}"))?;
    match own.iter().position(|v| v.is_nan()) {
        Some(at) => Err(format!("sorts by `{name}`, whose element {at} is not a number")),
        None => Ok(own),
    }
}

/// A key that orders like the number; the two zeros are one.
fn ascending(value: f32) -> u64 {
    let bits = (value + 0.0).to_bits();
    u64::from(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
}

struct Axis {
    id: AxisId,
    extent: i64,
}

/// What cells are sorted by: a key from coordinates, one for each axis of the segment.
type Key = Box<dyn Fn(&[i64]) -> u64>;

fn key_of(kind: &OrderKind, axes: &[Axis]) -> Result<Key, String> {
    let listed: Vec<AxisId> = match kind {
        OrderKind::Raster(ids) | OrderKind::Morton(ids) | OrderKind::Hilbert(ids) => ids.clone(),
        OrderKind::Tile(tiles) => tiles.iter().map(|&(id, _)| id).collect(),
        OrderKind::Spread(tiles) => tiles.iter().map(|&(id, ..)| id).collect(),
        OrderKind::Sort(_) => vec![],
    };
    let mut places = Vec::new();
    for id in &listed {
        let place = axes.iter().position(|a| a.id == *id).ok_or("names an axis of another segment")?;
        if places.contains(&place) {
            return Err("names an axis twice".into());
        }
        places.push(place);
    }
    let extent = |place: usize| axes[place].extent.max(1);
    let mut nest: Vec<_> = (0..axes.len()).filter(|p| !places.contains(p)).map(|p| (p, extent(p))).collect();
    let left_out = nest.clone();
    let outer = move |coords: &[i64]| nested(left_out.iter().map(|&(p, extent)| (coords[p], extent)));
    match kind {
        OrderKind::Raster(_) => {
            nest.extend(places.into_iter().map(|p| (p, extent(p))));
            Ok(row_major(nest))
        }
        OrderKind::Tile(tiles) => {
            if tiles.iter().any(|&(_, tile)| tile < 1) {
                return Err("has a tile smaller than 1".into());
            }
            let tiles: Vec<_> =
                places.iter().zip(tiles).map(|(&p, &(_, t))| (p, extent(p), t.min(extent(p)))).collect();
            Ok(Box::new(move |c| {
                let outer = nest.iter().map(|&(p, extent)| (c[p], extent));
                let tile = tiles.iter().map(|&(p, extent, tile)| (c[p] / tile, (extent - 1) / tile + 1));
                let inside = tiles.iter().map(|&(p, _, tile)| (c[p] % tile, tile));
                nested(outer.chain(tile).chain(inside))
            }))
        }
        OrderKind::Spread(tiles) => {
            if tiles.iter().any(|&(_, tile, distance)| tile < 1 || distance < 1) {
                return Err("has a tile or a distance smaller than 1".into());
            }
            let places: Vec<_> = places.iter().zip(tiles).map(|(&p, &(_, t, d))| (p, extent(p), t, d)).collect();
            // Where two boxes side by side fill a row, whole rows share as many keys as boxes do, and follow one another.
            if let [(outer, .., 1), (inner, width, tile, 1)] = places[..]
                && width <= 2 * tile
            {
                nest.extend([outer, inner].map(|p| (p, extent(p))));
                return Ok(row_major(nest));
            }
            let along = |i: usize, tile: i64| {
                let bits = |&(_, extent, t, d): &(usize, i64, i64, i64)| bits(((extent - 1) / d / t + 1).max(1));
                let curve: Vec<(usize, u32)> = places.iter().map(bits).enumerate().collect();
                let coords: Vec<i64> = (0..places.len()).map(|j| if i == j { tile } else { 0 }).collect();
                morton(&curve, &coords)
            };
            // A tile's place on the curve is less than this.
            let all: u64 =
                places.iter().enumerate().map(|(i, &(_, extent, t, d))| along(i, (extent - 1) / d / t)).sum();
            let curve = (all + 1).next_power_of_two();
            let cells: u64 = places.iter().map(|p| p.2 as u64).product();
            // What each coordinate adds to the key. Where there are no cells an axis may be as long as it likes.
            let none = axes.iter().any(|a| a.extent == 0);
            let mut parts = Vec::with_capacity(places.len());
            for (i, &(p, extent, t, d)) in places.iter().enumerate() {
                let (mut inside, mut residue) = (1, cells * curve);
                for &(.., t, d) in &places[i + 1..] {
                    (inside, residue) = (inside * t as u64, residue * d as u64);
                }
                let part =
                    |c: i64| along(i, c / d / t) * cells + (c / d % t) as u64 * inside + (c % d) as u64 * residue;
                parts.push((p, (0..if none { 0 } else { extent }).map(part).collect::<Vec<u64>>()));
            }
            let outermost: u64 = places.iter().map(|p| p.3 as u64).product::<u64>() * cells * curve;
            Ok(Box::new(move |c| {
                outer(c) * outermost + parts.iter().map(|(p, part)| part[c[*p] as usize]).sum::<u64>()
            }))
        }
        OrderKind::Morton(_) => {
            let places: Vec<_> = places.into_iter().map(|p| (p, bits(extent(p)))).collect();
            let width: u32 = places.iter().map(|&(_, bits)| bits).sum();
            Ok(Box::new(move |c| outer(c) << width | morton(&places, c)))
        }
        OrderKind::Hilbert(_) => {
            let [y, x] = places[..] else { return Err("is a Hilbert curve of other than two axes".into()) };
            let bits = bits(extent(y).max(extent(x)));
            Ok(Box::new(move |c| outer(c) << (2 * bits) | hilbert(bits, c[x] as u64, c[y] as u64)))
        }
        // Sorted by values, not by coordinates.
        OrderKind::Sort(_) => Ok(Box::new(outer)),
    }
}

/// Row-major order of axes with their extents, outermost first.
fn row_major(nest: Vec<(usize, i64)>) -> Key {
    Box::new(move |c| nested(nest.iter().map(|&(p, extent)| (c[p], extent))))
}

/// Row-major index of (coordinate, extent) pairs, outermost first.
fn nested(coords: impl Iterator<Item = (i64, i64)>) -> u64 {
    coords.fold(0, |index, (c, extent)| index * extent as u64 + c as u64)
}

/// Bits that the coordinates below `extent` need.
fn bits(extent: i64) -> u32 {
    i64::BITS - (extent - 1).leading_zeros()
}

/// Bits of the coordinates at `places` (with the bits each has) interleaved, the last axis lowest. A bit
/// that is 0 for every cell is left out: it orders nothing, and the rest fits in 64 bits.
fn morton(places: &[(usize, u32)], coords: &[i64]) -> u64 {
    let (mut code, mut at) = (0, 0);
    for bit in 0..places.iter().map(|&(_, bits)| bits).max().unwrap_or(0) {
        for &(place, _) in places.iter().rev().filter(|&&(_, bits)| bit < bits) {
            code |= (coords[place] as u64 >> bit & 1) << at;
            at += 1;
        }
    }
    code
}

/// Place of (x, y) on Hilbert's curve in a square of side `2^bits`, from (0, 0) to (2^bits - 1, 0).
fn hilbert(bits: u32, mut x: u64, mut y: u64) -> u64 {
    let mut place = 0;
    for bit in (0..bits).rev() {
        let (right, up) = (x >> bit & 1, y >> bit & 1);
        place = place << 2 | ((3 * right) ^ up);
        // Each quadrant holds the curve of the whole: mirrored at a diagonal in the lower two.
        let mask = (1 << bit) - 1;
        (x, y) = (x & mask, y & mask);
        if up == 0 {
            if right == 1 {
                (x, y) = (mask - x, mask - y);
            }
            (x, y) = (y, x);
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{self, Order, Program, Segment, Space};
    use proptest::prelude::*;

    /// `head[3] ++ grid(extents)`, with one order.
    fn grid(extents: &[i64], kind: OrderKind) -> Program {
        let mut p = Program::default();
        let (zero, three) = (p.exprs.int(0), p.exprs.int(3));
        let cells = p.exprs.int(extents.iter().product());
        let total = p.exprs.int(3 + extents.iter().product::<i64>());
        let mut stride = 1;
        let mut axes = Vec::new();
        for (i, &extent) in extents.iter().enumerate().rev() {
            let (e, s) = (p.exprs.int(extent), p.exprs.int(stride));
            axes.insert(
                0,
                program::Axis { name: format!("a{i}"), segment: 1, extent: e, stride: s, span: Default::default() },
            );
            stride *= extent;
        }
        let line = Segment { name: "head".into(), begin: zero, len: three, axes: vec![], open: false };
        let ids = (0..extents.len() as u32).map(AxisId).collect();
        let video = Segment { name: "grid".into(), begin: three, len: cells, axes: ids, open: false };
        p.space = Space { segments: vec![line, video], axes, total: Some(total) };
        p.orders.push(Order { name: "z".into(), segment: Some(1), kind, span: Default::default() });
        p
    }

    /// Cells of the grid in the order, by their row-major number.
    fn walk(extents: &[i64], kind: OrderKind) -> Vec<usize> {
        let index = index(&grid(extents, kind), OrderId(0), &Env::default()).unwrap();
        let mut walk = vec![usize::MAX; index.len()];
        index.iter().enumerate().for_each(|(position, &i)| walk[i as usize] = position);
        assert_eq!(walk[..3], [0, 1, 2]);
        walk[3..].iter().map(|p| p - 3).collect()
    }

    fn ids(axes: &[u32]) -> Vec<AxisId> {
        axes.iter().map(|&a| AxisId(a)).collect()
    }

    #[test]
    fn raster_is_the_closed_form() {
        let walked = walk(&[2, 3, 4], OrderKind::Raster(ids(&[1, 2, 0])));
        let mut expected = Vec::new();
        for b in 0..3 {
            for c in 0..4 {
                for a in 0..2 {
                    expected.push(a * 12 + b * 4 + c);
                }
            }
        }
        assert_eq!(walked, expected);
    }

    #[test]
    fn short_tiles_stand_at_the_edge() {
        let walked = walk(&[3, 5], OrderKind::Tile(vec![(AxisId(0), 2), (AxisId(1), 2)]));
        assert_eq!(walked, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        let one = walk(&[2, 4], OrderKind::Tile(vec![(AxisId(1), 3)]));
        assert_eq!(one, [0, 1, 2, 3, 4, 5, 6, 7]);
        let inner = walk(&[2, 4], OrderKind::Tile(vec![(AxisId(1), 2), (AxisId(0), 2)]));
        assert_eq!(inner, [0, 4, 1, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn many_cells_are_sorted_as_few() {
        for mask in [0, 1, 0xfff, u64::MAX] {
            let random = (0..5000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) & mask);
            let mut ranked: Vec<(u64, u32)> = random.zip(0..).collect();
            let mut expected = ranked.clone();
            expected.sort_unstable();
            sort(&mut ranked);
            assert_eq!(ranked, expected);
        }
    }

    #[test]
    fn boxes_of_a_schedule_come_along_a_curve() {
        // Boxes of two by two on four by eight cells: the four on the left, then those on the right.
        let boxes = |distance: i64| OrderKind::Spread(vec![(AxisId(0), 2, distance), (AxisId(1), 2, distance)]);
        let walked = walk(&[4, 8], boxes(1));
        let firsts: Vec<usize> = walked.iter().step_by(4).copied().collect();
        assert_eq!(firsts, [0, 2, 16, 18, 4, 6, 20, 22]);
        // Rows of two boxes are walked as they are.
        assert!(walk(&[6, 4], boxes(1)).into_iter().eq(0..24));
        assert!(walked.chunks(4).all(|cells| cells[1..].iter().map(|c| c - cells[0]).eq([1, 8, 9])));
        // Of cells two apart, residues outermost; boxes at the edge are short.
        assert_eq!(walk(&[2, 6], boxes(2)), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        // The axis left out is outermost, and nothing is made for a grid without cells.
        let outer = walk(&[2, 2, 6], OrderKind::Spread(vec![(AxisId(1), 2, 1), (AxisId(2), 2, 1)]));
        assert_eq!(outer[..12], [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert!(walk(&[0, 1 << 40], boxes(1)).is_empty());
    }

    #[test]
    fn morton_of_a_square_and_of_an_odd_grid() {
        let walked = walk(&[4, 4], OrderKind::Morton(ids(&[0, 1])));
        assert_eq!(walked, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        assert_eq!(walk(&[3, 3], OrderKind::Morton(ids(&[0, 1]))), [0, 1, 3, 4, 2, 5, 6, 7, 8]);
        // The axis left out is outermost.
        assert_eq!(walk(&[2, 2, 2], OrderKind::Morton(ids(&[2, 0]))), [0, 4, 1, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn hilbert_of_small_squares() {
        assert_eq!(walk(&[2, 2], OrderKind::Hilbert(ids(&[0, 1]))), [0, 2, 3, 1]);
        let walked = walk(&[4, 4], OrderKind::Hilbert(ids(&[0, 1])));
        assert_eq!(walked, [0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3]);
        assert_eq!(walk(&[3, 3], OrderKind::Hilbert(ids(&[0, 1]))), [0, 1, 4, 3, 6, 7, 8, 5, 2]);
    }

    #[test]
    fn hilbert_steps_to_a_neighbour() {
        let side = 32;
        let walked = walk(&[side, side], OrderKind::Hilbert(ids(&[0, 1])));
        let cell = |i: usize| (walked[i] as i64 / side, walked[i] as i64 % side);
        for i in 1..walked.len() {
            let ((y, x), (v, u)) = (cell(i - 1), cell(i));
            assert_eq!((y - v).abs() + (x - u).abs(), 1, "at {i}");
        }
    }

    #[test]
    fn a_sort_is_stable_and_knows_its_head() {
        let mut p = grid(&[2, 3], OrderKind::Sort(TensorId(0)));
        let six = p.exprs.int(6);
        let heads = p.exprs.var(crate::expr::Var::Heads);
        p.tensors.push(program::Tensor {
            name: "b".into(),
            dims: vec![heads, six],
            of: None,
            span: Default::default(),
        });
        let data = [0.0; 6].into_iter().chain([2.0, -0.0, 0.0, -3.5, f32::INFINITY, 0.0]).collect::<Vec<f32>>();
        let sorted = |data: &[f32], dims: &[usize], head| {
            let tensor = crate::env::TensorData { data: data.to_vec().into(), dims: dims.to_vec() };
            index(&p, OrderId(0), &Env { head, heads: 2, tensors: vec![tensor], ..Env::default() })
        };
        assert_eq!(sorted(&data, &[2, 6], 0).unwrap()[..], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(sorted(&data, &[2, 6], 1).unwrap()[..], [0, 1, 2, 7, 4, 5, 3, 8, 6]);
        assert!(sorted(&data, &[2, 6], 2).is_err());
        assert!(sorted(&data, &[12], 0).is_err());
        assert!(sorted(&[f32::NAN; 6], &[6], 0).unwrap_err().to_string().contains("element 0"));
    }

    #[test]
    fn bad_orders_are_errors() {
        for kind in [OrderKind::Hilbert(ids(&[0])), OrderKind::Morton(ids(&[0, 0])), OrderKind::Raster(ids(&[7]))] {
            assert!(matches!(index(&grid(&[2, 2], kind), OrderId(0), &Env::default()), Err(EnvError::Order { .. })));
        }
    }

    proptest! {
        #[test]
        fn every_order_is_a_permutation(
            extents in proptest::array::uniform3(0_i64..7),
            tiles in proptest::array::uniform3(1_i64..5),
            which in 0..4,
            turn in 0_u32..3,
        ) {
            let axes: Vec<u32> = (0..3).map(|i| (i + turn) % 3).collect();
            let kind = match which {
                0 => OrderKind::Raster(ids(&axes)),
                1 => OrderKind::Tile(ids(&axes).into_iter().zip(tiles).collect()),
                2 => OrderKind::Morton(ids(&axes)),
                _ => OrderKind::Hilbert(ids(&axes[..2])),
            };
            let mut walked = walk(&extents, kind);
            walked.sort_unstable();
            prop_assert!(walked.into_iter().eq(0..extents.iter().product::<i64>() as usize));
        }
    }
}
