//! Chrome trace JSON of a run, for Perfetto (ui.perfetto.dev) and chrome://tracing: one track per processor and worker,
//! one slice per task with chunk, layer and stage as arguments, one counter per resource, and arrows along the edges.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::graph::TaskGraph;
use crate::report::{Clock, Event, RunReport};
use crate::task::{Processor, ResourceId};

/// Whose time a simulated run is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedProfile {
    /// Name of the device profile.
    pub name: String,
    /// Where its constants come from.
    pub source: String,
}

/// What a trace says about its run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceMeta {
    /// Title: model, prompt, chip.
    pub title: String,
    /// The profile, when any of the times are simulated. A report of the virtual clock is labelled simulated in any case.
    pub simulated: Option<SimulatedProfile>,
    /// Whether to draw an arrow per edge.
    pub flows: bool,
}

/// `simulated: NAME (SOURCE)` when any time is simulated, `None` when all were measured.
pub(crate) fn simulated_label(clock: Clock, profile: Option<&SimulatedProfile>) -> Option<String> {
    match (clock, profile) {
        (_, Some(p)) => Some(format!("simulated: {} ({})", p.name, p.source)),
        (Clock::Virtual, None) => Some("simulated: profile not named".to_owned()),
        (Clock::Wall, None) => None,
    }
}

fn pid(processor: Processor) -> u32 {
    match processor {
        Processor::Npu => 1,
        Processor::Cpu => 2,
    }
}

/// The format counts in µs; three decimals keep the ns.
fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// Writes `report`, a run of `graph`, as Chrome trace JSON.
///
/// # Errors
/// Those of `out`.
///
/// # Panics
/// When `report` names tasks that are not of `graph`.
pub fn write_chrome_trace(
    graph: &TaskGraph,
    report: &RunReport,
    mut out: impl Write,
    meta: TraceMeta,
) -> io::Result<()> {
    let simulated = simulated_label(report.clock, meta.simulated.as_ref());
    let other = json!({
        "title": meta.title,
        "policy": report.policy,
        "clock": if simulated.is_some() { "simulated" } else { "measured" },
        "simulated": simulated,
        "cpu_workers": report.cpu_workers,
        "makespan_ns": report.makespan_ns,
        "bubble_rate": report.bubble_rate(),
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{other},\"traceEvents\":[")?;
    let mut records = Records { out, first: true };
    let suffix = if simulated.is_some() { " (simulated)" } else { "" };
    for processor in Processor::ALL {
        let pid = pid(processor);
        records.push(
            &json!({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": format!("{processor}{suffix}")}}),
        )?;
        records.push(&json!({"ph": "M", "pid": pid, "name": "process_sort_index", "args": {"sort_index": pid}}))?;
        let mut workers: Vec<u16> = report.events_on(processor).map(|e| e.worker).collect();
        workers.sort_unstable();
        workers.dedup();
        for worker in workers {
            let name = match processor {
                Processor::Npu => "NPU queue".to_owned(),
                Processor::Cpu => format!("CPU worker {worker}"),
            };
            records
                .push(&json!({"ph": "M", "pid": pid, "tid": worker, "name": "thread_name", "args": {"name": name}}))?;
        }
    }
    let mut event_of = vec![None; graph.len()];
    for event in &report.events {
        event_of[event.task.index()] = Some(event);
        records.push(&slice(graph, event))?;
    }
    if meta.flows {
        let mut id = 0u64;
        for event in &report.events {
            for target in graph.successors(event.task).iter().filter_map(|s| event_of[s.index()]) {
                id += 1;
                records.push(&flow("s", id, event, event.end_ns))?;
                records.push(&flow("f", id, target, target.start_ns))?;
            }
        }
    }
    counters(graph, report, &mut records)?;
    records.out.write_all(b"\n]}\n")?;
    records.out.flush()
}

struct Records<W> {
    out: W,
    first: bool,
}

impl<W: Write> Records<W> {
    fn push(&mut self, record: &Value) -> io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, record).map_err(io::Error::from)
    }
}

fn slice(graph: &TaskGraph, event: &Event) -> Value {
    let task = graph.task(event.task);
    json!({
        "ph": "X",
        "pid": pid(event.processor),
        "tid": event.worker,
        "ts": us(event.start_ns),
        "dur": us(event.end_ns - event.start_ns),
        "name": task.label.to_string(),
        "cat": task.label.stage,
        "args": {
            "task": event.task.0,
            "stage": task.label.stage,
            "layer": task.label.layer,
            "chunk": task.label.chunk,
            "lanes": event.lanes,
            "expected_ns": task.cost_ns,
        },
    })
}

fn flow(phase: &str, id: u64, event: &Event, at_ns: u64) -> Value {
    let mut record = json!({
        "ph": phase, "id": id, "name": "edge", "cat": "edge",
        "pid": pid(event.processor), "tid": event.worker, "ts": us(at_ns),
    });
    if phase == "f" {
        record["bp"] = json!("e");
    }
    record
}

/// Each resource's level over time.
fn counters(graph: &TaskGraph, report: &RunReport, records: &mut Records<impl Write>) -> io::Result<()> {
    for index in 0..graph.resource_count() {
        let resource = ResourceId(index as u16);
        let (name, limit) = graph.resource(resource);
        let mut changes: Vec<(u64, i64)> = Vec::new();
        for event in &report.events {
            for &(r, delta) in &graph.task(event.task).resources {
                if r == resource {
                    let at_ns = if delta > 0 { event.start_ns } else { event.end_ns };
                    changes.push((at_ns, i64::from(delta)));
                }
            }
        }
        changes.sort_unstable();
        let mut level = 0;
        for (at_ns, delta) in changes {
            level += delta;
            let name = format!("{name} (limit {limit})");
            records.push(&json!({"ph": "C", "pid": 0, "name": name, "ts": us(at_ns), "args": {"held": level}}))?;
        }
    }
    Ok(())
}
