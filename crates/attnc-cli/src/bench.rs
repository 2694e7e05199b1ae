//! `attnc bench`: how long compiling and running take, and how near the machine's peak that is.
//!
//! One idea: everything that a figure needs is measured in the same process, with the same threads: the peak of
//! multiply-adds, the compilation from text to machine code of every plan, and the runs after a warm-up. What is held
//! against each other (a pattern and dense attention, element types) runs in turns, so that a machine that is slow for
//! a while is so for all of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use attnc::{
    Compiler, Cost, DType, Inputs, Isa, Kernel, Loader, Memory, Module, Options, Problem, Resources, Returned, Select,
    Shape, Threads, ast,
};
use attnc_host::kept::keeping;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::args::{Against, BenchArgs, Format, SetArgs, Subject, Target};
use crate::calibration::{Calibrated, Pace};
use crate::files;
use crate::inspect::{print_json, work};
use crate::machine::{self, Bursts, Machine, Samples};
use crate::older::{self, Compared, Key, Older};
use crate::report::{Outcome, Reporter};
use crate::run::{Given, Results, threads};
use crate::sources::{Edit, Edited, Remembering};
use crate::subject::{self, Data};
use crate::tensors;

/// Compilations that are timed.
const COMPILATIONS: usize = 20;
/// Runs that are timed, at least.
const RUNS: usize = 5;
/// Runs that are timed, at most.
const MOST_RUNS: usize = 10_000;
/// Time between looks at how fast the machine is.
const PACE: Duration = Duration::from_millis(40);
/// How many of the bursts of multiply-adds then are as long as one that tells the peak.
const BURSTS: u64 = 50;
/// Most queries of a head with which reading K and V is what takes the time.
const FEW_QUERIES: i64 = 16;
/// Seed of the tensors.
const SEED: u64 = 1;

/// What is printed; the schema is `attnc.bench/1`.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    machine: Machine,
    results: Vec<Measured>,
    /// Files that were only compiled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<CompiledFile>,
    /// Beside older results, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compared: Vec<Compared>,
}

/// One pattern.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    pattern: String,
    target: String,
    plan_hash: String,
    tokens: i64,
    keys: i64,
    batch: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    value_dim: i64,
    dtype: &'static str,
    threads: usize,
    entries: u64,
    /// The data decide how many entries there are, of which this is the most.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bounded: bool,
    useful_flops: u64,
    executed_flops: u64,
    /// Scores of pairs that selections look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    score_evaluations: Option<u64>,
    useful_gflops: f64,
    /// Of this CPU; `None` where something else ran.
    machine_peak_gflops: Option<f64>,
    /// `useful_gflops / machine_peak_gflops`
    peak_ratio: Option<f64>,
    /// The median of short bursts between the runs: what is left of the peak while others use the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    meanwhile_gflops: Option<f64>,
    compile_ns: CompileTimes,
    /// What the GPU's driver takes to make pipelines of the shaders.
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_ns: Option<u64>,
    /// What the model of time says for the machine as it was calibrated; `None` for the oracle.
    calibrated_ns: Option<u64>,
    /// The same for a machine as fast as this one was meanwhile.
    predicted_ns: Option<u64>,
    /// What one and the same launch took meanwhile over what it took when the machine was calibrated.
    slowness: Option<f64>,
    run_ns: RunTimes,
    peak_rss_bytes: Option<u64>,
    /// Bytes that have to be read, heads that share keys reading them once, over the time: GB/s.
    gbps: f64,
    /// What these threads read of memory in the same run, where queries are few enough for that to be the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_read_gbps: Option<f64>,
    /// What the model counts, by name of a term.
    work: BTreeMap<&'static str, u64>,
    /// How many times as fast as dense attention of the same shape, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    speedup_over_dense: Option<f64>,
}

/// What the machine can do at most, with the threads of a run.
#[derive(Clone, Copy)]
struct Limits {
    gflops: Option<f64>,
    read_gbps: Option<f64>,
}

/// From text to machine code of every plan.
#[derive(Clone, Debug, Serialize)]
struct CompileTimes {
    median: u64,
    first: u64,
    samples: usize,
}

impl std::fmt::Display for CompileTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, first] = [self.median, self.first].map(machine::time);
        write!(f, "{median} median of {}, {first} the first time", self.samples)
    }
}

/// A file that was compiled whole, or one pattern of it.
#[derive(Debug, Serialize)]
struct CompiledFile {
    file: String,
    plans: usize,
    threads: usize,
    compile_ns: CompileTimes,
}

#[derive(Clone, Debug, Serialize)]
struct RunTimes {
    median: u64,
    p05: u64,
    p95: u64,
    samples: usize,
}

pub(crate) fn bench(args: &BenchArgs, reporter: Reporter) -> Outcome {
    let threads = threads(args.threads)?;
    if args.compile_only {
        return compile_only(args, &threads, reporter);
    }
    let older = args.compare.as_deref().map(Older::read).transpose()?;
    let rates = match subject::options(&args.set, &args.target).target {
        attnc::Target::Cpu(isa) => {
            // A target that this machine lacks is refused below, with a better word.
            let isa = isa.unwrap_or(Isa::best());
            let runs = attnc::targets().iter().any(|(name, state)| *name == isa.name() && state.is_ok());
            if runs { Some(Calibrated::known_or_measured(&args.calibration, isa)?) } else { None }
        }
        _ => None,
    };
    #[cfg(feature = "gpu")]
    let gpu = crate::gpu::open(&args.target)?;
    let device = Device {
        threads: &threads,
        #[cfg(feature = "gpu")]
        gpu: gpu.as_ref(),
        kept: RefCell::default(),
    };
    let progress = Progress::new(args.subjects.len());
    let mut report = Report::default();
    let mut peaks: HashMap<&'static str, (Bursts<'_>, f64)> = HashMap::new();
    let mut read = None;
    for subject in &args.subjects {
        let loader = Remembering::default();
        // The name is settled on a module of its own, which the times leave out.
        let module = checked(args, subject, &loader)?;
        reporter.print(&module.warnings());
        let name = subject::name_of(&module, subject)?;
        let work = Work::of(args, subject, &module, name, &loader, &progress)?;
        let peak = work.kernel.isa().map(|isa| {
            &*peaks.entry(isa.name()).or_insert_with(|| {
                progress.say("measuring the peak");
                let bursts = Bursts::new(&threads, isa);
                let peak = bursts.peak();
                (bursts, peak)
            })
        });
        // Memory is the limit where each of its bytes meets a handful of queries.
        let read = (work.shape.n_q <= FEW_QUERIES).then(|| {
            *read.get_or_insert_with(|| {
                progress.say("measuring memory");
                machine::read_gbps(&threads)
            })
        });
        let limits = Limits { gflops: peak.map(|(_, peak)| *peak), read_gbps: read };
        let bursts = peak.map(|(bursts, _)| bursts);
        let dense = match args.against {
            Some(Against::Dense) => Some(Work::dense(args, subject, (&module, &loader), &work, &progress)?),
            None => None,
        };
        let mut entrants = Vec::new();
        for dtype in args.dtypes.iter().map(|element| element.dtype()) {
            for work in [Some(&work), dense.as_ref()].into_iter().flatten() {
                entrants.push(Entrant::new(work, dtype, args, &device, rates.as_ref(), &progress)?);
            }
        }
        let mut measured = measure(&mut entrants, args, &device, (limits, bursts), rates.as_ref(), &progress)?;
        if dense.is_some() {
            for pair in measured.chunks_mut(2) {
                if let [pattern, dense] = pair {
                    dense.speedup_over_dense = Some(1.0);
                    pattern.speedup_over_dense = Some(dense.run_ns.median as f64 / pattern.run_ns.median.max(1) as f64);
                }
            }
        }
        report.results.extend(measured);
        progress.done();
    }
    progress.finish();
    if let Some(older) = &older {
        report.compared = report.results.iter().map(|r| older.compare(r.key(), r.run_ns.median)).collect();
    }
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Human => {
            let mut text = table(&report);
            if older.is_some() {
                text.push_str(&older::table(&report.compared));
            }
            files::print(&text)?;
        }
    }
    args.fail_if_slower.map_or(Ok(()), |allowed| older::judge(&report.compared, allowed))
}

impl Default for Report {
    fn default() -> Report {
        let (results, files, compared) = (Vec::new(), Vec::new(), Vec::new());
        Report { schema: older::SCHEMA, machine: Machine::here(), results, files, compared }
    }
}

/// `--compile-only`: nothing is run, so no lengths are needed.
fn compile_only(args: &BenchArgs, threads: &Threads, reporter: Reporter) -> Outcome {
    let options = subject::options(&args.set, &args.target);
    let progress = Progress::new(args.subjects.len());
    let mut report = Report::default();
    for subject in &args.subjects {
        let loader = Remembering::default();
        let module = Compiler::new(options.clone()).compile(&loader, &subject.path)?;
        reporter.print(&module.warnings());
        progress.say(&format!("{subject}: compiling"));
        let compiler = Compiler::new(options.clone());
        let compiler = if args.kept { keeping(compiler) } else { compiler };
        let (plans, compile_ns) = timed(|| {
            let module = compiler.compile(&loader, &subject.path)?;
            Ok(match &subject.name {
                Some(name) => module.kernel(&Select::named(name.as_str()))?.attentions().len(),
                None => threads.within(|| module.compile_all())?,
            })
        })?;
        report.files.push(CompiledFile { file: subject.to_string(), plans, threads: threads.count(), compile_ns });
        progress.done();
    }
    progress.finish();
    match args.format {
        Format::Json => print_json(&report),
        Format::Human => files::print(&table(&report)),
    }
}

impl Measured {
    /// What it is compared by.
    fn key(&self) -> Key {
        Key {
            pattern: self.pattern.clone(),
            tokens: self.tokens,
            keys: self.keys,
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            dtype: self.dtype.to_owned(),
            threads: self.threads,
        }
    }
}

/// What measured patterns run on.
struct Device<'a> {
    threads: &'a Threads,
    #[cfg(feature = "gpu")]
    gpu: Option<&'a attnc::gpu::Gpu>,
    /// The last tensors of each element type: patterns of one shape are measured on the same.
    kept: RefCell<HashMap<DType, (Extents, Rc<Given>)>>,
}

/// What tensors are made from.
type Extents = ([usize; 4], [usize; 4], usize);

impl Device<'_> {
    fn tensors(&self, dtype: DType, q: [usize; 4], k: [usize; 4], dv: usize) -> Outcome<Rc<Given>> {
        let extents = (q, k, dv);
        if let Some((_, given)) = self.kept.borrow().get(&dtype).filter(|(known, _)| *known == extents) {
            return Ok(given.clone());
        }
        self.kept.borrow_mut().retain(|of, (known, _)| *of != dtype && *known == extents);
        let given = Rc::new(Given::random(dtype, q, k, dv, SEED)?);
        self.kept.borrow_mut().insert(dtype, (extents, given.clone()));
        Ok(given)
    }
}

/// A pattern that is compiled and about to be measured.
struct Work {
    name: String,
    kernel: Kernel,
    compile: CompileTimes,
    shape: Shape,
    kv_heads: i64,
    data: Data,
}

impl Work {
    /// A pattern of a file that has been read and checked.
    fn of(
        args: &BenchArgs,
        subject: &Subject,
        module: &Module,
        name: String,
        loader: &dyn Loader,
        progress: &Progress,
    ) -> Outcome<Work> {
        let options = subject::options(&args.set, &args.target);
        let sizes = subject::sized(module, args.lengths.keys.or(args.lengths.tokens), &args.sizes);
        let (n_q, n_k) = subject::lengths(module, &args.lengths, &sizes)?;
        let select = Select::named(name.as_str()).layer(sizes.layer).step(sizes.step);
        let (kernel, compile) = compile(loader, &subject.path, &options, &select, progress)?;
        let (heads, kv_heads) = subject::heads(&kernel, args.shape.heads, args.shape.kv_heads)?;
        let shape = Shape { n_q, n_k, heads, dim: args.shape.dim };
        let mut data = Data::new(&sizes, n_q.max(n_k));
        let wants = kernel.wants(shape, &subject::sizes_of(&data.sizes))?;
        data.fill(&wants, subject::of_output(&kernel, shape), SEED)?;
        Ok(Work { name, kernel, compile, shape, kv_heads, data })
    }

    /// Dense attention of the same shape: what a pattern does to scores is done to those of all pairs; null slots and
    /// biases of entries are left out with the entries. Of what does nothing to scores, or is not an attention of the
    /// file with a set of its own, plain dense attention.
    fn dense(
        args: &BenchArgs,
        subject: &Subject,
        (module, disk): (&Module, &Remembering),
        like: &Work,
        progress: &Progress,
    ) -> Outcome<Work> {
        let edits = of_all_pairs(module.ast(), &like.name);
        if !edits.is_empty() {
            let loader = Edited { disk, edits: &edits };
            let module = checked(args, subject, &loader)?;
            let work = Work::of(args, subject, &module, like.name.clone(), &loader, progress)?;
            return Ok(Work { name: format!("dense, scores of {}", like.name), ..work });
        }
        let options = subject::options(&SetArgs { set: Vec::new(), ..args.set.clone() }, &args.target);
        let loader = Memory::file("dense", "pattern dense = all\n");
        let (kernel, compile) = compile(&loader, "dense", &options, &Select::named("dense"), progress)?;
        let data = Data { q_start: Some(0), ..Data::default() };
        Ok(Work { name: "dense".to_owned(), kernel, compile, shape: like.shape, kv_heads: like.kv_heads, data })
    }

    /// What is given beside the tensors, some of which depends on them.
    fn inputs<'a>(&'a self, given: &'a Given) -> Outcome<Inputs<'a>> {
        Ok(Inputs { rows: Some([given.q.tensor("q")?, given.k.tensor("k")?]), ..self.data.inputs() })
    }
}

/// A file without machine code, from which names and lengths are told.
fn checked(args: &BenchArgs, subject: &Subject, loader: &dyn Loader) -> Outcome<Module> {
    let options = Options { target: attnc::Target::Oracle, ..subject::options(&args.set, &args.target) };
    Ok(Compiler::new(options).compile(loader, &subject.path)?)
}

/// What makes an attention that changes scores attend to every key; nothing if it does not change them.
fn of_all_pairs(file: &ast::File, name: &str) -> Vec<Edit> {
    let attention = file.items.iter().find_map(|item| match &item.kind {
        ast::ItemKind::Attention { name: of, stmts } if of.text == name => Some(stmts),
        _ => None,
    });
    let stmts = attention.map_or(&[][..], Vec::as_slice);
    if !stmts.iter().any(|stmt| matches!(stmt, ast::Stmt::Score(_))) {
        return Vec::new();
    }
    let attends = stmts.iter().filter_map(|stmt| match stmt {
        ast::Stmt::Attend(_, span) => Some(Edit::of(&(*span, "attend all".to_owned()))),
        _ => None,
    });
    attends.collect()
}

/// A pattern on tensors of an element type, with room for its results.
struct Entrant<'a> {
    work: &'a Work,
    facts: Facts,
    given: Rc<Given>,
    workspace: Vec<u8>,
    results: Results,
}

/// What is known of a launch before it runs.
struct Facts {
    dtype: DType,
    dv: i64,
    cost: Cost,
    calibrated_ns: Option<u64>,
    /// What the model counts, by name of a term.
    counted: BTreeMap<&'static str, u64>,
    /// What has to be read.
    bytes: f64,
}

impl<'a> Entrant<'a> {
    fn new(
        of: &'a Work,
        dtype: DType,
        args: &BenchArgs,
        device: &Device<'_>,
        rates: Option<&Calibrated>,
        progress: &Progress,
    ) -> Outcome<Entrant<'a>> {
        let (shape, dv, threads) = (of.shape, args.shape.dv.unwrap_or(of.shape.dim), device.threads);
        progress.say(&format!("{}: making tensors", of.name));
        let [batch, heads, kv_heads] = [args.shape.batch, shape.heads, of.kv_heads].map(extent);
        let [n_q, n_k, dim] = [shape.n_q, shape.n_k, shape.dim].map(extent);
        let given = device.tensors(dtype, [batch, heads, n_q, dim], [batch, kv_heads, n_k, dim], extent(dv))?;

        progress.say(&format!("{}: counting", of.name));
        let inputs = of.inputs(&given)?;
        let (element, items) = (dtype.size() as u64, args.shape.batch.unsigned_abs());
        let forecast = of.kernel.forecast(shape, of.kv_heads, dv, element, items, &inputs)?;
        let cost = forecast.cost;
        let calibrated_ns = rates.map(|rates| rates.predict(&forecast, dtype, threads.count()));
        let counted = work(&forecast);

        // What the set attends to of each KV head, at most all of it.
        let stored = [&given.q, &given.k, &given.v].map(|t| t.data.bytes().len()).iter().sum::<usize>() as f64;
        let bytes = stored.min(forecast.visited());
        drop(forecast);
        // What levels and tables take may depend on the inputs.
        let memory = of.kernel.memory(shape, dtype, extent(dv), batch, &inputs, threads.count())?;
        let (workspace, results) = (vec![0; memory.workspace], Results::new(&of.kernel, &given, dtype)?);
        let facts = Facts { dtype, dv, cost, calibrated_ns, counted, bytes };
        Ok(Entrant { work: of, facts, given, workspace, results })
    }
}

fn extent(n: i64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// An entrant that runs, and what its runs took.
struct Running<'a> {
    work: &'a Work,
    facts: &'a Facts,
    threads: &'a Threads,
    problem: Problem<'a>,
    workspace: &'a mut [u8],
    #[cfg(feature = "gpu")]
    session: Option<(&'a attnc::gpu::Gpu, attnc::gpu::Session)>,
    driver_ns: Option<u64>,
    /// Of launches, and of the launch that tells the machine's pace beside them.
    taken: Vec<u64>,
    paced: Vec<u64>,
    /// GFLOP/s of multiply-adds beside them.
    peaks: Vec<f64>,
    /// Of the last launch.
    last: Duration,
    /// Of all turns.
    spent: Duration,
}

impl<'a> Running<'a> {
    fn new(entrant: &'a mut Entrant<'_>, device: &Device<'a>) -> Outcome<Running<'a>> {
        let Entrant { work, facts, given, workspace, results } = entrant;
        let problem = results.problem(given, work.inputs(given)?)?;
        #[cfg(feature = "gpu")]
        let open = || -> Outcome<_> {
            let Some(gpu) = device.gpu else { return Ok(None) };
            Ok(Some((gpu, attnc::gpu::Session::new(&work.kernel, gpu, &problem)?)))
        };
        #[cfg(feature = "gpu")]
        let (session, driver_ns) = {
            // Pipelines are made with the first session of a kernel: what it takes beyond another is the driver's.
            let begin = Instant::now();
            drop(open()?);
            let (first, begin) = (machine::nanos(begin), Instant::now());
            let session = open()?;
            let driver_ns = session.is_some().then(|| first.saturating_sub(machine::nanos(begin)));
            (session, driver_ns)
        };
        #[cfg(not(feature = "gpu"))]
        let driver_ns = None;
        Ok(Running {
            work,
            facts,
            threads: device.threads,
            problem,
            workspace,
            #[cfg(feature = "gpu")]
            session,
            driver_ns,
            taken: Vec::new(),
            paced: Vec::new(),
            peaks: Vec::new(),
            last: Duration::ZERO,
            spent: Duration::ZERO,
        })
    }

    /// Nanoseconds of a launch.
    fn once(&mut self) -> Outcome<u64> {
        let begin = Instant::now();
        let taken = self.launch(begin)?;
        self.last = begin.elapsed();
        Ok(taken)
    }

    fn launch(&mut self, begin: Instant) -> Outcome<u64> {
        #[cfg(feature = "gpu")]
        if let Some((gpu, session)) = &self.session {
            let on_device = crate::gpu::again(session, gpu, &mut self.problem)?;
            return Ok(on_device.map_or_else(|| machine::nanos(begin), |nanos| nanos as u64));
        }
        let resources = Resources { threads: Some(self.threads), workspace: Some(self.workspace), ready: None };
        self.work.kernel.run(&mut self.problem, resources)?;
        Ok(machine::nanos(begin))
    }

    fn warm(&mut self, least: Duration) -> Outcome {
        let begin = Instant::now();
        self.once()?;
        while begin.elapsed() < least {
            self.once()?;
        }
        Ok(())
    }

    fn is_done(&self, least: Duration) -> bool {
        self.taken.len() >= MOST_RUNS || (self.taken.len() >= RUNS && self.spent >= least)
    }

    /// Launches for as long as a turn takes, at least one.
    fn turn(&mut self, mut pace: Option<&mut Pace<'_>>, bursts: Option<&Bursts<'_>>, time: Duration) -> Outcome {
        let (begin, most) = (Instant::now(), self.taken.len() + MOST_RUNS / RUNS);
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|at| bursts.is_some() && at.elapsed() >= PACE) {
                if let Some(pace) = &mut pace {
                    pace.take(&mut self.paced)?;
                }
                self.peaks.extend(bursts.map(|bursts| bursts.gflops(BURSTS)));
                // What ran meanwhile has used the caches for something else, which a long run does not mind.
                if self.last < PACE / 4 {
                    self.once()?;
                }
                looked = Some(Instant::now());
            }
            let taken = self.once()?;
            self.taken.push(taken);
            if begin.elapsed() >= time || self.taken.len() >= most {
                self.spent += begin.elapsed();
                return Ok(());
            }
        }
    }

    /// What was executed: what was chosen says how many entries there are; where it is not handed back, a bound stays one.
    fn executed(&mut self) -> Outcome<Cost> {
        let (kernel, facts) = (&self.work.kernel, self.facts);
        let cost = facts.cost;
        let chosen = if cost.bounded && kernel.isa().is_some() { kernel.selection_names() } else { vec![] };
        let names: Vec<&str> = chosen.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(cost);
        }
        let resources = Resources { threads: Some(self.threads), workspace: Some(self.workspace), ready: None };
        let Ok(tables) = kernel.run_returning(&mut self.problem, resources, &names) else { return Ok(cost) };
        let mut inputs = self.problem.inputs.clone();
        inputs.supplied = tables.iter().map(Returned::supply).collect();
        let of_chosen = kernel.cost(self.work.shape, facts.dv, facts.dtype.size() as u64, &inputs)?;
        let executed_flops = of_chosen.executed_flops.saturating_add(cost.score_flops);
        Ok(Cost { scores: cost.scores, executed_flops, ..of_chosen })
    }

    fn measured(mut self, args: &BenchArgs, limits: Limits, pace: Option<&Pace<'_>>) -> Outcome<Measured> {
        let target = target(&args.target, &self.work.kernel);
        #[cfg(feature = "gpu")]
        let target = self.session.as_ref().map_or(target, |(_, session)| format!("gpu:{}", session.variant().name()));
        let cost = self.executed()?;
        let Running { work, facts, threads, driver_ns, taken, paced, peaks, .. } = self;
        let slowness = pace.map(|pace| pace.slowness(paced));
        let samples = Samples::new(taken);
        let gflops = cost.useful_flops as f64 / samples.median().max(1) as f64;
        Ok(Measured {
            pattern: work.name.clone(),
            target,
            plan_hash: work.kernel.hash(),
            tokens: work.shape.n_q,
            keys: work.shape.n_k,
            batch: args.shape.batch,
            heads: work.shape.heads,
            kv_heads: work.kv_heads,
            head_dim: work.shape.dim,
            value_dim: facts.dv,
            dtype: tensors::type_name(facts.dtype),
            threads: threads.count(),
            entries: cost.entries,
            bounded: cost.bounded,
            useful_flops: cost.useful_flops,
            executed_flops: cost.executed_flops,
            score_evaluations: (cost.scores > 0).then_some(cost.scores),
            useful_gflops: gflops,
            machine_peak_gflops: limits.gflops,
            peak_ratio: limits.gflops.map(|peak| gflops / peak),
            meanwhile_gflops: machine::median(peaks),
            compile_ns: work.compile.clone(),
            driver_ns,
            calibrated_ns: facts.calibrated_ns,
            predicted_ns: facts.calibrated_ns.map(|ns| (ns as f64 * slowness.unwrap_or(1.0)) as u64),
            slowness,
            run_ns: RunTimes {
                median: samples.median(),
                p05: samples.at(0.05),
                p95: samples.at(0.95),
                samples: samples.count(),
            },
            peak_rss_bytes: machine::peak_rss_bytes(),
            gbps: facts.bytes / samples.median().max(1) as f64,
            machine_read_gbps: limits.read_gbps,
            work: facts.counted.clone(),
            speedup_over_dense: None,
        })
    }
}

/// Runs entrants in turns until each has run long enough.
fn measure(
    entrants: &mut [Entrant<'_>],
    args: &BenchArgs,
    device: &Device<'_>,
    (limits, bursts): (Limits, Option<&Bursts<'_>>),
    rates: Option<&Calibrated>,
    progress: &Progress,
) -> Outcome<Vec<Measured>> {
    let least = Duration::from_millis(u64::try_from(args.min_time).unwrap_or(0));
    let mut running = entrants.iter_mut().map(|e| Running::new(e, device)).collect::<Outcome<Vec<_>>>()?;
    for one in &mut running {
        progress.say(&format!("{}: warming up", one.work.name));
        one.warm(least / 10)?;
    }
    let few = running.iter().any(|one| one.work.shape.n_q <= FEW_QUERIES);
    let mut pace = match (rates, running.first().and_then(|one| one.work.kernel.isa())) {
        (Some(known), Some(isa)) => Some(Pace::new(known, isa, device.threads, few)?),
        _ => None,
    };
    while !running.iter().all(|one| one.is_done(least)) {
        for one in running.iter_mut().filter(|one| !one.is_done(least)) {
            progress.say(&format!("{}: running", one.work.name));
            one.turn(pace.as_mut(), bursts, least / RUNS as u32)?;
        }
    }
    let measured = running.into_iter().map(|mut one| {
        if let Some(pace) = &mut pace {
            pace.take(&mut one.paced)?;
        }
        one.measured(args, limits, pace.as_ref())
    });
    measured.collect()
}
/// Name of what ran.
fn target(asked: &Target, kernel: &Kernel) -> String {
    match (asked, kernel.isa()) {
        (Target::Oracle, _) => "oracle".to_owned(),
        (_, Some(isa)) => format!("cpu:{}", isa.name()),
        (_, None) => "cpu".to_owned(),
    }
}

/// Compiles from text again and again; the kernel is that of the last time.
fn compile(
    loader: &dyn Loader,
    path: &str,
    options: &Options,
    select: &Select,
    progress: &Progress,
) -> Outcome<(Kernel, CompileTimes)> {
    progress.say(&format!("{}: compiling", select.name));
    timed(|| Ok(Compiler::new(options.clone()).compile(loader, path)?.kernel(select)?))
}

/// Compiles again and again; the result is that of the last time.
fn timed<T>(once: impl Fn() -> Outcome<T>) -> Outcome<(T, CompileTimes)> {
    let sample = || -> Outcome<(T, u64)> {
        let begin = Instant::now();
        let made = once()?;
        Ok((made, machine::nanos(begin)))
    };
    let (mut made, first) = sample()?;
    let mut samples = vec![first];
    while samples.len() < COMPILATIONS {
        let (again, time) = sample()?;
        samples.push(time);
        made = again;
    }
    let samples = Samples::new(samples);
    Ok((made, CompileTimes { median: samples.median(), first, samples: samples.count() }))
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(results: usize) -> Progress {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(results as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Progress(bar)
    }

    pub(crate) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.tick();
    }

    pub(crate) fn done(&self) {
        self.0.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// For people: two lines a result.
fn table(report: &Report) -> String {
    let Machine { cpu, cores, isa, version, .. } = &report.machine;
    let mut text = format!("attnc {version} on {cpu}, {cores} cores, {isa}\n");
    for r in &report.results {
        let kv = if r.kv_heads == r.heads { String::new() } else { format!(" on {}", r.kv_heads) };
        let batch = if r.batch == 1 { String::new() } else { format!("batch {}, ", r.batch) };
        let keys = if r.keys == r.tokens { String::new() } else { format!(" on {} keys", r.keys) };
        let dim = if r.value_dim == r.head_dim { String::new() } else { format!(" and {}", r.value_dim) };
        let speedup = r.speedup_over_dense.map_or(String::new(), |s| format!(", {s:.2} x dense"));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{} on {}, plan {}\n  shape    {batch}{} tokens{keys}, {}{kv} heads, dim {}{dim}, {}, {} threads",
            r.pattern, r.target, r.plan_hash, r.tokens, r.heads, r.head_dim, r.dtype, r.threads
        );
        let _ = writeln!(
            text,
            "  run      {} median, {} to {} (p05 to p95 of {}){speedup}",
            machine::time(r.run_ns.median),
            machine::time(r.run_ns.p05),
            machine::time(r.run_ns.p95),
            r.run_ns.samples
        );
        if let (Some(calibrated), Some(predicted)) = (r.calibrated_ns, r.predicted_ns) {
            let ratio = r.run_ns.median as f64 / predicted.max(1) as f64;
            let [calibrated, predicted] = [calibrated, predicted].map(machine::time);
            let _ = writeln!(
                text,
                "  model    {calibrated} when calibrated, {predicted} at the machine's present pace; it took {ratio:.2} of that"
            );
        }
        let overhead = r.executed_flops as f64 / r.useful_flops.max(1) as f64;
        let of_peak = match (r.peak_ratio, r.machine_peak_gflops) {
            (Some(ratio), Some(peak)) => {
                let meanwhile = r.meanwhile_gflops.map_or(String::new(), |now| {
                    format!(", {:.0} % of {now:.1} meanwhile", 100.0 * r.useful_gflops / now)
                });
                format!(
                    ", {:.0} % of the measured peak of {peak:.1}{meanwhile}; executed {overhead:.2} x useful",
                    100.0 * ratio
                )
            }
            _ => String::new(),
        };
        let most = if r.bounded { "at most " } else { "" };
        let _ = writeln!(text, "  speed    {most}{:.1} GFLOP/s useful{of_peak}", r.useful_gflops);
        if let Some(read) = r.machine_read_gbps {
            let share = 100.0 * r.gbps / read;
            let _ = writeln!(
                text,
                "  memory   {:.1} GB/s, {share:.0} % of the {read:.1} GB/s that these threads read",
                r.gbps
            );
        }
        let driver = r.driver_ns.map_or(String::new(), |ns| format!("; {} more in the driver", machine::time(ns)));
        let _ = writeln!(text, "  compile  {}{driver}", r.compile_ns);
        let rss = r.peak_rss_bytes.map_or("unknown".to_owned(), |b| format!("{:.1} MiB", b as f64 / 1_048_576.0));
        let scores = r.score_evaluations.map_or(String::new(), |n| format!("; {n} scores of pairs"));
        let _ = writeln!(text, "  entries  {most}{}{scores}; peak memory {rss}", r.entries);
    }
    for f in &report.files {
        let _ = writeln!(text, "\n{}\n  compile  {} plans in {}, {} threads", f.file, f.plans, f.compile_ns, f.threads);
    }
    text
}
