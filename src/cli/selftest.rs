//! `coexec selftest`: recorded results of a compiled model, replayed on this machine's NPU.

use super::shared::{Format, packed};
use clap::Args;
use coexec::{
    ScheduleChoice,
    runtime::{
        Model,
        compile::{SelftestReport, selftest},
    },
};
use std::{path::PathBuf, sync::Arc};

#[derive(Debug, Args)]
pub(crate) struct SelftestArgs {
    /// Directory of the compiled model (`coexec compile -o DIR`)
    dir: PathBuf,
    /// The .coexec file that it was compiled from; without it the embedded demo model
    #[arg(long, short = 'm', value_name = "F")]
    model: Option<PathBuf>,
    /// Only the first N contexts
    #[arg(long, value_name = "N")]
    contexts: Option<usize>,
    /// Folder of Qualcomm's libraries; searched without it
    #[arg(long, value_name = "DIR")]
    qnn_lib: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn selftest(args: &SelftestArgs) -> anyhow::Result<()> {
    let model = Model::load(Arc::new(packed(args.model.as_deref())?), Some(0), &ScheduleChoice::File)?;
    let limit = args.contexts.unwrap_or(usize::MAX);
    let reports = selftest::replay_all(&model, &args.dir, args.qnn_lib.as_deref(), limit)?;
    match args.format {
        Format::Json => println!("{}", serde_json::to_string(&reports)?),
        Format::Text => reports.iter().for_each(|r| print!("{}", text(r))),
    }
    let failed = reports.iter().flat_map(|r| &r.graphs).filter(|g| !g.passed).count();
    if failed > 0 {
        anyhow::bail!(
            "{failed} graphs compute other numbers than recorded: do not use this compiled model on this device"
        );
    }
    Ok(())
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
