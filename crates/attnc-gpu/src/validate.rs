//! Whether a shader is valid, without a device.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::emit::Variant;

/// Parses and validates a shader with what its variant asks of an adapter and no more.
///
/// # Errors
/// What is wrong, with the line.
pub fn validate(text: &str, variant: Variant) -> Result<(), String> {
    // `unpack2x16float` is part of WebGPU; naga asks for it apart.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if variant != Variant::Portable {
        capabilities |= Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
    }
    if variant == Variant::Matrix {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP_BARRIER;
    }
    let options = naga::front::wgsl::Options { capabilities, ..naga::front::wgsl::Options::new() };
    let module =
        naga::front::wgsl::Frontend::new_with_options(options).parse(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok(())
}
