//! Layers of a tensors file, and what a kernel does on one of them beside dense attention.
//!
//! One idea: dense attention is run once with every key and once with the keys that are not ahead, on the same tensors
//! and the same target; everything that is said of a pattern is said against one of these two. Outputs are compared in f32,
//! whatever the tensors are, so that an error is the pattern's and not a rounding. Nothing here knows what is done with that.

use std::time::{Duration, Instant};

use attnc::{Chosen, Compiler, DType, Inputs, Kept, Kernel, Problem, Resources, Select, Shape, Threads};

use crate::args::{Dense, LayersArgs, SetArgs, Target};
use crate::machine::{self, Samples};
use crate::report::{Failure, Outcome};
use crate::run::{Given, Results, padding};
use crate::subject::{self, Data};
use crate::tensors::TensorFile;

/// Runs that are timed, at least.
const RUNS: usize = 3;
/// Runs that are timed, at most.
const MOST_RUNS: usize = 1000;

/// A layer of the file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its number.
    pub(crate) layer: i64,
    prefix: String,
}

impl Place {
    /// What its tensors' names begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The layers that are meant: those of the file, or the one whose tensors have plain names.
pub(crate) fn places(file: &TensorFile, wanted: &[i64]) -> Outcome<Vec<Place>> {
    let mut found: Vec<i64> = file
        .names()
        .iter()
        .filter_map(|name| name.strip_prefix("layer")?.strip_suffix(".q")?.parse().ok())
        .filter(|layer| (0..1 << 20).contains(layer))
        .collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        if let [_, other, ..] = wanted {
            return Err(Failure::usage(
                format!("there is no layer {other}: the tensors have plain names"),
                "name them `layer0.q`, `layer0.k`, `layer0.v`, `layer1.q` ..",
            ));
        }
        return Ok(vec![Place { layer: wanted.first().copied().unwrap_or(0), prefix: String::new() }]);
    }
    if let Some(absent) = wanted.iter().find(|layer| !found.contains(layer)) {
        let known: Vec<String> = found.iter().map(ToString::to_string).collect();
        return Err(Failure::usage(format!("the file has no layer {absent}"), format!("it has {}", known.join(", "))));
    }
    found.retain(|layer| wanted.is_empty() || wanted.contains(layer));
    Ok(found.into_iter().map(|layer| Place { layer, prefix: format!("layer{layer}.") }).collect())
}

/// What runs kernels beside this machine's processors.
pub(crate) struct Device {
    #[cfg(feature = "gpu")]
    gpu: Option<attnc::gpu::Gpu>,
}

impl Device {
    /// This machine alone.
    pub(crate) fn here() -> Device {
        Device {
            #[cfg(feature = "gpu")]
            gpu: None,
        }
    }

    /// What a target asks for.
    pub(crate) fn of(target: &Target) -> Outcome<Device> {
        #[cfg(feature = "gpu")]
        return Ok(Device { gpu: crate::gpu::open(target)? });
        #[cfg(not(feature = "gpu"))]
        {
            let _ = target;
            Ok(Device::here())
        }
    }

    /// The GPU that runs a kernel, if one does.
    #[cfg(feature = "gpu")]
    fn gpu(&self, kernel: &Kernel) -> Option<&attnc::gpu::Gpu> {
        self.gpu.as_ref().filter(|_| kernel.is_for_gpu())
    }

    /// Runs a kernel: the name of what ran, and the tables of its selections.
    fn run(&self, kernel: &Kernel, problem: &mut Problem<'_>, threads: &Threads) -> Outcome<(String, Vec<Chosen>)> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.gpu(kernel) {
            let (session, chosen) = crate::gpu::run_chosen(kernel, gpu, problem)?;
            return Ok((format!("gpu:{}", session.variant().name()), chosen));
        }
        let resources = Resources { threads: Some(threads), workspace: None, ready: None };
        match kernel.isa() {
            Some(isa) => Ok((format!("cpu:{}", isa.name()), kernel.run_chosen(problem, resources)?)),
            None => {
                kernel.run(problem, resources)?;
                Ok(("oracle".to_owned(), Vec::new()))
            }
        }
    }
}

/// The tensors of a layer, and dense attention on them.
pub(crate) struct Layer<'a> {
    pub(crate) place: Place,
    pub(crate) shape: Shape,
    pub(crate) kv_heads: i64,
    /// Dimension of values.
    pub(crate) dv: i64,
    pub(crate) batch: usize,
    pub(crate) dtype: DType,
    given: Given,
    device: &'a Device,
    threads: &'a Threads,
    q_start: i64,
    /// With every key, and with those not ahead.
    dense: [(Kernel, Results); 2],
}

/// What one head does beside dense attention: with every key, and with those not ahead.
#[derive(Debug)]
pub(crate) struct Head {
    /// Name of its attention; `None` where it skips.
    pub(crate) attention: Option<String>,
    pub(crate) errors: [f64; 2],
    pub(crate) kept: Kept,
}

/// What a kernel does on a layer.
pub(crate) struct Seen {
    /// Name of what ran.
    pub(crate) target: String,
    pub(crate) plan_hash: String,
    pub(crate) heads: Vec<Head>,
}

/// Medians of runs one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) nanos: u64,
    pub(crate) dense: [u64; 2],
}

impl<'a> Layer<'a> {
    /// Reads the tensors and runs dense attention.
    pub(crate) fn read(
        file: &mut TensorFile,
        place: &Place,
        args: &LayersArgs,
        (device, threads): (&'a Device, &'a Threads),
    ) -> Outcome<Layer<'a>> {
        file.look_behind(&place.prefix);
        let given = Given::read(file, "q", "k", "v")?;
        if !padding(file, &given)?.is_empty() {
            return Err(Failure::usage(
                "padded batches are not held against dense attention",
                "give the tensors of one item without `q_lengths` and `k_lengths`",
            ));
        }
        let shape = given.shape()?;
        let extent = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let kv_heads = extent(given.k.extents("k")?[1]);
        let ([batch, ..], dv) = (given.q.extents("q")?, extent(given.v.extents("v")?[3]));
        let q_start = args.q_start.unwrap_or((shape.n_k - shape.n_q).max(0));
        let options = subject::options(&SetArgs::default(), &args.target);
        let make = |text: &str| -> Outcome<(Kernel, Results)> {
            let kernel = Compiler::new(options.clone()).source(text)?.kernel(&Select::named("dense"))?;
            let mut results = Results::new(&kernel, &given, DType::F32)?;
            let data = Data { q_start: Some(q_start), ..Data::default() };
            let mut problem = results.problem(&given, data.inputs())?;
            device.run(&kernel, &mut problem, threads)?;
            drop(problem);
            Ok((kernel, results))
        };
        let causal = "attention dense {\n  empty = zero\n  attend causal\n}\n";
        let dense = [make("pattern dense = all\n")?, make(causal)?];
        let dtype = given.q.dtype("q")?;
        let place = place.clone();
        Ok(Layer { place, shape, kv_heads, dv, batch, dtype, given, device, threads, q_start, dense })
    }

    /// Pairs that dense attention has for one head of all batch items.
    pub(crate) fn pairs(&self, dense: Dense) -> u64 {
        let Shape { n_q, n_k, .. } = self.shape;
        let of_item: i64 = match dense {
            Dense::All => n_q.saturating_mul(n_k),
            Dense::Causal => (0..n_q).map(|q| (q + self.q_start + 1).min(n_k)).sum(),
        };
        of_item.unsigned_abs() * self.batch as u64
    }

    /// What a program reads on this layer.
    pub(crate) fn data(
        &self,
        file: &mut TensorFile,
        kernel: &Kernel,
        axis: Option<&str>,
        args: &LayersArgs,
    ) -> Outcome<Data> {
        let mut sizes = args.size.clone();
        if let Some(axis) = axis
            && sizes.iter().all(|(name, _)| name != axis)
        {
            sizes.push((axis.to_owned(), self.shape.n_k));
        }
        // A program's own alignment says where its queries begin.
        let apart = self.shape.n_q != self.shape.n_k;
        let q_start = args.q_start.or(apart.then_some(self.q_start));
        let mut data = Data { sizes, q_start, ..Data::default() };
        let wants = kernel.wants(self.shape, &subject::sizes_of(&data.sizes))?;
        data.read(file, &wants)?;
        Ok(data)
    }

    /// What a candidate is given, with the layer's queries and keys.
    pub(crate) fn inputs<'d>(&'d self, data: &'d Data) -> Outcome<Inputs<'d>> {
        let rows = Some([self.given.q.tensor("q")?, self.given.k.tensor("k")?]);
        Ok(Inputs { rows, ..data.inputs() })
    }

    /// Runs a kernel and holds it against dense attention.
    pub(crate) fn see(&self, kernel: &Kernel, data: &Data, cells: usize) -> Outcome<Seen> {
        let reads = kernel.heads_read(extent(self.shape.heads), extent(self.kv_heads))?;
        let [heads, kv] = [self.shape.heads, self.kv_heads].map(extent);
        let usual = reads.len() == heads && reads.iter().enumerate().all(|(h, &r)| r == (h, h * kv / heads.max(1)));
        if !usual {
            return Err(Failure::usage(
                format!("`{}` maps heads in a way of its own", kernel.select().name),
                "what is held against dense attention gives each KV head to as many query heads in turn",
            ));
        }
        let mut results = Results::new(kernel, &self.given, DType::F32)?;
        let mut problem = results.problem(&self.given, data.inputs())?;
        let (target, chosen) = self.device.run(kernel, &mut problem, self.threads)?;
        let dynamic = (0..heads).any(|h| kernel.is_dynamic(h));
        let chosen = match &*target {
            "oracle" if dynamic => kernel.selections(&problem)?,
            _ if !chosen.is_empty() => kernel.tables(&problem, &chosen)?,
            _ => Vec::new(),
        };
        // Levels alone choose nothing, and random choices are those of the launch.
        let chosen = if dynamic && chosen.is_empty() { kernel.tables(&problem, &[])? } else { chosen };
        let (all, causal) = (self.dense[0].1.tensors()?, self.dense[1].1.tensors()?);
        let kept = self.threads.within(|| kernel.kept(&problem, &chosen, [&all.1, &causal.1], cells))?;
        drop(problem);
        let mut seen = Vec::with_capacity(heads);
        for (head, kept) in kept.into_iter().enumerate() {
            let attention = kernel.attention(head).map(|a| kernel.program().attentions[a].name.clone());
            let errors = [0, 1].map(|i| error(&results, &self.dense[i].1, head));
            seen.push(Head { attention, errors, kept });
        }
        Ok(Seen { target, plan_hash: kernel.hash(), heads: seen })
    }

    /// Times a kernel, with dense attention in turn; `None` for the oracle, whose time says nothing.
    pub(crate) fn time(&self, kernel: &Kernel, data: &Data, least: Duration) -> Outcome<Option<Times>> {
        let none = Data { q_start: Some(self.q_start), ..Data::default() };
        let runs = [(kernel, data), (&self.dense[0].0, &none), (&self.dense[1].0, &none)];
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.device.gpu(kernel) {
            return self.time_on_gpu(gpu, runs, least).map(Some);
        }
        if kernel.isa().is_none() || self.dense[0].0.isa().is_none() {
            return Ok(None);
        }
        let dv = extent(self.dv);
        let mut results = Results::new(kernel, &self.given, DType::F32)?;
        let mut spaces = [vec![], vec![], vec![]];
        for (space, (kernel, data)) in spaces.iter_mut().zip(runs) {
            let memory = kernel.memory(self.shape, self.dtype, dv, self.batch, &data.inputs(), self.threads.count())?;
            *space = vec![0; memory.workspace];
        }
        rounds(least, |i| {
            let (kernel, data) = runs[i];
            let mut problem = results.problem(&self.given, data.inputs())?;
            let workspace = Some(&mut spaces[i][..]);
            let begin = Instant::now();
            kernel.run(&mut problem, Resources { threads: Some(self.threads), workspace, ready: None })?;
            Ok(machine::nanos(begin))
        })
        .map(Some)
    }

    /// The same on a GPU: times of kernels alone, where the device tells them.
    #[cfg(feature = "gpu")]
    fn time_on_gpu(&self, gpu: &attnc::gpu::Gpu, runs: [(&Kernel, &Data); 3], least: Duration) -> Outcome<Times> {
        let mut results = Results::new(runs[0].0, &self.given, DType::F32)?;
        let mut sessions = Vec::with_capacity(runs.len());
        for (kernel, data) in runs {
            let problem = results.problem(&self.given, data.inputs())?;
            sessions.push(attnc::gpu::Session::new(kernel, gpu, &problem)?);
        }
        rounds(least, |i| {
            let mut problem = results.problem(&self.given, runs[i].1.inputs())?;
            let begin = Instant::now();
            let on_device = crate::gpu::again(&sessions[i], gpu, &mut problem)?;
            Ok(on_device.map_or_else(|| machine::nanos(begin), |nanos| nanos as u64))
        })
    }
}

/// Medians of what `run` takes of a pattern, and of dense attention with every key and without those ahead, in turn.
fn rounds(least: Duration, mut run: impl FnMut(usize) -> Outcome<u64>) -> Outcome<Times> {
    let mut samples: [Vec<u64>; 3] = Default::default();
    let begin = Instant::now();
    // The first round warms up.
    for round in 0..=MOST_RUNS {
        if round > RUNS && begin.elapsed() >= least {
            break;
        }
        for (i, samples) in samples.iter_mut().enumerate() {
            let nanos = run(i)?;
            if round > 0 {
                samples.push(nanos);
            }
        }
    }
    let [nanos, all, causal] = samples.map(|s| Samples::new(s).median());
    Ok(Times { nanos, dense: [all, causal] })
}

/// Frobenius norm of the difference over that of dense attention, of one head over all batch items.
fn error(ours: &Results, dense: &Results, head: usize) -> f64 {
    let [batch, heads, rows, dim] = ours.out_shape;
    let size = rows * dim;
    let (mut off, mut norm) = (0.0_f64, 0.0_f64);
    for item in 0..batch {
        let at = (item * heads + head) * size * 4;
        let of = |results: &Results| results.out.bytes()[at..at + size * 4].as_chunks().0.to_vec();
        for (a, b) in of(ours).into_iter().zip(of(dense)) {
            let (a, b) = (f64::from(f32::from_le_bytes(a)), f64::from(f32::from_le_bytes(b)));
            off += (a - b) * (a - b);
            norm += b * b;
        }
    }
    if off == 0.0 { 0.0 } else { (off / norm).sqrt() }
}

fn extent(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0)
}
