//! An engine: one model opened for running, shared by its sessions.

use crate::{
    EngineOptions, Model, NpuChoice, RuntimeError, Session, calibrate,
    npu::{self, PreparedNpu},
    prefill::{Placement, PlanOptions, plan::StageCosts},
};
use coexec_cpu::{Kernels, Pool};
use coexec_model::packed::PackedFile;
use coexec_npu::DeviceProfile;
use parking_lot::Mutex;
use std::{path::Path, sync::Arc};

/// Chunks whose activations may be in memory at once.
const MAX_CHUNKS_IN_FLIGHT: usize = 8;

pub(crate) struct EngineInner {
    pub(crate) model: Model,
    pub(crate) options: EngineOptions,
    pub(crate) pool: Pool,
    pub(crate) kernels: &'static Kernels,
    pub(crate) placement: Placement,
    pub(crate) npu_reason: String,
    pub(crate) shadowed: Vec<[bool; 4]>,
    pub(crate) profile: DeviceProfile,
    /// Static graphs, prepared at the first prefill.
    npu: Mutex<Option<Arc<PreparedNpu>>>,
}

/// A model opened for running. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<EngineInner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the packed file at `path`.
    ///
    /// # Errors
    /// When the file is missing or damaged, or an option cannot be.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, RuntimeError> {
        Self::new(PackedFile::open(path)?, options)
    }

    /// Opens a packed file that is already mapped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(file: PackedFile, options: EngineOptions) -> Result<Self, RuntimeError> {
        let span = tracing::info_span!("open");
        let _entered = span.enter();
        options.validate()?;
        let kernels = match &options.kernels {
            Some(name) => Kernels::named(name)?,
            None => Kernels::detect(),
        };
        let model = Model::load(Arc::new(file), options.memory_budget_bytes)?;
        let (placement, npu_reason) = choose_placement(options.npu, &model)?;
        let shadowed = match model.calibration() {
            Some(calibration) if options.shadow => {
                calibrate::shadow_mask(model.config(), calibration, options.pruning_rate)
            }
            _ => vec![[false; 4]; model.config().num_hidden_layers as usize],
        };
        tracing::info!(placement = placement.name(), reason = npu_reason, kernels = kernels.name(), "engine ready");
        let profile = npu::profile(&options.npu_profile)?;
        let pool = Pool::new(options.worker_threads());
        let inner = EngineInner {
            model,
            options,
            pool,
            kernels,
            placement,
            npu_reason,
            shadowed,
            profile,
            npu: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.inner.model
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// Where linears of a prefill run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.inner.placement
    }

    /// Name of the NPU, `none` without one.
    #[must_use]
    pub fn npu_device(&self) -> &'static str {
        match self.inner.placement {
            Placement::Split => npu::DEVICE_NAME,
            Placement::Cpu => "none",
        }
    }

    /// Why that NPU was chosen.
    #[must_use]
    pub fn npu_reason(&self) -> &str {
        &self.inner.npu_reason
    }

    /// Name of the CPU kernels in use.
    #[must_use]
    pub fn kernels(&self) -> &'static str {
        self.inner.kernels.name()
    }

    /// A new, empty session.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// What a prefill plan of this engine is made with.
    #[must_use]
    pub fn plan_options(&self, all_logits: bool) -> PlanOptions {
        PlanOptions {
            placement: self.inner.placement,
            chunk_len: self.inner.options.chunk_len,
            shadowed: self.inner.shadowed.clone(),
            all_logits,
            cpu_workers: self.inner.pool.threads(),
            max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT,
            costs: StageCosts::phone(self.inner.profile.clone()),
        }
    }

    /// The static graphs, prepared at first use; `None` without an NPU.
    ///
    /// # Errors
    /// When the device refuses them.
    pub fn prepare_npu(&self) -> Result<Option<Arc<PreparedNpu>>, RuntimeError> {
        if self.inner.placement == Placement::Cpu {
            return Ok(None);
        }
        let mut npu = self.inner.npu.lock();
        if npu.is_none() {
            *npu = Some(Arc::new(PreparedNpu::prepare(
                &self.inner.model,
                &self.inner.options.npu_profile,
                self.inner.options.chunk_len,
            )?));
        }
        Ok(npu.clone())
    }
}

fn choose_placement(choice: NpuChoice, model: &Model) -> Result<(Placement, String), RuntimeError> {
    let calibrated = model.calibration().is_some();
    match choice {
        NpuChoice::None => Ok((Placement::Cpu, "asked for".to_owned())),
        NpuChoice::Sim if !calibrated => Err(RuntimeError::NotCalibrated),
        NpuChoice::Sim => Ok((Placement::Split, "asked for".to_owned())),
        NpuChoice::Auto if calibrated => {
            Ok((Placement::Split, "auto: no NPU on this machine, the model is calibrated: simulated".to_owned()))
        }
        NpuChoice::Auto => Ok((Placement::Cpu, "auto: the model has no calibration, so no static graphs".to_owned())),
    }
}
