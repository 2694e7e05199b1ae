//! In the place of [`crate::jit`] where the feature `jit` is off: no code is made, so that no kernel ever exists.

use std::convert::Infallible;

use attnc_kernels::Isa;
use attnc_plan::Plan;

use crate::compile::{CompileError, CpuKernel, Few, Options};
use crate::store::Store;

/// Memory of machine code, of which there is none.
pub(crate) struct Code {
    _none: Infallible,
}

pub(crate) fn known() -> Result<String, CompileError> {
    Err(CompileError::Absent)
}

pub(crate) fn few(_: &Plan, _: Isa, _: bool) -> Result<Option<Few>, CompileError> {
    Err(CompileError::Absent)
}

pub(crate) fn compile_plan(_: &Plan, _: &Options) -> Result<CpuKernel, CompileError> {
    Err(CompileError::Absent)
}

pub(crate) fn compile_kept(_: &Plan, _: &Options, _: &str, _: &dyn Store) -> Result<CpuKernel, CompileError> {
    Err(CompileError::Absent)
}
