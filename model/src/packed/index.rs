//! The index: what the file says about the model, as JSON, and the geometry of tensors in tiles.

use crate::{
    Calibration, DecoderConfig, TensorName, TokenizerData, WeightFormat,
    layout::{self, PANEL_ROWS, TILE_TARGET_BYTES},
};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range};

/// Everything but the tiles. Readers ignore fields that they do not know; what must not be ignored raises the version or
/// sets a flag of the header.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) producer: String,
    pub(crate) config: DecoderConfig,
    pub(crate) tokenizer: TokenizerData,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<Calibration>,
    pub(crate) tensors: Vec<TensorEntry>,
}

/// How a tensor's elements lie in its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TensorKind {
    /// Weights in panels of 16 rows ([`crate::layout`]).
    Panels {
        /// How the weights are stored.
        format: WeightFormat,
    },
    /// `n` f32 values (`k` is 1): gains and biases.
    Vector,
    /// `n` rows of `k` f16 values, row-major: float rows of hot channels.
    RowsF16,
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panels { format } => format.fmt(f),
            Self::Vector => f.write_str("vector"),
            Self::RowsF16 => f.write_str("rows_f16"),
        }
    }
}

/// One tensor of a packed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EntryJson")]
#[non_exhaustive]
pub struct TensorEntry {
    /// What it is.
    pub name: TensorName,
    /// How its elements are stored.
    #[serde(flatten)]
    pub kind: TensorKind,
    /// Rows: output channels of a linear, elements of a vector, hot channels.
    pub n: usize,
    /// Elements of a row: inputs of a linear, 1 for a vector, output channels for hot rows.
    pub k: usize,
    /// Number of its first tile in the tile table.
    pub first_tile: usize,
    /// Number of its tiles, which follow each other in the tile table.
    pub tiles: usize,
}

/// A [`TensorEntry`] as it is read: field by field, since a flattened one keeps every unknown field in memory, at a multiple
/// of its size.
#[derive(Deserialize)]
struct EntryJson {
    name: TensorName,
    kind: String,
    format: Option<WeightFormat>,
    n: usize,
    k: usize,
    first_tile: usize,
    tiles: usize,
}

impl TryFrom<EntryJson> for TensorEntry {
    type Error = String;

    fn try_from(json: EntryJson) -> Result<Self, String> {
        let EntryJson { name, kind, format, n, k, first_tile, tiles } = json;
        let kind = match (kind.as_str(), format) {
            ("panels", Some(format)) => TensorKind::Panels { format },
            ("panels", None) => return Err(format!("tensor `{name}` is panels without a format")),
            ("vector", _) => TensorKind::Vector,
            ("rows_f16", _) => TensorKind::RowsF16,
            (other, _) => {
                let other: String = other.chars().take(40).flat_map(char::escape_debug).collect();
                return Err(format!("tensor `{name}` is of an unknown kind `{other}`"));
            }
        };
        Ok(Self { name, kind, n, k, first_tile, tiles })
    }
}

/// Largest `n` or `k`: keeps every product below 2^53 and every tile below 4 GiB.
pub(crate) const MAX_DIM: usize = 1 << 24;
/// Largest tile of a file: one panel of the widest f32 linear that the bounds on a configuration allow.
pub(crate) const MAX_TILE_BYTES: u64 = 64 << 20;

impl TensorEntry {
    /// An entry whose tiles are still to come.
    pub(crate) fn new(name: TensorName, kind: TensorKind, n: usize, k: usize, first_tile: usize) -> Self {
        Self { name, kind, n, k, first_tile, tiles: 0 }
    }

    /// The format of a tensor in panels.
    #[must_use]
    pub fn format(&self) -> Option<WeightFormat> {
        match self.kind {
            TensorKind::Panels { format } => Some(format),
            TensorKind::Vector | TensorKind::RowsF16 => None,
        }
    }

    /// Rows of every tile but the last, which may have fewer: whole panels, at most [`TILE_TARGET_BYTES`] unless one
    /// panel or row is larger.
    #[must_use]
    pub fn rows_per_tile(&self) -> usize {
        match self.kind {
            TensorKind::Panels { format } => layout::panels_per_tile(format, self.k) * PANEL_ROWS,
            TensorKind::Vector => TILE_TARGET_BYTES / 4,
            TensorKind::RowsF16 => (TILE_TARGET_BYTES / (self.k * 2).max(1)).max(1),
        }
    }

    /// The rows that tile `i` holds; empty past the last tile.
    #[must_use]
    pub fn tile_rows(&self, i: usize) -> Range<usize> {
        let start = i.saturating_mul(self.rows_per_tile()).min(self.n);
        start..start.saturating_add(self.rows_per_tile()).min(self.n)
    }

    /// The tile and the row inside it that hold row `row`.
    #[must_use]
    pub fn tile_of_row(&self, row: usize) -> (usize, usize) {
        (row / self.rows_per_tile(), row % self.rows_per_tile())
    }

    /// Bytes of tile `i`, decompressed.
    #[must_use]
    pub fn tile_raw_bytes(&self, i: usize) -> usize {
        self.bytes_of_rows(self.tile_rows(i).len())
    }

    /// Tiles that `n` rows take.
    #[must_use]
    pub fn expected_tiles(&self) -> usize {
        self.n.div_ceil(self.rows_per_tile())
    }

    /// Bytes of the whole tensor, decompressed: all tiles, one after another.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.bytes_of_rows(self.n)
    }

    fn bytes_of_rows(&self, rows: usize) -> usize {
        match self.kind {
            TensorKind::Panels { format } => layout::panels(rows) * layout::panel_layout(format, self.k).bytes,
            TensorKind::Vector => rows * 4,
            TensorKind::RowsF16 => rows * self.k * 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_once() {
        for format in WeightFormat::ALL {
            for (n, k) in [(1, 1), (16, 32), (17, 31), (1000, 100), (5000, 4096), (40, 70_000)] {
                let entry = TensorEntry::new(TensorName::Embed, TensorKind::Panels { format }, n, k, 0);
                let tiles = entry.expected_tiles();
                let rows: Vec<usize> = (0..tiles).flat_map(|i| entry.tile_rows(i)).collect();
                assert_eq!(rows, (0..n).collect::<Vec<_>>());
                assert_eq!((0..tiles).map(|i| entry.tile_raw_bytes(i)).sum::<usize>(), entry.raw_bytes());
                assert!(entry.tile_rows(tiles).is_empty() && entry.tile_rows(usize::MAX).is_empty());
                let (tile, inside) = entry.tile_of_row(n - 1);
                assert_eq!(entry.tile_rows(tile).start + inside, n - 1);
            }
        }
    }

    #[test]
    fn entries_are_flat_json() {
        let entry =
            TensorEntry::new("layers.3.qkv".parse().unwrap(), TensorKind::Panels { format: WeightFormat::Q4 }, 5, 6, 7);
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            json,
            r#"{"name":"layers.3.qkv","kind":"panels","format":"q4","n":5,"k":6,"first_tile":7,"tiles":0}"#
        );
        assert_eq!(serde_json::from_str::<TensorEntry>(&json).unwrap(), entry);
    }
}
