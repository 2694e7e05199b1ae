//! Diagnostics as exceptions.
//!
//! One idea: the text of an exception is what the command line would draw, and its parts are attributes, so that a
//! person reads it and a program does not parse it. Nothing here decides what is wrong.

use attnc::{Diagnostic, Diagnostics};
use attnc_host::{Drawing, json};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    attnc,
    Error,
    PyValueError,
    "What attnc refuses.\n\n`str(error)` is drawn as by the command line. `error.code` is the code of the first \
     diagnostic, `error.message` its sentence, `error.help` what to do, `error.labels` its places, and \
     `error.diagnostics` the list of all, each a dict with `code`, `severity`, `message`, `help` and `labels`; a label \
     has `file`, `line`, `column`, `start`, `end` and `text`."
);
create_exception!(attnc, CompileError, Error, "Something is wrong with a file.");
create_exception!(attnc, RunError, Error, "Something is wrong with what a kernel was given.");

/// Everything that was said, as one exception.
pub(crate) fn raise(py: Python<'_>, said: &Diagnostics) -> PyErr {
    let text = Drawing::default().all(said);
    let first = said.list.iter().find(|d| d.severity == attnc::Severity::Error).or(said.list.first());
    let of_run = first.is_some_and(|d| d.code.starts_with("E07"));
    let text = format!("{}\n{}", first.map_or("", |d| d.message.as_str()), text.trim_end());
    let error = if of_run { RunError::new_err(text) } else { CompileError::new_err(text) };
    // An exception without its parts is still the exception.
    let _ = parts(py, &error, said);
    error
}

/// One diagnostic as an exception.
pub(crate) fn one(py: Python<'_>, diagnostic: Diagnostic) -> PyErr {
    raise(py, &Diagnostics::from(diagnostic))
}

fn parts(py: Python<'_>, error: &PyErr, said: &Diagnostics) -> PyResult<()> {
    let parsed = py.import("json")?.call_method1("loads", (json(said).to_string(),))?;
    let list = parsed.get_item("diagnostics")?;
    let value = error.value(py);
    if let Ok(first) = list.get_item(0) {
        for part in ["code", "message", "help", "labels"] {
            value.setattr(part, first.get_item(part)?)?;
        }
    }
    value.setattr("diagnostics", list)
}

/// Turns results of the library into those of Python.
pub(crate) trait Raise<T> {
    /// With its error as an exception.
    fn raised(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for Result<T, Diagnostics> {
    fn raised(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|said| raise(py, &said))
    }
}

impl<T> Raise<T> for Result<T, Diagnostic> {
    fn raised(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|said| one(py, said))
    }
}
