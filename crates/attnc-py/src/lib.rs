//! The extension module `attnc._attnc`: the library for Python.
//!
//! ```text
//! kernel   compile, and the class Kernel         given    sizes, maps and tensors by name
//! tensors  arrays of numpy and of DLPack         error    diagnostics as exceptions
//! pool     threads, also after a fork            export   masks for other engines
//! ```
//!
//! One idea: Python's objects end here. Everything is turned into borrowed memory and plain values, the interpreter is
//! released, and the library does the rest. Nothing here decides what a pattern means.

#![deny(unsafe_code)]

mod error;
mod export;
mod given;
mod kernel;
mod pool;
mod tensors;

use pyo3::prelude::*;

#[pymodule]
fn _attnc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<error::Error>())?;
    module.add("CompileError", module.py().get_type::<error::CompileError>())?;
    module.add("RunError", module.py().get_type::<error::RunError>())?;
    module.add_class::<kernel::Kernel>()?;
    module.add_class::<kernel::Picture>()?;
    module.add_class::<pool::Threads>()?;
    module.add_function(wrap_pyfunction!(kernel::compile, module)?)?;
    module.add_function(wrap_pyfunction!(kernel::compile_text, module)?)?;
    module.add_function(wrap_pyfunction!(kernel::format, module)?)?;
    module.add_function(wrap_pyfunction!(pool::set_threads, module)?)?;
    Ok(())
}
