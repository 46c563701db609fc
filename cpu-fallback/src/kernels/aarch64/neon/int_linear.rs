//! Integer linears over panels: 4-bit and 8-bit weights times activations in groups of 32.

use super::{
    super::{
        int_gemm::FEW_ROWS,
        int_tile::{self, Dots, is_nibbles},
    },
    int_gemm::int_gemm,
};
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::layout::PANEL_ROWS;
use std::arch::aarch64::*;

/// Products of bytes in 16 bits.
pub(super) struct Widening;

/// Four activations, four times.
///
/// # Safety
/// `x` points to four codes.
#[inline(always)]
unsafe fn four(x: *const i8) -> int8x16_t {
    // SAFETY: as the caller promises.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned())) }
}

impl Dots for Widening {
    // Two registers of sums per row and quad of outputs.
    const TALL: usize = 2;
    const PAIRED: bool = false;

    #[inline(always)]
    unsafe fn group<const F: u8, const M: usize, const H: usize>(
        codes: *const u8,
        x: [*const i8; M],
        start: [i32; M],
    ) -> [[int32x4_t; H]; M] {
        // SAFETY: 64 bytes of codes per 4 (`Q8`) or 8 inputs, of which `16 · H` are read; 32 inputs.
        unsafe {
            // Rows 0 and 1 of a quad, rows 2 and 3; per row two sums, of even and odd pairs of inputs.
            let mut pairs = [[[vdupq_n_s32(0); 2]; H]; M];
            if !is_nibbles(F) {
                for j in 0..4 {
                    let x: [[int8x16_t; 2]; M] =
                        std::array::from_fn(|m| [four(x[m].add(8 * j)), four(x[m].add(8 * j + 4))]);
                    for h in 0..H {
                        let at = codes.add(j * 8 * PANEL_ROWS + h * 16).cast::<i8>();
                        let (a, b) = (vld1q_s8(at), vld1q_s8(at.add(64)));
                        for m in 0..M {
                            let low = vmull_s8(vget_low_s8(a), vget_low_s8(x[m][0]));
                            let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(x[m][1]));
                            let high = vmlal_high_s8(vmull_high_s8(a, x[m][0]), b, x[m][1]);
                            pairs[m][h] = [vpadalq_s16(pairs[m][h][0], low), vpadalq_s16(pairs[m][h][1], high)];
                        }
                    }
                }
            } else {
                let mut sums = [[[vdupq_n_s16(0); 2]; H]; M];
                for j in 0..4 {
                    let x: [[int8x16_t; 2]; M] =
                        std::array::from_fn(|m| [four(x[m].add(8 * j)), four(x[m].add(8 * j + 4))]);
                    for h in 0..H {
                        let w = vld1q_u8(codes.add(j * 4 * PANEL_ROWS + h * 16));
                        let a = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(0xF)));
                        let b = vreinterpretq_s8_u8(vshrq_n_u8::<4>(w));
                        for m in 0..M {
                            let [low, high] = sums[m][h];
                            let low = vmlal_s8(low, vget_low_s8(a), vget_low_s8(x[m][0]));
                            let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(x[m][1]));
                            let high = vmlal_high_s8(vmlal_high_s8(high, a, x[m][0]), b, x[m][1]);
                            sums[m][h] = [low, high];
                        }
                    }
                }
                for m in 0..M {
                    for h in 0..H {
                        pairs[m][h] = sums[m][h].map(|s| vpaddlq_s16(s));
                    }
                }
            }
            let mut dots = [[vdupq_n_s32(0); H]; M];
            for m in 0..M {
                for h in 0..H {
                    let [low, high] = pairs[m][h];
                    dots[m][h] = vaddq_s32(vpaddq_s32(low, high), vdupq_n_s32(start[m]));
                }
            }
            dots
        }
    }

    #[inline(always)]
    fn unpack(first: int8x16_t, second: int8x16_t) -> [int8x16_t; 2] {
        [first, second]
    }
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    if block.rows() > FEW_ROWS {
        return int_gemm(args, block);
    }
    // SAFETY: NEON is enabled; lengths were checked by `Kernels::int_linear`.
    unsafe { int_tile::int_linear::<Widening>(args, block) }
}
