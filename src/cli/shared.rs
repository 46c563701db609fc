//! Arguments that several commands have, and how a model is opened from them.

use super::{
    output::read_files,
    progress::CompilePrinter,
    usage::{at_least_one, count, no_effect, number, wrong},
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use coexec::{
    Engine, EngineOptions, KvDtype, NpuChoice, PolicyKind, ScheduleChoice,
    model::{output::ReadFiles, packed::PackedFile},
    npu::{decoder::Activation, qnn::PerformancePolicy},
    runtime::{
        cache::{self, Cache},
        compile::CompiledModel,
        npu::{NpuProcess, QnnChoice, qnn::DEFAULT_CHIP},
        options::CHUNK_LENS,
    },
};
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Activations {
    /// What calibration found right for the model
    Auto,
    /// 8-bit codes, nothing corrected
    U8,
    /// 8-bit codes; what they clip is corrected on the CPU
    #[value(name = "u8+shadow")]
    Shadow,
    /// 8-bit codes; the hot channels are computed on the CPU, in float
    #[value(name = "u8+float")]
    Split,
    /// 16-bit codes
    U16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Performance {
    Burst,
    Sustained,
    Balanced,
    PowerSaver,
    Default,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kv {
    /// 4 bytes a value
    F32,
    /// 2 bytes a value
    F16,
    /// 1 byte a value, and a scale per head and token: half the bytes of f16 to read at every token
    I8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Where Qualcomm's library runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProcessArg {
    /// In this process: fastest
    Here,
    /// In a child process: a crash of Qualcomm's library or driver is a failure of the NPU, not the end
    Child,
}

/// The model and how to run it.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArgs {
    /// The .coexec file; without it the embedded demo model
    #[arg(long, short = 'm', value_name = "F")]
    pub(crate) model: Option<PathBuf>,
    /// NPU for prefill: qnn (Qualcomm's library), sim (simulated), none or auto
    #[arg(long, default_value = "auto")]
    npu: String,
    /// Chip that the NPU is, or is emulated or simulated as: sm8550, sm8650, sm8750, sm8850, or Qualcomm's number of the SoC
    /// [default: sm8650, or that of --npu-dir]
    #[arg(long, value_name = "CHIP")]
    npu_profile: Option<String>,
    /// A compiled model (`coexec compile -o DIR`) for --npu qnn: its model, chip, chunk lengths and activations are taken unless
    /// others are given. Without it one is compiled on first use and kept
    #[arg(long, value_name = "DIR")]
    npu_dir: Option<PathBuf>,
    /// Folder of Qualcomm's libraries; searched without it
    #[arg(long, value_name = "DIR")]
    qnn_lib: Option<PathBuf>,
    /// Clocks of the NPU: burst, sustained, balanced, power-saver, or default (no vote)
    #[arg(long, value_enum, default_value = "burst", value_name = "POLICY")]
    npu_performance: Performance,
    /// Process that runs graphs with --npu qnn
    #[arg(long, value_enum, default_value = "here")]
    npu_process: ProcessArg,
    /// Tokens that a prefill chunk may hold, comma-separated [default: 32,64,128,256, or those of --npu-dir]; prompts are cut
    /// so that the NPU's expected time is least
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = at_least_one::<usize>)]
    chunk_len: Vec<usize>,
    /// Who picks the next task: in-order, npu-stall, critical-path or staggered
    #[arg(long, default_value = "staggered")]
    pub(crate) policy: String,
    /// How linears run on the NPU: auto is what calibration found right for the model
    #[arg(long, value_enum, default_value = "auto")]
    activations: Activations,
    /// With u8+shadow: share of the linears, least important first, that run without shadow
    #[arg(long, value_name = "RATE", value_parser = number)]
    prune: Option<f32>,
    /// How K and V are stored
    #[arg(long, value_enum, default_value = "f16")]
    kv: Kv,
    /// CPU workers; 0 is one per core that --cores allows
    #[arg(long, short = 't', default_value_t = 0, value_name = "N", value_parser = count::<usize>)]
    threads: usize,
    /// Cores that CPU workers are bound to: auto (on Android the fast ones), all, big, or a list such as 0,2,4-7
    #[arg(long, default_value = "auto", value_name = "CORES")]
    cores: String,
    /// CPU kernels: reference, generic, avx2, avx512vnni; the best of this CPU without it
    #[arg(long, value_name = "NAME")]
    kernels: Option<String>,
    /// Bytes of decompressed weights to keep in memory, e.g. 500M; the rest is decompressed at every use
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_budget: Option<u64>,
}

fn parse_bytes(s: &str) -> Result<u64, String> {
    let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match s[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1u64 << 30,
        _ => return Err("use a number with K, M or G, e.g. 500M".to_owned()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "use a number with K, M or G, e.g. 500M".to_owned())
}

impl EngineArgs {
    /// The index of --npu-dir.
    fn compiled(&self) -> anyhow::Result<Option<CompiledModel>> {
        Ok(self.npu_dir.as_deref().map(CompiledModel::read).transpose()?)
    }

    /// The model's file: the one that was named, or the one that --npu-dir was compiled from; `None` is the embedded model.
    pub(crate) fn model_path(&self) -> anyhow::Result<Option<PathBuf>> {
        // A contradiction is told before anything is read.
        self.npu()?;
        match (&self.model, &self.npu_dir, self.compiled()?) {
            (None, Some(dir), Some(compiled)) => Ok(compiled.model_file(dir)?.map(Path::to_owned)),
            (model, ..) => Ok(model.clone()),
        }
    }

    fn npu(&self) -> anyhow::Result<NpuChoice> {
        Ok(match (self.npu.parse::<NpuChoice>()?, &self.npu_dir) {
            // A compiled model is a choice of that NPU.
            (NpuChoice::Auto, Some(_)) => NpuChoice::Qnn,
            (choice @ (NpuChoice::Sim | NpuChoice::None), Some(_)) => {
                let name = if choice == NpuChoice::Sim { "sim" } else { "none" };
                return Err(wrong(format!(
                    "option --npu-dir: a compiled model is for --npu qnn, not for {name}; leave one of them out"
                )));
            }
            (choice, _) => choice,
        })
    }

    pub(crate) fn options(&self) -> anyhow::Result<EngineOptions> {
        let compiled = self.compiled()?;
        let options = EngineOptions {
            threads: self.threads,
            cores: self.cores.parse::<coexec_cpu::Cores>().map_err(|e| wrong(e.to_string()))?,
            kernels: self.kernels.clone(),
            npu: self.npu()?,
            chunk_lens: match &compiled {
                _ if !self.chunk_len.is_empty() => self.chunk_len.clone(),
                Some(compiled) => compiled.options.chunk_lens.clone(),
                None => CHUNK_LENS.to_vec(),
            },
            npu_profile: match (&self.npu_profile, &compiled) {
                (Some(chip), _) => chip.clone(),
                (None, Some(compiled)) => compiled.options.chip.clone(),
                (None, None) => DEFAULT_CHIP.to_owned(),
            },
            qnn: QnnChoice {
                library_dir: self.qnn_lib.clone(),
                compiled_dir: self.npu_dir.clone(),
                cache_limit_bytes: Some(cache_limit()?),
                compiler: super::compile::child_compiler(self.model_path()?.as_deref()),
                progress: CompilePrinter::first_use(),
                performance: match self.npu_performance {
                    Performance::Burst => PerformancePolicy::Burst,
                    Performance::Sustained => PerformancePolicy::Sustained,
                    Performance::Balanced => PerformancePolicy::Balanced,
                    Performance::PowerSaver => PerformancePolicy::PowerSaver,
                    Performance::Default => PerformancePolicy::Default,
                },
                process: self.process()?,
                ..QnnChoice::default()
            },
            policy: self.policy.parse::<PolicyKind>().map_err(|e| wrong(e.to_string()))?,
            schedule: match (self.activations, self.prune) {
                (Activations::Auto, None) => match &compiled {
                    Some(compiled) if compiled.options.activation == Activation::U16 => ScheduleChoice::Wide,
                    Some(compiled) => {
                        compiled.options.schedule.clone().map_or(ScheduleChoice::File, ScheduleChoice::Given)
                    }
                    None => ScheduleChoice::File,
                },
                (Activations::Auto | Activations::Shadow, rate) => {
                    ScheduleChoice::Shadow { pruning_rate: rate.unwrap_or(0.0) }
                }
                (Activations::U8, None) => ScheduleChoice::Plain,
                (Activations::U16, None) => ScheduleChoice::Wide,
                (Activations::Split, None) => ScheduleChoice::Split,
                (_, Some(_)) => return Err(wrong("option --prune: only u8+shadow has a shadow to leave out")),
            },
            kv: match self.kv {
                Kv::F32 => KvDtype::F32,
                Kv::F16 => KvDtype::F16,
                Kv::I8 => KvDtype::I8,
            },
            memory_budget_bytes: self.memory_budget,
            state_dir: state_dir(),
            ..EngineOptions::default()
        };
        options.validate()?;
        Ok(options)
    }

    fn process(&self) -> anyhow::Result<NpuProcess> {
        Ok(match self.npu_process {
            ProcessArg::Here => NpuProcess::InProcess,
            ProcessArg::Child => {
                let program = std::env::current_exe().context("cannot find this program to start it as a child")?;
                NpuProcess::Child { program, args: vec!["npu-server".into()] }
            }
        })
    }

    pub(crate) fn packed(&self) -> anyhow::Result<PackedFile> {
        packed(self.model_path()?.as_deref())
    }

    pub(crate) fn engine(&self) -> anyhow::Result<Engine> {
        let engine = Engine::new(self.packed()?, self.options()?)?;
        match engine.npu_device() {
            "none" => no_effect(
                &["npu-profile", "qnn-lib", "npu-performance", "npu-process", "activations", "prune"],
                format!("prefill runs on the CPU alone ({})", engine.npu_reason()),
            ),
            "sim" => no_effect(&["qnn-lib", "npu-performance", "npu-process"], "the NPU is simulated"),
            _ => {}
        }
        Ok(engine)
    }

    /// The files that an engine is made of.
    pub(crate) fn read_files(&self) -> anyhow::Result<ReadFiles> {
        let model = self.model_path()?;
        Ok(read_files([model.as_deref(), self.npu_dir.as_deref()]))
    }

    /// What the model is called in tables.
    pub(crate) fn model_name(&self) -> String {
        self.model.as_ref().map_or_else(|| "demo (embedded)".to_owned(), |p| p.display().to_string())
    }
}

/// Most bytes of the cache: `COEXEC_CACHE_LIMIT`, e.g. 4G.
fn cache_limit() -> anyhow::Result<u64> {
    match std::env::var("COEXEC_CACHE_LIMIT") {
        Ok(text) if !text.is_empty() => {
            parse_bytes(&text).map_err(|reason| wrong(format!("COEXEC_CACHE_LIMIT = {text}: {reason}")))
        }
        _ => Ok(cache::DEFAULT_LIMIT_BYTES),
    }
}

/// Where compiled models are kept; `None` without a home directory.
pub(crate) fn cache() -> anyhow::Result<Option<Cache>> {
    let limit = cache_limit()?;
    Ok(cache::default_dir().map(|dir| Cache::new(dir, limit)))
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Where markers of NPU runs are kept: `COEXEC_STATE_DIR`, else `coexec` in the user's directory for state.
pub(crate) fn state_dir() -> Option<PathBuf> {
    state_dir_of(&|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn state_dir_of(var: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // A relative XDG directory is to be ignored.
    let xdg = || var("XDG_STATE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("coexec"));
    let home = || var("HOME").map(|p| p.join(".local/state/coexec"));
    var("COEXEC_STATE_DIR").or_else(xdg).or_else(home)
}

/// Opens a packed file, or the embedded model without a path.
pub(crate) fn packed(path: Option<&Path>) -> anyhow::Result<PackedFile> {
    match path {
        Some(path) => Ok(PackedFile::open(path)?),
        None => embedded(),
    }
}

#[cfg(feature = "demo-model")]
fn embedded() -> anyhow::Result<PackedFile> {
    Ok(coexec::demo::packed()?)
}

#[cfg(not(feature = "demo-model"))]
fn embedded() -> anyhow::Result<PackedFile> {
    Err(wrong("this coexec was built without the demo model (feature `demo-model`): give --model FILE"))
}

/// Weights of a packed model, without the second copy of hot channels' rows.
pub(crate) fn parameters(summary: &coexec::model::packed::PackedSummary) -> u64 {
    summary.kinds.iter().filter(|(kind, _)| *kind != "rows_f16").map(|(_, total)| total.elems).sum()
}

/// `1%` or `0.01`.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    coexec::runtime::recipe::share(text).ok_or_else(|| "use a share such as 1% or 0.01".to_owned())
}

/// Reads a text file, naming it in the error.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    String::from_utf8(bytes).with_context(|| format!("`{}` is not UTF-8 text", path.display()))
}

/// Most bytes of a prompt, of a message or of a saved conversation: more than any context holds.
pub(crate) const MAX_PROMPT_BYTES: usize = 64 << 20;

/// As [`read_text`], of at most [`MAX_PROMPT_BYTES`].
pub(crate) fn read_limited(path: &Path) -> anyhow::Result<String> {
    let name = format!("`{}`", path.display());
    let file = fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    bounded(file, &name)
}

/// All of standard input, at most [`MAX_PROMPT_BYTES`].
pub(crate) fn read_stdin() -> anyhow::Result<String> {
    bounded(io::stdin().lock(), "standard input")
}

fn bounded(reader: impl io::Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_PROMPT_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        bytes.len() <= MAX_PROMPT_BYTES,
        "{name} has more than {} MiB of text, which no context holds",
        MAX_PROMPT_BYTES >> 20
    );
    String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))
}

/// The file that standard input was redirected from, if it is one.
pub(crate) fn stdin_file() -> ReadFiles {
    let path = Path::new("/dev/stdin");
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    read_files([is_file.then_some(path)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_directories() {
        let of = |vars: &[(&str, &str)]| {
            state_dir_of(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
        };
        let home = ("HOME", "/home/x");
        assert_eq!(of(&[home]), Some("/home/x/.local/state/coexec".into()));
        assert_eq!(of(&[home, ("XDG_STATE_HOME", "/s")]), Some("/s/coexec".into()));
        assert_eq!(of(&[home, ("XDG_STATE_HOME", "s")]), Some("/home/x/.local/state/coexec".into()));
        assert_eq!(of(&[home, ("XDG_STATE_HOME", "/s"), ("COEXEC_STATE_DIR", "d")]), Some("d".into()));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        let of = |path: &str| quoted(Path::new(path));
        assert_eq!(of("out/d-1.x"), "out/d-1.x");
        assert_eq!(of("my models/it's"), "'my models/it'\\''s'");
        assert_eq!(of(""), "''");
    }

    #[test]
    fn bytes_with_units() {
        assert_eq!(parse_bytes("12"), Ok(12));
        assert_eq!(parse_bytes("3k"), Ok(3072));
        assert_eq!(parse_bytes("500M"), Ok(500 << 20));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "-1", "1.5G", "99999999999999999999", "18446744073709551615G", "5X"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
