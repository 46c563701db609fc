//! What the tests share: a weight source in memory, spec builders, an f64 reference and an integer reference that follows
//! the measured rule by another path than `sim`.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

pub mod decoder;
pub mod qnn;
pub mod remote;

use coexec_model::{LayerIdx, LayerTensor, SplitMix64, TensorName};
use coexec_npu::{
    Bindings, BlockRows, Completion, ContextSpec, Dtype, Encoding, GraphSpec, NpuContext, NpuDevice, NpuError, OpSpec,
    TensorSpec, WeightEncoding, WeightError, WeightSource, WeightSpec,
};
use std::{collections::HashMap, ops::Range};

/// Small deterministic random numbers.
#[derive(Clone)]
pub struct Rng(SplitMix64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Weights of one tensor, as INT8 or with block scales.
#[derive(Clone, Default)]
pub struct Weights {
    pub k: usize,
    pub codes: Vec<i8>,
    pub group_scales: Vec<u8>,
    pub scales: Vec<f32>,
}

impl Weights {
    pub fn random(rng: &mut Rng, n: usize, k: usize, encoding: WeightEncoding) -> Self {
        let groups = k.div_ceil(32);
        let block = encoding == WeightEncoding::BlockExpansion32;
        let code = |rng: &mut Rng| if block { rng.below(16) as i8 - 8 } else { (rng.below(255) as i16 - 127) as i8 };
        Self {
            k,
            codes: (0..n * k).map(|_| code(rng)).collect(),
            group_scales: if block { (0..n * groups).map(|_| rng.below(17) as u8).collect() } else { Vec::new() },
            scales: (0..n).map(|_| 1e-3 * (0.25 + rng.unit())).collect(),
        }
    }

    /// INT8 code of output `n`, input `k`.
    pub fn code(&self, n: usize, k: usize) -> i64 {
        let code = i64::from(self.codes[n * self.k + k]);
        match self.group_scales.as_slice() {
            [] => code,
            scales => code * i64::from(scales[n * self.k.div_ceil(32) + k / 32]),
        }
    }
}

/// A weight source over a map.
#[derive(Clone, Default)]
pub struct MapSource(pub HashMap<TensorName, Weights>);

impl WeightSource for MapSource {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        let w = self.0.get(&tensor).ok_or(WeightError::Missing { tensor })?;
        codes.clear();
        scales.clear();
        for n in rows {
            codes.extend((0..w.k).map(|k| w.code(n, k) as i8));
            scales.push(w.scales[n]);
        }
        Ok(())
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        let w = self.0.get(&tensor).ok_or(WeightError::Missing { tensor })?;
        let groups = w.k.div_ceil(32);
        out.codes = w.codes[rows.start * w.k..rows.end * w.k].to_vec();
        out.group_scales = w.group_scales[rows.start * groups..rows.end * groups].to_vec();
        out.scales = w.scales[rows].to_vec();
        Ok(())
    }
}

/// One linear with its data.
#[derive(Clone)]
pub struct Case {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub dtype: Dtype,
    pub encoding: WeightEncoding,
    pub zero_in: i32,
    pub zero_out: i32,
    pub scale_in: f32,
    pub scale_out: f32,
    pub weights: Weights,
    /// Codes `[m, k]`.
    pub x: Vec<u16>,
}

pub const TENSOR: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::O);

impl Case {
    /// Random data; the output scale lets the largest output just saturate.
    pub fn random(rng: &mut Rng, (m, k, n): (usize, usize, usize), dtype: Dtype, encoding: WeightEncoding) -> Self {
        let (zero, top) = if dtype == Dtype::U8 { (128, 256) } else { (32768, 65536) };
        let mut case = Self {
            m,
            k,
            n,
            dtype,
            encoding,
            zero_in: zero,
            zero_out: zero,
            scale_in: 0.01 + rng.unit(),
            scale_out: 1.0,
            weights: Weights::random(rng, n, k, encoding),
            x: (0..m * k).map(|_| rng.below(top) as u16).collect(),
        };
        let largest = case.exact().iter().fold(0.0f64, |a, y| a.max(y.abs())) as f32;
        // A lower bound keeps multipliers inside of what the rule was measured for.
        let step = case.scale_in * case.weights.scales.iter().fold(0.0f32, |a, s| a.max(*s));
        case.scale_out = (largest / (f32::from((top / 2) as u16) * (0.8 + 0.4 * rng.unit()))).max(step / 16.0);
        case
    }

    pub fn spec(&self) -> ContextSpec {
        context("case", vec![self.graph("linear")])
    }

    pub fn graph(&self, name: &str) -> GraphSpec {
        let act = |tensor: &str, width: usize, scale: f32, zero_point: i32| {
            let encoding = Encoding::Tensor { scale, zero_point };
            TensorSpec::activation(tensor, self.m as u32, width as u32, self.dtype, encoding)
        };
        GraphSpec {
            name: name.to_owned(),
            inputs: vec![act("x", self.k, self.scale_in, self.zero_in)],
            outputs: vec![act("y", self.n, self.scale_out, self.zero_out)],
            intermediates: vec![],
            nodes: vec![conv("x", TENSOR, 0..self.n, self.k, self.encoding, "y")],
        }
    }

    pub fn source(&self) -> MapSource {
        MapSource(HashMap::from([(TENSOR, self.weights.clone())]))
    }

    pub fn x_bytes(&self) -> Vec<u8> {
        encode(self.dtype, &self.x)
    }

    pub fn acc(&self, m: usize, n: usize) -> i64 {
        (0..self.k)
            .map(|k| (i64::from(self.x[m * self.k + k]) - i64::from(self.zero_in)) * self.weights.code(n, k))
            .sum()
    }

    /// Outputs in real numbers, `[m, n]`.
    pub fn exact(&self) -> Vec<f64> {
        let factor = |n: usize| f64::from(self.scale_in) * f64::from(self.weights.scales[n]);
        self.each(|m, n| self.acc(m, n) as f64 * factor(n))
    }

    /// Outputs by the measured rule in i128 arithmetic, `[m, n]`. `R` is over all channels of the node.
    pub fn measured_rule(&self) -> Vec<u16> {
        let r = self.weights.scales.iter().copied().fold(0.0f32, f32::max);
        self.each(|m, n| {
            let multiplier = (self.weights.scales[n] / r) * ((self.scale_in * r) / self.scale_out);
            rule(self.dtype, self.acc(m, n), multiplier, self.zero_out)
        })
    }

    fn each<T>(&self, f: impl Fn(usize, usize) -> T) -> Vec<T> {
        (0..self.m).flat_map(|m| (0..self.n).map(move |n| (m, n))).map(|(m, n)| f(m, n)).collect()
    }

    pub fn prepare(&self, device: &dyn NpuDevice) -> Result<Box<dyn NpuContext>, NpuError> {
        device.prepare(&self.spec(), &self.source())
    }

    pub fn run(&self, device: &dyn NpuDevice) -> Vec<u16> {
        let context = self.prepare(device).expect("prepares");
        let y = run(device, &*context, "linear", &[self.x_bytes()]).expect("runs");
        decode(self.dtype, &y[0])
    }
}

/// The measured rule for one output, stated in floor divisions of big integers.
pub fn rule(dtype: Dtype, acc: i64, multiplier: f32, zero_point: i32) -> u16 {
    let bits = multiplier.to_bits();
    let (exponent, mantissa) = ((bits >> 23) as i32 - 127, i128::from((bits & 0x7F_FFFF) | 0x80_0000));
    let (acc, k, shift, half, down, top) = match dtype {
        Dtype::U8 => (i128::from(acc), (mantissa + 2048).div_euclid(4096), exponent + 4, 1i128 << 15, 1i128 << 16, 255),
        _ => (i128::from(acc).div_euclid(256), (mantissa + 2).div_euclid(4), exponent + 16, 1 << 29, 1 << 30, 65535),
    };
    let t = if shift >= 0 { acc * (1i128 << shift) } else { acc.div_euclid(1i128 << (-shift).min(100)) };
    (((2 * t + 1) * k + half).div_euclid(down) + i128::from(zero_point)).clamp(0, top) as u16
}

pub fn context(name: &str, graphs: Vec<GraphSpec>) -> ContextSpec {
    ContextSpec { name: name.to_owned(), graphs }
}

pub fn conv(x: &str, tensor: TensorName, rows: Range<usize>, k: usize, encoding: WeightEncoding, y: &str) -> OpSpec {
    let weights = WeightSpec { tensor, rows, k, encoding };
    OpSpec::Conv2d1x1 { input: x.to_owned(), weights, bias: None, output: y.to_owned() }
}

pub fn encode(dtype: Dtype, codes: &[u16]) -> Vec<u8> {
    match dtype {
        Dtype::U8 => codes.iter().map(|c| *c as u8).collect(),
        _ => codes.iter().flat_map(|c| c.to_le_bytes()).collect(),
    }
}

pub fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<u16> {
    match dtype {
        Dtype::U8 => bytes.iter().map(|c| u16::from(*c)).collect(),
        _ => bytes.chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect(),
    }
}

/// Buffers for a graph, inputs filled.
pub fn bindings(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    graph: &str,
    inputs: &[Vec<u8>],
) -> Result<Bindings, NpuError> {
    let spec = context.spec().graphs.iter().find(|g| g.name == graph).expect("graph is in the spec");
    let mut bound = Bindings::default();
    for bytes in inputs {
        let buffer = device.alloc(bytes.len())?;
        buffer.write()?.copy_from_slice(bytes);
        bound.inputs.push(buffer);
    }
    for tensor in &spec.outputs {
        bound.outputs.push(device.alloc(tensor.len_bytes().expect("small"))?);
    }
    Ok(bound)
}

/// Runs a graph once and gives its outputs.
pub fn run(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    graph: &str,
    inputs: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, NpuError> {
    let bound = bindings(device, context, graph, inputs)?;
    execute(context, graph, &bound)?;
    bound.outputs.iter().map(|b| Ok(b.read()?.to_vec())).collect()
}

pub fn execute(context: &dyn NpuContext, graph: &str, bound: &Bindings) -> Result<Completion, NpuError> {
    let id = context.graph(graph).expect("graph is in the context");
    let ticket = context.submit(id, bound)?;
    context.wait(ticket, None)
}
