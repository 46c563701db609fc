//! The exact product of u8 activations and INT8 panels.

use crate::kernels::{Block, GemmU8S8Args};
use coexec_model::layout::{PANEL_ROWS, padded_k, q8_index};

/// See [`GemmU8S8Args`].
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    for c in 0..block.cols() {
        let panel = &args.panels[c / PANEL_ROWS * bytes..][..bytes];
        for row in 0..block.rows() {
            let x = &args.x[row * args.k..(row + 1) * args.k];
            block.row(row)[c] = x.iter().enumerate().fold(0i32, |acc, (k, x)| {
                acc.wrapping_add((i32::from(*x) - 128) * i32::from(panel[q8_index(c % PANEL_ROWS, k)] as i8))
            });
        }
    }
}
