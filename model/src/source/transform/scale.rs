//! Scales per input channel of the linears, folded into what comes before: SmoothQuant, AWQ and outliers are such
//! scales.
//!
//! A linear computes `W·x`. With scales `s`, `x̂ = x / s` and `Ŵ = W·diag(s)` give the same. `x / s` costs nothing
//! where what makes `x` is linear in weights of its own:
//!
//! | linear  | its input is             | `1/s` goes into                              |
//! |---------|--------------------------|----------------------------------------------|
//! | qkv     | RMSNorm with a gain      | the gain                                     |
//! | o       | attention, linear in V   | V's rows and bias                            |
//! | gate_up | RMSNorm with a gain      | the gain                                     |
//! | down    | `silu(gate) · up`        | up's rows                                    |
//!
//! Query heads of a group share their V head, so the output projection has one scale per channel of a *key and value*
//! head.

use super::check_rows;
use crate::source::{ModelSource, Q4Rows, SourceError};
use crate::{DecoderConfig, LayerTensor, LinearKind, TensorName, TokenizerData};
use std::ops::Range;

/// Scales `s` per input channel of the four linears of every layer: inputs are divided by them, weights multiplied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelScales {
    /// Per layer and linear (in the order of [`LinearKind::ALL`]) [`Self::len_of`] scales, or `None` for a linear that
    /// stays as it is.
    pub layers: Vec<[Option<Vec<f32>>; 4]>,
}

impl ChannelScales {
    /// No scales, for a model of `config`.
    #[must_use]
    pub fn none(config: &DecoderConfig) -> Self {
        Self { layers: vec![[const { None }; 4]; config.num_hidden_layers as usize] }
    }

    /// How many scales a linear has: one per input channel, for the output projection one per channel of a key and
    /// value head.
    #[must_use]
    pub fn len_of(config: &DecoderConfig, kind: LinearKind) -> usize {
        match kind {
            LinearKind::O => config.kv_size(),
            LinearKind::Qkv | LinearKind::GateUp | LinearKind::Down => config.linear_shape(kind).1,
        }
    }

    /// The scale that input channel `channel` of a linear takes: itself, for the output projection that of its V head.
    #[must_use]
    pub fn index_of(config: &DecoderConfig, kind: LinearKind, channel: usize) -> usize {
        if kind != LinearKind::O {
            return channel;
        }
        let (head_dim, heads) = (config.head_dim as usize, config.num_attention_heads as usize);
        let group = (heads / config.num_key_value_heads.max(1) as usize).max(1);
        channel / head_dim / group * head_dim + channel % head_dim
    }

    /// The scales of a linear of a layer.
    #[must_use]
    pub fn get(&self, layer: usize, kind: LinearKind) -> Option<&[f32]> {
        self.layers.get(layer)?[kind.index()].as_deref()
    }

    /// Checks numbers and values against a model.
    fn check(&self, config: &DecoderConfig) -> Result<(), SourceError> {
        let refuse = |reason| Err(SourceError::Transform { transform: "channel scales", reason });
        if self.layers.len() != config.num_hidden_layers as usize {
            return refuse(format!("for {} layers, the model has {}", self.layers.len(), config.num_hidden_layers));
        }
        for (l, layer) in self.layers.iter().enumerate() {
            for (kind, scales) in LinearKind::ALL.into_iter().zip(layer) {
                let Some(scales) = scales else { continue };
                let len = Self::len_of(config, kind);
                if scales.len() != len {
                    return refuse(format!("layer {l}, {kind}: {} scales for {len} channels", scales.len()));
                }
                if let Some(c) = scales.iter().position(|s| !s.is_normal() || *s < 0.0 || !s.recip().is_normal()) {
                    return refuse(format!("layer {l}, {kind}, channel {c}: {} is no scale: use > 0", scales[c]));
                }
            }
        }
        Ok(())
    }
}

/// A source with [`ChannelScales`] folded in.
#[derive(Debug)]
pub struct Scaled<S> {
    inner: S,
    scales: ChannelScales,
}

impl<S: ModelSource> Scaled<S> {
    /// `source` with `scales`.
    ///
    /// # Errors
    /// [`SourceError::Transform`] when the scales are not as many as the model's channels, or one is not a positive
    /// number with a reciprocal.
    pub fn new(source: S, scales: ChannelScales) -> Result<Self, SourceError> {
        scales.check(source.config())?;
        Ok(Self { inner: source, scales })
    }

    fn get(&self, name: TensorName, kind: LinearKind) -> Option<&[f32]> {
        let TensorName::Layer(layer, _) = name else { return None };
        self.scales.get(layer.index(), kind)
    }

    /// Divides what makes the input of `kind` by that linear's scales: element `i` of `values` (rows of `width`)
    /// belongs to row `first + i / width` of the tensor, and row `base` to channel 0.
    fn divide(&self, name: TensorName, kind: LinearKind, base: usize, first: usize, width: usize, values: &mut [f32]) {
        let Some(scales) = self.get(name, kind) else { return };
        for (i, row) in values.chunks_exact_mut(width).enumerate() {
            if let Some(s) = (first + i).checked_sub(base).and_then(|c| scales.get(c)) {
                row.iter_mut().for_each(|v| *v /= s);
            }
        }
    }

    /// Multiplies the input channels of a linear, rows of `width`.
    fn multiply(&self, name: TensorName, kind: LinearKind, width: usize, values: &mut [f32]) {
        let Some(scales) = self.get(name, kind) else { return };
        let index = |c| ChannelScales::index_of(self.inner.config(), kind, c);
        let by_channel: Vec<f32> = (0..width).map(|c| scales.get(index(c)).copied().unwrap_or(1.0)).collect();
        for row in values.chunks_exact_mut(width) {
            row.iter_mut().zip(&by_channel).for_each(|(v, s)| *v *= s);
        }
    }

    /// Whether a tensor is another than the inner source's.
    fn changes(&self, name: TensorName) -> bool {
        let scaled = |kind| self.get(name, kind).is_some();
        match name {
            TensorName::Layer(_, tensor) => match tensor {
                LayerTensor::Qkv => scaled(LinearKind::Qkv) || scaled(LinearKind::O),
                LayerTensor::GateUp => scaled(LinearKind::GateUp) || scaled(LinearKind::Down),
                LayerTensor::O => scaled(LinearKind::O),
                LayerTensor::Down => scaled(LinearKind::Down),
                _ => true,
            },
            TensorName::Embed | TensorName::Head | TensorName::Norm => false,
        }
    }
}

impl<S: ModelSource> ModelSource for Scaled<S> {
    fn config(&self) -> &DecoderConfig {
        self.inner.config()
    }

    fn tokenizer(&self) -> &TokenizerData {
        self.inner.tokenizer()
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        self.inner.shape(name)
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        let shape = self.shape(name);
        check_rows(name, shape, &rows)?;
        let first = rows.start;
        self.inner.read_rows(name, rows, out)?;
        let (TensorName::Layer(_, tensor), Some((_, k))) = (name, shape) else { return Ok(()) };
        let c = self.inner.config();
        let v_rows = c.q_size() + c.kv_size();
        match tensor {
            LayerTensor::AttnNorm => self.divide(name, LinearKind::Qkv, 0, 0, 1, out),
            LayerTensor::FfnNorm => self.divide(name, LinearKind::GateUp, 0, 0, 1, out),
            LayerTensor::QkvBias => self.divide(name, LinearKind::O, v_rows, 0, 1, out),
            LayerTensor::Qkv => {
                self.multiply(name, LinearKind::Qkv, k, out);
                self.divide(name, LinearKind::O, v_rows, first, k, out);
            }
            LayerTensor::GateUp => {
                self.multiply(name, LinearKind::GateUp, k, out);
                self.divide(name, LinearKind::Down, c.intermediate_size as usize, first, k, out);
            }
            LayerTensor::O => self.multiply(name, LinearKind::O, k, out),
            LayerTensor::Down => self.multiply(name, LinearKind::Down, k, out),
            _ => {}
        }
        Ok(())
    }

    fn read_q4_0_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Q4Rows) -> Result<bool, SourceError> {
        if self.changes(name) {
            out.clear();
            return Ok(false);
        }
        self.inner.read_q4_0_rows(name, rows, out)
    }

    fn read_files(&self) -> crate::output::ReadFiles {
        self.inner.read_files()
    }

    fn describe(&self) -> String {
        let scaled = self.scales.layers.iter().flatten().flatten().count();
        format!("{}, input channels of {scaled} linears scaled", self.inner.describe())
    }
}
