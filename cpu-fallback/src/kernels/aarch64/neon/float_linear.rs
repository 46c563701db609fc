//! Float linears over panels.

use super::super::{asm::widen_f16, store};
use crate::kernels::{Block, FloatLinearArgs, generic};
use coexec_model::{
    WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
};
use std::arch::aarch64::*;

/// `M` rows × one panel of a float linear.
///
/// # Safety
/// `panel` points to a float panel (`HALF`: f16) with `k` inputs, `x` to `M` rows of `k`.
#[inline(always)]
unsafe fn float_tile<const HALF: bool, const M: usize>(
    panel: *const u8,
    x: *const f32,
    k: usize,
) -> [[float32x4_t; 4]; M] {
    // SAFETY: inputs `i < k`, rows `m < M`.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 4]; M];
        for i in 0..k {
            let w: [float32x4_t; 4] = if HALF {
                let at = panel.add(i * 32);
                let [a, b] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at)));
                let [c, d] = widen_f16(vreinterpretq_u16_u8(vld1q_u8(at.add(16))));
                [a, b, c, d]
            } else {
                std::array::from_fn(|q| vreinterpretq_f32_u8(vld1q_u8(panel.add(i * 64 + q * 16))))
            };
            for m in 0..M {
                let x = vdupq_n_f32(*x.add(m * k + i));
                for q in 0..4 {
                    acc[m][q] = vfmaq_f32(acc[m][q], w[q], x);
                }
            }
        }
        acc
    }
}

/// See [`FloatLinearArgs`].
#[target_feature(enable = "neon")]
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
                    let x = args.x[row * args.k..(row + $m) * args.k].as_ptr();
                    // SAFETY: the panel has `k` inputs, `x` has `$m` rows of them.
                    for values in unsafe { float_tile::<$half, $m>(panel.as_ptr(), x, args.k) } {
                        store(block.row(row), p * PANEL_ROWS, values);
                        row += 1;
                    }
                }
            };
        }
        if args.format == WeightFormat::F16 {
            rows!(true, 4);
            rows!(true, 1);
        } else {
            rows!(false, 4);
            rows!(false, 1);
        }
    }
}
