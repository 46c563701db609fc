//! Settings of `config.json` and its neighbours, read by type.

use super::super::arch::{KNOWN_HARMLESS, Neutral, REFUSED_UNLESS_NEUTRAL};
use super::super::settings::{Checker, shorten};
use super::SourceError;
use crate::TokenId;
use serde_json::{Map, Value};

/// Tokens of a list that end a text.
const MAX_END_TOKENS: usize = 1000;

/// A JSON object whose values are read by type; null is absence unless a method says otherwise.
pub(super) struct Keys<'a> {
    pub(super) check: Checker<'a>,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Refuses null where it is no value: transformers does, and what would be meant by it is not known.
    pub(super) fn refuse_null(&self, key: &str) -> Result<(), SourceError> {
        match self.map.get(key) {
            Some(Value::Null) => self.check.fail(key, "is null: write its value"),
            _ => Ok(()),
        }
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

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, SourceError> {
        self.typed(key, "a whole number ≥ 0", Value::as_u64)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, SourceError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, SourceError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, SourceError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A size `1..=max`. Where the key is absent, `default`, which the log names; null is refused.
    pub(super) fn size(&self, key: &str, max: u64, default: u32) -> Result<u32, SourceError> {
        self.refuse_null(key)?;
        match self.unsigned(key)? {
            Some(v) => self.check.size(key, v, max),
            None => {
                self.warn(format_args!("`{key}` is missing: {default} is taken, as transformers does"));
                Ok(default)
            }
        }
    }

    /// A token id or a list of them, repeated ones once. Ids decide when a text ends, not what is computed: wrong ones are
    /// left out with a warning.
    pub(super) fn tokens(&self, key: &str, vocab_size: u32) -> Vec<TokenId> {
        let list = match self.get(key) {
            None => return Vec::new(),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let (mut tokens, mut wrong) = (Vec::new(), 0);
        for value in list.iter().take(MAX_END_TOKENS) {
            match value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < vocab_size) {
                Some(id) if !tokens.contains(&TokenId(id)) => tokens.push(TokenId(id)),
                Some(_) => {}
                None if wrong < 8 => {
                    wrong += 1;
                    let value = shorten(&value.to_string());
                    self.warn(format_args!("`{key}`: {value} is no token of a vocabulary of {vocab_size}: left out"));
                }
                None => wrong += 1,
            }
        }
        if list.len() > MAX_END_TOKENS || wrong > 8 {
            let (count, wrong) = (list.len(), wrong.max(8) - 8);
            self.warn(format_args!(
                "`{key}`: {count} values, of which the first {MAX_END_TOKENS} count; {wrong} more of them are left out"
            ));
        }
        tokens
    }

    /// Says what was made of a setting that does not stop the import.
    pub(super) fn warn(&self, message: std::fmt::Arguments<'_>) {
        tracing::warn!("{}: {message}", self.check.path.display());
    }

    /// Refuses settings that no row of the architecture table expresses; names the rest in the log.
    pub(super) fn refuse_other_maths(&self) -> Result<(), SourceError> {
        for (key, neutral, meaning) in REFUSED_UNLESS_NEUTRAL {
            let Some(value) = self.map.get(*key) else { continue };
            let passes = match neutral {
                Neutral::True => value.as_bool() == Some(true),
                _ if value.is_null() => true,
                Neutral::Words(words) => value.as_str().is_some_and(|w| words.contains(&w)),
                Neutral::Null => false,
                Neutral::False => value.as_bool() == Some(false),
                Neutral::Number(n) => value.as_f64() == Some(*n),
                Neutral::Empty => {
                    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
                }
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
