//! Attention's registers with `sdot` and `usdot`.

use super::super::{
    asm::{sdot_quads, usdot_quads},
    lanes::{Dots, F32x4},
};
use std::arch::aarch64::*;

attention!("neon,dotprod,i8mm", F32x4<MixedDot>);

/// Dot products of both kinds.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct MixedDot;

impl Dots for MixedDot {
    #[inline(always)]
    fn unsigned_signed(sum: int32x4_t, u: uint8x16_t, s: int8x16_t) -> int32x4_t {
        // SAFETY: code over `Lanes` is part of functions with the set's features (see `kernels::lanes`).
        unsafe { usdot_quads(sum, u, s) }
    }

    #[inline(always)]
    fn signed(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { sdot_quads(sum, a, b) }
    }
}
