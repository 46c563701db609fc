//! Profiles of the simulated device, one per chip, and where their constants come from.

use super::{DeviceProfile, LinearSupport, OpSupport, TimingModel};
use crate::{BufferKind, Dtype, WeightEncoding};
use std::borrow::Cow;

/// Names that [`named`] knows.
pub const NAMES: [&str; 5] = ["ideal", "sm8550", "sm8650", "sm8750", "sm8850"];

/// Linears that HTP v73 and newer computes as 1×1 Conv2d (measured on QNN 2.51: validates, finalises, right).
pub(crate) const HTP_LINEARS: [LinearSupport; 8] = {
    const fn row(activation: Dtype, weights: WeightEncoding) -> LinearSupport {
        LinearSupport { activation, weights }
    }
    [
        row(Dtype::U8, WeightEncoding::PerChannelI8),
        row(Dtype::U8, WeightEncoding::PerChannelI4),
        row(Dtype::U8, WeightEncoding::BlockExpansion32),
        row(Dtype::U16, WeightEncoding::PerChannelI8),
        row(Dtype::U16, WeightEncoding::PerChannelI4),
        row(Dtype::U16, WeightEncoding::BlockExpansion32),
        row(Dtype::F16, WeightEncoding::PerChannelI8),
        row(Dtype::F16, WeightEncoding::PerChannelI4),
    ]
};

/// The other ops that HTP v73 and newer computes right in these dtypes (same measurements).
pub(crate) const HTP_OPS: [OpSupport; 11] = {
    const CODES: &[Dtype] = &[Dtype::U8, Dtype::U16, Dtype::F16];
    const MOVES: &[Dtype] = &[Dtype::U8, Dtype::U16, Dtype::F16, Dtype::I8];
    const ALL: &[Dtype] = &[Dtype::U8, Dtype::U16, Dtype::F16, Dtype::I8, Dtype::F32];
    const fn row(op: &'static str, dtypes: &'static [Dtype]) -> OpSupport {
        OpSupport { op: Cow::Borrowed(op), dtypes: Cow::Borrowed(dtypes) }
    }
    [
        row("rms_norm", CODES),
        row("add", CODES),
        row("mul", CODES),
        row("sigmoid", CODES),
        row("softmax", CODES),
        row("mat_mul", CODES),
        row("rope", CODES),
        row("convert", ALL),
        row("reshape", MOVES),
        row("transpose", MOVES),
        row("concat", MOVES),
    ]
};

const HTP_SOURCE: &str = "ops and encodings: measured on QNN HTP 2.51 (x86-64); memory: 2 GB per context binary and \
    about 3.5 GB per process are what is reported for Hexagon's 32-bit address space; 60 kB per graph and at most 256 graphs \
    per context with shared weights (code 5007 beyond) measured";

/// The simulated device's profile of a chip by name or by Qualcomm's number of the SoC; a number that no row has is taken as
/// one that computes what HTP v73 does. `None` for other texts.
#[must_use]
pub fn find(chip: &str) -> Option<DeviceProfile> {
    let number = chip.parse::<u32>().ok();
    let numbered = || NAMES.iter().filter_map(|name| named(name)).find(|p| number.is_some() && p.soc_id == number);
    let other = || {
        let (soc_id, base) = (number?, named("sm8550")?);
        let (name, device) = (format!("soc{soc_id}"), format!("sim:soc{soc_id}"));
        Some(DeviceProfile { name, device, soc_id: Some(soc_id), arch: None, ..base })
    };
    named(chip).or_else(numbered).or_else(other)
}

/// The simulated device's profile of a chip; `None` for a name not in [`NAMES`].
///
/// | name | chip | arch | default timing model |
/// |---|---|---|---|
/// | `ideal` | none: every op that `sim` has, no limits | – | none |
/// | `sm8550` | Snapdragon 8 Gen 2, SoC id 43 | v73 | Qualcomm's compiler estimate for SoC 77 (v73 at 1.5 GHz) |
/// | `sm8650` | Snapdragon 8 Gen 3, SoC id 57 | v75 | the llm.npu paper's Table 3 (Redmi K70 Pro) |
/// | `sm8750` | Snapdragon 8 Elite, SoC id 69 | v79 | Qualcomm's compiler estimate for SoC 77 (an older chip: too slow) |
/// | `sm8850` | Snapdragon 8 Elite Gen 5, SoC id 87 | v81 | Qualcomm's compiler estimate for SoC 77 (an older chip: too slow) |
#[must_use]
pub fn named(name: &str) -> Option<DeviceProfile> {
    let chip = |soc_id: u32, arch: &str, timing| DeviceProfile {
        name: name.to_owned(),
        device: format!("sim:{name}"),
        source: HTP_SOURCE.to_owned(),
        soc_id: Some(soc_id),
        arch: Some(arch.to_owned()),
        linears: HTP_LINEARS.to_vec(),
        ops: HTP_OPS.to_vec(),
        max_context_bytes: 2 << 30,
        max_device_bytes: 3584 << 20,
        max_sharing_graphs: 256,
        graph_overhead_bytes: 60_000,
        max_buffer_bytes: 1 << 28,
        max_in_flight: 64,
        buffer_kind: BufferKind::Heap,
        timed: false,
        timing: Some(timing),
    };
    Some(match name {
        "sm8550" => chip(43, "v73", TimingModel::QualcommEstimateSoc77),
        "sm8650" => chip(57, "v75", TimingModel::LlmNpuTable3),
        "sm8750" => chip(69, "v79", TimingModel::QualcommEstimateSoc77),
        "sm8850" => chip(87, "v81", TimingModel::QualcommEstimateSoc77),
        "ideal" => DeviceProfile {
            source: "an idealisation: HTP's linears with HTP's rounding, no limits, no time".to_owned(),
            soc_id: None,
            arch: None,
            max_context_bytes: u64::MAX,
            max_device_bytes: u64::MAX,
            max_sharing_graphs: usize::MAX,
            max_buffer_bytes: 1 << 30,
            timing: None,
            ..chip(0, "", TimingModel::QualcommEstimateSoc77)
        },
        _ => return None,
    })
}
