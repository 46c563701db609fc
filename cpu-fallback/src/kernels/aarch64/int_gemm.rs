//! Integer linears of many rows: blocks of K whose weights stay in the first cache are unpacked once and serve all rows.
//!
//! Unpacked weights are INT8 in the order that the set multiplies fastest. `q4` codes are multiplied by their group's
//! scale (−120…105 fits a byte), so `q4` costs what `q8` does. Sums wait in the output between blocks, so that each stays one
//! chain in the contract's order.

use super::{
    int_tile::{Dots, Panel, Rows, UNPACKED, UNPACKED_SCALED, group_bytes, int_tile, turn},
    load, store,
};
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::{arch::aarch64::*, ops::Range};

/// Most rows that are streamed past the packed weights; more are worth unpacking for.
pub(super) const FEW_ROWS: usize = 8;
/// Groups of 32 inputs in a block: 8 KiB of weights of a panel.
const BLOCK_GROUPS: usize = 16;

/// A block of weights, unpacked.
struct Unpacked {
    codes: [u8; BLOCK_GROUPS * group_bytes(UNPACKED)],
    /// Scales of `q4s`, per group.
    scales: [f32; BLOCK_GROUPS * PANEL_ROWS],
}

/// Unpacks `groups` of a panel.
///
/// # Safety
/// The panel has format `format` and these groups, at most [`BLOCK_GROUPS`]; the CPU has the set's instructions.
#[inline(always)]
unsafe fn unpack<D: Dots>(format: WeightFormat, panel: Panel, groups: Range<usize>, w: &mut Unpacked) {
    for (i, g) in groups.enumerate() {
        // SAFETY: group `g` of the panel, group `i` of the block.
        unsafe {
            let out: *mut i8 = w.codes.as_mut_ptr().add(i * group_bytes(UNPACKED)).cast();
            let mut factors = [vdupq_n_s8(1); 4];
            if format == WeightFormat::Q4 {
                // The scale of each output, four times.
                factors = panel.q4_scales(g).map(|v| vreinterpretq_s8_s32(vmulq_n_s32(v, 0x0101_0101)));
            } else if format == WeightFormat::Q4s {
                for (q, v) in panel.q4s_scales(g).into_iter().enumerate() {
                    vst1q_f32(w.scales.as_mut_ptr().add(i * PANEL_ROWS + 4 * q), v);
                }
            }
            for j in 0..GROUP / 8 {
                for q in 0..4 {
                    let (first, second) = if format == WeightFormat::Q8 {
                        let at: *const i8 = panel.codes.add(g * GROUP * PANEL_ROWS + j * 128 + q * 16).cast();
                        (vld1q_s8(at), vld1q_s8(at.add(64)))
                    } else {
                        let nibbles = vld1q_u8(panel.codes.add(g * GROUP * PANEL_ROWS / 2 + j * 64 + q * 16));
                        let first = vreinterpretq_s8_u8(vandq_u8(nibbles, vdupq_n_u8(0xF)));
                        let second = vreinterpretq_s8_u8(vshrq_n_u8::<4>(nibbles));
                        let eight = vdupq_n_s8(8);
                        (vmulq_s8(vsubq_s8(first, eight), factors[q]), vmulq_s8(vsubq_s8(second, eight), factors[q]))
                    };
                    let [first, second] = D::unpack(first, second);
                    vst1q_s8(out.add(j * 128 + q * 16), first);
                    vst1q_s8(out.add(j * 128 + q * 16 + 64), second);
                }
            }
        }
    }
}

/// All rows × one panel.
///
/// # Safety
/// As [`Dots`]; the lengths in `args` fit the block (checked by `Kernels::int_linear`), whose panel `p` is `panel`.
#[inline(always)]
unsafe fn panel_rows<D: Dots, const F: u8>(
    args: &IntLinearArgs<'_>,
    block: &mut Block<'_, f32>,
    panel: Panel,
    p: usize,
    w: &mut Unpacked,
) {
    let groups = padded_k(args.k) / GROUP;
    for start in (0..groups).step_by(BLOCK_GROUPS) {
        let range = start..groups.min(start + BLOCK_GROUPS);
        // SAFETY: the range lies in the panel and is at most a block.
        unsafe { unpack::<D>(args.format, panel, range.clone(), w) };
        let group_scales = w.scales.as_ptr().cast();
        let unpacked = Panel { codes: w.codes.as_ptr(), group_scales, channel_scales: panel.channel_scales };
        let mut row = 0;
        macro_rules! rows {
            ($m:literal, $h:literal) => {
                while row + $m <= block.rows() {
                    let x = Rows::new(&args.x, groups, row, $m, start);
                    // SAFETY: block and rows have the range's groups.
                    unsafe {
                        let mut acc = [[vdupq_n_f32(0.0); 4]; $m];
                        if start > 0 {
                            for m in 0..$m {
                                acc[m] = load(block.row(row + m), p * PANEL_ROWS);
                            }
                        }
                        let acc = if D::PAIRED { turn(acc) } else { acc };
                        let acc = int_tile::<D, F, $m, $h>(unpacked, x, range.len(), acc);
                        for values in if D::PAIRED { turn(acc) } else { acc } {
                            let scaled = F == UNPACKED && range.end == groups;
                            let values = if scaled { panel.scale_channels(values) } else { values };
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
}

/// Many rows × all panels.
///
/// # Safety
/// As [`Dots`]; the lengths in `args` fit the block (checked by `Kernels::int_linear`).
#[inline(always)]
pub(super) unsafe fn int_gemm<D: Dots>(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let mut w = Unpacked { codes: [0; BLOCK_GROUPS * group_bytes(UNPACKED)], scales: [0.0; BLOCK_GROUPS * PANEL_ROWS] };
    let bytes = panel_layout(args.format, args.k).bytes;
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let panel = Panel::new(panel, args.format, args.k);
        // SAFETY: as the caller promises; `panel` has the format of `args`.
        unsafe {
            if args.format == WeightFormat::Q4s {
                panel_rows::<D, UNPACKED_SCALED>(args, block, panel, p, &mut w);
            } else {
                panel_rows::<D, UNPACKED>(args, block, panel, p, &mut w);
            }
        }
    }
}
