//! Cutting a text into pieces before tokens are looked for, exactly, whatever the length of a run.
//!
//! The tokenizers library cuts with a backtracking engine that gives up on runs of a million characters and then leaves
//! the rest of the text uncut, without a word. [`Cutter`] stands in the place of the library's steps that use it. Almost all
//! expressions of language models are alternatives of which one looks ahead, `\s+(?!\S)`: that one is computed here, the
//! others by an automaton in linear time. What needs more goes to the backtracking engine, and where that gives up, the
//! text is refused.

use regex_automata::{Anchored, Input, meta, util::syntax};
use serde::{Deserialize, Deserializer};
use std::sync::{Arc, LazyLock};
use tokenizers::{
    Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Result, SplitDelimiterBehavior,
    pattern::{Invert, Pattern},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The alternative that is computed here: spaces up to the last one before something else.
const SPACES_BEFORE: &str = r"\s+(?!\S)";
/// How the library's `ByteLevel` cuts: GPT-2's expression.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
static GPT2_EXPRESSION: LazyLock<std::result::Result<Arc<Expression>, String>> =
    LazyLock::new(|| Expression::new(GPT2).map(Arc::new));
/// Memory of one automaton: classes of Unicode are large.
const MAX_AUTOMATON_BYTES: usize = 16 << 20;
/// Steps that the backtracking engine may take to find one piece …
const MAX_STEPS: usize = 50_000;
/// … and in texts of this length, once for each such length in them, …
const LONG_BYTES: usize = 4096;
/// … where a run may be long.
const MAX_LONG_STEPS: usize = 20_000_000;

/// A pre-tokenizer of `tokenizer.json`.
#[derive(Clone, Debug)]
pub(super) enum Cutter {
    Library(PreTokenizerWrapper),
    Expression { expression: Arc<Expression>, behavior: SplitDelimiterBehavior, invert: bool },
    ByteLevel { expression: Arc<Expression>, prefix: bool },
    Sequence(Vec<Cutter>),
}

impl Cutter {
    fn new(json: &serde_json::Value, depth: usize) -> std::result::Result<Self, String> {
        if depth > 8 {
            return Err("pre-tokenizers nested too deeply".to_owned());
        }
        let library = || {
            let step = PreTokenizerWrapper::deserialize(json).map_err(|e| format!("pre_tokenizer: {e}"))?;
            Ok(Self::Library(step))
        };
        match json.get("type").and_then(serde_json::Value::as_str) {
            Some("Sequence") => {
                let steps = json.get("pretokenizers").and_then(serde_json::Value::as_array);
                let steps = steps.ok_or_else(|| "a Sequence without pretokenizers".to_owned())?;
                steps
                    .iter()
                    .map(|step| Self::new(step, depth + 1))
                    .collect::<std::result::Result<_, _>>()
                    .map(Self::Sequence)
            }
            Some("Split") => {
                let Some(pattern) = json.pointer("/pattern/Regex").and_then(serde_json::Value::as_str) else {
                    return library();
                };
                let split: Split = Split::deserialize(json).map_err(|e| format!("pre_tokenizer: {e}"))?;
                let expression = Arc::new(Expression::new(pattern)?);
                Ok(Self::Expression { expression, behavior: split.behavior, invert: split.invert })
            }
            Some("ByteLevel") => {
                let step = ByteLevel::deserialize(json).map_err(|e| format!("pre_tokenizer: {e}"))?;
                if !step.use_regex {
                    return library();
                }
                let expression = GPT2_EXPRESSION.as_ref().map_err(String::clone)?;
                Ok(Self::ByteLevel { expression: Arc::clone(expression), prefix: step.add_prefix_space })
            }
            _ => library(),
        }
    }
}

#[derive(Deserialize)]
struct Split {
    behavior: SplitDelimiterBehavior,
    invert: bool,
}

impl<'de> Deserialize<'de> for Cutter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let json = serde_json::Value::deserialize(deserializer)?;
        Self::new(&json, 0).map_err(serde::de::Error::custom)
    }
}

impl PreTokenizer for Cutter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        match self {
            Self::Library(step) => step.pre_tokenize(text),
            Self::Sequence(steps) => steps.iter().try_for_each(|step| step.pre_tokenize(text)),
            Self::Expression { expression, behavior, invert: true } => {
                text.split(|_, piece| piece.split(Invert(&**expression), *behavior))
            }
            Self::Expression { expression, behavior, invert: false } => {
                text.split(|_, piece| piece.split(&**expression, *behavior))
            }
            Self::ByteLevel { expression, prefix } => {
                text.split(|_, mut piece| {
                    if *prefix && !piece.get().starts_with(' ') {
                        piece.prepend(" ");
                    }
                    piece.split(&**expression, SplitDelimiterBehavior::Isolated)
                })?;
                ByteLevel::new(false, true, false).pre_tokenize(text)
            }
        }
    }
}

/// A regular expression in the manner of Oniguruma, which transformers uses.
#[derive(Debug)]
pub(super) struct Expression(Engine);

#[derive(Debug)]
enum Engine {
    /// Alternatives in order, and where in them `\s+(?!\S)` stands.
    Automaton { all: meta::Regex, spaces: Option<Spaces> },
    /// With few steps for a piece, and with many.
    Backtracking(Box<[fancy_regex::Regex; 2]>),
}

#[derive(Debug)]
struct Spaces {
    /// Which of the patterns of `all` is `\s+`.
    index: usize,
    /// The alternatives after it.
    rest: Option<meta::Regex>,
}

impl Expression {
    /// # Errors
    /// Says what is wrong with the expression.
    pub(super) fn new(pattern: &str) -> std::result::Result<Self, String> {
        let pattern = as_oniguruma(pattern);
        let parts = alternatives(&pattern);
        let greedy: Vec<String> = parts.iter().map(|part| without_possession(part)).collect();
        let spaces = parts.iter().position(|part| *part == SPACES_BEFORE);
        let patterns: Vec<&str> =
            greedy.iter().map(|part| if part == SPACES_BEFORE { r"\s+" } else { part.as_str() }).collect();
        let build = |patterns: &[&str]| {
            let config = meta::Config::new().nfa_size_limit(Some(MAX_AUTOMATON_BYTES));
            // Oniguruma's `^` and `$` are those of lines.
            let syntax = syntax::Config::new().multi_line(true);
            meta::Builder::new().configure(config).syntax(syntax).build_many(patterns).ok()
        };
        // An automaton would read what is left of possessive quantifiers as a repetition of a repetition.
        let possessive = patterns.iter().any(|part| ["?+", "*+", "++"].iter().any(|q| part.contains(q)));
        let rest = spaces.filter(|at| at + 1 < patterns.len()).map(|at| build(&patterns[at + 1..]));
        if let (false, Some(all), None | Some(Some(_))) = (possessive, build(&patterns), &rest) {
            let spaces = spaces.map(|index| Spaces { index, rest: rest.flatten() });
            return Ok(Self(Engine::Automaton { all, spaces }));
        }
        let build = |steps| {
            let regex = fancy_regex::RegexBuilder::new(&format!("(?m:{pattern})")).backtrack_limit(steps).build();
            regex.map_err(|e| format!("the expression {pattern:?}: {e}").chars().take(300).collect::<String>())
        };
        Ok(Self(Engine::Backtracking(Box::new([build(MAX_STEPS)?, build(MAX_LONG_STEPS)?]))))
    }

    /// The first match at or after `from`.
    /// `long_runs` is how many more may take [`MAX_LONG_STEPS`].
    fn find(&self, text: &str, from: usize, long_runs: &mut usize) -> Result<Option<(usize, usize)>> {
        let (all, spaces) = match &self.0 {
            Engine::Automaton { all, spaces } => (all, spaces),
            Engine::Backtracking(regexes) => {
                let [usual, long] = &**regexes;
                let mut found = usual.find_from_pos(text, from);
                if found.is_err() && *long_runs > 0 {
                    *long_runs -= 1;
                    found = long.find_from_pos(text, from);
                }
                let found = found.map_err(|e| {
                    format!("it cannot be cut from byte {from} on, a run there is too long for this tokenizer's expression: {e}")
                })?;
                return Ok(found.map(|m| (m.start(), m.end())));
            }
        };
        let mut from = from;
        while let Some(found) = all.search(&Input::new(text).range(from..)) {
            let (start, end) = (found.start(), found.end());
            let Some(spaces) = spaces.as_ref().filter(|s| s.index == found.pattern().as_usize()) else {
                return Ok(Some((start, end)));
            };
            let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
            if end == text.len() {
                return Ok(Some((start, end)));
            }
            if end - last > start {
                return Ok(Some((start, end - last)));
            }
            // A single space before something else is no match of this alternative: those after it have their turn.
            let anchored = Input::new(text).range(start..).anchored(Anchored::Yes);
            if let Some(found) = spaces.rest.as_ref().and_then(|rest| rest.search(&anchored)) {
                return Ok(Some((found.start(), found.end())));
            }
            from = end;
        }
        Ok(None)
    }
}

impl Pattern for &Expression {
    fn find_matches(&self, inside: &str) -> Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut pieces = Vec::new();
        let (mut done, mut from, mut last_end) = (0, 0, None);
        let mut long_runs = inside.len() / LONG_BYTES;
        while from <= inside.len() {
            let Some((start, end)) = self.find(inside, from, &mut long_runs)? else { break };
            from = end;
            if start == end {
                from += inside[end..].chars().next().map_or(1, char::len_utf8);
                // An empty match right after another one is none.
                if last_end == Some(end) {
                    continue;
                }
            }
            last_end = Some(end);
            if done != start {
                pieces.push(((done, start), false));
            }
            pieces.push(((start, end), true));
            done = end;
        }
        if done != inside.len() {
            pieces.push(((done, inside.len()), false));
        }
        Ok(pieces)
    }
}

/// The parts between `|` outside of brackets.
fn alternatives(pattern: &str) -> Vec<&str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut round, mut square, mut escaped) = (0i64, 0i64, false);
    for (at, c) in pattern.char_indices() {
        match c {
            _ if escaped => {
                escaped = false;
                continue;
            }
            '\\' => escaped = true,
            '[' => square += 1,
            ']' => square = (square - 1).max(0),
            '(' if square == 0 => round += 1,
            ')' if square == 0 => round -= 1,
            '|' if square == 0 && round == 0 => {
                parts.push(&pattern[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&pattern[begin..]);
    parts
}

/// One element of an alternative: an atom, and what is repeated of it.
struct Element<'a> {
    atom: &'a str,
    quantifier: &'a str,
}

fn elements(part: &str) -> Vec<Element<'_>> {
    let mut found = Vec::new();
    let mut rest = part;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\\' => escape_bytes(rest),
            '[' | '(' => bracket_bytes(rest),
            c => c.len_utf8(),
        };
        let (atom, after) = rest.split_at(length.min(rest.len()));
        let quantifier = quantifier_bytes(after);
        found.push(Element { atom, quantifier: &after[..quantifier] });
        rest = &after[quantifier..];
    }
    found
}

/// Length of an escape: `\p{…}`, `\x{…}`, `\uXXXX` or one character.
fn escape_bytes(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    let Some((at, kind)) = chars.next() else { return text.len() };
    let after = at + kind.len_utf8();
    match (kind, chars.next()) {
        ('p' | 'P' | 'x' | 'u' | 'k' | 'g', Some((_, '{'))) => text.find('}').map_or(text.len(), |end| end + 1),
        ('u', _) => (after + 4).min(text.len()),
        ('x', _) => (after + 2).min(text.len()),
        _ => after,
    }
}

/// Length of what is in brackets, with them.
fn bracket_bytes(text: &str) -> usize {
    let (mut round, mut square, mut escaped) = (0i64, 0i64, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => square += 1,
            ']' => square -= 1,
            '(' if square <= 0 => round += 1,
            ')' if square <= 0 => round -= 1,
            _ => {}
        }
        if round <= 0 && square <= 0 && !escaped {
            return at + c.len_utf8();
        }
    }
    text.len()
}

fn quantifier_bytes(text: &str) -> usize {
    let base = match text.chars().next() {
        Some('?' | '*' | '+') => 1,
        Some('{') => match text.find('}') {
            Some(end) if text[1..end].chars().all(|c| c.is_ascii_digit() || c == ',') && end > 1 => end + 1,
            _ => return 0,
        },
        _ => return 0,
    };
    base + usize::from(text[base..].starts_with(['?', '+']))
}

/// An alternative with greedy quantifiers for possessive ones (`++`) where that makes no difference: where nothing that
/// follows can fail, or can match what the quantifier would have to give back.
fn without_possession(part: &str) -> String {
    let elements = elements(part);
    let nullable = |e: &Element<'_>| e.quantifier.starts_with(['?', '*']);
    let mut out = String::with_capacity(part.len());
    for (i, element) in elements.iter().enumerate() {
        out.push_str(element.atom);
        let possessive = element.quantifier.len() == 2 && element.quantifier.ends_with('+');
        let follows = elements[i + 1..].iter().find(|e| !nullable(e));
        let needless = match follows {
            None => true,
            // `[^\p{L}]?+\p{L}+`: what is given back is no letter. Nothing nullable may stand between.
            Some(next) => {
                std::ptr::eq(next, &elements[i + 1])
                    && element.atom.starts_with("[^")
                    && !element.atom.contains("&&")
                    && element.atom.contains(next.atom)
            }
        };
        match element.quantifier.strip_suffix('+') {
            Some(greedy) if possessive && needless => out.push_str(greedy),
            _ => out.push_str(element.quantifier),
        }
    }
    out
}

/// Classes that are Unicode's in Oniguruma and others in the engines here: those by name, and the characters of words,
/// which are not to have joiners among them.
const CLASSES: [(&str, &str); 9] = [
    ("[:alpha:]", r"\p{Alphabetic}"),
    ("[:digit:]", r"\p{Nd}"),
    ("[:alnum:]", r"\p{Alphabetic}\p{Nd}"),
    ("[:upper:]", r"\p{Uppercase}"),
    ("[:lower:]", r"\p{Lowercase}"),
    ("[:space:]", r"\s"),
    ("[:punct:]", r"\p{P}$+<=>\^`|\~"),
    ("[:word:]", WORD),
    (r"\w", WORD),
];
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";

/// Writes [`CLASSES`] out.
fn with_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut at, mut square) = (0, 0i64);
    while let Some(c) = pattern[at..].chars().next() {
        let rest = &pattern[at..];
        if let Some((name, class)) = CLASSES.iter().find(|(name, _)| rest.starts_with(name)) {
            let class = if square > 0 { (*class).to_owned() } else { format!("[{class}]") };
            out.push_str(&class);
            at += name.len();
            continue;
        }
        if rest.starts_with(r"\W") {
            out.push_str(&format!("[^{WORD}]"));
            at += 2;
            continue;
        }
        let length = if c == '\\' { escape_bytes(rest) } else { c.len_utf8() };
        square = (square + i64::from(c == '[') - i64::from(c == ']')).max(0);
        out.push_str(&rest[..length]);
        at += length;
    }
    out
}

/// What Oniguruma reads differently, written so that it means the same here: `{1,3}+` repeats, and is not possessive.
fn as_oniguruma(pattern: &str) -> String {
    let pattern = with_classes(pattern);
    let pattern = pattern.as_str();
    if !pattern.contains("}+") {
        return pattern.to_owned();
    }
    let mut out = String::with_capacity(pattern.len() + 8);
    let parts = alternatives(pattern);
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            out.push('|');
        }
        for element in elements(part) {
            match element.quantifier.strip_suffix('+') {
                Some(counted) if counted.ends_with('}') => {
                    out.push_str(&format!("(?:{}{counted})+", element.atom));
                }
                _ => {
                    out.push_str(element.atom);
                    out.push_str(element.quantifier);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn pieces(pattern: &str, text: &str) -> Vec<String> {
        let expression = Expression::new(pattern).unwrap();
        let found = (&expression).find_matches(text).unwrap();
        let mut at = 0;
        for ((start, end), _) in &found {
            assert_eq!(*start, at, "{pattern} {text:?}");
            at = *end;
        }
        assert_eq!(at, text.len());
        found.into_iter().map(|((start, end), _)| text[start..end].to_owned()).collect()
    }

    /// The library's own way, while it does not give up.
    fn by_library(pattern: &str, text: &str) -> Vec<String> {
        let regex = tokenizers::utils::SysRegex::new(pattern).unwrap();
        let found = (&regex).find_matches(text).unwrap();
        found.into_iter().map(|((start, end), _)| text[start..end].to_owned()).collect()
    }

    fn is_linear(pattern: &str) -> bool {
        matches!(Expression::new(pattern).unwrap().0, Engine::Automaton { .. })
    }

    #[test]
    fn spaces_before_something_keep_their_last() {
        assert_eq!(pieces(LLAMA3, "a   b  \n c  "), ["a", "  ", " b", "  \n", " c", "  "]);
        assert_eq!(pieces(GPT2, "a  1 \n"), ["a", " ", " 1", " \n"]);
        // Without an alternative for a single space it is left over.
        assert_eq!(pieces(r"\p{L}+|\s+(?!\S)", "a b  c"), ["a", " ", "b", " ", " ", "c"]);
    }

    #[test]
    fn a_run_of_any_length_is_cut() {
        for run in [".", " ", "a", "\n"] {
            let text = format!("{} 1234", run.repeat(1_100_000));
            let found = pieces(LLAMA3, &text);
            assert_eq!(&found[found.len() - 2..], ["123", "4"], "{run:?}");
            assert!(found.len() <= 5, "{run:?}: {}", found.len());
        }
    }

    #[test]
    fn what_is_too_long_for_backtracking_is_refused() {
        let expression = Expression::new(r"(a|b)+(?=c)|\s+").unwrap();
        assert!(!is_linear(r"(a|b)+(?=c)|\s+"));
        let error = (&expression).find_matches(&"ab".repeat(2_000_000)).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn possessive_quantifiers_are_linear_where_they_make_no_difference() {
        let cl100k = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
        assert!(is_linear(cl100k) && is_linear(LLAMA3) && is_linear(GPT2));
        assert!(!is_linear(r"a++a|b"));
        assert_eq!(pieces(r"a++a|b", "aaab"), ["aaa", "b"]);
        for text in ["it's 12345 o'clock!!\r\n\n  x", "  ...a 'LL ", "é漢字 🦊  "] {
            assert_eq!(pieces(cl100k, text), by_library(cl100k, text), "{text:?}");
        }
    }

    #[test]
    fn counted_repetitions_and_lines_are_oniguruma_s() {
        assert_eq!(pieces(r"\p{N}{1,3}+", "1234567a"), ["1234567", "a"]);
        assert_eq!(pieces(r"\s+$", "a  \nb"), ["a", "  ", "\nb"]);
        assert_eq!(pieces("^a", "a\na"), ["a", "\n", "a"]);
    }

    #[derive(Deserialize)]
    struct Goldens {
        texts: Vec<String>,
        cases: Vec<Golden>,
    }

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        pattern: String,
        pieces: Vec<Vec<String>>,
    }

    #[test]
    fn cuts_as_oniguruma_does() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer/cuts.json");
        let goldens: Goldens = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(goldens.cases.len() >= 20);
        for golden in &goldens.cases {
            for (text, expected) in goldens.texts.iter().zip(&golden.pieces) {
                let found: Vec<String> =
                    pieces(&golden.pattern, text).into_iter().filter(|piece| !piece.is_empty()).collect();
                assert_eq!(&found, expected, "{} {text:?}", golden.name);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn cuts_as_the_library(text in "[ \t\na-cA-C'’stéß漢1-3.!?\u{301}\u{2003}🦊_]{0,40}") {
            for pattern in [LLAMA3, GPT2, r"\p{N}", r"[^\s]+|\s", r"(?=(\d{3})+(?!\d))", r"\s?\p{P}+"] {
                proptest::prop_assert_eq!(pieces(pattern, &text), by_library(pattern, &text), "{}", pattern);
            }
        }
    }
}
