//! GPTQ checkpoints: codes packed along the inputs, in groups whose order `g_idx` may change.

use super::super::packed_ints::Packing;
use super::SourceError;
use super::quantized::{Keys, Settings};

/// Settings of a GPTQ checkpoint. Its first format stores zero points less one, `gptq_v2` as they are.
pub(super) fn settings(keys: &Keys<'_>) -> Result<Settings, SourceError> {
    let format = keys.either("checkpoint_format", "format")?;
    let zero_less_one = match format.as_deref() {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(_) => {
            return keys
                .fail("checkpoint_format", "must be gptq or gptq_v2: convert it, or import the original weights");
        }
    };
    if !matches!(keys.word("pack_dtype")?.as_deref(), None | Some("int32")) {
        return keys.fail("pack_dtype", "must be int32: import the original weights");
    }
    keys.refuse_rules("dynamic")?;
    Ok(Settings {
        packing: Packing::Inputs,
        bits: keys.bits(&[4, 8])?,
        group_size: keys.group_size()?,
        symmetric: keys.boolean("sym")?.unwrap_or(false),
        zero_less_one,
    })
}
