//! Attention's registers with products of bytes in 16 bits.

use super::super::lanes::{Dots, F32x4};
use std::arch::aarch64::*;

attention!("neon", F32x4<Widened>);

/// Bytes are multiplied to 16 bits, and added in pairs to 32.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Widened;

impl Dots for Widened {
    #[inline(always)]
    fn unsigned_signed(sum: int32x4_t, u: uint8x16_t, s: int8x16_t) -> int32x4_t {
        // SAFETY: register arithmetic of every 64-bit Arm CPU.
        unsafe {
            let half = |u: uint8x8_t, s: int8x8_t| {
                let (u, s) = (vreinterpretq_s16_u16(vmovl_u8(u)), vmovl_s8(s));
                vpaddq_s32(vmull_s16(vget_low_s16(u), vget_low_s16(s)), vmull_high_s16(u, s))
            };
            let (low, high) = (half(vget_low_u8(u), vget_low_s8(s)), half(vget_high_u8(u), vget_high_s8(s)));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }
    }

    #[inline(always)]
    fn signed(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: register arithmetic of every 64-bit Arm CPU. Pairs are added in 32 bits.
        unsafe {
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            let high = vpaddlq_s16(vmull_high_s8(a, b));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }
    }
}
