//! What the user of an engine can choose.

use crate::{KvDtype, RuntimeError};
use coexec_scheduler::PolicyKind;
use std::str::FromStr;

/// Which NPU prefill runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NpuChoice {
    /// The simulated NPU when the model is calibrated, else none; the choice and its reason are reported.
    #[default]
    Auto,
    /// The simulated NPU.
    Sim,
    /// No NPU: everything on the CPU.
    None,
}

impl FromStr for NpuChoice {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        match s {
            "auto" => Ok(Self::Auto),
            "sim" => Ok(Self::Sim),
            "none" => Ok(Self::None),
            _ => Err(RuntimeError::Option {
                option: "--npu",
                value: s.to_owned(),
                reason: "use sim, none or auto".to_owned(),
            }),
        }
    }
}

/// Options of an [`crate::Engine`]. `Default` is what `coexec run` uses.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// CPU workers; 0 takes one per core.
    pub threads: usize,
    /// Kernel set by name (`reference`, `avx2`, …); `None` takes the best that this CPU has.
    pub kernels: Option<String>,
    /// The NPU.
    pub npu: NpuChoice,
    /// Chip that the simulated NPU stands for (its limits): a name of [`coexec_npu::profile::chips::NAMES`].
    pub npu_profile: String,
    /// Tokens per prefill chunk.
    pub chunk_len: usize,
    /// Who picks the next task.
    pub policy: PolicyKind,
    /// Whether clipped activations are corrected on the CPU.
    pub shadow: bool,
    /// Share of the linears, least important first, that run without shadow: 0 … 1.
    pub pruning_rate: f32,
    /// How K and V are stored.
    pub kv: KvDtype,
    /// Bytes of decompressed weights to keep; the rest is decompressed at every use. `None` keeps all.
    pub memory_budget_bytes: Option<u64>,
    /// Random delays injected into every prefill task, up to this many microseconds (tests of determinism).
    pub jitter_us: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            kernels: None,
            npu: NpuChoice::Auto,
            npu_profile: "sm8650".to_owned(),
            chunk_len: 256,
            policy: PolicyKind::Staggered,
            shadow: true,
            pruning_rate: 0.0,
            kv: KvDtype::F16,
            memory_budget_bytes: None,
            jitter_us: 0,
        }
    }
}

/// Longest chunk: one static graph's rows.
pub const MAX_CHUNK_LEN: usize = 8192;
/// Most CPU workers.
pub const MAX_THREADS: usize = 256;

impl EngineOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`RuntimeError::Option`] names the first option that cannot be.
    pub fn validate(&self) -> Result<(), RuntimeError> {
        let bad = |option, value: String, reason: &str| {
            Err(RuntimeError::Option { option, value, reason: reason.to_owned() })
        };
        if self.chunk_len == 0 || self.chunk_len > MAX_CHUNK_LEN {
            return bad("--chunk-len", self.chunk_len.to_string(), "use 1 … 8192");
        }
        if self.threads > MAX_THREADS {
            return bad("--threads", self.threads.to_string(), "use 0 (one per core) … 256");
        }
        if !(0.0..=1.0).contains(&self.pruning_rate) {
            return bad("--prune", self.pruning_rate.to_string(), "use a share 0 … 1");
        }
        Ok(())
    }

    /// CPU workers to start.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        if self.threads > 0 {
            self.threads
        } else {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        }
    }
}
