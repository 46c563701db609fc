//! The engine: sessions, prefill, decode, weight store, KV cache, import with calibration, evaluation.
//!
//! One prompt, step by step, each a separate call: [`import`] makes a `.coexec` file, [`Engine::open`] maps it,
//! [`prefill::plan`] cuts a prompt into chunks and tasks, [`Session::prefill`] runs them on NPU and CPU,
//! [`Session::decode`] computes one token, [`Session::generate`] does all of it and streams text, [`Chat`] holds a
//! conversation.

#![forbid(unsafe_code)]

pub mod cache;
pub mod calibrate;
pub mod chat;
pub mod compile;
pub mod decode;
pub mod doctor;
pub mod draft;
pub mod engine;
pub mod error;
pub mod eval;
pub mod float_pass;
pub mod generate;
pub mod import;
pub mod kv;
pub mod layer;
pub mod model;
pub mod npu;
pub mod options;
pub mod prefill;
pub mod quantize;
pub mod recipe;
pub mod sampler;
pub mod schedule;
pub mod session;
pub mod shadow;
pub mod stats;
pub mod study;
pub mod text;
pub mod transform;
pub mod weights;

pub use chat::{Chat, ChatOptions, ChatReply};
pub use engine::Engine;
pub use error::RuntimeError;
pub use generate::{FinishReason, GenerateRequest, Generation};
pub use kv::KvDtype;
pub use model::Model;
pub use options::{EngineOptions, NpuChoice, ScheduleChoice};
pub use session::Session;
pub use stats::Stats;
