//! Consent to wgpu's experimental features and to unchecked shaders: the one place of this crate that says `unsafe`.

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

/// A shader that this crate wrote, without checks of bounds and without bounds of loops: with them, loops are not unrolled
/// and reads wait for each other.
#[allow(unsafe_code, reason = "wgpu asks for consent by an unsafe function")]
pub(crate) fn module(device: &wgpu::Device, text: &str) -> wgpu::ShaderModule {
    let desc = wgpu::ShaderModuleDescriptor { label: Some("attnc"), source: wgpu::ShaderSource::Wgsl(text.into()) };
    let mut checks = wgpu::ShaderRuntimeChecks::checked();
    checks.bounds_checks = false;
    checks.force_loop_bounding = false;
    // SAFETY: only stages that read no data come here. Their indices lie in their arrays by the ranges of a chunk and of a
    // tile; loops advance by positive steps to ends that fit 32 bits, which a launch has proved.
    unsafe { device.create_shader_module_trusted(desc, checks) }
}
