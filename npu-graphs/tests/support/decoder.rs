//! A decoder for tests of layer graphs: small models with random weights, a plain f64 forward pass, and a runner of layer
//! graphs that keeps keys and values.

use super::{MapSource, Rng, Weights};
use coexec_model::{DecoderConfig, GenerationDefaults, LayerIdx, LayerTensor, LinearKind, RopeScaling, TensorName};
use coexec_npu::{
    BlockRows, ContextSpec, GraphSpec, NpuContext, NpuDevice, NpuWeights, SimDevice, SimOptions, WeightError,
    WeightSource,
    decoder::{layer_graph_name, masked_value, rope_tables},
};
use std::{collections::HashMap, ops::Range};

pub fn llama() -> DecoderConfig {
    DecoderConfig {
        architecture: "llama".to_owned(),
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 100,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        qkv_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
        sliding_window: None,
        bos_token_id: None,
        eos_token_ids: vec![],
        generation: GenerationDefaults::default(),
    }
}

/// Grouped queries; biases and as many key heads as query heads; head norms and one key head for all.
pub fn configs() -> [DecoderConfig; 3] {
    [
        llama(),
        DecoderConfig { architecture: "qwen2".to_owned(), qkv_bias: true, num_key_value_heads: 4, ..llama() },
        DecoderConfig {
            architecture: "qwen3".to_owned(),
            qk_norm: true,
            num_key_value_heads: 1,
            head_dim: 24,
            ..llama()
        },
    ]
}

/// Nearly normal numbers.
pub fn normal(rng: &mut Rng, deviation: f32) -> f32 {
    let sum: f32 = (0..6).map(|_| rng.unit() - 0.5).sum();
    sum * std::f32::consts::SQRT_2 * deviation
}

/// Linears and vectors of a model.
#[derive(Clone, Default)]
pub struct Source {
    linears: MapSource,
    vectors: HashMap<TensorName, Vec<f32>>,
}

impl Source {
    pub fn random(config: &DecoderConfig, rng: &mut Rng) -> Self {
        Self::random_for(config, rng, NpuWeights::PerChannelI8)
    }

    /// Weights that the device gets as they are, so that the reference computes with the same.
    pub fn random_for(config: &DecoderConfig, rng: &mut Rng, kind_of_weights: NpuWeights) -> Self {
        let mut source = Self::default();
        for layer in (0..config.num_hidden_layers).map(LayerIdx) {
            for kind in LinearKind::ALL {
                let (n, k) = config.linear_shape(kind);
                let residual = matches!(kind, LinearKind::O | LinearKind::Down);
                let depth = if residual { (2.0 * config.num_hidden_layers as f32).sqrt() } else { 1.0 };
                // Largest code and the codes' standard deviation; blocks have group scales up to 16.
                let (top, deviation) = match kind_of_weights {
                    NpuWeights::PerChannelI8 => (127, 73.0),
                    NpuWeights::PerChannelI4 => (7, 4.3),
                    NpuWeights::BlockExpansion => (7, 42.0),
                };
                let mut codes: Vec<i8> =
                    (0..n * k).map(|_| (rng.below(2 * top + 1) as i16 - top as i16) as i8).collect();
                // Every row reaches the largest code, so that 8 bits become 4 without a loss.
                codes.iter_mut().step_by(k).for_each(|c| *c = top as i8);
                let groups = if kind_of_weights == NpuWeights::BlockExpansion { n * k.div_ceil(32) } else { 0 };
                let scale = 1.0 / (deviation * (k as f32).sqrt() * depth);
                let weights = Weights {
                    k,
                    codes,
                    group_scales: (0..groups).map(|_| 1 + rng.below(16) as u8).collect(),
                    scales: (0..n).map(|_| scale * (0.75 + rng.unit() / 2.0)).collect(),
                };
                source.linears.0.insert(TensorName::Layer(layer, kind.tensor()), weights);
            }
            let mut vector = |tensor, len, mean, deviation| {
                let values = (0..len).map(|_| mean + normal(rng, deviation)).collect();
                source.vectors.insert(TensorName::Layer(layer, tensor), values);
            };
            let (hidden, head_dim) = (config.hidden_size as usize, config.head_dim as usize);
            vector(LayerTensor::AttnNorm, hidden, 1.0, 0.1);
            vector(LayerTensor::FfnNorm, hidden, 1.0, 0.1);
            vector(LayerTensor::QkvBias, config.qkv_size(), 0.0, 0.5);
            vector(LayerTensor::QNorm, head_dim, 1.0, 0.1);
            vector(LayerTensor::KNorm, head_dim, 1.0, 0.1);
        }
        source
    }

    pub fn vector_of(&self, layer: u32, tensor: LayerTensor) -> &[f32] {
        &self.vectors[&TensorName::Layer(LayerIdx(layer), tensor)]
    }
}

impl WeightSource for Source {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        self.linears.int8_rows(tensor, rows, codes, scales)
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        self.linears.block_rows(tensor, rows, out)
    }

    fn vector(&self, tensor: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        let all = self.vectors.get(&tensor).ok_or(WeightError::Missing { tensor })?;
        *out = all[range].to_vec();
        Ok(())
    }
}

/// A decoder in f64, one row after another.
pub struct Reference<'a> {
    config: &'a DecoderConfig,
    source: &'a Source,
    /// Rotated keys and values by layer, one entry per token.
    pub past: Vec<Vec<(Vec<f64>, Vec<f64>)>>,
}

impl<'a> Reference<'a> {
    pub fn new(config: &'a DecoderConfig, source: &'a Source) -> Self {
        Self { config, source, past: vec![vec![]; config.num_hidden_layers as usize] }
    }

    fn linear(&self, layer: u32, kind: LinearKind, x: &[f64]) -> Vec<f64> {
        let w = &self.source.linears.0[&TensorName::Layer(LayerIdx(layer), kind.tensor())];
        let row = |n: usize| {
            let sum: f64 = x.iter().enumerate().map(|(k, x)| x * w.code(n, k) as f64).sum();
            sum * f64::from(w.scales[n])
        };
        (0..w.scales.len()).map(row).collect()
    }

    fn norm(&self, x: &[f64], gain: &[f32]) -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let norm = (mean + f64::from(self.config.rms_norm_eps)).sqrt();
        x.iter().zip(gain).map(|(v, g)| v / norm * f64::from(*g)).collect()
    }

    fn head(&self, layer: u32, x: &[f64], gain: LayerTensor, position: usize) -> Vec<f64> {
        let x = if self.config.qk_norm { self.norm(x, self.source.vector_of(layer, gain)) } else { x.to_vec() };
        let half = x.len() / 2;
        let angle = |i: usize| position as f64 * f64::from(self.config.rope_theta).powf(-(i as f64) / half as f64);
        let low = (0..half).map(|i| x[i] * angle(i).cos() - x[i + half] * angle(i).sin());
        let high = (0..half).map(|i| x[i + half] * angle(i).cos() + x[i] * angle(i).sin());
        low.chain(high).collect()
    }

    /// One token through one layer; keys and values are kept.
    fn layer(&mut self, layer: u32, x: &[f64]) -> Vec<f64> {
        let config = self.config;
        let (q_size, kv_size, width) = (config.q_size(), config.kv_size(), config.head_dim as usize);
        let normed = self.norm(x, self.source.vector_of(layer, LayerTensor::AttnNorm));
        let mut qkv = self.linear(layer, LinearKind::Qkv, &normed);
        if config.qkv_bias {
            let bias = self.source.vector_of(layer, LayerTensor::QkvBias);
            qkv.iter_mut().zip(bias).for_each(|(v, b)| *v += f64::from(*b));
        }
        let position = self.past[layer as usize].len();
        let rotate = |x: &[f64], gain| -> Vec<f64> {
            x.chunks(width).flat_map(|head| self.head(layer, head, gain, position)).collect()
        };
        let q = rotate(&qkv[..q_size], LayerTensor::QNorm);
        let k = rotate(&qkv[q_size..q_size + kv_size], LayerTensor::KNorm);
        self.past[layer as usize].push((k, qkv[q_size + kv_size..].to_vec()));
        let attn = self.attention(layer, &q, position + 1);
        self.after_attention(layer, x, &attn)
    }

    pub fn attention(&self, layer: u32, q: &[f64], tokens: usize) -> Vec<f64> {
        let width = self.config.head_dim as usize;
        let group = (self.config.num_attention_heads / self.config.num_key_value_heads) as usize;
        let past = &self.past[layer as usize][..tokens];
        let mut out = Vec::new();
        for (h, q) in q.chunks(width).enumerate() {
            let at = h / group * width..(h / group + 1) * width;
            let dot = |k: &[f64]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt();
            let weights: Vec<f64> = past.iter().map(|(k, _)| dot(&k[at.clone()]).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend(at.map(|i| weights.iter().zip(past).map(|(w, (_, v))| w / sum * v[i]).sum::<f64>()));
        }
        out
    }

    fn after_attention(&self, layer: u32, x: &[f64], attn: &[f64]) -> Vec<f64> {
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let mid = add(x, &self.linear(layer, LinearKind::O, attn));
        let normed = self.norm(&mid, self.source.vector_of(layer, LayerTensor::FfnNorm));
        let gate_up = self.linear(layer, LinearKind::GateUp, &normed);
        let (gate, up) = gate_up.split_at(gate_up.len() / 2);
        let act: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        add(&mid, &self.linear(layer, LinearKind::Down, &act))
    }

    /// A prompt through all layers: the residual stream after each, `[layers][tokens · hidden]`.
    pub fn run(&mut self, prompt: &[f32]) -> Vec<Vec<f64>> {
        let hidden = self.config.hidden_size as usize;
        let mut stream: Vec<f64> = prompt.iter().map(|v| f64::from(*v)).collect();
        let mut all = Vec::new();
        for layer in 0..self.config.num_hidden_layers {
            stream = stream.chunks(hidden).flat_map(|x| self.layer(layer, x)).collect();
            all.push(stream.clone());
        }
        all
    }
}

pub fn prompt(config: &DecoderConfig, rng: &mut Rng, tokens: usize) -> Vec<f32> {
    (0..tokens * config.hidden_size as usize).map(|_| normal(rng, 0.5)).collect()
}

pub fn relative_error(got: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let off: f64 = got.iter().zip(wanted).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    (off / wanted.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

pub fn device() -> Box<dyn NpuDevice> {
    Box::new(SimDevice::new(SimOptions::named("sm8650").expect("known")))
}

/// The simulated device and Qualcomm's library, compiling for the same chip.
pub fn devices(test: &str) -> Vec<(&'static str, Box<dyn NpuDevice>)> {
    let qnn = super::qnn::device(test, "sm8650").map(|qnn| ("qnn", Box::new(qnn) as Box<dyn NpuDevice>));
    [("sim", device())].into_iter().chain(qnn).collect()
}

pub fn graph_of<'a>(spec: &'a ContextSpec, name: &str) -> &'a GraphSpec {
    spec.graphs.iter().find(|g| g.name == name).unwrap_or_else(|| panic!("no graph {name}"))
}

/// Runs a graph on numbers by tensor name; gives numbers by tensor name.
pub fn run(
    device: &dyn NpuDevice,
    context: &dyn NpuContext,
    name: &str,
    numbers: &dyn Fn(&coexec_npu::TensorSpec) -> Vec<f32>,
) -> HashMap<String, Vec<f32>> {
    let graph = graph_of(context.spec(), name).clone();
    let inputs: Vec<Vec<u8>> = graph.inputs.iter().map(|t| t.bytes_of(&numbers(t))).collect();
    let outputs = super::run(device, context, name, &inputs).expect("runs");
    graph.outputs.iter().zip(outputs).map(|(t, bytes)| (t.name.clone(), t.numbers(&bytes))).collect()
}

/// Past keys or values of one layer, `[kv_heads, tokens, head_dim]`.
pub type Cache = HashMap<String, Vec<f32>>;

/// Runs a prompt through layer graphs chunk by chunk; the past lies in a bucket of `bucket` tokens, its rest masked.
pub struct Runner<'a> {
    pub config: &'a DecoderConfig,
    pub device: &'a dyn NpuDevice,
    pub context: &'a dyn NpuContext,
    pub layers_per_graph: u32,
    pub chunk: usize,
    pub bucket: usize,
}

impl Runner<'_> {
    pub fn run(&self, prompt: &[f32]) -> (Vec<f32>, Cache) {
        let hidden = self.config.hidden_size as usize;
        let (mut cache, mut out) = (Cache::new(), Vec::new());
        for (i, rows) in prompt.chunks(self.chunk * hidden).enumerate() {
            let mut x = rows.to_vec();
            for first in (0..self.config.num_hidden_layers).step_by(self.layers_per_graph as usize) {
                let layers = first..(first + self.layers_per_graph).min(self.config.num_hidden_layers);
                let name = layer_graph_name(&layers, self.chunk, self.bucket);
                let done = i * self.chunk;
                let inputs = |t: &coexec_npu::TensorSpec| self.input(t, &x, &cache, done);
                let outputs = run(self.device, self.context, &name, &inputs);
                x.clone_from(&outputs["y"]);
                for layer in layers {
                    for what in ["k", "v"] {
                        let new = &outputs[&format!("{what}_new.L{layer}")];
                        self.append(cache.entry(format!("past_{what}.L{layer}")).or_default(), new, done);
                    }
                }
            }
            out.extend(x);
        }
        (out, cache)
    }

    fn append(&self, cache: &mut Vec<f32>, new: &[f32], done: usize) {
        let (heads, width) = (self.config.num_key_value_heads as usize, self.config.head_dim as usize);
        let (old, own) = (done * width, self.chunk * width);
        let head = |h: usize| [&cache[h * old..(h + 1) * old], &new[h * own..(h + 1) * own]].concat();
        *cache = (0..heads).flat_map(head).collect();
    }

    pub fn input(&self, tensor: &coexec_npu::TensorSpec, x: &[f32], cache: &Cache, done: usize) -> Vec<f32> {
        let (cos, sin) = rope_tables(self.config, done..done + self.chunk).expect("fits");
        let scaling = 1.0 / (self.config.head_dim as f32).sqrt();
        match tensor.name.as_str() {
            "x" => x.to_vec(),
            "cos" => cos,
            "sin" => sin,
            "cos_q" => cos.iter().map(|v| v * scaling).collect(),
            "sin_q" => sin.iter().map(|v| v * scaling).collect(),
            "mask" => {
                let length = self.bucket + self.chunk;
                let open = |row: usize, column: usize| match column.checked_sub(self.bucket) {
                    None => column < done,
                    Some(own) => own <= row,
                };
                let value = |i: usize| if open(i / length, i % length) { 0.0 } else { masked_value(tensor) };
                (0..self.chunk * length).map(value).collect()
            }
            // Nothing may come through the mask from the unused rest of the bucket.
            past => {
                let (heads, width) = (self.config.num_key_value_heads as usize, self.config.head_dim as usize);
                let rest = vec![1.5; (self.bucket - done) * width];
                let old = cache.get(past).map_or(&[][..], Vec::as_slice);
                let per_head = done * width;
                (0..heads).flat_map(|h| [&old[h * per_head..(h + 1) * per_head], &rest].concat()).collect()
            }
        }
    }
}
