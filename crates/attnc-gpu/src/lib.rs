//! WGSL back end: compute shaders from a verified plan, and running them through wgpu.
//!
//! [`emit()`] writes the text of a plan's shaders without a device. [`Adapter`] and [`Gpu`] are what runs them;
//! [`launch`] prepares a launch on buffers of the host, which [`Launch::encode`] writes into the host's own command
//! encoder; [`Session`] does the same for tensors in memory. Nothing here waits, starts a thread, reads a clock, opens a
//! file, reads the environment or prints. Only this crate names wgpu and naga.

#![deny(unsafe_code)]

mod cut;
mod device;
mod dynamic;
mod emit;
mod experimental;
mod layout;
mod run;
mod validate;

pub use attnc_plan::choose::Chosen;
pub use device::{Adapter, Gpu, GpuError, adapter, adapters};
pub use emit::{Element, EmitError, Spec, Stage, Variant, beyond, emit, max_dim, modules};
pub use run::{
    Buffers, Gate, GpuKernel, Launch, LaunchError, Part, Pending, Read, ReadRow, Results, Session, Shape, Term, launch,
    variant,
};
pub use validate::validate;
pub use wgpu;
