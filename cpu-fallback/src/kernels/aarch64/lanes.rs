//! Attention's registers: four floats. Only the products of bytes differ between the instruction sets.

use super::asm::widen_f16;
use crate::kernels::lanes::Lanes;
use half::f16;
use std::{arch::aarch64::*, marker::PhantomData};

/// Products of the four bytes of each lane, added to `sum`; exact.
pub(in crate::kernels) trait Dots: Copy {
    /// Unsigned times signed.
    fn unsigned_signed(sum: int32x4_t, u: uint8x16_t, s: int8x16_t) -> int32x4_t;
    /// Signed times signed.
    fn signed(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// Four floats, and how bytes are multiplied.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct F32x4<D>(float32x4_t, PhantomData<D>);

impl<D: Dots> F32x4<D> {
    #[inline(always)]
    fn of(v: float32x4_t) -> Self {
        Self(v, PhantomData)
    }
}

/// An intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: register arithmetic of every 64-bit Arm CPU; loads and stores are the caller's.
        unsafe { $e }
    };
}

impl<D: Dots> Lanes for F32x4<D> {
    const N: usize = 4;
    const GROUP: usize = 8;
    const KEY_BIAS: bool = false;
    type Int = int32x4_t;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        op!(Self::of(vdupq_n_f32(x)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        op!(Self::of(vld1q_f32(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        op!({
            let halves = vld1_u16(from.cast());
            Self::of(widen_f16(vcombine_u16(halves, halves))[0])
        })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        op!(vst1q_f32(to, self.0))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        op!(Self::of(vfmaq_f32(c.0, self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        op!(Self::of(vmulq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        op!(Self::of(vdivq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        op!(Self::of(vaddq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        op!(Self::of(vsubq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        op!(Self::of(vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0)))
    }
    #[inline(always)]
    fn within(self, low: Self, high: Self, a: Self, b: Self) -> Self {
        op!({
            let inside = vandq_u32(vcgeq_f32(self.0, low.0), vcltq_f32(self.0, high.0));
            Self::of(vbslq_f32(inside, a.0, b.0))
        })
    }
    #[inline(always)]
    fn power(self) -> Self {
        op!({
            let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(self.0));
            Self::of(vreinterpretq_f32_s32(vaddq_s32(n, vdupq_n_s32(127 << 23))))
        })
    }
    #[inline(always)]
    fn to_int(self) -> int32x4_t {
        op!(vcvtnq_s32_f32(self.0))
    }
    #[inline(always)]
    fn from_int(from: int32x4_t) -> Self {
        op!(Self::of(vcvtq_f32_s32(from)))
    }
    #[inline(always)]
    fn int(x: i32) -> int32x4_t {
        op!(vdupq_n_s32(x))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> int32x4_t {
        op!(vreinterpretq_s32_u8(vld1q_u8(from)))
    }
    #[inline(always)]
    unsafe fn store_int(from: int32x4_t, to: *mut u8) {
        op!(vst1q_u8(to, vreinterpretq_u8_s32(from)))
    }
    #[inline(always)]
    unsafe fn store_bytes(from: int32x4_t, to: *mut u8) {
        op!({
            let words = vmovn_s32(from);
            let bytes = vmovn_s16(vcombine_s16(words, words));
            let quad = vget_lane_u32::<0>(vreinterpret_u32_s8(bytes));
            to.cast::<u32>().write_unaligned(quad);
        })
    }
    #[inline(always)]
    fn dot(sum: int32x4_t, u: int32x4_t, s: int32x4_t) -> int32x4_t {
        op!(D::unsigned_signed(sum, vreinterpretq_u8_s32(u), vreinterpretq_s8_s32(s)))
    }
    #[inline(always)]
    fn keys(k: int32x4_t) -> int32x4_t {
        k
    }
    #[inline(always)]
    fn dot_keys(sum: int32x4_t, k: int32x4_t, q: int32x4_t) -> int32x4_t {
        op!(D::signed(sum, vreinterpretq_s8_s32(k), vreinterpretq_s8_s32(q)))
    }
    #[inline(always)]
    fn quads(from: [int32x4_t; 4]) -> int32x4_t {
        op!({
            let low = vorrq_s32(from[0], vshlq_n_s32::<8>(from[1]));
            let high = vorrq_s32(vshlq_n_s32::<16>(from[2]), vshlq_n_s32::<24>(from[3]));
            vorrq_s32(low, high)
        })
    }
    #[inline(always)]
    fn prefetch<T>(at: *const T) {
        // SAFETY: a hint, which faults nowhere.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
}
