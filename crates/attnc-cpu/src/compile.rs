//! From a verified plan to machine code that can be called.
//!
//! The one idea: the host's instruction set and the tables of helpers are made once for a process; a kernel
//! then costs one small function. [`CpuKernel`] owns its machine code and gives the memory back when it is
//! dropped. Nothing here knows what the code does; see [`crate::emit`].

use std::fmt;
use std::fmt::Write as _;
use std::sync::OnceLock;

use attnc_kernels::Isa;
use attnc_kernels::abi::Table;
use attnc_plan::{Plan, VerifiedPlan};
use cranelift::codegen::ir::Function;
use cranelift::codegen::isa::OwnedTargetIsa;
use cranelift::codegen::settings::{self, Configurable};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module};

use crate::emit::{Callees, driver};
use crate::layout::{Ctx, Scratch};

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
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::Unsupported(what) => write!(f, "the CPU target does not support {what}"),
            CompileError::Isa(isa) => write!(f, "this machine does not run {} kernels", isa.name()),
            CompileError::Backend(what) => write!(f, "code generation failed: {what}"),
        }
    }
}

impl std::error::Error for CompileError {}

/// What of an environment a kernel reads, by number in the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses {
    pub(crate) sizes: Vec<usize>,
    /// With the number of indices.
    pub(crate) tensors: Vec<(usize, usize)>,
    pub(crate) maps: Vec<usize>,
    pub(crate) draws: Vec<usize>,
    pub(crate) orders: Vec<usize>,
    /// Orders whose inverse is read.
    pub(crate) positions: Vec<usize>,
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
        self.docs |= other.docs;
        self.head |= other.head;
    }
}

type Drive = unsafe extern "C" fn(*const Ctx, *mut Scratch, i64);
type Check = unsafe extern "C" fn(*const Ctx, *mut Scratch, i64) -> i64;

/// Machine code of one plan. Serves every length, batch, head count, start, stride and element type, from any
/// number of threads.
pub struct CpuKernel {
    plan: Plan,
    isa: Isa,
    table: Box<Table>,
    uses: Uses,
    /// `Some` until it is dropped.
    module: Option<JITModule>,
    /// One function for each stage.
    drive: Vec<Drive>,
    check: Option<Check>,
    /// What few queries take besides, made when a launch first has use for it; `None` if nothing can be made.
    few: OnceLock<Option<Few>>,
    verify: bool,
    code_bytes: usize,
    clif: Option<String>,
    asm: Option<String>,
}

// SAFETY: after it is made the module is only kept and, in `drop`, freed; its code and tables are not written.
unsafe impl Send for CpuKernel {}
// SAFETY: as above.
unsafe impl Sync for CpuKernel {}

impl fmt::Debug for CpuKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuKernel").field("name", &self.plan.name).field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Drop for CpuKernel {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: code runs only under a borrow of this kernel, and no address of it is given out.
            unsafe { module.free_memory() };
        }
    }
}

/// Machine code for few queries.
struct Few {
    /// `Some` until it is dropped.
    module: Option<JITModule>,
    folded: Drive,
    touched: Drive,
}

impl Drop for Few {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: as for the kernel that owns it.
            unsafe { module.free_memory() };
        }
    }
}

impl Few {
    fn compile(plan: &Plan, isa: Isa, verify: bool) -> Result<Option<Few>, CompileError> {
        let target = host(verify)?;
        let Some(code) = driver::emit_few(plan, callees(isa)?, target.default_call_conv())? else { return Ok(None) };
        let mut maker = Maker::new(target, &Options { verify, ..Options::default() });
        let made = maker.define("folded", code.folded).and_then(|f| Ok((f, maker.define("touched", code.touched)?)));
        let (folded, touched) = match made {
            Ok(made) => made,
            Err(e) => return Err(maker.abandon(e)),
        };
        if let Err(e) = maker.module.finalize_definitions() {
            return Err(maker.abandon(CompileError::Backend(e.to_string())));
        }
        // SAFETY: the functions were generated with this signature and the host's calling convention.
        let [folded, touched] = [folded, touched]
            .map(|id| unsafe { std::mem::transmute::<*const u8, Drive>(maker.module.get_finalized_function(id)) });
        Ok(Some(Few { module: Some(maker.module), folded, touched }))
    }
}

impl CpuKernel {
    /// The code for few queries.
    fn few(&self) -> Option<&Few> {
        let compile = || Few::compile(&self.plan, self.isa, self.verify).ok().flatten();
        self.few.get_or_init(compile).as_ref()
    }

    /// Whether there is code for few queries: it folds heads, and tells which keys they visit.
    pub(crate) fn knows_few(&self) -> bool {
        self.few().is_some()
    }

    /// Computes the queries of folded heads; nothing without code for few queries.
    ///
    /// # Safety
    /// As for [`Self::drive`], with lanes and where their rows are listed in `ctx`.
    pub(crate) unsafe fn drive_folded(&self, ctx: &Ctx, scratch: &mut Scratch) {
        if let Some(few) = self.few() {
            // SAFETY: promised by the caller.
            unsafe { (few.folded)(ctx, scratch, 0) }
        }
    }

    /// Marks the tiles of keys that the first tile of queries visits; nothing without code for few queries.
    ///
    /// # Safety
    /// As for [`Self::drive`]; nothing but the scratch is written.
    pub(crate) unsafe fn mark_touched(&self, ctx: &Ctx, scratch: &mut Scratch) {
        if let Some(few) = self.few() {
            // SAFETY: promised by the caller.
            unsafe { (few.touched)(ctx, scratch, 0) }
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

    /// Stages of the plan.
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

/// The host's instruction set as Cranelift sees it, made once; with or without the verifier. Registers are allocated
/// in one pass: that halves compile time and costs code that computes on every score a few percent.
pub(crate) fn host(verify: bool) -> Result<&'static OwnedTargetIsa, CompileError> {
    static HOSTS: [OnceLock<Result<OwnedTargetIsa, String>>; 2] = [const { OnceLock::new() }; 2];
    let made = HOSTS[usize::from(verify)].get_or_init(|| {
        let mut flags = settings::builder();
        let wanted = [
            ("opt_level", "none"),
            ("regalloc_algorithm", "single_pass"),
            ("enable_verifier", if verify { "true" } else { "false" }),
            ("is_pic", "false"),
            ("use_colocated_libcalls", "false"),
            ("unwind_info", "false"),
        ];
        for (name, value) in wanted {
            flags.set(name, value).map_err(|e| e.to_string())?;
        }
        let builder = cranelift_native::builder().map_err(str::to_owned)?;
        builder.finish(settings::Flags::new(flags)).map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|e| CompileError::Backend(e.clone()))
}

/// Helpers for an instruction set, made once.
fn callees(isa: Isa) -> Result<&'static Callees, CompileError> {
    static CALLEES: [OnceLock<Option<Callees>>; 3] = [const { OnceLock::new() }; 3];
    let at = match isa {
        Isa::Scalar => 0,
        Isa::Avx2 => 1,
        Isa::Avx512 => 2,
    };
    CALLEES[at].get_or_init(|| Callees::of(isa)).as_ref().ok_or(CompileError::Isa(isa))
}

/// Makes machine code for a plan.
///
/// # Errors
/// If the plan asks for what this back end does not do, or this machine cannot run the code.
pub fn compile(plan: &VerifiedPlan, options: &Options) -> Result<CpuKernel, CompileError> {
    compile_plan(plan, options)
}

pub(crate) fn compile_plan(plan: &Plan, options: &Options) -> Result<CpuKernel, CompileError> {
    let isa = options.isa.unwrap_or_else(Isa::best);
    let table = if options.counting { Table::counting(isa) } else { Table::of(isa) };
    let table = Box::new(table.ok_or(CompileError::Isa(isa))?);
    let target = host(options.verify)?;
    let code = driver::emit(plan, callees(isa)?, target.default_call_conv())?;

    let mut maker = Maker::new(target, options);
    let named = |i: usize| if i == 0 { "drive".to_owned() } else { format!("drive{i}") };
    let drive: Result<Vec<FuncId>, _> =
        code.drive.into_iter().enumerate().map(|(i, f)| maker.define(&named(i), f)).collect();
    let check = code.check.map(|f| maker.define("check", f)).transpose();
    let (drive, check) = match (drive, check) {
        (Ok(drive), Ok(check)) => (drive, check),
        (Err(e), _) | (_, Err(e)) => return Err(maker.abandon(e)),
    };
    if let Err(e) = maker.module.finalize_definitions() {
        return Err(maker.abandon(CompileError::Backend(e.to_string())));
    }
    let address = |id| maker.module.get_finalized_function(id);
    // SAFETY: the functions were generated with these signatures and the host's calling convention.
    let (drive, check) = unsafe {
        let check = check.map(|id| std::mem::transmute::<*const u8, Check>(address(id)));
        let drive = drive.into_iter().map(|id| std::mem::transmute::<*const u8, Drive>(address(id))).collect();
        (drive, check)
    };
    Ok(CpuKernel {
        plan: plan.clone(),
        isa,
        table,
        uses: code.uses,
        module: Some(maker.module),
        drive,
        check,
        few: OnceLock::new(),
        verify: options.verify,
        code_bytes: maker.code_bytes,
        clif: maker.clif,
        asm: maker.asm,
    })
}

/// A module in the making.
struct Maker {
    module: JITModule,
    code_bytes: usize,
    clif: Option<String>,
    asm: Option<String>,
}

impl Maker {
    fn new(target: &OwnedTargetIsa, options: &Options) -> Maker {
        let builder = JITBuilder::with_isa(target.clone(), cranelift_module::default_libcall_names());
        Maker {
            module: JITModule::new(builder),
            code_bytes: 0,
            clif: options.clif.then(String::new),
            asm: options.asm.then(String::new),
        }
    }

    /// Compiles a function.
    fn define(&mut self, name: &str, func: Function) -> Result<FuncId, CompileError> {
        let backend = |e: cranelift_module::ModuleError| match e {
            cranelift_module::ModuleError::Compilation(e) => CompileError::Backend(format!("{e:?}")),
            e => CompileError::Backend(e.to_string()),
        };
        let id = self.module.declare_function(name, Linkage::Local, &func.signature).map_err(backend)?;
        if let Some(text) = &mut self.clif {
            // Writing to a string does not fail.
            let _ = writeln!(text, "; {name}\n{}", func.display());
        }
        let mut context = cranelift::codegen::Context::for_function(func);
        context.set_disasm(self.asm.is_some());
        self.module.define_function(id, &mut context).map_err(backend)?;
        if let Some(code) = context.compiled_code() {
            self.code_bytes += code.code_buffer().len();
            if let Some(text) = &mut self.asm {
                let _ = writeln!(text, "; {name}\n{}", code.vcode.as_deref().unwrap_or_default());
            }
        }
        Ok(id)
    }

    /// Gives the memory back.
    fn abandon(self, error: CompileError) -> CompileError {
        // SAFETY: nothing of the module has been given out.
        unsafe { self.module.free_memory() };
        error
    }
}
