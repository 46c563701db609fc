//! The NPU in a child process: a crash there is a failure of the NPU and not the end. The same tale is told with the child
//! alive, with one that crashes in the middle of a prompt, and with children that always do.

mod support;

use coexec::{
    Engine, EngineOptions, GenerateRequest, Generation, NpuChoice, RuntimeError, SamplerOptions, Special,
    model::packed::PackedFile,
    npu::{
        Bindings, Completion, ContextSpec, DeviceProfile, GraphId, Manifest, NpuBuffer, NpuContext, NpuDevice,
        NpuError, Placement, RemoteDevice, RemoteOptions, SimDevice, SimOptions, Ticket, WeightSource,
        manifest::ManifestArgs,
        qnn::library_places,
        remote::{Served, serve},
    },
    runtime::{
        Model,
        npu::{ModelWeights, NpuBackend, NpuProcess, OpenNpu, QnnChoice, split_spec},
    },
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{root, skip};

/// Starts [`child_process`] in a process of its own.
const CHILD: &str = "COEXEC_TEST_NPU_CHILD";

/// What [`Chip`] starts. As a test of its own: a child whose parent is gone ends.
#[test]
fn child_process() {
    if std::env::var_os(CHILD).is_none() {
        let status = child_command().stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.expect("starts").success(), "it was told to end before it opened a device");
        return;
    }
    // The harness prints to standard output, which is elsewhere in this process.
    let output = File::options().write(true).open("/dev/fd/3").expect("given by the parent");
    serve(open_mortal, std::io::stdin(), output).expect("the parent's stream is sound");
}

/// This test program as a child.
fn child_command() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --exact child_process 3>&1 1>&2"]).stderr(Stdio::null());
    command.arg(std::env::current_exe().expect("a path")).env(CHILD, "yes");
    command
}

/// A simulated device whose process crashes at a submit (from 1; 0 never).
struct Mortal {
    sim: SimDevice,
    crash_at: u64,
    submits: Arc<AtomicU64>,
}

fn open_mortal(crash_at: &str) -> Result<Served, NpuError> {
    let crash_at = crash_at.parse().expect("a number");
    let sim = SimDevice::new(SimOptions::named("sm8650").expect("known"));
    Ok(Served::new(Box::new(Mortal { sim, crash_at, submits: Arc::default() })))
}

impl NpuDevice for Mortal {
    fn profile(&self) -> &DeviceProfile {
        self.sim.profile()
    }
    fn prepare(&self, spec: &ContextSpec, weights: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError> {
        self.sim.prepare(spec, weights)
    }
    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError> {
        let inner = self.sim.load(bytes, manifest)?;
        Ok(Box::new(MortalContext { inner, crash_at: self.crash_at, submits: Arc::clone(&self.submits) }))
    }
    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError> {
        self.sim.alloc(len_bytes)
    }
}

struct MortalContext {
    inner: Box<dyn NpuContext>,
    crash_at: u64,
    submits: Arc<AtomicU64>,
}

impl NpuContext for MortalContext {
    fn spec(&self) -> &ContextSpec {
        self.inner.spec()
    }
    fn graph(&self, name: &str) -> Option<GraphId> {
        self.inner.graph(name)
    }
    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        if self.submits.fetch_add(1, Ordering::Relaxed) + 1 == self.crash_at {
            std::process::abort();
        }
        self.inner.submit(graph, bindings)
    }
    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.inner.wait(ticket, deadline)
    }
    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        self.inner.serialize()
    }
    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }
}

/// A chip whose driver runs in a child; each child crashes at its own submit.
struct Chip {
    here: SimDevice,
    crashes: Vec<u64>,
    opened: AtomicUsize,
}

impl NpuBackend for Chip {
    fn name(&self) -> &'static str {
        "chip"
    }
    fn is_real(&self) -> bool {
        true
    }
    fn profile(&self) -> &DeviceProfile {
        self.here.profile()
    }
    fn open(&self, model: &Model, chunk_lens: &[usize], _: &coexec::CancelToken) -> Result<OpenNpu, RuntimeError> {
        let nth = self.opened.fetch_add(1, Ordering::Relaxed);
        let device = RemoteDevice::start(child_command(), &RemoteOptions::new(self.crashes[nth].to_string()))?;
        let spec = split_spec(model, chunk_lens)?;
        let blob = self.here.prepare(&spec, &ModelWeights::new(model))?.serialize()?;
        let manifest = Manifest::new(ManifestArgs {
            model_hash: &model.hash_hex(),
            chunk_lens,
            placement: Placement::Split,
            profile: self.profile(),
            spec: &spec,
            qnn: None,
            blob: &blob,
        });
        Ok(OpenNpu { contexts: vec![device.load(&blob, &manifest)?], device: Arc::new(device) })
    }
}

fn demo() -> PackedFile {
    PackedFile::open(&root().join("models/demo/demo.coexec")).expect("the demo model")
}

fn options(npu: NpuChoice) -> EngineOptions {
    EngineOptions { npu, chunk_lens: vec![16, 32], threads: 2, ..EngineOptions::default() }
}

fn tell(engine: &Engine) -> Generation {
    let text = "Once upon a time there was a child that ran a process of its own, and one day the process fell over. ";
    let request = GenerateRequest {
        prompt: engine.model().require_tokenizer().expect("has one").encode(text, Special::AddBos).expect("encodes"),
        max_tokens: 24,
        sampler: SamplerOptions::greedy(),
        stop: Vec::new(),
        ignore_eos: true,
        draft_tokens: 0,
        cancel: coexec::CancelToken::new(),
    };
    engine.session().generate(&request, &mut |_| {}).expect("every tale ends")
}

#[test]
fn a_crash_in_the_middle_of_a_prompt_costs_a_child_and_no_token() {
    let sim = tell(&Engine::new(demo(), options(NpuChoice::Sim)).expect("opens"));
    let on_chip = |crashes: &[u64]| {
        let here = SimDevice::new(SimOptions::named("sm8650").expect("known"));
        let chip = Arc::new(Chip { here, crashes: crashes.to_vec(), opened: AtomicUsize::new(0) });
        let engine = Engine::with_backend(demo(), options(NpuChoice::Qnn), chip.clone()).expect("opens");
        let told = tell(&engine);
        assert_eq!(told.tokens, sim.tokens, "crashes {crashes:?}");
        (engine.npu_device(), chip.opened.load(Ordering::Relaxed), told.stats)
    };
    let (device, children, stats) = on_chip(&[0]);
    assert_eq!((device, children, stats.ran_elsewhere.len()), ("chip", 1, 0));

    for at in [1, 7] {
        let (device, children, stats) = on_chip(&[at, 0]);
        assert_eq!((device, children, stats.ran_elsewhere.len()), ("chip", 2, 0), "a fresh child went on");
    }

    let (device, children, stats) = on_chip(&[5, 9]);
    assert_eq!((device, children, stats.ran_elsewhere.len()), ("sim", 2, 1));
    for part in ["on sim instead of chip", "was lost", "SIGABRT", "graph `"] {
        assert!(stats.ran_elsewhere[0].contains(part), "{part}: {:?}", stats.ran_elsewhere);
    }
}

/// Whether Qualcomm's library is here; a test without it is counted as skipped.
fn library(test: &str) -> bool {
    let is_there = library_places(None).iter().any(|p| p.is_there);
    if !is_there {
        skip(test, "no QNN library; `cargo xtask qnn` gets it");
    }
    is_there
}

/// The `npu-server` children of this process.
fn servers() -> Vec<u32> {
    let of_this = |id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        parent == Some(&std::process::id().to_string()) && command.contains("npu-server")
    };
    let ids = fs::read_dir("/proc").expect("Linux").flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_this).collect()
}

fn qnn_engine(cache: &Path, process: NpuProcess) -> Engine {
    let qnn = QnnChoice { cache_dir: Some(cache.to_owned()), process, ..QnnChoice::default() };
    Engine::new(demo(), EngineOptions { qnn, ..options(NpuChoice::Qnn) }).expect("opens")
}

#[test]
fn qualcomms_library_in_a_child_and_after_its_death() {
    if !library("qualcomms_library_in_a_child_and_after_its_death") {
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let sim = tell(&Engine::new(demo(), options(NpuChoice::Sim)).expect("opens"));
    let program = PathBuf::from(env!("CARGO_BIN_EXE_coexec"));
    let child = NpuProcess::Child { program: program.clone(), args: vec!["npu-server".into()] };
    let engine = qnn_engine(cache.path(), child);
    let told = tell(&engine);
    assert_eq!((told.tokens, told.stats.ran_elsewhere.len()), (sim.tokens.clone(), 0));
    let first = servers();
    assert_eq!(first.len(), 1);
    let killed = Command::new("kill").args(["-KILL", &first[0].to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let told = tell(&engine);
    assert_eq!((told.tokens, told.stats.ran_elsewhere.len()), (sim.tokens, 0));
    let second = servers();
    assert!(second.len() == 1 && second != first, "{second:?} after {first:?}");
    drop(engine);
    assert!(servers().is_empty());

    let run = |process: &str| {
        let args = ["run", "Once upon a time", "--greedy", "-n", "8", "--npu", "qnn", "--chunk-len", "16,32"];
        let out = Command::new(&program)
            .args(args)
            .args(["--npu-process", process])
            .env("COEXEC_CACHE_DIR", cache.path())
            .stdin(Stdio::null())
            .output()
            .expect("coexec starts");
        assert!(out.status.success(), "{process}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    assert_eq!(run("child"), run("here"));
}
