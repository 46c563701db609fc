//! Pages of keys and values: widened, and turned.

use super::super::asm::widen_f16;
use crate::{PAGE_TOKENS, kernels::generic, kv::KvSlice};
use std::arch::aarch64::*;

attention!("neon");

/// Copies to f32.
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    match from {
        KvSlice::F32(from) => to.copy_from_slice(from),
        KvSlice::F16(from) => {
            let mut chunks = to.chunks_exact_mut(8);
            let mut halves = from.chunks_exact(8);
            for (to, from) in chunks.by_ref().zip(halves.by_ref()) {
                // SAFETY: 8 elements on both sides.
                unsafe {
                    let [low, high] = widen_f16(vld1q_u16(from.as_ptr().cast()));
                    vst1q_f32(to.as_mut_ptr(), low);
                    vst1q_f32(to.as_mut_ptr().add(4), high);
                }
            }
            for (to, from) in chunks.into_remainder().iter_mut().zip(halves.remainder()) {
                *to = from.to_f32();
            }
        }
    }
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32, 4 tokens × 8 dimensions at a time.
#[target_feature(enable = "neon")]
fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    if !hd.is_multiple_of(8) {
        return generic::attention::transpose(from, hd, to);
    }
    assert!(from.len() == PAGE_TOKENS * hd && to.len() == PAGE_TOKENS * hd);
    for t in (0..PAGE_TOKENS).step_by(4) {
        for d in (0..hd).step_by(8) {
            let mut rows = [[vdupq_n_f32(0.0); 2]; 4];
            for (i, row) in rows.iter_mut().enumerate() {
                let at = (t + i) * hd + d;
                // SAFETY: `at + 8 ≤ PAGE_TOKENS · hd`, the length of `from`.
                *row = unsafe {
                    match from {
                        KvSlice::F32(s) => [vld1q_f32(s.as_ptr().add(at)), vld1q_f32(s.as_ptr().add(at + 4))],
                        KvSlice::F16(s) => widen_f16(vld1q_u16(s.as_ptr().add(at).cast())),
                    }
                };
            }
            for half in 0..2 {
                for (i, row) in transpose_4(rows.map(|row| row[half])).into_iter().enumerate() {
                    // SAFETY: row `d + 4 · half + i < hd`, columns `t..t + 4`.
                    unsafe { vst1q_f32(to.as_mut_ptr().add((d + 4 * half + i) * PAGE_TOKENS + t), row) };
                }
            }
        }
    }
}

/// Transposes 4 × 4 floats.
#[inline(always)]
fn transpose_4(rows: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: register arithmetic of every 64-bit Arm CPU.
    unsafe {
        let wide = |v: float32x4_t| vreinterpretq_f64_f32(v);
        let (a, b) = (wide(vtrn1q_f32(rows[0], rows[1])), wide(vtrn2q_f32(rows[0], rows[1])));
        let (c, d) = (wide(vtrn1q_f32(rows[2], rows[3])), wide(vtrn2q_f32(rows[2], rows[3])));
        [vtrn1q_f64(a, c), vtrn1q_f64(b, d), vtrn2q_f64(a, c), vtrn2q_f64(b, d)].map(|v| vreinterpretq_f32_f64(v))
    }
}
