//! Names of the parts of a decoder: ids, the linears of a layer, and the tensors of the packed file.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A token of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A decoder layer, counted from the input, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerIdx(pub u32);

impl LayerIdx {
    /// The layer as an index into per-layer vectors.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The four linears of a layer as the NPU sees them: linears with a common input are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinearKind {
    /// Query, key and value projections, rows in that order.
    Qkv,
    /// Attention's output projection.
    O,
    /// Gate and up projections, rows in that order.
    GateUp,
    /// Down projection.
    Down,
}

impl LinearKind {
    /// All four, in the order of a forward pass.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// Position in [`Self::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// `qkv`, `o`, `gate_up` or `down`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::O => "o",
            Self::GateUp => "gate_up",
            Self::Down => "down",
        }
    }

    /// The packed tensor that holds its weights.
    #[must_use]
    pub fn tensor(self) -> LayerTensor {
        match self {
            Self::Qkv => LayerTensor::Qkv,
            Self::O => LayerTensor::O,
            Self::GateUp => LayerTensor::GateUp,
            Self::Down => LayerTensor::Down,
        }
    }

    /// The packed tensor that holds the float rows of its hot channels.
    #[must_use]
    pub fn hot_rows(self) -> LayerTensor {
        match self {
            Self::Qkv => LayerTensor::QkvHot,
            Self::O => LayerTensor::OHot,
            Self::GateUp => LayerTensor::GateUpHot,
            Self::Down => LayerTensor::DownHot,
        }
    }
}

impl fmt::Display for LinearKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! layer_tensors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A tensor of one layer in the packed file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum LayerTensor { $($(#[$doc])* $variant),* }

        impl LayerTensor {
            /// All of them, in the order of the file.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Name inside the layer, as in `layers.3.qkv`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

layer_tensors! {
    /// RMSNorm gain before attention, `[hidden_size]`.
    AttnNorm = "attn_norm",
    /// Query, key and value rows, `[(heads + 2 kv_heads) × head_dim, hidden_size]`.
    Qkv = "qkv",
    /// Bias of [`Self::Qkv`], `[(heads + 2 kv_heads) × head_dim]`.
    QkvBias = "qkv_bias",
    /// RMSNorm gain of each query head, `[head_dim]`.
    QNorm = "q_norm",
    /// RMSNorm gain of each key head, `[head_dim]`.
    KNorm = "k_norm",
    /// Output projection, `[hidden_size, heads × head_dim]`.
    O = "o",
    /// RMSNorm gain before the feed-forward part, `[hidden_size]`.
    FfnNorm = "ffn_norm",
    /// Gate rows, then up rows, `[2 × intermediate_size, hidden_size]`.
    GateUp = "gate_up",
    /// Down projection, `[hidden_size, intermediate_size]`.
    Down = "down",
    /// Float rows of the hot channels of [`Self::Qkv`], `[hot, N]` (K-major: one row per input channel).
    QkvHot = "qkv.hot",
    /// Float rows of the hot channels of [`Self::O`], `[hot, N]`.
    OHot = "o.hot",
    /// Float rows of the hot channels of [`Self::GateUp`], `[hot, N]`.
    GateUpHot = "gate_up.hot",
    /// Float rows of the hot channels of [`Self::Down`], `[hot, N]`.
    DownHot = "down.hot",
}

/// A tensor of the packed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorName {
    /// Token embeddings, `[vocab_size, hidden_size]`; also the head when it is tied.
    Embed,
    /// The head when it is not tied, `[vocab_size, hidden_size]`.
    Head,
    /// Final RMSNorm gain, `[hidden_size]`.
    Norm,
    /// A tensor of a layer.
    Layer(LayerIdx, LayerTensor),
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => f.write_str("embed"),
            Self::Head => f.write_str("head"),
            Self::Norm => f.write_str("norm"),
            Self::Layer(layer, tensor) => write!(f, "layers.{}.{}", layer.0, tensor.name()),
        }
    }
}

/// A string that names no tensor of the packed file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no tensor of a packed file")]
pub struct UnknownTensor(pub String);

impl FromStr for TensorName {
    type Err = UnknownTensor;

    fn from_str(s: &str) -> Result<Self, UnknownTensor> {
        let unknown = || UnknownTensor(s.to_owned());
        match s {
            "embed" => return Ok(Self::Embed),
            "head" => return Ok(Self::Head),
            "norm" => return Ok(Self::Norm),
            _ => {}
        }
        let (layer, name) = s.strip_prefix("layers.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        let tensor = LayerTensor::ALL.iter().copied().find(|t| t.name() == name).ok_or_else(unknown)?;
        Ok(Self::Layer(LayerIdx(layer), tensor))
    }
}

impl Serialize for TensorName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TensorName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        let mut names = vec![TensorName::Embed, TensorName::Head, TensorName::Norm];
        names.extend(LayerTensor::ALL.iter().map(|&t| TensorName::Layer(LayerIdx(17), t)));
        for name in names {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for bad in ["", "layers", "layers.", "layers.x.qkv", "layers.0.qqq", "layers.-1.qkv", "layers.99999999999.o"] {
            assert!(bad.parse::<TensorName>().is_err(), "{bad}");
        }
    }
}
