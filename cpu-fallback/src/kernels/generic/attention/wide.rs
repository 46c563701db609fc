//! Many query vectors (`width` a few registers): lanes hold query vectors, keys and values are broadcast. Nothing is
//! summed across lanes, and masks are needed only near the diagonal.

use crate::{
    PAGE_TOKENS, SEGMENT_TOKENS,
    kernels::{
        attn::{AttnSegmentArgs, LEAST_WEIGHT, TILE_REGISTERS, WEIGHT_CODES, at_least},
        lanes::Lanes,
    },
    kv::{KvDtype, KvPart, KvSlice},
};
use std::ops::Range;

/// Tokens (or dimensions) of a register tile.
const TALL: usize = 8;

/// Calls `$f::<L, REGISTERS>` for tiles of `$width` vectors.
macro_rules! by_width {
    ($width:expr, $f:ident::<$l:ident>($($arg:expr),* $(,)?)) => {
        match $width / $l::N {
            1 => $f::<$l, 1>($($arg),*),
            2 => $f::<$l, 2>($($arg),*),
            _ => $f::<$l, 3>($($arg),*),
        }
    };
}

/// What the vectors of a tile see of a segment.
struct Visible<L, const C: usize> {
    low: [L; C],
    high: [L; C],
    /// Slots that some vector sees.
    any: Range<usize>,
    /// Slots that every vector sees.
    all: Range<usize>,
}

impl<L: Lanes, const C: usize> Visible<L, C> {
    #[inline(always)]
    fn of(ranges: &[(u16, u16)]) -> Self {
        let (mut low, mut high) = ([0.0f32; 16 * TILE_REGISTERS], [0.0f32; 16 * TILE_REGISTERS]);
        // Nothing seen yet: any range seen replaces it.
        let (mut any, mut all) = (Range { start: SEGMENT_TOKENS, end: 0 }, 0..SEGMENT_TOKENS);
        for (i, (a, b)) in ranges.iter().enumerate() {
            (low[i], high[i]) = (f32::from(*a), f32::from(*b));
            let range = usize::from(*a)..usize::from(*b);
            if !range.is_empty() {
                any = any.start.min(range.start)..any.end.max(range.end);
            }
            all = all.start.max(range.start)..all.end.min(range.end);
        }
        if any.is_empty() {
            any = 0..0;
        }
        if all.is_empty() {
            all = any.end..any.end;
        }
        // SAFETY: there are three registers of 16 floats at most.
        let load = |from: &[f32], c: usize| unsafe { L::load(from.as_ptr().add(c * L::N)) };
        Self { low: std::array::from_fn(|c| load(&low, c)), high: std::array::from_fn(|c| load(&high, c)), any, all }
    }

    /// Slots that scores are computed of: whole groups of 16.
    #[inline(always)]
    fn slots(&self) -> Range<usize> {
        self.any.start / 16 * 16..self.any.end.next_multiple_of(16)
    }
}

/// Slots that any vector of the block sees, in whole pages.
fn pages(ranges: &[(u16, u16)]) -> Range<usize> {
    let seen = ranges.iter().filter(|(low, high)| low < high);
    let (low, high) =
        seen.fold((SEGMENT_TOKENS, 0), |(low, high), (a, b)| (low.min(usize::from(*a)), high.max(usize::from(*b))));
    if low >= high { 0..0 } else { low / PAGE_TOKENS..high.div_ceil(PAGE_TOKENS) }
}

/// The elements `range` of `from` as f32: themselves, or widened into `to`.
///
/// # Safety
/// This is part of a function with the features that `L` needs.
#[inline(always)]
unsafe fn widened<'a, L: Lanes>(from: KvSlice<'a>, range: Range<usize>, to: &'a mut Vec<f32>) -> *const f32 {
    match from {
        KvSlice::F32(from) => from.as_ptr(),
        KvSlice::F16(from) => {
            let to = at_least(to, from.len());
            let whole = range.start + range.len() / L::N * L::N;
            for i in (range.start..whole).step_by(L::N) {
                // SAFETY: `whole` is at most the length of both.
                unsafe { L::load_f16(from.as_ptr().add(i)).store(to.as_mut_ptr().add(i)) };
            }
            for (to, from) in to[whole..range.end].iter_mut().zip(&from[whole..range.end]) {
                *to = from.to_f32();
            }
            to.as_ptr()
        }
        KvSlice::I8 { .. } => std::ptr::null(),
    }
}

/// Float keys and values.
///
/// # Safety
/// As [`super::attn_segment_with`]; keys and values are floats.
#[inline(always)]
pub(super) unsafe fn floats<L: Lanes>(args: &mut AttnSegmentArgs<'_>) {
    let (hd, width) = (args.query.head_dim, args.query.width);
    let pages = pages(args.ranges);
    let elems = pages.start * PAGE_TOKENS * hd..pages.end * PAGE_TOKENS * hd;
    let scores = at_least(&mut args.scratch.scores, SEGMENT_TOKENS * width).as_mut_ptr();
    // SAFETY: the caller's; tiles are whole, and keys and values of the pages that they see are widened.
    unsafe {
        let k = widened::<L>(args.k, elems.clone(), &mut args.scratch.keys);
        let v = widened::<L>(args.v, elems, &mut args.scratch.values);
        for first in (0..args.query.vectors).step_by(width) {
            let q = args.query.floats.as_ptr().add(first * hd);
            let ranges = &args.ranges[first..first + width];
            let out = (
                args.out.max.as_mut_ptr().add(first),
                args.out.sum.as_mut_ptr().add(first),
                args.out.acc.as_mut_ptr().add(first * hd),
            );
            by_width!(width, float_tile::<L>((k, v), hd, (q, args.query.scale), ranges, scores, out));
        }
    }
}

/// Where a tile's maxima, sums and weighted values go.
type Out = (*mut f32, *mut f32, *mut f32);

#[inline(always)]
unsafe fn float_tile<L: Lanes, const C: usize>(
    (k, v): (*const f32, *const f32),
    hd: usize,
    (q, scale): (*const f32, f32),
    ranges: &[(u16, u16)],
    scores: *mut f32,
    out: Out,
) {
    let visible = Visible::<L, C>::of(ranges);
    let mut max = [L::splat(f32::NEG_INFINITY); C];
    let scale = L::splat(scale);
    // SAFETY: rows of the pages that the tile sees, the tile's queries, scores and results.
    unsafe {
        for t in visible.slots().step_by(TALL) {
            let k = k.add(t / PAGE_TOKENS * PAGE_TOKENS * hd + t % PAGE_TOKENS);
            let mut acc = [[L::splat(0.0); C]; TALL];
            for d in 0..hd {
                let mut x = [L::splat(0.0); C];
                for c in 0..C {
                    x[c] = L::load(q.add((d * C + c) * L::N));
                }
                for i in 0..TALL {
                    let key = L::splat(*k.add(d * PAGE_TOKENS + i));
                    for c in 0..C {
                        acc[i][c] = key.fma(x[c], acc[i][c]);
                    }
                }
            }
            for i in 0..TALL {
                for c in 0..C {
                    acc[i][c] = acc[i][c].mul(scale);
                }
            }
            keep_scores(&visible, t, acc, &mut max, scores);
        }
        softmax(&visible, max, scores, out);
        let mut d = 0;
        while d + TALL <= hd {
            weigh::<L, C, TALL>(&visible, v.add(d), hd, scores, out.2.add(d * C * L::N));
            d += TALL;
        }
        while d < hd {
            weigh::<L, C, 1>(&visible, v.add(d), hd, scores, out.2.add(d * C * L::N));
            d += 1;
        }
    }
}

/// Hides what is not visible of the scores of slots `t..t + TALL`, stores them and keeps the maximum.
#[inline(always)]
unsafe fn keep_scores<L: Lanes, const C: usize>(
    visible: &Visible<L, C>,
    t: usize,
    mut acc: [[L; C]; TALL],
    max: &mut [L; C],
    scores: *mut f32,
) {
    if t < visible.all.start || t + TALL > visible.all.end {
        let hidden = L::splat(f32::NEG_INFINITY);
        for i in 0..TALL {
            let slot = L::splat((t + i) as f32);
            for c in 0..C {
                acc[i][c] = slot.within(visible.low[c], visible.high[c], acc[i][c], hidden);
            }
        }
    }
    for i in 0..TALL {
        for c in 0..C {
            max[c] = acc[i][c].max(max[c]);
            // SAFETY: the caller's row of scores.
            unsafe { acc[i][c].store(scores.add(((t + i) * C + c) * L::N)) };
        }
    }
}

/// Scores to probabilities, in place; writes maxima and sums.
#[inline(always)]
unsafe fn softmax<L: Lanes, const C: usize>(visible: &Visible<L, C>, max: [L; C], scores: *mut f32, out: Out) {
    let (infinite, finite) = (L::splat(f32::NEG_INFINITY), L::splat(f32::MIN));
    // −∞ becomes 0.
    let mut shift = max;
    for c in 0..C {
        shift[c] = max[c].within(infinite, finite, L::splat(0.0), max[c]);
    }
    let mut sum = [[L::splat(0.0); C]; 16];
    // SAFETY: the caller's rows of scores and results.
    unsafe {
        for t in visible.slots().step_by(16) {
            for (i, sum) in sum.iter_mut().enumerate() {
                for c in 0..C {
                    let at = scores.add(((t + i) * C + c) * L::N);
                    let p = L::load(at).sub(shift[c]).exp2();
                    p.store(at);
                    sum[c] = sum[c].add(p);
                }
            }
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                for c in 0..C {
                    sum[i][c] = sum[i][c].add(sum[i + half][c]);
                }
            }
        }
        for c in 0..C {
            max[c].store(out.0.add(c * L::N));
            sum[0][c].store(out.1.add(c * L::N));
        }
    }
}

/// Weighted values of `T` dimensions: `v` and `to` begin at the first.
#[inline(always)]
unsafe fn weigh<L: Lanes, const C: usize, const T: usize>(
    visible: &Visible<L, C>,
    v: *const f32,
    hd: usize,
    p: *const f32,
    to: *mut f32,
) {
    let mut acc = [[L::splat(0.0); C]; T];
    // SAFETY: rows of the pages that the tile sees, its probabilities and results.
    unsafe {
        masked::<L, C, T>(visible, visible.any.start..visible.all.start.min(visible.any.end), v, hd, p, &mut acc);
        for t in visible.all.clone() {
            let mut x = [L::splat(0.0); C];
            for c in 0..C {
                x[c] = L::load(p.add((t * C + c) * L::N));
            }
            for i in 0..T {
                let value = L::splat(*v.add(t * hd + i));
                for c in 0..C {
                    acc[i][c] = value.fma(x[c], acc[i][c]);
                }
            }
        }
        masked::<L, C, T>(visible, visible.all.end..visible.any.end, v, hd, p, &mut acc);
        for i in 0..T {
            for c in 0..C {
                acc[i][c].store(to.add((i * C + c) * L::N));
            }
        }
    }
}

/// Slots that only some vectors see: the others' weighted values stay, whatever the value.
#[inline(always)]
unsafe fn masked<L: Lanes, const C: usize, const T: usize>(
    visible: &Visible<L, C>,
    slots: Range<usize>,
    v: *const f32,
    hd: usize,
    p: *const f32,
    acc: &mut [[L; C]; T],
) {
    for t in slots {
        let slot = L::splat(t as f32);
        for c in 0..C {
            // SAFETY: as in `weigh`.
            let x = unsafe { L::load(p.add((t * C + c) * L::N)) };
            for i in 0..T {
                // SAFETY: as in `weigh`.
                let sum = unsafe { L::splat(*v.add(t * hd + i)) }.fma(x, acc[i][c]);
                acc[i][c] = slot.within(visible.low[c], visible.high[c], sum, acc[i][c]);
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
    let (hd, width) = (args.query.head_dim, args.query.width);
    let scores = at_least(&mut args.scratch.scores, SEGMENT_TOKENS * width).as_mut_ptr();
    let codes = at_least(&mut args.scratch.codes, SEGMENT_TOKENS * width).as_mut_ptr();
    let steps = at_least(&mut args.scratch.steps, SEGMENT_TOKENS / PAGE_TOKENS * width).as_mut_ptr();
    for first in (0..args.query.vectors).step_by(width) {
        // SAFETY: the caller's; tiles are whole.
        unsafe {
            let query = IntQuery {
                codes: args.query.codes.as_ptr().add(first * hd.next_multiple_of(4)).cast(),
                factors: args.query.factors.as_ptr().add(first),
                offsets: args.query.offsets.as_ptr().add(first),
            };
            let ranges = &args.ranges[first..first + width];
            let out = (
                args.out.max.as_mut_ptr().add(first),
                args.out.sum.as_mut_ptr().add(first),
                args.out.acc.as_mut_ptr().add(first * hd),
            );
            let (keys, values) = ((k.as_ptr().cast(), k_scales.as_ptr()), (v.as_ptr().cast(), v_scales.as_ptr()));
            by_width!(width, int_tile::<L>(keys, values, hd, query, ranges, (scores, codes, steps), out));
        }
    }
}

/// A tile's query vectors for i8 keys.
struct IntQuery {
    codes: *const u8,
    factors: *const f32,
    offsets: *const i32,
}

/// Codes and scales of a head's keys or values.
type Codes = (*const u8, *const f32);

#[inline(always)]
unsafe fn int_tile<L: Lanes, const C: usize>(
    (k, k_scales): Codes,
    (v, v_scales): Codes,
    hd: usize,
    q: IntQuery,
    ranges: &[(u16, u16)],
    (scores, codes, steps): (*mut f32, *mut u8, *mut f32),
    out: Out,
) {
    let visible = Visible::<L, C>::of(ranges);
    let hd4 = hd.next_multiple_of(4);
    let mut max = [L::splat(f32::NEG_INFINITY); C];
    // SAFETY: rows of the pages that the tile sees, the tile's queries, scores and results.
    unsafe {
        for t in visible.slots().step_by(TALL) {
            let k = k.add(t / PAGE_TOKENS * PAGE_TOKENS * hd4 + t % PAGE_TOKENS * 4);
            let mut acc = [[L::int(0); C]; TALL];
            for i in 0..TALL {
                for c in 0..C {
                    acc[i][c] = if L::KEY_BIAS { L::load_int(q.offsets.add(c * L::N).cast()) } else { L::int(0) };
                }
            }
            for quad in 0..hd4 / 4 {
                let mut x = [L::int(0); C];
                for c in 0..C {
                    x[c] = L::load_int(q.codes.add((quad * C + c) * 4 * L::N));
                }
                for i in 0..TALL {
                    let key = L::int(k.add(quad * PAGE_TOKENS * 4 + i * 4).cast::<i32>().read_unaligned());
                    let key = L::keys(key);
                    for c in 0..C {
                        acc[i][c] = L::dot_keys(acc[i][c], key, x[c]);
                    }
                }
            }
            let mut floats = [[L::splat(0.0); C]; TALL];
            for i in 0..TALL {
                let scale = L::splat(*k_scales.add(t + i));
                for c in 0..C {
                    floats[i][c] = L::from_int(acc[i][c]).mul(L::load(q.factors.add(c * L::N))).mul(scale);
                }
            }
            keep_scores(&visible, t, floats, &mut max, scores);
        }
        softmax(&visible, max, scores, out);
        weights(&visible, v_scales, scores, codes, steps);
        let mut d = 0;
        while d + TALL <= hd {
            weigh_int::<L, C, TALL>(&visible, v.add(d * 4), hd, (codes, steps), out.2.add(d * C * L::N));
            d += TALL;
        }
        while d < hd {
            weigh_int::<L, C, 1>(&visible, v.add(d * 4), hd, (codes, steps), out.2.add(d * C * L::N));
            d += 1;
        }
    }
}

/// Pages that the tile sees.
#[inline(always)]
fn seen_pages<L: Lanes, const C: usize>(visible: &Visible<L, C>) -> Range<usize> {
    visible.any.start / PAGE_TOKENS..visible.any.end.div_ceil(PAGE_TOKENS)
}

/// The weight `p · scale` of slot `t`, 0 where it is not visible.
#[inline(always)]
unsafe fn weight<L: Lanes, const C: usize>(
    visible: &Visible<L, C>,
    (t, c): (usize, usize),
    p: *const f32,
    scales: *const f32,
) -> L {
    // SAFETY: the caller's slot of the segment.
    let w = unsafe { L::load(p.add((t * C + c) * L::N)).mul(L::splat(*scales.add(t))) };
    if visible.all.contains(&t) {
        w
    } else {
        L::splat(t as f32).within(visible.low[c], visible.high[c], w, L::splat(0.0))
    }
}

/// Probabilities to codes of the weights `p · scale`: `codes` `[SEGMENT_TOKENS / 4, width, 4]`, `steps` `[pages, width]`.
#[inline(always)]
unsafe fn weights<L: Lanes, const C: usize>(
    visible: &Visible<L, C>,
    scales: *const f32,
    p: *const f32,
    codes: *mut u8,
    steps: *mut f32,
) {
    let zero = L::splat(0.0);
    let (least, infinite) = (L::splat(LEAST_WEIGHT), L::splat(f32::INFINITY));
    for page in seen_pages(visible) {
        // Probabilities were computed of whole groups of 16.
        let slots = visible.slots().start.max(page * PAGE_TOKENS)..visible.slots().end.min((page + 1) * PAGE_TOKENS);
        for c in 0..C {
            // SAFETY: the page's rows of probabilities, scales, codes and steps.
            unsafe {
                let mut max = [zero; 2];
                for t in slots.clone().step_by(2) {
                    max[0] = weight(visible, (t, c), p, scales).max(max[0]);
                    max[1] = weight(visible, (t + 1, c), p, scales).max(max[1]);
                }
                let max = max[0].max(max[1]);
                let inverse = max.within(least, infinite, L::splat(WEIGHT_CODES).div(max), zero);
                let step = max.within(least, infinite, max.mul(L::splat(1.0 / WEIGHT_CODES)), max.mul(zero));
                step.store(steps.add((page * C + c) * L::N));
                for quad in 0..PAGE_TOKENS / 4 {
                    let t = page * PAGE_TOKENS + quad * 4;
                    let mut bytes = [L::int(0); 4];
                    if slots.contains(&t) {
                        for i in 0..4 {
                            bytes[i] = weight(visible, (t + i, c), p, scales).mul(inverse).to_int();
                        }
                    }
                    L::store_int(L::quads(bytes), codes.add((t / 4 * C + c) * 4 * L::N));
                }
            }
        }
    }
}

/// Weighted values of `T` dimensions: `v` and `to` begin at the first.
#[inline(always)]
unsafe fn weigh_int<L: Lanes, const C: usize, const T: usize>(
    visible: &Visible<L, C>,
    v: *const u8,
    hd: usize,
    (codes, steps): (*const u8, *const f32),
    to: *mut f32,
) {
    let mut total = [[L::splat(0.0); C]; T];
    // SAFETY: rows of the pages that the tile sees, its codes, steps and results.
    unsafe {
        for page in seen_pages(visible) {
            let v = v.add(page * KvPart::Values.page_elems(KvDtype::I8, hd));
            let mut acc = [[L::int(0); C]; T];
            for quad in 0..PAGE_TOKENS / 4 {
                let mut x = [L::int(0); C];
                for c in 0..C {
                    x[c] = L::load_int(codes.add(((page * PAGE_TOKENS / 4 + quad) * C + c) * 4 * L::N));
                }
                for i in 0..T {
                    let value = L::int(v.add((quad * hd + i) * 4).cast::<i32>().read_unaligned());
                    for c in 0..C {
                        acc[i][c] = L::dot(acc[i][c], x[c], value);
                    }
                }
            }
            for c in 0..C {
                let step = L::load(steps.add((page * C + c) * L::N));
                for i in 0..T {
                    total[i][c] = L::from_int(acc[i][c]).fma(step, total[i][c]);
                }
            }
        }
        for i in 0..T {
            for c in 0..C {
                total[i][c].store(to.add((i * C + c) * L::N));
            }
        }
    }
}
