//! Static data of a context in memory: the weights of linears, each once, and float vectors (gains, biases).

use super::linear::LinearWeights;
use crate::{BlockRows, ContextSpec, Dtype, NpuError, OpSpec, WeightEncoding, WeightError, WeightSource, WeightSpec};
use coexec_model::TensorName;
use std::{collections::HashSet, ops::Range, sync::Arc};

/// Which elements of which float vector.
pub(super) type VectorKey = (TensorName, Range<usize>);

/// The static data of a context.
#[derive(Debug)]
pub(super) struct Statics {
    /// In the order of [`ContextSpec::weights`].
    pub(super) weights: Vec<Arc<LinearWeights>>,
    /// In the order of [`vectors`].
    pub(super) vectors: Vec<Arc<Vec<f32>>>,
}

/// Every float vector of a context, each once, in order of first use.
pub(super) fn vectors(spec: &ContextSpec) -> Vec<VectorKey> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for graph in &spec.graphs {
        let tensors = graph.tensors();
        let keys = graph.nodes.iter().filter_map(|node| node.vector(&tensors));
        all.extend(keys.filter(|key| seen.insert(key.clone())));
    }
    all
}

/// Weights that some linear in codes multiplies by, so that they are needed as the integer kernels read them.
pub(super) fn integer_weights(spec: &ContextSpec) -> HashSet<&WeightSpec> {
    let mut all = HashSet::new();
    for graph in &spec.graphs {
        for node in &graph.nodes {
            if let OpSpec::Conv2d1x1 { input, weights, .. } = node
                && graph.tensor(input).is_some_and(|x| matches!(x.dtype, Dtype::U8 | Dtype::U16))
            {
                all.insert(weights);
            }
        }
    }
    all
}

impl Statics {
    /// Reads everything once.
    pub(super) fn from_source(spec: &ContextSpec, source: &dyn WeightSource) -> Result<Self, NpuError> {
        let integer = integer_weights(spec);
        let mut rows = Rows::default();
        let mut weights = Vec::new();
        for wanted in spec.weights() {
            let read = rows.read(wanted, integer.contains(wanted), source);
            weights.push(Arc::new(read.map_err(|e| blame(spec, wanted.tensor, e))?));
        }
        let mut all = Vec::new();
        for key in vectors(spec) {
            let read = read_vector(&key, source);
            all.push(Arc::new(read.map_err(|e| blame(spec, key.0, e))?));
        }
        Ok(Self { weights, vectors: all })
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let vectors: usize = self.vectors.iter().map(|v| v.len() * 4).sum();
        self.weights.iter().map(|w| w.memory_bytes()).sum::<u64>() + vectors as u64
    }
}

/// The error with the first graph and op that need the tensor.
fn blame(spec: &ContextSpec, tensor: TensorName, source: WeightError) -> NpuError {
    let user = spec.graphs.iter().find_map(|graph| {
        let tensors = graph.tensors();
        let uses = |node: &OpSpec| {
            node.weights().is_some_and(|w| w.tensor == tensor)
                || node.vector(&tensors).is_some_and(|(name, _)| name == tensor)
        };
        graph.nodes.iter().find(|node| uses(node)).map(|node| (graph.name.clone(), node.op_name()))
    });
    let (graph, op) = user.unwrap_or_default();
    NpuError::Weights { graph, op, source }
}

fn read_vector((tensor, range): &VectorKey, source: &dyn WeightSource) -> Result<Vec<f32>, WeightError> {
    let mut out = Vec::new();
    source.vector(*tensor, range.clone(), &mut out)?;
    if out.len() != range.len() {
        let reason = format!("{} elements came for {range:?}", out.len());
        return Err(WeightError::Shape { tensor: *tensor, reason });
    }
    if let Some(at) = out.iter().position(|v| !v.is_finite()) {
        let reason = format!("element {} is {}; import the model again", range.start + at, out[at]);
        return Err(WeightError::Format { tensor: *tensor, wanted: "finite floats", reason });
    }
    Ok(out)
}

/// Vectors that a weight source fills.
#[derive(Default)]
struct Rows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    block: BlockRows,
}

impl Rows {
    fn read(
        &mut self,
        wanted: &WeightSpec,
        integer: bool,
        source: &dyn WeightSource,
    ) -> Result<LinearWeights, WeightError> {
        let (n, k) = (wanted.n(), wanted.k);
        let bad = |reason: String| WeightError::Shape { tensor: wanted.tensor, reason };
        match wanted.encoding {
            WeightEncoding::PerChannelI8 => {
                source.int8_rows(wanted.tensor, wanted.rows.clone(), &mut self.codes, &mut self.scales)?;
            }
            WeightEncoding::PerChannelI4 => {
                source.int4_rows(wanted.tensor, wanted.rows.clone(), &mut self.codes, &mut self.scales)?;
                if let Some(code) = self.codes.iter().find(|c| !(-8..=7).contains(*c)) {
                    return Err(bad(format!("code {code} is not in −8…7")));
                }
            }
            WeightEncoding::BlockExpansion32 => {
                source.block_rows(wanted.tensor, wanted.rows.clone(), &mut self.block)?;
                self.block.expand(n, k, &mut self.codes).map_err(bad)?;
                self.scales.clone_from(&self.block.scales);
            }
        }
        if self.codes.len() != n * k || self.scales.len() != n {
            let (codes, scales) = (self.codes.len(), self.scales.len());
            return Err(bad(format!("{codes} codes and {scales} scales came for rows {:?} of K {k}", wanted.rows)));
        }
        LinearWeights::new(n, k, self.codes.clone(), self.scales.clone(), integer).map_err(|e| bad(e.to_string()))
    }
}
