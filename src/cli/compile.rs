//! `coexec compile`: static graphs ahead of time, for a chip that need not be here; or the compiler's own estimates.

use super::{
    console::{bar, note, out, outln, spinner, warning},
    progress::CompilePrinter,
    shared::{Format, packed, quoted, read_text},
    usage::{at_least_one, count, no_effect},
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use coexec::{
    CancelToken, ScheduleChoice, Special,
    npu::{NpuWeights, Placement, Ranges, decoder::Activation},
    runtime::{
        Model,
        compile::{
            self, ChildCompiler, CompileEvent, CompileOptions, Compiler, ContextReport, EstimateReport, JobReply,
            JobRequest, JobTask,
        },
        error::chain,
        npu::{WeightFit, qnn::DEFAULT_CHIP, weight_fit},
    },
};
use indicatif::HumanBytes;
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlacementArg {
    Split,
    Fused,
    Layer,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActivationArg {
    U8,
    U16,
    F16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WeightsArg {
    /// INT8, one scale per output channel
    I8,
    /// INT4, one scale per output channel
    I4,
    /// INT4 in groups of 32 (QNN's block expansion): the file's q4 weights as they are
    Block,
}

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// The .coexec file; without it the embedded demo model
    model: Option<PathBuf>,
    /// Chip: sm8550, sm8650, sm8750, sm8850, or Qualcomm's number of the SoC, e.g. 57 [default: sm8650; 77 with --estimate]
    #[arg(long, value_name = "CHIP")]
    soc: Option<String>,
    /// Chunk lengths in tokens; each gets its own graphs
    #[arg(long, value_delimiter = ',', default_value = "128,256", value_name = "N,N…", value_parser = at_least_one::<usize>)]
    chunk_len: Vec<usize>,
    /// Lengths of the past that graphs with attention take, for --placement layer
    #[arg(long, value_delimiter = ',', default_value = "256", value_name = "N,N…", value_parser = at_least_one::<usize>)]
    kv_len: Vec<usize>,
    /// What is a graph: each linear; norms with linears; or whole layers
    #[arg(long, value_enum, default_value = "split")]
    placement: PlacementArg,
    /// Type of activations
    #[arg(long, value_enum, default_value = "u8")]
    activation: ActivationArg,
    /// Weights on the NPU; without it the file's (q4 as block, all else as i8)
    #[arg(long, value_enum)]
    npu_weights: Option<WeightsArg>,
    /// Layers in one graph, for --placement layer
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one::<usize>)]
    layers_per_graph: usize,
    /// Only these layers, e.g. 0..1
    #[arg(long, value_parser = parse_range, value_name = "A..B")]
    layers: Option<Range<u32>>,
    /// Measure ranges of tensors inside of graphs on this text, for --placement fused or layer in u8 or u16
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// Most tokens of the text
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = at_least_one::<usize>)]
    calibration_tokens: usize,
    /// Most graphs in one binary; less needs less memory to compile [default: what the chip takes and the memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    graphs_per_context: Option<u16>,
    /// One binary per chunk length, each with its own weights: larger, but it also loads in the emulation on x86-64
    #[arg(long)]
    no_weight_sharing: bool,
    /// Do not record inputs and outputs for `coexec selftest`, and do not compare with the simulated NPU
    #[arg(long)]
    no_record: bool,
    /// On-chip memory per graph in MiB; 0 is all of it
    #[arg(long, value_name = "MIB", value_parser = count::<u32>)]
    vtcm: Option<u32>,
    /// Vector threads per graph
    #[arg(long, value_name = "N", value_parser = at_least_one::<u32>)]
    hvx_threads: Option<u32>,
    /// Effort of Qualcomm's compiler: 1, 2 or 3
    #[arg(long, value_name = "LEVEL", value_parser = count::<u32>)]
    optimization: Option<u32>,
    /// Directory for the compiled model; made when it is not there
    #[arg(long, short = 'o', value_name = "DIR", required_unless_present = "estimate")]
    out: Option<PathBuf>,
    /// Write nothing; print what Qualcomm's compiler itself expects (chips 52, 62, 63, 72, 77, 95, 114)
    #[arg(long, conflicts_with = "out")]
    estimate: bool,
    /// Estimate a published shape in place of a model, e.g. qwen2.5-0.5b
    #[arg(long, value_name = "NAME", requires = "estimate", conflicts_with = "model")]
    shape: Option<String>,
    /// Compile in this process, not in a child of it
    #[arg(long)]
    in_process: bool,
    /// Folder of Qualcomm's libraries; searched without it
    #[arg(long, value_name = "DIR")]
    qnn_lib: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The .coexec file; without it the embedded demo model
    #[arg(long)]
    model: Option<PathBuf>,
}

fn parse_range(text: &str) -> Result<Range<u32>, String> {
    let parse = || {
        let (start, end) = text.split_once("..")?;
        Some(start.trim().parse().ok()?..end.trim().parse().ok()?)
    };
    parse().filter(|r: &Range<u32>| r.start < r.end).ok_or_else(|| "use a range of layers such as 0..2".to_owned())
}

/// A compiler whose jobs run in children of this program.
pub(crate) fn child_compiler(model: Option<&Path>) -> Compiler {
    let Ok(program) = std::env::current_exe() else { return Compiler::InProcess };
    let mut args = vec!["compile-job".into()];
    if let Some(model) = model {
        args.extend(["--model".into(), model.into()]);
    }
    Compiler::Child(ChildCompiler { program, args })
}

impl CompileArgs {
    /// Ranges measured on the text, where graphs need some.
    fn ranges(&self, model: &Model, cancel: &CancelToken) -> anyhow::Result<Option<Ranges>> {
        let Some(path) = &self.calibrate else { return Ok(None) };
        let mut tokens = model.require_tokenizer()?.encode(&read_text(path)?, Special::AddBos)?;
        tokens.truncate(self.calibration_tokens);
        let layers = model.config().num_hidden_layers;
        note!("measuring ranges of {layers} layers on {} tokens", tokens.len());
        let bar = bar("layers");
        bar.set_length(u64::from(layers));
        let measured = compile::measure_ranges(model, &tokens, cancel, &mut |done| bar.set_position(u64::from(done)));
        bar.finish_and_clear();
        Ok(Some(measured?))
    }

    fn options(&self) -> CompileOptions {
        CompileOptions {
            ranges: None,
            schedule: None,
            chip: self.soc.clone().unwrap_or_else(|| if self.estimate { "77" } else { DEFAULT_CHIP }.to_owned()),
            placement: match self.placement {
                PlacementArg::Split => Placement::Split,
                PlacementArg::Fused => Placement::Fused,
                PlacementArg::Layer => Placement::Layer,
            },
            activation: match self.activation {
                ActivationArg::U8 => Activation::U8,
                ActivationArg::U16 => Activation::U16,
                ActivationArg::F16 => Activation::F16,
            },
            weights: self.npu_weights.map(|w| match w {
                WeightsArg::I8 => NpuWeights::PerChannelI8,
                WeightsArg::I4 => NpuWeights::PerChannelI4,
                WeightsArg::Block => NpuWeights::BlockExpansion,
            }),
            chunk_lens: self.chunk_len.clone(),
            kv_lens: self.kv_len.clone(),
            layers_per_graph: self.layers_per_graph,
            layers: self.layers.clone(),
            share_weights: !self.no_weight_sharing && self.chunk_len.len() * self.kv_lens() > 1,
            graphs_per_context: self.graphs_per_context.map(usize::from),
            vtcm_mb: self.vtcm,
            hvx_threads: self.hvx_threads,
            optimization: self.optimization,
            record: !self.no_record,
        }
    }

    /// Graphs per chunk length that differ in the length of the past.
    fn kv_lens(&self) -> usize {
        if matches!(self.placement, PlacementArg::Layer) { self.kv_len.len() } else { 1 }
    }

    fn compiler(&self) -> Compiler {
        if self.in_process { Compiler::InProcess } else { child_compiler(self.model.as_deref()) }
    }
}

pub(crate) fn compile(args: &CompileArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    if !matches!(args.placement, PlacementArg::Layer) {
        no_effect(&["kv-len", "layers-per-graph"], "they are for --placement layer");
    }
    if matches!(args.placement, PlacementArg::Split) {
        no_effect(&["calibrate"], "graphs of --placement split have their ranges in the file");
    }
    if args.calibrate.is_none() {
        no_effect(&["calibration-tokens"], "there is no --calibrate");
    }
    if args.estimate {
        return estimate(args, cancel);
    }
    let out = args.out.as_deref().context("give a directory with -o")?;
    let is_new = !out.exists();
    let done = open(args.model.as_deref()).and_then(|model| {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
        compile_to(args, &model, out, cancel)
    });
    if done.is_err() && is_new {
        // Empty, unless somebody else uses it by now: then it stays.
        let _ = std::fs::remove_dir(out);
    }
    done
}

fn compile_to(args: &CompileArgs, model: &Model, out: &Path, cancel: &CancelToken) -> anyhow::Result<()> {
    let text = args.format == Format::Text;
    let mut reports = Vec::new();
    let (mut plan, mut printed) = (None, Ok(()));
    let options = CompileOptions { ranges: args.ranges(model, cancel)?, ..args.options() };
    let warnings = options.warnings(model);
    warnings.iter().for_each(|warning| warning!("warning: {warning}"));
    let printer = CompilePrinter::new("");
    let mut progress = |event: &CompileEvent<'_>| match event {
        CompileEvent::Context { report, .. } => {
            if text {
                // What is compiled stays useful when nobody reads: told at the end.
                let head = if reports.is_empty() { header() + "\n" } else { String::new() };
                printed = std::mem::replace(&mut printed, Ok(())).and(outln!("{head}{}", row(report)));
            }
            reports.push((*report).clone());
        }
        CompileEvent::Started(started) => {
            plan = Some((*started).clone());
            printer.print(event);
        }
        event => printer.print(event),
    };
    let compiled =
        compile::compile(model, &options, args.qnn_lib.as_deref(), out, &args.compiler(), cancel, &mut progress)?;
    drop(printer);
    printed?;
    if !text {
        let json = serde_json::json!({
            "library": compiled.library,
            "options": options,
            "plan": plan,
            "warnings": warnings,
            "contexts": summary(&reports),
        });
        outln!("{json}")?;
        return Ok(());
    }
    outln!("\ncompiled for {} by QNN {} into {}", options.chip, compiled.library, out.display())?;
    if options.share_weights {
        outln!(
            "graphs share weights: these binaries load on a phone, not in the emulation (--no-weight-sharing for that)"
        )?;
    }
    let place = if options.share_weights { "   # on the phone" } else { "" };
    let dir = quoted(out);
    let runs = options.placement == Placement::Split
        && options.activation != Activation::F16
        && options.layers.is_none()
        && model.calibration().is_some()
        && !matches!(weight_fit(model, options.weights_of(model)), WeightFit::Coarse(_));
    if runs {
        outln!("run them: coexec run \"Hello\" --npu qnn --npu-dir {dir}{place}")?;
    }
    if options.record {
        outln!("replay them: coexec selftest {dir}{place}")?;
    }
    Ok(())
}

fn header() -> String {
    let names = ["context", "graphs", "compile", "memory", "binary", "weights", "ratio"];
    format!(
        "{:<22} {:>7} {:>10} {:>12} {:>12} {:>12} {:>7}  vs simulated NPU",
        names[0], names[1], names[2], names[3], names[4], names[5], names[6]
    )
}

/// Reports without the manifests, which lie beside the binaries.
fn summary(reports: &[ContextReport]) -> Vec<serde_json::Value> {
    let one = |r: &ContextReport| {
        serde_json::json!({
            "file": r.context.file,
            "graphs": r.graphs,
            "compile_ms": r.compile_ms,
            "binary_bytes": r.binary_bytes,
            "weight_bytes": r.weight_bytes,
            "expected_peak_bytes": r.expected_peak_bytes,
            "peak_rss_bytes": r.peak_rss_bytes,
            "against_sim": r.against_sim,
        })
    };
    reports.iter().map(one).collect()
}

fn row(r: &ContextReport) -> String {
    let against = match &r.against_sim {
        None => "not compared".to_owned(),
        Some(a) if a.equal == a.graphs => format!("{} graphs bit-equal", a.graphs),
        Some(a) => format!(
            "{} of {} bit-equal; worst {:.2} of the tolerance ({})",
            a.equal, a.graphs, a.worst_share, a.worst_graph
        ),
    };
    format!(
        "{:<22} {:>7} {:>8.2} s {:>12} {:>12} {:>12} {:>7.3}  {against}",
        r.context.manifest.spec.name,
        r.graphs,
        r.compile_ms / 1e3,
        r.peak_rss_bytes.map_or_else(|| "–".to_owned(), |bytes| HumanBytes(bytes).to_string()),
        HumanBytes(r.binary_bytes).to_string(),
        HumanBytes(r.weight_bytes).to_string(),
        r.binary_bytes as f64 / r.weight_bytes.max(1) as f64,
    )
}

fn open(path: Option<&Path>) -> anyhow::Result<Model> {
    Ok(Model::load(Arc::new(packed(path)?), Some(0), &ScheduleChoice::File)?)
}

fn estimate(args: &CompileArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let options = args.options();
    let request =
        JobRequest { options, library_dir: args.qnn_lib.clone(), shape: args.shape.clone(), task: JobTask::Estimate };
    let model = if args.shape.is_none() { Some(open(args.model.as_deref())?) } else { None };
    let spinner = spinner("kinds of graphs estimated");
    let reply = args.compiler().run(&request, model.as_ref(), cancel, &mut |_| spinner.inc(1));
    spinner.finish_and_clear();
    let JobReply::Estimate(report) = reply? else {
        anyhow::bail!("the compile job answered something else; this is a bug of coexec");
    };
    match args.format {
        Format::Json => outln!("{}", serde_json::to_string(&report)?)?,
        Format::Text => out!("{}", estimate_text(&report))?,
    }
    Ok(())
}

fn estimate_text(report: &EstimateReport) -> String {
    let o = &report.options;
    let mut text = format!(
        "{}, chip {}; placement {}, {} weights, {} layers\n\n{:<26} {:>4} {:>5} {:>12} {:>9} {:>12} {:>12} {:>9}\n",
        report.source,
        report.chip,
        o.placement.name(),
        o.weights.map_or("i8", NpuWeights::name),
        report.layers,
        "graph",
        "type",
        "count",
        "cycles",
        "us",
        "DDR read",
        "DDR written",
        "no cost",
    );
    let number = |v: Option<u64>| v.map_or_else(|| "–".to_owned(), |v| v.to_string());
    let bytes = |a: Option<u64>, b: Option<u64>| HumanBytes(a.unwrap_or(0) + b.unwrap_or(0)).to_string();
    for g in &report.graphs {
        let e = &g.estimate;
        text.push_str(&format!(
            "{:<26} {:>4} {:>5} {:>12} {:>9} {:>12} {:>12} {:>9}\n",
            g.graph,
            g.activation.name(),
            format!("x{}", g.count),
            number(e.cycles),
            number(e.us),
            bytes(e.input_fill_bytes, e.intermediate_fill_bytes),
            bytes(e.output_spill_bytes, e.intermediate_spill_bytes),
            number(e.ops_without_cost),
        ));
    }
    text.push('\n');
    for c in &report.chunks {
        text.push_str(&format!(
            "chunk of {:>4} tokens, all layers: {:>9.2} ms, {:>12} DDR bytes -> {:>7.0} tok/s of the NPU's part{}\n",
            c.chunk_len,
            c.us as f64 / 1e3,
            c.ddr_bytes,
            c.tokens_per_s,
            if c.ops_without_cost > 0 {
                format!(" ({} ops without a cost)", c.ops_without_cost)
            } else {
                String::new()
            },
        ));
    }
    text
}

/// `coexec compile-job`: one job, asked for on stdin, answered on stdout.
pub(crate) fn job(args: &JobArgs) -> anyhow::Result<()> {
    let model = || open(args.model.as_deref()).map_err(|e| chain(e.as_ref()));
    compile::serve_job(model).map_err(|e| anyhow::anyhow!("{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_layers() {
        assert_eq!(parse_range("0..1"), Ok(0..1));
        assert_eq!(parse_range(" 3 .. 12 "), Ok(3..12));
        for bad in ["", "1", "2..2", "3..1", "a..b", "-1..2"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
