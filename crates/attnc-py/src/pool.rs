//! Threads: one pool of the module, made when first needed, and pools of the caller's.
//!
//! One idea: a fork copies a pool without its threads, and whoever hands work to it waits for ever. So the pool of the
//! module knows which process made it, and another process makes its own. Nothing here runs a kernel.

#![allow(unsafe_code, reason = "one pointer to a pool that is never freed")]

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use attnc::Diagnostic;
use pyo3::prelude::*;

use crate::error::{Raise, one};

/// A pool and the process that made it.
struct Own {
    process: u32,
    threads: attnc::Threads,
}

/// The pool of this module; one of another process is left as it is.
static OWN: AtomicPtr<Own> = AtomicPtr::new(std::ptr::null_mut());

/// Threads of the next pool; 0 is as many as there are cores.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Threads to run kernels on.
#[pyclass(frozen, module = "attnc")]
pub(crate) struct Threads {
    pub(crate) pool: attnc::Threads,
    process: u32,
}

#[pymethods]
impl Threads {
    /// A pool of `count` threads. Raises `attnc.RunError` if the system refuses to start so many.
    #[new]
    fn new(py: Python<'_>, count: usize) -> PyResult<Self> {
        Ok(Threads { pool: start(count).raised(py)?, process: std::process::id() })
    }

    /// How many there are.
    #[getter]
    fn count(&self) -> usize {
        self.pool.count()
    }

    fn __repr__(&self) -> String {
        format!("attnc.Threads({})", self.count())
    }
}

impl Threads {
    /// The pool, in the process that made it.
    pub(crate) fn pool(&self, py: Python<'_>) -> PyResult<&attnc::Threads> {
        if self.process == std::process::id() {
            return Ok(&self.pool);
        }
        let said = Diagnostic::global("E0735", "`threads` were started before this process was forked");
        Err(one(py, said.help("make `attnc.Threads` in the process that uses them")))
    }
}

/// Run kernels on `count` threads from now on; 0 is as many as there are cores. Raises `attnc.RunError` if the system
/// refuses to start so many; what was set before stays then.
#[pyfunction]
pub(crate) fn set_threads(py: Python<'_>, count: usize) -> PyResult<()> {
    let made = Own { process: std::process::id(), threads: start(count).raised(py)? };
    COUNT.store(count, Ordering::Relaxed);
    // Others may still run on the one before: it is left to them.
    OWN.store(Box::into_raw(Box::new(made)), Ordering::Release);
    Ok(())
}

fn start(count: usize) -> Result<attnc::Threads, Diagnostic> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if count == 0 { cores() } else { count };
    if count > 4096 {
        return Err(Diagnostic::global("E0735", format!("{count} threads are too many")).help("use fewer threads"));
    }
    attnc::Threads::new(count)
}

/// The pool of this module in this process.
pub(crate) fn own(py: Python<'_>) -> PyResult<&'static attnc::Threads> {
    let process = std::process::id();
    let known = OWN.load(Ordering::Acquire);
    // SAFETY: null, or a box that is never freed.
    if let Some(own) = unsafe { known.as_ref() }
        && own.process == process
    {
        return Ok(&own.threads);
    }
    let made = Box::new(Own { process, threads: start(COUNT.load(Ordering::Relaxed)).raised(py)? });
    let made = Box::into_raw(made);
    let own = match OWN.compare_exchange(known, made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => made,
        Err(theirs) => {
            // SAFETY: just made here, and nobody has seen it.
            drop(unsafe { Box::from_raw(made) });
            theirs
        }
    };
    // SAFETY: a box that is never freed.
    Ok(unsafe { &(*own).threads })
}
