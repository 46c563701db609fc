//! The tokenizer in GGUF metadata, rebuilt as a `tokenizer.json`.
//!
//! `gpt2` is byte-level BPE with its merges written out. `llama` is SentencePiece BPE: there the merges are implied by the
//! scores (the best-scored piece that two neighbours form is merged first), and [`super::spm`] writes them out.

use super::super::settings::shorten;
use super::SourceError;
use super::meta::Meta;
use super::parse::Value;
use super::pretokenizer;
use super::spm;
use super::turn_ends;
use crate::limits::MAX_VOCAB;
use crate::{DecoderConfig, TokenId, TokenizerData};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// Kind of a token, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A token of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) kind: TokenKind,
    pub(super) score: f32,
}

/// Reads the tokenizer, and completes `config` with its special tokens.
pub(super) fn read(meta: &Meta<'_>, config: &mut DecoderConfig) -> Result<TokenizerData, SourceError> {
    let check = meta.check;
    let chat_templates = chat_templates(meta)?;
    let model = match meta.string("tokenizer.ggml.model")? {
        Some("none" | "no_vocab") | None => {
            tracing::warn!(file = %check.path.display(), "no tokenizer: the model takes token ids only");
            return Ok(TokenizerData { chat_templates, ..TokenizerData::default() });
        }
        Some(model @ ("gpt2" | "llama")) => model,
        Some(other) => {
            let reason = format!("tokenizers of type `{}` are not supported (gpt2 and llama are)", shorten(other));
            return check.fail("tokenizer.ggml.model", reason);
        }
    };
    let mut tokens = tokens(meta, config.vocab_size, model == "llama")?;
    let said = |key: &str| special_id(meta, key, tokens.len());
    // Where a file says nothing of use, the ids of the first models of its type hold, if something like it stands there.
    let usual = |id: u32| {
        let structural = |t: &&Token<'_>| matches!(t.kind, TokenKind::Control | TokenKind::Unknown);
        tokens.get(id as usize).filter(structural).map(|_| TokenId(id))
    };
    let (usual_bos, usual_eos, usual_unknown) = if model == "llama" { (1, 2, 0) } else { (11, 11, u32::MAX) };
    config.bos_token_id = said("bos").or_else(|| usual(usual_bos));
    config.eos_token_ids.extend(said("eos").or_else(|| usual(usual_eos)));
    // As in llama.cpp, a text also ends where another file of its repository would begin.
    for key in ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
        config.eos_token_ids.extend(said(key).filter(|t| !config.eos_token_ids.contains(t)));
    }
    let unknown = said("unknown").or_else(|| usual(usual_unknown));
    let others = [("pad_token", said("padding")), ("sep_token", said("seperator")), ("sep_token", said("separator"))]
        .into_iter()
        .chain([("unk_token", unknown), ("mask_token", said("mask")), ("cls_token", said("cls"))])
        .filter_map(|(name, id)| Some((name.to_owned(), tokens[id?.0 as usize].text.to_owned())));
    let special_tokens = others.collect();
    let eos = config.eos_token_ids.first().copied();
    for id in turn_ends::find(check.path, &mut tokens) {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    let text = |id: Option<TokenId>| id.map(|id| tokens[id.0 as usize].text.to_owned());
    let bos_token = text(config.bos_token_id);

    let (mut parts, add_bos) = match model {
        "gpt2" => byte_level(meta, &tokens)?,
        _ => (spm::parts(meta, &tokens, unknown)?, true),
    };
    let add_bos = meta.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
    let add_eos = meta.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    if add_bos && config.bos_token_id.is_none() {
        tracing::warn!(file = %check.path.display(), "the tokenizer should add BOS but has none");
    }
    let first = config.bos_token_id.filter(|_| add_bos).map(|id| (id, tokens[id.0 as usize].text));
    let last = eos.filter(|_| add_eos).map(|id| (id, tokens[id.0 as usize].text));
    let mut json = Map::new();
    json.insert("version".to_owned(), "1.0".into());
    json.insert("truncation".to_owned(), Json::Null);
    json.insert("padding".to_owned(), Json::Null);
    json.insert("added_tokens".to_owned(), added_tokens(&tokens));
    json.append(&mut parts);
    json.insert("post_processor".to_owned(), post_processor(first, last));
    Ok(TokenizerData {
        tokenizer_json: Json::Object(json).to_string(),
        chat_templates,
        bos_token,
        eos_token: text(eos),
        special_tokens,
        add_bos: false,
    })
}

/// The id of a special token. One that is no token of the vocabulary counts as absent, as in llama.cpp.
fn special_id(meta: &Meta<'_>, name: &str, tokens: usize) -> Option<TokenId> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let value = meta.gguf.metadata.get(&*key)?;
    let id = match *value {
        Value::Unsigned(v) => u32::try_from(v).ok(),
        Value::Signed(v) => u32::try_from(v).ok(),
        _ => None,
    };
    let id = id.filter(|id| (*id as usize) < tokens).map(TokenId);
    // An id of all ones is how old converters wrote "none".
    if id.is_none() && !matches!(value, Value::Unsigned(v) if *v == u64::from(u32::MAX)) && *value != Value::Signed(-1)
    {
        let path = meta.check.path.display();
        tracing::warn!("{path}: `{key}` is no token of a vocabulary of {tokens}: left out");
    }
    id
}

/// The vocabulary; the lists of the file must be of one length. Scores are read where they are used (`scored`).
fn tokens<'a>(meta: &Meta<'a>, vocab_size: u32, scored: bool) -> Result<Vec<Token<'a>>, SourceError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const KINDS: &str = "tokenizer.ggml.token_type";
    const SCORES: &str = "tokenizer.ggml.scores";
    let check = meta.check;
    let Some(texts) = meta.array(TOKENS)? else { return check.fail(TOKENS, "is missing") };
    if texts.len() as u64 > MAX_VOCAB || texts.len() > vocab_size as usize {
        return check.fail(TOKENS, format!("{} tokens for a vocabulary of {vocab_size}", texts.len()));
    }
    let (kinds, scores) = (meta.array(KINDS)?, if scored { meta.array(SCORES)? } else { None });
    if scored && scores.is_none() {
        tracing::warn!("{}: `{SCORES}` is missing: all are 0, as in llama.cpp", check.path.display());
    }
    for (key, list) in [(KINDS, kinds), (SCORES, scores)] {
        if let Some(list) = list.filter(|l| l.len() != texts.len()) {
            return check.fail(key, format!("{} entries for {} tokens", list.len(), texts.len()));
        }
    }
    let mut kinds = kinds.map(|l| l.iter());
    let mut scores = scores.map(|l| l.iter());
    let mut tokens = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let Value::Str(text) = text else { return check.fail(TOKENS, "is not a list of strings") };
        let Ok(text) = std::str::from_utf8(text) else { return check.fail(TOKENS, format!("token {i} is not UTF-8")) };
        let kind = match kinds.as_mut().and_then(Iterator::next) {
            None => TokenKind::Normal,
            Some(Value::Signed(1) | Value::Unsigned(1)) => TokenKind::Normal,
            Some(Value::Signed(2) | Value::Unsigned(2)) => TokenKind::Unknown,
            Some(Value::Signed(3) | Value::Unsigned(3)) => TokenKind::Control,
            Some(Value::Signed(4) | Value::Unsigned(4)) => TokenKind::UserDefined,
            Some(Value::Signed(0 | 5) | Value::Unsigned(0 | 5)) => TokenKind::Unused,
            Some(Value::Signed(6) | Value::Unsigned(6)) => TokenKind::Byte,
            Some(_) => return check.fail(KINDS, format!("token {i} is of no known kind")),
        };
        let score = match scores.as_mut().and_then(Iterator::next) {
            None => 0.0,
            Some(value) => match super::meta::number(value) {
                Some(score) if !score.is_nan() => score as f32 + 0.0, // −0 is 0
                _ => return check.fail(SCORES, format!("the score of token {i} is no number")),
            },
        };
        tokens.push(Token { text, kind, score });
    }
    Ok(tokens)
}

/// Token text → id. Of two tokens of one text the last is found, as llama.cpp does.
pub(super) fn vocab(tokens: &[Token<'_>]) -> Map<String, Json> {
    (0u32..).zip(tokens).map(|(id, t)| (t.text.to_owned(), id.into())).collect()
}

/// Tokens that are found in a text before anything else, whole.
fn added_tokens(tokens: &[Token<'_>]) -> Json {
    let added = (0u32..).zip(tokens).filter(|(_, t)| {
        !t.text.is_empty() && matches!(t.kind, TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined)
    });
    let list = added.map(|(id, t)| {
        json!({"id": id, "content": t.text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": t.kind != TokenKind::UserDefined})
    });
    Json::Array(list.collect())
}

/// Puts BOS before and EOS behind every text, where the model wants them.
fn post_processor(first: Option<(TokenId, &str)>, last: Option<(TokenId, &str)>) -> Json {
    if first.is_none() && last.is_none() {
        return Json::Null;
    }
    let special = |text: &str, segment: u8| json!({"SpecialToken": {"id": text, "type_id": segment}});
    let around = |id: &str, segment: u8| {
        let mut steps: Vec<Json> = first.iter().map(|(_, text)| special(text, segment)).collect();
        steps.push(json!({"Sequence": {"id": id, "type_id": segment}}));
        steps.extend(last.iter().map(|(_, text)| special(text, segment)));
        steps
    };
    let special_tokens: Map<String, Json> = first
        .iter()
        .chain(&last)
        .map(|(id, text)| ((*text).to_owned(), json!({"id": text, "ids": [id.0], "tokens": [text]})))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special_tokens})
}

/// Normalizer, pre-tokenizer, decoder and model of byte-level BPE, and whether BOS is added by default.
fn byte_level(meta: &Meta<'_>, tokens: &[Token<'_>]) -> Result<(Map<String, Json>, bool), SourceError> {
    const PRE: &str = "tokenizer.ggml.pre";
    const MERGES: &str = "tokenizer.ggml.merges";
    let check = meta.check;
    let name = match meta.string(PRE)? {
        Some(name) => name,
        None => {
            tracing::warn!(file = %check.path.display(), "the file does not say how texts are cut: llama.cpp's default is used");
            "default"
        }
    };
    let Some(pre) = pretokenizer::by_name(name) else {
        let reason = format!("the way `{}` cuts texts is not known (known: {})", shorten(name), pretokenizer::known());
        return check.fail(PRE, reason);
    };
    let vocab = vocab(tokens);
    let mut merges = Vec::new();
    for (i, merge) in meta.array(MERGES)?.iter().flat_map(|list| list.iter()).enumerate() {
        let Value::Str(merge) = merge else { return check.fail(MERGES, "is not a list of strings") };
        let merge = std::str::from_utf8(merge).unwrap_or_default();
        // A token of byte-level BPE has no space in it; the first character may be one in files of old converters.
        let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let pair = cut.map(|at| (&merge[..at], &merge[at + 1..]));
        let Some((left, right)) = pair.filter(|(l, r)| {
            let mut joined = String::with_capacity(l.len() + r.len());
            joined.push_str(l);
            joined.push_str(r);
            vocab.contains_key(*l) && vocab.contains_key(*r) && vocab.contains_key(&joined)
        }) else {
            return check.fail(MERGES, format!("merge {i}, `{}`, does not make a token of two tokens", shorten(merge)));
        };
        merges.push(json!([left, right]));
    }
    let mut parts = Map::new();
    parts.insert("normalizer".to_owned(), if pre.nfc { json!({"type": "NFC"}) } else { Json::Null });
    parts.insert("pre_tokenizer".to_owned(), pre.json());
    parts.insert(
        "decoder".to_owned(),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
    );
    parts.insert("model".to_owned(), bpe(vocab, merges, None, false, pre.ignore_merges));
    Ok((parts, pre.add_bos))
}

/// The `model` of a `tokenizer.json`.
pub(super) fn bpe(
    vocab: Map<String, Json>,
    merges: Vec<Json>,
    unk_token: Option<&str>,
    byte_fallback: bool,
    ignore_merges: bool,
) -> Json {
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unk_token,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": unk_token.is_some(),
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    })
}

/// The usual template, and named ones (`tokenizer.chat_template.NAME`).
fn chat_templates(meta: &Meta<'_>) -> Result<BTreeMap<String, String>, SourceError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut templates = BTreeMap::new();
    if let Some(text) = meta.string(KEY)? {
        templates.insert("default".to_owned(), text.to_owned());
    }
    for key in meta.gguf.metadata.keys() {
        if let Some(name) = key.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('.'))
            && let Some(text) = meta.string(key)?
        {
            templates.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(templates)
}
