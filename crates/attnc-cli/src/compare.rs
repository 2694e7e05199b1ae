//! `attnc compare`: what patterns keep of dense attention on given tensors, and what that saves.
//!
//! One idea: all patterns of a command are held against the same dense attention, so that their figures can be held
//! against each other: causal attention if none of them looks ahead, else attention to every key. Times are those of whole
//! layers, run in turn with dense attention. Nothing here is chosen: that is `search`.

use std::fmt::Write as _;
use std::time::Duration;

use attnc::{Compiler, Kernel, Module, Options, Select};
use serde::Serialize;

use crate::args::{CompareArgs, Dense, Format};
use crate::bench::Progress;
use crate::files::{self, Disk};
use crate::inspect::print_json;
use crate::layers::{self, Device, Head, Layer, Seen, Times};
use crate::machine::{self, Machine};
use crate::page;
use crate::report::{Outcome, Reporter};
use crate::run::threads;
use crate::subject;
use crate::tensors::TensorFile;

/// Cells of a picture on the page, each way.
const CELLS: usize = 64;

/// What is printed; the schema is `attnc.compare/1`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    pub(crate) machine: Machine,
    pub(crate) input: String,
    /// Dense attention that everything is held against: `all` or `causal`.
    pub(crate) dense: &'static str,
    threads: usize,
    pub(crate) results: Vec<Compared>,
}

/// A pattern on a layer.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    pub(crate) pattern: String,
    pub(crate) layer: i64,
    /// What ran it; `oracle` where the target does not run it.
    pub(crate) target: String,
    plan_hash: String,
    pub(crate) tokens: i64,
    pub(crate) keys: i64,
    batch: usize,
    /// Pairs of a head that dense attention has.
    pairs: u64,
    /// Median of a launch of all heads; `None` for the oracle.
    pub(crate) run_ns: Option<u64>,
    /// The same of dense attention, run in turn.
    dense_run_ns: Option<u64>,
    pub(crate) speedup_over_dense: Option<f64>,
    /// Means over the heads.
    pub(crate) mean: Figures,
    pub(crate) heads: Vec<OfHead>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Share of the mass of the softmax of dense attention on keys that are attended to themselves.
    pub(crate) mass: f64,
    /// The same on keys that only slots of levels stand for.
    pub(crate) mass_by_levels: f64,
    /// Norm of the difference of the outputs over that of dense attention's.
    pub(crate) error: f64,
    /// Entries over pairs of dense attention.
    pub(crate) density: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct OfHead {
    pub(crate) head: usize,
    /// Name of its attention; `None` where it skips.
    pub(crate) attention: Option<String>,
    entries: u64,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    #[serde(skip)]
    pub(crate) seen: Head,
    /// Mass kept by each query, for the page.
    #[serde(skip)]
    pub(crate) by_query: Vec<f64>,
}

/// A pattern on a layer before it is known what it is held against.
struct Raw {
    pattern: String,
    layer: i64,
    shape: attnc::Shape,
    batch: usize,
    pairs: [u64; 2],
    seen: Seen,
    times: Option<Times>,
}

pub(crate) fn compare(args: &CompareArgs, reporter: Reporter) -> Outcome {
    let threads = threads(args.layers.threads)?;
    let options = subject::options(&args.set, &args.layers.target);
    let device = Device::of(&args.layers.target)?;
    let mut file = TensorFile::open(&args.layers.input)?;
    let places = layers::places(&file, &args.layers.layers)?;
    let mut patterns = Vec::new();
    for subject in &args.subjects {
        let module = subject::module(&subject.path, options.clone(), reporter)?;
        let name = subject::name_of(&module, subject)?;
        let oracle = Compiler::new(Options { target: attnc::Target::Oracle, ..options.clone() });
        patterns.push((format!("{}:{name}", subject.path), name, module, oracle.compile(&Disk, &subject.path)?));
    }
    let progress = Progress::new(places.len() * patterns.len());
    let mut raw = Vec::new();
    let least = Duration::from_millis(args.min_time.unsigned_abs());
    for place in &places {
        progress.say(&format!("layer {}: dense attention", place.layer));
        let layer = Layer::read(&mut file, place, &args.layers, (&device, &threads))?;
        for (pattern, name, module, oracle) in &patterns {
            progress.say(&format!("layer {}: {pattern}", place.layer));
            let select = Select::named(name.as_str()).layer(place.layer).step(args.layers.step);
            let kernel = kernel(module, oracle, &select)?;
            let data = layer.data(&mut file, &kernel, module.axis(), &args.layers)?;
            let seen = layer.see(&kernel, &data, if args.html.is_some() { CELLS } else { 0 })?;
            let times = layer.time(&kernel, &data, least)?;
            let pairs = [Dense::All, Dense::Causal].map(|dense| layer.pairs(dense));
            let (pattern, shape, batch) = (pattern.clone(), layer.shape, layer.batch);
            raw.push(Raw { pattern, layer: place.layer, shape, batch, pairs, seen, times });
            progress.done();
        }
    }
    progress.finish();
    let ahead = raw.iter().any(|r| r.seen.heads.iter().any(|head| head.kept.ahead > 0));
    let dense = args.layers.dense.unwrap_or(if ahead { Dense::All } else { Dense::Causal });
    let report = Report {
        schema: "attnc.compare/1",
        machine: Machine::here(),
        input: args.layers.input.display().to_string(),
        dense: name_of(dense),
        threads: threads.count(),
        results: raw.into_iter().map(|raw| raw.against(dense)).collect(),
    };
    if let Some(path) = &args.html {
        files::write_all(Some(path), page::page(&report)?.as_bytes())?;
    }
    match args.layers.format {
        Format::Json => print_json(&report),
        Format::Human => files::print(&table(&report)),
    }
}

/// `all` or `causal`, which are names of the language too.
pub(crate) fn name_of(dense: Dense) -> &'static str {
    match dense {
        Dense::All => "all",
        Dense::Causal => "causal",
    }
}

/// The kernel on its target, or by the oracle where the target does not run it.
fn kernel(module: &Module, oracle: &Module, select: &Select) -> Outcome<Kernel> {
    match module.kernel(select) {
        Ok(kernel) => Ok(kernel),
        Err(said) if said.list.iter().all(|d| d.code == "E0611") => Ok(oracle.kernel(select)?),
        Err(said) => Err(said.into()),
    }
}

impl Raw {
    fn against(self, dense: Dense) -> Compared {
        let i = usize::from(dense == Dense::Causal);
        let pairs = self.pairs[i];
        let heads: Vec<OfHead> = self
            .seen
            .heads
            .into_iter()
            .enumerate()
            .map(|(head, seen)| {
                let share = if dense == Dense::Causal { &seen.kept.causal } else { &seen.kept.all };
                let (mass, mass_by_levels) = share.mean(seen.kept.items);
                let density = seen.kept.entries as f64 / pairs.max(1) as f64;
                let figures = Figures { mass, mass_by_levels, error: seen.errors[i], density };
                let items = seen.kept.items.max(1) as f64;
                let by_query = share.rows.iter().zip(&share.pooled).map(|(a, b)| (a + b) / items).collect();
                let (attention, entries) = (seen.attention.clone(), seen.kept.entries);
                OfHead { head, attention, entries, figures, seen, by_query }
            })
            .collect();
        let mean =
            |of: fn(&Figures) -> f64| heads.iter().map(|h| of(&h.figures)).sum::<f64>() / heads.len().max(1) as f64;
        let mean = Figures {
            mass: mean(|f| f.mass),
            mass_by_levels: mean(|f| f.mass_by_levels),
            error: mean(|f| f.error),
            density: mean(|f| f.density),
        };
        let dense_run_ns = self.times.map(|t| t.dense[i]);
        Compared {
            pattern: self.pattern,
            layer: self.layer,
            target: self.seen.target,
            plan_hash: self.seen.plan_hash,
            tokens: self.shape.n_q,
            keys: self.shape.n_k,
            batch: self.batch,
            pairs,
            run_ns: self.times.map(|t| t.nanos),
            dense_run_ns,
            speedup_over_dense: self.times.map(|t| t.dense[i] as f64 / t.nanos.max(1) as f64),
            mean,
            heads,
        }
    }
}

/// What everything is held against, in words.
pub(crate) fn dense_in_words(dense: &str) -> &'static str {
    if dense == "causal" { "causal attention, whose pairs are those not ahead" } else { "attention to every key" }
}

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn table(report: &Report) -> String {
    let mut text = format!("{} against {}\n", report.input, dense_in_words(report.dense));
    for r in &report.results {
        let keys = if r.keys == r.tokens { String::new() } else { format!(" on {} keys", r.keys) };
        let speed = match (r.run_ns, r.dense_run_ns, r.speedup_over_dense) {
            (Some(run), Some(dense), Some(ratio)) => {
                format!("{}, {ratio:.2} x dense ({})", machine::time(run), machine::time(dense))
            }
            _ => "not timed: the oracle ran it".to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{}, layer {}, {} tokens{keys}, on {}: {speed}\n  head         mass   by levels       error     density  attention",
            r.pattern, r.layer, r.tokens, r.target
        );
        let mut line = |head: &str, f: &Figures, attention: &str| {
            let [mass, levels, density] = [f.mass, f.mass_by_levels, f.density].map(percent);
            let line = format!("  {head:<5} {mass:>11} {levels:>11} {:>11.5} {density:>11}  {attention}", f.error);
            let _ = writeln!(text, "{}", line.trim_end());
        };
        for h in &r.heads {
            line(&h.head.to_string(), &h.figures, h.attention.as_deref().unwrap_or("skip"));
        }
        line("mean", &r.mean, "");
    }
    text
}
