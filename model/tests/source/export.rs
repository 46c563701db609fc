//! Exported GGUF files, read back: the same tensors, bit for bit where the type allows it.

use super::checkpoints;
use coexec_model::{
    DecoderConfig, LayerIdx, LayerTensor, RopeScaling, TensorName, TokenizerData, WeightFormat,
    align::AlignedBytes,
    export::{ExportError, GgufOptions, PackedSource, write_gguf},
    packed::{PackedFile, PackedOptions, PackedWriter},
    quant,
    random::{RandomSource, named_config},
    source::{self, Encoding, ModelSource},
};
use std::path::Path;

fn names(source: &dyn ModelSource) -> Vec<TensorName> {
    let layers = (0..source.config().num_hidden_layers).map(LayerIdx);
    let mut names = vec![TensorName::Embed, TensorName::Head, TensorName::Norm];
    names.extend(layers.flat_map(|l| LayerTensor::ALL.iter().map(move |t| TensorName::Layer(l, *t))));
    names.into_iter().filter(|n| source.shape(*n).is_some()).collect()
}

fn read(source: &dyn ModelSource, name: TensorName) -> Vec<f32> {
    let (rows, _) = source.shape(name).unwrap();
    let mut out = Vec::new();
    source.read_rows(name, 0..rows, &mut out).unwrap();
    out
}

fn options(weights: Encoding) -> GgufOptions {
    GgufOptions { weights, head: None, name: "test".to_owned() }
}

/// Exports and opens again.
fn through(source: &dyn ModelSource, dir: &Path, options: &GgufOptions) -> Box<dyn ModelSource> {
    let path = dir.join("out.gguf");
    let summary = write_gguf(source, &path, options, &mut |_| true).unwrap();
    assert_eq!(summary.bytes, std::fs::metadata(&path).unwrap().len());
    source::open(&path).unwrap()
}

#[test]
fn every_checkpoint_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut scaled = 0;
    for (path, ggufs) in checkpoints() {
        let from = source::open(&path).unwrap();
        if from.config().sliding_window.is_some() && from.config().architecture != "mistral" {
            continue;
        }
        let back = through(&*from, dir.path(), &options(Encoding::F32));
        assert_eq!(names(&*back), names(&*from), "{}", path.display());
        for name in names(&*from) {
            assert_eq!(read(&*back, name), read(&*from, name), "{} {name}", path.display());
        }
        let (a, b) = (from.config(), back.config());
        let size = |c: &DecoderConfig| {
            (c.hidden_size, c.intermediate_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.vocab_size)
        };
        assert_eq!(size(a), size(b));
        assert_eq!((a.rms_norm_eps, a.rope_theta, a.sliding_window), (b.rms_norm_eps, b.rope_theta, b.sliding_window));
        match (&a.rope_scaling, &b.rope_scaling) {
            // As the converter of llama.cpp computes the divisors.
            (RopeScaling::Llama3 { .. }, RopeScaling::Factors { factors }) => {
                let other = ggufs.iter().find(|p| p.ends_with("llama3-F32.gguf")).unwrap();
                let other = source::open(other).unwrap().config().rope_scaling.clone();
                let RopeScaling::Factors { factors: expected } = other else { panic!("{other:?}") };
                assert_eq!(factors.len(), expected.len());
                for (x, y) in factors.iter().zip(&expected) {
                    assert!((x - y).abs() <= 1e-5 * y, "{x} {y}");
                }
                scaled += 1;
            }
            (x, y) => assert_eq!(x, y, "{}", path.display()),
        }
    }
    assert_eq!(scaled, 1);
}

#[test]
fn byte_level_tokenizers_come_along() {
    let dir = tempfile::tempdir().unwrap();
    let load = |data: &TokenizerData| data.tokenizer_json.parse::<tokenizers::Tokenizer>().unwrap();
    let texts = ["Once upon a time", "I'd say 1234567 times; 世界 🦙", "  a\n\nb ", "<|im_start|>user\nhi<|im_end|>"];
    let mut gpt2 = Vec::new();
    for (path, _) in checkpoints() {
        let from = source::open(&path).unwrap();
        let file = dir.path().join("t.gguf");
        let Ok(summary) = write_gguf(&*from, &file, &options(Encoding::F16), &mut |_| true) else { continue };
        let back = source::open(&file).unwrap();
        if summary.vocabulary == "no_vocab" {
            assert_eq!(back.tokenizer().tokenizer_json, "");
            continue;
        }
        gpt2.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        assert_eq!(back.tokenizer().chat_templates, from.tokenizer().chat_templates);
        assert_eq!(back.config().bos_token_id, from.config().bos_token_id);
        assert_eq!(back.config().eos_token_ids.first(), from.config().eos_token_ids.first());
        let (a, b) = (load(from.tokenizer()), load(back.tokenizer()));
        for text in texts {
            let (x, y) = (a.encode(text, true).unwrap(), b.encode(text, true).unwrap());
            assert_eq!(x.get_ids(), y.get_ids(), "{}: {text:?}", path.display());
        }
    }
    for name in ["llama3", "qwen2", "qwen3", "smollm"] {
        assert!(gpt2.iter().any(|n| n == name), "{name} is not among {gpt2:?}");
    }
}

/// Q4_0 of a random model is `q4s` of the same model: the codes and scales that an import of the weights would make.
#[test]
fn q4_0_is_q4s() {
    let dir = tempfile::tempdir().unwrap();
    let from = RandomSource::new(named_config("tiny").unwrap(), 5);
    let back = through(&from, dir.path(), &options(Encoding::Q4_0));
    for name in ["layers.1.gate_up", "layers.0.qkv", "layers.0.down", "layers.1.o"].map(|n| n.parse().unwrap()) {
        let (rows, k) = from.shape(name).unwrap();
        let mut groups = Vec::new();
        assert!(back.read_q4_0_rows(name, 0..rows, &mut groups).unwrap(), "{name}");
        for (row, values) in groups.iter().zip(read(&from, name).chunks_exact(k)) {
            let expected: Vec<_> = values.chunks(32).map(quant::q4s_group).collect();
            assert_eq!(*row, expected, "{name}");
        }
    }
    // Rows of 64 are no blocks of 256: the head falls back to Q8_0, as llama.cpp's does.
    let mut groups = Vec::new();
    assert!(!back.read_q4_0_rows(TensorName::Embed, 0..1, &mut groups).unwrap());
    let (a, b) = (read(&from, TensorName::Embed), read(&*back, TensorName::Embed));
    let noise: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    let power: f32 = a.iter().map(|a| a.powi(2)).sum();
    assert!(noise > 0.0 && noise < 1e-4 * power, "{noise} {power}");
}

fn packed(source: &dyn ModelSource, format: WeightFormat, path: &Path) -> PackedFile {
    let mut writer = PackedWriter::create(path, PackedOptions::default()).unwrap();
    for name in names(source) {
        let (n, k) = source.shape(name).unwrap();
        if n == 1 {
            writer.vector(name, &read(source, name)).unwrap();
            continue;
        }
        writer.begin(name, format, n, k).unwrap();
        let mut groups = Vec::new();
        if format == WeightFormat::Q4s && source.read_q4_0_rows(name, 0..n, &mut groups).unwrap() {
            writer.push_q4_0_rows(&groups).unwrap();
        } else {
            writer.push_rows(&read(source, name)).unwrap();
        }
        writer.end().unwrap();
    }
    writer.finish(source.config(), source.tokenizer(), None).unwrap();
    PackedFile::open(path).unwrap()
}

fn panels(file: &PackedFile, name: TensorName) -> AlignedBytes {
    file.read_tensor(file.tensor(name).unwrap()).unwrap()
}

/// A `.coexec` file through GGUF and back is the same file: `q4s` through `Q4_0`, `f16` through `F16`.
#[test]
fn packed_files_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    // Heads that llama's files interleave, an untied head, a row count that is no multiple of 16.
    let mut llama = named_config("tiny").unwrap();
    llama.architecture = "llama".to_owned();
    llama.qkv_bias = false;
    llama.tie_word_embeddings = false;
    llama.vocab_size = 325;
    for config in [named_config("tiny").unwrap(), llama] {
        for (format, encoding) in [(WeightFormat::Q4s, Encoding::Q4_0), (WeightFormat::F16, Encoding::F16)] {
            let random = RandomSource::new(config.clone(), 3);
            let first = packed(&random, format, &dir.path().join("first.coexec"));
            let source = PackedSource::new(PackedFile::open(&dir.path().join("first.coexec")).unwrap());
            let gguf = through(&source, dir.path(), &GgufOptions { head: Some(encoding), ..options(encoding) });
            let second = packed(&*gguf, format, &dir.path().join("second.coexec"));
            for name in names(&random) {
                assert_eq!(&*panels(&first, name), &*panels(&second, name), "{} {format} {name}", config.architecture);
            }
        }
    }
}

#[test]
fn impossible_exports_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let from = RandomSource::new(named_config("tiny").unwrap(), 0);
    let error = write_gguf(&from, &path, &options(Encoding::Q5K), &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("Q5_K cannot be written"), "{error}");
    let mut blocks = 0;
    let stop = &mut |_| {
        blocks += 1;
        blocks < 4
    };
    assert!(matches!(write_gguf(&from, &path, &options(Encoding::F16), stop), Err(ExportError::Cancelled)));
    let mut odd = named_config("tiny").unwrap();
    odd.architecture = "gpt5".to_owned();
    let error = write_gguf(&RandomSource::new(odd, 0), &path, &options(Encoding::F16), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("`gpt5` has no GGUF name"), "{error}");
    let mut windowed = named_config("tiny").unwrap();
    windowed.sliding_window = Some(64);
    let error = write_gguf(&RandomSource::new(windowed, 0), &path, &options(Encoding::F16), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("sliding_window"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file, no temporary");
}
