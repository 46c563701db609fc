//! Loops in registers that reach the most this set's instructions can do.

use std::{arch::x86_64::*, hint::black_box};

/// Chains that hide the latency of one operation.
const CHAINS: usize = 16;
/// Operations of a chain between two checks of the counter.
const UNROLL: u64 = 8;

/// `turns` rounds of int8 dot products; returns the operations done, a multiply-add being two.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) fn peak_int8(turns: u64) -> u64 {
    let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
    let mut acc = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..turns {
        for _ in 0..UNROLL {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, b);
            }
        }
    }
    black_box(acc);
    turns * UNROLL * CHAINS as u64 * 64 * 2
}

/// `turns` rounds of f32 multiply-adds; returns the operations done, a multiply-add being two.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub(in crate::kernels) fn peak_f32(turns: u64) -> u64 {
    let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.5)));
    let mut acc = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..turns {
        for _ in 0..UNROLL {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(a, b, *acc);
            }
        }
    }
    black_box(acc);
    turns * UNROLL * CHAINS as u64 * 16 * 2
}
