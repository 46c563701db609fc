//! Imports checkpoints and computes their logits in float, many in one process: the engine's side of
//! `cargo xtask checkpoint-fuzz` (`tools/checkpoint_fuzz`).
//!
//! A line of standard input is `{"model": PATH, "ids": [..], "logits": PATH}`: a Hugging Face directory or GGUF file, the
//! prompt's token ids, and the file that the logits are written to (f32, little-endian, `[tokens, vocab_size]`). The answer
//! is a line as well: `{}`, or `{"refused": MESSAGE}` when the checkpoint is not imported. A panic ends the process.

use anyhow::Context as _;
use coexec::{
    Engine, EngineOptions, KvDtype, NpuChoice,
    model::{TokenId, WeightFormat, packed::PackedFile, source},
    runtime::{
        import::{ImportOptions, import},
        prefill::{LogitsWanted, PrefillOptions},
    },
};
use serde::Deserialize;
use std::{
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
};

#[derive(Deserialize)]
struct Case {
    model: PathBuf,
    ids: Vec<u32>,
    logits: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("a temporary directory")?;
    let packed = work.path().join("model.coexec");
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?).context("a line is no case")?;
        let answer = match run(&case, &packed) {
            Ok(bytes) => {
                std::fs::write(&case.logits, bytes).with_context(|| format!("write {}", case.logits.display()))?;
                serde_json::json!({})
            }
            Err(e) => serde_json::json!({ "refused": format!("{e:#}") }),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn run(case: &Case, packed: &Path) -> anyhow::Result<Vec<u8>> {
    let source = source::open(&case.model)?;
    let options = ImportOptions { weights: WeightFormat::F32, threads: 1, ..ImportOptions::default() };
    import(&*source, packed, &options, &|_| {})?;
    let options = EngineOptions { npu: NpuChoice::None, kv: KvDtype::F32, threads: 1, ..EngineOptions::default() };
    let engine = Engine::new(PackedFile::open(packed)?, options)?;
    let ids: Vec<TokenId> = case.ids.iter().map(|&id| TokenId(id)).collect();
    let options = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
    let logits = engine.session().prefill(&ids, &options)?.logits;
    Ok(logits.iter().flat_map(|v| v.to_le_bytes()).collect())
}
