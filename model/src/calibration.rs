//! What a float forward pass over a text tells about each linear: scales, hot channels, importance.

use crate::{LayerIdx, LinearKind};
use serde::{Deserialize, Serialize};

/// Calibration of one linear of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearCalibration {
    /// Static per-tensor scale `s` of the input codes: `code = clip(round(x / s) + 128, 0, 255)`.
    pub input_scale: f32,
    /// Static scale of each output part (see [`crate::DecoderConfig::linear_parts`]).
    pub output_scales: Vec<f32>,
    /// Input channels that carry most outliers, ascending; their float rows are in the file.
    pub hot_channels: Vec<u32>,
    /// How much the linear's output suffers without shadow: larger matters more.
    pub importance: f32,
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
}
