//! Integer products over panels: 16 rows at once, in plain arrays.

use super::gemm_u8s8::dot4;
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use half::f16;

/// Reads 16 little-endian f32.
fn floats(bytes: &[u8]) -> [f32; PANEL_ROWS] {
    std::array::from_fn(|r| f32::from_le_bytes([bytes[4 * r], bytes[4 * r + 1], bytes[4 * r + 2], bytes[4 * r + 3]]))
}

/// The dots of one group.
#[inline(always)]
fn group_dots(format: WeightFormat, codes: &[u8], x: &[i8]) -> [i32; PANEL_ROWS] {
    let mut acc = [0i32; PANEL_ROWS];
    if format == WeightFormat::Q8 {
        for (codes, x) in codes.chunks_exact(64).zip(x.chunks_exact(4)) {
            dot4(&mut acc, &std::array::from_fn(|i| codes[i] as i8), x);
        }
    } else {
        for (codes, x) in codes.chunks_exact(64).zip(x.chunks_exact(8)) {
            dot4(&mut acc, &std::array::from_fn(|i| (codes[i] & 0xF) as i8 - 8), &x[..4]);
            dot4(&mut acc, &std::array::from_fn(|i| (codes[i] >> 4) as i8 - 8), &x[4..]);
        }
    }
    acc
}

/// See [`IntLinearArgs`].
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let layout = panel_layout(args.format, args.k);
    let k_pad = padded_k(args.k);
    let groups = k_pad / GROUP;
    let group_bytes = layout.group_scales.min(k_pad * PANEL_ROWS) / groups.max(1);
    for (p, panel) in args.panels.chunks_exact(layout.bytes.max(1)).enumerate() {
        let cols = p * PANEL_ROWS..block.cols().min((p + 1) * PANEL_ROWS);
        for row in 0..block.rows() {
            let mut acc = [0.0f32; PANEL_ROWS];
            for g in 0..groups {
                let x = &args.x.codes[row * k_pad + g * GROUP..][..GROUP];
                let sx = args.x.scales[row * groups + g];
                let dots = group_dots(args.format, &panel[g * group_bytes..(g + 1) * group_bytes], x);
                match args.format {
                    WeightFormat::Q4s => {
                        let scales = &panel[layout.group_scales + g * 32..][..32];
                        for r in 0..PANEL_ROWS {
                            let sw = f16::from_le_bytes([scales[2 * r], scales[2 * r + 1]]).to_f32();
                            acc[r] = (dots[r] as f32).mul_add(sx * sw, acc[r]);
                        }
                    }
                    WeightFormat::Q4 => {
                        let scales = &panel[layout.group_scales + g * 8..][..8];
                        for r in 0..PANEL_ROWS {
                            let scale = i32::from(if r < 8 { scales[r] & 0xF } else { scales[r - 8] >> 4 });
                            acc[r] = ((dots[r] * scale) as f32).mul_add(sx, acc[r]);
                        }
                    }
                    _ => {
                        for r in 0..PANEL_ROWS {
                            acc[r] = (dots[r] as f32).mul_add(sx, acc[r]);
                        }
                    }
                }
            }
            if args.format != WeightFormat::Q4s {
                let scales = floats(&panel[layout.channel_scales..]);
                for r in 0..PANEL_ROWS {
                    acc[r] *= scales[r];
                }
            }
            block.row(row)[cols.clone()].copy_from_slice(&acc[..cols.len()]);
        }
    }
}
