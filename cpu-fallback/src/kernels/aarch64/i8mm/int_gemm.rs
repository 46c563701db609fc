//! Integer linears of many rows.

use super::{super::int_gemm, int_linear::Matrix};
use crate::kernels::{Block, IntLinearArgs};

/// See [`IntLinearArgs`]; for any number of rows, fast for many.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn int_gemm(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    // SAFETY: the instructions are enabled; lengths were checked by `Kernels::int_linear`.
    unsafe { int_gemm::int_gemm::<Matrix>(args, block) }
}
