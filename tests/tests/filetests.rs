//! Files that are tests: `tests/filetests/**/*.attn`, see `docs/testing.md` for their form.
//!
//! `ATTNC_BLESS=1` rewrites the exact text of stages whose text is not a statement about meaning.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use attnc::{
    Compiler, DType, Inputs, Kernel, Loader, MapInput, Memory, Module, Options, Problem, Run, Select, Shape, Target,
    Tensor, TensorData, TensorMut,
};
use attnc_tests::compare::{Case, against_oracle, against_oracle_on_gpu, has_gpu};
use rayon::prelude::*;

/// Stages whose expected text a machine may write.
const BLESSED: &[&str] = &["ast", "pattern", "tiles", "plan", "scores", "clif", "fmt", "wgsl"];

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).expect("folder of filetests").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "attn") {
            out.push(path);
        }
    }
}

/// One `//! stage option=value ..` line.
struct Command<'a> {
    stage: &'a str,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Command<'a> {
    fn parse(line: &'a str) -> Command<'a> {
        let mut words = line.split_whitespace();
        let stage = words.next().unwrap_or("");
        let options = words.map(|w| w.split_once('=').unwrap_or((w, ""))).collect();
        Command { stage, options }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.options.iter().find(|o| o.0 == name).map(|o| o.1)
    }

    fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        self.get(name).map_or(Ok(default), |v| v.parse().map_err(|_| format!("{name}={v} is not an integer")))
    }

    fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, String> {
        let parse = |v: &str| v.parse().map_err(|_| format!("{name}={v} is not an integer"));
        self.get(name).map(|v| v.split(',').map(parse).collect()).transpose()
    }

    /// `set.NAME=V` or `size.NAME=V`.
    fn prefixed(&self, prefix: &str) -> Vec<(String, String)> {
        let strip = |(n, v): &(&str, &str)| Some((n.strip_prefix(prefix)?.to_string(), (*v).to_string()));
        self.options.iter().filter_map(strip).collect()
    }

    fn sizes(&self) -> Result<Vec<(String, i64)>, String> {
        let parse = |(n, v): (String, String)| Ok((n, v.parse().map_err(|_| format!("size {v} is not an integer"))?));
        self.prefixed("size.").into_iter().map(parse).collect()
    }
}

/// A file and what it can import: nothing but the standard library.
fn module(source: &str, options: Options) -> Result<Module, String> {
    let loader: &dyn Loader = &Memory::file("test.attn", source);
    Compiler::new(options).compile(loader, "test.attn").map_err(|e| e.to_string())
}

fn name_in(module: &Module, command: &Command<'_>) -> Result<String, String> {
    match command.get("name") {
        Some(name) => Ok(name.to_string()),
        None => module.default_use("test").map_err(|e| e.to_string()),
    }
}

/// The exact text of a stage.
fn text(command: &Command<'_>, source: &str) -> Result<String, String> {
    let target = if matches!(command.stage, "rows" | "scores") { Target::Oracle } else { Target::default() };
    let set = command.prefixed("set.");
    let options = Options { set, clif: command.stage == "clif", target, ..Options::default() };
    if command.stage == "fmt" {
        let loader: &dyn Loader = &Memory::file("test.attn", source);
        return attnc::format(loader, "test.attn").map(|f| f.after).map_err(|e| e.to_string());
    }
    let module = module(&subject(command, source)?, options)?;
    if command.stage == "ast" {
        return Ok(module.ast_text());
    }
    let name = name_in(&module, command)?;
    let select = Select::named(name).layer(command.int("layer", 0)?).step(command.int("step", 0)?);
    let kernel = module.kernel(&select).map_err(|e| e.to_string())?;
    match command.stage {
        "plan" => return Ok(kernel.plan_text()),
        "scores" => return scores(command, &kernel, &module),
        "wgsl" => {
            let named = command.get("variant").unwrap_or("portable");
            let variant = attnc::gpu::Variant::ALL.into_iter().find(|v| v.name() == named);
            let variant = variant.ok_or_else(|| format!("there is no variant {named}"))?;
            let texts = kernel.wgsl(&attnc::gpu::Shader::of(variant)).map_err(|e| e.to_string())?;
            // What all modules of a variant have in common is left out: the functions of the pattern say what differs.
            let of_pattern = |text: &str| {
                let begin = text.find("/// Entry 0: the next run").unwrap_or(0);
                let end = text.find("var<workgroup> key_tile").unwrap_or(text.len());
                text[begin..end.max(begin)].trim_end().to_owned() + "\n"
            };
            return Ok(texts.iter().map(|(_, _, text)| of_pattern(text)).collect::<Vec<_>>().join("\n"));
        }
        "refused" => {
            let named = command.get("variant").unwrap_or("portable");
            let variant = attnc::gpu::Variant::ALL.into_iter().find(|v| v.name() == named);
            let of = attnc::gpu::Shader::of(variant.ok_or_else(|| format!("there is no variant {named}"))?);
            let types = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::Bf16)];
            let dtype = types.into_iter().find(|(name, _)| Some(*name) == command.get("dtype"));
            let dim = command.int("dim", 64)? as usize;
            let value_dim = command.int("value_dim", dim as i64)? as usize;
            let shader = attnc::gpu::Shader { dtype: dtype.map_or(of.dtype, |t| t.1), dim, value_dim, ..of };
            let Err(said) = kernel.wgsl(&shader) else { return Err("there is a shader".to_owned()) };
            return Ok(said.list.iter().map(|d| format!("{}: {}\n", d.code, d.message)).collect());
        }
        "clif" => return Ok(kernel.clif().iter().map(|(_, text)| *text).collect()),
        "structure" => {
            let plan = kernel.plan_text();
            let count = |what: &str| plan.lines().filter(|l| l.contains(what)).count();
            let rows = plan.lines().filter(|l| l.contains(" .. ") && !l.contains("may ")).count();
            return Ok(format!(
                "pieces {rows}\nloops {}\ncombs {}\nfilters {}\n",
                count("for i") / 2,
                count("comb(") / 2,
                count("filter")
            ));
        }
        _ => {}
    }
    let sizes = command.sizes()?;
    let sizes: Vec<(&str, i64)> = sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let total = module.tokens(&sizes).map_err(|e| e.to_string())?;
    let n_q = command.int("tokens", total.unwrap_or(0))?;
    let n_k = command.int("keys", total.filter(|_| command.get("tokens").is_none()).unwrap_or(n_q))?;
    let docs = command.ints("docs")?.unwrap_or_default();
    let given: Vec<(String, Vec<f32>)> = (command.prefixed("tensor.").into_iter())
        .map(|(name, values)| Ok((name, values.split(',').map(str::parse).collect::<Result<_, _>>()?)))
        .collect::<Result<_, std::num::ParseFloatError>>()
        .map_err(|e| e.to_string())?;
    let line = |data: &'_ Vec<f32>| TensorData { data: data.clone().into(), dims: vec![data.len()] };
    let tensors = given.iter().map(|(name, data)| (name.as_str(), line(data))).collect();
    let start = |name| command.get(name).map(|v: &str| v.parse::<i64>().map_err(|e| e.to_string())).transpose();
    let inputs = Inputs {
        sizes,
        docs: &docs,
        tensors,
        q_start: start("q_start")?,
        k_start: start("k_start")?,
        ..Inputs::default()
    };
    let shape = Shape { n_q, n_k, heads: kernel.heads().map_or(command.int("heads", 8)?, |h| h.0), dim: 64 };
    let head = command.int("head", 0)?;
    if command.stage == "rows" && kernel.is_dynamic(head as usize) {
        return attended(command, &kernel, shape, inputs);
    }
    let view = kernel.view(head, shape, &inputs).map_err(|e| e.to_string())?;
    let mut out = String::new();
    match command.stage {
        "rows" => {
            let mut rows = view.rows().map_err(|e| format!("{e:?}"))?;
            for row in 0..n_q {
                let _ = write!(out, "{row}:");
                for run in rows.row(row).map_err(|e| format!("{e:?}"))? {
                    let _ = if run.first == run.last {
                        write!(out, " {}", run.first)
                    } else {
                        write!(out, " {}-{}", run.first, run.last)
                    };
                    if run.times > 1 {
                        let _ = write!(out, "*{}", run.times);
                    }
                }
                for slots in view.nulls() {
                    let _ = if *slots == 1 { write!(out, " null[0]") } else { write!(out, " null[0-{}]", slots - 1) };
                }
                out.push('\n');
            }
        }
        "tiles" => {
            let mut tiles = view.tiles().map_err(|e| format!("{e:?}"))?;
            for row in 0..(n_q + view.tile().0 - 1) / view.tile().0 {
                let _ = write!(out, "{row}:");
                let mut last = None;
                for run in tiles.row(row).map_err(|e| format!("{e:?}"))? {
                    if last != Some(run.full) {
                        out.push_str(if run.full { " full" } else { " partial" });
                        last = Some(run.full);
                    }
                    let _ = if run.first == run.last {
                        write!(out, " {}", run.first)
                    } else {
                        write!(out, " {}-{}", run.first, run.last)
                    };
                }
                out.push('\n');
            }
        }
        other => return Err(format!("there is no stage `{other}`")),
    }
    Ok(out)
}

/// Rows of what depends on the data: `q` and `k` give one number for each position, the same for every head.
fn attended(command: &Command<'_>, kernel: &Kernel, shape: Shape, inputs: Inputs<'_>) -> Result<String, String> {
    let offsets: Vec<(String, Vec<i64>)> = (command.prefixed("map.").into_iter())
        .map(|(name, values)| Ok((name, values.split(',').map(str::parse).collect::<Result<_, _>>()?)))
        .collect::<Result<_, std::num::ParseIntError>>()
        .map_err(|e| e.to_string())?;
    let mut inputs: Inputs<'_> = inputs;
    let heads = shape.heads as usize;
    let line = |name: &str, n: i64, heads: usize| -> Result<Vec<f32>, String> {
        let one: Vec<f32> = match command.get(name) {
            None => vec![0.0; n as usize],
            Some(list) => {
                list.split(',').map(|x| x.parse().map_err(|_| format!("{x} in {name}"))).collect::<Result<_, _>>()?
            }
        };
        if one.len() as i64 == n {
            Ok(one.repeat(heads))
        } else {
            Err(format!("{name} has {} numbers of {n}", one.len()))
        }
    };
    let shape = Shape { dim: 1, ..shape };
    let wants = kernel.wants(shape, &inputs.sizes).map_err(|e| e.to_string())?;
    for (name, data) in &mut inputs.tensors {
        if let Some(want) = wants.tensors.iter().find(|w| w.name == *name) {
            data.dims = want.dims.clone();
        }
    }
    inputs.maps = offsets.iter().map(|(n, v)| (n.as_str(), MapInput::Csr { indptr: v, indices: &[] })).collect();
    let (q, k) = (line("q", shape.n_q, heads)?, line("k", shape.n_k, heads)?);
    let (mut out, v) = (vec![0.0; q.len()], vec![0.0; k.len()]);
    let (of_q, of_k) = ([1, heads, shape.n_q as usize, 1], [1, heads, shape.n_k as usize, 1]);
    let problem = Problem {
        q: Tensor::of_f32(&q, of_q).map_err(|e| e.to_string())?,
        k: Tensor::of_f32(&k, of_k).map_err(|e| e.to_string())?,
        v: Tensor::of_f32(&v, of_k).map_err(|e| e.to_string())?,
        out: TensorMut::of_f32(&mut out, of_q).map_err(|e| e.to_string())?,
        lse: None,
        inputs,
    };
    let found = kernel.attended(&problem, command.int("head", 0)? as usize).map_err(|e| e.to_string())?;
    let mut out = String::new();
    let ends = |run: &Run| match run.last > run.first {
        true => format!("{}-{}", run.first, run.last),
        false => run.first.to_string(),
    };
    let times = |run: &Run| if run.times > 1 { format!("*{}", run.times) } else { String::new() };
    for (i, row) in found.rows.iter().enumerate() {
        let _ = write!(out, "{i}:");
        for run in &row.tokens {
            let _ = write!(out, " {}{}", ends(run), times(run));
        }
        for (level, slots) in &row.levels {
            for run in slots {
                let _ = write!(out, " {level}[{}]{}", ends(run), times(run));
            }
        }
        out.push('\n');
    }
    Ok(out)
}

/// Errors of a file, each with the line and the columns it points at, against the marks in the file.
fn check(source: &str) -> Result<(), String> {
    let loader: &dyn Loader = &Memory::file("test.attn", source);
    let found = match Compiler::default().compile(loader, "test.attn") {
        Ok(module) => {
            let mut list = module.check().list;
            list.extend(module.warnings().list);
            list
        }
        Err(e) => e.list,
    };
    let line_of = |at: usize| source[..at].matches('\n').count();
    let mut got: Vec<(usize, String)> = vec![];
    for d in found {
        match d.labels.first() {
            Some(l) => {
                let start = l.span.start as usize;
                let column = start - source[..start].rfind('\n').map_or(0, |n| n + 1);
                got.push((line_of(start), format!("column {column} {}", d.code)));
            }
            None => got.push((usize::MAX, d.code.to_string())),
        }
    }
    let mut want: Vec<(usize, String)> = vec![];
    let mut code_line = 0;
    for (number, line) in source.lines().enumerate() {
        let Some(mark) = line.strip_prefix("//").map(str::trim_start).filter(|m| m.starts_with('^')) else {
            code_line = number;
            continue;
        };
        let column = line.find('^').unwrap_or(0);
        for code in mark.trim_start_matches('^').split_whitespace() {
            want.push((code_line, format!("column {column} {code}")));
        }
    }
    got.sort();
    got.dedup();
    want.sort();
    if got == want { Ok(()) } else { Err(format!("expected errors (line, place) {want:?}\nfound {got:?}")) }
}

/// Runs a case on what a stage asks for.
type Against = fn(&str, &Case<'_>) -> Result<(), String>;

/// What a command is about: this file, or another one of the repository.
fn subject(command: &Command<'_>, source: &str) -> Result<String, String> {
    let Some(path) = command.get("file") else { return Ok(source.to_owned()) };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Scores that selections look at, for sizes one after the other, over what they should grow with.
fn scores(command: &Command<'_>, kernel: &Kernel, module: &Module) -> Result<String, String> {
    let over = command.get("over").unwrap_or("tokens");
    let kept = command.int("kept", 0)?;
    let (about, by): (_, fn(f64, f64) -> f64) = match command.get("by") {
        Some("n^2") => ("n^2".to_owned(), |n, _| n * n),
        _ if kept > 0 => (format!("n (log2(n / {kept}) - 1)"), |n, kept| n * ((n / kept).log2() - 1.0)),
        _ => ("n log2 n".to_owned(), |n, _| n * n.log2()),
    };
    let mut text = String::new();
    for value in command.ints("lengths")?.ok_or("lengths=.. are missing")? {
        let mut sizes = command.sizes()?;
        let mut tokens = value;
        if over != "tokens" {
            sizes.push((over.to_owned(), value));
            let of: Vec<(&str, i64)> = sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            tokens = module.tokens(&of).map_err(|e| e.to_string())?.ok_or("the space is open")?;
        }
        let offsets: Vec<Vec<i64>> =
            command.prefixed("parts.").iter().map(|(_, part)| parts(part, tokens)).collect::<Result<_, _>>()?;
        let names = command.prefixed("parts.");
        let maps = names
            .iter()
            .zip(&offsets)
            .map(|((name, _), indptr)| (name.as_str(), MapInput::Csr { indptr, indices: &[] }));
        let sizes = sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let inputs = Inputs { sizes, maps: maps.collect(), ..Inputs::default() };
        let heads = command.int("heads", 1)?;
        let shape = Shape { n_q: tokens, n_k: tokens, heads, dim: 64 };
        let kv_heads = command.int("kv_heads", heads)?;
        let cost = kernel.forecast(shape, kv_heads, 64, 4, 1, &inputs).map_err(|e| e.to_string())?.cost;
        let share = cost.scores as f64 / by(tokens as f64, kept as f64);
        let _ = writeln!(text, "{tokens} tokens: {} scores, {share:.4} {about}", cost.scores);
    }
    Ok(text)
}

/// Boundaries of parts of so many tokens.
fn parts(size: &str, tokens: i64) -> Result<Vec<i64>, String> {
    let size: i64 = size.parse().map_err(|_| format!("parts of {size}"))?;
    Ok((0..tokens).step_by(usize::try_from(size.max(1)).unwrap_or(1)).chain([tokens]).collect())
}

/// Compares with the oracle what a file says, this one or another one of the repository.
fn run(command: &Command<'_>, source: &str, against: Against) -> Result<(), String> {
    let source = &subject(command, source)?;
    let sizes = command.sizes()?;
    let of: Vec<(&str, i64)> = sizes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let checked = module(source, Options { set: command.prefixed("set."), ..Options::default() })?;
    let total = checked.tokens(&of).map_err(|e| e.to_string())?;
    let tokens = command.ints("tokens")?.unwrap_or_else(|| total.into_iter().collect());
    let name = name_in(&checked, command)?;
    for n_q in tokens {
        for n_k in command.ints("keys")?.unwrap_or_else(|| vec![n_q]) {
            for seed in 1..=command.int("seeds", 1)? {
                let dtype = [DType::F32, DType::F16, DType::Bf16][(seed as usize - 1) % 3];
                let start =
                    |name| command.get(name).map(|v: &str| v.parse::<i64>().map_err(|e| e.to_string())).transpose();
                let real = command.get("real").map(str::to_owned);
                let case = Case {
                    name: &name,
                    dims: if real.is_some() { (32, 32) } else { Case::default().dims },
                    real,
                    layer: command.int("layer", 0)?,
                    lengths: (n_q as usize, n_k as usize),
                    dtype,
                    seed: seed as u64,
                    docs: command.ints("docs")?.unwrap_or_default(),
                    sizes: sizes.clone(),
                    set: command.prefixed("set."),
                    starts: (start("q_start")?, start("k_start")?),
                    supply: command.get("supply").map_or(vec![], |s| s.split(',').map(str::to_owned).collect()),
                    ..Case::default()
                };
                against(source, &case)?;
            }
        }
    }
    Ok(())
}

/// Runs one file; blesses it if asked to.
fn file(path: &Path) -> Result<(), String> {
    let whole = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let lines: Vec<&str> = whole.lines().collect();
    let head = lines.iter().take_while(|l| l.starts_with("//!")).count();
    let tail = lines.iter().rev().take_while(|l| l.starts_with("//>")).count();
    let (commands, rest) = lines.split_at(head);
    let (body, expected) = rest.split_at(rest.len() - tail);
    let mut source = body.join("\n");
    source.push('\n');
    let expected: String =
        expected.iter().map(|l| format!("{}\n", l[3..].strip_prefix(' ').unwrap_or(&l[3..]))).collect();
    let mut exact = None;
    for line in commands {
        let command = Command::parse(&line[3..]);
        match command.stage {
            "check" => check(&source)?,
            "gpu" if !has_gpu() => {}
            "run" | "gpu" => {
                let against = if command.stage == "run" { against_oracle } else { against_oracle_on_gpu };
                run(&command, &source, against).map_err(|why| format!("{line}: {why}"))?;
            }
            _ if exact.is_some() => return Err("one stage of exact text in a file".into()),
            _ => {
                let text = text(&command, &source)?;
                if text.lines().map(str::trim_end).ne(expected.lines().map(str::trim_end)) {
                    if std::env::var_os("ATTNC_BLESS").is_some() && BLESSED.contains(&command.stage) {
                        let mut new: String = lines[..lines.len() - tail].iter().map(|l| format!("{l}\n")).collect();
                        for l in text.lines() {
                            new.push_str(format!("//> {l}").trim_end());
                            new.push('\n');
                        }
                        std::fs::write(path, new).map_err(|e| e.to_string())?;
                    } else {
                        return Err(format!("expected\n{expected}found\n{text}"));
                    }
                }
                exact = Some(());
            }
        }
    }
    if head == 0 { Err("no `//!` command".into()) } else { Ok(()) }
}

#[test]
fn filetests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut paths = vec![];
    files(&root, &mut paths);
    assert!(paths.len() > 100, "filetests are found");
    if let Some(only) = std::env::var_os("ATTNC_ONLY") {
        paths.retain(|path| path.to_string_lossy().contains(&*only.to_string_lossy()));
    }
    // A worker that waits for others takes up another file meanwhile, and may be many deep.
    rayon::ThreadPoolBuilder::new().stack_size(256 << 20).build_global().expect("the only pool");
    let failures = paths.par_iter().filter_map(|path| {
        let said = file(path).err()?;
        Some(format!("--- {}\n{said}\n", path.strip_prefix(&root).unwrap_or(path).display()))
    });
    let failures: String = failures.collect::<Vec<_>>().concat();
    assert!(failures.is_empty(), "{failures}");
}
