//! What can go wrong with a packed file: what, where, and what to do.

use crate::{TensorName, output::OutputError};
use std::{io, path::PathBuf};

/// An error of the packed file's reader or writer. `file` is the path, or says that the model is in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// There is no memory for what is to be read.
    #[error(transparent)]
    Memory(#[from] crate::memory::OutOfMemory),
    /// The system refused a file operation.
    #[error("cannot {action} {path}: {source}{hint}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What to do about it; empty when nothing is known.
        hint: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file does not start as a packed file does.
    #[error("{file}: not a coexec file: {hint}")]
    NotPacked {
        /// The file.
        file: String,
        /// What it looks like.
        hint: &'static str,
    },
    /// The file ends early.
    #[error("{file}: truncated: {found_bytes} of {expected_bytes} bytes are there; copy or import it again")]
    Truncated {
        /// The file.
        file: String,
        /// Length that the header promises (or that a header takes).
        expected_bytes: u64,
        /// Length of the file.
        found_bytes: u64,
    },
    /// The file goes on after its end.
    #[error("{file}: {found_bytes} bytes long, but its header says {expected_bytes}; copy or import it again")]
    TrailingBytes {
        /// The file.
        file: String,
        /// Length that the header promises.
        expected_bytes: u64,
        /// Length of the file.
        found_bytes: u64,
    },
    /// The file is of another format version.
    #[error("{file}: format version {found}, this coexec reads {supported}; {}",
        if found > supported { "update coexec, or import the model again" } else { "import the model again" })]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The version of this build.
        supported: u32,
    },
    /// The weights are packed for other kernels.
    #[error("{file}: weights are in layout `{found}`, this coexec reads `{supported}`; import the model again")]
    Layout {
        /// The file.
        file: String,
        /// Layout of its weights.
        found: String,
        /// Layout of this build.
        supported: &'static str,
    },
    /// Bytes are not those that were written.
    #[error("{file}: checksum of the {part} is wrong: the file is damaged; copy or import it again")]
    Checksum {
        /// The file.
        file: String,
        /// `header`, `index` or `tile table`.
        part: &'static str,
    },
    /// A field of the header is impossible.
    #[error("{file}: header field `{field}` {reason}")]
    Header {
        /// The file.
        file: String,
        /// The field, as `docs/file-format.md` calls it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The index cannot be read.
    #[error("{file}: index is unreadable: {reason}; import the model again")]
    Index {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration describes no model that can run.
    #[error("{file}: configuration: `{field}` {reason}")]
    Config {
        /// The file.
        file: String,
        /// The field of [`crate::DecoderConfig`].
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The calibration does not fit the model.
    #[error("{file}: calibration: {place}: {reason}; calibrate the model again")]
    Calibration {
        /// The file.
        file: String,
        /// Layer and linear.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// The configuration asks for a tensor that is not there.
    #[error("{file}: tensor `{tensor}` is missing ({reason})")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: TensorName,
        /// Why it should be there.
        reason: &'static str,
    },
    /// A tensor is not what it should be.
    #[error("{file}: tensor `{tensor}` {reason}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: TensorName,
        /// What is wrong with it.
        reason: String,
    },
    /// A tile is not what it should be.
    #[error("{file}: tensor `{tensor}`, tile {tile}: {reason}")]
    Tile {
        /// The file.
        file: String,
        /// The tensor.
        tensor: TensorName,
        /// Number of the tile inside the tensor.
        tile: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The writer was called out of order, or after it had failed.
    #[error("{file}: writer: {reason}")]
    Writer {
        /// The file being written.
        file: String,
        /// What the caller did.
        reason: String,
    },
}

impl PackedError {
    pub(crate) fn io(path: &std::path::Path, action: &'static str, source: io::Error) -> Self {
        let hint = crate::output::hint(&source);
        Self::Io { path: path.to_owned(), action, hint, source }
    }
}
