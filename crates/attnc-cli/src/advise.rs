//! `attnc advise`: what would make a pattern cheaper, by how much, and at which price.
//!
//! One idea: nothing is advised that was not tried. Every proposal is a plan or a file with one thing changed, which
//! is compiled and counted; its time is the model's, and the pairs that it adds and removes are found row by row.
//! A change of the schedule (tile, pass) leaves the set equal, and so does another layout of a grid's tokens, which is
//! looked at before it is told; a change of a number may not. What the model finds cheaper is then run beside the pattern,
//! and is not told if it takes longer.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use attnc::{
    Along, ChangedRows, Compiler, Difference, Inputs, Isa, Kernel, Layout, Limit, Module, Number, Options, Problem,
    Resources, Select, Shape, Span, Strides, Tensor, TensorMut, Threads, Upcoming,
};
use serde::Serialize;

use crate::args::{AdviseArgs, Format, optional_passes};
use crate::calibration::Calibrated;
use crate::files;
use crate::inspect::print_json;
use crate::machine;
use crate::report::{Failure, Outcome, Reporter};
use crate::sources::{Edit, Edited, Remembering};
use crate::subject::{self, Data};
use crate::tensors;

/// Queries of a tile that a plan may have.
const TILES: [usize; 4] = [16, 32, 48, 64];
/// Strides that the windows of a neighbourhood may move by: on a line, and on each axis of a grid.
const STRIDES: [i64; 5] = [2, 4, 8, 16, 64];
const STRIDES_OF_GRIDS: [i64; 3] = [2, 4, 8];
/// Most numbers of a file that are tried.
const NUMBERS: usize = 32;
/// Most rows of pairs that are printed of a change.
const ROWS: usize = 4;
/// Most runs of the pattern and of a change, in turn, and what those of all changes may take before no further one begins;
/// each has one that counts.
const RUNS: usize = 5;
const RACES: Duration = Duration::from_secs(2);
/// Launches that are predicted to take longer are not run.
const MOST_NANOS: u64 = 300_000_000;
/// Seed of run-time data that is not given.
const SEED: u64 = 1;

/// What is printed; the schema is `attnc.advice/2`.
#[derive(Debug, Serialize)]
struct Advice {
    schema: &'static str,
    pattern: String,
    /// The layer, of a model.
    layer: Option<i64>,
    tokens: i64,
    keys: i64,
    threads: usize,
    predicted_ns: u64,
    executed_flops: u64,
    entries: u64,
    /// Data decide what is attended to: what is counted is the most that there can be, and sets are left as they are.
    chosen_by_data: bool,
    /// Changes that were tried.
    tried: usize,
    proposals: Vec<Proposal>,
}

/// One change.
#[derive(Clone, Debug, Serialize)]
struct Proposal {
    /// What to change, in words.
    change: String,
    predicted_ns: u64,
    executed_flops: u64,
    entries: u64,
    /// Share of the predicted time that is saved.
    gain: f64,
    /// What the pattern and the change took, run in turn; `None` where they were not run.
    measured_ns: Option<(u64, u64)>,
    /// The tokens lie otherwise, and pairs are told as equal where they are pairs of the same tokens.
    laid_out: bool,
    /// Pairs of one batch item that it adds and removes.
    pairs_added: u64,
    pairs_removed: u64,
    /// Which pairs these are.
    rows: Vec<Rows>,
    /// Rows that change and are not listed, of which there would be too many.
    rows_left_out: u64,
}

/// Neighbouring queries whose keys change alike: first and last position of queries and of each range of keys.
#[derive(Clone, Debug, Serialize)]
struct Rows {
    heads: Vec<usize>,
    queries: (i64, i64),
    /// Keys are told by `k - q`.
    relative: bool,
    added: Vec<(i64, i64)>,
    removed: Vec<(i64, i64)>,
    #[serde(skip)]
    text: String,
}

impl Rows {
    fn of(rows: ChangedRows) -> Rows {
        let text = rows.text();
        let ChangedRows { heads, queries, relative, added, removed } = rows;
        Rows { heads, queries, relative, added, removed, text }
    }
}

pub(crate) fn advise(args: &AdviseArgs, reporter: Reporter) -> Outcome {
    let options = subject::options(&args.set, &args.target);
    let isa = match options.target {
        attnc::Target::Cpu(isa) => isa.unwrap_or(Isa::best()),
        attnc::Target::Oracle => return Err(Failure::usage("the oracle has no schedule", "use --target cpu")),
        #[cfg(feature = "gpu")]
        attnc::Target::Gpu(_) => return Err(Failure::usage("advice is given for CPUs", "use --target cpu")),
    };
    let rates = Calibrated::known_or_measured(&args.calibration, isa)?;
    // Plans and counts need no machine code.
    let options = Options { target: attnc::Target::Oracle, ..options };
    let disk = Remembering::default();
    let module = Compiler::new(options.clone()).compile(&disk, &args.subject.path)?;
    reporter.print(&module.warnings());
    let trial = Trial::new(args, &module, &rates, &disk)?;
    let base = Base::new(&trial, &module)?;
    let by_data = base.kernel.attentions().iter().any(|&a| base.kernel.program().is_dynamic(a));

    let mut changes = schedules(&options);
    if !by_data {
        changes.extend(layouts(&module, &options));
        changes.extend(strides(&module, &options));
        changes.extend(numbers(&module, &options, &trial.data.sizes));
    }
    let found = side_by_side(&changes, |change| trial.counted(&base, change));
    let tried = found.iter().flatten().count();
    let kept = changes.iter().zip(found.into_iter().map(Option::flatten));
    let mut kept: Vec<(&Change, Counted)> = kept.filter_map(|(change, counted)| Some((change, counted?))).collect();
    // Of one thing the change is told that saves most.
    kept.sort_by_key(|(_, counted)| counted.nanos);
    let mut things: Vec<&str> = Vec::new();
    kept.retain(|(change, _)| {
        let first = !things.contains(&change.of.as_str());
        things.push(&change.of);
        first
    });
    let proposals = side_by_side(&kept, |(change, counted)| trial.told(&base, change, counted));
    let mut proposals: Vec<Proposal> = proposals.into_iter().collect::<Outcome<_>>()?;
    if !args.no_run && base.counted.nanos <= MOST_NANOS {
        let share = RACES / u32::try_from(kept.len()).unwrap_or(u32::MAX).max(1);
        for ((change, _), proposal) in kept.iter().zip(&mut proposals) {
            proposal.measured_ns = trial.raced(&options, change, isa, share)?;
        }
        proposals.retain(|p| p.measured_ns.is_none_or(|(before, after)| after < before));
    }
    let mut advice = Advice {
        schema: "attnc.advice/2",
        pattern: trial.select.name.clone(),
        layer: base.kernel.heads().map(|_| trial.select.layer),
        tokens: trial.shape.n_q,
        keys: trial.shape.n_k,
        threads: trial.threads,
        predicted_ns: base.counted.nanos,
        executed_flops: base.counted.executed_flops,
        entries: base.counted.entries,
        chosen_by_data: by_data,
        tried,
        proposals,
    };
    // What changes no pair comes first, then what saves most.
    advice.proposals.sort_by(|a, b| {
        let pairs = |p: &Proposal| p.pairs_added + p.pairs_removed > 0;
        pairs(a).cmp(&pairs(b)).then(a.predicted_ns.cmp(&b.predicted_ns))
    });
    match args.format {
        Format::Json => print_json(&advice),
        Format::Human => files::print(&table(&advice)),
    }
}

/// What `work` makes of each of a list, in its order, on all cores.
fn side_by_side<T: Sync, R: Send>(list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(list.len()));
    std::thread::scope(|scope| {
        for _ in 0..machine::cores().min(list.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = list.get(at) else { break };
                    let made = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, made));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, made)| made).collect()
}

/// What every change is tried on.
struct Trial<'a> {
    args: &'a AdviseArgs,
    rates: &'a Calibrated,
    disk: &'a Remembering,
    select: Select,
    shape: Shape,
    kv_heads: i64,
    /// Tokens of a fixed space.
    tokens: Option<i64>,
    data: Data,
    threads: usize,
}

/// The pattern as it is.
struct Base {
    kernel: Kernel,
    counted: Counted,
}

impl Base {
    fn new(trial: &Trial<'_>, module: &Module) -> Outcome<Base> {
        let kernel = module.kernel(&trial.select)?;
        let counted = trial.count(&kernel, f64::INFINITY)?.unwrap_or_default();
        Ok(Base { kernel, counted })
    }
}

/// What a launch takes, as the model has it.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    nanos: u64,
    executed_flops: u64,
    entries: u64,
}

impl Counted {
    fn gain(&self, base: &Base) -> f64 {
        let saved = base.counted.nanos as f64 - self.nanos as f64;
        saved / base.counted.nanos.max(1) as f64
    }

    /// Whether a change saves enough to be told of. That fewer pairs take less time goes without saying: of those that are
    /// left, one has to take less too.
    fn is_worth(&self, base: &Base, change: &Change, at_least: f64) -> bool {
        let at_least = at_least.max(f64::MIN_POSITIVE);
        let left = self.entries as f64 / base.counted.entries.max(1) as f64;
        let of_one = 1.0 - (1.0 - self.gain(base)) / left.clamp(f64::MIN_POSITIVE, 1.0);
        self.gain(base) >= at_least && (!matches!(change.pairs, Pairs::Differ) || of_one >= at_least)
    }
}

impl<'a> Trial<'a> {
    fn new(args: &'a AdviseArgs, module: &Module, rates: &'a Calibrated, disk: &'a Remembering) -> Outcome<Trial<'a>> {
        let name = subject::name_of(module, &args.subject)?;
        let (n_q, n_k) = subject::lengths(module, &args.lengths, &args.sizes)?;
        let kernel = subject::kernel(module, &name, &args.sizes)?;
        let (heads, kv_heads) = subject::heads(&kernel, args.shape.heads, args.shape.kv_heads)?;
        let shape = Shape { n_q, n_k, heads, dim: args.shape.dim };
        let mut data = Data::new(&args.sizes, n_q.max(n_k));
        data.fill(&kernel.wants(shape, &subject::sizes_of(&data.sizes))?, shape, SEED)?;
        let tokens = module.tokens(&subject::sizes_of(&data.sizes))?;
        let select = Select::named(name).layer(args.sizes.layer).step(args.sizes.step);
        let threads = args.threads.map_or_else(machine::cores, |t| usize::try_from(t).unwrap_or(usize::MAX));
        Ok(Trial { args, rates, disk, select, shape, kv_heads, tokens, data, threads })
    }

    fn inputs(&self) -> Inputs<'_> {
        self.data.inputs()
    }

    /// What a launch takes; `None` if it is certain to take longer than `most` nanoseconds.
    fn count(&self, kernel: &Kernel, most: f64) -> Outcome<Option<Counted>> {
        let shape = &self.args.shape;
        let (dim_v, dtype) = (shape.dv.unwrap_or(shape.dim), self.args.dtype.dtype());
        let (element, batch, inputs) = (dtype.size() as u64, shape.batch.unsigned_abs(), &self.inputs());
        let launch = Upcoming { shape: self.shape, kv_heads: self.kv_heads, dim_v, element, batch, inputs };
        let machine = self.rates.machine(dtype);
        let limit = Limit { machine: &machine, threads: self.threads, nanos: most };
        let Some(forecast) = kernel.forecast_within(&launch, limit)? else { return Ok(None) };
        let nanos = self.rates.predict(&forecast, dtype, self.threads);
        let cost = forecast.cost;
        Ok(Some(Counted { nanos, executed_flops: cost.executed_flops, entries: cost.entries }))
    }

    /// The kernel of a changed file or plan; `None` if another construct refuses it, or it is of other tokens.
    fn changed(&self, base: &Base, change: &Change) -> Option<Kernel> {
        let loader = Edited { disk: self.disk, edits: &change.edits };
        let module = Compiler::new(change.options.clone()).compile(&loader, &self.args.subject.path).ok()?;
        let tokens = module.tokens(&subject::sizes_of(&self.data.sizes)).ok()?;
        let kernel = module.kernel(&self.select).ok()?;
        (tokens == self.tokens && kernel.heads() == base.kernel.heads()).then_some(kernel)
    }

    /// What a change takes, if it is one; in it `None` if that is not worth it. A layout counts as one where the set
    /// stays what it is.
    fn counted(&self, base: &Base, change: &Change) -> Option<Option<Counted>> {
        let kernel = self.changed(base, change)?;
        // To look at every pair takes longer than to know which there are, to run as to count.
        if kernel.hash() == base.kernel.hash() || (kernel.tests_all() && !base.kernel.tests_all()) {
            return None;
        }
        // Most changes are no gain, which is known long before all of one is counted; times are whole nanoseconds.
        let most = base.counted.nanos as f64 * (1.0 - self.args.at_least) + 1.0;
        let counted = self.count(&kernel, most).ok()?;
        let Some(counted) = counted.filter(|c| c.is_worth(base, change, self.args.at_least)) else { return Some(None) };
        if let Pairs::LaidOut(layout) = &change.pairs {
            let same = base.kernel.same_laid_out(&kernel, layout, self.shape, &self.inputs());
            same.ok().filter(|same| *same)?;
        }
        Some(Some(counted))
    }

    /// A change that is worth it, with the pairs that it adds and removes.
    fn told(&self, base: &Base, change: &Change, counted: &Counted) -> Outcome<Proposal> {
        let mut pairs = Difference::default();
        if matches!(change.pairs, Pairs::Differ)
            && let Some(kernel) = self.changed(base, change)
        {
            pairs = base.kernel.difference(&kernel, self.shape, &self.inputs())?;
        }
        Ok(Proposal {
            change: change.text.clone(),
            predicted_ns: counted.nanos,
            executed_flops: counted.executed_flops,
            entries: counted.entries,
            gain: counted.gain(base),
            measured_ns: None,
            laid_out: matches!(change.pairs, Pairs::LaidOut(_)),
            pairs_added: pairs.added,
            pairs_removed: pairs.removed,
            rows: pairs.rows.into_iter().map(Rows::of).collect(),
            rows_left_out: pairs.left_out,
        })
    }
}

impl Trial<'_> {
    /// What the pattern and a change of it take on this machine, the best of a few runs; `None` if it cannot run them.
    fn raced(&self, options: &Options, change: &Change, isa: Isa, share: Duration) -> Outcome<Option<(u64, u64)>> {
        let compiled = |options: &Options, edits: &[Edit]| {
            let options = Options { target: attnc::Target::Cpu(Some(isa)), ..options.clone() };
            let loader = Edited { disk: self.disk, edits };
            let module = Compiler::new(options).compile(&loader, &self.args.subject.path).ok()?;
            module.kernel(&self.select).ok()
        };
        let kernels = (compiled(options, &[]), compiled(&change.options, &change.edits));
        let (Some(before), Some(after)) = kernels else { return Ok(None) };
        let extent = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        let (shape, of) = (self.shape, &self.args.shape);
        let (dtype, d_v) = (self.args.dtype.dtype(), of.dv.unwrap_or(of.dim));
        let dims = |heads: i64, n: i64, d: i64| [of.batch, heads, n, d].map(extent);
        let (of_q, of_k) = (dims(shape.heads, shape.n_q, of.dim), dims(self.kv_heads, shape.n_k, of.dim));
        let (of_v, of_out) = (dims(self.kv_heads, shape.n_k, d_v), dims(shape.heads, shape.n_q, d_v));
        let made = |of, seed| tensors::normal(dtype, of, seed);
        let (q, k, v, mut out) = (made(of_q, 1)?, made(of_k, 2)?, made(of_v, 3)?, made(of_out, 4)?);
        let layout = |e: attnc::LayoutError| tensors::layout("q", &e);
        let mut problem = Problem {
            q: Tensor::contiguous(q.data.bytes(), dtype, of_q).map_err(layout)?,
            k: Tensor::contiguous(k.data.bytes(), dtype, of_k).map_err(layout)?,
            v: Tensor::contiguous(v.data.bytes(), dtype, of_v).map_err(layout)?,
            out: TensorMut::contiguous(out.data.bytes_mut(), dtype, of_out).map_err(layout)?,
            lse: None,
            inputs: self.inputs(),
        };
        let threads = Threads::new(self.threads).map_err(attnc::Diagnostics::from)?;
        let mut best = [u64::MAX; 2];
        // The first run of each touches memory for the first time.
        let started = Instant::now();
        for run in 0..=RUNS {
            if run > 1 && started.elapsed() >= share {
                break;
            }
            for (kernel, best) in [&before, &after].into_iter().zip(&mut best) {
                let begin = Instant::now();
                let resources = Resources { threads: Some(&threads), ..Resources::default() };
                if kernel.run(&mut problem, resources).is_err() {
                    return Ok(None);
                }
                if run > 0 {
                    *best = machine::nanos(begin).min(*best);
                }
            }
        }
        Ok(Some((best[0], best[1])))
    }
}

/// A change to try.
struct Change {
    text: String,
    /// What it changes; of one thing one change is told.
    of: String,
    options: Options,
    edits: Vec<Edit>,
    pairs: Pairs,
}

/// What becomes of the pairs.
enum Pairs {
    /// They stay: it is another schedule.
    Same,
    /// They may differ.
    Differ,
    /// They stay pairs of the same tokens, which lie otherwise.
    LaidOut(Layout),
}

/// Other tiles, and each optional pass switched.
fn schedules(options: &Options) -> Vec<Change> {
    let change = |of: &str, text: String, plan: attnc::PlanOptions| {
        let options = Options { plan, ..options.clone() };
        Change { text, of: of.to_owned(), options, edits: Vec::new(), pairs: Pairs::Same }
    };
    let mut changes: Vec<Change> = TILES
        .iter()
        .map(|&q| {
            let plan = attnc::PlanOptions { tile_q: Some(q), ..options.plan.clone() };
            change("pass tile", format!("tiles of {q} queries: `--tile {q}`"), plan)
        })
        .collect();
    for pass in optional_passes() {
        let mut plan = options.plan.clone();
        let off = plan.without.iter().any(|name| name == pass.name);
        plan.without.retain(|name| name != pass.name);
        if !off {
            plan.without.push(pass.name.to_owned());
        }
        let text = match (pass.name, off) {
            ("reorder", false) => "in the order given: `--no-pass reorder`".to_owned(),
            ("reorder", true) => "in the order in which the set is dense: with the pass `reorder`".to_owned(),
            (name, true) => format!("with the pass `{name}` ({})", pass.about),
            (name, false) => format!("without the pass `{name}` ({}): `--no-pass {name}`", pass.about),
        };
        changes.push(change(&format!("pass {}", pass.name), text, plan));
    }
    changes
}

/// Other orders of a grid's tokens.
fn layouts(module: &Module, options: &Options) -> Vec<Change> {
    let change = |layout: Layout| {
        let text = match &layout.along {
            Along::Axes(axes) => format!("lay the tokens of `{}` out as ({})", layout.segment, axes.join(", ")),
            Along::Order(name) => format!("lay the tokens of `{}` out along `{name}`", layout.segment),
        };
        let edits = layout.edits.iter().map(Edit::of).collect();
        let of = format!("layout {}", layout.segment);
        Change { text, of, options: options.clone(), edits, pairs: Pairs::LaidOut(layout) }
    };
    module.layouts().into_iter().map(change).collect()
}

/// Windows of neighbourhoods that groups of queries share.
fn strides(module: &Module, options: &Options) -> Vec<Change> {
    let change = |near: &Strides, stride: i64| {
        let place = near.places.first().map_or_else(String::new, |span| place(module, *span));
        let on = if near.places.len() > 1 { " on each of its axes" } else { "" };
        Change {
            text: format!(
                "`near` of `{}`, {place}: `by {stride}`{on}: groups of queries share their windows",
                near.owner
            ),
            of: format!("near {place}"),
            options: options.clone(),
            edits: near.edits(stride).iter().map(Edit::of).collect(),
            pairs: Pairs::Differ,
        }
    };
    let mut changes = Vec::new();
    for near in module.strides() {
        let strides = if near.places.len() > 1 { &STRIDES_OF_GRIDS[..] } else { &STRIDES };
        changes.extend(strides.iter().map(|&stride| change(&near, stride)));
    }
    changes
}

/// Other values of each number that decides the set.
fn numbers(module: &Module, options: &Options, sizes: &[(String, i64)]) -> Vec<Change> {
    let mut changes = Vec::new();
    for number in module.numbers().iter().take(NUMBERS) {
        let given = options.set.iter().rfind(|(name, _)| number.param && *name == number.owner);
        let value = match given {
            Some((_, text)) => match text.parse() {
                Ok(value) => value,
                Err(_) => continue,
            },
            None => number.value,
        };
        for (other, why) in others(value, sizes) {
            let mut options = options.clone();
            let (text, edits) = if number.param {
                options.set.push((number.owner.clone(), other.to_string()));
                (format!("`{}` = {other} for {value}: {why}", number.owner), vec![])
            } else {
                let edit = Edit::of(&(number.span, other.to_string()));
                (at(module, number, other, &why), vec![edit])
            };
            let of = format!("number {}", number.span.start);
            changes.push(Change { text, of, options, edits, pairs: Pairs::Differ });
        }
    }
    changes
}

/// Values beside one, each with what it is: none further away than a third of it.
fn others(value: i64, sizes: &[(String, i64)]) -> Vec<(i64, Cow<'static, str>)> {
    let mut found: Vec<(i64, Cow<'static, str>)> = Vec::new();
    let mut add = |other: i64, why: Cow<'static, str>| {
        let near = other.abs_diff(value) <= (value / 3).unsigned_abs().max(1);
        if near && other >= 1 && other != value && found.iter().all(|(known, _)| *known != other) {
            found.push((other, why));
        }
    };
    for (name, size) in sizes {
        add(*size, format!("`{name}`").into());
    }
    if value >= 2 {
        // Tiles of keys, and queries that visit a key together.
        for (unit, why) in [(64, "a multiple of 64"), (16, "a multiple of 16")] {
            let down = value / unit * unit;
            add(down, why.into());
            if let Some(up) = down.checked_add(unit).filter(|_| value > unit && value % unit != 0) {
                add(up, why.into());
            }
        }
        let below = 1_i64 << (63 - value.leading_zeros());
        add(below, "a power of two".into());
        if let Some(above) = below.checked_mul(2).filter(|_| below != value) {
            add(above, "a power of two".into());
        }
    }
    found
}

/// A number of a pattern, changed, in words.
fn at(module: &Module, number: &Number, other: i64, why: &str) -> String {
    format!("`{}`, {}: {other} for {}: {why}", number.owner, place(module, number.span), number.value)
}

/// Where a span begins, in words.
fn place(module: &Module, span: Span) -> String {
    let text = module.sources().get(span.file).map_or("", |source| source.text.as_ref());
    let before = text.get(..span.start as usize).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("line {line}, column {column}")
}

fn table(advice: &Advice) -> String {
    let Advice { pattern, tokens, threads, predicted_ns, .. } = advice;
    let layer = advice.layer.map_or_else(String::new, |layer| format!(", layer {layer}"));
    let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let mut text =
        format!("{pattern}{layer}, {tokens} tokens on {threads}: {} predicted\n", machine::time(*predicted_ns));
    // Writing to a string does not fail.
    if advice.chosen_by_data {
        let _ = writeln!(text, "  data decide what is attended to: the most is counted, and the set is left as it is");
    }
    if advice.proposals.is_empty() {
        let _ = writeln!(text, "  nothing of {} changes is cheaper", advice.tried);
    }
    for p in &advice.proposals {
        let _ = writeln!(text, "\n  {}", p.change);
        let _ = writeln!(text, "    {} predicted, {:.1} % less", machine::time(p.predicted_ns), 100.0 * p.gain);
        if let Some((before, after)) = p.measured_ns {
            let _ = writeln!(text, "    {} measured, against {} as it is", machine::time(after), machine::time(before));
        }
        let _ = match (p.pairs_added, p.pairs_removed) {
            (0, 0) if p.laid_out => writeln!(text, "    the set stays equal: each token attends to the same ones"),
            (0, 0) => writeln!(text, "    the set stays equal"),
            (added, removed) => writeln!(text, "    {added} pairs added, {removed} removed"),
        };
        // Of which heads is said where it is not all.
        let heads = p.rows.iter().flat_map(|rows| &rows.heads).max().map_or(0, |head| head + 1);
        for rows in p.rows.iter().take(ROWS) {
            let of: Vec<String> = rows.heads.iter().map(usize::to_string).collect();
            let of = if of.len() < heads { format!("head {}, ", of.join(" ")) } else { String::new() };
            let _ = writeln!(text, "      {of}{}", rows.text);
        }
        let queries = |rows: &Rows| rows.queries.0.abs_diff(rows.queries.1) + 1;
        let left = p.rows.iter().skip(ROWS).map(queries).sum::<u64>().saturating_add(p.rows_left_out);
        if left > 0 {
            let _ = writeln!(text, "      and {left} rows more, which --format json lists");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beside_one() {
        let of = |value| others(value, &[]).into_iter().map(|(other, _)| other).collect::<Vec<_>>();
        assert_eq!(of(100), [128, 96, 112]);
        assert!(of(64).is_empty());
        assert_eq!(of(13), [16]);
        assert_eq!(of(600), [576, 640, 592, 608, 512]);
        assert_eq!((of(3), of(2), of(1), of(-3)), (vec![2, 4], vec![], vec![], vec![]));
        assert!(of(i64::MAX).iter().all(|&v| v >= 1));
        // The extent of an axis is one of them, if it is near.
        let sizes = [("image.h".to_owned(), 14), ("image.w".to_owned(), 40)];
        assert_eq!(others(13, &sizes)[0], (14, "`image.h`".into()));
        assert_eq!(others(13, &sizes).len(), 2);
    }

    #[test]
    fn work_side_by_side_keeps_its_order() {
        let list: Vec<u64> = (0..100).collect();
        assert_eq!(side_by_side(&list, |x| x * x), list.iter().map(|x| x * x).collect::<Vec<_>>());
        assert!(side_by_side(&[] as &[u64], |x| *x).is_empty());
    }

    #[test]
    fn fewer_pairs_have_to_take_less_each() {
        let counted = |nanos, entries| Counted { nanos, executed_flops: 0, entries };
        let module = Compiler::new(Options { target: attnc::Target::Oracle, ..Options::default() });
        let module = module.source("pattern p = causal\n").expect("compiles");
        let kernel = module.kernel(&Select::named("p")).expect("is planned");
        let base = Base { kernel, counted: counted(1000, 100) };
        let worth = |pairs, nanos, entries| {
            let (text, of, options) = (String::new(), String::new(), Options::default());
            let change = Change { text, of, options, edits: vec![], pairs };
            counted(nanos, entries).is_worth(&base, &change, 0.02)
        };
        assert!(worth(Pairs::Same, 980, 100) && !worth(Pairs::Same, 990, 100));
        // Less time and as many pairs, or more.
        assert!(worth(Pairs::Differ, 980, 100) && worth(Pairs::Differ, 980, 120));
        // A tenth of the pairs less saves a tenth of the time in any case.
        assert!(!worth(Pairs::Differ, 900, 90) && worth(Pairs::Differ, 850, 90));
        assert!(!worth(Pairs::Differ, 500, 0));
    }
}
