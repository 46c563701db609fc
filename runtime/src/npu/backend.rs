//! A kind of NPU, and which ones an engine uses.

use super::{QnnBackend, SimBackend, marker};
use crate::{EngineOptions, Model, NpuChoice, RuntimeError, error::chain};
use coexec_cpu::Pool;
use coexec_npu::{DeviceProfile, NpuContext, NpuDevice, qnn::Target};
use coexec_scheduler::CancelToken;
use std::sync::Arc;

/// A kind of NPU that an engine can run prefill on.
///
/// An implementation must survive failures of its device: after one, everything that [`Self::open`] returned is dropped and
/// `open` is called again, which must then not reuse what was lost.
pub trait NpuBackend: Send + Sync {
    /// Short name in stats and messages: `sim`, `qnn`.
    fn name(&self) -> &'static str;

    /// Whether this is a chip, whose driver can take the process down, and not a simulation.
    fn is_real(&self) -> bool;

    /// What the device can do.
    fn profile(&self) -> &DeviceProfile;

    /// Opens the device and makes the static graphs of `model` for `chunk_lens` (ascending, without repetition), named by
    /// [`coexec_npu::graph_name`]. They may be spread over contexts in any way. What takes long looks at `cancel`.
    ///
    /// # Errors
    /// [`RuntimeError::NotCalibrated`]; whatever the device refuses; [`RuntimeError::Cancelled`].
    fn open(&self, model: &Model, chunk_lens: &[usize], cancel: &CancelToken) -> Result<OpenNpu, RuntimeError>;
}

/// What computes the NPU's part of a prefill, and so whose speed is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NpuKind {
    /// There is none: all is computed on the CPU.
    #[default]
    None,
    /// A chip.
    Chip,
    /// Qualcomm's library on this machine's CPU: its numbers are a chip's, its speed is not.
    Emulated,
    /// Our simulation on this machine's CPU: its numbers are a chip's, its speed is not.
    Simulated,
}

impl NpuKind {
    /// The kind of a backend on this machine.
    #[must_use]
    pub fn of(backend: Option<&dyn NpuBackend>) -> Self {
        match backend {
            None => Self::None,
            Some(backend) if !backend.is_real() => Self::Simulated,
            Some(_) if Target::here() == Target::Emulation => Self::Emulated,
            Some(_) => Self::Chip,
        }
    }

    /// What it is called: `simulated NPU`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "CPU",
            Self::Chip => "NPU",
            Self::Emulated => "emulated NPU",
            Self::Simulated => "simulated NPU",
        }
    }

    /// Whether speeds measured with it say nothing about a phone's.
    #[must_use]
    pub fn is_imitation(self) -> bool {
        matches!(self, Self::Emulated | Self::Simulated)
    }
}

/// An open NPU.
pub struct OpenNpu {
    /// The graphs: all in one, or shards by layers, or one per chunk length.
    pub contexts: Vec<Box<dyn NpuContext>>,
    /// The device that buffers come from.
    pub device: Arc<dyn NpuDevice>,
}

impl std::fmt::Debug for OpenNpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = &self.device.profile().device;
        f.debug_struct("OpenNpu").field("device", device).field("contexts", &self.contexts.len()).finish()
    }
}

/// The NPUs of an engine and why it has them.
pub struct Chosen {
    /// Best first. After the last one comes the CPU.
    pub backends: Vec<Arc<dyn NpuBackend>>,
    /// Why the first.
    pub reason: String,
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.backends.iter().map(|b| b.name()).collect();
        f.debug_struct("Chosen").field("backends", &names).field("reason", &self.reason).finish()
    }
}

/// A given NPU, then the simulated one when that one is real.
///
/// # Errors
/// [`RuntimeError::NotCalibrated`] for a model without calibration.
pub(crate) fn given(
    model: &Model,
    options: &EngineOptions,
    backend: Arc<dyn NpuBackend>,
    pool: &Arc<Pool>,
) -> Result<Chosen, RuntimeError> {
    if model.calibration().is_none() {
        return Err(RuntimeError::NotCalibrated);
    }
    let mut backends = vec![Arc::clone(&backend)];
    if backend.is_real() && options.npu != NpuChoice::Real {
        backends.push(Arc::new(SimBackend::new(options, Arc::clone(pool))?));
    }
    Ok(Chosen { backends, reason: "given by the caller".to_owned() })
}

/// Picks the NPUs for a model; `pool` computes what is simulated.
///
/// # Errors
/// When the one asked for cannot be used.
pub fn choose(model: &Model, options: &EngineOptions, pool: &Arc<Pool>) -> Result<Chosen, RuntimeError> {
    let chosen = |backends, reason: &str| Ok(Chosen { backends, reason: reason.to_owned() });
    let sim = || {
        let backend = SimBackend::new(options, Arc::clone(pool))?;
        Ok::<_, RuntimeError>(vec![Arc::new(backend) as Arc<dyn NpuBackend>])
    };
    let real_then_sim = || {
        let mut backends = vec![Arc::new(QnnBackend::new(options)?) as Arc<dyn NpuBackend>];
        backends.extend(sim()?);
        Ok::<_, RuntimeError>(backends)
    };
    let calibrated = model.calibration().is_some();
    let crashed = options.state_dir.as_deref().and_then(|dir| marker::crash_report(dir, "qnn"));
    match options.npu {
        NpuChoice::None => chosen(Vec::new(), "asked for"),
        NpuChoice::Sim | NpuChoice::Qnn if !calibrated => Err(RuntimeError::NotCalibrated),
        NpuChoice::Sim => chosen(sim()?, "asked for"),
        NpuChoice::Qnn => chosen(real_then_sim()?, "asked for"),
        NpuChoice::Real if !calibrated => {
            chosen(Vec::new(), "real: the model has no calibration, so no static graphs: CPU")
        }
        NpuChoice::Real if Target::here() == Target::Emulation => {
            chosen(Vec::new(), "real: no NPU on this machine: CPU")
        }
        NpuChoice::Real if crashed.is_some() => {
            chosen(Vec::new(), &format!("real: qnn is left out: {}; CPU", crashed.unwrap_or_default()))
        }
        NpuChoice::Real => match QnnBackend::new(options) {
            Ok(backend) => chosen(vec![Arc::new(backend)], "real: the NPU of this machine"),
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(error = why, "the NPU cannot be used");
                chosen(Vec::new(), &format!("real: the NPU of this machine cannot be used ({why}): CPU"))
            }
        },
        // The emulation is Qualcomm's library too, but slower than our own simulation, and gives the same numbers.
        NpuChoice::Auto if calibrated && Target::here() == Target::Emulation => {
            chosen(sim()?, "auto: no NPU on this machine, the model is calibrated: simulated")
        }
        // Opening it may be what took the process down: the marker is asked first.
        NpuChoice::Auto if calibrated && crashed.is_some() => {
            chosen(sim()?, &format!("auto: qnn is left out: {}; simulated", crashed.unwrap_or_default()))
        }
        NpuChoice::Auto if calibrated => match real_then_sim() {
            Ok(backends) => chosen(backends, "auto: the NPU of this machine"),
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(error = why, "the NPU cannot be used");
                chosen(sim()?, &format!("auto: the NPU of this machine cannot be used ({why}): simulated"))
            }
        },
        NpuChoice::Auto => chosen(Vec::new(), "auto: the model has no calibration, so no static graphs"),
    }
}
