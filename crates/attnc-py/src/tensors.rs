//! Arrays of Python as tensors: the buffer protocol, `DLPack`, and new arrays for results.
//!
//! One idea: memory is never copied. Whatever object is given, its memory is held by a [`Held`] and described by a
//! [`Raw`]; a result is an array of the library that the queries came from. Nothing here knows of attention.

#![allow(unsafe_code, reason = "the buffer protocol and DLPack are pointers")]

use std::ffi::{CStr, c_int};
use std::ptr;

use attnc::DType;
use attnc_host::foreign::{self, Axes, DLManagedTensor, DLManagedTensorVersioned, Raw, refused};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

use crate::error::{Raise, one};

/// A view of the buffer protocol; given back when dropped.
pub(crate) struct Buffer(Box<ffi::Py_buffer>);

impl Buffer {
    /// A strided view with the format of elements; `None` if the object gives none.
    pub(crate) fn of(object: &Bound<'_, PyAny>, writable: bool) -> Option<Buffer> {
        let mut view = Box::new(ffi::Py_buffer::new());
        let flags: c_int = ffi::PyBUF_STRIDES | ffi::PyBUF_FORMAT | if writable { ffi::PyBUF_WRITABLE } else { 0 };
        // SAFETY: an object, and a view of this type that is filled in or left alone.
        let failed = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) } != 0;
        if failed {
            drop(PyErr::take(object.py()));
            // Nothing is held: there is nothing to give back.
            return None;
        }
        Some(Buffer(view))
    }

    fn format(&self) -> &str {
        if self.0.format.is_null() {
            return "B";
        }
        // SAFETY: a string that lives as long as the view.
        unsafe { CStr::from_ptr(self.0.format) }.to_str().unwrap_or("?")
    }

    pub(crate) fn shape(&self) -> &[i64] {
        let rank = usize::try_from(self.0.ndim).unwrap_or(0);
        if rank == 0 {
            return &[];
        }
        // SAFETY: a view with shape has `ndim` extents; `Py_ssize_t` has 64 bits wherever kernels run.
        unsafe { std::slice::from_raw_parts(self.0.shape.cast_const().cast(), rank) }
    }

    fn strides(&self) -> &[isize] {
        let rank = usize::try_from(self.0.ndim).unwrap_or(0);
        if rank == 0 || self.0.strides.is_null() {
            return &[];
        }
        // SAFETY: a strided view has `ndim` strides.
        unsafe { std::slice::from_raw_parts(self.0.strides, rank) }
    }

    /// The elements of a row-major view.
    ///
    /// # Safety
    /// The view is row-major, and its elements are of type `T`.
    pub(crate) unsafe fn slice<T>(&self) -> &[T] {
        let count = usize::try_from(self.0.len).unwrap_or(0) / size_of::<T>();
        if count == 0 {
            return &[];
        }
        // SAFETY: the caller's promise; the view lives as long as the slice.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), count) }
    }

    /// The bytes of a row-major view that may be written.
    ///
    /// # Safety
    /// The view is row-major and writable, and nobody else looks at it.
    pub(crate) unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        let count = usize::try_from(self.0.len).unwrap_or(0);
        if count == 0 {
            return &mut [];
        }
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), count) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled in by `PyObject_GetBuffer`; whoever drops it holds the interpreter.
        unsafe { ffi::PyBuffer_Release(&mut *self.0) };
    }
}

/// What keeps memory alive.
enum Owner<'py> {
    Buffer(#[expect(dead_code, reason = "held")] Buffer),
    Capsule(#[expect(dead_code, reason = "held")] Bound<'py, PyCapsule>),
    Object(#[expect(dead_code, reason = "held")] Bound<'py, PyAny>),
}

/// What is asked of torch again and again.
pub(crate) struct Torch {
    module: Py<PyModule>,
    tensor: Py<PyAny>,
    strided: Py<PyAny>,
    /// Types of elements.
    types: [(DType, Py<PyAny>); 3],
}

impl Torch {
    /// The library, if the program has it.
    fn get(py: Python<'_>) -> PyResult<Option<&Torch>> {
        static TORCH: PyOnceLock<Torch> = PyOnceLock::new();
        if let Some(known) = TORCH.get(py) {
            return Ok(Some(known));
        }
        let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
        let Ok(module) = modules.get_item(intern!(py, "torch")) else { return Ok(None) };
        let Ok(module) = module.cast_into::<PyModule>() else { return Ok(None) };
        // While it is being imported it has no tensors.
        let Ok(tensor) = module.getattr("Tensor") else { return Ok(None) };
        let of = |name| module.getattr(name).map(Bound::unbind);
        let types = [(DType::F32, of("float32")?), (DType::F16, of("float16")?), (DType::Bf16, of("bfloat16")?)];
        let (strided, tensor) = (of("strided")?, tensor.unbind());
        Ok(Some(TORCH.get_or_init(py, || Torch { module: module.unbind(), tensor, strided, types })))
    }
}

/// An argument: its memory, held.
pub(crate) struct Held<'py> {
    pub(crate) raw: Raw,
    /// Whether it was given with a batch axis.
    pub(crate) batched: bool,
    _owner: Owner<'py>,
}

impl<'py> Held<'py> {
    /// Holds the memory of an argument.
    pub(crate) fn of(object: &Bound<'py, PyAny>, name: &str, axes: Axes, writable: bool) -> PyResult<Held<'py>> {
        let py = object.py();
        if let Some(held) = Self::of_torch(object, name, axes)? {
            return Ok(held);
        }
        // SAFETY: an object.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } != 0 {
            if let Some(buffer) = Buffer::of(object, writable) {
                let dtype = match buffer.format().trim_start_matches(['<', '=', '@']) {
                    "f" => DType::F32,
                    "e" => DType::F16,
                    other => return Err(one(py, Raw::wrong_type(name, &format_name(other)))),
                };
                return Self::of_buffer(py, buffer, name, dtype, axes);
            }
            if writable && Buffer::of(object, false).is_some() {
                return Err(one(py, refused(foreign::WRONG_MEMORY, name, "is read-only", "give an array to write to")));
            }
            // Formats of the protocol have no bfloat16; arrays of numpy have a name for it.
            if dtype_name(object).as_deref() == Some("bfloat16") {
                let bits = object.call_method1(intern!(py, "view"), (intern!(py, "uint16"),))?;
                let Some(buffer) = Buffer::of(&bits, writable) else {
                    let help = "give an array to write to";
                    return Err(one(py, refused(foreign::WRONG_MEMORY, name, "is read-only", help)));
                };
                return Self::of_buffer(py, buffer, name, DType::Bf16, axes);
            }
        }
        if object.hasattr(intern!(py, "__dlpack__"))? {
            return Self::of_dlpack(object, name, axes, writable);
        }
        if let Some(found) = dtype_name(object) {
            return Err(one(py, Raw::wrong_type(name, &found)));
        }
        let found = object.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "`{name}` is a {found}: a numpy array or an object with `__dlpack__` is wanted"
        )))
    }

    fn of_buffer(py: Python<'py>, buffer: Buffer, name: &str, dtype: DType, axes: Axes) -> PyResult<Held<'py>> {
        let data = buffer.0.buf.cast::<u8>();
        let raw = Raw::of_axes(name, data, dtype, buffer.shape(), buffer.strides(), axes).raised(py)?;
        let batched = buffer.shape().len() == rank(axes);
        Ok(Held { raw, batched, _owner: Owner::Buffer(buffer) })
    }

    /// A plain tensor of torch, asked by attributes: its `__dlpack__` takes longer than a small launch. `None` for all
    /// other objects, and for tensors of which there is more to say.
    fn of_torch(object: &Bound<'py, PyAny>, name: &str, axes: Axes) -> PyResult<Option<Held<'py>>> {
        let py = object.py();
        let Some(torch) = Torch::get(py)? else { return Ok(None) };
        if !object.get_type().is(torch.tensor.bind(py)) {
            return Ok(None);
        }
        let has = |attribute: &Bound<'py, pyo3::types::PyString>| object.getattr(attribute);
        let dtype = has(intern!(py, "dtype"))?;
        let Some((dtype, _)) = torch.types.iter().find(|(_, t)| dtype.is(t.bind(py))) else { return Ok(None) };
        let plain = has(intern!(py, "is_cpu"))?.is_truthy()?
            && !has(intern!(py, "requires_grad"))?.is_truthy()?
            && has(intern!(py, "layout"))?.is(torch.strided.bind(py))
            && !object.call_method0(intern!(py, "is_neg"))?.is_truthy()?;
        if !plain {
            return Ok(None);
        }
        let shape: Vec<i64> = has(intern!(py, "shape"))?.extract()?;
        let strides: Vec<isize> = object.call_method0(intern!(py, "stride"))?.extract()?;
        let size = dtype.size() as isize;
        let Some(strides) = strides.iter().map(|s| s.checked_mul(size)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let address: usize = object.call_method0(intern!(py, "data_ptr"))?.extract()?;
        let data = ptr::with_exposed_provenance_mut(address);
        let raw = Raw::of_axes(name, data, *dtype, &shape, &strides, axes).raised(py)?;
        Ok(Some(Held { raw, batched: shape.len() == rank(axes), _owner: Owner::Object(object.clone()) }))
    }

    fn of_dlpack(object: &Bound<'py, PyAny>, name: &str, axes: Axes, writable: bool) -> PyResult<Held<'py>> {
        let py = object.py();
        // Memory of another device is told before anything is asked of it.
        if let Ok(device) = object.call_method0(intern!(py, "__dlpack_device__"))
            && let Ok((device_type, device_id)) = device.extract::<(i32, i32)>()
            && !matches!(device_type, 1 | 3 | 11)
        {
            let help = "copy it to memory of the CPU";
            return Err(one(
                py,
                refused(foreign::WRONG_MEMORY, name, &format!("is on {}", place(object, device_id)), help),
            ));
        }
        let capsule = match object.call_method1(intern!(py, "__dlpack__"), ()) {
            Ok(capsule) if !writable => capsule,
            // Only later versions say whether memory may be written.
            first => {
                let kwargs = pyo3::types::PyDict::new(py);
                kwargs.set_item("max_version", (1, 0))?;
                match (object.call_method(intern!(py, "__dlpack__"), (), Some(&kwargs)), first) {
                    (Ok(capsule), _) | (Err(_), Ok(capsule)) => capsule,
                    (Err(error), Err(_)) => {
                        let why = error.value(py).to_string();
                        let said = refused(
                            foreign::WRONG_MEMORY,
                            name,
                            &format!("gives no memory: {why}"),
                            "detach or copy it",
                        );
                        return Err(one(py, said));
                    }
                }
            }
        };
        let capsule = capsule
            .cast_into::<PyCapsule>()
            .map_err(|_| PyTypeError::new_err(format!("`{name}.__dlpack__()` returned no capsule")))?;
        // SAFETY: a capsule; a name that it does not have is an error, which is cleared.
        let pointer = |name: &CStr| unsafe {
            if ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 0 {
                return ptr::null_mut();
            }
            ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr())
        };
        // SAFETY: a capsule of this name holds a tensor of this type, which lives as long as the capsule.
        let (tensor, read_only) = unsafe {
            let versioned = pointer(c"dltensor_versioned").cast::<DLManagedTensorVersioned>();
            if let Some(managed) = versioned.as_ref() {
                if managed.version.major != 1 {
                    let version = managed.version.major;
                    return Err(PyTypeError::new_err(format!("`{name}` is of DLPack {version}, and 1 is known")));
                }
                (&managed.dl_tensor, managed.flags & foreign::READ_ONLY != 0)
            } else if let Some(managed) = pointer(c"dltensor").cast::<DLManagedTensor>().as_ref() {
                (&managed.dl_tensor, false)
            } else {
                return Err(PyTypeError::new_err(format!("`{name}.__dlpack__()` returned a capsule of no tensor")));
            }
        };
        if writable && read_only {
            return Err(one(py, refused(foreign::WRONG_MEMORY, name, "is read-only", "give an array to write to")));
        }
        // SAFETY: shape and strides of a tensor of `DLPack`.
        let raw = unsafe { Raw::of_dlpack(name, tensor, axes) }.raised(py)?;
        let batched = usize::try_from(tensor.ndim).ok() == Some(rank(axes));
        Ok(Held { raw, batched, _owner: Owner::Capsule(capsule) })
    }
}

fn rank(axes: Axes) -> usize {
    match axes {
        Axes::Rows => 4,
        Axes::Numbers => 3,
    }
}

fn place(object: &Bound<'_, PyAny>, id: i32) -> String {
    object.getattr("device").map_or_else(|_| format!("device {id}"), |d| format!("device {d}"))
}

/// Name of the type of elements, if the object has one.
fn dtype_name(object: &Bound<'_, PyAny>) -> Option<String> {
    let py = object.py();
    let dtype = object.getattr(intern!(py, "dtype")).ok()?;
    match dtype.getattr(intern!(py, "name")) {
        Ok(name) => name.extract().ok(),
        Err(_) => Some(dtype.to_string()),
    }
}

/// Name of a format of the buffer protocol.
fn format_name(format: &str) -> String {
    let name = match format {
        "d" => "float64",
        "g" => "longdouble",
        "b" => "int8",
        "B" => "uint8",
        "h" => "int16",
        "H" => "uint16",
        "i" => "int32",
        "I" => "uint32",
        "l" | "q" => "int64",
        "L" | "Q" => "uint64",
        "?" => "bool",
        "Zf" => "complex64",
        "Zd" => "complex128",
        other => return format!("format `{other}`"),
    };
    name.to_owned()
}

/// The module numpy.
pub(crate) fn numpy(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static NUMPY: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    NUMPY.get_or_try_init(py, || py.import("numpy").map(Bound::unbind)).map(|m| m.bind(py))
}

/// Which library an array is of, and makes arrays for results.
pub(crate) enum Maker<'py> {
    Numpy,
    Torch(&'py Torch),
    /// Results are made by numpy and handed over.
    Other(Option<Bound<'py, PyAny>>),
}

impl<'py> Maker<'py> {
    /// The library of an array.
    pub(crate) fn of(array: &Bound<'py, PyAny>) -> PyResult<Maker<'py>> {
        let py = array.py();
        static NDARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let ndarray = NDARRAY.get_or_try_init(py, || numpy(py)?.getattr("ndarray").map(Bound::unbind))?;
        if array.is_instance(ndarray.bind(py))? {
            return Ok(Maker::Numpy);
        }
        if let Some(torch) = Torch::get(py)?
            && array.is_instance(torch.tensor.bind(py))?
        {
            return Ok(Maker::Torch(torch));
        }
        Ok(Maker::Other(array.call_method0(intern!(py, "__array_namespace__")).ok()))
    }

    /// A new array.
    pub(crate) fn empty(&self, py: Python<'py>, shape: &[usize], dtype: DType) -> PyResult<Bound<'py, PyAny>> {
        let shape = pyo3::types::PyTuple::new(py, shape)?;
        if let Maker::Torch(torch) = self {
            let kwargs = pyo3::types::PyDict::new(py);
            let of_type = torch.types.iter().find(|(known, _)| *known == dtype).map(|(_, t)| t.bind(py));
            kwargs.set_item(intern!(py, "dtype"), of_type)?;
            // Not on the device that a program may have made the default.
            kwargs.set_item(intern!(py, "device"), intern!(py, "cpu"))?;
            return torch.module.bind(py).call_method(intern!(py, "empty"), (shape,), Some(&kwargs));
        }
        let empty = intern!(py, "empty");
        match dtype {
            DType::F32 => numpy(py)?.call_method1(empty, (shape, intern!(py, "float32"))),
            DType::F16 => numpy(py)?.call_method1(empty, (shape, intern!(py, "float16"))),
            DType::Bf16 => {
                let bf16 = py.import(intern!(py, "ml_dtypes"))?.getattr(intern!(py, "bfloat16"))?;
                numpy(py)?.call_method1(empty, (shape, bf16))
            }
        }
    }

    /// A result in the caller's library.
    pub(crate) fn hand_over(&self, array: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Maker::Other(Some(namespace)) = self else { return Ok(array) };
        let py = array.py();
        match namespace.call_method1(intern!(py, "from_dlpack"), (&array,)) {
            Ok(theirs) => Ok(theirs),
            Err(_) => namespace.call_method1(intern!(py, "asarray"), (array,)),
        }
    }
}
