//! From a plan to machine code, by Cranelift.
//!
//! The one idea: the host's instruction set and the tables of helpers are made once for a process; a kernel
//! then costs one small function. [`Code`] gives the memory back when it is dropped. Nothing here knows what the code
//! does; see [`crate::emit`].

use std::fmt::Write as _;
use std::sync::OnceLock;

use attnc_kernels::Isa;
use attnc_kernels::abi::Table;
use attnc_plan::Plan;
use cranelift::codegen::ir::Function;
use cranelift::codegen::isa::OwnedTargetIsa;
use cranelift::codegen::settings::{self, Configurable};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module};

use crate::compile::{Check, CompileError, CpuKernel, Drive, Few, Options};
use crate::emit::{Callees, driver};

/// Memory of machine code. Whoever calls a function of it holds it.
pub(crate) struct Code(Option<JITModule>);

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.0.take() {
            // SAFETY: code runs only under a borrow of the kernel that owns this, and no address of it is given out.
            unsafe { module.free_memory() };
        }
    }
}

/// The kind of machine that code is made for.
pub(crate) fn known() -> Result<String, CompileError> {
    host(false).map(|host| host.triple().to_string())
}

/// Code for few queries; `None` for a plan that has no use for it.
pub(crate) fn few(plan: &Plan, isa: Isa, verify: bool) -> Result<Option<Few>, CompileError> {
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
    Ok(Some(Few { _code: Code(Some(maker.module)), folded, touched }))
}

/// The host's instruction set as Cranelift sees it, made once; with or without the verifier. Registers are allocated
/// in one pass: that halves compile time and costs code that computes on every score a few percent.
fn host(verify: bool) -> Result<&'static OwnedTargetIsa, CompileError> {
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

/// Machine code for a plan.
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
    let score: Result<Vec<Option<FuncId>>, _> = (code.score.into_iter().enumerate())
        .map(|(i, f)| f.map(|f| maker.define(&format!("score{i}"), f)).transpose())
        .collect();
    let check = code.check.map(|f| maker.define("check", f)).transpose();
    let (drive, score, check) = match (drive, score, check) {
        (Ok(drive), Ok(score), Ok(check)) => (drive, score, check),
        (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) => return Err(maker.abandon(e)),
    };
    if let Err(e) = maker.module.finalize_definitions() {
        return Err(maker.abandon(CompileError::Backend(e.to_string())));
    }
    let address = |id| maker.module.get_finalized_function(id);
    // SAFETY: the functions were generated with these signatures and the host's calling convention.
    let (drive, score, check) = unsafe {
        let check = check.map(|id| std::mem::transmute::<*const u8, Check>(address(id)));
        let of = |id| std::mem::transmute::<*const u8, Drive>(address(id));
        let score = score.into_iter().map(|id| id.map(of)).collect();
        (drive.into_iter().map(of).collect(), score, check)
    };
    Ok(CpuKernel {
        plan: plan.clone(),
        isa,
        table,
        uses: code.uses,
        _code: Code(Some(maker.module)),
        drive,
        score,
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
