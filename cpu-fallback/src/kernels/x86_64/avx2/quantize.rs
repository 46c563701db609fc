//! Activations in groups of 32.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;
use std::arch::x86_64::*;

/// See [`crate::quant`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let outs = codes.chunks_exact_mut(GROUP).zip(scales).zip(sums);
    let sign = _mm256_set1_epi32(i32::MAX);
    for (group, ((codes, scale), sum)) in x.chunks(GROUP).zip(outs) {
        let mut padded = [0.0f32; GROUP];
        padded[..group.len()].copy_from_slice(group);
        let mut v = [_mm256_setzero_ps(); 4];
        let mut size = _mm256_setzero_si256();
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: 8 of 32 floats.
            *v = unsafe { _mm256_loadu_ps(padded.as_ptr().add(8 * i)) };
            // As integers, infinities are above all numbers and NaNs above infinities.
            size = _mm256_max_epi32(size, _mm256_and_si256(_mm256_castps_si256(*v), sign));
        }
        let half = _mm_max_epi32(_mm256_castsi256_si128(size), _mm256_extracti128_si256::<1>(size));
        let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b10_11_00_01>(half));
        let absmax = f32::from_bits(_mm_cvtsi128_si32(half) as u32);
        if !(absmax >= GROUP_ABSMAX_MIN && absmax.is_finite()) {
            codes.fill(0);
            (*scale, *sum) = (if absmax.is_finite() { 0.0 } else { f32::NAN }, 0);
            continue;
        }
        let inverse = _mm256_set1_ps(127.0 / absmax);
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let q = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
        let all = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        // The packs work in halves: put the quads of codes back in order.
        let all = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 codes.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), all) };
        let four = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        let four = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
        let four = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let four = _mm_add_epi32(four, _mm_shuffle_epi32::<0b10_11_00_01>(four));
        (*scale, *sum) = (absmax / 127.0, _mm_cvtsi128_si32(four));
    }
}
