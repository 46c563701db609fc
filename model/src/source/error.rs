//! What can be wrong with a model that is imported.

use crate::TensorName;
use std::path::{Path, PathBuf};

/// Why a model cannot be imported. Every message is one line: the file, what is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The path holds no model that this crate can import.
    #[error("{}: not a model that can be imported: {reason}", path.display())]
    NotAModel {
        /// The file or directory.
        path: PathBuf,
        /// What it seems to be, and what to do.
        reason: String,
    },
    /// A file breaks the rules of its own format.
    #[error("{}: malformed {format}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `JSON`, `safetensors`, `GGUF`.
        format: &'static str,
        /// The rule that is broken, and where.
        reason: String,
    },
    /// A setting is missing, absurd, or asks for mathematics that coexec does not have.
    #[error("{}: `{key}`: {reason}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting, as the file spells it.
        key: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The architecture is not in the table.
    #[error("{}: unknown architecture `{name}`: coexec runs {known}", path.display())]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// What the file calls itself.
        name: String,
        /// What it could have been.
        known: String,
    },
    /// The architecture needs a tensor that the files lack.
    #[error("{}: tensor `{tensor}` is missing: {hint}", path.display())]
    MissingTensor {
        /// The file or directory.
        path: PathBuf,
        /// The tensor, as the file would spell it.
        tensor: String,
        /// What to do.
        hint: String,
    },
    /// The files hold a tensor that the architecture does not use: the result would not be the model.
    #[error("{}: tensor `{tensor}` is not part of a {architecture} model as coexec knows it: {hint}", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file spells it.
        tensor: String,
        /// Row of the architecture table.
        architecture: &'static str,
        /// What it probably is, and what to do.
        hint: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{tensor}` is {found:?}, but the configuration says {expected:?}: one of the two is not this model's", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file spells it.
        tensor: String,
        /// `[rows, columns]`, or `[len]`, as the configuration says.
        expected: Vec<usize>,
        /// What the file says, outermost first.
        found: Vec<usize>,
    },
    /// A tensor has a type that cannot be read.
    #[error("{}: tensor `{tensor}` has type {dtype}: supported are {supported}; convert the model to one of them", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file spells it.
        tensor: String,
        /// Its type, as the file spells it.
        dtype: String,
        /// The types that can be read.
        supported: String,
    },
    /// A tokenizer or a chat template cannot be used.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}`, row {row}: a weight is not finite; the file is damaged or its training diverged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file spells it.
        tensor: String,
        /// Row in the file's order.
        row: usize,
    },
    /// A model cannot be transformed as asked.
    #[error("{transform}: {reason}")]
    Transform {
        /// Which transform.
        transform: &'static str,
        /// What does not fit, where, and what to do.
        reason: String,
    },
    /// The packed file that is the source cannot be read.
    #[error(transparent)]
    Packed(#[from] crate::packed::PackedError),
    /// The caller asked for a tensor that this model does not have.
    #[error("this model has no tensor `{0}`")]
    NoSuchTensor(TensorName),
    /// The caller asked for rows past the end.
    #[error("tensor `{tensor}` has {rows} rows, asked for {start}..{end}")]
    RowRange {
        /// The tensor.
        tensor: TensorName,
        /// Rows it has.
        rows: usize,
        /// First row asked for.
        start: usize,
        /// Row past the last asked for.
        end: usize,
    },
}

impl SourceError {
    pub(crate) fn setting(path: &Path, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { path: path.to_owned(), key: key.into(), reason: reason.into() }
    }

    pub(crate) fn not_a_model(path: &Path, reason: impl Into<String>) -> Self {
        Self::NotAModel { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn malformed(path: &Path, format: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), format, reason: reason.into() }
    }

    pub(crate) fn tokenizer(path: &Path, reason: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
