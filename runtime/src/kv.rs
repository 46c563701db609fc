//! The KV cache of a session: pages of 32 tokens per layer, each behind its own lock.
//!
//! `kv_write` of one chunk and `attend` of an earlier one may touch the same page (a chunk need not begin on a page's
//! edge) but never the same token; the lock makes that safe and is held for one page's work only. K and V are read back
//! after rounding to the cache's dtype, also inside the chunk that wrote them, so results do not depend on chunking.

use crate::RuntimeError;
use coexec_cpu::{KvPage, KvPageMut, KvPages, KvPagesMut, KvShape, KvSlice, KvSliceMut, PAGE_TOKENS};
use coexec_model::DecoderConfig;
use half::f16;
use parking_lot::RwLock;

/// How K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// 32-bit floats, for exactness tests.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
}

impl KvDtype {
    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// `f32` or `f16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

#[derive(Debug)]
enum PageData {
    F32 { k: Vec<f32>, v: Vec<f32> },
    F16 { k: Vec<f16>, v: Vec<f16> },
}

/// K and V of every layer for the tokens of one session, `[layer][page][kv_head][token][head_dim]`.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Vec<RwLock<PageData>>>,
    dtype: KvDtype,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// An empty cache for a model.
    #[must_use]
    pub fn new(config: &DecoderConfig, dtype: KvDtype) -> Self {
        Self::with_layers(config, dtype, config.num_hidden_layers as usize)
    }

    /// An empty cache with another number of layers (calibration goes layer by layer).
    #[must_use]
    pub fn with_layers(config: &DecoderConfig, dtype: KvDtype, layers: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| Vec::new()).collect(),
            dtype,
            kv_heads: config.num_key_value_heads as usize,
            head_dim: config.head_dim as usize,
        }
    }

    /// Makes room for positions `0 .. tokens`.
    pub fn reserve(&mut self, tokens: usize) {
        let elems = self.kv_heads * PAGE_TOKENS * self.head_dim;
        for pages in &mut self.layers {
            while pages.len() * PAGE_TOKENS < tokens {
                pages.push(RwLock::new(match self.dtype {
                    KvDtype::F32 => PageData::F32 { k: vec![0.0; elems], v: vec![0.0; elems] },
                    KvDtype::F16 => PageData::F16 { k: vec![f16::ZERO; elems], v: vec![f16::ZERO; elems] },
                }));
            }
        }
    }

    /// Frees the pages past position `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        for pages in &mut self.layers {
            pages.truncate(tokens.div_ceil(PAGE_TOKENS));
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let page = 2 * self.kv_heads * PAGE_TOKENS * self.head_dim * self.dtype.bytes();
        self.layers.iter().map(|pages| (pages.len() * page) as u64).sum()
    }

    /// Stores rows of K and V, `[tokens, kv_heads × head_dim]`, at positions `start_pos ..`.
    ///
    /// # Errors
    /// When the rows have another width.
    ///
    /// # Panics
    /// When room was not reserved.
    pub fn write(&self, layer: usize, start_pos: usize, k: &[f32], v: &[f32]) -> Result<(), RuntimeError> {
        let shape = KvShape { kv_heads: self.kv_heads, head_dim: self.head_dim };
        Ok(coexec_cpu::store_kv(&shape, start_pos, k, v, &mut self.layer(layer))?)
    }

    /// The pages of one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> LayerKv<'_> {
        LayerKv { pages: &self.layers[layer] }
    }
}

/// The pages of one layer, as attention reads them.
#[derive(Debug)]
pub struct LayerKv<'a> {
    pages: &'a [RwLock<PageData>],
}

impl KvPagesMut for LayerKv<'_> {
    fn with_page_mut(&mut self, page: usize, f: &mut dyn FnMut(KvPageMut<'_>)) {
        match &mut *self.pages[page].write() {
            PageData::F32 { k, v } => f(KvPageMut { k: KvSliceMut::F32(k), v: KvSliceMut::F32(v) }),
            PageData::F16 { k, v } => f(KvPageMut { k: KvSliceMut::F16(k), v: KvSliceMut::F16(v) }),
        }
    }
}

impl KvPages for LayerKv<'_> {
    fn with_page(&self, page: usize, f: &mut dyn FnMut(KvPage<'_>)) {
        match &*self.pages[page].read() {
            PageData::F32 { k, v } => f(KvPage { k: KvSlice::F32(k), v: KvSlice::F32(v) }),
            PageData::F16 { k, v } => f(KvPage { k: KvSlice::F16(k), v: KvSlice::F16(v) }),
        }
    }
}
