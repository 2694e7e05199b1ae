//! Rows that a head is computed for in place of its queries, and the output of queries made of theirs.
//!
//! The one idea: rows lie side by side in the workspace, branch by branch, each with the position at which its sets are
//! read; tiles of them are tasks like any. When all stages are done, the output of each query is the sum of some rows'
//! outputs by fixed weights, in a fixed order. Nothing here knows how rows are scored.

use attnc_kernels::abi::{BK, BQ_MAX, DType, Table};
use attnc_pattern::env::{DrawTable, Env};
use attnc_pattern::expr::Node;
use attnc_plan::inplace::Parts;
use attnc_plan::{InPlace, Plan, inplace};

use crate::layout::{Bound, Ctx, Rows, Scratch};
use crate::select::table_of;

/// Rows of one head.
#[derive(Debug)]
pub(crate) struct Stand {
    /// Where each stands, counted from the first query, and its row among the queries that are read; filled up to a whole
    /// tile.
    ahead: Vec<u32>,
    index: Vec<u32>,
    /// Of each stage.
    tiles: Vec<Vec<Tile>>,
    /// `[row][dv]` outputs, then `[row]` log-sum-exps.
    out: *mut f32,
    lse: *mut f32,
    dv: usize,
    /// Query i is made of `parts[begin[i] .. begin[i + 1]]`.
    begin: Vec<u32>,
    parts: Vec<(u32, f32)>,
    /// There is no log-sum-exp.
    merged: bool,
}

// SAFETY: its memory is written by tasks apart and then only read.
unsafe impl Sync for Stand {}

/// Rows of one branch.
#[derive(Clone, Copy, Debug)]
struct Tile {
    first: usize,
    rows: usize,
    branch: i64,
}

/// Bytes of the outputs of so many rows.
pub(crate) fn bytes(rows: usize, dv: usize) -> Option<usize> {
    crate::levels::bytes(rows, dv.checked_add(1)?)
}

/// Most bytes that a head takes in place of its queries.
pub(crate) fn most_bytes(plan: &Plan, env: &Env<'_>, dv: usize) -> Option<usize> {
    match &plan.rows {
        None => Some(0),
        Some(rows) => bytes(usize::try_from(inplace::most_rows(plan, rows, env).ok()?).ok()?, dv),
    }
}

impl Stand {
    /// The rows of a head; the tables of its selections are made. `take` gives memory; `None` where it gives none.
    pub(crate) fn new(
        plan: &Plan,
        rows: &InPlace,
        (env, bound): (&Env<'_>, &Bound<'_>),
        dv: usize,
        take: impl FnOnce(usize) -> Option<*mut u8>,
    ) -> Result<Option<Stand>, String> {
        let program = &*plan.program;
        let mut known = env.clone();
        known.draws.resize(program.draws.len(), DrawTable::default());
        if let Some(takes) = rows.takes() {
            for id in program.exprs.reachable(&[takes.set]) {
                let (Node::Drawn(draw, ..) | Node::DrawAt(draw, ..)) = *program.exprs.node(id) else { continue };
                let made = bound.draws.get(draw.0 as usize).filter(|d| !d.selected.is_null());
                // SAFETY: selections are made.
                made.into_iter().for_each(|made| known.draws[draw.0 as usize] = unsafe { table_of(made) });
            }
        }
        let positions = inplace::positions(plan, rows, &known).map_err(|e| e.to_string())?;
        let count = positions.iter().map(Vec::len).sum();
        let Some(base) = bytes(count, dv).and_then(take) else { return Ok(None) };
        let mut ahead: Vec<u32> = positions.iter().flatten().map(|&p| (p - env.q_start).max(0) as u32).collect();
        let (mut index, (begin, parts)) = match rows {
            InPlace::Slots(pooled) => ((0..count as u32).collect(), inplace::of_slots(program, env, *pooled)?),
            InPlace::Branches { .. } => (ahead.clone(), of_branches(&ahead, env.n_q as usize)),
        };
        for list in [&mut ahead, &mut index] {
            let last = list.last().copied().unwrap_or(0);
            list.resize(count + BQ_MAX, last);
        }
        let tiles = plan.stages.iter().map(|stage| {
            let (mut tiles, mut first) = (Vec::new(), 0);
            for (branch, rows) in positions.iter().enumerate() {
                let mut left = rows.len();
                while left > 0 {
                    let rows = left.min(stage.tile.q);
                    tiles.push(Tile { first, rows, branch: branch as i64 });
                    (first, left) = (first + rows, left - rows);
                }
            }
            tiles
        });
        let out: *mut f32 = base.cast();
        let lse = out.wrapping_add(count * dv);
        let tiles = tiles.collect();
        Ok(Some(Stand { ahead, index, tiles, out, lse, dv, begin, parts, merged: rows.is_merged() }))
    }

    /// Tiles of a stage.
    pub(crate) fn tiles(&self, stage: usize) -> usize {
        self.tiles.get(stage).map_or(0, Vec::len)
    }

    /// Makes the context of a head that of a tile of rows.
    pub(crate) fn apply(&self, ctx: &mut Ctx, stage: usize, tile: usize) {
        let Tile { first, rows, branch } = self.tiles[stage][tile];
        let single = size_of::<f32>() as i64;
        let base: *mut u8 = self.out.wrapping_add(first * self.dv).cast();
        let lse = self.lse.wrapping_add(first);
        (ctx.branch, ctx.lanes) = (branch, rows as i64);
        ctx.walk = self.ahead[first..].as_ptr();
        ctx.q.index = self.index[first..].as_ptr();
        let (dtype, row_stride, index) = (DType::F32 as i64, self.dv as i64 * single, std::ptr::null());
        ctx.out = Rows { base, dtype, row_stride, col_stride: single, index };
        ctx.from = Rows { base: base.cast_const(), dtype, row_stride, col_stride: single, index };
        (ctx.lse, ctx.lse_stride, ctx.lse_index) = (lse, single, index);
        (ctx.from_lse, ctx.from_lse_stride) = (lse, single);
    }

    /// Tiles of queries.
    pub(crate) fn queries(&self) -> usize {
        (self.begin.len() - 1).div_ceil(BQ_MAX)
    }

    /// Writes the outputs of a tile of queries of the head that `ctx` is of.
    ///
    /// # Safety
    /// The launch has been checked, all rows are done, no other thread writes these queries, and the scratch is this
    /// thread's, for tiles of [`BQ_MAX`].
    pub(crate) unsafe fn spread(&self, ctx: &Ctx, tile: usize, scratch: &Scratch) {
        let (first, dv) = (tile * BQ_MAX, self.dv);
        let rows = (self.begin.len() - 1 - first).min(BQ_MAX);
        const { assert!(BQ_MAX <= BK) };
        // SAFETY: promised by the caller; a scratch has room for as many rows of values as a tile has keys.
        unsafe {
            let kernels: &Table = &*ctx.table;
            let made = std::slice::from_raw_parts_mut(scratch.copy, rows * dv);
            made.fill(0.0);
            for (i, made) in made.chunks_exact_mut(dv).enumerate() {
                let of = self.begin[first + i] as usize..self.begin[first + i + 1] as usize;
                let (mut lse, mut sum) = (f32::NEG_INFINITY, 0.0);
                for &(row, weight) in &self.parts[of] {
                    let row = row as usize;
                    let from = std::slice::from_raw_parts(self.out.add(row * dv), dv);
                    made.iter_mut().zip(from).for_each(|(o, x)| *o += weight * x);
                    lse = *self.lse.add(row);
                    sum = if lse == f32::NEG_INFINITY { 0.0 } else { 1.0 };
                }
                // What is made of several rows has no log-sum-exp, but an output.
                (*scratch.m.add(i), *scratch.l.add(i)) = if self.merged { (f32::NAN, 1.0) } else { (lse, sum) };
            }
            let (single, dim) = (size_of::<f32>() as i64, dv as i64);
            let from: *const u8 = scratch.copy.cast_const().cast();
            (kernels.pack_q)(
                from,
                DType::F32 as i64,
                dim * single,
                single,
                std::ptr::null(),
                rows as i64,
                BQ_MAX as i64,
                dim,
                1.0,
                scratch.acc,
            );
            ctx.finish(scratch.acc, scratch.m, scratch.l, (first as i64, rows as i64), BQ_MAX as i64);
        }
    }
}

/// The mean of the rows of each query, branch by branch; `ahead` is the query of each row.
fn of_branches(ahead: &[u32], queries: usize) -> Parts {
    let mut begin = vec![0; queries + 1];
    ahead.iter().for_each(|&q| begin[q as usize + 1] += 1);
    for q in 0..queries {
        begin[q + 1] += begin[q];
    }
    let mut next = begin.clone();
    let mut parts = vec![(0, 0.0); ahead.len()];
    for (row, &q) in ahead.iter().enumerate() {
        let taken = begin[q as usize + 1] - begin[q as usize];
        parts[next[q as usize] as usize] = (row as u32, 1.0 / taken as f32);
        next[q as usize] += 1;
    }
    (begin, parts)
}
