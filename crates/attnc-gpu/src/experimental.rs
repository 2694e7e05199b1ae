//! Consent to wgpu's experimental features: the one place of this crate that says `unsafe`.

/// Consent, if it is needed.
#[allow(unsafe_code, reason = "wgpu asks for consent by an unsafe function")]
pub(crate) fn features(needed: bool) -> wgpu::ExperimentalFeatures {
    if !needed {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: cooperative matrices are loaded from and stored to arrays that hold all of their rows, in uniform control
    // flow of a subgroup: `emit::matrix` is the only code that uses them.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
