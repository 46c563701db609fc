//! Pages of keys and values: widened, and turned.

use crate::{PAGE_TOKENS, kernels::generic, kv::KvSlice};
use std::arch::x86_64::*;

attention!("avx2,fma,f16c");

/// Copies to f32.
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    match from {
        KvSlice::F32(from) => to.copy_from_slice(from),
        KvSlice::F16(from) => {
            let mut chunks = to.chunks_exact_mut(8);
            let mut halves = from.chunks_exact(8);
            for (to, from) in chunks.by_ref().zip(halves.by_ref()) {
                // SAFETY: 8 elements on both sides.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
            }
            for (to, from) in chunks.into_remainder().iter_mut().zip(halves.remainder()) {
                *to = from.to_f32();
            }
        }
    }
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32, 8 × 8 at a time.
#[target_feature(enable = "avx2,f16c")]
fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    if !hd.is_multiple_of(8) {
        return generic::attention::transpose(from, hd, to);
    }
    assert!(from.len() == PAGE_TOKENS * hd && to.len() == PAGE_TOKENS * hd);
    for t in (0..PAGE_TOKENS).step_by(8) {
        for d in (0..hd).step_by(8) {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                let at = (t + i) * hd + d;
                // SAFETY: `at + 8 ≤ PAGE_TOKENS · hd`, the length of `from`.
                *row = unsafe {
                    match from {
                        KvSlice::F32(s) => _mm256_loadu_ps(s.as_ptr().add(at)),
                        KvSlice::F16(s) => _mm256_cvtph_ps(_mm_loadu_si128(s.as_ptr().add(at).cast())),
                    }
                };
            }
            for (i, row) in transpose_8(rows).into_iter().enumerate() {
                // SAFETY: row `d + i < hd`, columns `t..t + 8`.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr().add((d + i) * PAGE_TOKENS + t), row) };
            }
        }
    }
}

/// Transposes 8 × 8 floats.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    let zero = _mm256_setzero_ps();
    let (mut a, mut b) = ([zero; 8], [zero; 8]);
    for i in 0..4 {
        a[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..2 {
        for h in 0..2 {
            let (x, y) = (_mm256_castps_pd(a[4 * i + h]), _mm256_castps_pd(a[4 * i + 2 + h]));
            b[4 * i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
            b[4 * i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
        }
    }
    // b[4i + c] holds columns c and 4 + c of rows 4i..4i+4.
    for c in 0..4 {
        a[c] = _mm256_permute2f128_ps::<0x20>(b[c], b[4 + c]);
        a[4 + c] = _mm256_permute2f128_ps::<0x31>(b[c], b[4 + c]);
    }
    a
}
