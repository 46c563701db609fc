//! Float linears over panels.

use super::store;
use crate::kernels::{Block, FloatLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
};
use std::arch::x86_64::*;

/// `M` rows × `P` panels of a float linear.
///
/// # Safety
/// `panels` point to float panels (`HALF`: f16) with `k` inputs, `x` to `M` rows of `k`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[inline]
unsafe fn float_tile<const HALF: bool, const M: usize, const P: usize>(
    panels: [*const u8; P],
    x: *const f32,
    k: usize,
) -> [[__m512; P]; M] {
    let mut acc = [[_mm512_setzero_ps(); P]; M];
    for i in 0..k {
        let mut w = [_mm512_setzero_ps(); P];
        for p in 0..P {
            // SAFETY: input `i < k` of the panel.
            w[p] = unsafe {
                if HALF {
                    _mm512_cvtph_ps(_mm256_loadu_si256(panels[p].add(i * 32).cast()))
                } else {
                    _mm512_loadu_ps(panels[p].add(i * 64).cast())
                }
            };
        }
        for m in 0..M {
            // SAFETY: input `i < k` of row `m < M`.
            let x = _mm512_set1_ps(unsafe { *x.add(m * k + i) });
            for p in 0..P {
                acc[m][p] = _mm512_fmadd_ps(x, w[p], acc[m][p]);
            }
        }
    }
    acc
}

/// All rows × `P` panels, from panel `first`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::float_linear`), which has `first + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn float_rows<const HALF: bool, const P: usize>(
    args: &FloatLinearArgs<'_>,
    block: &mut Block<'_, f32>,
    first: usize,
) {
    let bytes = panel_layout(args.format, args.k).bytes;
    let panels: [*const u8; P] =
        std::array::from_fn(|p| args.panels[(first + p) * bytes..(first + p + 1) * bytes].as_ptr());
    let mut row = 0;
    macro_rules! rows {
        ($m:literal) => {
            while row + $m <= block.rows() {
                // SAFETY: the lengths were checked by the caller.
                let acc = unsafe { float_tile::<HALF, $m, P>(panels, args.x.as_ptr().add(row * args.k), args.k) };
                for values in acc {
                    let out = block.row(row);
                    for (p, v) in values.into_iter().enumerate() {
                        store(out, (first + p) * PANEL_ROWS, v);
                    }
                    row += 1;
                }
            }
        };
    }
    rows!(8);
    rows!(4);
    rows!(1);
}

/// See [`FloatLinearArgs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let panels = block.cols().div_ceil(PANEL_ROWS);
    let mut p = 0;
    macro_rules! panels {
        ($half:literal) => {
            // SAFETY: the panels exist; lengths were checked by `Kernels::float_linear`.
            unsafe {
                while p + 3 <= panels {
                    float_rows::<$half, 3>(args, block, p);
                    p += 3;
                }
                while p < panels {
                    float_rows::<$half, 1>(args, block, p);
                    p += 1;
                }
            }
        };
    }
    if args.format == WeightFormat::F16 { panels!(true) } else { panels!(false) }
}
