//! Base NEON, which every 64-bit Arm CPU has: products of bytes widen to 16 bits, pairs of them are added to 32.
//!
//! 16-bit sums cannot overflow: 4-bit codes 0…15 times −127…127, eight of them, are at most 15240 in magnitude; two products
//! of `q8` weights −128…127 and activations −127…127 at most 32512. `gemm_u8s8` adds single products (at most 2¹⁴) to
//! 32 bits.

mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_gemm;
mod int_linear;
mod quantize;

pub(in crate::kernels) use crate::kernels::generic::{peak_f32, peak_int8};
pub(in crate::kernels) use attention::{ATTN_LANES, attn_columns, attn_finish, attn_merge, attn_segment};
pub(in crate::kernels) use float_linear::float_linear;
pub(in crate::kernels) use gemm_u8s8::gemm_u8s8;
pub(in crate::kernels) use int_linear::int_linear;
pub(in crate::kernels) use quantize::quantize_groups;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

portable!("neon");
portable_requantize!("neon");
portable_activation!("neon");
