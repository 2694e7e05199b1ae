//! Launches: buffers, run-time data as words, dispatches that respect the adapter's limits, and results.
//!
//! The one idea: encoding and finishing are apart. [`Session`] holds a launch's buffers; [`Session::encode`] writes its
//! dispatches into a command encoder and returns at once; [`Pending`] tells without waiting whether results are there.
//! Jobs are (batch item, head); those whose rows fit the adapter's bindings share a dispatch, others get one of their
//! own over windows of the buffers. Nothing here waits, and nothing here knows of shaders' text.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use attnc_pattern::analysis::Rows;
use attnc_pattern::env::{Env, MapData};
use attnc_pattern::expr::{ExprId, LevelId};
use attnc_pattern::order;
use attnc_pattern::program::{Empty, Program};
use attnc_pattern::slots;
use attnc_plan::choose::Chosen;
use attnc_plan::{Entry, Reads, VerifiedPlan, View, range};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::cut::{Cut, Extents, cut};
use crate::device::{Gpu, GpuError};
use crate::dynamic::{self, Table};
use crate::emit::gate::{BINDINGS, Weight, gate};
use crate::emit::passes::{Pass, THREADS};
use crate::emit::{self, Element, EmitError, Spec, Stage, Variant, emit, max_dim};
use crate::layout::Field;

/// Why a launch was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The plan has no shader for these tensors.
    Emit(EmitError),
    /// The GPU.
    Gpu(GpuError),
    /// The GPU does not run the variant that was asked for.
    Variant(Variant),
    /// An integer of the pattern may not fit 32 bits in a launch of these sizes.
    Range {
        /// The attention.
        attention: usize,
        /// The expression.
        expr: ExprId,
    },
    /// A row attends to nothing, and that is an error.
    EmptyRow {
        /// Batch item.
        batch: usize,
        /// Head.
        head: usize,
        /// Row.
        row: usize,
    },
    /// Run-time data that do not fit.
    Data(String),
}

impl From<GpuError> for LaunchError {
    fn from(error: GpuError) -> Self {
        LaunchError::Gpu(error)
    }
}

impl From<EmitError> for LaunchError {
    fn from(error: EmitError) -> Self {
        LaunchError::Emit(error)
    }
}

/// A plan and what has been made of it: shaders by [`Spec`], pipelines by device.
#[derive(Debug)]
pub struct GpuKernel {
    plan: VerifiedPlan,
    /// Run this variant and no other.
    variant: Option<Variant>,
    made: Mutex<Vec<Made>>,
}

#[derive(Debug)]
struct Made {
    device: Weak<()>,
    spec: Spec,
    compiled: Arc<CompiledPlan>,
}

/// Pipelines of a plan.
#[derive(Debug)]
pub(crate) struct CompiledPlan {
    /// What makes levels and tables, in order.
    pub(crate) passes: Vec<(Pass, wgpu::ComputePipeline)>,
    stages: Vec<Compiled>,
}

impl CompiledPlan {
    /// The stages that attend.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &Stage> {
        self.stages.iter().map(|c| &c.stage)
    }
}

/// A stage and its pipeline.
#[derive(Debug)]
struct Compiled {
    stage: Stage,
    pipeline: wgpu::ComputePipeline,
    /// Bindings that it has.
    bindings: Vec<u32>,
    /// What joins parts of tiles, made when first asked for.
    join: OnceLock<wgpu::ComputePipeline>,
}

impl Compiled {
    /// What joins parts of tiles.
    fn join(&self, gpu: &Gpu) -> Result<wgpu::ComputePipeline, GpuError> {
        if let Some(known) = self.join.get() {
            return Ok(known.clone());
        }
        let made = pipeline(gpu, (&self.stage.text, trusted(&self.stage)), "join", &access(&self.bindings))?;
        Ok(self.join.get_or_init(|| made).clone())
    }
}

impl GpuKernel {
    /// A kernel for a plan; with a variant, for that alone. Tensors decide the rest of a [`Spec`], so that nothing but
    /// whether there is a shader at all is found out here.
    ///
    /// # Errors
    /// What this back end does not do.
    pub fn new(plan: &VerifiedPlan, variant: Option<Variant>) -> Result<GpuKernel, EmitError> {
        let spec = Spec { variant: Variant::Portable, input: Element::F32, output: Element::F32, d: 64, dv: 64 };
        if variant == Some(Variant::Matrix) {
            emit(plan, &Spec { variant: Variant::Matrix, input: Element::F16, ..spec })?;
        }
        emit(plan, &spec)?;
        emit::passes::passes(plan, &spec)?;
        Ok(GpuKernel { plan: plan.clone(), variant, made: Mutex::new(Vec::new()) })
    }

    /// The plan.
    pub(crate) fn plan(&self) -> &VerifiedPlan {
        &self.plan
    }

    /// Pipelines of a device, made once.
    fn compiled(&self, gpu: &Gpu, spec: &Spec) -> Result<Arc<CompiledPlan>, LaunchError> {
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.retain(|m| m.device.strong_count() > 0);
        let here = Arc::as_ptr(&gpu.token);
        if let Some(known) = made.iter().find(|m| m.spec == *spec && m.device.as_ptr() == here) {
            return Ok(known.compiled.clone());
        }
        let stages = emit(&self.plan, spec)?;
        let stages = stages.into_iter().map(|s| compile(gpu, s)).collect::<Result<Vec<_>, GpuError>>()?;
        let passes = emit::passes::passes(&self.plan, spec)?;
        let passes = passes
            .into_iter()
            .map(|pass| {
                let pipeline = pipeline(gpu, (&pass.text, false), "main", &pass.bindings)?;
                Ok((pass, pipeline))
            })
            .collect::<Result<Vec<_>, GpuError>>()?;
        let compiled = Arc::new(CompiledPlan { passes, stages });
        made.push(Made { device: Arc::downgrade(&gpu.token), spec: *spec, compiled: compiled.clone() });
        Ok(compiled)
    }
}

/// What an arm of a merge is weighed by, and the shaders that add it.
#[derive(Debug)]
pub struct Gate {
    program: Arc<Program>,
    /// Name of the merge.
    name: String,
    weight: Weight,
    made: Mutex<Vec<Arc<Added>>>,
}

/// What adds an arm on a device.
#[derive(Debug)]
struct Added {
    device: Weak<()>,
    spec: Spec,
    fields: Vec<Field>,
    pipeline: wgpu::ComputePipeline,
}

impl Gate {
    /// An arm of the merge `name` that is weighed by the product of these gates and a share.
    ///
    /// # Errors
    /// A gate that has no shader.
    pub fn new(program: &Arc<Program>, name: &str, factors: Vec<ExprId>, share: f32) -> Result<Gate, EmitError> {
        let weight = Weight { factors, share };
        let made = Gate { program: program.clone(), name: name.to_owned(), weight, made: Mutex::default() };
        made.text(&Spec { variant: Variant::Portable, input: Element::F32, output: Element::F32, d: 64, dv: 64 })?;
        Ok(made)
    }

    /// The text of its shader.
    ///
    /// # Errors
    /// As for [`Gate::new`].
    pub fn text(&self, spec: &Spec) -> Result<String, EmitError> {
        Ok(gate(&self.program, &self.name, spec, &self.weight)?.0)
    }

    /// What adds it on a device, made once.
    fn compiled(&self, gpu: &Gpu, spec: &Spec) -> Result<Arc<Added>, LaunchError> {
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.retain(|m| m.device.strong_count() > 0);
        let here = Arc::as_ptr(&gpu.token);
        if let Some(known) = made.iter().find(|m| m.spec == *spec && m.device.as_ptr() == here) {
            return Ok(known.clone());
        }
        let (text, fields) = gate(&self.program, &self.name, spec, &self.weight)?;
        let pipeline = pipeline(gpu, (&text, false), "main", &BINDINGS)?;
        let added = Arc::new(Added { device: Arc::downgrade(&gpu.token), spec: *spec, fields, pipeline });
        made.push(added.clone());
        Ok(added)
    }
}

/// The variant that kernels of one launch share, for tensors of this type and these dimensions.
///
/// # Errors
/// If a kernel is for a variant that the GPU does not run.
pub fn variant<'a>(
    kernels: impl Iterator<Item = &'a GpuKernel>,
    gpu: &Gpu,
    input: Element,
    dims: [usize; 2],
) -> Result<Variant, LaunchError> {
    let mut best = vec![Variant::Matrix, Variant::Half];
    for kernel in kernels {
        if let Some(variant) = kernel.variant {
            return if gpu.variants().contains(&variant) { Ok(variant) } else { Err(LaunchError::Variant(variant)) };
        }
        best.retain(|v| *v != Variant::Matrix || !kernel.plan.is_dynamic());
    }
    let fits = |v: Variant| gpu.variants().contains(&v) && dims.iter().all(|&d| d <= max_dim(v));
    Ok(best.into_iter().find(|v| input == Element::F16 && fits(*v)).unwrap_or(Variant::Portable))
}

/// Bindings of a stage, see `emit::Maker::bindings`.
const DATA: u32 = 2;
const OUTPUT: u32 = 6;
const BETWEEN: u32 = 8;

fn compile(gpu: &Gpu, stage: Stage) -> Result<Compiled, GpuError> {
    let mut bindings = vec![0, 1];
    bindings.extend(stage.data.then_some(DATA));
    bindings.extend([3, 4, 5]);
    if !stage.hands_over {
        bindings.extend([OUTPUT, OUTPUT + 1]);
    }
    bindings.extend((stage.hands_over || stage.resumes || stage.cuts).then_some(BETWEEN));
    let pipeline = pipeline(gpu, (&stage.text, trusted(&stage)), "attend", &access(&bindings))?;
    Ok(Compiled { stage, pipeline, bindings, join: OnceLock::new() })
}

/// Bindings, and whether each is written.
fn access(bindings: &[u32]) -> Vec<(u32, bool)> {
    bindings.iter().map(|&b| (b, b >= OUTPUT)).collect()
}

/// What depends on data is read with checks.
fn trusted(stage: &Stage) -> bool {
    !stage.data && stage.reads == Reads::default()
}

/// A pipeline with bindings of which each is written or not; the first is a uniform. Of text that is trusted indices and loops
/// are not checked.
fn pipeline(
    gpu: &Gpu,
    (text, trusted): (&str, bool),
    entry: &str,
    bindings: &[(u32, bool)],
) -> Result<wgpu::ComputePipeline, GpuError> {
    gpu.scoped(GpuError::Shader, "a pipeline", || {
        let module = if trusted {
            crate::experimental::module(&gpu.device, text)
        } else {
            gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("attnc"),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            })
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
            .iter()
            .map(|&(binding, written)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match binding {
                        0 => wgpu::BufferBindingType::Uniform,
                        _ => wgpu::BufferBindingType::Storage { read_only: !written },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let group = gpu
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("attnc"), entries: &entries });
        let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("attnc"),
            bind_group_layouts: &[Some(&group)],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("attnc"),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        })
    })
}

/// A kernel with the heads that it computes.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The kernel.
    pub kernel: &'a GpuKernel,
    /// Heads of the output.
    pub heads: &'a [usize],
    /// One environment for each (batch item, head of `heads`), heads inside.
    pub envs: &'a [Env<'a>],
    /// Of a merge, which arm it is; arms follow one another.
    pub term: Option<Term<'a>>,
}

/// An arm of a merge.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// What it is weighed by.
    pub gate: &'a Gate,
    /// Environments of the merge, as those of a part.
    pub envs: &'a [Env<'a>],
    /// Whether it is the first, and the last.
    pub ends: [bool; 2],
}

/// Extents and types of the tensors of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Batch items.
    pub batch: usize,
    /// Heads of Q.
    pub q_heads: usize,
    /// Heads of K and V.
    pub kv_heads: usize,
    /// Heads of the output.
    pub heads: usize,
    /// Rows of Q and of the output.
    pub n_q: usize,
    /// Rows of K and V.
    pub n_k: usize,
    /// Dimension of queries and keys.
    pub d: usize,
    /// Dimension of values.
    pub dv: usize,
    /// Type of Q, K and V.
    pub input: Element,
    /// Type of the output.
    pub output: Element,
}

/// Tensors on the GPU: row-major `[batch, heads, rows, pitch]`, elements beyond the dimension 0; see [`Spec::pitch`].
/// The log-sum-exp is `[batch, heads, rows]` of f32.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// Queries.
    pub q: &'a wgpu::Buffer,
    /// Keys.
    pub k: &'a wgpu::Buffer,
    /// Values.
    pub v: &'a wgpu::Buffer,
    /// Output.
    pub out: &'a wgpu::Buffer,
    /// Log-sum-exp.
    pub lse: &'a wgpu::Buffer,
}

/// One dispatch: a pipeline over windows of buffers.
pub(crate) struct Dispatch {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) group: wgpu::BindGroup,
    pub(crate) size: Size,
}

/// How many workgroups a dispatch has.
pub(crate) enum Size {
    /// So many.
    Known([u32; 2]),
    /// As many as a dispatch before it says.
    Found(wgpu::Buffer),
}

/// A launch that can be encoded again and again.
pub struct Launch {
    dispatches: Vec<Dispatch>,
    /// Tables that selections make.
    tables: Vec<Table>,
    /// Heads without a kernel: byte ranges of the output that become 0, and of the log-sum-exp that become -inf.
    skipped: Vec<[std::ops::Range<u64>; 2]>,
    infinities: Option<wgpu::Buffer>,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch").field("dispatches", &self.dispatches.len()).finish_non_exhaustive()
    }
}

/// Run-time data as words, each piece once.
#[derive(Default)]
pub(crate) struct Words {
    pub(crate) words: Vec<u32>,
    /// Words of the buffer before them.
    pub(crate) before: usize,
    /// Lists that are there already, by length and hash.
    lists: FxHashMap<u64, Vec<usize>>,
    known: FxHashMap<(usize, usize, u8), i32>,
}

impl Words {
    /// Where a piece of memory begins among the words, made when first asked for.
    fn of<T>(
        &mut self,
        data: &[T],
        kind: u8,
        make: impl FnOnce(&mut Vec<u32>) -> Result<(), LaunchError>,
    ) -> Result<i32, LaunchError> {
        let key = (data.as_ptr().addr(), data.len(), kind);
        if let Some(&at) = self.known.get(&key) {
            return Ok(at);
        }
        let at = self.end()?;
        make(&mut self.words)?;
        self.known.insert(key, at);
        Ok(at)
    }

    /// Where the next word stands.
    fn end(&self) -> Result<i32, LaunchError> {
        i32::try_from(self.before + self.words.len())
            .map_err(|_| LaunchError::Gpu(GpuError::Limit("as much run-time data as this launch has".to_owned())))
    }

    /// A list that is made for a launch: equal ones stand there once.
    pub(crate) fn list(&mut self, list: &[u32]) -> Result<i32, LaunchError> {
        let at = self.end()?;
        let hash = FxBuildHasher.hash_one(list);
        let same = self.lists.entry(hash).or_default();
        if let Some(&known) = same.iter().find(|&&k| self.words.get(k..k + list.len()) == Some(list)) {
            return i32::try_from(self.before + known)
                .map_err(|_| LaunchError::Data("too much run-time data".to_owned()));
        }
        same.push(self.words.len());
        self.words.extend_from_slice(list);
        // Something may be read where there is nothing.
        self.words.extend(list.is_empty().then_some(0));
        Ok(at)
    }

    fn integers(&mut self, data: &[i64]) -> Result<i32, LaunchError> {
        self.of(data, 0, |words| {
            for &v in data {
                let v = i32::try_from(v).map_err(|_| LaunchError::Data(format!("{v} does not fit 32 bits")))?;
                words.push(v as u32);
            }
            // Something may be read where there is nothing.
            words.extend(data.is_empty().then_some(0));
            Ok(())
        })
    }

    fn numbers(&mut self, data: &[u32]) -> Result<i32, LaunchError> {
        self.of(data, 1, |words| {
            words.extend_from_slice(data);
            words.extend(data.is_empty().then_some(0));
            Ok(())
        })
    }

    fn reals(&mut self, data: &[f32]) -> Result<i32, LaunchError> {
        self.of(data, 2, |words| {
            words.extend(data.iter().map(|x| x.to_bits()));
            words.extend(data.is_empty().then_some(0));
            Ok(())
        })
    }

    fn bytes(&mut self, data: &[u8]) -> Result<i32, LaunchError> {
        self.of(data, 3, |words| {
            words.extend(
                data.chunks(4).map(|c| c.iter().enumerate().fold(0, |word, (i, &b)| word | (u32::from(b) << (8 * i)))),
            );
            words.extend(data.is_empty().then_some(0));
            Ok(())
        })
    }
}

/// Where a job's rows begin in the tensors.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) q: usize,
    pub(crate) k: usize,
    pub(crate) o: usize,
}

/// Rows at which windows begin are multiples of this, so that their bytes are aligned whatever the pitch.
pub(crate) const ALIGN: usize = 64;

/// The most heads that fit one window, and what of each tensor it covers.
pub(crate) struct Window {
    pub(crate) jobs: std::ops::Range<usize>,
    /// First row and end, in Q, in K and V, in the output.
    pub(crate) rows: [std::ops::Range<usize>; 3],
}

/// Prepares a launch.
///
/// # Errors
/// Whatever does not fit; nothing has run then.
pub fn launch(
    gpu: &Gpu,
    parts: &[Part<'_>],
    shape: &Shape,
    (q_heads, kv_heads): (&[usize], &[usize]),
    buffers: &Buffers<'_>,
) -> Result<Launch, LaunchError> {
    let mut dispatches = Vec::new();
    let mut tables = Vec::new();
    let mut assigned = vec![false; shape.heads];
    let variant = variant(parts.iter().map(|p| p.kernel), gpu, shape.input, [shape.d, shape.dv])?;
    let spec = Spec { variant, input: shape.input, output: shape.output, d: shape.d, dv: shape.dv };
    let mut summed: Option<Summed> = None;
    for part in parts {
        // Arms of a merge are added up as f32.
        let of_launch = (buffers, spec);
        let spec = Spec { output: if part.term.is_some() { Element::F32 } else { spec.output }, ..spec };
        match &part.term {
            None => summed = None,
            Some(term) if term.ends[0] => summed = Some(Summed::new(gpu, shape, &spec)?),
            Some(_) => {}
        }
        let apart = summed.as_ref().map(|s| Buffers { out: &s.arm, lse: &s.log_sums, ..*buffers });
        let buffers = apart.as_ref().unwrap_or(buffers);
        let compiled = part.kernel.compiled(gpu, &spec)?;
        part.heads.iter().for_each(|&h| assigned[h] = true);
        check(part)?;
        let places: Vec<Place> = (0..shape.batch)
            .flat_map(|item| part.heads.iter().map(move |&head| (item, head)))
            .map(|(item, head)| Place {
                q: (item * shape.q_heads + q_heads[head]) * shape.n_q,
                k: (item * shape.kv_heads + kv_heads[head]) * shape.n_k,
                o: (item * shape.heads + head) * shape.n_q,
            })
            .collect();
        if places.is_empty() || shape.n_q == 0 {
            continue;
        }
        // Rows in place of queries have memory of their own.
        let several = compiled.stages.len() > 1 && part.kernel.plan.rows.is_none();
        let between = if several {
            let rows = (shape.batch * shape.heads * shape.n_q).next_multiple_of(ALIGN);
            let bytes = rows * (spec.value_pitch() * 4 + 16);
            Some(buffer(gpu, bytes as u64, wgpu::BufferUsages::STORAGE, "what stages hand over")?)
        } else {
            None
        };
        let on = On { gpu, part, shape, spec: &spec, buffers, places: &places, heads: (q_heads, kv_heads) };
        if part.kernel.plan.is_dynamic() {
            dynamic::launch(&on, &compiled, between.as_ref(), &mut dispatches, &mut tables)?;
            add(&on, of_launch, summed.as_ref(), &mut dispatches)?;
            continue;
        }
        let windows = windows(gpu, shape, &spec, &places, several, &|_| [0; 3])?;
        let mut words = Words::default();
        let rows = (compiled.stages.iter())
            .map(|c| job_rows(part, &c.stage, &places, &windows, &mut words, &|_, _| None))
            .collect::<Result<Vec<_>, _>>()?;
        words.words.extend(words.words.is_empty().then_some(0));
        let data = filled(gpu, &words.words, wgpu::BufferUsages::STORAGE, "run-time data")?;
        for (stage, rows) in rows.iter().enumerate() {
            let jobs = filled(gpu, rows, wgpu::BufferUsages::STORAGE, "the list of jobs")?;
            let given = Given {
                on: &on,
                compiled: &compiled,
                jobs,
                jobs_from: 0,
                data: &data,
                levels: [None, None, None],
                stands: None,
            };
            for window in &windows {
                given.dispatch(stage, window, between.as_ref(), &mut dispatches)?;
            }
        }
        add(&on, of_launch, summed.as_ref(), &mut dispatches)?;
    }
    let mut skipped = Vec::new();
    for item in 0..shape.batch {
        for head in (0..shape.heads).filter(|&h| !assigned[h]) {
            let row = (item * shape.heads + head) * shape.n_q;
            let bytes = |size: usize| ((row * size) as u64)..(((row + shape.n_q) * size) as u64);
            skipped.push([bytes(spec.value_pitch() * shape.output.size()), bytes(4)]);
        }
    }
    let infinities = if skipped.is_empty() || shape.n_q == 0 {
        skipped.clear();
        None
    } else {
        let bits = vec![f32::NEG_INFINITY.to_bits(); shape.n_q];
        Some(filled(gpu, &bits, wgpu::BufferUsages::COPY_SRC, "rows of heads that skip")?)
    };
    Ok(Launch { dispatches, tables, skipped, infinities })
}

/// Memory of a merge.
struct Summed {
    /// Output and log-sum-exp of the arm at hand.
    arm: wgpu::Buffer,
    log_sums: wgpu::Buffer,
    /// What the arms so far add up to.
    sums: wgpu::Buffer,
}

impl Summed {
    fn new(gpu: &Gpu, shape: &Shape, spec: &Spec) -> Result<Summed, LaunchError> {
        let rows = ((shape.batch * shape.heads * shape.n_q).next_multiple_of(ALIGN)) as u64;
        let row = (spec.value_pitch() * 4) as u64;
        let made = |bytes| buffer(gpu, bytes, wgpu::BufferUsages::STORAGE, "the arms of a merge");
        Ok(Summed { arm: made(rows * row)?, log_sums: made(rows * 4)?, sums: made(rows * row)? })
    }
}

/// Adds an arm of a merge to those before it, and with the last one writes the output.
fn add(
    on: &On<'_>,
    (buffers, spec): (&Buffers<'_>, Spec),
    summed: Option<&Summed>,
    dispatches: &mut Vec<Dispatch>,
) -> Result<(), LaunchError> {
    let (Some(term), Some(summed)) = (&on.part.term, summed) else { return Ok(()) };
    let (gpu, program) = (on.gpu, &term.gate.program);
    let compiled = term.gate.compiled(gpu, &spec)?;
    let Added { fields, pipeline, .. } = &*compiled;
    let row = spec.value_pitch();
    for window in windows(gpu, on.shape, on.spec, on.places, false, &|_| [0; 3])? {
        let (mut words, mut jobs) = (Words::default(), Vec::new());
        for job in window.jobs.clone() {
            for &field in fields {
                let value = match field {
                    Field::ORow => (on.places[job].o - window.rows[2].start) as i64,
                    field => value(program, &term.envs[job], field, &mut words)?,
                };
                let value =
                    i32::try_from(value).map_err(|_| LaunchError::Data(format!("{value} does not fit 32 bits")))?;
                jobs.push(value as u32);
            }
        }
        words.words.extend(words.words.is_empty().then_some(0));
        let data = filled(gpu, &words.words, wgpu::BufferUsages::STORAGE, "run-time data")?;
        let list = filled(gpu, &jobs, wgpu::BufferUsages::STORAGE, "the list of jobs")?;
        let (count, n_q) = (window.jobs.len(), on.shape.n_q);
        let most = gpu.limits.max_compute_workgroups_per_dimension as usize;
        let groups = (count * n_q * row / 4).div_ceil(THREADS).min(most);
        let [first, last] = term.ends.map(usize::from);
        let uniform = [0, count, n_q, groups, first, last, 0, 0].map(|n| n as u32);
        let uniform = filled(gpu, &uniform, wgpu::BufferUsages::UNIFORM, "a dispatch")?;
        let rows = &window.rows[2];
        let view = |bytes: usize, buffer: &wgpu::Buffer| {
            let offset = (rows.start * bytes) as u64;
            (offset, std::num::NonZeroU64::new(((rows.len() * bytes) as u64).max(16).min(buffer.size() - offset)))
        };
        let entries = BINDINGS.map(|(binding, _)| {
            let (buffer, (offset, size)) = match binding {
                0 => (&uniform, (0, None)),
                1 => (&list, (0, None)),
                2 => (&data, (0, None)),
                3 => (&summed.arm, view(row * 4, &summed.arm)),
                6 => (buffers.out, view(row * spec.output.size(), buffers.out)),
                7 => (buffers.lse, view(4, buffers.lse)),
                _ => (&summed.sums, view(row * 4, &summed.sums)),
            };
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
            wgpu::BindGroupEntry { binding, resource }
        });
        let group = gpu.scoped(GpuError::Internal, "bindings", || {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("attnc"),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            })
        })?;
        dispatches.push(Dispatch { pipeline: pipeline.clone(), group, size: Size::Known([groups as u32, 1]) });
    }
    Ok(())
}

/// What all dispatches of a part are made from.
pub(crate) struct On<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) part: &'a Part<'a>,
    pub(crate) shape: &'a Shape,
    pub(crate) spec: &'a Spec,
    pub(crate) buffers: &'a Buffers<'a>,
    /// Of each job.
    pub(crate) places: &'a [Place],
    /// Heads of Q, of K and V, that each head of the output reads.
    pub(crate) heads: (&'a [usize], &'a [usize]),
}

/// What all dispatches of a stage are made from.
pub(crate) struct Given<'a> {
    pub(crate) on: &'a On<'a>,
    pub(crate) compiled: &'a CompiledPlan,
    pub(crate) jobs: wgpu::Buffer,
    /// The first of these jobs.
    pub(crate) jobs_from: usize,
    pub(crate) data: &'a wgpu::Buffer,
    /// Queries, keys and values, where these are those of a level.
    pub(crate) levels: [Option<wgpu::Buffer>; 3],
    /// What stands in place of queries.
    pub(crate) stands: Option<Stands>,
}

/// Rows in place of queries.
#[derive(Clone, Debug)]
pub(crate) struct Stands {
    /// Most branches of a job.
    pub(crate) branches: usize,
    /// Most rows of a branch.
    pub(crate) room: usize,
    /// Their outputs.
    pub(crate) rows: wgpu::Buffer,
    /// Where tiles that have rows are listed, and how many workgroups they are, if that is found out on the device.
    pub(crate) tasks: Option<(usize, wgpu::Buffer)>,
}

impl Given<'_> {
    /// The dispatches of one stage over one window.
    pub(crate) fn dispatch(
        &self,
        number: usize,
        window: &Window,
        between: Option<&wgpu::Buffer>,
        dispatches: &mut Vec<Dispatch>,
    ) -> Result<(), LaunchError> {
        let On { gpu, part, spec, buffers, .. } = self.on;
        let compiled = &self.compiled.stages[number];
        let Compiled { stage, pipeline, bindings, .. } = compiled;
        let most = gpu.limits.max_compute_workgroups_per_dimension as usize;
        let n_q = part.envs[window.jobs.clone()].iter().map(|e| e.n_q).max().unwrap_or(0);
        let n_q = usize::try_from(n_q).unwrap_or(0);
        let (tiles, class_tiles) = match stage.view {
            View::Rows => {
                let (branches, room) = self.stands.as_ref().map_or((0, 0), |s| (s.branches, s.room));
                let of_branch = room.div_ceil(stage.tile);
                (branches * of_branch, of_branch.max(1))
            }
            View::Given | View::Walk(_) | View::Ordered { .. } => (n_q.div_ceil(stage.tile), 1),
            View::Classes(_) => {
                let modulus = usize::try_from(stage.modulus).unwrap_or(usize::MAX);
                let of_class = n_q.div_ceil(modulus).div_ceil(stage.tile);
                (n_q.min(modulus) * of_class, of_class.max(1))
            }
        };
        if tiles == 0 {
            return Ok(());
        }
        let row = spec.value_pitch() + 4;
        let of = Extents { tiles, tile: stage.tile, chunk: stage.chunk, row };
        let plan = &part.kernel.plan;
        let Cut { head, tail, parts } = if stage.cuts {
            cut(&plan.program, &plan.stages[number], &part.envs[window.jobs.clone()], of)
        } else {
            Cut::default()
        };
        let long = head + tail;
        let of_job = tiles + long * parts;
        // As many jobs at a time as the dispatch may have workgroups, and 32 bits number.
        let at_once = (most.saturating_mul(most).min(u32::MAX as usize) / of_job).max(1);
        let found = self.stands.as_ref().and_then(|s| s.tasks.as_ref());
        if found.is_some() && window.jobs.len() > at_once {
            let limit = format!("as many tiles of branches as {} heads have", window.jobs.len());
            return Err(LaunchError::Gpu(GpuError::Limit(limit)));
        }
        let mut first = window.jobs.start;
        while first < window.jobs.end {
            let count = at_once.min(window.jobs.end - first);
            let partials = if stage.cuts {
                let rows = count * long * parts * stage.tile;
                Some(buffer(gpu, (rows * row * 4) as u64, wgpu::BufferUsages::STORAGE, "parts of tiles")?)
            } else {
                None
            };
            let jobs = [first - self.jobs_from, count, tiles, class_tiles];
            first += count;
            let mut passes = vec![(pipeline.clone(), count * of_job, [parts, 0])];
            if long > 0 {
                passes.push((compiled.join(gpu)?, count * long, [1, parts]));
            }
            for (pipeline, groups, of_parts) in passes {
                // What is found on the device fills rows of as many workgroups as there may be.
                let width = if found.is_some() { most } else { groups.min(most) };
                let head = found.map_or(head, |(at, _)| *at);
                let words: Vec<u32> = (jobs.into_iter().chain([width, head, tail]).chain(of_parts).chain([0; 3]))
                    .map(|n| n as u32)
                    .collect();
                let uniform = filled(gpu, &words, wgpu::BufferUsages::UNIFORM, "a dispatch")?;
                let [q, k, o] = &window.rows;
                let (pitch, value_pitch) = (spec.pitch() * spec.input.size(), spec.value_pitch() * spec.input.size());
                let view = |buffer: &'_ wgpu::Buffer, rows: &std::ops::Range<usize>, row: usize| {
                    let offset = (rows.start * row) as u64;
                    let size = ((rows.len() * row) as u64).max(16).min(buffer.size() - offset);
                    (offset, std::num::NonZeroU64::new(size))
                };
                let bound = |binding: u32| {
                    let (buffer, (offset, size)) = match binding {
                        0 => (&uniform, (0, None)),
                        1 => (&self.jobs, (0, None)),
                        DATA => (self.data, (0, None)),
                        3..=5 if let Some(level) = &self.levels[binding as usize - 3] => (level, (0, None)),
                        3 => (buffers.q, view(buffers.q, q, pitch)),
                        4 => (buffers.k, view(buffers.k, k, pitch)),
                        5 => (buffers.v, view(buffers.v, k, value_pitch)),
                        OUTPUT => (buffers.out, view(buffers.out, o, spec.value_pitch() * spec.output.size())),
                        BETWEEN if stage.cuts => (partials.as_ref().unwrap_or(self.data), (0, None)),
                        BETWEEN if let Some(stands) = &self.stands => (&stands.rows, (0, None)),
                        BETWEEN => {
                            let between = between.unwrap_or(self.data);
                            (between, view(between, o, spec.value_pitch() * 4 + 16))
                        }
                        _ => (buffers.lse, view(buffers.lse, o, 4)),
                    };
                    wgpu::BindGroupEntry {
                        binding,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
                    }
                };
                let group = gpu.scoped(GpuError::Internal, "bindings", || {
                    let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings.iter().map(|&b| bound(b)).collect();
                    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some("attnc"),
                        layout: &pipeline.get_bind_group_layout(0),
                        entries: &entries,
                    })
                })?;
                let size = match found {
                    Some((_, size)) => Size::Found(size.clone()),
                    None => Size::Known([width as u32, groups.div_ceil(width) as u32]),
                };
                dispatches.push(Dispatch { pipeline, group, size });
            }
        }
        Ok(())
    }
}

/// Groups jobs whose rows fit the bindings that the adapter allows.
///
/// `own` tells of a job how many bytes it has in three more bindings.
pub(crate) fn windows(
    gpu: &Gpu,
    shape: &Shape,
    spec: &Spec,
    places: &[Place],
    several: bool,
    own: &dyn Fn(usize) -> [u64; 3],
) -> Result<Vec<Window>, LaunchError> {
    let mut sums = [0; 3];
    let most = gpu.limits.max_storage_buffer_binding_size;
    let bytes = |pitch: usize, element: Element| (pitch * element.size()) as u64;
    let q_row = bytes(spec.pitch(), spec.input);
    let k_row = q_row.max(bytes(spec.value_pitch(), spec.input));
    let o_row = bytes(spec.value_pitch(), spec.output).max(4).max(if several {
        (spec.value_pitch() * 4 + 16) as u64
    } else {
        0
    });
    let mut windows: Vec<Window> = Vec::new();
    for (job, place) in places.iter().enumerate() {
        let more = own(job);
        let own = [
            place.q / ALIGN * ALIGN..place.q + shape.n_q,
            place.k / ALIGN * ALIGN..place.k + shape.n_k,
            place.o / ALIGN * ALIGN..place.o + shape.n_q,
        ];
        let fits = |rows: &[std::ops::Range<usize>; 3]| {
            rows.iter().zip([q_row, k_row, o_row]).all(|(r, row)| r.len() as u64 * row <= most)
        };
        if !fits(&own) || more.iter().any(|&bytes| bytes > most) {
            let limit = format!("bindings of more than {most} bytes, and one head of this launch takes more");
            return Err(LaunchError::Gpu(GpuError::Limit(limit)));
        }
        if let Some(last) = windows.last_mut() {
            let mut joined = own.clone();
            for (a, b) in joined.iter_mut().zip(&last.rows) {
                *a = a.start.min(b.start)..a.end.max(b.end);
            }
            let both = [sums[0] + more[0], sums[1] + more[1], sums[2] + more[2]];
            if fits(&joined) && both.iter().all(|&bytes| bytes <= most) {
                sums = both;
                last.rows = joined;
                last.jobs.end = job + 1;
                continue;
            }
        }
        sums = more;
        windows.push(Window { jobs: job..job + 1, rows: own });
    }
    Ok(windows)
}

/// What has to hold for every environment of a part: integers that fit, and no empty row where that is an error.
fn check(part: &Part<'_>) -> Result<(), LaunchError> {
    let plan = &part.kernel.plan;
    let alike = |a: &Env<'_>, b: &Env<'_>| {
        (a.n_q, a.n_k, a.q_start, a.k_start, &a.sizes) == (b.n_q, b.n_k, b.q_start, b.k_start, &b.sizes)
    };
    for (i, env) in part.envs.iter().enumerate() {
        // Heads of a launch differ in their number alone, and the last one has the greatest.
        if part.envs.get(i + 1).is_none_or(|next| !alike(env, next)) {
            let range = |expr| LaunchError::Range { attention: plan.attention, expr };
            range::fits_i32(plan, env).map_err(range)?;
            if let Some(term) = &part.term {
                range::exprs_fit_i32(plan, &term.gate.weight.factors, &term.envs[i]).map_err(range)?;
            }
        }
    }
    let fed = plan.given.iter().any(|e| matches!(e, Entry::Null { slots: 1.., .. }));
    if plan.empty != Some(Empty::Error) || fed {
        return Ok(());
    }
    let sets: Vec<Rows> = (plan.given.iter())
        .filter_map(|e| match e {
            Entry::Tokens { rows, .. } => Some(Rows::new(&plan.program, rows)),
            Entry::Null { .. } => None,
        })
        .collect();
    for (i, env) in part.envs.iter().enumerate() {
        let no_value = |e: attnc_pattern::analysis::EvalError| LaunchError::Data(e.to_string());
        let mut walkers = sets.iter().map(|s| s.walker(env)).collect::<Result<Vec<_>, _>>().map_err(no_value)?;
        for row in 0..env.n_q {
            let mut some = false;
            for walker in &mut walkers {
                some |= walker.row(env.q_start + row).map_err(no_value)?.count() > 0;
            }
            if !some {
                let (batch, head) = (i / part.heads.len(), part.heads[i % part.heads.len()]);
                return Err(LaunchError::EmptyRow { batch, head, row: usize::try_from(row).unwrap_or(0) });
            }
        }
    }
    Ok(())
}

/// The words of every job of a stage; `special` knows some fields of a job beforehand.
pub(crate) fn job_rows(
    part: &Part<'_>,
    stage: &Stage,
    places: &[Place],
    windows: &[Window],
    words: &mut Words,
    special: &dyn Fn(usize, Field) -> Option<i64>,
) -> Result<Vec<u32>, LaunchError> {
    let program = &part.kernel.plan.program;
    let mut rows = Vec::with_capacity(places.len() * stage.fields.len());
    // Heads of one place walk alike.
    let mut walks: Vec<([i64; 4], i32)> = Vec::new();
    for window in windows {
        for job in window.jobs.clone() {
            let (env, place) = (&part.envs[job], places[job]);
            for &field in &stage.fields {
                let value = match field {
                    field if special(job, field).is_some() => special(job, field).unwrap_or(0),
                    Field::QRow => (place.q - window.rows[0].start) as i64,
                    Field::KRow => (place.k - window.rows[1].start) as i64,
                    Field::ORow => (place.o - window.rows[2].start) as i64,
                    Field::Walk => {
                        let key = [env.n_q, env.q_start, env.n_k, env.k_start];
                        match walks.iter().find(|(k, _)| *k == key) {
                            Some(&(_, at)) => i64::from(at),
                            None => {
                                let View::Walk(id) = stage.view else {
                                    return Err(LaunchError::Data("a walk without an order".to_owned()));
                                };
                                let walk =
                                    order::walk(program, id, env).map_err(|e| LaunchError::Data(e.to_string()))?;
                                // Not kept by address: the list is gone after this.
                                let at = words.list(&walk)?;
                                walks.push((key, at));
                                i64::from(at)
                            }
                        }
                    }
                    field => value(program, env, field, words)?,
                };
                let value =
                    i32::try_from(value).map_err(|_| LaunchError::Data(format!("{value} does not fit 32 bits")))?;
                rows.push(value as u32);
            }
        }
    }
    Ok(rows)
}

/// A field of an environment.
pub(crate) fn value(program: &Program, env: &Env<'_>, field: Field, words: &mut Words) -> Result<i64, LaunchError> {
    let absent = |what: &str, n: u32| LaunchError::Data(format!("{what} number {n} is not given"));
    let at = |n: u32| n as usize;
    let length = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(match field {
        Field::NQ => env.n_q,
        Field::NK => env.n_k,
        Field::QStart => env.q_start,
        Field::KStart => env.k_start,
        Field::Head => env.head,
        Field::Heads => env.heads,
        Field::Layer => env.layer,
        Field::Step => env.step,
        Field::Dim => env.dim,
        Field::Docs => length(env.docs.len().saturating_sub(1)),
        Field::DocsData => i64::from(words.integers(env.docs)?),
        Field::Size(n) => *env.sizes.get(at(n)).ok_or_else(|| absent("size", n))?,
        Field::Tensor(n) => i64::from(words.reals(&env.tensors.get(at(n)).ok_or_else(|| absent("tensor", n))?.data)?),
        Field::Extent(n, axis) => {
            let tensor = env.tensors.get(at(n)).ok_or_else(|| absent("tensor", n))?;
            length(tensor.dims.get(at(axis)).copied().unwrap_or(1).max(1))
        }
        Field::MapData(n) => match env.maps.get(at(n)) {
            Some(MapData::Dense { data, .. }) => i64::from(words.bytes(data)?),
            Some(MapData::Csr { indptr, .. }) => i64::from(words.integers(indptr)?),
            _ => return Err(absent("map", n)),
        },
        Field::MapRows(n) => match env.maps.get(at(n)) {
            Some(MapData::Dense { data, cols }) => length(data.len() / (*cols).max(1)),
            Some(MapData::Csr { indptr, .. }) => length(indptr.len().saturating_sub(1)),
            _ => return Err(absent("map", n)),
        },
        Field::MapColumns(n) => match env.maps.get(at(n)) {
            Some(MapData::Dense { cols, .. }) => length(*cols),
            Some(MapData::Csr { indices, .. }) => i64::from(words.integers(indices)?),
            _ => return Err(absent("map", n)),
        },
        Field::MapEntries(n) => match env.maps.get(at(n)) {
            Some(MapData::Csr { indices, .. }) => length(indices.len()),
            _ => 0,
        },
        Field::DrawData(n) | Field::DrawCount(n) | Field::DrawRows(n) | Field::DrawFirst(n) => {
            let table = env.draws.get(at(n)).ok_or_else(|| absent("random choice", n))?;
            match field {
                Field::DrawData(_) => i64::from(words.integers(&table.chosen)?),
                Field::DrawCount(_) => length(table.count),
                Field::DrawRows(_) => length(table.chosen.len() / table.count.max(1)),
                _ => table.first,
            }
        }
        Field::Order(n) => i64::from(words.numbers(env.orders.get(at(n)).ok_or_else(|| absent("order", n))?)?),
        Field::OrderLen(n) => length(env.orders.get(at(n)).map_or(1, |o| o.len().max(1))),
        Field::Table(n) => i64::from(words.integers(&program.tables[at(n)])?),
        Field::Position(n) => i64::from(words.numbers(env.positions.get(at(n)).ok_or_else(|| absent("order", n))?)?),
        Field::Slots(n) => slots::integer(program, env, program.level(LevelId(n)).slots)
            .map_err(|e| LaunchError::Data(e.to_string()))?,
        Field::Last(n) => i64::from(words.integers(&env.levels.get(at(n)).ok_or_else(|| absent("level", n))?.last)?),
        Field::Own(name) => return Err(LaunchError::Data(format!("`{name}` is not known to a launch"))),
        Field::QRow | Field::KRow | Field::VRow | Field::ORow | Field::Walk | Field::Stand | Field::StandRoom => 0,
    })
}

/// A buffer, without contents.
pub(crate) fn buffer(
    gpu: &Gpu,
    bytes: u64,
    usage: wgpu::BufferUsages,
    what: &str,
) -> Result<wgpu::Buffer, LaunchError> {
    if bytes > gpu.limits.max_buffer_size {
        let most = gpu.limits.max_buffer_size;
        return Err(LaunchError::Gpu(GpuError::Limit(format!(
            "buffers of more than {most} bytes; {what} would take {bytes}"
        ))));
    }
    let desc = wgpu::BufferDescriptor { label: Some("attnc"), size: bytes.max(16), usage, mapped_at_creation: false };
    Ok(gpu.scoped(GpuError::Internal, what, || gpu.device.create_buffer(&desc))?)
}

/// A buffer of words.
pub(crate) fn filled(
    gpu: &Gpu,
    words: &[u32],
    usage: wgpu::BufferUsages,
    what: &str,
) -> Result<wgpu::Buffer, LaunchError> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let made = buffer(gpu, bytes.len() as u64, usage | wgpu::BufferUsages::COPY_DST, what)?;
    if (usage & wgpu::BufferUsages::STORAGE).contains(wgpu::BufferUsages::STORAGE)
        && bytes.len() as u64 > gpu.limits.max_storage_buffer_binding_size
    {
        let most = gpu.limits.max_storage_buffer_binding_size;
        let limit = format!("bindings of more than {most} bytes; {what} would take {}", bytes.len());
        return Err(LaunchError::Gpu(GpuError::Limit(limit)));
    }
    gpu.scoped(GpuError::Internal, what, || gpu.queue.write_buffer(&made, 0, &bytes))?;
    Ok(made)
}

impl Launch {
    /// Writes the launch into an encoder; `times` receives the device's clock at the begin and at the end.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, buffers: &Buffers<'_>, times: Option<&wgpu::QuerySet>) {
        for [out, lse] in &self.skipped {
            encoder.clear_buffer(buffers.out, out.start, Some(out.end - out.start));
            if let Some(infinities) = &self.infinities {
                encoder.copy_buffer_to_buffer(infinities, 0, buffers.lse, lse.start, Some(lse.end - lse.start));
            }
        }
        let timestamp_writes = times.map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("attnc"), timestamp_writes });
        for d in &self.dispatches {
            pass.set_pipeline(&d.pipeline);
            pass.set_bind_group(0, &d.group, &[]);
            match &d.size {
                Size::Known([x, y]) => pass.dispatch_workgroups(*x, *y, 1),
                Size::Found(size) => pass.dispatch_workgroups_indirect(size, 0),
            }
        }
    }
}

/// Reads an element of a tensor: row-major `[batch, heads, rows, dim]`, as bytes of the element type.
pub type ReadRow<'a> = &'a dyn Fn([usize; 3], &mut [u8]);

/// A launch on tensors of the host, with buffers of its own.
pub struct Session {
    shape: Shape,
    spec: Spec,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
    launch: Launch,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("shape", &self.shape).field("launch", &self.launch).finish_non_exhaustive()
    }
}

impl Session {
    /// Uploads tensors and prepares a launch. A reader gives the bytes of one row, at `[batch, head, row]`.
    ///
    /// # Errors
    /// Whatever does not fit.
    pub fn new(
        gpu: &Gpu,
        parts: &[Part<'_>],
        shape: &Shape,
        (q_heads, kv_heads): (&[usize], &[usize]),
        [q, k, v]: [ReadRow<'_>; 3],
    ) -> Result<Session, LaunchError> {
        let variant = variant(parts.iter().map(|p| p.kernel), gpu, shape.input, [shape.d, shape.dv])?;
        let spec = Spec { variant, input: shape.input, output: shape.output, d: shape.d, dv: shape.dv };
        let input = |read, heads, rows, dim, pitch, what| {
            upload(gpu, read, [shape.batch, heads, rows], (dim, pitch, shape.input), what)
        };
        let q = input(q, shape.q_heads, shape.n_q, shape.d, spec.pitch(), "Q")?;
        let k = input(k, shape.kv_heads, shape.n_k, shape.d, spec.pitch(), "K")?;
        let v = input(v, shape.kv_heads, shape.n_k, shape.dv, spec.value_pitch(), "V")?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let rows = (shape.batch * shape.heads * shape.n_q) as u64;
        let out = buffer(gpu, rows * (spec.value_pitch() * shape.output.size()) as u64, usage, "the output")?;
        let lse = buffer(gpu, rows * 4, usage, "the log-sum-exp")?;
        let buffers = Buffers { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let launch = launch(gpu, parts, shape, (q_heads, kv_heads), &buffers)?;
        Ok(Session { shape: *shape, spec, q, k, v, out, lse, launch })
    }

    /// What of the adapter it uses.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.spec.variant
    }

    /// Submits the launch and brings back what is asked for.
    ///
    /// # Errors
    /// A device that is lost or has no memory.
    pub fn submit(&self, gpu: &Gpu, read: Read) -> Result<Pending, LaunchError> {
        let state = Arc::new(State::default());
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let (times, ticks) = match gpu.tick {
            Some(tick) => {
                let set = gpu.scoped(GpuError::Internal, "timestamps", || {
                    gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                        label: Some("attnc"),
                        ty: wgpu::QueryType::Timestamp,
                        count: 2,
                    })
                })?;
                let resolved =
                    buffer(gpu, 16, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC, "timestamps")?;
                (Some((set, resolved)), Some((buffer(gpu, 16, usage, "timestamps")?, tick)))
            }
            None => (None, None),
        };
        let results = if read != Read::Nothing {
            Some([
                buffer(gpu, self.out.size(), usage, "the output")?,
                buffer(gpu, self.lse.size(), usage, "the log-sum-exp")?,
            ])
        } else {
            None
        };
        let tables = match read {
            Read::Chosen => dynamic::read_back(gpu, &self.launch.tables)?,
            _ => Vec::new(),
        };
        let buffers = Buffers { q: &self.q, k: &self.k, v: &self.v, out: &self.out, lse: &self.lse };
        gpu.scoped(GpuError::Internal, "commands", || {
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("attnc") });
            self.launch.encode(&mut encoder, &buffers, times.as_ref().map(|(set, _)| set));
            if let (Some((set, resolved)), Some((host, _))) = (&times, &ticks) {
                encoder.resolve_query_set(set, 0..2, resolved, 0);
                encoder.copy_buffer_to_buffer(resolved, 0, host, 0, Some(16));
            }
            if let Some([out, lse]) = &results {
                encoder.copy_buffer_to_buffer(&self.out, 0, out, 0, Some(self.out.size()));
                encoder.copy_buffer_to_buffer(&self.lse, 0, lse, 0, Some(self.lse.size()));
            }
            for (from, to) in &tables {
                encoder.copy_buffer_to_buffer(from, 0, to, 0, Some(to.size()));
            }
            gpu.queue.submit([encoder.finish()]);
            let done = state.clone();
            gpu.queue.on_submitted_work_done(move || done.step(Ok(())));
            let host = results.iter().flatten().chain(ticks.iter().map(|(buffer, _)| buffer));
            let host = host.chain(tables.iter().map(|(_, to)| to));
            for buffer in host {
                state.expect();
                let done = state.clone();
                buffer.slice(..).map_async(wgpu::MapMode::Read, move |mapped| done.step(mapped.map_err(drop)));
            }
        })?;
        let chosen = (tables, if read == Read::Chosen { self.launch.tables.clone() } else { Vec::new() });
        Ok(Pending { state, results, ticks, chosen, shape: self.shape, pitch: self.spec.value_pitch() })
    }
}

/// Puts a tensor on the GPU, rows padded with zeros.
fn upload(
    gpu: &Gpu,
    read: ReadRow<'_>,
    [batch, heads, rows]: [usize; 3],
    (dim, pitch, element): (usize, usize, Element),
    what: &str,
) -> Result<wgpu::Buffer, LaunchError> {
    let row = pitch * element.size();
    let bytes = batch * heads * rows * row;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let made = buffer(gpu, bytes as u64, usage, what)?;
    // A few MiB at a time: the queue keeps a copy of what it is given.
    let at_once = ((4 << 20) / row.max(1)).max(1);
    let mut block = Vec::new();
    for outer in 0..batch * heads {
        let mut first = 0;
        while first < rows {
            let count = at_once.min(rows - first);
            block.clear();
            block.resize(count * row, 0);
            for i in 0..count {
                read([outer / heads, outer % heads, first + i], &mut block[i * row..][..dim * element.size()]);
            }
            let offset = ((outer * rows + first) * row) as u64;
            gpu.scoped(GpuError::Internal, what, || gpu.queue.write_buffer(&made, offset, &block))?;
            first += count;
        }
    }
    Ok(made)
}

/// How far a submission has come.
#[derive(Debug)]
struct State {
    /// Callbacks that are still to come.
    left: AtomicU32,
    failed: AtomicU32,
}

impl Default for State {
    fn default() -> Self {
        State { left: AtomicU32::new(1), failed: AtomicU32::new(0) }
    }
}

impl State {
    fn expect(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    fn step(&self, result: Result<(), ()>) {
        if result.is_err() {
            self.failed.store(1, Ordering::Release);
        }
        self.left.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A submitted launch.
#[derive(Debug)]
pub struct Pending {
    state: Arc<State>,
    results: Option<[wgpu::Buffer; 2]>,
    ticks: Option<(wgpu::Buffer, f32)>,
    /// Buffers of tables with their copies, and what stands in them.
    chosen: (Vec<(wgpu::Buffer, wgpu::Buffer)>, Vec<Table>),
    shape: Shape,
    pitch: usize,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Rows of the output, `[batch, heads, rows, pitch]`; empty if they were not asked for.
    pub out: Vec<u8>,
    /// Bytes from row to row of it.
    pub row: usize,
    /// The log-sum-exp.
    pub lse: Vec<f32>,
    /// Time on the device, in nanoseconds, if it tells.
    pub nanos: Option<f64>,
    /// What selections chose; empty if it was not asked for.
    pub chosen: Vec<Chosen>,
}

/// What a submission brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing: results stay on the GPU.
    Nothing,
    /// Output and log-sum-exp.
    Results,
    /// These, and what selections chose.
    Chosen,
}

impl Pending {
    /// Whether the results are there. Does not wait: ask again.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn ready(&self, gpu: &Gpu) -> Result<bool, LaunchError> {
        let polled = gpu.device.poll(wgpu::PollType::Poll);
        gpu.check()?;
        polled.map_err(|e| LaunchError::Gpu(GpuError::Internal(e.to_string())))?;
        if self.state.failed.load(Ordering::Acquire) != 0 {
            return Err(LaunchError::Gpu(GpuError::Lost("results cannot be read".to_owned())));
        }
        Ok(self.state.left.load(Ordering::Acquire) == 0)
    }

    /// The results.
    ///
    /// # Errors
    /// If they are not there yet.
    pub fn finish(self) -> Result<Results, LaunchError> {
        let bytes = |buffer: &wgpu::Buffer| {
            let view = buffer.slice(..).get_mapped_range();
            view.map(|v| v.to_vec()).map_err(|e| LaunchError::Gpu(GpuError::Internal(e.to_string())))
        };
        let mut results = Results { row: self.pitch * self.shape.output.size(), ..Results::default() };
        if let Some([out, lse]) = &self.results {
            results.out = bytes(out)?;
            let words = bytes(lse)?;
            results.lse = words.chunks_exact(4).map(|c| f32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect();
        }
        for (from, to) in &self.chosen.0 {
            let words = bytes(to)?;
            let words: Vec<u32> = words.chunks_exact(4).map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]])).collect();
            results.chosen.extend(self.chosen.1.iter().filter(|t| t.is_in(from)).map(|t| t.chosen(&words)));
        }
        if let Some((buffer, tick)) = &self.ticks {
            let bytes = bytes(buffer)?;
            let at = |i: usize| bytes[8 * i..].first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b));
            results.nanos = Some(at(1).saturating_sub(at(0)) as f64 * f64::from(*tick));
        }
        Ok(results)
    }
}
