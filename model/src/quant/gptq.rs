//! Error feedback (GPTQ): the error of one input's weight is made up for by the inputs after it.
//!
//! With inputs `X` of the linear, a row of weights `w` and `H = XᵀX + λI`, the output's squared error is `δᵀHδ` for
//! `δ = w − ŵ`. Let `H = R·Rᵀ` with `R` upper triangular; then `δᵀHδ = Σ_i (Σ_{j ≤ i} R_ji δ_j)²`. Input `i`'s term
//! vanishes for the weight `w_i + Σ_{j < i} (R_ji / R_ii) δ_j`, which depends on earlier inputs only: rounding it leaves
//! `R_ii²` times its own rounding error squared. So inputs are rounded in their natural order, a group of 32 at a time; a
//! group's scale is chosen when its turn comes, among a few, by the error that the whole group then has. `H` is never
//! inverted. The result is the one of GPTQ's published form, where `R` appears as the inverse of `H⁻¹`'s factor.

use super::{
    GROUP, Q4Row, Q4sGroup, Q8Row, QuantRow,
    mse::{q4_group_scale, q4s_scale},
    nearest, q4_row_mse, q4s_group, q8_row_mse,
};
use crate::WeightFormat;
use half::f16;

/// Calls a function with each row (its index, its elements) of a matrix with rows of a given width, in any order, perhaps
/// on several threads.
pub type EachRow<'a> = &'a dyn Fn(&mut [f64], usize, &(dyn Fn(usize, &mut [f64]) + Sync));

/// Columns that are factorised together.
const BLOCK: usize = 32;
/// Scales of `q4s` that are tried, relative to the one that suits the group without feedback.
const SCALE_RATIOS: [f32; 7] = [1.0, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15];

/// How errors of a linear's inputs make up for each other.
#[derive(Clone)]
pub struct Feedback {
    k: usize,
    /// `R_ji / R_ii` at `j·K + i`, for `j < i`.
    ratios: Vec<f32>,
    /// `R_ii²`.
    weights: Vec<f32>,
    /// `H_ii`.
    importance: Vec<f32>,
}

impl std::fmt::Debug for Feedback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feedback({} inputs)", self.k)
    }
}

impl Feedback {
    /// From `h = XᵀX`, `[K, K]`. `damping` times the mean of the diagonal is added to it. `None` when `h` is not `K × K`, not
    /// finite, or not positive definite even so. Takes `12·K²` bytes while it works and `4·K²` afterwards.
    #[must_use]
    pub fn new(h: &[f32], k: usize, damping: f64, each_row: EachRow<'_>) -> Option<Self> {
        if k == 0 || Some(h.len()) != k.checked_mul(k) {
            return None;
        }
        let mut r: Vec<f64> = h.iter().map(|v| f64::from(*v)).collect();
        let mean = (0..k).map(|i| r[i * k + i]).sum::<f64>() / k as f64;
        // Inputs that are silent altogether: any factor does.
        let lambda = if mean > 0.0 { damping * mean } else { 1.0 };
        (0..k).for_each(|i| r[i * k + i] += lambda);
        let importance = (0..k).map(|i| r[i * k + i] as f32).collect();
        factorise(&mut r, k, each_row)?;
        let diagonal: Vec<f64> = (0..k).map(|i| r[i * k + i]).collect();
        let ratios = r.chunks_exact(k).flat_map(|row| row.iter().zip(&diagonal).map(|(v, d)| (v / d) as f32)).collect();
        let weights: Vec<f32> = diagonal.iter().map(|d| (d * d) as f32).collect();
        weights.iter().all(|w| w.is_finite()).then_some(Self { k, ratios, weights, importance })
    }

    /// `R_ij / R_jj` and `R_jj²`.
    #[cfg(test)]
    pub(super) fn factor(&self, i: usize, j: usize) -> (f32, f32) {
        (self.ratios[i * self.k + j], self.weights[j])
    }

    /// Quantises `rows` `[m, K]`, writes what the codes stand for over them, and returns the codes; none for formats of
    /// floats. Rows do not depend on each other; some dozens at once are fastest.
    ///
    /// # Panics
    /// When `rows` is not whole rows.
    #[must_use]
    pub fn quantize(&self, format: WeightFormat, rows: &mut [f32]) -> Vec<QuantRow> {
        let k = self.k;
        assert!(rows.len().is_multiple_of(k), "{} weights are no whole rows of {k}", rows.len());
        let originals = rows.to_vec();
        let mut out: Vec<QuantRow> = match originals.chunks_exact(k).map(|row| self.begin(format, row)).collect() {
            Some(out) => out,
            None => return Vec::new(),
        };
        for first in (0..k).step_by(GROUP) {
            let last = k.min(first + GROUP);
            for ((row, original), out) in rows.chunks_exact_mut(k).zip(originals.chunks_exact(k)).zip(&mut out) {
                let (now, later) = row[first..].split_at_mut(last - first);
                let original = &original[first..last];
                let group = self.group(first, original, now, out);
                for (i, w) in now.iter_mut().enumerate() {
                    *w = group.weights[i];
                }
                self.carry(first, &group.errors[..last - first], later);
            }
        }
        out
    }

    /// The row without codes; channel scales are chosen here.
    fn begin(&self, format: WeightFormat, row: &[f32]) -> Option<QuantRow> {
        let h = Some(&*self.importance);
        Some(match format {
            WeightFormat::F32 | WeightFormat::F16 => return None,
            WeightFormat::Q8 => {
                QuantRow::Q8(Q8Row { scale: q8_row_mse(row, h).scale, codes: Vec::with_capacity(row.len()) })
            }
            WeightFormat::Q4 => {
                let scale = q4_row_mse(row, h).scale;
                QuantRow::Q4(Q4Row { scale, group_scales: Vec::new(), codes: Vec::with_capacity(row.len()) })
            }
            WeightFormat::Q4s => QuantRow::Q4s(Vec::with_capacity(row.len().div_ceil(GROUP))),
        })
    }

    /// Quantises the group at input `first`, whose weights `now` have taken up earlier errors, and adds it to `out`.
    fn group(&self, first: usize, original: &[f32], now: &[f32], out: &mut QuantRow) -> Rounded {
        let importance = &self.weights[first..first + now.len()];
        let round = |scale: f32, low: f32, high: f32| self.round(first, original, now, (scale, low, high));
        let least = |tries: &mut dyn Iterator<Item = f32>| {
            let mut best: Option<(f32, Rounded)> = None;
            for scale in tries {
                let rounded = round(scale, -8.0, 7.0);
                if best.as_ref().is_none_or(|(_, b)| rounded.error < b.error) {
                    best = Some((scale, rounded));
                }
            }
            best
        };
        match out {
            QuantRow::Q8(row) => {
                let rounded = round(row.scale, -127.0, 127.0);
                row.codes.extend_from_slice(&rounded.codes[..now.len()]);
                rounded
            }
            QuantRow::Q4(row) => {
                let start = if row.scale > 0.0 { q4_group_scale(now, importance, row.scale) } else { 1 };
                let tries = start.saturating_sub(2).max(1)..=(start + 2).min(15);
                let best = least(&mut tries.map(|s| row.scale * f32::from(s)));
                let (scale, rounded) = best.unwrap_or_else(|| (row.scale, round(row.scale, -8.0, 7.0)));
                // The scale is a whole multiple of the channel's, or both are zero.
                let multiple = if row.scale > 0.0 { (scale / row.scale).round() } else { 1.0 };
                row.group_scales.push(multiple as u8);
                row.codes.extend_from_slice(&rounded.codes[..now.len()]);
                rounded
            }
            QuantRow::Q4s(groups) => {
                let start = q4s_scale(now, Some(importance), q4s_group(now).scale).to_f32();
                let tries = SCALE_RATIOS.map(|ratio| f16::from_f32(start * ratio).to_f32());
                let best = least(&mut tries.into_iter().filter(|s| s.is_finite()));
                let (scale, rounded) = best.unwrap_or_else(|| (0.0, round(0.0, -8.0, 7.0)));
                groups.push(Q4sGroup { scale: f16::from_f32(scale), codes: rounded.codes[..now.len()].to_vec() });
                rounded
            }
        }
    }

    /// Rounds a group's weights one after the other, each taking up the errors of those before it.
    fn round(&self, first: usize, original: &[f32], now: &[f32], (scale, low, high): (f32, f32, f32)) -> Rounded {
        let mut out = Rounded { codes: [0; GROUP], weights: [0.0; GROUP], errors: [0.0; GROUP], error: 0.0 };
        let mut target = [0.0f32; GROUP];
        target[..now.len()].copy_from_slice(now);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for j in 0..now.len() {
            let q = nearest(target[j] * inverse, low, high);
            let weight = scale * q;
            let miss = target[j] - weight;
            out.error += self.weights[first + j] * miss * miss;
            let error = original[j] - weight;
            (out.codes[j], out.weights[j], out.errors[j]) = (q as i8, weight, error);
            let ratios = &self.ratios[(first + j) * self.k + first..][..now.len()];
            for (t, ratio) in target[..now.len()].iter_mut().zip(ratios).skip(j + 1) {
                *t += ratio * error;
            }
        }
        out
    }

    /// Adds the errors of the group at `first` to the weights after it.
    fn carry(&self, first: usize, errors: &[f32], later: &mut [f32]) {
        let after = first + errors.len();
        let width = later.len();
        let row = |j: usize| &self.ratios[(first + j) * self.k + after..][..width];
        let mut j = 0;
        while j + 4 <= errors.len() {
            let (a, b, c, d) = (row(j), row(j + 1), row(j + 2), row(j + 3));
            let e = [errors[j], errors[j + 1], errors[j + 2], errors[j + 3]];
            for ((((w, a), b), c), d) in later.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *w += (a * e[0] + b * e[1]) + (c * e[2] + d * e[3]);
            }
            j += 4;
        }
        for (j, e) in errors.iter().enumerate().skip(j) {
            let ratios = &self.ratios[(first + j) * self.k + after..];
            later.iter_mut().zip(ratios).for_each(|(w, ratio)| *w += ratio * e);
        }
    }
}

/// A group after rounding.
struct Rounded {
    codes: [i8; GROUP],
    /// What the codes stand for.
    weights: [f32; GROUP],
    /// Original minus rounded weight.
    errors: [f32; GROUP],
    /// `Σ R_ii² (target − rounded)²`.
    error: f32,
}

/// Overwrites the upper triangle of the symmetric `a` `[k, k]` with `R`, `a = R·Rᵀ`; `None` when it is not positive
/// definite.
fn factorise(a: &mut [f64], k: usize, each_row: EachRow<'_>) -> Option<()> {
    let mut last = k;
    while last > 0 {
        let first = last.saturating_sub(BLOCK);
        let (above, block) = a.split_at_mut(first * k);
        for i in (first..last).rev() {
            let (row, below) = block[(i - first) * k..].split_at_mut(k);
            for j in (i + 1..last).rev() {
                let other = &below[(j - i - 1) * k..][..k];
                row[j] = (row[j] - dot(&row[j + 1..], &other[j + 1..])) / other[j];
            }
            let rest = row[i] - dot(&row[i + 1..], &row[i + 1..]);
            if !(rest.is_finite() && rest > 0.0) {
                return None;
            }
            row[i] = rest.sqrt();
        }
        let block = &*block;
        each_row(above, k, &|_, row| {
            for j in (first..last).rev() {
                let other = &block[(j - first) * k..][..k];
                row[j] = (row[j] - dot(&row[j + 1..], &other[j + 1..])) / other[j];
            }
        });
        last = first;
    }
    Some(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}
