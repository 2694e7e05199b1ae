//! Machine code that outlives its process: what is written of a kernel, and what is believed of it when it is read.
//!
//! ```text
//! attnc-kernel/1 <version> <build>\n     refused where another program wrote it
//! BLAKE3 of the rest                      refused where it is torn
//! plan, instruction set, code             refused where the plan is not this plan
//! ```
//!
//! The one idea: code holds no address, neither of what it calls nor of what it reads, so that its bytes are the same in
//! every process of one build on one kind of CPU. They are found by a name that covers the source, the build, the CPU
//! and the plan; the plan's text is kept beside them and compared with the one at hand, so that a name that two plans
//! share costs time and not a wrong answer. Nothing here knows where a store is, or how code is made.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compile::Uses;

/// Where machine code is kept between processes, by names of hexadecimal digits. Hosts implement it: nothing here opens a
/// file.
///
/// # Safety
/// What is got is run. A store answers only with bytes that were put under that name by whoever may change the program
/// itself. They may be torn or of another build: that is seen.
pub unsafe trait Store: fmt::Debug + Send + Sync {
    /// What was put under a name, if it is still there. Any thread calls it, several at once, while it holds up others that
    /// want the same kernel: it waits for nothing that they might hold, and runs no work on their threads.
    fn get(&self, name: &str) -> Option<Vec<u8>>;

    /// Keeps bytes under a name, or does not. Called as [`Self::get`] is.
    fn put(&self, name: &str, bytes: &[u8]);
}

/// Why kept bytes are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unusable {
    /// They are no kernel.
    Foreign,
    /// Another build wrote them: its version and build.
    Build(String),
    /// They are not what was written.
    Torn,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Foreign => f.write_str("no kernel"),
            Unusable::Build(build) => write!(f, "of attnc {build}"),
            Unusable::Torn => f.write_str("torn"),
        }
    }
}

impl std::error::Error for Unusable {}

/// The version of this program, and which build of it this is.
#[must_use]
pub(crate) fn build() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " ", env!("ATTNC_BUILD"))
}

/// One function.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Function {
    pub(crate) align: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Machine code of a plan, as [`crate::CpuKernel`] has it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Image {
    pub(crate) drive: Vec<Function>,
    pub(crate) score: Vec<Option<Function>>,
    pub(crate) check: Option<Function>,
    pub(crate) uses: Uses,
}

/// What is kept of a kernel.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    /// The plan's text form.
    pub(crate) plan: String,
    pub(crate) isa: String,
    /// As [`crate::Options::counting`].
    pub(crate) counting: bool,
    pub(crate) image: Image,
}

#[cfg(feature = "jit")]
mod form {
    use super::{Record, Unusable, build};

    const MAGIC: &[u8] = b"attnc-kernel/1 ";

    /// What is written.
    pub(crate) fn seal(record: &Record) -> Option<Vec<u8>> {
        let body = postcard::to_stdvec(record).ok()?;
        let seal = blake3::hash(&body);
        Some([MAGIC, build().as_bytes(), b"\n", seal.as_bytes(), &body].concat())
    }

    /// What was written, if this build wrote it and it is whole.
    pub(crate) fn open(bytes: &[u8]) -> Result<Record, Unusable> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Unusable::Foreign)?;
        let end = rest.iter().take(200).position(|&b| b == b'\n').ok_or(Unusable::Foreign)?;
        let (writer, rest) = (&rest[..end], &rest[end + 1..]);
        if writer != build().as_bytes() {
            return Err(Unusable::Build(String::from_utf8_lossy(writer).into_owned()));
        }
        let (seal, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or(Unusable::Torn)?;
        if blake3::hash(body).as_bytes() != seal {
            return Err(Unusable::Torn);
        }
        postcard::from_bytes(body).map_err(|_| Unusable::Torn)
    }

    /// Whether this build can use kept bytes, if the plan at hand is theirs.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn usable(bytes: &[u8]) -> Result<(), Unusable> {
        open(bytes).map(drop)
    }
}

#[cfg(feature = "jit")]
pub use form::usable;
#[cfg(feature = "jit")]
pub(crate) use form::{open, seal};

/// Whether this build can use kept bytes: it makes no kernels, and uses none.
///
/// # Errors
/// Always.
#[cfg(not(feature = "jit"))]
pub fn usable(_: &[u8]) -> Result<(), Unusable> {
    Err(Unusable::Foreign)
}
