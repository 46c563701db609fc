//! The importers on real directories and files: the tiny checkpoints of every architecture, and the trained models where
//! they are at hand.

mod errors;
mod export;
mod fuzzed;
mod odd;
mod quantized;
mod special_tokens;
mod tokenizers_agree;
mod weights;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

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

/// What `f` returns, and the warnings that it logs.
fn with_warnings<T>(f: impl FnOnce() -> T) -> (T, String) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || Log(writer.clone()))
        .finish();
    let guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let value = f();
    drop(guard);
    let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    (value, text)
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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
