//! Writing a packed file, tensor by tensor, in bounded memory: two tiles of float rows per thread and nothing else.
//!
//! ```text
//! create -> { begin -> push_rows* | push_codes* -> end  |  vector  |  rows_f16  |  copy }* -> finish
//! ```
//!
//! The bytes of the file depend on the calls, the zstd level and the zstd version, not on the number of threads. After any
//! error the writer only reports that it failed; dropping it removes the temporary file.

use super::{
    PackedError, PackedFile, PackedSummary, check, codec,
    codec::EncodedTile,
    encode,
    index::{Index, TensorEntry, TensorKind},
    wire::{self, Header, RECORD_BYTES, TileRecord},
};
use crate::{
    Calibration, DecoderConfig, TensorName, TokenizerData, WeightFormat,
    output::{OutputFile, ReadFiles},
    quant::{Q4sGroup, QuantRow},
};
use std::{collections::HashSet, path::Path};
use xxhash_rust::xxh3::xxh3_64;

/// A raw tile can be mapped and read in place: it starts on a cache line.
pub(crate) const RAW_ALIGN_BYTES: u64 = 64;
/// A tensor with raw tiles starts on a page of any size in use.
pub(crate) const SEGMENT_ALIGN_BYTES: u64 = 16 * 1024;
/// Tensors smaller than this are not worth a page boundary.
pub(crate) const SEGMENT_MIN_BYTES: usize = 64 * 1024;
/// Stored bytes of a tensor that are held back until it is known whether any tile is raw.
const HELD_BYTES: usize = 1 << 20;
/// Indexes smaller than this stay plain JSON, which can be read with any pager.
const INDEX_PLAIN_BYTES: usize = 4096;

/// How a file is written.
#[derive(Clone, Debug)]
pub struct PackedOptions {
    /// Level of every zstd frame, −7 to 22.
    pub zstd_level: i32,
    /// A tensor's first tile is stored raw where compression saves less than this, in percent; later tiles follow it
    /// unless that would be a clear loss, so that tensors near the limit are not a mixture. Above 100 nothing is
    /// compressed.
    pub min_gain_percent: u8,
    /// Threads that quantise and compress, 1 to 64.
    pub threads: usize,
    /// Who wrote the file: name and version of the program.
    pub producer: String,
}

impl Default for PackedOptions {
    /// Level 3, 5 %, as many threads as the machine has (at most 8), this crate's version.
    fn default() -> Self {
        Self {
            zstd_level: 3,
            min_gain_percent: 5,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            producer: concat!("coexec ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Rows of the open tensor that do not fill a batch yet.
enum Pending {
    Floats(Vec<f32>),
    Codes(Vec<QuantRow>),
}

/// The tensor between `begin` and `end`.
struct Open {
    entry: TensorEntry,
    /// Rows that came so far.
    rows: usize,
    pending: Pending,
    /// How the first tile is stored, once it came.
    first: Option<wire::Codec>,
    /// Tiles that wait until the alignment of the segment is known; `None` once it is.
    held: Option<Vec<EncodedTile>>,
    held_bytes: usize,
}

/// Writes a packed file.
pub struct PackedWriter {
    out: OutputFile,
    options: PackedOptions,
    label: String,
    entries: Vec<TensorEntry>,
    names: HashSet<TensorName>,
    tiles: Vec<TileRecord>,
    open: Option<Open>,
    failed: bool,
}

impl PackedWriter {
    /// Starts a file at `path`, where nothing stands before [`Self::finish`].
    ///
    /// # Errors
    /// Those of [`OutputFile::create`]; when an option is out of range.
    pub fn create(path: &Path, options: PackedOptions) -> Result<Self, PackedError> {
        Self::new(OutputFile::create(path, &ReadFiles::none())?, options)
    }

    /// Starts a file whose place was claimed.
    ///
    /// # Errors
    /// When an option is out of range.
    pub fn new(mut out: OutputFile, options: PackedOptions) -> Result<Self, PackedError> {
        let label = out.path().display().to_string();
        let bad = |reason| Err(PackedError::Writer { file: label.clone(), reason });
        if !(-7..=22).contains(&options.zstd_level) {
            return bad(format!("zstd level {} is not −7 to 22", options.zstd_level));
        }
        if !(1..=64).contains(&options.threads) {
            return bad(format!("{} threads are not 1 to 64", options.threads));
        }
        // The header's place; zeros are no magic, so an unfinished file is never taken for a finished one.
        out.put(&[0; wire::HEADER_BYTES])?;
        Ok(Self {
            out,
            options,
            label,
            entries: Vec::new(),
            names: HashSet::new(),
            tiles: Vec::new(),
            open: None,
            failed: false,
        })
    }

    /// Starts the tensor `name`: `n` rows of `k` weights, stored in panels of `format`.
    ///
    /// # Errors
    /// When another tensor is open, the name was used, or the shape is out of bounds.
    pub fn begin(&mut self, name: TensorName, format: WeightFormat, n: usize, k: usize) -> Result<(), PackedError> {
        self.guarded(|w| w.begin_kind(name, TensorKind::Panels { format }, n, k))
    }

    /// Adds rows to the open tensor: row-major, any whole number of rows.
    ///
    /// # Errors
    /// When no tensor is open, the length is no multiple of `k`, there are more than `n` rows, a value is not finite or
    /// too large for the format, or the file cannot be written.
    pub fn push_rows(&mut self, rows: &[f32]) -> Result<(), PackedError> {
        self.guarded(|w| w.push_float_rows(rows))
    }

    /// Adds rows of GGUF `Q4_0` groups to the open `q4s` tensor; scales and codes are stored bit for bit.
    ///
    /// # Errors
    /// Those of [`Self::push_codes`].
    pub fn push_q4_0_rows(&mut self, rows: &[Vec<Q4sGroup>]) -> Result<(), PackedError> {
        self.guarded(|w| {
            w.push_code_rows(WeightFormat::Q4s, rows.iter().map(|row| QuantRow::Q4s(row.clone())).collect())
        })
    }

    /// Adds rows of codes and scales to the open tensor, which has their format; they are stored bit for bit.
    ///
    /// # Errors
    /// When no tensor of their format is open, it already got float rows, a row has another number of groups or codes than
    /// `k` asks for, a code or a scale is out of range, there are more than `n` rows, or the file cannot be written.
    pub fn push_codes(&mut self, rows: Vec<QuantRow>) -> Result<(), PackedError> {
        let Some(format) = rows.first().map(QuantRow::format) else { return Ok(()) };
        self.guarded(|w| w.push_code_rows(format, rows))
    }

    /// Ends the open tensor. The last panel is padded with zero rows.
    ///
    /// # Errors
    /// When no tensor is open, fewer than `n` rows came, or the file cannot be written.
    pub fn end(&mut self) -> Result<(), PackedError> {
        self.guarded(Self::end_open)
    }

    /// Writes a vector of floats.
    ///
    /// # Errors
    /// As [`Self::begin`]; when a value is not finite; when the file cannot be written.
    pub fn vector(&mut self, name: TensorName, values: &[f32]) -> Result<(), PackedError> {
        self.guarded(|w| {
            w.begin_kind(name, TensorKind::Vector, values.len(), 1)?;
            w.push_float_rows(values)?;
            w.end_open()
        })
    }

    /// Writes `hot` rows of `n` floats as f16: the rows of a linear's hot channels, `values` is `[hot, n]`.
    ///
    /// # Errors
    /// As [`Self::begin`]; when `values` has another length, or a value is not finite in f16; when the file cannot be
    /// written.
    pub fn rows_f16(&mut self, name: TensorName, hot: usize, n: usize, values: &[f32]) -> Result<(), PackedError> {
        self.guarded(|w| {
            w.begin_kind(name, TensorKind::RowsF16, hot, n)?;
            w.push_float_rows(values)?;
            w.end_open()
        })
    }

    /// Copies a tensor of another packed file as it is stored, checking every tile on the way.
    ///
    /// # Errors
    /// As [`Self::begin`]; when a tile of the other file is damaged; when the file cannot be written.
    pub fn copy(&mut self, from: &PackedFile, entry: &TensorEntry) -> Result<(), PackedError> {
        self.guarded(|w| {
            w.begin_kind(entry.name, entry.kind, entry.n, entry.k)?;
            for i in 0..entry.tiles {
                let tile = from.tile(entry, i)?;
                from.verify_tile(entry, i)?;
                let stored = tile.stored().to_vec();
                w.take_tile(EncodedTile {
                    codec: tile.codec(),
                    stored,
                    raw_bytes: tile.raw_bytes,
                    checksum: tile.checksum,
                })?;
            }
            if let Some(open) = &mut w.open {
                open.rows = entry.n;
            }
            w.end_open()
        })
    }

    /// Writes index and header, checks the whole file as a reader would, syncs it and gives it its name.
    ///
    /// # Errors
    /// When a tensor is open; when tensors, configuration and calibration do not fit each other; when the file cannot be
    /// written, synced or renamed. The path is then left as it was.
    pub fn finish(
        mut self,
        config: &DecoderConfig,
        tokenizer: &TokenizerData,
        calibration: Option<&Calibration>,
    ) -> Result<PackedSummary, PackedError> {
        if self.failed || self.open.is_some() {
            return Err(self.misuse(if self.failed { "finish after an error" } else { "finish before end" }));
        }
        let index = Index {
            producer: std::mem::take(&mut self.options.producer),
            config: config.clone(),
            tokenizer: tokenizer.clone(),
            calibration: calibration.cloned(),
            tensors: std::mem::take(&mut self.entries),
        };
        // Before serialising: JSON has no NaN, and a message about `null` would help nobody.
        check::index(&self.label, &index, &self.tiles, self.out.at_bytes())?;

        self.out.align(RAW_ALIGN_BYTES)?;
        let tiles_offset = self.out.at_bytes();
        let table: Vec<u8> = self.tiles.iter().flat_map(TileRecord::encode).collect();
        debug_assert_eq!(table.len(), self.tiles.len() * RECORD_BYTES);
        self.out.put(&table)?;

        let index_offset = self.out.at_bytes();
        let json = serde_json::to_vec(&index)
            .map_err(|e| PackedError::Index { file: self.label.clone(), reason: e.to_string() })?;
        if json.len() as u64 > wire::MAX_INDEX_BYTES {
            let reason = format!("it has {} bytes, at most {} are allowed", json.len(), wire::MAX_INDEX_BYTES);
            return Err(PackedError::Index { file: self.label.clone(), reason });
        }
        let frame = if json.len() >= INDEX_PLAIN_BYTES {
            let frame = codec::compress(&json, self.options.zstd_level)
                .map_err(|e| PackedError::io(self.out.path(), "compress the index of", e))?;
            Some(frame).filter(|frame| codec::worthwhile(json.len(), frame.len(), 5))
        } else {
            None
        };
        let stored = frame.as_ref().unwrap_or(&json);
        self.out.put(stored)?;

        let header = Header {
            flags: if frame.is_some() { wire::FLAG_INDEX_ZSTD } else { 0 },
            layout: wire::layout_field(),
            file_bytes: self.out.at_bytes(),
            index_offset,
            index_stored_bytes: stored.len() as u64,
            index_raw_bytes: json.len() as u64,
            tiles_offset,
            tile_count: self.tiles.len() as u64,
            index_checksum: xxh3_64(stored),
            tiles_checksum: xxh3_64(&table),
        };
        let written = self.out.seal(&header.encode())?;
        let summary = PackedFile::open_file(&written, self.out.path())?.summary();
        let Self { out, .. } = self;
        out.finish()?;
        tracing::debug!(path = %summary.path.display(), bytes = summary.file_bytes, "packed file written");
        Ok(summary)
    }

    /// Runs one call; after an error every later one is refused.
    fn guarded<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, PackedError>) -> Result<T, PackedError> {
        if self.failed {
            return Err(self.misuse("called again after an error"));
        }
        let result = call(self);
        self.failed = result.is_err();
        result
    }

    fn misuse(&self, reason: &str) -> PackedError {
        PackedError::Writer { file: self.label.clone(), reason: reason.to_owned() }
    }

    fn begin_kind(&mut self, name: TensorName, kind: TensorKind, n: usize, k: usize) -> Result<(), PackedError> {
        if let Some(open) = &self.open {
            return Err(self.misuse(&format!("begin of `{name}` before the end of `{}`", open.entry.name)));
        }
        let entry = TensorEntry::new(name, kind, n, k, self.tiles.len());
        check::geometry(&self.label, &entry)?;
        if !self.names.insert(name) {
            return Err(self.misuse(&format!("`{name}` is written twice")));
        }
        self.open = Some(Open {
            entry,
            rows: 0,
            pending: Pending::Floats(Vec::new()),
            first: None,
            held: Some(Vec::new()),
            held_bytes: 0,
        });
        Ok(())
    }

    /// Counts rows that come; the open tensor must take them.
    fn count_rows(&mut self, rows: usize) -> Result<(), PackedError> {
        let Some(Open { entry, rows: have, .. }) = &mut self.open else {
            return Err(self.misuse("rows without begin"));
        };
        if rows > entry.n - *have {
            let reason = format!("`{}` has {} rows, got {have} and {rows} more", entry.name, entry.n);
            return Err(self.misuse(&reason));
        }
        *have += rows;
        Ok(())
    }

    fn push_float_rows(&mut self, mut rows: &[f32]) -> Result<(), PackedError> {
        let Some(Open { entry, rows: first_row, .. }) = &self.open else {
            return Err(self.misuse("rows without begin"));
        };
        let (entry, first_row, k) = (entry.clone(), *first_row, entry.k);
        if !rows.len().is_multiple_of(k) {
            let reason = format!("got {} values, which is no whole number of rows of {k}", rows.len());
            return Err(PackedError::Tensor { file: self.label.clone(), tensor: entry.name, reason });
        }
        let limit = encode::largest(entry.kind);
        if let Some(at) = rows.iter().position(|v| v.is_nan() || v.abs() > limit) {
            let (row, column) = (first_row + at / k, at % k);
            let reason = format!("holds {} at row {row}, column {column}; {} allows ±{limit}", rows[at], entry.kind);
            return Err(PackedError::Tensor { file: self.label.clone(), tensor: entry.name, reason });
        }
        self.count_rows(rows.len() / k)?;
        let tile_elems = entry.rows_per_tile().saturating_mul(k);
        while !rows.is_empty() {
            let batch_elems = tile_elems.saturating_mul(self.options.threads);
            let Some(Open { pending: Pending::Floats(pending), .. }) = &mut self.open else {
                return Err(self.misuse("float rows after rows of codes"));
            };
            let now = (batch_elems - pending.len()).min(rows.len());
            pending.extend_from_slice(&rows[..now]);
            rows = &rows[now..];
            if pending.len() == batch_elems {
                self.encode_floats()?;
            }
        }
        Ok(())
    }

    /// Packs and compresses all pending float rows, a tile per thread at a time.
    fn encode_floats(&mut self) -> Result<(), PackedError> {
        let Some(Open { entry, pending: Pending::Floats(pending), first, .. }) = &mut self.open else { return Ok(()) };
        let (entry, mut first) = (entry.clone(), *first);
        let mut rows = std::mem::take(pending);
        let (level, limit) = (self.options.zstd_level, self.options.min_gain_percent);
        let tile_elems = entry.rows_per_tile().saturating_mul(entry.k);
        let chunks: Vec<&[f32]> = rows.chunks(tile_elems).collect();
        let mut left = chunks.as_slice();
        while !left.is_empty() {
            // The first tile alone: how the others are stored depends on it, and not on the number of threads.
            let batch_tiles = if first.is_none() { 1 } else { self.options.threads.min(left.len()) };
            let (batch, rest) = left.split_at(batch_tiles);
            left = rest;
            let gain = codec::gain_after(first, limit);
            for tile in encode::float_tiles(&entry, batch, level, gain) {
                let tile = tile.map_err(|e| PackedError::io(self.out.path(), "compress a tile of", e))?;
                first = first.or(Some(tile.codec));
                self.take_tile(tile)?;
            }
        }
        rows.clear(); // its memory is used again
        if let Some(Open { pending: Pending::Floats(pending), .. }) = &mut self.open {
            *pending = rows;
        }
        Ok(())
    }

    fn push_code_rows(&mut self, format: WeightFormat, rows: Vec<QuantRow>) -> Result<(), PackedError> {
        let Some(Open { entry, rows: first_row, pending, .. }) = &mut self.open else {
            return Err(self.misuse("rows without begin"));
        };
        if let Pending::Floats(floats) = pending
            && floats.is_empty()
            && *first_row == 0
        {
            *pending = Pending::Codes(Vec::new());
        }
        let (entry, first_row) = (entry.clone(), *first_row);
        if !matches!(pending, Pending::Codes(_)) || entry.format() != Some(format) {
            let reason = format!("rows of {format} codes for `{}`, which is {} or got floats", entry.name, entry.kind);
            return Err(self.misuse(&reason));
        }
        if let Some(i) = rows.iter().position(|row| row.format() != format || !row.fits(entry.k)) {
            let reason = format!(
                "row {}: needs finite scales and codes in range of {format} for {} inputs",
                first_row + i,
                entry.k
            );
            return Err(PackedError::Tensor { file: self.label.clone(), tensor: entry.name, reason });
        }
        self.count_rows(rows.len())?;
        let tile_rows = entry.rows_per_tile();
        for row in rows {
            let Some(Open { pending: Pending::Codes(pending), .. }) = &mut self.open else { return Ok(()) };
            pending.push(row);
            if pending.len() == tile_rows {
                self.encode_codes()?;
            }
        }
        Ok(())
    }

    /// Packs the pending rows of codes, at most one tile of them.
    fn encode_codes(&mut self) -> Result<(), PackedError> {
        let Some(Open { entry, pending: Pending::Codes(pending), first, .. }) = &mut self.open else { return Ok(()) };
        let gain = codec::gain_after(*first, self.options.min_gain_percent);
        let (rows, k) = (std::mem::take(pending), entry.k);
        let tile = encode::code_tile(&rows, k, self.options.zstd_level, gain)
            .map_err(|e| PackedError::io(self.out.path(), "compress a tile of", e))?;
        self.take_tile(tile)
    }

    /// Takes the next tile of the open tensor. The first tiles wait, because the segment's alignment depends on whether
    /// any tile is raw; a tensor too large to wait for is aligned anyway.
    fn take_tile(&mut self, tile: EncodedTile) -> Result<(), PackedError> {
        let Some(open) = &mut self.open else { return Err(self.misuse("tile without begin")) };
        open.first = open.first.or(Some(tile.codec));
        let Some(held) = &mut open.held else { return self.write_tile(&tile) };
        let raw = tile.codec == wire::Codec::Raw;
        open.held_bytes += tile.stored.len();
        held.push(tile);
        let large = open.entry.raw_bytes() >= SEGMENT_MIN_BYTES && open.entry.format().is_some();
        if large && (raw || open.held_bytes >= HELD_BYTES) { self.release_tiles(SEGMENT_ALIGN_BYTES) } else { Ok(()) }
    }

    fn release_tiles(&mut self, align_bytes: u64) -> Result<(), PackedError> {
        let Some(held) = self.open.as_mut().and_then(|open| open.held.take()) else { return Ok(()) };
        self.out.align(align_bytes)?;
        held.iter().try_for_each(|tile| self.write_tile(tile))
    }

    fn write_tile(&mut self, tile: &EncodedTile) -> Result<(), PackedError> {
        if tile.codec == wire::Codec::Raw {
            self.out.align(RAW_ALIGN_BYTES)?;
        }
        let offset = self.out.at_bytes();
        self.out.put(&tile.stored)?;
        // Both fit: a tile has at most MAX_TILE_BYTES, and is never stored longer than it is.
        let (stored_bytes, raw_bytes) = (tile.stored.len() as u32, tile.raw_bytes as u32);
        self.tiles.push(TileRecord { offset, stored_bytes, raw_bytes, checksum: tile.checksum, codec: tile.codec });
        Ok(())
    }

    fn end_open(&mut self) -> Result<(), PackedError> {
        let Some(open) = &self.open else { return Err(self.misuse("end without begin")) };
        if open.rows != open.entry.n {
            return Err(
                self.misuse(&format!("end of `{}` after {} of {} rows", open.entry.name, open.rows, open.entry.n))
            );
        }
        match open.pending {
            Pending::Floats(_) => self.encode_floats()?,
            Pending::Codes(ref rows) if rows.is_empty() => {}
            Pending::Codes(_) => self.encode_codes()?,
        }
        self.release_tiles(1)?;
        if let Some(Open { mut entry, .. }) = self.open.take() {
            entry.tiles = self.tiles.len() - entry.first_tile;
            self.entries.push(entry);
        }
        Ok(())
    }
}

impl std::fmt::Debug for PackedWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWriter({}, {} tensors)", self.label, self.entries.len())
    }
}
