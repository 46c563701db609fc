//! The task graph: tasks, edges and counted resources, checked once and then read only.
//!
//! Invariants of a [`TaskGraph`]: every id in it exists; there is no cycle; `program_order` is a topological order; run one
//! by one in program order, no task passes a resource limit and none gives back what was not acquired. The last one is what
//! [`State`](crate::State) needs to keep every run free of resource deadlock (see README.md, "Resources").
//! Called by the runtime's planner (builds), drivers, policies and bounds (read).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde::Serialize;
use thiserror::Error;

use crate::task::{Processor, ResourceId, Task, TaskId};

/// What one task does to one resource, both in units of that resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Demand {
    pub(crate) resource: ResourceId,
    /// Taken at the start.
    pub(crate) acquire: i64,
    /// Given back at completion.
    pub(crate) release: i64,
}

/// One task's effect on a resource, in the list of that resource's users in program order.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct User {
    pub(crate) task: TaskId,
    pub(crate) acquire: i64,
    pub(crate) release: i64,
}

/// A counted resource: in-flight activation buffers, NPU queue depth, …
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) limit: i64,
    /// Everyone who acquires or gives back, in program order.
    pub(crate) users: Vec<User>,
}

/// A checked, immutable task graph. Made by [`GraphBuilder`].
#[derive(Clone, Debug, Serialize)]
pub struct TaskGraph {
    tasks: Vec<Task>,
    successors: Adjacency,
    predecessors: Adjacency,
    program_order: Vec<TaskId>,
    /// Index of each task in `program_order`.
    position: Vec<u32>,
    demands: Vec<Vec<Demand>>,
    resources: Vec<Resource>,
}

/// Lists of tasks, one per task, in one allocation.
#[derive(Clone, Debug, Serialize)]
struct Adjacency {
    offsets: Vec<u32>,
    items: Vec<TaskId>,
}

impl Adjacency {
    /// `edges` sorted by their first element.
    fn new(task_count: usize, edges: impl Iterator<Item = (TaskId, TaskId)>) -> Self {
        let mut offsets = vec![0u32; task_count + 1];
        let mut items = Vec::new();
        for (from, to) in edges {
            offsets[from.index() + 1] += 1;
            items.push(to);
        }
        for i in 0..task_count {
            offsets[i + 1] += offsets[i];
        }
        Self { offsets, items }
    }

    fn of(&self, task: TaskId) -> &[TaskId] {
        let i = task.index();
        &self.items[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }
}

/// Why a graph was refused. Tasks are named by id and label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Some tasks wait for each other.
    #[error("tasks wait for each other in a cycle: {}; remove one of these edges", tasks.join(" -> "))]
    Cycle {
        /// The cycle's tasks, each a predecessor of the next, the last one of the first.
        tasks: Vec<String>,
    },
    /// An edge names a task that was never added.
    #[error("edge {from} -> {to} names a task that does not exist ({task_count} tasks were added)")]
    DanglingEdge {
        /// Start of the edge.
        from: TaskId,
        /// End of the edge.
        to: TaskId,
        /// Tasks in the graph.
        task_count: usize,
    },
    /// A task uses a resource that was never added.
    #[error("task {task} uses resource {} which does not exist ({resource_count} were added)", resource.0)]
    DanglingResource {
        /// The task.
        task: String,
        /// The missing resource.
        resource: ResourceId,
        /// Resources in the graph.
        resource_count: usize,
    },
    /// A task can use no CPU worker at all.
    #[error("task {task} has 0 lanes; give it at least 1")]
    NoLanes {
        /// The task.
        task: String,
    },
    /// A task wants more of a resource than there is.
    #[error("task {task} wants {wanted} of resource `{resource}`, whose limit is {limit}")]
    OverLimit {
        /// The task.
        task: String,
        /// The resource's name.
        resource: String,
        /// What it acquires.
        wanted: i64,
        /// All there is.
        limit: i64,
    },
    /// Even one task at a time, in program order, would pass a limit: some run would deadlock.
    #[error(
        "task {task} wants {wanted} of resource `{resource}` when {held} of {limit} are held by tasks before it in program \
         order; raise the limit or give back earlier"
    )]
    ResourceDeadlock {
        /// The task that could never start.
        task: String,
        /// The resource's name.
        resource: String,
        /// What it acquires.
        wanted: i64,
        /// What is held by then.
        held: i64,
        /// All there is.
        limit: i64,
    },
    /// A task gives back more of a resource than was acquired before it in program order.
    #[error("task {task} gives back {released} of resource `{resource}`, but only {held} are held by then")]
    ReleaseWithoutAcquire {
        /// The task.
        task: String,
        /// The resource's name.
        resource: String,
        /// What it gives back.
        released: i64,
        /// What is held by then.
        held: i64,
    },
    /// More tasks, edges or resources than ids.
    #[error("too many {what} for one graph; cut the prompt into several graphs")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
    },
}

/// Collects tasks, edges and resources; [`build`](Self::build) checks them.
#[derive(Clone, Debug, Default)]
pub struct GraphBuilder {
    tasks: Vec<Task>,
    edges: Vec<(TaskId, TaskId)>,
    resources: Vec<(String, u32)>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task. Add tasks in the order in which one would run them one by one (chunk by chunk, layer by layer): that is
    /// the program order, which breaks ties and which [`InOrder`](crate::InOrder) follows.
    ///
    /// More than `u32::MAX` tasks are refused by [`build`](Self::build).
    pub fn add_task(&mut self, task: Task) -> TaskId {
        let id = TaskId(u32::try_from(self.tasks.len()).unwrap_or(u32::MAX));
        self.tasks.push(task);
        id
    }

    /// `to` cannot start before `from` is complete. The same edge may be added twice.
    pub fn add_edge(&mut self, from: TaskId, to: TaskId) {
        self.edges.push((from, to));
    }

    /// Adds a resource of which at most `limit` units are held at any time; nothing is held at the start.
    pub fn add_resource(&mut self, name: impl Into<String>, limit: u32) -> ResourceId {
        let id = ResourceId(u16::try_from(self.resources.len()).unwrap_or(u16::MAX));
        self.resources.push((name.into(), limit));
        id
    }

    /// The tasks added so far.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Checks everything without building.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn validate(&self) -> Result<(), GraphError> {
        self.clone().build().map(drop)
    }

    /// Checks everything and builds the graph.
    ///
    /// # Errors
    /// Cycles, ids that do not exist, tasks without lanes, and every way in which resources could end in a deadlock.
    pub fn build(mut self) -> Result<TaskGraph, GraphError> {
        let n = self.tasks.len();
        if u32::try_from(n).is_err() {
            return Err(GraphError::TooMany { what: "tasks" });
        }
        if self.resources.len() > usize::from(u16::MAX) {
            return Err(GraphError::TooMany { what: "resources" });
        }
        for &(from, to) in &self.edges {
            if from.index() >= n || to.index() >= n {
                return Err(GraphError::DanglingEdge { from, to, task_count: n });
            }
        }
        self.edges.sort_unstable();
        self.edges.dedup();
        if u32::try_from(self.edges.len()).is_err() {
            return Err(GraphError::TooMany { what: "edges" });
        }
        let successors = Adjacency::new(n, self.edges.iter().copied());
        self.edges.sort_unstable_by_key(|&(from, to)| (to, from));
        let predecessors = Adjacency::new(n, self.edges.iter().map(|&(from, to)| (to, from)));

        let program_order = program_order(&self.tasks, &successors, &predecessors)?;
        let mut position = vec![0u32; n];
        for (i, task) in (0u32..).zip(&program_order) {
            position[task.index()] = i;
        }
        let (demands, resources) = check_resources(&self.tasks, &self.resources, &program_order)?;
        Ok(TaskGraph { tasks: self.tasks, successors, predecessors, program_order, position, demands, resources })
    }
}

fn named(tasks: &[Task], task: TaskId) -> String {
    format!("{task} ({})", tasks[task.index()].label)
}

/// The topological order that always takes the smallest id possible: id order itself when that is topological.
fn program_order(tasks: &[Task], succ: &Adjacency, pred: &Adjacency) -> Result<Vec<TaskId>, GraphError> {
    let ids = || (0..tasks.len()).map(|i| TaskId(i as u32));
    let mut missing: Vec<usize> = ids().map(|t| pred.of(t).len()).collect();
    let mut ready: BinaryHeap<_> = ids().filter(|t| missing[t.index()] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(tasks.len());
    while let Some(Reverse(task)) = ready.pop() {
        order.push(task);
        for &next in succ.of(task) {
            missing[next.index()] -= 1;
            if missing[next.index()] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    let Some(start) = ids().find(|t| missing[t.index()] > 0) else {
        return Ok(order);
    };
    // Every task left has a predecessor that is left too: walking backwards must come round.
    let mut seen_at: BTreeMap<TaskId, usize> = BTreeMap::new();
    let mut walk = Vec::new();
    let mut task = start;
    while !seen_at.contains_key(&task) {
        seen_at.insert(task, walk.len());
        walk.push(task);
        match pred.of(task).iter().find(|p| missing[p.index()] > 0) {
            Some(&before) => task = before,
            None => break,
        }
    }
    let first = seen_at.get(&task).copied().unwrap_or(0);
    let tasks = walk[first..].iter().rev().map(|&t| named(tasks, t)).collect();
    Err(GraphError::Cycle { tasks })
}

type Checked = (Vec<Vec<Demand>>, Vec<Resource>);

/// Sums each task's demands and runs the graph one by one in program order.
fn check_resources(tasks: &[Task], limits: &[(String, u32)], order: &[TaskId]) -> Result<Checked, GraphError> {
    let mut resources: Vec<Resource> = limits
        .iter()
        .map(|(name, limit)| Resource { name: name.clone(), limit: i64::from(*limit), users: Vec::new() })
        .collect();
    let mut held = vec![0i64; resources.len()];
    let mut demands = vec![Vec::new(); tasks.len()];
    for &task in order {
        if tasks[task.index()].lanes == 0 {
            return Err(GraphError::NoLanes { task: named(tasks, task) });
        }
        let mut sums: BTreeMap<ResourceId, (i64, i64)> = BTreeMap::new();
        for &(resource, delta) in &tasks[task.index()].resources {
            if resource.index() >= resources.len() {
                return Err(GraphError::DanglingResource {
                    task: named(tasks, task),
                    resource,
                    resource_count: resources.len(),
                });
            }
            let sum = sums.entry(resource).or_default();
            sum.0 = sum.0.saturating_add(i64::from(delta).max(0));
            sum.1 = sum.1.saturating_add(-i64::from(delta).min(0));
        }
        for (id, (acquire, release)) in sums {
            let resource = &mut resources[id.index()];
            let level = &mut held[id.index()];
            let name = || resource.name.clone();
            if acquire > resource.limit {
                return Err(GraphError::OverLimit {
                    task: named(tasks, task),
                    resource: name(),
                    wanted: acquire,
                    limit: resource.limit,
                });
            }
            if *level + acquire > resource.limit {
                return Err(GraphError::ResourceDeadlock {
                    task: named(tasks, task),
                    resource: name(),
                    wanted: acquire,
                    held: *level,
                    limit: resource.limit,
                });
            }
            *level += acquire;
            if release > *level {
                return Err(GraphError::ReleaseWithoutAcquire {
                    task: named(tasks, task),
                    resource: name(),
                    released: release,
                    held: *level,
                });
            }
            *level -= release;
            resource.users.push(User { task, acquire, release });
            demands[task.index()].push(Demand { resource: id, acquire, release });
        }
    }
    Ok((demands, resources))
}

impl TaskGraph {
    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// All tasks; index with [`TaskId::index`].
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// All ids, ascending.
    pub fn task_ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        (0..self.tasks.len() as u32).map(TaskId)
    }

    /// One task.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn task(&self, task: TaskId) -> &Task {
        &self.tasks[task.index()]
    }

    /// `#12 (qkv L3 C1)`: how messages name a task.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn describe(&self, task: TaskId) -> String {
        named(&self.tasks, task)
    }

    /// What waits for `task`, ascending.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn successors(&self, task: TaskId) -> &[TaskId] {
        self.successors.of(task)
    }

    /// What `task` waits for, ascending.
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn predecessors(&self, task: TaskId) -> &[TaskId] {
        self.predecessors.of(task)
    }

    /// The tasks in program order: id order where that is topological, otherwise the nearest order that is.
    pub fn program_order(&self) -> &[TaskId] {
        &self.program_order
    }

    /// Index of `task` in [`program_order`](Self::program_order).
    ///
    /// # Panics
    /// When `task` is not of this graph.
    pub fn position(&self, task: TaskId) -> usize {
        self.position[task.index()] as usize
    }

    /// Number of resources.
    pub fn resource_count(&self) -> usize {
        self.resources.len()
    }

    /// Name and limit of a resource.
    ///
    /// # Panics
    /// When `resource` is not of this graph.
    pub fn resource(&self, resource: ResourceId) -> (&str, u32) {
        let resource = &self.resources[resource.index()];
        (&resource.name, u32::try_from(resource.limit).unwrap_or(u32::MAX))
    }

    /// Number of tasks that run on `processor`.
    pub fn count_on(&self, processor: Processor) -> usize {
        self.tasks.iter().filter(|t| t.processor == processor).count()
    }

    pub(crate) fn demands(&self, task: TaskId) -> &[Demand] {
        &self.demands[task.index()]
    }

    pub(crate) fn resources(&self) -> &[Resource] {
        &self.resources
    }
}

#[cfg(test)]
mod tests;
