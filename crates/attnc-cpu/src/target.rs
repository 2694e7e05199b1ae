//! What this machine can run, and the counter of kernels that count.

use attnc_kernels::Isa;

/// Every instruction set that kernels exist for: its name, and what runs there or why it does not.
#[must_use]
pub fn targets() -> Vec<(&'static str, Result<String, String>)> {
    let jit = crate::jit::known();
    let describe = |isa: Isa, available: Result<(), &'static str>| match (&jit, available) {
        (Err(why), _) => Err(why.to_string()),
        (_, Err(why)) => Err(why.to_owned()),
        (Ok(host), Ok(())) => {
            let best = if isa == Isa::best() { ", the default" } else { "" };
            Ok(format!("Cranelift for {} with {} kernels{best}", host, isa.name()))
        }
    };
    Isa::available().into_iter().map(|(isa, available)| (isa.name(), describe(isa, available))).collect()
}

/// FLOPs of matrix products that kernels compiled to count have executed since [`flops_reset`]. The counter is global to
/// the process.
#[must_use]
pub fn flops_executed() -> u64 {
    attnc_kernels::count::flops_executed()
}

/// Sets the counter of [`flops_executed`] to zero.
pub fn flops_reset() {
    attnc_kernels::count::reset();
}
