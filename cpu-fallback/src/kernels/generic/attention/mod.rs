//! Attention over one segment, written once over [`Lanes`]: `narrow` for a few query vectors (decode; registers hold tokens
//! or dimensions), `wide` for many (prefill; registers hold query vectors). Both give the same bits.

mod narrow;
mod wide;

use crate::{
    kernels::{
        Block,
        attn::{AttnPart, AttnSegmentArgs, AttnState, AttnVectors},
        lanes::{Lanes, Portable},
    },
    kv::KvSlice,
};
use half::f16;

/// Elements of float pages.
trait Elem: Copy {
    /// # Safety
    /// `L::N` elements can be read at `from`.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    /// As f32.
    fn widen(self) -> f32;
}

impl Elem for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Elem for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// See [`AttnSegmentArgs`].
///
/// # Safety
/// `args.check()` passed, and this is part of a function with the features that `L` needs.
#[inline(always)]
pub(in crate::kernels) unsafe fn attn_segment_with<L: Lanes>(args: &mut AttnSegmentArgs<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match (args.query.width, args.k, args.v) {
            (1, KvSlice::F32(k), KvSlice::F32(v)) => narrow::floats::<L, f32>(args, k, v),
            (1, KvSlice::F16(k), KvSlice::F16(v)) => narrow::floats::<L, f16>(args, k, v),
            (1, ..) => narrow::integers::<L>(args),
            (_, KvSlice::I8 { .. }, _) => wide::integers::<L>(args),
            _ => wide::floats::<L>(args),
        }
    }
}

/// Merges `part` into `total`, per vector: nothing where `part` saw nothing, else with `M' = max(M, m)`, `a = 2^(M − M')`,
/// `b = 2^(m − M')`: `L = fma(l, b, L · a)`, and so the weighted values.
///
/// # Safety
/// This is part of a function with the features that `L` needs.
#[inline(always)]
pub(in crate::kernels) unsafe fn attn_merge_with<L: Lanes>(
    total: &mut AttnState<'_>,
    part: &AttnPart<'_>,
    width: usize,
) {
    let vectors = total.max.len();
    assert!(total.sum.len() == vectors && part.max.len() == vectors && part.sum.len() == vectors);
    assert!(total.acc.len() == part.acc.len() && width > 0 && vectors.is_multiple_of(width));
    assert!(vectors > 0 && total.acc.len().is_multiple_of(vectors));
    let hd = total.acc.len() / vectors;
    assert!(width == 1 || width.is_multiple_of(L::N));
    // Factors of one register of vectors at a time.
    for first in (0..vectors).step_by(L::N) {
        let here = L::N.min(vectors - first);
        let (mut a, mut b, mut skip) = ([0.0f32; 16], [0.0f32; 16], [false; 16]);
        for i in 0..here {
            let (old, m) = (total.max[first + i], part.max[first + i]);
            // A NaN sum is merged.
            skip[i] = part.sum[first + i] == 0.0 && m == f32::NEG_INFINITY;
            let new = if m > old { m } else { old };
            (a[i], b[i]) = (old - new, m - new);
            total.max[first + i] = new;
        }
        for factors in [&mut a, &mut b] {
            // SAFETY: 16 floats, and N is at most that.
            unsafe { L::load(factors.as_ptr()).exp2().store(factors.as_mut_ptr()) };
        }
        for i in 0..here {
            if skip[i] {
                // Exactly nothing: x · 1 + 0 · −0 is x, whatever its sign.
                (a[i], b[i]) = (1.0, -0.0);
            } else {
                total.sum[first + i] = part.sum[first + i].mul_add(b[i], total.sum[first + i] * a[i]);
            }
        }
        if width == 1 {
            for i in 0..here {
                let row = (first + i) * hd..(first + i + 1) * hd;
                // SAFETY: this is part of a function with the features of `L`.
                unsafe { merge_row::<L>(&mut total.acc[row.clone()], &part.acc[row], a[i], b[i]) };
            }
            continue;
        }
        let at = first / width * width * hd + first % width;
        // SAFETY: the tile's `hd` rows of `width` lanes lie in both buffers, which have one length.
        unsafe {
            let (a, b) = (L::load(a.as_ptr()), L::load(b.as_ptr()));
            for d in 0..hd {
                let to = total.acc.as_mut_ptr().add(at + d * width);
                let from = L::load(part.acc.as_ptr().add(at + d * width));
                from.fma(b, L::load(to).mul(a)).store(to);
            }
        }
    }
}

/// `to = fma(from, b, to · a)` for rows of one length.
///
/// # Safety
/// This is part of a function with the features that `L` needs.
#[inline(always)]
unsafe fn merge_row<L: Lanes>(to: &mut [f32], from: &[f32], a: f32, b: f32) {
    let whole = to.len() / L::N * L::N;
    let (factor, weight) = (L::splat(a), L::splat(b));
    for d in (0..whole).step_by(L::N) {
        // SAFETY: N floats of both rows.
        unsafe {
            let sum = L::load(to.as_ptr().add(d)).mul(factor);
            L::load(from.as_ptr().add(d)).fma(weight, sum).store(to.as_mut_ptr().add(d));
        }
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = from.mul_add(b, *to * a);
    }
}

/// Query vectors as `[tiles, hd, width]`.
///
/// # Safety
/// The vectors lie in `q`, `to` has room for whole tiles, `width` is 1 or a multiple of `L::N`, and this is part of a function
/// with the features that `L` needs.
#[inline(always)]
pub(in crate::kernels) unsafe fn columns_with<L: Lanes>(
    vectors: &AttnVectors<'_>,
    hd: usize,
    width: usize,
    to: &mut [f32],
) {
    if width == 1 {
        for (i, to) in to.chunks_exact_mut(hd).enumerate() {
            to.copy_from_slice(&vectors.q[vectors.at(i, hd)..][..hd]);
        }
        return;
    }
    let whole = hd / L::N * L::N;
    for first in (0..vectors.count).step_by(L::N) {
        // A last group of fewer repeats the last vector in lanes that are padding.
        let mut rows = [vectors.q.as_ptr(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = vectors.q[vectors.at((first + i).min(vectors.count - 1), hd)..][..hd].as_ptr();
        }
        // SAFETY: `hd` elements of each row; a tile has `hd` rows of `width` vectors.
        unsafe {
            let to = to.as_mut_ptr().add(first / width * width * hd + first % width);
            for d in (0..whole).step_by(L::N) {
                let mut block = [L::splat(0.0); 16];
                for i in 0..L::N {
                    block[i] = L::load(rows[i].add(d));
                }
                let block = L::transpose(block);
                for i in 0..L::N {
                    block[i].store(to.add((d + i) * width));
                }
            }
            for d in whole..hd {
                for i in 0..L::N {
                    *to.add(d * width + i) = *rows[i].add(d);
                }
            }
        }
    }
}

/// The results of a block of rows with `group` vectors each: weighted values times `1 / sum`.
///
/// # Safety
/// `total` has as many vectors as the block, and padding to whole tiles; `width` is 1 or a multiple of `L::N`; and this is part
/// of a function with the features that `L` needs.
#[inline(always)]
pub(in crate::kernels) unsafe fn finish_with<L: Lanes>(
    total: &AttnPart<'_>,
    width: usize,
    group: usize,
    block: &mut Block<'_, f32>,
) {
    let (hd, vectors) = (block.cols() / group, block.rows() * group);
    if width == 1 {
        for i in 0..vectors {
            let inverse = 1.0 / total.sum[i];
            let out = &mut block.row(i / group)[i % group * hd..][..hd];
            out.iter_mut().zip(&total.acc[i * hd..]).for_each(|(out, v)| *out = v * inverse);
        }
        return;
    }
    let whole = hd / L::N * L::N;
    for first in (0..vectors).step_by(L::N) {
        let here = L::N.min(vectors - first);
        let mut rows = [std::ptr::null_mut(); 16];
        for (i, row) in rows[..here].iter_mut().enumerate() {
            *row = block.row((first + i) / group)[(first + i) % group * hd..][..hd].as_mut_ptr();
        }
        // SAFETY: a tile has `hd` rows of `width` vectors; `hd` elements of each of the block's rows.
        unsafe {
            let from = total.acc.as_ptr().add(first / width * width * hd + first % width);
            let inverse = L::splat(1.0).div(L::load(total.sum.as_ptr().add(first)));
            for d in (0..whole).step_by(L::N) {
                let mut values = [L::splat(0.0); 16];
                for i in 0..L::N {
                    values[i] = L::load(from.add((d + i) * width)).mul(inverse);
                }
                let values = L::transpose(values);
                for i in 0..here {
                    values[i].store(rows[i].add(d));
                }
            }
            for d in whole..hd {
                for i in 0..here {
                    *rows[i].add(d) = *from.add(d * width + i) * (1.0 / total.sum[first + i]);
                }
            }
        }
    }
}

/// Floats in a register.
pub(in crate::kernels) const ATTN_LANES: usize = Portable::N;

/// See [`AttnSegmentArgs`].
pub(in crate::kernels) fn attn_segment(args: &mut AttnSegmentArgs<'_>) {
    // SAFETY: lengths were checked; `Portable` needs no features.
    unsafe { attn_segment_with::<Portable>(args) }
}

/// See [`attn_merge_with`].
pub(in crate::kernels) fn attn_merge(total: &mut AttnState<'_>, part: &AttnPart<'_>, width: usize) {
    // SAFETY: `Portable` needs no features.
    unsafe { attn_merge_with::<Portable>(total, part, width) }
}

/// See [`columns_with`].
pub(in crate::kernels) fn attn_columns(vectors: &AttnVectors<'_>, hd: usize, width: usize, to: &mut [f32]) {
    // SAFETY: lengths were checked; `Portable` needs no features.
    unsafe { columns_with::<Portable>(vectors, hd, width, to) }
}

/// See [`finish_with`].
pub(in crate::kernels) fn attn_finish(total: &AttnPart<'_>, width: usize, group: usize, block: &mut Block<'_, f32>) {
    // SAFETY: lengths were checked; `Portable` needs no features.
    unsafe { finish_with::<Portable>(total, width, group, block) }
}
