//! K/V pages as the attention sees them, whoever owns them.

use crate::{CpuError, error::check_len};
use half::f16;

/// Tokens of a KV page; pages are aligned to absolute positions.
pub const PAGE_TOKENS: usize = 32;

/// Elements of a page in their dtype.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
}

impl<'a> KvSlice<'a> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::F16(s) => s.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i`.
    ///
    /// # Panics
    /// When there is no such element.
    #[must_use]
    #[inline(always)]
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(s) => s[i],
            Self::F16(s) => s[i].to_f32(),
        }
    }

    /// The elements of KV head `head`, `[PAGE_TOKENS, head_dim]`; `None` when the page is shorter.
    pub(crate) fn head(&self, head: usize, head_dim: usize) -> Option<KvSlice<'a>> {
        let range = head * PAGE_TOKENS * head_dim..(head + 1) * PAGE_TOKENS * head_dim;
        match self {
            Self::F32(s) => s.get(range).map(KvSlice::F32),
            Self::F16(s) => s.get(range).map(KvSlice::F16),
        }
    }
}

/// Elements of a page, writable.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// 16-bit floats.
    F16(&'a mut [f16]),
}

impl KvSliceMut<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::F16(s) => s.len(),
        }
    }

    fn write(&mut self, at: usize, from: &[f32]) {
        match self {
            Self::F32(to) => to[at..at + from.len()].copy_from_slice(from),
            Self::F16(to) => {
                half::slice::HalfFloatSliceExt::convert_from_f32_slice(&mut to[at..at + from.len()], from);
            }
        }
    }
}

/// A page of one layer: `[kv_head, token, head_dim]` for keys and for values.
#[derive(Clone, Copy, Debug)]
pub struct KvPage<'a> {
    /// Keys.
    pub k: KvSlice<'a>,
    /// Values.
    pub v: KvSlice<'a>,
}

/// A page of one layer, writable: `[kv_head, token, head_dim]`.
#[derive(Debug)]
pub struct KvPageMut<'a> {
    /// Keys.
    pub k: KvSliceMut<'a>,
    /// Values.
    pub v: KvSliceMut<'a>,
}

/// The pages of one session and layer. Page `i` holds positions `32 i .. 32 (i + 1)`; slots not yet written may hold anything.
pub trait KvPages: Sync {
    /// Calls `f` once with page `page`.
    fn with_page(&self, page: usize, f: &mut dyn FnMut(KvPage<'_>));
}

/// The pages of one session and layer, writable.
pub trait KvPagesMut {
    /// Calls `f` once with page `page`.
    fn with_page_mut(&mut self, page: usize, f: &mut dyn FnMut(KvPageMut<'_>));
}

/// Sizes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Number of KV heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Elements of the keys (or of the values) of a page.
    #[must_use]
    pub fn page_elems(&self) -> usize {
        self.kv_heads * PAGE_TOKENS * self.head_dim
    }
}

/// Writes rows `k` and `v`, both `[m, kv_heads · head_dim]`, of positions `start_pos..start_pos + m` into their pages, rounded
/// to each page's dtype (to nearest, ties to even).
///
/// # Errors
/// When the rows or a page do not have the size that the shape asks for; pages before it are then written.
pub fn store_kv(
    shape: &KvShape,
    start_pos: usize,
    k: &[f32],
    v: &[f32],
    pages: &mut dyn KvPagesMut,
) -> Result<(), CpuError> {
    let width = shape.kv_heads * shape.head_dim;
    let m = k.len().checked_div(width).unwrap_or(0);
    check_len("store_kv: k [m, kv_heads · head_dim]", m.checked_mul(width), k.len())?;
    check_len("store_kv: v like k", Some(k.len()), v.len())?;
    let mut row = 0;
    while row < m {
        let (page, slot) = ((start_pos + row) / PAGE_TOKENS, (start_pos + row) % PAGE_TOKENS);
        let count = (PAGE_TOKENS - slot).min(m - row);
        let mut result = Ok(());
        pages.with_page_mut(page, &mut |mut to| {
            for (to, from, what) in [(&mut to.k, k, "store_kv: page keys"), (&mut to.v, v, "store_kv: page values")] {
                if let Err(error) = check_len(what, Some(shape.page_elems()), to.len()) {
                    result = Err(error);
                    return;
                }
                for i in 0..count {
                    for (head, from) in from[(row + i) * width..][..width].chunks(shape.head_dim).enumerate() {
                        to.write((head * PAGE_TOKENS + slot + i) * shape.head_dim, from);
                    }
                }
            }
        });
        result?;
        row += count;
    }
    Ok(())
}
