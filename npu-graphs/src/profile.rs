//! What a device can hold and compute. Planners ask a profile first; `prepare` refuses what it does not allow.
//!
//! Profiles are data ([`chips`]); times come from the tables in [`timing`], each with its source.

pub mod chips;
mod shard;
pub mod timing;

pub use timing::{Estimate, LinearShape, TimingModel, estimate_graph_us, estimate_linear_us};

use crate::{BufferKind, ContextSpec, Dtype, GraphSpec, NpuError, OpSpec, WeightEncoding};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A linear that a device computes: activation dtype (in and out) with a weight encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinearSupport {
    /// Dtype of input and output.
    pub activation: Dtype,
    /// Encoding of the weights.
    pub weights: WeightEncoding,
}

/// An op that a device computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpSupport {
    /// One of [`OpSpec::NAMES`].
    pub op: Cow<'static, str>,
    /// Dtypes of the first input.
    pub dtypes: Cow<'static, [Dtype]>,
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// Name of the chip or idealisation, e.g. `sm8650`.
    pub name: String,
    /// Device kind and chip, as manifests name them, e.g. `sim:sm8650`.
    pub device: String,
    /// Where the constants come from.
    pub source: String,
    /// Qualcomm's id of the chip, where there is one.
    pub soc_id: Option<u32>,
    /// Hexagon architecture, where there is one, e.g. `v75`.
    pub arch: Option<String>,
    /// Linears (1×1 Conv2d on `[1, 1, M, K]`) that it computes.
    pub linears: Vec<LinearSupport>,
    /// Other ops that it computes, by the dtype of their first input.
    pub ops: Vec<OpSupport>,
    /// Most bytes of one context.
    pub max_context_bytes: u64,
    /// Most bytes of all contexts of the process.
    pub max_device_bytes: u64,
    /// Most graphs of a context whose graphs share weights.
    pub max_sharing_graphs: usize,
    /// Bytes that a graph takes in a context beside its weights.
    pub graph_overhead_bytes: u64,
    /// Most bytes of one buffer.
    pub max_buffer_bytes: usize,
    /// Most submits of one context that were not waited for.
    pub max_in_flight: usize,
    /// Buffers that it reaches without copying.
    pub buffer_kind: BufferKind,
    /// Whether completions carry a time.
    pub timed: bool,
    /// Model of its time per linear, if there is one. A simulator uses it also when the device is not timed.
    pub timing: Option<TimingModel>,
}

impl DeviceProfile {
    /// Checks a whole context against this profile: every op, the number of graphs, and the memory of one context.
    ///
    /// # Errors
    /// [`NpuError::Spec`], [`NpuError::Unsupported`], [`NpuError::TooManyGraphs`] or [`NpuError::ContextTooLarge`].
    pub fn check(&self, spec: &ContextSpec) -> Result<(), NpuError> {
        spec.validate()?;
        for graph in &spec.graphs {
            for node in &graph.nodes {
                self.check_op(graph, node)?;
            }
        }
        if spec.graphs.len() > self.max_sharing_graphs && spec.shares_weights() {
            return Err(NpuError::TooManyGraphs {
                device: self.device.clone(),
                context: spec.name.clone(),
                graphs: spec.graphs.len(),
                limit: self.max_sharing_graphs,
            });
        }
        let needed_bytes = spec.device_bytes(self.graph_overhead_bytes);
        if needed_bytes > self.max_context_bytes {
            return Err(NpuError::ContextTooLarge {
                device: self.device.clone(),
                context: spec.name.clone(),
                needed_bytes,
                limit_bytes: self.max_context_bytes,
            });
        }
        Ok(())
    }

    fn check_op(&self, graph: &GraphSpec, op: &OpSpec) -> Result<(), NpuError> {
        let refuse = |tensor: &str, reason: String| {
            Err(NpuError::Unsupported {
                device: self.device.clone(),
                graph: graph.name.clone(),
                op: op.op_name(),
                tensor: tensor.to_owned(),
                reason,
            })
        };
        for tensor in graph.inputs.iter().chain(&graph.outputs) {
            let bytes = tensor.len_bytes().unwrap_or(usize::MAX);
            if bytes > self.max_buffer_bytes {
                let limit = self.max_buffer_bytes;
                return refuse(
                    &tensor.name,
                    format!("{bytes} bytes, the limit is {limit}; use a shorter chunk length"),
                );
            }
        }
        // `validate` made sure that the tensors exist.
        let inputs = op.inputs();
        let Some(x) = inputs.first().and_then(|name| graph.tensor(name)) else { return Ok(()) };
        if let Some(weights) = op.weights() {
            let wanted = LinearSupport { activation: x.dtype, weights: weights.encoding };
            if !self.linears.contains(&wanted) {
                let allowed: Vec<_> =
                    self.linears.iter().map(|l| format!("{} × {}", l.activation, l.weights)).collect();
                let reason = format!(
                    "{} activations with {} weights are not in its table ({})",
                    wanted.activation,
                    wanted.weights,
                    allowed.join(", ")
                );
                return refuse(&x.name, reason);
            }
        } else {
            let allowed = self.ops.iter().find(|o| o.op == op.op_name()).map(|o| &*o.dtypes).unwrap_or_default();
            if !allowed.contains(&x.dtype) {
                let names: Vec<_> = allowed.iter().map(|d| d.name()).collect();
                let list = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                return refuse(&x.name, format!("{} is not in its table for this op ({list})", x.dtype));
            }
        }
        Ok(())
    }
}
