//! The exact product of u8 activations and INT8 panels.

use super::{
    super::{
        asm::{sdot, smmla},
        gemm_tile::{self, Products},
    },
    eights, pair, rows,
};
use crate::kernels::{Block, GemmU8S8Args};
use std::arch::aarch64::*;

/// 2 × 2 dots of eight per register.
struct Matrix;

impl Products for Matrix {
    const TALL: usize = 8;

    #[inline(always)]
    unsafe fn add<const M: usize, const Q: usize>(acc: &mut [[int32x4_t; Q]; M], w: *const u8, x: [int8x16_t; M]) {
        // SAFETY: the CPU has the instructions; 16 inputs of quad `q`.
        unsafe {
            if M == 1 {
                for q in 0..Q {
                    let at: *const i8 = w.add(16 * q).cast();
                    acc[0][q] = sdot::<0>(acc[0][q], vld1q_s8(at), x[0]);
                    acc[0][q] = sdot::<1>(acc[0][q], vld1q_s8(at.add(64)), x[0]);
                    acc[0][q] = sdot::<2>(acc[0][q], vld1q_s8(at.add(128)), x[0]);
                    acc[0][q] = sdot::<3>(acc[0][q], vld1q_s8(at.add(192)), x[0]);
                }
                return;
            }
            let mut pairs = x;
            for m in (0..M).step_by(2) {
                [pairs[m], pairs[m + 1]] = pair(x[m], x[m + 1]);
            }
            for eight in 0..2 {
                for q in 0..Q {
                    let at = w.add(128 * eight + 16 * q).cast();
                    let [low, high] = eights(vld1q_s8(at), vld1q_s8(at.add(64)));
                    for m in (0..M).step_by(2) {
                        acc[m][q] = smmla(acc[m][q], pairs[m + eight], low);
                        acc[m + 1][q] = smmla(acc[m + 1][q], pairs[m + eight], high);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<const M: usize, const Q: usize>(mut acc: [[int32x4_t; Q]; M]) -> [[int32x4_t; Q]; M] {
        for m in (0..M - 1).step_by(2) {
            for q in 0..Q {
                [acc[m][q], acc[m + 1][q]] = rows(acc[m][q], acc[m + 1][q]);
            }
        }
        acc
    }
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    // SAFETY: the instructions are enabled; lengths were checked by `Kernels::gemm_u8s8`.
    unsafe { gemm_tile::gemm_u8s8::<Matrix>(args, block) }
}
