//! What `coexec doctor` finds out: is there an NPU, can this process use it, and what to do about each thing that is missing.

use crate::{
    RuntimeError,
    cache::{self, Cache},
    compile::{SyntheticWeights, selftest_execute, selftest_inputs},
    error::chain,
    npu::{marker, qnn::DEFAULT_CHIP},
};
use coexec_model::{LayerIdx, LayerTensor, TensorName, random};
use coexec_npu::{
    ContextSpec, Dtype, Encoding, GraphSpec, Manifest, NpuContext, NpuDevice, OpSpec, Placement, SimDevice, SimOptions,
    TensorSpec, WeightEncoding, WeightSpec,
    manifest::ManifestArgs,
    qnn::{QnnDevice, QnnOptions, Target, library_places},
};
use serde::Serialize;
use std::{path::PathBuf, time::Instant};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with something to know.
    Note,
    /// Does not work.
    Failed,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do, when there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which things depend on each other.
    pub findings: Vec<Finding>,
    /// Whether Qualcomm's NPU can be used.
    pub npu_usable: bool,
    /// `emulation` or `device`.
    pub target: Target,
    /// Chip that was tried.
    pub chip: String,
}

/// What to examine.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// Chip to open.
    pub chip: String,
    /// Folder of the libraries; `None` searches.
    pub library_dir: Option<PathBuf>,
    /// Where markers of crashed runs are; see [`marker`].
    pub state_dir: Option<PathBuf>,
    /// Where compiled models are kept.
    pub cache: Option<Cache>,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        let cache = cache::default_dir().map(|dir| Cache::new(dir, cache::DEFAULT_LIMIT_BYTES));
        Self { chip: DEFAULT_CHIP.to_owned(), library_dir: None, state_dir: None, cache }
    }
}

struct Notes(Vec<Finding>);

impl Notes {
    fn add(&mut self, what: &'static str, status: Status, found: impl Into<String>, advice: Option<&str>) {
        self.0.push(Finding { what, status, found: found.into(), advice: advice.map(str::to_owned) });
    }
}

/// Looks at everything between this process and a result of the NPU. Never fails: what does not work is a finding.
#[must_use]
pub fn examine(options: &DoctorOptions) -> Report {
    let mut notes = Notes(Vec::new());
    machine(&mut notes);
    let npu_usable = npu(&mut notes, options);
    directories(&mut notes, options);
    Report { findings: notes.0, npu_usable, target: Target::here(), chip: options.chip.clone() }
}

fn machine(notes: &mut Notes) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernels = coexec_cpu::Kernels::detect().name();
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    notes.add("machine", Status::Ok, format!("{os} {arch}, {threads} CPU threads, {kernels} kernels"), None);
    match Target::here() {
        Target::Device => notes.add("target", Status::Ok, "the NPU of this machine", None),
        Target::Emulation => notes.add(
            "target",
            Status::Note,
            "Qualcomm's x86-64 library: compiles for any chip and emulates it; no times, no power, no shared buffers",
            None,
        ),
    }
    if cfg!(target_os = "android") {
        match std::env::var("ADSP_LIBRARY_PATH") {
            Ok(path) => notes.add("ADSP_LIBRARY_PATH", Status::Ok, path, None),
            Err(_) => notes.add(
                "ADSP_LIBRARY_PATH",
                Status::Failed,
                "is not set, so the DSP does not find its part (Skel)",
                Some("call coexec's prepare_environment first, or set it to the folder of the Skel; separate folders with ;"),
            ),
        }
    }
}

fn npu(notes: &mut Notes, options: &DoctorOptions) -> bool {
    for place in library_places(options.library_dir.as_deref()) {
        if place.is_there {
            notes.add("library", Status::Ok, format!("{} ({})", place.path.display(), place.origin), None);
        }
    }
    let device = match QnnDevice::open(QnnOptions {
        lib_dir: options.library_dir.clone(),
        ..QnnOptions::chip(&options.chip)
    }) {
        Ok(device) => device,
        Err(error) => {
            let advice = match Target::here() {
                Target::Emulation => {
                    "on x86-64 Linux run export COEXEC_QNN_LIB_DIR=$(cargo xtask qnn) in coexec's repository, or name the \
                    folder of libQnnHtp.so with --qnn-lib"
                }
                Target::Device => {
                    "put libQnnHtp.so, libQnnSystem.so, the Stub and the Skel of one SDK version beside the \
                    program; an app needs <uses-native-library android:name=\"libcdsprpc.so\" android:required=\"false\"/>"
                }
            };
            let places = library_places(options.library_dir.as_deref());
            let tried: Vec<_> = places.iter().map(|p| p.path.display().to_string()).collect();
            notes.add("NPU", Status::Failed, format!("{} (tried: {})", chain(&error), tried.join(", ")), Some(advice));
            return false;
        }
    };
    let info = device.library();
    notes.add(
        "QNN",
        Status::Ok,
        format!(
            "provider {}, build {}, core API {}, HTP API {}; system library {} with API {}",
            info.provider,
            info.build_id,
            info.core_api,
            info.backend_api,
            info.system_path.display(),
            info.system_api
        ),
        None,
    );
    let p = device.profile();
    let limits = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    notes.add(
        "chip",
        Status::Ok,
        format!(
            "{} (SoC {}, {}); {} per context, {} per process; buffers: {:?}",
            p.name,
            p.soc_id.map_or_else(|| "–".to_owned(), |id| id.to_string()),
            p.arch.as_deref().unwrap_or("architecture not listed"),
            limits(p.max_context_bytes),
            limits(p.max_device_bytes),
            p.buffer_kind
        ),
        None,
    );
    match device.performance_note() {
        None => notes.add("clocks", Status::Ok, "votes for burst performance are taken", None),
        Some(note) => notes.add("clocks", Status::Note, note, None),
    }
    match tiny_graph(&device) {
        Ok(found) => notes.add("tiny graph", Status::Ok, found, None),
        Err(error) => {
            notes.add(
                "tiny graph",
                Status::Failed,
                chain(&error),
                Some("see the library's own messages: run again with --log qnn=debug"),
            );
            return false;
        }
    }
    true
}

/// Compiles one small linear, runs it, compares with the simulated NPU, saves, loads and runs it again.
fn tiny_graph(device: &QnnDevice) -> Result<String, RuntimeError> {
    let spec = tiny_spec();
    let config = random::named_config("tiny")?;
    let weights = SyntheticWeights { config };
    let started = Instant::now();
    let context = device.compile(&spec, &weights, false)?;
    let compile_ms = started.elapsed().as_secs_f64() * 1e3;
    let graph = &spec.graphs[0];
    let inputs = selftest_inputs(graph, 1);
    let started = Instant::now();
    let theirs = selftest_execute(device, &context, graph, &inputs, 1)?.outputs;
    let run_ms = started.elapsed().as_secs_f64() * 1e3;
    let sim = SimDevice::new(SimOptions::named("ideal").ok_or_else(|| bug("no profile `ideal`"))?);
    let prepared = sim.prepare(&spec, &weights)?;
    let ours = selftest_execute(&sim, &*prepared, graph, &inputs, 1)?.outputs;
    if ours != theirs {
        return Err(bug(
            "the NPU computes other numbers than the simulated one; this version of the library is not known",
        ));
    }
    let blob = context.serialize()?;
    let manifest = Manifest::new(ManifestArgs {
        model_hash: "tiny",
        chunk_lens: &[32],
        placement: Placement::Split,
        profile: device.profile(),
        spec: &spec,
        qnn: Some(context.versions().clone()),
        blob: &blob,
    });
    drop(context);
    let started = Instant::now();
    let loaded = device.load(&blob, &manifest)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let again = selftest_execute(device, &*loaded, graph, &inputs, 1)?.outputs;
    if again != theirs {
        return Err(bug("the binary gives other numbers after it was saved and loaded"));
    }
    Ok(format!(
        "compiled in {compile_ms:.0} ms, first run {run_ms:.0} ms, equal to the simulated NPU bit for bit; binary of {} bytes \
         loaded in {load_ms:.0} ms",
        blob.len()
    ))
}

fn bug(text: &str) -> RuntimeError {
    RuntimeError::Schedule(text.to_owned())
}

fn tiny_spec() -> ContextSpec {
    let encoding = |scale| Encoding::Tensor { scale, zero_point: 128 };
    let weights = WeightSpec {
        tensor: TensorName::Layer(LayerIdx(0), LayerTensor::O),
        rows: 0..64,
        k: 64,
        encoding: WeightEncoding::PerChannelI8,
    };
    ContextSpec {
        name: "tiny".to_owned(),
        graphs: vec![GraphSpec {
            name: "linear".to_owned(),
            inputs: vec![TensorSpec::activation("x", 32, 64, Dtype::U8, encoding(0.02))],
            outputs: vec![TensorSpec::activation("y", 32, 64, Dtype::U8, encoding(0.01))],
            intermediates: Vec::new(),
            nodes: vec![OpSpec::Conv2d1x1 { input: "x".to_owned(), weights, bias: None, output: "y".to_owned() }],
        }],
    }
}

fn directories(notes: &mut Notes, options: &DoctorOptions) {
    if let Some(dir) = &options.state_dir {
        match marker::crash_report(dir, "qnn") {
            None => notes.add("crashed runs", Status::Ok, "none", None),
            Some(report) => notes.add(
                "crashed runs",
                Status::Note,
                report,
                Some("`coexec doctor --clear` forgets them; --npu qnn tries anyway"),
            ),
        }
    }
    let Some(cache) = &options.cache else {
        let advice = Some("set COEXEC_CACHE_DIR to a directory that this process may write");
        return notes.add("cache", Status::Note, "no directory for compiled models", advice);
    };
    let entries = cache.list();
    let bytes: u64 = entries.iter().map(|e| e.bytes).sum();
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let found = format!(
        "{} compiled models in {}, {} of at most {}",
        entries.len(),
        cache.root().display(),
        gib(bytes),
        gib(cache.limit_bytes())
    );
    match cache.probe() {
        Ok(()) => notes.add("cache", Status::Ok, found, None),
        Err(error) => notes.add(
            "cache",
            Status::Failed,
            format!("{found}; nothing can be added: {error}"),
            Some("--npu qnn compiles on first use and needs it; or compile with `coexec compile` and name --npu-dir"),
        ),
    }
}
