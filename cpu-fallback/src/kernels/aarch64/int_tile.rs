//! Register tiles of integer linears: a few rows × one panel, group by group. The sets differ in how they compute the
//! dots of a group ([`Dots`]).

use super::{asm::widen_f16, store};
use crate::kernels::{Block, IntLinearArgs, QuantView};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::arch::aarch64::*;

/// Codes as the packed file has them.
pub(super) const Q8: u8 = 0;

const Q4: u8 = 1;

const Q4S: u8 = 2;

/// INT8 codes in the order that [`Dots::unpack`] makes.
pub(super) const UNPACKED: u8 = 3;

/// The same, with a float scale per group and output.
pub(super) const UNPACKED_SCALED: u8 = 4;

/// Whether a format's codes are nibbles 0…15.
pub(super) const fn is_nibbles(format: u8) -> bool {
    format == Q4 || format == Q4S
}

/// Bytes of a group's codes.
pub(super) const fn group_bytes(format: u8) -> usize {
    if is_nibbles(format) { GROUP * PANEL_ROWS / 2 } else { GROUP * PANEL_ROWS }
}

/// How a set multiplies a group of 32 inputs.
///
/// Everything between a set's `int_linear`, which enables the instructions, and its implementation of this is
/// `inline(always)` and no closure: only so do the instructions end up in one function, and the sums in registers.
pub(super) trait Dots {
    /// Rows of the tallest tile: 2 or 4.
    const TALL: usize;
    /// Registers hold 2 rows × 2 outputs (see [`turn`]) where there are two rows; else one row × 4 outputs.
    const PAIRED: bool;

    /// `start[m] + Σ_k x[m][k] · w[r][k]` for `4 · H` rows `r` of a panel, from the one whose codes `codes` points to; nibbles
    /// count as 0…15.
    ///
    /// # Safety
    /// The CPU has the set's instructions. `codes` points into a group of format `F`, `4 · H` rows before its end; each `x`
    /// to 32 codes.
    unsafe fn group<const F: u8, const M: usize, const H: usize>(
        codes: *const u8,
        x: [*const i8; M],
        start: [i32; M],
    ) -> [[int32x4_t; H]; M];

    /// Puts INT8 codes of four rows, inputs 0…3 and 4…7, into the order that suits [`Self::group`].
    fn unpack(first: int8x16_t, second: int8x16_t) -> [int8x16_t; 2];
}

/// A panel's parts, for pointer access.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) codes: *const u8,
    pub(super) group_scales: *const u8,
    pub(super) channel_scales: *const u8,
}

impl Panel {
    pub(super) fn new(panel: &[u8], format: WeightFormat, k: usize) -> Self {
        let layout = panel_layout(format, k);
        Self {
            codes: panel.as_ptr(),
            group_scales: panel[layout.group_scales..].as_ptr(),
            channel_scales: panel[layout.channel_scales..].as_ptr(),
        }
    }

    /// The scales of group `g`, integers.
    ///
    /// # Safety
    /// The panel has format `q4` and a group `g`.
    #[inline(always)]
    pub(super) unsafe fn q4_scales(self, g: usize) -> [int32x4_t; 4] {
        // SAFETY: 8 bytes of group `g`; register arithmetic is part of every 64-bit Arm CPU.
        unsafe {
            let bytes = vld1_u8(self.group_scales.add(g * 8));
            let (low, high) = (vmovl_u8(vand_u8(bytes, vdup_n_u8(0xF))), vmovl_u8(vshr_n_u8::<4>(bytes)));
            [
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_s32_u32(vmovl_high_u16(low)),
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_s32_u32(vmovl_high_u16(high)),
            ]
        }
    }

    /// The scales of group `g` in f16.
    ///
    /// # Safety
    /// The panel has format `q4s` and a group `g`.
    #[inline(always)]
    pub(super) unsafe fn q4s_scales(self, g: usize) -> [float32x4_t; 4] {
        // SAFETY: 32 bytes of group `g`.
        unsafe {
            let at = self.group_scales.add(g * 32);
            let [a, b] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at)));
            let [c, d] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at.add(16))));
            [a, b, c, d]
        }
    }

    /// Multiplies the sums of a row by the channels' scales.
    ///
    /// # Safety
    /// The panel's format has channel scales.
    #[inline(always)]
    pub(super) unsafe fn scale_channels(self, row: [float32x4_t; 4]) -> [float32x4_t; 4] {
        let mut out = row;
        for (q, v) in out.iter_mut().enumerate() {
            // SAFETY: 16 floats, of any alignment.
            *v = unsafe { vmulq_f32(*v, vreinterpretq_f32_u8(vld1q_u8(self.channel_scales.add(16 * q)))) };
        }
        out
    }
}

/// Rows of activations, from some first row and group on.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    codes: *const i8,
    scales: *const f32,
    sums: *const i32,
    /// Groups of a whole row.
    groups: usize,
}

impl Rows {
    /// Rows `row..row + count` from group `g` on.
    pub(super) fn new(x: &QuantView<'_>, groups: usize, row: usize, count: usize, g: usize) -> Self {
        let at = row * groups + g..(row + count) * groups;
        Self {
            codes: x.codes[at.start * GROUP..at.end * GROUP].as_ptr(),
            scales: x.scales[at.clone()].as_ptr(),
            sums: x.sums[at].as_ptr(),
            groups,
        }
    }
}

/// Registers of four outputs of rows `m`, `m + 1` to registers of 2 rows × outputs 0, 1 and 2 rows × outputs 2, 3, or back.
#[inline(always)]
pub(super) fn turn<const M: usize>(mut acc: [[float32x4_t; 4]; M]) -> [[float32x4_t; 4]; M] {
    for m in (0..M & !1).step_by(2) {
        for q in 0..4 {
            // SAFETY: register arithmetic of every 64-bit Arm CPU.
            unsafe {
                let (a, b) = (vreinterpretq_f64_f32(acc[m][q]), vreinterpretq_f64_f32(acc[m + 1][q]));
                acc[m][q] = vreinterpretq_f32_f64(vzip1q_f64(a, b));
                acc[m + 1][q] = vreinterpretq_f32_f64(vzip2q_f64(a, b));
            }
        }
    }
    acc
}

/// A value of each output, for the registers of rows of even and odd index.
#[inline(always)]
fn of_outputs<const PAIRED: bool>(v: int32x4_t) -> [int32x4_t; 2] {
    if !PAIRED {
        return [v, v];
    }
    // SAFETY: register arithmetic of every 64-bit Arm CPU.
    unsafe {
        let v = vreinterpretq_s64_s32(v);
        [vreinterpretq_s32_s64(vzip1q_s64(v, v)), vreinterpretq_s32_s64(vzip2q_s64(v, v))]
    }
}

/// Adds `groups` groups in order to the sums of `M` rows × one panel (in the order of `D`), `4 · H` outputs (`H` is 2 or 4)
/// at a time: so that the integer and float sums of 4 rows stay in the 32 registers.
///
/// # Safety
/// As [`Dots::group`]; the panel has format `F` and, as the rows, `groups` groups.
#[inline(always)]
pub(super) unsafe fn int_tile<D: Dots, const F: u8, const M: usize, const H: usize>(
    panel: Panel,
    rows: Rows,
    groups: usize,
    mut acc: [[float32x4_t; 4]; M],
) -> [[float32x4_t; 4]; M] {
    // SAFETY: all pointers stay inside `M` rows of `groups` groups, and inside the panel.
    unsafe {
        let (none, zero) = ([vdupq_n_s32(0); 4], vdupq_n_f32(0.0));
        for g in 0..groups {
            let integers = if F == Q4 { panel.q4_scales(g) } else { none };
            let mut floats = [zero; 4];
            if F == Q4S {
                floats = panel.q4s_scales(g);
            } else if F == UNPACKED_SCALED {
                for (q, v) in floats.iter_mut().enumerate() {
                    *v = vreinterpretq_f32_u8(vld1q_u8(panel.group_scales.add(g * 64 + q * 16)));
                }
            }
            let (mut x, mut start, mut sx) = ([rows.codes; M], [0; M], [zero; M]);
            for m in 0..M {
                let at = m * rows.groups + g;
                x[m] = rows.codes.add(at * GROUP);
                if is_nibbles(F) {
                    start[m] = -8 * *rows.sums.add(at);
                }
                sx[m] = vdupq_n_f32(*rows.scales.add(at));
            }
            if D::PAIRED {
                for m in (0..M & !1).step_by(2) {
                    let pair = vcombine_f32(vget_low_f32(sx[m]), vget_low_f32(sx[m + 1]));
                    (sx[m], sx[m + 1]) = (pair, pair);
                }
            }
            // Written out, for `first` to be a constant and `acc` to stay in registers.
            macro_rules! outputs {
                ($first:literal) => {
                    let dots = D::group::<F, M, H>(panel.codes.add(g * group_bytes(F) + $first * 16), x, start);
                    for h in 0..H {
                        let q = $first + h;
                        let (by, scale) = if D::PAIRED && M > 1 {
                            let scale = of_outputs::<true>(vreinterpretq_s32_f32(floats[q]));
                            (of_outputs::<true>(integers[q]), scale)
                        } else {
                            let scale = of_outputs::<false>(vreinterpretq_s32_f32(floats[q]));
                            (of_outputs::<false>(integers[q]), scale)
                        };
                        for m in 0..M {
                            acc[m][q] = match F {
                                Q4 => {
                                    let dot = vcvtq_f32_s32(vmulq_s32(dots[m][h], by[m % 2]));
                                    vfmaq_f32(acc[m][q], dot, sx[m])
                                }
                                Q4S | UNPACKED_SCALED => {
                                    let scale = vmulq_f32(sx[m], vreinterpretq_f32_s32(scale[m % 2]));
                                    vfmaq_f32(acc[m][q], vcvtq_f32_s32(dots[m][h]), scale)
                                }
                                _ => vfmaq_f32(acc[m][q], vcvtq_f32_s32(dots[m][h]), sx[m]),
                            };
                        }
                    }
                };
            }
            outputs!(0);
            if H == 2 {
                outputs!(2);
            }
        }
        acc
    }
}

/// All rows of a block times one panel, in tiles.
///
/// # Safety
/// As [`Dots`]; the lengths in `args` fit the block (checked by `Kernels::int_linear`), whose panel `p` is `panel`.
#[inline(always)]
unsafe fn int_rows<D: Dots, const F: u8>(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>, panel: Panel, p: usize) {
    let groups = padded_k(args.k) / GROUP;
    let mut row = 0;
    macro_rules! rows {
        ($m:literal, $h:literal) => {
            while row + $m <= block.rows() {
                let x = Rows::new(&args.x, groups, row, $m, 0);
                // SAFETY: the panel and these rows have `groups` groups.
                unsafe {
                    let acc = int_tile::<D, F, $m, $h>(panel, x, groups, [[vdupq_n_f32(0.0); 4]; $m]);
                    for values in if D::PAIRED { turn(acc) } else { acc } {
                        let values = if F == Q4S { values } else { panel.scale_channels(values) };
                        store(block.row(row), p * PANEL_ROWS, values);
                        row += 1;
                    }
                }
            }
        };
    }
    if D::TALL >= 4 {
        rows!(4, 2);
    }
    rows!(2, 2);
    rows!(1, 4);
}

/// Few rows × all panels.
///
/// # Safety
/// As [`Dots`]; the lengths in `args` fit the block (checked by `Kernels::int_linear`).
#[inline(always)]
pub(super) unsafe fn int_linear<D: Dots>(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let panel = Panel::new(panel, args.format, args.k);
        // SAFETY: as the caller promises; `panel` has the format of `args`.
        unsafe {
            match args.format {
                WeightFormat::Q8 => int_rows::<D, Q8>(args, block, panel, p),
                WeightFormat::Q4 => int_rows::<D, Q4>(args, block, panel, p),
                _ => int_rows::<D, Q4S>(args, block, panel, p),
            }
        }
    }
}
