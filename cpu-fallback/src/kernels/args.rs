//! Arguments of kernels that take more than a few slices.

use crate::{PAGE_TOKENS, kv::KvSlice};
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

/// One page of keys and values, and the state of a block of query vectors of the same KV head.
///
/// Per query vector with visible tokens `t ∈ ranges` of the page: `s_t = scale · Σ_d q_d k_td` (fma, `d` ascending),
/// `m' = max(m, max s)`, `a = exp(m − m')`, `p_t = exp(s_t − m')`, `sum' = fma(sum, a, tree(p))` where hidden tokens have
/// `p = 0`, and per `d`: `acc = acc · a`, then `acc = fma(p_t, v_td, acc)` with `t` ascending. A vector that sees nothing of
/// the page is left as it is.
#[derive(Debug)]
pub(crate) struct AttnPageArgs<'a> {
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// `[PAGE_TOKENS, head_dim]`; rows beyond every range are never used.
    pub(crate) k: KvSlice<'a>,
    /// `[PAGE_TOKENS, head_dim]`.
    pub(crate) v: KvSlice<'a>,
    /// `[vectors, head_dim]`.
    pub(crate) q: &'a [f32],
    /// First and one past the last visible token of the page, `[vectors]`.
    pub(crate) ranges: &'a [(u8, u8)],
    /// Running maximum, `[vectors]`.
    pub(crate) max: &'a mut [f32],
    /// Running sum, `[vectors]`.
    pub(crate) sum: &'a mut [f32],
    /// Running weighted values, `[vectors, head_dim]`.
    pub(crate) acc: &'a mut [f32],
    pub(crate) scratch: &'a mut PageScratch,
}

/// Memory for [`AttnPageArgs`], kept between pages.
#[derive(Debug, Default)]
pub(crate) struct PageScratch {
    /// Keys by dimension, `[head_dim, PAGE_TOKENS]`.
    pub(crate) keys: Vec<f32>,
    /// Values as f32, `[PAGE_TOKENS, head_dim]`.
    pub(crate) values: Vec<f32>,
    /// Scores, then probabilities, `[vectors, PAGE_TOKENS]`.
    pub(crate) scores: Vec<f32>,
}

impl AttnPageArgs<'_> {
    /// Panics unless all lengths fit; makes room in the scratch.
    pub(crate) fn check(&mut self) {
        let (hd, vectors) = (self.head_dim, self.ranges.len());
        assert!(self.k.len() == PAGE_TOKENS * hd && self.v.len() == PAGE_TOKENS * hd);
        assert!(self.q.len() == vectors * hd && self.acc.len() == vectors * hd);
        assert!(self.max.len() == vectors && self.sum.len() == vectors);
        assert!(self.ranges.iter().all(|&(low, high)| usize::from(high) <= PAGE_TOKENS && low <= high));
        self.scratch.keys.resize(PAGE_TOKENS * hd, 0.0);
        self.scratch.values.resize(PAGE_TOKENS * hd, 0.0);
        self.scratch.scores.resize(PAGE_TOKENS * vectors, 0.0);
    }
}
