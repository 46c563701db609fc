//! Methods of Python's `str`, `dict`, `list` and `tuple`, as far as the sandbox of transformers lets templates call them:
//! nothing that changes its value.

use super::calls::{
    Args, Call, Items, ItemsKind, Result, error, fail, integer, is_dict, is_list, iterate, tuple, type_name,
};
use super::{operators, python};
use minijinja::{Value, value::ValueKind};
use regex_automata::meta::Regex;
use std::sync::OnceLock;

const OF_DICT: &[&str] = &["copy", "get", "items", "keys", "values"];
const OF_LIST: &[&str] = &["copy", "count", "index"];
const OF_STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Whether the type of `value` has the method.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value.kind() {
        ValueKind::String => OF_STR.contains(&name),
        ValueKind::Number => !value.is_integer() && name == "is_integer",
        ValueKind::Map => is_dict(value) && OF_DICT.contains(&name),
        ValueKind::Seq | ValueKind::Iterable => {
            OF_LIST.contains(&name) && is_list(value) && !(value.is_tuple() && name == "copy")
        }
        _ => false,
    }
}

/// Calls a method that the value [has](has).
pub(super) fn call(c: &mut Call<'_, '_, '_, '_>, value: &Value, name: &str, args: Args) -> Result<Value> {
    let known = Call { state: &mut *c.state, budget: c.budget };
    match value.as_str() {
        Some(text) => of_str(&known, text, name, args),
        None if value.is_number() => Ok(Value::from(f64::try_from(value.clone())?.fract() == 0.0)),
        None if is_dict(value) => of_dict(&known, value, name, args),
        None => of_list(&known, value, name, args),
    }
}

fn of_dict(c: &Call<'_, '_, '_, '_>, dict: &Value, name: &str, args: Args) -> Result<Value> {
    let items = |values: Vec<Value>, kind| {
        c.budget.charge_items(values.len() as u64)?;
        Ok(Items::value(kind, values))
    };
    match name {
        "get" => {
            let args = args.expect("get", &["key", "default"])?;
            let found = dict.get_item(args.required(0, "key")?)?;
            Ok(if found.is_undefined() { args.get(1, "default").cloned().unwrap_or(Value::from(())) } else { found })
        }
        "keys" => items(iterate(dict)?, ItemsKind::DictKeys),
        "values" => items(values(dict)?, ItemsKind::DictValues),
        "items" => items(pairs(dict)?, ItemsKind::DictItems),
        _ => Ok(dict.clone()),
    }
}

fn values(dict: &Value) -> Result<Vec<Value>> {
    dict.try_iter()?.map(|key| dict.get_item(&key)).collect()
}

/// Key and value of every entry.
pub(super) fn pairs(dict: &Value) -> Result<Vec<Value>> {
    dict.try_iter()?.map(|key| Ok(tuple(vec![key.clone(), dict.get_item(&key)?]))).collect()
}

fn of_list(c: &Call<'_, '_, '_, '_>, list: &Value, name: &str, args: Args) -> Result<Value> {
    let args = args.expect(name, &["value", "start", "stop"])?;
    let mut places = Vec::new();
    for (at, item) in iterate(list)?.iter().enumerate() {
        c.budget.charge_compared(item)?;
        if name != "copy" && operators::equal(item, args.required(0, "value")?, 0)? {
            places.push(at);
        }
    }
    match (name, places.first()) {
        ("copy", _) => Ok(list.clone()),
        ("count", _) => Ok(Value::from(places.len())),
        (_, Some(at)) => Ok(Value::from(*at)),
        _ => fail("the value is not in the list"),
    }
}

/// Python's whitespace, which `strip` and `split` go by.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `text.strip(chars)`, on either side.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(strips) } else { text };
    if right { text.trim_end_matches(strips) } else { text }
}

/// `text.splitlines()`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        found.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

/// `text.capitalize()`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase())
}

fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// `text.title()`: what follows something without case is a beginning.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = cased(c);
    }
    out
}

fn split(text: &str, separator: Option<&str>, most: Option<usize>, from_right: bool) -> Result<Vec<String>> {
    let own = |s: &str| s.to_owned();
    match (separator, most, from_right) {
        (Some(""), ..) => fail("empty separator"),
        (Some(separator), None, _) => Ok(text.split(separator).map(own).collect()),
        (Some(separator), Some(most), false) => Ok(text.splitn(most + 1, separator).map(own).collect()),
        (Some(separator), Some(most), true) => {
            let mut parts: Vec<String> = text.rsplitn(most + 1, separator).map(own).collect();
            parts.reverse();
            Ok(parts)
        }
        (None, None, _) => Ok(text.split(is_space).filter(|part| !part.is_empty()).map(own).collect()),
        (None, Some(most), false) => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_start_matches(is_space));
            while parts.len() < most && !rest.is_empty() {
                let end = rest.find(is_space).unwrap_or(rest.len());
                parts.push(own(&rest[..end]));
                rest = rest[end..].trim_start_matches(is_space);
            }
            if !rest.is_empty() {
                parts.push(own(rest));
            }
            Ok(parts)
        }
        (None, Some(most), true) => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end_matches(is_space));
            while parts.len() < most && !rest.is_empty() {
                let begin =
                    rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
                parts.push(own(&rest[begin..]));
                rest = rest[..begin].trim_end_matches(is_space);
            }
            if !rest.is_empty() {
                parts.push(own(rest));
            }
            parts.reverse();
            Ok(parts)
        }
    }
}

/// The part of a text that `find` and its like look at, with the number of characters before it.
fn window<'t>(text: &'t str, args: &Args) -> Result<(&'t str, usize)> {
    if args.some(1, "start").is_none() && args.some(2, "end").is_none() {
        return Ok((text, 0));
    }
    let count = text.chars().count() as i64;
    let clamp = |at: i64| (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
    let start = clamp(args.integer(1, "start", 0)?);
    let end = clamp(args.integer(2, "end", count)?).max(start);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((&text[byte(start)..byte(end)], start))
}

/// A text, or whether any of a tuple of texts fits.
fn any_affix(args: &Args, fits: impl Fn(&str) -> bool) -> Result<Value> {
    let affix = args.required(0, "prefix")?;
    let texts = if affix.is_tuple() { iterate(affix)? } else { vec![affix.clone()] };
    let mut found = false;
    for text in texts {
        let Some(text) = text.as_str() else {
            return fail(format!("first arg must be str or a tuple of str, not {}", type_name(&text)));
        };
        found = found || fits(text);
    }
    Ok(Value::from(found))
}

fn of_str(c: &Call<'_, '_, '_, '_>, text: &str, name: &str, args: Args) -> Result<Value> {
    let every = |test: fn(char) -> bool| Ok(Value::from(!text.is_empty() && text.chars().all(test)));
    let texts = |parts: Vec<String>| c.list(parts.into_iter().map(Value::from).collect(), false);
    match name {
        "upper" => c.text(text.to_uppercase()),
        "lower" => c.text(text.to_lowercase()),
        "casefold" => c.text(text.chars().flat_map(casefold).collect()),
        "capitalize" => c.text(capitalize(text)),
        "title" => c.text(title(text)),
        "swapcase" => c.text(
            text.chars()
                .flat_map(|c| -> Vec<char> {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                })
                .collect(),
        ),
        "strip" | "lstrip" | "rstrip" => {
            let args = args.expect(name, &["chars"])?;
            c.text(strip(text, args.text(0, "chars")?, name != "rstrip", name != "lstrip").to_owned())
        }
        "split" | "rsplit" => {
            let args = args.expect(name, &["sep", "maxsplit"])?;
            let most = usize::try_from(args.integer(1, "maxsplit", -1)?).ok();
            c.budget.charge_items(text.len() as u64 / 8)?;
            texts(split(text, args.text(0, "sep")?, most, name == "rsplit")?)
        }
        "splitlines" => {
            let args = args.expect(name, &["keepends"])?;
            texts(lines(text, args.flag(0, "keepends", false)).into_iter().map(str::to_owned).collect())
        }
        "partition" | "rpartition" => {
            let args = args.expect(name, &["sep"])?;
            let separator = args.text(0, "sep")?.filter(|s| !s.is_empty()).ok_or_else(|| error("empty separator"))?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match (found, name) {
                (Some((head, tail)), _) => [head, separator, tail],
                (None, "partition") => [text, "", ""],
                _ => ["", "", text],
            };
            c.budget.charge(text.len() as u64)?;
            Ok(tuple(parts.map(Value::from).to_vec()))
        }
        "replace" => {
            let args = args.expect(name, &["old", "new", "count"])?;
            let (Some(old), Some(new)) = (args.text(0, "old")?, args.text(1, "new")?) else {
                return fail("replace takes two texts");
            };
            replace(c, text, old, new, usize::try_from(args.integer(2, "count", -1)?).ok())
        }
        "join" => {
            let args = args.expect(name, &["iterable"])?;
            let mut joined = python::Text::new(c.budget.left_bytes());
            for (i, item) in iterate(args.required(0, "iterable")?)?.iter().enumerate() {
                let Some(part) = item.as_str() else {
                    return fail(format!("sequence item {i}: expected str instance, {} found", type_name(item)));
                };
                joined.push(if i > 0 { text } else { "" })?;
                joined.push(part)?;
            }
            c.text(joined.text)
        }
        "startswith" => {
            let (text, _) = window(text, &args)?;
            any_affix(&args, |prefix| text.starts_with(prefix))
        }
        "endswith" => {
            let (text, _) = window(text, &args)?;
            any_affix(&args, |suffix| text.ends_with(suffix))
        }
        "removeprefix" => c.text(text.strip_prefix(args.text(0, "prefix")?.unwrap_or("")).unwrap_or(text).to_owned()),
        "removesuffix" => c.text(text.strip_suffix(args.text(0, "suffix")?.unwrap_or("")).unwrap_or(text).to_owned()),
        "find" | "rfind" | "index" | "rindex" => {
            let part = args.text(0, "sub")?.ok_or_else(|| error("find takes a text"))?;
            let (inside, before) = window(text, &args)?;
            let found = if name.starts_with('r') { inside.rfind(part) } else { inside.find(part) };
            match found {
                Some(at) => Ok(Value::from(before + inside[..at].chars().count())),
                None if name.ends_with("find") => Ok(Value::from(-1)),
                None => fail("substring not found"),
            }
        }
        "count" => {
            let part = args.text(0, "sub")?.ok_or_else(|| error("count takes a text"))?;
            let (inside, _) = window(text, &args)?;
            let count = if part.is_empty() { inside.chars().count() + 1 } else { inside.matches(part).count() };
            Ok(Value::from(count))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let args = args.expect(name, &["width", "fillchar"])?;
            let width = usize::try_from(integer(args.required(0, "width")?)?).unwrap_or(0);
            let mut fill = args.text(1, "fillchar")?.unwrap_or(" ").chars();
            let (Some(fill), None) = (fill.next(), fill.next()) else {
                return fail("The fill character must be exactly one character long");
            };
            c.budget.charge(width as u64 * 4)?;
            c.text(pad(text, width, fill, name))
        }
        "expandtabs" => {
            let args = args.expect(name, &["tabsize"])?;
            let size = usize::try_from(args.integer(0, "tabsize", 8)?).unwrap_or(0);
            c.budget.charge((text.matches('\t').count() as u64).saturating_mul(size as u64))?;
            let (mut out, mut column) = (String::new(), 0);
            for ch in text.chars() {
                match ch {
                    '\t' if size > 0 => {
                        let spaces = size - column % size;
                        out.push_str(&" ".repeat(spaces));
                        column += spaces;
                    }
                    '\t' => {}
                    _ => {
                        out.push(ch);
                        column = if matches!(ch, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
            }
            c.text(out)
        }
        "format" => python::braces(c.budget, text, &args).and_then(|text| c.text(text)),
        "islower" => Ok(Value::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))),
        "isupper" => Ok(Value::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))),
        "istitle" => Ok(Value::from(text.chars().any(cased) && title(text) == text)),
        "isspace" => every(is_space),
        "isalpha" | "isalnum" | "isdecimal" | "isdigit" | "isnumeric" => Ok(Value::from(is_all(text, name)?)),
        "isascii" => Ok(Value::from(text.is_ascii())),
        "isprintable" => Ok(Value::from(text.chars().all(python::is_printable))),
        "isidentifier" => Ok(Value::from(
            text.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_alphanumeric() || c == '_'),
        )),
        _ => fail(format!("str.{name} is not supported in chat templates")),
    }
}

/// Characters that are digits though they are no decimal ones, as powers and numbers in circles.
const DIGITS: &str = r"\u{B2}-\u{B3}\u{B9}\u{1369}-\u{1371}\u{19DA}\u{2070}\u{2074}-\u{2079}\u{2080}-\u{2089}\u{2460}-\u{2468}\u{2474}-\u{247C}\u{2488}-\u{2490}\u{24EA}\u{24F5}-\u{24FD}\u{24FF}\u{2776}-\u{277E}\u{2780}-\u{2788}\u{278A}-\u{2792}\u{10A40}-\u{10A43}\u{10E60}-\u{10E68}\u{11052}-\u{1105A}\u{1F100}-\u{1F10A}";
/// Letters that are numbers: those of Chinese.
const NUMERALS: &str = r"㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\u{F96B}\u{F973}\u{F978}\u{F9B2}\u{F9D1}\u{F9D3}\u{F9FD}\u{20001}\u{20064}\u{200E2}\u{20121}\u{2092A}\u{20983}\u{2098C}\u{2099C}\u{20AEA}\u{20AFD}\u{20B19}\u{22390}\u{22998}\u{23B1B}\u{2626D}\u{2F890}";

/// Whether a text is not empty and all of Unicode's class that Python's method `name` asks for.
fn is_all(text: &str, name: &str) -> Result<bool> {
    // Compiled once: a template may ask in a loop.
    static ALL: [OnceLock<Option<Regex>>; 5] = [const { OnceLock::new() }; 5];
    let (place, class) = match name {
        "isalpha" => (0, [r"\p{L}", ""]),
        "isdecimal" => (1, [r"\p{Nd}", ""]),
        "isdigit" => (2, [r"\p{Nd}", DIGITS]),
        "isnumeric" => (3, [r"\p{N}", NUMERALS]),
        _ => (4, [r"\p{L}", r"\p{N}"]),
    };
    let all = ALL[place].get_or_init(|| Regex::new(&format!(r"\A[{}]+\z", class.concat())).ok());
    all.as_ref()
        .map(|all| all.is_match(text))
        .ok_or_else(|| error(format!("str.{name}: its class of characters is broken")))
}

/// What is alike whatever its case.
fn casefold(c: char) -> impl Iterator<Item = char> {
    // The one letter whose capital is another letter's.
    let upper = (c != 'ı').then(|| c.to_uppercase().flat_map(char::to_lowercase));
    upper.is_none().then_some(c).into_iter().chain(upper.into_iter().flatten())
}

/// `text.replace(old, new, count)`.
pub(super) fn replace(
    c: &Call<'_, '_, '_, '_>,
    text: &str,
    old: &str,
    new: &str,
    most: Option<usize>,
) -> Result<Value> {
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let places = most.map_or(places, |most| most.min(places)) as u64;
    c.budget.charge(places.saturating_mul(new.len() as u64))?;
    c.text(most.map_or_else(|| text.replace(old, new), |most| text.replacen(old, new, most)))
}

/// A text with `fill` beside it, up to `width` characters.
pub(super) fn pad(text: &str, width: usize, fill: char, how: &str) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let fills = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    match how {
        "ljust" => format!("{text}{}", fills(missing)),
        "rjust" => format!("{}{text}", fills(missing)),
        "middle" => format!("{}{text}{}", fills(missing / 2), fills(missing - missing / 2)),
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            // The odd one goes to the left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fills(left), fills(missing - left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::length;
    use super::*;

    #[test]
    fn splits_as_python_does() {
        let parts = |text: &str, separator, most, right| split(text, separator, most, right).unwrap().join("|");
        assert_eq!(parts("  a  b c ", None, None, false), "a|b|c");
        assert_eq!(parts("  a  b c ", None, Some(1), false), "a|b c ");
        assert_eq!(parts("  a  b c ", None, Some(1), true), "  a  b|c");
        assert_eq!(parts("a,b,c", Some(","), Some(1), true), "a,b|c");
        assert_eq!(lines("a\r\nb\n\nc", false), ["a", "b", "", "c"]);
        assert_eq!(lines("a\u{2028}b\n", true), ["a\u{2028}", "b\n"]);
        assert_eq!(pad("ab", 5, '*', "center"), "**ab*");
        assert_eq!(length(&Value::from("é漢")).unwrap(), 2);
    }
}
