//! Activations in groups of 32.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;
use std::arch::aarch64::*;

/// See [`crate::quant`].
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let outs = codes.chunks_exact_mut(GROUP).zip(scales).zip(sums);
    for (group, ((codes, scale), sum)) in x.chunks(GROUP).zip(outs) {
        let mut padded = [0.0f32; GROUP];
        padded[..group.len()].copy_from_slice(group);
        // SAFETY: 8 times 4 of 32 floats.
        let v: [float32x4_t; 8] = std::array::from_fn(|i| unsafe { vld1q_f32(padded.as_ptr().add(4 * i)) });
        // As integers, infinities are above all numbers and NaNs above infinities.
        let size = v.map(|v| vreinterpretq_u32_f32(vabsq_f32(v)));
        let size = size.into_iter().fold(vdupq_n_u32(0), |a, b| vmaxq_u32(a, b));
        let absmax = f32::from_bits(vmaxvq_u32(size));
        if !(absmax >= GROUP_ABSMAX_MIN && absmax.is_finite()) {
            codes.fill(0);
            (*scale, *sum) = (if absmax.is_finite() { 0.0 } else { f32::NAN }, 0);
            continue;
        }
        let inverse = 127.0 / absmax;
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let q = v.map(|v| vcvtnq_s32_f32(vmulq_n_f32(v, inverse)));
        let mut total = vdupq_n_s32(0);
        for (half, codes) in codes.chunks_exact_mut(16).enumerate() {
            let q = &q[4 * half..4 * half + 4];
            let (a, b) =
                (vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1])), vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3])));
            total = vpadalq_s16(total, vaddq_s16(a, b));
            // SAFETY: 16 codes.
            unsafe { vst1q_s8(codes.as_mut_ptr(), vcombine_s8(vmovn_s16(a), vmovn_s16(b))) };
        }
        (*scale, *sum) = (absmax / 127.0, vaddvq_s32(total));
    }
}
