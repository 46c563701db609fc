//! coexec runs decoder-only language models on a phone's NPU and CPU *together*.
//!
//! Prefill is cut into fixed-shape chunks whose linear layers are static INT8 NPU graphs; what an NPU does badly (float
//! operations, attention, activation outliers) runs on the CPU in shadow, at the same time; a scheduler runs the pieces of
//! all chunks out of order so that the NPU never waits. Decode runs on the CPU from a memory-mapped file whose INT4 or INT8
//! weights are zstd-compressed.
//!
//! ```
//! # #[cfg(feature = "demo-model")] {
//! use coexec::{EngineOptions, Engine, GenerateRequest, SamplerOptions, Special};
//!
//! let engine = Engine::new(coexec::demo::packed()?, EngineOptions::default())?;
//! let prompt = engine.model().require_tokenizer()?.encode("Once upon a time", Special::AddBos)?;
//! let request = GenerateRequest {
//!     prompt,
//!     max_tokens: 8,
//!     sampler: SamplerOptions::greedy(),
//!     stop: Vec::new(),
//!     ignore_eos: false,
//!     draft_tokens: 0,
//!     cancel: coexec::CancelToken::new(),
//! };
//! let tale = engine.session().generate(&request, &mut |piece| print!("{piece}"))?;
//! assert_eq!(tale.tokens.len(), 8);
//! # }
//! # Ok::<(), coexec::RuntimeError>(())
//! ```

#![forbid(unsafe_code)]

#[cfg(feature = "demo-model")]
pub mod demo;

pub use coexec_model as model;
pub use coexec_npu as npu;
pub use coexec_runtime as runtime;
pub use coexec_runtime::{
    Engine, EngineOptions, FinishReason, GenerateRequest, Generation, KvDtype, NpuChoice, RuntimeError, ScheduleChoice,
    Session, Stats, sampler::SamplerOptions, text::Special,
};
pub use coexec_scheduler as scheduler;
pub use coexec_scheduler::{CancelToken, PolicyKind};
