//! Sums to codes, a cache line of 64 at a time: what is fixed per column stays in registers over the rows.

use crate::kernels::{Block, RequantArgs, generic::BOUND};
use std::arch::x86_64::*;

/// Columns of a step.
const STEP: usize = 64;

/// See [`RequantArgs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) fn requantize_u8(acc: &[i32], args: &RequantArgs<'_>, block: &mut Block<'_, u8>) {
    for first in (0..block.cols()).step_by(STEP) {
        let count = STEP.min(block.cols() - first);
        if args.left[first..first + count].iter().any(|left| *left != 0) {
            columns::<true>(acc, args, block, first, count);
        } else {
            columns::<false>(acc, args, block, first, count);
        }
    }
}

/// `count` columns from `first` on, in all rows; without `LEFT` no sum is shifted to the left.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn columns<const LEFT: bool>(
    acc: &[i32],
    args: &RequantArgs<'_>,
    block: &mut Block<'_, u8>,
    first: usize,
    count: usize,
) {
    let width = block.cols();
    let mask = u64::MAX >> (STEP - count);
    let load = |values: &[i32], i: usize| {
        let part = &values[first..first + count];
        let mask = (mask >> (16 * i)) as u16;
        // SAFETY: the mask keeps the load inside `part`.
        unsafe { _mm512_maskz_loadu_epi32(mask, part.as_ptr().wrapping_add(16 * i)) }
    };
    let all = |values: &[i32]| [load(values, 0), load(values, 1), load(values, 2), load(values, 3)];
    let (offset, right, left) = (all(args.offset), all(args.right), all(args.left));
    // (2t + 1) · m + 2¹⁵ as one product and one sum.
    let mantissa = all(args.mantissa);
    let twice = mantissa.map(|m| _mm512_slli_epi32::<1>(m));
    let half = mantissa.map(|m| _mm512_add_epi32(m, _mm512_set1_epi32(1 << 15)));
    let (low, high) = (_mm512_set1_epi32(-BOUND), _mm512_set1_epi32(BOUND));
    let clamp = |t| _mm512_max_epi32(_mm512_min_epi32(t, high), low);
    let zero_point = _mm512_set1_epi16(args.zero_point as i16);
    // Packs work on quarters of registers.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (r, acc) in acc.chunks_exact(width).enumerate() {
        let value = |i: usize| {
            let t = clamp(_mm512_srav_epi32(_mm512_add_epi32(load(acc, i), offset[i]), right[i]));
            let t = if LEFT { clamp(_mm512_sllv_epi32(t, left[i])) } else { t };
            _mm512_srai_epi32::<16>(_mm512_add_epi32(_mm512_mullo_epi32(t, twice[i]), half[i]))
        };
        // Packs saturate: beyond 16 bits a code is at its end, whatever the zero point.
        let pair = |i: usize| _mm512_adds_epi16(_mm512_packs_epi32(value(i), value(i + 1)), zero_point);
        let codes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(pair(0), pair(2)));
        let out = &mut block.row(r)[first..first + count];
        // SAFETY: the mask keeps the store inside `out`.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), mask, codes) };
    }
}
