//! What a run measured: times, rates, where things ran.

use crate::{npu::NpuKind, prefill::ShadowWork, weights::DecompressedWeights};
use serde::Serialize;

/// Statistics of one generation, as `coexec run --format json` prints them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Time to first token: from the prompt's tokens to the first sampled token.
    pub ttft_ms: f64,
    /// Prompt tokens over prefill's time.
    pub prefill_tokens_per_s: f64,
    /// Decoded tokens over decode's time; `None` when fewer than one token was decoded.
    pub decode_tokens_per_s: Option<f64>,
    /// Time in which the NPU ran a task.
    pub npu_busy_ms: f64,
    /// Time in which the CPU ran at least one prefill task.
    pub cpu_busy_ms: f64,
    /// 1 − busy/span of the busiest processor; `None` when the NPU has no timing.
    pub bubble_rate: Option<f64>,
    /// Tokens that were in the context already, so that nothing was computed for them again.
    pub reused_tokens: usize,
    /// Tokens that the model ran over in prefill.
    pub prefilled_tokens: usize,
    /// Prefill chunks.
    pub chunks: usize,
    /// Peak resident memory of the process.
    pub peak_rss_bytes: Option<u64>,
    /// The NPU: its name, or `none`.
    pub npu_device: String,
    /// What computes its part: where it is an imitation, `prefill_tokens_per_s` says nothing about a phone.
    pub npu_kind: NpuKind,
    /// Why that one.
    pub npu_reason: String,
    /// Work that ran elsewhere than planned, and why.
    pub ran_elsewhere: Vec<String>,
    /// Failures of NPUs during the prompt, in order; also those that a fresh context cured.
    pub npu_failures: Vec<String>,
    /// What shadow did in prefill.
    pub shadow: ShadowWork,
    /// Weights decompressed at use, where a memory budget keeps them compressed; those of all sessions in that time.
    pub decompressed: DecompressedWeights,
    /// NPU outputs that saturated; those of linears with shadow were computed again on the CPU.
    pub saturated: u64,
    /// Tokens that were guessed for decoding.
    pub drafted: usize,
    /// Guesses that were right.
    pub accepted: usize,
}

/// Peak resident memory of this process; `None` where the system does not tell.
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
