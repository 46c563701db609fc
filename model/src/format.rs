//! The weight formats of the packed file.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How the weights of a linear are stored.
///
/// | name  | code | scale | bits per weight |
/// |-------|------|-------|-----------------|
/// | `f32` | f32  | –     | 32 |
/// | `f16` | f16  | –     | 16 |
/// | `q8`  | −127…127 | one f32 per output channel | 8 |
/// | `q4`  | −8…7 | 4-bit integer per group of 32 inputs × one f32 per output channel (QNN's block expansion, LPBQ) | 4.125 |
/// | `q4s` | −8…7 | f16 per group of 32 inputs (as GGUF's Q4_0) | 4.5 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Per-channel INT8.
    Q8,
    /// INT4 in groups of 32 with an integer group scale times a channel scale.
    Q4,
    /// INT4 in groups of 32 with a float group scale.
    Q4s,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Q8, Self::Q4, Self::Q4s];

    /// The name used in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Q4s => "q4s",
        }
    }

    /// Whether weights are integer codes (activations are then quantised too, in groups of 32).
    #[must_use]
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4 | Self::Q4s)
    }

    /// The largest magnitude that a weight may have.
    #[must_use]
    pub fn largest(self) -> f32 {
        match self {
            Self::F16 => half::f16::MAX.to_f32(),
            // The extreme of a group is −8 times its f16 scale.
            Self::Q4s => half::f16::MAX.to_f32() * 8.0,
            Self::F32 | Self::Q8 | Self::Q4 => f32::MAX,
        }
    }

    /// The format of the embedding beside linears of this format: 4-bit models keep it in `q8`. A token reads one row.
    #[must_use]
    pub fn for_embedding(self) -> Self {
        match self {
            Self::Q4 | Self::Q4s => Self::Q8,
            other => other,
        }
    }

    /// The format of the head beside linears of this format. A token reads all of it: as many bytes, in a small model, as a
    /// third of its linears.
    #[must_use]
    pub fn for_head(self) -> Self {
        self.for_embedding()
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A string that names no weight format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown weight format `{0}`: use f32, f16, q8, q4 or q4s")]
pub struct UnknownFormat(pub String);

impl FromStr for WeightFormat {
    type Err = UnknownFormat;

    fn from_str(s: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|f| f.name() == s).ok_or_else(|| UnknownFormat(s.to_owned()))
    }
}
