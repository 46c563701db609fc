//! Settings of a [`Sampler`](super::Sampler): what they mean, their defaults, which values are refused.

use super::SamplerError;
use coexec_model::GenerationDefaults;
use serde::{Deserialize, Serialize};

/// How the next token is chosen from the logits.
///
/// The filters are applied in the order of the fields below `repetition_penalty`: temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerOptions {
    /// Logits of tokens already seen are divided (positive) or multiplied (negative) by this; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the latest tokens count as seen; `usize::MAX` is all of them, 0 none.
    pub repetition_window: usize,
    /// Divisor of the logits; 0 always takes the likeliest token, the lowest id where several are equally likely.
    pub temperature: f32,
    /// Keep the `k` likeliest tokens; 0 keeps all. Of equally likely tokens the lower id comes first.
    pub top_k: u32,
    /// Keep the smallest set of likeliest tokens whose probabilities sum to this; 1 keeps all, at least one stays.
    pub top_p: f32,
    /// Keep tokens whose probability is at least this share of the likeliest token's; 0 keeps all.
    pub min_p: f32,
    /// Start of the random number generator. The same seed, options and logits give the same tokens on every machine.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// The model's own distribution: temperature 1, no filter, no penalty, seed 0.
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            repetition_window: usize::MAX,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Always the likeliest token.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// What users of language models expect where a model's authors advise nothing: temperature 0.8, the 40 likeliest tokens,
    /// of those 95 % of the probability, none below a twentieth of the likeliest.
    #[must_use]
    pub fn usual() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Self::default() }
    }

    /// Whether the likeliest token is always taken and nothing is drawn.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Refuses values that have no meaning.
    ///
    /// # Errors
    /// [`SamplerError::InvalidOption`] with the option's name, its value and what is allowed.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let check = |option, value: f32, allowed, ok: bool| {
            if ok { Ok(()) } else { Err(SamplerError::InvalidOption { option, value, allowed }) }
        };
        // Comparisons with NaN are false, so NaN is refused everywhere.
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let temperature = self.temperature;
        check("temperature", temperature, "a finite number, 0 or more", temperature >= 0.0 && temperature.is_finite())?;
        check("top_p", self.top_p, "a number from 0 to 1", share(self.top_p))?;
        check("min_p", self.min_p, "a number from 0 to 1", share(self.min_p))?;
        let penalty = self.repetition_penalty;
        check("repetition_penalty", penalty, "a finite number above 0", penalty > 0.0 && penalty.is_finite())
    }
}

impl From<&GenerationDefaults> for SamplerOptions {
    /// What the model's authors recommend. `do_sample: false` is greedy. Where some numbers are given, a filter that is not
    /// mentioned is off; where none is, the numbers are the usual ones ([`Self::usual`]).
    fn from(advice: &GenerationDefaults) -> Self {
        let repetition_penalty = advice.repetition_penalty.unwrap_or(1.0);
        let base = Self { repetition_penalty, ..Self::default() };
        if advice.do_sample == Some(false) {
            return Self { temperature: 0.0, ..base };
        }
        if !advises_sampling(advice) {
            return Self { repetition_penalty, ..Self::usual() };
        }
        Self {
            temperature: advice.temperature.unwrap_or(base.temperature),
            top_k: advice.top_k.unwrap_or(base.top_k),
            top_p: advice.top_p.unwrap_or(base.top_p),
            min_p: advice.min_p.unwrap_or(base.min_p),
            ..base
        }
    }
}

/// Whether a model's authors give any number of how to sample.
#[must_use]
pub fn advises_sampling(advice: &GenerationDefaults) -> bool {
    advice.temperature.is_some() || advice.top_k.is_some() || advice.top_p.is_some() || advice.min_p.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_has_no_meaning_and_names_it() {
        type Set = fn(&mut SamplerOptions, f32);
        let bad: [(&str, Set, &[f32]); 4] = [
            ("temperature", |o, v| o.temperature = v, &[-0.1, f32::NAN, f32::INFINITY]),
            ("top_p", |o, v| o.top_p = v, &[-0.1, 1.1, f32::NAN, f32::INFINITY]),
            ("min_p", |o, v| o.min_p = v, &[-0.1, 1.1, f32::NAN, f32::NEG_INFINITY]),
            ("repetition_penalty", |o, v| o.repetition_penalty = v, &[0.0, -1.0, f32::NAN, f32::INFINITY]),
        ];
        for (name, set, values) in bad {
            for &value in values {
                let mut options = SamplerOptions::default();
                set(&mut options, value);
                let message = options.validate().unwrap_err().to_string();
                assert!(message.contains(name), "{message}");
            }
        }
        for good in [SamplerOptions::default(), SamplerOptions::greedy(), SamplerOptions::usual()] {
            assert_eq!(good.validate(), Ok(()));
        }
    }

    #[test]
    fn advice_of_the_model_becomes_options() {
        let demo = GenerationDefaults {
            do_sample: Some(true),
            temperature: Some(0.7),
            top_p: Some(0.9),
            ..GenerationDefaults::default()
        };
        let expected = SamplerOptions { temperature: 0.7, top_p: 0.9, ..SamplerOptions::default() };
        assert_eq!(SamplerOptions::from(&demo), expected);
        assert_eq!(SamplerOptions::from(&GenerationDefaults { do_sample: None, ..demo.clone() }), expected);
        assert!(SamplerOptions::from(&GenerationDefaults { do_sample: Some(false), ..demo }).is_greedy());
        assert_eq!(SamplerOptions::from(&GenerationDefaults::default()), SamplerOptions::usual());
        let sample = GenerationDefaults { do_sample: Some(true), ..GenerationDefaults::default() };
        assert_eq!(SamplerOptions::from(&sample), SamplerOptions::usual());
        assert!(SamplerOptions::from(&GenerationDefaults { do_sample: Some(false), ..sample }).is_greedy());
        let penalised = GenerationDefaults { repetition_penalty: Some(1.1), ..GenerationDefaults::default() };
        assert_eq!(SamplerOptions::from(&penalised).repetition_penalty, 1.1);
    }
}
