//! The NPU as the engine uses it: static graphs of all layers for every chunk length, one submit at a time.
//!
//! [`backend`] is the contract of a kind of NPU and the place where one is chosen, [`sim`] the simulated one, [`weights`]
//! what graphs are filled with. `failover` keeps the one in use open and steps down when it fails; [`marker`] remembers
//! NPUs that took their process down.

pub mod backend;
pub(crate) mod failover;
mod lazy;
pub mod marker;
pub mod process;
pub mod qnn;
pub mod sim;
pub mod weights;

pub use backend::{Chosen, NpuBackend, NpuKind, OpenNpu};
pub use process::NpuProcess;
pub use qnn::{QnnBackend, QnnChoice};
pub use sim::SimBackend;
pub use weights::{ModelWeights, WeightFit, npu_weights, weight_fit};

use crate::{EngineOptions, Model, RuntimeError};
use coexec_model::{LayerIdx, LinearKind};
use coexec_npu::{
    Bindings, ContextSpec, DeviceProfile, GraphId, NpuContext, NpuDevice,
    decoder::{Activation, SplitOptions, graph_name, split_context},
    profile,
};
use coexec_scheduler::CancelToken;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Where a graph is: index of its context, and its id there.
type GraphRef = (usize, GraphId);

/// The static graphs of a model on a device.
pub struct PreparedNpu {
    // Contexts go before their device.
    contexts: Vec<Box<dyn NpuContext>>,
    device: Arc<dyn NpuDevice>,
    /// By chunk length, then layer, then linear.
    graphs: BTreeMap<usize, Vec<[GraphRef; 4]>>,
    deadline: Duration,
    /// For a real NPU that is to leave markers.
    first: Option<FirstGraph>,
}

/// The first graph of a real NPU, which runs alone and under a marker.
struct FirstGraph {
    dir: PathBuf,
    npu: &'static str,
    alone: Mutex<()>,
    done: AtomicBool,
}

impl std::fmt::Debug for PreparedNpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedNpu")
            .field("device", &self.device.profile().device)
            .field("contexts", &self.contexts.len())
            .field("chunk_lens", &self.graphs.keys())
            .finish_non_exhaustive()
    }
}

impl PreparedNpu {
    /// Opens a backend for a model: one graph per layer, linear and chunk length of `options`.
    ///
    /// # Errors
    /// What the backend or its device refuses; [`RuntimeError::Schedule`] when a graph is missing.
    pub fn open(
        backend: &dyn NpuBackend,
        model: &Model,
        options: &EngineOptions,
        cancel: &CancelToken,
    ) -> Result<Self, RuntimeError> {
        let chunk_lens = options.ladder();
        let span = tracing::info_span!("prepare", npu = backend.name(), ?chunk_lens);
        let _entered = span.enter();
        let OpenNpu { contexts, device } = backend.open(model, &chunk_lens, cancel)?;
        let find = |kind, layer, chunk_len| {
            let name = graph_name(kind, LayerIdx(layer), chunk_len);
            let found = contexts.iter().enumerate().find_map(|(i, c)| Some((i, c.graph(&name)?)));
            found.ok_or_else(|| {
                RuntimeError::Schedule(format!("NPU `{}` prepared no graph `{name}`; this is a bug", backend.name()))
            })
        };
        let mut graphs = BTreeMap::new();
        for chunk_len in chunk_lens {
            let layers = (0..model.config().num_hidden_layers)
                .map(|l| {
                    let [qkv, o, gate_up, down] = LinearKind::ALL.map(|kind| find(kind, l, chunk_len));
                    Ok([qkv?, o?, gate_up?, down?])
                })
                .collect::<Result<Vec<_>, RuntimeError>>()?;
            graphs.insert(chunk_len, layers);
        }
        let first = options.state_dir.clone().filter(|_| backend.is_real()).map(|dir| FirstGraph {
            dir,
            npu: backend.name(),
            alone: Mutex::new(()),
            done: AtomicBool::new(false),
        });
        let npu = Self { contexts, device, graphs, deadline: options.npu_deadline, first };
        tracing::info!(bytes = npu.memory_bytes(), contexts = npu.contexts.len(), "static graphs prepared");
        Ok(npu)
    }

    /// Bytes that the contexts hold.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.contexts.iter().map(|c| c.memory_bytes()).sum()
    }

    /// What the device can do.
    #[must_use]
    pub fn profile(&self) -> &DeviceProfile {
        self.device.profile()
    }

    /// Chunk lengths that there are graphs for, ascending.
    pub fn chunk_lens(&self) -> impl Iterator<Item = usize> {
        self.graphs.keys().copied()
    }

    /// Buffers for one linear: codes in `[row_bytes, K]`, codes out per part `[row_bytes, width]`, where `row_bytes` is the rows
    /// times the bytes of a code.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn bindings(&self, row_bytes: usize, k: usize, parts: &[usize]) -> Result<Bindings, RuntimeError> {
        Ok(Bindings {
            inputs: vec![self.device.alloc(row_bytes * k)?],
            outputs: parts.iter().map(|width| self.device.alloc(row_bytes * width)).collect::<Result<_, _>>()?,
        })
    }

    /// Runs the static graph of one linear and waits for it.
    ///
    /// # Errors
    /// [`RuntimeError::NpuGraph`] with the device's error; [`RuntimeError::Schedule`] when there is no such graph.
    pub fn run(
        &self,
        chunk_len: usize,
        layer: usize,
        kind: LinearKind,
        bindings: &Bindings,
    ) -> Result<(), RuntimeError> {
        let name = || graph_name(kind, LayerIdx(layer as u32), chunk_len);
        let graph = self.graphs.get(&chunk_len).and_then(|layers| layers.get(layer)).map(|l| l[kind.index()]);
        let (context, id) =
            graph.ok_or_else(|| RuntimeError::Schedule(format!("no static graph `{}` is prepared", name())))?;
        let context = &self.contexts[context];
        let guard = self.first.as_ref().and_then(|first| first.guard(&self.profile().device));
        let ran = context.run(id, bindings, Some(self.deadline));
        if let (Some(first), Ok(_)) = (&self.first, &ran) {
            first.done.store(true, Ordering::Release);
        }
        drop(guard);
        ran.map(|_| ()).map_err(|source| RuntimeError::NpuGraph {
            device: self.profile().device.clone(),
            graph: name(),
            source: Box::new(source),
        })
    }
}

impl FirstGraph {
    /// Until the first graph has ended well: others wait, and a marker is there.
    fn guard(&self, device: &str) -> Option<(Option<marker::Armed>, parking_lot::MutexGuard<'_, ()>)> {
        if self.done.load(Ordering::Acquire) {
            return None;
        }
        let alone = self.alone.lock();
        if self.done.load(Ordering::Acquire) {
            return None;
        }
        let armed = marker::arm(&self.dir, self.npu, device).unwrap_or_else(|error| {
            tracing::warn!(dir = %self.dir.display(), %error, "no NPU marker can be written: a crash would not be noticed");
            None
        });
        Some((armed, alone))
    }
}

/// The specs of a model's static graphs: QKV, O, gate+up and down of every layer, for every chunk length, in one context.
///
/// # Errors
/// [`RuntimeError::NotCalibrated`]; what cannot be built for this model.
pub fn split_spec(model: &Model, chunk_lens: &[usize]) -> Result<ContextSpec, RuntimeError> {
    let calibration = model.calibration().ok_or(RuntimeError::NotCalibrated)?;
    let options = SplitOptions {
        name: "split",
        chunk_lens,
        weights: npu_weights(model),
        activation: Activation::U8,
        layers: None,
    };
    Ok(split_context(model.config(), calibration, &options)?)
}

/// A chip's profile by name or by Qualcomm's number of the SoC.
///
/// # Errors
/// [`RuntimeError::Option`] for an unknown name.
pub fn profile(name: &str) -> Result<DeviceProfile, RuntimeError> {
    profile::chips::find(name).ok_or_else(|| RuntimeError::Option {
        option: "--npu-profile",
        value: name.to_owned(),
        reason: format!("use one of {}, or Qualcomm's number of the SoC", profile::chips::NAMES.join(", ")),
    })
}
