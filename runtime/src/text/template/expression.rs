//! Expressions of Jinja2, written as expressions of the template engine that compute as Python does.
//!
//! The engine's own operators, attributes and subscripts are not Python's: `'%s' % x`, `d.items` beside a key `items`,
//! `none.x`, tuples, `True + 1`. So every one becomes a filter of [`operators`](super::operators): `a + b.c[0]` becomes
//! `a|add__(b|attr__('c')|item__(0))`. Filters are looked up by name, apply from left to right and can be counted
//! ([`limits`](super::limits)). What stays the engine's: variables, calls of functions and macros, `and`, `or`,
//! conditional expressions, tests and filters. No line break is added or lost, so that errors name the right line.

use super::rewrite::{Kind, Token};

/// Brackets and operators nested deeper than this are refused; a pair of brackets counts three times.
pub(super) const MAX_DEPTH: usize = 60;

/// Longest translation of an expression: in `a < (b < c) < d` what stands between two signs is written twice.
const MAX_TRANSLATED_BYTES: usize = 1 << 20;

/// Why an expression could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is no expression, or none of ours. The engine's own parser says it better.
    Syntax,
    /// Brackets and operators are nested too deeply.
    Deep,
    /// Its translation is too long.
    Long,
}

type Parsed = Result<String, Unreadable>;

/// Translates the tokens of one tag.
pub(super) struct Expressions<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    depth: usize,
    /// Line breaks passed since the last text was written; they are written with the next.
    lines: usize,
}

const COMPARISONS: [(&str, &str); 6] =
    [("==", "eq__"), ("!=", "ne__"), ("<", "lt__"), ("<=", "le__"), (">", "gt__"), (">=", "ge__")];

impl<'a> Expressions<'a> {
    pub(super) fn new(tokens: &'a [Token<'a>]) -> Self {
        let mut result = Self { tokens, at: 0, depth: 0, lines: 0 };
        result.skip_spaces();
        result
    }

    fn skip_spaces(&mut self) {
        while let Some(token) = self.tokens.get(self.at).filter(|t| t.kind == Kind::Space) {
            self.lines += token.text.matches('\n').count();
            self.at += 1;
        }
    }

    pub(super) fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|t| t.text)
    }

    fn peek_kind(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = *self.tokens.get(self.at)?;
        self.lines += token.text.matches('\n').count();
        self.at += 1;
        self.skip_spaces();
        Some(token)
    }

    /// The line breaks passed so far, as text to be written now.
    pub(super) fn line_breaks(&mut self) -> String {
        "\n".repeat(std::mem::take(&mut self.lines))
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(super) fn take(&mut self, text: &str) -> bool {
        // A text in quotes is no sign or word.
        let found = self.peek() == Some(text) && self.peek_kind() != Some(Kind::Text);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), Unreadable> {
        if self.take(text) { Ok(()) } else { Err(Unreadable::Syntax) }
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Unreadable> {
        match self.next() {
            Some(Token { kind: Kind::Word, text }) => Ok(text),
            _ => Err(Unreadable::Syntax),
        }
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= MAX_DEPTH {
            return Err(Unreadable::Deep);
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        if result.as_ref().is_ok_and(|text| text.len() > MAX_TRANSLATED_BYTES) {
            return Err(Unreadable::Long);
        }
        result
    }

    /// An expression, or a tuple without brackets.
    pub(super) fn tuple(&mut self, conditional: bool) -> Parsed {
        let item = |this: &mut Self| if conditional { this.expression() } else { this.disjunction() };
        let mut first = item(self)?;
        if self.peek() != Some(",") {
            return Ok(first);
        }
        while self.take(",") {
            first.push(',');
            if self.is_at_end() || matches!(self.peek(), Some("=" | ")")) {
                break;
            }
            first.push_str(&item(self)?);
        }
        Ok(format!("({first})|new__"))
    }

    /// `a if b else c` and everything below it.
    pub(super) fn expression(&mut self) -> Parsed {
        self.deeper(|this| {
            let mut value = this.disjunction()?;
            while this.take("if") {
                let condition = this.disjunction()?;
                let otherwise = if this.take("else") { Some(this.expression()?) } else { None };
                value = match otherwise {
                    Some(otherwise) => format!("({value} if {condition} else {otherwise})"),
                    None => format!("({value} if {condition})"),
                };
            }
            Ok(value)
        })
    }

    /// `a or b`: no condition.
    pub(super) fn disjunction(&mut self) -> Parsed {
        self.logical("or", |this| this.logical("and", Self::negation))
    }

    fn logical(&mut self, word: &str, operand: fn(&mut Self) -> Parsed) -> Parsed {
        let first = operand(self)?;
        if !(self.peek() == Some(word) && self.peek_kind() == Some(Kind::Word)) {
            return Ok(first);
        }
        let mut all = first;
        while self.take(word) {
            all = format!("{all} {word} {}", operand(self)?);
        }
        Ok(format!("({all})"))
    }

    fn negation(&mut self) -> Parsed {
        if self.peek() == Some("not") && self.peek_kind() == Some(Kind::Word) {
            self.next();
            return self.deeper(|this| Ok(format!("{}|not__", this.negation()?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed {
        let first = self.sum()?;
        let mut all: Vec<String> = Vec::new();
        let mut left = first.clone();
        loop {
            let operator = match self.peek() {
                _ if self.peek_kind() == Some(Kind::Text) => break,
                Some("in") => "in__",
                Some("not") if self.second() == Some("in") => {
                    self.next();
                    "notin__"
                }
                Some(sign) => match COMPARISONS.iter().find(|(text, _)| *text == sign) {
                    Some((_, name)) => name,
                    None => break,
                },
                None => break,
            };
            self.next();
            let right = self.sum()?;
            all.push(format!("{left}|{operator}({right})"));
            left = right;
        }
        match all.len() {
            0 => Ok(first),
            1 => Ok(all.remove(0)),
            // `a < b < c` is both comparisons.
            _ => Ok(format!("({})", all.join(" and "))),
        }
    }

    /// The token after the next, spaces left out.
    fn second(&self) -> Option<&'a str> {
        self.tokens[(self.at + 1).min(self.tokens.len())..].iter().find(|t| t.kind != Kind::Space).map(|t| t.text)
    }

    fn sign(&self, signs: &[(&str, &'static str)]) -> Option<&'static str> {
        if self.peek_kind() == Some(Kind::Text) {
            return None;
        }
        let sign = self.peek()?;
        signs.iter().find(|(text, _)| *text == sign).map(|(_, name)| *name)
    }

    fn binary(&mut self, signs: &[(&str, &'static str)], operand: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = operand(self)?;
        while let Some(name) = self.sign(signs) {
            self.next();
            let right = operand(self)?;
            left = format!("{left}|{name}({right})");
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed {
        self.binary(&[("+", "add__"), ("-", "sub__")], Self::concatenation)
    }

    fn concatenation(&mut self) -> Parsed {
        let mut all = self.product()?;
        if self.peek() == Some("~") {
            let mut others = Vec::new();
            while self.take("~") {
                others.push(self.product()?);
            }
            all = format!("{all}|concat__({})", others.join(","));
        }
        Ok(all)
    }

    fn product(&mut self) -> Parsed {
        self.binary(&[("*", "mul__"), ("/", "div__"), ("//", "floordiv__"), ("%", "mod__")], Self::power)
    }

    fn power(&mut self) -> Parsed {
        self.binary(&[("**", "pow__")], |this| this.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Parsed {
        self.deeper(|this| {
            let value = match this.sign(&[("-", "neg__"), ("+", "pos__")]) {
                Some(name) => {
                    this.next();
                    format!("{}|{name}", this.unary(false)?)
                }
                None => {
                    let primary = this.primary()?;
                    this.postfix(primary)?
                }
            };
            if with_filters { this.filters_and_tests(value) } else { Ok(value) }
        })
    }

    fn primary(&mut self) -> Parsed {
        let breaks = self.line_breaks();
        let Some(token) = self.next() else { return Err(Unreadable::Syntax) };
        let value = match token.kind {
            Kind::Word => match token.text {
                "true" | "True" => "true".to_owned(),
                "false" | "False" => "false".to_owned(),
                "none" | "None" => "none".to_owned(),
                "and" | "or" | "not" | "in" | "is" | "if" | "else" => return Err(Unreadable::Syntax),
                name => name.to_owned(),
            },
            Kind::Number => self.number(token.text)?,
            Kind::Text => {
                let mut text = string(token.text)?;
                while self.peek_kind() == Some(Kind::Text) {
                    if let Some(next) = self.next() {
                        text.push_str(&string(next.text)?);
                    }
                }
                quoted(&text)
            }
            Kind::Open => match token.text {
                "(" => self.brackets()?,
                "[" => {
                    let items = self.list("]")?;
                    format!("[{items}]|new__")
                }
                _ => self.dict()?,
            },
            _ => return Err(Unreadable::Syntax),
        };
        Ok(format!("{breaks}{value}"))
    }

    /// A number, with the fraction that the tokens have apart.
    fn number(&mut self, integer: &str) -> Parsed {
        let fraction = self.tokens.get(self.at).filter(|t| t.text == ".").and_then(|_| self.tokens.get(self.at + 1));
        match fraction {
            Some(Token { kind: Kind::Number, text }) => {
                self.next();
                self.next();
                Ok(format!("{integer}.{text}").replace('_', ""))
            }
            _ => Ok(integer.replace('_', "")),
        }
    }

    fn brackets(&mut self) -> Parsed {
        self.deeper(|this| {
            if this.take(")") {
                return Ok("()".to_owned());
            }
            let value = this.tuple(true)?;
            this.expect(")")?;
            Ok(format!("({value})"))
        })
    }

    fn list(&mut self, close: &str) -> Parsed {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items.join(","))
    }

    fn dict(&mut self) -> Parsed {
        let mut items = Vec::new();
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            items.push(format!("{key}:{}", self.expression()?));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(format!("{{{}}}|new__", items.join(",")))
    }

    /// The arguments of a call, after its opening bracket, up to and with the closing one.
    pub(super) fn arguments(&mut self) -> Parsed {
        let mut all = Vec::new();
        while !self.take(")") {
            let argument = if self.take("**") {
                format!("**{}", self.expression()?)
            } else if self.take("*") {
                format!("*{}", self.expression()?)
            } else if self.peek_kind() == Some(Kind::Word) && self.second() == Some("=") {
                let name = self.name()?;
                self.expect("=")?;
                format!("{name}={}", self.expression()?)
            } else {
                self.expression()?
            };
            all.push(argument);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(all.join(","))
    }

    /// Attributes, subscripts and calls.
    fn postfix(&mut self, primary: String) -> Parsed {
        let mut value = primary;
        loop {
            match self.peek() {
                Some(".") => {
                    self.next();
                    match self.next() {
                        Some(Token { kind: Kind::Word, text }) => {
                            if self.take("(") {
                                let arguments = self.arguments()?;
                                let comma = if arguments.is_empty() { "" } else { "," };
                                value = format!("{value}|call__('{text}'{comma}{arguments})");
                            } else {
                                value = format!("{value}|attr__('{text}')");
                            }
                        }
                        Some(Token { kind: Kind::Number, text }) => value = format!("{value}|item__({text})"),
                        _ => return Err(Unreadable::Syntax),
                    }
                }
                Some("[") if self.peek_kind() == Some(Kind::Open) => {
                    self.next();
                    value = self.subscript(&value)?;
                }
                Some("(") if self.peek_kind() == Some(Kind::Open) => {
                    self.next();
                    let is_name = value.trim_start().chars().all(|c| c.is_alphanumeric() || c == '_');
                    let arguments = self.arguments()?;
                    // Functions and macros have names; `loop(…)` must be called by its own.
                    value = if is_name { format!("{value}({arguments})") } else { format!("({value})({arguments})") };
                }
                _ => return Ok(value),
            }
        }
    }

    fn subscript(&mut self, value: &str) -> Parsed {
        self.deeper(|this| {
            let mut parts = vec![None];
            while !this.take("]") {
                if this.take(":") {
                    parts.push(None);
                    if parts.len() > 3 {
                        return Err(Unreadable::Syntax);
                    }
                } else if parts.last().is_some_and(Option::is_some) {
                    return Err(Unreadable::Syntax);
                } else {
                    let part = this.tuple(true)?;
                    if let Some(last) = parts.last_mut() {
                        *last = Some(part);
                    }
                }
            }
            if let [Some(index)] = &parts[..] {
                return Ok(format!("{value}|item__({index})"));
            }
            if parts.len() == 1 {
                return Err(Unreadable::Syntax);
            }
            let part = |at: usize| parts.get(at).and_then(Option::as_deref).unwrap_or("none");
            Ok(format!("{value}|slice__({},{},{})", part(0), part(1), part(2)))
        })
    }

    fn filters_and_tests(&mut self, value: String) -> Parsed {
        let mut value = value;
        loop {
            match self.peek() {
                Some("|") => {
                    self.next();
                    value = format!("{value}|{}", self.filter()?);
                }
                Some("is") if self.peek_kind() == Some(Kind::Word) => {
                    self.next();
                    let negated = self.take("not");
                    let name = self.dotted_name()?;
                    let arguments = if self.take("(") {
                        format!("({})", self.arguments()?)
                    } else if self.test_has_argument() {
                        let primary = self.primary()?;
                        format!("({})", self.postfix(primary)?)
                    } else {
                        String::new()
                    };
                    value = format!("({value} is {name}{arguments})");
                    if negated {
                        value.push_str("|not__");
                    }
                }
                Some("(") if self.peek_kind() == Some(Kind::Open) => {
                    self.next();
                    value = format!("({value})({})", self.arguments()?);
                }
                _ => return Ok(value),
            }
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter(&mut self) -> Parsed {
        let name = self.dotted_name()?;
        if self.take("(") {
            return Ok(format!("{name}({})", self.arguments()?));
        }
        Ok(name)
    }

    fn dotted_name(&mut self) -> Parsed {
        let mut name = self.name()?.to_owned();
        while self.take(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    /// Whether what follows a test's name is its argument: `x is divisibleby 3`.
    fn test_has_argument(&self) -> bool {
        match self.peek_kind() {
            Some(Kind::Word) => {
                !matches!(self.peek(), Some("else" | "or" | "and" | "is" | "if" | "in" | "not" | "recursive"))
            }
            Some(Kind::Text | Kind::Number) => true,
            Some(Kind::Open) => self.peek() != Some("("),
            _ => false,
        }
    }
}

/// What a text in quotes means, by Python's rules.
fn string(literal: &str) -> Result<String, Unreadable> {
    let quote = literal.chars().next().ok_or(Unreadable::Syntax)?;
    let inside = literal.strip_prefix(quote).and_then(|s| s.strip_suffix(quote)).ok_or(Unreadable::Syntax)?;
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars().peekable();
    let mut high = None;
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, most: usize, radix: u32| {
            let mut value = 0u32;
            let mut count = 0;
            while count < most
                && let Some(digit) = chars.peek().and_then(|c| c.to_digit(radix))
            {
                value = value * radix + digit;
                chars.next();
                count += 1;
            }
            (count, value)
        };
        let exact = |(count, value): (usize, u32), wanted: usize| {
            if count == wanted { Ok(value) } else { Err(Unreadable::Syntax) }
        };
        let value = match chars.next().ok_or(Unreadable::Syntax)? {
            '\n' => continue,
            '\\' => '\\' as u32,
            '\'' => '\'' as u32,
            '"' => '"' as u32,
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => exact(digits(&mut chars, 2, 16), 2)?,
            'u' => exact(digits(&mut chars, 4, 16), 4)?,
            'U' => exact(digits(&mut chars, 8, 16), 8)?,
            digit @ '0'..='7' => {
                let (count, rest) = digits(&mut chars, 2, 8);
                digit.to_digit(8).unwrap_or(0) * 8u32.pow(count as u32) + rest
            }
            other => {
                out.push('\\');
                other as u32
            }
        };
        match (high.take(), value) {
            (None, 0xD800..=0xDBFF) => high = Some(value),
            (Some(first), 0xDC00..=0xDFFF) => {
                out.push(
                    char::from_u32(0x10000 + ((first - 0xD800) << 10) + (value - 0xDC00)).ok_or(Unreadable::Syntax)?,
                );
            }
            (None, value) => out.push(char::from_u32(value).ok_or(Unreadable::Syntax)?),
            _ => return Err(Unreadable::Syntax),
        }
    }
    if high.is_some() { Err(Unreadable::Syntax) } else { Ok(out) }
}

/// A text as the engine reads it. Line breaks become escapes: those that stood in the template are counted elsewhere.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}
