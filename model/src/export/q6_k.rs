//! Encoding `Q6_K`: what llama.cpp gives the head of its 4-bit models.
//!
//! 256 weights in 16 groups; weight = `d · group_scale · code`, codes −32…31 in 6 bits, group scales i8, `d` f16. The block:
//! low 4 bits of the codes `[128]`, their high 2 bits `[64]`, group scales `[16]`, `d`.

use super::encode::put_f16;
use half::f16;

const GROUPS: usize = 16;
const GROUP: usize = 16;
/// Tries on each side of the scale at which a group's extreme becomes code −32.
const TRIES: i32 = 9;

fn codes(group: &[f32], scale: f32) -> impl Iterator<Item = f32> + '_ {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    group.iter().map(move |v| (v * inverse).round_ties_even().clamp(-32.0, 31.0))
}

/// The scale of a group with the least squared error: codes of a few scales near that of the extreme, each with the scale
/// that fits its codes best.
fn best_scale(group: &[f32]) -> f32 {
    let extreme = group.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = (0.0f32, 0.0f32);
    for step in -TRIES..=TRIES {
        let scale = extreme / -(32.0 + 0.1 * step as f32);
        let (mut dot, mut squares) = (0.0f32, 0.0f32);
        for (v, c) in group.iter().zip(codes(group, scale)) {
            dot += v * c;
            squares += c * c;
        }
        // Σ(v − s·c)² is least at s = dot / squares, and then smaller by dot² / squares than Σv².
        let gain = dot * dot / squares;
        if gain > best.0 {
            best = (gain, dot / squares);
        }
    }
    best.1
}

/// Appends one block of 256 finite weights. `Err` when its scale is too large for f16.
pub(super) fn encode(block: &[f32], out: &mut Vec<u8>) -> Result<(), ()> {
    let mut scales = [0.0f32; GROUPS];
    for (scale, group) in scales.iter_mut().zip(block.chunks_exact(GROUP)) {
        *scale = best_scale(group);
    }
    let extreme = scales.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    let d = f16::from_f32(extreme / -128.0);
    let (mut low, mut high, mut group_scales) = ([0u8; 128], [0u8; 64], [0i8; GROUPS]);
    for (g, group) in block.chunks_exact(GROUP).enumerate() {
        if d != f16::ZERO && d.is_finite() {
            group_scales[g] = (scales[g] / d.to_f32()).round_ties_even().clamp(-128.0, 127.0) as i8;
        }
        for (i, code) in codes(group, d.to_f32() * f32::from(group_scales[g])).enumerate() {
            let code = (code as i8 + 32) as u8;
            // Halves of 128; in each, quarter q takes nibble q/2 of the low bytes 32·(q%2).. and bits 2q of the high bytes.
            let at = g * GROUP + i;
            let (half, q, j) = (at / 128, at % 128 / 32, at % 32);
            low[64 * half + 32 * (q % 2) + j] |= (code & 15) << (4 * (q / 2));
            high[32 * half + j] |= (code >> 4) << (2 * q);
        }
    }
    out.extend_from_slice(&low);
    out.extend_from_slice(&high);
    out.extend(group_scales.map(|s| s as u8));
    put_f16(d, out)
}
