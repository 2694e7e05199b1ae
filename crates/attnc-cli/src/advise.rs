//! `attnc advise`: what would make a pattern cheaper, by how much, and at which price.
//!
//! One idea: nothing is advised that was not tried. Every proposal is a plan or a file with one thing changed, which
//! is compiled and counted; its time is the model's, and the pairs that it adds and removes are found row by row.
//! A change of the schedule (tile, pass) leaves the set equal; a change of a number may not. Nothing here is run.

use std::cell::RefCell;
use std::fmt::Write as _;

use attnc::{
    ChangedRows, Compiler, Difference, Forecast, Inputs, Isa, Kernel, LoadError, Loader, Module, Number, Options,
    Select, Shape,
};
use serde::Serialize;

use crate::args::{AdviseArgs, Format, optional_passes};
use crate::calibration::Calibrated;
use crate::files::{self, Disk};
use crate::inspect::print_json;
use crate::machine;
use crate::report::{Failure, Outcome, Reporter};
use crate::subject::{self, Data};

/// Queries of a tile that a plan may have.
const TILES: [usize; 4] = [16, 32, 48, 64];
/// Most numbers of a file that are tried.
const NUMBERS: usize = 32;
/// Most rows of pairs that are printed of a change.
const ROWS: usize = 4;
/// Seed of run-time data that is not given.
const SEED: u64 = 1;

/// What is printed; the schema is `attnc.advice/1`.
#[derive(Debug, Serialize)]
struct Advice {
    schema: &'static str,
    pattern: String,
    tokens: i64,
    keys: i64,
    threads: usize,
    predicted_ns: u64,
    executed_flops: u64,
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
    /// Share of the time that is saved.
    gain: f64,
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
    let trial = Trial::new(args, &module, &rates)?;
    let base = trial.kernel(&module)?;
    let forecast = trial.forecast(&base)?;
    let now = trial.nanos(&forecast);

    let mut advice = Advice {
        schema: "attnc.advice/1",
        pattern: trial.select.name.clone(),
        tokens: trial.shape.n_q,
        keys: trial.shape.n_k,
        threads: trial.threads,
        predicted_ns: now,
        executed_flops: forecast.cost.executed_flops,
        tried: 0,
        proposals: Vec::new(),
    };
    for change in schedules(&options).into_iter().chain(numbers(&module, &options)) {
        let loader = Edited { disk: &disk, edit: change.edit.as_ref() };
        // A number that another construct refuses is no proposal.
        let Ok(changed) = Compiler::new(change.options).compile(&loader, &args.subject.path) else { continue };
        if changed.tokens(&subject::sizes_of(&trial.data.sizes)).ok() != Some(trial.tokens) {
            continue;
        }
        let Ok(kernel) = trial.kernel(&changed) else { continue };
        if kernel.hash() == base.hash() || kernel.heads() != base.heads() {
            continue;
        }
        let Ok(forecast) = trial.forecast(&kernel) else { continue };
        advice.tried += 1;
        let nanos = trial.nanos(&forecast);
        let gain = 1.0 - nanos as f64 / now.max(1) as f64;
        if gain < args.at_least.max(f64::MIN_POSITIVE) {
            continue;
        }
        let inputs = trial.inputs();
        let pairs = if change.of_set { base.difference(&kernel, trial.shape, &inputs)? } else { Difference::default() };
        let executed_flops = forecast.cost.executed_flops;
        let change = change.text;
        advice.proposals.push(Proposal {
            change,
            predicted_ns: nanos,
            executed_flops,
            gain,
            pairs_added: pairs.added,
            pairs_removed: pairs.removed,
            rows: pairs.rows.into_iter().map(Rows::of).collect(),
            rows_left_out: pairs.left_out,
        });
    }
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

/// What every change is tried on.
struct Trial<'a> {
    args: &'a AdviseArgs,
    rates: &'a Calibrated,
    select: Select,
    shape: Shape,
    kv_heads: i64,
    /// Tokens of a fixed space.
    tokens: Option<i64>,
    data: Data,
    threads: usize,
}

impl<'a> Trial<'a> {
    fn new(args: &'a AdviseArgs, module: &Module, rates: &'a Calibrated) -> Outcome<Trial<'a>> {
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
        Ok(Trial { args, rates, select, shape, kv_heads, tokens, data, threads })
    }

    fn kernel(&self, module: &Module) -> Outcome<Kernel> {
        Ok(module.kernel(&self.select)?)
    }

    fn inputs(&self) -> Inputs<'_> {
        self.data.inputs()
    }

    fn forecast(&self, kernel: &Kernel) -> Outcome<Forecast> {
        let shape = &self.args.shape;
        let (dv, size) = (shape.dv.unwrap_or(shape.dim), shape.dtype.dtype().size() as u64);
        Ok(kernel.forecast(self.shape, self.kv_heads, dv, size, shape.batch.unsigned_abs(), &self.inputs())?)
    }

    fn nanos(&self, forecast: &Forecast) -> u64 {
        self.rates.predict(forecast, self.args.shape.dtype.dtype(), self.threads)
    }
}

/// A change to try.
struct Change {
    text: String,
    options: Options,
    edit: Option<Edit>,
    /// Whether pairs may change.
    of_set: bool,
}

/// A number of the named file, replaced.
struct Edit {
    bytes: std::ops::Range<usize>,
    value: i64,
}

/// Other tiles, and each optional pass switched.
fn schedules(options: &Options) -> Vec<Change> {
    let change = |text: String, plan: attnc::PlanOptions| {
        let options = Options { plan, ..options.clone() };
        Change { text, options, edit: None, of_set: false }
    };
    let mut changes: Vec<Change> = TILES
        .iter()
        .map(|&q| {
            change(format!("tiles of {q} queries"), attnc::PlanOptions { tile_q: Some(q), ..options.plan.clone() })
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
            ("reorder", false) => "in the order given: without the pass `reorder`".to_owned(),
            ("reorder", true) => "in the order in which the set is dense: with the pass `reorder`".to_owned(),
            (name, true) => format!("with the pass `{name}` ({})", pass.about),
            (name, false) => format!("without the pass `{name}` ({})", pass.about),
        };
        changes.push(change(text, plan));
    }
    changes
}

/// Other values of each number that decides the set.
fn numbers(module: &Module, options: &Options) -> Vec<Change> {
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
        for (other, why) in others(value) {
            let mut options = options.clone();
            let (text, edit) = if number.param {
                options.set.push((number.owner.clone(), other.to_string()));
                (format!("`{}` = {other} for {value}: {why}", number.owner), None)
            } else {
                let bytes = number.span.start as usize..number.span.end as usize;
                (at(module, number, other, why), Some(Edit { bytes, value: other }))
            };
            changes.push(Change { text, options, edit, of_set: true });
        }
    }
    changes
}

/// Values beside one, each with what it is: none further away than a third of it.
fn others(value: i64) -> Vec<(i64, &'static str)> {
    const TILE: i64 = 64;
    let mut found: Vec<(i64, &'static str)> = Vec::new();
    let mut add = |other: i64, why| {
        let near = other.abs_diff(value) <= (value / 3).unsigned_abs().max(1);
        if near && other >= 1 && other != value && found.iter().all(|(known, _)| *known != other) {
            found.push((other, why));
        }
    };
    if value >= 2 {
        let down = value / TILE * TILE;
        add(down, "a multiple of 64");
        if value > TILE
            && let Some(up) = down.checked_add(TILE).filter(|_| value % TILE != 0)
        {
            add(up, "a multiple of 64");
        }
        let below = 1_i64 << (63 - value.leading_zeros());
        add(below, "a power of two");
        if let Some(above) = below.checked_mul(2).filter(|_| below != value) {
            add(above, "a power of two");
        }
        add(value - 1, "one less");
    }
    found
}

/// A number of a pattern, changed, in words.
fn at(module: &Module, number: &Number, other: i64, why: &str) -> String {
    let text = module.sources().get(number.span.file).map_or("", |source| source.text.as_ref());
    let before = text.get(..number.span.start as usize).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("`{}`, line {line}, column {column}: {other} for {}: {why}", number.owner, number.value)
}

/// What a loader answers: a canonical name and bytes, or why not.
type Loaded = Result<(String, Vec<u8>), LoadError>;

/// Reads each file once: standard input can be read only once.
#[derive(Default)]
struct Remembering(RefCell<Vec<(Option<String>, String, Loaded)>>);

impl Loader for Remembering {
    fn load(&self, from: Option<&str>, path: &str) -> Loaded {
        let mut known = self.0.borrow_mut();
        if let Some((.., loaded)) = known.iter().find(|(f, p, _)| (f.as_deref(), p.as_str()) == (from, path)) {
            return loaded.clone();
        }
        let loaded = Disk.load(from, path);
        known.push((from.map(str::to_owned), path.to_owned(), loaded.clone()));
        loaded
    }
}

/// Files with a number of the first one changed.
struct Edited<'a> {
    disk: &'a Remembering,
    edit: Option<&'a Edit>,
}

impl Loader for Edited<'_> {
    fn load(&self, from: Option<&str>, path: &str) -> Loaded {
        let (name, mut bytes) = self.disk.load(from, path)?;
        if let (None, Some(edit)) = (from, self.edit)
            && bytes.get(edit.bytes.clone()).is_some()
        {
            bytes.splice(edit.bytes.clone(), edit.value.to_string().into_bytes());
        }
        Ok((name, bytes))
    }
}

fn table(advice: &Advice) -> String {
    let Advice { pattern, tokens, threads, predicted_ns, .. } = advice;
    let mut text =
        format!("{pattern}, {tokens} tokens on {threads} threads: {} predicted\n", machine::time(*predicted_ns));
    if advice.proposals.is_empty() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  nothing of {} changes is cheaper", advice.tried);
    }
    for p in &advice.proposals {
        let _ = writeln!(text, "\n  {}", p.change);
        let _ = writeln!(text, "    {} predicted, {:.1} % less", machine::time(p.predicted_ns), 100.0 * p.gain);
        let _ = match (p.pairs_added, p.pairs_removed) {
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
        let of = |value| others(value).into_iter().map(|(other, _)| other).collect::<Vec<_>>();
        assert_eq!(of(100), [128, 99]);
        assert_eq!(of(64), [63]);
        assert_eq!(of(13), [16, 12]);
        assert_eq!(of(600), [576, 640, 512, 599]);
        assert_eq!((of(2), of(1), of(0), of(-3)), (vec![1], vec![], vec![], vec![]));
        assert!(of(i64::MAX).iter().all(|&v| v >= 1));
    }

    #[test]
    fn one_number_is_replaced() {
        let disk = Remembering::default();
        disk.0.borrow_mut().push((None, "a".to_owned(), Ok(("a".to_owned(), b"k in 0 .. 100".to_vec()))));
        let edit = Edit { bytes: 10..13, value: 64 };
        let load = |edit| Edited { disk: &disk, edit }.load(None, "a").map(|(_, bytes)| bytes).ok();
        assert_eq!(load(Some(&edit)), Some(b"k in 0 .. 64".to_vec()));
        assert_eq!(load(None), Some(b"k in 0 .. 100".to_vec()));
        assert_eq!(load(Some(&Edit { bytes: 90..91, value: 1 })), Some(b"k in 0 .. 100".to_vec()));
    }
}
