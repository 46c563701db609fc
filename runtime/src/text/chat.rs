//! Conversations in which what a user typed is told apart from what the template wrote.
//!
//! A special token in a user's message (`<|im_end|>`) would end the turn, or open another one in somebody else's name. So
//! its spellings in messages that do not come from the model or its operator are marked with characters that no text
//! uses, the conversation is rendered with the marks, and they are looked for in the result. A template that does
//! anything to the text which the marks would change is noticed: without the marks the two renderings must be equal.

use super::{ChatTemplate, Message, RenderOptions, TextError, Tokenizer};
use serde_json::Value;
use std::{collections::HashSet, ops::Range};
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
        let text = self.render(messages, options)?;
        let special: Vec<String> = tokenizer.special_tokens().into_iter().map(|token| token.content).collect();
        let Some((open, close)) = unused_characters(messages) else {
            return Ok(ChatPrompt { text, typed: Vec::new(), told_apart: false });
        };
        let mut found = false;
        let marked: Vec<Message> = messages
            .iter()
            .map(|message| {
                let mut message = message.clone();
                if !TRUSTED_ROLES.contains(&message.role.as_str()) {
                    let mut mark = |value: &mut Value| mark(value, &special, (open, close), &mut found);
                    mark(&mut message.content);
                    message.extra.values_mut().for_each(mark);
                }
                message
            })
            .collect();
        if !found {
            return Ok(ChatPrompt { text, typed: Vec::new(), told_apart: true });
        }
        let rendered = self.render(&marked, options).ok().and_then(|marked| unmark(&marked, &special, (open, close)));
        let prompt = match rendered {
            Some((same, typed)) if same == text => ChatPrompt { text, typed, told_apart: true },
            _ => {
                tracing::warn!(
                    template = self.name(),
                    "the chat template changes what was typed: special tokens in it cannot be told from its own"
                );
                ChatPrompt { text, typed: Vec::new(), told_apart: false }
            }
        };
        Ok(prompt)
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

/// Two characters of private use that occur in no message.
fn unused_characters(messages: &[Message]) -> Option<(char, char)> {
    fn collect(value: &Value, used: &mut HashSet<char>) {
        match value {
            Value::String(text) => used.extend(text.chars().filter(|c| *c >= '\u{F0000}')),
            Value::Array(list) => list.iter().for_each(|value| collect(value, used)),
            Value::Object(map) => map.values().for_each(|value| collect(value, used)),
            _ => {}
        }
    }
    let mut used = HashSet::new();
    for message in messages {
        collect(&message.content, &mut used);
        message.extra.values().for_each(|value| collect(value, &mut used));
    }
    let mut unused = ('\u{F0000}'..='\u{FFFFD}').filter(|c| !used.contains(c));
    Some((unused.next()?, unused.next()?))
}

/// Puts marks around every spelling of a special token.
fn mark(value: &mut Value, special: &[String], marks: (char, char), found: &mut bool) {
    match value {
        Value::String(text) => {
            if let Some(marked) = mark_text(text, special, marks) {
                *text = marked;
                *found = true;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| mark(value, special, marks, found)),
        Value::Object(map) => map.values_mut().for_each(|value| mark(value, special, marks, found)),
        _ => {}
    }
}

fn mark_text(text: &str, special: &[String], (open, close): (char, char)) -> Option<String> {
    let mut marked: Option<String> = None;
    let (mut done, mut at) = (0, 0);
    let begins = |c: char| special.iter().any(|token| token.starts_with(c));
    let begins: HashSet<char> = text.chars().collect::<HashSet<_>>().into_iter().filter(|c| begins(*c)).collect();
    while let Some(c) = text[at..].chars().next() {
        if !begins.contains(&c) {
            at += c.len_utf8();
            continue;
        }
        let longest = special.iter().filter(|token| text[at..].starts_with(token.as_str())).map(String::len).max();
        let Some(length) = longest else {
            at += c.len_utf8();
            continue;
        };
        let out = marked.get_or_insert_with(String::new);
        out.push_str(&text[done..at]);
        out.push(open);
        out.push_str(&text[at..at + length]);
        out.push(close);
        at += length;
        done = at;
    }
    marked.map(|mut out| {
        out.push_str(&text[done..]);
        out
    })
}

/// The text without marks, and where a special token stood between two; `None` if marks stand otherwise.
fn unmark(marked: &str, special: &[String], (open, close): (char, char)) -> Option<(String, Vec<Range<usize>>)> {
    let (mut text, mut typed, mut begin) = (String::with_capacity(marked.len()), Vec::new(), None);
    for c in marked.chars() {
        if c == open {
            if begin.replace(text.len()).is_some() {
                return None;
            }
        } else if c == close {
            let begin = begin.take()?;
            if !special.iter().any(|token| **token == text[begin..]) {
                return None;
            }
            typed.push(begin..text.len());
        } else {
            text.push(c);
        }
    }
    begin.is_none().then_some((text, typed))
}
