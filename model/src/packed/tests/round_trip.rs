//! What is written is what is read.

use super::*;
use crate::{
    align::AlignedBytes,
    layout::{self, PANEL_ROWS},
    packed::{TileData, wire},
    quant::{Q4sGroup, QuantRow, Quantizer},
};
use half::f16;

/// The bytes that a tensor must have, made without tiles.
fn expected_bytes((name, kind, n, k): (TensorName, TensorKind, usize, usize)) -> Vec<u8> {
    let values = values(seed(name), n * k);
    match kind {
        TensorKind::Vector => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorKind::RowsF16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        TensorKind::Panels { format } => {
            let rows: Vec<&[f32]> = values.chunks(k).collect();
            let panel = |rows: &[&[f32]]| {
                let mut out = vec![0; layout::panel_layout(format, k).bytes];
                layout::pack_panel(format, k, rows, &mut out);
                out
            };
            rows.chunks(PANEL_ROWS).flat_map(panel).collect()
        }
    }
}

#[test]
fn every_format_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    for format in WeightFormat::ALL {
        let path = dir.path().join(format!("{format}.coexec"));
        let summary = write_odd(&path, format, PackedOptions::default());
        let file = PackedFile::open(&path).unwrap();
        let config = odd_config();
        let calibration = odd_calibration(&config);
        assert_eq!(file.config(), &config);
        assert_eq!(file.tokenizer(), &odd_tokenizer());
        assert_eq!(file.calibration(), Some(&calibration));
        file.verify_all().unwrap();
        let shapes = shapes(&config, Some(&calibration), format);
        assert_eq!(file.tensors().len(), shapes.len());
        for shape @ (name, kind, n, k) in shapes {
            let entry = file.tensor(name).unwrap();
            assert!(file.has(name));
            assert_eq!((entry.kind, entry.n, entry.k), (kind, n, k), "{name}");
            let expected = expected_bytes(shape);
            assert_eq!(file.read_tensor(entry).unwrap().as_slice(), expected, "{name}");
            let mut tiles = Vec::new();
            for i in 0..entry.tiles {
                let mut tile = vec![1; entry.tile_raw_bytes(i)];
                file.read_tile(entry, i, &mut tile).unwrap();
                let range = file.tile_range_bytes(entry, i).unwrap();
                assert_eq!(range.len(), file.tile(entry, i).unwrap().stored().len());
                tiles.extend(tile);
            }
            assert_eq!(tiles, expected);
            if let Some(whole) = file.raw_tensor(entry) {
                assert_eq!(file.bytes(whole).unwrap(), expected);
            }
            assert!(file.tile(entry, entry.tiles).is_err());
            file.will_need(entry);
            file.release(entry);
        }
        assert_eq!(file.read_vector(TensorName::Norm).unwrap(), values(seed(TensorName::Norm), 20));
        let hot = "layers.1.down.hot".parse().unwrap();
        let (n, k, rows) = file.read_rows_f16(hot).unwrap();
        assert_eq!((n, k, rows.len()), (3, 20, 60));
        assert!(file.read_vector(hot).is_err() && file.read_rows_f16(TensorName::Norm).is_err());
        assert!(!file.has("layers.0.o.hot".parse().unwrap()));
        assert!(file.tensor("layers.2.o".parse().unwrap()).is_err());

        assert_eq!(summary, file.summary());
        assert_eq!(summary.path, path);
        assert_eq!(summary.file_bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(summary.total.raw_bytes, summary.tensors.iter().map(|t| t.raw_bytes).sum::<u64>());
        assert_eq!(summary.total.tensors, summary.kinds.values().map(|k| k.tensors).sum::<usize>());
        assert!(summary.total.stored_bytes + summary.index_bytes + summary.tile_table_bytes < summary.file_bytes);
        assert!(summary.total.ratio() <= 1.0 && summary.kinds["vector"].ratio() <= 1.0);
    }
}

/// A model whose tensors have many tiles, compressible and not.
fn write_wide(path: &Path, options: PackedOptions) -> PackedFile {
    let config = wide_config();
    let mut w = PackedWriter::create(path, options).unwrap();
    for shape in shapes(&config, None, WeightFormat::Q4) {
        write_tensor(&mut w, shape).unwrap();
    }
    w.finish(&config, &TokenizerData::default(), None).unwrap();
    PackedFile::open(path).unwrap()
}

fn wide_config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 200,
        intermediate_size: 5003,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 50,
        vocab_size: 9999,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        eos_token_ids: vec![],
        ..odd_config()
    }
}

#[test]
fn many_tiles_in_order_aligned_and_the_same_for_every_thread_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen: Option<Vec<u8>> = None;
    for threads in [1, 2, 5] {
        let path = dir.path().join(format!("{threads}.coexec"));
        let file = write_wide(&path, PackedOptions { threads, ..PackedOptions::default() });
        for shape @ (name, ..) in shapes(&wide_config(), None, WeightFormat::Q4) {
            let entry = file.tensor(name).unwrap();
            assert_eq!(file.read_tensor(entry).unwrap().as_slice(), expected_bytes(shape), "{name}");
        }
        assert!(file.tensor(TensorName::Embed).unwrap().tiles > 5);
        let bytes = std::fs::read(&path).unwrap();
        assert!(seen.replace(bytes.clone()).is_none_or(|before| before == bytes), "{threads} threads");
    }
    for min_gain_percent in [0, 101] {
        let path = dir.path().join("gain.coexec");
        let file = write_wide(&path, PackedOptions { min_gain_percent, ..PackedOptions::default() });
        for entry in file.tensors() {
            let tiles: Vec<_> = (0..entry.tiles).map(|i| file.tile(entry, i).unwrap().data).collect();
            let raw = tiles.iter().filter(|t| matches!(t, TileData::Raw(_))).count();
            assert!(raw == entry.tiles || file.raw_tensor(entry).is_none());
            if min_gain_percent > 100 {
                assert_eq!(raw, entry.tiles);
                if entry.format().is_some() {
                    assert_eq!(file.raw_tensor(entry).unwrap().len(), entry.raw_bytes(), "read in place");
                }
            }
            if raw > 0 && entry.raw_bytes() >= 64 * 1024 && entry.format().is_some() {
                assert_eq!(file.segment_range_bytes(entry).unwrap().start % (16 * 1024), 0);
            }
        }
    }
}

#[test]
fn pushed_codes_are_the_file_that_floats_give() {
    let config = DecoderConfig { num_hidden_layers: 1, ..odd_config() };
    let dir = tempfile::tempdir().unwrap();
    for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
        let files = [false, true].map(|codes| {
            let path = dir.path().join(format!("{format}-{codes}"));
            let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
            for shape @ (name, kind, n, k) in shapes(&config, None, format) {
                match kind {
                    TensorKind::Panels { format } if codes && format.is_integer() => {
                        w.begin(name, format, n, k).unwrap();
                        let values = values(seed(name), n * k);
                        let rows =
                            values.chunks_exact(k).map(|row| QuantRow::new(format, Quantizer::Absmax, row, None));
                        let rows: Vec<_> = rows.map(Option::unwrap).collect();
                        rows.chunks(7).for_each(|rows| w.push_codes(rows.to_vec()).unwrap());
                        w.end().unwrap();
                    }
                    _ => write_tensor(&mut w, shape).unwrap(),
                }
            }
            w.finish(&config, &TokenizerData::default(), None).unwrap();
            std::fs::read(path).unwrap()
        });
        assert!(files[0] == files[1], "{format}");
    }
}

#[test]
fn q4_0_groups_are_kept_bit_for_bit() {
    // Two and a bit tiles, scales of both signs, denormal and zero.
    let (n, k) = (2000, 480);
    let group = |r: usize, g: usize| Q4sGroup {
        scale: f16::from_bits(((r * 37 + g * 1009) as u16) & 0xBBFF),
        codes: (0..32).map(|i| ((r * 7 + g * 3 + i * 5) % 16) as i8 - 8).collect(),
    };
    let rows: Vec<Vec<Q4sGroup>> = (0..n).map(|r| (0..k / 32).map(|g| group(r, g)).collect()).collect();
    let config = DecoderConfig {
        hidden_size: k as u32,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 480,
        intermediate_size: n as u32 / 2,
        rope_scaling: RopeScaling::None,
        ..odd_config()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q4_0.coexec");
    let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
    let gate_up = TensorName::Layer(LayerIdx(0), LayerTensor::GateUp);
    for shape @ (name, kind, n, k) in shapes(&config, None, WeightFormat::Q4s) {
        if name == gate_up {
            assert_eq!(kind, TensorKind::Panels { format: WeightFormat::Q4s });
            w.begin(name, WeightFormat::Q4s, n, k).unwrap();
            rows.chunks(33).for_each(|rows| w.push_q4_0_rows(rows).unwrap());
            w.end().unwrap();
        } else {
            write_tensor(&mut w, shape).unwrap();
        }
    }
    w.finish(&config, &TokenizerData::default(), None).unwrap();
    let file = PackedFile::open(&path).unwrap();
    let entry = file.tensor(gate_up).unwrap();
    assert!(entry.tiles > 2);
    let bytes = file.read_tensor(entry).unwrap();
    let panel_bytes = layout::panel_layout(WeightFormat::Q4s, k).bytes;
    for (r, row) in rows.iter().enumerate() {
        let panel = layout::Panel::new(WeightFormat::Q4s, k, &bytes[r / 16 * panel_bytes..][..panel_bytes]);
        for (g, group) in row.iter().enumerate() {
            let scale = f16::from_f32(panel.group_scale(r % 16, g));
            assert_eq!(scale.to_bits(), group.scale.to_bits());
            for (i, code) in group.codes.iter().enumerate() {
                assert_eq!(panel.code(r % 16, g * 32 + i), *code);
            }
        }
    }
}

#[test]
fn copies_keep_the_model_and_may_add_a_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.coexec"), dir.path().join("to.coexec"));
    write_odd(&from, WeightFormat::Q8, PackedOptions::default());
    let file = PackedFile::open(&from).unwrap();
    let copy = |calibration: Option<&Calibration>, reverse: bool| {
        let mut w =
            PackedWriter::create(&to, PackedOptions { producer: "other".to_owned(), ..Default::default() }).unwrap();
        let mut entries: Vec<_> = file.tensors().iter().collect();
        if reverse {
            entries.reverse();
        }
        for entry in entries {
            if entry.kind != TensorKind::RowsF16 || calibration.is_some() {
                w.copy(&file, entry).unwrap();
            }
        }
        w.finish(file.config(), file.tokenizer(), calibration).unwrap();
        PackedFile::open(&to).unwrap()
    };
    let same = copy(file.calibration(), true);
    same.verify_all().unwrap();
    assert_eq!(same.content_hash(), file.content_hash(), "order and producer are not the model");
    for entry in file.tensors() {
        let other = same.tensor(entry.name).unwrap();
        assert_eq!(same.read_tensor(other).unwrap().as_slice(), file.read_tensor(entry).unwrap().as_slice());
        assert!(other == entry || same.read_tensor(entry).is_err(), "an entry of another file is refused");
    }
    let plain = copy(None, false);
    assert_eq!(plain.calibration(), None);
    assert_ne!(plain.content_hash(), file.content_hash());
}

#[test]
fn the_hash_is_of_weights_not_of_their_compression() {
    let dir = tempfile::tempdir().unwrap();
    let hash = |name: &str, format, zstd_level| {
        let path = dir.path().join(name);
        write_odd(&path, format, PackedOptions { zstd_level, ..PackedOptions::default() }).content_hash
    };
    let one = hash("a", WeightFormat::Q4, 1);
    assert_eq!(one, hash("b", WeightFormat::Q4, 19));
    assert_ne!(one, hash("c", WeightFormat::Q4s, 1));
}

#[test]
fn embedded_models_open_at_any_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw.coexec");
    write_odd(&path, WeightFormat::F32, PackedOptions { min_gain_percent: 101, ..PackedOptions::default() });
    let bytes = std::fs::read(path).unwrap();
    for shift in [0, 1, 8, 63] {
        let mut buffer = AlignedBytes::zeroed(bytes.len() + shift);
        buffer.as_mut_slice()[shift..].copy_from_slice(&bytes);
        let leaked: &'static AlignedBytes = Box::leak(Box::new(buffer));
        let file = PackedFile::from_static(&leaked.as_slice()[shift..]).unwrap();
        file.verify_all().unwrap();
        let entry = file.tensor(TensorName::Embed).unwrap();
        assert!(matches!(file.tile(entry, 0).unwrap().data, TileData::Raw(_)));
        assert_eq!(file.raw_tensor(entry).is_some(), shift == 0);
        assert_eq!(file.read_tensor(entry).unwrap().len(), entry.raw_bytes());
    }
}

#[test]
fn tiles_in_another_order_are_not_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw.coexec");
    let file = write_wide(&path, PackedOptions { min_gain_percent: 101, ..PackedOptions::default() });
    let entry = file.tensor(TensorName::Embed).unwrap();
    let [first, second] = [0, 1].map(|i| file.tile(entry, i).unwrap().stored().to_vec());
    assert!(first.len() == second.len() && first != second && file.raw_tensor(entry).is_some());
    // The records of two tiles change places: the file is as good as before, but the tensor is another one.
    let mut bytes = AlignedBytes::copy_of(&std::fs::read(&path).unwrap());
    let table = u64::from_le_bytes(bytes[88..96].try_into().unwrap()) as usize;
    let at = table + entry.first_tile * wire::RECORD_BYTES;
    bytes.as_mut_slice()[at..at + 2 * wire::RECORD_BYTES].rotate_left(wire::RECORD_BYTES);
    wire::reseal(bytes.as_mut_slice());
    let file = PackedFile::from_bytes(bytes).unwrap();
    file.verify_all().unwrap();
    let entry = file.tensor(TensorName::Embed).unwrap();
    assert!(file.raw_tensor(entry).is_none());
    assert_eq!(file.read_tensor(entry).unwrap()[..2 * first.len()], [second, first].concat());
}

#[test]
fn a_large_index_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.coexec");
    let config = odd_config();
    let text = (0..40_000).map(|i| format!("\"token{i}\": {i},")).collect::<String>();
    let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
    for shape in shapes(&config, None, WeightFormat::Q8) {
        write_tensor(&mut w, shape).unwrap();
    }
    let tokenizer = TokenizerData { tokenizer_json: text.clone(), ..TokenizerData::default() };
    let summary = w.finish(&config, &tokenizer, None).unwrap();
    assert!(summary.index_bytes < text.len() as u64 / 2);
    assert_eq!(PackedFile::open(&path).unwrap().tokenizer().tokenizer_json, text);
}

#[test]
fn a_tensor_near_the_limit_is_stored_in_one_way() {
    let dir = tempfile::tempdir().unwrap();
    // Noise in which 4 % to 7 % of the rows of a tile are zero: gains lie around the limit. No padding, which is a gain.
    let config = DecoderConfig { hidden_size: 224, ..wide_config() };
    let (n, k) = (config.vocab_size as usize, config.hidden_size as usize);
    let noise = values(1, n * k);
    for (calm_tile, mixed) in [(None, false), (Some(0), false), (Some(3), true)] {
        let path = dir.path().join("m.coexec");
        let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
        for shape @ (name, ..) in shapes(&config, None, WeightFormat::Q4) {
            if name != TensorName::Embed {
                write_tensor(&mut w, shape).unwrap();
                continue;
            }
            w.begin(name, WeightFormat::Q8, n, k).unwrap();
            let rows_per_tile = layout::panels_per_tile(WeightFormat::Q8, k) * PANEL_ROWS;
            for (i, tile) in noise.chunks(rows_per_tile * k).enumerate() {
                let mut tile = tile.to_vec();
                let calm = if Some(i) == calm_tile { 30 } else { 4 + i % 4 };
                let zeros = (rows_per_tile * calm / 100 * k).min(tile.len());
                tile[..zeros].fill(0.0);
                w.push_rows(&tile).unwrap();
            }
            w.end().unwrap();
        }
        w.finish(&config, &TokenizerData::default(), None).unwrap();
        let file = PackedFile::open(&path).unwrap();
        let entry = file.tensor(TensorName::Embed).unwrap();
        let gains: Vec<f32> = (0..entry.tiles)
            .map(|i| 1.0 - file.tile(entry, i).unwrap().stored().len() as f32 / entry.tile_raw_bytes(i) as f32)
            .collect();
        let raw = gains.iter().filter(|g| **g == 0.0).count();
        assert_eq!(raw > 0 && raw < entry.tiles, mixed, "gains {gains:?}");
        file.verify_all().unwrap();
    }
}
