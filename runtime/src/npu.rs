//! The NPU as the engine uses it: one context with the static graphs of all layers, weights handed out from the packed
//! file, one submit at a time.

use crate::{Model, RuntimeError};
use coexec_model::{LayerIdx, LinearKind, TensorName, WeightFormat, layout};
use coexec_npu::{
    Bindings, BlockRows, DeviceProfile, GraphId, NpuContext, NpuDevice, WeightError, WeightSource,
    decoder::{NpuWeights, SplitOptions, graph_name, split_context},
    profile,
    sim::{FaultPlan, SimDevice, SimOptions, SimTiming},
};
use std::{ops::Range, time::Duration};

/// Name of the simulated device in stats and messages.
pub const DEVICE_NAME: &str = "sim";

/// Longest time a static graph may take before the NPU counts as lost.
const DEADLINE: Duration = Duration::from_secs(120);

/// The static graphs of a model on a device.
pub struct PreparedNpu {
    device: Box<dyn NpuDevice>,
    context: Box<dyn NpuContext>,
    graphs: Vec<[GraphId; 4]>,
}

impl std::fmt::Debug for PreparedNpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedNpu").field("layers", &self.graphs.len()).finish_non_exhaustive()
    }
}

impl PreparedNpu {
    /// Builds and prepares the graphs of placement `split` for one chunk length on the simulated NPU of a named profile.
    ///
    /// # Errors
    /// [`RuntimeError::NotCalibrated`]; whatever the device refuses.
    pub fn prepare(model: &Model, profile: &str, chunk_len: usize) -> Result<Self, RuntimeError> {
        let span = tracing::info_span!("prepare", chunk_len);
        let _entered = span.enter();
        let calibration = model.calibration().ok_or(RuntimeError::NotCalibrated)?;
        let config = model.config();
        let options =
            SplitOptions { name: "split", chunk_lens: &[chunk_len], weights: npu_weights(model), layers: None };
        let spec = split_context(config, calibration, &options)?;
        let options = SimOptions {
            profile: self::profile(profile)?,
            threads: 1,
            timing: SimTiming::Off,
            faults: FaultPlan::default(),
        };
        let device: Box<dyn NpuDevice> = Box::new(SimDevice::new(options));
        let context = device.prepare(&spec, &ModelWeights { model })?;
        let graphs = (0..config.num_hidden_layers)
            .map(|l| {
                let find = |kind| {
                    let name = graph_name(kind, LayerIdx(l), chunk_len);
                    context.graph(&name).ok_or_else(|| {
                        RuntimeError::Schedule(format!(
                            "the device prepared no graph `{name}`; this is a bug of coexec"
                        ))
                    })
                };
                Ok([find(LinearKind::Qkv)?, find(LinearKind::O)?, find(LinearKind::GateUp)?, find(LinearKind::Down)?])
            })
            .collect::<Result<_, RuntimeError>>()?;
        tracing::info!(bytes = context.memory_bytes(), graphs = spec.graphs.len(), "static graphs prepared");
        Ok(Self { device, context, graphs })
    }

    /// Bytes that the context holds.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.context.memory_bytes()
    }

    /// Name of the device's profile.
    #[must_use]
    pub fn profile_name(&self) -> &str {
        &self.device.profile().name
    }

    /// Buffers for one linear: codes in `[chunk_len, K]`, codes out per part `[chunk_len, width]`.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn bindings(&self, chunk_len: usize, k: usize, parts: &[usize]) -> Result<Bindings, RuntimeError> {
        Ok(Bindings {
            inputs: vec![self.device.alloc(chunk_len * k)?],
            outputs: parts.iter().map(|width| self.device.alloc(chunk_len * width)).collect::<Result<_, _>>()?,
        })
    }

    /// Runs the static graph of one linear and waits for it.
    ///
    /// # Errors
    /// The device's.
    pub fn run(&self, layer: usize, kind: LinearKind, bindings: &Bindings) -> Result<(), RuntimeError> {
        let ticket = self.context.submit(self.graphs[layer][kind.index()], bindings)?;
        self.context.wait(ticket, Some(DEADLINE))?;
        Ok(())
    }
}

/// A chip's profile by name.
///
/// # Errors
/// [`RuntimeError::Option`] for an unknown name.
pub fn profile(name: &str) -> Result<DeviceProfile, RuntimeError> {
    profile::chips::named(name).ok_or_else(|| RuntimeError::Option {
        option: "--profile",
        value: name.to_owned(),
        reason: format!("use one of {}", profile::chips::NAMES.join(", ")),
    })
}

/// 4-bit weights go to the NPU as they are where their groups fit, all others as per-channel INT8.
fn npu_weights(model: &Model) -> NpuWeights {
    let all_q4 = (0..model.config().num_hidden_layers as usize).all(|l| {
        LinearKind::ALL.iter().all(|kind| {
            let w = model.linear(l, *kind);
            w.format() == WeightFormat::Q4 && w.k().is_multiple_of(layout::GROUP)
        })
    });
    if all_q4 { NpuWeights::BlockExpansion } else { NpuWeights::PerChannelI8 }
}

struct ModelWeights<'a> {
    model: &'a Model,
}

impl ModelWeights<'_> {
    /// Calls `f` with every row of a range.
    fn rows(
        &self,
        tensor: TensorName,
        rows: &Range<usize>,
        f: &mut dyn FnMut(usize, &layout::Panel<'_>),
    ) -> Result<(), WeightError> {
        let kind = |t| LinearKind::ALL.into_iter().find(|k| k.tensor() == t);
        let weight = match tensor {
            TensorName::Layer(layer, t) if layer.0 < self.model.config().num_hidden_layers => {
                kind(t).map(|kind| self.model.linear(layer.index(), kind))
            }
            _ => None,
        }
        .ok_or(WeightError::Missing { tensor })?;
        if rows.end > weight.n() {
            return Err(WeightError::Shape { tensor, reason: format!("it has {} rows, not {}", weight.n(), rows.end) });
        }
        weight
            .for_panels(rows.clone(), &mut |first, panel| {
                for r in rows.start.max(first)..rows.end.min(first + layout::PANEL_ROWS) {
                    f(r - first, &panel);
                }
            })
            .map_err(|e| WeightError::Read { tensor, source: Box::new(e) })
    }
}

impl WeightSource for ModelWeights<'_> {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        codes.clear();
        scales.clear();
        let mut row = Vec::new();
        self.rows(tensor, &rows, &mut |r, panel| {
            scales.push(panel.read_int8_row(r, &mut row));
            codes.extend_from_slice(&row);
        })
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        out.codes.clear();
        out.group_scales.clear();
        out.scales.clear();
        self.rows(tensor, &rows, &mut |r, panel| {
            out.codes.extend((0..panel.k).map(|k| panel.code(r, k)));
            out.group_scales.extend((0..panel.k / layout::GROUP).map(|g| panel.group_scale_code(r, g)));
            out.scales.push(panel.channel_scale(r));
        })
    }
}
