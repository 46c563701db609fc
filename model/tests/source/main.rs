//! The importers on real directories and files: the tiny checkpoints of every architecture, and the trained models where
//! they are at hand.

mod errors;
mod export;
mod fuzzed;
mod quantized;
mod tokenizers_agree;
mod weights;
mod writer;

use std::path::{Path, PathBuf};

/// `tests/data/tiny` of the workspace.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny")
}

/// The folder of a trained model, or `None`, with a printed reason, where the data is not at hand.
fn trained(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models").join(name);
    if path.join("config.json").exists() {
        Some(path)
    } else {
        println!("skipped: no trained model at {}", path.display());
        None
    }
}

/// Folders of all Hugging Face checkpoints, and the GGUF files in each.
fn checkpoints() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(tiny()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(dirs.len() >= 8, "tiny checkpoints are missing");
    dirs.extend(["stories260K", "babyllama", "demo"].into_iter().filter_map(trained));
    dirs.sort();
    dirs.into_iter()
        .map(|dir| {
            let files = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
            let mut ggufs: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
            ggufs.sort();
            (dir, ggufs)
        })
        .collect()
}
