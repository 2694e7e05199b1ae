//! Exact cost before running: entries, useful and executed operations, tiles, bytes.
//!
//! Counted from row sets, query by query, in memory that does not grow with the sequence. The executed
//! count follows the kernels' contract: `t` visited keys cost `2 (d_k + d_v) t lanes`, where the lanes of a tile of
//! queries are its rows rounded up to 16, and the target says how many keys it visits of a tile that holds some
//! useful ones. Nothing here knows of time.

use attnc_pattern::analysis::{EvalError, Row, RowWalker, Rows};
use attnc_pattern::env::Env;
use attnc_pattern::order;
use attnc_pattern::program::Program;

use crate::plan::{Attend, Entry, View};
use crate::verify::VerifiedPlan;

/// Cost of one head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Entries: pairs counted as often as they are attended to. Null slots are not counted.
    pub entries: u64,
    /// `2 (d_k + d_v) entries`
    pub useful_flops: u64,
    /// What the kernels execute.
    pub executed_flops: u64,
    /// Non-empty tiles that every query of the tile attends to wholly.
    pub full_tiles: u64,
    /// Other non-empty tiles.
    pub partial_tiles: u64,
    /// Queries that attend to nothing (no key and no null slot).
    pub empty_rows: u64,
    /// Most keys in a row.
    pub max_row: u64,
    /// Bytes of Q, K, V and output, each read or written once.
    pub bytes_min: u64,
    /// Bytes read and written by the tiles, K and V counted at each visit.
    pub bytes_tiles: u64,
}

impl Cost {
    /// Cost of two heads together.
    #[must_use]
    pub fn and(self, other: Cost) -> Cost {
        Cost {
            entries: self.entries + other.entries,
            useful_flops: self.useful_flops + other.useful_flops,
            executed_flops: self.executed_flops + other.executed_flops,
            full_tiles: self.full_tiles + other.full_tiles,
            partial_tiles: self.partial_tiles + other.partial_tiles,
            empty_rows: self.empty_rows + other.empty_rows,
            max_row: self.max_row.max(other.max_row),
            bytes_min: self.bytes_min + other.bytes_min,
            bytes_tiles: self.bytes_tiles + other.bytes_tiles,
        }
    }

    /// Executed over useful operations; 1 if there are none.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        if self.useful_flops == 0 { 1.0 } else { self.executed_flops as f64 / self.useful_flops as f64 }
    }
}

/// Dimensions and element size, which a pattern does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Dimension of queries and keys.
    pub d_k: u64,
    /// Dimension of values.
    pub d_v: u64,
    /// Bytes of an element.
    pub element: u64,
}

/// How many keys a target visits of a tile of 64, given the bits of those that some query of the tile attends to.
pub type Visited = fn(u64) -> u32;

/// Counts one head under `env`.
///
/// # Errors
/// An expression that cannot be evaluated (overflow, an index out of range).
pub fn cost(plan: &VerifiedPlan, env: &Env<'_>, shape: Shape, visited: Visited) -> Result<Cost, EvalError> {
    let row_bytes = (shape.d_k + shape.d_v) * shape.element;
    let mut count = Count { shape, visited, row_bytes, total: Cost::default(), of_row: None };
    if plan.stages.len() > 1 {
        count.of_row = Some(vec![0; usize::try_from(env.n_q).unwrap_or(0)]);
    }
    for stage in &plan.stages {
        let sets: Vec<Rows> = stage.entries.iter().filter_map(|e| tokens(&plan.program, e)).collect();
        match stage.view {
            View::Given => count.stage(stage, &sets, env, |i| (env.q_start + i, i))?,
            View::Walk(order) => {
                let walk = order::walk(&plan.program, order, env)
                    .map_err(|e| EvalError::Missing { what: e.to_string() })?;
                let number = |i: i64| i64::from(walk[i as usize]);
                count.stage(stage, &sets, env, |i| (env.q_start + number(i), number(i)))?;
            }
            View::Classes(modulus) => {
                for first in 0..modulus.min(env.n_q) {
                    let of = env.of_class(modulus, (env.q_start + first) % modulus);
                    count.stage(stage, &sets, &of, |i| (of.q_start + i, first + modulus * i))?;
                }
            }
        }
    }
    let mut total = count.total;
    for row in count.of_row.into_iter().flatten() {
        total.max_row = total.max_row.max(row & !NULL);
        total.empty_rows += u64::from(row == 0);
    }
    total.useful_flops = 2 * (shape.d_k + shape.d_v) * total.entries;
    total.bytes_min = (env.n_q + env.n_k) as u64 * row_bytes;
    Ok(total)
}

fn tokens(program: &Program, entry: &Entry) -> Option<Rows> {
    match entry {
        Entry::Tokens { rows, .. } => Some(Rows::new(program, rows)),
        Entry::Null { .. } => None,
    }
}

/// In the count of a row, says that it attends to a null slot.
const NULL: u64 = 1 << 63;

/// What has been counted so far.
struct Count {
    shape: Shape,
    visited: Visited,
    row_bytes: u64,
    total: Cost,
    /// Keys of each row, where a row is met in several stages.
    of_row: Option<Vec<u64>>,
}

impl Count {
    /// Counts the queries of `env`; `query` gives the position of the i-th and its number in the launch.
    fn stage(
        &mut self,
        stage: &Attend,
        sets: &[Rows],
        env: &Env<'_>,
        query: impl Fn(i64) -> (i64, i64),
    ) -> Result<(), EvalError> {
        let total = &mut self.total;
        let flops = 2 * (self.shape.d_k + self.shape.d_v);
        let null = stage.entries.iter().any(|e| matches!(e, Entry::Null { slots: 1.., .. }));
        let mut walkers = sets.iter().map(|s| s.walker(env)).collect::<Result<Vec<RowWalker<'_>>, _>>()?;
        let (bq, bk) = (stage.tile.q as i64, stage.tile.k as i64);
        let (mut useful, mut full, mut ranges, mut row_full, mut merged) = (vec![], vec![], vec![], vec![], vec![]);
        let mut row_counts = vec![0u64; bq as usize];
        let mut q0 = 0;
        while q0 < env.n_q {
            let rows = bq.min(env.n_q - q0);
            let lanes = ((rows + 15) / 16 * 16) as u64;
            row_counts.fill(0);
            for walker in &mut walkers {
                useful.clear();
                for r in 0..rows {
                    let row = walker.row(query(q0 + r).0)?;
                    let count = row.count();
                    total.entries += count;
                    row_counts[r as usize] += count;
                    ranges_of(row, env, bk, &mut ranges, &mut row_full);
                    merge_into(&mut useful, &ranges, &mut merged);
                    if r == 0 {
                        full.clone_from(&row_full);
                    } else {
                        full = intersect(&full, &row_full);
                    }
                }
                let full: i64 = full.iter().map(|(a, b)| b - a).sum();
                let (tiles, keys) = visits(&useful, self.visited);
                total.full_tiles += full as u64;
                total.partial_tiles += tiles - full as u64;
                total.executed_flops += flops * keys * lanes;
                total.bytes_tiles += keys * self.row_bytes;
            }
            for (r, count) in row_counts[..rows as usize].iter().enumerate() {
                match &mut self.of_row {
                    Some(of_row) => {
                        let all = &mut of_row[query(q0 + r as i64).1 as usize];
                        *all = (*all + count) | if null { NULL } else { 0 };
                    }
                    None => {
                        total.max_row = total.max_row.max(*count);
                        total.empty_rows += u64::from(*count == 0 && !null);
                    }
                }
            }
            total.bytes_tiles += rows as u64 * self.row_bytes;
            q0 += rows;
        }
        Ok(())
    }
}

/// Keys of a row, counted from the first key of the launch, and the tiles of `bk` keys that it covers. The last tile
/// of the sequence is covered by the keys there are.
fn ranges_of(row: &Row, env: &Env<'_>, bk: i64, ranges: &mut Vec<(i64, i64)>, full: &mut Vec<(i64, i64)>) {
    ranges.clear();
    full.clear();
    let mut from = env.k_start;
    while let Some((start, end)) = row.next_from(from) {
        from = end;
        let (start, end) = (start - env.k_start, end - env.k_start);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    for &(start, end) in &*ranges {
        let covered = ((start + bk - 1) / bk, if end == env.n_k { (end - 1) / bk + 1 } else { end / bk });
        if covered.0 < covered.1 {
            full.push(covered);
        }
    }
}

/// Tiles that hold some of the keys, and how many keys are visited in them.
fn visits(useful: &[(i64, i64)], visited: Visited) -> (u64, u64) {
    const TILE: i64 = u64::BITS as i64;
    let (mut tiles, mut keys) = (0, 0);
    // The tile that ranges are being added to.
    let (mut at, mut bits) = (-1, 0_u64);
    let mut close = |bits: &mut u64| {
        if *bits != 0 {
            tiles += 1;
            keys += u64::from(visited(*bits));
            *bits = 0;
        }
    };
    let mut whole = 0;
    for &(mut start, end) in useful {
        while start < end {
            if start % TILE == 0 && end - start >= TILE {
                let many = (end - start) / TILE;
                whole += many as u64;
                start += many * TILE;
                continue;
            }
            if start / TILE != at {
                close(&mut bits);
                at = start / TILE;
            }
            let stop = end.min((at + 1) * TILE);
            bits |= (u64::MAX >> (TILE - (stop - start))) << (start % TILE);
            start = stop;
        }
    }
    close(&mut bits);
    (tiles + whole, keys + whole * u64::from(visited(u64::MAX)))
}

/// Union of two sorted lists of disjoint half-open ranges, into the first; `merged` is working memory.
fn merge_into(into: &mut Vec<(i64, i64)>, from: &[(i64, i64)], merged: &mut Vec<(i64, i64)>) {
    // Most rows add nothing to what the first row of the tile touched, or stretch its ends.
    if let ([a], [b]) = (into.as_mut_slice(), from)
        && a.0 <= b.1
        && b.0 <= a.1
    {
        *a = (a.0.min(b.0), a.1.max(b.1));
        return;
    }
    merged.clear();
    let (mut i, mut j) = (0, 0);
    while i < into.len() || j < from.len() {
        let next = if j == from.len() || (i < into.len() && into[i].0 <= from[j].0) {
            i += 1;
            into[i - 1]
        } else {
            j += 1;
            from[j - 1]
        };
        match merged.last_mut() {
            Some(last) if next.0 <= last.1 => last.1 = last.1.max(next.1),
            _ => merged.push(next),
        }
    }
    std::mem::swap(into, merged);
}

/// Intersection of two sorted lists of disjoint half-open ranges.
fn intersect(a: &[(i64, i64)], b: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        let (s, e) = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
        if s < e {
            out.push((s, e));
        }
        if a[i].1 <= b[j].1 { i += 1 } else { j += 1 }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{intersect, merge_into, visits};

    #[test]
    fn ranges_merge_and_meet() {
        let mut a = vec![(0, 2), (5, 6)];
        let mut work = vec![];
        merge_into(&mut a, &[(1, 3), (6, 9)], &mut work);
        assert_eq!(a, [(0, 3), (5, 9)]);
        merge_into(&mut a, &[(3, 5)], &mut work);
        assert_eq!(a, [(0, 9)]);
        assert_eq!(intersect(&[(0, 4), (6, 9)], &[(2, 7), (8, 20)]), [(2, 4), (6, 7), (8, 9)]);
    }

    #[test]
    fn tiles_and_keys_are_counted() {
        // A whole tile, the rest of the next with a hole, and one key far away.
        assert_eq!(visits(&[(0, 70), (72, 74), (640, 641)], u64::count_ones), (3, 64 + 6 + 2 + 1));
        assert_eq!(visits(&[(60, 200)], |bits| u64::BITS - bits.leading_zeros()), (4, 64 + 64 + 64 + 8));
        assert_eq!(visits(&[], u64::count_ones), (0, 0));
    }
}
