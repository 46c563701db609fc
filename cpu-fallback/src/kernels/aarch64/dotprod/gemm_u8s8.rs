//! The exact product of u8 activations and INT8 panels.

use super::super::{
    asm::sdot,
    gemm_tile::{self, Products},
};
use crate::kernels::{Block, GemmU8S8Args};
use std::arch::aarch64::*;

/// Four products and their sum per lane.
struct Dot4;

impl Products for Dot4 {
    const TALL: usize = 4;

    #[inline(always)]
    unsafe fn add<const M: usize, const Q: usize>(acc: &mut [[int32x4_t; Q]; M], w: *const u8, x: [int8x16_t; M]) {
        macro_rules! four_inputs {
            ($lane:literal) => {
                for q in 0..Q {
                    // SAFETY: the CPU has the instruction; four inputs of quad `q`.
                    unsafe {
                        let w = vld1q_s8(w.add(64 * $lane + 16 * q).cast());
                        for m in 0..M {
                            acc[m][q] = sdot::<$lane>(acc[m][q], w, x[m]);
                        }
                    }
                }
            };
        }
        four_inputs!(0);
        four_inputs!(1);
        four_inputs!(2);
        four_inputs!(3);
    }

    #[inline(always)]
    unsafe fn finish<const M: usize, const Q: usize>(acc: [[int32x4_t; Q]; M]) -> [[int32x4_t; Q]; M] {
        acc
    }
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    // SAFETY: the instructions are enabled; lengths were checked by `Kernels::gemm_u8s8`.
    unsafe { gemm_tile::gemm_u8s8::<Dot4>(args, block) }
}
