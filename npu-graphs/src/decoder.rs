//! The static graphs of a decoder for placement `split`: QKV, O, gate+up and down of every layer, for every chunk length.
//!
//! Each graph takes one activation `x` `[1, 1, chunk_len, K]` and gives one output per part (`q` `k` `v`, `o`, `gate` `up`,
//! `down`), each `[1, 1, chunk_len, part]` with its own scale, zero point 128. Weights of a layer are named alike for every
//! chunk length, so a device holds them once. Biases are added on the CPU, where the parts are consumed.

use crate::{ContextSpec, Dtype, Encoding, GraphSpec, OpSpec, SpecError, TensorSpec, WeightEncoding, WeightSpec};
use coexec_model::{Calibration, DecoderConfig, LayerIdx, LinearKind, TensorName, layout::GROUP};
use std::ops::Range;

/// Zero point of every u8 activation.
pub const ZERO_POINT_U8: i32 = 128;
/// Most graphs that one context may ask for (layers × 4 × chunk lengths).
pub const MAX_GRAPHS: usize = 1 << 16;

/// How linears' weights reach the NPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NpuWeights {
    /// Per-channel INT8.
    PerChannelI8,
    /// 4-bit block expansion, one weight set with the CPU's `q4`.
    BlockExpansion,
}

impl NpuWeights {
    fn encoding(self) -> WeightEncoding {
        match self {
            Self::PerChannelI8 => WeightEncoding::PerChannelI8,
            Self::BlockExpansion => WeightEncoding::BlockExpansion32,
        }
    }
}

/// What [`split_context`] builds.
#[derive(Clone, Debug)]
pub struct SplitOptions<'a> {
    /// Name of the context.
    pub name: &'a str,
    /// Chunk lengths in tokens; each gets its own graphs.
    pub chunk_lens: &'a [usize],
    /// How weights reach the NPU.
    pub weights: NpuWeights,
    /// Layers that get graphs; `None` is all.
    pub layers: Option<Range<u32>>,
}

/// Why no graphs could be built for a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Calibration does not cover a linear, or not with one scale per part.
    #[error("layer {layer}, {kind}: calibration {reason}; run `coexec calibrate` on this model")]
    Calibration {
        /// Layer.
        layer: u32,
        /// Linear.
        kind: LinearKind,
        /// What is missing or wrong.
        reason: String,
    },
    /// A chunk length that cannot be.
    #[error("chunk length {chunk_len}: {reason}")]
    ChunkLen {
        /// The length asked for.
        chunk_len: usize,
        /// What is allowed.
        reason: &'static str,
    },
    /// Layers outside of the model.
    #[error("layers {layers:?} of a model that has {count}")]
    Layers {
        /// Range asked for.
        layers: Range<u32>,
        /// Layers of the model.
        count: u32,
    },
    /// A linear's inputs do not divide into groups.
    #[error("layer {layer}, {kind}: {k} inputs do not divide into groups of 32; use per-channel INT8 on the NPU")]
    Groups {
        /// Layer.
        layer: u32,
        /// Linear.
        kind: LinearKind,
        /// Inputs.
        k: usize,
    },
    /// The result would not be a valid spec (sizes beyond every device).
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Name of the graph of one linear, e.g. `qkv.L3.c256`.
#[must_use]
pub fn graph_name(kind: LinearKind, layer: LayerIdx, chunk_len: usize) -> String {
    format!("{kind}.L{}.c{chunk_len}", layer.0)
}

/// Names of a linear's output tensors, in the order of [`DecoderConfig::linear_parts`].
#[must_use]
pub fn part_names(kind: LinearKind) -> &'static [&'static str] {
    match kind {
        LinearKind::Qkv => &["q", "k", "v"],
        LinearKind::O => &["o"],
        LinearKind::GateUp => &["gate", "up"],
        LinearKind::Down => &["down"],
    }
}

/// The graphs of placement `split` in W8A8 (or W4A8 with block expansion).
///
/// # Errors
/// When calibration does not fit the model, a chunk length is 0 or given twice, or sizes are out of every device's range.
pub fn split_context(
    config: &DecoderConfig,
    calibration: &Calibration,
    options: &SplitOptions<'_>,
) -> Result<ContextSpec, BuildError> {
    let count = config.num_hidden_layers;
    let layers = options.layers.clone().unwrap_or(0..count);
    if layers.start >= layers.end || layers.end > count {
        return Err(BuildError::Layers { layers, count });
    }
    for (i, &chunk_len) in options.chunk_lens.iter().enumerate() {
        let reason = match chunk_len {
            0 => "a chunk holds at least one token",
            c if u32::try_from(c).is_err() || c > 1 << 20 => "longer than any static graph",
            c if options.chunk_lens[..i].contains(&c) => "given twice",
            _ => continue,
        };
        return Err(BuildError::ChunkLen { chunk_len, reason });
    }
    let graphs = layers.len().saturating_mul(4).saturating_mul(options.chunk_lens.len());
    if graphs == 0 || graphs > MAX_GRAPHS {
        let chunk_len = options.chunk_lens.first().copied().unwrap_or(0);
        return Err(BuildError::ChunkLen { chunk_len, reason: "no chunk lengths, or too many graphs in all" });
    }
    let mut spec = ContextSpec { name: options.name.to_owned(), graphs: Vec::with_capacity(graphs) };
    for layer in layers.map(LayerIdx) {
        for kind in LinearKind::ALL {
            for &chunk_len in options.chunk_lens {
                spec.graphs.push(linear_graph(config, calibration, options.weights, layer, kind, chunk_len)?);
            }
        }
    }
    spec.validate()?;
    Ok(spec)
}

fn linear_graph(
    config: &DecoderConfig,
    calibration: &Calibration,
    weights: NpuWeights,
    layer: LayerIdx,
    kind: LinearKind,
    chunk_len: usize,
) -> Result<GraphSpec, BuildError> {
    let bad = |reason: String| BuildError::Calibration { layer: layer.0, kind, reason };
    let scales = calibration.linear(layer, kind).ok_or_else(|| bad("has no entry for it".to_owned()))?;
    let (parts, names) = (config.linear_parts(kind), part_names(kind));
    if scales.output_scales.len() != parts.len() {
        let found = scales.output_scales.len();
        return Err(bad(format!("has {found} output scales, the linear has {} parts", parts.len())));
    }
    for scale in scales.output_scales.iter().chain([&scales.input_scale]) {
        if !(scale.is_normal() && *scale > 0.0) {
            return Err(bad(format!("has scale {scale}, not a positive number")));
        }
    }
    let (_, k) = config.linear_shape(kind);
    if weights == NpuWeights::BlockExpansion && !k.is_multiple_of(GROUP) {
        return Err(BuildError::Groups { layer: layer.0, kind, k });
    }
    let tensor = |name: &str, width: usize, scale: f32| {
        // Widths and chunk lengths beyond u32 cannot come from a config; saturating makes `validate` refuse them.
        let dim = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
        let encoding = Encoding::Tensor { scale, zero_point: ZERO_POINT_U8 };
        TensorSpec::activation(name, dim(chunk_len), dim(width), Dtype::U8, encoding)
    };
    let mut graph = GraphSpec {
        name: graph_name(kind, layer, chunk_len),
        inputs: vec![tensor("x", k, scales.input_scale)],
        outputs: Vec::with_capacity(parts.len()),
        intermediates: Vec::new(),
        nodes: Vec::with_capacity(parts.len()),
    };
    let mut row = 0;
    for ((part, name), scale) in parts.iter().zip(names).zip(&scales.output_scales) {
        graph.outputs.push(tensor(name, *part, *scale));
        graph.nodes.push(OpSpec::Conv2d1x1 {
            input: "x".to_owned(),
            weights: WeightSpec {
                tensor: TensorName::Layer(layer, kind.tensor()),
                rows: row..row + part,
                k,
                encoding: weights.encoding(),
            },
            bias: None,
            output: (*name).to_owned(),
        });
        row += part;
    }
    Ok(graph)
}
