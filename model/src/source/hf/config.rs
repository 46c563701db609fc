//! `config.json` and `generation_config.json`, in the spellings before and since transformers 5.

use super::super::arch::{
    self, Architecture, HeadDim, KNOWN_HARMLESS, Neutral, QkvBias, REFUSED_UNLESS_NEUTRAL, SlidingWindow,
};
use super::super::settings::{
    Checker, MAX_CONTEXT, MAX_FFN, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB, shorten,
};
use super::{SourceError, json_object};
use crate::{DecoderConfig, GenerationDefaults, RopeScaling, TokenId};
use serde_json::{Map, Value};
use std::path::Path;

/// Parses the text of `config.json`, and of `generation_config.json` where there is one.
pub(super) fn parse(path: &Path, text: &str, generation: Option<(&Path, &str)>) -> Result<DecoderConfig, SourceError> {
    let map = json_object(path, text)?;
    let c = Keys { check: Checker { path }, map: &map };
    let arch = architecture(&c)?;
    c.refuse_other_maths()?;
    super::quantized::from_config(path, &map)?;

    let size = |key: &str, max: u64| -> Result<u32, SourceError> {
        match c.unsigned(key)? {
            Some(v) => c.check.size(key, v, max),
            None => c.check.fail(key, "is missing"),
        }
    };
    let hidden_size = size("hidden_size", MAX_HIDDEN)?;
    let num_attention_heads = size("num_attention_heads", MAX_HEADS)?;
    let num_key_value_heads = match c.unsigned("num_key_value_heads")? {
        Some(v) => c.check.size("num_key_value_heads", v, MAX_HEADS)?,
        None => num_attention_heads,
    };
    let head_dim = match (c.unsigned("head_dim")?, arch.head_dim) {
        (Some(v), _) => c.check.size("head_dim", v, MAX_HEAD_DIM)?,
        (None, HeadDim::Fixed(v)) => v,
        (None, HeadDim::HiddenOverHeads) => {
            c.check.head_dim_from_hidden("num_attention_heads", hidden_size, num_attention_heads)?
        }
    };
    let max_position_embeddings = match c.unsigned("max_position_embeddings")? {
        Some(v) => c.check.size("max_position_embeddings", v, MAX_CONTEXT)?,
        None => arch.max_position_embeddings,
    };
    let rms_norm_eps = match c.number("rms_norm_eps")? {
        Some(v) => c.check.real("rms_norm_eps", v, 1e-30, 1.0)?,
        None => 1e-6,
    };
    let num_hidden_layers = size("num_hidden_layers", MAX_LAYERS)?;
    let vocab_size = size("vocab_size", MAX_VOCAB)?;
    let (rope_theta, rope_scaling) = rope(&c, arch)?;
    let mut config = DecoderConfig {
        architecture: arch.name.to_owned(),
        hidden_size,
        intermediate_size: size("intermediate_size", MAX_FFN)?,
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
        bos_token_id: c.tokens("bos_token_id", vocab_size)?.first().copied(),
        eos_token_ids: Vec::new(),
        generation: GenerationDefaults::default(),
    };
    c.check.relations(&config, ["num_attention_heads", "num_key_value_heads", "head_dim"])?;
    let eos = c.tokens("eos_token_id", vocab_size)?;
    if let Some((path, text)) = generation {
        generation_config(path, text, &mut config)?;
    }
    for token in eos {
        if !config.eos_token_ids.contains(&token) {
            config.eos_token_ids.push(token);
        }
    }
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

/// Base and change of the rotary frequencies, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
fn rope(c: &Keys<'_>, arch: &Architecture) -> Result<(f32, RopeScaling), SourceError> {
    let section = match (c.get("rope_parameters"), c.get("rope_scaling")) {
        (Some(Value::Object(map)), _) => Some(("rope_parameters", map)),
        (Some(_), _) => return c.check.fail("rope_parameters", "is not an object"),
        (None, Some(Value::Object(map))) => Some(("rope_scaling", map)),
        (None, Some(_)) => return c.check.fail("rope_scaling", "is not an object"),
        (None, None) => None,
    };
    let outer_theta = c.number("rope_theta")?;
    let theta = |inner: Option<f64>| {
        c.check.real("rope_theta", inner.or(outer_theta).unwrap_or(f64::from(arch.rope_theta)), 1.0, 1e15)
    };
    let Some((name, map)) = section else { return Ok((theta(None)?, RopeScaling::None)) };
    let s = Keys { check: c.check, map };
    if let Some((key, _)) = map.iter().find(|(_, v)| v.is_object()) {
        let reason = format!("`{}`: different rotary settings per kind of layer are not supported", shorten(key));
        return c.check.fail(name, reason);
    }
    let kind = match (s.string("rope_type")?, s.string("type")?) {
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) => "default",
    };
    let known: &[&str] = match kind {
        "default" => &[],
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        other => {
            let reason = format!(
                "rotary scaling of type `{}` is not supported (default, linear and llama3 are): use a model without it",
                shorten(other)
            );
            return c.check.fail(name, reason);
        }
    };
    for (key, value) in map {
        let neutral = value.is_null() || (key == "partial_rotary_factor" && value.as_f64() == Some(1.0));
        if !neutral && !["rope_type", "type", "rope_theta"].contains(&&**key) && !known.contains(&&**key) {
            // With type `default`, transformers itself ignores the numbers of other types.
            if kind == "default" && ["factor", "original_max_position_embeddings"].contains(&&**key) {
                continue;
            }
            let reason = format!("`{}` is not known for rotary scaling of type {kind}", shorten(key));
            return c.check.fail(name, reason);
        }
    }
    let number = |key: &str| match s.number(key)? {
        Some(v) => c.check.real(key, v, 1e-6, 1e6),
        None => c.check.fail(name, format!("`{key}` is missing")),
    };
    let scaling = match kind {
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => {
            let key = "original_max_position_embeddings";
            let original = match s.unsigned(key)?.or(c.unsigned(key)?) {
                Some(v) => c.check.size(key, v, MAX_CONTEXT)?,
                None => return c.check.fail(name, format!("`{key}` is missing")),
            };
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return c.check.fail(name, format!("`high_freq_factor` {high} is not above `low_freq_factor` {low}"));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }
        }
        _ => RopeScaling::None,
    };
    Ok((theta(s.number("rope_theta")?)?, scaling))
}

/// The window that all layers share; `None` when they attend to everything.
fn sliding_window(c: &Keys<'_>, arch: &Architecture, layers: u32) -> Result<Option<u32>, SourceError> {
    let key = "sliding_window";
    let number = c.unsigned(key)?.map(|v| c.check.size(key, v, MAX_CONTEXT)).transpose()?;
    // `layer_types` is written out by transformers 5 and agrees with the rule of the architecture, or overrules it.
    let types = match c.get("layer_types") {
        None => None,
        Some(Value::Array(list)) => Some(list.iter().map(Value::as_str).collect::<Option<Vec<_>>>()),
        Some(_) => Some(None),
    };
    let sliding_layers = match types {
        None => None,
        Some(None) => return c.check.fail("layer_types", "is not a list of strings"),
        Some(Some(types)) => {
            if types.len() != layers as usize {
                let reason = format!("names {} layers, `num_hidden_layers` says {layers}", types.len());
                return c.check.fail("layer_types", reason);
            }
            if let Some(other) = types.iter().find(|t| !["full_attention", "sliding_attention"].contains(t)) {
                return c.check.fail("layer_types", format!("layers of type `{}` are not supported", shorten(other)));
            }
            Some(types.iter().filter(|t| **t == "sliding_attention").count())
        }
    };
    let (window, by_rule) = match arch.sliding_window {
        SlidingWindow::Never => (None, 0),
        SlidingWindow::UnlessNull(default) => {
            let window = if c.map.contains_key(key) { number } else { Some(default) };
            (window, if window.is_some() { layers } else { 0 })
        }
        SlidingWindow::WhenUsed { window, max_window_layers } => {
            let used = c.boolean("use_sliding_window")?.unwrap_or(false);
            // Null is a choice, absence is the default.
            let window = if c.map.contains_key(key) { number } else { Some(window) };
            let first = c.unsigned("max_window_layers")?.unwrap_or(u64::from(max_window_layers));
            let sliding = u64::from(layers).saturating_sub(first) as u32;
            if used && window.is_some() { (window, sliding) } else { (None, 0) }
        }
    };
    let sliding = sliding_layers.unwrap_or(by_rule as usize);
    match (sliding, window) {
        (0, _) => Ok(None),
        (n, Some(window)) if n == layers as usize => Ok(Some(window)),
        (n, Some(_)) => {
            let key = if sliding_layers.is_some() { "layer_types" } else { "max_window_layers" };
            c.check.fail(key, format!("{n} of {layers} layers have a sliding window: mixed layers are not supported"))
        }
        (n, None) => c.check.fail(
            "layer_types",
            format!("{n} layers have a sliding window, but {} models of this setting have none", arch.name),
        ),
    }
}

/// Sampling advice and end tokens of `generation_config.json`.
fn generation_config(path: &Path, text: &str, config: &mut DecoderConfig) -> Result<(), SourceError> {
    let map = json_object(path, text)?;
    let g = Keys { check: Checker { path }, map: &map };
    let real = |key: &str, low: f64, high: f64| g.number(key)?.map(|v| g.check.real(key, v, low, high)).transpose();
    config.generation = GenerationDefaults {
        do_sample: g.boolean("do_sample")?,
        temperature: real("temperature", 0.0, 1e6)?,
        top_k: match g.unsigned("top_k")? {
            Some(v) if v > MAX_VOCAB => return g.check.fail("top_k", format!("{v} is larger than any vocabulary")),
            v => v.map(|v| v as u32),
        },
        top_p: real("top_p", 0.0, 1.0)?,
        min_p: real("min_p", 0.0, 1.0)?,
        repetition_penalty: real("repetition_penalty", 1e-3, 1e3)?,
    };
    config.eos_token_ids = g.tokens("eos_token_id", config.vocab_size)?;
    if config.bos_token_id.is_none() {
        config.bos_token_id = g.tokens("bos_token_id", config.vocab_size)?.first().copied();
    }
    Ok(())
}

/// A JSON object whose values are read by type; null is absence.
struct Keys<'a> {
    check: Checker<'a>,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, SourceError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(v) => Ok(Some(v)),
                None => self.check.fail(key, format!("{} is not {what}", shorten(&value.to_string()))),
            },
        }
    }

    fn unsigned(&self, key: &str) -> Result<Option<u64>, SourceError> {
        self.typed(key, "a whole number ≥ 0", Value::as_u64)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, SourceError> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, SourceError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>, SourceError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A token id or a list of them; repeated ones once.
    fn tokens(&self, key: &str, vocab_size: u32) -> Result<Vec<TokenId>, SourceError> {
        let list = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut tokens = Vec::new();
        for value in list {
            let Some(id) = value.as_u64() else {
                return self.check.fail(key, format!("{} is no token id", shorten(&value.to_string())));
            };
            let token = self.check.token(key, id, vocab_size)?;
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(tokens)
    }

    /// Refuses settings that no row of the architecture table expresses; names the rest in the log.
    fn refuse_other_maths(&self) -> Result<(), SourceError> {
        for (key, neutral, meaning) in REFUSED_UNLESS_NEUTRAL {
            let Some(value) = self.get(key) else { continue };
            let passes = match neutral {
                Neutral::Null => false,
                Neutral::False => value.as_bool() == Some(false),
                Neutral::Number(n) => value.as_f64() == Some(*n),
                Neutral::Words(words) => value.as_str().is_some_and(|w| words.contains(&w)),
            };
            if !passes {
                return self.check.fail(key, format!("{}: {meaning}", shorten(&value.to_string())));
            }
        }
        for key in self.map.keys() {
            if !KNOWN_HARMLESS.contains(&&**key) && !REFUSED_UNLESS_NEUTRAL.iter().any(|(k, ..)| k == key) {
                tracing::trace!(key = %shorten(key), "setting ignored");
            }
        }
        Ok(())
    }
}
