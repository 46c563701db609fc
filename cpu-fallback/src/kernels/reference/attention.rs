//! One page of attention.

use super::rows::{exp, tree};
use crate::{PAGE_TOKENS, kernels::AttnPageArgs, kv::KvSlice};

/// Copies to f32.
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    for (i, v) in to.iter_mut().enumerate() {
        *v = from.get(i);
    }
}

/// See [`AttnPageArgs`].
pub(in crate::kernels) fn attn_page(args: &mut AttnPageArgs<'_>) {
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
