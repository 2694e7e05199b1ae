//! Attention microkernels for CPUs, chosen by detection.
//!
//! The one idea: everything that depends on the instruction set and nothing else. A compiled driver
//! decides which tiles to visit; the functions here do whole tiles. [`abi`] is the contract, [`scalar`]
//! the truth, `avx2` and `avx512` the fast versions, [`isa`] the choice between them. Nothing here knows of patterns,
//! plans, threads or code generators.
//!
//! The functions of the tables are `unsafe`: they trust sizes and addresses, which a verified plan
//! and a checked launch guarantee. [`merge()`], [`peak`] and [`count`] are safe.

pub mod abi;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod count;
pub mod isa;
pub mod math;
pub mod merge;
mod modify;
#[cfg(target_arch = "x86_64")]
mod own;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod rows;
pub mod scalar;
pub mod select;
#[cfg(target_arch = "x86_64")]
mod softmax;
mod tensor;
pub mod tiles;
#[cfg(target_arch = "x86_64")]
mod vector;
pub mod window;

pub use isa::{Avx2, Avx512, Isa};
pub use merge::{MergeError, merge};
