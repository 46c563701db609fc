//! Loops in registers, in portable code: what a compiler makes of dot products and multiply-adds on this machine.

use super::gemm_u8s8::dot4;
use std::hint::black_box;

/// Rounds between two checks that keep the optimiser honest.
const UNROLL: u64 = 64;

/// `turns` rounds of int8 dot products; returns the operations done, a multiply-add being two.
pub(in crate::kernels) fn peak_int8(turns: u64) -> u64 {
    let mut weights = [3i8; 64];
    let mut acc = [0i32; 16];
    for turn in 0..turns {
        weights[0] = turn as i8;
        for i in 0..UNROLL {
            dot4(&mut acc, black_box(&weights), &[i as i8, 2, -3, 4]);
        }
    }
    black_box(acc);
    turns * UNROLL * 64 * 2
}

/// `turns` rounds of f32 multiply-adds; returns the operations done, a multiply-add being two.
pub(in crate::kernels) fn peak_f32(turns: u64) -> u64 {
    let (a, b) = (black_box(0.5f32), black_box(1.5f32));
    let mut acc = [0.0f32; 64];
    for _ in 0..turns {
        for _ in 0..UNROLL {
            for acc in &mut acc {
                *acc = a.mul_add(b, *acc);
            }
        }
    }
    black_box(acc);
    turns * UNROLL * 64 * 2
}

/// Reads all of `data` and adds it up: a plain stream.
#[inline(always)]
pub(in crate::kernels) fn read_sum(data: &[u64]) -> u64 {
    data.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}
