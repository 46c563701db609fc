//! Instructions whose intrinsics are not stable in the oldest supported Rust, as one-instruction functions.

use std::{arch::aarch64::*, arch::asm};

/// `acc[i] += Σ_t w[4i + t] · x[4·LANE + t]`, `t < 4`: four rows of four weights times four activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the instruction is enabled for this function.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// `acc[i] += Σ_t a[4i + t] · b[4i + t]`, `t < 4`, both signed.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot_quads(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the instruction is enabled for this function.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// `acc[i] += Σ_t u[4i + t] · s[4i + t]`, `t < 4`, `u` unsigned and `s` signed.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(super) fn usdot_quads(mut acc: int32x4_t, u: uint8x16_t, s: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the instruction is enabled for this function.
    unsafe {
        asm!(
            "usdot {acc:v}.4s, {u:v}.16b, {s:v}.16b",
            acc = inout(vreg) acc,
            u = in(vreg) u,
            s = in(vreg) s,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// `acc[2i + j] += Σ_t a[8i + t] · b[8j + t]`, `t < 8`: two rows of eight times two rows of eight.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(super) fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers; the instruction is enabled for this function.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Eight f16 to f32, in order. Part of ARMv8.0.
#[inline(always)]
pub(super) fn widen_f16(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: arithmetic on registers; every 64-bit Arm CPU has the instructions.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}
