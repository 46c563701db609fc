//! K/V as the attention sees them, whoever owns them: segments of [`SEGMENT_TOKENS`] positions, cut into pages of
//! [`PAGE_TOKENS`].
//!
//! In a segment, heads follow each other and pages follow each other inside a head, so that attention reads each head as
//! one stream. Inside a page (`T` = [`PAGE_TOKENS`], `hd4` = `head_dim` rounded up to a multiple of 4):
//!
//! | dtype | keys | values | scales |
//! |---|---|---|---|
//! | f32, f16 | `[head_dim, T]` | `[T, head_dim]` | – |
//! | i8 | `[hd4 / 4, T, 4]`: four dimensions of a token together | `[T / 4, head_dim, 4]`: four tokens of a dimension together | f32 `[T]`, of keys and of values |
//!
//! Keys lie by dimension, so that one register holds many tokens and scores need no transposition and no sum across lanes;
//! the quads of i8 are what integer dot product instructions read. An i8 row of a head has the scale `max |x| / 127` and
//! codes `round(x / scale)`, ties to even.

use crate::{CpuError, error::check_len};
use half::{f16, slice::HalfFloatSliceExt};
use std::ops::Range;

/// Tokens of a KV page; pages are aligned to absolute positions.
pub const PAGE_TOKENS: usize = 32;
/// Pages of a segment.
pub const SEGMENT_PAGES: usize = 8;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Tokens of a segment; segments are aligned to absolute positions.
pub const SEGMENT_TOKENS: usize = SEGMENT_PAGES * PAGE_TOKENS;

/// How K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// 32-bit floats, for exactness tests.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// 8-bit integers with one f32 scale per head and token.
    I8,
}

impl KvDtype {
    /// Every dtype.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::I8];

    /// Bytes of one value (of one code).
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    /// `f32`, `f16` or `i8`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
        }
    }
}

/// Keys or values of a segment (or of one head of it) in their dtype.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Codes, and a scale per token.
    I8 {
        /// Codes.
        codes: &'a [i8],
        /// `[SEGMENT_TOKENS]` per head.
        scales: &'a [f32],
    },
}

impl<'a> KvSlice<'a> {
    /// Number of values, padding included.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::F16(s) => s.len(),
            Self::I8 { codes, .. } => codes.len(),
        }
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dtype.
    #[must_use]
    pub fn dtype(&self) -> KvDtype {
        match self {
            Self::F32(_) => KvDtype::F32,
            Self::F16(_) => KvDtype::F16,
            Self::I8 { .. } => KvDtype::I8,
        }
    }

    /// The part of head `head`, of `elems` values a head; `None` when there is less.
    pub(crate) fn head(&self, head: usize, elems: usize) -> Option<KvSlice<'a>> {
        let range = head * elems..(head + 1) * elems;
        Some(match self {
            Self::F32(s) => KvSlice::F32(s.get(range)?),
            Self::F16(s) => KvSlice::F16(s.get(range)?),
            Self::I8 { codes, scales } => KvSlice::I8 {
                codes: codes.get(range)?,
                scales: scales.get(head * SEGMENT_TOKENS..(head + 1) * SEGMENT_TOKENS)?,
            },
        })
    }

    /// Value `i` without its scale.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(s) => s[i],
            Self::F16(s) => s[i].to_f32(),
            Self::I8 { codes, .. } => f32::from(codes[i]),
        }
    }
}

/// Keys or values of a segment, writable.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// 16-bit floats.
    F16(&'a mut [f16]),
    /// Codes, and a scale per token.
    I8 {
        /// Codes.
        codes: &'a mut [i8],
        /// `[SEGMENT_TOKENS]` per head.
        scales: &'a mut [f32],
    },
}

impl KvSliceMut<'_> {
    fn dtype(&self) -> KvDtype {
        match self {
            Self::F32(_) => KvDtype::F32,
            Self::F16(_) => KvDtype::F16,
            Self::I8 { .. } => KvDtype::I8,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::F16(s) => s.len(),
            Self::I8 { codes, .. } => codes.len(),
        }
    }

    /// Writes one head's row `from` at slot `slot` of the segment.
    fn write(&mut self, part: KvPart, shape: &KvShape, head: usize, slot: usize, from: &[f32]) {
        let dtype = self.dtype();
        let at = |d: usize| head * shape.head_elems(part, dtype) + part.index(dtype, shape.head_dim, slot, d);
        match self {
            Self::F32(to) => from.iter().enumerate().for_each(|(d, v)| to[at(d)] = *v),
            Self::F16(to) => {
                let mut halves = [f16::ZERO; 64];
                for (i, from) in from.chunks(halves.len()).enumerate() {
                    let halves = &mut halves[..from.len()];
                    halves.convert_from_f32_slice(from);
                    halves.iter().enumerate().for_each(|(d, v)| to[at(i * 64 + d)] = *v);
                }
            }
            Self::I8 { codes, scales } => {
                let (scale, inverse) = row_scale(from);
                scales[head * SEGMENT_TOKENS + slot] = scale;
                from.iter().enumerate().for_each(|(d, v)| codes[at(d)] = code(*v, inverse));
            }
        }
    }
}

/// Scale of a row, and what its elements are multiplied by to become codes. Rows too small for an inverse have scale 0,
/// rows with an element that is not finite have scale NaN; all their codes are 0.
pub(crate) fn row_scale(row: &[f32]) -> (f32, f32) {
    // Without their sign, floats are ordered as integers are, NaN last; and compilers vectorise this maximum.
    let max = f32::from_bits(row.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7FFF_FFFF)));
    if max > f32::MIN_POSITIVE * 128.0 && max.is_finite() {
        (max / 127.0, 127.0 / max)
    } else {
        (if max.is_finite() { 0.0 } else { f32::NAN }, 0.0)
    }
}

/// The code of `v`: rounded to nearest, ties to even; 0 for NaN.
#[inline(always)]
pub(crate) fn code(v: f32, inverse: f32) -> i8 {
    // Adding 1.5 · 2²³ rounds to an integer, which the low bits of the sum hold; |v · inverse| is 127 at most.
    const MAGIC: f32 = 12_582_912.0;
    let x = v * inverse;
    if x.is_nan() { 0 } else { (x + MAGIC).to_bits() as i8 }
}

/// Keys or values: they lie differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvPart {
    Keys,
    Values,
}

impl KvPart {
    /// Values of a page of one head.
    pub(crate) fn page_elems(self, dtype: KvDtype, head_dim: usize) -> usize {
        match (self, dtype) {
            (Self::Keys, KvDtype::I8) => PAGE_TOKENS * head_dim.next_multiple_of(4),
            _ => PAGE_TOKENS * head_dim,
        }
    }

    /// Where dimension `d` of slot `slot` lies in a head's part of a segment.
    #[inline(always)]
    pub(crate) fn index(self, dtype: KvDtype, head_dim: usize, slot: usize, d: usize) -> usize {
        let (page, t) = (slot / PAGE_TOKENS, slot % PAGE_TOKENS);
        page * self.page_elems(dtype, head_dim)
            + match (self, dtype) {
                (Self::Keys, KvDtype::I8) => (d / 4 * PAGE_TOKENS + t) * 4 + d % 4,
                (Self::Keys, _) => d * PAGE_TOKENS + t,
                (Self::Values, KvDtype::I8) => (t / 4 * head_dim + d) * 4 + t % 4,
                (Self::Values, _) => t * head_dim + d,
            }
    }
}

/// A segment of one layer.
#[derive(Clone, Copy, Debug)]
pub struct KvSegment<'a> {
    /// Keys.
    pub k: KvSlice<'a>,
    /// Values, in the dtype of the keys.
    pub v: KvSlice<'a>,
}

/// A segment of one layer, writable.
#[derive(Debug)]
pub struct KvSegmentMut<'a> {
    /// Keys.
    pub k: KvSliceMut<'a>,
    /// Values, in the dtype of the keys.
    pub v: KvSliceMut<'a>,
}

impl<'a> KvSegment<'a> {
    /// The segment in `bytes`, of [`KvShape::segment_bytes`] bytes.
    ///
    /// # Panics
    /// When there are fewer bytes, or they do not begin at a multiple of 4.
    #[must_use]
    pub fn of(shape: &KvShape, dtype: KvDtype, bytes: &'a [u8]) -> Self {
        let [k, v, k_scales, v_scales] = shape.parts(dtype).map(|part| &bytes[part]);
        let slice = |data, scales| match dtype {
            KvDtype::F32 => KvSlice::F32(bytemuck::cast_slice(data)),
            KvDtype::F16 => KvSlice::F16(bytemuck::cast_slice(data)),
            KvDtype::I8 => KvSlice::I8 { codes: bytemuck::cast_slice(data), scales: bytemuck::cast_slice(scales) },
        };
        Self { k: slice(k, k_scales), v: slice(v, v_scales) }
    }
}

impl<'a> KvSegmentMut<'a> {
    /// As [`KvSegment::of`].
    ///
    /// # Panics
    /// When there are fewer bytes, or they do not begin at a multiple of 4.
    #[must_use]
    pub fn of(shape: &KvShape, dtype: KvDtype, bytes: &'a mut [u8]) -> Self {
        let mut rest = bytes;
        let [k, v, k_scales, v_scales] = shape.parts(dtype).map(|part| {
            let (bytes, next) = std::mem::take(&mut rest).split_at_mut(part.len().next_multiple_of(LINE_BYTES));
            rest = next;
            &mut bytes[..part.len()]
        });
        let slice = |data, scales| match dtype {
            KvDtype::F32 => KvSliceMut::F32(bytemuck::cast_slice_mut(data)),
            KvDtype::F16 => KvSliceMut::F16(bytemuck::cast_slice_mut(data)),
            KvDtype::I8 => {
                KvSliceMut::I8 { codes: bytemuck::cast_slice_mut(data), scales: bytemuck::cast_slice_mut(scales) }
            }
        };
        Self { k: slice(k, k_scales), v: slice(v, v_scales) }
    }
}

/// K and V of one session and layer. Segment `i` holds positions `256 i .. 256 (i + 1)`; slots not yet written may hold anything.
pub trait KvSegments: Sync {
    /// The dtype of every segment.
    fn dtype(&self) -> KvDtype;

    /// Calls `f` once with segment `segment`.
    fn with_segment(&self, segment: usize, f: &mut dyn FnMut(KvSegment<'_>));

    /// Calls `f(i, segment)` once with each of `segments`, in order.
    fn with_segments(&self, segments: &[usize], f: &mut dyn FnMut(usize, KvSegment<'_>)) {
        for (i, segment) in segments.iter().enumerate() {
            self.with_segment(*segment, &mut |data| f(i, data));
        }
    }
}

/// K and V of one session and layer, writable.
pub trait KvSegmentsMut {
    /// Calls `f` once with segment `segment`.
    fn with_segment_mut(&mut self, segment: usize, f: &mut dyn FnMut(KvSegmentMut<'_>));
}

/// Sizes of K and V of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Number of KV heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Values of one head of a segment.
    pub(crate) fn head_elems(&self, part: KvPart, dtype: KvDtype) -> usize {
        SEGMENT_PAGES * part.page_elems(dtype, self.head_dim)
    }

    /// Values (or codes) of the keys of a segment.
    #[must_use]
    pub fn key_elems(&self, dtype: KvDtype) -> usize {
        self.kv_heads * self.head_elems(KvPart::Keys, dtype)
    }

    /// Values (or codes) of the values of a segment.
    #[must_use]
    pub fn value_elems(&self, dtype: KvDtype) -> usize {
        self.kv_heads * self.head_elems(KvPart::Values, dtype)
    }

    /// Scales of the keys (and of the values) of a segment: 0 for floats.
    #[must_use]
    pub fn scales(&self, dtype: KvDtype) -> usize {
        if dtype == KvDtype::I8 { self.kv_heads * SEGMENT_TOKENS } else { 0 }
    }

    /// Where keys, values and their scales lie in a segment's bytes: one after another, each on a cache line of its own.
    fn parts(&self, dtype: KvDtype) -> [Range<usize>; 4] {
        let scales = self.scales(dtype) * size_of::<f32>();
        let mut at = 0;
        [self.key_elems(dtype) * dtype.bytes(), self.value_elems(dtype) * dtype.bytes(), scales, scales].map(|bytes| {
            let part = at..at + bytes;
            at += bytes.next_multiple_of(LINE_BYTES);
            part
        })
    }

    /// Bytes of a segment: a multiple of a cache line.
    #[must_use]
    pub fn segment_bytes(&self, dtype: KvDtype) -> usize {
        self.parts(dtype).iter().map(|part| part.len().next_multiple_of(LINE_BYTES)).sum()
    }

    /// Bytes of K and V of a page with their scales.
    #[must_use]
    pub fn page_bytes(&self, dtype: KvDtype) -> usize {
        let elems = self.key_elems(dtype) + self.value_elems(dtype);
        (elems * dtype.bytes() + 2 * self.scales(dtype) * size_of::<f32>()) / SEGMENT_PAGES
    }
}

/// Writes rows `k` and `v`, both `[m, kv_heads · head_dim]`, of positions `start_pos..start_pos + m` into their segments, rounded
/// to their dtype (see the [module](self)).
///
/// # Errors
/// When the rows or a segment do not have the size that the shape asks for; segments before it are then written.
pub fn store_kv(
    shape: &KvShape,
    start_pos: usize,
    k: &[f32],
    v: &[f32],
    segments: &mut dyn KvSegmentsMut,
) -> Result<(), CpuError> {
    let width = shape.kv_heads * shape.head_dim;
    let m = k.len().checked_div(width).unwrap_or(0);
    check_len("store_kv: k [m, kv_heads · head_dim]", m.checked_mul(width), k.len())?;
    check_len("store_kv: v like k", Some(k.len()), v.len())?;
    let mut row = 0;
    while row < m {
        let (segment, slot) = ((start_pos + row) / SEGMENT_TOKENS, (start_pos + row) % SEGMENT_TOKENS);
        let count = (SEGMENT_TOKENS - slot).min(m - row);
        let mut result = Ok(());
        segments.with_segment_mut(segment, &mut |mut to| {
            let parts = [
                (KvPart::Keys, &mut to.k, k, "store_kv: keys of a segment"),
                (KvPart::Values, &mut to.v, v, "store_kv: values of a segment"),
            ];
            for (part, to, from, what) in parts {
                let elems = shape.kv_heads * shape.head_elems(part, to.dtype());
                let mut checked = check_len(what, Some(elems), to.len());
                if let KvSliceMut::I8 { scales, .. } = to {
                    let expected = Some(shape.scales(KvDtype::I8));
                    checked = checked.and_then(|()| check_len("store_kv: scales of a segment", expected, scales.len()));
                }
                if checked.is_err() {
                    result = checked;
                    return;
                }
                for i in 0..count {
                    for (head, from) in from[(row + i) * width..][..width].chunks(shape.head_dim).enumerate() {
                        to.write(part, shape, head, slot + i, from);
                    }
                }
            }
        });
        result?;
        row += count;
    }
    Ok(())
}
