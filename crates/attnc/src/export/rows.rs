//! Formats of rows: ranges of keys of each query, slices of many rows, and lists of pairs.

use super::{Array, Exported, Mask, Refused, Values, array};
use crate::view::Run;

/// Most ranges of a row, over all heads.
fn most_ranges(
    mask: &Mask<'_>,
    mut count: impl FnMut(usize, usize, &[Run]) -> Result<usize, Refused>,
) -> Result<usize, Refused> {
    let mut most = 0;
    for head in 0..mask.heads {
        mask.rows(head, |row, runs| {
            most = most.max(count(head, row, runs)?);
            Ok(())
        })?;
    }
    Ok(most)
}

/// `row_starts` and `row_ends`, `[heads, queries, most ranges]`; ranges that a row does not have are empty.
pub(super) fn ranges(mask: &Mask<'_>) -> Result<(Array, Array), Refused> {
    let most = most_ranges(mask, |_, _, runs| Ok(runs.len()))?;
    let shape = [mask.heads, mask.n_q, most];
    let (mut starts, mut ends) = (mask.room::<i32>(&shape)?, mask.room::<i32>(&shape)?);
    for head in 0..mask.heads {
        mask.rows(head, |_, runs| {
            starts.extend(runs.iter().map(|run| run.first as i32));
            ends.extend(runs.iter().map(|run| run.last as i32 + 1));
            starts.resize(starts.len() + most - runs.len(), 0);
            ends.resize(starts.len(), 0);
            Ok(())
        })?;
    }
    Ok((array("row_starts", shape, Values::I32(starts)), array("row_ends", shape, Values::I32(ends))))
}

/// Ends of ranges of cuDNN: how many keys from the first on, then begin and end of each other range.
pub(super) fn cudnn(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let limit = mask.options.most.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
    let functions = |runs: &[Run]| 1 + 2 * runs.iter().filter(|run| run.first > 0).count();
    let most = most_ranges(mask, |head, row, runs| {
        let wanted = functions(runs);
        if wanted > limit {
            return Err(Refused::Format(format!(
                "row {row} of head {head} has {} ranges of keys, which are {wanted} functions of {limit}",
                runs.len()
            )));
        }
        Ok(wanted)
    })?
    .max(1);
    let shape = [mask.heads, most, mask.n_q];
    let mut values = mask.zeros::<i32>(&shape)?;
    for head in 0..mask.heads {
        mask.rows(head, |row, runs| {
            let mut put = |f: usize, value: i32| values[(head * most + f) * mask.n_q + row] = value;
            let (mut end, mut next) = (0, 1);
            for run in runs {
                end = run.last as i32 + 1;
                if run.first == 0 {
                    put(0, end);
                } else {
                    put(next, run.first as i32);
                    put(next + 1, end);
                    next += 2;
                }
            }
            // Ranges that it does not have are empty, and ends never descend.
            (next..most).for_each(|f| put(f, end));
            Ok(())
        })?;
    }
    Ok(mask.exported(vec![array("mask_func", shape, Values::I32(values))], &[("functions", most as i64)]))
}

/// Most slices, unless the caller says how many: more are of no use to anyone.
const MOST_SLICES: usize = 1 << 22;

/// A slice of `MagiAttention` that rows may still be added to.
struct Slice {
    rows: (usize, usize),
    /// Range of its first row, and of its last.
    first: (i64, i64),
    last: (i64, i64),
    /// How its ends move from row to row; unknown of one row.
    step: Option<(i64, i64)>,
}

impl Slice {
    /// Adds the range of the next row, if the slice goes on with it.
    fn add(&mut self, row: usize, run: &Run) -> bool {
        let step = (run.first - self.last.0, run.last - self.last.1);
        let fits = self.step.is_none_or(|s| s == step) && (0..=1).contains(&step.0) && (0..=1).contains(&step.1);
        if self.rows.1 != row || !fits {
            return false;
        }
        (self.rows.1, self.last, self.step) = (row + 1, (run.first, run.last), Some(step));
        true
    }

    fn kind(&self) -> i32 {
        match self.step {
            None | Some((0, 0)) => 0,
            Some((0, _)) => 1,
            Some((_, 0)) => 2,
            Some(_) => 3,
        }
    }
}

/// Slices of `MagiAttention`: rectangles, and such with one or both corners cut off along the diagonal.
pub(super) fn magi(mask: &Mask<'_>) -> Result<Exported, Refused> {
    mask.one_head("all heads share the ranges")?;
    let limit = mask.options.most.map_or(MOST_SLICES, |n| usize::try_from(n).unwrap_or(0));
    let (mut open, mut done): (Vec<Slice>, Vec<Slice>) = (Vec::new(), Vec::new());
    let go_on = |row: usize, runs: &[Run], open: &mut Vec<Slice>, done: &mut Vec<Slice>| {
        // Slices that begin with this row stand behind those that it may go on.
        let before = open.len();
        for run in runs {
            if !open[..before].iter_mut().any(|slice| slice.add(row, run)) {
                let range = (run.first, run.last);
                open.push(Slice { rows: (row, row + 1), first: range, last: range, step: None });
                if done.len() + open.len() > limit {
                    return Err(Refused::Format(format!("row {row} begins a slice more than {limit}")));
                }
            }
        }
        done.extend(open.extract_if(.., |slice| slice.rows.1 <= row));
        Ok(())
    };
    if mask.heads > 0 {
        mask.rows(0, |row, runs| go_on(row, runs, &mut open, &mut done))?;
    }
    done.append(&mut open);
    done.sort_by_key(|s| (s.rows, s.first));
    let pairs = |of: &dyn Fn(&Slice) -> (i64, i64)| {
        done.iter().map(of).flat_map(|(a, b)| [a as i32, b as i32]).collect::<Vec<i32>>()
    };
    let q = pairs(&|s| (s.rows.0 as i64, s.rows.1 as i64));
    let k = pairs(&|s| (s.first.0, s.last.1 + 1));
    let kinds: Vec<i32> = done.iter().map(Slice::kind).collect();
    let count = done.len();
    let arrays = vec![
        array("q_ranges", [count, 2], Values::I32(q)),
        array("k_ranges", [count, 2], Values::I32(k)),
        array("attn_type_map", [count], Values::I32(kinds)),
    ];
    Ok(mask.exported(arrays, &[]))
}

/// Compressed rows.
pub(super) fn csr(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let mut indptr = mask.room::<i64>(&[mask.heads, mask.n_q + 1])?;
    let mut indices = mask.room::<i64>(&[pairs(mask)?])?;
    for head in 0..mask.heads {
        let begin = indices.len();
        indptr.push(0);
        mask.rows(head, |_, runs| {
            runs.iter().for_each(|run| indices.extend(run.first..=run.last));
            indptr.push((indices.len() - begin) as i64);
            Ok(())
        })?;
    }
    let shape = if mask.heads == 1 { vec![mask.n_q + 1] } else { vec![mask.heads, mask.n_q + 1] };
    let count = indices.len();
    let arrays = vec![array("indptr", shape, Values::I64(indptr)), array("indices", [count], Values::I64(indices))];
    Ok(mask.exported(arrays, &[]))
}

/// Pairs.
pub(super) fn coo(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let count = pairs(mask)?;
    let (mut rows, mut cols) = (mask.room::<i64>(&[count])?, mask.room::<i64>(&[count])?);
    let mut heads = mask.room::<i64>(&[if mask.heads > 1 { count } else { 0 }])?;
    for head in 0..mask.heads {
        mask.rows(head, |row, runs| {
            runs.iter().for_each(|run| cols.extend(run.first..=run.last));
            rows.resize(cols.len(), row as i64);
            Ok(())
        })?;
        if mask.heads > 1 {
            heads.resize(cols.len(), head as i64);
        }
    }
    let mut arrays = vec![array("row", [count], Values::I64(rows)), array("col", [count], Values::I64(cols))];
    if mask.heads > 1 {
        arrays.push(array("head", [count], Values::I64(heads)));
    }
    Ok(mask.exported(arrays, &[]))
}

/// Pairs of all heads, counted before memory is asked for.
fn pairs(mask: &Mask<'_>) -> Result<usize, Refused> {
    let mut sum = 0;
    for head in 0..mask.heads {
        mask.rows(head, |row, runs| {
            sum += runs.iter().map(|run| (run.last - run.first + 1) as usize).sum::<usize>();
            if sum > super::MOST {
                return Err(Refused::Format(format!("up to row {row} there are more than {} pairs", super::MOST)));
            }
            Ok(())
        })?;
    }
    Ok(sum)
}
