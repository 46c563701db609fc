//! What can go wrong between a graph spec and its results. Each message says what, where, and what to do.

use crate::{Dtype, SpecError, WeightError};
use std::time::Duration;

/// An NPU's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpuError {
    /// There is no memory for a buffer.
    #[error(transparent)]
    Memory(#[from] coexec_model::memory::OutOfMemory),
    /// The spec itself is wrong.
    #[error("graph spec: {0}")]
    Spec(#[from] SpecError),
    /// The device's profile does not allow this.
    #[error("{device} cannot run graph `{graph}`, op {op}, tensor `{tensor}`: {reason}")]
    Unsupported {
        /// Name of the device's profile.
        device: String,
        /// Graph.
        graph: String,
        /// Op type.
        op: &'static str,
        /// Tensor the reason is about.
        tensor: String,
        /// What is not allowed and what is.
        reason: String,
    },
    /// The context does not fit the device.
    #[error(
        "context `{context}` needs {needed_bytes} bytes on {device}, which has {limit_bytes} left for it; \
         use 4-bit weights, fewer chunk lengths, or put some layers in another context or on the CPU"
    )]
    ContextTooLarge {
        /// Name of the device's profile.
        device: String,
        /// Context.
        context: String,
        /// What it would take.
        needed_bytes: u64,
        /// What it may take.
        limit_bytes: u64,
    },
    /// More graphs than one context takes.
    #[error(
        "context `{context}` has {graphs} graphs that share weights, {device} takes {limit}; use fewer chunk lengths (or \
         past lengths), or compile without weight sharing"
    )]
    TooManyGraphs {
        /// Name of the device's profile.
        device: String,
        /// Context, or the first graph of those that have to stay together.
        context: String,
        /// Its graphs.
        graphs: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Static weights could not be had.
    #[error("weights of graph `{graph}`, op {op}")]
    Weights {
        /// Graph.
        graph: String,
        /// Op type.
        op: &'static str,
        /// The source's error.
        #[source]
        source: WeightError,
    },
    /// An option of a device that cannot be.
    #[error("option {name} = `{value}`: {reason}")]
    Option {
        /// Which.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The device's library cannot be used.
    #[error("library of the NPU: {0}")]
    Library(#[from] qnn_sys::LoadError),
    /// A graph, node or tensor that the device's library would take but compute wrongly, or that would crash it.
    #[error("graph `{graph}`, {kind} `{name}`: {reason}; this is a bug of the lowering, please report it")]
    Refused {
        /// Graph.
        graph: String,
        /// `graph`, `node` or `tensor`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The device answered an error code.
    #[error("{device}: {operation} of `{what}` failed with code {code}: {meaning}")]
    Code {
        /// Name of the device's profile.
        device: String,
        /// What was being done: `prepare`, `load`, `execute`, or a step of them.
        operation: &'static str,
        /// Context or graph.
        what: String,
        /// The device's code (QNN's numbers).
        code: u32,
        /// What the code means and what to do.
        meaning: String,
    },
    /// The kernels under a simulated device refused a graph that had been checked.
    #[error("graph `{graph}` on the simulated device; this is a bug of coexec, please report it")]
    Compute {
        /// Graph.
        graph: String,
        /// The kernels' error.
        #[source]
        source: coexec_cpu::CpuError,
    },
    /// The device is gone (subsystem restart, a hang, a driver thread that ended). The context is dead.
    #[error("{device} was lost ({reason}); drop this context and prepare or load a fresh one, or finish elsewhere")]
    DeviceLost {
        /// Name of the device's profile.
        device: String,
        /// What happened.
        reason: String,
    },
    /// The process that has the device could not be started, or refused something with this text.
    #[error("NPU process `{process}`: {reason}")]
    Process {
        /// The program.
        process: String,
        /// What it said, or why it could not be started.
        reason: String,
    },
    /// The graph did not finish in time. The context is dead; buffers bound to the graph stay busy.
    #[error("graph `{graph}` did not finish within {waited:?}; treat the device as lost")]
    Timeout {
        /// Graph.
        graph: String,
        /// The deadline that passed.
        waited: Duration,
    },
    /// No graph has this id in this context.
    #[error("context `{context}` has no graph {id}; ids come from `graph(name)` of the same context")]
    UnknownGraph {
        /// Context.
        context: String,
        /// Id given.
        id: u32,
    },
    /// The ticket was waited for already or belongs to another context.
    #[error("ticket {ticket} is not in flight in context `{context}`; wait once per submit, at the same context")]
    UnknownTicket {
        /// Context.
        context: String,
        /// Ticket given.
        ticket: u64,
    },
    /// Too many submits that nobody waited for.
    #[error("{depth} submits of context `{context}` were not waited for; wait before submitting more")]
    QueueFull {
        /// Context.
        context: String,
        /// The limit.
        depth: usize,
    },
    /// Another number of buffers than the graph has tensors.
    #[error("graph `{graph}` has {expected} {side}s, {found} buffers were bound")]
    BindingCount {
        /// Graph.
        graph: String,
        /// `input` or `output`.
        side: &'static str,
        /// Tensors of the graph.
        expected: usize,
        /// Buffers given.
        found: usize,
    },
    /// A buffer of another size than the tensor.
    #[error(
        "graph `{graph}`, tensor `{tensor}` ({dtype} {dims:?}) takes {expected_bytes} bytes, its buffer has {found_bytes}; \
         graphs are static: pad the chunk or use the graph of this chunk length"
    )]
    BufferSize {
        /// Graph.
        graph: String,
        /// Tensor.
        tensor: String,
        /// Element type.
        dtype: Dtype,
        /// Static dimensions.
        dims: Vec<u32>,
        /// Bytes of the tensor.
        expected_bytes: usize,
        /// Bytes of the buffer.
        found_bytes: usize,
    },
    /// A buffer is being written by the host, or is bound to a graph in flight.
    #[error("buffer of `{tensor}` is in use; {advice}")]
    BufferBusy {
        /// Tensor it was to be bound to, or `host access`.
        tensor: String,
        /// What to do.
        advice: &'static str,
    },
    /// A buffer larger than the device can share.
    #[error("{device} cannot allocate a buffer of {len_bytes} bytes (limit {limit_bytes}); use a shorter chunk length")]
    BufferTooLarge {
        /// Name of the device's profile.
        device: String,
        /// Bytes asked for.
        len_bytes: usize,
        /// Most bytes of one buffer.
        limit_bytes: usize,
    },
    /// A context binary that is damaged or of another format.
    #[error("context binary: {reason}; delete it and compile again")]
    Blob {
        /// What is wrong.
        reason: String,
    },
    /// A context binary that was made for something else.
    #[error("context binary: its {field} is `{found}`, `{wanted}` is wanted; compile the model again")]
    Manifest {
        /// Which field differs.
        field: &'static str,
        /// What is needed here.
        wanted: String,
        /// What the manifest or binary says.
        found: String,
    },
    /// A graph of a context binary that is not the one that the model needs.
    #[error("graph `{graph}`, {what}: {found} was compiled, {wanted} is wanted; compile the model again")]
    Graph {
        /// The first graph that differs.
        graph: String,
        /// What differs in it.
        what: String,
        /// What is needed here.
        wanted: String,
        /// What the manifest or binary says.
        found: String,
    },
}

impl NpuError {
    /// Whether a fresh context might succeed: the device failed, not the request.
    #[must_use]
    pub fn is_device_failure(&self) -> bool {
        matches!(self, Self::Code { .. } | Self::DeviceLost { .. } | Self::Timeout { .. })
    }
}

/// What a QNN error code means and what to do: QNN's name, and where our graphs meet the code another way than the API
/// says, our own words.
#[must_use]
pub fn describe_code(code: u32) -> String {
    let info = qnn_sys::describe(u64::from(code));
    let advice = match code {
        1002 => "the compiler could not prepare the graph, or memory ran out; use fewer or smaller graphs per context",
        5005 => "the context binary was made for another chip or library version; compile again",
        30001 | 30010 => "the context binary is truncated or damaged; delete it and compile again",
        _ => info.cause,
    };
    format!("{} ({}): {advice}", info.name, info.component)
}
