//! `attnc search`: the cheapest pattern of each layer and head, measured on given tensors, as a model.
//!
//! One idea: a candidate is measured as it will run, as an arm of a model that imports it, so that what was measured and
//! what is written are one program. Each (layer, candidate) is kept in a file beside the output as soon as it is measured;
//! a bound is applied to what was measured, and costs nothing. Under --max-error every head is for itself; under --budget
//! the least total error is found exactly, by the assignments of which no other is both sparser and better, head
//! by head, unless these become too many (see [`MOST`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use attnc::{Compiler, Isa, Kernel, LoadError, Loader, Options, Select};
use serde::{Deserialize, Serialize};

use crate::args::{Dense, Format, SearchArgs, SetArgs, Target};
use crate::bench::Progress;
use crate::calibration::Calibrated;
use crate::compare::{dense_in_words, name_of, percent};
use crate::files::{self, Disk, STDIN};
use crate::inspect::print_json;
use crate::layers::{self, Device, Layer, Place};
use crate::machine;
use crate::report::{Failure, Outcome, Reporter};
use crate::run::threads;
use crate::subject;
use crate::tensors::TensorFile;

/// Partial assignments that are held at once. Of more, those of nearly equal density are thinned out to the best one:
/// the assignment is within the budget all the same, but may not be the best.
const MOST: usize = 4096;

/// Schema of the state.
const STATE: &str = "attnc.search-state/1";

/// A candidate: its name in the model, and the file to import it from; dense attention needs none.
struct Candidate {
    name: String,
    file: Option<String>,
}

/// What a candidate does on a head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct OfHead {
    /// Relative error against attention to every key and against causal attention; `None` where it is no number.
    errors: [Option<f64>; 2],
    entries: u64,
    ahead: u64,
    predicted_ns: u64,
}

/// A candidate on a layer.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    layer: i64,
    candidate: String,
    /// Pairs of attention to every key and of causal attention.
    pairs: [u64; 2],
    heads: Vec<OfHead>,
}

/// What is kept while a search goes on.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: String,
    /// Of candidates, tensors, sizes and target.
    key: String,
    measured: Vec<Measured>,
}

/// What is printed; the schema is `attnc.search/1`.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    input: String,
    output: String,
    dense: &'static str,
    max_error: Option<f64>,
    budget: Option<f64>,
    /// Whether no assignment within the bound is better.
    exact: bool,
    /// Of (layer, candidate): measured by this command, and before it.
    measured: usize,
    resumed: usize,
    mean_error: f64,
    mean_density: f64,
    predicted_ns: u64,
    dense_predicted_ns: u64,
    layers: Vec<Vec<Chosen>>,
}

/// The pattern of a head.
#[derive(Clone, Debug, Serialize)]
struct Chosen {
    layer: i64,
    head: usize,
    pattern: String,
    error: f64,
    density: f64,
    predicted_ns: u64,
}

pub(crate) fn search(args: &SearchArgs, reporter: Reporter) -> Outcome {
    let threads = threads(args.layers.threads)?;
    let options = options(&args.layers.target)?;
    let device = Device::here();
    let isa = match options.target {
        attnc::Target::Cpu(isa) => isa.unwrap_or(Isa::best()),
        _ => Isa::best(),
    };
    let rates = match Calibrated::known(&args.calibration, isa)? {
        Some(rates) => rates,
        None => Calibrated::built_in(isa, threads.count()),
    };
    let mut file = TensorFile::open(&args.layers.input)?;
    let places = layers::places(&file, &args.layers.layers)?;
    let mut key = Key::new();
    let candidates = candidates(args, &options, reporter, &mut key)?;
    key.tensors(&args.layers.input)?;
    key.text(&format!("{:?} {:?} {:?}", args.layers.size, args.layers.q_start, args.layers.step));
    key.text(&format!("{} {}", args.layers.target, threads.count()));
    let place = state_of(&args.output);
    let mut state = State::read(&place, &key.hex())?;
    let resumed = state.measured.len();
    let progress = Progress::new(places.len() * candidates.len());
    for at in &places {
        let missing = |c: &&Candidate| !state.has(at.layer, &c.name);
        let missing: Vec<&Candidate> = candidates.iter().filter(missing).collect();
        (missing.len()..candidates.len()).for_each(|_| progress.done());
        if missing.is_empty() {
            continue;
        }
        progress.say(&format!("layer {}: dense attention", at.layer));
        let layer = Layer::read(&mut file, at, &args.layers, (&device, &threads))?;
        for candidate in missing {
            progress.say(&format!("layer {}: {}", at.layer, candidate.name));
            let trial = Trial { args, options: &options, layer: &layer, rates: &rates, threads: threads.count() };
            state.measured.push(trial.measure(&mut file, candidate)?);
            state.write(&place)?;
            progress.done();
        }
    }
    progress.finish();
    let measured = state.measured.len() - resumed;

    let ahead = state.measured.iter().filter(|m| m.candidate != "all").flat_map(|m| &m.heads).any(|h| h.ahead > 0);
    let dense = args.layers.dense.unwrap_or(if ahead { Dense::All } else { Dense::Causal });
    let choices = choices(&state, &places, &candidates, dense);
    let (picked, exact) = match (args.max_error, args.budget) {
        (Some(bound), _) => (within_error(&choices, bound), true),
        (None, budget) => within_budget(&choices, budget.unwrap_or(1.0))?,
    };
    let chosen: Vec<Chosen> = picked.iter().zip(&choices).map(|(&i, of_head)| of_head[i].clone()).collect();
    let kv = file_heads(&mut file, &places[0])?;
    let text = model(args, &places, &candidates, &chosen, dense, kv)?;
    let draft = Draft::new(&args.output, text);
    // It is parsed, laid out and compiled before it is written.
    let text = attnc::format(&draft, &draft.name)?.after;
    let draft = Draft { text, ..draft };
    let module = Compiler::new(options).compile(&draft, &draft.name)?;
    let name = module.default_use("")?;
    for at in &places {
        module.kernel(&Select::named(name.as_str()).layer(at.layer).step(args.layers.step))?;
    }
    files::write_all(Some(&args.output), draft.text.as_bytes())?;
    let _ = std::fs::remove_file(&place);

    let count = chosen.len().max(1) as f64;
    let dense_ns = |h: &Vec<Chosen>| h.iter().find(|c| c.pattern == name_of(dense)).map_or(0, |c| c.predicted_ns);
    let report = Report {
        schema: "attnc.search/1",
        input: args.layers.input.display().to_string(),
        output: args.output.display().to_string(),
        dense: name_of(dense),
        max_error: args.max_error,
        budget: args.budget,
        exact,
        measured,
        resumed,
        mean_error: chosen.iter().map(|c| c.error).sum::<f64>() / count,
        mean_density: chosen.iter().map(|c| c.density).sum::<f64>() / count,
        predicted_ns: chosen.iter().map(|c| c.predicted_ns).sum(),
        dense_predicted_ns: choices.iter().map(dense_ns).sum(),
        layers: chosen.chunk_by(|a, b| a.layer == b.layer).map(<[Chosen]>::to_vec).collect(),
    };
    match args.layers.format {
        Format::Json => print_json(&report),
        Format::Human => files::print(&table(&report)),
    }
}

/// Query heads and KV heads of the file.
fn file_heads(file: &mut TensorFile, place: &Place) -> Outcome<(usize, usize)> {
    file.look_behind(place.prefix());
    Ok((file.read("q")?.extents("q")?[1], file.read("k")?.extents("k")?[1]))
}

/// The candidates, checked, and dense attention of both kinds.
fn candidates(args: &SearchArgs, options: &Options, reporter: Reporter, key: &mut Key) -> Outcome<Vec<Candidate>> {
    let mut all: Vec<Candidate> =
        ["all", "causal"].map(|name| Candidate { name: name.to_owned(), file: None }).into_iter().collect();
    for subject in &args.candidates {
        if subject.path == STDIN {
            return Err(Failure::usage("a candidate cannot be standard input", "the model imports it from its file"));
        }
        let module = subject::module(&subject.path, options.clone(), reporter)?;
        let name = subject::name_of(&module, subject)?;
        if module.uses().iter().any(|&(n, kind)| n == name && kind == attnc::Kind::Model) {
            return Err(Failure::usage(
                format!("`{name}` is a model"),
                "candidates are patterns and attentions: name one of its own",
            ));
        }
        if !module.uses().iter().any(|&(n, _)| n == name) {
            // The sentence of the compiler lists what there is.
            module.kernel(&Select::named(name.as_str()))?;
        }
        if all.iter().any(|c| c.name == name) {
            return Err(Failure::usage(
                format!("there are two candidates `{name}`"),
                "one model cannot import both: give one of them another name",
            ));
        }
        for source in module.sources().iter() {
            key.text(&source.name);
            key.text(&source.text);
        }
        key.text(&name);
        let file = beside(&args.output, Path::new(&subject.path));
        all.push(Candidate { name, file: Some(file) });
    }
    Ok(all)
}

/// A file as the output names it: by the way from the output's directory, where there is one.
fn beside(output: &Path, file: &Path) -> String {
    let directory = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(from), Ok(to)) = (directory.canonicalize(), file.canonicalize()) else {
        return file.display().to_string();
    };
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let mut path = PathBuf::new();
    from[common..].iter().for_each(|_| path.push(".."));
    to[common..].iter().for_each(|part| path.push(part));
    path.display().to_string().replace('\\', "/")
}

/// A text that stands where the output will, and the files that it imports.
struct Draft {
    name: String,
    text: String,
}

impl Draft {
    fn new(output: &Path, text: String) -> Draft {
        Draft { name: output.display().to_string(), text }
    }
}

impl Loader for Draft {
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        match from {
            None => Ok((self.name.clone(), self.text.clone().into_bytes())),
            Some(_) => Disk.load(from, path),
        }
    }
}

/// Refuses targets whose time the model does not know.
fn options(target: &Target) -> Outcome<Options> {
    let options = subject::options(&SetArgs::default(), target);
    match options.target {
        attnc::Target::Cpu(_) | attnc::Target::Oracle => Ok(options),
        #[cfg(feature = "gpu")]
        attnc::Target::Gpu(_) => Err(Failure::usage("a search predicts times on CPUs", "use --target cpu")),
    }
}

/// What a candidate is measured with.
struct Trial<'a> {
    args: &'a SearchArgs,
    options: &'a Options,
    layer: &'a Layer<'a>,
    rates: &'a Calibrated,
    threads: usize,
}

impl Trial<'_> {
    fn measure(&self, file: &mut TensorFile, candidate: &Candidate) -> Outcome<Measured> {
        let layer = self.layer.place.layer;
        let (kernel, axis) = self.kernel(candidate, None, self.options)?;
        let data = self.layer.data(file, &kernel, axis.as_deref(), &self.args.layers)?;
        let seen = self.layer.see(&kernel, &data, 0)?;
        let inputs = self.layer.inputs(&data)?;
        // Counting needs no machine code.
        let counting = Options { target: attnc::Target::Oracle, ..self.options.clone() };
        let mut heads = Vec::new();
        for (head, of_head) in seen.heads.iter().enumerate() {
            let (kernel, _) = self.kernel(candidate, Some(head), &counting)?;
            let size = self.layer.dtype.size() as u64;
            let (dv, batch) = (self.layer.dv, self.layer.batch as u64);
            let forecast = kernel.forecast(self.layer.shape, self.layer.kv_heads, dv, size, batch, &inputs)?;
            let predicted_ns = self.rates.predict(&forecast, self.layer.dtype, self.threads);
            let errors = of_head.errors.map(|e| Some(e).filter(|e| e.is_finite()));
            let (entries, ahead) = (of_head.kept.entries, of_head.kept.ahead);
            heads.push(OfHead { errors, entries, ahead, predicted_ns });
        }
        let pairs = [Dense::All, Dense::Causal].map(|dense| self.layer.pairs(dense));
        Ok(Measured { layer, candidate: candidate.name.clone(), pairs, heads })
    }

    /// The candidate on every head, or on one while the others skip; with the axis whose size the tensors tell.
    fn kernel(
        &self,
        candidate: &Candidate,
        only: Option<usize>,
        options: &Options,
    ) -> Outcome<(Kernel, Option<String>)> {
        let (layer, name) = (self.layer.place.layer, &candidate.name);
        let mut text = imports([candidate]);
        let model = unused(name);
        let arms = match only {
            Some(head) => format!("head {head} => {name}\n  _ => skip"),
            None => format!("_ => {name}"),
        };
        // One head is all there are.
        let arms = if self.layer.shape.heads == 1 { format!("_ => {name}") } else { arms };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "model {model}(layers = {}, steps = {}, heads = {} on {}) {{\n  {arms}\n}}",
            layer + 1,
            self.args.layers.step + 1,
            self.layer.shape.heads,
            self.layer.kv_heads
        );
        let draft = Draft::new(&self.args.output, text);
        let module = Compiler::new(options.clone()).compile(&draft, &draft.name)?;
        let kernel = module.kernel(&Select::named(model).layer(layer).step(self.args.layers.step))?;
        Ok((kernel, module.axis().map(str::to_owned)))
    }
}

/// Imports, files in the order in which they were given.
fn imports<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> String {
    let mut files: Vec<(&str, Vec<&str>)> = Vec::new();
    for candidate in candidates {
        let Some(file) = &candidate.file else { continue };
        match files.iter_mut().find(|(known, _)| known == file) {
            Some((_, names)) => names.push(&candidate.name),
            None => files.push((file, vec![&candidate.name])),
        }
    }
    let lines: String =
        files.iter().map(|(file, names)| format!("import {} from \"{file}\"\n", names.join(", "))).collect();
    if lines.is_empty() { lines } else { format!("{lines}\n") }
}

/// A name for the model that no candidate has.
fn unused(name: &str) -> &'static str {
    if name == "found" { "found_model" } else { "found" }
}

/// For each layer and head, what each candidate does; dense attention of the other kind is none.
fn choices(state: &State, places: &[Place], candidates: &[Candidate], dense: Dense) -> Vec<Vec<Chosen>> {
    let i = usize::from(dense == Dense::Causal);
    let other = name_of(if i == 1 { Dense::All } else { Dense::Causal });
    let mut all = Vec::new();
    for place in places {
        let of_layer: Vec<&Measured> = (candidates.iter().filter(|c| c.name != other))
            .filter_map(|c| state.measured.iter().find(|m| m.layer == place.layer && m.candidate == c.name))
            .collect();
        for head in 0..of_layer.first().map_or(0, |m| m.heads.len()) {
            let of_head = of_layer.iter().filter_map(|m| {
                let found = m.heads.get(head)?;
                Some(Chosen {
                    layer: place.layer,
                    head,
                    pattern: m.candidate.clone(),
                    // Dense attention is what errors are measured against.
                    error: found.errors[i].unwrap_or(f64::INFINITY),
                    density: found.entries as f64 / m.pairs[i].max(1) as f64,
                    predicted_ns: found.predicted_ns,
                })
            });
            all.push(of_head.collect());
        }
    }
    all
}

/// The cheapest choice of each head whose error is within the bound; the first, dense attention, has none.
fn within_error(choices: &[Vec<Chosen>], bound: f64) -> Vec<usize> {
    let cheapest = |of_head: &Vec<Chosen>| {
        let fit = (0..of_head.len()).filter(|&i| i == 0 || of_head[i].error <= bound);
        let order = |&i: &usize, &j: &usize| {
            let (a, b) = (&of_head[i], &of_head[j]);
            a.predicted_ns.cmp(&b.predicted_ns).then(a.error.total_cmp(&b.error))
        };
        fit.min_by(order).unwrap_or(0)
    };
    choices.iter().map(cheapest).collect()
}

/// A partial assignment: sums, and how it was reached.
#[derive(Clone, Copy)]
struct Partial {
    density: f64,
    error: f64,
    before: u32,
    choice: u32,
}

/// The assignment of least total error whose mean density is within the budget, and whether that is certain.
///
/// Head by head, the partial assignments are extended by every choice, and those are kept of which no other is both at
/// most as dense and at most as wrong: one of them begins a best assignment.
fn within_budget(choices: &[Vec<Chosen>], budget: f64) -> Outcome<(Vec<usize>, bool)> {
    let most = budget * choices.len() as f64 * (1.0 + 1e-12);
    // What the heads to come need at least.
    let mut rest: Vec<f64> =
        choices.iter().map(|c| c.iter().map(|c| c.density).fold(f64::INFINITY, f64::min)).collect();
    for i in (0..rest.len().saturating_sub(1)).rev() {
        rest[i] += rest[i + 1];
    }
    let mut exact = true;
    let mut steps: Vec<Vec<Partial>> = vec![vec![Partial { density: 0.0, error: 0.0, before: 0, choice: 0 }]];
    for (at, of_head) in choices.iter().enumerate() {
        let room = most - rest.get(at + 1).copied().unwrap_or(0.0);
        let mut next: Vec<Partial> = Vec::new();
        for (before, partial) in (0..).zip(&steps[at]) {
            for (choice, chosen) in (0..).zip(of_head) {
                let (density, error) = (partial.density + chosen.density, partial.error + chosen.error);
                if density <= room && error.is_finite() {
                    next.push(Partial { density, error, before, choice });
                }
            }
        }
        next.sort_by(|a, b| a.density.total_cmp(&b.density).then(a.error.total_cmp(&b.error)));
        let mut best = f64::INFINITY;
        next.retain(|p| {
            let better = p.error < best;
            best = best.min(p.error);
            better
        });
        if next.is_empty() {
            let least = rest.first().copied().unwrap_or(0.0) / choices.len().max(1) as f64;
            return Err(Failure::run(
                "E0742",
                format!("no assignment has a mean density of at most {budget}"),
                format!("the sparsest candidates have {least:.4}: raise --budget, or add sparser ones"),
            ));
        }
        if next.len() > MOST {
            exact = false;
            // The last of each part of the range of densities has its least error.
            let (low, high) = (next[0].density, next[next.len() - 1].density);
            let part = |p: &Partial| ((p.density - low) / (high - low) * (MOST - 1) as f64) as usize;
            next = next.chunk_by(|a, b| part(a) == part(b)).filter_map(|c| c.last().copied()).collect();
        }
        steps.push(next);
    }
    // The densest of the kept has the least error.
    let mut picked = vec![0; choices.len()];
    let mut at = steps.last().map_or(0, |last| last.len().saturating_sub(1));
    for head in (0..choices.len()).rev() {
        let partial = steps[head + 1][at];
        picked[head] = partial.choice as usize;
        at = partial.before as usize;
    }
    Ok((picked, exact))
}

/// The text of the model.
fn model(
    args: &SearchArgs,
    places: &[Place],
    candidates: &[Candidate],
    chosen: &[Chosen],
    dense: Dense,
    (heads, kv_heads): (usize, usize),
) -> Outcome<String> {
    let used: Vec<&Candidate> = candidates.iter().filter(|c| chosen.iter().any(|p| p.pattern == c.name)).collect();
    let bound = match (args.max_error, args.budget) {
        (Some(bound), _) => format!("the cheapest pattern of each head with a relative error of at most {bound}"),
        (None, budget) => format!("the least error with a mean density of at most {}", budget.unwrap_or(1.0)),
    };
    let mut text = format!("// Found by `attnc search`: {bound}.\n// Against {}.\n", dense_in_words(name_of(dense)));
    let count = |of: fn(&Chosen) -> f64, list: &[Chosen]| list.iter().map(of).sum::<f64>() / list.len().max(1) as f64;
    for of_layer in chosen.chunk_by(|a, b| a.layer == b.layer) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "// Layer {}: mean error {:.4}, mean density {:.4}.",
            of_layer[0].layer,
            count(|c| c.error, of_layer),
            count(|c| c.density, of_layer)
        );
    }
    text.push('\n');
    text.push_str(&imports(used.iter().copied()));
    let name = if used.iter().any(|c| c.name == "found") { "found_model" } else { "found" };
    let layers = places.iter().map(|p| p.layer).max().unwrap_or(0) + 1;
    let step = args.layers.step;
    let steps = if step > 0 { format!(", steps = {}", step + 1) } else { String::new() };
    let _ = writeln!(text, "model {name}(layers = {layers}{steps}, heads = {heads} on {kv_heads}) {{");
    for of_layer in chosen.chunk_by(|a, b| a.layer == b.layer) {
        let layer = of_layer[0].layer;
        let mut arms: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        of_layer.iter().for_each(|c| arms.entry(c.pattern.as_str()).or_default().push(c.head));
        let only = if arms.len() == 1 { arms.keys().next() } else { None };
        if let Some(pattern) = only {
            let _ = writeln!(text, "  layer {layer} => {pattern}");
            continue;
        }
        let _ = writeln!(text, "  layer {layer} {{");
        let mut list: Vec<(&str, Vec<usize>)> = arms.into_iter().collect();
        list.sort_by_key(|(_, heads)| heads[0]);
        for (pattern, heads) in list {
            let _ = writeln!(text, "    {} => {pattern}", selector(&heads));
        }
        text.push_str("  }\n");
    }
    if usize::try_from(layers).is_ok_and(|n| places.len() < n) {
        let _ = writeln!(text, "  _ => {}", name_of(dense));
    }
    text.push_str("}\n");
    Ok(text)
}

/// `0 .. 4` or `0 | 2 | 5`; heads ascend.
fn selector(heads: &[usize]) -> String {
    match heads {
        [first, .., last] if last - first + 1 == heads.len() => format!("{first} .. {}", last + 1),
        _ => heads.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
    }
}

/// Where a search keeps what it has measured.
fn state_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".search.json");
    PathBuf::from(name)
}

impl State {
    /// What was left by a search with this key; nothing if there is no file.
    fn read(path: &Path, key: &str) -> Outcome<State> {
        /// Most bytes of a state.
        const BYTES: u64 = 1 << 30;
        let refused = |why: &str| {
            Failure::run(
                "E0741",
                format!("`{}` {why}", path.display()),
                "remove it to begin anew, or name another output",
            )
        };
        let bytes = match files::read_at_most(path, BYTES) {
            Ok(bytes) => bytes,
            Err(LoadError::NotFound) => {
                return Ok(State { schema: STATE.to_owned(), key: key.to_owned(), measured: Vec::new() });
            }
            Err(_) => return Err(refused("cannot be read")),
        };
        let state: State = serde_json::from_slice(&bytes).map_err(|_| refused("is not what a search left"))?;
        if state.schema != STATE {
            return Err(refused("is of another version"));
        }
        if state.key != key {
            return Err(refused("is of a search of other candidates, tensors, sizes or another target"));
        }
        Ok(state)
    }

    fn has(&self, layer: i64, candidate: &str) -> bool {
        self.measured.iter().any(|m| m.layer == layer && m.candidate == candidate)
    }

    fn write(&self, path: &Path) -> Outcome {
        let text = serde_json::to_vec(self)
            .map_err(|e| Failure::run("E0809", format!("the state cannot be written: {e}"), "name another output"))?;
        files::write_all(Some(path), &text)
    }
}

/// A fingerprint: FNV-1a over 64 bits, which tells mistakes apart and withstands no malice.
struct Key(u64);

impl Key {
    fn new() -> Key {
        Key(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// A text, which ends where it ends.
    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    /// All bytes of a file.
    fn tensors(&mut self, path: &Path) -> Outcome {
        let unreadable = |e: std::io::Error| {
            let why = LoadError::Other(e.to_string());
            Failure::file(why.diagnostic(&path.display().to_string(), None))
        };
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        let mut part = vec![0; 1 << 20];
        loop {
            match file.read(&mut part).map_err(unreadable)? {
                0 => return Ok(()),
                n => self.bytes(&part[..n]),
            }
        }
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

fn table(report: &Report) -> String {
    let mut text = format!("{} against {}\n", report.input, dense_in_words(report.dense));
    for of_layer in &report.layers {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        of_layer.iter().for_each(|c| *counts.entry(c.pattern.as_str()).or_default() += 1);
        let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "  layer {}: {}", of_layer.first().map_or(0, |c| c.layer), counts.join(", "));
    }
    let how = if report.exact { "" } else { "; there may be a better one: partial assignments were thinned out" };
    let ratio = report.dense_predicted_ns as f64 / report.predicted_ns.max(1) as f64;
    let _ = writeln!(
        text,
        "mean error {:.5}, mean density {}, predicted {} head by head, {ratio:.2} x dense{how}",
        report.mean_error,
        percent(report.mean_density),
        machine::time(report.predicted_ns)
    );
    let _ =
        writeln!(text, "{}: {} measured, {} from an earlier search", report.output, report.measured, report.resumed);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(pattern: &str, error: f64, density: f64, predicted_ns: u64) -> Chosen {
        Chosen { layer: 0, head: 0, pattern: pattern.to_owned(), error, density, predicted_ns }
    }

    #[test]
    fn the_cheapest_within_the_error_is_chosen() {
        let head = vec![choice("all", 0.0, 1.0, 100), choice("a", 0.1, 0.5, 50), choice("b", 0.3, 0.1, 10)];
        let of = |bound| within_error(std::slice::from_ref(&head), bound)[0];
        assert_eq!((of(0.0), of(0.1), of(0.29), of(0.3)), (0, 1, 1, 2));
    }

    #[test]
    fn a_budget_is_spent_as_trying_every_assignment_would() {
        // Numbers without a pattern, three choices for each of six heads.
        let mut word = 7_u64;
        let mut next = || {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 40) as f64 / (1 << 24) as f64
        };
        let heads: Vec<Vec<Chosen>> = (0..6)
            .map(|_| vec![choice("all", 0.0, 1.0, 0), choice("a", next(), next(), 0), choice("b", next(), next(), 0)])
            .collect();
        for budget in [0.4, 0.5, 0.7, 0.9, 1.0] {
            let mut best = f64::INFINITY;
            for code in 0..3_usize.pow(6) {
                let picked: Vec<&Chosen> = (0..6).map(|h| &heads[h][code / 3_usize.pow(h as u32) % 3]).collect();
                if picked.iter().map(|c| c.density).sum::<f64>() <= budget * 6.0 {
                    best = best.min(picked.iter().map(|c| c.error).sum());
                }
            }
            match within_budget(&heads, budget) {
                Ok((picked, exact)) => {
                    let sum: f64 = picked.iter().zip(&heads).map(|(&i, h)| h[i].error).sum();
                    assert!(exact && (sum - best).abs() < 1e-12, "{budget}: {sum} and {best}");
                }
                Err(_) => assert!(best.is_infinite(), "{budget}"),
            }
        }
    }

    #[test]
    fn heads_are_written_as_ranges_or_lists() {
        assert_eq!(selector(&[0, 1, 2]), "0 .. 3");
        assert_eq!(selector(&[4]), "4");
        assert_eq!(selector(&[0, 2]), "0 | 2");
    }

    #[test]
    fn texts_of_a_key_do_not_run_together() {
        let of = |texts: &[&str]| {
            let mut key = Key::new();
            texts.iter().for_each(|t| key.text(t));
            key.hex()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
