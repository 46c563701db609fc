//! What a packed file holds, for people: `coexec inspect` and the end of an import.

use super::{PackedFile, TileData, wire};
use crate::{TensorName, layout::LAYOUT_NAME};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

/// Sizes of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSummary {
    /// What it is.
    pub name: TensorName,
    /// How it is stored: a weight format, `vector` or `rows_f16`.
    pub kind: String,
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub k: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// Tiles that are stored raw.
    pub raw_tiles: usize,
    /// Size decompressed.
    pub raw_bytes: u64,
    /// Size in the file, without alignment.
    pub stored_bytes: u64,
}

/// Totals over the tensors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KindTotal {
    /// Number of tensors.
    pub tensors: usize,
    /// Elements: weights without padding.
    pub elems: u64,
    /// Size decompressed.
    pub raw_bytes: u64,
    /// Size in the file, without alignment.
    pub stored_bytes: u64,
}

impl KindTotal {
    /// Stored size as a share of the decompressed size (1 is no gain).
    #[must_use]
    pub fn ratio(&self) -> f64 {
        ratio(self.raw_bytes, self.stored_bytes)
    }
}

impl TensorSummary {
    /// Stored size as a share of the decompressed size (1 is no gain).
    #[must_use]
    pub fn ratio(&self) -> f64 {
        ratio(self.raw_bytes, self.stored_bytes)
    }
}

/// What a packed file holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackedSummary {
    /// The file; empty when it is in memory.
    pub path: PathBuf,
    /// Size of the file.
    pub file_bytes: u64,
    /// Version of the format.
    pub version: u32,
    /// Layout of the panels.
    pub layout: String,
    /// Who wrote it.
    pub producer: String,
    /// [`PackedFile::content_hash`].
    pub content_hash: u64,
    /// Size of the index as stored.
    pub index_bytes: u64,
    /// Size of the tile table.
    pub tile_table_bytes: u64,
    /// Every tensor, in the order of the file.
    pub tensors: Vec<TensorSummary>,
    /// Totals by [`TensorSummary::kind`].
    pub kinds: BTreeMap<String, KindTotal>,
    /// Totals over all tensors.
    pub total: KindTotal,
}

impl PackedFile {
    /// What the file holds. Looks at the tile table only.
    #[must_use]
    pub fn summary(&self) -> PackedSummary {
        let mut tensors = Vec::with_capacity(self.tensors().len());
        let mut kinds = BTreeMap::<String, KindTotal>::new();
        let mut total = KindTotal::default();
        for entry in self.tensors() {
            let (mut raw_tiles, mut stored_bytes) = (0, 0);
            for tile in (0..entry.tiles).filter_map(|i| self.tile(entry, i).ok()) {
                raw_tiles += usize::from(matches!(tile.data, TileData::Raw(_)));
                stored_bytes += tile.stored().len() as u64;
            }
            let tensor = TensorSummary {
                name: entry.name,
                kind: entry.kind.to_string(),
                n: entry.n,
                k: entry.k,
                tiles: entry.tiles,
                raw_tiles,
                raw_bytes: entry.raw_bytes() as u64,
                stored_bytes,
            };
            for sum in [kinds.entry(tensor.kind.clone()).or_default(), &mut total] {
                sum.tensors += 1;
                sum.elems += entry.n as u64 * entry.k as u64;
                sum.raw_bytes += tensor.raw_bytes;
                sum.stored_bytes += stored_bytes;
            }
            tensors.push(tensor);
        }
        let header = self.header();
        PackedSummary {
            path: self.path().map(PathBuf::from).unwrap_or_default(),
            file_bytes: header.file_bytes,
            version: wire::FORMAT_VERSION,
            layout: LAYOUT_NAME.to_owned(),
            producer: self.producer().to_owned(),
            content_hash: self.content_hash(),
            index_bytes: header.index_stored_bytes,
            tile_table_bytes: header.tile_count * wire::RECORD_BYTES as u64,
            tensors,
            kinds,
            total,
        }
    }
}

fn ratio(raw_bytes: u64, stored_bytes: u64) -> f64 {
    if raw_bytes == 0 { 1.0 } else { stored_bytes as f64 / raw_bytes as f64 }
}
