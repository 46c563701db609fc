//! What the user of an engine can choose.

use crate::{KvDtype, RuntimeError};
use coexec_model::{Calibration, Schedule, Treatment};
use coexec_npu::FaultPlan;
use coexec_scheduler::{CancelToken, PolicyKind};
use std::{path::PathBuf, str::FromStr, time::Duration};

/// Which NPU prefill runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NpuChoice {
    /// The simulated NPU when the model is calibrated, else none; the choice and its reason are reported.
    #[default]
    Auto,
    /// The simulated NPU.
    Sim,
    /// Qualcomm's NPU.
    Qnn,
    /// Qualcomm's NPU where it is a chip that can be used, else the CPU: never a simulation, whose speed is of use to nobody
    /// but those who test. What an app wants; the choice and its reason are reported.
    Real,
    /// No NPU: everything on the CPU.
    None,
}

impl NpuChoice {
    /// Whether an NPU was asked for by name: one that cannot be opened is then an error.
    #[must_use]
    pub fn is_by_name(self) -> bool {
        matches!(self, Self::Sim | Self::Qnn)
    }
}

impl FromStr for NpuChoice {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        match s {
            "auto" => Ok(Self::Auto),
            "sim" => Ok(Self::Sim),
            "qnn" => Ok(Self::Qnn),
            "real" => Ok(Self::Real),
            "none" => Ok(Self::None),
            _ => Err(RuntimeError::Option {
                option: "--npu",
                value: s.to_owned(),
                reason: "use qnn, sim, real, none or auto".to_owned(),
            }),
        }
    }
}

/// Options of an [`crate::Engine`]. `Default` is what `coexec run` uses.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// CPU workers; 0 takes one per core that [`Self::cores`] allows.
    pub threads: usize,
    /// Cores that CPU workers are bound to.
    pub cores: coexec_cpu::Cores,
    /// Kernel set by name (`reference`, `avx2`, …); `None` takes the best that this CPU has.
    pub kernels: Option<String>,
    /// The NPU.
    pub npu: NpuChoice,
    /// Chip that the simulated NPU stands for (its limits): a name of [`coexec_npu::profile::chips::NAMES`].
    pub npu_profile: String,
    /// Qualcomm's NPU: libraries, compiled models, where compilers run.
    pub qnn: crate::npu::QnnChoice,
    /// Tokens that a prefill chunk may hold: one set of static graphs each, in any order. A prompt is cut so that its
    /// expected time on the NPU is least.
    pub chunk_lens: Vec<usize>,
    /// Longest time that a static graph may take before the NPU counts as hung.
    pub npu_deadline: Duration,
    /// Where markers of NPU runs are kept, which let [`NpuChoice::Auto`] leave an NPU out that took the process down (see
    /// [`crate::npu::marker`]). `None` keeps none.
    pub state_dir: Option<PathBuf>,
    /// Failures that the simulated NPU injects (tests).
    pub faults: FaultPlan,
    /// Who picks the next task.
    pub policy: PolicyKind,
    /// How linears run on the NPU.
    pub schedule: ScheduleChoice,
    /// How K and V are stored.
    pub kv: KvDtype,
    /// Bytes of decompressed weights to keep; the rest is decompressed at every use. `None` keeps all.
    pub memory_budget_bytes: Option<u64>,
    /// Stops opening the model between tensors; prefills have a token of their own.
    pub cancel: CancelToken,
    /// Random delays injected into every prefill task, up to this many microseconds (tests of determinism).
    pub jitter_us: u64,
}

/// Who decides how linears run on the NPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ScheduleChoice {
    /// The file: what calibration found right for the model.
    #[default]
    File,
    /// All in u8 with shadow but a share of them, least important first: 0 … 1.
    Shadow {
        /// That share.
        pruning_rate: f32,
    },
    /// All in u8, nothing is corrected.
    Plain,
    /// All in u16.
    Wide,
    /// All in u8 with the hot channels in float.
    Split,
    /// The caller, per layer and linear.
    Given(Schedule),
}

impl std::fmt::Display for ScheduleChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File => f.write_str("auto"),
            Self::Shadow { pruning_rate: 0.0 } => f.write_str("u8+shadow"),
            Self::Shadow { pruning_rate } => write!(f, "u8+shadow, {:.0} % pruned", 100.0 * pruning_rate),
            Self::Plain => f.write_str("u8"),
            Self::Wide => f.write_str("u16"),
            Self::Split => f.write_str("u8+float"),
            Self::Given(_) => f.write_str("given"),
        }
    }
}

impl ScheduleChoice {
    /// The schedule for a calibrated model.
    ///
    /// # Errors
    /// [`RuntimeError::Option`] when the caller's schedule is of another number of layers.
    pub fn resolve(&self, calibration: &Calibration) -> Result<Schedule, RuntimeError> {
        let layers = calibration.layers.len();
        let all = |treatment| vec![[treatment; 4]; layers];
        Ok(match self {
            Self::File => calibration.schedule(),
            Self::Shadow { pruning_rate } => crate::calibrate::pruned(calibration, *pruning_rate),
            Self::Plain => all(Treatment::Plain),
            Self::Wide => all(Treatment::Wide),
            Self::Split => all(Treatment::Split),
            Self::Given(schedule) if schedule.len() == layers => schedule.clone(),
            Self::Given(schedule) => {
                return Err(RuntimeError::Option {
                    option: "schedule",
                    value: format!("{} layers", schedule.len()),
                    reason: format!("the model has {layers}"),
                });
            }
        })
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            cores: coexec_cpu::Cores::Auto,
            kernels: None,
            npu: NpuChoice::Auto,
            npu_profile: "sm8650".to_owned(),
            qnn: crate::npu::QnnChoice::default(),
            chunk_lens: CHUNK_LENS.to_vec(),
            npu_deadline: Duration::from_secs(120),
            state_dir: None,
            faults: FaultPlan::default(),
            policy: PolicyKind::Staggered,
            schedule: ScheduleChoice::File,
            kv: KvDtype::F16,
            memory_budget_bytes: None,
            cancel: CancelToken::new(),
            jitter_us: 0,
        }
    }
}

/// Chunk lengths of an engine when nobody asks for others.
pub const CHUNK_LENS: [usize; 4] = [32, 64, 128, 256];
/// Most chunk lengths of an engine.
pub const MAX_CHUNK_LENS: usize = 16;
/// Longest chunk: one static graph's rows.
pub const MAX_CHUNK_LEN: usize = 8192;
/// Most CPU workers.
pub const MAX_THREADS: usize = 256;

impl EngineOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`RuntimeError::Option`] names the first option that cannot be.
    pub fn validate(&self) -> Result<(), RuntimeError> {
        let bad = |option, value: String, reason: &str| {
            Err(RuntimeError::Option { option, value, reason: reason.to_owned() })
        };
        if self.chunk_lens.is_empty() || self.chunk_lens.len() > MAX_CHUNK_LENS {
            return bad("--chunk-len", format!("{} lengths", self.chunk_lens.len()), "use 1 … 16 lengths");
        }
        if let Some(len) = self.chunk_lens.iter().find(|len| !(1..=MAX_CHUNK_LEN).contains(*len)) {
            return bad("--chunk-len", len.to_string(), "use 1 … 8192");
        }
        if self.npu_deadline.is_zero() {
            return bad("npu_deadline", "0".to_owned(), "use a time that a static graph can keep");
        }
        if self.threads > MAX_THREADS {
            return bad("--threads", self.threads.to_string(), "use 0 (one per core) … 256");
        }
        if let ScheduleChoice::Shadow { pruning_rate } = self.schedule
            && !(0.0..=1.0).contains(&pruning_rate)
        {
            return bad("--prune", pruning_rate.to_string(), "use a share 0 … 1");
        }
        Ok(())
    }

    /// The chunk lengths, ascending, each once.
    #[must_use]
    pub fn ladder(&self) -> Vec<usize> {
        let mut lens = self.chunk_lens.clone();
        lens.sort_unstable();
        lens.dedup();
        lens
    }

    /// Starts the CPU workers.
    ///
    /// # Errors
    /// When a core that was asked for is not there.
    pub fn pool(&self) -> Result<coexec_cpu::Pool, RuntimeError> {
        let cores = self.cores.resolve()?;
        Ok(coexec_cpu::Pool::on_cores(self.worker_threads(), cores.as_deref()))
    }

    /// CPU workers to start.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        let cores = || self.cores.resolve().ok().flatten().map(|cores| cores.len());
        match self.threads {
            0 => cores().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
            threads => threads,
        }
    }
}
