//! A few query vectors (`width` 1): scores hold tokens in their lanes, weighted values dimensions, so keys and values are
//! read once, as they lie, for all vectors of a KV head.

mod floats;
mod integers;

pub(super) use floats::floats;
pub(super) use integers::integers;

use crate::{PAGE_TOKENS, kernels::lanes::Lanes};
use std::{hint::select_unpredictable, ops::Range};

/// Bytes that come from memory together.
const LINE_BYTES: usize = 64;

/// Memory that is read later, asked for line by line while something else is worked on: first the segment's values, then the next
/// segment's keys. One line every ten cycles or so, for what comes in bursts the processor drops (measured: it "prefetches" at
/// five times the speed of memory), and everything, for its own prefetchers do not help streams this short.
struct Ahead {
    at: *const u8,
    end: *const u8,
    then: (*const u8, *const u8),
}

impl Ahead {
    /// `values`, then as many bytes as `keys` has at `next`, if anything is there.
    #[inline(always)]
    fn new<T>(keys: &[T], values: &[T], next: *const u8) -> Self {
        let range = values.as_ptr_range();
        let (at, end) = (range.start.cast(), range.end.cast());
        let then = if next.is_null() { (end, end) } else { (next, next.wrapping_add(size_of_val(keys))) };
        Self { at, end, then }
    }

    /// As [`Self::new`] for scales: `next` alone.
    #[inline(always)]
    fn only<T>(like: &[T], next: *const u8) -> Self {
        let range = like.as_ptr_range();
        let (start, end) = if next.is_null() {
            (range.start.cast(), range.end.cast())
        } else {
            (next, next.wrapping_add(size_of_val(like)))
        };
        Self { at: start, end, then: (end, end) }
    }

    /// Asks for the line that is next, and goes on by `bytes`, a line or less. No branch: beside one, the compiler moves
    /// arithmetic to where its result is used, and then has too few registers.
    #[inline(always)]
    fn ask<L: Lanes>(&mut self, bytes: usize) {
        L::prefetch(self.at);
        let next = self.at.wrapping_add(bytes);
        let done = next >= self.end;
        self.at = select_unpredictable(done, self.then.0, next);
        self.end = select_unpredictable(done, self.then.1, self.end);
        self.then.0 = select_unpredictable(done, self.then.1, self.then.0);
    }

    /// Bytes to go on by so that `steps` steps ask for all that is left, a line at most.
    #[inline(always)]
    fn pace(&self, steps: usize) -> usize {
        let left = self.end.addr() - self.at.addr() + (self.then.1.addr() - self.then.0.addr());
        left.div_ceil(steps.max(1)).min(LINE_BYTES)
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
use by_count;

/// The next vectors from `first` on that see the same slots: their number, `L::GROUP` at most and about even, and the slots.
#[inline(always)]
fn run<L: Lanes>(ranges: &[(u16, u16)], first: usize) -> (usize, Range<usize>) {
    let (low, high) = ranges[first];
    let same = ranges[first..].iter().take_while(|r| **r == (low, high)).count();
    let tiles = same.div_ceil(L::GROUP);
    (same.div_ceil(tiles), usize::from(low)..usize::from(high))
}

/// Pages that hold the slots.
#[inline(always)]
fn pages(slots: &Range<usize>) -> Range<usize> {
    slots.start / PAGE_TOKENS..slots.end.div_ceil(PAGE_TOKENS)
}

/// Hides the slots of `whole` that are not in `visible`, and returns the largest score, −∞ where there is none.
///
/// # Safety
/// `whole` contains `visible`, is a whole number of 16 slots, and lies in the row of scores.
#[inline(always)]
unsafe fn largest_score<L: Lanes>(
    scores: *mut f32,
    visible: &Range<usize>,
    whole: &Range<usize>,
    ahead: &mut Ahead,
) -> f32 {
    let mut max = [L::splat(f32::NEG_INFINITY); 4];
    // SAFETY: the caller's.
    unsafe {
        for t in (whole.start..visible.start).chain(visible.end..whole.end) {
            *scores.add(t) = f32::NEG_INFINITY;
        }
        for t in whole.clone().step_by(16) {
            if t % PAGE_TOKENS == 0 {
                ahead.ask::<L>(LINE_BYTES);
            }
            for i in 0..16 / L::N {
                max[i] = L::load(scores.add(t + i * L::N)).max(max[i]);
            }
        }
    }
    L::largest(&max)
}

/// What is taken off scores whose largest is `max`.
#[inline(always)]
fn shift<L: Lanes>(max: f32) -> L {
    L::splat(if max == f32::NEG_INFINITY { 0.0 } else { max })
}
