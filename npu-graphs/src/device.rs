//! The contract of an NPU: prepare or load a context, submit its graphs, wait for them.
//!
//! Rules for callers and devices:
//! * `prepare` refuses what [`DeviceProfile`] does not allow and never substitutes anything.
//! * The queue of a context is in order: a submit starts after every earlier submit of the same context has ended.
//!   `submit` returns at once; the device works on its own thread or processor.
//! * One submit, one `wait`. At most [`DeviceProfile::max_in_flight`] submits may be un-waited.
//! * Bindings follow the order of the graph spec's inputs and outputs; sizes must be exact. Buffer states are taken at
//!   `submit` and given back when the graph has ended (see [`crate::buffer`]), so a graph cannot be queued behind the graph that
//!   writes its input: wait first.
//! * After [`NpuError::DeviceLost`] or [`NpuError::Timeout`] the context is dead: every call errs. A fresh context from the
//!   same device may work. Outputs of graphs that did not end well are undefined.
//! * Dropping a context waits for the graph that runs and discards those that did not start.

use crate::{ContextSpec, DeviceProfile, Manifest, NpuBuffer, NpuError, WeightSource, manifest::QnnVersions};
use std::time::Duration;

/// A graph of a context; valid only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphId(pub u32);

/// A submitted graph; valid only at its context, for one `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The buffers of one submit, in the order of the graph spec.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// One per input tensor.
    pub inputs: Vec<NpuBuffer>,
    /// One per output tensor.
    pub outputs: Vec<NpuBuffer>,
}

/// What is known about a graph that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Time on the device, when the device is timed (see [`DeviceProfile::timed`]); simulated time on `sim`.
    pub device_ns: Option<u64>,
}

/// An NPU.
pub trait NpuDevice: Send + Sync {
    /// What it can do.
    fn profile(&self) -> &DeviceProfile;

    /// Compiles graphs. Weights are read once per distinct [`crate::WeightSpec`] and are the device's own afterwards.
    ///
    /// # Errors
    /// A wrong spec, something the profile does not allow, too little memory, weights that cannot be read, or the device's
    /// own error code.
    fn prepare(&self, spec: &ContextSpec, weights: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError>;

    /// Loads a context binary that [`NpuContext::serialize`] wrote. Damage and mismatch are found before the device sees it.
    ///
    /// # Errors
    /// A damaged binary, a manifest of another device, version or binary, too little memory, or the device's error code.
    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError>;

    /// Allocates a zeroed buffer that this device reaches without copying, where it can.
    ///
    /// # Errors
    /// When it is too large or memory runs out.
    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError>;
}

/// Compiled graphs that live together.
pub trait NpuContext: Send + Sync {
    /// The graphs.
    fn spec(&self) -> &ContextSpec;

    /// The graph with this name.
    fn graph(&self, name: &str) -> Option<GraphId>;

    /// Starts a graph.
    ///
    /// # Errors
    /// Wrong bindings, a busy buffer, a full queue, a dead context.
    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError>;

    /// Waits for a submitted graph, at most `deadline` (from now; `None` waits as long as it takes).
    ///
    /// # Errors
    /// [`NpuError::Timeout`] when the deadline passes, the device's error, a ticket that is not in flight.
    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError>;

    /// Runs a graph to its end. The same as [`Self::submit`] and [`Self::wait`], which hand the work to another thread and back;
    /// a device that computes on this processor spares both ways.
    ///
    /// # Errors
    /// As both.
    fn run(&self, graph: GraphId, bindings: &Bindings, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.wait(self.submit(graph, bindings)?, deadline)
    }

    /// The context as bytes that [`NpuDevice::load`] takes.
    ///
    /// # Errors
    /// When the device cannot write it.
    fn serialize(&self) -> Result<Vec<u8>, NpuError>;

    /// Versions for the manifest of a binary; `None` for devices without Qualcomm's library.
    fn qnn_versions(&self) -> Option<QnnVersions> {
        None
    }

    /// Memory that the context holds outside of bound buffers, in bytes.
    fn memory_bytes(&self) -> u64;
}
