//! Arguments of attention's kernels: prepared query vectors, softmax states, one segment's work.
//!
//! Query vectors are handled in *tiles* of `width` vectors, all heads and rows of a block alike. With `width` 1 (a decode step)
//! a tile is one vector, and registers hold tokens or dimensions; else registers hold the vectors of a tile side by side.

use super::Kernels;
use crate::{
    SEGMENT_TOKENS,
    kv::{KvDtype, KvPart, KvSlice, code, row_scale},
};
use std::f32::consts::LOG2_E;

/// Most registers of query vectors in a tile.
pub(crate) const TILE_REGISTERS: usize = 3;

/// Where the query vectors of a block of rows and a KV head lie: vector `i` is head `i % group` of row `i / group`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttnVectors<'a> {
    /// Rows of `stride` elements.
    pub(crate) q: &'a [f32],
    pub(crate) stride: usize,
    /// The first vector.
    pub(crate) first: usize,
    pub(crate) group: usize,
    pub(crate) count: usize,
}

impl AttnVectors<'_> {
    /// Where vector `i` begins in `q`.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize, head_dim: usize) -> usize {
        self.first + i / self.group * self.stride + i % self.group * head_dim
    }
}

/// Prepared query vectors of one KV head.
#[derive(Debug, Default)]
pub(crate) struct AttnQuery {
    pub(crate) head_dim: usize,
    /// Vectors, padded ones (zeros) included: whole tiles.
    pub(crate) vectors: usize,
    /// Vectors of a tile.
    pub(crate) width: usize,
    /// `scale · log2 e`: scores are exponents of 2.
    pub(crate) scale: f32,
    /// For float keys: `[tiles, head_dim, width]`.
    pub(crate) floats: Vec<f32>,
    /// For i8 keys: `[tiles, head_dim / 4 rounded up, width, 4]`.
    pub(crate) codes: Vec<i8>,
    /// For i8 keys: scale of the codes times `scale`, `[vectors]`.
    pub(crate) factors: Vec<f32>,
    /// For i8 keys: −128 · sum of the codes, `[vectors]`: what a dot product with `codes + 128` begins with.
    pub(crate) offsets: Vec<i32>,
    /// Codes of one vector.
    row: Vec<i8>,
}

impl AttnQuery {
    /// Prepares query vectors for keys of `dtype`, in tiles of `width`.
    pub(crate) fn prepare(
        &mut self,
        kernels: &Kernels,
        (dtype, width): (KvDtype, usize),
        (head_dim, scale): (usize, f32),
        vectors: &AttnVectors<'_>,
    ) {
        let hd4 = head_dim.next_multiple_of(4);
        (self.head_dim, self.width, self.scale) = (head_dim, width, scale * LOG2_E);
        self.vectors = vectors.count.next_multiple_of(width);
        if dtype != KvDtype::I8 {
            self.floats.clear();
            self.floats.resize(self.vectors * head_dim, 0.0);
            kernels.attn_columns(vectors, head_dim, width, &mut self.floats);
            return;
        }
        self.codes.clear();
        self.codes.resize(self.vectors * hd4, 0);
        self.factors.clear();
        self.factors.resize(self.vectors, 0.0);
        self.offsets.clear();
        self.offsets.resize(self.vectors, 0);
        self.row.clear();
        self.row.resize(hd4, 0);
        for i in 0..vectors.count {
            let row = &vectors.q[vectors.at(i, head_dim)..][..head_dim];
            let (scale, inverse) = row_scale(row);
            self.row.iter_mut().zip(row).for_each(|(to, v)| *to = code(*v, inverse));
            let codes = &mut self.codes[i / width * width * hd4 + i % width * 4..];
            for (quad, from) in self.row.as_chunks::<4>().0.iter().enumerate() {
                codes[quad * width * 4..][..4].copy_from_slice(from);
            }
            self.factors[i] = scale * self.scale;
            self.offsets[i] = -128 * self.row.iter().map(|code| i32::from(*code)).sum::<i32>();
        }
    }

    /// Floats of an [`AttnState`] of these vectors.
    pub(crate) fn state_len(&self) -> usize {
        self.vectors * (self.head_dim + 2)
    }
}

/// Softmax state of the vectors of an [`AttnQuery`].
#[derive(Debug)]
pub(crate) struct AttnState<'a> {
    /// Maximum of the scores, −∞ where nothing was visible: `[vectors]`.
    pub(crate) max: &'a mut [f32],
    /// Sum of the probabilities, `[vectors]`.
    pub(crate) sum: &'a mut [f32],
    /// Weighted values, `[tiles, head_dim, width]`.
    pub(crate) acc: &'a mut [f32],
}

impl<'a> AttnState<'a> {
    /// A view of a buffer of [`AttnQuery::state_len`] floats.
    pub(crate) fn of(buffer: &'a mut [f32], vectors: usize) -> Self {
        let (max, rest) = buffer.split_at_mut(vectors);
        let (sum, acc) = rest.split_at_mut(vectors);
        Self { max, sum, acc }
    }
}

/// An [`AttnState`] to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttnPart<'a> {
    /// `[vectors]`.
    pub(crate) max: &'a [f32],
    /// `[vectors]`.
    pub(crate) sum: &'a [f32],
    /// `[tiles, head_dim, width]`.
    pub(crate) acc: &'a [f32],
}

impl<'a> AttnPart<'a> {
    /// A view of a buffer of [`AttnQuery::state_len`] floats.
    pub(crate) fn of(buffer: &'a [f32], vectors: usize) -> Self {
        let (max, rest) = buffer.split_at(vectors);
        let (sum, acc) = rest.split_at(vectors);
        Self { max, sum, acc }
    }
}

/// One segment's attention for a block of query vectors of the same KV head.
///
/// Per query vector with visible slots `t ∈ ranges`:
/// * scores: for float keys `s_t = (Σ_d q_d k_td) · scale` (fma from 0, `d` ascending); for i8 keys
///   `s_t = (dot · factor) · key_scale_t` with the exact integer dot of the codes;
/// * `m = max s_t`, `p_t = 2^(s_t − m)` (`Lanes::exp2`; with 0 for an infinite `−m`); hidden slots have `p = 0`;
/// * `sum`: 16 lanes, slot `t` in lane `t mod 16`, ascending, then the tree of halves;
/// * weighted values: for floats `acc_d = Σ_t p_t v_td` (fma from 0, visible `t` ascending); for i8, page by page, ascending:
///   `w_t = p_t · value_scale_t`, `W = max w_t`, codes `c_t = round(w_t · (255 / W))` and
///   `acc_d = fma(dot, W · (1 / 255), acc_d)` with the exact integer dot `Σ_t c_t v_td` over the page. When `W` is below
///   [`LEAST_WEIGHT`] or infinite, inverse and step are `0` and `W · 0`.
///
/// A vector that sees nothing gets `m = −∞`, `sum = 0`, `acc = 0`.
#[derive(Debug)]
pub(crate) struct AttnSegmentArgs<'a> {
    pub(crate) query: &'a AttnQuery,
    /// One head's keys of the segment.
    pub(crate) k: KvSlice<'a>,
    /// One head's values of the segment.
    pub(crate) v: KvSlice<'a>,
    /// First and one past the last visible slot of each vector, `[vectors]`.
    pub(crate) ranges: &'a [(u16, u16)],
    /// Written, whatever was there.
    pub(crate) out: AttnState<'a>,
    /// Keys and their scales that this thread will read next: only asked for, never read here.
    pub(crate) next: (*const u8, *const u8),
    pub(crate) scratch: &'a mut SegmentScratch,
}

/// Weights of values below this are taken as 0 (i8): their inverse would not be a float.
pub(crate) const LEAST_WEIGHT: f32 = 1e-30;
/// Largest code of a weight.
pub(crate) const WEIGHT_CODES: f32 = 255.0;

/// Memory for [`AttnSegmentArgs`], kept between segments.
#[derive(Debug, Default)]
pub(crate) struct SegmentScratch {
    /// Keys as f32.
    pub(crate) keys: Vec<f32>,
    /// Values as f32.
    pub(crate) values: Vec<f32>,
    /// Scores, then probabilities.
    pub(crate) scores: Vec<f32>,
    /// Codes of probabilities.
    pub(crate) codes: Vec<u8>,
    /// Steps of these codes.
    pub(crate) steps: Vec<f32>,
    /// Their inverses.
    pub(crate) inverses: Vec<f32>,
    /// Largest weights: never NaN, whatever was computed before.
    pub(crate) largest: Vec<f32>,
}

/// Grows `v` to `len` elements; what is in it does not matter.
pub(crate) fn at_least<T: Copy + Default>(v: &mut Vec<T>, len: usize) -> &mut [T] {
    if v.len() < len {
        v.resize(len, T::default());
    }
    &mut v[..len]
}

impl AttnSegmentArgs<'_> {
    /// Panics unless all lengths fit.
    pub(crate) fn check(&self) {
        let (q, dtype) = (self.query, self.k.dtype());
        let (hd, vectors) = (q.head_dim, q.vectors);
        let pages = crate::SEGMENT_PAGES;
        assert!(dtype == self.v.dtype() && hd > 0 && q.width > 0 && vectors.is_multiple_of(q.width));
        assert!(self.k.len() == pages * KvPart::Keys.page_elems(dtype, hd));
        assert!(self.v.len() == pages * KvPart::Values.page_elems(dtype, hd));
        for part in [self.k, self.v] {
            if let KvSlice::I8 { scales, .. } = part {
                assert!(scales.len() == SEGMENT_TOKENS);
            }
        }
        if dtype == KvDtype::I8 {
            assert!(q.codes.len() == vectors * hd.next_multiple_of(4));
            assert!(q.factors.len() == vectors && q.offsets.len() == vectors);
        } else {
            assert!(q.floats.len() == vectors * hd);
        }
        assert!(self.out.max.len() == vectors && self.out.sum.len() == vectors && self.out.acc.len() == vectors * hd);
        assert!(self.ranges.len() == vectors);
        assert!(self.ranges.iter().all(|&(low, high)| low <= high && usize::from(high) <= SEGMENT_TOKENS));
    }
}
