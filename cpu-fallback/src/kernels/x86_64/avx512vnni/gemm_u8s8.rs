//! The exact product of u8 activations and INT8 panels.

use super::{int_gemm::prefetch, store_i32};
use crate::kernels::{Block, GemmU8S8Args};
use coexec_model::layout::{PANEL_ROWS, padded_k};
use std::arch::x86_64::*;

/// Inputs whose weights, for four panels, stay in the first cache.
const K_STEP: usize = 448;

/// Inputs `first..last` (a multiple of 4 apart, but for the end of the row) of `M` rows × `P` panels.
///
/// # Safety
/// `panels` point to code panels with `k` inputs, `x` to `M` rows of `k`; `last ≤ k`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn u8s8_tile<const M: usize, const P: usize>(
    panels: [*const u8; P],
    x: *const u8,
    k: usize,
    first: usize,
    last: usize,
    start: [__m512i; P],
) -> [[__m512i; P]; M] {
    let mut acc = [start; M];
    let mut i = first;
    while i < last {
        let mut w = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: inputs `i..i + 4` of the panel, which is padded.
            w[p] = unsafe { _mm512_loadu_si512(panels[p].add(i * PANEL_ROWS).cast()) };
        }
        for m in 0..M {
            // SAFETY: inputs `i..min(i + 4, last)` of row `m`; beyond the end weights are zero.
            let x = unsafe {
                let at = x.add(m * k + i);
                if i + 4 <= last {
                    at.cast::<i32>().read_unaligned()
                } else {
                    let mut four = [0u8; 4];
                    std::ptr::copy_nonoverlapping(at, four.as_mut_ptr(), last - i);
                    i32::from_ne_bytes(four)
                }
            };
            let x = _mm512_set1_epi32(x);
            for p in 0..P {
                acc[m][p] = _mm512_dpbusd_epi32(acc[m][p], x, w[p]);
            }
        }
        i += 4;
    }
    acc
}

/// All rows × `P` panels, from panel `panel`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::gemm_u8s8`), which has `panel + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn u8s8_rows<const P: usize>(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>, panel: usize) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    let panels: [*const u8; P] = std::array::from_fn(|p| args.panels[(panel + p) * bytes..][..bytes].as_ptr());
    // Blocks of about the same size, in whole steps of 4.
    let step = args.k.div_ceil(args.k.div_ceil(K_STEP).max(1)).next_multiple_of(4);
    let mut first = 0;
    loop {
        let last = args.k.min(first + step);
        let mut start = [_mm512_setzero_si512(); P];
        if first == 0 {
            for (p, start) in start.iter_mut().enumerate() {
                let sums = &args.row_sums[(panel + p) * PANEL_ROWS..][..PANEL_ROWS];
                // SAFETY: 16 sums.
                let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
                *start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums));
            }
        }
        // The weights of the next block come to the second cache while this one is used: of these panels, then of the next.
        let next = if last < args.k { last * PANEL_ROWS } else { P * bytes };
        let ahead = panels.map(|panel| panel.wrapping_add(next));
        let lines = step * PANEL_ROWS / 64;
        let (mut line, lines_per_row) = (0, lines.div_ceil(block.rows()));
        let mut row = 0;
        macro_rules! rows {
            ($m:literal) => {
                while row + $m <= block.rows() {
                    for _ in 0..$m * lines_per_row {
                        if line < lines {
                            for w in ahead {
                                prefetch::<_MM_HINT_T1>(w.wrapping_add(line * 64).cast());
                            }
                            line += 1;
                        }
                    }
                    // SAFETY: the lengths were checked by the caller.
                    let acc = unsafe {
                        u8s8_tile::<$m, P>(panels, args.x.as_ptr().add(row * args.k), args.k, first, last, start)
                    };
                    for values in acc {
                        let out = block.row(row);
                        for (p, v) in values.into_iter().enumerate() {
                            store_i32(out, (panel + p) * PANEL_ROWS, v, first > 0);
                        }
                        row += 1;
                    }
                }
            };
        }
        rows!(6);
        rows!(4);
        rows!(2);
        rows!(1);
        first = last;
        if first >= args.k {
            break;
        }
    }
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let panels = block.cols().div_ceil(PANEL_ROWS);
    let mut p = 0;
    // SAFETY: the panels exist; lengths were checked by `Kernels::gemm_u8s8`.
    unsafe {
        while p + 4 <= panels {
            u8s8_rows::<4>(args, block, p);
            p += 4;
        }
        while p < panels {
            u8s8_rows::<1>(args, block, p);
            p += 1;
        }
    }
}
