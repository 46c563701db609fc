//! Numbers out of files, bounded: every size of a model passes through here before anything is allocated or multiplied.

use super::SourceError;
use super::arch::Architecture;
use crate::limits::MAX_Q_SIZE;
use crate::{DecoderConfig, packed};
use std::path::Path;

/// A file whose settings are checked: messages name it.
#[derive(Clone, Copy)]
pub(crate) struct Checker<'a> {
    pub(crate) path: &'a Path,
}

impl Checker<'_> {
    pub(crate) fn fail<T>(&self, key: &str, reason: impl Into<String>) -> Result<T, SourceError> {
        Err(SourceError::setting(self.path, key, reason))
    }

    /// A whole number `1..=max`.
    pub(crate) fn size(&self, key: &str, value: u64, max: u64) -> Result<u32, SourceError> {
        match u32::try_from(value) {
            Ok(v) if value >= 1 && value <= max => Ok(v),
            _ => self.fail(key, format!("{value} is outside 1..={max}: the file is damaged or not a model's")),
        }
    }

    /// A finite number in `low..=high`.
    pub(crate) fn real(&self, key: &str, value: f64, low: f64, high: f64) -> Result<f32, SourceError> {
        let v = value as f32;
        if value >= low && value <= high && v.is_finite() && (v > 0.0 || low <= 0.0) {
            Ok(v)
        } else {
            self.fail(key, format!("{value} is outside {low}..={high}: the file is damaged or not a model's"))
        }
    }

    /// Relations between sizes that hold for every architecture. `keys` are the file's names of (heads, kv heads, head_dim).
    pub(crate) fn relations(&self, c: &DecoderConfig, keys: [&str; 3]) -> Result<(), SourceError> {
        let (heads, kv_heads, head_dim) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        if !heads.is_multiple_of(kv_heads) {
            return self.fail(keys[1], format!("{kv_heads} key/value heads do not divide {heads} query heads"));
        }
        if !head_dim.is_multiple_of(2) {
            return self.fail(keys[2], format!("{head_dim} is odd: rotary embedding needs pairs"));
        }
        if u64::from(heads) * u64::from(head_dim) > MAX_Q_SIZE {
            return self.fail(keys[0], format!("{heads} heads of {head_dim} are absurdly wide"));
        }
        // Whatever else a packed file would refuse at the end of an import.
        match packed::check_config("", c) {
            Err(packed::PackedError::Config { field, reason, .. }) => self.fail(field, reason),
            Err(other) => Err(other.into()),
            Ok(()) => Ok(()),
        }
    }

    /// `hidden_size / heads`, when it is whole.
    pub(crate) fn head_dim_from_hidden(&self, key: &str, hidden: u32, heads: u32) -> Result<u32, SourceError> {
        if !hidden.is_multiple_of(heads) {
            return self.fail(key, format!("{heads} heads do not divide the hidden size {hidden}"));
        }
        Ok(hidden / heads)
    }

    pub(crate) fn unknown_architecture(
        &self,
        name: &str,
        known: impl Fn(&Architecture) -> Option<&'static str>,
    ) -> SourceError {
        let (path, name) = (self.path.to_owned(), shorten(name));
        SourceError::UnknownArchitecture { path, name, known: super::arch::known(known) }
    }
}

/// A string from a file, made fit for a one-line message.
pub(crate) fn shorten(s: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut out: String = s.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if s.chars().nth(MAX_CHARS).is_some() {
        out.push('…');
    }
    out
}
