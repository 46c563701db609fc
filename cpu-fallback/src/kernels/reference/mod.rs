//! The specification of every kernel: plain loops, one element at a time, in the order that all sets keep.

mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_linear;
mod quantize;
mod requantize;
mod rows;

pub(super) use super::generic::{peak_f32, peak_int8, read_sum};
#[cfg(test)]
pub(super) use attention::exp2;
pub(super) use attention::{attn_columns, attn_finish, attn_merge, attn_segment};
pub(super) use float_linear::float_linear;
pub(super) use gemm_u8s8::gemm_u8s8;
pub(super) use int_linear::int_linear;
pub(super) use quantize::{quantize_groups, quantize_u8};
pub(super) use requantize::{dequantize_u8, requantize_u8};
#[cfg(test)]
pub(super) use rows::exp;
pub(super) use rows::{axpy, rms_norm, rope, silu_mul};

/// Width of a tile of query vectors: any would do here.
pub(super) const ATTN_LANES: usize = 4;
