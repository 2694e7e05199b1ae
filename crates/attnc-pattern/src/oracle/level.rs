//! Levels from their definition: Q, K and V of every slot, member by member, in f64.

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::sources::{Matrix, Sources};
use crate::env::{Env, Side};
use crate::expr::{ExprId, LevelId};
use crate::program::{Partition, Pool, Program};
use crate::slots::by_output;

/// Q, K and V of a level for one query head; what is not derived is that of the parent.
#[derive(Clone, Debug)]
pub(super) struct Pooled {
    /// By number of slot, from the first.
    pub(super) q: Matrix,
    pub(super) k: Matrix,
    pub(super) v: Matrix,
}

/// The slots of a level: which numbers of the parent (or of tokens, from 0 in the launch) each has.
struct Members {
    of_q: Vec<Vec<usize>>,
    of_k: Vec<Vec<usize>>,
}

/// One number of a launch.
pub(super) fn size(program: &Program, env: &Env<'_>, e: ExprId) -> Result<i64, EvalError> {
    Ok(i64::try_from(Evaluator::new(program, env, &[e]).int(e, Point::default())?).unwrap_or(0).max(0))
}

/// The slot of each position of a launch, if it has one.
pub(super) type Slots = Vec<Option<i64>>;

/// The slot of each query, and of each key, of a launch; `None` outside of the level.
pub(super) fn slots_of(program: &Program, env: &Env<'_>, id: LevelId) -> Result<(Slots, Slots), EvalError> {
    let level = program.level(id);
    let of = |query: bool| -> Result<Slots, EvalError> {
        let (slot, inside) = match query {
            true => (level.slot_q, level.inside.map(|i| i.0)),
            false => (level.slot_k, level.inside.map(|i| i.1)),
        };
        let roots: Vec<ExprId> = inside.into_iter().chain([slot]).collect();
        let mut evaluator = Evaluator::new(program, env, &roots);
        let (start, n) = if query { (env.q_start, env.n_q) } else { (env.k_start, env.n_k) };
        let mut slots = Vec::new();
        for p in start..start + n {
            let point = match query {
                true => Point { q: Some(p), ..Point::default() },
                false => Point { k: Some(p), ..Point::default() },
            };
            let held = match inside {
                Some(inside) => evaluator.truth(inside, point)?,
                None => true,
            };
            slots.push(if held { i64::try_from(evaluator.int(slot, point)?).ok() } else { None });
        }
        Ok(slots)
    };
    Ok((of(true)?, of(false)?))
}

/// Members by slot, in the order of the level: by place in its order, else by position.
fn members(program: &Program, env: &Env<'_>, id: LevelId) -> Result<Members, EvalError> {
    let level = program.level(id);
    let slots = size(program, env, level.slots)? as usize;
    if let (Some(parent), Partition::Blocks(block)) = (level.parent, &level.partition) {
        // Slots of the parent, one after the other.
        let parents = size(program, env, program.level(parent).slots)? as usize;
        let block = *block as usize;
        let blocks: Vec<Vec<usize>> =
            (0..slots).map(|s| (s * block..((s + 1) * block).min(parents)).collect()).collect();
        // Of queries only the parents that have some.
        let (of_q, _) = slots_of(program, env, parent)?;
        let has = |p: &usize| of_q.contains(&Some(*p as i64));
        let own: Vec<Vec<usize>> = blocks.iter().map(|b| b.iter().copied().filter(has).collect()).collect();
        return Ok(Members { of_q: own, of_k: blocks });
    }
    let (of_q, of_k) = slots_of(program, env, id)?;
    let place = |position: i64| match level.order.and_then(|o| env.orders.get(o.0 as usize)) {
        Some(index) => index.get(position as usize).map_or(position, |&i| i64::from(i)),
        None => position,
    };
    let gather = |of: &[Option<i64>], start: i64| {
        let mut all: Vec<(i64, i64, usize)> = Vec::new();
        for (i, slot) in of.iter().enumerate() {
            if let Some(slot) = slot {
                all.push((*slot, place(start + i as i64), i));
            }
        }
        all.sort_unstable();
        let mut members = vec![Vec::new(); slots];
        for (slot, _, i) in all {
            if let Some(of_slot) = usize::try_from(slot).ok().and_then(|s| members.get_mut(s)) {
                of_slot.push(i);
            }
        }
        members
    };
    Ok(Members { of_q: gather(&of_q, env.q_start), of_k: gather(&of_k, env.k_start) })
}

/// A level of one query head. `kept` are the channels that a [`Pool::Channels`] keeps.
pub(super) fn pooled(
    program: &Program,
    env: &Env<'_>,
    sources: &Sources,
    id: LevelId,
    head: usize,
    kept: &[i64],
) -> Result<Pooled, EvalError> {
    let level = program.level(id);
    let below = match level.parent {
        Some(parent) => pooled(program, env, sources, parent, head, kept)?,
        None => {
            let kv = sources.kv_head[head];
            Pooled { q: sources.q[head].clone(), k: sources.k[kv].clone(), v: sources.v[kv].clone() }
        }
    };
    let (derives_q, derives_k, derives_v) = (level.of.q, level.of.k, level.of.v);
    // Rows that the caller gives take the place of those from slot `first` on.
    let with_given = |side: Side, first: i64, mut made: Matrix| -> Matrix {
        let Some(given) = env.exchange.levels.get(&(id, side)) else { return made };
        let of = if by_output(program, id, side) { head } else { sources.kv_head[head] };
        let cols = made.cols;
        for (i, row) in given.head(of).chunks_exact(cols.max(1)).enumerate() {
            if let Some(to) = made.data.chunks_exact_mut(cols).nth(first as usize + i) {
                to.iter_mut().zip(row).for_each(|(to, x)| *to = f64::from(*x));
            }
        }
        made
    };
    let tokenwise = |f: &dyn Fn(&Matrix, i64) -> Matrix| Pooled {
        q: if derives_q { with_given(Side::Q, 0, f(&below.q, env.q_start)) } else { below.q.clone() },
        k: if derives_k { with_given(Side::K, 0, f(&below.k, env.k_start)) } else { below.k.clone() },
        v: if derives_v { with_given(Side::V, 0, f(&below.v, env.k_start)) } else { below.v.clone() },
    };
    match &level.pool {
        Pool::Nothing => return Ok(below),
        Pool::Channels(_) => return Ok(tokenwise(&|x, _| channels(x, kept))),
        Pool::Quantised { bits, block } => {
            return Ok(tokenwise(&|x, start| quantised(x, *bits, *block as usize, start as usize)));
        }
        _ => {}
    }
    let members = members(program, env, id)?;
    let weights = match &level.pool {
        Pool::Weighted(tensor) => env.tensors.get(tensor.0 as usize).map(|t| t.data.to_vec()).unwrap_or_default(),
        _ => vec![],
    };
    let places = places(program, env, id, &members.of_k)?;
    let one = |x: &Matrix, members: &[usize], places: &[usize]| -> Vec<f64> {
        let mut row =
            vec![if matches!(level.pool, Pool::Max | Pool::SoftmaxMean) { f64::NEG_INFINITY } else { 0.0 }; x.cols];
        for (n, &i) in members.iter().enumerate() {
            let value = x.row(i);
            for c in 0..x.cols {
                match &level.pool {
                    Pool::Max | Pool::SoftmaxMean => row[c] = row[c].max(value[c]),
                    Pool::Weighted(_) => {
                        let weight = places.get(n).and_then(|&p| weights.get(p)).map_or(0.0, |&w| f64::from(w));
                        row[c] += weight * value[c];
                    }
                    _ => row[c] += value[c],
                }
            }
        }
        if matches!(level.pool, Pool::Mean) {
            row.iter_mut().for_each(|r| *r /= members.len() as f64);
        }
        row
    };
    let all = |x: &Matrix, members: &[Vec<usize>]| {
        let mut pooled = Matrix::new(x.cols);
        for (slot, of_slot) in members.iter().enumerate() {
            pooled.push(&one(x, of_slot, places.get(slot).map_or(&[], |p| p)));
        }
        pooled
    };
    let first_q = first_of_queries(program, env, id)?;
    let q = if derives_q { with_given(Side::Q, first_q, all(&below.q, &members.of_q)) } else { below.q.clone() };
    let k = if derives_k { with_given(Side::K, 0, all(&below.k, &members.of_k)) } else { below.k.clone() };
    let v = match &level.pool {
        _ if !derives_v => below.v.clone(),
        Pool::SoftmaxMean => {
            let scale = 1.0 / (q.cols as f64).sqrt();
            let mut pooled = Matrix::new(below.v.cols);
            for (slot, of_slot) in members.of_k.iter().enumerate() {
                let logits: Vec<f64> =
                    of_slot.iter().map(|&i| scale * super::sources::dot(q.row(slot), below.k.row(i))).collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut row = vec![0.0; below.v.cols];
                for (&i, weight) in of_slot.iter().zip(&weights) {
                    row.iter_mut().zip(below.v.row(i)).for_each(|(r, v)| *r += weight / sum * v);
                }
                pooled.push(&row);
            }
            with_given(Side::V, 0, pooled)
        }
        _ => with_given(Side::V, 0, all(&below.v, &members.of_k)),
    };
    Ok(Pooled { q, k, v })
}

/// The first slot that rows of queries are given and handed back from.
fn first_of_queries(program: &Program, env: &Env<'_>, id: LevelId) -> Result<i64, EvalError> {
    if program.is_scattered(id) {
        return Ok(0);
    }
    Ok(slots_of(program, env, id)?.0.into_iter().flatten().min().unwrap_or(0))
}

/// Rows of a level of one query head as they are handed back.
pub(super) fn handed_back(
    program: &Program,
    env: &Env<'_>,
    sources: &Sources,
    (id, side): (LevelId, Side),
    head: usize,
    kept: &[i64],
) -> Result<Matrix, EvalError> {
    let made = pooled(program, env, sources, id, head, kept)?;
    let tokenwise = matches!(program.level(id).pool, Pool::Channels(_) | Pool::Quantised { .. });
    Ok(match side {
        Side::Q if tokenwise => made.q,
        Side::Q => {
            let first = first_of_queries(program, env, id)?;
            let end = if program.is_scattered(id) {
                made.q.rows() as i64
            } else {
                slots_of(program, env, id)?.0.into_iter().flatten().max().map_or(first, |last| last + 1)
            };
            let mut rows = Matrix::new(made.q.cols);
            (first..end).for_each(|slot| rows.push(made.q.row(slot as usize)));
            rows
        }
        Side::K => made.k,
        Side::V => made.v,
    })
}

/// The place of each member in the weights of a convolution: in its block, or in its box with all its cells.
fn places(program: &Program, env: &Env<'_>, id: LevelId, members: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, EvalError> {
    let level = program.level(id);
    let Pool::Weighted(_) = level.pool else { return Ok(vec![]) };
    let Partition::Axes(axes) = &level.partition else {
        return Ok(members.iter().map(|m| (0..m.len()).collect()).collect());
    };
    // Coordinates in the box, row-major over the axes that are cut.
    let mut extents = Vec::new();
    for &(axis, size_of_box) in axes {
        let axis = program.axis(axis);
        extents.push((size(program, env, axis.extent)?, size(program, env, axis.stride)?, size_of_box.unwrap_or(1)));
    }
    let begin = axes.first().map(|&(axis, _)| program.space.segments[program.axis(axis).segment].begin);
    let begin = begin.map_or(Ok(0), |begin| size(program, env, begin))?;
    let place = |i: usize| {
        let position = env.k_start + i as i64 - begin;
        extents.iter().fold(0, |at, &(extent, stride, b)| at * b + position / stride % extent % b) as usize
    };
    Ok(members.iter().map(|m| m.iter().map(|&i| place(i)).collect()).collect())
}

fn channels(x: &Matrix, kept: &[i64]) -> Matrix {
    let mut masked = x.clone();
    for r in 0..x.rows() {
        for c in 0..x.cols {
            if !kept.contains(&(c as i64)) {
                masked.data[r * x.cols + c] = 0.0;
            }
        }
    }
    masked
}

/// The integer nearest to a / b, both at least 0, ties to even: by the sign of 2 a - (2 n + 1) b, since a quotient that is
/// rounded may fall to either side of a tie.
fn nearest(a: f64, b: f64) -> f64 {
    let n = (a / b).floor();
    let above = 2.0 * a - (2.0 * n + 1.0) * b;
    if above > 0.0 || (above == 0.0 && n % 2.0 == 1.0) { n + 1.0 } else { n }
}

fn quantised(x: &Matrix, bits: u32, block: usize, start: usize) -> Matrix {
    let levels = f64::from((1_u32 << (bits - 1)) - 1);
    let mut rounded = x.clone();
    let rows = x.rows();
    let mut from = 0;
    while from < rows {
        let to = ((start + from) / block * block + block - start).min(rows);
        let part = &mut rounded.data[from * x.cols..to * x.cols];
        let most = part.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for v in part {
            *v = if most > 0.0 { v.signum() * nearest(levels * v.abs(), most) * most / levels } else { 0.0 };
        }
        from = to;
    }
    rounded
}
