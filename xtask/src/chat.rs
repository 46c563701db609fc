//! `cargo xtask chat "QUESTION"`: from nothing to a real model's answer. It runs the commands that a user would, and prints
//! them.

use crate::model::{self, SMOLLM2};
use std::path::Path;

/// Arguments of `cargo xtask chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The question
    #[arg(default_value = "Why is the sky blue?")]
    prompt: String,
    /// Model to ask (`cargo xtask model` lists them)
    #[arg(long, default_value = SMOLLM2.name, value_name = "NAME")]
    model: String,
    /// More arguments for `coexec run`
    #[arg(last = true, value_name = "ARGS")]
    run: Vec<String>,
}

/// Text that the NPU's static scales come from; general enough for a try-out.
const CALIBRATION: &str = "models/demo/calibration.txt";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = model::by_name(&args.model)?;
    if !model.runs {
        anyhow::bail!("{} has an architecture that coexec cannot import yet: ask another model", model.name);
    }
    let gguf = model.ensure()?;
    let packed = model::directory().join(format!("{}.q8.coexec", model.name));
    // A file of an older coexec, or of another model under this name, is made anew.
    if !is_current(&packed, &gguf) {
        let mut import = coexec(&["import"]);
        import.arg(&gguf).arg(&packed).args(["--weights", "q8", "--calibrate", CALIBRATION]);
        crate::run(&mut import)?;
    }
    let mut answer = coexec(&["run", "--model"]);
    answer.arg(&packed).args(["--chat", &args.prompt]).args(&args.run);
    crate::run(&mut answer)
}

/// Whether the packed file is newer than its source and can be opened by today's coexec.
fn is_current(packed: &Path, gguf: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let newer = modified(packed).zip(modified(gguf)).is_some_and(|(p, g)| p >= g);
    newer && coexec(&["inspect"]).arg(packed).output().is_ok_and(|o| o.status.success())
}

fn coexec(args: &[&str]) -> std::process::Command {
    let mut command = crate::cargo(&["run", "--release", "--quiet", "--"]);
    command.args(args);
    command
}
