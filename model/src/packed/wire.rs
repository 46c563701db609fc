//! The bytes of the header and the tile table: fixed-size little-endian records, no padding, no pointers.
//!
//! Encoding cannot fail. Decoding checks only what a record can tell about itself; what it says about the rest of the file
//! is `check`'s business. `docs/file-format.md` draws these records byte by byte: change both together.

use super::PackedError;
use crate::layout::LAYOUT_NAME;
use xxhash_rust::xxh3::xxh3_64;

/// First eight bytes. The line end is there so that a text-mode transfer breaks it visibly.
pub(crate) const MAGIC: [u8; 8] = *b"COEXEC\r\n";
/// Version of the format that this build writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Size of the header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Size of a record of the tile table.
pub(crate) const RECORD_BYTES: usize = 32;
/// Room for the layout's name, padded with NUL.
const LAYOUT_NAME_BYTES: usize = 32;
/// Flag: the index is a zstd frame.
pub(crate) const FLAG_INDEX_ZSTD: u32 = 1;
/// Flags that this build understands. All flags are *required*: an unknown one refuses the file.
const KNOWN_FLAGS: u32 = FLAG_INDEX_ZSTD;
/// No frame may decode to more than this many times its size, which bounds memory by the size of the file.
pub(crate) const MAX_RATIO: u64 = 1024;
/// All tiles together may decode to this many times the file's size …
pub(crate) const MAX_EXPANSION: u64 = 16;
/// … and these bytes more, which small models of constants need.
pub(crate) const EXPANSION_ROOM_BYTES: u64 = 128 << 20;
/// Largest decoded index.
pub(crate) const MAX_INDEX_BYTES: u64 = 128 << 20;

const _: () = assert!(LAYOUT_NAME.len() <= LAYOUT_NAME_BYTES);

/// The header of a packed file, without magic, version, size and its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u32,
    pub(crate) layout: [u8; LAYOUT_NAME_BYTES],
    pub(crate) file_bytes: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_stored_bytes: u64,
    pub(crate) index_raw_bytes: u64,
    pub(crate) tiles_offset: u64,
    pub(crate) tile_count: u64,
    pub(crate) index_checksum: u64,
    pub(crate) tiles_checksum: u64,
}

/// This build's layout name, padded.
pub(crate) fn layout_field() -> [u8; LAYOUT_NAME_BYTES] {
    let mut field = [0; LAYOUT_NAME_BYTES];
    field[..LAYOUT_NAME.len()].copy_from_slice(LAYOUT_NAME.as_bytes());
    field
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        out[16..20].copy_from_slice(&self.flags.to_le_bytes());
        // 20..24 reserved, zero.
        out[24..56].copy_from_slice(&self.layout);
        let numbers = [
            self.file_bytes,
            self.index_offset,
            self.index_stored_bytes,
            self.index_raw_bytes,
            self.tiles_offset,
            self.tile_count,
            self.index_checksum,
            self.tiles_checksum,
        ];
        for (i, number) in numbers.iter().enumerate() {
            out[56 + i * 8..64 + i * 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64(&out[..HEADER_BYTES - 8]);
        out[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads and checks the header of `bytes`, the whole file. `file` names it in errors.
    pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<Self, PackedError> {
        let head = &bytes[..bytes.len().min(MAGIC.len())];
        if head != &MAGIC[..head.len()] || head.is_empty() {
            return Err(PackedError::NotPacked { file: file.to_owned(), hint: guess(bytes) });
        }
        let header_error = |field, reason: String| PackedError::Header { file: file.to_owned(), field, reason };
        if bytes.len() < HEADER_BYTES {
            return Err(PackedError::Truncated {
                file: file.to_owned(),
                expected_bytes: HEADER_BYTES as u64,
                found_bytes: bytes.len() as u64,
            });
        }
        // Magic, version and header size keep their places in every version, so a newer file is named as such.
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(PackedError::Version { file: file.to_owned(), found: version, supported: FORMAT_VERSION });
        }
        if u32_at(bytes, 12) as usize != HEADER_BYTES {
            return Err(header_error("header_bytes", format!("is {}, must be {HEADER_BYTES}", u32_at(bytes, 12))));
        }
        if u64_at(bytes, HEADER_BYTES - 8) != xxh3_64(&bytes[..HEADER_BYTES - 8]) {
            return Err(PackedError::Checksum { file: file.to_owned(), part: "header" });
        }
        let (flags, reserved) = (u32_at(bytes, 16), u32_at(bytes, 20));
        if flags & !KNOWN_FLAGS != 0 {
            return Err(header_error("flags", format!("{flags:#x} asks for features that this version does not have")));
        }
        if reserved != 0 {
            return Err(header_error("reserved", format!("is {reserved:#x}, must be 0")));
        }
        let mut layout = [0; LAYOUT_NAME_BYTES];
        layout.copy_from_slice(&bytes[24..56]);
        if layout != layout_field() {
            let found = String::from_utf8_lossy(&layout).trim_end_matches('\0').escape_default().to_string();
            return Err(PackedError::Layout { file: file.to_owned(), found, supported: LAYOUT_NAME });
        }
        let number = |i: usize| u64_at(bytes, 56 + i * 8);
        Ok(Self {
            flags,
            layout,
            file_bytes: number(0),
            index_offset: number(1),
            index_stored_bytes: number(2),
            index_raw_bytes: number(3),
            tiles_offset: number(4),
            tile_count: number(5),
            index_checksum: number(6),
            tiles_checksum: number(7),
        })
    }
}

/// How the bytes of a tile are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw = 0,
    Zstd = 1,
}

/// One record of the tile table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TileRecord {
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    /// xxh3-64 of the raw bytes.
    pub(crate) checksum: u64,
    pub(crate) codec: Codec,
}

impl TileRecord {
    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        out[24..28].copy_from_slice(&(self.codec as u32).to_le_bytes());
        // 28..32 reserved, zero.
        out
    }

    /// Reads a record of exactly [`RECORD_BYTES`]; the reason when it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let codec = match u32_at(bytes, 24) {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            other => return Err(format!("has the unknown codec {other}")),
        };
        let reserved = u32_at(bytes, 28);
        if reserved != 0 {
            return Err(format!("has {reserved:#x} in its reserved field, must be 0"));
        }
        Ok(Self {
            offset: u64_at(bytes, 0),
            stored_bytes: u32_at(bytes, 8),
            raw_bytes: u32_at(bytes, 12),
            checksum: u64_at(bytes, 16),
            codec,
        })
    }
}

/// The u32 at `at`; the caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The u64 at `at`; the caller has checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// What a file that is not ours looks like.
fn guess(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        "the file is empty"
    } else if bytes.starts_with(b"GGUF") {
        "it looks like a GGUF file: import it first"
    } else if bytes.starts_with(b"PK") {
        "it looks like a zip archive or a PyTorch checkpoint: import from safetensors or GGUF instead"
    } else if bytes.get(8) == Some(&b'{') {
        "it looks like a safetensors file: import its directory first"
    } else if bytes.starts_with(b"COEXEC") {
        "its line ends were changed by a text-mode transfer: copy it again in binary mode"
    } else {
        "import the model with this version of coexec first"
    }
}

/// Recomputes the three checksums of a file after it was changed on purpose, so that mutation tests and fuzzers reach the
/// checks behind them. Does nothing to bytes whose header places make no sense.
pub(crate) fn reseal(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let sealed = |offset: u64, len: u64| {
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        bytes.get(start..end).map(xxh3_64)
    };
    let index = sealed(u64_at(bytes, 64), u64_at(bytes, 72));
    let tiles = u64_at(bytes, 96).checked_mul(RECORD_BYTES as u64).and_then(|len| sealed(u64_at(bytes, 88), len));
    for (at, checksum) in [(104, index), (112, tiles)] {
        if let Some(checksum) = checksum {
            bytes[at..at + 8].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let header = xxh3_64(&bytes[..HEADER_BYTES - 8]);
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&header.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let header = Header {
            flags: FLAG_INDEX_ZSTD,
            layout: layout_field(),
            file_bytes: 1,
            index_offset: 2,
            index_stored_bytes: 3,
            index_raw_bytes: 4,
            tiles_offset: 5,
            tile_count: 6,
            index_checksum: 7,
            tiles_checksum: u64::MAX,
        };
        assert_eq!(Header::decode("x", &header.encode()).unwrap(), header);
        for codec in [Codec::Raw, Codec::Zstd] {
            let record = TileRecord { offset: 1 << 40, stored_bytes: u32::MAX, raw_bytes: 3, checksum: 4, codec };
            assert_eq!(TileRecord::decode(&record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn other_files_are_named() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04aaaaaaaa", "zip"),
            (b"\x10\0\0\0\0\0\0\0{\"a\":1}", "safetensors"),
            (b"COEXEC\n........", "text-mode"),
        ] {
            let error = Header::decode("x", bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
