//! Arguments, logging, Ctrl-C and exit codes; one module per command.
//!
//! Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong arguments, 130 cancelled by Ctrl-C.

mod bench;
mod cache;
mod compile;
mod doctor;
mod eval;
mod export;
mod import;
mod inspect;
mod limits;
mod output;
mod plan;
mod progress;
mod run;
mod schedule;
mod selftest;
mod shared;
mod simulate;
mod sweep;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use coexec::{CancelToken, RuntimeError, runtime::error::chain};
use std::{io::IsTerminal as _, process::ExitCode};

/// What is logged without --log. Errors of Qualcomm's library are quoted in ours, so its own lines stay out.
const DEFAULT_LOG: &str = "warn,qnn=off";

#[derive(Debug, Parser)]
#[command(
    name = "coexec",
    version = env!("COEXEC_VERSION"),
    about = "Run language models on a phone's NPU and CPU together",
    after_help = "Without a command, the embedded demo model tells a tale. Logging: --log or COEXEC_LOG, e.g. debug or coexec_runtime=trace."
)]
struct Args {
    /// Log level or filter: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate text after a prompt
    Run(run::RunArgs),
    /// Make a .coexec file from a Hugging Face directory or a GGUF file
    Import(import::ImportArgs),
    /// Make a .coexec file of a named real shape with random weights
    RandomModel(import::RandomModelArgs),
    /// Write a model as a GGUF file, for llama.cpp and others
    ExportGguf(export::ExportArgs),
    /// Compile a model's static graphs for a chip, or state what its compiler expects of them
    Compile(compile::CompileArgs),
    /// Internal: one compile job
    #[command(hide = true)]
    CompileJob(compile::JobArgs),
    /// Internal: Qualcomm's NPU for a parent process
    #[command(hide = true)]
    NpuServer,
    /// Find out whether the NPU can be used, and what to do if not
    Doctor(doctor::DoctorArgs),
    /// Replay a compiled model's recorded results on this machine's NPU
    Selftest(selftest::SelftestArgs),
    /// Show or clear what is kept of compiled models
    Cache(cache::CacheArgs),
    /// Show what a .coexec file holds
    Inspect(inspect::InspectArgs),
    /// Show chunks, placement and task graph of a prefill
    Plan(plan::PlanArgs),
    /// Run a prefill's schedule on a virtual clock
    Simulate(simulate::SimulateArgs),
    /// Measure each linear on a text and decide how it runs on the NPU: u8, u8 with shadow, or u16
    Schedule(schedule::ScheduleArgs),
    /// Measure quality: perplexity, logits
    Eval(eval::EvalArgs),
    /// Measure speed, with llama-bench's columns
    Bench(bench::BenchArgs),
}

/// On Android the DSP finds its side of Qualcomm's library through `ADSP_LIBRARY_PATH`, which has to be there when the
/// process begins: this program starts itself again with it, unless somebody set it.
#[cfg(unix)]
fn with_dsp_path() {
    use std::os::unix::process::CommandExt as _;
    const NAME: &str = "ADSP_LIBRARY_PATH";
    if !cfg!(target_os = "android") || std::env::var_os(NAME).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let Some(folder) = program.parent() else { return };
    let path = coexec::npu::qnn::adsp_library_path(folder, None);
    let error = std::process::Command::new(&program).args(std::env::args_os().skip(1)).env(NAME, path).exec();
    eprintln!("note: could not start again with {NAME} ({error}); the NPU may not be found");
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    #[cfg(unix)]
    with_dsp_path();
    // A closed pipe (`coexec … | head`) must end the program quietly, not with a panic.
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            // Nothing is left to do when even the help cannot be printed.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let cancel = CancelToken::new();
    // Libraries may panic on damaged files; ours catch that and say so in an error of one line, so the default hook's
    // report goes to the log. A panic that nobody caught is reported below.
    std::panic::set_hook(Box::new(|info| {
        // `print!` panics when nobody reads any more: that is an end, not an error.
        if info.to_string().contains("failed printing to stdout: Broken pipe") {
            std::process::exit(0);
        }
        tracing::debug!(%info, "panic");
    }));
    let work = || setup(&args, &cancel).and_then(|()| dispatch(args.command, &cancel));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => report(&e),
        Err(_) => {
            eprintln!("error: internal error, a bug of coexec: run again with --log debug and report what it prints");
            ExitCode::from(101)
        }
    }
}

fn report(e: &anyhow::Error) -> ExitCode {
    if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    if matches!(e.downcast_ref::<RuntimeError>(), Some(RuntimeError::Cancelled)) {
        eprintln!("cancelled");
        return ExitCode::from(130);
    }
    eprintln!("error: {}", chain(e.as_ref()));
    ExitCode::FAILURE
}

fn setup(args: &Args, cancel: &CancelToken) -> anyhow::Result<()> {
    let filter =
        args.log.clone().or_else(|| std::env::var("COEXEC_LOG").ok()).unwrap_or_else(|| DEFAULT_LOG.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter)
        .with_context(|| format!("log filter `{filter}`: use error, warn, info, debug, trace or target=level"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .init();
    if matches!(args.command, Some(Command::CompileJob(_))) {
        // Qualcomm's compiler cannot be asked to stop: Ctrl-C ends the job's process as it ends any.
        return Ok(());
    }
    let cancel = cancel.clone();
    ctrlc::set_handler(move || {
        // A second Ctrl-C does not wait for the current task to end.
        if cancel.is_cancelled() {
            coexec::model::output::remove_partials();
            std::process::exit(130);
        }
        cancel.cancel();
    })
    .context("cannot listen for Ctrl-C")
}

fn dispatch(command: Option<Command>, cancel: &CancelToken) -> anyhow::Result<()> {
    match command {
        None => run::tell_a_tale(cancel),
        Some(Command::Run(args)) => run::run(&args, cancel),
        Some(Command::Import(args)) => import::import(&args, cancel),
        Some(Command::RandomModel(args)) => import::random_model(&args, cancel),
        Some(Command::ExportGguf(args)) => export::export(&args, cancel),
        Some(Command::Compile(args)) => compile::compile(&args, cancel),
        Some(Command::CompileJob(args)) => compile::job(&args),
        Some(Command::NpuServer) => Ok(coexec::npu::remote::serve_stdio(coexec::npu::remote::open_qnn)?),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Selftest(args)) => selftest::selftest(&args, cancel),
        Some(Command::Cache(args)) => cache::run(&args),
        Some(Command::Inspect(args)) => inspect::inspect(&args),
        Some(Command::Plan(args)) => plan::plan(&args),
        Some(Command::Simulate(args)) => simulate::simulate(&args),
        Some(Command::Schedule(args)) => schedule::schedule(&args, cancel),
        Some(Command::Eval(args)) => eval::eval(&args, cancel),
        Some(Command::Bench(args)) => bench::bench(&args, cancel),
    }
}
