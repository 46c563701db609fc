//! An engine: one model opened for running, shared by its sessions.

use crate::{
    EngineOptions, Model, RuntimeError, Session,
    npu::{
        self, NpuBackend, NpuKind,
        failover::{Npus, Trouble},
    },
    prefill::{MAX_CHUNKS_IN_FLIGHT, Placement, PlanOptions, plan::StageCosts},
};
use coexec_cpu::{Kernels, Pool};
use coexec_model::packed::PackedFile;
use coexec_npu::DeviceProfile;
use coexec_scheduler::CancelToken;
use std::{path::Path, sync::Arc};

pub(crate) struct EngineInner {
    pub(crate) model: Model,
    pub(crate) options: EngineOptions,
    pub(crate) pool: Arc<Pool>,
    pub(crate) kernels: &'static Kernels,
    /// Whose times are taken where no NPU is used.
    profile: DeviceProfile,
    pub(crate) npus: Npus,
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
        Self::of(Arc::new(file), options, None)
    }

    /// Opens a packed file for prefill on a given NPU. `options.npu` says no more than what happens when it cannot be
    /// opened: with [`crate::NpuChoice::Auto`] the engine goes on without it, otherwise that is an error. After a real NPU comes
    /// the simulated one, then the CPU.
    ///
    /// # Errors
    /// As [`Self::open`]; [`RuntimeError::NotCalibrated`] for a model without calibration.
    pub fn with_backend(
        file: PackedFile,
        options: EngineOptions,
        backend: Arc<dyn NpuBackend>,
    ) -> Result<Self, RuntimeError> {
        Self::of(Arc::new(file), options, Some(backend))
    }

    /// The same with a file that others have too, on a given NPU or one that is chosen.
    pub(crate) fn of(
        file: Arc<PackedFile>,
        options: EngineOptions,
        backend: Option<Arc<dyn NpuBackend>>,
    ) -> Result<Self, RuntimeError> {
        let span = tracing::info_span!("open");
        let _entered = span.enter();
        options.validate()?;
        let kernels = match &options.kernels {
            Some(name) => Kernels::named(name)?,
            None => Kernels::detect(),
        };
        let model = Model::load_until(file, options.memory_budget_bytes, &options.schedule, &options.cancel)?;
        let pool = Arc::new(options.pool()?);
        let chosen = match backend {
            Some(backend) => npu::backend::given(&model, &options, backend, &pool)?,
            None => npu::backend::choose(&model, &options, &pool)?,
        };
        let npus = Npus::new(chosen, &options);
        let npu = npus.backend().map_or("none", |b| b.name());
        tracing::info!(npu, reason = npus.reason(), kernels = kernels.name(), "engine ready");
        let profile = npu::profile(&options.npu_profile)?;
        let inner = EngineInner { model, options, pool, kernels, profile, npus };
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

    /// Where linears of the next prefill run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        if self.inner.npus.backend().is_some() { Placement::Split } else { Placement::Cpu }
    }

    /// Name of the NPU in use, `none` without one. It changes when an NPU is given up.
    #[must_use]
    pub fn npu_device(&self) -> &'static str {
        self.inner.npus.backend().map_or("none", |b| b.name())
    }

    /// What computes the NPU's part of a prefill: whether speeds are a chip's.
    #[must_use]
    pub fn npu_kind(&self) -> NpuKind {
        NpuKind::of(self.inner.npus.backend().map(|b| &**b))
    }

    /// Why that NPU is used, or which failure made the engine give one up.
    #[must_use]
    pub fn npu_reason(&self) -> String {
        self.inner.npus.reason()
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

    /// What the next prefill plan of this engine is made with.
    #[must_use]
    pub fn plan_options(&self, all_logits: bool) -> PlanOptions {
        self.plan_options_on(self.inner.npus.backend().map(|b| b.profile()), all_logits)
    }

    /// The same for an NPU, or the CPU.
    pub(crate) fn plan_options_on(&self, npu: Option<&DeviceProfile>, all_logits: bool) -> PlanOptions {
        let model = self.model();
        let schedule = model.calibration().map(coexec_model::Calibration::schedule).unwrap_or_default();
        let shares = |c| crate::schedule::shadow_shares(model.config(), c, &schedule);
        PlanOptions {
            placement: if npu.is_some() { Placement::Split } else { Placement::Cpu },
            chunk_lens: self.inner.options.ladder(),
            shadow_shares: model.calibration().map(shares).unwrap_or_default(),
            schedule,
            all_logits,
            cpu_workers: self.inner.pool.threads(),
            max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT,
            costs: StageCosts::phone(npu.unwrap_or(&self.inner.profile).clone()),
        }
    }

    /// Opens the NPU and makes the static graphs now, which the first prefill would do otherwise; does nothing when they are
    /// there or on the CPU.
    ///
    /// # Errors
    /// When the NPU that was asked for by name refuses them; [`RuntimeError::Cancelled`].
    pub fn prepare_npu(&self, cancel: &CancelToken) -> Result<(), RuntimeError> {
        let mut trouble = Trouble::default();
        let lease = self.inner.npus.lease(&self.inner.model, &self.inner.options, cancel, &mut trouble)?;
        self.inner.npus.tell_later(&lease, &trouble);
        Ok(())
    }

    /// Bytes that static graphs hold now: 0 before the first prefill and on the CPU.
    #[must_use]
    pub fn npu_memory_bytes(&self) -> u64 {
        self.inner.npus.memory_bytes()
    }
}
