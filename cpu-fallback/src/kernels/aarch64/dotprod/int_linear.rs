//! Integer linears over panels: 4-bit and 8-bit weights times activations in groups of 32.

use super::{
    super::{
        asm::sdot,
        int_gemm::FEW_ROWS,
        int_tile::{self, Dots, is_nibbles},
    },
    int_gemm::int_gemm,
};
use crate::kernels::{Block, IntLinearArgs};
use std::arch::aarch64::*;

/// Four products and their sum per lane.
pub(in crate::kernels::aarch64) struct Dot4;

impl Dots for Dot4 {
    const TALL: usize = 4;
    const PAIRED: bool = false;

    #[inline(always)]
    unsafe fn group<const F: u8, const M: usize, const H: usize>(
        codes: *const u8,
        x: [*const i8; M],
        start: [i32; M],
    ) -> [[int32x4_t; H]; M] {
        // SAFETY: the CPU has the instructions; quad `h` of the group's codes, 16 of 32 inputs.
        unsafe {
            let mut acc = [[vdupq_n_s32(0); H]; M];
            // A lone row has registers to spare for a second, shorter chain.
            let mut second = acc;
            for m in 0..M {
                acc[m] = [vdupq_n_s32(start[m]); H];
            }
            for half in 0..2 {
                let x: [int8x16_t; M] = std::array::from_fn(|m| vld1q_s8(x[m].add(16 * half)));
                if !is_nibbles(F) {
                    macro_rules! four_inputs {
                        ($lane:literal) => {
                            for h in 0..H {
                                let w = vld1q_s8(codes.add((4 * half + $lane) * 64 + 16 * h).cast());
                                for m in 0..M {
                                    if M == 1 && $lane % 2 == 1 {
                                        second[m][h] = sdot::<$lane>(second[m][h], w, x[m]);
                                    } else {
                                        acc[m][h] = sdot::<$lane>(acc[m][h], w, x[m]);
                                    }
                                }
                            }
                        };
                    }
                    four_inputs!(0);
                    four_inputs!(1);
                    four_inputs!(2);
                    four_inputs!(3);
                } else {
                    macro_rules! eight_inputs {
                        ($low:literal, $high:literal) => {
                            for h in 0..H {
                                let w = vld1q_u8(codes.add((4 * half + $low) * 32 + 16 * h));
                                let low = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(0xF)));
                                let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(w));
                                for m in 0..M {
                                    acc[m][h] = sdot::<$low>(acc[m][h], low, x[m]);
                                    if M == 1 {
                                        second[m][h] = sdot::<$high>(second[m][h], high, x[m]);
                                    } else {
                                        acc[m][h] = sdot::<$high>(acc[m][h], high, x[m]);
                                    }
                                }
                            }
                        };
                    }
                    eight_inputs!(0, 1);
                    eight_inputs!(2, 3);
                }
            }
            if M == 1 {
                for m in 0..M {
                    for h in 0..H {
                        acc[m][h] = vaddq_s32(acc[m][h], second[m][h]);
                    }
                }
            }
            acc
        }
    }

    #[inline(always)]
    fn unpack(first: int8x16_t, second: int8x16_t) -> [int8x16_t; 2] {
        [first, second]
    }
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    if block.rows() > FEW_ROWS {
        return int_gemm(args, block);
    }
    // SAFETY: the instructions are enabled; lengths were checked by `Kernels::int_linear`.
    unsafe { int_tile::int_linear::<Dot4>(args, block) }
}
