//! Where a device gets static weights from while it prepares. The runtime implements [`WeightSource`] over the packed file.

use crate::{Dtype, Encoding};
use coexec_model::{TensorName, layout::GROUP};
use std::ops::Range;

/// INT4 weights with their scales, as block expansion takes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockRows {
    /// Codes −8…7, `[rows, K]`.
    pub codes: Vec<i8>,
    /// Integer group scales 0…16, `[rows, K / 32]`.
    pub group_scales: Vec<u8>,
    /// Channel scales, `[rows]`.
    pub scales: Vec<f32>,
}

/// Hands out static weights. Called from one thread at a time, in the order of the spec; vectors are reused between calls.
pub trait WeightSource: Sync {
    /// INT8 codes `[rows, K]` and channel scales `[rows]` of some rows of a tensor: both vectors are cleared, then filled.
    /// Weight = scale × code. `q8` gives its codes; `q4` may give `code × group_scale`, which is exact.
    ///
    /// # Errors
    /// When the tensor is not there, is shorter, is in a format that cannot be given as INT8, or cannot be read.
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError>;

    /// INT4 codes, group scales and channel scales of some rows of a `q4` tensor: cleared, then filled.
    ///
    /// # Errors
    /// As [`Self::int8_rows`]; a source without 4-bit weights keeps this default, which always errs.
    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        let _ = (rows, out);
        Err(WeightError::Format {
            tensor,
            wanted: "4-bit codes with integer group scales (`q4`)",
            reason: "this weight source has none; import the model as q4 or use per-channel INT8 graphs".to_owned(),
        })
    }

    /// INT4 codes −8…7 `[rows, K]` and channel scales `[rows]`: cleared, then filled. The default rounds the INT8 rows to
    /// 4 bits (largest code ±7), which costs accuracy; it is what chips without INT8 × u16 linears are left with.
    ///
    /// # Errors
    /// As [`Self::int8_rows`].
    fn int4_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        self.int8_rows(tensor, rows, codes, scales)?;
        let k = codes.len() / scales.len().max(1);
        for (row, scale) in codes.chunks_mut(k.max(1)).zip(scales) {
            let largest = row.iter().map(|c| c.unsigned_abs()).max().unwrap_or(0);
            let step = f32::from(largest.max(1)) / 7.0;
            for code in row {
                *code = (f32::from(*code) / step).round_ties_even() as i8;
            }
            *scale *= step;
        }
        Ok(())
    }

    /// Some elements of a float vector (a norm's gain, a bias): cleared, then filled.
    ///
    /// # Errors
    /// As [`Self::int8_rows`]; a source without vectors keeps this default, which always errs.
    fn vector(&self, tensor: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        let _ = (range, out);
        Err(WeightError::Missing { tensor })
    }
}

/// Why weights could not be handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The file has no such tensor.
    #[error("tensor `{tensor}` is not in the file; import the model again")]
    Missing {
        /// Tensor asked for.
        tensor: TensorName,
    },
    /// The tensor has another shape than the spec says.
    #[error("tensor `{tensor}`: {reason}; the graphs were built for another model")]
    Shape {
        /// Tensor asked for.
        tensor: TensorName,
        /// What does not fit.
        reason: String,
    },
    /// The tensor cannot be given in this form.
    #[error("tensor `{tensor}` cannot be given as {wanted}: {reason}")]
    Format {
        /// Tensor asked for.
        tensor: TensorName,
        /// The form asked for.
        wanted: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// Reading it failed.
    #[error("tensor `{tensor}` could not be read")]
    Read {
        /// Tensor asked for.
        tensor: TensorName,
        /// The reader's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BlockRows {
    /// INT8 codes that equal these weights: `code × group_scale`, exact because |code| ≤ 8 and group scales are at most 16.
    ///
    /// # Errors
    /// When a length, a code or a group scale is out of range.
    pub fn expand(&self, rows: usize, k: usize, out: &mut Vec<i8>) -> Result<(), String> {
        let groups = k.div_ceil(GROUP);
        if self.codes.len() != rows * k || self.group_scales.len() != rows * groups || self.scales.len() != rows {
            return Err(format!(
                "{} codes, {} group scales, {} scales for [{rows}, {k}]",
                self.codes.len(),
                self.group_scales.len(),
                self.scales.len()
            ));
        }
        out.clear();
        out.reserve(self.codes.len());
        for (row, scales) in self.codes.chunks(k).zip(self.group_scales.chunks(groups)) {
            for (group, scale) in row.chunks(GROUP).zip(scales) {
                if !(0..=16).contains(scale) {
                    return Err(format!("group scale {scale} is not in 0…16 (QNN computes garbage above)"));
                }
                for code in group {
                    if !(-8..=7).contains(code) {
                        return Err(format!("code {code} is not in −8…7"));
                    }
                    // −8 · 16 = −128 and 7 · 16 = 112: always an i8.
                    out.push((i16::from(*code) * i16::from(*scale)) as i8);
                }
            }
        }
        Ok(())
    }
}

/// The channel scales that a device is given: as they are, but channels of zero scale, whose codes must all be zero, take
/// the largest scale of the node (`fallback` when all are zero). Their outputs stay the zero point, and no device sees a
/// scale of zero, which QNN does not check.
///
/// # Errors
/// Names the channel whose scale is negative or not finite, or zero with non-zero codes.
pub fn lowered_scales(codes: &[i8], k: usize, scales: &[f32], fallback: f32) -> Result<Vec<f32>, String> {
    let largest = scales.iter().fold(0.0f32, |m, s| m.max(*s));
    let instead = if largest > 0.0 { largest } else { fallback };
    let one = |(channel, (scale, row)): (usize, (&f32, &[i8]))| {
        if !(scale.is_finite() && *scale >= 0.0) {
            Err(format!("channel {channel}: scale {scale} is negative or not finite"))
        } else if *scale > 0.0 {
            Ok(*scale)
        } else if row.iter().all(|c| *c == 0) {
            Ok(instead)
        } else {
            Err(format!("channel {channel}: scale 0 with non-zero codes"))
        }
    };
    scales.iter().zip(codes.chunks(k.max(1))).enumerate().map(one).collect()
}

/// A norm's gain as codes of an activation's dtype with an encoding of its own; `None` for floats, which take it as f16.
/// Every device uses these codes, so that all compute with the same gain.
#[must_use]
pub fn gain_codes(values: &[f32], dtype: Dtype) -> Option<(Encoding, Vec<u8>)> {
    let top = match dtype {
        Dtype::U8 => 255.0f32,
        Dtype::U16 => 65535.0,
        _ => return None,
    };
    let low = values.iter().fold(0.0f32, |m, v| m.min(*v));
    let high = values.iter().fold(0.0f32, |m, v| m.max(*v));
    let scale = ((high - low) / top).max(f32::MIN_POSITIVE);
    let zero_point = (-low / scale).round_ties_even().clamp(0.0, top);
    let codes = values.iter().map(|v| ((v / scale).round_ties_even() + zero_point).clamp(0.0, top));
    let bytes = match dtype {
        Dtype::U8 => codes.map(|c| c as u8).collect(),
        _ => codes.flat_map(|c| (c as u16).to_le_bytes()).collect(),
    };
    Some((Encoding::Tensor { scale, zero_point: zero_point as i32 }, bytes))
}

/// The codes of a float bias as QNN takes it beside per-channel weights: i32, one scale `scale_in · scales[n]` (an f32
/// product) per channel, offset 0, rounded to nearest (ties to even) and clamped. `scales` are those of [`lowered_scales`].
#[must_use]
pub fn bias_codes(bias: &[f32], scale_in: f32, scales: &[f32]) -> Vec<i32> {
    let one = |(bias, scale): (&f32, &f32)| (f64::from(*bias) / f64::from(scale_in * scale)).round_ties_even() as i32;
    bias.iter().zip(scales).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coexec_model::{LayerIdx, LayerTensor};

    #[test]
    fn block_rows_expand_exactly_or_are_refused() {
        let good = BlockRows {
            codes: (0..128).map(|i| (i % 16) as i8 - 8).collect(),
            group_scales: vec![16, 0, 1, 15],
            scales: vec![1.0, 2.0],
        };
        let mut out = vec![1, 2, 3];
        good.expand(2, 64, &mut out).expect("good");
        assert_eq!(out.len(), 128);
        assert_eq!((out[0], out[15], out[32], out[64], out[96 + 15]), (-128, 112, 0, -8, 105));
        let bad = |change: &dyn Fn(&mut BlockRows)| {
            let mut rows = good.clone();
            change(&mut rows);
            assert!(rows.expand(2, 64, &mut Vec::new()).is_err());
        };
        bad(&|r| r.codes[5] = 8);
        bad(&|r| r.codes[5] = -9);
        bad(&|r| r.group_scales[3] = 17);
        bad(&|r| r.codes.truncate(127));
        bad(&|r| r.group_scales.truncate(3));
        bad(&|r| r.scales.truncate(1));
    }

    #[test]
    fn zero_scales_are_lowered_only_for_zero_codes() {
        let codes = [0, 0, 1, 2, 0, 0];
        assert_eq!(lowered_scales(&codes, 2, &[0.0, 3.0, 0.5], 9.0), Ok(vec![3.0, 3.0, 0.5]));
        assert_eq!(lowered_scales(&[0; 4], 2, &[0.0, 0.0], 9.0), Ok(vec![9.0, 9.0]));
        for bad in [[0.0, 0.0, 1.0], [0.0, -1.0, 1.0], [0.0, f32::NAN, 1.0], [0.0, f32::INFINITY, 1.0]] {
            assert!(lowered_scales(&codes, 2, &bad, 9.0).expect_err("bad").contains("channel 1"));
        }
    }

    #[test]
    fn biases_round_to_even_and_clamp() {
        let bias = [0.25, 0.75, -0.25, 1e30, -1e30, 3.0];
        assert_eq!(bias_codes(&bias, 0.5, &[1.0, 1.0, 1.0, 1.0, 1.0, 0.25]), [0, 2, 0, i32::MAX, i32::MIN, 24]);
        // Codes that were floats come back as they were.
        let scale = 0.003_f32 * 0.017;
        for code in [-1_522_091, -1, 0, 7, 427_672] {
            assert_eq!(bias_codes(&[code as f32 * scale], 0.003, &[0.017]), [code]);
        }
    }

    #[test]
    fn a_source_without_four_bit_weights_says_what_to_do() {
        struct Int8Only;
        impl WeightSource for Int8Only {
            fn int8_rows(
                &self,
                tensor: TensorName,
                _: Range<usize>,
                _: &mut Vec<i8>,
                _: &mut Vec<f32>,
            ) -> Result<(), WeightError> {
                Err(WeightError::Missing { tensor })
            }
        }
        let tensor = TensorName::Layer(LayerIdx(3), LayerTensor::Down);
        let error = Int8Only.block_rows(tensor, 0..1, &mut BlockRows::default()).expect_err("has none");
        let text = error.to_string();
        assert!(text.contains("layers.3.down") && text.contains("q4"), "{text}");
    }
}
