//! Quantisers: from float rows to codes and scales.
//!
//! Rounding is to nearest, ties to even, everywhere. Rows that hold no finite maximum (NaN, infinity) are the importer's
//! business to refuse; here they give zero codes rather than a panic.

use crate::layout::GROUP;
use half::f16;

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
/// `round_ties_even`, without a function call per value where the CPU has no instruction for it.
fn nearest(v: f32, low: f32, high: f32) -> f32 {
    (v.clamp(low, high) + 12_582_912.0) - 12_582_912.0
}

fn code(v: f32, low: f32, high: f32) -> i8 {
    nearest(v, low, high) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise_percent(row: &[f32], back: impl Fn(usize) -> f32) -> f64 {
        let power: f64 = row.iter().map(|v| f64::from(v * v)).sum();
        let noise: f64 = row.iter().enumerate().map(|(i, v)| f64::from((v - back(i)).powi(2))).sum();
        100.0 * noise / power
    }

    #[test]
    fn four_bit_noise_is_what_the_formats_promise() {
        // A Gaussian row (sum of 12 uniforms); published noise-to-signal: Q4_0 0.74 %, LPBQ groups of 32 0.78 %.
        let mut state = 12345u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f32 / (1u64 << 31) as f32
        };
        let row: Vec<f32> = (0..4096).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
        let q4 = q4_row(&row);
        let q4 = noise_percent(&row, |i| q4.scale * f32::from(q4.group_scales[i / 32]) * f32::from(q4.codes[i]));
        let groups: Vec<_> = row.chunks(32).map(q4s_group).collect();
        let q4s = noise_percent(&row, |i| groups[i / 32].scale.to_f32() * f32::from(groups[i / 32].codes[i % 32]));
        let q8 = q8_row(&row);
        let q8 = noise_percent(&row, |i| q8.scale * f32::from(q8.codes[i]));
        assert!((0.70..0.90).contains(&q4), "q4 {q4}");
        assert!((0.68..0.80).contains(&q4s), "q4s {q4s}");
        assert!(q8 < 0.01, "q8 {q8}");
    }

    #[test]
    fn nearest_is_round_ties_even() {
        for i in -600..600 {
            let v = i as f32 / 4.0;
            assert_eq!(nearest(v, -127.0, 127.0), v.round_ties_even().clamp(-127.0, 127.0), "{v}");
        }
    }

    #[test]
    fn degenerate_rows_give_zero() {
        for row in [vec![], vec![0.0; 33], vec![f32::NAN; 5], vec![f32::INFINITY, 1.0], vec![1e-42; 40]] {
            assert!(q8_row(&row).codes.iter().all(|c| *c == 0));
            assert!(q4_row(&row).codes.iter().all(|c| *c == 0));
            for group in row.chunks(32) {
                assert!(q4s_group(group).codes.iter().all(|c| *c == 0));
            }
        }
    }
}
