//! Static graphs as plain data: shapes, dtypes, encodings, and weights by name.
//!
//! Invariants (checked by [`GraphSpec::validate`], which every device calls first): every dimension is a constant, nodes
//! stand in topological order, names are unique, every output is produced once, encodings fit their dtype. Specs hold no
//! weights; a [`crate::WeightSource`] hands them out while a device prepares.

mod difference;
pub(crate) mod numbers;
mod op;
mod validate;

pub use op::{Function, OpSpec};
pub use validate::SpecError;

use coexec_model::{TensorName, layout::GROUP};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, ops::Range};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Unsigned 8-bit codes.
    U8,
    /// Unsigned 16-bit codes, little-endian.
    U16,
    /// Signed 8-bit codes.
    I8,
    /// Signed 32-bit integers.
    I32,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    F32,
}

impl Dtype {
    /// Size of one element in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::F16 => 2,
            Self::I32 | Self::F32 => 4,
        }
    }

    /// `u8`, `u16`, `i8`, `i32`, `f16` or `f32`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How codes of an activation stand for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Encoding {
    /// The elements are the numbers.
    None,
    /// `value = scale · (code − zero_point)` (QNN's offset is `−zero_point`).
    Tensor {
        /// Step between two codes, positive.
        scale: f32,
        /// Code of zero.
        zero_point: i32,
    },
}

/// A tensor of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name, unique in its graph.
    pub name: String,
    /// Static dimensions; activations of linears are `[1, 1, M, K]`.
    pub dims: Vec<u32>,
    /// Element type.
    pub dtype: Dtype,
    /// What codes stand for.
    pub encoding: Encoding,
}

impl TensorSpec {
    /// An activation `[1, 1, tokens, width]`.
    #[must_use]
    pub fn activation(name: &str, tokens: u32, width: u32, dtype: Dtype, encoding: Encoding) -> Self {
        Self { name: name.to_owned(), dims: vec![1, 1, tokens, width], dtype, encoding }
    }

    /// Elements, `None` when the product overflows.
    #[must_use]
    pub fn elems(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))
    }

    /// Size of a buffer that holds the tensor, in bytes; `None` on overflow.
    #[must_use]
    pub fn len_bytes(&self) -> Option<usize> {
        self.elems()?.checked_mul(self.dtype.bytes())
    }

    /// Rows (tokens) of an activation: the last dimension but one.
    #[must_use]
    pub fn rows(&self) -> usize {
        if self.dims.len() < 2 { 1 } else { self.dims[self.dims.len() - 2] as usize }
    }

    /// Width of an activation: the last dimension.
    #[must_use]
    pub fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(0) as usize
    }
}

/// How the weights of a linear reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightEncoding {
    /// INT8 codes, one scale per output channel, zero point 0.
    PerChannelI8,
    /// INT4 codes −8…7, one scale per output channel, zero point 0.
    PerChannelI4,
    /// INT4 codes −8…7 in groups of 32 inputs; weight = channel scale × integer group scale × code (QNN's block
    /// expansion, LPBQ; the packed file's `q4`).
    BlockExpansion32,
}

impl WeightEncoding {
    /// Whether K must divide into groups of 32.
    #[must_use]
    pub fn is_grouped(self) -> bool {
        self == Self::BlockExpansion32
    }

    /// `per_channel_i8`, `per_channel_i4` or `block_expansion32`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerChannelI8 => "per_channel_i8",
            Self::PerChannelI4 => "per_channel_i4",
            Self::BlockExpansion32 => "block_expansion32",
        }
    }
}

impl fmt::Display for WeightEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Static weights by name: rows (output channels) of a tensor of the packed file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightSpec {
    /// Tensor of the packed file, `[N, K]`.
    pub tensor: TensorName,
    /// Output channels taken from it.
    pub rows: Range<usize>,
    /// Inputs per output channel.
    pub k: usize,
    /// How they reach the device.
    pub encoding: WeightEncoding,
}

impl WeightSpec {
    /// Output channels.
    #[must_use]
    pub fn n(&self) -> usize {
        self.rows.len()
    }

    /// Bytes that a context binary needs for these weights: codes (4-bit ones packed), group scales, channel scales.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        let (n, k) = (self.n() as u64, self.k as u64);
        let codes = n.saturating_mul(k);
        let scales = n.saturating_mul(4);
        match self.encoding {
            WeightEncoding::PerChannelI8 => codes.saturating_add(scales),
            WeightEncoding::PerChannelI4 => codes.div_ceil(2).saturating_add(scales),
            WeightEncoding::BlockExpansion32 => {
                (codes / 2).saturating_add(n.saturating_mul(k.div_ceil(GROUP as u64)) / 2).saturating_add(scales)
            }
        }
    }
}

/// A static graph: bindings follow the order of `inputs` and `outputs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphSpec {
    /// Name, unique in its context; see [`crate::graph_name`].
    pub name: String,
    /// Tensors that the caller writes.
    pub inputs: Vec<TensorSpec>,
    /// Tensors that the caller reads.
    pub outputs: Vec<TensorSpec>,
    /// Tensors that live only inside the graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<TensorSpec>,
    /// Ops in topological order.
    pub nodes: Vec<OpSpec>,
}

impl GraphSpec {
    /// Every tensor of this graph by name.
    #[must_use]
    pub fn tensors(&self) -> HashMap<&str, &TensorSpec> {
        let all = self.inputs.iter().chain(&self.outputs).chain(&self.intermediates);
        all.map(|t| (t.name.as_str(), t)).collect()
    }

    /// The spec of a tensor of this graph.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().chain(&self.outputs).chain(&self.intermediates).find(|t| t.name == name)
    }
}

/// The graphs that live together in one context: weights that several of them name are there once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextSpec {
    /// Name, for messages and files.
    pub name: String,
    /// Graphs, in no particular order.
    pub graphs: Vec<GraphSpec>,
}

impl ContextSpec {
    /// Every weight of the context, each once, in order of first use.
    #[must_use]
    pub fn weights(&self) -> Vec<&WeightSpec> {
        let mut seen = std::collections::HashSet::new();
        let all = self.graphs.iter().flat_map(|g| g.nodes.iter().filter_map(OpSpec::weights));
        all.filter(|w| seen.insert(*w)).collect()
    }

    /// Whether two graphs name the same weights.
    #[must_use]
    pub fn shares_weights(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        self.graphs.iter().any(|graph| {
            let of_graph: Vec<_> = graph.nodes.iter().filter_map(OpSpec::weights).collect();
            let shared = of_graph.iter().any(|w| seen.contains(w));
            seen.extend(of_graph);
            shared
        })
    }

    /// Bytes of a context binary: shared weights plus `graph_overhead_bytes` per graph.
    #[must_use]
    pub fn device_bytes(&self, graph_overhead_bytes: u64) -> u64 {
        let weights = self.weights().iter().fold(0u64, |n, w| n.saturating_add(w.device_bytes()));
        weights.saturating_add(graph_overhead_bytes.saturating_mul(self.graphs.len() as u64))
    }
}
