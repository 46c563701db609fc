//! A context ready to run: static data in memory once, graphs as lists of ops over slots.

use super::{
    MemoryLease,
    linear::{Executor, IntegerLinear, LinearWeights},
    matmul::Shape,
    ops::{Tensor, compute},
    requant::{Width, bias_units, multipliers},
    statics::{Statics, VectorKey, vectors},
};
use crate::{
    ContextSpec, Dtype, Encoding, GraphSpec, NpuError, OpSpec, TensorSpec, WeightSource, WeightSpec,
    weights::{bias_codes, gain_codes, lowered_scales},
};
use coexec_cpu::CpuError;
use half::f16;
use std::{collections::HashMap, sync::Arc};

pub(super) struct Prepared {
    pub(super) spec: ContextSpec,
    pub(super) graphs: Vec<PreparedGraph>,
    pub(super) statics: Statics,
    /// The observer computes without a device's memory.
    _lease: Option<MemoryLease>,
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
    op: OpSpec,
    inputs: Vec<(Slot, TensorSpec)>,
    output: (Slot, TensorSpec),
    data: NodeData,
}

/// What is fixed at prepare beside the op itself.
enum NodeData {
    None,
    Gain(Vec<f32>),
    Integer(IntegerLinear),
    Float { weights: Arc<LinearWeights>, bias: Option<Vec<f32>> },
}

impl Prepared {
    /// Reads all static data once.
    pub(super) fn from_source(
        spec: &ContextSpec,
        source: &dyn WeightSource,
        lease: Option<MemoryLease>,
    ) -> Result<Self, NpuError> {
        Self::new(spec.clone(), Statics::from_source(spec, source)?, lease)
    }

    pub(super) fn new(spec: ContextSpec, statics: Statics, lease: Option<MemoryLease>) -> Result<Self, NpuError> {
        let lookup = Lookup {
            weights: spec.weights().into_iter().zip(&statics.weights).collect(),
            vectors: vectors(&spec).into_iter().zip(&statics.vectors).collect(),
        };
        let graphs = spec.graphs.iter().map(|g| PreparedGraph::new(g, &lookup)).collect::<Result<_, _>>()?;
        Ok(Self { spec, graphs, statics, _lease: lease })
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let nodes = self.graphs.iter().flat_map(|g| &g.nodes);
        let own = |node: &PreparedNode| if let NodeData::Integer(l) = &node.data { l.memory_bytes() } else { 0 };
        self.statics.memory_bytes() + nodes.map(own).sum::<u64>()
    }
}

/// Static data by what specs call it.
struct Lookup<'a> {
    weights: HashMap<&'a WeightSpec, &'a Arc<LinearWeights>>,
    vectors: HashMap<VectorKey, &'a Arc<Vec<f32>>>,
}

impl PreparedGraph {
    fn new(graph: &GraphSpec, lookup: &Lookup<'_>) -> Result<Self, NpuError> {
        let find = |list: &[TensorSpec], name: &str| list.iter().position(|t| t.name == name);
        let slot = |name: &str| {
            let slot = find(&graph.inputs, name)
                .map(Slot::Input)
                .or_else(|| find(&graph.outputs, name).map(Slot::Output))
                .or_else(|| find(&graph.intermediates, name).map(Slot::Intermediate))?;
            Some((slot, graph.tensor(name)?.clone()))
        };
        let tensors = graph.tensors();
        let node = |op: &OpSpec| -> Result<PreparedNode, NpuError> {
            let unsupported = |(tensor, reason): (String, String)| NpuError::Unsupported {
                device: "sim".to_owned(),
                graph: graph.name.clone(),
                op: op.op_name(),
                tensor,
                reason,
            };
            // `validate` makes sure of every name; a graph that was never checked gets an error all the same.
            let missing = |name: &str| unsupported((name.to_owned(), "not declared in the graph".to_owned()));
            let find = |name: &str| slot(name).ok_or_else(|| missing(name));
            let inputs = op.inputs().into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
            let output = find(op.output())?;
            let key = op.vector(&tensors);
            let vector = match &key {
                None => None,
                Some(key) => Some(Arc::clone(lookup.vectors.get(key).ok_or_else(|| missing(op.output()))?)),
            };
            let data = match (op.weights(), inputs.first()) {
                (Some(wanted), Some((_, x))) => {
                    let weights = Arc::clone(lookup.weights.get(wanted).ok_or_else(|| missing(op.output()))?);
                    linear_data(x, &output.1, wanted, weights, vector).map_err(unsupported)?
                }
                (None, Some((_, x))) => {
                    vector.map_or(NodeData::None, |gain| NodeData::Gain(gain_as_given(&gain, x.dtype)))
                }
                _ => NodeData::None,
            };
            Ok(PreparedNode { op: op.clone(), inputs, output, data })
        };
        let nodes = graph.nodes.iter().map(node).collect::<Result<_, _>>()?;
        Ok(Self { nodes, intermediates: graph.intermediates.len() })
    }

    /// Runs the nodes in order. Sizes were checked at submit.
    pub(super) fn run(
        &self,
        executor: &mut Executor,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), CpuError> {
        self.run_observed(executor, inputs, outputs, &mut |_, _| {})
    }

    /// As [`Self::run`]; `observe` sees every tensor that a node wrote.
    pub(super) fn run_observed(
        &self,
        executor: &mut Executor,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        observe: &mut dyn FnMut(&TensorSpec, &[u8]),
    ) -> Result<(), CpuError> {
        let mut intermediates = vec![Vec::new(); self.intermediates];
        let mut out = std::mem::take(&mut executor.out);
        for node in &self.nodes {
            // Most work is linears that write an output: straight to its buffer.
            let mut target = match (&node.data, node.output.0) {
                (NodeData::Integer(_), Slot::Output(i)) => Some(std::mem::take(&mut outputs[i])),
                _ => None,
            };
            let tensors: Vec<Tensor<'_>> = node
                .inputs
                .iter()
                .map(|(slot, spec)| {
                    let bytes = match slot {
                        Slot::Input(i) => inputs[*i],
                        Slot::Output(i) => &*outputs[*i],
                        Slot::Intermediate(i) => intermediates[*i].as_slice(),
                    };
                    Tensor { spec, bytes }
                })
                .collect();
            let ran = match (&node.data, &mut target) {
                (NodeData::Integer(linear), Some(to)) => executor.integer_linear(linear, tensors[0].bytes, to),
                _ => node.run(executor, &tensors, &mut out),
            };
            if let (Slot::Output(i), Some(to)) = (node.output.0, target) {
                outputs[i] = to;
                ran?;
                observe(&node.output.1, outputs[i]);
                continue;
            }
            ran?;
            observe(&node.output.1, &out);
            match node.output.0 {
                Slot::Output(i) => outputs[i].copy_from_slice(&out),
                Slot::Intermediate(i) => intermediates[i] = std::mem::take(&mut out),
                // `validate` refuses nodes that write an input.
                Slot::Input(_) => {}
            }
        }
        executor.out = out;
        Ok(())
    }
}

impl PreparedNode {
    fn run(&self, executor: &mut Executor, inputs: &[Tensor<'_>], out: &mut Vec<u8>) -> Result<(), CpuError> {
        let (x, y) = (inputs[0], &self.output.1);
        match (&self.data, &self.op) {
            (NodeData::Integer(linear), _) => {
                out.resize(linear.output_bytes(), 0);
                executor.integer_linear(linear, x.bytes, out)
            }
            (NodeData::Float { weights, bias }, _) => {
                executor.float_linear(weights, bias.as_deref(), &x.floats(), y, out)
            }
            (_, OpSpec::MatMul { transpose_b, .. }) => {
                let (m, k) = (x.spec.rows(), x.spec.width());
                let batches = x.spec.elems().unwrap_or(0) / (m * k).max(1);
                let shape = Shape { batches, m, k, n: y.width() };
                executor.mat_mul(shape, &x.floats(), &inputs[1].floats(), *transpose_b, y, out)
            }
            (NodeData::Gain(gain), op) => {
                compute(op, inputs, gain, y, out);
                Ok(())
            }
            (NodeData::None, op) => {
                compute(op, inputs, &[], y, out);
                Ok(())
            }
        }
    }
}

/// A gain in the precision that devices are given it in.
fn gain_as_given(gain: &[f32], dtype: Dtype) -> Vec<f32> {
    match gain_codes(gain, dtype) {
        None => gain.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
        Some((encoding, codes)) => {
            let spec = TensorSpec { name: String::new(), dims: vec![gain.len() as u32], dtype, encoding };
            spec.numbers(&codes)
        }
    }
}

/// Linears in codes follow HTP's rule, all others are computed in floats. The error names a tensor.
fn linear_data(
    x: &TensorSpec,
    y: &TensorSpec,
    wanted: &WeightSpec,
    weights: Arc<LinearWeights>,
    bias: Option<Arc<Vec<f32>>>,
) -> Result<NodeData, (String, String)> {
    let width = match x.dtype {
        Dtype::U8 => Width::Bits8,
        Dtype::U16 => Width::Bits16,
        _ => {
            let bias = bias.map(|bias| bias.iter().map(|v| f16::from_f32(*v).to_f32()).collect());
            return Ok(NodeData::Float { weights, bias });
        }
    };
    let (Encoding::Tensor { scale: sx, zero_point: zx }, Encoding::Tensor { scale: sy, zero_point: zy }) =
        (x.encoding, y.encoding)
    else {
        return Err((x.name.clone(), "codes need a per-tensor encoding".to_owned()));
    };
    let scales = lowered_scales(&weights.codes, weights.k(), &weights.scales, sy / sx)
        .map_err(|reason| (wanted.tensor.to_string(), reason))?;
    let bias = bias.map(|bias| bias_units(width, &bias_codes(&bias, sx, &scales), sx, &scales));
    let linear = IntegerLinear {
        rows: x.rows(),
        width,
        zero_point_in: zx,
        zero_point_out: zy,
        multipliers: multipliers(width, sx, &scales, sy).map_err(|e| (y.name.clone(), e.to_string()))?,
        bias: bias.unwrap_or_default(),
        narrow: None,
        weights,
    };
    Ok(NodeData::Integer(linear.narrowed()))
}
