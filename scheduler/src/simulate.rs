//! The same policies on a virtual clock: deterministic, no threads, microseconds per thousand tasks.
//!
//! Lane model: a CPU task that was granted `g` lanes takes `⌈cost / g⌉` ([`duration_ns`]): ideal speed-up, no overhead per
//! task. It flatters the CPU, so measure the costs of multi-lane tasks at the lanes they usually get and multiply by these.
//! Ties in time: all completions of an instant happen first, in program order, then the NPU picks, then the CPU, until
//! nobody starts anything.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::graph::TaskGraph;
use crate::policy::Policy;
use crate::report::{Clock, Event, RunReport};
use crate::state::State;
use crate::task::{Processor, TaskId};

/// Why a simulation could not finish. Never a matter of the costs given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// Nothing runs, and the policy starts nothing although tasks are left.
    #[error("policy `{policy}` is stuck: nothing runs and it starts none of {}", list(tasks))]
    Stuck {
        /// The policy.
        policy: &'static str,
        /// The tasks left, in program order.
        tasks: Vec<String>,
    },
    /// The policy picked a task that cannot start now.
    #[error("policy `{policy}` picked task {task} for the {processor}, which cannot start it now")]
    BadPick {
        /// The policy.
        policy: &'static str,
        /// What it picked.
        task: String,
        /// For whom.
        processor: Processor,
    },
    /// A task gave back a resource that nobody held.
    #[error(
        "task {task} gave back resource `{resource}` before it was acquired; add an edge from the task that acquires it"
    )]
    ResourceUnderflow {
        /// The task.
        task: String,
        /// The resource.
        resource: String,
    },
    /// Times passed `u64::MAX` ns.
    #[error("the virtual clock overflowed at task {task}; its cost is not plausible")]
    ClockOverflow {
        /// The task.
        task: String,
    },
}

/// At most eight names, then a count.
pub(crate) fn list(tasks: &[String]) -> String {
    let shown = tasks.len().min(8);
    let mut text = tasks[..shown].join(", ");
    if tasks.len() > shown {
        text.push_str(&format!(" and {} more", tasks.len() - shown));
    }
    text
}

/// Time of a task of one-lane cost `cost_ns` on `lanes` lanes, by the ideal lane model.
pub fn duration_ns(cost_ns: u64, lanes: u16) -> u64 {
    cost_ns.div_ceil(u64::from(lanes.max(1)))
}

/// Runs `graph` on a virtual clock with `cpu_workers` lanes (0 counts as 1). `cost` gives the *true* time of each task in ns
/// (of a CPU task on one lane); the policy goes on seeing `Task::cost_ns`, so wrong profiles can be tried out.
///
/// # Errors
/// When the policy breaks its contract, when the graph gives back a resource too early, when the clock overflows.
pub fn simulate(
    graph: &TaskGraph,
    policy: &dyn Policy,
    cost: &dyn Fn(TaskId) -> u64,
    cpu_workers: u16,
) -> Result<RunReport, SimulateError> {
    let mut state = State::new(graph, cpu_workers);
    let mut events = Vec::with_capacity(graph.len());
    let mut ends: BinaryHeap<Reverse<(u64, usize, u16)>> = BinaryHeap::new();
    let mut free_workers: BinaryHeap<Reverse<u16>> = (0..state.cpu_workers()).map(Reverse).collect();
    let mut now_ns = 0u64;
    loop {
        start_all(policy, &mut state, |task, lanes| {
            let processor = graph.task(task).processor;
            let took_ns = match processor {
                Processor::Npu => cost(task),
                Processor::Cpu => duration_ns(cost(task), lanes),
            };
            let end_ns = now_ns
                .checked_add(took_ns)
                .ok_or_else(|| SimulateError::ClockOverflow { task: graph.describe(task) })?;
            let worker = match processor {
                Processor::Npu => 0,
                Processor::Cpu => free_workers.pop().map_or(0, |Reverse(w)| w),
            };
            ends.push(Reverse((end_ns, graph.position(task), worker)));
            events.push(Event { task, processor, worker, lanes, start_ns: now_ns, end_ns });
            Ok(())
        })?;
        let Some(&Reverse((end_ns, ..))) = ends.peek() else { break };
        now_ns = end_ns;
        while let Some(&Reverse((end_ns, position, worker))) = ends.peek() {
            if end_ns != now_ns {
                break;
            }
            ends.pop();
            let task = graph.program_order()[position];
            if graph.task(task).processor == Processor::Cpu {
                free_workers.push(Reverse(worker));
            }
            state.complete(task).map_err(|underflow| SimulateError::ResourceUnderflow {
                task: graph.describe(task),
                resource: graph.resource(underflow.resource).0.to_owned(),
            })?;
        }
    }
    if !state.is_finished() {
        return Err(SimulateError::Stuck {
            policy: policy.name(),
            tasks: state.unstarted().map(|t| graph.describe(t)).collect(),
        });
    }
    Ok(RunReport::new(events, policy.name(), state.cpu_workers(), Clock::Virtual))
}

/// Starts whatever the policy picks at this instant.
fn start_all(
    policy: &dyn Policy,
    state: &mut State<'_>,
    mut started: impl FnMut(TaskId, u16) -> Result<(), SimulateError>,
) -> Result<(), SimulateError> {
    loop {
        let mut any = false;
        for processor in Processor::ALL {
            while state.can_serve(processor) {
                let Some(task) = policy.pick(state, processor) else { break };
                if !state.can_start(task, processor) {
                    let graph = state.graph();
                    let known = task.index() < graph.len();
                    return Err(SimulateError::BadPick {
                        policy: policy.name(),
                        task: if known { graph.describe(task) } else { task.to_string() },
                        processor,
                    });
                }
                let lanes = state.start(task);
                started(task, lanes)?;
                any = true;
            }
        }
        if !any {
            return Ok(());
        }
    }
}
