//! Levels: rows of Q, K and V made of others, before anything reads them.
//!
//! The one idea: a level is a tensor of singles in the workspace, one for each head that something reads, and each of
//! its rows is made by one thread from rows of its parent in a fixed order. Whoever reads a level gets a view of it, as
//! of any keys. Nothing here knows of selections or machine code.

use std::collections::BTreeMap;

use attnc_kernels::abi::{BK, DType, KvView, Table};
use attnc_pattern::env::{Env, Exchange, Side};
use attnc_pattern::expr::LevelId;
use attnc_pattern::program::{Derived, Heads, Index, Operand, Pool, Program};
use attnc_pattern::slots;
use attnc_plan::members::{Members, Slots, members};
use attnc_plan::{Plan, choose};

use crate::layout::{ALIGN, Scratch};

/// Q, K or V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    Q,
    K,
    V,
}

impl Of {
    /// As the caller names it.
    fn side(self) -> Side {
        match self {
            Of::Q => Side::Q,
            Of::K => Side::K,
            Of::V => Side::V,
        }
    }

    /// Whether a level derives it.
    fn derived(self) -> fn(Derived) -> bool {
        match self {
            Of::Q => |d| d.q,
            Of::K => |d| d.k,
            Of::V => |d| d.v,
        }
    }
}

/// Rows of one head that have been made: singles, one row after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    base: *mut f32,
    rows: usize,
    dim: usize,
    /// Number of the first row.
    pub(crate) first: i64,
    /// The first row that is computed: those before are given, or nothing reads them.
    from: usize,
}

impl Block {
    pub(crate) fn view(&self) -> KvView {
        let single = size_of::<f32>() as i64;
        KvView {
            base: self.base.cast_const().cast(),
            row_stride: self.dim as i64 * single,
            col_stride: single,
            dtype: DType::F32 as u32,
            page_rows: 0,
            table: std::ptr::null(),
            page_stride: 0,
            rows: std::ptr::null(),
            dim: self.dim as u64,
        }
    }

    /// The row `i` places from the first.
    fn row(&self, i: usize) -> *mut f32 {
        self.base.wrapping_add(i * self.dim)
    }
}

/// Heads of a part whose rows are read, and the tensors that they lie in.
#[derive(Debug)]
pub(crate) struct Sources {
    /// By head of Q.
    pub(crate) q: BTreeMap<usize, KvView>,
    /// By head of K.
    pub(crate) k: BTreeMap<usize, KvView>,
    /// By head of V.
    pub(crate) v: BTreeMap<usize, KvView>,
    /// Heads of Q for each head of K whose queries it serves.
    pub(crate) group: BTreeMap<usize, Vec<usize>>,
    /// Heads of Q and of K that each head of the output reads.
    pub(crate) reads: BTreeMap<usize, (usize, usize)>,
}

impl Sources {
    /// The first head of the output that reads a head of Q, or of K and V.
    fn output_of(&self, of: Of, head: usize) -> usize {
        let reads =
            |(_, reads): &(&usize, &(usize, usize))| if of == Of::Q { reads.0 == head } else { reads.1 == head };
        self.reads.iter().find(reads).map_or(head, |(&output, _)| output)
    }

    fn of(&self, of: Of) -> &BTreeMap<usize, KvView> {
        match of {
            Of::Q => &self.q,
            Of::K => &self.k,
            Of::V => &self.v,
        }
    }
}

/// What is made for one batch item of a part before its selections.
#[derive(Debug)]
pub(crate) struct Made {
    /// By level: slots of queries, slots of keys.
    slots: Vec<[Option<Slots>; 2]>,
    /// By level, operand and head: that of the tensor, or of the output for values that are weighed by queries.
    levels: BTreeMap<(usize, Of, usize), Block>,
    /// Operands that are means over heads or of unit length, by head.
    operands: Vec<(Operand, usize, Block)>,
}

// SAFETY: rows that are made are read only by later stages, and written apart by the tasks of their own.
unsafe impl Sync for Made {}
// SAFETY: tensors are only read.
unsafe impl Sync for Sources {}

/// A level or operand that is to be made, and how many rows at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Slots of a level, of a head.
    Pool { pool: usize, of: Of, head: usize, from: usize, to: usize },
    /// Rows of an operand.
    Operand { number: usize, from: usize, to: usize },
}

/// Rows of a task.
const ROWS: usize = 64;

/// Of each operand of a level that something reads the first row that is read and not given, where the caller gives
/// something or asks for it.
type Wanted = BTreeMap<(usize, Of), usize>;

/// Operands of levels that are read where a caller gives some of what a plan would make, or asks for some of it;
/// `ranked` are the selections whose operands are read.
fn wanted(plan: &Plan, slots: &[[Option<Slots>; 2]], exchange: &Exchange<'_>, ranked: &[usize]) -> Wanted {
    let program = &*plan.program;
    let mut wanted = Wanted::new();
    let mut read = |level: Option<LevelId>, of: Of| {
        if let Some(level) = level.and_then(|level| choose::origin(program, level, of.derived())) {
            wanted.insert((level.0 as usize, of), 0);
        }
    };
    for stage in &plan.stages {
        read(stage.reads.q, Of::Q);
        read(stage.reads.kv, Of::K);
        read(stage.reads.kv, Of::V);
    }
    for (a, b) in ranked.iter().filter_map(|&c| plan.chooses[c].scored.as_ref()?.dot) {
        for operand in [a, b] {
            read(choose::level_of(operand), side(operand));
        }
    }
    for &(level, side) in &exchange.asked_levels {
        let of = [Of::Q, Of::K, Of::V].into_iter().find(|of| of.side() == side);
        of.into_iter().for_each(|of| read(Some(level), of));
    }
    for pool in plan.pools.iter().rev() {
        let id = pool.level.0 as usize;
        let level = program.level(pool.level);
        // Values first: queries may weigh them.
        for of in [Of::V, Of::K, Of::Q] {
            let Some(&from) = wanted.get(&(id, of)) else { continue };
            let Some(own) = &slots[id][usize::from(of != Of::Q)] else { continue };
            let given = exchange.levels.get(&(pool.level, of.side())).map_or(0, |given| given.rows);
            let from = from.max(given);
            wanted.insert((id, of), from);
            if from >= own.len() {
                continue;
            }
            let before = match &own.members {
                // A block of rounded rows has one scale.
                _ if matches!(level.pool, Pool::Quantised { .. }) => 0,
                Members::Ranges(ranges) => usize::try_from(ranges[from].0).unwrap_or(0),
                Members::Lists { .. } => 0,
            };
            let mut needs = |level: Option<LevelId>, of: Of, before: usize| {
                if let Some(level) = level.and_then(|level| choose::origin(program, level, of.derived())) {
                    let known = wanted.entry((level.0 as usize, of)).or_insert(before);
                    *known = (*known).min(before);
                }
            };
            needs(level.parent, of, before);
            if (&level.pool, of) == (&Pool::SoftmaxMean, Of::V) {
                needs(level.parent, Of::K, before);
                needs(Some(pool.level), Of::Q, 0);
            }
        }
    }
    wanted
}

impl Made {
    /// What a plan asks for under `env`; `take` gives memory, `ranked` are the selections that rank by their operands.
    pub(crate) fn new(
        plan: &Plan,
        env: &Env<'_>,
        sources: &Sources,
        dims: [usize; 2],
        ranked: &[usize],
        mut take: impl FnMut(usize) -> Option<*mut u8>,
    ) -> Result<Option<Made>, String> {
        let program = &*plan.program;
        let mut slots: Vec<[Option<Slots>; 2]> = program.levels.iter().map(|_| [None, None]).collect();
        let mut levels = BTreeMap::new();
        let mut block = |rows: usize, dim: usize, first: i64| {
            let base = take(bytes(rows, dim)?)?;
            Some(Block { base: base.cast(), rows, dim, first, from: 0 })
        };
        for pool in &plan.pools {
            let id = pool.level.0 as usize;
            for (side, wanted) in [(0, pool.of.q), (1, pool.of.k || pool.of.v)] {
                if wanted {
                    let parent = program.level(pool.level).parent;
                    let parent = parent.and_then(|p| slots[p.0 as usize][side].as_ref()).map(|s| s.numbers.clone());
                    slots[id][side] = Some(members(program, pool.level, env, side == 0, parent)?);
                }
            }
        }
        let exchange = &*env.exchange;
        let only = (!exchange.is_empty()).then(|| wanted(plan, &slots, exchange, ranked));
        for pool in &plan.pools {
            let id = pool.level.0 as usize;
            for (of, made, dim) in
                [(Of::Q, pool.of.q, dims[0]), (Of::K, pool.of.k, dims[0]), (Of::V, pool.of.v, dims[1])]
            {
                let from = only.as_ref().map_or(Some(0), |only| only.get(&(id, of)).copied());
                let (true, Some(from)) = (made, from) else { continue };
                let Some(own) = &slots[id][usize::from(of != Of::Q)] else { continue };
                let by_output = of == Of::V && choose::weighed(program, pool.level);
                let heads: Vec<usize> = match by_output {
                    true => sources.reads.keys().copied().collect(),
                    false => sources.of(of).keys().copied().collect(),
                };
                let given = exchange.levels.get(&(pool.level, of.side()));
                for head in heads {
                    let rows = given.map_or(&[][..], |given| match slots::by_output(program, pool.level, of.side()) {
                        true if !by_output => given.head(sources.output_of(of, head)),
                        _ => given.head(head),
                    });
                    let whole = own.len() * dim;
                    let made = if whole > 0 && rows.len() >= whole {
                        // Nothing writes a row before `from`.
                        let base = rows.as_ptr().cast_mut();
                        Some(Block { base, rows: own.len(), dim, first: own.numbers.start, from: own.len() })
                    } else {
                        block(own.len(), dim, own.numbers.start).map(|made| Block { from: from.min(own.len()), ..made })
                    };
                    let Some(made) = made else { return Ok(None) };
                    if rows.len() < whole {
                        // SAFETY: the block was taken for `whole` elements.
                        unsafe { made.base.copy_from_nonoverlapping(rows.as_ptr(), rows.len()) };
                    }
                    levels.insert((id, of, head), made);
                }
            }
        }
        let mut made = Made { slots, levels, operands: Vec::new() };
        let ranked_by = |operand: &Operand| {
            let dots = ranked.iter().filter_map(|&c| plan.chooses[c].scored.as_ref()?.dot);
            dots.into_iter().any(|(a, b)| a == *operand || b == *operand)
        };
        for (operand, of) in choose::prepared(plan).into_iter().filter(ranked_by).map(|o| (o, side(o))) {
            for head in heads(operand.heads, of, sources) {
                let rows = made.rows_of(program, env, operand, of);
                let Some(found) = block(rows.1, dims[0], rows.0) else { return Ok(None) };
                made.operands.push((operand, head, found));
            }
        }
        Ok(Some(made))
    }

    /// The first row of an operand and how many it has.
    fn rows_of(&self, program: &Program, env: &Env<'_>, operand: Operand, of: Of) -> (i64, usize) {
        let operand_of = if of == Of::Q {
            |d: attnc_pattern::program::Derived| d.q
        } else {
            |d: attnc_pattern::program::Derived| d.k
        };
        match choose::level_of(operand).and_then(|l| choose::origin(program, l, operand_of)) {
            Some(l) => match &self.slots[l.0 as usize][usize::from(of != Of::Q)] {
                Some(slots) => (slots.numbers.start, slots.len()),
                None => (0, 0),
            },
            None if of == Of::Q => (env.q_start, env.n_q as usize),
            None => (env.k_start, env.n_k as usize),
        }
    }

    /// Tasks of stage `stage`: levels one after the other, each with what is weighed by its queries apart; then all
    /// operands.
    pub(crate) fn tasks(&self, plan: &Plan, stage: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        let (number, later) = (stage / 2, stage % 2 == 1);
        match plan.pools.get(number) {
            Some(pool) => {
                let id = pool.level.0 as usize;
                let softmax = matches!(plan.program.level(pool.level).pool, Pool::SoftmaxMean);
                for (&(_, of, head), block) in self.levels.range((id, Of::Q, 0)..(id + 1, Of::Q, 0)) {
                    if (softmax && of == Of::V) != later {
                        continue;
                    }
                    for from in (block.from..block.rows).step_by(ROWS) {
                        tasks.push(Task::Pool { pool: number, of, head, from, to: (from + ROWS).min(block.rows) });
                    }
                }
            }
            None if stage == 2 * plan.pools.len() => {
                for (number, (_, _, block)) in self.operands.iter().enumerate() {
                    for from in (0..block.rows).step_by(ROWS) {
                        tasks.push(Task::Operand { number, from, to: (from + ROWS).min(block.rows) });
                    }
                }
            }
            None => {}
        }
        tasks
    }

    /// View of the keys or values of a level for a head of the output that reads `kv_head`; `None` is the tokens'.
    pub(crate) fn keys(
        &self,
        program: &Program,
        level: LevelId,
        of: Of,
        (head, kv_head): (usize, usize),
    ) -> Option<KvView> {
        let operand: fn(attnc_pattern::program::Derived) -> bool = if of == Of::K { |d| d.k } else { |d| d.v };
        let level = choose::origin(program, level, operand)?;
        let head = if of == Of::V && choose::weighed(program, level) { head } else { kv_head };
        self.levels.get(&(level.0 as usize, of, head)).map(Block::view)
    }

    /// View of the queries of a level whose slots are tokens.
    pub(crate) fn queries(&self, program: &Program, level: LevelId, q_head: usize) -> Option<KvView> {
        let level = choose::origin(program, level, |of| of.q)?;
        self.levels.get(&(level.0 as usize, Of::Q, q_head)).map(Block::view)
    }

    /// Rows of a level that a caller has asked for, by the head under which it knows them, and the elements of a row.
    ///
    /// # Safety
    /// The level is made.
    pub(crate) unsafe fn handed_back(
        &self,
        program: &Program,
        (level, side): (LevelId, Side),
        sources: &Sources,
    ) -> BTreeMap<usize, (usize, Vec<f32>)> {
        let mut found = BTreeMap::new();
        let Some(of) = [Of::Q, Of::K, Of::V].into_iter().find(|of| of.side() == side) else { return found };
        let by_output = slots::by_output(program, level, side);
        for (&output, &(q, kv)) in &sources.reads {
            let own = match of {
                Of::Q => q,
                Of::V if choose::weighed(program, level) => output,
                _ => kv,
            };
            let known = if by_output { output } else { kv };
            if let (Some(block), false) = (self.levels.get(&(level.0 as usize, of, own)), found.contains_key(&known)) {
                // SAFETY: the block has these elements, and they have been made or given.
                let rows = unsafe { std::slice::from_raw_parts(block.base, block.rows * block.dim) };
                found.insert(known, (block.dim, rows.to_vec()));
            }
        }
        found
    }

    /// Rows of an operand for a head, with the number of the first; `None` are the tokens' own.
    pub(crate) fn operand(
        &self,
        program: &Program,
        operand: Operand,
        of: Of,
        (q_head, kv_head): (usize, usize),
    ) -> Option<(KvView, i64)> {
        if operand.heads != Heads::Own || operand.unit {
            let head = match (operand.heads, of) {
                (Heads::All, _) => 0,
                (Heads::Group, _) => kv_head,
                (Heads::Own, Of::Q) => q_head,
                (Heads::Own, _) => kv_head,
            };
            let found = self.operands.iter().find(|(o, h, _)| (*o, *h) == (operand, head));
            return found.map(|(.., block)| (block.view(), block.first));
        }
        let derived: fn(attnc_pattern::program::Derived) -> bool = if of == Of::Q { |d| d.q } else { |d| d.k };
        let level = choose::origin(program, choose::level_of(operand)?, derived)?;
        let head = if of == Of::Q { q_head } else { kv_head };
        self.levels.get(&(level.0 as usize, of, head)).map(|b| (b.view(), b.first))
    }

    /// Does a task.
    ///
    /// # Safety
    /// Levels and operands that it reads are made, and no other thread does the same task; the scratch is this thread's.
    pub(crate) unsafe fn run(
        &self,
        plan: &Plan,
        env: &Env<'_>,
        kernels: &Table,
        sources: &Sources,
        task: Task,
        scratch: &Scratch,
    ) {
        match task {
            // SAFETY: promised by the caller.
            Task::Pool { pool, of, head, from, to } => unsafe {
                self.pool(plan, env, kernels, sources, (plan.pools[pool].level, of, head), (from, to), scratch);
            },
            // SAFETY: promised by the caller.
            Task::Operand { number, from, to } => unsafe {
                self.mean(&plan.program, kernels, sources, number, (from, to), scratch);
            },
        }
    }

    /// The rows that a level is made of.
    fn source(&self, program: &Program, level: LevelId, of: Of, head: usize, sources: &Sources) -> Option<KvView> {
        let operand: fn(attnc_pattern::program::Derived) -> bool = match of {
            Of::Q => |d| d.q,
            Of::K => |d| d.k,
            Of::V => |d| d.v,
        };
        let parent = program.level(level).parent.and_then(|parent| choose::origin(program, parent, operand));
        match parent {
            // Values that are weighed by queries are those of a head of the output.
            Some(parent) if of != Of::V || choose::weighed(program, parent) => {
                self.levels.get(&(parent.0 as usize, of, head)).map(Block::view)
            }
            _ => {
                let own =
                    if of == Of::V && choose::weighed(program, level) { sources.reads.get(&head)?.1 } else { head };
                match parent {
                    Some(parent) => self.levels.get(&(parent.0 as usize, of, own)).map(Block::view),
                    None => sources.of(of).get(&own).copied(),
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    #[allow(clippy::too_many_arguments, reason = "what a task of a level knows")]
    unsafe fn pool(
        &self,
        plan: &Plan,
        env: &Env<'_>,
        kernels: &Table,
        sources: &Sources,
        (id, of, head): (LevelId, Of, usize),
        (from, to): (usize, usize),
        scratch: &Scratch,
    ) {
        let program = &*plan.program;
        let number = id.0 as usize;
        let (Some(source), Some(block)) =
            (self.source(program, id, of, head, sources), self.levels.get(&(number, of, head)))
        else {
            return;
        };
        let Some(slots) = &self.slots[number][usize::from(of != Of::Q)] else { return };
        let weights: &[f32] = match program.level(id).pool {
            Pool::Weighted(tensor) => env.tensors.get(tensor.0 as usize).map_or(&[], |t| &t.data),
            _ => &[],
        };
        // Of values that are weighed: their keys, and the queries of their slots.
        let (q_head, kv_head) = sources.reads.get(&head).copied().unwrap_or((head, head));
        let keys = self.source(program, id, Of::K, kv_head, sources);
        let queries = self.levels.get(&(number, Of::Q, q_head));
        let mut chances: Vec<f32> = Vec::new();
        if let Pool::Quantised { bits, block: size } = program.level(id).pool {
            let start = if of == Of::Q { env.q_start } else { env.k_start };
            // SAFETY: as below.
            unsafe { quantised(kernels, &source, block, (start, bits, size), (from, to), scratch) };
            return;
        }
        for slot in from..to {
            let count = slots.members.count(slot);
            let row = block.row(slot);
            // SAFETY: the row is this task's, and its rows are within the source, which is made.
            unsafe {
                let out = std::slice::from_raw_parts_mut(row, block.dim);
                match (&program.level(id).pool, of) {
                    (Pool::Max, _) | (Pool::SoftmaxMean, Of::Q | Of::K) => {
                        out.fill(if count == 0 { 0.0 } else { f32::NEG_INFINITY });
                        each_batch(&slots.members, slot, |rows, first, n, _| {
                            let (at, stride) = fetch(kernels, &source, rows, first, n, scratch);
                            (kernels.pool_max)(at, stride, n as i64, block.dim as i64, row);
                        });
                    }
                    (Pool::SoftmaxMean, Of::V) => {
                        out.fill(0.0);
                        let (Some(keys), Some(queries)) = (keys, queries) else { continue };
                        let place = slots.numbers.start + slot as i64 - queries.first;
                        let Some(place) = usize::try_from(place).ok().filter(|&p| p < queries.rows) else { continue };
                        let query = std::slice::from_raw_parts(queries.row(place), queries.dim);
                        softmax_of(kernels, query, &keys, &slots.members, slot, scratch, &mut chances);
                        each_batch(&slots.members, slot, |rows, first, n, done| {
                            let (at, stride) = fetch(kernels, &source, rows, first, n, scratch);
                            let weights = chances[done..].as_ptr();
                            (kernels.pool_sum)(at, stride, n as i64, block.dim as i64, weights, row);
                        });
                    }
                    (Pool::Weighted(_), _) => {
                        out.fill(0.0);
                        each_batch(&slots.members, slot, |rows, first, n, done| {
                            let (at, stride) = fetch(kernels, &source, rows, first, n, scratch);
                            let mut own = [0.0; BK];
                            let places = match &slots.members {
                                Members::Lists { begin, places, .. } => &places[begin[slot] + done..][..n],
                                Members::Ranges(_) => &[],
                            };
                            for (own, &place) in own.iter_mut().zip(places) {
                                *own = weights.get(place as usize).copied().unwrap_or(0.0);
                            }
                            (kernels.pool_sum)(at, stride, n as i64, block.dim as i64, own.as_ptr(), row);
                        });
                    }
                    _ => {
                        out.fill(0.0);
                        each_batch(&slots.members, slot, |rows, first, n, _| {
                            let (at, stride) = fetch(kernels, &source, rows, first, n, scratch);
                            (kernels.pool_sum)(at, stride, n as i64, block.dim as i64, std::ptr::null(), row);
                        });
                        if count > 0 {
                            out.iter_mut().for_each(|x| *x /= count as f32);
                        }
                    }
                }
            }
        }
    }

    /// Rows of an operand as means over heads, or of length 1.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn mean(
        &self,
        program: &Program,
        kernels: &Table,
        sources: &Sources,
        number: usize,
        (from, to): (usize, usize),
        scratch: &Scratch,
    ) {
        let (operand, head, block) = self.operands[number];
        let of = side(operand);
        let own = Operand { heads: Heads::Own, unit: false, ..operand };
        let read: Vec<usize> = match (operand.heads, of) {
            (Heads::All, of) => sources.of(of).keys().copied().collect(),
            (Heads::Group, Of::Q) => sources.group.get(&head).cloned().unwrap_or_default(),
            _ => vec![head],
        };
        let view = |head: usize| match self.operand(program, own, of, (head, head)) {
            Some((view, _)) => Some(view),
            None => sources.of(of).get(&head).copied(),
        };
        let views: Vec<KvView> = read.iter().filter_map(|&h| view(h)).collect();
        let d = block.dim;
        // SAFETY: the rows are this task's, and those read are within their tensors.
        unsafe {
            let out = std::slice::from_raw_parts_mut(block.row(from), (to - from) * d);
            out.fill(0.0);
            for view in &views {
                for i in from..to {
                    let (at, _) = fetch(kernels, view, std::ptr::null(), i as i64, 1, scratch);
                    (kernels.pool_sum)(at, 0, 1, d as i64, std::ptr::null(), block.row(i));
                }
            }
            for row in out.chunks_exact_mut(d) {
                if views.len() > 1 {
                    row.iter_mut().for_each(|x| *x /= views.len() as f32);
                }
                if operand.unit {
                    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
                    if length > 0.0 {
                        row.iter_mut().for_each(|x| *x /= length);
                    }
                }
            }
        }
    }
}

/// The integer nearest to a quotient of numbers that are at least 0, ties to even, without a quotient that is rounded and
/// may fall to either side of a tie.
fn nearest(a: f64, b: f64) -> f64 {
    let n = (a / b).floor();
    let odd = 2.0 * n + 1.0;
    let up = 2.0 * a > odd * b || (2.0 * a == odd * b && n % 2.0 == 1.0);
    n + f64::from(u8::from(up))
}

/// Rows rounded to so many bits, with one scale for each block of so many positions; `start` is that of the first row.
///
/// # Safety
/// The rows are within the source and the block; the scratch is this thread's.
unsafe fn quantised(
    kernels: &Table,
    source: &KvView,
    block: &Block,
    (start, bits, size): (i64, u32, i64),
    (from, to): (usize, usize),
    scratch: &Scratch,
) {
    let (d, rows) = (block.dim, block.rows);
    let levels = f64::from((1_u32 << (bits - 1)) - 1);
    let (mut known, mut greatest) = (None, 0.0_f64);
    for row in from..to {
        let number = (start + row as i64) / size;
        // SAFETY: promised by the caller.
        unsafe {
            if known != Some(number) {
                let first = (number * size - start).max(0);
                let end = ((number + 1) * size - start).min(rows as i64);
                let mut most = 0.0_f32;
                let mut at = first;
                while at < end {
                    let n = (end - at).min(BK as i64);
                    let (rows, stride) = fetch(kernels, source, std::ptr::null(), at, n as usize, scratch);
                    for i in 0..n as isize {
                        let row = std::slice::from_raw_parts(rows.offset(i * stride as isize), d);
                        most = row.iter().fold(most, |m, x| m.max(x.abs()));
                    }
                    at += n;
                }
                (known, greatest) = (Some(number), f64::from(most));
            }
            let (at, _) = fetch(kernels, source, std::ptr::null(), row as i64, 1, scratch);
            let (own, out) = (std::slice::from_raw_parts(at, d), std::slice::from_raw_parts_mut(block.row(row), d));
            for (out, x) in out.iter_mut().zip(own) {
                let x = f64::from(*x);
                let rounded = nearest(levels * x.abs(), greatest) * greatest / levels;
                *out = if greatest > 0.0 { x.signum() as f32 * rounded as f32 } else { 0.0 };
            }
        }
    }
}

/// Bytes of rows of singles.
pub(crate) fn bytes(rows: usize, dim: usize) -> Option<usize> {
    rows.checked_mul(dim)?.checked_mul(size_of::<f32>())?.checked_next_multiple_of(ALIGN)
}

/// Bytes of what a part makes of one batch item before its selections, for so many heads of queries and of keys.
pub(crate) fn made_bytes(plan: &Plan, env: &Env<'_>, (q, kv): (usize, usize), dims: [usize; 2]) -> Option<usize> {
    let program = &*plan.program;
    let mut total = 0_usize;
    let rows = |queries: bool, level: LevelId| {
        let range = if queries {
            slots::rows(program, Index::Slots(level), env)
        } else {
            slots::candidates(program, Index::Slots(level), env)
        };
        range.map_or(0, |r| (r.end - r.start).max(0) as usize)
    };
    for pool in &plan.pools {
        for (wanted, queries, heads, dim) in
            [(pool.of.q, true, q, dims[0]), (pool.of.k, false, kv, dims[0]), (pool.of.v, false, kv, dims[1])]
        {
            if wanted {
                total = total.checked_add(bytes(rows(queries, pool.level), dim)?.checked_mul(heads)?)?;
            }
        }
    }
    for (operand, of) in choose::prepared(plan).into_iter().map(|o| (o, side(o))) {
        let count = match (operand.heads, of) {
            (Heads::All, _) => 1,
            (Heads::Group, _) => kv,
            (Heads::Own, Of::Q) => q,
            _ => kv,
        };
        let rows = match choose::level_of(operand) {
            Some(level) => rows(of == Of::Q, level),
            None if of == Of::Q => env.n_q as usize,
            None => env.n_k as usize,
        };
        total = total.checked_add(bytes(rows, dims[0])?.checked_mul(count)?)?;
    }
    Some(total)
}

/// Whether an operand has rows of queries or of keys.
pub(crate) fn side(operand: Operand) -> Of {
    if choose::of_queries(operand) { Of::Q } else { Of::K }
}

/// The heads that an operand is made for.
fn heads(heads: Heads, of: Of, sources: &Sources) -> Vec<usize> {
    match heads {
        Heads::All => vec![0],
        Heads::Group => sources.group.keys().copied().collect(),
        Heads::Own => sources.of(of).keys().copied().collect(),
    }
}

/// Rows `first .. first + n` of a view, or those that `rows` lists if it is not null.
///
/// # Safety
/// The rows are within the view, `n <= BK`; the scratch is this thread's.
pub(crate) unsafe fn fetch(
    kernels: &Table,
    view: &KvView,
    rows: *const u32,
    first: i64,
    n: usize,
    scratch: &Scratch,
) -> (*const f32, i64) {
    let listed = KvView { rows, ..*view };
    let (of, first) = if rows.is_null() { (view, first) } else { (&listed, 0) };
    // SAFETY: promised by the caller; the copies have room.
    unsafe {
        if of.in_place()
            && let Some((at, stride)) = of.spaced(first as usize, n)
        {
            return (at.cast(), stride / DType::F32.size() as i64);
        }
        (kernels.kv_tile)(of, first, n as i64, scratch.copy);
    }
    (scratch.copy, view.dim as i64)
}

/// Runs `f` for members of a slot, at most a tile of them at a time: their numbers or null, the first where they follow
/// one another, how many, and how many came before.
fn each_batch(members: &Members, slot: usize, mut f: impl FnMut(*const u32, i64, usize, usize)) {
    match members {
        Members::Ranges(ranges) => {
            let (start, end) = ranges[slot];
            let mut at = start;
            while at < end {
                let n = (end - at).min(BK as i64);
                f(std::ptr::null(), at, n as usize, (at - start) as usize);
                at += n;
            }
        }
        Members::Lists { begin, rows, .. } => {
            for (i, rows) in rows[begin[slot]..begin[slot + 1]].chunks(BK).enumerate() {
                f(rows.as_ptr(), 0, rows.len(), i * BK);
            }
        }
    }
}

/// The softmax over the members of a slot of the products of their keys with the slot's query, divided by the root of the
/// dimension.
///
/// # Safety
/// The rows are within the view; the scratch is this thread's.
unsafe fn softmax_of(
    kernels: &Table,
    query: &[f32],
    keys: &KvView,
    members: &Members,
    slot: usize,
    scratch: &Scratch,
    chances: &mut Vec<f32>,
) {
    let d = keys.dim as usize;
    chances.clear();
    // SAFETY: promised by the caller.
    unsafe {
        each_batch(members, slot, |rows, first, n, _| {
            let (at, stride) = fetch(kernels, keys, rows, first, n, scratch);
            for i in 0..n {
                let row = std::slice::from_raw_parts(at.offset(i as isize * stride as isize), d);
                let dot: f32 = row.iter().zip(query).map(|(a, b)| a * b).sum();
                chances.push(dot / (d as f32).sqrt());
            }
        });
    }
    let most = chances.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    chances.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = chances.iter().sum();
    chances.iter_mut().for_each(|x| *x /= sum);
}
