//! Calibration: static scales, hot channels and importance of each linear, from a float forward pass over a text.
//!
//! The pass goes layer by layer with the float weights, before packing, so that only one layer's weights are in memory.
//! What is looked at per linear is its input `x` `[tokens, K]` and what the NPU will see of its output.
//!
//! *Scale*: channels whose energy stands far out are left to the shadow; among the others the scale is the smallest that
//! clips no more than [`CLIPPED_SHARE`] of the elements. Shadow repairs what is clipped exactly, so a small scale costs
//! CPU work and buys resolution. *Hot channels*: those standing out, and the most often clipped ones until they carry 80 %
//! of all clips. *Importance*: the share of the input's energy that clipping takes away.

use crate::RuntimeError;
use coexec_model::{DecoderConfig, LayerIdx, LinearCalibration};

/// Share of a linear's input elements that may be clipped.
pub const CLIPPED_SHARE: f64 = 0.003;
/// Share of an NPU output's elements that may saturate (each is computed again on the CPU).
pub const SATURATED_SHARE: f64 = 0.0005;
/// A channel whose RMS is this many times the median channel's stands out.
const STANDS_OUT: f32 = 5.0;
/// Most channels that may be hot.
const HOT_SHARE: f64 = 0.05;
/// Hot channels carry at least this share of all clips, if [`HOT_SHARE`] allows.
const HOT_COVERAGE: f64 = 0.8;

/// The smallest value that at most `share` of `values` exceed. `values` is reordered.
fn quantile(values: &mut [f32], share: f64) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let above = ((values.len() as f64 * share) as usize).min(values.len() - 1);
    let at = values.len() - 1 - above;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Scale, hot channels and importance of a linear from its inputs `x` `[tokens, k]`. Output scales are left empty.
#[must_use]
pub fn calibrate_input(x: &[f32], k: usize) -> LinearCalibration {
    let tokens = x.len() / k.max(1);
    let mut energy = vec![0.0f64; k];
    for row in x.chunks_exact(k) {
        energy.iter_mut().zip(row).for_each(|(e, v)| *e += f64::from(v * v));
    }
    let rms: Vec<f32> = energy.iter().map(|e| (e / tokens.max(1) as f64).sqrt() as f32).collect();
    let median = quantile(&mut rms.clone(), 0.5);
    let limit = ((k as f64 * HOT_SHARE) as usize).max(1);
    let mut outstanding: Vec<usize> = (0..k).filter(|c| rms[*c] > STANDS_OUT * median).collect();
    outstanding.sort_by(|a, b| rms[*b].total_cmp(&rms[*a]));
    outstanding.truncate(limit);
    let mut hot = vec![false; k];
    outstanding.iter().for_each(|c| hot[*c] = true);

    let mut rest: Vec<f32> = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k) {
        rest.extend(row.iter().zip(&hot).filter(|(_, hot)| !**hot).map(|(v, _)| v.abs()));
    }
    let threshold = quantile(&mut rest, CLIPPED_SHARE);
    let threshold = if threshold > 0.0 { threshold } else { rest.iter().fold(0.0f32, |m, v| m.max(*v)).max(1e-6) };
    let scale = threshold / 127.0;

    let mut clips = vec![0u64; k];
    let (mut lost, mut total) = (0.0f64, f64::MIN_POSITIVE);
    for row in x.chunks_exact(k) {
        for (c, v) in row.iter().enumerate() {
            let r = f64::from((v.abs() - threshold).max(0.0));
            clips[c] += u64::from(r > 0.0);
            lost += r * r;
            total += f64::from(v * v);
        }
    }
    let mut order: Vec<usize> = (0..k).filter(|c| clips[*c] > 0 && !hot[*c]).collect();
    order.sort_by_key(|c| (std::cmp::Reverse(clips[*c]), *c));
    let all: u64 = clips.iter().sum();
    let mut covered: u64 = (0..k).filter(|c| hot[*c]).map(|c| clips[c]).sum();
    for c in order.into_iter().take(limit.saturating_sub(outstanding.len())) {
        if covered as f64 >= HOT_COVERAGE * all as f64 {
            break;
        }
        hot[c] = true;
        covered += clips[c];
    }
    let hot_channels = (0..k as u32).filter(|c| hot[*c as usize]).collect();
    LinearCalibration { input_scale: scale, output_scales: Vec::new(), hot_channels, importance: (lost / total) as f32 }
}

/// What the NPU sees of `x`: values clipped to ±127 steps.
pub fn clip(x: &mut [f32], scale: f32) {
    let limit = 127.0 * scale;
    x.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
}

/// Scales of the output parts (widths `parts`) from NPU-side outputs `y` `[tokens, Σ parts]`.
#[must_use]
pub fn output_scales(y: &[f32], parts: &[usize]) -> Vec<f32> {
    let n: usize = parts.iter().sum();
    let mut first = 0;
    parts
        .iter()
        .map(|width| {
            let mut values: Vec<f32> =
                y.chunks_exact(n).flat_map(|row| row[first..first + width].iter().map(|v| v.abs())).collect();
            first += width;
            quantile(&mut values, SATURATED_SHARE).max(1e-6) / 127.0
        })
        .collect()
}

/// Refuses values that are no numbers, naming the layer.
///
/// # Errors
/// [`RuntimeError::NotFinite`].
pub fn check_finite(values: &[f32], layer: LayerIdx, what: &str) -> Result<(), RuntimeError> {
    if values.iter().all(|v| v.is_finite()) {
        Ok(())
    } else {
        Err(RuntimeError::NotFinite { layer, what: what.to_owned() })
    }
}

/// Which linears are corrected in shadow when a share `pruning_rate` of them, least important first, is not.
#[must_use]
pub fn shadow_mask(
    config: &DecoderConfig,
    calibration: &coexec_model::Calibration,
    pruning_rate: f32,
) -> Vec<[bool; 4]> {
    let layers = config.num_hidden_layers as usize;
    let mut mask = vec![[true; 4]; layers];
    let mut order: Vec<(usize, usize)> = (0..layers).flat_map(|l| (0..4).map(move |k| (l, k))).collect();
    let importance = |(l, k): (usize, usize)| calibration.layers.get(l).map_or(0.0, |layer| layer[k].importance);
    order.sort_by(|a, b| importance(*a).total_cmp(&importance(*b)).then(a.cmp(b)));
    let pruned = (order.len() as f32 * pruning_rate.clamp(0.0, 1.0)).round() as usize;
    for (l, k) in &order[..pruned] {
        mask[*l][*k] = false;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f32 / (1u64 << 31) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn outlier_channels_are_hot_and_do_not_widen_the_scale() {
        let (k, tokens) = (128, 500);
        let plain = gaussian(k * tokens);
        let mut outliers = plain.clone();
        for row in outliers.chunks_exact_mut(k) {
            row[5] *= 32.0;
            row[90] *= 32.0;
        }
        let (a, b) = (calibrate_input(&plain, k), calibrate_input(&outliers, k));
        assert!(b.hot_channels.contains(&5) && b.hot_channels.contains(&90), "{:?}", b.hot_channels);
        assert!((b.input_scale / a.input_scale - 1.0).abs() < 0.05, "{} {}", a.input_scale, b.input_scale);
        // Three sigma clip 0.27 % of a Gaussian.
        assert!((a.input_scale * 127.0 - 3.0).abs() < 0.15, "{}", a.input_scale * 127.0);
        assert!(b.importance > 10.0 * a.importance);
    }

    #[test]
    fn silent_inputs_get_a_usable_scale() {
        let c = calibrate_input(&vec![0.0; 64 * 10], 64);
        assert!(c.input_scale > 0.0 && c.hot_channels.is_empty());
        assert!(output_scales(&[0.0; 30], &[1, 2]).iter().all(|s| *s > 0.0));
    }
}
