//! What a plan makes before it attends: levels, and tables of chosen slots.
//!
//! The one idea: both are stages like any other. A [`Pool`] makes rows of a level from rows of its parent; a [`Choose`]
//! walks pairs as an attention does, but keeps the best instead of a softmax of all, and what it keeps is a table that
//! later stages walk by. The dependencies of all stages are a graph ([`Plan::graph`]), which the text and the picture
//! of a plan show. Nothing here knows of kernels or threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use attnc_pattern::analysis::{EvalError, Rows as Ranges, transpose};
use attnc_pattern::env::{Class, DrawTable, Env};
use attnc_pattern::expr::{Bin, DrawId, ExprId, Exprs, Extent, LevelId, Node, SelectId, Un, Var};
use attnc_pattern::oracle::{Evaluator, Point};
use attnc_pattern::prepare::{self, EnvError, Needs};
use attnc_pattern::program::{
    Among, Band, Budget, Chooser, Derived, Empty, Heads, Index, Level, MergeKind, Norm, Operand, Partition,
    Pool as Pooling, Program, Reduce, Rows, Select, Source, Step,
};
use attnc_pattern::rowset::{RowSet, TileSet};
use attnc_pattern::slots;
pub use attnc_pattern::slots::{cut_by_head, weighed};
use attnc_syntax::diag::Span;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::inplace::InPlace;
use crate::plan::{Attend, Entry, Plan, Reads, Role, Tile, View};

/// Makes rows of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The level.
    pub level: LevelId,
    /// Which of its operands something reads.
    pub of: Derived,
}

/// Makes the tables of a selection.
#[derive(Clone, Debug)]
pub struct Choose {
    /// The selection.
    pub select: SelectId,
    /// Candidates of a row: those within, less those had already.
    pub candidates: Listed,
    /// Those had already.
    pub besides: Option<Listed>,
    /// Those that are chosen first.
    pub including: Option<Listed>,
    /// How candidates get their scores; `None` where the nearest are taken, and for channels.
    pub scored: Option<Scored>,
    /// What the scores of channels are taken over.
    pub energy: Option<Energy>,
}

impl Choose {
    /// Expressions that decide about its rows, candidates and scores, but for the operands of a product; then those of the
    /// scores alone.
    fn roots(&self, program: &Program) -> [Vec<ExprId>; 2] {
        let select = program.select(self.select);
        let score = select.score.map(|score| program.score(score));
        let budget = if let Budget::Top(count) = select.budget { Some(count) } else { None };
        let of_score: Vec<ExprId> = score.into_iter().flat_map(|s| s.only.into_iter().chain([s.value])).collect();
        let sets = [select.within, select.besides, select.including, budget, Some(select.capacity)];
        [sets.into_iter().flatten().chain(of_score.iter().copied()).collect(), of_score]
    }

    /// Whether its rows, candidates or scores read the number of the head, or a random choice, which heads may have of
    /// their own.
    #[must_use]
    pub fn differs_by_head(&self, program: &Program) -> bool {
        let [roots, _] = self.roots(program);
        let random = |d: DrawId| matches!(program.draw(d).chooser, Chooser::Random { .. });
        program.exprs.reachable(&roots).into_iter().any(|id| match *program.exprs.node(id) {
            Node::Var(v) => v == Var::Head,
            Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => random(d),
            _ => false,
        })
    }

    /// Tables of other selections that it reads; then those that its scores read.
    #[must_use]
    pub fn tables_read(&self, program: &Program) -> [Vec<DrawId>; 2] {
        let counted = match program.select(self.select).budget {
            Budget::CountOf(other) => program.select(other).tables.clone(),
            _ => vec![],
        };
        let mut found = self.roots(program).map(|roots| {
            let reached = program.exprs.reachable(&roots).into_iter();
            let tables = reached.filter_map(|id| match *program.exprs.node(id) {
                Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => Some(d),
                _ => None,
            });
            tables.collect::<Vec<_>>()
        });
        found[0].extend(counted);
        found
    }

    /// Whether the caller gives its tables.
    #[must_use]
    pub fn is_given(&self, env: &Env<'_>) -> bool {
        env.exchange.selects.contains(&self.select)
    }

    /// Heads that have its tables in common, as all that decides about them is the same: those that read the same head of
    /// Q and of K ([`Heads::Own`]), those that read the same of K, or all; `None` where each head has its own. What a
    /// caller gives or asks for is each head's own besides.
    #[must_use]
    pub fn tables_common(&self, plan: &Plan) -> Option<Heads> {
        self.common(plan, &self.tables_read(&plan.program)[0])
    }

    /// As [`Self::tables_common`], of its scores, which are made once for these heads.
    #[must_use]
    pub fn scores_common(&self, plan: &Plan) -> Option<Heads> {
        // As they are ranked they are not held, and a norm over the head is taken where they lie.
        if self.normed_by_head() || self.scored.as_ref().is_none_or(|s| s.direct || s.searched) {
            return self.tables_common(plan);
        }
        self.common(plan, &self.tables_read(&plan.program)[1])
    }

    /// Heads for which the operands of the product and tables that are read are the same.
    fn common(&self, plan: &Plan, tables: &[DrawId]) -> Option<Heads> {
        let program = &*plan.program;
        if self.energy.is_some() || self.differs_by_head(program) {
            return None;
        }
        // Levels that are cut by head are made for each.
        let apart = plan.pools.iter().any(|p| cut_by_head(program, p.level));
        let of_operand = |operand: Operand| match (operand.rows, operand.heads) {
            (Rows::Tensor(tensor), _) => (program.tensor(tensor).dims.len() == 2).then_some(Heads::All),
            _ if apart => None,
            (_, Heads::Own) if of_queries(operand) => Some(Heads::Own),
            (_, Heads::Own) => Some(Heads::Group),
            (_, heads) => Some(heads),
        };
        let of_table = |draw: &DrawId| match program.draw(*draw).chooser {
            Chooser::Select { .. } => {
                let makes = |c: &&Choose| program.select(c.select).tables.contains(draw);
                plan.chooses.iter().find(makes).and_then(|c| c.tables_common(plan))
            }
            _ => None,
        };
        let dot = self.scored.as_ref().and_then(|s| s.dot);
        let operands = dot.into_iter().flat_map(|(a, b)| [a, b]).map(of_operand);
        let narrower = |a: Option<Heads>, b: Option<Heads>| match (a?, b?) {
            (Heads::Own, _) | (_, Heads::Own) => Some(Heads::Own),
            (Heads::Group, _) | (_, Heads::Group) => Some(Heads::Group),
            (Heads::All, Heads::All) => Some(Heads::All),
        };
        operands.chain(tables.iter().map(of_table)).fold(Some(Heads::All), narrower)
    }

    /// Whether its scores are brought to one scale over the head.
    #[must_use]
    pub fn normed_by_head(&self) -> bool {
        let steps = self.scored.iter().flat_map(|s| &s.steps);
        steps.into_iter().any(|s| matches!(s, Step::Norm { head: true, .. }))
    }
}

/// Scores of channels: the mean square of a channel over these queries, times that over these keys.
#[derive(Clone, Debug)]
pub struct Energy {
    /// Queries and keys exchanged: candidates are queries.
    pub queries: Listed,
    /// Candidates are keys.
    pub keys: Listed,
}

impl Energy {
    /// Rows of Q and rows of K over which it is taken: ranges, counted from the first row of each.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn ranges(&self, program: &Program, env: &Env<'_>) -> Result<[Vec<Range<i64>>; 2], EvalError> {
        let exchanged = exchanged(env);
        let listed = |listed: &Listed, of: &Env<'_>| {
            let ranges = listed.ranges(program, of)?;
            Ok(ranges.into_iter().map(|r| r.start - of.k_start..r.end - of.k_start).collect())
        };
        Ok([listed(&self.queries, &exchanged)?, listed(&self.keys, env)?])
    }
}

/// The environment of a set with query and key exchanged ([`transpose`]).
fn exchanged<'a>(env: &Env<'a>) -> Env<'a> {
    Env { n_q: env.n_k, n_k: env.n_q, q_start: env.k_start, k_start: env.q_start, ..env.clone() }
}

/// A set of candidates, and for each row the ranges of them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The set: a pair expression ([`attnc_pattern::selection`]).
    pub set: ExprId,
    /// For one row.
    pub rows: RowSet,
}

impl Listed {
    pub(crate) fn of(set: ExprId) -> Listed {
        Listed { set, rows: RowSet::default() }
    }

    /// The candidates, where these are the same for every row.
    fn ranges(&self, program: &Program, env: &Env<'_>) -> Result<Vec<Range<i64>>, EvalError> {
        let row = Ranges::new(program, &self.rows).row(env, env.q_start)?;
        let (mut found, mut from, last) = (Vec::new(), env.k_start, env.k_start + env.n_k);
        while let Some((start, end)) = row.next_from(from).filter(|_| from < last) {
            found.push(start.max(env.k_start)..end.min(last));
            from = end.max(from + 1);
        }
        Ok(found)
    }
}

/// Scores of item pairs.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Item pairs: rows stand at positions that a launch lists, the set says which pairs there are, the modifier what
    /// the value of a pair is.
    pub walk: Attend,
    /// The operands of the product, if there is one.
    pub dot: Option<(Operand, Operand)>,
    /// What is done to the values, in order.
    pub steps: Vec<Step>,
    /// Rows of the items.
    pub item_rows: Index,
    /// Candidates of the items.
    pub items: Index,
    /// Items are candidates, and the set says which of them a row has: the best are kept as they come. Otherwise all
    /// values of all rows and candidates are held at once.
    pub direct: bool,
    /// Only items of listed candidates are scored, round by round.
    pub searched: bool,
    /// Which item rows there are, with query and key exchanged: candidates are positions of queries. Others have no
    /// items, or their values are not asked for.
    pub sampled: Option<Listed>,
    /// Which items there are, where that is the same for every row: these alone are walked, by their number among them.
    /// The set then says nothing of items.
    pub listed: Option<Listed>,
}

/// What has no plan: in words, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `merges`, say.
    pub what: String,
    /// Where.
    pub span: Span,
}

/// The level that has the rows of an operand: the level itself, or the nearest ancestor that derives it; `None` is the
/// tokens.
#[must_use]
pub fn origin(program: &Program, level: LevelId, operand: fn(Derived) -> bool) -> Option<LevelId> {
    let mut at = Some(level);
    while let Some(level) = at {
        if operand(program.level(level).of) {
            break;
        }
        at = program.level(level).parent;
    }
    at
}

/// Whether the rows of an operand are those of queries; else of keys.
#[must_use]
pub fn of_queries(operand: Operand) -> bool {
    matches!(operand.rows, Rows::Q | Rows::LevelQ(_))
}

/// The level whose rows an operand has.
#[must_use]
pub fn level_of(operand: Operand) -> Option<LevelId> {
    match operand.rows {
        Rows::LevelQ(level) | Rows::LevelK(level) => Some(level),
        _ => None,
    }
}

/// Operands of the selections of a plan that are not rows as they lie, each once.
#[must_use]
pub fn prepared(plan: &Plan) -> Vec<Operand> {
    let dots = plan.chooses.iter().filter_map(|c| c.scored.as_ref()?.dot);
    let mut found: Vec<Operand> = Vec::new();
    for operand in dots.flat_map(|(a, b)| [a, b]) {
        if (operand.heads != Heads::Own || operand.unit) && !found.contains(&operand) {
            found.push(operand);
        }
    }
    found
}

/// Whether selections read rows of other heads than their own.
#[must_use]
pub fn reads_all_heads(plan: &Plan) -> bool {
    prepared(plan).iter().any(|operand| operand.heads != Heads::Own)
}

/// Whether the slots of a level are tokens: its queries then score its keys.
#[must_use]
pub fn tokenwise(program: &Program, level: LevelId) -> bool {
    matches!(program.level(level).pool, Pooling::Channels(_) | Pooling::Quantised { .. })
}

/// Levels and selections of an attention, each after those that it reads.
pub(crate) fn stages(program: &mut Arc<Program>, attention: usize) -> Result<(Vec<Pool>, Vec<Choose>), Missing> {
    let needs = prepare::needs(program, &[attention]);
    if let Some(missing) = missing(program, &needs, attention) {
        return Err(missing);
    }
    let mut chooses = Vec::with_capacity(needs.selects.len());
    for &select in &needs.selects {
        chooses.push(choose(Arc::make_mut(program), select)?);
    }
    let pools = pools(program, &needs, &chooses);
    let operands = || chooses.iter().filter_map(|c| c.scored.as_ref()?.dot).flat_map(|(a, b)| [a, b]);
    if let Some(pool) = pools.iter().find(|p| cut_by_head(program, p.level))
        && operands().any(|o| o.heads != Heads::Own)
    {
        let what = "means over heads beside levels that are cut for each head apart".to_owned();
        return Err(Missing { what, span: program.level(pool.level).span });
    }
    for choose in &chooses {
        let operands = choose.scored.as_ref().and_then(|s| s.dot).into_iter().flat_map(|(a, b)| [a, b]);
        let thin = operands.filter_map(|o| match o.rows {
            Rows::LevelQ(level) | Rows::LevelK(level) => Some(program.level(level)),
            _ => None,
        });
        if let Some(level) = thin.into_iter().find(|l| matches!(l.pool, Pooling::Channels(_))) {
            return Err(Missing { what: "scores of levels of some channels".to_owned(), span: level.span });
        }
    }
    Ok((pools, chooses))
}

/// What of an attention has no plan.
fn missing(program: &Program, needs: &Needs, attention: usize) -> Option<Missing> {
    for &a in &needs.attentions {
        let written = &program.attentions[a];
        let what = match (&written.merge, &written.pooled) {
            (Some(merge), _) if a == attention && matches!(merge.kind, MergeKind::Mean { branches: Some(_) }) => {
                continue;
            }
            (Some(_), _) => "merges within merges over branches",
            (None, Some(_)) if a != attention => "queries that are slots of a level in branches of a merge",
            (None, Some(_)) if written.empty == Some(Empty::Error) => {
                "a search for empty rows where queries are slots of a level: write `empty = zero`"
            }
            (None, None) if a != attention && written.empty == Some(Empty::Error) => {
                "a search for empty rows in branches of a merge: write `empty = zero`"
            }
            _ => continue,
        };
        return Some(Missing { what: what.to_owned(), span: written.span });
    }
    for &id in &needs.levels {
        let level = program.level(id);
        let what = match level.pool {
            Pooling::Channels(_) if level.parent.is_some() || level.of.v => {
                "levels of some channels, of other levels or of values"
            }
            _ if level.parent.is_some_and(|parent| matches!(program.level(parent).pool, Pooling::Channels(_))) => {
                "levels of levels of some channels"
            }
            _ => continue,
        };
        return Some(Missing { what: what.to_owned(), span: level.span });
    }
    None
}

/// What a selection chose for one head.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Batch item.
    pub batch: usize,
    /// Head of the output.
    pub head: usize,
    /// Number of the table in the program.
    pub draw: DrawId,
    /// The table.
    pub table: DrawTable,
}

/// How large the tables of a selection are, the same in every head with the same lengths and data.
#[derive(Debug)]
pub struct Extents {
    /// Rows.
    pub rows: Range<i64>,
    /// Where each stands.
    pub stands: Vec<i64>,
    /// Candidates.
    pub slots: Range<i64>,
    /// Most entries of a row.
    pub capacity: usize,
}

impl Extents {
    /// Those of a launch.
    ///
    /// # Errors
    /// What has no value.
    pub fn new(program: &Program, select: &Select, env: &Env<'_>) -> Result<Extents, EnvError> {
        let rows = slots::rows(program, select.rows, env)?;
        let stands = stands(program, select.rows, env, rows.clone())?;
        let slots = slots::candidates(program, select.slots, env)?;
        let most = slots::integer(program, env, select.capacity)?;
        let capacity = most.clamp(0, (slots.end - slots.start).max(0)) as usize;
        Ok(Extents { rows, stands, slots, capacity })
    }
}

/// The stage of a selection.
fn choose(program: &mut Program, id: SelectId) -> Result<Choose, Missing> {
    let select = program.select(id).clone();
    let missing = |what: &str| Missing { what: what.to_owned(), span: select.span };
    if select.slots == Index::Channels {
        return channels(program, id).ok_or_else(|| missing("selections of channels by anything but their energy"));
    }
    // As candidates, queries have their own numbers: lengths of the launch have other names.
    let of_queries = |exprs: &mut Exprs, set: ExprId| match select.slots {
        Index::Queries => of_launch(exprs, set),
        _ => set,
    };
    let exprs = &mut program.exprs;
    let new = select.besides.map(|set| exprs.not(set));
    let candidates = exprs.and(select.within.into_iter().chain(new));
    let besides = select.besides.map(|set| Listed::of(exprs.and(select.within.into_iter().chain([set]))));
    let including = select.including.map(|set| Listed::of(exprs.and([candidates, set])));
    let sets = [Some(candidates), besides.as_ref().map(|l| l.set), including.as_ref().map(|l| l.set)];
    if sets.into_iter().flatten().any(|set| exprs.reads(set, |v| v == Var::Branch)) {
        return Err(missing("candidates that differ between branches"));
    }
    let candidates = of_queries(exprs, candidates);
    let [besides, including] = [besides, including].map(|l| l.map(|l: Listed| Listed::of(of_queries(exprs, l.set))));
    let made =
        |scored| Choose { select: id, candidates: Listed::of(candidates), besides, including, scored, energy: None };
    let Some(score) = select.score else { return Ok(made(None)) };
    let score = program.score(score).clone();
    let (item_rows, items) = match score.dot {
        Some((a, b)) => {
            let plain = |o: Operand| !matches!(o.rows, Rows::Tensor(_)) || (o.heads == Heads::Own && !o.unit);
            if !plain(a) || !plain(b) {
                return Err(missing("a tensor's rows as means or of length 1: give it so"));
            }
            (rows_of(program, a), rows_of(program, b))
        }
        None => before(&score.steps, score.rows, score.slots),
    };
    let of_branches = matches!(item_rows, Index::Branches(_));
    if !matches!(item_rows, Index::Queries | Index::Slots(_) | Index::One | Index::Branches(_))
        || !(matches!(items, Index::Keys | Index::Slots(_)) || (items == Index::Queries && of_branches))
        || (of_branches && score.steps.iter().any(|s| matches!(s, Step::Queries { .. })))
        || [Some(score.value), score.only].into_iter().flatten().any(|e| program.exprs.reads(e, |v| v == Var::Branch))
    {
        return Err(missing("scores of other rows than those of queries against keys"));
    }
    let mut seen = false;
    for step in &score.steps {
        match step {
            Step::Queries { .. } if seen => return Err(missing("scores that reduce queries twice")),
            Step::Queries { .. } => seen = true,
            Step::Norm { head: true, .. } if !seen && score.steps.iter().any(|s| matches!(s, Step::Queries { .. })) => {
                return Err(missing("scores that are normed over a head before queries are reduced"));
            }
            _ => {}
        }
    }
    let searched = matches!(select.budget, Budget::Refine(_));
    if searched {
        // A search looks at few candidates: nothing may depend on the others.
        let alone = |i: usize, s: &Step| match s {
            Step::Keys { into, .. } => i == 0 && *into == select.slots,
            Step::Queries { into, .. } => *into == select.rows,
            Step::Norm { .. } => false,
        };
        if !score.steps.iter().enumerate().all(|(i, s)| alone(i, s))
            || (score.rows, score.slots) != (select.rows, select.slots)
        {
            return Err(missing("searches by a score that is normed, or that is of other rows or slots"));
        }
    }
    let same = !searched && score.steps.is_empty() && (score.rows, score.slots) == (select.rows, select.slots);
    let mass = matches!(&select.budget, Budget::Mass(_))
        || matches!(&select.budget, Budget::Bands(bands) if bands.iter().any(|b| b.mass));
    let apart = select.besides.is_some() || select.including.is_some();
    let direct = same && select.pool == Among::Row && !(mass && apart);
    let exprs = &mut program.exprs;
    let mut all: Vec<ExprId> = score.only.into_iter().collect();
    if direct {
        all.push(candidates);
        // What is forced is noted apart.
        all.extend(select.including.map(|set| exprs.not(set)));
    }
    let reduced = score.steps.iter().any(|s| matches!(s, Step::Queries { .. }));
    let sampled = score.only.filter(|_| reduced).map(|only| alone(exprs, only, Var::Q));
    let sampled = sampled.filter(|&e| exprs.as_bool(e).is_none());
    let mut set = exprs.and(all);
    let mut listed = None;
    // By their numbers items have no positions: nothing but their slot may depend on these.
    if let (Some(only), Some(Step::Keys { .. })) = (score.only, score.steps.first())
        && !searched
        && !exprs.reads(score.value, |v| v == Var::K)
        // Of slots, lengths are numbers of slots.
        && (items == Index::Keys || ![score.value, only].iter().any(|&e| exprs.reads(e, |v| matches!(v, Var::NK | Var::KStart))))
    {
        let (of_rows, of_items) = (alone(exprs, only, Var::Q), alone(exprs, only, Var::K));
        let apart = exprs.and([of_rows, of_items]) == only && exprs.as_bool(of_items).is_none();
        let chosen = |id: ExprId| match *exprs.node(id) {
            Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => {
                matches!(program.draws[d.0 as usize].chooser, Chooser::Select { .. })
            }
            _ => false,
        };
        if apart && !exprs.reachable(&[of_items]).into_iter().any(chosen) {
            listed = Some(Listed::of(of_items));
            // Rows without items are left out already where there is a sample of them.
            set = if sampled.is_some() { exprs.bool(true) } else { of_rows };
        }
    }
    // Pairs whose values are those of their blocks.
    let mut sampled = sampled;
    if score.dot.is_none() && !searched && !direct && listed.is_none() {
        let (levels, exprs) = (&program.levels, &mut program.exprs);
        let plain = |level: LevelId| match &levels[level.0 as usize] {
            Level { partition: Partition::Blocks(size), parent: None, order: None, .. } => Some(*size),
            _ => None,
        };
        let alike = |exprs: &Exprs, var: Var, size: i64| {
            [Some(score.value), score.only].into_iter().flatten().all(|e| constant_in_blocks(exprs, e, var, size))
        };
        let of_queries = match item_rows {
            Index::Queries => score.steps.iter().find_map(|step| match step {
                Step::Queries { op: Reduce::Max, into: Index::Slots(level) } => {
                    plain(*level).filter(|&size| alike(exprs, Var::Q, size))
                }
                _ => None,
            }),
            _ => None,
        };
        let of_keys = match (score.steps.first(), items) {
            (Some(Step::Keys { op: Reduce::Max, into: Index::Slots(level) }), Index::Keys) => {
                plain(*level).filter(|&size| alike(exprs, Var::K, size))
            }
            _ => None,
        };
        if let Some(size) = of_queries {
            let last = last_of_blocks(exprs, [Var::Q, Var::QStart, Var::NQ], size);
            sampled = Some(exprs.and(sampled.into_iter().chain([last])));
        }
        if let Some(size) = of_keys {
            let last = last_of_blocks(exprs, [Var::K, Var::KStart, Var::NK], size);
            set = exprs.and([set, last]);
        }
    }
    let exprs = &mut program.exprs;
    let sampled = sampled.map(|set| Listed::of(transpose(exprs, set)));
    let (mut scale, mut value) = factor(exprs, score.value).filter(|_| score.dot.is_some()).unwrap_or_else(|| {
        let identity = *exprs.node(score.value) == Node::Var(Var::Score);
        (exprs.real(1.0), (!identity).then_some(score.value))
    });
    if listed.is_some() || items == Index::Queries {
        // Where some items are keys, or queries are, lengths of the launch have other names.
        scale = of_launch(exprs, scale);
        value = value.map(|value| of_launch(exprs, value));
        set = of_launch(exprs, set);
    }
    let entry = Entry::Tokens { set, rows: RowSet::default(), tiles: TileSet::default(), bias: None };
    let level = |index: Index| if let Index::Slots(level) = index { Some(level) } else { None };
    let walk = Attend {
        role: Role::RowWalk,
        tile: Tile { q: 64, k: 64 },
        view: View::Rows,
        own: false,
        reads: Reads { q: level(item_rows), kv: level(items) },
        scale,
        score: value,
        entries: vec![entry],
    };
    let scored =
        Scored { walk, dot: score.dot, steps: score.steps, item_rows, items, direct, searched, sampled, listed };
    Ok(made(Some(scored)))
}

/// Whether an expression is the same for all values of a variable in a block of `size` positions.
fn constant_in_blocks(exprs: &Exprs, id: ExprId, var: Var, size: i64) -> bool {
    match *exprs.node(id) {
        Node::Var(v) => v != var,
        Node::Bin(Bin::Div, of, by)
            if *exprs.node(of) == Node::Var(var) && exprs.as_int(by).is_some_and(|by| by > 0 && by % size == 0) =>
        {
            true
        }
        _ => exprs.operands(id).iter().all(|&o| constant_in_blocks(exprs, o, var, size)),
    }
}

/// Whether a position is the last of its block of `size` that the launch has, from the first and how many there are.
fn last_of_blocks(exprs: &mut Exprs, [position, start, count]: [Var; 3], size: i64) -> ExprId {
    let [position, start, count] = [position, start, count].map(|v| exprs.var(v));
    let (size, last, one) = (exprs.int(size), exprs.int(size - 1), exprs.int(1));
    let within = exprs.modulo(position, size);
    let of_block = exprs.eq(within, last);
    let end = exprs.add(start, count);
    let end = exprs.sub(end, one);
    let of_launch = exprs.eq(position, end);
    exprs.or([of_block, of_launch])
}

/// The factor of a product that is all there is to a value, and what is left of the value: nothing.
fn factor(exprs: &mut Exprs, value: ExprId) -> Option<(ExprId, Option<ExprId>)> {
    let Node::Bin(op @ (Bin::Mul | Bin::Div), a, b) = *exprs.node(value) else { return None };
    let is_score = |e: ExprId| *exprs.node(e) == Node::Var(Var::Score);
    let other = match (is_score(a), is_score(b)) {
        (true, _) => b,
        (_, true) if op == Bin::Mul => a,
        _ => return None,
    };
    let pair = |v| matches!(v, Var::Q | Var::K | Var::Score | Var::Slot | Var::Loop(_));
    if exprs.reads(other, pair) {
        return None;
    }
    let one = exprs.real(1.0);
    Some((if op == Bin::Div { exprs.div(one, other) } else { other }, None))
}

/// What a set says of queries whatever the key, or of keys whatever the query; what reads neither is said of queries.
fn alone(exprs: &mut Exprs, set: ExprId, of: Var) -> ExprId {
    let parts = match exprs.node(set) {
        Node::And(parts) => parts.clone(),
        _ => vec![set],
    };
    let says = |part: &ExprId| match of {
        Var::K => exprs.reads(*part, |v| v == Var::K) && !exprs.reads(*part, |v| v == Var::Q),
        _ => !exprs.reads(*part, |v| v == Var::K),
    };
    let alone: Vec<ExprId> = parts.into_iter().filter(says).collect();
    exprs.and(alone)
}

/// The stage of a selection of channels by energy, over queries and keys that are told apart.
fn channels(program: &mut Program, id: SelectId) -> Option<Choose> {
    let select = program.select(id).clone();
    let score = program.score(select.score?).clone();
    let identity = *program.exprs.node(score.value) == Node::Var(Var::Score);
    let plain = score.steps.is_empty() && score.dot.is_none() && identity && select.rows == Index::One;
    let sets = select.within.or(select.besides).or(select.including);
    let ranked = !matches!(select.budget, Budget::Refine(_) | Budget::Nearest(_));
    if !plain || sets.is_some() || !ranked {
        return None;
    }
    let exprs = &mut program.exprs;
    let all = exprs.bool(true);
    let only = score.only.unwrap_or(all);
    let (queries, keys) = (alone(exprs, only, Var::Q), alone(exprs, only, Var::K));
    if exprs.and([queries, keys]) != only {
        return None;
    }
    let energy = Energy { queries: Listed::of(transpose(exprs, queries)), keys: Listed::of(keys) };
    let candidates = Listed::of(all);
    Some(Choose { select: id, candidates, besides: None, including: None, scored: None, energy: Some(energy) })
}

/// What the rows of an operand are.
fn rows_of(program: &Program, operand: Operand) -> Index {
    match operand.rows {
        Rows::Q => Index::Queries,
        Rows::K => Index::Keys,
        Rows::LevelQ(level) | Rows::LevelK(level) => Index::Slots(level),
        Rows::Tensor(tensor) => {
            let dims = &program.tensor(tensor).dims;
            Index::Branches(dims[dims.len() - 2])
        }
    }
}

/// Rows and candidates before steps: a step tells what it makes, and only what nothing reduces stays what it is.
fn before(steps: &[Step], rows: Index, slots: Index) -> (Index, Index) {
    let reduced = |f: fn(&Step) -> bool| steps.iter().any(f);
    (
        if reduced(|s| matches!(s, Step::Queries { .. })) { Index::Queries } else { rows },
        if reduced(|s| matches!(s, Step::Keys { .. })) { Index::Keys } else { slots },
    )
}

/// An expression over the lengths of a launch, as one that is read where slots are keys.
pub(crate) fn of_launch(exprs: &mut Exprs, id: ExprId) -> ExprId {
    let mut new = BTreeMap::new();
    for id in exprs.reachable(&[id]) {
        let operands: Vec<ExprId> = exprs.operands(id).iter().map(|o| new[o]).collect();
        let made = match *exprs.node(id) {
            Node::Var(Var::NK) => exprs.var(Var::Given(Extent::NK)),
            Node::Var(Var::KStart) => exprs.var(Var::Given(Extent::KStart)),
            _ => exprs.rebuild(id, &operands),
        };
        new.insert(id, made);
    }
    new[&id]
}

/// The environment of expressions over slots, of which there are `slots`.
#[must_use]
pub fn over_slots<'a>(env: &Env<'a>, slots: i64) -> Env<'a> {
    let class = Class { residue: 0, modulus: 1, given: [env.q_start, env.k_start, env.n_q, env.n_k] };
    Env { n_k: slots, k_start: 0, class: Some(class), ..env.clone() }
}

/// The environment of pair expressions whose candidates are `index`.
///
/// # Errors
/// A number of slots that has no value.
pub fn env_of<'a>(program: &Program, index: Index, env: &Env<'a>) -> Result<Env<'a>, EnvError> {
    match index {
        Index::Slots(_) | Index::Channels => Ok(over_slots(env, slots::candidates(program, index, env)?.end)),
        Index::Queries => Ok(Env { k_start: env.q_start, ..over_slots(env, env.n_q) }),
        _ => Ok(env.clone()),
    }
}

/// The positions at which rows stand: those of the last query of each.
///
/// # Errors
/// A row without a position.
pub fn stands(program: &Program, index: Index, env: &Env<'_>, rows: Range<i64>) -> Result<Vec<i64>, EnvError> {
    let last = env.q_start + env.n_q - 1;
    match index {
        Index::Slots(level) => {
            let at = program.level(level).last_q;
            let mut evaluator = Evaluator::new(program, env, &[at]);
            let of = |row| Ok(evaluator.int(at, Point { slot: Some(row), ..Point::default() })? as i64);
            rows.map(of).collect()
        }
        Index::Queries => Ok(rows.collect()),
        _ => Ok(rows.map(|_| last).collect()),
    }
}

impl Scored {
    /// Numbers of the items that are walked, counted from the first there is, if these are listed.
    ///
    /// # Errors
    /// An expression without a value.
    pub fn items_listed(&self, program: &Program, env: &Env<'_>) -> Result<Option<Vec<u32>>, EvalError> {
        let Some(listed) = &self.listed else { return Ok(None) };
        let missing = |e: EnvError| EvalError::Missing { what: e.to_string() };
        let all = slots::candidates(program, self.items, env).map_err(missing)?;
        let pairs = env_of(program, self.items, env).map_err(missing)?;
        let mut found = Vec::new();
        for range in listed.ranges(program, &pairs)? {
            found.extend((range.start.max(all.start)..range.end.min(all.end)).map(|item| (item - all.start) as u32));
        }
        Ok(Some(found))
    }

    /// For each of these positions of item rows, whether the row is there.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn rows_there(&self, program: &Program, env: &Env<'_>, stands: &[i64]) -> Result<Vec<bool>, EvalError> {
        let Some(sampled) = &self.sampled else { return Ok(vec![true; stands.len()]) };
        let missing = |e: EnvError| EvalError::Missing { what: e.to_string() };
        let pairs = env_of(program, self.items, env).map_err(missing)?;
        let ranges = sampled.ranges(program, &exchanged(&pairs))?;
        // Positions that ascend are looked for from the last one on.
        let mut at = 0;
        let there = |&q: &i64| {
            if at > 0 && ranges[at - 1].end > q {
                at = ranges.partition_point(|range| range.end <= q);
            }
            while ranges.get(at).is_some_and(|range| range.end <= q) {
                at += 1;
            }
            ranges.get(at).is_some_and(|range| range.start <= q)
        };
        Ok(stands.iter().map(there).collect())
    }
}

/// How many of `c` candidates a budget takes, where that depends on no score; else all of them, which is the most.
///
/// # Errors
/// A number without a value.
pub fn taken(program: &Program, select: &Select, env: &Env<'_>, c: i64) -> Result<i64, EnvError> {
    let count = match &select.budget {
        Budget::Top(count) => slots::integer(program, env, *count)?,
        Budget::Frac(f) => slots::ceil_share(*f, c),
        Budget::Nearest(n) => *n,
        Budget::Refine(refine) => refine.leaves,
        Budget::Mass(_) | Budget::Above(_) | Budget::CountOf(_) | Budget::Bands(_) => c,
    };
    Ok(count.max(select.at_least).clamp(0, c))
}

/// Ranks of `c` candidates that each band takes; `end` is the rank at which a share of their mass is reached.
#[must_use]
pub fn bands(bands: &[Band], c: usize, end: impl Fn(f64) -> usize) -> Vec<Range<usize>> {
    let mut begin = 0_usize;
    let mut found = Vec::with_capacity(bands.len());
    for band in bands {
        let floor = |share| slots::floor_share(share, c as i64) as usize;
        let end = if band.mass { end(band.upto) } else { floor(band.upto) };
        let end = band.least.map_or(end, |least| end.max(floor(least) + 1));
        let align = band.align.max(1) as usize;
        let up = end.min(c).saturating_sub(begin).next_multiple_of(align);
        let length = if begin + up > c { (c - begin) / align * align } else { up };
        found.push(begin..begin + length);
        begin += length;
    }
    found
}

/// Tables as the selections of a plan might fill them, for whoever counts before there is data: as many candidates as
/// the budget takes, or all where that depends on scores, spread over those that a row has. Tables that are given stay.
///
/// # Errors
/// A number without a value.
pub fn stand_in(plan: &Plan, env: &Env<'_>) -> Result<Vec<DrawTable>, EvalError> {
    let program = &*plan.program;
    let launch = env;
    let mut env = launch.clone();
    env.draws.resize(program.draws.len(), DrawTable::default());
    let missing = |e: EnvError| EvalError::Missing { what: e.to_string() };
    for choose in plan.chooses.iter().filter(|c| !c.is_given(launch)) {
        let select = program.select(choose.select);
        let rows = slots::rows(program, select.rows, &env).map_err(missing)?;
        let stands = stands(program, select.rows, &env, rows.clone()).map_err(missing)?;
        let pairs = env_of(program, select.slots, &env).map_err(missing)?;
        let set = Ranges::new(program, &choose.candidates.rows);
        let mut walker = set.walker(&pairs)?;
        let (mut lists, mut found): (Vec<Vec<i64>>, Vec<(i64, i64)>) = Default::default();
        for &q in &stands {
            found.clear();
            found.extend(walker.row(q)?.ranges().map(|r| (*r.start(), r.end() + 1)));
            let c = found.iter().map(|(start, end)| end - start).sum();
            let count = taken(program, select, &env, c).map_err(missing)?;
            let (mut list, mut before, mut at) = (Vec::new(), 0, 0);
            // The candidate of rank i c / count, for each i.
            let (each, more) = (c.checked_div(count).unwrap_or(0), c.checked_rem(count).unwrap_or(0));
            let (mut rank, mut rest) = (0, 0);
            for _ in 0..count {
                while rank - before >= found[at].1 - found[at].0 {
                    before += found[at].1 - found[at].0;
                    at += 1;
                }
                list.push(found[at].0 + rank - before);
                rest += more;
                rank += each + i64::from(rest >= count);
                rest -= if rest >= count { count } else { 0 };
            }
            lists.push(list);
        }
        let width = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for (number, &draw) in select.tables.iter().enumerate() {
            // Bands of ranks are as long as they will be, spread likewise; those of mass share the candidates.
            let mut chosen: Vec<i64> = Vec::with_capacity(width * lists.len());
            for (row, list) in lists.iter().enumerate() {
                match &select.budget {
                    Budget::Bands(of) if !of.iter().any(|band| band.mass) => {
                        let (c, count) = (list.len(), bands(of, list.len(), |_| 0)[number].len());
                        chosen.extend((0..count).map(|i| list[i * c / count]));
                    }
                    Budget::Bands(of) => chosen.extend(list.iter().skip(number).step_by(of.len())),
                    _ => chosen.extend(list),
                }
                chosen.resize((row + 1) * width, -1);
            }
            let first = if select.rows == Index::One { 0 } else { rows.start };
            let table = DrawTable { chosen: chosen.into(), count: width, first, ..DrawTable::default() };
            env.draws[draw.0 as usize] = table;
        }
    }
    Ok(env.draws)
}

/// Levels that something reads, each with what is read of it.
fn pools(program: &Program, needs: &Needs, chooses: &[Choose]) -> Vec<Pool> {
    let mut of = vec![Derived::default(); program.levels.len()];
    let mut read = |level: LevelId, operand: fn(Derived) -> bool, note: fn(&mut Derived)| {
        let mut at = origin(program, level, operand);
        while let Some(level) = at {
            note(&mut of[level.0 as usize]);
            if let Pooling::SoftmaxMean = program.level(level).pool {
                // Values are weighed by the queries of their slot.
                of[level.0 as usize].q = true;
            }
            at = program.level(level).parent.and_then(|parent| origin(program, parent, operand));
        }
    };
    for &a in &needs.attentions {
        if let Some(pooled) = program.attentions[a].pooled {
            read(pooled.level, |of| of.q, |of| of.q = true);
        }
        for entry in &program.attentions[a].entries {
            if let Source::Slots(level, _) = entry.source {
                // Of some channels are the queries that score its keys: keys and values are the tokens' own.
                if matches!(program.level(level).pool, Pooling::Channels(_)) {
                    continue;
                }
                if tokenwise(program, level) {
                    read(level, |of| of.q, |of| of.q = true);
                }
                read(level, |of| of.k, |of| of.k = true);
                read(level, |of| of.v, |of| of.v = true);
            }
        }
    }
    for operand in chooses.iter().filter_map(|c| c.scored.as_ref()?.dot).flat_map(|(a, b)| [a, b]) {
        match operand.rows {
            Rows::LevelQ(level) => read(level, |of| of.q, |of| of.q = true),
            Rows::LevelK(level) => read(level, |of| of.k, |of| of.k = true),
            _ => {}
        }
    }
    let some = |level: &LevelId| of[level.0 as usize] != Derived::default();
    needs.levels.iter().copied().filter(some).map(|level| Pool { level, of: of[level.0 as usize] }).collect()
}

/// A stage of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Of [`Plan::pools`].
    Pool(usize),
    /// Of [`Plan::chooses`].
    Choose(usize),
    /// Of [`Plan::stages`].
    Attend(usize),
}

impl Plan {
    /// The stages and what each needs: an arrow from a stage to one that reads what it makes.
    #[must_use]
    pub fn graph(&self) -> DiGraph<Stage, ()> {
        let mut graph = DiGraph::new();
        let program = &*self.program;
        let pools: Vec<NodeIndex> = (0..self.pools.len()).map(|i| graph.add_node(Stage::Pool(i))).collect();
        let chooses: Vec<NodeIndex> = (0..self.chooses.len()).map(|i| graph.add_node(Stage::Choose(i))).collect();
        let pool = |level: LevelId| self.pools.iter().position(|p| p.level == level).map(|i| pools[i]);
        let chooser = |draw: DrawId| match program.draw(draw).chooser {
            Chooser::Select { select, .. } => self.chooses.iter().position(|c| c.select == select).map(|i| chooses[i]),
            Chooser::Random { .. } => None,
        };
        let mut arrows: Vec<(NodeIndex, NodeIndex)> = Vec::new();
        for (i, p) in self.pools.iter().enumerate() {
            let level = program.level(p.level);
            let parents = [level.parent.and_then(|l| origin(program, l, |of| of.k)), level.parent];
            arrows.extend(parents.into_iter().flatten().filter_map(pool).map(|from| (from, pools[i])));
        }
        let read = |roots: &[ExprId]| -> Vec<NodeIndex> {
            let reached = program.exprs.reachable(roots);
            let draws = reached.iter().filter_map(|&id| match *program.exprs.node(id) {
                Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => chooser(d),
                _ => None,
            });
            draws.collect()
        };
        for (i, c) in self.chooses.iter().enumerate() {
            let select = program.select(c.select);
            let mut roots: Vec<ExprId> =
                select.within.into_iter().chain(select.besides).chain(select.including).collect();
            if let Some(scored) = &c.scored {
                roots.extend(sets(&scored.walk));
                roots.extend(scored.sampled.iter().chain(&scored.listed).map(|l| l.set));
                let operands = scored.dot.iter().flat_map(|(a, b)| [a.rows, b.rows]);
                let levels = operands.filter_map(|rows| match rows {
                    Rows::LevelQ(level) => origin(program, level, |of| of.q),
                    Rows::LevelK(level) => origin(program, level, |of| of.k),
                    _ => None,
                });
                arrows.extend(levels.filter_map(pool).map(|from| (from, chooses[i])));
            }
            arrows.extend(read(&roots).into_iter().map(|from| (from, chooses[i])));
            if let Budget::CountOf(other) = select.budget
                && let Some(at) = self.chooses.iter().position(|c| c.select == other)
            {
                arrows.push((chooses[at], chooses[i]));
            }
        }
        let mut last = None;
        for (i, stage) in self.stages.iter().enumerate() {
            let node = graph.add_node(Stage::Attend(i));
            let kv =
                stage.reads.kv.into_iter().flat_map(|l| [origin(program, l, |of| of.k), origin(program, l, |of| of.v)]);
            let q = stage.reads.q.map(|l| origin(program, l, |of| of.q));
            arrows.extend(kv.chain(q).flatten().filter_map(pool).map(|from| (from, node)));
            if let Some(Pooling::Channels(draw)) = stage.reads.kv.map(|l| &program.level(l).pool) {
                arrows.extend(chooser(*draw).map(|from| (from, node)));
            }
            let takes = self.rows.as_ref().and_then(InPlace::takes).map(|l| l.set);
            let roots: Vec<ExprId> = sets(stage).chain(takes).collect();
            arrows.extend(read(&roots).into_iter().map(|from| (from, node)));
            // It goes on from the output of the one before it.
            arrows.extend(last.map(|before| (before, node)));
            last = Some(node);
        }
        for (from, to) in arrows {
            if !graph.contains_edge(from, to) {
                graph.add_edge(from, to, ());
            }
        }
        graph
    }

    /// What a stage is, in a line.
    #[must_use]
    pub fn title(&self, stage: Stage) -> String {
        let program = &*self.program;
        let name = |level: LevelId| program.level(level).name.as_str();
        match stage {
            Stage::Pool(i) => {
                let Pool { level, of } = self.pools[i];
                let operands = [("q", of.q), ("k", of.k), ("v", of.v)];
                let operands: Vec<&str> = operands.iter().filter(|o| o.1).map(|o| o.0).collect();
                let parent = program.level(level).parent.map_or("tokens", name);
                format!("pool {} of {parent}: {}", name(level), operands.join(" "))
            }
            Stage::Choose(i) => {
                let c = &self.chooses[i];
                let how = match &c.scored {
                    None if c.energy.is_some() => "channels by their energy",
                    None => "nearest",
                    Some(s) if s.direct => "the best as they come",
                    Some(s) if s.searched => "a search",
                    Some(_) => "from all scores",
                };
                format!("choose {}: {how}", program.select(c.select).name)
            }
            Stage::Attend(i) => match self.stages[i].reads.kv {
                Some(level) => format!("attend to {}", name(level)),
                None => "attend to tokens".to_owned(),
            },
        }
    }

    /// The stages as a graph in the language of Graphviz.
    #[must_use]
    pub fn dot(&self) -> String {
        use std::fmt::Write as _;
        let graph = self.graph();
        let mut out = format!("digraph \"{}\" {{\n  node [shape=box]\n", self.name);
        for node in graph.node_indices() {
            let _ = writeln!(out, "  s{} [label=\"{}\"]", node.index(), self.title(graph[node]));
        }
        for edge in graph.edge_indices() {
            if let Some((from, to)) = graph.edge_endpoints(edge) {
                let _ = writeln!(out, "  s{} -> s{}", from.index(), to.index());
            }
        }
        out.push_str("}\n");
        out
    }
}

/// Sets of a stage.
fn sets(stage: &Attend) -> impl Iterator<Item = ExprId> + '_ {
    stage.entries.iter().filter_map(|e| match e {
        Entry::Tokens { set, .. } => Some(*set),
        Entry::Null { .. } => None,
    })
}

/// A selection in words.
pub(crate) fn about(program: &Program, select: &Select) -> String {
    use attnc_pattern::analysis::print::expr_text;
    let index = |index: Index| match index {
        Index::One => "one row".to_owned(),
        Index::Queries => "queries".to_owned(),
        Index::Keys => "keys".to_owned(),
        Index::Slots(level) => format!("slots of {}", program.level(level).name),
        Index::Branches(_) => "branches".to_owned(),
        Index::Channels => "channels".to_owned(),
    };
    let budget = match &select.budget {
        Budget::Top(count) => format!("top {}", expr_text(program, *count)),
        Budget::Frac(f) => format!("frac {f}"),
        Budget::Mass(p) => format!("mass {p}"),
        Budget::Above(t) => format!("above {t}"),
        Budget::Nearest(n) => format!("nearest {n}"),
        Budget::CountOf(other) => format!("as many as {}", program.select(*other).name),
        Budget::Bands(bands) => format!("{} bands", bands.len()),
        Budget::Refine(refine) => format!("{} by refinement", refine.leaves),
    };
    let among = match select.pool {
        Among::Row => "each",
        Among::Head => "all together",
    };
    let capacity = expr_text(program, select.capacity);
    let least = if select.at_least > 0 { format!(", at least {}", select.at_least) } else { String::new() };
    format!("{budget}{least} of {} for {}, {among}; capacity {capacity}", index(select.slots), index(select.rows))
}

/// A step in words.
pub(crate) fn step_text(program: &Program, step: &Step) -> String {
    let into = |index: &Index| match index {
        Index::Slots(level) => program.level(*level).name.clone(),
        _ => "one".to_owned(),
    };
    let how = |op: &Reduce| match op {
        Reduce::Max => "max",
        Reduce::Sum => "sum",
        Reduce::Mean => "mean",
    };
    match step {
        Step::Keys { op, into: to } => format!("{} of keys in {}", how(op), into(to)),
        Step::Queries { op, into: to } => format!("{} of queries in {}", how(op), into(to)),
        Step::Norm { norm, head } => {
            let norm = match norm {
                Norm::Softmax => "softmax",
                Norm::Exp => "exp",
                Norm::MinMax => "minmax",
                Norm::RowSum => "rowsum",
            };
            format!("{norm} of {}", if *head { "the head" } else { "a row" })
        }
    }
}
