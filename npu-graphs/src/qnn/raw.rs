//! QNN's objects as owned values: library ← backend ← device ← context ← graph. Children hold their parents, so every
//! order of dropping frees in QNN's order. Everything that QNN does not check itself is checked here before the call.
//!
//! The modules that call C, and only those, may use `unsafe`.

#[allow(unsafe_code, reason = "calls QNN")]
mod backend;
#[allow(unsafe_code, reason = "reads structs of QNN's system library")]
mod binary;
#[allow(unsafe_code, reason = "calls QNN")]
mod context;
#[allow(unsafe_code, reason = "calls QNN")]
mod device;
#[allow(unsafe_code, reason = "calls QNN")]
mod graph;
#[allow(unsafe_code, reason = "QNN calls it")]
mod log;
mod node;
#[allow(unsafe_code, reason = "calls QNN")]
mod power;
#[allow(unsafe_code, reason = "calls QNN")]
mod profile;
#[allow(unsafe_code, reason = "memory of the phone's driver")]
mod rpcmem;
#[allow(unsafe_code, reason = "structs that point into themselves")]
mod tensor;

pub(crate) use backend::Backend;
pub(crate) use binary::{BinaryInfo, GraphInfo, TensorInfo};
pub(crate) use context::{ContextOptions, RawContext, SpillFill};
pub(crate) use device::RawDevice;
pub(crate) use graph::{GraphOptions, InputMemory, MemoryHandle, OutputMemory, RawGraph};
pub(crate) use node::{NodeDef, Param};
pub(crate) use power::PowerVote;
pub use profile::{CompilerEstimate, FinalizeReport};
pub(crate) use rpcmem::{RpcMem, RpcMemory};
pub(crate) use tensor::{QnnDtype, Quant, TensorDef, TensorKind, TensorRef};

use crate::NpuError;
use std::ffi::c_void;

/// An opaque handle of QNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle(*mut c_void);

impl Handle {
    const NULL: Self = Self(std::ptr::null_mut());

    fn is_null(self) -> bool {
        self.0.is_null()
    }
}

// SAFETY: a handle is a token that only QNN reads; QNN's functions may be called from any thread (measured on 2.51 with
// graphs and contexts shared by several threads).
#[allow(unsafe_code, reason = "handles are tokens for a library that is safe to call from any thread")]
unsafe impl Send for Handle {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "handles are tokens for a library that is safe to call from any thread")]
unsafe impl Sync for Handle {}

/// A refusal of ours before QNN is called.
fn refused(graph: &str, kind: &'static str, name: &str, reason: &str) -> NpuError {
    NpuError::Refused { graph: graph.to_owned(), kind, name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "a fake library and a fake allocator")]
mod shared_memory_tests;
#[cfg(test)]
mod tests;
