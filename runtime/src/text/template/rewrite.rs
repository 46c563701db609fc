//! A chat template as transformers knows it, written as one for the template engine.
//!
//! Only what stands in tags changes: their expressions ([`expression`](super::expression)), the things that loops go over, and
//! `{% generation %}`, which marks the assistant's text for training and has a scope of its own. The text between tags,
//! comments and the marks that strip spaces stay, and every line keeps its number.

use super::expression::{Expressions, Unreadable};
use std::collections::BTreeSet;

/// The translated template, or the line of a tag that could not be read, and why.
pub(super) fn rewrite(source: &str) -> Result<String, (usize, Unreadable)> {
    let mut out = String::with_capacity(source.len() * 2);
    // Line breaks are kept, so those written are those passed.
    translate(source, &mut out).map_err(|why| (out.matches('\n').count() + 1, why)).map(|()| out)
}

fn translate(source: &str, out: &mut String) -> Result<(), Unreadable> {
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => {
                let length = tag.find("#}").map_or(tag.len(), |end| end + 2);
                out.push_str(&tag[..length]);
                rest = &tag[length..];
                continue;
            }
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => {
                out.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let (tokens, after) = tokens(&tag[2..], end);
        rest = after;
        let (Some((first, inner)), Some(last)) = (tokens.split_first(), tokens.last()) else {
            return Err(Unreadable::Syntax);
        };
        if !last.text.ends_with(end) || last.kind != Kind::Space {
            return Err(Unreadable::Syntax);
        }
        // The marks that strip spaces stay at the tag's ends.
        let (open, inner) = if matches!(first.text, "-" | "+") && first.kind == Kind::Space {
            (first.text, inner)
        } else {
            ("", &tokens[..])
        };
        let inner = &inner[..inner.len() - 1];
        let mut expressions = Expressions::new(inner);
        let (inside, word) = match end {
            "}}" => (expressions.tuple(true)?, ""),
            _ => statement(&mut expressions)?,
        };
        if !expressions.is_at_end() {
            return Err(Unreadable::Syntax);
        }
        out.push_str(&tag[..2]);
        out.push_str(open);
        out.push(' ');
        out.push_str(&inside);
        out.push_str(&expressions.line_breaks());
        out.push(' ');
        out.push_str(last.text);
        if word == "raw" {
            let (content, after) = rest.split_at(raw_bytes(rest));
            out.push_str(content);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(())
}

/// What stands in `{% … %}`, and its first word.
fn statement<'a>(e: &mut Expressions<'a>) -> Result<(String, &'a str), Unreadable> {
    let word = e.name()?;
    let inside = match word {
        "if" | "elif" => format!("{word} {}", e.tuple(true)?),
        "for" => loop_head(e)?,
        "set" => assignment(e)?,
        "macro" => {
            let name = e.name()?;
            e.expect("(")?;
            let (parameters, later) = parameters(e)?;
            format!("macro {name}({parameters}){later}")
        }
        "call" => {
            let (own, later) = match e.take("(") {
                true => parameters(e).map(|(own, later)| (format!("({own})"), later))?,
                false => (String::new(), String::new()),
            };
            format!("call{own} {}{later}", called(e)?)
        }
        "filter" => format!("filter {}", filters(e)?),
        "with" => {
            let (mut names, mut values) = (Vec::new(), Vec::new());
            while !e.is_at_end() {
                names.push(e.name()?);
                e.expect("=")?;
                values.push(e.expression()?);
                if !e.take(",") {
                    break;
                }
            }
            // All at once: what one is called no other sees.
            match (&names[..], &values[..]) {
                ([], _) => "with".to_owned(),
                ([name], [value]) => format!("with {name} = {value}"),
                _ => format!("with ({}) = ({})|new__", names.join(", "), values.join(", ")),
            }
        }
        // A scope of its own, as the macro that transformers makes of it has.
        "generation" => "with".to_owned(),
        "endgeneration" => "endwith".to_owned(),
        "include" | "extends" | "autoescape" => format!("{word} {}", e.expression()?),
        "block" | "endblock" => {
            let mut all = word.to_owned();
            while let Some(token) = e.next() {
                all.push(' ');
                all.push_str(token.text);
            }
            all
        }
        // Words that stand alone; what the engine does not know, it names.
        other => other.to_owned(),
    };
    Ok((inside, word))
}

/// `for a, (b, c) in x if y recursive`.
fn loop_head(e: &mut Expressions<'_>) -> Result<String, Unreadable> {
    let mut target = String::new();
    while !e.take("in") {
        target.push_str(e.next().ok_or(Unreadable::Syntax)?.text);
    }
    let mut all = format!("for {target} in {}|iter__", e.tuple(false)?);
    if e.take("if") {
        all.push_str(&format!(" if {}", e.disjunction()?));
    }
    if e.take("recursive") {
        all.push_str(" recursive");
    }
    Ok(all)
}

/// `set a, b = x`, or the head of a block whose text is set.
fn assignment(e: &mut Expressions<'_>) -> Result<String, Unreadable> {
    let mut target = String::new();
    while !e.is_at_end() && !matches!(e.peek(), Some("=" | "|")) {
        target.push_str(e.next().ok_or(Unreadable::Syntax)?.text);
    }
    // In a macro the engine knows a namespace of the template only where its name is part of an expression.
    let about: BTreeSet<&str> =
        target.split(',').filter_map(|part| part.split_once('.')).map(|(name, _)| name.trim_matches('(')).collect();
    let known: String = about.iter().map(|name| format!("if ({name} is defined) %}}{{% endif %}}{{% ")).collect();
    if e.take("=") {
        let value = e.tuple(true)?;
        return Ok(match about.is_empty() {
            true => format!("set {target} = {value}"),
            false => format!("{known}set {target} = ({value})|kept__"),
        });
    }
    if e.take("|") {
        return Ok(format!("{known}set {target} | {}", filters(e)?));
    }
    Ok(format!("{known}set {target}"))
}

fn filters(e: &mut Expressions<'_>) -> Result<String, Unreadable> {
    let mut all = e.filter()?;
    while e.take("|") {
        all = format!("{all}|{}", e.filter()?);
    }
    Ok(all)
}

/// The parameters of a macro with their defaults, up to and with the closing bracket; and tags that set those whose default
/// is made of other parameters, which the engine does not see in defaults.
fn parameters(e: &mut Expressions<'_>) -> Result<(String, String), Unreadable> {
    let (mut all, mut names, mut later) = (Vec::new(), Vec::new(), String::new());
    while !e.take(")") {
        let name = e.name()?;
        let default = if e.take("=") { Some(e.expression()?) } else { None };
        let words =
            |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| names.contains(&word));
        all.push(match default {
            None => name.to_owned(),
            Some(default) if words(&default) => {
                later.push_str(&format!(" %}}{{% set {name} = ({name} if ({name} is defined) else {default})"));
                name.to_owned()
            }
            Some(default) => format!("{name}={default}"),
        });
        names.push(name);
        if !e.take(",") {
            e.expect(")")?;
            break;
        }
    }
    Ok((all.join(", "), later))
}

/// The call of a call block, which must stay one for the engine.
fn called(e: &mut Expressions<'_>) -> Result<String, Unreadable> {
    let mut name = e.name()?.to_owned();
    while e.take(".") {
        name = format!("{name}.{}", e.name()?);
    }
    e.expect("(")?;
    Ok(format!("{name}({})", e.arguments()?))
}

/// Length of a raw block's content, up to its end tag.
fn raw_bytes(content: &str) -> usize {
    let mut at = 0;
    while let Some(next) = content[at..].find("{%") {
        let word = content[at + next + 2..].trim_start_matches(['-', '+']).trim_start();
        if word.starts_with("endraw") {
            return at + next;
        }
        at += next + 2;
    }
    content.len()
}

/// What a token of a tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Space,
    Word,
    Text,
    Number,
    Sign,
    Open,
    Close,
}

/// A token of a tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

/// The tokens of a tag with its end, and what follows the tag.
fn tokens<'a>(inside: &'a str, end: &str) -> (Vec<Token<'a>>, &'a str) {
    let mut tokens: Vec<Token<'a>> = Vec::new();
    let mut rest = inside;
    // The end of a tag counts only outside of brackets, as in the engine.
    let mut depth = 0i64;
    while let Some(first) = rest.chars().next() {
        let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        let ends = depth <= 0 && unsigned.starts_with(end);
        let until = |stop: &dyn Fn(char) -> bool| rest.find(stop).unwrap_or(rest.len());
        let (kind, length) = match first {
            _ if ends => (Kind::Space, rest.len() - unsigned.len() + end.len()),
            '-' | '+' if tokens.is_empty() => (Kind::Space, 1),
            c if c.is_whitespace() => (Kind::Space, until(&|c| !c.is_whitespace())),
            '\'' | '"' => (Kind::Text, string_bytes(rest, first)),
            c if c.is_ascii_digit() => (Kind::Number, number_bytes(rest)),
            c if c.is_alphanumeric() || c == '_' => (Kind::Word, until(&|c| !(c.is_alphanumeric() || c == '_'))),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            c if ["//", "**", "==", "!=", ">=", "<="].iter().any(|op| rest.starts_with(op)) => {
                (Kind::Sign, c.len_utf8() + 1)
            }
            c => (Kind::Sign, c.len_utf8()),
        };
        depth += i64::from(kind == Kind::Open) - i64::from(kind == Kind::Close);
        let (text, after) = rest.split_at(length);
        tokens.push(Token { kind, text });
        rest = after;
        if ends {
            break;
        }
    }
    (tokens, rest)
}

fn string_bytes(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Digits with an exponent or a radix. A fraction is taken for an attribute, which comes to the same.
fn number_bytes(text: &str) -> usize {
    let run = |text: &str, radix: u32| text.find(|c: char| !(c.is_digit(radix) || c == '_')).unwrap_or(text.len());
    if text.starts_with(['0']) && text[1..].starts_with(['x', 'X', 'o', 'O', 'b', 'B']) {
        return 2 + run(&text[2..], 16);
    }
    let length = run(text, 10);
    let exponent = text[length..].strip_prefix(['e', 'E']).map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    match exponent {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => text.len() - digits.len() + run(digits, 10),
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_become_filters() {
        for (source, expected) in [
            ("{{ a ~ b }}", "{{ a|concat__(b) }}"),
            ("{{ a }}{{ -a }}{{ a|upper }}", "{{ a }}{{ a|neg__ }}{{ a|upper }}"),
            (
                "{{- a.b['c'](d + 1) | trim + -x }}",
                "{{- (a|attr__('b')|item__('c'))(d|add__(1))|trim|add__(x|neg__) }}",
            ),
            ("{{ a + b ~ c * d }}", "{{ a|add__(b|concat__(c|mul__(d))) }}"),
            ("{{ a.items() }}{{ a.get('x', 1) }}", "{{ a|call__('items') }}{{ a|call__('get','x',1) }}"),
            ("{{ [a, {'k': b or c}, (d), (e, f)] }}", "{{ [a,{'k':(b or c)}|new__,(d),((e,f)|new__)]|new__ }}"),
            ("{% if not a in b and c not in d %}", "{% if (a|in__(b)|not__ and c|notin__(d)) %}"),
            (
                "{% for a, (b, c) in d.items() if e == 'in' %}",
                "{% for a,(b,c) in d|call__('items')|iter__ if e|eq__('in') %}",
            ),
            (
                "{%- set ns.x = a, 1.5 -%}",
                "{%- if (ns is defined) %}{% endif %}{% set ns.x = ((a,1.5)|new__)|kept__ -%}",
            ),
            ("{% set ns.x %}{% endset %}", "{% if (ns is defined) %}{% endif %}{% set ns.x %}{% endset %}"),
            ("{% macro m(a, b=a) -%}", "{% macro m(a, b) %}{% set b = (b if (b is defined) else a) -%}"),
            ("{% with a=b, b=a %}", "{% with (a, b) = (b, a)|new__ %}"),
            ("{% set x = f(k=a, j=b ~ 'x') %}", "{% set x = f(k=a,j=b|concat__('x')) %}"),
            ("{% set x %}{% endset %}", "{% set x %}{% endset %}"),
            ("{% set x | trim %}", "{% set x | trim %}"),
            ("{% call(a, b) m(c) %}", "{% call(a, b) m(c) %}"),
            ("{% macro m(a, b=[]) %}", "{% macro m(a, b=[]|new__) %}"),
            ("{{ x is divisibleby 3 }}{{ y is not none }}", "{{ (x is divisibleby(3)) }}{{ (y is none)|not__ }}"),
            ("{{ 'a' if b is defined else 'c' ~ d }}", "{{ ('a' if (b is defined) else 'c'|concat__(d)) }}"),
            ("{{ 1.5e+3 + 0x1F*7 in a }}", "{{ 1.5e+3|add__(0x1F|mul__(7))|in__(a) }}"),
            ("{{ a[1:-1] }}{{ a[::-1] }}", "{{ a|slice__(1,1|neg__,none) }}{{ a|slice__(none,none,1|neg__) }}"),
            ("{{ a < b <= c }}", "{{ (a|lt__(b) and b|le__(c)) }}"),
            ("{{ a, b }}", "{{ (a,b)|new__ }}"),
            ("{{ '\\d\\x41\\u00e9' \"'\" }}", "{{ '\\\\dAé\\'' }}"),
            ("{{ a\n  + 'b\nc' }}x", "{{ a|add__(\n'b\\nc')\n }}x"),
            (
                "{# a ~ b #}{ a ~ b }{% raw %}{{ a ~ b }}{%- endraw %}",
                "{# a ~ b #}{ a ~ b }{% raw %}{{ a ~ b }}{%- endraw %}",
            ),
            ("{%- generation -%}a{% endgeneration +%}", "{%- with -%}a{% endwith +%}"),
            ("{{ generation }}", "{{ generation }}"),
        ] {
            let result = rewrite(source).unwrap();
            assert_eq!(result.replace("  ", " "), expected, "{source}");
            assert_eq!(result.matches('\n').count(), source.matches('\n').count());
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_engine() {
        for source in [
            "{{",
            "{%",
            "{{ (",
            "{% set",
            "{{ 'a",
            "{% for",
            "{% call(",
            "{{ a is",
            "{{ )]} ~ a }}",
            "{{ a b }}",
            "{{ }}",
        ] {
            assert!(rewrite(source).is_err(), "{source}");
        }
        assert_eq!(rewrite("{").unwrap(), "{");
        assert!(rewrite(&format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000))).is_err());
    }
}
