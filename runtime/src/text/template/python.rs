//! Values as Python writes them: `str`, `repr` and `json.dumps`, with a limit on the length.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind, from_args},
};

/// Deeper values are refused: a namespace can contain itself.
pub(super) const MAX_VALUE_DEPTH: usize = 64;

/// Text that grows up to a limit.
pub(super) struct Text {
    pub(super) text: String,
    limit_bytes: u64,
}

impl Text {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { text: String::new(), limit_bytes }
    }

    fn push(&mut self, text: &str) -> Result<(), Error> {
        if (self.text.len() + text.len()) as u64 > self.limit_bytes {
            return Err(Error::new(ErrorKind::InvalidOperation, "its values are too large as text"));
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// `str(value)`; undefined is empty.
pub(super) fn write_str(out: &mut Text, value: &Value) -> Result<(), Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Ok(()),
        (_, Some(text)) => out.push(text),
        _ => write_repr(out, value, 0),
    }
}

fn deeper(depth: usize) -> Result<usize, Error> {
    if depth >= MAX_VALUE_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "its values are nested too deeply"));
    }
    Ok(depth + 1)
}

fn write_repr(out: &mut Text, value: &Value, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::None => out.push("None"),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { "(" } else { "[" })?;
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push(", ")?;
                }
                write_repr(out, &item, deeper(depth)?)?;
                count += 1;
            }
            out.push(match (tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                _ => "]",
            })
        }
        ValueKind::Map => {
            out.push("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                write_repr(out, &key, deeper(depth)?)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, deeper(depth)?)?;
            }
            out.push("}")
        }
        // Macros, functions and the like: nothing that contains other values.
        _ => out.push(&format!("<{}>", value.kind())),
    }
}

fn write_quoted(out: &mut Text, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { "\"" } else { "'" };
    out.push(quote)?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let escaped = match c {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\'' if quote == "'" => "\\'".to_owned(),
            c if c.is_control() && u32::from(c) < 256 => format!("\\x{:02x}", u32::from(c)),
            _ => continue,
        };
        out.push(&text[plain..at])?;
        out.push(&escaped)?;
        plain = at + c.len_utf8();
    }
    out.push(&text[plain..])?;
    out.push(quote)
}

/// Methods of `str` that the engine's own set lacks; `None` for all others.
pub(super) fn text_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let Some(text) = value.as_str() else { return Ok(None) };
    let parts = |found: Option<(&str, &str)>, at_end: bool| {
        let separator: (&str,) = from_args(args)?;
        let parts = match found {
            Some((head, tail)) => [head, separator.0, tail],
            None if at_end => ["", "", text],
            None => [text, "", ""],
        };
        Ok(Some(Value::from(parts.map(Value::from).to_vec())))
    };
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Some(text.strip_prefix(prefix).unwrap_or(text).into()))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Some(text.strip_suffix(suffix).unwrap_or(text).into()))
        }
        "partition" => parts(args.first().and_then(Value::as_str).and_then(|s| text.split_once(s)), false),
        "rpartition" => parts(args.first().and_then(Value::as_str).and_then(|s| text.rsplit_once(s)), true),
        "rsplit" => {
            let (separator, count): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit with an empty separator"));
            }
            let pieces = match count.and_then(|count| usize::try_from(count).ok()) {
                Some(count) => text.rsplitn(count.saturating_add(1), separator).map(Value::from).collect::<Vec<_>>(),
                None => text.rsplit(separator).map(Value::from).collect(),
            };
            Ok(Some(pieces.into_iter().rev().collect::<Vec<_>>().into()))
        }
        _ => Ok(None),
    }
}

/// An integer, or a float's shortest representation as Python prints it.
fn number(value: &Value, [nan, infinity, minus_infinity]: [&str; 3]) -> String {
    let float = match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float,
        _ => return value.to_string(),
    };
    if float.is_nan() {
        return nan.to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { infinity } else { minus_infinity }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// How `json.dumps` lays out a value.
pub(super) struct JsonStyle {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

impl JsonStyle {
    /// From the arguments of transformers' `tojson`: `ensure_ascii, indent, separators, sort_keys`.
    pub(super) fn new(ensure_ascii: Option<bool>, arguments: &Kwargs) -> Result<Self, Error> {
        let flag = |name| arguments.get::<Option<bool>>(name).map(|flag| flag.unwrap_or(false));
        let ensure_ascii = match ensure_ascii {
            Some(flag) => flag,
            None => flag("ensure_ascii")?,
        };
        let sort_keys = flag("sort_keys")?;
        let indent = match arguments.get::<Option<Value>>("indent")? {
            Some(indent) if !indent.is_none() => match indent.as_str() {
                Some(text) => Some(text.to_owned()),
                None => Some(" ".repeat(usize::try_from(indent)?.min(64))),
            },
            _ => None,
        };
        let separators = arguments.get::<Option<Vec<String>>>("separators")?;
        arguments.assert_all_used()?;
        let (item_separator, key_separator) = match separators.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
            None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
        };
        Ok(Self { ensure_ascii, sort_keys, indent, item_separator, key_separator })
    }
}

/// `json.dumps(value)`.
pub(super) fn write_json(out: &mut Text, style: &JsonStyle, value: &Value, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value, ["NaN", "Infinity", "-Infinity"])),
        ValueKind::String => write_json_text(out, style, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut count = 0;
            out.push("[")?;
            for item in value.try_iter()? {
                separate(out, style, count, depth)?;
                write_json(out, style, &item, deeper(depth)?)?;
                count += 1;
            }
            close(out, style, count, depth, "]")
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push("{")?;
            for (i, key) in keys.iter().enumerate() {
                separate(out, style, i, depth)?;
                let name = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                    ValueKind::None => "null".to_owned(),
                    ValueKind::Bool => key.is_true().to_string(),
                    ValueKind::Number => number(key, ["NaN", "Infinity", "-Infinity"]),
                    kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} as a key"))),
                };
                write_json_text(out, style, &name)?;
                out.push(&style.key_separator)?;
                write_json(out, style, &value.get_item(key)?, deeper(depth)?)?;
            }
            close(out, style, keys.len(), depth, "}")
        }
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: a value of type {kind} is no JSON"))),
    }
}

fn separate(out: &mut Text, style: &JsonStyle, index: usize, depth: usize) -> Result<(), Error> {
    if index > 0 {
        out.push(&style.item_separator)?;
    }
    new_line(out, style, depth + 1)
}

fn close(out: &mut Text, style: &JsonStyle, count: usize, depth: usize, bracket: &str) -> Result<(), Error> {
    if count > 0 {
        new_line(out, style, depth)?;
    }
    out.push(bracket)
}

fn new_line(out: &mut Text, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.push("\n")?;
    (0..depth).try_for_each(|_| out.push(indent))
}

fn write_json_text(out: &mut Text, style: &JsonStyle, text: &str) -> Result<(), Error> {
    out.push("\"")?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let escaped = match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            c if c < ' ' || style.ensure_ascii && c > '~' => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            _ => continue,
        };
        out.push(&text[plain..at])?;
        out.push(&escaped)?;
        plain = at + c.len_utf8();
    }
    out.push(&text[plain..])?;
    out.push("\"")
}
