//! The exact product of u8 activations and INT8 panels.

use super::super::gemm_tile::{self, Products};
use crate::kernels::{Block, GemmU8S8Args};
use std::arch::aarch64::*;

/// Products of bytes in 16 bits.
struct Widening;

impl Products for Widening {
    const TALL: usize = 2;

    #[inline(always)]
    unsafe fn add<const M: usize, const Q: usize>(acc: &mut [[int32x4_t; Q]; M], w: *const u8, x: [int8x16_t; M]) {
        for q in 0..Q {
            // SAFETY: 16 bytes of each 64.
            let w: [int8x16_t; 4] = std::array::from_fn(|i| unsafe { vld1q_s8(w.add(64 * i + 16 * q).cast()) });
            for m in 0..M {
                // SAFETY: register arithmetic of every 64-bit Arm CPU.
                unsafe {
                    let x = vreinterpretq_s32_s8(x[m]);
                    let x = [
                        vdupq_laneq_s32::<0>(x),
                        vdupq_laneq_s32::<1>(x),
                        vdupq_laneq_s32::<2>(x),
                        vdupq_laneq_s32::<3>(x),
                    ];
                    let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
                    for i in 0..4 {
                        let x = vreinterpretq_s8_s32(x[i]);
                        low = vpadalq_s16(low, vmull_s8(vget_low_s8(w[i]), vget_low_s8(x)));
                        high = vpadalq_s16(high, vmull_high_s8(w[i], x));
                    }
                    acc[m][q] = vaddq_s32(acc[m][q], vpaddq_s32(low, high));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<const M: usize, const Q: usize>(acc: [[int32x4_t; Q]; M]) -> [[int32x4_t; Q]; M] {
        acc
    }
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    // SAFETY: NEON is enabled; lengths were checked by `Kernels::gemm_u8s8`.
    unsafe { gemm_tile::gemm_u8s8::<Widening>(args, block) }
}
