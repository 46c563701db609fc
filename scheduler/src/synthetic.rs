//! Graphs like those of llm.npu's prefill, from a table of stage costs: for tests, benchmarks and `coexec simulate` without
//! a model. The costs are *assumed*; whatever comes out of them must be labelled simulated, with [`PrefillCosts::SOURCE`].

use crate::graph::{GraphBuilder, GraphError, TaskGraph};
use crate::task::{Label, Processor, ResourceId, Task, TaskId};

/// Time of each stage of one layer for one chunk, in ns. CPU stages: on one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "one field per stage, named as the stage")]
pub struct PrefillCosts {
    pub norm_quant_ns: u64,
    pub qkv_ns: u64,
    pub rope_kv_write_ns: u64,
    /// Attention inside the own chunk.
    pub attend_own_ns: u64,
    /// Attention over each chunk before it.
    pub attend_before_ns: u64,
    pub o_ns: u64,
    pub gate_up_ns: u64,
    pub act_ns: u64,
    pub down_ns: u64,
    /// One shadow task, where the linear is not pruned.
    pub shadow_ns: u64,
}

impl PrefillCosts {
    /// Where [`PAPER_LIKE`](Self::PAPER_LIKE) comes from.
    pub const SOURCE: &str = "llm.npu, ASPLOS'25: NPU 315 ms per 256 tokens of Qwen1.5-1.8B, CPU about half of that; \
                              split over stages by multiply-adds (NPU) and assumed (CPU, four lanes)";

    /// Qwen1.5-1.8B (24 layers, 2048/5504), 256-token chunks, Snapdragon 8 Gen 3, after the paper: 13.1 ms of NPU per layer
    /// and chunk, split by multiply-adds; 6.6 ms of CPU on four lanes for the first chunk, split by assumption.
    pub const PAPER_LIKE: Self = Self {
        norm_quant_ns: 4 * 500_000,
        qkv_ns: 3_260_000,
        rope_kv_write_ns: 4 * 600_000,
        attend_own_ns: 4 * 2_600_000,
        attend_before_ns: 4 * 1_300_000,
        o_ns: 1_090_000,
        gate_up_ns: 5_850_000,
        act_ns: 4 * 1_400_000,
        down_ns: 2_920_000,
        shadow_ns: 1_200_000,
    };
}

/// What graph to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillShape {
    /// Chunks of the prompt.
    pub chunks: u32,
    /// Layers of the model.
    pub layers: u32,
    /// CPU workers that norms, attention and activations can use.
    pub lanes: u16,
    /// Of 100 linears, how many have no shadow (the paper's default: 85).
    pub pruned_percent: u32,
    /// The most chunks that may be in flight at once; `None` for no limit.
    pub chunks_in_flight: Option<u32>,
    /// Stage costs.
    pub costs: PrefillCosts,
}

impl PrefillShape {
    /// Paper-like costs, four lanes, 85 % of the shadows pruned, no limit on chunks in flight.
    pub fn paper_like(chunks: u32, layers: u32) -> Self {
        Self { chunks, layers, lanes: 4, pruned_percent: 85, chunks_in_flight: None, costs: PrefillCosts::PAPER_LIKE }
    }

    /// Builds the graph: per chunk and layer `norm_quant → qkv ∥ shadow → rope_kv_write → attend → o ∥ shadow → norm_quant →
    /// gate_up ∥ shadow → act → down ∥ shadow`; `attend` of chunk `i` needs `rope_kv_write` of chunks `0..=i` (Eq. 2),
    /// everything else only its own predecessor (Eq. 3); a shadow is joined by its linear's consumer.
    ///
    /// # Errors
    /// With more tasks than ids, or 0 chunks in flight or lanes.
    pub fn build(&self) -> Result<TaskGraph, GraphError> {
        let mut maker = Maker { shape: self, builder: GraphBuilder::new(), slot: None, linears: 0 };
        maker.slot = self.chunks_in_flight.map(|n| maker.builder.add_resource("chunks in flight", n));
        let mut kv_written: Vec<Vec<TaskId>> = vec![Vec::new(); self.layers as usize];
        for chunk in 0..self.chunks {
            let mut before = Vec::new();
            for layer in 0..self.layers {
                before = maker.layer(chunk, layer, &before, &mut kv_written[layer as usize]);
            }
        }
        maker.builder.build()
    }
}

struct Maker<'a> {
    shape: &'a PrefillShape,
    builder: GraphBuilder,
    slot: Option<ResourceId>,
    /// Linears so far, to spread the unpruned ones evenly.
    linears: u32,
}

impl Maker<'_> {
    fn add(&mut self, task: Task, after: &[TaskId]) -> TaskId {
        let id = self.builder.add_task(task);
        for &before in after {
            self.builder.add_edge(before, id);
        }
        id
    }

    fn cpu(&mut self, stage: &'static str, at: (u32, u32), cost_ns: u64, after: &[TaskId]) -> TaskId {
        let label = Label::new(stage).chunk(at.0).layer(at.1);
        self.add(Task::new(Processor::Cpu, cost_ns, label).lanes(self.shape.lanes), after)
    }

    /// A linear and, unless pruned, its shadow. Returns what its consumer waits for.
    fn linear(&mut self, stages: [&'static str; 2], at: (u32, u32), cost_ns: u64, after: TaskId) -> Vec<TaskId> {
        let label = |stage| Label::new(stage).chunk(at.0).layer(at.1);
        let mut joined = vec![self.add(Task::new(Processor::Npu, cost_ns, label(stages[0])), &[after])];
        let kept = 100 - self.shape.pruned_percent.min(100);
        // Evenly spread: the n-th linear has a shadow where n·kept/100 steps up.
        let n = self.linears;
        self.linears += 1;
        if (u64::from(n) + 1) * u64::from(kept) / 100 > u64::from(n) * u64::from(kept) / 100 {
            let shadow = Task::new(Processor::Cpu, self.shape.costs.shadow_ns, label(stages[1]));
            joined.push(self.add(shadow, &[after]));
        }
        joined
    }

    fn layer(&mut self, chunk: u32, layer: u32, before: &[TaskId], kv: &mut Vec<TaskId>) -> Vec<TaskId> {
        let costs = self.shape.costs;
        let at = (chunk, layer);
        let label = Label::new("norm_quant").chunk(chunk).layer(layer);
        let mut norm = Task::new(Processor::Cpu, costs.norm_quant_ns, label).lanes(self.shape.lanes);
        if let Some(slot) = self.slot.filter(|_| layer == 0) {
            norm = norm.resource(slot, 1);
        }
        let norm = self.add(norm, before);
        let qkv = self.linear(["qkv", "shadow_qkv"], at, costs.qkv_ns, norm);
        kv.push(self.cpu("rope_kv_write", at, costs.rope_kv_write_ns, &qkv));
        let attend_ns = costs.attend_own_ns + u64::from(chunk) * costs.attend_before_ns;
        let attend = self.cpu("attend", at, attend_ns, kv);
        let o = self.linear(["o", "shadow_o"], at, costs.o_ns, attend);
        let norm = self.cpu("norm_quant", at, costs.norm_quant_ns, &o);
        let gate_up = self.linear(["gate_up", "shadow_gate_up"], at, costs.gate_up_ns, norm);
        let mut act = Task::new(Processor::Cpu, costs.act_ns, Label::new("act").chunk(chunk).layer(layer))
            .lanes(self.shape.lanes);
        if let Some(slot) = self.slot.filter(|_| layer + 1 == self.shape.layers) {
            act = act.resource(slot, -1);
        }
        let act = self.add(act, &gate_up);
        self.linear(["down", "shadow_down"], at, costs.down_ns, act)
    }
}
