//! What several tests of kernels begin with.

use attnc_kernels::Isa;
use attnc_kernels::abi::Table;

/// Seeded numbers (a linear congruential generator).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A word of which every bit may be set.
    pub(crate) fn bits(&mut self) -> u64 {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 32
        };
        next() << 32 | next()
    }

    /// A number from -1 up to 1.
    fn real(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// `n` of them.
    pub(crate) fn reals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.real()).collect()
    }
}

/// The kernels of each instruction set of this machine.
pub(crate) fn tables() -> Vec<Table> {
    Isa::available().into_iter().filter_map(|(isa, _)| Table::of(isa)).collect()
}
