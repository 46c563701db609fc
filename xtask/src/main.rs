//! Project automation: `cargo xtask test | long | check | model | chat | arm | miri | fuzz | checkpoint-fuzz | bindgen |
//! qnn | demo`.
//!
//! `test` is what the README promises and what CI runs. Everything here calls cargo; nothing is installed that is there.

#![forbid(unsafe_code)]

mod arm;
mod bindgen;
mod chat;
mod checkpoint_fuzz;
mod fuzz;
mod miri;
mod model;
mod qnn;
mod wheel;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Debug, Parser)]
#[command(about = "Project automation")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// All tests of the workspace, and `arm`
    Test {
        /// Arguments for the test binaries, e.g. a filter
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Tests that take too long for `test`: compiles of 36 and 80 layers by Qualcomm's compiler
    Long,
    /// Format, clippy and rustdoc, warnings denied; each feature alone; bindings up to date
    Check,
    /// Kernel and engine tests on emulated Arm CPUs, and the static library for Android
    Arm,
    /// Tests of the portable kernels and of disjoint writes under Miri
    Miri,
    /// Fuzz every parser
    Fuzz {
        /// Seconds per target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only this target
        target: Option<String>,
    },
    /// Compare the float logits of odd checkpoints with those of transformers (needs Python; minutes)
    CheckpointFuzz(checkpoint_fuzz::Options),
    /// Make sys/src/bindings.rs of sys/include/qnn.h
    Bindgen {
        /// Only compare, fail when the file would change
        #[arg(long)]
        check: bool,
    },
    /// Get Qualcomm's HTP library for x86-64 Linux into target/qnn (under Qualcomm's licence; nothing of it enters git)
    Qnn,
    /// Get a real trained model into target/models (under its own licence; nothing of it enters git); without a name, list
    /// them
    Model {
        /// e.g. SmolLM2-135M-Instruct
        name: Option<String>,
    },
    /// Ask a real model: get it, import it once, run it in its chat template
    Chat(chat::Args),
    /// Pack the demo model again from models/demo (after training or a change of the format)
    Demo,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Test { args } => test(&args),
        Task::Long => long(),
        Task::Check => check(),
        Task::Arm => {
            arm::ensure()?;
            arm::run(None)
        }
        Task::Miri => miri::run(),
        Task::Fuzz { seconds, target } => fuzz::run(seconds, target.as_deref()),
        Task::CheckpointFuzz(options) => checkpoint_fuzz::run(&options),
        Task::Bindgen { check } => bindgen::run(check),
        Task::Qnn => {
            println!("{}", qnn::ensure()?.display());
            Ok(())
        }
        Task::Model { name: None } => {
            model::list();
            Ok(())
        }
        Task::Model { name: Some(name) } => {
            println!("{}", model::by_name(&name)?.ensure()?.display());
            Ok(())
        }
        Task::Chat(args) => chat::run(&args),
        Task::Demo => demo(),
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("$ {command:?}");
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Installs Debian packages, where there is apt.
fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    let has_apt = Command::new("apt-get").arg("--version").output().is_ok_and(|o| o.status.success());
    if !has_apt {
        bail!("no apt-get here: install {} by hand", packages.join(", "));
    }
    run(Command::new("apt-get").args(["update", "--quiet"]))?;
    run(Command::new("apt-get").args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// All tests; skipped ones are counted, each with its reason.
fn test(args: &[String]) -> anyhow::Result<()> {
    let skips = std::env::temp_dir().join(format!("coexec-skips-{}", std::process::id()));
    let mut command = cargo(&["test", "--workspace"]);
    command.env("COEXEC_SKIP_LOG", &skips);
    // Tests of the real NPU need Qualcomm's library; without it they are skipped, and counted. CI may not skip them.
    match qnn::ensure() {
        Ok(dir) => _ = command.env("COEXEC_QNN_LIB_DIR", dir),
        Err(e) if std::env::var_os("CI").is_some() => return Err(e.context("CI runs the tests of the real NPU")),
        Err(e) => eprintln!("tests of the real NPU will be skipped: {e:#}"),
    }
    // Tests of a real model need its file, in the same way.
    match model::SMOLLM2.ensure() {
        Ok(path) => _ = command.env("COEXEC_SMOLLM2", path),
        Err(e) if std::env::var_os("CI").is_some() => return Err(e.context("CI runs the tests of a real model")),
        Err(e) => eprintln!("tests of a real model will be skipped: {e:#}"),
    }
    if !args.is_empty() {
        command.arg("--").args(args);
    }
    let result = run(&mut command).and_then(|()| test_arm(args, &skips));
    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    // The list is printed below; a temporary file that stays behind harms nobody.
    let _ = std::fs::remove_file(&skips);
    println!("{} tests skipped", skipped.lines().count());
    for line in skipped.lines() {
        println!("  {line}");
    }
    result
}

/// Tests that are marked as ignored because they take minutes.
fn long() -> anyhow::Result<()> {
    let library = qnn::ensure()?;
    run(cargo(&["test", "--test", "qnn", "--", "--ignored"]).env("COEXEC_QNN_LIB_DIR", library))
}

/// Arm's tests, or a counted skip where their tools cannot be had. CI may not skip them.
fn test_arm(args: &[String], skips: &Path) -> anyhow::Result<()> {
    if !args.is_empty() {
        eprintln!("arguments for test binaries were given: Arm's tests are left to `cargo xtask arm`");
        return Ok(());
    }
    match arm::ensure() {
        Ok(()) => arm::run(Some(skips)),
        Err(e) if std::env::var_os("CI").is_some() => Err(e.context("CI runs Arm's tests")),
        Err(e) => {
            let mut log = std::fs::OpenOptions::new().append(true).create(true).open(skips)?;
            writeln!(log, "cargo xtask arm: {e:#}").context("the skip log can be written")
        }
    }
}

fn check() -> anyhow::Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut cargo(&["clippy", "--package", "coexec", "--no-default-features", "--", "-D", "warnings"]))?;
    run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    bindgen::run(true)
}

/// Imports models/demo with calibration; the demo feature is off, or the binary would embed the file it is to make.
fn demo() -> anyhow::Result<()> {
    run(&mut cargo(&[
        "run",
        "--release",
        "--no-default-features",
        "--",
        "import",
        "models/demo",
        "models/demo/demo.coexec",
        "--weights",
        "q8",
        "--calibrate",
        "models/demo/calibration.txt",
    ]))
}
