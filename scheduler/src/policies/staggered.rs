//! Critical path, with the chunks kept out of step so that they do not all want the CPU, and then all the NPU, at once.

use std::cmp::Reverse;

use crate::bounds::lower_bound;
use crate::graph::TaskGraph;
use crate::policy::Policy;
use crate::simulate::simulate;
use crate::state::State;
use crate::task::{Processor, TaskId};

/// [`CriticalPath`](crate::CriticalPath) with three corrections, each found by looking at simulated prefills:
///
/// 1. *Stagger.* By upward rank alone all chunks walk through the layers in step: all of them do attention while the NPU
///    waits, then all want the NPU. So each task's rank is lowered by a share of the longest path for each step it comes
///    later in program order, which keeps later chunks a little behind.
/// 2. *Unlock first.* The CPU prefers tasks whose completion makes an NPU task ready (the paper's idea, Eq. 5, as a class
///    and not as a sum).
/// 3. *Whole lanes* (off unless tuning finds it better). A CPU task does not start on fewer lanes than it can use while
///    other CPU tasks run, because it would keep that small share to its end.
///
/// Priority of task `t` of `n`: `rank(t) − stagger/1000 · longest path · position(t)/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staggered {
    /// Stagger when the NPU picks, in thousandths.
    pub npu_stagger: u32,
    /// Stagger when the CPU picks, in thousandths.
    pub cpu_stagger: u32,
    /// Whether the CPU prefers tasks that make an NPU task ready.
    pub unlock_first: bool,
    /// Whether CPU tasks wait for all the lanes they can use.
    pub whole_lanes: bool,
}

impl Default for Staggered {
    /// What was best over paper-like prefills of 2 to 8 chunks.
    fn default() -> Self {
        Self { npu_stagger: 50, cpu_stagger: 100, unlock_first: true, whole_lanes: false }
    }
}

impl Staggered {
    /// The most tasks that tuning starts in simulation, over all its runs: some 30 ms of one core.
    const TUNING_STEPS: usize = 250_000;

    /// Mean simulated makespan of `graph` on `cpu_workers` lanes, in ns, over three runs: one with the expected costs and two
    /// in which each task takes up to 25 % more or less (a fixed pattern). Judging by the expected costs alone picks settings
    /// that fall apart on a real machine's jitter. `u64::MAX` when the simulation fails.
    pub fn expected_ns(&self, graph: &TaskGraph, cpu_workers: u16) -> u64 {
        let mut sum_ns = 0u64;
        for run in 0..JITTERED_RUNS {
            let cost = |task: TaskId| jittered_ns(graph.task(task).cost_ns, task, run);
            match simulate(graph, self, &cost, cpu_workers) {
                Ok(report) => sum_ns = sum_ns.saturating_add(report.makespan_ns),
                Err(_) => return u64::MAX,
            }
        }
        sum_ns / JITTERED_RUNS
    }

    /// The settings with the least [`expected_ns`](Self::expected_ns) among some twenty: coordinate descent from the default,
    /// deterministic. Returns the default where that is within 0.5 % of the lower bound, or the graph too large to try.
    pub fn tuned(graph: &TaskGraph, cpu_workers: u16) -> Self {
        let mut best = Self::default();
        let mut trials_left = Self::TUNING_STEPS / graph.len().saturating_mul(JITTERED_RUNS as usize).max(1);
        if trials_left < 2 {
            return best;
        }
        let bound_ns = lower_bound(graph, cpu_workers).max_ns();
        let mut best_ns = best.expected_ns(graph, cpu_workers);
        if best_ns.saturating_sub(bound_ns) <= bound_ns / 200 {
            return best;
        }
        for direction in [0, 1, 2, 0] {
            for candidate in best.neighbours(direction) {
                if trials_left == 0 {
                    return best;
                }
                trials_left -= 1;
                let ns = candidate.expected_ns(graph, cpu_workers);
                if ns < best_ns {
                    (best, best_ns) = (candidate, ns);
                }
            }
        }
        best
    }

    /// Other settings to try, one direction at a time.
    fn neighbours(self, direction: usize) -> Vec<Self> {
        let npu = [0, 10, 20, 35, 50, 80, 120, 200].map(|npu_stagger| Self { npu_stagger, ..self });
        let cpu = [0, 20, 50, 100, 300, 1000].map(|cpu_stagger| Self { cpu_stagger, ..self });
        let flags = [(true, false), (true, true), (false, false), (false, true)]
            .map(|(unlock_first, whole_lanes)| Self { unlock_first, whole_lanes, ..self });
        let mut all = match direction {
            0 => npu.to_vec(),
            1 => flags.to_vec(),
            _ => cpu.to_vec(),
        };
        all.retain(|&candidate| candidate != self);
        all
    }

    fn may_start(self, state: &State<'_>, task: TaskId) -> bool {
        let all_free = state.free_lanes() == state.cpu_workers();
        let wanted = state.graph().task(task).lanes.min(state.cpu_workers());
        !self.whole_lanes || all_free || state.free_lanes() >= wanted
    }
}

/// Runs per trial of [`Staggered::expected_ns`]; the first one has no jitter.
const JITTERED_RUNS: u64 = 3;

/// `cost_ns`, off by up to 25 % in a pattern that depends on the task and the run only.
fn jittered_ns(cost_ns: u64, task: TaskId, run: u64) -> u64 {
    if run == 0 {
        return cost_ns;
    }
    // A multiplicative hash (the golden ratio's bits, then a second odd constant): good enough to decorrelate neighbours.
    let mixed = ((run << 32) | u64::from(task.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = mixed.rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let per_mille = 750 + (mixed >> 40) % 501;
    u64::try_from(u128::from(cost_ns) * u128::from(per_mille) / 1000).unwrap_or(u64::MAX)
}

impl Policy for Staggered {
    fn name(&self) -> &'static str {
        "staggered"
    }

    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        let graph = state.graph();
        let stagger = match processor {
            Processor::Npu => self.npu_stagger,
            Processor::Cpu => self.cpu_stagger,
        };
        let unlocks_npu = |task| state.unlocked_by(task).any(|s| graph.task(s).processor == Processor::Npu);
        let tasks = graph.len() as i128;
        let longest = i128::from(state.longest_path_ns());
        // In units of ns / (1000 · tasks), so that nothing is rounded.
        let priority = |task: TaskId| {
            let lowered = i128::from(stagger) * longest * graph.position(task) as i128;
            i128::from(state.rank_ns(task)) * 1000 * tasks - lowered
        };
        state
            .startable(processor)
            .filter(|&task| processor == Processor::Npu || self.may_start(state, task))
            .max_by_key(|&task| {
                let first = processor == Processor::Cpu && self.unlock_first && unlocks_npu(task);
                (first, priority(task), Reverse(graph.position(task)))
            })
    }
}
