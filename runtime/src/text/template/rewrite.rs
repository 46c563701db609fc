//! Rewrites a template so that what its operators and literals make is paid for.
//!
//! The template engine counts steps, but one step can double a string or a list, and forty steps are a terabyte. Its
//! filters, functions and methods can be replaced by ones that count bytes ([`limits`](super::limits)); its operators
//! cannot. So the filter [`CHARGE`], which counts its operand and returns it, is written after every operand of a
//! binary operator and every operand inside a list, dict or tuple: `a + b` becomes `a|charge__ + b|charge__`. A filter
//! binds tighter than any operator, so the meaning stays. No line break is added: error lines stay right.
//!
//! On the way `{% generation %}`, which marks the assistant's text for training, becomes a block that is always taken.

/// Name of the filter that counts.
pub(super) const CHARGE: &str = "charge__";

/// Name of the filter that counts a factor of a product: `'a' * 1000 * 1000` makes more than its operands are.
pub(super) const FACTOR: &str = "factor__";

/// Brackets nested deeper than this are refused by the engine's parser anyway.
const MAX_DEPTH: usize = 256;

/// A template as transformers knows it, as one for the engine; with `charge`, operands are counted.
pub(super) fn rewrite(source: &str, charge: bool) -> String {
    let mut out = String::with_capacity(source.len() * 2);
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
        out.push_str(&tag[..2]);
        let (tokens, after) = tokens(&tag[2..], end);
        rest = after;
        let mut rewriter = Rewriter::new(&tokens, charge, &mut out);
        let word = if end == "%}" { rewriter.block_word() } else { None };
        rewriter.sequence(tokens.len(), Context::of_block(word), 0);
        if word == Some("raw") {
            let (content, after) = rest.split_at(raw_bytes(rest));
            out.push_str(content);
            rest = after;
        }
    }
    out.push_str(rest);
    out
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Space,
    Word,
    Text,
    Number,
    Sign,
    Open,
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
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

/// What a sequence of tokens is part of.
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    /// Operands are elements of a list, dict or tuple.
    literal: bool,
    /// Everything up to this word or sign outside of brackets is a target, no expression.
    target_until: Option<&'static str>,
    /// The expressions may be a tuple without brackets.
    bare_tuple: bool,
}

impl Context {
    fn of_block(word: Option<&str>) -> Self {
        match word {
            Some("for") => Self { target_until: Some("in"), bare_tuple: true, ..Self::default() },
            Some("set") => Self { target_until: Some("="), bare_tuple: true, ..Self::default() },
            // `{% call(argument) macro() %}`.
            Some("call") => Self { target_until: Some("call"), ..Self::default() },
            _ => Self::default(),
        }
    }
}

/// Copies a tag's tokens, with [`CHARGE`] where it belongs.
struct Rewriter<'a, 'o> {
    tokens: &'a [Token<'a>],
    /// For every opening bracket: its closing one, and whether there is a comma directly inside.
    brackets: Vec<(usize, bool)>,
    at: usize,
    charge: bool,
    out: &'o mut String,
}

impl<'a, 'o> Rewriter<'a, 'o> {
    fn new(tokens: &'a [Token<'a>], charge: bool, out: &'o mut String) -> Self {
        let mut brackets = vec![(tokens.len(), false); tokens.len()];
        let mut open: Vec<usize> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            match (token.kind, open.last()) {
                (Kind::Open, _) => open.push(at),
                (Kind::Close, Some(&begin)) => {
                    brackets[begin].0 = at;
                    open.pop();
                }
                (Kind::Sign, Some(&begin)) if token.text == "," => brackets[begin].1 = true,
                _ => {}
            }
        }
        Self { tokens, brackets, at: 0, charge, out }
    }

    fn copy(&mut self) {
        self.out.push_str(self.tokens[self.at].text);
        self.at += 1;
    }

    fn copy_to(&mut self, end: usize) {
        while self.at < end {
            self.copy();
        }
    }

    /// The next token at or after `at` that is no space, if it is before `end`.
    fn next(&self, at: usize, end: usize) -> Option<(usize, Token<'a>)> {
        (at..end).map(|i| (i, self.tokens[i])).find(|(_, t)| t.kind != Kind::Space)
    }

    /// Copies the word that says what kind of block it is.
    fn block_word(&mut self) -> Option<&'a str> {
        let (at, token) = self.next(0, self.tokens.len())?;
        if token.kind != Kind::Word {
            return None;
        }
        self.copy_to(at);
        match token.text {
            "generation" => self.out.push_str("if true"),
            "endgeneration" => self.out.push_str("endif"),
            other => self.out.push_str(other),
        }
        self.at += 1;
        Some(token.text)
    }

    /// Copies the tokens up to `end`, which are expressions and what stands between them.
    fn sequence(&mut self, end: usize, mut context: Context, depth: usize) {
        if depth > MAX_DEPTH {
            return self.copy_to(end);
        }
        self.skip_target(end, context.target_until);
        if context.bare_tuple {
            context.literal = self.has_bare_comma(end);
        }
        // Whether a value must come next: then words like `in` are names, as for the engine.
        let mut wants_operand = true;
        // The binary operator before the next value.
        let mut operator = None;
        while let Some((at, token)) = self.next(self.at, end) {
            self.copy_to(at);
            let is_operand = match token.kind {
                Kind::Text | Kind::Number | Kind::Open => true,
                Kind::Word => token.text != "not" && (wants_operand || !is_keyword(token.text)),
                _ => false,
            };
            if is_operand {
                let operand_end = self.operand_end(at, end);
                self.operand(operand_end, depth);
                let follows = self.next(operand_end, end).map(|(_, t)| t.text);
                if self.charge && follows != Some("=") {
                    self.count(operator.take(), follows.unwrap_or(""), context.literal);
                }
                (wants_operand, operator) = (false, None);
                continue;
            }
            // A sign in front of a value belongs to it.
            let sign_of_operand = wants_operand && matches!(token.text, "-" | "+");
            if !sign_of_operand {
                operator = Some(token.text).filter(|t| is_operator(t));
            }
            // `not` after a value is half of `not in`.
            wants_operand |= token.text != "not";
            self.copy();
            if token.text == "is" {
                self.test_name(end);
                wants_operand = false;
            }
        }
        self.copy_to(end);
    }

    /// Writes the filter that an operand between two operators needs.
    fn count(&mut self, before: Option<&str>, after: &str, literal: bool) {
        let before = before.unwrap_or("");
        let power = before == "**" || after == "**";
        let place = match (before, after) {
            ("*", "*") => "middle",
            ("*", _) => "last",
            (_, "*") => "first",
            _ if literal || is_operator(before) || is_operator(after) || after == "not" => {
                self.out.push('|');
                self.out.push_str(CHARGE);
                return;
            }
            _ => return,
        };
        // What a power is worth is not known from its operands.
        let place = if power { format!("{place}_power") } else { place.to_owned() };
        self.out.push_str(&format!("|{FACTOR}('{place}')"));
    }

    /// Copies the targets of a block: the names that it sets.
    fn skip_target(&mut self, end: usize, until: Option<&str>) {
        let Some(until) = until else { return };
        if until == "call" {
            if let Some((at, Token { kind: Kind::Open, .. })) = self.next(self.at, end) {
                self.copy_to((self.brackets[at].0 + 1).min(end));
            }
            return;
        }
        let mut first = true;
        while let Some((at, token)) = self.next(self.at, end) {
            let close = if token.kind == Kind::Open { self.brackets[at].0 } else { at };
            self.copy_to((close + 1).min(end));
            if token.text == until && !first {
                break;
            }
            first = false;
        }
    }

    /// Whether there is a comma from here on, outside of brackets.
    fn has_bare_comma(&self, end: usize) -> bool {
        let mut at = self.at;
        while at < end {
            match self.tokens[at] {
                Token { kind: Kind::Open, .. } => at = self.brackets[at].0,
                Token { text: ",", .. } => return true,
                _ => {}
            }
            at += 1;
        }
        false
    }

    /// Copies the name of a test, which is no operand.
    fn test_name(&mut self, end: usize) {
        if let Some((at, Token { text: "not", .. })) = self.next(self.at, end) {
            self.copy_to(at + 1);
        }
        if let Some((at, Token { kind: Kind::Word, .. })) = self.next(self.at, end) {
            self.copy_to(at + 1);
        }
        // The engine takes `is in x` for the test `in` with an argument, whatever `x` is.
    }

    /// The end of the operand that begins at `at`: a value with its attributes, subscripts, calls and filters.
    fn operand_end(&self, at: usize, end: usize) -> usize {
        let after_bracket = |at: usize| (self.brackets[at].0 + 1).min(end);
        let mut result = match self.tokens[at].kind {
            Kind::Open => after_bracket(at),
            _ => at + 1,
        };
        loop {
            let Some((next, token)) = self.next(result, end) else { return result };
            let strings = token.kind == Kind::Text && self.tokens[result - 1].kind == Kind::Text;
            result = match token.text {
                "(" | "[" => after_bracket(next),
                "." | "|" => match self.next(next + 1, end) {
                    Some((name, t)) if matches!(t.kind, Kind::Word | Kind::Number) => name + 1,
                    _ => return result,
                },
                _ if strings => next + 1,
                _ => return result,
            };
        }
    }

    /// Copies an operand; what is inside its brackets is a sequence of expressions again.
    fn operand(&mut self, end: usize, depth: usize) {
        let begin = self.at;
        while self.at < end {
            let at = self.at;
            if self.tokens[at].kind != Kind::Open {
                self.copy();
                continue;
            }
            let (close, has_comma) = self.brackets[at];
            // At the beginning it is a value, later a call or a subscript.
            let literal = at == begin && (self.tokens[at].text != "(" || has_comma);
            self.copy();
            self.sequence(close.min(end), Context { literal, ..Context::default() }, depth + 1);
        }
    }
}

fn is_keyword(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "in" | "is" | "if" | "else")
}

fn is_operator(token: &str) -> bool {
    matches!(token, "~" | "+" | "-" | "*" | "/" | "//" | "%" | "**" | "==" | "!=" | "<" | ">" | "<=" | ">=" | "in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_operands_and_nothing_else() {
        for (source, expected) in [
            ("{{ a ~ b }}", "{{ a|C ~ b|C }}"),
            ("{{ a }}{{ -a }}{{ a|upper }}", "{{ a }}{{ -a }}{{ a|upper }}"),
            ("{{- a.b['c'](d + 1) | trim + -x }}", "{{- a.b['c'](d|C + 1|C) | trim|C + -x|C }}"),
            ("{{ [a, {'k': b or c}, (d), (e, f)] }}", "{{ [a|C, {'k'|C: b|C or c|C}|C, (d)|C, (e|C, f|C)|C] }}"),
            ("{% if not a in b and c not in d %}", "{% if not a|C in b|C and c|C not in d|C %}"),
            ("{% for a, (b, c) in d.items() if e == 'in' %}", "{% for a, (b, c) in d.items() if e|C == 'in'|C %}"),
            ("{%- set ns.x = a, 1.5 -%}", "{%- set ns.x = a|C, 1.5|C -%}"),
            ("{% set x = f(k=a, j=b ~ 'x') %}", "{% set x = f(k=a, j=b|C ~ 'x'|C) %}"),
            ("{% set x %}{% endset %}", "{% set x %}{% endset %}"),
            ("{% call(a, b) m(c) %}", "{% call(a, b) m(c) %}"),
            ("{% macro m(a, b=[]) %}", "{% macro m(a, b=[]) %}"),
            ("{{ [x is divisibleby 3, y is not none] }}", "{{ [x|C is divisibleby 3|C, y|C is not none] }}"),
            ("{{ 'a' if b is defined else 'c' ~ d }}", "{{ 'a' if b is defined else 'c'|C ~ d|C }}"),
            ("{{ 1.5e+3 + 0x1F*7in a }}", "{{ 1.5e+3|C + 0x1F|F('first')*7|F('last')in a|C }}"),
            ("{{ in ~ in }}{{ a[1:-1] }}", "{{ in|C ~ in|C }}{{ a[1:-1] }}"),
            ("{{ {'a': {'b': '}}'}} }}", "{{ {'a'|C: {'b'|C: '}}'|C}|C} }}"),
            (
                "{# a ~ b #}{ a ~ b }{% raw %}{{ a ~ b }}{%- endraw %}{{a*2}}",
                "{# a ~ b #}{ a ~ b }{% raw %}{{ a ~ b }}{%- endraw %}{{a|F('first')*2|F('last')}}",
            ),
            (
                "{{ a * -b * c + d ** e * f }}",
                "{{ a|F('first') * -b|F('middle') * c|F('last') + d|C ** e|F('first_power') * f|F('last') }}",
            ),
            ("{{ 'it\\'s' + 1e-5 }}", "{{ 'it\\'s'|C + 1e-5|C }}"),
            ("{%- generation -%}a{% endgeneration +%}", "{%- if true -%}a{% endif +%}"),
            ("{{ generation }}", "{{ generation }}"),
        ] {
            assert_eq!(rewrite(source, true).replace(CHARGE, "C").replace(FACTOR, "F"), expected);
            if !source.contains("endgeneration") {
                assert_eq!(rewrite(source, false), source);
            }
        }
    }

    #[test]
    fn unfinished_templates_stay_what_they_are() {
        for source in [
            "{",
            "{{",
            "{%",
            "{#",
            "{{ (",
            "{% set",
            "{% raw %}",
            "{{ 'a",
            "{% for",
            "{% call(",
            "{{ a is",
            "{{ )]} ~ a }}",
        ] {
            assert_eq!(rewrite(source, false), source);
            rewrite(source, true);
        }
    }
}
