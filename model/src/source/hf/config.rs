//! `config.json`, in the spellings before and since transformers 5.
//!
//! What it does not say is what the configuration classes of transformers 5 say. What it says twice is resolved as
//! transformers does, with a warning; what cannot be computed is refused by name.

use super::super::arch::{self, Architecture, HeadDim, QkvBias};
use super::super::settings::{Checker, shorten};
use super::json::json_object;
use super::keys::Keys;
use super::{SourceError, generation, quantized, rope::rope, window::sliding_window};
use crate::limits::{MAX_CONTEXT, MAX_FFN, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB};
use crate::{DecoderConfig, GenerationDefaults};
use serde_json::Value;
use std::path::Path;

/// Whether the feed-forward part has biases: the tensors say whether they add anything.
const MLP_BIAS: &str = "mlp_bias";

/// Whether the text of a `config.json` promises biases of the feed-forward part; only Llama's class knows them.
pub(super) fn promises_mlp_biases(path: &Path, text: &str, config: &DecoderConfig) -> Result<bool, SourceError> {
    let says = json_object(path, text)?.get(MLP_BIAS).and_then(Value::as_bool);
    Ok(says == Some(true) && config.architecture == "llama")
}

/// Parses the text of `config.json`, and of `generation_config.json` where there is one.
pub(super) fn parse(path: &Path, text: &str, generation: Option<(&Path, &str)>) -> Result<DecoderConfig, SourceError> {
    let map = json_object(path, text)?;
    let c = Keys { check: Checker { path }, map: &map };
    let arch = architecture(&c)?;
    c.refuse_other_maths()?;
    c.refuse_null("hidden_act")?;
    c.boolean(MLP_BIAS)?;
    quantized::from_config(path, &map)?;

    let hidden_size = c.size("hidden_size", MAX_HIDDEN, arch::HIDDEN_SIZE)?;
    let num_attention_heads = c.size("num_attention_heads", MAX_HEADS, arch::NUM_ATTENTION_HEADS)?;
    let num_key_value_heads = match (map.get("num_key_value_heads"), arch.num_key_value_heads) {
        (Some(Value::Null), _) | (None, None) => num_attention_heads,
        (_, default) => c.size("num_key_value_heads", MAX_HEADS, default.unwrap_or(num_attention_heads))?,
    };
    let head_dim = match (c.unsigned("head_dim")?, arch.head_dim) {
        (Some(v), _) => c.check.size("head_dim", v, MAX_HEAD_DIM)?,
        (None, HeadDim::Fixed(v)) => {
            c.refuse_null("head_dim")?;
            v
        }
        (None, HeadDim::HiddenOverHeads) => {
            c.check.head_dim_from_hidden("num_attention_heads", hidden_size, num_attention_heads)?
        }
    };
    c.refuse_null("max_position_embeddings")?;
    let max_position_embeddings = match c.unsigned("max_position_embeddings")? {
        Some(v) => c.check.size("max_position_embeddings", v, MAX_CONTEXT)?,
        None => arch.max_position_embeddings,
    };
    c.refuse_null("rms_norm_eps")?;
    let rms_norm_eps = match c.number("rms_norm_eps")? {
        Some(v) => c.check.real("rms_norm_eps", v, 1e-30, 1.0)?,
        None => arch::RMS_NORM_EPS,
    };
    let num_hidden_layers = c.size("num_hidden_layers", MAX_LAYERS, arch::NUM_HIDDEN_LAYERS)?;
    let vocab_size = c.size("vocab_size", MAX_VOCAB, arch.vocab_size)?;
    let (rope_theta, rope_scaling) = rope(&c, arch, max_position_embeddings)?;
    let mut config = DecoderConfig {
        architecture: arch.name.to_owned(),
        hidden_size,
        intermediate_size: c.size("intermediate_size", MAX_FFN, arch.intermediate_size)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps,
        rope_theta,
        rope_scaling,
        qkv_bias: match arch.qkv_bias {
            QkvBias::Never if c.boolean("attention_bias")? == Some(true) => {
                return c.check.fail("attention_bias", format!("a {} model has no biases", arch.name));
            }
            QkvBias::Never => false,
            QkvBias::Always => true,
            QkvBias::WhenSet(key) => c.boolean(key)?.unwrap_or(false),
        },
        qk_norm: arch.qk_norm,
        tie_word_embeddings: c.boolean("tie_word_embeddings")?.unwrap_or(arch.tie_word_embeddings),
        sliding_window: sliding_window(&c, arch, num_hidden_layers)?,
        bos_token_id: c.tokens("bos_token_id", vocab_size).first().copied(),
        eos_token_ids: Vec::new(),
        generation: GenerationDefaults::default(),
    };
    let eos = c.tokens("eos_token_id", vocab_size);
    if let Some((path, text)) = generation {
        generation::read(path, text, &mut config);
    }
    for token in eos {
        if !config.eos_token_ids.contains(&token) {
            config.eos_token_ids.push(token);
        }
    }
    c.check.relations(&config, ["num_attention_heads", "num_key_value_heads", "head_dim"])?;
    Ok(config)
}

/// The row of the table: by `model_type`, or by class where old files have only that. Classes must agree.
fn architecture(c: &Keys<'_>) -> Result<&'static Architecture, SourceError> {
    let classes: Vec<&str> = match c.get("architectures") {
        None => Vec::new(),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => return c.check.fail("architectures", "is not a list of strings"),
    };
    let row = match c.string("model_type")? {
        Some(model_type) => arch::by_model_type(model_type)
            .ok_or_else(|| c.check.unknown_architecture(model_type, |a| Some(a.model_type)))?,
        None => match classes.first() {
            Some(class) => arch::by_class(class)
                .ok_or_else(|| c.check.unknown_architecture(class, |a| a.classes.first().copied()))?,
            None => return c.check.fail("model_type", "is missing"),
        },
    };
    match classes.iter().find(|class| !row.classes.contains(class)) {
        Some(class) => c.check.fail(
            "architectures",
            format!("`{}` is not a {} language model: {} is expected", shorten(class), row.name, row.classes[0]),
        ),
        None => Ok(row),
    }
}
