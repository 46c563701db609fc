//! Reading a packed file: opened in milliseconds, every tile checked when it is read.

use super::{
    PackedError, check, codec,
    index::{Index, TensorEntry, TensorKind},
    wire::{self, Codec, FLAG_INDEX_ZSTD, Header, MAX_INDEX_BYTES, MAX_RATIO, RECORD_BYTES, TileRecord},
};
use crate::{Calibration, DecoderConfig, TensorName, TokenizerData, align::AlignedBytes, memory, mmap::Mapping};
use half::f16;
use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};
use std::{fs::File, io};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Where the bytes of a file are.
enum Storage {
    Mapped(Mapping),
    Static(&'static [u8]),
    Owned(AlignedBytes),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A packed file, open for reading. Immutable and shareable between threads.
pub struct PackedFile {
    storage: Storage,
    path: Option<PathBuf>,
    label: String,
    header: Header,
    index: Index,
    tiles: Vec<TileRecord>,
    by_name: HashMap<TensorName, usize>,
    content_hash: u64,
}

/// A tile as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileData<'a> {
    /// The bytes themselves.
    Raw(&'a [u8]),
    /// One zstd frame.
    Zstd(&'a [u8]),
}

/// A tile: its stored bytes and what they must decode to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileRef<'a> {
    /// The stored bytes.
    pub data: TileData<'a>,
    /// Length of the decoded tile.
    pub raw_bytes: usize,
    /// xxh3-64 of the decoded tile.
    pub checksum: u64,
}

impl<'a> TileRef<'a> {
    /// The stored bytes, whatever their encoding.
    #[must_use]
    pub fn stored(&self) -> &'a [u8] {
        match self.data {
            TileData::Raw(bytes) | TileData::Zstd(bytes) => bytes,
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        match self.data {
            TileData::Raw(_) => Codec::Raw,
            TileData::Zstd(_) => Codec::Zstd,
        }
    }

    /// Decodes the tile into `out`, which must be `raw_bytes` long, and compares the checksum. Needs no file: stored
    /// bytes may come from a copy ([`TileData`] of anonymous memory, a read from flash).
    ///
    /// # Errors
    /// The reason, when `out` has another length or the bytes are damaged. `out` then holds anything.
    pub fn decode_into(&self, out: &mut [u8]) -> Result<(), String> {
        if out.len() != self.raw_bytes {
            return Err(format!("the buffer has {} bytes, the tile {}", out.len(), self.raw_bytes));
        }
        match self.data {
            TileData::Raw(bytes) if bytes.len() == out.len() => out.copy_from_slice(bytes),
            TileData::Raw(bytes) => return Err(format!("is raw, but has {} bytes", bytes.len())),
            TileData::Zstd(frame) => codec::decompress(frame, out)?,
        }
        codec::verify(out, self.checksum)
    }
}

impl PackedFile {
    /// Maps the file at `path` and checks header, index and tile table. No tile is read.
    ///
    /// The file must not be changed while it is open ([`crate::mmap`]).
    ///
    /// # Errors
    /// When the file cannot be mapped, is no packed file of this version and layout, or is damaged or inconsistent in
    /// anything but the contents of tiles.
    pub fn open(path: &Path) -> Result<Self, PackedError> {
        Self::of_mapping(path, Mapping::open(path))
    }

    /// The open file that is going to be `path`.
    pub(crate) fn open_file(file: &File, path: &Path) -> Result<Self, PackedError> {
        Self::of_mapping(path, Mapping::of(file))
    }

    fn of_mapping(path: &Path, map: io::Result<Mapping>) -> Result<Self, PackedError> {
        let map = map.map_err(|e| PackedError::io(path, "open", e))?;
        let mut file = Self::new(Storage::Mapped(map), path.display().to_string())?;
        file.path = Some(path.to_owned());
        Ok(file)
    }

    /// Opens a file that is part of the program (`include_bytes!`). Where it is not aligned to 64 bytes, raw tiles are
    /// copied on use instead of read in place.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, PackedError> {
        Self::new(Storage::Static(bytes), "embedded model".to_owned())
    }

    /// Opens a file that was read into memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: AlignedBytes) -> Result<Self, PackedError> {
        Self::new(Storage::Owned(bytes), "model in memory".to_owned())
    }

    fn new(storage: Storage, label: String) -> Result<Self, PackedError> {
        let bytes = storage.bytes();
        let header = Header::decode(&label, bytes)?;
        let found_bytes = bytes.len() as u64;
        if found_bytes != header.file_bytes {
            let (file, expected_bytes) = (label, header.file_bytes);
            return Err(if found_bytes < expected_bytes {
                PackedError::Truncated { file, expected_bytes, found_bytes }
            } else {
                PackedError::TrailingBytes { file, expected_bytes, found_bytes }
            });
        }
        let tiles = read_tiles(&label, &header, bytes)?;
        let index = read_index(&label, &header, bytes)?;
        check::index(&label, &index, &tiles, found_bytes)?;
        let by_name = index.tensors.iter().enumerate().map(|(i, entry)| (entry.name, i)).collect();
        let content_hash = content_hash(&label, &header, &index, &tiles)?;
        Ok(Self { storage, path: None, label, header, index, tiles, by_name, content_hash })
    }

    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.index.config
    }

    /// The model's tokenizer and chat templates.
    #[must_use]
    pub fn tokenizer(&self) -> &TokenizerData {
        &self.index.tokenizer
    }

    /// The model's calibration, once it was calibrated.
    #[must_use]
    pub fn calibration(&self) -> Option<&Calibration> {
        self.index.calibration.as_ref()
    }

    /// Who wrote the file.
    #[must_use]
    pub fn producer(&self) -> &str {
        &self.index.producer
    }

    /// The path, when the file is mapped.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The path, or what stands for it in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All tensors, in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.index.tensors
    }

    /// Whether the file has the tensor.
    #[must_use]
    pub fn has(&self, name: TensorName) -> bool {
        self.by_name.contains_key(&name)
    }

    /// A tensor by name. Every tensor that the configuration implies is there.
    ///
    /// # Errors
    /// When the file has no such tensor.
    pub fn tensor(&self, name: TensorName) -> Result<&TensorEntry, PackedError> {
        self.by_name.get(&name).and_then(|i| self.index.tensors.get(*i)).ok_or_else(|| PackedError::MissingTensor {
            file: self.label.clone(),
            tensor: name,
            reason: "it was asked for",
        })
    }

    /// Tile `i` of a tensor, as stored and unverified.
    ///
    /// # Errors
    /// When the tensor has no such tile (or the entry is of another file).
    pub fn tile(&self, entry: &TensorEntry, i: usize) -> Result<TileRef<'_>, PackedError> {
        let record = self.record(entry, i)?;
        let range = stored_range(record);
        let stored =
            self.storage.bytes().get(range).ok_or_else(|| self.tile_error(entry, i, "lies outside the file".into()))?;
        let data = match record.codec {
            Codec::Raw => TileData::Raw(stored),
            Codec::Zstd => TileData::Zstd(stored),
        };
        Ok(TileRef { data, raw_bytes: record.raw_bytes as usize, checksum: record.checksum })
    }

    /// The place of a tile's stored bytes in the file.
    ///
    /// # Errors
    /// As [`Self::tile`].
    pub fn tile_range_bytes(&self, entry: &TensorEntry, i: usize) -> Result<Range<usize>, PackedError> {
        Ok(stored_range(self.record(entry, i)?))
    }

    /// The place in the file of a whole tensor, when all its tiles are stored raw, one right after another, from a 64-byte
    /// boundary in memory on. Not verified: see [`Self::verify_tile`].
    #[must_use]
    pub fn raw_tensor(&self, entry: &TensorEntry) -> Option<Range<usize>> {
        let start = stored_range(self.record(entry, 0).ok()?).start;
        let mut end = start;
        for i in 0..entry.tiles {
            let record = self.record(entry, i).ok()?;
            let range = stored_range(record);
            if record.codec != Codec::Raw || range.start != end {
                return None;
            }
            end = range.end;
        }
        self.bytes(start..end).filter(|bytes| bytes.as_ptr().addr().is_multiple_of(64)).map(|_| start..end)
    }

    /// A part of the file, as it is stored.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.storage.bytes().get(range)
    }

    /// Decodes tile `i` into `out` ([`TensorEntry::tile_raw_bytes`] long) and verifies it.
    ///
    /// # Errors
    /// When there is no such tile, `out` has another length, or the tile is damaged; `out` then holds anything.
    pub fn read_tile(&self, entry: &TensorEntry, i: usize, out: &mut [u8]) -> Result<(), PackedError> {
        self.tile(entry, i)?.decode_into(out).map_err(|reason| self.tile_error(entry, i, reason))
    }

    /// Verifies tile `i`, decoding it into a scratch buffer if it is compressed.
    ///
    /// # Errors
    /// When there is no such tile or it is damaged.
    pub fn verify_tile(&self, entry: &TensorEntry, i: usize) -> Result<(), PackedError> {
        self.verify_with(entry, i, &mut Vec::new())
    }

    fn verify_with(&self, entry: &TensorEntry, i: usize, scratch: &mut Vec<u8>) -> Result<(), PackedError> {
        let tile = self.tile(entry, i)?;
        let verified = match tile.data {
            TileData::Raw(bytes) => codec::verify(bytes, tile.checksum),
            TileData::Zstd(_) => {
                memory::resize(scratch, tile.raw_bytes, 0, "a tile of weights")?;
                tile.decode_into(scratch)
            }
        };
        verified.map_err(|reason| self.tile_error(entry, i, reason))
    }

    /// Verifies every tile of every tensor.
    ///
    /// # Errors
    /// The first damaged tile.
    pub fn verify_all(&self) -> Result<(), PackedError> {
        self.verify_each(&mut |_, _| {})
    }

    /// [`Self::verify_all`] that tells how many tiles of how many are verified.
    ///
    /// # Errors
    /// The first damaged tile.
    pub fn verify_each(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), PackedError> {
        let total = self.tensors().iter().map(|entry| entry.tiles as u64).sum();
        let (mut scratch, mut done) = (Vec::new(), 0);
        for entry in self.tensors() {
            for i in 0..entry.tiles {
                self.verify_with(entry, i, &mut scratch)?;
                done += 1;
                progress(done, total);
            }
        }
        Ok(())
    }

    /// Reads a whole tensor: all tiles, verified, one after another, so that panel `p` starts at `p` times the size of a
    /// panel.
    ///
    /// # Errors
    /// When a tile is damaged, or the entry is of another file.
    pub fn read_tensor(&self, entry: &TensorEntry) -> Result<AlignedBytes, PackedError> {
        // An entry of this file: its sizes were checked against the tile table, whose length is bounded by the file's.
        let entry = self.tensor(entry.name).ok().filter(|own| *own == entry).ok_or_else(|| PackedError::Tensor {
            file: self.label.clone(),
            tensor: entry.name,
            reason: "is an entry of another file".to_owned(),
        })?;
        let mut out = AlignedBytes::try_zeroed(entry.raw_bytes(), "a tensor's weights")?;
        let mut rest = out.as_mut_slice();
        for i in 0..entry.tiles {
            let (tile, after) = rest.split_at_mut(entry.tile_raw_bytes(i));
            self.read_tile(entry, i, tile)?;
            rest = after;
        }
        Ok(out)
    }

    /// Reads a vector.
    ///
    /// # Errors
    /// When there is no such tensor, it is no vector, or it is damaged.
    pub fn read_vector(&self, name: TensorName) -> Result<Vec<f32>, PackedError> {
        let bytes = self.read_kind(name, TensorKind::Vector)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Reads f16 rows: `(n, k, values)`, values row-major `[n, k]`.
    ///
    /// # Errors
    /// When there is no such tensor, it is of another kind, or it is damaged.
    pub fn read_rows_f16(&self, name: TensorName) -> Result<(usize, usize, Vec<f16>), PackedError> {
        let bytes = self.read_kind(name, TensorKind::RowsF16)?;
        let entry = self.tensor(name)?;
        Ok((entry.n, entry.k, bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect()))
    }

    fn read_kind(&self, name: TensorName, kind: TensorKind) -> Result<AlignedBytes, PackedError> {
        let entry = self.tensor(name)?;
        if entry.kind != kind {
            let reason = format!("is {}, not {kind}", entry.kind);
            return Err(PackedError::Tensor { file: self.label.clone(), tensor: name, reason });
        }
        self.read_tensor(entry)
    }

    /// Identity of the model: configuration, calibration, shapes and checksums of all weights. The same for two files
    /// that differ only in producer, tokenizer, compression or order of tensors. Not cryptographic.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        self.content_hash
    }

    /// Asks the system to read the tensor's stored bytes soon, in the background.
    pub fn will_need(&self, entry: &TensorEntry) {
        if let (Storage::Mapped(map), Some(range)) = (&self.storage, self.segment_range_bytes(entry)) {
            map.will_need(range);
        }
    }

    /// Lets the system drop the tensor's resident pages.
    pub fn release(&self, entry: &TensorEntry) {
        if let (Storage::Mapped(map), Some(range)) = (&self.storage, self.segment_range_bytes(entry)) {
            map.release(range);
        }
    }

    /// From the first to the last stored byte of a tensor; `None` when the entry is of another file.
    #[must_use]
    pub fn segment_range_bytes(&self, entry: &TensorEntry) -> Option<Range<usize>> {
        let records = self.tiles.get(entry.first_tile..entry.first_tile.checked_add(entry.tiles)?)?;
        let start = records.iter().map(|r| stored_range(r).start).min()?;
        let end = records.iter().map(|r| stored_range(r).end).max()?;
        Some(start..end)
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    fn record(&self, entry: &TensorEntry, i: usize) -> Result<&TileRecord, PackedError> {
        let record =
            if i < entry.tiles { entry.first_tile.checked_add(i).and_then(|at| self.tiles.get(at)) } else { None };
        record.ok_or_else(|| self.tile_error(entry, i, format!("the tensor has {} tiles", entry.tiles)))
    }

    fn tile_error(&self, entry: &TensorEntry, tile: usize, reason: String) -> PackedError {
        PackedError::Tile { file: self.label.clone(), tensor: entry.name, tile, reason }
    }
}

impl std::fmt::Debug for PackedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedFile({}, {} tensors, {:016x})", self.label, self.tensors().len(), self.content_hash)
    }
}

/// The stored bytes of a record; the casts hold because the record was checked to lie in the file, which is in memory.
fn stored_range(record: &TileRecord) -> Range<usize> {
    let start = record.offset as usize;
    start..start + record.stored_bytes as usize
}

/// `len` bytes at `offset`, when they lie behind the header and in the file.
fn section(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    let start = usize::try_from(offset).ok().filter(|start| *start >= wire::HEADER_BYTES)?;
    bytes.get(start..end)
}

fn read_tiles(file: &str, header: &Header, bytes: &[u8]) -> Result<Vec<TileRecord>, PackedError> {
    let header_error = |field, reason| PackedError::Header { file: file.to_owned(), field, reason };
    let table = header
        .tile_count
        .checked_mul(RECORD_BYTES as u64)
        .and_then(|len| section(bytes, header.tiles_offset, len))
        .ok_or_else(|| {
            let reason = format!("puts {} tiles at {}, outside the file", header.tile_count, header.tiles_offset);
            header_error("tiles_offset", reason)
        })?;
    if xxh3_64(table) != header.tiles_checksum {
        return Err(PackedError::Checksum { file: file.to_owned(), part: "tile table" });
    }
    let record = |(i, bytes)| {
        TileRecord::decode(bytes).map_err(|reason| header_error("tile table", format!("record {i} {reason}")))
    };
    table.chunks_exact(RECORD_BYTES).enumerate().map(record).collect()
}

fn read_index(file: &str, header: &Header, bytes: &[u8]) -> Result<Index, PackedError> {
    let (stored_bytes, raw_bytes) = (header.index_stored_bytes, header.index_raw_bytes);
    let stored = section(bytes, header.index_offset, stored_bytes).ok_or_else(|| PackedError::Header {
        file: file.to_owned(),
        field: "index_offset",
        reason: format!("puts {stored_bytes} bytes at {}, outside the file", header.index_offset),
    })?;
    if xxh3_64(stored) != header.index_checksum {
        return Err(PackedError::Checksum { file: file.to_owned(), part: "index" });
    }
    let unreadable = |reason: String| PackedError::Index { file: file.to_owned(), reason };
    // The parser quotes what it did not expect, which may be long.
    let parse =
        |json: &[u8]| serde_json::from_slice(json).map_err(|e| unreadable(e.to_string().chars().take(300).collect()));
    if header.flags & FLAG_INDEX_ZSTD == 0 {
        if raw_bytes != stored_bytes {
            return Err(unreadable(format!("it is raw, but stores {stored_bytes} of {raw_bytes} bytes")));
        }
        return parse(stored);
    }
    if raw_bytes > MAX_INDEX_BYTES || raw_bytes > stored_bytes.saturating_mul(MAX_RATIO) {
        return Err(unreadable(format!("it claims that {stored_bytes} bytes decompress to {raw_bytes}")));
    }
    let mut json = memory::filled(raw_bytes as usize, 0, "the index of a packed file")?;
    codec::decompress(stored, &mut json).map_err(unreadable)?;
    parse(&json)
}

/// See [`PackedFile::content_hash`].
fn content_hash(file: &str, header: &Header, index: &Index, tiles: &[TileRecord]) -> Result<u64, PackedError> {
    let unreadable = |e: serde_json::Error| PackedError::Index { file: file.to_owned(), reason: e.to_string() };
    let mut hash = Xxh3::new();
    hash.update(&header.layout);
    hash.update(&serde_json::to_vec(&index.config).map_err(unreadable)?);
    hash.update(&serde_json::to_vec(&index.calibration).map_err(unreadable)?);
    let mut entries: Vec<&TensorEntry> = index.tensors.iter().collect();
    entries.sort_by_key(|entry| entry.name);
    for entry in entries {
        hash.update(format!("\n{} {} {} {}\n", entry.name, entry.kind, entry.n, entry.k).as_bytes());
        for record in tiles.iter().skip(entry.first_tile).take(entry.tiles) {
            hash.update(&record.checksum.to_le_bytes());
        }
    }
    Ok(hash.digest())
}
