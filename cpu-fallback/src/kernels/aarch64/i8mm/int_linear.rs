//! Integer linears over panels: 4-bit and 8-bit weights times activations in groups of 32.

use super::{
    super::{
        asm::smmla,
        dotprod::Dot4,
        int_gemm::FEW_ROWS,
        int_tile::{self, Dots, UNPACKED, UNPACKED_SCALED, is_nibbles},
    },
    eights,
    int_gemm::int_gemm,
    pair, rows,
};
use crate::kernels::{Block, IntLinearArgs};
use std::arch::aarch64::*;

/// 2 × 2 dots of eight per register.
pub(super) struct Matrix;

impl Dots for Matrix {
    const TALL: usize = 4;
    const PAIRED: bool = true;

    #[inline(always)]
    unsafe fn group<const F: u8, const M: usize, const H: usize>(
        codes: *const u8,
        x: [*const i8; M],
        start: [i32; M],
    ) -> [[int32x4_t; H]; M] {
        let is_unpacked = F == UNPACKED || F == UNPACKED_SCALED;
        if M == 1 {
            // SAFETY: the caller's promises; `i8mm` implies `dotprod`.
            return unsafe { if is_unpacked { lone_row(codes, x) } else { Dot4::group::<F, M, H>(codes, x, start) } };
        }
        // SAFETY: the CPU has the instructions; quad `h` of the group's codes, 16 of 32 inputs.
        unsafe {
            // Rows `m` and `m + 1` times outputs 0, 1 of quad `h` in `[m][h]`, times outputs 2, 3 in `[m + 1][h]`.
            let mut acc = [[vdupq_n_s32(0); H]; M];
            for m in (0..M).step_by(2) {
                let start = vcombine_s32(vdup_n_s32(start[m]), vdup_n_s32(start[m + 1]));
                (acc[m], acc[m + 1]) = ([start; H], [start; H]);
            }
            for half in 0..2 {
                // Inputs 0…7 and 8…15 of rows `m` and `m + 1` in `[m]` and `[m + 1]`.
                let mut pairs = [vdupq_n_s8(0); M];
                for m in (0..M).step_by(2) {
                    let (a, b) = (vld1q_s8(x[m].add(16 * half)), vld1q_s8(x[m + 1].add(16 * half)));
                    [pairs[m], pairs[m + 1]] = pair(a, b);
                }
                for eight in 0..2 {
                    for h in 0..H {
                        let j = 2 * half + eight;
                        let (a, b) = if !is_nibbles(F) {
                            let at = codes.add(j * 128 + 16 * h).cast();
                            (vld1q_s8(at), vld1q_s8(at.add(64)))
                        } else {
                            let w = vld1q_u8(codes.add(j * 64 + 16 * h));
                            (vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(0xF))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(w)))
                        };
                        let [low, high] = if is_unpacked { [a, b] } else { eights(a, b) };
                        for m in (0..M).step_by(2) {
                            acc[m][h] = smmla(acc[m][h], pairs[m + eight], low);
                            acc[m + 1][h] = smmla(acc[m + 1][h], pairs[m + eight], high);
                        }
                    }
                }
            }
            acc
        }
    }

    #[inline(always)]
    fn unpack(first: int8x16_t, second: int8x16_t) -> [int8x16_t; 2] {
        eights(first, second)
    }
}

/// Unpacked codes times one row, which stands for both rows of a pair.
///
/// # Safety
/// As [`Dots::group`]; `M` is 1.
#[inline(always)]
unsafe fn lone_row<const M: usize, const H: usize>(codes: *const u8, x: [*const i8; M]) -> [[int32x4_t; H]; M] {
    // SAFETY: as in `group`.
    unsafe {
        let mut acc = [[[vdupq_n_s32(0); 2]; H]; M];
        for half in 0..2 {
            let row = vld1q_s8(x[0].add(16 * half));
            for (eight, x) in pair(row, row).into_iter().enumerate() {
                for h in 0..H {
                    let at: *const i8 = codes.add((2 * half + eight) * 128 + 16 * h).cast();
                    acc[0][h] = [smmla(acc[0][h][0], x, vld1q_s8(at)), smmla(acc[0][h][1], x, vld1q_s8(at.add(64)))];
                }
            }
        }
        let mut dots = [[vdupq_n_s32(0); H]; M];
        for h in 0..H {
            let [low, high] = acc[0][h];
            [dots[0][h], _] = rows(low, high);
        }
        dots
    }
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    if block.rows() > FEW_ROWS {
        return int_gemm(args, block);
    }
    // SAFETY: the instructions are enabled; lengths were checked by `Kernels::int_linear`.
    unsafe { int_tile::int_linear::<Matrix>(args, block) }
}
