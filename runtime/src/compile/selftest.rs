//! Recorded results of every graph: made where a model is compiled, replayed on the phone.
//!
//! Inputs are drawn from a seed, so only outputs are stored: a hash of all of them, and some rows to measure a difference
//! with. Tolerances are stated per graph: Qualcomm does not promise equal results on every chip.

use super::{
    CompiledModel,
    prompt_check::{PromptCheck, Prompted, check_prompt},
};
use crate::{Model, RuntimeError};
use coexec_model::SplitMix64;
use coexec_npu::{
    Bindings, Dtype, Encoding, GraphSpec, NpuContext, NpuDevice, OpSpec, TensorSpec,
    qnn::{QnnDevice, Target},
};
use coexec_scheduler::CancelToken;
use half::f16;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use xxhash_rust::xxh3::xxh3_64;

/// Version of the recording's form.
const VERSION: u32 = 2;
/// Rows of each output that are stored.
const KEPT_ROWS: usize = 8;
/// Most bytes that a recording may unpack to.
const MAX_RECORDING_BYTES: u64 = 1 << 30;
/// Longest time of one execution (the emulation takes its time).
const DEADLINE: Duration = Duration::from_secs(600);
/// Timed executions of a graph in a replay.
const TIMED: usize = 3;

/// Recorded outputs of the graphs of one context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    version: u32,
    /// Context.
    pub context: String,
    /// Device that computed them.
    pub device: String,
    graphs: Vec<RecordedGraph>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RecordedGraph {
    name: String,
    seed: u64,
    input_hash: u64,
    outputs: Vec<RecordedTensor>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RecordedTensor {
    hash: u64,
    /// Kept rows, as codes (or the bits of f16).
    values: Vec<u16>,
}

/// One graph's result in a replay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraphCheck {
    /// Graph.
    pub graph: String,
    /// Its op types.
    pub ops: Vec<&'static str>,
    /// Output tensor with the largest difference.
    pub tensor: String,
    /// Whether all outputs are bit-equal to the recorded ones.
    pub equal: bool,
    /// Largest difference in the stored rows: in steps of the encoding, or relative to the largest value for floats.
    pub worst: f64,
    /// Largest difference that passes.
    pub allowed: f64,
    /// Whether it passes.
    pub passed: bool,
    /// Microseconds of the fastest of three executions, as the host sees them.
    pub host_us: u64,
    /// Microseconds as the device states them, where it does.
    pub device_us: Option<u64>,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelftestReport {
    /// Context.
    pub context: String,
    /// Device that replayed.
    pub device: String,
    /// Device that had recorded.
    pub recorded_on: String,
    /// Graph by graph.
    pub graphs: Vec<GraphCheck>,
    /// Whether every graph passed.
    pub passed: bool,
}

/// Largest difference that passes, by the op that tolerates most: steps for codes, a share of the largest value for floats.
fn allowed(graph: &GraphSpec, tensor: &TensorSpec) -> f64 {
    let only_linears = graph.nodes.iter().all(|n| matches!(n, OpSpec::Conv2d1x1 { .. }));
    // Rounding of softmax goes through everything after it.
    let attends = graph.nodes.iter().any(|n| matches!(n, OpSpec::Softmax { .. }));
    match tensor.dtype {
        Dtype::U8 | Dtype::I8 if only_linears => 1.0,
        Dtype::U8 | Dtype::I8 => 8.0,
        Dtype::U16 if only_linears => 4.0,
        Dtype::U16 if !attends => 16.0,
        Dtype::U16 => 328.0,
        _ => 0.01,
    }
}

/// Inputs for a graph: near a normal distribution over the codes (so that some saturate), rotations for `cos` and `sin`, a
/// causal mask for `mask`.
pub(crate) fn inputs(graph: &GraphSpec, seed: u64) -> Vec<Vec<u8>> {
    let one = |(i, tensor): (usize, &TensorSpec)| {
        let mut random = SplitMix64::new(seed ^ xxh3_64(tensor.name.as_bytes()) ^ (i as u64) << 32);
        let elems = tensor.elems().unwrap_or(0);
        let (rows, width) = (tensor.rows(), tensor.width());
        let role = tensor.name.split('.').next().unwrap_or_default();
        let mut out = Vec::with_capacity(elems * tensor.dtype.bytes());
        for at in 0..elems {
            let value = match role {
                "mask" => {
                    let (row, col) = (at / width % rows, at % width);
                    // The last `rows` columns are the chunk itself.
                    if col + rows > width + row { f32::NEG_INFINITY } else { 0.0 }
                }
                "cos" | "cos_q" => (random.uniform() * std::f64::consts::TAU).cos() as f32,
                "sin" | "sin_q" => (random.uniform() * std::f64::consts::TAU).sin() as f32,
                _ => random.normal() as f32,
            };
            push(&mut out, tensor, value, matches!(role, "mask" | "cos" | "cos_q" | "sin" | "sin_q"));
        }
        out
    };
    graph.inputs.iter().enumerate().map(one).collect()
}

/// Appends a value: codes either by the encoding (`exact`) or spread over the code range; floats as they are.
fn push(out: &mut Vec<u8>, tensor: &TensorSpec, value: f32, exact: bool) {
    let value = if value == f32::NEG_INFINITY && matches!(tensor.encoding, Encoding::None) { -100.0 } else { value };
    let code = |low: f32, high: f32| match tensor.encoding {
        Encoding::Tensor { scale, zero_point } => {
            let steps = if exact { value / scale } else { value * (high - low) / 6.0 };
            (steps.round_ties_even() + zero_point as f32).clamp(low, high)
        }
        _ => 0.0,
    };
    match tensor.dtype {
        Dtype::U8 => out.push(code(0.0, 255.0) as u8),
        Dtype::I8 => out.push(code(-128.0, 127.0) as i8 as u8),
        Dtype::U16 => out.extend((code(0.0, 65535.0) as u16).to_le_bytes()),
        Dtype::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
        Dtype::F32 => out.extend(value.to_le_bytes()),
        Dtype::I32 => out.extend((value as i32).to_le_bytes()),
    }
}

/// What executing a graph gave.
pub(crate) struct Executed {
    /// Outputs, in the order of the spec.
    pub(crate) outputs: Vec<Vec<u8>>,
    /// Microseconds of the fastest execution, as the host sees it.
    host_us: u64,
    /// The same as the device states it.
    device_us: Option<u64>,
}

/// Runs one graph on given inputs; returns its outputs and what the device said.
pub(crate) fn execute(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    graph: &GraphSpec,
    inputs: &[Vec<u8>],
    times: usize,
) -> Result<Executed, RuntimeError> {
    let id = context.graph(&graph.name).ok_or_else(|| missing(&graph.name))?;
    let mut bindings = Bindings::default();
    for (tensor, bytes) in graph.inputs.iter().zip(inputs) {
        let buffer = device.alloc(tensor.len_bytes().unwrap_or(usize::MAX))?;
        buffer.write()?.copy_from_slice(bytes);
        bindings.inputs.push(buffer);
    }
    for tensor in &graph.outputs {
        bindings.outputs.push(device.alloc(tensor.len_bytes().unwrap_or(usize::MAX))?);
    }
    let (mut host_us, mut device_us) = (u64::MAX, None);
    for _ in 0..times.max(1) {
        let started = Instant::now();
        let done = context.wait(context.submit(id, &bindings)?, Some(DEADLINE))?;
        host_us = host_us.min(started.elapsed().as_micros() as u64);
        device_us = done.device_ns.map(|ns| device_us.unwrap_or(u64::MAX).min(ns / 1000)).or(device_us);
    }
    let read = |b: &coexec_npu::NpuBuffer| Ok::<_, RuntimeError>(b.read()?.to_vec());
    let outputs = bindings.outputs.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Executed { outputs, host_us, device_us })
}

fn missing(graph: &str) -> RuntimeError {
    RuntimeError::Schedule(format!("the context has no graph `{graph}`; compile the model again"))
}

/// Gets a graph, its inputs and its outputs.
pub type Seen<'a> = dyn FnMut(&GraphSpec, &[Vec<u8>], &[Vec<u8>]) -> Result<(), RuntimeError> + 'a;

/// Runs every graph of a context once and records what comes out; `seen` gets each graph with its inputs and outputs.
///
/// # Errors
/// The device's, and those of `seen`.
pub fn record(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    seen: &mut Seen<'_>,
) -> Result<Recording, RuntimeError> {
    let spec = context.spec();
    let mut graphs = Vec::new();
    for graph in &spec.graphs {
        let seed = xxh3_64(graph.name.as_bytes());
        let inputs = inputs(graph, seed);
        let outputs = execute(device, context, graph, &inputs, 1)?.outputs;
        seen(graph, &inputs, &outputs)?;
        let outputs = graph
            .outputs
            .iter()
            .zip(&outputs)
            .map(|(tensor, bytes)| RecordedTensor { hash: xxh3_64(bytes), values: kept_rows(tensor, bytes) });
        let outputs = outputs.collect();
        graphs.push(RecordedGraph { name: graph.name.clone(), seed, input_hash: hash(&inputs), outputs });
    }
    let device = device.profile().device.clone();
    Ok(Recording { version: VERSION, context: spec.name.clone(), device, graphs })
}

fn hash(inputs: &[Vec<u8>]) -> u64 {
    xxh3_64(&inputs.iter().flat_map(|i| xxh3_64(i).to_le_bytes()).collect::<Vec<_>>())
}

/// The rows that are stored: the first, the last and some between, as 16-bit numbers.
fn kept_rows(tensor: &TensorSpec, bytes: &[u8]) -> Vec<u16> {
    let row_bytes = tensor.width() * tensor.dtype.bytes();
    let rows = bytes.len() / row_bytes.max(1);
    let kept = rows.min(KEPT_ROWS);
    let row = |i: usize| if kept < 2 { 0 } else { i * (rows - 1) / (kept - 1) };
    let one = |row: &[u8]| -> Vec<u16> {
        match tensor.dtype.bytes() {
            1 => row.iter().map(|b| u16::from(*b)).collect(),
            2 => row.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
            _ => row
                .chunks_exact(4)
                .map(|b| f16::from_f32(f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_bits())
                .collect(),
        }
    };
    (0..kept).flat_map(|i| one(&bytes[row(i) * row_bytes..(row(i) + 1) * row_bytes])).collect()
}

/// Largest difference of two lists of kept values; see [`GraphCheck::worst`].
pub(crate) fn difference(tensor: &TensorSpec, a: &[u16], b: &[u16]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let pairs = || a.iter().zip(b);
    match tensor.dtype {
        Dtype::U8 | Dtype::U16 => pairs().map(|(a, b)| f64::from(a.abs_diff(*b))).fold(0.0, f64::max),
        Dtype::I8 => pairs().map(|(a, b)| f64::from((*a as u8 as i8).abs_diff(*b as u8 as i8))).fold(0.0, f64::max),
        _ => {
            let value = |bits: &u16| f64::from(f16::from_bits(*bits).to_f32());
            let largest = b.iter().map(|v| value(v).abs()).fold(f64::MIN_POSITIVE, f64::max);
            let worst = pairs().map(|(a, b)| (value(a) - value(b)).abs());
            // A NaN on either side is as wrong as can be.
            worst.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
        }
    }
}

/// Compares a device's outputs with another's, graph by graph, on the same drawn inputs: the largest difference and whether
/// all are bit-equal.
pub(crate) fn compare(graph: &GraphSpec, ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> (bool, f64, f64) {
    let mut worst = (0.0f64, 0.0f64);
    for (tensor, (a, b)) in graph.outputs.iter().zip(ours.iter().zip(theirs)) {
        let all = |bytes: &[u8]| match tensor.dtype.bytes() {
            1 => bytes.iter().map(|b| u16::from(*b)).collect::<Vec<_>>(),
            _ => bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
        };
        let found = difference(tensor, &all(a), &all(b));
        let allowed = allowed(graph, tensor);
        if found / allowed >= worst.0 / worst.1.max(f64::MIN_POSITIVE) {
            worst = (found, allowed);
        }
    }
    (ours == theirs, worst.0, worst.1)
}

/// Replays a recording on a device; `replayed` is called after each graph.
///
/// # Errors
/// The device's; a recording that does not belong to the context; [`RuntimeError::Cancelled`].
pub fn replay(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    recording: &Recording,
    cancel: &CancelToken,
    replayed: &mut dyn FnMut(),
) -> Result<SelftestReport, RuntimeError> {
    let mut graphs = Vec::new();
    for recorded in &recording.graphs {
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        let graph = context.spec().graphs.iter().find(|g| g.name == recorded.name);
        let graph = graph.ok_or_else(|| missing(&recorded.name))?;
        let inputs = inputs(graph, recorded.seed);
        if hash(&inputs) != recorded.input_hash || graph.outputs.len() != recorded.outputs.len() {
            return Err(RuntimeError::Schedule(format!(
                "the recording of graph `{}` was made by another version of coexec; compile the model again",
                graph.name
            )));
        }
        let Executed { outputs, host_us, device_us } = execute(device, context, graph, &inputs, TIMED)?;
        let mut check = GraphCheck {
            graph: graph.name.clone(),
            ops: ops(graph),
            tensor: String::new(),
            equal: true,
            worst: 0.0,
            allowed: 0.0,
            passed: true,
            host_us,
            device_us,
        };
        for ((tensor, bytes), wanted) in graph.outputs.iter().zip(&outputs).zip(&recorded.outputs) {
            let worst = difference(tensor, &kept_rows(tensor, bytes), &wanted.values);
            let allowed = allowed(graph, tensor);
            check.equal &= xxh3_64(bytes) == wanted.hash;
            check.passed &= worst <= allowed;
            if check.tensor.is_empty() || worst / allowed > check.worst / check.allowed {
                (check.tensor, check.worst, check.allowed) = (tensor.name.clone(), worst, allowed);
            }
        }
        graphs.push(check);
        replayed();
    }
    Ok(SelftestReport {
        context: recording.context.clone(),
        device: device.profile().device.clone(),
        recorded_on: recording.device.clone(),
        passed: graphs.iter().all(|g| g.passed),
        graphs,
    })
}

fn ops(graph: &GraphSpec) -> Vec<&'static str> {
    let mut ops: Vec<_> = graph.nodes.iter().map(OpSpec::op_name).collect();
    ops.sort_unstable();
    ops.dedup();
    ops
}

impl Recording {
    /// As bytes of a file: zstd-compressed JSON.
    ///
    /// # Errors
    /// [`RuntimeError::Schedule`] when compression fails (out of memory).
    pub fn to_bytes(&self) -> Result<Vec<u8>, RuntimeError> {
        let bug = |e: String| RuntimeError::Schedule(format!("recording of context `{}`: {e}", self.context));
        let json = serde_json::to_vec(self).map_err(|e| bug(e.to_string()))?;
        zstd::bulk::compress(&json, 3).map_err(|e| bug(e.to_string()))
    }

    /// From bytes of a file.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let again = "compile the model again";
        let damaged = |e: String| format!("is damaged ({e}); {again}");
        let mut json = Vec::new();
        // What a frame says of its size is not trusted: it is read up to a limit.
        let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|e| damaged(e.to_string()))?;
        decoder.take(MAX_RECORDING_BYTES).read_to_end(&mut json).map_err(|e| damaged(e.to_string()))?;
        let recording: Self = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
        if recording.version != VERSION {
            return Err(format!("has version {}, this build reads {VERSION}; {again}", recording.version));
        }
        Ok(recording)
    }
}

/// How far [`run`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelftestStep {
    /// Recordings of graphs were replayed.
    Replayed {
        /// So many of all contexts.
        done: usize,
        /// Graphs of all contexts that are replayed.
        of: usize,
    },
    /// A prompt begins.
    Prompt {
        /// Its tokens, and the chunk length.
        chunk_len: usize,
    },
}

/// What [`run`] does.
#[derive(Clone, Debug)]
pub struct SelftestOptions<'a> {
    /// Folder of Qualcomm's libraries; `None` searches.
    pub library_dir: Option<&'a Path>,
    /// At most this many contexts' recordings.
    pub contexts: usize,
    /// Whether a prompt runs too, and its text where it is not the built-in one.
    pub prompt: Option<Option<&'a str>>,
}

/// What [`run`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selftest {
    /// Replayed recordings of random codes, context by context.
    pub contexts: Vec<SelftestReport>,
    /// A prompt's real activations beside the simulated NPU, chunk length by chunk length.
    pub prompt: Vec<PromptCheck>,
    /// Why no prompt ran, when one was asked for.
    pub no_prompt: Option<&'static str>,
    /// Whether everything passed.
    pub passed: bool,
}

/// Replays the recordings of a compiled model, context by context, so that never more than one is in memory; then runs a
/// prompt.
///
/// # Errors
/// A compiled model that is not whole, of another model or library; the device's errors; [`RuntimeError::Cancelled`].
pub fn run(
    model: &Model,
    dir: &Path,
    options: &SelftestOptions<'_>,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(SelftestStep),
) -> Result<Selftest, RuntimeError> {
    let compiled = CompiledModel::read(dir)?;
    let device = QnnDevice::open(super::job::qnn_options(&compiled.options, options.library_dir))?;
    compiled.check(dir, model, device.profile(), &device.build_id())?;
    compiled.loads_on(Target::here(), dir)?;
    let device: Arc<dyn NpuDevice> = Arc::new(device);
    let mut contexts = Vec::new();
    let replayed = compiled.contexts.iter().take(options.contexts);
    let (mut done, of) = (0, replayed.map(|c| c.manifest.spec.graphs.len()).sum());
    for context in compiled.contexts.iter().take(options.contexts) {
        let Some(recording) = &context.recording else {
            let reason = "has no recordings; compile it without --no-record".to_owned();
            return Err(RuntimeError::Compiled { path: dir.to_owned(), reason });
        };
        let path = dir.join(recording);
        let bad = |reason| RuntimeError::Compiled { path: path.clone(), reason };
        let bytes = fs::read(&path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let recording = Recording::from_bytes(&bytes).map_err(bad)?;
        let loaded = device.load(&context.read_binary(dir)?, &context.manifest)?;
        contexts.push(replay(&*device, &*loaded, &recording, cancel, &mut || {
            done += 1;
            progress(SelftestStep::Replayed { done, of });
        })?);
    }
    let (mut prompt, mut no_prompt) = (Vec::new(), None);
    if let Some(text) = options.prompt {
        let prompted = Prompted { dir, library_dir: options.library_dir, text };
        match check_prompt(model, &compiled, prompted, &device, cancel, progress)? {
            Ok(checks) => prompt = checks,
            Err(reason) => no_prompt = Some(reason),
        }
    }
    let passed = contexts.iter().all(|c| c.passed) && prompt.iter().all(|p| p.passed);
    Ok(Selftest { contexts, prompt, no_prompt, passed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{CompileOptions, Numbers, SyntheticWeights, estimate::synthetic_calibration};
    use coexec_model::{TensorName, random};
    use coexec_npu::{NpuWeights, Ranges, SimDevice, SimOptions, WeightError, WeightSource};
    use std::ops::Range;

    /// The same weights but for one code of each row.
    struct Changed(SyntheticWeights);

    impl WeightSource for Changed {
        fn int8_rows(
            &self,
            tensor: TensorName,
            rows: Range<usize>,
            codes: &mut Vec<i8>,
            scales: &mut Vec<f32>,
        ) -> Result<(), WeightError> {
            self.0.int8_rows(tensor, rows, codes, scales)?;
            let k = codes.len() / scales.len();
            codes.chunks_mut(k).for_each(|row| row[0] = if row[0] > 0 { -127 } else { 127 });
            Ok(())
        }
    }

    #[test]
    fn recordings_pass_on_what_made_them_and_fail_on_other_weights() {
        let config = random::named_config("tiny").expect("known");
        let (calibration, ranges) = (synthetic_calibration(&config), Ranges::synthetic(&config));
        let weights = NpuWeights::PerChannelI8;
        let numbers = Numbers { config: &config, calibration: &calibration, ranges: &ranges, weights };
        let options = CompileOptions { chunk_lens: vec![8], layers: Some(0..1), ..CompileOptions::default() };
        let device = SimDevice::new(SimOptions::named("sm8650").expect("known"));
        let spec = options.contexts(&numbers, device.profile()).expect("builds").remove(0);
        let synthetic = SyntheticWeights { config: config.clone() };
        let good = device.prepare(&spec, &synthetic).expect("prepares");
        let made = record(&device, &*good, &mut |_, _, _| Ok(())).expect("records");
        let bytes = made.to_bytes().expect("packs");
        assert_eq!(Recording::from_bytes(&bytes).as_ref(), Ok(&made));
        assert!(Recording::from_bytes(&bytes[..bytes.len() / 2]).expect_err("cut").contains("damaged"));
        let report = replay(&device, &*good, &made, &CancelToken::new(), &mut || {}).expect("replays");
        assert!(report.passed && report.graphs.len() == 4 && report.graphs.iter().all(|g| g.equal && g.worst == 0.0));
        let other = device.prepare(&spec, &Changed(synthetic)).expect("prepares");
        let report = replay(&device, &*other, &made, &CancelToken::new(), &mut || {}).expect("replays");
        assert!(!report.passed && report.graphs.iter().all(|g| !g.equal && g.worst > g.allowed), "{report:?}");
    }

    #[test]
    fn differences_are_in_steps_or_relative_and_nan_is_no_match() {
        let tensor =
            |dtype| TensorSpec { name: "y".to_owned(), dims: vec![1, 1, 1, 2], dtype, encoding: Encoding::None };
        assert_eq!(difference(&tensor(Dtype::U8), &[1, 9], &[4, 9]), 3.0);
        assert_eq!(difference(&tensor(Dtype::I8), &[0xff, 0], &[1, 0]), 2.0, "-1 and 1");
        assert_eq!(difference(&tensor(Dtype::U16), &[1, 9], &[1]), f64::INFINITY);
        let bits = |v: f32| f16::from_f32(v).to_bits();
        let half = difference(&tensor(Dtype::F16), &[bits(1.0), bits(2.0)], &[bits(1.5), bits(2.0)]);
        assert!((half - 0.25).abs() < 1e-3, "{half}");
        assert_eq!(difference(&tensor(Dtype::F16), &[bits(f32::NAN), 0], &[bits(1.0), 0]), f64::INFINITY);
    }
}
