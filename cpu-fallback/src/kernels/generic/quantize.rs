//! Codes of activations.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;

/// Quantises one row in groups of 32.
#[inline(always)]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    for (g, group) in x.chunks(GROUP).enumerate() {
        let mut padded = [0.0f32; GROUP];
        padded[..group.len()].copy_from_slice(group);
        let mut bits = 0u32;
        for v in padded {
            bits = bits.max(v.abs().to_bits());
        }
        let absmax = f32::from_bits(bits);
        let usable = absmax.is_finite() && absmax >= GROUP_ABSMAX_MIN;
        let inverse = 127.0 / absmax;
        let mut sum = 0i32;
        for (code, v) in codes[g * GROUP..(g + 1) * GROUP].iter_mut().zip(padded) {
            // Not usable: whatever comes out is replaced by 0. The magic addition rounds ties to even.
            let q = if usable { v * inverse } else { 0.0 };
            let q =
                ((q + 12_582_912.0).to_bits() as i32).wrapping_sub(12_582_912.0f32.to_bits() as i32).clamp(-127, 127);
            sum += q;
            *code = q as i8;
        }
        sums[g] = sum;
        scales[g] = if usable {
            absmax / 127.0
        } else if absmax.is_finite() {
            0.0
        } else {
            f32::NAN
        };
    }
}

/// Codes of a row with a static scale; true when some element was clipped (or is NaN).
#[inline(always)]
pub(in crate::kernels) fn quantize_u8(x: &[f32], scale: f32, codes: &mut [u8]) -> bool {
    let mut inside = true;
    for (code, v) in codes.iter_mut().zip(x) {
        let q = (v / scale).round_ties_even() + 128.0;
        inside &= (0.0..=255.0).contains(&q);
        let q = if q.is_nan() { 128.0 } else { q };
        let q = if q < 0.0 { 0.0 } else { q };
        let q = if q > 255.0 { 255.0 } else { q };
        // 0…255 exactly: the low byte of the float plus 2^23.
        *code = (q + 8_388_608.0).to_bits() as u8;
    }
    !inside
}
