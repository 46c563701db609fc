//! Arguments of kernels that take more than a few slices.

use coexec_model::{WeightFormat, layout::GROUP};
use std::ops::Range;

/// Rows quantised in groups of 32: `k_pad` codes, then one scale and one sum of codes per group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantView<'a> {
    /// `[rows, k_pad]`.
    pub(crate) codes: &'a [i8],
    /// `[rows, k_pad / 32]`.
    pub(crate) scales: &'a [f32],
    /// `[rows, k_pad / 32]`.
    pub(crate) sums: &'a [i32],
}

impl<'a> QuantView<'a> {
    /// Some of the rows.
    pub(crate) fn rows(&self, rows: Range<usize>, k_pad: usize) -> QuantView<'a> {
        let groups = k_pad / GROUP;
        let at = rows.start * groups..rows.end * groups;
        QuantView {
            codes: &self.codes[rows.start * k_pad..rows.end * k_pad],
            scales: &self.scales[at.clone()],
            sums: &self.sums[at],
        }
    }
}

/// A linear of an integer format over whole panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntLinearArgs<'a> {
    pub(crate) format: WeightFormat,
    /// Inputs per row.
    pub(crate) k: usize,
    /// Whole panels, one after another.
    pub(crate) panels: &'a [u8],
    pub(crate) x: QuantView<'a>,
}

/// A linear of a float format over whole panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatLinearArgs<'a> {
    pub(crate) format: WeightFormat,
    /// Inputs per row.
    pub(crate) k: usize,
    /// Whole panels, one after another.
    pub(crate) panels: &'a [u8],
    /// `[rows, k]`.
    pub(crate) x: &'a [f32],
}

/// An exact u8 × s8 product over whole panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GemmU8S8Args<'a> {
    /// Inputs per row.
    pub(crate) k: usize,
    /// `[rows, k]`, zero point 128.
    pub(crate) x: &'a [u8],
    /// Whole panels in `q8` code order, without scales.
    pub(crate) panels: &'a [u8],
    /// `Σ_k w` of each output row of the panels.
    pub(crate) row_sums: &'a [i32],
}

/// How sums of a row of output channels become codes (see [`crate::Requantize`]), each `[n]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequantArgs<'a> {
    /// Added to the sum; the result fits 32 bits.
    pub(crate) offset: &'a [i32],
    /// Bits to the right, 0 … 31; 0 where `left` is not.
    pub(crate) right: &'a [i32],
    /// Bits to the left, 0 … 12.
    pub(crate) left: &'a [i32],
    /// 0, or 2¹¹ … 2¹².
    pub(crate) mantissa: &'a [i32],
    /// Code of 0.
    pub(crate) zero_point: i32,
}
