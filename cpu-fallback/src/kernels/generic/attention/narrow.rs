//! A few query vectors (`width` 1): scores hold tokens in their lanes, weighted values dimensions, so keys and values are
//! read once, as they lie, for all vectors of a KV head.

use super::Elem;
use crate::{
    PAGE_TOKENS, SEGMENT_TOKENS,
    kernels::{
        attn::{AttnSegmentArgs, LEAST_WEIGHT, WEIGHT_CODES, at_least},
        lanes::Lanes,
    },
    kv::{KvDtype, KvPart, KvSlice},
};
use std::ops::Range;

/// Asks for `bytes` bytes at `at`.
#[inline(always)]
fn ask_for<L: Lanes>(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        L::prefetch(at.wrapping_add(line));
    }
}

/// Memory that is read later, asked for bit by bit while something else is worked on, so that memory never rests: values during
/// the scores and the softmax of their segment, the next segment's keys during the values.
struct Ahead {
    at: *const u8,
    end: *const u8,
}

impl Ahead {
    /// `bytes` bytes at `at`; nothing where that is null.
    #[inline(always)]
    fn new(at: *const u8, bytes: usize) -> Self {
        Self { at, end: if at.is_null() { at } else { at.wrapping_add(bytes) } }
    }

    /// Asks for the lines that begin in the next `bytes` bytes.
    #[inline(always)]
    fn ask<L: Lanes>(&mut self, bytes: usize) {
        let to = self.at.wrapping_add(bytes).min(self.end);
        let mut line = self.at.wrapping_add(self.at.addr().wrapping_neg() % 64);
        while line < to {
            L::prefetch(line);
            line = line.wrapping_add(64);
        }
        self.at = to;
    }

    /// The bytes that are left, in `steps` parts.
    #[inline(always)]
    fn share(&self, steps: usize) -> usize {
        (self.end.addr() - self.at.addr()).div_ceil(steps.max(1))
    }
}

/// Calls `$f::<$($t,)+ COUNT>` with the constant that `$count` is, 1 to 8.
macro_rules! by_count {
    ($count:expr, $f:ident::<$($t:ty),+>($($arg:expr),* $(,)?)) => {
        match $count {
            1 => $f::<$($t,)+ 1>($($arg),*),
            2 => $f::<$($t,)+ 2>($($arg),*),
            3 => $f::<$($t,)+ 3>($($arg),*),
            4 => $f::<$($t,)+ 4>($($arg),*),
            5 => $f::<$($t,)+ 5>($($arg),*),
            6 => $f::<$($t,)+ 6>($($arg),*),
            7 => $f::<$($t,)+ 7>($($arg),*),
            _ => $f::<$($t,)+ 8>($($arg),*),
        }
    };
}

/// The next vectors from `first` on that see the same slots: their number, `L::GROUP` at most and about even, and the slots.
#[inline(always)]
fn run<L: Lanes>(ranges: &[(u16, u16)], first: usize) -> (usize, Range<usize>) {
    let (low, high) = ranges[first];
    let same = ranges[first..].iter().take_while(|r| **r == (low, high)).count();
    let tiles = same.div_ceil(L::GROUP);
    (same.div_ceil(tiles), usize::from(low)..usize::from(high))
}

/// Float keys and values.
///
/// # Safety
/// As [`super::attn_segment_with`]; `k` and `v` are those of `args`.
#[inline(always)]
pub(super) unsafe fn floats<L: Lanes, E: Elem>(args: &mut AttnSegmentArgs<'_>, k: &[E], v: &[E]) {
    let hd = args.query.head_dim;
    let scores = at_least(&mut args.scratch.scores, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let mut first = 0;
    while first < args.ranges.len() {
        let (count, visible) = run::<L>(args.ranges, first);
        let acc = &mut args.out.acc[first * hd..(first + count) * hd];
        acc.fill(0.0);
        let acc = acc.as_mut_ptr();
        let (start, bytes) = (pages(&visible).start, PAGE_TOKENS * hd * size_of::<E>());
        let mut values = Ahead::new(v.as_ptr().cast::<u8>().wrapping_add(start * bytes), pages(&visible).len() * bytes);
        let mut keys = Ahead::new(args.next.0, size_of_val(k));
        // SAFETY: `check()` made sure of the lengths; `visible` lies in the segment; there is room for `GROUP` rows of
        // scores.
        unsafe {
            if !visible.is_empty() {
                let q = args.query.floats.as_ptr().add(first * hd);
                by_count!(
                    count,
                    scores_of::<L, E>(k.as_ptr(), hd, pages(&visible), (q, args.query.scale), scores, &mut values)
                );
            }
            for g in 0..count {
                let share = values.share((count - g) * visible.len().div_ceil(16));
                let (max, sum) = softmax::<L>(scores.add(g * SEGMENT_TOKENS), &visible, (&mut values, share));
                (args.out.max[first + g], args.out.sum[first + g]) = (max, sum);
            }
            if !visible.is_empty() {
                by_count!(count, values_of::<L, E>(v.as_ptr(), hd, &visible, scores, acc, &mut keys));
            }
        }
        first += count;
    }
}

/// Pages that hold the slots.
#[inline(always)]
fn pages(slots: &Range<usize>) -> Range<usize> {
    slots.start / PAGE_TOKENS..slots.end.div_ceil(PAGE_TOKENS)
}

/// Scores of `G` vectors against whole pages: `scores` `[G, SEGMENT_TOKENS]`.
#[inline(always)]
unsafe fn scores_of<L: Lanes, E: Elem, const G: usize>(
    k: *const E,
    hd: usize,
    pages: Range<usize>,
    (q, scale): (*const f32, f32),
    scores: *mut f32,
    values: &mut Ahead,
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
                        values.ask::<L>(row_bytes / 2);
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
unsafe fn softmax<L: Lanes>(
    scores: *mut f32,
    visible: &Range<usize>,
    (values, share): (&mut Ahead, usize),
) -> (f32, f32) {
    let slots = visible.start / 16 * 16..visible.end.next_multiple_of(16);
    let (mut max, mut sum) = ([L::splat(f32::NEG_INFINITY); 4], [L::splat(0.0); 4]);
    // SAFETY: `slots` lie in the segment's row of scores.
    unsafe {
        for t in (slots.start..visible.start).chain(visible.end..slots.end) {
            *scores.add(t) = f32::NEG_INFINITY;
        }
        for t in slots.clone().step_by(16) {
            for i in 0..16 / L::N {
                max[i] = L::load(scores.add(t + i * L::N)).max(max[i]);
            }
        }
        let max = L::largest(&max);
        let shift = L::splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        for t in slots.step_by(16) {
            values.ask::<L>(share);
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
    keys: &mut Ahead,
) {
    // Page by page, so that a page's rows are in the nearest cache when their next columns are read.
    for page in pages(visible) {
        let slots = visible.start.max(page * PAGE_TOKENS)..visible.end.min((page + 1) * PAGE_TOKENS);
        let mut d = 0;
        // SAFETY: columns `d..` of the segment's rows, as many as there are.
        unsafe {
            while d + 2 * L::N <= hd {
                add_values::<L, E, G, 2>(v.add(d), hd, &slots, p, acc.add(d), keys);
                d += 2 * L::N;
            }
            while d + L::N <= hd {
                add_values::<L, E, G, 1>(v.add(d), hd, &slots, p, acc.add(d), keys);
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
    keys: &mut Ahead,
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
            keys.ask::<L>(R * L::N * size_of::<E>());
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

/// i8 keys and values.
///
/// # Safety
/// As [`super::attn_segment_with`]; keys and values are i8.
#[inline(always)]
pub(super) unsafe fn integers<L: Lanes>(args: &mut AttnSegmentArgs<'_>) {
    let (KvSlice::I8 { codes: k, scales: k_scales }, KvSlice::I8 { codes: v, scales: v_scales }) = (args.k, args.v)
    else {
        return;
    };
    let hd = args.query.head_dim;
    let hd4 = hd.next_multiple_of(4);
    let scores = at_least(&mut args.scratch.scores, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let codes = at_least(&mut args.scratch.codes, L::GROUP * SEGMENT_TOKENS).as_mut_ptr();
    let steps = at_least(&mut args.scratch.steps, L::GROUP * SEGMENT_TOKENS / PAGE_TOKENS).as_mut_ptr();
    let mut first = 0;
    while first < args.ranges.len() {
        let (count, visible) = run::<L>(args.ranges, first);
        let acc = &mut args.out.acc[first * hd..(first + count) * hd];
        acc.fill(0.0);
        let acc = acc.as_mut_ptr();
        let (start, bytes) = (pages(&visible).start, KvPart::Values.page_elems(KvDtype::I8, hd));
        let mut values = Ahead::new(v.as_ptr().cast::<u8>().wrapping_add(start * bytes), pages(&visible).len() * bytes);
        let mut keys = Ahead::new(args.next.0, k.len());
        // SAFETY: `check()` made sure of the lengths; `visible` lies in the segment; there is room for `GROUP` rows of
        // scores, codes and steps.
        unsafe {
            if !visible.is_empty() {
                let q = args.query.codes.as_ptr().add(first * hd4);
                let (factors, offsets) =
                    (args.query.factors.as_ptr().add(first), args.query.offsets.as_ptr().add(first));
                ask_for::<L>(k_scales.as_ptr().cast(), size_of_val(k_scales));
                ask_for::<L>(v_scales.as_ptr().cast(), size_of_val(v_scales));
                let k = (k.as_ptr().cast(), k_scales.as_ptr());
                by_count!(count, int_scores::<L>(k, hd4, pages(&visible), (q, factors, offsets), scores, &mut values));
            }
            for g in 0..count {
                let share = values.share((count - g) * visible.len().div_ceil(16));
                let (max, sum) = softmax::<L>(scores.add(g * SEGMENT_TOKENS), &visible, (&mut values, share));
                (args.out.max[first + g], args.out.sum[first + g]) = (max, sum);
                for page in pages(&visible) {
                    let at = g * SEGMENT_TOKENS + page * PAGE_TOKENS;
                    let slots = visible.start.max(page * PAGE_TOKENS)..visible.end.min((page + 1) * PAGE_TOKENS);
                    let hidden = slots.start - page * PAGE_TOKENS..slots.end - page * PAGE_TOKENS;
                    let scales = v_scales.as_ptr().add(page * PAGE_TOKENS);
                    *steps.add(at / PAGE_TOKENS) = weights::<L>(scores.add(at), scales, &hidden, codes.add(at));
                }
            }
            if !visible.is_empty() {
                ask_for::<L>(args.next.1, size_of_val(k_scales));
                by_count!(
                    count,
                    int_values::<L>(v.as_ptr().cast(), hd, pages(&visible), (codes, steps), acc, &mut keys)
                );
            }
        }
        first += count;
    }
}

/// Query vectors as codes `[G, hd4]`, their factors and offsets.
type IntQueries = (*const i8, *const f32, *const i32);

/// As [`scores_of`] for i8 keys and their scales.
#[inline(always)]
unsafe fn int_scores<L: Lanes, const G: usize>(
    (k, k_scales): (*const u8, *const f32),
    hd4: usize,
    pages: Range<usize>,
    (q, factors, offsets): IntQueries,
    scores: *mut f32,
    values: &mut Ahead,
) {
    const ROW_BYTES: usize = PAGE_TOKENS * 4;
    for page in pages {
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
                        values.ask::<L>(ROW_BYTES / 2);
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
                    }
                }
            }
        }
    }
}

/// Codes of a page's weights `p · scale` (0 for slots outside `visible`); returns their step.
#[inline(always)]
unsafe fn weights<L: Lanes>(p: *const f32, scales: *const f32, visible: &Range<usize>, codes: *mut u8) -> f32 {
    let zero = L::splat(0.0);
    let (mut max, mut weights) = ([zero; 4], [zero; PAGE_TOKENS / 4]);
    // SAFETY: 32 probabilities, scales and codes of the page.
    unsafe {
        for i in 0..PAGE_TOKENS / L::N {
            weights[i] = L::load(p.add(i * L::N)).mul(L::load(scales.add(i * L::N)));
        }
        if *visible != (0..PAGE_TOKENS) {
            let (low, high) = (L::splat(visible.start as f32), L::splat(visible.end as f32));
            let lanes: [f32; 16] = std::array::from_fn(|i| i as f32);
            for i in 0..PAGE_TOKENS / L::N {
                let slot = L::splat((i * L::N) as f32).add(L::load(lanes.as_ptr()));
                weights[i] = slot.within(low, high, weights[i], zero);
            }
        }
        for i in 0..PAGE_TOKENS / L::N {
            let to = i % (16 / L::N);
            max[to] = weights[i].max(max[to]);
        }
        let max = L::largest(&max);
        let usable = (LEAST_WEIGHT..f32::INFINITY).contains(&max);
        let (inverse, step) = if usable { (WEIGHT_CODES / max, max * (1.0 / WEIGHT_CODES)) } else { (0.0, max * 0.0) };
        for i in 0..PAGE_TOKENS / L::N {
            L::store_bytes(weights[i].mul(L::splat(inverse)).to_int(), codes.add(i * L::N));
        }
        step
    }
}

/// As [`values_of`] for i8 values, of whole pages: codes `[G, SEGMENT_TOKENS]`, steps `[G, SEGMENT_PAGES]`.
#[inline(always)]
unsafe fn int_values<L: Lanes, const G: usize>(
    v: *const u8,
    hd: usize,
    pages: Range<usize>,
    (codes, steps): (*const u8, *const f32),
    acc: *mut f32,
    keys: &mut Ahead,
) {
    let page_bytes = KvPart::Values.page_elems(KvDtype::I8, hd);
    for page in pages {
        // SAFETY: the page's 8 rows of `hd` quads of tokens; its codes and steps; `acc` is `[G, hd]`.
        unsafe {
            let v = v.add(page * page_bytes);
            let codes = codes.add(page * PAGE_TOKENS);
            let steps = steps.add(page);
            let mut d = 0;
            while d + 2 * L::N <= hd {
                add_int_values::<L, G, 2>(v.add(4 * d), hd, codes, steps, acc.add(d), keys);
                d += 2 * L::N;
            }
            while d + L::N <= hd {
                add_int_values::<L, G, 1>(v.add(4 * d), hd, codes, steps, acc.add(d), keys);
                d += L::N;
            }
            while d < hd {
                for g in 0..G {
                    let mut dot = 0;
                    for t in 0..PAGE_TOKENS {
                        let value = v.add((t / 4 * hd + d) * 4 + t % 4).cast::<i8>().read();
                        dot += i32::from(*codes.add(g * SEGMENT_TOKENS + t)) * i32::from(value);
                    }
                    let step = *steps.add(g * (SEGMENT_TOKENS / PAGE_TOKENS));
                    *acc.add(g * hd + d) = (dot as f32).mul_add(step, *acc.add(g * hd + d));
                }
                d += 1;
            }
        }
    }
}

/// As [`int_values`] for `R` registers of columns of one page.
#[inline(always)]
unsafe fn add_int_values<L: Lanes, const G: usize, const R: usize>(
    v: *const u8,
    hd: usize,
    codes: *const u8,
    steps: *const f32,
    to: *mut f32,
    keys: &mut Ahead,
) {
    // SAFETY: the caller's columns of the page's rows.
    unsafe {
        let mut acc = [[L::int(0); R]; G];
        for quad in 0..PAGE_TOKENS / 4 {
            let row = v.add(quad * hd * 4);
            keys.ask::<L>(R * L::N * 4);
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
        }
        for g in 0..G {
            let step = L::splat(*steps.add(g * (SEGMENT_TOKENS / PAGE_TOKENS)));
            for r in 0..R {
                let to = to.add(g * hd + r * L::N);
                L::from_int(acc[g][r]).fma(step, L::load(to)).store(to);
            }
        }
    }
}
