//! One page of attention as two small matrix products over a block of query vectors.

use super::rows::{exp, tree};
use crate::{
    PAGE_TOKENS,
    kernels::{AttnPageArgs, args::PageScratch},
    kv::KvSlice,
};

/// Columns of a register tile.
const WIDE: usize = 32;
/// Query vectors of a register tile.
const TALL: usize = 4;

/// `c[i, j] = fma(a[i, k], b[k, j], c[i, j])`, `k` ascending, for `M` rows and `N` columns.
/// Strides are in elements; `a` starts at the first `k`, `b` at its row.
#[inline(always)]
fn tile<const M: usize, const N: usize>(a: [&[f32]; M], b: &[f32], b_stride: usize, c: &mut [[f32; N]; M]) {
    let k = a[0].len();
    assert!(a.iter().all(|a| a.len() == k) && (k == 0 || b.len() >= (k - 1) * b_stride + N));
    let mut acc = *c;
    for i in 0..k {
        let b = &b[i * b_stride..i * b_stride + N];
        for m in 0..M {
            let x = a[m][i];
            for n in 0..N {
                acc[m][n] = x.mul_add(b[n], acc[m][n]);
            }
        }
    }
    *c = acc;
}

/// Loads a tile of `c` (row stride `stride`), scales row `m` by `alpha[m]`, adds the product, stores.
#[inline(always)]
fn add_values<const M: usize, const N: usize>(
    p: [&[f32]; M],
    alpha: [f32; M],
    v: &[f32],
    v_stride: usize,
    acc: &mut [f32],
    stride: usize,
) {
    let mut c = [[0.0f32; N]; M];
    for m in 0..M {
        for n in 0..N {
            c[m][n] = acc[m * stride + n] * alpha[m];
        }
    }
    tile(p, v, v_stride, &mut c);
    for m in 0..M {
        acc[m * stride..m * stride + N].copy_from_slice(&c[m]);
    }
}

/// All columns of the values for `M` query vectors that see the same tokens.
#[inline(always)]
fn weigh<const M: usize>(p: [&[f32]; M], alpha: [f32; M], v: &[f32], hd: usize, acc: &mut [f32]) {
    let mut d = 0;
    while d + WIDE <= hd {
        add_values::<M, WIDE>(p, alpha, &v[d..], hd, &mut acc[d..], hd);
        d += WIDE;
    }
    while d + 8 <= hd {
        add_values::<M, 8>(p, alpha, &v[d..], hd, &mut acc[d..], hd);
        d += 8;
    }
    while d < hd {
        add_values::<M, 1>(p, alpha, &v[d..], hd, &mut acc[d..], hd);
        d += 1;
    }
}

/// Scores of `M` query vectors against the page, and their softmax step. Returns how much older sums shrink.
#[inline(always)]
fn score<const M: usize>(args: &mut AttnPageArgs<'_>, keys: &[f32], scores: &mut [f32], first: usize) -> [f32; M] {
    let hd = args.head_dim;
    let q: [&[f32]; M] = std::array::from_fn(|m| &args.q[(first + m) * hd..(first + m + 1) * hd]);
    let mut c = [[0.0f32; PAGE_TOKENS]; M];
    tile::<M, PAGE_TOKENS>(q, keys, PAGE_TOKENS, &mut c);
    let mut alpha = [1.0; M];
    for m in 0..M {
        let (low, high) = args.ranges[first + m];
        let old = args.max[first + m];
        let mut s = [f32::NEG_INFINITY; PAGE_TOKENS];
        let mut max = old;
        for t in 0..PAGE_TOKENS {
            let visible = (t >= usize::from(low)) & (t < usize::from(high));
            s[t] = if visible { c[m][t] * args.scale } else { f32::NEG_INFINITY };
        }
        for s in s {
            max = if s > max { s } else { max };
        }
        let p = &mut scores[m * PAGE_TOKENS..(m + 1) * PAGE_TOKENS];
        for t in 0..PAGE_TOKENS {
            let visible = (t >= usize::from(low)) & (t < usize::from(high));
            let e = exp(s[t] - max);
            p[t] = if visible { e } else { 0.0 };
        }
        let mut lanes = [0.0f32; 16];
        for j in 0..16 {
            lanes[j] = p[j] + p[j + 16];
        }
        alpha[m] = exp(old - max);
        args.max[first + m] = max;
        args.sum[first + m] = args.sum[first + m].mul_add(alpha[m], tree(&lanes));
    }
    alpha
}

/// See [`AttnPageArgs`]: keys turned to `[head_dim, tokens]` with `transpose`, values widened with `widen`.
#[inline(always)]
pub(in crate::kernels) fn attn_page_with(
    args: &mut AttnPageArgs<'_>,
    transpose: impl Fn(KvSlice<'_>, usize, &mut [f32]),
    widen: impl Fn(KvSlice<'_>, &mut [f32]),
) {
    let hd = args.head_dim;
    let PageScratch { mut keys, mut values, mut scores } = std::mem::take(args.scratch);
    transpose(args.k, hd, &mut keys);
    let v = match args.v {
        KvSlice::F32(v) => v,
        half => {
            widen(half, &mut values);
            &values
        }
    };
    let mut i = 0;
    while i < args.ranges.len() {
        let (low, high) = args.ranges[i];
        let visible = usize::from(low)..usize::from(high);
        let same = args.ranges[i..].iter().take(TALL).take_while(|r| **r == (low, high)).count();
        if visible.is_empty() {
            i += same;
            continue;
        }
        let v = &v[visible.start * hd..visible.end * hd];
        if same == TALL {
            let alpha = score::<TALL>(args, &keys, &mut scores, i);
            let p = std::array::from_fn(|m| &scores[m * PAGE_TOKENS..(m + 1) * PAGE_TOKENS][visible.clone()]);
            weigh::<TALL>(p, alpha, v, hd, &mut args.acc[i * hd..(i + TALL) * hd]);
            i += TALL;
        } else {
            let alpha = score::<1>(args, &keys, &mut scores, i);
            weigh::<1>([&scores[visible]], alpha, v, hd, &mut args.acc[i * hd..(i + 1) * hd]);
            i += 1;
        }
    }
    *args.scratch = PageScratch { keys, values, scores };
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32.
#[inline(always)]
pub(in crate::kernels) fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    for t in 0..PAGE_TOKENS {
        for d in 0..hd {
            to[d * PAGE_TOKENS + t] = from.get(t * hd + d);
        }
    }
}

/// See [`AttnPageArgs`].
pub(in crate::kernels) fn attn_page(args: &mut AttnPageArgs<'_>) {
    attn_page_with(args, transpose, super::rows::widen);
}
