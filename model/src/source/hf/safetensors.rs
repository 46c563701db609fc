//! Safetensors files, one or several: headers only, over mapped files.

use super::super::encoding::Encoding;
use super::super::settings::shorten;
use super::super::store::{RawTensor, StoreFile};
use super::{MAX_JSON_BYTES, SourceError, json_object, read_optional};
use crate::mmap::Mapping;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest header, as the format defines it.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Shards of one model.
const MAX_SHARDS: usize = 4096;

/// Maps the weights of a directory and lists their tensors.
pub(super) fn open(dir: &Path) -> Result<(Vec<StoreFile>, BTreeMap<String, RawTensor>), SourceError> {
    let mut tensors = BTreeMap::new();
    let single = dir.join(SINGLE);
    if single.exists() {
        let file = map(single)?;
        parse(&file.path, &file.map, 0, &mut tensors)?;
        return Ok((vec![file], tensors));
    }
    let index_path = dir.join(INDEX);
    let Some(index) = read_optional(&index_path, MAX_JSON_BYTES)? else {
        return Err(SourceError::not_a_model(dir, no_weights(dir)));
    };
    let weight_map = weight_map(&index_path, &index)?;
    let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if shards.len() > MAX_SHARDS {
        return Err(SourceError::malformed(&index_path, "safetensors index", format!("more than {MAX_SHARDS} shards")));
    }
    let mut files = Vec::with_capacity(shards.len());
    for (number, shard) in shards.iter().enumerate() {
        let path = dir.join(shard);
        if !path.exists() {
            let reason = format!("shard `{}` is missing: the download is incomplete", shorten(shard));
            return Err(SourceError::malformed(&index_path, "safetensors index", reason));
        }
        let file = map(path)?;
        parse(&file.path, &file.map, number, &mut tensors)?;
        files.push(file);
    }
    for (tensor, shard) in &weight_map {
        let there = tensors.get(tensor).is_some_and(|t| files[t.file].path.ends_with(shard));
        if !there {
            let reason =
                format!("tensor `{}` is not in `{}`, where the index puts it", shorten(tensor), shorten(shard));
            return Err(SourceError::malformed(&index_path, "safetensors index", reason));
        }
    }
    Ok((files, tensors))
}

fn map(path: PathBuf) -> Result<StoreFile, SourceError> {
    let map = Mapping::open(&path).map_err(|e| SourceError::io(&path, e))?;
    Ok(StoreFile { path, map })
}

/// Tensor name → shard name, from the index; shard names are plain file names.
fn weight_map(path: &Path, text: &str) -> Result<BTreeMap<String, String>, SourceError> {
    let malformed = |reason: String| SourceError::malformed(path, "safetensors index", reason);
    let mut index = json_object(path, text)?;
    let Some(Value::Object(entries)) = index.remove("weight_map") else {
        return Err(malformed("`weight_map` is missing or no object".to_owned()));
    };
    entries
        .into_iter()
        .map(|(tensor, shard)| {
            let Value::String(shard) = shard else {
                return Err(malformed(format!("the shard of `{}` is no string", shorten(&tensor))));
            };
            let mut components = Path::new(&shard).components();
            let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
                && !shard.contains(['/', '\\', ':', '\0']);
            if !plain {
                return Err(malformed(format!("shard `{}` is not a plain file name", shorten(&shard))));
            }
            Ok((tensor, shard))
        })
        .collect()
}

/// Lists the tensors of one file (`bytes` is all of it), checked to lie inside it, as file number `file`.
pub(super) fn parse(
    path: &Path,
    bytes: &[u8],
    file: usize,
    tensors: &mut BTreeMap<String, RawTensor>,
) -> Result<(), SourceError> {
    let malformed = |reason: String| SourceError::malformed(path, "safetensors", reason);
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(malformed(
            "a Git LFS pointer, not the weights themselves: fetch them with git lfs pull".to_owned(),
        ));
    }
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(malformed("shorter than its header's length: the download is incomplete".to_owned()));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER_BYTES {
        return Err(malformed(format!("a header of {len} bytes is beyond the format's limit of {MAX_HEADER_BYTES}")));
    }
    // At most 10⁸: fits usize.
    let Some((header, data)) = rest.split_at_checked(len as usize) else {
        return Err(malformed("shorter than its header: the download is incomplete".to_owned()));
    };
    // The crate checks that tensors follow each other without a hole, and that sizes are those of shapes and types.
    let header: Metadata = serde_json::from_slice(header).map_err(|e| malformed(shorten(&e.to_string())))?;
    if header.data_len() != data.len() {
        let reason = format!(
            "{} bytes of weights, its header says {}: the download is incomplete or damaged",
            data.len(),
            header.data_len()
        );
        return Err(malformed(reason));
    }
    let start = bytes.len() - data.len();
    for (name, info) in header.tensors() {
        let encoding = match info.dtype {
            Dtype::F32 => Ok(Encoding::F32),
            Dtype::F16 => Ok(Encoding::F16),
            Dtype::BF16 => Ok(Encoding::Bf16),
            other => Err(format!("{other:?}")),
        };
        let (from, to) = info.data_offsets;
        let raw =
            RawTensor { file, bytes: start + from..start + to, shape: info.shape.clone(), encoding, packed: None };
        if tensors.contains_key(&name) {
            return Err(malformed(format!("tensor `{}` is also in another shard", shorten(&name))));
        }
        tensors.insert(name, raw);
    }
    Ok(())
}

/// Why a directory with a `config.json` has no weights that can be read.
fn no_weights(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().take(10_000).filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|n| test(n));
    if any(&|n| n.starts_with("pytorch_model") || n.ends_with(".pth") || n.ends_with(".pt")) {
        return "its weights are PyTorch files: convert them to safetensors".to_owned();
    }
    if any(&|n| n.ends_with(".safetensors")) {
        return format!("no {SINGLE} and no {INDEX}: rename the weights, or get the index");
    }
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        return format!("no safetensors, but a GGUF file: open {}", dir.join(gguf).display());
    }
    format!("no weights: neither {SINGLE} nor {INDEX}")
}
