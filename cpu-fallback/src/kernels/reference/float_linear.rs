//! Float linears.

use crate::kernels::{Block, FloatLinearArgs};
use coexec_model::layout::{PANEL_ROWS, Panel, panel_layout};

/// See [`FloatLinearArgs`].
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    for c in 0..block.cols() {
        let (p, r) = (c / PANEL_ROWS, c % PANEL_ROWS);
        let panel = Panel::new(args.format, args.k, &args.panels[p * bytes..(p + 1) * bytes]);
        for row in 0..block.rows() {
            let x = &args.x[row * args.k..(row + 1) * args.k];
            block.row(row)[c] = x.iter().enumerate().fold(0.0, |acc, (k, x)| x.mul_add(panel.weight(r, k), acc));
        }
    }
}
