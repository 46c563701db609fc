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
//!     ..GenerateRequest::default()
//! };
//! let mut session = engine.session();
//! let tale = session.generate(&request, &mut |piece| print!("{piece}"))?;
//! assert_eq!(tale.tokens.len(), 8);
//!
//! // The session now holds prompt and tale; what comes next is a part of the same text, and has no BOS of its own.
//! let prompt = engine.model().require_tokenizer()?.encode(" But then", Special::Plain)?;
//! let more = session.generate(&GenerateRequest { prompt, ..request }, &mut |piece| print!("{piece}"))?;
//! assert!(more.stats.reused_tokens > 8);
//! # }
//! # Ok::<(), coexec::RuntimeError>(())
//! ```
//!
//! A conversation with a model that has a chat template is a [`Chat`].
//!
//! # In an app
//! - [`NpuChoice::Real`] is a chip or the CPU. The default, [`NpuChoice::Auto`], simulates an NPU where there is none, for tests.
//! - Engines, sessions and chats can be used on any thread; 512 KiB of stack do. An engine is shared by its sessions.
//! - [`CancelToken`] ends a prefill, a generation, an import or a compilation from another thread.
//! - What a file, a prompt or an option makes large and the system has no memory for is [`RuntimeError::Memory`] of that call, and
//!   the engine goes on. When even small allocations (below 64 KiB) fail, the process aborts, as Rust programs do.
//! - The library takes no signals and prints nothing; it reports through [`tracing`](https://docs.rs/tracing). A model file must
//!   not be cut short while it is mapped: the system answers with SIGBUS, which only the program can handle.

#![forbid(unsafe_code)]

#[cfg(feature = "demo-model")]
pub mod demo;

pub use coexec_model as model;
pub use coexec_npu as npu;
pub use coexec_runtime as runtime;
pub use coexec_runtime::{
    Chat, ChatOptions, ChatReply, Engine, EngineOptions, FinishReason, GenerateRequest, Generation, KvDtype, NpuChoice,
    RuntimeError, ScheduleChoice, Session, Stats,
    sampler::SamplerOptions,
    text::{Message, Special},
};
pub use coexec_scheduler as scheduler;
pub use coexec_scheduler::{CancelToken, PolicyKind};
