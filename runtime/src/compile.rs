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
pub mod selftest;

pub use compiled::{COMPILED_FILE, CompiledContext, CompiledModel};
pub use estimate::{ChunkEstimate, ESTIMATING_CHIPS, EstimateReport, GraphEstimate, SyntheticWeights, estimate};
pub use job::{ChildCompiler, Compiler, ContextReport, JobReply, JobRequest, JobTask, run_job};
pub use selftest::{GraphCheck, Recording, SelftestReport, record, replay};
pub(crate) use selftest::{execute as selftest_execute, inputs as selftest_inputs};

use crate::{Model, RuntimeError, npu::ModelWeights};
use coexec_model::{Calibration, DecoderConfig, Schedule, TokenId};
use coexec_npu::{
    ContextSpec, DeviceProfile, NpuWeights, Placement,
    decoder::{
        Activation, FusedOptions, LayerOptions, Ranges, SplitOptions, fused_context, layer_context, split_context,
    },
};
use coexec_scheduler::CancelToken;
use serde::{Deserialize, Serialize};
use std::{ops::Range, path::Path};

/// Which graphs to make of a model, and for which chip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompileOptions {
    /// Chip by name (`sm8650`) or Qualcomm's SoC id (`57`).
    pub chip: String,
    /// Which stages of a layer are graphs.
    pub placement: Placement,
    /// Dtype of activations.
    pub activation: Activation,
    /// How linears run where that is not what the file says (placement `split` in u8).
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
            vtcm_mb: None,
            hvx_threads: None,
            optimization: None,
            record: true,
        }
    }
}

impl CompileOptions {
    /// What a compiled model has to agree in before it is used instead of a new one: everything but the recording.
    #[must_use]
    pub fn key(&self, model_hash: &str, library: &str) -> String {
        let same = Self { record: false, ..self.clone() };
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
            contexts.extend(profile.shard(&self.context(numbers, chunk_lens)?)?);
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
    /// [`RuntimeError::NotCalibrated`] when codes need scales that the file does not have; as there.
    pub fn contexts_of(&self, model: &Model, profile: &DeviceProfile) -> Result<Vec<ContextSpec>, RuntimeError> {
        let config = model.config();
        let floats = self.activation == Activation::F16;
        let (calibration, ranges) = match (model.calibration(), &self.ranges) {
            (Some(calibration), Some(ranges)) => (Some(calibration), ranges.clone()),
            (Some(calibration), None) => {
                (Some(calibration), Ranges::from_calibration(config, calibration, &ModelWeights::new(model))?)
            }
            (None, Some(ranges)) if self.placement != Placement::Split => (None, ranges.clone()),
            // Floats have no scales: any will do.
            (None, _) if floats => (None, Ranges::synthetic(config)),
            (None, _) => return Err(RuntimeError::NotCalibrated),
        };
        let unused = estimate::synthetic_calibration(config);
        let mut calibration = calibration.unwrap_or(&unused).clone();
        if let Some(schedule) = &self.schedule {
            calibration.set_schedule(schedule);
        }
        let numbers = Numbers {
            config,
            calibration: &calibration,
            ranges: &ranges,
            weights: self.weights.unwrap_or_else(|| crate::npu::npu_weights(model)),
        };
        self.contexts(&numbers, profile)
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
/// device, in prompts of 128 tokens.
///
/// # Errors
/// No tokens, unknown tokens, weights that cannot be read.
pub fn measure_ranges(model: &Model, tokens: &[TokenId]) -> Result<Ranges, RuntimeError> {
    let prompts = tokens.chunks(MEASURED_PROMPT).map(|tokens| {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let mut rows = Vec::new();
        crate::layer::embed(model, &ids, &mut rows)?;
        Ok(rows)
    });
    let prompts = prompts.collect::<Result<Vec<_>, RuntimeError>>()?;
    let prompts: Vec<&[f32]> = prompts.iter().map(Vec::as_slice).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Ranges::measure(model.config(), &ModelWeights::new(model), &prompts, threads)?)
}

/// Compiles a model into a directory that is there: every context as a job of its own, then the index.
///
/// # Errors
/// The first job's that fails; what is in the directory then is no compiled model (it has no index).
pub fn compile(
    model: &Model,
    options: &CompileOptions,
    library_dir: Option<&Path>,
    dir: &Path,
    compiler: &Compiler,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(&ContextReport),
) -> Result<CompiledModel, RuntimeError> {
    // The library is opened where the jobs run, not here.
    let contexts = options.contexts_of(model, &job::qnn_options(options, library_dir).device_profile()?)?;
    let mut compiled = CompiledModel::new(&model.hash_hex(), options, "");
    // An index of before must not speak of the new binaries.
    match std::fs::remove_file(dir.join(COMPILED_FILE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let reason = format!("cannot be replaced: {e}");
            return Err(RuntimeError::Compiled { path: dir.join(COMPILED_FILE), reason });
        }
        _ => {}
    }
    for index in 0..contexts.len() {
        let request = JobRequest {
            options: options.clone(),
            library_dir: library_dir.map(Path::to_owned),
            shape: None,
            task: JobTask::Context { index, dir: dir.to_owned() },
        };
        match compiler.run(&request, Some(model), cancel)? {
            JobReply::Context(report) => {
                progress(&report);
                if let Some(made_by) = &report.context.manifest.qnn {
                    compiled.library.clone_from(&made_by.build_id);
                }
                compiled.contexts.push(report.context);
            }
            other => return Err(RuntimeError::Schedule(format!("a compile job answered {other:?}; this is a bug"))),
        }
    }
    compiled.write(dir)?;
    Ok(compiled)
}
