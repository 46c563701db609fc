//! What whole-system tests share: data, goldens, models packed once per test binary.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod cli;

use coexec::{
    Engine, EngineOptions, KvDtype, NpuChoice,
    model::{
        DecoderConfig, TensorName, TokenId, TokenizerData, WeightFormat,
        packed::PackedFile,
        source::{self, ModelSource, SourceError, transform::outliers::with_outliers},
    },
    runtime::{
        import::{ImportOptions, import},
        prefill::{LogitsWanted, PrefillOptions},
        recipe,
        transform::{WatchedText, rare_neurons},
    },
};
use std::{
    fs,
    io::{Read as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

/// The project's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The demo model's Hugging Face directory.
pub(crate) fn demo_dir() -> PathBuf {
    root().join("models/demo")
}

/// The text that quality is judged on; calibration has not seen it.
pub(crate) fn valid_text() -> String {
    fs::read_to_string(root().join("tests/data/valid.txt")).expect("tests/data/valid.txt")
}

/// The text that calibration sees.
pub(crate) fn calibration_text() -> String {
    fs::read_to_string(root().join("models/demo/calibration.txt")).expect("models/demo/calibration.txt")
}

/// Real trained models beside the project, when they are there; otherwise the skip is printed and counted by
/// `cargo xtask test`.
pub(crate) fn shared_models(test: &str) -> Option<PathBuf> {
    let dir = root().join("../shared/data/models");
    if dir.is_dir() {
        return Some(dir);
    }
    skip(test, "no ../shared/data/models beside the project");
    None
}

/// The real SmolLM2-135M-Instruct as a GGUF file, where `cargo xtask model` has put it (`cargo xtask test` does that by
/// itself); otherwise the skip is printed and counted.
pub(crate) fn smollm2(test: &str) -> Option<PathBuf> {
    let default = || root().join("target/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = std::env::var_os("COEXEC_SMOLLM2").map_or_else(default, PathBuf::from);
    if path.is_file() {
        return Some(path);
    }
    skip(test, "no real model; `cargo xtask model SmolLM2-135M-Instruct` gets it");
    None
}

/// A model with a configuration of the test's own: fewer layers, a shorter context, other end tokens, another chat template.
pub(crate) struct Configured<'a> {
    source: &'a dyn ModelSource,
    config: DecoderConfig,
    pub(crate) tokenizer: TokenizerData,
}

impl<'a> Configured<'a> {
    pub(crate) fn new(source: &'a dyn ModelSource, config: DecoderConfig) -> Self {
        Self { source, config, tokenizer: source.tokenizer().clone() }
    }

    /// The first layers between embedding and head: as real, and quick to compile.
    pub(crate) fn first_layers(source: &'a dyn ModelSource, layers: u32) -> Self {
        Self::new(source, DecoderConfig { num_hidden_layers: layers, ..source.config().clone() })
    }
}

impl ModelSource for Configured<'_> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }
    fn tokenizer(&self) -> &TokenizerData {
        &self.tokenizer
    }
    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        match name {
            TensorName::Layer(layer, _) if layer.0 >= self.config.num_hidden_layers => None,
            _ => self.source.shape(name),
        }
    }
    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        self.source.read_rows(name, rows, out)
    }
    fn read_files(&self) -> coexec::model::output::ReadFiles {
        self.source.read_files()
    }

    fn describe(&self) -> String {
        format!("{}, configured by a test", self.source.describe())
    }
}

/// A size of a test: `full`, or `small` under an emulated CPU (`cargo xtask arm` sets `COEXEC_EMULATED`), where everything
/// takes many times as long.
pub(crate) fn sized<T>(full: T, small: T) -> T {
    if std::env::var_os("COEXEC_EMULATED").is_some() { small } else { full }
}

/// Prints a skip and leaves it where `cargo xtask test` counts it.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = fs::OpenOptions::new().append(true).create(true).open(log);
        // One write: other tests write at the same time.
        let line = format!("{test}: {reason}\n");
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the skip log can be written");
    }
}

/// Arrays of NumPy's in one file.
pub(crate) struct Npz(zip::ZipArchive<fs::File>);

impl Npz {
    pub(crate) fn open(path: &Path) -> Self {
        let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(zip::ZipArchive::new(file).expect("an npz is a zip"))
    }

    fn array(&mut self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.by_name(&format!("{name}.npy")).expect("entry").read_to_end(&mut bytes).expect("npz entry");
        bytes
    }

    /// An array of token ids (i64), flat.
    pub(crate) fn token_ids(&mut self, name: &str) -> Vec<TokenId> {
        let bytes = self.array(name);
        let ids = npyz::NpyFile::new(&bytes[..]).expect("npy").into_vec::<i64>().expect("i64 ids");
        ids.into_iter().map(|i| TokenId(u32::try_from(i).expect("an id"))).collect()
    }

    /// An array of f32, flat.
    pub(crate) fn floats(&mut self, name: &str) -> Vec<f32> {
        let bytes = self.array(name);
        npyz::NpyFile::new(&bytes[..]).expect("npy").into_vec::<f32>().expect("f32")
    }
}

/// A golden: token ids and float64-made logits.
pub(crate) struct Golden {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) logits: Vec<f32>,
    pub(crate) vocab: usize,
}

impl Golden {
    pub(crate) fn read(path: &Path) -> Self {
        let mut npz = Npz::open(path);
        let (ids, logits) = (npz.token_ids("ids"), npz.floats("logits"));
        let vocab = logits.len() / ids.len();
        assert_eq!(logits.len(), ids.len() * vocab, "{}", path.display());
        Self { ids, logits, vocab }
    }
}

/// A packed model in a temporary directory that lives as long as this.
pub(crate) struct Packed {
    _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Packed {
    pub(crate) fn of(source: &dyn ModelSource, weights: WeightFormat, calibrate: Option<String>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("model.coexec");
        let options = ImportOptions { weights, calibrate, threads: 2, ..ImportOptions::default() };
        import(source, &path, &options, &|_| {}).unwrap_or_else(|e| panic!("{}: {e}", source.describe()));
        Self { _dir: dir, path }
    }

    /// By a recipe, calibrated on the demo model's text.
    pub(crate) fn cooked(source: &dyn ModelSource, recipe: &str) -> Self {
        let options = ImportOptions { calibrate: Some(calibration_text()), threads: 2, ..ImportOptions::default() };
        Self::written(|path| {
            recipe::cook(source, path, &recipe.parse().expect("a recipe"), &options, &|_| {})
                .unwrap_or_else(|e| panic!("{}, {recipe}: {e}", source.describe()));
        })
    }

    /// A file that `write` leaves at the path that it is given.
    pub(crate) fn written(write: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("model.coexec");
        write(&path);
        Self { _dir: dir, path }
    }

    pub(crate) fn import(model: &Path, weights: WeightFormat, calibrate: Option<String>) -> Self {
        let source = source::open(model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        Self::of(&*source, weights, calibrate)
    }

    pub(crate) fn engine(&self, options: EngineOptions) -> Engine {
        Engine::new(PackedFile::open(&self.path).expect("our own file"), options).expect("our own file")
    }
}

/// Seed of [`outlier_version`].
pub(crate) const OUTLIER_SEED: u64 = 5;

/// The outlier version of a model; its rare neurons are found on `text`.
pub(crate) fn outlier_version<'a>(source: &'a dyn ModelSource, text: &str) -> impl ModelSource + use<'a> {
    let text = WatchedText { max_tokens: 1024, threads: 2, ..WatchedText::new(text) };
    let rare = rare_neurons(source, &text).expect("rare neurons");
    with_outliers(source, OUTLIER_SEED, &rare).expect("outliers")
}

/// Options for exactness: everything on the CPU in f32.
pub(crate) fn exact() -> EngineOptions {
    EngineOptions { npu: NpuChoice::None, kv: KvDtype::F32, threads: 2, ..EngineOptions::default() }
}

/// The simulated NPU.
pub(crate) fn sim() -> EngineOptions {
    EngineOptions { npu: NpuChoice::Sim, threads: 2, ..EngineOptions::default() }
}

/// Logits of every position.
pub(crate) fn all_logits(engine: &Engine, ids: &[TokenId]) -> Vec<f32> {
    let options = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
    engine.session().prefill(ids, &options).expect("prefill").logits
}

/// Index of the largest logit, the first on ties.
pub(crate) fn argmax(logits: &[f32]) -> TokenId {
    let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
    TokenId(best as u32)
}
