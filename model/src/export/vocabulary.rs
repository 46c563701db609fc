//! The tokenizer as GGUF metadata.
//!
//! Byte-level BPE (`gpt2`) is written out whole where GGUF has a name for the way it cuts texts. Anything else, and a
//! model without a tokenizer, becomes `no_vocab`: such a file takes token ids, and loads without a vocabulary's time.

use super::metadata::Metadata;
use crate::{DecoderConfig, TokenizerData, source::gguf::pretokenizer_name};
use serde_json::Value as Json;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Writes the tokenizer's keys; returns what `tokenizer.ggml.model` became.
pub(super) fn describe(config: &DecoderConfig, data: &TokenizerData, m: &mut Metadata) -> &'static str {
    let json: Option<Json> = serde_json::from_str(&data.tokenizer_json).ok();
    let Some(bpe) = json.as_ref().and_then(|json| ByteLevel::read(config, json)) else {
        if json.is_some() {
            tracing::warn!("the tokenizer is no byte-level BPE with a name in GGUF: the file takes token ids only");
        }
        m.string("tokenizer.ggml.model", "no_vocab");
        return "no_vocab";
    };
    m.string("tokenizer.ggml.model", "gpt2");
    m.string("tokenizer.ggml.pre", bpe.pre);
    m.strings("tokenizer.ggml.tokens", &bpe.tokens);
    m.i32s("tokenizer.ggml.token_type", &bpe.kinds);
    m.strings("tokenizer.ggml.merges", &bpe.merges);
    if let Some(bos) = config.bos_token_id {
        m.u32("tokenizer.ggml.bos_token_id", bos.0);
    }
    for (key, eos) in ["eos", "eot", "eom"].iter().zip(&config.eos_token_ids) {
        m.u32(&format!("tokenizer.ggml.{key}_token_id"), eos.0);
    }
    m.bool("tokenizer.ggml.add_bos_token", data.add_bos || bpe.adds_bos);
    for (name, template) in &data.chat_templates {
        match &**name {
            "default" => m.string("tokenizer.chat_template", template),
            name => m.string(&format!("tokenizer.chat_template.{name}"), template),
        }
    }
    "gpt2"
}

/// A byte-level BPE tokenizer that GGUF can express.
struct ByteLevel {
    pre: &'static str,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
    adds_bos: bool,
}

impl ByteLevel {
    fn read(config: &DecoderConfig, json: &Json) -> Option<Self> {
        let model = &json["model"];
        let nfc = match &json["normalizer"] {
            Json::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        if model["type"] != "BPE" || model["byte_fallback"] == true {
            return None;
        }
        let pre = pretokenizer_name(&json["pre_tokenizer"], model["ignore_merges"] == true, nfc)?;
        let vocab_size = config.vocab_size as usize;
        // Rows of the embedding that no token uses still need a name.
        let mut tokens: Vec<String> = (0..vocab_size).map(|i| format!("[PAD{i}]")).collect();
        let mut kinds = vec![UNUSED; vocab_size];
        let mut put = |id: &Json, text: &str, kind| {
            let id = usize::try_from(id.as_u64()?).ok().filter(|id| *id < vocab_size)?;
            (tokens[id], kinds[id]) = (text.to_owned(), kind);
            Some(())
        };
        for (text, id) in model["vocab"].as_object()? {
            put(id, text, NORMAL)?;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            put(
                &added["id"],
                added["content"].as_str()?,
                if added["special"] == true { CONTROL } else { USER_DEFINED },
            )?;
        }
        let merge = |merge: &Json| match merge {
            Json::String(pair) => Some(pair.clone()),
            pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
        };
        let merges = model["merges"].as_array()?.iter().map(merge).collect::<Option<_>>()?;
        Some(Self { pre, tokens, kinds, merges, adds_bos: adds_bos(config, &json["post_processor"]) })
    }
}

/// Whether a post-processor puts BOS before a text.
fn adds_bos(config: &DecoderConfig, processor: &Json) -> bool {
    let Some(bos) = config.bos_token_id else { return false };
    if let Some(steps) = processor["processors"].as_array() {
        return steps.iter().any(|step| adds_bos(config, step));
    }
    let first = &processor["single"][0]["SpecialToken"]["id"];
    first.as_str().is_some_and(|name| processor["special_tokens"][name]["ids"][0] == bos.0)
}
