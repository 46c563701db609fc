//! What a generation tells after its text: how fast it was and how its tokens were chosen; with `--stats` all that was measured.

use coexec::{Engine, FinishReason, Generation, SamplerOptions, Stats, runtime::npu::NpuKind};
use std::fmt::Write as _;

/// How the tokens of an answer were chosen, and on whose advice.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    pub(crate) options: SamplerOptions,
    /// Where the numbers come from.
    pub(crate) source: &'static str,
}

impl Sampling {
    fn describe(&self) -> String {
        let o = &self.options;
        if o.is_greedy() {
            return format!("greedy: always the likeliest token ({})", self.source);
        }
        let mut text = format!("temperature {}", o.temperature);
        let filters = [
            (o.top_k > 0, format!(", top-k {}", o.top_k)),
            (o.top_p < 1.0, format!(", top-p {}", o.top_p)),
            (o.min_p > 0.0, format!(", min-p {}", o.min_p)),
            (o.repetition_penalty != 1.0, format!(", repetition penalty {}", o.repetition_penalty)),
        ];
        filters.iter().filter(|(on, _)| *on).for_each(|(_, filter)| text.push_str(filter));
        format!("{text}, seed {} ({})", o.seed, self.source)
    }
}

/// The lines for everybody.
pub(crate) fn short(g: &Generation, prompt_tokens: usize, sampling: &Sampling) -> String {
    let s = &g.stats;
    let decode = s.decode_tokens_per_s.map_or_else(String::new, |v| format!(", {v:.0} tok/s"));
    let mut text = format!(
        "prefill  {}, {:.0} tok/s on {}; first token after {:.1} ms\n\
         decode   {}{decode}; ended by {}\n\
         sampling {}",
        tokens(prompt_tokens),
        s.prefill_tokens_per_s,
        place(s),
        s.ttft_ms,
        tokens(g.tokens.len()),
        ending(g.finish_reason),
        sampling.describe(),
    );
    for elsewhere in &s.ran_elsewhere {
        // Writing to a string cannot fail, here and below.
        let _ = write!(text, "\nNOTE     {elsewhere}");
    }
    if let (true, Some(failure)) = (s.ran_elsewhere.is_empty(), s.npu_failures.last()) {
        let _ = write!(text, "\nNOTE     the NPU failed and was opened again: {failure}");
    }
    text
}

fn tokens(count: usize) -> String {
    format!("{count} token{}", if count == 1 { "" } else { "s" })
}

/// Where prefill ran, and whether its speed means anything.
fn place(s: &Stats) -> String {
    match s.npu_kind {
        NpuKind::None => "the CPU".to_owned(),
        kind if kind.is_imitation() => format!("the {} and the CPU (this machine's speed, not a phone's)", kind.name()),
        kind => format!("the {} and the CPU", kind.name()),
    }
}

fn ending(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Eos => "the model's end token",
        FinishReason::Stop => "a stop text",
        FinishReason::Length => "the token limit",
        FinishReason::ContextFull => "the full context",
        FinishReason::Cancelled => "Ctrl-C",
    }
}

/// The lines of `--stats`.
pub(crate) fn details(engine: &Engine, g: &Generation) -> String {
    let s = &g.stats;
    let mut text = format!(
        "chunks   {}\nNPU      {} ({}); busy {:.1} ms, CPU {:.1} ms of the prefill",
        s.chunks, s.npu_device, s.npu_reason, s.npu_busy_ms, s.cpu_busy_ms,
    );
    if s.npu_kind != NpuKind::None {
        let _ = write!(
            text,
            "\nranges   {} outputs saturated, {} inputs clipped without shadow",
            s.saturated, s.shadow.uncorrected
        );
    }
    let w = &s.shadow;
    if w.corrected > 0 {
        let _ = write!(
            text,
            "\nshadow   {} activations of {} channels in {:.1} ms, {:.1} KiB of rows in memory and {:.1} KiB of weights read; \
             the NPU waited {:.2} ms for it",
            w.corrected,
            w.channels,
            w.time_ns as f64 / 1e6,
            w.hot_bytes as f64 / 1024.0,
            w.cold_bytes as f64 / 1024.0,
            w.npu_stall_ns as f64 / 1e6,
        );
    }
    if s.drafted > 0 {
        let _ = write!(text, "\ndraft    {} of {} guessed tokens were right", s.accepted, s.drafted);
    }
    let rss = s.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), |b| format!("{:.0} MB", b as f64 / 1e6));
    let threads = engine.options().worker_threads();
    let _ = write!(text, "\nCPU      {} kernels, {threads} threads; peak memory {rss}", engine.kernels());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_in_words() {
        let usual = Sampling { options: SamplerOptions { seed: 3, ..SamplerOptions::usual() }, source: "usual values" };
        assert_eq!(usual.describe(), "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, seed 3 (usual values)");
        let greedy = Sampling { options: SamplerOptions::greedy(), source: "--greedy" };
        assert_eq!(greedy.describe(), "greedy: always the likeliest token (--greedy)");
    }
}
