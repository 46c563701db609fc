//! Compares the policies on an llm.npu-like prefill: `cargo run --release -p coexec-scheduler --example policies [DIR]`.
//! With a directory it also writes pictures and a trace per policy there (4 chunks, 85 % pruned). All numbers are simulated.
//! `noisy` repeats with true costs up to 30 % off what the policy was told: the mean makespan of 20 seeds.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use coexec_scheduler::bounds::lower_bound;
use coexec_scheduler::synthetic::{PrefillCosts, PrefillShape};
use coexec_scheduler::{
    ColourBy, NpuStall, Policy, PolicyKind, Processor, RunReport, SimulatedProfile, TaskGraph, TaskId, TimelineOptions,
    TraceMeta, Unlocked, simulate, write_chrome_trace, write_timeline_svg,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let out = std::env::args_os().nth(1).map(PathBuf::from);
    let profile = SimulatedProfile { name: "paper-like 8 Gen 3".to_owned(), source: PrefillCosts::SOURCE.to_owned() };
    println!("simulated: {} ({})", profile.name, profile.source);
    for chunks in [1, 2, 3, 4, 6, 8, 16] {
        for pruned_percent in [0, 85] {
            let shape = PrefillShape { pruned_percent, ..PrefillShape::paper_like(chunks, 24) };
            let graph = shape.build()?;
            let bound_ns = lower_bound(&graph, shape.lanes).max_ns() as f64;
            let tasks = graph.len();
            println!(
                "\n{chunks} chunks x 24 layers, {pruned_percent} % pruned: {tasks} tasks, lower bound {:.1} ms",
                bound_ns / 1e6
            );
            for (name, policy) in policies(&graph, shape.lanes) {
                let started = Instant::now();
                let report = simulate(&graph, policy.as_ref(), &|t| graph.task(t).cost_ns, shape.lanes)?;
                let us_per_task = started.elapsed().as_secs_f64() * 1e6 / tasks as f64;
                println!(
                    "  {name:26} {:8.1} ms = bound + {:4.1} %, noisy {:8.1} ms; bubbles {:4.1} % ({}); CPU busy {:7.1} ms; {us_per_task:.2} us/task",
                    report.makespan_ns as f64 / 1e6,
                    100.0 * (report.makespan_ns as f64 / bound_ns - 1.0),
                    noisy_ms(&graph, policy.as_ref(), shape.lanes)?,
                    100.0 * report.bubble_rate(),
                    report.busiest(),
                    report.busy_ns(Processor::Cpu) as f64 / 1e6,
                );
                if let (Some(dir), (4, 85), false) = (&out, (chunks, pruned_percent), name.contains(',')) {
                    draw(dir, &name, &graph, &report, &profile)?;
                }
            }
        }
    }
    Ok(())
}

fn policies(graph: &TaskGraph, cpu_workers: u16) -> Vec<(String, Box<dyn Policy + Send>)> {
    let mut all: Vec<(String, Box<dyn Policy + Send>)> =
        PolicyKind::ALL.into_iter().map(|k| (k.to_string(), k.create())).collect();
    for unlocked in [Unlocked::OtherProcessor, Unlocked::Npu] {
        all.push((format!("npu-stall, {unlocked:?}"), Box::new(NpuStall { unlocked })));
    }
    let started = Instant::now();
    let tuned = PolicyKind::Staggered.create_for(graph, cpu_workers);
    let tuning_ms = started.elapsed().as_secs_f64() * 1e3;
    all.push((format!("staggered, tuned {tuning_ms:.0} ms"), tuned));
    all
}

fn noisy_ms(graph: &TaskGraph, policy: &dyn Policy, cpu_workers: u16) -> Result<f64, Failure> {
    let mut sum_ms = 0.0;
    for seed in 1..=20u64 {
        let cost = |task: TaskId| {
            let hash = (seed << 32 | u64::from(task.0))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29)
                .wrapping_mul(0xBF58_476D_1CE4_E5B9);
            graph.task(task).cost_ns * (700 + (hash >> 40) % 601) / 1000
        };
        sum_ms += simulate(graph, policy, &cost, cpu_workers)?.makespan_ns as f64 / 1e6;
    }
    Ok(sum_ms / 20.0)
}

fn draw(
    dir: &Path,
    name: &str,
    graph: &TaskGraph,
    report: &RunReport,
    profile: &SimulatedProfile,
) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    let title = "Prefill of 4 chunks of 256 tokens through 24 layers, 1.8B model".to_owned();
    for (colour_by, suffix) in [(ColourBy::Chunk, "chunks"), (ColourBy::Stage, "stages")] {
        let file = File::create(dir.join(format!("{name}-{suffix}.svg")))?;
        let options =
            TimelineOptions { title: title.clone(), colour_by, simulated: Some(profile.clone()), ..Default::default() };
        write_timeline_svg(graph, report, BufWriter::new(file), &options)?;
    }
    let file = File::create(dir.join(format!("{name}.json")))?;
    let meta = TraceMeta { title, simulated: Some(profile.clone()), flows: true };
    write_chrome_trace(graph, report, BufWriter::new(file), meta)?;
    Ok(())
}
