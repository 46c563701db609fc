//! How large the numbers of each tensor get: what encodings of u8 and u16 graphs are made from.

use super::{
    Activation, BuildError, LayerOptions, NpuWeights, layer_context, masked_value, parts::name, split::codes_of,
};
use crate::{GraphId, NpuError, WeightSource, sim::Observer};
use coexec_cpu::{Ctx, Pool, RopeTable};
use coexec_model::{Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearKind, TensorName, Treatment};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    ops::{ControlFlow, Range},
};

/// A tensor of a layer whose encoding depends on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Residual stream that enters the layer.
    Residual,
    /// Input of the projections.
    AttnNorm,
    /// Queries, with bias.
    Q,
    /// Keys, with bias.
    K,
    /// Values, with bias.
    V,
    /// Queries after the RMSNorm of heads.
    QNorm,
    /// Keys after the RMSNorm of heads.
    KNorm,
    /// Rotated queries, not scaled.
    QRotated,
    /// Rotated keys: the K cache.
    KRotated,
    /// `q · k / √head_dim`, before the mask.
    Scores,
    /// Result of attention.
    Attn,
    /// Output projection.
    O,
    /// Residual stream after attention.
    Mid,
    /// Input of gate and up.
    FfnNorm,
    /// Gate.
    Gate,
    /// Up.
    Up,
    /// `silu(gate) · up`.
    Act,
    /// Down projection.
    Down,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 18] = [
        Self::Residual,
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::QNorm,
        Self::KNorm,
        Self::QRotated,
        Self::KRotated,
        Self::Scores,
        Self::Attn,
        Self::O,
        Self::Mid,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Act,
        Self::Down,
    ];

    /// E.g. `k_rotated`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Residual => "residual",
            Self::AttnNorm => "attn_norm",
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::QNorm => "q_norm",
            Self::KNorm => "k_norm",
            Self::QRotated => "q_rotated",
            Self::KRotated => "k_rotated",
            Self::Scores => "scores",
            Self::Attn => "attn",
            Self::O => "o",
            Self::Mid => "mid",
            Self::FfnNorm => "ffn_norm",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Act => "act",
            Self::Down => "down",
        }
    }

    fn is_of(self, config: &DecoderConfig) -> bool {
        config.qk_norm || !matches!(self, Self::QNorm | Self::KNorm)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where ranges come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeSource {
    /// Constants that suit random weights: for times and sizes, never for text.
    Synthetic,
    /// Calibration's scales, and bounds derived from them.
    Calibration,
    /// Largest magnitudes that f16 graphs were seen to have.
    Measured,
}

/// Largest magnitude of every tensor of every layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// Where they come from.
    pub source: RangeSource,
    /// By layer and role.
    pub layers: Vec<BTreeMap<Role, f32>>,
    /// Residual stream after the last layer.
    pub output: f32,
}

/// Scores beyond this are not given room by [`Ranges::from_calibration`].
const MOST_SCORES: f32 = 64.0;

impl Ranges {
    /// Plausible constants for the weights of [`coexec_model::random::RandomSource`] (six standard deviations).
    #[must_use]
    pub fn synthetic(config: &DecoderConfig) -> Self {
        let layers = config.num_hidden_layers.max(1) as f32;
        let residual = |l: f32| 6.0 * (1.0 / config.hidden_size.max(1) as f32 + l / layers).sqrt();
        let written = 8.0 / (2.0 * layers).sqrt();
        let layer = |l: u32| {
            let range = |role| match role {
                Role::Residual => residual(l as f32),
                Role::Mid => residual(l as f32 + 1.0),
                Role::O | Role::Down => written,
                Role::QRotated | Role::KRotated | Role::Scores => 9.0,
                Role::Act => 12.0,
                _ => 6.5,
            };
            Role::ALL.into_iter().filter(|r| r.is_of(config)).map(|r| (r, range(r))).collect()
        };
        Self {
            source: RangeSource::Synthetic,
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            output: residual(layers),
        }
    }

    /// What calibration knows (inputs and outputs of linears), with biases of `weights` added; the rest is bounded: rotation
    /// by √2, scores by what the largest query and key could give (at most 64), the residual stream by 6 (embeddings are
    /// not in calibration) plus what each layer adds.
    ///
    /// Nothing is added back on the CPU here, so the scales are those that calibration has for that: [`Treatment::Plain`] in
    /// u8, [`Treatment::Wide`] in u16. [`Self::measure`] gives better ranges.
    ///
    /// # Errors
    /// When calibration does not fit the model or a bias cannot be read.
    pub fn from_calibration(
        config: &DecoderConfig,
        calibration: &Calibration,
        weights: &dyn WeightSource,
        activation: Activation,
    ) -> Result<Self, BuildError> {
        let treatment = if activation == Activation::U8 { Treatment::Plain } else { Treatment::Wide };
        let mut residual = 6.0f32;
        let mut layers = Vec::new();
        for layer in (0..config.num_hidden_layers).map(LayerIdx) {
            let codes = |kind| codes_of(calibration, Some(treatment), layer, kind, config.linear_parts(kind).len());
            let input = |kind| Ok::<f32, BuildError>(codes(kind)?.input_range());
            // There is one per part.
            let output =
                |kind, part: usize| Ok::<f32, BuildError>(codes(kind)?.output_ranges().nth(part).unwrap_or_default());
            let biases = largest_biases(config, layer, weights)?;
            let part = |part: usize| Ok::<f32, BuildError>(output(LinearKind::Qkv, part)? + biases[part]);
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            // A normed head of width D has entries of at most √D times its gain.
            let normed = (config.head_dim as f32).sqrt();
            let (q_in, k_in) = if config.qk_norm { (normed, normed) } else { (q, k) };
            let (q_rotated, k_rotated) = (q_in * std::f32::consts::SQRT_2, k_in * std::f32::consts::SQRT_2);
            let (o, down) = (output(LinearKind::O, 0)?, output(LinearKind::Down, 0)?);
            let mut ranges = BTreeMap::from([
                (Role::Residual, residual),
                (Role::AttnNorm, input(LinearKind::Qkv)?),
                (Role::Q, q),
                (Role::K, k),
                (Role::V, v),
                (Role::QRotated, q_rotated),
                (Role::KRotated, k_rotated),
                (Role::Scores, (q_rotated * k_rotated * normed).min(MOST_SCORES)),
                (Role::Attn, input(LinearKind::O)?),
                (Role::O, o),
                (Role::Mid, residual + o),
                (Role::FfnNorm, input(LinearKind::GateUp)?),
                (Role::Gate, output(LinearKind::GateUp, 0)?),
                (Role::Up, output(LinearKind::GateUp, 1)?),
                (Role::Act, input(LinearKind::Down)?),
                (Role::Down, down),
            ]);
            if config.qk_norm {
                ranges.extend([(Role::QNorm, normed), (Role::KNorm, normed)]);
            }
            residual += o + down;
            layers.push(ranges);
        }
        Ok(Self { source: RangeSource::Calibration, layers, output: residual })
    }

    /// Runs every layer in f16 with INT8 weights on the simulated device, over prompts of embedded tokens (`[tokens, hidden]`
    /// each, position 0 first), and takes the largest magnitudes. `ready` is told how many layers are done, and may stop it:
    /// then there are none.
    ///
    /// # Errors
    /// When there are no prompts, a prompt is not whole rows, or weights cannot be read.
    pub fn measure(
        config: &DecoderConfig,
        weights: &dyn WeightSource,
        prompts: &[&[f32]],
        threads: usize,
        ready: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Option<Self>, BuildError> {
        let hidden = config.hidden_size as usize;
        let bad = |reason: &str| Err::<Option<Self>, _>(BuildError::Config { reason: reason.to_owned() });
        if prompts.is_empty() || prompts.iter().any(|p| p.is_empty() || hidden == 0 || p.len() % hidden != 0) {
            return bad("ranges are measured on at least one prompt of whole rows of the hidden size");
        }
        let failed = |e: NpuError| BuildError::Measure(Box::new(e));
        let mut lens: Vec<usize> = prompts.iter().map(|p| p.len() / hidden).collect();
        lens.sort_unstable();
        lens.dedup();
        let unused = Self::synthetic(config);
        let mut streams: Vec<Vec<f32>> = prompts.iter().map(|p| p.to_vec()).collect();
        let mut layers = Vec::new();
        let mut output = 0.0f32;
        for layer in 0..config.num_hidden_layers {
            let options = LayerOptions {
                name: "measure",
                chunk_lens: &lens,
                kv_lens: &[0],
                layers_per_graph: 1,
                weights: NpuWeights::PerChannelI8,
                activation: Activation::F16,
                layers: Some(layer..layer + 1),
            };
            let spec = layer_context(config, &unused, &options)?;
            let mut observer = Observer::new(&spec, weights, threads).map_err(failed)?;
            let mut ranges = BTreeMap::new();
            output = 0.0;
            for stream in &mut streams {
                let tokens = stream.len() / hidden;
                let index = lens.iter().position(|l| *l == tokens).unwrap_or(0);
                let graph = &spec.graphs[index];
                let inputs = prompt_inputs(config, graph, stream)?;
                let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
                let seen = observer.run(GraphId(index as u32), &inputs).map_err(failed)?;
                for role in Role::ALL.into_iter().filter(|r| r.is_of(config)) {
                    let (tensor, factor) = tensor_of(config, role, LayerIdx(layer));
                    let (low, high) = seen.ranges.get(&tensor).copied().unwrap_or_default();
                    let entry = ranges.entry(role).or_insert(f32::MIN_POSITIVE);
                    *entry = entry.max(low.abs().max(high.abs()) * factor);
                }
                *stream = graph.outputs[0].numbers(&seen.outputs[0]);
                output = stream.iter().fold(output, |m, v| m.max(v.abs()));
            }
            layers.push(ranges);
            if ready(layer + 1).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(Self { source: RangeSource::Measured, layers, output: output.max(f32::MIN_POSITIVE) }))
    }

    /// The range of a tensor; layer = number of layers with [`Role::Residual`] is [`Self::output`].
    ///
    /// # Errors
    /// [`BuildError::Range`] when it is missing or no positive number.
    pub fn get(&self, layer: LayerIdx, role: Role) -> Result<f32, BuildError> {
        let found = match self.layers.get(layer.index()) {
            Some(ranges) => ranges.get(&role).copied(),
            None => (role == Role::Residual && layer.index() == self.layers.len()).then_some(self.output),
        };
        let bad = |reason: String| Err(BuildError::Range { layer: layer.0, role, reason });
        match found {
            None => bad("is missing".to_owned()),
            // Steps must stay normal floats in 16 bits.
            Some(range) if !(range.is_finite() && range >= 1e-30) => bad(format!("is {range}, not a positive number")),
            Some(range) => Ok(range),
        }
    }
}

/// Largest bias of q, k and v.
fn largest_biases(config: &DecoderConfig, layer: LayerIdx, weights: &dyn WeightSource) -> Result<[f32; 3], BuildError> {
    if !config.qkv_bias {
        return Ok([0.0; 3]);
    }
    let (q, kv) = (config.q_size(), config.kv_size());
    let mut bias = Vec::new();
    let largest = |range: Range<usize>| {
        let read = weights.vector(TensorName::Layer(layer, LayerTensor::QkvBias), range, &mut bias);
        read.map_err(|source| {
            let (graph, op) = (format!("L{}", layer.0), "bias");
            BuildError::Measure(Box::new(NpuError::Weights { graph, op, source }))
        })?;
        Ok::<f32, BuildError>(bias.iter().fold(0.0f32, |m, v| m.max(v.abs())))
    };
    let [q, k, v] = [0..q, q..q + kv, q + kv..q + 2 * kv].map(largest);
    Ok([q?, k?, v?])
}

/// The tensor of an f16 layer graph that shows a role, and the factor to its range.
fn tensor_of(config: &DecoderConfig, role: Role, layer: LayerIdx) -> (String, f32) {
    match role {
        Role::Residual => ("x".to_owned(), 1.0),
        Role::QRotated => (name(role, layer), (config.head_dim as f32).sqrt()),
        Role::KRotated => (format!("k_new.L{}", layer.0), 1.0),
        _ => (name(role, layer), 1.0),
    }
}

/// Inputs of a layer graph without a past for a whole prompt.
fn prompt_inputs(config: &DecoderConfig, graph: &crate::GraphSpec, stream: &[f32]) -> Result<Vec<Vec<u8>>, BuildError> {
    let tokens = stream.len() / config.hidden_size as usize;
    let (cos, sin) = rope_tables(config, 0..tokens)?;
    let scaling = 1.0 / (config.head_dim as f32).sqrt();
    let scaled = |table: &[f32]| table.iter().map(|v| v * scaling).collect::<Vec<_>>();
    let window = config.sliding_window.map_or(usize::MAX, |w| w as usize);
    let inputs = graph.inputs.iter().map(|tensor| {
        let numbers = match tensor.name.as_str() {
            "x" => stream.to_vec(),
            "cos" => cos.clone(),
            "sin" => sin.clone(),
            "cos_q" => scaled(&cos),
            "sin_q" => scaled(&sin),
            _ => {
                let masked = masked_value(tensor);
                let place = |i: usize| (i / tokens, i % tokens);
                let looks = |(row, column): (usize, usize)| column <= row && row - column < window;
                (0..tokens * tokens).map(|i| if looks(place(i)) { 0.0 } else { masked }).collect()
            }
        };
        tensor.bytes_of(&numbers)
    });
    Ok(inputs.collect())
}

/// Cosines and sines `[positions, head_dim / 2]` of a model's rotation: the contents of `cos` and `sin`.
///
/// # Errors
/// [`BuildError::Config`] when the config's rotary settings make no sense or a position is beyond 2²⁴.
pub fn rope_tables(config: &DecoderConfig, positions: Range<usize>) -> Result<(Vec<f32>, Vec<f32>), BuildError> {
    let bad = |e: coexec_cpu::CpuError| BuildError::Config { reason: e.to_string() };
    let table = RopeTable::new(config, positions.end).map_err(bad)?;
    let half = config.head_dim as usize / 2;
    // Rotating (1, 0) gives (cos, sin).
    let one = |i: usize| if i % (2 * half) < half { 1.0 } else { 0.0 };
    let mut rows: Vec<f32> = (0..positions.len() * 2 * half).map(one).collect();
    table.apply(&Ctx::new(&Pool::new(1)), &mut rows, 1, positions.start).map_err(bad)?;
    let halves = rows.chunks_exact(2 * half).map(|row| row.split_at(half));
    Ok((halves.clone().flat_map(|(c, _)| c).copied().collect(), halves.flat_map(|(_, s)| s).copied().collect()))
}
