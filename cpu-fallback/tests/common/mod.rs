//! Helpers of the API tests: random numbers, packed tensors, tile sources.

#![allow(dead_code, reason = "each test file uses some of these")]

use coexec_cpu::{Ctx, Kernels, KvPage, KvPageMut, KvPages, KvPagesMut, KvShape, KvSlice, KvSliceMut, Pool};
use coexec_cpu::{TileError, TileSource};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{pack_panel, panel_layout, panels, panels_per_tile},
};
use half::f16;

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

/// Pages in memory; unwritten slots are NaN, so that using one shows.
pub(crate) struct Pages {
    pub(crate) shape: KvShape,
    pub(crate) half: bool,
    pub(crate) k: Vec<Vec<f32>>,
    pub(crate) v: Vec<Vec<f32>>,
    k16: Vec<Vec<f16>>,
    v16: Vec<Vec<f16>>,
}

impl Pages {
    pub(crate) fn new(shape: KvShape, pages: usize, half: bool) -> Self {
        let (f32s, f16s) = (vec![f32::NAN; shape.page_elems()], vec![f16::NAN; shape.page_elems()]);
        Self {
            shape,
            half,
            k: vec![f32s.clone(); pages],
            v: vec![f32s; pages],
            k16: vec![f16s.clone(); pages],
            v16: vec![f16s; pages],
        }
    }
}

impl KvPages for Pages {
    fn with_page(&self, page: usize, f: &mut dyn FnMut(KvPage<'_>)) {
        f(if self.half {
            KvPage { k: KvSlice::F16(&self.k16[page]), v: KvSlice::F16(&self.v16[page]) }
        } else {
            KvPage { k: KvSlice::F32(&self.k[page]), v: KvSlice::F32(&self.v[page]) }
        });
    }
}

impl KvPagesMut for Pages {
    fn with_page_mut(&mut self, page: usize, f: &mut dyn FnMut(KvPageMut<'_>)) {
        f(if self.half {
            KvPageMut { k: KvSliceMut::F16(&mut self.k16[page]), v: KvSliceMut::F16(&mut self.v16[page]) }
        } else {
            KvPageMut { k: KvSliceMut::F32(&mut self.k[page]), v: KvSliceMut::F32(&mut self.v[page]) }
        });
    }
}
