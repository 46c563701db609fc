//! How far back attention looks.

use super::super::arch::{Architecture, SlidingWindow};
use super::super::settings::shorten;
use super::SourceError;
use super::keys::Keys;
use crate::limits::MAX_CONTEXT;
use serde_json::Value;

const WINDOW: &str = "sliding_window";

/// The window that all layers share; `None` when they attend to everything.
pub(super) fn sliding_window(c: &Keys<'_>, arch: &Architecture, layers: u32) -> Result<Option<u32>, SourceError> {
    let number = || c.unsigned(WINDOW)?.map(|v| c.check.size(WINDOW, v, MAX_CONTEXT)).transpose();
    // Null is a choice, absence is the default.
    let or_default = |default| if c.map.contains_key(WINDOW) { number() } else { Ok(Some(default)) };
    let (window, by_rule) = match arch.sliding_window {
        SlidingWindow::Never => {
            if let Some(window) = c.get(WINDOW) {
                let window = shorten(&window.to_string());
                c.warn(format_args!("`{WINDOW}` {window} does nothing: {} models have no window", arch.name));
            }
            (None, 0)
        }
        SlidingWindow::UnlessNull(default) => {
            let window = or_default(default)?;
            (window, if window.is_some() { layers } else { 0 })
        }
        SlidingWindow::WhenUsed { window, max_window_layers } => {
            c.refuse_null("max_window_layers")?;
            let first = c.unsigned("max_window_layers")?.unwrap_or(u64::from(max_window_layers));
            let window = if c.boolean("use_sliding_window")? == Some(true) { or_default(window)? } else { None };
            (window, if window.is_some() { u64::from(layers).saturating_sub(first) as u32 } else { 0 })
        }
    };
    let listed = sliding_layers(c, layers)?;
    match (listed.unwrap_or(by_rule), window) {
        (0, _) => Ok(None),
        (n, Some(window)) if n == layers => Ok(Some(window)),
        (n, Some(_)) => {
            let key = if listed.is_some() { "layer_types" } else { "max_window_layers" };
            c.check.fail(key, format!("{n} of {layers} layers have a sliding window: mixed layers are not supported"))
        }
        (n, None) => c.check.fail(
            "layer_types",
            format!("{n} layers have a sliding window, but {} models of this setting have none", arch.name),
        ),
    }
}

/// How many layers `layer_types` gives a window. Transformers 5 writes it out; it overrules the rule of the architecture.
fn sliding_layers(c: &Keys<'_>, layers: u32) -> Result<Option<u32>, SourceError> {
    const KEY: &str = "layer_types";
    let Some(value) = c.get(KEY) else { return Ok(None) };
    let types = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let Some(types) = types else { return c.check.fail(KEY, "is not a list of strings") };
    if types.len() != layers as usize {
        return c.check.fail(KEY, format!("names {} layers, `num_hidden_layers` says {layers}", types.len()));
    }
    // `attention` is an old name of full attention.
    if let Some(other) = types.iter().find(|t| !["full_attention", "attention", "sliding_attention"].contains(t)) {
        return c.check.fail(KEY, format!("layers of type `{}` are not supported", shorten(other)));
    }
    Ok(Some(types.iter().filter(|t| **t == "sliding_attention").count() as u32))
}
