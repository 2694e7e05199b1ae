//! What the command line and the bindings for C and Python share.
//!
//! ```text
//! disk     source files of the file system          drawn    diagnostics as text and as JSON
//! foreign  tensors in memory of other programs      picture  who attends to whom, as text, SVG and PNG
//! kept     compiled kernels that processes share
//! ```
//!
//! The library `attnc` opens no file and trusts no pointer; its hosts do, and they do it here, once. Nothing here
//! knows of command lines, of C types or of Python.

#![deny(unsafe_code)]

pub mod disk;
pub mod drawn;
pub mod foreign;
pub mod kept;
pub mod picture;

pub use disk::{Disk, Subject};
pub use drawn::{Drawing, json};
pub use foreign::{Axes, Raw};
pub use kept::Kernels;
pub use picture::Grid;
