//! SentencePiece BPE out of GGUF metadata: pieces with scores become BPE with written-out merges and byte fallback.
//!
//! SentencePiece joins, of all neighbours whose join is a piece, the pair with the best-scored piece first. Merges in order
//! of the score of what they make do the same: that is how the transformers library converts such tokenizers, and the
//! order of equal scores here is its order.

use super::super::settings::shorten;
use super::SourceError;
use super::meta::Meta;
use super::tokenizer::{Token, TokenKind, bpe, vocab};
use crate::TokenId;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

/// Longest piece: trying all its cuts takes quadratic time. SentencePiece's own limit is 16 characters by default.
const MAX_PIECE_BYTES: usize = 512;

/// Normalizer, pre-tokenizer, decoder and model.
pub(super) fn parts(
    meta: &Meta<'_>,
    tokens: &[Token<'_>],
    unknown: Option<TokenId>,
) -> Result<Map<String, Json>, SourceError> {
    for key in ["tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.treat_whitespace_as_suffix"] {
        if meta.boolean(key)? == Some(true) {
            return meta.check.fail(key, "tokenizers that do this are not supported");
        }
    }
    if meta.array("tokenizer.ggml.precompiled_charsmap")?.is_some_and(|map| !map.is_empty()) {
        return meta
            .check
            .fail("tokenizer.ggml.precompiled_charsmap", "tokenizers that rewrite texts are not supported");
    }
    let prefix = meta.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let merges = merges(meta, tokens)?.into_iter().map(|m| json!([m.left, m.right])).collect();
    // Token 0 is the unknown one unless the file says otherwise.
    let unknown = match unknown {
        Some(id) => Some(tokens[id.0 as usize].text),
        None => tokens.first().filter(|t| t.kind == TokenKind::Unknown).map(|t| t.text),
    };
    let vocab = vocab(tokens);
    let byte_fallback = (0..=255u8).all(|b| vocab.contains_key(&format!("<0x{b:02X}>")));

    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let to_space_mark = replace(" ", "▁");
    let normalizers = match prefix {
        true => vec![json!({"type": "Prepend", "prepend": "▁"}), to_space_mark],
        false => vec![to_space_mark],
    };
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut parts = Map::new();
    parts.insert("normalizer".to_owned(), json!({"type": "Sequence", "normalizers": normalizers}));
    parts.insert("pre_tokenizer".to_owned(), Json::Null);
    parts.insert("decoder".to_owned(), json!({"type": "Sequence", "decoders": decoders}));
    parts.insert("model".to_owned(), bpe(vocab, merges, unknown, byte_fallback, false));
    Ok(parts)
}

struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    chars: (usize, usize),
}

/// Whether merges go through the token. Unused pieces are on the way to used ones, and what a text holds of a user-defined
/// one is joined like any other; structure is never made of text.
fn is_piece(token: &Token<'_>) -> bool {
    matches!(token.kind, TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined)
}

/// Every cut of a piece into two pieces, best-scored pieces first.
fn merges<'a>(meta: &Meta<'_>, tokens: &[Token<'a>]) -> Result<Vec<Merge<'a>>, SourceError> {
    let pieces: HashMap<&str, u32> =
        (0u32..).zip(tokens).filter(|(_, t)| is_piece(t)).map(|(id, t)| (t.text, id)).collect();
    let mut all = Vec::new();
    for token in tokens.iter().filter(|t| is_piece(t)) {
        if token.text.len() > MAX_PIECE_BYTES {
            if token.kind != TokenKind::Normal {
                continue;
            }
            let reason = format!("piece `{}` is longer than {MAX_PIECE_BYTES} bytes", shorten(token.text));
            return meta.check.fail("tokenizer.ggml.tokens", reason);
        }
        let chars = token.text.chars().count();
        let mut cuts: Vec<(u32, u32, Merge<'a>)> = Vec::new();
        for (n, (at, _)) in token.text.char_indices().enumerate().skip(1) {
            let (left, right) = token.text.split_at(at);
            if let (Some(l), Some(r)) = (pieces.get(left), pieces.get(right)) {
                cuts.push((*l, *r, Merge { left, right, score: token.score, chars: (n, chars - n) }));
            }
        }
        cuts.sort_by_key(|(l, r, _)| (*l, *r));
        all.extend(cuts.into_iter().map(|(.., merge)| merge));
    }
    // Stable: equal merges stay in the order of the vocabulary.
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.chars.cmp(&a.chars)));
    Ok(all)
}
