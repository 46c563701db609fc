//! SwiGLU's activation, 16 elements at a time.

use crate::kernels::generic::{EXP_HIGH, EXP_LOW, EXP_TERMS, LN2_HIGH, LN2_LOW};
use std::arch::x86_64::*;

/// See [`generic::exp`](crate::kernels::generic::exp): the same steps, with the power of two applied at once.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
#[inline]
fn exp(x: __m512) -> __m512 {
    let (low, high) = (_mm512_set1_ps(EXP_LOW), _mm512_set1_ps(EXP_HIGH));
    // The second operand of minimum and maximum is what a NaN becomes.
    let y = _mm512_min_ps(_mm512_max_ps(x, low), high);
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        y,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HIGH), y);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LOW), r);
    let mut p = _mm512_set1_ps(EXP_TERMS[0]);
    for term in &EXP_TERMS[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*term));
    }
    let value = _mm512_scalef_ps(p, n);
    let value = _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, low), _mm512_setzero_ps());
    let value = _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, high), _mm512_set1_ps(f32::INFINITY));
    _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), x)
}

/// `out[i] = silu(gate[i]) · up[i]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.chunks(16).zip(up.chunks(16)).zip(out.chunks_mut(16)) {
        let mask = if out.len() == 16 { u16::MAX } else { (1u16 << out.len()) - 1 };
        // SAFETY: the mask keeps loads and the store inside the chunks, which are of the same length.
        unsafe {
            let (g, u) = (_mm512_maskz_loadu_ps(mask, gate.as_ptr()), _mm512_maskz_loadu_ps(mask, up.as_ptr()));
            let e = exp(_mm512_xor_ps(g, _mm512_set1_ps(-0.0)));
            let silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0), e));
            _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_mul_ps(silu, u));
        }
    }
}
