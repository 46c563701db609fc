//! Activations in groups of 32: 16 groups at a time, so that scales and sums are whole registers.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;
use std::arch::x86_64::*;

/// Groups of a full step.
const STEP: usize = 16;

/// See [`crate::quant`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let mut g = 0;
    while (g + STEP) * GROUP <= x.len() {
        let (x, codes) = (&x[g * GROUP..][..STEP * GROUP], &mut codes[g * GROUP..][..STEP * GROUP]);
        let (scales, sums) = (&mut scales[g..g + STEP], &mut sums[g..g + STEP]);
        if !sixteen(x, codes, scales, sums) {
            one_by_one(x, codes, scales, sums);
        }
        g += STEP;
    }
    one_by_one(&x[g * GROUP..], &mut codes[g * GROUP..], &mut scales[g..], &mut sums[g..]);
}

/// Combines partial results of several groups until each has one.
macro_rules! fold {
    // 16 registers of one group each to eight: group `i` in the low half, `i + 8` in the high half.
    ($op:ident, $v:expr, halves) => {
        std::array::from_fn::<_, 8, _>(|i| {
            let (a, b) = ($v[i], $v[i + 8]);
            $op(_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xEE>(a, b))
        })
    };
    // Eight registers of two groups each to one: by quarters, the low groups of 0…3, the high ones, then those of 4…7.
    ($op:ident, $v:expr, rest) => {{
        let quarters: [__m512i; 4] = std::array::from_fn(|i| {
            let (a, b) = ($v[i], $v[i + 4]);
            $op(_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xDD>(a, b))
        });
        let pair = |a, b| $op(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (a, b) = (pair(quarters[0], quarters[1]), pair(quarters[2], quarters[3]));
        $op(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }};
}

/// 16 whole groups; false, and nothing is of use, when there is a NaN or an infinity.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
fn sixteen(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) -> bool {
    assert!(x.len() == STEP * GROUP && codes.len() == STEP * GROUP && scales.len() == STEP && sums.len() == STEP);
    // SAFETY: 16 floats each; `at < 2 · STEP`.
    let load = |at: usize| unsafe { _mm512_loadu_ps(x.as_ptr().add(at * 16)) };
    let absmax = {
        // As integers, infinities are above all numbers and NaNs above infinities.
        let bits = |at: usize| _mm512_castps_si512(_mm512_abs_ps(load(at)));
        let sizes: [__m512i; STEP] = std::array::from_fn(|g| _mm512_max_epu32(bits(2 * g), bits(2 * g + 1)));
        let halves = fold!(_mm512_max_epu32, sizes, halves);
        let folded = fold!(_mm512_max_epu32, halves, rest);
        // Groups 0…3, 8…11, 4…7, 12…15.
        _mm512_castsi512_ps(_mm512_shuffle_i64x2::<0xD8>(folded, folded))
    };
    if _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(absmax, _mm512_set1_ps(f32::INFINITY)) != 0 {
        return false;
    }
    let usable = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(absmax, _mm512_set1_ps(GROUP_ABSMAX_MIN));
    let top = _mm512_set1_ps(127.0);
    let mut inverse = [0.0f32; STEP];
    // SAFETY: 16 floats each.
    unsafe {
        _mm512_storeu_ps(inverse.as_mut_ptr(), _mm512_maskz_div_ps(usable, top, absmax));
        _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_maskz_div_ps(usable, absmax, top));
    }
    // Bytes of two groups come out of the packs by quarters of registers.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let partial: [__m512i; STEP / 2] = std::array::from_fn(|pair| {
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let group = |g: usize| {
            let inverse = _mm512_set1_ps(inverse[g]);
            let half = |at: usize| _mm512_cvtps_epi32(_mm512_mul_ps(load(at), inverse));
            _mm512_packs_epi32(half(2 * g), half(2 * g + 1))
        };
        let bytes = _mm512_packs_epi16(group(2 * pair), group(2 * pair + 1));
        let bytes = _mm512_permutexvar_epi32(order, bytes);
        // SAFETY: 64 codes; `pair < STEP / 2`.
        unsafe { _mm512_storeu_si512(codes.as_mut_ptr().add(pair * 64).cast(), bytes) };
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes)
    });
    let folded = fold!(_mm512_add_epi32, partial, rest);
    // Groups 0, 2, 4, 6, 1, 3, 5, 7, and the same from 8 on.
    let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    // SAFETY: 16 sums.
    unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_permutexvar_epi32(order, folded)) };
    true
}

/// Any number of groups, the last one perhaps not whole.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn one_by_one(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
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
