//! Calibration: static scales, hot channels and importance of each linear, from a float forward pass over a text.
//!
//! The pass goes layer by layer with the float weights, before packing, so that only one layer's weights are in memory.
//! What is looked at per linear is its input `x` `[tokens, K]` and what the NPU will see of its output. Each linear gets scales
//! for every [`Treatment`], since what is best depends on who repairs the clipping:
//!
//! *With shadow*: channels whose energy stands far out are left to the shadow; among the others the scale is the smallest
//! that clips no more than [`CLIPPED_SHARE`] of the elements. Shadow repairs what is clipped exactly, so a small scale costs
//! CPU work and buys resolution. *Hot channels*, whose float rows stay in memory: those that lose most, until they carry 80 %
//! of all clips or their rows take [`HOT_SHARE`] of the linear's bytes.
//!
//! *In u8 without shadow*: by [`ScaleMethod`]; the default weighs clipping against rounding by the error of the linear's output.
//!
//! *In u8 with the hot channels in float*: least output error of the other channels.
//!
//! *In u16*: the range that the text showed, and a margin.
//!
//! *Importance*, until [`crate::schedule`] measures it: the share of the input's energy that clipping takes away.

use crate::{RuntimeError, float_pass::WatchedLinear};
use coexec_model::{
    Calibration, LayerIdx, LinearCalibration, Scales, Schedule, Treatment, WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
};
use std::str::FromStr;

/// Share of a linear's input elements that may be clipped.
pub const CLIPPED_SHARE: f64 = 0.003;
/// Share of an NPU output's elements that may saturate (each is computed again on the CPU).
pub const SATURATED_SHARE: f64 = 0.0005;
/// What u16 codes cover beyond the largest value of the text.
pub const WIDE_MARGIN: f32 = 1.25;
/// A channel whose RMS is this many times the median channel's stands out.
const STANDS_OUT: f32 = 5.0;
/// Most channels whose values the scale may leave out.
const STANDING_OUT_SHARE: f64 = 0.05;
/// What float rows of hot channels may take, as a share of the linear's packed bytes, when nobody asks for another.
pub const HOT_SHARE: f64 = 0.01;
/// Hot channels carry at least this share of all clips, if their number allows.
const HOT_COVERAGE: f64 = 0.8;
/// Rows on which scales are compared.
const SAMPLE_ROWS: usize = 256;
/// Ranges that are compared: the largest value times powers of [`RANGE_STEP`].
const RANGES: i32 = 40;
const RANGE_STEP: f32 = 0.92;

/// How the scale of a u8 input that nobody corrects is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ScaleMethod {
    /// Nothing of the text is clipped.
    Max,
    /// This share of the elements is clipped.
    Percentile {
        /// 0 … 1.
        clipped: f64,
    },
    /// Least squared error of the input.
    Mse,
    /// Least squared error of the linear's output.
    #[default]
    Output,
}

impl FromStr for ScaleMethod {
    type Err = RuntimeError;

    /// `max`, `p99.9` (a percentile), `mse` or `output`.
    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let percent = text.strip_prefix('p').and_then(|p| p.parse::<f64>().ok()).filter(|p| (50.0..=100.0).contains(p));
        match (text, percent) {
            ("max", _) => Ok(Self::Max),
            ("mse", _) => Ok(Self::Mse),
            ("output", _) => Ok(Self::Output),
            (_, Some(percent)) => Ok(Self::Percentile { clipped: 1.0 - percent / 100.0 }),
            _ => Err(RuntimeError::Option {
                option: "--quant",
                value: format!("scales={text}"),
                reason: "use max, mse, output, or a percentile such as p99.9".to_owned(),
            }),
        }
    }
}

/// Calibrates a linear from its input and weights; see the module's text.
///
/// # Errors
/// When the products cannot be computed.
pub fn calibrate_linear(
    l: &mut WatchedLinear<'_>,
    parts: &[usize],
    method: ScaleMethod,
    most_hot: usize,
) -> Result<LinearCalibration, RuntimeError> {
    let k = l.weights.k;
    let mut calibration = calibrate_input(l.input, k, most_hot);
    let mut product = |x: &[f32]| -> Result<Vec<f32>, RuntimeError> {
        let mut y = Vec::new();
        l.weights.multiply(&l.ctx, x, &mut y, l.scratch)?;
        Ok(y)
    };
    let mut seen_by_npu = l.input.to_vec();
    clip(&mut seen_by_npu, calibration.input_scale);
    calibration.output_scales = output_scales(&product(&seen_by_npu)?, parts);

    let largest = absmax(l.input);
    let sample = sample_rows(l.input, k);
    let input = match method {
        ScaleMethod::Max => largest / 127.0,
        ScaleMethod::Percentile { clipped } => {
            quantile(&mut l.input.iter().map(|v| v.abs()).collect::<Vec<_>>(), clipped) / 127.0
        }
        ScaleMethod::Mse => least(largest, &mut |scale| Ok(energy(&rounding_error(&sample, scale))))?,
        ScaleMethod::Output => least(largest, &mut |scale| Ok(energy(&product(&rounding_error(&sample, scale))?)))?,
    };
    let input = if input >= f32::MIN_POSITIVE { input } else { calibration.input_scale };
    seen_by_npu.copy_from_slice(l.input);
    clip(&mut seen_by_npu, input);
    let y = product(&seen_by_npu)?;
    calibration.plain = Some(Scales { input, outputs: plain_output_scales(&y, parts) });
    // Without hot channels the search for the others is this one.
    let searched = (method == ScaleMethod::Output && calibration.hot_channels.is_empty()).then_some((input, y));

    let margin = |largest: f32| (largest * WIDE_MARGIN).max(1e-6) / 127.0;
    let outputs = each_part(l.output, parts, &mut |values| margin(absmax(values)));
    let (input, y) = match searched {
        Some(found) => found,
        None => {
            let hot = &calibration.hot_channels;
            let zero_hot =
                |x: &mut [f32]| x.chunks_exact_mut(k).for_each(|row| hot.iter().for_each(|c| row[*c as usize] = 0.0));
            let (mut sample, mut rest) = (sample, l.input.to_vec());
            zero_hot(&mut sample);
            zero_hot(&mut rest);
            let input = least(absmax(&rest), &mut |scale| Ok(energy(&product(&rounding_error(&sample, scale))?)))?;
            let input = if input >= f32::MIN_POSITIVE { input } else { calibration.input_scale };
            clip(&mut rest, input);
            let y = product(&rest)?;
            (input, y)
        }
    };
    calibration.split = Some(Scales { input, outputs: output_scales(&y, parts) });
    calibration.wide = Some(Scales { input: margin(largest), outputs });
    Ok(calibration)
}

/// Rows spread evenly over the text, at most [`SAMPLE_ROWS`].
fn sample_rows(x: &[f32], k: usize) -> Vec<f32> {
    let step = (x.len() / k.max(1)).div_ceil(SAMPLE_ROWS).max(1);
    x.chunks_exact(k.max(1)).step_by(step).flatten().copied().collect()
}

/// What the code of `scale` misses of `v`. Adding 1.5·2²³ leaves no fraction bits, ties to even: compilers make SIMD of it.
fn missed(v: f32, scale: f32) -> f32 {
    v - (((v / scale).clamp(-128.0, 127.0) + 12_582_912.0) - 12_582_912.0) * scale
}

/// What codes of `scale` miss of `x`.
fn rounding_error(x: &[f32], scale: f32) -> Vec<f32> {
    x.iter().map(|v| missed(*v, scale)).collect()
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// The scale of least error among ranges up to `largest`.
fn least(largest: f32, error: &mut dyn FnMut(f32) -> Result<f64, RuntimeError>) -> Result<f32, RuntimeError> {
    let mut best = (f64::INFINITY, largest / 127.0);
    for i in 0..RANGES {
        let scale = largest * RANGE_STEP.powi(i) / 127.0;
        if scale < f32::MIN_POSITIVE {
            break;
        }
        let e = error(scale)?;
        if e < best.0 {
            best = (e, scale);
        } else if e > 4.0 * best.0 {
            break; // only worse from here
        }
    }
    Ok(best.1)
}

/// Scales of output parts whose saturation nobody repairs, from a sample of rows: all columns count alike.
fn plain_output_scales(y: &[f32], parts: &[usize]) -> Vec<f32> {
    each_part(&sample_rows(y, parts.iter().sum()), parts, &mut |values| part_scale(values))
}

/// The scale of least squared error.
fn part_scale(values: &[f32]) -> f32 {
    let largest = absmax(values);
    least(largest, &mut |scale| Ok(energy(&rounding_error(values, scale)))).unwrap_or(largest / 127.0).max(1e-6 / 127.0)
}

fn absmax(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |m, v| m.max(v.abs()))
}

/// `f` of the values of each output part (widths `parts`) of `y` `[tokens, Σ parts]`.
fn each_part(y: &[f32], parts: &[usize], f: &mut dyn FnMut(&mut [f32]) -> f32) -> Vec<f32> {
    let n: usize = parts.iter().sum();
    let mut first = 0;
    let part = |width: &usize| {
        let mut values: Vec<f32> = y.chunks_exact(n).flat_map(|row| &row[first..first + width]).copied().collect();
        first += width;
        f(&mut values)
    };
    parts.iter().map(part).collect()
}

/// The smallest value that at most `share` of `values` exceed. `values` is reordered.
pub(crate) fn quantile(values: &mut [f32], share: f64) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let above = ((values.len() as f64 * share) as usize).min(values.len() - 1);
    let at = values.len() - 1 - above;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Most channels of a linear `[n, k]` whose float rows (f16) fit `share` of its packed bytes.
#[must_use]
pub fn most_hot(format: WeightFormat, n: usize, k: usize, share: f64) -> usize {
    let bytes = panel_layout(format, k).bytes * n.div_ceil(PANEL_ROWS);
    ((bytes as f64 * share / (2 * n.max(1)) as f64) as usize).min(k)
}

/// Scale, hot channels (at most `most_hot`) and importance of a linear from its inputs `x` `[tokens, k]`. Output scales
/// are left empty.
#[must_use]
pub fn calibrate_input(x: &[f32], k: usize, most_hot: usize) -> LinearCalibration {
    let tokens = x.len() / k.max(1);
    let mut energy = vec![0.0f64; k];
    for row in x.chunks_exact(k) {
        energy.iter_mut().zip(row).for_each(|(e, v)| *e += f64::from(v * v));
    }
    let rms: Vec<f32> = energy.iter().map(|e| (e / tokens.max(1) as f64).sqrt() as f32).collect();
    let median = quantile(&mut rms.clone(), 0.5);
    let mut standing_out: Vec<usize> = (0..k).filter(|c| rms[*c] > STANDS_OUT * median).collect();
    standing_out.sort_by(|a, b| rms[*b].total_cmp(&rms[*a]));
    let mut left_out = vec![false; k];
    let most = ((k as f64 * STANDING_OUT_SHARE) as usize).max(1);
    standing_out.iter().take(most).for_each(|c| left_out[*c] = true);

    let mut rest: Vec<f32> = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k) {
        rest.extend(row.iter().zip(&left_out).filter(|(_, out)| !**out).map(|(v, _)| v.abs()));
    }
    let threshold = quantile(&mut rest, CLIPPED_SHARE);
    let threshold = if threshold > 0.0 { threshold } else { rest.iter().fold(0.0f32, |m, v| m.max(*v)).max(1e-6) };
    let scale = threshold / 127.0;

    let (mut clips, mut lost, mut total) = (vec![0u64; k], vec![0.0f64; k], f64::MIN_POSITIVE);
    for row in x.chunks_exact(k) {
        for (c, v) in row.iter().enumerate() {
            let r = f64::from((v.abs() - threshold).max(0.0));
            clips[c] += u64::from(r > 0.0);
            lost[c] += r * r;
            total += f64::from(v * v);
        }
    }
    // Where most is clipped, float rows gain most over those of the packed weights.
    let mut order: Vec<usize> = (0..k).filter(|c| clips[*c] > 0).collect();
    order.sort_by(|a, b| lost[*b].total_cmp(&lost[*a]).then(a.cmp(b)));
    let all: u64 = clips.iter().sum();
    let (mut covered, mut hot_channels) = (0u64, Vec::new());
    for c in order.into_iter().take(most_hot) {
        if covered as f64 >= HOT_COVERAGE * all as f64 {
            break;
        }
        hot_channels.push(c as u32);
        covered += clips[c];
    }
    hot_channels.sort_unstable();
    LinearCalibration {
        input_scale: scale,
        output_scales: Vec::new(),
        plain: None,
        wide: None,
        split: None,
        hot_channels,
        importance: (lost.iter().sum::<f64>() / total) as f32,
        clipped_share: all as f32 / x.len().max(1) as f32,
        treatment: Treatment::default(),
    }
}

/// What the NPU sees of `x`: values clipped to ±127 steps.
pub fn clip(x: &mut [f32], scale: f32) {
    let limit = 127.0 * scale;
    x.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
}

/// Scales of the output parts (widths `parts`) from NPU-side outputs `y` `[tokens, Σ parts]`, when saturated ones are computed
/// again.
#[must_use]
pub fn output_scales(y: &[f32], parts: &[usize]) -> Vec<f32> {
    each_part(y, parts, &mut |values| {
        values.iter_mut().for_each(|v| *v = v.abs());
        quantile(values, SATURATED_SHARE).max(1e-6) / 127.0
    })
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

/// All linears with shadow but a share `pruning_rate` of them, least important first.
#[must_use]
pub fn pruned(calibration: &Calibration, pruning_rate: f32) -> Schedule {
    let mut schedule = vec![[Treatment::Shadow; 4]; calibration.layers.len()];
    let order = by_importance(calibration);
    let count = (order.len() as f32 * pruning_rate.clamp(0.0, 1.0)).round() as usize;
    for (l, kind) in &order[..count] {
        schedule[*l][*kind] = Treatment::Plain;
    }
    schedule
}

/// All linears as `(layer, kind)`, least important first.
fn by_importance(calibration: &Calibration) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, usize)> =
        (0..calibration.layers.len()).flat_map(|l| (0..4).map(move |kind| (l, kind))).collect();
    let importance = |(l, kind): (usize, usize)| calibration.layers[l][kind].importance;
    order.sort_by(|a, b| importance(*a).total_cmp(&importance(*b)).then(a.cmp(b)));
    order
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
    fn float_rows_stay_within_their_share_of_the_linear() {
        for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s, WeightFormat::F32] {
            for (n, k) in [(5504usize, 2048), (256, 704), (64, 64), (7, 3)] {
                let bytes = (panel_layout(format, k).bytes * n.div_ceil(PANEL_ROWS)) as f64;
                let hot = most_hot(format, n, k, HOT_SHARE);
                assert!((hot * 2 * n) as f64 <= bytes * HOT_SHARE, "{format} {n}x{k}: {hot}");
                assert!(hot == k || ((hot + 1) * 2 * n) as f64 > bytes * HOT_SHARE, "{format} {n}x{k}: {hot}");
            }
        }
        assert_eq!(most_hot(WeightFormat::Q8, 5504, 2048, HOT_SHARE), 10);
        assert_eq!(most_hot(WeightFormat::Q8, 5504, 2048, 0.0), 0);
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
        let (a, b) = (calibrate_input(&plain, k, 2), calibrate_input(&outliers, k, 2));
        assert!(b.hot_channels.contains(&5) && b.hot_channels.contains(&90), "{:?}", b.hot_channels);
        assert!((b.input_scale / a.input_scale - 1.0).abs() < 0.05, "{} {}", a.input_scale, b.input_scale);
        // Three sigma clip 0.27 % of a Gaussian.
        assert!((a.input_scale * 127.0 - 3.0).abs() < 0.15, "{}", a.input_scale * 127.0);
        assert!(b.importance > 10.0 * a.importance);
    }

    #[test]
    fn no_column_of_an_output_is_left_out_of_its_scale() {
        let (tokens, width) = (2048, 64);
        let y: Vec<f32> = gaussian(tokens * 2 * width);
        let quiet = plain_output_scales(&y, &[width, width]);
        for loud in [0, 5, 63] {
            let mut y = y.clone();
            y.chunks_exact_mut(2 * width).for_each(|row| row[loud] *= 100.0);
            let scales = plain_output_scales(&y, &[width, width]);
            assert!(scales[0] > 20.0 * quiet[0] && scales[1] == quiet[1], "column {loud}: {scales:?}, {quiet:?}");
        }
    }

    #[test]
    fn quantiles_from_above() {
        let mut values: Vec<f32> = (0..1000).rev().map(|v| v as f32).collect();
        assert_eq!((quantile(&mut values, 0.0), quantile(&mut values, 0.1)), (999.0, 899.0));
        assert_eq!((quantile(&mut [], 0.5), quantile(&mut [3.0], 1.0)), (0.0, 3.0));
    }

    #[test]
    fn silent_inputs_get_a_usable_scale() {
        let c = calibrate_input(&vec![0.0; 64 * 10], 64, 1);
        assert!(c.input_scale > 0.0 && c.hot_channels.is_empty());
        assert!(output_scales(&[0.0; 30], &[1, 2]).iter().all(|s| *s > 0.0));
    }
}
