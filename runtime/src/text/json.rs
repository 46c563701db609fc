//! What a `tokenizer.json` may hold, looked at before the tokenizers library reads it.
//!
//! The library keeps its steps as trees of JSON values, many times the size of their text, and does what they say: a
//! post-processor that names a list of ids a million times, decoders that each make a character sixteen. Real files are far
//! below every bound here: the largest have 35 MB, some two million values and tens of thousands of added tokens.

use super::normalize::Normalizer;
use coexec_model::json::count_values;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::borrow::Cow;
use tokenizers::{NormalizedString, Normalizer as _};

/// Longest file.
const MAX_BYTES: usize = 64 << 20;
/// Values of the vocabulary with its merges.
const MAX_MODEL_VALUES: usize = 4_000_000;
/// Longest description of one of the other steps: the table of a SentencePiece normaliser has some 300 KB.
const MAX_STEP_BYTES: usize = 4 << 20;
/// Values of one of the other steps.
const MAX_STEP_VALUES: usize = 100_000;
/// Bytes of all added tokens with their flags.
const MAX_ADDED_BYTES: usize = 16 << 20;
/// Added tokens.
const MAX_ADDED: usize = 100_000;
/// Regular expressions, each of which may take an automaton of megabytes. Real files have four at the most.
const MAX_REGEXES: usize = 8;
/// Length of a regular expression.
const MAX_REGEX_BYTES: usize = 8 << 10;
/// Ids that a post-processor may put around a text.
const MAX_AROUND: u64 = 1000;
/// Pre-tokenizers in a row.
const MAX_CUTS: usize = 32;
/// Pre-tokenizers that make a text longer.
const MAX_GROWING_CUTS: usize = 4;
/// Decoders in a row.
const MAX_DECODERS: usize = 32;
/// How many times its length a decoder may make a token.
const MAX_DECODED: f64 = 64.0;

/// The parts of the file, as they stand there.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    truncation: Option<&'a RawValue>,
    #[serde(borrow)]
    padding: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Added<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    normalized: bool,
}

/// Refuses files that no tokenizer needs and that would take memory or time without bound.
///
/// # Errors
/// Says which part, and what is too large in it.
pub(super) fn check(json: &str) -> Result<(), String> {
    if json.len() > MAX_BYTES {
        return Err(format!("it has {} bytes, more than the {MAX_BYTES} allowed", json.len()));
    }
    let parts: Parts<'_> = serde_json::from_str(json).map_err(short)?;
    let steps = [
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("post_processor", parts.post_processor),
        ("decoder", parts.decoder),
        ("truncation", parts.truncation),
        ("padding", parts.padding),
    ];
    for (name, step) in steps {
        bounded(name, step, MAX_STEP_BYTES, MAX_STEP_VALUES)?;
    }
    bounded("model", parts.model, MAX_BYTES, MAX_MODEL_VALUES)?;
    bounded("added_tokens", parts.added_tokens, MAX_ADDED_BYTES, MAX_ADDED * 10)?;
    let tree = |step: Option<&RawValue>| step.map_or(Ok(Value::Null), |s| serde_json::from_str(s.get()).map_err(short));
    let (pre_tokenizer, decoder, normalizer) =
        (tree(parts.pre_tokenizer)?, tree(parts.decoder)?, tree(parts.normalizer)?);
    let mut regexes = 0;
    for (name, step) in [("normalizer", &normalizer), ("pre_tokenizer", &pre_tokenizer), ("decoder", &decoder)] {
        expressions(step, &mut regexes).map_err(|why| format!("{name}: {why}"))?;
    }
    let around = ids_around(&tree(parts.post_processor)?);
    if around > MAX_AROUND {
        return Err(format!("post_processor puts {around} tokens around a text, more than the {MAX_AROUND} allowed"));
    }
    cuts(&pre_tokenizer)?;
    decoders(&decoder)?;
    added_tokens(parts.added_tokens, &normalizer)
}

/// A parser's error without what it quotes of the file at length.
pub(super) fn short(error: serde_json::Error) -> String {
    error.to_string().chars().take(300).collect()
}

fn bounded(name: &str, part: Option<&RawValue>, most_bytes: usize, most_values: usize) -> Result<(), String> {
    let text = part.map_or("", RawValue::get);
    if text.len() > most_bytes {
        return Err(format!("{name} has {} bytes, more than the {most_bytes} allowed", text.len()));
    }
    match count_values(text) {
        count if count > most_values => Err(format!("{name} has {count} values, more than the {most_values} allowed")),
        _ => Ok(()),
    }
}

/// Counts the regular expressions anywhere in a step.
///
/// # Errors
/// When there are too many, or one is too long to be compiled with a bounded stack.
fn expressions(step: &Value, count: &mut usize) -> Result<(), String> {
    match step {
        Value::Array(items) => items.iter().try_for_each(|item| expressions(item, count)),
        Value::Object(fields) => {
            if let Some(regex) = fields.get("Regex").and_then(Value::as_str) {
                *count += 1;
                if *count > MAX_REGEXES {
                    return Err(format!("more than the {MAX_REGEXES} regular expressions allowed"));
                }
                if regex.len() > MAX_REGEX_BYTES {
                    let bytes = regex.len();
                    return Err(format!(
                        "a regular expression of {bytes} bytes, more than the {MAX_REGEX_BYTES} allowed"
                    ));
                }
            }
            fields.values().try_for_each(|value| expressions(value, count))
        }
        _ => Ok(()),
    }
}

/// How many ids a post-processor puts around a text, at the most: each piece of a template times the ids of its name.
fn ids_around(step: &Value) -> u64 {
    let all = |steps: &Vec<Value>| steps.iter().map(ids_around).fold(0, u64::saturating_add);
    let inner = step.get("processors").and_then(Value::as_array).map_or(0, all);
    let template = |name: &str| {
        let pieces = step.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        pieces.iter().map(|piece| {
            let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
            let ids = name.and_then(|name| step.get("special_tokens")?.get(name)?.get("ids")?.as_array());
            ids.map_or(1, |ids| ids.len() as u64)
        })
    };
    template("single").chain(template("pair")).fold(inner, u64::saturating_add)
}

/// The steps of a sequence, and of sequences in it.
fn flat<'a>(step: &'a Value, inside: &str, all: &mut Vec<&'a Value>) {
    match step.get(inside).and_then(Value::as_array) {
        Some(steps) => steps.iter().for_each(|step| flat(step, inside, all)),
        None => all.push(step),
    }
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn cuts(pre_tokenizer: &Value) -> Result<(), String> {
    let mut all = Vec::new();
    flat(pre_tokenizer, "pretokenizers", &mut all);
    let growing = all.iter().filter(|step| matches!(kind(step), "ByteLevel" | "Metaspace")).count();
    if all.len() > MAX_CUTS || growing > MAX_GROWING_CUTS {
        return Err(format!(
            "pre_tokenizer has {} steps, of which {growing} make a text longer; {MAX_CUTS} and {MAX_GROWING_CUTS} are allowed",
            all.len()
        ));
    }
    Ok(())
}

fn decoders(decoder: &Value) -> Result<(), String> {
    let mut all = Vec::new();
    flat(decoder, "decoders", &mut all);
    if all.len() > MAX_DECODERS {
        return Err(format!("decoder has {} steps, more than the {MAX_DECODERS} allowed", all.len()));
    }
    let growth: f64 = all
        .iter()
        .map(|step| match (step.pointer("/pattern/String").and_then(Value::as_str), step.get("content")) {
            (Some(pattern), Some(Value::String(content))) => {
                (content.len() as f64 / pattern.len().max(1) as f64).max(1.0)
            }
            _ => 1.0,
        })
        .product();
    if growth > MAX_DECODED {
        return Err(format!(
            "decoder makes a token up to {growth:.0} times as long, more than the {MAX_DECODED} allowed"
        ));
    }
    Ok(())
}

/// Added tokens, and that those which are looked for in normalised text can be normalised.
fn added_tokens(tokens: Option<&RawValue>, normalizer: &Value) -> Result<(), String> {
    let tokens: Vec<Added<'_>> = tokens.map_or(Ok(Vec::new()), |t| serde_json::from_str(t.get()).map_err(short))?;
    if tokens.len() > MAX_ADDED {
        return Err(format!("added_tokens has {} tokens, more than the {MAX_ADDED} allowed", tokens.len()));
    }
    if normalizer.is_null() {
        return Ok(());
    }
    let normalizer = Normalizer::new(normalizer)?;
    for token in tokens.iter().filter(|token| token.normalized) {
        let mut text = NormalizedString::from(&*token.content);
        normalizer.normalize(&mut text).map_err(|why| format!("an added token: {why}"))?;
    }
    Ok(())
}
