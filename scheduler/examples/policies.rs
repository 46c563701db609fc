//! Compares the policies on an llm.npu-like prefill: `cargo run --release -p coexec-scheduler --example policies [DIR]`.
//! With a directory it also writes one picture and one trace per policy there. All numbers are simulated.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::Instant;

use coexec_scheduler::bounds::lower_bound;
use coexec_scheduler::synthetic::{PrefillCosts, PrefillShape};
use coexec_scheduler::{
    ColourBy, NpuStall, Policy, PolicyKind, Processor, SimulatedProfile, TimelineOptions, TraceMeta, Unlocked,
    simulate, write_chrome_trace, write_timeline_svg,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args_os().nth(1).map(PathBuf::from);
    let profile = SimulatedProfile { name: "paper-like 8 Gen 3".to_owned(), source: PrefillCosts::SOURCE.to_owned() };
    println!("simulated: {} ({})", profile.name, profile.source);
    for (chunks, layers) in [(1, 24), (2, 24), (4, 24), (8, 24)] {
        for pruned_percent in [0, 85] {
            let shape = PrefillShape { pruned_percent, ..PrefillShape::paper_like(chunks, layers) };
            let graph = shape.build()?;
            let bound = lower_bound(&graph, shape.lanes);
            println!(
                "\n{chunks} chunks x {layers} layers, {pruned_percent} % pruned: {} tasks, lower bound {:.1} ms",
                graph.len(),
                bound.max_ns() as f64 / 1e6
            );
            let mut policies: Vec<(String, Box<dyn Policy + Send>)> =
                PolicyKind::ALL.into_iter().map(|k| (k.to_string(), k.create())).collect();
            for unlocked in [Unlocked::All, Unlocked::OtherProcessor, Unlocked::Npu] {
                policies.push((format!("npu-stall, {unlocked:?}"), Box::new(NpuStall { unlocked })));
            }
            for (name, policy) in policies {
                let started = Instant::now();
                let report = simulate(&graph, policy.as_ref(), &|t| graph.task(t).cost_ns, shape.lanes)?;
                let pick_us = started.elapsed().as_secs_f64() * 1e6 / graph.len() as f64;
                println!(
                    "  {name:26} makespan {:8.1} ms (bound + {:4.1} %)  bubbles {:4.1} % ({})  NPU busy {:7.1} ms  CPU busy {:7.1} ms  {pick_us:.2} us per task",
                    report.makespan_ns as f64 / 1e6,
                    100.0 * (report.makespan_ns as f64 / bound.max_ns() as f64 - 1.0),
                    100.0 * report.bubble_rate(),
                    report.busiest(),
                    report.busy_ns(Processor::Npu) as f64 / 1e6,
                    report.busy_ns(Processor::Cpu) as f64 / 1e6,
                );
                if let (Some(dir), (4, 85), false) = (&out, (chunks, pruned_percent), name.contains(',')) {
                    std::fs::create_dir_all(dir)?;
                    let title = format!("Prefill of {chunks} chunks of 256 tokens through {layers} layers, 1.8B model");
                    for (by, suffix) in [(ColourBy::Chunk, "chunks"), (ColourBy::Stage, "stages")] {
                        let file = File::create(dir.join(format!("{name}-{suffix}.svg")))?;
                        let options = TimelineOptions {
                            title: title.clone(),
                            colour_by: by,
                            simulated: Some(profile.clone()),
                            ..TimelineOptions::default()
                        };
                        write_timeline_svg(&graph, &report, BufWriter::new(file), &options)?;
                    }
                    let file = File::create(dir.join(format!("{name}.json")))?;
                    let meta = TraceMeta { title, simulated: Some(profile.clone()), flows: true };
                    write_chrome_trace(&graph, &report, BufWriter::new(file), meta)?;
                }
            }
        }
    }
    Ok(())
}
