//! The scale of least error: a search over ranges, on a sample of rows and on a sketch of the weights.

use super::statistics::absmax;
use crate::{RuntimeError, float_pass::FloatTensor};
use coexec_model::{
    SplitMix64,
    memory::{self, OutOfMemory},
};

/// Rows on which scales are compared.
const SAMPLE_ROWS: usize = 256;
/// Ranges that are compared: the largest value times powers of [`RANGE_STEP`].
const RANGES: i32 = 40;
const RANGE_STEP: f32 = 0.92;
/// Every so many ranges are looked at first, then those around the best of them.
const COARSE: i32 = 4;
/// Sums that a sketch has.
const SKETCH_ROWS: usize = 64;

/// Rows spread evenly over the text, at most [`SAMPLE_ROWS`].
pub(super) fn sample_rows(x: &[f32], k: usize) -> Vec<f32> {
    let step = (x.len() / k.max(1)).div_ceil(SAMPLE_ROWS).max(1);
    x.chunks_exact(k.max(1)).step_by(step).flatten().copied().collect()
}

/// What the code of `scale` misses of `v`. Adding 1.5·2²³ leaves no fraction bits, ties to even: compilers make SIMD of it.
fn missed(v: f32, scale: f32) -> f32 {
    v - (((v / scale).clamp(-128.0, 127.0) + 12_582_912.0) - 12_582_912.0) * scale
}

/// What codes of `scale` miss of `x`.
pub(super) fn rounding_error(x: &[f32], scale: f32, out: &mut Vec<f32>) {
    out.clear();
    out.extend(x.iter().map(|v| missed(*v, scale)));
}

/// Sum of squares, in an order that SIMD can follow.
pub(super) fn energy(x: &[f32]) -> f64 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0f64; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane += f64::from(*v) * f64::from(*v));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()
}

/// The scale of least error among ranges up to `largest`. Errors fall, then rise: every fourth range is tried until it only gets
/// worse, then those beside the best.
pub(super) fn least(
    largest: f32,
    error: &mut dyn FnMut(f32) -> Result<f64, RuntimeError>,
) -> Result<f32, RuntimeError> {
    let scale = |i: i32| largest * RANGE_STEP.powi(i) / 127.0;
    let usable = |i: &i32| (0..RANGES).contains(i) && scale(*i) >= f32::MIN_POSITIVE;
    let mut best = (f64::INFINITY, 0);
    for i in (0..RANGES).step_by(COARSE as usize).take_while(usable) {
        let e = error(scale(i))?;
        if e < best.0 {
            best = (e, i);
        } else if e > 4.0 * best.0 {
            break;
        }
    }
    let coarse = best.1;
    for i in (coarse - COARSE + 1..coarse + COARSE).filter(|i| *i != coarse).filter(usable) {
        let e = error(scale(i))?;
        if e < best.0 {
            best = (e, i);
        }
    }
    Ok(scale(best.1))
}

/// The scale of least squared error of `values`.
pub(super) fn least_rounding(values: &[f32]) -> f32 {
    let (largest, mut missing) = (absmax(values), Vec::new());
    let error = &mut |scale| {
        rounding_error(values, scale, &mut missing);
        Ok(energy(&missing))
    };
    least(largest, error).unwrap_or(largest / 127.0)
}

/// A linear of few outputs with about the energy of `weights`' outputs: rows are added up with random signs, each in one of
/// [`SKETCH_ROWS`] sums (a count sketch), so that for any input the expected energy is that of all outputs. `None` where
/// `weights` has no more rows than that.
///
/// # Errors
/// [`OutOfMemory`].
pub(super) fn sketch(weights: &FloatTensor) -> Result<Option<FloatTensor>, OutOfMemory> {
    if weights.n <= SKETCH_ROWS {
        return Ok(None);
    }
    let (k, mut random) = (weights.k, SplitMix64::new(0));
    let mut sums = memory::filled(SKETCH_ROWS * k, 0.0f32, "a sketch of weights")?;
    weights.for_each_row(&mut |row| {
        let (at, sign) = (random.below(SKETCH_ROWS), if random.below(2) == 0 { 1.0f32 } else { -1.0 });
        let sum = &mut sums[at * k..(at + 1) * k];
        sum.iter_mut().zip(row).for_each(|(sum, w)| *sum += sign * w);
    });
    Ok(Some(FloatTensor::from_rows(&sums, k)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coexec_cpu::{Ctx, LinearScratch, Pool};

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        (0..n).map(|_| (0..6).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).sum()).collect()
    }

    #[test]
    fn a_sketch_finds_the_scale_that_the_whole_output_finds() {
        let (pool, k, n, tokens) = (Pool::new(2), 96, 500, 256);
        let (ctx, mut scratch) = (Ctx::new(&pool), LinearScratch::new());
        let mut rows = noise(n * k, 1);
        // A few rows that count more than all others, and inputs with outliers.
        rows[7 * k..9 * k].iter_mut().for_each(|w| *w *= 20.0);
        for outlier in [1.0f32, 10.0, 60.0] {
            let mut x = noise(tokens * k, 2);
            x.iter_mut().step_by(1013).for_each(|v| *v *= outlier);
            let weights = FloatTensor::from_rows(&rows, k).unwrap();
            let sketched = sketch(&weights).unwrap().expect("more rows than sums");
            let (mut missing, mut y) = (Vec::new(), Vec::new());
            let mut error = |w: &FloatTensor, scale: f32| {
                rounding_error(&x, scale, &mut missing);
                w.multiply(&ctx, &missing, &mut y, &mut scratch)?;
                Ok(energy(&y))
            };
            let found = least(absmax(&x), &mut |scale| error(&sketched, scale)).expect("products");
            let whole = least(absmax(&x), &mut |scale| error(&weights, scale)).expect("products");
            let (found, best) = (error(&weights, found).expect("one"), error(&weights, whole).expect("another"));
            assert!(found <= 1.05 * best, "outliers of {outlier}: {found} {best}");
        }
        assert!(sketch(&FloatTensor::from_rows(&rows[..SKETCH_ROWS * k], k).unwrap()).unwrap().is_none());
    }

    #[test]
    fn the_search_finds_what_all_ranges_would() {
        for outlier in [1.0f32, 5.0, 40.0] {
            let mut values = noise(4000, 5);
            values.iter_mut().step_by(401).for_each(|v| *v *= outlier);
            let error = |scale: f32| {
                let mut missing = Vec::new();
                rounding_error(&values, scale, &mut missing);
                energy(&missing)
            };
            let all = (0..RANGES).map(|i| error(absmax(&values) * RANGE_STEP.powi(i) / 127.0));
            let best = all.fold(f64::INFINITY, f64::min);
            assert!(error(least_rounding(&values)) <= 1.01 * best, "{outlier}");
        }
        assert_eq!(least_rounding(&[0.0; 40]), 0.0);
        assert!((energy(&[3.0; 35]) - 315.0).abs() < 1e-9);
    }
}
