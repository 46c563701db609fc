//! Qualcomm's NPU through the QNN HTP library: [`QnnDevice`] behind [`crate::NpuDevice`].
//!
//! ```text
//! QnnOptions --open--> QnnDevice --compile--> QnnContext --submit, wait--> codes
//!                          ^ manifest + bytes --load--'  `--serialize--> bytes
//! ```
//!
//! * [`QnnDevice::compile`] composes each graph of a spec (`lower`), validates every node, and finalises.
//! * `load` reads the binary's own description with libQnnSystem and compares versions, chip, graphs and encodings with the
//!   manifest before the device sees it: QNN loads a binary with a flipped weight and computes wrong numbers.
//! * `raw` holds QNN's objects; all `unsafe` is there.
//! * Executions are synchronous, one after another, on a thread of the context (see `context`).
//!
//! Nothing is cleverer than the library: compiling happens in this process, and a crash of Qualcomm's compiler is one of
//! the process.

mod context;
mod device;
mod lower;
mod matching;
mod options;
mod raw;

pub use context::QnnContext;
pub use device::{LibraryInfo, LibraryPlace, QnnDevice, library_places};
pub use options::{LogLevel, PerformancePolicy, QnnOptions, Target};
pub use qnn_sys::{adsp_library_path, prepare_environment};
pub use raw::{CompilerEstimate, FinalizeReport};
