//! The parts of a decoder layer as ops: what placements `fused` and `layer` put together.
//!
//! Tensors inside a graph are called `role.L<layer>` after their [`Role`], so that observed ranges find their way back;
//! other tensors get names of their own.

use super::{Activation, BuildError, NpuWeights, Ranges, Role, check_groups, dim};
use crate::{Dtype, Encoding, Function, GraphSpec, OpSpec, TensorSpec, WeightSpec};
use coexec_model::{DecoderConfig, LayerIdx, LayerTensor, LinearKind, TensorName};
use std::ops::Range;

/// Smallest value of SiLU is −0.2785.
const SILU_LOW: f32 = -0.2785;

/// A graph while it is built.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) ranges: &'a Ranges,
    pub(super) activation: Activation,
    pub(super) weights: NpuWeights,
    /// Rows of every activation.
    pub(super) chunk_len: usize,
    inputs: Vec<TensorSpec>,
    tensors: Vec<TensorSpec>,
    nodes: Vec<OpSpec>,
}

/// Name of the tensor of a role in a layer.
pub(super) fn name(role: Role, layer: LayerIdx) -> String {
    format!("{role}.L{}", layer.0)
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        config: &'a DecoderConfig,
        ranges: &'a Ranges,
        activation: Activation,
        weights: NpuWeights,
        chunk_len: usize,
    ) -> Self {
        let (inputs, tensors, nodes) = Default::default();
        Self { config, ranges, activation, weights, chunk_len, inputs, tensors, nodes }
    }

    /// The graph, with some of the produced tensors as outputs.
    pub(super) fn finish(self, name: String, outputs: &[String]) -> GraphSpec {
        let mut tensors = self.tensors;
        let mut found = Vec::with_capacity(outputs.len());
        for output in outputs {
            if let Some(at) = tensors.iter().position(|t| t.name == *output) {
                found.push(tensors.remove(at));
            }
        }
        GraphSpec { name, inputs: self.inputs, outputs: found, intermediates: tensors, nodes: self.nodes }
    }

    /// An input of the activations' dtype.
    pub(super) fn input(&mut self, name: &str, dims: &[usize], encoding: Encoding) -> String {
        self.input_of(name, dims, self.activation.dtype(), encoding)
    }

    /// An input of any dtype.
    pub(super) fn input_of(&mut self, name: &str, dims: &[usize], dtype: Dtype, encoding: Encoding) -> String {
        let dims = dims.iter().map(|d| dim(*d)).collect();
        self.inputs.push(TensorSpec { name: name.to_owned(), dims, dtype, encoding });
        name.to_owned()
    }

    /// A tensor that a node will write, of the activations' dtype.
    pub(super) fn tensor(&mut self, name: &str, dims: &[usize], encoding: Encoding) -> String {
        self.tensor_of(name, dims, self.activation.dtype(), encoding)
    }

    fn tensor_of(&mut self, name: &str, dims: &[usize], dtype: Dtype, encoding: Encoding) -> String {
        let dims = dims.iter().map(|d| dim(*d)).collect();
        self.tensors.push(TensorSpec { name: name.to_owned(), dims, dtype, encoding });
        name.to_owned()
    }

    pub(super) fn push(&mut self, op: OpSpec) {
        self.nodes.push(op);
    }

    /// Range of a role; 1 in f16, where nobody uses it.
    pub(super) fn range(&self, layer: LayerIdx, role: Role) -> Result<f32, BuildError> {
        if self.activation == Activation::F16 { Ok(1.0) } else { self.ranges.get(layer, role) }
    }

    pub(super) fn encoding(&self, layer: LayerIdx, role: Role) -> Result<Encoding, BuildError> {
        Ok(self.activation.symmetric(self.range(layer, role)?))
    }

    /// The residual stream that enters a layer; `layer` = number of layers is what leaves the last.
    pub(super) fn residual_input(&mut self, layer: LayerIdx) -> Result<String, BuildError> {
        let encoding = self.encoding(layer, Role::Residual)?;
        Ok(self.input("x", &[1, 1, self.chunk_len, self.config.hidden_size as usize], encoding))
    }

    /// An input with cosines or sines, [1, chunk, head_dim / 2], of values −`largest`…`largest`.
    pub(super) fn table(&mut self, name: &str, largest: f32) -> String {
        let dims = [1, self.chunk_len, self.config.head_dim as usize / 2];
        self.input(name, &dims, self.activation.symmetric(largest))
    }

    fn norm(
        &mut self,
        layer: LayerIdx,
        x: &str,
        gain: LayerTensor,
        role: Role,
        dims: &[usize],
    ) -> Result<String, BuildError> {
        let encoding = self.encoding(layer, role)?;
        let y = self.tensor(&name(role, layer), dims, encoding);
        let gain = TensorName::Layer(layer, gain);
        let epsilon = self.config.rms_norm_eps;
        self.push(OpSpec::RmsNorm { input: x.to_owned(), gain, epsilon, output: y.clone() });
        Ok(y)
    }

    /// Some rows of a linear.
    fn linear(
        &mut self,
        layer: LayerIdx,
        x: &str,
        kind: LinearKind,
        rows: Range<usize>,
        role: Role,
    ) -> Result<String, BuildError> {
        check_groups(self.config, self.weights, layer.0, kind)?;
        let encoding = self.encoding(layer, role)?;
        let y = self.tensor(&name(role, layer), &[1, 1, self.chunk_len, rows.len()], encoding);
        let (_, k) = self.config.linear_shape(kind);
        let tensor = TensorName::Layer(layer, kind.tensor());
        let biased = kind == LinearKind::Qkv && self.config.qkv_bias;
        self.push(OpSpec::Conv2d1x1 {
            input: x.to_owned(),
            weights: WeightSpec { tensor, rows, k, encoding: self.weights.encoding() },
            bias: biased.then_some(TensorName::Layer(layer, LayerTensor::QkvBias)),
            output: y.clone(),
        });
        Ok(y)
    }

    /// `[1, 1, chunk, heads · head_dim]` to `[1, heads, chunk, head_dim]`.
    fn split_heads(&mut self, x: &str, heads: usize, encoding: Encoding, y: &str) -> String {
        let (chunk, width) = (self.chunk_len, self.config.head_dim as usize);
        let rows = self.tensor(&format!("{x}.rows"), &[1, chunk, heads, width], encoding);
        self.push(OpSpec::Reshape { input: x.to_owned(), output: rows.clone() });
        let y = self.tensor(y, &[1, heads, chunk, width], encoding);
        self.push(OpSpec::Transpose { input: rows, perm: vec![0, 2, 1, 3], output: y.clone() });
        y
    }

    /// RMSNorm, projections (with bias), heads apart, RMSNorm of query and key heads where the model has it: queries, keys
    /// (not rotated) and values `[1, heads, chunk, head_dim]`, the values called `v_name`.
    pub(super) fn projections(&mut self, layer: LayerIdx, x: &str, v_name: &str) -> Result<[String; 3], BuildError> {
        let config = self.config;
        let (hidden, head_dim) = (config.hidden_size as usize, config.head_dim as usize);
        let heads = [config.num_attention_heads as usize, config.num_key_value_heads as usize];
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let normed = self.norm(layer, x, LayerTensor::AttnNorm, Role::AttnNorm, &[1, 1, self.chunk_len, hidden])?;
        let mut project = |role, rows, heads, y: &str| {
            let flat = self.linear(layer, &normed, LinearKind::Qkv, rows, role)?;
            let encoding = self.encoding(layer, role)?;
            Ok::<_, BuildError>(self.split_heads(&flat, heads, encoding, y))
        };
        let heads_of = |role| format!("{role}_heads.L{}", layer.0);
        let mut q = project(Role::Q, 0..q_size, heads[0], &heads_of(Role::Q))?;
        let mut k = project(Role::K, q_size..q_size + kv_size, heads[1], &heads_of(Role::K))?;
        let v = project(Role::V, q_size + kv_size..q_size + 2 * kv_size, heads[1], v_name)?;
        if config.qk_norm {
            let dims = |heads| [1, heads, self.chunk_len, head_dim];
            let (q_dims, k_dims) = (dims(heads[0]), dims(heads[1]));
            q = self.norm(layer, &q, LayerTensor::QNorm, Role::QNorm, &q_dims)?;
            k = self.norm(layer, &k, LayerTensor::KNorm, Role::KNorm, &k_dims)?;
        }
        Ok([q, k, v])
    }

    /// Rotates `[1, heads, chunk, head_dim]`.
    pub(super) fn rotate(
        &mut self,
        x: &str,
        heads: usize,
        cos: &str,
        sin: &str,
        encoding: Encoding,
        y: &str,
    ) -> String {
        let y = self.tensor(y, &[1, heads, self.chunk_len, self.config.head_dim as usize], encoding);
        let (input, cos, sin, output) = (x.to_owned(), cos.to_owned(), sin.to_owned(), y.clone());
        self.push(OpSpec::Rope { input, cos, sin, output });
        y
    }

    /// The same numbers in another dtype and encoding.
    pub(super) fn convert(&mut self, x: &str, dims: &[usize], dtype: Dtype, encoding: Encoding, y: &str) -> String {
        let y = self.tensor_of(y, dims, dtype, encoding);
        self.push(OpSpec::Convert { input: x.to_owned(), output: y.clone() });
        y
    }

    pub(super) fn concat(
        &mut self,
        inputs: [&str; 2],
        axis: u32,
        dims: &[usize],
        (dtype, encoding): (Dtype, Encoding),
        y: &str,
    ) -> String {
        let y = self.tensor_of(y, dims, dtype, encoding);
        let inputs = inputs.map(str::to_owned).to_vec();
        self.push(OpSpec::Concat { inputs, axis, output: y.clone() });
        y
    }

    /// The same elements in other dimensions; `x` itself when `same`.
    pub(super) fn reshape(&mut self, x: &str, dims: &[usize], encoding: Encoding, y: &str, same: bool) -> String {
        if same {
            return x.to_owned();
        }
        let y = self.tensor(y, dims, encoding);
        self.push(OpSpec::Reshape { input: x.to_owned(), output: y.clone() });
        y
    }

    fn add(&mut self, a: &str, b: &str, encoding: Encoding, y: &str) -> String {
        let y = self.tensor(y, &[1, 1, self.chunk_len, self.config.hidden_size as usize], encoding);
        self.push(OpSpec::Add { a: a.to_owned(), b: b.to_owned(), output: y.clone() });
        y
    }

    /// Output projection, residual, RMSNorm, SwiGLU, residual: from the attention's result `[1, 1, chunk, heads · head_dim]`
    /// and the layer's input to its output, called `y`.
    pub(super) fn after_attention(
        &mut self,
        layer: LayerIdx,
        attn: &str,
        x: &str,
        y: &str,
    ) -> Result<String, BuildError> {
        let (hidden, ffn) = (self.config.hidden_size as usize, self.config.intermediate_size as usize);
        let o = self.linear(layer, attn, LinearKind::O, 0..hidden, Role::O)?;
        let encoding = self.encoding(layer, Role::Mid)?;
        let mid = self.add(x, &o, encoding, &name(Role::Mid, layer));
        let normed = self.norm(layer, &mid, LayerTensor::FfnNorm, Role::FfnNorm, &[1, 1, self.chunk_len, hidden])?;
        let gate = self.linear(layer, &normed, LinearKind::GateUp, 0..ffn, Role::Gate)?;
        let up = self.linear(layer, &normed, LinearKind::GateUp, ffn..2 * ffn, Role::Up)?;
        let dims = [1, 1, self.chunk_len, ffn];
        let sigmoid = self.tensor(&format!("sigmoid.L{}", layer.0), &dims, self.activation.probability());
        let function = Function::Sigmoid;
        self.push(OpSpec::Neuron { function, input: gate.clone(), output: sigmoid.clone() });
        // Never below SILU_LOW, so codes are not spent there.
        let encoding = self.activation.between(SILU_LOW, self.range(layer, Role::Gate)?);
        let silu = self.tensor(&format!("silu.L{}", layer.0), &dims, encoding);
        self.push(OpSpec::Mul { a: gate, b: sigmoid, output: silu.clone() });
        let encoding = self.encoding(layer, Role::Act)?;
        let act = self.tensor(&name(Role::Act, layer), &dims, encoding);
        self.push(OpSpec::Mul { a: silu, b: up, output: act.clone() });
        let down = self.linear(layer, &act, LinearKind::Down, 0..hidden, Role::Down)?;
        let encoding = self.encoding(LayerIdx(layer.0 + 1), Role::Residual)?;
        Ok(self.add(&mid, &down, encoding, y))
    }
}

/// What all graphs with attention heads need of a config.
pub(super) fn check_config(config: &DecoderConfig) -> Result<(), BuildError> {
    let bad = |reason: String| Err(BuildError::Config { reason });
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return bad(format!("{heads} query heads are no multiple of {kv_heads} key heads"));
    }
    if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
        return bad(format!("heads of width {}: rotation takes pairs", config.head_dim));
    }
    Ok(())
}
