//! i8 keys and values: both products are integer dot products.

use super::{Ahead, LINE_BYTES, by_count, largest_score, pages, run, shift};
use crate::{
    PAGE_TOKENS, SEGMENT_PAGES, SEGMENT_TOKENS,
    kernels::{
        attn::{AttnSegmentArgs, LEAST_WEIGHT, WEIGHT_CODES, at_least},
        lanes::Lanes,
    },
    kv::{KvDtype, KvPart, KvSlice},
};
use std::ops::Range;

/// See [`AttnSegmentArgs`].
///
/// # Safety
/// As `attn_segment_with`; keys and values are i8.
#[inline(always)]
pub(in super::super) unsafe fn integers<L: Lanes>(args: &mut AttnSegmentArgs<'_>) {
    let (KvSlice::I8 { codes: k, scales: k_scales }, KvSlice::I8 { codes: v, scales: v_scales }) = (args.k, args.v)
    else {
        return;
    };
    let hd = args.query.head_dim;
    let hd4 = hd.next_multiple_of(4);
    let scores = at_least(&mut args.scratch.scores, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let codes = at_least(&mut args.scratch.codes, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let steps = at_least(&mut args.scratch.steps, L::GROUP * SEGMENT_PAGES).as_mut_ptr();
    let inverses = at_least(&mut args.scratch.inverses, L::GROUP * SEGMENT_PAGES).as_mut_ptr();
    let largest = at_least(&mut args.scratch.largest, L::GROUP * SEGMENT_PAGES * L::N).as_mut_ptr();
    let mut first = 0;
    while first < args.ranges.len() {
        let (count, visible) = run::<L>(args.ranges, first);
        let acc = &mut args.out.acc[first * hd..(first + count) * hd];
        if visible.is_empty() || !wide_lines::<L>() {
            acc.fill(0.0);
        }
        let acc = acc.as_mut_ptr();
        let mut ahead = Ahead::new(k, v, args.next.0);
        let (mut scales, mut next_scales) =
            (Ahead::only(v_scales, v_scales.as_ptr().cast()), Ahead::only(k_scales, args.next.1));
        // SAFETY: `check()` made sure of the lengths; `visible` lies in the segment; there is room for `GROUP` rows of
        // scores, codes and steps.
        unsafe {
            let mut max = [L::splat(f32::NEG_INFINITY); 8];
            if !visible.is_empty() {
                let q = args.query.codes.as_ptr().add(first * hd4);
                let (factors, offsets) =
                    (args.query.factors.as_ptr().add(first), args.query.offsets.as_ptr().add(first));
                let k = (k.as_ptr().cast(), k_scales.as_ptr());
                let q = (q, factors, offsets);
                max = by_count!(count, int_scores::<L>(k, hd4, pages(&visible), q, scores, (&mut ahead, &mut scales)));
            }
            // One step for all vectors before the next step: each ends in a chain of dependent instructions, and these overlap.
            let row = |g: usize| g * SEGMENT_TOKENS;
            let whole = pages(&visible).start * PAGE_TOKENS..pages(&visible).end * PAGE_TOKENS;
            for g in 0..count {
                args.out.max[first + g] = if wide_lines::<L>() && visible == whole {
                    ahead.ask::<L>(LINE_BYTES);
                    L::largest(&[max[g]; 4])
                } else {
                    largest_score::<L>(scores.add(row(g)), &visible, &whole, &mut ahead)
                };
            }
            for g in 0..count {
                let (max, largest) = (args.out.max[first + g], largest.add(g * SEGMENT_PAGES * L::N));
                let (scores, scales) = (scores.add(row(g)), v_scales.as_ptr());
                args.out.sum[first + g] = weights::<L>((scores, scales), max, pages(&visible), largest, &mut ahead);
            }
            for g in 0..count {
                let (largest, at) = (largest.add(g * SEGMENT_PAGES * L::N), g * SEGMENT_PAGES);
                weight_steps::<L>(largest, inverses.add(at), steps.add(at));
            }
            for g in 0..count {
                let inverses = inverses.add(g * SEGMENT_PAGES);
                weight_codes::<L>(scores.add(row(g)), inverses, pages(&visible), codes.add(row(g)), &mut ahead);
            }
            if !visible.is_empty() {
                by_count!(
                    count,
                    int_values::<L>(
                        v.as_ptr().cast(),
                        hd,
                        pages(&visible),
                        (codes, steps),
                        acc,
                        (&mut ahead, &mut next_scales)
                    )
                );
            }
        }
        first += count;
    }
}

/// Whether four bytes of each lane fill a line, as in the largest registers, of which there are many, too.
#[inline(always)]
const fn wide_lines<L: Lanes>() -> bool {
    4 * L::N == LINE_BYTES
}

/// Query vectors as codes `[G, hd4]`, their factors and offsets.
type IntQueries = (*const i8, *const f32, *const i32);

/// Scores of `G` vectors against whole pages: `scores` `[G, SEGMENT_TOKENS]`. Returns the largest of every lane, of wide registers.
#[inline(always)]
unsafe fn int_scores<L: Lanes, const G: usize>(
    (k, k_scales): (*const u8, *const f32),
    hd4: usize,
    pages: Range<usize>,
    (q, factors, offsets): IntQueries,
    scores: *mut f32,
    (ahead, scales): (&mut Ahead, &mut Ahead),
) -> [L; 8] {
    const ROW_BYTES: usize = PAGE_TOKENS * 4;
    let mut max = [L::splat(f32::NEG_INFINITY); 8];
    for page in pages {
        // A page's scales of values are two lines.
        scales.ask::<L>(LINE_BYTES);
        scales.ask::<L>(LINE_BYTES);
        for t in (0..PAGE_TOKENS).step_by(2 * L::N) {
            // SAFETY: the page's quads of 32 tokens; `q` is `[G, hd4]`; scores and scales of this page.
            unsafe {
                let mut acc = [[L::int(0); 2]; G];
                for g in 0..G {
                    acc[g] = [L::int(if L::KEY_BIAS { *offsets.add(g) } else { 0 }); 2];
                }
                let k = k.add(page * PAGE_TOKENS * hd4 + t * 4);
                for quad in 0..hd4 / 4 {
                    let row = k.add(quad * ROW_BYTES);
                    if t == 0 {
                        ahead.ask::<L>(LINE_BYTES);
                    }
                    let keys = [L::keys(L::load_int(row)), L::keys(L::load_int(row.add(4 * L::N)))];
                    for g in 0..G {
                        let x = L::int(q.add(g * hd4 + quad * 4).cast::<i32>().read_unaligned());
                        for i in 0..2 {
                            acc[g][i] = L::dot_keys(acc[g][i], keys[i], x);
                        }
                    }
                }
                let slot = page * PAGE_TOKENS + t;
                for i in 0..2 {
                    let scale = L::load(k_scales.add(slot + i * L::N));
                    for g in 0..G {
                        let s = L::from_int(acc[g][i]).mul(L::splat(*factors.add(g))).mul(scale);
                        s.store(scores.add(g * SEGMENT_TOKENS + slot + i * L::N));
                        if wide_lines::<L>() {
                            max[g] = s.max(max[g]);
                        }
                    }
                }
            }
        }
    }
    max
}

/// A vector's scores, whose largest is `max`, to weights `p · scale` in place, and the largest weights of the pages
/// `[SEGMENT_PAGES, N]`. Returns the sum of the probabilities.
#[inline(always)]
unsafe fn weights<L: Lanes>(
    (scores, scales): (*mut f32, *const f32),
    max: f32,
    pages: Range<usize>,
    largest: *mut f32,
    ahead: &mut Ahead,
) -> f32 {
    let (shift, mut sum) = (shift::<L>(max), [L::splat(0.0); 4]);
    for page in pages {
        let mut max = L::splat(0.0);
        for t in (0..PAGE_TOKENS).step_by(16) {
            ahead.ask::<L>(LINE_BYTES);
            for i in 0..16 / L::N {
                let slot = page * PAGE_TOKENS + t + i * L::N;
                // SAFETY: the row of scores, the scales of its slots.
                unsafe {
                    let p = L::load(scores.add(slot)).sub(shift).exp2();
                    sum[i] = sum[i].add(p);
                    let w = p.mul(L::load(scales.add(slot)));
                    w.store(scores.add(slot));
                    // A hidden slot's scale may be anything: 0 times that leaves the largest as it is, and its code is 0.
                    max = w.max(max);
                }
            }
        }
        // SAFETY: a register per page.
        unsafe { max.store(largest.add(page * L::N)) };
    }
    L::tree(&sum)
}

/// `inverses` `WEIGHT_CODES / W` and `steps` `W / WEIGHT_CODES` of a vector's pages, `W` being the largest of `[SEGMENT_PAGES, N]`.
#[inline(always)]
unsafe fn weight_steps<L: Lanes>(largest: *const f32, inverses: *mut f32, steps: *mut f32) {
    let zero = L::splat(0.0);
    let (least, infinite) = (L::splat(LEAST_WEIGHT), L::splat(f32::INFINITY));
    let (mut all_inverses, mut all_steps) = ([0.0f32; 16], [0.0f32; 16]);
    // SAFETY: 8 registers of floats, 8 inverses, 8 steps; lanes fit into arrays of 16.
    unsafe {
        let largest = L::largest_of_each(std::array::from_fn(|page| L::load(largest.add(page * L::N))));
        for page in (0..SEGMENT_PAGES).step_by(L::N) {
            let max = L::load(largest.as_ptr().add(page));
            let inverse = max.within(least, infinite, L::splat(WEIGHT_CODES).div(max), zero);
            let step = max.within(least, infinite, max.mul(L::splat(1.0 / WEIGHT_CODES)), max.mul(zero));
            inverse.store(all_inverses.as_mut_ptr().add(page));
            step.store(all_steps.as_mut_ptr().add(page));
        }
        inverses.copy_from_nonoverlapping(all_inverses.as_ptr(), SEGMENT_PAGES);
        steps.copy_from_nonoverlapping(all_steps.as_ptr(), SEGMENT_PAGES);
    }
}

/// A vector's weights to codes, page by page.
#[inline(always)]
unsafe fn weight_codes<L: Lanes>(
    weights: *const f32,
    inverses: *const f32,
    pages: Range<usize>,
    codes: *mut u8,
    ahead: &mut Ahead,
) {
    for page in pages {
        ahead.ask::<L>(LINE_BYTES);
        let mut ints = [L::int(0); PAGE_TOKENS / 4];
        // SAFETY: 32 weights and codes of the page.
        unsafe {
            let inverse = L::splat(*inverses.add(page));
            for i in 0..PAGE_TOKENS / L::N {
                ints[i] = L::load(weights.add(page * PAGE_TOKENS + i * L::N)).mul(inverse).to_int();
            }
            L::store_32_bytes(ints, codes.add(page * PAGE_TOKENS));
        }
    }
}

/// `acc[g, d] += step · Σ_t c[g, t] · v[t, d]`, page by page, of whole pages: codes `[G, SEGMENT_TOKENS]`, steps
/// `[G, SEGMENT_PAGES]`.
#[inline(always)]
unsafe fn int_values<L: Lanes, const G: usize>(
    v: *const u8,
    hd: usize,
    pages: Range<usize>,
    (codes, steps): (*const u8, *const f32),
    acc: *mut f32,
    (ahead, scales): (&mut Ahead, &mut Ahead),
) {
    let pace = ahead.pace(pages.len() * PAGE_TOKENS * hd / LINE_BYTES);
    // Where a register's quads fill a line, columns of some pages at a time: their sums stay in registers, and every line is read
    // once. Of all pages at a time, memory would have to be far ahead. Else a page's rows are in the nearest cache when their next
    // columns are read.
    let step = if wide_lines::<L>() { 4 } else { 1 };
    for first in pages.clone().step_by(step) {
        let begins = first == pages.start;
        let pages = first..pages.end.min(first + step);
        let mut d = 0;
        // SAFETY: columns `d..` of the pages' 8 rows of `hd` quads of tokens; their codes and steps; `acc` is `[G, hd]`.
        unsafe {
            macro_rules! columns {
                ($registers:literal) => {
                    while d + $registers * L::N <= hd {
                        let (v, to) = (v.add(4 * d), acc.add(d));
                        let ahead = (&mut *ahead, &mut *scales, pace);
                        add_int_values::<L, G, $registers>((v, hd), pages.clone(), (codes, steps), (to, begins), ahead);
                        d += $registers * L::N;
                    }
                };
            }
            if !wide_lines::<L>() {
                columns!(2);
            }
            columns!(1);
            if begins && wide_lines::<L>() {
                for g in 0..G {
                    std::slice::from_raw_parts_mut(acc.add(g * hd + d), hd - d).fill(0.0);
                }
            }
            for (d, g) in (d..hd).flat_map(|d| (0..G).map(move |g| (d, g))) {
                for page in pages.clone() {
                    let v = v.add(page * KvPart::Values.page_elems(KvDtype::I8, hd));
                    let mut dot = 0;
                    for t in 0..PAGE_TOKENS {
                        let code = *codes.add(g * SEGMENT_TOKENS + page * PAGE_TOKENS + t);
                        dot += i32::from(code) * i32::from(v.add((t / 4 * hd + d) * 4 + t % 4).cast::<i8>().read());
                    }
                    let step = *steps.add(g * SEGMENT_PAGES + page);
                    *acc.add(g * hd + d) = (dot as f32).mul_add(step, *acc.add(g * hd + d));
                }
            }
        }
    }
}

/// As [`int_values`] for `R` registers of columns; where `begins`, held sums begin with 0.
#[inline(always)]
unsafe fn add_int_values<L: Lanes, const G: usize, const R: usize>(
    (v, hd): (*const u8, usize),
    pages: Range<usize>,
    (codes, steps): (*const u8, *const f32),
    (to, begins): (*mut f32, bool),
    (ahead, scales, pace): (&mut Ahead, &mut Ahead, usize),
) {
    // Sums of several pages stay in registers where these are large, and with them many.
    let held = wide_lines::<L>();
    // SAFETY: the caller's columns of the pages' rows.
    unsafe {
        let mut sums = [[L::splat(0.0); R]; G];
        let at = |g: usize, r: usize| to.add(g * hd + r * L::N);
        if held && !begins {
            for g in 0..G {
                for r in 0..R {
                    sums[g][r] = L::load(at(g, r));
                }
            }
        }
        for page in pages {
            let v = v.add(page * KvPart::Values.page_elems(KvDtype::I8, hd));
            let codes = codes.add(page * PAGE_TOKENS);
            scales.ask::<L>(LINE_BYTES);
            let mut acc = [[L::int(0); R]; G];
            for quad in 0..PAGE_TOKENS / 4 {
                let row = v.add(quad * hd * 4);
                ahead.ask::<L>(pace);
                let mut values = [L::int(0); R];
                for r in 0..R {
                    values[r] = L::load_int(row.add(r * 4 * L::N));
                }
                for g in 0..G {
                    let x = L::int(codes.add(g * SEGMENT_TOKENS + quad * 4).cast::<i32>().read_unaligned());
                    for r in 0..R {
                        acc[g][r] = L::dot(acc[g][r], x, values[r]);
                    }
                }
                L::fence();
            }
            for g in 0..G {
                let step = L::splat(*steps.add(g * SEGMENT_PAGES + page));
                for r in 0..R {
                    let dot = L::from_int(acc[g][r]);
                    if held {
                        sums[g][r] = dot.fma(step, sums[g][r]);
                    } else {
                        dot.fma(step, L::load(at(g, r))).store(at(g, r));
                    }
                }
            }
        }
        if held {
            for g in 0..G {
                for r in 0..R {
                    sums[g][r].store(at(g, r));
                }
            }
        }
    }
}
