//! Selections: scores of candidates, a ranking, and a table of what was chosen, for each row of a head.
//!
//! The one idea: compiled code walks pairs tile by tile as for an attention and hands scores on; what they become is
//! decided here. Where candidates are ranked as they are scored (*direct*), each lane keeps a short list of the best.
//! Otherwise the values of all rows and candidates of a head are held at once, steps are taken on rows of them, and
//! rows (or all pairs of the head) are ranked when all are there. What a task does depends on its rows alone, and every
//! ranking is a total order, so that tables are the same for any number of threads.
//! Nothing here knows of machine code.

use std::collections::BinaryHeap;
use std::ops::{Range, RangeInclusive};
use std::sync::OnceLock;

use attnc_kernels::abi::{self, BK, BQ_MAX, KvView, LANE_STEP};
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
use attnc_plan::items::{Items, Members, candidates_of};
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
    /// Who makes its tables.
    maker: Maker,
    /// The caller gives its score.
    scores_given: bool,
    /// The caller asks for its score.
    scores_asked: bool,
    /// Steps of the score, in the order in which they are taken.
    steps: Vec<Step>,
    /// A softmax whose total is taken of items comes after the largest of their slots, see [`taken`].
    totals: bool,
    /// Candidates that follow one another and have the score of one slot, with that slot, where scores are those of
    /// slots.
    runs: Option<Vec<(Range<u32>, u32)>>,
}

/// Who makes the tables of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The launch.
    Launch,
    /// The caller has made them.
    Caller,
    /// Nobody: nothing reads them, since the caller gives what would.
    Nobody,
}

fn said(e: EnvError) -> String {
    e.to_string()
}

impl Setup {
    pub(crate) fn new(plan: &Plan, choose: &Choose, env: &Env<'_>, maker: Maker) -> Result<Setup, String> {
        let program = &*plan.program;
        let select = program.select(choose.select);
        let exchange = &env.exchange;
        let scores_given = select.score.is_some_and(|score| exchange.scores.contains_key(&score));
        let scores_asked = !scores_given && select.score.is_some_and(|score| exchange.asked_scores.contains(&score));
        // What is not ranked has no scores.
        let unranked = |Extents { rows, stands, slots, capacity }| Setup {
            rows,
            stands,
            slots,
            capacity,
            wanted: None,
            items: None,
            maker,
            scores_given,
            scores_asked: false,
            steps: Vec::new(),
            totals: false,
            runs: None,
        };
        if maker == Maker::Nobody {
            return Ok(unranked(Extents { rows: 0..0, stands: Vec::new(), slots: 0..0, capacity: 0 }));
        }
        let extents = Extents::new(program, select, env).map_err(said)?;
        if maker == Maker::Caller {
            return Ok(unranked(extents));
        }
        let (rows, slots) = (extents.rows.clone(), extents.slots.clone());
        let all = (slots.end - slots.start).max(0);
        let wanted = match &select.budget {
            Budget::Top(count) => {
                Some(slots::integer(program, env, *count).map_err(said)?.max(select.at_least).min(all) as usize)
            }
            Budget::Nearest(n) => Some((*n).max(select.at_least).min(all) as usize),
            _ => None,
        };
        if let Some((Operand { rows: OperandRows::Tensor(tensor), .. }, _)) = choose.scored.as_ref().and_then(|s| s.dot)
            && !scores_given
        {
            let found = tensor_rows(env, tensor).filter(|t| t.1 as i64 == rows.end && t.2 as i64 == env.dim);
            found.ok_or_else(|| {
                format!("tensor `{}` has no row of dimension d for each branch", program.tensor(tensor).name)
            })?;
        }
        let (steps, totals) = choose.scored.as_ref().map_or((vec![], false), taken);
        let made = |s| match (scores_given, select.score) {
            (true, Some(score)) => Items::given(program, select, program.score(score), env, &rows),
            _ => Items::new(program, select, (s, &steps), env, &rows),
        };
        let mut items = choose.scored.as_ref().map(made).transpose()?;
        // Filled up to a whole tile.
        for list in items.iter_mut().flat_map(|i| [&mut i.numbers, &mut i.ahead]) {
            let last = list.last().copied().unwrap_or(0);
            list.resize(list.len() + BQ_MAX, last);
        }
        let of = items.as_ref().and_then(|i| i.candidate_of.as_deref());
        let runs = of.map(|of| runs(of, slots.start as u32));
        Ok(Setup { wanted, items, scores_asked, steps, totals, runs, ..unranked(extents) })
    }

    /// Who makes its tables.
    pub(crate) fn maker(&self) -> Maker {
        self.maker
    }

    /// Whether a caller gives its tables or its score, or asks for the score.
    pub(crate) fn is_exchanged(&self) -> bool {
        self.maker != Maker::Launch || self.scores_given || self.scores_asked
    }

    /// Whether the launch ranks by scores that it computes.
    pub(crate) fn ranks(&self) -> bool {
        self.maker == Maker::Launch && !self.scores_given
    }

    /// How many values its score has for a head.
    pub(crate) fn values(&self) -> usize {
        let rows = |items: &Items| (items.score_rows.end - items.score_rows.start).max(0) as usize;
        // Channels have a score in one row.
        let channels = (self.slots.end - self.slots.start).max(0) as usize;
        self.items.as_ref().map_or(channels, |items| rows(items) * items.score_width())
    }

    /// How many values a row of its score has.
    pub(crate) fn width(&self) -> usize {
        self.items.as_ref().map_or((self.slots.end - self.slots.start).max(0) as usize, Items::score_width)
    }

    /// How many values the caller asks for, if it asks for the score.
    pub(crate) fn asked(&self) -> Option<usize> {
        self.scores_asked.then(|| self.values())
    }

    /// The values of a head that the caller gives, row by row; `own` has room for those that lie apart.
    pub(crate) fn given<'a>(&self, select: &Select, env: &Env<'a>, own: &'a mut Vec<f32>) -> Option<&'a [f32]> {
        let given = env.exchange.scores.get(&select.score?)?;
        let of_head = given.head(usize::try_from(env.head).ok()?);
        let width = self.items.as_ref().map_or(given.cols, Items::score_width);
        if width == given.cols {
            return Some(of_head);
        }
        // A padded item has fewer candidates.
        own.extend(of_head.chunks_exact(given.cols).flat_map(|row| &row[..width.min(row.len())]));
        Some(own)
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
        if scored.direct || scored.searched || self.scores_given || self.scores_asked {
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
        if self.scores_given {
            return Some(ALIGN);
        }
        if scored.direct {
            return self.list_capacity().max(1).checked_mul(BQ_MAX * size_of::<u64>());
        }
        if let Budget::Refine(refine) = budget {
            // Of the halves of all nodes.
            return usize::try_from(refine.leaves).ok()?.checked_mul(2 * 2 * BQ_MAX)?.checked_mul(size_of::<f32>());
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
        let select = plan.program.select(choose.select);
        if let Some(items) = &self.items {
            let keys = items.keys.1.max(0) as usize;
            let (width, held) = (items.score_width(), (items.score_rows.end - items.score_rows.start).max(0) as usize);
            own = [items.numbers.len(), keys, width, items.width, held].into_iter().fold(own, usize::saturating_add);
            // Values of the rows of a task.
            let of_rows = items.width.max(width).saturating_mul(BQ_MAX).saturating_mul(size_of::<f32>()) / EACH * 4;
            task = [width, items.width, of_rows].into_iter().fold(task, usize::saturating_add);
            if let Budget::Refine(refine) = &select.budget {
                let nodes = usize::try_from(refine.leaves).unwrap_or(0).saturating_mul(2).min(slots);
                let looked_at = match &items.items_of {
                    Some(Members::Blocks { size, .. }) => nodes.saturating_mul(*size).min(keys),
                    _ => keys,
                };
                task = task.saturating_add(nodes.saturating_add(looked_at).saturating_mul(SIDE_BY_SIDE));
            }
            if choose.normed_by_head() || select.pool == Among::Head {
                all = rows.max(held).saturating_mul(width.max(slots)).saturating_add(rows);
            }
        }
        [own, task, all].map(|n| n.saturating_mul(EACH))
    }

    /// Keys that a lane keeps.
    fn list_capacity(&self) -> usize {
        let all = self.items.as_ref().map_or(0, |i| i.keys.1.max(0) as usize);
        // Whoever asks for the scores wants all of them.
        self.wanted.filter(|_| !self.scores_asked).map_or(all, |wanted| capacity(wanted, all))
    }
}

/// The steps of a score in the order in which they are taken, and whether a softmax is taken of slots with a total of
/// their items: it does not change which item of a slot is the largest, and there are fewer slots.
fn taken(scored: &choose::Scored) -> (Vec<Step>, bool) {
    let mut steps = scored.steps.clone();
    let first = (steps.first(), steps.get(1));
    let (softmax, largest) =
        (Step::Norm { norm: Norm::Softmax, head: false }, |s: &Step| matches!(s, Step::Keys { op: Reduce::Max, .. }));
    let totals = !scored.direct && !scored.searched && first.0 == Some(&softmax) && first.1.is_some_and(largest);
    if totals {
        steps.swap(0, 1);
    }
    (steps, totals)
}

/// Runs of candidates of one slot each, numbered from `first`; those without one are left out.
fn runs(slot_of: &[u32], first: u32) -> Vec<(Range<u32>, u32)> {
    let mut found: Vec<(Range<u32>, u32)> = Vec::new();
    for (at, &slot) in (first..).zip(slot_of) {
        match found.last_mut() {
            Some((run, last)) if (run.end, *last) == (at, slot) => run.end += 1,
            _ => found.push((at..at + 1, slot)),
        }
    }
    found.retain(|run| run.1 != u32::MAX);
    found
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
    /// `[row][candidate]` values of the score; nothing writes those that the caller gives.
    values: *mut f32,
}

impl Tables {
    /// Tables without anything in memory that `take` gives, at most [`Setup::bytes`]; values are those of `other` tables,
    /// if there are some with the same.
    pub(crate) fn new(
        plan: &Plan,
        choose: &Choose,
        setup: &Setup,
        other: Option<Tables>,
        mut take: impl FnMut(usize) -> Option<*mut u8>,
    ) -> Option<Tables> {
        let tables = plan.program.select(choose.select).tables.len();
        let entries: *mut u32 = take(setup.table_bytes(tables)?)?.cast();
        let counts = entries.wrapping_add(tables * setup.row_count() * setup.capacity);
        let values = match other {
            Some(other) => other.values,
            None => take(setup.grid_bytes(choose)?)?.cast(),
        };
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

    /// The same with the values of its score elsewhere.
    pub(crate) fn with_values(self, values: *mut f32) -> Tables {
        Tables { values, ..self }
    }

    /// Writes the tables that the caller has made.
    ///
    /// # Safety
    /// Nobody else writes or reads them.
    pub(crate) unsafe fn fill(&self, select: &Select, setup: &Setup, env: &Env<'_>) {
        for (table, draw) in select.tables.iter().enumerate() {
            let Some(given) = env.draws.get(draw.0 as usize) else { continue };
            for row in 0..setup.row_count() {
                let from = row * given.count;
                let entries = given.chosen.get(from..from + given.chosen_for(row).min(given.count)).unwrap_or(&[]);
                let inside = |&&slot: &&i64| setup.slots.contains(&slot);
                let chosen: Vec<u32> = entries.iter().filter(inside).map(|&slot| slot as u32).collect();
                // SAFETY: promised by the caller.
                unsafe { self.write(setup, table, row, &chosen) };
            }
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

impl Tables {
    /// As [`Self::write`], of ranges that ascend and lie apart.
    ///
    /// # Safety
    /// As there.
    unsafe fn write_ranges(&self, setup: &Setup, table: usize, row: usize, chosen: &[Range<u32>]) {
        let rows = setup.row_count();
        // SAFETY: the table has these rows, each with room for `capacity` entries.
        unsafe {
            let to = self.entries.add((table * rows + row) * setup.capacity);
            let mut count = 0;
            for slot in chosen.iter().cloned().flatten().take(setup.capacity) {
                to.add(count).write(slot);
                count += 1;
            }
            *self.counts.add(table * rows + row) = count as u32;
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

/// Rows that a task of a search goes through side by side: what one looks at next comes from memory meanwhile.
const SIDE_BY_SIDE: usize = 4;

/// The search of a row.
struct Search {
    row: usize,
    /// Its candidates, which are not listed, and how many there are before each range.
    ranges: Vec<Range<u32>>,
    before: Vec<usize>,
    /// What is looked at, ascending: the first candidate of each and how many it stands for.
    nodes: Vec<(u32, u32)>,
    /// Rounds that are left after the one that it is in, if it is in one.
    rounds: u32,
    looks: bool,
    /// Items that are scored, ascending, and for each the node that it is of.
    listed: Vec<u32>,
    slots: Vec<u32>,
    /// Nodes as they are ranked.
    ranked: Vec<u64>,
}

impl Search {
    fn new(row: usize, ranges: Vec<Range<u32>>, leaves: usize) -> Search {
        let (mut c, mut before) = (0, Vec::with_capacity(ranges.len()));
        for range in &ranges {
            before.push(c);
            c += range.len();
        }
        let n = leaves.min(c);
        let nodes = (0..n).map(|i| ((i * c / n) as u32, ((i + 1) * c / n - i * c / n) as u32)).collect();
        let mut rounds = 0;
        while c > leaves << rounds {
            rounds += 1;
        }
        let (listed, slots, ranked) = (Vec::new(), Vec::new(), Vec::new());
        Search { row, ranges, before, nodes, rounds, looks: false, listed, slots, ranked }
    }

    fn candidate(&self, number: u32) -> u32 {
        let at = self.before.partition_point(|&before| before <= number as usize) - 1;
        self.ranges[at].start + (number - self.before[at] as u32)
    }

    /// Begins a round, if one is left: nodes become their halves, and items of the slots that stand for these are listed.
    fn look(&mut self, rep: Rep, items: &Items) {
        self.listed.clear();
        self.slots.clear();
        self.looks = self.rounds > 0;
        let Some(members) = items.items_of.as_ref().filter(|_| self.looks) else { return };
        self.rounds -= 1;
        let halves = self.nodes.iter().flat_map(|&(b, s)| [(b, s / 2), (b + s / 2, s - s / 2)]);
        self.nodes = halves.filter(|&(_, s)| s > 0).collect();
        let mut ascends = true;
        for (at, &(b, s)) in self.nodes.iter().enumerate() {
            let slot = match rep {
                Rep::First => self.candidate(b),
                Rep::Center => self.candidate(b + s / 2),
            };
            members.each(slot as usize, |item| {
                ascends &= self.listed.last().is_none_or(|&last| last < item);
                self.listed.push(item);
                self.slots.push(at as u32);
            });
        }
        if !ascends {
            let mut pairs: Vec<(u32, u32)> = self.listed.iter().copied().zip(self.slots.iter().copied()).collect();
            pairs.sort_unstable();
            (self.listed, self.slots) = pairs.into_iter().unzip();
        }
    }

    /// Keeps as many of the nodes as there are leaves: higher scores first, of equal ones the lower first candidate.
    fn choose(&mut self, scores: &[f32], leaves: usize) {
        if leaves >= self.nodes.len() {
            return;
        }
        let number = |(node, score): (&(u32, u32), &f32)| key(*score, node.0);
        self.ranked.clear();
        self.ranked.extend(self.nodes.iter().zip(scores).map(number));
        let (_, &mut worst, _) = self.ranked.select_nth_unstable(leaves - 1);
        let mut kept = self.nodes.iter().zip(scores).map(|pair| number(pair) <= worst);
        // They stay in their order.
        let kept: Vec<(u32, u32)> = self.nodes.iter().copied().filter(|_| kept.next().unwrap_or(false)).collect();
        self.nodes = kept;
    }

    /// The candidates that were found: nodes of one, or first ones.
    fn chosen(&self) -> Vec<u32> {
        self.nodes.iter().map(|&(b, _)| self.candidate(b)).collect()
    }
}

/// A selection of one head, as its tasks see it.
pub(crate) struct Choice<'a> {
    pub(crate) kernel: &'a CpuKernel,
    /// Its number in the plan.
    pub(crate) number: usize,
    pub(crate) setup: &'a Setup,
    pub(crate) tables: Tables,
    /// Whether it makes the values of the score, which others may read too.
    pub(crate) scores: bool,
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
        self.choose().scored.as_ref().is_none_or(|s| s.direct && !self.setup.scores_given)
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
        self.choose().normed_by_head() || self.select().pool == Among::Head
    }

    /// Tasks of a round: scores first, then rankings of what is held.
    pub(crate) fn tasks(&self, round: usize) -> usize {
        let rows = self.setup.row_count();
        match (round, self.direct()) {
            _ if self.setup.maker != Maker::Launch => 0,
            (0, false) if self.setup.scores_given => 0,
            (0, _) if self.searched().is_some() => rows.div_ceil(SIDE_BY_SIDE),
            (_, _) if self.searched().is_some() => 0,
            (0, true) => rows.div_ceil(BQ_MAX),
            (0, false) if !self.scores => 0,
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
                if self.setup.scores_asked {
                    let (first, width) = (items.score_slots.start, items.score_width());
                    for &key in &*list {
                        let at = (i64::from(index(key)) - first) as usize;
                        // SAFETY: the row is this task's, and there is a value for each candidate.
                        self.tables.values.add(row * width + at).write(score(key));
                    }
                }
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
        let all = (self.setup.slots.end - self.setup.slots.start).max(0) as usize;
        // A NaN compares as false.
        let there = |s: &(usize, f32)| s.1 > f32::NEG_INFINITY;
        if self.setup.scores_given {
            // SAFETY: the caller has given a value for each channel.
            let given = unsafe { std::slice::from_raw_parts(self.tables.values, all) };
            let list: Vec<u64> =
                given.iter().copied().enumerate().filter(there).map(|(c, s)| key(s, c as u32)).collect();
            // SAFETY: the only row is this task's.
            return unsafe { self.write_ranked(0, &list, &[], 0.0, None, &mut Vec::new()) };
        }
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
        let list: Vec<u64> = scores.filter(there).map(|(c, s)| key(s, c as u32)).collect();
        if self.setup.scores_asked {
            for &key in &list {
                // SAFETY: the only row is this task's, and there is a value for each channel.
                unsafe { self.tables.values.add(index(key) as usize).write(score(key)) };
            }
        }
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
        let steps = &self.setup.steps[..];
        let cut = steps.iter().position(|s| matches!(s, Step::Queries { .. }));
        let totals = self.setup.totals;
        let skip = usize::from(items.slot_of.is_some()) + usize::from(totals);
        let (of_items, of_rows) = match cut {
            Some(cut) => (&steps[skip..cut], &steps[cut + 1..]),
            None => (&steps[skip..], &[][..]),
        };
        let queries = cut.and_then(|cut| match steps[cut] {
            Step::Queries { op, .. } => Some(op),
            _ => None,
        });
        let (first, candidates) = match steps.first() {
            Some(Step::Keys { op, into }) if items.slot_of.is_some() => (Some(*op), *into),
            _ => (None, scored.items),
        };
        let mut each = Steps { isa: self.kernel.isa, program: &self.plan().program, env: self.env, known: Vec::new() };
        let mut sums: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        let mut met: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
        // The largest of exponentials is that of the largest, which is taken once.
        let largest = match (queries, of_items, first) {
            (Some(Reduce::Max), _, Some(Reduce::Mean)) => None,
            (Some(Reduce::Max), [], _) => Some(false),
            (Some(Reduce::Max), [Step::Norm { norm: Norm::Exp, head: false }], _) => Some(true),
            _ => None,
        };
        let (tile, slots) = (self.tile(), items.width);
        // Whole rows as far as they fit a tile; a row of more items is walked tile by tile.
        let some = || rows.clone().map(group).filter(|g| g.0 < g.1);
        let (begin, end) = (some().map(|g| g.0).min().unwrap_or(0), some().map(|g| g.1).max().unwrap_or(0));
        let mut at = begin;
        while at < end {
            let stop = (at + tile).min(end);
            // SAFETY: the scratch has memory for values and counts of a tile, and this is its thread.
            let (grid, counts) = unsafe {
                let (base, room) = (scratch.more.cast::<f32>(), slots * BQ_MAX);
                (std::slice::from_raw_parts_mut(base, room), std::slice::from_raw_parts_mut(base.add(room), room))
            };
            let mean = first == Some(Reduce::Mean);
            // A score that is not a number makes its row's total none: it is then left out.
            for totals in if totals { 1..3 } else { 0..1 } {
                grid[..slots * tile].fill(f32::NEG_INFINITY);
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
                        totals,
                    });
                    scratch.bq = tile as i64;
                    self.kernel.score(self.number, &self.walk(items, at, stop), scratch);
                    if !std::slice::from_raw_parts(scratch.l, stop - at).iter().any(|l| l.is_nan()) {
                        break;
                    }
                }
            }
            let bq = scratch.bq as usize;
            let mut columns = Columns { isa: self.kernel.isa, bq, values: &mut grid[..slots * bq] };
            if mean {
                columns.divide(&counts[..slots * bq]);
            }
            if totals {
                // SAFETY: there is a maximum and a total for each lane of a tile.
                let [m, l] = [scratch.m, scratch.l].map(|p| unsafe { std::slice::from_raw_parts(p, bq) });
                columns.softmax_of(m, l);
            }
            let of_tile = |row: usize| {
                let (from, to) = group(row);
                from.max(at).min(stop) - at..to.min(stop).max(at) - at
            };
            if let Some(exp) = largest {
                for (row, sums) in rows.clone().zip(&mut sums) {
                    let lanes = of_tile(row);
                    if !lanes.is_empty() {
                        fold_largest(columns.values, bq, slots, lanes, exp, sums);
                    }
                }
                at = stop;
                continue;
            }
            let mut made = Vec::new();
            let values = each.take_columns(candidates, of_items, columns, &mut made);
            let slots = values.len() / bq;
            match queries {
                Some(op) => {
                    for ((row, sums), met) in rows.clone().zip(&mut sums).zip(&mut met) {
                        let lanes = of_tile(row);
                        if !lanes.is_empty() {
                            sums.resize(slots, f32::NEG_INFINITY);
                            met.resize(slots, 0.0);
                            for ((sum, met), values) in sums.iter_mut().zip(met).zip(values.chunks_exact(bq)) {
                                values[lanes.clone()].iter().for_each(|&value| fold(op, sum, met, value));
                            }
                        }
                    }
                }
                // A row of the score for each item.
                None => {
                    for (some, rows) in sums[at - begin..][..stop - at].chunks_mut(TURNED).enumerate() {
                        turn(values, bq, slots, some * TURNED, rows);
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

    /// Searches for the best candidates of some rows, side by side: what a row looks at next is asked for before the
    /// others are scored.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn search(&self, task: usize, scratch: &mut Scratch) -> Result<(), String> {
        let (Some(items), Some(refine)) = (&self.setup.items, self.searched()) else { return Ok(()) };
        let leaves = usize::try_from(refine.leaves).unwrap_or(usize::MAX);
        let rows = task * SIDE_BY_SIDE..((task + 1) * SIDE_BY_SIDE).min(self.setup.row_count());
        let sets = Sets::new(self)?;
        let mut sets = sets.walks(self)?;
        let mut searches = Vec::with_capacity(SIDE_BY_SIDE);
        for row in rows {
            let mut ranges = Vec::new();
            sets.candidates.ranges(self.setup.stands[row], &mut ranges)?;
            searches.push(Search::new(row, ranges, leaves));
        }
        let keys = self.walk(items, 0, 0).k;
        let mut scores = Vec::new();
        let mut going = true;
        while std::mem::take(&mut going) {
            for search in &mut searches {
                if search.looks {
                    // SAFETY: promised by the caller.
                    unsafe { self.scores_of(items, search, scratch, &mut scores) };
                    search.choose(&scores, leaves);
                }
                search.look(refine.rep, items);
                if search.looks {
                    // SAFETY: the launch has checked the tensor, which holds the items.
                    unsafe { keys.ask(&search.listed) };
                    going = true;
                }
            }
        }
        for search in &searches {
            // SAFETY: the row is this task's.
            unsafe { self.tables.write(self.setup, 0, search.row, &search.chosen()) };
        }
        Ok(())
    }

    /// Scores of the slots that a search looks at; -inf for those without a pair.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn scores_of(&self, items: &Items, search: &Search, scratch: &mut Scratch, scores: &mut Vec<f32>) {
        let Some(scored) = &self.choose().scored else { return };
        let keys_op = scored.steps.iter().find_map(|s| match s {
            Step::Keys { op, .. } => Some(*op),
            _ => None,
        });
        let queries_op = scored.steps.iter().find_map(|s| match s {
            Step::Queries { op, .. } => Some(*op),
            _ => None,
        });
        let (from, to) = items.groups.as_ref().map_or((search.row, search.row + 1), |g| g[search.row]);
        let (tile, wide) = (self.tile(), search.nodes.len());
        scores.clear();
        scores.resize(wide, f32::NEG_INFINITY);
        let mean = keys_op == Some(Reduce::Mean);
        let mut met = if queries_op == Some(Reduce::Mean) { vec![0.0; wide] } else { Vec::new() };
        let mut at = from;
        while at < to {
            let stop = (at + tile).min(to);
            // SAFETY: the scratch has memory for values and counts of a tile for as many candidates as a search looks at;
            // this is its thread.
            let (values, counts) = unsafe {
                let (base, room) = (scratch.more.cast::<f32>(), wide * BQ_MAX);
                (std::slice::from_raw_parts_mut(base, room), std::slice::from_raw_parts_mut(base.add(room), room))
            };
            // No more lanes than there are rows.
            let bq = (stop - at).next_multiple_of(LANE_STEP).min(tile);
            values[..wide * bq].fill(f32::NEG_INFINITY);
            if mean {
                counts[..wide * bq].fill(0.0);
            }
            let mut ctx = self.walk(items, at, stop);
            (ctx.listed, ctx.listed_count) = (search.listed.as_ptr(), search.listed.len() as i64);
            ctx.listed_slots = search.slots.as_ptr();
            // SAFETY: as in `values`.
            unsafe {
                scratch.grid.write(Grid {
                    values: values.as_mut_ptr(),
                    counts: if mean { counts.as_mut_ptr() } else { std::ptr::null_mut() },
                    slot_of: std::ptr::null(),
                    sums: i64::from(matches!(keys_op, Some(Reduce::Sum | Reduce::Mean))),
                    slots: wide as i64,
                    totals: 0,
                });
                scratch.bq = bq as i64;
                self.kernel.score(self.number, &ctx, scratch);
            }
            let bq = scratch.bq as usize;
            let columns = values.chunks_exact_mut(bq).zip(counts.chunks_exact(bq)).zip(scores.iter_mut()).enumerate();
            for (slot, ((values, counts), score)) in columns {
                let values = &mut values[..stop - at];
                if mean {
                    values.iter_mut().zip(counts).for_each(|(value, count)| *value /= count.max(1.0));
                }
                let (mut none, met) = (0.0, met.get_mut(slot));
                let met = met.unwrap_or(&mut none);
                match queries_op {
                    Some(op @ (Reduce::Sum | Reduce::Mean)) => {
                        values.iter().for_each(|&value| fold(op, score, met, value));
                    }
                    _ => fold(Reduce::Max, score, met, most(values)),
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
        let (mut forced, mut chosen_runs) = (Vec::new(), Vec::new());
        let tables = self.select().tables.len();
        // Rows that take a number of the best of what others have ranked already.
        let grows = tables == 1 && sets.including.is_none();
        let by_runs = tables == 1 && !(grows && items.row_of.is_some());
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
            if let (Some(wanted), Some(of_slots), true) = (self.setup.wanted, &self.setup.runs, by_runs) {
                forced.clear();
                if let Some(including) = &mut sets.including {
                    including.ranges(q, &mut forced)?;
                }
                best_runs(of_slots, values, (&ranges, &forced), wanted, &mut list, &mut chosen_runs);
                // SAFETY: the row is this task's.
                unsafe { self.tables.write_ranges(self.setup, 0, row, &chosen_runs) };
                continue;
            }
            if let Some(wanted) = wanted {
                match growing.added(number, &ranges) {
                    // Some more are put in their places, many are sorted with the others.
                    Some(added) if added.iter().map(|range| range.len()).sum::<usize>() <= Growing::SOME => {
                        added.into_iter().flatten().filter_map(scored).for_each(|key| growing.put(key, wanted));
                    }
                    Some(added) => {
                        added.into_iter().flatten().filter_map(scored).for_each(|key| {
                            growing.take(key, wanted);
                        });
                        growing.sorted.clear();
                    }
                    None => {
                        list.clear();
                        list.extend(ranges.iter().cloned().flatten().filter_map(scored));
                        let count = best(&mut list, wanted);
                        list.truncate(count);
                        growing.kept.clear();
                        growing.kept.extend(list.iter().copied());
                        growing.sorted.clear();
                    }
                }
                growing.number = Some(number);
                std::mem::swap(&mut growing.ranges, &mut ranges);
                if growing.sorted.len() != growing.kept.len() {
                    growing.sorted.clear();
                    growing.sorted.extend(growing.kept.iter().map(|&k| index(k)));
                    sort(&mut growing.sorted, &growing.ranges);
                }
                // SAFETY: the row is this task's.
                unsafe { self.tables.write(self.setup, 0, row, &growing.sorted) };
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
        let head = scored.steps.iter().position(|s| matches!(s, Step::Norm { head: true, .. }));
        // What the caller gives has had its steps.
        if let Some(at) = head.filter(|_| !self.setup.scores_given) {
            // SAFETY: the first round is done, and this is the only task.
            let values = unsafe { std::slice::from_raw_parts_mut(self.tables.values, held * width) };
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
        // SAFETY: as above, and nothing writes the values any more.
        let values = unsafe { std::slice::from_raw_parts(self.tables.values, held * width) };
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
        let mut of_rows: Vec<Vec<Vec<u32>>> = vec![vec![Vec::new(); rows]; self.select().tables.len()];
        if let (Budget::Mass(p), []) = (&self.select().budget, &forced[..]) {
            // No order among those that are taken.
            let count = beginning(*p, &mut pairs, had);
            let least = usize::try_from(self.select().at_least).unwrap_or(0).min(pairs.len());
            if count < least {
                pairs[count..].select_nth_unstable(least - count - 1);
            }
            for &(of, row) in &pairs[..count.max(least)] {
                of_rows[0][row as usize].push(index(of));
            }
        } else {
            pairs.sort_unstable();
            forced.sort_unstable_by_key(|f| (f.0, f.1));
            let ranked: Vec<f32> = forced.iter().map(|f| f.2).chain(pairs.iter().map(|p| score(p.0))).collect();
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

/// The best `wanted` of the candidates of a row, as ranges that ascend, where those of a slot have one score: they are
/// ranked as they follow one another. Those that are forced, which are among them, come first.
fn best_runs(
    of_slots: &[(Range<u32>, u32)],
    values: &[f32],
    (candidates, forced): (&[Range<u32>], &[Range<u32>]),
    wanted: usize,
    list: &mut Vec<u64>,
    chosen: &mut Vec<Range<u32>>,
) {
    chosen.clear();
    let mut left = wanted;
    let mut take = |run: &Range<u32>| {
        let count = (run.len()).min(left);
        left -= count;
        chosen.push(run.start..run.start + count as u32);
        left > 0
    };
    if !forced.iter().filter(|run| !run.is_empty()).all(&mut take) {
        return;
    }
    // A run of candidates by its first, in the order of its score: a NaN compares as false.
    list.clear();
    let mut at = 0;
    let mut forced_at = 0;
    let mut add = |run: Range<u32>| {
        at += of_slots[at..].partition_point(|(other, _)| other.end <= run.start);
        for (other, slot) in of_slots[at..].iter().take_while(|(other, _)| other.start < run.end) {
            let score = values.get(*slot as usize).copied().unwrap_or(f32::NEG_INFINITY);
            if score > f32::NEG_INFINITY {
                list.push(key(score, other.start.max(run.start)));
            }
        }
    };
    for range in candidates {
        let mut from = range.start;
        while let Some(other) = forced.get(forced_at).filter(|other| other.start < range.end) {
            if from < other.start {
                add(from..other.start);
            }
            from = from.max(other.end.min(range.end));
            if other.end > range.end {
                break;
            }
            forced_at += 1;
        }
        if from < range.end {
            add(from..range.end);
        }
    }
    list.sort_unstable();
    for &run in &*list {
        let start = index(run);
        let of_slot = &of_slots[of_slots.partition_point(|(other, _)| other.end <= start)].0;
        let of_row = &candidates[candidates.partition_point(|other| other.end <= start)];
        let next = forced.get(forced.partition_point(|other| other.start <= start)).map_or(u32::MAX, |f| f.start);
        if !take(&(start..of_slot.end.min(of_row.end).min(next))) {
            break;
        }
    }
    chosen.sort_unstable_by_key(|run| run.start);
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

/// As [`mass`] of pairs by the number that ranks them, without an order among them: those that are taken are moved to the
/// front.
fn beginning(p: f64, pairs: &mut [(u64, u32)], had: f64) -> usize {
    let sum = |pairs: &[(u64, u32)]| pairs.iter().map(|pair| weight(&score(pair.0))).sum::<f64>();
    let total = sum(pairs) + had;
    if total.is_nan() || total <= 0.0 {
        return pairs.len();
    }
    if had >= p * total {
        return 0;
    }
    // Of those before `first` all are taken, which with what was had hold `held`; of those from `end` on none but the first.
    let (mut first, mut end, mut held) = (0, pairs.len(), had);
    while first < end {
        let middle = first + (end - first) / 2;
        pairs[first..end].select_nth_unstable(middle - first);
        let with = held + sum(&pairs[first..=middle]);
        if with >= p * total {
            end = middle;
        } else {
            (first, held) = (middle + 1, with);
        }
    }
    pairs.len().min(first + 1)
}

/// Ranks of each band.
fn bands(bands: &[Band], ranked: &[f32], had: f64) -> Vec<Range<usize>> {
    let total = ranked.iter().map(weight).sum::<f64>() + had;
    choose::bands(bands, ranked.len(), |share| {
        let mut sum = had;
        let within = ranked.iter().take_while(|score| {
            sum += weight(score);
            sum <= share * total
        });
        1 + within.count()
    })
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

/// The values `[slot][bq]` of lanes from `first` on as rows.
fn turn(grid: &[f32], bq: usize, slots: usize, first: usize, rows: &mut [Vec<f32>]) {
    rows.iter_mut().for_each(|row| row.resize(slots, 0.0));
    // Slots that stay in the nearest cache from lane to lane.
    for at in (0..slots).step_by(TURNED) {
        let some = &grid[at * bq..];
        for (lane, row) in rows.iter_mut().enumerate() {
            let row = row[at..].iter_mut().take(TURNED);
            row.zip(some[first + lane..].iter().step_by(bq)).for_each(|(x, &value)| *x = value);
        }
    }
}

/// Values `[slot][bq]` of the rows of a tile, side by side.
struct Columns<'a> {
    isa: Isa,
    bq: usize,
    values: &'a mut [f32],
}

/// Values that are brought to one scale at once.
const SCALED: usize = 1024;

impl Columns<'_> {
    /// Replaces values that are there by others: `made` makes some of them, of lanes from the first on, from what they
    /// are.
    fn each(&mut self, mut made: impl FnMut(&mut [f32])) {
        let mut some = [0.0_f32; SCALED];
        for values in self.values.chunks_mut(SCALED / self.bq * self.bq) {
            let some = &mut some[..values.len()];
            some.copy_from_slice(values);
            made(some);
            for (value, &made) in values.iter_mut().zip(&*some) {
                *value = if *value > f32::NEG_INFINITY { made } else { *value };
            }
        }
    }

    /// Divides by numbers, at least 1.
    fn divide(&mut self, by: &[f32]) {
        self.values.iter_mut().zip(by).for_each(|(value, &by)| *value /= if by > 1.0 { by } else { 1.0 });
    }

    /// Takes the values of each lane together, those that are -inf as if `none`; NaN is less than everything.
    fn fold(&self, none: f32, op: impl Fn(f32, f32) -> f32) -> [f32; BQ_MAX] {
        let mut folded = [none; BQ_MAX];
        for values in self.values.chunks_exact(self.bq) {
            for (folded, &x) in folded.iter_mut().zip(values) {
                *folded = if x > f32::NEG_INFINITY { op(*folded, x) } else { *folded };
            }
        }
        folded
    }

    /// Sums of each lane, of some slots after others.
    fn sums(&self) -> [f64; BQ_MAX] {
        let mut sums = [0.0; BQ_MAX];
        for some in self.values.chunks(TURNED * self.bq) {
            let mut of_some = [0.0_f32; BQ_MAX];
            for values in some.chunks_exact(self.bq) {
                for (sum, &x) in of_some.iter_mut().zip(values) {
                    *sum += if x > f32::NEG_INFINITY { x } else { 0.0 };
                }
            }
            sums.iter_mut().zip(of_some).for_each(|(sum, x)| *sum += f64::from(x));
        }
        sums
    }

    /// A softmax with these maxima and totals of lanes.
    fn softmax_of(&mut self, max: &[f32], total: &[f32]) {
        let (isa, bq) = (self.isa, self.bq);
        self.each(|some| {
            exponentials(isa, some, bq, max);
            for row in some.chunks_exact_mut(bq) {
                row.iter_mut().zip(total).for_each(|(x, total)| *x /= total);
            }
        });
    }

    /// Brings each lane to one scale, as [`normed`] does rows.
    fn norm(&mut self, norm: Norm) {
        let (isa, bq) = (self.isa, self.bq);
        let greater = |a: f32, b: f32| if b > a { b } else { a };
        match norm {
            Norm::Softmax | Norm::Exp => {
                let max = self.fold(f32::NEG_INFINITY, greater);
                self.each(|some| exponentials(isa, some, bq, &max));
                if norm == Norm::Softmax {
                    self.scale(self.sums());
                }
            }
            Norm::MinMax => {
                let max = self.fold(f32::NEG_INFINITY, greater);
                let min = self.fold(f32::INFINITY, |a, b| if b < a { b } else { a });
                self.each(|some| {
                    for row in some.chunks_exact_mut(bq) {
                        for ((x, min), max) in row.iter_mut().zip(&min).zip(&max) {
                            *x = if max > min { (*x - min) / (max - min) } else { 0.0 };
                        }
                    }
                });
            }
            Norm::RowSum => {
                let sums = self.sums();
                // Of a sum that is 0 all are 0.
                self.scale(sums.map(|sum| if sum == 0.0 { f64::INFINITY } else { sum }));
            }
        }
    }

    /// Divides each lane by a number.
    fn scale(&mut self, by: [f64; BQ_MAX]) {
        let bq = self.bq;
        let by = by.map(|by| by as f32);
        self.each(|some| {
            for row in some.chunks_exact_mut(bq) {
                row.iter_mut().zip(&by).for_each(|(x, by)| *x /= by);
            }
        });
    }

    /// Values of slots of another kind, each from those that `of` says are its own.
    fn reduce(&self, op: Reduce, of: &[u32], slots: usize) -> Vec<f32> {
        let bq = self.bq;
        let (mut made, mut met) = (vec![f32::NEG_INFINITY; slots * bq], Vec::new());
        if op == Reduce::Mean {
            met.resize(slots * bq, 0.0_f32);
        }
        for (values, &slot) in self.values.chunks_exact(bq).zip(of) {
            let at = slot as usize * bq;
            let Some(made) = made.get_mut(at..at + bq) else { continue };
            match op {
                Reduce::Max => {
                    made.iter_mut().zip(values).for_each(|(sum, &x)| *sum = if x > *sum { x } else { *sum });
                }
                Reduce::Sum | Reduce::Mean => {
                    for (sum, &x) in made.iter_mut().zip(values) {
                        let first = if *sum == f32::NEG_INFINITY { 0.0 } else { *sum };
                        *sum = if x > f32::NEG_INFINITY { first + x } else { *sum };
                    }
                }
            }
            if let Some(met) = met.get_mut(at..at + bq) {
                met.iter_mut().zip(values).for_each(|(met, &x)| *met += f32::from(u8::from(x > f32::NEG_INFINITY)));
            }
        }
        if op == Reduce::Mean {
            Columns { isa: self.isa, bq, values: &mut made }.divide(&met);
        }
        made
    }
}

/// `exp(x - max)` for rows of values of `bq` lanes; of those that are -inf any number.
fn exponentials(isa: Isa, values: &mut [f32], bq: usize, max: &[f32]) {
    for row in values.chunks_exact_mut(bq) {
        // The functions of rows are slow where they underflow.
        row.iter_mut().zip(max).for_each(|(x, max)| *x = if *x > f32::NEG_INFINITY { *x - max } else { 0.0 });
    }
    exp(isa, values);
}

/// `exp` of each value.
fn exp(isa: Isa, values: &mut [f32]) {
    match abi::Rows::of(isa) {
        // SAFETY: a row may be its own operand.
        Some(rows) => unsafe { (rows.exp)(values.as_mut_ptr(), values.as_ptr(), values.len() as i64) },
        None => values.iter_mut().for_each(|x| *x = x.exp()),
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

    /// As [`Self::take`], of the rows of a tile at once; what they become lies in `made` if there are other slots then.
    fn take_columns<'v>(
        &mut self,
        mut candidates: Index,
        steps: &[Step],
        columns: Columns<'v>,
        made: &'v mut Vec<f32>,
    ) -> &'v [f32] {
        let Columns { isa, bq, values } = columns;
        let mut is_made = false;
        for step in steps {
            let mut columns = Columns { isa, bq, values: if is_made { &mut made[..] } else { &mut values[..] } };
            match step {
                Step::Norm { head: true, .. } => break,
                Step::Norm { norm, .. } => columns.norm(*norm),
                Step::Keys { op, into } => {
                    let (of, slots) = self.members(candidates, *into);
                    *made = columns.reduce(*op, of, slots);
                    (candidates, is_made) = (*into, true);
                }
                Step::Queries { .. } => {}
            }
        }
        if is_made { made } else { values }
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
            exp(isa, &mut made);
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
        let until = |range: RangeInclusive<i64>| (*range.start(), (range.end() + 1).min(end));
        let within = row.ranges_from(first).map(until).take_while(|(start, stop)| start < stop);
        found.extend(within.map(|(start, stop)| start as u32..stop as u32));
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
    /// The numbers of those that are kept, ascending; nothing where they have not been sorted.
    sorted: Vec<u32>,
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

    /// Most candidates that are put in their places one by one.
    const SOME: usize = 8;

    /// Takes in a candidate; the one that is not kept for it, or itself.
    fn take(&mut self, key: u64, wanted: usize) -> Option<u64> {
        if self.kept.len() < wanted {
            self.kept.push(key);
            return None;
        }
        match self.kept.peek_mut() {
            Some(mut worst) if key < *worst => Some(std::mem::replace(&mut *worst, key)),
            _ => Some(key),
        }
    }

    /// As [`Self::take`]; those that are kept stay sorted.
    fn put(&mut self, key: u64, wanted: usize) {
        let known = self.sorted.len() == self.kept.len();
        let left = self.take(key, wanted);
        if !known || left == Some(key) {
            return;
        }
        let place = |sorted: &[u32], key: u64| sorted.partition_point(|&other| other < index(key));
        if let Some(left) = left {
            self.sorted.remove(place(&self.sorted, left));
        }
        self.sorted.insert(place(&self.sorted, key), index(key));
    }
}
