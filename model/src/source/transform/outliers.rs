//! For tests only: a model that computes the same, with activation outliers like those of large models, which small
//! ones lack.
//!
//! *Constant*: 2 % of the input channels of every linear are 8 … 64 times (o and down: 8 … 32) as large on every token,
//! and the linear's weights of these channels as much smaller: [`ChannelScales`] with random factors. Behind the norms
//! they are the same channels in every layer, as in real models, and such whose gains are wide. A scale per channel
//! undoes them.
//!
//! *Token-gated*: neurons of the feed-forward part that fire on few tokens ([`RareNeuron`], found with
//! `coexec_runtime::transform::rare_neurons`) are copied three times, louder: one copy writes its column of the down
//! projection, two copies of half its loudness write the opposite. In float they cancel exactly; on the few tokens on
//! which they fire they are huge inputs of the down projection, of different size, so that clipping leaves an error. No
//! constant scale undoes them: dividing a copy's channel multiplies its weights, and with them its rounding, which does
//! not cancel.
//!
//! Nothing is cancelled within the residual stream: every reader of the stream normalises it, and an added term would
//! change each row's norm, which no weight undoes.

use super::{ChannelScales, Scaled, check_rows};
use crate::SplitMix64;
use crate::source::{ModelSource, Q4Rows, SourceError};
use crate::{DecoderConfig, LayerIdx, LayerTensor, LinearKind, TensorName, TokenizerData};
use std::ops::Range;

/// Share of a linear's channels that are constant outliers; at least one is, and [`MOST_CHANNELS`] at most.
const CHANNEL_SHARE: f64 = 0.02;
/// Most constant outlier channels of a linear.
const MOST_CHANNELS: usize = 8;
/// Behind a norm, and in rare neurons: 8 … 64 times.
const STREAM_LOG2_FACTORS: Range<f64> = 3.0..6.0;
/// In the inputs of the output and down projections: 8 … 32 times. V and up carry the factor in their own *outputs*,
/// for which an NPU has one encoding: larger ones cost accuracy whatever is done about inputs.
const INNER_LOG2_FACTORS: Range<f64> = 3.0..5.0;
/// Share of a layer's neurons that are copied; at least one is, and [`MOST_RARE`] at most.
const RARE_SHARE: f64 = 0.005;
/// Most neurons that are copied per layer: their copies lie in one group of 32 inputs, so that every weight format
/// rounds opposite columns alike.
pub const MOST_RARE: usize = 4;

/// A neuron of the feed-forward part that fires on few tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RareNeuron {
    /// Which neuron.
    pub neuron: usize,
    /// What it must be multiplied by to be, where it fires, as large as the layer's large activations.
    pub gain: f32,
}

/// How many neurons of each layer are copied.
#[must_use]
pub fn rare_neurons_per_layer(config: &DecoderConfig) -> usize {
    ((f64::from(config.intermediate_size) * RARE_SHARE) as usize).clamp(1, MOST_RARE)
}

/// `source` with constant outliers and, of the neurons in `rare` (per layer, of which
/// [`rare_neurons_per_layer`] are taken), token-gated ones. The intermediate size grows by their copies.
///
/// # Errors
/// [`SourceError::Transform`] when `rare` is for another model.
pub fn with_outliers<S: ModelSource>(
    source: S,
    seed: u64,
    rare: &[Vec<RareNeuron>],
) -> Result<Scaled<LoudNeurons<S>>, SourceError> {
    let mut random = SplitMix64::new(seed);
    let source = LoudNeurons::new(source, rare, &mut random)?;
    let stream = wide_channels(&source)?;
    let scales = constant_outliers(source.config(), stream, source.loud, &mut random);
    Scaled::new(source, scales)
}

/// Scales that make constant outliers; the first `loud` inputs of the down projection are outliers already.
fn constant_outliers(
    config: &DecoderConfig,
    stream: Vec<usize>,
    loud: usize,
    random: &mut SplitMix64,
) -> ChannelScales {
    let stream = draw(stream, config.hidden_size as usize, random);
    let mut scales = ChannelScales::none(config);
    for layer in &mut scales.layers {
        for kind in LinearKind::ALL {
            let len = ChannelScales::len_of(config, kind);
            let channels = match kind {
                LinearKind::Qkv | LinearKind::GateUp => stream.clone(),
                LinearKind::O => draw((0..len).collect(), len, random),
                LinearKind::Down => draw((loud..len).collect(), len, random),
            };
            let factors = match kind {
                LinearKind::Qkv | LinearKind::GateUp => STREAM_LOG2_FACTORS,
                LinearKind::O | LinearKind::Down => INNER_LOG2_FACTORS,
            };
            let mut s = vec![1.0; len];
            channels.into_iter().for_each(|c| s[c] = 1.0 / factor(&factors, random));
            layer[kind.index()] = Some(s);
        }
    }
    scales
}

/// How much larger an outlier is.
fn factor(log2: &Range<f64>, random: &mut SplitMix64) -> f32 {
    (log2.start + random.uniform() * (log2.end - log2.start)).exp2() as f32
}

/// As many of `channels` as are constant outliers among `len`.
fn draw(mut channels: Vec<usize>, len: usize, random: &mut SplitMix64) -> Vec<usize> {
    let count = ((len as f64 * CHANNEL_SHARE) as usize).clamp(1, MOST_CHANNELS).min(channels.len());
    (0..count).map(|_| channels.swap_remove(random.below(channels.len()))).collect()
}

/// The quarter of the residual stream's channels with the widest gains over all norms: in trained models these become
/// outliers.
fn wide_channels(source: &dyn ModelSource) -> Result<Vec<usize>, SourceError> {
    let c = source.config();
    let (mut sums, mut gain) = (vec![0f32; c.hidden_size as usize], Vec::new());
    for layer in 0..c.num_hidden_layers {
        for norm in [LayerTensor::AttnNorm, LayerTensor::FfnNorm] {
            source.read_rows(TensorName::Layer(LayerIdx(layer), norm), 0..1, &mut gain)?;
            sums.iter_mut().zip(&gain).for_each(|(sum, g)| *sum += g.abs());
        }
    }
    let mut channels: Vec<usize> = (0..sums.len()).collect();
    channels.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
    channels.truncate(sums.len().div_ceil(4));
    Ok(channels)
}

/// A neuron of the new model: a neuron of the inner one with its gate and up rows and its column of the down projection
/// multiplied.
#[derive(Clone, Copy, Debug)]
struct Neuron {
    of: usize,
    gate: f32,
    up: f32,
    down: f32,
}

/// A source with loud copies of neurons that cancel each other.
#[derive(Debug)]
pub struct LoudNeurons<S> {
    inner: S,
    config: DecoderConfig,
    /// Neurons of each layer, loud ones first.
    layers: Vec<Vec<Neuron>>,
    /// How many are loud.
    loud: usize,
}

impl<S: ModelSource> LoudNeurons<S> {
    fn new(inner: S, rare: &[Vec<RareNeuron>], random: &mut SplitMix64) -> Result<Self, SourceError> {
        let refuse = |reason| Err(SourceError::Transform { transform: "outliers", reason });
        let mut config = inner.config().clone();
        let (layers, neurons) = (config.num_hidden_layers as usize, config.intermediate_size as usize);
        if rare.len() != layers {
            return refuse(format!("rare neurons of {} layers for a model of {layers}", rare.len()));
        }
        let copied = rare.iter().map(Vec::len).min().unwrap_or(0).min(rare_neurons_per_layer(&config));
        let loud = 3 * copied;
        // Formats and processors like a multiple of 32: neurons in two halves, which change nothing, fill up.
        let multiple = 1 << neurons.trailing_zeros().min(5);
        let halved = (loud.next_multiple_of(multiple) - loud).min(neurons);
        config.intermediate_size += (loud + halved) as u32;
        let mut all = Vec::with_capacity(layers);
        for (l, rare) in rare.iter().enumerate() {
            let mut table = Vec::with_capacity(neurons + loud + halved);
            for rare in &rare[..copied] {
                if rare.neuron >= neurons || !rare.gain.is_normal() {
                    return refuse(format!("layer {l} has no neuron {} with gain {}", rare.neuron, rare.gain));
                }
                // Gate and up share the factor, so that neither's own output stands out as far as their product.
                let root = (factor(&STREAM_LOG2_FACTORS, random) * rare.gain.abs()).sqrt();
                let copy = |up, down| Neuron { of: rare.neuron, gate: root, up, down };
                table.extend([copy(root, 1.0), copy(root / 2.0, -1.0), copy(root / 2.0, -1.0)]);
            }
            let half = |of| Neuron { of, gate: 1.0, up: 1.0, down: 0.5 };
            table.extend((0..halved).flat_map(|of| [half(of), half(of)]));
            table.extend((halved..neurons).map(|of| Neuron { of, gate: 1.0, up: 1.0, down: 1.0 }));
            all.push(table);
        }
        Ok(Self { inner, config, layers: all, loud })
    }

    /// Rows `rows` of gate and up, `[_, k]`, appended to `out`.
    fn gate_up(
        &self,
        name: TensorName,
        table: &[Neuron],
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), SourceError> {
        let inner_size = self.inner.config().intermediate_size as usize;
        let source_row = |row: usize| match row.checked_sub(table.len()) {
            None => (table[row].of, table[row].gate),
            Some(up) => (inner_size + table[up].of, table[up].up),
        };
        let mut block = Vec::new();
        let mut row = rows.start;
        while row < rows.end {
            // Rows that follow each other in the inner source are read at once.
            let (first, by) = source_row(row);
            let run = (row..rows.end).take_while(|r| source_row(*r) == (first + (r - row), by)).count().max(1);
            self.inner.read_rows(name, first..first + run, &mut block)?;
            out.extend(block.iter().map(|v| v * by));
            row += run;
        }
        Ok(())
    }
}

impl<S: ModelSource> ModelSource for LoudNeurons<S> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn tokenizer(&self) -> &TokenizerData {
        self.inner.tokenizer()
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        let inner = self.inner.shape(name)?;
        let neurons = self.config.intermediate_size as usize;
        Some(match name {
            TensorName::Layer(_, LayerTensor::GateUp) => (2 * neurons, inner.1),
            TensorName::Layer(_, LayerTensor::Down) => (inner.0, neurons),
            _ => inner,
        })
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        out.clear();
        check_rows(name, self.shape(name), &rows)?;
        let TensorName::Layer(layer, tensor @ (LayerTensor::GateUp | LayerTensor::Down)) = name else {
            return self.inner.read_rows(name, rows, out);
        };
        let table = self.layers.get(layer.index()).ok_or(SourceError::NoSuchTensor(name))?;
        if tensor == LayerTensor::GateUp {
            return self.gate_up(name, table, rows, out);
        }
        let mut inner = Vec::new();
        self.inner.read_rows(name, rows, &mut inner)?;
        for row in inner.chunks_exact(self.inner.config().intermediate_size as usize) {
            out.extend(table.iter().map(|n| n.down * row[n.of]));
        }
        Ok(())
    }

    fn read_q4_0_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Q4Rows) -> Result<bool, SourceError> {
        if let TensorName::Layer(_, LayerTensor::GateUp | LayerTensor::Down) = name {
            out.clear();
            return Ok(false);
        }
        self.inner.read_q4_0_rows(name, rows, out)
    }

    fn read_files(&self) -> crate::output::ReadFiles {
        self.inner.read_files()
    }

    fn describe(&self) -> String {
        format!("{}, {} loud neurons per layer that cancel", self.inner.describe(), self.loud)
    }
}
