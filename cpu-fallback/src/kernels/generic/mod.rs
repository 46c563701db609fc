//! Portable kernels, written so that compilers vectorise them.
//!
//! Functions in [`float`] and [`attention`] are `inline(always)`: ISA folders instantiate them with their target features, so
//! that each algorithm is written once. [`integer`] and [`panels`] are what machines without hand-written kernels run.

pub(super) mod attention;
pub(super) mod float;
mod integer;
mod panels;

pub(super) use attention::attn_page;
pub(crate) use float::exp;
pub(super) use float::{
    EXP_HIGH, EXP_LOW, EXP_TERMS, LN2_HIGH, LN2_LOW, axpy, quantize_groups, quantize_u8, rms_norm, rope, silu_mul,
    widen,
};
pub(super) use integer::{gemm_u8s8, int_linear};
pub(super) use panels::float_linear;
