//! Quantisers over whole linears: what import runs beside the float pass.
//!
//! Error feedback needs `XᵀX` of each linear's input. It is made for one linear at a time; what is kept until the layer is
//! written are the codes. A linear of `K` inputs takes `16·K²` bytes while its factor is made: 480 MB for 5504.

use crate::{
    RuntimeError,
    calibrate::statistics::mean_squares,
    float_pass::{FloatPass, FloatTensor, WatchedLinear, Watcher},
};
use coexec_cpu::{Ctx, LinearScratch};
use coexec_model::{
    TensorName, WeightFormat, memory,
    quant::{Feedback, QuantRow, Quantizer},
    source::ModelSource,
};
use coexec_scheduler::CancelToken;
use std::{collections::BTreeMap, sync::OnceLock};

/// What is added to the diagonal of `XᵀX`, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Linears with more inputs are not given error feedback: the factor would take gigabytes.
const MAX_FEEDBACK_INPUTS: usize = 16 * 1024;
/// Rows of `XᵀX` that are made together.
const MOMENT_ROWS: usize = 256;
/// Rows that are quantised together: the factor is read once for all of them.
const ROWS: usize = 32;

/// How the rows of one linear are quantised.
#[derive(Debug)]
pub enum Plan {
    /// Each row by itself; inputs weigh as much as their mean square, where it is known.
    Rows(Quantizer, Option<Vec<f32>>),
    /// With error feedback.
    Feedback(Feedback),
}

impl Plan {
    /// The plan for a linear whose input on the calibration text is `x` `[tokens, k]`.
    ///
    /// # Errors
    /// When `x` is not whole rows, or `cancel` says so.
    pub fn for_input(
        ctx: &Ctx<'_>,
        quantizer: Quantizer,
        x: &[f32],
        k: usize,
        scratch: &mut LinearScratch,
        cancel: &CancelToken,
    ) -> Result<Self, RuntimeError> {
        if quantizer == Quantizer::Gptq && (1..=MAX_FEEDBACK_INPUTS).contains(&k) {
            // What is made after cancelling is thrown away.
            let each_row = |data: &mut [f64], width: usize, f: &(dyn Fn(usize, &mut [f64]) + Sync)| {
                coexec_cpu::for_each_row(ctx, data, width, &|i, row| {
                    if !cancel.is_cancelled() {
                        f(i, row);
                    }
                });
            };
            let h = second_moments(ctx, x, k, scratch, cancel)?;
            let feedback = Feedback::new(&h, k, DAMPING, &each_row);
            check_cancelled(cancel)?;
            if let Some(feedback) = feedback {
                return Ok(Self::Feedback(feedback));
            }
            tracing::warn!(inputs = k, "no factor for error feedback: scales of the least squared error instead");
        }
        Ok(Self::Rows(quantizer, (quantizer != Quantizer::Absmax).then(|| mean_squares(ctx, x, k))))
    }

    /// The plan for the head, after the pass's last layer.
    ///
    /// # Errors
    /// When the final norm cannot be read, or `cancel` says so.
    pub fn for_head(pass: &FloatPass<'_>, quantizer: Quantizer, cancel: &CancelToken) -> Result<Self, RuntimeError> {
        if quantizer == Quantizer::Absmax {
            return Ok(Self::Rows(quantizer, None));
        }
        let x = pass.head_input()?;
        let k = x.len() / pass.tokens().max(1);
        Self::for_input(&pass.ctx(), quantizer, &x, k, &mut LinearScratch::default(), cancel)
    }

    /// Quantises `rows` `[n, k]` on all threads and writes what the codes stand for over them; nothing for formats of floats.
    ///
    /// # Errors
    /// When `cancel` says so.
    pub fn quantize(
        &self,
        ctx: &Ctx<'_>,
        format: WeightFormat,
        rows: &mut [f32],
        k: usize,
        cancel: &CancelToken,
    ) -> Result<Vec<QuantRow>, RuntimeError> {
        if !format.is_integer() || k == 0 {
            return Ok(Vec::new());
        }
        // Whole blocks of rows and a last one that may be shorter: `f` sees either.
        let blocks = (rows.len() / k).div_ceil(ROWS);
        let done: Vec<OnceLock<Vec<QuantRow>>> = (0..blocks).map(|_| OnceLock::new()).collect();
        let block = |i: usize, rows: &mut [f32]| {
            if cancel.is_cancelled() {
                return;
            }
            let quantized = match self {
                Self::Feedback(feedback) => feedback.quantize(format, rows),
                Self::Rows(quantizer, importance) => rows
                    .chunks_exact_mut(k)
                    .filter_map(|row| {
                        let quantized = QuantRow::new(format, *quantizer, row, importance.as_deref())?;
                        quantized.dequantize(row);
                        Some(quantized)
                    })
                    .collect(),
            };
            let _ = done[i].set(quantized);
        };
        let whole = rows.len() / (ROWS * k) * (ROWS * k);
        let (body, tail) = rows.split_at_mut(whole);
        coexec_cpu::for_each_row(ctx, body, ROWS * k, &block);
        if !tail.is_empty() {
            block(blocks - 1, tail);
        }
        check_cancelled(cancel)?;
        Ok(done.into_iter().flat_map(|rows| rows.into_inner().unwrap_or_default()).collect())
    }
}

fn check_cancelled(cancel: &CancelToken) -> Result<(), RuntimeError> {
    if cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { Ok(()) }
}

/// Refuses weights that `format` has no scale for, which would become zeros.
pub(crate) fn check_range(rows: &[f32], format: WeightFormat, tensor: TensorName) -> Result<(), RuntimeError> {
    let limit = format.largest();
    match rows.iter().find(|v| v.abs() > limit) {
        Some(&value) => Err(RuntimeError::TooLarge { tensor, value, format }),
        None => Ok(()),
    }
}

/// `XᵀX / tokens` of `x` `[tokens, k]`, `[k, k]`.
fn second_moments(
    ctx: &Ctx<'_>,
    x: &[f32],
    k: usize,
    scratch: &mut LinearScratch,
    cancel: &CancelToken,
) -> Result<Vec<f32>, RuntimeError> {
    let tokens = x.len() / k;
    let norm = 1.0 / (tokens.max(1) as f32).sqrt();
    let mut columns = memory::filled(k * tokens, 0.0f32, "second moments")?;
    for (t, row) in x.chunks_exact(k).enumerate() {
        row.iter().enumerate().for_each(|(i, v)| columns[i * tokens + t] = v * norm);
    }
    let weights = FloatTensor::from_rows(&columns, tokens)?;
    let (mut h, mut block) = (Vec::new(), Vec::new());
    memory::reserve(&mut h, k * k, "second moments")?;
    for rows in columns.chunks(MOMENT_ROWS * tokens.max(1)) {
        check_cancelled(cancel)?;
        weights.multiply(ctx, rows, &mut block, scratch)?;
        h.extend_from_slice(&block);
    }
    Ok(h)
}

/// Quantises each linear that a float pass runs; later linears see what the codes give.
pub struct Quantize<'a> {
    source: &'a dyn ModelSource,
    format: WeightFormat,
    quantizer: Quantizer,
    /// The layer's linears, until they are written.
    done: BTreeMap<TensorName, Vec<QuantRow>>,
}

impl std::fmt::Debug for Quantize<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quantize({}, {}, {} linears done)", self.format, self.quantizer, self.done.len())
    }
}

impl<'a> Quantize<'a> {
    /// For linears of `format`. Those that `source` holds as `q4s` already are left as they are.
    #[must_use]
    pub fn new(source: &'a dyn ModelSource, format: WeightFormat, quantizer: Quantizer) -> Self {
        Self { source, format, quantizer, done: BTreeMap::new() }
    }

    /// The codes of a linear that was seen; each is given out once.
    pub fn take(&mut self, name: TensorName) -> Option<Vec<QuantRow>> {
        self.done.remove(&name)
    }
}

impl Watcher for Quantize<'_> {
    fn before(&mut self, l: &mut WatchedLinear<'_>, mut weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        if !self.format.is_integer() || self.quantizer == Quantizer::Absmax {
            return Ok(weights);
        }
        let (name, k) = (TensorName::Layer(l.layer, l.kind.tensor()), weights.k);
        if self.format == WeightFormat::Q4s && self.source.read_q4_0_rows(name, 0..1, &mut Vec::new())? {
            return Ok(weights);
        }
        let plan = Plan::for_input(&l.ctx, self.quantizer, l.input, k, l.scratch, l.cancel)?;
        let mut quantized = Vec::with_capacity(weights.n);
        weights.change_rows(&mut |rows| {
            check_range(rows, self.format, name)?;
            quantized.extend(plan.quantize(&l.ctx, self.format, rows, k, l.cancel)?);
            Ok(())
        })?;
        self.done.insert(name, quantized);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coexec_cpu::{Kernels, Pool};

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 11u64;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn weights_without_a_scale_are_refused() {
        let name = TensorName::Embed;
        let error = check_range(&[0.0, -6e5], WeightFormat::Q4s, name).unwrap_err().to_string();
        assert!(error.contains("-600000") && error.contains("q4s") && error.contains("`embed`"), "{error}");
        assert!(check_range(&[0.0, -5e5], WeightFormat::Q4s, name).is_ok());
        assert!(check_range(&[f32::MAX], WeightFormat::Q8, name).is_ok());
    }

    #[test]
    fn error_feedback_wins_and_threads_do_not_matter() {
        let (tokens, k, n) = (300, 96, 75);
        let x: Vec<f32> = {
            let noise = noise(tokens * k);
            (0..tokens * k).map(|i| noise[i] * 0.2 + noise[i / k * k] * if i % 3 == 0 { 2.0 } else { -0.5 }).collect()
        };
        let weights: Vec<f32> = noise(n * k + 7)[7..].to_vec();
        for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
            let run = |threads: usize, quantizer: Quantizer| {
                let pool = Pool::new(threads);
                let ctx = Ctx { kernels: Kernels::detect(), pool: &pool, lanes: threads };
                let mut scratch = LinearScratch::default();
                let cancel = CancelToken::new();
                let plan = Plan::for_input(&ctx, quantizer, &x, k, &mut scratch, &cancel).unwrap();
                let mut rows = weights.clone();
                let codes = plan.quantize(&ctx, format, &mut rows, k, &cancel).unwrap();
                assert_eq!(codes.len(), n);
                let mut back = vec![0.0; k];
                for (code, row) in codes.iter().zip(rows.chunks_exact(k)) {
                    code.dequantize(&mut back);
                    assert_eq!(back, row);
                }
                let difference: Vec<f32> = weights.iter().zip(&rows).map(|(a, b)| a - b).collect();
                let mut y = Vec::new();
                FloatTensor::from_rows(&difference, k).unwrap().multiply(&ctx, &x, &mut y, &mut scratch).unwrap();
                (y.iter().map(|v| f64::from(v * v)).sum::<f64>(), codes)
            };
            let errors = Quantizer::ALL.map(|quantizer| run(2, quantizer).0);
            // (Weights by squared inputs alone may lose to absmax where inputs are as correlated as these.)
            assert!(errors[2] < 0.6 * errors[0].min(errors[1]), "{format}: {errors:?}");
            assert_eq!(run(1, Quantizer::Gptq).1, run(3, Quantizer::Gptq).1, "{format}");
        }
    }
}
