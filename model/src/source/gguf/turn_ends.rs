//! Tokens that end a turn or a text, by their names: GGUF metadata names one or two of a model's, and many converters gave
//! such tokens the type of ordinary text. llama.cpp goes by the same names.

use super::super::settings::shorten;
use super::tokenizer::{Token, TokenKind};
use crate::TokenId;
use std::path::Path;

/// Ends of turns, of messages to tools and of texts.
const NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    // What follows belongs to another file of the same repository.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Tokens that are structure although they end nothing: the places of a text that is to be filled in.
const FILL_IN: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// The tokens of `tokens` that end a turn, in their order, and makes them and those of [`FILL_IN`] control tokens.
pub(super) fn find(path: &Path, tokens: &mut [Token<'_>]) -> Vec<TokenId> {
    let has = |name: &str| tokens.iter().any(|t| t.text == name);
    // In formats with channels `<|end|>` ends a message, after which the model goes on.
    let goes_on = has("<|call|>") && has("<|return|>") || has("<|calls|>") && has("<|flush|>");
    // There `</s>` is a tag of markup.
    let markup = has("<|tool_response>");
    let mut found = Vec::new();
    for (id, token) in (0u32..).zip(tokens) {
        let ends =
            NAMES.contains(&token.text) && !(goes_on && token.text == "<|end|>") && !(markup && token.text == "</s>");
        if !ends && !FILL_IN.contains(&token.text) {
            continue;
        }
        if !matches!(token.kind, TokenKind::Control | TokenKind::UserDefined) {
            tracing::warn!(file = %path.display(), token = %shorten(token.text), id, "an end token of another type is taken for one");
        }
        token.kind = TokenKind::Control;
        if ends {
            found.push(TokenId(id));
        }
    }
    found
}
