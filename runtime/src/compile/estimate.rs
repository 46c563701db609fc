//! What Qualcomm's compiler itself expects of a model's graphs on a chip: cycles, microseconds, DDR bytes.
//!
//! Most graphs of a decoder differ in nothing that costs, so one of each kind is compiled and counted as often as it occurs.
//! These are Qualcomm's estimates of the graphs alone: no RPC, no CPU part, no head.

use super::{CompileOptions, Numbers};
use crate::{Model, RuntimeError, npu::ModelWeights, prefill::plan::LinearTime};
use coexec_model::{Calibration, DecoderConfig, LinearCalibration, LinearKind, TensorName, Treatment, layout::GROUP};
use coexec_npu::{
    BlockRows, ContextSpec, Dtype, GraphSpec, NpuDevice, NpuWeights, OpSpec, Ranges, WeightEncoding, WeightError,
    WeightSource,
    qnn::{CompilerEstimate, QnnDevice},
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// The label that goes with every number here.
const SOURCE: &str = "Qualcomm's compiler estimate at finalize";

/// SoC ids whose estimates the library is known to print.
pub const ESTIMATING_CHIPS: [u32; 7] = [52, 62, 63, 72, 77, 95, 114];

/// One graph with its estimate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphEstimate {
    /// The first graph of its kind.
    pub graph: String,
    /// Type of its activations.
    #[serde(default = "u8_codes")]
    pub activation: Dtype,
    /// How often its like occurs in the model.
    pub count: u32,
    /// Chunk length of the graph.
    pub chunk_len: usize,
    /// What the compiler states.
    pub estimate: CompilerEstimate,
    /// Milliseconds that finalising it took here.
    pub finalize_ms: f64,
}

/// What reports of before were about.
fn u8_codes() -> Dtype {
    Dtype::U8
}

/// Sums over a model for one chunk length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkEstimate {
    /// Tokens of a chunk.
    pub chunk_len: usize,
    /// Microseconds of all graphs of a chunk, one after another.
    pub us: u64,
    /// Cycles of the same.
    pub cycles: u64,
    /// DDR bytes read and written.
    pub ddr_bytes: u64,
    /// Ops that the compiler has no cost for: the time is too low by them.
    pub ops_without_cost: u64,
    /// Chunk length over time: what the NPU alone could prefill.
    pub tokens_per_s: f64,
}

/// Estimates of a model's graphs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateReport {
    /// Where the numbers come from, with the library's version.
    pub source: String,
    /// Chip.
    pub chip: String,
    /// What was compiled.
    pub options: CompileOptions,
    /// Layers of the model.
    pub layers: u32,
    /// Graph by graph.
    pub graphs: Vec<GraphEstimate>,
    /// Chunk length by chunk length.
    pub chunks: Vec<ChunkEstimate>,
}

impl EstimateReport {
    /// Reads a report that `coexec compile --estimate --format json` wrote.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes)
            .map_err(|e| format!("is no estimate ({e}); make one with `coexec compile --estimate --format json`"))
    }

    /// Times of the linears of placement `split`, for a planner or simulator: the average of a linear's kind where some
    /// layers run it in u8 and others in u16.
    #[must_use]
    pub fn linears(&self) -> Vec<LinearTime> {
        let mut times = Vec::new();
        for (kind, chunk_len) in
            LinearKind::ALL.iter().flat_map(|kind| self.chunks.iter().map(|c| (*kind, c.chunk_len)))
        {
            let is_of = |g: &&GraphEstimate| g.chunk_len == chunk_len && g.graph.split('.').next() == Some(kind.name());
            let (mut sum, mut count) = (0.0, 0.0);
            for g in self.graphs.iter().filter(is_of) {
                let Some(us) = g.estimate.us else { continue };
                sum += us as f64 * f64::from(g.count);
                count += f64::from(g.count);
            }
            if count > 0.0 {
                times.push(LinearTime { kind, chunk_len, us: sum / count });
            }
        }
        times
    }
}

/// What is estimated.
#[derive(Clone, Copy, Debug)]
pub enum Estimated<'a> {
    /// A shape with any weights, per-channel INT8 unless the options say otherwise.
    Shape(&'a DecoderConfig),
    /// A model: its weights as they reach the NPU, each linear in u8 or u16 as its schedule says.
    Model(&'a Model),
}

/// What makes graphs cost the same: everything but names, scales and the layer.
type Signature = (Vec<(Vec<u32>, Dtype)>, Vec<(&'static str, Option<(usize, usize, WeightEncoding)>)>);

fn signature(graph: &GraphSpec) -> Signature {
    let tensors = graph.inputs.iter().chain(&graph.outputs).chain(&graph.intermediates);
    let weights = |op: &OpSpec| op.weights().map(|w| (w.n(), w.k, w.encoding));
    (
        tensors.map(|t| (t.dims.clone(), t.dtype)).collect(),
        graph.nodes.iter().map(|op| (op.op_name(), weights(op))).collect(),
    )
}

/// Compiles one graph of each kind that the model has, and sums up what the compiler states for all of them; `compiled` hears of
/// each.
///
/// # Errors
/// A chip whose estimates the library does not print; whatever the compiler refuses.
pub fn estimate(
    device: &QnnDevice,
    estimated: Estimated<'_>,
    options: &CompileOptions,
    compiled: &mut dyn FnMut(),
) -> Result<EstimateReport, RuntimeError> {
    let (own, config) = match estimated {
        Estimated::Model(model) => (Some(options.numbers(model)?), model.config()),
        Estimated::Shape(config) => (None, config),
    };
    let per_graph = match options.placement {
        coexec_npu::Placement::Layer => options.layers_per_graph.max(1) as u32,
        _ => 1,
    };
    let layers = options.layers.clone().unwrap_or(0..config.num_hidden_layers);
    if per_graph > config.num_hidden_layers {
        let value = per_graph.to_string();
        let reason = format!("use 1 … {}", config.num_hidden_layers);
        return Err(RuntimeError::Option { option: "--layers-per-graph", value, reason });
    }
    let (calibration, ranges) = (synthetic_calibration(config), Ranges::synthetic(config));
    let shape_weights = options.weights.unwrap_or(NpuWeights::PerChannelI8);
    let numbers = match (&own, estimated) {
        (Some(own), Estimated::Model(model)) => own.borrowed(model),
        _ => Numbers { config, calibration: &calibration, ranges: &ranges, weights: shape_weights },
    };
    let model_weights = match estimated {
        Estimated::Model(model) => Some(ModelWeights::new(model)),
        Estimated::Shape(_) => None,
    };
    let synthetic = SyntheticWeights { config: config.clone() };
    let weights: &dyn WeightSource = model_weights.as_ref().map_or(&synthetic, |w| w);
    let mut kinds: Vec<(Signature, ContextSpec, u32)> = Vec::new();
    for first in layers.clone().step_by(per_graph as usize) {
        let layers = Some(first..layers.end.min(first + per_graph));
        let some = CompileOptions { layers, share_weights: false, ..options.clone() };
        for spec in some.contexts(&numbers, NpuDevice::profile(device))? {
            for graph in spec.graphs {
                let signature = signature(&graph);
                match kinds.iter_mut().find(|(known, ..)| *known == signature) {
                    Some((_, _, count)) => *count += 1,
                    None => kinds.push((signature, ContextSpec { name: spec.name.clone(), graphs: vec![graph] }, 1)),
                }
            }
        }
    }
    // Chunk length by chunk length, as they were asked for.
    let chunk_len = |spec: &ContextSpec| spec.graphs[0].inputs.first().map_or(0, coexec_npu::TensorSpec::rows);
    kinds.sort_by_key(|(_, spec, _)| options.chunk_lens.iter().position(|len| *len == chunk_len(spec)));
    let mut graphs = Vec::new();
    for (_, spec, count) in &kinds {
        let context = device.compile(spec, weights, true)?;
        compiled();
        for (graph, report) in spec.graphs.iter().zip(context.reports()) {
            let Some(estimate) = report.estimate else {
                return Err(RuntimeError::Option {
                    option: "--soc",
                    value: options.chip.clone(),
                    reason: format!("the library prints no estimates for this chip; it does for {ESTIMATING_CHIPS:?}"),
                });
            };
            graphs.push(GraphEstimate {
                graph: graph.name.clone(),
                activation: graph.inputs.first().map_or(Dtype::U8, |x| x.dtype),
                count: *count,
                chunk_len: chunk_len(spec),
                estimate,
                finalize_ms: report.finalize_us as f64 / 1e3,
            });
        }
    }
    let chunks = options.chunk_lens.iter().map(|&chunk_len| {
        let mine = || graphs.iter().filter(move |g| g.chunk_len == chunk_len);
        let sum = |of: fn(&CompilerEstimate) -> Option<u64>| -> u64 {
            mine().map(|g| u64::from(g.count) * of(&g.estimate).unwrap_or(0)).sum()
        };
        let us = sum(|e| e.us);
        ChunkEstimate {
            chunk_len,
            us,
            cycles: sum(|e| e.cycles),
            ddr_bytes: sum(|e| e.input_fill_bytes)
                + sum(|e| e.intermediate_fill_bytes)
                + sum(|e| e.intermediate_spill_bytes)
                + sum(|e| e.output_spill_bytes),
            ops_without_cost: sum(|e| e.ops_without_cost),
            tokens_per_s: if us > 0 { chunk_len as f64 * 1e6 / us as f64 } else { 0.0 },
        }
    });
    Ok(EstimateReport {
        source: format!("{SOURCE}, {}, no RPC cost", device.build_id()),
        chip: options.chip.clone(),
        options: CompileOptions { weights: Some(numbers.weights), ..options.clone() },
        layers: layers.len() as u32,
        chunks: chunks.collect(),
        graphs,
    })
}

/// Scales that any weights of [`SyntheticWeights`] can have: estimates do not depend on them.
pub(super) fn synthetic_calibration(config: &DecoderConfig) -> Calibration {
    let linear = |kind: LinearKind| LinearCalibration {
        input_scale: 0.03,
        output_scales: vec![0.03; config.linear_parts(kind).len()],
        hot_channels: Vec::new(),
        importance: 0.0,
        clipped_share: 0.0,
        plain: None,
        wide: None,
        split: None,
        treatment: Treatment::default(),
    };
    let layers = (0..config.num_hidden_layers).map(|_| LinearKind::ALL.map(linear)).collect();
    Calibration { tokens: 0, layers }
}

/// Weights for shapes without a model: codes that differ from row to row (the compiler stores equal content once).
#[derive(Clone, Debug)]
pub struct SyntheticWeights {
    /// The shapes.
    pub config: DecoderConfig,
}

impl SyntheticWeights {
    /// Calls `f` with a random generator for every row; returns K.
    fn rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        mut f: impl FnMut(&mut dyn FnMut() -> u8, usize),
    ) -> Result<(), WeightError> {
        let kind = |t| LinearKind::ALL.into_iter().find(|kind| kind.tensor() == t);
        let TensorName::Layer(_, part) = tensor else { return Err(WeightError::Missing { tensor }) };
        let (n, k) = kind(part).map(|kind| self.config.linear_shape(kind)).ok_or(WeightError::Missing { tensor })?;
        if rows.end > n {
            return Err(WeightError::Shape { tensor, reason: format!("it has {n} rows, not {}", rows.end) });
        }
        let seed = xxh3_64(tensor.to_string().as_bytes());
        for row in rows {
            let mut state = (seed ^ (row as u64).wrapping_mul(0xD134_2543_DE82_EF95)) | 1;
            let mut random = || {
                // Xorshift64: fast, and good enough to be different everywhere.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 24) as u8
            };
            f(&mut random, k);
        }
        Ok(())
    }
}

impl WeightSource for SyntheticWeights {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        codes.clear();
        scales.clear();
        self.rows(tensor, rows, |random, k| {
            codes.extend((0..k).map(|_| (random() as i8).max(-127)));
            scales.push(1.0 / 1024.0);
        })
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        *out = BlockRows::default();
        self.rows(tensor, rows, |random, k| {
            out.codes.extend((0..k).map(|_| random() as i8 >> 4));
            out.group_scales.extend((0..k / GROUP).map(|_| 1 + (random() >> 4)));
            out.scales.push(1.0 / 1024.0);
        })
    }

    fn vector(&self, _: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        out.clear();
        out.extend(range.map(|i| 0.75 + (i % 32) as f32 / 64.0));
        Ok(())
    }
}
