//! What one head attends to where that depends on the data: for pictures, rows and people.
//!
//! One idea: the oracle's entries, query by query, with the tables that a selection made. So it costs what the oracle
//! costs, and says what the definition says. Rows and columns are those of the tensors, from 0.

use std::collections::BTreeMap;

use attnc_pattern::env::{DrawTable, Env, LevelTable};
use attnc_pattern::oracle::{self, EvalError, Evaluator, Point, Slot};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{MergeKind, Program, Source};
use attnc_pattern::slots::level_table;
use attnc_syntax::diag::Diagnostic;

use crate::problem::one;
use crate::view::Run;

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AttendedRow {
    /// Keys: ascending, disjoint.
    pub tokens: Vec<Run>,
    /// Slots of levels, by the order in which the levels are declared.
    pub levels: Vec<(String, Vec<Run>)>,
    /// Keys that the slots stand for: with how many others of its slot each shares one entry.
    pub shares: Vec<(i64, f32)>,
    /// Null slots.
    pub nulls: i64,
}

/// All rows of one head.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Attended {
    /// Number of keys.
    pub n_k: i64,
    /// By query.
    pub rows: Vec<AttendedRow>,
}

/// How often each thing is attended to by one query.
#[derive(Default)]
struct Counts {
    tokens: BTreeMap<i64, u32>,
    levels: BTreeMap<u32, BTreeMap<i64, u32>>,
    nulls: i64,
}

/// The rows of `attention` in an environment without selections, whose tables are `draws`.
pub(crate) fn attended(
    program: &Program,
    attention: usize,
    env: &Env<'_>,
    draws: Vec<DrawTable>,
) -> Result<Attended, Vec<Diagnostic>> {
    let mut rows = Vec::new();
    each_row(program, attention, env, draws, |row| rows.push(row))?;
    Ok(Attended { n_k: env.n_k, rows })
}

/// Hands over the rows one by one, of which no two are held at once.
pub(crate) fn each_row(
    program: &Program,
    attention: usize,
    env: &Env<'_>,
    draws: Vec<DrawTable>,
    mut visit: impl FnMut(AttendedRow),
) -> Result<(), Vec<Diagnostic>> {
    let env = Env { draws, ..env.clone() };
    let mut members: BTreeMap<u32, LevelTable> = BTreeMap::new();
    for q in env.q_start..env.q_start + env.n_q {
        let mut counts = Counts::default();
        collect(program, attention, &env, q, &mut counts).map_err(|e| one(EnvError::from(e)))?;
        let mut row = AttendedRow { nulls: counts.nulls, ..AttendedRow::default() };
        row.tokens = runs(counts.tokens.iter().map(|(&k, &times)| (k - env.k_start, times)));
        let mut shares: BTreeMap<i64, f32> = BTreeMap::new();
        for (&level, slots) in &counts.levels {
            let id = attnc_pattern::expr::LevelId(level);
            row.levels.push((program.level(id).name.clone(), runs(slots.iter().map(|(&s, &times)| (s, times)))));
            if let std::collections::btree_map::Entry::Vacant(new) = members.entry(level) {
                new.insert(level_table(program, id, &env).map_err(one)?);
            }
            let table = &members[&level];
            for (&slot, &times) in slots {
                let slot = usize::try_from(slot).unwrap_or(usize::MAX);
                let (Some(&from), Some(&to)) = (table.begin.get(slot), table.begin.get(slot.saturating_add(1))) else {
                    continue;
                };
                for &k in &table.members[from as usize..to as usize] {
                    *shares.entry(k - env.k_start).or_default() += times as f32 / (to - from) as f32;
                }
            }
        }
        row.shares = shares.into_iter().collect();
        visit(row);
    }
    Ok(())
}

/// Adds what a query attends to, through merges and their branches.
fn collect(program: &Program, attention: usize, env: &Env<'_>, q: i64, counts: &mut Counts) -> Result<(), EvalError> {
    let written = &program.attentions[attention];
    let Some(merge) = &written.merge else {
        for attended in oracle::entries(program, attention, env, q)? {
            match (attended.slot, &written.entries[attended.entry].source) {
                (Slot::Token(k), _) => *counts.tokens.entry(k).or_default() += 1,
                (Slot::Pooled(slot), Source::Slots(level, _)) => {
                    *counts.levels.entry(level.0).or_default().entry(slot).or_default() += 1;
                }
                _ => counts.nulls += 1,
            }
        }
        return Ok(());
    };
    let MergeKind::Mean { branches: Some(branches) } = &merge.kind else {
        for &arm in &merge.arms {
            collect(program, arm, env, q, counts)?;
        }
        return Ok(());
    };
    let count = Evaluator::new(program, env, &[branches.count]).int(branches.count, Point::default())?;
    for branch in 0..i64::try_from(count).unwrap_or(0) {
        let env = Env { branch, ..env.clone() };
        let takes = match branches.takes {
            Some(set) => Evaluator::new(program, &env, &[set]).truth(set, Point { q: Some(q), ..Point::default() })?,
            None => true,
        };
        if takes {
            collect(program, merge.arms[0], &env, q, counts)?;
        }
    }
    Ok(())
}

/// Neighbours that count alike are one run.
fn runs(counted: impl Iterator<Item = (i64, u32)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (at, times) in counted {
        match runs.last_mut() {
            Some(run) if run.last + 1 == at && run.times == times => run.last = at,
            _ => runs.push(Run { first: at, last: at, times }),
        }
    }
    runs
}
