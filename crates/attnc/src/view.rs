//! What one head attends to, row by row: for pictures, proofs and people.
//!
//! One idea: rows come from the closed forms that the plan was made from, in memory that does not grow with the sequence, so that a
//! million of them can be walked or one in the middle be asked for. Rows and columns are those of the tensors,
//! from 0. Nothing here knows how a row is shown.

use attnc_pattern::analysis::{Class, EvalError, RowWalker, Rows, TileWalker, Tiles, tile_set};
use attnc_pattern::env::Env;
use attnc_plan::{Entry, Tile, VerifiedPlan};

use crate::difference::{Difference, Differing};

/// Keys `first ..= last`, each counted `times` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First key column.
    pub first: i64,
    /// Last key column.
    pub last: i64,
    /// In how many entries these keys are.
    pub times: u32,
}

/// Tiles `first ..= last` of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileRun {
    /// First tile.
    pub first: i64,
    /// Last tile.
    pub last: i64,
    /// Every query of the tile attends to every key.
    pub full: bool,
}

/// Keys of an entry count as often as a draw chose them.
#[derive(Clone, Copy, Debug)]
struct Counted {
    draw: usize,
    /// Positions of one candidate.
    unit: i64,
}

/// One head under given lengths and data.
#[derive(Debug)]
pub struct View<'a> {
    env: Env<'a>,
    rows: Vec<(Rows, Option<Counted>)>,
    tiles: Vec<Tiles>,
    nulls: Vec<i64>,
    tile: Tile,
}

impl<'a> View<'a> {
    pub(crate) fn new(plan: &VerifiedPlan, env: Env<'a>) -> Self {
        let counted = |set| {
            let draw = plan.program.multiset(set)?;
            Some(Counted { draw: draw.0 as usize, unit: plan.program.draw(draw).unit })
        };
        // Tile sets of the given order, which stages in another do not have.
        let mut program = (*plan.program).clone();
        let (mut rows, mut tiles, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &plan.given {
            match entry {
                Entry::Tokens { set, rows: r, .. } => {
                    let t = tile_set(&mut program.exprs, r);
                    rows.push((Rows::new(&program, r), counted(*set)));
                    tiles.push(Tiles::new(&program, &t));
                }
                Entry::Null { slots, .. } => nulls.push(*slots),
            }
        }
        View { env, rows, tiles, nulls, tile: plan.stages[0].tile }
    }

    /// What it is under.
    pub(crate) fn env(&self) -> &Env<'a> {
        &self.env
    }

    /// Queries and keys.
    #[must_use]
    pub fn lengths(&self) -> (i64, i64) {
        (self.env.n_q, self.env.n_k)
    }

    /// Queries and keys of a tile.
    #[must_use]
    pub fn tile(&self) -> (i64, i64) {
        (self.tile.q as i64, self.tile.k as i64)
    }

    /// Null slots of every row, by entry that has some.
    #[must_use]
    pub fn nulls(&self) -> &[i64] {
        &self.nulls
    }

    /// Rows of keys.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn rows(&self) -> Result<RowWalk<'_>, EvalError> {
        let walkers = self.rows.iter().map(|(rows, counted)| Ok((rows.walker(&self.env)?, *counted)));
        let walkers = walkers.collect::<Result<_, _>>()?;
        Ok(RowWalk { env: &self.env, walkers, ends: Vec::new(), runs: Vec::new() })
    }

    /// Which pairs another view of the same queries and keys has more than this one, and which it lacks; of no heads.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn difference(&self, other: &View<'_>) -> Result<Difference, EvalError> {
        let (mut ours, mut theirs) = (self.rows()?, other.rows()?);
        let mut all = Differing::default();
        for row in 0..self.env.n_q {
            all.row(self.env.q_start + row, self.env.k_start, ours.row(row)?, theirs.row(row)?);
        }
        Ok(all.finish())
    }

    /// Rows of tiles.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn tiles(&self) -> Result<TileWalk<'_>, EvalError> {
        let walkers = self.tiles.iter().map(|tiles| tiles.walker(&self.env)).collect::<Result<_, _>>()?;
        Ok(TileWalk { env: &self.env, walkers, tile: self.tile(), found: Vec::new(), runs: Vec::new() })
    }
}

/// Walks rows of keys.
#[derive(Debug)]
pub struct RowWalk<'a> {
    env: &'a Env<'a>,
    walkers: Vec<(RowWalker<'a>, Option<Counted>)>,
    ends: Vec<(i64, bool)>,
    runs: Vec<Run>,
}

impl RowWalk<'_> {
    /// The keys of row `row` of the queries: ascending, disjoint, maximal.
    ///
    /// # Errors
    /// An expression that has no value there.
    pub fn row(&mut self, row: i64) -> Result<&[Run], EvalError> {
        let k_start = self.env.k_start;
        if let [(walker, None)] = self.walkers.as_mut_slice() {
            if walker.go_to(self.env.q_start + row)? {
                self.runs.clear();
                self.runs.extend(walker.here().ranges().map(|r| Run {
                    first: r.start() - k_start,
                    last: r.end() - k_start,
                    times: 1,
                }));
            }
            return Ok(&self.runs);
        }
        self.runs.clear();
        self.ends.clear();
        for (walker, counted) in &mut self.walkers {
            for range in walker.row(self.env.q_start + row)?.ranges() {
                let (first, last) = range.into_inner();
                let mut add = |first: i64, last: i64| {
                    self.ends.extend([(first - k_start, true), (last + 1 - k_start, false)]);
                };
                match counted {
                    None => add(first, last),
                    Some(Counted { draw, unit }) => {
                        let times = |k: i64| self.env.draws.get(*draw).map_or(1, |table| table.times_of(k / *unit));
                        (first..=last).for_each(|k| (0..times(k)).for_each(|_| add(k, k)));
                    }
                }
            }
        }
        sweep(&mut self.ends, &mut self.runs);
        Ok(&self.runs)
    }
}

/// Counts how many ranges cover each key, from the ends of the ranges.
fn sweep(ends: &mut [(i64, bool)], runs: &mut Vec<Run>) {
    ends.sort_unstable();
    let (mut times, mut from) = (0_u32, 0);
    let mut rest = &*ends;
    while let Some(&(at, _)) = rest.first() {
        if times > 0 && from < at {
            match runs.last_mut() {
                Some(run) if run.times == times && run.last + 1 == from => run.last = at - 1,
                _ => runs.push(Run { first: from, last: at - 1, times }),
            }
        }
        let here = rest.partition_point(|&(end, _)| end == at);
        for &(_, opens) in &rest[..here] {
            times = if opens { times + 1 } else { times.saturating_sub(1) };
        }
        // A range that closes where another opens leaves the count as it was, whichever comes first.
        rest = &rest[here..];
        from = at;
    }
}

/// Walks rows of tiles.
#[derive(Debug)]
pub struct TileWalk<'a> {
    env: &'a Env<'a>,
    walkers: Vec<TileWalker<'a>>,
    tile: (i64, i64),
    found: Vec<(i64, bool)>,
    runs: Vec<TileRun>,
}

impl TileWalk<'_> {
    /// The non-empty tiles of row `row` of tiles, ascending. A tile is full if each entry that is in it fills it.
    ///
    /// # Errors
    /// An expression that has no value there.
    pub fn row(&mut self, row: i64) -> Result<&[TileRun], EvalError> {
        let (bq, bk) = self.tile;
        let first = self.env.q_start + row * bq;
        let last = (first + bq).min(self.env.q_start + self.env.n_q) - 1;
        self.found.clear();
        self.runs.clear();
        for walker in &mut self.walkers {
            let tiles = walker.row(first, last)?.tiles(self.env, bk);
            self.found.extend(tiles.map(|(tile, class)| (tile, class == Class::Full)));
        }
        // Partial before full: the first of a tile decides.
        self.found.sort_unstable();
        self.found.dedup_by_key(|(tile, _)| *tile);
        for &(tile, full) in &self.found {
            match self.runs.last_mut() {
                Some(run) if run.full == full && run.last + 1 == tile => run.last = tile,
                _ => self.runs.push(TileRun { first: tile, last: tile, full }),
            }
        }
        Ok(&self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(ranges: &[(i64, i64)]) -> Vec<(i64, i64, u32)> {
        let mut ends: Vec<_> = ranges.iter().flat_map(|&(a, b)| [(a, true), (b + 1, false)]).collect();
        let mut runs = Vec::new();
        sweep(&mut ends, &mut runs);
        runs.into_iter().map(|r| (r.first, r.last, r.times)).collect()
    }

    #[test]
    fn keys_of_several_entries_are_counted() {
        assert_eq!(swept(&[(0, 9), (4, 5)]), [(0, 3, 1), (4, 5, 2), (6, 9, 1)]);
        assert_eq!(swept(&[(0, 3), (4, 5)]), [(0, 5, 1)]);
        assert_eq!(swept(&[(0, 3), (0, 3), (7, 7)]), [(0, 3, 2), (7, 7, 1)]);
        assert_eq!(swept(&[]), []);
    }
}
