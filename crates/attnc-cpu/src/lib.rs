//! Cranelift back end: compiles a verified plan to machine code and runs it.
//!
//! ```text
//! VerifiedPlan --compile--> CpuKernel      (at most a millisecond; Send + Sync)
//! [Part { kernel, heads, envs, .. }], Launch { q, k, v, out, lse, .. } --run--> out, lse written
//! ```
//!
//! The one idea: machine code is made for what depends on the *pattern* (loops over tiles with
//! closed-form bounds, bit rows of partial tiles, score modifiers and biases), microkernels of
//! `attnc-kernels` do what depends on the *instruction set*, and the stages between them what depends
//! on the *layout* of tensors. One [`CpuKernel`] therefore serves every length, batch, head count,
//! start, stride and element type.
//!
//! A call of [`run`] computes all heads of a launch. Its tasks are (batch item, head, tile of
//! queries), and with few queries (batch item, heads that share keys, range of keys). What a task is depends on
//! nothing beside it, and results of ranges are merged in a fixed order, so the result is bitwise the same for any
//! number of threads and any batch beside it.
//!
//! What a launch checks: shapes, strides against slice lengths, element alignment, that no two
//! elements of an output share memory, lengths and run-time data of every [`attnc_pattern::env::Env`].
//! What it does not: that sizes satisfy the pattern's `require`, and that divisors and indices that the
//! pattern computes are in range; such a division yields some number and such an index is clamped, so that nothing
//! out of bounds is ever touched, whatever a masked element computes.
//!
//! Nothing here knows of text, names, files or other targets.

#![cfg_attr(
    not(feature = "jit"),
    allow(dead_code, reason = "stages are called by generated code, and launches by whoever has a kernel")
)]

mod compile;
mod dynamic;
#[cfg(feature = "jit")]
mod emit;
mod few;
mod inplace;
#[cfg(feature = "jit")]
mod jit;
#[cfg(not(feature = "jit"))]
#[path = "absent.rs"]
mod jit;

mod layout;
mod levels;
mod ready;
mod run;
mod select;
mod singles;
mod stages;
mod store;
mod target;
mod tensor;
#[cfg(all(test, feature = "jit"))]
mod tests;
mod visits;

pub use attnc_kernels::Isa;
pub use attnc_kernels::abi::DType;
pub use attnc_plan::choose::Chosen;
pub use compile::{CompileError, CpuKernel, Options, compile, compile_kept};
pub use dynamic::{HandedBack, HandedRows, lists_bytes};
pub use few::most_folded;
pub use ready::{OwnedPart, Ready};
pub use run::{Launch, Part, RunError, conversion_bytes, conversion_of, run, run_chosen, workspace_bytes};
pub use store::{Store, Unusable, usable};
pub use target::{flops_executed, flops_reset, targets};
pub use tensor::{LayoutError, Tensor, TensorMut};
pub use visits::{Visits, few_tasks, has_few};
