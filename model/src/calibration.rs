//! What a float forward pass over a text tells about each linear: scales, hot channels, importance, and how it should run.

use crate::{DecoderConfig, LayerIdx, LinearKind};
use serde::{Deserialize, Serialize};

/// How a linear runs on an NPU: what is decided per linear by calibration, and may be overridden when a model is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// u8 codes that clip little, and nothing else: no work on the CPU, no waiting for it.
    Plain,
    /// u8 codes of fine resolution; what they clip is put back on the CPU, in shadow.
    #[default]
    Shadow,
    /// u16 codes over more than the calibration text's range; what lies beyond is clipped, and only counted. The NPU works about
    /// 1.3 times as long.
    Wide,
    /// u8 codes without the hot channels, which the CPU computes whole, in float (as LLM.int8() does, but with static channels).
    Split,
}

impl Treatment {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Shadow, Self::Wide, Self::Split];

    /// `u8`, `u8+shadow`, `u16` or `u8+float`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "u8",
            Self::Shadow => "u8+shadow",
            Self::Wide => "u16",
            Self::Split => "u8+float",
        }
    }

    /// Whether the CPU corrects the NPU's result at the same time.
    #[must_use]
    pub fn has_shadow(self) -> bool {
        matches!(self, Self::Shadow | Self::Split)
    }

    /// Bytes of an activation's code.
    #[must_use]
    pub fn code_bytes(self) -> usize {
        if self == Self::Wide { 2 } else { 1 }
    }
}

impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The treatment of each linear, by layer, in the order of [`LinearKind::ALL`].
pub type Schedule = Vec<[Treatment; 4]>;

/// Static scales of a linear's input and of each output part (see [`crate::DecoderConfig::linear_parts`]), as those of u8
/// codes; [`LinearCodes`] says what u16 codes make of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scales {
    /// `code = clip(round(x / input) + 128, 0, 255)`.
    pub input: f32,
    /// One per part.
    pub outputs: Vec<f32>,
}

/// Calibration of one linear of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearCalibration {
    /// Scale of the input for [`Treatment::Shadow`].
    pub input_scale: f32,
    /// Scales of the output parts for [`Treatment::Shadow`].
    pub output_scales: Vec<f32>,
    /// Scales for [`Treatment::Plain`]; those with shadow where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Scales>,
    /// Scales for [`Treatment::Wide`]; those with shadow where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wide: Option<Scales>,
    /// Scales for [`Treatment::Split`]; those with shadow where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Scales>,
    /// Input channels that carry most outliers, ascending; their float rows are in the file.
    pub hot_channels: Vec<u32>,
    /// Larger matters more: the divergence that this linear adds without shadow, as `coexec schedule` measured it; before that, the
    /// share of its input's energy that codes with shadow clip.
    pub importance: f32,
    /// Share of the input's elements that codes with shadow clip.
    #[serde(default)]
    pub clipped_share: f32,
    /// How the linear runs.
    #[serde(default)]
    pub treatment: Treatment,
}

/// The static codes of a linear's input and output parts in one treatment: `value = step · (code − zero_point)`. Static graphs
/// are built from these and prompts are run with these; nothing else makes an encoding of calibration's scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCodes<'a> {
    /// Whether codes have 16 bits.
    pub wide: bool,
    /// Scales as those of u8 codes.
    input: f32,
    outputs: &'a [f32],
}

impl<'a> LinearCodes<'a> {
    /// Steps of u16 codes within one of u8 codes, so that both cover the same range.
    const WIDE_STEPS: f32 = 256.0;

    fn step(&self, scale: f32) -> f32 {
        if self.wide { scale / Self::WIDE_STEPS } else { scale }
    }

    /// Step between two codes of the input.
    #[must_use]
    pub fn input_step(&self) -> f32 {
        self.step(self.input)
    }

    /// The same of each output part.
    pub fn output_steps(self) -> impl ExactSizeIterator<Item = f32> + 'a {
        self.outputs.iter().map(move |scale| self.step(*scale))
    }

    /// Code of zero.
    #[must_use]
    pub fn zero_point(&self) -> u16 {
        if self.wide { 1 << 15 } else { 1 << 7 }
    }

    /// Bytes of a code.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if self.wide { 2 } else { 1 }
    }

    /// Largest magnitude of the input that has a code of its own on both sides of zero.
    #[must_use]
    pub fn input_range(&self) -> f32 {
        self.input * 127.0
    }

    /// The same of each output part.
    pub fn output_ranges(self) -> impl ExactSizeIterator<Item = f32> + 'a {
        self.outputs.iter().map(|scale| scale * 127.0)
    }
}

impl LinearCalibration {
    /// The codes for how the linear runs.
    #[must_use]
    pub fn codes(&self) -> LinearCodes<'_> {
        self.codes_for(self.treatment)
    }

    /// The codes for another way to run it.
    #[must_use]
    pub fn codes_for(&self, treatment: Treatment) -> LinearCodes<'_> {
        let own = match treatment {
            Treatment::Plain => self.plain.as_ref(),
            Treatment::Shadow => None,
            Treatment::Wide => self.wide.as_ref(),
            Treatment::Split => self.split.as_ref(),
        };
        let (input, outputs) = own.map_or((self.input_scale, &self.output_scales[..]), |s| (s.input, &s.outputs));
        LinearCodes { wide: treatment == Treatment::Wide, input, outputs }
    }
}

/// Calibration of a whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Tokens of the calibration text.
    pub tokens: u64,
    /// Four linears per layer, in the order of [`LinearKind::ALL`].
    pub layers: Vec<[LinearCalibration; 4]>,
}

impl Calibration {
    /// Calibration of one linear; `None` past the last layer.
    #[must_use]
    pub fn linear(&self, layer: LayerIdx, kind: LinearKind) -> Option<&LinearCalibration> {
        self.layers.get(layer.index()).map(|l| &l[kind.index()])
    }

    /// How every linear runs.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        self.layers.iter().map(|layer| std::array::from_fn(|i| layer[i].treatment)).collect()
    }

    /// Bytes of the float rows of hot channels that a schedule keeps in memory.
    #[must_use]
    pub fn hot_row_bytes(&self, config: &DecoderConfig, schedule: &[[Treatment; 4]]) -> u64 {
        let linears = self.layers.iter().flat_map(|layer| LinearKind::ALL.into_iter().zip(layer));
        let bytes = |((kind, linear), treatment): ((LinearKind, &LinearCalibration), &Treatment)| {
            let rows = if treatment.has_shadow() { linear.hot_channels.len() } else { 0 };
            rows as u64 * config.linear_shape(kind).0 as u64 * 2
        };
        linears.zip(schedule.iter().flatten()).map(bytes).sum()
    }

    /// Overrides how linears run; layers beyond the shorter of the two stay as they are.
    pub fn set_schedule(&mut self, schedule: &[[Treatment; 4]]) {
        for (layer, treatments) in self.layers.iter_mut().zip(schedule) {
            layer.iter_mut().zip(treatments).for_each(|(linear, treatment)| linear.treatment = *treatment);
        }
    }
}
