//! Activation-aware weight scaling (AWQ): channels with large inputs are scaled up before rounding, so that their weights lose
//! less of what matters.

use super::{SCALE_LOG_RANGE, WatchedText};
use crate::{
    RuntimeError,
    calibrate::statistics::mean_squares,
    float_pass::{FloatTensor, WatchedLinear, Watcher},
    quantize::Plan,
};
use coexec_model::{
    DecoderConfig, LayerIdx, WeightFormat, quant::Quantizer, source::ModelSource, source::transform::ChannelScales,
};

/// Steps of the search: strengths `0, 1/10 … 1`.
const STEPS: u32 = 10;
/// Most tokens that an output's error is measured on, spread evenly over the text.
const SAMPLE_TOKENS: usize = 1024;

/// AWQ's scales: `s_j = mean|X_j|^α`, divided by their geometric mean, with the `α` of `0, 0.1 … 1` that leaves the least
/// squared error of the linear's output once its weights are rounded to `format`. Each linear has its own `α`; 0 is no
/// scaling, so by that measure no linear gets worse.
///
/// Rows are rounded one by one: [`Quantizer::Gptq`] is searched as [`Quantizer::Mse`], whose scales suit it too. Formats of
/// floats round next to nothing and get no scales.
///
/// # Errors
/// When the text gives no tokens, weights cannot be read, or the text's token says stop.
pub fn awq(
    source: &dyn ModelSource,
    text: &WatchedText<'_>,
    format: WeightFormat,
    quantizer: Quantizer,
) -> Result<ChannelScales, RuntimeError> {
    let config = source.config().clone();
    let mut scales = ChannelScales::none(&config);
    if !format.is_integer() {
        return Ok(scales);
    }
    let quantizer = if quantizer == Quantizer::Absmax { quantizer } else { Quantizer::Mse };
    let mut pass = text.pass(source)?;
    for l in 0..config.num_hidden_layers {
        pass.layer(LayerIdx(l), &mut Search { config: &config, format, quantizer, scales: &mut scales })?;
    }
    Ok(scales)
}

/// Finds the scales of each linear that it sees.
struct Search<'a> {
    config: &'a DecoderConfig,
    format: WeightFormat,
    quantizer: Quantizer,
    scales: &'a mut ChannelScales,
}

impl Watcher for Search<'_> {
    fn before(&mut self, l: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        let k = weights.k;
        let means = by_scale(self.config, l, k);
        let squares = mean_squares(&l.ctx, l.input, k);
        let rows = weights.rows()?;
        let sample = sample(l.input, k);
        let mut best: Option<(f64, u32, Vec<f32>)> = None;
        for step in 0..=STEPS {
            let scales = powers(&means, f64::from(step) / f64::from(STEPS));
            let index = |channel| ChannelScales::index_of(self.config, l.kind, channel);
            let by_channel: Vec<f32> = (0..k).map(|c| scales.get(index(c)).copied().unwrap_or(1.0)).collect();
            let plan =
                Plan::Rows(self.quantizer, Some(squares.iter().zip(&by_channel).map(|(h, s)| h / (s * s)).collect()));
            let error = self.error(l, &plan, &rows, &by_channel, &sample)?;
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, step, scales));
            }
        }
        if let Some((error, step, scales)) = best
            && let Some(layer) = self.scales.layers.get_mut(l.layer.index())
        {
            tracing::debug!(layer = l.layer.0, kind = %l.kind, alpha = f64::from(step) / f64::from(STEPS), error, "awq");
            layer[l.kind.index()] = (step > 0).then_some(scales);
        }
        Ok(weights)
    }
}

impl Search<'_> {
    /// Squared error of the output on `sample` when `rows · diag(scales)` is rounded by `plan`.
    fn error(
        &self,
        l: &mut WatchedLinear<'_>,
        plan: &Plan,
        rows: &[f32],
        scales: &[f32],
        sample: &[f32],
    ) -> Result<f64, RuntimeError> {
        let k = scales.len();
        let mut changed = rows.to_vec();
        for row in changed.chunks_exact_mut(k) {
            row.iter_mut().zip(scales).for_each(|(w, s)| *w *= s);
        }
        let _codes = plan.quantize(&l.ctx, self.format, &mut changed, k, l.cancel)?;
        for (changed, row) in changed.chunks_exact_mut(k).zip(rows.chunks_exact(k)) {
            changed.iter_mut().zip(row).zip(scales).for_each(|((v, w), s)| *v = *v / s - w);
        }
        let mut y = Vec::new();
        FloatTensor::from_rows(&changed, k)?.multiply(&l.ctx, sample, &mut y, l.scratch)?;
        Ok(y.iter().map(|v| f64::from(*v) * f64::from(*v)).sum())
    }
}

/// Mean |input| of the channels that share a scale.
fn by_scale(config: &DecoderConfig, l: &WatchedLinear<'_>, k: usize) -> Vec<f64> {
    let mut sums = vec![0.0; ChannelScales::len_of(config, l.kind)];
    for row in l.input.chunks_exact(k.max(1)) {
        for (channel, value) in row.iter().enumerate() {
            if let Some(sum) = sums.get_mut(ChannelScales::index_of(config, l.kind, channel)) {
                *sum += f64::from(value.abs());
            }
        }
    }
    let values = l.input.len() as f64 / sums.len().max(1) as f64;
    sums.iter().map(|sum| sum / values.max(1.0)).collect()
}

/// `means^alpha` over their geometric mean; silent channels keep 1.
fn powers(means: &[f64], alpha: f64) -> Vec<f32> {
    let known: Vec<f64> = means.iter().filter(|m| **m > 0.0).map(|m| m.ln()).collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let power = |m: f64| (alpha * (m.ln() - mean)).clamp(-SCALE_LOG_RANGE, SCALE_LOG_RANGE).exp() as f32;
    means.iter().map(|m| if *m > 0.0 { power(*m) } else { 1.0 }).collect()
}

/// At most [`SAMPLE_TOKENS`] rows of `k`, spread evenly.
fn sample(input: &[f32], k: usize) -> Vec<f32> {
    let tokens = input.len() / k.max(1);
    let taken = tokens.min(SAMPLE_TOKENS);
    (0..taken).flat_map(|i| &input[i * tokens / taken * k..][..k]).copied().collect()
}

#[cfg(test)]
mod tests;
