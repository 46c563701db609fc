//! List scheduling by upward rank.

use std::cmp::Reverse;

use crate::policy::Policy;
use crate::state::State;
use crate::task::{Processor, TaskId};

/// Takes the startable task with the longest remaining path by cost (upward rank, as in HEFT). Among equals the one that
/// unlocks more NPU work at once wins, then the first in program order. Never waits while something is startable.
#[derive(Clone, Copy, Debug, Default)]
pub struct CriticalPath;

impl Policy for CriticalPath {
    fn name(&self) -> &'static str {
        "critical-path"
    }

    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        let graph = state.graph();
        let unlocked_npu_ns = |task: TaskId| -> u128 {
            state
                .unlocked_by(task)
                .filter(|&s| graph.task(s).processor == Processor::Npu)
                .map(|s| u128::from(state.best_ns(s)))
                .sum()
        };
        state
            .startable(processor)
            .max_by_key(|&task| (state.rank_ns(task), unlocked_npu_ns(task), Reverse(graph.position(task))))
    }
}
