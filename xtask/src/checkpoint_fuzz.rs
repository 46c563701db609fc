//! `cargo xtask checkpoint-fuzz`: valid but odd checkpoints, their float logits compared with transformers'.
//!
//! The cases are written and judged by `tools/checkpoint_fuzz` (Python, with pinned libraries in a virtual environment under
//! `target/checkpoint-fuzz`); `examples/checkpoint_logits.rs` imports them.

use anyhow::{Context as _, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of cases
    #[arg(long, default_value_t = 1000)]
    cases: u64,
    /// Seed of the cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first case
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// This case alone; its files stay in target/checkpoint-fuzz
    #[arg(long, value_name = "I")]
    only: Option<u64>,
    /// Cases of a few kilobytes
    #[arg(long)]
    small: bool,
    /// Write counts and faults as JSON
    #[arg(long, value_name = "F.json")]
    report: Option<PathBuf>,
    /// A Python that has the libraries of tools/checkpoint_fuzz/requirements.txt; without it they are installed
    #[arg(long, value_name = "P")]
    python: Option<PathBuf>,
    /// Write the fixed cases of tests/data/odd anew instead
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let tool = crate::root().join("tools/checkpoint_fuzz");
    let python = match &options.python {
        Some(python) => python.clone(),
        None => environment(&tool)?,
    };
    crate::run(&mut crate::cargo(&["build", "--release", "--example", "checkpoint_logits"]))?;
    let mut command = Command::new(python);
    command.current_dir(crate::root()).args(["-W", "ignore"]).arg(tool.join("fuzz.py"));
    command.arg("--engine").arg(crate::wheel::target_dir().join("release/examples/checkpoint_logits"));
    command.args(["--cases", &options.cases.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--first", &options.first.to_string()]);
    if let Some(only) = options.only {
        command.args(["--only", &only.to_string()]);
    }
    if let Some(report) = &options.report {
        command.arg("--report").arg(std::path::absolute(report)?);
    }
    for (flag, set) in [("--small", options.small), ("--keep", options.keep)] {
        if set {
            command.arg(flag);
        }
    }
    crate::run(&mut command)
}

/// A virtual environment with the tool's requirements; made anew when they change.
fn environment(tool: &Path) -> anyhow::Result<PathBuf> {
    let root = crate::wheel::target_dir().join("checkpoint-fuzz");
    let (python, stamp) = (root.join("venv/bin/python"), root.join("complete"));
    let read = |path: PathBuf| std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()));
    let wanted = read(tool.join("requirements.txt"))? + &read(tool.join("../goldens/requirements.txt"))?;
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(python);
    }
    std::fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    crate::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(root.join("venv")))?;
    let requirements = tool.join("requirements.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements);
    if let Err(e) = crate::run(&mut pip) {
        bail!("{e:#}; the fuzzer needs the libraries of {}", requirements.display());
    }
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(python)
}
