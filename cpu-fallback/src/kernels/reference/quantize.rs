//! Codes of activations.

use crate::quant::GROUP_ABSMAX_MIN;
use coexec_model::layout::GROUP;

/// See [`crate::quant`].
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    codes.fill(0);
    for (g, group) in x.chunks(GROUP).enumerate() {
        let codes = &mut codes[g * GROUP..g * GROUP + group.len()];
        let bits = group.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
        let absmax = f32::from_bits(bits);
        if !absmax.is_finite() {
            (scales[g], sums[g]) = (f32::NAN, 0);
        } else if absmax < GROUP_ABSMAX_MIN {
            (scales[g], sums[g]) = (0.0, 0);
        } else {
            let inverse = 127.0 / absmax;
            for (code, v) in codes.iter_mut().zip(group) {
                *code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            }
            scales[g] = absmax / 127.0;
            sums[g] = codes.iter().map(|c| i32::from(*c)).sum();
        }
    }
}

/// See [`crate::quantize_u8`].
pub(in crate::kernels) fn quantize_u8(x: &[f32], scale: f32, codes: &mut [u8]) -> bool {
    let mut clipped = false;
    for (code, v) in codes.iter_mut().zip(x) {
        let q = (v / scale).round_ties_even() + 128.0;
        clipped |= !(0.0..=255.0).contains(&q);
        *code = if q.is_nan() { 128 } else { q.clamp(0.0, 255.0) as u8 };
    }
    clipped
}
