//! Selections from their definition: candidates ranked in f64, and cut by the budget.

use std::collections::BTreeMap;

use super::fault::EvalError;
use super::field::{Candidate, field};
use super::level;
use super::refine::refined;
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
                let upto = band.least.map_or(upto, |least| upto.max(floor_share(least, n as i64) as usize + 1));
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
