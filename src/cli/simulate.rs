//! `coexec simulate`: a prefill's schedule on a virtual clock, policy by policy. Every number is labelled simulated, with
//! the profile's name and where its constants come from.

use super::{
    console::outln,
    output::{claim, read_files},
    shared::{Format, packed},
    usage::{at_least_one, no_effect, wrong},
};
use anyhow::Context as _;
use clap::Args;
use coexec::{
    PolicyKind,
    model::{DecoderConfig, Treatment, random},
    npu::DeviceProfile,
    runtime::{
        compile::EstimateReport,
        options::MAX_CHUNK_LEN,
        prefill::{MAX_CHUNKS_IN_FLIGHT, Placement, PlanOptions, plan as planner, plan::StageCosts},
    },
    scheduler::{
        Processor, SimulatedProfile, TimelineOptions, TraceMeta, bounds::lower_bound, simulate as run_virtual,
        write_chrome_trace, write_timeline_svg,
    },
};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// A named shape (e.g. qwen1.5-1.8b) …
    #[arg(long, value_name = "NAME", default_value = "qwen1.5-1.8b", conflicts_with = "model")]
    shape: String,
    /// … or a .coexec file
    #[arg(long, short = 'm', value_name = "F")]
    model: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = at_least_one::<usize>)]
    prompt_len: usize,
    /// Tokens that a chunk may hold, comma-separated [default: 256, or those of --estimates]
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = at_least_one::<usize>)]
    chunk_len: Vec<usize>,
    /// One policy; without it all are compared
    #[arg(long, value_name = "POLICY")]
    policy: Option<PolicyKind>,
    /// Device profile of the NPU: sm8550, sm8650, sm8750, sm8850
    #[arg(long, default_value = "sm8650", value_name = "NAME")]
    profile: String,
    /// Source of the NPU's times: llm_npu_table3 or qualcomm_estimate_soc77
    #[arg(long, default_value = "llm_npu_table3", value_name = "NAME")]
    timing: String,
    /// Times of the NPU's graphs in place of --timing: what `coexec compile --estimate --format json` printed for this model
    #[arg(long, value_name = "F")]
    estimates: Option<PathBuf>,
    /// CPU workers of the phone
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = at_least_one::<usize>)]
    cpu_workers: usize,
    /// Leave shadow out
    #[arg(long)]
    no_shadow: bool,
    /// Write the (last) policy's events as Chrome/Perfetto JSON
    #[arg(long, value_name = "F")]
    trace: Option<PathBuf>,
    /// Write the (last) policy's timeline as SVG
    #[arg(long, value_name = "F")]
    timeline: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl SimulateArgs {
    fn config(&self) -> anyhow::Result<(String, DecoderConfig)> {
        match &self.model {
            Some(path) => Ok((path.display().to_string(), packed(Some(path))?.config().clone())),
            None => Ok((self.shape.clone(), random::named_config(&self.shape)?)),
        }
    }

    fn device(&self) -> anyhow::Result<DeviceProfile> {
        use coexec::npu::{TimingModel, profile};
        let mut device = profile::chips::named(&self.profile).ok_or_else(|| {
            wrong(format!("option --profile = {}: use one of {}", self.profile, profile::chips::NAMES.join(", ")))
        })?;
        device.timing = Some(TimingModel::named(&self.timing).ok_or_else(|| {
            let names: Vec<_> = TimingModel::ALL.iter().map(|m| m.name()).collect();
            wrong(format!("option --timing = {}: use one of {}", self.timing, names.join(", ")))
        })?);
        Ok(device)
    }
}

/// A compiler's estimates that fit the model.
fn estimates(path: &Path, config: &DecoderConfig) -> anyhow::Result<EstimateReport> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let report = EstimateReport::parse(&bytes).map_err(|e| anyhow::anyhow!("`{}` {e}", path.display()))?;
    if report.options.placement != coexec::npu::Placement::Split || report.linears().is_empty() {
        anyhow::bail!("`{}` has no linears of placement split, which is what is simulated", path.display());
    }
    if report.layers != config.num_hidden_layers {
        anyhow::bail!(
            "`{}` is of a model with {} layers, this one has {}; estimate this model",
            path.display(),
            report.layers,
            config.num_hidden_layers
        );
    }
    Ok(report)
}

pub(crate) fn simulate(args: &SimulateArgs) -> anyhow::Result<()> {
    let read = read_files([args.model.as_deref(), args.estimates.as_deref()]);
    let [trace, timeline] = claim([args.trace.as_deref(), args.timeline.as_deref()], &read)?;
    let (name, config) = args.config()?;
    let estimates = args.estimates.as_deref().map(|path| estimates(path, &config)).transpose()?;
    let chunk_len = match &estimates {
        _ if !args.chunk_len.is_empty() => args.chunk_len.clone(),
        Some(report) => report.options.chunk_lens.clone(),
        None => vec![256],
    };
    if !(1..=256).contains(&args.cpu_workers) {
        return Err(wrong(format!("option --cpu-workers = {}: use 1 … 256", args.cpu_workers)));
    }
    let lens: Vec<String> = chunk_len.iter().map(ToString::to_string).collect();
    let lens = lens.join(",");
    if args.prompt_len > 1 << 20 || chunk_len.iter().any(|len| !(1..=MAX_CHUNK_LEN).contains(len)) {
        let text = format!("options --prompt-len {} and --chunk-len {lens}: at most 1048576 and 8192", args.prompt_len);
        return Err(wrong(text));
    }
    let device = args.device()?;
    let npu_source = match &estimates {
        Some(report) => format!("{}, chip {}", report.source, report.chip),
        None => device.timing.map_or("", coexec::npu::TimingModel::source).to_owned(),
    };
    if estimates.is_some() {
        no_effect(&["timing"], "the times are --estimates'");
    }
    let timing = if estimates.is_some() { "compiler's estimates" } else { args.timing.as_str() };
    let source = format!("NPU: {npu_source}; {}", StageCosts::CPU_SOURCE);
    let treatment = if args.no_shadow { Treatment::Plain } else { Treatment::Shadow };
    let options = PlanOptions {
        placement: Placement::Split,
        chunk_lens: chunk_len.clone(),
        schedule: vec![[treatment; 4]; config.num_hidden_layers as usize],
        shadow_shares: Vec::new(),
        all_logits: false,
        cpu_workers: args.cpu_workers,
        max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT,
        costs: StageCosts {
            linears: estimates.as_ref().map(EstimateReport::linears).unwrap_or_default(),
            ..StageCosts::phone(device.clone())
        },
    };
    let plan = planner::plan(&config, &options, args.prompt_len, 0)?;
    let workers = args.cpu_workers as u16;
    let bound = lower_bound(&plan.graph, workers);
    let policies = match args.policy {
        Some(policy) => vec![policy],
        None => PolicyKind::ALL.to_vec(),
    };
    let mut rows = Vec::new();
    let mut last = None;
    for policy in policies {
        let report = run_virtual(&plan.graph, &*policy.create(), &|t| plan.graph.task(t).cost_ns, workers)?;
        rows.push((policy, report.clone()));
        last = Some(report);
    }
    let label = SimulatedProfile { name: format!("{} / {timing}", device.name), source: source.clone() };
    let title = format!("{name}, {} tokens, chunk {lens}", args.prompt_len);
    if let Some(report) = &last {
        if let Some(file) = trace {
            let meta = TraceMeta { title: title.clone(), simulated: Some(label.clone()), flows: false };
            file.fill(|out| write_chrome_trace(&plan.graph, report, out, meta))?;
        }
        if let Some(file) = timeline {
            let options =
                TimelineOptions { title: title.clone(), simulated: Some(label.clone()), ..TimelineOptions::default() };
            file.fill(|out| write_timeline_svg(&plan.graph, report, out, &options))?;
        }
    }
    let tokens_per_s = |ns: u64| args.prompt_len as f64 * 1e9 / ns.max(1) as f64;
    if args.format == Format::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(policy, r)| {
                serde_json::json!({
                    "policy": policy.name(),
                    "makespan_ns": r.makespan_ns,
                    "bubble_rate": r.bubble_rate(),
                    "npu_busy_ns": r.busy_ns(Processor::Npu),
                    "cpu_busy_ns": r.busy_ns(Processor::Cpu),
                    "tokens_per_s": tokens_per_s(r.makespan_ns),
                })
            })
            .collect();
        outln!(
            "{}",
            serde_json::json!({
                "simulated": { "profile": label.name, "source": label.source },
                "model": name, "prompt_len": args.prompt_len, "chunk_lens": chunk_len,
                "lower_bound_ns": bound.max_ns(), "policies": rows,
            })
        )?;
        return Ok(());
    }
    outln!("simulated: {title}, profile {}", label.name)?;
    outln!(
        "{:<14} {:>12} {:>8} {:>10} {:>10} {:>10} {:>12}",
        "policy",
        "makespan ms",
        "bubbles",
        "NPU ms",
        "CPU ms",
        "tok/s",
        "over bound"
    )?;
    for (policy, r) in &rows {
        outln!(
            "{:<14} {:>12.1} {:>7.1}% {:>10.1} {:>10.1} {:>10.0} {:>11.1}%",
            policy.name(),
            r.makespan_ns as f64 / 1e6,
            100.0 * r.bubble_rate(),
            r.busy_ns(Processor::Npu) as f64 / 1e6,
            r.busy_ns(Processor::Cpu) as f64 / 1e6,
            tokens_per_s(r.makespan_ns),
            100.0 * (r.makespan_ns as f64 / bound.max_ns().max(1) as f64 - 1.0),
        )?;
    }
    outln!("lower bound    {:>12.1}", bound.max_ns() as f64 / 1e6)?;
    outln!("source: {source}")?;
    Ok(())
}
