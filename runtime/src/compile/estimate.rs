//! What Qualcomm's compiler itself expects of a model's graphs on a chip: cycles, microseconds, DDR bytes.
//!
//! All layers of a decoder have the same shapes, so one layer is compiled and counted as often as it occurs. These are
//! Qualcomm's estimates of the graphs alone: no RPC, no CPU part, no head.

use super::{CompileOptions, Numbers};
use crate::{RuntimeError, prefill::plan::LinearTime};
use coexec_model::{Calibration, DecoderConfig, LinearCalibration, LinearKind, TensorName, Treatment, layout::GROUP};
use coexec_npu::{
    BlockRows, NpuDevice, NpuWeights, Ranges, WeightError, WeightSource,
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
    /// Graph of the first layers.
    pub graph: String,
    /// How often its like occurs in the model.
    pub count: u32,
    /// Chunk length of the graph.
    pub chunk_len: usize,
    /// What the compiler states.
    pub estimate: CompilerEstimate,
    /// Milliseconds that finalising it took here.
    pub finalize_ms: f64,
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

    /// Times of the linears of placement `split`, for a planner or simulator.
    #[must_use]
    pub fn linears(&self) -> Vec<LinearTime> {
        let time = |g: &GraphEstimate| {
            let kind = LinearKind::ALL.into_iter().find(|kind| g.graph.split('.').next() == Some(kind.name()))?;
            Some(LinearTime { kind, chunk_len: g.chunk_len, us: g.estimate.us? as f64 })
        };
        self.graphs.iter().filter_map(time).collect()
    }
}

/// Compiles one layer's graphs (or one graph of several layers) and sums up what the compiler states for all layers.
///
/// # Errors
/// A chip whose estimates the library does not print; whatever the compiler refuses.
pub fn estimate(
    device: &QnnDevice,
    config: &DecoderConfig,
    options: &CompileOptions,
) -> Result<EstimateReport, RuntimeError> {
    let per_graph = match options.placement {
        coexec_npu::Placement::Layer => options.layers_per_graph.max(1) as u32,
        _ => 1,
    };
    let layers = config.num_hidden_layers;
    if per_graph > layers {
        let value = per_graph.to_string();
        return Err(RuntimeError::Option {
            option: "--layers-per-graph", value, reason: format!("use 1 … {layers}")
        });
    }
    let one = CompileOptions { layers: Some(0..per_graph), share_weights: false, ..options.clone() };
    let weights = options.weights.unwrap_or(NpuWeights::PerChannelI8);
    let (calibration, ranges) = (synthetic_calibration(config), Ranges::synthetic(config));
    let numbers = Numbers { config, calibration: &calibration, ranges: &ranges, weights };
    let contexts = one.contexts(&numbers, NpuDevice::profile(device))?;
    let count = layers.div_ceil(per_graph);
    let mut graphs = Vec::new();
    for spec in &contexts {
        let context = device.compile(spec, &SyntheticWeights { config: config.clone() }, true)?;
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
                count,
                chunk_len: graph.inputs.first().map_or(0, coexec_npu::TensorSpec::rows),
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
        options: options.clone(),
        layers,
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
