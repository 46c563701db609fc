//! Float keys and values.

use super::{Ahead, LINE_BYTES, by_count, largest_score, pages, run, shift};
use crate::{
    PAGE_TOKENS, SEGMENT_TOKENS,
    kernels::{
        attn::{AttnSegmentArgs, at_least},
        generic::attention::Elem,
        lanes::Lanes,
    },
};
use std::ops::Range;

/// See [`AttnSegmentArgs`].
///
/// # Safety
/// As `attn_segment_with`; `k` and `v` are those of `args`.
#[inline(always)]
pub(in super::super) unsafe fn floats<L: Lanes, E: Elem>(args: &mut AttnSegmentArgs<'_>, k: &[E], v: &[E]) {
    let hd = args.query.head_dim;
    let scores = at_least(&mut args.scratch.scores, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let mut first = 0;
    while first < args.ranges.len() {
        let (count, visible) = run::<L>(args.ranges, first);
        let acc = &mut args.out.acc[first * hd..(first + count) * hd];
        acc.fill(0.0);
        let acc = acc.as_mut_ptr();
        let mut ahead = Ahead::new(k, v, args.next.0);
        // SAFETY: `check()` made sure of the lengths; `visible` lies in the segment; there is room for `GROUP` rows of
        // scores.
        unsafe {
            if !visible.is_empty() {
                let q = args.query.floats.as_ptr().add(first * hd);
                by_count!(
                    count,
                    scores_of::<L, E>(k.as_ptr(), hd, pages(&visible), (q, args.query.scale), scores, &mut ahead)
                );
            }
            for g in 0..count {
                let (max, sum) = softmax::<L>(scores.add(g * SEGMENT_TOKENS), &visible, &mut ahead);
                (args.out.max[first + g], args.out.sum[first + g]) = (max, sum);
            }
            if !visible.is_empty() {
                by_count!(count, values_of::<L, E>(v.as_ptr(), hd, &visible, scores, acc, &mut ahead));
            }
        }
        first += count;
    }
}

/// Scores of `G` vectors against whole pages: `scores` `[G, SEGMENT_TOKENS]`.
#[inline(always)]
unsafe fn scores_of<L: Lanes, E: Elem, const G: usize>(
    k: *const E,
    hd: usize,
    pages: Range<usize>,
    (q, scale): (*const f32, f32),
    scores: *mut f32,
    ahead: &mut Ahead,
) {
    let row_bytes = PAGE_TOKENS * size_of::<E>();
    for page in pages {
        for t in (0..PAGE_TOKENS).step_by(2 * L::N) {
            let mut acc = [[L::splat(0.0); 2]; G];
            // SAFETY: the page's rows of 32 tokens; `q` is `[G, hd]`; scores of this page.
            unsafe {
                let k = k.add(page * PAGE_TOKENS * hd + t);
                for d in 0..hd {
                    let row = k.add(d * PAGE_TOKENS);
                    if t == 0 {
                        ahead.ask::<L>(row_bytes / 2);
                    }
                    let keys = [E::load::<L>(row), E::load::<L>(row.add(L::N))];
                    for g in 0..G {
                        let x = L::splat(*q.add(g * hd + d));
                        for i in 0..2 {
                            acc[g][i] = x.fma(keys[i], acc[g][i]);
                        }
                    }
                }
                for g in 0..G {
                    let to = scores.add(g * SEGMENT_TOKENS + page * PAGE_TOKENS + t);
                    acc[g][0].mul(L::splat(scale)).store(to);
                    acc[g][1].mul(L::splat(scale)).store(to.add(L::N));
                }
            }
        }
    }
}

/// Scores to probabilities in place, whole groups of 16 slots: hidden slots of them get 0. Returns maximum and sum.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: *mut f32, visible: &Range<usize>, ahead: &mut Ahead) -> (f32, f32) {
    let slots = visible.start / 16 * 16..visible.end.next_multiple_of(16);
    let mut sum = [L::splat(0.0); 4];
    // SAFETY: `slots` lie in the segment's row of scores.
    unsafe {
        let max = largest_score::<L>(scores, visible, &slots, ahead);
        let shift = shift::<L>(max);
        for t in slots.step_by(16) {
            ahead.ask::<L>(LINE_BYTES);
            for i in 0..16 / L::N {
                let at = scores.add(t + i * L::N);
                let p = L::load(at).sub(shift).exp2();
                p.store(at);
                sum[i] = sum[i].add(p);
            }
        }
        (max, L::tree(&sum))
    }
}

/// `acc[g, d] += Σ_t p[g, t] · v[t, d]` over the visible slots: `acc` `[G, hd]`, `p` `[G, SEGMENT_TOKENS]`.
#[inline(always)]
unsafe fn values_of<L: Lanes, E: Elem, const G: usize>(
    v: *const E,
    hd: usize,
    visible: &Range<usize>,
    p: *const f32,
    acc: *mut f32,
    ahead: &mut Ahead,
) {
    let pace = ahead.pace(visible.len() * hd.div_ceil(2 * L::N));
    // Page by page, so that a page's rows are in the nearest cache when their next columns are read.
    for page in pages(visible) {
        let slots = visible.start.max(page * PAGE_TOKENS)..visible.end.min((page + 1) * PAGE_TOKENS);
        let mut d = 0;
        // SAFETY: columns `d..` of the segment's rows, as many as there are.
        unsafe {
            while d + 2 * L::N <= hd {
                add_values::<L, E, G, 2>(v.add(d), hd, &slots, p, acc.add(d), (ahead, pace));
                d += 2 * L::N;
            }
            while d + L::N <= hd {
                add_values::<L, E, G, 1>(v.add(d), hd, &slots, p, acc.add(d), (ahead, pace));
                d += L::N;
            }
            while d < hd {
                for g in 0..G {
                    let acc = acc.add(g * hd + d);
                    for t in slots.clone() {
                        *acc = (*p.add(g * SEGMENT_TOKENS + t)).mul_add(v.add(t * hd + d).read().widen(), *acc);
                    }
                }
                d += 1;
            }
        }
    }
}

/// As [`values_of`] for `R` registers of columns.
#[inline(always)]
unsafe fn add_values<L: Lanes, E: Elem, const G: usize, const R: usize>(
    v: *const E,
    hd: usize,
    slots: &Range<usize>,
    p: *const f32,
    to: *mut f32,
    (ahead, pace): (&mut Ahead, usize),
) {
    // SAFETY: the caller's columns of these rows; `to` and `p` as in `values_of`.
    unsafe {
        let mut acc = [[L::splat(0.0); R]; G];
        for g in 0..G {
            for r in 0..R {
                acc[g][r] = L::load(to.add(g * hd + r * L::N));
            }
        }
        for t in slots.clone() {
            let row = v.add(t * hd);
            ahead.ask::<L>(pace);
            let mut values = [L::splat(0.0); R];
            for r in 0..R {
                values[r] = E::load::<L>(row.add(r * L::N));
            }
            for g in 0..G {
                let x = L::splat(*p.add(g * SEGMENT_TOKENS + t));
                for r in 0..R {
                    acc[g][r] = x.fma(values[r], acc[g][r]);
                }
            }
        }
        for g in 0..G {
            for r in 0..R {
                acc[g][r].store(to.add(g * hd + r * L::N));
            }
        }
    }
}
