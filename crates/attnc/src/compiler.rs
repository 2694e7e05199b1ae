//! From files to a module: what a `.attn` file declares, checked, and the plans and kernels made from it on demand.
//!
//! ```text
//! text --load, parse--> units --check--> Program --lint--> Module --plan, compile--> Kernel
//! ```
//!
//! One idea: an attention is compiled once for a module, whoever asks and for however many heads and layers.
//! Nothing here knows of tensors.

use std::fmt;
use std::sync::{Arc, OnceLock};

use attnc_cpu::{CompileError, CpuKernel, Isa, LayoutError, Store};
use attnc_kernels::MergeError;
use attnc_pattern::analysis::{self, Candidates, EvalError};
use attnc_pattern::check::{self, Settings};
use attnc_pattern::program::Program;
use attnc_plan::{Built, Machine};
use attnc_syntax::ast::{File, ItemKind};
use attnc_syntax::diag::{CodeInfo, Diagnostic, FileId, Severity};
use rayon::prelude::*;

use crate::kernel::{Kernel, Select};
use crate::layout::{self, Layout};
use crate::loader::{self, LoadError, Loader, Memory, Sources, any_error};
use crate::numbers::{Number, Strides};
use crate::problem;

/// Code of a target that this machine lacks.
pub const NO_TARGET: &str = "E0610";
/// Code of a setting of a param that the file does not declare.
pub const UNKNOWN_PARAM: &str = "E0308";
/// Code of a setting whose value does not fit its param.
pub const BAD_SETTING: &str = "E0309";
/// Code of a plan that broke a rule: a mistake of the compiler.
pub const BROKEN_PLAN: &str = "E0699";
/// Code of a name that the file does not declare.
pub const UNKNOWN_NAME: &str = "E0612";
/// Code of a tree that no text parses to.
pub const NO_TEXT: &str = "E0613";

/// What was said about a compilation, with the texts that it points into.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order in which they were found.
    pub list: Vec<Diagnostic>,
    /// The files that labels name.
    pub sources: Sources,
}

impl Diagnostics {
    /// Whether one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        any_error(&self.list)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics { list: vec![diagnostic], sources: Sources::default() }
    }
}

impl Diagnostics {
    /// The code of the first error, as `attnc explain` takes it.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        self.list.iter().find(|d| d.severity == Severity::Error).map(|d| d.code)
    }
}

impl From<LayoutError> for Diagnostics {
    /// `E0721`: a tensor that cannot be used where it lies.
    fn from(error: LayoutError) -> Self {
        Diagnostic::global("E0721", error.to_string()).help("give strides in bytes, within the slice").into()
    }
}

impl From<MergeError> for Diagnostics {
    /// `E0721`: parts that do not fit together.
    fn from(error: MergeError) -> Self {
        Diagnostic::global("E0721", error.to_string()).into()
    }
}

impl From<EvalError> for Diagnostics {
    /// `E0708`: a set that has no value for the lengths and data of a launch.
    fn from(error: EvalError) -> Self {
        Diagnostic::global("E0708", error.to_string()).into()
    }
}

impl fmt::Display for Diagnostics {
    /// One line for each: `error[E0203]: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.list.iter().enumerate() {
            let kind = if d.severity == Severity::Error { "error" } else { "warning" };
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{kind}[{}]: {}", d.code, d.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// What runs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code for this CPU, calling kernels of an instruction set; `None` is the best it has.
    Cpu(Option<Isa>),
    /// The definition in f64, pair by pair: slow, and right. Nothing is compiled.
    Oracle,
    /// Compute shaders of a variant; `None` is the best that the GPU runs for the tensors of a launch.
    #[cfg(feature = "gpu")]
    Gpu(Option<attnc_gpu::Variant>),
}

impl Target {
    /// The target of this name: `cpu`, `cpu:scalar`, `cpu:avx2`, `cpu:avx512` or `oracle`. A GPU is named to who opens it.
    #[must_use]
    pub fn named(name: &str) -> Option<Target> {
        Some(match name {
            "cpu" => Target::Cpu(None),
            "cpu:scalar" => Target::Cpu(Some(Isa::Scalar)),
            "cpu:avx2" => Target::Cpu(Some(Isa::Avx2)),
            "cpu:avx512" => Target::Cpu(Some(Isa::Avx512)),
            "oracle" => Target::Oracle,
            _ => return None,
        })
    }
}

impl Default for Target {
    /// This CPU, or the oracle where the feature `cpu` is off.
    fn default() -> Self {
        if cfg!(feature = "cpu") { Target::Cpu(None) } else { Target::Oracle }
    }
}

/// What a host may decide.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Values of params by name, as they would stand in the file.
    pub set: Vec<(String, String)>,
    /// What runs the kernels.
    pub target: Target,
    /// Passes and tile sizes.
    pub plan: attnc_plan::Options,
    /// Keep the text of Cranelift's IR.
    pub clif: bool,
    /// Keep the text of the machine code.
    pub asm: bool,
    /// Count the operations that kernels execute, see [`crate::measure::flops_executed`].
    pub counting: bool,
}

/// Compiles files.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    options: Options,
    store: Option<Arc<dyn Store>>,
}

impl Compiler {
    /// A compiler with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Compiler { options, store: None }
    }

    /// Looks for machine code in a store before it is made, and puts there what was made. A kernel is found by all that
    /// decides its code: the sources without their layout and comments, the settings, the passes, the build of this
    /// program and the kind of CPU. What cannot be used is made anew.
    #[must_use]
    pub fn kept_in(self, store: Arc<dyn Store>) -> Self {
        Compiler { store: Some(store), ..self }
    }

    /// Loads, parses and checks the file that `path` names and all that it imports. Nothing is planned yet.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn compile(&self, loader: &dyn Loader, path: &str) -> Result<Module, Diagnostics> {
        let loaded = loader::load(loader, path);
        let (sources, mut list) = (loaded.sources, loaded.diagnostics);
        // A file that did not parse lacks names: what the checker would say of them is noise.
        if any_error(&list) {
            return Err(Diagnostics { list, sources });
        }
        let settings = Settings { set: self.options.set.clone() };
        let (program, said) = check::check(&loaded.units, &settings);
        list.extend(said);
        let Some(program) = program.filter(|_| !any_error(&list)) else {
            return Err(Diagnostics { list, sources });
        };
        let kept = self.store.clone().map(|store| {
            let mut source = String::new();
            for file in sources.iter() {
                let words = attnc_syntax::words(&file.text);
                source.push_str(&format!("{} {words}\n", words.len()));
            }
            for (name, value) in &self.options.set {
                source.push_str(&format!("{name:?}={value:?}\n"));
            }
            (store, source)
        });
        let ast = loaded.units.into_iter().next_back().map(|unit| unit.ast).unwrap_or_default();
        fn slots<T>(n: usize) -> Vec<OnceLock<T>> {
            (0..n).map(|_| OnceLock::new()).collect()
        }
        let mut options = self.options.clone();
        options.plan.machine.get_or_insert_with(Machine::typical::<attnc_cpu::Visits>);
        Ok(Module(Arc::new(Shared {
            plans: slots(program.attentions.len()),
            kernels: slots(program.attentions.len()),
            #[cfg(feature = "gpu")]
            shaders: slots(program.attentions.len()),
            candidates: slots(program.draws.len()),
            program: Arc::new(program),
            sets: OnceLock::new(),
            ast,
            options,
            kept,
            warnings: list,
            sources,
        })))
    }

    /// Compiles a text that stands in no file.
    ///
    /// # Errors
    /// As for [`Compiler::compile`].
    pub fn source(&self, text: &str) -> Result<Module, Diagnostics> {
        self.compile(&Memory::file("source", text), "source")
    }

    /// Compiles a tree that was built, as by [`attnc_syntax::construct`], and not parsed. Its text is laid out first, and
    /// diagnostics show that; imports are looked for with `loader`.
    ///
    /// # Errors
    /// As for [`Compiler::compile`], and `E0613` for a tree that has no text, such as one with a name of two words.
    pub fn tree(&self, loader: &dyn Loader, tree: &File) -> Result<Module, Diagnostics> {
        let text = attnc_syntax::print_file(tree);
        let parsed = attnc_syntax::parse(&text, FileId::default());
        if !any_error(&parsed.diagnostics) && attnc_syntax::dump(&parsed.file) != attnc_syntax::dump(tree) {
            let message = "a tree was built that no text parses to";
            let said = Diagnostic::global(NO_TEXT, message).help("names are single words, and operands stand in order");
            return Err(said.into());
        }
        self.compile(&LaidOut { text, loader }, BUILT)
    }
}

/// Name of a text that was laid out from a tree.
const BUILT: &str = "built";

/// The text of a tree, and whatever files it imports.
struct LaidOut<'a> {
    text: String,
    loader: &'a dyn Loader,
}

impl Loader for LaidOut<'_> {
    fn load(&self, from: Option<&str>, path: &str) -> Result<(String, Vec<u8>), LoadError> {
        match from {
            None => Ok((BUILT.to_owned(), self.text.clone().into_bytes())),
            // It stands in no directory.
            Some(from) => self.loader.load(Some(from).filter(|from| *from != BUILT), path),
        }
    }
}

/// A checked file.
#[derive(Clone, Debug)]
pub struct Module(Arc<Shared>);

type Planned = OnceLock<Result<Arc<Built>, Vec<Diagnostic>>>;
type Compiled = OnceLock<Result<Option<Arc<CpuKernel>>, Vec<Diagnostic>>>;

/// What a module and its kernels hold together.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) program: Arc<Program>,
    sets: OnceLock<Program>,
    ast: File,
    options: Options,
    /// Where machine code is kept, and what its names begin with.
    kept: Option<(Arc<dyn Store>, String)>,
    warnings: Vec<Diagnostic>,
    sources: Sources,
    /// By attention.
    plans: Vec<Planned>,
    /// By attention.
    kernels: Vec<Compiled>,
    /// By attention.
    #[cfg(feature = "gpu")]
    shaders: Vec<OnceLock<Result<Arc<attnc_gpu::GpuKernel>, Vec<Diagnostic>>>>,
    /// Candidate sets by draw.
    pub(crate) candidates: Vec<OnceLock<Candidates>>,
}

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A pattern without arguments.
    Pattern,
    /// An attention.
    Attention,
    /// A model.
    Model,
}

impl Module {
    /// What can be run, in the order written.
    #[must_use]
    pub fn uses(&self) -> Vec<(&str, Kind)> {
        let program = &self.0.program;
        let known = |name: &str| program.attentions.iter().any(|a| a.name == name);
        self.0
            .ast
            .items
            .iter()
            .filter_map(|item| match &item.kind {
                ItemKind::Pattern { name, args, .. } if args.is_empty() && known(&name.text) => {
                    Some((name.text.as_str(), Kind::Pattern))
                }
                ItemKind::Attention { name, .. } | ItemKind::Merge { name, .. } => {
                    Some((name.text.as_str(), Kind::Attention))
                }
                ItemKind::Model(model) => Some((model.name.text.as_str(), Kind::Model)),
                _ => None,
            })
            .collect()
    }

    /// What is meant if no name is given: the use named like the file (`stem`), else the only model, else the only
    /// attention, else the only pattern.
    ///
    /// # Errors
    /// If several could be meant, or none.
    pub fn default_use(&self, stem: &str) -> Result<String, Diagnostics> {
        let uses = self.uses();
        let stem = stem.replace('-', "_");
        if let Some((name, _)) = uses.iter().find(|(name, _)| *name == stem) {
            return Ok((*name).to_owned());
        }
        for kind in [Kind::Model, Kind::Attention, Kind::Pattern] {
            let mut of_kind = uses.iter().filter(|(_, k)| *k == kind);
            match (of_kind.next(), of_kind.next()) {
                (Some((name, _)), None) => return Ok((*name).to_owned()),
                (Some(_), Some(_)) => break,
                _ => {}
            }
        }
        let (message, help) = if uses.is_empty() {
            ("the file declares nothing that can be run".to_owned(), "add a pattern without arguments".to_owned())
        } else {
            let names: Vec<&str> = uses.iter().map(|(name, _)| *name).collect();
            ("the file declares several patterns".to_owned(), format!("name one as FILE:NAME: {}", names.join(", ")))
        };
        Err(self.0.said(vec![Diagnostic::global(UNKNOWN_NAME, message).help(help)]))
    }

    /// The checked program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// The syntax tree of the file itself.
    #[must_use]
    pub fn ast(&self) -> &File {
        &self.0.ast
    }

    /// The integers of the file that decide its sets.
    #[must_use]
    pub fn numbers(&self) -> Vec<Number> {
        crate::numbers::numbers(&self.0.ast)
    }

    /// The neighbourhoods of the named file, each with where the strides of its axes stand or may stand.
    #[must_use]
    pub fn strides(&self) -> Vec<Strides> {
        crate::numbers::strides(&self.0.ast)
    }

    /// Other orders in which the tokens of the named file's grids may lie, see [`Kernel::same_laid_out`].
    #[must_use]
    pub fn layouts(&self) -> Vec<Layout> {
        layout::layouts(&self.0.ast, &self.0.sources)
    }

    /// The syntax tree as text.
    #[must_use]
    pub fn ast_text(&self) -> String {
        attnc_syntax::dump(&self.0.ast)
    }

    /// The checked program as text: every attention with its sets and expressions.
    #[must_use]
    pub fn program_text(&self) -> String {
        crate::text::program(&self.0.program)
    }

    /// The files it was made from; the first is the one that was named.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.0.sources
    }

    /// Warnings of the checker.
    #[must_use]
    pub fn warnings(&self) -> Diagnostics {
        self.0.said(self.0.warnings.clone())
    }

    /// Plans every attention and looks for empty rows, dead parts and forms without closed ends: everything that can be
    /// said of the file before it is run.
    #[must_use]
    pub fn check(&self) -> Diagnostics {
        let mut list = self.0.warnings.clone();
        list.extend(analysis::lint(&mut Program::clone(&self.0.program)));
        // Not kept: whoever checks a file of a thousand patterns will hardly run them all.
        for attention in (0..self.0.program.attentions.len()).filter(|&a| !self.0.program.is_dynamic(a)) {
            list.extend(self.0.planned(attention).err().into_iter().flatten());
        }
        self.0.said(list)
    }

    /// Number of tokens that the sizes of the space give; `None` if the space is open.
    ///
    /// # Errors
    /// Sizes that are unknown, missing, or give no length.
    pub fn tokens(&self, sizes: &[(&str, i64)]) -> Result<Option<i64>, Diagnostics> {
        problem::tokens(&self.0.program, sizes).map_err(|list| self.0.said(list))
    }

    /// The size that is the number of tokens, where the space is one axis that a size extends, as in `space line(x)`.
    #[must_use]
    pub fn axis(&self) -> Option<&str> {
        problem::axis(&self.0.program)
    }

    /// The attention of each head of a model's layer, as an index into [`Program::attentions`], `None` for `skip`;
    /// of anything else the one attention that every head has. Heads are those of the output, see
    /// [`Kernel::output_heads`].
    ///
    /// # Errors
    /// A name, layer or step that does not exist.
    pub fn assignment(&self, select: &Select) -> Result<Vec<Option<usize>>, Diagnostics> {
        crate::kernel::assignment(&self.0.program, select).map_err(|list| self.0.said(list))
    }

    /// Plans and compiles what the selection names. What is compiled already is used again.
    ///
    /// # Errors
    /// A name, layer or step that does not exist; sets without a plan; a target that this machine lacks.
    pub fn kernel(&self, select: &Select) -> Result<Kernel, Diagnostics> {
        Kernel::new(&self.0, select)
    }

    /// Plans and compiles every attention of the file, side by side on the host's pool of rayon: kernels are then made
    /// without delay. Returns how many there are.
    ///
    /// # Errors
    /// As for [`Module::kernel`], of every attention.
    pub fn compile_all(&self) -> Result<usize, Diagnostics> {
        let all: Vec<usize> = (0..self.0.program.attentions.len()).collect();
        self.0.compile_each(&all).map_err(|list| self.0.said(list))?;
        Ok(all.len())
    }
}

impl Shared {
    /// Diagnostics of this module.
    pub(crate) fn said(&self, list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { list, sources: self.sources.clone() }
    }

    /// The program without scores and biases: whoever looks only at sets need not be given what those read.
    pub(crate) fn sets(&self) -> &Program {
        self.sets.get_or_init(|| {
            let mut sets = Program::clone(&self.program);
            let scale = sets.exprs.real(1.0);
            for attention in &mut sets.attentions {
                attention.scale = scale;
                attention.score = None;
                attention.entries.iter_mut().for_each(|entry| entry.bias = None);
            }
            sets
        })
    }

    /// Passes and tile sizes.
    pub(crate) fn plan_options(&self) -> &attnc_plan::Options {
        &self.options.plan
    }

    /// What runs the kernels.
    pub(crate) fn target(&self) -> Target {
        self.options.target
    }

    /// The plan of an attention.
    pub(crate) fn plan(&self, attention: usize) -> Result<Arc<Built>, Vec<Diagnostic>> {
        self.plans[attention].get_or_init(|| self.planned(attention).map(Arc::new)).clone()
    }

    /// The plan of an attention, made anew.
    fn planned(&self, attention: usize) -> Result<Built, Vec<Diagnostic>> {
        #[cfg(feature = "gpu")]
        if let Target::Gpu(_) = self.options.target {
            return self.planned_for_gpu(attention);
        }
        self.planned_with(attention, &self.options.plan)
    }

    fn planned_with(&self, attention: usize, options: &attnc_plan::Options) -> Result<Built, Vec<Diagnostic>> {
        attnc_plan::build(&self.program, attention, options)
            .map_err(|error| vec![attnc_plan::codes::diagnostic(&self.program, attention, &error)])
    }

    /// The plan of an attention for shaders: in the order in which its set is dense, if they know it.
    #[cfg(feature = "gpu")]
    pub(crate) fn planned_for_gpu(&self, attention: usize) -> Result<Built, Vec<Diagnostic>> {
        // The model of time is that of a CPU.
        let mut options = attnc_plan::Options { machine: None, ..self.options.plan.clone() };
        let built = self.planned_with(attention, &options)?;
        if attnc_gpu::beyond(&built.plan).is_none() {
            return Ok(built);
        }
        options.without.push("reorder".to_owned());
        self.planned_with(attention, &options)
    }

    /// The plan of an attention before all passes, and after each that changed it, with what its stages are predicted to
    /// take with each tile that a pass may choose.
    pub(crate) fn passes_text(&self, attention: usize) -> String {
        // A plan that cannot be made has been refused before.
        let Ok(plan) = attnc_plan::Plan::new(self.program.clone(), attention) else { return String::new() };
        let mut last = plan.text();
        let mut text = format!("# before all passes\n{last}");
        let _ = attnc_plan::build_each(&self.program, attention, &self.options.plan, |pass, plan| {
            let now = plan.text();
            if now != last {
                text.push_str(&format!("\n# after {}: {}\n{now}", pass.name, pass.about));
                text.push_str(&self.predicted(plan));
                last = now;
            }
        });
        text
    }

    /// By stage, what a query takes with tiles of each size, as comments.
    fn predicted(&self, plan: &attnc_plan::Plan) -> String {
        use attnc_plan::choice::{NOMINAL, TILES};

        let Some(machine) = self.options.plan.machine else { return String::new() };
        let mut text = String::new();
        for (i, stage) in plan.stages.iter().enumerate() {
            let Some(prices) = machine.prices(&plan.program, stage) else { continue };
            let each = TILES.iter().zip(prices).map(|(&tile, nanos)| {
                let chosen = if tile == stage.tile.q { " (this plan)" } else { "" };
                format!("tiles of {tile} {nanos:.0} ns{chosen}")
            });
            let each = each.collect::<Vec<_>>().join(", ");
            text.push_str(&format!("# predicted for a query among {NOMINAL}, stage {i}: {each}\n"));
        }
        text
    }

    /// The machine code of an attention; `None` where nothing is compiled.
    pub(crate) fn compiled(&self, attention: usize) -> Result<Option<Arc<CpuKernel>>, Vec<Diagnostic>> {
        let make = || {
            self.runnable(attention)?;
            let Target::Cpu(isa) = self.options.target else { return Ok(None) };
            let built = self.plan(attention)?;
            let options = attnc_cpu::Options {
                isa,
                clif: self.options.clif,
                asm: self.options.asm,
                counting: self.options.counting,
                ..attnc_cpu::Options::default()
            };
            let kernel = match &self.kept {
                Some((store, source)) => {
                    attnc_cpu::compile_kept(&built.plan, &options, &format!("{attention} {source}"), &**store)
                }
                None => attnc_cpu::compile(&built.plan, &options),
            };
            kernel.map(|k| Some(Arc::new(k))).map_err(|error| vec![self.refused(attention, &error)])
        };
        self.kernels[attention].get_or_init(make).clone()
    }

    /// Whether no row of an attention is, or may be, empty without a policy.
    fn runnable(&self, attention: usize) -> Result<(), Vec<Diagnostic>> {
        match analysis::empty_rows(&mut Program::clone(&self.program), attention) {
            Some(error) => Err(vec![error]),
            None => Ok(()),
        }
    }

    /// The shaders of an attention; `None` where another target runs.
    #[cfg(feature = "gpu")]
    pub(crate) fn shaders(&self, attention: usize) -> Result<Option<Arc<attnc_gpu::GpuKernel>>, Vec<Diagnostic>> {
        let Target::Gpu(variant) = self.options.target else { return Ok(None) };
        let make = || {
            self.runnable(attention)?;
            let built = self.plan(attention)?;
            let kernel = attnc_gpu::GpuKernel::new(&built.plan, variant);
            kernel.map(Arc::new).map_err(|error| vec![self.not_emitted(attention, &error)])
        };
        self.shaders[attention].get_or_init(make).clone().map(Some)
    }

    /// Why an attention has no shader.
    #[cfg(feature = "gpu")]
    pub(crate) fn not_emitted(&self, attention: usize, error: &attnc_gpu::EmitError) -> Diagnostic {
        let span = self.program.attentions[attention].span;
        match error {
            attnc_gpu::EmitError::Unsupported(_) => {
                Diagnostic::error("E0611", span, error.to_string(), "asked for here")
                    .help("`--target cpu` and `--target oracle` run it")
            }
            _ => Diagnostic::global(crate::gpu::UNFIT, error.to_string())
                .help("`--target gpu` chooses a variant that takes these tensors; `--target cpu` takes any"),
        }
    }

    /// Compiles these attentions side by side; what is wrong is told in their order.
    pub(crate) fn compile_each(&self, attentions: &[usize]) -> Result<(), Vec<Diagnostic>> {
        let errors: Vec<Diagnostic> =
            attentions.par_iter().flat_map_iter(|a| self.compiled(*a).err().into_iter().flatten()).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn refused(&self, attention: usize, error: &CompileError) -> Diagnostic {
        let span = self.program.attentions[attention].span;
        match error {
            CompileError::Isa(isa) => {
                Diagnostic::global(NO_TARGET, format!("this machine does not run `cpu:{}`", isa.name()))
                    .help("`attnc targets` lists what it runs; `cpu:scalar` runs everywhere")
            }
            CompileError::Unsupported(_) => Diagnostic::error("E0611", span, error.to_string(), "asked for here"),
            CompileError::Backend(_) | CompileError::Absent => {
                Diagnostic::global(NO_TARGET, error.to_string()).help("the oracle runs everywhere: `--target oracle`")
            }
        }
    }
}

/// Diagnostics of targets and names.
pub(crate) const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: NO_TARGET,
        title: "this machine lacks the target",
        explain: "Compiled kernels need an instruction set that the CPU does not have, or code generation for this kind of CPU. \
                  `attnc targets` lists what runs here and why the rest does not.",
        example: "",
    },
    CodeInfo {
        code: "E0611",
        title: "the target does not support a construct",
        explain: "The pattern is valid, and the oracle runs it, but this target cannot.",
        example: "",
    },
    CodeInfo {
        code: "E0620",
        title: "the GPU variant does not take these tensors",
        explain: "The variants `f16` and `matrix` compute with f16: f32 and bf16 would be narrowed, which is never done silently. \
                  Dimensions are at most 256, and 128 for `matrix`. `--target gpu` chooses a variant by the tensors. \
                  Shaders make levels, scores and selections themselves: they take none that a caller gives, and hand none back.",
        example: "",
    },
    CodeInfo {
        code: "E0621",
        title: "an integer of the pattern may not fit 32 bits",
        explain: "GPUs compute with 32-bit integers. For the lengths and sizes of a launch every integer of the pattern must be \
                  proved to fit. This one may not: a product of positions, or a large constant. The CPU has 64 bits.",
        example: "",
    },
    CodeInfo {
        code: "E0622",
        title: "the GPU failed",
        explain: "The device was lost, has no memory left, does not allow buffers of that size, or its driver refused a shader. The \
                  message says which. Nothing of the output is valid then.",
        example: "",
    },
    CodeInfo {
        code: UNKNOWN_NAME,
        title: "no pattern, attention or model is meant",
        explain: "Without a name, FILE means the use named like the file, else its only model, else its only attention, else \
                  its only pattern. FILE:NAME names another. Patterns with arguments cannot be run by themselves.",
        example: "",
    },
    CodeInfo {
        code: NO_TEXT,
        title: "a tree that a program built has no text",
        explain: "A program that builds a pattern without text makes the nodes that the parser would. A name of two words, or \
                  an operand that needs parentheses and has none, is no such node.",
        example: "",
    },
];
