//! Recipes: in one line how a model is quantised, from exact transforms over weights to activations.
//!
//! ```text
//! recipe  = item {"," item}
//! item    = "smooth" ["=" strength]          SmoothQuant-style migration, 0 … 1, default 0.5
//!         | "awq"                            AWQ's scales, for the recipe's weights
//!         | "rotate" ["=" seed]              Hadamard rotations folded into the weights
//!         | "f32" | "f16" | "q8" | "q4" | "q4s"          format of the linears
//!         | "absmax" | "mse" | "gptq"        how their codes and scales are chosen
//!         | "u8" | "u8+shadow" | "u8+float" | "u16"      how linears run on the NPU
//!         | "auto" ["=" share]               measured per linear, share of perplexity that may be lost, default 1%
//!         | "hot=" share                      of a linear's bytes for float rows that stay in memory, default 1%
//!         | "scales=" method                 of u8 inputs without shadow: max, p99.9, mse or output
//! ```
//! Transforms apply in the order given; of the others the last one counts. `smooth,q8,u8+shadow` is a recipe.

use crate::{
    RuntimeError,
    calibrate::ScaleMethod,
    import::{self, ImportOptions, ImportProgress, import_into},
    schedule::{self, ScheduleOptions},
    text::{Special, Tokenizer},
    transform::{SMOOTH_ALPHA, WatchedText, awq, smooth},
};
use coexec_model::{
    Treatment, WeightFormat,
    output::{OutputFile, ReadFiles},
    packed::PackedSummary,
    quant::Quantizer,
    source::{
        ModelSource,
        transform::{Rotated, Scaled},
    },
};
use std::{cell::Cell, path::Path, str::FromStr};

/// An exact transform of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transform {
    /// Scales of channels move from activations into weights.
    Smooth {
        /// 0 (weights only) … 1 (activations only).
        alpha: f32,
    },
    /// Channels with large inputs are scaled up before their weights are rounded.
    Awq,
    /// The residual stream and the value heads are rotated.
    Rotate {
        /// Of the random signs.
        seed: u64,
    },
}

/// How linears run on the NPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activations {
    /// All alike.
    All(Treatment),
    /// As measured, for a share of perplexity that may be lost.
    Auto {
        /// That share.
        max_quality_loss: f64,
    },
}

/// A recipe; see the module's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// In the order in which they apply.
    pub transforms: Vec<Transform>,
    /// Format of the linears; `None` leaves the import's.
    pub weights: Option<WeightFormat>,
    /// How weights' codes and scales are chosen; `None` leaves the import's.
    pub quantizer: Option<Quantizer>,
    /// How linears run; `None` leaves shadow everywhere.
    pub activations: Option<Activations>,
    /// Scales of u8 inputs without shadow.
    pub scales: ScaleMethod,
    /// Most channels with float rows in memory; `None` leaves the import's.
    pub hot_share: Option<f64>,
}

impl Recipe {
    /// How many passes over the text its transforms take, and whether linears are measured afterwards: the steps that
    /// [`CookProgress`] tells of, beside the import.
    #[must_use]
    pub fn passes(&self) -> (usize, bool) {
        let watched = self.transforms.iter().filter(|t| !matches!(t, Transform::Rotate { .. })).count();
        (watched, matches!(self.activations, Some(Activations::Auto { .. })))
    }
}

impl FromStr for Recipe {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let mut recipe = Self::default();
        for item in text.split(',').map(str::trim) {
            let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
            let bad = |reason: &str| RuntimeError::Option {
                option: "--quant",
                value: item.to_owned(),
                reason: reason.to_owned(),
            };
            match (name, value) {
                ("smooth", value) => {
                    let alpha = value.map_or(Ok(SMOOTH_ALPHA), str::parse).ok().filter(|a| (0.0..=1.0).contains(a));
                    let alpha = alpha.ok_or_else(|| bad("use a strength 0 … 1, as in smooth=0.5"))?;
                    recipe.transforms.push(Transform::Smooth { alpha });
                }
                ("rotate", value) => {
                    let seed = value.map_or(Ok(0), str::parse).map_err(|_| bad("use a seed, as in rotate=1"))?;
                    recipe.transforms.push(Transform::Rotate { seed });
                }
                ("auto", value) => {
                    let max_quality_loss =
                        share(value.unwrap_or("1%")).ok_or_else(|| bad("use a share, as in auto=1%"))?;
                    recipe.activations = Some(Activations::Auto { max_quality_loss });
                }
                ("scales", Some(value)) => recipe.scales = value.parse()?,
                ("hot", Some(value)) => {
                    let none = matches!(value.trim_end_matches('%').trim().parse(), Ok(0.0)).then_some(0.0);
                    let share = none.or_else(|| share(value)).filter(|s| *s <= 1.0);
                    recipe.hot_share = Some(share.ok_or_else(|| bad("use a share of the bytes, as in hot=1%"))?);
                }
                ("awq", None) => recipe.transforms.push(Transform::Awq),
                (_, None) => {
                    if let Ok(format) = item.parse() {
                        recipe.weights = Some(format);
                    } else if let Ok(quantizer) = item.parse() {
                        recipe.quantizer = Some(quantizer);
                    } else if let Some(t) = Treatment::ALL.into_iter().find(|t| t.name() == item) {
                        recipe.activations = Some(Activations::All(t));
                    } else {
                        return Err(bad(
                            "use items such as smooth, awq, rotate, q8, q4, q4s, mse, gptq, u8, u8+shadow, u8+float, u16, \
                             auto=1% or scales=max, between commas",
                        ));
                    }
                }
                _ => return Err(bad("use NAME=VALUE with smooth, rotate, auto, hot or scales")),
            }
        }
        Ok(recipe)
    }
}

/// `1%` or `0.01`, up to 1000 %.
#[must_use]
pub fn share(text: &str) -> Option<f64> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    number.trim().parse::<f64>().ok().map(|v| v * unit).filter(|v| (1e-6..=10.0).contains(v))
}

/// What is done with a transformed model.
pub type OnTransformed<'a, T> = Box<dyn FnOnce(&dyn ModelSource) -> Result<T, RuntimeError> + 'a>;

/// Calls `f` with `source` as the transforms make it, for linears that will be quantised as `weights`.
///
/// # Errors
/// When a transform does not fit the model or needs a text that is not there, and those of `f`.
pub fn transformed<T>(
    source: &dyn ModelSource,
    transforms: &[Transform],
    text: Option<&WatchedText<'_>>,
    weights: (WeightFormat, Quantizer),
    f: OnTransformed<'_, T>,
) -> Result<T, RuntimeError> {
    let Some((first, rest)) = transforms.split_first() else { return f(source) };
    let watched = |value: &str| {
        text.ok_or_else(|| RuntimeError::Option {
            option: "--quant",
            value: value.to_owned(),
            reason: "needs a text to watch activations on: give --calibrate".to_owned(),
        })
    };
    match first {
        Transform::Smooth { alpha } => {
            let scales = smooth(source, watched("smooth")?, *alpha)?;
            transformed(&Scaled::new(source, scales)?, rest, text, weights, f)
        }
        Transform::Awq => {
            let scales = awq(source, watched("awq")?, weights.0, weights.1)?;
            transformed(&Scaled::new(source, scales)?, rest, text, weights, f)
        }
        Transform::Rotate { seed } => transformed(&Rotated::new(source, *seed), rest, text, weights, f),
    }
}

/// How far [`cook`] is.
#[derive(Clone, Copy, Debug)]
pub enum CookProgress {
    /// A transform watches the activations on the text.
    Watching {
        /// Which pass over the text this is, from 0.
        pass: usize,
        /// Work done in it, in multiply-adds.
        done: u64,
        /// Work of one pass.
        total: u64,
    },
    /// Tensors are calibrated and written.
    Importing(ImportProgress),
    /// With `auto`: linears are measured.
    Measuring {
        /// Windows of the text run.
        done: usize,
        /// Windows in all, at most.
        total: usize,
    },
}

/// Imports `source` by a recipe; with `auto` its linears are measured on the calibration text's later half. `out` appears when
/// everything is decided.
///
/// # Errors
/// As [`import`] and [`schedule::decide`]; when the recipe needs a text that `options` do not have, or a longer one.
pub fn cook(
    source: &dyn ModelSource,
    out: &Path,
    recipe: &Recipe,
    options: &ImportOptions,
    progress: &dyn Fn(CookProgress),
) -> Result<PackedSummary, RuntimeError> {
    let mut options = ImportOptions { scales: recipe.scales, ..options.clone() };
    options.weights = recipe.weights.unwrap_or(options.weights);
    options.quantizer = recipe.quantizer.unwrap_or(options.quantizer);
    options.hot_share = recipe.hot_share.unwrap_or(options.hot_share);
    if let Some(Activations::All(treatment)) = recipe.activations {
        options.treatment = treatment;
    }
    let calibrate = options.calibrate.clone();
    if let (Some(activations), None) = (recipe.activations, &calibrate) {
        let value = match activations {
            Activations::All(treatment) => treatment.name().to_owned(),
            Activations::Auto { .. } => "auto".to_owned(),
        };
        let reason = "activations of the NPU need a text to calibrate on: give --calibrate".to_owned();
        return Err(RuntimeError::Option { option: "--quant", value, reason });
    }
    let (max_tokens, threads, cancel) = (options.calibration_tokens, options.threads, options.cancel.clone());
    let pass = Cell::new(0);
    let watching = |done, total| {
        progress(CookProgress::Watching { pass: pass.get(), done, total });
        pass.set(pass.get() + usize::from(done == total));
    };
    let watched = |text| WatchedText { text, max_tokens, threads, cancel, progress: &watching };
    let text = calibrate.as_deref().map(watched);
    let weights = (options.weights, options.quantizer);
    let out = import::claim(source, out, &options)?;
    let import_to = |out: OutputFile| {
        let pack =
            |source: &dyn ModelSource| import_into(source, out, &options, &|p| progress(CookProgress::Importing(p)));
        transformed(source, &recipe.transforms, text.as_ref(), weights, Box::new(pack))
    };
    let (Some(Activations::Auto { max_quality_loss }), Some(text)) = (recipe.activations, &options.calibrate) else {
        return import_to(out);
    };
    let engine = crate::EngineOptions { threads, ..crate::EngineOptions::default() };
    let how =
        ScheduleOptions { max_quality_loss, engine, cancel: options.cancel.clone(), ..ScheduleOptions::default() };
    // The later half of the text, which calibration of a long text has not seen.
    let middle = (text.len() / 2..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let later = &text[middle..];
    check_length(source, later, &how)?;
    // A file that nothing was decided about never has the final name.
    let dir = out.partial_dir()?;
    let undecided = dir.path().join("undecided.coexec");
    import_to(OutputFile::create(&undecided, &ReadFiles::none())?)?;
    let measuring = |done, total| progress(CookProgress::Measuring { done, total });
    let decision = schedule::decide(&undecided, later, &how, &measuring)?;
    schedule::store_into(&undecided, &decision, out)
}

/// Refuses a text that is too short to measure on.
fn check_length(source: &dyn ModelSource, text: &str, how: &ScheduleOptions) -> Result<(), RuntimeError> {
    let tokenizer = Tokenizer::new(source.tokenizer())?.ok_or(RuntimeError::NoTokenizer)?;
    let tokens = tokenizer.encode(text, Special::Plain)?.len();
    let window = how.window.min(source.config().max_position_embeddings as usize);
    if tokens >= 2 * window {
        return Ok(());
    }
    let reason = format!("`auto` measures on it: two windows of {window} tokens are the least");
    Err(RuntimeError::Option { option: "--calibrate", value: format!("{tokens} tokens in its later half"), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_read() {
        let recipe: Recipe = "smooth=0.25, rotate,awq,q4,gptq,u8+shadow,scales=p99.9".parse().expect("a recipe");
        assert_eq!(
            recipe.transforms,
            [Transform::Smooth { alpha: 0.25 }, Transform::Rotate { seed: 0 }, Transform::Awq]
        );
        assert_eq!((recipe.weights, recipe.quantizer), (Some(WeightFormat::Q4), Some(Quantizer::Gptq)));
        assert_eq!(recipe.activations, Some(Activations::All(Treatment::Shadow)));
        assert!(matches!(recipe.scales, ScaleMethod::Percentile { clipped } if (clipped - 0.001).abs() < 1e-9));
        for none in ["hot=0", "hot=0%", "hot=0.0"] {
            assert_eq!(none.parse::<Recipe>().expect(none).hot_share, Some(0.0));
        }
        let auto: Recipe = "auto=0.5%".parse().expect("a recipe");
        assert_eq!(auto.activations, Some(Activations::Auto { max_quality_loss: 0.005 }));
    }

    #[test]
    fn what_is_no_recipe_is_named() {
        for text in [
            "",
            "q9",
            "smooth=2",
            "rotate=x",
            "auto=0",
            "auto=x%",
            "scales=avg",
            "q8=3",
            "hot=2",
            "hot",
            "u8+",
            "smooth=nan",
        ] {
            let error = text.parse::<Recipe>().expect_err(text).to_string();
            assert!(error.contains("--quant"), "{text}: {error}");
        }
    }
}
