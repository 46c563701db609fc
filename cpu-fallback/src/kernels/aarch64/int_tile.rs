//! Register tiles of integer linears: a few rows × one panel, group by group. The sets differ in how they compute the
//! dots of a group ([`Dots`]).

use super::{asm::widen_f16, store};
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::arch::aarch64::*;

pub(super) const Q8: u8 = 0;

const Q4: u8 = 1;

const Q4S: u8 = 2;

/// How a set multiplies a group of 32 inputs.
///
/// Everything between a set's `int_linear`, which enables the instructions, and its implementation of this is
/// `inline(always)` and no closure: only so do the instructions end up in one function, and the sums in registers.
pub(super) trait Dots {
    /// Rows of the tallest tile: 2 or 4.
    const TALL: usize;

    /// `start[m] + Σ_k x[m][k] · w[r][k]` for `4 · H` rows `r` of a panel, from the one whose codes `codes` points to; 4-bit
    /// codes count as 0…15.
    ///
    /// # Safety
    /// The CPU has the set's instructions. `codes` points into a group of format `F`, `4 · H` rows before its end; each `x`
    /// to 32 codes.
    unsafe fn group<const F: u8, const M: usize, const H: usize>(
        codes: *const u8,
        x: [*const i8; M],
        start: [i32; M],
    ) -> [[int32x4_t; H]; M];
}

/// A panel's parts, for pointer access.
#[derive(Clone, Copy)]
struct Panel {
    codes: *const u8,
    group_scales: *const u8,
    channel_scales: *const f32,
}

impl Panel {
    fn new(panel: &[u8], format: WeightFormat, k: usize) -> Self {
        let layout = panel_layout(format, k);
        Self {
            codes: panel.as_ptr(),
            group_scales: panel[layout.group_scales..].as_ptr(),
            channel_scales: panel[layout.channel_scales..].as_ptr().cast(),
        }
    }

    /// The scales of group `g` for formats that have some: integers of `q4`.
    ///
    /// # Safety
    /// The panel has format `q4` and a group `g`.
    #[inline(always)]
    unsafe fn q4_scales(self, g: usize) -> [int32x4_t; 4] {
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

    /// The scales of group `g` of `q4s`.
    ///
    /// # Safety
    /// The panel has format `q4s` and a group `g`.
    #[inline(always)]
    unsafe fn q4s_scales(self, g: usize) -> [float32x4_t; 4] {
        // SAFETY: 32 bytes of group `g`.
        unsafe {
            let at = self.group_scales.add(g * 32);
            let [a, b] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at)));
            let [c, d] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at.add(16))));
            [a, b, c, d]
        }
    }

    /// Channel scales.
    ///
    /// # Safety
    /// The panel's format has channel scales.
    #[inline(always)]
    unsafe fn channel_scales(self) -> [float32x4_t; 4] {
        // SAFETY: 16 floats, of any alignment.
        std::array::from_fn(|q| unsafe { vreinterpretq_f32_u8(vld1q_u8(self.channel_scales.cast::<u8>().add(16 * q))) })
    }
}

/// Bytes of a group's codes.
const fn group_bytes(format: u8) -> usize {
    if format == Q8 { GROUP * PANEL_ROWS } else { GROUP * PANEL_ROWS / 2 }
}

/// `M` rows × one panel for every group in order, `4 · H` outputs at a time: so that the integer and float sums of
/// 4 rows stay in the 32 registers.
///
/// # Safety
/// As [`Dots::group`]; the panel has `groups` groups of format `F`, `codes`, `scales`, `sums` point to `M` rows of them.
#[inline(always)]
unsafe fn int_tile<D: Dots, const F: u8, const M: usize, const H: usize>(
    panel: Panel,
    codes: *const i8,
    scales: *const f32,
    sums: *const i32,
    groups: usize,
) -> [[float32x4_t; 4]; M] {
    // SAFETY: all pointers stay inside `M` rows of `groups` groups, and inside the panel.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 4]; M];
        for g in 0..groups {
            let integers = if F == Q4 { panel.q4_scales(g) } else { [vdupq_n_s32(1); 4] };
            let floats = if F == Q4S { panel.q4s_scales(g) } else { [vdupq_n_f32(1.0); 4] };
            let x: [*const i8; M] = std::array::from_fn(|m| codes.add((m * groups + g) * GROUP));
            let start = std::array::from_fn(|m| if F == Q8 { 0 } else { -8 * *sums.add(m * groups + g) });
            let sx: [f32; M] = std::array::from_fn(|m| *scales.add(m * groups + g));
            for first in (0..4).step_by(H) {
                let dots = D::group::<F, M, H>(panel.codes.add(g * group_bytes(F) + first * 16), x, start);
                for m in 0..M {
                    for h in 0..H {
                        let q = first + h;
                        acc[m][q] = match F {
                            Q8 => vfmaq_n_f32(acc[m][q], vcvtq_f32_s32(dots[m][h]), sx[m]),
                            Q4 => {
                                let dot = vcvtq_f32_s32(vmulq_s32(dots[m][h], integers[q]));
                                vfmaq_n_f32(acc[m][q], dot, sx[m])
                            }
                            _ => vfmaq_f32(acc[m][q], vcvtq_f32_s32(dots[m][h]), vmulq_n_f32(floats[q], sx[m])),
                        };
                    }
                }
            }
        }
        if F != Q4S {
            let scale = panel.channel_scales();
            for row in &mut acc {
                for q in 0..4 {
                    row[q] = vmulq_f32(row[q], scale[q]);
                }
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
                // SAFETY: rows `row..row + $m` exist.
                let acc = unsafe {
                    int_tile::<D, F, $m, $h>(
                        panel,
                        args.x.codes.as_ptr().add(row * groups * GROUP),
                        args.x.scales.as_ptr().add(row * groups),
                        args.x.sums.as_ptr().add(row * groups),
                        groups,
                    )
                };
                for values in acc {
                    store(block.row(row), p * PANEL_ROWS, values);
                    row += 1;
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

/// All rows × all panels.
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
