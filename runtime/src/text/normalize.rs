//! Normalising a text step by step, with a bound on what each step makes of it.
//!
//! The library runs whatever steps a file lists: twelve that each write sixteen characters for one make a text 10¹⁴ times as
//! long. [`Normalizer`] stands in the place of the library's, measures before a step what it is going to write, and
//! replaces by the same engines as [`Cutter`](super::cut::Cutter) cuts with, which end.

use super::cut::Expression;
use super::json;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::{cell::RefCell, sync::Arc};
use tokenizers::{NormalizedString, NormalizerWrapper, Offsets, Result, pattern::Pattern};

/// Steps of a normaliser. Those of published models have four at the most.
const MAX_STEPS: usize = 32;
/// How many times its length a text may become: a ligature is eleven times its decomposition, a space mark three times a space.
const MAX_GROWTH: usize = 16;
/// Bytes that even an empty text may become.
const ROOM_BYTES: usize = 64;
/// Longest text that a table of SentencePiece may write for a character; its longest is 33 bytes.
const MAX_TABLE_ENTRY_BYTES: usize = 64;

/// A normaliser of `tokenizer.json`.
#[derive(Clone, Debug)]
pub(super) struct Normalizer {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Library(NormalizerWrapper),
    /// Writes this before a text that is not empty.
    Prepend(String),
    Replace {
        pattern: Found,
        content: String,
    },
}

/// What is replaced.
#[derive(Clone, Debug)]
enum Found {
    Text(String),
    Expression(Arc<Expression>),
}

#[derive(Deserialize)]
struct Replace {
    pattern: ReplacePattern,
    content: String,
}

#[derive(Deserialize)]
enum ReplacePattern {
    String(String),
    Regex(String),
}

impl Normalizer {
    pub(super) fn new(json: &Value) -> std::result::Result<Self, String> {
        let mut steps = Vec::new();
        add(json, 0, &mut steps)?;
        Ok(Self { steps })
    }
}

fn add(json: &Value, depth: usize, steps: &mut Vec<Step>) -> std::result::Result<(), String> {
    if depth > 8 {
        return Err("normalizers nested too deeply".to_owned());
    }
    if steps.len() >= MAX_STEPS {
        return Err(format!("normalizer has more than {MAX_STEPS} steps"));
    }
    let wrong = |e: serde_json::Error| format!("normalizer: {}", json::short(e));
    steps.push(match json.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let inner = json.get("normalizers").and_then(Value::as_array);
            let inner = inner.ok_or_else(|| "a Sequence without normalizers".to_owned())?;
            return inner.iter().try_for_each(|step| add(step, depth + 1, steps));
        }
        Some("Replace") => {
            let Replace { pattern, content } = Replace::deserialize(json).map_err(wrong)?;
            let pattern = match pattern {
                ReplacePattern::String(text) if text.is_empty() => return Err("normalizer replaces nothing".to_owned()),
                ReplacePattern::String(text) => Found::Text(text),
                ReplacePattern::Regex(regex) => Found::Expression(Arc::new(Expression::new(&regex)?)),
            };
            Step::Replace { pattern, content }
        }
        Some("Prepend") => {
            let prepend = json.get("prepend").and_then(Value::as_str);
            Step::Prepend(prepend.ok_or_else(|| "a Prepend without prepend".to_owned())?.to_owned())
        }
        None => return Err("a normalizer without a type".to_owned()),
        kind => {
            if kind == Some("Precompiled") {
                table(json)?;
            }
            Step::Library(NormalizerWrapper::deserialize(json).map_err(wrong)?)
        }
    });
    Ok(())
}

/// Refuses a table of SentencePiece that writes long texts: length of its trie (u32), trie, texts with NUL between them, in
/// base 64.
fn table(json: &Value) -> std::result::Result<(), String> {
    let Some(text) = json.get("precompiled_charsmap").and_then(Value::as_str) else { return Ok(()) };
    let Some(bytes) = base64(text) else { return Err("precompiled_charsmap is no base 64".to_owned()) };
    let trie_bytes = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let texts = bytes.get(4..).and_then(|rest| rest.get(trie_bytes..)).ok_or("precompiled_charsmap is cut short")?;
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > MAX_TABLE_ENTRY_BYTES {
        return Err(format!(
            "precompiled_charsmap writes {longest} bytes for a character, more than the {MAX_TABLE_ENTRY_BYTES} allowed"
        ));
    }
    Ok(())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

impl<'de> Deserialize<'de> for Normalizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::new(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

thread_local! {
    /// Why a text could not be normalised: the library forgets it, and goes on with what the text was until then.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does `work`, in which the library normalises texts, and fails where a normaliser did.
pub(super) fn heeded<T>(work: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    REFUSED.take();
    let result = work();
    match REFUSED.take() {
        Some(why) => Err(why),
        None => result,
    }
}

impl tokenizers::Normalizer for Normalizer {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        self.steps(text).inspect_err(|why| REFUSED.set(Some(why.to_string())))
    }
}

impl Normalizer {
    fn steps(&self, text: &mut NormalizedString) -> Result<()> {
        let most_bytes = text.get_original().len().saturating_mul(MAX_GROWTH).saturating_add(ROOM_BYTES);
        let fits = |bytes: usize| match bytes > most_bytes {
            true => Err(format!("the tokenizer's normalizer makes a text more than {MAX_GROWTH} times as long")),
            false => Ok(()),
        };
        for step in &self.steps {
            let now = text.get().len();
            match step {
                Step::Library(step) => tokenizers::Normalizer::normalize(step, text)?,
                Step::Prepend(prepend) => {
                    fits(now.saturating_add(prepend.len()))?;
                    if now > 0 {
                        text.prepend(prepend);
                    }
                }
                Step::Replace { pattern, content } => {
                    let found = Matches(match pattern {
                        Found::Text(pattern) => pattern.as_str().find_matches(text.get())?,
                        Found::Expression(expression) => (&**expression).find_matches(text.get())?,
                    });
                    let replaced = found.0.iter().filter(|(_, is_match)| *is_match);
                    let (count, bytes) =
                        replaced.fold((0usize, 0), |(n, all), ((start, end), _)| (n + 1, all + end - start));
                    fits(count.saturating_mul(content.len()).saturating_add(now - bytes.min(now)))?;
                    if count > 0 {
                        text.replace(found, content)?;
                    }
                }
            }
            fits(text.get().len())?;
        }
        Ok(())
    }
}

/// Matches that were looked for already.
struct Matches(Vec<(Offsets, bool)>);

impl Pattern for Matches {
    fn find_matches(&self, _: &str) -> Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokenizers::Normalizer as _;

    fn normalized(json: &Value, text: &str) -> std::result::Result<String, String> {
        let mut result = NormalizedString::from(text);
        Normalizer::new(json)?.normalize(&mut result).map_err(|e| e.to_string())?;
        Ok(result.get().to_owned())
    }

    fn by_library(json: &Value, text: &str) -> String {
        let mut result = NormalizedString::from(text);
        NormalizerWrapper::deserialize(json).unwrap().normalize(&mut result).unwrap();
        result.get().to_owned()
    }

    #[test]
    fn normalises_as_the_library_does() {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let (space, mark) = (json!({"String": " "}), "\u{2581}");
        let steps = [
            json!({"type": "Prepend", "prepend": mark}),
            replace(space.clone(), mark),
            replace(json!({"Regex": " {2,}"}), mark),
            replace(json!({"Regex": "a|c+"}), "bc"),
            replace(json!({"String": "."}), ""),
            json!({"type": "NFKC"}),
            json!({"type": "Lowercase"}),
            json!({"type": "Strip", "strip_left": true, "strip_right": false}),
        ];
        let all = json!({"type": "Sequence", "normalizers": steps});
        let spm = json!({"type": "Sequence", "normalizers": [steps[0], steps[1]]});
        for text in ["", " ", "a b", "  A.b  c\u{fdfa}", "éÄ ﬁ 漢 \u{1F98A}.", "\n\t a"] {
            for json in steps.iter().chain([&all, &spm]) {
                assert_eq!(normalized(json, text).as_deref(), Ok(&*by_library(json, text)), "{json} {text:?}");
            }
        }
    }

    #[test]
    fn what_grows_without_bound_is_refused() {
        let grow = |n: usize, step: Value| json!({"type": "Sequence", "normalizers": vec![step; n]});
        let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(16)});
        let regex = json!({"type": "Replace", "pattern": {"Regex": "a|x"}, "content": "a".repeat(16)});
        let prepend = json!({"type": "Prepend", "prepend": "a".repeat(1 << 20)});
        for json in [grow(12, replace), grow(12, regex), grow(30, prepend), grow(12, json!({"type": "ByteLevel"}))] {
            let error = normalized(&json, &"aé".repeat(1000)).unwrap_err();
            assert!(error.contains("times as long"), "{error}");
        }
        assert!(normalized(&grow(33, json!({"type": "NFC"})), "a").unwrap_err().contains("steps"));
        let mut deep = json!({"type": "NFC"});
        for _ in 0..20 {
            deep = json!({"type": "Sequence", "normalizers": [deep]});
        }
        assert!(normalized(&deep, "a").unwrap_err().contains("deeply"));
    }

    #[test]
    fn tables_with_long_texts_are_refused() {
        // A trie of no bytes, then 70 letters.
        let bytes = [vec![0; 4], vec![b'a'; 70]].concat();
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let text: String = bytes
            .chunks(3)
            .flat_map(|c| {
                let word = c.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - c.len()));
                (0..=c.len()).map(move |i| DIGITS[(word >> (18 - 6 * i)) as usize & 63] as char)
            })
            .collect();
        assert_eq!(base64(&text), Some(bytes));
        assert_eq!(base64("QUI="), Some(b"AB".to_vec()));
        let error = normalized(&json!({"type": "Precompiled", "precompiled_charsmap": text}), "a").unwrap_err();
        assert!(error.contains("70 bytes"), "{error}");
    }
}
