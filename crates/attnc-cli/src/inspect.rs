//! Commands that look and do not run: `check`, `fmt`, `explain`, `targets`, `build`, `cost`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use attnc::model::Term;
use attnc::{CodeInfo, Cost, DType, Forecast, Isa, Kind, Module, Select, Severity, Shape};
use serde::Serialize;
use serde_json::json;

use crate::args::{BuildArgs, CheckArgs, CostArgs, ExplainArgs, FmtArgs, Format, Stage, Target, TargetsArgs};
use crate::calibration::Calibrated;
use crate::files::{self, Disk, STDIN};
use crate::machine;
use crate::report::{Failure, Outcome, Reporter, exit};
use crate::run::Given;
use crate::subject::{self, Data};
use crate::tensors::{self, TensorFile};

pub(crate) fn check(args: &CheckArgs, reporter: Reporter) -> Outcome {
    let options = subject::options(&args.set, &Target::Oracle);
    let mut failed = None;
    let mut lines = String::new();
    for path in &args.files {
        let said = match attnc::Compiler::new(options.clone()).compile(&Disk, path) {
            Ok(module) => module.check(),
            Err(said) => said,
        };
        reporter.print(&said);
        let count = |severity| said.list.iter().filter(|d| d.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let verdict = match (errors, warnings) {
            (0, 0) => "fine".to_owned(),
            (0, w) => format!("fine, {}", plural(w, "warning")),
            (e, 0) => plural(e, "error"),
            (e, w) => format!("{}, {}", plural(e, "error"), plural(w, "warning")),
        };
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{path}: {verdict}");
        if errors > 0 && failed.is_none() {
            failed = Some(Failure::from(said).exit);
        }
    }
    files::print(&lines)?;
    failed.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

pub(crate) fn fmt(args: &FmtArgs, reporter: Reporter) -> Outcome {
    let mut failed = false;
    for path in &args.files {
        let formatted = match attnc::format(&Disk, path) {
            Ok(formatted) => formatted,
            Err(said) => {
                reporter.print(&said);
                failed = true;
                continue;
            }
        };
        let changes = formatted.before != formatted.after;
        if args.check {
            if changes {
                files::print(&format!("{path}\n"))?;
                failed = true;
            }
        } else if path == STDIN {
            files::print(&formatted.after)?;
        } else if changes {
            files::write_all(Some(Path::new(path)), formatted.after.as_bytes())?;
        }
    }
    if failed { Err(Failure::silent(exit::DIAGNOSTICS)) } else { Ok(()) }
}

/// All codes, those of the command line among them.
pub(crate) fn codes() -> Vec<&'static CodeInfo> {
    let mut codes = attnc::codes();
    codes.extend(tensors::CODES);
    codes.extend(attnc_host::foreign::CODES);
    codes.extend(CODES);
    codes.sort_by_key(|info| info.code);
    codes
}

/// Diagnostics of the command line itself.
const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: "E0735",
        title: "threads cannot be started",
        explain: "The system refused as many threads as were asked for.",
        example: "",
    },
    CodeInfo {
        code: "E0736",
        title: "nothing could be verified",
        explain: "`verify` tries many sizes; the pattern's `require` refuses them all. Give the sizes it is for with --size, \
                  or tensors of such a size with --input.",
        example: "",
    },
    CodeInfo {
        code: "E0737",
        title: "a file of measurements cannot be read",
        explain: "--compare reads what `attnc bench --format json` printed, --calibration what `attnc calibrate` wrote. The \
                  file is of another version, or damaged, or lacks the instruction set, or has none of the results that \
                  --fail-if-slower is to judge: make it anew.",
        example: "",
    },
    CodeInfo {
        code: "E0738",
        title: "a result is slower than it may be",
        explain: "`bench --fail-if-slower` found a result whose median is above that of --compare by more than was allowed. \
                  Other work on the machine slows results too: measure again before looking for a cause.",
        example: "",
    },
    CodeInfo {
        code: "E0741",
        title: "what a search left belongs to another search",
        explain: "`search` keeps what it has measured in OUT.search.json beside its output and goes on from there. The file tells \
                  of other candidates, tensors, sizes or another target, or is damaged. Remove it to begin anew, or name another \
                  output.",
        example: "",
    },
    CodeInfo {
        code: "E0742",
        title: "no assignment is within the budget",
        explain: "Even the sparsest candidate of every head is denser than --budget. What was measured is kept, so that another \
                  budget costs nothing.",
        example: "",
    },
    CodeInfo {
        code: "E0809",
        title: "an output cannot be written",
        explain: "An output is written to a temporary file beside its place and renamed when complete: the directory \
                  must exist and be writable, and the device have space.",
        example: "",
    },
];

pub(crate) fn explain(args: &ExplainArgs) -> Outcome {
    let code = args.code.to_ascii_uppercase();
    let codes = codes();
    let Some(info) = codes.iter().find(|info| info.code == code) else {
        let known: Vec<&str> = codes.iter().map(|info| info.code).collect();
        return Err(Failure::usage(format!("there is no code {code}"), format!("there are: {}", known.join(" "))));
    };
    let mut text = format!("{}: {}\n\n{}\n", info.code, info.title, info.explain);
    if !info.example.is_empty() {
        text.push_str("\nFor example:\n\n");
        // Some examples are long on purpose.
        for line in info.example.lines().take(20) {
            let shown: String = line.chars().take(100).collect();
            let _ = writeln!(text, "    {shown}{}", if shown.len() < line.len() { " .." } else { "" });
        }
        if info.example.lines().count() > 20 {
            text.push_str("    ..\n");
        }
    }
    files::print(&text)
}

pub(crate) fn targets(args: &TargetsArgs) -> Outcome {
    let mut all: Vec<(String, Result<String, String>)> =
        attnc::targets().into_iter().map(|(name, state)| (format!("cpu:{name}"), state)).collect();
    #[cfg(feature = "gpu")]
    all.extend(crate::gpu::targets());
    all.push(("oracle".to_owned(), Ok("the definition in 64-bit reals, pair by pair".to_owned())));
    match args.format {
        Format::Json => {
            let list: Vec<_> = all
                .iter()
                .map(|(name, state)| json!({ "target": name, "available": state.is_ok(), "about": state.as_ref().unwrap_or_else(|e| e) }))
                .collect();
            print_json(&json!({ "schema": "attnc.targets/1", "targets": list }))
        }
        Format::Human => {
            let mut text = String::new();
            for (name, state) in all {
                let _ = match state {
                    Ok(about) => writeln!(text, "{name:<19} yes  {about}"),
                    Err(why) => writeln!(text, "{name:<19} no   {why}"),
                };
            }
            files::print(&text)
        }
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::run("E0809", format!("the result cannot be written: {e}"), "use --format human"))?;
    files::print(&format!("{text}\n"))
}

pub(crate) fn build(args: &BuildArgs, reporter: Reporter) -> Outcome {
    let wants = |stage| args.emit.iter().any(|(s, _)| *s == stage);
    let (clif, asm) = (wants(Stage::Clif), wants(Stage::Asm));
    // Machine code is made only if something of it is asked for.
    let target = if clif || asm { args.target.clone() } else { Target::Oracle };
    if (clif || asm) && !matches!(subject::options(&args.set, &target).target, attnc::Target::Cpu(_)) {
        return Err(Failure::usage(format!("`{target}` has no machine code"), "use --target cpu"));
    }
    let options = attnc::Options { clif, asm, ..subject::options(&args.set, &target) };
    let module = subject::module(&args.subject.path, options, reporter)?;
    let names: Vec<String> = match &args.subject.name {
        Some(name) => vec![name.clone()],
        None => {
            let uses = module.uses().into_iter().filter(|(_, kind)| *kind != Kind::Model);
            uses.map(|(name, _)| name.to_owned()).collect()
        }
    };
    for (stage, path) in &args.emit {
        #[cfg(feature = "gpu")]
        if *stage == Stage::Wgsl {
            files::write_all(path.as_deref(), wgsl(&module, &args.target, &names)?.as_bytes())?;
            continue;
        }
        let text = emit(&module, *stage, &names, args.dot)?;
        files::write_all(path.as_deref(), text.as_bytes())?;
    }
    Ok(())
}

fn emit(module: &Module, stage: Stage, names: &[String], dot: bool) -> Outcome<String> {
    match stage {
        Stage::Ast => return Ok(module.ast_text()),
        Stage::Pattern => return Ok(module.program_text()),
        _ => {}
    }
    let mut text = String::new();
    for name in names {
        let kernel = module.kernel(&Select::named(name.as_str()))?;
        kernel.planned()?;
        let parts = match stage {
            Stage::Clif => kernel.clif(),
            Stage::Asm => kernel.asm(),
            Stage::Passes => {
                text.push_str(&kernel.passes_text());
                continue;
            }
            _ => {
                text.push_str(&if dot { kernel.plan_dot() } else { kernel.plan_text() });
                continue;
            }
        };
        for (name, part) in parts {
            let _ = writeln!(text, "; {name}\n{part}");
        }
    }
    Ok(text)
}

/// Shaders of a variant, without a device.
#[cfg(feature = "gpu")]
fn wgsl(module: &Module, target: &Target, names: &[String]) -> Outcome<String> {
    let variant = match target {
        Target::Gpu(name) => name.variant.unwrap_or(attnc::gpu::Variant::Portable),
        Target::Cpu => attnc::gpu::Variant::Portable,
        other => return Err(Failure::usage(format!("`{other}` has no shaders"), "use --target gpu:portable")),
    };
    let mut text = String::new();
    for name in names {
        let kernel = module.kernel(&Select::named(name.as_str()))?;
        for (i, (_, of, shader)) in kernel.wgsl(&attnc::gpu::Shader::of(variant))?.iter().enumerate() {
            attnc::gpu::validate(shader, *of)
                .map_err(|why| attnc::Diagnostics::from(attnc::gpu::Error::Shader(why)))?;
            let gap = if i == 0 && text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}{shader}");
        }
    }
    Ok(text)
}

pub(crate) fn cost(args: &CostArgs, reporter: Reporter) -> Outcome {
    let module = subject::module(&args.subject.path, subject::options(&args.set, &Target::Oracle), reporter)?;
    let name = subject::name_of(&module, &args.subject)?;
    let kernel = subject::kernel(&module, &name, &args.sizes)?;
    let sizes = subject::sized(&module, args.lengths.keys.or(args.lengths.tokens), &args.sizes);
    let (n_q, n_k) = subject::lengths(&module, &args.lengths, &sizes)?;
    let (heads, kv_heads) = subject::heads(&kernel, args.shape.heads, args.shape.kv_heads)?;
    let (dim, dv) = (args.shape.dim, args.shape.dv.unwrap_or(args.shape.dim));
    let shape = Shape { n_q, n_k, heads, dim };
    let mut data = Data::new(&sizes, n_q.max(n_k));
    let mut rows = None;
    if let Some(path) = &args.input {
        let mut file = TensorFile::open(path)?;
        data.read(&mut file, &kernel.wants(shape, &subject::sizes_of(&data.sizes))?)?;
        if kernel.reads_rows() && file.has("q") {
            rows = Some(Given::read(&mut file, "q", "k", "v")?);
        }
    }
    let mut inputs = data.inputs();
    if let Some(given) = &rows {
        inputs.rows = Some([given.q.tensor("q")?, given.k.tensor("k")?]);
    }
    let dtype = args.dtype.dtype();
    let forecast =
        kernel.forecast(shape, kv_heads, dv, dtype.size() as u64, args.shape.batch.unsigned_abs(), &inputs)?;
    let total = forecast.cost;
    let threads = args.threads.map_or_else(machine::cores, |t| usize::try_from(t).unwrap_or(usize::MAX));
    // What a launch takes beside its tensors is known of machine code alone. It is worth a word where levels and
    // selections are made, and where keys and values are converted.
    let dynamic = (0..usize::try_from(heads).unwrap_or(0)).any(|head| kernel.is_dynamic(head));
    let code = attnc::Compiler::new(subject::options(&args.set, &Target::Cpu)).compile(&Disk, &args.subject.path);
    let code = code.and_then(|module| module.kernel(kernel.select()));
    let batch = usize::try_from(args.shape.batch).unwrap_or(0);
    let memory = match &code {
        Ok(code) if dynamic || dtype != DType::F32 => {
            let dv = usize::try_from(dv).unwrap_or(0);
            Some(code.memory(shape, dtype, dv, batch, &data.inputs(), threads)?.bytes())
        }
        // The oracle counts on every machine.
        _ => None,
    };
    let names: Vec<&str> = args.returned.iter().map(String::as_str).collect();
    let returned = match names.as_slice() {
        [] => None,
        names => {
            let [dv, kv] = [dv, kv_heads].map(|n| usize::try_from(n).unwrap_or(0));
            Some(kernel.returned_bytes(names, shape, kv, dv, batch, &data.inputs())?)
        }
    };
    let known = Calibrated::known(&args.calibration, Isa::best())?;
    let calibrated = known.is_some();
    let rates = known.unwrap_or_else(|| Calibrated::built_in(Isa::best(), threads));
    let predicted = rates.predict(&forecast, dtype, threads);
    match args.format {
        Format::Json => {
            let mut found = json!({
            "schema": "attnc.cost/1",
            "pattern": name,
            "plan_hash": kernel.hash(),
            "tokens": n_q,
            "keys": n_k,
            "batch": args.shape.batch,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": dim,
            "value_dim": dv,
            "dtype": tensors::type_name(args.dtype.dtype()),
            "entries": total.entries,
            "useful_flops": total.useful_flops,
            "executed_flops": total.executed_flops,
            "overhead": total.overhead(),
            "full_tiles": total.full_tiles,
            "partial_tiles": total.partial_tiles,
            "empty_rows": total.empty_rows,
            "max_row": total.max_row,
            "bytes_min": total.bytes_min,
            "bytes_tiles": total.bytes_tiles,
            "work": work(&forecast),
            "threads": threads,
            "predicted_ns": predicted,
            "calibrated": calibrated,
            });
            if let Some(returned) = returned {
                found["returned_bytes"] = json!(returned);
            }
            if dynamic {
                found["score_evaluations"] = json!(total.scores);
                found["pooled_slots"] = json!(total.pooled);
                found["bounded"] = json!(total.bounded);
                found["memory"] = json!(memory);
            }
            print_json(&found)
        }
        Format::Human => {
            let mut text = table(&name, &kernel.hash(), &total, (n_q, n_k, heads * args.shape.batch));
            // Writing to a string does not fail.
            if dynamic {
                if let Some(memory) = memory {
                    let _ = writeln!(text, "  working memory  {memory} bytes on {threads} threads");
                }
                if let Some(returned) = returned {
                    let _ = writeln!(text, "  handed back     {returned} bytes, and as many while they are copied");
                }
                let _ =
                    writeln!(text, "  selections      {} scores of pairs, {} pooled slots", total.scores, total.pooled);
                let bound = if total.bounded { "at most: it depends on the data how many are chosen" } else { "exact" };
                let _ = writeln!(text, "  counts          {bound}");
            }
            let by = if calibrated { "" } else { ", by built-in rates: `attnc calibrate` measures this machine's" };
            let _ = writeln!(text, "  predicted time  {} on {threads} threads{by}", machine::time(predicted));
            files::print(&text)
        }
    }
}

/// What a launch does, by name of a term.
pub(crate) fn work(forecast: &Forecast) -> BTreeMap<&'static str, u64> {
    let work = forecast.work();
    Term::ALL.iter().map(|&term| (term.name(), work[term])).collect()
}

fn table(name: &str, hash: &str, cost: &Cost, (n_q, n_k, heads): (i64, i64, i64)) -> String {
    let pairs = n_q as f64 * n_k as f64 * heads as f64;
    let share = if pairs > 0.0 { 100.0 * cost.entries as f64 / pairs } else { 0.0 };
    let rows = [
        ("entries", format!("{} ({share:.2} % of all pairs)", cost.entries)),
        ("useful FLOPs", cost.useful_flops.to_string()),
        ("executed FLOPs", format!("{} ({:.3} x useful)", cost.executed_flops, cost.overhead())),
        ("tiles", format!("{} full, {} partial", cost.full_tiles, cost.partial_tiles)),
        ("longest row", format!("{} keys", cost.max_row)),
        ("empty rows", cost.empty_rows.to_string()),
        ("bytes", format!("{} at least, {} by tiles", cost.bytes_min, cost.bytes_tiles)),
    ];
    let mut text = format!("{name}, plan {hash}\n");
    for (what, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {what:<15} {value}");
    }
    text
}
