//! Selections from their definition: every candidate looked at, ranked in f64, and cut by the budget.

use std::collections::BTreeMap;

use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use super::level;
use super::refine::refined;
use super::score::{self, at_level, candidates, rows};
use super::sources::Sources;
use crate::env::{DrawTable, Env};
use crate::expr::{LevelId, SelectId};
use crate::program::{Among, Budget, Index, Pool, Program, Select};
use crate::slots::{ceil_share, floor_share};

/// Tables of the selections made so far, in an environment that holds them.
pub(super) struct Chosen<'e> {
    /// By `DrawId`.
    pub(super) draws: &'e [DrawTable],
}

impl Chosen<'_> {
    /// The channels that a level keeps; none for other levels.
    pub(super) fn channels(&self, program: &Program, level: LevelId) -> Vec<i64> {
        let Pool::Channels(draw) = program.level(level).pool else { return vec![] };
        let table = self.draws.get(draw.0 as usize);
        table.map_or(vec![], |t| t.chosen.iter().copied().filter(|&c| c >= 0).collect())
    }
}

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
    let plain = score.filter(|s| s.dot.is_none() && s.steps.is_empty() && s.slots != Index::Channels);
    let made = match score {
        Some(score) if plain.is_none() => Some(score::scores(program, score, env, sources, head, &chosen)?),
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

/// By descending score, the forced before all others; equal ones by the lower slot, then the lower row.
pub(super) fn rank(list: &mut [Candidate]) {
    let key = |c: &Candidate| if c.forced { f64::INFINITY } else { c.score };
    list.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.slot.cmp(&b.slot)).then(a.row.cmp(&b.row)));
}

/// How many of a ranking each table takes, from its beginning: the ends of the tables.
pub(super) fn ends(
    select: &Select,
    ranked: &[Candidate],
    had: f64,
    count_of: &dyn Fn(SelectId) -> usize,
    top: usize,
) -> Vec<usize> {
    let n = ranked.len();
    let weight = |c: &Candidate| if c.score.is_finite() { c.score } else { 0.0 };
    let total: f64 = ranked.iter().map(weight).sum::<f64>() + had;
    let end = match &select.budget {
        Budget::Top(_) => top,
        Budget::Frac(f) => ceil_share(*f, n as i64) as usize,
        Budget::Nearest(count) => *count as usize,
        Budget::CountOf(other) => count_of(*other),
        Budget::Above(t) => ranked.iter().filter(|c| c.forced || c.score > *t).count(),
        Budget::Mass(p) => {
            let mut sum = had;
            let mut end = if total > 0.0 && sum >= p * total { Some(0) } else { None };
            for (i, c) in ranked.iter().enumerate() {
                sum += weight(c);
                if total > 0.0 && end.is_none() && sum >= p * total {
                    end = Some(i + 1);
                }
            }
            end.unwrap_or(n)
        }
        Budget::Bands(bands) => {
            let (mut ends, mut begin) = (Vec::new(), 0);
            for band in bands {
                let upto = if band.mass {
                    let mut sum = had;
                    1 + ranked
                        .iter()
                        .take_while(|c| {
                            sum += weight(c);
                            sum <= band.upto * total
                        })
                        .count()
                } else {
                    floor_share(band.upto, n as i64) as usize
                };
                let length = upto.min(n).saturating_sub(begin);
                let align = band.align as usize;
                let up = length.div_ceil(align) * align;
                let length = if begin + up > n { (n - begin) / align * align } else { up };
                begin += length;
                ends.push(begin);
            }
            return ends;
        }
        Budget::Refine(_) => n,
    };
    vec![end.max(select.at_least as usize).min(n)]
}

/// The tables of one selection for one head; `env` has those of the selections before it.
pub(super) fn tables(
    program: &Program,
    id: SelectId,
    env: &Env<'_>,
    sources: &Sources,
    head: usize,
) -> Result<Vec<DrawTable>, EvalError> {
    let select = program.select(id);
    let field = field(program, select, env, sources, head)?;
    let top = match &select.budget {
        Budget::Top(count) => level::size(program, env, *count)? as usize,
        _ => 0,
    };
    let mut chosen: Vec<BTreeMap<i64, Vec<i64>>> = vec![BTreeMap::new(); select.tables.len()];
    let mut take = |ranked: &[Candidate], had: f64, row: Option<i64>| {
        let count_of = |other: SelectId| count_in(program, env, other, row);
        let mut begin = 0;
        for (table, end) in ends(select, ranked, had, &count_of, top).into_iter().enumerate() {
            for c in &ranked[begin..end.max(begin)] {
                chosen[table].entry(c.row).or_default().push(c.slot);
            }
            begin = end.max(begin);
        }
    };
    let scored = |list: &[Candidate]| -> Vec<Candidate> {
        list.iter().copied().filter(|c| c.forced || c.score > f64::NEG_INFINITY).collect()
    };
    match (&select.budget, select.pool) {
        (Budget::Refine(refine), _) => {
            for (list, &(row, _)) in field.candidates.iter().zip(&field.rows) {
                let scores: Vec<f64> = list.iter().map(|c| c.score).collect();
                let found = refined(refine, &scores).0;
                chosen[0].insert(row, found.into_iter().map(|i| list[i].slot).collect());
            }
        }
        (_, Among::Row) => {
            for ((list, had), &(row, _)) in field.candidates.iter().zip(&field.had).zip(&field.rows) {
                let mut ranked = scored(list);
                rank(&mut ranked);
                take(&ranked, *had, Some(row));
            }
        }
        (_, Among::Head) => {
            let mut ranked = scored(&field.candidates.concat());
            rank(&mut ranked);
            take(&ranked, field.had.iter().sum(), None);
        }
    }
    let first = field.rows.first().map_or(0, |r| r.0);
    let last = field.rows.last().map_or(-1, |r| r.0);
    Ok(chosen.iter_mut().map(|table| table_of(table, first, last)).collect())
}

/// Rows `first ..= last` side by side.
fn table_of(chosen: &mut BTreeMap<i64, Vec<i64>>, first: i64, last: i64) -> DrawTable {
    let width = chosen.values().map(Vec::len).max().unwrap_or(0).max(1);
    let (mut slots, mut counts) = (Vec::new(), Vec::new());
    for row in first..=last {
        let of_row = chosen.entry(row).or_default();
        of_row.sort_unstable();
        counts.push(of_row.len() as u32);
        slots.extend(of_row.iter().copied());
        slots.extend(std::iter::repeat_n(-1, width - of_row.len()));
    }
    DrawTable { chosen: slots.into(), count: width, first, counts: counts.into(), times: [].into() }
}

/// How many a selection chose: in its only row, or in this one.
pub(super) fn count_in(program: &Program, env: &Env<'_>, other: SelectId, row: Option<i64>) -> usize {
    let select = program.select(other);
    let Some(table) = env.draws.get(select.tables[0].0 as usize) else { return 0 };
    let row = match (select.rows, row) {
        (Index::One, _) | (_, None) => 0,
        (_, Some(row)) => usize::try_from(row - table.first).unwrap_or(usize::MAX),
    };
    table.chosen_for(row)
}
