//! Naive overlap: each processor runs its tasks in program order and waits for the next one.

use crate::policy::Policy;
use crate::state::State;
use crate::task::{Processor, TaskId};

/// Starts each processor's tasks strictly in program order (chunk by chunk, layer by layer). Where the next task is not
/// ready the processor waits, even when others are: the paper's naive overlap, the baseline of every comparison.
///
/// Cannot get stuck: when nothing runs, the first unstarted task in program order is the next one of its processor, and
/// all its predecessors are complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct InOrder;

impl Policy for InOrder {
    fn name(&self) -> &'static str {
        "in-order"
    }

    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        state.next_in_order(processor).filter(|&task| state.can_start(task, processor))
    }
}
