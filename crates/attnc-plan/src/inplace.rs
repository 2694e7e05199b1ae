//! Rows that an attention is computed for in place of the queries of a launch.
//!
//! The one idea: whatever stands in place of the queries is a list of rows, each with the position at which its sets are
//! read and, in a merge over branches, its branch; attend stages walk the list, and the output of a query is made of the
//! outputs of rows. Nothing here knows how.

use attnc_pattern::analysis::{EvalError, Rows as Ranges, transpose};
use attnc_pattern::env::Env;
use attnc_pattern::expr::{ExprId, Node, Var};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{Chooser, Index, MergeKind, Partition, Pooled, Program};
use attnc_pattern::slots;

use crate::choose::{Listed, stands};
use crate::items::row_numbers;
use crate::plan::Plan;

/// What stands in place of the queries.
#[derive(Clone, Debug)]
pub enum InPlace {
    /// Slots of queries of a level.
    Slots(Pooled),
    /// The queries of each branch of a merge, which is a mean.
    Branches {
        /// How many branches, over sizes.
        count: ExprId,
        /// Whom a branch takes, queries and keys exchanged: candidates are queries. `None`: every query.
        takes: Option<Listed>,
    },
}

impl InPlace {
    /// What an attention has in place of its queries, and the attention whose entries are computed for them.
    pub(crate) fn of(program: &mut Program, attention: usize) -> (Option<InPlace>, usize) {
        let written = &program.attentions[attention];
        if let Some(merge) = &written.merge
            && let MergeKind::Mean { branches: Some(branches) } = &merge.kind
        {
            let (arm, count, takes) = (merge.arms[0], branches.count, branches.takes);
            let takes = takes.map(|set| Listed::of(transpose(&mut program.exprs, set)));
            return (Some(InPlace::Branches { count, takes }), arm);
        }
        (written.pooled.map(InPlace::Slots), attention)
    }

    /// Whom a branch takes.
    #[must_use]
    pub fn takes(&self) -> Option<&Listed> {
        match self {
            InPlace::Branches { takes, .. } => takes.as_ref(),
            InPlace::Slots(_) => None,
        }
    }

    pub(crate) fn takes_mut(&mut self) -> Option<&mut Listed> {
        match self {
            InPlace::Branches { takes, .. } => takes.as_mut(),
            InPlace::Slots(_) => None,
        }
    }

    /// Whether outputs are made of several rows, so that there is no log-sum-exp.
    #[must_use]
    pub fn is_merged(&self) -> bool {
        match self {
            InPlace::Branches { .. } => true,
            InPlace::Slots(pooled) => pooled.bilinear,
        }
    }
}

/// Where the rows in place of queries stand, branch by branch; `env` has the tables of selections. Of slots there is one
/// branch, with a row for each number of [`slots::rows`].
///
/// # Errors
/// An expression without a value.
pub fn positions(plan: &Plan, rows: &InPlace, env: &Env<'_>) -> Result<Vec<Vec<i64>>, EvalError> {
    let program = &*plan.program;
    match rows {
        InPlace::Slots(pooled) => {
            let index = Index::Slots(pooled.level);
            let numbers = slots::rows(program, index, env).map_err(no_value)?;
            Ok(vec![stands(program, index, env, numbers).map_err(no_value)?])
        }
        InPlace::Branches { count, takes } => {
            let all = env.q_start..env.q_start + env.n_q;
            let set = takes.as_ref().map(|takes| Ranges::new(program, &takes.rows));
            let mut found = Vec::new();
            for branch in 0..slots::integer(program, env, *count).map_err(no_value)? {
                let Some(set) = &set else {
                    found.push(all.clone().collect());
                    continue;
                };
                let exchanged = Env {
                    n_q: env.n_k,
                    n_k: env.n_q,
                    q_start: env.k_start,
                    k_start: env.q_start,
                    branch,
                    ..env.clone()
                };
                let row = set.row(&exchanged, env.k_start)?;
                let taken = row.ranges_from(all.start).flat_map(|r| *r.start()..(r.end() + 1).min(all.end));
                found.push(taken.collect());
            }
            Ok(found)
        }
    }
}

/// The most rows that there can be in place of the queries.
///
/// # Errors
/// An expression without a value.
pub fn most_rows(plan: &Plan, rows: &InPlace, env: &Env<'_>) -> Result<i64, EvalError> {
    let program = &*plan.program;
    match rows {
        InPlace::Slots(pooled) => {
            let numbers = slots::rows(program, Index::Slots(pooled.level), env).map_err(no_value)?;
            Ok((numbers.end - numbers.start).max(0))
        }
        InPlace::Branches { count, takes } => {
            let count = slots::integer(program, env, *count).map_err(no_value)?;
            let mut each = env.n_q;
            let set = takes.iter().flat_map(|takes| match program.exprs.node(takes.set) {
                Node::And(parts) => parts.clone(),
                _ => vec![takes.set],
            });
            for part in set {
                if let Node::Drawn(draw, row, _) = *program.exprs.node(part)
                    && *program.exprs.node(row) == Node::Var(Var::Branch)
                    && let Chooser::Select { select, .. } = program.draw(draw).chooser
                {
                    each = each.min(slots::integer(program, env, program.select(select).capacity).map_err(no_value)?);
                }
            }
            Ok(count.saturating_mul(each))
        }
    }
}

/// Rows that each query's output is made of: query i of `1[0[i] .. 0[i + 1]]`, rows with their weights.
pub type Parts = (Vec<u32>, Vec<(u32, f32)>);

/// Rows that each query's output is made of where slots stand in place of queries: that of its slot, or with their weights
/// those around it.
///
/// # Errors
/// What has no value.
pub fn of_slots(program: &Program, env: &Env<'_>, pooled: Pooled) -> Result<Parts, String> {
    let index = Index::Slots(pooled.level);
    let numbers = slots::rows(program, index, env).map_err(|e| e.to_string())?;
    let queries: Vec<i64> = (env.q_start..env.q_start + env.n_q).collect();
    let own = row_numbers(program, index, env, &queries, &numbers)?;
    let count = (numbers.end - numbers.start).max(0);
    let between = if pooled.bilinear { Some(Between::new(program, env, pooled)?) } else { None };
    let (mut begin, mut parts) = (vec![0], Vec::with_capacity(own.len()));
    for (&q, &slot) in queries.iter().zip(&own) {
        match &between {
            _ if i64::from(slot) >= count => {}
            None => parts.push((slot, 1.0)),
            Some(between) => between.of(q, |slot, weight| {
                if numbers.contains(&slot) {
                    parts.push(((slot - numbers.start) as u32, weight as f32));
                }
            }),
        }
        begin.push(parts.len() as u32);
    }
    Ok((begin, parts))
}

/// Boxes of a grid, between which outputs are.
struct Between {
    /// Where the segment begins.
    begin: i64,
    /// Of each axis stride, extent, coordinates of a box, and how many boxes there are.
    axes: Vec<[i64; 4]>,
}

impl Between {
    fn new(program: &Program, env: &Env<'_>, pooled: Pooled) -> Result<Between, String> {
        let Partition::Axes(axes) = &program.level(pooled.level).partition else {
            return Err("outputs between slots that are no boxes".to_owned());
        };
        let number = |e| slots::integer(program, env, e).map_err(|e| e.to_string());
        let mut made = Between { begin: 0, axes: Vec::with_capacity(axes.len()) };
        for &(axis, size) in axes {
            let axis = program.axis(axis);
            made.begin = number(program.space.segments[axis.segment].begin)?;
            let (stride, extent) = (number(axis.stride)?.max(1), number(axis.extent)?.max(1));
            let size = size.unwrap_or(extent).max(1);
            made.axes.push([stride, extent, size, (extent + size - 1) / size]);
        }
        Ok(made)
    }

    /// Hands on the slots around a query with half-pixel centres, each with its weight.
    fn of(&self, q: i64, mut f: impl FnMut(i64, f64)) {
        for corner in 0..1_usize << self.axes.len() {
            let (mut slot, mut weight) = (0, 1.0);
            for (i, &[stride, extent, size, boxes]) in self.axes.iter().enumerate() {
                let x = (q - self.begin) / stride % extent;
                let at = ((x as f64 + 0.5) / size as f64 - 0.5).clamp(0.0, (boxes - 1) as f64);
                let (low, part) = (at.floor(), at - at.floor());
                let high = corner >> i & 1 == 1;
                slot = slot * boxes + (low as i64 + i64::from(high)).min(boxes - 1);
                weight *= if high { part } else { 1.0 - part };
            }
            if weight > 0.0 {
                f(slot, weight);
            }
        }
    }
}

fn no_value(e: EnvError) -> EvalError {
    EvalError::Missing { what: e.to_string() }
}
