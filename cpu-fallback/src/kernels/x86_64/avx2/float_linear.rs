//! Float linears over panels.

use super::store;
use crate::kernels::{Block, FloatLinearArgs, generic};
use coexec_model::{
    WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
};
use std::arch::x86_64::*;

/// `M` rows × one panel of a float linear.
///
/// # Safety
/// `panel` is a float panel (`HALF`: f16) with `k` inputs, `x` points to `M` rows of `k`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn float_tile<const HALF: bool, const M: usize>(panel: &[u8], x: *const f32, k: usize) -> [[__m256; 2]; M] {
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    for i in 0..k {
        // SAFETY: input `i < k` of the panel.
        let w = unsafe {
            if HALF {
                let at = panel.as_ptr().add(i * 32);
                [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))]
            } else {
                let at = panel.as_ptr().add(i * 64).cast::<f32>();
                [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]
            }
        };
        for m in 0..M {
            // SAFETY: input `i < k` of row `m < M`.
            let x = _mm256_set1_ps(unsafe { *x.add(m * k + i) });
            for h in 0..2 {
                acc[m][h] = _mm256_fmadd_ps(x, w[h], acc[m][h]);
            }
        }
    }
    acc
}

/// See [`FloatLinearArgs`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    if bytes == 0 {
        return generic::float_linear(args, block);
    }
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let mut row = 0;
        macro_rules! rows {
            ($half:literal, $m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: lengths were checked by `Kernels::float_linear`, rows just now.
                    let acc = unsafe { float_tile::<$half, $m>(panel, args.x.as_ptr().add(row * args.k), args.k) };
                    for values in acc {
                        store(block.row(row), p * PANEL_ROWS, values);
                        row += 1;
                    }
                }
            };
        }
        if args.format == WeightFormat::F16 {
            rows!(true, 6);
            rows!(true, 1);
        } else {
            rows!(false, 6);
            rows!(false, 1);
        }
    }
}
