use super::*;
use crate::graph::GraphBuilder;
use crate::task::{Label, Task};

fn cpu(stage: &'static str) -> Task {
    Task::new(Processor::Cpu, 1, Label::new(stage))
}

/// Chunks that hold one of two slots from `first` to `last`; `last` of each also needs `first` of all before it.
fn chunks(count: u32) -> TaskGraph {
    let mut b = GraphBuilder::new();
    let slots = b.add_resource("chunks in flight", 2);
    let mut firsts = Vec::new();
    for chunk in 0..count {
        let first = b.add_task(cpu("first").resource(slots, 1));
        firsts.push(first);
        let last = b.add_task(Task::new(Processor::Npu, 1, Label::new("last").chunk(chunk)).resource(slots, -1));
        for &before in &firsts {
            b.add_edge(before, last);
        }
    }
    b.build().unwrap()
}

#[test]
fn an_acquisition_that_could_deadlock_is_held_back() {
    let graph = chunks(4);
    let mut state = State::new(&graph, 4);
    let [c0, c2, c3] = [TaskId(0), TaskId(4), TaskId(6)];
    let startable = |s: &State<'_>| s.startable(Processor::Cpu).collect::<Vec<_>>();
    assert_eq!(startable(&state).len(), 4);
    state.start(c3);
    // One slot is left; only the chunk that everybody waits for may take it.
    assert_eq!(startable(&state), [c0]);
    assert!(!state.can_start(c2, Processor::Cpu));
    state.start(c0);
    assert_eq!(state.level(ResourceId(0)), 2);
    assert!(startable(&state).is_empty());
    state.complete(c0).unwrap();
    let last0 = TaskId(1);
    assert_eq!(state.ready(Processor::Npu), [last0]);
    state.start(last0);
    state.complete(last0).unwrap();
    assert_eq!(state.level(ResourceId(0)), 1);
    assert_eq!(startable(&state), [TaskId(2)]);
}

#[test]
fn lanes_are_granted_up_to_what_is_free() {
    let mut b = GraphBuilder::new();
    let wide = b.add_task(cpu("wide").lanes(3));
    let wider = b.add_task(cpu("wider").lanes(8));
    let late = b.add_task(cpu("late"));
    let graph = b.build().unwrap();
    let mut state = State::new(&graph, 4);
    assert_eq!(state.start(wide), 3);
    assert_eq!(state.start(wider), 1);
    assert!(!state.can_start(late, Processor::Cpu));
    state.complete(wide).unwrap();
    assert_eq!(state.free_lanes(), 3);
    assert!(state.can_start(late, Processor::Cpu));
}

#[test]
fn giving_back_before_acquiring_is_noticed() {
    let mut b = GraphBuilder::new();
    let r = b.add_resource("r", 1);
    b.add_task(cpu("take").resource(r, 1));
    let give = b.add_task(cpu("give").resource(r, -1));
    let graph = b.build().unwrap();
    let mut state = State::new(&graph, 1);
    state.start(give);
    assert_eq!(state.complete(give), Err(Underflow { resource: r }));
}
