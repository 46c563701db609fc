//! A model whose parts are located in mapped files: what both importers produce, and the one [`ModelSource`] of this crate.
//!
//! Invariant: every part that the configuration asks for is located, its shape and encoding are checked, and its bytes lie
//! inside its file. Reading therefore cannot fail but for weights that are not finite.

use super::encoding::{Encoding, q4_0_groups};
use super::packed_ints::{Files, PackedInts};
use super::parts::{Part, all_parts, parts_of};
use super::{ModelSource, Q4Rows, SourceError};
use crate::mmap::Mapping;
use crate::output::ReadFiles;
use crate::{DecoderConfig, TensorName, TokenizerData};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the model.
#[derive(Debug)]
pub(crate) struct StoreFile {
    pub(crate) path: PathBuf,
    pub(crate) map: Mapping,
}

/// A tensor as a file's header describes it. Bytes are checked against the file by whoever makes it.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor {
    /// Position in the list of files.
    pub(crate) file: usize,
    /// Bytes of the tensor inside the file.
    pub(crate) bytes: Range<usize>,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    /// Element type; `Err` holds the file's name for a type that cannot be read.
    pub(crate) encoding: Result<Encoding, String>,
    /// A linear of packed integers, which reads as `encoding`; the bytes are those of its codes.
    pub(crate) packed: Option<Arc<PackedInts>>,
}

impl RawTensor {
    /// Appends one row of a matrix of `cols` columns to `out`; false where its type or its bytes are not those of one.
    pub(crate) fn read_row(&self, files: Files<'_>, row: usize, cols: usize, out: &mut Vec<f32>) -> bool {
        if let Some(ints) = &self.packed {
            ints.read_row(files, row, out);
            return true;
        }
        let Ok(encoding) = &self.encoding else { return false };
        let Some(size) = encoding.row_bytes(cols) else { return false };
        let bytes = files(self.file).get(self.bytes.clone()).and_then(|bytes| bytes.get(row * size..(row + 1) * size));
        let Some(bytes) = bytes else { return false };
        encoding.decode(bytes, out);
        true
    }
}

/// Where a part lies.
#[derive(Clone, Debug)]
struct Located {
    name: String,
    file: usize,
    bytes: Range<usize>,
    encoding: Encoding,
    packed: Option<Arc<PackedInts>>,
    rows: usize,
    cols: usize,
    /// Rotary rows (elements, for a vector) per head that are stored interleaved; 0 when the order is ours.
    interleaved_head_dim: usize,
}

impl Located {
    /// The file's row (or element) that holds ours.
    fn file_row(&self, row: usize) -> usize {
        match self.interleaved_head_dim {
            0 => row,
            head_dim => {
                let (head, r) = (row / head_dim, row % head_dim);
                let (half, pair) = (r / (head_dim / 2), r % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }
}

/// A model in mapped files.
#[derive(Debug)]
pub(crate) struct Store {
    config: DecoderConfig,
    tokenizer: TokenizerData,
    /// The file or the directory.
    path: PathBuf,
    files: Vec<StoreFile>,
    parts: BTreeMap<Part, Located>,
    description: String,
}

/// How the parts of a model are called and ordered in its files.
pub(crate) struct Naming<'a> {
    /// Name of a part.
    pub(crate) name: &'a dyn Fn(Part) -> String,
    /// Query and key rows are in the order of interleaved rotary pairs.
    pub(crate) interleaved_qk: bool,
    /// Types that can be read, for messages.
    pub(crate) supported: &'a [Encoding],
    /// File or directory, for messages about what is missing.
    pub(crate) path: &'a Path,
}

impl Store {
    /// Locates every part of `config` among `tensors`, and takes them out of it: what stays is used by nobody.
    pub(crate) fn locate(
        config: DecoderConfig,
        tokenizer: TokenizerData,
        files: Vec<StoreFile>,
        tensors: &mut BTreeMap<String, RawTensor>,
        naming: &Naming<'_>,
        format: &str,
    ) -> Result<Self, SourceError> {
        let mut parts = BTreeMap::new();
        // The number of layers comes from a file: this loop ends at the first part that is missing, so it is bounded by
        // the number of tensors.
        for part in all_parts(&config) {
            let name = (naming.name)(part);
            let raw = tensors.remove(&name).ok_or_else(|| missing(naming, &name, &config))?;
            let path = files.get(raw.file).map_or(naming.path, |f| &f.path);
            let expected = part.file_shape(&config);
            if raw.shape != expected {
                return Err(SourceError::Shape { path: path.to_owned(), tensor: name, expected, found: raw.shape });
            }
            let (rows, cols) = part.shape(&config);
            let encoding = raw.encoding.map_err(|dtype| SourceError::Dtype {
                path: path.to_owned(),
                tensor: name.clone(),
                dtype,
                supported: naming.supported.iter().map(|e| e.name()).collect::<Vec<_>>().join(", "),
            })?;
            let size = encoding.row_bytes(cols).and_then(|b| b.checked_mul(rows));
            let inside = files.get(raw.file).is_some_and(|f| raw.bytes.end <= f.map.len());
            if (raw.packed.is_none() && size != Some(raw.bytes.len())) || !inside {
                let reason =
                    format!("tensor `{name}` of {rows} × {cols} {encoding} does not fit its {} bytes", raw.bytes.len());
                return Err(SourceError::malformed(path, "tensor data", reason));
            }
            let heads = if naming.interleaved_qk { part.rotary_heads(&config) } else { 0 };
            let interleaved_head_dim = if heads == 0 { 0 } else { config.head_dim as usize };
            let (file, bytes, packed) = (raw.file, raw.bytes, raw.packed);
            parts.insert(part, Located { name, file, bytes, encoding, packed, rows, cols, interleaved_head_dim });
        }
        let description = describe(format, naming.path, &config, &parts);
        Ok(Self { config, tokenizer, path: naming.path.to_owned(), files, parts, description })
    }

    fn part(&self, part: Part, name: TensorName) -> Result<(&Located, &StoreFile), SourceError> {
        let located = self.parts.get(&part).ok_or(SourceError::NoSuchTensor(name))?;
        Ok((located, &self.files[located.file]))
    }

    /// Bytes of one of our rows.
    fn row_bytes<'a>(&self, located: &Located, file: &'a StoreFile, row: usize) -> &'a [u8] {
        // A vector is one row whose elements are permuted after decoding.
        let row = if located.rows == 1 { row } else { located.file_row(row) };
        let size = located.bytes.len() / located.rows;
        let start = located.bytes.start + row * size;
        &file.map[start..start + size]
    }

    fn read_part(
        &self,
        part: Part,
        rows: Range<usize>,
        name: TensorName,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let (located, file) = self.part(part, name)?;
        for row in rows {
            let start = out.len();
            match &located.packed {
                Some(ints) => ints.read_row(&|f| &self.files[f].map, located.file_row(row), out),
                None => located.encoding.decode(self.row_bytes(located, file, row), out),
            }
            if out[start..].iter().any(|v| !v.is_finite()) {
                let (path, tensor) = (file.path.clone(), located.name.clone());
                return Err(SourceError::NotFinite { path, tensor, row: located.file_row(row) });
            }
            if located.rows == 1 && located.interleaved_head_dim != 0 {
                let ours: Vec<f32> = (0..located.cols).map(|i| out[start + located.file_row(i)]).collect();
                out[start..].copy_from_slice(&ours);
            }
        }
        Ok(())
    }

    /// The parts of a tensor, and the rows of each that `rows` covers. For vectors, whole parts.
    fn plan(&self, name: TensorName, rows: Range<usize>) -> Result<Vec<(Part, Range<usize>)>, SourceError> {
        let parts = parts_of(&self.config, name).ok_or(SourceError::NoSuchTensor(name))?;
        let (total, _) = self.shape(name).ok_or(SourceError::NoSuchTensor(name))?;
        if rows.start > rows.end || rows.end > total {
            return Err(SourceError::RowRange { tensor: name, rows: total, start: rows.start, end: rows.end });
        }
        let mut plan = Vec::with_capacity(parts.len());
        let mut first = 0;
        for part in parts {
            if part.is_vector() {
                plan.push((part, rows.clone()));
                continue;
            }
            let last = first + part.shape(&self.config).0;
            let (start, end) = (rows.start.max(first), rows.end.min(last));
            if start < end {
                plan.push((part, start - first..end - first));
            }
            first = last;
        }
        Ok(plan)
    }
}

impl ModelSource for Store {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn tokenizer(&self) -> &TokenizerData {
        &self.tokenizer
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        let parts = parts_of(&self.config, name)?;
        let shapes = || parts.iter().map(|p| p.shape(&self.config));
        if parts[0].is_vector() {
            Some((1, shapes().map(|s| s.1).sum()))
        } else {
            Some((shapes().map(|s| s.0).sum(), parts[0].shape(&self.config).1))
        }
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        out.clear();
        let plan = self.plan(name, rows)?;
        let elems: usize = plan.iter().map(|(p, rows)| rows.len() * p.shape(&self.config).1).sum();
        out.reserve(elems);
        plan.into_iter().try_for_each(|(part, rows)| self.read_part(part, rows, name, out))
    }

    fn read_q4_0_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Q4Rows) -> Result<bool, SourceError> {
        out.clear();
        let plan = self.plan(name, rows)?;
        // All parts of the tensor, not only those of these rows: a tensor is lossless or it is not.
        for part in parts_of(&self.config, name).ok_or(SourceError::NoSuchTensor(name))? {
            let located = self.part(part, name)?.0;
            let exact = located.packed.as_ref().map_or(located.encoding == Encoding::Q4_0, |ints| ints.is_q4_0);
            if part.is_vector() || !exact {
                return Ok(false);
            }
        }
        for (part, rows) in plan {
            let (located, file) = self.part(part, name)?;
            for row in rows {
                let groups = match &located.packed {
                    Some(ints) => ints.q4_0_groups(&|f| &self.files[f].map, located.file_row(row)),
                    None => q4_0_groups(self.row_bytes(located, file, row)),
                };
                if groups.iter().any(|g| !g.scale.is_finite()) {
                    let (path, tensor) = (file.path.clone(), located.name.clone());
                    return Err(SourceError::NotFinite { path, tensor, row: located.file_row(row) });
                }
                out.push(groups);
            }
        }
        Ok(true)
    }

    fn read_files(&self) -> ReadFiles {
        let paths = self.files.iter().map(|file| &file.path);
        [&self.path].into_iter().chain(paths).collect()
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

fn missing(naming: &Naming<'_>, name: &str, config: &DecoderConfig) -> SourceError {
    let hint = match name {
        "lm_head.weight" => {
            "set `tie_word_embeddings` to true if the head is the embedding, or get the whole model".into()
        }
        _ => format!(
            "a {} model of {} layers has it; get the whole model",
            config.architecture, config.num_hidden_layers
        ),
    };
    SourceError::MissingTensor { path: naming.path.to_owned(), tensor: name.to_owned(), hint }
}

/// `Hugging Face directory X, llama, 1.1 B parameters, BF16`.
fn describe(format: &str, path: &Path, config: &DecoderConfig, parts: &BTreeMap<Part, Located>) -> String {
    let mut by_encoding: BTreeMap<&str, u128> = BTreeMap::new();
    for p in parts.values() {
        let name = p.packed.as_ref().map_or(p.encoding.name(), |ints| ints.name());
        *by_encoding.entry(name).or_default() += p.rows as u128 * p.cols as u128;
    }
    let total: u128 = by_encoding.values().sum();
    let main = by_encoding.iter().max_by_key(|(_, elems)| **elems).map_or("", |(name, _)| name);
    let count = match total as f64 {
        n if n >= 1e9 => format!("{:.1} B", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n => format!("{:.0} k", n / 1e3),
    };
    format!("{format} {}, {}, {count} parameters, {main}", path.display(), config.architecture)
}

impl Store {
    /// Whether every byte of a tensor is zero.
    pub(crate) fn is_zero(&self, raw: &RawTensor) -> bool {
        let bytes = self.files.get(raw.file).and_then(|f| f.map.get(raw.bytes.clone()));
        bytes.is_some_and(|bytes| bytes.iter().all(|b| *b == 0))
    }

    /// Path of the file number `file`.
    pub(crate) fn file_path(&self, file: usize) -> Option<&Path> {
        self.files.get(file).map(|f| &*f.path)
    }
}
