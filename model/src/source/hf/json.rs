//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are numbers there.

use super::SourceError;
use crate::json::count_values;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// Values of a file. The index of the largest published models has 200 000.
const MAX_VALUES: usize = 1_000_000;
/// Python's words for floats that JSON does not have.
const SPECIAL: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses JSON whose outermost value is an object; of a key that occurs twice the last value counts, as in Python. Floats
/// that JSON does not have become strings of their names: no setting can have such a value, unknown ones may.
pub(super) fn json_object(path: &Path, text: &str) -> Result<Map<String, Value>, SourceError> {
    let malformed = |reason: String| SourceError::malformed(path, "JSON", reason);
    if text.starts_with("version https://git-lfs") {
        return Err(malformed("a Git LFS pointer, not the file itself: fetch it with git lfs pull".to_owned()));
    }
    let count = count_values(text);
    if count > MAX_VALUES {
        return Err(malformed(format!("{count} values, more than the {MAX_VALUES} allowed")));
    }
    let value = serde_json::from_str(text).or_else(|e| match quote_special_floats(text) {
        Cow::Owned(quoted) => serde_json::from_str(&quoted),
        Cow::Borrowed(_) => Err(e),
    });
    match value.map_err(|e| malformed(e.to_string()))? {
        Value::Object(map) => Ok(map),
        _ => Err(malformed("not an object".to_owned())),
    }
}

/// Puts quotes around special floats outside of strings.
fn quote_special_floats(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                if let Some(word) = SPECIAL.iter().find(|w| bytes[at..].starts_with(w.as_bytes())) {
                    out.push_str(&text[copied..at]);
                    out.push('"');
                    out.push_str(word);
                    out.push('"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn special_floats_are_strings_and_strings_stay() {
        let object = |text: &str| json_object(Path::new("x.json"), text).map(Value::Object).map_err(|e| e.to_string());
        let text = r#"{"a": NaN, "b": [0, -Infinity,Infinity], "c": "NaN \" Infinity", "d": -1, "é": "\\", "f": NaN}"#;
        let expected = json!({"a": "NaN", "b": [0, "-Infinity", "Infinity"], "c": "NaN \" Infinity", "d": -1, "é": "\\", "f": "NaN"});
        assert_eq!(object(text).unwrap(), expected);
        assert_eq!(object(r#"{"a": 1, "a": 2}"#).unwrap(), json!({"a": 2}));
        for bad in ["{\"a\": nan}", "{\"a\": Infinit}", "{\"a\": NaN,}", "NaN", "{\"a\": \"\\", "{\"a\": NaNNaN}"] {
            assert!(object(bad).unwrap_err().contains("x.json: malformed JSON"), "{bad}");
        }
    }
}
