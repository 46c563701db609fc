//! One job of the compiler: one context, or an estimate. In this process or in a child.
//!
//! A child gets a [`JobRequest`] as a line of JSON on stdin and answers on stdout: a word per [`JobStep`], and a line of JSON,
//! a [`JobReply`]. Its stderr is ours. It is started anew, never forked: the library's threads do not survive a fork.
//! It has a process group of its own, so that Ctrl-C at a terminal reaches this process alone, which ends the child; and it
//! ends itself when its stdin does, so that it does not outlive this process however that ends.

use super::{
    CompileOptions, CompiledContext, EstimateReport, estimate,
    memory::peak_bytes,
    selftest::{Recording, compare, execute, record},
};
use crate::{Model, RuntimeError, npu::ModelWeights};
use coexec_model::{output::write_whole, random};
use coexec_npu::{
    ContextSpec, Manifest, NpuContext as _, NpuDevice, OpSpec, SimDevice, SimOptions, WeightSource,
    manifest::ManifestArgs,
    qnn::{QnnDevice, QnnOptions},
};
use coexec_scheduler::CancelToken;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    ops::ControlFlow,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How often it is looked whether a job is to be stopped.
const POLL: Duration = Duration::from_millis(20);

/// Something that a job has done with one of its graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// Compiled it.
    Compiled,
    /// Executed it, compared it with the simulated NPU and recorded it.
    Checked,
}

impl JobStep {
    /// The line that a child writes for it.
    fn word(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Checked => "checked",
        }
    }

    fn of_word(line: &str) -> Option<Self> {
        [Self::Compiled, Self::Checked].into_iter().find(|step| step.word() == line)
    }
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRequest {
    /// Options of the whole compilation.
    pub options: CompileOptions,
    /// Where the library is, when it is not to be searched.
    pub library_dir: Option<PathBuf>,
    /// Shape by name in place of a model.
    pub shape: Option<String>,
    /// The job.
    pub task: JobTask,
}

/// The job itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobTask {
    /// Compile the context with this index and write it into a directory.
    Context {
        /// Index in [`CompileOptions::contexts`].
        index: usize,
        /// Directory that is there.
        dir: PathBuf,
    },
    /// State the compiler's estimates.
    Estimate,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobReply {
    /// A context was written.
    Context(Box<ContextReport>),
    /// Estimates.
    Estimate(Box<EstimateReport>),
    /// It failed.
    Error(String),
}

/// What is known about a context that was compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextReport {
    /// Its place in the index of the compiled model.
    pub context: CompiledContext,
    /// Graphs in it.
    pub graphs: usize,
    /// Milliseconds to build and finalise all graphs.
    pub compile_ms: f64,
    /// Bytes of the binary.
    pub binary_bytes: u64,
    /// Bytes of its weights as codes, each counted once.
    pub weight_bytes: u64,
    /// Comparison with the simulated device, when recording was asked for.
    pub against_sim: Option<AgainstSim>,
    /// Most memory that was expected for the job, in bytes.
    pub expected_peak_bytes: u64,
    /// Most memory that the job's process took; `None` where the system does not tell.
    #[serde(default)]
    pub peak_rss_bytes: Option<u64>,
}

/// How the chip's graphs, executed before they were saved, compare with the simulated device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgainstSim {
    /// Graphs compared.
    pub graphs: usize,
    /// Of those, graphs whose outputs are bit-equal.
    pub equal: usize,
    /// Largest difference as a share of what is allowed; above 1 the compilation fails.
    pub worst_share: f64,
    /// Graph with that difference.
    pub worst_graph: String,
}

/// Where jobs run.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// In this process.
    #[default]
    InProcess,
    /// Each in a child process.
    Child(ChildCompiler),
}

/// A program that runs jobs: `coexec compile-job`.
#[derive(Clone, Debug)]
pub struct ChildCompiler {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, which name the model.
    pub args: Vec<OsString>,
}

impl Compiler {
    /// Runs a job and tells `step` what is done with each of its graphs. `model` is used in this process only; a child opens
    /// it anew. A job in this process is stopped between two graphs, a child at once.
    ///
    /// # Errors
    /// The job's; a child that crashes or cannot be started; [`RuntimeError::Cancelled`].
    pub fn run(
        &self,
        request: &JobRequest,
        model: Option<&Model>,
        cancel: &CancelToken,
        step: &mut dyn FnMut(JobStep),
    ) -> Result<JobReply, RuntimeError> {
        match self {
            Self::InProcess => run_job(request, model, cancel, step),
            Self::Child(child) => child.run(request, cancel, step),
        }
    }
}

/// A child that is ended, with all that it started, when this is dropped before it ended itself.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        // All fail only when the child is gone, which is what is wanted.
        let _ = pid.map(|pid| rustix::process::kill_process_group(pid, rustix::process::Signal::KILL));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ChildCompiler {
    fn run(
        &self,
        request: &JobRequest,
        cancel: &CancelToken,
        step: &mut dyn FnMut(JobStep),
    ) -> Result<JobReply, RuntimeError> {
        let failed = |reason: String| RuntimeError::CompileJob { program: self.program.clone(), reason };
        let child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            // Large blocks go back to the system when the compiler frees them: a tenth less at the peak (glibc).
            .envs([("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_ARENA_MAX", "1")])
            .spawn()
            .map_err(|e| failed(format!("could not be started: {e}")))?;
        let mut child = Group(child);
        let mut json = serde_json::to_vec(request).map_err(|e| failed(e.to_string()))?;
        json.push(b'\n');
        // Open until the job has ended: its end is the child's. A child that died already is reported below by its status.
        let mut stdin = child.0.stdin.take();
        let _ = stdin.as_mut().map(|stdin| stdin.write_all(&json));
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.0.stdout.take() {
            let read = move || {
                // Nobody listens any more when the job was stopped.
                BufReader::new(stdout).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
            };
            std::thread::spawn(read);
        }
        let mut reply = None;
        // Ends when the child's stdout does.
        loop {
            match lines.recv_timeout(POLL) {
                Ok(line) => match JobStep::of_word(&line) {
                    Some(done) => step(done),
                    None => reply = serde_json::from_str::<JobReply>(&line).ok().or(reply),
                },
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
        }
        let status = loop {
            match child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if cancel.is_cancelled() => return Err(RuntimeError::Cancelled),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(failed(format!("could not be waited for: {e}"))),
            }
        };
        // Ctrl-C reaches a child that is being started before it has a group of its own, maybe sooner than this process's token.
        let interrupted = status.signal() == Some(rustix::process::Signal::INT.as_raw());
        match reply {
            _ if interrupted || cancel.is_cancelled() => Err(RuntimeError::Cancelled),
            Some(JobReply::Error(reason)) => Err(failed(reason)),
            Some(reply) if status.success() => Ok(reply),
            _ => Err(failed(format!(
                "ended with {status} and no result: the library's compiler crashed or the system was out of memory; try fewer \
                 chunk lengths or --graphs-per-context, and see its messages above (--log debug)"
            ))),
        }
    }
}

/// The child's side: reads a request from stdin, runs it, writes what is ready and the reply to stdout. From then on the end
/// of stdin ends this process.
///
/// # Errors
/// When stdin holds no request, `model` fails, or nobody reads stdout; the job's own errors go to stdout.
pub fn serve_job(
    model: impl FnOnce() -> Result<Model, String>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let request: JobRequest =
        serde_json::from_str(&line).map_err(|e| format!("no compile job on stdin ({e}); this command is internal"))?;
    std::thread::spawn(|| {
        // Reads until whoever asked is gone; destructors of a library at work are not to be run into.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    // Nobody reads any more: then the job is of no use, and stdin will say so.
    let say = |line: &str| writeln!(io::stdout().lock(), "{line}").and_then(|()| io::stdout().flush());
    let mut step = |done: JobStep| _ = say(done.word());
    let run = || {
        let model = if request.shape.is_none() { Some(model()?) } else { None };
        run_job(&request, model.as_ref(), &CancelToken::new(), &mut step).map_err(|e| crate::error::chain(&e))
    };
    let reply = run().unwrap_or_else(JobReply::Error);
    say(&serde_json::to_string(&reply)?)?;
    Ok(())
}

/// Runs a job in this process.
///
/// # Errors
/// Whatever the device refuses, a directory that cannot be written, results that differ from the simulated device's;
/// [`RuntimeError::Cancelled`].
pub fn run_job(
    request: &JobRequest,
    model: Option<&Model>,
    cancel: &CancelToken,
    step: &mut dyn FnMut(JobStep),
) -> Result<JobReply, RuntimeError> {
    let options = &request.options;
    let device = QnnDevice::open(qnn_options(options, request.library_dir.as_deref()))?;
    match (&request.task, model) {
        (JobTask::Context { index, dir }, Some(model)) => {
            let job = ContextJob { device: &device, model, options, cancel };
            Ok(JobReply::Context(Box::new(job.run(*index, dir, step)?)))
        }
        (JobTask::Context { .. }, None) => {
            Err(RuntimeError::Schedule("a context is compiled from a model; this is a bug of coexec".to_owned()))
        }
        (JobTask::Estimate, model) => {
            let named = request.shape.as_deref().map(random::named_config).transpose()?;
            let estimated = match (&named, model) {
                (Some(config), _) => estimate::Estimated::Shape(config),
                (None, Some(model)) => estimate::Estimated::Model(model),
                (None, None) => {
                    let text = "an estimate is of a model or a shape; this is a bug of coexec";
                    return Err(RuntimeError::Schedule(text.to_owned()));
                }
            };
            Ok(JobReply::Estimate(Box::new(estimate::estimate(&device, estimated, options, &mut || {
                step(JobStep::Compiled)
            })?)))
        }
    }
}

/// The device that a compilation is for.
pub(crate) fn qnn_options(options: &CompileOptions, library_dir: Option<&Path>) -> QnnOptions {
    QnnOptions {
        lib_dir: library_dir.map(Path::to_owned),
        vtcm_mb: options.vtcm_mb,
        hvx_threads: options.hvx_threads,
        optimization_level: options.optimization,
        weight_sharing: options.share_weights,
        profiling: true,
        ..QnnOptions::chip(&options.chip)
    }
}

/// What compiling a context is done with.
struct ContextJob<'a> {
    device: &'a QnnDevice,
    model: &'a Model,
    options: &'a CompileOptions,
    cancel: &'a CancelToken,
}

impl ContextJob<'_> {
    fn run(&self, index: usize, dir: &Path, step: &mut dyn FnMut(JobStep)) -> Result<ContextReport, RuntimeError> {
        let Self { device, model, options, cancel } = *self;
        let contexts = options.contexts_of(model, device.profile())?;
        let spec = contexts.get(index).ok_or_else(|| {
            RuntimeError::Schedule(format!("context {index} of {}; this is a bug of coexec", contexts.len()))
        })?;
        let weights = ModelWeights::new(model);
        let started = Instant::now();
        let mut ready = || {
            step(JobStep::Compiled);
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let context = device.compile_watched(spec, &weights, false, &mut ready)?.ok_or(RuntimeError::Cancelled)?;
        let compile_ms = started.elapsed().as_secs_f64() * 1e3;
        let mut recording = None;
        let mut against_sim = None;
        if options.record {
            let (found, recorded) = compare_and_record(device, &context, &weights, cancel, step)?;
            against_sim = Some(found);
            let file = format!("{}.selftest", spec.name);
            write_whole(&dir.join(&file), &recorded.to_bytes()?)?;
            recording = Some(file);
        }
        let blob = context.serialize()?;
        let versions = context.versions().clone();
        // The compiler's copies of the weights go before the binary is hashed and written.
        drop(context);
        let manifest = Manifest::new(ManifestArgs {
            model_hash: &model.hash_hex(),
            chunk_lens: &options.chunk_lens,
            placement: options.placement,
            profile: device.profile(),
            spec,
            blob: &blob,
            qnn: Some(versions),
        });
        let file = format!("{}.bin", spec.name);
        write_whole(&dir.join(&file), &blob)?;
        Ok(ContextReport {
            context: CompiledContext { file, recording, manifest },
            graphs: spec.graphs.len(),
            compile_ms,
            binary_bytes: blob.len() as u64,
            weight_bytes: spec.weights().iter().map(|w| w.device_bytes()).sum(),
            against_sim,
            expected_peak_bytes: peak_bytes(spec, options.record),
            peak_rss_bytes: crate::stats::peak_rss_bytes(),
        })
    }
}

/// Executes every graph before it is saved (a weight-shared binary cannot be loaded again here), compares it with `sim` and
/// records it.
fn compare_and_record(
    device: &QnnDevice,
    context: &dyn coexec_npu::NpuContext,
    weights: &dyn WeightSource,
    cancel: &CancelToken,
    step: &mut dyn FnMut(JobStep),
) -> Result<(AgainstSim, Recording), RuntimeError> {
    let spec = context.spec();
    let options = SimOptions::named("ideal")
        .ok_or_else(|| RuntimeError::Schedule("no profile `ideal`; this is a bug of coexec".to_owned()))?;
    let sim = SimDevice::new(options);
    let mut found = AgainstSim { graphs: spec.graphs.len(), ..AgainstSim::default() };
    let recorded = record(device, context, &mut |graph, inputs, theirs| {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        let alone = ContextSpec { name: spec.name.clone(), graphs: vec![graph.clone()] };
        let prepared = sim.prepare(&alone, weights)?;
        let ours = execute(&sim, &*prepared, graph, inputs, 1)?.outputs;
        let (equal, worst, allowed) = compare(graph, theirs, &ours);
        found.equal += usize::from(equal);
        if worst / allowed >= found.worst_share {
            found.worst_share = worst / allowed;
            found.worst_graph.clone_from(&graph.name);
        }
        let exact = graph.nodes.iter().all(|n| matches!(n, OpSpec::Conv2d1x1 { .. }));
        if exact && worst > allowed {
            return Err(RuntimeError::Schedule(format!(
                "graph `{}` computes other numbers than the simulated NPU (worst {worst}, {allowed} allowed): this version of \
                 Qualcomm's library is not to be trusted with it",
                graph.name
            )));
        }
        step(JobStep::Checked);
        Ok(())
    })?;
    Ok((found, recorded))
}
