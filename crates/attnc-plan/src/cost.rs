//! Exact cost before running: entries, useful and executed operations, tiles, bytes.
//!
//! Counted from row sets, query by query, in memory that does not grow with the sequence. The executed
//! count follows the kernels' contract: a non-empty tile of `t` keys costs `2 (d_k + d_v) t lanes`,
//! where the lanes of a tile of queries are its rows rounded up to 16. Nothing here knows of time.

use attnc_pattern::analysis::{EvalError, Row, RowWalker, Rows};
use attnc_pattern::env::Env;

use crate::plan::Entry;
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

/// Counts one head under `env`.
///
/// # Errors
/// An expression that cannot be evaluated (overflow, an index out of range).
pub fn cost(plan: &VerifiedPlan, env: &Env<'_>, shape: Shape) -> Result<Cost, EvalError> {
    let mut total = Cost::default();
    let flops = 2 * (shape.d_k + shape.d_v);
    let row_bytes = (shape.d_k + shape.d_v) * shape.element;
    for stage in &plan.stages {
        let null: i64 = stage.entries.iter().map(|e| if let Entry::Null { slots, .. } = e { *slots } else { 0 }).sum();
        let sets: Vec<Rows> = stage
            .entries
            .iter()
            .filter_map(
                |e| if let Entry::Tokens { rows, .. } = e { Some(Rows::new(&plan.program, rows)) } else { None },
            )
            .collect();
        let mut walkers = sets.iter().map(|s| s.walker(env)).collect::<Result<Vec<RowWalker<'_>>, _>>()?;
        let (bq, bk) = (stage.tile.q as i64, stage.tile.k as i64);
        let (mut touched, mut full, mut row_touched, mut row_full) = (vec![], vec![], vec![], vec![]);
        let mut row_counts = vec![0u64; bq as usize];
        let mut q0 = 0;
        while q0 < env.n_q {
            let rows = bq.min(env.n_q - q0);
            let lanes = ((rows + 15) / 16 * 16) as u64;
            row_counts.fill(0);
            for walker in &mut walkers {
                touched.clear();
                for r in 0..rows {
                    let row = walker.row(env.q_start + q0 + r)?;
                    let count = row.count();
                    total.entries += count;
                    row_counts[r as usize] += count;
                    tiles_of(row, env, bk, &mut row_touched, &mut row_full);
                    merge_into(&mut touched, &row_touched);
                    if r == 0 {
                        full.clone_from(&row_full);
                    } else {
                        full = intersect(&full, &row_full);
                    }
                }
                let tiles: i64 = touched.iter().map(|(a, b)| b - a).sum();
                let full: i64 = full.iter().map(|(a, b)| b - a).sum();
                let last = (env.n_k + bk - 1) / bk;
                // Every tile has bk keys but the last of the sequence.
                let mut keys = (tiles * bk) as u64;
                if touched.last().is_some_and(|t| t.1 == last) {
                    keys -= (last * bk - env.n_k) as u64;
                }
                total.full_tiles += full as u64;
                total.partial_tiles += (tiles - full) as u64;
                total.executed_flops += flops * keys * lanes;
                total.bytes_tiles += keys * row_bytes;
            }
            for count in &row_counts[..rows as usize] {
                total.max_row = total.max_row.max(*count);
                total.empty_rows += u64::from(*count == 0 && null == 0);
            }
            total.bytes_tiles += rows as u64 * row_bytes;
            q0 += rows;
        }
    }
    total.useful_flops = flops * total.entries;
    total.bytes_min = (env.n_q + env.n_k) as u64 * row_bytes;
    Ok(total)
}

/// Tiles of `bk` keys, counted from the first key of the launch, that a row touches and that it covers.
/// The last tile of the sequence is covered by the keys there are.
fn tiles_of(row: &Row, env: &Env<'_>, bk: i64, touched: &mut Vec<(i64, i64)>, full: &mut Vec<(i64, i64)>) {
    touched.clear();
    full.clear();
    let mut from = env.k_start;
    while let Some((start, end)) = row.next_from(from) {
        let (start, end) = (start - env.k_start, end - env.k_start);
        let (first, last) = (start / bk, (end - 1) / bk + 1);
        match touched.last_mut() {
            Some(t) if t.1 == first => t.1 = last,
            _ => touched.push((first, last)),
        }
        let covered = ((start + bk - 1) / bk, if end == env.n_k { last } else { end / bk });
        if covered.0 < covered.1 {
            full.push(covered);
        }
        // What else is in the last tile touches no other tile and covers none.
        from = env.k_start + last * bk;
    }
}

/// Union of two sorted lists of disjoint half-open ranges, into the first.
fn merge_into(into: &mut Vec<(i64, i64)>, from: &[(i64, i64)]) {
    // Most rows add nothing to what the first row of the tile touched.
    if from.iter().all(|f| into.iter().any(|t| t.0 <= f.0 && f.1 <= t.1)) {
        return;
    }
    into.extend_from_slice(from);
    into.sort_unstable();
    let mut kept = 0;
    for i in 1..into.len() {
        if into[i].0 <= into[kept].1 {
            into[kept].1 = into[kept].1.max(into[i].1);
        } else {
            kept += 1;
            into[kept] = into[i];
        }
    }
    into.truncate(kept + 1);
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
    use super::{intersect, merge_into};

    #[test]
    fn ranges_merge_and_meet() {
        let mut a = vec![(0, 2), (5, 6)];
        merge_into(&mut a, &[(1, 3), (6, 9)]);
        assert_eq!(a, [(0, 3), (5, 9)]);
        merge_into(&mut a, &[(3, 5)]);
        assert_eq!(a, [(0, 9)]);
        assert_eq!(intersect(&[(0, 4), (6, 9)], &[(2, 7), (8, 20)]), [(2, 4), (6, 7), (8, 9)]);
    }
}
