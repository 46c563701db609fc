//! Integer linears.

use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, Panel, padded_k, panel_layout},
};

/// See [`IntLinearArgs`].
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let (k_pad, bytes) = (padded_k(args.k), panel_layout(args.format, args.k).bytes);
    let groups = k_pad / GROUP;
    for c in 0..block.cols() {
        let (p, r) = (c / PANEL_ROWS, c % PANEL_ROWS);
        let panel = Panel::new(args.format, args.k, &args.panels[p * bytes..(p + 1) * bytes]);
        for row in 0..block.rows() {
            let mut acc = 0.0f32;
            for g in 0..groups {
                let codes = &args.x.codes[row * k_pad + g * GROUP..][..GROUP];
                let dot: i32 = codes
                    .iter()
                    .enumerate()
                    .map(|(i, a)| i32::from(*a) * i32::from(panel.code(r, g * GROUP + i)))
                    .sum();
                let sx = args.x.scales[row * groups + g];
                acc = match args.format {
                    WeightFormat::Q4s => (dot as f32).mul_add(sx * panel.group_scale(r, g), acc),
                    _ => ((dot * i32::from(panel.group_scale_code(r, g))) as f32).mul_add(sx, acc),
                };
            }
            block.row(row)[c] = if args.format == WeightFormat::Q4s { acc } else { acc * panel.channel_scale(r) };
        }
    }
}
