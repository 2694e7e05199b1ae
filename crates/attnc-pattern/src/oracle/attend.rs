//! What an attention yields: a softmax over the entries of each query, in f64.
//!
//! A null slot has V = 0 and its bias as logit. For tokens the logit is `modifier(scale * <q, k>) + bias`.
//!
//! A row without entries, or whose logits are all -inf, has o = 0 and lse = -inf. Non-finite Q, K, V or
//! biases give whatever these formulas give, in the rows whose entries hold them and in no other.

use attnc_syntax::diag::{Diagnostic, Span};

use super::entries::{Attended, Slot, Walker, queries};
use super::eval::Evaluator;
use super::fault::{EvalError, Point};
use crate::env::Env;
use crate::expr::ExprId;
use crate::program::{Empty, Program};

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

    /// One head as dense f64 rows.
    fn head(&self, head: usize) -> Vec<f64> {
        let [_, rows, dim] = self.shape;
        let [h, r, c] = self.strides;
        let base = head * h;
        (0..rows * dim).map(|i| f64::from(self.data[base + i / dim * r + i % dim * c])).collect()
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
/// Rows beyond a head's number of queries are o = 0, lse = -inf and marked as padding.
pub fn attend(
    program: &Program,
    heads: &[Head<'_>],
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
) -> Result<Output, OracleError> {
    let [_, rows, dim] = q.shape();
    let dim_v = v.shape()[2];
    check_shapes(heads, q, k, v)?;
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
        let (q, k, v) = (q.head(h), k.head(head.kv_head), v.head(head.kv_head));
        let mut walker = Walker::new(program, attention, head.env);
        let mut logits = Logits::new(program, attention, head.env)?;
        let (mut found, mut terms) = (Vec::new(), Vec::new());
        for (i, position) in queries(head.env).enumerate() {
            found.clear();
            walker.row(position, &mut found)?;
            let written = &program.attentions[attention];
            if found.is_empty() && written.empty == Some(Empty::Error) {
                let (attention, span) = (written.name.clone(), written.span);
                return Err(OracleError::EmptyRow { attention, head: head.env.head, q: position, span });
            }
            let row = h * rows + i;
            let facts = &mut output.rows[row];
            facts.entries = found.len() as u64;
            terms.clear();
            for attended in &found {
                let key = match attended.slot {
                    Slot::Token(position) => Some((position - head.env.k_start) as usize),
                    Slot::Null(_) => None,
                };
                let dot = key.map(|key| dot(&q[i * dim..][..dim], &k[key * dim..][..dim]));
                let (score, logit) = logits.of(position, *attended, dot)?;
                facts.max_score = largest(facts.max_score, &[score, logit]);
                let value = key.map_or(&[][..], |key| &v[key * dim_v..][..dim_v]);
                facts.max_value = largest(facts.max_value, value);
                terms.push((logit, value));
            }
            output.lse[row] = softmax(&terms, &mut output.out[row * dim_v..][..dim_v]);
        }
    }
    Ok(output)
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

/// Scores and logits of one attention of one head.
struct Logits<'a> {
    scale: f64,
    modifier: Option<(ExprId, Evaluator<'a>)>,
    biases: Vec<Option<(ExprId, Evaluator<'a>)>>,
}

impl<'a> Logits<'a> {
    fn new(program: &'a Program, attention: usize, env: &'a Env<'a>) -> Result<Self, EvalError> {
        let attention = &program.attentions[attention];
        let with = |root: Option<ExprId>| root.map(|root| (root, Evaluator::new(program, env, &[root])));
        Ok(Logits {
            scale: Evaluator::new(program, env, &[attention.scale]).real(attention.scale, Point::default())?,
            modifier: with(attention.score),
            biases: attention.entries.iter().map(|entry| with(entry.bias)).collect(),
        })
    }

    /// Score and logit of an entry; `dot` is `<q, k>`, `None` for null slots, whose score is 0.
    fn of(&mut self, q: i64, attended: Attended, dot: Option<f64>) -> Result<(f64, f64), EvalError> {
        let point = match attended.slot {
            Slot::Token(k) => Point::pair(q, k),
            Slot::Null(slot) => Point { q: Some(q), slot: Some(slot), ..Point::default() },
        };
        let score = match (dot, &mut self.modifier) {
            (None, _) => 0.0,
            (Some(dot), None) => self.scale * dot,
            (Some(dot), Some((root, modifier))) => {
                modifier.real(*root, Point { score: Some(self.scale * dot), ..point })?
            }
        };
        let bias = match &mut self.biases[attended.entry] {
            Some((root, bias)) => bias.real(*root, point)?,
            None => 0.0,
        };
        Ok((score, score + bias))
    }
}

/// Weighs `terms`, pairs of a logit and a row of V (empty for V = 0), into `out`; returns the log-sum-exp.
fn softmax(terms: &[(f64, &[f64])], out: &mut [f64]) -> f64 {
    out.fill(0.0);
    if terms.iter().all(|&(logit, _)| logit == f64::NEG_INFINITY) {
        return f64::NEG_INFINITY;
    }
    // `f64::max` passes over a NaN; the sum of exponentials does not.
    let max = terms.iter().fold(f64::NEG_INFINITY, |m, &(logit, _)| m.max(logit));
    let mut sum = 0.0;
    for &(logit, value) in terms {
        let weight = (logit - max).exp();
        sum += weight;
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
    }
    out.iter_mut().for_each(|o| *o /= sum);
    max + sum.ln()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(so_far: f64, values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(so_far, f64::max)
}
