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
    /// x86-64 with AVX-512 F, DQ, BW and VL (and AVX2, FMA and F16C): vectors of 16 singles.
    Avx512,
}

impl Isa {
    /// Every instruction set with whether this machine runs it, and if not, why.
    #[must_use]
    pub fn available() -> Vec<(Isa, Result<(), &'static str>)> {
        let vector = |detected: bool, lacks: &'static str| match detected {
            true => Ok(()),
            false if cfg!(target_arch = "x86_64") => Err(lacks),
            false => Err("needs an x86-64 CPU"),
        };
        let avx2 = vector(Avx2::detect().is_some(), "this CPU lacks AVX2, FMA or F16C");
        let avx512 = vector(Avx512::detect().is_some(), "this CPU lacks AVX-512 F, DQ, BW or VL");
        vec![(Isa::Scalar, Ok(())), (Isa::Avx2, avx2), (Isa::Avx512, avx512)]
    }

    /// The fastest instruction set of this machine.
    #[must_use]
    pub fn best() -> Isa {
        if Avx512::detect().is_some() {
            Isa::Avx512
        } else if Avx2::detect().is_some() {
            Isa::Avx2
        } else {
            Isa::Scalar
        }
    }

    /// Name as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
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

/// Proof that this machine has AVX-512 F, DQ, BW and VL, and what [`Avx2`] says.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// Asks the CPU (once; the answer is cached).
    #[must_use]
    pub fn detect() -> Option<Avx512> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            return Avx2::detect().map(|_| Avx512(()));
        }
        None
    }
}

impl Table {
    /// The kernels for the fastest instruction set of this machine.
    #[must_use]
    pub fn best() -> Table {
        Table::of(Isa::best()).unwrap_or_else(Table::scalar)
    }

    /// The kernels for `isa`, if this machine runs it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Table> {
        match isa {
            Isa::Scalar => Some(Table::scalar()),
            Isa::Avx2 => Avx2::detect().map(Table::avx2),
            Isa::Avx512 => Avx512::detect().map(Table::avx512),
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

    /// The AVX-512 kernels.
    #[must_use]
    pub fn avx512(_proof: Avx512) -> Table {
        #[cfg(target_arch = "x86_64")]
        return crate::avx512::TABLE;
        #[cfg(not(target_arch = "x86_64"))]
        return scalar::TABLE;
    }
}

impl Math {
    /// The functions for `isa`, if this machine runs it. One or four reals gain nothing from vectors of 16.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Math> {
        match isa {
            Isa::Scalar => Some(math::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(|_| crate::avx2::math::MATH),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => None,
            Isa::Avx512 => Avx512::detect().and_then(|_| Math::of(Isa::Avx2)),
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
            Isa::Avx512 => Avx512::detect().and_then(|_| Self::of(Isa::Avx2)),
        }
    }
}
