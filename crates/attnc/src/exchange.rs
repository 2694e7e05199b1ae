//! Levels, scores and selections that a caller gives instead of having them computed, and those that it asks for.
//!
//! One idea: both have one form, a tensor of four axes under the name in the file, so that what a launch hands back can
//! be given to the next as it is. Names, shapes and slots are checked here, before anything runs; what is skipped, and
//! how, others know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use attnc_pattern::env::{DrawTable, Env, Exchange, GivenRows, Side};
use attnc_pattern::expr::{LevelId, ScoreId, SelectId};
use attnc_pattern::prepare::{self, EnvError, Needs};
use attnc_pattern::program::{Budget, Index, Program, Select};
use attnc_pattern::slots;
use attnc_syntax::diag::{CodeInfo, Diagnostic, Span};

use crate::problem::{UNKNOWN_SIZE, one};

/// What is given does not fit.
const MISFIT: &str = "E0712";
/// What cannot be given or handed back.
const APART: &str = "E0713";

/// A level, a score or a selection that a caller gives: row-major, of four axes.
///
/// | what | name | elements | axes |
/// | --- | --- | --- | --- |
/// | selection | `s`, of bands `s.a` | slots in any order, -1 behind the last of a row | batch, heads or 1, rows, most slots of a row |
/// | level | `g.q`, `g.k`, `g.v` | the first slots; the others are computed | batch, heads, slots, d or d_v |
/// | score | `a` | values after all steps | batch, heads or 1, rows, candidates |
///
/// Rows are counted from the first that the launch has, candidates of scores from the first that it has. Heads are
/// those of the output; those of `g.k` and `g.v` are KV heads, unless the slots of `g` differ between heads or queries
/// weigh its values.
#[derive(Clone, Copy, Debug)]
pub enum Supply<'a> {
    /// Of a level or a score.
    Reals {
        /// Elements.
        data: &'a [f32],
        /// Extents.
        shape: &'a [usize],
    },
    /// Of a selection.
    Slots {
        /// Elements.
        data: &'a [i32],
        /// Extents.
        shape: &'a [usize],
    },
}

/// What a launch hands back: in the form of [`Supply`].
#[derive(Clone, Debug, PartialEq)]
pub struct Returned {
    /// The name that was asked for.
    pub name: String,
    /// Extents.
    pub shape: [usize; 4],
    /// Elements, row-major.
    pub values: ReturnedValues,
}

/// Elements of what a launch hands back.
#[derive(Clone, Debug, PartialEq)]
pub enum ReturnedValues {
    /// Of a level or a score.
    Reals(Vec<f32>),
    /// Of a selection.
    Slots(Vec<i32>),
}

impl Returned {
    /// Only the first `rows` rows of each head: of a level the slots that are complete.
    #[must_use]
    pub fn first(&self, rows: usize) -> Returned {
        let [batch, heads, all, cols] = self.shape;
        let rows = rows.min(all);
        fn cut<T: Copy>(values: &[T], from: usize, to: usize) -> Vec<T> {
            values.chunks_exact(from.max(1)).flat_map(|head| &head[..to]).copied().collect()
        }
        let values = match &self.values {
            ReturnedValues::Reals(values) => ReturnedValues::Reals(cut(values, all * cols, rows * cols)),
            ReturnedValues::Slots(values) => ReturnedValues::Slots(cut(values, all * cols, rows * cols)),
        };
        Returned { name: self.name.clone(), shape: [batch, heads, rows, cols], values }
    }

    /// As it is given to the next launch.
    #[must_use]
    pub fn supply(&self) -> (&str, Supply<'_>) {
        let shape = &self.shape[..];
        let supply = match &self.values {
            ReturnedValues::Reals(data) => Supply::Reals { data, shape },
            ReturnedValues::Slots(data) => Supply::Slots { data, shape },
        };
        (&self.name, supply)
    }
}

/// What a name of an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A table of a selection.
    Table(SelectId, usize),
    Level(LevelId, Side),
    Score(ScoreId),
}

impl What {
    /// What a name means to what is run, of which `needs` tells.
    pub(crate) fn of(program: &Program, needs: &Needs, name: &str) -> Result<What, Vec<Diagnostic>> {
        let (stem, part) = name.split_once('.').map_or((name, None), |(stem, part)| (stem, Some(part)));
        let ids = |count: usize| 0..count as u32;
        // Of several of one name that which is run.
        let select = ids(program.selects.len()).map(SelectId).filter(|&id| program.select(id).name == stem);
        let select = select.max_by_key(|id| needs.selects.contains(id));
        let level = ids(program.levels.len()).map(LevelId).filter(|&id| program.level(id).name == stem);
        let level = level.max_by_key(|id| needs.levels.contains(id));
        if let Some(id) = select {
            let select = program.select(id);
            return match (&select.budget, part) {
                (Budget::Bands(bands), part) => {
                    let names: Vec<String> = bands.iter().map(|b| format!("{stem}.{}", b.name)).collect();
                    let table = part.and_then(|part| bands.iter().position(|b| b.name == part));
                    let said = || {
                        let message = format!("`{name}` is no band of `{stem}`");
                        refused(select.span, message, "declared here", &format!("its bands are {}", names.join(", ")))
                    };
                    table.map(|table| What::Table(id, table)).ok_or_else(said)
                }
                (_, None) => Ok(What::Table(id, 0)),
                (_, Some(_)) => {
                    let message = format!("`{stem}` has no bands");
                    Err(refused(select.span, message, "declared here", &format!("its name is `{stem}`")))
                }
            };
        }
        if let Some(id) = level {
            let level = program.level(id);
            let sides = [("q", Side::Q, level.of.q), ("k", Side::K, level.of.k), ("v", Side::V, level.of.v)];
            let side = sides.iter().find(|(name, _, derived)| Some(*name) == part && *derived);
            let said = || {
                let names: Vec<String> = sides.iter().filter(|s| s.2).map(|s| format!("`{stem}.{}`", s.0)).collect();
                let help = match names.as_slice() {
                    [] => format!("`{stem}` derives nothing: its slots number rows and candidates"),
                    names => format!("it derives {}", names.join(", ")),
                };
                refused(level.span, format!("level `{stem}` does not derive `{name}`"), "declared here", &help)
            };
            return side.map(|side| What::Level(id, side.1)).ok_or_else(said);
        }
        let scores = ids(program.scores.len()).map(ScoreId).filter(|&id| program.score(id).name == name);
        let read = |id: &ScoreId| needs.selects.iter().any(|&s| program.select(s).score == Some(*id));
        let score = scores.max_by_key(read);
        let known = || {
            let mut names: Vec<String> = Vec::new();
            for select in &program.selects {
                match &select.budget {
                    Budget::Bands(bands) => names.extend(bands.iter().map(|b| format!("{}.{}", select.name, b.name))),
                    _ => names.push(select.name.clone()),
                }
            }
            for level in &program.levels {
                let sides = [("q", level.of.q), ("k", level.of.k), ("v", level.of.v)];
                names.extend(sides.iter().filter(|s| s.1).map(|s| format!("{}.{}", level.name, s.0)));
            }
            // A score that is written inside a selection has its name.
            let inside = |name: &String| program.selects.iter().any(|s| s.name == *name);
            names.extend(program.scores.iter().map(|s| s.name.clone()).filter(|name| !inside(name)));
            let help = match names.as_slice() {
                [] => "the file declares none".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            };
            let message = format!("there is no level, score or selection named `{name}`");
            vec![Diagnostic::global(UNKNOWN_SIZE, message).help(help)]
        };
        let score = score.ok_or_else(known)?;
        let searched = needs.selects.iter().map(|&id| program.select(id));
        let searched = searched.into_iter().find(|s| s.score == Some(score) && matches!(s.budget, Budget::Refine(_)));
        match searched {
            None => Ok(What::Score(score)),
            Some(select) => {
                let message = format!("score `{name}` has no values but those that a search asks for");
                let help = format!("give or ask for the selection `{}`", select.name);
                Err(refused(select.span, message, "this `refine` looks at some of its candidates", &help))
            }
        }
    }

    /// Rows and columns of it under an environment; `dim_v` is the dimension of values.
    pub(crate) fn extents(self, program: &Program, env: &Env<'_>, dim_v: i64) -> Result<(i64, i64), Vec<Diagnostic>> {
        let found = || -> Result<(i64, i64), EnvError> {
            let count = |range: std::ops::Range<i64>| (range.end - range.start).max(0);
            let rows = |index| Ok::<i64, EnvError>(count(slots::rows(program, index, env)?));
            let candidates = |index| Ok::<i64, EnvError>(count(slots::candidates(program, index, env)?));
            Ok(match self {
                What::Table(id, _) => {
                    let select = program.select(id);
                    let most = slots::integer(program, env, select.capacity)?;
                    (rows(select.rows)?, most.min(candidates(select.slots)?))
                }
                What::Level(id, Side::Q) => (rows(Index::Slots(id))?, env.dim),
                What::Level(id, side) => (candidates(Index::Slots(id))?, if side == Side::V { dim_v } else { env.dim }),
                What::Score(id) => (rows(program.score(id).rows)?, candidates(program.score(id).slots)?),
            })
        };
        found().map_err(one)
    }

    /// Heads of its tensor, for so many of the output and of K.
    pub(crate) fn heads(self, program: &Program, output: usize, kv: usize) -> usize {
        match self {
            What::Level(id, side) if !slots::by_output(program, id, side) => kv,
            _ => output,
        }
    }

    /// Where it was declared.
    pub(crate) fn span(self, program: &Program) -> Span {
        match self {
            What::Table(id, _) => program.select(id).span,
            What::Level(id, _) => program.level(id).span,
            What::Score(id) => program.score(id).span,
        }
    }

    /// Whether what is run reads it.
    pub(crate) fn is_read(self, program: &Program, needs: &Needs) -> bool {
        match self {
            What::Table(id, _) => needs.selects.contains(&id),
            What::Level(id, _) => needs.levels.contains(&id),
            What::Score(id) => needs.selects.iter().any(|&s| program.select(s).score == Some(id)),
        }
    }
}

fn refused(span: Span, message: String, label: &str, help: &str) -> Vec<Diagnostic> {
    vec![Diagnostic::error(APART, span, message, label.to_owned()).help(help.to_owned())]
}

/// An element, and the extents of the tensor.
type Tensor<'a, T> = (&'a [T], [usize; 4]);

/// What a caller gives, by what it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given<'a> {
    /// By selection, one for each of its tables.
    tables: BTreeMap<SelectId, Vec<Tensor<'a, i32>>>,
    levels: Vec<((LevelId, Side), Tensor<'a, f32>)>,
    scores: Vec<(ScoreId, Tensor<'a, f32>)>,
}

impl<'a> Given<'a> {
    /// Resolves names; `attentions` are what is run.
    pub(crate) fn new(
        program: &Program,
        attentions: &[usize],
        supplied: &[(&'a str, Supply<'a>)],
    ) -> Result<Given<'a>, Vec<Diagnostic>> {
        let mut given = Given::default();
        if supplied.is_empty() {
            return Ok(given);
        }
        let needs = prepare::needs(program, attentions);
        let mut bands: BTreeMap<SelectId, Vec<Option<Tensor<'a, i32>>>> = BTreeMap::new();
        for &(name, supply) in supplied {
            let what = What::of(program, &needs, name)?;
            let misfit = |message: String, help: &str| {
                let said = Diagnostic::error(MISFIT, what.span(program), message, "declared here");
                vec![said.help(help.to_owned())]
            };
            let (shape, count) = match supply {
                Supply::Reals { data, shape } => (shape, data.len()),
                Supply::Slots { data, shape } => (shape, data.len()),
            };
            let Ok(extents) = <[usize; 4]>::try_from(shape) else {
                let help = "four axes are wanted: batch, heads, rows, and slots, candidates or dimension";
                return Err(misfit(format!("`{name}` is given as {shape:?}"), help));
            };
            // Of extents of 0 too the others are numbers of something.
            let whole = extents.iter().try_fold(1_usize, |n, &d| n.checked_mul(d.max(1)));
            if whole.is_none() || extents.iter().fold(1, |n: usize, &d| n.saturating_mul(d)) != count {
                let help = "give as many elements as its extents say";
                return Err(misfit(format!("`{name}` is {shape:?} and has {count} elements"), help));
            }
            match (what, supply) {
                (What::Table(id, table), Supply::Slots { data, .. }) => {
                    let tables = bands.entry(id).or_insert_with(|| vec![None; program.select(id).tables.len()]);
                    tables[table] = Some((data, extents));
                }
                (What::Level(id, side), Supply::Reals { data, .. }) => given.levels.push(((id, side), (data, extents))),
                (What::Score(id), Supply::Reals { data, .. }) => given.scores.push((id, (data, extents))),
                (What::Table(..), _) => {
                    return Err(misfit(
                        format!("selection `{name}` is given as reals"),
                        "give slots as 32-bit integers",
                    ));
                }
                _ => {
                    let help = "give a level or a score as reals";
                    return Err(misfit(format!("`{name}` is given as integers"), help));
                }
            }
        }
        for (id, tables) in bands {
            let select = program.select(id);
            if let (Some(missing), Budget::Bands(bands)) = (tables.iter().position(Option::is_none), &select.budget) {
                let name = format!("{}.{}", select.name, bands[missing].name);
                let said = Diagnostic::error(
                    MISFIT,
                    select.span,
                    format!("`{name}` is not given, and other bands of `{}` are", select.name),
                    "bands are of one ranking",
                );
                return Err(vec![said.help("give all of its bands, or none")]);
            }
            given.tables.insert(id, tables.into_iter().flatten().collect());
        }
        Ok(given)
    }

    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.levels.is_empty() && self.scores.is_empty()
    }

    fn each(&self) -> impl Iterator<Item = (What, [usize; 4])> + '_ {
        let tables = self
            .tables
            .iter()
            .flat_map(|(&id, tables)| tables.iter().enumerate().map(move |(i, table)| (What::Table(id, i), table.1)));
        let levels = self.levels.iter().map(|&((id, side), (_, shape))| (What::Level(id, side), shape));
        tables.chain(levels).chain(self.scores.iter().map(|&(id, (_, shape))| (What::Score(id), shape)))
    }

    /// Whether batch items, heads and dimensions are those of a launch.
    pub(crate) fn fits(
        &self,
        program: &Program,
        batch: usize,
        (output, kv): (usize, usize),
        [dim, dim_v]: [usize; 2],
    ) -> Result<(), Vec<Diagnostic>> {
        for (what, shape) in self.each() {
            let heads = what.heads(program, output, kv);
            let shared = !matches!(what, What::Level(..)) && shape[1] == 1;
            let cols = match what {
                What::Level(_, Side::V) => Some(dim_v),
                What::Level(..) => Some(dim),
                _ => None,
            };
            let wanted = |n: usize| if n == heads || shared { String::new() } else { format!(", {heads} heads") };
            if shape[0] != batch || (shape[1] != heads && !shared) || cols.is_some_and(|cols| cols != shape[3]) {
                let of = cols.map_or(String::new(), |cols| format!(" and rows of {cols}"));
                let message = format!("{} is given as {shape:?}", name_of(program, what));
                let help = format!("{batch} batch items{}{of} are wanted", wanted(shape[1]));
                let said = Diagnostic::error(MISFIT, what.span(program), message, "declared here");
                return Err(vec![said.help(help)]);
            }
        }
        Ok(())
    }

    /// What an item of the batch exchanges with its caller.
    pub(crate) fn of_item(&self, item: usize, asked: &[What]) -> Arc<Exchange<'a>> {
        if self.is_empty() && asked.is_empty() {
            return Arc::default();
        }
        let rows = |(data, [_, heads, rows, cols]): Tensor<'a, f32>| {
            let all = heads * rows * cols;
            let data = data.get(item * all..(item + 1) * all).unwrap_or(&[]);
            GivenRows { data, heads, rows, cols }
        };
        let mut exchange = Exchange {
            selects: self.tables.keys().copied().collect(),
            levels: self.levels.iter().map(|&(level, tensor)| (level, rows(tensor))).collect(),
            scores: self.scores.iter().map(|&(score, tensor)| (score, rows(tensor))).collect(),
            ..Exchange::default()
        };
        for what in asked {
            match *what {
                What::Table(id, _) => drop(exchange.asked_selects.insert(id)),
                What::Level(id, side) => drop(exchange.asked_levels.insert((id, side))),
                What::Score(id) => drop(exchange.asked_scores.insert(id)),
            }
        }
        Arc::new(exchange)
    }

    /// Checks rows and columns against an environment that is complete but for tables of selections, and puts these
    /// into it. Of a padded batch (`padded`) an item may have fewer rows and candidates than the tensor.
    pub(crate) fn place(
        &self,
        program: &Program,
        attention: usize,
        env: &mut Env<'_>,
        item: usize,
        padded: bool,
    ) -> Result<(), Vec<Diagnostic>> {
        if self.is_empty() {
            return Ok(());
        }
        let needs = prepare::needs_beside(program, &[attention], &env.exchange);
        for (what, [_, _, rows, cols]) in self.each() {
            let read = match what {
                What::Table(id, _) => needs.selects.contains(&id),
                What::Level(id, _) => needs.levels.contains(&id),
                // That of a selection that is given is not read.
                What::Score(id) => {
                    needs.selects.iter().any(|s| program.select(*s).score == Some(id) && !self.tables.contains_key(s))
                }
            };
            if !read {
                continue;
            }
            let (own_rows, own_cols) = what.extents(program, env, 0)?;
            let given = [rows, cols].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
            let loose = padded || matches!(what, What::Level(id, _) if slots::cut_by_head(program, id));
            let fits = match what {
                What::Table(..) => given[0] == own_rows || (loose && given[0] > own_rows),
                What::Level(..) => given[0] <= own_rows || loose,
                What::Score(_) if loose => given[0] >= own_rows && given[1] >= own_cols,
                What::Score(_) => given == [own_rows, own_cols],
            };
            if !fits {
                let name = name_of(program, what);
                let (message, help) = match what {
                    What::Table(..) => (format!("{name} is given for {rows} rows"), format!("it has {own_rows}")),
                    What::Level(..) => (
                        format!("{name} is given with {rows} slots"),
                        format!("it has {own_rows}: give the first of them, those that are complete"),
                    ),
                    What::Score(_) => (
                        format!("{name} is given with {rows} rows and {cols} candidates"),
                        format!("it has {own_rows} rows and {own_cols} candidates"),
                    ),
                };
                return Err(vec![Diagnostic::error(MISFIT, what.span(program), message, "declared here").help(help)]);
            }
        }
        for (&id, tables) in self.tables.iter().filter(|(id, _)| needs.selects.contains(id)) {
            for (number, &tensor) in tables.iter().enumerate() {
                let table = table_of(program, (id, number), tensor, env, item)?;
                if let Some(to) = env.draws.get_mut(program.select(id).tables[number].0 as usize) {
                    *to = table;
                }
            }
        }
        Ok(())
    }
}

/// How a message calls it.
fn name_of(program: &Program, what: What) -> String {
    match what {
        What::Table(id, table) => {
            let select = program.select(id);
            match &select.budget {
                Budget::Bands(bands) => format!("selection `{}.{}`", select.name, bands[table].name),
                _ => format!("selection `{}`", select.name),
            }
        }
        What::Level(id, side) => {
            let side = match side {
                Side::Q => "q",
                Side::K => "k",
                Side::V => "v",
            };
            format!("level `{}.{side}`", program.level(id).name)
        }
        What::Score(id) => format!("score `{}`", program.score(id).name),
    }
}

/// The table of one head: each row ascending, checked.
fn table_of(
    program: &Program,
    (id, number): (SelectId, usize),
    (data, [_, heads, rows, cols]): Tensor<'_, i32>,
    env: &Env<'_>,
    item: usize,
) -> Result<DrawTable, Vec<Diagnostic>> {
    let select: &Select = program.select(id);
    let candidates = slots::candidates(program, select.slots, env).map_err(one)?;
    let (own_rows, most) = What::Table(id, number).extents(program, env, 0)?;
    let first = if select.rows == Index::One { 0 } else { slots::rows(program, select.rows, env).map_err(one)?.start };
    let head = if heads == 1 { 0 } else { usize::try_from(env.head).unwrap_or(usize::MAX) };
    let from = item.saturating_mul(heads).saturating_add(head).saturating_mul(rows * cols);
    let own = data.get(from..from.saturating_add(rows * cols)).unwrap_or(&[]);
    let (mut chosen, mut counts) = (vec![-1_i64; 0], Vec::new());
    for row in 0..usize::try_from(own_rows).unwrap_or(0) {
        let given = own.get(row * cols..(row + 1) * cols).unwrap_or(&[]);
        let refuse = |what: String, help: String| {
            let name = name_of(program, What::Table(id, number));
            let message = format!("{name}, batch item {item}, head {}, row {row}: {what}", env.head);
            vec![Diagnostic::error(MISFIT, select.span, message, "declared here").help(help)]
        };
        let count = given.iter().position(|&slot| slot < 0).unwrap_or(cols);
        if let Some(&slot) = given[count..].iter().find(|&&slot| slot != -1) {
            return Err(refuse(format!("{slot} stands behind the last slot"), "fill a row up with -1".to_owned()));
        }
        let mut list: Vec<i64> = given[..count].iter().map(|&slot| i64::from(slot)).collect();
        list.sort_unstable();
        if let Some(slot) = list.iter().find(|slot| !candidates.contains(slot)) {
            let help = format!("its candidates are {} .. {}", candidates.start, candidates.end);
            return Err(refuse(format!("there is no slot {slot}"), help));
        }
        if let Some(twice) = list.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(refuse(format!("slot {} is given twice", twice[0]), "give each slot once".to_owned()));
        }
        if count as i64 > most {
            return Err(refuse(format!("{count} slots are given"), format!("a row holds at most {most}")));
        }
        list.resize(cols, -1);
        chosen.extend(list);
        counts.push(count as u32);
    }
    Ok(DrawTable { chosen: chosen.into(), count: cols, first, counts: counts.into(), times: [].into() })
}

/// What of an exchange a launch made, in the form of the tensors that are handed back.
pub(crate) struct Gather {
    batch: usize,
    /// By what it is: of each batch item and head its rows, and how many elements a row has.
    rows: Vec<Gathered>,
}

struct Gathered {
    name: String,
    what: What,
    heads: usize,
    reals: Vec<(usize, usize, usize, Vec<f32>)>,
    tables: Vec<(usize, usize, DrawTable)>,
}

impl Gather {
    pub(crate) fn new(
        program: &Program,
        names: &[&str],
        asked: &[What],
        batch: usize,
        (output, kv): (usize, usize),
    ) -> Gather {
        let gathered = |(name, what): (&&str, &What)| Gathered {
            name: (*name).to_owned(),
            what: *what,
            heads: what.heads(program, output, kv),
            reals: Vec::new(),
            tables: Vec::new(),
        };
        Gather { batch, rows: names.iter().zip(asked).map(gathered).collect() }
    }

    /// Takes in a table of a head.
    pub(crate) fn table(&mut self, what: What, (item, head): (usize, usize), table: &DrawTable) {
        let of = self.rows.iter_mut().filter(|g| g.what == what);
        of.for_each(|g| g.tables.push((item, head, table.clone())));
    }

    /// Takes in rows of `width` elements of a head.
    pub(crate) fn reals(&mut self, what: What, (item, head): (usize, usize), width: usize, rows: &[f32]) {
        let of = self.rows.iter_mut().filter(|g| g.what == what);
        of.for_each(|g| g.reals.push((item, head, width, rows.to_vec())));
    }

    /// The tensors, in the order in which they were asked for. What a head lacks is 0 in a level, -inf in a score and -1
    /// in a selection. A score that was given is what was given.
    pub(crate) fn finish(self, supplied: &[(&str, Supply<'_>)]) -> Vec<Returned> {
        let Gather { batch, rows } = self;
        let tensor = |g: Gathered| {
            let Gathered { name, what, heads, reals, tables } = g;
            if let (What::Score(_), Some((_, Supply::Reals { data, shape }))) =
                (what, supplied.iter().find(|(given, _)| *given == name))
                && let Ok(shape) = <[usize; 4]>::try_from(*shape)
            {
                return Returned { name, shape, values: ReturnedValues::Reals(data.to_vec()) };
            }
            if let What::Table(..) = what {
                let rows_of = |t: &DrawTable| t.chosen.len().checked_div(t.count).unwrap_or(0);
                let rows = tables.iter().map(|t| rows_of(&t.2)).max().unwrap_or(0);
                let cols = tables.iter().map(|t| t.2.count).max().unwrap_or(0);
                let mut all = vec![-1_i32; batch * heads * rows * cols];
                for (item, head, table) in &tables {
                    for row in 0..rows_of(table) {
                        let from = ((item * heads + head) * rows + row) * cols;
                        let own = &table.chosen[row * table.count..][..table.chosen_for(row).min(table.count)];
                        all[from..from + own.len()]
                            .iter_mut()
                            .zip(own)
                            .for_each(|(to, &slot)| *to = i32::try_from(slot).unwrap_or(-1));
                    }
                }
                return Returned { name, shape: [batch, heads, rows, cols], values: ReturnedValues::Slots(all) };
            }
            let rows_of = |width: usize, data: &[f32]| data.len().checked_div(width).unwrap_or(0);
            let rows = reals.iter().map(|(.., width, data)| rows_of(*width, data)).max().unwrap_or(0);
            let cols = reals.iter().map(|r| r.2).max().unwrap_or(0);
            let blank = if matches!(what, What::Score(_)) { f32::NEG_INFINITY } else { 0.0 };
            let mut all = vec![blank; batch * heads * rows * cols];
            for (item, head, width, data) in &reals {
                let from = (item * heads + head) * rows * cols;
                for (row, own) in data.chunks_exact((*width).max(1)).enumerate() {
                    let to = &mut all[from + row * cols..][..own.len()];
                    // Selections by one score ask for different pairs of it.
                    to.iter_mut()
                        .zip(own)
                        .filter(|(_, x)| !matches!(what, What::Score(_)) || **x > blank)
                        .for_each(|(to, x)| *to = *x);
                }
            }
            Returned { name, shape: [batch, heads, rows, cols], values: ReturnedValues::Reals(all) }
        };
        rows.into_iter().map(tensor).collect()
    }
}

/// Names of what may be given and asked for, of what is run.
pub(crate) fn names(program: &Program, attentions: &[usize]) -> Vec<String> {
    let needs = prepare::needs(program, attentions);
    let mut names: Vec<String> = Vec::new();
    for &id in &needs.levels {
        let level = program.level(id);
        let sides = [("q", level.of.q), ("k", level.of.k), ("v", level.of.v)];
        names.extend(sides.iter().filter(|s| s.1).map(|s| format!("{}.{}", level.name, s.0)));
    }
    for select in needs.selects.iter().map(|&id| program.select(id)) {
        names.extend(select.score.map(|id| program.score(id).name.clone()));
        match &select.budget {
            Budget::Bands(bands) => names.extend(bands.iter().map(|b| format!("{}.{}", select.name, b.name))),
            _ => names.push(select.name.clone()),
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()) && What::of(program, &needs, name).is_ok());
    names
}

/// Names of the selections that what is run reads.
pub(crate) fn selections(program: &Program, attentions: &[usize]) -> Vec<String> {
    let needs = prepare::needs(program, attentions);
    let table = |name: &String| {
        What::of(program, &needs, name).is_ok_and(|w| matches!(w, What::Table(..)) && w.is_read(program, &needs))
    };
    names(program, attentions).into_iter().filter(table).collect()
}

/// What of the names is asked for, of what is run.
pub(crate) fn asked(
    program: &Program,
    attentions: &[usize],
    names: &[&str],
    supplied: &[(&str, Supply<'_>)],
) -> Result<Vec<What>, Vec<Diagnostic>> {
    let needs = prepare::needs(program, attentions);
    let given: BTreeSet<&str> = supplied.iter().map(|s| s.0).collect();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let what = What::of(program, &needs, name)?;
        if !what.is_read(program, &needs) {
            let help = "ask for what the attention reads";
            return Err(refused(
                what.span(program),
                format!("nothing that is run reads `{name}`"),
                "declared here",
                help,
            ));
        }
        if let What::Score(id) = what
            && !given.contains(name)
        {
            let selects = || needs.selects.iter().map(|&s| program.select(s)).filter(|s| s.score == Some(id));
            if selects().all(|s| given.iter().any(|g| g.split('.').next() == Some(s.name.as_str()))) {
                let message = format!("score `{name}` is not computed: what is selected by it is given");
                return Err(refused(what.span(program), message, "declared here", "ask for it where it is computed"));
            }
        }
        found.push(what);
    }
    Ok(found)
}

/// Diagnostics of exchanges.
pub(crate) const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: MISFIT,
        title: "a level, score or selection that is given does not fit",
        explain: "Each is a tensor of four axes: batch, heads, rows, and slots, dimension or candidates. A row of a selection \
                  holds slots, each once, as many as its budget takes at most, and then -1. Of a level the first slots may be \
                  given, of a score all rows and candidates.",
        example: "",
    },
    CodeInfo {
        code: APART,
        title: "a level, score or selection can be neither given nor handed back",
        explain: "A score that a search asks only for some values has no table of them; a level has rows of what it derives; \
                  bands are named one by one; and nothing is handed back that is not computed.",
        example: "",
    },
];
