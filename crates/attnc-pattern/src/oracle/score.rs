//! Scores from their definition: every item pair in f64, before the steps.

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::level::{self, size, slots_of};
use super::select::Chosen;
use super::sources::{Matrix, Sources, dot};
use super::steps::take;
use crate::env::{Class, Env};
use crate::expr::{LevelId, ScoreId};
use crate::program::{Heads, Index, Operand, Program, Rows, Score};

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
    let class = Class { residue: 0, modulus: 1, given: [env.q_start, env.k_start, env.n_q, env.n_k] };
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

/// The values that the caller gives of a score for one head, if it does.
pub(super) fn given(program: &Program, id: ScoreId, env: &Env<'_>, head: usize) -> Result<Option<Scores>, EvalError> {
    let Some(given) = env.exchange.scores.get(&id) else { return Ok(None) };
    let score = program.score(id);
    let first_row = first_row(program, env, score.rows)?;
    let slots = candidates(program, env, score.slots)?;
    let width = slots.clone().count();
    let mut values = Vec::new();
    for row in given.head(head).chunks_exact(given.cols.max(1)) {
        let value = |x: &f32| if x.is_nan() { f64::NEG_INFINITY } else { f64::from(*x) };
        values.push(row.iter().take(width).map(value).collect());
    }
    Ok(Some(Scores { first: (first_row, slots.start), values, largest: 0.0 }))
}

/// Number of the first row that a score is given and handed back from.
fn first_row(program: &Program, env: &Env<'_>, index: Index) -> Result<i64, EvalError> {
    match index {
        Index::Slots(level) if program.is_scattered(level) => Ok(0),
        _ => Ok(rows(program, env, index)?.first().map_or(0, |r| r.0)),
    }
}

/// The values of a score for one head as they are handed back: a row for each row, from the first.
pub(super) fn handed_back(
    program: &Program,
    id: ScoreId,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
) -> Result<Vec<Vec<f64>>, EvalError> {
    let score = program.score(id);
    let chosen = Chosen { draws: &env.draws };
    let made = match given(program, id, env, head)? {
        Some(given) => given,
        None if score.is_plain() => plainly(program, score, env)?,
        None => scores(program, score, env, sources, head, &chosen)?,
    };
    let numbers = match score.rows {
        Index::Slots(level) if program.is_scattered(level) => candidates(program, env, score.rows)?,
        _ => {
            let rows = rows(program, env, score.rows)?;
            rows.first().map_or(0, |r| r.0)..rows.last().map_or(0, |r| r.0 + 1)
        }
    };
    let slots = candidates(program, env, score.slots)?;
    Ok(numbers.map(|row| slots.clone().map(|slot| made.at(row, slot)).collect()).collect())
}

/// The values of a score that is a number of each pair and nothing else.
fn plainly(program: &Program, score: &Score, env: &Env<'_>) -> Result<Scores, EvalError> {
    let mut evaluator = Evaluator::new(program, env, &[score.value]);
    let (rows, slots) = (rows(program, env, score.rows)?, candidates(program, env, score.slots)?);
    let mut values = Vec::new();
    for &(_, q) in &rows {
        let mut of_row = Vec::new();
        for k in slots.clone() {
            let value = evaluator.real(score.value, Point::pair(q, k))?;
            of_row.push(if value.is_nan() { f64::NEG_INFINITY } else { value });
        }
        values.push(of_row);
    }
    Ok(Scores { first: (rows.first().map_or(0, |r| r.0), slots.start), values, largest: 0.0 })
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
    let (at_rows, at_slots) = match &score.dot {
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
    take(program, env, &score.steps, &mut scores, at_rows, at_slots)?;
    Ok(scores)
}

/// Whether the value of a score without a product depends on the query.
fn reads_q(program: &Program, score: &Score) -> bool {
    let mut read = score.only.into_iter().chain([score.value]);
    read.any(|e| program.exprs.reads(e, |v| v == crate::expr::Var::Q))
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
