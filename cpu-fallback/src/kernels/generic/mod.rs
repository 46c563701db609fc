//! Portable kernels, written so that compilers vectorise them.
//!
//! Functions in [`rows`], [`quantize`] and [`attention`] are `inline(always)`: ISA folders instantiate them with their target
//! features (`kernels/portable.rs`), so that each algorithm is written once. [`int_linear`], [`float_linear`] and
//! [`gemm_u8s8`] are what machines without hand-written kernels run.

pub(super) mod attention;
mod float_linear;
mod gemm_u8s8;
mod int_linear;
mod peak;
mod quantize;
mod requantize;
mod rows;

pub(super) use attention::{ATTN_LANES, attn_columns, attn_finish, attn_merge, attn_segment};
pub(super) use float_linear::float_linear;
pub(super) use gemm_u8s8::gemm_u8s8;
pub(super) use int_linear::int_linear;
pub(super) use peak::{peak_f32, peak_int8, read_sum};
pub(super) use quantize::{quantize_groups, quantize_u8};
pub(super) use requantize::{BOUND, dequantize_u8, requantize_u8};
#[cfg(test)]
pub(super) use rows::exp;
pub(super) use rows::{EXP_HIGH, EXP_LOW, EXP_TERMS, LN2_HIGH, LN2_LOW, axpy, rms_norm, rope, silu_mul, tree};
