//! Formats of columns: which queries do not attend to a key.
//!
//! One idea: from row to row only ends of ranges move, so columns are filled from what changes between two rows.

use super::{Exported, Mask, Refused, Values, array};
use crate::view::Run;

/// Rows that do not attend to a key, in ranges.
type Excluded = Vec<(i32, i32)>;

/// `startend_row_indices` of `FlashMask`.
///
/// With `causal` the engine leaves out the keys behind each query itself, and a key has one range more of excluded
/// queries: from a row to the end (one number), or between two rows. Without it a key has a range that begins with the
/// first query and one that ends with the last (two numbers), or any two (four).
pub(super) fn flashmask(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let rows = mask.n_q as i32;
    let starts = (mask.inputs.q_start.unwrap_or(0), mask.inputs.k_start.unwrap_or(0));
    let mut of_heads: Vec<Vec<Excluded>> = Vec::new();
    for head in 0..mask.heads {
        of_heads.push(columns(mask, head)?);
    }
    let columns = || of_heads.iter().flat_map(|head| head.iter().enumerate());
    // The range that is left of a column below the diagonal, if it is one.
    let below = |col: usize, excluded: &Excluded| -> Option<(i32, i32)> {
        let col = col as i32;
        let covered = excluded.first().filter(|range| range.0 == 0).map_or(0, |range| range.1);
        if covered < col.min(rows) {
            return None;
        }
        let mut left = excluded.iter().map(|&(a, b)| (a.max(col), b)).filter(|(a, b)| a < b);
        let range = left.next().unwrap_or((rows, rows));
        left.next().is_none().then_some(range)
    };
    let square = mask.n_q == mask.n_k && starts.0 == starts.1;
    let causal = square && columns().all(|(col, excluded)| below(col, excluded).is_some());
    let mut values = Vec::new();
    let width = if causal {
        let of = |(col, excluded): (usize, &Excluded)| below(col, excluded).unwrap_or((rows, rows));
        if columns().all(|c| of(c).1 == rows) {
            values.extend(columns().map(|c| of(c).0));
            1
        } else {
            values.extend(columns().flat_map(|c| <[i32; 2]>::from(of(c))));
            2
        }
    } else {
        for (head, list) in of_heads.iter().enumerate() {
            if let Some((col, ranges)) = list.iter().enumerate().find(|(_, ranges)| ranges.len() > 2) {
                return Err(Refused::Format(format!(
                    "key {col} of head {head} has a third range of excluded queries, which begins with row {}",
                    ranges[2].0
                )));
            }
        }
        // Above: from the first query on. Below: up to the last.
        let of = |excluded: &Excluded| -> [(i32, i32); 2] {
            match excluded[..] {
                [] => [(rows, rows), (0, 0)],
                [one] if one.1 == rows => [one, (0, 0)],
                [one] => [(rows, rows), one],
                [one, two, ..] => [two, one],
            }
        };
        if columns().all(|(_, e)| of(e)[0].1 == rows && of(e)[1].0 == 0) {
            values.extend(columns().flat_map(|(_, e)| [of(e)[0].0, of(e)[1].1]));
            2
        } else {
            values.extend(columns().flat_map(|(_, e)| of(e)).flat_map(<[i32; 2]>::from));
            4
        }
    };
    let shape = [1, mask.heads, mask.n_k, width];
    let arrays = vec![array("startend_row_indices", shape, Values::I32(values))];
    Ok(mask.exported(arrays, &[("causal", i64::from(causal))]))
}

/// Excluded queries of each key of a head. A key of more than three ranges is of no format, and is not gone on with.
fn columns(mask: &Mask<'_>, head: usize) -> Result<Vec<Excluded>, Refused> {
    let mut list: Vec<Excluded> = mask.zeros(&[mask.n_k])?;
    // Since which row each key is excluded; those that are not have another number.
    let mut since: Vec<i32> = mask.zeros(&[mask.n_k])?;
    let mut before: Vec<Run> = Vec::new();
    mask.rows(head, |row, runs| {
        let row = row as i32;
        for (first, last) in beyond(runs, &before) {
            for col in first as usize..=last as usize {
                if since[col] < row {
                    list[col].push((since[col], row));
                }
                if list[col].len() > 3 {
                    return Err(Refused::Format(format!(
                        "key {col} of head {head} has a fourth range of excluded queries, which ends before row {row}"
                    )));
                }
            }
        }
        for (first, last) in beyond(&before, runs) {
            since[first as usize..=last as usize].fill(row);
        }
        before.clear();
        before.extend_from_slice(runs);
        Ok(())
    })?;
    let rows = mask.n_q as i32;
    let mut inside = vec![false; mask.n_k];
    for run in &before {
        inside[run.first as usize..=run.last as usize].fill(true);
    }
    for (col, excluded) in list.iter_mut().enumerate() {
        if !inside[col] && since[col] < rows {
            excluded.push((since[col], rows));
        }
    }
    Ok(list)
}

/// The keys of some ranges that are in none of others.
fn beyond(runs: &[Run], others: &[Run]) -> Vec<(i64, i64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    for run in runs {
        let mut first = run.first;
        while at < others.len() && others[at].last < first {
            at += 1;
        }
        let mut other = at;
        while first <= run.last {
            match others.get(other).filter(|o| o.first <= run.last) {
                Some(o) => {
                    if o.first > first {
                        found.push((first, o.first - 1));
                    }
                    first = o.last + 1;
                    other += 1;
                }
                None => {
                    found.push((first, run.last));
                    break;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_between_rows() {
        let of = |list: &[(i64, i64)]| -> Vec<Run> {
            list.iter().map(|&(first, last)| Run { first, last, times: 1 }).collect()
        };
        assert_eq!(beyond(&of(&[(0, 9)]), &of(&[(2, 3), (8, 12)])), [(0, 1), (4, 7)]);
        assert_eq!(beyond(&of(&[(0, 1), (5, 6)]), &of(&[(1, 5)])), [(0, 0), (6, 6)]);
        assert_eq!(beyond(&of(&[(4, 4)]), &of(&[])), [(4, 4)]);
        assert_eq!(beyond(&of(&[(4, 4)]), &of(&[(0, 9)])), []);
    }
}
