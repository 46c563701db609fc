//! Typed access to GGUF metadata, and the configuration of a model out of it.

use super::super::arch::{self, Architecture, QkvBias, SlidingWindow};
use super::super::settings::{Checker, shorten};
use super::SourceError;
use super::parse::{Array, Gguf, Value};
use crate::limits::{MAX_CONTEXT, MAX_FFN, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB};
use crate::{DecoderConfig, GenerationDefaults, RopeScaling};

/// Metadata of one file.
pub(super) struct Meta<'a> {
    pub(super) check: Checker<'a>,
    pub(super) gguf: &'a Gguf<'a>,
}

impl<'a> Meta<'a> {
    fn typed<T>(&self, key: &str, what: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>, SourceError> {
        match self.gguf.metadata.get(key) {
            None => Ok(None),
            Some(value) => match read(*value) {
                Some(v) => Ok(Some(v)),
                None => self.check.fail(key, format!("is not {what}")),
            },
        }
    }

    /// A whole number, of whatever integer type; or a list of one number per layer, where all layers agree.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, SourceError> {
        if let Some(Value::Array(list)) = self.gguf.metadata.get(key) {
            let numbers: Option<Vec<u64>> = list.iter().map(whole).collect();
            return match numbers.as_deref() {
                Some([first, rest @ ..]) if rest.iter().all(|n| n == first) => Ok(Some(*first)),
                Some([_, _, ..]) => self.check.fail(key, "differs between layers: such models are not supported"),
                _ => self.check.fail(key, "is no list of whole numbers ≥ 0"),
            };
        }
        self.typed(key, "a whole number ≥ 0", whole)
    }

    /// A float, or an integer that stands for one.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, SourceError> {
        self.typed(key, "a number", number)
    }

    /// A boolean, or 0 or 1.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, SourceError> {
        self.typed(key, "true or false", |v| match v {
            Value::Bool(v) => Some(v),
            Value::Unsigned(v @ (0 | 1)) => Some(v == 1),
            Value::Signed(v @ (0 | 1)) => Some(v == 1),
            _ => None,
        })
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, SourceError> {
        self.typed(key, "a string", |v| if let Value::Str(v) = v { std::str::from_utf8(v).ok() } else { None })
    }

    pub(super) fn array(&self, key: &str) -> Result<Option<Array<'a>>, SourceError> {
        self.typed(key, "a list", |v| if let Value::Array(v) = v { Some(v) } else { None })
    }
}

fn whole(v: Value<'_>) -> Option<u64> {
    match v {
        Value::Unsigned(v) => Some(v),
        Value::Signed(v) => u64::try_from(v).ok(),
        _ => None,
    }
}

/// A number of any type.
pub(super) fn number(v: Value<'_>) -> Option<f64> {
    match v {
        Value::Float(v) => Some(v),
        Value::Unsigned(v) => Some(v as f64),
        Value::Signed(v) => Some(v as f64),
        _ => None,
    }
}

/// Keys behind `ARCHITECTURE.` that are read, or known not to change what is computed.
const KNOWN: &[&str] = &[
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "tensor_data_layout",
    "use_parallel_residual",
    "vocab_size",
];
/// Numbers behind `ARCHITECTURE.` that change what is computed, unless they are one of these.
const SCALES: &[(&str, &[f64])] = &[
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("attention.scale", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("rope.scaling.yarn_ext_factor", &[0.0]),
];
/// Counts behind `ARCHITECTURE.` that must be 0.
const COUNTS: &[&str] = &["expert_count", "expert_used_count", "leading_dense_block_count", "nextn_predict_layers"];

/// The configuration of the model, but for its special tokens. `factors` are the divisors of `rope_freqs.weight`.
pub(super) fn config(
    meta: &Meta<'_>,
    factors: Option<Vec<f32>>,
) -> Result<(DecoderConfig, &'static Architecture), SourceError> {
    let check = meta.check;
    if let Some(kind) = meta.string("general.type")?.filter(|k| *k != "model") {
        return check
            .fail("general.type", format!("`{}` is not a whole model: open the model's own file", shorten(kind)));
    }
    if meta.unsigned("split.count")?.is_some_and(|n| n > 1) {
        return check
            .fail("split.count", "the model is split into several files: join them with llama-gguf-split --merge");
    }
    let Some(name) = meta.string("general.architecture")? else {
        return check.fail("general.architecture", "is missing");
    };
    let arch = arch::by_gguf(name).ok_or_else(|| check.unknown_architecture(name, |a| a.gguf))?;
    let key = |k: &str| format!("{name}.{k}");
    refuse_other_maths(meta, name)?;

    let size = |k: &str, max: u64| -> Result<u32, SourceError> {
        match meta.unsigned(&key(k))? {
            Some(v) => check.size(&key(k), v, max),
            None => check.fail(&key(k), "is missing"),
        }
    };
    let hidden_size = size("embedding_length", MAX_HIDDEN)?;
    let num_attention_heads = size("attention.head_count", MAX_HEADS)?;
    let num_key_value_heads = match meta.unsigned(&key("attention.head_count_kv"))? {
        Some(v) => check.size(&key("attention.head_count_kv"), v, MAX_HEADS)?,
        None => num_attention_heads,
    };
    let head_dim = match meta.unsigned(&key("attention.key_length"))? {
        Some(v) => check.size(&key("attention.key_length"), v, MAX_HEAD_DIM)?,
        None => check.head_dim_from_hidden(&key("attention.head_count"), hidden_size, num_attention_heads)?,
    };
    for k in ["attention.value_length", "rope.dimension_count"] {
        if let Some(v) = meta.unsigned(&key(k))?.filter(|v| *v != u64::from(head_dim)) {
            return check.fail(&key(k), format!("{v} differs from the head size {head_dim}: that is not supported"));
        }
    }
    let has = |tensor: &str| meta.gguf.tensors.iter().any(|t| t.name == tensor);
    let rows = meta.gguf.tensors.iter().find(|t| t.name == "token_embd.weight").map(|t| t.shape[0] as u64);
    // The embedding counts; the key is left over where tokens were added, and llama.cpp does not look at it.
    let vocab_size = match (rows, meta.unsigned(&key("vocab_size"))?) {
        (Some(rows), said) => {
            if let Some(said) = said.filter(|v| *v != rows) {
                let path = check.path.display();
                tracing::warn!(
                    "{path}: `{}` is {said}, but the embedding has {rows} rows, which count",
                    key("vocab_size")
                );
            }
            check.size("token_embd.weight", rows, MAX_VOCAB)?
        }
        (None, Some(said)) => check.size(&key("vocab_size"), said, MAX_VOCAB)?,
        (None, None) => return check.fail(&key("vocab_size"), "is missing, and so is token_embd.weight"),
    };
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let rms_norm_eps = match meta.float(&eps_key)? {
        Some(v) => check.real(&eps_key, v, 1e-30, 1.0)?,
        None => return check.fail(&eps_key, "is missing"),
    };
    let max_position_embeddings = size("context_length", MAX_CONTEXT)?;
    let theta_key = key("rope.freq_base");
    let rope_theta =
        check.real(&theta_key, meta.float(&theta_key)?.unwrap_or(f64::from(arch.rope_theta)), 1.0, 1e15)?;
    let config = DecoderConfig {
        architecture: arch.name.to_owned(),
        hidden_size,
        intermediate_size: size("feed_forward_length", MAX_FFN)?,
        num_hidden_layers: size("block_count", MAX_LAYERS)?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps,
        rope_theta,
        rope_scaling: rope_scaling(meta, name, head_dim, factors)?,
        qkv_bias: match arch.qkv_bias {
            QkvBias::Never => false,
            QkvBias::Always => true,
            QkvBias::WhenSet(_) => has("blk.0.attn_q.bias"),
        },
        qk_norm: arch.qk_norm,
        tie_word_embeddings: !has("output.weight"),
        sliding_window: sliding_window(meta, name, arch, max_position_embeddings)?,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        generation: GenerationDefaults::default(),
    };
    check.relations(
        &config,
        [&key("attention.head_count"), &key("attention.head_count_kv"), &key("attention.key_length")],
    )?;
    Ok((config, arch))
}

/// Settings that no row of the architecture table expresses; the log names those that are not known.
fn refuse_other_maths(meta: &Meta<'_>, name: &str) -> Result<(), SourceError> {
    for k in COUNTS {
        let key = format!("{name}.{k}");
        if meta.unsigned(&key)?.is_some_and(|v| v != 0) {
            return meta.check.fail(&key, "mixtures of experts and extra prediction layers are not supported");
        }
    }
    for (k, neutral) in SCALES {
        let key = format!("{name}.{k}");
        if let Some(v) = meta.float(&key)?.filter(|v| !neutral.contains(v)) {
            return meta.check.fail(&key, format!("{v}: scaled, clamped or capped values are not supported"));
        }
    }
    for (k, neutral, what) in [
        ("use_parallel_residual", false, "parallel residuals are not supported"),
        ("attention.causal", true, "attention to later tokens is not supported"),
    ] {
        let key = format!("{name}.{k}");
        if meta.boolean(&key)?.is_some_and(|v| v != neutral) {
            return meta.check.fail(&key, what);
        }
    }
    for key in meta.gguf.metadata.keys() {
        let Some(k) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else { continue };
        if !KNOWN.contains(&k) && !COUNTS.contains(&k) && !SCALES.iter().any(|(scale, _)| *scale == k) {
            tracing::warn!("{}: `{}` is not known and ignored", meta.check.path.display(), shorten(key));
        }
    }
    Ok(())
}

fn rope_scaling(
    meta: &Meta<'_>,
    name: &str,
    head_dim: u32,
    factors: Option<Vec<f32>>,
) -> Result<RopeScaling, SourceError> {
    let check = meta.check;
    let type_key = format!("{name}.rope.scaling.type");
    let old_key = format!("{name}.rope.scale_linear");
    let factor_key = format!("{name}.rope.scaling.factor");
    // The old key counts only where the new one is absent, as in llama.cpp.
    let factor = match meta.float(&factor_key)? {
        None => meta.float(&old_key)?,
        factor => factor,
    };
    let linear = match meta.string(&type_key)? {
        Some("none") => None,
        None => factor,
        Some("linear") => {
            if factor.is_none() {
                tracing::warn!(
                    "{}: `{factor_key}` is missing: nothing is scaled, as in llama.cpp",
                    check.path.display()
                );
            }
            factor
        }
        Some(other) => {
            let reason = format!("`{}` is not supported (none and linear are): use a model without it", shorten(other));
            return check.fail(&type_key, reason);
        }
    };
    // Old converters wrote a factor of 0 or 1 for none.
    let linear = linear.filter(|f| *f != 0.0 && *f != 1.0);
    match (linear, factors) {
        (Some(_), Some(_)) => {
            check.fail(&factor_key, "linear scaling together with `rope_freqs.weight` is not supported")
        }
        (Some(factor), None) => Ok(RopeScaling::Linear { factor: check.real(&factor_key, factor, 1e-6, 1e6)? }),
        (None, None) => Ok(RopeScaling::None),
        (None, Some(factors)) => {
            if factors.len() != head_dim as usize / 2 {
                let reason = format!("{} factors for heads of {head_dim}", factors.len());
                return check.fail("rope_freqs.weight", reason);
            }
            if let Some(bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                return check.fail("rope_freqs.weight", format!("{bad} is no divisor of a frequency"));
            }
            Ok(if factors.iter().all(|f| *f == 1.0) { RopeScaling::None } else { RopeScaling::Factors { factors } })
        }
    }
}

/// GGUF says a window for all layers, where it says one; one that is no shorter than the context is none.
fn sliding_window(meta: &Meta<'_>, name: &str, arch: &Architecture, context: u32) -> Result<Option<u32>, SourceError> {
    let key = format!("{name}.attention.sliding_window");
    let Some(window) = meta.unsigned(&key)?.filter(|w| *w != 0 && *w < u64::from(context)) else { return Ok(None) };
    // Which layers of a Qwen have it is not said.
    if matches!(arch.sliding_window, SlidingWindow::WhenUsed { .. }) {
        return meta
            .check
            .fail(&key, "import this model from its Hugging Face directory, which says which layers have it");
    }
    Ok(Some(meta.check.size(&key, window, MAX_CONTEXT)?))
}
