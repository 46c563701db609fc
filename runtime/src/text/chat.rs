//! Conversations in which what a user typed is told apart from what the template wrote.
//!
//! A special token in a user's message (`<|im_end|>`) would end the turn, or open another one in somebody else's name. So
//! what does not come from the model or its operator is marked with characters that no text uses, the conversation is
//! rendered with the marks, and they are looked for in the result. A template that does anything to the text which the marks
//! would change is noticed: without the marks the two renderings must be equal.
//!
//! Two kinds of marks are tried. The first stands for the characters of which special tokens are made, so that a special
//! token is known for typed wherever a template cuts the text, and whatever it joins. Templates that look for something
//! in the text get the second: marks around the special tokens that are spelled out.

use super::{ChatTemplate, CivilTime, Message, RenderOptions, TextError, Tokenizer};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};
use tokenizers::AddedToken;

/// Who may write special tokens: the operator and the model itself.
const TRUSTED_ROLES: [&str; 4] = ["system", "developer", "assistant", "model"];

/// A rendered conversation, for [`Tokenizer::encode_chat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    text: String,
    /// Spellings of special tokens that were typed, ascending.
    typed: Vec<Range<usize>>,
    told_apart: bool,
}

/// A part of a prompt that is encoded by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: Range<usize>,
    /// Special tokens in it are text.
    pub(super) plain: bool,
}

impl ChatTemplate {
    /// The prompt for a conversation, in which special tokens that users or tools wrote are text.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn prompt(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        tokenizer: &Tokenizer,
    ) -> Result<ChatPrompt, TextError> {
        self.prompt_trusting(&TRUSTED_ROLES, messages, options, tokenizer)
    }

    /// As [`Self::prompt`], with the roles whose special tokens count.
    pub(crate) fn prompt_trusting(
        &self,
        trusted: &[&str],
        messages: &[Message],
        options: &RenderOptions,
        tokenizer: &Tokenizer,
    ) -> Result<ChatPrompt, TextError> {
        // One moment for all renderings.
        let options = &RenderOptions { now: Some(options.now.unwrap_or_else(CivilTime::now_utc)), ..options.clone() };
        let text = self.render(messages, options)?;
        let special: Vec<String> = tokenizer.special_tokens().into_iter().map(|token| token.content).collect();
        let spelled = |text: &str| !occurrences(text, &special).is_empty();
        if !spelled(&text) {
            return Ok(ChatPrompt { text, typed: Vec::new(), told_apart: true });
        }
        let mut unused = unused_characters(messages);
        let signs: BTreeSet<char> = special.iter().flat_map(|token| token.chars()).filter(|c| !is_layout(*c)).collect();
        let signs: HashMap<char, char> = signs.into_iter().zip(&mut unused).collect();
        let back: HashMap<char, char> = signs.iter().map(|(sign, mark)| (*mark, *sign)).collect();
        let rendered = |mark: &dyn Fn(&str) -> String| self.render(&with_marks(messages, trusted, mark), options).ok();
        let replaced = rendered(&|text| text.chars().map(|c| *signs.get(&c).unwrap_or(&c)).collect());
        if let Some(typed) = replaced.and_then(|marked| typed_signs(&marked, &back, &text, &special)) {
            return Ok(ChatPrompt { text, typed, told_apart: true });
        }
        let mut found = false;
        with_marks(messages, trusted, |text: &str| {
            found |= spelled(text);
            text.to_owned()
        });
        if !found {
            return Ok(ChatPrompt { text, typed: Vec::new(), told_apart: true });
        }
        let marks = unused.next().zip(unused.next());
        let typed = marks.and_then(|marks| {
            let marked = rendered(&|text| around(text, &occurrences(text, &special), marks))?;
            let (same, typed) = unmark(&marked, &special, marks)?;
            (same == text).then_some(typed)
        });
        let told_apart = typed.is_some();
        if !told_apart {
            tracing::warn!(
                template = self.name(),
                "the chat template changes what was typed: special tokens in it cannot be told from its own"
            );
        }
        Ok(ChatPrompt { text, typed: typed.unwrap_or_default(), told_apart })
    }
}

impl ChatPrompt {
    /// A conversation rendered elsewhere: every special token in it counts.
    #[must_use]
    pub fn trusted(text: impl Into<String>) -> Self {
        Self { text: text.into(), typed: Vec::new(), told_apart: true }
    }

    /// The whole prompt.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many special tokens were typed, and are text.
    #[must_use]
    pub fn typed(&self) -> usize {
        self.typed.len()
    }

    /// Whether what was typed could be told apart; if not, special tokens in it count as the template's own.
    #[must_use]
    pub fn told_apart(&self) -> bool {
        self.told_apart
    }

    /// Cuts the prompt at its own special tokens, so that each part with something typed is whole between two of them:
    /// tokens never reach across a special one, so the ids are those of the whole.
    pub(super) fn parts(&self, special: &[AddedToken]) -> Vec<Part> {
        if self.typed.is_empty() {
            return vec![Part { range: 0..self.text.len(), plain: false }];
        }
        let own = self.own_tokens(special);
        let mut parts = Vec::new();
        let mut done = 0;
        let mut push = |range: Range<usize>, plain| {
            if !range.is_empty() {
                parts.push(Part { range, plain });
            }
        };
        for i in 0..=own.len() {
            let before = i.checked_sub(1).map(|i| &own[i]);
            let after = own.get(i);
            let mut begin = before.map_or(0, |(range, _)| range.end);
            let mut end = after.map_or(self.text.len(), |(range, _)| range.start);
            let mut typed = self.typed.iter().filter(|t| t.start >= begin && t.end <= end);
            let (Some(first), Some(last)) = (typed.clone().next(), typed.next_back()) else { continue };
            // Spaces that a special token takes with it stay beside it.
            if before.is_some_and(|(_, token)| token.rstrip) {
                let text = &self.text[begin..first.start];
                begin = first.start - text.trim_start().len();
            }
            if after.is_some_and(|(_, token)| token.lstrip) {
                let text = &self.text[last.end..end];
                end = last.end + text.trim_end().len();
            }
            push(done..begin, false);
            push(begin..end, true);
            done = end;
        }
        push(done..self.text.len(), false);
        parts
    }

    /// The special tokens that were not typed, where they are.
    fn own_tokens<'a>(&self, special: &'a [AddedToken]) -> Vec<(Range<usize>, &'a AddedToken)> {
        let mut found: Vec<(Range<usize>, &AddedToken)> = special
            .iter()
            .flat_map(|token| {
                self.text.match_indices(&token.content).map(move |(at, text)| (at..at + text.len(), token))
            })
            .filter(|(range, _)| {
                let next = self.typed.partition_point(|t| t.end <= range.start);
                self.typed.get(next).is_none_or(|t| t.start >= range.end)
            })
            .collect();
        // The leftmost, of those the longest, then what does not overlap it.
        found.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
        let mut end = 0;
        found.retain(|(range, _)| {
            let free = range.start >= end;
            if free {
                end = range.end;
            }
            free
        });
        found
    }
}

/// Characters of private use that occur in no message.
fn unused_characters(messages: &[Message]) -> impl Iterator<Item = char> {
    let mut used = HashSet::new();
    for message in messages {
        let collect = &mut |text: &str| {
            used.extend(text.chars().filter(|c| *c >= '\u{F0000}'));
            text.to_owned()
        };
        map_texts(&mut message.content.clone(), collect);
        message.extra.values().for_each(|value| map_texts(&mut value.clone(), collect));
    }
    ('\u{F0000}'..='\u{FFFFD}').filter(move |c| !used.contains(c))
}

/// Characters by which templates cut texts, or which they write in another way.
fn is_layout(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '\\')
}

/// The messages, with what strangers wrote as `mark` makes it.
fn with_marks(messages: &[Message], trusted: &[&str], mut mark: impl FnMut(&str) -> String) -> Vec<Message> {
    let mut messages = messages.to_vec();
    for message in messages.iter_mut().filter(|message| !trusted.contains(&message.role.as_str())) {
        map_texts(&mut message.content, &mut mark);
        message.extra.values_mut().for_each(|value| map_texts(value, &mut mark));
    }
    messages
}

/// Changes every text, but for the kinds of a message's parts.
fn map_texts(value: &mut Value, change: &mut dyn FnMut(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(list) => list.iter_mut().for_each(|value| map_texts(value, change)),
        Value::Object(map) => {
            map.iter_mut().filter(|(key, _)| *key != "type").for_each(|(_, value)| map_texts(value, change));
        }
        _ => {}
    }
}

/// Where special tokens stand in a text: the leftmost, of those the longest, then what does not overlap it.
fn occurrences(text: &str, special: &[String]) -> Vec<Range<usize>> {
    let begins: HashSet<char> = special.iter().filter_map(|token| token.chars().next()).collect();
    let (mut found, mut end) = (Vec::new(), 0);
    for (at, _) in text.char_indices().filter(|(_, c)| begins.contains(c)) {
        let longest = special.iter().filter(|token| text[at..].starts_with(token.as_str())).map(String::len).max();
        if let (true, Some(length)) = (at >= end, longest) {
            end = at + length;
            found.push(at..end);
        }
    }
    found
}

/// The special tokens of `text` in which anything was typed; `None` if the marked rendering is another text.
fn typed_signs(marked: &str, back: &HashMap<char, char>, text: &str, special: &[String]) -> Option<Vec<Range<usize>>> {
    let mut typed = Vec::new();
    let mut rest = text.char_indices();
    for c in marked.chars() {
        let (at, same) = rest.next()?;
        let sign = back.get(&c);
        if *sign.unwrap_or(&c) != same {
            return None;
        }
        typed.extend(sign.map(|_| at));
    }
    let touched = |range: &Range<usize>| {
        let next = typed.partition_point(|at| *at < range.start);
        typed.get(next).is_some_and(|at| *at < range.end)
    };
    let found = || occurrences(text, special).into_iter().filter(touched).collect();
    rest.next().is_none().then(found)
}

/// A text with marks around parts of it.
fn around(text: &str, parts: &[Range<usize>], (open, close): (char, char)) -> String {
    let (mut marked, mut done) = (String::with_capacity(text.len()), 0);
    for part in parts {
        marked.push_str(&text[done..part.start]);
        marked.push(open);
        marked.push_str(&text[part.clone()]);
        marked.push(close);
        done = part.end;
    }
    marked + &text[done..]
}

/// The text without marks, and where a special token stands between two. `None` if marks stand otherwise, or if a template
/// put a special token between them.
fn unmark(marked: &str, special: &[String], (open, close): (char, char)) -> Option<(String, Vec<Range<usize>>)> {
    let (mut text, mut typed, mut begin) = (String::with_capacity(marked.len()), Vec::new(), None);
    for c in marked.chars() {
        if c == open {
            if begin.replace(text.len()).is_some() {
                return None;
            }
        } else if c == close {
            let part = begin.take()?..text.len();
            match &occurrences(&text[part.clone()], special)[..] {
                // The template made it another text.
                [] => {}
                [whole] if whole.len() == part.len() => typed.push(part),
                _ => return None,
            }
        } else {
            text.push(c);
        }
    }
    begin.is_none().then_some((text, typed))
}
