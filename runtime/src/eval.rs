//! Quality of a model as the engine runs it: perplexity, agreement with a reference, logits of a prompt.

use crate::{
    Engine, RuntimeError,
    prefill::{LogitsWanted, PrefillOptions},
    text::Special,
};
use coexec_model::TokenId;
use coexec_scheduler::CancelToken;
use serde::Serialize;
use std::borrow::Cow;

/// Quality over a text.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
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
    /// Mean negative log-likelihood of each window, for paired comparisons.
    pub window_nll: Vec<f64>,
    /// Against a reference, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Agreement>,
}

/// How near a model's distributions are to a reference's over the same tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    /// Perplexity of the reference.
    pub perplexity: f64,
    /// Mean Kullback-Leibler divergence of the model from the reference, in nats.
    pub kl: f64,
    /// Its standard error over windows.
    pub kl_std_error: f64,
    /// Share of the tokens for which both hold the same one the likeliest.
    pub top1: f64,
    /// Mean divergence of each window.
    pub window_kl: Vec<f64>,
}

/// A text cut into windows of tokens, side by side. In each, the first half gives context and only the second half is scored.
/// Every window begins with BOS where the model has it. An incomplete last window is left out.
#[derive(Clone, Debug)]
pub struct Windows {
    ids: Vec<Vec<TokenId>>,
    window: usize,
}

impl Windows {
    /// Cuts `text` with the engine's tokenizer, into at most `max_windows`.
    ///
    /// # Errors
    /// When the text has fewer tokens than one window, or the window does not fit the context.
    pub fn of_text(engine: &Engine, text: &str, window: usize, max_windows: usize) -> Result<Self, RuntimeError> {
        let ids = engine.model().require_tokenizer()?.encode(text, Special::Plain)?;
        Self::of_ids(engine, &ids, window, max_windows)
    }

    /// Cuts tokens.
    ///
    /// # Errors
    /// As [`Self::of_text`].
    pub fn of_ids(engine: &Engine, ids: &[TokenId], window: usize, max_windows: usize) -> Result<Self, RuntimeError> {
        let limit = engine.model().config().max_position_embeddings as usize;
        let bad = |option, value: String, reason: String| Err(RuntimeError::Option { option, value, reason });
        if window < 2 || window > limit {
            return bad("--window", window.to_string(), format!("use 2 … {limit} tokens"));
        }
        if ids.len() < window {
            let reason = format!("one window of {window} tokens is the least");
            return bad("--text", format!("{} tokens", ids.len()), reason);
        }
        let bos = if engine.model().tokenizer().is_some() { starts_with_bos(engine)? } else { None };
        let cut = |ids: &[TokenId]| {
            let mut ids = ids.to_vec();
            if let Some(bos) = bos {
                ids[0] = bos;
            }
            ids
        };
        Ok(Self { ids: ids.chunks_exact(window).take(max_windows).map(cut).collect(), window })
    }

    /// Number of windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Tokens per window.
    #[must_use]
    pub fn window_tokens(&self) -> usize {
        self.window
    }

    /// The windows of `range`.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self { ids: self.ids[range].to_vec(), window: self.window }
    }

    /// Log-probabilities of all scored positions, window by window, for models that are compared with it one after another.
    /// They stay in memory: 4 bytes per scored position and word of the vocabulary.
    ///
    /// # Errors
    /// When a prefill fails.
    pub fn reference(&self, engine: &Engine, cancel: &CancelToken) -> Result<Reference, RuntimeError> {
        let log_probs = self.ids.iter().map(|ids| scored(engine, ids, cancel)).collect::<Result<_, _>>()?;
        Ok(Reference::LogProbs(log_probs))
    }
}

/// What [`quality`] compares a model with, over the same [`Windows`].
#[derive(Clone, Debug)]
pub enum Reference {
    /// A model that runs each window when its turn comes.
    Engine(Engine),
    /// What [`Windows::reference`] has computed: `[windows][scored tokens · vocab_size]`.
    LogProbs(Vec<Vec<f32>>),
}

impl Reference {
    fn window(&self, i: usize, ids: &[TokenId], cancel: &CancelToken) -> Result<Cow<'_, [f32]>, RuntimeError> {
        match self {
            Self::Engine(engine) => Ok(Cow::Owned(scored(engine, ids, cancel)?)),
            Self::LogProbs(windows) => {
                let window = windows.get(i).ok_or_else(|| Self::other(format!("{} windows", windows.len())))?;
                Ok(Cow::Borrowed(window))
            }
        }
    }

    fn other(value: String) -> RuntimeError {
        let reason = "a model with the same tokenizer, over the same text".to_owned();
        RuntimeError::Option { option: "--reference", value, reason }
    }
}

/// Log-probabilities at the positions that predict the scored half of a window, `[scored, vocab_size]`.
fn scored(engine: &Engine, ids: &[TokenId], cancel: &CancelToken) -> Result<Vec<f32>, RuntimeError> {
    let vocab = engine.model().config().vocab_size as usize;
    let options = PrefillOptions { logits: LogitsWanted::All, cancel: cancel.clone() };
    let mut logits = engine.session().prefill(ids, &options)?.logits;
    logits.truncate((ids.len() - 1) * vocab);
    logits.drain(..(ids.len() / 2 - 1) * vocab);
    for row in logits.chunks_exact_mut(vocab) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        row.iter_mut().for_each(|l| *l = (f64::from(*l) - log_sum) as f32);
    }
    Ok(logits)
}

/// Quality of an engine over `windows`, and against a reference over the same windows.
///
/// # Errors
/// When a prefill fails, or the reference is of other windows or another vocabulary.
pub fn quality(
    engine: &Engine,
    windows: &Windows,
    reference: Option<&Reference>,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Quality, RuntimeError> {
    let vocab = engine.model().config().vocab_size as usize;
    let (mut nll, mut nll_squares, mut reference_nll, mut same, mut count) = (0.0f64, 0.0f64, 0.0f64, 0usize, 0usize);
    let (mut window_nll, mut window_kl) = (Vec::new(), Vec::new());
    for (i, ids) in windows.ids.iter().enumerate() {
        progress(i, windows.len());
        let ours = scored(engine, ids, cancel)?;
        let targets = &ids[windows.window / 2..];
        let mut in_window = 0.0;
        for (row, target) in ours.chunks_exact(vocab).zip(targets) {
            let loss = -f64::from(row[target.0 as usize]);
            in_window += loss;
            nll_squares += loss * loss;
        }
        nll += in_window;
        count += targets.len();
        window_nll.push(in_window / targets.len() as f64);
        let Some(reference) = reference else { continue };
        let theirs = reference.window(i, ids, cancel)?;
        if theirs.len() != ours.len() {
            return Err(Reference::other(format!("{} log-probabilities of window {i}", theirs.len())));
        }
        let mut kl = 0.0f64;
        for ((ours, theirs), target) in ours.chunks_exact(vocab).zip(theirs.chunks_exact(vocab)).zip(targets) {
            reference_nll -= f64::from(theirs[target.0 as usize]);
            kl += theirs.iter().zip(ours).map(|(p, q)| f64::from(*p).exp() * f64::from(p - q)).sum::<f64>();
            same += usize::from(argmax(ours) == argmax(theirs));
        }
        window_kl.push(kl / targets.len() as f64);
    }
    let tokens = count.max(1) as f64;
    let mean = nll / tokens;
    let variance = (nll_squares / tokens - mean * mean).max(0.0);
    let perplexity = mean.exp();
    let reference = reference.map(|_| {
        let (kl, kl_std_error) = mean_and_error(&window_kl);
        Agreement {
            perplexity: (reference_nll / tokens).exp(),
            kl,
            kl_std_error,
            top1: same as f64 / tokens,
            window_kl,
        }
    });
    Ok(Quality {
        perplexity,
        std_error: perplexity * (variance / (count.max(2) - 1) as f64).sqrt(),
        scored_tokens: count,
        windows: windows.len(),
        window_tokens: windows.window,
        window_nll,
        reference,
    })
}

/// Mean and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

fn argmax(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)))
}

/// Perplexity of `text` in [`Windows`] of `window` tokens.
///
/// # Errors
/// As [`Windows::of_text`] and [`quality`].
pub fn perplexity(
    engine: &Engine,
    text: &str,
    window: usize,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Quality, RuntimeError> {
    quality(engine, &Windows::of_text(engine, text, window, usize::MAX)?, None, cancel, progress)
}

/// The BOS token, when the model's tokenizer puts it before a prompt.
fn starts_with_bos(engine: &Engine) -> Result<Option<TokenId>, RuntimeError> {
    let with = engine.model().require_tokenizer()?.encode("a", Special::AddBos)?;
    Ok(engine.model().config().bos_token_id.filter(|bos| with.first() == Some(bos)))
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
    fn errors_are_of_the_mean() {
        assert_eq!(mean_and_error(&[3.0]), (3.0, 0.0));
        let (mean, error) = mean_and_error(&[1.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (error - 1.0).abs() < 1e-12, "{mean} {error}");
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), Some(1));
        assert_eq!(argmax(&[]), None);
    }
}
