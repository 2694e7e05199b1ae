//! Run-time data by name: sizes, document offsets, maps and tensors of a program.
//!
//! One idea: what is given is brought into row-major memory of the right type by numpy, which copies nothing that is so
//! already, and held while a kernel reads it. Nothing here knows what the names mean.

#![allow(unsafe_code, reason = "memory of the buffer protocol")]

use attnc::{Inputs, MapInput, Module, Supply, TensorData};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::tensors::{Buffer, numpy};

/// A map, held.
enum Map {
    Dense { data: Buffer, shape: Vec<usize> },
    Csr { indptr: Buffer, indices: Buffer },
}

/// Run-time data, held.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) sizes: Vec<(String, i64)>,
    docs: Vec<i64>,
    maps: Vec<(String, Map)>,
    tensors: Vec<(String, Buffer, Vec<usize>)>,
    /// Levels, scores and selections; whether they are of reals.
    supplied: Vec<(String, Buffer, Vec<usize>, bool)>,
    pub(crate) q_start: Option<i64>,
    pub(crate) k_start: Option<i64>,
    lengths: Vec<(i64, i64)>,
}

/// What a caller may give beside tensors, as Python has it.
#[derive(Default)]
pub(crate) struct Args<'a, 'py> {
    pub(crate) sizes: Option<&'a Bound<'py, PyDict>>,
    pub(crate) docs: Option<&'a Bound<'py, PyAny>>,
    pub(crate) maps: Option<&'a Bound<'py, PyDict>>,
    pub(crate) tensors: Option<&'a Bound<'py, PyDict>>,
    pub(crate) supplied: Option<&'a Bound<'py, PyDict>>,
    pub(crate) q_start: Option<i64>,
    pub(crate) k_start: Option<i64>,
    pub(crate) lengths: Option<Vec<(i64, i64)>>,
}

/// A name in a dict.
fn key(dict: &str, name: &Bound<'_, PyAny>) -> PyResult<String> {
    name.extract().map_err(|_| PyTypeError::new_err(format!("`{dict}`: {name} is no name")))
}

impl Given {
    /// Holds what is given.
    pub(crate) fn new(py: Python<'_>, args: Args<'_, '_>) -> PyResult<Given> {
        let mut given = Given { q_start: args.q_start, k_start: args.k_start, ..Given::default() };
        given.lengths = args.lengths.unwrap_or_default();
        if let Some(docs) = args.docs {
            let (held, _) = array(py, docs, "docs", "int64")?;
            // SAFETY: row-major, of int64.
            given.docs = unsafe { held.slice::<i64>() }.to_vec();
        }
        for (name, value) in args.sizes.into_iter().flatten() {
            let name = key("sizes", &name)?;
            let whole = || PyTypeError::new_err(format!("`sizes`: `{name}` is no whole number"));
            let value = value.extract().map_err(|_| whole())?;
            given.sizes.push((name, value));
        }
        for (name, value) in args.maps.into_iter().flatten() {
            let name = key("maps", &name)?;
            let map = match value.cast::<PyTuple>() {
                Ok(pair) if pair.len() == 2 => Map::Csr {
                    indptr: array(py, &pair.get_item(0)?, &name, "int64")?.0,
                    indices: array(py, &pair.get_item(1)?, &name, "int64")?.0,
                },
                Ok(_) => {
                    return Err(PyTypeError::new_err(format!("map `{name}` is a pair (indptr, indices) or an array")));
                }
                Err(_) => {
                    let (data, shape) = array(py, &value, &name, "uint8")?;
                    Map::Dense { data, shape }
                }
            };
            given.maps.push((name, map));
        }
        for (name, value) in args.tensors.into_iter().flatten() {
            let name = key("tensors", &name)?;
            let (data, dims) = array(py, &value, &name, "float32")?;
            given.tensors.push((name, data, dims));
        }
        for (name, value) in args.supplied.into_iter().flatten() {
            let name = key("supplied", &name)?;
            let mut value = numpy(py)?.call_method1("asarray", (&value,))?;
            let kind: String = value.getattr("dtype")?.getattr("kind")?.extract()?;
            let reals = !matches!(kind.as_str(), "i" | "u");
            if !reals {
                // What 32 bits do not hold is a slot that is not there, and not another one.
                value =
                    value.call_method1("astype", ("int64",))?.call_method1("clip", (-2_i64, i64::from(i32::MAX)))?;
            }
            let (data, dims) = array(py, &value, &name, if reals { "float32" } else { "int32" })?;
            given.supplied.push((name, data, dims, reals));
        }
        Ok(given)
    }

    /// Fills in what follows from the lengths: the size of a space of one axis, and the end of the last document.
    pub(crate) fn complete(&mut self, module: &Module, tokens: i64, positions: i64) {
        if let Some(axis) = module.axis()
            && self.k_start.is_none()
            && self.sizes.iter().all(|(name, _)| name != axis)
        {
            self.sizes.push((axis.to_owned(), tokens));
        }
        if self.docs.last().is_some_and(|&last| last < positions) {
            self.docs.push(positions);
        }
    }

    /// Sizes as the library takes them.
    pub(crate) fn sizes(&self) -> Vec<(&str, i64)> {
        self.sizes.iter().map(|(name, value)| (name.as_str(), *value)).collect()
    }

    /// As the library takes it.
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        // SAFETY: all held arrays are row-major and of the types asked for when they were taken.
        let maps = self.maps.iter().map(|(name, map)| unsafe {
            let map = match map {
                Map::Dense { data, shape } => MapInput::Dense { data: data.slice(), shape },
                Map::Csr { indptr, indices } => MapInput::Csr { indptr: indptr.slice(), indices: indices.slice() },
            };
            (name.as_str(), map)
        });
        let tensors = self.tensors.iter().map(|(name, data, dims)| {
            // SAFETY: row-major, of float32.
            let data = unsafe { data.slice::<f32>() };
            (name.as_str(), TensorData { data: data.into(), dims: dims.clone() })
        });
        let supplied = self.supplied.iter().map(|(name, data, shape, reals)| {
            // SAFETY: row-major, of the type that was asked for.
            let supply = unsafe {
                match reals {
                    true => Supply::Reals { data: data.slice(), shape },
                    false => Supply::Slots { data: data.slice(), shape },
                }
            };
            (name.as_str(), supply)
        });
        Inputs {
            sizes: self.sizes(),
            docs: &self.docs,
            maps: maps.collect(),
            tensors: tensors.collect(),
            rows: None,
            q_start: self.q_start,
            k_start: self.k_start,
            lengths: self.lengths.clone(),
            supplied: supplied.collect(),
        }
    }
}

// SAFETY: views of memory that is held; they are given back where the interpreter is held.
unsafe impl Sync for Given {}
// SAFETY: as above.
unsafe impl Send for Given {}

/// A row-major array of a type, and its extents.
fn array(py: Python<'_>, value: &Bound<'_, PyAny>, name: &str, dtype: &str) -> PyResult<(Buffer, Vec<usize>)> {
    let kwargs = PyDict::new(py);
    kwargs.set_item("dtype", dtype)?;
    let wrong = |error: PyErr| {
        let why = error.value(py).to_string();
        PyTypeError::new_err(format!("`{name}` cannot be read as an array of {dtype}: {why}"))
    };
    let mut array = numpy(py)?.call_method1("asarray", (value,)).map_err(wrong)?;
    // Reals are rounded to float32; they are never cut to integers.
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let empty = array.getattr("size")?.extract::<usize>()? == 0;
    if dtype != "float32" && !empty && !matches!(kind.as_str(), "i" | "u" | "b") {
        let found = array.getattr("dtype")?;
        return Err(PyTypeError::new_err(format!("`{name}` has elements of {found}, and {dtype} is wanted")));
    }
    array = numpy(py)?.call_method("ascontiguousarray", (array,), Some(&kwargs)).map_err(wrong)?;
    let buffer = Buffer::of(&array, false)
        .ok_or_else(|| PyTypeError::new_err(format!("`{name}` cannot be read as an array of {dtype}")))?;
    let shape = buffer.shape().iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
    Ok((buffer, shape))
}
