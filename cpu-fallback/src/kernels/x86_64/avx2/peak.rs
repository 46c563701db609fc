//! Loops in registers that reach the most this set's instructions can do.

use std::{arch::x86_64::*, hint::black_box};

/// Chains that hide the latency of one operation.
const CHAINS: usize = 12;
/// Operations of a chain between two checks of the counter.
const UNROLL: u64 = 8;

/// `turns` rounds of int8 dot products (three instructions each); returns the operations done, a multiply-add being two.
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn peak_int8(turns: u64) -> u64 {
    let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(-5)));
    let ones = black_box(_mm256_set1_epi16(1));
    let mut acc = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..turns {
        for _ in 0..UNROLL {
            for acc in &mut acc {
                // Each product starts from another value, so that none can be shared.
                let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, *acc), b);
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    black_box(acc);
    turns * UNROLL * CHAINS as u64 * 32 * 2
}

/// `turns` rounds of f32 multiply-adds; returns the operations done, a multiply-add being two.
#[target_feature(enable = "avx2,fma")]
pub(in crate::kernels) fn peak_f32(turns: u64) -> u64 {
    let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.5)));
    let mut acc = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..turns {
        for _ in 0..UNROLL {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(a, b, *acc);
            }
        }
    }
    black_box(acc);
    turns * UNROLL * CHAINS as u64 * 8 * 2
}
