//! The invariants of DESIGN on the virtual clock, bounds against policies, and what the policies are worth.

mod common;

use coexec_scheduler::bounds::{OptimumError, exact_optimum, lower_bound};
use coexec_scheduler::synthetic::PrefillShape;
use coexec_scheduler::{
    GraphBuilder, Label, NpuStall, Policy, PolicyKind, Processor, SimulateError, Staggered, State, Task, TaskId,
    Unlocked, simulate,
};
use common::{check_run, exact, random_graph};
use proptest::prelude::*;

fn policies() -> Vec<Box<dyn Policy + Send>> {
    let mut all: Vec<_> = PolicyKind::ALL.into_iter().map(PolicyKind::create).collect();
    for unlocked in [Unlocked::OtherProcessor, Unlocked::Npu] {
        all.push(Box::new(NpuStall { unlocked }));
    }
    all.push(Box::new(Staggered { whole_lanes: true, unlock_first: false, ..Staggered::default() }));
    all
}

/// Checks at every pick that the inner policy answers the same twice and on a copy of the state.
struct Twice<'a>(&'a dyn Policy);

impl Policy for Twice<'_> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId> {
        let picked = self.0.pick(state, processor);
        assert_eq!(picked, self.0.pick(state, processor));
        assert_eq!(picked, self.0.pick(&state.clone(), processor));
        picked
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_keeps_the_invariants(random in random_graph(40), workers in 1u16..6) {
        let graph = random.build();
        for policy in policies() {
            let report = simulate(&graph, &Twice(policy.as_ref()), &exact(&graph), workers).unwrap();
            check_run(&graph, &report);
            prop_assert!(lower_bound(&graph, workers).max_ns() <= report.makespan_ns);
            prop_assert!((0.0..=1.0).contains(&report.bubble_rate()));
            let again = simulate(&graph, policy.as_ref(), &exact(&graph), workers).unwrap();
            prop_assert_eq!(report, again);
        }
    }

    #[test]
    fn wrong_costs_change_times_but_break_nothing(random in random_graph(30), workers in 1u16..5, seed in any::<u64>()) {
        let graph = random.build();
        let noisy = |task: TaskId| seed.wrapping_mul(u64::from(task.0) * 2 + 1) >> 55;
        for policy in policies() {
            check_run(&graph, &simulate(&graph, policy.as_ref(), &noisy, workers).unwrap());
        }
    }

    #[test]
    fn no_policy_beats_the_optimum_and_no_optimum_the_bound(random in random_graph(8), workers in 1u16..4) {
        let graph = random.build();
        let optimum_ns = match exact_optimum(&graph, workers, 300_000) {
            Ok(ns) => ns,
            Err(OptimumError::NodeLimit { .. }) => return Err(TestCaseError::reject("search too long")),
            Err(other) => panic!("{other}"),
        };
        let lower = lower_bound(&graph, workers);
        prop_assert!(lower.max_ns() <= optimum_ns, "{lower:?} > {optimum_ns}");
        for policy in policies() {
            let report = simulate(&graph, policy.as_ref(), &exact(&graph), workers).unwrap();
            prop_assert!(optimum_ns <= report.makespan_ns, "{} beat the optimum", policy.name());
        }
    }
}

#[test]
fn optimum_of_a_graph_where_waiting_is_right() {
    // Greedy starts `long` at 0 and delays `first`, which everything else waits for.
    let mut b = GraphBuilder::new();
    let npu = |ns, stage: &'static str| Task::new(Processor::Npu, ns, Label::new(stage));
    b.add_task(npu(10, "long"));
    let arrive = b.add_task(Task::new(Processor::Cpu, 1, Label::new("arrive")));
    let first = b.add_task(npu(1, "first"));
    let tail = b.add_task(Task::new(Processor::Cpu, 15, Label::new("tail")));
    b.add_edge(arrive, first);
    b.add_edge(first, tail);
    let graph = b.build().unwrap();
    assert_eq!(exact_optimum(&graph, 1, 10_000), Ok(17));
    let greedy = simulate(&graph, PolicyKind::CriticalPath.create().as_ref(), &exact(&graph), 1).unwrap();
    assert_eq!(greedy.makespan_ns, 26);
    assert_eq!(exact_optimum(&graph, 1, 3), Err(OptimumError::NodeLimit { node_limit: 3 }));
}

#[test]
fn out_of_order_beats_naive_overlap_on_a_prefill_graph() {
    let graph = PrefillShape::paper_like(4, 24).build().unwrap();
    let run = |kind: PolicyKind| simulate(&graph, kind.create().as_ref(), &exact(&graph), 4).unwrap();
    let naive = run(PolicyKind::InOrder);
    let paper = run(PolicyKind::NpuStall);
    let longest = run(PolicyKind::CriticalPath);
    let ours = run(PolicyKind::Staggered);
    for report in [&naive, &paper, &longest, &ours] {
        check_run(&graph, report);
    }
    // The paper: 37 % bubbles when overlapped naively, 0.7 % out of order.
    assert!(naive.bubble_rate() > 0.25, "{}", naive.bubble_rate());
    assert!(paper.makespan_ns < naive.makespan_ns);
    assert!(ours.makespan_ns < longest.makespan_ns.min(paper.makespan_ns));
    assert!(ours.bubble_rate() < 0.01, "{}", ours.bubble_rate());
}

#[test]
fn tuning_never_makes_it_worse_and_is_reproducible() {
    for chunks in [1, 3, 5] {
        let graph = PrefillShape::paper_like(chunks, 6).build().unwrap();
        let tuned = Staggered::tuned(&graph, 4);
        assert_eq!(tuned, Staggered::tuned(&graph, 4));
        assert!(tuned.expected_ns(&graph, 4) <= Staggered::default().expected_ns(&graph, 4));
    }
    // Too large to try: the default, at once.
    let graph = PrefillShape { lanes: 1, ..PrefillShape::paper_like(400, 40) }.build().unwrap();
    assert_eq!(Staggered::tuned(&graph, 4), Staggered::default());
}

#[test]
fn chunks_in_flight_limit_memory_and_never_deadlock() {
    for limit in 1..4 {
        let shape = PrefillShape { chunks_in_flight: Some(limit), ..PrefillShape::paper_like(5, 4) };
        let graph = shape.build().unwrap();
        for policy in policies() {
            check_run(&graph, &simulate(&graph, policy.as_ref(), &exact(&graph), 4).unwrap());
        }
    }
}

struct Never;

impl Policy for Never {
    fn name(&self) -> &'static str {
        "never"
    }
    fn pick(&self, _: &State<'_>, _: Processor) -> Option<TaskId> {
        None
    }
}

struct Always(TaskId);

impl Policy for Always {
    fn name(&self) -> &'static str {
        "always"
    }
    fn pick(&self, _: &State<'_>, _: Processor) -> Option<TaskId> {
        Some(self.0)
    }
}

#[test]
fn broken_policies_are_named() {
    let graph = PrefillShape::paper_like(1, 1).build().unwrap();
    let cost = exact(&graph);
    let error = simulate(&graph, &Never, &cost, 1).unwrap_err();
    assert!(matches!(&error, SimulateError::Stuck { tasks, .. } if tasks.len() == graph.len()));
    assert!(error.to_string().contains("norm_quant L0 C0"), "{error}");
    for task in [TaskId(3), TaskId(999)] {
        assert!(matches!(simulate(&graph, &Always(task), &cost, 1), Err(SimulateError::BadPick { .. })));
    }
}

#[test]
fn absurd_costs_are_an_error() {
    let mut b = GraphBuilder::new();
    let task = || Task::new(Processor::Npu, u64::MAX, Label::new("forever"));
    let (x, y) = (b.add_task(task()), b.add_task(task()));
    b.add_edge(x, y);
    let graph = b.build().unwrap();
    let result = simulate(&graph, PolicyKind::CriticalPath.create().as_ref(), &exact(&graph), 1);
    assert!(matches!(result, Err(SimulateError::ClockOverflow { .. })));
    assert_eq!(lower_bound(&graph, 1).max_ns(), u64::MAX);
}
