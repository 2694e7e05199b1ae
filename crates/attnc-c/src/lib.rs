//! The C library. `include/attnc.h` is made from this crate by cbindgen.
//!
//! ```text
//! abi      structures and functions, as C sees them      handles  numbers that stand for kernels
//! last     the last error of a thread
//! ```
//!
//! One idea: nothing that a caller hands over is trusted before it has been looked at. A handle is a number in a table
//! and never followed, a structure is read as far as it says that it goes, and no panic leaves a function.
//! Nothing here knows what a pattern means.

mod abi;
mod handles;
mod last;

pub use abi::*;
