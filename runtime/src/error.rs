//! Everything that can go wrong between a prompt and its text.

use coexec_model::{LayerIdx, TensorName, WeightFormat};

/// An error of the runtime: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The packed file is missing, damaged or does not fit.
    #[error(transparent)]
    Packed(#[from] coexec_model::packed::PackedError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] coexec_model::output::OutputError),
    /// The model to import is missing, damaged or not supported.
    #[error(transparent)]
    Source(#[from] coexec_model::source::SourceError),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// Sampler options or logits.
    #[error(transparent)]
    Sampler(#[from] crate::sampler::SamplerError),
    /// The system has no memory for this; what needs less works as before.
    #[error(transparent)]
    Memory(#[from] coexec_model::memory::OutOfMemory),
    /// A CPU operation.
    #[error(transparent)]
    Cpu(#[from] coexec_cpu::CpuError),
    /// An unknown kernel set.
    #[error(transparent)]
    Kernels(#[from] coexec_cpu::KernelError),
    /// The NPU or its graphs.
    #[error(transparent)]
    Npu(Box<coexec_npu::NpuError>),
    /// A static graph failed while a prompt ran.
    #[error("NPU {device}, graph `{graph}`: {source}")]
    NpuGraph {
        /// Name of the device's profile.
        device: String,
        /// The graph.
        graph: String,
        /// What the device says.
        source: Box<coexec_npu::NpuError>,
    },
    /// A compiled model that is missing, damaged, or made for something else.
    #[error("compiled model `{}` {reason}", path.display())]
    Compiled {
        /// File or directory.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The cache of compiled models and the like.
    #[error("cache: `{}` {reason}", path.display())]
    Cache {
        /// File or directory.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A child process that was to compile.
    #[error("compile job of `{}`: {reason}", program.display())]
    CompileJob {
        /// The program.
        program: std::path::PathBuf,
        /// How it ended.
        reason: String,
    },
    /// A name that is no published shape.
    #[error(transparent)]
    Shape(#[from] coexec_model::random::UnknownShape),
    /// The static graphs could not be built for this model.
    #[error(transparent)]
    Graphs(#[from] coexec_npu::decoder::BuildError),
    /// The schedule of a prefill.
    #[error("prefill could not be scheduled: {0}")]
    Schedule(String),
    /// A task of a prefill panicked; this is a bug of coexec.
    #[error("internal error in task `{task}`: {message}")]
    TaskPanicked {
        /// The task's label.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// A weight tile could not be read.
    #[error("tensor `{tensor}`: {source}")]
    Tile {
        /// The tensor.
        tensor: TensorName,
        /// What happened.
        source: coexec_cpu::TileError,
    },
    /// Nothing to compute.
    #[error("the prompt is empty: it has no token; give at least one word")]
    EmptyPrompt,
    /// More tokens than the context holds.
    #[error(
        "{wanted} tokens do not fit the context of {limit} ({used} used): shorten the prompt or start a new session"
    )]
    ContextFull {
        /// Tokens already in the session.
        used: usize,
        /// Tokens to add.
        wanted: usize,
        /// The model's `max_position_embeddings`.
        limit: usize,
    },
    /// A conversation that leaves no room for an answer.
    #[error(
        "the conversation has {tokens} tokens, the context holds {limit}: nothing is left for an answer; clear it, take turns back, \
         or let the oldest be dropped"
    )]
    ChatFull {
        /// Tokens of the conversation, with the beginning of the answer.
        tokens: usize,
        /// The model's `max_position_embeddings`.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: u32,
    },
    /// Static graphs need scales.
    #[error(
        "the model has no calibration, which the NPU's static scales come from: import it again with `--calibrate TEXT`, or run with `--npu none`"
    )]
    NotCalibrated,
    /// The model cannot read or write text.
    #[error(
        "the model has no tokenizer, so text cannot be turned into tokens: give tokens, or import a model with a tokenizer"
    )]
    NoTokenizer,
    /// An option has a value that cannot be.
    #[error("option {option} = {value}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The value given.
        value: String,
        /// Why not, and what is allowed.
        reason: String,
    },
    /// Weights or activations that are no numbers.
    #[error("layer {}: {what} is not finite; the model file is damaged or the model overflows in this format", layer.0)]
    NotFinite {
        /// The layer.
        layer: LayerIdx,
        /// What was looked at.
        what: String,
    },
    /// A weight that a format has no scale for.
    #[error("tensor `{tensor}` holds {value}; {format} allows ±{}: use another format", format.largest())]
    TooLarge {
        /// The tensor.
        tensor: TensorName,
        /// The weight.
        value: f32,
        /// The format.
        format: WeightFormat,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<coexec_npu::NpuError> for RuntimeError {
    fn from(error: coexec_npu::NpuError) -> Self {
        Self::Npu(Box::new(error))
    }
}

impl RuntimeError {
    /// Whether an NPU failed, not the request: the same may succeed on fresh static graphs, or elsewhere.
    #[must_use]
    pub fn is_device_failure(&self) -> bool {
        match self {
            Self::Npu(source) | Self::NpuGraph { source, .. } => source.is_device_failure(),
            _ => false,
        }
    }
}

/// An error with its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
