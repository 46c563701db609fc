//! Random graphs and the checks that every run must pass, whoever ran it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use coexec_scheduler::{Event, GraphBuilder, Label, Processor, ResourceId, RunReport, Task, TaskGraph, TaskId};
use proptest::prelude::*;

/// One random task: NPU or CPU, lanes, cost, and for each earlier task whether there is an edge from it.
#[derive(Clone, Debug)]
pub(crate) struct RandomTask {
    pub(crate) npu: bool,
    pub(crate) lanes: u16,
    pub(crate) cost_ns: u64,
    pub(crate) edges: Vec<bool>,
}

/// Pairs `(from, to)`: acquired when the smaller starts, given back when the larger completes.
#[derive(Clone, Debug)]
pub(crate) struct RandomGraph {
    pub(crate) tasks: Vec<RandomTask>,
    pub(crate) holds: Vec<(usize, usize)>,
    pub(crate) limit: u32,
}

pub(crate) fn random_graph(most_tasks: usize) -> impl Strategy<Value = RandomGraph> {
    (1..=most_tasks).prop_flat_map(|n| {
        let task = (any::<bool>(), 1u16..5, 0u64..50, proptest::collection::vec(proptest::bool::weighted(0.15), n))
            .prop_map(|(npu, lanes, cost_ns, edges)| RandomTask { npu, lanes, cost_ns, edges });
        let holds = proptest::collection::vec((0..n, 0..n), 0..=n / 3);
        (proptest::collection::vec(task, n), holds, 1u32..4).prop_map(|(tasks, holds, limit)| RandomGraph {
            tasks,
            holds,
            limit,
        })
    })
}

impl RandomGraph {
    /// The graph, with the smallest limit from `limit` up that does not deadlock in program order.
    pub(crate) fn build(&self) -> TaskGraph {
        (self.limit..).find_map(|limit| self.build_with(limit).ok()).expect("some limit is enough")
    }

    fn build_with(&self, limit: u32) -> Result<TaskGraph, coexec_scheduler::GraphError> {
        let mut builder = GraphBuilder::new();
        let resource = builder.add_resource("buffers", limit);
        let mut ids = Vec::new();
        for (i, random) in self.tasks.iter().enumerate() {
            let processor = if random.npu { Processor::Npu } else { Processor::Cpu };
            let mut task = Task::new(processor, random.cost_ns, Label::new("task").layer(i as u32)).lanes(random.lanes);
            for &(a, b) in &self.holds {
                if a.min(b) == i {
                    task = task.resource(resource, 1);
                }
                if a.max(b) == i {
                    task = task.resource(resource, -1);
                }
            }
            ids.push(builder.add_task(task));
        }
        for (i, random) in self.tasks.iter().enumerate() {
            for j in 0..i {
                if random.edges[j] {
                    builder.add_edge(ids[j], ids[i]);
                }
            }
        }
        for &(a, b) in &self.holds {
            if a != b {
                builder.add_edge(ids[a.min(b)], ids[a.max(b)]);
            }
        }
        builder.build()
    }
}

/// Every task once, no task before its predecessors, one NPU task at a time, lanes and resources within their limits.
pub(crate) fn check_run(graph: &TaskGraph, report: &RunReport) {
    let mut by_task: Vec<Option<&Event>> = vec![None; graph.len()];
    for event in &report.events {
        assert!(by_task[event.task.index()].replace(event).is_none(), "{} ran twice", graph.describe(event.task));
        assert_eq!(event.processor, graph.task(event.task).processor);
        assert!(event.start_ns <= event.end_ns && event.end_ns <= report.makespan_ns);
    }
    assert!(by_task.iter().all(Option::is_some), "not every task ran");
    for task in graph.task_ids() {
        let start_ns = by_task[task.index()].unwrap().start_ns;
        for before in graph.predecessors(task) {
            let end_ns = by_task[before.index()].unwrap().end_ns;
            assert!(end_ns <= start_ns, "{} started before {} ended", graph.describe(task), graph.describe(*before));
        }
    }
    check_levels(report, |e| (e.processor == Processor::Npu) as i64, 1, "NPU");
    let lanes = |e: &Event| if e.processor == Processor::Cpu { i64::from(e.lanes) } else { 0 };
    check_levels(report, lanes, i64::from(report.cpu_workers), "lanes");
    for e in report.events_on(Processor::Cpu) {
        assert!(e.lanes >= 1 && e.lanes <= graph.task(e.task).lanes && e.worker < report.cpu_workers);
        for other in report.events_on(Processor::Cpu) {
            let meet = e.start_ns < other.end_ns && other.start_ns < e.end_ns;
            assert!(e.task == other.task || e.worker != other.worker || !meet, "one worker led two tasks at a time");
        }
    }
    for r in 0..graph.resource_count() {
        check_resource(graph, report, ResourceId(r as u16));
    }
}

/// At no time do the running tasks' amounts add up to more than `limit`.
fn check_levels(report: &RunReport, amount: impl Fn(&Event) -> i64, limit: i64, what: &str) {
    let mut changes = Vec::new();
    for event in report.events.iter().filter(|e| e.end_ns > e.start_ns) {
        changes.push((event.start_ns, amount(event)));
        changes.push((event.end_ns, -amount(event)));
    }
    changes.sort_unstable();
    let mut level = 0;
    for (at_ns, change) in changes {
        level += change;
        assert!(level <= limit, "{what}: {level} of {limit} at {at_ns} ns");
    }
}

/// Held from the start of who acquires to the end of who gives back. At equal times giving back comes first, except by
/// tasks that took no time.
fn check_resource(graph: &TaskGraph, report: &RunReport, resource: ResourceId) {
    let mut changes = Vec::new();
    for event in &report.events {
        for &(r, delta) in &graph.task(event.task).resources {
            if r == resource {
                changes.push((if delta > 0 { event.start_ns } else { event.end_ns }, i64::from(delta)));
            }
        }
    }
    changes.sort_unstable();
    let mut level = 0;
    for (_, change) in changes {
        level += change;
        assert!(level <= i64::from(graph.resource(resource).1), "resource limit passed");
    }
}

/// Expected cost as true cost.
pub(crate) fn exact(graph: &TaskGraph) -> impl Fn(TaskId) -> u64 {
    move |task| graph.task(task).cost_ns
}
