//! Hugging Face directories: `config.json`, safetensors (whole or in shards), `tokenizer.json`, chat templates in all
//! their places.

mod awq;
mod config;
mod generation;
mod gptq;
mod head;
mod json;
mod keys;
mod quantized;
mod rope;
mod safetensors;
mod special_tokens;
mod tokenizer;
mod tokenizer_kinds;
mod window;

use super::encoding::Encoding;
use super::parts::Part;
use super::settings::shorten;
use super::store::{Naming, RawTensor, Store};
use super::{ModelSource, SourceError};
use crate::DecoderConfig;
use json::json_object;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Types of safetensors that can be read.
const SUPPORTED: &[Encoding] = &[Encoding::F32, Encoding::F16, Encoding::Bf16];
/// Largest JSON file besides the tokenizer that is read.
const MAX_JSON_BYTES: u64 = 32 << 20;
/// Largest `tokenizer.json` that is read.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Opens a Hugging Face directory.
///
/// # Errors
/// When files are missing or malformed, or say what coexec cannot compute.
pub fn open(dir: &Path) -> Result<impl ModelSource + use<>, SourceError> {
    let config_path = dir.join("config.json");
    let Some(config_text) = read_optional(&config_path, MAX_JSON_BYTES)? else {
        return Err(SourceError::not_a_model(dir, what_is_this(dir)));
    };
    if dir.join("adapter_config.json").exists() {
        let reason =
            "a LoRA adapter lies beside the model, which transformers applies: merge it into the weights, or remove it";
        return Err(SourceError::not_a_model(&dir.join("adapter_config.json"), reason));
    }
    let generation_path = dir.join("generation_config.json");
    let generation = read_optional(&generation_path, MAX_JSON_BYTES).unwrap_or_else(|e| {
        tracing::warn!("{e}: the file is left out; sampling has no defaults of the model's");
        None
    });
    let mut config =
        config::parse(&config_path, &config_text, generation.as_deref().map(|text| (&*generation_path, text)))?;
    let tokenizer = tokenizer::read(dir, &mut config)?;

    let (files, mut tensors) = safetensors::open(dir)?;
    let quantized = quantized::settings(dir, &config_text, &tensors)?;
    if let Some(settings) = &quantized {
        let files: Vec<(&Path, &[u8])> = files.iter().map(|f| (&*f.path, &*f.map)).collect();
        quantized::join(settings, &files, &mut tensors)?;
    }
    if config::promises_mlp_biases(&config_path, &config_text, &config)?
        && !tensors.keys().any(|name| name.ends_with(".mlp.down_proj.bias"))
    {
        let reason =
            "true, but the biases of the feed-forward part (`mlp.down_proj.bias`) are missing: get the whole model";
        return Err(SourceError::setting(&config_path, "mlp_bias", reason));
    }
    let bare = !tensors.keys().any(|name| name.starts_with("model."));
    let prefix = if bare { "" } else { "model." };
    head::tie(dir, &format!("{prefix}embed_tokens.weight"), &mut config, &files, &mut tensors);
    let name = |part: Part| part.hf_name(prefix);
    let naming = Naming { name: &name, interleaved_qk: false, supported: SUPPORTED, path: dir };
    let store = Store::locate(config, tokenizer, files, &mut tensors, &naming, "Hugging Face directory")?;
    refuse_leftovers(dir, store.config(), &store, &tensors)?;
    Ok(store)
}

/// Checks a `config.json` (and nothing else) as an import would: for fuzzing, and for looking before downloading.
///
/// # Errors
/// When it is malformed or says what coexec cannot compute.
pub fn parse_config(bytes: &[u8]) -> Result<DecoderConfig, SourceError> {
    let path = Path::new("config.json");
    config::parse(path, &text(path, bytes.to_vec())?, None)
}

/// Checks the header of a safetensors file against its length, as an import would, and counts its tensors: for fuzzing.
/// Where it holds quantised linears, they are joined and read in every way that settings could ask for.
///
/// # Errors
/// When the header is malformed or a tensor lies outside the file.
pub fn parse_safetensors(bytes: &[u8]) -> Result<usize, SourceError> {
    let mut tensors = BTreeMap::new();
    let path = Path::new("model.safetensors");
    safetensors::parse(path, bytes, 0, &mut tensors)?;
    for settings in quantized::every_setting() {
        let mut tensors = tensors.clone();
        if quantized::join(&settings, &[(path, bytes)], &mut tensors).is_ok() {
            for ints in tensors.values().filter_map(|t| t.packed.as_ref()) {
                let mut row = Vec::new();
                ints.read_row(&|_| bytes, ints.n - 1, &mut row);
                if ints.is_q4_0 {
                    ints.q4_0_groups(&|_| bytes, 0);
                }
            }
        }
    }
    Ok(tensors.len())
}

/// Tensors that nobody used: harmless ones are named in the log, others refuse the model.
fn refuse_leftovers(
    dir: &Path,
    config: &DecoderConfig,
    store: &Store,
    tensors: &BTreeMap<String, RawTensor>,
) -> Result<(), SourceError> {
    for (name, raw) in tensors {
        let harmless = name.ends_with("rotary_emb.inv_freq")
            || name.ends_with(".masked_bias")
            // Programs that quantise give every linear a bias; what is zero adds nothing.
            || (name.ends_with(".bias") && store.is_zero(raw));
        if harmless {
            tracing::trace!(tensor = %shorten(name), "tensor not needed");
            continue;
        }
        let hint = match name {
            n if n.ends_with("o_proj.bias") => "a bias of the output projection is not supported".to_owned(),
            n if n.contains("mlp.") && n.ends_with(".bias") => {
                "biases in the feed-forward part are not supported".into()
            }
            n if ["q_proj.bias", "k_proj.bias", "v_proj.bias"].iter().any(|b| n.ends_with(b)) => {
                "`config.json` does not ask for biases (`attention_bias`), and transformers would ignore this one"
                    .to_owned()
            }
            n if [".qweight", ".qzeros", ".scales", ".g_idx", ".absmax", "weight_scale", "scale_inv"]
                .iter()
                .any(|q| n.contains(q)) =>
            {
                "quantised without a `quantization_config` of GPTQ or AWQ: import the original weights".to_owned()
            }
            n if n.contains("lora_") => "merge the LoRA adapter into the weights first".to_owned(),
            n if n.contains("layers.") => format!(
                "`config.json` says {} layers of {}; importing without it would be another model",
                config.num_hidden_layers, config.architecture
            ),
            _ => "importing without it would be another model".to_owned(),
        };
        return Err(SourceError::UnknownTensor {
            path: store.file_path(raw.file).unwrap_or(dir).to_owned(),
            tensor: shorten(name),
            architecture: super::arch::by_model_type(&config.architecture).map_or("known", |a| a.name),
            hint,
        });
    }
    Ok(())
}

/// What a directory without `config.json` probably is.
fn what_is_this(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().take(10_000).filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        return format!("no config.json, but a GGUF file: open {}", dir.join(gguf).display());
    }
    if names.iter().any(|n| n == "adapter_config.json") {
        return "a LoRA adapter without its model: merge it into the model's weights first".to_owned();
    }
    if names.iter().any(|n| n == "params.json") {
        return "weights in their authors' own format: get the Hugging Face (transformers) version".to_owned();
    }
    "no config.json in this directory".to_owned()
}

/// Reads a whole text file of at most `max_bytes`; `None` when there is none.
fn read_optional(path: &Path, max_bytes: u64) -> Result<Option<String>, SourceError> {
    let file = match std::fs::metadata(path) {
        Ok(m) if m.is_file() => std::fs::File::open(path).map_err(|e| SourceError::io(path, e))?,
        Ok(_) => return Err(SourceError::not_a_model(path, "not a regular file")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(SourceError::io(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|e| SourceError::io(path, e))?;
    if bytes.len() as u64 > max_bytes {
        return Err(SourceError::not_a_model(path, format!("larger than {} MiB", max_bytes >> 20)));
    }
    text(path, bytes).map(Some)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, SourceError> {
    let text = String::from_utf8(bytes)
        .map_err(|e| SourceError::malformed(path, "text", format!("not UTF-8: {}", e.utf8_error())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
