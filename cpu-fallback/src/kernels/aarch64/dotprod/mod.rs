//! Dot products (ARMv8.2 `dotprod`): one register holds four inputs of four of the 16 rows of a panel, and `sdot` multiplies
//! them by four of the 16 activations of another register.

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
pub(super) use int_linear::Dot4;
pub(in crate::kernels) use int_linear::int_linear;
pub(in crate::kernels) use quantize::quantize_groups;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
}
