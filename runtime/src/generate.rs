//! Generation: prefill a prompt, then decode and sample until something says stop, streaming text.

use crate::{
    RuntimeError, Session, Stats,
    decode::MAX_ROWS,
    draft::PromptLookup,
    prefill::{PrefillOptions, PrefillOutput},
    sampler::{Sampler, SamplerOptions},
    stats::peak_rss_bytes,
    text::{StopStrings, TextStream},
};
use coexec_model::TokenId;
use coexec_scheduler::{CancelToken, Processor};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What to generate.
///
/// The default takes 256 tokens at most, sampled as [`SamplerOptions::usual`] says, of an empty prompt that is to be filled in.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt's tokens.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How to choose tokens.
    pub sampler: SamplerOptions,
    /// Texts that end the generation; they are not part of its text. Special tokens count with their spelling.
    pub stop: Vec<String>,
    /// Go on past end-of-sequence tokens (benchmarks).
    pub ignore_eos: bool,
    /// Most tokens that are guessed from the text and checked together ([`crate::draft`]): 0 … 7. It changes speed, not text.
    pub draft_tokens: usize,
    /// Stops at the next task or token.
    pub cancel: CancelToken,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            prompt: Vec::new(),
            max_tokens: 256,
            sampler: SamplerOptions::usual(),
            stop: Vec::new(),
            ignore_eos: false,
            draft_tokens: 0,
            cancel: CancelToken::new(),
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence token.
    Eos,
    /// A stop text.
    Stop,
    /// `max_tokens`.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller asked.
    Cancelled,
}

/// A finished generation.
#[derive(Debug)]
pub struct Generation {
    /// The text, without the prompt; it ends before a stop text.
    pub text: String,
    /// The tokens, without the prompt, all of which are in the session's context. The token that completed a stop text is
    /// included, an end-of-sequence token is not.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What was measured.
    pub stats: Stats,
    /// The prefill: plan and events.
    pub prefill: PrefillOutput,
}

impl Session {
    /// Generates text after `request.prompt` (what it adds to the text before it, with its first space), calling `on_text` with
    /// each piece as soon as it is whole.
    ///
    /// Afterwards the context holds what it held before, then the prompt, then exactly [`Generation::tokens`], however the
    /// generation ended:
    ///
    /// | ended by | the last token in the context |
    /// |---|---|
    /// | [`FinishReason::Eos`] | the one before the end-of-sequence token, which stays outside: a chat template writes its own |
    /// | [`FinishReason::Stop`] | the one that completed the stop text, whole, with whatever of the text lies in it |
    /// | [`FinishReason::Length`] | the last of `max_tokens` |
    /// | [`FinishReason::ContextFull`] | the one that filled the context: what would not fit is not generated |
    /// | [`FinishReason::Cancelled`] | the last one generated |
    ///
    /// # Errors
    /// As [`Self::prefill`], and the context is as it was before; a cancelled prefill is [`RuntimeError::Cancelled`], later
    /// cancellation ends the generation with what there is. After an error in decode the context ends with the last token
    /// that was decoded.
    pub fn generate(
        &mut self,
        request: &GenerateRequest,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generation, RuntimeError> {
        let engine = self.engine().clone();
        let config = engine.model().config();
        let tokenizer = engine.model().tokenizer();
        if request.draft_tokens >= MAX_ROWS {
            return Err(RuntimeError::Option {
                option: "draft_tokens",
                value: request.draft_tokens.to_string(),
                reason: format!("use 0 … {}", MAX_ROWS - 1),
            });
        }
        let mut sampler = Sampler::new(request.sampler.clone())?;
        let reused = self.tokens().len();
        let mut stop = StopStrings::new(request.stop.clone());

        // Static graphs are prepared once per model, not per prompt: not part of TTFT.
        engine.prepare_npu(&request.cancel)?;
        let decompressed = engine.model().decompressed();
        let start = Instant::now();
        let options = PrefillOptions { cancel: request.cancel.clone(), ..PrefillOptions::default() };
        let mut prefill = self.prefill(&request.prompt, &options)?;
        let prefill_time = start.elapsed();

        // Also what the context held before: a prompt of special tokens alone does not begin a text.
        let mut stream = tokenizer.map(|tokenizer| TextStream::after(tokenizer, self.tokens()));
        let prompt_end = self.tokens().len();
        let context = prompt_end + self.room();
        let mut text = String::new();
        let mut tokens = Vec::new();
        let mut logits = std::mem::take(&mut prefill.logits);
        let mut ttft = None;
        let mut emit = |piece: &str, text: &mut String| {
            if !piece.is_empty() {
                text.push_str(piece);
                on_text(piece);
            }
        };
        let mut lookup = PromptLookup::new(request.draft_tokens);
        let vocab = config.vocab_size as usize;
        // Rows of `logits` after the tokens known to be right; `draft[i]` is the guess that row `i + 1` follows.
        let (mut row, mut draft) = (0, Vec::new());
        let mut known = prompt_end;
        let (mut drafted, mut accepted) = (0, 0);
        let mut run = || loop {
            if tokens.len() >= request.max_tokens {
                return Ok::<_, RuntimeError>(FinishReason::Length);
            }
            if request.cancel.is_cancelled() {
                return Ok(FinishReason::Cancelled);
            }
            let token = sampler.sample(&mut logits[row * vocab..(row + 1) * vocab], &self.tokens()[..known])?;
            ttft.get_or_insert_with(|| start.elapsed());
            if !request.ignore_eos && config.eos_token_ids.contains(&token) {
                return Ok(FinishReason::Eos);
            }
            if prompt_end + tokens.len() >= context {
                return Ok(FinishReason::ContextFull);
            }
            tokens.push(token);
            if let Some(stream) = &mut stream {
                let piece = stream.push(token)?;
                let result = match tokenizer.and_then(|tokenizer| tokenizer.hidden_text(token)) {
                    Some(special) => stop.push_hidden(&special),
                    None => stop.push(&piece),
                };
                emit(&result.emit, &mut text);
                if result.stopped {
                    return Ok(FinishReason::Stop);
                }
            }
            if tokens.len() >= request.max_tokens {
                return Ok(FinishReason::Length);
            }
            if draft.get(row) == Some(&token) {
                // Guessed right: its row is there.
                (row, known, accepted) = (row + 1, known + 1, accepted + 1);
                continue;
            }
            lookup.accepted(draft.len(), row);
            self.truncate(known);
            draft.clear();
            draft.push(token);
            let room = (request.max_tokens - tokens.len()).min(self.room().saturating_sub(1));
            draft.extend_from_slice(lookup.propose_after(self.tokens(), token, room));
            let next = self.decode_rows(&draft)?;
            logits.clear();
            logits.extend_from_slice(next);
            draft.remove(0);
            drafted += draft.len();
            (row, known) = (0, known + 1);
        };
        let ended = run();
        // Guesses that nothing has confirmed go, also after an error.
        self.truncate(known);
        let finish_reason = ended?;
        if let Some(stream) = stream.as_mut().filter(|_| finish_reason != FinishReason::Stop) {
            let result = stop.push(&stream.finish()?);
            emit(&result.emit, &mut text);
            if !result.stopped {
                emit(&stop.flush(), &mut text);
            }
        }
        let ttft = ttft.unwrap_or(prefill_time);
        let decode_time = start.elapsed().saturating_sub(ttft);
        let mut stats = prefill_stats(&engine, &prefill, request.prompt.len(), prefill_time);
        stats.reused_tokens = reused;
        stats.ttft_ms = ttft.as_secs_f64() * 1e3;
        let decoded = tokens.len().saturating_sub(1);
        (stats.drafted, stats.accepted) = (drafted, accepted);
        stats.decompressed = engine.model().decompressed() - decompressed;
        stats.decode_tokens_per_s = (decoded > 0).then(|| decoded as f64 / decode_time.as_secs_f64().max(1e-9));
        // The last token was sampled, but the model has not run over it. This is outside of what is measured.
        if let (Some(&last), true) = (tokens.last(), known < prompt_end + tokens.len()) {
            self.decode(last)?;
        }
        Ok(Generation { text, tokens, finish_reason, stats, prefill })
    }
}

/// Statistics of a prefill.
#[must_use]
pub fn prefill_stats(engine: &crate::Engine, prefill: &PrefillOutput, tokens: usize, time: Duration) -> Stats {
    let ms = |p| prefill.report.busy_ns(p) as f64 / 1e6;
    Stats {
        ttft_ms: time.as_secs_f64() * 1e3,
        prefill_tokens_per_s: tokens as f64 / time.as_secs_f64().max(1e-9),
        decode_tokens_per_s: None,
        npu_busy_ms: ms(Processor::Npu),
        cpu_busy_ms: ms(Processor::Cpu),
        // The simulated NPU's own time on this machine says nothing about a chip's: no bubble rate without timing.
        bubble_rate: None,
        prefilled_tokens: tokens,
        chunks: prefill.plan.chunks.len(),
        peak_rss_bytes: peak_rss_bytes(),
        npu_device: engine.npu_device().to_owned(),
        npu_kind: engine.npu_kind(),
        npu_reason: engine.npu_reason(),
        ran_elsewhere: prefill.ran_elsewhere.clone(),
        npu_failures: prefill.npu_failures.clone(),
        shadow: prefill.shadow,
        saturated: prefill.saturated,
        ..Stats::default()
    }
}
