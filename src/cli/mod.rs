//! Arguments, logging, signals and exit codes; one module per command.
//!
//! Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong arguments, 128 + the signal when one cancelled it (130:
//! Ctrl-C, 143: SIGTERM), 101 a bug.

mod bench;
mod cache;
mod chat;
mod compile;
mod console;
mod doctor;
mod eval;
mod export;
mod footer;
mod generation;
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
mod signals;
mod simulate;
mod sweep;
mod usage;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use coexec::{CancelToken, RuntimeError, runtime::error::chain};
use console::{note, warning};
use std::{io, process::ExitCode};

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
    /// Print results and errors only: no progress, no notes
    #[arg(long, short = 'q', global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate text after a prompt
    Run(run::RunArgs),
    /// Hold a conversation, in a terminal or over a pipe
    Chat(chat::ChatArgs),
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
    note!("note: could not start again with {NAME} ({error}); the NPU may not be found");
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    #[cfg(unix)]
    with_dsp_path();
    #[cfg(unix)]
    coexec::model::mmap::report_lost_pages();
    let args = match arguments() {
        Ok(args) => args,
        // Help and version are results too.
        Err(e) if !e.use_stderr() => return ended(console::print_styled(&e.render())),
        Err(e) => {
            // Nothing is left to do when nobody can be told.
            let _ = e.print();
            return ExitCode::from(2);
        }
    };
    if args.quiet {
        console::be_quiet();
    }
    let cancel = CancelToken::new();
    // Libraries may panic on damaged files; ours catch that and say so in an error of one line, so the default hook's
    // report goes to the log. A panic that nobody caught is reported below.
    std::panic::set_hook(Box::new(|info| tracing::debug!(%info, "panic")));
    let work = || setup(&args, &cancel).and_then(|()| dispatch(args.command, &cancel));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => ended(result),
        Err(_) => {
            warning!("error: internal error, a bug of coexec: run again with --log debug and report what it prints");
            ExitCode::from(101)
        }
    }
}

/// Reads the command line. Numbers below zero are values, so that what is wrong with them can be said.
fn arguments() -> Result<Args, clap::Error> {
    fn with_negative_numbers(command: clap::Command) -> clap::Command {
        let command = command.mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        });
        command.mut_subcommands(with_negative_numbers)
    }
    let matches = with_negative_numbers(Args::command()).try_get_matches()?;
    usage::remember(&matches);
    Args::from_arg_matches(&matches)
}

/// The exit code of a command, after its last word.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    let Err(e) = result else { return ExitCode::SUCCESS };
    if matches!(e.downcast_ref::<RuntimeError>(), Some(RuntimeError::Cancelled)) {
        warning!("cancelled");
        return ExitCode::from(signals::exit_code());
    }
    warning!("error: {}", chain(e.as_ref()));
    if usage::is_wrong(&e) { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn setup(args: &Args, cancel: &CancelToken) -> anyhow::Result<()> {
    let given = args.log.clone().or_else(|| std::env::var("COEXEC_LOG").ok());
    let filter = given.unwrap_or_else(|| DEFAULT_LOG.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).map_err(|e| {
        usage::wrong(format!("log filter `{filter}`: use error, warn, info, debug, trace or target=level: {e}"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(console::has_colour())
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .init();
    let listening = match args.command {
        // Qualcomm's compiler cannot be asked to stop: a signal ends the job's process as it ends any.
        Some(Command::CompileJob(_)) => Ok(()),
        Some(Command::NpuServer) => signals::leave_ctrl_c_to_the_parent(),
        _ => signals::listen(cancel),
    };
    listening.context("cannot listen for Ctrl-C")
}

fn dispatch(command: Option<Command>, cancel: &CancelToken) -> anyhow::Result<()> {
    match command {
        None => run::tell_a_tale(cancel),
        Some(Command::Run(args)) => run::run(&args, cancel),
        Some(Command::Chat(args)) => chat::chat(&args, cancel),
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
