//! From a [`GraphSpec`] to nodes of the library: the one place that knows how HTP wants each op.
//!
//! What it takes (measured on QNN 2.51): linears as Conv2d with weights `[1, 1, K, N]` and the encoding on axis 3; biases of
//! code linears as s32 with scale `s_x · s_w[n]` per channel (any other encoding drops the bias silently); equal types
//! inside an op; nodes in topological order. Each node is validated before it is added, because neither adding nor
//! finalising checks anything.

use super::raw::{NodeDef, Param, QnnDtype, Quant, RawGraph, TensorDef, TensorKind, TensorRef};
use crate::{
    BlockRows, Dtype, Encoding, GraphSpec, NpuError, OpSpec, TensorSpec, WeightEncoding, WeightError, WeightSource,
    WeightSpec,
    weights::{bias_codes, gain_codes, lowered_scales},
};
use coexec_model::{TensorName, layout::GROUP};
use half::f16;
use std::{collections::HashMap, ops::Range};

/// Bits of a group scale in block expansion.
const BLOCK: u32 = GROUP as u32;

/// Puts all tensors and nodes of `spec` into `graph`, which is not finalised.
pub(crate) fn build(graph: &mut RawGraph, spec: &GraphSpec, source: &dyn WeightSource) -> Result<(), NpuError> {
    let mut lowering = Lowering { graph, spec, source, tensors: HashMap::new(), statics: HashMap::new() };
    let groups = [
        (&spec.inputs, TensorKind::Input),
        (&spec.outputs, TensorKind::Output),
        (&spec.intermediates, TensorKind::Intermediate),
    ];
    for (tensors, kind) in groups {
        for tensor in tensors {
            lowering.declare(tensor, kind)?;
        }
    }
    spec.nodes.iter().enumerate().try_for_each(|(i, op)| lowering.node(i, op))
}

struct Lowering<'a> {
    graph: &'a mut RawGraph,
    spec: &'a GraphSpec,
    source: &'a dyn WeightSource,
    tensors: HashMap<&'a str, TensorRef>,
    /// Static tensors that several nodes may use, by name.
    statics: HashMap<String, TensorRef>,
}

impl<'a> Lowering<'a> {
    fn declare(&mut self, tensor: &'a TensorSpec, kind: TensorKind<'_>) -> Result<(), NpuError> {
        let dtype = dtype(tensor.dtype);
        let def = TensorDef { name: &tensor.name, kind, dtype, dims: &tensor.dims, quant: quant(tensor.encoding) };
        let made = self.graph.tensor(&def)?;
        self.tensors.insert(&tensor.name, made);
        Ok(())
    }

    fn node(&mut self, index: usize, op: &'a OpSpec) -> Result<(), NpuError> {
        let y = self.spec_of(op, op.output())?;
        match op {
            OpSpec::Conv2d1x1 { input, weights, bias, .. } => self.linear(index, op, input, weights, *bias, y),
            OpSpec::RmsNorm { input, gain, epsilon, .. } => {
                let x = self.spec_of(op, input)?;
                let gain = self.gain(op, *gain, x.width(), x.dtype)?;
                let axes = self.u32s("axes", &[x.dims.len() as u32 - 1])?;
                let params = [("epsilon", Param::F32(*epsilon)), ("axes", Param::Tensor(&axes))];
                self.add(index, op, "RmsNorm", &params, &[&gain])
            }
            OpSpec::Add { .. } => self.add(index, op, "ElementWiseAdd", &[], &[]),
            OpSpec::Mul { .. } => self.add(index, op, "ElementWiseMultiply", &[], &[]),
            OpSpec::Neuron { function: crate::Function::Sigmoid, .. } => self.add(index, op, "Sigmoid", &[], &[]),
            OpSpec::Softmax { .. } => {
                let params = [("axis", Param::U32(y.dims.len() as u32 - 1)), ("beta", Param::F32(1.0))];
                self.add(index, op, "Softmax", &params, &[])
            }
            OpSpec::MatMul { transpose_b, .. } => {
                let params = [("transpose_in0", Param::Bool(false)), ("transpose_in1", Param::Bool(*transpose_b))];
                self.add(index, op, "MatMul", &params, &[])
            }
            OpSpec::Rope { .. } => {
                let width = Param::U32(y.width() as u32);
                let params = [("interleaved", Param::Bool(false)), ("rotary_embedding_dim", width)];
                self.add(index, op, "RotaryEmbedding", &params, &[])
            }
            OpSpec::Convert { input, .. } => {
                let x = self.spec_of(op, input)?;
                let is_float = |d| matches!(d, Dtype::F16 | Dtype::F32);
                let kind = match (is_float(x.dtype), is_float(y.dtype)) {
                    (true, false) => "Quantize",
                    (false, true) => "Dequantize",
                    _ => "Convert",
                };
                self.add(index, op, kind, &[], &[])
            }
            OpSpec::Reshape { .. } => self.add(index, op, "Reshape", &[], &[]),
            OpSpec::Transpose { perm, .. } => {
                let perm = self.u32s("perm", perm)?;
                self.add(index, op, "Transpose", &[("perm", Param::Tensor(&perm))], &[])
            }
            OpSpec::Concat { axis, .. } => self.add(index, op, "Concat", &[("axis", Param::U32(*axis))], &[]),
        }
    }

    /// Adds a node whose inputs are the op's, followed by `statics`.
    fn add(
        &mut self,
        index: usize,
        op: &OpSpec,
        op_type: &str,
        params: &[(&str, Param<'_>)],
        statics: &[&TensorRef],
    ) -> Result<(), NpuError> {
        let find = |name: &str| self.tensors.get(name).ok_or_else(|| missing(self.spec, op, name));
        let mut inputs = op.inputs().into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
        inputs.extend(statics);
        let outputs = [find(op.output())?];
        let name = format!("{index}.{}", op.output());
        self.graph.node(&NodeDef { name: &name, op_type, params, inputs: &inputs, outputs: &outputs })
    }

    fn linear(
        &mut self,
        index: usize,
        op: &OpSpec,
        input: &str,
        weights: &WeightSpec,
        bias: Option<TensorName>,
        y: &TensorSpec,
    ) -> Result<(), NpuError> {
        let x = self.spec_of(op, input)?;
        // Channels of zero scale take a scale that fits the output; see `lowered_scales`.
        let fallback = match (x.encoding, y.encoding) {
            (Encoding::Tensor { scale: sx, .. }, Encoding::Tensor { scale: sy, .. }) => sy / sx,
            _ => 1.0,
        };
        let rows = Rows::read(weights, self.source, fallback).map_err(|source| NpuError::Weights {
            graph: self.spec.name.clone(),
            op: op.op_name(),
            source,
        })?;
        let Range { start, end } = weights.rows;
        let (n, k) = (weights.n(), weights.k);
        let name = format!("{}.{start}-{end}", weights.tensor);
        let weight = match self.statics.get(&name) {
            Some(made) => made.clone(),
            None => {
                let quant = match weights.encoding {
                    WeightEncoding::PerChannelI8 => Quant::Axis { axis: 3, scales: &rows.scales },
                    WeightEncoding::PerChannelI4 => Quant::AxisBits { axis: 3, bits: 4, scales: &rows.scales },
                    WeightEncoding::BlockExpansion32 => {
                        let block_scales = &rows.group_scales;
                        Quant::BlockExpansion { axis: 3, block: BLOCK, scales: &rows.scales, block_scales }
                    }
                };
                let data = transposed(&rows.codes, n, k);
                let dims = [1, 1, k as u32, n as u32];
                let kind = TensorKind::Static(&data);
                let made =
                    self.graph.tensor(&TensorDef { name: &name, kind, dtype: QnnDtype::I8, dims: &dims, quant })?;
                self.statics.insert(name, made.clone());
                made
            }
        };
        let stride = self.u32s("stride", &[1, 1])?;
        let dilation = self.u32s("dilation", &[1, 1])?;
        let pad = self.static_u32("pad_amount", &[0; 4], &[2, 2])?;
        let params = [
            ("stride", Param::Tensor(&stride)),
            ("dilation", Param::Tensor(&dilation)),
            ("pad_amount", Param::Tensor(&pad)),
        ];
        match bias {
            None => self.add(index, op, "Conv2d", &params, &[&weight]),
            Some(bias) => {
                let bias = self.bias(op, bias, x, weights, &rows.scales)?;
                self.add(index, op, "Conv2d", &params, &[&weight, &bias])
            }
        }
    }

    fn bias(
        &mut self,
        op: &OpSpec,
        tensor: TensorName,
        x: &TensorSpec,
        weights: &WeightSpec,
        scales: &[f32],
    ) -> Result<TensorRef, NpuError> {
        let values = self.vector(op, tensor, weights.rows.clone())?;
        let dims = [weights.n() as u32];
        let name = format!("{tensor}.{}-{}", weights.rows.start, weights.rows.end);
        match x.encoding {
            Encoding::Tensor { scale, .. } => {
                let codes = bias_codes(&values, scale, scales);
                let data: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
                let scales: Vec<f32> = scales.iter().map(|s| scale * s).collect();
                let quant = Quant::Axis { axis: 0, scales: &scales };
                let kind = TensorKind::Static(&data);
                self.graph.tensor(&TensorDef { name: &name, kind, dtype: QnnDtype::I32, dims: &dims, quant })
            }
            Encoding::None => self.static_f16(name, &values),
        }
    }

    /// A norm's gain in the dtype of the activation.
    fn gain(&mut self, op: &OpSpec, tensor: TensorName, len: usize, dtype: Dtype) -> Result<TensorRef, NpuError> {
        let name = tensor.to_string();
        if let Some(made) = self.statics.get(&name) {
            return Ok(made.clone());
        }
        let values = self.vector(op, tensor, 0..len)?;
        let made = match gain_codes(&values, dtype) {
            None => self.static_f16(name.clone(), &values)?,
            Some((encoding, data)) => {
                let kind = TensorKind::Static(&data);
                let dtype = self::dtype(dtype);
                let quant = quant(encoding);
                self.graph.tensor(&TensorDef { name: &name, kind, dtype, dims: &[len as u32], quant })?
            }
        };
        self.statics.insert(name, made.clone());
        Ok(made)
    }

    fn vector(&self, op: &OpSpec, tensor: TensorName, range: Range<usize>) -> Result<Vec<f32>, NpuError> {
        let wanted = range.len();
        let mut values = Vec::new();
        let read = self.source.vector(tensor, range, &mut values).and_then(|()| {
            let reason = || format!("{} elements, {wanted} wanted", values.len());
            if values.len() == wanted { Ok(()) } else { Err(WeightError::Shape { tensor, reason: reason() }) }
        });
        let (graph, op) = (self.spec.name.clone(), op.op_name());
        read.map_err(|source| NpuError::Weights { graph, op, source })?;
        Ok(values)
    }

    fn static_f16(&mut self, name: String, values: &[f32]) -> Result<TensorRef, NpuError> {
        let data: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let dims = [values.len() as u32];
        let kind = TensorKind::Static(&data);
        self.graph.tensor(&TensorDef { name: &name, kind, dtype: QnnDtype::F16, dims: &dims, quant: Quant::None })
    }

    fn u32s(&mut self, what: &str, values: &[u32]) -> Result<TensorRef, NpuError> {
        self.static_u32(what, values, &[values.len() as u32])
    }

    /// A static parameter, shared by all nodes that want the same numbers.
    fn static_u32(&mut self, what: &str, values: &[u32], dims: &[u32]) -> Result<TensorRef, NpuError> {
        let name = values.iter().fold(format!("param.{what}"), |name, v| format!("{name}.{v}"));
        if let Some(made) = self.statics.get(&name) {
            return Ok(made.clone());
        }
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let kind = TensorKind::Static(&data);
        let made =
            self.graph.tensor(&TensorDef { name: &name, kind, dtype: QnnDtype::U32, dims, quant: Quant::None })?;
        self.statics.insert(name, made.clone());
        Ok(made)
    }

    fn spec_of(&self, op: &OpSpec, name: &str) -> Result<&'a TensorSpec, NpuError> {
        self.spec.tensor(name).ok_or_else(|| missing(self.spec, op, name))
    }
}

/// `GraphSpec::validate` makes this impossible.
fn missing(spec: &GraphSpec, op: &OpSpec, name: &str) -> NpuError {
    NpuError::Unsupported {
        device: "qnn".to_owned(),
        graph: spec.name.clone(),
        op: op.op_name(),
        tensor: name.to_owned(),
        reason: "not declared in the graph".to_owned(),
    }
}

/// Codes and scales of a linear as the source gives them, checked.
#[derive(Default)]
struct Rows {
    /// `[n, k]`.
    codes: Vec<i8>,
    /// `[n]`, none zero.
    scales: Vec<f32>,
    /// `[n, k / 32]`, for block expansion.
    group_scales: Vec<u8>,
}

impl Rows {
    fn read(weights: &WeightSpec, source: &dyn WeightSource, fallback: f32) -> Result<Self, WeightError> {
        let (n, k, tensor, rows) = (weights.n(), weights.k, weights.tensor, weights.rows.clone());
        let mut read = Self::default();
        match weights.encoding {
            WeightEncoding::PerChannelI8 => source.int8_rows(tensor, rows, &mut read.codes, &mut read.scales)?,
            WeightEncoding::PerChannelI4 => source.int4_rows(tensor, rows, &mut read.codes, &mut read.scales)?,
            WeightEncoding::BlockExpansion32 => {
                let mut block = BlockRows::default();
                source.block_rows(tensor, rows, &mut block)?;
                // Refuses codes and group scales that QNN would compute garbage with.
                block.expand(n, k, &mut Vec::new()).map_err(|reason| WeightError::Shape { tensor, reason })?;
                read = Self { codes: block.codes, scales: block.scales, group_scales: block.group_scales };
            }
        }
        let bad = |reason| WeightError::Shape { tensor, reason };
        if read.codes.len() != n * k || read.scales.len() != n {
            let (codes, scales) = (read.codes.len(), read.scales.len());
            return Err(bad(format!("{codes} codes and {scales} scales came for rows {:?} of K {k}", weights.rows)));
        }
        read.scales = lowered_scales(&read.codes, k, &read.scales, fallback).map_err(bad)?;
        Ok(read)
    }
}

/// `[n, k]` to `[k, n]`, in tiles that stay in cache.
fn transposed(codes: &[i8], n: usize, k: usize) -> Vec<u8> {
    const TILE: usize = 64;
    let mut out = vec![0u8; n * k];
    for n0 in (0..n).step_by(TILE) {
        for k0 in (0..k).step_by(TILE) {
            for row in n0..n.min(n0 + TILE) {
                for col in k0..k.min(k0 + TILE) {
                    out[col * n + row] = codes[row * k + col] as u8;
                }
            }
        }
    }
    out
}

fn dtype(dtype: Dtype) -> QnnDtype {
    match dtype {
        Dtype::U8 => QnnDtype::U8,
        Dtype::U16 => QnnDtype::U16,
        Dtype::I8 => QnnDtype::I8,
        Dtype::I32 => QnnDtype::I32,
        Dtype::F16 => QnnDtype::F16,
        Dtype::F32 => QnnDtype::F32,
    }
}

fn quant(encoding: Encoding) -> Quant<'static> {
    match encoding {
        Encoding::None => Quant::None,
        Encoding::Tensor { scale, zero_point } => Quant::Tensor { scale, offset: -zero_point },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_transposed() {
        for (n, k) in [(1, 1), (3, 2), (64, 65), (130, 70)] {
            let codes: Vec<i8> = (0..n * k).map(|i| (i * 7 % 251) as u8 as i8).collect();
            let out = transposed(&codes, n, k);
            assert!((0..n * k).all(|i| out[(i % k) * n + i / k] == codes[i] as u8), "{n}x{k}");
        }
    }
}
