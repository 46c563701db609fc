//! The specification of every kernel: plain loops, one element at a time, in the order that all sets keep.

use super::{AttnPageArgs, Block, FloatLinearArgs, GemmU8S8Args, IntLinearArgs};
use crate::{PAGE_TOKENS, kv::KvSlice, quant::GROUP_ABSMAX_MIN};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, Panel, padded_k, panel_layout, q8_index},
};

/// See [`IntLinearArgs`].
pub(super) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
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

/// See [`FloatLinearArgs`].
pub(super) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
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

/// See [`crate::quant`].
pub(super) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    codes.fill(0);
    for (g, group) in x.chunks(GROUP).enumerate() {
        let codes = &mut codes[g * GROUP..g * GROUP + group.len()];
        let bits = group.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
        let absmax = f32::from_bits(bits);
        if !absmax.is_finite() {
            (scales[g], sums[g]) = (f32::NAN, 0);
        } else if absmax < GROUP_ABSMAX_MIN {
            (scales[g], sums[g]) = (0.0, 0);
        } else {
            let inverse = 127.0 / absmax;
            for (code, v) in codes.iter_mut().zip(group) {
                *code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            }
            scales[g] = absmax / 127.0;
            sums[g] = codes.iter().map(|c| i32::from(*c)).sum();
        }
    }
}

/// See [`crate::quantize_u8`].
pub(super) fn quantize_u8(x: &[f32], scale: f32, codes: &mut [u8]) -> bool {
    let mut clipped = false;
    for (code, v) in codes.iter_mut().zip(x) {
        let q = (v / scale).round_ties_even() + 128.0;
        clipped |= !(0.0..=255.0).contains(&q);
        *code = if q.is_nan() { 128 } else { q.clamp(0.0, 255.0) as u8 };
    }
    clipped
}

/// See [`GemmU8S8Args`].
pub(super) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
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

/// `y[i] = fma(a, x[i], y[i])`.
pub(super) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(*x, *y);
    }
}

/// Copies to f32.
pub(super) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    for (i, v) in to.iter_mut().enumerate() {
        *v = from.get(i);
    }
}

/// Adds 16 lanes as a tree of halves.
pub(super) fn tree(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// See [`crate::rms_norm`].
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; 16];
    for (i, v) in x.iter().enumerate() {
        lanes[i % 16] = v.mul_add(*v, lanes[i % 16]);
    }
    let inverse = 1.0 / (tree(lanes) / x.len() as f32 + eps).sqrt();
    for i in 0..x.len() {
        out[i] = x[i] * inverse * gain[i];
    }
}

/// The one `exp` of this crate: `2^n · e^r` with `x = n ln 2 + r`, `|r| ≤ ln 2 / 2`, and Taylor's polynomial of degree 7 for
/// `e^r`. At most 1 ULP from the true value (tested over the whole range); 0 below −87.33 (no subnormal results),
/// infinity above 88.72, NaN for NaN.
pub(super) fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x < super::generic::EXP_LOW {
        return 0.0;
    }
    if x > super::generic::EXP_HIGH {
        return f32::INFINITY;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-super::generic::LN2_LOW, n.mul_add(-super::generic::LN2_HIGH, x));
    let p = super::generic::EXP_TERMS.iter().fold(0.0f32, |p, term| p.mul_add(r, *term));
    // n is −126…128; 2^128 is no float, so the power goes in two steps.
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let (n, half) = (n as i32, n as i32 >> 1);
    p * power(half) * power(n - half)
}

/// See [`crate::silu_mul`].
pub(super) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
    }
}

/// See [`crate::RopeTable`].
pub(super) fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for i in 0..half {
        let (a, b) = (head[i], head[i + half]);
        head[i] = a.mul_add(cos[i], -(b * sin[i]));
        head[i + half] = b.mul_add(cos[i], a * sin[i]);
    }
}

/// See [`AttnPageArgs`].
pub(super) fn attn_page(args: &mut AttnPageArgs<'_>) {
    let hd = args.head_dim;
    for (i, &(low, high)) in args.ranges.iter().enumerate() {
        let visible = usize::from(low)..usize::from(high);
        if visible.is_empty() {
            continue;
        }
        let q = &args.q[i * hd..(i + 1) * hd];
        let mut scores = [f32::NEG_INFINITY; PAGE_TOKENS];
        for t in visible.clone() {
            scores[t] = (0..hd).fold(0.0f32, |acc, d| q[d].mul_add(args.k.get(t * hd + d), acc)) * args.scale;
        }
        let old = args.max[i];
        let max = scores[visible.clone()].iter().fold(old, |m, s| if *s > m { *s } else { m });
        let alpha = exp(old - max);
        let mut p = [0.0f32; PAGE_TOKENS];
        for t in visible.clone() {
            p[t] = exp(scores[t] - max);
        }
        let mut lanes = [0.0; 16];
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane = p[j] + p[j + 16];
        }
        args.max[i] = max;
        args.sum[i] = args.sum[i].mul_add(alpha, tree(lanes));
        for d in 0..hd {
            let acc = &mut args.acc[i * hd + d];
            *acc *= alpha;
            for t in visible.clone() {
                *acc = p[t].mul_add(args.v.get(t * hd + d), *acc);
            }
        }
    }
}
