//! Helpers of the API tests: random numbers, packed tensors, tile sources.

#![allow(dead_code, reason = "each test file uses some of these")]

use coexec_cpu::{Ctx, Kernels, KvDtype, KvShape, Pool};
use coexec_cpu::{KvSegment, KvSegmentMut, KvSegments, KvSegmentsMut, SEGMENT_TOKENS};
use coexec_cpu::{TileError, TileSource};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{pack_panel, panel_layout, panels, panels_per_tile},
};

/// xorshift: the same numbers on every machine.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

pub(crate) fn ctx<'a>(pool: &'a Pool, lanes: usize) -> Ctx<'a> {
    Ctx { kernels: Kernels::detect(), pool, lanes }
}

pub(crate) fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// All panels of `rows [n, k]`.
pub(crate) fn pack(format: WeightFormat, k: usize, rows: &[Vec<f32>]) -> AlignedBytes {
    let size = panel_layout(format, k).bytes;
    let mut out = AlignedBytes::zeroed(panels(rows.len()) * size);
    for (p, rows) in rows.chunks(16).enumerate() {
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        pack_panel(format, k, &rows, &mut out.as_mut_slice()[p * size..(p + 1) * size]);
    }
    out
}

/// Tiles that are copied into the scratch, as compressed ones are.
pub(crate) struct Copied {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tile_bytes: usize,
    pub(crate) broken: Option<usize>,
    pub(crate) reads: std::sync::atomic::AtomicUsize,
}

impl Copied {
    pub(crate) fn new(format: WeightFormat, k: usize, bytes: &[u8]) -> Self {
        let tile_bytes = panels_per_tile(format, k) * panel_layout(format, k).bytes;
        Self { bytes: bytes.to_vec(), tile_bytes, broken: None, reads: 0.into() }
    }
}

impl TileSource for Copied {
    fn tile<'s>(&'s self, index: usize, scratch: &'s mut AlignedBytes) -> Result<&'s [u8], TileError> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.broken == Some(index) {
            return Err(TileError::new(format!("tile {index} is broken")));
        }
        let start = index * self.tile_bytes;
        *scratch = AlignedBytes::copy_of(&self.bytes[start..self.bytes.len().min(start + self.tile_bytes)]);
        Ok(scratch)
    }
}

/// K and V of some layers in memory, written and read as one of them; unwritten slots are NaN (codes −1 with scale NaN),
/// so that using one shows.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) shape: KvShape,
    pub(crate) dtype: KvDtype,
    pub(crate) segments: usize,
    pub(crate) layer: usize,
    data: AlignedBytes,
}

impl Segments {
    /// Room for `tokens` tokens in one layer.
    pub(crate) fn new(shape: KvShape, tokens: usize, dtype: KvDtype) -> Self {
        Self::with_layers(shape, tokens, dtype, 1)
    }

    pub(crate) fn with_layers(shape: KvShape, tokens: usize, dtype: KvDtype, layers: usize) -> Self {
        let segments = tokens.div_ceil(SEGMENT_TOKENS);
        let mut data = AlignedBytes::zeroed(layers * segments * shape.segment_bytes(dtype));
        // All ones is a NaN in both floats.
        data.as_mut_slice().fill(0xFF);
        Self { shape, dtype, segments, layer: 0, data }
    }

    pub(crate) fn layers(&self) -> usize {
        self.data.len() / (self.segments * self.shape.segment_bytes(self.dtype))
    }

    fn place(&self, segment: usize) -> std::ops::Range<usize> {
        let bytes = self.shape.segment_bytes(self.dtype);
        let at = (self.layer * self.segments + segment) * bytes;
        at..at + bytes
    }

    /// Keys and values of a segment.
    pub(crate) fn segment(&self, segment: usize) -> KvSegment<'_> {
        KvSegment::of(&self.shape, self.dtype, &self.data[self.place(segment)])
    }

    /// Bytes of the layer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.place(0).start..self.place(self.segments - 1).end]
    }
}

impl KvSegments for Segments {
    fn dtype(&self) -> KvDtype {
        self.dtype
    }

    fn with_segment(&self, segment: usize, f: &mut dyn FnMut(KvSegment<'_>)) {
        f(self.segment(segment));
    }
}

impl KvSegmentsMut for Segments {
    fn with_segment_mut(&mut self, segment: usize, f: &mut dyn FnMut(KvSegmentMut<'_>)) {
        let place = self.place(segment);
        f(KvSegmentMut::of(&self.shape, self.dtype, &mut self.data.as_mut_slice()[place]));
    }
}

/// Reads `bytes` on `lanes` threads, as fast as plain code can.
pub(crate) fn read_all(pool: &Pool, lanes: usize, bytes: &[u8]) -> u64 {
    let total = std::sync::atomic::AtomicU64::new(0);
    let step = bytes.len().div_ceil(8 * lanes).next_multiple_of(4096);
    pool.run(lanes, bytes.len().div_ceil(step), &|part, _| {
        let words = bytes[part * step..bytes.len().min((part + 1) * step)].as_chunks::<8>().0;
        let mut sums = [0u64; 16];
        for words in words.chunks_exact(16) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
        total.fetch_add(sums.iter().fold(0, |a, b| a.wrapping_add(*b)), std::sync::atomic::Ordering::Relaxed);
    });
    total.into_inner()
}
