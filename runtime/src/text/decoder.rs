//! From tokens to text, one token at a time.
//!
//! The library's decoders take all tokens at once. For the kinds that language models use the same result can be
//! computed piece by piece, with nothing kept but an incomplete character: this module does that, and whole texts go
//! the same way, so that a streamed text is the decoded text by construction.
//!
//! One difference from the library: where a run of byte tokens (`<0xE2>`) is no valid UTF-8, the library replaces the
//! whole run, a byte at a time; here the valid characters of the run stay and only the others are replaced, because
//! the valid ones have been shown already.
//!
//! Used by [`Tokenizer`](super::Tokenizer) and [`TextStream`](super::TextStream).

use super::TextError;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};

/// How a tokenizer's tokens become text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoder {
    /// What is done to each token's text first.
    steps: Vec<Step>,
    bytes: Bytes,
    /// Character and how many of it are taken from the beginning of the whole text.
    strip: Option<(char, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Replace { pattern: String, content: String },
    Metaspace { replacement: char, strip_first: bool },
}

/// How a token's text stands for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    /// One character per byte (GPT-2's alphabet).
    Level,
    /// `<0x41>` is a byte, anything else itself.
    Fallback,
    /// The text itself.
    Plain,
    /// The text itself, tokens separated by spaces.
    Spaced,
}

/// The decoders of `tokenizer.json`, as far as they are known here.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Stage {
    ByteLevel,
    ByteFallback,
    Fuse,
    Strip { content: char, start: usize, stop: usize },
    Replace { pattern: Pattern, content: String },
    Metaspace { replacement: char, prepend_scheme: String },
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
}

impl Decoder {
    /// The decoder that `tokenizer.json` describes; `null` means tokens are words.
    pub(super) fn new(json: &Value) -> Result<Self, TextError> {
        if json.is_null() {
            return Ok(Self { steps: Vec::new(), bytes: Bytes::Spaced, strip: None });
        }
        let unsupported = |what: &Value| TextError::UnsupportedDecoder { kind: describe(what) };
        let stages = flatten(json, 0).ok_or_else(|| unsupported(json))?;
        let mut result = Self { steps: Vec::new(), bytes: Bytes::Plain, strip: None };
        let (mut has_bytes, mut fused) = (false, false);
        for value in stages {
            let stage = Stage::deserialize(value).map_err(|_| unsupported(value))?;
            match stage {
                // After the fusion, the text is one token.
                Stage::Fuse => fused = true,
                Stage::Strip { content, start, stop: 0 } if fused && result.strip.is_none() => {
                    result.strip = Some((content, start));
                }
                Stage::Replace { pattern: Pattern::String(pattern), content }
                    if !pattern.is_empty() && !fused && !has_bytes =>
                {
                    result.steps.push(Step::Replace { pattern, content });
                }
                Stage::Metaspace { replacement, prepend_scheme } if !fused && !has_bytes => {
                    result.steps.push(Step::Metaspace { replacement, strip_first: prepend_scheme != "never" });
                }
                Stage::ByteFallback if !fused && !has_bytes => {
                    result.bytes = Bytes::Fallback;
                    has_bytes = true;
                }
                // Its result is one token.
                Stage::ByteLevel if !fused && !has_bytes => {
                    result.bytes = Bytes::Level;
                    has_bytes = true;
                    fused = true;
                }
                _ => return Err(unsupported(json)),
            }
        }
        Ok(result)
    }

    /// At the beginning of a text.
    pub(super) fn start(&self) -> DecoderState {
        DecoderState { first: true, strip_left: self.strip.map_or(0, |(_, count)| count), incomplete: Vec::new() }
    }

    /// Appends to `out` what is certain after `token`.
    pub(super) fn push(&self, state: &mut DecoderState, token: &str, out: &mut String) {
        let begin = out.len();
        let mut text = std::borrow::Cow::Borrowed(token);
        for step in &self.steps {
            match step {
                Step::Replace { pattern, content } => {
                    if text.contains(pattern.as_str()) {
                        text = text.replace(pattern.as_str(), content).into();
                    }
                }
                Step::Metaspace { replacement, strip_first } => {
                    let space = if state.first && *strip_first { "" } else { " " };
                    if text.contains(*replacement) {
                        text = text.replace(*replacement, space).into();
                    }
                }
            }
        }
        match self.bytes {
            Bytes::Level => {
                let mapped = text.chars().map(|c| BYTE_OF_CHAR.get(&c).copied()).collect::<Option<Vec<u8>>>();
                state.incomplete.extend_from_slice(mapped.as_deref().unwrap_or(text.as_bytes()));
                state.drain(false, Replacement::PerSequence, out);
            }
            Bytes::Fallback => match byte_token(&text) {
                Some(byte) => {
                    state.incomplete.push(byte);
                    state.drain(false, Replacement::PerByte, out);
                }
                None => {
                    state.drain(true, Replacement::PerByte, out);
                    out.push_str(&text);
                }
            },
            Bytes::Plain => out.push_str(&text),
            Bytes::Spaced => {
                if !state.first {
                    out.push(' ');
                }
                out.push_str(&text);
            }
        }
        state.first = false;
        self.strip(state, begin, out);
    }

    /// As [`Self::push`] for a token beside the vocabulary: where characters stand for bytes, its characters do not.
    pub(super) fn push_added(&self, state: &mut DecoderState, token: &str, out: &mut String) {
        if self.bytes != Bytes::Level {
            return self.push(state, token, out);
        }
        let begin = out.len();
        state.drain(true, Replacement::PerSequence, out);
        out.push_str(token);
        state.first = false;
        self.strip(state, begin, out);
    }

    /// Appends what was held back: characters that were never completed.
    pub(super) fn finish(&self, state: &mut DecoderState, out: &mut String) {
        let begin = out.len();
        let how = if self.bytes == Bytes::Level { Replacement::PerSequence } else { Replacement::PerByte };
        state.drain(true, how, out);
        self.strip(state, begin, out);
    }

    fn strip(&self, state: &mut DecoderState, begin: usize, out: &mut String) {
        let Some((content, _)) = self.strip else { return };
        while state.strip_left > 0 && out.len() > begin {
            if out[begin..].starts_with(content) {
                out.replace_range(begin..begin + content.len_utf8(), "");
                state.strip_left -= 1;
            } else {
                state.strip_left = 0;
            }
        }
    }
}

/// What must be known of a text so far to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DecoderState {
    /// No token yet.
    first: bool,
    /// How many characters may still be stripped from the beginning.
    strip_left: usize,
    /// The beginning of a character, at most three bytes between calls.
    incomplete: Vec<u8>,
}

/// How invalid UTF-8 is shown.
#[derive(Clone, Copy)]
enum Replacement {
    /// One U+FFFD for the longest beginning of a character, as `String::from_utf8_lossy`.
    PerSequence,
    /// One U+FFFD per byte.
    PerByte,
}

impl DecoderState {
    /// Moves what is decided to `out`; with `all` also the beginning of a character at the end.
    fn drain(&mut self, all: bool, how: Replacement, out: &mut String) {
        let mut rest = self.incomplete.as_slice();
        loop {
            let (valid, invalid_bytes) = match std::str::from_utf8(rest) {
                Ok(text) => (text.len(), 0),
                Err(error) => match error.error_len() {
                    Some(length) => (error.valid_up_to(), length),
                    None if all => (error.valid_up_to(), rest.len() - error.valid_up_to()),
                    None => (error.valid_up_to(), 0),
                },
            };
            // Valid as just found out, so that nothing is replaced here.
            out.push_str(&String::from_utf8_lossy(&rest[..valid]));
            let count = match how {
                Replacement::PerSequence => usize::from(invalid_bytes > 0),
                Replacement::PerByte => invalid_bytes,
            };
            out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
            rest = &rest[valid + invalid_bytes..];
            if invalid_bytes == 0 {
                break;
            }
        }
        let decided = self.incomplete.len() - rest.len();
        self.incomplete.drain(..decided);
    }
}

/// The stages of nested sequences, in order; `None` if nested absurdly.
fn flatten(json: &Value, depth: usize) -> Option<Vec<&Value>> {
    if json.get("type").and_then(Value::as_str) != Some("Sequence") {
        return Some(vec![json]);
    }
    if depth > 8 {
        return None;
    }
    let mut stages = Vec::new();
    for inner in json.get("decoders")?.as_array()? {
        stages.extend(flatten(inner, depth + 1)?);
    }
    Some(stages)
}

/// A decoder's type, with those inside it.
fn describe(json: &Value) -> String {
    let kind = json.get("type").and_then(Value::as_str).unwrap_or("unknown");
    match json.get("decoders").and_then(Value::as_array) {
        Some(inner) if kind == "Sequence" => {
            let kinds: Vec<_> =
                inner.iter().map(|i| i.get("type").and_then(Value::as_str).unwrap_or("unknown")).collect();
            format!("Sequence [{}]", kinds.join(", "))
        }
        _ => kind.to_owned(),
    }
}

/// The byte of a token like `<0x41>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up.
static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let itself = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    let char_of = |byte| if itself(byte) { Some(char::from(byte)) } else { others.next() };
    let chars: Vec<Option<char>> = (0..=255u8).map(char_of).collect();
    (0..=255u8).zip(chars).filter_map(|(byte, c)| Some((c?, byte))).collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pieces(decoder: &Value, tokens: &[&str]) -> Vec<String> {
        let decoder = Decoder::new(decoder).unwrap();
        let mut state = decoder.start();
        let mut result = Vec::new();
        for token in tokens {
            let mut piece = String::new();
            decoder.push(&mut state, token, &mut piece);
            assert!(state.incomplete.len() <= 3, "holds back {} bytes", state.incomplete.len());
            result.push(piece);
        }
        let mut piece = String::new();
        decoder.finish(&mut state, &mut piece);
        result.push(piece);
        result
    }

    fn llama() -> Value {
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
    }

    #[test]
    fn byte_level_holds_back_incomplete_characters_only() {
        let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        // é is C3 A9: Ã and ©. A lone continuation byte is decided at once, a lone beginning when the next byte comes.
        assert_eq!(pieces(&level, &["ĠH", "Ã", "©", "©", "Ã", "i"]), [" H", "", "é", "�", "", "�i", ""]);
        assert_eq!(pieces(&level, &["â", "Ĥ"]), ["", "", "�"]);
        // A token that is not in the alphabet is itself.
        assert_eq!(pieces(&level, &["a b", "é"]), ["a b", "", "�"]);
    }

    #[test]
    fn byte_fallback_replaces_bytes_and_keeps_characters() {
        assert_eq!(pieces(&llama(), &["▁▁a", "▁b"]), [" a", " b", ""]);
        assert_eq!(pieces(&llama(), &["<0xE2>", "<0x82>", "<0xAC>", "<0xE2>", "x"]), ["", "", "€", "", "�x", ""]);
        assert_eq!(pieces(&llama(), &["<0xE5>", "<0x8F>"]), ["", "", "��"]);
        assert_eq!(pieces(&llama(), &["<0x20>", "<0x20>", "▁"]), ["", " ", " ", ""]);
        assert_eq!(pieces(&llama(), &["<0x4>", "<0x041>", "<0xZZ>"]).concat(), "<0x4><0x041><0xZZ>");
    }

    #[test]
    fn metaspace_and_words() {
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        assert_eq!(pieces(&metaspace, &["▁a", "▁b", "c"]), ["a", " b", "c", ""]);
        let never = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
        assert_eq!(pieces(&never, &["▁a", "▁b"]), [" a", " b", ""]);
        assert_eq!(pieces(&Value::Null, &["a", "b"]), ["a", " b", ""]);
    }

    #[test]
    fn unknown_decoders_are_refused_by_name() {
        for (decoder, name) in [
            (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "WordPiece"),
            (
                json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
                "Fuse, ByteFallback",
            ),
            (json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": " "}), "Replace"),
            (json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}), "Strip"),
            (json!(17), "unknown"),
        ] {
            let message = Decoder::new(&decoder).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn the_alphabet_has_every_byte_once() {
        assert_eq!(BYTE_OF_CHAR.len(), 256);
        assert_eq!((BYTE_OF_CHAR[&'Ġ'], BYTE_OF_CHAR[&'Ċ'], BYTE_OF_CHAR[&'!']), (b' ', b'\n', b'!'));
    }
}
