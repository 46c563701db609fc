//! Quantised checkpoints: what `quantization_config` says, and the linears that its tensors make up.
//!
//! `X.qweight`, `X.qzeros`, `X.scales` (and `X.g_idx`) become one tensor `X.weight`, which reads as floats.

use super::super::encoding::Encoding;
use super::super::packed_ints::{PackedInts, Packing, Span};
use super::super::settings::shorten;
use super::super::store::RawTensor;
use super::json::json_object;
use super::{SourceError, awq, gptq, read_optional};
use crate::layout::GROUP;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Path and bytes of the checkpoint's files.
pub(super) type Files<'a> = &'a [(&'a Path, &'a [u8])];

/// What a checkpoint says about its integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) packing: Packing,
    pub(super) bits: u32,
    /// Inputs of a group; `None` is all of them.
    pub(super) group_size: Option<usize>,
    /// Every zero point is the middle of the range.
    pub(super) symmetric: bool,
    /// Zero points are stored less one.
    pub(super) zero_less_one: bool,
}

/// Settings of a directory: from `config.json`, or from `quantize_config.json` as AutoGPTQ wrote it. `None` for floats.
pub(super) fn settings(
    dir: &Path,
    config: &str,
    tensors: &BTreeMap<String, RawTensor>,
) -> Result<Option<Settings>, SourceError> {
    let any = tensors.keys().any(|name| name.ends_with(".qweight"));
    let path = dir.join("config.json");
    if let Some(settings) = from_config(&path, &json_object(&path, config)?)? {
        if !any {
            tracing::warn!(
                "{}: `quantization_config` is there, but no quantised weights: they are read as floats",
                path.display()
            );
        }
        return Ok(Some(settings));
    }
    if !any {
        return Ok(None);
    }
    let path = dir.join("quantize_config.json");
    match read_optional(&path, super::MAX_JSON_BYTES)? {
        Some(text) => parse(&Keys { path: &path, prefix: "", map: &json_object(&path, &text)? }).map(Some),
        None => Ok(None),
    }
}

/// Settings that the object of a `config.json` holds.
pub(super) fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Option<Settings>, SourceError> {
    match config.get("quantization_config") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => parse(&Keys { path, prefix: "quantization_config.", map }).map(Some),
        Some(_) => Err(SourceError::setting(path, "quantization_config", "is no object")),
    }
}

/// Settings that differ in what they do with tensors: for fuzzing.
pub(super) fn every_setting() -> impl Iterator<Item = Settings> {
    let kinds = [(Packing::Inputs, 4), (Packing::Inputs, 8), (Packing::InterleavedOutputs, 4)];
    kinds.into_iter().flat_map(|(packing, bits)| {
        [None, Some(32)].into_iter().flat_map(move |group_size| {
            [false, true].map(|symmetric| Settings { packing, bits, group_size, symmetric, zero_less_one: symmetric })
        })
    })
}

/// Looking up settings, with errors that name them.
pub(super) struct Keys<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn fail<T>(&self, key: &str, reason: impl Into<String>) -> Result<T, SourceError> {
        Err(SourceError::setting(self.path, format!("{}{key}", self.prefix), reason))
    }

    pub(super) fn word(&self, key: &str) -> Result<Option<String>, SourceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.to_ascii_lowercase())),
            Some(_) => self.fail(key, "is no string"),
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, SourceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => self.fail(key, "is neither true nor false"),
        }
    }

    /// One of two keys for the same thing; both may be there if they agree.
    pub(super) fn either(&self, key: &str, other: &str) -> Result<Option<String>, SourceError> {
        match (self.word(key)?, self.word(other)?) {
            (Some(a), Some(b)) if a != b => self
                .fail(key, format!("is `{}`, but `{other}` is `{}`: remove the wrong one", shorten(&a), shorten(&b))),
            (a, b) => Ok(a.or(b)),
        }
    }

    /// The value of `key`, or of the name that AutoAWQ's own files have for it.
    fn value(&self, key: &str, other: &str) -> Result<Option<&Value>, SourceError> {
        match (self.get(key), self.get(other)) {
            (Some(a), Some(b)) if a != b => {
                self.fail(key, format!("is {}, but `{other}` is {}", shorten(&a.to_string()), shorten(&b.to_string())))
            }
            (a, b) => Ok(a.or(b)),
        }
    }

    pub(super) fn bits(&self, allowed: &[u32]) -> Result<u32, SourceError> {
        let bits = self.value("bits", "w_bit")?.and_then(Value::as_u64);
        match allowed.iter().find(|b| Some(u64::from(**b)) == bits) {
            Some(bits) => Ok(*bits),
            None => self.fail("bits", format!("must be one of {allowed:?}; import the original weights")),
        }
    }

    /// Inputs of a group; 128 where nothing is said, as in transformers.
    pub(super) fn group_size(&self) -> Result<Option<usize>, SourceError> {
        if self.map.get("group_size").is_some_and(Value::is_null) {
            return self.fail("group_size", "is null: write its value");
        }
        match self.value("group_size", "q_group_size")?.map_or(Some(128), Value::as_i64) {
            Some(-1) => Ok(None),
            Some(size) if (1..=1 << 20).contains(&size) => Ok(Some(size as usize)),
            _ => self.fail("group_size", "must be −1 (a whole row) or 1 … 1048576 inputs"),
        }
    }

    /// Refuses rules that give some linears other settings; rules that leave linears alone begin with `-:`.
    pub(super) fn refuse_rules(&self, key: &str) -> Result<(), SourceError> {
        let refused = match self.get(key) {
            None | Some(Value::Bool(false)) => None,
            Some(Value::Object(rules)) => rules.keys().find(|rule| !rule.starts_with("-:")).cloned(),
            Some(other) => Some(other.to_string()),
        };
        match refused {
            None => Ok(()),
            Some(rule) => self.fail(
                key,
                format!(
                    "`{}`: other settings for some linears are not supported: import the original weights",
                    shorten(&rule)
                ),
            ),
        }
    }
}

fn parse(keys: &Keys<'_>) -> Result<Settings, SourceError> {
    match keys.word("quant_method")?.as_deref() {
        Some("gptq") => gptq::settings(keys),
        // AutoGPTQ's own file has no such key.
        None if keys.prefix.is_empty() => gptq::settings(keys),
        None => keys.fail("quant_method", "is missing; quantised checkpoints are read where it is gptq or awq"),
        Some("awq") => awq::settings(keys),
        Some(other) => keys.fail(
            "quant_method",
            format!(
                "quantised checkpoints of method `{}` are not supported: import the original weights, or GPTQ or AWQ",
                shorten(other)
            ),
        ),
    }
}

/// Joins the tensors of quantised linears in `tensors`, as the linears' weights.
pub(super) fn join(
    settings: &Settings,
    files: Files<'_>,
    tensors: &mut BTreeMap<String, RawTensor>,
) -> Result<(), SourceError> {
    let linears: Vec<String> = tensors.keys().filter_map(|n| n.strip_suffix(".qweight")).map(str::to_owned).collect();
    for linear in linears {
        let mut parts = Parts { files, tensors, linear: &linear };
        let ints = parts.ints(settings)?;
        let weight = RawTensor {
            file: ints.qweight.file,
            bytes: ints.qweight.bytes.clone(),
            shape: vec![ints.n, ints.k],
            encoding: Ok(Encoding::F32),
            packed: Some(Arc::new(ints)),
        };
        if tensors.insert(format!("{linear}.weight"), weight).is_some() {
            let path = files.first().map_or_else(PathBuf::new, |f| f.0.to_owned());
            let reason = format!("`{}` has both `weight` and `qweight`", shorten(&linear));
            return Err(SourceError::malformed(&path, "quantised checkpoint", reason));
        }
    }
    Ok(())
}

/// The tensors of one linear.
struct Parts<'a> {
    files: Files<'a>,
    tensors: &'a mut BTreeMap<String, RawTensor>,
    linear: &'a str,
}

impl Parts<'_> {
    fn take(&mut self, part: &str, types: &[&str]) -> Result<Option<RawTensor>, SourceError> {
        let tensor = format!("{}.{part}", self.linear);
        let Some(raw) = self.tensors.remove(&tensor) else { return Ok(None) };
        let dtype = match &raw.encoding {
            Ok(encoding) => encoding.name(),
            Err(name) => name,
        };
        if !types.contains(&dtype) {
            let (path, dtype) = (self.path(&raw), dtype.to_owned());
            return Err(SourceError::Dtype { path, tensor, dtype, supported: types.join(", ") });
        }
        Ok(Some(raw))
    }

    fn need(&mut self, part: &str, types: &[&str]) -> Result<RawTensor, SourceError> {
        self.take(part, types)?.ok_or_else(|| SourceError::MissingTensor {
            path: self.files.first().map_or_else(PathBuf::new, |f| f.0.to_owned()),
            tensor: format!("{}.{part}", self.linear),
            hint: "a quantised linear has qweight, qzeros and scales; get the whole checkpoint".to_owned(),
        })
    }

    fn path(&self, raw: &RawTensor) -> PathBuf {
        self.files.get(raw.file).map_or_else(PathBuf::new, |f| f.0.to_owned())
    }

    fn shaped(&self, part: &str, raw: &RawTensor, expected: &[usize]) -> Result<(), SourceError> {
        if raw.shape == expected {
            return Ok(());
        }
        let (path, tensor) = (self.path(raw), format!("{}.{part}", self.linear));
        Err(SourceError::Shape { path, tensor, expected: expected.to_vec(), found: raw.shape.clone() })
    }

    fn ints(&mut self, settings: &Settings) -> Result<PackedInts, SourceError> {
        let qweight = self.need("qweight", &["I32"])?;
        let (qzeros, scales) = (self.need("qzeros", &["I32"])?, self.need("scales", &["F16", "BF16", "F32"])?);
        let g_idx = self.take("g_idx", &["I32"])?;
        let path = self.path(&qweight);
        let linear = shorten(self.linear);
        let bad = |reason: String| SourceError::malformed(&path, "quantised checkpoint", reason);
        let per_word = 32 / settings.bits as usize;
        let &[a, b] = qweight.shape.as_slice() else {
            return Err(bad(format!("`{linear}.qweight` has {} dimensions, not 2", qweight.shape.len())));
        };
        let size = match settings.packing {
            Packing::Inputs => a.checked_mul(per_word).map(|k| (b, k)),
            Packing::InterleavedOutputs => b.checked_mul(per_word).map(|n| (n, a)),
        };
        let Some((n, k)) = size.filter(|(n, k)| *n > 0 && *k > 0 && n.is_multiple_of(per_word)) else {
            return Err(bad(format!("`{linear}.qweight` of [{a}, {b}] words holds no whole words of outputs")));
        };
        let group_size = settings.group_size.unwrap_or(k);
        let count = k.div_ceil(group_size);
        self.shaped("qzeros", &qzeros, &[count, n / per_word])?;
        self.shaped("scales", &scales, &[count, n])?;
        let mut groups: Vec<u32> = (0..k).map(|i| (i / group_size) as u32).collect();
        if let Some(raw) = g_idx {
            self.shaped("g_idx", &raw, &[k])?;
            let bytes = &self.files[raw.file].1[raw.bytes.clone()];
            let listed: Vec<u32> = (0..k).map(|i| super::super::packed_ints::word(bytes, i)).collect();
            if let Some((i, group)) = listed.iter().enumerate().find(|(_, group)| **group as usize >= count) {
                let group = group.cast_signed();
                return Err(bad(format!("`{linear}.g_idx` puts input {i} into group {group} of {count}")));
            }
            // All zero is how programs say that the groups are in order.
            if listed.iter().any(|group| *group != 0) {
                groups = listed;
            }
        }
        let span = |raw: &RawTensor| Span { file: raw.file, bytes: raw.bytes.clone() };
        let scale_encoding = scales.encoding.clone().unwrap_or(Encoding::F16);
        let mut ints = PackedInts {
            packing: settings.packing,
            bits: settings.bits,
            n,
            k,
            qweight: span(&qweight),
            qzeros: span(&qzeros),
            scales: span(&scales),
            scale_encoding,
            zero_offset: u32::from(settings.zero_less_one),
            groups,
            is_q4_0: false,
        };
        let middle = 1u32 << (settings.bits - 1);
        let zeros = &self.files[qzeros.file].1[qzeros.bytes];
        let all = |ints: &PackedInts| (0..count).all(|g| (0..n).all(|i| ints.zero(zeros, g, i) == middle));
        let mut centred = all(&ints);
        if settings.symmetric && !centred {
            // Some programs store zero points as they are and say that they are less one.
            ints.zero_offset = 1 - ints.zero_offset;
            centred = all(&ints);
            if !centred {
                return Err(bad(format!("`{linear}.qzeros` are not all {middle}, but the settings say symmetric")));
            }
            tracing::warn!(
                "{}: `{linear}.qzeros` are of the other GPTQ format than `checkpoint_format` says",
                path.display()
            );
        }
        let in_order = ints.groups.chunks(GROUP).all(|chunk| chunk.iter().all(|g| *g == chunk[0]));
        ints.is_q4_0 = settings.bits == 4
            && centred
            && in_order
            && k.is_multiple_of(GROUP)
            && ints.scale_encoding == Encoding::F16;
        Ok(ints)
    }
}
