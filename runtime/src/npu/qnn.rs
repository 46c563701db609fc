//! Qualcomm's NPU as a backend: compiled contexts from a directory or a cache, loaded lazily.

use super::{
    NpuBackend, NpuProcess, OpenNpu, WeightFit,
    lazy::{LazyContext, Shared, load_ahead},
    process::OpenQnn,
    weight_fit,
};
use crate::{
    EngineOptions, Model, RuntimeError,
    cache::{self, Cache, InUse, Wanted},
    compile::{COMPILED_FILE, CompileEvent, CompileOptions, CompileProgress, CompiledModel, Compiler, compile_into},
};
use coexec_model::{Calibration, LinearKind, Treatment};
use coexec_npu::{
    ContextSpec, DeviceProfile, NpuError, Placement,
    decoder::Activation,
    qnn::{PerformancePolicy, QnnOptions, Target},
};
use coexec_scheduler::CancelToken;
use parking_lot::Mutex;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Chip that the emulation compiles for when none is named.
pub const DEFAULT_CHIP: &str = "sm8650";

/// What an engine can choose about Qualcomm's NPU.
#[derive(Clone, Debug, Default)]
pub struct QnnChoice {
    /// Folder of Qualcomm's libraries; `None` searches.
    pub library_dir: Option<PathBuf>,
    /// A compiled model (`coexec compile`); `None` compiles on first use into the cache.
    pub compiled_dir: Option<PathBuf>,
    /// Directory of the cache; `None` is [`cache::default_dir`].
    pub cache_dir: Option<PathBuf>,
    /// Most bytes that the cache keeps; `None` is [`cache::DEFAULT_LIMIT_BYTES`].
    pub cache_limit_bytes: Option<u64>,
    /// Where compile jobs run.
    pub compiler: Compiler,
    /// Who is told while graphs are compiled.
    pub progress: CompileProgress,
    /// Clocks and sleep of the NPU.
    pub performance: PerformancePolicy,
    /// Which process runs graphs.
    pub process: NpuProcess,
}

/// Qualcomm's NPU.
pub struct QnnBackend {
    choice: QnnChoice,
    options: QnnOptions,
    profile: DeviceProfile,
    /// The device for the next [`NpuBackend::open`]; after a failure a fresh one is made.
    device: Mutex<Option<OpenQnn>>,
}

impl std::fmt::Debug for QnnBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QnnBackend").field("device", &self.profile.device).finish_non_exhaustive()
    }
}

impl QnnBackend {
    /// Loads Qualcomm's library and opens the device.
    ///
    /// # Errors
    /// No library, one of another version, a chip that it does not know, an NPU that this process may not use.
    pub fn new(options: &EngineOptions) -> Result<Self, RuntimeError> {
        let choice = options.qnn.clone();
        let mut qnn = QnnOptions::chip(&options.npu_profile);
        qnn.lib_dir.clone_from(&choice.library_dir);
        qnn.performance = choice.performance;
        qnn.profiling = true;
        let device = choice.process.open(&qnn)?;
        let profile = device.profile().clone();
        Ok(Self { choice, options: qnn, profile, device: Mutex::new(Some(device)) })
    }

    fn device(&self) -> Result<OpenQnn, RuntimeError> {
        match self.device.lock().take() {
            Some(device) => Ok(device),
            None => Ok(self.choice.process.open(&self.options)?),
        }
    }

    /// The compiled model that was named, checked against what a prompt of this engine needs.
    fn named(
        &self,
        dir: &Path,
        device: &OpenQnn,
        model: &Model,
        chunk_lens: &[usize],
    ) -> Result<CompiledModel, RuntimeError> {
        let compiled = CompiledModel::read(dir)?;
        let refuse = |reason: String| Err(RuntimeError::Compiled { path: dir.to_owned(), reason });
        let o = &compiled.options;
        if o.placement != Placement::Split || o.activation == Activation::F16 || o.layers.is_some() {
            return refuse(format!(
                "holds {} graphs in {:?} of {}; prompts run on split graphs in u8 or u16 of all layers (others are for \
                 `coexec selftest`)",
                o.placement.name(),
                o.activation,
                o.layers.as_ref().map_or_else(|| "all layers".to_owned(), |l| format!("layers {}..{}", l.start, l.end)),
            ));
        }
        compiled.loads_on(device.target, dir)?;
        compiled.check(dir, model, &self.profile, &device.build_id)?;
        if let WeightFit::Coarse(why) = weight_fit(model, o.weights_of(model)) {
            return refuse(format!("was compiled with --npu-weights {}: {why}", o.weights_of(model).name()));
        }
        let (theirs, ours) = (o.schedule_of(model), model.calibration().map(Calibration::schedule));
        if let (Some(theirs), Some(ours)) = (theirs, ours)
            && let Some((layer, kind, theirs, ours)) = first_other(&theirs, &ours)
        {
            return refuse(format!(
                "runs {kind} of layer {layer} in {theirs}, this engine in {ours}; leave --activations and --prune out to run it as \
                 it was compiled, or leave --npu-dir out so that graphs are made"
            ));
        }
        if let Some(missing) = chunk_lens.iter().find(|c| !o.chunk_lens.contains(c)) {
            let has = &o.chunk_lens;
            return refuse(format!(
                "has graphs for chunk lengths {has:?}, not for {missing}; use --chunk-len with these"
            ));
        }
        Ok(compiled)
    }

    /// The cache's compiled model, compiled now when it is not there or not right.
    fn cached(
        &self,
        device: &OpenQnn,
        model: &Model,
        chunk_lens: &[usize],
        cancel: &CancelToken,
    ) -> Result<(InUse, CompiledModel), RuntimeError> {
        let library = &device.build_id;
        let options = CompileOptions {
            chip: self.options.chip.clone(),
            chunk_lens: chunk_lens.to_vec(),
            share_weights: device.target == Target::Device,
            record: false,
            schedule: model.own_schedule(),
            ..CompileOptions::default()
        };
        let dir = self.choice.cache_dir.clone().or_else(cache::default_dir).ok_or_else(|| RuntimeError::Option {
            option: "COEXEC_CACHE_DIR",
            value: String::new(),
            reason: "name a directory for compiled models: there is no home directory".to_owned(),
        })?;
        let cache = Cache::new(dir, self.choice.cache_limit_bytes.unwrap_or(cache::DEFAULT_LIMIT_BYTES));
        let hash = model.hash_hex();
        let key = format!("{hash}-{}-{}", self.profile.name, options.key(&hash, library));
        let chunks = chunk_lens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let label = format!(
            "{}, graphs for {}, chunk lengths {chunks}, QNN {library}",
            model.file().label(),
            self.profile.name
        );
        let progress = &self.choice.progress;
        let found = cache.get_or_make(
            Wanted { kind: cache::NPU, key: &key, label: &label },
            cancel,
            &mut |pid| progress.tell(&CompileEvent::Waiting { pid }),
            &mut |dir| {
                // The index is taken away from an entry that turned out to be wrong: see `stale`.
                if !dir.join(COMPILED_FILE).exists() {
                    return Ok(None);
                }
                let found = CompiledModel::read(dir)?;
                found.check(dir, model, &self.profile, library).map(|()| Some(found))
            },
            &mut |dir| {
                let library_dir = self.choice.library_dir.as_deref();
                let started = Instant::now();
                let tell = &mut |event: &CompileEvent<'_>| progress.tell(event);
                compile_into(model, &options, library_dir, dir, &self.choice.compiler, cancel, tell)?;
                tracing::info!(seconds = started.elapsed().as_secs_f64(), "static graphs compiled");
                Ok(())
            },
        )?;
        tracing::info!(dir = %found.0.path().display(), "compiled model from the cache");
        Ok(found)
    }
}

/// The first linear that two schedules run in different ways.
fn first_other(
    theirs: &[[Treatment; 4]],
    ours: &[[Treatment; 4]],
) -> Option<(usize, LinearKind, Treatment, Treatment)> {
    let layers = theirs.iter().zip(ours).enumerate();
    layers
        .flat_map(|(l, (a, b))| LinearKind::ALL.map(|kind| (l, kind, a[kind.index()], b[kind.index()])))
        .find(|(_, _, a, b)| a != b)
}

impl NpuBackend for QnnBackend {
    fn name(&self) -> &'static str {
        "qnn"
    }

    fn is_real(&self) -> bool {
        true
    }

    fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    fn open(&self, model: &Model, chunk_lens: &[usize], cancel: &CancelToken) -> Result<OpenNpu, RuntimeError> {
        let opened = self.device()?;
        let (dir, in_use, compiled) = match &self.choice.compiled_dir {
            Some(dir) => (dir.clone(), None, self.named(dir, &opened, model, chunk_lens)?),
            None => {
                let (in_use, compiled) = self.cached(&opened, model, chunk_lens, cancel)?;
                (in_use.path().to_owned(), Some(Arc::new(in_use)), compiled)
            }
        };
        let OpenQnn { device, target, .. } = opened;
        let mut contexts = Vec::new();
        let mut needed_bytes = 0u64;
        for context in &compiled.contexts {
            // With one context per chunk length, only those that are asked for.
            let used = |spec: &ContextSpec| {
                spec.graphs.iter().filter_map(|g| g.inputs.first()).any(|x| chunk_lens.contains(&x.rows()))
            };
            if used(&context.manifest.spec) {
                needed_bytes = needed_bytes.saturating_add(context.manifest.blob_bytes);
                let (from, compiled, device) = (dir.clone(), context.clone(), Arc::clone(&device));
                let (cached, in_use) = (in_use.is_some().then(|| dir.join(COMPILED_FILE)), in_use.clone());
                let load = move || {
                    // As long as a context can be loaded from it, the cache keeps it.
                    let _held = &in_use;
                    let loaded = compiled.read_binary(&from).and_then(|bytes| device.load(&bytes, &compiled.manifest));
                    loaded.map_err(|error| match &cached {
                        Some(index)
                            if matches!(
                                error,
                                NpuError::Manifest { .. } | NpuError::Graph { .. } | NpuError::Blob { .. }
                            ) =>
                        {
                            stale(index, &compiled.manifest.device, &error)
                        }
                        _ => error,
                    })
                };
                contexts.push(Arc::new(LazyContext::new(context.manifest.spec.clone(), load)));
            }
        }
        // A phone's NPU maps all of them into one address space; the emulation has this machine's memory.
        let limit_bytes = self.profile.max_device_bytes;
        if target == Target::Device && needed_bytes > limit_bytes {
            let (device, context) = (self.profile.device.clone(), dir.display().to_string());
            return Err(NpuError::ContextTooLarge { device, context, needed_bytes, limit_bytes }.into());
        }
        let ahead = load_ahead(&contexts);
        let contexts = contexts.into_iter().map(|c| Box::new(Shared(c, Arc::clone(&ahead))) as _).collect();
        Ok(OpenNpu { contexts, device })
    }
}

/// A cached binary that is not what its index says: without the index, the retry that follows a lost device compiles again.
fn stale(index: &Path, device: &str, error: &NpuError) -> NpuError {
    // When it cannot be removed, the retry fails alike and the prompt ends elsewhere.
    let _ = fs::remove_file(index);
    NpuError::DeviceLost { device: device.to_owned(), reason: format!("a cached binary is not right: {error}") }
}
