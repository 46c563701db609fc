//! GGUF files: one file with configuration, tokenizer and weights, plain or quantised.

mod meta;
mod parse;
mod pretokenizer;
mod spm;
mod tokenizer;
mod turn_ends;

pub use parse::{Array, Gguf, GgufError, MAGIC, Tensor, Value, parse};

pub(crate) use pretokenizer::name_of as pretokenizer_name;

use super::settings::{Checker, shorten};
use super::store::{Naming, RawTensor, Store, StoreFile};
use super::{ModelSource, SourceError};
use crate::mmap::Mapping;
use crate::{DecoderConfig, TokenizerData};
use meta::Meta;
use std::collections::BTreeMap;
use std::path::Path;

/// Divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Opens a GGUF file.
///
/// # Errors
/// When the file is malformed, or says what coexec cannot compute.
pub fn open(path: &Path) -> Result<impl ModelSource + use<>, SourceError> {
    open_mapped(path, Mapping::open(path).map_err(|e| SourceError::io(path, e))?)
}

pub(super) fn open_mapped(path: &Path, map: Mapping) -> Result<Store, SourceError> {
    let header = header(path, &map)?;
    let Header { config, tokenizer, interleaved_qk, architecture, mut tensors } = header;
    let name = super::parts::Part::gguf_name;
    let naming = Naming { name: &name, interleaved_qk, supported: parse::SUPPORTED, path };
    let files = vec![StoreFile { path: path.to_owned(), map }];
    let store = Store::locate(config, tokenizer, files, &mut tensors, &naming, "GGUF file")?;
    for (name, raw) in &tensors {
        let harmless = name.ends_with(".attn_rot_embd.weight")
            || name.ends_with(".attn_rot_embd")
            // As in Hugging Face directories: what is zero adds nothing.
            || (name.ends_with(".bias") && store.is_zero(raw));
        if harmless {
            tracing::trace!(tensor = %shorten(name), "tensor not needed");
            continue;
        }
        let hint = match name {
            n if n.ends_with("attn_output.bias") => "a bias of the output projection is not supported",
            n if n.contains(".ffn_") && n.ends_with(".bias") => "biases in the feed-forward part are not supported",
            n if n.contains("_exps") || n.contains("_shexp") => "mixtures of experts are not supported",
            n if n.starts_with("rope_factors") => "longrope scaling is not supported",
            _ => "importing without it would be another model",
        };
        let (path, tensor) = (path.to_owned(), shorten(name));
        return Err(SourceError::UnknownTensor { path, tensor, architecture, hint: hint.to_owned() });
    }
    Ok(store)
}

/// Reads configuration and tokenizer out of the bytes of a GGUF file, as an import would: for fuzzing.
///
/// # Errors
/// When they are malformed, or say what coexec cannot compute.
pub fn parse_model(bytes: &[u8]) -> Result<(DecoderConfig, TokenizerData), SourceError> {
    header(Path::new("model.gguf"), bytes).map(|h| (h.config, h.tokenizer))
}

struct Header {
    config: DecoderConfig,
    tokenizer: TokenizerData,
    interleaved_qk: bool,
    architecture: &'static str,
    tensors: BTreeMap<String, RawTensor>,
}

fn header(path: &Path, bytes: &[u8]) -> Result<Header, SourceError> {
    let gguf = parse(bytes).map_err(|e| SourceError::malformed(path, "GGUF", e.to_string()))?;
    let mut tensors: BTreeMap<String, RawTensor> = gguf
        .tensors
        .iter()
        .map(|t| {
            let (shape, encoding) = (t.shape.clone(), t.encoding.clone());
            (t.name.to_owned(), RawTensor { file: 0, bytes: t.bytes.clone(), shape, encoding, packed: None })
        })
        .collect();
    let factors = match tensors.remove(ROPE_FACTORS) {
        None => None,
        Some(raw) => {
            let dtype = |dtype: String| SourceError::Dtype {
                path: path.to_owned(),
                tensor: ROPE_FACTORS.to_owned(),
                dtype,
                supported: "F32".to_owned(),
            };
            let encoding = raw.encoding.map_err(dtype)?;
            let mut factors = Vec::new();
            encoding.decode(&bytes[raw.bytes], &mut factors);
            Some(factors)
        }
    };
    let meta = Meta { check: Checker { path }, gguf: &gguf };
    let (mut config, arch) = meta::config(&meta, factors)?;
    let tokenizer = tokenizer::read(&meta, &mut config)?;
    Ok(Header { config, tokenizer, interleaved_qk: arch.gguf_interleaved_qk, architecture: arch.name, tensors })
}
