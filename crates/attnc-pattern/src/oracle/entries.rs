//! Whom a query attends to, pair by pair.
//!
//! Entries are a multiset: each `++` entry adds its slots, and a key in two entries counts twice; a key that
//! an entry drew m times counts m times.

use std::ops::Range;

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::score::at_level;
use crate::env::Env;
use crate::expr::{DrawId, ExprId};
use crate::program::{DrawScope, Program, Source};

/// A slot of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The token at a position.
    Token(i64),
    /// A slot of the entry's level.
    Pooled(i64),
    /// A null slot of the entry.
    Null(i64),
}

/// One element of the multiset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attended {
    /// Index of the entry in its attention.
    pub entry: usize,
    /// What it attends to.
    pub slot: Slot,
}

/// Whether the pair (q, k) is in a set.
pub fn membership(program: &Program, set: ExprId, env: &Env<'_>, q: i64, k: i64) -> Result<bool, EvalError> {
    Evaluator::new(program, env, &[set]).truth(set, Point::pair(q, k))
}

/// A set as `[n_q, n_k]` truth values, row-major.
pub fn mask(program: &Program, set: ExprId, env: &Env<'_>) -> Result<Vec<bool>, EvalError> {
    let mut evaluator = Evaluator::new(program, env, &[set]);
    let pairs = queries(env).flat_map(|q| keys(env).map(move |k| Point::pair(q, k)));
    pairs.map(|pair| evaluator.truth(set, pair)).collect()
}

/// The entries of a query, in the order of `attend`, slots ascending in each.
pub fn entries(program: &Program, attention: usize, env: &Env<'_>, q: i64) -> Result<Vec<Attended>, EvalError> {
    let mut found = Vec::new();
    let envs = entry_envs(program, attention, env)?;
    Walker::new(program, attention, env, &envs).row(q, &mut found)?;
    Ok(found)
}

/// The keys of a query, ascending, and in how many entries each is.
pub fn row(program: &Program, attention: usize, env: &Env<'_>, q: i64) -> Result<Vec<(i64, u32)>, EvalError> {
    let mut count = std::collections::BTreeMap::new();
    for attended in entries(program, attention, env, q)? {
        if let Slot::Token(k) = attended.slot {
            *count.entry(k).or_insert(0) += 1;
        }
    }
    Ok(count.into_iter().collect())
}

/// Appends the candidates of a row of a draw, in units, ascending; `env` holds the draws before it.
///
/// A unit is a candidate if its first position lies among the keys and the predicate holds there, with
/// the query at the first position of the row's unit (position 0 for a draw of a head).
pub fn candidates(
    program: &Program,
    draw: DrawId,
    env: &Env<'_>,
    row: i64,
    found: &mut Vec<Range<i64>>,
) -> Result<(), EvalError> {
    let draw = program.draw(draw);
    let mut evaluator = Evaluator::new(program, env, &[draw.of]);
    let q = match draw.scope {
        DrawScope::Row => row * draw.unit,
        DrawScope::Head => 0,
    };
    for k in keys(env).filter(|k| k.rem_euclid(draw.unit) == 0) {
        if evaluator.truth(draw.of, Point::pair(q, k))? {
            found.push(k / draw.unit..k / draw.unit + 1);
        }
    }
    Ok(())
}

pub(super) fn queries(env: &Env<'_>) -> Range<i64> {
    env.q_start..env.q_start + env.n_q
}

fn keys(env: &Env<'_>) -> Range<i64> {
    env.k_start..env.k_start + env.n_k
}

/// The environments in which entries at levels are read: the slots of the level are the keys.
pub(super) fn entry_envs<'e>(
    program: &Program,
    attention: usize,
    env: &Env<'e>,
) -> Result<Vec<Option<Env<'e>>>, EvalError> {
    let entries = program.attentions[attention].entries.iter();
    entries
        .map(|entry| match entry.source {
            Source::Slots(level, _) => at_level(program, env, level).map(Some),
            _ => Ok(None),
        })
        .collect()
}

/// Enumerates rows of one attention of one head.
pub(super) struct Walker<'a> {
    program: &'a Program,
    attention: usize,
    env: &'a Env<'a>,
    /// Of entries at levels.
    envs: &'a [Option<Env<'a>>],
    /// One for each entry, with its draw with replacement; null slots have nothing to evaluate.
    sets: Vec<Option<(ExprId, Option<DrawId>, Evaluator<'a>)>>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(program: &'a Program, attention: usize, env: &'a Env<'a>, envs: &'a [Option<Env<'a>>]) -> Self {
        let entries = &program.attentions[attention].entries;
        let sets = entries.iter().zip(envs).map(|(entry, own)| match entry.source {
            Source::Tokens(set) => Some((set, program.multiset(set), Evaluator::new(program, env, &[set]))),
            Source::Slots(_, set) => own.as_ref().map(|env| (set, None, Evaluator::new(program, env, &[set]))),
            Source::Null(_) => None,
        });
        Walker { program, attention, env, envs, sets: sets.collect() }
    }

    /// Appends the entries of a query.
    pub(super) fn row(&mut self, q: i64, found: &mut Vec<Attended>) -> Result<(), EvalError> {
        for (entry, written) in self.program.attentions[self.attention].entries.iter().enumerate() {
            match (&written.source, &mut self.sets[entry]) {
                (Source::Null(n), _) => found.extend((0..*n).map(|i| Attended { entry, slot: Slot::Null(i) })),
                (Source::Slots(..), Some((set, _, evaluator))) => {
                    let Some(env) = &self.envs[entry] else { continue };
                    for slot in keys(env) {
                        if evaluator.truth(*set, Point::pair(q, slot))? {
                            found.push(Attended { entry, slot: Slot::Pooled(slot) });
                        }
                    }
                }
                (_, Some((set, draw, evaluator))) => {
                    for k in keys(self.env) {
                        if evaluator.truth(*set, Point::pair(q, k))? {
                            let times = draw.map_or(1, |d| {
                                let unit = self.program.draw(d).unit;
                                self.env.draws.get(d.0 as usize).map_or(1, |table| table.times_of(k / unit))
                            });
                            found.extend((0..times).map(|_| Attended { entry, slot: Slot::Token(k) }));
                        }
                    }
                }
                (_, None) => {}
            }
        }
        Ok(())
    }
}
