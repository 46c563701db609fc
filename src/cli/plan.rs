//! `coexec plan`: chunks, placement and task graph of a prefill, before anything runs.

use super::{
    console::outln,
    shared::{EngineArgs, Format},
    usage::{at_least_one, count, no_effect},
};
use clap::Args;
use coexec::{
    model::{LayerIdx, LinearKind},
    runtime::prefill::{Placement, PrefillPlan, plan as planner},
    scheduler::Processor,
};
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = at_least_one::<usize>)]
    prompt_len: usize,
    /// Tokens already in the session
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count::<usize>)]
    start_pos: usize,
    /// List every task with what it waits for
    #[arg(long)]
    tasks: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let engine = args.engine.engine()?;
    let config = engine.model().config();
    if args.prompt_len.saturating_add(args.start_pos) > config.max_position_embeddings as usize {
        return Err(coexec::RuntimeError::ContextFull {
            used: args.start_pos,
            wanted: args.prompt_len,
            limit: config.max_position_embeddings as usize,
        }
        .into());
    }
    let options = engine.plan_options(false);
    let plan = planner::plan(config, &options, args.prompt_len, args.start_pos)?;
    if args.format == Format::Json {
        no_effect(&["tasks"], "JSON has them always");
        outln!("{}", json(&plan, engine.npu_device()))?;
        return Ok(());
    }
    outln!(
        "{}: {} tokens from position {} -> {} chunk(s); placement {}, NPU {} ({})",
        args.engine.model_name(),
        args.prompt_len,
        args.start_pos,
        plan.chunks.len(),
        plan.placement.name(),
        engine.npu_device(),
        engine.npu_reason(),
    )?;
    for (i, c) in plan.chunks.iter().enumerate() {
        let end = c.start_pos + c.tokens;
        if plan.placement == Placement::Split {
            let padding = c.chunk_len - c.tokens;
            outln!(
                "  chunk {i}: positions {}..{end}, graphs of {}, {padding} rows of padding",
                c.start_pos,
                c.chunk_len
            )?;
        } else {
            outln!("  chunk {i}: positions {}..{end}", c.start_pos)?;
        }
    }
    outln!(
        "\ntasks {} (NPU {}, CPU {})",
        plan.graph.len(),
        plan.graph.count_on(Processor::Npu),
        plan.graph.count_on(Processor::Cpu)
    )?;
    let mut stages: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (task, id) in plan.tasks.iter().zip(plan.graph.task_ids()) {
        let processor = if plan.graph.task(id).processor == Processor::Npu { "NPU" } else { "CPU" };
        *stages.entry((processor, task.stage.name())).or_default() += 1;
    }
    for ((processor, stage), count) in stages {
        outln!("  {processor} {stage:<16} {count}")?;
    }
    if let Some(calibration) = engine.model().calibration() {
        outln!(
            "\nhow linears run (with importance: `coexec schedule`'s divergence without shadow; before it, the input energy that clipping takes)"
        )?;
        for l in 0..config.num_hidden_layers {
            let cells: Vec<String> = LinearKind::ALL
                .iter()
                .filter_map(|kind| {
                    let c = calibration.linear(LayerIdx(l), *kind)?;
                    let treatment = options.schedule[l as usize][kind.index()];
                    Some(format!("{kind} {treatment} {:.1e} ({} hot)", c.importance, c.hot_channels.len()))
                })
                .collect();
            outln!("  L{l:<3} {}", cells.join("  "))?;
        }
    }
    if args.tasks {
        outln!()?;
        for id in plan.graph.task_ids() {
            let after: Vec<String> = plan.graph.predecessors(id).iter().map(ToString::to_string).collect();
            outln!("  {:<28} after [{}]", plan.graph.describe(id), after.join(" "))?;
        }
    }
    Ok(())
}

fn json(plan: &PrefillPlan, npu_device: &str) -> serde_json::Value {
    serde_json::json!({
        "placement": plan.placement.name(),
        "npu_device": npu_device,
        "chunks": plan.chunks.iter().map(|c| serde_json::json!({
            "offset": c.offset, "tokens": c.tokens, "start_pos": c.start_pos, "chunk_len": c.chunk_len,
        })).collect::<Vec<_>>(),
        "tasks": plan.tasks.iter().zip(plan.graph.task_ids()).map(|(t, id)| serde_json::json!({
            "id": id.0,
            "stage": t.stage.name(),
            "layer": t.layer,
            "chunk": t.chunk,
            "processor": plan.graph.task(id).processor.to_string(),
            "cost_ns": plan.graph.task(id).cost_ns,
            "after": plan.graph.predecessors(id).iter().map(|p| p.0).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
