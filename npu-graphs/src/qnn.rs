//! Qualcomm's NPU through the QNN HTP library.

// Joins when `weights::bias_codes` and `gain_codes` are there.
#[cfg(any())]
mod lower;
#[allow(dead_code, unused_imports, reason = "being built")]
mod raw;

pub use raw::{CompilerEstimate, FinalizeReport};
