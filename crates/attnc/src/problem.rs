//! What a launch is given: tensors, lengths, and the program's run-time data by name.
//!
//! One idea: names meet numbers here and nowhere else. A host speaks of sizes, maps and tensors by the names
//! that the file declares; everything below takes an [`Env`] for each (batch item, head). What does not fit is
//! refused with a sentence before anything runs. Nothing here knows of tiles or machine code.

use std::sync::{Arc, OnceLock};

use attnc_pattern::analysis::{Candidates, EvalError};
use attnc_pattern::env::{DrawTable, Env, Exchange, MapData, TensorData};
use attnc_pattern::expr::{ExprId, Node, OrderId, Var};
use attnc_pattern::oracle::{self, Evaluator, Point};
use attnc_pattern::prepare::{self, EnvError};
use attnc_pattern::program::{MapKind, OrderKind, Program};
use attnc_pattern::{order, random};
use attnc_plan::MAX_LEN;
use attnc_syntax::diag::{CodeInfo, Diagnostic};

use crate::exchange::{Given, Supply, What};
use crate::made::{self, Of};
use crate::tensor::{Tensor, TensorMut};

/// Code of a size given under a name that no size has.
pub const UNKNOWN_SIZE: &str = "E0720";

/// Most heads of a launch: heads are listed, lengths are not.
pub(crate) const MAX_HEADS: i64 = 1 << 20;

/// Largest dimension of queries, keys and values.
pub(crate) const MAX_DIM: i64 = 1 << 16;

/// A run-time map as it is given.
#[derive(Clone, Copy, Debug)]
pub enum MapInput<'a> {
    /// Bytes, 0 = not in the set: `[n_q, n_k]` or blocks of them, with a leading `[heads]` if so declared.
    Dense {
        /// Row-major.
        data: &'a [u8],
        /// Extents.
        shape: &'a [usize],
    },
    /// Compressed rows: `indptr` `[n_q + 1]`, or `[heads, n_q + 1]`, each row of it from 0; the `indices` of the heads
    /// follow each other.
    Csr {
        /// Offsets.
        indptr: &'a [i64],
        /// Key columns from 0, ascending in a row.
        indices: &'a [i64],
    },
}

/// Run-time data of a launch beside Q, K and V.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    /// Sizes by name.
    pub sizes: Vec<(&'a str, i64)>,
    /// Document offsets: the first position of each, then the end of the last.
    pub docs: &'a [i64],
    /// Maps by name.
    pub maps: Vec<(&'a str, MapInput<'a>)>,
    /// Tensors of reals by name.
    pub tensors: Vec<(&'a str, TensorData<'a>)>,
    /// Queries and keys, for what is asked before there is a problem: tensors of the file may be made of them.
    pub rows: Option<[Tensor<'a>; 2]>,
    /// Position of the first query; `None` leaves it to the attention's alignment.
    pub q_start: Option<i64>,
    /// Position of the first key; `None` is 0.
    pub k_start: Option<i64>,
    /// Queries and keys of each batch item where they are fewer than the tensors' rows; empty if none is padded.
    pub lengths: Vec<(i64, i64)>,
    /// Levels, scores and selections by name that are given instead of being computed: whether one is, each launch says
    /// anew. What only serves them is not computed.
    pub supplied: Vec<(&'a str, Supply<'a>)>,
}

/// Tensors and data of one launch.
#[derive(Debug)]
pub struct Problem<'a> {
    /// `[batch, heads, queries, d]`
    pub q: Tensor<'a>,
    /// `[batch, KV heads, keys, d]`
    pub k: Tensor<'a>,
    /// `[batch, KV heads, keys, d_v]`
    pub v: Tensor<'a>,
    /// `[batch, heads, queries, d_v]`, of any element type.
    pub out: TensorMut<'a>,
    /// `[batch, heads, queries, 1]` of f32, if wanted.
    pub lse: Option<TensorMut<'a>>,
    /// Everything else.
    pub inputs: Inputs<'a>,
}

impl<'a> Problem<'a> {
    /// Attention of tensors alone, without a log-sum-exp.
    #[must_use]
    pub fn new(q: Tensor<'a>, k: Tensor<'a>, v: Tensor<'a>, out: TensorMut<'a>) -> Self {
        Problem { q, k, v, out, lse: None, inputs: Inputs::default() }
    }
}

/// Lengths and counts, where there are no tensors to take them from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Queries.
    pub n_q: i64,
    /// Keys.
    pub n_k: i64,
    /// Query heads.
    pub heads: i64,
    /// Dimension of queries and keys.
    pub dim: i64,
}

/// Run-time data that a kernel reads beside sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Tensors of reals.
    pub tensors: Vec<WantedTensor>,
    /// Maps.
    pub maps: Vec<WantedMap>,
    /// Document offsets.
    pub docs: bool,
}

/// A tensor that a kernel reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTensor {
    /// Its name.
    pub name: String,
    /// Its extents under the lengths asked about.
    pub dims: Vec<usize>,
}

/// A map that a kernel reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMap {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub kind: MapKind,
    /// One for each query head.
    pub per_head: bool,
}

/// What some attentions read, with extents under the given lengths.
pub(crate) fn wants(
    program: &Program,
    attentions: &[usize],
    given: &[(&str, i64)],
    shape: Shape,
) -> Result<Wants, Vec<Diagnostic>> {
    within_limits(shape)?;
    let Shape { n_q, n_k, heads, dim } = shape;
    let sizes = sizes(program, &reads(program, attentions), given)?;
    let env = Env { sizes, n_q, n_k, heads, dim, ..Env::default() };
    let needs = prepare::needs(program, attentions);
    let mut wants = Wants { docs: needs.docs, ..Wants::default() };
    for id in needs.tensors {
        let tensor = program.tensor(id);
        if tensor.of.is_some() {
            continue;
        }
        let mut evaluator = Evaluator::new(program, &env, &tensor.dims);
        let mut dims = Vec::new();
        for &dim in &tensor.dims {
            let extent = evaluator.int(dim, Point::default()).map_err(|e| one(EnvError::from(e)))?;
            let wrong = || {
                let reason = format!("has an extent of {extent}");
                one(EnvError::Tensor { name: tensor.name.clone(), reason, span: tensor.span })
            };
            dims.push(usize::try_from(extent).map_err(|_| wrong())?);
        }
        wants.tensors.push(WantedTensor { name: tensor.name.clone(), dims });
    }
    for id in needs.maps {
        let map = program.map(id);
        wants.maps.push(WantedMap { name: map.name.clone(), kind: map.kind, per_head: map.per_head });
    }
    Ok(wants)
}

/// One (batch item, head) to prepare an [`Env`] for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) attention: usize,
    pub(crate) batch: usize,
    pub(crate) head: i64,
    pub(crate) layer: i64,
    pub(crate) step: i64,
}

/// Queries, keys, where they start, and the head and the batch item where they matter: what an order is laid out for.
type Places = (i64, i64, i64, i64, i64, usize);

/// Orders by id: the index of each position, and the position of each index.
type Orders = (Vec<Arc<[u32]>>, Vec<Arc<[u32]>>);

/// Makes environments of one launch: values by id, and what heads share, found once.
pub(crate) struct Envs<'a> {
    program: &'a Program,
    inputs: &'a Inputs<'a>,
    shape: Shape,
    sizes: Vec<i64>,
    tensors: Vec<TensorData<'a>>,
    /// Candidate sets by draw, analysed when first needed; `None` finds them pair by pair, as the oracle does.
    candidates: Option<&'a [OnceLock<Candidates>]>,
    /// Orders, and their inverses, by the lengths they were made for.
    orders: Vec<(Places, Orders)>,
    /// What buckets are made of.
    from: Of<'a>,
    /// The same tensors with those that are made, of the batch item and attention that were asked for last.
    made: Option<((usize, usize), Vec<TensorData<'a>>)>,
    given: Given<'a>,
    asked: Vec<What>,
    /// What each batch item exchanges with its caller, made when first needed.
    exchanges: Vec<Option<Arc<Exchange<'a>>>>,
}

impl<'a> Envs<'a> {
    /// Resolves names, as far as these attentions read them.
    pub(crate) fn new(
        program: &'a Program,
        attentions: &[usize],
        inputs: &'a Inputs<'a>,
        shape: Shape,
        candidates: Option<&'a [OnceLock<Candidates>]>,
        from: Of<'a>,
    ) -> Result<Self, Vec<Diagnostic>> {
        within_limits(shape)?;
        if let Some(&end) = inputs.docs.last().filter(|&&end| end > MAX_LEN) {
            return Err(one(EnvError::Documents(format!(
                "documents end at {end}, beyond the last position {MAX_LEN}"
            ))));
        }
        let sizes = sizes(program, &reads(program, attentions), &inputs.sizes)?;
        let tensors = || program.tensors.iter().map(|t| t.name.as_str()).filter(|name| !name.contains(' '));
        let mut said = unknown("tensor", inputs.tensors.iter().map(|(name, _)| *name), tensors);
        let maps = || program.maps.iter().map(|m| m.name.as_str());
        said.extend(unknown("map", inputs.maps.iter().map(|(name, _)| *name), maps));
        if !said.is_empty() {
            return Err(said);
        }
        let mut tensors = vec![TensorData::default(); program.tensors.len()];
        for (name, data) in &inputs.tensors {
            if let Some(i) = program.tensors.iter().position(|t| t.name == *name) {
                tensors[i] = data.clone();
            }
        }
        let given = Given::new(program, attentions, &inputs.supplied)?;
        let (orders, asked, exchanges) = Default::default();
        Ok(Envs {
            program,
            inputs,
            shape,
            sizes,
            tensors,
            candidates,
            orders,
            given,
            asked,
            exchanges,
            from,
            made: None,
        })
    }

    /// Asks for levels, scores and selections.
    pub(crate) fn ask(&mut self, asked: &[What]) {
        self.asked = asked.to_vec();
        self.exchanges.clear();
    }

    /// What a batch item exchanges with its caller.
    fn exchange(&mut self, item: usize) -> Arc<Exchange<'a>> {
        if item >= self.exchanges.len() {
            self.exchanges.resize(item + 1, None);
        }
        self.exchanges[item].get_or_insert_with(|| self.given.of_item(item, &self.asked)).clone()
    }

    /// The environment of one (batch item, head), checked and complete.
    pub(crate) fn env(&mut self, at: At) -> Result<Env<'a>, Vec<Diagnostic>> {
        let program = self.program;
        let (n_q, n_k) = self.lengths(at.batch)?;
        let attention = &program.attentions[at.attention];
        let given = (self.inputs.q_start, self.inputs.k_start);
        let (q_start, k_start) = prepare::starts(attention, (n_q, n_k), given).map_err(one)?;
        // Analysis and kernels rely on it: no integer of a pattern overflows below.
        for (what, start, count) in [("queries", q_start, n_q), ("keys", k_start, n_k)] {
            if start.checked_add(count).is_none_or(|end| end > MAX_LEN) {
                let sentence = format!("{count} {what} from position {start} end beyond the last position {MAX_LEN}");
                return Err(one(EnvError::Lengths(sentence, None)));
            }
        }
        let mut env = Env {
            n_q,
            n_k,
            q_start,
            k_start,
            head: at.head,
            heads: self.shape.heads,
            layer: at.layer,
            step: at.step,
            dim: self.shape.dim,
            branch: 0,
            class: None,
            sizes: self.sizes.clone(),
            docs: self.inputs.docs,
            maps: self.maps(at.head, n_q)?,
            tensors: self.tensors.clone(),
            draws: Vec::new(),
            levels: Vec::new(),
            orders: Vec::new(),
            positions: Vec::new(),
            exchange: self.exchange(at.batch),
        };
        let used = [at.attention];
        let needs = prepare::needs_beside(program, &used, &env.exchange);
        if needs.tensors.iter().any(|&t| program.tensor(t).of.is_some()) {
            env.tensors = self.made(at, &needs, &env)?;
        }
        prepare::check_env(program, &used, &env).map_err(all)?;
        prepare::admit(program, at.attention, &env).map_err(one)?;
        (env.orders, env.positions) = self.orders_of(at, &env, &needs).map_err(one)?;
        env.levels = prepare::levels(program, &needs, &env).map_err(one)?;
        env.draws = vec![DrawTable::default(); program.draws.len()];
        for &id in &needs.draws {
            let draw = program.draw(id);
            let rows = random::draw_rows(draw, &env);
            let table = match self.candidates {
                None => random::draw_table(draw, &env, rows, |row, found| {
                    oracle::candidates(program, id, &env, row, found).map_err(|e| one(EnvError::from(e)))
                }),
                Some(analysed) => {
                    let set = analysed[id.0 as usize].get_or_init(|| Candidates::new(program, id));
                    let no_value = |e: EvalError| vec![Diagnostic::global("E0708", e.to_string())];
                    let mut walker = set.walker(&env).map_err(no_value)?;
                    random::draw_table(draw, &env, rows, |row, found| walker.row(row, found).map_err(no_value))
                }
            };
            env.draws[id.0 as usize] = table?;
        }
        self.given.place(program, at.attention, &mut env, at.batch, !self.inputs.lengths.is_empty())?;
        prepare::weigh(program, &mut env).map_err(one)?;
        Ok(env)
    }

    /// Tensors of a batch item, with those that are made.
    fn made(&mut self, at: At, needs: &prepare::Needs, env: &Env<'a>) -> Result<Vec<TensorData<'a>>, Vec<Diagnostic>> {
        let of = (at.attention, at.batch);
        if let Some((_, made)) = self.made.as_ref().filter(|(known, _)| *known == of) {
            return Ok(made.clone());
        }
        let made = made::make(self.program, needs, Env { head: 0, ..env.clone() }, at.batch, &self.from)?;
        self.made = Some((of, made.clone()));
        Ok(made)
    }

    /// Orders that are needed, made once for all heads that share them.
    fn orders_of(&mut self, at: At, env: &Env<'_>, needs: &prepare::Needs) -> Result<Orders, EnvError> {
        let program = self.program;
        let none = || vec![Arc::from([]); program.orders.len()];
        if needs.orders.is_empty() {
            return Ok((none(), none()));
        }
        let head = if needs.orders_by_head(program) { env.head } else { 0 };
        let by_rows = |&o: &OrderId| match program.order(o).kind {
            OrderKind::Sort(by) => program.tensor(by).of.is_some(),
            _ => false,
        };
        let item = if needs.orders.iter().any(by_rows) { at.batch } else { 0 };
        let key = (env.n_q, env.n_k, env.q_start, env.k_start, head, item);
        let place = match self.orders.iter().position(|(k, _)| *k == key) {
            Some(place) => place,
            None => {
                self.orders.push((key, (none(), none())));
                self.orders.len() - 1
            }
        };
        let (made, inverses) = &mut self.orders[place].1;
        for &id in &needs.orders {
            let slot = &mut made[id.0 as usize];
            if slot.is_empty() {
                *slot = order::index(program, id, env)?;
                inverses[id.0 as usize] = order::inverse(slot);
            }
        }
        Ok((made.clone(), inverses.clone()))
    }

    /// Queries and keys of a batch item.
    fn lengths(&self, batch: usize) -> Result<(i64, i64), Vec<Diagnostic>> {
        let Some(&(n_q, n_k)) = self.inputs.lengths.get(batch) else {
            return Ok((self.shape.n_q, self.shape.n_k));
        };
        if n_q > self.shape.n_q || n_k > self.shape.n_k {
            let sentence = format!(
                "batch item {batch} has {n_q} queries and {n_k} keys; the tensors have {} and {}",
                self.shape.n_q, self.shape.n_k
            );
            return Err(one(EnvError::Lengths(sentence, None)));
        }
        Ok((n_q, n_k))
    }

    /// Maps of one head.
    fn maps(&self, head: i64, n_q: i64) -> Result<Vec<MapData<'a>>, Vec<Diagnostic>> {
        let mut maps = vec![MapData::Absent; self.program.maps.len()];
        for (name, input) in &self.inputs.maps {
            let Some(i) = self.program.maps.iter().position(|m| m.name == *name) else { continue };
            let map = &self.program.maps[i];
            let fail = |reason: String| one(EnvError::Map { name: map.name.clone(), reason, span: map.span });
            let head = if map.per_head { usize::try_from(head).unwrap_or(usize::MAX) } else { 0 };
            maps[i] = match (*input, map.kind) {
                (MapInput::Dense { data, shape }, _) => dense(data, shape, map.per_head, head).map_err(fail)?,
                (MapInput::Csr { indptr, indices }, MapKind::Csr) if map.per_head => {
                    csr_of_head(indptr, indices, n_q, head).map_err(fail)?
                }
                (MapInput::Csr { indptr, indices }, _) => MapData::Csr { indptr, indices },
            };
        }
        Ok(maps)
    }
}

/// One head of a dense map.
fn dense<'a>(data: &'a [u8], shape: &[usize], per_head: bool, head: usize) -> Result<MapData<'a>, String> {
    let elements = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    if elements != Some(data.len()) {
        return Err(format!("is {shape:?} and has {} elements", data.len()));
    }
    match (per_head, shape) {
        (false, &[_, cols]) => Ok(MapData::Dense { data, cols }),
        (true, &[heads, rows, cols]) => {
            let size = rows * cols;
            let data = data.get(head.saturating_mul(size)..head.saturating_add(1).saturating_mul(size));
            let data = data.ok_or_else(|| format!("has {heads} heads, and head {head} is asked for"))?;
            Ok(MapData::Dense { data, cols })
        }
        (false, _) => Err(format!("is {shape:?}, and [rows, columns] is wanted")),
        (true, _) => Err(format!("is {shape:?}, and [heads, rows, columns] is wanted")),
    }
}

/// One head of compressed rows: offsets of each head begin with 0.
fn csr_of_head<'a>(indptr: &'a [i64], indices: &'a [i64], n_q: i64, head: usize) -> Result<MapData<'a>, String> {
    let width = usize::try_from(n_q).unwrap_or(usize::MAX).saturating_add(1);
    let rows = |h: usize| indptr.get(h.saturating_mul(width)..h.saturating_add(1).saturating_mul(width));
    let few = || format!("has an `indptr` of {} elements; {width} for each head are wanted", indptr.len());
    let mut begin = 0_usize;
    for h in 0..head {
        let last = rows(h).and_then(<[i64]>::last).ok_or_else(few)?;
        begin = begin.saturating_add(usize::try_from(*last).unwrap_or(usize::MAX));
    }
    let own = rows(head).ok_or_else(few)?;
    let count = own.last().and_then(|&n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let indices = indices
        .get(begin..begin.saturating_add(count))
        .ok_or_else(|| format!("has {} indices, and the offsets ask for more", indices.len()))?;
    Ok(MapData::Csr { indptr: own, indices })
}

/// Whether lengths and counts are such as every part below expects.
fn within_limits(shape: Shape) -> Result<(), Vec<Diagnostic>> {
    let Shape { n_q, n_k, heads, dim } = shape;
    for (name, value, most, code) in [
        ("n_q", n_q, MAX_LEN, "E0702"),
        ("n_k", n_k, MAX_LEN, "E0702"),
        ("the number of heads", heads, MAX_HEADS, "E0722"),
        ("the dimension", dim, MAX_DIM, "E0721"),
    ] {
        if !(0..=most).contains(&value) {
            let help = format!("it may be from 0 to {most}");
            return Err(vec![Diagnostic::global(code, format!("{name} is {value}")).help(help)]);
        }
    }
    Ok(())
}

/// Sizes by id. Those that nothing in `reads` needs may be left out, and are 0 then.
fn sizes(program: &Program, reads: &[ExprId], given: &[(&str, i64)]) -> Result<Vec<i64>, Vec<Diagnostic>> {
    let mut errors: Vec<Diagnostic> = Vec::new();
    let known = || program.sizes.iter().map(|s| s.name.as_str());
    errors.extend(unknown("size", given.iter().map(|(name, _)| *name), known));
    let mut values = Vec::with_capacity(program.sizes.len());
    for (size, read) in program.sizes.iter().zip(flags(program, reads)) {
        match given.iter().rev().find(|(name, _)| *name == size.name) {
            Some(&(_, value)) if value > MAX_LEN => {
                let message = format!("size `{}` is {value}", size.name);
                let said = Diagnostic::error("E0702", size.span, message, "declared here");
                errors.push(said.help(format!("at most {MAX_LEN} is possible")));
            }
            Some(&(_, value)) => values.push(value),
            None if !read => values.push(0),
            None => errors.extend(one(EnvError::Size { name: size.name.clone(), value: None, span: size.span })),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

/// What is given under names that the file does not declare.
fn unknown<'a, K: Iterator<Item = &'a str>>(
    what: &str,
    given: impl Iterator<Item = &'a str>,
    known: impl Fn() -> K,
) -> Vec<Diagnostic> {
    let mut said = Vec::new();
    for name in given.filter(|name| !known().any(|known| known == *name)) {
        let help = match known().collect::<Vec<_>>().as_slice() {
            [] => format!("the file declares no {what}s"),
            known => format!("its {what}s are: {}", known.join(", ")),
        };
        said.push(Diagnostic::global(UNKNOWN_SIZE, format!("there is no {what} named `{name}`")).help(help));
    }
    said
}

/// Which sizes some expressions read, by id.
fn flags(program: &Program, reads: &[ExprId]) -> Vec<bool> {
    let mut read = vec![false; program.sizes.len()];
    for id in program.exprs.reachable(reads) {
        if let Node::Var(Var::Size(size)) = program.exprs.node(id) {
            read[size.0 as usize] = true;
        }
    }
    read
}

/// Names of the sizes that some attentions read.
pub(crate) fn sizes_read(program: &Program, attentions: &[usize]) -> Vec<String> {
    let read = flags(program, &reads(program, attentions));
    program.sizes.iter().zip(read).filter(|(_, read)| *read).map(|(size, _)| size.name.clone()).collect()
}

/// Every expression that a launch of some attentions may evaluate: their own, those of the data they read, and
/// the extents of the space.
fn reads(program: &Program, attentions: &[usize]) -> Vec<ExprId> {
    let needs = prepare::needs(program, attentions);
    let mut roots = space_reads(program);
    roots.extend(needs.attentions.iter().map(|&a| program.attentions[a].require));
    roots.extend(&needs.exprs);
    roots.extend(needs.tensors.iter().flat_map(|&t| &program.tensor(t).dims));
    roots
}

fn space_reads(program: &Program) -> Vec<ExprId> {
    let segments = program.space.segments.iter().flat_map(|s| [s.begin, s.len]);
    let axes = program.space.axes.iter().flat_map(|a| [a.extent, a.stride]);
    segments.chain(axes).chain(program.space.total).collect()
}

/// The size that is the number of tokens, where the space is one axis that a size extends.
pub(crate) fn axis(program: &Program) -> Option<&str> {
    let [segment] = program.space.segments.as_slice() else { return None };
    let extent = match segment.axes.as_slice() {
        [] => segment.len,
        [axis] => program.space.axes[axis.0 as usize].extent,
        _ => return None,
    };
    match program.exprs.node(extent) {
        Node::Var(Var::Size(id)) => program.sizes.get(id.0 as usize).map(|size| size.name.as_str()),
        _ => None,
    }
}

/// Number of tokens that the sizes of the space give; `None` if it is open.
pub(crate) fn tokens(program: &Program, given: &[(&str, i64)]) -> Result<Option<i64>, Vec<Diagnostic>> {
    let sizes = sizes(program, &space_reads(program), given)?;
    let Some(total) = program.space.total else { return Ok(None) };
    let env = Env { sizes, ..Env::default() };
    let value = Evaluator::new(program, &env, &[total]).int(total, Point::default());
    let value = value.map_err(|e| one(EnvError::from(e)))?;
    match i64::try_from(value) {
        Ok(n) if (0..=MAX_LEN).contains(&n) => Ok(Some(n)),
        _ => Err(one(EnvError::Space { value })),
    }
}

pub(crate) fn one(error: EnvError) -> Vec<Diagnostic> {
    vec![error.diagnostic()]
}

fn all(errors: Vec<EnvError>) -> Vec<Diagnostic> {
    errors.iter().map(EnvError::diagnostic).collect()
}

/// Diagnostics of launches that this crate makes.
pub(crate) const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: UNKNOWN_SIZE,
        title: "a size, map or tensor was given under an unknown name",
        explain: "A host gives maps and tensors under the names that the file declares. `--size NAME=V` gives sizes that it declares: `size NAME`, an extent `text[NAME]`, or an axis without \
                  extent, which is named by segment and axis as in `video.h`.",
        example: "",
    },
    CodeInfo {
        code: "E0721",
        title: "the tensors of a launch do not fit together",
        explain: "`q` is [batch, heads, queries, d], `k` [batch, KV heads, keys, d], `v` [batch, KV heads, keys, d_v] and `out` \
                  [batch, heads, queries, d_v].",
        example: "",
    },
    CodeInfo {
        code: "E0722",
        title: "the numbers of heads do not fit",
        explain: "Query heads map to KV heads by groups of the same size, `head * kv_heads / heads`; other ratios need a model \
                  that writes the map. A model fixes both numbers.",
        example: "",
    },
    CodeInfo {
        code: "E0723",
        title: "a layer, step or head lies outside the model, or skips",
        explain: "Layers, steps and heads are counted from 0. A head that skips attends to nothing: it has no rows to show.",
        example: "",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_a_dense_map_are_cut() {
        let data = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let Ok(MapData::Dense { data: own, cols }) = dense(&data, &[2, 2, 3], true, 1) else { panic!("fits") };
        assert_eq!((own, cols), (&data[6..], 3));
        assert!(dense(&data, &[2, 2, 3], true, 2).is_err());
        assert!(dense(&data, &[2, 2, 3], false, 0).is_err());
        assert!(dense(&data, &[2, usize::MAX, 3], true, 0).is_err());
        assert!(dense(&data, &[3, 3], false, 0).is_err());
    }

    #[test]
    fn heads_of_compressed_rows_follow_each_other() {
        let indptr = [0, 1, 3, 0, 0, 2];
        let indices = [5, 1, 2, 0, 4];
        let Ok(MapData::Csr { indptr: own, indices: columns }) = csr_of_head(&indptr, &indices, 2, 1) else {
            panic!("fits")
        };
        assert_eq!((own, columns), (&[0, 0, 2][..], &[0, 4][..]));
        assert!(csr_of_head(&indptr, &indices, 2, 2).is_err());
        assert!(csr_of_head(&indptr, &indices[..4], 2, 1).is_err());
        assert!(csr_of_head(&[0, -5, i64::MAX, 0, 0, 1], &indices, 2, 1).is_err());
    }
}
