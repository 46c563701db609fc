//! Register tiles of the exact product of u8 activations and INT8 panels. The sets differ in how they multiply 16 inputs
//! ([`Products`]).

use crate::kernels::{Block, GemmU8S8Args, generic};
use coexec_model::layout::{PANEL_ROWS, padded_k};
use std::arch::aarch64::*;

/// Inputs whose weights stay in the first cache while all rows pass.
const K_STEP: usize = 1024;

/// How a set multiplies.
pub(super) trait Products {
    /// Rows of the tallest tile: 2, 4 or 8.
    const TALL: usize;

    /// Adds the products of 16 inputs of `M` rows with 16 inputs of `4 · Q` rows of a panel; `acc` is in whatever order
    /// [`Self::finish`] understands.
    ///
    /// # Safety
    /// The CPU has the set's instructions; `w` points to four times 64 bytes, of which `16 · Q` each are used.
    unsafe fn add<const M: usize, const Q: usize>(acc: &mut [[int32x4_t; Q]; M], w: *const u8, x: [int8x16_t; M]);

    /// The sums: four outputs per register, `[row][quad]`.
    ///
    /// # Safety
    /// The CPU has the set's instructions.
    unsafe fn finish<const M: usize, const Q: usize>(acc: [[int32x4_t; Q]; M]) -> [[int32x4_t; Q]; M];
}

/// Inputs `first..last` of `M` rows × `4 · Q` outputs.
///
/// # Safety
/// As [`Products`]; `w` points to the first output's codes of input 0 in a panel with `k` inputs, `x` to `M` rows of `k`;
/// `first` is a multiple of 16, `last` too or `k`.
#[inline(always)]
unsafe fn tile<P: Products, const M: usize, const Q: usize>(
    w: *const u8,
    x: *const u8,
    k: usize,
    first: usize,
    last: usize,
) -> [[int32x4_t; Q]; M] {
    // SAFETY: inputs stay below `last ≤ k`; a panel is padded to 32 inputs.
    unsafe {
        let flip = vdupq_n_u8(0x80);
        let mut acc = [[vdupq_n_s32(0); Q]; M];
        let mut i = first;
        while i + 16 <= last {
            let x = std::array::from_fn(|m| vreinterpretq_s8_u8(veorq_u8(vld1q_u8(x.add(m * k + i)), flip)));
            P::add(&mut acc, w.add(i * PANEL_ROWS), x);
            i += 16;
        }
        if i < last {
            let x = std::array::from_fn(|m| {
                // Padded weights are zero, so it does not matter what stands for missing inputs.
                let mut rest = [0u8; 16];
                std::ptr::copy_nonoverlapping(x.add(m * k + i), rest.as_mut_ptr(), last - i);
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(rest.as_ptr()), flip))
            });
            P::add(&mut acc, w.add(i * PANEL_ROWS), x);
        }
        P::finish(acc)
    }
}

/// Writes quads from column `at` on, or adds them; columns beyond the block's end are dropped.
#[inline(always)]
fn store<const Q: usize>(row: &mut [i32], at: usize, v: [int32x4_t; Q], add: bool) {
    for (q, v) in v.into_iter().enumerate() {
        let mut values = [0i32; 4];
        // SAFETY: four integers.
        unsafe { vst1q_s32(values.as_mut_ptr(), v) };
        for (to, v) in row.iter_mut().skip(at + 4 * q).zip(values) {
            *to = if add { to.wrapping_add(v) } else { v };
        }
    }
}

/// See [`GemmU8S8Args`].
///
/// # Safety
/// As [`Products`]; the lengths in `args` fit the block (checked by `Kernels::gemm_u8s8`).
#[inline(always)]
pub(super) unsafe fn gemm_u8s8<P: Products>(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    if bytes == 0 {
        return generic::gemm_u8s8(args, block);
    }
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        for first in (0..args.k).step_by(K_STEP) {
            let last = args.k.min(first + K_STEP);
            let mut row = 0;
            macro_rules! rows {
                ($m:literal, $q:literal) => {
                    while row + $m <= block.rows() {
                        for quad in (0..4).step_by($q) {
                            // SAFETY: rows `row..row + $m` exist.
                            let sums = unsafe {
                                let x = args.x.as_ptr().add(row * args.k);
                                tile::<P, $m, $q>(panel.as_ptr().add(quad * 16), x, args.k, first, last)
                            };
                            for (m, sums) in sums.into_iter().enumerate() {
                                store(block.row(row + m), p * PANEL_ROWS + quad * 4, sums, first > 0);
                            }
                        }
                        row += $m;
                    }
                };
            }
            if P::TALL >= 8 {
                rows!(8, 2);
            }
            if P::TALL >= 4 {
                rows!(4, 4);
            }
            rows!(2, 4);
            rows!(1, 4);
        }
    }
}
