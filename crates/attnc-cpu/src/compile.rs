//! A compiled plan: machine code that can be called, and what it reads.
//!
//! The one idea: a [`CpuKernel`] owns its code, which runs only under a borrow of it. Nothing here knows what the code
//! does, or how it is made; see [`crate::jit`].

use std::fmt;
use std::sync::OnceLock;

use attnc_kernels::Isa;
use attnc_kernels::abi::Table;
use attnc_plan::{Entry, Plan, VerifiedPlan};
use serde::{Deserialize, Serialize};

use crate::jit::{self, Code};
use crate::layout::{Ctx, Scratch};
use crate::store::Store;

/// How to compile.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Kernels to call; `None` is the fastest that this machine runs.
    pub isa: Option<Isa>,
    /// Keep the text of the IR, for [`CpuKernel::clif`].
    pub clif: bool,
    /// Keep the machine code as text, for [`CpuKernel::asm`].
    pub asm: bool,
    /// Run Cranelift's verifier on what is generated: a third more time, for tests.
    pub verify: bool,
    /// Call kernels that count their operations, see [`crate::flops_executed`].
    pub counting: bool,
}

impl Default for Options {
    /// The fastest kernels, no texts; the verifier in debug builds.
    fn default() -> Self {
        Options { isa: None, clif: false, asm: false, verify: cfg!(debug_assertions), counting: false }
    }
}

/// Why a plan was not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// The plan asks for what this back end does not do: what, and why.
    Unsupported(String),
    /// This machine cannot run kernels of that instruction set.
    Isa(Isa),
    /// Cranelift cannot make code for this machine, or there is no memory for it.
    Backend(String),
    /// This crate was built without its feature `jit`.
    Absent,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::Unsupported(what) => write!(f, "the CPU target does not support {what}"),
            CompileError::Isa(isa) => write!(f, "this machine does not run {} kernels", isa.name()),
            CompileError::Backend(what) => write!(f, "code generation failed: {what}"),
            CompileError::Absent => write!(f, "code generation for CPUs was left out of this build"),
        }
    }
}

impl std::error::Error for CompileError {}

/// What of an environment a kernel reads, by number in the program.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Uses {
    pub(crate) sizes: Vec<usize>,
    /// With the number of indices.
    pub(crate) tensors: Vec<(usize, usize)>,
    pub(crate) maps: Vec<usize>,
    pub(crate) draws: Vec<usize>,
    pub(crate) orders: Vec<usize>,
    /// Orders whose inverse is read.
    pub(crate) positions: Vec<usize>,
    pub(crate) levels: Vec<usize>,
    pub(crate) docs: bool,
    /// The number of the head.
    pub(crate) head: bool,
}

impl Uses {
    /// Takes in what another function reads.
    pub(crate) fn join(&mut self, other: Uses) {
        fn all<T: Ord>(into: &mut Vec<T>, from: Vec<T>) {
            into.extend(from);
            into.sort_unstable();
            into.dedup();
        }
        all(&mut self.sizes, other.sizes);
        all(&mut self.tensors, other.tensors);
        all(&mut self.maps, other.maps);
        all(&mut self.draws, other.draws);
        all(&mut self.orders, other.orders);
        all(&mut self.positions, other.positions);
        all(&mut self.levels, other.levels);
        self.docs |= other.docs;
        self.head |= other.head;
    }
}

pub(crate) type Drive = unsafe extern "C" fn(*const Ctx, *mut Scratch, i64);
pub(crate) type Check = unsafe extern "C" fn(*const Ctx, *mut Scratch, i64) -> i64;

/// Machine code of one plan. Serves every length, batch, head count, start, stride and element type, from any
/// number of threads.
pub struct CpuKernel {
    pub(crate) plan: Plan,
    pub(crate) isa: Isa,
    pub(crate) table: Box<Table>,
    /// Functions that its code calls.
    pub(crate) callees: &'static [usize],
    /// Where the plan's constant tables are.
    pub(crate) tables: Vec<*const i64>,
    pub(crate) uses: Uses,
    /// What the functions below are in.
    pub(crate) _code: Code,
    /// One function for each stage that attends.
    pub(crate) drive: Vec<Drive>,
    /// One for each selection by score, which takes a tile of items.
    pub(crate) score: Vec<Option<Drive>>,
    pub(crate) check: Option<Check>,
    /// What few queries take besides, made when a launch first has use for it; `None` if nothing can be made.
    pub(crate) few: OnceLock<Option<Few>>,
    pub(crate) verify: bool,
    pub(crate) code_bytes: usize,
    pub(crate) clif: Option<String>,
    pub(crate) asm: Option<String>,
}

// SAFETY: after it is made its code and tables are not written.
unsafe impl Send for CpuKernel {}
// SAFETY: as above.
unsafe impl Sync for CpuKernel {}

impl fmt::Debug for CpuKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuKernel").field("name", &self.plan.name).field("isa", &self.isa).finish_non_exhaustive()
    }
}

/// Machine code for few queries.
pub(crate) struct Few {
    pub(crate) _code: Code,
    /// For each stage what computes queries of folded heads, and what marks the tiles of keys that they visit.
    pub(crate) stages: Vec<[Drive; 2]>,
    /// Whether something beside scores reads the head.
    pub(crate) of_one_head: bool,
}

impl CpuKernel {
    /// The code for few queries.
    fn few(&self) -> Option<&Few> {
        let compile = || jit::few(&self.plan, self.isa, self.verify).ok().flatten();
        self.few.get_or_init(compile).as_ref()
    }

    /// Whether there is code for few queries: it folds heads, and tells which keys they visit.
    pub(crate) fn knows_few(&self) -> bool {
        self.few().is_some()
    }

    /// Whether something beside scores, which keys there are above all, may differ from head to head of the same environment.
    pub(crate) fn differs_by_head(&self) -> bool {
        self.uses.head && self.few().is_none_or(|few| few.of_one_head)
    }

    /// Whether scores of a stage are modified, or something is added to them.
    pub(crate) fn modifies(&self) -> bool {
        let biased = |e: &Entry| matches!(e, Entry::Tokens { bias: Some(_), .. });
        self.plan.stages.iter().any(|s| s.score.is_some() || s.entries.iter().any(biased))
    }

    /// Computes the queries of folded heads in one stage; nothing without code for few queries.
    ///
    /// # Safety
    /// As for [`Self::drive`], with lanes and where their rows are listed in `ctx`.
    pub(crate) unsafe fn drive_folded(&self, stage: usize, ctx: &Ctx, scratch: &mut Scratch) {
        if let Some(few) = self.few() {
            // SAFETY: promised by the caller.
            unsafe { few.stages[stage][0](ctx, scratch, 0) }
        }
    }

    /// Marks the tiles of keys that the first tile of queries visits in a stage; nothing without code for few queries.
    ///
    /// # Safety
    /// As for [`Self::drive`]; nothing but the scratch is written.
    pub(crate) unsafe fn mark_touched(&self, stage: usize, ctx: &Ctx, scratch: &mut Scratch) {
        if let Some(few) = self.few() {
            // SAFETY: promised by the caller.
            unsafe { few.stages[stage][1](ctx, scratch, 0) }
        }
    }

    /// The plan it was compiled from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The instruction set of its kernels.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of machine code.
    #[must_use]
    pub fn code_bytes(&self) -> usize {
        self.code_bytes
    }

    /// Text of the IR, if [`Options::clif`] asked for it.
    #[must_use]
    pub fn clif(&self) -> Option<&str> {
        self.clif.as_deref()
    }

    /// Text of the machine code, if [`Options::asm`] asked for it.
    #[must_use]
    pub fn asm(&self) -> Option<&str> {
        self.asm.as_deref()
    }

    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }

    pub(crate) fn table(&self) -> *const Table {
        &*self.table
    }

    pub(crate) fn kernels(&self) -> &Table {
        &self.table
    }

    /// Stages of the plan that attend.
    pub(crate) fn stages(&self) -> usize {
        self.drive.len()
    }

    /// Rows of no entries are an error that has to be looked for.
    pub(crate) fn checks_rows(&self) -> bool {
        self.check.is_some()
    }

    /// Computes one tile of queries in one stage.
    ///
    /// # Safety
    /// `ctx` describes a checked launch, `scratch` is cut for it, has its marks made for `n_k`, and is this
    /// thread's; no other thread computes the same tile.
    pub(crate) unsafe fn drive(&self, stage: usize, ctx: &Ctx, scratch: &mut Scratch, tile: i64) {
        // SAFETY: promised by the caller.
        unsafe { (self.drive[stage])(ctx, scratch, tile) }
    }

    /// Takes the scores of a tile of items of a selection: `ctx` lists its lanes. Nothing where it has no scores.
    ///
    /// # Safety
    /// As for [`Self::drive`]; the scratch has the lists or values that the selection asks for.
    pub(crate) unsafe fn score(&self, choose: usize, ctx: &Ctx, scratch: &mut Scratch) {
        if let Some(Some(score)) = self.score.get(choose) {
            // SAFETY: promised by the caller.
            unsafe { score(ctx, scratch, 0) }
        }
    }

    /// The first row of a tile that has no entries, numbered within the head, if that is an error.
    ///
    /// # Safety
    /// As for [`Self::drive`].
    pub(crate) unsafe fn empty_row(&self, ctx: &Ctx, scratch: &mut Scratch, tile: i64) -> Option<usize> {
        // SAFETY: promised by the caller.
        let row = unsafe { (self.check?)(ctx, scratch, tile) };
        usize::try_from(row).ok()
    }
}

/// Makes machine code for a plan.
///
/// # Errors
/// If the plan asks for what this back end does not do, or this machine cannot run the code.
pub fn compile(plan: &VerifiedPlan, options: &Options) -> Result<CpuKernel, CompileError> {
    jit::compile_plan(plan, options)
}

/// Takes machine code for a plan from a store, or makes it and puts it there. `source` names what the plan was made
/// from: no two sources share a name. Texts that the options ask for are never kept, and neither is code that was.
///
/// # Errors
/// As for [`compile`]. What a store holds is never an error: what cannot be used is made anew.
pub fn compile_kept(
    plan: &VerifiedPlan,
    options: &Options,
    source: &str,
    store: &dyn Store,
) -> Result<CpuKernel, CompileError> {
    if options.clif || options.asm {
        return compile(plan, options);
    }
    jit::compile_kept(plan, options, source, store)
}
