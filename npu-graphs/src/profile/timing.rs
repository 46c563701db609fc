//! Times of linears on an NPU, from published or compiler-made tables. All of it is *simulated* time: whoever prints it
//! prints [`Estimate::source`] with it.
//!
//! Both models are `fixed + weights · slope(M)`: a cost per linear, and a cost per weight that depends on the number of
//! rows only. Within its own published points the first model is right within 10 %, the second within 25 %.

use super::DeviceProfile;
use crate::{Dtype, GraphSpec, OpSpec, WeightEncoding};
use serde::{Deserialize, Serialize};

/// A source of times per linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimingModel {
    /// Qualcomm's finalize-time estimate of QNN 2.51 for SoC 77 (QCS9100, v73 at 1.5 GHz), Conv2d, 2048×2048, rows 1…1024.
    QualcommEstimateSoc77,
    /// Table 3 of llm.npu (Redmi K70 Pro, Snapdragon 8 Gen 3, W8A8), for more rows scaled by its NPU time of a prompt.
    LlmNpuTable3,
}

impl TimingModel {
    /// Every model.
    pub const ALL: [Self; 2] = [Self::QualcommEstimateSoc77, Self::LlmNpuTable3];

    /// `qualcomm_estimate_soc77` or `llm_npu_table3`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QualcommEstimateSoc77 => "qualcomm_estimate_soc77",
            Self::LlmNpuTable3 => "llm_npu_table3",
        }
    }

    /// The model with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Where its constants come from and what it leaves out.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::QualcommEstimateSoc77 => {
                "Qualcomm's compiler estimate (QNN 2.51 finalize) for SoC 77, v73 at 1.5 GHz, Conv2d 1x1 of 2048x2048 at \
                 1..1024 rows, scaled by weight count over a fixed 37 us; block expansion measured with groups of 64; no RPC cost"
            }
            Self::LlmNpuTable3 => {
                "llm.npu (ASPLOS'25) Table 3, W8A8 on Redmi K70 Pro (Snapdragon 8 Gen 3) at 32 and 64 rows, least-squares \
                 line over weight count; at 256 rows scaled to the paper's 315 ms of NPU time per 256 tokens of \
                 Qwen1.5-1.8B; QNN of 2024, RPC included"
            }
        }
    }
}

/// A time with its origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Microseconds of one execution.
    pub us: f64,
    /// Where the constants come from.
    pub source: &'static str,
}

/// A linear whose time is asked for: `[m, k] × [k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows (tokens).
    pub m: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Dtype of the activations.
    pub activation: Dtype,
    /// Encoding of the weights.
    pub weights: WeightEncoding,
}

/// Simulated time of one linear on a profile's device; `None` when the profile has no timing model or the model says
/// nothing about this dtype and encoding.
#[must_use]
pub fn estimate_linear_us(profile: &DeviceProfile, shape: LinearShape) -> Option<Estimate> {
    let model = profile.timing?;
    let weights = shape.k as f64 * shape.n as f64;
    let us = match model {
        TimingModel::QualcommEstimateSoc77 => {
            let table = qualcomm_2048(shape.activation, shape.weights)?;
            let per_weight = (at_rows(table, shape.m) - QUALCOMM_FIXED_US).max(0.0) / (2048.0 * 2048.0);
            QUALCOMM_FIXED_US + weights * per_weight
        }
        TimingModel::LlmNpuTable3 => {
            if (shape.activation, shape.weights) != (Dtype::U8, WeightEncoding::PerChannelI8) {
                return None;
            }
            LLM_NPU_FIXED_US + weights * at_rows(&LLM_NPU_US_PER_WEIGHT, shape.m)
        }
    };
    Some(Estimate { us, source: model.source() })
}

/// Simulated time of a graph of linears; those that share an input count as one, as the compiler's estimates do. `None` as
/// [`estimate_linear_us`], or when the graph holds another op: the tables know linears only, so graphs of placements `fused`
/// and `layer` have no estimate.
#[must_use]
pub fn estimate_graph_us(profile: &DeviceProfile, graph: &GraphSpec) -> Option<Estimate> {
    let mut linears: Vec<(&str, LinearShape)> = Vec::new();
    for node in &graph.nodes {
        let OpSpec::Conv2d1x1 { input, weights, .. } = node else { return None };
        let x = graph.tensor(input)?;
        let (k, n) = (weights.k, weights.n());
        let shape = LinearShape { m: x.rows(), k, n, activation: x.dtype, weights: weights.encoding };
        match linears.iter_mut().find(|(name, l)| *name == input && l.k == k && l.weights == shape.weights) {
            Some((_, linear)) => linear.n += n,
            None => linears.push((input, shape)),
        }
    }
    let source = profile.timing?.source();
    let us = linears.iter().map(|(_, l)| Some(estimate_linear_us(profile, *l)?.us)).sum::<Option<f64>>()?;
    Some(Estimate { us, source })
}

/// Fixed part of the estimate: intercept of the 256-row estimates over weight count (130 us at 4.2 M weights, 308 at
/// 12.6 M, 427 at 16.8 M, 536 at 22.5 M).
const QUALCOMM_FIXED_US: f64 = 37.0;

/// Estimates in us for 2048×2048 by rows.
fn qualcomm_2048(activation: Dtype, weights: WeightEncoding) -> Option<&'static [(f64, f64)]> {
    use WeightEncoding::{BlockExpansion32, PerChannelI8};
    Some(match (activation, weights) {
        (Dtype::U8, PerChannelI8) => {
            &[(1.0, 98.0), (32.0, 105.0), (128.0, 116.0), (256.0, 130.0), (512.0, 208.0), (1024.0, 386.0)]
        }
        (Dtype::U16, PerChannelI8) => &[(1.0, 94.0), (32.0, 115.0), (128.0, 140.0), (256.0, 203.0), (512.0, 355.0)],
        (Dtype::U8, BlockExpansion32) => &[(1.0, 65.0), (32.0, 70.0), (128.0, 98.0), (256.0, 129.0)],
        (Dtype::U16, BlockExpansion32) => &[(1.0, 66.0), (32.0, 87.0), (128.0, 147.0), (256.0, 215.0)],
        _ => return None,
    })
}

/// Least-squares line over Table 3's six INT8 points: 0.35 ms + 0.079 ms per million weights, the same at 32 and 64 rows.
const LLM_NPU_FIXED_US: f64 = 350.0;
/// Us per weight by rows. At 256 rows: (315 ms / 24 layers − 4 · 0.35 ms) / 50.6 M weights of a layer.
const LLM_NPU_US_PER_WEIGHT: [(f64, f64); 3] = [(1.0, 79e-6), (64.0, 79e-6), (256.0, 231.7e-6)];

/// Piecewise linear in the number of rows; past the last point the last slope goes on.
fn at_rows(table: &[(f64, f64)], rows: usize) -> f64 {
    let rows = rows as f64;
    let last = table.len() - 1;
    let i = table[1..last].iter().take_while(|(m, _)| *m <= rows).count();
    let ((m0, t0), (m1, t1)) = (table[i], table[i + 1]);
    (t0 + (t1 - t0) * (rows - m0) / (m1 - m0)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::chips;

    fn us(chip: &str, m: usize, k: usize, n: usize) -> f64 {
        let profile = chips::named(chip).expect("known chip");
        let shape = LinearShape { m, k, n, activation: Dtype::U8, weights: WeightEncoding::PerChannelI8 };
        estimate_linear_us(&profile, shape).expect("has a model").us
    }

    #[test]
    fn published_points_are_met() {
        // Qualcomm's estimates: table points exactly, whole linears of a 2048/5504 layer within 10 %.
        for (m, want) in [(1, 98.0), (32, 105.0), (128, 116.0), (256, 130.0), (512, 208.0), (1024, 386.0)] {
            assert!((us("sm8550", m, 2048, 2048) - want).abs() < 1e-9, "{m}");
        }
        for (k, n, want) in [(2048, 6144, 308.0), (2048, 11008, 536.0), (5504, 2048, 314.0), (4096, 4096, 427.0)] {
            let got = us("sm8550", 256, k, n);
            assert!((got / want - 1.0).abs() < 0.1, "{k}x{n}: {got} for {want}");
        }
        // Table 3 within 25 %.
        for (m, k, n, want) in [
            (64, 2048, 2048, 900.0),
            (64, 2048, 8192, 1500.0),
            (64, 2048, 11008, 2000.0),
            (32, 4096, 4096, 1700.0),
            (32, 4096, 8192, 2900.0),
            (32, 4096, 11008, 4100.0),
        ] {
            let got = us("sm8650", m, k, n);
            assert!((got / want - 1.0).abs() < 0.25, "{m}: {k}x{n}: {got} for {want}");
        }
        // The paper's 315 ms for 24 layers of Qwen1.5-1.8B.
        let layer = us("sm8650", 256, 2048, 6144)
            + us("sm8650", 256, 2048, 2048)
            + us("sm8650", 256, 2048, 11008)
            + us("sm8650", 256, 5504, 2048);
        assert!((24.0 * layer / 315_000.0 - 1.0).abs() < 0.02, "{layer}");
    }

    #[test]
    fn times_grow_with_every_dimension_and_are_refused_where_unknown() {
        for chip in ["sm8550", "sm8650"] {
            for m in [1, 2, 31, 64, 65, 300, 1024, 5000] {
                assert!(us(chip, m, 2048, 2048) <= us(chip, m + 1, 2048, 2048));
                assert!(us(chip, m, 256, 64) < us(chip, m, 512, 64) && us(chip, m, 256, 64) < us(chip, m, 256, 128));
            }
        }
        let shape = LinearShape { m: 32, k: 64, n: 64, activation: Dtype::U16, weights: WeightEncoding::PerChannelI8 };
        assert!(estimate_linear_us(&chips::named("sm8650").expect("known"), shape).is_none());
        assert!(estimate_linear_us(&chips::named("ideal").expect("known"), shape).is_none());
    }
}
