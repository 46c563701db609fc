//! Qualcomm's NPU as a backend: compiled contexts from a directory or a cache, loaded lazily.

use super::{
    NpuBackend, NpuProcess, OpenNpu,
    lazy::{LazyContext, Shared, load_ahead},
    process::OpenQnn,
};
use crate::{
    EngineOptions, Model, RuntimeError,
    compile::{COMPILED_FILE, CompileOptions, CompiledModel, Compiler, compile},
};
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
    /// Directory of the cache; `None` is [`cache_dir`].
    pub cache_dir: Option<PathBuf>,
    /// Where compile jobs run.
    pub compiler: Compiler,
    /// Clocks and sleep of the NPU.
    pub performance: PerformancePolicy,
    /// Which process runs graphs.
    pub process: NpuProcess,
}

/// `COEXEC_CACHE_DIR`, else `XDG_CACHE_HOME/coexec`, else `~/.cache/coexec`.
#[must_use]
pub fn cache_dir() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    dir("COEXEC_CACHE_DIR")
        .or_else(|| dir("XDG_CACHE_HOME").map(|d| d.join("coexec")))
        .or_else(|| dir("HOME").map(|d| d.join(".cache/coexec")))
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

    /// The compiled model to use: the one that was named, or the cache's, compiled now when it is not there or not right.
    fn compiled(
        &self,
        device: &OpenQnn,
        model: &Model,
        chunk_lens: &[usize],
    ) -> Result<(PathBuf, CompiledModel), RuntimeError> {
        let library = &device.build_id;
        if let Some(dir) = &self.choice.compiled_dir {
            let compiled = CompiledModel::read(dir)?;
            compiled.check(dir, model, &self.profile, library)?;
            let o = &compiled.options;
            if (o.placement, o.activation, &o.layers) != (Placement::Split, Activation::U8, &None) {
                let reason = format!(
                    "holds {} graphs in {:?} of {}; prompts run on split graphs in u8 of all layers (others are for `selftest`)",
                    o.placement.name(),
                    o.activation,
                    o.layers
                        .as_ref()
                        .map_or_else(|| "all layers".to_owned(), |l| format!("layers {}..{}", l.start, l.end)),
                );
                return Err(RuntimeError::Compiled { path: dir.clone(), reason });
            }
            if o.schedule != model.own_schedule() {
                let reason = "was made for another schedule of u8, shadow and u16; leave --activations and --prune out, \
                    or leave --npu-dir out so that graphs are made";
                return Err(RuntimeError::Compiled { path: dir.clone(), reason: reason.to_owned() });
            }
            let missing = chunk_lens.iter().find(|c| !compiled.options.chunk_lens.contains(c));
            if let Some(missing) = missing {
                let has = &compiled.options.chunk_lens;
                let reason =
                    format!("has graphs for chunk lengths {has:?}, not for {missing}; use --chunk-len with these");
                return Err(RuntimeError::Compiled { path: dir.clone(), reason });
            }
            return Ok((dir.clone(), compiled));
        }
        let options = CompileOptions {
            chip: self.options.chip.clone(),
            chunk_lens: chunk_lens.to_vec(),
            share_weights: device.target == Target::Device,
            record: false,
            schedule: model.own_schedule(),
            ..CompileOptions::default()
        };
        let cache = self.choice.cache_dir.clone().or_else(cache_dir).ok_or_else(|| RuntimeError::Option {
            option: "COEXEC_CACHE_DIR",
            value: String::new(),
            reason: "name a directory for compiled models: there is no home directory".to_owned(),
        })?;
        let key = options.key(&model.hash_hex(), library);
        let dir = cache.join("npu").join(format!("{}-{}-{key}", model.hash_hex(), self.profile.name));
        match CompiledModel::read(&dir)
            .and_then(|found| found.check(&dir, model, &self.profile, library).map(|()| found))
        {
            Ok(found) => {
                tracing::info!(dir = %dir.display(), "compiled model from the cache");
                return Ok((dir, found));
            }
            Err(error) if dir.exists() => {
                tracing::warn!(%error, "the cached compiled model is not used; compiling again")
            }
            Err(_) => tracing::info!(chip = self.profile.name, "compiling static graphs (first use)"),
        }
        let started = Instant::now();
        fs::create_dir_all(&dir)
            .map_err(|e| RuntimeError::Compiled { path: dir.clone(), reason: format!("cannot be made: {e}") })?;
        let library_dir = self.choice.library_dir.as_deref();
        let made =
            compile(model, &options, library_dir, &dir, &self.choice.compiler, &CancelToken::new(), &mut |_| {})?;
        tracing::info!(seconds = started.elapsed().as_secs_f64(), dir = %dir.display(), "static graphs compiled");
        Ok((dir, made))
    }
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

    fn open(&self, model: &Model, chunk_lens: &[usize]) -> Result<OpenNpu, RuntimeError> {
        let opened = self.device()?;
        let (dir, compiled) = self.compiled(&opened, model, chunk_lens)?;
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
                let (path, manifest, device) = (dir.join(&context.file), context.manifest.clone(), Arc::clone(&device));
                let cached = self.choice.compiled_dir.is_none().then(|| dir.join(COMPILED_FILE));
                let load = move || {
                    let loaded = read_binary(&path).and_then(|bytes| device.load(&bytes, &manifest));
                    loaded.map_err(|error| match &cached {
                        Some(index) if matches!(error, NpuError::Manifest { .. } | NpuError::Blob { .. }) => {
                            stale(index, &manifest.device, &error)
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

fn read_binary(path: &Path) -> Result<Vec<u8>, NpuError> {
    fs::read(path).map_err(|e| NpuError::Blob { reason: format!("`{}` cannot be read: {e}", path.display()) })
}
