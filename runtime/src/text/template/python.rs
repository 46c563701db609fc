//! Values as Python writes them: `str`, `repr` and `json.dumps`, with a limit on the length.

use super::calls::{
    Args, Items, ItemsKind, Result, dig, error, fail, integer, is_dict, is_namespace, iterate, type_name,
};
use super::limits::{Budget, MAX_COUNT};
use super::methods;
use super::operators::{Number, as_number, subscript};
use minijinja::{
    Error, ErrorKind, Value,
    formatting::{FormatStyle, format},
    value::ValueKind,
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

    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        if (self.text.len() + text.len()) as u64 > self.limit_bytes {
            return Err(Error::new(ErrorKind::InvalidOperation, "its values are too large as text"));
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// `str(value)`; undefined is empty.
pub(super) fn write_str(out: &mut Text, value: &Value) -> Result<()> {
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Ok(()),
        (_, Some(text)) => out.push(text),
        _ => write_repr(out, value, 0),
    }
}

fn deeper(depth: usize) -> Result<usize> {
    if depth >= MAX_VALUE_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "its values are nested too deeply"));
    }
    Ok(depth + 1)
}

fn write_repr(out: &mut Text, value: &Value, depth: usize) -> Result<()> {
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::None => out.push("None"),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let kind = value.downcast_object_ref::<Items>().map(|items| items.kind);
            let (open, close) = match kind {
                None if value.is_tuple() => ("(", ")"),
                None => ("[", "]"),
                Some(ItemsKind::Generator) => return out.push("<generator object>"),
                Some(ItemsKind::Range) => return write_range(out, &iterate(value)?),
                Some(kind) => {
                    out.push(kind.type_name())?;
                    ("([", "])")
                }
            };
            out.push(open)?;
            let items = iterate(value)?;
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                write_repr(out, item, deeper(depth)?)?;
            }
            out.push(if value.is_tuple() && items.len() == 1 { "," } else { "" })?;
            out.push(close)
        }
        ValueKind::Map if is_dict(value) || is_namespace(value) => {
            out.push(if is_namespace(value) { "<Namespace {" } else { "{" })?;
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                write_repr(out, &key, deeper(depth)?)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, deeper(depth)?)?;
            }
            out.push(if is_namespace(value) { "}>" } else { "}" })
        }
        // Macros, functions and the like: nothing that contains other values.
        _ => out.push(&format!("<{}>", value.kind())),
    }
}

fn write_range(out: &mut Text, items: &[Value]) -> Result<()> {
    let at = |i: usize| items.get(i).and_then(Value::as_i64).unwrap_or(0);
    let step = if items.len() > 1 { at(1) - at(0) } else { 1 };
    let end = items.last().map_or(0, |last| last.as_i64().unwrap_or(0) + step);
    out.push(&if step == 1 { format!("range({}, {end})", at(0)) } else { format!("range({}, {end}, {step})", at(0)) })
}

/// Whether `repr` writes the character itself.
pub(super) fn is_printable(c: char) -> bool {
    let other = matches!(c,
        '\u{7f}'..='\u{a0}' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{1680}' | '\u{180e}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3000}' | '\u{feff}'
        | '\u{fff0}'..='\u{fffb}' | '\u{fdd0}'..='\u{fdef}' | '\u{e000}'..='\u{f8ff}' | '\u{fffe}' | '\u{ffff}'
        | '\u{e0000}'..='\u{e007f}' | '\u{f0000}'..);
    c >= ' ' && !other
}

fn write_quoted(out: &mut Text, text: &str) -> Result<()> {
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
            c if is_printable(c) => continue,
            c => match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            },
        };
        out.push(&text[plain..at])?;
        out.push(&escaped)?;
        plain = at + c.len_utf8();
    }
    out.push(&text[plain..])?;
    out.push(quote)
}

/// A text with HTML's characters escaped.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;").replace('\'', "&#39;").replace('"', "&#34;")
}

fn repr(budget: &Budget, value: &Value) -> Result<String> {
    let mut text = Text::new(budget.left_bytes());
    write_repr(&mut text, value, 0)?;
    Ok(text.text)
}

fn display(budget: &Budget, value: &Value) -> Result<String> {
    let mut text = Text::new(budget.left_bytes());
    write_str(&mut text, value)?;
    Ok(text.text)
}

/// Charges a field's text, and refuses widths that make it long by themselves.
fn field(budget: &Budget, style: FormatStyle, spec: &str, value: Value) -> Result<String> {
    let numbers = spec.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if numbers.into_iter().any(|digits| digits.parse().is_ok_and(|n: usize| n > MAX_COUNT) || digits.len() > 9) {
        return fail(format!("format with a number above {MAX_COUNT}"));
    }
    let text = match value.as_str() {
        // The engine counts bytes.
        Some(text) => text_field(style, spec, text)?,
        None => format(style, spec, &[value])?,
    };
    budget.charge(text.len() as u64)?;
    Ok(text)
}

/// A text as wide as `spec` asks, in characters: `%-5.3s` or `{:*^5.3}`.
fn text_field(style: FormatStyle, spec: &str, text: &str) -> Result<String> {
    let mut rest = match style {
        FormatStyle::Printf => spec.strip_prefix('%'),
        _ => spec.strip_prefix("{:").and_then(|spec| spec.strip_suffix('}')),
    }
    .unwrap_or(spec);
    let (mut fill, mut how) = (' ', "ljust");
    let side = |sign: Option<char>| match sign? {
        '<' => Some("ljust"),
        '>' => Some("rjust"),
        '^' => Some("middle"),
        _ => None,
    };
    if let FormatStyle::Printf = style {
        let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
        how = if rest[..flags].contains('-') { "ljust" } else { "rjust" };
        rest = &rest[flags..];
    } else {
        let mut signs = rest.chars();
        let (first, second) = (signs.next(), signs.next());
        if let (Some(own), Some(found)) = (first, side(second)) {
            (fill, how) = (own, found);
            rest = signs.as_str();
        } else if let Some(found) = side(first) {
            how = found;
            rest = &rest[1..];
        }
        if fill == ' ' && rest.starts_with('0') {
            fill = '0';
        }
    }
    let (width, precision) = rest
        .trim_end_matches('s')
        .split_once('.')
        .map_or_else(|| (rest.trim_end_matches('s'), None), |(width, precision)| (width, Some(precision)));
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => {
            digits.parse::<usize>().map_err(|_| error(format!("unknown format code for object of type 'str': {rest}")))
        }
    };
    let text = match precision {
        Some(precision) => text.chars().take(number(precision)?).collect(),
        None => text.to_owned(),
    };
    Ok(methods::pad(&text, number(width)?, fill, how))
}

/// `format % values`.
pub(super) fn percent(budget: &Budget, text: &str, values: &Value) -> Result<String> {
    let positional = if values.is_tuple() { iterate(values)? } else { vec![values.clone()] };
    let mut next = positional.iter();
    let mut out = Text::new(budget.left_bytes());
    let mut named = false;
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        let mut spec = &rest[at + 1..];
        let mut chosen = None;
        if let Some(inside) = spec.strip_prefix('(') {
            let end = inside.find(')').ok_or_else(|| error("incomplete format key"))?;
            let value = subscript(values, &Value::from(&inside[..end]))?;
            if !is_dict(values) || value.is_undefined() {
                return fail(format!("format requires a mapping with '{}'", &inside[..end]));
            }
            (chosen, named) = (Some(value), true);
            spec = &inside[end + 1..];
        }
        let length =
            spec.find(|c: char| !"#0- +.*123456789hlL".contains(c)).ok_or_else(|| error("incomplete format"))?;
        let conversion = spec[length..].chars().next().unwrap_or('%');
        rest = &spec[length + conversion.len_utf8()..];
        if conversion == '%' {
            out.push("%")?;
            continue;
        }
        let mut take = || next.next().cloned().ok_or_else(|| error("not enough arguments for format string"));
        let mut flags = spec[..length].replace(['h', 'l', 'L'], "");
        while flags.contains('*') {
            flags = flags.replacen('*', &integer(&take()?)?.to_string(), 1);
        }
        let value = match chosen {
            Some(value) => value,
            None => take()?,
        };
        let (conversion, value) = match conversion {
            's' => ('s', Value::from(display(budget, &value)?)),
            'r' | 'a' => ('s', Value::from(repr(budget, &value)?)),
            'd' | 'i' | 'u' => match as_number(&value) {
                Some(Number::Float(x)) => ('d', Number::Integer(x.trunc() as i128).value()),
                Some(n) => ('d', n.value()),
                None => return fail(format!("%d format: a real number is required, not {}", type_name(&value))),
            },
            'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match as_number(&value) {
                Some(n) => (conversion, n.value()),
                None => return fail(format!("must be real number, not {}", type_name(&value))),
            },
            'c' => ('c', value),
            other => return fail(format!("unsupported format character '{other}'")),
        };
        out.push(&field(budget, FormatStyle::Printf, &format!("%{flags}{conversion}"), value)?)?;
    }
    out.push(rest)?;
    if !named && next.next().is_some() && (values.is_tuple() || !is_dict(values)) {
        return fail("not all arguments converted during string formatting");
    }
    Ok(out.text)
}

/// `text.format(…)`.
pub(super) fn braces(budget: &Budget, text: &str, args: &Args) -> Result<String> {
    let mut out = Text::new(budget.left_bytes());
    let mut next = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let (brace, after) = rest[at..].split_at(1);
        if after.starts_with(brace) {
            out.push(brace)?;
            rest = &after[1..];
            continue;
        }
        let end = after
            .find('}')
            .filter(|_| brace == "{")
            .ok_or_else(|| error("Single '}' or '{' encountered in format string"))?;
        let (inside, spec) = after[..end].split_once(':').unwrap_or((&after[..end], ""));
        rest = &after[end + 1..];
        if spec.contains('{') {
            return fail("format: fields inside of fields are not supported");
        }
        let (path, conversion) = inside.split_once('!').unwrap_or((inside, ""));
        let name_end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, path) = path.split_at(name_end);
        let found = match name.parse::<usize>() {
            Ok(index) => args.positional().get(index),
            Err(_) if name.is_empty() => {
                next += 1;
                args.positional().get(next - 1)
            }
            Err(_) => args.named().iter().find(|(n, _)| n == name).map(|(_, value)| value),
        };
        let mut value = found.cloned().ok_or_else(|| error(format!("format: there is no argument '{name}'")))?;
        for part in path.split(['.', '[']).skip(1) {
            value = dig(&value, &Value::from(part.trim_end_matches(']')))?;
        }
        let value = match (conversion, value.kind()) {
            ("r" | "a", _) => Value::from(repr(budget, &value)?),
            ("s", _) => Value::from(display(budget, &value)?),
            _ if spec.is_empty() => Value::from(display(budget, &value)?),
            (_, ValueKind::String | ValueKind::Number) => value,
            (_, ValueKind::Bool) => Value::from(i64::from(value.is_true())),
            _ => return fail(format!("unsupported format string passed to {}.__format__", type_name(&value))),
        };
        match spec {
            "" => out.push(&display(budget, &value)?)?,
            spec => out.push(&field(budget, FormatStyle::StrFormat, &format!("{{:{spec}}}"), value)?)?,
        }
    }
    out.push(rest)?;
    budget.charge(out.text.len() as u64)?;
    Ok(out.text)
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
    pub(super) fn new(args: &Args) -> Result<Self> {
        const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
        if let Some((name, _)) = args.named().iter().find(|(name, _)| !NAMES.contains(&name.as_str())) {
            return fail(format!("tojson() got an unexpected keyword argument '{name}'"));
        }
        let indent = match args.some(1, "indent") {
            Some(indent) => match indent.as_str() {
                Some(text) => Some(text.to_owned()),
                None => Some(" ".repeat(usize::try_from(integer(indent)?).unwrap_or(0).min(64))),
            },
            None => None,
        };
        let (item_separator, key_separator) = match args.some(2, "separators") {
            Some(separators) => match &iterate(separators)?[..] {
                [item, key] => match (item.as_str(), key.as_str()) {
                    (Some(item), Some(key)) => (item.to_owned(), key.to_owned()),
                    _ => return fail("tojson: separators must be texts"),
                },
                _ => return fail("tojson takes two separators"),
            },
            None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
        };
        let (ensure_ascii, sort_keys) = (args.flag(0, "ensure_ascii", false), args.flag(3, "sort_keys", false));
        Ok(Self { ensure_ascii, sort_keys, indent, item_separator, key_separator })
    }
}

/// `json.dumps(value)`.
pub(super) fn write_json(out: &mut Text, style: &JsonStyle, value: &Value, depth: usize) -> Result<()> {
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value, ["NaN", "Infinity", "-Infinity"])),
        ValueKind::String => write_json_text(out, style, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable if value.downcast_object_ref::<Items>().is_none() => {
            let mut count = 0;
            out.push("[")?;
            for item in value.try_iter()? {
                separate(out, style, count, depth)?;
                write_json(out, style, &item, deeper(depth)?)?;
                count += 1;
            }
            close(out, style, count, depth, "]")
        }
        ValueKind::Map if is_dict(value) => {
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
        _ => fail(format!("tojson: Object of type {} is not JSON serializable", type_name(value))),
    }
}

fn separate(out: &mut Text, style: &JsonStyle, index: usize, depth: usize) -> Result<()> {
    if index > 0 {
        out.push(&style.item_separator)?;
    }
    new_line(out, style, depth + 1)
}

fn close(out: &mut Text, style: &JsonStyle, count: usize, depth: usize, bracket: &str) -> Result<()> {
    if count > 0 {
        new_line(out, style, depth)?;
    }
    out.push(bracket)
}

fn new_line(out: &mut Text, style: &JsonStyle, depth: usize) -> Result<()> {
    let Some(indent) = &style.indent else { return Ok(()) };
    out.push("\n")?;
    (0..depth).try_for_each(|_| out.push(indent))
}

fn write_json_text(out: &mut Text, style: &JsonStyle, text: &str) -> Result<()> {
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
            c if c < ' ' || style.ensure_ascii && c > '\u{7f}' => {
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
