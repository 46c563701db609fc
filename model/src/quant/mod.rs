//! Quantisers: from float rows to codes and scales.
//!
//! Rounding is to nearest, ties to even, everywhere. Rows that hold no finite maximum (NaN, infinity) are the importer's
//! business to refuse; here they give zero codes rather than a panic.

mod gptq;
mod mse;
#[cfg(test)]
mod tests;

pub use gptq::{EachRow, Feedback};
pub use mse::{q4_row_mse, q4s_group_mse, q8_row_mse};

use crate::{WeightFormat, layout::GROUP};
use half::f16;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How codes and scales are chosen for float weights; the bits are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantizer {
    /// Scales from the largest magnitude.
    Absmax,
    /// Scales of the least squared error, each input weighted with its mean square on the calibration text, if there is one.
    #[default]
    Mse,
    /// Errors of one input are made up for by the inputs after it (GPTQ), by the correlations of the calibration text's
    /// inputs; without a text as [`Self::Mse`].
    Gptq,
}

impl Quantizer {
    /// Every quantiser.
    pub const ALL: [Self; 3] = [Self::Absmax, Self::Mse, Self::Gptq];

    /// The name used on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absmax => "absmax",
            Self::Mse => "mse",
            Self::Gptq => "gptq",
        }
    }
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A string that names no quantiser.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown quantizer `{0}`: use absmax, mse or gptq")]
pub struct UnknownQuantizer(pub String);

impl FromStr for Quantizer {
    type Err = UnknownQuantizer;

    fn from_str(s: &str) -> Result<Self, UnknownQuantizer> {
        Self::ALL.into_iter().find(|q| q.name() == s).ok_or_else(|| UnknownQuantizer(s.to_owned()))
    }
}

/// A row of codes and scales.
#[derive(Clone, Debug, PartialEq)]
pub enum QuantRow {
    /// Per-channel INT8.
    Q8(Q8Row),
    /// QNN's block expansion.
    Q4(Q4Row),
    /// Groups in `Q4_0` semantics.
    Q4s(Vec<Q4sGroup>),
}

impl QuantRow {
    /// Quantises `row` by itself; `None` for formats of floats. `importance` holds a weight ≥ 0 per input, and only counts
    /// for [`Quantizer::Mse`] (and [`Quantizer::Gptq`], which is the same for a row alone).
    #[must_use]
    pub fn new(format: WeightFormat, quantizer: Quantizer, row: &[f32], importance: Option<&[f32]>) -> Option<Self> {
        let absmax = quantizer == Quantizer::Absmax;
        Some(match format {
            WeightFormat::F32 | WeightFormat::F16 => return None,
            WeightFormat::Q8 => Self::Q8(if absmax { q8_row(row) } else { q8_row_mse(row, importance) }),
            WeightFormat::Q4 => Self::Q4(if absmax { q4_row(row) } else { q4_row_mse(row, importance) }),
            WeightFormat::Q4s => Self::Q4s(
                row.chunks(GROUP)
                    .enumerate()
                    .map(|(g, group)| match absmax {
                        true => q4s_group(group),
                        false => q4s_group_mse(group, importance.map(|h| &h[g * GROUP..][..group.len()])),
                    })
                    .collect(),
            ),
        })
    }

    /// The format that holds it.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        match self {
            Self::Q8(_) => WeightFormat::Q8,
            Self::Q4(_) => WeightFormat::Q4,
            Self::Q4s(_) => WeightFormat::Q4s,
        }
    }

    /// Whether it is a row of `k` inputs with finite scales and codes in range.
    #[must_use]
    pub fn fits(&self, k: usize) -> bool {
        match self {
            Self::Q8(row) => row.scale.is_finite() && row.codes.len() == k && !row.codes.contains(&i8::MIN),
            Self::Q4(row) => {
                row.scale.is_finite()
                    && row.codes.len() == k
                    && row.codes.iter().all(|c| (-8..8).contains(c))
                    && row.group_scales.len() == k.div_ceil(GROUP)
                    && row.group_scales.iter().all(|g| (1..16).contains(g))
            }
            Self::Q4s(groups) => {
                groups.len() == k.div_ceil(GROUP)
                    && groups.iter().enumerate().all(|(g, group)| {
                        group.codes.len() == GROUP.min(k - g * GROUP)
                            && group.codes.iter().all(|c| (-8..8).contains(c))
                            && group.scale.is_finite()
                    })
            }
        }
    }

    /// The weights that it stands for, `[K]`, into `out`.
    pub fn dequantize(&self, out: &mut [f32]) {
        match self {
            Self::Q8(row) => out.iter_mut().zip(&row.codes).for_each(|(v, c)| *v = row.scale * f32::from(*c)),
            Self::Q4(row) => {
                for ((out, codes), g) in out.chunks_mut(GROUP).zip(row.codes.chunks(GROUP)).zip(&row.group_scales) {
                    let scale = row.scale * f32::from(*g);
                    out.iter_mut().zip(codes).for_each(|(v, c)| *v = scale * f32::from(*c));
                }
            }
            Self::Q4s(groups) => {
                for (out, group) in out.chunks_mut(GROUP).zip(groups) {
                    let scale = group.scale.to_f32();
                    out.iter_mut().zip(&group.codes).for_each(|(v, c)| *v = scale * f32::from(*c));
                }
            }
        }
    }
}

/// A row in per-channel INT8.
#[derive(Clone, Debug, PartialEq)]
pub struct Q8Row {
    /// Weight of code 1.
    pub scale: f32,
    /// Codes −127…127, `[K]`.
    pub codes: Vec<i8>,
}

/// Absmax INT8 quantisation of a row.
#[must_use]
pub fn q8_row(row: &[f32]) -> Q8Row {
    let max = absmax(row);
    let scale = max / 127.0;
    if !(scale.is_finite() && scale >= f32::MIN_POSITIVE) {
        return Q8Row { scale: 0.0, codes: vec![0; row.len()] };
    }
    Q8Row { scale, codes: row.iter().map(|v| code(v / scale, -127.0, 127.0)).collect() }
}

/// A group in GGUF's `Q4_0` semantics.
#[derive(Clone, Debug, PartialEq)]
pub struct Q4sGroup {
    /// Weight of code 1; may be negative.
    pub scale: f16,
    /// Codes −8…7, at most [`GROUP`].
    pub codes: Vec<i8>,
}

/// Quantises a group of at most 32 weights: the signed extreme becomes code −8, as `Q4_0` does.
#[must_use]
pub fn q4s_group(group: &[f32]) -> Q4sGroup {
    let extreme = group.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    let scale = f16::from_f32(extreme / -8.0);
    let s = scale.to_f32();
    if !s.is_finite() || s == 0.0 {
        return Q4sGroup { scale: f16::ZERO, codes: vec![0; group.len()] };
    }
    Q4sGroup { scale, codes: group.iter().map(|v| code(v / s, -8.0, 7.0)).collect() }
}

/// A row in QNN's block expansion (LPBQ): weight = `scale · group_scale · code`.
#[derive(Clone, Debug, PartialEq)]
pub struct Q4Row {
    /// Channel scale.
    pub scale: f32,
    /// Group scales 1…15, `[ceil(K / 32)]`.
    pub group_scales: Vec<u8>,
    /// Codes −8…7, `[K]`.
    pub codes: Vec<i8>,
}

/// Quantises a row to `q4`: the channel scale lets the widest group use group scale 15, then every group takes the group
/// scale of the least squared error.
#[must_use]
pub fn q4_row(row: &[f32]) -> Q4Row {
    let max = absmax(row);
    let scale = max / (7.5 * 15.0);
    let groups = row.len().div_ceil(GROUP);
    if !(scale.is_finite() && scale >= f32::MIN_POSITIVE) {
        return Q4Row { scale: 0.0, group_scales: vec![1; groups], codes: vec![0; row.len()] };
    }
    let mut group_scales = Vec::with_capacity(groups);
    let mut codes = Vec::with_capacity(row.len());
    for group in row.chunks(GROUP) {
        let wish = absmax(group) / scale / 7.5;
        // Scales below 60 % of absmax clip too much to win; above absmax they only coarsen.
        let (low, high) = ((wish * 0.6).floor().clamp(1.0, 15.0) as u8, wish.ceil().clamp(1.0, 15.0) as u8);
        let error = |g: u8| {
            let s = scale * f32::from(g);
            // Squares first, their sum afterwards: the first loop is SIMD, and the order of the sum stays fixed.
            let mut squares = [0.0f32; GROUP];
            for (square, v) in squares.iter_mut().zip(group) {
                let e = v - s * nearest(v / s, -8.0, 7.0);
                *square = e * e;
            }
            squares.iter().sum::<f32>()
        };
        let best = (low..=high).min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(high);
        let s = scale * f32::from(best);
        group_scales.push(best);
        codes.extend(group.iter().map(|v| code(v / s, -8.0, 7.0)));
    }
    Q4Row { scale, group_scales, codes }
}

fn absmax(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |m, v| m.max(v.abs()))
}

/// The nearest integer of `low … high`, ties to even. Adding 1.5·2²³ leaves no fraction bits: the same as
/// `round_ties_even`, without a function call per value where the CPU has no instruction for it. (`clamp` would check its
/// bounds per value, which keeps compilers from SIMD.)
#[inline(always)]
fn nearest(v: f32, low: f32, high: f32) -> f32 {
    let v = if v < low { low } else { v };
    let v = if v > high { high } else { v };
    (v + 12_582_912.0) - 12_582_912.0
}

fn code(v: f32, low: f32, high: f32) -> i8 {
    nearest(v, low, high) as i8
}
