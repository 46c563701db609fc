//! `coexec schedule`: how each linear runs on the NPU, decided by measurement and stored in the file.

use super::{
    console::{bar, note, outln},
    output::{claim, read_files},
    shared::{Format, parse_percent, read_text},
    usage::{at_least_one, count},
};
use clap::Args;
use coexec::{
    CancelToken, EngineOptions,
    model::{LinearKind, Treatment},
    runtime::schedule::{self, Decision, ScheduleOptions},
};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The calibrated .coexec file; it gets the schedule unless --out or --dry-run is given
    model: PathBuf,
    /// Text to measure on, best another one than calibration saw
    #[arg(long, value_name = "F")]
    text: PathBuf,
    /// Perplexity that may be lost against the CPU path, e.g. 1%
    #[arg(long, default_value = "1%", value_parser = parse_percent, value_name = "P")]
    max_quality_loss: f64,
    /// Windows of the text to measure on; as many again check the result
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = at_least_one::<usize>)]
    windows: usize,
    /// Tokens per window
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = at_least_one::<usize>)]
    window: usize,
    /// Prompt that schedules are timed on, in tokens (simulated)
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = at_least_one::<usize>)]
    prompt_len: usize,
    /// Chip that schedules are timed for (simulated)
    #[arg(long, default_value = "sm8650", value_name = "CHIP")]
    npu_profile: String,
    /// Write a copy of the file instead of replacing it
    #[arg(long, short, value_name = "F.coexec")]
    out: Option<PathBuf>,
    /// Write nothing
    #[arg(long, conflicts_with = "out")]
    dry_run: bool,
    /// CPU workers; 0 is one per core
    #[arg(long, short = 't', default_value_t = 0, value_name = "N", value_parser = count::<usize>)]
    threads: usize,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(crate) fn schedule(args: &ScheduleArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let options = ScheduleOptions {
        max_quality_loss: args.max_quality_loss,
        window: args.window,
        windows: args.windows,
        prompt_len: args.prompt_len,
        engine: EngineOptions {
            threads: args.threads,
            npu_profile: args.npu_profile.clone(),
            ..EngineOptions::default()
        },
        cancel: cancel.clone(),
        ..ScheduleOptions::default()
    };
    options.engine.validate()?;
    // Without --out the model's own file is what is written.
    let read = read_files([Some(&*args.text), args.out.as_ref().map(|_| &*args.model)]);
    let out = (!args.dry_run).then(|| args.out.as_ref().unwrap_or(&args.model));
    let [file] = claim([out.map(|p| &**p)], &read)?;
    let bar = bar("windows").with_message("measuring linears");
    let decision = schedule::decide(&args.model, &read_text(&args.text)?, &options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let decision = decision?;
    // Stored first: nobody may be reading what is printed.
    if let Some(file) = file {
        let path = file.path().to_owned();
        schedule::store_into(&args.model, &decision, file)?;
        note!("-> {}", path.display());
    }
    match args.format {
        Format::Json => outln!("{}", serde_json::to_string(&decision)?),
        Format::Text => print(&decision),
    }
}

fn print(d: &Decision) -> anyhow::Result<()> {
    outln!("divergence from the CPU path in nats, one linear at a time in u8, and in u8 with shadow:")?;
    for (l, layer) in d.divergence.iter().enumerate() {
        let cells =
            LinearKind::ALL.iter().zip(layer).map(|(kind, d)| format!("{kind} {:.1e} {:.1e}", d.plain, d.shadow));
        outln!("  L{l:<3} {}", cells.collect::<Vec<_>>().join("  "))?;
    }
    outln!(
        "\n{:<28} {:>4} {:>9} {:>8} {:>4} {:>22} {:>11} {:>13}",
        "schedule",
        "u8",
        "u8+shadow",
        "u8+float",
        "u16",
        "divergence",
        "perplexity",
        "simulated ms"
    )?;
    for (i, c) in d.candidates.iter().enumerate() {
        outln!(
            "{:<28} {:>4} {:>9} {:>8} {:>4} {:>12.5} ± {:.5} {:>+9.2} % {:>13.2}{}",
            c.name,
            c.count(Treatment::Plain),
            c.count(Treatment::Shadow),
            c.count(Treatment::Split),
            c.count(Treatment::Wide),
            c.kl,
            c.kl_std_error,
            100.0 * (c.perplexity_ratio - 1.0),
            c.simulated_ns as f64 / 1e6,
            if i == d.chosen { "  <- chosen" } else { "" },
        )?;
    }
    if !d.kept {
        outln!("no schedule keeps the target on the windows that they were checked on: this one comes nearest")?;
    }
    outln!("simulated: {}", d.simulated)
}
