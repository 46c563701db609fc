//! From logits to the next token.
//!
//! Order, as in transformers: repetition penalty; then the likeliest token if the temperature is 0; otherwise
//! temperature, top-k, softmax, top-p, min-p, one draw. Each filter sees what the one before it left, renormalised.
//!
//! Invariants: the same options, logits and history give the same token on every machine (own random numbers, own
//! exponential, sums in a fixed order); every call that does not fail draws exactly one random number, or none when
//! greedy; a token whose logit is −∞ is never chosen; no allocation once the buffers have grown to the vocabulary.
//!
//! Called by the session once per decoded token.

mod exp;
mod options;
mod random;

pub use options::{SamplerOptions, advises_sampling};

use coexec_model::TokenId;
use exp::exp_nonpositive;
use random::Random;
use std::{cmp::Ordering, ops::Range};

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// An option has a value without meaning.
    #[error("sampler option {option} is {value}; allowed is {allowed}")]
    InvalidOption {
        /// Name of the option, as the field of [`SamplerOptions`].
        option: &'static str,
        /// What it was set to.
        value: f32,
        /// What it can be set to.
        allowed: &'static str,
    },
    /// A logit is NaN: the forward pass went wrong, or its weights are damaged.
    #[error("the logit of token {token} is NaN ({count} of {vocab_size} are): check the model's weights")]
    NanLogit {
        /// The first such token.
        token: TokenId,
        /// How many there are.
        count: usize,
        /// How many logits there are.
        vocab_size: usize,
    },
    /// A logit is +∞: no distribution follows from it.
    #[error("the logit of token {token} is +infinity: the forward pass overflowed")]
    InfiniteLogit {
        /// The first such token.
        token: TokenId,
    },
    /// Every logit is −∞, or there are none.
    #[error("no token can be chosen: all {vocab_size} logits are -infinity")]
    NoCandidate {
        /// How many logits there are.
        vocab_size: usize,
    },
}

/// A token that can still be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: u32,
}

impl Candidate {
    /// Likelier first, of equals the lower id: a total order, so that every way of sorting gives the same.
    fn rank(&self, other: &Self) -> Ordering {
        // −0.0 and 0.0 are equally likely: compare as numbers, which are never NaN here.
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.token.cmp(&other.token))
    }
}

/// Chooses tokens; holds the random state and the buffers.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    random: Random,
    candidates: Vec<Candidate>,
    /// Probability of each candidate times a common factor, once it is known; the likeliest's is 1.
    weights: Vec<f64>,
    /// One bit per token: seen in the window.
    seen: Vec<u64>,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// [`SamplerError::InvalidOption`].
    pub fn new(options: SamplerOptions) -> Result<Self, SamplerError> {
        options.validate()?;
        let random = Random::new(options.seed);
        Ok(Self { options, random, candidates: Vec::new(), weights: Vec::new(), seen: Vec::new() })
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Chooses the next token from `logits` (`[vocab_size]`), which the repetition penalty changes in place.
    ///
    /// `recent` is the text so far, oldest first; its last `repetition_window` tokens are penalised. Tokens outside
    /// the vocabulary are ignored there.
    ///
    /// # Errors
    /// [`SamplerError::NanLogit`], [`SamplerError::InfiniteLogit`], [`SamplerError::NoCandidate`]. Nothing is drawn then.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[TokenId]) -> Result<TokenId, SamplerError> {
        check(logits)?;
        self.penalise(logits, recent);
        let best = likeliest(logits).ok_or(SamplerError::NoCandidate { vocab_size: logits.len() })?;
        if self.options.is_greedy() {
            return Ok(best);
        }
        self.gather(logits);
        let sorted = self.keep_top_k();
        let max_logit = logits[best.0 as usize];
        let mass = self.weigh(max_logit);
        self.keep_top_p(sorted, mass, max_logit);
        self.keep_min_p();
        Ok(self.draw())
    }

    fn penalise(&mut self, logits: &mut [f32], recent: &[TokenId]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        self.seen.clear();
        self.seen.resize(logits.len().div_ceil(64), 0);
        for token in &recent[recent.len().saturating_sub(self.options.repetition_window)..] {
            let index = token.0 as usize;
            let Some(logit) = logits.get_mut(index) else { continue };
            let bit = 1u64 << (index % 64);
            if self.seen[index / 64] & bit != 0 {
                continue;
            }
            self.seen[index / 64] |= bit;
            let penalised = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            // An extreme penalty must not make an infinity of a finite logit: it would be always or never chosen.
            if logit.is_finite() {
                *logit = penalised.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// All tokens that are possible at all, in the order of their ids.
    fn gather(&mut self, logits: &[f32]) {
        self.candidates.clear();
        let possible = logits.iter().zip(0u32..).filter(|(logit, _)| **logit > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(&logit, token)| Candidate { logit, token }));
    }

    /// Returns whether the candidates are sorted by rank now.
    fn keep_top_k(&mut self) -> bool {
        let k = self.options.top_k as usize;
        if k == 0 || k >= self.candidates.len() {
            return false;
        }
        self.candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        self.candidates.truncate(k);
        self.candidates.sort_unstable_by(Candidate::rank);
        true
    }

    /// Computes every candidate's weight and returns their sum, in the candidates' order.
    fn weigh(&mut self, max_logit: f32) -> f64 {
        self.weights.clear();
        self.weights.resize(self.candidates.len(), 0.0);
        self.weigh_range(0..self.candidates.len(), max_logit);
        self.weights.iter().sum()
    }

    fn weigh_range(&mut self, range: Range<usize>, max_logit: f32) {
        let temperature = f64::from(self.options.temperature);
        let max_logit = f64::from(max_logit);
        for (weight, candidate) in self.weights[range.clone()].iter_mut().zip(&self.candidates[range]) {
            *weight = exp_nonpositive((f64::from(candidate.logit) - max_logit) / temperature);
        }
    }

    /// Sorts no more of the candidates than the probability asks for.
    fn keep_top_p(&mut self, sorted: bool, mass: f64, max_logit: f32) {
        if self.options.top_p >= 1.0 {
            return;
        }
        let wanted = f64::from(self.options.top_p) * mass;
        let all = self.candidates.len();
        let mut ready = if sorted { all } else { 0 };
        let (mut kept, mut sum) = (0, 0.0);
        while kept < all {
            if kept == ready {
                // The next ranks, four times as many as are sorted already.
                let upto = (ready * 4).clamp(64.min(all), all);
                if upto < all {
                    self.candidates[ready..].select_nth_unstable_by(upto - ready - 1, Candidate::rank);
                }
                self.candidates[ready..upto].sort_unstable_by(Candidate::rank);
                self.weigh_range(ready..upto, max_logit);
                ready = upto;
            }
            sum += self.weights[kept];
            kept += 1;
            if sum >= wanted {
                break;
            }
        }
        self.candidates.truncate(kept);
        self.weights.truncate(kept);
    }

    fn keep_min_p(&mut self) {
        let least = f64::from(self.options.min_p);
        if least <= 0.0 {
            return;
        }
        // The likeliest weighs 1, whatever was filtered: it is always kept.
        let mut kept = 0;
        for i in 0..self.candidates.len() {
            if self.weights[i] >= least {
                self.candidates[kept] = self.candidates[i];
                self.weights[kept] = self.weights[i];
                kept += 1;
            }
        }
        self.candidates.truncate(kept);
        self.weights.truncate(kept);
    }

    fn draw(&mut self) -> TokenId {
        let mass: f64 = self.weights.iter().sum();
        let target = self.random.next_unit() * mass;
        let mut sum = 0.0;
        let mut chosen = 0;
        for (candidate, &weight) in self.candidates.iter().zip(&self.weights) {
            if weight == 0.0 {
                continue;
            }
            chosen = candidate.token;
            sum += weight;
            if sum > target {
                break;
            }
        }
        TokenId(chosen)
    }
}

/// Refuses logits from which no distribution follows.
fn check(logits: &[f32]) -> Result<(), SamplerError> {
    // A sum would be faster but cannot tell +∞ − ∞ from NaN; one pass of comparisons is enough.
    let suspicious = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    let Some((logit, token)) = logits.iter().zip(0u32..).find(|(logit, _)| suspicious(logit)) else {
        return Ok(());
    };
    let first_nan = logits.iter().zip(0u32..).find(|(logit, _)| logit.is_nan());
    match first_nan {
        Some((_, token)) => Err(SamplerError::NanLogit {
            token: TokenId(token),
            count: logits.iter().filter(|l| l.is_nan()).count(),
            vocab_size: logits.len(),
        }),
        None => {
            debug_assert_eq!(*logit, f32::INFINITY);
            Err(SamplerError::InfiniteLogit { token: TokenId(token) })
        }
    }
}

/// The token with the greatest logit, of equals the lowest id; `None` if all are −∞.
fn likeliest(logits: &[f32]) -> Option<TokenId> {
    let mut best = None;
    let mut best_logit = f32::NEG_INFINITY;
    for (&logit, token) in logits.iter().zip(0u32..) {
        if logit > best_logit {
            best = Some(TokenId(token));
            best_logit = logit;
        }
    }
    best
}

#[cfg(test)]
mod tests;
