use super::*;
use crate::task::Label;

fn task(stage: &'static str) -> Task {
    Task::new(Processor::Cpu, 1, Label::new(stage))
}

#[test]
fn cycle_is_named() {
    let mut b = GraphBuilder::new();
    let [a, x, y, z] = ["a", "x", "y", "z"].map(|s| b.add_task(task(s)));
    b.add_edge(a, x);
    b.add_edge(x, y);
    b.add_edge(y, z);
    b.add_edge(z, x);
    let Err(GraphError::Cycle { tasks }) = b.build() else { panic!("no cycle found") };
    assert_eq!(tasks.len(), 3);
    assert!(!tasks.iter().any(|t| t.contains("(a)")), "{tasks:?}");
    let at = tasks.iter().position(|t| t.contains("(x)")).unwrap();
    assert!(tasks[(at + 1) % 3].contains("(y)"), "{tasks:?}");
}

#[test]
fn self_edge_is_a_cycle() {
    let mut b = GraphBuilder::new();
    let a = b.add_task(task("a"));
    b.add_edge(a, a);
    assert_eq!(b.build().unwrap_err(), GraphError::Cycle { tasks: vec!["#0 (a)".into()] });
}

#[test]
fn dangling_ids_are_refused() {
    let mut b = GraphBuilder::new();
    let a = b.add_task(task("a"));
    b.add_edge(a, TaskId(7));
    assert!(matches!(b.validate(), Err(GraphError::DanglingEdge { to: TaskId(7), .. })));
    let mut b = GraphBuilder::new();
    b.add_task(task("a").resource(ResourceId(0), 1));
    assert!(matches!(b.validate(), Err(GraphError::DanglingResource { .. })));
}

#[test]
fn resource_mistakes_are_refused() {
    let mut b = GraphBuilder::new();
    let r = b.add_resource("buffers", 2);
    b.add_task(task("big").resource(r, 3));
    assert!(matches!(b.build(), Err(GraphError::OverLimit { wanted: 3, limit: 2, .. })));

    let mut b = GraphBuilder::new();
    let r = b.add_resource("buffers", 1);
    b.add_task(task("keeps").resource(r, 1));
    b.add_task(task("starves").resource(r, 1));
    let error = b.build().unwrap_err();
    assert!(
        matches!(&error, GraphError::ResourceDeadlock { task, held: 1, .. } if task.contains("starves")),
        "{error}"
    );

    let mut b = GraphBuilder::new();
    let r = b.add_resource("buffers", 1);
    b.add_task(task("returns").resource(r, -1));
    assert!(matches!(b.build(), Err(GraphError::ReleaseWithoutAcquire { .. })));

    let mut b = GraphBuilder::new();
    b.add_task(task("no lanes").lanes(0));
    assert!(matches!(b.build(), Err(GraphError::NoLanes { .. })));
}

#[test]
fn program_order_is_id_order_where_possible() {
    let mut b = GraphBuilder::new();
    let [a, x, y] = ["a", "x", "y"].map(|s| b.add_task(task(s)));
    b.add_edge(y, x);
    b.add_edge(y, x);
    let graph = b.build().unwrap();
    assert_eq!(graph.program_order(), [a, y, x]);
    assert_eq!(graph.predecessors(x), [y]);
    assert_eq!(graph.position(x), 2);
}
