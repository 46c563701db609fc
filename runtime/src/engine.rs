//! An engine: one model opened for running, shared by its sessions.

use crate::{
    EngineOptions, Model, RuntimeError, Session, calibrate,
    npu::{self, NpuBackend, PreparedNpu},
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
    pub(crate) npu_reason: String,
    backend: Option<Arc<dyn NpuBackend>>,
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
        let npu::Chosen { backends, reason: npu_reason } = npu::backend::choose(&model, &options)?;
        let backend = backends.into_iter().next();
        let shadowed = match model.calibration() {
            Some(calibration) if options.shadow => {
                calibrate::shadow_mask(model.config(), calibration, options.pruning_rate)
            }
            _ => vec![[false; 4]; model.config().num_hidden_layers as usize],
        };
        let npu = backend.as_ref().map_or("none", |b| b.name());
        tracing::info!(npu, reason = npu_reason, kernels = kernels.name(), "engine ready");
        let profile = npu::profile(&options.npu_profile)?;
        let pool = Pool::new(options.worker_threads());
        let inner = EngineInner {
            model,
            options,
            pool,
            kernels,
            npu_reason,
            backend,
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
        if self.inner.backend.is_some() { Placement::Split } else { Placement::Cpu }
    }

    /// Name of the NPU, `none` without one.
    #[must_use]
    pub fn npu_device(&self) -> &'static str {
        self.inner.backend.as_ref().map_or("none", |b| b.name())
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
            placement: self.placement(),
            chunk_lens: self.inner.options.ladder(),
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
        let Some(backend) = &self.inner.backend else { return Ok(None) };
        let mut npu = self.inner.npu.lock();
        if npu.is_none() {
            let options = &self.inner.options;
            let prepared =
                PreparedNpu::open(backend.as_ref(), &self.inner.model, &options.ladder(), options.npu_deadline)?;
            *npu = Some(Arc::new(prepared));
        }
        Ok(npu.clone())
    }
}
