//! The tokenizer of a Hugging Face directory, whole, and its chat templates in all their places.

use super::super::settings::shorten;
use super::special_tokens::{self, SpecialTokens};
use super::{MAX_JSON_BYTES, MAX_TOKENIZER_BYTES, SourceError, json_object, read_optional, tokenizer_kinds};
use crate::json::count_values;
use crate::{DecoderConfig, TokenId, TokenizerData};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest chat template.
const MAX_TEMPLATE_BYTES: u64 = 512 << 10;
/// Templates in `additional_chat_templates/`.
const MAX_TEMPLATES: usize = 256;
/// Values of a `tokenizer.json`: a vocabulary of 262 144 tokens with its merges has two million.
const MAX_TOKENIZER_VALUES: usize = 4_000_000;
/// Tokenizer classes of transformers that add BOS unless told otherwise, whatever `tokenizer.json` says.
const ADD_BOS_BY_DEFAULT: &[&str] =
    &["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"];

/// Reads tokenizer and templates of `dir`; completes the special tokens of `config` with what the tokenizer calls them.
pub(super) fn read(dir: &Path, config: &mut DecoderConfig) -> Result<TokenizerData, SourceError> {
    let path = dir.join("tokenizer.json");
    let tokenizer_json = read_optional(&path, MAX_TOKENIZER_BYTES)?;
    if let Some(count) = tokenizer_json.as_deref().map(count_values).filter(|count| *count > MAX_TOKENIZER_VALUES) {
        let reason = format!("{count} values, more than the {MAX_TOKENIZER_VALUES} allowed");
        return Err(SourceError::malformed(&path, "tokenizer.json", reason));
    }
    let settings_path = dir.join("tokenizer_config.json");
    let settings = match read_optional(&settings_path, MAX_JSON_BYTES)? {
        Some(text) => json_object(&settings_path, &text)?,
        None => Map::new(),
    };
    if settings.get("split_special_tokens") == Some(&Value::Bool(true)) {
        let reason = "true: special tokens would be text, also those of the chat template: set it to false";
        return Err(SourceError::setting(&settings_path, "split_special_tokens", reason));
    }
    let chat_templates = chat_templates(dir, &settings_path, &settings)?;
    let mut tokens = SpecialTokens::read(dir, &settings_path, &settings)?;
    let Some(mut tokenizer_json) = tokenizer_json else {
        if let Some(old) = ["tokenizer.model", "vocab.json", "tekken.json"].iter().find(|f| dir.join(f).exists()) {
            let reason = format!(
                "no tokenizer.json, only {old}: load the tokenizer with transformers' AutoTokenizer and save it (save_pretrained)"
            );
            return Err(SourceError::tokenizer(dir, reason));
        }
        tracing::warn!(dir = %dir.display(), "no tokenizer: the model takes token ids only");
        return Ok(TokenizerData { chat_templates, ..TokenizerData::default() });
    };
    if let Some(completed) = special_tokens::complete(&path, &tokenizer_json, &tokens, config.vocab_size)? {
        tokenizer_json = completed;
    }
    let outline: Outline = serde_json::from_str(&tokenizer_json)
        .map_err(|e| SourceError::malformed(&path, "tokenizer.json", shorten(&e.to_string())))?;
    let parts = [&outline.normalizer, &outline.pre_tokenizer, &outline.post_processor, &outline.decoder];
    tokenizer_kinds::check(&path, parts, outline.model.kind.as_deref())?;

    let (bos_token, eos_token) = (tokens.named.remove("bos_token"), tokens.named.remove("eos_token"));
    let id_of =
        |text: &Option<String>| text.as_ref().and_then(|t| outline.id_of(t)).filter(|id| *id < config.vocab_size);
    let text_of = |id: TokenId| outline.added_tokens.iter().find(|t| t.id == id.0).map(|t| t.content.clone());
    let (bos_id, eos_id) = (id_of(&bos_token), id_of(&eos_token));
    // The tokenizer knows better than config.json which token begins a text.
    config.bos_token_id = bos_id.map(TokenId).or(config.bos_token_id);
    if let Some(eos) = eos_id.map(TokenId).filter(|eos| !config.eos_token_ids.contains(eos)) {
        config.eos_token_ids.push(eos);
    }
    let bos_token =
        bos_token.or_else(|| config.bos_token_id.filter(|_| !says_null(&settings, "bos_token")).and_then(text_of));
    let eos_token = eos_token.or_else(|| config.eos_token_ids.first().copied().and_then(text_of));

    let wants_bos = match settings.get("add_bos_token") {
        None | Some(Value::Null) => {
            let class = settings.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
            ADD_BOS_BY_DEFAULT.contains(&class)
        }
        Some(Value::Bool(add)) => *add,
        Some(other) => {
            let reason = format!("{} is not true or false", shorten(&other.to_string()));
            return Err(SourceError::setting(&settings_path, "add_bos_token", reason));
        }
    };
    let adds_bos =
        bos_token.as_deref().is_some_and(|bos| outline.post_processor.as_ref().is_some_and(|p| adds(p, bos, 0)));
    if adds_bos && settings.get("add_bos_token") == Some(&Value::Bool(false)) {
        tracing::warn!(dir = %dir.display(), "tokenizer.json adds BOS although tokenizer_config.json says it should not");
    }
    let add_bos = wants_bos && !adds_bos && bos_token.is_some() && config.bos_token_id.is_some();
    if let (true, Some(bos), Vocabulary::Ids(_)) = (add_bos, &bos_token, &outline.model.vocab)
        && outline.id_of(bos).is_none()
    {
        let reason = format!("`{}` should begin every prompt, but tokenizer.json has no such token", shorten(bos));
        return Err(SourceError::setting(&settings_path, "bos_token", reason));
    }
    Ok(TokenizerData { tokenizer_json, chat_templates, bos_token, eos_token, special_tokens: tokens.named, add_bos })
}

/// What is needed of `tokenizer.json`; the rest is only checked to be JSON.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Vocabulary,
}

/// A vocabulary is an object in BPE and WordPiece; lists (Unigram) have no ids to look up.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Ids(BTreeMap<String, u32>),
    Other(IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

impl Outline {
    fn id_of(&self, text: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|t| t.content == text).map(|t| t.id);
        added.or_else(|| match &self.model.vocab {
            Vocabulary::Ids(ids) => ids.get(text).copied(),
            Vocabulary::Other(_) => None,
        })
    }
}

/// Whether a post-processor puts the token `bos` first.
fn adds(processor: &Value, bos: &str, depth: u8) -> bool {
    if depth > 8 {
        return false;
    }
    match processor.get("type").and_then(Value::as_str) {
        Some("TemplateProcessing") => {
            processor.pointer("/single/0/SpecialToken/id").and_then(Value::as_str).is_some_and(|first| first == bos)
        }
        Some("Sequence") => processor
            .get("processors")
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|p| adds(p, bos, depth + 1))),
        Some("BertProcessing" | "RobertaProcessing") => {
            processor.pointer("/cls/0").and_then(Value::as_str).is_some_and(|first| first == bos)
        }
        _ => false,
    }
}

fn says_null(settings: &Map<String, Value>, key: &str) -> bool {
    settings.get(key).is_some_and(Value::is_null)
}

/// Templates of all places; later ones win: `tokenizer_config.json`, `chat_template.json`, `chat_template.jinja`, then the
/// named ones of `additional_chat_templates/`.
fn chat_templates(
    dir: &Path,
    settings_path: &Path,
    settings: &Map<String, Value>,
) -> Result<BTreeMap<String, String>, SourceError> {
    let mut templates = BTreeMap::new();
    if let Some(value) = settings.get("chat_template") {
        from_json(settings_path, value, &mut templates)?;
    }
    let path = dir.join("chat_template.json");
    if let Some(text) = read_optional(&path, MAX_TEMPLATE_BYTES)? {
        match json_object(&path, &text)?.get("chat_template") {
            Some(value) => from_json(&path, value, &mut templates)?,
            None => return Err(SourceError::setting(&path, "chat_template", "is missing")),
        }
    }
    if let Some(text) = read_optional(&dir.join("chat_template.jinja"), MAX_TEMPLATE_BYTES)? {
        templates.insert("default".to_owned(), text);
    }
    let more = dir.join("additional_chat_templates");
    let entries = match std::fs::read_dir(&more) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(templates),
        Err(e) => return Err(SourceError::io(&more, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| SourceError::io(&more, e))?.path();
        let (Some(name), Some("jinja")) =
            (path.file_stem().and_then(|s| s.to_str()), path.extension().and_then(|e| e.to_str()))
        else {
            continue;
        };
        if templates.len() >= MAX_TEMPLATES {
            return Err(SourceError::tokenizer(&more, format!("more than {MAX_TEMPLATES} chat templates")));
        }
        if let Some(text) = read_optional(&path, MAX_TEMPLATE_BYTES)? {
            templates.insert(name.to_owned(), text);
        }
    }
    Ok(templates)
}

/// A template as a string, as a list of `{name, template}`, or as an object of templates by name.
fn from_json(path: &Path, value: &Value, templates: &mut BTreeMap<String, String>) -> Result<(), SourceError> {
    let malformed =
        || SourceError::setting(path, "chat_template", "is neither a string nor a list of {name, template}");
    match value {
        Value::Null => {}
        Value::String(text) => {
            templates.insert("default".to_owned(), text.clone());
        }
        Value::Array(list) => {
            for item in list {
                let field = |key| item.get(key).and_then(Value::as_str).map(str::to_owned);
                let (Some(name), Some(template)) = (field("name"), field("template")) else { return Err(malformed()) };
                templates.insert(name, template);
            }
        }
        Value::Object(map) => {
            for (name, template) in map {
                templates.insert(name.clone(), template.as_str().ok_or_else(malformed)?.to_owned());
            }
        }
        _ => return Err(malformed()),
    }
    Ok(())
}
