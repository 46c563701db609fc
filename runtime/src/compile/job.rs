//! One job of the compiler: one context, or an estimate. In this process or in a child.
//!
//! A child gets a [`JobRequest`] as JSON on stdin and answers with one line of JSON, a [`JobReply`], on stdout; its stderr is
//! ours. It is started anew, never forked: the library's threads do not survive a fork.

use super::{
    CompileOptions, CompiledContext, EstimateReport,
    compiled::write_whole,
    estimate,
    selftest::{compare, execute, inputs, record},
};
use crate::{Model, RuntimeError, npu::ModelWeights};
use coexec_model::random;
use coexec_npu::{
    ContextSpec, Manifest, NpuContext as _, NpuDevice, OpSpec, SimDevice, SimOptions, WeightSource,
    manifest::ManifestArgs,
    qnn::{QnnDevice, QnnOptions},
};
use coexec_scheduler::CancelToken;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

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
    /// Runs a job. `model` is used in this process only; a child opens it anew.
    ///
    /// # Errors
    /// The job's; a child that crashes or cannot be started.
    pub fn run(
        &self,
        request: &JobRequest,
        model: Option<&Model>,
        cancel: &CancelToken,
    ) -> Result<JobReply, RuntimeError> {
        match self {
            Self::InProcess => run_job(request, model),
            Self::Child(child) => child.run(request, cancel),
        }
    }
}

impl ChildCompiler {
    fn run(&self, request: &JobRequest, cancel: &CancelToken) -> Result<JobReply, RuntimeError> {
        let failed = |reason: String| RuntimeError::CompileJob { program: self.program.clone(), reason };
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("could not be started: {e}")))?;
        let json = serde_json::to_vec(request).map_err(|e| failed(e.to_string()))?;
        // A child that died already is reported below by its status.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&json));
        let stdout = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.map(|mut out| out.read_to_string(&mut text));
            text
        });
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if cancel.is_cancelled() => {
                    // Both fail only when the child is gone, which is what is wanted.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(RuntimeError::Cancelled);
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(failed(format!("could not be waited for: {e}"))),
            }
        };
        let text = reader.join().unwrap_or_default();
        let reply = text.lines().rev().find_map(|line| serde_json::from_str::<JobReply>(line).ok());
        match reply {
            Some(JobReply::Error(reason)) => Err(failed(reason)),
            Some(reply) if status.success() => Ok(reply),
            _ => Err(failed(format!(
                "ended with {status} and no result: the library's compiler crashed or ran out of memory; try fewer chunk \
                 lengths or layers, and see its messages above (--log debug)"
            ))),
        }
    }
}

/// Runs a job in this process.
///
/// # Errors
/// Whatever the device refuses, a directory that cannot be written, results that differ from the simulated device's.
pub fn run_job(request: &JobRequest, model: Option<&Model>) -> Result<JobReply, RuntimeError> {
    let options = &request.options;
    let device = QnnDevice::open(qnn_options(options, request.library_dir.as_deref()))?;
    match (&request.task, model) {
        (JobTask::Context { index, dir }, Some(model)) => {
            Ok(JobReply::Context(Box::new(compile_context(&device, model, options, *index, dir)?)))
        }
        (JobTask::Context { .. }, None) => {
            Err(RuntimeError::Schedule("a context is compiled from a model; this is a bug of coexec".to_owned()))
        }
        (JobTask::Estimate, model) => {
            let named = request.shape.as_deref().map(random::named_config).transpose()?;
            let config = named.as_ref().or(model.map(Model::config)).ok_or_else(|| {
                RuntimeError::Schedule("an estimate is of a model or a shape; this is a bug of coexec".to_owned())
            })?;
            Ok(JobReply::Estimate(Box::new(estimate::estimate(&device, config, options)?)))
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

fn compile_context(
    device: &QnnDevice,
    model: &Model,
    options: &CompileOptions,
    index: usize,
    dir: &Path,
) -> Result<ContextReport, RuntimeError> {
    let contexts = options.contexts_of(model, device.profile())?;
    let spec = contexts.get(index).ok_or_else(|| {
        RuntimeError::Schedule(format!("context {index} of {}; this is a bug of coexec", contexts.len()))
    })?;
    let weights = ModelWeights::new(model);
    let started = Instant::now();
    let context = device.compile(spec, &weights, false)?;
    let compile_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut recording = None;
    let mut against_sim = None;
    if options.record {
        against_sim = Some(compare_with_sim(device, &context, spec, &weights)?);
        let file = format!("{}.selftest", spec.name);
        write_whole(&dir.join(&file), &record(device, &context)?.to_bytes()?)?;
        recording = Some(file);
    }
    let blob = context.serialize()?;
    let manifest = Manifest::new(ManifestArgs {
        model_hash: &model.hash_hex(),
        chunk_lens: &options.chunk_lens,
        placement: options.placement,
        profile: device.profile(),
        spec,
        blob: &blob,
        qnn: Some(context.versions().clone()),
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
    })
}

/// Executes every graph before it is saved (a weight-shared binary cannot be loaded again here) and compares with `sim`.
fn compare_with_sim(
    device: &QnnDevice,
    context: &dyn coexec_npu::NpuContext,
    spec: &ContextSpec,
    weights: &dyn WeightSource,
) -> Result<AgainstSim, RuntimeError> {
    let options = SimOptions::named("ideal")
        .ok_or_else(|| RuntimeError::Schedule("no profile `ideal`; this is a bug of coexec".to_owned()))?;
    let sim = SimDevice::new(options);
    let mut found = AgainstSim { graphs: spec.graphs.len(), ..AgainstSim::default() };
    for graph in &spec.graphs {
        let inputs = inputs(graph, 1);
        let theirs = execute(device, context, graph, &inputs, 1)?.outputs;
        let alone = ContextSpec { name: spec.name.clone(), graphs: vec![graph.clone()] };
        let prepared = sim.prepare(&alone, weights)?;
        let ours = execute(&sim, &*prepared, graph, &inputs, 1)?.outputs;
        let (equal, worst, allowed) = compare(graph, &theirs, &ours);
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
    }
    Ok(found)
}
