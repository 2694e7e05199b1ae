//! Tensors that a launch makes of queries, keys and other tensors before anything else: numbers of buckets, and reals
//! by position.
//!
//! Products are f64 sums of single-precision products in the order of the elements, on every target, so that all find
//! the same buckets. Nothing here knows what the tensors are read for.

use std::sync::Arc;

use attnc_pattern::analysis::Values;
use attnc_pattern::env::{Env, Reals, TensorData};
use attnc_pattern::expr::TensorId;
use attnc_pattern::oracle::{self, Evaluator, Point};
use attnc_pattern::prepare::{EnvError, Needs};
use attnc_pattern::program::{Hash, Made, Program};
use attnc_syntax::diag::Diagnostic;

use crate::kernel::Threads;
use crate::problem::one;
use crate::tensor::Tensor;

/// Rows of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) q: Tensor<'a>,
    pub(crate) k: Tensor<'a>,
    /// Query head and KV head of each head of the output.
    pub(crate) heads: Vec<(usize, usize)>,
    /// Threads to share the work; `None` is the host's pool.
    pub(crate) threads: Option<&'a Threads>,
}

/// What buckets are made of.
#[derive(Clone, Debug)]
pub(crate) enum Of<'a> {
    /// Rows.
    Rows(Rows<'a>),
    /// Rows, by the oracle.
    Oracle(Rows<'a>),
    /// Nothing: a tensor that is made of rows is missing.
    Nothing,
    /// Nothing, and all are bucket 0: where extents matter alone.
    Extents,
}

/// Makes the tensors that are needed and were not given, for a batch item; `env` is that of its first head.
pub(crate) fn make<'a>(
    program: &Program,
    needs: &Needs,
    mut env: Env<'a>,
    batch: usize,
    from: &Of<'_>,
) -> Result<Vec<TensorData<'a>>, Vec<Diagnostic>> {
    let no_value = |e: oracle::EvalError| one(EnvError::from(e));
    // What a tensor is made of comes before it.
    for &id in &needs.tensors {
        let tensor = program.tensor(id);
        let given = |at: &TensorData<'_>| !(at.dims.is_empty() && at.data.is_empty());
        if tensor.of.is_none() || env.tensors.get(id.0 as usize).is_some_and(given) {
            continue;
        }
        let mut evaluator = Evaluator::new(program, &env, &tensor.dims);
        let mut dims = Vec::with_capacity(tensor.dims.len());
        for &dim in &tensor.dims {
            dims.push(usize::try_from(evaluator.int(dim, Point::default()).map_err(no_value)?).unwrap_or(0));
        }
        let data = match tensor.of {
            Some(Made::Formula(value)) => {
                let mut data = vec![0.0; dims.iter().product()];
                let compiled = Values::new(program, value);
                for (head, row) in data.chunks_exact_mut(dims[dims.len() - 1].max(1)).enumerate() {
                    env.head = head as i64;
                    if matches!(from, Of::Oracle(_)) {
                        for (position, element) in row.iter_mut().enumerate() {
                            *element = oracle::element(program, value, &env, position as i64).map_err(no_value)? as f32;
                        }
                    } else {
                        compiled.row(&env, 0, row).map_err(|e| vec![Diagnostic::global("E0708", e.to_string())])?;
                    }
                }
                env.head = 0;
                data
            }
            Some(Made::Hash(hash)) => {
                let end = if hash.queries { env.q_start + env.n_q } else { env.k_start + env.n_k };
                let &[_, positions] = dims.as_slice() else { continue };
                if (positions as i64) < end {
                    let rows = if hash.queries { "queries" } else { "keys" };
                    let reason = format!("has {positions} positions, and the {rows} end at {end}");
                    return Err(one(EnvError::Tensor { name: tensor.name.clone(), reason, span: tensor.span }));
                }
                match from {
                    Of::Nothing => continue,
                    Of::Extents => vec![0.0; dims.iter().product()],
                    Of::Rows(rows) | Of::Oracle(rows) => {
                        let Some(planes) = planes(program, hash.planes, &env).map_err(no_value)? else { continue };
                        let plainly = matches!(from, Of::Oracle(_));
                        buckets(hash, &planes, rows, &env, (batch, positions), plainly)
                    }
                }
            }
            Some(Made::Weight(_)) | None => continue,
        };
        env.tensors[id.0 as usize] = TensorData { dims, data: Reals::Made(Arc::new(data)) };
    }
    Ok(env.tensors)
}

/// Planes of each head as `[d, bits]`; `None` where they are missing or do not fit, as will be said of them.
fn planes(program: &Program, id: TensorId, env: &Env<'_>) -> Result<Option<Vec<Vec<f64>>>, oracle::EvalError> {
    let tensor = program.tensor(id);
    let mut evaluator = Evaluator::new(program, env, &tensor.dims);
    let mut elements = 1_usize;
    for &dim in &tensor.dims {
        let extent = evaluator.int(dim, Point::default())?;
        elements = elements.saturating_mul(usize::try_from(extent).unwrap_or(0));
    }
    let Some(given) = env.tensors.get(id.0 as usize).filter(|t| t.data.len() == elements && elements > 0) else {
        return Ok(None);
    };
    let heads = if tensor.dims.len() == 3 { usize::try_from(env.heads).unwrap_or(1).max(1) } else { 1 };
    let wide = |of_head: &[f32]| of_head.iter().map(|&x| f64::from(x)).collect();
    Ok(Some(given.data.chunks_exact(elements / heads).map(wide).collect()))
}

fn buckets(
    hash: Hash,
    planes: &[Vec<f64>],
    rows: &Rows<'_>,
    env: &Env<'_>,
    (batch, positions): (usize, usize),
    plainly: bool,
) -> Vec<f32> {
    use rayon::prelude::*;
    let (start, count) = if hash.queries { (env.q_start, env.n_q) } else { (env.k_start, env.n_k) };
    let (start, count) = (usize::try_from(start).unwrap_or(0), usize::try_from(count).unwrap_or(0));
    let tensor = if hash.queries { &rows.q } else { &rows.k };
    let dim = tensor.shape()[3];
    let mut found = vec![0.0; rows.heads.len() * positions];
    if positions == 0 || dim == 0 {
        return found;
    }
    // The oracle takes one plane after the other.
    let side_by_side: Vec<Vec<Beside>> =
        if plainly { Vec::new() } else { planes.iter().map(|planes| beside(planes, dim)).collect() };
    let of_head = |(head, found): (usize, &mut [f32])| {
        let of = if planes.len() == 1 { 0 } else { head };
        let (q_head, kv_head) = rows.heads[head];
        let read = if hash.queries { q_head } else { kv_head };
        found[start..start + count].par_iter_mut().enumerate().for_each_init(
            || (vec![0.0; dim], vec![0.0; dim]),
            |(singles, row), (at, bucket)| {
                tensor.row([batch, read, at], singles);
                row.iter_mut().zip(&*singles).for_each(|(x, &single)| *x = f64::from(single));
                let number = match plainly {
                    true => oracle::bucket(hash, row, &planes[of]),
                    false => numbered(hash, row, &side_by_side[of]),
                };
                *bucket = number as f32;
            },
        );
    };
    let mut work = || found.par_chunks_exact_mut(positions).enumerate().for_each(of_head);
    match rows.threads {
        Some(threads) => threads.within(work),
        None => work(),
    }
    found
}

/// Elements of some planes, whose products are summed side by side.
type Beside = [f64; 8];

/// Planes `[d, bits]` as `[bits / 8][d]`, filled up with zeros.
fn beside(planes: &[f64], dim: usize) -> Vec<Beside> {
    let bits = planes.len() / dim;
    let element = |c: usize, plane: usize| if plane < bits { planes[c * bits + plane] } else { 0.0 };
    let group = |first: usize| (0..dim).map(move |c| std::array::from_fn(|i| element(c, first + i)));
    (0..bits).step_by(8).flat_map(group).collect()
}

/// The bucket of a row.
fn numbered(hash: Hash, row: &[f64], planes: &[Beside]) -> u32 {
    let mut number = 0;
    for (group, planes) in planes.chunks_exact(row.len()).enumerate() {
        let mut sums = [0.0; 8];
        for (x, planes) in row.iter().zip(planes) {
            sums.iter_mut().zip(planes).for_each(|(sum, plane)| *sum += x * plane);
        }
        let bits = sums.iter().rev().fold(0, |bits, &sum| bits << 1 | u32::from(sum > 0.0));
        number |= bits << (8 * group);
    }
    if hash.gray { number ^ (number >> 1) } else { number }
}
