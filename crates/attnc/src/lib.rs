//! A compiler for sparse attention patterns, as a library.
//!
//! A `.attn` file says which keys each query attends to. This crate checks it, plans it, compiles it to machine
//! code for this CPU and runs it on borrowed tensors:
//!
//! ```
//! use attnc::{Compiler, Inputs, Problem, Resources, Select, Tensor, TensorMut};
//!
//! let module = Compiler::default().source("pattern local = q - k in 0 .. 128\n")?;
//! let kernel = module.kernel(&Select::named("local"))?;
//! for n in [100, 1000] {
//!     let (x, shape) = (vec![0.5; 4 * n * 64], [1, 4, n, 64]); // batch, heads, tokens, dim
//!     let (mut out, mut lse) = (vec![0.0; x.len()], vec![0.0; 4 * n]);
//!     let t = Tensor::of_f32(&x, shape)?;
//!     let (out_t, lse_t) = (TensorMut::of_f32(&mut out, shape)?, TensorMut::of_f32(&mut lse, [1, 4, n, 1])?);
//!     let mut problem = Problem { q: t, k: t, v: t, out: out_t, lse: Some(lse_t), inputs: Inputs::default() };
//!     kernel.run(&mut problem, Resources::default())?;
//!     assert!(out.iter().all(|o| (o - 0.5).abs() < 1e-6));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Compiler`] turns files, which come through a [`Loader`], into a [`Module`]; a [`Kernel`] is one attention of it,
//! or one layer of a model, compiled once for every length, batch, number of heads, stride and element type, and
//! shared freely between threads. Errors are [`Diagnostics`]: plain data with a stable code, places and a help.
//!
//! Nothing here opens a file, reads the environment or prints.

#![forbid(unsafe_code)]

mod attended;
mod codes;
mod compiler;
mod difference;
mod exchange;
mod export;
mod forecast;
#[cfg(feature = "gpu")]
pub mod gpu;
mod kept;
mod kernel;
mod layout;
mod loader;
mod made;
mod numbers;
mod problem;
mod ready;
mod tensor;
mod text;
mod view;

pub use attended::{Attended, AttendedRow};
pub use attnc_cpu::{Chosen, DType, Isa, LayoutError, Store, targets};
pub use attnc_kernels::{MergeError, merge};
pub use attnc_pattern::analysis::EvalError;
pub use attnc_pattern::env::{DrawTable, TensorData};
pub use attnc_pattern::oracle::{Misfit, Output};
pub use attnc_pattern::program::{MapKind, Program};
pub use attnc_pattern::random;
pub use attnc_pattern::tolerance::{Report, Worst};
pub use attnc_plan::{Cost, MAX_LEN, Options as PlanOptions, PASSES, Pass};
pub use attnc_plan::{model, typical};
pub use attnc_syntax::diag::{CodeInfo, Diagnostic, FileId, Label, Severity, Span};
pub use attnc_syntax::{ast, construct};
pub use codes::codes;
pub use compiler::{
    BAD_SETTING, BROKEN_PLAN, Compiler, Diagnostics, Kind, Module, NO_TARGET, NO_TEXT, Options, Target, UNKNOWN_NAME,
    UNKNOWN_PARAM,
};
pub use difference::{ChangedRows, Difference};
pub use exchange::{Returned, ReturnedValues, Supply};
pub use export::{Array, ExportOptions, Exported, Format, NO_FORMAT, Values};
pub use forecast::{Forecast, Limit, Upcoming};
pub use kept::{Kept, Share};
pub use kernel::{Footprint, Kernel, Resources, Select, Threads, compare, compare_rounded};
pub use layout::{Along, Layout};
pub use loader::{Formatted, LoadError, Loader, MAX_FILES, MAX_SOURCE, Memory, STD, Source, Sources, format};
pub use numbers::{Number, Strides};
pub use problem::{Inputs, MapInput, Problem, Shape, UNKNOWN_SIZE, WantedMap, WantedTensor, Wants};
pub use ready::Ready;
pub use tensor::{Tensor, TensorMut};
pub use view::{RowWalk, Run, TileRun, TileWalk, View};

/// Machine code that a [`Store`] holds.
pub mod stored {
    pub use attnc_cpu::{Unusable, usable};
}

/// What a machine can do, and what kernels did: for benchmarks.
pub mod measure {
    pub use attnc_cpu::{flops_executed, flops_reset};
    pub use attnc_kernels::peak::{fma_burst, read_bandwidth};
}

/// The programs of these pages are compiled and run as they are printed.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/embedding.md")]
    struct Embedding;
    #[cfg(feature = "gpu")]
    #[doc = include_str!("../../../docs/errors.md")]
    struct Errors;
}
