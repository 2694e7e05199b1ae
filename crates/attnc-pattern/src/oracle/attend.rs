//! What an attention yields: a softmax over the entries of each query, in f64.
//!
//! A null slot has V = 0 and its bias as logit. For tokens the logit is `modifier(scale * <q, k>) + bias`.
//!
//! A row without entries, or whose logits are all -inf, has o = 0 and lse = -inf. Non-finite Q, K, V or
//! biases give whatever these formulas give, in the rows whose entries hold them and in no other.

use attnc_syntax::diag::{Diagnostic, Span};

use super::fault::EvalError;
use super::head::HeadOf;
use super::select::{Chosen, tables};
use super::sources::{Matrix, Sources};
use super::{level, score};
use crate::env::{DrawTable, Env, Side};
use crate::expr::{LevelId, ScoreId};
use crate::prepare::needs_beside;
use crate::program::Program;

/// A borrowed `[heads, rows, dim]` tensor, its elements already rounded to their type.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    shape: [usize; 3],
    strides: [usize; 3],
}

impl<'a> View<'a> {
    /// A dense tensor; `None` if `data` has not `heads * rows * dim` elements.
    #[must_use]
    pub fn dense(data: &'a [f32], shape: [usize; 3]) -> Option<Self> {
        let row = shape[2];
        let head = shape[1].checked_mul(row)?;
        (shape[0].checked_mul(head)? == data.len()).then_some(View { data, shape, strides: [head, row, 1] })
    }

    /// A tensor with strides in elements; `None` if an element would lie outside `data`.
    #[must_use]
    pub fn strided(data: &'a [f32], shape: [usize; 3], strides: [usize; 3]) -> Option<Self> {
        let mut last = 0_usize;
        for (extent, stride) in shape.into_iter().zip(strides) {
            last = last.checked_add(extent.saturating_sub(1).checked_mul(stride)?)?;
        }
        (shape.contains(&0) || last < data.len()).then_some(View { data, shape, strides })
    }

    /// Heads, rows, dimension.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The first rows of one head in f64.
    fn head(&self, head: usize, rows: usize) -> Matrix {
        let [_, _, dim] = self.shape;
        let [h, r, c] = self.strides;
        let base = head * h;
        let data = (0..rows * dim).map(|i| f64::from(self.data[base + i / dim * r + i % dim * c])).collect();
        Matrix { data, cols: dim }
    }
}

/// One query head of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Index of its attention in [`Program::attentions`]; `None` for `skip`: o = 0, lse = -inf.
    pub attention: Option<usize>,
    /// Lengths (at most the rows of the tensors), coordinates and run-time data.
    pub env: &'a Env<'a>,
    /// The head of K and V that it reads.
    pub kv_head: usize,
}

/// What the comparison must know of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowFacts {
    /// Number of entries.
    pub entries: u64,
    /// Largest finite |s| or |s + bias| over its entries; 0 without any.
    pub max_score: f64,
    /// Largest finite |V| over its entries; 0 without any.
    pub max_value: f64,
    /// Beyond the number of queries of its head: nothing is said of it.
    pub padding: bool,
    /// It has no log-sum-exp: its output is made of several.
    pub merged: bool,
}

impl RowFacts {
    /// Takes in what a part of the row is made of.
    pub(super) fn join(&mut self, part: &RowFacts) {
        self.entries += part.entries;
        self.max_score = self.max_score.max(part.max_score);
        self.max_value = self.max_value.max(part.max_value);
        self.merged |= part.merged;
    }
}

/// Output and log-sum-exp of all heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Heads, query rows, dimension of values.
    pub shape: [usize; 3],
    /// Dimension of queries and keys.
    pub dim: usize,
    /// `[heads, rows, dim_v]`, row-major.
    pub out: Vec<f64>,
    /// `[heads, rows]`, natural logarithm.
    pub lse: Vec<f64>,
    /// `[heads, rows]`
    pub rows: Vec<RowFacts>,
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq)]
pub enum OracleError {
    /// An expression has no value.
    Eval(EvalError),
    /// A row without entries under `empty = error`: the first one.
    EmptyRow {
        /// Name of the attention.
        attention: String,
        /// Query head.
        head: i64,
        /// Position of the query.
        q: i64,
        /// Where the attention was written.
        span: Span,
    },
    /// Tensors and lengths do not fit; the sentence says which.
    Shape(String),
}

impl From<EvalError> for OracleError {
    fn from(error: EvalError) -> Self {
        OracleError::Eval(error)
    }
}

impl OracleError {
    /// As a diagnostic: `E0708` no value, `E0709` empty row, `E0710` shapes.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            OracleError::Eval(error) => error.diagnostic(),
            OracleError::EmptyRow { attention, head, q, span } => Diagnostic::error(
                "E0709",
                *span,
                format!("query {q} of head {head} attends to nothing"),
                format!("`{attention}` has `empty = error`"),
            )
            .help("write `empty = zero` if such rows shall be 0, or widen the set"),
            OracleError::Shape(sentence) => Diagnostic::global("E0710", sentence.clone()),
        }
    }
}

/// Output and log-sum-exp: `q` is `[heads, rows, d]`, `k` `[kv_heads, keys, d]`, `v` `[kv_heads, keys, d_v]`.
///
/// Selections are those of [`select`]. Rows beyond a head's number of queries are o = 0, lse = -inf and marked as padding.
///
/// # Errors
/// See [`OracleError`].
pub fn attend(
    program: &Program,
    heads: &[Head<'_>],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
) -> Result<Output, OracleError> {
    let chosen = select(program, heads, q, k, v)?;
    attend_given(program, heads, q, k, v, &chosen)
}

/// The tables that each head reads, by `DrawId`: those of its environment, and those of its selections.
///
/// # Errors
/// See [`OracleError`].
pub fn select(
    program: &Program,
    heads: &[Head<'_>],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
) -> Result<Vec<Vec<DrawTable>>, OracleError> {
    check_shapes(heads, q, k, v)?;
    let mut sources = None;
    let mut chosen = Vec::with_capacity(heads.len());
    for (h, head) in heads.iter().enumerate() {
        let mut env = head.env.clone();
        env.draws.resize(program.draws.len(), DrawTable::default());
        let needs = head.attention.map(|a| needs_beside(program, &[a], &env.exchange)).unwrap_or_default();
        // The tables of those that the caller gives are there.
        for id in needs.selects.into_iter().filter(|id| !head.env.exchange.selects.contains(id)) {
            let sources = sources.get_or_insert_with(|| read(heads, q, k, v));
            let made = tables(program, id, &env, sources, h)?;
            for (&draw, table) in program.select(id).tables.iter().zip(made) {
                env.draws[draw.0 as usize] = table;
            }
        }
        chosen.push(env.draws);
    }
    Ok(chosen)
}

/// Rows of a level for each head of the output, given the tables `chosen` of each: from the first slot that the launch
/// has, as they are handed back to a caller. Nothing for heads that skip.
///
/// # Errors
/// See [`OracleError`].
pub fn level_rows(
    program: &Program,
    heads: &[Head<'_>],
    [q, k, v]: [View<'_>; 3],
    chosen: &[Vec<DrawTable>],
    level: (LevelId, Side),
) -> Result<Vec<Vec<f64>>, OracleError> {
    check_shapes(heads, q, k, v)?;
    let sources = read(heads, q, k, v);
    let mut rows = Vec::new();
    for (h, head) in heads.iter().enumerate() {
        rows.push(match head.attention {
            Some(_) => {
                let env = Env { draws: chosen.get(h).cloned().unwrap_or_default(), ..head.env.clone() };
                let kept = Chosen { draws: &env.draws }.channels(program, level.0);
                level::handed_back(program, &env, &sources, level, h, &kept)?.data
            }
            None => Vec::new(),
        });
    }
    Ok(rows)
}

/// Values of a score for each head of the output, row by row, and the number of candidates, likewise.
///
/// # Errors
/// See [`OracleError`].
pub fn score_rows(
    program: &Program,
    heads: &[Head<'_>],
    [q, k, v]: [View<'_>; 3],
    chosen: &[Vec<DrawTable>],
    score: ScoreId,
) -> Result<Vec<(usize, Vec<f64>)>, OracleError> {
    check_shapes(heads, q, k, v)?;
    let sources = read(heads, q, k, v);
    let mut rows = Vec::new();
    for (h, head) in heads.iter().enumerate() {
        rows.push(match head.attention {
            Some(_) => {
                let env = Env { draws: chosen.get(h).cloned().unwrap_or_default(), ..head.env.clone() };
                let rows = score::handed_back(program, score, &env, &sources, h)?;
                (rows.first().map_or(0, Vec::len), rows.concat())
            }
            None => (0, Vec::new()),
        });
    }
    Ok(rows)
}

/// As [`attend`], with the tables `chosen` of each head instead of the oracle's own.
///
/// # Errors
/// See [`OracleError`].
pub fn attend_given(
    program: &Program,
    heads: &[Head<'_>],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
    chosen: &[Vec<DrawTable>],
) -> Result<Output, OracleError> {
    let [_, rows, dim] = q.shape();
    let dim_v = v.shape()[2];
    check_shapes(heads, q, k, v)?;
    let sources = read(heads, q, k, v);
    let mut output = Output {
        shape: [heads.len(), rows, dim_v],
        dim,
        out: vec![0.0; heads.len() * rows * dim_v],
        lse: vec![f64::NEG_INFINITY; heads.len() * rows],
        rows: vec![RowFacts::default(); heads.len() * rows],
    };
    for (h, head) in heads.iter().enumerate() {
        output.rows[h * rows + head.env.n_q as usize..(h + 1) * rows].iter_mut().for_each(|r| r.padding = true);
        let Some(attention) = head.attention else { continue };
        let draws = chosen.get(h).cloned().unwrap_or_default();
        let env = Env { draws, ..head.env.clone() };
        let made = HeadOf { program, env: &env, sources: &sources, head: h }.attend(attention)?;
        let from = h * rows;
        output.out[from * dim_v..from * dim_v + made.out.data.len()].copy_from_slice(&made.out.data);
        output.lse[from..from + made.lse.len()].copy_from_slice(&made.lse);
        output.rows[from..from + made.facts.len()].copy_from_slice(&made.facts);
    }
    Ok(output)
}

/// The rows that the launch has of every head.
pub(super) fn read(heads: &[Head<'_>], q: View<'_>, k: View<'_>, v: View<'_>) -> Sources {
    let (mut n_q, mut n_k) = (q.shape()[1], k.shape()[1]);
    if let Some(head) = heads.first() {
        (n_q, n_k) = (head.env.n_q as usize, head.env.n_k as usize);
    }
    let all = |x: View<'_>, rows: usize| (0..x.shape()[0]).map(|h| x.head(h, rows)).collect();
    Sources { q: all(q, n_q), k: all(k, n_k), v: all(v, n_k), kv_head: heads.iter().map(|h| h.kv_head).collect() }
}

fn check_shapes(heads: &[Head<'_>], q: View<'_>, k: View<'_>, v: View<'_>) -> Result<(), OracleError> {
    let ([q_heads, rows, dim], [k_heads, keys, k_dim], [v_heads, values, _]) = (q.shape(), k.shape(), v.shape());
    let fail = |sentence: String| Err(OracleError::Shape(sentence));
    if q_heads != heads.len() {
        return fail(format!("q has {q_heads} heads, the launch {}", heads.len()));
    }
    if k_dim != dim || k_heads != v_heads || keys != values {
        return fail(format!("q {:?}, k {:?} and v {:?} do not fit together", q.shape(), k.shape(), v.shape()));
    }
    for head in heads {
        let env = head.env;
        let fits = |n: i64, rows: usize| usize::try_from(n).is_ok_and(|n| n <= rows);
        if !fits(env.n_q, rows) || !fits(env.n_k, keys) || env.dim != dim as i64 || head.kv_head >= k_heads {
            let (n_q, n_k, d, g) = (env.n_q, env.n_k, env.dim, head.kv_head);
            return fail(format!(
                "head {} wants {n_q} queries, {n_k} keys, d = {d} and KV head {g}; q is {:?} and k {:?}",
                env.head,
                q.shape(),
                k.shape()
            ));
        }
    }
    Ok(())
}
