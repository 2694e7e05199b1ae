//! Selections: scores of candidates, a ranking, and a table of what was chosen, for each row of a head.
//!
//! The one idea: compiled code walks pairs tile by tile as for an attention and hands scores on; what they become is
//! decided here. Where candidates are ranked as they are scored (*direct*), each lane keeps a short list of the best.
//! Otherwise the values of all rows and candidates of a head are held at once, steps are taken on rows of them, and
//! rows (or all pairs of the head) are ranked when all are there. What a task does depends on its rows alone, and every
//! ranking is a total order, so that tables are the same for any number of threads.
//! Nothing here knows of machine code.

use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::OnceLock;

use attnc_kernels::abi::{self, BK, BQ_MAX, KvView};
use attnc_kernels::isa::Isa;
use attnc_kernels::select::{Grid, Kept, best, capacity, index, key, score};
use attnc_pattern::analysis::{Matches, RowWalker, Rows as Ranges};
use attnc_pattern::env::{DrawTable, Env};
use attnc_pattern::expr::{ExprId, Node, SelectId, TensorId};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{
    Among, Band, Budget, Chooser, Index, Norm, Operand, Program, Reduce, Refine, Rep, Rows as OperandRows, Select, Step,
};
use attnc_pattern::slots;
use attnc_plan::choose::{self, Extents, env_of};
use attnc_plan::items::{Items, candidates_of};
use attnc_plan::{Choose, Plan};

use crate::compile::CpuKernel;
use crate::layout::{ALIGN, Ctx, DrawRef, Rows, Scratch};
use crate::levels::fetch;

/// What a selection has in every head with the same lengths and data.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Rows of its tables.
    rows: Range<i64>,
    /// Where each stands.
    stands: Vec<i64>,
    /// Number of candidates.
    slots: Range<i64>,
    /// Most entries of a row of a table.
    capacity: usize,
    /// How many are wanted at most, where that is known before scores are.
    wanted: Option<usize>,
    items: Option<Items>,
}

fn said(e: EnvError) -> String {
    e.to_string()
}

impl Setup {
    pub(crate) fn new(plan: &Plan, choose: &Choose, env: &Env<'_>) -> Result<Setup, String> {
        let program = &*plan.program;
        let select = program.select(choose.select);
        let Extents { rows, stands, slots, capacity } = Extents::new(program, select, env).map_err(said)?;
        let all = (slots.end - slots.start).max(0);
        let wanted = match &select.budget {
            Budget::Top(count) => {
                Some(slots::integer(program, env, *count).map_err(said)?.max(select.at_least).min(all) as usize)
            }
            Budget::Nearest(n) => Some((*n).max(select.at_least).min(all) as usize),
            _ => None,
        };
        if let Some((Operand { rows: OperandRows::Tensor(tensor), .. }, _)) = choose.scored.as_ref().and_then(|s| s.dot)
        {
            let found = tensor_rows(env, tensor).filter(|t| t.1 as i64 == rows.end && t.2 as i64 == env.dim);
            found.ok_or_else(|| {
                format!("tensor `{}` has no row of dimension d for each branch", program.tensor(tensor).name)
            })?;
        }
        let mut items = choose.scored.as_ref().map(|s| Items::new(program, select, s, env, &rows)).transpose()?;
        // Filled up to a whole tile.
        for list in items.iter_mut().flat_map(|i| [&mut i.numbers, &mut i.ahead]) {
            let last = list.last().copied().unwrap_or(0);
            list.resize(list.len() + BQ_MAX, last);
        }
        Ok(Setup { rows, stands, slots, capacity, wanted, items })
    }

    /// Keys that its walk goes over.
    pub(crate) fn keys(&self) -> i64 {
        self.items.as_ref().map_or(0, |i| i.keys.1)
    }

    fn row_count(&self) -> usize {
        self.stands.len()
    }

    /// Bytes of its tables.
    fn table_bytes(&self, tables: usize) -> Option<usize> {
        let rows = self.row_count();
        let one = rows.checked_mul(self.capacity)?.checked_add(rows)?.checked_mul(size_of::<u32>())?;
        one.checked_next_multiple_of(ALIGN)?.checked_mul(tables)
    }

    /// Bytes of the values of all rows and candidates, where these are held.
    fn grid_bytes(&self, choose: &Choose) -> Option<usize> {
        let Some((items, scored)) = self.items.as_ref().zip(choose.scored.as_ref()) else { return Some(0) };
        if scored.direct {
            return Some(0);
        }
        if scored.searched {
            return Some(0);
        }
        let rows = (items.score_rows.end - items.score_rows.start).max(0) as usize;
        crate::levels::bytes(rows, items.score_width())
    }

    /// Bytes for one head.
    pub(crate) fn bytes(&self, plan: &Plan, choose: &Choose) -> Option<usize> {
        let tables = plan.program.select(choose.select).tables.len();
        self.table_bytes(tables)?.checked_add(self.grid_bytes(choose)?)
    }

    /// Bytes of a thread.
    pub(crate) fn scratch_bytes(&self, choose: &Choose, budget: &Budget) -> Option<usize> {
        let Some((items, scored)) = self.items.as_ref().zip(choose.scored.as_ref()) else { return Some(ALIGN) };
        if scored.direct {
            return self.list_capacity().max(1).checked_mul(BQ_MAX * size_of::<u64>());
        }
        if let Budget::Refine(refine) = budget {
            // Of the halves of all nodes, and a slot of each key.
            let halves = usize::try_from(refine.leaves).ok()?.checked_mul(2 * 2 * BQ_MAX)?;
            return halves.checked_add(usize::try_from(items.keys.1).ok()?)?.checked_mul(size_of::<f32>());
        }
        // Values and how many pairs they are made of.
        items.width.max(1).checked_mul(2 * BQ_MAX * size_of::<f32>())
    }

    /// Bytes of a table of it as a value, of which there are two while it is made.
    pub(crate) fn copied(&self, plan: &Plan, choose: &Choose) -> usize {
        let tables = plan.program.select(choose.select).tables.len();
        let entries = self.row_count().saturating_mul(self.capacity.saturating_add(1));
        entries.saturating_mul(tables).saturating_mul(2 * size_of::<i64>())
    }

    /// Bytes of lists, at most: of the selection itself, of a task, and of a ranking of all pairs of a head.
    pub(crate) fn lists(&self, plan: &Plan, choose: &Choose) -> [usize; 3] {
        // Some numbers of 4 or 8 bytes for each, held twice as lists grow.
        const EACH: usize = 64;
        let rows = self.row_count();
        let slots = (self.slots.end - self.slots.start).max(0) as usize;
        let (mut own, mut task, mut all) = (rows.saturating_add(slots), slots, 0);
        if let Some(items) = &self.items {
            let keys = items.keys.1.max(0) as usize;
            let (width, held) = (items.score_width(), (items.score_rows.end - items.score_rows.start).max(0) as usize);
            own = [items.numbers.len(), keys, width, items.width, held].into_iter().fold(own, usize::saturating_add);
            // Values of the rows of a task.
            let of_rows = items.width.max(width).saturating_mul(BQ_MAX).saturating_mul(size_of::<f32>()) / EACH * 4;
            task = [width, items.width, of_rows].into_iter().fold(task, usize::saturating_add);
            if choose.scored.as_ref().is_some_and(|s| s.searched) {
                task = task.saturating_add(keys.saturating_mul(2));
            }
            let select = plan.program.select(choose.select);
            let head = choose
                .scored
                .as_ref()
                .is_some_and(|s| s.steps.iter().any(|s| matches!(s, Step::Norm { head: true, .. })));
            if head || select.pool == Among::Head {
                all = rows.max(held).saturating_mul(width.max(slots)).saturating_add(rows);
            }
        }
        [own, task, all].map(|n| n.saturating_mul(EACH))
    }

    /// Keys that a lane keeps.
    fn list_capacity(&self) -> usize {
        let all = self.items.as_ref().map_or(0, |i| i.keys.1.max(0) as usize);
        self.wanted.map_or(all, |wanted| capacity(wanted, all))
    }
}

/// Rows of a tensor for the head of an environment, how many, and of how many elements.
pub(crate) fn tensor_rows<'a>(env: &'a Env<'_>, tensor: TensorId) -> Option<(&'a [f32], usize, usize)> {
    let data = env.tensors.get(tensor.0 as usize)?;
    let (&cols, &rows) = (data.dims.last()?, data.dims.get(data.dims.len().checked_sub(2)?)?);
    let all = rows.checked_mul(cols)?;
    let from = if data.dims.len() > 2 { usize::try_from(env.head).ok()?.checked_mul(all)? } else { 0 };
    Some((data.data.get(from..from.checked_add(all)?)?, rows, cols))
}

/// A selection of one head: its tables and, until these are made, its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// `[table][row][capacity]` entries.
    entries: *mut u32,
    /// `[table][row]` numbers of entries.
    counts: *mut u32,
    /// `[row][candidate]` values of the score.
    values: *mut f32,
}

impl Tables {
    /// Tables without anything in memory of [`Setup::bytes`].
    pub(crate) fn new(plan: &Plan, choose: &Choose, setup: &Setup, memory: *mut u8) -> Option<Tables> {
        let tables = plan.program.select(choose.select).tables.len();
        let entries: *mut u32 = memory.cast();
        let counts = entries.wrapping_add(tables * setup.row_count() * setup.capacity);
        let values = memory.wrapping_add(setup.table_bytes(tables)?).cast();
        Some(Tables { entries, counts, values })
    }

    /// Table number `table` as compiled code reads it.
    pub(crate) fn draw(&self, plan: &Plan, choose: &Choose, setup: &Setup, table: usize) -> DrawRef {
        let select = plan.program.select(choose.select);
        let rows = setup.row_count();
        DrawRef {
            drawn: std::ptr::null(),
            selected: self.entries.wrapping_add(table * rows * setup.capacity),
            counts: self.counts.wrapping_add(table * rows),
            rows: rows as i64,
            count: setup.capacity as i64,
            first: if select.rows == Index::One { 0 } else { setup.rows.start },
        }
    }

    /// Writes a row of a table: `chosen` ascends.
    ///
    /// # Safety
    /// No other thread writes the row, and nobody reads it.
    unsafe fn write(&self, setup: &Setup, table: usize, row: usize, chosen: &[u32]) {
        let rows = setup.row_count();
        let chosen = &chosen[..chosen.len().min(setup.capacity)];
        // SAFETY: the table has these rows, each with room for `capacity` entries.
        unsafe {
            let to = self.entries.add((table * rows + row) * setup.capacity);
            to.copy_from_nonoverlapping(chosen.as_ptr(), chosen.len());
            *self.counts.add(table * rows + row) = chosen.len() as u32;
        }
    }
}

/// A table that compiled code reads, as a value.
///
/// # Safety
/// It has been made.
pub(crate) unsafe fn table_of(of: &DrawRef) -> DrawTable {
    let (rows, width) = (of.rows as usize, of.count as usize);
    // SAFETY: promised by the caller.
    let (entries, counts) =
        unsafe { (std::slice::from_raw_parts(of.selected, rows * width), std::slice::from_raw_parts(of.counts, rows)) };
    let mut chosen = vec![-1_i64; rows * width];
    for (row, &count) in counts.iter().enumerate() {
        for (to, &slot) in chosen[row * width..][..count as usize].iter_mut().zip(&entries[row * width..]) {
            *to = i64::from(slot);
        }
    }
    DrawTable { chosen: chosen.into(), count: width, first: of.first, counts: counts.into(), times: [].into() }
}

/// A selection of one head, as its tasks see it.
pub(crate) struct Choice<'a> {
    pub(crate) kernel: &'a CpuKernel,
    /// Its number in the plan.
    pub(crate) number: usize,
    pub(crate) setup: &'a Setup,
    pub(crate) tables: Tables,
    /// The head's own context.
    pub(crate) ctx: &'a Ctx,
    pub(crate) env: &'a Env<'a>,
    /// Rows and keys of the product.
    pub(crate) q: Option<KvView>,
    pub(crate) k: Option<KvView>,
    /// Candidates by what their set compares them by, once a task has sorted them.
    pub(crate) matches: OnceLock<Result<Matches, String>>,
}

// SAFETY: a choice borrows inputs and tables that are made, which nobody writes, and rows that its tasks write apart.
unsafe impl Sync for Choice<'_> {}

impl Choice<'_> {
    fn plan(&self) -> &Plan {
        self.kernel.plan()
    }

    fn choose(&self) -> &Choose {
        &self.plan().chooses[self.number]
    }

    fn select(&self) -> &Select {
        self.plan().program.select(self.choose().select)
    }

    fn searched(&self) -> Option<&Refine> {
        match &self.select().budget {
            Budget::Refine(refine) => Some(refine),
            _ => None,
        }
    }

    fn direct(&self) -> bool {
        self.choose().scored.as_ref().is_none_or(|s| s.direct)
    }

    /// Item rows of a tile.
    fn tile(&self) -> usize {
        self.choose().scored.as_ref().map_or(BQ_MAX, |s| s.walk.tile.q)
    }

    /// Rows of the score that a task of the first round takes.
    fn rows_of_task(&self) -> usize {
        let groups = self.setup.items.as_ref().and_then(|i| i.groups.as_ref());
        let largest = groups.and_then(|g| g.iter().map(|(a, b)| b - a).max()).unwrap_or(1).max(1);
        (self.tile() / largest).max(1)
    }

    /// Whether rows depend on all others of the head.
    fn together(&self) -> bool {
        let scored = self.choose().scored.as_ref();
        let head = scored.is_some_and(|s| s.steps.iter().any(|s| matches!(s, Step::Norm { head: true, .. })));
        head || self.select().pool == Among::Head
    }

    /// Tasks of a round: scores first, then rankings of what is held.
    pub(crate) fn tasks(&self, round: usize) -> usize {
        let rows = self.setup.row_count();
        match (round, self.direct()) {
            (0, _) if self.searched().is_some() => rows,
            (_, _) if self.searched().is_some() => 0,
            (0, true) => rows.div_ceil(BQ_MAX),
            (0, false) => {
                let of = self.setup.items.as_ref().map_or(0..0, |i| i.score_rows.clone());
                ((of.end - of.start).max(0) as usize).div_ceil(self.rows_of_task())
            }
            (_, true) => 0,
            (_, false) if self.together() => usize::from(rows > 0),
            (_, false) => rows.div_ceil(BQ_MAX),
        }
    }

    /// Keys of its walk, which the marks of a scratch are made for.
    pub(crate) fn keys(&self) -> i64 {
        self.setup.keys()
    }

    /// Does a task of a round.
    ///
    /// # Safety
    /// The launch has been checked, what the selection reads is made, the first round is done before the second, no
    /// other thread does the same task, and the scratch is this thread's, with marks for [`Self::keys`].
    pub(crate) unsafe fn run(&self, round: usize, task: usize, scratch: &mut Scratch) -> Result<(), String> {
        // SAFETY: promised by the caller.
        unsafe {
            match (round, self.direct()) {
                (0, _) if self.searched().is_some() => self.search(task, scratch),
                (0, true) => self.ranked_as_scored(task, scratch),
                (0, false) => {
                    self.values(task, scratch);
                    Ok(())
                }
                _ if self.together() => self.ranked_together(),
                _ => self.ranked_by_row(task),
            }
        }
    }

    /// The context of a walk over item rows `from .. to`.
    fn walk(&self, items: &Items, from: usize, to: usize) -> Ctx {
        let mut ctx = *self.ctx;
        ctx.given = [ctx.q_start, ctx.k_start, ctx.n_q, ctx.n_k];
        if let Some(q) = &self.q {
            let (row_stride, col_stride) = (q.row_stride, q.col_stride);
            ctx.q = Rows { base: q.base, dtype: i64::from(q.dtype), row_stride, col_stride, index: std::ptr::null() };
        }
        if let Some(k) = &self.k {
            ctx.k = *k;
        }
        if let Some(listed) = &items.listed {
            ctx.k.rows = listed.as_ptr();
        }
        (ctx.k_start, ctx.n_k) = items.keys;
        ctx.q.index = items.numbers[from..].as_ptr();
        ctx.walk = items.ahead[from..].as_ptr();
        ctx.lanes = (to - from) as i64;
        (ctx.first_tile, ctx.end_tile) = (0, i64::MAX);
        ctx
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn ranked_as_scored(&self, task: usize, scratch: &mut Scratch) -> Result<(), String> {
        let rows = task * BQ_MAX..((task + 1) * BQ_MAX).min(self.setup.row_count());
        if let Some(energy) = &self.choose().energy {
            // SAFETY: promised by the caller.
            return unsafe { self.channels(energy, scratch) };
        }
        let sets = Sets::new(self)?;
        let mut sets = sets.walks(self)?;
        let mut chosen = Vec::new();
        let Some(items) = &self.setup.items else {
            for row in rows {
                let q = self.setup.stands[row];
                let mut list = sets.candidates.row(q)?;
                self.nearest(&mut list)?;
                let forced: Vec<(u32, f32)> = sets.including(q)?.into_iter().map(|slot| (slot, 0.0)).collect();
                // SAFETY: the row is this task's.
                unsafe { self.write_ranked(row, &[], &forced, 0.0, Some(list), &mut chosen)? };
            }
            return Ok(());
        };
        let room = self.setup.list_capacity();
        let wanted = self.setup.wanted.unwrap_or(room);
        // SAFETY: the scratch has memory for the lists of a tile, and this is its thread.
        unsafe {
            scratch.kept.write(Kept::new(scratch.more.cast(), room, wanted));
            scratch.bq = self.tile() as i64;
            self.kernel.score(self.number, &self.walk(items, rows.start, rows.end), scratch);
            for (lane, row) in rows.enumerate() {
                let kept = &*scratch.kept;
                let list = std::slice::from_raw_parts_mut(kept.list.add(lane * room), kept.len[lane] as usize);
                let first = u32::try_from(items.keys.0).unwrap_or(0);
                if first > 0 && !matches!(self.select().slots, Index::Slots(_)) {
                    list.iter_mut().for_each(|k| *k += u64::from(first));
                }
                // Their scores do not matter to a direct ranking.
                let forced = sets.including(self.setup.stands[row])?;
                let forced: Vec<(u32, f32)> = forced.into_iter().map(|slot| (slot, 0.0)).collect();
                let short = wanted.saturating_sub(forced.len());
                if self.setup.wanted.is_some() && short < list.len() {
                    let n = best(list, short);
                    self.write_ranked(row, &list[..n], &forced, 0.0, None, &mut chosen)?;
                } else {
                    self.write_ranked(row, list, &forced, 0.0, None, &mut chosen)?;
                }
            }
        }
        Ok(())
    }

    /// Chooses channels by their energy.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn channels(&self, energy: &choose::Energy, scratch: &Scratch) -> Result<(), String> {
        let program = &*self.plan().program;
        let Rows { base, dtype, row_stride, col_stride, .. } = self.ctx.q;
        let queries =
            KvView { base, dtype: dtype as u32, row_stride, col_stride, dim: self.ctx.dim as u64, ..self.ctx.k };
        let d = self.ctx.dim as usize;
        let mut energies = vec![1.0_f64; d];
        let ranges = energy.ranges(program, self.env).map_err(|e| e.to_string())?;
        for (ranges, view) in ranges.into_iter().zip([&queries, &self.ctx.k]) {
            let (mut sums, mut count) = (vec![0.0_f64; d], 0_i64);
            for Range { start: mut at, end } in ranges {
                while at < end {
                    let n = (end - at).min(BK as i64);
                    // SAFETY: the rows are within the tensor, which the launch has checked; the scratch is this thread's.
                    let (rows, stride) =
                        unsafe { fetch(self.kernel.kernels(), view, std::ptr::null(), at, n as usize, scratch) };
                    for i in 0..n as isize {
                        // SAFETY: as above.
                        let row = unsafe { std::slice::from_raw_parts(rows.offset(i * stride as isize), d) };
                        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
                    }
                    (at, count) = (at + n, count + n);
                }
            }
            energies.iter_mut().zip(sums).for_each(|(e, sum)| *e *= sum / count as f64);
        }
        let scores = energies.into_iter().map(|e| e as f32).enumerate();
        // A NaN compares as false.
        let list: Vec<u64> = scores.filter(|s| s.1 > f32::NEG_INFINITY).map(|(c, s)| key(s, c as u32)).collect();
        // SAFETY: the only row is this task's.
        unsafe { self.write_ranked(0, &list, &[], 0.0, None, &mut Vec::new()) }
    }

    /// Keeps the candidates with the largest positions.
    fn nearest(&self, list: &mut Vec<u32>) -> Result<(), String> {
        let n = self.setup.wanted.unwrap_or(list.len());
        let program = &*self.plan().program;
        if let Index::Slots(level) = self.select().slots
            && program.is_scattered(level)
        {
            let table = self.env.levels.get(level.0 as usize).ok_or("the slots of a level are not given")?;
            let last = |&slot: &u32| table.last.get(slot as usize).copied().unwrap_or(-1);
            list.sort_by_key(|slot| std::cmp::Reverse(last(slot)));
            list.truncate(n);
            list.sort_unstable();
        } else {
            list.drain(..list.len().saturating_sub(n));
        }
        Ok(())
    }

    /// Values of some rows of the score.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn values(&self, task: usize, scratch: &mut Scratch) {
        let (Some(items), Some(scored)) = (&self.setup.items, &self.choose().scored) else { return };
        let total = (items.score_rows.end - items.score_rows.start).max(0) as usize;
        let by = self.rows_of_task();
        let rows = task * by..((task + 1) * by).min(total);
        let group = |row: usize| items.groups.as_ref().map_or((row, row + 1), |g| g[row]);
        let cut = scored.steps.iter().position(|s| matches!(s, Step::Queries { .. }));
        let skip = usize::from(items.slot_of.is_some());
        let (of_items, of_rows) = match cut {
            Some(cut) => (&scored.steps[skip..cut], &scored.steps[cut + 1..]),
            None => (&scored.steps[skip..], &[][..]),
        };
        let queries = cut.and_then(|cut| match scored.steps[cut] {
            Step::Queries { op, .. } => Some(op),
            _ => None,
        });
        let first = scored.steps.first().filter(|_| skip > 0).and_then(|s| match s {
            Step::Keys { op, .. } => Some(*op),
            _ => None,
        });
        let mut each = Steps { isa: self.kernel.isa, program: &self.plan().program, env: self.env, known: Vec::new() };
        let candidates = match (skip, scored.steps.first()) {
            (1, Some(Step::Keys { into, .. })) => *into,
            _ => scored.items,
        };
        let (mut values, mut turned) = (Vec::new(), Vec::new());
        let mut sums: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        let mut met: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        // The largest of exponentials is that of the largest, which is taken once.
        let largest = match (queries, of_items, first) {
            (Some(Reduce::Max), _, Some(Reduce::Mean)) => None,
            (Some(Reduce::Max), [], _) => Some(false),
            (Some(Reduce::Max), [Step::Norm { norm: Norm::Exp, head: false }], _) => Some(true),
            _ => None,
        };
        let tile = self.tile();
        // Whole rows as far as they fit a tile; a row of more items is walked tile by tile.
        let some = || rows.clone().map(group).filter(|g| g.0 < g.1);
        let (begin, end) = (some().map(|g| g.0).min().unwrap_or(0), some().map(|g| g.1).max().unwrap_or(0));
        let mut at = begin;
        while at < end {
            let stop = (at + tile).min(end);
            let slots = items.width;
            // SAFETY: the scratch has memory for values and counts of a tile, and this is its thread.
            let (grid, counts) = unsafe {
                let grid = std::slice::from_raw_parts_mut(scratch.more.cast::<f32>(), slots * BQ_MAX);
                let counts =
                    std::slice::from_raw_parts_mut(scratch.more.cast::<f32>().add(slots * BQ_MAX), slots * BQ_MAX);
                (grid, counts)
            };
            grid[..slots * tile].fill(f32::NEG_INFINITY);
            let mean = first == Some(Reduce::Mean);
            if mean {
                counts[..slots * tile].fill(0.0);
            }
            // SAFETY: as above; compiled code writes values of the lanes that the walk lists.
            unsafe {
                scratch.grid.write(Grid {
                    values: grid.as_mut_ptr(),
                    counts: if mean { counts.as_mut_ptr() } else { std::ptr::null_mut() },
                    slot_of: items.slot_of.as_ref().map_or(std::ptr::null(), |s| s.as_ptr()),
                    sums: i64::from(matches!(first, Some(Reduce::Sum | Reduce::Mean))),
                    slots: slots as i64,
                });
                scratch.bq = tile as i64;
                self.kernel.score(self.number, &self.walk(items, at, stop), scratch);
            }
            let bq = scratch.bq as usize;
            if let Some(exp) = largest {
                for (row, sums) in rows.clone().zip(&mut sums) {
                    let (from, to) = group(row);
                    let of_tile = from.max(at) - at..to.min(stop).max(at) - at;
                    if !of_tile.is_empty() {
                        fold_largest(grid, bq, slots, of_tile, exp, sums);
                    }
                }
                at = stop;
                continue;
            }
            for item in at..stop {
                let lane = item - at;
                // Rows of some lanes at once: those of a slot lie side by side.
                let of_turn = lane % TURNED;
                if of_turn == 0 {
                    turn(grid, bq, slots, lane..(lane + TURNED).min(stop - at), &mut turned);
                }
                values.clear();
                values.extend_from_slice(&turned[of_turn * slots..][..slots]);
                if mean {
                    for (s, value) in values.iter_mut().enumerate() {
                        *value /= counts[s * bq + lane].max(1.0);
                    }
                }
                each.take(candidates, of_items, &mut values);
                // The row of the score that it belongs to.
                let Some(row) = rows.clone().position(|r| (group(r).0..group(r).1).contains(&item)) else { continue };
                match queries {
                    None => sums[row].clone_from(&values),
                    Some(op) => {
                        if sums[row].is_empty() {
                            sums[row] = vec![f32::NEG_INFINITY; values.len()];
                            met[row] = vec![0.0; values.len()];
                        }
                        for ((sum, met), &value) in sums[row].iter_mut().zip(&mut met[row]).zip(&values) {
                            fold(op, sum, met, value);
                        }
                    }
                }
            }
            at = stop;
        }
        let width = items.score_width();
        for (row, (mut values, met)) in rows.zip(sums.into_iter().zip(met)) {
            if largest == Some(true) {
                values.iter_mut().filter(|v| **v > f32::NEG_INFINITY).for_each(|v| *v = v.exp());
            }
            if queries == Some(Reduce::Mean) {
                values.iter_mut().zip(met).for_each(|(v, met)| *v /= met.max(1.0));
            }
            let last = last_candidates(&scored.steps[..cut.map_or(0, |c| c + 1)], candidates);
            each.take(last, of_rows, &mut values);
            values.resize(width, f32::NEG_INFINITY);
            // SAFETY: the row is this task's.
            unsafe { self.tables.values.add(row * width).copy_from_nonoverlapping(values.as_ptr(), width) };
        }
    }

    /// Searches for the best candidates of a row.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn search(&self, row: usize, scratch: &mut Scratch) -> Result<(), String> {
        let (Some(items), Some(refine)) = (&self.setup.items, self.searched()) else { return Ok(()) };
        let candidates = Sets::new(self)?.walks(self)?.candidates.row(self.setup.stands[row])?;
        let (c, n) = (candidates.len(), usize::try_from(refine.leaves).unwrap_or(usize::MAX));
        if c <= n {
            // SAFETY: the row is this task's.
            unsafe { self.tables.write(self.setup, 0, row, &candidates) };
            return Ok(());
        }
        let mut nodes: Vec<(usize, usize)> = (0..n).map(|i| (i * c / n, (i + 1) * c / n - i * c / n)).collect();
        let mut rounds = 0;
        while c > n << rounds {
            rounds += 1;
        }
        let (mut halves, mut asked, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            halves.clear();
            for &(b, s) in &nodes {
                let h = s / 2;
                halves.extend([(b, h), (b + h, s - h)].into_iter().filter(|&(_, s)| s > 0));
            }
            asked.clear();
            asked.extend(halves.iter().map(|&(b, s)| match refine.rep {
                Rep::First => candidates[b],
                Rep::Center => candidates[b + s / 2],
            }));
            // SAFETY: promised by the caller.
            unsafe { self.scores_of(items, row, &asked, scratch, &mut scores) };
            // Higher scores first, of equal ones the lower first candidate.
            let mut ranked: Vec<(u64, usize)> =
                halves.iter().zip(&scores).enumerate().map(|(at, (node, &s))| (key(s, node.0 as u32), at)).collect();
            if n < ranked.len() {
                ranked.select_nth_unstable(n - 1);
                ranked.truncate(n);
            }
            nodes = ranked.into_iter().map(|(_, at)| halves[at]).collect();
            nodes.sort_unstable();
        }
        let chosen: Vec<u32> = nodes.iter().map(|&(b, _)| candidates[b]).collect();
        // SAFETY: the row is this task's.
        unsafe { self.tables.write(self.setup, 0, row, &chosen) };
        Ok(())
    }

    /// Scores of ascending candidates of a row; -inf for those without a pair.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn scores_of(&self, items: &Items, row: usize, asked: &[u32], scratch: &mut Scratch, scores: &mut Vec<f32>) {
        let (Some(scored), Some((begin, list))) = (&self.choose().scored, &items.items_of) else { return };
        let (mut listed, mut place) = (Vec::new(), Vec::new());
        for (at, &slot) in asked.iter().enumerate() {
            let of = list.get(begin[slot as usize]..begin[slot as usize + 1]).unwrap_or(&[]);
            place.extend(of.iter().map(|&item| (item, at as u32)));
        }
        place.sort_unstable();
        listed.extend(place.iter().map(|p| p.0));
        let keys_op = scored.steps.iter().find_map(|s| match s {
            Step::Keys { op, .. } => Some(*op),
            _ => None,
        });
        let queries_op = scored.steps.iter().find_map(|s| match s {
            Step::Queries { op, .. } => Some(*op),
            _ => None,
        });
        let (from, to) = items.groups.as_ref().map_or((row, row + 1), |g| g[row]);
        let (tile, wide) = (self.tile(), asked.len());
        scores.clear();
        scores.resize(wide, f32::NEG_INFINITY);
        let mut met = vec![0.0; wide];
        let mut at = from;
        while at < to {
            let stop = (at + tile).min(to);
            let mean = keys_op == Some(Reduce::Mean);
            // SAFETY: the scratch has memory for values and counts of a tile for as many candidates as are asked for,
            // then for a slot of each key; this is its thread.
            let (values, counts, slot_of) = unsafe {
                let base = scratch.more.cast::<f32>();
                let room = wide * BQ_MAX;
                let values = std::slice::from_raw_parts_mut(base, room);
                let counts = std::slice::from_raw_parts_mut(base.add(room), room);
                let most = 2 * self.searched().map_or(0, |r| r.leaves.max(0) as usize) * BQ_MAX;
                let slots = base.add(2 * most).cast::<u32>();
                (values, counts, std::slice::from_raw_parts_mut(slots, items.keys.1 as usize))
            };
            values[..wide * tile].fill(f32::NEG_INFINITY);
            counts[..wide * tile].fill(0.0);
            // Keys that are not listed are not visited: what stands for them here does not matter.
            for &(item, at) in &place {
                slot_of[item as usize] = at;
            }
            let mut ctx = self.walk(items, at, stop);
            (ctx.listed, ctx.listed_count) = (listed.as_ptr(), listed.len() as i64);
            // SAFETY: as in `values`.
            unsafe {
                scratch.grid.write(Grid {
                    values: values.as_mut_ptr(),
                    counts: if mean { counts.as_mut_ptr() } else { std::ptr::null_mut() },
                    slot_of: slot_of.as_ptr(),
                    sums: i64::from(matches!(keys_op, Some(Reduce::Sum | Reduce::Mean))),
                    slots: wide as i64,
                });
                scratch.bq = tile as i64;
                self.kernel.score(self.number, &ctx, scratch);
            }
            let bq = scratch.bq as usize;
            for slot in 0..wide {
                for lane in 0..stop - at {
                    let mut value = values[slot * bq + lane];
                    if mean {
                        value /= counts[slot * bq + lane].max(1.0);
                    }
                    fold(queries_op.unwrap_or(Reduce::Max), &mut scores[slot], &mut met[slot], value);
                }
            }
            at = stop;
        }
        if queries_op == Some(Reduce::Mean) {
            scores.iter_mut().zip(met).for_each(|(s, met)| *s /= met.max(1.0));
        }
    }

    /// Ranks rows of what is held.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn ranked_by_row(&self, task: usize) -> Result<(), String> {
        let Some(items) = &self.setup.items else { return Ok(()) };
        let rows = task * BQ_MAX..((task + 1) * BQ_MAX).min(self.setup.row_count());
        let width = items.score_width();
        let sets = Sets::new(self)?;
        let mut sets = sets.walks(self)?;
        let (mut list, mut chosen, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        // Rows that take a number of the best of what others have ranked already.
        let grows = self.select().tables.len() == 1 && sets.including.is_none();
        let wanted = self.setup.wanted.filter(|wanted| grows && *wanted > 0);
        let mut growing = Growing::default();
        for row in rows {
            let number = items.row_of.as_ref().map_or(row, |of| of[row] as usize);
            let q = self.setup.stands[row];
            let held = (items.score_rows.end - items.score_rows.start).max(0) as usize;
            let values: &[f32] = if number < held {
                // SAFETY: the first round has made the values of all rows of the score.
                unsafe { std::slice::from_raw_parts(self.tables.values.add(number * width), width) }
            } else {
                &[]
            };
            let value = |slot: u32| items.value(values, slot, self.setup.slots.start);
            // A NaN compares as false.
            let scored = |slot: u32| Some(value(slot)).filter(|&s| s > f32::NEG_INFINITY).map(|s| key(s, slot));
            sets.candidates.ranges(q, &mut ranges)?;
            if let Some(wanted) = wanted {
                match growing.added(number, &ranges) {
                    Some(added) => {
                        added.into_iter().flatten().filter_map(scored).for_each(|key| growing.take(key, wanted));
                    }
                    None => {
                        list.clear();
                        list.extend(ranges.iter().cloned().flatten().filter_map(scored));
                        let count = best(&mut list, wanted);
                        list.truncate(count);
                        growing.kept.clear();
                        growing.kept.extend(list.iter().copied());
                    }
                }
                growing.number = Some(number);
                std::mem::swap(&mut growing.ranges, &mut ranges);
                chosen.clear();
                chosen.extend(growing.kept.iter().map(|&k| index(k)));
                sort(&mut chosen, &growing.ranges);
                // SAFETY: the row is this task's.
                unsafe { self.tables.write(self.setup, 0, row, &chosen) };
                continue;
            }
            let forced: Vec<(u32, f32)> = sets.including(q)?.into_iter().map(|slot| (slot, value(slot))).collect();
            list.clear();
            let mut next = forced.iter().map(|f| f.0).peekable();
            for slot in ranges.iter().cloned().flatten() {
                while next.peek().is_some_and(|&f| f < slot) {
                    next.next();
                }
                if next.peek() != Some(&slot) {
                    list.extend(scored(slot));
                }
            }
            let had: f64 = sets.besides(q)?.into_iter().map(value).filter(|s| s.is_finite()).map(f64::from).sum();
            // SAFETY: the row is this task's.
            unsafe { self.write_ranked(row, &list, &forced, had, None, &mut chosen)? };
        }
        Ok(())
    }

    /// Ranks all pairs of the head at once, or rows that are brought to one scale over the head.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn ranked_together(&self) -> Result<(), String> {
        let (Some(items), Some(scored)) = (&self.setup.items, &self.choose().scored) else { return Ok(()) };
        let (width, held) = (items.score_width(), (items.score_rows.end - items.score_rows.start).max(0) as usize);
        // SAFETY: the first round is done, and this is the only task.
        let values = unsafe { std::slice::from_raw_parts_mut(self.tables.values, held * width) };
        let head = scored.steps.iter().position(|s| matches!(s, Step::Norm { head: true, .. }));
        if let Some(at) = head {
            for (i, step) in scored.steps[at..].iter().enumerate() {
                match step {
                    Step::Norm { norm, head: true } => normed(self.kernel.isa, *norm, values),
                    Step::Norm { norm, head: false } => {
                        values.chunks_mut(width.max(1)).for_each(|row| normed(self.kernel.isa, *norm, row));
                    }
                    _ => return Err(format!("step {i} after a norm over the head")),
                }
            }
        }
        if self.select().pool == Among::Row {
            for task in 0..self.setup.row_count().div_ceil(BQ_MAX) {
                // SAFETY: promised by the caller.
                unsafe { self.ranked_by_row(task)? };
            }
            return Ok(());
        }
        // SAFETY: promised by the caller.
        unsafe { self.ranked_by_head(items, values, width) }
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn ranked_by_head(&self, items: &Items, values: &[f32], width: usize) -> Result<(), String> {
        let rows = self.setup.row_count();
        let sets = Sets::new(self)?;
        let mut sets = sets.walks(self)?;
        // Ranked by score, then slot, then row.
        let mut pairs: Vec<(u64, u32)> = Vec::new();
        let mut forced: Vec<(u32, u32, f32)> = Vec::new();
        let mut had = 0.0;
        for row in 0..rows {
            let number = items.row_of.as_ref().map_or(row, |of| of[row] as usize);
            let of_row = values.get(number * width..(number + 1) * width).unwrap_or(&[]);
            let value = |slot: u32| items.value(of_row, slot, self.setup.slots.start);
            let q = self.setup.stands[row];
            let own = sets.including(q)?;
            for slot in sets.candidates.row(q)? {
                let score = value(slot);
                if score > f32::NEG_INFINITY && own.binary_search(&slot).is_err() {
                    pairs.push((key(score, slot), row as u32));
                }
            }
            forced.extend(own.iter().map(|&slot| (slot, row as u32, value(slot))));
            had += sets.besides(q)?.into_iter().map(value).filter(|s| s.is_finite()).map(f64::from).sum::<f64>();
        }
        pairs.sort_unstable();
        forced.sort_unstable_by_key(|f| (f.0, f.1));
        let ranked: Vec<f32> = forced.iter().map(|f| f.2).chain(pairs.iter().map(|p| score(p.0))).collect();
        let mut of_rows: Vec<Vec<Vec<u32>>> = vec![vec![Vec::new(); rows]; self.select().tables.len()];
        let take = self.take(None, &ranked, forced.len(), had)?;
        for (table, range) in take.into_iter().enumerate() {
            for rank in range {
                let (slot, row) = match rank.checked_sub(forced.len()) {
                    None => (forced[rank].0, forced[rank].1),
                    Some(rank) => (index(pairs[rank].0), pairs[rank].1),
                };
                of_rows[table][row as usize].push(slot);
            }
        }
        for (table, of_rows) in of_rows.iter_mut().enumerate() {
            for (row, chosen) in of_rows.iter_mut().enumerate() {
                chosen.sort_unstable();
                // SAFETY: this is the only task.
                unsafe { self.tables.write(self.setup, table, row, chosen) };
            }
        }
        Ok(())
    }

    /// Ranks the candidates of a row and writes what is taken; `whole` is what is taken where no ranking is asked for.
    ///
    /// # Safety
    /// The row is this task's.
    unsafe fn write_ranked(
        &self,
        row: usize,
        list: &[u64],
        forced: &[(u32, f32)],
        had: f64,
        whole: Option<Vec<u32>>,
        chosen: &mut Vec<u32>,
    ) -> Result<(), String> {
        if let Some(mut whole) = whole {
            // The nearest beside the forced, as many as are wanted together.
            let wanted = self.setup.wanted.unwrap_or(whole.len());
            whole.retain(|slot| forced.iter().all(|f| f.0 != *slot));
            let others = wanted.saturating_sub(forced.len());
            whole.drain(..whole.len().saturating_sub(others));
            whole.extend(forced.iter().take(wanted).map(|f| f.0));
            whole.sort_unstable();
            // SAFETY: promised by the caller.
            unsafe { self.tables.write(self.setup, 0, row, &whole) };
            return Ok(());
        }
        let mut list = list.to_vec();
        // Only a number of the best: no order among them.
        if let (Some(wanted), 1) = (self.setup.wanted, self.select().tables.len()) {
            let count = best(&mut list, wanted.saturating_sub(forced.len()));
            chosen.clear();
            chosen.extend(forced.iter().take(wanted).map(|f| f.0));
            chosen.extend(list[..count].iter().map(|&k| index(k)));
            chosen.sort_unstable();
            // SAFETY: promised by the caller.
            unsafe { self.tables.write(self.setup, 0, row, chosen) };
            return Ok(());
        }
        list.sort_unstable();
        let ranked: Vec<f32> = forced.iter().map(|f| f.1).chain(list.iter().map(|&k| score(k))).collect();
        for (table, range) in self.take(Some(row), &ranked, forced.len(), had)?.into_iter().enumerate() {
            chosen.clear();
            chosen.extend(range.map(|rank| match rank.checked_sub(forced.len()) {
                None => forced[rank].0,
                Some(rank) => index(list[rank]),
            }));
            chosen.sort_unstable();
            // SAFETY: promised by the caller.
            unsafe { self.tables.write(self.setup, table, row, chosen) };
        }
        Ok(())
    }

    /// Ranks that each table takes, of scores in the order of the ranking: the first `forced` are chosen first.
    fn take(&self, row: Option<usize>, ranked: &[f32], forced: usize, had: f64) -> Result<Vec<Range<usize>>, String> {
        let select = self.select();
        let c = ranked.len();
        let count = match &select.budget {
            Budget::Top(_) | Budget::Nearest(_) => self.setup.wanted.unwrap_or(c),
            Budget::Frac(f) => slots::ceil_share(*f, c as i64) as usize,
            Budget::Above(t) => forced + ranked[forced..].iter().take_while(|&&s| f64::from(s) > *t).count(),
            Budget::Mass(p) => mass(*p, ranked, had),
            Budget::CountOf(other) => self.count_of(*other, row)?,
            Budget::Bands(bands) => return Ok(self::bands(bands, ranked, had)),
            Budget::Refine(_) => return Err("a search by refinement".to_owned()),
        };
        Ok(std::iter::once(0..count.max(select.at_least.max(0) as usize).min(c)).collect())
    }

    /// How many another selection chose, in its only row or in the row with the same number.
    fn count_of(&self, other: SelectId, row: Option<usize>) -> Result<usize, String> {
        let program = &*self.plan().program;
        let select = program.select(other);
        let draw = *select.tables.first().ok_or("a selection without a table")?;
        // SAFETY: selections are made in order, and the context has a table for each.
        let of = unsafe { &*self.ctx.draws.add(draw.0 as usize) };
        let number = match row {
            Some(row) if select.rows != Index::One => self.setup.rows.start + row as i64 - of.first,
            _ => 0,
        };
        if of.selected.is_null() || !(0..of.rows).contains(&number) {
            return Ok(0);
        }
        // SAFETY: the table has been made, with a count for each row.
        Ok(unsafe { *of.counts.add(number as usize) } as usize)
    }
}

/// Sorts some of the numbers of ascending ranges: by a bit for each number where these are not many more.
fn sort(chosen: &mut Vec<u32>, ranges: &[Range<u32>]) {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
    let words = (last.end - first.start).div_ceil(u64::BITS) as usize;
    if words / 4 > chosen.len() {
        return chosen.sort_unstable();
    }
    let mut bits = vec![0_u64; words];
    for slot in chosen.drain(..) {
        let at = slot - first.start;
        bits[(at / u64::BITS) as usize] |= 1 << (at % u64::BITS);
    }
    for (word, mut rest) in bits.into_iter().enumerate() {
        while rest != 0 {
            chosen.push(first.start + word as u32 * u64::BITS + rest.trailing_zeros());
            rest &= rest - 1;
        }
    }
}

/// What a score adds to a sum.
fn weight(score: &f32) -> f64 {
    if score.is_finite() { f64::from(*score) } else { 0.0 }
}

/// How many of a ranking it takes to hold a share of the sum of all scores, with what there was already; all where none
/// do.
fn mass(p: f64, ranked: &[f32], had: f64) -> usize {
    let total = ranked.iter().map(weight).sum::<f64>() + had;
    if total.is_nan() || total <= 0.0 {
        return ranked.len();
    }
    let mut sum = had;
    if sum >= p * total {
        return 0;
    }
    for (i, score) in ranked.iter().enumerate() {
        sum += weight(score);
        if sum >= p * total {
            return i + 1;
        }
    }
    ranked.len()
}

/// Ranks of each band.
fn bands(bands: &[Band], ranked: &[f32], had: f64) -> Vec<Range<usize>> {
    let c = ranked.len();
    let total = ranked.iter().map(weight).sum::<f64>() + had;
    let mut begin = 0_usize;
    let mut found = Vec::with_capacity(bands.len());
    for band in bands {
        let end = if band.mass {
            let mut sum = had;
            let within = ranked.iter().take_while(|score| {
                sum += weight(score);
                sum <= band.upto * total
            });
            1 + within.count()
        } else {
            slots::floor_share(band.upto, c as i64) as usize
        };
        let align = band.align.max(1) as usize;
        let up = end.min(c).saturating_sub(begin).next_multiple_of(align);
        let length = if begin + up > c { (c - begin) / align * align } else { up };
        found.push(begin..begin + length);
        begin += length;
    }
    found
}

/// Takes the largest values of some lanes of `[slot][bq]` into those of a row; with `less`, less the largest of their
/// lane. -inf and NaN count as if absent.
fn fold_largest(grid: &[f32], bq: usize, slots: usize, lanes: Range<usize>, less: bool, row: &mut Vec<f32>) {
    row.resize(slots, f32::NEG_INFINITY);
    let of_slot = |slot: usize| &grid[slot * bq..][lanes.clone()];
    let mut most = [f32::NEG_INFINITY; BQ_MAX];
    if less {
        for slot in 0..slots {
            most.iter_mut().zip(of_slot(slot)).for_each(|(most, &x)| *most = if x > *most { x } else { *most });
        }
    } else {
        most.fill(0.0);
    }
    for (slot, best) in row.iter_mut().enumerate() {
        for (x, most) in of_slot(slot).iter().zip(&most) {
            let x = x - most;
            *best = if x > *best { x } else { *best };
        }
    }
}

/// Lanes whose values become rows at once.
const TURNED: usize = 16;

/// The values `[slot][bq]` of some lanes as rows.
fn turn(grid: &[f32], bq: usize, slots: usize, lanes: Range<usize>, rows: &mut Vec<f32>) {
    rows.resize(TURNED * slots, 0.0);
    // Slots that stay in the nearest cache from lane to lane.
    for first in (0..slots).step_by(TURNED) {
        let some = &grid[first * bq..];
        for (row, lane) in rows.chunks_exact_mut(slots).zip(lanes.clone()) {
            let row = row[first..].iter_mut().take(TURNED);
            row.zip(some[lane..].iter().step_by(bq)).for_each(|(x, &value)| *x = value);
        }
    }
}

/// Takes in a value of a row; -inf and NaN count as if absent.
fn fold(op: Reduce, sum: &mut f32, met: &mut f32, value: f32) {
    if value > f32::NEG_INFINITY {
        *met += 1.0;
        *sum = match op {
            _ if *sum == f32::NEG_INFINITY => value,
            Reduce::Max => sum.max(value),
            Reduce::Sum | Reduce::Mean => *sum + value,
        };
    }
}

/// What candidates are after some steps.
fn last_candidates(steps: &[Step], first: Index) -> Index {
    steps.iter().fold(first, |at, step| match step {
        Step::Keys { into, .. } => *into,
        _ => at,
    })
}

/// Takes steps on the values of one row after the other.
struct Steps<'a> {
    isa: Isa,
    program: &'a Program,
    env: &'a Env<'a>,
    /// For each candidate of one kind the one of another that it belongs to, and how many of those there are.
    known: Vec<(Index, Index, Vec<u32>, usize)>,
}

impl Steps<'_> {
    /// As far as the first norm over the head; values are those of `candidates`.
    fn take(&mut self, mut candidates: Index, steps: &[Step], values: &mut Vec<f32>) {
        for step in steps {
            match step {
                Step::Norm { head: true, .. } => return,
                Step::Norm { norm, .. } => normed(self.isa, *norm, values),
                Step::Keys { op, into } => {
                    let (of, slots) = self.members(candidates, *into);
                    let (mut made, mut met) = (vec![f32::NEG_INFINITY; slots], vec![0.0; slots]);
                    for (&value, &slot) in values.iter().zip(of) {
                        if let (Some(made), Some(met)) = (made.get_mut(slot as usize), met.get_mut(slot as usize)) {
                            fold(*op, made, met, value);
                        }
                    }
                    if *op == Reduce::Mean {
                        made.iter_mut().zip(met).for_each(|(v, met)| *v /= met.max(1.0));
                    }
                    *values = made;
                    candidates = *into;
                }
                Step::Queries { .. } => {}
            }
        }
    }

    fn members(&mut self, from: Index, into: Index) -> (&[u32], usize) {
        let at = self.known.iter().position(|known| (known.0, known.1) == (from, into)).unwrap_or_else(|| {
            let of = candidates_of(self.program, from, into, self.env).unwrap_or_default();
            let slots = slots::candidates(self.program, into, self.env).map_or(0, |r| (r.end - r.start).max(0));
            self.known.push((from, into, of, slots as usize));
            self.known.len() - 1
        });
        let (_, _, of, slots) = &self.known[at];
        (of, *slots)
    }
}

/// The greatest value; -inf where none is there.
fn most(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; 8];
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let chunks = values.chunks_exact(most.len());
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| greater(a, b));
    for chunk in chunks {
        most.iter_mut().zip(chunk).for_each(|(a, &b)| *a = greater(*a, b));
    }
    most.into_iter().fold(rest, greater)
}

/// Brings values to one scale; those that are -inf stay.
fn normed(isa: Isa, norm: Norm, values: &mut [f32]) {
    let there = |x: f32| x > f32::NEG_INFINITY;
    let sum = |values: &[f32]| values.iter().filter(|x| there(**x)).map(|&x| f64::from(x)).sum::<f64>();
    match norm {
        Norm::Softmax | Norm::Exp => {
            let max = most(values);
            // The functions of rows are slow where they underflow.
            let mut made: Vec<f32> = values.iter().map(|&x| if there(x) { x - max } else { 0.0 }).collect();
            match abi::Rows::of(isa) {
                // SAFETY: a row may be its own operand.
                Some(rows) => unsafe { (rows.exp)(made.as_mut_ptr(), made.as_ptr(), made.len() as i64) },
                None => made.iter_mut().for_each(|x| *x = x.exp()),
            }
            values.iter_mut().zip(made).filter(|(x, _)| there(**x)).for_each(|(x, made)| *x = made);
            if norm == Norm::Softmax {
                let total = sum(values);
                values.iter_mut().filter(|x| there(**x)).for_each(|x| *x = (f64::from(*x) / total) as f32);
            }
        }
        Norm::MinMax => {
            let least = |least: f32, x: &f32| if there(*x) && *x < least { *x } else { least };
            let (min, max) = (values.iter().fold(f32::INFINITY, least), most(values));
            let one = |x: f32| if max > min { (x - min) / (max - min) } else { 0.0 };
            values.iter_mut().filter(|x| there(**x)).for_each(|x| *x = one(*x));
        }
        Norm::RowSum => {
            let total = sum(values);
            let one = |x: f32| if total == 0.0 { 0.0 } else { (f64::from(x) / total) as f32 };
            values.iter_mut().filter(|x| there(**x)).for_each(|x| *x = one(*x));
        }
    }
}

/// The sets of a selection, for the rows of a task.
struct Sets<'a> {
    /// Over pairs of a query and a candidate.
    pairs: Env<'a>,
    candidates: Walked,
    besides: Option<Walked>,
    including: Option<Walked>,
    slots: Range<i64>,
}

/// A set of candidates.
enum Walked {
    /// Every candidate, whatever the row.
    All,
    Ranges(Box<Ranges>),
}

impl Walked {
    fn of(program: &Program, listed: &choose::Listed) -> Walked {
        match program.exprs.as_bool(listed.set) {
            Some(true) => Walked::All,
            _ => Walked::Ranges(Box::new(Ranges::new(program, &listed.rows))),
        }
    }
}

impl<'a> Sets<'a> {
    fn new(of: &Choice<'a>) -> Result<Sets<'a>, String> {
        let (choose, program) = (of.choose(), &*of.plan().program);
        let mut pairs = env_of(program, of.select().slots, of.env).map_err(said)?;
        let listed = || [&choose.candidates].into_iter().chain(&choose.besides).chain(&choose.including);
        let sets: Vec<ExprId> = listed().map(|l| l.set).collect();
        pairs.draws.resize(program.draws.len(), DrawTable::default());
        for id in program.exprs.reachable(&sets) {
            let draw = match *program.exprs.node(id) {
                Node::Drawn(d, ..) | Node::DrawAt(d, ..) => d.0 as usize,
                _ => continue,
            };
            if matches!(program.draws[draw].chooser, Chooser::Select { .. }) && pairs.draws[draw].count == 0 {
                // SAFETY: selections are made in order, and the context has a table for each.
                pairs.draws[draw] = unsafe { table_of(&*of.ctx.draws.add(draw)) };
            }
        }
        Ok(Sets {
            pairs,
            candidates: Walked::of(program, &choose.candidates),
            besides: choose.besides.as_ref().map(|l| Walked::of(program, l)),
            including: choose.including.as_ref().map(|l| Walked::of(program, l)),
            slots: of.setup.slots.clone(),
        })
    }

    /// Walks over them, row by row; keys that filters compare are sorted once for all tasks.
    fn walks<'s>(&'s self, of: &'s Choice<'_>) -> Result<Walks<'s>, String> {
        let walk = |walked: &'s Walked, matches: Option<&'s OnceLock<Result<Matches, String>>>| {
            let Walked::Ranges(ranges) = walked else { return Ok(None) };
            let found = match matches {
                None => ranges.walker(&self.pairs),
                Some(once) => {
                    let sorted = once.get_or_init(|| ranges.matches(&self.pairs).map_err(|e| e.to_string()));
                    ranges.walker_by(&self.pairs, sorted.as_ref().map_err(Clone::clone)?)
                }
            };
            found.map(Some).map_err(|e| e.to_string())
        };
        let set = |walked: &'s Option<Walked>| -> Result<Option<Walk<'s>>, String> {
            walked.as_ref().map(|w| Ok(Walk { walker: walk(w, None)?, slots: self.slots.clone() })).transpose()
        };
        Ok(Walks {
            candidates: Walk { walker: walk(&self.candidates, Some(&of.matches))?, slots: self.slots.clone() },
            besides: set(&self.besides)?,
            including: set(&self.including)?,
        })
    }
}

/// A walk over the rows of a set; of all candidates without one.
struct Walk<'s> {
    walker: Option<RowWalker<'s>>,
    slots: Range<i64>,
}

impl Walk<'_> {
    /// Ranges of the set for the row that stands at `q`, ascending and apart.
    fn ranges(&mut self, q: i64, found: &mut Vec<Range<u32>>) -> Result<(), String> {
        found.clear();
        let (first, end) = (self.slots.start, self.slots.end);
        let Some(walker) = &mut self.walker else {
            found.push(first as u32..end.max(first) as u32);
            return Ok(());
        };
        let row = walker.row(q).map_err(|e| e.to_string())?;
        let mut from = first;
        while let Some((start, stop)) = row.next_from(from) {
            let (start, stop) = (start.max(first), stop.min(end));
            if start >= stop {
                break;
            }
            found.push(start as u32..stop as u32);
            from = stop;
        }
        Ok(())
    }

    fn row(&mut self, q: i64) -> Result<Vec<u32>, String> {
        let mut found = Vec::new();
        self.ranges(q, &mut found)?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Walks over the sets of a selection.
struct Walks<'s> {
    candidates: Walk<'s>,
    besides: Option<Walk<'s>>,
    including: Option<Walk<'s>>,
}

impl Walks<'_> {
    fn besides(&mut self, q: i64) -> Result<Vec<u32>, String> {
        self.besides.as_mut().map_or(Ok(vec![]), |w| w.row(q))
    }

    fn including(&mut self, q: i64) -> Result<Vec<u32>, String> {
        self.including.as_mut().map_or(Ok(vec![]), |w| w.row(q))
    }
}

/// The best of a growing set of candidates, as a row after another only adds to them.
#[derive(Default)]
struct Growing {
    /// Candidates that have been met, and those of them that are kept.
    ranges: Vec<Range<u32>>,
    kept: BinaryHeap<u64>,
    /// Row of the score that they were met in.
    number: Option<usize>,
}

impl Growing {
    /// The candidates of a row that were not met yet, if those that were are all among its own, with scores of the same
    /// row.
    fn added(&self, number: usize, row: &[Range<u32>]) -> Option<Vec<Range<u32>>> {
        if self.number != Some(number) {
            return None;
        }
        let (mut added, mut at) = (Vec::new(), 0);
        for range in row {
            let mut from = range.start;
            while let Some(old) = self.ranges.get(at).filter(|old| old.start < range.end) {
                if old.start < from || old.end > range.end {
                    return None;
                }
                if from < old.start {
                    added.push(from..old.start);
                }
                (from, at) = (old.end, at + 1);
            }
            if from < range.end {
                added.push(from..range.end);
            }
        }
        (at == self.ranges.len()).then_some(added)
    }

    fn take(&mut self, key: u64, wanted: usize) {
        if self.kept.len() < wanted {
            self.kept.push(key);
        } else if let Some(mut worst) = self.kept.peek_mut()
            && key < *worst
        {
            *worst = key;
        }
    }
}
