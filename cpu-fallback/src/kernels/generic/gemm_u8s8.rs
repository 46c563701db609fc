//! The exact product of u8 activations and INT8 panels, in plain arrays.

use crate::kernels::{Block, GemmU8S8Args};
use coexec_model::layout::{PANEL_ROWS, padded_k};

/// Adds the dots of four inputs with 16 rows of four codes each.
#[inline(always)]
pub(in crate::kernels) fn dot4(acc: &mut [i32; PANEL_ROWS], weights: &[i8; 64], x: &[i8]) {
    let x = [i16::from(x[0]), i16::from(x[1]), i16::from(x[2]), i16::from(x[3])];
    for (acc, w) in acc.iter_mut().zip(weights.chunks_exact(4)) {
        for t in 0..4 {
            *acc += i32::from(i16::from(w[t]) * x[t]);
        }
    }
}

/// See [`GemmU8S8Args`].
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    for (p, panel) in args.panels.chunks_exact(bytes.max(1)).enumerate() {
        let cols = p * PANEL_ROWS..block.cols().min((p + 1) * PANEL_ROWS);
        for row in 0..block.rows() {
            let mut acc = [0i32; PANEL_ROWS];
            for (codes, x) in panel.chunks_exact(64).zip(args.x[row * args.k..(row + 1) * args.k].chunks(4)) {
                // Padded weights are zero, so it does not matter what stands for missing inputs.
                let x: [i8; 4] = std::array::from_fn(|t| x.get(t).map_or(0, |x| (x ^ 0x80) as i8));
                dot4(&mut acc, &std::array::from_fn(|i| codes[i] as i8), &x);
            }
            block.row(row)[cols.clone()].copy_from_slice(&acc[..cols.len()]);
        }
    }
    if args.panels.is_empty() {
        for row in 0..block.rows() {
            block.row(row).fill(0);
        }
    }
}
