//! What a selection chooses from: every row with every candidate and its score.

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::level;
use super::score::{self, at_level, candidates, rows};
use super::select::Chosen;
use super::sources::Sources;
use crate::env::Env;
use crate::program::{Index, Program, Score, Select};

/// A candidate of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) row: i64,
    pub(super) slot: i64,
    pub(super) score: f64,
    /// Chosen before all that are not.
    pub(super) forced: bool,
}

/// What a selection chooses from.
pub(super) struct Field {
    /// Numbers of the rows, ascending, with the position of each.
    pub(super) rows: Vec<(i64, i64)>,
    /// By row, slots ascending; all for which `within` holds and `besides` does not.
    pub(super) candidates: Vec<Vec<Candidate>>,
    /// By row: the sum of the scores that `besides` holds.
    pub(super) had: Vec<f64>,
    /// Largest |value| of an item pair.
    pub(super) largest: f64,
}

/// Rows, candidates and scores of a selection.
pub(super) fn field(
    program: &Program,
    select: &Select,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
) -> Result<Field, EvalError> {
    let chosen = Chosen { draws: &env.draws };
    let score = select.score.map(|id| program.score(id));
    let given = match select.score {
        Some(id) => score::given(program, id, env, head)?,
        None => None,
    };
    // A given number of a pair is read where its row and its candidate stand, as it would be computed there.
    let by_place = given.is_some() && score.is_some_and(Score::is_plain);
    let plain = score.filter(|s| s.is_plain() && given.is_none());
    let made = match (given, score) {
        (Some(given), _) => Some(given),
        (None, Some(score)) if plain.is_none() => Some(score::scores(program, score, env, sources, head, &chosen)?),
        _ => None,
    };
    let inner = match select.slots {
        Index::Slots(level) => at_level(program, env, level)?,
        _ => env.clone(),
    };
    let sets: Vec<_> = [select.within, select.besides, select.including].into_iter().flatten().collect();
    let mut evaluator = Evaluator::new(program, &inner, &sets);
    let value = plain.map(|s| s.value);
    let mut values = Evaluator::new(program, env, &value.into_iter().collect::<Vec<_>>());
    let reading = Reading::new(program, select, env)?;
    let rows = rows(program, env, select.rows)?;
    let slots = candidates(program, env, select.slots)?;
    let mut field = Field { candidates: vec![], had: vec![], largest: 0.0, rows };
    field.largest = made.as_ref().map_or(0.0, |m| m.largest);
    for &(row, q) in &field.rows {
        let (mut list, mut had) = (Vec::new(), 0.0);
        for slot in slots.clone() {
            let point = Point { q: Some(q), k: Some(slot), ..Point::default() };
            let mut holds = |set: Option<_>| set.map_or(Ok(false), |set| evaluator.truth(set, point));
            if select.within.is_some() && !holds(select.within)? {
                continue;
            }
            let (besides, forced) = (holds(select.besides)?, holds(select.including)?);
            let (read_row, read_slot) = (reading.row(row, q), reading.slot(slot));
            let score = match (&made, value) {
                (Some(made), _) if by_place => {
                    let row = if reading.one { 0 } else { q };
                    made.at(row, reading.last(slot).unwrap_or(-1))
                }
                (Some(made), _) => made.at(read_row, read_slot),
                (None, Some(value)) => {
                    let k = reading.last(slot);
                    values.real(value, Point { q: Some(q), k, ..Point::default() })?
                }
                // The nearest are those with the largest positions.
                (None, None) => slot as f64,
            };
            let score = if score.is_nan() { f64::NEG_INFINITY } else { score };
            if made.is_none() && score.is_finite() {
                field.largest = field.largest.max(score.abs());
            }
            if besides {
                had += if score.is_finite() { score } else { 0.0 };
            } else {
                list.push(Candidate { row, slot, score, forced });
            }
        }
        field.candidates.push(list);
        field.had.push(had);
    }
    Ok(field)
}

/// Where the score of a selection's row and slot is read.
struct Reading {
    /// Row of the score of each query, if the score's rows are slots and the selection's are queries.
    by_query: Option<(i64, Vec<Option<i64>>)>,
    /// Slot of the score of each key, likewise.
    by_key: Option<(i64, Vec<Option<i64>>)>,
    /// Last key of each slot of the selection.
    last: Option<Vec<i64>>,
    one: bool,
}

impl Reading {
    fn new(program: &Program, select: &Select, env: &Env<'_>) -> Result<Self, EvalError> {
        let score = select.score.map(|id| program.score(id));
        let mut reading = Reading { by_query: None, by_key: None, last: None, one: false };
        if let Index::Slots(level) = select.slots {
            let (_, of_k) = level::slots_of(program, env, level)?;
            let slots = candidates(program, env, select.slots)?.end;
            let last = |slot| of_k.iter().rposition(|&s| s == Some(slot)).map_or(-1, |i| env.k_start + i as i64);
            reading.last = Some((0..slots).map(last).collect());
        }
        let Some(score) = score else { return Ok(reading) };
        reading.one = score.rows == Index::One;
        if let (Index::Slots(level), Index::Queries) = (score.rows, select.rows) {
            reading.by_query = Some((env.q_start, level::slots_of(program, env, level)?.0));
        }
        if let (Index::Slots(level), Index::Keys) = (score.slots, select.slots) {
            reading.by_key = Some((env.k_start, level::slots_of(program, env, level)?.1));
        }
        Ok(reading)
    }

    fn row(&self, row: i64, q: i64) -> i64 {
        match &self.by_query {
            Some((start, of_q)) => of_q.get((q - start) as usize).copied().flatten().unwrap_or(i64::MIN / 2),
            None if self.one => 0,
            None => row,
        }
    }

    fn slot(&self, slot: i64) -> i64 {
        match &self.by_key {
            Some((start, of_k)) => of_k.get((slot - start) as usize).copied().flatten().unwrap_or(i64::MIN / 2),
            None => slot,
        }
    }

    fn last(&self, slot: i64) -> Option<i64> {
        match &self.last {
            Some(last) => last.get(slot as usize).copied(),
            None => Some(slot),
        }
    }
}
