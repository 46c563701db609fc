//! Where a run stands: what is ready, running and done, how many lanes are free, which resources are held.
//!
//! Invariants: a task is `Ready` exactly when all its predecessors are done and it has not started; at most one NPU task
//! runs; running CPU tasks hold at most `cpu_workers` lanes; no resource level passes its limit; the state is *safe*: were
//! all running tasks complete, the rest could run one by one in program order. The last one is why no policy can run into a
//! resource deadlock. Changed by the driver, the simulator and the exact bound; read by policies.

use crate::graph::TaskGraph;
use crate::task::{Processor, ResourceId, TaskId};

/// How far one task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskStatus {
    /// Some predecessor is not complete.
    Waiting,
    /// All predecessors are complete; it may still have to wait for a resource, a lane or its processor.
    Ready,
    /// Started, not complete.
    Running,
    /// Complete.
    Done,
}

/// A task that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// Which.
    pub task: TaskId,
    /// CPU lanes it holds; 1 for an NPU task, which holds the NPU instead.
    pub lanes: u16,
}

/// One resource's level now.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Held now.
    now: i64,
    /// Held were all running tasks complete.
    settled: i64,
    /// In the resource's user list, everyone before this index has started.
    first_unstarted: usize,
}

/// A task gave back what nobody holds: it has no edge from the task that acquires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Underflow {
    pub(crate) resource: ResourceId,
}

/// A run's state, as policies see it.
#[derive(Clone, Debug)]
pub struct State<'g> {
    graph: &'g TaskGraph,
    cpu_workers: u16,
    rank_ns: std::sync::Arc<[u64]>,
    longest_path_ns: u64,
    status: Vec<TaskStatus>,
    missing: Vec<u32>,
    /// Per processor, ready tasks in program order.
    ready: [Vec<TaskId>; 2],
    /// Per processor, index in program order before which every task of it has started.
    next: [usize; 2],
    running: Vec<Running>,
    levels: Vec<Level>,
    free_lanes: u16,
    done: usize,
}

/// Best-case time of a task on a machine with `cpu_workers` lanes.
pub(crate) fn best_ns(graph: &TaskGraph, task: TaskId, cost_ns: u64, cpu_workers: u16) -> u64 {
    let task = graph.task(task);
    match task.processor {
        Processor::Npu => cost_ns,
        Processor::Cpu => cost_ns.div_ceil(u64::from(task.lanes.min(cpu_workers).max(1))),
    }
}

/// Upward ranks: best-case time from a task's start to the end of the graph, by `cost_ns`.
fn ranks_ns(graph: &TaskGraph, cpu_workers: u16) -> std::sync::Arc<[u64]> {
    let mut rank = vec![0u64; graph.len()];
    for &task in graph.program_order().iter().rev() {
        let after = graph.successors(task).iter().map(|s| rank[s.index()]).max();
        let own = best_ns(graph, task, graph.task(task).cost_ns, cpu_workers);
        rank[task.index()] = own.saturating_add(after.unwrap_or(0));
    }
    rank.into()
}

impl<'g> State<'g> {
    /// Nothing started yet. `cpu_workers` of 0 counts as 1.
    pub fn new(graph: &'g TaskGraph, cpu_workers: u16) -> Self {
        let cpu_workers = cpu_workers.max(1);
        let missing: Vec<u32> = graph.task_ids().map(|t| graph.predecessors(t).len() as u32).collect();
        let rank_ns = ranks_ns(graph, cpu_workers);
        let mut state = Self {
            graph,
            cpu_workers,
            longest_path_ns: rank_ns.iter().copied().max().unwrap_or(0),
            rank_ns,
            status: vec![TaskStatus::Waiting; graph.len()],
            missing,
            ready: [Vec::new(), Vec::new()],
            next: [0, 0],
            running: Vec::new(),
            levels: vec![Level { now: 0, settled: 0, first_unstarted: 0 }; graph.resource_count()],
            free_lanes: cpu_workers,
            done: 0,
        };
        for &task in graph.program_order() {
            if state.missing[task.index()] == 0 {
                state.status[task.index()] = TaskStatus::Ready;
                state.ready[graph.task(task).processor.index()].push(task);
            }
        }
        for processor in Processor::ALL {
            state.advance_next(processor);
        }
        state
    }

    /// The graph that is run.
    pub fn graph(&self) -> &'g TaskGraph {
        self.graph
    }

    /// CPU lanes in all.
    pub fn cpu_workers(&self) -> u16 {
        self.cpu_workers
    }

    /// CPU lanes that no running task holds.
    pub fn free_lanes(&self) -> u16 {
        self.free_lanes
    }

    /// What runs now, in order of start.
    pub fn running(&self) -> &[Running] {
        &self.running
    }

    /// How far `task` has come.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn status(&self, task: TaskId) -> TaskStatus {
        self.status[task.index()]
    }

    /// Units of `resource` that are held now.
    ///
    /// # Panics
    /// When `resource` is not of this graph.
    pub fn level(&self, resource: ResourceId) -> i64 {
        self.levels[resource.index()].now
    }

    /// Upward rank of `task`: the longest path from its start to the end of the graph, by `cost_ns`, each CPU task on as
    /// many lanes as it can ever get. Computed once per run.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn rank_ns(&self, task: TaskId) -> u64 {
        self.rank_ns[task.index()]
    }

    /// The largest [`rank_ns`](Self::rank_ns) of the graph: its longest path.
    pub fn longest_path_ns(&self) -> u64 {
        self.longest_path_ns
    }

    /// Best-case time of `task` by `cost_ns`: a CPU task on as many lanes as it can ever get.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn best_ns(&self, task: TaskId) -> u64 {
        best_ns(self.graph, task, self.graph.task(task).cost_ns, self.cpu_workers)
    }

    /// Tasks that `processor` may start now, in program order: their predecessors are complete and the resources they
    /// acquire are free. Says nothing about whether the processor itself is free ([`can_serve`](Self::can_serve)).
    pub fn startable(&self, processor: Processor) -> impl Iterator<Item = TaskId> + '_ {
        self.ready[processor.index()].iter().copied().filter(|&t| self.resources_free(t))
    }

    /// Tasks of `processor` whose predecessors are complete, in program order, whether or not their resources are free.
    pub fn ready(&self, processor: Processor) -> &[TaskId] {
        &self.ready[processor.index()]
    }

    /// Whether `processor` can take another task: the NPU idle, or a CPU lane free.
    pub fn can_serve(&self, processor: Processor) -> bool {
        match processor {
            Processor::Npu => !self.npu_busy(),
            Processor::Cpu => self.free_lanes > 0,
        }
    }

    /// Whether an NPU task runs.
    pub fn npu_busy(&self) -> bool {
        self.running.iter().any(|r| self.graph.task(r.task).processor == Processor::Npu)
    }

    /// Whether `processor` may start `task` now.
    pub fn can_start(&self, task: TaskId, processor: Processor) -> bool {
        task.index() < self.graph.len()
            && self.graph.task(task).processor == processor
            && self.status(task) == TaskStatus::Ready
            && self.can_serve(processor)
            && self.resources_free(task)
    }

    /// The first task of `processor` in program order that has not started.
    pub fn next_in_order(&self, processor: Processor) -> Option<TaskId> {
        self.graph.program_order().get(self.next[processor.index()]).copied()
    }

    /// Successors that become ready when `task` completes: those that wait for nothing else (the paper's set S).
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn unlocked_by(&self, task: TaskId) -> impl Iterator<Item = TaskId> + '_ {
        self.graph.successors(task).iter().copied().filter(|s| self.missing[s.index()] == 1)
    }

    /// Whether every task is complete.
    pub fn is_finished(&self) -> bool {
        self.done == self.graph.len()
    }

    /// Tasks that are complete.
    pub fn done_count(&self) -> usize {
        self.done
    }

    /// Whether `task`'s acquisitions fit now and leave the state safe.
    fn resources_free(&self, task: TaskId) -> bool {
        self.graph.demands(task).iter().all(|d| {
            if d.acquire == 0 {
                return true;
            }
            let resource = &self.graph.resources()[d.resource.index()];
            let level = &self.levels[d.resource.index()];
            if level.now + d.acquire > resource.limit {
                return false;
            }
            // Everyone who comes before in program order must still find room, one by one.
            let mut settled = level.settled + d.acquire - d.release;
            for user in &resource.users[level.first_unstarted..] {
                if user.task == task {
                    break;
                }
                if matches!(self.status(user.task), TaskStatus::Running | TaskStatus::Done) {
                    continue;
                }
                if settled + user.acquire > resource.limit {
                    return false;
                }
                settled += user.acquire - user.release;
            }
            true
        })
    }

    /// Starts `task`, for which [`can_start`](Self::can_start) holds, and returns the lanes granted: `min(lanes, free)`.
    pub(crate) fn start(&mut self, task: TaskId) -> u16 {
        let processor = self.graph.task(task).processor;
        debug_assert!(self.can_start(task, processor));
        let lanes = match processor {
            Processor::Npu => 1,
            Processor::Cpu => {
                let granted = self.graph.task(task).lanes.min(self.free_lanes);
                self.free_lanes -= granted;
                granted
            }
        };
        self.status[task.index()] = TaskStatus::Running;
        self.ready[processor.index()].retain(|&t| t != task);
        self.running.push(Running { task, lanes });
        self.advance_next(processor);
        for d in self.graph.demands(task) {
            let users = &self.graph.resources()[d.resource.index()].users;
            let level = &mut self.levels[d.resource.index()];
            level.now += d.acquire;
            level.settled += d.acquire - d.release;
            while users
                .get(level.first_unstarted)
                .is_some_and(|u| matches!(self.status[u.task.index()], TaskStatus::Running | TaskStatus::Done))
            {
                level.first_unstarted += 1;
            }
        }
        lanes
    }

    /// Completes a running task: gives back its lanes and resources and makes its successors ready.
    pub(crate) fn complete(&mut self, task: TaskId) -> Result<(), Underflow> {
        debug_assert_eq!(self.status(task), TaskStatus::Running);
        let graph = self.graph;
        if let Some(i) = self.running.iter().position(|r| r.task == task) {
            let running = self.running.remove(i);
            if graph.task(task).processor == Processor::Cpu {
                self.free_lanes += running.lanes;
            }
        }
        self.status[task.index()] = TaskStatus::Done;
        self.done += 1;
        for &next in graph.successors(task) {
            self.missing[next.index()] -= 1;
            if self.missing[next.index()] == 0 {
                self.status[next.index()] = TaskStatus::Ready;
                let ready = &mut self.ready[graph.task(next).processor.index()];
                let at = ready.partition_point(|&t| graph.position(t) < graph.position(next));
                ready.insert(at, next);
            }
        }
        let mut result = Ok(());
        for d in graph.demands(task) {
            let level = &mut self.levels[d.resource.index()];
            level.now -= d.release;
            if level.now < 0 {
                result = Err(Underflow { resource: d.resource });
            }
        }
        result
    }

    /// Tasks that have neither started nor completed, in program order.
    pub(crate) fn unstarted(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.graph
            .program_order()
            .iter()
            .copied()
            .filter(|&t| matches!(self.status(t), TaskStatus::Waiting | TaskStatus::Ready))
    }

    fn advance_next(&mut self, processor: Processor) {
        let order = self.graph.program_order();
        let next = &mut self.next[processor.index()];
        while let Some(&task) = order.get(*next) {
            let started = matches!(self.status[task.index()], TaskStatus::Running | TaskStatus::Done);
            if self.graph.task(task).processor == processor && !started {
                break;
            }
            *next += 1;
        }
    }
}

#[cfg(test)]
mod tests;
