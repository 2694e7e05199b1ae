//! Formats of blocks: which blocks hold pairs, which are full, and what partial ones hold.

use std::collections::HashMap;
use std::ops::Range;

use super::{Array, Exported, Mask, Refused, Values, array, rows};
use crate::view::Run;

/// Pairs of each block in one row of blocks.
struct Counts {
    block: usize,
    /// Differences of pairs from block to block, and what begins and ends inside of blocks.
    steps: Vec<i64>,
    own: Vec<i64>,
}

impl Counts {
    fn new(block: usize, cols: usize) -> Counts {
        Counts { block, steps: vec![0; cols + 1], own: vec![0; cols] }
    }

    fn add(&mut self, runs: &[Run]) {
        let block = self.block as i64;
        for run in runs {
            let (first, last) = ((run.first / block) as usize, (run.last / block) as usize);
            if first == last {
                self.own[first] += run.last - run.first + 1;
                continue;
            }
            self.own[first] += block - run.first % block;
            self.own[last] += run.last % block + 1;
            // Blocks in between hold the whole range.
            self.steps[first + 1] += block;
            self.steps[last] -= block;
        }
    }

    /// Blocks with pairs, and whether each is full; nothing is counted afterwards.
    fn take(&mut self) -> Vec<(usize, bool)> {
        let whole = (self.block * self.block) as i64;
        let (mut sum, mut found) = (0, Vec::new());
        for col in 0..self.own.len() {
            sum += self.steps[col];
            let pairs = sum + self.own[col];
            if pairs > 0 {
                found.push((col, pairs == whole));
            }
        }
        self.steps.fill(0);
        self.own.fill(0);
        found
    }
}

/// Calls `each` with every row of blocks of a head: its number, its rows and its blocks.
fn block_rows(
    mask: &Mask<'_>,
    head: usize,
    block: usize,
    mut each: impl FnMut(usize, &[Vec<Run>], &[(usize, bool)]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let mut counts = Counts::new(block, mask.n_k.div_ceil(block));
    let mut held: Vec<Vec<Run>> = Vec::new();
    mask.rows(head, |row, runs| {
        counts.add(runs);
        held.push(runs.to_vec());
        if held.len() == block || row + 1 == mask.n_q {
            each(row / block, &held, &counts.take())?;
            held.clear();
        }
        Ok(())
    })
}

/// The pairs of a block as bytes, `[block, block]`.
fn bits(rows: &[Vec<Run>], block: usize, col: usize) -> Vec<u8> {
    let mut bits = vec![0; block * block];
    let (begin, end) = ((col * block) as i64, ((col + 1) * block) as i64);
    for (cells, runs) in bits.chunks_mut(block).zip(rows) {
        for run in runs.iter().filter(|run| run.first < end && run.last >= begin) {
            let inside = Range { start: run.first.max(begin) - begin, end: run.last.min(end - 1) - begin + 1 };
            cells[inside.start as usize..inside.end as usize].fill(1);
        }
    }
    bits
}

/// `BlockMask` of `FlexAttention`.
pub(super) fn flex(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let block = mask.block(false)?;
    let (height, width) = (mask.n_q.div_ceil(block), mask.n_k.div_ceil(block));
    let counts = [mask.heads, height];
    let indices = [mask.heads, height, width];
    let (mut partial, mut full) = (mask.zeros::<i32>(&counts)?, mask.zeros::<i32>(&counts)?);
    let (mut partial_at, mut full_at) = (mask.zeros::<i32>(&indices)?, mask.zeros::<i32>(&indices)?);
    for head in 0..mask.heads {
        block_rows(mask, head, block, |row, _, blocks| {
            let at = head * height + row;
            for &(col, is_full) in blocks {
                let (count, list) = if is_full { (&mut full, &mut full_at) } else { (&mut partial, &mut partial_at) };
                list[at * width + count[at] as usize] = col as i32;
                count[at] += 1;
            }
            Ok(())
        })?;
    }
    let (starts, ends) = rows::ranges(mask)?;
    let counts = [1, mask.heads, height];
    let indices = [1, mask.heads, height, width];
    let arrays = vec![
        array("kv_num_blocks", counts, Values::I32(partial)),
        array("kv_indices", indices, Values::I32(partial_at)),
        array("full_kv_num_blocks", counts, Values::I32(full)),
        array("full_kv_indices", indices, Values::I32(full_at)),
        starts,
        ends,
    ];
    Ok(mask.exported(arrays, &[("block", block as i64)]))
}

/// Blocks of compressed rows of `FlashInfer`.
pub(super) fn flashinfer(mask: &Mask<'_>) -> Result<Exported, Refused> {
    mask.one_head("all heads share one mask")?;
    let divides = |b: usize| mask.n_q.is_multiple_of(b) && mask.n_k.is_multiple_of(b);
    let block = match mask.options.block {
        Some(_) => mask.block(true)?,
        None => (0..=7).rev().map(|log| 1 << log).find(|&b| divides(b)).unwrap_or(1),
    };
    let (mut indptr, mut indices, mut bytes) = (vec![0_i32], Vec::new(), Vec::new());
    let mut partial = false;
    if mask.heads > 0 {
        block_rows(mask, 0, block, |_, rows, blocks| {
            for &(col, is_full) in blocks {
                indices.push(col as i32);
                partial |= !is_full;
                if bytes.len() + block * block > super::MOST {
                    return Err(Refused::Format(format!("the mask has more than {} elements", super::MOST)));
                }
                bytes.extend(bits(rows, block, col));
            }
            indptr.push(i32::try_from(indices.len()).unwrap_or(i32::MAX));
            Ok(())
        })?;
    }
    let count = indices.len();
    let mut arrays =
        vec![array("indptr", [indptr.len()], Values::I32(indptr)), array("indices", [count], Values::I32(indices))];
    if partial {
        arrays.push(array("mask", [count, block, block], Values::Bool(bytes)));
    }
    Ok(mask.exported(arrays, &[("block", block as i64)]))
}

/// `MaskInfo` of Splash.
pub(super) fn splash(mask: &Mask<'_>) -> Result<Exported, Refused> {
    let block = mask.block(true)?;
    let (height, width) = (mask.n_q / block, mask.n_k / block);
    let extents = [mask.heads, height, width];
    let mut kinds = mask.zeros::<i8>(&extents)?;
    let mut masks = mask.zeros::<i32>(&extents)?;
    let mut known: HashMap<Vec<u8>, i32> = HashMap::new();
    let mut partial: Vec<u8> = Vec::new();
    for head in 0..mask.heads {
        block_rows(mask, head, block, |row, rows, blocks| {
            for &(col, is_full) in blocks {
                let at = (head * height + row) * width + col;
                kinds[at] = if is_full { 2 } else { 1 };
                if !is_full {
                    let bits = bits(rows, block, col);
                    let next = i32::try_from(known.len()).unwrap_or(i32::MAX);
                    masks[at] = *known.entry(bits).or_insert_with_key(|bits| {
                        partial.extend(bits);
                        next
                    });
                    if partial.len() > super::MOST {
                        return Err(Refused::Format(format!("partial blocks hold more than {} pairs", super::MOST)));
                    }
                }
            }
            Ok(())
        })?;
    }
    // The kernel fetches ahead: each place holds what the next block that is visited reads, in the order of the grid.
    let mut data = mask.zeros::<i32>(&extents)?;
    let (mut next_data, mut next_mask) = (0, 0);
    let first = |wanted: &dyn Fn(i8) -> bool| kinds.iter().position(|&k| wanted(k));
    if let Some(at) = first(&|k| k > 0) {
        next_data = (at % width) as i32;
    }
    if let Some(at) = first(&|k| k == 1) {
        next_mask = masks[at];
    }
    for at in (0..kinds.len()).rev() {
        if kinds[at] > 0 {
            next_data = (at % width) as i32;
        }
        if kinds[at] == 1 {
            next_mask = masks[at];
        }
        data[at] = next_data;
        masks[at] = next_mask;
    }
    let arrays: Vec<Array> = vec![
        array("block_mask", extents, Values::I8(kinds)),
        array("data_next", extents, Values::I32(data)),
        array("mask_next", extents, Values::I32(masks)),
        array("partial_mask_blocks", [known.len(), block, block], Values::Bool(partial)),
    ];
    Ok(mask.exported(arrays, &[("block", block as i64)]))
}
