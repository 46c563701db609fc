//! How good can a run be? A lower bound for every graph, and the exact optimum of small ones.
//!
//! Both use the simulator's machine: `Task::cost_ns`, the ideal lane model, one NPU, `cpu_workers` lanes. So for every
//! policy: `lower_bound_ns ≤ exact_optimum_ns ≤ simulated makespan`. Called by tests, benchmarks and `coexec simulate`.

use std::collections::HashMap;

use thiserror::Error;

use crate::graph::TaskGraph;
use crate::simulate::duration_ns;
use crate::state::{State, TaskStatus, best_ns};
use crate::task::{Processor, TaskId};

/// The parts of a lower bound on the makespan, in ns. Each holds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerBound {
    /// The longest path, every CPU task on as many lanes as it can use.
    pub critical_path_ns: u64,
    /// NPU work, one task at a time, plus what must come before and after it.
    pub npu_load_ns: u64,
    /// CPU work spread over all lanes, plus what must come before and after it.
    pub cpu_load_ns: u64,
}

impl LowerBound {
    /// The largest of the parts: no run can be shorter.
    pub fn max_ns(&self) -> u64 {
        self.critical_path_ns.max(self.npu_load_ns).max(self.cpu_load_ns)
    }
}

/// A lower bound on the makespan of any policy on `cpu_workers` lanes (0 counts as 1).
///
/// Load bounds: for any set of tasks of one processor, the earliest time at which one of them can start, plus their work,
/// plus the shortest path that follows any of them. The sets tried are "all that cannot start before `h`", for every `h`.
pub fn lower_bound(graph: &TaskGraph, cpu_workers: u16) -> LowerBound {
    let workers = cpu_workers.max(1);
    let best = |t: TaskId| best_ns(graph, t, graph.task(t).cost_ns, workers);
    let mut head = vec![0u64; graph.len()];
    for &task in graph.program_order() {
        let end = head[task.index()].saturating_add(best(task));
        for next in graph.successors(task) {
            head[next.index()] = head[next.index()].max(end);
        }
    }
    let mut tail = vec![0u64; graph.len()];
    for &task in graph.program_order().iter().rev() {
        let after = graph.successors(task).iter();
        tail[task.index()] = after.map(|s| tail[s.index()].saturating_add(best(*s))).max().unwrap_or(0);
    }
    let load = |processor: Processor| {
        let mut tasks: Vec<TaskId> = graph.task_ids().filter(|&t| graph.task(t).processor == processor).collect();
        tasks.sort_by_key(|t| std::cmp::Reverse(head[t.index()]));
        let (mut bound, mut work, mut least_tail) = (0u64, 0u64, u64::MAX);
        for task in tasks {
            work = work.saturating_add(graph.task(task).cost_ns);
            least_tail = least_tail.min(tail[task.index()]);
            let spread = match processor {
                Processor::Npu => work,
                Processor::Cpu => work.div_ceil(u64::from(workers)),
            };
            bound = bound.max(head[task.index()].saturating_add(spread).saturating_add(least_tail));
        }
        bound
    };
    let ends = graph.task_ids().map(|t| head[t.index()].saturating_add(best(t)));
    LowerBound {
        critical_path_ns: ends.max().unwrap_or(0),
        npu_load_ns: load(Processor::Npu),
        cpu_load_ns: load(Processor::Cpu),
    }
}

/// Why no optimum was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptimumError {
    /// The graph is too large for this method.
    #[error("{tasks} tasks are too many for an exact search (limit 32); use the lower bound")]
    TooLarge {
        /// Tasks of the graph.
        tasks: usize,
    },
    /// The search took more steps than allowed.
    #[error("the exact search passed {node_limit} steps; allow more, or use the lower bound")]
    NodeLimit {
        /// Steps allowed.
        node_limit: u64,
    },
}

/// The least makespan that any policy can reach on `cpu_workers` lanes (0 counts as 1), by branch and bound.
///
/// Searches over all decisions "start this now" and "wait for the next completion" at time 0 and at every completion:
/// exactly what policies can decide. Practical up to about 12 tasks.
///
/// # Errors
/// When the graph has more than 32 tasks or the search passes `node_limit` steps.
pub fn exact_optimum(graph: &TaskGraph, cpu_workers: u16, node_limit: u64) -> Result<u64, OptimumError> {
    if graph.len() > 32 {
        return Err(OptimumError::TooLarge { tasks: graph.len() });
    }
    let lower = lower_bound(graph, cpu_workers).max_ns();
    let mut search = Search { best_ns: u64::MAX, lower, nodes_left: node_limit, seen: HashMap::new() };
    let state = State::new(graph, cpu_workers);
    if search.visit(&state, 0, &mut Vec::new()) {
        Ok(search.best_ns)
    } else {
        Err(OptimumError::NodeLimit { node_limit })
    }
}

/// What decides a state's future: each task's status, and when and on how many lanes the running ones end, from now on.
type Key = (Vec<TaskStatus>, Vec<(TaskId, u16, u64)>);

struct Search {
    best_ns: u64,
    lower: u64,
    nodes_left: u64,
    /// Earliest time at which each state was met.
    seen: HashMap<Key, u64>,
}

impl Search {
    /// Explores everything that can follow; `ends` are the running tasks' lanes and end times. The same starts in another order
    /// at one instant lead to a state met before. False when steps ran out.
    fn visit(&mut self, state: &State<'_>, now_ns: u64, ends: &mut Vec<(TaskId, u16, u64)>) -> bool {
        if self.nodes_left == 0 {
            return false;
        }
        self.nodes_left -= 1;
        if self.best_ns == self.lower {
            return true;
        }
        let graph = state.graph();
        if state.is_finished() {
            self.best_ns = self.best_ns.min(now_ns);
            return true;
        }
        if self.at_least(state, now_ns, ends) >= self.best_ns {
            return true;
        }
        let statuses = graph.task_ids().map(|t| state.status(t)).collect();
        let mut relative: Vec<_> = ends.iter().map(|&(t, lanes, end)| (t, lanes, end - now_ns)).collect();
        relative.sort_unstable();
        let met = self.seen.entry((statuses, relative)).or_insert(u64::MAX);
        if *met <= now_ns {
            return true;
        }
        *met = now_ns;

        for processor in Processor::ALL {
            if !state.can_serve(processor) {
                continue;
            }
            let mut candidates: Vec<TaskId> = state.startable(processor).collect();
            candidates.sort_by_key(|&t| std::cmp::Reverse(state.rank_ns(t)));
            for task in candidates {
                let mut after = state.clone();
                let lanes = after.start(task);
                let took_ns = duration_ns(graph.task(task).cost_ns, lanes);
                ends.push((task, lanes, now_ns.saturating_add(took_ns)));
                let finished = self.visit(&after, now_ns, ends);
                ends.pop();
                if !finished {
                    return false;
                }
            }
        }
        let Some(next_ns) = ends.iter().map(|e| e.2).min() else { return true };
        let mut after = state.clone();
        for &(task, ..) in ends.iter().filter(|e| e.2 == next_ns) {
            if after.complete(task).is_err() {
                return true;
            }
        }
        let mut left: Vec<_> = ends.iter().copied().filter(|e| e.2 != next_ns).collect();
        self.visit(&after, next_ns, &mut left)
    }

    /// No run that goes on from here can end before this.
    fn at_least(&self, state: &State<'_>, now_ns: u64, ends: &[(TaskId, u16, u64)]) -> u64 {
        let graph = state.graph();
        let mut bound = now_ns;
        let mut npu_free_ns = now_ns;
        let mut lane_work_ns = 0u64;
        for &(task, lanes, end_ns) in ends {
            let after = graph.successors(task).iter().map(|s| state.rank_ns(*s)).max().unwrap_or(0);
            bound = bound.max(end_ns.saturating_add(after));
            match graph.task(task).processor {
                Processor::Npu => npu_free_ns = end_ns,
                Processor::Cpu => lane_work_ns += (end_ns - now_ns).saturating_mul(u64::from(lanes)),
            }
        }
        for task in state.unstarted() {
            bound = bound.max(now_ns.saturating_add(state.rank_ns(task)));
            let cost_ns = graph.task(task).cost_ns;
            match graph.task(task).processor {
                Processor::Npu => npu_free_ns = npu_free_ns.saturating_add(cost_ns),
                Processor::Cpu => lane_work_ns = lane_work_ns.saturating_add(cost_ns),
            }
        }
        let cpu_ns = now_ns.saturating_add(lane_work_ns / u64::from(state.cpu_workers()));
        bound.max(npu_free_ns).max(cpu_ns)
    }
}
