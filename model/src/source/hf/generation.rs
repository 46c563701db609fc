//! `generation_config.json`: end tokens and advice for sampling.
//!
//! Nothing in it changes what a model computes, so nothing in it stops an import: what cannot be used is left out with a
//! warning.

use super::super::settings::{Checker, shorten};
use super::json::json_object;
use super::keys::Keys;
use crate::limits::MAX_VOCAB;
use crate::{DecoderConfig, GenerationDefaults};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::Path;

/// Completes `config` with what the text of the file says.
pub(super) fn read(path: &Path, text: &str, config: &mut DecoderConfig) {
    let map = match json_object(path, text) {
        Ok(map) => map,
        Err(e) => {
            tracing::warn!("{e}: the file is left out; sampling has no defaults of the model's");
            return;
        }
    };
    let g = Keys { check: Checker { path }, map: &map };
    config.generation = GenerationDefaults {
        do_sample: usable(&g, "do_sample", "true or false", Value::as_bool),
        temperature: real(&g, "temperature", 0.0..=1e6),
        top_k: top_k(&g),
        top_p: real(&g, "top_p", 0.0..=1.0),
        min_p: real(&g, "min_p", 0.0..=1.0),
        repetition_penalty: real(&g, "repetition_penalty", 1e-3..=1e3),
    };
    if config.generation.temperature == Some(0.0) && config.generation.do_sample == Some(true) {
        g.warn(format_args!("`temperature`: 0 is taken for always the likeliest token, though `do_sample` is true"));
    }
    config.eos_token_ids = g.tokens("eos_token_id", config.vocab_size);
    if config.bos_token_id.is_none() {
        config.bos_token_id = g.tokens("bos_token_id", config.vocab_size).first().copied();
    }
}

/// A setting, where it is of use.
fn usable<T>(g: &Keys<'_>, key: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    let value = g.get(key)?;
    let read = read(value);
    if read.is_none() {
        g.warn(format_args!("`{key}`: {} is not {what}: left out", shorten(&value.to_string())));
    }
    read
}

fn real(g: &Keys<'_>, key: &str, range: RangeInclusive<f64>) -> Option<f32> {
    let what = format!("a number from {} to {}", range.start(), range.end());
    usable(g, key, &what, |v| v.as_f64().filter(|v| range.contains(v)).map(|v| v as f32))
}

/// Some programs write −1 for a filter that is off.
fn top_k(g: &Keys<'_>) -> Option<u32> {
    if g.get("top_k").and_then(Value::as_i64) == Some(-1) {
        g.warn(format_args!("`top_k`: −1 is taken for 0, no filter"));
        return Some(0);
    }
    usable(g, "top_k", "a whole number ≥ 0", |v| v.as_u64().filter(|v| *v <= MAX_VOCAB).map(|v| v as u32))
}
