//! From a prompt's length to a task graph: chunks, stages, dependencies, costs.
//!
//! Dependencies are llm.npu's (Eq. 2 and 3): `attend` of chunk *i* needs `kv_write` of chunks 0 … *i* of the same layer,
//! everything else only its own predecessor; the shadow of a linear depends on the linear's input and is joined by the
//! linear's consumer. Where only the last position's logits are wanted, earlier chunks end with the last layer's
//! `kv_write`: nothing reads what would follow.

use super::chunks::{Chunk, Rung, cut, cut_evenly};
use crate::{RuntimeError, calibrate};
use coexec_model::{DecoderConfig, LinearKind, Schedule, Treatment};
use coexec_npu::{
    DeviceProfile, Dtype, WeightEncoding,
    profile::{LinearShape, estimate_linear_us},
};
use coexec_scheduler::{GraphBuilder, Label, Processor, ResourceId, Task, TaskGraph, TaskId};

/// Where linears run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// llm.npu's: linears on the NPU, the rest on the CPU, outliers in shadow.
    Split,
    /// Everything on the CPU.
    Cpu,
}

/// Chunks whose activations may be in memory at once, in an engine and on a simulated phone.
pub const MAX_CHUNKS_IN_FLIGHT: usize = 8;

impl Placement {
    /// `split` or `cpu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Cpu => "cpu",
        }
    }
}

/// One step of a layer (or of a chunk) that runs on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Embeds the chunk's tokens.
    Embed,
    /// Residual add of the layer before, RMSNorm, quantise.
    AttnIn,
    /// A linear.
    Linear(LinearKind),
    /// The linear's float correction.
    Shadow(LinearKind),
    /// Join, bias, head norms, RoPE, K and V into the cache.
    KvWrite,
    /// Causal attention, quantise.
    Attend,
    /// Join, residual add, RMSNorm, quantise.
    FfnIn,
    /// Join, SwiGLU, quantise. With [`Placement::Cpu`] gate and up do it.
    Act,
    /// Join, last residual add, logits where they are wanted.
    Out,
}

impl Stage {
    /// Name in traces and plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::AttnIn => "attn_in",
            Self::Linear(kind) => kind.name(),
            Self::Shadow(LinearKind::Qkv) => "shadow_qkv",
            Self::Shadow(LinearKind::O) => "shadow_o",
            Self::Shadow(LinearKind::GateUp) => "shadow_gate_up",
            Self::Shadow(LinearKind::Down) => "shadow_down",
            Self::KvWrite => "kv_write",
            Self::Attend => "attend",
            Self::FfnIn => "ffn_in",
            Self::Act => "act",
            Self::Out => "out",
        }
    }
}

/// A task: one stage of one layer of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTask {
    /// The step.
    pub stage: Stage,
    /// The layer; for [`Stage::Embed`] 0 and for [`Stage::Out`] the last.
    pub layer: usize,
    /// The chunk.
    pub chunk: usize,
}

/// Expected times of tasks. Policies compare them and `coexec simulate` runs on them; results never depend on them.
#[derive(Clone, Debug)]
pub struct StageCosts {
    /// Whose timing model the linears of placement `split` take.
    pub npu: DeviceProfile,
    /// Times of single linears that are known better than by `npu`'s model, e.g. from `coexec compile --estimate`.
    pub linears: Vec<LinearTime>,
    /// Nanoseconds of one CPU worker per multiply-accumulate of a linear or of attention.
    pub cpu_ns_per_mac: f64,
    /// Nanoseconds of one CPU worker per float touched by a norm, activation or quantiser.
    pub cpu_ns_per_elem: f64,
    /// Share of the input elements that shadow is expected to correct.
    pub clipped_share: f64,
}

/// Time of a linear's static graph on an NPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearTime {
    /// Which linear.
    pub kind: LinearKind,
    /// Rows of the graph.
    pub chunk_len: usize,
    /// Microseconds of one execution.
    pub us: f64,
}

impl StageCosts {
    /// Where the CPU's constants come from.
    pub const CPU_SOURCE: &'static str = "CPU: llm.npu Table 3 (INT8 64x2048x2048 in 4.2 ms, taken as 4 workers) and 1 ns per \
         float and worker, which gives the paper's CPU time of half the NPU's at prompt 256";

    /// Time of a linear in u16 over that in u8: the mean of what Qualcomm's compiler estimates for all linears of three models
    /// at 256 rows, 16.4/11.8, 39.1/30.9 and 85.5/69.2 ms (docs/qnn.md, placement `split`). At 128 rows it is 1.06 to 1.27.
    pub const WIDE_TIMES: f64 = 1.3;

    /// Costs of a phone: the NPU by `npu`'s timing model, the CPU by [`Self::CPU_SOURCE`].
    #[must_use]
    pub fn phone(npu: DeviceProfile) -> Self {
        Self {
            npu,
            linears: Vec::new(),
            cpu_ns_per_mac: 4.0 * 4.2e6 / (64.0 * 2048.0 * 2048.0),
            cpu_ns_per_elem: 1.0,
            clipped_share: calibrate::CLIPPED_SHARE,
        }
    }

    fn npu_linear_ns(&self, kind: LinearKind, treatment: Treatment, m: usize, n: usize, k: usize) -> f64 {
        // The timing model's u16 may come from another source than its u8: one ratio keeps them comparable.
        let times = if treatment == Treatment::Wide { Self::WIDE_TIMES } else { 1.0 };
        if let Some(known) = self.linears.iter().find(|l| l.kind == kind && l.chunk_len == m) {
            return known.us * 1e3 * times;
        }
        let shape = LinearShape { m, k, n, activation: Dtype::U8, weights: WeightEncoding::PerChannelI8 };
        estimate_linear_us(&self.npu, shape).map_or_else(
            // A profile without timing: the paper's NPU is about five times its CPU.
            || m as f64 * n as f64 * k as f64 * self.cpu_ns_per_mac / 20.0 * times,
            |estimate| estimate.us * 1e3 * times,
        )
    }
}

/// What a plan depends on besides the model and the prompt.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Where linears run.
    pub placement: Placement,
    /// Tokens that a chunk may hold. The CPU takes the longest.
    pub chunk_lens: Vec<usize>,
    /// Per layer and linear: how it runs on the NPU.
    pub schedule: Schedule,
    /// Per layer and linear: share of the input that the CPU is expected to compute beside the NPU; where missing, that of the
    /// costs.
    pub shadow_shares: Vec<[f32; 4]>,
    /// Whether every position's logits are wanted, not only the last one's.
    pub all_logits: bool,
    /// CPU workers.
    pub cpu_workers: usize,
    /// Chunks whose activations may be in memory at once.
    pub max_chunks_in_flight: usize,
    /// Expected times.
    pub costs: StageCosts,
}

/// A prompt's chunks and tasks.
#[derive(Debug)]
pub struct PrefillPlan {
    /// Where linears run.
    pub placement: Placement,
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
    /// What each task of the graph is, by task id.
    pub tasks: Vec<StageTask>,
    /// The task graph.
    pub graph: TaskGraph,
}

struct Builder<'a> {
    config: &'a DecoderConfig,
    options: &'a PlanOptions,
    graph: GraphBuilder,
    tasks: Vec<StageTask>,
    in_flight: ResourceId,
    /// Whether the current chunk goes through the whole last layer.
    whole: bool,
}

impl Builder<'_> {
    fn add(&mut self, stage: Stage, layer: usize, chunk: usize, c: Chunk, after: &[TaskId]) -> TaskId {
        let split = self.options.placement == Placement::Split;
        let mut label = match stage {
            // Named like its static graph.
            Stage::Linear(kind) if split => Label::new(format!("{kind}.c{}", c.chunk_len)),
            _ => Label::new(stage.name()),
        }
        .chunk(chunk as u32);
        if !matches!(stage, Stage::Embed | Stage::Out) {
            label = label.layer(layer as u32);
        }
        let (processor, lanes) = match stage {
            Stage::Linear(_) if split => (Processor::Npu, 1),
            Stage::Embed => (Processor::Cpu, 1),
            _ => (Processor::Cpu, self.options.cpu_workers),
        };
        let cost = self.cost_ns(stage, layer, c).max(1.0) as u64;
        let mut task = Task::new(processor, cost, label).lanes(lanes.clamp(1, 256) as u16);
        let last_layer = layer + 1 == self.config.num_hidden_layers as usize;
        match stage {
            Stage::Embed => task = task.resource(self.in_flight, 1),
            Stage::Out => task = task.resource(self.in_flight, -1),
            Stage::KvWrite if last_layer && !self.whole => task = task.resource(self.in_flight, -1),
            _ => {}
        }
        let id = self.graph.add_task(task);
        for task in after {
            self.graph.add_edge(*task, id);
        }
        self.tasks.push(StageTask { stage, layer, chunk });
        id
    }

    fn cost_ns(&self, stage: Stage, layer: usize, c: Chunk) -> f64 {
        let (config, costs) = (self.config, &self.options.costs);
        let (m, hidden) = (c.tokens as f64, f64::from(config.hidden_size));
        let shape = |kind| {
            let (n, k) = config.linear_shape(kind);
            (n as f64, k as f64)
        };
        let elems = |n: f64| m * n * costs.cpu_ns_per_elem;
        match stage {
            Stage::Embed => elems(hidden),
            Stage::AttnIn => elems(3.0 * hidden),
            Stage::FfnIn => elems(4.0 * hidden),
            Stage::KvWrite => elems(3.0 * shape(LinearKind::Qkv).0),
            Stage::Act => elems(3.0 * shape(LinearKind::GateUp).0),
            Stage::Attend => {
                let keys = c.start_pos as f64 + m / 2.0;
                let keys = config.sliding_window.map_or(keys, |w| keys.min(f64::from(w)));
                2.0 * m * keys * config.q_size() as f64 * costs.cpu_ns_per_mac + elems(config.q_size() as f64)
            }
            Stage::Linear(kind) => {
                let (n, k) = shape(kind);
                match self.options.placement {
                    Placement::Split => {
                        let treatment = self.treatment(kind, layer);
                        costs.npu_linear_ns(kind, treatment, c.chunk_len, n as usize, k as usize)
                    }
                    Placement::Cpu => m * n * k * costs.cpu_ns_per_mac,
                }
            }
            Stage::Shadow(kind) => {
                let (n, k) = shape(kind);
                let shares = self.options.shadow_shares.get(layer);
                let share = shares.map_or(costs.clipped_share, |l| f64::from(l[kind.index()]));
                m * k * share * n * costs.cpu_ns_per_mac + elems(n / 16.0)
            }
            Stage::Out => {
                let last = layer + 1 == config.num_hidden_layers as usize;
                let rows = if self.options.all_logits { m } else { f64::from(u8::from(last)) };
                elems(2.0 * hidden) + rows * hidden * f64::from(config.vocab_size) * costs.cpu_ns_per_mac
            }
        }
    }

    fn treatment(&self, kind: LinearKind, layer: usize) -> Treatment {
        self.options.schedule.get(layer).map_or(Treatment::Plain, |layer| layer[kind.index()])
    }

    /// A linear and its shadow; returns what the consumer waits for.
    fn linear(&mut self, kind: LinearKind, layer: usize, chunk: usize, c: Chunk, input: TaskId) -> Vec<TaskId> {
        let mut ends = vec![self.add(Stage::Linear(kind), layer, chunk, c, &[input])];
        if self.options.placement == Placement::Split && self.treatment(kind, layer).has_shadow() {
            ends.push(self.add(Stage::Shadow(kind), layer, chunk, c, &[input]));
        }
        ends
    }
}

/// What a chunk of each length takes on the NPU: the linears of all layers.
#[must_use]
pub fn rungs(config: &DecoderConfig, costs: &StageCosts, chunk_lens: &[usize]) -> Vec<Rung> {
    let rung = |&chunk_len: &usize| {
        let layer_ns: f64 = LinearKind::ALL
            .iter()
            .map(|kind| {
                let (n, k) = config.linear_shape(*kind);
                costs.npu_linear_ns(*kind, Treatment::Plain, chunk_len, n, k)
            })
            .sum();
        Rung { chunk_len, cost_ns: (layer_ns * f64::from(config.num_hidden_layers)).max(1.0) as u64 }
    };
    chunk_lens.iter().map(rung).collect()
}

fn chunks(config: &DecoderConfig, options: &PlanOptions, prompt_len: usize, start_pos: usize) -> Vec<Chunk> {
    match options.placement {
        Placement::Split => cut(prompt_len, start_pos, &rungs(config, &options.costs, &options.chunk_lens)),
        Placement::Cpu => cut_evenly(prompt_len, start_pos, options.chunk_lens.iter().copied().max().unwrap_or(0)),
    }
}

/// Plans the prefill of `prompt_len` tokens from position `start_pos`.
///
/// # Errors
/// [`RuntimeError::EmptyPrompt`] for no tokens; [`RuntimeError::Option`] for no chunk lengths; [`RuntimeError::Schedule`] when the graph is refused.
pub fn plan(
    config: &DecoderConfig,
    options: &PlanOptions,
    prompt_len: usize,
    start_pos: usize,
) -> Result<PrefillPlan, RuntimeError> {
    if prompt_len == 0 {
        return Err(RuntimeError::EmptyPrompt);
    }
    if options.chunk_lens.is_empty() || options.chunk_lens.contains(&0) {
        let (option, value) = ("--chunk-len", format!("{:?}", options.chunk_lens));
        return Err(RuntimeError::Option {
            option,
            value,
            reason: "use at least one length, each at least 1".to_owned(),
        });
    }
    let chunks = chunks(config, options, prompt_len, start_pos);
    let mut graph = GraphBuilder::new();
    let in_flight = graph.add_resource("chunks in flight", options.max_chunks_in_flight.max(1) as u32);
    let mut b = Builder { config, options, graph, tasks: Vec::new(), in_flight, whole: true };
    let layers = config.num_hidden_layers as usize;
    let mut kv_writes: Vec<Vec<TaskId>> = vec![Vec::new(); layers];
    let mut embed_before = None;
    for (i, &c) in chunks.iter().enumerate() {
        // Chunks enter in order, so a chunk in flight never waits for one that is not.
        b.whole = options.all_logits || i + 1 == chunks.len();
        let embed = b.add(Stage::Embed, 0, i, c, embed_before.as_slice());
        embed_before = Some(embed);
        let mut before = vec![embed];
        for (l, kv_writes) in kv_writes.iter_mut().enumerate() {
            let attn_in = b.add(Stage::AttnIn, l, i, c, &before);
            let qkv = b.linear(LinearKind::Qkv, l, i, c, attn_in);
            let kv_write = b.add(Stage::KvWrite, l, i, c, &qkv);
            kv_writes.push(kv_write);
            before = vec![kv_write];
            if l + 1 == layers && !b.whole {
                break;
            }
            let attend = b.add(Stage::Attend, l, i, c, kv_writes);
            let o = b.linear(LinearKind::O, l, i, c, attend);
            let ffn_in = b.add(Stage::FfnIn, l, i, c, &o);
            let gate_up = b.linear(LinearKind::GateUp, l, i, c, ffn_in);
            // On the CPU gate and up make SwiGLU on the way.
            let act = match options.placement {
                Placement::Split => b.add(Stage::Act, l, i, c, &gate_up),
                Placement::Cpu => gate_up[0],
            };
            before = b.linear(LinearKind::Down, l, i, c, act);
        }
        if b.whole {
            b.add(Stage::Out, layers - 1, i, c, &before);
        }
    }
    let Builder { graph, tasks, .. } = b;
    let graph = graph.build().map_err(|e| RuntimeError::Schedule(e.to_string()))?;
    Ok(PrefillPlan { placement: options.placement, chunks, tasks, graph })
}
