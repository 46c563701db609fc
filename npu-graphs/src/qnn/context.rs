//! A running context: Qualcomm's graphs behind the common [`Queue`].
//!
//! Executions are synchronous on the queue's own thread: the library's asynchronous call answers 1000 (unsupported) on
//! x86-64, and executions of one device run one after another anyway.

use super::{
    device::DeviceState,
    raw::{FinalizeReport, InputMemory, MemoryHandle, OutputMemory, RawContext, RawGraph, RpcMemory, TensorRef},
};
use crate::{
    Bindings, BufferRead, BufferWrite, Completion, ContextSpec, DeviceProfile, GraphId, NpuContext, NpuError,
    TensorSpec, Ticket,
    buffer::HostMemory,
    manifest::QnnVersions,
    queue::{GraphRunner, Queue},
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The DSP's subsystem died under us: nothing of this process's contexts works any more.
const COMMUNICATION_FATAL: u32 = 1011;

/// Compiled or loaded graphs of a [`QnnDevice`](super::QnnDevice).
pub struct QnnContext {
    queue: Queue<Runner>,
    reports: Vec<FinalizeReport>,
    versions: QnnVersions,
    memory_bytes: OnceLock<u64>,
}

struct Runner {
    device: Arc<DeviceState>,
    context: Arc<RawContext>,
    graphs: Vec<BoundGraph>,
    spec: ContextSpec,
    lost: AtomicBool,
    copies: AtomicBool,
}

/// A graph with the places of its tensors in the spec: QNN binds in the order of creation or of the binary.
struct BoundGraph {
    raw: RawGraph,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl BoundGraph {
    fn new(device: &str, raw: RawGraph, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Self, NpuError> {
        let places = |tensors: &[TensorRef], specs: &[TensorSpec]| {
            let place = |t: &TensorRef| specs.iter().position(|s| s.name == t.name());
            let places: Option<Vec<_>> = tensors.iter().map(place).collect();
            places.filter(|p| p.len() == specs.len()).ok_or_else(|| NpuError::Refused {
                graph: raw.name().to_owned(),
                kind: "graph",
                name: device.to_owned(),
                reason: "the library's graph binds other tensors than its spec".to_owned(),
            })
        };
        let (inputs, outputs) = (places(raw.inputs(), inputs)?, places(raw.outputs(), outputs)?);
        Ok(Self { raw, inputs, outputs })
    }
}

impl QnnContext {
    pub(super) fn start(
        device: &Arc<DeviceState>,
        context: Arc<RawContext>,
        graphs: Vec<RawGraph>,
        spec: ContextSpec,
        versions: QnnVersions,
        reports: Vec<FinalizeReport>,
    ) -> Result<Self, NpuError> {
        let name = &device.profile.device;
        let graphs = graphs.into_iter().zip(&spec.graphs);
        let graphs = graphs.map(|(raw, spec)| BoundGraph::new(name, raw, &spec.inputs, &spec.outputs));
        let graphs = graphs.collect::<Result<_, _>>()?;
        let (lost, copies) = (AtomicBool::new(false), AtomicBool::new(false));
        let runner = Runner { device: Arc::clone(device), context, graphs, spec, lost, copies };
        let queue = Queue::start(runner, "coexec-qnn")?;
        Ok(Self { queue, reports, versions, memory_bytes: OnceLock::new() })
    }

    /// What its binary is made by and for.
    #[must_use]
    pub fn versions(&self) -> &QnnVersions {
        &self.versions
    }

    /// What compiling each graph told, in the order of the spec; empty for a loaded context.
    #[must_use]
    pub fn reports(&self) -> &[FinalizeReport] {
        &self.reports
    }
}

impl Runner {
    /// The handle of memory that the NPU maps, if it is such and can be registered.
    fn registered(&self, memory: &dyn HostMemory, tensor: &TensorRef) -> Option<MemoryHandle> {
        let memory = memory.as_any().downcast_ref::<RpcMemory>()?;
        match self.context.register_memory(memory.fd(), tensor) {
            Ok(handle) => {
                memory.registered_with(&self.context);
                Some(handle)
            }
            Err(error) => {
                // The same bytes go as a copy; said once per context.
                if !self.copies.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target: "qnn", "shared buffers are copied: {error}");
                }
                None
            }
        }
    }
}

impl GraphRunner for Runner {
    type Tag = ();

    fn spec(&self) -> &ContextSpec {
        &self.spec
    }

    fn profile(&self) -> &DeviceProfile {
        &self.device.profile
    }

    fn admit(&self) {}

    fn run(
        &self,
        graph: usize,
        (): (),
        inputs: &[BufferRead],
        outputs: &mut [BufferWrite],
    ) -> Result<Completion, NpuError> {
        let graph = &self.graphs[graph];
        let input = |(at, tensor): (&usize, &TensorRef)| {
            let buffer = &inputs[*at];
            match self.registered(buffer.memory(), tensor) {
                Some(handle) => InputMemory::Registered(handle, buffer.len()),
                None => InputMemory::Raw(buffer),
            }
        };
        let inputs: Vec<_> = graph.inputs.iter().zip(graph.raw.inputs()).map(input).collect();
        // In the order of the graph: each buffer is taken once.
        let mut free: Vec<_> = outputs.iter_mut().map(Some).collect();
        let mut bound = Vec::with_capacity(free.len());
        for (at, tensor) in graph.outputs.iter().zip(graph.raw.outputs()) {
            let Some(buffer) = free[*at].take() else { continue };
            bound.push(match self.registered(buffer.memory(), tensor) {
                Some(handle) => OutputMemory::Registered(handle, buffer.len()),
                None => OutputMemory::Raw(buffer),
            });
        }
        match graph.raw.execute_bound(&inputs, &mut bound) {
            Ok(report) if self.device.profile.timed => {
                Ok(Completion { device_ns: report.accelerator_us.map(|us| us.saturating_mul(1000)) })
            }
            Ok(_) => Ok(Completion { device_ns: None }),
            Err(NpuError::Code { device, code: COMMUNICATION_FATAL, meaning, .. }) => {
                self.lost.store(true, Ordering::Release);
                Err(NpuError::DeviceLost { device, reason: format!("code {COMMUNICATION_FATAL}: {meaning}") })
            }
            Err(error) => Err(error),
        }
    }

    fn lost(&self) -> Option<String> {
        self.lost.load(Ordering::Acquire).then(|| "the DSP's subsystem restarted".to_owned())
    }

    /// Nothing ends a `graphExecute` that hangs (the library has no signals on x86-64, and a hung DSP reads none).
    fn interrupt(&self) -> bool {
        false
    }
}

impl NpuContext for QnnContext {
    fn spec(&self) -> &ContextSpec {
        self.queue.runner().spec()
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        self.queue.graph(name)
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.queue.submit(graph, bindings)
    }

    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.queue.wait(ticket, deadline)
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        self.queue.runner().context.binary()
    }

    fn qnn_versions(&self) -> Option<QnnVersions> {
        Some(self.versions.clone())
    }

    /// The size of the context's binary: weights and graph data as they go to the device. What the compiler keeps on the
    /// host beside that while a prepared context lives (about 2.5 × weights, measured) is not in it.
    fn memory_bytes(&self) -> u64 {
        *self.memory_bytes.get_or_init(|| {
            let runner = self.queue.runner();
            let estimate = || runner.spec.device_bytes(runner.device.profile.graph_overhead_bytes);
            runner.context.binary_bytes().unwrap_or_else(|_| estimate())
        })
    }
}

impl std::fmt::Debug for QnnContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QnnContext").field("name", &self.spec().name).finish_non_exhaustive()
    }
}
