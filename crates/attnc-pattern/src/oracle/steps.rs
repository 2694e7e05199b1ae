//! The steps of a score from their definition: values of several items become one, or are brought to one scale.

use super::fault::EvalError;
use super::level::slots_of;
use super::score::{Scores, candidates};
use crate::env::Env;
use crate::program::{Index, Norm, Partition, Program, Reduce, Step};

/// Takes the steps one after the other; `rows` and `slots` are what the scores are of at first.
pub(super) fn take(
    program: &Program,
    env: &Env<'_>,
    steps: &[Step],
    scores: &mut Scores,
    mut rows: Index,
    mut slots: Index,
) -> Result<(), EvalError> {
    for step in steps {
        match step {
            Step::Keys { op, into } => {
                let to = groups(program, env, slots, *into, false)?;
                reduce_keys(scores, *op, &to, candidates(program, env, *into)?.end as usize);
                slots = *into;
            }
            Step::Queries { op, into } => {
                let to = groups(program, env, rows, *into, true)?;
                reduce_queries(scores, *op, &to);
                rows = *into;
            }
            Step::Norm { norm, head: true } => scale(*norm, scores.values.iter_mut().flatten()),
            Step::Norm { norm, head: false } => scores.values.iter_mut().for_each(|row| scale(*norm, row.iter_mut())),
        }
    }
    Ok(())
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
                let Partition::Blocks(block) = program.level(at).partition else { break };
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
