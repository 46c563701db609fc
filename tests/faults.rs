//! Failures of the NPU in the middle of a prompt: the prompt always ends, on fresh static graphs, on the next NPU or on the
//! CPU, the caller is told, and no session is lost.

mod support;

use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice, RuntimeError, Session,
    model::{TokenId, WeightFormat, packed::PackedFile},
    npu::{
        Bindings, Completion, ContextSpec, DeviceProfile, FaultPlan, GraphId, NpuContext, NpuError, PrepareFault,
        SubmitFault, Ticket,
    },
    runtime::{
        Model,
        npu::{NpuBackend, NpuKind, OpenNpu, SimBackend, marker},
        prefill::{PrefillOptions, PrefillOutput},
    },
    scheduler::Processor,
};
use parking_lot::Mutex;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use support::{Packed, calibration_text, demo_dir};

static DEMO: LazyLock<Packed> =
    LazyLock::new(|| Packed::import(&demo_dir(), WeightFormat::Q8, Some(calibration_text()[..6000].to_owned())));

/// Every way in which a graph can fail.
const KINDS: [SubmitFault; 6] = [
    SubmitFault::Lost,
    SubmitFault::Code(1002),
    SubmitFault::Code(4000),
    SubmitFault::Code(5000),
    SubmitFault::Code(14001),
    SubmitFault::Hang,
];

fn tokens(n: u32, seed: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId((i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed) % 4096)).collect()
}

fn first_turn() -> Vec<TokenId> {
    tokens(45, 1)
}

fn second_turn() -> Vec<TokenId> {
    tokens(70, 2)
}

fn options(npu: NpuChoice, submit: &[(u64, SubmitFault)]) -> EngineOptions {
    let hangs = submit.iter().any(|(_, kind)| *kind == SubmitFault::Hang);
    EngineOptions {
        npu,
        chunk_lens: vec![16, 32],
        threads: 2,
        faults: FaultPlan { submit: submit.to_vec(), ..FaultPlan::default() },
        npu_deadline: Duration::from_secs(if hangs { 1 } else { 120 }),
        ..EngineOptions::default()
    }
}

fn failing_prepares(npu: NpuChoice, failing: &[u64], submit: &[(u64, SubmitFault)], code: u32) -> EngineOptions {
    let mut options = options(npu, submit);
    options.faults.prepare = failing.iter().map(|nth| PrepareFault { nth: *nth, code }).collect();
    options
}

fn prefill(session: &mut Session, prompt: &[TokenId]) -> PrefillOutput {
    session.prefill(prompt, &PrefillOptions::default()).expect("every prompt ends")
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

/// Logits after the first and after the second turn, and of a token decoded after the first, without any failure.
struct Healthy {
    first: Vec<u32>,
    second: Vec<u32>,
    decoded: Vec<u32>,
    /// Static graphs that run in the first and in the second turn.
    submits: [u64; 2],
}

impl Healthy {
    fn on(npu: NpuChoice) -> Self {
        let engine = DEMO.engine(options(npu, &[]));
        let mut session = engine.session();
        let first = prefill(&mut session, &first_turn());
        let decoded = bits(session.decode(TokenId(7)).expect("decode"));
        session.truncate(45);
        let second = prefill(&mut session, &second_turn());
        let submits = [&first, &second].map(|turn| turn.plan.graph.count_on(Processor::Npu) as u64);
        Self { first: bits(&first.logits), second: bits(&second.logits), decoded, submits }
    }
}

static SIM: LazyLock<Healthy> = LazyLock::new(|| Healthy::on(NpuChoice::Sim));
static CPU: LazyLock<Healthy> = LazyLock::new(|| Healthy::on(NpuChoice::None));

/// Checks that a report names the device, the graph and what happened.
fn assert_tells(text: &str, kind: SubmitFault) {
    let cause = match kind {
        SubmitFault::Lost => "subsystem restarted".to_owned(),
        SubmitFault::Code(code) => format!("code {code}"),
        SubmitFault::Hang => "did not finish within 1s".to_owned(),
    };
    for part in ["sim:sm8650", "graph `", ".c", &cause] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

/// Turn one ended on `engine`; the next turn and a truncated session work.
fn assert_session_lives(session: &mut Session, want: &Healthy) {
    assert_eq!(session.tokens().len(), 45);
    assert_eq!(bits(session.decode(TokenId(7)).expect("decode")), want.decoded);
    session.truncate(45);
    assert_eq!(bits(&prefill(session, &second_turn()).logits), want.second);
}

#[test]
fn one_failure_anywhere_is_cured_by_a_fresh_context() {
    assert!(SIM.submits[0] > 20 && CPU.submits[0] == 0);
    for kind in KINDS {
        for at in [0, SIM.submits[0] / 2, SIM.submits[0] - 1] {
            let engine = DEMO.engine(options(NpuChoice::Sim, &[(at, kind)]));
            let mut session = engine.session();
            let output = prefill(&mut session, &first_turn());
            assert_eq!(bits(&output.logits), SIM.first, "{kind:?} at {at}");
            assert_eq!(output.ran_elsewhere, [""; 0]);
            assert_eq!(output.npu_failures.len(), 1);
            assert_tells(&output.npu_failures[0], kind);
            assert_eq!((engine.npu_device(), &*engine.npu_reason()), ("sim", "asked for"));
            assert_session_lives(&mut session, &SIM);
        }
    }
}

#[test]
fn after_two_failures_the_prompt_ends_on_the_cpu_and_the_engine_stays_there() {
    for kind in KINDS {
        for (at, again) in [(0, 0), (SIM.submits[0] / 2, 0), (0, SIM.submits[0] - 1)] {
            // The prompt begins again at submit `at + 1`.
            let engine = DEMO.engine(options(NpuChoice::Sim, &[(at, kind), (at + 1 + again, kind)]));
            let mut session = engine.session();
            let output = prefill(&mut session, &first_turn());
            assert_eq!(bits(&output.logits), CPU.first, "{kind:?} at {at}");
            assert_eq!((output.ran_elsewhere.len(), output.npu_failures.len()), (1, 2));
            assert_tells(&output.ran_elsewhere[0], kind);
            assert!(output.ran_elsewhere[0].contains("on the CPU instead of sim"), "{:?}", output.ran_elsewhere);
            assert_eq!(output.plan.graph.count_on(Processor::Npu), 0);
            assert_eq!(engine.npu_device(), "none");
            assert_tells(&engine.npu_reason(), kind);
            assert_session_lives(&mut session, &CPU);
            let next = prefill(&mut engine.session(), &first_turn());
            assert_eq!(bits(&next.logits), CPU.first);
            assert_eq!((next.ran_elsewhere.len(), next.npu_failures.len()), (0, 0), "the reason tells it now");
        }
    }
}

#[test]
fn a_failing_second_turn_leaves_the_first_one_as_it_was() {
    let start = SIM.submits[0];
    for kind in KINDS {
        for at in [start, start + SIM.submits[1] / 2, start + SIM.submits[1] - 1] {
            let engine = DEMO.engine(options(NpuChoice::Sim, &[(at, kind), (at + 1, kind)]));
            let mut session = engine.session();
            assert_eq!(bits(&prefill(&mut session, &first_turn()).logits), SIM.first);
            let second = prefill(&mut session, &second_turn());
            assert_eq!(second.ran_elsewhere.len(), 1, "{kind:?} at {at}");
            assert!(second.logits.iter().all(|v| v.is_finite()));
            assert_eq!(session.tokens().len(), 45 + 70);
            session.truncate(45);
            assert_eq!(bits(session.decode(TokenId(7)).expect("decode")), SIM.decoded, "K and V of turn one");
        }
    }
}

#[test]
fn graphs_that_cannot_be_made_are_an_error_when_asked_for_and_a_reason_on_auto() {
    for code in [1002, 4000, 5000, 14001] {
        let engine = DEMO.engine(failing_prepares(NpuChoice::Sim, &[0, 1], &[], code));
        let mut session = engine.session();
        for _ in 0..2 {
            let error = session.prefill(&first_turn(), &PrefillOptions::default()).expect_err("no silent fallback");
            let found =
                matches!(&error, RuntimeError::Npu(e) if matches!(**e, NpuError::Code { code: c, .. } if c == code));
            assert!(found, "{error}");
            assert_eq!((session.tokens().len(), session.kv_bytes()), (0, 0));
        }
        assert_eq!(bits(&prefill(&mut session, &first_turn()).logits), SIM.first, "the third time it works");

        let once = DEMO.engine(failing_prepares(NpuChoice::Auto, &[0], &[], code));
        let output = prefill(&mut once.session(), &first_turn());
        assert_eq!((bits(&output.logits) == SIM.first, output.ran_elsewhere.len()), (true, 0));

        let twice = DEMO.engine(failing_prepares(NpuChoice::Auto, &[0, 1], &[], code));
        twice.prepare_npu(&CancelToken::new()).expect("auto goes on without");
        assert_eq!(twice.npu_device(), "none");
        let output = prefill(&mut twice.session(), &first_turn());
        assert_eq!(bits(&output.logits), CPU.first);
        let told = &output.ran_elsewhere;
        assert!(
            told.len() == 1 && told[0].contains("sim:sm8650") && told[0].contains(&format!("code {code}")),
            "{told:?}"
        );
        assert_eq!(prefill(&mut twice.session(), &first_turn()).ran_elsewhere.len(), 0, "told once");
    }
}

#[test]
fn a_context_that_cannot_be_made_again_is_given_up_also_when_asked_for() {
    for choice in [NpuChoice::Sim, NpuChoice::Auto] {
        let faults = [(SIM.submits[0] / 2, SubmitFault::Lost)];
        let engine = DEMO.engine(failing_prepares(choice, &[1], &faults, 1002));
        let mut session = engine.session();
        let output = prefill(&mut session, &first_turn());
        assert_eq!(bits(&output.logits), CPU.first);
        assert_tells(&output.ran_elsewhere[0], SubmitFault::Lost);
        assert!(output.ran_elsewhere[0].contains("code 1002"), "{:?}", output.ran_elsewhere);
        assert_session_lives(&mut session, &CPU);
    }
}

#[test]
fn prompts_that_share_a_lost_context_all_end() {
    for kind in [SubmitFault::Lost, SubmitFault::Code(4000), SubmitFault::Hang] {
        let engine = DEMO.engine(options(NpuChoice::Sim, &[(SIM.submits[0] / 2, kind)]));
        let outputs: Vec<PrefillOutput> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..3).map(|_| scope.spawn(|| prefill(&mut engine.session(), &first_turn()))).collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).collect()
        });
        assert!(outputs.iter().any(|o| o.npu_failures.len() == 1));
        for output in &outputs {
            assert_eq!(bits(&output.logits), SIM.first, "{kind:?}: {:?}", output.npu_failures);
            assert_eq!(output.ran_elsewhere.len(), 0);
        }
    }
}

#[test]
fn a_prompt_cancelled_while_the_npu_hangs_leaves_the_session_as_it_was() {
    let engine = DEMO.engine(options(NpuChoice::Sim, &[(SIM.submits[0] + 3, SubmitFault::Hang)]));
    let mut session = engine.session();
    prefill(&mut session, &first_turn());
    let (kv_bytes, cancel) = (session.kv_bytes(), CancelToken::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        let token = cancel.clone();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            token.cancel();
        });
        let options = PrefillOptions { cancel, ..PrefillOptions::default() };
        let error = session.prefill(&second_turn(), &options).expect_err("cancelled");
        assert!(matches!(error, RuntimeError::Cancelled), "{error}");
    });
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(session.kv_bytes(), kv_bytes);
    assert_session_lives(&mut session, &SIM);
}

/// A "chip": the simulated one, that counts the markers in a directory whenever a graph is submitted.
struct Chip {
    sim: SimBackend,
    dir: PathBuf,
    markers: Arc<Mutex<Vec<usize>>>,
}

struct ChipContext {
    inner: Box<dyn NpuContext>,
    dir: PathBuf,
    markers: Arc<Mutex<Vec<usize>>>,
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

impl NpuBackend for Chip {
    fn name(&self) -> &'static str {
        "chip"
    }
    fn is_real(&self) -> bool {
        true
    }
    fn profile(&self) -> &DeviceProfile {
        self.sim.profile()
    }
    fn open(&self, model: &Model, chunk_lens: &[usize], cancel: &CancelToken) -> Result<OpenNpu, RuntimeError> {
        // One context per chunk length, as chips have them whose binaries do not share weights.
        let mut contexts: Vec<Box<dyn NpuContext>> = Vec::new();
        let mut device = None;
        for chunk_len in chunk_lens {
            let open = self.sim.open(model, &[*chunk_len], cancel)?;
            contexts.extend(open.contexts.into_iter().map(|inner| -> Box<dyn NpuContext> {
                Box::new(ChipContext { inner, dir: self.dir.clone(), markers: Arc::clone(&self.markers) })
            }));
            device = Some(open.device);
        }
        Ok(OpenNpu { contexts, device: device.expect("a chunk length") })
    }
}

impl NpuContext for ChipContext {
    fn spec(&self) -> &ContextSpec {
        self.inner.spec()
    }
    fn graph(&self, name: &str) -> Option<GraphId> {
        self.inner.graph(name)
    }
    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.markers.lock().push(count(&self.dir));
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

/// An engine on a chip with these faults; the simulated NPU behind it has none.
fn chip(npu: NpuChoice, dir: &Path, faults: &[(u64, SubmitFault)]) -> (Engine, Arc<Mutex<Vec<usize>>>) {
    let markers = Arc::new(Mutex::new(Vec::new()));
    let sim = SimBackend::new(&options(npu, faults), Arc::new(coexec_cpu::Pool::new(2))).expect("a simulated device");
    let chip = Chip { sim, dir: dir.to_owned(), markers: Arc::clone(&markers) };
    let file = PackedFile::open(&DEMO.path).expect("our own file");
    let options = EngineOptions { state_dir: Some(dir.to_owned()), ..options(npu, &[]) };
    (Engine::with_backend(file, options, Arc::new(chip)).expect("engine"), markers)
}

#[test]
fn the_first_graph_of_a_real_npu_runs_under_a_marker() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (engine, markers) = chip(NpuChoice::Auto, dir.path(), &[(0, SubmitFault::Code(4000))]);
    let mut session = engine.session();
    let output = prefill(&mut session, &first_turn());
    assert_eq!((bits(&output.logits) == SIM.first, output.npu_failures.len()), (true, 1));
    let seen = markers.lock().clone();
    assert_eq!(seen.len() as u64, 1 + SIM.submits[0]);
    // The failed graph and the first one of the fresh context.
    assert_eq!((&seen[..2], seen[2..].iter().max()), (&[1, 1][..], Some(&0)));
    assert_eq!(count(dir.path()), 0);
    assert_session_lives(&mut session, &SIM);
}

#[test]
fn a_real_npu_that_fails_twice_is_followed_by_the_simulated_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for choice in [NpuChoice::Auto, NpuChoice::Qnn] {
        let (engine, _) = chip(choice, dir.path(), &[(5, SubmitFault::Lost), (9, SubmitFault::Code(14001))]);
        assert_eq!(engine.npu_device(), "chip");
        let mut session = engine.session();
        let output = prefill(&mut session, &first_turn());
        assert_eq!(bits(&output.logits), SIM.first, "the same numbers");
        assert!(output.ran_elsewhere[0].contains("on sim instead of chip"), "{:?}", output.ran_elsewhere);
        assert_tells(&output.ran_elsewhere[0], SubmitFault::Lost);
        assert_tells(&output.ran_elsewhere[0], SubmitFault::Code(14001));
        assert_eq!(engine.npu_device(), "sim");
        assert!(output.plan.graph.count_on(Processor::Npu) > 0);
        assert_session_lives(&mut session, &SIM);
    }
}

#[test]
fn auto_leaves_a_real_npu_out_that_took_its_process_down() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut process = marker::Process::this().expect("Linux");
    process.start_ticks += 1;
    let crash = marker::Marker { device: "chip:v1".to_owned(), process, unix_time_s: 0 };
    let path = dir.path().join("npu-chip.1.0.json");
    fs::write(&path, serde_json::to_vec(&crash).expect("JSON")).expect("writable");

    let (engine, markers) = chip(NpuChoice::Auto, dir.path(), &[]);
    assert_eq!(engine.npu_device(), "sim");
    let reason = engine.npu_reason();
    for part in ["chip is left out", "chip:v1", "coexec doctor --clear", "--npu chip"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(bits(&prefill(&mut engine.session(), &first_turn()).logits), SIM.first);
    assert!(path.exists() && markers.lock().is_empty());

    let (engine, markers) = chip(NpuChoice::Qnn, dir.path(), &[]);
    assert_eq!(engine.npu_device(), "chip", "asked for by name");
    prefill(&mut engine.session(), &first_turn());
    assert_eq!((markers.lock()[0], count(dir.path())), (1, 0), "its own marker replaced the old one");
    assert_eq!(chip(NpuChoice::Auto, dir.path(), &[]).0.npu_device(), "chip");
}

#[test]
fn real_is_a_chip_or_the_cpu_and_never_a_simulation() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (engine, _) = chip(NpuChoice::Real, dir.path(), &[(5, SubmitFault::Lost), (9, SubmitFault::Code(14001))]);
    assert_eq!(engine.npu_device(), "chip");
    let output = prefill(&mut engine.session(), &first_turn());
    assert!(output.ran_elsewhere[0].contains("on the CPU instead of chip"), "{:?}", output.ran_elsewhere);
    assert_eq!((engine.npu_device(), engine.npu_kind()), ("none", NpuKind::None));
    assert_eq!(bits(&output.logits), CPU.first);
    // Nothing here is a chip.
    let engine = DEMO.engine(options(NpuChoice::Real, &[]));
    assert_eq!((engine.npu_device(), engine.npu_kind()), ("none", NpuKind::None));
    assert!(
        engine.npu_reason().starts_with("real: ") && engine.npu_reason().contains("CPU"),
        "{}",
        engine.npu_reason()
    );
    assert_eq!(bits(&prefill(&mut engine.session(), &first_turn()).logits), CPU.first);
    assert_eq!(DEMO.engine(options(NpuChoice::Sim, &[])).npu_kind(), NpuKind::Simulated);
}
