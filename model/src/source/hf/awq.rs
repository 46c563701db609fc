//! AWQ checkpoints in the `gemm` layout: 4-bit codes packed along the outputs, nibbles interleaved.

use super::super::packed_ints::Packing;
use super::SourceError;
use super::quantized::{Keys, Settings};

/// Settings of an AWQ checkpoint. Its scales are folded into the weights around them already.
pub(super) fn settings(keys: &Keys<'_>) -> Result<Settings, SourceError> {
    // `version` is AutoAWQ's name, `format` and `checkpoint_format` are GPTQModel's.
    for format in [keys.either("version", "format")?, keys.either("version", "checkpoint_format")?] {
        if !matches!(format.as_deref(), None | Some("gemm")) {
            return keys.fail("version", "must be gemm: convert it, or import the original weights");
        }
    }
    if keys.word("backend")?.as_deref() == Some("llm-awq") {
        return keys.fail("backend", "llm-awq packs in another order: convert it, or import the original weights");
    }
    keys.refuse_rules("dynamic")?;
    if keys.boolean("zero_point")? == Some(false) {
        return keys.fail("zero_point", "must be true: import the original weights");
    }
    Ok(Settings {
        packing: Packing::InterleavedOutputs,
        bits: keys.bits(&[4])?,
        group_size: keys.group_size()?,
        symmetric: false,
        zero_less_one: false,
    })
}
