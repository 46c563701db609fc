//! Activations in groups of 32.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;
use std::arch::x86_64::*;

/// See [`crate::quant`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let outs = codes.chunks_exact_mut(GROUP).zip(scales).zip(sums);
    for (group, ((codes, scale), sum)) in x.chunks(GROUP).zip(outs) {
        let mask = if group.len() == GROUP { u32::MAX } else { (1u32 << group.len()) - 1 };
        // SAFETY: the masks keep the loads inside the group.
        let (a, b) = unsafe {
            let at = group.as_ptr();
            (_mm512_maskz_loadu_ps(mask as u16, at), _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16)))
        };
        // As integers, infinities are above all numbers and NaNs above infinities.
        let size = _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b)));
        let absmax = f32::from_bits(_mm512_reduce_max_epu32(size));
        if !(absmax >= GROUP_ABSMAX_MIN && absmax.is_finite()) {
            codes.fill(0);
            (*scale, *sum) = (if absmax.is_finite() { 0.0 } else { f32::NAN }, 0);
            continue;
        }
        let inverse = _mm512_set1_ps(127.0 / absmax);
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let (a, b) = (_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
        // SAFETY: 32 codes.
        unsafe {
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(codes.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
        }
        (*scale, *sum) = (absmax / 127.0, _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)));
    }
}
