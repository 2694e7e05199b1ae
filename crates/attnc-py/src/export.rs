//! Masks for other engines as arrays of numpy.

#![allow(unsafe_code, reason = "new arrays are filled through the buffer protocol")]

use attnc::{ExportOptions, Format, Inputs, Kernel, Shape, Values};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::error::Raise;
use crate::tensors::{Buffer, numpy};

/// A mask in a format, as a dict.
pub(crate) fn export<'py>(
    py: Python<'py>,
    kernel: &Kernel,
    format: &str,
    shape: Shape,
    options: (Option<i64>, Option<i64>, bool),
    inputs: &Inputs<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let Some(known) = Format::named(format) else {
        let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
        return Err(PyValueError::new_err(format!("there is no format `{format}`: it is one of {}", names.join(", "))));
    };
    let (block, most, mask_only) = options;
    let options = ExportOptions { block, mask_only, most, ..ExportOptions::new(known) };
    let exported = py.detach(|| kernel.export(shape, inputs, &options)).raised(py)?;
    let dict = PyDict::new(py);
    dict.set_item("format", format)?;
    for (name, number) in &exported.numbers {
        dict.set_item(name, number)?;
    }
    for made in &exported.arrays {
        let (dtype, bytes) = match &made.values {
            Values::Bool(v) => ("bool", v.clone()),
            Values::I8(v) => ("int8", v.iter().flat_map(|x| x.to_ne_bytes()).collect()),
            Values::I32(v) => ("int32", v.iter().flat_map(|x| x.to_ne_bytes()).collect()),
            Values::I64(v) => ("int64", v.iter().flat_map(|x| x.to_ne_bytes()).collect()),
        };
        let array = numpy(py)?.call_method1("empty", (PyTuple::new(py, &made.shape)?, dtype))?;
        let mut buffer = Buffer::of(&array, true).ok_or_else(|| PyTypeError::new_err("numpy gave no memory"))?;
        // SAFETY: a new array, which nobody else has.
        unsafe { buffer.bytes_mut() }.copy_from_slice(&bytes);
        dict.set_item(made.name, array)?;
    }
    Ok(dict)
}
