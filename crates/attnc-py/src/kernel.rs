//! The class `Kernel`: compiled once, called with arrays.
//!
//! One idea: a call holds the memory of its arguments, releases the interpreter and runs; the memory that it works in
//! is kept for the next call. Nothing here knows how arrays lie in memory.

#![allow(unsafe_code, reason = "arrays are borrowed while the interpreter is released")]

use std::path::PathBuf;
use std::sync::Mutex;

use attnc::{
    Compiler, DType, Inputs, Memory, Module, Options, Problem, Ready, Resources, Returned, ReturnedValues, Select,
    Shape, Target,
};
use attnc_host::foreign::{Axes, apart, bytes_of_inputs};
use attnc_host::kept::keeping;
use attnc_host::{Disk, Grid, Subject};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyTuple};

use crate::error::Raise;
use crate::export;
use crate::given::{Args, Given};
use crate::pool::{self, Threads};
use crate::tensors::{Buffer, Held, Maker, numpy};

/// Cells of a picture as text, each way.
const CELLS: i64 = 64;
/// Cells of an SVG: each may be a rectangle.
const RECTANGLES: i64 = 256;
/// Pixels of a picture.
const PIXELS: i64 = 512;

/// One attention, or one layer of a model, compiled for every length, batch, number of heads and element type.
///
/// `kernel(q, k, v)` is attention of `q` over `k` and `v`: it returns `(out, lse)`.
///
/// `q` is `[batch, heads, tokens, dim]`, `k` `[batch, kv_heads, keys, dim]` and `v` `[batch, kv_heads, keys, dim_v]`,
/// each of float32, float16 or bfloat16, or all three without the batch axis. They are numpy arrays or anything with
/// `__dlpack__`, of any strides; nothing is copied. `out` is `[batch, heads, tokens, dim_v]` and `lse`
/// `[batch, heads, tokens]` of float32, the log of the sum of exponentials of scores; both are new arrays of the
/// library of `q`, or those given as `out` and `lse`, which share no memory with the inputs. With
/// `return_lse=False` only `out` is returned.
///
/// `q_start` and `k_start` are positions of the first query and key, `lengths` a list of `(queries, keys)` for each
/// item of a padded batch, `docs` offsets where documents begin, `sizes`, `maps` and `tensors` dicts of what the
/// file declares: a map is an array, or `(indptr, indices)` if it is `csr`.
///
/// `returns` is a list of names of levels (`"g.k"`), scores and selections of the file, which come behind the results as
/// a dict of numpy arrays. `supplied` is such a dict: what it holds is not computed, nor is what only serves it. Of a
/// level the first slots may be given.
///
/// The interpreter is released while the kernel runs; arrays must not be written meanwhile. Raises `attnc.RunError`
/// for arrays and numbers that do not fit; nothing is written then.
#[pyclass(frozen, module = "attnc")]
pub(crate) struct Kernel {
    kernel: attnc::Kernel,
    module: Module,
    /// What launches have left, and the memory that they work in, when no launch has it.
    ready: Mutex<Vec<Ready>>,
}

/// What a launch hands back: a dict of numpy arrays.
fn handed_back<'py>(py: Python<'py>, returned: &[Returned]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for Returned { name, shape, values } in returned {
        let (bytes, dtype): (Vec<u8>, _) = match values {
            ReturnedValues::Reals(reals) => (reals.iter().flat_map(|x| x.to_ne_bytes()).collect(), "float32"),
            ReturnedValues::Slots(slots) => (slots.iter().flat_map(|x| x.to_ne_bytes()).collect(), "int32"),
        };
        let array = numpy(py)?.call_method1("empty", (PyTuple::new(py, shape)?, dtype))?;
        if !bytes.is_empty() {
            let mut buffer = Buffer::of(&array, true).ok_or_else(|| PyTypeError::new_err("numpy gave no memory"))?;
            // SAFETY: a new array, which nobody else has.
            unsafe { buffer.bytes_mut() }.copy_from_slice(&bytes);
        }
        dict.set_item(name, array)?;
    }
    Ok(dict)
}

/// The text of a value of a param.
fn value(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err("a param is a number, and not a bool"));
    }
    if let Ok(text) = value.extract::<String>() {
        return Ok(text);
    }
    if let Ok(number) = value.extract::<i64>() {
        return Ok(number.to_string());
    }
    if let Ok(number) = value.extract::<f64>() {
        return Ok(format!("{number:?}"));
    }
    Err(PyTypeError::new_err(format!("a param is a number or a text, and not {}", value.get_type().name()?)))
}

/// A compiler that keeps kernels where this user keeps them. The environment is read while Python's lock is held, which
/// whoever changes `os.environ` holds too.
fn compiler(
    _: Python<'_>,
    target: &str,
    set: Option<&Bound<'_, PyDict>>,
    params: Option<&Bound<'_, PyDict>>,
) -> PyResult<Compiler> {
    Ok(keeping(Compiler::new(options(target, set, params)?)))
}

fn options(target: &str, set: Option<&Bound<'_, PyDict>>, params: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
    let Some(target) = Target::named(target) else {
        let known = "cpu, cpu:scalar, cpu:avx2, cpu:avx512 or oracle";
        return Err(PyValueError::new_err(format!("there is no target `{target}`: it is {known}")));
    };
    let mut given = Vec::new();
    for (name, v) in set.into_iter().flatten().chain(params.into_iter().flatten()) {
        given.push((name.extract::<String>()?, value(&v)?));
    }
    Ok(Options { set: given, target, ..Options::default() })
}

/// Compile a file of patterns.
///
/// `path` is the file, or `file.attn:name`; `name` says the same. Without a name the use named like the file is meant,
/// else its only model, attention or pattern. Other keywords are params of the file (`window=512`); `set` is a dict of
/// such params, for names that are keywords of this function.
///
/// Raises `attnc.CompileError` if anything is wrong with the file.
#[pyfunction]
#[pyo3(signature = (path, name=None, *, layer=0, step=0, target="cpu", set=None, **params))]
#[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
pub(crate) fn compile(
    py: Python<'_>,
    path: PathBuf,
    name: Option<String>,
    layer: i64,
    step: i64,
    target: &str,
    set: Option<&Bound<'_, PyDict>>,
    params: Option<&Bound<'_, PyDict>>,
) -> PyResult<Kernel> {
    let subject = Subject::parse(&path.to_string_lossy());
    let compiler = compiler(py, target, set, params)?;
    let threads = pool::own(py)?;
    let made = py.detach(|| {
        threads.within(|| {
            let module = compiler.compile(&Disk, &subject.path)?;
            let name = match name.or(subject.name.clone()) {
                Some(name) => name,
                None => module.default_use(&subject.stem())?,
            };
            let kernel = module.kernel(&Select::named(name).layer(layer).step(step))?;
            Ok((module, kernel))
        })
    });
    Kernel::new(py, made)
}

/// Compile a text of patterns.
///
/// As `compile`, but the text itself is given. It imports from `"std"` only.
#[pyfunction]
#[pyo3(signature = (text, name=None, *, layer=0, step=0, target="cpu", set=None, **params))]
#[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
pub(crate) fn compile_text(
    py: Python<'_>,
    text: String,
    name: Option<String>,
    layer: i64,
    step: i64,
    target: &str,
    set: Option<&Bound<'_, PyDict>>,
    params: Option<&Bound<'_, PyDict>>,
) -> PyResult<Kernel> {
    let compiler = compiler(py, target, set, params)?;
    let threads = pool::own(py)?;
    let made = py.detach(|| {
        threads.within(|| {
            let module = compiler.compile(&Memory::file("text", text), "text")?;
            let name = match name {
                Some(name) => name,
                None => module.default_use("")?,
            };
            let kernel = module.kernel(&Select::named(name).layer(layer).step(step))?;
            Ok((module, kernel))
        })
    });
    Kernel::new(py, made)
}

/// The text of a file in the one layout.
///
/// Raises `attnc.CompileError` if it does not parse.
#[pyfunction]
pub(crate) fn format(py: Python<'_>, text: String) -> PyResult<String> {
    py.detach(|| attnc::format(&Memory::file("text", text), "text")).map(|f| f.after).raised(py)
}

/// A kernel and its module, or what was wrong.
type Made = Result<(Module, attnc::Kernel), attnc::Diagnostics>;

impl Kernel {
    fn new(py: Python<'_>, made: Made) -> PyResult<Kernel> {
        let (module, kernel) = made.raised(py)?;
        Ok(Kernel { kernel, module, ready: Mutex::new(Vec::new()) })
    }

    /// What a launch has left: the last one, if it has ended.
    fn ready(&self) -> Ready {
        // Whoever cannot have the list at once begins anew: a fork may have left the list locked.
        self.ready.try_lock().ok().and_then(|mut list| list.pop()).unwrap_or_default()
    }

    fn give_back(&self, ready: Ready) {
        if let Ok(mut list) = self.ready.try_lock() {
            list.push(ready);
        }
    }

    /// Lengths and heads where there are no tensors to take them from.
    fn shape(
        &self,
        py: Python<'_>,
        given: &mut Given,
        tokens: Option<i64>,
        keys: Option<i64>,
        heads: Option<i64>,
    ) -> PyResult<Shape> {
        if let Some(n) = keys.or(tokens) {
            given.complete(&self.module, n, n.max(tokens.unwrap_or(0)));
        }
        let total = self.module.tokens(&given.sizes()).raised(py)?;
        let missing = || PyTypeError::new_err("the number of tokens is not given: add `tokens=N`");
        let n_q = tokens.or(total).ok_or_else(missing)?;
        let n_k = keys.or(total).unwrap_or(n_q);
        if n_q < 0 || n_k < 0 {
            return Err(PyValueError::new_err("numbers of tokens and keys are not negative"));
        }
        let heads = match (self.kernel.heads(), heads) {
            (Some((own, _)), Some(heads)) if own != heads => {
                return Err(PyValueError::new_err(format!("the model has {own} heads, and not {heads}")));
            }
            (Some((own, _)), _) => own,
            (None, heads) => heads.unwrap_or(1),
        };
        if !(1..=1 << 20).contains(&heads) {
            return Err(PyValueError::new_err(format!("{heads} heads are not between 1 and {}", 1 << 20)));
        }
        given.complete(&self.module, n_k, n_q.max(n_k));
        Ok(Shape { n_q, n_k, heads, dim: 64 })
    }
}

#[pymethods]
impl Kernel {
    #[pyo3(signature = (q, k, v, *, out=None, lse=None, return_lse=true, q_start=None, k_start=None, lengths=None,
                        docs=None, sizes=None, maps=None, tensors=None, supplied=None, returns=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        v: &Bound<'py, PyAny>,
        out: Option<Bound<'py, PyAny>>,
        lse: Option<Bound<'py, PyAny>>,
        return_lse: bool,
        q_start: Option<i64>,
        k_start: Option<i64>,
        lengths: Option<Vec<(i64, i64)>>,
        docs: Option<&Bound<'py, PyAny>>,
        sizes: Option<&Bound<'py, PyDict>>,
        maps: Option<&Bound<'py, PyDict>>,
        tensors: Option<&Bound<'py, PyDict>>,
        supplied: Option<&Bound<'py, PyDict>>,
        returns: Option<Vec<String>>,
        threads: Option<&Threads>,
    ) -> PyResult<Py<PyAny>> {
        let [held_q, held_k, held_v] =
            [(q, "q"), (k, "k"), (v, "v")].map(|(a, name)| Held::of(a, name, Axes::Rows, false));
        let (held_q, held_k, held_v) = (held_q?, held_k?, held_v?);
        let (raw_q, raw_k, raw_v) = (held_q.raw, held_k.raw, held_v.raw);
        if held_q.batched != held_k.batched || held_q.batched != held_v.batched {
            return Err(PyValueError::new_err("`q`, `k` and `v` have a batch axis, or none of them has"));
        }
        let [batch, heads, n_q, _] = raw_q.shape;
        let (n_k, dim_v) = (raw_k.shape[2], raw_v.shape[3]);
        let heads = self.kernel.output_heads(heads);
        let skip = usize::from(!held_q.batched);

        // Results are of the library of `q`, and of its type unless `out` says otherwise.
        let (mut maker, own_out, own_lse) = (None, out.is_none(), lse.is_none());
        let mut make = |shape: &[usize], dtype| -> PyResult<Bound<'py, PyAny>> {
            let maker = match &maker {
                Some(maker) => maker,
                None => maker.insert(Maker::of(q)?),
            };
            maker.empty(py, shape, dtype)
        };
        let out = match out {
            Some(out) => out,
            None => make(&[batch, heads, n_q, dim_v][skip..], raw_q.dtype)?,
        };
        let held_out = Held::of(&out, "out", Axes::Rows, true)?;
        let raw_out = held_out.raw;
        let lse = match (lse, return_lse) {
            (None, false) => None,
            (Some(lse), _) => Some(lse),
            (None, true) => Some(make(&[batch, heads, n_q][skip..], DType::F32)?),
        };
        let held_lse = lse.as_ref().map(|lse| Held::of(lse, "lse", Axes::Numbers, true)).transpose()?;
        let raw_lse = held_lse.as_ref().map(|held| held.raw);
        let mut given = Given::default();
        let plain = docs.is_none() && sizes.is_none() && maps.is_none() && tensors.is_none() && supplied.is_none();
        if !plain || q_start.is_some() || k_start.is_some() || lengths.is_some() {
            given = Given::new(py, Args { sizes, docs, maps, tensors, supplied, q_start, k_start, lengths })?;
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        given.complete(&self.module, count(n_k), count(n_q.max(n_k)));
        let inputs = given.inputs();
        // What was made here shares memory with nothing.
        if !own_out || !own_lse {
            let mut used = vec![("q", raw_q.bytes()), ("k", raw_k.bytes()), ("v", raw_v.bytes())];
            used.extend(bytes_of_inputs(&inputs));
            for (name, raw) in [("out", Some(raw_out)), ("lse", raw_lse)] {
                let Some(raw) = raw else { continue };
                apart(name, &raw.bytes(), used.iter().cloned()).raised(py)?;
                used.push((name, raw.bytes()));
            }
        }
        let pool = match threads {
            Some(threads) => threads.pool(py)?,
            None => pool::own(py)?,
        };
        let names: Vec<&str> = returns.iter().flatten().map(String::as_str).collect();
        let ran = py.detach(|| -> Result<Vec<Returned>, attnc::Diagnostics> {
            // SAFETY: held until this call ends; whoever gives arrays does not write them meanwhile, outputs are apart
            // from inputs.
            let mut problem = unsafe {
                Problem {
                    q: raw_q.tensor("q")?,
                    k: raw_k.tensor("k")?,
                    v: raw_v.tensor("v")?,
                    out: raw_out.tensor_mut("out")?,
                    lse: raw_lse.map(|lse| lse.tensor_mut("lse")).transpose()?,
                    inputs,
                }
            };
            let mut ready = self.ready();
            let resources = Resources { threads: Some(pool), workspace: None, ready: Some(&mut ready) };
            let ran = match returns {
                None => self.kernel.run(&mut problem, resources).map(|()| Vec::new()),
                Some(_) => self.kernel.run_returning(&mut problem, resources, &names),
            };
            self.give_back(ready);
            ran
        });
        let returned = ran.raised(py)?;
        drop((held_q, held_k, held_v, held_out, held_lse));
        let hand_over = |array, own| match &maker {
            Some(maker) if own => maker.hand_over(array),
            _ => Ok(array),
        };
        let out = hand_over(out, own_out)?;
        let lse = lse.filter(|_| return_lse).map(|lse| hand_over(lse, own_lse)).transpose()?;
        let results: Vec<Bound<'py, PyAny>> = match returns {
            None => [out].into_iter().chain(lse).collect(),
            Some(_) => [out].into_iter().chain(lse).chain([handed_back(py, &returned)?.into_any()]).collect(),
        };
        match <[Bound<'py, PyAny>; 1]>::try_from(results) {
            Ok([out]) => Ok(out.unbind()),
            Err(results) => Ok(PyTuple::new(py, results)?.into_any().unbind()),
        }
    }

    /// Which keys each query of a head attends to: a numpy array of bool, `[tokens, keys]`.
    ///
    /// A pair that counts more than once is `True` once. Null slots are no keys.
    ///
    /// Raises `attnc.RunError` if lengths and run-time data do not fit the pattern, or if the keys depend on queries.
    #[pyo3(signature = (tokens=None, keys=None, *, head=0, heads=None, q_start=None, k_start=None, docs=None,
                        sizes=None, maps=None, tensors=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
    fn mask<'py>(
        &self,
        py: Python<'py>,
        tokens: Option<i64>,
        keys: Option<i64>,
        head: i64,
        heads: Option<i64>,
        q_start: Option<i64>,
        k_start: Option<i64>,
        docs: Option<&Bound<'py, PyAny>>,
        sizes: Option<&Bound<'py, PyDict>>,
        maps: Option<&Bound<'py, PyDict>>,
        tensors: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut given = Given::new(py, Args { sizes, docs, maps, tensors, q_start, k_start, ..Args::default() })?;
        let heads = heads.or(self.kernel.heads().is_none().then_some(head.saturating_add(1)));
        let shape = self.shape(py, &mut given, tokens, keys, heads)?;
        let array = numpy(py)?.call_method1("zeros", ((shape.n_q, shape.n_k), "bool"))?;
        let mut buffer = Buffer::of(&array, true).ok_or_else(|| PyTypeError::new_err("numpy gave no memory"))?;
        // SAFETY: a new array, which nobody else has.
        let bytes = unsafe { buffer.bytes_mut() };
        let inputs = given.inputs();
        let filled = py.detach(|| {
            let view = self.kernel.view(head, shape, &inputs)?;
            let failed =
                |e: attnc::EvalError| attnc::Diagnostics::from(attnc::Diagnostic::global("E0708", e.to_string()));
            let mut walk = view.rows().map_err(failed)?;
            let width = usize::try_from(shape.n_k).unwrap_or(0);
            for (row, cells) in bytes.chunks_mut(width.max(1)).enumerate() {
                for run in walk.row(row as i64).map_err(failed)? {
                    cells[run.first as usize..=run.last as usize].fill(1);
                }
            }
            Ok::<(), attnc::Diagnostics>(())
        });
        filled.raised(py)?;
        drop(buffer);
        Ok(array)
    }

    /// A picture of who attends to whom, for a notebook or a terminal.
    ///
    /// Raises as `mask` does.
    #[pyo3(signature = (tokens=None, keys=None, *, head=0, heads=None, q_start=None, k_start=None, docs=None,
                        sizes=None, maps=None, tensors=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
    fn show<'py>(
        &self,
        py: Python<'py>,
        tokens: Option<i64>,
        keys: Option<i64>,
        head: i64,
        heads: Option<i64>,
        q_start: Option<i64>,
        k_start: Option<i64>,
        docs: Option<&Bound<'py, PyAny>>,
        sizes: Option<&Bound<'py, PyDict>>,
        maps: Option<&Bound<'py, PyDict>>,
        tensors: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Picture> {
        let mut given = Given::new(py, Args { sizes, docs, maps, tensors, q_start, k_start, ..Args::default() })?;
        let heads = heads.or(self.kernel.heads().is_none().then_some(head.saturating_add(1)));
        // Small enough to see single pairs, where nothing fixes the length.
        let tokens = tokens.or(self.module.tokens(&given.sizes()).ok().flatten().is_none().then_some(CELLS));
        let shape = self.shape(py, &mut given, tokens, keys, heads)?;
        let inputs = given.inputs();
        let drawn = py.detach(|| {
            let view = self.kernel.view(head, shape, &inputs)?;
            let failed =
                |e: attnc::EvalError| attnc::Diagnostics::from(attnc::Diagnostic::global("E0708", e.to_string()));
            let grid = |most| Grid::new(&view, 0..shape.n_q, most).map_err(failed);
            let png = grid(PIXELS)?.png(PIXELS).map_err(|e| {
                let message = format!("the picture cannot be encoded: {e}");
                attnc::Diagnostics::from(attnc::Diagnostic::global("E0809", message))
            })?;
            Ok::<_, attnc::Diagnostics>(Picture { text: grid(CELLS)?.text(), svg: grid(RECTANGLES)?.svg(PIXELS), png })
        });
        drawn.raised(py)
    }

    /// What a launch will do, counted exactly before it runs: a dict.
    ///
    /// `entries` are pairs of query and key over all heads and batch items, `useful_flops` and `executed_flops` operations
    /// of both products, `overhead` their ratio, `full_tiles` and `partial_tiles` tiles that are visited, `max_row` the keys
    /// of the longest row, `empty_rows` rows without keys, `bytes_min` and `bytes_tiles` bytes that are read and written
    /// once and tile by tile. KV heads are those of a model, else as many as heads.
    ///
    /// Raises `attnc.RunError` if lengths and run-time data do not fit the pattern, or if a count would not fit 64 bits.
    #[pyo3(signature = (tokens=None, keys=None, *, heads=None, dim=64, dim_v=None, dtype="float32", batch=1, q_start=None,
                        k_start=None, docs=None, sizes=None, maps=None, tensors=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
    fn cost<'py>(
        &self,
        py: Python<'py>,
        tokens: Option<i64>,
        keys: Option<i64>,
        heads: Option<i64>,
        dim: i64,
        dim_v: Option<i64>,
        dtype: &str,
        batch: u64,
        q_start: Option<i64>,
        k_start: Option<i64>,
        docs: Option<&Bound<'py, PyAny>>,
        sizes: Option<&Bound<'py, PyDict>>,
        maps: Option<&Bound<'py, PyDict>>,
        tensors: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let element = match dtype {
            "float32" => 4,
            "float16" | "bfloat16" => 2,
            other => {
                return Err(PyValueError::new_err(format!(
                    "`dtype` is {other}: float32, float16 or bfloat16 is wanted"
                )));
            }
        };
        if !(1..=1 << 20).contains(&batch) {
            return Err(PyValueError::new_err(format!("{batch} batch items are not between 1 and {}", 1 << 20)));
        }
        let mut given = Given::new(py, Args { sizes, docs, maps, tensors, q_start, k_start, ..Args::default() })?;
        let shape = Shape { dim, ..self.shape(py, &mut given, tokens, keys, heads)? };
        let inputs = given.inputs();
        let dim_v = dim_v.unwrap_or(dim);
        let kv_heads = self.kernel.kv_heads_of(shape.heads);
        let counted = py.detach(|| self.kernel.forecast(shape, kv_heads, dim_v, element, batch, &inputs));
        let cost = counted.raised(py)?.cost;
        let dict = PyDict::new(py);
        for (name, number) in [
            ("entries", cost.entries),
            ("useful_flops", cost.useful_flops),
            ("executed_flops", cost.executed_flops),
            ("full_tiles", cost.full_tiles),
            ("partial_tiles", cost.partial_tiles),
            ("empty_rows", cost.empty_rows),
            ("max_row", cost.max_row),
            ("bytes_min", cost.bytes_min),
            ("bytes_tiles", cost.bytes_tiles),
        ] {
            dict.set_item(name, number)?;
        }
        dict.set_item("overhead", cost.overhead())?;
        Ok(dict)
    }

    /// The mask as arrays for another engine: a dict of numpy arrays and numbers.
    ///
    /// `format` is `"flex"`, `"cudnn"`, `"flashmask"`, `"flashinfer"`, `"splash"`, `"magi"`, `"csr"` or `"coo"`; the
    /// documentation lists the arrays of each. `block` is the size of blocks of the formats that have blocks, `most` a
    /// limit on functions of cuDNN and slices of MagiAttention. Scores,
    /// biases and null slots are no part of a mask: a pattern that has them is refused unless `mask_only=True`, and so
    /// is one that the format cannot express, with the row that breaks it: `attnc.CompileError`.
    #[pyo3(signature = (format, tokens=None, keys=None, *, heads=None, block=None, most=None, mask_only=false, q_start=None,
                        k_start=None, docs=None, sizes=None, maps=None, tensors=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a function of Python")]
    fn export<'py>(
        &self,
        py: Python<'py>,
        format: &str,
        tokens: Option<i64>,
        keys: Option<i64>,
        heads: Option<i64>,
        block: Option<i64>,
        most: Option<i64>,
        mask_only: bool,
        q_start: Option<i64>,
        k_start: Option<i64>,
        docs: Option<&Bound<'py, PyAny>>,
        sizes: Option<&Bound<'py, PyDict>>,
        maps: Option<&Bound<'py, PyDict>>,
        tensors: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut given = Given::new(py, Args { sizes, docs, maps, tensors, q_start, k_start, ..Args::default() })?;
        let shape = self.shape(py, &mut given, tokens, keys, heads)?;
        let inputs: Inputs<'_> = given.inputs();
        export::export(py, &self.kernel, format, shape, (block, most, mask_only), &inputs)
    }

    /// Name of the pattern, attention or model.
    #[getter]
    fn name(&self) -> &str {
        &self.kernel.select().name
    }

    /// Layer.
    #[getter]
    fn layer(&self) -> i64 {
        self.kernel.select().layer
    }

    /// Query heads and KV heads, if a model fixes them.
    #[getter]
    fn heads(&self) -> Option<(i64, i64)> {
        self.kernel.heads()
    }

    /// Heads of the output for so many query heads.
    fn output_heads_of(&self, heads: usize) -> usize {
        self.kernel.output_heads(heads)
    }

    /// Instruction set of the machine code; `None` where nothing is compiled.
    #[getter]
    fn isa(&self) -> Option<&'static str> {
        self.kernel.isa().map(attnc::Isa::name)
    }

    /// Hash of the plan: kernels of equal hashes round alike.
    #[getter]
    fn plan_hash(&self) -> String {
        self.kernel.hash()
    }

    /// The plan as text.
    #[getter]
    fn plan(&self) -> String {
        self.kernel.plan_text()
    }

    /// Names of the sizes that a call must be given.
    #[getter]
    fn sizes(&self) -> Vec<String> {
        self.kernel.sizes()
    }

    /// Warnings of the compiler, drawn.
    #[getter]
    fn warnings(&self) -> String {
        attnc_host::Drawing::default().all(&self.module.warnings())
    }

    fn __repr__(&self) -> String {
        let isa = self.kernel.isa().map_or("oracle", attnc::Isa::name);
        format!("<attnc.Kernel {} on {isa}, plan {}>", self.name(), self.plan_hash())
    }
}

/// Who attends to whom, drawn.
#[pyclass(frozen, module = "attnc")]
pub(crate) struct Picture {
    text: String,
    svg: String,
    png: Vec<u8>,
}

#[pymethods]
impl Picture {
    /// For a terminal.
    #[getter]
    fn text(&self) -> &str {
        &self.text
    }

    /// As SVG.
    #[getter]
    fn svg(&self) -> &str {
        &self.svg
    }

    /// As PNG.
    #[getter]
    fn png<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.png)
    }

    fn _repr_png_<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.png(py)
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> &str {
        &self.text
    }
}
