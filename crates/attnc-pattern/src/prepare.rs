//! What must hold of an [`Env`] before anything is computed, and the parts of it that are computed once:
//! permutations of orders and tables of random choices.
//!
//! Errors are data and come all at once. Only what the attentions of a launch read is asked for.
//! Nothing here knows of Q, K, V, or of how candidates of a random choice are found.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use attnc_syntax::diag::{CodeInfo, Diagnostic, Span};

use crate::env::{DrawTable, Env, Exchange, LevelTable, MapData, TensorData};
use crate::expr::{DrawId, ExprId, LevelId, MapId, Node, OrderId, SelectId, TensorId, Un, Var};
use crate::oracle::{self, EvalError, Evaluator, Point};
use crate::order;
use crate::program::{
    Align, Attention, Budget, Chooser, Index, Made, Map, MapKind, MergeKind, OrderKind, Pool, Program, Rows, Source,
    Step,
};
use crate::random::{draw_rows, draw_table};
use crate::slots;

/// What is wrong with what was given for a run.
#[derive(Clone, Debug, PartialEq)]
pub enum EnvError {
    /// `E0701` A size that was not given, or is negative.
    Size {
        /// Its name.
        name: String,
        /// What was given.
        value: Option<i64>,
        /// Where it was declared.
        span: Span,
    },
    /// `E0702` Lengths or coordinates that are negative, overflow, or leave a fixed space; and the attention that places them.
    Lengths(String, Option<Span>),
    /// `E0703` Document offsets.
    Documents(String),
    /// `E0704` A run-time map.
    Map {
        /// Its name.
        name: String,
        /// What is wrong, to be read after the name.
        reason: String,
        /// Where it was declared.
        span: Span,
    },
    /// `E0705` A run-time tensor.
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong, to be read after the name.
        reason: String,
        /// Where it was declared.
        span: Span,
    },
    /// `E0706` An order that cannot be laid out.
    Order {
        /// Its name.
        name: String,
        /// What is wrong, to be read after the name.
        reason: String,
        /// Where it was declared.
        span: Span,
    },
    /// `E0706` A segment or axis of a size that no sequence has.
    Space {
        /// The size.
        value: i128,
    },
    /// `E0707` Sizes that `require` refuses.
    Require {
        /// Name of the attention.
        attention: String,
        /// Numbers of queries and keys.
        lengths: (i64, i64),
        /// What asks for other sizes.
        span: Span,
        /// What is wrong there.
        otherwise: &'static str,
    },
    /// `E0708` An expression without a value.
    Eval(EvalError),
    /// `E0711` Numbers of queries and keys differ, and the sets depend on where they stand.
    Alignment {
        /// Name of the attention.
        attention: String,
        /// Numbers of queries and keys.
        lengths: (i64, i64),
        /// Where the attention was written.
        span: Span,
    },
}

impl From<EvalError> for EnvError {
    fn from(error: EvalError) -> Self {
        EnvError::Eval(error)
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic().message)
    }
}

impl std::error::Error for EnvError {}

impl EnvError {
    /// As a diagnostic.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            EnvError::Size { name, value: None, span } => {
                Diagnostic::error("E0701", *span, format!("size `{name}` was not given"), "declared here")
                    .help(format!("--size {name}=1024"))
            }
            EnvError::Size { name, value: Some(v), span } => {
                Diagnostic::error("E0701", *span, format!("size `{name}` is negative: {v}"), "declared here")
                    .help(format!("--size {name}=0 is the smallest"))
            }
            EnvError::Lengths(sentence, span) => match span {
                Some(span) => Diagnostic::error("E0702", *span, sentence.clone(), "is aligned at the end"),
                None => Diagnostic::global("E0702", sentence.clone()),
            }
            .help("queries stand at `q_start .. q_start + n_q`, keys at `k_start .. k_start + n_k`"),
            EnvError::Documents(sentence) => Diagnostic::global("E0703", sentence.clone())
                .help("give the first position of each document and the end of the last: 0, 100, 250"),
            EnvError::Map { name, reason, span } => {
                Diagnostic::error("E0704", *span, format!("map `{name}` {reason}"), "declared here").help(
                    "a `bool` map is [n_q, n_k], a `blocks B` map [ceil(n_q / B), ceil(n_k / B)], \
                     a `csr` map `indptr` [n_q + 1] and `indices`",
                )
            }
            EnvError::Tensor { name, reason, span } => {
                Diagnostic::error("E0705", *span, format!("tensor `{name}` {reason}"), "declared here")
                    .help("give a tensor of the declared extents, or change the declaration")
            }
            EnvError::Order { name, reason, span } => {
                Diagnostic::error("E0706", *span, format!("order `{name}` {reason}"), "declared here")
            }
            EnvError::Space { value } => {
                Diagnostic::global("E0706", format!("a segment of the space has the size {value}"))
                    .help("give sizes that are not negative and whose product is a length")
            }
            EnvError::Require { attention, lengths: (n_q, n_k), span, otherwise } => Diagnostic::error(
                "E0707",
                *span,
                format!("`{attention}` is not for {n_q} queries and {n_k} keys"),
                *otherwise,
            )
            .help("run it at other sizes, or write another `require`; without one it is `1 <= n_q <= n_k`"),
            EnvError::Eval(error) => error.diagnostic(),
            EnvError::Alignment { attention, lengths: (n_q, n_k), span } => Diagnostic::error(
                "E0711",
                *span,
                format!("{n_q} queries and {n_k} keys: `{attention}` must say how they are aligned"),
                "depends on where queries stand against keys",
            )
            .help("write `align = end` (the last query is the last key) or `align = start`"),
        }
    }
}

/// Every code of the inputs of a run that this crate gives, those of the oracle among them.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0701",
        title: "a size is missing or negative",
        explain: "Every `size`, every extent `text[NAME]` and every axis without extent needs a number when run: \
                  `--size NAME=V`. It may be 0.",
        example: "",
    },
    CodeInfo {
        code: "E0702",
        title: "lengths or positions do not fit",
        explain: "Queries stand at `q_start .. q_start + n_q` and keys at `k_start .. k_start + n_k`. Neither may begin \
                  before 0, nor end beyond a space whose size is fixed.",
        example: "",
    },
    CodeInfo {
        code: "E0703",
        title: "document offsets are missing or wrong",
        explain: "Documents are given by the first position of each and the end of the last: they begin with 0, do not \
                  descend, and reach at least the last position. Two equal offsets are an empty document.",
        example: "",
    },
    CodeInfo {
        code: "E0704",
        title: "a map is missing or does not fit",
        explain: "A `bool` map is [n_q, n_k], a `blocks B` map [ceil(n_q / B), ceil(n_k / B)]. A `csr` map has `indptr` \
                  [n_q + 1] from 0, not descending, and `indices`, the key columns of each row, ascending and below n_k.",
        example: "",
    },
    CodeInfo {
        code: "E0705",
        title: "a tensor is missing or does not fit",
        explain: "A declared tensor that the attention reads must be given with the declared extents.",
        example: "",
    },
    CodeInfo {
        code: "E0706",
        title: "the space cannot be laid out",
        explain: "A segment or axis has a size that no sequence has, or an order covers more positions than an order may.",
        example: "",
    },
    CodeInfo {
        code: "E0707",
        title: "the attention is not for these sizes",
        explain: "`require` says which sizes an attention is for; without one it is `1 <= n_q <= n_k`. Other sizes are refused \
                  before anything is computed.",
        example: "",
    },
    CodeInfo {
        code: "E0708",
        title: "an expression has no value",
        explain: "A division by zero, an index outside a tensor, or an operand outside the domain of its operation, at a query \
                  and key where the value is needed. Programs that were checked have a value everywhere: this is for callers \
                  that make expressions of their own.",
        example: "",
    },
    CodeInfo {
        code: "E0709",
        title: "a query attends to nothing",
        explain: "Under `empty = error` a row without entries is refused before output is written. `empty = zero` gives \
                  o = 0 and lse = -inf instead.",
        example: "",
    },
    CodeInfo {
        code: "E0710",
        title: "the tensors given to the oracle do not fit together",
        explain: "`q` is [heads, queries, d], `k` [KV heads, keys, d] and `v` [KV heads, keys, d_v]. A kernel refuses tensors \
                  that do not fit with E0721: this is for callers of the oracle itself.",
        example: "",
    },
    CodeInfo {
        code: "E0711",
        title: "queries and keys differ in number without an alignment",
        explain: "The set depends on where queries stand against keys. `align = end` makes the last query the last key, as in \
                  decoding; `align = start` makes the first the first.",
        example: "",
    },
];

/// Positions of the first query and the first key: as given, else by the attention's alignment.
///
/// # Errors
/// Differing numbers without an alignment where it matters, or more queries than keys at the end.
pub fn starts(
    attention: &Attention,
    (n_q, n_k): (i64, i64),
    given: (Option<i64>, Option<i64>),
) -> Result<(i64, i64), EnvError> {
    let k_start = given.1.unwrap_or(0);
    let q_start = match (given.0, attention.align) {
        (Some(q_start), _) => q_start,
        (None, Some(Align::End)) => k_start.saturating_add(n_k).saturating_sub(n_q),
        (None, None) if n_q != n_k && attention.depends_on_alignment => {
            let (attention, span) = (attention.name.clone(), attention.span);
            return Err(EnvError::Alignment { attention, lengths: (n_q, n_k), span });
        }
        (None, _) => k_start,
    };
    if q_start < 0 {
        return Err(EnvError::Lengths(
            format!("{n_q} queries end with {n_k} keys: the first is at {q_start}"),
            Some(attention.span),
        ));
    }
    Ok((q_start, k_start))
}

/// Whether the attention is for these sizes.
///
/// # Errors
/// [`EnvError::Require`] if it is not.
pub fn admit(program: &Program, attention: usize, env: &Env<'_>) -> Result<(), EnvError> {
    let written = &program.attentions[attention];
    let holds = |truth| Evaluator::new(program, env, &[truth]).truth(truth, Point::default());
    if holds(written.require)? {
        return Ok(());
    }
    let mut broken = (written.span, "its `require` does not hold");
    for demand in &written.demands {
        if !holds(demand.holds)? {
            broken = (demand.span, demand.otherwise);
            break;
        }
    }
    let (span, otherwise) = broken;
    Err(EnvError::Require { attention: written.name.clone(), lengths: (env.n_q, env.n_k), span, otherwise })
}

/// Run-time data that some attentions read, random choices behind random choices included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Tensors.
    pub tensors: BTreeSet<TensorId>,
    /// Maps.
    pub maps: BTreeSet<MapId>,
    /// Tables of chosen candidates.
    pub draws: BTreeSet<DrawId>,
    /// Orders.
    pub orders: BTreeSet<OrderId>,
    /// Levels, those behind others included.
    pub levels: BTreeSet<LevelId>,
    /// Selections, those behind others included.
    pub selects: BTreeSet<SelectId>,
    /// Reads the number of a branch.
    pub branch: bool,
    /// The attentions, and those that they merge.
    pub attentions: BTreeSet<usize>,
    /// All that is read is read by one of these.
    pub exprs: Vec<ExprId>,
    /// Document offsets.
    pub docs: bool,
}

impl Needs {
    /// Whether heads have orders of their own.
    #[must_use]
    pub fn orders_by_head(&self, program: &Program) -> bool {
        self.orders.iter().any(|&o| match program.order(o).kind {
            OrderKind::Sort(by) => program.tensor(by).dims.len() > 1,
            _ => false,
        })
    }
}

/// What the attentions read.
#[must_use]
pub fn needs(program: &Program, attentions: &[usize]) -> Needs {
    needs_beside(program, attentions, &Exchange::default())
}

/// What the attentions read of what a caller does not give, and what is asked for beside.
#[must_use]
pub fn needs_beside(program: &Program, attentions: &[usize], exchange: &Exchange<'_>) -> Needs {
    let mut needs = Needs::default();
    let mut roots: Vec<ExprId> = Vec::new();
    let mut looked_at = BTreeSet::new();
    let mut levels: Vec<LevelId> = exchange.asked_levels.iter().map(|l| l.0).collect();
    let mut selects: Vec<SelectId> = exchange.asked_selects.iter().copied().collect();
    let mut attentions = attentions.to_vec();
    let mut next = 0;
    while let Some(&a) = attentions.get(next) {
        next += 1;
        if !needs.attentions.insert(a) {
            continue;
        }
        let attention = &program.attentions[a];
        roots.push(attention.scale);
        roots.extend(attention.score);
        levels.extend(attention.pooled.map(|p| p.level));
        for entry in &attention.entries {
            roots.extend(entry.bias);
            match entry.source {
                Source::Tokens(set) => roots.push(set),
                Source::Slots(level, set) => {
                    roots.push(set);
                    levels.push(level);
                }
                Source::Null(_) => {}
            }
        }
        if let Some(merge) = &attention.merge {
            attentions.extend(&merge.arms);
            match &merge.kind {
                MergeKind::Gate(gates) => roots.extend(gates),
                MergeKind::Mean { branches } => {
                    roots.extend(branches.iter().flat_map(|b| [Some(b.count), b.takes]).flatten());
                }
            }
        }
    }
    while !(roots.is_empty() && levels.is_empty() && selects.is_empty()) {
        while let Some(level) = levels.pop() {
            if needs.levels.insert(level) {
                let level = program.level(level);
                levels.extend(level.parent);
                needs.orders.extend(level.order);
                roots.extend([level.slots, level.slot_q, level.slot_k, level.last, level.last_q, level.len]);
                roots.extend(level.inside.iter().flat_map(|&(q, k)| [q, k]));
                match level.pool {
                    Pool::Weighted(tensor) => drop(needs.tensors.insert(tensor)),
                    Pool::Channels(draw) => drop(needs.draws.insert(draw)),
                    _ => {}
                }
                if let Pool::Channels(draw) = level.pool
                    && let Chooser::Select { select, .. } = program.draw(draw).chooser
                {
                    selects.push(select);
                }
            }
        }
        while let Some(id) = selects.pop() {
            if needs.selects.insert(id) {
                let select = program.select(id);
                needs.draws.extend(&select.tables);
                roots.push(select.capacity);
                let mut index = |index| match index {
                    Index::Slots(level) => levels.push(level),
                    Index::Branches(count) => roots.push(count),
                    _ => {}
                };
                index(select.rows);
                index(select.slots);
                // Of what is given only the extents matter.
                if exchange.selects.contains(&id) {
                    continue;
                }
                if let Some(score) = select.score.map(|s| program.score(s)) {
                    index(score.rows);
                    index(score.slots);
                }
                let computed = select.score.filter(|score| !exchange.scores.contains_key(score));
                if let Some(score) = computed.map(|s| program.score(s)) {
                    for step in &score.steps {
                        if let Step::Keys { into, .. } | Step::Queries { into, .. } = step {
                            index(*into);
                        }
                    }
                    for operand in score.dot.iter().flat_map(|(q, k)| [q, k]) {
                        match operand.rows {
                            Rows::LevelQ(level) | Rows::LevelK(level) => levels.push(level),
                            Rows::Tensor(tensor) => drop(needs.tensors.insert(tensor)),
                            Rows::Q | Rows::K => {}
                        }
                    }
                    roots.extend(score.only.into_iter().chain([score.value]));
                }
                roots.extend(select.within.into_iter().chain(select.besides).chain(select.including));
                match select.budget {
                    Budget::Top(count) => roots.push(count),
                    Budget::CountOf(other) => selects.push(other),
                    _ => {}
                }
            }
        }
        needs.exprs.extend(&roots);
        for id in program.exprs.reachable(&std::mem::take(&mut roots)) {
            match program.exprs.node(id) {
                Node::Load(t, _) => drop(needs.tensors.insert(*t)),
                Node::MapAt(m, ..)
                | Node::Un(Un::CsrBegin(m) | Un::CsrIndex(m) | Un::PartOf(m), _)
                | Node::Var(Var::Parts(m)) => drop(needs.maps.insert(*m)),
                Node::Un(Un::OrderIndex(o) | Un::OrderPosition(o), _) => {
                    needs.orders.insert(*o);
                    if let OrderKind::Sort(by) = program.order(*o).kind {
                        needs.tensors.insert(by);
                    }
                }
                Node::Un(Un::DocOf | Un::DocBegin | Un::DocEnd, _) | Node::Var(Var::Docs) => needs.docs = true,
                Node::Drawn(d, ..) | Node::DrawAt(d, ..) | Node::Un(Un::DrawCount(d), _) => {
                    needs.draws.insert(*d);
                    let draw = program.draw(*d);
                    roots.push(draw.of);
                    if let Chooser::Select { select, .. } = draw.chooser {
                        selects.push(select);
                    }
                }
                Node::Un(Un::SlotLast(l), _) => levels.push(*l),
                Node::Var(Var::Branch) => needs.branch = true,
                _ => {}
            }
        }
        // What tensors are made of: those behind one come before it.
        let mut behind: Vec<TensorId> = needs.tensors.difference(&looked_at).copied().collect();
        while let Some(tensor) = behind.pop() {
            looked_at.insert(tensor);
            match program.tensor(tensor).of {
                Some(Made::Formula(value)) => roots.push(value),
                Some(Made::Hash(hash)) if needs.tensors.insert(hash.planes) => behind.push(hash.planes),
                Some(Made::Hash(_) | Made::Weight(_)) | None => {}
            }
        }
    }
    needs
}

/// Whether everything that the attentions read is there and fits; orders and draws are not looked at.
///
/// # Errors
/// All that is wrong; nothing but sizes and lengths if those are.
pub fn check_env(program: &Program, attentions: &[usize], env: &Env<'_>) -> Result<(), Vec<EnvError>> {
    let mut errors = Vec::new();
    for (i, size) in program.sizes.iter().enumerate() {
        let value = env.sizes.get(i).copied();
        if value.is_none_or(|v| v < 0) {
            errors.push(EnvError::Size { name: size.name.clone(), value, span: size.span });
        }
    }
    let counts = [("n_q", env.n_q), ("n_k", env.n_k), ("q_start", env.q_start), ("k_start", env.k_start)];
    let coordinates = [("head", env.head), ("heads", env.heads), ("layer", env.layer), ("step", env.step)];
    for (name, value) in counts.into_iter().chain(coordinates).chain([("d", env.dim)]) {
        if value < 0 {
            errors.push(EnvError::Lengths(format!("{name} is negative: {value}"), None));
        }
    }
    let ends = env.q_start.checked_add(env.n_q).zip(env.k_start.checked_add(env.n_k));
    if ends.is_none() {
        errors.push(EnvError::Lengths("positions do not fit in 63 bits".into(), None));
    }
    let (true, Some((q_end, k_end))) = (errors.is_empty(), ends) else { return Err(errors) };

    if let Err(error) = check_space(program, env, q_end, k_end) {
        errors.push(error);
    }
    let needs = needs_beside(program, attentions, &env.exchange);
    if needs.docs
        && let Err(sentence) = check_docs(env.docs, q_end.max(k_end))
    {
        errors.push(EnvError::Documents(sentence));
    }
    for id in needs.maps {
        let map = program.map(id);
        let data = env.maps.get(id.0 as usize).copied().unwrap_or(MapData::Absent);
        if let Err(reason) = check_map(map, data, env) {
            errors.push(EnvError::Map { name: map.name.clone(), reason, span: map.span });
        }
    }
    for id in needs.tensors {
        let tensor = program.tensor(id);
        let mut evaluator = Evaluator::new(program, env, &tensor.dims);
        let dims: Result<Vec<_>, _> = tensor.dims.iter().map(|&d| evaluator.int(d, Point::default())).collect();
        let wrong = match dims {
            Ok(dims) => check_tensor(&dims, env.tensors.get(id.0 as usize), tensor.of),
            Err(error) => {
                errors.push(error.into());
                continue;
            }
        };
        if let Err(reason) = wrong {
            errors.push(EnvError::Tensor { name: tensor.name.clone(), reason, span: tensor.span });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Windows of queries and keys lie within a space without an open segment.
fn check_space(program: &Program, env: &Env<'_>, q_end: i64, k_end: i64) -> Result<(), EnvError> {
    let Some(total) = program.space.total else { return Ok(()) };
    let total = order::size(program, env, total)?;
    // Integer ranges of compiled code are proved for spaces up to this length.
    if total > crate::check::MAX_LENGTH {
        return Err(EnvError::Lengths(format!("the space has {total} positions, and at most 2^29 are possible"), None));
    }
    for (what, start, end) in [("queries", env.q_start, q_end), ("keys", env.k_start, k_end)] {
        if end > total {
            let sentence = format!("{what} stand at positions {start} .. {end}, and the space has {total}");
            return Err(EnvError::Lengths(sentence, None));
        }
    }
    Ok(())
}

fn check_docs(docs: &[i64], positions: i64) -> Result<(), String> {
    match docs {
        [] => Err("document offsets were not given".into()),
        [first, ..] if *first != 0 => Err(format!("document offsets begin with {first}, not 0")),
        [.., last] if *last < positions => Err(format!("documents end at {last}, and there are {positions} positions")),
        _ => match docs.windows(2).find(|pair| pair[0] > pair[1]) {
            Some(pair) => Err(format!("document offsets descend: {} before {}", pair[0], pair[1])),
            None => Ok(()),
        },
    }
}

fn check_map(map: &Map, data: MapData<'_>, env: &Env<'_>) -> Result<(), String> {
    let (n_q, n_k) = (env.n_q, env.n_k);
    match (map.kind, data) {
        (_, MapData::Absent) => Err("was not given".into()),
        (MapKind::Bool | MapKind::Blocks(_), MapData::Dense { data, cols }) => {
            let block = if let MapKind::Blocks(block) = map.kind { block.max(1) } else { 1 };
            let blocks = |n: i64| n / block + i64::from(n % block > 0);
            let (rows, columns) = (blocks(n_q), blocks(n_k));
            let fits =
                cols as i128 == i128::from(columns) && data.len() as i128 == i128::from(rows) * i128::from(columns);
            let given = format!("has {} elements in rows of {cols}", data.len());
            if fits { Ok(()) } else { Err(format!("{given}; {rows} rows of {columns} are wanted")) }
        }
        (MapKind::Csr, MapData::Csr { indptr, indices }) => {
            if indptr.len() as i128 != i128::from(n_q) + 1 {
                return Err(format!("has an `indptr` of {} elements; {n_q} + 1 are wanted", indptr.len()));
            }
            let (first, last) = (indptr[0], indptr[indptr.len() - 1]);
            if first != 0 || last != indices.len() as i64 {
                return Err(format!("has `indptr` from {first} to {last}; 0 to {} are wanted", indices.len()));
            }
            if let Some(row) = indptr.windows(2).position(|w| w[0] > w[1]) {
                return Err(format!("has an `indptr` that descends at row {row}"));
            }
            for (row, w) in indptr.windows(2).enumerate() {
                let columns = &indices[w[0] as usize..w[1] as usize];
                if let Some(column) = columns.iter().find(|c| !(0..n_k).contains(c)) {
                    return Err(format!("has column {column} in row {row}, and there are {n_k} keys"));
                }
                if columns.windows(2).any(|c| c[0] >= c[1]) {
                    return Err(format!("has columns that do not ascend in row {row}"));
                }
            }
            Ok(())
        }
        (MapKind::Offsets, MapData::Csr { indptr, .. }) => check_offsets(indptr, env.k_start + n_k),
        (MapKind::Offsets, MapData::Dense { .. }) => Err("is declared as offsets and given dense".into()),
        (MapKind::Csr, MapData::Dense { .. }) => Err("is declared as csr and given dense".into()),
        (_, MapData::Csr { .. }) => Err("is declared dense and given as csr".into()),
    }
}

fn check_offsets(offsets: &[i64], end: i64) -> Result<(), String> {
    match offsets {
        [] | [_] => Err("has no part".into()),
        [first, ..] if *first != 0 => Err(format!("begins with {first}, not 0")),
        [.., last] if *last != end => Err(format!("ends at {last}, and the keys end at {end}")),
        _ => match offsets.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => Err(format!("does not ascend: {} before {}", pair[0], pair[1])),
            None => Ok(()),
        },
    }
}

fn check_tensor(dims: &[i128], given: Option<&TensorData<'_>>, of: Option<Made>) -> Result<(), String> {
    let Some(given) = given.filter(|t| !(t.dims.is_empty() && t.data.is_empty())) else {
        return Err(match of {
            Some(Made::Hash(hash)) => {
                let rows = if hash.queries { "queries" } else { "keys" };
                format!("is made of the {rows}, and there are none here: give it, or give them")
            }
            _ => "was not given".into(),
        });
    };
    if !given.dims.iter().map(|&d| d as i128).eq(dims.iter().copied()) {
        return Err(format!("is {:?} and declared as {dims:?}", given.dims));
    }
    let elements = given.dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    if elements != Some(given.data.len()) {
        return Err(format!("is {:?} and has {} elements", given.dims, given.data.len()));
    }
    Ok(())
}

/// Checks `env` and fills in its orders and draws, as far as the attentions read them.
///
/// `candidates` appends the candidates of a row of a draw in units, as disjoint ascending ranges;
/// the environment that it is given holds all orders and the earlier draws.
///
/// # Errors
/// See [`check_env`] and [`order::index`]; and those of `candidates`.
pub fn prepare<'a>(
    program: &Program,
    attentions: &[usize],
    mut env: Env<'a>,
    mut candidates: impl FnMut(DrawId, &Env<'_>, i64, &mut Vec<Range<i64>>) -> Result<(), EnvError>,
) -> Result<Env<'a>, Vec<EnvError>> {
    check_env(program, attentions, &env)?;
    let needs = needs(program, attentions);
    env.orders = vec![[].into(); program.orders.len()];
    for &id in &needs.orders {
        env.orders[id.0 as usize] = order::index(program, id, &env).map_err(|e| vec![e])?;
    }
    env.positions = env.orders.iter().map(|index| order::inverse(index)).collect();
    env.levels = tables(program, &needs, |id| slots::level_table(program, id, &env)).map_err(|e| vec![e])?;
    env.draws = vec![DrawTable::default(); program.draws.len()];
    for id in needs.draws {
        let draw = program.draw(id);
        let table = draw_table(draw, &env, draw_rows(draw, &env), |row, found| candidates(id, &env, row, found));
        env.draws[id.0 as usize] = table.map_err(|e| vec![e])?;
    }
    weigh(program, &mut env).map_err(|e| vec![e])?;
    Ok(env)
}

/// Members of the levels that are needed as tables; `env` has its orders.
///
/// # Errors
/// An expression without a value.
pub fn levels(program: &Program, needs: &Needs, env: &Env<'_>) -> Result<Vec<LevelTable>, EnvError> {
    tables(program, needs, |id| match slots::block_table(program, id, env)? {
        Some(table) => Ok(table),
        None => slots::level_table(program, id, env),
    })
}

/// A table of each level that needs one.
fn tables(
    program: &Program,
    needs: &Needs,
    of: impl Fn(LevelId) -> Result<LevelTable, EnvError>,
) -> Result<Vec<LevelTable>, EnvError> {
    let mut tables = vec![LevelTable::default(); program.levels.len()];
    for &id in needs.levels.iter().filter(|&&id| program.is_scattered(id)) {
        tables[id.0 as usize] = of(id)?;
    }
    Ok(tables)
}

/// Makes the tensors of [`Draw::weight`](crate::program::Draw::weight) for the draws that were made.
///
/// # Errors
/// An extent that has no value.
pub fn weigh(program: &Program, env: &mut Env<'_>) -> Result<(), EnvError> {
    env.tensors.resize(program.tensors.len(), TensorData::default());
    for (i, tensor) in program.tensors.iter().enumerate() {
        let Some(Made::Weight(draw)) = tensor.of else { continue };
        let Some(table) = env.draws.get(draw.0 as usize).filter(|t| t.count > 0).cloned() else { continue };
        let slots = order::size(program, env, tensor.dims[0])?;
        let mut logs = vec![0.0; usize::try_from(slots).unwrap_or(0)];
        for (&candidate, &times) in table.chosen.iter().zip(table.times.iter()) {
            if let Some(log) = usize::try_from(candidate).ok().and_then(|c| logs.get_mut(c)) {
                *log = f64::from(times).ln() as f32;
            }
        }
        env.tensors[i] = TensorData { dims: vec![logs.len()], data: logs.into() };
    }
    Ok(())
}

/// [`prepare`] with candidates found pair by pair: for the oracle.
///
/// # Errors
/// See [`prepare`].
pub fn prepare_plainly<'a>(program: &Program, attentions: &[usize], env: Env<'a>) -> Result<Env<'a>, Vec<EnvError>> {
    prepare(program, attentions, env, |draw, env, row, found| Ok(oracle::candidates(program, draw, env, row, found)?))
}
