//! Attention's registers with `sdot`.

use super::super::{
    asm::sdot_quads,
    lanes::{Dots, F32x4},
};
use std::arch::aarch64::*;

attention!("neon,dotprod", F32x4<Sdot>);

/// Signed dot products; unsigned bytes are made signed, and 128 times the sum of the others added again.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Sdot;

impl Dots for Sdot {
    #[inline(always)]
    fn unsigned_signed(sum: int32x4_t, u: uint8x16_t, s: int8x16_t) -> int32x4_t {
        // SAFETY: code over `Lanes` is part of functions with the set's features (see `kernels::lanes`).
        unsafe {
            let flipped = vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(0x80)));
            let sums = vshlq_n_s32::<7>(sdot_quads(vdupq_n_s32(0), vdupq_n_s8(1), s));
            vaddq_s32(sdot_quads(sum, flipped, s), sums)
        }
    }

    #[inline(always)]
    fn signed(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        unsafe { sdot_quads(sum, a, b) }
    }
}
