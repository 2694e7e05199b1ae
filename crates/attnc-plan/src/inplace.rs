//! Rows that an attention is computed for in place of the queries of a launch.
//!
//! The one idea: whatever stands in place of the queries is a list of rows, each with the position at which its sets are
//! read and, in a merge over branches, its branch; attend stages walk the list, and the output of a query is made of the
//! outputs of rows. Nothing here knows how.

use attnc_pattern::analysis::{EvalError, Rows as Ranges, transpose};
use attnc_pattern::env::Env;
use attnc_pattern::expr::{ExprId, Node, Var};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{Chooser, Index, MergeKind, Pooled, Program};
use attnc_pattern::slots;

use crate::choose::{Listed, stands};
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
                let (mut taken, mut from) = (Vec::new(), all.start);
                while let Some((start, end)) = row.next_from(from) {
                    taken.extend(start.max(all.start)..end.min(all.end));
                    from = end;
                }
                found.push(taken);
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

fn no_value(e: EnvError) -> EvalError {
    EvalError::Missing { what: e.to_string() }
}
