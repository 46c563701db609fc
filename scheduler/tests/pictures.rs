//! Traces and pictures are valid, complete and labelled.

use coexec_scheduler::synthetic::{PrefillCosts, PrefillShape};
use coexec_scheduler::{
    Clock, ColourBy, GraphBuilder, Label, PolicyKind, Processor, RunReport, SimulatedProfile, Task, TaskGraph,
    TimelineOptions, TraceMeta, simulate, write_chrome_trace, write_timeline_svg,
};
use serde_json::Value;

fn run(chunks: u32, layers: u32) -> (TaskGraph, RunReport) {
    let shape = PrefillShape { chunks_in_flight: Some(chunks), ..PrefillShape::paper_like(chunks, layers) };
    let graph = shape.build().unwrap();
    let policy = PolicyKind::CriticalPath.create();
    let report = simulate(&graph, policy.as_ref(), &|t| graph.task(t).cost_ns, 4).unwrap();
    (graph, report)
}

fn profile() -> SimulatedProfile {
    SimulatedProfile { name: "8 Gen 3".into(), source: PrefillCosts::SOURCE.into() }
}

fn trace(graph: &TaskGraph, report: &RunReport, meta: TraceMeta) -> Value {
    let mut bytes = Vec::new();
    write_chrome_trace(graph, report, &mut bytes, meta).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn svg(graph: &TaskGraph, report: &RunReport, options: &TimelineOptions) -> String {
    let mut bytes = Vec::new();
    write_timeline_svg(graph, report, &mut bytes, options).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn phase<'a>(trace: &'a Value, ph: &str) -> Vec<&'a Value> {
    trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == ph).collect()
}

#[test]
fn trace_has_every_task_with_its_times() {
    let (graph, report) = run(2, 3);
    let meta = TraceMeta { title: "a \"title\"".into(), simulated: Some(profile()), flows: true };
    let trace = trace(&graph, &report, meta);
    let slices = phase(&trace, "X");
    assert_eq!(slices.len(), graph.len());
    for (slice, event) in slices.iter().zip(&report.events) {
        assert_eq!(slice["args"]["task"], event.task.0);
        assert_eq!(slice["ts"].as_f64().unwrap(), event.start_ns as f64 / 1000.0);
        assert_eq!(slice["dur"].as_f64().unwrap(), (event.end_ns - event.start_ns) as f64 / 1000.0);
        let label = &graph.task(event.task).label;
        assert_eq!(slice["args"]["layer"], label.layer.unwrap());
        assert_eq!(slice["args"]["stage"], label.stage.as_ref());
    }
    let edges: usize = graph.task_ids().map(|t| graph.successors(t).len()).sum();
    assert_eq!((phase(&trace, "s").len(), phase(&trace, "f").len()), (edges, edges));
    assert_eq!(phase(&trace, "C").len(), 2 * 2, "one counter step per chunk taken and given back");
    assert_eq!(trace["otherData"]["title"], "a \"title\"");
    assert_eq!(trace["otherData"]["clock"], "simulated");
    assert!(trace["otherData"]["simulated"].as_str().unwrap().contains("8 Gen 3"));
}

#[test]
fn virtual_time_is_labelled_even_without_a_profile_and_wall_time_is_not() {
    let (graph, mut report) = run(1, 1);
    let options = TimelineOptions::default();
    assert_eq!(trace(&graph, &report, TraceMeta::default())["otherData"]["clock"], "simulated");
    assert!(svg(&graph, &report, &options).contains("simulated"));
    report.clock = Clock::Wall;
    assert_eq!(trace(&graph, &report, TraceMeta::default())["otherData"]["clock"], "measured");
    assert!(!svg(&graph, &report, &options).contains("simulated"));
}

/// Tags closed in the order in which they were opened, no stray `<` or `&`.
fn assert_well_formed(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "stray > in {text:?}");
        for (i, _) in text.match_indices('&') {
            assert!(["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"].iter().any(|e| text[i..].starts_with(e)), "{text:?}");
        }
        let end = at + rest[at..].find('>').expect("tag is closed");
        let tag = &rest[at + 1..end];
        assert!(!tag.contains('<'), "{tag:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn picture_is_well_formed_and_says_what_it_shows() {
    let (graph, report) = run(4, 24);
    for colour_by in [ColourBy::Chunk, ColourBy::Stage] {
        let options = TimelineOptions {
            title: "R&D <phone>".into(),
            colour_by,
            simulated: Some(profile()),
            ..Default::default()
        };
        let picture = svg(&graph, &report, &options);
        assert_well_formed(&picture);
        assert!(picture.contains("R&amp;D &lt;phone&gt;"));
        assert!(picture.contains(&format!("bubble rate {:.1} %", 100.0 * report.bubble_rate())));
        assert!(picture.contains("simulated: 8 Gen 3"));
        let entry = if colour_by == ColourBy::Chunk { ">chunk 3<" } else { ">rope_kv_write<" };
        assert!(picture.contains(entry));
        assert_eq!(picture, svg(&graph, &report, &options));
    }
}

#[test]
fn narrow_boxes_are_merged_and_odd_runs_are_drawn() {
    let (graph, report) = run(64, 40);
    let picture = svg(&graph, &report, &TimelineOptions { width_px: 0, ..Default::default() });
    assert_well_formed(&picture);
    assert!(picture.matches("<rect").count() < graph.len() / 4, "{} boxes", picture.matches("<rect").count());

    let empty = GraphBuilder::new().build().unwrap();
    let policy = PolicyKind::InOrder.create();
    assert_well_formed(&svg(
        &empty,
        &simulate(&empty, policy.as_ref(), &|_| 0, 1).unwrap(),
        &TimelineOptions::default(),
    ));
    for cost_ns in [0, 1, u64::MAX] {
        let mut b = GraphBuilder::new();
        b.add_task(Task::new(Processor::Npu, cost_ns, Label::new("]]>\u{0}")));
        let graph = b.build().unwrap();
        let report = simulate(&graph, policy.as_ref(), &|_| cost_ns, 1).unwrap();
        assert_well_formed(&svg(&graph, &report, &TimelineOptions::default()));
    }
}
