//! `cargo xtask fuzz`: every target of `fuzz/` for a while, with cargo-fuzz on the nightly toolchain.

use crate::root;
use anyhow::{Context as _, bail};
use std::{fs, path::Path, process::Command};

/// Which test data each target begins with: the end of a file's name.
const SEEDS: &[(&str, &str)] = &[
    ("packed_file", ".coexec"),
    ("gguf", ".gguf"),
    ("safetensors", ".safetensors"),
    ("hf_config", "config.json"),
    ("tokenizer_json", "tokenizer.json"),
    ("chat_template", ".json"),
    ("compiled_model", ".seed"),
    ("packed_model", ".seed"),
    ("tokenizer_text", "tokenizer.json"),
];

/// Copies matching test data into a corpus. libFuzzer drops what brings nothing new.
fn seed(target: &str, corpus: &Path) -> anyhow::Result<()> {
    let Some((_, end)) = SEEDS.iter().find(|(name, _)| *name == target) else { return Ok(()) };
    let from = if target == "chat_template" { "tests/data/chat" } else { "tests/data/tiny" };
    let mut folders = vec![root().join(from), root().join("fuzz/seeds").join(target)];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().is_some_and(|p| p.ends_with(end)) {
                count += 1;
                let to = corpus.join(format!("seed-{count}"));
                fs::copy(&path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
    }
    Ok(())
}

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
        let corpus = root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        seed(target, &corpus)?;
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", target]).arg(&corpus);
        let limits = ["-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=10"];
        command.arg("--").arg(format!("-max_total_time={seconds}")).args(limits).current_dir(root());
        crate::run(&mut command)?;
    }
    println!("{} fuzz targets, {seconds} s each: no crash", targets.len());
    Ok(())
}
