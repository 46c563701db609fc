//! A context ready to run: weights in memory once, graphs as lists of linears over slots.

use super::{
    MemoryLease,
    linear::{Executor, LinearArgs, LinearWeights},
    requant::{ChannelMultiplier, Width, multipliers},
};
use crate::{
    BlockRows, ContextSpec, Dtype, Encoding, GraphSpec, NpuError, OpSpec, TensorSpec, WeightEncoding, WeightError,
    WeightSource, WeightSpec, weights::lowered_scales,
};
use coexec_cpu::CpuError;
use std::{collections::HashMap, sync::Arc};

pub(super) struct Prepared {
    pub(super) spec: ContextSpec,
    pub(super) graphs: Vec<PreparedGraph>,
    /// In the order of [`ContextSpec::weights`].
    pub(super) weights: Vec<Arc<LinearWeights>>,
    _lease: MemoryLease,
}

pub(super) struct PreparedGraph {
    nodes: Vec<PreparedNode>,
    intermediates: usize,
}

#[derive(Clone, Copy)]
enum Slot {
    Input(usize),
    Output(usize),
    Intermediate(usize),
}

struct PreparedNode {
    input: Slot,
    output: Slot,
    rows: usize,
    width: Width,
    zero_point_in: i32,
    zero_point_out: i32,
    weights: Arc<LinearWeights>,
    multipliers: Vec<ChannelMultiplier>,
}

impl Prepared {
    /// Reads every weight once.
    pub(super) fn from_source(
        spec: &ContextSpec,
        source: &dyn WeightSource,
        lease: MemoryLease,
    ) -> Result<Self, NpuError> {
        let mut weights = Vec::new();
        let mut rows = Rows::default();
        for wanted in spec.weights() {
            let read = rows.read(wanted, source).map_err(|source| {
                let user = spec.graphs.iter().find_map(|g| {
                    g.nodes.iter().find(|n| n.weights() == Some(wanted)).map(|n| (g.name.clone(), n.op_name()))
                });
                let (graph, op) = user.unwrap_or_default();
                NpuError::Weights { graph, op, source }
            })?;
            weights.push(Arc::new(read));
        }
        Self::new(spec.clone(), weights, lease)
    }

    /// From weights in the order of [`ContextSpec::weights`].
    pub(super) fn new(
        spec: ContextSpec,
        weights: Vec<Arc<LinearWeights>>,
        lease: MemoryLease,
    ) -> Result<Self, NpuError> {
        let by_spec: HashMap<&WeightSpec, &Arc<LinearWeights>> = spec.weights().into_iter().zip(&weights).collect();
        let graphs = spec.graphs.iter().map(|g| PreparedGraph::new(g, &by_spec)).collect::<Result<_, _>>()?;
        Ok(Self { spec, graphs, weights, _lease: lease })
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let weights: u64 = self.weights.iter().map(|w| w.memory_bytes()).sum();
        let nodes = self.graphs.iter().flat_map(|g| &g.nodes);
        weights + nodes.map(|n| (n.multipliers.len() * size_of::<ChannelMultiplier>()) as u64).sum::<u64>()
    }
}

impl PreparedGraph {
    fn new(graph: &GraphSpec, weights: &HashMap<&WeightSpec, &Arc<LinearWeights>>) -> Result<Self, NpuError> {
        let unsupported = |op: &OpSpec, tensor: &str, reason: &str| NpuError::Unsupported {
            device: "sim".to_owned(),
            graph: graph.name.clone(),
            op: op.op_name(),
            tensor: tensor.to_owned(),
            reason: reason.to_owned(),
        };
        let find = |list: &[TensorSpec], name: &str| list.iter().position(|t| t.name == name);
        let slot = |name: &str| {
            find(&graph.inputs, name)
                .map(Slot::Input)
                .or_else(|| find(&graph.outputs, name).map(Slot::Output))
                .or_else(|| find(&graph.intermediates, name).map(Slot::Intermediate))
        };
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for op in &graph.nodes {
            let OpSpec::Conv2d1x1 { input, weights: wanted, bias: None, output } = op else {
                return Err(unsupported(op, op.output(), "the simulated device does not compute this op"));
            };
            let missing = |name: &str| unsupported(op, name, "not declared in the graph");
            let (x, y) = (
                graph.tensor(input).ok_or_else(|| missing(input))?,
                graph.tensor(output).ok_or_else(|| missing(output))?,
            );
            let width = match x.dtype {
                Dtype::U8 => Width::Bits8,
                Dtype::U16 => Width::Bits16,
                _ => return Err(unsupported(op, input, "the simulated device computes u8 and u16 linears only")),
            };
            let (Encoding::Tensor { scale: sx, zero_point: zx }, Encoding::Tensor { scale: sy, zero_point: zy }) =
                (x.encoding, y.encoding)
            else {
                return Err(unsupported(op, input, "codes need a per-tensor encoding"));
            };
            let shared = weights.get(wanted).ok_or_else(|| missing(output))?;
            let scales = lowered_scales(&shared.codes, shared.k(), &shared.scales, sy / sx)
                .map_err(|reason| unsupported(op, &wanted.tensor.to_string(), &reason))?;
            nodes.push(PreparedNode {
                input: slot(input).ok_or_else(|| missing(input))?,
                output: slot(output).ok_or_else(|| missing(output))?,
                rows: x.rows(),
                width,
                zero_point_in: zx,
                zero_point_out: zy,
                weights: Arc::clone(shared),
                multipliers: multipliers(width, sx, &scales, sy)
                    .map_err(|e| unsupported(op, output, &e.to_string()))?,
            });
        }
        Ok(Self { nodes, intermediates: graph.intermediates.len() })
    }

    /// Runs the nodes in order. Sizes were checked at submit.
    pub(super) fn run(
        &self,
        executor: &mut Executor,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), CpuError> {
        let mut intermediates = vec![Vec::new(); self.intermediates];
        let mut out = Vec::new();
        for node in &self.nodes {
            let x = match node.input {
                Slot::Input(i) => inputs[i],
                Slot::Output(i) => &*outputs[i],
                Slot::Intermediate(i) => &intermediates[i],
            };
            let args = LinearArgs {
                rows: node.rows,
                width: node.width,
                zero_point_in: node.zero_point_in,
                zero_point_out: node.zero_point_out,
                weights: &node.weights,
                multipliers: &node.multipliers,
            };
            executor.linear(&args, x, &mut out)?;
            match node.output {
                Slot::Output(i) => outputs[i].copy_from_slice(&out),
                Slot::Intermediate(i) => intermediates[i] = std::mem::take(&mut out),
                // `validate` refuses nodes that write an input.
                Slot::Input(_) => {}
            }
        }
        Ok(())
    }
}

/// Vectors that a weight source fills.
#[derive(Default)]
struct Rows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    block: BlockRows,
}

impl Rows {
    fn read(&mut self, wanted: &WeightSpec, source: &dyn WeightSource) -> Result<LinearWeights, WeightError> {
        let (n, k) = (wanted.n(), wanted.k);
        let bad = |reason: String| WeightError::Shape { tensor: wanted.tensor, reason };
        match wanted.encoding {
            WeightEncoding::PerChannelI8 => {
                source.int8_rows(wanted.tensor, wanted.rows.clone(), &mut self.codes, &mut self.scales)?;
            }
            WeightEncoding::PerChannelI4 => {
                source.int4_rows(wanted.tensor, wanted.rows.clone(), &mut self.codes, &mut self.scales)?;
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
        LinearWeights::new(n, k, self.codes.clone(), self.scales.clone()).map_err(|e| bad(e.to_string()))
    }
}
