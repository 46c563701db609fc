//! `cargo xtask fuzz`: every target of `fuzz/` for a while, with cargo-fuzz on the nightly toolchain.

use crate::root;
use anyhow::{Context as _, bail};
use std::{fs, process::Command};

/// Names of the targets.
fn targets() -> anyhow::Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .filter_map(|e| e.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Runs one target or all of them, `seconds` each; a crash fails the command and leaves its input in `fuzz/artifacts`.
pub(crate) fn run(seconds: u64, only: Option<&str>) -> anyhow::Result<()> {
    if !Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|o| o.status.success()) {
        crate::run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let mut targets = targets()?;
    if let Some(only) = only {
        if !targets.iter().any(|t| t == only) {
            bail!("no fuzz target `{only}`; there are {}", targets.join(", "));
        }
        targets.retain(|t| t == only);
    }
    for target in &targets {
        let seeds = root().join("fuzz/seeds").join(target);
        let corpus = root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", target]).arg(&corpus);
        if seeds.is_dir() {
            command.arg(&seeds);
        }
        let limits = [format!("-max_total_time={seconds}"), "-rss_limit_mb=2048".into(), "-timeout=10".into()];
        command.arg("--").args(limits).current_dir(root());
        crate::run(&mut command)?;
    }
    println!("{} fuzz targets, {seconds} s each: no crash", targets.len());
    Ok(())
}
