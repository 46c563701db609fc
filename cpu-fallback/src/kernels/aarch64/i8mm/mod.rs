//! 8-bit matrix products (ARMv8.6 `i8mm`): `smmla` multiplies two rows of eight activations by two rows of eight weights.
//!
//! A panel has four inputs of a row side by side: the first and second halves of two registers that are four inputs apart,
//! interleaved by 32 bits, are two rows of eight. For 4-bit codes these two registers are the low and the high nibbles
//! of one. A lone row is left to `sdot`.

mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_gemm;
mod int_linear;
mod quantize;

pub(in crate::kernels) use super::neon::{
    axpy, dequantize_u8, peak_f32, peak_int8, quantize_u8, read_sum, requantize_u8, rms_norm, rope, silu_mul,
};
pub(in crate::kernels) use attention::{ATTN_LANES, attn_columns, attn_finish, attn_merge, attn_segment};
pub(in crate::kernels) use float_linear::float_linear;
pub(in crate::kernels) use gemm_u8s8::gemm_u8s8;
pub(in crate::kernels) use int_linear::int_linear;
pub(in crate::kernels) use quantize::quantize_groups;

use std::arch::aarch64::*;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    super::dotprod::supported() && std::arch::is_aarch64_feature_detected!("i8mm")
}

/// Two rows of 16 inputs as two registers of two rows of eight.
#[inline(always)]
fn pair(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: register arithmetic of every 64-bit Arm CPU.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
        [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))]
    }
}

/// Four rows of four inputs, and of the next four inputs, as two registers of two rows of eight.
#[inline(always)]
fn eights(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: register arithmetic of every 64-bit Arm CPU.
    unsafe {
        let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
        [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
    }
}

/// Products of two activation rows with outputs 0, 1 and with outputs 2, 3, as four outputs of each row.
#[inline(always)]
fn rows(low: int32x4_t, high: int32x4_t) -> [int32x4_t; 2] {
    // SAFETY: register arithmetic of every 64-bit Arm CPU.
    unsafe {
        let (low, high) = (vreinterpretq_s64_s32(low), vreinterpretq_s64_s32(high));
        [vreinterpretq_s32_s64(vzip1q_s64(low, high)), vreinterpretq_s32_s64(vzip2q_s64(low, high))]
    }
}
