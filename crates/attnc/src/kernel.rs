//! A kernel: one attention, or one layer of a model, ready to run at any length.
//!
//! One idea: heads are data. A kernel knows for each query head which attention it has and which KV head it
//! reads; heads that share an attention share its machine code and run in one launch, and heads that skip cost
//! nothing. What a launch is given is checked here, against the program, before anything is written.

use std::fmt;
use std::ops::Range;
#[cfg(feature = "gpu")]
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use attnc_cpu::{Chosen, CpuKernel, HandedBack, Isa, Launch, OwnedPart, Part, RunError};
use attnc_pattern::analysis::{EvalError, Row, Rows, Values};
use attnc_pattern::env::{DrawTable, Env, Reals, Side, TensorData};
use attnc_pattern::expr::{DrawId, TensorId};
use attnc_pattern::oracle::{self, Evaluator, Misfit, OracleError, Output, Point};
use attnc_pattern::prepare::EnvError;
use attnc_pattern::program::{Chooser, Heads, MOST_BITS, Made, MergeKind, Model, Program};
use attnc_pattern::tolerance::{self, Dtype, Report, Rounding};
use attnc_plan::model::Work;
use attnc_plan::{Built, Cost, Counted, LayerPlan};
use attnc_syntax::diag::Diagnostic;

use crate::attended::Attended;
use crate::compiler::{Diagnostics, Shared, Target, UNKNOWN_NAME};
use crate::difference::Difference;
use crate::exchange::{self, Gather, Given, Returned, What};
use crate::forecast::{Forecast, Limit, Upcoming};
use crate::kept::Kept;
use crate::made::{self, Of};
use crate::problem::{self, At, Envs, Inputs, Problem, Shape, Wants, one};
use crate::ready::{Launched, Ready};
use crate::tensor::{Tensor, TensorMut};
use crate::view::View;

/// What of a module to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// A pattern, attention or model.
    pub name: String,
    /// The layer; what an attention reads as `layer`, and which one of a model.
    pub layer: i64,
    /// The step.
    pub step: i64,
}

impl Select {
    /// Layer 0 and step 0 of what has this name.
    pub fn named(name: impl Into<String>) -> Self {
        Select { name: name.into(), layer: 0, step: 0 }
    }

    /// Another layer.
    #[must_use]
    pub fn layer(mut self, layer: i64) -> Self {
        self.layer = layer;
        self
    }

    /// Another step.
    #[must_use]
    pub fn step(mut self, step: i64) -> Self {
        self.step = step;
        self
    }
}

/// What a launch made beside its output.
#[derive(Default)]
struct Noted {
    chosen: Vec<Chosen>,
    handed_back: HandedBack,
}

impl Noted {
    fn extend(&mut self, other: Noted) {
        self.chosen.extend(other.chosen);
        self.handed_back.levels.extend(other.handed_back.levels);
        self.handed_back.scores.extend(other.handed_back.scores);
    }
}

/// Most batch items of a launch.
const MAX_BATCH: usize = 1 << 20;

/// Threads for launches.
#[derive(Debug)]
pub struct Threads(rayon::ThreadPool);

impl From<rayon::ThreadPool> for Threads {
    /// A pool that a host has made.
    fn from(pool: rayon::ThreadPool) -> Self {
        Threads(pool)
    }
}

impl Threads {
    /// A pool of this many threads, at least one.
    ///
    /// # Errors
    /// `E0735` if the system refuses to start them, and why.
    pub fn new(threads: usize) -> Result<Self, Diagnostic> {
        // One after the other: a thread that has been made and lacks memory to begin would end the process.
        let start = |thread: rayon::ThreadBuilder| {
            let (begun, begins) = std::sync::mpsc::sync_channel(1);
            let run = move || {
                let _ = begun.send(());
                thread.run();
            };
            std::thread::Builder::new().spawn(run)?;
            // It has begun, or has gone: the pool notices.
            let _ = begins.recv();
            Ok(())
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).spawn_handler(start).build();
        pool.map(Threads).map_err(|e| {
            let reason = e.to_string();
            // The system's reason, without its number.
            let reason = reason.split(" (os error").next().unwrap_or(&reason);
            Diagnostic::global("E0735", format!("{threads} threads cannot be started: {reason}"))
                .help("use fewer threads")
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `work` in the pool: what it does side by side is done by these threads.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }

    /// Runs `work` on every thread at once and returns the results.
    pub fn broadcast<T: Send>(&self, work: impl Fn() -> T + Sync) -> Vec<T> {
        self.0.broadcast(|_| work())
    }
}

/// Memory and threads of a launch; the default allocates what it needs and runs on all cores.
#[derive(Debug, Default)]
pub struct Resources<'a> {
    /// Threads to run on; `None` is the host program's pool of rayon: that of the calling thread, or the global one.
    pub threads: Option<&'a Threads>,
    /// Working memory, see [`Kernel::workspace_bytes`]; `None` takes that of `ready`, or allocates it for this launch.
    pub workspace: Option<&'a mut [u8]>,
    /// What the launch before left and this one leaves: launches that are alike allocate nothing but the first.
    pub ready: Option<&'a mut Ready>,
}

/// Memory that a launch takes beside its tensors, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Bytes of working memory.
    pub workspace: usize,
    /// Bytes of lists that it makes besides: rows in orders, slots of levels, candidates of a ranking.
    pub lists: usize,
}

impl Footprint {
    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.workspace.saturating_add(self.lists)
    }
}

/// One attention, or one layer of a model, compiled. Shared freely between threads.
#[derive(Clone)]
pub struct Kernel {
    shared: Arc<Shared>,
    select: Select,
    who: Who,
    /// Attentions in use, each with its plan and code, in the order of the program.
    parts: Vec<Piece>,
}

/// An attention in use.
#[derive(Clone)]
struct Piece {
    attention: usize,
    /// Absent where the oracle runs what has no plan.
    built: Option<Arc<Built>>,
    /// Absent where the oracle or a GPU runs.
    code: Option<Arc<CpuKernel>>,
    /// Absent where something else runs.
    #[cfg(feature = "gpu")]
    shaders: Option<Arc<attnc_gpu::GpuKernel>>,
    /// Of a merge, which has none of these: the attentions whose outputs become one.
    arms: Vec<Piece>,
    /// What the output of each of its leaves is weighed by, where a GPU runs.
    #[cfg(feature = "gpu")]
    gates: Vec<Arc<attnc_gpu::Gate>>,
    /// Rows of every entry, made when a launch first asks how long they are.
    rows: Arc<OnceLock<Vec<Rows>>>,
}

/// An attention with shaders, and of an arm the merge and its gate.
#[cfg(feature = "gpu")]
pub(crate) type Arm = (usize, Option<(usize, Arc<attnc_gpu::Gate>)>);

/// Heads of a part, and its plan.
type Group<'a> = (&'a Piece, Vec<usize>);

impl Piece {
    fn new(shared: &Shared, attention: usize) -> Result<Piece, Vec<Diagnostic>> {
        let merge = &shared.program.attentions[attention].merge;
        if let Some(merge) = merge.as_ref().filter(|m| !matches!(m.kind, MergeKind::Mean { branches: Some(_) })) {
            let arms = merge.arms.iter().map(|&arm| Piece::new(shared, arm)).collect::<Result<_, _>>()?;
            let made = Piece {
                attention,
                built: None,
                code: None,
                #[cfg(feature = "gpu")]
                shaders: None,
                arms,
                #[cfg(feature = "gpu")]
                gates: Vec::new(),
                rows: Arc::default(),
            };
            #[cfg(feature = "gpu")]
            let made = match shared.target() {
                Target::Gpu(_) => Piece { gates: made.gates_of(shared)?, ..made },
                _ => made,
            };
            return Ok(made);
        }
        let code = shared.compiled(attention)?;
        let built = match shared.plan(attention) {
            Ok(built) => Some(built),
            // The oracle runs what has no plan.
            Err(_) if shared.target() == Target::Oracle && shared.program.is_dynamic(attention) => None,
            Err(list) => return Err(list),
        };
        Ok(Piece {
            attention,
            built,
            code,
            #[cfg(feature = "gpu")]
            shaders: shared.shaders(attention)?,
            arms: Vec::new(),
            #[cfg(feature = "gpu")]
            gates: Vec::new(),
            rows: Arc::default(),
        })
    }

    /// What is run for it: itself, or all that a merge is made of.
    fn leaves(&self) -> Vec<&Piece> {
        if self.arms.is_empty() { vec![self] } else { self.arms.iter().flat_map(Piece::leaves).collect() }
    }

    /// What each of its leaves is weighed by: the product of the gates on the way to it.
    #[cfg(feature = "gpu")]
    fn gates_of(&self, shared: &Shared) -> Result<Vec<Arc<attnc_gpu::Gate>>, Vec<Diagnostic>> {
        let program = &shared.program;
        let mut weights = Vec::new();
        let mut pending = vec![(self, Vec::new(), 1.0_f32)];
        while let Some((piece, factors, share)) = pending.pop() {
            let Some(merge) = program.attentions[piece.attention].merge.as_ref().filter(|_| !piece.arms.is_empty())
            else {
                weights.push((factors, share));
                continue;
            };
            // The first arm is taken first.
            for (number, arm) in piece.arms.iter().enumerate().rev() {
                pending.push(match &merge.kind {
                    MergeKind::Gate(gates) => (arm, factors.iter().copied().chain([gates[number]]).collect(), share),
                    MergeKind::Mean { .. } => (arm, factors.clone(), share / piece.arms.len() as f32),
                });
            }
        }
        let name = &program.attentions[self.attention].name;
        let gate = |(factors, share)| attnc_gpu::Gate::new(program, name, factors, share).map(Arc::new);
        let gates: Result<_, _> = weights.into_iter().map(gate).collect();
        gates.map_err(|error| vec![shared.not_emitted(self.attention, &error)])
    }

    /// Outputs that are held at once: of a merge its sum, and that of the arm at hand.
    fn depth(&self) -> usize {
        match self.arms.iter().map(|arm| arm.depth().max(1)).max() {
            Some(arms) => arms + 1,
            None => 0,
        }
    }

    /// How long the rows of a head are.
    fn lengths(&self, env: &Env<'_>) -> Lengths {
        if env.n_q <= FEW_ROWS {
            return Lengths::default();
        }
        let Some(built) = &self.built else { return Lengths::default() };
        let plan = &built.plan;
        let rows = self.rows.get_or_init(|| {
            let of = |e: &attnc_plan::Entry| match e {
                attnc_plan::Entry::Tokens { rows, .. } => Some(Rows::new(&plan.program, rows)),
                attnc_plan::Entry::Null { .. } => None,
            };
            plan.given.iter().filter_map(of).collect()
        });
        let mut sampled = [0, env.n_q / 2, env.n_q - 1].map(|i| (env.q_start + i, 0));
        for rows in rows {
            // Rows that cannot be computed are refused elsewhere.
            let Ok(mut walker) = rows.walker(env) else { continue };
            for (q, keys) in &mut sampled {
                *keys += walker.row(*q).map_or(0, Row::count);
            }
        }
        let [first, middle, last] = sampled.map(|row| row.1);
        Lengths { keys: first + middle + last, falling: first > last }
    }
}

/// Queries up to which a head is one tile, of whose rows nothing needs to be known.
const FEW_ROWS: i64 = 64;

/// Lengths of some rows of a head: which tasks of a launch take long.
#[derive(Clone, Copy, Default)]
struct Lengths {
    /// Keys of the first, the middle and the last.
    keys: u64,
    /// The first is longer than the last.
    falling: bool,
}

/// What environments are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A launch.
    Run,
    /// Rows and counts: what only scores read may be absent.
    Look,
    /// The oracle, which finds candidates of random choices pair by pair.
    Oracle,
}

/// Which attention a head has.
#[derive(Clone, Debug)]
enum Who {
    /// Any number of heads, all with this one.
    Every(usize),
    /// As a model says: the attention of each head of the output, and which heads it reads.
    Model { name: usize, attentions: Vec<Option<usize>>, reads: Reads },
}

/// The heads of Q, and of K and V, that each head of the output reads.
#[derive(Clone, Debug)]
struct Reads {
    q: Vec<usize>,
    kv: Vec<usize>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("select", &self.select).field("hash", &self.hash()).finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new(shared: &Arc<Shared>, select: &Select) -> Result<Kernel, Diagnostics> {
        let who = who(&shared.program, select).map_err(|list| shared.said(list))?;
        let mut used: Vec<usize> = match &who {
            Who::Every(attention) => vec![*attention],
            Who::Model { attentions, .. } => attentions.iter().flatten().copied().collect(),
        };
        used.sort_unstable();
        used.dedup();
        if used.len() > 1 && used.iter().all(|&a| shared.program.attentions[a].merge.is_none()) {
            shared.compile_each(&used).map_err(|list| shared.said(list))?;
        }
        let mut parts = Vec::with_capacity(used.len());
        for attention in used {
            parts.push(Piece::new(shared, attention).map_err(|list| shared.said(list))?);
        }
        Ok(Kernel { shared: shared.clone(), select: select.clone(), who, parts })
    }

    /// What it is: name, layer and step.
    #[must_use]
    pub fn select(&self) -> &Select {
        &self.select
    }

    /// The checked program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.shared.program
    }

    /// Query heads and KV heads, if a model fixes them.
    #[must_use]
    pub fn heads(&self) -> Option<(i64, i64)> {
        match &self.who {
            Who::Every(_) => None,
            Who::Model { name, .. } => {
                let model = &self.shared.program.models[*name];
                Some((model.heads, model.kv_heads))
            }
        }
    }

    /// Heads of the output for this many query heads: as many, but where a model has several KV heads for each query
    /// head and so repeats its queries, as many as KV heads.
    #[must_use]
    pub fn output_heads(&self, heads: usize) -> usize {
        match &self.who {
            Who::Every(_) => heads,
            Who::Model { attentions, .. } => attentions.len(),
        }
    }

    /// Attention of a head of the output, as an index into [`Program::attentions`]; `None` for `skip`.
    #[must_use]
    pub fn attention(&self, head: usize) -> Option<usize> {
        match &self.who {
            Who::Every(attention) => Some(*attention),
            Who::Model { attentions, .. } => attentions.get(head).copied().flatten(),
        }
    }

    /// The attentions in use, as indices into [`Program::attentions`].
    #[must_use]
    pub fn attentions(&self) -> Vec<usize> {
        self.parts.iter().map(|p| p.attention).collect()
    }

    /// Texts of the plans; of a model also that of the layer.
    #[must_use]
    pub fn plan_text(&self) -> String {
        let mut texts: Vec<String> = self.plans().map(|b| b.plan.text()).collect();
        if let Who::Model { reads, .. } = &self.who {
            texts.extend(self.layer_passed(reads, |_, _| ()).ok().map(|plan| plan.text()));
        }
        texts.join("\n")
    }

    /// Hash of the plans: of the only one, or of all, joined by `+`. Equal hashes round alike.
    #[must_use]
    pub fn hash(&self) -> String {
        self.plans().map(|b| b.plan.hash()).collect::<Vec<_>>().join("+")
    }

    fn plans(&self) -> impl Iterator<Item = &Built> {
        self.parts.iter().flat_map(Piece::leaves).filter_map(|p| p.built.as_deref())
    }

    /// Whether all that it is made of has a plan: what the oracle alone runs has none.
    ///
    /// # Errors
    /// What has no plan, and where it was written.
    pub fn planned(&self) -> Result<(), Diagnostics> {
        let without = self.parts.iter().flat_map(Piece::leaves).filter(|p| p.built.is_none());
        let refused: Vec<Diagnostic> = without.filter_map(|p| self.shared.plan(p.attention).err()).flatten().collect();
        if refused.is_empty() { Ok(()) } else { Err(self.shared.said(refused)) }
    }

    /// The stages of the plans as graphs in the language of Graphviz.
    #[must_use]
    pub fn plan_dot(&self) -> String {
        self.plans().map(|b| b.plan.dot()).collect::<Vec<_>>().join("\n")
    }

    /// The plan of an attention, or the error of one that has none.
    fn plan_of<'a>(&self, piece: &'a Piece) -> Result<&'a Built, Diagnostics> {
        let none = || {
            let attention = &self.shared.program.attentions[piece.attention];
            let message = format!("`{}` has no plan: it has levels, selections or a merge", attention.name);
            let said = Diagnostic::error("E0611", attention.span, message, "depends on the data of a launch");
            self.shared.said(vec![said.help("give its inputs: `--input FILE --target oracle`")])
        };
        piece.built.as_deref().ok_or_else(none)
    }

    /// Instruction set of the kernels; `None` if nothing is compiled.
    #[must_use]
    pub fn isa(&self) -> Option<Isa> {
        self.parts.iter().flat_map(Piece::leaves).find_map(|p| p.code.as_ref()).map(|code| code.isa())
    }

    /// Text of Cranelift's IR by name of attention, if the compiler was asked to keep it.
    #[must_use]
    pub fn clif(&self) -> Vec<(&str, &str)> {
        let leaves = self.parts.iter().flat_map(Piece::leaves);
        leaves.filter_map(|p| Some((self.name_of(p.attention), p.code.as_ref()?.clif()?))).collect()
    }

    /// Text of the machine code by name of attention, if the compiler was asked to keep it.
    #[must_use]
    pub fn asm(&self) -> Vec<(&str, &str)> {
        let leaves = self.parts.iter().flat_map(Piece::leaves);
        leaves.filter_map(|p| Some((self.name_of(p.attention), p.code.as_ref()?.asm()?))).collect()
    }

    fn name_of(&self, attention: usize) -> &str {
        &self.shared.program.attentions[attention].name
    }

    /// Bytes of working memory with which a launch uses `threads` threads: for an output of `out`, `[batch, heads,
    /// queries, d_v]`, and this many keys of `dim` elements.
    ///
    /// # Errors
    /// Levels and selections whose memory depends on more than lengths, on sizes of a grid for example: then
    /// [`Kernel::memory`] says it for the inputs of a launch.
    pub fn workspace_bytes(
        &self,
        out: [usize; 4],
        keys: usize,
        dim: usize,
        threads: usize,
    ) -> Result<usize, Diagnostics> {
        let [batch, heads, n_q, dim_v] = out;
        self.fits(batch, heads)?;
        let codes = self.parts.iter().flat_map(Piece::leaves).filter_map(|p| p.code.as_deref());
        // What levels and tables take depends on lengths; where it depends on sizes too, those are not known here.
        let lengths = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).min(attnc_plan::MAX_LEN);
        let (queries, all) = (lengths(n_q), lengths(keys));
        let env = Env {
            n_q: queries,
            n_k: all,
            q_start: (all - queries).max(0),
            heads: lengths(heads),
            dim: lengths(dim),
            sizes: vec![all; self.shared.program.sizes.len()],
            ..Env::default()
        };
        let list: Vec<usize> = (0..heads).collect();
        let envs =
            if codes.clone().any(CpuKernel::is_dynamic) { vec![env; batch.saturating_mul(heads)] } else { vec![] };
        let parts: Vec<Part<'_>> = codes
            .map(|kernel| match kernel.is_dynamic() {
                true => Part { kernel, heads: &list, envs: &envs, forward: false },
                false => Part { kernel, heads: &[], envs: &[], forward: false },
            })
            .collect();
        // Which part has how many heads is known at the launch: as if all had the one that keeps most.
        let between = parts.iter().map(|p| p.kernel.between_bytes(n_q, dim_v)).max().unwrap_or(0);
        let between = between.saturating_mul(batch.saturating_mul(heads));
        match attnc_cpu::workspace_bytes(&parts, keys, dim, dim_v, threads).checked_add(between) {
            Some(bytes) if bytes < usize::MAX => Ok(bytes),
            _ => {
                let sentence = "how much its levels and selections take depends on more than lengths".to_owned();
                let help = "ask for the memory of a launch with its sizes, as `attnc cost` does";
                Err(self.shared.said(vec![Diagnostic::global("E0721", sentence).help(help)]))
            }
        }
    }

    /// Whether a launch may have so many batch items and heads.
    fn fits(&self, batch: usize, heads: usize) -> Result<(), Diagnostics> {
        for (what, count, most) in [("batch items", batch, MAX_BATCH), ("heads", heads, problem::MAX_HEADS as usize)] {
            if count > most {
                let sentence = format!("{count} {what} are more than the {most} of one launch");
                return Err(self.shared.said(vec![Diagnostic::global("E0722", sentence).help("cut it into several")]));
            }
        }
        Ok(())
    }

    /// Bytes beyond [`Kernel::workspace_bytes`] with which a launch on keys and values of a 16-bit type converts them once
    /// and not for each tile of queries: for keys of `k`, `[batch, heads, keys, dim]`, and values of `dim_v` elements. At
    /// most 32 MiB, and 0 for few queries.
    #[must_use]
    pub fn conversion_bytes(queries: usize, k: [usize; 4], dim_v: usize, threads: usize) -> usize {
        let [batch, heads, keys, dim] = k;
        attnc_cpu::conversion_bytes(queries, batch.saturating_mul(heads), keys, [dim, dim_v], threads)
    }

    /// Runs on the target that it was compiled for. Heads that skip become 0, with a log-sum-exp of -inf.
    ///
    /// A launch that is given [`Resources::ready`] and is like the one before it makes no allocation: the lists of its
    /// heads and tasks are there, and working memory is that of `workspace`, or kept, too. (A call from a thread outside
    /// the pool hands its work to the pool through rayon's queue, which takes a block of memory once in 63 calls.)
    /// Without it, a launch allocates lists of some hundred bytes for each head, and working memory if it is given none.
    /// A merge of branches allocates an output for each of them, whatever it is given, and has no log-sum-exp: NaN.
    ///
    /// # Errors
    /// Whatever does not fit, and rows without entries under `empty = error`; nothing is written then.
    pub fn run(&self, problem: &mut Problem<'_>, resources: Resources<'_>) -> Result<(), Diagnostics> {
        self.run_noting(problem, resources, &[], None)
    }

    /// As [`Kernel::run`], and hands back the tables of all selections.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn run_chosen(&self, problem: &mut Problem<'_>, resources: Resources<'_>) -> Result<Vec<Chosen>, Diagnostics> {
        let mut noted = Noted::default();
        self.run_noting(problem, resources, &[], Some(&mut noted))?;
        Ok(noted.chosen)
    }

    /// As [`Kernel::run`], and hands back levels, scores and selections by name, in the form in which
    /// [`Inputs::supplied`] takes them: given to a launch on the same tensors they give the same output, bit for bit.
    /// They are copied, beside the working memory: [`Kernel::returned_bytes`] says how much they take.
    ///
    /// # Errors
    /// As for [`Kernel::run`]; names that the file lacks, and what is not computed.
    pub fn run_returning(
        &self,
        problem: &mut Problem<'_>,
        resources: Resources<'_>,
        names: &[&str],
    ) -> Result<Vec<Returned>, Diagnostics> {
        if names.is_empty() {
            return self.run(problem, resources).map(|()| Vec::new());
        }
        let asked = self.asked(names, &problem.inputs)?;
        let heads = (self.output_heads(problem.q.shape()[1]), problem.k.shape()[1]);
        let mut gather = Gather::new(&self.shared.program, names, &asked, problem.q.shape()[0], heads);
        if self.shared.target() == Target::Oracle {
            self.run_oracle(problem)?;
            self.gather_oracle(problem, &asked, &mut gather)?;
            return Ok(gather.finish(&problem.inputs.supplied));
        }
        let mut noted = Noted::default();
        self.run_noting(problem, resources, &asked, Some(&mut noted))?;
        let program = &*self.shared.program;
        for found in &noted.chosen {
            for &what in &asked {
                if let What::Table(id, table) = what
                    && program.select(id).tables[table] == found.draw
                {
                    gather.table(what, (found.batch, found.head), &found.table);
                }
            }
        }
        for found in &noted.handed_back.levels {
            gather.reals(What::Level(found.what.0, found.what.1), (found.batch, found.head), found.width, &found.rows);
        }
        for found in &noted.handed_back.scores {
            gather.reals(What::Score(found.what), (found.batch, found.head), found.width, &found.rows);
        }
        Ok(gather.finish(&problem.inputs.supplied))
    }

    /// Names of levels, scores and selections that may be supplied and asked for.
    #[must_use]
    pub fn exchanged(&self) -> Vec<String> {
        exchange::names(&self.shared.program, &self.attentions())
    }

    /// Names of the selections that it reads; given back to [`Kernel::cost`] as [`Inputs::supplied`] their tables make
    /// the cost that of what was chosen.
    #[must_use]
    pub fn selection_names(&self) -> Vec<String> {
        exchange::selections(&self.shared.program, &self.attentions())
    }

    /// What names of levels, scores and selections are, of what this kernel computes.
    fn asked(&self, names: &[&str], inputs: &Inputs<'_>) -> Result<Vec<What>, Diagnostics> {
        let program = &*self.shared.program;
        let said = |list| self.shared.said(list);
        let asked = exchange::asked(program, &self.attentions(), names, &inputs.supplied).map_err(said)?;
        for (what, name) in asked.iter().zip(names) {
            let What::Level(id, side) = *what else { continue };
            let made = |p: &attnc_plan::Pool| {
                let of = match side {
                    Side::Q => p.of.q,
                    Side::K => p.of.k,
                    Side::V => p.of.v,
                };
                p.level == id && of
            };
            if self.plans().next().is_some() && !self.plans().any(|built| built.plan.pools.iter().any(made)) {
                let message = format!("nothing that is run reads `{name}`");
                let said = Diagnostic::error("E0713", what.span(program), message, "declared here");
                return Err(self.shared.said(vec![said.help("ask for what the attention reads")]));
            }
        }
        Ok(asked)
    }

    /// What the oracle makes of what is asked for.
    fn gather_oracle(&self, problem: &Problem<'_>, asked: &[What], gather: &mut Gather) -> Result<(), Diagnostics> {
        let mut items = Vec::new();
        self.each_item(problem, asked, |program, heads, views| {
            let [q, k, v] = views;
            let chosen = oracle::select(program, heads, q, k, v)?;
            let mut of_item = Vec::new();
            for &what in asked {
                of_item.push(match what {
                    What::Table(..) => Vec::new(),
                    What::Level(id, side) => {
                        let dim = if side == Side::V { v.shape()[2] } else { q.shape()[2] };
                        let rows = oracle::level_rows(program, heads, views, &chosen, (id, side))?;
                        rows.into_iter().map(|rows| (dim, rows)).collect()
                    }
                    What::Score(id) => oracle::score_rows(program, heads, views, &chosen, id)?,
                });
            }
            let kv: Vec<usize> = heads.iter().map(|h| h.kv_head).collect();
            items.push((chosen, of_item, kv));
            Ok(())
        })?;
        let program = &*self.shared.program;
        for (item, (chosen, of_item, kv)) in items.into_iter().enumerate() {
            for (&what, rows) in asked.iter().zip(of_item) {
                if let What::Table(id, table) = what {
                    let draw = program.select(id).tables[table].0 as usize;
                    for (head, draws) in chosen.iter().enumerate() {
                        if let Some(table) = draws.get(draw).filter(|t| !t.chosen.is_empty()) {
                            gather.table(what, (item, head), table);
                        }
                    }
                }
                let by_output = what.heads(program, 0, 1) == 0;
                for (head, (width, rows)) in rows.into_iter().enumerate() {
                    let known = if by_output { head } else { kv[head] };
                    let rows: Vec<f32> = rows.into_iter().map(|x| x as f32).collect();
                    if !rows.is_empty() {
                        gather.reals(what, (item, known), width, &rows);
                    }
                }
            }
        }
        Ok(())
    }

    /// Bytes of what [`Kernel::run_returning`] hands back of these names, for a launch of `batch` items on `kv_heads`
    /// KV heads; while it is copied as much again is held.
    ///
    /// # Errors
    /// As for [`Kernel::cost`], and names that the file lacks.
    pub fn returned_bytes(
        &self,
        names: &[&str],
        shape: Shape,
        kv_heads: usize,
        dim_v: usize,
        batch: usize,
        inputs: &Inputs<'_>,
    ) -> Result<usize, Diagnostics> {
        let said = |list| self.shared.said(list);
        let program = &*self.shared.program;
        let asked = self.asked(names, inputs)?;
        let mut envs = self.envs(inputs, shape, Purpose::Look, Of::Extents)?;
        envs.ask(&asked);
        let output = usize::try_from(self.told(shape).heads).unwrap_or(0);
        let mut most = vec![(0, 0); asked.len()];
        for (head, attention) in (0..output).filter_map(|head| Some((head, self.attention(head)?))) {
            let needs = attnc_pattern::prepare::needs(program, &[attention]);
            let env = envs.env(self.at(attention, 0, head)).map_err(said)?;
            for (most, what) in most.iter_mut().zip(&asked).filter(|(_, what)| what.is_read(program, &needs)) {
                let dim_v = i64::try_from(dim_v).unwrap_or(i64::MAX);
                let (rows, cols) = what.extents(program, &env, dim_v).map_err(said)?;
                *most = (rows.max(most.0), cols.max(most.1));
            }
        }
        let extent = |n: i64| usize::try_from(n).unwrap_or(0);
        let bytes = most.into_iter().zip(&asked).map(|((rows, cols), what)| {
            let extents = [batch, what.heads(program, output, kv_heads), extent(rows), extent(cols)];
            extents.into_iter().fold(size_of::<f32>(), usize::saturating_mul)
        });
        Ok(bytes.fold(0, usize::saturating_add))
    }

    fn run_noting(
        &self,
        problem: &mut Problem<'_>,
        resources: Resources<'_>,
        asked: &[What],
        chosen: Option<&mut Noted>,
    ) -> Result<(), Diagnostics> {
        match self.shared.target() {
            Target::Oracle => return self.run_oracle(problem),
            #[cfg(feature = "gpu")]
            Target::Gpu(_) => {
                let message = "a kernel for GPUs does not run by itself: it is submitted to one";
                return Err(self.shared.said(vec![
                    Diagnostic::global(crate::gpu::UNFIT, message).help("make a `gpu::Session` and submit it"),
                ]));
            }
            Target::Cpu(_) => {}
        }
        let Resources { threads, mut workspace, ready } = resources;
        let (mut kept, mut memory) = match ready.filter(|_| chosen.is_none()) {
            Some(Ready { kept, memory }) => (Some(kept), Some(memory)),
            None => (None, None),
        };
        let layout = |e: attnc_cpu::LayoutError| self.refuse("E0721", e.to_string());
        let (q, k, v) = (problem.q, problem.k, problem.v);
        let count = threads.map_or_else(rayon::current_num_threads, Threads::count);
        if let Some(Some(kept)) = kept.as_deref_mut()
            && kept.is_of(&self.shared, &self.select, &problem.inputs)
            && (workspace.is_some() || kept.threads >= count)
        {
            let own = memory.as_deref_mut().map_or(&mut [][..], |memory| memory);
            let workspace = workspace.as_deref_mut().unwrap_or(own);
            let out = (&mut problem.out, problem.lse.as_mut());
            if kept.launch.again(&mut launch([q, k, v], out, workspace, threads).map_err(layout)?) {
                return Ok(());
            }
        }
        if let Some(kept) = kept.as_deref_mut() {
            *kept = None;
        }
        let shape = self.shape_of(&q, &k, &v, &problem.inputs)?;
        let reads = self.reads(q.shape()[1], k.shape()[1])?;
        let (mut groups, apart) = self.groups(&reads)?;
        let of_rows = Of::Rows(self.rows(problem, threads)?);
        let mut envs = self.envs(&problem.inputs, shape, Purpose::Run, of_rows)?;
        envs.ask(asked);
        let batch = q.shape()[0];
        let mut made = Vec::with_capacity(groups.len());
        for (piece, heads) in &groups {
            let mut of_part = Vec::with_capacity(batch * heads.len());
            for item in 0..batch {
                for &head in heads {
                    of_part.push(envs.env(self.at(piece.attention, item, head)).map_err(|l| self.shared.said(l))?);
                }
            }
            made.push(of_part);
        }
        let lengths = order_by_length(&mut groups, &mut made, apart);
        let parts: Vec<Part<'_>> = groups
            .iter()
            .zip(&made)
            .zip(&lengths)
            .filter_map(|(((piece, heads), envs), lengths)| {
                Some(Part { kernel: piece.code.as_deref()?, heads, envs, forward: lengths.falling })
            })
            .collect();
        let tensors = [q.of_cpu().map_err(layout)?, k.of_cpu().map_err(layout)?, v.of_cpu().map_err(layout)?];
        let singles = attnc_cpu::conversion_of(&tensors[0], &tensors[1], &tensors[2], count);
        let bytes = || {
            let bytes = attnc_cpu::workspace_bytes(&parts, k.shape()[2], q.shape()[3], v.shape()[3], count);
            bytes.saturating_add(singles)
        };
        let mut own;
        let workspace = match (workspace, memory) {
            (Some(given), _) => given,
            (None, Some(memory)) => {
                let bytes = bytes();
                if memory.len() < bytes {
                    *memory = vec![0; bytes];
                }
                memory
            }
            (None, None) => {
                own = vec![0; bytes()];
                &mut own[..]
            }
        };
        // What a merge is made of may fail: it is computed before anything is written.
        let merges: Vec<_> = groups.iter().filter(|(piece, _)| !piece.arms.is_empty()).collect();
        let mut noted_of_merges = chosen.as_ref().map(|_| Noted::default());
        let merged = merges.iter().map(|(piece, heads)| {
            self.merged(piece, heads, (problem, &reads, shape, asked), threads, noted_of_merges.as_mut())
        });
        let merged: Vec<Vec<f32>> = merged.collect::<Result<_, _>>()?;
        let out = (&mut problem.out, problem.lse.as_mut());
        let mut launch = launch([q, k, v], out, workspace, threads).map_err(layout)?;
        (launch.q_heads, launch.kv_heads, launch.apart) = (&reads.q, &reads.kv, apart);
        // A merge is launched several times, and buckets are those of these values.
        if let Some(kept) = kept.filter(|_| merges.is_empty() && !self.reads_rows()) {
            let parts = groups.iter().zip(made).zip(&lengths).filter_map(|(((piece, heads), envs), lengths)| {
                let kernel = piece.code.clone()?;
                Some(OwnedPart { kernel, heads: heads.clone(), envs, forward: lengths.falling })
            });
            let left = attnc_cpu::Ready::run(parts.collect(), &mut launch).map_err(|error| self.failed(&error))?;
            let of = (&self.shared, &self.select);
            *kept = left.map(|launch| Launched::new(of, &problem.inputs, count, launch));
            return Ok(());
        }
        // Tables become values for who asks for them alone.
        let mut chosen = chosen;
        self.noted(&parts, &mut launch, chosen.as_deref_mut())?;
        if let Some(chosen) = chosen {
            chosen.extend(noted_of_merges.unwrap_or_default());
        }
        for ((_, heads), merged) in merges.iter().zip(merged) {
            let [_, of, rows, dim] = problem.out.shape();
            for (item, &head) in (0..batch).flat_map(|item| heads.iter().map(move |head| (item, head))) {
                for row in 0..rows {
                    for col in 0..dim {
                        let value = merged[((item * of + head) * rows + row) * dim + col];
                        problem.out.set([item, head, row, col], f64::from(value));
                    }
                    // A merge has no log-sum-exp.
                    if let Some(lse) = &mut problem.lse {
                        lse.set([item, head, row, 0], f64::NAN);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs parts, and adds what their selections chose to a list, if there is one.
    fn noted(&self, parts: &[Part<'_>], launch: &mut Launch<'_>, noted: Option<&mut Noted>) -> Result<(), Diagnostics> {
        let failed = |error| self.failed(&error);
        match noted {
            Some(noted) => {
                let (chosen, handed_back) = attnc_cpu::run_chosen(parts, launch).map_err(failed)?;
                noted.extend(Noted { chosen, handed_back });
            }
            None => attnc_cpu::run(parts, launch).map_err(failed)?,
        }
        Ok(())
    }

    /// Outputs of some heads of a piece as singles, in the layout of a contiguous output; others are 0.
    fn merged(
        &self,
        piece: &Piece,
        heads: &[usize],
        (problem, reads, shape, asked): (&Problem<'_>, &Reads, Shape, &[What]),
        threads: Option<&Threads>,
        mut noted: Option<&mut Noted>,
    ) -> Result<Vec<f32>, Diagnostics> {
        let said = |list| self.shared.said(list);
        let layout = |e: attnc_cpu::LayoutError| self.refuse("E0721", e.to_string());
        let [batch, of, rows, dim] = problem.out.shape();
        let mut sum = vec![0.0_f32; batch * of * rows * dim];
        let program = &*self.shared.program;
        let of_rows = Of::Rows(self.rows(problem, threads)?);
        let mut envs = self.envs(&problem.inputs, shape, Purpose::Run, of_rows)?;
        envs.ask(asked);
        let mut of_part = Vec::with_capacity(batch * heads.len());
        for item in 0..batch {
            for &head in heads {
                of_part.push(envs.env(self.at(piece.attention, item, head)).map_err(said)?);
            }
        }
        let Some(merge) = program.attentions[piece.attention].merge.as_ref().filter(|_| !piece.arms.is_empty()) else {
            let Some(kernel) = piece.code.as_deref() else { return Ok(sum) };
            let parts = [Part { kernel, heads, envs: &of_part, forward: false }];
            let count = threads.map_or_else(rayon::current_num_threads, Threads::count);
            let bytes = attnc_cpu::workspace_bytes(
                &parts,
                problem.k.shape()[2],
                problem.q.shape()[3],
                problem.v.shape()[3],
                count,
            );
            let mut workspace = vec![0; bytes];
            let mut out = TensorMut::of_f32(&mut sum, [batch, of, rows, dim]).map_err(layout)?;
            let mut launch = Launch {
                q: problem.q.of_cpu().map_err(layout)?,
                k: problem.k.of_cpu().map_err(layout)?,
                v: problem.v.of_cpu().map_err(layout)?,
                out: out.of_cpu().map_err(layout)?,
                lse: None,
                q_heads: &reads.q,
                kv_heads: &reads.kv,
                workspace: &mut workspace,
                pool: threads.map(|t| &t.0),
                apart: false,
            };
            self.noted(&parts, &mut launch, noted.as_deref_mut())?;
            return Ok(sum);
        };
        for (number, arm) in piece.arms.iter().enumerate() {
            let own = self.merged(arm, heads, (problem, reads, shape, asked), threads, noted.as_deref_mut())?;
            let gate = match &merge.kind {
                MergeKind::Gate(gates) => Some(gates[number]),
                MergeKind::Mean { .. } => None,
            };
            let gate = gate.map(|gate| Values::new(program, gate));
            let share = 1.0 / piece.arms.len() as f32;
            for (at, env) in of_part.iter().enumerate() {
                let (item, head) = (at / heads.len(), heads[at % heads.len()]);
                let from = (item * of + head) * rows * dim;
                let some = from..from + usize::try_from(env.n_q).unwrap_or(0) * dim;
                let mut adds =
                    || add_weighed(&mut sum[some.clone()], &own[some.clone()], dim, (gate.as_ref(), share), env);
                let added = match threads {
                    Some(threads) => threads.within(adds),
                    None => adds(),
                };
                added.map_err(|e| said(vec![Diagnostic::global("E0708", e.to_string())]))?;
            }
        }
        Ok(sum)
    }

    /// Output and log-sum-exp from the definition, in f64: one for each batch item.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn oracle(&self, problem: &Problem<'_>) -> Result<Vec<Output>, Diagnostics> {
        self.each_item(problem, &[], |program, heads, [q, k, v]| oracle::attend(program, heads, q, k, v))
    }

    /// As [`Kernel::oracle`], given what the selections of each batch item and head chose: tables by number.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn oracle_given(
        &self,
        problem: &Problem<'_>,
        chosen: &[Vec<Vec<DrawTable>>],
    ) -> Result<Vec<Output>, Diagnostics> {
        let mut items = chosen.iter();
        self.each_item(problem, &[], |program, heads, [q, k, v]| {
            let chosen = items.next().map_or(&[][..], |c| c);
            oracle::attend_given(program, heads, q, k, v, chosen)
        })
    }

    /// The tables that the oracle's selections make: by batch item and head.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn selections(&self, problem: &Problem<'_>) -> Result<Vec<Vec<Vec<DrawTable>>>, Diagnostics> {
        self.each_item(problem, &[], |program, heads, [q, k, v]| oracle::select(program, heads, q, k, v))
    }

    /// What the selections of a target chose, as [`Kernel::oracle_given`] takes it; random choices are those of the
    /// launch.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn tables(&self, problem: &Problem<'_>, chosen: &[Chosen]) -> Result<Vec<Vec<Vec<DrawTable>>>, Diagnostics> {
        let mut tables = self.each_item(problem, &[], |program, heads, _| {
            let of_head = |head: &oracle::Head<'_>| {
                let mut draws = head.env.draws.clone();
                draws.resize(program.draws.len(), DrawTable::default());
                draws
            };
            Ok(heads.iter().map(of_head).collect::<Vec<_>>())
        })?;
        for found in chosen {
            let of_item = tables.get_mut(found.batch).and_then(|item| item.get_mut(found.head));
            if let Some(table) = of_item.and_then(|draws| draws.get_mut(found.draw.0 as usize)) {
                *table = found.table.clone();
            }
        }
        Ok(tables)
    }

    /// What speaks against selections that somebody else made, by batch item.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn judge(
        &self,
        problem: &Problem<'_>,
        chosen: &[Vec<Vec<DrawTable>>],
    ) -> Result<Vec<Vec<Misfit>>, Diagnostics> {
        let mut items = chosen.iter();
        self.each_item(problem, &[], |program, heads, [q, k, v]| {
            let chosen = items.next().map_or(&[][..], |c| c);
            oracle::judge(program, heads, q, k, v, chosen)
        })
    }

    /// What a head of the first batch item attends to, by the definition, if that depends on the data.
    ///
    /// # Errors
    /// As for [`Kernel::run`], and a head that skips.
    pub fn attended(&self, problem: &Problem<'_>, head: usize) -> Result<Attended, Diagnostics> {
        let Some(attention) = self.attention(head) else {
            return Err(self.skips(head as i64));
        };
        let mut found = None;
        self.each_item(problem, &[], |program, heads, [q, k, v]| {
            if found.is_none() && head < heads.len() {
                let mut chosen = oracle::select(program, heads, q, k, v)?;
                let draws = std::mem::take(&mut chosen[head]);
                found = Some(crate::attended::attended(program, attention, heads[head].env, draws));
            }
            Ok(())
        })?;
        found.unwrap_or(Ok(Attended::default())).map_err(|list| self.shared.said(list))
    }

    /// What each head of the output keeps of dense attention, over all batch items: rows of keys are looked at one at a
    /// time. `chosen` are the tables that its selections made, as [`Kernel::tables`] and [`Kernel::selections`] yield
    /// them; `all` and `causal` are the log-sum-exps `[batch, heads, queries, 1]` of attention to every key and to
    /// every key that is not ahead of its query, with the scale 1 / sqrt(D). A picture of the first batch item has at
    /// most `cells` cells each way. Heads are looked at side by side on the host's pool of rayon.
    ///
    /// # Errors
    /// As for [`Kernel::run`], and batch items of different lengths.
    pub fn kept(
        &self,
        problem: &Problem<'_>,
        chosen: &[Vec<Vec<DrawTable>>],
        [all, causal]: [&Tensor<'_>; 2],
        cells: usize,
    ) -> Result<Vec<Kept>, Diagnostics> {
        use rayon::prelude::*;
        let shape = self.shape_of(&problem.q, &problem.k, &problem.v, &problem.inputs)?;
        if !problem.inputs.lengths.is_empty() {
            return Err(self.refuse("E0721", "padded batches are not held against dense attention".to_owned()));
        }
        let [batch, q_heads, ..] = problem.q.shape();
        let reads = self.reads(q_heads, problem.k.shape()[1])?;
        for lse in [all, causal] {
            let wanted = [batch, reads.q.len(), problem.q.shape()[2], 1];
            if lse.shape() != wanted {
                return Err(
                    self.refuse("E0721", format!("a log-sum-exp should be {wanted:?}, but is {:?}", lse.shape()))
                );
            }
        }
        let (q, k) = (problem.q, problem.k);
        let inputs = &problem.inputs;
        let rows = self.rows(problem, None)?;
        let of_head = |head: usize| -> Result<Kept, Diagnostics> {
            let mut kept = Kept::new(shape.n_q, shape.n_k, cells);
            let Some(attention) = self.attention(head) else { return Ok(kept) };
            for item in 0..batch {
                let q = q.item(item, &[reads.q[head]]);
                let k = k.item(item, &[reads.kv[head]]);
                let lse = [all, causal].map(|lse| move |row: usize| lse.get([item, head, row, 0]));
                let mut sum = kept.item(&q, &k, [&lse[0], &lse[1]], item == 0);
                let said = |list| self.shared.said(list);
                if self.is_dynamic(head) {
                    let env = self
                        .envs(inputs, shape, Purpose::Oracle, Of::Rows(rows.clone()))?
                        .env(self.at(attention, item, head));
                    let env = env.map_err(said)?;
                    let draws = chosen.get(item).and_then(|heads| heads.get(head)).cloned().unwrap_or_default();
                    let ahead = env.q_start - env.k_start;
                    let mut at = 0;
                    crate::attended::each_row(&self.shared.program, attention, &env, draws, |row| {
                        sum.row(at, at as i64 + ahead, &row.tokens, &row.levels, &row.shares);
                        at += 1;
                    })
                    .map_err(said)?;
                } else {
                    let env = self
                        .envs(inputs, shape, Purpose::Look, Of::Rows(rows.clone()))?
                        .env(self.at(attention, item, head));
                    let env = env.map_err(said)?;
                    let piece = self.parts.iter().find(|p| p.attention == attention);
                    let piece = piece.ok_or_else(|| self.refuse("E0723", format!("there is no head {head}")))?;
                    let ahead = env.q_start - env.k_start;
                    let view = View::new(&self.plan_of(piece)?.plan, env);
                    let wrong = |e: EvalError| self.shared.said(vec![Diagnostic::global("E0708", e.to_string())]);
                    let mut walk = view.rows().map_err(wrong)?;
                    for at in 0..shape.n_q {
                        let runs = walk.row(at).map_err(wrong)?;
                        sum.row(usize::try_from(at).unwrap_or(0), at + ahead, runs, &[], &[]);
                    }
                }
            }
            Ok(kept)
        };
        (0..reads.q.len()).into_par_iter().map(of_head).collect()
    }

    /// Which query head and which KV head each head of the output reads.
    ///
    /// # Errors
    /// Counts of heads that do not map.
    pub fn heads_read(&self, heads: usize, kv_heads: usize) -> Result<Vec<(usize, usize)>, Diagnostics> {
        let reads = self.reads(heads, kv_heads)?;
        Ok(reads.q.into_iter().zip(reads.kv).collect())
    }

    /// Rows of a problem, for tensors that are made of them.
    pub(crate) fn rows<'p>(
        &self,
        problem: &Problem<'p>,
        threads: Option<&'p Threads>,
    ) -> Result<made::Rows<'p>, Diagnostics> {
        let heads = self.heads_read(problem.q.shape()[1], problem.k.shape()[1])?;
        Ok(made::Rows { q: problem.q, k: problem.k, heads, threads })
    }

    /// What rows, and planes as they are and side by side, take in f64 while buckets are made.
    fn planes_bytes(&self, attention: usize, shape: Shape, threads: usize) -> usize {
        let program = &self.shared.program;
        let needs = attnc_pattern::prepare::needs(program, &[attention]);
        let extent = |n: i64| usize::try_from(n).unwrap_or(0);
        let of = |id: &TensorId| match program.tensor(*id).of {
            Some(Made::Hash(_)) => {
                let rows = threads.saturating_mul(2 * extent(shape.dim));
                let planes = extent(self.told(shape).heads).saturating_mul(2 * extent(shape.dim) * MOST_BITS);
                rows.saturating_add(planes).saturating_mul(size_of::<f64>())
            }
            _ => 0,
        };
        needs.tensors.iter().map(of).max().unwrap_or(0)
    }

    /// What buckets are made of where there is no problem.
    fn rows_given<'i>(&self, inputs: &Inputs<'i>) -> Result<Of<'i>, Diagnostics> {
        let Some([q, k]) = inputs.rows else { return Ok(Of::Nothing) };
        Ok(Of::Rows(made::Rows { q, k, heads: self.heads_read(q.shape()[1], k.shape()[1])?, threads: None }))
    }

    /// Whether a launch makes tensors of queries and keys: what is asked about it then needs [`Inputs::rows`].
    #[must_use]
    pub fn reads_rows(&self) -> bool {
        let program = &self.shared.program;
        let needs = attnc_pattern::prepare::needs(program, &self.attentions());
        needs.tensors.iter().any(|&t| matches!(program.tensor(t).of, Some(Made::Hash(_))))
    }

    /// The tensors of the file that a launch makes of queries, keys and other tensors, for its first batch item: given
    /// under their names, they are not made again.
    ///
    /// # Errors
    /// As for [`Kernel::run`].
    pub fn made(&self, problem: &Problem<'_>) -> Result<Vec<(String, TensorData<'static>)>, Diagnostics> {
        let shape = self.shape_of(&problem.q, &problem.k, &problem.v, &problem.inputs)?;
        let rows = Of::Rows(self.rows(problem, None)?);
        let mut envs = self.envs(&problem.inputs, shape, Purpose::Look, rows)?;
        let program = &self.shared.program;
        let mut found: Vec<(String, TensorData<'static>)> = Vec::new();
        for head in 0..self.output_heads(problem.q.shape()[1]) {
            let Some(attention) = self.attention(head) else { continue };
            let env = envs.env(self.at(attention, 0, head)).map_err(|l| self.shared.said(l))?;
            for (tensor, data) in program.tensors.iter().zip(&env.tensors) {
                let of_file = matches!(tensor.of, Some(Made::Formula(_) | Made::Hash(_))) && !tensor.name.contains(' ');
                if let (true, Reals::Made(elements)) = (of_file, &data.data)
                    && found.iter().all(|(name, _)| *name != tensor.name)
                {
                    let data = TensorData { data: Reals::Made(elements.clone()), dims: data.dims.clone() };
                    found.push((tensor.name.clone(), data));
                }
            }
        }
        Ok(found)
    }

    /// What `work` makes of each batch item: of its heads and of Q, K and V as views.
    fn each_item<T>(
        &self,
        problem: &Problem<'_>,
        asked: &[What],
        mut work: impl FnMut(&Program, &[oracle::Head<'_>], [oracle::View<'_>; 3]) -> Result<T, OracleError>,
    ) -> Result<Vec<T>, Diagnostics> {
        let shape = self.shape_of(&problem.q, &problem.k, &problem.v, &problem.inputs)?;
        let reads = self.reads(problem.q.shape()[1], problem.k.shape()[1])?;
        let heads = reads.q.len();
        let said = |list| self.shared.said(list);
        let rows = Of::Oracle(self.rows(problem, None)?);
        let mut envs = self.envs(&problem.inputs, shape, Purpose::Oracle, rows)?;
        envs.ask(asked);
        let mut outputs = Vec::new();
        for item in 0..problem.q.shape()[0] {
            let mut of_heads = Vec::with_capacity(heads);
            for head in 0..heads {
                of_heads.push(match self.attention(head) {
                    Some(attention) => envs.env(self.at(attention, item, head)).map_err(said)?,
                    None => self.skipped(shape, head),
                });
            }
            let list: Vec<oracle::Head<'_>> = of_heads
                .iter()
                .enumerate()
                .map(|(head, env)| oracle::Head { attention: self.attention(head), env, kv_head: reads.kv[head] })
                .collect();
            let all: Vec<usize> = (0..problem.k.shape()[1]).collect();
            let (q, k, v) = (problem.q.item(item, &reads.q), problem.k.item(item, &all), problem.v.item(item, &all));
            let view = |data, heads, tensor: &Tensor<'_>| {
                let [.., rows, dim] = tensor.shape();
                oracle::View::dense(data, [heads, rows, dim])
                    .ok_or_else(|| self.refuse("E0721", "the tensors do not fit together".to_owned()))
            };
            let views =
                [view(&q, heads, &problem.q)?, view(&k, all.len(), &problem.k)?, view(&v, all.len(), &problem.v)?];
            let output = work(&self.shared.program, &list, views);
            outputs.push(output.map_err(|e: OracleError| said(vec![e.diagnostic()]))?);
        }
        Ok(outputs)
    }

    /// Runs the oracle and writes what it yields, rounded to the types of the outputs.
    fn run_oracle(&self, problem: &mut Problem<'_>) -> Result<(), Diagnostics> {
        let [batch, q_heads, rows, _] = problem.q.shape();
        let heads = self.output_heads(q_heads);
        let expected = [batch, heads, rows, problem.v.shape()[3]];
        if problem.out.shape() != expected {
            return Err(self
                .refuse("E0721", format!("`out` should have shape {expected:?}, but has {:?}", problem.out.shape())));
        }
        if let Some(lse) = problem.lse.as_ref().filter(|l| l.shape() != [batch, heads, rows, 1]) {
            let found = lse.shape();
            return Err(self
                .refuse("E0721", format!("`lse` should have shape [{batch}, {heads}, {rows}, 1], but has {found:?}")));
        }
        for (item, output) in self.oracle(problem)?.iter().enumerate() {
            let [heads, rows, dim] = output.shape;
            for at in 0..heads * rows {
                let (head, row) = (at / rows, at % rows);
                for col in 0..dim {
                    problem.out.set([item, head, row, col], output.out[at * dim + col]);
                }
                if let Some(lse) = &mut problem.lse {
                    lse.set([item, head, row, 0], output.lse[at]);
                }
            }
        }
        Ok(())
    }

    /// KV heads of a launch of `heads` heads where nothing else says how many: a model's, or as many.
    #[must_use]
    pub fn kv_heads_of(&self, heads: i64) -> i64 {
        self.heads().map_or(heads, |(_, kv_heads)| kv_heads)
    }

    /// Exact cost of all heads of one batch item, before running. `dim_v` is the dimension of values and `element` the
    /// bytes of an element. KV heads are [`Self::kv_heads_of`] them: of few queries, heads that share keys are computed
    /// together.
    ///
    /// # Errors
    /// Sizes and data that do not fit.
    pub fn cost(&self, shape: Shape, dim_v: i64, element: u64, inputs: &Inputs<'_>) -> Result<Cost, Diagnostics> {
        Ok(self.forecast(shape, self.kv_heads_of(shape.heads), dim_v, element, 1, inputs)?.cost)
    }

    /// Counts what a launch of `batch` items on `kv_heads` KV heads will do, task by task. `dim_v` and `element` are as
    /// for [`Kernel::cost`].
    ///
    /// # Errors
    /// As for [`Kernel::cost`].
    pub fn forecast(
        &self,
        shape: Shape,
        kv_heads: i64,
        dim_v: i64,
        element: u64,
        batch: u64,
        inputs: &Inputs<'_>,
    ) -> Result<Forecast, Diagnostics> {
        let launch = Upcoming { shape, kv_heads, dim_v, element, batch, inputs };
        Ok(self.forecast_while(&launch, &mut |_, _| true)?.unwrap_or_default())
    }

    /// As [`Kernel::forecast`], but that counting ends with `None` as soon as it is certain that the launch takes longer than
    /// a limit. One that takes longer may still be counted to its end.
    ///
    /// # Errors
    /// As for [`Kernel::cost`].
    pub fn forecast_within(&self, launch: &Upcoming<'_>, limit: Limit<'_>) -> Result<Option<Forecast>, Diagnostics> {
        let elements = (launch.shape.dim + launch.dim_v) as f64 / 2.0;
        // Sums in another order differ in their last digits.
        let most = limit.machine.most(limit.nanos, limit.threads) * (1.0 + 1e-9);
        let mut spent = 0.0;
        self.forecast_while(launch, &mut |task, times| {
            spent += limit.machine.rates.nanos(task, elements) * times as f64;
            spent <= most
        })
    }

    /// Counts a launch as long as `goes_on` says so, which is told what tasks do, at least, and how many do so.
    fn forecast_while(
        &self,
        launch: &Upcoming<'_>,
        goes_on: &mut dyn FnMut(&Work, u64) -> bool,
    ) -> Result<Option<Forecast>, Diagnostics> {
        let &Upcoming { shape, kv_heads, dim_v, element, batch, inputs } = launch;
        if !(0..=problem::MAX_DIM).contains(&dim_v) {
            return Err(self.refuse("E0721", format!("the dimension of values is {dim_v}")));
        }
        self.fits(usize::try_from(batch).unwrap_or(usize::MAX), 1)?;
        let of_plan = attnc_plan::cost::Shape { d_k: shape.dim.unsigned_abs(), d_v: dim_v.unsigned_abs(), element };
        let mut envs = self.envs(inputs, shape, Purpose::Look, self.rows_given(inputs)?)?;
        let heads = usize::try_from(self.told(shape).heads).unwrap_or(0);
        let reads = |n: i64| self.reads(usize::try_from(shape.heads).unwrap_or(0), usize::try_from(n).unwrap_or(0));
        // Numbers of heads that fit nothing are what a launch refuses: no head shares keys with another then.
        let kv = reads(kv_heads).map_or_else(|_| (0..heads).collect(), |r| r.kv);
        let (mut counted, mut jobs, mut once): (Vec<Counted>, Vec<usize>, Work) = Default::default();
        let (groups, apart) = self.groups(&self.reads_of(heads))?;
        let mut groups: Vec<Group<'_>> = groups
            .into_iter()
            .flat_map(|(piece, heads)| piece.leaves().into_iter().map(move |leaf| (leaf, heads.clone())))
            .collect();
        let mut made = Vec::with_capacity(groups.len());
        for (piece, heads) in &groups {
            // Heads whose sets do not depend on the head cost the same.
            let own = if self.counts_by_head(piece.attention) { &heads[..] } else { &heads[..heads.len().min(1)] };
            let envs = own.iter().map(|&head| envs.env(self.at(piece.attention, 0, head)));
            made.push(envs.collect::<Result<Vec<_>, _>>().map_err(|l| self.shared.said(l))?);
        }
        let lengths = order_by_length(&mut groups, &mut made, apart);
        let (mut total, mut visited) = (Cost::default(), 0.0);
        for (((piece, of_piece), envs), lengths) in groups.into_iter().zip(made).zip(lengths) {
            let alike = envs.len() < of_piece.len() || !self.counts_by_head(piece.attention);
            let plan = &self.plan_of(piece)?.plan;
            // Heads of a job have the same sets.
            let folds = !self.sets_by_head(piece.attention) && !plan.scales_by_head();
            let n_q = envs.first().map_or(shape.n_q, |env| env.n_q);
            let most = if folds { attnc_cpu::most_folded(plan, n_q) } else { 1 };
            // How many heads each job folds, the jobs in the order of their first heads.
            let mut folds: Vec<(usize, &Env<'_>, usize)> = Vec::new();
            /// Jobs by the selections that others make for them: places in `counted`.
            type Known = Vec<(Vec<bool>, usize)>;
            // What was counted of so many folded heads, and the jobs made of it; of the last heads, where none are alike.
            let mut last: Vec<(usize, Counted, Known)> = Vec::new();
            // For each selection the heads whose scores have been made for all that have them in common.
            let common: Vec<Option<Heads>> = plan.chooses.iter().map(|c| c.scores_common(plan)).collect();
            let mut scored: Vec<Vec<Option<usize>>> = vec![Vec::new(); common.len()];
            for (place, &head) in of_piece.iter().enumerate() {
                let Some(env) = envs.get(if alike { 0 } else { place }) else { continue };
                let joins = |(of, first, n): &&mut (usize, &Env<'_>, usize)| {
                    kv.get(*of) == kv.get(head) && *n < most && (alike || same_draws(first, env))
                };
                match folds.iter_mut().find(joins) {
                    Some((_, _, n)) => *n += 1,
                    None => folds.push((head, env, 1)),
                }
            }
            let times = batch.saturating_mul(if alike { folds.len() as u64 } else { 1 });
            for (i, (head, env, folded)) in folds.into_iter().enumerate() {
                // Heads whose sets do not depend on the head cost the same.
                if !alike {
                    last.clear();
                }
                if last.iter().all(|(of, ..)| *of != folded) {
                    // Tasks of queries that share a tile with those of other heads are not told as they will be cut.
                    let mut goes_on = |task: &Work| attnc_cpu::has_few(n_q) || goes_on(task, times);
                    let found = attnc_plan::count_while::<attnc_cpu::Visits>(plan, env, of_plan, folded, &mut goes_on)
                        .map_err(|e| self.shared.said(vec![Diagnostic::global("E0708", e.to_string())]))?;
                    let Some(mut found) = found else { return Ok(None) };
                    if i == 0 {
                        once.add(&found.once, 1);
                    }
                    // A launch begins with the last.
                    if lengths.falling {
                        found.stages.iter_mut().for_each(|tasks| tasks.reverse());
                    }
                    last.push((folded, found, Vec::new()));
                }
                let Some((_, found, known)) = last.iter_mut().find(|(of, ..)| *of == folded) else { continue };
                let mut had = vec![false; common.len()];
                for ((common, scored), had) in common.iter().zip(&mut scored).zip(&mut had) {
                    let of = match common {
                        Some(Heads::All) if alike => None,
                        Some(Heads::Group) if alike => kv.get(head).copied(),
                        _ => continue,
                    };
                    *had = scored.contains(&of);
                    scored.extend((!*had).then_some(of));
                }
                let job = match known.iter().find(|(of, _)| *of == had) {
                    Some(&(_, job)) => job,
                    None => {
                        let left = found.without(&had);
                        let tasks = |(at, tasks): (usize, &Vec<Work>)| {
                            attnc_cpu::few_tasks(plan, tasks, at > plan.chooses.len(), folded, n_q)
                        };
                        let stages = left.stages.iter().enumerate().map(tasks).collect();
                        counted.push(Counted { stages, ..left });
                        known.push((had, counted.len() - 1));
                        counted.len() - 1
                    }
                };
                total = total.and(counted[job].cost);
                let heads_of = folded as f64 * kv_heads as f64 / shape.heads.max(1) as f64;
                visited += batch as f64 * counted[job].cost.bytes_tiles as f64 * heads_of.min(1.0);
                jobs.push(job);
            }
        }
        let cost = (0..batch).fold(Cost::default(), |sum, _| sum.and(total));
        if !cost.fits() {
            let said = Diagnostic::global("E0702", "this launch has more operations or bytes than can be counted");
            return Err(self
                .shared
                .said(vec![said.help("counts are below 2^64: give fewer tokens, heads or batch items")]));
        }
        let jobs = (0..batch).flat_map(|_| jobs.iter().copied()).collect();
        let rows = (of_plan.d_k + of_plan.d_v) as f64;
        let bytes = batch as f64 * kv_heads as f64 * shape.n_k as f64 * rows * element as f64;
        Ok(Some(Forecast { cost, counted, jobs, once, elements: rows / 2.0, bytes, visited }))
    }

    /// Memory of a launch of `batch` items that is given `inputs`, on so many threads; 0 where the oracle runs. `dtype` is
    /// that of keys and values, whose rows are contiguous; others take as much as those of 16 bits.
    ///
    /// # Errors
    /// As for [`Kernel::cost`].
    pub fn memory(
        &self,
        shape: Shape,
        dtype: attnc_cpu::DType,
        dim_v: usize,
        batch: usize,
        inputs: &Inputs<'_>,
        threads: usize,
    ) -> Result<Footprint, Diagnostics> {
        self.fits(batch, 1)?;
        let mut envs = self.envs(inputs, shape, Purpose::Look, Of::Extents)?;
        let all_heads = usize::try_from(self.told(shape).heads).unwrap_or(0);
        let extent = |n: i64| usize::try_from(n).unwrap_or(0);
        let mut most = Footprint::default();
        for (piece, heads) in self.groups(&self.reads_of(all_heads))?.0 {
            for leaf in piece.leaves() {
                let Some(kernel) = leaf.code.as_deref() else { continue };
                let mut of_part = Vec::with_capacity(batch * heads.len());
                for item in 0..batch {
                    for &head in &heads {
                        of_part.push(envs.env(self.at(leaf.attention, item, head)).map_err(|l| self.shared.said(l))?);
                    }
                }
                // Tensors that are made are shared by the heads of an item.
                let firsts = of_part.iter().step_by(heads.len().max(1));
                let made = |env: &Env<'_>| env.tensors.iter().map(|t| t.made_bytes()).sum::<usize>();
                most.lists = most.lists.saturating_add(firsts.map(made).sum());
                most.lists = most.lists.saturating_add(self.planes_bytes(leaf.attention, shape, threads));
                let parts = [Part { kernel, heads: &heads, envs: &of_part, forward: false }];
                let bytes = attnc_cpu::workspace_bytes(&parts, extent(shape.n_k), extent(shape.dim), dim_v, threads);
                // Scratches are shared by all parts, what else there is adds up: never less than what a launch takes.
                most.workspace = most.workspace.saturating_add(bytes);
                most.lists = most.lists.saturating_add(attnc_cpu::lists_bytes(&parts, threads));
            }
            // A merge holds the outputs that it is made of.
            let outputs = [batch, all_heads, extent(shape.n_q), dim_v, size_of::<f32>()];
            let held = outputs.into_iter().fold(piece.depth(), usize::saturating_mul);
            most.lists = most.lists.saturating_add(held);
        }
        if self.isa().is_some() && dtype != attnc_cpu::DType::F32 {
            // There are at most as many heads of keys as of the output.
            let k = [batch, all_heads, extent(shape.n_k), extent(shape.dim)];
            let converted = Kernel::conversion_bytes(extent(shape.n_q), k, dim_v, threads);
            most.workspace = most.workspace.saturating_add(converted);
        }
        Ok(most)
    }

    /// Which pairs another kernel attends to that this one does not, and the other way round: over all heads of one batch
    /// item, for the same shape and inputs. A pair that counts twice is two.
    ///
    /// # Errors
    /// As for [`Kernel::cost`], of either kernel.
    pub fn difference(&self, other: &Kernel, shape: Shape, inputs: &Inputs<'_>) -> Result<Difference, Diagnostics> {
        // Heads of one attention whose sets do not depend on the head differ alike: for each how many pairs, and its rows.
        let mut known: Vec<(_, Difference, Range<usize>)> = Vec::new();
        let mut all = Difference::default();
        for head in 0..usize::try_from(shape.heads).unwrap_or(0) {
            // A head that skips does in both.
            let (Some(ours), Some(theirs)) = (self.attention(head), other.attention(head)) else { continue };
            let alike = !self.reads_head(ours) && !other.reads_head(theirs);
            let same = known.iter().find(|(who, ..)| alike && *who == (ours, theirs));
            let found = match same {
                Some((_, found, rows)) => {
                    all.rows[rows.clone()].iter_mut().for_each(|rows| rows.heads.push(head));
                    found.clone()
                }
                None => {
                    let views = (self.view(head as i64, shape, inputs)?, other.view(head as i64, shape, inputs)?);
                    let wrong = |e: EvalError| self.shared.said(vec![Diagnostic::global("E0708", e.to_string())]);
                    let mut found = views.0.difference(&views.1).map_err(wrong)?;
                    let first = all.rows.len();
                    all.rows.append(&mut found.rows);
                    all.rows[first..].iter_mut().for_each(|rows| rows.heads.push(head));
                    known.push(((ours, theirs), found.clone(), first..all.rows.len()));
                    found
                }
            };
            all.added += found.added;
            all.removed += found.removed;
            all.left_out += found.left_out;
        }
        Ok(all)
    }

    /// Texts of the plans after each pass that changed them, the plan before all passes first.
    #[must_use]
    pub fn passes_text(&self) -> String {
        let mut texts: Vec<String> =
            self.parts.iter().flat_map(Piece::leaves).map(|p| self.shared.passes_text(p.attention)).collect();
        if let Who::Model { reads, .. } = &self.who {
            let mut text = format!("# before all passes over layers\n{}", self.layer(reads).text());
            // A plan that cannot be made is refused when it is run.
            let _ = self.layer_passed(reads, |pass, plan| {
                text.push_str(&format!("\n# after {pass}\n{}", plan.text()));
            });
            texts.push(text);
        }
        texts.join("\n")
    }

    /// Whether a plan has no closed ends for a set and looks at every pair of a query and a key.
    #[must_use]
    pub fn tests_all(&self) -> bool {
        self.plans().any(|built| built.plan.tests_all())
    }

    /// Whether what a head attends to depends on the data of a launch.
    #[must_use]
    pub fn is_dynamic(&self, head: usize) -> bool {
        self.attention(head).is_some_and(|a| self.shared.program.is_dynamic(a))
    }

    /// Whether the pairs of a head depend on the values of tensors: levels alone have slots whatever these hold.
    #[must_use]
    pub fn selects(&self, head: usize) -> bool {
        self.attention(head).is_some_and(|a| self.shared.program.selects(a))
    }

    /// Names of the sizes that a launch must be given.
    #[must_use]
    pub fn sizes(&self) -> Vec<String> {
        problem::sizes_read(&self.shared.program, &self.attentions())
    }

    /// Run-time data that a launch must be given, with extents under these lengths.
    ///
    /// # Errors
    /// Sizes that are unknown or missing.
    pub fn wants(&self, shape: Shape, sizes: &[(&str, i64)]) -> Result<Wants, Diagnostics> {
        problem::wants(&self.shared.program, &self.attentions(), sizes, self.told(shape))
            .map_err(|l| self.shared.said(l))
    }

    /// What one head attends to, for whoever walks its rows or tiles.
    ///
    /// # Errors
    /// Sizes and data that do not fit; a head that skips attends to nothing and has no view.
    pub fn view<'a>(&'a self, head: i64, shape: Shape, inputs: &'a Inputs<'a>) -> Result<View<'a>, Diagnostics> {
        let attention = usize::try_from(head).ok().and_then(|h| self.attention(h));
        let Some(piece) = self.parts.iter().find(|p| Some(p.attention) == attention) else {
            return Err(match self.heads() {
                Some((heads, _)) if head >= heads => {
                    self.refuse("E0723", format!("there is no head {head}; the model has {heads}"))
                }
                _ => self.skips(head),
            });
        };
        let at = self.at(piece.attention, 0, usize::try_from(head).unwrap_or(0));
        let env = self
            .envs(inputs, shape, Purpose::Look, self.rows_given(inputs)?)?
            .env(at)
            .map_err(|l| self.shared.said(l))?;
        Ok(View::new(&self.plan_of(piece)?.plan, env))
    }

    /// What its module shares.
    #[cfg(feature = "gpu")]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The shaders of the attentions in use, if a GPU runs them: of a merge those of its leaves, with their gates.
    #[cfg(feature = "gpu")]
    pub(crate) fn shaders(&self) -> impl Iterator<Item = (&attnc_gpu::GpuKernel, Option<&attnc_gpu::Gate>)> {
        self.parts.iter().flat_map(|piece| {
            piece
                .leaves()
                .into_iter()
                .enumerate()
                .filter_map(|(i, leaf)| Some((leaf.shaders.as_deref()?, piece.gates.get(i).map(|gate| &**gate))))
        })
    }

    /// Attentions with shaders, in the order in which they run, each with the merge that it is an arm of and its gate.
    #[cfg(feature = "gpu")]
    pub(crate) fn arms(&self) -> Result<Vec<Arm>, Diagnostics> {
        let mut found = Vec::new();
        for piece in &self.parts {
            if piece.arms.is_empty() {
                found.push((piece.attention, None));
                continue;
            }
            let gates = piece.gates_of(&self.shared).map_err(|list| self.shared.said(list))?;
            let leaves = piece.leaves().into_iter().map(|leaf| leaf.attention);
            found.extend(leaves.zip(gates).map(|(leaf, gate)| (leaf, Some((piece.attention, gate)))));
        }
        Ok(found)
    }

    /// Environments of a launch on tensors of these shapes.
    #[cfg(feature = "gpu")]
    pub(crate) fn environments<'a>(
        &'a self,
        q: [usize; 4],
        k: [usize; 4],
        inputs: &'a Inputs<'a>,
        from: Of<'a>,
    ) -> Result<crate::gpu::Environments<'a>, Diagnostics> {
        if let Some((name, _)) = inputs.supplied.first() {
            let message = format!("`{name}` is given, and shaders compute levels, scores and selections themselves");
            let said = Diagnostic::global(crate::gpu::UNFIT, message);
            return Err(self.shared.said(vec![said.help("run it on the CPU: `--target cpu`")]));
        }
        let extent = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let shape = Shape { n_q: extent(q[2]), n_k: extent(k[2]), heads: extent(q[1]), dim: extent(q[3]) };
        let reads = self.reads(q[1], k[1])?;
        let mut envs = self.envs(inputs, shape, Purpose::Run, from)?;
        let mut parts = Vec::with_capacity(self.parts.len());
        // All heads of an attention are one dispatch.
        for piece in &self.parts {
            let heads: Vec<usize> =
                (0..reads.q.len()).filter(|&h| self.attention(h) == Some(piece.attention)).collect();
            let mut made = |attention: usize| {
                let of_part = (0..q[0]).flat_map(|item| heads.iter().map(move |&head| (item, head)));
                let envs: Result<Vec<Env<'a>>, _> =
                    of_part.map(|(item, head)| envs.env(self.at(attention, item, head))).collect();
                envs.map_err(|l| self.shared.said(l))
            };
            let merge = if piece.arms.is_empty() { None } else { Some(Rc::new(made(piece.attention)?)) };
            let leaves = piece.leaves();
            for (i, leaf) in leaves.iter().enumerate() {
                let ends = [i == 0, i + 1 == leaves.len()];
                let merge = merge.clone().map(|envs| (envs, ends));
                parts.push(crate::gpu::PartEnvironments { heads: heads.clone(), envs: made(leaf.attention)?, merge });
            }
        }
        Ok(crate::gpu::Environments { parts, q: reads.q, kv: reads.kv })
    }

    /// Whether the tensors of a problem fit together and the output fits them.
    #[cfg(feature = "gpu")]
    pub(crate) fn check_shapes(&self, problem: &Problem<'_>) -> Result<(), Diagnostics> {
        self.shape_of(&problem.q, &problem.k, &problem.v, &problem.inputs)?;
        let [batch, q_heads, rows, _] = problem.q.shape();
        let expected = [batch, self.output_heads(q_heads), rows, problem.v.shape()[3]];
        if problem.out.shape() != expected {
            let found = problem.out.shape();
            return Err(self.refuse("E0721", format!("`out` should have shape {expected:?}, but has {found:?}")));
        }
        let of_lse = [expected[0], expected[1], expected[2], 1];
        match &problem.lse {
            Some(lse) if lse.shape() != of_lse || lse.dtype() != attnc_cpu::DType::F32 => {
                let (shape, dtype) = (lse.shape(), lse.dtype());
                Err(self.refuse("E0721", format!("`lse` should be {of_lse:?} of f32, but is {shape:?} of {dtype:?}")))
            }
            _ => Ok(()),
        }
    }

    fn at(&self, attention: usize, batch: usize, head: usize) -> At {
        At { attention, batch, head: head as i64, layer: self.select.layer, step: self.select.step }
    }

    /// What the program is told of a launch: it counts heads of the output.
    fn told(&self, shape: Shape) -> Shape {
        let heads = usize::try_from(shape.heads).unwrap_or(0);
        Shape { heads: i64::try_from(self.output_heads(heads)).unwrap_or(i64::MAX), ..shape }
    }

    fn envs<'a>(
        &'a self,
        inputs: &'a Inputs<'a>,
        shape: Shape,
        purpose: Purpose,
        from: Of<'a>,
    ) -> Result<Envs<'a>, Diagnostics> {
        let (program, candidates) = match purpose {
            Purpose::Run => (&*self.shared.program, Some(self.shared.candidates.as_slice())),
            Purpose::Look => (self.shared.sets(), Some(self.shared.candidates.as_slice())),
            Purpose::Oracle => (&*self.shared.program, None),
        };
        Envs::new(program, &self.attentions(), inputs, self.told(shape), candidates, from)
            .map_err(|list| self.shared.said(list))
    }

    /// The plan of the layer for heads that read so, before all passes.
    fn layer(&self, reads: &Reads) -> LayerPlan {
        let Select { name, layer, step } = &self.select;
        let name = match self.who {
            Who::Every(_) => name.clone(),
            Who::Model { .. } => format!("{layer} of {name}, step {step}"),
        };
        let heads = reads.kv.iter().enumerate().map(|(head, &kv)| Some((self.attention(head)?, kv)));
        LayerPlan::new(&name, &heads.collect::<Vec<_>>(), |attention| self.name_of(attention).to_owned())
    }

    /// The plan of the layer after its passes; `after` sees it after each.
    fn layer_passed(
        &self,
        reads: &Reads,
        after: impl FnMut(&'static str, &LayerPlan),
    ) -> Result<LayerPlan, Diagnostics> {
        self.layer(reads).passed(self.shared.plan_options(), after).map_err(|(pass, refusal)| {
            let sentence = format!("the pass `{pass}` broke a rule of layers: {}", refusal.rule);
            self.shared.said(vec![Diagnostic::global("E0699", sentence)])
        })
    }

    /// Heads of each part, and whether parts run one after the other.
    fn groups(&self, reads: &Reads) -> Result<(Vec<Group<'_>>, bool), Diagnostics> {
        let plan = self.layer_passed(reads, |_, _| ())?;
        let apart = plan.launches.len() > 1;
        let parts = plan.launches.into_iter().flat_map(|l| l.parts).filter_map(|part| {
            let piece = self.parts.iter().find(|p| p.attention == part.attention)?;
            Some((piece, part.heads.into_iter().map(|h| h.0).collect()))
        });
        Ok((parts.collect(), apart))
    }

    /// Which heads are read by so many heads of the output: KV heads of an attention are known when it is run.
    fn reads_of(&self, heads: usize) -> Reads {
        match &self.who {
            Who::Every(_) => Reads { q: (0..heads).collect(), kv: (0..heads).collect() },
            Who::Model { reads, .. } => reads.clone(),
        }
    }

    /// Diagnostics of this kernel's module.
    pub(crate) fn said(&self, list: Vec<Diagnostic>) -> Diagnostics {
        self.shared.said(list)
    }

    /// Whether so many heads of the output attend to the same keys.
    pub(crate) fn heads_alike(&self, heads: usize) -> bool {
        let first = self.attention(0);
        (1..heads).all(|head| self.attention(head) == first) && !first.is_some_and(|a| self.reads_head(a))
    }

    /// Whether the sets of an attention differ between heads.
    pub(crate) fn reads_head(&self, attention: usize) -> bool {
        let draws = attnc_pattern::prepare::needs(&self.shared.program, &[attention]).draws;
        !draws.is_empty() || self.counts_by_head(attention)
    }

    /// Whether heads are counted apart before a launch: what selections will choose is not known then, and they count
    /// alike where they choose among the same.
    fn counts_by_head(&self, attention: usize) -> bool {
        let program = &self.shared.program;
        let random = |&d: &DrawId| !matches!(program.draw(d).chooser, Chooser::Select { .. });
        attnc_pattern::prepare::needs(program, &[attention]).draws.iter().any(random) || self.sets_by_head(attention)
    }

    /// Whether sets read the head, or what differs from head to head, beside what is chosen.
    fn sets_by_head(&self, attention: usize) -> bool {
        use attnc_pattern::expr::{Node, Var};
        let program = &self.shared.program;
        let needs = attnc_pattern::prepare::needs(program, &[attention]);
        if needs.maps.iter().any(|&m| program.map(m).per_head) || needs.orders_by_head(program) {
            return true;
        }
        let sets = program.attentions[attention].entries.iter().filter_map(|e| match e.source {
            attnc_pattern::program::Source::Tokens(set) => Some(set),
            attnc_pattern::program::Source::Slots(_, set) => Some(set),
            attnc_pattern::program::Source::Null(_) => None,
        });
        let selects = needs.selects.iter().map(|&s| program.select(s));
        let among = selects.flat_map(|s| [s.within, s.besides, s.including, Some(s.capacity)]).flatten();
        let sets: Vec<_> = sets.chain(among).collect();
        let reachable = program.exprs.reachable(&sets);
        reachable.iter().any(|&e| matches!(program.exprs.node(e), Node::Var(Var::Head)))
    }

    /// Lengths and counts of a launch: whether Q, K and V fit together and fill a fixed space.
    fn shape_of(
        &self,
        q: &Tensor<'_>,
        k: &Tensor<'_>,
        v: &Tensor<'_>,
        inputs: &Inputs<'_>,
    ) -> Result<Shape, Diagnostics> {
        let [_, heads, n_q, dim] = q.shape().map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let n_k = i64::try_from(k.shape()[2]).unwrap_or(i64::MAX);
        if q.shape()[0] != k.shape()[0] || q.shape()[3] != k.shape()[3] {
            return Err(self.refuse("E0721", format!("`q` is {:?} and `k` {:?}", q.shape(), k.shape())));
        }
        if k.shape()[..3] != v.shape()[..3] {
            return Err(self.refuse("E0721", format!("`k` is {:?} and `v` {:?}", k.shape(), v.shape())));
        }
        if !inputs.lengths.is_empty() && inputs.lengths.len() != q.shape()[0] {
            let sentence = format!("{} lengths are given for {} batch items", inputs.lengths.len(), q.shape()[0]);
            return Err(self.shared.said(one(EnvError::Lengths(sentence, None))));
        }
        if !inputs.supplied.is_empty() {
            let program = &*self.shared.program;
            let given = Given::new(program, &self.attentions(), &inputs.supplied).map_err(|l| self.shared.said(l))?;
            let heads = (self.output_heads(q.shape()[1]), k.shape()[1]);
            let dims = [q.shape()[3], v.shape()[3]];
            given.fits(program, q.shape()[0], heads, dims).map_err(|l| self.shared.said(l))?;
        }
        let total = problem::tokens(&self.shared.program, &inputs.sizes).map_err(|l| self.shared.said(l))?;
        if let Some(total) = total
            && inputs.k_start.is_none()
            && inputs.lengths.is_empty()
            && n_k != total
        {
            let sentence = format!("the space has {total} tokens, and there are {n_k} keys");
            return Err(self.shared.said(one(EnvError::Lengths(sentence, None))));
        }
        Ok(Shape { n_q, n_k, heads, dim })
    }

    /// Which heads are read, given the numbers of query heads and KV heads that the tensors have.
    fn reads(&self, heads: usize, kv: usize) -> Result<Reads, Diagnostics> {
        match &self.who {
            Who::Model { name, reads, .. } => {
                let model = &self.shared.program.models[*name];
                if (heads as i64, kv as i64) == (model.heads, model.kv_heads) {
                    return Ok(reads.clone());
                }
                let sentence = format!(
                    "the tensors have {heads} query heads and {kv} KV heads; model `{}` has {} on {}",
                    model.name, model.heads, model.kv_heads
                );
                Err(self.refuse("E0722", sentence))
            }
            Who::Every(_) if heads == 0 || (kv > 0 && heads.is_multiple_of(kv)) => {
                Ok(Reads { q: (0..heads).collect(), kv: (0..heads).map(|h| h * kv / heads).collect() })
            }
            Who::Every(_) => {
                let sentence = format!("{heads} query heads do not map to {kv} KV heads");
                Err(self.refuse("E0722", sentence))
            }
        }
    }

    /// The environment of a head that does nothing.
    fn skipped(&self, shape: Shape, head: usize) -> Env<'static> {
        Env { n_q: shape.n_q, n_k: shape.n_k, head: head as i64, heads: shape.heads, dim: shape.dim, ..Env::default() }
    }

    fn refuse(&self, code: &'static str, sentence: String) -> Diagnostics {
        let help = match code {
            "E0721" => "`q` is [batch, heads, queries, d], `k` and `v` are [batch, KV heads, keys, d or d_v]",
            "E0722" => "use as many KV heads as divide the query heads, or a model that writes the map",
            _ => "layers, steps and heads are counted from 0",
        };
        self.shared.said(vec![Diagnostic::global(code, sentence).help(help)])
    }

    /// A head that the model skips was asked for what it attends to.
    fn skips(&self, head: i64) -> Diagnostics {
        let said = format!("head {head} of layer {} skips: it attends to nothing", self.select.layer);
        self.shared
            .said(vec![Diagnostic::global("E0723", said).help("name a head or a layer that the model does not skip")])
    }

    fn failed(&self, error: &RunError) -> Diagnostics {
        match *error {
            RunError::EmptyRow { batch, head, row } => self.empty_row(batch, head, row),
            _ => self.refuse("E0721", error.to_string()),
        }
    }

    /// A row without entries where that is an error.
    pub(crate) fn empty_row(&self, batch: usize, head: usize, row: usize) -> Diagnostics {
        let message = format!("query row {row} of head {head}, batch item {batch}, attends to nothing");
        let Some(attention) = self.attention(head) else { return self.refuse("E0709", message) };
        let attention = &self.shared.program.attentions[attention];
        let label = format!("`{}` has `empty = error`", attention.name);
        let diagnostic = Diagnostic::error("E0709", attention.span, message, label)
            .help("write `empty = zero` if such rows shall be 0, or widen the set");
        self.shared.said(vec![diagnostic])
    }
}

/// Adds the output of an arm to a sum, row by row, each channel with the weight that the gate has for it.
fn add_weighed(
    sum: &mut [f32],
    own: &[f32],
    dim: usize,
    (gate, share): (Option<&Values>, f32),
    env: &Env<'_>,
) -> Result<(), EvalError> {
    use rayon::prelude::*;
    let mut shared = vec![share; dim];
    if let Some(gate) = gate.filter(|gate| !gate.by_query()) {
        gate.row(env, env.q_start, &mut shared)?;
    }
    let by_query = gate.filter(|gate| gate.by_query());
    let rows = sum.par_chunks_mut(dim).zip(own.par_chunks(dim)).enumerate();
    rows.try_for_each_init(
        || shared.clone(),
        |weights, (row, (sum, own))| {
            if let Some(gate) = by_query {
                gate.row(env, env.q_start + row as i64, weights)?;
            }
            sum.iter_mut().zip(own).zip(&*weights).for_each(|((sum, own), weight)| *sum += weight * own);
            Ok(())
        },
    )
}

/// A launch on the tensors of a problem, for no heads yet.
fn launch<'l>(
    [q, k, v]: [Tensor<'l>; 3],
    (out, lse): (&'l mut TensorMut<'_>, Option<&'l mut TensorMut<'_>>),
    workspace: &'l mut [u8],
    threads: Option<&'l Threads>,
) -> Result<Launch<'l>, attnc_cpu::LayoutError> {
    Ok(Launch {
        q: q.of_cpu()?,
        k: k.of_cpu()?,
        v: v.of_cpu()?,
        out: out.of_cpu()?,
        lse: lse.map(TensorMut::of_cpu).transpose()?,
        q_heads: &[],
        kv_heads: &[],
        workspace,
        pool: threads.map(|t| &t.0),
        apart: false,
    })
}

/// Whether the same was chosen for two heads, and nothing is drawn twice: how often makes tensors of a head's own.
fn same_draws(a: &Env<'_>, b: &Env<'_>) -> bool {
    let same = |(a, b): (&DrawTable, &DrawTable)| a.chose_alike(b) && a.times.is_empty() && b.times.is_empty();
    a.draws.iter().zip(&b.draws).all(same)
}

/// Puts parts into the order of a launch, which begins with the last: that of the longest rows; the lengths of each.
/// Parts that run one after the other stay as they are.
fn order_by_length<'p, 'e>(groups: &mut Vec<Group<'p>>, envs: &mut Vec<Vec<Env<'e>>>, apart: bool) -> Vec<Lengths> {
    let parts = groups.drain(..).zip(envs.drain(..));
    let mut all: Vec<(Lengths, (Group<'p>, Vec<Env<'e>>))> = parts
        .map(|(group, envs)| (envs.first().map_or_else(Lengths::default, |env| group.0.lengths(env)), (group, envs)))
        .collect();
    if !apart {
        all.sort_by_key(|part| part.0.keys);
    }
    let (lengths, parts): (Vec<Lengths>, Vec<_>) = all.into_iter().unzip();
    (*groups, *envs) = parts.into_iter().unzip();
    lengths
}

/// Compares what a target computed with the oracle's outputs, one for each batch item.
///
/// # Panics
/// If they are of other extents.
#[must_use]
pub fn compare(oracle: &[Output], out: &Tensor<'_>, lse: Option<&Tensor<'_>>) -> Report {
    compare_rounded(oracle, out, lse, attnc_cpu::DType::F32)
}

/// As [`compare`], for a target that rounds weights to a type before they meet V.
///
/// # Panics
/// As for [`compare`].
#[must_use]
pub fn compare_rounded(
    oracle: &[Output],
    out: &Tensor<'_>,
    lse: Option<&Tensor<'_>>,
    weights: attnc_cpu::DType,
) -> Report {
    let of = |dtype| match dtype {
        attnc_cpu::DType::F32 => Dtype::F32,
        attnc_cpu::DType::F16 => Dtype::F16,
        attnc_cpu::DType::Bf16 => Dtype::Bf16,
    };
    let rounding = Rounding { out: of(out.dtype()), weights: of(weights) };
    let mut report = Report::default();
    for (batch, output) in oracle.iter().enumerate() {
        let of_out = |head, row, col| f64::from(out.get([batch, head, row, col]));
        let of_lse = |head, row| lse.map_or(f64::NAN, |lse| f64::from(lse.get([batch, head, row, 0])));
        let target = tolerance::Target { out: &of_out, lse: lse.map(|_| &of_lse as &dyn Fn(usize, usize) -> f64) };
        report.merge(&tolerance::compare(output, target, rounding, batch));
    }
    report
}

/// The attention of each head.
pub(crate) fn assignment(program: &Program, select: &Select) -> Result<Vec<Option<usize>>, Vec<Diagnostic>> {
    Ok(match who(program, select)? {
        Who::Every(attention) => vec![Some(attention)],
        Who::Model { attentions, .. } => attentions,
    })
}

/// Resolves a selection.
fn who(program: &Program, select: &Select) -> Result<Who, Vec<Diagnostic>> {
    if let Some(attention) = program.attentions.iter().position(|a| a.name == select.name) {
        for (what, value) in [("layer", select.layer), ("step", select.step)] {
            if !(0..attnc_plan::MAX_LEN).contains(&value) {
                let message = format!("there is no {what} {value}");
                let help = format!("it is counted from 0 and below {}", attnc_plan::MAX_LEN);
                return Err(vec![Diagnostic::global("E0723", message).help(help)]);
            }
        }
        return Ok(Who::Every(attention));
    }
    let Some(name) = program.models.iter().position(|m| m.name == select.name) else {
        let known: Vec<&str> = (program.models.iter().map(|m| m.name.as_str()))
            .chain(program.attentions.iter().map(|a| a.name.as_str()))
            .collect();
        let message = format!("nothing that can be run is named `{}`", select.name);
        return Err(vec![Diagnostic::global(UNKNOWN_NAME, message).help(format!("there are: {}", known.join(", ")))]);
    };
    let model = &program.models[name];
    for (what, value, count) in [("layer", select.layer, model.layers), ("step", select.step, model.steps)] {
        if !(0..count).contains(&value) {
            let message = format!("model `{}` has no {what} {value}", model.name);
            return Err(vec![Diagnostic::global("E0723", message).help(format!("it has {count}, counted from 0"))]);
        }
    }
    let mut of_heads = Vec::new();
    for head in 0..model.heads {
        of_heads.push(arm(program, model, select, head)?);
    }
    let reads = reads(model);
    let attentions = reads.q.iter().map(|&q| of_heads[q]).collect();
    Ok(Who::Model { name, attentions, reads })
}

/// Which heads a model reads. With several KV heads for each query head the queries repeat, all of them in turn.
fn reads(model: &Model) -> Reads {
    let [heads, kv] = [model.heads, model.kv_heads].map(|n| usize::try_from(n).unwrap_or(0));
    match &model.head_map {
        Some(map) => {
            let kv = map.iter().map(|&kv| usize::try_from(kv).unwrap_or(0)).collect();
            Reads { q: (0..heads).collect(), kv }
        }
        None if kv > heads => Reads { q: (0..kv).map(|h| h % heads).collect(), kv: (0..kv).collect() },
        None => Reads { q: (0..heads).collect(), kv: (0..heads).map(|h| h * kv / heads).collect() },
    }
}

/// The attention of a head: the first arm that holds.
fn arm(program: &Program, model: &Model, select: &Select, head: i64) -> Result<Option<usize>, Vec<Diagnostic>> {
    let env = Env { head, heads: model.heads, layer: select.layer, step: select.step, ..Env::default() };
    for arm in &model.arms {
        let holds = Evaluator::new(program, &env, &[arm.when]).truth(arm.when, Point::default());
        if holds.map_err(|e| one(EnvError::from(e)))? {
            return Ok(arm.attention);
        }
    }
    Ok(None)
}
