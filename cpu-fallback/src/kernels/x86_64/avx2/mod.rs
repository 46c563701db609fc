//! AVX2 with FMA and F16C: two registers hold four inputs of the 16 rows of a panel.
//!
//! `vpmaddubsw` adds two products with saturation at 16 bits, so operands are kept where it cannot saturate: 4-bit
//! codes 0…15 times −127…127 add up to at most 8 · 3810 < 2¹⁵ over a group; `q8` weights as |w| ≤ 128 times ±a with
//! |a| ≤ 127 give at most 2 · 128 · 127 < 2¹⁵. `gemm_u8s8` widens to 16 bits first.

mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_linear;
mod peak;
mod quantize;

pub(in crate::kernels) use attention::{ATTN_LANES, attn_columns, attn_finish, attn_merge, attn_segment};
pub(in crate::kernels) use float_linear::float_linear;
pub(in crate::kernels) use gemm_u8s8::gemm_u8s8;
pub(in crate::kernels) use int_linear::int_linear;
pub(in crate::kernels) use peak::{peak_f32, peak_int8};
pub(in crate::kernels) use quantize::quantize_groups;

use coexec_model::layout::PANEL_ROWS;
use std::arch::x86_64::*;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

portable!("avx2,fma,f16c");
portable_requantize!("avx2,fma,f16c");
portable_activation!("avx2,fma,f16c");

/// Stores 16 columns, or fewer at the block's end.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::kernels) fn store(row: &mut [f32], at: usize, v: [__m256; 2]) {
    let mut values = [0.0f32; PANEL_ROWS];
    // SAFETY: 16 floats.
    unsafe {
        _mm256_storeu_ps(values.as_mut_ptr(), v[0]);
        _mm256_storeu_ps(values.as_mut_ptr().add(8), v[1]);
    }
    let count = PANEL_ROWS.min(row.len() - at);
    row[at..at + count].copy_from_slice(&values[..count]);
}
