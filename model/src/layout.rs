//! The one decode layout: panels of 16 output rows, read in place by every instruction set.
//!
//! A **panel** holds 16 consecutive output rows (`[16, K]`, missing rows are zero); a **tile** of the packed file is a
//! whole number of panels. With `k_pad = K` rounded up to 32 (padding is zero) and `r` the row inside the panel:
//!
//! | format | bytes of a panel, in order |
//! |--------|----------------------------|
//! | `f32`  | `K × 16` f32: element `(r, k)` at `k·16 + r` |
//! | `f16`  | `K × 16` f16, the same order |
//! | `q8`   | `k_pad × 16` codes i8: `(r, k)` at byte `(k/4)·64 + r·4 + k%4`; then 16 f32 channel scales |
//! | `q4s`  | `k_pad × 8` bytes of codes; then per group of 32 inputs 16 f16 scales |
//! | `q4`   | `k_pad × 8` bytes of codes; then per group 8 bytes of 4-bit group scales, all padded to 64; then 16 f32 channel scales |
//!
//! 4-bit codes are stored as `code + 8`. Inside group `g`, input `8j + 4h + t` (`j < 4`, `h < 2`, `t < 4`) of row `r` is
//! nibble `h` (0 = low) of byte `256·g + 64·j + 4·r + t`: one 64-byte load gives two operands of a 4-way dot product for
//! 16 rows. Group scales of `q4`: byte `i < 8` holds row `i` in the low and row `i + 8` in the high nibble.
//! Every panel is a multiple of 64 bytes.

use crate::{
    WeightFormat,
    quant::{self, QuantRow, Quantizer},
};
use half::f16;

/// Output rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Inputs of a quantisation group.
pub const GROUP: usize = 32;
/// Bytes that a tile should not exceed, unless a single panel does.
pub const TILE_TARGET_BYTES: usize = 256 * 1024;
/// Identity of this layout; a file that names another one is refused.
pub const LAYOUT_NAME: &str = "panel16-k4-v1";

/// `k` rounded up to whole groups.
#[must_use]
pub const fn padded_k(k: usize) -> usize {
    k.div_ceil(GROUP) * GROUP
}

/// Panels that `n` output rows take.
#[must_use]
pub const fn panels(n: usize) -> usize {
    n.div_ceil(PANEL_ROWS)
}

/// Byte offsets inside a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanelLayout {
    /// Where group scales start (`q4`, `q4s`).
    pub group_scales: usize,
    /// Where channel scales start (`q8`, `q4`).
    pub channel_scales: usize,
    /// Size of the panel.
    pub bytes: usize,
}

/// Offsets for a panel with `k` inputs. `k` must be small enough that `64 · padded_k(k)` fits `usize`
/// (readers bound it before they call).
#[must_use]
pub const fn panel_layout(format: WeightFormat, k: usize) -> PanelLayout {
    let k_pad = padded_k(k);
    let groups = k_pad / GROUP;
    match format {
        WeightFormat::F32 => PanelLayout { group_scales: k * 64, channel_scales: k * 64, bytes: k * 64 },
        WeightFormat::F16 => {
            let bytes = (k * 32).div_ceil(64) * 64;
            PanelLayout { group_scales: bytes, channel_scales: bytes, bytes }
        }
        WeightFormat::Q8 => {
            PanelLayout { group_scales: k_pad * 16, channel_scales: k_pad * 16, bytes: k_pad * 16 + 64 }
        }
        WeightFormat::Q4s => {
            let codes = k_pad * 8;
            let bytes = codes + (groups * 32).div_ceil(64) * 64;
            PanelLayout { group_scales: codes, channel_scales: bytes, bytes }
        }
        WeightFormat::Q4 => {
            let codes = k_pad * 8;
            let channel = codes + (groups * 8).div_ceil(64) * 64;
            PanelLayout { group_scales: codes, channel_scales: channel, bytes: channel + 64 }
        }
    }
}

/// Panels that fit a tile: at least one.
#[must_use]
pub const fn panels_per_tile(format: WeightFormat, k: usize) -> usize {
    let bytes = panel_layout(format, k).bytes;
    if bytes == 0 || bytes >= TILE_TARGET_BYTES { 1 } else { TILE_TARGET_BYTES / bytes }
}

/// Byte of code `(r, k)` of a `q8` panel.
#[must_use]
pub const fn q8_index(r: usize, k: usize) -> usize {
    (k / 4) * 64 + r * 4 + k % 4
}

/// Byte and shift (0 or 4) of 4-bit code `(r, k)`.
#[must_use]
pub const fn q4_index(r: usize, k: usize) -> (usize, u32) {
    let in_group = k % GROUP;
    ((k / GROUP) * 256 + (in_group / 8) * 64 + r * 4 + k % 4, if in_group % 8 < 4 { 0 } else { 4 })
}

/// Writes one panel into `out` (all zeros, `panel_layout(format, k).bytes` long) from at most 16 float rows of `k` inputs.
///
/// # Panics
/// When `out` or a row has another length than the format asks for, or there are more than 16 rows.
pub fn pack_panel(format: WeightFormat, k: usize, rows: &[&[f32]], out: &mut [u8]) {
    let layout = panel_layout(format, k);
    assert!(rows.len() <= PANEL_ROWS && out.len() == layout.bytes && rows.iter().all(|r| r.len() == k));
    if matches!(format, WeightFormat::Q4 | WeightFormat::Q4s) {
        out[..layout.group_scales].fill(0x88); // code 0 in every nibble, padding included
    }
    for (r, row) in rows.iter().enumerate() {
        match format {
            WeightFormat::F32 => {
                for (i, v) in row.iter().enumerate() {
                    let at = (i * PANEL_ROWS + r) * 4;
                    out[at..at + 4].copy_from_slice(&v.to_le_bytes());
                }
            }
            WeightFormat::F16 => {
                for (i, v) in row.iter().enumerate() {
                    let at = (i * PANEL_ROWS + r) * 2;
                    out[at..at + 2].copy_from_slice(&f16::from_f32(*v).to_le_bytes());
                }
            }
            WeightFormat::Q8 | WeightFormat::Q4 | WeightFormat::Q4s => {
                if let Some(row) = QuantRow::new(format, Quantizer::Absmax, row, None) {
                    put_row(&layout, r, &row, out);
                }
            }
        }
    }
}

/// Writes one panel from at most 16 rows of codes and scales, bit for bit.
///
/// # Panics
/// When `out` has the wrong length, there are more than 16 rows, or a row has another format or length.
pub fn pack_codes(format: WeightFormat, k: usize, rows: &[QuantRow], out: &mut [u8]) {
    let layout = panel_layout(format, k);
    assert!(rows.len() <= PANEL_ROWS && out.len() == layout.bytes);
    assert!(rows.iter().all(|row| row.format() == format && row.fits(k)));
    if matches!(format, WeightFormat::Q4 | WeightFormat::Q4s) {
        out[..layout.group_scales].fill(0x88);
    }
    for (r, row) in rows.iter().enumerate() {
        put_row(&layout, r, row, out);
    }
}

fn put_row(layout: &PanelLayout, r: usize, row: &QuantRow, out: &mut [u8]) {
    match row {
        QuantRow::Q8(q) => {
            for (i, code) in q.codes.iter().enumerate() {
                out[q8_index(r, i)] = *code as u8;
            }
            put_f32(out, layout.channel_scales + r * 4, q.scale);
        }
        QuantRow::Q4s(groups) => {
            for (g, q) in groups.iter().enumerate() {
                put_nibbles(out, r, g, &q.codes);
                let at = layout.group_scales + (g * PANEL_ROWS + r) * 2;
                out[at..at + 2].copy_from_slice(&q.scale.to_le_bytes());
            }
        }
        QuantRow::Q4(q) => {
            for (g, codes) in q.codes.chunks(GROUP).enumerate() {
                put_nibbles(out, r, g, codes);
                out[layout.group_scales + g * 8 + r % 8] |= q.group_scales[g] << if r < 8 { 0 } else { 4 };
            }
            put_f32(out, layout.channel_scales + r * 4, q.scale);
        }
    }
}

fn put_f32(out: &mut [u8], at: usize, v: f32) {
    out[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

fn put_nibbles(out: &mut [u8], r: usize, g: usize, codes: &[i8]) {
    for (i, code) in codes.iter().enumerate() {
        let (at, shift) = q4_index(r, g * GROUP + i);
        out[at] = out[at] & !(0xF << shift) | (((code + 8) as u8) << shift);
    }
}

/// A panel seen element by element: the specification that kernels are tested against, and the way single rows or
/// channels are read.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// How the weights are stored.
    pub format: WeightFormat,
    /// Inputs per row.
    pub k: usize,
    layout: PanelLayout,
    bytes: &'a [u8],
}

impl<'a> Panel<'a> {
    /// Views `bytes` as a panel.
    ///
    /// # Panics
    /// When the length is not that of a panel.
    #[must_use]
    pub fn new(format: WeightFormat, k: usize, bytes: &'a [u8]) -> Self {
        let layout = panel_layout(format, k);
        assert_eq!(bytes.len(), layout.bytes, "length of a {format} panel with {k} inputs");
        Self { format, k, layout, bytes }
    }

    fn f32_at(&self, at: usize) -> f32 {
        f32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    fn f16_at(&self, at: usize) -> f32 {
        f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32()
    }

    /// The integer code of `(r, k)`: −127…127 for `q8`, −8…7 for 4-bit formats, 0 for floats.
    #[must_use]
    pub fn code(&self, r: usize, k: usize) -> i8 {
        match self.format {
            WeightFormat::F32 | WeightFormat::F16 => 0,
            WeightFormat::Q8 => self.bytes[q8_index(r, k)] as i8,
            WeightFormat::Q4 | WeightFormat::Q4s => {
                let (at, shift) = q4_index(r, k);
                ((self.bytes[at] >> shift) & 0xF) as i8 - 8
            }
        }
    }

    /// The integer group scale of a `q4` row (1 for other formats).
    #[must_use]
    pub fn group_scale_code(&self, r: usize, g: usize) -> u8 {
        if self.format != WeightFormat::Q4 {
            return 1;
        }
        let byte = self.bytes[self.layout.group_scales + g * 8 + r % 8];
        if r < 8 { byte & 0xF } else { byte >> 4 }
    }

    /// The scale of output row `r` (1 for floats and `q4s`).
    #[must_use]
    pub fn channel_scale(&self, r: usize) -> f32 {
        match self.format {
            WeightFormat::Q8 | WeightFormat::Q4 => self.f32_at(self.layout.channel_scales + r * 4),
            _ => 1.0,
        }
    }

    /// What a code of group `g`, row `r` is multiplied with.
    #[must_use]
    pub fn group_scale(&self, r: usize, g: usize) -> f32 {
        match self.format {
            WeightFormat::F32 | WeightFormat::F16 => 1.0,
            WeightFormat::Q8 => self.channel_scale(r),
            WeightFormat::Q4 => self.channel_scale(r) * f32::from(self.group_scale_code(r, g)),
            WeightFormat::Q4s => self.f16_at(self.layout.group_scales + (g * PANEL_ROWS + r) * 2),
        }
    }

    /// The weight of `(r, k)` as a float.
    #[must_use]
    pub fn weight(&self, r: usize, k: usize) -> f32 {
        match self.format {
            WeightFormat::F32 => self.f32_at((k * PANEL_ROWS + r) * 4),
            WeightFormat::F16 => self.f16_at((k * PANEL_ROWS + r) * 2),
            _ => self.group_scale(r, k / GROUP) * f32::from(self.code(r, k)),
        }
    }

    /// Row `r` as floats, `[K]`.
    pub fn read_row(&self, r: usize, out: &mut [f32]) {
        for (k, v) in out.iter_mut().enumerate().take(self.k) {
            *v = self.weight(r, k);
        }
    }

    /// The weights of input `k` of all 16 rows.
    #[must_use]
    pub fn column(&self, k: usize) -> [f32; PANEL_ROWS] {
        // The format is looked at once, and all rows are shifted alike, so that compilers take several at a time.
        match self.format {
            WeightFormat::Q8 => {
                let (words, scales) = (self.words(q8_index(0, k - k % 4)), self.words(self.layout.channel_scales));
                let left = 24 - 8 * (k % 4) as u32;
                std::array::from_fn(|r| f32::from_bits(scales[r]) * ((words[r] << left) as i32 >> 24) as f32)
            }
            WeightFormat::Q4 => {
                let (at, shift) = q4_index(0, k - k % 4);
                let (words, scales) = (self.words(at), self.words(self.layout.channel_scales));
                let right = 8 * (k % 4) as u32 + shift;
                let groups = &self.bytes[self.layout.group_scales + k / GROUP * 8..][..8];
                std::array::from_fn(|r| {
                    let group = if r < 8 { groups[r] & 0xF } else { groups[r - 8] >> 4 };
                    let code = (words[r] >> right & 0xF) as i32 - 8;
                    f32::from_bits(scales[r]) * f32::from(group) * code as f32
                })
            }
            _ => std::array::from_fn(|r| self.weight(r, k)),
        }
    }

    /// 16 little-endian words from byte `at`.
    fn words(&self, at: usize) -> [u32; PANEL_ROWS] {
        let words = self.bytes[at..at + PANEL_ROWS * 4].as_chunks::<4>().0;
        std::array::from_fn(|r| u32::from_le_bytes(words[r]))
    }

    /// Row `r` as the NPU takes it: INT8 codes `[K]` and one channel scale. Exact for `q8` and `q4` (code × group scale
    /// fits INT8); other formats are quantised as `q8` is.
    pub fn read_int8_row(&self, r: usize, codes: &mut Vec<i8>) -> f32 {
        codes.clear();
        match self.format {
            WeightFormat::Q8 => {
                let runs = self.bytes[..self.layout.group_scales].chunks_exact(PANEL_ROWS * 4);
                codes.extend(runs.flat_map(|run| &run[r * 4..r * 4 + 4]).take(self.k).map(|code| *code as i8));
                self.channel_scale(r)
            }
            WeightFormat::Q4 => {
                for g in 0..self.k.div_ceil(GROUP) {
                    let scale = self.group_scale_code(r, g) as i8;
                    codes.extend((g * GROUP..self.k.min((g + 1) * GROUP)).map(|k| {
                        let (at, shift) = q4_index(r, k);
                        (((self.bytes[at] >> shift) & 0xF) as i8 - 8) * scale
                    }));
                }
                self.channel_scale(r)
            }
            _ => {
                let mut row = vec![0.0; self.k];
                self.read_row(r, &mut row);
                let q = quant::q8_row(&row);
                codes.extend_from_slice(&q.codes);
                q.scale
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(n: usize, k: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..k).map(|_| next() + next()).collect()).collect()
    }

    fn packed(format: WeightFormat, k: usize, rows: &[Vec<f32>]) -> Vec<u8> {
        let mut out = vec![0; panel_layout(format, k).bytes];
        pack_panel(format, k, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
        out
    }

    #[test]
    fn every_nibble_and_byte_has_one_place() {
        let mut seen = std::collections::HashSet::new();
        for r in 0..PANEL_ROWS {
            for k in 0..96 {
                assert!(seen.insert(q4_index(r, k)));
                assert!(q4_index(r, k).0 < 96 * 8);
            }
        }
        let bytes: std::collections::HashSet<_> =
            (0..PANEL_ROWS).flat_map(|r| (0..96).map(move |k| q8_index(r, k))).collect();
        assert_eq!(bytes.len(), 96 * 16);
        assert_eq!(bytes.into_iter().max(), Some(96 * 16 - 1));
    }

    proptest! {
        #[test]
        fn panels_read_back_within_half_a_step(n in 1usize..=16, k in 1usize..100, seed: u64) {
            let rows = rows(n, k, seed);
            for format in WeightFormat::ALL {
                let bytes = packed(format, k, &rows);
                prop_assert_eq!(bytes.len() % 64, 0);
                let panel = Panel::new(format, k, &bytes);
                let mut back = vec![0.0; k];
                for (r, row) in rows.iter().enumerate() {
                    panel.read_row(r, &mut back);
                    for (i, (a, b)) in row.iter().zip(&back).enumerate() {
                        let tolerance = match format {
                            WeightFormat::F32 => 0.0,
                            WeightFormat::F16 => a.abs() / 1024.0 + 1e-7,
                            WeightFormat::Q8 => panel.group_scale(r, 0) * 0.501,
                            // The extreme is code −8; a value as large on the other side is clipped to 7.
                            WeightFormat::Q4s => panel.group_scale(r, i / GROUP).abs() * 1.01,
                            // A group scale may be 60 % of absmax / 7.5: 12.5 steps, of which 7 are kept.
                            WeightFormat::Q4 => panel.group_scale(r, i / GROUP) * 5.6,
                        };
                        prop_assert!((a - b).abs() <= tolerance, "{format} ({r},{i}): {a} {b}");
                    }
                }
            }
        }

        #[test]
        fn int8_rows_are_the_same_weights(k in 1usize..100, seed: u64) {
            let rows = rows(16, k, seed);
            for format in [WeightFormat::Q8, WeightFormat::Q4] {
                let bytes = packed(format, k, &rows);
                let panel = Panel::new(format, k, &bytes);
                for i in 0..k {
                    let weights: [f32; PANEL_ROWS] = std::array::from_fn(|r| panel.weight(r, i));
                    prop_assert_eq!(panel.column(i), weights);
                }
                let mut codes = Vec::new();
                for r in 0..16 {
                    let scale = panel.read_int8_row(r, &mut codes);
                    for (i, code) in codes.iter().enumerate() {
                        let (a, b) = (scale * f32::from(*code), panel.weight(r, i));
                        prop_assert!((a - b).abs() <= 1e-6 * a.abs().max(b.abs()));
                    }
                }
            }
        }
    }
}
