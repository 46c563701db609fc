//! The packed `.coexec` file: one model, quantised, in the layout that the kernels read, in tiles that are compressed one
//! by one.
//!
//! ```text
//! header | segments: tiles of each tensor | tile table | index (JSON: configuration, tokenizer, calibration, tensors)
//! ```
//!
//! [`PackedWriter`] is used by import and calibration, [`PackedFile`] by everything that runs a model. Invariants of an
//! open [`PackedFile`]: every tensor that the configuration implies is there in the right shape, and every tile lies in
//! the file and has the size that its shape asks for; so no arithmetic on it can overflow. Contents of tiles are verified
//! when they are read. The reader takes any bytes without panic, and never allocates more than a fixed multiple (1024) of
//! the file's size. Checksums find accidents, not attackers. `docs/file-format.md` is the specification.

mod check;
mod codec;
mod encode;
mod error;
mod file;
mod index;
mod summary;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use error::PackedError;
pub use file::{PackedFile, TileData, TileRef};
pub use index::{TensorEntry, TensorKind};
pub use summary::{KindTotal, PackedSummary, TensorSummary};
pub use wire::FORMAT_VERSION;
pub use writer::{PackedOptions, PackedWriter};

use crate::{DecoderConfig, align::AlignedBytes};

/// Whether a configuration describes a model that can be packed and run: the same bounds that a reader demands, so that
/// an importer can refuse a model before it reads gigabytes of it. `file` names the source in the error.
///
/// # Errors
/// The first field that is out of bounds.
pub fn check_config(file: &str, config: &DecoderConfig) -> Result<(), PackedError> {
    check::config(file, config)
}

/// Entry point of fuzz targets: opens any bytes and reads everything that opens, as they are and with their checksums
/// repaired, so that a fuzzer reaches the checks behind them.
pub fn fuzz_open(bytes: &[u8]) {
    let mut copy = AlignedBytes::copy_of(bytes);
    read_everything(copy.clone());
    wire::reseal(copy.as_mut_slice());
    read_everything(copy);
}

/// Makes a packed file out of the parts that a fuzzer changes, with a header and checksums that are right: the lengths of the
/// first two (u32), the index as JSON, the tile table, stored tiles. Tiles lie behind the header.
#[must_use]
pub fn fuzz_file(parts: &[u8]) -> AlignedBytes {
    let length = |at: usize| parts.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let (json, rest) = parts.get(8..).and_then(|rest| rest.split_at_checked(length(0))).unwrap_or_default();
    let table_bytes = length(4).min(rest.len()) / wire::RECORD_BYTES * wire::RECORD_BYTES;
    let (table, tiles) = rest.split_at(table_bytes);
    let (tiles_offset, index_offset) = (wire::HEADER_BYTES + tiles.len(), wire::HEADER_BYTES + rest.len());
    let header = wire::Header {
        flags: 0,
        layout: wire::layout_field(),
        file_bytes: (index_offset + json.len()) as u64,
        index_offset: index_offset as u64,
        index_stored_bytes: json.len() as u64,
        index_raw_bytes: json.len() as u64,
        tiles_offset: tiles_offset as u64,
        tile_count: (table_bytes / wire::RECORD_BYTES) as u64,
        index_checksum: xxhash_rust::xxh3::xxh3_64(json),
        tiles_checksum: xxhash_rust::xxh3::xxh3_64(table),
    };
    AlignedBytes::copy_of(&[&header.encode()[..], tiles, table, json].concat())
}

fn read_everything(bytes: AlignedBytes) {
    let Ok(file) = PackedFile::from_bytes(bytes) else { return };
    // Errors are fine, panics are not.
    let _ = file.verify_all();
    let _ = file.summary();
    for entry in file.tensors() {
        let _ = file.raw_tensor(entry).map(|place| file.bytes(place));
        let _ = file.read_tensor(entry);
        let _ = file.read_vector(entry.name);
        let _ = file.read_rows_f16(entry.name);
    }
}
