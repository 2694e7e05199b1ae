//! Whether a selection that somebody else made is admissible.
//!
//! Two correct programs may choose differently where scores nearly agree. A table is admissible if it holds candidates,
//! as many as the budget says, and no more than rounding speaks against any of them: with t the bound of a score's
//! error, the scores of what a table holds lie within the oracle's own range for it, less and plus t, and whatever lies
//! inside that range by more than t is in it. A budget by mass may end where the sum is within t of its share.
//! A search ([`crate::program::Refine`]) must find what the oracle finds, unless a round of it was decided by less than t.
//!
//! ```text
//! t = 4 (16 + 4 sqrt(D)) u (1 + max |x|) max(1, max |s|)     x: values of item pairs, s: scores
//! ```

use super::attend::{Head, OracleError, View, read, select};
use super::field::{Candidate, Field, field};
use super::level::size;
use super::refine::refined;
use super::select::rank;
use crate::env::{DrawTable, Env};
use crate::expr::{DrawId, SelectId};
use crate::prepare::needs_beside;
use crate::program::{Among, Budget, Program, Select};
use crate::tolerance::UNIT;

/// Why a table is not admissible.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    /// Name of the selection.
    pub selection: String,
    /// Query head.
    pub head: usize,
    /// Number of the row.
    pub row: i64,
    /// What is wrong, as a sentence.
    pub message: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Misfit { selection, head, row, message } = self;
        write!(f, "selection `{selection}`, head {head}, row {row}: {message}")
    }
}

/// What is wrong with the tables of each head, by `DrawId`; selections that read others are judged given these.
///
/// # Errors
/// See [`OracleError`].
pub fn judge(
    program: &Program,
    heads: &[Head<'_>],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
    given: &[Vec<DrawTable>],
) -> Result<Vec<Misfit>, OracleError> {
    // Checks the shapes.
    let own = select(program, heads, q, k, v)?;
    let sources = read(heads, q, k, v);
    let mut misfits = Vec::new();
    for (h, head) in heads.iter().enumerate() {
        let Some(attention) = head.attention else { continue };
        let draws = given.get(h).cloned().unwrap_or_else(|| own[h].clone());
        let env = Env { draws, ..head.env.clone() };
        for id in needs_beside(program, &[attention], &env.exchange).selects {
            let select = program.select(id);
            if env.exchange.selects.contains(&id) {
                // What the caller gave is what there must be.
                let same = |draw: &DrawId| {
                    let of = |draws: &[DrawTable]| draws.get(draw.0 as usize).map(rows_of).unwrap_or_default();
                    of(&env.draws) == of(&head.env.draws)
                };
                if !select.tables.iter().all(same) {
                    let (selection, message) = (select.name.clone(), "is not what was given".to_owned());
                    misfits.push(Misfit { selection, head: h, row: 0, message });
                }
                continue;
            }
            let field = field(program, select, &env, &sources, h)?;
            let top = match &select.budget {
                Budget::Top(count) => size(program, &env, *count)? as usize,
                _ => 0,
            };
            let judge = Judge { program, select, env: &env, top, dim: env.dim as f64 };
            misfits.extend(judge.tables(&field, h));
        }
    }
    Ok(misfits)
}

/// What each row of a table holds.
fn rows_of(table: &DrawTable) -> Vec<Vec<i64>> {
    let rows = table.chosen.chunks(table.count.max(1)).enumerate();
    rows.map(|(i, row)| row[..table.chosen_for(i).min(row.len())].to_vec()).collect()
}

struct Judge<'a> {
    program: &'a Program,
    select: &'a Select,
    env: &'a Env<'a>,
    top: usize,
    dim: f64,
}

impl Judge<'_> {
    fn tables(&self, field: &Field, head: usize) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        let mut say = |row: i64, message: String| {
            misfits.push(Misfit { selection: self.select.name.clone(), head, row, message });
        };
        let largest = field.candidates.iter().flatten().map(|c| c.score.abs()).filter(|s| s.is_finite());
        let largest = largest.fold(1.0, f64::max);
        let bound = 4.0 * (16.0 + 4.0 * self.dim.sqrt()) * UNIT * (1.0 + field.largest) * largest;
        let tables: Vec<&DrawTable> =
            self.select.tables.iter().filter_map(|d| self.env.draws.get(d.0 as usize)).collect();
        let held = |table: &DrawTable, row: i64| -> Vec<i64> {
            let at = usize::try_from(row - table.first).unwrap_or(usize::MAX);
            let from = at.saturating_mul(table.count);
            let n = table.chosen_for(at);
            table.chosen.get(from..from.saturating_add(n)).unwrap_or(&[]).to_vec()
        };
        // Groups that share a budget: one for each row, or all rows.
        let groups: Vec<Vec<usize>> = match self.select.pool {
            Among::Row => (0..field.rows.len()).map(|i| vec![i]).collect(),
            Among::Head => vec![(0..field.rows.len()).collect()],
        };
        for group in groups {
            let row = group.first().map_or(0, |&i| field.rows[i].0);
            let mut taken: Vec<Vec<Candidate>> = vec![Vec::new(); tables.len()];
            for &i in &group {
                let (row, list) = (field.rows[i].0, &field.candidates[i]);
                for (t, table) in tables.iter().enumerate() {
                    let slots = held(table, row);
                    if slots.windows(2).any(|w| w[0] >= w[1]) {
                        say(row, "its slots do not ascend".to_owned());
                    }
                    for slot in slots {
                        match list.iter().find(|c| c.slot == slot) {
                            Some(c) => taken[t].push(*c),
                            None => say(row, format!("slot {slot} is no candidate")),
                        }
                    }
                }
            }
            let all: Vec<Candidate> = group.iter().flat_map(|&i| field.candidates[i].iter().copied()).collect();
            if let Budget::Refine(refine) = &self.select.budget {
                let (found, gap) = refined(refine, &all.iter().map(|c| c.score).collect::<Vec<_>>());
                let found: Vec<i64> = found.into_iter().map(|i| all[i].slot).collect();
                let slots: Vec<i64> = taken[0].iter().map(|c| c.slot).collect();
                if gap > 2.0 * bound && found != slots {
                    say(row, format!("finds {slots:?}, and the definition {found:?}"));
                }
                continue;
            }
            let mut ranked: Vec<Candidate> =
                all.into_iter().filter(|c| c.forced || c.score > f64::NEG_INFINITY).collect();
            rank(&mut ranked);
            let had: f64 = group.iter().map(|&i| field.had[i]).sum();
            self.ranges(&ranked, had, &taken, bound, row, &mut say);
        }
        misfits
    }

    /// Every table holds what its range of the ranking says, but for what lies within the bound of an end.
    fn ranges(
        &self,
        ranked: &[Candidate],
        had: f64,
        taken: &[Vec<Candidate>],
        bound: f64,
        row: i64,
        say: &mut impl FnMut(i64, String),
    ) {
        let key = |c: &Candidate| if c.forced { f64::INFINITY } else { c.score };
        let count_of = |other: SelectId| super::select::count_in(self.program, self.env, other, Some(row));
        let ends = super::select::ends(self.select, ranked, had, &count_of, self.top);
        let by_sum = match &self.select.budget {
            Budget::Mass(_) | Budget::Above(_) => true,
            Budget::Bands(bands) => bands[0].mass,
            _ => false,
        };
        let mut begin = 0;
        for (t, &end) in ends.iter().enumerate() {
            let end = end.max(begin);
            let expected = end - begin;
            let mut found = taken[t].clone();
            rank(&mut found);
            if found.len() != expected && !by_sum {
                say(row, format!("table {t} holds {} slots, and the budget is {expected}", found.len()));
            }
            // Where sums are within the bound of a share, the end may lie some ranks on.
            let slack = |at: usize| -> f64 {
                if !by_sum {
                    return bound;
                }
                let near = ranked.get(at.saturating_sub(2)..(at + 2).min(ranked.len())).unwrap_or(&[]);
                let (max, min) = near
                    .iter()
                    .map(key)
                    .filter(|s| s.is_finite())
                    .fold((0.0, f64::INFINITY), |(a, b), s| (f64::max(a, s), f64::min(b, s)));
                bound + if max > min { max - min } else { 0.0 }
            };
            let upper = if begin == 0 { f64::INFINITY } else { ranked.get(begin).map_or(f64::INFINITY, key) };
            let lower = if end == 0 { f64::INFINITY } else { ranked.get(end - 1).map_or(f64::NEG_INFINITY, key) };
            for c in &found {
                if key(c) < lower - slack(end) || key(c) > upper + slack(begin) {
                    say(
                        row,
                        format!("table {t} holds slot {} with score {}, from {upper} to {lower}", c.slot, c.score),
                    );
                }
            }
            for c in &ranked[begin.min(ranked.len())..end.min(ranked.len())] {
                let inside = key(c) > lower + slack(end) && (begin == 0 || key(c) < upper - slack(begin));
                if inside && !found.iter().any(|f| (f.row, f.slot) == (c.row, c.slot)) {
                    say(row, format!("table {t} lacks slot {} with score {}, above {lower}", c.slot, c.score));
                }
            }
            begin = end;
        }
    }
}
