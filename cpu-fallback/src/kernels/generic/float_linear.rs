//! Float products over panels.

use crate::kernels::{Block, FloatLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{PANEL_ROWS, panel_layout},
};
use half::f16;

/// Rows that share a load of weights.
const TALL: usize = 4;

#[inline(always)]
fn weights(format: WeightFormat, panel: &[u8], k: usize) -> [f32; PANEL_ROWS] {
    if format == WeightFormat::F32 {
        let bytes = &panel[k * 64..k * 64 + 64];
        std::array::from_fn(|r| {
            f32::from_le_bytes([bytes[4 * r], bytes[4 * r + 1], bytes[4 * r + 2], bytes[4 * r + 3]])
        })
    } else {
        let bytes = &panel[k * 32..k * 32 + 32];
        std::array::from_fn(|r| f16::from_le_bytes([bytes[2 * r], bytes[2 * r + 1]]).to_f32())
    }
}

#[inline(always)]
fn rows<const M: usize>(args: &FloatLinearArgs<'_>, panel: &[u8], first: usize) -> [[f32; PANEL_ROWS]; M] {
    let x: [&[f32]; M] = std::array::from_fn(|m| &args.x[(first + m) * args.k..(first + m + 1) * args.k]);
    let mut acc = [[0.0f32; PANEL_ROWS]; M];
    for k in 0..args.k {
        let w = weights(args.format, panel, k);
        for m in 0..M {
            for r in 0..PANEL_ROWS {
                acc[m][r] = x[m][k].mul_add(w[r], acc[m][r]);
            }
        }
    }
    acc
}

/// See [`FloatLinearArgs`].
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    if bytes == 0 {
        (0..block.rows()).for_each(|r| block.row(r).fill(0.0));
    }
    for (p, panel) in args.panels.chunks_exact(bytes.max(1)).enumerate() {
        let cols = p * PANEL_ROWS..block.cols().min((p + 1) * PANEL_ROWS);
        let mut row = 0;
        while row + TALL <= block.rows() {
            for acc in rows::<TALL>(args, panel, row) {
                block.row(row)[cols.clone()].copy_from_slice(&acc[..cols.len()]);
                row += 1;
            }
        }
        while row < block.rows() {
            let [acc] = rows::<1>(args, panel, row);
            block.row(row)[cols.clone()].copy_from_slice(&acc[..cols.len()]);
            row += 1;
        }
    }
}
