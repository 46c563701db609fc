//! Damaged and hostile bytes: every accident is found, nothing panics.

use super::*;
use crate::packed::{
    TileData, fuzz_open,
    wire::{self, HEADER_BYTES},
};
use proptest::prelude::*;

/// Everything that a user of the file could see.
fn contents(file: &PackedFile) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = file.tensors().iter().map(|e| file.read_tensor(e).unwrap().to_vec()).collect();
    all.push(serde_json::to_vec(&(file.config(), file.tokenizer(), file.calibration(), file.tensors())).unwrap());
    all
}

/// Opens and verifies; what is seen if that succeeds.
fn seen(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PackedError> {
    let file = open_bytes(bytes)?;
    file.verify_all()?;
    Ok(contents(&file))
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let original = odd_bytes(WeightFormat::Q4);
    let expected = seen(&original).unwrap();
    // What may change unnoticed because nobody reads it: padding, and spare bits of zstd frames.
    let file = open_bytes(&original).unwrap();
    let mut spare = vec![true; original.len()];
    let header = wire::Header::decode("x", &original).unwrap();
    spare[..HEADER_BYTES].fill(false);
    spare[header.tiles_offset as usize..].fill(false);
    for (entry, i) in file.tensors().iter().flat_map(|e| (0..e.tiles).map(move |i| (e, i))) {
        if matches!(file.tile(entry, i).unwrap().data, TileData::Raw(_)) {
            spare[file.tile_range_bytes(entry, i).unwrap()].fill(false);
        }
    }
    for at in 0..original.len() {
        for flip in [0xFF, 1 << (at % 8)] {
            let mut bytes = original.clone();
            bytes[at] ^= flip;
            if let Ok(contents) = seen(&bytes) {
                assert!(contents == expected, "byte {at} changes the model unnoticed");
                assert!(spare[at], "byte {at} matters, but its change passes");
            }
        }
    }
}

#[test]
fn every_truncation_and_every_tail_is_an_error() {
    let original = odd_bytes(WeightFormat::Q8);
    for len in 0..original.len() {
        let error = open_bytes(&original[..len]).unwrap_err();
        if len >= HEADER_BYTES {
            assert!(matches!(error, PackedError::Truncated { found_bytes, .. } if found_bytes == len as u64));
        }
    }
    let longer = [original, vec![0]].concat();
    assert!(matches!(open_bytes(&longer), Err(PackedError::TrailingBytes { .. })));
}

/// Applies a change to the index of a good file and repairs all checksums, as a careful forger would.
fn forged(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = odd_bytes(WeightFormat::Q8);
    let header = wire::Header::decode("x", &bytes).unwrap();
    let file = open_bytes(&bytes).unwrap();
    let index = serde_json::json!({
        "producer": file.producer(),
        "config": file.config(),
        "tokenizer": file.tokenizer(),
        "calibration": file.calibration(),
        "tensors": file.tensors(),
    });
    let mut changed = index;
    change(&mut changed);
    let json = serde_json::to_vec(&changed).unwrap();
    let mut out = bytes[..header.index_offset as usize].to_vec();
    out.extend_from_slice(&json);
    let new = wire::Header {
        flags: 0,
        file_bytes: out.len() as u64,
        index_stored_bytes: json.len() as u64,
        index_raw_bytes: json.len() as u64,
        index_checksum: xxhash_rust::xxh3::xxh3_64(&json),
        ..header
    };
    out[..HEADER_BYTES].copy_from_slice(&new.encode());
    out
}

#[test]
fn forged_indexes_are_refused_with_a_reason() {
    assert!(open_bytes(&forged(|_| ())).is_ok(), "an unchanged index opens");
    assert!(open_bytes(&forged(|i| i["unknown"] = 1.into())).is_ok(), "unknown fields are ignored");
    type Change = Box<dyn Fn(&mut serde_json::Value)>;
    let config = |field: &'static str, value: serde_json::Value| -> Change {
        Box::new(move |i| i["config"][field] = value.clone())
    };
    let linear = |field: &'static str, value: serde_json::Value| -> Change {
        Box::new(move |i| i["calibration"]["layers"][1][0][field] = value.clone())
    };
    let tensor = |at: usize, field: &'static str, value: serde_json::Value| -> Change {
        Box::new(move |i| i["tensors"][at][field] = value.clone())
    };
    let cases: Vec<(&str, Change)> = vec![
        ("hidden_size", config("hidden_size", 0.into())),
        ("hidden_size", config("hidden_size", u32::MAX.into())),
        ("num_hidden_layers", config("num_hidden_layers", 4_000_000_000u32.into())),
        ("number of layers", config("num_hidden_layers", 1000.into())),
        ("intermediate_size", config("intermediate_size", 0x8000_0000u32.into())),
        ("num_key_value_heads", config("num_key_value_heads", 2.into())),
        ("head_dim", config("head_dim", 7.into())),
        ("rope_scaling", config("head_dim", 4.into())),
        ("configuration asks for panels", config("intermediate_size", 34.into())),
        ("rope_theta", config("rope_theta", (-1.0).into())),
        ("unreadable", config("rope_theta", 1e300.into())),
        ("unreadable", config("rms_norm_eps", serde_json::Value::Null)),
        ("unreadable", config("vocab_size", (-1).into())),
        ("sliding_window", config("sliding_window", 0.into())),
        ("eos_token_ids", config("eos_token_ids", vec![37].into())),
        ("does not belong", config("qk_norm", false.into())),
        ("layer 1, qkv", linear("input_scale", 0.0.into())),
        ("layer 1, qkv", linear("output_scales", vec![1.0].into())),
        ("layer 1, qkv", linear("output_scales", vec![1.0, 1.0, -1.0].into())),
        ("layer 1, qkv", linear("clipped_share", 2.0.into())),
        ("layer 1, qkv", linear("plain", serde_json::json!({ "input": 0.0, "outputs": [1.0, 1.0, 1.0] }))),
        ("layer 1, qkv", linear("wide", serde_json::json!({ "input": 1.0, "outputs": [1.0, 1.0] }))),
        ("layer 1, qkv", linear("split", serde_json::json!({ "input": 1.0, "outputs": [1.0, 1.0, -1.0] }))),
        ("not ascending", linear("hot_channels", vec![3, 3, 4].into())),
        ("not below 20", linear("hot_channels", vec![1, 2, 20].into())),
        ("rows_f16", linear("hot_channels", vec![1, 2].into())),
        ("does not belong", Box::new(|i| i["calibration"] = serde_json::Value::Null)),
        (
            "number of layers",
            Box::new(|i| i["calibration"]["layers"] = vec![i["calibration"]["layers"][0].take()].into()),
        ),
        ("has n = 0", tensor(0, "n", 0.into())),
        ("has n", tensor(0, "n", u64::MAX.into())),
        ("has k", tensor(0, "k", (1u64 << 40).into())),
        ("`embed`", tensor(0, "n", 36.into())),
        ("raw bytes", tensor(0, "format", "f16".into())),
        ("tile table", tensor(0, "first_tile", u64::MAX.into())),
        ("tile table", tensor(0, "tiles", u64::MAX.into())),
        ("its shape needs", tensor(0, "tiles", 0.into())),
        ("its shape needs", tensor(0, "first_tile", 3.into())),
        ("twice", tensor(1, "name", "embed".into())),
        ("unreadable", tensor(1, "name", "layers.7".into())),
        ("unreadable", tensor(0, "kind", "tensor_network".into())),
        ("missing", Box::new(|i| drop(i["tensors"].as_array_mut().unwrap().pop()))),
        ("unreadable", Box::new(|i| *i = "[".repeat(10_000).into())),
        ("unreadable", Box::new(|i| i["tensors"] = serde_json::Value::Null)),
    ];
    for (word, change) in cases {
        let bytes = forged(change);
        let error = open_bytes(&bytes).expect_err(word).to_string();
        assert!(error.contains(word), "wanted `{word}`: {error}");
        fuzz_open(&bytes);
    }
}

#[test]
fn forged_headers_are_refused() {
    let good = odd_bytes(WeightFormat::Q8);
    // (offset in the header, what to put there, what to read in the error)
    let cases: [(usize, u64, &str); 10] = [
        (8, 2 | (128 << 32), "update coexec"),
        (8, 128 << 32, "import the model again"),
        (8, 1 | (64 << 32), "header_bytes"),
        (16, 1 << 7, "flags"),
        (24, 0x4141_4141, "layout `AAAA"),
        (56, u64::MAX, "truncated"),
        (64, u64::MAX, "index_offset"),
        (72, u64::MAX, "index_offset"),
        (88, u64::MAX - 7, "tiles_offset"),
        (96, u64::MAX / 16, "tiles_offset"),
    ];
    for (at, value, word) in cases {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        wire::reseal(&mut bytes);
        let error = open_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(word), "wanted `{word}`: {error}");
        if word.starts_with("layout") {
            assert!(error.contains(crate::layout::LAYOUT_NAME), "both names: {error}");
        }
    }
}

#[test]
fn bombs_are_refused_before_memory_is_taken() {
    let mut bytes = odd_bytes(WeightFormat::Q8);
    let header = wire::Header::decode("x", &bytes).unwrap();
    // An index that claims to be huge.
    let bomb = wire::Header { flags: wire::FLAG_INDEX_ZSTD, index_raw_bytes: 1 << 40, ..header };
    bytes[..HEADER_BYTES].copy_from_slice(&bomb.encode());
    assert!(open_bytes(&bytes).unwrap_err().to_string().contains("claims"));
    // A tile of one byte that claims to be a panel.
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    let record = header.tiles_offset as usize;
    bytes[record + 8..record + 12].copy_from_slice(&0u32.to_le_bytes());
    bytes[record + 24..record + 28].copy_from_slice(&1u32.to_le_bytes());
    wire::reseal(&mut bytes);
    assert!(open_bytes(&bytes).unwrap_err().to_string().contains("claims"));
}

#[test]
fn tiles_share_no_bytes() {
    let good = odd_bytes(WeightFormat::Q8);
    let header = wire::Header::decode("x", &good).unwrap();
    let table = header.tiles_offset as usize;
    let record = |i: usize| table + i * wire::RECORD_BYTES;
    for (to, from) in [(0, 1), (1, 0), (5, 2), (header.tile_count as usize - 1, 0)] {
        let mut bytes = good.clone();
        // The offset alone: a tile of another size, a byte into another tile, as well as a whole one.
        let at = u64::from_le_bytes(good[record(from)..record(from) + 8].try_into().unwrap());
        bytes[record(to)..record(to) + 8].copy_from_slice(&at.to_le_bytes());
        wire::reseal(&mut bytes);
        let error = open_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("shares stored bytes") || error.contains("64-byte aligned"), "{to} {from}: {error}");
    }
}

/// A file of these parts.
fn sealed(header: wire::Header, data: &[u8], table: &[u8], json: &[u8]) -> Vec<u8> {
    let mut out = [data, table, json].concat();
    let new = wire::Header {
        flags: 0,
        file_bytes: out.len() as u64,
        index_offset: (out.len() - json.len()) as u64,
        index_stored_bytes: json.len() as u64,
        index_raw_bytes: json.len() as u64,
        index_checksum: xxhash_rust::xxh3::xxh3_64(json),
        tiles_offset: data.len() as u64,
        tile_count: (table.len() / wire::RECORD_BYTES) as u64,
        tiles_checksum: xxhash_rust::xxh3::xxh3_64(table),
        ..header
    };
    out[..HEADER_BYTES].copy_from_slice(&new.encode());
    out
}

#[test]
fn a_file_that_decompresses_to_far_more_than_its_size_is_refused() {
    // 140 MiB of zeros in tiles that are each within the ratio of a single one: a model of 20 MB may hold that, one of 1 MB
    // may not.
    let frame = |raw: usize| super::super::codec::compress(&vec![0; raw], 3).unwrap();
    let bytes = odd_bytes(WeightFormat::Q8);
    let header = wire::Header::decode("x", &bytes).unwrap();
    let file = open_bytes(&bytes).unwrap();
    let config = DecoderConfig { vocab_size: 2 << 20, ..file.config().clone() };
    let (mut data, mut records) = (bytes[..header.tiles_offset as usize].to_vec(), Vec::new());
    let mut entries = file.tensors().to_vec();
    for entry in &mut entries {
        let large = matches!(entry.name, TensorName::Embed | TensorName::Head);
        let first = records.len();
        if large {
            entry.n = 2 << 20;
        }
        for i in 0..entry.expected_tiles() {
            let (offset, raw_bytes) = (data.len() as u64, entry.tile_raw_bytes(i));
            if large {
                let stored = frame(raw_bytes);
                let padded = vec![0; (raw_bytes / 1000).saturating_sub(stored.len())];
                let stored_bytes = (stored.len() + padded.len()) as u32;
                data.extend(stored);
                data.extend(padded);
                let checksum = xxhash_rust::xxh3::xxh3_64(&vec![0; raw_bytes]);
                let (raw_bytes, codec) = (raw_bytes as u32, wire::Codec::Zstd);
                records.push(wire::TileRecord { offset, stored_bytes, raw_bytes, checksum, codec });
            } else {
                let at = header.tiles_offset as usize + (entry.first_tile + i) * wire::RECORD_BYTES;
                records.push(wire::TileRecord::decode(&bytes[at..at + wire::RECORD_BYTES]).unwrap());
            }
        }
        (entry.first_tile, entry.tiles) = (first, records.len() - first);
    }
    let table: Vec<u8> = records.iter().flat_map(|r| r.encode()).collect();
    let json = serde_json::to_vec(&serde_json::json!({
        "producer": "x", "config": config, "tokenizer": file.tokenizer(), "calibration": file.calibration(), "tensors": entries,
    }))
    .unwrap();
    let error = open_bytes(&sealed(header, &data, &table, &json)).unwrap_err().to_string();
    assert!(error.contains("its tensors decompress to"), "{error}");
    data.resize(data.len() + (20 << 20), 0);
    assert!(open_bytes(&sealed(header, &data, &table, &json)).is_ok(), "the same tensors in a file of their size");
}

#[test]
fn unknown_fields_of_tensors_are_ignored_and_kinds_are_named() {
    let bytes = forged(|i| i["tensors"][0]["of_a_later_version"] = serde_json::json!([[], {"a": 1}]));
    assert!(open_bytes(&bytes).is_ok());
    let bytes = forged(|i| i["tensors"][0]["kind"] = "x".repeat(100_000).into());
    let error = open_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("unknown kind") && error.len() < 1000, "{error}");
    let bytes = forged(|i| drop(i["tensors"][0].as_object_mut().unwrap().remove("format")));
    assert!(open_bytes(&bytes).unwrap_err().to_string().contains("without a format"));
}

#[test]
fn a_lying_frame_is_found_when_its_tile_is_read() {
    let mut bytes = odd_bytes(WeightFormat::Q8);
    let header = wire::Header::decode("x", &bytes).unwrap();
    let file = open_bytes(&bytes).unwrap();
    let compressed = file.tensors().iter().find(|e| file.tile(e, 0).unwrap().stored().len() < e.tile_raw_bytes(0));
    let entry = compressed.expect("padding of panels compresses").clone();
    let record = header.tiles_offset as usize + entry.first_tile * wire::RECORD_BYTES;
    bytes[record + 8] -= 1; // one byte short
    wire::reseal(&mut bytes);
    let file = open_bytes(&bytes).unwrap();
    let error = file.verify_all().unwrap_err();
    assert!(matches!(&error, PackedError::Tile { tensor, tile: 0, .. } if *tensor == entry.name), "{error}");
    assert!(file.read_tensor(&entry).is_err());
    assert!(file.verify_tile(&entry, 0).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic(
        format in 0usize..5,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..4), 1..12),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        // Writing is slow beside reading: one file per format for all cases.
        static FILES: std::sync::LazyLock<Vec<Vec<u8>>> =
            std::sync::LazyLock::new(|| WeightFormat::ALL.map(odd_bytes).to_vec());
        let mut bytes = FILES[format].clone();
        let header = wire::Header::decode("x", &bytes).unwrap();
        let table = header.tiles_offset as usize..header.index_offset as usize;
        for (index, value, place) in edits {
            // Half of the edits hit header and tile table, where structure is.
            let at = match place {
                0 => index.index(HEADER_BYTES),
                1 => table.start + index.index(table.len()),
                _ => index.index(bytes.len()),
            };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fuzz_open(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_open(&bytes);
        let mut with_magic = odd_bytes_prefix();
        with_magic.extend(bytes);
        fuzz_open(&with_magic);
    }
}

fn odd_bytes_prefix() -> Vec<u8> {
    let mut bytes = wire::MAGIC.to_vec();
    bytes.extend(wire::FORMAT_VERSION.to_le_bytes());
    bytes.extend((HEADER_BYTES as u32).to_le_bytes());
    bytes
}
