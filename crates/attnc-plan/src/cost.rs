//! Exact cost before running: entries, useful and executed operations, tiles, bytes.
//!
//! Counted from row sets, query by query, in memory of a few numbers a tile of queries. The executed
//! count is `2 (d_k + d_v)` for each pair of a key and a lane that the target visits; the target says which these are
//! from what the panels of a tile of queries attend to ([`Visits`]). The same walk counts what each task does
//! ([`Work`]), from which [`crate::model`] predicts time. Sums stop at the largest number there is, and
//! [`Cost::fits`] says that none did. Nothing here knows of time.

use attnc_pattern::analysis::{EvalError, Row, RowWalker, Rows};
use attnc_pattern::env::Env;
use attnc_pattern::expr::{Bin, ExprId, Node, OrderId, Ty, Un, Var};
use attnc_pattern::order;
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{Budget, Empty, Index, Program};
use attnc_pattern::rowset::RowSet;
use attnc_pattern::slots;

use crate::choose::{Choose, env_of, stand_in, stands};
use crate::inplace;
use crate::model::{Term, Work};
use crate::plan::{self, Attend, Entry, Few, Plan, Tile, View};
use crate::verify::VerifiedPlan;

/// Cost of one head, or of several that are computed together.
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
    /// Values of pairs of a row and a candidate that selections compute.
    pub scores: u64,
    /// What of `executed_flops` is for them.
    pub score_flops: u64,
    /// Slots of levels that are computed, of Q, K and V each.
    pub pooled: u64,
    /// Something of it depends on the data: it is then what is possible at most.
    pub bounded: bool,
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
            entries: self.entries.saturating_add(other.entries),
            useful_flops: self.useful_flops.saturating_add(other.useful_flops),
            executed_flops: self.executed_flops.saturating_add(other.executed_flops),
            full_tiles: self.full_tiles.saturating_add(other.full_tiles),
            partial_tiles: self.partial_tiles.saturating_add(other.partial_tiles),
            empty_rows: self.empty_rows.saturating_add(other.empty_rows),
            max_row: self.max_row.max(other.max_row),
            scores: self.scores.saturating_add(other.scores),
            score_flops: self.score_flops.saturating_add(other.score_flops),
            pooled: self.pooled.saturating_add(other.pooled),
            bounded: self.bounded || other.bounded,
            bytes_min: self.bytes_min.saturating_add(other.bytes_min),
            bytes_tiles: self.bytes_tiles.saturating_add(other.bytes_tiles),
        }
    }

    /// Whether every sum is exact: none has reached the largest number there is.
    #[must_use]
    pub fn fits(&self) -> bool {
        let Cost { entries, useful_flops, executed_flops, scores, pooled, bytes_min, bytes_tiles, .. } = self;
        ![entries, useful_flops, executed_flops, scores, pooled, bytes_min, bytes_tiles].contains(&&u64::MAX)
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

/// Keys of a tile.
const TILE: i64 = u64::BITS as i64;

/// Lanes of a panel: a target leaves out keys for whole panels of queries, and some for half of one.
pub const PANEL: usize = 16;
/// Lanes of half a panel.
const HALF: usize = PANEL / 2;

/// What a target visits for a tile of queries.
pub trait Visits {
    /// For a tile of `rows` queries, of which nothing has been taken.
    fn of(rows: usize) -> Self;

    /// Lanes that visit a key of use to every query.
    fn lanes(&self) -> usize;

    /// Takes a tile of 64 keys, of which each half panel of queries attends to the given ones. Tiles come in ascending
    /// order.
    fn tile(&mut self, halves: &[u64]);

    /// What is visited for them, all tiles having been taken.
    fn finish(self) -> Visited;
}

/// What a target visits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    /// Pairs of a key and a lane of panels that visit it: what is waited for with the widest vectors.
    pub pairs: u64,
    /// Those of them for which nothing is computed, since half a panel has no use for them.
    pub spared: u64,
    /// Groups of keys that are visited together.
    pub chunks: u64,
    /// Keys that are collected one by one.
    pub gathered: u64,
}

/// What one head costs, or several that are computed together, and what their tasks do.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// All of it.
    pub cost: Cost,
    /// What a launch does once for all heads of this plan, on one thread.
    pub once: Work,
    /// For each stage its tasks, in ascending order. A stage begins when the one before it is done. Those that choose
    /// come first.
    pub stages: Vec<Vec<Work>>,
    /// What of the cost each stage that chooses has.
    pub choosing: Vec<Cost>,
}

impl Counted {
    /// The same of a head that lacks some of the stages that choose, as their scores are made for another.
    #[must_use]
    pub fn without(&self, stages: &[bool]) -> Counted {
        let mut rest = self.clone();
        for (at, cost) in self.choosing.iter().enumerate().filter(|(at, _)| stages.get(*at) == Some(&true)) {
            rest.stages[at].clear();
            for (sum, part) in [
                (&mut rest.cost.scores, cost.scores),
                (&mut rest.cost.score_flops, cost.score_flops),
                (&mut rest.cost.executed_flops, cost.executed_flops),
                (&mut rest.cost.bytes_tiles, cost.bytes_tiles),
            ] {
                // What does not fit stays what does not fit.
                *sum = if *sum == u64::MAX { *sum } else { sum.saturating_sub(part) };
            }
        }
        rest
    }
}

/// Counts one head under `env`.
///
/// # Errors
/// An expression that cannot be evaluated (overflow, an index out of range).
pub fn cost<V: Visits>(plan: &VerifiedPlan, env: &Env<'_>, shape: Shape) -> Result<Cost, EvalError> {
    Ok(count::<V>(plan, env, shape)?.cost)
}

/// Counts one head under `env`, task by task.
///
/// # Errors
/// As for [`cost`].
pub fn count<V: Visits>(plan: &VerifiedPlan, env: &Env<'_>, shape: Shape) -> Result<Counted, EvalError> {
    Ok(count_while::<V>(plan, env, shape, 1, &mut |_| true)?.unwrap_or_default())
}

/// The same of `heads` heads that are computed together where queries are few, else 1, as long as `goes_on` says so, which
/// is told what each task does that attends, at least; `None` if it does not.
///
/// # Errors
/// As for [`cost`].
pub fn count_while<V: Visits>(
    plan: &VerifiedPlan,
    env: &Env<'_>,
    shape: Shape,
    heads: usize,
    goes_on: &mut dyn FnMut(&Work) -> bool,
) -> Result<Option<Counted>, EvalError> {
    let mut count = Count { goes_on: Some(goes_on), ..Count::of(shape) };
    let (mut stages, mut choosing) = (Vec::with_capacity(plan.stages.len()), Vec::new());
    let filled;
    let mut env = env;
    if !plan.chooses.is_empty() {
        filled = Env { draws: stand_in(plan, env)?, ..env.clone() };
        env = &filled;
    }
    let made = || plan.chooses.iter().filter(|c| !c.is_given(env));
    for choose in &plan.chooses {
        // What a caller gives costs nothing.
        let more = if choose.is_given(env) { Count::of(shape) } else { choice::<V>(plan, choose, env, shape)? };
        count.total = count.total.and(more.total);
        choosing.push(more.total);
        stages.push(more.tasks);
    }
    if plan.is_dynamic() {
        count.total.pooled = pooled(plan, env)?;
        count.total.bounded = made().any(|c| {
            let budget = &plan.program.select(c.select).budget;
            !matches!(budget, Budget::Top(_) | Budget::Frac(_) | Budget::Nearest(_) | Budget::Refine(_))
        });
    }
    if plan.stages.len() > 1 {
        count.of_row = Some(vec![0; heads * usize::try_from(env.n_q).unwrap_or(0)]);
    }
    let moduli = moduli_of(plan, env)?;
    // Where queries are few, those that are lanes of one tile.
    let tiles: Option<Vec<Vec<u32>>> = match (plan.few(env.n_q), plan.stages.as_slice()) {
        (None, _) => None,
        (Some(Few::Together), [Attend { view: View::Walk(order), .. }]) => Some(vec![walk(plan, *order, env)?]),
        (Some(Few::Together), _) => Some(vec![(0..env.n_q as u32).collect()]),
        (Some(Few::Apart), _) => Some(plan::queries_by_class(&moduli, env.n_q)),
    };
    for (i, stage) in plan.stages.iter().enumerate() {
        let sets: Vec<Set> = stage.entries.iter().filter_map(|e| Set::new(&plan.program, stage, e)).collect();
        // Slots that are keys have an environment of their own.
        let slots = stage.reads.kv.map(|level| env_of(&plan.program, Index::Slots(level), env).map_err(no_value));
        let slots = slots.transpose()?;
        let of = slots.as_ref().unwrap_or(env);
        if let View::Walk(_) | View::Ordered { .. } = stage.view {
            count.once[Term::Ordered] += env.n_q.unsigned_abs();
        }
        let modulus = moduli[i];
        let class = |first: i64| match stage.view {
            View::Classes(_) => env.of_class(modulus, (env.q_start + first) % modulus),
            _ => of.clone(),
        };
        match (stage.view, &tiles) {
            (_, Some(tiles)) => {
                for tile in tiles {
                    let of = class(i64::from(tile[0]));
                    // Lanes of a head follow those of another.
                    let lanes = tile.len() as i64;
                    let query = |i: i64| {
                        let number = i64::from(tile[(i % lanes) as usize]);
                        (of.q_start + number / modulus, i / lanes * env.n_q + number)
                    };
                    count.stage::<V>(stage, &sets, &of, heads as i64 * lanes, None, query)?;
                }
            }
            (View::Rows, None) => {
                let Some(rows) = &plan.rows else { continue };
                for (branch, rows) in inplace::positions(plan, rows, env)?.into_iter().enumerate() {
                    let of = Env { branch: branch as i64, ..of.clone() };
                    let row = |i: i64| (rows[i as usize], (rows[i as usize] - env.q_start).min(env.n_q - 1).max(0));
                    count.stage::<V>(stage, &sets, &of, rows.len() as i64, None, row)?;
                }
            }
            (View::Given, None) => {
                count.stage::<V>(stage, &sets, of, of.n_q, None, |i| (of.q_start + i, i))?;
            }
            (View::Walk(order), None) => {
                let walk = walk(plan, order, env)?;
                let number = |i: i64| i64::from(walk[i as usize]);
                let query = |i: i64| (of.q_start + number(i), number(i));
                count.stage::<V>(stage, &sets, of, of.n_q, None, query)?;
            }
            (View::Ordered { queries, keys }, None) => {
                count.once[Term::Ordered] += env.n_k.unsigned_abs();
                let Ranked { rows, present, of } = Ranked::new(&plan.program, env, (queries, keys))?;
                let query = |i: i64| (i64::from(rows[i as usize].0), i64::from(rows[i as usize].1));
                count.stage::<V>(stage, &sets, &of, env.n_q, present.as_deref(), query)?;
            }
            (View::Classes(_), None) => {
                for first in 0..modulus.min(env.n_q) {
                    let of = class(first);
                    count.stage::<V>(stage, &sets, &of, of.n_q, None, |i| (of.q_start + i, first + modulus * i))?;
                }
            }
        }
        let mut tasks = std::mem::take(&mut count.tasks);
        for task in &mut tasks {
            // A stage that goes on from another reads what that has written.
            task[Term::Rows] *= if i > 0 && tiles.is_none() { 2 } else { 1 };
            if plan.empty == Some(Empty::Error) {
                // Rows without entries are looked for first.
                for term in [Term::Tiles, Term::Bits, Term::Tested] {
                    task[term] *= 2;
                }
            }
        }
        stages.push(tasks);
    }
    if count.stopped {
        return Ok(None);
    }
    let mut total = count.total;
    for row in count.of_row.into_iter().flatten() {
        total.max_row = total.max_row.max(row & !NULL);
        total.empty_rows += u64::from(row == 0);
    }
    total.useful_flops = total.entries.saturating_mul(2 * (shape.d_k + shape.d_v));
    let rows = env.n_q.unsigned_abs().saturating_mul(heads as u64).saturating_add(env.n_k.unsigned_abs());
    total.bytes_min = rows.saturating_mul(count.row_bytes);
    Ok(Some(Counted { cost: total, once: count.once, stages, choosing }))
}

/// Counts the queries of `env`, which is in the numbering of the stage, with each of several tiles: what the tasks do.
pub(crate) fn sample<V: Visits>(
    program: &Program,
    stage: &Attend,
    env: &Env<'_>,
    tiles: &[usize],
    shape: Shape,
) -> Result<Vec<Work>, EvalError> {
    let sets: Vec<Set> = stage.entries.iter().filter_map(|e| Set::new(program, stage, e)).collect();
    let mut works = Vec::with_capacity(tiles.len());
    for &q in tiles {
        let mut count = Count::of(shape);
        let tiled = Attend { tile: Tile { q, ..stage.tile }, entries: vec![], ..stage.clone() };
        count.stage::<V>(&tiled, &sets, env, env.n_q, None, |i| (env.q_start + i, i))?;
        let mut work = Work::default();
        count.tasks.iter().for_each(|task| work.add(task, 1));
        works.push(work);
    }
    Ok(works)
}

/// Numbers of queries in an order.
fn walk(plan: &Plan, order: OrderId, env: &Env<'_>) -> Result<Vec<u32>, EvalError> {
    order::walk(&plan.program, order, env).map_err(|e| EvalError::Missing { what: e.to_string() })
}

/// The moduli of a plan's stages: 1 for one without classes.
///
/// # Errors
/// An expression without a value.
pub fn moduli_of(plan: &Plan, env: &Env<'_>) -> Result<Vec<i64>, EvalError> {
    let of = |stage: &Attend| {
        let View::Classes(modulus) = stage.view else { return Ok(1) };
        let known = plan.program.exprs.as_int(modulus).map_or_else(|| order::size(&plan.program, env, modulus), Ok);
        known.map(|modulus| modulus.max(1)).map_err(|e| EvalError::Missing { what: e.to_string() })
    };
    plan.stages.iter().map(of).collect()
}

/// A launch in the numbering by orders.
struct Ranked<'a> {
    /// Index and number of each query, ascending by index.
    rows: Vec<(u32, u32)>,
    /// Ranges of the indices of keys that the launch has; `None` if it has all.
    present: Option<Vec<(i64, i64)>>,
    of: Env<'a>,
}

impl<'a> Ranked<'a> {
    fn new(program: &Program, env: &Env<'a>, (queries, keys): (OrderId, OrderId)) -> Result<Ranked<'a>, EvalError> {
        let ranked = |order: OrderId, start, len| {
            let missing = |e: String| EvalError::Missing { what: e };
            let index = order::of(program, order, env).map_err(|e| missing(e.to_string()))?;
            let ranked = order::ranked(&index, start, len);
            let ranked = ranked.ok_or_else(|| missing(format!("order `{}`", program.order(order).name)))?;
            Ok((ranked, index.len() as i64))
        };
        let (rows, of_queries) = ranked(queries, env.q_start, env.n_q)?;
        let (listed, of_keys) = ranked(keys, env.k_start, env.n_k)?;
        let present = (env.n_k < of_keys).then(|| {
            let mut ranges: Vec<(i64, i64)> = Vec::new();
            for (at, _) in listed {
                let at = i64::from(at);
                match ranges.last_mut() {
                    Some(last) if last.1 == at => last.1 += 1,
                    _ => ranges.push((at, at + 1)),
                }
            }
            ranges
        });
        Ok(Ranked { rows, present, of: env.in_orders(of_queries, of_keys) })
    }
}

fn no_value(e: EnvError) -> EvalError {
    EvalError::Missing { what: e.to_string() }
}

/// What a selection takes: values of pairs, and what is executed for them.
fn choice<V: Visits>(plan: &Plan, choose: &Choose, env: &Env<'_>, shape: Shape) -> Result<Count<'static>, EvalError> {
    let shape = Shape { d_v: 0, ..shape };
    let mut count = Count::of(shape);
    let Some(scored) = &choose.scored else { return Ok(count) };
    let program = &*plan.program;
    let rows = slots::rows(program, scored.item_rows, env).map_err(no_value)?;
    let mut stands = stands(program, scored.item_rows, env, rows).map_err(no_value)?;
    let there = scored.rows_there(program, env, &stands)?;
    let mut there = there.iter();
    stands.retain(|_| there.next().is_some_and(|there| *there));
    let mut of = env_of(program, scored.items, env).map_err(no_value)?;
    if scored.searched {
        count.total = search(plan, choose, env, (stands.len(), of.n_k, shape.d_k))?;
        return Ok(count);
    }
    of.n_q = stands.len() as i64;
    if let Some(listed) = scored.items_listed(program, env)? {
        (of.k_start, of.n_k) = (0, listed.len() as i64);
    }
    let sets: Vec<Set> = scored.walk.entries.iter().filter_map(|e| Set::new(program, &scored.walk, e)).collect();
    count.stage::<V>(&scored.walk, &sets, &of, of.n_q, None, |i| (stands[i as usize], i))?;
    let flops = if scored.dot.is_some() { count.total.executed_flops } else { 0 };
    count.total = Cost {
        scores: count.total.entries,
        executed_flops: flops,
        score_flops: flops,
        bytes_tiles: count.total.bytes_tiles,
        ..Cost::default()
    };
    Ok(count)
}

/// What a search looks at, at most: in each round two halves of every node, each with the keys of a slot, for all item
/// rows of a row.
fn search(
    plan: &Plan,
    choose: &Choose,
    env: &Env<'_>,
    (item_rows, items, d): (usize, i64, u64),
) -> Result<Cost, EvalError> {
    let program = &*plan.program;
    let select = program.select(choose.select);
    let Budget::Refine(refine) = &select.budget else { return Ok(Cost::default()) };
    let rows = slots::rows(program, select.rows, env).map_err(no_value)?;
    let stands = stands(program, select.rows, env, rows).map_err(no_value)?;
    let pairs = env_of(program, select.slots, env).map_err(no_value)?;
    let all = slots::candidates(program, select.slots, env).map_err(no_value)?;
    let keys = (items as u64).div_ceil((all.end - all.start).max(1) as u64);
    let queries = item_rows.div_ceil(stands.len().max(1)) as u64;
    let set = Rows::new(program, &choose.candidates.rows);
    let mut walker = set.walker(&pairs)?;
    let leaves = refine.leaves.unsigned_abs().max(1);
    let mut scores = 0_u64;
    for q in stands {
        let c = walker.row(q)?.count();
        let rounds = if c > leaves { u64::from(u64::BITS - (c.div_ceil(leaves) - 1).leading_zeros()) } else { 0 };
        let each = rounds.saturating_mul(leaves.saturating_mul(2).min(c)).saturating_mul(keys);
        scores = each.saturating_mul(queries).saturating_add(scores);
    }
    let flops = scores.saturating_mul(2 * d);
    Ok(Cost { scores, executed_flops: flops, score_flops: flops, ..Cost::default() })
}

/// Slots of levels that are computed, of all operands.
fn pooled(plan: &Plan, env: &Env<'_>) -> Result<u64, EvalError> {
    let mut total = 0_u64;
    for pool in &plan.pools {
        let slots = slots::integer(&plan.program, env, plan.program.level(pool.level).slots).map_err(no_value)?;
        let operands = [pool.of.q, pool.of.k, pool.of.v].into_iter().filter(|o| *o).count();
        total = slots.unsigned_abs().saturating_mul(operands as u64).saturating_add(total);
    }
    Ok(total)
}

/// The keys of an entry, and what finding and scoring them takes.
struct Set {
    rows: Rows,
    /// Where keys are tested one by one: those keys, and the operations of a test.
    tested: Option<(Rows, u64)>,
    /// Operations of modifiers for each pair.
    modifiers: Modifiers,
}

impl Set {
    fn new(program: &Program, stage: &Attend, entry: &Entry) -> Option<Set> {
        let Entry::Tokens { rows, bias, .. } = entry else { return None };
        let filters: Vec<ExprId> = rows.pieces.iter().filter_map(|p| p.filter).collect();
        let tested = (!filters.is_empty()).then(|| {
            let pieces = rows.pieces.iter().filter(|p| p.filter.is_some());
            let pieces = pieces.cloned().map(|mut piece| {
                piece.filter = None;
                piece
            });
            let reads_key = |id: &&ExprId| program.exprs.reads(**id, |v| v == Var::K);
            let operations = program.exprs.reachable(&filters).iter().filter(reads_key).count() as u64;
            (Rows::new(program, &RowSet { pieces: pieces.collect() }), operations)
        });
        let bias = bias.filter(|_| stage.common_bias(&program.exprs).is_none());
        let roots: Vec<ExprId> = stage.score.into_iter().chain(bias).collect();
        Some(Set { rows: Rows::new(program, rows), tested, modifiers: Modifiers::new(program, &roots) })
    }
}

/// Operations for each pair.
#[derive(Clone, Copy, Default)]
struct Modifiers {
    vector: u64,
    functions: u64,
    lookups: u64,
}

impl Modifiers {
    fn new(program: &Program, roots: &[ExprId]) -> Modifiers {
        let exprs = &program.exprs;
        let mut found = Modifiers { vector: u64::from(!roots.is_empty()), ..Modifiers::default() };
        for id in exprs.reachable(roots) {
            // What does not depend on the key is computed once for many.
            if !exprs.reads(id, |v| matches!(v, Var::K | Var::Score)) {
                continue;
            }
            match exprs.node(id) {
                Node::Var(_) => {}
                Node::Un(Un::Exp | Un::Log | Un::Tanh, _) => found.functions += 1,
                Node::Load(..) | Node::MapAt(..) | Node::Drawn(..) | Node::DrawAt(..) => found.lookups += 1,
                Node::Bin(Bin::Mod, ..) => found.lookups += 1,
                Node::Bin(Bin::Div, ..) if exprs.ty(id) == Ty::Int => found.lookups += 1,
                _ => found.vector += 1,
            }
        }
        found
    }
}

/// In the count of a row, says that it attends to a null slot.
const NULL: u64 = 1 << 63;

/// What has been counted so far.
struct Count<'a> {
    shape: Shape,
    row_bytes: u64,
    total: Cost,
    /// Keys of each row, where a row is met in several stages.
    of_row: Option<Vec<u64>>,
    once: Work,
    /// Tasks of the stage so far.
    tasks: Vec<Work>,
    /// Whether to go on after a task, if anything is to say so, and whether it said no: nothing more is counted then.
    goes_on: Option<&'a mut dyn FnMut(&Work) -> bool>,
    stopped: bool,
}

impl<'a> Count<'a> {
    fn of(shape: Shape) -> Count<'a> {
        let row_bytes = (shape.d_k + shape.d_v).saturating_mul(shape.element);
        let (total, once) = Default::default();
        Count { shape, row_bytes, total, of_row: None, once, tasks: vec![], goes_on: None, stopped: false }
    }

    /// Counts `n_q` queries under `env`; `query` gives the position of the i-th and its number in the launch. Of the
    /// keys of `env` those in the ranges `present` are there.
    fn stage<V: Visits>(
        &mut self,
        stage: &Attend,
        sets: &[Set],
        env: &Env<'_>,
        n_q: i64,
        present: Option<&[(i64, i64)]>,
        query: impl Fn(i64) -> (i64, i64),
    ) -> Result<(), EvalError> {
        let total = &mut self.total;
        let flops = 2 * (self.shape.d_k + self.shape.d_v);
        let null = stage.entries.iter().any(|e| matches!(e, Entry::Null { slots: 1.., .. }));
        let mut walks = sets.iter().map(|set| Walk::new(set, env)).collect::<Result<Vec<_>, _>>()?;
        // Of queries in an order of their own no tile is known to be full before its rows of bits are made.
        let listed = matches!(stage.view, View::Walk(_));
        let bq = stage.tile.q as i64;
        let (mut full, mut merged) = (vec![], vec![]);
        let mut halves: Vec<Vec<(i64, i64)>> = vec![vec![]; stage.tile.q.div_ceil(HALF)];
        let mut row_counts = vec![0u64; bq as usize];
        let mut q0 = 0;
        while q0 < n_q && !self.stopped {
            let rows = bq.min(n_q - q0);
            row_counts.fill(0);
            let mut task = Work::one(Term::Tasks);
            task[Term::Rows] = rows as u64;
            for (walk, set) in walks.iter_mut().zip(sets) {
                halves.iter_mut().for_each(Vec::clear);
                let (mut touched, mut pairs_own) = (0, 0);
                for r in 0..rows {
                    let moved = walk.go_to(query(q0 + r).0, env, present)?;
                    total.entries = total.entries.saturating_add(walk.keys);
                    pairs_own += walk.keys;
                    row_counts[r as usize] += walk.keys;
                    touched += walk.touched;
                    task[Term::Tested] += walk.tested;
                    // A row like the one before adds nothing to its half panel and its tile.
                    if moved || (r as usize).is_multiple_of(HALF) {
                        merge_into(&mut halves[r as usize / HALF], &walk.ranges, &mut merged);
                    }
                    if r == 0 {
                        full.clone_from(&walk.full);
                    } else if moved && !full.is_empty() {
                        full = intersect(&full, &walk.full);
                    }
                }
                let full: i64 = full.iter().map(|(a, b)| b - a).sum();
                let used = (rows as usize).div_ceil(HALF);
                let Tiles { tiles, keys, visited, .. } = visits::<V>(rows as usize, &halves[..used]);
                // Of queries that go one by one, keys that no two share are rows that lie apart.
                let apart = if stage.own && pairs_own <= keys { keys } else { 0 };
                let Visited { pairs, spared, chunks, gathered } =
                    if stage.own { Visited { pairs: pairs_own, chunks: tiles, ..Visited::default() } } else { visited };
                // What lanes take for each pair.
                let (lanes, own) = if stage.own { (0, pairs) } else { (pairs, 0) };
                total.full_tiles += full as u64;
                total.partial_tiles += tiles - full as u64;
                total.executed_flops = (pairs - spared).saturating_mul(flops).saturating_add(total.executed_flops);
                total.bytes_tiles = keys.saturating_mul(self.row_bytes).saturating_add(total.bytes_tiles);

                let known = if listed { 0 } else { full as u64 };
                let whole = full as u64 * (TILE as usize * V::of(rows as usize).lanes()) as u64;
                let Modifiers { vector, functions, lookups } = set.modifiers;
                // Listed keys are gathered wherever they are visited.
                let (far, gathered) = match stage.view {
                    View::Classes(_) => (Term::Strided, gathered),
                    View::Ordered { .. } => (Term::Gathered, 0),
                    View::Given | View::Walk(_) | View::Rows => (Term::Keys, gathered),
                };
                for (term, count) in [
                    (Term::Products, lanes),
                    (Term::Softmax, lanes),
                    (Term::Masked, lanes.saturating_sub(whole)),
                    (Term::Own, own),
                    (far, keys - apart),
                    (Term::Strided, apart),
                    (Term::Gathered, gathered),
                    (Term::Chunks, chunks),
                    (Term::Tiles, tiles - known),
                    (Term::Bits, (touched - full * rows) as u64 + (full as u64 - known) * rows as u64),
                    (Term::Modified, pairs * vector),
                    (Term::Functions, pairs * functions),
                    (Term::Lookups, pairs * lookups),
                ] {
                    task[term] += count;
                }
            }
            self.stopped = self.goes_on.as_mut().is_some_and(|goes_on| !goes_on(&task));
            self.tasks.push(task);
            for (r, count) in row_counts[..rows as usize].iter().enumerate() {
                match &mut self.of_row {
                    Some(of_row) => {
                        let all = &mut of_row[query(q0 + r as i64).1 as usize];
                        *all = (*all + count) | if null { NULL } else { 0 };
                    }
                    None => {
                        total.max_row = total.max_row.max(*count);
                        total.empty_rows += u64::from(*count == 0 && !null);
                    }
                }
            }
            total.bytes_tiles = (rows as u64).saturating_mul(self.row_bytes).saturating_add(total.bytes_tiles);
            q0 += rows;
        }
        Ok(())
    }
}

/// A walk over the rows of a set, and what is counted of the row where it is.
struct Walk<'a> {
    rows: RowWalker<'a>,
    /// Keys that are tested, and the operations of a test.
    tests: Option<(RowWalker<'a>, u64)>,
    /// Keys of the row, counted from the first key of the launch.
    ranges: Vec<(i64, i64)>,
    /// Tiles that they cover.
    full: Vec<(i64, i64)>,
    keys: u64,
    /// Tiles that hold some.
    touched: i64,
    /// Operations of tests.
    tested: u64,
}

impl<'a> Walk<'a> {
    fn new(set: &'a Set, env: &'a Env<'_>) -> Result<Walk<'a>, EvalError> {
        let tests = set.tested.as_ref().map(|(rows, operations)| Ok((rows.walker(env)?, *operations))).transpose()?;
        let rows = set.rows.walker(env)?;
        Ok(Walk { rows, tests, ranges: vec![], full: vec![], keys: 0, touched: 0, tested: 0 })
    }

    /// Goes to the row of the query at position `q`; whether it may be another than the last one.
    fn go_to(&mut self, q: i64, env: &Env<'_>, present: Option<&[(i64, i64)]>) -> Result<bool, EvalError> {
        if let Some((walker, operations)) = &mut self.tests
            && walker.go_to(q)?
        {
            self.tested = *operations * walker.here().count();
        }
        let moved = self.rows.go_to(q)?;
        if moved {
            ranges_of(self.rows.here(), env, present, &mut self.ranges, &mut self.full);
            self.keys = self.ranges.iter().map(|(from, to)| to.abs_diff(*from)).sum();
            self.touched = touched_tiles(&self.ranges);
        }
        Ok(moved)
    }
}

/// Keys of a row, counted from the first key of the launch, and the tiles that it covers. The last tile of the sequence
/// is covered by the keys there are.
fn ranges_of(
    row: &Row,
    env: &Env<'_>,
    present: Option<&[(i64, i64)]>,
    ranges: &mut Vec<(i64, i64)>,
    full: &mut Vec<(i64, i64)>,
) {
    ranges.clear();
    full.clear();
    ranges.extend(row.ranges_from(env.k_start).map(|r| (r.start() - env.k_start, r.end() + 1 - env.k_start)));
    if let Some(present) = present {
        *ranges = intersect(ranges, present);
    }
    for &(start, end) in &*ranges {
        let covered = ((start + TILE - 1) / TILE, if end == env.n_k { (end - 1) / TILE + 1 } else { end / TILE });
        if covered.0 < covered.1 {
            full.push(covered);
        }
    }
}

/// How many tiles hold keys of ascending ranges.
fn touched_tiles(ranges: &[(i64, i64)]) -> i64 {
    let (mut count, mut next) = (0, 0);
    for &(start, end) in ranges {
        let (first, last) = ((start / TILE).max(next), (end - 1) / TILE + 1);
        count += (last - first).max(0);
        next = next.max(last);
    }
    count
}

/// Tiles for a tile of queries.
#[derive(Debug, PartialEq, Eq)]
struct Tiles {
    /// Those that hold keys of some query.
    tiles: u64,
    /// Their keys that some query attends to.
    keys: u64,
    visited: Visited,
}

/// Of the keys that each half panel attends to: the tiles that hold some, their keys, and what is visited for them.
fn visits<V: Visits>(rows: usize, halves: &[Vec<(i64, i64)>]) -> Tiles {
    let (mut tiles, mut keys, mut visits) = (0, 0, V::of(rows));
    // Tiles that every half panel attends to wholly.
    let mut whole = 0;
    // Next range of each half panel.
    let mut next = vec![0; halves.len()];
    let mut bits = vec![0_u64; halves.len()];
    let mut at = 0;
    loop {
        // The tile of the first key at or after `at` that some half panel attends to.
        let mut first = i64::MAX;
        for (ranges, next) in halves.iter().zip(&mut next) {
            while ranges.get(*next).is_some_and(|r| r.1 <= at) {
                *next += 1;
            }
            first = ranges.get(*next).map_or(first, |r| first.min(r.0.max(at)));
        }
        if first == i64::MAX {
            let lanes = visits.lanes();
            let mut visited = visits.finish();
            visited.pairs += whole * (TILE as usize * lanes) as u64;
            visited.chunks += whole;
            return Tiles { tiles, keys, visited };
        }
        at = first / TILE * TILE;
        // As far as every half panel goes on without a gap.
        let until = halves.iter().zip(&next).map(|(r, &n)| r.get(n).filter(|r| r.0 <= at).map_or(at, |r| r.1)).min();
        let many = (until.unwrap_or(at) - at) / TILE;
        if many > 0 {
            tiles += many as u64;
            keys += (many * TILE) as u64;
            whole += many as u64;
            at += many * TILE;
            continue;
        }
        for ((ranges, &next), bits) in halves.iter().zip(&next).zip(&mut bits) {
            *bits = 0;
            for &(start, end) in ranges[next..].iter().take_while(|r| r.0 < at + TILE) {
                let (start, end) = (start.max(at) - at, end.min(at + TILE) - at);
                *bits |= (u64::MAX >> (TILE - (end - start))) << start;
            }
        }
        tiles += 1;
        keys += u64::from(bits.iter().fold(0, |all, b| all | b).count_ones());
        visits.tile(&bits);
        at += TILE;
    }
}

/// Union of two sorted lists of disjoint half-open ranges, into the first; `merged` is working memory.
fn merge_into(into: &mut Vec<(i64, i64)>, from: &[(i64, i64)], merged: &mut Vec<(i64, i64)>) {
    // Most rows add nothing to what the first row of the tile touched, or stretch its ends.
    if let ([a], [b]) = (into.as_mut_slice(), from)
        && a.0 <= b.1
        && b.0 <= a.1
    {
        *a = (a.0.min(b.0), a.1.max(b.1));
        return;
    }
    merged.clear();
    let (mut i, mut j) = (0, 0);
    while i < into.len() || j < from.len() {
        let next = if j == from.len() || (i < into.len() && into[i].0 <= from[j].0) {
            i += 1;
            into[i - 1]
        } else {
            j += 1;
            from[j - 1]
        };
        match merged.last_mut() {
            Some(last) if next.0 <= last.1 => last.1 = last.1.max(next.1),
            _ => merged.push(next),
        }
    }
    std::mem::swap(into, merged);
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
    use super::{HALF, Tiles, Visited, Visits, intersect, merge_into, touched_tiles, visits};

    #[test]
    fn ranges_merge_and_meet() {
        let mut a = vec![(0, 2), (5, 6)];
        let mut work = vec![];
        merge_into(&mut a, &[(1, 3), (6, 9)], &mut work);
        assert_eq!(a, [(0, 3), (5, 9)]);
        merge_into(&mut a, &[(3, 5)], &mut work);
        assert_eq!(a, [(0, 9)]);
        assert_eq!(intersect(&[(0, 4), (6, 9)], &[(2, 7), (8, 20)]), [(2, 4), (6, 7), (8, 9)]);
    }

    #[test]
    fn tiles_are_touched_once() {
        assert_eq!(touched_tiles(&[(0, 1), (2, 3), (63, 65), (70, 71), (640, 704)]), 3);
        assert_eq!(touched_tiles(&[(10, 200)]), 4);
        assert_eq!(touched_tiles(&[]), 0);
    }

    /// Every key of every lane.
    struct All(u64, usize);

    impl Visits for All {
        fn of(rows: usize) -> All {
            All(0, rows.next_multiple_of(HALF))
        }

        fn lanes(&self) -> usize {
            self.1
        }

        fn tile(&mut self, halves: &[u64]) {
            let some = halves.iter().fold(0, |all, b| all | b);
            self.0 += u64::from(some.count_ones()) * (halves.len() * HALF) as u64;
        }

        fn finish(self) -> Visited {
            Visited { pairs: self.0, ..Visited::default() }
        }
    }

    fn found(halves: &[Vec<(i64, i64)>]) -> (u64, u64, u64) {
        let Tiles { tiles, keys, visited } = visits::<All>(halves.len() * HALF, halves);
        (tiles, keys, visited.pairs)
    }

    #[test]
    fn tiles_and_keys_are_counted() {
        // A whole tile, the rest of the next with a hole, and one key far away.
        assert_eq!(found(&[vec![(0, 70), (72, 74), (640, 641)]]), (3, 64 + 9, 8 * (64 + 9)));
        assert_eq!(found(&[vec![(60, 200)], vec![(64, 199)]]), (4, 140, 16 * 140));
        assert_eq!(found(&[vec![], vec![]]), (0, 0, 0));
    }
}
