//! Element types of imported tensors, and how their rows become f32.
//!
//! Quantised types are GGML's blocks. A row is a whole number of blocks, so rows are read independently.

use super::blocks::{f16_at, five_bits, nibbles, q4_k, q5_k, q6_k};
use crate::quant::Q4sGroup;
use half::{bf16, f16};
use std::fmt;

/// An element type that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32: f16 scale `d`, 32 × i8; weight = `d·q`.
    Q8_0,
    /// Blocks of 32: f16 scale `d`, 32 nibbles (low halves first); weight = `d·(q − 8)`.
    Q4_0,
    /// Blocks of 32: f16 scale `d`, f16 minimum `m`, 32 nibbles; weight = `d·q + m`.
    Q4_1,
    /// Blocks of 32: f16 scale `d`, 5-bit codes; weight = `d·(q − 16)`.
    Q5_0,
    /// Blocks of 32: f16 scale `d`, f16 minimum `m`, 5-bit codes; weight = `d·q + m`.
    Q5_1,
    /// Blocks of 256 in 8 groups: 4-bit codes, 6-bit group scales and minima, f16 scales of both.
    Q4K,
    /// As [`Self::Q4K`] with 5-bit codes.
    Q5K,
    /// Blocks of 256 in 16 groups: 6-bit codes, i8 group scales, f16 scale. What llama.cpp gives the head of 4-bit models.
    Q6K,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Name as GGUF tools write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The number that GGUF gives the type.
    pub(crate) const fn gguf_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// `(elements, bytes)` of a block.
    #[must_use]
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of a row of `cols` elements; `None` when it is no whole number of blocks or does not fit `usize`.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (elems, bytes) = self.block();
        if cols.is_multiple_of(elems) { (cols / elems).checked_mul(bytes) } else { None }
    }

    /// Appends the elements of `row` (whole blocks; a partial block at the end is ignored) to `out`.
    pub fn decode(self, row: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(row.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Self::F16 => out.extend(row.chunks_exact(2).map(|b| f16_at(b, 0))),
            Self::Bf16 => out.extend(row.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Self::Q8_0 => {
                for b in row.chunks_exact(34) {
                    let d = f16_at(b, 0);
                    out.extend(b[2..].iter().map(|&q| d * f32::from(q as i8)));
                }
            }
            Self::Q4_0 => {
                for b in row.chunks_exact(18) {
                    let d = f16_at(b, 0);
                    out.extend(nibbles(&b[2..]).map(|q| d * (f32::from(q) - 8.0)));
                }
            }
            Self::Q4_1 => {
                for b in row.chunks_exact(20) {
                    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
                    out.extend(nibbles(&b[4..]).map(|q| d * f32::from(q) + m));
                }
            }
            Self::Q5_0 => {
                for b in row.chunks_exact(22) {
                    let d = f16_at(b, 0);
                    out.extend(five_bits(&b[2..]).map(|q| d * (q - 16.0)));
                }
            }
            Self::Q5_1 => {
                for b in row.chunks_exact(24) {
                    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
                    out.extend(five_bits(&b[4..]).map(|q| d * q + m));
                }
            }
            Self::Q4K => row.chunks_exact(144).for_each(|b| q4_k(b, out)),
            Self::Q5K => row.chunks_exact(176).for_each(|b| q5_k(b, out)),
            Self::Q6K => row.chunks_exact(210).for_each(|b| q6_k(b, out)),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Codes and scales of a `Q4_0` row as they are.
pub(crate) fn q4_0_groups(row: &[u8]) -> Vec<Q4sGroup> {
    row.chunks_exact(18)
        .map(|b| Q4sGroup {
            scale: f16::from_le_bytes([b[0], b[1]]),
            codes: nibbles(&b[2..]).map(|q| q as i8 - 8).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Encoding::Q4_0.row_bytes(64), Some(36));
        assert_eq!(Encoding::Q4_0.row_bytes(63), None);
        assert_eq!(Encoding::Q6K.row_bytes(512), Some(420));
        assert_eq!(Encoding::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn q4_0_puts_low_halves_first_and_keeps_codes() {
        let mut row = f16::from_f32(-0.5).to_le_bytes().to_vec();
        row.extend((0..16u8).map(|i| i | ((15 - i) << 4)));
        let mut out = Vec::new();
        Encoding::Q4_0.decode(&row, &mut out);
        assert_eq!(out.len(), 32);
        assert_eq!((out[0], out[15], out[16], out[31]), (4.0, -3.5, -3.5, 4.0));
        let groups = q4_0_groups(&row);
        assert_eq!((groups[0].codes[0], groups[0].codes[15], groups[0].codes[16]), (-8, 7, 7));
        for (w, c) in out.iter().zip(&groups[0].codes) {
            assert_eq!(*w, groups[0].scale.to_f32() * f32::from(*c));
        }
    }

    #[test]
    fn q8_0_and_q4_1_follow_their_formulas() {
        let mut row = f16::from_f32(0.25).to_le_bytes().to_vec();
        row.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let mut out = Vec::new();
        Encoding::Q8_0.decode(&row, &mut out);
        assert_eq!(out, (0..32).map(|i| 0.25 * (i as f32 - 16.0)).collect::<Vec<_>>());

        let mut row = f16::from_f32(0.25).to_le_bytes().to_vec();
        row.extend(f16::from_f32(-1.0).to_le_bytes());
        row.extend([0x21; 16]);
        out.clear();
        Encoding::Q4_1.decode(&row, &mut out);
        assert_eq!((out[0], out[16], out.len()), (-0.75, -0.5, 32));
    }

    #[test]
    fn q6_k_assembles_six_bits_and_sixteen_scales() {
        let mut block = vec![0u8; 210];
        block[208..].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        block[192..208].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xF0]);
        // Element 0: low nibble 5, high bits 3; element 64 (quarter 2) shares the low byte's high nibble.
        block[0] = 0xA5;
        block[128] = 0b00_01_00_11;
        let mut out = Vec::new();
        Encoding::Q6K.decode(&block, &mut out);
        assert_eq!(out.len(), 256);
        assert_eq!(out[0], 2.0 * 1.0 * f32::from(0x35u8 - 32));
        assert_eq!(out[64], 2.0 * 5.0 * (26.0 - 32.0));
        assert_eq!(out[255], 2.0 * -16.0 * -32.0);
        assert_eq!(out[16], 2.0 * 2.0 * -32.0);
    }

    #[test]
    fn half_floats_are_exact() {
        let mut out = Vec::new();
        Encoding::F16.decode(&f16::from_f32(0.1).to_le_bytes(), &mut out);
        Encoding::Bf16.decode(&bf16::from_f32(0.1).to_le_bytes(), &mut out);
        Encoding::F32.decode(&0.1f32.to_le_bytes(), &mut out);
        assert_eq!(out, [f16::from_f32(0.1).to_f32(), bf16::from_f32(0.1).to_f32(), 0.1]);
    }

    /// Encoding, block bytes, where its f16 scales lie, first and last value, sum, sum of index times value.
    type Golden = (Encoding, usize, &'static [usize], f64, f64, f64, f64);

    /// Values of llama.cpp's own Python package (gguf 0.x, `quants.dequantize`) for pseudo-random blocks.
    #[test]
    fn blocks_decode_as_the_gguf_package_does() {
        let block = |len: usize, scales: &[usize]| {
            let mut x = 12_345u32;
            let mut bytes = Vec::with_capacity(len);
            for _ in 0..len {
                x = x.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
                bytes.push((x >> 16) as u8);
            }
            scales.iter().for_each(|at| bytes[*at..at + 2].copy_from_slice(&[0x66, 0x2e]));
            bytes
        };
        let moments = |values: &[f32]| {
            let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
            let first: f64 = values.iter().enumerate().map(|(i, v)| f64::from(*v) * i as f64).sum();
            (sum, first)
        };
        #[rustfmt::skip]
        let expected: [Golden; 8] = [
            (Encoding::Q6K, 210, &[208], -302.326171875, 27.8931884765625, -2461.0989990234375, -261386.46936035156),
            (Encoding::Q4_1, 20, &[0, 2], 1.599609375, 0.199951171875, 28.4930419921875, 381.2069091796875),
            (Encoding::Q5_0, 22, &[0], 1.2996826171875, 0.0999755859375, 2.999267578125, 18.79541015625),
            (Encoding::Q5_1, 24, &[0, 2], 2.6993408203125, 0.6998291015625, 57.5859375, 814.5010986328125),
            (Encoding::Q4K, 144, &[0, 2], 25.2938232421875, 23.2943115234375, 4452.6126708984375, 479066.11193847656),
            (Encoding::Q5K, 176, &[0, 2], 62.4847412109375, 7.2982177734375, 9966.466186523438, 1064211.2193603516),
            (Encoding::Q8_0, 34, &[0], 10.0975341796875, 11.4971923828125, 74.8817138671875, 1488.4365234375),
            (Encoding::Q4_0, 18, &[0], -0.2999267578125, -0.199951171875, -0.0999755859375, -58.985595703125),
        ];
        for (encoding, len, scales, first, last, sum, moment) in expected {
            let mut out = Vec::new();
            encoding.decode(&block(len, scales), &mut out);
            assert_eq!(out.len(), encoding.block().0);
            assert_eq!((f64::from(out[0]), f64::from(*out.last().unwrap())), (first, last), "{encoding}");
            assert_eq!(moments(&out), (sum, moment), "{encoding}");
        }
    }
}
