//! Every target of this machine against the oracle, on random inputs of given lengths.
//!
//! The one idea: a case is plain data, and what it finds wrong is a sentence that says how to see it again.

use std::sync::{Arc, OnceLock};

use attnc::gpu::{self, Gpu, Variant};
use attnc::{
    Chosen, Compiler, DType, Inputs, Isa, Kernel, MapInput, MapKind, Options, Output, PASSES, PlanOptions, Problem,
    Resources, Returned, ReturnedValues, Select, Shape, Target, Tensor, TensorData, TensorMut, Threads,
    compare_rounded, random,
};

use crate::shelf::Shelf;

/// What to run.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Name of a pattern, attention or model; empty means the only one.
    pub name: &'a str,
    /// Layer.
    pub layer: i64,
    /// Queries and keys.
    pub lengths: (usize, usize),
    /// Query heads and KV heads; a model's own win.
    pub heads: (usize, usize),
    /// Dimensions of keys and values.
    pub dims: (usize, usize),
    /// Batch items.
    pub batch: usize,
    /// Element type of inputs and output.
    pub dtype: DType,
    /// Seed of every random input.
    pub seed: u64,
    /// Document offsets; where they are wanted and none are given, random ones.
    pub docs: Vec<i64>,
    /// Sizes by name.
    pub sizes: Vec<(String, i64)>,
    /// Values of params.
    pub set: Vec<(String, String)>,
    /// Positions of the first query and key.
    pub starts: (Option<i64>, Option<i64>),
    /// Levels, scores and selections that are asked for, given back, and given with other values.
    pub supply: Vec<String>,
    /// Queries, keys and values of this layer of a real model, the first rows of its heads, in place of random ones.
    pub real: Option<String>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case {
            name: "",
            layer: 0,
            lengths: (1, 1),
            heads: (2, 1),
            dims: (17, 9),
            batch: 1,
            dtype: DType::F32,
            seed: 1,
            docs: vec![],
            sizes: vec![],
            set: vec![],
            starts: (None, None),
            supply: vec![],
            real: None,
        }
    }
}

/// Elements of a type as bytes, and what they are after rounding.
fn encode(data: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => data.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        DType::F16 => data.iter().flat_map(|x| half::f16::from_f32(*x).to_ne_bytes()).collect(),
        DType::Bf16 => data.iter().flat_map(|x| half::bf16::from_f32(*x).to_ne_bytes()).collect(),
    }
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut data = vec![0.0; n];
    random::fill_normal(seed, &mut data);
    data
}

/// Elements of a tensor of a case, `q`, `k` or `v`: random ones, or those of a real model.
fn elements(
    case: &Case<'_>,
    which: &str,
    [batch, heads, rows, dim]: [usize; 4],
    seed: u64,
) -> Result<Vec<f32>, String> {
    let Some(layer) = &case.real else { return Ok(normal(seed, batch * heads * rows * dim)) };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/minilm.safetensors");
    let file = std::fs::read(path).map_err(|e| e.to_string())?;
    let tensors = safetensors::SafeTensors::deserialize(&file).map_err(|e| e.to_string())?;
    let tensor = tensors.tensor(&format!("{layer}.{which}")).map_err(|e| e.to_string())?;
    let &[all, tokens, real_dim] = tensor.shape() else { return Err("heads of rows".to_owned()) };
    if batch != 1 || rows > tokens || dim != real_dim {
        return Err(format!("{rows} rows of {dim} elements; there are {tokens} of {real_dim}"));
    }
    let halves: Vec<f32> =
        tensor.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let of_head = |head: usize| halves[head % all * tokens * dim..][..rows * dim].iter().copied();
    Ok((0..heads).flat_map(of_head).collect())
}

/// Uniform integers of `0 .. bound`.
fn uniform(seed: u64, n: usize, bound: usize) -> Vec<usize> {
    let mut data = vec![0.0; n];
    random::fill_uniform(seed, &mut data);
    data.iter().map(|x| ((x * bound as f32) as usize).min(bound.saturating_sub(1))).collect()
}

/// Plans to compare: with every optional pass, with none, and with those that the seed chooses.
fn plans(seed: u64) -> Vec<PlanOptions> {
    let names: Vec<&str> = PASSES.iter().filter(|p| !p.required).map(|p| p.name).collect();
    let without = |left_out: &dyn Fn(usize) -> bool| PlanOptions {
        without: names.iter().enumerate().filter(|(i, _)| left_out(*i)).map(|(_, name)| name.to_string()).collect(),
        ..PlanOptions::default()
    };
    let chosen = uniform(seed + 7, names.len(), 2);
    let mut plans = vec![without(&|_| false), without(&|_| true), without(&|i| chosen[i] == 1)];
    if plans[..2].iter().any(|p| p.without == plans[2].without) {
        plans.pop();
    }
    plans
}

/// What runs a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// An instruction set and a number of threads.
    Cpu(Isa, usize),
    /// A variant of shaders on the GPU of [`gpu()`].
    Gpu(Variant),
}

impl Runner {
    fn target(self) -> Target {
        match self {
            Runner::Cpu(isa, _) => Target::Cpu(Some(isa)),
            Runner::Gpu(variant) => Target::Gpu(Some(variant)),
        }
    }

    /// Runs a kernel; the type to which weights are rounded, and what selections chose.
    fn run(self, kernel: &Kernel, problem: &mut Problem<'_>) -> Result<(DType, Vec<Chosen>), String> {
        match self {
            Runner::Cpu(_, threads) => {
                let pool = Threads::new(threads).map_err(|e| e.message)?;
                let resources = Resources { threads: Some(&pool), ..Resources::default() };
                let chosen = kernel.run_chosen(problem, resources).map_err(|e| e.to_string())?;
                Ok((DType::F32, chosen))
            }
            Runner::Gpu(_) => {
                let gpu = gpu().as_ref()?;
                let said = |e: attnc::Diagnostics| e.to_string();
                let session = gpu::Session::new(kernel, gpu, problem).map_err(said)?;
                let pending = session.submit_chosen(gpu).map_err(said)?;
                while !pending.ready(gpu).map_err(said)? {
                    std::thread::yield_now();
                }
                let (_, chosen) = pending.finish_chosen(problem).map_err(said)?;
                Ok((session.weights(), chosen))
            }
        }
    }
}

/// The GPU of this machine, opened once, or why there is none.
pub fn gpu() -> &'static Result<Gpu, String> {
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    GPU.get_or_init(|| gpu::adapter(None, None).and_then(|adapter| adapter.open()).map_err(|e| e.to_string()))
}

/// Whether this machine has a GPU; a test that is skipped without one says why.
#[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
pub fn has_gpu() -> bool {
    if let Err(why) = gpu() {
        eprintln!("skipped: {why}");
    }
    gpu().is_ok()
}

/// Compares every instruction set with the oracle, with every plan of `plans`.
///
/// # Errors
/// What does not compile, does not run, or differs by more than its bound.
pub fn against_oracle(source: &str, case: &Case<'_>) -> Result<(), String> {
    let isas = [(Isa::Scalar, 1), (Isa::Avx2, 1), (Isa::Avx2, 3), (Isa::Avx512, 1), (Isa::Avx512, 3)];
    run_all(source, case, &isas.map(|(isa, threads)| Runner::Cpu(isa, threads)), &plans(case.seed))
}

/// Compares the variants that the GPU of this machine runs for the case's type with the oracle. Shaders take a driver
/// long: one plan, with every optional pass for even seeds and with none for odd ones.
///
/// # Errors
/// As for [`against_oracle`]; and a machine without a GPU.
pub fn against_oracle_on_gpu(source: &str, case: &Case<'_>) -> Result<(), String> {
    let takes = |v: &&Variant| **v == Variant::Portable || case.dtype == DType::F16;
    let variants = gpu().as_ref()?.variants().iter().filter(takes);
    let runners: Vec<Runner> = variants.map(|&v| Runner::Gpu(v)).collect();
    let plan = plans(case.seed).swap_remove((case.seed % 2) as usize);
    run_all(source, case, &runners, &[plan])
}

fn run_all(source: &str, case: &Case<'_>, runners: &[Runner], plans: &[PlanOptions]) -> Result<(), String> {
    let mut bits: Option<(Target, usize, Vec<u8>)> = None;
    let mut oracle: Option<Vec<Output>> = None;
    for (plan, &runner) in (0..plans.len()).flat_map(|plan| runners.iter().map(move |r| (plan, r))) {
        let target = runner.target();
        let options = Options { set: case.set.clone(), target, plan: plans[plan].clone(), ..Options::default() };
        let mut compiler = Compiler::new(options);
        // Of runs that have to agree bit by bit one is of code that was kept.
        let kept = matches!(runner, Runner::Cpu(_, threads) if threads > 1);
        if kept {
            compiler = compiler.kept_in(Arc::new(Shelf::default()));
        }
        let mut module = compiler.source(source).map_err(|e| e.to_string())?;
        let name = if case.name.is_empty() {
            module.default_use("").map_err(|e| e.to_string())?
        } else {
            case.name.to_string()
        };
        let select = Select::named(name).layer(case.layer);
        if kept && module.kernel(&select).is_ok() {
            module = compiler.source(source).map_err(|e| e.to_string())?;
        }
        let kernel = match module.kernel(&select) {
            Ok(kernel) => kernel,
            // The scalar table is there on every machine; a vector one is skipped where the CPU lacks it.
            Err(e) if target != Target::Cpu(Some(Isa::Scalar)) && e.list.iter().any(|d| d.code == attnc::NO_TARGET) => {
                continue;
            }
            Err(e) => return Err(e.to_string()),
        };
        let (heads, kv_heads) = kernel.heads().map_or(case.heads, |(h, g)| (h as usize, g as usize));
        let (n_q, n_k) = case.lengths;
        let (d, dv) = case.dims;
        let (q_shape, k_shape) = ([case.batch, heads, n_q, d], [case.batch, kv_heads, n_k, d]);
        let (v_shape, o_shape) = ([case.batch, kv_heads, n_k, dv], [case.batch, heads.max(kv_heads), n_q, dv]);
        let of = |which, shape, nth| {
            Ok::<_, String>(encode(&elements(case, which, shape, case.seed * 3 + nth)?, case.dtype))
        };
        let (q, k, v) = (of("q", q_shape, 0)?, of("k", k_shape, 1)?, of("v", v_shape, 2)?);
        let mut out = vec![0x55; o_shape.iter().product::<usize>() * case.dtype.size()];
        let mut lse = vec![f32::NAN; o_shape[..3].iter().product()];

        let shape = Shape { n_q: n_q as i64, n_k: n_k as i64, heads: heads as i64, dim: d as i64 };
        let sizes: Vec<(&str, i64)> = case.sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let wants = kernel.wants(shape, &sizes).map_err(|e| e.to_string())?;
        let mut docs = case.docs.clone();
        if wants.docs && docs.is_empty() {
            let end = n_q.max(n_k) + case.starts.0.unwrap_or(0).max(case.starts.1.unwrap_or(0)) as usize;
            docs = uniform(case.seed, 4, end + 1).iter().map(|x| *x as i64).collect();
            docs.extend([0, end as i64]);
            docs.sort_unstable();
            docs.dedup();
        }
        let tensors: Vec<Vec<f32>> = (wants.tensors.iter().enumerate())
            .map(|(i, t)| normal(case.seed + 100 + i as u64, t.dims.iter().product()))
            .collect();
        let maps: Vec<MapBytes> = wants
            .maps
            .iter()
            .enumerate()
            .map(|(i, m)| MapBytes::random(m.kind, m.per_head, heads, case, i as u64))
            .collect();
        let inputs = Inputs {
            sizes,
            docs: &docs,
            maps: wants.maps.iter().zip(&maps).map(|(m, data)| (m.name.as_str(), data.input())).collect(),
            tensors: (wants.tensors.iter().zip(&tensors))
                .map(|(t, data)| (t.name.as_str(), TensorData { data: data.into(), dims: t.dims.clone() }))
                .collect(),
            rows: None,
            q_start: case.starts.0,
            k_start: case.starts.1,
            lengths: vec![],
            supplied: vec![],
        };
        let view = |bytes, shape| Tensor::contiguous(bytes, case.dtype, shape).map_err(|e| e.to_string());
        let mut problem = Problem {
            q: view(&q, q_shape)?,
            k: view(&k, k_shape)?,
            v: view(&v, v_shape)?,
            out: TensorMut::contiguous(&mut out, case.dtype, o_shape).map_err(|e| e.to_string())?,
            lse: Some(TensorMut::of_f32(&mut lse, [o_shape[0], o_shape[1], o_shape[2], 1]).map_err(|e| e.to_string())?),
            inputs,
        };
        let oracle = match &oracle {
            Some(known) => known,
            None => oracle.insert(kernel.oracle(&problem).map_err(|e| e.to_string())?),
        };
        let (weights, chosen) = runner.run(&kernel, &mut problem)?;
        // What depends on the data is compared given what was chosen, which is judged apart.
        let mut given = None;
        if !chosen.is_empty() {
            let said = |e: attnc::Diagnostics| e.to_string();
            let tables = kernel.tables(&problem, &chosen).map_err(said)?;
            if let Some(wrong) = kernel.judge(&problem, &tables).map_err(said)?.concat().first() {
                return Err(format!("{runner:?}: {wrong}\n{case:?}\n{source}"));
            }
            given = Some(kernel.oracle_given(&problem, &tables).map_err(said)?);
        }
        let oracle = given.as_ref().unwrap_or(oracle);
        if let Runner::Cpu(_, threads) = runner
            && !case.supply.is_empty()
        {
            let options = Options { target: Target::Oracle, set: case.set.clone(), ..Options::default() };
            let module = Compiler::new(options).source(source).map_err(|e| e.to_string())?;
            let definition = module.kernel(&select).map_err(|e| e.to_string())?;
            exchanged([&kernel, &definition], &problem, case, threads)
                .map_err(|why| format!("{runner:?}: {why}\n{case:?}\n{source}"))?;
        }
        drop(problem);
        let out_view = Tensor::contiguous(&out, case.dtype, o_shape).map_err(|e| e.to_string())?;
        let lse_view = Tensor::of_f32(&lse, [o_shape[0], o_shape[1], o_shape[2], 1]).map_err(|e| e.to_string())?;
        let report = compare_rounded(oracle, &out_view, Some(&lse_view), weights);
        if !report.passed() {
            let without = &plans[plan].without;
            return Err(format!("{runner:?}, without {without:?}: {report:?}\n{case:?}\n{source}"));
        }
        let all: Vec<u8> = out.iter().copied().chain(lse.iter().flat_map(|x| x.to_ne_bytes())).collect();
        match &bits {
            Some((known, of, first)) if (*known, *of) == (target, plan) && *first != all => {
                return Err(format!("{runner:?}: threads give other bits\n{case:?}\n{source}"));
            }
            _ => bits = Some((target, plan, all)),
        }
    }
    Ok(())
}

/// What a launch wrote.
struct Written {
    out: Vec<u8>,
    lse: Vec<f32>,
}

impl Written {
    /// Whether it is another's, bit by bit.
    fn is(&self, other: &Written) -> bool {
        let bits = |w: &Written| w.lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        self.out == other.out && bits(self) == bits(other)
    }
}

/// Asks for the levels, scores and selections of a case, gives them back, and gives others: with what is handed back
/// output is what it was, and with others what the definition says.
fn exchanged(
    [kernel, definition]: [&Kernel; 2],
    like: &Problem<'_>,
    case: &Case<'_>,
    threads: usize,
) -> Result<(), String> {
    let pool = Threads::new(threads).map_err(|e| e.message)?;
    let names: Vec<&str> = case.supply.iter().map(String::as_str).collect();
    let launched = |kernel: &Kernel, supplied: &[Returned]| -> Result<(Vec<Returned>, Written), String> {
        let resources = Resources { threads: Some(&pool), ..Resources::default() };
        with_supply(like, case.dtype, supplied, |problem| {
            kernel.run_returning(problem, resources, &names).map_err(|e| e.to_string())
        })
    };
    let (first, plain) = launched(kernel, &[])?;
    let (defined, _) = launched(definition, &[])?;
    for (own, defined) in first.iter().zip(&defined) {
        near(own, defined)?;
    }
    let (again, same) = launched(kernel, &first)?;
    if !plain.is(&same) {
        return Err("given what was handed back, the output has other bits".to_owned());
    }
    if first != again {
        return Err("given what was handed back, something else is handed back".to_owned());
    }
    let others: Vec<Returned> = first.iter().map(|returned| other(returned, case.seed)).collect();
    let mut sets: Vec<Vec<Returned>> = vec![others.clone()];
    let bands = |name: &str| name.split_once('.').filter(|(_, part)| !["q", "k", "v"].contains(part)).is_some();
    if others.len() > 1 {
        sets.extend(others.iter().filter(|o| !bands(&o.name)).map(|other| vec![other.clone()]));
    }
    for set in sets {
        let given: Vec<&str> = set.iter().map(|s| s.name.as_str()).collect();
        let said = |e: attnc::Diagnostics| format!("given {given:?}: {e}");
        let (expected, written) = with_supply(like, case.dtype, &set, |problem| {
            let resources = Resources { threads: Some(&pool), ..Resources::default() };
            let chosen = kernel.run_chosen(problem, resources).map_err(said)?;
            let tables = kernel.tables(problem, &chosen).map_err(said)?;
            if let Some(wrong) = kernel.judge(problem, &tables).map_err(said)?.concat().first() {
                return Err(format!("given {given:?}: {wrong}"));
            }
            kernel.oracle_given(problem, &tables).map_err(said)
        })?;
        let [batch, heads, rows, _] = like.out.shape();
        let out = Tensor::contiguous(&written.out, case.dtype, like.out.shape()).map_err(|e| e.to_string())?;
        let lse = Tensor::of_f32(&written.lse, [batch, heads, rows, 1]).map_err(|e| e.to_string())?;
        let report = compare_rounded(&expected, &out, Some(&lse), DType::F32);
        if !report.passed() {
            return Err(format!("given {given:?}: {report:?}"));
        }
        if written.is(&plain) && case.lengths.0 > 8 && set.iter().any(|s| !is_empty(s)) {
            return Err(format!("given other values of {given:?}, the output is the same"));
        }
    }
    Ok(())
}

fn is_empty(returned: &Returned) -> bool {
    returned.shape.contains(&0)
}

/// Does `work` with a problem like another one, given also this, and with outputs of its own.
fn with_supply<T>(
    like: &Problem<'_>,
    dtype: DType,
    supplied: &[Returned],
    work: impl FnOnce(&mut Problem<'_>) -> Result<T, String>,
) -> Result<(T, Written), String> {
    let shape = like.out.shape();
    let mut out = vec![0x55_u8; shape.iter().product::<usize>() * dtype.size()];
    let mut lse = vec![f32::NAN; shape[..3].iter().product()];
    let mut problem = Problem {
        q: like.q,
        k: like.k,
        v: like.v,
        out: TensorMut::contiguous(&mut out, dtype, shape).map_err(|e| e.to_string())?,
        lse: Some(TensorMut::of_f32(&mut lse, [shape[0], shape[1], shape[2], 1]).map_err(|e| e.to_string())?),
        inputs: Inputs { supplied: supplied.iter().map(Returned::supply).collect(), ..like.inputs.clone() },
    };
    let made = work(&mut problem)?;
    drop(problem);
    Ok((made, Written { out, lse }))
}

/// Whether what was handed back is what the definition hands back, within the rounding of sums in f32. Values of pairs
/// that no selection asks for are -inf.
fn near(own: &Returned, defined: &Returned) -> Result<(), String> {
    let ReturnedValues::Reals(values) = &own.values else { return Ok(()) };
    let ReturnedValues::Reals(expected) = &defined.values else { return Err("is of slots".to_owned()) };
    if own.shape != defined.shape {
        return Err(format!("{} is {:?}, and by definition {:?}", own.name, own.shape, defined.shape));
    }
    let most = expected.iter().filter(|x| x.is_finite()).fold(1.0_f32, |most, x| most.max(x.abs()));
    let wrong = values.iter().zip(expected).position(|(x, y)| {
        let close = (x - y).abs() <= most * 2.0_f32.powi(-12);
        *x != f32::NEG_INFINITY && x.to_bits() != y.to_bits() && !close
    });
    match wrong {
        Some(at) => Err(format!("{}[{at}] is {}, and by definition {}", own.name, values[at], expected[at])),
        None if !values.is_empty() && values.iter().all(|x| *x == f32::NEG_INFINITY) => {
            Err(format!("{} has no values", own.name))
        }
        None => Ok(()),
    }
}

/// Other values of the same kind: rows of a selection exchanged and in another order, reals at random; of a level for odd
/// seeds only the first half of its slots.
fn other(returned: &Returned, seed: u64) -> Returned {
    let mut other = returned.clone();
    let [batch, heads, rows, cols] = other.shape;
    match &mut other.values {
        ReturnedValues::Slots(slots) => {
            let all = heads * rows * cols;
            for item in 0..batch {
                if heads * rows > 1 {
                    slots[item * all..(item + 1) * all].rotate_left(cols);
                } else if let Some(last) = slots[item * all..(item + 1) * all].iter().rposition(|&slot| slot >= 0) {
                    slots[item * all + last] = -1;
                }
            }
            for row in slots.chunks_mut(cols.max(1)) {
                let count = row.iter().position(|&slot| slot < 0).unwrap_or(row.len());
                row[..count].reverse();
            }
        }
        ReturnedValues::Reals(values) => {
            let fresh = normal(seed + 7000, values.len());
            let new = values.iter_mut().zip(fresh).filter(|(x, _)| x.is_finite());
            new.for_each(|(x, new)| *x = new.abs());
            let level = other.name.contains('.');
            if level && seed % 2 == 1 {
                let kept = rows / 2 + rows % 2;
                let of_head = values.chunks(rows * cols).flat_map(|head| head[..kept * cols].to_vec());
                (*values, other.shape[2]) = (of_head.collect(), kept);
            }
        }
    }
    other
}

/// A random map that owns its data.
enum MapBytes {
    Dense(Vec<u8>, Vec<usize>),
    Csr(Vec<i64>, Vec<i64>),
}

impl MapBytes {
    fn random(kind: MapKind, per_head: bool, heads: usize, case: &Case<'_>, nth: u64) -> MapBytes {
        let (n_q, n_k) = case.lengths;
        let copies = if per_head { heads } else { 1 };
        let seed = case.seed + 1000 + nth;
        let dense = |rows: usize, cols: usize| {
            let mut shape = vec![rows, cols];
            if per_head {
                shape.insert(0, heads);
            }
            MapBytes::Dense(uniform(seed, copies * rows * cols, 2).iter().map(|b| *b as u8).collect(), shape)
        };
        match kind {
            MapKind::Bool => dense(n_q, n_k),
            MapKind::Blocks(b) => dense(n_q.div_ceil(b as usize), n_k.div_ceil(b as usize)),
            MapKind::Offsets => {
                let mut offsets = vec![0];
                while offsets.last().is_some_and(|&last| last < n_k) {
                    let last = offsets.len() - 1;
                    let step = uniform(seed * 91 + last as u64, 1, n_k / 3 + 1)[0] + 1;
                    offsets.push((offsets[last] + step).min(n_k));
                }
                MapBytes::Csr(offsets.into_iter().map(|o| o as i64).collect(), vec![])
            }
            MapKind::Csr => {
                let (mut indptr, mut indices) = (vec![], vec![]);
                for head in 0..copies {
                    indptr.push(0);
                    let before = indices.len();
                    for row in 0..n_q {
                        let mut columns = uniform(seed * 77 + (head * n_q + row) as u64, 3, n_k);
                        columns.sort_unstable();
                        columns.dedup();
                        indices.extend(columns.iter().filter(|_| n_k > 0).map(|c| *c as i64));
                        indptr.push((indices.len() - before) as i64);
                    }
                }
                MapBytes::Csr(indptr, indices)
            }
        }
    }

    fn input(&self) -> MapInput<'_> {
        match self {
            MapBytes::Dense(data, shape) => MapInput::Dense { data, shape },
            MapBytes::Csr(indptr, indices) => MapInput::Csr { indptr, indices },
        }
    }
}
