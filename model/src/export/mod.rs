//! Writing models for other programs: a GGUF file of any [`crate::source::ModelSource`], so that a peer runs the very same
//! tensors.
//!
//! ```text
//! random shape | HF directory | GGUF | .coexec --ModelSource--> rows --encode--> blocks --gguf--> one .gguf file
//! ```
//!
//! Rows are streamed: in memory is one block of rows. Where source and file both hold `Q4_0`, its blocks are copied bit for
//! bit; so are those of a `q4s` tensor of a `.coexec` file, which is the same arithmetic.

mod encode;
mod gguf;
mod metadata;
mod packed_source;
mod q6_k;
mod vocabulary;

pub use gguf::{ExportError, ExportProgress, GgufOptions, GgufSummary, write_gguf};
pub use packed_source::PackedSource;
