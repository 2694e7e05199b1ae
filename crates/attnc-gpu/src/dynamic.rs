//! Launches of what depends on the data: levels, scores and tables in buffers, and the passes that make them.
//!
//! The one idea: all that a pass walks by is known before a launch as lists of numbers ([`attnc_plan::items`],
//! [`attnc_plan::members`]), and all that it finds stays on the device. Jobs whose rows, tables and scores fit the
//! adapter's bindings share buffers and dispatches. Dispatches have fixed sizes: what their workgroups go over is
//! counted on the device. Nothing here knows of shaders' text.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use attnc_pattern::env::{DrawTable, Env, MapData};
use attnc_pattern::expr::{DrawId, ExprId, LevelId, Node, Var};
use attnc_pattern::program::{Budget, Heads, Index, Operand, Partition, Pool as Pooling, Program, Rows as OperandRows};
use attnc_pattern::slots;
use attnc_plan::choose::{self, Chosen, Extents, cut_by_head, level_of, of_queries, prepared};
use attnc_plan::items::{Items, candidates_of, inverse};
use attnc_plan::members::{Members, Slots, members};
use attnc_plan::{Choose, Energy, InPlace, Plan, Reads, inplace};

use crate::device::{Gpu, GpuError};
use crate::emit::passes::{Batch, How, Kind, Of, PART, Pass, Recipe, THREADS, derived, is_listed, pooled_in, room};
use crate::layout::Field;
use crate::run::{
    ALIGN, CompiledPlan, Dispatch, Given, LaunchError, On, Size, Stands, Window, Words, buffer, filled, job_rows,
    value, windows,
};

/// Where a launch makes a table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    buffer: wgpu::Buffer,
    /// Words of tables in the buffer.
    words: usize,
    batch: usize,
    head: usize,
    draw: DrawId,
    at: usize,
    rows: usize,
    capacity: usize,
    first: i64,
}

impl Table {
    /// Whether it stands in a buffer.
    pub(crate) fn is_in(&self, buffer: &wgpu::Buffer) -> bool {
        self.buffer == *buffer
    }

    /// The table, from the words of its buffer.
    pub(crate) fn chosen(&self, words: &[u32]) -> Chosen {
        let (mut chosen, mut counts) = (vec![-1; self.rows * self.capacity], Vec::with_capacity(self.rows));
        for row in 0..self.rows {
            let own = words.get(self.at + row * (self.capacity + 1)..).unwrap_or(&[]);
            let count = own.first().map_or(0, |&n| (n as usize).min(self.capacity));
            counts.push(count as u32);
            for (to, &slot) in chosen[row * self.capacity..][..count].iter_mut().zip(own.get(1..).unwrap_or(&[])) {
                *to = i64::from(slot);
            }
        }
        let table = DrawTable {
            chosen: chosen.into(),
            count: self.capacity,
            first: self.first,
            counts: counts.into(),
            times: Arc::default(),
        };
        Chosen { batch: self.batch, head: self.head, draw: self.draw, table }
    }
}

/// Buffers of tables, each with one on the host for it.
pub(crate) fn read_back(gpu: &Gpu, tables: &[Table]) -> Result<Vec<(wgpu::Buffer, wgpu::Buffer)>, LaunchError> {
    let mut found: Vec<(wgpu::Buffer, wgpu::Buffer)> = Vec::new();
    for table in tables {
        if found.iter().all(|(from, _)| !table.is_in(from)) {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let host = buffer(gpu, 4 * table.words as u64, usage, "tables of what was chosen")?;
            found.push((table.buffer.clone(), host));
        }
    }
    Ok(found)
}

/// What a selection has in every head with the same lengths and data.
struct Setup {
    rows: Range<i64>,
    /// Where each row stands, counted from the first query.
    stands: Vec<u32>,
    slots: Range<i64>,
    capacity: usize,
    /// How many are wanted, where the budget says a number.
    wanted: i64,
    items: Option<Items>,
    /// Rows over which the energy of channels is taken: of queries, of keys, counted from the first.
    energy: Option<[Vec<u32>; 2]>,
    /// Widths of the grids of its score, and how many rows each has.
    grids: Vec<(usize, usize)>,
}

fn said(e: impl std::fmt::Display) -> LaunchError {
    LaunchError::Data(e.to_string())
}

fn count(range: &Range<i64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(0)
}

impl Setup {
    fn new(plan: &Plan, choose: &Choose, env: &Env<'_>) -> Result<Setup, LaunchError> {
        let program = &*plan.program;
        let select = program.select(choose.select);
        let Extents { rows, stands, slots, capacity } = Extents::new(program, select, env).map_err(said)?;
        let all = (slots.end - slots.start).max(0);
        let wanted = match &select.budget {
            Budget::Top(count) => slots::integer(program, env, *count).map_err(said)?.min(all),
            Budget::Nearest(n) => (*n).min(all),
            _ => 0,
        };
        let items = choose.scored.as_ref().map(|s| Items::new(program, select, (s, &s.steps), env, &rows)).transpose();
        let items = items.map_err(LaunchError::Data)?;
        if let Some((Operand { rows: OperandRows::Tensor(tensor), .. }, _)) = choose.scored.as_ref().and_then(|s| s.dot)
        {
            let dims = env.tensors.get(tensor.0 as usize).map_or(&[][..], |t| &t.dims);
            if !matches!(dims, [.., c, d] if *c as i64 == rows.end && *d as i64 == env.dim) {
                let name = &program.tensor(tensor).name;
                let said = format!("tensor `{name}` has no row of dimension d for each branch");
                return Err(LaunchError::Data(said));
            }
        }
        let energy = choose.energy.as_ref().map(|energy| energy_rows(program, energy, env)).transpose()?;
        let mut grids = Vec::new();
        if let (Some(scored), Some(items)) = (&choose.scored, &items)
            && !scored.direct
            && !scored.searched
        {
            let recipe = Recipe::new(scored);
            for (index, reduced) in recipe.slots.iter().zip(&recipe.reduced) {
                let width = count(&slots::candidates(program, *index, env).map_err(said)?);
                let rows = if *reduced { count(&items.score_rows) } else { items.numbers.len() };
                grids.push((rows, width));
            }
        }
        let stands = stands.iter().map(|&p| (p - env.q_start) as i32 as u32).collect();
        Ok(Setup { rows, stands, slots, capacity, wanted, items, energy, grids })
    }

    /// Words of its tables.
    fn table_words(&self, tables: usize) -> usize {
        tables * self.stands.len() * (self.capacity + 1)
    }

    /// Where the grids of a score begin among the words of a job; the last is where what ranks them begins. A norm of a
    /// head and steps that reduce nothing work in place.
    fn grid_places(&self, choose: &Choose) -> (Vec<usize>, usize) {
        let Some(scored) = choose.scored.as_ref().filter(|_| !self.grids.is_empty()) else { return (Vec::new(), 0) };
        let recipe = Recipe::new(scored);
        let (mut places, mut end) = (vec![0], self.grids[0].0 * self.grids[0].1);
        for (i, (how, batch, ..)) in recipe.grids.iter().enumerate() {
            let in_place = *how == How::Head || (*how == How::Rows && batch.keys.is_none());
            let (rows, width) = self.grids[i + 1];
            places.push(if in_place { places[i] } else { end });
            end += if in_place { 0 } else { rows * width };
        }
        (places, end)
    }

    /// How many parts the rows have over which the energy of channels is taken.
    fn energy_parts(&self) -> usize {
        self.energy.iter().flatten().map(|rows| rows.len().div_ceil(PART)).sum()
    }

    /// Words of scores, and of numbers of pairs that are ranked together.
    fn work_words(&self, plan: &Plan, choose: &Choose, pitch: usize) -> usize {
        if self.energy.is_some() {
            return self.energy_parts() * pitch + count(&self.slots);
        }
        let (_, end) = self.grid_places(choose);
        let select = plan.program.select(choose.select);
        if together(plan, choose) {
            let pairs = self.stands.len() * count(&self.slots);
            return end + 2 * pairs + 2 * select.tables.len();
        }
        end
    }
}

/// Rows over which the energy of channels is taken.
fn energy_rows(program: &Program, energy: &Energy, env: &Env<'_>) -> Result<[Vec<u32>; 2], LaunchError> {
    let ranges = energy.ranges(program, env).map_err(said)?;
    Ok(ranges.map(|of| of.into_iter().flatten().map(|row| row as u32).collect()))
}

/// Whether all pairs of a head are ranked together.
fn together(plan: &Plan, choose: &Choose) -> bool {
    plan.program.select(choose.select).pool == attnc_pattern::program::Among::Head
        && choose.scored.as_ref().is_some_and(|s| !s.direct && !s.searched)
}

/// Whether what selections walk by may differ between heads of the same lengths.
fn by_head(plan: &Plan) -> bool {
    let program = &*plan.program;
    let mut roots: Vec<ExprId> = Vec::new();
    for choose in &plan.chooses {
        let select = program.select(choose.select);
        roots.push(select.capacity);
        roots.extend(choose.scored.iter().flat_map(|s| s.sampled.iter().chain(&s.listed)).map(|l| l.set));
        if let Budget::Top(count) = select.budget {
            roots.push(count);
        }
    }
    program
        .exprs
        .reachable(&roots)
        .into_iter()
        .any(|e| matches!(program.exprs.node(e), Node::Var(Var::Head) | Node::Load(..) | Node::MapAt(..)))
        || program.levels.iter().any(|l| match &l.partition {
            Partition::Offsets(map) => program.map(*map).per_head,
            _ => l.order.is_some(),
        })
}

/// Whether two environments have the same lengths and sizes.
fn alike(a: &Env<'_>, b: &Env<'_>) -> bool {
    let numbers = |e: &Env<'_>| [e.n_q, e.n_k, e.q_start, e.k_start, e.layer, e.step, e.dim, e.heads];
    let maps = a.maps.iter().zip(&b.maps).all(|(x, y)| match (x, y) {
        (MapData::Csr { indptr: x, .. }, MapData::Csr { indptr: y, .. }) => x == y,
        _ => true,
    });
    numbers(a) == numbers(b) && a.sizes == b.sizes && a.docs == b.docs && maps
}

/// Rows of a level, or of an operand, of several heads in one buffer.
struct Block {
    buffer: wgpu::Buffer,
    /// Rows of a head.
    rows: usize,
    /// Batch item and head.
    heads: Vec<(usize, usize)>,
    /// Number of the first row, by batch item, and head as slots have it.
    first: BTreeMap<(usize, usize), i64>,
}

impl Block {
    /// Where the rows of a head begin.
    fn row(&self, head: (usize, usize)) -> Result<usize, LaunchError> {
        let at = self.heads.iter().position(|h| *h == head);
        at.map(|at| at * self.rows).ok_or_else(|| LaunchError::Data("a head whose level is not made".to_owned()))
    }
}

/// Everything of one window of jobs.
struct Making<'a> {
    on: &'a On<'a>,
    plan: &'a Plan,
    window: &'a Window,
    setups: &'a [Rc<Vec<Setup>>],
    words: Words,
    /// By level and operand.
    levels: BTreeMap<(u32, Of), Block>,
    /// By number of [`prepared`].
    operands: Vec<Block>,
    /// By batch item and, for levels that are cut for each head apart, head; level; whether of queries: slots.
    slots: BTreeMap<((usize, usize), u32, bool), Slots>,
    /// Where the tables of each job begin, by selection; words of all.
    tables: Vec<Vec<usize>>,
    /// Where the scores of each job begin, by selection.
    work: Vec<Vec<usize>>,
    work_words: usize,
    /// What stands in place of the queries of each job.
    stands: Vec<Standing>,
    /// Where the tiles of each stage that have rows are listed, and how many workgroups they are.
    tasks: Vec<(usize, wgpu::Buffer)>,
    /// Outputs of rows.
    stood: Option<wgpu::Buffer>,
}

/// Rows in place of the queries of a job.
#[derive(Clone, Debug)]
struct Standing {
    branches: usize,
    /// Most rows of a branch.
    room: usize,
    /// Where they are listed among the words.
    at: usize,
    /// Number of the first among the rows of all jobs.
    first: usize,
    /// The lists, where they are known before a launch.
    known: Option<Vec<u32>>,
}

impl Standing {
    fn new(plan: &Plan, rows: &InPlace, env: &Env<'_>) -> Result<Standing, LaunchError> {
        if let InPlace::Branches { count, takes: Some(_) } = rows {
            let branches = usize::try_from(slots::integer(&plan.program, env, *count).map_err(said)?).unwrap_or(0);
            let most = usize::try_from(inplace::most_rows(plan, rows, env).map_err(said)?).unwrap_or(usize::MAX);
            let room = most.checked_div(branches).unwrap_or(0);
            return Ok(Standing { branches, room, at: 0, first: 0, known: None });
        }
        let positions = inplace::positions(plan, rows, env).map_err(said)?;
        let room = positions.iter().map(Vec::len).max().unwrap_or(0);
        let mut lists = Vec::with_capacity(positions.len() * (room + 1));
        for list in &positions {
            lists.push(list.len() as u32);
            lists.extend(list.iter().map(|&p| (p - env.q_start).max(0) as u32));
            lists.resize(lists.len() + room - list.len(), 0);
        }
        Ok(Standing { branches: positions.len(), room, at: 0, first: 0, known: Some(lists) })
    }

    fn rows(&self) -> usize {
        self.branches * self.room
    }
}

/// Adds the dispatches of a part that depends on the data, and where its tables are made.
///
/// # Errors
/// What has no value, and what the adapter has no room for.
pub(crate) fn launch(
    on: &On<'_>,
    compiled: &CompiledPlan,
    between: Option<&wgpu::Buffer>,
    dispatches: &mut Vec<Dispatch>,
    tables: &mut Vec<Table>,
) -> Result<(), LaunchError> {
    let On { gpu, part, shape, spec, places, .. } = on;
    let plan: &Plan = part.kernel.plan();
    let apart = by_head(plan);
    let mut setups: Vec<Rc<Vec<Setup>>> = Vec::with_capacity(part.envs.len());
    for (i, env) in part.envs.iter().enumerate() {
        let known = i.checked_sub(1).filter(|&before| !apart && alike(&part.envs[before], env));
        setups.push(match known {
            Some(before) => setups[before].clone(),
            None => Rc::new(plan.chooses.iter().map(|c| Setup::new(plan, c, env)).collect::<Result<_, _>>()?),
        });
    }
    let stands = match &plan.rows {
        Some(rows) => part.envs.iter().map(|env| Standing::new(plan, rows, env)).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let own = |job: usize| {
        let of = plan.chooses.iter().zip(setups[job].iter());
        let (mut tables, mut work) = (0, 0);
        for (choose, setup) in of {
            tables += setup.table_words(plan.program.select(choose.select).tables.len());
            work += setup.work_words(plan, choose, spec.pitch());
        }
        let stood = stands.get(job).map_or(0, Standing::rows) * (spec.value_pitch() + 4);
        [4 * tables as u64, 4 * work as u64, 4 * stood as u64]
    };
    let windows = windows(gpu, shape, spec, places, between.is_some(), &own)?;
    for window in &windows {
        let mut making = Making {
            on,
            plan,
            window,
            setups: &setups,
            words: Words::default(),
            levels: BTreeMap::new(),
            operands: Vec::new(),
            slots: BTreeMap::new(),
            tables: Vec::new(),
            work: Vec::new(),
            work_words: 0,
            stands: stands.get(window.jobs.clone()).map(<[Standing]>::to_vec).unwrap_or_default(),
            tasks: Vec::new(),
            stood: None,
        };
        making.lay_out()?;
        making.lay_out_stands()?;
        making.run(compiled, between, dispatches, tables)?;
    }
    Ok(())
}

impl Making<'_> {
    /// Batch item and head of the output of a job.
    fn head(&self, job: usize) -> (usize, usize) {
        let heads = self.on.part.heads;
        (job / heads.len(), heads[job % heads.len()])
    }

    fn env(&self, job: usize) -> &Env<'_> {
        &self.on.part.envs[job]
    }

    /// The job of the slots of a batch item and head: the first of the item where the head does not matter.
    fn job_of(&self, (item, head): (usize, usize)) -> usize {
        let heads = self.on.part.heads;
        item * heads.len() + heads.iter().position(|&h| h == head).unwrap_or(0)
    }

    /// Batch item and head of the slots that a head of a level has.
    fn slots_head(&self, level: LevelId, (item, head): (usize, usize)) -> (usize, usize) {
        (item, if cut_by_head(&self.plan.program, level) { head } else { usize::MAX })
    }

    /// Whether each head of the output has rows of its own of a level.
    fn by_output(&self, level: LevelId, of: Of) -> bool {
        let program = &*self.plan.program;
        (of != Of::Q && choose::weighed(program, level)) || cut_by_head(program, level)
    }

    /// Heads whose rows something of a level reads: of Q or of K and V, or of the output.
    fn heads(&self, of: Of, by_output: bool) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        let own = self.window.jobs.clone().map(|job| self.head(job));
        let wide = choose::reads_all_heads(self.plan);
        // Means are over all heads, whatever attends to them.
        let all = own.flat_map(|(item, head)| {
            let heads = if wide { 0..self.on.heads.0.len() } else { head..head + 1 };
            heads.map(move |head| (item, head))
        });
        for (item, head) in all {
            found.push(match of {
                _ if by_output => (item, head),
                Of::Q => (item, self.on.heads.0[head]),
                _ => (item, self.on.heads.1[head]),
            });
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Which head of a level's rows a head of the output reads.
    fn reads(&self, level: LevelId, of: Of, (item, head): (usize, usize)) -> (usize, usize) {
        match of {
            _ if self.by_output(level, of) => (item, head),
            Of::Q => (item, self.on.heads.0[head]),
            _ => (item, self.on.heads.1[head]),
        }
    }

    /// Buffers and places.
    fn lay_out(&mut self) -> Result<(), LaunchError> {
        let program = &*self.plan.program;
        for job in self.window.jobs.clone() {
            let (mut tables, mut work) = (Vec::new(), Vec::new());
            for (choose, setup) in self.plan.chooses.iter().zip(self.setups[job].iter()) {
                tables.push(self.words.before);
                self.words.before += setup.table_words(program.select(choose.select).tables.len());
                work.push(self.work_words);
                self.work_words += setup.work_words(self.plan, choose, self.on.spec.pitch());
            }
            self.tables.push(tables);
            self.work.push(work);
        }
        for pool in &self.plan.pools {
            let id = pool.level;
            for (of, wanted) in [(Of::Q, pool.of.q), (Of::K, pool.of.k), (Of::V, pool.of.v)] {
                if !wanted {
                    continue;
                }
                let heads = self.heads(of, self.by_output(id, of));
                let (mut rows, mut first) = (0, BTreeMap::new());
                for &head in &heads {
                    let own = self.slots_head(id, head);
                    self.members(own, id, of == Of::Q)?;
                    let slots = &self.slots[&(own, id.0, of == Of::Q)];
                    rows = rows.max(slots.len());
                    first.insert(own, slots.numbers.start);
                }
                let buffer = self.rows_buffer(heads.len() * rows, of, &program.level(id).name)?;
                self.levels.insert((id.0, of), Block { buffer, rows, heads, first });
            }
        }
        for operand in prepared(self.plan) {
            let of = if of_queries(operand) { Of::Q } else { Of::K };
            let mut heads: Vec<(usize, usize)> =
                self.window.jobs.clone().map(|job| self.head(job)).map(|head| self.mean_of(operand, head)).collect();
            heads.sort_unstable();
            heads.dedup();
            let mut rows = 0;
            for &head in &heads {
                rows = rows.max(match self.origin(operand, of) {
                    Some(level) => self.slots[&(self.slots_head(level, head), level.0, of == Of::Q)].len(),
                    None if of == Of::Q => self.on.shape.n_q,
                    None => self.on.shape.n_k,
                });
            }
            let buffer = self.rows_buffer(heads.len() * rows, of, "an operand")?;
            self.operands.push(Block { buffer, rows, heads, first: BTreeMap::new() });
        }
        Ok(())
    }

    /// Buffers and places of what stands in place of queries.
    fn lay_out_stands(&mut self) -> Result<(), LaunchError> {
        if self.stands.is_empty() {
            return Ok(());
        }
        let (gpu, row) = (self.on.gpu, self.on.spec.value_pitch() * 4 + 16);
        let mut first = 0;
        let takes = self.plan.rows.as_ref().is_some_and(|rows| rows.takes().is_some());
        for stand in &mut self.stands {
            stand.first = first;
            first += stand.rows();
            if takes {
                stand.at = self.words.before;
                self.words.before += stand.branches * (stand.room + 1);
            }
        }
        if takes {
            let (branches, room) = self.most_stands();
            for stage in &self.plan.stages {
                let usage = wgpu::BufferUsages::INDIRECT | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
                let size = buffer(gpu, 16, usage, "the size of a dispatch")?;
                self.tasks.push((self.words.before, size));
                self.words.before += 1 + self.stands.len() * branches * room.div_ceil(stage.tile.q);
            }
        }
        for stand in &mut self.stands {
            if let Some(known) = &stand.known {
                stand.at = usize::try_from(self.words.list(known)?).unwrap_or(0);
            }
        }
        self.stood = Some(storage(gpu, (first * row) as u64, "outputs of rows in place of queries")?);
        Ok(())
    }

    /// Most branches of a job, and most rows of a branch.
    fn most_stands(&self) -> (usize, usize) {
        let most = |of: fn(&Standing) -> usize| self.stands.iter().map(of).max().unwrap_or(0);
        (most(|s| s.branches), most(|s| s.room))
    }

    /// The level that has the rows of an operand.
    fn origin(&self, operand: Operand, of: Of) -> Option<LevelId> {
        level_of(operand).and_then(|l| choose::origin(&self.plan.program, l, derived(of)))
    }

    /// The head for which the mean of an operand is made that a head of the output reads.
    fn mean_of(&self, operand: Operand, (item, head): (usize, usize)) -> (usize, usize) {
        let (q, kv) = (self.on.heads.0[head], self.on.heads.1[head]);
        if level_of(operand).is_some_and(|level| cut_by_head(&self.plan.program, level)) {
            // Means over heads have no plan then.
            return (item, head);
        }
        match (operand.heads, of_queries(operand)) {
            (Heads::All, _) => (item, 0),
            (Heads::Own, true) => (item, q),
            _ => (item, kv),
        }
    }

    /// Heads over which an operand is a mean.
    fn mean_over(&self, operand: Operand, head: usize) -> Vec<usize> {
        let (q, kv) = self.on.heads;
        let mut all: Vec<usize> = match (operand.heads, of_queries(operand)) {
            (Heads::All, true) => q.to_vec(),
            (Heads::All, false) => kv.to_vec(),
            (Heads::Group, true) => q.iter().zip(kv).filter(|(_, kv)| **kv == head).map(|(q, _)| *q).collect(),
            _ => vec![head],
        };
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Slots of a level that a batch item has.
    fn members(&mut self, head: (usize, usize), id: LevelId, queries: bool) -> Result<(), LaunchError> {
        if self.slots.contains_key(&(head, id.0, queries)) {
            return Ok(());
        }
        let program = &*self.plan.program;
        let parent = program.level(id).parent;
        let parent = parent.and_then(|p| self.slots.get(&(self.slots_head(p, head), p.0, queries)));
        let parent = parent.map(|s| s.numbers.clone());
        let found = members(program, id, self.env(self.job_of(head)), queries, parent).map_err(LaunchError::Data)?;
        self.slots.insert((head, id.0, queries), found);
        Ok(())
    }

    /// A buffer of rows of f32.
    fn rows_buffer(&self, rows: usize, of: Of, what: &str) -> Result<wgpu::Buffer, LaunchError> {
        let pitch = if of == Of::V { self.on.spec.value_pitch() } else { self.on.spec.pitch() };
        storage(self.on.gpu, 4 * (rows * pitch) as u64, what)
    }

    /// Where the rows of a token tensor begin for a head, among all rows of the tensor.
    fn token_row(&self, of: Of, (item, head): (usize, usize)) -> usize {
        let shape = self.on.shape;
        match of {
            Of::Q => (item * shape.q_heads + head) * shape.n_q,
            _ => (item * shape.kv_heads + head) * shape.n_k,
        }
    }

    /// A window of a tensor that has the rows of these heads, and its first row.
    fn tokens(&self, of: Of, heads: &[(usize, usize)]) -> Result<(Bound<'_>, usize), LaunchError> {
        let (shape, spec) = (self.on.shape, self.on.spec);
        let (tensor, pitch, rows) = match of {
            Of::Q => (self.on.buffers.q, spec.pitch(), shape.n_q),
            Of::K => (self.on.buffers.k, spec.pitch(), shape.n_k),
            Of::V => (self.on.buffers.v, spec.value_pitch(), shape.n_k),
        };
        let first = heads.iter().map(|&h| self.token_row(of, h)).min().unwrap_or(0) / ALIGN * ALIGN;
        let end = heads.iter().map(|&h| self.token_row(of, h)).max().unwrap_or(0) + rows;
        let row = (pitch * spec.input.size()) as u64;
        let size = ((end - first) as u64 * row).max(16);
        let most = self.on.gpu.limits.max_storage_buffer_binding_size;
        if size > most {
            let limit = format!("bindings of more than {most} bytes, and heads that are read together take {size}");
            return Err(LaunchError::Gpu(GpuError::Limit(limit)));
        }
        let offset = first as u64 * row;
        Ok((Bound { buffer: tensor, offset, size: Some(size.min(tensor.size() - offset)) }, first))
    }

    /// All dispatches.
    fn run(
        mut self,
        compiled: &CompiledPlan,
        between: Option<&wgpu::Buffer>,
        dispatches: &mut Vec<Dispatch>,
        tables: &mut Vec<Table>,
    ) -> Result<(), LaunchError> {
        let on = self.on;
        let plan = self.plan;
        // Words are complete before the buffer is made.
        let mut made: Vec<PassJobs> = Vec::with_capacity(compiled.passes.len());
        for (pass, _) in &compiled.passes {
            made.push(self.jobs(pass)?);
        }
        let mut staged = Vec::with_capacity(plan.stages.len());
        let mut words = std::mem::take(&mut self.words);
        for stage in compiled.stages() {
            let special = |job: usize, field: Field| self.special(stage.reads, job, field);
            staged.push(job_rows(on.part, stage, on.places, std::slice::from_ref(self.window), &mut words, &special)?);
        }
        words.words.extend(words.words.is_empty().then_some(0));
        let data = storage(on.gpu, 4 * (words.before + words.words.len()) as u64, "tables and run-time data")?;
        let bytes: Vec<u8> = words.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        on.gpu.scoped(GpuError::Internal, "run-time data", || {
            on.gpu.queue.write_buffer(&data, 4 * words.before as u64, &bytes);
        })?;
        // Memory of workgroups lies behind the scores.
        let most = (on.gpu.limits.max_storage_buffer_binding_size / 4) as usize;
        let spare = most.saturating_sub(self.work_words).min(SLABS);
        let mut memory = 0;
        let mut groups = Vec::with_capacity(made.len());
        for of in &made {
            if of.room > spare {
                let limit = format!(
                    "bindings of more than {} bytes, and one row of candidates with all scores takes {}",
                    4 * most,
                    4 * (of.room + self.work_words)
                );
                return Err(LaunchError::Gpu(GpuError::Limit(limit)));
            }
            let at_once = spare.checked_div(of.room).unwrap_or(usize::MAX);
            let most = on.gpu.limits.max_compute_workgroups_per_dimension as usize;
            let number = of.groups.min(at_once).min(most);
            memory = memory.max(number * of.room);
            groups.push(number);
        }
        let work = storage(on.gpu, 4 * (self.work_words + memory) as u64, "scores")?;
        let last = compiled.passes.iter().position(|(pass, _)| pass.is_last()).unwrap_or(compiled.passes.len());
        for (number, (((pass, pipeline), jobs), groups)) in compiled.passes.iter().zip(&made).zip(groups).enumerate() {
            if number == last {
                self.attend(compiled, &staged, &data, between, dispatches)?;
            }
            if groups == 0 {
                continue;
            }
            let [scratch, room] = jobs.uniform.unwrap_or([self.work_words, jobs.room]);
            let uniform = [0, jobs.count, jobs.rows, groups, scratch, room, 0, 0].map(|n| n as u32);
            let uniform = filled(on.gpu, &uniform, wgpu::BufferUsages::UNIFORM, "a dispatch")?;
            let list = filled(on.gpu, &jobs.words, wgpu::BufferUsages::STORAGE, "the list of jobs")?;
            let rows = self.rows(pass)?;
            let whole = |buffer| Bound { buffer, offset: 0, size: None };
            let bound = |binding: u32| match binding {
                0 => whole(&uniform),
                1 => whole(&list),
                2 => whole(&data),
                5 if !matches!(pass.kind, Kind::Pool { .. }) => whole(&work),
                other => {
                    rows.iter().find(|(b, _)| *b == other).map_or_else(|| whole(&data), |(_, bound)| bound.clone())
                }
            };
            let group = on.gpu.scoped(GpuError::Internal, "bindings", || {
                let entries: Vec<wgpu::BindGroupEntry<'_>> = pass
                    .bindings
                    .iter()
                    .map(|&(binding, _)| {
                        let Bound { buffer, offset, size } = bound(binding);
                        let size = size.and_then(std::num::NonZeroU64::new);
                        wgpu::BindGroupEntry {
                            binding,
                            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
                        }
                    })
                    .collect();
                on.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("attnc"),
                    layout: &pipeline.get_bind_group_layout(0),
                    entries: &entries,
                })
            })?;
            dispatches.push(Dispatch { pipeline: pipeline.clone(), group, size: Size::Known([groups as u32, 1]) });
        }
        if last == compiled.passes.len() {
            self.attend(compiled, &staged, &data, between, dispatches)?;
        }
        for (i, job) in self.window.jobs.clone().enumerate() {
            let (batch, head) = self.head(job);
            for (number, choose) in plan.chooses.iter().enumerate() {
                let setup = &self.setups[job][number];
                for (table, &draw) in plan.program.select(choose.select).tables.iter().enumerate() {
                    let (rows, capacity) = (setup.stands.len(), setup.capacity);
                    tables.push(Table {
                        buffer: data.clone(),
                        words: words.before,
                        batch,
                        head,
                        draw,
                        at: self.tables[i][number] + table * rows * (capacity + 1),
                        rows,
                        capacity,
                        first: first_of(&plan.program, choose, setup),
                    });
                }
            }
        }
        Ok(())
    }

    /// The stages that attend.
    fn attend(
        &self,
        compiled: &CompiledPlan,
        staged: &[Vec<u32>],
        data: &wgpu::Buffer,
        between: Option<&wgpu::Buffer>,
        dispatches: &mut Vec<Dispatch>,
    ) -> Result<(), LaunchError> {
        for (number, stage) in self.plan.stages.iter().enumerate() {
            let jobs = filled(self.on.gpu, &staged[number], wgpu::BufferUsages::STORAGE, "the list of jobs")?;
            let Reads { q, kv } = stage.reads;
            let levels =
                [(q, Of::Q), (kv, Of::K), (kv, Of::V)].map(|(level, of)| Some(self.block(level?, of)?.buffer.clone()));
            let stands = self.stood.as_ref().map(|rows| {
                let (branches, room) = self.most_stands();
                Stands { branches, room, rows: rows.clone(), tasks: self.tasks.get(number).cloned() }
            });
            let jobs_from = self.window.jobs.start;
            let given = Given { on: self.on, compiled, jobs, jobs_from, data, levels, stands };
            given.dispatch(number, self.window, between, dispatches)?;
        }
        Ok(())
    }

    /// Rows of a level that are made; else they are the tokens' own.
    fn block(&self, level: LevelId, of: Of) -> Option<&Block> {
        pooled_in(self.plan, level, of).and_then(|level| self.levels.get(&(level.0, of)))
    }

    /// Rows that a pass reads and writes, by binding.
    fn rows(&self, pass: &Pass) -> Result<Vec<(u32, Bound<'_>)>, LaunchError> {
        let program = &*self.plan.program;
        Ok(match pass.kind {
            Kind::Pool { pool, of } => {
                let id = self.plan.pools[pool].level;
                let level = program.level(id);
                let mut bound = vec![(3, self.source(level.parent, of, id)?.0)];
                if matches!(level.pool, Pooling::SoftmaxMean) && of == Of::V {
                    bound.push((4, self.source(level.parent, Of::K, id)?.0));
                    bound.push((5, Bound::whole(&self.levels[&(id.0, Of::Q)].buffer)));
                }
                bound.push((6, Bound::whole(&self.levels[&(id.0, of)].buffer)));
                bound
            }
            Kind::Operand(number) => {
                let operand = prepared(self.plan)[number];
                let of = if of_queries(operand) { Of::Q } else { Of::K };
                let source = match self.origin(operand, of) {
                    Some(level) => Bound::whole(&self.levels[&(level.0, of)].buffer),
                    None => self.tokens(of, &self.all_read(operand, number))?.0,
                };
                vec![(3, source), (6, Bound::whole(&self.operands[number].buffer))]
            }
            Kind::Items(number) | Kind::Rank(number) | Kind::Search(number) => {
                let Some((a, b)) = self.plan.chooses[number].scored.as_ref().and_then(|s| s.dot) else {
                    return Ok(Vec::new());
                };
                let mut bound = vec![(4, self.operand(b)?.0)];
                if !matches!(a.rows, OperandRows::Tensor(_)) {
                    bound.push((3, self.operand(a)?.0));
                }
                bound
            }
            Kind::Energy(_) => vec![(3, self.own_tokens(Of::Q)?.0), (4, self.own_tokens(Of::K)?.0)],
            Kind::Tasks(stage) => self.tasks.get(stage).map(|(_, size)| (6, Bound::whole(size))).into_iter().collect(),
            Kind::Spread => {
                let (buffers, spec, rows) = (self.on.buffers, self.on.spec, &self.window.rows[2]);
                let view = |buffer, row: usize| {
                    let size =
                        ((rows.len() * row) as u64).max(16).min(wgpu::Buffer::size(buffer) - (rows.start * row) as u64);
                    Bound { buffer, offset: (rows.start * row) as u64, size: Some(size) }
                };
                let mut bound =
                    vec![(6, view(buffers.out, spec.value_pitch() * spec.output.size())), (7, view(buffers.lse, 4))];
                bound.extend(self.stood.as_ref().map(|stood| (3, Bound::whole(stood))));
                bound
            }
            _ => Vec::new(),
        })
    }

    /// Heads of tokens that an operand is made of.
    fn all_read(&self, operand: Operand, number: usize) -> Vec<(usize, usize)> {
        let heads = &self.operands[number].heads;
        heads
            .iter()
            .flat_map(|&(item, head)| self.mean_over(operand, head).into_iter().map(move |h| (item, h)))
            .collect()
    }

    /// Rows that a level is made of, and the first of them.
    fn source(&self, parent: Option<LevelId>, of: Of, level: LevelId) -> Result<(Bound<'_>, usize), LaunchError> {
        let program = &*self.plan.program;
        match parent.and_then(|l| choose::origin(program, l, derived(of))) {
            Some(origin) => Ok((Bound::whole(&self.levels[&(origin.0, of)].buffer), 0)),
            None => {
                let heads = &self.levels[&(level.0, of)].heads;
                let read: Vec<(usize, usize)> = heads.iter().map(|&head| self.token_head(level, of, head)).collect();
                self.tokens(of, &read)
            }
        }
    }

    /// Batch item and head of the tensor that a head of a level is made of.
    fn token_head(&self, level: LevelId, of: Of, (item, head): (usize, usize)) -> (usize, usize) {
        match of {
            _ if !self.by_output(level, of) => (item, head),
            Of::Q => (item, self.on.heads.0[head]),
            _ => (item, self.on.heads.1[head]),
        }
    }

    /// Rows of an operand of a product, and the first of them where they are tokens.
    fn operand(&self, operand: Operand) -> Result<(Bound<'_>, usize), LaunchError> {
        if let Some(number) = prepared(self.plan).iter().position(|o| *o == operand) {
            return Ok((Bound::whole(&self.operands[number].buffer), 0));
        }
        let of = if of_queries(operand) { Of::Q } else { Of::K };
        match self.origin(operand, of) {
            Some(level) => Ok((Bound::whole(&self.levels[&(level.0, of)].buffer), 0)),
            None => self.own_tokens(of),
        }
    }

    /// The window of a tensor that has the rows which the jobs read, and its first row.
    fn own_tokens(&self, of: Of) -> Result<(Bound<'_>, usize), LaunchError> {
        let heads: Vec<(usize, usize)> = self.window.jobs.clone().map(|job| self.own_head(of, job)).collect();
        self.tokens(of, &heads)
    }

    /// Batch item and head of a tensor that a job reads.
    fn own_head(&self, of: Of, job: usize) -> (usize, usize) {
        let (item, head) = self.head(job);
        (item, if of == Of::Q { self.on.heads.0[head] } else { self.on.heads.1[head] })
    }

    /// The row at which an operand begins for a job, in what [`Making::operand`] binds.
    fn operand_row(&self, operand: Operand, job: usize) -> Result<usize, LaunchError> {
        let head = self.head(job);
        if let Some(number) = prepared(self.plan).iter().position(|o| *o == operand) {
            return self.operands[number].row(self.mean_of(operand, head));
        }
        let of = if of_queries(operand) { Of::Q } else { Of::K };
        match self.origin(operand, of) {
            Some(level) => self.levels[&(level.0, of)].row(self.reads(level, of, head)),
            None => Ok(self.token_row(of, self.own_head(of, job)) - self.operand(operand)?.1),
        }
    }

    /// Fields of a job of a stage that attends, which its environment does not know.
    fn special(&self, reads: Reads, job: usize, field: Field) -> Option<i64> {
        let row = |level: Option<LevelId>, of: Of| {
            let level = pooled_in(self.plan, level?, of)?;
            let block = self.levels.get(&(level.0, of))?;
            i64::try_from(block.row(self.reads(level, of, self.head(job))).ok()?).ok()
        };
        match field {
            Field::QRow => row(reads.q, Of::Q),
            Field::KRow => row(reads.kv, Of::K),
            Field::VRow => {
                row(reads.kv, Of::V).or_else(|| i64::try_from(self.on.places[job].k - self.window.rows[1].start).ok())
            }
            Field::ORow => Some(self.stands.get(job - self.window.jobs.start)?.first as i64),
            _ => self.stand_field(job, field).or_else(|| self.table_field(job, field)),
        }
    }

    /// What a field says of the rows in place of queries.
    fn stand_field(&self, job: usize, field: Field) -> Option<i64> {
        let stand = self.stands.get(job - self.window.jobs.start)?;
        let found = match field {
            Field::Stand => stand.at,
            Field::StandRoom => stand.room,
            Field::Own("branches") => stand.branches,
            Field::Own("first_stood") => stand.first,
            Field::Own("most_groups") => self.on.gpu.limits.max_compute_workgroups_per_dimension as usize,
            _ => return None,
        };
        i64::try_from(found).ok()
    }

    /// What a field says of a table that the launch makes.
    fn table_field(&self, job: usize, field: Field) -> Option<i64> {
        let (Field::DrawData(n) | Field::DrawCount(n) | Field::DrawRows(n) | Field::DrawFirst(n)) = field else {
            return None;
        };
        let program = &*self.plan.program;
        let (number, choose, table) = self.plan.chooses.iter().enumerate().find_map(|(number, choose)| {
            let tables = &program.select(choose.select).tables;
            Some((number, choose, tables.iter().position(|d| d.0 == n)?))
        })?;
        let setup = &self.setups[job][number];
        let (rows, capacity) = (setup.stands.len(), setup.capacity);
        let at = self.tables[job - self.window.jobs.start][number] + table * rows * (capacity + 1);
        i64::try_from(match field {
            Field::DrawData(_) => at,
            Field::DrawCount(_) => capacity,
            Field::DrawRows(_) => rows,
            _ => return Some(first_of(program, choose, setup)),
        })
        .ok()
    }

    /// The jobs of a pass.
    fn jobs(&mut self, pass: &Pass) -> Result<PassJobs, LaunchError> {
        let mut words = std::mem::take(&mut self.words);
        let made = match pass.kind {
            Kind::Pool { pool, of } => self.pool_jobs(pass, pool, of, &mut words),
            Kind::Operand(number) => self.operand_jobs(pass, number, &mut words),
            Kind::Items(n)
            | Kind::Rank(n)
            | Kind::Fill(n)
            | Kind::Reach(n)
            | Kind::Write(n)
            | Kind::Search(n)
            | Kind::Energy(n) => self.choice_jobs(pass, n, &mut words),
            Kind::Stand | Kind::Tasks(_) | Kind::Spread => self.stand_jobs(pass, &mut words),
            Kind::Grid { choose, .. } => self.choice_jobs(pass, choose, &mut words),
        };
        self.words = words;
        made
    }

    fn pool_jobs(&self, pass: &Pass, pool: usize, of: Of, words: &mut Words) -> Result<PassJobs, LaunchError> {
        let program = &*self.plan.program;
        let id = self.plan.pools[pool].level;
        let level = program.level(id);
        let block = &self.levels[&(id.0, of)];
        let mut jobs = PassJobs { count: block.heads.len(), ..PassJobs::default() };
        let source_row = |of: Of, (item, head): (usize, usize)| -> Result<usize, LaunchError> {
            match level.parent.and_then(|l| choose::origin(program, l, derived(of))) {
                Some(origin) if self.by_output(origin, of) => self.levels[&(origin.0, of)].row((item, head)),
                Some(origin) => self.levels[&(origin.0, of)].row(self.token_head(id, of, (item, head))),
                None => {
                    let own = self.token_head(id, of, (item, head));
                    Ok(self.token_row(of, own) - self.source(level.parent, of, id)?.1)
                }
            }
        };
        for &head in &block.heads {
            let own = self.slots_head(id, head);
            let slots = &self.slots[&(own, id.0, of == Of::Q)];
            jobs.rows = jobs.rows.max(slots.len());
            for &field in &pass.fields {
                let Field::Own(name) = field else { continue };
                let value = match name {
                    "rows" => slots.len() as i64,
                    "source" => source_row(of, head)? as i64,
                    "made" => block.row(head)? as i64,
                    "members" => i64::from(words.list(&begins(&slots.members, is_listed(program, id)))?),
                    "lists" => match &slots.members {
                        Members::Lists { rows, .. } => i64::from(words.list(rows)?),
                        Members::Ranges(_) => 0,
                    },
                    "places" => match &slots.members {
                        Members::Lists { places, .. } => i64::from(words.list(places)?),
                        Members::Ranges(_) => 0,
                    },
                    "weights" | "weight_count" => {
                        let Pooling::Weighted(tensor) = level.pool else { continue };
                        if name == "weights" {
                            value(program, self.env(self.job_of(own)), Field::Tensor(tensor.0), words)?
                        } else {
                            let tensors = &self.env(self.job_of(own)).tensors;
                            tensors.get(tensor.0 as usize).map_or(1, |t| t.data.len().max(1)) as i64
                        }
                    }
                    "first_block" | "first_position" => {
                        let Pooling::Quantised { block, .. } = level.pool else { continue };
                        let env = self.env(self.job_of(own));
                        let first = if of == Of::Q { env.q_start } else { env.k_start };
                        if name == "first_block" { first / block } else { first }
                    }
                    "keys_source" => source_row(Of::K, head)? as i64,
                    "queries_made" | "queries_first" | "queries_end" => {
                        let queries = &self.levels[&(id.0, Of::Q)];
                        let first = queries.first.get(&own).copied().unwrap_or(0);
                        match name {
                            "queries_made" => queries.row(self.reads(id, Of::Q, head))? as i64,
                            "queries_first" => first,
                            _ => first + self.slots[&(own, id.0, true)].len() as i64,
                        }
                    }
                    _ => return Err(LaunchError::Data(format!("`{name}` is not known to a level"))),
                };
                jobs.push(value)?;
            }
        }
        let pitch = if of == Of::V { self.on.spec.value_pitch() } else { self.on.spec.pitch() };
        let softmax = matches!(level.pool, Pooling::SoftmaxMean) && of == Of::V;
        if let Pooling::Quantised { block, .. } = level.pool {
            // Rows are blocks; the first may be cut, and the last.
            let block = usize::try_from(block).unwrap_or(usize::MAX);
            jobs.rows = if jobs.rows == 0 { 0 } else { jobs.rows.div_ceil(block) + 1 };
            jobs.groups = jobs.count * jobs.rows;
            return Ok(jobs);
        }
        let tasks = jobs.count * jobs.rows;
        jobs.groups = if softmax { tasks } else { (tasks * pitch / 4).div_ceil(THREADS) };
        Ok(jobs)
    }

    /// The jobs of a pass over what stands in place of queries.
    fn stand_jobs(&self, pass: &Pass, words: &mut Words) -> Result<PassJobs, LaunchError> {
        let program = &*self.plan.program;
        let (branches, room) = self.most_stands();
        let mut jobs = PassJobs { count: self.window.jobs.len(), rows: branches, ..PassJobs::default() };
        for job in self.window.jobs.clone() {
            let env = self.env(job);
            let parts = match &self.plan.rows {
                Some(InPlace::Slots(pooled)) if pass.kind == Kind::Spread => {
                    Some(inplace::of_slots(program, env, *pooled).map_err(LaunchError::Data)?)
                }
                _ => None,
            };
            for &field in &pass.fields {
                let list = |list: Vec<u32>, words: &mut Words| words.list(&list).map(i64::from);
                let value = match (field, &parts) {
                    (Field::ORow, _) => (self.on.places[job].o - self.window.rows[2].start) as i64,
                    (Field::Own("parts_begin"), Some(parts)) => list(parts.0.clone(), words)?,
                    (Field::Own("parts_rows"), Some(parts)) => list(parts.1.iter().map(|p| p.0).collect(), words)?,
                    (Field::Own("parts_weights"), Some(parts)) => {
                        list(parts.1.iter().map(|p| p.1.to_bits()).collect(), words)?
                    }
                    _ => match self.stand_field(job, field).or_else(|| self.table_field(job, field)) {
                        Some(value) => value,
                        None => value(program, env, field, words)?,
                    },
                };
                jobs.push(value)?;
            }
            if pass.kind == Kind::Spread {
                jobs.rows = self.on.shape.n_q;
            }
        }
        jobs.groups = match pass.kind {
            Kind::Tasks(stage) => {
                let at = self.tasks.get(stage).map_or(0, |(at, _)| *at);
                jobs.uniform = Some([at, room.div_ceil(self.plan.stages[stage].tile.q)]);
                1
            }
            Kind::Spread => (jobs.count * jobs.rows * self.on.spec.value_pitch() / 4).div_ceil(THREADS),
            _ => jobs.count * branches,
        };
        Ok(jobs)
    }

    fn operand_jobs(&self, pass: &Pass, number: usize, words: &mut Words) -> Result<PassJobs, LaunchError> {
        let operand = prepared(self.plan)[number];
        let of = if of_queries(operand) { Of::Q } else { Of::K };
        let block = &self.operands[number];
        let mut jobs = PassJobs { count: block.heads.len(), rows: block.rows, ..PassJobs::default() };
        for &(item, head) in &block.heads {
            let over = self.mean_over(operand, head);
            let mut rows = Vec::with_capacity(over.len());
            for &h in &over {
                let row = match self.origin(operand, of) {
                    Some(level) => self.levels[&(level.0, of)].row((item, h))?,
                    None => self.token_row(of, (item, h)) - self.tokens(of, &self.all_read(operand, number))?.1,
                };
                rows.push(row as u32);
            }
            for &field in &pass.fields {
                let value = match field {
                    Field::Own("rows") => block.rows as i64,
                    Field::Own("made") => block.row((item, head))? as i64,
                    Field::Own("heads_read") => i64::from(words.list(&rows)?),
                    _ => rows.len() as i64,
                };
                jobs.push(value)?;
            }
        }
        jobs.groups = (jobs.count * jobs.rows * self.on.spec.pitch() / 4).div_ceil(THREADS);
        Ok(jobs)
    }

    fn choice_jobs(&self, pass: &Pass, number: usize, words: &mut Words) -> Result<PassJobs, LaunchError> {
        let choose = &self.plan.chooses[number];
        let program = &*self.plan.program;
        let recipe = choose.scored.as_ref().map(Recipe::new);
        let mut jobs = PassJobs { count: self.window.jobs.len(), ..PassJobs::default() };
        for job in self.window.jobs.clone() {
            let setup = &self.setups[job][number];
            let env = self.env(job);
            let (places, end) = setup.grid_places(choose);
            let base = self.work[job - self.window.jobs.start][number];
            let pairs = setup.stands.len() * count(&setup.slots);
            let last = setup.grids.len().saturating_sub(1);
            // The grid that is read, the grid that is made.
            let (from, to) = match pass.kind {
                Kind::Grid { grid, .. } => (grid, grid + 1),
                _ => (last, 0),
            };
            let of_grid = |n: usize| setup.grids.get(n).copied().unwrap_or((0, 0));
            let at_grid = |n: usize| (base + places.get(n).copied().unwrap_or(0)) as i64;
            let items = setup.items.as_ref();
            let rows = match pass.kind {
                Kind::Items(_) => items.map_or(0, |i| i.numbers.len()),
                Kind::Energy(_) => setup.energy_parts(),
                Kind::Grid { how: How::Queries, .. } => of_grid(to).0,
                Kind::Grid { .. } => of_grid(from).0,
                _ => setup.stands.len(),
            };
            let tasks = match pass.kind {
                Kind::Grid { how: How::Queries, .. } => rows * of_grid(from).1,
                Kind::Fill(_) => pairs,
                _ => rows,
            };
            jobs.rows = jobs.rows.max(tasks);
            let batch: Option<(&Batch, Index)> = recipe.as_ref().map(|r| match pass.kind {
                Kind::Grid { grid, .. } => (&r.grids[grid].1, r.slots[grid]),
                _ => (&r.items, r.first.map_or(choose.scored.as_ref().map_or(Index::One, |s| s.items), |f| f.1)),
            });
            let width = match pass.kind {
                Kind::Items(_) => items.map_or(0, |i| i.width),
                _ => of_grid(from).1,
            };
            let candidates = if matches!(pass.kind, Kind::Items(_)) { width } else { count(&setup.slots) };
            jobs.room = jobs.room.max(room(self.plan, pass.kind, candidates));
            for &field in &pass.fields {
                if let Some(value) = self.table_field(job, field) {
                    jobs.push(value)?;
                    continue;
                }
                let Field::Own(name) = field else {
                    jobs.push(value(program, env, field, words)?)?;
                    continue;
                };
                let missing = || LaunchError::Data(format!("`{name}` is not known to a selection"));
                let fold = || -> Result<(Vec<u32>, Vec<u32>), LaunchError> {
                    let (batch, of) = batch.ok_or_else(missing)?;
                    let (_, into) = batch.keys.ok_or_else(missing)?;
                    let slot_of = candidates_of(program, of, into, env).map_err(LaunchError::Data)?;
                    let slots = count(&slots::candidates(program, into, env).map_err(said)?);
                    let (begin, list) = inverse(Some(&slot_of), slot_of.len(), slots);
                    Ok((begin.into_iter().map(|b| b as u32).collect(), list))
                };
                let of_items = || -> Result<(Vec<u32>, Vec<u32>), LaunchError> {
                    let items = items.ok_or_else(missing)?;
                    let (begin, list) = inverse(items.slot_of.as_deref(), items.keys.1 as usize, items.width);
                    Ok((begin.into_iter().map(|b| b as u32).collect(), list))
                };
                let list = |list: Option<&Vec<u32>>, words: &mut Words| -> Result<i64, LaunchError> {
                    Ok(i64::from(words.list(list.ok_or_else(missing)?)?))
                };
                let dot = || choose.scored.as_ref().and_then(|s| s.dot).ok_or_else(missing);
                let found = match name {
                    "rows" => rows as i64,
                    "width" => width as i64,
                    "into" => match pass.kind {
                        Kind::Grid { .. } => of_grid(to).1 as i64,
                        _ => of_grid(0).1 as i64,
                    },
                    "from_grid" => at_grid(from),
                    "to_grid" => at_grid(to),
                    "values" if setup.energy.is_some() => (base + setup.energy_parts() * self.on.spec.pitch()) as i64,
                    "sums" => base as i64,
                    "query_count" => setup.energy.as_ref().ok_or_else(missing)?[0].len() as i64,
                    "keys_counted" => setup.energy.as_ref().ok_or_else(missing)?[1].len() as i64,
                    "queries_listed" => list(setup.energy.as_ref().map(|e| &e[0]), words)?,
                    "keys_listed" => list(setup.energy.as_ref().map(|e| &e[1]), words)?,
                    "values" => at_grid(last),
                    "score_rows" => of_grid(last).0 as i64,
                    "stands" => list(items.map(|i| &i.ahead), words)?,
                    "numbers" => list(items.map(|i| &i.numbers), words)?,
                    "row_stands" => list(Some(&setup.stands), words)?,
                    "rows_from" | "keys_from" if setup.energy.is_some() => {
                        let of = if name == "rows_from" { Of::Q } else { Of::K };
                        (self.token_row(of, self.own_head(of, job)) - self.own_tokens(of)?.1) as i64
                    }
                    "rows_from" => self.operand_row(dot()?.0, job)? as i64,
                    "keys_from" => self.operand_row(dot()?.1, job)? as i64,
                    "listed" => list(items.and_then(|i| i.listed.as_ref()), words)?,
                    "first_key" => items.ok_or_else(missing)?.keys.0,
                    "key_count" => items.ok_or_else(missing)?.keys.1,
                    "slots_begin" => i64::from(words.list(&of_items()?.0)?),
                    "slots_list" => i64::from(words.list(&of_items()?.1)?),
                    "fold_begin" => i64::from(words.list(&fold()?.0)?),
                    "fold_list" => i64::from(words.list(&fold()?.1)?),
                    "groups" => {
                        let groups = items.and_then(|i| i.groups.as_ref());
                        let flat: Option<Vec<u32>> =
                            groups.map(|g| g.iter().flat_map(|&(a, b)| [a as u32, b as u32]).collect());
                        // Without a step that reduces queries nothing reads them.
                        list(Some(&flat.unwrap_or_default()), words)?
                    }
                    "row_of" => list(items.and_then(|i| i.row_of.as_ref()), words)?,
                    "candidate_of" => list(items.and_then(|i| i.candidate_of.as_ref()), words)?,
                    "first_slot" => setup.slots.start,
                    "slot_count" => count(&setup.slots) as i64,
                    "wanted" => setup.wanted,
                    "table" => self.tables[job - self.window.jobs.start][number] as i64,
                    "table_first" => first_of(program, choose, setup),
                    "capacity" => setup.capacity as i64,
                    "numbered" => (base + end) as i64,
                    "had_at" => (base + end + pairs) as i64,
                    "reaches" => (base + end + 2 * pairs) as i64,
                    _ => return Err(missing()),
                };
                jobs.push(found)?;
            }
        }
        jobs.groups = match pass.kind {
            Kind::Grid { how: How::Queries, .. } | Kind::Fill(_) => (jobs.count * jobs.rows).div_ceil(THREADS),
            Kind::Grid { how: How::Head, .. } | Kind::Reach(_) if jobs.rows > 0 => jobs.count,
            _ => jobs.count * jobs.rows,
        };
        Ok(jobs)
    }
}

/// The number of a table's first row.
fn first_of(program: &Program, choose: &Choose, setup: &Setup) -> i64 {
    if program.select(choose.select).rows == Index::One { 0 } else { setup.rows.start }
}

/// Words of a slot's members: where those of each begin, and of the last end, or both of each.
fn begins(members: &Members, listed: bool) -> Vec<u32> {
    match members {
        Members::Lists { begin, .. } => begin.iter().map(|&b| b as u32).collect(),
        Members::Ranges(ranges) if listed => ranges.iter().map(|r| r.0 as u32).collect(),
        Members::Ranges(ranges) => ranges.iter().flat_map(|&(a, b)| [a as u32, b as u32]).collect(),
    }
}

/// Words of memory that all workgroups of a pass have together, at most: 32 MiB.
const SLABS: usize = 8 << 20;

/// Jobs of a pass.
#[derive(Default)]
struct PassJobs {
    words: Vec<u32>,
    count: usize,
    /// Most rows of a job.
    rows: usize,
    /// Words that each workgroup needs.
    room: usize,
    /// What stands in the place of where memory of workgroups begins and how much each has.
    uniform: Option<[usize; 2]>,
    /// Workgroups that would have one task each.
    groups: usize,
}

impl PassJobs {
    fn push(&mut self, value: i64) -> Result<(), LaunchError> {
        let value = i32::try_from(value).map_err(|_| LaunchError::Data(format!("{value} does not fit 32 bits")))?;
        self.words.push(value as u32);
        Ok(())
    }
}

/// A window of a buffer.
#[derive(Clone)]
struct Bound<'a> {
    buffer: &'a wgpu::Buffer,
    offset: u64,
    size: Option<u64>,
}

impl Bound<'_> {
    fn whole(buffer: &wgpu::Buffer) -> Bound<'_> {
        Bound { buffer, offset: 0, size: None }
    }
}

/// A buffer that shaders read and write, if a binding can have it.
fn storage(gpu: &Gpu, bytes: u64, what: &str) -> Result<wgpu::Buffer, LaunchError> {
    let most = gpu.limits.max_storage_buffer_binding_size;
    if bytes > most {
        let limit = format!("bindings of more than {most} bytes; {what} would take {bytes}");
        return Err(LaunchError::Gpu(GpuError::Limit(limit)));
    }
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    buffer(gpu, bytes, usage, what)
}
