//! The exact product of u8 activations and INT8 panels.

use crate::kernels::{Block, GemmU8S8Args, generic};
use coexec_model::layout::{PANEL_ROWS, padded_k};
use std::arch::x86_64::*;

/// `M` rows × one panel: four registers of (two pair sums × four rows) each.
///
/// # Safety
/// `panel` is a code panel with `k` inputs, `x` points to `M` rows of `k`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn u8s8_tile<const M: usize>(panel: &[u8], x: *const u8, k: usize) -> [[__m256i; 4]; M] {
    let mut acc = [[_mm256_setzero_si256(); 4]; M];
    let mut i = 0;
    while i < k {
        let mut w = [_mm256_setzero_si256(); 4];
        for (q, w) in w.iter_mut().enumerate() {
            // SAFETY: 16 of the 64 bytes of inputs `i..i + 4`; the panel is padded.
            *w = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.as_ptr().add(i * PANEL_ROWS + q * 16).cast())) };
        }
        for m in 0..M {
            // SAFETY: inputs `i..min(i + 4, k)` of row `m`; beyond the end weights are zero.
            let x = unsafe {
                let at = x.add(m * k + i);
                if i + 4 <= k {
                    at.cast::<i32>().read_unaligned()
                } else {
                    let mut four = [0u8; 4];
                    std::ptr::copy_nonoverlapping(at, four.as_mut_ptr(), k - i);
                    i32::from_ne_bytes(four)
                }
            };
            let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(x));
            for q in 0..4 {
                acc[m][q] = _mm256_add_epi32(acc[m][q], _mm256_madd_epi16(w[q], x));
            }
        }
        i += 4;
    }
    acc
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    if bytes == 0 {
        return generic::gemm_u8s8(args, block);
    }
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let sums = &args.row_sums[p * PANEL_ROWS..(p + 1) * PANEL_ROWS];
        let mut row = 0;
        macro_rules! rows {
            ($m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: lengths were checked by `Kernels::gemm_u8s8`, rows just now.
                    let acc = unsafe { u8s8_tile::<$m>(panel, args.x.as_ptr().add(row * args.k), args.k) };
                    for quads in acc {
                        let out = &mut block.row(row)[p * PANEL_ROWS..];
                        for (q, pairs) in quads.into_iter().enumerate() {
                            let mut values = [0i32; 8];
                            // SAFETY: 8 integers.
                            unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), pairs) };
                            for r in 0..4 {
                                if let Some(out) = out.get_mut(4 * q + r) {
                                    let sum = values[2 * r].wrapping_add(values[2 * r + 1]);
                                    *out = sum.wrapping_sub(sums[4 * q + r].wrapping_mul(128));
                                }
                            }
                        }
                        row += 1;
                    }
                }
            };
        }
        rows!(2);
        rows!(1);
    }
}
