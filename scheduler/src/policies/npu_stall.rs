//! The paper's online heuristic (llm.npu, Eq. 5), with what the paper leaves open fixed and said.

use std::cmp::Reverse;

use crate::policy::Policy;
use crate::state::State;
use crate::task::{Processor, TaskId};

/// Which of the tasks that a task unlocks are counted in its score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlocked {
    /// Only those of the other processor: the CPU counts the NPU work it unlocks, the NPU the CPU work.
    OtherProcessor,
    /// Only NPU tasks, whichever processor picks.
    Npu,
    /// All of them, as Eq. 5 is printed.
    #[default]
    All,
}

/// Eq. 5: whenever a processor is free it takes the ready task `g` with the largest `C(g)`, where `S` is the set of tasks
/// that become ready when `g` completes and `C(g) = +Σ_S T` on the CPU, `−Σ_S T` on the NPU.
///
/// What the paper leaves open, and what is done here:
/// - *what S counts*: all tasks by default, as printed; the two other readings are in [`Unlocked`];
/// - *T* of a CPU task is its time on as many lanes as it can ever get;
/// - *empty S*: `C = 0`;
/// - *ties* (frequent, because of that): the first in program order, so the oldest chunk;
/// - *no look-ahead*: only what is ready now competes, only direct successors count, and a processor never waits while
///   something is startable.
#[derive(Clone, Copy, Debug, Default)]
pub struct NpuStall {
    /// What `S` counts.
    pub unlocked: Unlocked,
}

impl Policy for NpuStall {
    fn name(&self) -> &'static str {
        "npu-stall"
    }

    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        let graph = state.graph();
        let counts = |task: TaskId| match self.unlocked {
            Unlocked::OtherProcessor => graph.task(task).processor != processor,
            Unlocked::Npu => graph.task(task).processor == Processor::Npu,
            Unlocked::All => true,
        };
        let score = |task: TaskId| {
            let sum: i128 = state.unlocked_by(task).filter(|&s| counts(s)).map(|s| i128::from(state.best_ns(s))).sum();
            match processor {
                Processor::Cpu => sum,
                Processor::Npu => -sum,
            }
        };
        state.startable(processor).max_by_key(|&task| (score(task), Reverse(graph.position(task))))
    }
}
