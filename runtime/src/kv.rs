//! The KV cache of a session: slabs of some segments of [`SEGMENT_TOKENS`] tokens for all layers, each behind its own lock.
//!
//! `kv_write` of one chunk and `attend` of an earlier one may touch the same slab but never the same token of the same layer;
//! the lock makes that safe and is held for one segment's work of one block of rows. K and V are read back after rounding
//! to the cache's dtype, also inside the chunk that wrote them, so results do not depend on chunking. How K and V lie in a
//! segment: [`coexec_cpu::kv`].

use crate::RuntimeError;
use coexec_cpu::{KvSegment, KvSegmentMut, KvSegments, KvSegmentsMut, KvShape, PAGE_TOKENS, SEGMENT_TOKENS};
use coexec_model::{DecoderConfig, align::AlignedBytes, memory::OutOfMemory};
use parking_lot::RwLock;

pub use coexec_cpu::KvDtype;

/// Slabs have as many segments as fit these bytes, at least one: large enough for huge pages, without which a long context
/// costs a page walk every few rows.
const SLAB_BYTES: usize = 8 << 20;
/// Most segments of a slab.
const SLAB_SEGMENTS: usize = 8;

/// Where K and V of a segment and layer lie.
#[derive(Clone, Copy, Debug)]
struct Places {
    dtype: KvDtype,
    shape: KvShape,
    layers: usize,
    /// Segments of a slab.
    segments: usize,
}

impl Places {
    fn slab_bytes(&self) -> usize {
        self.segments * self.layers * self.shape.segment_bytes(self.dtype)
    }

    /// The slab of a segment, and the segment's bytes in it.
    fn find(&self, segment: usize, layer: usize) -> (usize, std::ops::Range<usize>) {
        let bytes = self.shape.segment_bytes(self.dtype);
        let at = (segment % self.segments * self.layers + layer) * bytes;
        (segment / self.segments, at..at + bytes)
    }
}

/// K and V of every layer for the tokens of one session.
#[derive(Debug)]
pub struct KvCache {
    slabs: Vec<RwLock<AlignedBytes>>,
    places: Places,
    /// Positions that there is room for, in whole pages.
    tokens: usize,
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
        let shape = KvShape { kv_heads: config.num_key_value_heads as usize, head_dim: config.head_dim as usize };
        let segment = (layers * shape.segment_bytes(dtype)).max(1);
        let segments = (SLAB_BYTES / segment).clamp(1, SLAB_SEGMENTS);
        Self { slabs: Vec::new(), places: Places { dtype, shape, layers, segments }, tokens: 0 }
    }

    /// Makes room for positions `0 .. tokens`.
    ///
    /// # Errors
    /// [`OutOfMemory`]; there is then room for as many positions as before, or more.
    pub fn reserve(&mut self, tokens: usize) -> Result<(), OutOfMemory> {
        while self.slabs.len() * self.places.segments * SEGMENT_TOKENS < tokens {
            let slab = AlignedBytes::try_zeroed(self.places.slab_bytes(), "keys and values")?;
            self.slabs.push(RwLock::new(slab));
        }
        self.tokens = self.tokens.max(tokens.next_multiple_of(PAGE_TOKENS));
        Ok(())
    }

    /// Frees the slabs past position `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.slabs.truncate(tokens.div_ceil(self.places.segments * SEGMENT_TOKENS));
        self.tokens = self.tokens.min(tokens.next_multiple_of(PAGE_TOKENS));
    }

    /// Bytes of the pages in use. Address space is taken in whole slabs, which the system fills as they are written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let pages = self.places.layers * (self.tokens / PAGE_TOKENS);
        (pages * self.places.shape.page_bytes(self.places.dtype)) as u64
    }

    /// Stores rows of K and V, `[tokens, kv_heads × head_dim]`, at positions `start_pos ..`.
    ///
    /// # Errors
    /// When the rows have another width.
    ///
    /// # Panics
    /// When room was not reserved.
    pub fn write(&self, layer: usize, start_pos: usize, k: &[f32], v: &[f32]) -> Result<(), RuntimeError> {
        Ok(coexec_cpu::store_kv(&self.places.shape, start_pos, k, v, &mut self.layer(layer))?)
    }

    /// The segments of one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> LayerKv<'_> {
        LayerKv { cache: self, layer }
    }
}

/// The segments of one layer, as attention reads them.
#[derive(Debug)]
pub struct LayerKv<'a> {
    cache: &'a KvCache,
    layer: usize,
}

impl KvSegmentsMut for LayerKv<'_> {
    fn with_segment_mut(&mut self, segment: usize, f: &mut dyn FnMut(KvSegmentMut<'_>)) {
        let places = &self.cache.places;
        let (slab, bytes) = places.find(segment, self.layer);
        let mut slab = self.cache.slabs[slab].write();
        f(KvSegmentMut::of(&places.shape, places.dtype, &mut slab.as_mut_slice()[bytes]));
    }
}

impl KvSegments for LayerKv<'_> {
    fn dtype(&self) -> KvDtype {
        self.cache.places.dtype
    }

    fn with_segment(&self, segment: usize, f: &mut dyn FnMut(KvSegment<'_>)) {
        let places = &self.cache.places;
        let (slab, bytes) = places.find(segment, self.layer);
        f(KvSegment::of(&places.shape, places.dtype, &self.cache.slabs[slab].read().as_slice()[bytes]));
    }

    /// Segments of one slab share its lock; never two locks at once.
    fn with_segments(&self, segments: &[usize], f: &mut dyn FnMut(usize, KvSegment<'_>)) {
        let places = &self.cache.places;
        let find = |segment: usize| places.find(segment, self.layer);
        let mut first = 0;
        while first < segments.len() {
            let (slab, _) = find(segments[first]);
            let same = segments[first..].iter().take_while(|segment| find(**segment).0 == slab).count();
            let data = self.cache.slabs[slab].read();
            for (i, segment) in segments.iter().enumerate().skip(first).take(same) {
                f(i, KvSegment::of(&places.shape, places.dtype, &data.as_slice()[find(*segment).1]));
            }
            first += same;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coexec_cpu::KvSlice;

    #[test]
    fn segments_together_are_the_segments_one_by_one() {
        let config = coexec_model::random::named_config("qwen2.5-0.5b").expect("a known shape");
        let mut cache = KvCache::with_layers(&config, KvDtype::F16, 2);
        let per_slab = cache.places.segments;
        cache.reserve(3 * per_slab * SEGMENT_TOKENS).unwrap();
        let layer = cache.layer(1);
        let place = |data: &KvSegment<'_>| match data.v {
            KvSlice::F16(values) => (values.as_ptr(), values.len()),
            _ => panic!("f16"),
        };
        let last = 3 * per_slab - 1;
        // In one slab, across slabs, backwards, the same twice, none.
        for segments in [vec![0, 1], vec![per_slab, per_slab - 1], vec![last, 0, 1, per_slab], vec![2, 2], vec![]] {
            let mut got = Vec::new();
            layer.with_segments(&segments, &mut |i, data| got.push((i, place(&data))));
            let mut expected = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                layer.with_segment(*segment, &mut |data| expected.push((i, place(&data))));
            }
            assert_eq!(got, expected, "{segments:?}");
        }
    }
}
