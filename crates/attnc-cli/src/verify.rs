//! `attnc verify`: every target against the oracle.
//!
//! One idea: a case is chosen without knowing the pattern. Lengths around the sizes of tiles, odd dimensions, all
//! element types, grouped heads, other starts, windows of queries over many keys; sizes of a space from a small
//! table. What the pattern's `require` refuses is skipped and counted, never forced. Each target runs with one
//! thread and with two, which must agree bit for bit, and is compared with the oracle within the one tolerance.

use std::fmt::Write as _;

use attnc::{Compiler, DType, Isa, Kernel, Kind, Module, Options, Output, Report, Resources, Select, Shape, Threads};

use crate::args::{PassArgs, SetArgs, SizeArgs, Subject, Target, VerifyArgs, optional_passes};
use crate::files::{self, Disk};
use crate::report::{Failure, Outcome, Reporter, exit};
use crate::run::{Given, Results, padding, threads};
use crate::subject::{self, Data};
use crate::tensors::{self, TensorFile};

/// Pairs that the oracle looks at in one case, at most.
const PAIRS: i64 = 1_000_000;

/// Dimensions, type, heads and batch of a case; used in turn.
struct Form {
    dim: usize,
    dv: usize,
    dtype: DType,
    heads: i64,
    kv_heads: i64,
    batch: usize,
}

const FORMS: &[Form] = &[
    Form { dim: 16, dv: 16, dtype: DType::F32, heads: 2, kv_heads: 1, batch: 1 },
    Form { dim: 24, dv: 20, dtype: DType::F16, heads: 2, kv_heads: 2, batch: 1 },
    Form { dim: 33, dv: 17, dtype: DType::F32, heads: 3, kv_heads: 1, batch: 1 },
    Form { dim: 32, dv: 32, dtype: DType::Bf16, heads: 4, kv_heads: 2, batch: 1 },
    Form { dim: 64, dv: 64, dtype: DType::F32, heads: 2, kv_heads: 1, batch: 1 },
    Form { dim: 80, dv: 48, dtype: DType::F16, heads: 2, kv_heads: 1, batch: 2 },
    Form { dim: 17, dv: 70, dtype: DType::Bf16, heads: 2, kv_heads: 2, batch: 1 },
];

/// Lengths of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lengths {
    n_q: i64,
    n_k: i64,
    /// `None` leaves the place of the queries to the pattern.
    q_start: Option<i64>,
}

/// Lengths where the space is open.
const OPEN: &[Lengths] = &[
    Lengths { n_q: 1, n_k: 1, q_start: None },
    Lengths { n_q: 17, n_k: 17, q_start: None },
    Lengths { n_q: 64, n_k: 64, q_start: None },
    Lengths { n_q: 65, n_k: 65, q_start: None },
    Lengths { n_q: 127, n_k: 127, q_start: None },
    Lengths { n_q: 200, n_k: 200, q_start: None },
    Lengths { n_q: 257, n_k: 257, q_start: None },
    // Other places: the end of a longer sequence, its middle, one query over many keys.
    Lengths { n_q: 37, n_k: 150, q_start: Some(113) },
    Lengths { n_q: 70, n_k: 1000, q_start: Some(465) },
    Lengths { n_q: 1, n_k: 300, q_start: Some(299) },
    // Windows far into a sequence longer than usual windows and strides.
    Lengths { n_q: 40, n_k: 5000, q_start: Some(0) },
    Lengths { n_q: 40, n_k: 5000, q_start: Some(2480) },
    Lengths { n_q: 40, n_k: 5000, q_start: Some(4960) },
];

/// Values for the sizes of a program, the j-th size taking the j-th of a row.
const SIZES: &[&[i64]] = &[&[5, 3, 7, 4], &[1, 1, 1, 1], &[8, 8, 8, 8], &[2, 11, 13, 3], &[13, 12, 20, 6]];

/// The same for programs that refuse all of those, tried until one is accepted.
const LARGE: &[&[i64]] = &[&[64, 40, 2, 9], &[2, 40, 64, 9], &[128, 128, 1, 1], &[1, 128, 128, 1], &[64, 64, 64, 64]];

pub(crate) fn verify(args: &VerifyArgs, reporter: Reporter) -> Outcome {
    let pools = [threads(Some(1))?, threads(Some(2))?];
    let mut passed = true;
    for (subject, group) in args.subjects.iter().flat_map(|s| groups(args).into_iter().map(move |g| (s, g))) {
        let targets = targets(args, subject, &group, reporter)?;
        if targets.is_empty() {
            continue;
        }
        let names = match &subject.name {
            Some(name) => vec![name.clone()],
            None if args.input.is_some() => vec![subject::name_of(&targets[0].module, subject)?],
            None => targets[0].module.uses().into_iter().map(|(name, _)| name.to_owned()).collect(),
        };
        for name in names {
            let mut tally = Tally::new(&targets);
            for select in selections(&targets[0].module, &name)? {
                match &args.input {
                    Some(_) => given(args, &targets, &select, &pools, &mut tally)?,
                    None => sampled(args, &targets, &select, &pools, &mut tally)?,
                }
            }
            if tally.cases == 0 {
                let Tally { refused, reason, .. } = &tally;
                let message = format!("`{name}` refuses each of the {refused} sizes tried, the last by {reason}");
                return Err(Failure::run(
                    "E0736",
                    message,
                    "give the sizes it is for: --size NAME=V, or --input T.safetensors",
                ));
            }
            files::print(&tally.text(&name))?;
            passed &= tally.passed();
        }
    }
    if passed { Ok(()) } else { Err(Failure::silent(exit::DIAGNOSTICS)) }
}

/// A module compiled for one target.
struct Compiled {
    name: String,
    module: Module,
    /// The only type of tensors that it takes, if so.
    dtype: Option<DType>,
    #[cfg(feature = "gpu")]
    gpu: Option<std::rc::Rc<attnc::gpu::Gpu>>,
}

impl Compiled {
    fn is_gpu(&self) -> bool {
        #[cfg(feature = "gpu")]
        return self.gpu.is_some();
        #[cfg(not(feature = "gpu"))]
        false
    }
}

/// Targets that are verified on the same tensors.
#[derive(Clone)]
enum Group {
    /// Every instruction set of this machine.
    Cpus,
    /// One target, with tensors of any type.
    One(Target),
    /// A GPU's variants that take f16 alone.
    #[cfg(feature = "gpu")]
    Halves(crate::args::GpuName),
}

/// What is verified one after the other.
fn groups(args: &VerifyArgs) -> Vec<Group> {
    match &args.target {
        None => vec![Group::Cpus],
        #[cfg(feature = "gpu")]
        Some(Target::Gpu(name)) => {
            use attnc::gpu::Variant;
            let portable = || Target::Gpu(crate::args::GpuName { variant: Some(Variant::Portable), ..name.clone() });
            match name.variant {
                None => vec![Group::One(portable()), Group::Halves(name.clone())],
                Some(Variant::Portable) => vec![Group::One(portable())],
                Some(_) => vec![Group::Halves(name.clone())],
            }
        }
        Some(target) => vec![Group::One(target.clone())],
    }
}

/// The targets of a group, with the only type that they take.
fn members(group: &Group) -> Outcome<Vec<(Target, Option<DType>)>> {
    Ok(match group {
        Group::Cpus => (attnc::targets().into_iter().filter(|(_, state)| state.is_ok()))
            .map(|(isa, _)| match isa {
                _ if isa == Isa::Avx512.name() => (Target::CpuAvx512, None),
                _ if isa == Isa::Avx2.name() => (Target::CpuAvx2, None),
                _ => (Target::CpuScalar, None),
            })
            .collect(),
        Group::One(target) => vec![(target.clone(), None)],
        #[cfg(feature = "gpu")]
        Group::Halves(name) => {
            let runs = match name.variant {
                Some(variant) => vec![variant],
                None => {
                    let gpu = crate::gpu::open(&Target::Gpu(name.clone()))?;
                    gpu.map(|gpu| gpu.variants().to_vec()).unwrap_or_default()
                }
            };
            let target = |variant| Target::Gpu(crate::args::GpuName { variant: Some(variant), ..name.clone() });
            (runs.into_iter().filter(|v| *v != attnc::gpu::Variant::Portable))
                .map(|v| (target(v), Some(DType::F16)))
                .collect()
        }
    })
}

/// Random subsets of the passes that `--all-passes` verifies.
const SUBSETS: u32 = 2;

/// Choices of passes to verify, each with what it adds to a target's name.
fn choices(args: &VerifyArgs) -> Vec<(String, PassArgs)> {
    if !args.all_passes {
        return vec![(String::new(), args.set.passes.clone())];
    }
    let names: Vec<String> = optional_passes().map(|p| p.name.to_owned()).collect();
    let mut choices = vec![(" all".to_owned(), PassArgs::default()), (" none".to_owned(), PassArgs::only(vec![]))];
    for subset in 0..SUBSETS {
        let mut stream = attnc::random::Stream::new(args.seed, i64::from(subset), 0, 0);
        let chosen: Vec<String> = names.iter().filter(|_| stream.below(2) == 1).cloned().collect();
        let known = chosen.is_empty() || chosen.len() == names.len();
        let name = format!(" {}", chosen.join("+"));
        if !known && choices.iter().all(|(n, _)| *n != name) {
            choices.push((name, PassArgs::only(chosen)));
        }
    }
    for (_, passes) in &mut choices {
        passes.tile = args.set.passes.tile;
    }
    choices
}

/// The file for every instruction set of this machine and every choice of passes.
fn targets(args: &VerifyArgs, subject: &Subject, group: &Group, reporter: Reporter) -> Outcome<Vec<Compiled>> {
    let choices = choices(args);
    let mut targets = Vec::new();
    for (target, dtype) in members(group)? {
        #[cfg(feature = "gpu")]
        let gpu = crate::gpu::open(&target)?.map(std::rc::Rc::new);
        for (name, passes) in &choices {
            let set = SetArgs { set: args.set.set.clone(), passes: passes.clone() };
            let options: Options = subject::options(&set, &target);
            let module = Compiler::new(options).compile(&Disk, &subject.path)?;
            if targets.is_empty() {
                reporter.print(&module.warnings());
            }
            targets.push(Compiled {
                name: format!("{target}{name}"),
                module,
                dtype,
                #[cfg(feature = "gpu")]
                gpu: gpu.clone(),
            });
        }
    }
    if targets.is_empty() && matches!(group, Group::Cpus) {
        let said = attnc::Diagnostic::global(attnc::NO_TARGET, "this machine runs no target but the oracle");
        return Err(Failure::from(attnc::Diagnostics::from(said.help("`attnc targets` says why"))));
    }
    Ok(targets)
}

/// Layers and steps of a model whose heads differ from all before; just the name of anything else.
fn selections(module: &Module, name: &str) -> Outcome<Vec<Select>> {
    let is_model = module.uses().iter().any(|&(n, kind)| n == name && kind == Kind::Model);
    let model = module.program().models.iter().find(|m| m.name == name && is_model);
    let Some(model) = model else { return Ok(vec![Select::named(name)]) };
    let (mut seen, mut selections) = (Vec::new(), Vec::new());
    for step in 0..model.steps {
        for layer in 0..model.layers {
            let select = Select::named(name).layer(layer).step(step);
            let assigned = module.assignment(&select)?;
            if !seen.contains(&assigned) {
                seen.push(assigned);
                selections.push(select);
            }
        }
    }
    Ok(selections)
}

/// The tensors of a file.
fn given(args: &VerifyArgs, targets: &[Compiled], select: &Select, pools: &[Threads], tally: &mut Tally) -> Outcome {
    let Some(path) = &args.input else { return Ok(()) };
    let mut file = TensorFile::open(path)?;
    let given = Given::read(&mut file, "q", "k", "v")?;
    let shape = given.shape()?;
    let sizes = SizeArgs { size: args.size.clone(), ..SizeArgs::default() };
    let sizes = subject::sized(&targets[0].module, Some(shape.n_k), &sizes);
    let mut data = Data::new(&sizes, shape.n_q.max(shape.n_k));
    data.lengths = padding(&mut file, &given)?;
    let wants = targets[0].module.kernel(select)?.wants(shape, &subject::sizes_of(&data.sizes))?;
    data.read(&mut file, &wants)?;
    let admitted = case(targets, select, &given, &data, pools, tally)?;
    admitted.map_or(Ok(()), |said| Err(Failure::from(said)))
}

/// Tensors and sizes of our own.
fn sampled(args: &VerifyArgs, targets: &[Compiled], select: &Select, pools: &[Threads], tally: &mut Tally) -> Outcome {
    let module = &targets[0].module;
    let kernel = module.kernel(select)?;
    let names = kernel.sizes();
    let of = |row: &&[i64]| -> Vec<(String, i64)> { names.iter().cloned().zip(row.iter().copied().cycle()).collect() };
    let chosen = if names.is_empty() || !args.size.is_empty() {
        vec![args.size.clone()]
    } else {
        SIZES.iter().map(of).collect()
    };
    let last_resort = if chosen.len() > 1 { LARGE.iter().map(of).collect() } else { Vec::new() };
    let usual = chosen.len();
    let mut forms = FORMS.iter().cycle();
    for (i, sizes) in chosen.into_iter().chain(last_resort).enumerate() {
        if i >= usual && tally.cases > 0 {
            break;
        }
        let total = module.tokens(&subject::sizes_of(&sizes))?;
        // Of several sizes each gets a few lengths, of none all.
        let lengths: Vec<Lengths> = match total {
            Some(total) => places(total),
            None if names.is_empty() => OPEN.to_vec(),
            None => OPEN.iter().skip(tally.cases % 2).step_by(2).copied().collect(),
        };
        for lengths in lengths {
            let Some(form) = forms.next() else { break };
            let (heads, kv_heads) = kernel.heads().unwrap_or((form.heads, form.kv_heads));
            let lengths = within_reach(lengths, heads);
            let mut data = Data { sizes: sizes.clone(), q_start: lengths.q_start, ..Data::default() };
            if total.is_some() {
                data.k_start = Some(0);
            }
            let shape = Shape { n_q: lengths.n_q, n_k: lengths.n_k, heads, dim: form.dim as i64 };
            let shape = subject::of_output(&kernel, shape);
            let seed = (args.seed as u64).wrapping_mul(1_000).wrapping_add(tally.cases as u64);
            let positions = lengths.q_start.unwrap_or(0) + lengths.n_q;
            data.fill(&kernel.wants(shape, &subject::sizes_of(&data.sizes))?, shape, seed)?;
            debug_assert!(data.docs.last().is_none_or(|&d| d >= positions));
            let extent = |n: i64| usize::try_from(n).unwrap_or(0);
            let q = [form.batch, extent(heads), extent(lengths.n_q), form.dim];
            let k = [form.batch, extent(kv_heads), extent(lengths.n_k), form.dim];
            let tensors = Given::random(targets[0].dtype.unwrap_or(form.dtype), q, k, form.dv, seed)?;
            case(targets, select, &tensors, &data, pools, tally)?;
        }
    }
    Ok(())
}

/// Windows of queries of a space of `total` tokens.
fn places(total: i64) -> Vec<Lengths> {
    let whole = Lengths { n_q: total, n_k: total, q_start: None };
    if total * total <= PAIRS {
        return vec![whole];
    }
    let part = |at: i64| Lengths { n_q: 48, n_k: total, q_start: Some(at.min(total - 48)) };
    vec![part(0), part(total / 3), part(total / 2 - 20), part(total)]
}

/// Fewer queries, if the heads make too many pairs of them.
fn within_reach(lengths: Lengths, heads: i64) -> Lengths {
    let most = (PAIRS / (heads * lengths.n_k).max(1)).max(1);
    if lengths.n_q <= most {
        return lengths;
    }
    let q_start = lengths.q_start.or(Some((lengths.n_k - most) / 2));
    Lengths { n_q: most, q_start, ..lengths }
}

/// Runs one case on every target; what the program refuses is handed back.
fn case(
    targets: &[Compiled],
    select: &Select,
    given: &Given,
    data: &Data,
    pools: &[Threads],
    tally: &mut Tally,
) -> Outcome<Option<attnc::Diagnostics>> {
    let dtype = given.q.dtype("q")?;
    let mut oracle: Option<Vec<Output>> = None;
    for (target, row) in targets.iter().zip(&mut tally.rows) {
        let kernel: Kernel = target.module.kernel(select)?;
        let mut kept: Option<Results> = None;
        let mut given_chosen: Option<Vec<Output>> = None;
        let mut rounded = DType::F32;
        // Threads are those of CPUs.
        let pools = if target.is_gpu() { &pools[..1] } else { pools };
        for pool in pools {
            let mut results = Results::new(&kernel, given, dtype)?;
            let mut problem = results.problem(given, data.inputs())?;
            if oracle.is_none() {
                oracle = match kernel.oracle(&problem) {
                    Ok(outputs) => Some(outputs),
                    Err(said) => {
                        tally.refused += 1;
                        tally.reason = said.to_string().lines().next().unwrap_or_default().to_owned();
                        return Ok(Some(said));
                    }
                };
            }
            let (weights, chosen) = execute(target, &kernel, pool, &mut problem)?;
            rounded = weights;
            // What depends on the data is compared given what was chosen, which is judged apart.
            if kept.is_none() && !chosen.is_empty() {
                let tables = kernel.tables(&problem, &chosen)?;
                let wrong = kernel.judge(&problem, &tables)?.concat();
                row.misfit(wrong.iter().map(ToString::to_string).collect(), || describe(given, data, select));
                given_chosen = Some(kernel.oracle_given(&problem, &tables)?);
            }
            if let Some(first) = &kept
                && (first.out.bytes(), first.lse.bytes()) != (results.out.bytes(), results.lse.bytes())
            {
                row.unequal += 1;
            }
            kept.get_or_insert(results);
        }
        if let (Some(results), Some(oracle)) = (&kept, given_chosen.as_ref().or(oracle.as_ref())) {
            let (out, lse) = results.tensors()?;
            row.see(&attnc::compare_rounded(oracle, &out, Some(&lse), rounded), || describe(given, data, select));
        }
    }
    tally.cases += 1;
    Ok(None)
}

/// Runs a kernel on its target; the type to which weights are rounded before they meet V, and what was chosen.
fn execute(
    target: &Compiled,
    kernel: &Kernel,
    pool: &Threads,
    problem: &mut attnc::Problem<'_>,
) -> Outcome<(DType, Vec<attnc::Chosen>)> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = &target.gpu {
        let (session, chosen) = crate::gpu::run_chosen(kernel, gpu, problem)?;
        return Ok((session.weights(), chosen));
    }
    debug_assert!(!target.is_gpu());
    Ok((DType::F32, kernel.run_chosen(problem, Resources { threads: Some(pool), ..Resources::default() })?))
}

/// A case in words.
fn describe(given: &Given, data: &Data, select: &Select) -> String {
    let dtype = given.q.dtype("q").map_or("", tensors::type_name);
    let start = data.q_start.map_or(String::new(), |s| format!(", q_start {s}"));
    let sizes: String = data.sizes.iter().map(|(name, value)| format!(", {name} = {value}")).collect();
    format!(
        "q {:?}, k {:?}, v {:?} {dtype}{start}{sizes}, layer {}, step {}",
        given.q.shape, given.k.shape, given.v.shape, select.layer, select.step
    )
}

/// Results of one pattern.
struct Tally {
    rows: Vec<Row>,
    cases: usize,
    /// How many sizes the program refused, and why the last of them.
    refused: usize,
    reason: String,
}

/// Results of one target.
struct Row {
    target: String,
    report: Report,
    /// Cases in which two threads did not give what one gave.
    unequal: usize,
    /// Rows of selections that are not admissible.
    unfit: usize,
    /// The first case that failed.
    failed: Option<String>,
}

impl Row {
    /// Notes what is wrong with what was chosen.
    fn misfit(&mut self, wrong: Vec<String>, case: impl FnOnce() -> String) {
        if let Some(first) = wrong.first() {
            self.unfit += wrong.len();
            self.failed.get_or_insert_with(|| format!("{}: {first}", case()));
        }
    }

    fn see(&mut self, report: &Report, case: impl FnOnce() -> String) {
        if !report.passed() && self.failed.is_none() {
            let worst = if report.out.ratio >= report.lse.ratio { report.out } else { report.lse };
            let place = worst.place.map_or(String::new(), |p| {
                let what = p.col.map_or("lse".to_owned(), |col| format!("column {col}"));
                format!(", at batch item {}, head {}, row {}, {what}", p.batch, p.head, p.row)
            });
            self.failed = Some(format!("{}{place}", case()));
        }
        self.report.merge(report);
    }

    fn passed(&self) -> bool {
        self.report.passed() && self.unequal == 0 && self.unfit == 0
    }
}

impl Tally {
    fn new(targets: &[Compiled]) -> Tally {
        let row = |t: &Compiled| Row {
            target: t.name.clone(),
            report: Report::default(),
            unequal: 0,
            unfit: 0,
            failed: None,
        };
        Tally { rows: targets.iter().map(row).collect(), cases: 0, refused: 0, reason: String::new() }
    }

    fn passed(&self) -> bool {
        self.rows.iter().all(Row::passed)
    }

    /// One line a target: each largest error against its bound.
    fn text(&self, name: &str) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let (out, lse) = (row.report.out, row.report.lse);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{name:<20} {:<12} {:<4} {} cases, {} rows: out {:.2e} of {:.2e}, lse {:.2e} of {:.2e}",
                row.target,
                if row.passed() { "ok" } else { "FAIL" },
                self.cases,
                row.report.compared,
                out.error,
                out.bound,
                lse.error,
                lse.bound
            );
            if let Some(case) = &row.failed {
                let _ = writeln!(text, "    beyond its bound for {case}");
            }
            if row.unfit > 0 {
                let _ = writeln!(text, "    {} rows of selections are not admissible", row.unfit);
            }
            if row.unequal > 0 {
                let _ = writeln!(text, "    two threads differ from one in {} cases", row.unequal);
            }
        }
        if self.refused > 0 {
            let _ = writeln!(text, "    {} sizes are not for it, the last by {}", self.refused, self.reason);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_large_space_stay_inside() {
        assert_eq!(places(900), [Lengths { n_q: 900, n_k: 900, q_start: None }]);
        for place in places(45_106) {
            let start = place.q_start.expect("a window has a place");
            assert!(start >= 0 && start + place.n_q <= 45_106);
        }
    }

    #[test]
    fn pairs_are_bounded() {
        let open = Lengths { n_q: 257, n_k: 257, q_start: None };
        assert_eq!(within_reach(open, 2), open);
        let less = within_reach(open, 48);
        assert!(less.n_q * less.n_k * 48 <= PAIRS && less.q_start.is_some());
        assert_eq!(within_reach(Lengths { n_q: 40, n_k: 9_000_000, q_start: Some(3) }, 8).n_q, 1);
    }
}
