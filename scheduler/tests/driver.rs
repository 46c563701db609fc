//! The invariants of DESIGN on real threads, under random timing, errors, panics and cancellation.

mod common;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use coexec_scheduler::synthetic::PrefillShape;
use coexec_scheduler::{
    CancelToken, Driver, Executor, GraphBuilder, Label, Policy, PolicyKind, Processor, RunError, State, Task,
    TaskGraph, TaskId,
};
use common::{check_run, random_graph};
use proptest::prelude::*;

/// What a task does when it runs.
type Action<'a> = dyn Fn(TaskId, u16) -> Result<(), String> + Sync + 'a;

/// Counts starts and ends, so that a test can see whether anything was left running.
struct Probe<'a> {
    action: &'a Action<'a>,
    started: Vec<AtomicU32>,
    running: AtomicUsize,
}

impl<'a> Probe<'a> {
    fn new(graph: &TaskGraph, action: &'a Action<'a>) -> Self {
        let started = (0..graph.len()).map(|_| AtomicU32::new(0)).collect();
        Self { action, started, running: AtomicUsize::new(0) }
    }

    fn started(&self) -> usize {
        self.started.iter().filter(|s| s.load(Ordering::SeqCst) > 0).count()
    }

    fn assert_drained(&self) {
        assert_eq!(self.running.load(Ordering::SeqCst), 0, "something still runs");
        assert!(self.started.iter().all(|s| s.load(Ordering::SeqCst) <= 1), "a task ran twice");
    }
}

impl Executor for Probe<'_> {
    type Error = String;

    fn execute(&self, task: TaskId, lanes: u16) -> Result<(), String> {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let _leave = Leave(&self.running);
        self.started[task.index()].fetch_add(1, Ordering::SeqCst);
        (self.action)(task, lanes)
    }
}

/// Sleeps, yields or does nothing, by task and seed.
fn jitter(seed: u64, task: TaskId) {
    let dice =
        (seed ^ (u64::from(task.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD134_2543_DE82_EF95) >> 32;
    match dice % 4 {
        0 => thread::sleep(Duration::from_micros(dice % 200)),
        1 => (0..dice % 20).for_each(|_| thread::yield_now()),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_keeps_the_invariants(random in random_graph(40), workers in 1u16..5, seed in any::<u64>()) {
        let graph = random.build();
        for kind in PolicyKind::ALL {
            let action = |task, _| { jitter(seed, task); Ok(()) };
            let probe = Probe::new(&graph, &action);
            let report = Driver::new(workers).run(&graph, kind.create().as_ref(), &probe, &CancelToken::new()).unwrap();
            probe.assert_drained();
            check_run(&graph, &report);
        }
    }

    #[test]
    fn errors_drain(random in random_graph(40), workers in 1u16..5, seed in any::<u64>(), bad in any::<proptest::sample::Index>(), panics in any::<bool>()) {
        let graph = random.build();
        let bad = TaskId(bad.index(graph.len()) as u32);
        for kind in PolicyKind::ALL {
            let action = |task, _| {
                jitter(seed, task);
                match (task == bad, panics) {
                    (false, _) => Ok(()),
                    (true, false) => Err("broken".to_owned()),
                    (true, true) => std::panic::resume_unwind(Box::new("broken")),
                }
            };
            let probe = Probe::new(&graph, &action);
            let error = Driver::new(workers).run(&graph, kind.create().as_ref(), &probe, &CancelToken::new()).unwrap_err();
            probe.assert_drained();
            match error {
                RunError::Failed { task, source, .. } => prop_assert_eq!((task, source.as_str(), panics), (bad, "broken", false)),
                RunError::Panicked { task, message, .. } => prop_assert_eq!((task, message.as_str(), panics), (bad, "broken", true)),
                other => panic!("{other}"),
            }
            for &after in graph.successors(bad) {
                prop_assert_eq!(probe.started[after.index()].load(Ordering::SeqCst), 0);
            }
        }
    }

    #[test]
    fn cancellation_drains(random in random_graph(40), workers in 1u16..5, seed in any::<u64>(), after in 0usize..40) {
        let graph = random.build();
        let cancel = CancelToken::new();
        let count = AtomicUsize::new(0);
        let action = |task, _| {
            jitter(seed, task);
            if count.fetch_add(1, Ordering::SeqCst) == after {
                cancel.clone().cancel();
            }
            Ok(())
        };
        let probe = Probe::new(&graph, &action);
        let result = Driver::new(workers).run(&graph, PolicyKind::CriticalPath.create().as_ref(), &probe, &cancel);
        probe.assert_drained();
        match result {
            Ok(report) => check_run(&graph, &report),
            Err(RunError::Cancelled { done, total }) => {
                prop_assert_eq!(done, probe.started(), "what started was finished");
                prop_assert!(done < total && total == graph.len());
            }
            Err(other) => panic!("{other}"),
        }
    }
}

fn ok(_: TaskId, _: u16) -> Result<(), String> {
    Ok(())
}

#[test]
fn cancelled_before_the_start_runs_nothing() {
    let graph = PrefillShape::paper_like(2, 2).build().unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    let probe = Probe::new(&graph, &ok);
    let result = Driver::new(2).run(&graph, PolicyKind::InOrder.create().as_ref(), &probe, &cancel);
    assert!(matches!(result, Err(RunError::Cancelled { done: 0, .. })));
    assert_eq!(probe.started(), 0);
}

#[test]
fn empty_and_one_sided_graphs_run() {
    let policy = PolicyKind::CriticalPath.create();
    for processors in [&[][..], &[Processor::Npu; 3], &[Processor::Cpu; 9]] {
        let mut b = GraphBuilder::new();
        for &processor in processors {
            b.add_task(Task::new(processor, 1, Label::new("only")));
        }
        let graph = b.build().unwrap();
        let probe = Probe::new(&graph, &ok);
        let report = Driver::new(3).run(&graph, policy.as_ref(), &probe, &CancelToken::new()).unwrap();
        check_run(&graph, &report);
    }
}

#[test]
fn npu_and_cpu_tasks_run_at_the_same_time() {
    // Both wait for each other: finishes only if they overlap.
    let mut b = GraphBuilder::new();
    b.add_task(Task::new(Processor::Npu, 1, Label::new("linear")));
    b.add_task(Task::new(Processor::Cpu, 1, Label::new("shadow")));
    let graph = b.build().unwrap();
    let meet = std::sync::Barrier::new(2);
    let action = |_, _| {
        meet.wait();
        Ok(())
    };
    let probe = Probe::new(&graph, &action);
    Driver::new(1).run(&graph, PolicyKind::InOrder.create().as_ref(), &probe, &CancelToken::new()).unwrap();
}

#[test]
fn a_chain_over_both_processors_needs_no_other_thread() {
    let mut b = GraphBuilder::new();
    let chain: Vec<TaskId> = (0..40)
        .map(|i| b.add_task(Task::new([Processor::Cpu, Processor::Npu][i % 2], 1, Label::new("link"))))
        .collect();
    chain.windows(2).for_each(|pair| b.add_edge(pair[0], pair[1]));
    let graph = b.build().unwrap();
    for workers in [1, 3] {
        let threads = parking_lot::Mutex::new(std::collections::HashSet::new());
        let action = |_, _| {
            threads.lock().insert(std::thread::current().id());
            Ok(())
        };
        let probe = Probe::new(&graph, &action);
        let policy = PolicyKind::CriticalPath.create();
        let report = Driver::new(workers).run(&graph, policy.as_ref(), &probe, &CancelToken::new()).unwrap();
        check_run(&graph, &report);
        assert_eq!(threads.into_inner().len(), 1, "whoever ended a link leads the next");
    }
}

#[test]
fn the_executor_sees_its_lanes() {
    let mut b = GraphBuilder::new();
    b.add_task(Task::new(Processor::Cpu, 1, Label::new("wide")).lanes(9));
    let graph = b.build().unwrap();
    let action = |_, lanes| if lanes == 3 { Ok(()) } else { Err(format!("{lanes} lanes")) };
    let probe = Probe::new(&graph, &action);
    Driver::new(3).run(&graph, PolicyKind::CriticalPath.create().as_ref(), &probe, &CancelToken::new()).unwrap();
}

enum Broken {
    Waits,
    Repeats,
    Panics,
}

impl Policy for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        match self {
            // Runs the graph half way, then waits for nothing.
            Self::Waits if state.done_count() >= state.graph().len() / 2 => None,
            Self::Waits => state.startable(processor).next(),
            Self::Repeats => Some(TaskId(0)),
            Self::Panics => panic!("no idea"),
        }
    }
}

#[test]
fn broken_policies_end_the_run_instead_of_hanging_it() {
    let graph = PrefillShape::paper_like(2, 2).build().unwrap();
    for workers in [1, 3] {
        let run = |policy: &Broken| {
            let probe = Probe::new(&graph, &ok);
            let error = Driver::new(workers).run(&graph, policy, &probe, &CancelToken::new()).unwrap_err();
            probe.assert_drained();
            error
        };
        let stuck = run(&Broken::Waits);
        assert!(matches!(&stuck, RunError::Stuck { tasks, .. } if tasks.iter().any(|t| t.contains(" C1)"))), "{stuck}");
        assert!(stuck.to_string().contains(" C1)"), "{stuck}");
        assert!(matches!(run(&Broken::Repeats), RunError::BadPick { .. }));
        assert!(matches!(run(&Broken::Panics), RunError::PolicyPanicked { message, .. } if message == "no idea"));
    }
}

#[test]
fn errors_say_which_task() {
    let mut b = GraphBuilder::new();
    b.add_task(Task::new(Processor::Npu, 1, Label::new("qkv").layer(3).chunk(1)));
    let graph = b.build().unwrap();
    let action = |_, _| Err("device lost".to_owned());
    let probe = Probe::new(&graph, &action);
    let error =
        Driver::new(1).run(&graph, PolicyKind::InOrder.create().as_ref(), &probe, &CancelToken::new()).unwrap_err();
    assert_eq!(error.to_string(), "task #0 (qkv L3 C1) failed: device lost");
}
