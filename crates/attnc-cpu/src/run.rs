//! Running kernels on tensors: checks of a launch, and its tasks over threads.
//!
//! The one idea: a task is (batch item, head, tile of queries of a stage) and owns its rows of the output, so that
//! the tasks of a stage may run in any order on any number of threads with the same result, bit for bit. A stage
//! begins when the one before it is done. With few queries several heads are one job and a job's keys several tasks
//! ([`crate::few`]). Everything that compiled code trusts is checked here first.
//! Nothing here knows of patterns or machine code.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use attnc_kernels::abi::{BK, BQ_MAX, DType, FEW, KvView, Support};
use attnc_pattern::env::{Env, MapData, in_class};
use attnc_pattern::expr::OrderId;
use attnc_pattern::order;
use attnc_pattern::prepare::needs_beside;
use attnc_pattern::program::MapKind;
use attnc_plan::choose::Chosen;
use attnc_plan::{FEW_QUERIES, Few, MAX_LEN, View};
use rustc_hash::FxHashMap;

use crate::compile::{CpuKernel, Uses};
use crate::dynamic::{self, HandedBack, Setups};
use crate::few::{Cuts, Fold, alike, cut, groups, most_pieces, partial_bytes, small_tensors};
use crate::inplace::Stand;
use crate::layout::{ALIGN, Bound, Ctx, Rows, Scratch, ScratchSize};
use crate::singles::{Head, Places, Singles};
use crate::tensor::{Layout, Tensor, TensorMut};

/// Classes of residues that go side by side: their rows share pages of memory, which a long class alone would look up
/// anew for every row.
const CLASS_RUN: usize = 16;

/// Heads that one kernel computes.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The kernel.
    pub kernel: &'a CpuKernel,
    /// Heads of the output, each at most once in a launch.
    pub heads: &'a [usize],
    /// What is known for each batch item and head, `envs[batch * heads.len() + i]` for `heads[i]`. The lengths
    /// `n_q` and `n_k` may be less than the rows of the tensors (padding); rows beyond `n_q` are written as
    /// empty, keys beyond `n_k` are not read.
    pub envs: &'a [Env<'a>],
    /// Of a head the first tiles of queries come first, instead of the last: where those have the longest rows.
    pub forward: bool,
}

/// Tensors of a launch and the means to run it.
#[derive(Debug)]
pub struct Launch<'a> {
    /// `[batch, query heads, queries, d]`
    pub q: Tensor<'a>,
    /// `[batch, KV heads, keys, d]`, of any element type.
    pub k: Tensor<'a>,
    /// `[batch, KV heads, keys, d_v]`, of any element type.
    pub v: Tensor<'a>,
    /// `[batch, heads, queries, d_v]`, of any element type. Heads of no part become 0.
    pub out: TensorMut<'a>,
    /// `[batch, heads, queries, 1]` of f32, if wanted. Heads of no part become -inf.
    pub lse: Option<TensorMut<'a>>,
    /// Head of `q` that each head of `out` reads.
    pub q_heads: &'a [usize],
    /// Head of `k` and `v` that each head of `out` reads.
    pub kv_heads: &'a [usize],
    /// Working memory, see [`workspace_bytes`]; with less of it fewer threads run. Its contents do not matter.
    pub workspace: &'a mut [u8],
    /// Threads to run on; `None` is the pool of the calling thread.
    pub pool: Option<&'a rayon::ThreadPool>,
    /// Parts run one after the other instead of side by side.
    pub apart: bool,
}

/// Why a launch was refused. Nothing has been written then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// A tensor has another shape than those before it ask for.
    Shape {
        /// `k`, `v`, `out` or `lse`.
        tensor: &'static str,
        /// What was expected; `None` for extents that are free.
        expected: [Option<usize>; 4],
        /// What it has.
        found: [usize; 4],
    },
    /// The log-sum-exp is not of f32.
    LseType {
        /// What it is of.
        found: DType,
    },
    /// Queries or values of no elements.
    NoDim,
    /// A list of heads or environments has the wrong length.
    Count {
        /// Which.
        list: &'static str,
        /// What was expected.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A head that does not exist.
    Head {
        /// The list that names it.
        list: &'static str,
        /// The head.
        head: usize,
        /// How many there are.
        heads: usize,
    },
    /// A head of two parts.
    HeadTwice {
        /// The head.
        head: usize,
    },
    /// An environment that does not fit the launch or the kernel.
    Env {
        /// Batch item.
        batch: usize,
        /// Head.
        head: usize,
        /// What was expected and what was found, in words.
        what: String,
    },
    /// Working memory for not even one thread.
    Workspace {
        /// Bytes for one thread.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row attends to nothing under `empty = error`; the first such row.
    EmptyRow {
        /// Batch item.
        batch: usize,
        /// Head.
        head: usize,
        /// Row of queries, from 0.
        row: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Shape { tensor, expected, found } => {
                let shown = expected.map(|n| n.map_or("_".to_owned(), |n| n.to_string())).join(", ");
                write!(f, "`{tensor}` should have shape [{shown}], but has {found:?}")
            }
            RunError::LseType { found } => write!(f, "`lse` should be of f32, but is of {found:?}"),
            RunError::NoDim => write!(f, "the dimensions of queries and of values should be at least 1"),
            RunError::Count { list, expected, found } => {
                write!(f, "`{list}` should have {expected} elements, but has {found}")
            }
            RunError::Head { list, head, heads } => {
                write!(f, "`{list}` names head {head}, but there are {heads}")
            }
            RunError::HeadTwice { head } => write!(f, "head {head} is assigned twice"),
            RunError::Env { batch, head, what } => write!(f, "batch item {batch}, head {head}: {what}"),
            RunError::Workspace { needed, found } => {
                write!(f, "one thread needs {needed} bytes of working memory, but there are {found}")
            }
            RunError::EmptyRow { batch, head, row } => {
                write!(f, "query row {row} of batch item {batch}, head {head} attends to nothing")
            }
        }
    }
}

impl std::error::Error for RunError {}

/// Bytes of working memory with which [`run`] uses `threads` threads, for at most `keys` keys.
#[must_use]
pub fn workspace_bytes(parts: &[Part<'_>], keys: usize, d: usize, d_v: usize, threads: usize) -> usize {
    let Ok(setups) = dynamic::setups(parts) else { return usize::MAX };
    let size = scratch_size(parts, &setups, keys, d, d_v).bytes();
    let before = dynamic::bytes(parts, &setups, d, d_v).map(|(bytes, _)| bytes);
    let threads = size.and_then(|one| one.checked_mul(threads.max(1))?.checked_add(ALIGN));
    let several = |p: &&Part<'_>| p.kernel.stages() > 1 && p.kernel.plan().rows.is_none();
    let envs = parts.iter().filter(several).flat_map(|p| p.envs);
    let between = envs.map(|e| between_bytes(e.n_q, d_v)).try_fold(0_usize, |all, one| all.checked_add(one?));
    let pieces = pieces_bytes(parts, keys, d_v);
    let parts = [threads, between, pieces, before];
    parts.into_iter().try_fold(0_usize, |all, part| all.checked_add(part?)).unwrap_or(usize::MAX)
}

/// Bytes for the results of pieces of keys: of all heads, or where lengths are not known, of one job at a time.
fn pieces_bytes(parts: &[Part<'_>], keys: usize, dv: usize) -> Option<usize> {
    let mut total = 0_usize;
    for part in parts {
        let plan = part.kernel.plan();
        let bytes = |few: Option<Few>, n_q: i64, n_k: i64| {
            let (n_q, pieces) = (usize::try_from(n_q).ok()?, most_pieces(plan, n_k));
            match few {
                Some(Few::Together) if pieces > 1 => partial_bytes(pieces, n_q, dv),
                Some(Few::Apart) if pieces > 1 => partial_bytes(pieces, 1, dv)?.checked_mul(n_q),
                _ => Some(0),
            }
        };
        if part.envs.is_empty() {
            // As many as a tile folds.
            let lanes = plan.stages.iter().map(|s| s.tile.q).max().unwrap_or(0) as i64;
            total = total.max(bytes(plan.few(1), lanes, keys as i64)?);
        }
        for env in part.envs {
            total = total.checked_add(bytes(plan.few(env.n_q), env.n_q, env.n_k)?)?;
        }
    }
    Some(total)
}

/// Bytes of working memory beyond [`workspace_bytes`] with which [`run`] converts keys and values of a launch once, and
/// not for each tile of queries: 0 where they are read where they lie, at most 32 MiB.
#[must_use]
pub fn conversion_of(q: &Tensor<'_>, k: &Tensor<'_>, v: &Tensor<'_>, threads: usize) -> usize {
    let [batch, heads, keys, _] = k.shape();
    conversion_bytes(q.shape()[2], batch.saturating_mul(heads), keys, singles_dims(k, v), threads)
}

/// As [`conversion_of`], of `heads` heads of all batch items; `dims` are the elements of a row of K and of V.
#[must_use]
pub fn conversion_bytes(queries: usize, heads: usize, keys: usize, dims: [usize; 2], threads: usize) -> usize {
    if queries <= FEW { 0 } else { Places::new(keys, dims).wanted(heads, threads, usize::MAX) }
}

/// Elements of a row of K and of V; 0 of those that are read where they lie.
fn singles_dims(k: &Tensor<'_>, v: &Tensor<'_>) -> [usize; 2] {
    [k, v].map(|t| if t.layout.shape.contains(&0) || kv_view(t, 0, 0).in_place() { 0 } else { t.layout.shape[3] })
}

impl CpuKernel {
    /// Bytes of working memory for what a head of `n_q` queries keeps between stages; 0 where there is one stage.
    #[must_use]
    pub fn between_bytes(&self, n_q: usize, d_v: usize) -> usize {
        match self.stages() {
            0 | 1 => 0,
            _ => i64::try_from(n_q).ok().and_then(|n_q| between_bytes(n_q, d_v)).unwrap_or(usize::MAX),
        }
    }
}

/// Bytes of what is kept between stages for `n_q` queries of a head: output and log-sum-exp as singles.
fn between_bytes(n_q: i64, dv: usize) -> Option<usize> {
    dv.checked_add(1)?
        .checked_mul(usize::try_from(n_q).ok()?)?
        .checked_mul(size_of::<f32>())?
        .checked_next_multiple_of(ALIGN)
}

/// What every kernel of the launch can work in.
fn scratch_size(parts: &[Part<'_>], setups: &Setups, keys: usize, d: usize, dv: usize) -> ScratchSize {
    let tiles = parts.iter().flat_map(|p| &p.kernel.plan().stages).map(|s| s.tile.q);
    // A numbering by orders may have keys that the launch has not.
    let numbered = parts.iter().flat_map(|p| {
        let plan = p.kernel.plan();
        let orders = plan.stages.iter().filter_map(|s| match s.view {
            View::Ordered { keys, .. } => Some(keys),
            _ => None,
        });
        orders.flat_map(move |order| p.envs.iter().map(move |env| order::positions(&plan.program, order, env)))
    });
    let keys = numbered.fold(keys, usize::max);
    let dynamic = parts.iter().any(|p| p.kernel.plan().is_dynamic());
    let bq = tiles.max().unwrap_or(0).max(if dynamic { BQ_MAX } else { 0 });
    let more = dynamic::bytes(parts, setups, d, dv).map_or(usize::MAX, |(_, more)| more);
    let keys = i64::try_from(keys).unwrap_or(i64::MAX).max(dynamic::most_keys(parts, setups));
    // SAFETY: a function of one number.
    let marks = unsafe { (Support::get().marks_bytes)(keys) } as usize;
    ScratchSize { bq, d, dv, marks, more }
}

/// Computes every head of a launch.
///
/// # Errors
/// If anything does not fit; nothing is written then.
pub fn run(parts: &[Part<'_>], launch: &mut Launch<'_>) -> Result<(), RunError> {
    run_noting(parts, launch, None)
}

/// As [`run`], and hands back what the selections of all heads chose, and of levels and scores what the environments ask
/// for.
///
/// # Errors
/// As for [`run`].
pub fn run_chosen(parts: &[Part<'_>], launch: &mut Launch<'_>) -> Result<(Vec<Chosen>, HandedBack), RunError> {
    let mut noted = (Vec::new(), HandedBack::default());
    run_noting(parts, launch, Some(&mut noted))?;
    Ok(noted)
}

fn run_noting(
    parts: &[Part<'_>],
    launch: &mut Launch<'_>,
    noted: Option<&mut (Vec<Chosen>, HandedBack)>,
) -> Result<(), RunError> {
    lay_out_and_run(parts, launch, noted).map(drop)
}

/// As [`run`], and hands back what it made for it.
pub(crate) fn lay_out_and_run<'a>(
    parts: &'a [Part<'_>],
    launch: &mut Launch<'_>,
    noted: Option<&mut (Vec<Chosen>, HandedBack)>,
) -> Result<Laid<'a>, RunError> {
    let shape = check_shapes(launch)?;
    let assigned = check_heads(parts, launch, &shape)?;
    for part in parts {
        for (batch, (i, &head)) in (0..shape.batch).flat_map(|b| part.heads.iter().enumerate().map(move |h| (b, h))) {
            let env = &part.envs[batch * part.heads.len() + i];
            let refuse = |what| RunError::Env { batch, head, what };
            check_env(env, part.kernel, &shape, head).map_err(refuse)?;
        }
    }
    let mut bounds: Vec<Vec<Bound<'_>>> = parts.iter().map(|p| p.envs.iter().map(Bound::new).collect()).collect();
    let mut jobs = jobs(parts, &bounds, launch, &shape)?;

    let setups = dynamic::setups(parts)?;
    let size = scratch_size(parts, &setups, shape.n_k, shape.d, shape.dv);
    let found = launch.workspace.len();
    let short = || RunError::Workspace { needed: workspace_bytes(parts, shape.n_k, shape.d, shape.dv, 1), found };
    let mut memory = Memory::of(launch.workspace, size);
    give_between(&mut jobs, &mut memory).ok_or_else(short)?;
    if parts.iter().any(|p| p.kernel.plan().is_dynamic()) {
        let made = dynamic::make(parts, &mut bounds, launch, &mut jobs, &setups, &mut memory)?;
        let made = made.ok_or_else(short)?;
        if let Some((chosen, handed_back)) = noted {
            *handed_back = made;
            for job in &jobs {
                // SAFETY: the tables have been made.
                let tables = unsafe { dynamic::tables_of(job.kernel.plan(), &bounds[job.part][job.env]) };
                let of = |(draw, table)| Chosen { batch: job.batch, head: job.head, draw, table };
                chosen.extend(tables.into_iter().map(of));
            }
        }
    }
    cut_jobs(&mut jobs, parts, &memory, shape.dv);
    let mut rounds = Vec::new();
    give_pieces(&mut jobs, &mut memory, launch.pool, &mut rounds).ok_or_else(short)?;
    let heads = share_singles(&mut jobs, launch);
    give_singles(&heads, &mut memory, launch.pool);
    find_empty_row(&jobs, &memory, launch.pool)?;
    let mut laid = Laid {
        turns: turns(&jobs),
        jobs,
        bounds,
        blank: blank(&shape, &assigned, parts),
        size,
        stages: parts.iter().map(|p| p.kernel.stages()).max().unwrap_or(0),
        parts: parts.len(),
        rounds,
        heads,
        before: Vec::new(),
    };
    laid.compute(launch, &memory);
    Ok(laid)
}

/// A launch laid out: all that does not change from one launch to the next like it.
pub(crate) struct Laid<'a> {
    pub(crate) jobs: Vec<Job<'a>>,
    /// What the jobs point to.
    pub(crate) bounds: Vec<Vec<Bound<'a>>>,
    /// Rows that no task writes: of a batch item and head, from a row on.
    blank: Vec<(usize, usize, usize)>,
    size: ScratchSize,
    /// Most stages of a part.
    stages: usize,
    parts: usize,
    /// Jobs of each round of the first stage.
    rounds: Vec<Range<usize>>,
    /// Heads of K and V that tasks share as singles.
    heads: Vec<Arc<Head>>,
    /// The jobs in the order of [`turns`].
    turns: Vec<usize>,
    /// A list for [`Tasks`].
    before: Vec<(usize, usize)>,
}

impl Laid<'_> {
    /// Runs again; the jobs point to the tensors of `launch`. Allocates nothing. `None` if the workspace is too small:
    /// nothing is written then.
    pub(crate) fn again(&mut self, launch: &mut Launch<'_>) -> Option<()> {
        let mut memory = Memory::of(launch.workspace, self.size);
        give_between(&mut self.jobs, &mut memory)?;
        self.jobs.iter_mut().filter_map(|j| j.cuts.as_mut()).for_each(Cuts::renew);
        give_pieces(&mut self.jobs, &mut memory, launch.pool, &mut self.rounds)?;
        give_singles(&self.heads, &mut memory, launch.pool);
        self.compute(launch, &memory);
        Some(())
    }

    /// How many tiles of keys each task of the first stage may visit, in the order in which tasks begin.
    #[cfg(test)]
    pub(crate) fn dealt(&mut self) -> Vec<i64> {
        let mut before = Vec::new();
        let tasks = Tasks::new(&self.jobs, self.turns.iter().copied(), 0, Job::tasks, &mut before);
        let tiles = |(at, task): (usize, usize)| {
            let job = &self.jobs[at];
            let end = (job.ctx.n_k as usize).div_ceil(attnc_kernels::abi::BK) as i64;
            job.cuts.as_ref().map_or(end, |cuts| cuts.at()[task].tiles.end.min(end) - cuts.at()[task].tiles.start)
        };
        (0..tasks.total).map(|i| tiles(tasks.nth(i))).collect()
    }

    /// Does every task.
    fn compute(&mut self, launch: &mut Launch<'_>, memory: &Memory) {
        let Laid { jobs, blank, rounds, heads, turns, before, .. } = self;
        clear(launch, blank);
        heads.iter().for_each(|head| head.renew());
        for job in &*jobs {
            if let Some(head) = &job.singles {
                head.expect(job.all_tasks());
            }
        }
        let all = 0..jobs.len();
        let (groups, stages) = (if launch.apart { self.parts } else { 1 }, self.stages);
        for (turn, stage) in (0..groups).flat_map(|turn| (0..stages).map(move |stage| (turn, stage))) {
            // All pieces of a job that is cut are tasks of the first stage.
            for round in if stage == 0 { &rounds[..] } else { std::slice::from_ref(&all) } {
                let now = |job: &Job<'_>| !launch.apart || job.part == turn;
                let of_turn = |job: &Job<'_>, stage| if now(job) { job.tasks(stage) } else { 0 };
                let of_round = turns.iter().copied().filter(|at| round.contains(at));
                let tasks = Tasks::new(jobs, of_round, stage, of_turn, before);
                tasks.each(memory, launch.pool, |at, task, scratch, marks| jobs[at].run(stage, task, scratch, marks));
            }
        }
        let standing: Vec<(&Job<'_>, &Stand, usize)> = jobs
            .iter()
            .filter_map(|job| Some((job, job.stand.as_ref()?)))
            .flat_map(|(job, stand)| (0..stand.queries()).map(move |tile| (job, stand, tile)))
            .collect();
        parallel(memory, launch.pool, standing.len(), |i, scratch, _| {
            let (job, stand, tile) = standing[i];
            // SAFETY: all stages are done, and tasks write the rows of queries apart.
            unsafe { stand.spread(&job.ctx, tile, scratch) };
        });
    }
}

/// Gives jobs of several stages memory for what is kept between them; `None` if there is too little, or none for a
/// scratch.
fn give_between(jobs: &mut [Job<'_>], memory: &mut Memory) -> Option<()> {
    // What stands in place of queries has memory of its own, and folded heads go through all stages at once.
    let several = |j: &&mut Job<'_>| j.kernel.stages() > 1 && j.kernel.plan().rows.is_none() && j.fold.is_none();
    for job in jobs.iter_mut().filter(several) {
        job.between = Some(Between::of(&job.ctx, memory)?);
    }
    (memory.slots() > 0 || jobs.iter().all(|j| j.tiles(0) == 0)).then_some(())
}

/// Cuts jobs of few queries and many keys.
fn cut_jobs(jobs: &mut [Job<'_>], parts: &[Part<'_>], memory: &Memory, dv: usize) {
    let mut marks = Marks::default();
    for at in 0..jobs.len() {
        let job = &jobs[at];
        let plan = job.kernel.plan();
        let few = match plan.few(job.ctx.n_q) {
            Some(Few::Together) => true,
            Some(Few::Apart) => job.fold.is_some(),
            None => false,
        };
        if !few || most_pieces(plan, job.ctx.n_k) < 2 || !job.kernel.knows_few() {
            continue;
        }
        let env = |job: &Job<'_>| &parts[job.part].envs[job.env];
        // Jobs of the classes of one group of heads follow one another.
        let known = jobs[..at].iter().rev().take(FEW_QUERIES as usize).find(|before| {
            let uses = job.kernel.uses();
            before.part == job.part
                && (before.query, before.fold.is_some()) == (job.query, job.fold.is_some())
                && before.moduli == job.moduli
                && !job.kernel.differs_by_head()
                && alike(env(before), env(job), uses)
        });
        let cuts = match known {
            Some(before) => before.cuts.as_ref().map_or_else(Vec::new, |cuts| cuts.at().to_vec()),
            None => {
                let mut cuts = Vec::new();
                for (stage, attend) in plan.stages.iter().enumerate() {
                    let size = ScratchSize { bq: attend.tile.q, ..memory.size };
                    let Some(mut scratch) = Scratch::cut(memory.base, size) else { return };
                    // Lanes begin with the queries of the first head.
                    let (ctx, _) = job.task(stage, 0);
                    marks.fit(&scratch, ctx.n_k);
                    // SAFETY: the launch has been checked, the scratch is that of no thread yet, and has marks.
                    unsafe {
                        job.kernel.mark_touched(stage, &ctx, &mut scratch);
                        cut(&scratch, stage, &mut cuts);
                    }
                }
                cuts
            }
        };
        let lanes = job.lanes();
        jobs[at].cuts = (cuts.len() > 1).then(|| Cuts::new(cuts, lanes, dv));
    }
}

/// Gives cut jobs memory for the results of their pieces, to as many at a time as there is memory for, and lists the jobs
/// of each round. `None` if one of them asks for more than there is beside a scratch.
fn give_pieces(
    jobs: &mut [Job<'_>],
    memory: &mut Memory,
    pool: Option<&rayon::ThreadPool>,
    rounds: &mut Vec<Range<usize>>,
) -> Option<()> {
    let wanted = |job: &Job<'_>| job.cuts.as_ref().map_or(Some(0), Cuts::bytes);
    let (mut most, mut total) = (0_usize, 0_usize);
    for job in &*jobs {
        let bytes = wanted(job)?;
        (most, total) = (most.max(bytes), total.saturating_add(bytes));
    }
    let threads = memory.stride.saturating_mul(threads_of(pool));
    let room = total.min(most.max(memory.left.saturating_sub(threads)));
    let base = memory.take(room)?;
    rounds.clear();
    let (mut first, mut used) = (0, 0);
    for (at, job) in jobs.iter_mut().enumerate() {
        let bytes = wanted(job)?;
        if used + bytes > room {
            rounds.push(first..at);
            (first, used) = (at, 0);
        }
        if let Some(cuts) = &mut job.cuts {
            cuts.give(base.wrapping_add(used));
        }
        used += bytes;
    }
    rounds.push(first..jobs.len());
    (most == 0 || memory.slots() > 0).then_some(())
}

/// Lets tasks share what they convert, where many read a head that is not read where it lies. Returns these heads.
fn share_singles(jobs: &mut [Job<'_>], launch: &Launch<'_>) -> Vec<Arc<Head>> {
    let places = Places::new(launch.k.shape()[2], singles_dims(&launch.k, &launch.v));
    let mut heads = Vec::new();
    if places.wanted(1, 1, usize::MAX) == 0 {
        return heads;
    }
    let of = |job: &Job<'_>| (job.batch, job.reads.1, job.ctx.n_k);
    let mut tasks = FxHashMap::<_, usize>::default();
    for job in jobs.iter().filter(|job| job.may_share()) {
        // Pieces read a tile of keys once for all of them.
        *tasks.entry(of(job)).or_default() += (0..job.kernel.stages()).map(|stage| job.tiles(stage)).sum::<usize>();
    }
    let mut known = FxHashMap::default();
    for job in jobs.iter_mut().filter(|job| job.may_share()) {
        if tasks[&of(job)] >= places.least_tasks() {
            let head = known.entry(of(job)).or_insert_with(|| {
                heads.push(Head::new(&places));
                heads[heads.len() - 1].clone()
            });
            job.singles = Some(head.clone());
        }
    }
    heads
}

/// Gives heads that are shared places in what is left of the memory beside scratches.
fn give_singles(heads: &[Arc<Head>], memory: &mut Memory, pool: Option<&rayon::ThreadPool>) {
    let Some(first) = heads.first() else { return };
    let threads = threads_of(pool);
    let room = memory.left.saturating_sub(memory.stride.saturating_mul(threads));
    let wanted = first.places().wanted(heads.len(), threads, room);
    let Some(base) = memory.take(wanted) else { return };
    // SAFETY: the memory was taken, and no task runs yet.
    unsafe { first.places().give(base, wanted) };
}

/// Threads of a pool, or of that of the calling thread.
fn threads_of(pool: Option<&rayon::ThreadPool>) -> usize {
    pool.map_or_else(rayon::current_num_threads, rayon::ThreadPool::current_num_threads)
}

/// Extents of a launch.
#[derive(Clone, Copy, Debug)]
struct Extents {
    batch: usize,
    heads: usize,
    n_q: usize,
    n_k: usize,
    d: usize,
    dv: usize,
}

fn check_shapes(launch: &Launch<'_>) -> Result<Extents, RunError> {
    let [batch, _, n_q, d] = launch.q.shape();
    let [_, kv_heads, n_k, _] = launch.k.shape();
    let [_, _, _, dv] = launch.v.shape();
    let [_, heads, _, _] = launch.out.shape();
    let expect = |tensor, expected: [Option<usize>; 4], found: [usize; 4]| {
        let fits = expected.iter().zip(found).all(|(e, f)| e.is_none_or(|e| e == f));
        if fits { Ok(()) } else { Err(RunError::Shape { tensor, expected, found }) }
    };
    expect("k", [Some(batch), None, None, Some(d)], launch.k.shape())?;
    expect("v", [Some(batch), Some(kv_heads), Some(n_k), None], launch.v.shape())?;
    expect("out", [Some(batch), None, Some(n_q), Some(dv)], launch.out.shape())?;
    if let Some(lse) = &launch.lse {
        expect("lse", [Some(batch), Some(heads), Some(n_q), Some(1)], lse.shape())?;
        if lse.dtype() != DType::F32 {
            return Err(RunError::LseType { found: lse.dtype() });
        }
    }
    if d == 0 || dv == 0 {
        return Err(RunError::NoDim);
    }
    Ok(Extents { batch, heads, n_q, n_k, d, dv })
}

/// Which heads have a part.
fn check_heads(parts: &[Part<'_>], launch: &Launch<'_>, shape: &Extents) -> Result<Vec<bool>, RunError> {
    let maps = [("q_heads", launch.q_heads, launch.q.shape()[1]), ("kv_heads", launch.kv_heads, launch.k.shape()[1])];
    for (list, map, heads) in maps {
        if map.len() != shape.heads {
            return Err(RunError::Count { list, expected: shape.heads, found: map.len() });
        }
        if let Some(&head) = map.iter().find(|&&h| h >= heads) {
            return Err(RunError::Head { list, head, heads });
        }
    }
    let mut assigned = vec![false; shape.heads];
    for part in parts {
        for &head in part.heads {
            let slot = assigned.get_mut(head);
            let slot = slot.ok_or(RunError::Head { list: "heads", head, heads: shape.heads })?;
            if std::mem::replace(slot, true) {
                return Err(RunError::HeadTwice { head });
            }
        }
        // Both factors are at most the extents of an existing tensor or slice.
        let expected = shape.batch * part.heads.len();
        if part.envs.len() != expected {
            return Err(RunError::Count { list: "envs", expected, found: part.envs.len() });
        }
    }
    Ok(assigned)
}

/// Checks all that compiled code takes from an environment.
fn check_env(env: &Env<'_>, kernel: &CpuKernel, shape: &Extents, head: usize) -> Result<(), String> {
    let within = |name: &str, value: i64, most: usize| match usize::try_from(value) {
        Ok(v) if v <= most => Ok(()),
        _ => Err(format!("{name} is {value}, but should be from 0 to {most}")),
    };
    let most = MAX_LEN as usize;
    within("n_q", env.n_q, shape.n_q.min(most))?;
    within("n_k", env.n_k, shape.n_k.min(most))?;
    within("the position of the first query", env.q_start, most - env.n_q as usize)?;
    within("the position of the first key", env.k_start, most - env.n_k as usize)?;
    for (name, value) in [("heads", env.heads), ("layer", env.layer), ("step", env.step)] {
        within(name, value, most)?;
    }
    if env.head != head as i64 {
        return Err(format!("the environment is for head {}", env.head));
    }
    if env.dim != shape.d as i64 {
        return Err(format!("dim is {}, but queries have {} elements", env.dim, shape.d));
    }
    check_data(env, kernel)
}

/// Checks the run-time data that a kernel uses.
fn check_data(env: &Env<'_>, kernel: &CpuKernel) -> Result<(), String> {
    let Uses { sizes, tensors, maps, draws, orders, positions, levels, docs, head: _ } = kernel.uses();
    let program = &kernel.plan().program;
    for &s in sizes {
        let name = &program.sizes[s].name;
        match env.sizes.get(s) {
            Some(0..=MAX_LEN) => {}
            Some(v) => return Err(format!("size `{name}` is {v}, but should be from 0 to {MAX_LEN}")),
            None => return Err(format!("size `{name}` is not given")),
        }
    }
    // What only serves that which the caller gives may be absent.
    let only = (!env.exchange.is_empty()).then(|| needs_beside(program, &[kernel.plan().attention], &env.exchange));
    let read = |t: usize| only.as_ref().is_none_or(|needs| needs.tensors.iter().any(|id| id.0 as usize == t));
    for &(t, rank) in tensors.iter().filter(|(t, _)| read(*t)) {
        let name = &program.tensors[t].name;
        let data = env.tensors.get(t).ok_or_else(|| format!("tensor `{name}` is not given"))?;
        let elements = data.dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        if data.dims.len() != rank || elements != Some(data.data.len()) {
            let (dims, found) = (&data.dims, data.data.len());
            return Err(format!("tensor `{name}` should have {rank} extents, but has {dims:?} for {found} elements"));
        }
    }
    let read = |m: usize| only.as_ref().is_none_or(|needs| needs.maps.iter().any(|id| id.0 as usize == m));
    for &m in maps.iter().filter(|m| read(**m)) {
        let map = &program.maps[m];
        let fits = match (env.maps.get(m), map.kind) {
            (Some(MapData::Dense { .. }), MapKind::Bool | MapKind::Blocks(_)) => true,
            (Some(MapData::Csr { indptr, indices }), MapKind::Csr) => {
                indptr.len() as i64 == env.n_q + 1
                    && indptr[0] == 0
                    && indptr.is_sorted()
                    && indptr.last().is_some_and(|&end| end as usize <= indices.len())
            }
            (Some(MapData::Csr { indptr, .. }), MapKind::Offsets) => !indptr.is_empty() && indptr.is_sorted(),
            _ => false,
        };
        if !fits {
            return Err(match map.kind {
                MapKind::Csr => format!(
                    "map `{}` should have {} ascending offsets from 0 to the number of its entries",
                    map.name,
                    env.n_q + 1
                ),
                _ => format!("map `{}` should be given as bytes", map.name),
            });
        }
    }
    for &d in draws {
        let table = env.draws.get(d).ok_or("a random choice has not been made")?;
        if table.count == 0 && !table.chosen.is_empty() {
            return Err("a random choice has entries but no count".to_owned());
        }
    }
    for &o in orders {
        if env.orders.get(o).is_none() {
            return Err(format!("order `{}` is not given", program.orders[o].name));
        }
    }
    for &o in positions {
        // Compiled code finds the array through that of orders.
        if env.orders.get(o).is_none() || env.positions.get(o).is_none() {
            return Err(format!("order `{}` or its inverse is not given", program.orders[o].name));
        }
    }
    for &l in levels {
        if env.levels.get(l).is_none() {
            return Err(format!("slots of level `{}` are not given", program.levels[l].name));
        }
    }
    if *docs
        && only.is_none_or(|needs| needs.docs)
        && (env.docs.is_empty() || !env.docs.is_sorted() || env.docs[0] != 0)
    {
        return Err("document offsets should ascend from 0".to_owned());
    }
    Ok(())
}

/// One (batch item, head) to compute, or several heads of few queries.
pub(crate) struct Job<'a> {
    pub(crate) kernel: &'a CpuKernel,
    pub(crate) ctx: Ctx,
    /// Rows in the order of each stage, where it has one of its own.
    listings: Vec<Option<Arc<Listing>>>,
    /// Modulus of each stage over classes; 1 of others.
    moduli: Vec<i64>,
    /// Where results are kept between stages, if there are several.
    between: Option<Between>,
    /// The heads, if there are several or their queries are computed as if there were.
    fold: Option<Fold>,
    /// Its keys in pieces, if they are cut.
    cuts: Option<Cuts>,
    /// Its keys and values as singles, if tasks share them.
    singles: Option<Arc<Head>>,
    /// What stands in place of its queries, once selections are made.
    pub(crate) stand: Option<Stand>,
    /// Place of the part, and in it of the (first head's) environment.
    pub(crate) part: usize,
    pub(crate) env: usize,
    /// Place of the (first) head in its part.
    pub(crate) place: usize,
    /// The first of its queries if it is folded, else 0.
    query: usize,
    pub(crate) batch: usize,
    /// The first head.
    pub(crate) head: usize,
    /// As [`Part::forward`].
    forward: bool,
    /// The heads of Q and of K and V that it reads.
    pub(crate) reads: (usize, usize),
    /// Keys and values of each stage that reads a level, and how many slots there are; empty without levels.
    pub(crate) keys: Vec<Option<(KvView, KvView, i64)>>,
    /// Queries of each stage that reads those of a level.
    pub(crate) queries: Vec<Option<KvView>>,
}

/// Rows in the order of a stage.
#[derive(Debug)]
struct Listing {
    /// What each lane is to compiled code, the number of its query or its index in a numbering by orders; filled up to
    /// whole tiles with the last.
    numbers: Arc<[u32]>,
    /// Row of each lane.
    rows: Arc<[u32]>,
    keys: Option<Keys>,
}

/// Keys and queries of a numbering by orders.
#[derive(Debug)]
struct Keys {
    /// Row of each index; 0 where there is none.
    rows: Box<[u32]>,
    /// Which indices have rows, one word for each tile; `None` if all have.
    present: Option<Box<[u64]>>,
    /// Indices that queries may have.
    queries: i64,
}

impl Listing {
    /// Queries as they come in an order, keys as given.
    fn walk(kernel: &CpuKernel, env: &Env<'_>, order: OrderId, tile: usize) -> Result<Listing, String> {
        let walk = order::walk(&kernel.plan().program, order, env).map_err(|e| e.to_string())?;
        let numbers = filled(walk, tile);
        Ok(Listing { rows: numbers.clone(), numbers, keys: None })
    }

    /// Queries and keys by their indices in two orders.
    fn ordered(
        kernel: &CpuKernel,
        env: &Env<'_>,
        (queries, keys): (OrderId, OrderId),
        tile: usize,
    ) -> Result<Listing, String> {
        let ranked = |order: OrderId, start, len| {
            let program = &kernel.plan().program;
            let index = order::of(program, order, env).map_err(|e| e.to_string())?;
            let wrong =
                || format!("order `{}` should give each position an index of its own", program.order(order).name);
            Ok::<_, String>((order::ranked(&index, start, len).ok_or_else(wrong)?, index.len()))
        };
        let (of_queries, queries) = ranked(queries, env.q_start, env.n_q)?;
        let (of_keys, keys) = ranked(keys, env.k_start, env.n_k)?;
        let (mut rows, mut present) = (vec![0; keys].into_boxed_slice(), vec![0_u64; keys.div_ceil(BK)]);
        for &(at, row) in &of_keys {
            rows[at as usize] = row;
            present[at as usize / BK] |= 1 << (at as usize % BK);
        }
        let present = (of_keys.len() < keys).then(|| present.into());
        let (numbers, lanes) = of_queries.into_iter().unzip();
        let keys = Some(Keys { rows, present, queries: queries as i64 });
        Ok(Listing { numbers: filled(numbers, tile), rows: filled(lanes, tile), keys })
    }

    /// Makes the context of a launch that of the listed rows.
    fn apply(&self, ctx: &mut Ctx) {
        let rows = self.rows.as_ptr();
        ctx.walk = self.numbers.as_ptr();
        (ctx.q.index, ctx.out.index, ctx.from.index, ctx.lse_index) = (rows, rows, rows, rows);
        if let Some(keys) = &self.keys {
            (ctx.q_start, ctx.n_q) = (0, keys.queries);
            (ctx.k_start, ctx.n_k) = (0, keys.rows.len() as i64);
            (ctx.k.rows, ctx.v.rows) = (keys.rows.as_ptr(), keys.rows.as_ptr());
            ctx.present = keys.present.as_ref().map_or(std::ptr::null(), |p| p.as_ptr());
        }
    }
}

/// Fills a list up to whole tiles with the last element.
fn filled(mut list: Vec<u32>, tile: usize) -> Arc<[u32]> {
    list.resize(list.len().next_multiple_of(tile), list.last().copied().unwrap_or(0));
    list.into()
}

/// Results that later stages go on from.
#[derive(Clone, Copy)]
struct Between {
    out: Rows<*mut u8>,
    lse: *mut f32,
    lse_stride: i64,
}

impl Between {
    /// The output itself where it is as exact as the kernels, else some of the workspace.
    fn of(ctx: &Ctx, memory: &mut Memory) -> Option<Between> {
        let (n_q, dv) = (ctx.n_q, ctx.v.dim as usize);
        if ctx.out.dtype == DType::F32 as i64 && !ctx.lse.is_null() {
            return Some(Between { out: ctx.out, lse: ctx.lse, lse_stride: ctx.lse_stride });
        }
        let base = memory.take(between_bytes(n_q, dv)?)?;
        let row = (dv * size_of::<f32>()) as i64;
        let (col, index) = (size_of::<f32>() as i64, std::ptr::null());
        let out = Rows { base, dtype: DType::F32 as i64, row_stride: row, col_stride: col, index };
        let lse = base.wrapping_offset((n_q * row) as isize).cast();
        Some(Between { out, lse, lse_stride: size_of::<f32>() as i64 })
    }
}

impl Job<'_> {
    fn view(&self, stage: usize) -> Option<View> {
        self.kernel.plan().stages.get(stage).map(|s| s.view)
    }

    /// Queries of all its heads.
    fn lanes(&self) -> i64 {
        self.fold.as_ref().map_or(self.ctx.n_q, Fold::lanes)
    }

    /// Tasks of a stage.
    fn tasks(&self, stage: usize) -> usize {
        match &self.cuts {
            Some(cuts) if stage == 0 => cuts.pieces(),
            _ => self.tiles(stage),
        }
    }

    /// Tasks of all stages.
    fn all_tasks(&self) -> usize {
        (0..self.kernel.stages()).map(|stage| self.tasks(stage)).sum()
    }

    /// Whether some stage reads tiles of keys of the launch, and not for few queries.
    fn may_share(&self) -> bool {
        self.fold.is_none()
            && self.ctx.n_q > FEW as i64
            && self.kernel.plan().stages.iter().any(|s| s.view.keys_as_given())
    }

    /// Does a task of a stage.
    fn run(&self, stage: usize, task: usize, scratch: &mut Scratch, marks: &mut Marks) {
        self.run_task(stage, task, scratch, marks);
        if let Some(head) = &self.singles {
            head.end();
        }
    }

    fn run_task(&self, stage: usize, task: usize, scratch: &mut Scratch, marks: &mut Marks) {
        let cuts = self.cuts.as_ref();
        let stage = self.stage(stage, task);
        let (mut ctx, tile) = self.task(stage, if cuts.is_some() { 0 } else { task });
        // Not every class is as long as the longest.
        if matches!(self.view(stage), Some(View::Classes(_)))
            && tile * self.kernel.plan().stages[stage].tile.q as i64 >= ctx.n_q
        {
            return;
        }
        if let Some(head) = &self.singles
            && self.view(stage).is_some_and(View::keys_as_given)
            && !matches!(self.keys.get(stage), Some(Some(_)))
        {
            [ctx.k_singles, ctx.v_singles] = head.begin();
        }
        let whole = ctx;
        if let Some(cuts) = cuts {
            cuts.narrow(&mut ctx, task);
        }
        marks.fit(scratch, ctx.n_k);
        // SAFETY: the launch's checks cover everything that the kernel reads and writes; tasks of a stage own disjoint
        // rows, of outputs or of pieces, and the scratch is this thread's.
        unsafe {
            match self.fold {
                Some(_) => self.kernel.drive_folded(stage, &ctx, scratch),
                None => self.kernel.drive(stage, &ctx, scratch, tile),
            }
            if let Some(cuts) = cuts {
                cuts.done(&whole);
            }
        }
    }

    /// The stage of a task of a stage of the launch: pieces of all stages are tasks of the first.
    fn stage(&self, stage: usize, task: usize) -> usize {
        self.cuts.as_ref().map_or(stage, |cuts| cuts.at()[task].stage)
    }

    /// Tiles of queries of a stage.
    fn tiles(&self, stage: usize) -> usize {
        let Some(attend) = self.kernel.plan().stages.get(stage) else { return 0 };
        // Folded heads are one tile, and go through several stages in pieces.
        if self.fold.is_some() {
            return usize::from(stage == 0);
        }
        if let Some(stand) = &self.stand {
            return stand.tiles(stage);
        }
        let n_q = self.ctx.n_q as usize;
        match attend.view {
            View::Given | View::Walk(_) | View::Rows | View::Ordered { .. } => n_q.div_ceil(attend.tile.q),
            View::Classes(_) => {
                let modulus = self.moduli[stage];
                n_q.min(modulus as usize) * self.tiles_of_class(modulus, attend.tile.q)
            }
        }
    }

    /// Tiles of the longest class.
    fn tiles_of_class(&self, modulus: i64, tile: usize) -> usize {
        (self.ctx.n_q as usize).div_ceil(modulus as usize).div_ceil(tile)
    }

    /// Makes the slots of a level keys of a stage that reads one.
    fn read_level(&self, ctx: &mut Ctx, stage: usize) {
        if let Some(&Some((k, v, slots))) = self.keys.get(stage) {
            (ctx.k, ctx.v, ctx.n_k, ctx.k_start) = (k, v, slots, 0);
        }
    }

    /// What task `task` of a stage works on: its context, and the tile of queries in it.
    fn task(&self, stage: usize, task: usize) -> (Ctx, i64) {
        let mut ctx = self.ctx;
        self.read_level(&mut ctx, stage);
        if let Some(&Some(q)) = self.queries.get(stage) {
            (ctx.q.base, ctx.q.dtype) = (q.base, i64::from(q.dtype));
            (ctx.q.row_stride, ctx.q.col_stride) = (q.row_stride, q.col_stride);
        }
        if let Some(stand) = &self.stand {
            stand.apply(&mut ctx, stage, task);
            return (ctx, 0);
        }
        if let Some(between) = self.between {
            let Between { out, lse, lse_stride } = between;
            let Rows { base, dtype, row_stride, col_stride, index } = out;
            ctx.from = Rows { base: base.cast_const(), dtype, row_stride, col_stride, index };
            (ctx.from_lse, ctx.from_lse_stride) = (lse, lse_stride);
            if stage + 1 < self.kernel.stages() {
                (ctx.out, ctx.lse, ctx.lse_stride) = (out, lse, lse_stride);
            }
        }
        let mut tile = task;
        if let Some(fold) = &self.fold {
            fold.number(&mut ctx, stage);
            if let Some(View::Classes(_)) = self.view(stage) {
                let modulus = self.moduli[stage];
                ctx.keep_keys_of_class(modulus, (self.query as i64) % modulus);
            }
            return (ctx, 0);
        }
        match self.view(stage) {
            Some(View::Walk(_) | View::Ordered { .. }) => {
                if let Some(listing) = &self.listings[stage] {
                    listing.apply(&mut ctx);
                }
            }
            Some(View::Classes(_)) => {
                let modulus = self.moduli[stage];
                let tiles = self.tiles_of_class(modulus, self.kernel.plan().stages[stage].tile.q);
                // Some neighbouring classes take their tiles in turn.
                let (run, within) = (task / (CLASS_RUN * tiles), task % (CLASS_RUN * tiles));
                let classes = (self.ctx.n_q as usize).min(modulus as usize) - run * CLASS_RUN;
                let classes = classes.min(CLASS_RUN);
                tile = within / classes;
                ctx.keep_class(modulus, (run * CLASS_RUN + within % classes) as i64);
            }
            _ => {}
        }
        (ctx, tile as i64)
    }
}

impl Ctx {
    /// Narrows positions and keys to those that are a multiple of `modulus` away from query `first`, `first < modulus`.
    fn keep_keys_of_class(&mut self, modulus: i64, first: i64) {
        let residue = (self.q_start + first) % modulus;
        let first_key = (residue - self.k_start).rem_euclid(modulus);
        (self.q_start, self.n_q) = in_class(self.q_start, self.n_q, modulus, residue);
        (self.k_start, self.n_k) = in_class(self.k_start, self.n_k, modulus, residue);
        (self.residue, self.modulus) = (residue, modulus);
        for view in [&mut self.k, &mut self.v] {
            view.base = view.base.wrapping_offset((view.row_stride * first_key) as isize);
            view.row_stride *= modulus;
        }
    }

    /// The same, and rows of queries.
    fn keep_class(&mut self, modulus: i64, first: i64) {
        self.keep_keys_of_class(modulus, first);
        fn stride<P>(rows: &mut Rows<P>, base: P, modulus: i64) {
            rows.base = base;
            rows.row_stride *= modulus;
        }
        let at = |stride: i64, row: i64| (stride * row) as isize;
        let base = self.q.base.wrapping_offset(at(self.q.row_stride, first));
        stride(&mut self.q, base, modulus);
        let base = self.out.base.wrapping_offset(at(self.out.row_stride, first));
        stride(&mut self.out, base, modulus);
        let base = self.from.base.wrapping_offset(at(self.from.row_stride, first));
        stride(&mut self.from, base, modulus);
        self.lse = self.lse.wrapping_byte_offset(if self.lse.is_null() { 0 } else { at(self.lse_stride, first) });
        self.lse_stride *= modulus;
        self.from_lse = self.from_lse.wrapping_byte_offset(at(self.from_lse_stride, first));
        self.from_lse_stride *= modulus;
    }
}

// SAFETY: a job borrows inputs, which nobody writes, and rows of output, which tasks write apart.
unsafe impl Sync for Job<'_> {}

fn jobs<'a>(
    parts: &'a [Part<'_>],
    bounds: &[Vec<Bound<'_>>],
    launch: &mut Launch<'_>,
    shape: &Extents,
) -> Result<Vec<Job<'a>>, RunError> {
    let mut jobs: Vec<Job<'a>> = Vec::new();
    let launch_heads = (launch.q_heads, launch.kv_heads);
    for batch in 0..shape.batch {
        for (number, (part, bounds)) in parts.iter().zip(bounds).enumerate() {
            let envs = &part.envs[batch * part.heads.len()..][..part.heads.len()];
            let of_each = envs.iter().zip(part.heads).map(|(env, &head)| {
                let moduli = attnc_plan::moduli_of(part.kernel.plan(), env);
                moduli.map_err(|e| RunError::Env { batch, head, what: e.to_string() })
            });
            let moduli = of_each.collect::<Result<Vec<_>, _>>()?;
            // Compiled code knows moduli as numbers of a launch.
            let same = |a: usize, b: usize| moduli[a] == moduli[b] && alike(&envs[a], &envs[b], part.kernel.uses());
            for group in groups(part.kernel, part.heads, launch.kv_heads, |i| envs[i].n_q, same) {
                let (i, head) = (group[0], part.heads[group[0]]);
                let at = batch * part.heads.len() + i;
                let env = &part.envs[at];
                let ctx = context(part.kernel, env, &bounds[at], launch, (batch, head));
                // Heads of one part and one length walk alike, and those of the same orders are numbered alike.
                let listings_of = |jobs: &[Job<'a>], at: usize, head| {
                    let env = &part.envs[at];
                    let known = jobs.last().filter(|j| {
                        let before = &part.envs[if j.part == number { j.env } else { at }];
                        let places = |e: &Env<'_>| (e.n_q, e.q_start, e.n_k, e.k_start);
                        j.part == number && places(before) == places(env) && same_orders(part.kernel, before, env)
                    });
                    match known {
                        Some(job) => Ok(job.listings.clone()),
                        None => listings(part.kernel, env).map_err(|what| RunError::Env { batch, head, what }),
                    }
                };
                let of_first = listings_of(&jobs, at, head)?;
                let job = |head: usize, ctx, listings, env: usize| Job {
                    query: 0,
                    reads: (launch_heads.0[head], launch_heads.1[head]),
                    keys: Vec::new(),
                    queries: Vec::new(),
                    kernel: part.kernel,
                    ctx,
                    listings,
                    moduli: moduli[env - batch * part.heads.len()].clone(),
                    between: None,
                    fold: None,
                    cuts: None,
                    singles: None,
                    stand: None,
                    part: number,
                    place: env - batch * part.heads.len(),
                    env,
                    batch,
                    head,
                    forward: part.forward,
                };
                let heads: Vec<usize> = group.iter().map(|&i| part.heads[i]).collect();
                let walks = part.kernel.plan().few(env.n_q).map(|few| match few {
                    Few::Together => vec![walk(of_first.first(), env.n_q)],
                    Few::Apart => attnc_plan::queries_by_class(&moduli[i], env.n_q),
                });
                let folded = |walk: &Vec<u32>| {
                    let (fold, ctx) = fold(part.kernel, (ctx, env), (walk, &moduli[i]), launch, (batch, &heads))?;
                    Some(Job { fold: Some(fold), query: walk[0] as usize, ..job(head, ctx, of_first.clone(), at) })
                };
                if let Some(folded) = walks.and_then(|walks| walks.iter().map(folded).collect::<Option<Vec<_>>>()) {
                    jobs.extend(folded);
                    continue;
                }
                for i in group {
                    let (at, head) = (batch * part.heads.len() + i, part.heads[i]);
                    let ctx = context(part.kernel, &part.envs[at], &bounds[at], launch, (batch, head));
                    let listings = listings_of(&jobs, at, head)?;
                    jobs.push(job(head, ctx, listings, at));
                }
            }
        }
    }
    Ok(jobs)
}

/// The queries of a launch in the order of a stage.
fn walk(listing: Option<&Option<Arc<Listing>>>, n_q: i64) -> Vec<u32> {
    let listed = listing.and_then(Option::as_ref);
    listed.map_or_else(|| (0..n_q as u32).collect(), |l| l.numbers[..n_q as usize].to_vec())
}

/// Folds heads of a batch item, `ctx` being the context of the first, and `env` what is known of it; `None` if queries are
/// not few, without code for it, if the layouts do not allow it, or for one head where nothing is gained. `walk` lists the
/// queries in order, which `moduli` number in each stage.
fn fold(
    kernel: &CpuKernel,
    (mut ctx, env): (Ctx, &Env<'_>),
    (walk, moduli): (&[u32], &[i64]),
    launch: &mut Launch<'_>,
    (batch, heads): (usize, &[usize]),
) -> Option<(Fold, Ctx)> {
    let plan = kernel.plan();
    let alone = match plan.few(ctx.n_q)? {
        // Scores of few queries are modified fastest with keys side by side.
        Few::Together => ctx.n_q <= FEW as i64 && kernel.modifies(),
        Few::Apart => true,
    };
    if heads.len() < 2 && !alone || !small_tensors(env, kernel.uses()) || !kernel.knows_few() {
        return None;
    }
    let number = |&modulus: &i64| walk.iter().map(|query| query / modulus.clamp(1, MAX_LEN) as u32).collect();
    let numbers: Vec<Vec<u32>> = moduli.iter().map(number).collect();
    let q_heads: Vec<usize> = heads.iter().map(|&h| launch.q_heads[h]).collect();
    let (q, out, lse) = (&launch.q, &launch.out, launch.lse.as_ref());
    let outputs = (&out.layout, lse.map(|t| &t.layout), heads);
    let tile = plan.stages.iter().map(|s| s.tile.q).max()?;
    let fold = Fold::of((&q.layout, &q_heads), outputs, walk, &numbers, tile)?;
    let first = |layout: &Layout| layout.head(batch, 0);
    let lse = lse.map_or(std::ptr::null_mut(), |t| t.base.wrapping_offset(first(&t.layout)).cast());
    fold.apply(&mut ctx, q.base.wrapping_offset(first(&q.layout)), out.base.wrapping_offset(first(&out.layout)), lse);
    Some((fold, ctx))
}

/// Rows in the order of each stage.
fn listings(kernel: &CpuKernel, env: &Env<'_>) -> Result<Vec<Option<Arc<Listing>>>, String> {
    let listing = |s: &attnc_plan::Attend| {
        let listing = match s.view {
            View::Given | View::Rows | View::Classes(_) => return Ok(None),
            View::Walk(order) => Listing::walk(kernel, env, order, s.tile.q)?,
            View::Ordered { queries, keys } => Listing::ordered(kernel, env, (queries, keys), s.tile.q)?,
        };
        Ok(Some(Arc::new(listing)))
    };
    kernel.plan().stages.iter().map(listing).collect()
}

/// Whether stages of a kernel number alike in two environments of the same lengths.
fn same_orders(kernel: &CpuKernel, a: &Env<'_>, b: &Env<'_>) -> bool {
    let same = |o: OrderId| match (a.orders.get(o.0 as usize), b.orders.get(o.0 as usize)) {
        (Some(x), Some(y)) => Arc::ptr_eq(x, y),
        // Orders that only a schedule knows depend on sizes alone.
        (x, y) => x.is_none() && y.is_none(),
    };
    kernel.plan().stages.iter().all(|s| match s.view {
        View::Ordered { queries, keys } => same(queries) && same(keys),
        View::Given | View::Classes(_) | View::Walk(_) | View::Rows => true,
    })
}

fn context(
    kernel: &CpuKernel,
    env: &Env<'_>,
    bound: &Bound<'_>,
    launch: &mut Launch<'_>,
    (batch, head): (usize, usize),
) -> Ctx {
    let (q_head, kv_head) = (launch.q_heads[head], launch.kv_heads[head]);
    fn rows<P>(base: P, layout: &Layout) -> Rows<P> {
        let [.., row_stride, col_stride] = layout.strides.map(|s| s as i64);
        Rows { base, dtype: layout.dtype as i64, row_stride, col_stride, index: std::ptr::null() }
    }
    let (q, out) = (&launch.q, &launch.out);
    let (lse, lse_stride) = launch.lse.as_ref().map_or((std::ptr::null_mut(), 0), |t| {
        (t.base.wrapping_offset(t.layout.head(batch, head)).cast::<f32>(), t.layout.strides[2] as i64)
    });
    Ctx {
        n_q: env.n_q,
        n_k: env.n_k,
        q_start: env.q_start,
        k_start: env.k_start,
        head: env.head,
        heads: env.heads,
        layer: env.layer,
        step: env.step,
        dim: env.dim,
        branch: 0,
        residue: 0,
        modulus: 1,
        given: [env.q_start, env.k_start, env.n_q, env.n_k],
        walk: std::ptr::null(),
        lane_heads: std::ptr::null(),
        lanes: env.n_q,
        present: std::ptr::null(),
        first_tile: 0,
        end_tile: i64::MAX,
        listed: std::ptr::null(),
        listed_count: 0,
        listed_slots: std::ptr::null(),
        nulls: 1,
        from: Rows { base: std::ptr::null(), dtype: 0, row_stride: 0, col_stride: 0, index: std::ptr::null() },
        from_lse: std::ptr::null(),
        from_lse_stride: 0,
        docs: env.docs.len().saturating_sub(1) as i64,
        doc_offsets: env.docs.as_ptr(),
        sizes: env.sizes.as_ptr(),
        maps: bound.maps.as_ptr(),
        tensors: bound.tensors.as_ptr(),
        draws: bound.draws.as_ptr(),
        orders: bound.orders.as_ptr(),
        levels: bound.levels.as_ptr(),
        table: kernel.table(),
        callees: kernel.callees.as_ptr(),
        tables: kernel.tables.as_ptr(),
        q: rows(q.base.wrapping_offset(q.layout.head(batch, q_head)), &q.layout),
        k: kv_view(&launch.k, batch, kv_head),
        v: kv_view(&launch.v, batch, kv_head),
        k_singles: Singles::NONE,
        v_singles: Singles::NONE,
        out: rows(out.base.wrapping_offset(out.layout.head(batch, head)), &out.layout),
        lse,
        lse_stride,
        lse_index: std::ptr::null(),
    }
}

/// Rows of one head of a tensor.
pub(crate) fn kv_view(t: &Tensor<'_>, batch: usize, head: usize) -> KvView {
    KvView {
        base: t.base.wrapping_offset(t.layout.head(batch, head)),
        row_stride: t.layout.strides[2] as i64,
        col_stride: t.layout.strides[3] as i64,
        dtype: t.layout.dtype as u32,
        page_rows: 0,
        table: std::ptr::null(),
        page_stride: 0,
        rows: std::ptr::null(),
        dim: t.layout.shape[3] as u64,
    }
}

/// Working memory: what is kept between stages, and one scratch a thread.
pub(crate) struct Memory {
    base: *mut u8,
    /// Bytes from `base` on.
    left: usize,
    /// Bytes of a scratch.
    stride: usize,
    size: ScratchSize,
}

// SAFETY: the slots are disjoint, and each is given to one thread.
unsafe impl Sync for Memory {}

impl Memory {
    fn of(workspace: &mut [u8], size: ScratchSize) -> Memory {
        let base = workspace.as_mut_ptr();
        let skip = base.addr().next_multiple_of(ALIGN) - base.addr();
        let stride = size.bytes().unwrap_or(usize::MAX);
        Memory { base: base.wrapping_add(skip), left: workspace.len().saturating_sub(skip), stride, size }
    }

    /// Takes memory that no thread's scratch will have; a multiple of [`ALIGN`].
    pub(crate) fn take(&mut self, bytes: usize) -> Option<*mut u8> {
        let at = self.base;
        self.left = self.left.checked_sub(bytes)?;
        self.base = at.wrapping_add(bytes);
        Some(at)
    }

    /// Threads that have a scratch.
    pub(crate) fn slots(&self) -> usize {
        self.left.checked_div(self.stride).unwrap_or(0)
    }
}

/// For how many keys the marks of a scratch are made.
#[derive(Default)]
pub(crate) struct Marks(Option<i64>);

impl Marks {
    pub(crate) fn fit(&mut self, scratch: &Scratch, n_k: i64) {
        if self.0 != Some(n_k) {
            // SAFETY: the scratch has room for the marks of every job's keys.
            unsafe { (Support::get().marks_init)(scratch.marks, n_k) };
            self.0 = Some(n_k);
        }
    }
}

/// Does tasks `0 .. total`, each once, on as many threads as there are, have memory and can be of use.
pub(crate) fn parallel(
    memory: &Memory,
    pool: Option<&rayon::ThreadPool>,
    total: usize,
    task: impl Fn(usize, &mut Scratch, &mut Marks) + Sync,
) {
    let next = AtomicUsize::new(0);
    let work = |slot: usize| {
        let base = memory.base.wrapping_add(slot * memory.stride);
        let mut marks = Marks::default();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= total {
                return;
            }
            let Some(mut scratch) = Scratch::cut(base, memory.size) else { return };
            // As for tiles of queries, the longest come last.
            task(total - 1 - i, &mut scratch, &mut marks);
        }
    };
    let threads = threads_of(pool).min(memory.slots()).min(total);
    match (threads, pool) {
        (0, _) => {}
        (1, _) => work(0),
        (_, Some(pool)) => pool.install(|| each_slot(threads, &work)),
        (_, None) => each_slot(threads, &work),
    }
}

/// Runs `work` for each slot, on a thread of its own.
fn each_slot(threads: usize, work: &(impl Fn(usize) + Sync)) {
    fn some(slots: Range<usize>, work: &(impl Fn(usize) + Sync)) {
        match slots.len() {
            0 => {}
            1 => work(slots.start),
            n => {
                // Halves, and not a list of spawned tasks: these would be allocated.
                let middle = slots.start + n / 2;
                rayon::join(|| some(slots.start..middle, work), || some(middle..slots.end, work));
            }
        }
    }
    some(0..threads, work);
}

/// Jobs such that those of the most keys come last, which [`Tasks`] begins with: the tasks that are left when a launch
/// ends are then the shortest. Otherwise as they are, so that heads that read the same keys stay side by side.
fn turns(jobs: &[Job<'_>]) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..jobs.len()).collect();
    turns.sort_by_key(|&at| jobs[at].ctx.n_k);
    turns
}

/// The tasks of some jobs in one stage, numbered job by job, tile by tile.
struct Tasks<'a> {
    jobs: &'a [Job<'a>],
    stage: usize,
    /// Tasks before each of these jobs, and which job it is.
    before: &'a [(usize, usize)],
    total: usize,
}

impl<'a> Tasks<'a> {
    /// `turns` are the jobs, `before` is a list to be filled.
    fn new(
        jobs: &'a [Job<'a>],
        turns: impl Iterator<Item = usize>,
        stage: usize,
        count: impl Fn(&Job<'a>, usize) -> usize,
        before: &'a mut Vec<(usize, usize)>,
    ) -> Tasks<'a> {
        let mut total = 0;
        before.clear();
        for at in turns {
            before.push((total, at));
            total += count(&jobs[at], stage);
        }
        Tasks { jobs, stage, before, total }
    }

    /// The job of task `i`, in the order in which tasks begin, and which of its tasks it is.
    fn nth(&self, i: usize) -> (usize, usize) {
        // The longest come first: of a causal pattern, the last tiles.
        let i = self.total - 1 - i;
        let turn = self.before.partition_point(|&(first, _)| first <= i) - 1;
        let (first, at) = self.before[turn];
        let end = self.before.get(turn + 1).map_or(self.total, |next| next.0);
        (at, if self.jobs[at].forward { end - 1 - i } else { i - first })
    }

    /// Does every task once, on as many threads as there are, have memory and can be of use.
    fn each(
        &self,
        memory: &Memory,
        pool: Option<&rayon::ThreadPool>,
        task: impl Fn(usize, usize, &mut Scratch, &mut Marks) + Sync,
    ) {
        let next = AtomicUsize::new(0);
        let work = |slot: usize| {
            let base = memory.base.wrapping_add(slot * memory.stride);
            let mut marks = Marks::default();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= self.total {
                    return;
                }
                let (at, number) = self.nth(i);
                let stage = self.jobs[at].stage(self.stage, number);
                let size = ScratchSize { bq: self.jobs[at].kernel.plan().stages[stage].tile.q, ..memory.size };
                let Some(mut scratch) = Scratch::cut(base, size) else { return };
                task(at, number, &mut scratch, &mut marks);
            }
        };
        let threads = threads_of(pool).min(memory.slots()).min(self.total);
        if threads <= 1 {
            if self.total > 0 {
                work(0);
            }
            return;
        }
        match pool {
            Some(pool) => pool.install(|| each_slot(threads, &work)),
            None => each_slot(threads, &work),
        }
    }
}

/// Looks for a row of no entries where the pattern calls that an error.
fn find_empty_row(jobs: &[Job<'_>], memory: &Memory, pool: Option<&rayon::ThreadPool>) -> Result<(), RunError> {
    if !jobs.iter().any(|j| j.kernel.checks_rows()) {
        return Ok(());
    }
    // Folded heads have the same empty rows: the first head's are looked for.
    let mut list = Vec::new();
    let tasks = Tasks::new(jobs, 0..jobs.len(), 0, Job::tiles, &mut list);
    // Rows are numbered over all jobs, so that the least is the first whatever the threads do.
    let mut rows = 0;
    let before = jobs.iter().map(|j| {
        rows += j.ctx.n_q as usize;
        rows - j.ctx.n_q as usize
    });
    let before: Vec<usize> = before.collect();
    let least = AtomicUsize::new(usize::MAX);
    tasks.each(memory, pool, |at, task, scratch, marks| {
        let mut ctx = jobs[at].ctx;
        jobs[at].read_level(&mut ctx, 0);
        if let Some(listing) = jobs[at].listings[0].as_ref().filter(|l| l.keys.is_some()) {
            listing.apply(&mut ctx);
        }
        marks.fit(scratch, ctx.n_k);
        // SAFETY: as for `drive`; nothing but the scratch is written.
        if let Some(row) = unsafe { jobs[at].kernel.empty_row(&ctx, scratch, task as i64) } {
            least.fetch_min(before[at] + row, Ordering::Relaxed);
        }
    });
    let least = least.into_inner();
    if least == usize::MAX {
        return Ok(());
    }
    let at = before.partition_point(|&b| b <= least) - 1;
    Err(RunError::EmptyRow { batch: jobs[at].batch, head: jobs[at].head, row: least - before[at] })
}

/// What no task writes: heads without a part, and rows of padding.
fn blank(shape: &Extents, assigned: &[bool], parts: &[Part<'_>]) -> Vec<(usize, usize, usize)> {
    let mut blank = Vec::new();
    for batch in 0..shape.batch {
        blank.extend((0..shape.heads).filter(|&h| !assigned[h]).map(|head| (batch, head, 0)));
        for part in parts {
            let heads = part.heads.iter().enumerate();
            let padded = heads.map(|(i, &head)| (batch, head, part.envs[batch * part.heads.len() + i].n_q as usize));
            blank.extend(padded.filter(|&(.., from)| from < shape.n_q));
        }
    }
    blank
}

/// Writes blank rows.
fn clear(launch: &mut Launch<'_>, blank: &[(usize, usize, usize)]) {
    let Layout { dtype, strides, shape: [.., n_q, dv] } = launch.out.layout;
    for &(batch, head, from) in blank {
        let base = launch.out.base.wrapping_offset(launch.out.layout.head(batch, head));
        for row in from..n_q {
            let row_at = base.wrapping_offset(row as isize * strides[2]);
            for col in 0..dv {
                let at = row_at.wrapping_offset(col as isize * strides[3]);
                // SAFETY: an element of the output, which the launch borrows for writing; zero bits are 0 in every type.
                unsafe { at.write_bytes(0, dtype.size()) };
            }
            if let Some(lse) = &mut launch.lse {
                let at = lse.base.wrapping_offset(lse.layout.head(batch, head) + row as isize * lse.layout.strides[2]);
                // SAFETY: an aligned element of `lse`, which the launch borrows for writing.
                unsafe { at.cast::<f32>().write(f32::NEG_INFINITY) };
            }
        }
    }
}
