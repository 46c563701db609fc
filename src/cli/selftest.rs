//! `coexec selftest`: recorded results of a compiled model, replayed on this machine's NPU, and a prompt beside the simulated
//! one.

use super::{
    console::{out, outln},
    progress::SelftestPrinter,
    shared::{Format, packed},
    usage::at_least_one,
};
use clap::Args;
use coexec::{
    CancelToken, ScheduleChoice,
    runtime::{
        Model,
        compile::{CompiledModel, PromptCheck, SelftestOptions, SelftestReport, selftest},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug, Args)]
pub(crate) struct SelftestArgs {
    /// Directory of the compiled model (`coexec compile -o DIR`)
    dir: PathBuf,
    /// The .coexec file that it was compiled from, when it is not where it was
    #[arg(long, short = 'm', value_name = "F")]
    model: Option<PathBuf>,
    /// Only the first N contexts
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    contexts: Option<usize>,
    /// Text of a prompt that also runs, on real activations beside the simulated NPU; a built-in one without it
    #[arg(long, value_name = "TEXT", conflicts_with = "no_prompt")]
    prompt: Option<String>,
    /// Run no prompt
    #[arg(long)]
    no_prompt: bool,
    /// Folder of Qualcomm's libraries; searched without it
    #[arg(long, value_name = "DIR")]
    qnn_lib: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn selftest(args: &SelftestArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let path = match &args.model {
        Some(path) => Some(path.clone()),
        None => CompiledModel::read(&args.dir)?.model_file(&args.dir)?.map(Path::to_owned),
    };
    let model = Model::load(Arc::new(packed(path.as_deref())?), Some(0), &ScheduleChoice::File)?;
    let options = SelftestOptions {
        library_dir: args.qnn_lib.as_deref(),
        contexts: args.contexts.unwrap_or(usize::MAX),
        prompt: (!args.no_prompt).then_some(args.prompt.as_deref()),
    };
    let mut printer = SelftestPrinter::default();
    let found = selftest::run(&model, &args.dir, &options, cancel, &mut |step| printer.print(step))?;
    drop(printer);
    match args.format {
        Format::Json => outln!("{}", serde_json::to_string(&found)?)?,
        Format::Text => {
            for report in &found.contexts {
                out!("{}", text(report))?;
            }
            for prompt in &found.prompt {
                outln!("{}", prompt_text(prompt))?;
            }
            if let Some(reason) = found.no_prompt {
                outln!("no prompt was run: {reason}")?;
            }
        }
    }
    let failed = found.contexts.iter().flat_map(|r| &r.graphs).filter(|g| !g.passed).count();
    if failed > 0 {
        anyhow::bail!(
            "{failed} graphs compute other numbers than recorded: do not use this compiled model on this device"
        );
    }
    if !found.passed {
        anyhow::bail!(
            "a prompt gives other results than on the simulated NPU: do not use this compiled model on this device"
        );
    }
    Ok(())
}

/// Two lines on a prompt of one chunk length.
fn prompt_text(p: &PromptCheck) -> String {
    let logits = if p.logits_equal {
        "logits bit-equal".to_owned()
    } else {
        format!("logits: KL {:.2e}, likeliest token the same at {:.1} %", p.mean_kl, 100.0 * p.same_top)
    };
    format!(
        "prompt of {} tokens beside the simulated NPU: {} graphs on real activations, {} bit-equal\n  {}  worst {:.4} of what is \
         allowed ({}); {logits}",
        p.chunk_len,
        p.graphs,
        p.equal,
        if p.passed { "ok    " } else { "FAILED" },
        p.worst_share,
        p.worst_graph,
    )
}

fn text(report: &SelftestReport) -> String {
    let equal = report.graphs.iter().filter(|g| g.equal).count();
    let mut out = format!(
        "{} on {} (recorded on {}): {} graphs, {equal} bit-equal\n",
        report.context,
        report.device,
        report.recorded_on,
        report.graphs.len()
    );
    for g in &report.graphs {
        let device = g.device_us.map_or_else(String::new, |us| format!(", NPU {us} us"));
        out.push_str(&format!(
            "  {}  {:<22} worst {:.4} of {} at `{}`; host {} us{device}\n",
            if g.passed { "ok    " } else { "FAILED" },
            g.graph,
            g.worst,
            g.allowed,
            g.tensor,
            g.host_us
        ));
    }
    out
}
