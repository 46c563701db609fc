//! Importers: a Hugging Face directory or a GGUF file as a configuration, a tokenizer and float rows.
//!
//! [`open`] reads headers only; [`ModelSource::read_rows`] then touches only the bytes of the rows that it is asked for, so
//! a model larger than memory is imported tensor by tensor. Whatever a model's files say that coexec cannot compute
//! (settings, tensors, types) is an error here: nothing is imported that would be another model.
//!
//! ```text
//! config.json ─┐                        ┌─ arch: the architecture table
//! safetensors ─┼─ hf ──┐                │
//! tokenizer ───┘       ├─ store: every part located in mapped files ── ModelSource
//! one .gguf ───── gguf ┘                │
//!                                       └─ parts: names, shapes, and how packed tensors are joined from them
//! ```

pub mod arch;
mod blocks;
mod encoding;
mod error;
pub mod gguf;
pub mod hf;
mod packed_ints;
pub(crate) mod parts;
mod settings;
mod store;
pub mod transform;

pub use encoding::Encoding;
#[cfg(test)]
pub(crate) use encoding::q4_0_groups;
pub use error::SourceError;

use crate::output::ReadFiles;
use crate::quant::Q4sGroup;
use crate::{DecoderConfig, TensorName, TokenizerData};
use std::ops::Range;
use std::path::Path;

/// Rows of a tensor as GGUF holds them in `Q4_0`: groups of 32 columns, ascending.
pub type Q4Rows = Vec<Vec<Q4sGroup>>;

/// A model that can be imported: its configuration, its tokenizer, and its tensors by the names of the packed file.
pub trait ModelSource: Send + Sync {
    /// The configuration.
    fn config(&self) -> &DecoderConfig;

    /// The tokenizer and the chat templates.
    fn tokenizer(&self) -> &TokenizerData;

    /// `(rows, columns)` of a tensor; a vector is `(1, len)`. `None` when the model has no such tensor: the head of a tied
    /// model, biases it lacks, and hot rows, which calibration makes.
    fn shape(&self, name: TensorName) -> Option<(usize, usize)>;

    /// Reads `rows` of a tensor as f32, `[rows.len(), columns]`, into `out` (cleared first). Joined tensors (query, key,
    /// value; gate, up) are put together from their parts; query and key rows are in Hugging Face's order (half-split
    /// rotary pairs).
    ///
    /// # Errors
    /// [`SourceError::NoSuchTensor`] where [`Self::shape`] is `None`, [`SourceError::RowRange`] past its rows, and
    /// [`SourceError::NotFinite`] for NaN or infinite weights.
    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError>;

    /// Reads `rows` of a tensor that the source holds as GGUF's `Q4_0`, bit for bit: groups of 32 columns per row, into
    /// `out` (cleared first). `Ok(false)` when the tensor, or a part of it, is held as anything else.
    ///
    /// # Errors
    /// Those of [`Self::read_rows`].
    fn read_q4_0_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Q4Rows) -> Result<bool, SourceError> {
        let _ = (name, rows);
        out.clear();
        Ok(false)
    }

    /// One line for people: format, path, architecture, size, element type.
    fn describe(&self) -> String;

    /// The files that the model is read from, which nothing that is made of it may replace.
    fn read_files(&self) -> ReadFiles {
        ReadFiles::none()
    }
}

macro_rules! source_behind_a_pointer {
    ($pointer:ty) => {
        impl<T: ModelSource + ?Sized> ModelSource for $pointer {
            fn config(&self) -> &DecoderConfig {
                (**self).config()
            }
            fn tokenizer(&self) -> &TokenizerData {
                (**self).tokenizer()
            }
            fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
                (**self).shape(name)
            }
            fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
                (**self).read_rows(name, rows, out)
            }
            fn read_q4_0_rows(
                &self,
                name: TensorName,
                rows: Range<usize>,
                out: &mut Q4Rows,
            ) -> Result<bool, SourceError> {
                (**self).read_q4_0_rows(name, rows, out)
            }
            fn describe(&self) -> String {
                (**self).describe()
            }
            fn read_files(&self) -> ReadFiles {
                (**self).read_files()
            }
        }
    };
}

source_behind_a_pointer!(&T);
source_behind_a_pointer!(Box<T>);

/// Opens a model: a directory is a Hugging Face checkpoint, a file is GGUF.
///
/// # Errors
/// When the path holds no such model, or one that coexec cannot run; the message names file, place and remedy.
pub fn open(path: &Path) -> Result<Box<dyn ModelSource>, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|e| SourceError::io(path, e))?;
    if metadata.is_dir() {
        return Ok(Box::new(hf::open(path)?));
    }
    let map = crate::mmap::Mapping::open(path).map_err(|e| SourceError::io(path, e))?;
    if map.starts_with(gguf::MAGIC) {
        return Ok(Box::new(gguf::open_mapped(path, map)?));
    }
    Err(SourceError::not_a_model(path, what_is_this(path, &map)))
}

/// What a file that is no GGUF probably is, and what to do.
fn what_is_this(path: &Path, bytes: &[u8]) -> String {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if bytes.is_empty() {
        return "the file is empty".to_owned();
    }
    if [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|m| bytes.starts_with(*m)) {
        return "a GGML file from before GGUF: convert the original weights again".to_owned();
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 2]) || ["bin", "pt", "pth"].contains(&&*extension)
    {
        return "it looks like PyTorch weights: convert them to safetensors and open the directory".to_owned();
    }
    match &*extension {
        "safetensors" | "json" | "jinja" => {
            format!("a part of a Hugging Face directory: open the directory ({})", directory.display())
        }
        "coexec" => "a .coexec file is imported already: open it as a packed file".to_owned(),
        "gguf" => {
            "it does not begin with GGUF's magic: the download may be an error page or a Git LFS pointer".to_owned()
        }
        "onnx" | "tflite" | "pte" | "mnn" | "task" | "litertlm" => {
            "a compiled or exported model: import the original weights (Hugging Face directory or GGUF)".to_owned()
        }
        _ => "neither a Hugging Face directory nor a GGUF file".to_owned(),
    }
}
