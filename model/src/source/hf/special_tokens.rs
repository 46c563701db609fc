//! Special tokens that stand beside `tokenizer.json`: by name (`pad_token`), in lists (`additional_special_tokens`) and with
//! their flags (`added_tokens_decoder`), and in the files that old versions of transformers wrote.
//!
//! transformers adds what `tokenizer.json` lacks when it loads a tokenizer; so does [`complete`], in the file's own text.

use super::super::settings::shorten;
use super::{MAX_JSON_BYTES, SourceError, json_object, read_optional};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The names that every tokenizer has, in transformers' order.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What the files beside `tokenizer.json` say of special tokens.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// Text by name: `bos_token`, `pad_token`, and a model's own (`image_token`).
    pub(super) named: BTreeMap<String, String>,
    /// Entries for `added_tokens`, without an id where the files say none.
    added: Vec<Added>,
}

#[derive(Clone, Debug, PartialEq)]
struct Added {
    id: Option<u32>,
    content: String,
    special: bool,
    /// `single_word`, `lstrip`, `rstrip`, `normalized`.
    flags: [bool; 4],
    /// Its flags count, whatever `tokenizer.json` says of the same token.
    overrides: bool,
}

const FLAGS: [&str; 4] = ["single_word", "lstrip", "rstrip", "normalized"];

impl SpecialTokens {
    /// Reads `tokenizer_config.json` (already parsed), and what old versions wrote if it lists no added tokens itself; of the
    /// same name, what they wrote counts, as in transformers.
    pub(super) fn read(dir: &Path, path: &Path, settings: &Map<String, Value>) -> Result<Self, SourceError> {
        let mut result = Self::default();
        match settings.get("added_tokens_decoder") {
            Some(Value::Object(decoder)) => {
                for (id, token) in decoder {
                    let Ok(id) = id.parse() else {
                        let reason = format!("`{}` is no token id", shorten(id));
                        return Err(SourceError::setting(path, "added_tokens_decoder", reason));
                    };
                    let token = added(path, "added_tokens_decoder", token, Some(id), false)?;
                    result.added.push(Added { overrides: true, ..token });
                }
                result.added.sort_by_key(|token| token.id);
                result.take(path, settings)?;
            }
            None | Some(Value::Null) => {
                result.take(path, settings)?;
                result.read_old(dir)?;
            }
            Some(_) => {
                return Err(SourceError::setting(path, "added_tokens_decoder", "is no object of tokens by id"));
            }
        }
        Ok(result)
    }

    /// `special_tokens_map.json` and `added_tokens.json`.
    fn read_old(&mut self, dir: &Path) -> Result<(), SourceError> {
        let path = dir.join("special_tokens_map.json");
        if let Some(text) = read_optional(&path, MAX_JSON_BYTES)? {
            self.take(&path, &json_object(&path, &text)?)?;
        }
        let path = dir.join("added_tokens.json");
        if let Some(text) = read_optional(&path, MAX_JSON_BYTES)? {
            for (content, id) in json_object(&path, &text)? {
                let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                    return Err(SourceError::setting(&path, shorten(&content), "its value is no token id"));
                };
                match self.added.iter_mut().find(|token| token.content == content) {
                    Some(named) => named.id = Some(id),
                    // Ordinary ones are found in the normalised text.
                    None => {
                        let flags = FLAGS.map(|name| name == "normalized");
                        self.added.push(Added { id: Some(id), content, special: false, flags, overrides: false });
                    }
                }
            }
            self.added.sort_by_key(|token| (token.id.is_none(), token.id));
        }
        Ok(())
    }

    /// Named tokens and lists; those of `settings` win over what was taken before.
    fn take(&mut self, path: &Path, settings: &Map<String, Value>) -> Result<(), SourceError> {
        for (key, value) in settings {
            let own = !NAMES.contains(&key.as_str());
            if !key.ends_with("_token") || own && !(value.is_string() || value.is_object()) {
                continue; // `add_bos_token` and the like
            }
            if value.is_null() {
                continue;
            }
            let token = added(path, key, value, None, true)?;
            self.named.insert(key.clone(), token.content.clone());
            self.remember(token);
        }
        for key in LISTS {
            match settings.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) => {
                    for value in list {
                        self.remember(added(path, key, value, None, true)?);
                    }
                }
                Some(Value::Object(map)) => {
                    for (name, value) in map {
                        let token = added(path, key, value, None, true)?;
                        self.named.insert(name.clone(), token.content.clone());
                        self.remember(token);
                    }
                }
                Some(_) => return Err(SourceError::setting(path, key, "is neither a list nor an object of tokens")),
            }
        }
        Ok(())
    }

    fn remember(&mut self, token: Added) {
        match self.added.iter_mut().find(|t| t.content == token.content) {
            Some(known) => known.special = true,
            None => self.added.push(token),
        }
    }
}

/// A token as a string, or as an object that has the text as `content`.
fn added(path: &Path, key: &str, value: &Value, id: Option<u32>, special: bool) -> Result<Added, SourceError> {
    let flag = |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let content = match value {
        Value::String(text) => text,
        Value::Object(token) => match token.get("content") {
            Some(Value::String(text)) => text,
            _ => return Err(SourceError::setting(path, key, "its `content` is no string")),
        },
        other => return Err(SourceError::setting(path, key, format!("{} is no token", shorten(&other.to_string())))),
    };
    let special = special || flag("special", false);
    // Ordinary added tokens are found in the normalised text unless the file says otherwise.
    let flags = FLAGS.map(|name| flag(name, name == "normalized" && value.is_object() && !special));
    Ok(Added { id, content: content.clone(), special, flags, overrides: false })
}

/// `tokenizer_json` with the tokens that it lacks; `None` if it lacks none.
///
/// A token keeps the id that its text has in the vocabulary, else gets the one that the files say, else the next. Tokens
/// beyond the model's `vocab_size` have no row in the embedding and are left out.
pub(super) fn complete(
    path: &Path,
    tokenizer_json: &str,
    tokens: &SpecialTokens,
    vocab_size: u32,
) -> Result<Option<String>, SourceError> {
    let malformed = |reason: String| SourceError::malformed(path, "tokenizer.json", reason);
    let known: Known = serde_json::from_str(tokenizer_json).map_err(|e| malformed(shorten(&e.to_string())))?;
    let known: HashMap<&str, &KnownToken> = known.added_tokens.iter().map(|t| (t.content.as_str(), t)).collect();
    let changes = |token: &&Added| {
        let differs =
            |known: &&KnownToken| token.special && !known.special || token.overrides && token.flags != known.flags();
        !token.content.is_empty() && known.get(token.content.as_str()).is_none_or(differs)
    };
    let wanted: Vec<&Added> = tokens.added.iter().filter(changes).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut json: Value = serde_json::from_str(tokenizer_json).map_err(|e| malformed(shorten(&e.to_string())))?;
    let mut list = match json.get_mut("added_tokens").map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    // A vocabulary by text holds its added tokens too; behind a list (Unigram's) they get the ids that follow.
    let by_place: HashMap<String, u64> = match json.pointer("/model/vocab").and_then(Value::as_array) {
        Some(list) => {
            (0u64..).zip(list).filter_map(|(id, piece)| Some((piece.get(0)?.as_str()?.to_owned(), id))).collect()
        }
        None => HashMap::new(),
    };
    let mut vocab = json.pointer_mut("/model/vocab").filter(|v| v.is_object()).and_then(Value::as_object_mut);
    let in_vocab = |vocab: Option<&Map<String, Value>>, text: &str| match vocab {
        Some(vocab) => vocab.get(text)?.as_u64(),
        None => by_place.get(text).copied(),
    };
    let mut taken: HashSet<u64> = list.iter().filter_map(|t| t.get("id")?.as_u64()).collect();
    taken.extend(vocab.iter().flat_map(|v| v.values()).filter_map(Value::as_u64));
    taken.extend(by_place.values());
    let mut changed = false;
    for token in wanted {
        if let Some(known) = list.iter_mut().find(|t| t.get("content").and_then(Value::as_str) == Some(&token.content))
        {
            if token.special {
                known["special"] = true.into();
            }
            if token.overrides {
                FLAGS.into_iter().zip(token.flags).for_each(|(name, value)| known[name] = value.into());
            }
            changed = true;
            continue;
        }
        let id = match in_vocab(vocab.as_deref(), &token.content) {
            Some(id) => id,
            None => {
                let free = |id: &u64| !taken.contains(id);
                let next = taken.iter().max().map_or(0, |id| id + 1);
                let id = token.id.map(u64::from).filter(|id| free(id) && vocab.is_some()).unwrap_or(next);
                if id >= u64::from(vocab_size) {
                    tracing::warn!(
                        file = %path.display(), token = %shorten(&token.content), id,
                        "a special token without a row in the model is left out"
                    );
                    continue;
                }
                if let Some(vocab) = &mut vocab {
                    vocab.insert(token.content.clone(), id.into());
                }
                id
            }
        };
        if token.id.is_some_and(|said| u64::from(said) != id) {
            tracing::warn!(
                file = %path.display(), token = %shorten(&token.content), id,
                "added_tokens_decoder gives this token another id than the vocabulary: the vocabulary's is used"
            );
        }
        taken.insert(id);
        let mut entry = json!({"id": id, "content": token.content, "special": token.special});
        for (name, value) in FLAGS.into_iter().zip(token.flags) {
            entry[name] = value.into();
        }
        list.push(entry);
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    list.sort_by_key(|t| t.get("id").and_then(Value::as_u64));
    json["added_tokens"] = Value::Array(list);
    Ok(Some(json.to_string()))
}

/// The added tokens of a `tokenizer.json`.
#[derive(serde::Deserialize)]
struct Known {
    #[serde(default)]
    added_tokens: Vec<KnownToken>,
}

#[derive(serde::Deserialize)]
struct KnownToken {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

impl KnownToken {
    /// In the order of [`FLAGS`].
    fn flags(&self) -> [bool; 4] {
        [self.single_word, self.lstrip, self.rstrip, self.normalized]
    }
}
