//! Models through GGUF and back, and heads in formats of their own: the packed file is the same as of a direct import.

mod support;

use coexec::{
    Engine,
    model::{
        TensorName, TokenId, WeightFormat,
        export::{GgufOptions, write_gguf},
        packed::PackedFile,
        quant::Quantizer,
        random::{RandomSource, named_config},
        source::{self, Encoding, ModelSource},
    },
    runtime::import::{ImportOptions, import},
};
use std::path::Path;
use support::{all_logits, exact};

fn packed(source: &dyn ModelSource, path: &Path, options: &ImportOptions) -> PackedFile {
    import(source, path, options, &|_| ()).expect("import");
    PackedFile::open(path).expect("opens")
}

fn bytes(file: &PackedFile, name: TensorName) -> Vec<u8> {
    file.read_tensor(file.tensor(name).expect("is there")).expect("is whole").to_vec()
}

fn logits(file: PackedFile) -> Vec<f32> {
    let ids: Vec<TokenId> = (0..40u32).map(|i| TokenId(i * 7 % 300)).collect();
    all_logits(&Engine::new(file, exact()).expect("engine"), &ids)
}

#[test]
fn import_of_an_export_is_the_direct_import() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let random = RandomSource::new(named_config("tiny").expect("a shape"), 11);
    for (format, encoding) in
        [(WeightFormat::Q4s, Encoding::Q4_0), (WeightFormat::F16, Encoding::F16), (WeightFormat::Q8, Encoding::F32)]
    {
        let gguf = dir.path().join("m.gguf");
        let head = Some(encoding);
        write_gguf(&random, &gguf, &GgufOptions { weights: encoding, head, name: "m".to_owned() }, &mut |_| true)
            .expect("export");
        let options = ImportOptions {
            weights: format,
            raw: true,
            embed: Some(format),
            head: Some(format),
            // As the exporter rounds.
            quantizer: Quantizer::Absmax,
            ..ImportOptions::default()
        };
        let direct = packed(&random, &dir.path().join("a.coexec"), &options);
        let through = packed(&*source::open(&gguf).expect("opens"), &dir.path().join("b.coexec"), &options);
        assert_eq!(direct.tensors().len(), through.tensors().len());
        for entry in direct.tensors() {
            assert!(bytes(&direct, entry.name) == bytes(&through, entry.name), "{format} {}", entry.name);
            assert!(entry.format().is_none() || direct.raw_tensor(entry).is_some(), "{} is in place", entry.name);
        }
        assert_eq!(logits(direct), logits(through), "{format}");
    }
}

#[test]
fn a_tied_model_may_have_a_head_in_fewer_bits() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let random = RandomSource::new(named_config("tiny").expect("a shape"), 2);
    let with = |embed, head| {
        let options = ImportOptions { embed: Some(embed), head: Some(head), ..ImportOptions::default() };
        packed(&random, &dir.path().join(format!("{embed}-{head}.coexec")), &options)
    };
    let tied = with(WeightFormat::Q8, WeightFormat::Q8);
    assert!(!tied.has(TensorName::Head), "one tensor is both");
    let embed = bytes(&tied, TensorName::Embed);
    let reference = logits(tied);
    for format in [WeightFormat::Q4, WeightFormat::Q4s] {
        let own = with(WeightFormat::Q8, format);
        let all = with(format, format);
        assert!(!all.has(TensorName::Head));
        assert_eq!(bytes(&own, TensorName::Embed), embed);
        assert_eq!(bytes(&own, TensorName::Head), bytes(&all, TensorName::Embed), "the same rows in {format}");
        let own = logits(own);
        assert_ne!(own, reference);
        // The head adds its rounding, a few percent of a logit, and nothing else.
        let power: f32 = reference.iter().map(|v| v * v).sum();
        let noise: f32 = own.iter().zip(&reference).map(|(a, b)| (a - b).powi(2)).sum();
        assert!(noise < 0.02 * power, "{format}: {noise} of {power}");
    }
}
