//! The command line's grammar: what may be written, and nothing of what it does.
//!
//! One idea: options that mean the same thing in several commands are one struct, flattened into each,
//! so that `--set` or `--size` is spelled and parsed in one place. Whatever is wrong here is wrong
//! usage (exit code 2). Nothing here opens a file or knows what a pattern is.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// `attnc`: a compiler for sparse attention patterns.
#[derive(Debug, Parser)]
#[command(name = "attnc", version, about, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "Exit codes: 0 fine, 1 diagnostics or a mismatch, 2 wrong usage, 3 a target that this machine \
lacks, 4 a run that was refused or failed, 5 slower than --fail-if-slower allows, 101 a mistake of this program.")]
pub(crate) struct Cli {
    /// When to colour diagnostics; NO_COLOR is honoured by `auto`.
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true)]
    pub(crate) color: Color,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When diagnostics are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check files and print what is wrong with them.
    Check(CheckArgs),
    /// Print files in the one layout; with --check, only say which differ.
    Fmt(FmtArgs),
    /// Explain a diagnostic code.
    Explain(ExplainArgs),
    /// List what this machine can run, and why not the rest.
    Targets(TargetsArgs),
    /// Show which keys each query attends to.
    Show(ShowArgs),
    /// Run an attention on tensors of a safetensors file.
    Run(RunArgs),
    /// Compare every target with the oracle.
    Verify(VerifyArgs),
    /// Measure compile and run times.
    Bench(BenchArgs),
    /// Hold patterns against dense attention: mass kept, error, density and speed of each head.
    Compare(CompareArgs),
    /// Find the cheapest pattern of each layer and head, and write the model.
    Search(SearchArgs),
    /// Print stages of the compiler.
    Build(BuildArgs),
    /// Count entries, operations and bytes before running.
    Cost(CostArgs),
    /// Write a mask in the format of another engine.
    Export(ExportArgs),
    /// Measure the rates that predicted times are made of.
    Calibrate(CalibrateArgs),
    /// Show or remove what is kept on disk: calibrations and compiled kernels.
    Cache(CacheArgs),
    /// List changes that would make a pattern cheaper, and what they do to its pairs.
    Advise(AdviseArgs),
}

/// `FILE` or `FILE:NAME`; `-` is standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The file, `-` for standard input.
    pub(crate) path: String,
    /// The pattern, attention or model in it.
    pub(crate) name: Option<String>,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}:{name}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// What stands for the `-` of `-:NAME` while options are told from other arguments, since no argument can hold it.
const STDIN_OF_A_NAME: &str = "\0";

/// The arguments of this process. `-:NAME` is a name in standard input, not a cluster of options.
pub(crate) fn given() -> impl Iterator<Item = OsString> {
    std::env::args_os().map(|arg| match arg.to_str().and_then(|text| text.strip_prefix("-:")) {
        Some(name) => format!("{STDIN_OF_A_NAME}:{name}").into(),
        None => arg,
    })
}

/// A path as it was given.
#[expect(clippy::unnecessary_wraps, reason = "the type of a value parser")]
fn file(text: &str) -> Result<String, String> {
    Ok(text.replace(STDIN_OF_A_NAME, "-"))
}

/// Splits at the last colon when a name follows it, so that `C:/a.attn` and `dir:x/a.attn` stay paths.
fn subject(text: &str) -> Result<Subject, String> {
    let text = &file(text)?;
    if let Some((path, name)) = text.rsplit_once(':') {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_name && !path.is_empty() {
            return Ok(Subject { path: path.to_owned(), name: Some(name.to_owned()) });
        }
    }
    Ok(Subject { path: text.to_owned(), name: None })
}

/// `NAME=INTEGER`
fn assignment(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=INTEGER")?;
    let name = name.trim();
    if name.is_empty() {
        return Err("expected a name before `=`".to_owned());
    }
    Ok((name.to_owned(), integer(value.trim())?))
}

/// `NAME=VALUE`; the value is read as it would stand in the file.
fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err("expected NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// An integer, `_` allowed between digits as in the language.
fn integer(text: &str) -> Result<i64, String> {
    let plain: String = text.chars().filter(|&c| c != '_').collect();
    plain.parse().map_err(|_| format!("`{text}` is not an integer of 64 bits"))
}

/// A length or count.
fn length(text: &str) -> Result<i64, String> {
    match integer(text)? {
        n if n < 0 => Err(format!("`{text}` is negative")),
        n => Ok(n),
    }
}

/// A count that is at least 1.
fn positive(text: &str) -> Result<i64, String> {
    match integer(text)? {
        n if n < 1 => Err(format!("`{text}` is not at least 1")),
        n => Ok(n),
    }
}

/// A count of heads or batch items, which are listed and so bounded.
fn count(text: &str) -> Result<i64, String> {
    at_most(positive(text)?, 1 << 20)
}

/// A dimension of queries, keys or values.
fn dimension(text: &str) -> Result<i64, String> {
    at_most(positive(text)?, 1 << 16)
}

fn at_most(value: i64, most: i64) -> Result<i64, String> {
    if value > most { Err(format!("`{value}` is more than {most}")) } else { Ok(value) }
}

/// `A..B`
fn range(text: &str) -> Result<Range<i64>, String> {
    let (lo, hi) = text.split_once("..").ok_or("expected A..B")?;
    let lo = if lo.is_empty() { 0 } else { length(lo)? };
    let hi = if hi.is_empty() { i64::MAX } else { length(hi)? };
    if hi < lo { Err(format!("`{text}` ends before it begins")) } else { Ok(lo..hi) }
}

/// Compile-time choices.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SetArgs {
    /// Give a `param` another value; may be repeated.
    #[arg(long = "set", value_name = "NAME=V", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) passes: PassArgs,
}

/// Optional passes of the compiler.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PassArgs {
    /// Leave out an optional pass; may be repeated.
    #[arg(long = "no-pass", value_name = "NAME", value_parser = optional_pass)]
    no_pass: Vec<String>,
    /// Run these optional passes alone.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', value_parser = optional_pass)]
    passes: Option<Vec<String>>,
    /// Queries of a tile, in place of what the pass `tile` chooses.
    #[arg(long, value_name = "16|32|48|64", value_parser = tile)]
    pub(crate) tile: Option<usize>,
}

impl PassArgs {
    /// Runs only these passes, in addition to the required ones.
    pub(crate) fn only(passes: Vec<String>) -> PassArgs {
        PassArgs { passes: Some(passes), ..PassArgs::default() }
    }

    /// Names of the passes to leave out.
    pub(crate) fn without(&self) -> Vec<String> {
        let left_out = |name: &str| {
            let unwanted = self.passes.as_ref().is_some_and(|only| only.iter().all(|n| n != name));
            unwanted || self.no_pass.iter().any(|n| n == name)
        };
        optional_passes().filter(|p| left_out(p.name)).map(|p| p.name.to_owned()).collect()
    }
}

/// The passes that can be left out.
pub(crate) fn optional_passes() -> impl Iterator<Item = &'static attnc::Pass> {
    attnc::PASSES.iter().filter(|pass| !pass.required)
}

/// Queries that a tile may have.
fn tile(text: &str) -> Result<usize, String> {
    let tile = text.parse().ok().filter(|tile| [16, 32, 48, 64].contains(tile));
    tile.ok_or_else(|| format!("a tile has 16, 32, 48 or 64 queries, not `{text}`"))
}

/// The name of an optional pass.
fn optional_pass(text: &str) -> Result<String, String> {
    if optional_passes().any(|pass| pass.name == text) {
        return Ok(text.to_owned());
    }
    let known = attnc::PASSES.iter().any(|pass| pass.name == text);
    let why = if known { "cannot be left out" } else { "is no pass" };
    let list: Vec<String> = optional_passes().map(|pass| format!("  {:<10} {}", pass.name, pass.about)).collect();
    Err(format!("`{text}` {why}; the optional passes are:\n{}", list.join("\n")))
}

/// Where rates come from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CalibrationArgs {
    /// Calibration to predict times with, instead of this machine's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) calibration: Option<PathBuf>,
}

/// Lengths where there are no tensors to take them from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LengthArgs {
    /// Number of tokens, where the space is one open axis (queries; keys too unless --keys is given).
    #[arg(long, value_name = "N", value_parser = length, allow_negative_numbers = true)]
    pub(crate) tokens: Option<i64>,
    /// Number of keys, if not that of the queries.
    #[arg(long, value_name = "M", value_parser = length, allow_negative_numbers = true)]
    pub(crate) keys: Option<i64>,
}

/// Starts, sizes and coordinates.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SizeArgs {
    /// Position of the first query.
    #[arg(long, value_name = "P", value_parser = length, allow_negative_numbers = true)]
    pub(crate) q_start: Option<i64>,
    /// Position of the first key.
    #[arg(long, value_name = "P", value_parser = length, allow_negative_numbers = true)]
    pub(crate) k_start: Option<i64>,
    /// A run-time size of the program; may be repeated.
    #[arg(long = "size", value_name = "NAME=V", value_parser = assignment)]
    pub(crate) size: Vec<(String, i64)>,
    /// Offsets at which documents begin, from 0; the last one ends at the number of keys.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', value_parser = length, allow_negative_numbers = true)]
    pub(crate) docs: Vec<i64>,
    /// Layer.
    #[arg(long, value_name = "L", default_value = "0", value_parser = length, allow_negative_numbers = true)]
    pub(crate) layer: i64,
    /// Step.
    #[arg(long, value_name = "S", default_value = "0", value_parser = length, allow_negative_numbers = true)]
    pub(crate) step: i64,
}

/// Number of heads and dimensions.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ShapeArgs {
    /// Number of query heads [default: the model's, or 1].
    #[arg(long, value_name = "H", value_parser = count, allow_negative_numbers = true)]
    pub(crate) heads: Option<i64>,
    /// Number of KV heads [default: the model's, or as many as query heads].
    #[arg(long, value_name = "G", value_parser = count, allow_negative_numbers = true)]
    pub(crate) kv_heads: Option<i64>,
    /// Dimension of queries and keys.
    #[arg(long, value_name = "D", default_value = "64", value_parser = dimension, allow_negative_numbers = true)]
    pub(crate) dim: i64,
    /// Dimension of values [default: that of keys].
    #[arg(long, value_name = "D", value_parser = dimension, allow_negative_numbers = true)]
    pub(crate) dv: Option<i64>,
    /// Batch items.
    #[arg(long, value_name = "B", default_value = "1", value_parser = count, allow_negative_numbers = true)]
    pub(crate) batch: i64,
}

/// Element types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Element {
    /// IEEE single.
    #[default]
    F32,
    /// IEEE half.
    F16,
    /// Upper half of a single.
    Bf16,
}

/// Targets by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Target {
    /// The best instruction set of this CPU.
    #[default]
    Cpu,
    /// Plain machine code, on any CPU.
    CpuScalar,
    /// AVX2 and FMA.
    CpuAvx2,
    /// AVX-512 F, DQ, BW and VL.
    CpuAvx512,
    /// The definition in 64-bit reals: slow, and right.
    Oracle,
    /// A GPU.
    #[cfg(feature = "gpu")]
    Gpu(GpuName),
}

/// Which GPU, and what of it: `gpu[:VARIANT][:BACKEND[:ADAPTER]]`.
#[cfg(feature = "gpu")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GpuName {
    /// The variant of shaders; the best one without it.
    pub(crate) variant: Option<attnc::gpu::Variant>,
    /// Such as `vulkan`.
    pub(crate) backend: Option<String>,
    /// A part of the adapter's name.
    pub(crate) adapter: Option<String>,
}

/// What a target may be written as, for messages.
const TARGETS: &str = if cfg!(feature = "gpu") {
    "cpu, cpu:scalar, cpu:avx2, cpu:avx512, oracle, gpu[:portable|f16|matrix][:BACKEND[:ADAPTER]]"
} else {
    "cpu, cpu:scalar, cpu:avx2, cpu:avx512, oracle"
};

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Cpu => f.write_str("cpu"),
            Target::CpuScalar => f.write_str("cpu:scalar"),
            Target::CpuAvx2 => f.write_str("cpu:avx2"),
            Target::CpuAvx512 => f.write_str("cpu:avx512"),
            Target::Oracle => f.write_str("oracle"),
            #[cfg(feature = "gpu")]
            Target::Gpu(name) => {
                f.write_str("gpu")?;
                let parts = [name.variant.map(|v| v.name()), name.backend.as_deref(), name.adapter.as_deref()];
                parts.into_iter().flatten().try_for_each(|part| write!(f, ":{part}"))
            }
        }
    }
}

/// A target.
fn target(text: &str) -> Result<Target, String> {
    match text {
        "cpu" => return Ok(Target::Cpu),
        "cpu:scalar" => return Ok(Target::CpuScalar),
        "cpu:avx2" => return Ok(Target::CpuAvx2),
        "cpu:avx512" => return Ok(Target::CpuAvx512),
        "oracle" => return Ok(Target::Oracle),
        _ => {}
    }
    #[cfg(feature = "gpu")]
    if let Some(rest) = text.strip_prefix("gpu") {
        let mut parts = rest.split(':');
        if parts.next() == Some("") {
            let mut parts = parts.peekable();
            let variant =
                parts.peek().and_then(|part| attnc::gpu::Variant::ALL.into_iter().find(|v| v.name() == *part));
            if variant.is_some() {
                parts.next();
            }
            let backend = parts.next().map(str::to_owned);
            let adapter: Vec<&str> = parts.collect();
            let adapter = (!adapter.is_empty()).then(|| adapter.join(":"));
            if backend.as_deref() != Some("") && adapter.as_deref() != Some("") {
                return Ok(Target::Gpu(GpuName { variant, backend, adapter }));
            }
        }
    }
    Err(format!("the targets are: {TARGETS}"))
}

/// Text or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files; `-` is standard input.
    #[arg(required = true, value_name = "FILE", value_parser = file)]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// Files; `-` formats standard input to standard output.
    #[arg(required = true, value_name = "FILE", value_parser = file)]
    pub(crate) files: Vec<String>,
    /// Write nothing; list files that would change and exit with 1.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A code such as E0203.
    pub(crate) code: String,
}

#[derive(Debug, Args)]
pub(crate) struct TargetsArgs {
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Forms of `show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowAs {
    /// For a terminal.
    Picture,
    /// One line a query: `Q: A-B C D-E`.
    Rows,
    /// One line a row of tiles: `T: full A-B partial C`.
    Tiles,
    /// A vector picture.
    Svg,
    /// A bitmap.
    Png,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// What to show.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) lengths: LengthArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    /// Query head.
    #[arg(long, value_name = "H", default_value = "0", value_parser = length, allow_negative_numbers = true)]
    pub(crate) head: i64,
    /// Number of query heads [default: the model's, or one more than --head].
    #[arg(long, value_name = "H", value_parser = count, allow_negative_numbers = true)]
    pub(crate) heads: Option<i64>,
    /// Form of the output.
    #[arg(long = "as", value_enum, default_value_t = ShowAs::Picture)]
    pub(crate) form: ShowAs,
    /// Only these rows (of queries, or of tiles), counted from 0.
    #[arg(long, value_name = "A..B", value_parser = range)]
    pub(crate) rows: Option<Range<i64>>,
    /// Largest number of columns (picture) or pixels (svg, png).
    #[arg(long, value_name = "W", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) width: Option<i64>,
    /// Tensors file with the program's maps; for selections with `q`, `k` and `v` too.
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: Option<PathBuf>,
    /// File with levels, scores and selections under their names: these are not computed.
    #[arg(long, value_name = "S.safetensors")]
    pub(crate) supplied: Option<PathBuf>,
    /// What no file gives is random, from this seed: maps, tensors, and for selections queries and keys.
    #[arg(long, value_name = "N", value_parser = length, allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Where to write; standard output without it.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What to run.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    /// File with the inputs, `[heads, tokens, dim]` or `[batch, heads, tokens, dim]`.
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: PathBuf,
    /// Name of the queries.
    #[arg(long, value_name = "NAME", default_value = "q")]
    pub(crate) q: String,
    /// Name of the keys.
    #[arg(long, value_name = "NAME", default_value = "k")]
    pub(crate) k: String,
    /// Name of the values.
    #[arg(long, value_name = "NAME", default_value = "v")]
    pub(crate) v: String,
    /// What runs it.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
    /// Threads [default: all cores].
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<i64>,
    /// Element type of `out` [default: that of the inputs].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) out_dtype: Option<Element>,
    /// File with levels, scores and selections under their names: these are not computed.
    #[arg(long, value_name = "S.safetensors")]
    pub(crate) supplied: Option<PathBuf>,
    /// Levels (`g.k`), scores and selections to write beside `out`, as --supplied reads them.
    #[arg(long = "return", value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) returned: Vec<String>,
    /// File for the tensors `out` and `lse`.
    #[arg(short, long, value_name = "OUT.safetensors")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// What to verify.
    #[arg(required = true, value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subjects: Vec<Subject>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// A run-time size of the program, instead of sampled ones; may be repeated.
    #[arg(long = "size", value_name = "NAME=V", value_parser = assignment)]
    pub(crate) size: Vec<(String, i64)>,
    /// Use the tensors of this file (`q`, `k`, `v` and the program's own) instead of random ones.
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: Option<PathBuf>,
    /// With --input, a file with levels, scores and selections under their names: these are not computed.
    #[arg(long, value_name = "S.safetensors", requires = "input")]
    pub(crate) supplied: Option<PathBuf>,
    /// Seed of the random tensors.
    #[arg(long, value_name = "S", default_value = "1", value_parser = integer, allow_negative_numbers = true)]
    pub(crate) seed: i64,
    /// Verify plans with every optional pass, with none, and with random ones.
    #[arg(long)]
    pub(crate) all_passes: bool,
    /// Verify this target alone [default: every instruction set of this CPU].
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub(crate) target: Option<Target>,
}

/// What a bench may be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// Attention to every key, same shape.
    Dense,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[arg(required = true, value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subjects: Vec<Subject>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) lengths: LengthArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Element types of the inputs and the output; several are measured in turns.
    #[arg(long = "dtype", value_name = "DTYPE,..", value_enum, value_delimiter = ',', default_value = "f32")]
    pub(crate) dtypes: Vec<Element>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<i64>,
    /// What runs it.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
    /// Measure compiling alone: of each file from its text to the machine code of every plan, or of FILE:NAME.
    #[arg(long, conflicts_with_all = ["against", "compare"])]
    pub(crate) compile_only: bool,
    /// Let compiling find machine code that an earlier process kept, and keep what it makes.
    #[arg(long, requires = "compile_only")]
    pub(crate) kept: bool,
    /// Also measure this, in turns with the pattern, and print the ratio.
    #[arg(long, value_enum)]
    pub(crate) against: Option<Against>,
    /// Least time to spend on the runs of one result, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = length, allow_negative_numbers = true)]
    pub(crate) min_time: i64,
    #[command(flatten)]
    pub(crate) calibration: CalibrationArgs,
    /// Print ratios to the results in this file, made with --format json.
    #[arg(long, value_name = "OLD.json")]
    pub(crate) compare: Option<PathBuf>,
    /// End with exit code 5 if a result is slower than in --compare by more than this.
    #[arg(long, value_name = "P%", requires = "compare", value_parser = percent)]
    pub(crate) fail_if_slower: Option<f64>,
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// What patterns are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dense {
    /// Attention to every key.
    All,
    /// Attention to every key that is not ahead of its query.
    Causal,
}

/// Layers of a tensors file, and what runs on them.
#[derive(Debug, Args)]
pub(crate) struct LayersArgs {
    /// File with `q`, `k` and `v`, or with `layer0.q`, `layer0.k`, `layer0.v`, `layer1.q` ..
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: PathBuf,
    /// Layer; may be repeated [default: all of the file, or 0].
    #[arg(long = "layer", value_name = "L", value_parser = layer, allow_negative_numbers = true)]
    pub(crate) layers: Vec<i64>,
    /// Step.
    #[arg(long, value_name = "S", default_value = "0", value_parser = length, allow_negative_numbers = true)]
    pub(crate) step: i64,
    /// Position of the first query [default: that at which the queries end with the keys].
    #[arg(long, value_name = "P", value_parser = length, allow_negative_numbers = true)]
    pub(crate) q_start: Option<i64>,
    /// A run-time size of the program; may be repeated.
    #[arg(long = "size", value_name = "NAME=V", value_parser = assignment)]
    pub(crate) size: Vec<(String, i64)>,
    /// Dense attention to hold patterns against [default: causal if no pattern looks ahead, else all].
    #[arg(long, value_enum)]
    pub(crate) dense: Option<Dense>,
    /// What runs it.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
    /// Threads [default: all cores].
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<i64>,
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// What to hold against dense attention.
    #[arg(required = true, value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subjects: Vec<Subject>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArgs,
    /// Least time to spend on the runs of one pattern and layer, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "200", value_parser = length, allow_negative_numbers = true)]
    pub(crate) min_time: i64,
    /// Also write a page with pictures that needs nothing else.
    #[arg(long, value_name = "OUT.html")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("bound").required(true))]
pub(crate) struct SearchArgs {
    /// Patterns and attentions to choose among; dense attention always is one.
    #[arg(long, required = true, value_name = "FILE[:NAME],..", value_delimiter = ',', value_parser = subject)]
    pub(crate) candidates: Vec<Subject>,
    #[command(flatten)]
    pub(crate) layers: LayersArgs,
    /// The cheapest of each head whose relative error is at most this.
    #[arg(long, value_name = "E", group = "bound", value_parser = share)]
    pub(crate) max_error: Option<f64>,
    /// The least total error with a mean density of at most this.
    #[arg(long, value_name = "DENSITY", group = "bound", value_parser = share)]
    pub(crate) budget: Option<f64>,
    #[command(flatten)]
    pub(crate) calibration: CalibrationArgs,
    /// File for the model; what was measured stands in OUT.search.json until it is written.
    #[arg(short, long, value_name = "OUT.attn")]
    pub(crate) output: PathBuf,
}

/// The number of a layer, of which a model has many.
fn layer(text: &str) -> Result<i64, String> {
    at_most(length(text)?, 1 << 20)
}

/// A number that is not negative.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err(format!("`{text}` is not a number from 0")),
    }
}

/// `5%`, as a share.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(p) if p.is_finite() && p >= 0.0 => Ok(p / 100.0),
        _ => Err(format!("`{text}` is not a percentage such as 5%")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// Instruction set to calibrate.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
    /// Threads to measure with [default: all].
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<i64>,
    /// File to write [default: where `bench`, `cost` and `advise` look].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Print the directory.
    Path,
    /// List its files, and whether this machine and this program use them.
    Status,
    /// Remove its files.
    Clear,
}

#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    /// What to make cheaper.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) lengths: LengthArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Element type of the inputs and the output.
    #[arg(long, value_enum, default_value_t = Element::F32)]
    pub(crate) dtype: Element,
    /// Threads [default: all cores].
    #[arg(long, value_name = "T", value_parser = positive)]
    pub(crate) threads: Option<i64>,
    /// What runs it.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
    /// Least gain that is worth a line.
    #[arg(long, value_name = "P%", default_value = "2%", value_parser = percent)]
    pub(crate) at_least: f64,
    /// Run nothing: tell what the model predicts to be cheaper.
    #[arg(long)]
    pub(crate) no_run: bool,
    #[command(flatten)]
    pub(crate) calibration: CalibrationArgs,
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Stages that `build --emit` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The syntax tree.
    Ast,
    /// The checked program.
    Pattern,
    /// The plan of each attention.
    Plan,
    /// The plan before all passes, and after each that changed it.
    Passes,
    /// Cranelift's IR of each driver.
    Clif,
    /// Machine code of each driver.
    Asm,
    /// Compute shaders of each attention, one for each stage of its plan.
    #[cfg(feature = "gpu")]
    Wgsl,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// What to build; without a name, everything in the file.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// Stages, each with the file to write it to, if not standard output.
    #[arg(long, value_name = "STAGE[=OUT],..", required = true, value_delimiter = ',', value_parser = emit)]
    pub(crate) emit: Vec<(Stage, Option<PathBuf>)>,
    /// Plans as graphs of their stages, for Graphviz.
    #[arg(long)]
    pub(crate) dot: bool,
    /// Instruction set of the machine code, or variant of the shaders.
    #[arg(long, value_name = "TARGET", default_value_t = Target::Cpu, value_parser = target)]
    pub(crate) target: Target,
}

/// `STAGE` or `STAGE=OUT`
fn emit(text: &str) -> Result<(Stage, Option<PathBuf>), String> {
    let (stage, out) = match text.split_once('=') {
        Some((stage, out)) => (stage, Some(PathBuf::from(out))),
        None => (text, None),
    };
    let known: Vec<String> =
        Stage::value_variants().iter().filter_map(|s| Some(s.to_possible_value()?.get_name().to_owned())).collect();
    let stage = Stage::from_str(stage, false).map_err(|_| format!("`{stage}` is not one of {}", known.join(", ")))?;
    Ok((stage, out))
}

#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// What to count.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) lengths: LengthArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Element type of the inputs and the output.
    #[arg(long, value_enum, default_value_t = Element::F32)]
    pub(crate) dtype: Element,
    /// Tensors file with the program's maps.
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: Option<PathBuf>,
    /// Levels (`g.k`), scores and selections that are handed back: tells how many bytes they take.
    #[arg(long = "return", value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) returned: Vec<String>,
    /// Threads that the predicted time is for [default: all cores].
    #[arg(long, value_name = "T", value_parser = positive)]
    pub(crate) threads: Option<i64>,
    #[command(flatten)]
    pub(crate) calibration: CalibrationArgs,
    /// Text or JSON.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Formats of other engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportAs {
    /// BlockMask of FlexAttention.
    Flex,
    /// mask_func of cuDNN.
    Cudnn,
    /// startend_row_indices of FlashMask.
    Flashmask,
    /// Block-sparse rows of FlashInfer.
    Flashinfer,
    /// MaskInfo of JAX Splash.
    Splash,
    /// Ranges of MagiAttention.
    Magi,
    /// Compressed rows.
    Csr,
    /// Pairs.
    Coo,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// What to export.
    #[arg(value_name = "FILE[:NAME]", value_parser = subject)]
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) lengths: LengthArgs,
    #[command(flatten)]
    pub(crate) sizes: SizeArgs,
    /// The format.
    #[arg(long = "as", value_enum)]
    pub(crate) form: ExportAs,
    /// Number of query heads [default: the model's, or 1].
    #[arg(long, value_name = "H", value_parser = count, allow_negative_numbers = true)]
    pub(crate) heads: Option<i64>,
    /// Queries and keys of a block [default: 128, or what divides the lengths].
    #[arg(long, value_name = "B", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) block: Option<i64>,
    /// Most functions of cuDNN, most slices of MagiAttention.
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub(crate) most: Option<i64>,
    /// Leave out scores, biases and null slots, which the engine must be given in another way.
    #[arg(long)]
    pub(crate) mask_only: bool,
    /// Tensors file with the program's maps.
    #[arg(long, value_name = "T.safetensors")]
    pub(crate) input: Option<PathBuf>,
    /// Safetensors file for the arrays; without it they are printed as JSON.
    #[arg(short, long, value_name = "OUT.safetensors")]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_has_no_conflict() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_name_follows_the_last_colon() {
        let name = |text: &str| subject(text).map(|s| (s.path, s.name));
        assert_eq!(name("a.attn:window"), Ok(("a.attn".into(), Some("window".into()))));
        assert_eq!(name("a.attn"), Ok(("a.attn".into(), None)));
        assert_eq!(name("dir:x/a.attn"), Ok(("dir:x/a.attn".into(), None)));
        assert_eq!(name("-:window"), Ok(("-".into(), Some("window".into()))));
        assert_eq!(name("\0:window"), Ok(("-".into(), Some("window".into()))));
        assert_eq!(name(":window"), Ok((":window".into(), None)));
    }

    #[test]
    fn passes_are_left_out_by_name() {
        let all: Vec<&str> = optional_passes().map(|p| p.name).collect();
        assert!(PassArgs::default().without().is_empty());
        assert_eq!(PassArgs::only(vec![]).without(), all);
        assert_eq!(PassArgs::only(vec![all[0].to_owned()]).without(), all[1..]);
        assert_eq!(PassArgs { no_pass: vec![all[0].to_owned()], ..PassArgs::default() }.without(), all[..1]);
        assert!(optional_pass("rows").is_err_and(|e| e.contains("cannot be left out") && e.contains(all[0])));
        assert!(optional_pass("row").is_err_and(|e| e.contains("is no pass")));
    }

    #[test]
    fn percentages_are_shares() {
        assert_eq!((percent("5%"), percent("12.5")), (Ok(0.05), Ok(0.125)));
        assert!(percent("-1%").is_err() && percent("fast").is_err());
    }

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in ["cpu", "cpu:scalar", "cpu:avx2", "cpu:avx512", "oracle"] {
            assert_eq!(target(text).map(|t| t.to_string()), Ok(text.to_owned()));
        }
        #[cfg(feature = "gpu")]
        for text in ["gpu", "gpu:matrix", "gpu:vulkan", "gpu:f16:vulkan:NVIDIA H100", "gpu:metal:a:b"] {
            assert_eq!(target(text).map(|t| t.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "cpu:", "cpu:mmx", "gpus", "gpu:", "gpu:vulkan:", "oracle:1"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(assignment("video.t=1_1"), Ok(("video.t".into(), 11)));
        assert!(assignment("w").is_err());
        assert!(assignment("w=9223372036854775808").is_err());
        assert!(length("-1").is_err());
        assert_eq!(range("3..5"), Ok(3..5));
        assert!(range("5..3").is_err());
    }
}
