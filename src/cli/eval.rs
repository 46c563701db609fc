//! `coexec eval`: perplexity over a text, logits of a prompt.

use super::{
    console::{bar, note, outln},
    shared::{EngineArgs, Format, read_text},
    usage::at_least_one,
};
use clap::{Args, Subcommand};
use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice,
    model::output::OutputFile,
    runtime::eval::{self, Reference, Windows},
};
use npyz::WriterBuilder as _;
use std::{
    io::{self, Write},
    path::PathBuf,
};

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Perplexity over a text, windows side by side, the first half of each not scored
    Perplexity {
        /// The text
        #[arg(long, value_name = "F")]
        text: PathBuf,
        /// Tokens per window
        #[arg(long, default_value_t = 256, value_name = "N", value_parser = at_least_one::<usize>)]
        window: usize,
        /// Most windows
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true, value_name = "N", value_parser = at_least_one::<usize>)]
        windows: usize,
        /// Also compare with this model, run on the CPU: divergence, and how often both hold the same token the likeliest
        #[arg(long, value_name = "F.coexec")]
        reference: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineArgs,
        /// What to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Recipes × models in one table with plots: quality against pruning, shadow bytes and simulated prefill speed
    Sweep(super::sweep::SweepArgs),
    /// Logits of every position of a prompt as .npz: ids [tokens], logits f32 [tokens, vocab]
    Logits {
        /// The prompt
        #[arg(long, value_name = "T")]
        prompt: String,
        /// The file to write
        #[arg(long, value_name = "F.npz")]
        out: PathBuf,
        #[command(flatten)]
        engine: EngineArgs,
    },
}

pub(crate) fn eval(args: &EvalArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    match &args.command {
        EvalCommand::Perplexity { text, window, windows, reference, engine, format } => {
            let text = read_text(text)?;
            let opened = engine.engine()?;
            let windows = Windows::of_text(&opened, &text, *window, *windows)?;
            let reference = match reference {
                Some(path) => {
                    let options = EngineOptions { npu: NpuChoice::None, ..opened.options().clone() };
                    Some(Reference::Engine(Engine::open(path, options)?))
                }
                None => None,
            };
            let bar = bar("windows");
            let result = eval::quality(&opened, &windows, reference.as_ref(), cancel, &mut |done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            });
            bar.finish_and_clear();
            let p = result?;
            match format {
                Format::Json => {
                    let mut json = serde_json::to_value(&p)?;
                    json["model"] = engine.model_name().into();
                    json["npu_device"] = opened.npu_device().into();
                    json["activations"] = opened.options().schedule.to_string().into();
                    outln!("{json}")?;
                }
                Format::Text => {
                    outln!(
                        "perplexity {:.4} ± {:.4} over {} tokens ({} windows of {}), {}, NPU {}, activations {}",
                        p.perplexity,
                        p.std_error,
                        p.scored_tokens,
                        p.windows,
                        p.window_tokens,
                        engine.model_name(),
                        opened.npu_device(),
                        opened.options().schedule,
                    )?;
                    if let Some(r) = &p.reference {
                        outln!(
                            "reference {:.4} ({:+.2} %), divergence {:.5} ± {:.5} nats, same likeliest token {:.2} %",
                            r.perplexity,
                            100.0 * (p.perplexity / r.perplexity - 1.0),
                            r.kl,
                            r.kl_std_error,
                            100.0 * r.top1
                        )?;
                    }
                }
            }
            Ok(())
        }
        EvalCommand::Sweep(args) => super::sweep::sweep(args, cancel),
        EvalCommand::Logits { prompt, out, engine } => {
            let file = OutputFile::create(out, &engine.read_files()?)?;
            let opened = engine.engine()?;
            let result = eval::prompt_logits(&opened, prompt, cancel)?;
            let vocab = opened.model().config().vocab_size as usize;
            let ids: Vec<i64> = result.ids.iter().map(|t| i64::from(t.0)).collect();
            write_npz(file, &ids, &result.logits, vocab)?;
            note!("{}: ids [{}], logits [{}, {vocab}]", out.display(), ids.len(), ids.len());
            Ok(())
        }
    }
}

fn npy<T: npyz::Serialize + npyz::AutoSerialize + Copy>(shape: &[u64], data: &[T]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd()?;
    writer.extend(data.iter().copied())?;
    writer.finish()?;
    Ok(bytes)
}

fn write_npz(out: OutputFile, ids: &[i64], logits: &[f32], vocab: usize) -> anyhow::Result<()> {
    let mut zipped = io::Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut zipped);
    let options = zip::write::SimpleFileOptions::default();
    for (name, data) in
        [("ids.npy", npy(&[ids.len() as u64], ids)?), ("logits.npy", npy(&[ids.len() as u64, vocab as u64], logits)?)]
    {
        zip.start_file(name, options)?;
        zip.write_all(&data)?;
    }
    zip.finish()?;
    Ok(out.fill(|out| out.write_all(zipped.get_ref()))?)
}
