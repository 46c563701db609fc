//! The static graphs of a decoder, for three placements.
//!
//! | placement | builder | graphs per layer and chunk length | on the CPU |
//! |---|---|---|---|
//! | `split` | [`split_context`] | QKV, O, gate+up, down | norms, rotation, attention, SiLU, residuals |
//! | `fused` | [`fused_context`] | RMSNorm…rotation, O…residual | attention |
//! | `layer` | [`layer_context`] | one per past length, or one for several layers | embedding, head, sampling |
//!
//! Every activation is u8, u16 or f16 ([`Activation`]). In codes each tensor has one static encoding: `split` takes it from
//! calibration, the others from [`Ranges`]. Weights of a layer are named alike in every graph, so a device holds them once
//! for all chunk and past lengths.

mod fused;
mod layer;
mod parts;
mod ranges;
mod split;

pub use fused::{FusedOptions, fused_context, fused_graph_names};
pub use layer::{F16_MASK, LayerOptions, layer_context, layer_graph_name, masked_value};
pub use ranges::{RangeSource, Ranges, Role, rope_tables};
pub use split::{SplitOptions, graph_name, part_names, split_context};

use crate::{Dtype, Encoding, NpuError, SpecError, WeightEncoding};
use coexec_model::{DecoderConfig, LinearKind, layout::GROUP};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Zero point of every symmetric u8 activation.
pub const ZERO_POINT_U8: i32 = 128;
/// Zero point of every symmetric u16 activation.
pub const ZERO_POINT_U16: i32 = 32768;
/// Most graphs that one context may ask for.
pub const MAX_GRAPHS: usize = 1 << 16;
/// Longest chunk or past that a static graph is built for, in tokens.
const MAX_TOKENS: usize = 1 << 20;

/// How linears' weights reach the NPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NpuWeights {
    /// Per-channel INT8.
    PerChannelI8,
    /// Per-channel INT4: half the memory, for chips or dtypes without block expansion; costs accuracy.
    PerChannelI4,
    /// 4-bit block expansion, one weight set with the CPU's `q4`. Not with f16 activations.
    BlockExpansion,
}

impl NpuWeights {
    /// `i8`, `i4` or `block`, as `coexec compile --npu-weights` calls them.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerChannelI8 => "i8",
            Self::PerChannelI4 => "i4",
            Self::BlockExpansion => "block",
        }
    }

    fn encoding(self) -> WeightEncoding {
        match self {
            Self::PerChannelI8 => WeightEncoding::PerChannelI8,
            Self::PerChannelI4 => WeightEncoding::PerChannelI4,
            Self::BlockExpansion => WeightEncoding::BlockExpansion32,
        }
    }
}

/// Element type of a context's activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// 8-bit codes.
    #[default]
    U8,
    /// 16-bit codes.
    U16,
    /// 16-bit floats; scales and ranges are not used.
    F16,
}

impl Activation {
    /// Element type.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::U8 => Dtype::U8,
            Self::U16 => Dtype::U16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Largest code; none for floats.
    fn top(self) -> Option<f32> {
        match self {
            Self::U8 => Some(255.0),
            Self::U16 => Some(65535.0),
            Self::F16 => None,
        }
    }

    /// −`range`…`range` around the middle code.
    fn symmetric(self, range: f32) -> Encoding {
        match self {
            Self::U8 => Encoding::Tensor { scale: range / 127.0, zero_point: ZERO_POINT_U8 },
            Self::U16 => Encoding::Tensor { scale: range / 32767.0, zero_point: ZERO_POINT_U16 },
            Self::F16 => Encoding::None,
        }
    }

    /// `low`…`high` with a code for 0, which lies between.
    fn between(self, low: f32, high: f32) -> Encoding {
        match self.top() {
            Some(top) => {
                let scale = (high - low) / top;
                Encoding::Tensor { scale, zero_point: (-low / scale).round().clamp(0.0, top) as i32 }
            }
            None => Encoding::None,
        }
    }

    /// 0…1 as HTP wants it of softmax (and sigmoid): zero point 0, one step more than there are codes.
    fn probability(self) -> Encoding {
        match self.top() {
            Some(top) => Encoding::Tensor { scale: 1.0 / (top + 1.0), zero_point: 0 },
            None => Encoding::None,
        }
    }
}

/// Why no graphs could be built for a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Calibration does not cover a linear, or not with one scale per part.
    #[error("layer {layer}, {kind}: calibration {reason}; import the model again with `coexec import --calibrate`")]
    Calibration {
        /// Layer.
        layer: u32,
        /// Linear.
        kind: LinearKind,
        /// What is missing or wrong.
        reason: String,
    },
    /// No usable range for a tensor that needs an encoding.
    #[error("layer {layer}: the range of `{role}` {reason}; measure the ranges of this model again, or use f16 graphs")]
    Range {
        /// Layer; the number of layers stands for the last layer's output.
        layer: u32,
        /// Tensor.
        role: Role,
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
    /// A past length that cannot be.
    #[error("past length {kv_len}: {reason}")]
    KvLen {
        /// The length asked for.
        kv_len: usize,
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
    /// A model whose attention has no static graph.
    #[error("model: {reason}")]
    Config {
        /// What does not fit.
        reason: String,
    },
    /// Measuring ranges failed: weights could not be read, or inputs do not fit.
    #[error("ranges could not be measured")]
    Measure(#[source] Box<NpuError>),
    /// The result would not be a valid spec (sizes beyond every device).
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Layers asked for, all when `None`.
fn layers_of(config: &DecoderConfig, layers: Option<&Range<u32>>) -> Result<Range<u32>, BuildError> {
    let count = config.num_hidden_layers;
    let layers = layers.cloned().unwrap_or(0..count);
    if layers.start >= layers.end || layers.end > count {
        return Err(BuildError::Layers { layers, count });
    }
    Ok(layers)
}

/// Chunk lengths must be different and positive; `graphs` is how many graphs each gets.
fn check_chunk_lens(chunk_lens: &[usize], graphs: usize) -> Result<(), BuildError> {
    for (i, &chunk_len) in chunk_lens.iter().enumerate() {
        let reason = match chunk_len {
            0 => "a chunk holds at least one token",
            c if c > MAX_TOKENS => "longer than any static graph",
            c if chunk_lens[..i].contains(&c) => "given twice",
            _ => continue,
        };
        return Err(BuildError::ChunkLen { chunk_len, reason });
    }
    let graphs = graphs.saturating_mul(chunk_lens.len());
    if graphs == 0 || graphs > MAX_GRAPHS {
        let chunk_len = chunk_lens.first().copied().unwrap_or(0);
        return Err(BuildError::ChunkLen { chunk_len, reason: "no chunk lengths, or too many graphs in all" });
    }
    Ok(())
}

/// Block expansion needs inputs in whole groups.
fn check_groups(config: &DecoderConfig, weights: NpuWeights, layer: u32, kind: LinearKind) -> Result<(), BuildError> {
    let (_, k) = config.linear_shape(kind);
    if weights == NpuWeights::BlockExpansion && !k.is_multiple_of(GROUP) {
        return Err(BuildError::Groups { layer, kind, k });
    }
    Ok(())
}

/// Sizes beyond u32 cannot come from a config; saturating makes `validate` refuse them.
fn dim(v: usize) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}
