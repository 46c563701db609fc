//! How a [`QnnDevice`](super::QnnDevice) is opened.

use crate::{DeviceProfile, NpuError, profile::chips};
use std::path::PathBuf;

/// What the NPU's clocks and sleep shall do while a device is open. On a phone the difference is threefold (15.8 ms and
/// 5.5 ms for one graph were reported): without a vote one measures the wrong thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerformancePolicy {
    /// Highest clocks, shortest sleep; heats.
    #[default]
    Burst,
    /// High clocks that a phone can hold.
    Sustained,
    /// Nominal clocks that follow the load.
    Balanced,
    /// Low clocks, long sleep.
    PowerSaver,
    /// No vote: whatever the system does.
    Default,
}

/// How much the library's log says. Lines go to `tracing`, target `qnn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Errors only; they are quoted in [`NpuError::Code`].
    Error = 1,
    /// Warnings too.
    #[default]
    Warn = 2,
    /// Information too.
    Info = 3,
    /// Every step.
    Verbose = 4,
    /// Everything.
    Debug = 5,
}

/// Where graphs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The library of an x86-64 machine: compiles for any chip and emulates it. Same numbers for all chips since v73,
    /// no times, no shared memory.
    Emulation,
    /// The NPU of this machine.
    Device,
}

impl Target {
    /// What the library of this machine does.
    #[must_use]
    pub fn here() -> Self {
        if cfg!(target_arch = "x86_64") { Self::Emulation } else { Self::Device }
    }
}

/// What a [`QnnDevice`](super::QnnDevice) is made from.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct QnnOptions {
    /// Folder of Qualcomm's libraries; `None` searches (see `qnn_sys::find`).
    pub lib_dir: Option<PathBuf>,
    /// Chip name (`sm8550`, `sm8650`, `sm8750`, `sm8850`) or Qualcomm's number of the SoC (`77`). Always told to the
    /// library: without it QNN 2.51 compiles for SoC 30 (v68), which computes other numbers.
    pub chip: String,
    /// Clocks and sleep.
    pub performance: PerformancePolicy,
    /// Vector memory in MiB per graph; 0 is the chip's maximum, `None` the library's default (4).
    ///
    /// In the x86-64 emulation less than the default must not be in use while other contexts of the process execute: then
    /// executions fail (1100) or crash the process, also when calls are serialised (measured on 2.51 with 2 MiB). Compile
    /// such graphs in a process of their own.
    pub vtcm_mb: Option<u32>,
    /// HVX threads per graph; `None` is the library's default.
    pub hvx_threads: Option<u32>,
    /// Effort of the compiler, 1 to 3; `None` is the library's default.
    pub optimization_level: Option<u32>,
    /// Weights that several graphs of a context name are stored once. Such a binary cannot be loaded in the x86-64
    /// emulation (measured on 2.51), so the default is off there and on elsewhere.
    pub weight_sharing: bool,
    /// One spill-fill buffer of this many bytes for all contexts of the device. Phones only.
    pub spill_fill_bytes: Option<u64>,
    /// How much the library logs.
    pub log_level: LogLevel,
    /// Asks for the accelerator's time of every execution. In the emulation that would be host time, so completions
    /// carry none there.
    pub profiling: bool,
}

impl QnnOptions {
    /// Defaults for a chip.
    #[must_use]
    pub fn chip(chip: &str) -> Self {
        Self {
            lib_dir: None,
            chip: chip.to_owned(),
            performance: PerformancePolicy::default(),
            vtcm_mb: None,
            hvx_threads: None,
            optimization_level: None,
            weight_sharing: Target::here() == Target::Device,
            spill_fill_bytes: None,
            log_level: LogLevel::default(),
            profiling: false,
        }
    }

    /// What the chip can do, without opening a library.
    ///
    /// # Errors
    /// [`NpuError::Option`] for an unknown chip or level.
    pub fn device_profile(&self) -> Result<DeviceProfile, NpuError> {
        self.profile(Target::here()).map(|(profile, _)| profile)
    }

    /// The chip's profile as device `qnn:<chip>` and its SoC number.
    pub(super) fn profile(&self, target: Target) -> Result<(DeviceProfile, u32), NpuError> {
        let bad = |name, value: String, reason: String| NpuError::Option { name, value, reason };
        if let Some(level @ (0 | 4..)) = self.optimization_level {
            return Err(bad("optimization_level", level.to_string(), "use 1, 2 or 3".to_owned()));
        }
        // The idealisation is no chip.
        let Some(mut profile) = chips::find(&self.chip).filter(|p| p.soc_id.is_some()) else {
            let is_chip = |name: &&&str| chips::named(name).is_some_and(|p| p.soc_id.is_some());
            let names: Vec<_> = chips::NAMES.iter().filter(is_chip).copied().collect();
            let reason = format!("use one of {} or the number of a SoC", names.join(", "));
            return Err(bad("chip", self.chip.clone(), reason));
        };
        profile.device = format!("qnn:{}", profile.name);
        profile.timed = target == Target::Device && self.profiling;
        let soc_id = profile.soc_id.unwrap_or_default();
        Ok((profile, soc_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_by_name_and_number() {
        let profile = |chip: &str| QnnOptions::chip(chip).profile(Target::Emulation);
        for (name, soc) in [("sm8550", 43), ("sm8650", 57), ("sm8750", 69), ("sm8850", 87)] {
            let (found, soc_id) = profile(name).expect("known");
            assert_eq!((found.device, soc_id, found.timed), (format!("qnn:{name}"), soc, false));
            assert_eq!(profile(&soc.to_string()).expect("known").0.name, name);
        }
        let (other, soc_id) = profile("77").expect("a number");
        assert_eq!((other.device.as_str(), soc_id, other.arch), ("qnn:soc77", 77, None));
        for wrong in ["ideal", "sm9999", ""] {
            let text = profile(wrong).expect_err("unknown").to_string();
            assert!(text.contains("sm8650") && text.contains("number"), "{text}");
        }
        let options = QnnOptions { optimization_level: Some(4), ..QnnOptions::chip("sm8650") };
        assert!(options.profile(Target::Device).is_err());
        let options = QnnOptions { profiling: true, ..QnnOptions::chip("sm8650") };
        assert!(options.profile(Target::Device).expect("known").0.timed);
    }
}
