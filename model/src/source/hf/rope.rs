//! Base and change of the rotary frequencies: `rope_theta` and `rope_scaling` before transformers 5, `rope_parameters` since.

use super::super::arch::Architecture;
use super::super::settings::shorten;
use super::SourceError;
use super::keys::Keys;
use crate::RopeScaling;
use crate::limits::MAX_CONTEXT;
use serde_json::{Map, Value};

const ORIGINAL: &str = "original_max_position_embeddings";

/// Base and change of the frequencies, of a model whose context is `max_position_embeddings`.
pub(super) fn rope(
    c: &Keys<'_>,
    arch: &Architecture,
    max_position_embeddings: u32,
) -> Result<(f32, RopeScaling), SourceError> {
    let outer_theta = c.number("rope_theta")?;
    let theta = |inner: Option<f64>| {
        c.check.real("rope_theta", inner.or(outer_theta).unwrap_or(f64::from(arch.rope_theta)), 1.0, 1e15)
    };
    let Some((name, map)) = section(c)? else { return Ok((theta(None)?, RopeScaling::None)) };
    let s = Keys { check: c.check, map };
    if let Some((key, _)) = map.iter().find(|(_, v)| v.is_object()) {
        let reason = format!("`{}`: different rotary settings per kind of layer are not supported", shorten(key));
        return c.check.fail(name, reason);
    }
    if map.get("rope_type").is_some_and(Value::is_null) {
        return c.check.fail(name, "`rope_type` is null: write its value");
    }
    let kind = s.string("rope_type")?.or(s.string("type")?).unwrap_or("default");
    let known: &[&str] = match kind {
        "default" => &[],
        "linear" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL],
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
            if kind == "default" && ["factor", ORIGINAL].contains(&&**key) {
                c.warn(format_args!("`{name}`: `{key}` does nothing: the type is default"));
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
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                return c.check.fail(name, format!("`high_freq_factor` {high} is not above `low_freq_factor` {low}"));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original_context(c, &s, name, max_position_embeddings)?,
            }
        }
        _ => RopeScaling::None,
    };
    Ok((theta(s.number("rope_theta")?)?, scaling))
}

/// A key and the object that it holds.
type Section<'a> = (&'static str, &'a Map<String, Value>);

/// The object that counts, and its key. `rope_scaling` comes first, as in transformers 5; earlier versions know no other.
/// What is empty or false there counts as absent.
fn section<'a>(c: &Keys<'a>) -> Result<Option<Section<'a>>, SourceError> {
    let object = |key: &'static str| match c.get(key) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok((!map.is_empty()).then_some((key, map))),
        Some(Value::Bool(false)) => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(_) => c.check.fail(key, "is not an object"),
    };
    let (old, new) = (object("rope_scaling")?, object("rope_parameters")?);
    if let (Some((_, old)), Some((_, new))) = (old, new)
        && old != new
    {
        c.warn(format_args!("`rope_parameters` is ignored beside `rope_scaling`, as transformers does"));
    }
    Ok(old.or(new))
}

/// Context of the first training phase: the outer setting, then that of the section, then the model's context.
fn original_context(c: &Keys<'_>, s: &Keys<'_>, name: &str, max_position_embeddings: u32) -> Result<u32, SourceError> {
    c.refuse_null(ORIGINAL)?;
    match (c.unsigned(ORIGINAL)?, s.unsigned(ORIGINAL)?) {
        (Some(outer), Some(inner)) if outer != inner => {
            c.warn(format_args!("`{ORIGINAL}` {outer} counts, not {inner} in `{name}`, as in transformers"));
            c.check.size(ORIGINAL, outer, MAX_CONTEXT)
        }
        (Some(v), _) | (None, Some(v)) => c.check.size(ORIGINAL, v, MAX_CONTEXT),
        (None, None) => {
            c.warn(format_args!(
                "`{name}` has no `{ORIGINAL}`: `max_position_embeddings` is taken, as in transformers"
            ));
            Ok(max_position_embeddings)
        }
    }
}
