//! Compiling a model's static graphs ahead of time: which graphs, into which contexts, on which chip, and what is written.
//!
//! ```text
//! CompileOptions + Model --contexts--> [ContextSpec] --one job each--> DIR/<context>.bin + .selftest
//!                                                                      DIR/compiled.json
//! ```
//! A job runs in this process or in a child of it ([`Compiler`]): Qualcomm's compiler can crash, and memory that it took
//! comes back only when its process ends.

mod compiled;
mod estimate;
mod job;
mod make;
mod memory;
mod prompt_check;
pub mod selftest;

pub use compiled::{COMPILED_FILE, CompiledContext, CompiledModel};
pub use estimate::{
    ChunkEstimate, ESTIMATING_CHIPS, EstimateReport, Estimated, GraphEstimate, SyntheticWeights, estimate,
};
pub use job::{ChildCompiler, Compiler, ContextReport, JobReply, JobRequest, JobStep, JobTask, run_job, serve_job};
pub(crate) use make::compile_into;
pub use make::{CompileEvent, CompilePlan, CompileProgress, compile};
pub use memory::{available_bytes, peak_bytes};
pub use prompt_check::PromptCheck;
pub use selftest::{GraphCheck, Recording, Selftest, SelftestOptions, SelftestReport, SelftestStep, record, replay};
pub(crate) use selftest::{execute as selftest_execute, inputs as selftest_inputs};

use crate::{
    Model, RuntimeError,
    npu::{ModelWeights, WeightFit, weight_fit},
};
use coexec_model::{Calibration, DecoderConfig, Schedule, TokenId, Treatment};
use coexec_npu::{
    ContextSpec, DeviceProfile, NpuWeights, Placement,
    decoder::{
        Activation, FusedOptions, LayerOptions, Ranges, SplitOptions, fused_context, layer_context, split_context,
    },
};
use coexec_scheduler::CancelToken;
use serde::{Deserialize, Serialize};
use std::ops::{ControlFlow, Range};

/// Which graphs to make of a model, and for which chip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompileOptions {
    /// Chip by name (`sm8650`) or Qualcomm's SoC id (`57`).
    pub chip: String,
    /// Which stages of a layer are graphs.
    pub placement: Placement,
    /// Dtype of activations.
    pub activation: Activation,
    /// How linears run where that is not what the file says (placement `split` in u8; in u16 all are [`Treatment::Wide`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// How linears' weights reach the NPU; `None` takes what the file holds (`q4` as block expansion, all else as INT8).
    pub weights: Option<NpuWeights>,
    /// Chunk lengths in tokens.
    pub chunk_lens: Vec<usize>,
    /// Lengths of the past that graphs with attention take, in tokens (placement `layer`).
    pub kv_lens: Vec<usize>,
    /// Layers in one graph (placement `layer`).
    pub layers_per_graph: usize,
    /// Ranges of tensors inside of graphs, where they were measured; `None` derives them from the file's calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// Layers that get graphs; `None` is all.
    pub layers: Option<Range<u32>>,
    /// Whether graphs of several chunk lengths share weights in one binary. Such a binary loads on a chip only.
    pub share_weights: bool,
    /// Most graphs of one context; `None` is what the chip takes, less where compiling would take more memory than there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graphs_per_context: Option<usize>,
    /// Fast on-chip memory that graphs may take, in MiB; 0 is all of it, `None` the library's choice.
    pub vtcm_mb: Option<u32>,
    /// Vector threads of a graph; `None` is the library's choice.
    pub hvx_threads: Option<u32>,
    /// Optimisation level 1…3 of the compiler; `None` is the library's choice.
    pub optimization: Option<u32>,
    /// Whether to record inputs and outputs of every graph, for `coexec selftest`.
    pub record: bool,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            chip: "sm8650".to_owned(),
            placement: Placement::Split,
            activation: Activation::U8,
            schedule: None,
            weights: None,
            chunk_lens: vec![128, 256],
            kv_lens: vec![256],
            layers_per_graph: 1,
            ranges: None,
            layers: None,
            share_weights: true,
            graphs_per_context: None,
            vtcm_mb: None,
            hvx_threads: None,
            optimization: None,
            record: true,
        }
    }
}

impl CompileOptions {
    /// What a compiled model has to agree in before it is used instead of a new one: everything but the recording and how
    /// the graphs are spread over contexts.
    #[must_use]
    pub fn key(&self, model_hash: &str, library: &str) -> String {
        let same = Self { record: false, graphs_per_context: None, ..self.clone() };
        let text = serde_json::json!([model_hash, library, coexec_npu::manifest::MANIFEST_VERSION, same]).to_string();
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// The contexts to prepare, each within the chip's limits: one for all chunk lengths when weights are shared, one per
    /// chunk length otherwise; further ones where a binary would grow past the limit.
    ///
    /// # Errors
    /// Chunk lengths or layers that cannot be, more memory than the chip has.
    pub fn contexts(&self, numbers: &Numbers<'_>, profile: &DeviceProfile) -> Result<Vec<ContextSpec>, RuntimeError> {
        let each: Vec<&[usize]> =
            if self.share_weights { vec![&self.chunk_lens] } else { self.chunk_lens.chunks(1).collect() };
        let mut contexts = Vec::new();
        for chunk_lens in each {
            contexts.extend(profile.shard(&self.context(numbers, chunk_lens)?, self.graphs_per_context)?);
        }
        Ok(contexts)
    }

    fn context(&self, numbers: &Numbers<'_>, chunk_lens: &[usize]) -> Result<ContextSpec, RuntimeError> {
        let name = match chunk_lens {
            [one] => format!("{}.c{one}", self.placement.name()),
            _ => self.placement.name().to_owned(),
        };
        let Numbers { config, calibration, ranges, weights } = numbers;
        let (name, weights, layers, activation) = (&name, *weights, self.layers.clone(), self.activation);
        let spec = match self.placement {
            Placement::Fused => {
                fused_context(config, ranges, &FusedOptions { name, chunk_lens, weights, layers, activation })
            }
            Placement::Layer => {
                let (kv_lens, layers_per_graph) = (&self.kv_lens[..], self.layers_per_graph);
                let options = LayerOptions { name, chunk_lens, kv_lens, layers_per_graph, weights, layers, activation };
                layer_context(config, ranges, &options)
            }
            // Placements that this build does not know cannot be parsed.
            _ => split_context(config, calibration, &SplitOptions { name, chunk_lens, weights, layers, activation }),
        };
        Ok(spec?)
    }

    /// The contexts of a model; see [`Self::contexts`].
    ///
    /// # Errors
    /// [`RuntimeError::NotCalibrated`] when codes need scales that the file does not have; weights that have no such form on
    /// the NPU; as there.
    pub fn contexts_of(&self, model: &Model, profile: &DeviceProfile) -> Result<Vec<ContextSpec>, RuntimeError> {
        let needs_none = self.activation == Activation::F16;
        let only_ranges = self.placement != Placement::Split && self.ranges.is_some();
        if model.calibration().is_none() && !needs_none && !only_ranges {
            return Err(RuntimeError::NotCalibrated);
        }
        self.contexts(&self.numbers(model)?.borrowed(model), profile)
    }

    /// What graphs take from a model; synthetic scales and ranges, which suit times and sizes, where the file has none.
    fn numbers(&self, model: &Model) -> Result<OwnNumbers, RuntimeError> {
        let config = model.config();
        let ranges = match (&self.ranges, model.calibration()) {
            (Some(ranges), _) => ranges.clone(),
            (None, Some(calibration)) => {
                Ranges::from_calibration(config, calibration, &ModelWeights::new(model), self.activation)?
            }
            (None, None) => Ranges::synthetic(config),
        };
        let mut calibration = model.calibration().cloned().unwrap_or_else(|| estimate::synthetic_calibration(config));
        if let Some(schedule) = self.schedule_of(model) {
            calibration.set_schedule(&schedule);
        }
        let weights = self.weights_of(model);
        if let WeightFit::Impossible(reason) = weight_fit(model, weights) {
            return Err(RuntimeError::Option { option: "--npu-weights", value: weights.name().to_owned(), reason });
        }
        Ok(OwnNumbers { calibration, ranges, weights })
    }

    /// How these graphs run the linears of a model, whatever it was opened with; `None` without a calibration.
    #[must_use]
    pub fn schedule_of(&self, model: &Model) -> Option<Schedule> {
        let files = model.file().calibration()?.schedule();
        Some(match (self.activation, &self.schedule) {
            (Activation::U16, _) => files.iter().map(|_| [Treatment::Wide; 4]).collect(),
            (_, Some(schedule)) => schedule.clone(),
            (_, None) => files,
        })
    }

    /// How linears' weights of a model reach the NPU in these graphs.
    #[must_use]
    pub fn weights_of(&self, model: &Model) -> NpuWeights {
        self.weights.unwrap_or_else(|| crate::npu::npu_weights(model))
    }

    /// What somebody should know who means to use these graphs for text: each of these makes a real model useless or worse,
    /// while graph by graph the chip computes what the simulated one does.
    #[must_use]
    pub fn warnings(&self, model: &Model) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.placement != Placement::Split {
            let name = self.placement.name();
            if self.activation == Activation::U8 {
                warnings.push(format!(
                    "placement `{name}` in u8 is for times and sizes only: nothing corrects what its codes clip, and real models \
                     are ruined by that; use --activation u16 with --calibrate, or placement `split`"
                ));
            }
            if self.activation != Activation::F16 && self.ranges.is_none() {
                warnings.push(format!(
                    "the ranges inside of `{name}` graphs were not measured but derived, which suits times and sizes only: real \
                     models are ruined by that; measure them with --calibrate TEXT"
                ));
            }
        }
        let weights = self.weights_of(model);
        if let WeightFit::Coarse(why) = weight_fit(model, weights) {
            warnings.push(format!(
                "--npu-weights {}: {why}; `coexec run` refuses these graphs, they are for times and sizes",
                weights.name()
            ));
        }
        warnings
    }
}

/// [`Numbers`] of a model.
struct OwnNumbers {
    calibration: Calibration,
    ranges: Ranges,
    weights: NpuWeights,
}

impl OwnNumbers {
    fn borrowed<'a>(&'a self, model: &'a Model) -> Numbers<'a> {
        let Self { calibration, ranges, weights } = self;
        Numbers { config: model.config(), calibration, ranges, weights: *weights }
    }
}

/// What graphs take from a model besides weights.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// Shapes.
    pub config: &'a DecoderConfig,
    /// Scales of linears, for placement `split`.
    pub calibration: &'a Calibration,
    /// Ranges of all tensors, for the other placements.
    pub ranges: &'a Ranges,
    /// How linears' weights reach the NPU.
    pub weights: NpuWeights,
}

/// Tokens of one prompt that ranges are measured on.
const MEASURED_PROMPT: usize = 128;

/// Largest magnitudes of every tensor of every layer, seen while the model runs over `tokens` in f16 on the simulated
/// device, in prompts of 128 tokens. `progress` is told how many layers are done.
///
/// # Errors
/// No tokens, unknown tokens, weights that cannot be read; [`RuntimeError::Cancelled`].
pub fn measure_ranges(
    model: &Model,
    tokens: &[TokenId],
    cancel: &CancelToken,
    progress: &mut dyn FnMut(u32),
) -> Result<Ranges, RuntimeError> {
    let prompts = tokens.chunks(MEASURED_PROMPT).map(|tokens| {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let mut rows = Vec::new();
        crate::layer::embed(model, &ids, &mut rows)?;
        Ok(rows)
    });
    let prompts = prompts.collect::<Result<Vec<_>, RuntimeError>>()?;
    let prompts: Vec<&[f32]> = prompts.iter().map(Vec::as_slice).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut ready = |layers| {
        progress(layers);
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let measured = Ranges::measure(model.config(), &ModelWeights::new(model), &prompts, threads, &mut ready)?;
    measured.ok_or(RuntimeError::Cancelled)
}
