//! Qualcomm's NPU as an [`NpuDevice`].

use super::{
    PerformancePolicy, QnnContext, QnnOptions, Target, lower, matching,
    raw::{
        Backend, BinaryInfo, ContextOptions, FinalizeReport, GraphOptions, PowerVote, RawContext, RawDevice, RawGraph,
        RpcMem, SpillFill,
    },
};
use crate::{
    ContextSpec, DeviceProfile, Manifest, NpuBuffer, NpuContext, NpuDevice, NpuError, WeightSource,
    manifest::QnnVersions,
};
use parking_lot::Mutex;
use qnn_sys::{HtpLibrary, SystemLibrary, find};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// Qualcomm's NPU, or its emulation on x86-64.
///
/// On Android call [`prepare_environment`](super::prepare_environment) at the start of the process, so that the DSP finds
/// its side of the library.
#[derive(Debug)]
pub struct QnnDevice {
    shared: Arc<DeviceState>,
}

/// Versions and places of Qualcomm's libraries.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LibraryInfo {
    /// The HTP library.
    pub path: PathBuf,
    /// The system library.
    pub system_path: PathBuf,
    /// Name of the provider.
    pub provider: String,
    /// Build.
    pub build_id: String,
    /// Version of the core API.
    pub core_api: String,
    /// Version of the HTP backend's API.
    pub backend_api: String,
    /// Version of the system library's API.
    pub system_api: String,
}

/// A place where the HTP library may be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LibraryPlace {
    /// File.
    pub path: PathBuf,
    /// Why it is looked at.
    pub origin: String,
    /// Whether it is a file.
    pub is_there: bool,
}

/// Every place where the HTP library is looked for, best first; a folder that is named is the only one.
#[must_use]
pub fn library_places(lib_dir: Option<&Path>) -> Vec<LibraryPlace> {
    let places = find::candidates("libQnnHtp.so", &find::Surroundings::here(lib_dir));
    let place =
        |c: find::Candidate| LibraryPlace { is_there: c.path.is_file(), origin: c.origin.to_string(), path: c.path };
    places.into_iter().map(place).collect()
}

/// What a device's contexts share.
#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) profile: DeviceProfile,
    pub(super) target: Target,
    options: QnnOptions,
    /// Held while the device or a context lives.
    _vote: Option<PowerVote>,
    performance_note: Option<String>,
    rpcmem: Option<Arc<RpcMem>>,
    /// First context of the group that shares a spill-fill buffer.
    spill_group: Mutex<Weak<RawContext>>,
    pub(super) raw: Arc<RawDevice>,
}

impl QnnDevice {
    /// Finds the libraries, opens them, and makes the device.
    ///
    /// # Errors
    /// Libraries that are not there or of unknown versions, a wrong option, the library's own errors.
    pub fn open(options: QnnOptions) -> Result<Self, NpuError> {
        options.profile(Target::here())?;
        let htp = HtpLibrary::search(options.lib_dir.as_deref())?;
        let system = SystemLibrary::search(options.lib_dir.as_deref())?;
        if cfg!(target_os = "android") && std::env::var_os("ADSP_LIBRARY_PATH").is_none() {
            tracing::warn!(target: "qnn", "ADSP_LIBRARY_PATH is not set; the DSP may not find its library");
        }
        Self::with_libraries(htp, system, options)
    }

    /// The same with libraries that are open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_libraries(htp: HtpLibrary, system: SystemLibrary, options: QnnOptions) -> Result<Self, NpuError> {
        let target = Target::here();
        let (profile, soc_id) = options.profile(target)?;
        let backend = Backend::create(htp, system, &profile.device, options.log_level as u32)?;
        let raw = RawDevice::create(&backend, soc_id)?;
        let (vote, performance_note) = match PowerVote::cast(&raw, options.performance) {
            Ok(vote) if target == Target::Device => (vote, None),
            Ok(vote) => {
                let note = "the emulation takes power votes but has no clocks";
                let voted = options.performance != PerformancePolicy::Default;
                (vote, voted.then(|| note.to_owned()))
            }
            Err(error) => {
                // Slower, not wrong: said, and left to the caller to judge.
                tracing::warn!(target: "qnn", "clocks stay as they are: {error}");
                (None, Some(format!("clocks stay as they are: {error}")))
            }
        };
        let rpcmem = if target == Target::Device { RpcMem::open() } else { None };
        let shared = DeviceState {
            profile: DeviceProfile {
                buffer_kind: if rpcmem.is_some() { crate::BufferKind::Shared } else { crate::BufferKind::Heap },
                ..profile
            },
            target,
            options,
            _vote: vote,
            performance_note,
            rpcmem,
            spill_group: Mutex::default(),
            raw,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What was loaded, and from where.
    #[must_use]
    pub fn library(&self) -> LibraryInfo {
        let backend = self.shared.raw.backend();
        let (htp, system) = (backend.htp(), backend.system());
        LibraryInfo {
            path: htp.path().to_owned(),
            system_path: system.info().path.clone(),
            provider: htp.provider_name().to_owned(),
            build_id: self.build_id(),
            core_api: htp.core_api_version().to_string(),
            backend_api: htp.backend_api_version().to_string(),
            system_api: system.info().api.to_string(),
        }
    }

    /// Build of the library, e.g. `v2.51.0.…`; empty when it does not tell.
    #[must_use]
    pub fn build_id(&self) -> String {
        self.shared.raw.backend().build_id().unwrap_or_default()
    }

    /// Where graphs run.
    #[must_use]
    pub fn target(&self) -> Target {
        self.shared.target
    }

    /// Why the performance policy has no effect, if it has none.
    #[must_use]
    pub fn performance_note(&self) -> Option<&str> {
        self.shared.performance_note.as_deref()
    }

    /// Compiles graphs in this process, one after the other. A crash of Qualcomm's compiler takes the process with it; who
    /// cannot afford that compiles in a child process and loads the binary.
    ///
    /// # Errors
    /// As [`NpuDevice::prepare`].
    pub fn compile(
        &self,
        spec: &ContextSpec,
        weights: &dyn WeightSource,
        want_estimate: bool,
    ) -> Result<QnnContext, NpuError> {
        let made = self.compile_watched(spec, weights, want_estimate, &mut || ControlFlow::Continue(()))?;
        made.ok_or_else(|| NpuError::Blob { reason: "compiling was stopped".to_owned() })
    }

    /// The same, calling `ready` after each graph, which may stop it; `None` when it did.
    ///
    /// # Errors
    /// As [`NpuDevice::prepare`].
    pub fn compile_watched(
        &self,
        spec: &ContextSpec,
        weights: &dyn WeightSource,
        want_estimate: bool,
        ready: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<QnnContext>, NpuError> {
        let shared = &self.shared;
        shared.profile.check(spec)?;
        let weight_sharing = shared.options.weight_sharing && spec.shares_weights();
        let options = self.context_options(spec, weight_sharing);
        let context = RawContext::create(&shared.raw, &options)?;
        let mut graphs = Vec::with_capacity(spec.graphs.len());
        let mut reports = Vec::with_capacity(spec.graphs.len());
        for graph_spec in &spec.graphs {
            let mut graph = RawGraph::create(&context, &graph_spec.name, &shared.graph_options())?;
            lower::build(&mut graph, graph_spec, weights)?;
            let report: FinalizeReport = graph.finalize(want_estimate)?;
            tracing::debug!(target: "qnn", "graph {} finalised in {} µs", report.graph, report.finalize_us);
            reports.push(report);
            graphs.push(graph);
            if ready().is_break() {
                return Ok(None);
            }
        }
        let versions = self.versions(weight_sharing);
        self.start(context, graphs, spec.clone(), versions, reports).map(Some)
    }

    /// Loads a context binary with its concrete type; see [`NpuDevice::load`].
    ///
    /// # Errors
    /// As [`NpuDevice::load`].
    pub fn load_context(&self, bytes: &[u8], manifest: &Manifest) -> Result<QnnContext, NpuError> {
        let shared = &self.shared;
        manifest.check_blob(bytes, &shared.profile)?;
        shared.profile.check(&manifest.spec)?;
        let backend = shared.raw.backend();
        let info = BinaryInfo::read(backend.system(), backend.name(), bytes)?;
        if self.shared.target == Target::Emulation && manifest.qnn.as_ref().is_some_and(|q| q.weight_sharing) {
            // QNN 2.51 answers 1000 after reading memory that it has freed (seen under valgrind), or crashes.
            let (wanted, found) = ("off (the emulation on x86-64 cannot load it)".to_owned(), "on".to_owned());
            return Err(NpuError::Manifest { field: "weight sharing", wanted, found });
        }
        let versions = matching::check_versions(manifest, &info, &self.versions(false))?;
        matching::check_graphs(&manifest.spec, &info)?;
        let options = self.context_options(&manifest.spec, false);
        let context = RawContext::from_binary(&shared.raw, bytes, info, &options)?;
        let names = manifest.spec.graphs.iter().map(|g| g.name.as_str());
        let graphs = names.map(|name| RawGraph::retrieve(&context, name)).collect::<Result<Vec<_>, _>>()?;
        self.start(context, graphs, manifest.spec.clone(), versions, Vec::new())
    }

    fn start(
        &self,
        context: Arc<RawContext>,
        mut graphs: Vec<RawGraph>,
        spec: ContextSpec,
        versions: QnnVersions,
        reports: Vec<FinalizeReport>,
    ) -> Result<QnnContext, NpuError> {
        if self.shared.options.spill_fill_bytes.is_some() {
            let mut group = self.shared.spill_group.lock();
            if group.strong_count() == 0 {
                *group = Arc::downgrade(&context);
            }
        }
        if self.shared.profile.timed {
            graphs.iter_mut().try_for_each(RawGraph::profile_executions)?;
        }
        QnnContext::start(&self.shared, context, graphs, spec, versions, reports)
    }

    fn context_options(&self, spec: &ContextSpec, weight_sharing: bool) -> ContextOptions {
        let spill_fill = self.shared.options.spill_fill_bytes.map(|bytes| {
            let first = self.shared.spill_group.lock().upgrade();
            SpillFill { first, bytes }
        });
        ContextOptions { name: spec.name.clone(), weight_sharing, spill_fill }
    }

    /// What a binary that this device writes is made by and for.
    fn versions(&self, weight_sharing: bool) -> QnnVersions {
        let backend = self.shared.raw.backend();
        let htp = backend.htp();
        let arch = self.shared.profile.arch.as_deref();
        QnnVersions {
            core_api: htp.core_api_version().to_string(),
            backend_api: htp.backend_api_version().to_string(),
            build_id: backend.build_id().unwrap_or_default(),
            soc_id: self.shared.raw.soc_id(),
            arch: arch.and_then(|a| a.strip_prefix('v')).and_then(|a| a.parse().ok()),
            weight_sharing,
        }
    }
}

impl DeviceState {
    fn graph_options(&self) -> GraphOptions {
        GraphOptions {
            vtcm_mb: self.options.vtcm_mb,
            hvx_threads: self.options.hvx_threads,
            optimization_level: self.options.optimization_level,
        }
    }
}

impl NpuDevice for QnnDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.shared.profile
    }

    fn prepare(&self, spec: &ContextSpec, weights: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError> {
        Ok(Box::new(self.compile(spec, weights, false)?))
    }

    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError> {
        Ok(Box::new(self.load_context(bytes, manifest)?))
    }

    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError> {
        let limit_bytes = self.shared.profile.max_buffer_bytes;
        if len_bytes > limit_bytes {
            let device = self.shared.profile.device.clone();
            return Err(NpuError::BufferTooLarge { device, len_bytes, limit_bytes });
        }
        let memory = self.shared.rpcmem.as_ref().and_then(|rpcmem| rpcmem.allocate(len_bytes));
        Ok(match memory {
            Some(memory) => NpuBuffer::new(Box::new(memory)),
            None => NpuBuffer::heap(len_bytes)?,
        })
    }
}
