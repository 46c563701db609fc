//! The weight store: where each tensor of the packed file lives while the engine runs.
//!
//! A tensor is *mapped* (its tiles are stored raw, one after another, and read in place), *pinned* (decompressed into anonymous memory when
//! the model is opened) or *compressed* (its zstd frames stay as they are in the file; a tile is decompressed each time a
//! kernel needs it). [`plan_states`] decides before anything is read; every tile's checksum is checked before first use.

use crate::RuntimeError;
use coexec_cpu::{CpuError, PanelTensor, SliceTiles, TileBuffer, TileError, TileSource};
use coexec_model::{
    LayerIdx, TensorName, WeightFormat,
    align::AlignedBytes,
    layout,
    packed::{PackedFile, TensorEntry},
};
use serde::Serialize;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Where a tensor's weights live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightState {
    /// Raw in the file, read in place.
    Mapped,
    /// Decompressed in anonymous memory.
    Pinned,
    /// Decompressed tile by tile at every use.
    Compressed,
}

/// Tiles that were decompressed because a kernel needed them, not when the model was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DecompressedWeights {
    /// Tiles, each as often as it was decompressed.
    pub tiles: u64,
    /// Bytes that they became.
    pub bytes: u64,
}

impl std::ops::Sub for DecompressedWeights {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { tiles: self.tiles - before.tiles, bytes: self.bytes - before.bytes }
    }
}

/// Counts [`DecompressedWeights`] of all tensors of a model.
#[derive(Debug, Default)]
pub struct WeightCounters {
    tiles: AtomicU64,
    bytes: AtomicU64,
}

impl WeightCounters {
    fn decompressed(&self, bytes: usize) {
        self.tiles.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn get(&self) -> DecompressedWeights {
        DecompressedWeights { tiles: self.tiles.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// What the planner needs to know of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorSize {
    /// Bytes of its tiles when decompressed.
    pub raw_bytes: u64,
    /// Whether it is stored raw as a whole and can be read in place.
    pub in_place: bool,
}

/// Decides the state of each tensor, in order of use: raw tensors are mapped; of the others, as many as the budget holds
/// are pinned. Access is cyclic, so which ones are pinned makes no difference to how many bytes must be decompressed per
/// token: the largest are taken first only where they fit, which keeps the unused rest of the budget small.
#[must_use]
pub fn plan_states(tensors: &[TensorSize], budget_bytes: Option<u64>) -> Vec<WeightState> {
    let mut states: Vec<_> =
        tensors.iter().map(|t| if t.in_place { WeightState::Mapped } else { WeightState::Compressed }).collect();
    let mut order: Vec<_> = (0..tensors.len()).filter(|i| !tensors[*i].in_place).collect();
    order.sort_by_key(|i| std::cmp::Reverse(tensors[*i].raw_bytes));
    let mut left = budget_bytes.unwrap_or(u64::MAX);
    for i in order {
        if tensors[i].raw_bytes <= left {
            left -= tensors[i].raw_bytes;
            states[i] = WeightState::Pinned;
        }
    }
    states
}

/// The weights of one linear (or of the embedding).
#[derive(Debug)]
pub struct Weight {
    file: Arc<PackedFile>,
    entry: TensorEntry,
    format: WeightFormat,
    state: WeightState,
    pinned: AlignedBytes,
    /// Its place in the file, where it is mapped.
    mapped: Range<usize>,
    counters: Arc<WeightCounters>,
}

impl Weight {
    /// Size of a tensor for [`plan_states`].
    ///
    /// # Errors
    /// When the file has no such tensor.
    pub fn size(file: &PackedFile, name: TensorName) -> Result<TensorSize, RuntimeError> {
        let entry = file.tensor(name)?;
        let format = panel_format(entry)?;
        let raw_bytes = layout::panels(entry.n) as u64 * layout::panel_layout(format, entry.k).bytes as u64;
        let in_place = file.raw_tensor(entry).is_some();
        Ok(TensorSize { raw_bytes, in_place })
    }

    /// Opens a tensor in the given state, checking its tiles unless they are only read at use; then `counters` count them.
    ///
    /// # Errors
    /// When a tile is damaged.
    pub fn open(
        file: &Arc<PackedFile>,
        name: TensorName,
        state: WeightState,
        counters: &Arc<WeightCounters>,
    ) -> Result<Self, RuntimeError> {
        let entry = file.tensor(name)?.clone();
        let format = panel_format(&entry)?;
        let (mut pinned, mut mapped) = (AlignedBytes::default(), 0..0);
        match state {
            WeightState::Pinned => pinned = file.read_tensor(&entry)?,
            WeightState::Mapped => {
                mapped = file.raw_tensor(&entry).ok_or_else(|| {
                    RuntimeError::Schedule(format!(
                        "tensor `{name}` cannot be read in place: its tiles are compressed or apart"
                    ))
                })?;
                for tile in 0..entry.tiles {
                    file.verify_tile(&entry, tile)?;
                }
            }
            WeightState::Compressed => {}
        }
        let (file, counters) = (Arc::clone(file), Arc::clone(counters));
        Ok(Self { file, entry, format, state, pinned, mapped, counters })
    }

    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> TensorName {
        self.entry.name
    }

    /// Where it lives.
    #[must_use]
    pub fn state(&self) -> WeightState {
        self.state
    }

    /// How it is stored.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Output rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.entry.n
    }

    /// Inputs.
    #[must_use]
    pub fn k(&self) -> usize {
        self.entry.k
    }

    /// The tensor as kernels take it.
    #[must_use]
    pub fn panels(&self) -> PanelTensor<'_> {
        PanelTensor { format: self.format, n: self.entry.n, k: self.entry.k, tiles: self }
    }

    /// Output rows of a tile.
    #[must_use]
    pub fn rows_per_tile(&self) -> usize {
        layout::panels_per_tile(self.format, self.entry.k) * layout::PANEL_ROWS
    }

    /// Calls `f` with every panel of a range of rows and the index of the panel's first row. `buffer`, which is used with this
    /// tensor only, keeps the last tile for calls that follow.
    ///
    /// # Errors
    /// When a tile is damaged.
    pub fn for_panels(
        &self,
        rows: Range<usize>,
        buffer: &mut TileBuffer,
        f: &mut dyn FnMut(usize, layout::Panel<'_>),
    ) -> Result<(), RuntimeError> {
        let (tensor, per_tile) = (self.panels(), layout::panels_per_tile(self.format, self.entry.k));
        let bytes = layout::panel_layout(self.format, self.entry.k).bytes;
        let panels = rows.start / layout::PANEL_ROWS..layout::panels(rows.end);
        let mut at = panels.start;
        while at < panels.end {
            let index = at / per_tile;
            let tile = buffer.tile(&tensor, index).map_err(|error| match error {
                CpuError::Tile(source) => RuntimeError::Tile { tensor: self.entry.name, source },
                other => RuntimeError::Cpu(other),
            })?;
            let end = ((index + 1) * per_tile).min(panels.end);
            for panel in at..end {
                let inside = panel - index * per_tile;
                let view = layout::Panel::new(self.format, self.entry.k, &tile[inside * bytes..(inside + 1) * bytes]);
                f(panel * layout::PANEL_ROWS, view);
            }
            at = end;
        }
        Ok(())
    }
}

fn panel_format(entry: &TensorEntry) -> Result<WeightFormat, RuntimeError> {
    entry.format().ok_or_else(|| {
        RuntimeError::Schedule(format!("tensor `{}` holds no weight panels; the file is not a model", entry.name))
    })
}

impl TileSource for Weight {
    fn whole(&self) -> Option<&[u8]> {
        match self.state {
            WeightState::Pinned => Some(self.pinned.as_slice()),
            WeightState::Mapped => self.file.bytes(self.mapped.clone()),
            WeightState::Compressed => None,
        }
    }

    fn tile<'s>(&'s self, index: usize, scratch: &'s mut AlignedBytes) -> Result<&'s [u8], TileError> {
        if let Some(whole) = self.whole() {
            return Ok(SliceTiles::new(self.format, self.entry.k, whole).at(index));
        }
        let fail = |e: coexec_model::packed::PackedError| TileError { message: e.to_string() };
        let raw_bytes = self.file.tile(&self.entry, index).map_err(fail)?.raw_bytes;
        if scratch.len() != raw_bytes {
            *scratch = AlignedBytes::try_zeroed(raw_bytes, "a tile of weights").map_err(|e| fail(e.into()))?;
        }
        self.file.read_tile(&self.entry, index, scratch.as_mut_slice()).map_err(fail)?;
        self.counters.decompressed(raw_bytes);
        Ok(scratch.as_slice())
    }
}

/// Names of all panel tensors of a model with or without a head of its own, in order of use.
#[must_use]
pub fn panel_tensors(config: &coexec_model::DecoderConfig, head: bool) -> Vec<TensorName> {
    let mut names = vec![TensorName::Embed];
    for layer in 0..config.num_hidden_layers {
        names.extend(coexec_model::LinearKind::ALL.map(|k| TensorName::Layer(LayerIdx(layer), k.tensor())));
    }
    if head {
        names.push(TensorName::Head);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_and_used() {
        let t = |raw_bytes, in_place| TensorSize { raw_bytes, in_place };
        let tensors = [t(100, false), t(50, true), t(60, false), t(40, false)];
        use WeightState::*;
        assert_eq!(plan_states(&tensors, None), [Pinned, Mapped, Pinned, Pinned]);
        assert_eq!(plan_states(&tensors, Some(0)), [Compressed, Mapped, Compressed, Compressed]);
        assert_eq!(plan_states(&tensors, Some(140)), [Pinned, Mapped, Compressed, Pinned]);
        assert_eq!(plan_states(&tensors, Some(99)), [Compressed, Mapped, Pinned, Compressed]);
    }
}
