//! What exact transforms of a model ([`coexec_model::source::transform`]) need to know of its activations.

use crate::{
    RuntimeError,
    calibrate::quantile,
    float_pass::{FloatPass, FloatTensor, PassProgress, WatchedLinear, Watcher},
};
use coexec_model::{
    DecoderConfig, LayerIdx, LinearKind,
    source::{
        ModelSource,
        transform::{
            ChannelScales,
            outliers::{RareNeuron, rare_neurons_per_layer},
        },
    },
};
use coexec_scheduler::CancelToken;

mod awq;

pub use awq::awq;

/// The text that activations are watched on.
#[derive(Clone)]
pub struct WatchedText<'a> {
    /// The text.
    pub text: &'a str,
    /// Most tokens of it to use.
    pub max_tokens: usize,
    /// CPU workers; 0 is one per core.
    pub threads: usize,
    /// Stops between blocks of weights, and of rows.
    pub cancel: CancelToken,
    /// Told how far the pass is.
    pub progress: PassProgress<'a>,
}

impl std::fmt::Debug for WatchedText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WatchedText({} bytes, at most {} tokens)", self.text.len(), self.max_tokens)
    }
}

impl<'a> WatchedText<'a> {
    /// At most 4096 tokens of `text`, on all cores.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, max_tokens: 4096, threads: 0, cancel: CancelToken::new(), progress: &|_, _| {} }
    }

    fn pass<'s>(&'s self, source: &'s dyn ModelSource) -> Result<FloatPass<'s>, RuntimeError> {
        let pass = FloatPass::new(source, self.text, self.max_tokens, self.threads, &self.cancel)?;
        Ok(pass.with_progress(self.progress))
    }
}

/// Migration strength of SmoothQuant when nobody asks for another: half of an outlier goes into the weights.
pub const SMOOTH_ALPHA: f32 = 0.5;

/// SmoothQuant's scales: `s_j = max|X_j|^α / max|W_j|^(1−α)` per input channel `j` of every linear, divided by their
/// geometric mean. `α = 0` looks at the weights only, `1` at the activations only.
///
/// # Errors
/// When `alpha` is not 0 … 1, the text gives no tokens, weights cannot be read, or the text's token says stop.
pub fn smooth(source: &dyn ModelSource, text: &WatchedText<'_>, alpha: f32) -> Result<ChannelScales, RuntimeError> {
    if !(0.0..=1.0).contains(&alpha) {
        let (value, reason) = (alpha.to_string(), "use 0 (weights only) … 1 (activations only)".to_owned());
        return Err(RuntimeError::Option { option: "smoothing strength", value, reason });
    }
    let config = source.config().clone();
    let mut scales = ChannelScales::none(&config);
    let mut pass = text.pass(source)?;
    for (l, layer) in scales.layers.iter_mut().enumerate() {
        pass.layer(LayerIdx(l as u32), &mut Smooth { config: &config, alpha, layer })?;
    }
    Ok(scales)
}

/// Finds the scales of each linear of a layer.
struct Smooth<'a> {
    config: &'a DecoderConfig,
    alpha: f32,
    layer: &'a mut [Option<Vec<f32>>; 4],
}

impl Watcher for Smooth<'_> {
    fn before(&mut self, l: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        let inputs = by_scale(self.config, l.kind, &column_maxima(l.input, weights.k));
        let maxima = by_scale(self.config, l.kind, &weights.channel_maxima());
        self.layer[l.kind.index()] = Some(smoothing(&inputs, &maxima, self.alpha));
        Ok(weights)
    }
}

/// Largest |value| per column of rows of `k`.
fn column_maxima(rows: &[f32], k: usize) -> Vec<f32> {
    let mut maxima = vec![0.0f32; k];
    for row in rows.chunks_exact(k.max(1)) {
        maxima.iter_mut().zip(row).for_each(|(m, v)| *m = m.max(v.abs()));
    }
    maxima
}

/// Largest value among the input channels that share a scale.
fn by_scale(config: &DecoderConfig, kind: LinearKind, by_channel: &[f32]) -> Vec<f32> {
    let mut maxima = vec![0.0f32; ChannelScales::len_of(config, kind)];
    for (channel, value) in by_channel.iter().enumerate() {
        if let Some(m) = maxima.get_mut(ChannelScales::index_of(config, kind, channel)) {
            *m = m.max(*value);
        }
    }
    maxima
}

/// Scales stay between e to plus and minus this.
const SCALE_LOG_RANGE: f64 = 11.5;

/// SmoothQuant's formula; channels that are silent or unread keep 1.
fn smoothing(inputs: &[f32], weights: &[f32], alpha: f32) -> Vec<f32> {
    let alpha = f64::from(alpha);
    let log = |(x, w): (&f32, &f32)| {
        (*x > 0.0 && *w > 0.0).then(|| alpha * f64::from(*x).ln() - (1.0 - alpha) * f64::from(*w).ln())
    };
    let logs: Vec<Option<f64>> = inputs.iter().zip(weights).map(log).collect();
    let known: Vec<f64> = logs.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    logs.iter().map(|l| l.map_or(1.0, |l| (l - mean).clamp(-SCALE_LOG_RANGE, SCALE_LOG_RANGE).exp() as f32)).collect()
}

/// Share of a text's tokens that a rare neuron may fire on.
const RARE_TOKENS: f64 = 0.02;
/// What counts as large among a layer's activations: all but this share are smaller.
const LARGE: f64 = 0.001;

/// The neurons of every layer that stand out most on few tokens of a text, for
/// [`with_outliers`](coexec_model::source::transform::outliers::with_outliers) (tests).
///
/// # Errors
/// When the text gives no tokens, weights cannot be read, or the text's token says stop.
pub fn rare_neurons(source: &dyn ModelSource, text: &WatchedText<'_>) -> Result<Vec<Vec<RareNeuron>>, RuntimeError> {
    let count = rare_neurons_per_layer(source.config());
    let mut pass = text.pass(source)?;
    let mut rare = Rare { count, layers: Vec::new() };
    for l in 0..source.config().num_hidden_layers {
        pass.layer(LayerIdx(l), &mut rare)?;
    }
    Ok(rare.layers)
}

struct Rare {
    count: usize,
    layers: Vec<Vec<RareNeuron>>,
}

impl Watcher for Rare {
    fn before(&mut self, linear: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        if linear.kind != LinearKind::Down {
            return Ok(weights);
        }
        let (k, mut all) = (weights.k, linear.input.iter().map(|v| v.abs()).collect::<Vec<_>>());
        let large = quantile(&mut all, LARGE);
        // How far a neuron's few largest values stand above its others, and how large they are.
        let mut peaks: Vec<(f32, f32, usize)> = Vec::with_capacity(k);
        let mut column = Vec::new();
        for neuron in 0..k {
            column.clear();
            column.extend(linear.input.iter().skip(neuron).step_by(k).map(|v| v.abs()));
            let (peak, rest) = (quantile(&mut column, RARE_TOKENS / 4.0), quantile(&mut column, RARE_TOKENS));
            if rest.is_normal() && peak.is_normal() {
                peaks.push((peak / rest, peak, neuron));
            }
        }
        peaks.sort_by(|a, b| b.0.total_cmp(&a.0));
        let rare =
            peaks.iter().take(self.count).map(|(_, peak, neuron)| RareNeuron { neuron: *neuron, gain: large / peak });
        self.layers.push(rare.collect());
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_shares_outliers_between_inputs_and_weights() {
        let (inputs, weights) = ([1.0, 64.0, 1.0, 1.0, 0.0], [1.0, 1.0, 4.0, 1.0, 1.0]);
        let half = smoothing(&inputs, &weights, 0.5);
        // √(x / w) over the geometric mean of the four that are known: (1 · 8 · ½ · 1)^¼ = √2.
        let expected = [1.0, 8.0, 0.5, 1.0].map(|s| s / 2f32.sqrt());
        for (s, e) in half.iter().zip(expected) {
            assert!((s / e - 1.0).abs() < 1e-6, "{half:?}");
        }
        assert_eq!(half[4], 1.0, "a silent channel");
        let all = smoothing(&inputs, &weights, 1.0);
        assert!((all[1] / all[0] - 64.0).abs() < 1e-3 && all[2] == all[0], "{all:?}");
    }
}
