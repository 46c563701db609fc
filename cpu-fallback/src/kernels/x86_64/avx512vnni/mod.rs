//! AVX-512 (F, BW, VL, DQ) with VNNI: one register holds four inputs of all 16 rows of a panel.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds exactly in 32 bits. Linears: weights are made unsigned by adding a
//! constant (4-bit codes are stored so; `q8` by flipping the sign bit) and the constant times the sum of the
//! activations is taken off, as the accumulator's start. `gemm_u8s8`: activations are the unsigned side, and 128 times the
//! sum of the weights is taken off.

mod activation;
mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_gemm;
mod int_linear;
mod peak;
mod quantize;
mod requantize;

pub(in crate::kernels) use activation::silu_mul;
pub(in crate::kernels) use attention::{ATTN_LANES, attn_columns, attn_finish, attn_merge, attn_segment};
pub(in crate::kernels) use float_linear::float_linear;
pub(in crate::kernels) use gemm_u8s8::gemm_u8s8;
pub(in crate::kernels) use int_linear::int_linear;
pub(in crate::kernels) use peak::{peak_f32, peak_int8};
pub(in crate::kernels) use quantize::quantize_groups;
pub(in crate::kernels) use requantize::requantize_u8;

use coexec_model::layout::PANEL_ROWS;
use std::arch::x86_64::*;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vnni")
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

portable!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

/// Stores 16 columns, or fewer at the block's end.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(in crate::kernels) fn store(row: &mut [f32], at: usize, v: __m512) {
    let to = &mut row[at..];
    let mask = if to.len() >= PANEL_ROWS { u16::MAX } else { (1u16 << to.len()) - 1 };
    // SAFETY: the mask keeps the store inside `to`.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, v) };
}

/// Loads 16 columns, or fewer at the block's end (the rest is 0).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(in crate::kernels) fn load(row: &[f32], at: usize) -> __m512 {
    let from = &row[at..];
    let mask = if from.len() >= PANEL_ROWS { u16::MAX } else { (1u16 << from.len()) - 1 };
    // SAFETY: the mask keeps the load inside `from`.
    unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr()) }
}

/// As [`store`], for integers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(in crate::kernels) fn store_i32(row: &mut [i32], at: usize, v: __m512i, add: bool) {
    let to = &mut row[at..];
    let mask = if to.len() >= PANEL_ROWS { u16::MAX } else { (1u16 << to.len()) - 1 };
    // SAFETY: the mask keeps load and store inside `to`.
    unsafe {
        let v = if add { _mm512_add_epi32(v, _mm512_maskz_loadu_epi32(mask, to.as_ptr())) } else { v };
        _mm512_mask_storeu_epi32(to.as_mut_ptr(), mask, v);
    }
}
