//! Qualcomm's NPU through the QNN HTP library.

mod lower;
#[allow(dead_code, unused_imports, reason = "being built")]
mod raw;

pub use raw::{CompilerEstimate, FinalizeReport};
