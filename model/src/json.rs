//! How much JSON a text holds, before it is parsed.

/// About how many values stand in valid JSON, never too few: one for each that is followed by another, and one for each that
/// holds others. A parsed value takes many times its text: `0,` becomes 72 bytes.
#[must_use]
pub fn count_values(json: &str) -> usize {
    let (mut count, mut in_text, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, count) in [("1", 1), (r#"{"a": [1, 2, 3], "b": ",:[{\","}"#, 8), ("[[],[]]", 5), (r#""\\",1"#, 2)] {
            assert_eq!(count_values(json), count, "{json}");
        }
    }
}
