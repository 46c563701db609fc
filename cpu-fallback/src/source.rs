//! Where weights come from: the traits that the weight store implements, and tensors over them.

use crate::{CpuError, TileError};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{PANEL_ROWS, panel_layout, panels, panels_per_tile},
};
use std::ops::Range;

/// Hands out the tiles of one packed tensor.
pub trait TileSource: Sync {
    /// The bytes of tile `index`: in place where they lie raw in memory, else decompressed into `scratch`.
    ///
    /// # Errors
    /// When the tile cannot be read or does not match its checksum.
    fn tile<'s>(&'s self, index: usize, scratch: &'s mut AlignedBytes) -> Result<&'s [u8], TileError>;

    /// The whole tensor, tiles one after another, where it lies so in memory. Linears then take any run of panels at once,
    /// over the tiles' borders, and do not call [`Self::tile`].
    fn whole(&self) -> Option<&[u8]> {
        None
    }
}

/// A tile that was decompressed, for whoever needs it again. A thread has one for each tensor that it reads out of order.
#[derive(Debug, Default)]
pub struct TileBuffer {
    bytes: AlignedBytes,
    holds: Option<usize>,
}

impl TileBuffer {
    /// The bytes of tile `index` of `w`, the one tensor that this buffer is used with: as they are held from the last call, or
    /// read by [`PanelTensor::tile`].
    ///
    /// # Errors
    /// Those of [`PanelTensor::tile`].
    pub fn tile<'s>(&'s mut self, w: &'s PanelTensor<'_>, index: usize) -> Result<&'s [u8], CpuError> {
        if self.holds != Some(index) {
            self.holds = None;
            let address = w.tile(index, &mut self.bytes)?.as_ptr();
            if address != self.bytes.as_slice().as_ptr() {
                // In place: reading it again costs nothing.
                return w.tile(index, &mut self.bytes);
            }
            self.holds = Some(index);
        }
        Ok(self.bytes.as_slice())
    }
}

/// A packed tensor whose tiles lie one after another in memory.
#[derive(Clone, Copy, Debug)]
pub struct SliceTiles<'a> {
    bytes: &'a [u8],
    tile_bytes: usize,
}

impl<'a> SliceTiles<'a> {
    /// Views `bytes`, the panels of a tensor of `format` with `k` inputs, as tiles.
    #[must_use]
    pub fn new(format: WeightFormat, k: usize, bytes: &'a [u8]) -> Self {
        Self { bytes, tile_bytes: panels_per_tile(format, k) * panel_layout(format, k).bytes }
    }

    /// The bytes of tile `index`; none past the last one.
    #[must_use]
    pub fn at(&self, index: usize) -> &'a [u8] {
        let start = index.saturating_mul(self.tile_bytes).min(self.bytes.len());
        &self.bytes[start..self.bytes.len().min(start + self.tile_bytes)]
    }
}

impl TileSource for SliceTiles<'_> {
    fn tile<'s>(&'s self, index: usize, _: &'s mut AlignedBytes) -> Result<&'s [u8], TileError> {
        Ok(self.at(index))
    }

    fn whole(&self) -> Option<&[u8]> {
        Some(self.bytes)
    }
}

/// A packed tensor `[n, k]`: tile `i` holds panels `i · panels_per_tile(format, k) ..` of 16 output rows each.
#[derive(Clone, Copy)]
pub struct PanelTensor<'a> {
    /// How the weights are stored.
    pub format: WeightFormat,
    /// Output rows.
    pub n: usize,
    /// Inputs per row.
    pub k: usize,
    /// Where the tiles come from.
    pub tiles: &'a dyn TileSource,
}

impl std::fmt::Debug for PanelTensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PanelTensor({} [{}, {}])", self.format, self.n, self.k)
    }
}

impl PanelTensor<'_> {
    /// Panels of a full tile.
    #[must_use]
    pub fn panels_per_tile(&self) -> usize {
        panels_per_tile(self.format, self.k)
    }

    /// Number of tiles.
    #[must_use]
    pub fn num_tiles(&self) -> usize {
        panels(self.n).div_ceil(self.panels_per_tile())
    }

    /// The panels that tile `index` holds.
    #[must_use]
    pub fn tile_panels(&self, index: usize) -> Range<usize> {
        let (all, per_tile) = (panels(self.n), self.panels_per_tile());
        let start = index.saturating_mul(per_tile).min(all);
        start..(start + per_tile).min(all)
    }

    /// Reads tile `index` and checks its size.
    ///
    /// # Errors
    /// When the source fails or gives another number of bytes than the shape asks for.
    pub fn tile<'s>(&'s self, index: usize, scratch: &'s mut AlignedBytes) -> Result<&'s [u8], CpuError> {
        let expected = self.tile_panels(index).len() * panel_layout(self.format, self.k).bytes;
        let bytes = self.tiles.tile(index, scratch)?;
        if bytes.len() != expected {
            return Err(CpuError::TileSize { tile: index, expected, got: bytes.len() });
        }
        Ok(bytes)
    }

    /// Calls `f(row, panel, row in panel)` for every output row in order.
    ///
    /// # Errors
    /// Those of [`Self::tile`], and the first error of `f`.
    pub fn for_each_row(
        &self,
        mut f: impl FnMut(usize, &coexec_model::layout::Panel<'_>, usize) -> Result<(), CpuError>,
    ) -> Result<(), CpuError> {
        let mut scratch = AlignedBytes::default();
        let panel_bytes = panel_layout(self.format, self.k).bytes;
        for tile in 0..self.num_tiles() {
            let range = self.tile_panels(tile);
            let bytes = self.tile(tile, &mut scratch)?;
            for (i, p) in range.enumerate() {
                let bytes = &bytes[i * panel_bytes..(i + 1) * panel_bytes];
                let panel = coexec_model::layout::Panel::new(self.format, self.k, bytes);
                for r in 0..PANEL_ROWS.min(self.n - p * PANEL_ROWS) {
                    f(p * PANEL_ROWS + r, &panel, r)?;
                }
            }
        }
        Ok(())
    }
}

/// Hands out float rows `W[k, :]` (all outputs of input channel `k`) of one linear, for its shadow.
pub trait ChannelRows: Sync {
    /// Writes columns `cols` of the rows of `channels` (ascending): `out` `[channels, cols]`. `cols` begins on a panel of
    /// 16 and, where [`Self::column_step`] says so, is one step. `tile` is for these columns only.
    ///
    /// # Errors
    /// When a row cannot be read.
    fn read(
        &self,
        channels: &[u32],
        cols: Range<usize>,
        tile: &mut TileBuffer,
        out: &mut [f32],
    ) -> Result<(), TileError>;

    /// Columns that are best read together, whole panels of 16: those of a tile where tiles are decompressed. `None` where any
    /// number will do.
    fn column_step(&self) -> Option<usize> {
        None
    }
}
