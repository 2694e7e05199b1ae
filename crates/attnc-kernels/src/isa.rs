//! Which instruction sets this machine runs, and the tables of functions made for them.
//!
//! The one idea: an instruction set is a token that only detection makes, so that holding a fast table
//! proves that the machine can run it. Nothing here knows what the functions do.

use crate::abi::{Math, Table};
use crate::{math, scalar};

/// The instruction sets that kernels are written for, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every target of the compiler can run.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C: vectors of 8 singles.
    Avx2,
}

impl Isa {
    /// Every instruction set with whether this machine runs it, and if not, why.
    #[must_use]
    pub fn available() -> Vec<(Isa, Result<(), &'static str>)> {
        let avx2 = match Avx2::detect() {
            Some(_) => Ok(()),
            None if cfg!(target_arch = "x86_64") => Err("this CPU lacks AVX2, FMA or F16C"),
            None => Err("needs an x86-64 CPU"),
        };
        vec![(Isa::Scalar, Ok(())), (Isa::Avx2, avx2)]
    }

    /// The fastest instruction set of this machine.
    #[must_use]
    pub fn best() -> Isa {
        if Avx2::detect().is_some() { Isa::Avx2 } else { Isa::Scalar }
    }

    /// Name as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
        }
    }
}

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// Asks the CPU (once; the answer is cached).
    #[must_use]
    pub fn detect() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            return Some(Avx2(()));
        }
        None
    }
}

impl Table {
    /// The kernels for the fastest instruction set of this machine.
    #[must_use]
    pub fn best() -> Table {
        Avx2::detect().map_or_else(Table::scalar, Table::avx2)
    }

    /// The kernels for `isa`, if this machine runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Table> {
        match isa {
            Isa::Scalar => Some(Table::scalar()),
            Isa::Avx2 => Avx2::detect().map(Table::avx2),
        }
    }

    /// The plain kernels, which every machine runs.
    #[must_use]
    pub fn scalar() -> Table {
        scalar::TABLE
    }

    /// The AVX2 kernels.
    #[must_use]
    pub fn avx2(_proof: Avx2) -> Table {
        #[cfg(target_arch = "x86_64")]
        return crate::avx2::TABLE;
        #[cfg(not(target_arch = "x86_64"))]
        return scalar::TABLE;
    }
}

impl Math {
    /// The functions for `isa`, if this machine runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Math> {
        match isa {
            Isa::Scalar => Some(math::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(|_| crate::avx2::math::MATH),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl crate::abi::Math4 {
    /// The functions for `isa`, if this machine runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(math::SCALAR4),
            Isa::Avx2 => Avx2::detect().map(|_| crate::avx2::math::MATH4),
        }
    }
}
