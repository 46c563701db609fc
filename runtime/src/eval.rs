//! Quality of a model as the engine runs it: perplexity over a text, logits of a prompt.

use crate::{
    Engine, RuntimeError,
    prefill::{LogitsWanted, PrefillOptions},
    text::Special,
};
use coexec_model::TokenId;
use coexec_scheduler::CancelToken;
use serde::Serialize;

/// Perplexity over a text.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Standard error of the perplexity (of the mean log-likelihood, by the delta method).
    pub std_error: f64,
    /// Tokens scored.
    pub scored_tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Tokens per window.
    pub window_tokens: usize,
}

/// Perplexity of `text` in windows of `window` tokens side by side; in each, the first half gives context and only the
/// second half is scored. Every window begins with BOS where the model has it. An incomplete last window is left out.
///
/// # Errors
/// When the text has fewer tokens than one window, the window does not fit the context, or a prefill fails.
pub fn perplexity(
    engine: &Engine,
    text: &str,
    window: usize,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity, RuntimeError> {
    let tokenizer = engine.model().require_tokenizer()?;
    let ids = tokenizer.encode(text, Special::Plain)?;
    let limit = engine.model().config().max_position_embeddings as usize;
    if window < 2 || window > limit {
        return Err(RuntimeError::Option {
            option: "--window",
            value: window.to_string(),
            reason: format!("use 2 … {limit} tokens"),
        });
    }
    if ids.len() < window {
        return Err(RuntimeError::Option {
            option: "--text",
            value: format!("{} tokens", ids.len()),
            reason: format!("one window of {window} tokens is the least"),
        });
    }
    let bos = starts_with_bos(engine)?;
    let vocab = engine.model().config().vocab_size as usize;
    let options = PrefillOptions { logits: LogitsWanted::All, cancel: cancel.clone() };
    let windows = ids.len() / window;
    let (mut sum, mut sum_squares, mut scored) = (0.0f64, 0.0f64, 0usize);
    for (i, ids) in ids.chunks_exact(window).enumerate() {
        progress(i, windows);
        let mut ids = ids.to_vec();
        if let Some(bos) = bos {
            ids[0] = bos;
        }
        let logits = engine.session().prefill(&ids, &options)?.logits;
        for target in window / 2..window {
            let nll = -log_softmax(&logits[(target - 1) * vocab..target * vocab], ids[target].0 as usize);
            sum += nll;
            sum_squares += nll * nll;
            scored += 1;
        }
    }
    let mean = sum / scored as f64;
    let variance = (sum_squares / scored as f64 - mean * mean).max(0.0);
    let perplexity = mean.exp();
    Ok(Perplexity {
        perplexity,
        std_error: perplexity * (variance / (scored.max(2) - 1) as f64).sqrt(),
        scored_tokens: scored,
        windows,
        window_tokens: window,
    })
}

/// The BOS token, when the model's tokenizer puts it before a prompt.
fn starts_with_bos(engine: &Engine) -> Result<Option<TokenId>, RuntimeError> {
    let with = engine.model().require_tokenizer()?.encode("a", Special::AddBos)?;
    Ok(engine.model().config().bos_token_id.filter(|bos| with.first() == Some(bos)))
}

/// Log-probability of `target` under `logits`, in f64.
#[must_use]
pub fn log_softmax(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    f64::from(logits[target] - max) - sum.ln()
}

/// Logits of every position of a prompt.
#[derive(Debug)]
pub struct PromptLogits {
    /// The prompt's tokens, BOS included as the model has it.
    pub ids: Vec<TokenId>,
    /// `[tokens, vocab_size]`.
    pub logits: Vec<f32>,
}

/// Logits of every position of `prompt`.
///
/// # Errors
/// As [`crate::Session::prefill`].
pub fn prompt_logits(engine: &Engine, prompt: &str, cancel: &CancelToken) -> Result<PromptLogits, RuntimeError> {
    let ids = engine.model().require_tokenizer()?.encode(prompt, Special::AddBos)?;
    let options = PrefillOptions { logits: LogitsWanted::All, cancel: cancel.clone() };
    let logits = engine.session().prefill(&ids, &options)?.logits;
    Ok(PromptLogits { ids, logits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_is_a_distribution() {
        let logits = [1.0f32, -2.0, 1000.0, 999.0];
        let sum: f64 = (0..4).map(|i| log_softmax(&logits, i).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((log_softmax(&logits, 2) - -(1.0f64 + (-1.0f64).exp()).ln()).abs() < 1e-9);
    }
}
