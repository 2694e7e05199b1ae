//! Scores from their definition: every item pair, then step by step, in f64.

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::level::{self, size, slots_of};
use super::select::Chosen;
use super::sources::{Matrix, Sources, dot};
use crate::env::{Class, Env};
use crate::expr::LevelId;
use crate::program::{Heads, Index, Norm, Operand, Program, Reduce, Rows, Score, Step};

/// Values of all pairs of rows and candidates; -inf where there is none.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    /// Number of the first row, and of the first candidate.
    pub(super) first: (i64, i64),
    /// By row, then candidate.
    pub(super) values: Vec<Vec<f64>>,
    /// Largest |value| of an item pair, before the steps: for tolerances.
    pub(super) largest: f64,
}

impl Scores {
    /// The score of a row and candidate.
    pub(super) fn at(&self, row: i64, slot: i64) -> f64 {
        let at = |n: i64, first: i64| usize::try_from(n - first).ok();
        let of_row = at(row, self.first.0).and_then(|r| self.values.get(r));
        of_row.zip(at(slot, self.first.1)).and_then(|(r, s)| r.get(s)).copied().unwrap_or(f64::NEG_INFINITY)
    }
}

/// The environment in which pair expressions of a level are read: its slots are the keys.
pub(super) fn at_level<'e>(program: &Program, env: &Env<'e>, level: LevelId) -> Result<Env<'e>, EvalError> {
    let n_k = size(program, env, program.level(level).slots)?;
    let class = Class { residue: 0, given: [env.q_start, env.k_start, env.n_q, env.n_k] };
    Ok(Env { n_k, k_start: 0, class: Some(class), ..env.clone() })
}

/// Numbers of rows, each with the position at which it is read; of slots of queries those that have some.
pub(super) fn rows(program: &Program, env: &Env<'_>, index: Index) -> Result<Vec<(i64, i64)>, EvalError> {
    let last = env.q_start + env.n_q - 1;
    Ok(match index {
        Index::One if env.n_q == 0 => vec![],
        Index::One => vec![(0, last)],
        Index::Queries | Index::Keys => (env.q_start..=last).map(|q| (q, q)).collect(),
        Index::Slots(level) => {
            let (of_q, _) = slots_of(program, env, level)?;
            let mut rows: Vec<(i64, i64)> = Vec::new();
            for (i, slot) in of_q.iter().enumerate() {
                let Some(slot) = *slot else { continue };
                let q = env.q_start + i as i64;
                match rows.iter_mut().find(|r| r.0 == slot) {
                    Some(row) => row.1 = q,
                    None => rows.push((slot, q)),
                }
            }
            rows.sort_unstable();
            rows
        }
        Index::Branches(count) => (0..size(program, env, count)?).map(|c| (c, last)).collect(),
        Index::Channels => (0..env.dim).map(|c| (c, last)).collect(),
    })
}

/// Numbers of candidates.
pub(super) fn candidates(program: &Program, env: &Env<'_>, index: Index) -> Result<std::ops::Range<i64>, EvalError> {
    Ok(match index {
        Index::One => 0..1,
        Index::Queries => env.q_start..env.q_start + env.n_q,
        Index::Keys => env.k_start..env.k_start + env.n_k,
        Index::Slots(level) => 0..size(program, env, program.level(level).slots)?,
        Index::Branches(count) => 0..size(program, env, count)?,
        Index::Channels => 0..env.dim,
    })
}

/// All values of a score for one head.
pub(super) fn scores(
    program: &Program,
    score: &Score,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
    chosen: &Chosen<'_>,
) -> Result<Scores, EvalError> {
    let (mut at_rows, mut at_slots) = match &score.dot {
        Some((q, k)) => (index_of(program, *q), index_of(program, *k)),
        None if score.slots == Index::Channels && score.steps.is_empty() => {
            return energy(program, score, env, sources, head);
        }
        None if reads_q(program, score) => (Index::Queries, Index::Keys),
        None => (Index::One, Index::Keys),
    };
    let operands = match &score.dot {
        Some((q, k)) => {
            Some((operand(program, *q, env, sources, head, chosen)?, operand(program, *k, env, sources, head, chosen)?))
        }
        None => None,
    };
    let inner = match at_slots {
        Index::Slots(level) => at_level(program, env, level)?,
        _ => env.clone(),
    };
    let roots: Vec<_> = score.only.into_iter().chain([score.value]).collect();
    let mut evaluator = Evaluator::new(program, &inner, &roots);
    let row_numbers = rows(program, env, at_rows)?;
    let slot_numbers = candidates(program, env, at_slots)?;
    let first_row = row_numbers.first().map_or(0, |r| r.0);
    let mut largest = 0.0_f64;
    let mut values = Vec::new();
    for &(row, q) in &row_numbers {
        // Slots without queries between two that have some score nothing.
        values.resize((row - first_row) as usize, vec![f64::NEG_INFINITY; slot_numbers.clone().count()]);
        let mut of_row = Vec::new();
        for slot in slot_numbers.clone() {
            let q = if matches!(at_rows, Index::Branches(_)) { None } else { Some(q) };
            let point = Point { q, k: Some(slot), ..Point::default() };
            if let Some(only) = score.only
                && !evaluator.truth(only, point)?
            {
                of_row.push(f64::NEG_INFINITY);
                continue;
            }
            let product = operands.as_ref().map(|((x, x_first), (y, y_first))| {
                dot(x.row((row - x_first) as usize), y.row((slot - y_first) as usize))
            });
            let value = evaluator.real(score.value, Point { score: product, ..point })?;
            if value.is_finite() {
                largest = largest.max(value.abs());
            }
            of_row.push(if value.is_nan() { f64::NEG_INFINITY } else { value });
        }
        values.push(of_row);
    }
    let mut scores = Scores { first: (first_row, slot_numbers.start), values, largest };
    for step in &score.steps {
        match step {
            Step::Keys { op, into } => {
                let to = groups(program, env, at_slots, *into, false)?;
                reduce_keys(&mut scores, *op, &to, candidates(program, env, *into)?.end as usize);
                at_slots = *into;
            }
            Step::Queries { op, into } => {
                let to = groups(program, env, at_rows, *into, true)?;
                reduce_queries(&mut scores, *op, &to);
                at_rows = *into;
            }
            Step::Norm { norm, head: true } => scale(*norm, scores.values.iter_mut().flatten()),
            Step::Norm { norm, head: false } => scores.values.iter_mut().for_each(|row| scale(*norm, row.iter_mut())),
        }
    }
    Ok(scores)
}

/// Whether the value of a score without a product depends on the query.
fn reads_q(program: &Program, score: &Score) -> bool {
    program.exprs.reads(score.value, |v| v == crate::expr::Var::Q)
}

fn index_of(program: &Program, operand: Operand) -> Index {
    match operand.rows {
        Rows::Q => Index::Queries,
        Rows::K => Index::Keys,
        Rows::LevelQ(level) | Rows::LevelK(level) => Index::Slots(level),
        Rows::Tensor(tensor) => {
            let dims = &program.tensor(tensor).dims;
            Index::Branches(dims[dims.len() - 2])
        }
    }
}

/// Rows of an operand, and the number of the first.
fn operand(
    program: &Program,
    operand: Operand,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
    chosen: &Chosen<'_>,
) -> Result<(Matrix, i64), EvalError> {
    let heads: Vec<usize> = (0..sources.q.len())
        .filter(|&h| match operand.heads {
            Heads::Own => h == head,
            Heads::Group => sources.kv_head[h] == sources.kv_head[head],
            Heads::All => true,
        })
        .collect();
    // Each KV head once.
    let mut kv: Vec<usize> = heads.iter().map(|&h| sources.kv_head[h]).collect();
    kv.sort_unstable();
    kv.dedup();
    let (mut rows, first) = match operand.rows {
        Rows::Q => (Sources::mean(&heads.iter().map(|&h| &sources.q[h]).collect::<Vec<_>>()), env.q_start),
        Rows::K => (Sources::mean(&kv.iter().map(|&h| &sources.k[h]).collect::<Vec<_>>()), env.k_start),
        Rows::LevelQ(id) | Rows::LevelK(id) => {
            let query = matches!(operand.rows, Rows::LevelQ(_));
            let heads = match query {
                true => heads,
                // One query head of each KV head.
                false => kv.iter().filter_map(|&g| sources.kv_head.iter().position(|&h| h == g)).collect(),
            };
            let mut all = Vec::new();
            for h in heads {
                let pooled = level::pooled(program, env, sources, id, h, &chosen.channels(program, id))?;
                all.push(if query { pooled.q } else { pooled.k });
            }
            let tokenwise = matches!(
                program.level(id).pool,
                crate::program::Pool::Channels(_) | crate::program::Pool::Quantised { .. }
            );
            let first = match (tokenwise, query) {
                (false, _) => 0,
                (true, true) => env.q_start,
                (true, false) => env.k_start,
            };
            (Sources::mean(&all.iter().collect::<Vec<_>>()), first)
        }
        Rows::Tensor(tensor) => {
            let data = env.tensors.get(tensor.0 as usize).cloned().unwrap_or_default();
            let cols = data.dims.last().copied().unwrap_or(0);
            let count = data.dims.len().checked_sub(2).map_or(0, |i| data.dims[i]);
            let from = if data.dims.len() == 3 { env.head as usize * count * cols } else { 0 };
            let own = data.data.get(from..from + count * cols).unwrap_or(&[]);
            (Matrix { data: own.iter().map(|&x| f64::from(x)).collect(), cols }, 0)
        }
    };
    if operand.unit {
        for r in 0..rows.rows() {
            let length = dot(rows.row(r), rows.row(r)).sqrt();
            if length > 0.0 {
                rows.data[r * rows.cols..(r + 1) * rows.cols].iter_mut().for_each(|x| *x /= length);
            }
        }
    }
    Ok((rows, first))
}

/// The mean square of each channel of the queries, times that of the keys, of the pairs that count.
fn energy(
    program: &Program,
    score: &Score,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
) -> Result<Scores, EvalError> {
    let (q, k) = (&sources.q[head], &sources.k[sources.kv_head[head]]);
    let (mut of_q, mut of_k) = (vec![false; q.rows()], vec![false; k.rows()]);
    let roots: Vec<_> = score.only.into_iter().collect();
    let mut evaluator = Evaluator::new(program, env, &roots);
    for (i, held_q) in of_q.iter_mut().enumerate() {
        for (j, held_k) in of_k.iter_mut().enumerate() {
            let point = Point::pair(env.q_start + i as i64, env.k_start + j as i64);
            if score.only.is_none_or(|only| evaluator.truth(only, point) == Ok(true)) {
                (*held_q, *held_k) = (true, true);
            }
        }
    }
    let mean_square = |x: &Matrix, held: &[bool], c: usize| {
        let squares: Vec<f64> = (0..x.rows()).filter(|&r| held[r]).map(|r| x.row(r)[c] * x.row(r)[c]).collect();
        squares.iter().sum::<f64>() / squares.len() as f64
    };
    let root = [score.value];
    let mut evaluator = Evaluator::new(program, env, &root);
    let mut values = Vec::new();
    for c in 0..q.cols {
        let product = mean_square(q, &of_q, c) * mean_square(k, &of_k, c);
        let value = evaluator.real(score.value, Point { score: Some(product), ..Point::default() })?;
        values.push(if value.is_nan() { f64::NEG_INFINITY } else { value });
    }
    let largest = values.iter().copied().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    Ok(Scores { first: (0, 0), values: vec![values], largest })
}

/// For each number of `from` (from its first) the number of `into` that it goes to.
fn groups(
    program: &Program,
    env: &Env<'_>,
    from: Index,
    into: Index,
    query: bool,
) -> Result<Vec<Option<i64>>, EvalError> {
    let count = match (from, query) {
        (Index::Queries, true) => env.n_q,
        _ => candidates(program, env, from)?.count() as i64,
    };
    match (from, into) {
        (_, Index::One) => Ok(vec![Some(0); count as usize]),
        (Index::Slots(mut child), Index::Slots(into)) => {
            // Blocks of blocks, up to the level that is meant.
            let mut chain = Vec::new();
            let mut at = into;
            while at != child {
                let crate::program::Partition::Blocks(block) = program.level(at).partition else { break };
                chain.push(block);
                match program.level(at).parent {
                    Some(parent) => at = parent,
                    None => child = at,
                }
            }
            let block: i64 = chain.iter().product();
            Ok((0..count).map(|n| Some(n / block)).collect())
        }
        (_, Index::Slots(into)) => {
            let (of_q, of_k) = slots_of(program, env, into)?;
            Ok(if query { of_q } else { of_k })
        }
        _ => Ok(vec![None; count as usize]),
    }
}

fn reduce_keys(scores: &mut Scores, op: Reduce, to: &[Option<i64>], slots: usize) {
    for row in &mut scores.values {
        let mut of_slot = vec![Vec::new(); slots];
        for (value, to) in row.iter().zip(to) {
            if let Some(slot) = to.and_then(|t| usize::try_from(t).ok()).filter(|&s| s < slots) {
                of_slot[slot].push(*value);
            }
        }
        *row = of_slot.iter().map(|values| reduce(op, values)).collect();
    }
    scores.first.1 = 0;
}

fn reduce_queries(scores: &mut Scores, op: Reduce, to: &[Option<i64>]) {
    // Rows are listed from their first number on; `to` from the first of all.
    let width = scores.values.first().map_or(0, Vec::len);
    let offset = to.len().saturating_sub(scores.values.len());
    let offset = if scores.first.0 as usize <= offset { scores.first.0 as usize } else { 0 };
    let to: Vec<Option<i64>> = to.iter().skip(offset).copied().collect();
    let first = to.iter().flatten().copied().min().unwrap_or(0);
    let last = to.iter().flatten().copied().max().unwrap_or(-1);
    let mut reduced = Vec::new();
    for slot in first..=last {
        let mut of_row = Vec::new();
        for column in 0..width {
            let values: Vec<f64> = (scores.values.iter().zip(&to))
                .filter(|(_, to)| **to == Some(slot))
                .map(|(row, _)| row[column])
                .collect();
            of_row.push(reduce(op, &values));
        }
        reduced.push(of_row);
    }
    scores.values = reduced;
    scores.first.0 = first;
}

fn reduce(op: Reduce, values: &[f64]) -> f64 {
    let there: Vec<f64> = values.iter().copied().filter(|&v| v > f64::NEG_INFINITY).collect();
    if there.is_empty() {
        return f64::NEG_INFINITY;
    }
    match op {
        Reduce::Max => there.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduce::Sum => there.iter().sum(),
        Reduce::Mean => there.iter().sum::<f64>() / there.len() as f64,
    }
}

fn scale<'v>(norm: Norm, values: impl Iterator<Item = &'v mut f64>) {
    let mut there: Vec<&mut f64> = values.filter(|v| **v > f64::NEG_INFINITY).collect();
    let max = there.iter().map(|v| **v).fold(f64::NEG_INFINITY, f64::max);
    let min = there.iter().map(|v| **v).fold(f64::INFINITY, f64::min);
    let sum = match norm {
        Norm::Softmax => there.iter().map(|v| (**v - max).exp()).sum(),
        _ => there.iter().map(|v| **v).sum::<f64>(),
    };
    for v in &mut there {
        **v = match norm {
            Norm::Softmax => (**v - max).exp() / sum,
            Norm::Exp => (**v - max).exp(),
            Norm::MinMax if max > min => (**v - min) / (max - min),
            Norm::RowSum if sum != 0.0 => **v / sum,
            Norm::MinMax | Norm::RowSum => 0.0,
        };
    }
}
