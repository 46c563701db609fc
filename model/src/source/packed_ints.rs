//! Linears whose weights are small integers packed into 32-bit words (GPTQ and AWQ checkpoints), row by row.
//!
//! Input `k` of output `n` weighs `scale[group(k), n] · (code[k, n] − zero[group(k), n])`. Both layouts keep codes
//! with inputs as rows; they differ in the direction of packing. Whoever makes a [`PackedInts`] has checked every shape
//! against its bytes and every group against the scales, so that reading cannot fail.

use super::encoding::Encoding;
use crate::{layout::GROUP, quant::Q4sGroup};
use half::f16;
use std::ops::Range;

/// Where a code lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Along the inputs: `qweight` is `[K · bits / 32, N]`.
    Inputs,
    /// Along the outputs, nibbles interleaved: `qweight` is `[K, N / 8]`.
    InterleavedOutputs,
}

/// The nibble of a word that holds output `n mod 8` where outputs are interleaved: even outputs first, then odd ones.
const NIBBLE_OF_OUTPUT: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Bytes of a tensor in a file.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) file: usize,
    pub(crate) bytes: Range<usize>,
}

/// The bytes of a file, by its number.
pub(crate) type Files<'a> = &'a dyn Fn(usize) -> &'a [u8];

impl Span {
    fn slice<'a>(&self, files: Files<'a>) -> &'a [u8] {
        &files(self.file)[self.bytes.clone()]
    }
}

/// A linear of packed integers.
#[derive(Clone, Debug)]
pub(crate) struct PackedInts {
    pub(crate) packing: Packing,
    /// 4 or 8.
    pub(crate) bits: u32,
    /// Outputs.
    pub(crate) n: usize,
    /// Inputs.
    pub(crate) k: usize,
    pub(crate) qweight: Span,
    /// `[groups, N · bits / 32]`.
    pub(crate) qzeros: Span,
    /// `[groups, N]`.
    pub(crate) scales: Span,
    pub(crate) scale_encoding: Encoding,
    /// What is added to stored zero points, before they are cut to `bits`.
    pub(crate) zero_offset: u32,
    /// Group of each input.
    pub(crate) groups: Vec<u32>,
    /// All zero points are 8, scales are f16, and every 32 inputs in a row are of one group: `Q4_0` holds the same weights.
    pub(crate) is_q4_0: bool,
}

/// The little-endian word at `index`.
pub(crate) fn word(bytes: &[u8], index: usize) -> u32 {
    bytes[index * 4..].first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b))
}

impl PackedInts {
    fn mask(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// Word and shift of output `n` in a row of packed outputs.
    fn output_place(&self, n: usize) -> (usize, u32) {
        let per_word = 32 / self.bits as usize;
        match self.packing {
            Packing::Inputs => (n / per_word, (n % per_word) as u32 * self.bits),
            Packing::InterleavedOutputs => (n / 8, NIBBLE_OF_OUTPUT[n % 8] * 4),
        }
    }

    /// The zero point of a group, from the bytes of `qzeros`.
    pub(crate) fn zero(&self, qzeros: &[u8], group: usize, n: usize) -> u32 {
        let (at, shift) = self.output_place(n);
        let words = self.n * self.bits as usize / 32;
        (word(qzeros, group * words + at) >> shift).wrapping_add(self.zero_offset) & self.mask()
    }

    /// The code of one weight, from the bytes of `qweight`.
    fn code(&self, qweight: &[u8], k: usize, n: usize) -> u32 {
        let per_word = 32 / self.bits as usize;
        let (at, shift) = match self.packing {
            Packing::Inputs => (k / per_word * self.n + n, (k % per_word) as u32 * self.bits),
            Packing::InterleavedOutputs => {
                let (at, shift) = self.output_place(n);
                (k * (self.n / 8) + at, shift)
            }
        };
        (word(qweight, at) >> shift) & self.mask()
    }

    /// Scale and zero point of every group of output `n`.
    fn groups_of(&self, files: Files<'_>, n: usize) -> Vec<(f32, f32)> {
        let (zeros, scales) = (self.qzeros.slice(files), self.scales.slice(files));
        let size = self.scale_encoding.block().1;
        let count = scales.len() / (self.n * size);
        let mut values = Vec::with_capacity(count);
        for group in 0..count {
            let at = (group * self.n + n) * size;
            self.scale_encoding.decode(&scales[at..at + size], &mut values);
        }
        values.iter().enumerate().map(|(g, scale)| (*scale, self.zero(zeros, g, n) as f32)).collect()
    }

    /// Appends the weights of output `n` to `out`.
    pub(crate) fn read_row(&self, files: Files<'_>, n: usize, out: &mut Vec<f32>) {
        let (qweight, groups) = (self.qweight.slice(files), self.groups_of(files, n));
        out.extend(self.groups.iter().enumerate().map(|(k, group)| {
            let (scale, zero) = groups[*group as usize];
            scale * (self.code(qweight, k, n) as f32 - zero)
        }));
    }

    /// The codes and scales of output `n` as `Q4_0` has them, where [`Self::is_q4_0`].
    pub(crate) fn q4_0_groups(&self, files: Files<'_>, n: usize) -> Vec<Q4sGroup> {
        let (qweight, scales) = (self.qweight.slice(files), self.scales.slice(files));
        (0..self.k)
            .step_by(GROUP)
            .map(|first| {
                let at = (self.groups[first] as usize * self.n + n) * 2;
                Q4sGroup {
                    scale: f16::from_le_bytes([scales[at], scales[at + 1]]),
                    codes: (first..first + GROUP).map(|k| self.code(qweight, k, n) as i8 - 8).collect(),
                }
            })
            .collect()
    }

    /// How people call it.
    pub(crate) fn name(&self) -> &'static str {
        match (self.packing, self.bits) {
            (Packing::InterleavedOutputs, _) => "AWQ INT4",
            (Packing::Inputs, 4) => "GPTQ INT4",
            (Packing::Inputs, _) => "GPTQ INT8",
        }
    }
}
