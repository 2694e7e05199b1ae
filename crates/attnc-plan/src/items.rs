//! Which items a score is made of, as numbers: rows, candidates, and the groups that its steps make of them.
//!
//! Everything here is a function of lengths, orders and boundaries, never of Q, K or V; it is computed once for all heads
//! of the same lengths, before anything of a launch. Nothing here knows of values, kernels or shaders.

use std::ops::Range;

use attnc_pattern::env::Env;
use attnc_pattern::expr::ExprId;
use attnc_pattern::oracle::{EvalError, Evaluator, Point};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{Index, Level, Partition, Program, Score, Select, Step};
use attnc_pattern::slots;

use crate::choose::{Scored, stands};

fn said(e: EnvError) -> String {
    e.to_string()
}

/// Items of a score: which rows and candidates there are, and what becomes of them.
#[derive(Debug)]
pub struct Items {
    /// For each item row its number among the rows of the operand.
    pub numbers: Vec<u32>,
    /// For each item row where it stands, counted from the first query.
    pub ahead: Vec<u32>,
    /// Keys that are walked: where they begin, and how many there are.
    pub keys: (i64, i64),
    /// Rows of those keys, where some are left out: they begin at 0.
    pub listed: Option<Vec<u32>>,
    /// Slot of each key for a first step that reduces keys.
    pub slot_of: Option<Vec<u32>>,
    /// Values of an item row.
    pub width: usize,
    /// For each row of the score the first of its item rows, and one past the last: with a step that reduces queries.
    pub groups: Option<Vec<(usize, usize)>>,
    /// Rows of the score.
    pub score_rows: Range<i64>,
    /// Candidates of the score.
    pub score_slots: Range<i64>,
    /// Items of each candidate, for a search.
    pub items_of: Option<Members>,
    /// Row of the score for each row of the table, where they differ.
    pub row_of: Option<Vec<u32>>,
    /// Candidate of the score for each of the selection's, where they differ.
    pub candidate_of: Option<Vec<u32>>,
}

impl Items {
    /// Candidates of the score.
    #[must_use]
    pub fn score_width(&self) -> usize {
        (self.score_slots.end - self.score_slots.start).max(0) as usize
    }

    /// Items of a score that a selection with these rows ranks by, for steps in the order in which they are taken.
    ///
    /// # Errors
    /// What has no value.
    pub fn new(
        program: &Program,
        select: &Select,
        (scored, steps): (&Scored, &[Step]),
        env: &Env<'_>,
        rows: &Range<i64>,
    ) -> Result<Items, String> {
        let item_rows = slots::rows(program, scored.item_rows, env).map_err(said)?;
        let mut stood = stands(program, scored.item_rows, env, item_rows.clone()).map_err(said)?;
        let mut item_numbers: Vec<i64> = item_rows.clone().collect();
        if scored.sampled.is_some() {
            // Rows without an item would fill lanes.
            let kept = scored.rows_there(program, env, &stood).map_err(|e| e.to_string())?;
            let mut kept_of = kept.iter();
            item_numbers.retain(|_| *kept_of.next().unwrap_or(&true));
            let mut kept_of = kept.iter();
            stood.retain(|_| *kept_of.next().unwrap_or(&true));
        }
        let candidates = slots::candidates(program, scored.items, env).map_err(said)?;
        let listed = scored.items_listed(program, env).map_err(|e| e.to_string())?;
        let (mut score_rows, mut score_slots) = (item_rows.clone(), candidates.clone());
        let (mut score_rows_of, mut score_slots_of) = (scored.item_rows, scored.items);
        let (mut slot_of, mut groups, mut width) = (None, None, (candidates.end - candidates.start).max(0) as usize);
        for (i, step) in steps.iter().enumerate() {
            match step {
                Step::Keys { into, .. } => {
                    let of = candidates_of(program, score_slots_of, *into, env)?;
                    (score_slots, score_slots_of) = (slots::candidates(program, *into, env).map_err(said)?, *into);
                    if i == 0 {
                        let of_listed = |listed: &Vec<u32>| listed.iter().map(|&item| of[item as usize]).collect();
                        slot_of = Some(listed.as_ref().map(of_listed).unwrap_or(of));
                        width = (score_slots.end - score_slots.start).max(0) as usize;
                    }
                }
                Step::Queries { into, .. } => {
                    let made = slots::rows(program, *into, env).map_err(said)?;
                    groups = Some(rows_in(program, *into, env, &stood, &made)?);
                    (score_rows, score_rows_of) = (made, *into);
                }
                Step::Norm { .. } => {}
            }
        }
        let some = scored.sampled.is_some() && groups.is_none();
        let row_of = if score_rows_of == select.rows && !some {
            None
        } else {
            let asked = stands(program, select.rows, env, rows.clone()).map_err(said)?;
            if some {
                // Rows of the score are those that are there.
                let number = |q: &i64| stood.binary_search(q).map_or(u32::MAX, |at| at as u32);
                score_rows = 0..stood.len() as i64;
                Some(asked.iter().map(number).collect())
            } else {
                Some(row_numbers(program, score_rows_of, env, &asked, &score_rows)?)
            }
        };
        let candidate_of = if score_slots_of == select.slots {
            None
        } else {
            Some(candidates_of(program, select.slots, score_slots_of, env)?)
        };
        let level = matches!(scored.item_rows, Index::Slots(_));
        let branches = matches!(scored.item_rows, Index::Branches(_));
        let first = if level || branches { item_rows.start } else { env.q_start };
        let count = stood.len();
        let mut numbers: Vec<u32> = if scored.item_rows == Index::One {
            vec![(env.n_q - 1).max(0) as u32; count]
        } else {
            item_numbers.iter().map(|&r| (r - first) as u32).collect()
        };
        let ahead: Vec<u32> = stood.iter().map(|&p| (p - env.q_start).max(0) as u32).collect();
        // An operand of tokens for rows of slots: where the rows stand.
        if level && scored.dot.is_none() {
            numbers.clone_from(&ahead);
        }
        let keys = match &listed {
            Some(listed) => (0, listed.len() as i64),
            None => (candidates.start, (candidates.end - candidates.start).max(0)),
        };
        let items_of = scored.searched.then(|| Members::new(slot_of.as_deref(), keys.1 as usize, width));
        Ok(Items {
            items_of,
            numbers,
            ahead,
            keys,
            listed,
            slot_of,
            width,
            groups,
            score_rows,
            score_slots,
            row_of,
            candidate_of,
        })
    }

    /// Where the values of a score that a caller gives are read by a selection with these rows.
    ///
    /// # Errors
    /// What has no value.
    pub fn given(
        program: &Program,
        select: &Select,
        score: &Score,
        env: &Env<'_>,
        rows: &Range<i64>,
    ) -> Result<Items, String> {
        let score_rows = slots::rows(program, score.rows, env).map_err(said)?;
        let score_slots = slots::candidates(program, score.slots, env).map_err(said)?;
        let row_of = if score.rows == select.rows {
            None
        } else {
            let stood = stands(program, select.rows, env, rows.clone()).map_err(said)?;
            Some(row_numbers(program, score.rows, env, &stood, &score_rows)?)
        };
        let candidate_of = match score.slots == select.slots {
            true => None,
            false => Some(candidates_of(program, select.slots, score.slots, env)?),
        };
        Ok(Items {
            numbers: Vec::new(),
            ahead: Vec::new(),
            keys: (0, 0),
            listed: None,
            slot_of: None,
            width: 0,
            groups: None,
            score_rows,
            score_slots,
            items_of: None,
            row_of,
            candidate_of,
        })
    }

    /// The value of a candidate of the selection in a row of the score.
    #[must_use]
    pub fn value(&self, values: &[f32], slot: u32, first: i64) -> f32 {
        let at = match &self.candidate_of {
            Some(of) => of.get((i64::from(slot) - first) as usize).copied().unwrap_or(u32::MAX),
            None => (i64::from(slot) - self.score_slots.start) as u32,
        };
        values.get(at as usize).copied().unwrap_or(f32::NEG_INFINITY)
    }
}

/// Items of each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Slot j has items `j * size ..`, `size` of them, as far as there are `items`.
    Blocks {
        /// Items of a slot but the last.
        size: usize,
        /// Number of items.
        items: usize,
    },
    /// Slot j has items `list[begin[j] .. begin[j + 1]]`.
    Lists {
        /// Where each slot begins, and the last one ends.
        begin: Vec<usize>,
        /// Items, ascending in a slot.
        list: Vec<u32>,
    },
}

impl Members {
    /// Items by the slot that they go to: each item is its own without a list.
    #[must_use]
    pub fn new(slot_of: Option<&[u32]>, items: usize, slots: usize) -> Members {
        let size = match slot_of {
            None => 1,
            Some(of) => of.iter().take_while(|&&slot| slot == 0).count(),
        };
        let of_slot = |(slot, of): (usize, &[u32])| of.iter().all(|&other| other as usize == slot);
        let blocks = size > 0 && items.div_ceil(size) == slots;
        if blocks && slot_of.is_none_or(|of| of.len() == items && of.chunks(size).enumerate().all(of_slot)) {
            return Members::Blocks { size, items };
        }
        let (begin, list) = inverse(slot_of, items, slots);
        Members::Lists { begin, list }
    }

    /// Calls `each` with the items of a slot, ascending.
    pub fn each(&self, slot: usize, mut each: impl FnMut(u32)) {
        match self {
            Members::Blocks { size, items } => {
                (slot * size..((slot + 1) * size).min(*items)).for_each(|item| each(item as u32));
            }
            Members::Lists { begin, list } => {
                let of = begin.get(slot).zip(begin.get(slot + 1)).and_then(|(&from, &to)| list.get(from..to));
                of.unwrap_or(&[]).iter().for_each(|&item| each(item));
            }
        }
    }
}

/// Items by the slot that they go to: each item is its own without a list.
///
/// Slot j has `list[begin[j] .. begin[j + 1]]`.
#[must_use]
pub fn inverse(slot_of: Option<&[u32]>, items: usize, slots: usize) -> (Vec<usize>, Vec<u32>) {
    let slot = |item: u32| slot_of.map_or(item, |of| of[item as usize]) as usize;
    let mut begin = vec![0; slots + 1];
    let there = |item: &u32| slot(*item) < slots;
    for item in (0..items as u32).filter(there) {
        begin[slot(item) + 1] += 1;
    }
    for at in 0..slots {
        begin[at + 1] += begin[at];
    }
    let mut next = begin.clone();
    let mut list = vec![0; begin[slots]];
    for item in (0..items as u32).filter(there) {
        list[next[slot(item)]] = item;
        next[slot(item)] += 1;
    }
    (begin, list)
}

/// For each candidate of one kind, the candidate of another in which its last position stands; [`u32::MAX`] for none.
///
/// # Errors
/// What has no value.
pub fn candidates_of(program: &Program, from: Index, into: Index, env: &Env<'_>) -> Result<Vec<u32>, String> {
    let numbers = slots::candidates(program, from, env).map_err(said)?;
    let count = (numbers.end - numbers.start).max(0) as usize;
    let (slot, inside) = match into {
        Index::One => return Ok(vec![0; count]),
        Index::Keys if from == Index::Keys => return Ok(numbers.map(|k| (k - env.k_start) as u32).collect()),
        // A slot stands at its last position.
        Index::Keys => (None, None),
        Index::Slots(level) => (Some(program.level(level).slot_k), program.level(level).inside.map(|i| i.1)),
        _ => return Err("candidates of another kind".to_owned()),
    };
    // Blocks of positions need no evaluator.
    if let (Index::Keys, Index::Slots(level)) = (from, into)
        && let Level { partition: Partition::Blocks(size), parent: None, order: None, .. } = program.level(level)
    {
        return Ok(numbers.map(|k| (k / size) as u32).collect());
    }
    let last = match from {
        Index::Slots(own) => Some(program.level(own).last),
        _ => None,
    };
    let roots: Vec<ExprId> = last.into_iter().chain(slot).chain(inside).collect();
    let mut evaluator = Evaluator::new(program, env, &roots);
    let value = |e: EvalError| EnvError::from(e).to_string();
    let mut found = Vec::with_capacity(count);
    for number in numbers {
        let position = match last {
            Some(last) => evaluator.int(last, Point { slot: Some(number), ..Point::default() }).map_err(value)? as i64,
            None => number,
        };
        let point = Point { k: Some(position), ..Point::default() };
        let inside = match inside {
            Some(inside) => evaluator.truth(inside, point).map_err(value)?,
            None => true,
        };
        let candidate = match slot {
            _ if !inside => -1,
            Some(slot) => evaluator.int(slot, point).map_err(value)?,
            None => i128::from(position - env.k_start),
        };
        found.push(u32::try_from(candidate).unwrap_or(u32::MAX));
    }
    Ok(found)
}

/// The row of another kind in which a query stands, counted from the first; [`u32::MAX`] for none.
///
/// # Errors
/// What has no value.
pub fn row_numbers(
    program: &Program,
    into: Index,
    env: &Env<'_>,
    stood: &[i64],
    made: &Range<i64>,
) -> Result<Vec<u32>, String> {
    let level = match into {
        Index::One => return Ok(vec![0; stood.len()]),
        Index::Queries => return Ok(stood.iter().map(|&q| (q - env.q_start) as u32).collect()),
        Index::Slots(level) => program.level(level),
        _ => return Err("rows of another kind".to_owned()),
    };
    let roots: Vec<ExprId> = [level.slot_q].into_iter().chain(level.inside.map(|i| i.0)).collect();
    let mut evaluator = Evaluator::new(program, env, &roots);
    let value = |e: EvalError| EnvError::from(e).to_string();
    let mut found = Vec::with_capacity(stood.len());
    for &q in stood {
        let point = Point { q: Some(q), ..Point::default() };
        let inside = match level.inside {
            Some((inside, _)) => evaluator.truth(inside, point).map_err(value)?,
            None => true,
        };
        let row = if inside { evaluator.int(level.slot_q, point).map_err(value)? - i128::from(made.start) } else { -1 };
        found.push(u32::try_from(row).unwrap_or(u32::MAX));
    }
    Ok(found)
}

/// Item rows of each row of another kind, which follow one another.
fn rows_in(
    program: &Program,
    into: Index,
    env: &Env<'_>,
    stood: &[i64],
    made: &Range<i64>,
) -> Result<Vec<(usize, usize)>, String> {
    let numbers = row_numbers(program, into, env, stood, made)?;
    let mut groups = vec![(0, 0); (made.end - made.start).max(0) as usize];
    let mut before = None;
    for (i, &number) in numbers.iter().enumerate() {
        let Some(group) = groups.get_mut(number as usize) else { continue };
        match before == Some(number) {
            true => group.1 = i + 1,
            false if group.1 > 0 => return Err("a selection over rows of queries that lie apart".to_owned()),
            false => *group = (i, i + 1),
        }
        before = Some(number);
    }
    Ok(groups)
}
