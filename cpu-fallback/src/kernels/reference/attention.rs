//! Attention over one segment, and merging segments.

use super::rows::tree;
use crate::{
    PAGE_TOKENS, SEGMENT_TOKENS,
    kernels::{
        Block,
        attn::{AttnPart, AttnSegmentArgs, AttnState, AttnVectors, LEAST_WEIGHT, WEIGHT_CODES},
        lanes::{EXP2_LOW, EXP2_TERMS, MAGIC},
    },
    kv::{KvDtype, KvPart, KvSlice},
};

/// `2^x` for `x ≤ 0`: `2^n · 2^r` with `n = round(x)`, ties to even, and a polynomial for `2^r`. At most 1 ULP from the true
/// value; 0 below −127, NaN for NaN.
pub(in crate::kernels) fn exp2(x: f32) -> f32 {
    let x = if EXP2_LOW > x { EXP2_LOW } else { x };
    let shifted = x + MAGIC;
    let r = x - (shifted - MAGIC);
    let p = EXP2_TERMS[1..].iter().fold(EXP2_TERMS[0], |p, term| p.mul_add(r, *term));
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// See [`AttnSegmentArgs`].
pub(in crate::kernels) fn attn_segment(args: &mut AttnSegmentArgs<'_>) {
    for i in 0..args.query.vectors {
        vector(args, i);
    }
}

/// The scale of slot `t`.
fn scale(part: KvSlice<'_>, t: usize) -> f32 {
    match part {
        KvSlice::I8 { scales, .. } => scales[t],
        _ => 1.0,
    }
}

fn score(args: &AttnSegmentArgs<'_>, i: usize, t: usize) -> f32 {
    let (query, dtype) = (args.query, args.k.dtype());
    let (hd, width) = (query.head_dim, query.width);
    let (tile, lane) = (i / width, i % width);
    let key = |d: usize| args.k.get(KvPart::Keys.index(dtype, hd, t, d));
    if dtype == KvDtype::I8 {
        let hd4 = hd.next_multiple_of(4);
        let dot: i32 = (0..hd)
            .map(|d| i32::from(query.codes[tile * width * hd4 + (d / 4 * width + lane) * 4 + d % 4]) * key(d) as i32)
            .sum();
        dot as f32 * query.factors[i] * scale(args.k, t)
    } else {
        let q = |d: usize| query.floats[(tile * hd + d) * width + lane];
        (0..hd).fold(0.0f32, |sum, d| q(d).mul_add(key(d), sum)) * query.scale
    }
}

fn vector(args: &mut AttnSegmentArgs<'_>, i: usize) {
    let (hd, width, dtype) = (args.query.head_dim, args.query.width, args.k.dtype());
    let (low, high) = args.ranges[i];
    let visible = usize::from(low)..usize::from(high);
    let mut p = [0.0f32; SEGMENT_TOKENS];
    let mut max = f32::NEG_INFINITY;
    for t in visible.clone() {
        p[t] = score(args, i, t);
        max = if p[t] > max { p[t] } else { max };
    }
    let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let mut lanes = [0.0f32; 16];
    for t in visible.clone() {
        p[t] = exp2(p[t] - shift);
        lanes[t % 16] += p[t];
    }
    args.out.max[i] = max;
    args.out.sum[i] = tree(lanes);
    let value = |t: usize, d: usize| args.v.get(KvPart::Values.index(dtype, hd, t, d));
    let mut acc = vec![0.0f32; hd];
    if dtype == KvDtype::I8 {
        for page in (0..SEGMENT_TOKENS).step_by(PAGE_TOKENS) {
            let slots = visible.start.max(page)..visible.end.min(page + PAGE_TOKENS);
            if slots.is_empty() {
                continue;
            }
            let weight = |t: usize| p[t] * scale(args.v, t);
            let max = slots.clone().map(weight).fold(0.0f32, |max, w| if w > max { w } else { max });
            let usable = (LEAST_WEIGHT..f32::INFINITY).contains(&max);
            let (inverse, step) =
                if usable { (WEIGHT_CODES / max, max * (1.0 / WEIGHT_CODES)) } else { (0.0, max * 0.0) };
            let codes: Vec<i32> =
                slots.clone().map(|t| i32::from((weight(t) * inverse).round_ties_even() as u8)).collect();
            for (d, acc) in acc.iter_mut().enumerate() {
                let dot: i32 = slots.clone().zip(&codes).map(|(t, code)| code * value(t, d) as i32).sum();
                *acc = (dot as f32).mul_add(step, *acc);
            }
        }
    } else {
        for (d, acc) in acc.iter_mut().enumerate() {
            *acc = visible.clone().fold(0.0, |acc, t| p[t].mul_add(value(t, d), acc));
        }
    }
    for (d, acc) in acc.iter().enumerate() {
        args.out.acc[(i / width * hd + d) * width + i % width] = *acc;
    }
}

/// Merges `part` into `total`: see [`crate::attention`].
pub(in crate::kernels) fn attn_merge(total: &mut AttnState<'_>, part: &AttnPart<'_>, width: usize) {
    let hd = total.acc.len() / total.max.len();
    for i in 0..total.max.len() {
        let (old, max, sum) = (total.max[i], part.max[i], part.sum[i]);
        // A vector that saw nothing of the segment has no sum. (A NaN sum is merged.)
        if sum == 0.0 && max == f32::NEG_INFINITY {
            continue;
        }
        let new = if max > old { max } else { old };
        let (a, b) = (exp2(old - new), exp2(max - new));
        total.max[i] = new;
        total.sum[i] = sum.mul_add(b, total.sum[i] * a);
        for d in 0..hd {
            let at = (i / width * hd + d) * width + i % width;
            total.acc[at] = part.acc[at].mul_add(b, total.acc[at] * a);
        }
    }
}

/// Query vectors as `[tiles, hd, width]`.
pub(in crate::kernels) fn attn_columns(vectors: &AttnVectors<'_>, hd: usize, width: usize, to: &mut [f32]) {
    for i in 0..vectors.count {
        for d in 0..hd {
            to[(i / width * hd + d) * width + i % width] = vectors.q[vectors.at(i, hd) + d];
        }
    }
}

/// The results of a block of rows with `group` vectors each: weighted values times `1 / sum`.
pub(in crate::kernels) fn attn_finish(total: &AttnPart<'_>, width: usize, group: usize, block: &mut Block<'_, f32>) {
    let hd = block.cols() / group;
    for r in 0..block.rows() {
        for (at, out) in block.row(r).iter_mut().enumerate() {
            let (i, d) = (r * group + at / hd, at % hd);
            *out = total.acc[(i / width * hd + d) * width + i % width] * (1.0 / total.sum[i]);
        }
    }
}
