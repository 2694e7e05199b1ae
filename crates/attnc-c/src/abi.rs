//! Structures and functions, as C sees them.
//!
//! One idea: every function is a closure that returns diagnostics, run where panics end. Names and their order are the
//! interface: fields are added at the end of a structure, and never moved.

#![allow(non_camel_case_types, reason = "names of C")]
#![allow(unsafe_code, reason = "pointers of C")]
#![allow(rustdoc::broken_intra_doc_links, reason = "texts of the header: shapes in brackets are no links")]
#![deny(improper_ctypes_definitions)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use attnc::{
    BROKEN_PLAN, Compiler, Diagnostic, Diagnostics, Inputs, Loader, MapInput, Memory, NO_TARGET, Options, Problem,
    Resources, ReturnedValues, Select, Shape, Supply, Target, TensorData,
};
use attnc_host::foreign::{Axes, DLTensor, Raw, WRONG_ARGUMENT, apart, bytes_of_inputs};
use attnc_host::kept::keeping;
use attnc_host::{Disk, Kernels, Subject};

use crate::handles::{self, Object};
use crate::last;

/// What a function returns.
pub type attnc_status = i32;

/// Done.
pub const ATTNC_OK: attnc_status = 0;
/// Something is wrong with a source file.
pub const ATTNC_COMPILE: attnc_status = 1;
/// An argument is null where it may not be, a handle that was freed, or a structure of an unknown size.
pub const ATTNC_ARGUMENT: attnc_status = 2;
/// This machine lacks the target.
pub const ATTNC_TARGET: attnc_status = 3;
/// What a kernel was given does not fit; nothing was written.
pub const ATTNC_RUN: attnc_status = 4;
/// A mistake of this library.
pub const ATTNC_INTERNAL: attnc_status = 101;

/// A number that is not given.
pub const ATTNC_UNSET: i64 = i64::MIN;

/// A checked file.
pub struct attnc_module {
    _opaque: [u8; 0],
}

/// One attention, or one layer of a model, compiled for every length.
pub struct attnc_kernel {
    _opaque: [u8; 0],
}

/// Threads to run kernels on.
pub struct attnc_threads {
    _opaque: [u8; 0],
}

/// Levels, scores and selections that a launch has handed back.
pub struct attnc_returned {
    _opaque: [u8; 0],
}

/// A param and its value, as it would stand in the file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_setting {
    /// sizeof(attnc_setting), the same for all of a list.
    pub size: usize,
    /// Its name.
    pub name: *const c_char,
    /// Its value.
    pub value: *const c_char,
}

/// How to compile.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_options {
    /// sizeof(attnc_options)
    pub size: usize,
    /// "cpu", "cpu:scalar", "cpu:avx2", "cpu:avx512" or "oracle"; NULL is "cpu".
    pub target: *const c_char,
    /// Values of params.
    pub set: *const attnc_setting,
    /// How many.
    pub set_count: usize,
    /// Where compiled kernels are kept for other processes: a directory, or "" for the user's own ($ATTNC_CACHE, else
    /// attnc in the user's directory for caches). NULL keeps nothing.
    pub cache: *const c_char,
}

/// A name and a number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_size {
    /// sizeof(attnc_size), the same for all of a list.
    pub size: usize,
    /// Its name in the file.
    pub name: *const c_char,
    /// Its value.
    pub value: i64,
}

/// A map of the file: bytes of pairs, or compressed rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_map {
    /// sizeof(attnc_map), the same for all of a list.
    pub size: usize,
    /// Its name in the file.
    pub name: *const c_char,
    /// Row-major bytes, 0 is not in the set; NULL of a map that is csr.
    pub data: *const u8,
    /// Extents of data: rows and columns, with heads before them if the map has heads.
    pub shape: *const usize,
    /// Number of extents.
    pub ndim: usize,
    /// Offsets of compressed rows.
    pub indptr: *const i64,
    /// How many.
    pub indptr_count: usize,
    /// Columns of compressed rows.
    pub indices: *const i64,
    /// How many.
    pub indices_count: usize,
}

/// A tensor of the file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_reals {
    /// sizeof(attnc_reals), the same for all of a list.
    pub size: usize,
    /// Its name in the file.
    pub name: *const c_char,
    /// Row-major elements.
    pub data: *const f32,
    /// Extents.
    pub shape: *const usize,
    /// Number of extents.
    pub ndim: usize,
}

/// A level ("g.k"), a score or a selection of the file: row-major, of four axes: batch, heads, rows, and dimension,
/// candidates or slots.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_supplied {
    /// sizeof(attnc_supplied), the same for all of a list.
    pub size: usize,
    /// Its name in the file.
    pub name: *const c_char,
    /// Elements of a level or a score; NULL of a selection.
    pub data: *const f32,
    /// Elements of a selection: slots, and -1 behind the last of a row; NULL of a level or a score.
    pub slots: *const i32,
    /// Extents.
    pub shape: *const usize,
    /// Number of extents: 4.
    pub ndim: usize,
}

/// What a kernel is given.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_problem {
    /// sizeof(attnc_problem)
    pub size: usize,
    /// [batch, heads, queries, dim], or without the batch; float32, float16 or bfloat16, of any strides.
    pub q: *const DLTensor,
    /// [batch, kv_heads, keys, dim]
    pub k: *const DLTensor,
    /// [batch, kv_heads, keys, dim_v]
    pub v: *const DLTensor,
    /// [batch, heads, queries, dim_v]: written.
    pub out: *const DLTensor,
    /// [batch, heads, queries] of float32: written; NULL if it is not wanted.
    pub lse: *const DLTensor,
    /// Position of the first query, or ATTNC_UNSET.
    pub q_start: i64,
    /// Position of the first key, or ATTNC_UNSET.
    pub k_start: i64,
    /// Sizes that the file declares.
    pub sizes: *const attnc_size,
    /// How many.
    pub sizes_count: usize,
    /// Where documents begin, and the end of the last.
    pub docs: *const i64,
    /// How many offsets.
    pub docs_count: usize,
    /// Maps that the file declares.
    pub maps: *const attnc_map,
    /// How many.
    pub maps_count: usize,
    /// Tensors that the file declares.
    pub tensors: *const attnc_reals,
    /// How many.
    pub tensors_count: usize,
    /// Queries and keys of each batch item where it is padded: two numbers an item.
    pub lengths: *const i64,
    /// How many items; 0 if none is padded.
    pub lengths_count: usize,
    /// Memory to work in, see attnc_workspace_bytes; NULL allocates it.
    pub workspace: *mut c_void,
    /// Bytes of it.
    pub workspace_bytes: usize,
    /// Threads to run on; NULL is as many as there are cores.
    pub threads: *const attnc_threads,
    /// Levels, scores and selections that are given instead of being computed.
    pub supplied: *const attnc_supplied,
    /// How many.
    pub supplied_count: usize,
}

/// Lengths and counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_shape {
    /// sizeof(attnc_shape)
    pub size: usize,
    /// Batch items.
    pub batch: i64,
    /// Query heads.
    pub heads: i64,
    /// Queries.
    pub queries: i64,
    /// Keys.
    pub keys: i64,
    /// Dimension of queries and keys.
    pub dim: i64,
    /// Dimension of values.
    pub dim_v: i64,
    /// Bytes of an element.
    pub element: i64,
    /// Threads.
    pub threads: i64,
}

/// What a launch will do, counted before it runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct attnc_cost {
    /// sizeof(attnc_cost)
    pub size: usize,
    /// Pairs of query and key.
    pub entries: u64,
    /// Operations of both products on these.
    pub useful_flops: u64,
    /// Operations of both products that are executed.
    pub executed_flops: u64,
    /// Full tiles.
    pub full_tiles: u64,
    /// Partial tiles.
    pub partial_tiles: u64,
    /// Rows without keys.
    pub empty_rows: u64,
    /// Keys of the longest row.
    pub max_row: u64,
    /// Bytes that are read and written once.
    pub bytes_min: u64,
    /// Bytes that are read and written tile by tile.
    pub bytes_tiles: u64,
}

/// An argument that cannot be used.
fn argument(name: &str, what: &str) -> Diagnostics {
    Diagnostic::global(WRONG_ARGUMENT, format!("`{name}` {what}")).help("see attnc.h").into()
}

/// Runs a function of the interface: what it says becomes the last error, and panics end here.
fn guard(work: impl FnOnce() -> Result<(), Diagnostics>) -> attnc_status {
    last::clear();
    let run = || {
        let Err(said) = work() else { return ATTNC_OK };
        last::set(&said);
        let first = said.list.iter().find(|d| d.severity == attnc::Severity::Error);
        match first.map_or("", |d| d.code) {
            WRONG_ARGUMENT => ATTNC_ARGUMENT,
            NO_TARGET => ATTNC_TARGET,
            BROKEN_PLAN => ATTNC_INTERNAL,
            code if code.starts_with("E07") => ATTNC_RUN,
            _ => ATTNC_COMPILE,
        }
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let said = Diagnostic::global(BROKEN_PLAN, "internal error: the library panicked").into();
        // What cannot even be said is not said.
        let _ = catch_unwind(AssertUnwindSafe(|| last::set(&said)));
        ATTNC_INTERNAL
    })
}

/// A text of C.
///
/// # Safety
/// Null, or a string that ends with a zero and lives for `'a`.
unsafe fn text<'a>(name: &str, pointer: *const c_char) -> Result<Option<&'a str>, Diagnostics> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(Some).map_err(|_| argument(name, "is not UTF-8 text"))
}

/// A list of C.
///
/// # Safety
/// `count` elements that live for `'a`, unless null.
unsafe fn list<'a, T>(name: &str, pointer: *const T, count: usize) -> Result<&'a [T], Diagnostics> {
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(argument(name, "is null, and its count is not 0")),
        (false, _) if !pointer.is_aligned() => Err(argument(name, "is not aligned")),
        (false, _) if count > isize::MAX as usize / size_of::<T>().max(1) => {
            Err(argument(name, "is longer than any memory"))
        }
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// A structure of C that begins with its size, as far as it goes; what lies beyond is that of `absent`.
///
/// # Safety
/// Null, or a structure of as many bytes as its first number says.
unsafe fn structure<T: Copy>(name: &str, pointer: *const T, least: usize, absent: T) -> Result<T, Diagnostics> {
    if pointer.is_null() {
        return Err(argument(name, "is null"));
    }
    // SAFETY: every structure of this interface begins with its size.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if size < least || size > 1 << 16 {
        let what = format!("has a size of {size} bytes, and at least {least} are known: set `size` to sizeof");
        return Err(argument(name, &what));
    }
    let mut whole = absent;
    // SAFETY: no more bytes than both have; every field is a number or a pointer, of which all bits are one.
    unsafe {
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut whole).cast::<u8>(), size.min(size_of::<T>()));
    }
    Ok(whole)
}

/// A list of such structures, all of the size that the first of them says.
///
/// # Safety
/// Null, or `count` structures of as many bytes as the first says.
unsafe fn structures<T: Copy>(name: &str, pointer: *const T, count: usize) -> Result<Vec<T>, Diagnostics> {
    // SAFETY: numbers and pointers, of which all bits may be 0.
    let absent = unsafe { std::mem::zeroed::<T>() };
    if count == 0 {
        return Ok(Vec::new());
    }
    if pointer.is_null() {
        return Err(argument(name, "is null, and its count is not 0"));
    }
    // SAFETY: every structure of this interface begins with its size.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if count > isize::MAX as usize / size.max(1) {
        return Err(argument(name, "is longer than any memory"));
    }
    let mut all = Vec::new();
    for i in 0..count {
        let element = pointer.cast::<u8>().wrapping_add(i * size).cast::<T>();
        // SAFETY: the caller's promise.
        let own = unsafe { element.cast::<usize>().read_unaligned() };
        if own != size {
            return Err(argument(name, "has elements of several sizes"));
        }
        // SAFETY: as above.
        all.push(unsafe { structure(name, element, size_of::<T>(), absent)? });
    }
    Ok(all)
}

fn kernel_of(kernel: *const attnc_kernel) -> Result<attnc::Kernel, Diagnostics> {
    match handles::get(kernel) {
        Some(Object::Kernel(kernel)) => Ok(kernel),
        _ => Err(argument("kernel", "is no kernel, or was freed")),
    }
}

fn target(name: Option<&str>) -> Result<Target, Diagnostics> {
    match name {
        None => Ok(Target::Cpu(None)),
        Some(name) => Target::named(name).ok_or_else(|| argument("options.target", "names no target")),
    }
}

/// Compiles what a loader gives.
///
/// # Safety
/// `options` is null or such a structure; `out` null or a place for a handle.
unsafe fn compile(
    loader: &dyn Loader,
    path: &str,
    options: *const attnc_options,
    out: *mut *mut attnc_module,
) -> Result<(), Diagnostics> {
    let absent = attnc_options {
        size: 0,
        target: std::ptr::null(),
        set: std::ptr::null(),
        set_count: 0,
        cache: std::ptr::null(),
    };
    // SAFETY: the caller's promise; texts of settings live as long as the call.
    let (options, cache) = unsafe {
        let given = if options.is_null() {
            absent
        } else {
            structure("options", options, std::mem::offset_of!(attnc_options, cache), absent)?
        };
        let mut set = Vec::new();
        for setting in structures("options.set", given.set, given.set_count)? {
            let name = text("options.set", setting.name)?.ok_or_else(|| argument("options.set", "has no name"))?;
            let value = text("options.set", setting.value)?.ok_or_else(|| argument("options.set", "has no value"))?;
            set.push((name.to_owned(), value.to_owned()));
        }
        let cache = text("options.cache", given.cache)?.map(str::to_owned);
        (Options { set, target: target(text("options.target", given.target)?)?, ..Options::default() }, cache)
    };
    let compiler = Compiler::new(options);
    let compiler = match cache.as_deref() {
        None => compiler,
        Some("") => keeping(compiler),
        Some(dir) => compiler.kept_in(Arc::new(Kernels::below(Path::new(dir)))),
    };
    let module = compiler.compile(loader, path)?;
    // SAFETY: the caller has checked it.
    unsafe { out.write(handles::add(Object::Module(module))) };
    Ok(())
}

/// The version of the library, as in "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn attnc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What the last function that failed on this thread said, as the command line draws it; "" if none did. It lives until
/// the next call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_last_error() -> *const c_char {
    last::text()
}

/// The same as JSON of schema "attnc.diagnostics/1": code, severity, message, help and places of each diagnostic.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_last_error_json() -> *const c_char {
    last::as_json()
}

/// Compiles a file and all that it imports. `options` may be NULL.
///
/// # Safety
/// `path` is a string that ends with a zero, `options` NULL or a structure of the size that it says, `out` a place for a
/// handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_compile_file(
    path: *const c_char,
    options: *const attnc_options,
    out: *mut *mut attnc_module,
) -> attnc_status {
    guard(|| {
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        // SAFETY: the caller's promise.
        unsafe {
            let path = text("path", path)?.ok_or_else(|| argument("path", "is null"))?;
            compile(&Disk, path, options, out)
        }
    })
}

/// Compiles a text of `length` bytes, which imports from "std" only. `options` may be NULL.
///
/// # Safety
/// `source` has `length` bytes; the others are as for attnc_compile_file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_compile_text(
    source: *const c_char,
    length: usize,
    options: *const attnc_options,
    out: *mut *mut attnc_module,
) -> attnc_status {
    guard(|| {
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = list("source", source.cast::<u8>(), length)?;
            let source = std::str::from_utf8(bytes).map_err(|_| argument("source", "is not UTF-8 text"))?;
            compile(&Memory::file("text", source), "text", options, out)
        }
    })
}

/// Makes a kernel of a pattern, an attention, or a layer of a model. A `name` of NULL is the only one that the file has.
///
/// # Safety
/// `name` is NULL or a string that ends with a zero, `out` a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_module_kernel(
    module: *const attnc_module,
    name: *const c_char,
    layer: i64,
    step: i64,
    out: *mut *mut attnc_kernel,
) -> attnc_status {
    guard(|| {
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        let Some(Object::Module(module)) = handles::get(module) else {
            return Err(argument("module", "is no module, or was freed"));
        };
        // SAFETY: the caller's promise.
        let name = match unsafe { text("name", name)? } {
            Some(name) => name.to_owned(),
            None => {
                let file = module.sources().iter().next().map(|s| s.name.clone()).unwrap_or_default();
                module.default_use(&Subject { path: file, name: None }.stem())?
            }
        };
        let kernel = module.kernel(&Select::named(name).layer(layer).step(step))?;
        // SAFETY: not null; the caller's promise.
        unsafe { out.write(handles::add(Object::Kernel(kernel))) };
        Ok(())
    })
}

/// Starts threads to run kernels on.
///
/// # Safety
/// `out` is a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_threads_new(count: usize, out: *mut *mut attnc_threads) -> attnc_status {
    guard(|| {
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        if !(1..=4096).contains(&count) {
            return Err(argument("count", "is not between 1 and 4096"));
        }
        let threads =
            attnc::Threads::new(count).map_err(|why| argument("count", &format!("is too large: {}", why.message)))?;
        // SAFETY: not null; the caller's promise.
        unsafe { out.write(handles::add(Object::Threads(threads.into()))) };
        Ok(())
    })
}

/// Frees a module; kernels made of it live on. NULL and what was freed before are left alone.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_module_free(module: *mut attnc_module) {
    let _ = catch_unwind(|| handles::remove(module.cast(), |o| matches!(o, Object::Module(_))));
}

/// Frees a kernel; a launch that runs it is not disturbed.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_kernel_free(kernel: *mut attnc_kernel) {
    let _ = catch_unwind(|| handles::remove(kernel.cast(), |o| matches!(o, Object::Kernel(_))));
}

/// Ends threads, when no launch runs on them any more.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_threads_free(threads: *mut attnc_threads) {
    let _ = catch_unwind(|| handles::remove(threads.cast(), |o| matches!(o, Object::Threads(_))));
}

/// Bytes of working memory with which attnc_run allocates none for it.
///
/// # Safety
/// `shape` is a structure of the size that it says, `out` a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_workspace_bytes(
    kernel: *const attnc_kernel,
    shape: *const attnc_shape,
    out: *mut usize,
) -> attnc_status {
    guard(|| {
        let kernel = kernel_of(kernel)?;
        // SAFETY: the caller's promise.
        let shape = unsafe { shape_of(shape)? };
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        let of = |name: &str, n: i64| usize::try_from(n).map_err(|_| argument(&format!("shape.{name}"), "is negative"));
        let extents = [
            of("batch", shape.batch)?,
            kernel.output_heads(of("heads", shape.heads)?),
            of("queries", shape.queries)?,
            of("dim_v", shape.dim_v)?,
        ];
        let threads = of("threads", shape.threads)?.max(1);
        let bytes = kernel.workspace_bytes(extents, of("keys", shape.keys)?, of("dim", shape.dim)?, threads)?;
        // SAFETY: not null; the caller's promise.
        unsafe { out.write(bytes) };
        Ok(())
    })
}

/// # Safety
/// Null, or a structure of the size that it says.
unsafe fn shape_of(shape: *const attnc_shape) -> Result<attnc_shape, Diagnostics> {
    let absent =
        attnc_shape { size: 0, batch: 1, heads: 1, queries: 0, keys: 0, dim: 64, dim_v: 64, element: 4, threads: 1 };
    // SAFETY: the caller's promise.
    unsafe { structure("shape", shape, size_of::<attnc_shape>(), absent) }
}

/// Counts what a launch of these lengths will do. What a pattern reads beside them is given in `problem`, of which the
/// tensors are not looked at; it may be NULL. `out->size` is sizeof(attnc_cost).
///
/// # Safety
/// Structures are of the sizes that they say, and what they point to lives as long as the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_count(
    kernel: *const attnc_kernel,
    shape: *const attnc_shape,
    problem: *const attnc_problem,
    out: *mut attnc_cost,
) -> attnc_status {
    guard(|| {
        let kernel = kernel_of(kernel)?;
        // SAFETY: the caller's promise.
        let (shape, given) = unsafe {
            let given = if problem.is_null() { NOTHING } else { problem_of(problem)? };
            (shape_of(shape)?, given)
        };
        // SAFETY: as above.
        let inputs = unsafe { inputs(&given)? };
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        // SAFETY: not null, and begins with its size.
        let size = unsafe { out.cast::<usize>().read() };
        // A program that was made with an older header has room for fewer numbers.
        if size < COST_AT_FIRST {
            return Err(argument("out", "is too small: set `size` to sizeof(attnc_cost)"));
        }
        let of = Shape { n_q: shape.queries, n_k: shape.keys, heads: shape.heads, dim: shape.dim };
        if shape.batch < 1 || shape.batch > 1 << 20 || !matches!(shape.element, 2 | 4) {
            return Err(argument("shape", "has no batch items, or elements of neither 2 nor 4 bytes"));
        }
        let (element, batch) = (shape.element.unsigned_abs(), shape.batch.unsigned_abs());
        let cost = kernel.forecast(of, kernel.kv_heads_of(of.heads), shape.dim_v, element, batch, &inputs)?.cost;
        let counted = attnc_cost {
            size,
            entries: cost.entries,
            useful_flops: cost.useful_flops,
            executed_flops: cost.executed_flops,
            full_tiles: cost.full_tiles,
            partial_tiles: cost.partial_tiles,
            empty_rows: cost.empty_rows,
            max_row: cost.max_row,
            bytes_min: cost.bytes_min,
            bytes_tiles: cost.bytes_tiles,
        };
        // SAFETY: as large as it says; numbers without padding, of which as many are written as there is room for.
        unsafe {
            let room = size.min(size_of::<attnc_cost>());
            out.cast::<u8>().copy_from_nonoverlapping((&raw const counted).cast(), room);
        }
        Ok(())
    })
}

/// Bytes of `attnc_cost` as it was first.
const COST_AT_FIRST: usize = size_of::<usize>() + 9 * size_of::<u64>();

const NOTHING: attnc_problem = attnc_problem {
    size: 0,
    q: std::ptr::null(),
    k: std::ptr::null(),
    v: std::ptr::null(),
    out: std::ptr::null(),
    lse: std::ptr::null(),
    q_start: ATTNC_UNSET,
    k_start: ATTNC_UNSET,
    sizes: std::ptr::null(),
    sizes_count: 0,
    docs: std::ptr::null(),
    docs_count: 0,
    maps: std::ptr::null(),
    maps_count: 0,
    tensors: std::ptr::null(),
    tensors_count: 0,
    lengths: std::ptr::null(),
    lengths_count: 0,
    workspace: std::ptr::null_mut(),
    workspace_bytes: 0,
    threads: std::ptr::null(),
    supplied: std::ptr::null(),
    supplied_count: 0,
};

/// # Safety
/// Null, or a structure of the size that it says.
unsafe fn problem_of(problem: *const attnc_problem) -> Result<attnc_problem, Diagnostics> {
    // SAFETY: the caller's promise.
    unsafe { structure("problem", problem, std::mem::offset_of!(attnc_problem, supplied), NOTHING) }
}

/// What is given beside tensors.
///
/// # Safety
/// Lists are as long as they say and live for `'a`, and so do the texts in them.
unsafe fn inputs<'a>(given: &attnc_problem) -> Result<Inputs<'a>, Diagnostics> {
    let start = |n: i64| (n != ATTNC_UNSET).then_some(n);
    let mut inputs = Inputs { q_start: start(given.q_start), k_start: start(given.k_start), ..Inputs::default() };
    // SAFETY: the caller's promise.
    unsafe {
        inputs.docs = list("problem.docs", given.docs, given.docs_count)?;
        for size in structures("problem.sizes", given.sizes, given.sizes_count)? {
            let name = text("problem.sizes", size.name)?.ok_or_else(|| argument("problem.sizes", "has no name"))?;
            inputs.sizes.push((name, size.value));
        }
        for map in structures("problem.maps", given.maps, given.maps_count)? {
            let name = text("problem.maps", map.name)?.ok_or_else(|| argument("problem.maps", "has no name"))?;
            let input = if map.data.is_null() {
                let indptr = list("problem.maps", map.indptr, map.indptr_count)?;
                MapInput::Csr { indptr, indices: list("problem.maps", map.indices, map.indices_count)? }
            } else {
                let shape = list("problem.maps", map.shape, map.ndim)?;
                let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
                let count = count.ok_or_else(|| argument("problem.maps", "has extents that no memory holds"))?;
                MapInput::Dense { data: list("problem.maps", map.data, count)?, shape }
            };
            inputs.maps.push((name, input));
        }
        for tensor in structures("problem.tensors", given.tensors, given.tensors_count)? {
            let name =
                text("problem.tensors", tensor.name)?.ok_or_else(|| argument("problem.tensors", "has no name"))?;
            let dims = list("problem.tensors", tensor.shape, tensor.ndim)?.to_vec();
            let count = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
            let count = count.ok_or_else(|| argument("problem.tensors", "has extents that no memory holds"))?;
            let data = list("problem.tensors", tensor.data, count)?;
            inputs.tensors.push((name, TensorData { data: data.into(), dims }));
        }
        for supply in structures("problem.supplied", given.supplied, given.supplied_count)? {
            let wrong = |what: &str| argument("problem.supplied", what);
            let name = text("problem.supplied", supply.name)?.ok_or_else(|| wrong("has no name"))?;
            let shape = list("problem.supplied", supply.shape, supply.ndim)?;
            let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
            let count = count.ok_or_else(|| wrong("has extents that no memory holds"))?;
            let given = match (supply.data.is_null(), supply.slots.is_null()) {
                (_, true) => Supply::Reals { data: list("problem.supplied", supply.data, count)?, shape },
                (true, false) => Supply::Slots { data: list("problem.supplied", supply.slots, count)?, shape },
                (false, false) => return Err(wrong("has both data and slots")),
            };
            inputs.supplied.push((name, given));
        }
        let count = given.lengths_count.checked_mul(2).ok_or_else(|| argument("problem.lengths", "is too long"))?;
        let lengths = list("problem.lengths", given.lengths, count)?;
        inputs.lengths = lengths.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    }
    Ok(inputs)
}

/// Computes attention: writes `out`, and `lse` unless it is NULL. Nothing is written unless ATTNC_OK is returned.
///
/// # Safety
/// The structure is of the size that it says. Tensors have as many extents as they say, and their memory may be read, and
/// that of `out` and `lse` written, while the function runs; nobody else writes it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_run(kernel: *const attnc_kernel, problem: *const attnc_problem) -> attnc_status {
    // SAFETY: the caller's promise.
    guard(|| unsafe { launch(kernel, problem, |kernel, problem, resources| kernel.run(problem, resources)) })
}

/// As attnc_run, and hands back the levels ("g.k"), scores and selections of these names: attnc_returned_get says where
/// they lie, in the form in which `problem->supplied` takes them. Free what is handed back with attnc_returned_free.
///
/// # Safety
/// As for attnc_run; `names` are `count` strings that end with a zero, `out` is a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_run_returning(
    kernel: *const attnc_kernel,
    problem: *const attnc_problem,
    names: *const *const c_char,
    count: usize,
    out: *mut *mut attnc_returned,
) -> attnc_status {
    guard(|| {
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        let mut wanted = Vec::new();
        // SAFETY: the caller's promise.
        unsafe {
            for &name in list("names", names, count)? {
                wanted.push(text("names", name)?.ok_or_else(|| argument("names", "has a name that is null"))?);
            }
        }
        // SAFETY: the caller's promise.
        let returned = unsafe {
            launch(kernel, problem, |kernel, problem, resources| kernel.run_returning(problem, resources, &wanted))?
        };
        let named = |r: attnc::Returned| (CString::new(r.name.as_str()).unwrap_or_default(), r);
        let returned: Vec<_> = returned.into_iter().map(named).collect();
        // SAFETY: not null; the caller's promise.
        unsafe { out.write(handles::add(Object::Returned(returned.into()))) };
        Ok(())
    })
}

/// Where the level, score or selection of the name number `index` lies, until it is freed. `out->size` is
/// sizeof(attnc_supplied).
///
/// # Safety
/// `out` is a structure of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attnc_returned_get(
    returned: *const attnc_returned,
    index: usize,
    out: *mut attnc_supplied,
) -> attnc_status {
    guard(|| {
        let Some(Object::Returned(returned)) = handles::get(returned) else {
            return Err(argument("returned", "is nothing that was handed back, or was freed"));
        };
        let (name, found) = returned.get(index).ok_or_else(|| argument("index", "is beyond the last name"))?;
        if out.is_null() {
            return Err(argument("out", "is null"));
        }
        // SAFETY: not null, and begins with its size.
        let size = unsafe { out.cast::<usize>().read() };
        if size < size_of::<attnc_supplied>() {
            return Err(argument("out", "is too small: set `size` to sizeof(attnc_supplied)"));
        }
        let (data, slots) = match &found.values {
            ReturnedValues::Reals(data) => (data.as_ptr(), std::ptr::null()),
            ReturnedValues::Slots(slots) => (std::ptr::null(), slots.as_ptr()),
        };
        let told = attnc_supplied { size, name: name.as_ptr(), data, slots, shape: found.shape.as_ptr(), ndim: 4 };
        // SAFETY: as large as it says.
        unsafe { out.write(told) };
        Ok(())
    })
}

/// Frees what was handed back. NULL and what was freed before are left alone.
#[unsafe(no_mangle)]
pub extern "C" fn attnc_returned_free(returned: *mut attnc_returned) {
    let _ = catch_unwind(|| handles::remove(returned.cast(), |o| matches!(o, Object::Returned(_))));
}

/// Does `work` with a kernel and the tensors of a problem.
///
/// # Safety
/// As for [`attnc_run`].
unsafe fn launch<T>(
    kernel: *const attnc_kernel,
    problem: *const attnc_problem,
    work: impl FnOnce(&attnc::Kernel, &mut Problem<'_>, Resources<'_>) -> Result<T, Diagnostics>,
) -> Result<T, Diagnostics> {
    let kernel = kernel_of(kernel)?;
    // SAFETY: the caller's promise.
    let given = unsafe { problem_of(problem)? };
    let raw = |name: &str, tensor: *const DLTensor, axes| -> Result<Raw, Diagnostics> {
        // SAFETY: null, or a tensor whose shape and strides have as many numbers as it says.
        unsafe {
            let tensor = tensor.as_ref().ok_or_else(|| argument(name, "is null"))?;
            if !(0..=8).contains(&tensor.ndim) || (tensor.ndim > 0 && tensor.shape.is_null()) {
                return Err(argument(name, "has no shape"));
            }
            Ok(Raw::of_dlpack(name, tensor, axes)?)
        }
    };
    let (q, k) = (raw("q", given.q, Axes::Rows)?, raw("k", given.k, Axes::Rows)?);
    let (v, out) = (raw("v", given.v, Axes::Rows)?, raw("out", given.out, Axes::Rows)?);
    let lse = if given.lse.is_null() { None } else { Some(raw("lse", given.lse, Axes::Numbers)?) };
    // SAFETY: the caller's promise.
    let inputs = unsafe { inputs(&given)? };
    let begin = given.workspace.addr();
    let workspace = begin
        ..begin
            .checked_add(given.workspace_bytes)
            .ok_or_else(|| argument("problem.workspace", "ends beyond memory"))?;
    let mut used = vec![("q", q.bytes()), ("k", k.bytes()), ("v", v.bytes())];
    used.extend(bytes_of_inputs(&inputs));
    // What is written is apart from what is read, and from what else is written.
    let written =
        [Some(("out", out.bytes())), lse.as_ref().map(|lse| ("lse", lse.bytes())), Some(("workspace", workspace))];
    for (name, bytes) in written.into_iter().flatten() {
        apart(name, &bytes, used.iter().cloned())?;
        used.push((name, bytes));
    }
    let threads = match (given.threads.is_null(), handles::get(given.threads)) {
        (true, _) => None,
        (false, Some(Object::Threads(threads))) => Some(threads),
        (false, _) => return Err(argument("problem.threads", "are no threads, or were freed")),
    };
    // SAFETY: the caller's promise; outputs share no memory with anything.
    unsafe {
        let mut problem = Problem {
            q: q.tensor("q")?,
            k: k.tensor("k")?,
            v: v.tensor("v")?,
            out: out.tensor_mut("out")?,
            lse: lse.map(|lse| lse.tensor_mut("lse")).transpose()?,
            inputs,
        };
        let workspace = match (given.workspace.is_null(), given.workspace_bytes) {
            (true, _) => None,
            (false, 0) => Some(&mut [][..]),
            (false, bytes) => Some(std::slice::from_raw_parts_mut(given.workspace.cast::<u8>(), bytes)),
        };
        work(&kernel, &mut problem, Resources { threads: threads.as_deref(), workspace, ready: None })
    }
}
