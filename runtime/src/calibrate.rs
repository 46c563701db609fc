//! Calibration: static scales, hot channels and importance of each linear, from a float forward pass over a text.
//!
//! The pass goes layer by layer with the float weights, before packing, so that only one layer's weights are in memory.
//! What is looked at per linear is its input `x` `[tokens, K]` and what the NPU will see of its output: the output less what
//! clipping takes from it, which [`coexec_cpu::shadow()`] computes from the few elements that are clipped. So calibration costs
//! little more than the pass itself. Each linear gets scales for every [`Treatment`], since what is best depends on who repairs
//! the clipping:
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

mod search;
pub(crate) mod statistics;

use crate::{
    RuntimeError,
    float_pass::{FloatTensor, WatchedLinear, WatchedRows},
};
use coexec_cpu::{CodeWidth, Ctx, Residuals};
use coexec_model::{
    Calibration, LayerIdx, LinearCalibration, Scales, Schedule, Treatment, WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
    memory,
};
use search::{energy, least, least_rounding, rounding_error, sample_rows, sketch};
use statistics::{Quantile, absmax, absmax_rows, column_energies, column_losses, map_parts, quantile_of_rows};
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

/// Calibrates one linear; see the module's text.
#[derive(Debug)]
pub(crate) struct LinearCalibrator {
    calibration: LinearCalibration,
    /// Widths of the output's parts.
    parts: Vec<usize>,
    plain: Scales,
    /// Scale of the inputs that are not hot.
    split_input: f32,
    largest_input: f32,
    outputs: Vec<OutputPart>,
    buffers: Buffers,
}

/// What is seen of one part of a linear's output.
#[derive(Debug)]
struct OutputPart {
    largest: f32,
    /// Of what the NPU sees with shadow.
    shadow: Quantile,
    /// Of what it sees without the hot channels.
    split: Quantile,
}

#[derive(Debug, Default)]
struct Buffers {
    codes: Vec<u8>,
    residuals: Residuals,
    /// What clipping takes from the outputs, with shadow and beside hot channels.
    taken: [Vec<f32>; 2],
}

impl LinearCalibrator {
    /// Looks at the input of a linear with these weights, whose output has parts of these widths. At most `most_hot` channels
    /// become hot.
    ///
    /// # Errors
    /// When the input is not finite, or products cannot be computed.
    pub(crate) fn new(
        l: &mut WatchedLinear<'_>,
        weights: &FloatTensor,
        parts: Vec<usize>,
        method: ScaleMethod,
        most_hot: usize,
    ) -> Result<Self, RuntimeError> {
        check_finite(l.input, l.layer, &format!("the input of {} on the calibration text", l.kind))?;
        let (ctx, k, tokens) = (l.ctx, weights.k, l.input.len() / weights.k.max(1));
        let calibration = calibrate_input(&ctx, l.input, k, most_hot);
        let usable = |scale: f32| if scale >= f32::MIN_POSITIVE { scale } else { calibration.input_scale };
        let largest = absmax_rows(&ctx, l.input, k);
        let mut sample = sample_rows(l.input, k);
        let (sketched, mut missing, mut y) = (sketch(weights)?, Vec::new(), Vec::new());
        let sketched = sketched.as_ref().unwrap_or(weights);
        let mut least_output = |sample: &[f32], scratch: &mut coexec_cpu::LinearScratch| {
            least(absmax(sample), &mut |scale| {
                rounding_error(sample, scale, &mut missing);
                sketched.multiply(&ctx, &missing, &mut y, scratch)?;
                Ok(energy(&y))
            })
        };
        let input = usable(match method {
            ScaleMethod::Max => largest / 127.0,
            ScaleMethod::Percentile { clipped } => quantile_of_rows(&ctx, l.input, k, &vec![false; k], clipped) / 127.0,
            ScaleMethod::Mse => least_rounding(&sample),
            ScaleMethod::Output => least_output(&sample, l.scratch)?,
        });
        // Without hot channels the search for the others is this one.
        let split_input = if method == ScaleMethod::Output && calibration.hot_channels.is_empty() {
            input
        } else {
            let mut rest = sample.clone();
            for row in rest.chunks_exact_mut(k.max(1)) {
                calibration.hot_channels.iter().for_each(|c| row[*c as usize] = 0.0);
            }
            usable(least_output(&rest, l.scratch)?)
        };
        clip(&mut sample, input);
        let mut y = Vec::new();
        weights.multiply(&ctx, &sample, &mut y, l.scratch)?;
        let plain = Scales { input, outputs: plain_output_scales(&ctx, &y, &parts) };
        let part = |width: &usize| {
            let saturated = Quantile::new(tokens * width, SATURATED_SHARE);
            OutputPart { largest: 0.0, shadow: saturated.clone(), split: saturated }
        };
        let (outputs, buffers) = (parts.iter().map(part).collect(), Buffers::default());
        Ok(Self { calibration, parts, plain, split_input, largest_input: largest, outputs, buffers })
    }

    /// The hot channels, ascending.
    pub(crate) fn hot_channels(&self) -> &[u32] {
        &self.calibration.hot_channels
    }

    /// Takes some rows of the output.
    ///
    /// # Errors
    /// When the buffers do not fit each other.
    pub(crate) fn rows(&mut self, l: &WatchedRows<'_>) -> Result<(), RuntimeError> {
        let (k, n) = (l.weights.k, l.weights.n);
        let Buffers { codes, residuals, taken } = &mut self.buffers;
        memory::resize(codes, l.input.len(), 0, "codes of the calibration text")?;
        for (taken, (scale, hot)) in taken
            .iter_mut()
            .zip([(self.calibration.input_scale, &[][..]), (self.split_input, &self.calibration.hot_channels[..])])
        {
            coexec_cpu::quantize(&l.ctx, l.input, k, scale, CodeWidth::U8, codes, residuals)?;
            if !hot.is_empty() {
                residuals.take_channels(l.input, k, hot, codes)?;
            }
            memory::resize(taken, l.output.len(), 0.0, "outputs of the calibration text")?;
            coexec_cpu::shadow(&l.ctx, residuals, l.weights, n, taken)?;
        }
        let mut first = 0;
        let mut jobs = Vec::with_capacity(self.parts.len());
        for (width, part) in self.parts.iter().zip(&mut self.outputs) {
            jobs.push(parking_lot::Mutex::new((first..first + width, part)));
            first += width;
        }
        map_parts(&l.ctx, jobs.len(), &|i| {
            let (columns, part) = &mut *jobs[i].lock();
            let mut seen = vec![0.0f32; columns.len()];
            for first in (0..l.output.len()).step_by(n) {
                let at = first + columns.start..first + columns.end;
                let y = &l.output[at.clone()];
                part.largest = part.largest.max(absmax(y));
                for (taken, quantile) in taken.iter().zip([&mut part.shadow, &mut part.split]) {
                    for ((seen, y), taken) in seen.iter_mut().zip(y).zip(&taken[at.clone()]) {
                        *seen = y - taken;
                    }
                    quantile.add(&seen);
                }
            }
        });
        Ok(())
    }

    /// All scales, when all rows were seen.
    pub(crate) fn finish(self) -> LinearCalibration {
        let saturating = |mut quantile: Quantile| quantile.get().max(1e-6) / 127.0;
        let margin = |largest: f32| (largest * WIDE_MARGIN).max(1e-6) / 127.0;
        let (mut shadow, mut split, mut wide) = (Vec::new(), Vec::new(), Vec::new());
        for part in self.outputs {
            shadow.push(saturating(part.shadow));
            split.push(saturating(part.split));
            wide.push(margin(part.largest));
        }
        LinearCalibration {
            output_scales: shadow,
            plain: Some(self.plain),
            split: Some(Scales { input: self.split_input, outputs: split }),
            wide: Some(Scales { input: margin(self.largest_input), outputs: wide }),
            ..self.calibration
        }
    }
}

/// Scales of output parts (widths `parts`) whose saturation nobody repairs, of least squared error on rows `y`.
fn plain_output_scales(ctx: &Ctx<'_>, y: &[f32], parts: &[usize]) -> Vec<f32> {
    let n: usize = parts.iter().sum();
    map_parts(ctx, parts.len(), &|part| {
        let (first, width) = (parts[..part].iter().sum::<usize>(), parts[part]);
        let values: Vec<f32> = y.chunks_exact(n).flat_map(|row| &row[first..first + width]).copied().collect();
        least_rounding(&values).max(1e-6 / 127.0)
    })
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
pub fn calibrate_input(ctx: &Ctx<'_>, x: &[f32], k: usize, most_hot: usize) -> LinearCalibration {
    let tokens = x.len() / k.max(1);
    let energies = column_energies(ctx, x, k);
    let rms: Vec<f32> = energies.iter().map(|e| (e / tokens.max(1) as f64).sqrt() as f32).collect();
    let median = quantile(&mut rms.clone(), 0.5);
    let mut standing_out: Vec<usize> = (0..k).filter(|c| rms[*c] > STANDS_OUT * median).collect();
    standing_out.sort_by(|a, b| rms[*b].total_cmp(&rms[*a]));
    let mut left_out = vec![false; k];
    let most = ((k as f64 * STANDING_OUT_SHARE) as usize).max(1);
    standing_out.iter().take(most).for_each(|c| left_out[*c] = true);

    // What no code has a normal scale for is as good as silence.
    let usable = |threshold: &f32| *threshold >= 127.0 * f32::MIN_POSITIVE;
    let quantile = |share| Some(quantile_of_rows(ctx, x, k, &left_out, share)).filter(usable);
    let threshold = quantile(CLIPPED_SHARE).or_else(|| quantile(0.0)).unwrap_or(1e-6);
    let scale = threshold / 127.0;
    let (clips, lost) = column_losses(ctx, x, k, threshold);
    let total = energies.iter().sum::<f64>().max(f64::MIN_POSITIVE);
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
fn clip(x: &mut [f32], scale: f32) {
    let limit = 127.0 * scale;
    x.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
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
    use coexec_cpu::{LinearScratch, Pool};
    use coexec_model::LinearKind;
    use coexec_scheduler::CancelToken;

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
        let pool = Pool::new(2);
        let (ctx, k, tokens) = (Ctx::new(&pool), 128, 500);
        let plain = gaussian(k * tokens);
        let mut outliers = plain.clone();
        for row in outliers.chunks_exact_mut(k) {
            row[5] *= 32.0;
            row[90] *= 32.0;
        }
        let (a, b) = (calibrate_input(&ctx, &plain, k, 2), calibrate_input(&ctx, &outliers, k, 2));
        assert!(b.hot_channels.contains(&5) && b.hot_channels.contains(&90), "{:?}", b.hot_channels);
        assert!((b.input_scale / a.input_scale - 1.0).abs() < 0.05, "{} {}", a.input_scale, b.input_scale);
        // Three sigma clip 0.27 % of a Gaussian.
        assert!((a.input_scale * 127.0 - 3.0).abs() < 0.15, "{}", a.input_scale * 127.0);
        assert!(b.importance > 10.0 * a.importance);
    }

    #[test]
    fn no_column_of_an_output_is_left_out_of_its_scale() {
        let pool = Pool::new(2);
        let (ctx, tokens, width) = (Ctx::new(&pool), 256, 64);
        let y: Vec<f32> = gaussian(tokens * 2 * width);
        let quiet = plain_output_scales(&ctx, &y, &[width, width]);
        for loud in [0, 5, 63] {
            let mut y = y.clone();
            y.chunks_exact_mut(2 * width).for_each(|row| row[loud] *= 100.0);
            let scales = plain_output_scales(&ctx, &y, &[width, width]);
            assert!(scales[0] > 20.0 * quiet[0] && scales[1] == quiet[1], "column {loud}: {scales:?}, {quiet:?}");
        }
    }

    #[test]
    fn quantiles_from_above() {
        let mut values: Vec<f32> = (0..1000).rev().map(|v| v as f32).collect();
        assert_eq!((quantile(&mut values, 0.0), quantile(&mut values, 0.1)), (999.0, 899.0));
        assert_eq!((quantile(&mut [], 0.5), quantile(&mut [3.0], 1.0)), (0.0, 3.0));
    }

    /// Calibrates a linear of `[n, k]` whose output has two parts, in windows of 100 rows.
    fn calibrated(ctx: &Ctx<'_>, x: &[f32], rows: &[f32], k: usize, hot: usize) -> LinearCalibration {
        let weights = FloatTensor::from_rows(rows, k).unwrap();
        let (mut scratch, cancel) = (LinearScratch::new(), CancelToken::new());
        let (layer, kind, parts) = (LayerIdx(0), LinearKind::GateUp, vec![weights.n / 4, weights.n - weights.n / 4]);
        let mut l = WatchedLinear { ctx: *ctx, layer, kind, input: x, scratch: &mut scratch, cancel: &cancel };
        let mut linear = LinearCalibrator::new(&mut l, &weights, parts, ScaleMethod::Output, hot).expect("products");
        let mut y = Vec::new();
        for input in x.chunks(100 * k) {
            weights.multiply(ctx, input, &mut y, &mut scratch).expect("whole rows");
            let (output, scratch, weights) = (&mut y[..], &mut scratch, &weights);
            linear.rows(&WatchedRows { ctx: *ctx, layer, kind, input, output, weights, scratch }).expect("fits");
        }
        linear.finish()
    }

    #[test]
    fn output_scales_are_those_of_what_the_npu_sees() {
        let pool = Pool::new(2);
        let (ctx, k, n, tokens) = (Ctx::new(&pool), 70, 100, 730);
        let (mut x, rows) = (gaussian(k * tokens), gaussian(n * k + 9)[9..].to_vec());
        x.iter_mut().step_by(997).for_each(|v| *v *= 20.0);
        x.chunks_exact_mut(k).for_each(|row| row[13] *= 40.0);
        let c = calibrated(&ctx, &x, &rows, k, 1);
        assert_eq!(c.hot_channels, [13]);
        let (split, wide) = (c.split.as_ref().expect("made"), c.wide.as_ref().expect("made"));
        // The same by a product of all that the NPU sees.
        let scales = |input: f32, hot: Option<usize>| -> Vec<f32> {
            let clipped = |(i, v): (usize, &f32)| match hot {
                Some(c) if i % k == c => 0.0,
                _ => v.clamp(-128.0 * input, 127.0 * input),
            };
            let seen: Vec<f32> = x.iter().enumerate().map(clipped).collect();
            let mut y = Vec::new();
            let scratch = &mut LinearScratch::new();
            FloatTensor::from_rows(&rows, k).unwrap().multiply(&ctx, &seen, &mut y, scratch).expect("whole rows");
            let part = |cols: std::ops::Range<usize>| {
                quantile(
                    &mut y.chunks_exact(n).flat_map(|row| &row[cols.clone()]).map(|v| v.abs()).collect::<Vec<_>>(),
                    SATURATED_SHARE,
                ) / 127.0
            };
            vec![part(0..n / 4), part(n / 4..n)]
        };
        let near =
            |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a / b - 1.0).abs() < 1e-4);
        assert!(near(&c.output_scales, &scales(c.input_scale, None)), "{:?}", c.output_scales);
        assert!(near(&split.outputs, &scales(split.input, Some(13))), "{split:?}");
        assert!((wide.input / (absmax(&x) * WIDE_MARGIN / 127.0) - 1.0).abs() < 1e-6);
        assert!(wide.outputs.iter().zip(&c.output_scales).all(|(wide, shadow)| wide > shadow));
        // On any number of threads.
        assert_eq!(calibrated(&Ctx { lanes: 1, ..ctx }, &x, &rows, k, 1), c);
    }

    #[test]
    fn silent_inputs_get_a_usable_scale() {
        let pool = Pool::new(1);
        let c = calibrated(&Ctx::new(&pool), &[0.0; 64 * 10], &gaussian(64 * 8), 64, 1);
        assert!(c.input_scale > 0.0 && c.hot_channels.is_empty());
        let all = [c.plain, c.split, c.wide].map(|scales| scales.expect("made"));
        assert!(all.iter().all(|s| s.input > 0.0 && s.outputs.iter().all(|s| *s > 0.0)), "{all:?}");
        assert!(c.output_scales.iter().all(|s| *s > 0.0));
    }
}
