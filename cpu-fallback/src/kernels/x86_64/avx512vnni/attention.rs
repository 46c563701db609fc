//! Pages of keys and values: widened, and turned.

use crate::{PAGE_TOKENS, kernels::generic, kv::KvSlice};
use std::arch::x86_64::*;

attention!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

/// Copies to f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    match from {
        KvSlice::F32(from) => to.copy_from_slice(from),
        KvSlice::F16(from) => {
            let mut chunks = to.chunks_exact_mut(16);
            let mut halves = from.chunks_exact(16);
            for (to, from) in chunks.by_ref().zip(halves.by_ref()) {
                // SAFETY: 16 elements on both sides.
                unsafe {
                    let v = _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()));
                    _mm512_storeu_ps(to.as_mut_ptr(), v);
                }
            }
            for (to, from) in chunks.into_remainder().iter_mut().zip(halves.remainder()) {
                *to = from.to_f32();
            }
        }
    }
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32, 16 × 16 at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    if !hd.is_multiple_of(16) {
        return generic::attention::transpose(from, hd, to);
    }
    assert!(from.len() == PAGE_TOKENS * hd && to.len() == PAGE_TOKENS * hd);
    for t in (0..PAGE_TOKENS).step_by(16) {
        for d in (0..hd).step_by(16) {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                let at = (t + i) * hd + d;
                // SAFETY: `at + 16 ≤ PAGE_TOKENS · hd`, the length of `from`.
                *row = unsafe {
                    match from {
                        KvSlice::F32(s) => _mm512_loadu_ps(s.as_ptr().add(at)),
                        KvSlice::F16(s) => _mm512_cvtph_ps(_mm256_loadu_si256(s.as_ptr().add(at).cast())),
                    }
                };
            }
            for (i, row) in transpose_16(rows).into_iter().enumerate() {
                // SAFETY: row `d + i < hd`, columns `t..t + 16`.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((d + i) * PAGE_TOKENS + t), row) };
            }
        }
    }
}

/// Transposes 16 × 16 floats.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose_16(rows: [__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([zero; 16], [zero; 16]);
    // Pairs of rows, then quads, inside 128-bit lanes …
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        for h in 0..2 {
            let (x, y) = (_mm512_castps_pd(a[4 * i + h]), _mm512_castps_pd(a[4 * i + 2 + h]));
            b[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
    // … b[4i + c] now holds, in lane l, column 4l + c of rows 4i..4i+4. Then the lanes change places.
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xDD>(b[c], b[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xDD>(b[8 + c], b[12 + c]);
        a[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        a[8 + c] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
        a[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        a[12 + c] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
    }
    a
}
