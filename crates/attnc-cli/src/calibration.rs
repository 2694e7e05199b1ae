//! `attnc calibrate`: the rates of this machine, measured in a few seconds and kept in a file.
//!
//! One idea: a few synthetic patterns, each heavy in something else (dense tiles, masks, gathered keys, residue
//! classes, rows of bits, modifiers), are run at several dimensions, and the library fits the rates of its model to
//! what they took. The file is of one instruction set, and stale where the CPU, the number of cores or the program is
//! another. The model itself is [`attnc::model`].

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attnc::model::{self, Calibration, Rates, Sample, Term, Work};
use attnc::{
    Compiler, DType, Forecast, Isa, Kernel, LoadError, Options, Problem, Resources, Select, Shape, Tensor, TensorMut,
    Threads,
};
use attnc_host::Kernels;
use attnc_host::kept::{Holds, directory};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::args::{CacheCommand, CalibrateArgs, CalibrationArgs, Element, SetArgs, SizeArgs};
use crate::files;
use crate::machine::{self, Machine};
use crate::report::{Failure, Outcome};
use crate::run::threads;
use crate::subject::{self, Data};
use crate::tensors;

/// Schema and version of the file.
const SCHEMA: &str = "attnc.calibration/2";

/// A calibration as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct File {
    schema: String,
    cpu: String,
    cores: usize,
    version: String,
    /// Instruction set of the kernels.
    isa: String,
    /// Threads that were busy.
    threads: usize,
    /// See [`Calibration::alone`].
    alone: f64,
    /// Peak of multiply-adds of all threads at that time, in GFLOP/s.
    peak_gflops: f64,
    /// See [`Calibration::cache`].
    cache_bytes: u64,
    /// Nanoseconds by element type and name of a term.
    rates: BTreeMap<String, BTreeMap<String, f64>>,
    /// What was measured, and what the rates make of it: nothing reads them but people.
    #[serde(default)]
    probes: Vec<Probed>,
}

/// A probe that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Probed {
    pattern: String,
    queries: i64,
    keys: i64,
    dim: i64,
    dtype: String,
    measured_ns: f64,
    /// With the rates fitted to it and the others.
    fitted_ns: f64,
    /// What it does, by name of a term.
    #[serde(default)]
    work: BTreeMap<String, u64>,
}

/// A calibration, ready to predict with.
#[derive(Clone, Debug)]
pub(crate) struct Calibrated(Vec<(DType, Calibration)>);

impl Calibrated {
    /// What is known without measuring: the file that was named, else this machine's own if there is one.
    pub(crate) fn known(args: &CalibrationArgs, isa: Isa) -> Outcome<Option<Calibrated>> {
        if let Some(path) = &args.calibration {
            let file = read(path).map_err(|why| unreadable(path, &why))?;
            return Calibrated::of(&file).map(Some).map_err(|why| unreadable(path, &why));
        }
        let here = place(isa).and_then(|path| read(&path).ok()).filter(|file| file.is_of_here(isa));
        Ok(here.and_then(|file| Calibrated::of(&file).ok()))
    }

    /// What is built in, where nothing was measured.
    pub(crate) fn built_in(isa: Isa, threads: usize) -> Calibrated {
        let lanes = match isa {
            Isa::Scalar => 1,
            Isa::Avx2 => 8,
            Isa::Avx512 => 16,
        };
        let of = attnc::typical::calibration(lanes, threads);
        Calibrated([DType::F32, DType::F16, DType::Bf16].map(|dtype| (dtype, of)).to_vec())
    }

    /// What is known, or else measured now and kept. A place that cannot be written costs the next command the
    /// measurement, and nothing else.
    pub(crate) fn known_or_measured(args: &CalibrationArgs, isa: Isa) -> Outcome<Calibrated> {
        if let Some(known) = Calibrated::known(args, isa)? {
            return Ok(known);
        }
        let file = measure(isa, None)?;
        // What follows is told its own memory.
        machine::forget_peak();
        if let Some(path) = place(isa) {
            let _ = write(&path, &file);
        }
        Calibrated::of(&file).map_err(|why| Failure::run("E0737", why, "measure again: `attnc calibrate`"))
    }

    /// Nanoseconds of a launch.
    pub(crate) fn predict(&self, forecast: &Forecast, dtype: DType, threads: usize) -> u64 {
        forecast.nanos(&self.machine(dtype), threads).round() as u64
    }

    /// What is known of the machine for elements of a type.
    pub(crate) fn machine(&self, dtype: DType) -> Calibration {
        let of = self.0.iter().find(|(d, _)| *d == dtype).or(self.0.first());
        of.map(|(_, machine)| *machine).unwrap_or_default()
    }

    fn of(file: &File) -> Result<Calibrated, String> {
        let mut all = Vec::new();
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let name = tensors::type_name(dtype);
            let named = file.rates.get(name).ok_or_else(|| format!("it has no rates of {name}"))?;
            let mut rates = Rates::default();
            for &term in Term::ALL {
                let rate =
                    named.get(term.name()).copied().ok_or_else(|| format!("it has no rate of {}", term.name()))?;
                if !(rate.is_finite() && rate >= 0.0) {
                    return Err(format!("its rate of {} is {rate}", term.name()));
                }
                rates[term] = rate;
            }
            let cache = file.cache_bytes as f64;
            all.push((dtype, Calibration { rates, threads: file.threads, alone: file.alone, cache }));
        }
        Ok(Calibrated(all))
    }
}

impl File {
    /// Whether it tells of this machine, this program and an instruction set.
    fn is_of_here(&self, isa: Isa) -> bool {
        let Machine { cpu, cores, version, .. } = Machine::here();
        (self.cpu.as_str(), self.cores, self.version.as_str(), self.isa.as_str()) == (&cpu, cores, version, isa.name())
    }
}

fn file_name(isa: Isa) -> String {
    format!("calibration-{}.json", isa.name())
}

/// Where calibrations of this user are kept.
fn place(isa: Isa) -> Option<PathBuf> {
    Some(directory()?.join(file_name(isa)))
}

/// The user has no place for what is kept.
fn no_directory() -> Failure {
    Failure::run("E0809", "this user has no directory for caches, or ATTNC_CACHE is `off`", "name a file with --output")
}

/// Names of the files in a directory, sorted; none if there is no such directory.
fn kept(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    // Others' files are left alone; ours may be one that a command which was killed had begun.
    names.retain(|name| name.trim_start_matches('.').starts_with("calibration-"));
    names.sort_unstable();
    names
}

pub(crate) fn cache(command: CacheCommand) -> Outcome {
    let dir = directory().ok_or_else(no_directory)?;
    let names = kept(&dir);
    let text = match command {
        CacheCommand::Path => format!("{}\n", dir.display()),
        CacheCommand::Status => {
            let mut text = String::new();
            for name in &names {
                let path = dir.join(name);
                let of = [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().find(|&isa| file_name(isa) == *name);
                let state = match (of, read(&path)) {
                    (None, _) => "unfinished".to_owned(),
                    (_, Err(why)) => format!("unreadable: {why}"),
                    (Some(isa), Ok(file)) if file.is_of_here(isa) => format!("in use, on {} threads", file.threads),
                    (_, Ok(file)) => format!("stale: of attnc {} on {}, {} cores", file.version, file.cpu, file.cores),
                };
                text.push_str(&format!("{name}: {state}\n"));
            }
            let kernels = Kernels::below(&dir).holds();
            if kernels.files > 0 {
                let Holds { files, bytes, usable, stale, broken } = kernels;
                let kib = bytes.div_ceil(1024);
                text.push_str(&format!("kernels: {files} in {kib} KiB: {usable} of this program, {stale} stale"));
                text.push_str(&if broken > 0 { format!(", {broken} broken\n") } else { "\n".to_owned() });
            }
            if text.is_empty() { "nothing is kept\n".to_owned() } else { text }
        }
        CacheCommand::Clear => {
            for name in &names {
                let path = dir.join(name);
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        let message = format!("{} cannot be removed: {}", path.display(), attnc_host::disk::reason(&e));
                        return Err(Failure::run("E0809", message, "remove it by hand"));
                    }
                    // Somebody else was faster.
                    _ => {}
                }
            }
            let kernels = Kernels::below(&dir).clear().map_err(|e| {
                let message =
                    format!("kernels in {} cannot be removed: {}", dir.display(), attnc_host::disk::reason(&e));
                Failure::run("E0809", message, "remove them by hand")
            })?;
            let count = names.len() + kernels;
            format!("{} removed\n", if count == 1 { "1 file".to_owned() } else { format!("{count} files") })
        }
    };
    files::print(&text)
}

fn read(path: &Path) -> Result<File, String> {
    let bytes = files::read_at_most(path, 1 << 20).map_err(|e| match e {
        LoadError::NotFound => "it does not exist".to_owned(),
        LoadError::Directory => "it is a directory".to_owned(),
        LoadError::TooLarge { bytes } => format!("it has {bytes} bytes"),
        LoadError::Other(why) => why,
    })?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if file.schema == SCHEMA { Ok(file) } else { Err(format!("its schema is `{}`, not `{SCHEMA}`", file.schema)) }
}

fn write(path: &Path, file: &File) -> Outcome {
    if let Some(dir) = path.parent() {
        // What cannot be made shows when the file is written.
        let _ = std::fs::create_dir_all(dir);
    }
    let text = serde_json::to_string_pretty(file).unwrap_or_default();
    files::write_all(Some(path), format!("{text}\n").as_bytes())
}

fn unreadable(path: &Path, why: &str) -> Failure {
    let message = format!("calibration {} cannot be read: {why}", path.display());
    Failure::run("E0737", message, "make it anew: `attnc calibrate --output FILE`")
}

pub(crate) fn calibrate(args: &CalibrateArgs) -> Outcome {
    let options = subject::options(&SetArgs::default(), &args.target);
    let isa = match options.target {
        attnc::Target::Cpu(isa) => isa.unwrap_or(Isa::best()),
        attnc::Target::Oracle => return Err(Failure::usage("the oracle is not calibrated", "use --target cpu")),
        #[cfg(feature = "gpu")]
        attnc::Target::Gpu(_) => return Err(Failure::usage("a GPU is not calibrated", "use --target cpu")),
    };
    let file = measure(isa, args.threads)?;
    let path = args.output.clone().or_else(|| place(isa)).ok_or_else(no_directory)?;
    write(&path, &file)?;
    // Data on standard output needs no word of where it went.
    if args.output.as_deref() == Some(Path::new(files::STDIN)) {
        return Ok(());
    }
    files::print(&format!("{} on {} threads of {}: {}\n", isa.name(), file.threads, file.cpu, path.display()))
}

/// A synthetic pattern at one length and dimension.
#[derive(Clone, Copy)]
struct Probe {
    source: &'static str,
    n_q: i64,
    n_k: i64,
    /// Sides of the grid, where the source declares one.
    grid: Option<(i64, i64)>,
    dim: i64,
}

const DENSE: &str = "pattern p = all";
const CAUSAL: &str = "pattern p = causal";
const NARROW: &str = "pattern p = q - k in 0 .. 32";
const OWN: &str = "pattern p = q - k in -6 ..= 6";
const BAND: &str = "pattern p = q - k in -128 .. 128";
const STRIPES: &str = "pattern p = k % 37 == 0";
const POWERS: &str = "pattern p = block 16 { causal & (pow2 | q == k) }";
const CLASSES: &str = "pattern p = q - k in 0 .. step 64";
const CLASSES_16: &str = "pattern p = q - k in 0 .. step 16";
const GRID: &str = "space image(h, w)\npattern p = near(h = 13, w = 13)";
const SMALL_GRID: &str = "space image(h, w)\npattern p = near(h = 5, w = 5)";
const TESTED: &str = "attention p {\n  empty = zero\n  align = start\n  attend (q * q + k * k) % 7 == 0\n}";
const SLOPE: &str = "attention p {\n  score = score - 0.01 * (q - k)\n  align = start\n  attend all\n}";
const CAP: &str = "attention p {\n  score = 50.0 * tanh(score / 50.0)\n  align = start\n  attend all\n}";
const TABLE: &str = "tensor t[256]\nattention p {\n  score = score + t[max(-100, min(q - k, 100)) + 100]\n  align = start\n  attend all\n}";

/// Patterns of each kind of work, for singles.
const PROBES: &[Probe] = &[
    Probe { source: DENSE, n_q: 768, n_k: 768, grid: None, dim: 64 },
    Probe { source: DENSE, n_q: 640, n_k: 640, grid: None, dim: 128 },
    Probe { source: DENSE, n_q: 768, n_k: 768, grid: None, dim: 32 },
    Probe { source: DENSE, n_q: 128, n_k: 8192, grid: None, dim: 64 },
    Probe { source: DENSE, n_q: 128, n_k: 6144, grid: None, dim: 128 },
    Probe { source: CAUSAL, n_q: 1024, n_k: 1024, grid: None, dim: 64 },
    Probe { source: NARROW, n_q: 8192, n_k: 8192, grid: None, dim: 64 },
    Probe { source: NARROW, n_q: 4096, n_k: 4096, grid: None, dim: 128 },
    Probe { source: OWN, n_q: 8192, n_k: 8192, grid: None, dim: 64 },
    Probe { source: OWN, n_q: 4096, n_k: 4096, grid: None, dim: 128 },
    Probe { source: BAND, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: BAND, n_q: 2048, n_k: 2048, grid: None, dim: 32 },
    Probe { source: STRIPES, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: STRIPES, n_q: 2048, n_k: 8192, grid: None, dim: 128 },
    Probe { source: POWERS, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: POWERS, n_q: 4096, n_k: 4096, grid: None, dim: 32 },
    Probe { source: CLASSES, n_q: 8192, n_k: 8192, grid: None, dim: 64 },
    Probe { source: CLASSES, n_q: 8192, n_k: 8192, grid: None, dim: 128 },
    Probe { source: CLASSES_16, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: GRID, n_q: 4096, n_k: 4096, grid: Some((64, 64)), dim: 64 },
    Probe { source: SMALL_GRID, n_q: 9216, n_k: 9216, grid: Some((96, 96)), dim: 64 },
    Probe { source: TESTED, n_q: 512, n_k: 512, grid: None, dim: 64 },
    Probe { source: SLOPE, n_q: 512, n_k: 512, grid: None, dim: 64 },
    Probe { source: CAP, n_q: 512, n_k: 512, grid: None, dim: 64 },
    Probe { source: TABLE, n_q: 384, n_k: 384, grid: None, dim: 64 },
    Probe { source: DENSE, n_q: 64, n_k: 64, grid: None, dim: 64 },
    Probe { source: NARROW, n_q: 256, n_k: 256, grid: None, dim: 64 },
];

/// Patterns of what differs where elements are no singles.
const HALVES: &[Probe] = &[
    Probe { source: DENSE, n_q: 768, n_k: 768, grid: None, dim: 64 },
    Probe { source: DENSE, n_q: 640, n_k: 640, grid: None, dim: 128 },
    Probe { source: NARROW, n_q: 8192, n_k: 8192, grid: None, dim: 64 },
    Probe { source: BAND, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: STRIPES, n_q: 4096, n_k: 4096, grid: None, dim: 64 },
    Probe { source: CLASSES, n_q: 8192, n_k: 8192, grid: None, dim: 64 },
];

/// Few queries over keys that a cache holds, and over keys that none does; a head for each of `heads` threads.
fn few(heads: usize, element: Element) -> [Probe; 4] {
    let probe = |n_q, n_k, dim| Probe { source: DENSE, n_q, n_k, grid: None, dim };
    let far = (FAR_BYTES / (2 * 128 * element.dtype().size() * heads.max(1))) as i64;
    [probe(4, 2048, 128), probe(1, 4096, 64), probe(8, 1024, 64), probe(4, far, 128)]
}

/// Bytes of K and V that no cache holds.
const FAR_BYTES: usize = 256 << 20;

/// What is fitted to [`HALVES`]; all else is as for singles.
const OF_HALVES: &[Term] = &[Term::Keys, Term::Gathered, Term::Strided, Term::Rows, Term::Few, Term::Streamed];

/// Probes that are run on one thread, too.
const ALONE: usize = 9;

/// Rounds over all probes: what slows the machine for a second or two then falls on some rounds of many, and the best
/// run of a probe is of another.
const ROUNDS: usize = 12;
/// Time for the runs of a probe in a round.
const PROBE_TIME: Duration = Duration::from_millis(2);

/// Measures this machine with as many threads.
fn measure(isa: Isa, count: Option<i64>) -> Outcome<File> {
    let (pool, single) = (threads(count)?, threads(Some(1))?);
    let count = pool.count();
    // A thread alone has the caches and the clock for itself.
    let alone = PROBES[..if count > 1 { ALONE } else { 0 }].to_vec();
    let with_few = |probes: &[Probe], element| [probes, &few(count, element)].concat();
    let parts: [(Vec<Probe>, Element, &Threads); 4] = [
        (with_few(PROBES, Element::F32), Element::F32, &pool),
        (alone, Element::F32, &single),
        (with_few(HALVES, Element::F16), Element::F16, &pool),
        (with_few(HALVES, Element::Bf16), Element::Bf16, &pool),
    ];
    let cache_bytes = machine::cache_bytes();
    let mut tests = Vec::new();
    for (part, (probes, element, pool)) in parts.iter().enumerate() {
        for probe in probes {
            tests.push((part, Test::new(probe, isa, element.dtype(), pool, count, cache_bytes)?));
        }
    }
    let bar = progress(ROUNDS * tests.len());
    let peak_gflops = machine::Bursts::new(&pool, isa).peak();
    let mut numbers = Numbers::default();
    for _ in 0..ROUNDS {
        for (_, test) in &mut tests {
            test.run(&mut numbers)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let samples = |part| -> Vec<Sample> { tests.iter().filter(|(p, _)| *p == part).map(|(_, t)| t.sample()).collect() };

    let singles = samples(0);
    let of_singles = Rates::default().fit(Term::ALL, &singles);
    let mut shares: Vec<f64> =
        samples(1).iter().map(|sample| sample.nanos / of_singles.nanos(&sample.work, sample.elements)).collect();
    shares.sort_by(f64::total_cmp);
    let alone = shares.get(shares.len() / 2).map_or(1.0, |share| share.clamp(0.2, 1.2));
    let mut probes = probed(&parts[0].0, Element::F32, &singles, &of_singles, count);
    let mut rates = BTreeMap::from([("f32".to_owned(), named(&of_singles))]);
    for part in [2, 3] {
        let (samples, element) = (samples(part), parts[part].1);
        let fitted = of_singles.fit(OF_HALVES, &samples);
        probes.extend(probed(&parts[part].0, element, &samples, &fitted, count));
        rates.insert(tensors::type_name(element.dtype()).to_owned(), named(&fitted));
    }
    let Machine { cpu, cores, version, .. } = Machine::here();
    Ok(File {
        schema: SCHEMA.to_owned(),
        cpu,
        cores,
        version: version.to_owned(),
        isa: isa.name().to_owned(),
        threads: count,
        alone: rounded(alone),
        peak_gflops: rounded(peak_gflops),
        cache_bytes,
        rates,
        probes,
    })
}

/// Rates by name.
fn named(rates: &Rates) -> BTreeMap<String, f64> {
    Term::ALL.iter().map(|&term| (term.name().to_owned(), rounded(rates[term]))).collect()
}

/// Probes with what was measured and fitted.
fn probed(probes: &[Probe], element: Element, samples: &[Sample], rates: &Rates, threads: usize) -> Vec<Probed> {
    let each = probes.iter().zip(samples).map(|(probe, sample)| Probed {
        pattern: probe.source.to_owned(),
        queries: probe.n_q,
        keys: probe.n_k,
        dim: probe.dim,
        dtype: tensors::type_name(element.dtype()).to_owned(),
        measured_ns: rounded(sample.nanos / threads as f64),
        fitted_ns: rounded(rates.nanos(&sample.work, sample.elements) / threads as f64),
        work: Term::ALL.iter().map(|&term| (term.name().to_owned(), sample.work[term])).collect(),
    });
    each.collect()
}

/// Five digits, which is more than is known.
fn rounded(x: f64) -> f64 {
    format!("{x:.4e}").parse().unwrap_or(x)
}

/// A progress bar on a terminal, nothing elsewhere.
fn progress(steps: usize) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} calibrating this machine") {
        bar.set_style(style);
    }
    bar.tick();
    bar
}

/// A probe, ready to run, with what it took so far.
struct Test<'a> {
    kernel: Kernel,
    shape: Shape,
    dtype: DType,
    data: Data,
    pool: &'a Threads,
    work: Work,
    elements: f64,
    /// The least that a run took.
    best: u64,
}

impl<'a> Test<'a> {
    /// On as many `heads` as there are threads, so that each thread has the same to do.
    fn new(probe: &Probe, isa: Isa, dtype: DType, pool: &'a Threads, heads: usize, cache: u64) -> Outcome<Test<'a>> {
        let kernel = kernel(probe, isa)?;
        let shape = Shape { n_q: probe.n_q, n_k: probe.n_k, heads: heads as i64, dim: probe.dim };
        let mut data = Data::new(&SizeArgs::default(), probe.n_q.max(probe.n_k));
        if let Some((h, w)) = probe.grid {
            data.sizes = vec![("image.h".to_owned(), h), ("image.w".to_owned(), w)];
        }
        data.q_start = Some(0);
        data.fill(&kernel.wants(shape, &subject::sizes_of(&data.sizes))?, shape, 1)?;
        let forecast = kernel.forecast(shape, shape.heads, probe.dim, dtype.size() as u64, 1, &data.inputs())?;
        // What one thread does before the others is time of all of them.
        let mut work = forecast.work();
        for term in [Term::Ordered, Term::Launches] {
            work[term] *= pool.count() as u64;
        }
        let read = model::uncached(forecast.bytes(), cache as f64);
        work[Term::Streamed] = (work[Term::Streamed] as f64 * read) as u64;
        Ok(Test { kernel, shape, dtype, data, pool, work, elements: forecast.elements(), best: u64::MAX })
    }

    /// What was measured: the best of all rounds, since what disturbs makes runs longer.
    fn sample(&self) -> Sample {
        Sample { work: self.work, elements: self.elements, nanos: self.best as f64 * self.pool.count() as f64 }
    }

    /// Runs for a while, after one run that touches memory for the first time.
    fn run(&mut self, numbers: &mut Numbers) -> Outcome {
        let times = self.times_of(numbers, PROBE_TIME)?;
        self.best = times.into_iter().fold(self.best, u64::min);
        Ok(())
    }

    /// What one run takes, after one that is not counted.
    fn once(&mut self, numbers: &mut Numbers) -> Outcome<u64> {
        Ok(machine::Samples::new(self.times_of(numbers, Duration::ZERO)?).median())
    }

    fn times_of(&mut self, numbers: &mut Numbers, least: Duration) -> Outcome<Vec<u64>> {
        let extent = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        let [heads, n_q, n_k, dim] = [self.shape.heads, self.shape.n_q, self.shape.n_k, self.shape.dim].map(extent);
        let (dtype, of_q, of_k) = (self.dtype, [1, heads, n_q, dim], [1, heads, n_k, dim]);
        let bytes = |of: [usize; 4]| of.iter().product::<usize>() * dtype.size();
        let (all, of_keys) = (numbers.of(dtype, bytes(of_q) + 2 * bytes(of_k))?, bytes(of_k));
        let (k, rest) = all.split_at(of_keys);
        let (v, rest) = rest.split_at(of_keys);
        let layout = |e: attnc::LayoutError| tensors::layout("q", &e);
        let mut out = vec![0; bytes(of_q)];
        let mut lse = vec![0.0; heads * n_q];
        let memory = self.kernel.memory(self.shape, dtype, dim, 1, &self.data.inputs(), self.pool.count())?;
        let mut workspace = vec![0; memory.workspace];
        let mut problem = Problem {
            q: Tensor::contiguous(&rest[..bytes(of_q)], dtype, of_q).map_err(layout)?,
            k: Tensor::contiguous(k, dtype, of_k).map_err(layout)?,
            v: Tensor::contiguous(v, dtype, of_k).map_err(layout)?,
            out: TensorMut::contiguous(&mut out, dtype, of_q).map_err(layout)?,
            lse: Some(TensorMut::of_f32(&mut lse, [1, heads, n_q, 1]).map_err(layout)?),
            inputs: self.data.inputs(),
        };
        let mut once = || -> Outcome<u64> {
            let begin = Instant::now();
            let resources = Resources { threads: Some(self.pool), workspace: Some(&mut workspace), ready: None };
            self.kernel.run(&mut problem, resources)?;
            Ok(machine::nanos(begin))
        };
        once()?;
        let (begin, mut times) = (Instant::now(), Vec::new());
        loop {
            times.push(once()?);
            if begin.elapsed() >= least {
                return Ok(times);
            }
        }
    }
}

/// A launch that was among those of a calibration, to be run beside others: how fast the machine is now against then.
pub(crate) struct Pace<'a> {
    test: Test<'a>,
    numbers: Numbers,
    /// What the calibration says it takes.
    then: f64,
    /// How often it runs at a time: short launches several times, since another program's turn is as long as they are.
    runs: usize,
}

impl<'a> Pace<'a> {
    /// For launches of `few` queries over many keys, or of many.
    pub(crate) fn new(known: &Calibrated, isa: Isa, pool: &'a Threads, few: bool) -> Outcome<Pace<'a>> {
        let heads = pool.count();
        let probe = if few { self::few(heads, Element::F32)[3] } else { PROBES[0] };
        let test = Test::new(&probe, isa, DType::F32, pool, heads, machine::cache_bytes())?;
        let shape = test.shape;
        let forecast = test.kernel.forecast(shape, shape.heads, probe.dim, 4, 1, &test.data.inputs())?;
        let then = known.predict(&forecast, DType::F32, heads) as f64;
        let runs = if few { 1 } else { 5 };
        Ok(Pace { test, numbers: Numbers::default(), then, runs })
    }

    /// Runs it now, and adds what it takes.
    pub(crate) fn take(&mut self, to: &mut Vec<u64>) -> Outcome {
        for _ in 0..self.runs {
            to.push(self.test.once(&mut self.numbers)?);
        }
        Ok(())
    }

    /// What a launch took at some moments over what it took at the time of the calibration.
    pub(crate) fn slowness(&self, taken: Vec<u64>) -> f64 {
        let now = machine::Samples::new(taken).median() as f64;
        if now <= 0.0 || self.then <= 0.0 { 1.0 } else { now / self.then }
    }
}

fn kernel(probe: &Probe, isa: Isa) -> Outcome<Kernel> {
    let options = Options { target: attnc::Target::Cpu(Some(isa)), ..Options::default() };
    Ok(Compiler::new(options).source(probe.source)?.kernel(&Select::named("p"))?)
}

/// Normal numbers of each type, which all tests read.
#[derive(Default)]
struct Numbers(Vec<(DType, tensors::Buffer)>);

impl Numbers {
    /// At least `bytes` bytes of them; beyond the first million they repeat.
    fn of(&mut self, dtype: DType, bytes: usize) -> Outcome<&[u8]> {
        let fits = |(d, data): &(DType, tensors::Buffer)| *d == dtype && data.bytes().len() >= bytes;
        if !self.0.iter().any(fits) {
            let some = tensors::normal(dtype, [1, 1, 1, 1 << 20], 1)?;
            let mut data = tensors::Buffer::zeroed(bytes.next_multiple_of(1 << 20))?;
            for part in data.bytes_mut().chunks_mut(some.data.bytes().len()) {
                part.copy_from_slice(&some.data.bytes()[..part.len()]);
            }
            self.0.retain(|(d, _)| *d != dtype);
            self.0.push((dtype, data));
        }
        Ok(self.0.iter().find(|entry| fits(entry)).map_or(&[], |(_, data)| data.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let rates: BTreeMap<String, f64> = Term::ALL.iter().map(|t| (t.name().to_owned(), 1.5)).collect();
        File {
            schema: SCHEMA.to_owned(),
            cpu: Machine::here().cpu,
            cores: Machine::here().cores,
            version: Machine::here().version.to_owned(),
            isa: Isa::best().name().to_owned(),
            threads: 2,
            alone: 0.9,
            peak_gflops: 100.0,
            cache_bytes: 1 << 20,
            rates: ["f32", "f16", "bf16"].map(|t| (t.to_owned(), rates.clone())).into(),
            probes: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = std::env::temp_dir().join(format!("attnc-calibration-{}", std::process::id()));
        let path = dir.join("below").join("file.json");
        write(&path, &file()).expect("written");
        assert_eq!(read(&path), Ok(file()));
        std::fs::write(&path, "{\"schema\": \"attnc.bench/1\"}").expect("written");
        assert!(read(&path).is_err());
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn rates_are_all_there_and_finite() {
        assert!(Calibrated::of(&file()).is_ok());
        let mut broken = file();
        broken.rates.get_mut("f16").expect("f16").remove("chunks");
        assert!(Calibrated::of(&broken).is_err_and(|why| why.contains("chunks")));
        broken.rates.remove("f16");
        assert!(Calibrated::of(&broken).is_err_and(|why| why.contains("f16")));
        let mut broken = file();
        broken.rates.get_mut("f32").expect("f32").insert("chunks".to_owned(), -1.0);
        assert!(Calibrated::of(&broken).is_err());
    }

    #[test]
    fn a_file_of_elsewhere_is_stale() {
        assert!(file().is_of_here(Isa::best()));
        assert!(!File { cpu: "another".to_owned(), ..file() }.is_of_here(Isa::best()));
        assert!(!File { cores: 0, ..file() }.is_of_here(Isa::best()));
    }

    #[test]
    fn every_probe_compiles() {
        for probe in PROBES.iter().chain(HALVES) {
            assert!(kernel(probe, Isa::best()).is_ok(), "{}", probe.source);
        }
    }
}
