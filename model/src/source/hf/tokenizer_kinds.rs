//! The kinds of steps in a `tokenizer.json` that can be run. What is not known here is refused at import, by its name:
//! a text that was changed or cut in another way would be other tokens.

use super::super::settings::shorten;
use super::SourceError;
use serde_json::Value;
use std::path::Path;

/// One part of the file, the key under which it holds several, and the kinds that are known.
struct Part {
    name: &'static str,
    inner: &'static str,
    kinds: &'static [&'static str],
}

const PARTS: [Part; 4] = [
    Part {
        name: "normalizer",
        inner: "normalizers",
        kinds: &[
            "BertNormalizer",
            "ByteLevel",
            "Lowercase",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Nmt",
            "Precompiled",
            "Prepend",
            "Replace",
            "Sequence",
            "Strip",
            "StripAccents",
        ],
    },
    Part {
        name: "pre_tokenizer",
        inner: "pretokenizers",
        kinds: &[
            "BertPreTokenizer",
            "ByteLevel",
            "Delimiter",
            "CharDelimiterSplit",
            "Digits",
            "FixedLength",
            "Metaspace",
            "Punctuation",
            "Sequence",
            "Split",
            "UnicodeScripts",
            "Whitespace",
            "WhitespaceSplit",
        ],
    },
    Part {
        name: "post_processor",
        inner: "processors",
        kinds: &["BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"],
    },
    Part {
        name: "decoder",
        inner: "decoders",
        kinds: &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"],
    },
];

const MODELS: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

/// Refuses kinds that are not known. `parts` are the values of `normalizer`, `pre_tokenizer`, `post_processor` and `decoder`,
/// `model` is the model's type where the file says one.
pub(super) fn check(path: &Path, parts: [&Option<Value>; 4], model: Option<&str>) -> Result<(), SourceError> {
    for (part, value) in PARTS.iter().zip(parts) {
        if let Some(value) = value {
            check_part(path, part, value, 0)?;
        }
    }
    match model {
        Some(kind) if !MODELS.contains(&kind) => refuse(path, "model", kind, &MODELS),
        _ => Ok(()),
    }
}

fn check_part(path: &Path, part: &Part, value: &Value, depth: usize) -> Result<(), SourceError> {
    let Some(kind) = value.get("type").and_then(Value::as_str) else {
        // Files of the first versions name no type; the library knows them by their fields.
        return Ok(());
    };
    if !part.kinds.contains(&kind) || depth > 8 {
        return refuse(path, part.name, kind, part.kinds);
    }
    let inner = value.get(part.inner).and_then(Value::as_array).filter(|_| kind == "Sequence");
    inner.into_iter().flatten().try_for_each(|value| check_part(path, part, value, depth + 1))
}

fn refuse(path: &Path, part: &str, kind: &str, known: &[&str]) -> Result<(), SourceError> {
    let reason = format!(
        "a {part} of type `{}` is not supported (known: {}); texts would be other tokens",
        shorten(kind),
        known.join(", ")
    );
    Err(SourceError::tokenizer(path, reason))
}
