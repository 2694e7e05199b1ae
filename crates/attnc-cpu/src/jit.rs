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
use cranelift_module::{FuncId, Linkage, Module, ModuleError};

use crate::compile::{Check, CompileError, CpuKernel, Drive, Few, Options, Uses};
use crate::emit::{Callees, driver};
use crate::store::{self, Image, Record, Store};

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
    let of_one_head = code.of_one_head;
    let mut maker = Maker::new(target, &Options { verify, ..Options::default() });
    let mut made = Vec::with_capacity(code.stages.len());
    for (i, [folded, touched]) in code.stages.into_iter().enumerate() {
        let folded = maker.define(&format!("folded{i}"), folded);
        match folded.and_then(|f| Ok([f, maker.define(&format!("touched{i}"), touched)?])) {
            Ok(both) => made.push(both),
            Err(e) => return Err(maker.abandon(e)),
        }
    }
    if let Err(e) = maker.module.finalize_definitions() {
        return Err(maker.abandon(CompileError::Backend(e.to_string())));
    }
    // SAFETY: the functions were generated with this signature and the host's calling convention.
    let function = |id| unsafe { std::mem::transmute::<*const u8, Drive>(maker.module.get_finalized_function(id)) };
    let stages = made.into_iter().map(|both| both.map(function)).collect();
    Ok(Some(Few { _code: Code(Some(maker.module)), stages, of_one_head }))
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
    make(plan, options, false).map(|(kernel, _)| kernel)
}

/// Machine code for a plan, from a store or for it.
pub(crate) fn compile_kept(
    plan: &Plan,
    options: &Options,
    source: &str,
    store: &dyn Store,
) -> Result<CpuKernel, CompileError> {
    let isa = options.isa.unwrap_or_else(Isa::best);
    let text = plan.text();
    let mut name = blake3::Hasher::new();
    for part in [source, store::build(), machine()?, isa.name(), if options.counting { "counting" } else { "" }, &text]
    {
        name.update(&(part.len() as u64).to_le_bytes());
        name.update(part.as_bytes());
    }
    let name = name.finalize().to_hex();
    let found = store.get(&name).and_then(|bytes| store::open(&bytes).ok()).filter(|found| {
        (found.plan.as_str(), found.isa.as_str(), found.counting) == (&text, isa.name(), options.counting)
    });
    if let Some(found) = found {
        return link(plan, options, found.image);
    }
    let (kernel, image) = make(plan, options, true)?;
    // Code that refers to anything beside itself has no image.
    if let Some(image) = image {
        let isa = isa.name().to_owned();
        if let Some(bytes) = store::seal(&Record { plan: text, isa, counting: options.counting, image }) {
            store.put(&name, &bytes);
        }
    }
    Ok(kernel)
}

/// The kind of CPU that code is made for.
fn machine() -> Result<&'static str, CompileError> {
    static MACHINE: OnceLock<String> = OnceLock::new();
    let host = host(false)?;
    Ok(MACHINE.get_or_init(|| {
        let mut text = format!("Cranelift {} {}", cranelift::codegen::VERSION, host.triple());
        for flag in host.isa_flags() {
            // Writing to a string does not fail.
            let _ = write!(text, " {flag}");
        }
        text
    }))
}

/// Makes machine code, and what of it can be kept if `image` asks for it.
fn make(plan: &Plan, options: &Options, image: bool) -> Result<(CpuKernel, Option<Image>), CompileError> {
    let isa = options.isa.unwrap_or_else(Isa::best);
    let target = host(options.verify)?;
    let code = driver::emit(plan, callees(isa)?, target.default_call_conv())?;

    let mut maker = Maker::new(target, options);
    maker.functions = image.then(Vec::new);
    let made = maker.each(code.drive, code.score, code.check, Maker::define);
    let ids = match made {
        Ok(ids) => ids,
        Err(e) => return Err(maker.abandon(e)),
    };
    let image = maker.functions.take().map(|functions| {
        let mut functions = functions.into_iter();
        let mut next = || functions.next().expect("as many as were defined");
        Image {
            drive: ids.drive.iter().map(|_| next()).collect(),
            score: ids.score.iter().map(|id| id.map(|_| next())).collect(),
            check: ids.check.map(|_| next()),
            uses: code.uses.clone(),
        }
    });
    Ok((maker.finish(plan, options, ids, code.uses)?, image))
}

/// The kernel of kept machine code.
fn link(plan: &Plan, options: &Options, image: Image) -> Result<CpuKernel, CompileError> {
    let mut maker = Maker::new(host(options.verify)?, options);
    match maker.each(image.drive, image.score, image.check, Maker::place) {
        Ok(ids) => maker.finish(plan, options, ids, image.uses),
        Err(e) => Err(maker.abandon(e)),
    }
}

/// The functions of a kernel.
struct Ids {
    drive: Vec<FuncId>,
    score: Vec<Option<FuncId>>,
    check: Option<FuncId>,
}

fn backend(error: ModuleError) -> CompileError {
    match error {
        ModuleError::Compilation(e) => CompileError::Backend(format!("{e:?}")),
        e => CompileError::Backend(e.to_string()),
    }
}

/// A module in the making.
struct Maker {
    module: JITModule,
    /// What can be kept of the functions so far, if that is asked for and possible.
    functions: Option<Vec<store::Function>>,
    code_bytes: usize,
    clif: Option<String>,
    asm: Option<String>,
}

impl Maker {
    fn new(target: &OwnedTargetIsa, options: &Options) -> Maker {
        let builder = JITBuilder::with_isa(target.clone(), cranelift_module::default_libcall_names());
        Maker {
            module: JITModule::new(builder),
            functions: None,
            code_bytes: 0,
            clif: options.clif.then(String::new),
            asm: options.asm.then(String::new),
        }
    }

    /// Makes each function of a kernel, in one order.
    fn each<F>(
        &mut self,
        drive: Vec<F>,
        score: Vec<Option<F>>,
        check: Option<F>,
        make: impl Fn(&mut Maker, &str, F) -> Result<FuncId, CompileError>,
    ) -> Result<Ids, CompileError> {
        let named = |i: usize| if i == 0 { "drive".to_owned() } else { format!("drive{i}") };
        let drive: Result<_, _> = drive.into_iter().enumerate().map(|(i, f)| make(self, &named(i), f)).collect();
        let score: Result<_, _> = (score.into_iter().enumerate())
            .map(|(i, f)| f.map(|f| make(self, &format!("score{i}"), f)).transpose())
            .collect();
        Ok(Ids { drive: drive?, score: score?, check: check.map(|f| make(self, "check", f)).transpose()? })
    }

    /// Places a function that was compiled before.
    fn place(&mut self, name: &str, function: store::Function) -> Result<FuncId, CompileError> {
        let signature = self.module.make_signature();
        let id = self.module.declare_function(name, Linkage::Local, &signature).map_err(backend)?;
        self.module.define_function_bytes(id, function.align, &function.bytes, &[]).map_err(backend)?;
        self.code_bytes += function.bytes.len();
        Ok(id)
    }

    /// The kernel of functions that were made.
    fn finish(mut self, plan: &Plan, options: &Options, ids: Ids, uses: Uses) -> Result<CpuKernel, CompileError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        let table = if options.counting { Table::counting(isa) } else { Table::of(isa) };
        let (Some(table), Ok(callees)) = (table, callees(isa)) else {
            return Err(self.abandon(CompileError::Isa(isa)));
        };
        if let Err(e) = self.module.finalize_definitions() {
            return Err(self.abandon(CompileError::Backend(e.to_string())));
        }
        let address = |id| self.module.get_finalized_function(id);
        // SAFETY: the functions were generated with these signatures and the host's calling convention; kept ones were by
        // this build, which the store vouches for.
        let (drive, score, check) = unsafe {
            let check = ids.check.map(|id| std::mem::transmute::<*const u8, Check>(address(id)));
            let of = |id| std::mem::transmute::<*const u8, Drive>(address(id));
            let score = ids.score.into_iter().map(|id| id.map(of)).collect();
            (ids.drive.into_iter().map(of).collect(), score, check)
        };
        let plan = plan.clone();
        Ok(CpuKernel {
            tables: plan.program.tables.iter().map(|table| table.as_ptr()).collect(),
            callees: callees.addresses(),
            plan,
            isa,
            table: Box::new(table),
            uses,
            _code: Code(Some(self.module)),
            drive,
            score,
            check,
            few: OnceLock::new(),
            verify: options.verify,
            code_bytes: self.code_bytes,
            clif: self.clif,
            asm: self.asm,
        })
    }

    /// Compiles a function.
    fn define(&mut self, name: &str, func: Function) -> Result<FuncId, CompileError> {
        let id = self.module.declare_function(name, Linkage::Local, &func.signature).map_err(backend)?;
        if let Some(text) = &mut self.clif {
            // Writing to a string does not fail.
            let _ = writeln!(text, "; {name}\n{}", func.display());
        }
        let mut context = cranelift::codegen::Context::for_function(func);
        context.set_disasm(self.asm.is_some());
        self.module.define_function(id, &mut context).map_err(backend)?;
        if let Some(code) = context.compiled_code() {
            let bytes = code.code_buffer();
            self.code_bytes += bytes.len();
            self.functions = self.functions.take().filter(|_| code.buffer.relocs().is_empty()).map(|mut all| {
                all.push(store::Function { align: u64::from(code.buffer.alignment), bytes: bytes.to_vec() });
                all
            });
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
