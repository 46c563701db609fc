//! `coexec export-gguf`: a model as a GGUF file, so that llama.cpp runs the very same tensors.

use super::{
    console::{bar, note},
    usage::{count, no_effect},
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use coexec::{
    CancelToken, RuntimeError,
    model::{
        export::{ExportError, GgufOptions, PackedSource, write_gguf},
        packed::PackedFile,
        random::{self, RandomSource},
        source::{self, Encoding, ModelSource},
    },
};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum GgufType {
    F32,
    F16,
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    Q4_0,
}

impl From<GgufType> for Encoding {
    fn from(t: GgufType) -> Self {
        match t {
            GgufType::F32 => Self::F32,
            GgufType::F16 => Self::F16,
            GgufType::Q8_0 => Self::Q8_0,
            GgufType::Q6K => Self::Q6K,
            GgufType::Q4_0 => Self::Q4_0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A .coexec file, a GGUF file, a Hugging Face directory, or a named shape (random weights, as random-model's)
    source: String,
    /// The .gguf file to write
    out: PathBuf,
    /// Type of the linears
    #[arg(long = "type", value_enum, default_value = "q4_0", value_name = "TYPE")]
    weights: GgufType,
    /// Type of the head, which is the embedding too where tied; default: q6_k in q4_0 files (q8_0 where rows are no
    /// multiple of 256), else as the linears
    #[arg(long, value_enum, value_name = "TYPE")]
    head: Option<GgufType>,
    /// Seed of random weights
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count::<u64>)]
    seed: u64,
}

fn open(name: &str, seed: u64) -> anyhow::Result<Box<dyn ModelSource>> {
    let path = Path::new(name);
    let is_packed = path.extension().is_some_and(|e| e == "coexec");
    if is_packed || path.exists() {
        no_effect(&["seed"], "the weights are not random");
    }
    if is_packed {
        return Ok(Box::new(PackedSource::new(PackedFile::open(path)?)));
    }
    if path.exists() {
        return Ok(source::open(path)?);
    }
    let config = random::named_config(name).with_context(|| format!("`{name}` is no file either"))?;
    Ok(Box::new(RandomSource::new(config, seed)))
}

pub(crate) fn export(args: &ExportArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let source = open(&args.source, args.seed)?;
    let name = args.out.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let options = GgufOptions { weights: args.weights.into(), head: args.head.map(Into::into), name };
    let bar = bar("weights");
    let result = write_gguf(&*source, &args.out, &options, &mut |p| {
        bar.set_length(p.total);
        bar.set_position(p.done);
        !cancel.is_cancelled()
    });
    bar.finish_and_clear();
    let summary = match result {
        Err(ExportError::Cancelled) => return Err(RuntimeError::Cancelled.into()),
        other => other?,
    };
    note!(
        "{}\n-> {}: {} tensors, {} linears, {} head, {:.1} MiB, {}",
        source.describe(),
        summary.path.display(),
        summary.tensors,
        options.weights,
        summary.head,
        summary.bytes as f64 / f64::from(1 << 20),
        if summary.vocabulary == "no_vocab" { "no vocabulary: takes token ids only" } else { "with its vocabulary" },
    );
    Ok(())
}
