//! What a launch makes before it attends: levels, then tables of chosen slots, for all heads.
//!
//! The one idea: each stage is a set of tasks that write apart, done by all threads before the next begins, in the
//! order in which the plan has them. What is made lies in the workspace; jobs read levels as other keys, and tables as
//! other draws. Nothing here knows how a level or a ranking is computed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use attnc_kernels::abi::{BK, DType, KvView};
use attnc_pattern::env::{DrawTable, Env, MapData, Side};
use attnc_pattern::expr::{DrawId, LevelId, ScoreId};
use attnc_pattern::prepare::needs_beside;
use attnc_pattern::program::{Heads, Pool, Rows};
use attnc_pattern::slots;
use attnc_plan::choose::{cut_by_head, reads_all_heads};
use attnc_plan::{Plan, View};

use crate::compile::{CpuKernel, Uses};
use crate::few::{alike, same_map};
use crate::inplace::{self, Stand};
use crate::layout::{Bound, DrawRef, Scratch};
use crate::levels::{Made, Of, Sources, fetch, made_bytes, side};
use crate::run::{Job, Launch, Marks, Memory, Part, RunError, kv_view, parallel};
use crate::select::{Choice, Maker, Setup, Tables, tensor_rows};

/// For each environment of each part what its selections have.
pub(crate) type Setups = Vec<Vec<Arc<Vec<Setup>>>>;

/// What the selections of every head have; heads of the same lengths and data share it.
pub(crate) fn setups(parts: &[Part<'_>]) -> Result<Setups, RunError> {
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        let plan = part.kernel.plan();
        let mut found: Vec<Arc<Vec<Setup>>> = Vec::with_capacity(part.envs.len());
        if plan.is_dynamic() {
            let by_head = plan.chooses.iter().any(|c| c.differs_by_head(&plan.program));
            for (at, env) in part.envs.iter().enumerate() {
                let alike = |before: &usize| {
                    let before = &part.envs[*before];
                    (!by_head || before.head == env.head) && shared(before, env, part.kernel.uses())
                };
                let known = at.checked_sub(1).filter(alike);
                found.push(match known {
                    Some(before) => found[before].clone(),
                    None => {
                        let makers = makers(plan, env);
                        let made = plan.chooses.iter().zip(makers).map(|(c, maker)| Setup::new(plan, c, env, maker));
                        let made = made.collect::<Result<Vec<_>, _>>();
                        let (batch, head) = place(part, at);
                        Arc::new(made.map_err(|what| RunError::Env { batch, head, what })?)
                    }
                });
            }
        }
        all.push(found);
    }
    Ok(all)
}

/// Who makes the tables of each selection of a plan.
fn makers(plan: &Plan, env: &Env<'_>) -> Vec<Maker> {
    if env.exchange.is_empty() {
        return vec![Maker::Launch; plan.chooses.len()];
    }
    let read = needs_beside(&plan.program, &[plan.attention], &env.exchange).selects;
    let maker = |choose: &attnc_plan::Choose| match (choose.is_given(env), read.contains(&choose.select)) {
        (true, _) => Maker::Caller,
        (false, true) => Maker::Launch,
        (false, false) => Maker::Nobody,
    };
    plan.chooses.iter().map(maker).collect()
}

/// What of a launch a caller has asked for, as far as it is no table.
#[derive(Debug, Default)]
pub struct HandedBack {
    /// Rows of levels, by the head under which the caller knows them.
    pub levels: Vec<HandedRows<(LevelId, Side)>>,
    /// Values of scores, by head of the output: a row for each row, of all candidates.
    pub scores: Vec<HandedRows<ScoreId>>,
}

/// Rows of one head that are handed back.
#[derive(Debug)]
pub struct HandedRows<T> {
    /// Batch item.
    pub batch: usize,
    /// Head.
    pub head: usize,
    /// Of what.
    pub what: T,
    /// Elements of a row.
    pub width: usize,
    /// The rows, one after the other.
    pub rows: Vec<f32>,
}

/// Batch item and head of an environment.
fn place(part: &Part<'_>, at: usize) -> (usize, usize) {
    let heads = part.heads.len().max(1);
    (at / heads, part.heads.get(at % heads).copied().unwrap_or(0))
}

/// Whether two heads have the same rows and candidates, if nothing of these reads the number of the head.
fn shared(a: &Env<'_>, b: &Env<'_>, uses: &Uses) -> bool {
    fn all<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
    }
    let maps = |a: &MapData<'_>, b: &MapData<'_>| match (a, b) {
        (MapData::Absent, MapData::Absent) => true,
        _ => same_map(a, b),
    };
    // What is not compiled reads more than what is.
    alike(a, b, uses)
        && a.sizes == b.sizes
        && (std::ptr::eq(a.docs, b.docs) || a.docs == b.docs)
        && all(&a.levels, &b.levels, |x, y| x.members == y.members)
        && all(&a.maps, &b.maps, maps)
        && all(&a.tensors, &b.tensors, |x, y| std::ptr::eq(&*x.data, &*y.data) && x.dims == y.dims)
        && all(&a.orders, &b.orders, Arc::ptr_eq)
}

/// Bytes that a launch needs beside scratches, and bytes of a scratch that its selections need; `None` if there are no
/// such numbers.
pub(crate) fn bytes(parts: &[Part<'_>], setups: &Setups, d: usize, dv: usize) -> Option<(usize, usize)> {
    let (mut total, mut more) = (0_usize, 0_usize);
    for (part, setups) in parts.iter().zip(setups) {
        let plan = part.kernel.plan();
        if !plan.is_dynamic() {
            continue;
        }
        let heads = part.heads.len().max(1);
        for (at, (env, setup)) in part.envs.iter().zip(setups).enumerate() {
            for (choose, setup) in plan.chooses.iter().zip(setup.iter()) {
                total = total.checked_add(setup.bytes(plan, choose)?)?;
                more = more.max(setup.scratch_bytes(choose, &plan.program.select(choose.select).budget)?);
            }
            total = total.checked_add(inplace::most_bytes(plan, env, dv)?)?;
            total = total.checked_add(cut_queries(plan).count().checked_mul(cut_bytes(env, d)?)?)?;
            if at % heads == 0 || apart(plan) {
                // At most as many heads of K as of Q.
                let all = usize::try_from(env.heads).unwrap_or(0).max(heads);
                let heads = if reads_all_heads(plan) { all } else { heads };
                let heads = if apart(plan) { 1 } else { heads };
                total = total.checked_add(made_bytes(plan, env, (heads, heads), [d, dv])?)?;
            }
        }
        more = more.max(1);
    }
    Some((total, more))
}

/// Bytes of the lists that a launch makes beside its working memory, at most: what each environment holds, slots of
/// levels, items of scores, candidates while they are ranked. Those of heads that share them count for each.
#[must_use]
pub fn lists_bytes(parts: &[Part<'_>], threads: usize) -> usize {
    let Ok(setups) = setups(parts) else { return usize::MAX };
    // Lists of a job, its tasks and contexts; and what does not depend on the launch.
    const OF_HEAD: usize = 16 << 10;
    const OF_LAUNCH: usize = 256 << 10;
    // Numbers for each position: while lists grow they are held twice, and once more as they are copied.
    const OF_POSITION: usize = 160;
    let count = |n: i64| usize::try_from(n).unwrap_or(0);
    let (mut held, mut of_task, mut together) = (OF_LAUNCH, 0_usize, 0_usize);
    for (part, setups) in parts.iter().zip(&setups) {
        let plan = part.kernel.plan();
        for (at, env) in part.envs.iter().enumerate() {
            held = held.saturating_add(OF_HEAD);
            let listed = !env.orders.is_empty() || !env.levels.is_empty() || !env.draws.is_empty();
            let listed = listed || plan.is_dynamic() || plan.stages.iter().any(|s| s.view != View::Given);
            let positions = count(env.n_q).saturating_add(count(env.n_k));
            if listed {
                held = held.saturating_add(positions.saturating_mul(OF_POSITION));
            }
            for pool in &plan.pools {
                let slots = slots::integer(&plan.program, env, plan.program.level(pool.level).slots).unwrap_or(0);
                held = held.saturating_add(count(slots).saturating_add(positions).saturating_mul(64));
            }
            if let Some(rows) = &plan.rows {
                let rows = attnc_plan::inplace::most_rows(plan, rows, env).unwrap_or(i64::MAX);
                held = held.saturating_add(count(rows).saturating_mul(64));
            }
            let Some(setups) = setups.get(at) else { continue };
            let tables: Vec<usize> = plan.chooses.iter().zip(setups.iter()).map(|(c, s)| s.copied(plan, c)).collect();
            for (choose, setup) in plan.chooses.iter().zip(setups.iter()) {
                let [own, task, all] = setup.lists(plan, choose);
                held = held.saturating_add(own);
                // A task copies the tables that its candidates are within.
                let copies = tables.iter().fold(0, |sum: usize, t| sum.saturating_add(*t));
                of_task = of_task.max(task.saturating_add(copies));
                together = together.max(all);
            }
            if plan.rows.is_some() {
                held = tables.iter().fold(held, |sum, t| sum.saturating_add(*t));
            }
        }
    }
    let tasks = of_task.saturating_add(together).saturating_mul(threads.max(1));
    held.saturating_add(tasks)
}

/// Whether levels are made for each head apart.
fn apart(plan: &Plan) -> bool {
    plan.pools.iter().any(|p| cut_by_head(&plan.program, p.level))
}

/// Stages whose queries lack the channels that a selection did not choose, each with that selection: so scored, keys are
/// as if they lacked them.
fn cut_queries(plan: &Plan) -> impl Iterator<Item = (usize, DrawId)> + '_ {
    plan.stages.iter().enumerate().filter_map(|(stage, s)| match plan.program.level(s.reads.kv?).pool {
        Pool::Channels(draw) => Some((stage, draw)),
        _ => None,
    })
}

/// Bytes of the queries of a head with some channels.
fn cut_bytes(env: &Env<'_>, d: usize) -> Option<usize> {
    crate::levels::bytes(usize::try_from(env.n_q).ok()?, d)
}

/// Most keys or slots that something of a launch walks.
pub(crate) fn most_keys(parts: &[Part<'_>], setups: &Setups) -> i64 {
    let mut most = 0;
    for (part, setups) in parts.iter().zip(setups) {
        let plan = part.kernel.plan();
        for (env, setup) in part.envs.iter().zip(setups) {
            for level in plan.stages.iter().filter_map(|s| s.reads.kv) {
                most = most.max(slots::integer(&plan.program, env, plan.program.level(level).slots).unwrap_or(0));
            }
            most = setup.iter().map(Setup::keys).fold(most, i64::max);
        }
    }
    most
}

/// Makes levels and tables; jobs then find them.
///
/// # Errors
/// What has no value, or too little memory (`None`).
pub(crate) fn make<'a>(
    parts: &'a [Part<'_>],
    bounds: &mut [Vec<Bound<'_>>],
    launch: &Launch<'_>,
    jobs: &mut [Job<'a>],
    setups: &Setups,
    memory: &mut Memory,
) -> Result<Option<HandedBack>, RunError> {
    let mut handed_back = HandedBack::default();
    // Levels, by part, batch item and, where each head has its own, place of the head.
    let mut made: BTreeMap<(usize, usize, usize), (Made, Sources)> = BTreeMap::new();
    let batch = launch.q.shape()[0];
    for (number, part) in parts.iter().enumerate() {
        let plan = part.kernel.plan();
        if !plan.is_dynamic() || part.heads.is_empty() {
            continue;
        }
        let places = if apart(plan) { part.heads.len() } else { 1 };
        for (item, place) in (0..batch).flat_map(|item| (0..places).map(move |place| (item, place))) {
            let env = &part.envs[item * part.heads.len() + place];
            let sources = sources(part, launch, item, apart(plan).then_some(part.heads[place]));
            let dims = [launch.q.shape()[3], launch.v.shape()[3]];
            let ranked: Vec<usize> = match setups[number].get(item * part.heads.len() + place) {
                Some(setups) => (0..setups.len()).filter(|&choose| setups[choose].ranks()).collect(),
                None => (0..plan.chooses.len()).collect(),
            };
            let found = Made::new(plan, env, &sources, dims, &ranked, |bytes| memory.take(bytes));
            let refuse = |what| RunError::Env { batch: item, head: part.heads[place], what };
            let Some(found) = found.map_err(refuse)? else { return Ok(None) };
            made.insert((number, item, place), (found, sources));
        }
    }
    let stages = parts.iter().map(|p| 2 * p.kernel.plan().pools.len() + 1).max().unwrap_or(0);
    for stage in 0..stages {
        let tasks: Vec<_> = made
            .iter()
            .flat_map(|(&place, (made, _))| {
                made.tasks(parts[place.0].kernel.plan(), stage).into_iter().map(move |task| (place, task))
            })
            .collect();
        parallel(memory, launch.pool, tasks.len(), |i, scratch, _| {
            let (place, task) = tasks[i];
            let (made, sources) = &made[&place];
            let part = &parts[place.0];
            let env = &part.envs[place.1 * part.heads.len() + place.2];
            // SAFETY: the launch has been checked, levels before this one are made, and tasks write apart.
            unsafe { made.run(part.kernel.plan(), env, part.kernel.kernels(), sources, task, scratch) };
        });
    }
    for (&(number, item, place), (made, sources)) in &made {
        let part = &parts[number];
        let program = &part.kernel.plan().program;
        for &level in &part.envs[item * part.heads.len() + place].exchange.asked_levels {
            // SAFETY: levels have been made.
            let rows = unsafe { made.handed_back(program, level, sources) };
            let of_head = |(head, (width, rows))| HandedRows { batch: item, head, what: level, width, rows };
            handed_back.levels.extend(rows.into_iter().map(of_head));
        }
    }
    for job in jobs.iter_mut() {
        let plan = job.kernel.plan();
        let Some((made, _)) = made.get(&made_for(job)) else { continue };
        let env = &parts[job.part].envs[job.env];
        for stage in &plan.stages {
            job.queries.push(stage.reads.q.and_then(|level| made.queries(&plan.program, level, job.reads.0)));
            job.keys.push(stage.reads.kv.map(|level| {
                let view = |of, own| made.keys(&plan.program, level, of, (job.head, job.reads.1)).unwrap_or(own);
                let slots = slots::integer(&plan.program, env, plan.program.level(level).slots).unwrap_or(0);
                (view(Of::K, job.ctx.k), view(Of::V, job.ctx.v), slots)
            }));
        }
    }
    let chooses = parts.iter().map(|p| p.kernel.plan().chooses.len()).max().unwrap_or(0);
    for number in 0..chooses {
        let whose = whose(bounds, jobs, number, setups);
        let mut tables: Vec<Option<Tables>> = Vec::with_capacity(jobs.len());
        // Values that a caller asks for, and those that it gives of padded items.
        let mut asked: Vec<Option<Vec<f32>>> = vec![None; jobs.len()];
        let mut apart: Vec<Vec<f32>> = vec![Vec::new(); jobs.len()];
        for (((job, whose), asked), apart) in jobs.iter().zip(&whose).zip(&mut asked).zip(&mut apart) {
            let (plan, Some(whose)) = (job.kernel.plan(), whose) else {
                tables.push(None);
                continue;
            };
            let (choose, setup) = (&plan.chooses[number], &setups[job.part][job.env][number]);
            let (select, env) = (plan.program.select(choose.select), &parts[job.part].envs[job.env]);
            let own = match tables[..].get(whose.table).copied().flatten() {
                Some(other) => other,
                None if setup.maker() == Maker::Nobody => {
                    tables.push(None);
                    continue;
                }
                None => {
                    let values = tables.get(whose.values).copied().flatten();
                    let own = Tables::new(plan, choose, setup, values, |bytes| memory.take(bytes));
                    let Some(mut own) = own else { return Ok(None) };
                    if setup.maker() == Maker::Caller {
                        // SAFETY: nothing reads the tables yet.
                        unsafe { own.fill(select, setup, env) };
                    } else if let Some(given) = setup.given(select, env, apart) {
                        if given.len() < setup.values() {
                            let what = "a score that is given has too few values".to_owned();
                            return Err(RunError::Env { batch: job.batch, head: job.head, what });
                        }
                        own = own.with_values(given.as_ptr().cast_mut());
                    } else if let Some(count) = setup.asked() {
                        own = own.with_values(asked.insert(vec![f32::NEG_INFINITY; count]).as_mut_ptr());
                    }
                    own
                }
            };
            for (table, &draw) in plan.program.select(choose.select).tables.iter().enumerate() {
                if let Some(slot) = bounds[job.part][job.env].draws.get_mut(draw.0 as usize) {
                    *slot = own.draw(plan, choose, setup, table);
                }
            }
            tables.push(Some(own));
        }
        if memory.slots() == 0 {
            return Ok(None);
        }
        let choices: Vec<(usize, Choice<'_>)> = jobs
            .iter()
            .zip(tables.iter().zip(&whose))
            .enumerate()
            .filter_map(|(at, (job, (own, whose)))| {
                let (own, whose) = ((*own)?, whose.as_ref()?);
                let scores = whose.values == at;
                (whose.table == at).then(|| (at, choice(parts, job, number, setups, &made, (own, scores))))
            })
            .collect();
        let failed: Mutex<Option<(usize, String)>> = Mutex::new(None);
        for round in 0..2 {
            let mut before = Vec::with_capacity(choices.len());
            let mut total = 0;
            for (_, choice) in &choices {
                before.push(total);
                total += choice.tasks(round);
            }
            parallel(memory, launch.pool, total, |i, scratch: &mut Scratch, marks: &mut Marks| {
                let at = before.partition_point(|&b| b <= i) - 1;
                let (job, choice) = &choices[at];
                marks.fit(scratch, choice.keys());
                // SAFETY: as for levels; selections before this one are made.
                if let Err(what) = unsafe { choice.run(round, i - before[at], scratch) } {
                    let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    // The first head that fails, whatever the threads do.
                    if failed.as_ref().is_none_or(|(first, _)| job < first) {
                        *failed = Some((*job, what));
                    }
                }
            });
        }
        if let Some((at, what)) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(RunError::Env { batch: jobs[at].batch, head: jobs[at].head, what });
        }
        for (job, values) in jobs.iter().zip(asked) {
            let plan = job.kernel.plan();
            let score = plan.chooses.get(number).and_then(|c| plan.program.select(c.select).score);
            if let (Some(values), Some(score)) = (values, score) {
                let width = setups[job.part][job.env][number].width();
                let (batch, head) = (job.batch, job.head);
                handed_back.scores.push(HandedRows { batch, head, what: score, width, rows: values });
            }
        }
    }
    // Queries without the channels that were not chosen.
    let mut cut: Vec<(usize, Shared)> = Vec::new();
    let mut masks: Vec<Vec<bool>> = Vec::new();
    for (at, job) in jobs.iter_mut().enumerate() {
        let plan = job.kernel.plan();
        for (stage, draw) in cut_queries(plan) {
            let env = &parts[job.part].envs[job.env];
            let Some(base) = cut_bytes(env, job.ctx.dim as usize).and_then(|bytes| memory.take(bytes)) else {
                return Ok(None);
            };
            let single = size_of::<f32>() as i64;
            let (dim, dtype) = (job.ctx.dim as u64, DType::F32 as u32);
            let (row_stride, col_stride) = (job.ctx.dim * single, single);
            let view = KvView { base: base.cast_const(), dtype, row_stride, col_stride, dim, ..job.ctx.k };
            job.queries[stage] = Some(view);
            cut.push((at, Shared(base.cast())));
            let of = &bounds[job.part][job.env].draws[draw.0 as usize];
            // SAFETY: the selection is made, in one row.
            let kept = unsafe { std::slice::from_raw_parts(of.selected, *of.counts as usize) };
            let mut keeps = vec![false; job.ctx.dim as usize];
            kept.iter().for_each(|&c| keeps[c as usize] = true);
            masks.push(keeps);
        }
    }
    if memory.slots() == 0 {
        return Ok(None);
    }
    let (read, cut) = (&*jobs, &cut[..]);
    parallel(memory, launch.pool, cut.len(), |i, scratch, _| {
        let (at, to) = &cut[i];
        // SAFETY: the launch has checked the queries, and the copy is this task's.
        unsafe { cut_rows(&read[*at], &masks[i], to.0, scratch) };
    });
    for job in jobs.iter_mut() {
        let (plan, env) = (job.kernel.plan(), &parts[job.part].envs[job.env]);
        let Some(rows) = &plan.rows else { continue };
        let bound = &bounds[job.part][job.env];
        let made = Stand::new(plan, rows, (env, bound), job.ctx.v.dim as usize, |bytes| memory.take(bytes));
        let refuse = |what| RunError::Env { batch: job.batch, head: job.head, what };
        let Some(stand) = made.map_err(refuse)? else { return Ok(None) };
        job.stand = Some(stand);
    }
    Ok(if memory.slots() == 0 { None } else { Some(handed_back) })
}

/// Memory that one task writes.
struct Shared(*mut f32);

// SAFETY: each is written by one task.
unsafe impl Sync for Shared {}

/// Copies the queries of a job without some channels.
///
/// # Safety
/// The launch has been checked, the copy has room for all queries and is this task's, and the scratch is this thread's.
unsafe fn cut_rows(job: &Job<'_>, keeps: &[bool], to: *mut f32, scratch: &Scratch) {
    let from = job.ctx.q;
    let view = KvView {
        base: from.base,
        dtype: from.dtype as u32,
        row_stride: from.row_stride,
        col_stride: from.col_stride,
        dim: job.ctx.dim as u64,
        ..job.ctx.k
    };
    let (d, n_q) = (keeps.len(), job.ctx.n_q);
    let mut at = 0;
    while at < n_q {
        let n = (n_q - at).min(BK as i64);
        // SAFETY: promised by the caller.
        unsafe {
            let (rows, stride) = fetch(job.kernel.kernels(), &view, std::ptr::null(), at, n as usize, scratch);
            for i in 0..n as isize {
                let row = std::slice::from_raw_parts(rows.offset(i * stride as isize), d);
                let out = std::slice::from_raw_parts_mut(to.add((at as usize + i as usize) * d), d);
                out.iter_mut().zip(row).zip(keeps).for_each(|((o, &x), &keep)| *o = if keep { x } else { 0.0 });
            }
        }
        at += n;
    }
}

/// Whose levels a job reads.
fn made_for(job: &Job<'_>) -> (usize, usize, usize) {
    let plan = job.kernel.plan();
    (job.part, job.batch, if apart(plan) { job.place } else { 0 })
}

/// A selection of a job.
fn choice<'a>(
    parts: &'a [Part<'_>],
    job: &'a Job<'_>,
    number: usize,
    setups: &'a Setups,
    made: &BTreeMap<(usize, usize, usize), (Made, Sources)>,
    (tables, scores): (Tables, bool),
) -> Choice<'a> {
    let [q, k] = operands(parts, job, number, made);
    let setup = &setups[job.part][job.env][number];
    let (env, matches) = (&parts[job.part].envs[job.env], OnceLock::new());
    Choice { kernel: job.kernel, number, setup, tables, scores, ctx: &job.ctx, env, q, k, matches }
}

/// Which jobs make what a job reads of a selection: these themselves, or the first like them.
struct Whose {
    table: usize,
    values: usize,
}

/// For each job whose table and whose values of a selection are its own: heads for which all that decides is the same
/// memory share them.
fn whose(bounds: &[Vec<Bound<'_>>], jobs: &[Job<'_>], number: usize, setups: &Setups) -> Vec<Option<Whose>> {
    /// A job that makes a table.
    struct Maker {
        job: usize,
        /// Tables that it reads, and those of them that its scores read.
        reads: [Vec<DrawRef>; 2],
    }
    let mut makers: Vec<Maker> = Vec::new();
    let mut found: Vec<Option<Whose>> = Vec::with_capacity(jobs.len());
    for (at, job) in jobs.iter().enumerate() {
        let plan = job.kernel.plan();
        let Some(choose) = plan.chooses.get(number) else {
            found.push(None);
            continue;
        };
        let draws = &bounds[job.part][job.env].draws;
        let tables = choose.tables_read(&plan.program).map(|read| read.iter().map(|d| draws[d.0 as usize]).collect());
        let maker = Maker { job: at, reads: tables };
        let common = [choose.tables_common(plan), choose.scores_common(plan)];
        let setup = |at: usize| &setups[jobs[at].part][jobs[at].env];
        // What a caller gives and asks for is each head's own.
        let exchanged = setup(at)[number].is_exchanged();
        let like = |other: &&Maker| {
            let of = &jobs[other.job];
            !exchanged && (of.part, of.batch) == (job.part, job.batch) && Arc::ptr_eq(setup(at), setup(other.job))
        };
        let first = |which: usize| {
            let common = |other: &&Maker| match (common[which], jobs[other.job].reads) {
                (None, _) => false,
                (Some(Heads::Own), reads) => reads == job.reads,
                (Some(Heads::Group), reads) => reads.1 == job.reads.1,
                (Some(Heads::All), _) => true,
            };
            let mut same = makers.iter().filter(like).filter(common);
            same.find(|other| other.reads[which] == maker.reads[which]).map_or(at, |other| other.job)
        };
        let table = first(0);
        // A norm over the head is taken where the values lie.
        let values = if choose.normed_by_head() { at } else { first(1) };
        let values = found.get(values).and_then(|other| Some(other.as_ref()?.values)).unwrap_or(at);
        found.push(Some(Whose { table, values }));
        if table == at {
            makers.push(maker);
        }
    }
    found
}

/// Rows of the product of a selection of a job that are not the tokens' own.
fn operands(
    parts: &[Part<'_>],
    job: &Job<'_>,
    number: usize,
    made: &BTreeMap<(usize, usize, usize), (Made, Sources)>,
) -> [Option<KvView>; 2] {
    let plan = job.kernel.plan();
    let mut views: [Option<KvView>; 2] = [None, None];
    if let Some((a, b)) = plan.chooses[number].scored.as_ref().and_then(|s| s.dot) {
        let single = size_of::<f32>() as i64;
        for (second, (view, operand)) in views.iter_mut().zip([a, b]).enumerate() {
            if let Rows::Tensor(tensor) = operand.rows {
                // Its extents have been checked.
                *view = tensor_rows(&parts[job.part].envs[job.env], tensor).map(|(data, _, cols)| KvView {
                    base: data.as_ptr().cast(),
                    dtype: DType::F32 as u32,
                    row_stride: cols as i64 * single,
                    col_stride: single,
                    dim: cols as u64,
                    ..job.ctx.k
                });
                continue;
            }
            let of = side(operand);
            let Some((made, sources)) = made.get(&made_for(job)) else { continue };
            *view = made.operand(&plan.program, operand, of, job.reads).map(|(view, _)| view);
            // In place of keys there may be queries.
            if second == 1 && of == Of::Q && view.is_none() {
                *view = sources.q.get(&job.reads.0).copied();
            }
        }
    }
    views
}

/// Tensors of the heads of a part.
fn sources(part: &Part<'_>, launch: &Launch<'_>, batch: usize, only: Option<usize>) -> Sources {
    let mut sources = Sources {
        q: BTreeMap::new(),
        k: BTreeMap::new(),
        v: BTreeMap::new(),
        group: BTreeMap::new(),
        reads: BTreeMap::new(),
    };
    // Means are over all heads, whatever attends to them.
    let all: Vec<usize> = match only {
        Some(head) => vec![head],
        None if reads_all_heads(part.kernel.plan()) => (0..launch.q_heads.len()).collect(),
        None => part.heads.to_vec(),
    };
    for head in all {
        let (q, kv) = (launch.q_heads[head], launch.kv_heads[head]);
        sources.reads.insert(head, (q, kv));
        sources.q.insert(q, kv_view(&launch.q, batch, q));
        sources.k.insert(kv, kv_view(&launch.k, batch, kv));
        sources.v.insert(kv, kv_view(&launch.v, batch, kv));
        let all = launch.kv_heads.iter().zip(launch.q_heads).filter(|(k, _)| **k == kv).map(|(_, q)| *q);
        sources.group.entry(kv).or_insert_with(|| {
            let mut all: Vec<usize> = all.collect();
            all.sort_unstable();
            all.dedup();
            all
        });
    }
    sources
}

/// The tables that were made for a job, by draw.
///
/// # Safety
/// [`make`] has made them, and the workspace still holds them.
pub(crate) unsafe fn tables_of(plan: &Plan, bound: &Bound<'_>) -> Vec<(DrawId, DrawTable)> {
    let draws = plan.chooses.iter().flat_map(|c| &plan.program.select(c.select).tables);
    let made = |draw: &&DrawId| !bound.draws[draw.0 as usize].selected.is_null();
    draws
        .filter(made)
        // SAFETY: promised by the caller.
        .map(|&draw| (draw, unsafe { crate::select::table_of(&bound.draws[draw.0 as usize]) }))
        .collect()
}

impl CpuKernel {
    /// Whether its launches make levels or tables before they attend.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.plan().is_dynamic()
    }
}
