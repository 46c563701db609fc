//! `coexec doctor`: what stands between this process and the NPU, and what to do about it.

use super::{
    console::{note, out, outln},
    shared::{Format, cache, state_dir},
};
use anyhow::Context as _;
use clap::Args;
use coexec::runtime::{
    doctor::{DoctorOptions, Report, Status, examine},
    npu::marker,
};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Chip: sm8550, sm8650, sm8750, sm8850, or Qualcomm's number of the SoC
    #[arg(long, default_value = "sm8650", value_name = "CHIP")]
    soc: String,
    /// Folder of Qualcomm's libraries; searched without it
    #[arg(long, value_name = "DIR")]
    qnn_lib: Option<PathBuf>,
    /// Forget runs that took their process down, so that --npu auto tries the NPU again
    #[arg(long)]
    clear: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let state_dir = state_dir();
    if args.clear
        && let Some(dir) = &state_dir
    {
        let cleared = marker::clear(dir).with_context(|| format!("cannot clear markers in `{}`", dir.display()))?;
        note!("{cleared} markers of crashed runs cleared");
    }
    let (chip, library_dir) = (args.soc.clone(), args.qnn_lib.clone());
    let report = examine(&DoctorOptions { chip, library_dir, state_dir, cache: cache()? });
    match args.format {
        Format::Json => outln!("{}", serde_json::to_string(&report)?)?,
        Format::Text => out!("{}", text(&report))?,
    }
    if !report.npu_usable {
        anyhow::bail!("Qualcomm's NPU cannot be used here; prefill runs on the simulated NPU or on the CPU");
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for f in &report.findings {
        let mark = match f.status {
            Status::Ok => "ok    ",
            Status::Note => "note  ",
            Status::Failed => "FAILED",
        };
        out.push_str(&format!("{mark}  {:<18} {}\n", f.what, f.found));
        if let Some(advice) = &f.advice {
            out.push_str(&format!("{:28}-> {advice}\n", ""));
        }
    }
    out
}
