//! Ranges of every tensor of a graph on given inputs: what encodings are chosen from.

use super::{linear::Executor, prepared::Prepared};
use crate::{ContextSpec, GraphId, NpuError, TensorSpec, WeightSource};
use coexec_cpu::Pool;
use std::{collections::BTreeMap, sync::Arc};

/// Computes graphs as the simulated device does and tells the range of every tensor. No profile is asked and no memory is
/// counted, so graphs may be in dtypes that no device computes.
pub struct Observer {
    prepared: Prepared,
    executor: Executor,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("context", &self.prepared.spec.name).finish_non_exhaustive()
    }
}

/// One execution of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Bytes of the outputs, in the graph's order.
    pub outputs: Vec<Vec<u8>>,
    /// Smallest and largest number of every tensor (inputs, outputs, intermediates) by name; NaN is passed over.
    pub ranges: BTreeMap<String, (f32, f32)>,
}

impl Observer {
    /// Reads the weights of a context; `threads` compute.
    ///
    /// # Errors
    /// [`NpuError::Spec`], [`NpuError::Weights`], or [`NpuError::Unsupported`] for scales that linears in codes cannot take.
    pub fn new(spec: &ContextSpec, weights: &dyn WeightSource, threads: usize) -> Result<Self, NpuError> {
        spec.validate()?;
        Ok(Self {
            prepared: Prepared::from_source(spec, weights, None)?,
            executor: Executor::new(Arc::new(Pool::new(threads))),
        })
    }

    /// Runs a graph (its position in the spec) on the bytes of its inputs.
    ///
    /// # Errors
    /// [`NpuError::UnknownGraph`], [`NpuError::BindingCount`] or [`NpuError::BufferSize`].
    pub fn run(&mut self, graph: GraphId, inputs: &[&[u8]]) -> Result<Observation, NpuError> {
        let context = &self.prepared.spec;
        let unknown = || NpuError::UnknownGraph { context: context.name.clone(), id: graph.0 };
        let index = graph.0 as usize;
        let spec = context.graphs.get(index).ok_or_else(unknown)?;
        if inputs.len() != spec.inputs.len() {
            let (expected, found) = (spec.inputs.len(), inputs.len());
            return Err(NpuError::BindingCount { graph: spec.name.clone(), side: "input", expected, found });
        }
        let mut ranges = BTreeMap::new();
        for (tensor, bytes) in spec.inputs.iter().zip(inputs) {
            let expected_bytes = tensor.len_bytes().unwrap_or(usize::MAX);
            if bytes.len() != expected_bytes {
                return Err(NpuError::BufferSize {
                    graph: spec.name.clone(),
                    tensor: tensor.name.clone(),
                    dtype: tensor.dtype,
                    dims: tensor.dims.clone(),
                    expected_bytes,
                    found_bytes: bytes.len(),
                });
            }
            ranges.insert(tensor.name.clone(), range(tensor, bytes));
        }
        // `validate` bounds the sizes.
        let mut outputs: Vec<Vec<u8>> = spec.outputs.iter().map(|t| vec![0; t.len_bytes().unwrap_or(0)]).collect();
        let mut bound: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        let mut observe = |tensor: &TensorSpec, bytes: &[u8]| {
            ranges.insert(tensor.name.clone(), range(tensor, bytes));
        };
        let ran = self.prepared.graphs[index].run_observed(&mut self.executor, inputs, &mut bound, &mut observe);
        ran.map_err(|source| NpuError::Compute { graph: spec.name.clone(), source })?;
        Ok(Observation { outputs, ranges })
    }
}

fn range(spec: &TensorSpec, bytes: &[u8]) -> (f32, f32) {
    let numbers = spec.numbers(bytes);
    numbers.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)))
}
