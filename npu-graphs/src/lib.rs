//! Static graph specs, decoder-layer builders, the [`NpuDevice`] trait and its devices.
//!
//! ```text
//! DecoderConfig + Calibration --decoder--> ContextSpec --NpuDevice::prepare--> NpuContext --submit, wait--> codes
//!                                                             ^ WeightSource            `--serialize--> bytes + Manifest
//! ```
//!
//! * [`spec`]: what a static graph is, as plain data: shapes, dtypes, encodings, weights by name, no pointers.
//! * [`decoder`]: the graphs of a decoder for placements `split`, `fused` and `layer`, and the ranges of their tensors.
//! * [`device`]: the contract of an NPU. [`sim`] is an exact simulated one, [`qnn`] Qualcomm's behind the same trait.
//! * [`remote`]: a device in a child process, whose crash is not ours.
//! * [`profile`]: what a chip can hold and compute, and published or compiler-estimated times of its linears.
//! * [`manifest`]: what has to be known about a context binary before it may be loaded.
//!
//! Nothing here falls back silently: what a device's profile does not allow is refused by `prepare` with the graph, the
//! op, the tensor and the reason.

#![deny(unsafe_code)]

pub mod buffer;
pub mod decoder;
pub mod device;
pub mod error;
pub mod manifest;
pub mod profile;
pub mod qnn;
mod queue;
pub mod remote;
pub mod sim;
pub mod spec;
pub mod weights;

pub use buffer::{BufferKind, BufferRead, BufferWrite, NpuBuffer};
pub use decoder::{
    Activation, FusedOptions, LayerOptions, NpuWeights, Ranges, SplitOptions, fused_context, graph_name, layer_context,
    split_context,
};
pub use device::{Bindings, Completion, GraphId, NpuContext, NpuDevice, Ticket};
pub use error::NpuError;
pub use manifest::{Manifest, Placement, QnnVersions};
pub use profile::{DeviceProfile, Estimate, TimingModel};
pub use qnn::{QnnContext, QnnDevice, QnnOptions};
pub use remote::{RemoteDevice, RemoteOptions};
pub use sim::{FaultPlan, PrepareFault, SimDevice, SimOptions, SimTiming, SubmitFault};
pub use spec::{
    ContextSpec, Dtype, Encoding, Function, GraphSpec, OpSpec, SpecError, TensorSpec, WeightEncoding, WeightSpec,
};
pub use weights::{BlockRows, WeightError, WeightSource};
