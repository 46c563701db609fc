//! 64-bit Arm: base NEON (ARMv8.0), dot products (ARMv8.2 `dotprod`), 8-bit matrix products (ARMv8.6 `i8mm`).
//!
//! The folders have the same files and functions. Only integer products gain from the newer instructions: `neon` holds
//! all float kernels, and the other folders take them from it. What the integer kernels of all three have in common is
//! in [`int_tile`], [`int_gemm`] and [`gemm_tile`], attention's registers in [`lanes`]; [`asm`] has the instructions whose intrinsics are not stable yet.
//!
//! 4-bit codes are stored as 0…15 and multiplied so; eight times the sum of the activations is taken off as the
//! accumulator's start. 8-bit products are signed × signed.

mod asm;
mod gemm_tile;
mod int_gemm;
mod int_tile;
mod lanes;

pub(super) mod dotprod;
pub(super) mod i8mm;
pub(super) mod neon;

use coexec_model::layout::PANEL_ROWS;
use std::arch::aarch64::*;

/// Stores 16 columns, or fewer at the block's end.
#[inline(always)]
fn store(row: &mut [f32], at: usize, v: [float32x4_t; 4]) {
    let mut values = [0.0f32; PANEL_ROWS];
    for (to, v) in values.chunks_exact_mut(4).zip(v) {
        // SAFETY: four floats.
        unsafe { vst1q_f32(to.as_mut_ptr(), v) };
    }
    let to = &mut row[at..];
    let count = PANEL_ROWS.min(to.len());
    to[..count].copy_from_slice(&values[..count]);
}

/// Loads 16 columns, or fewer at the block's end: zeros stand for the others.
#[inline(always)]
fn load(row: &[f32], at: usize) -> [float32x4_t; 4] {
    let mut values = [0.0f32; PANEL_ROWS];
    let from = &row[at..];
    let count = PANEL_ROWS.min(from.len());
    values[..count].copy_from_slice(&from[..count]);
    // SAFETY: 16 floats.
    unsafe {
        let at = values.as_ptr();
        [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))]
    }
}
