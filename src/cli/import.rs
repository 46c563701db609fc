//! `coexec import` and `coexec random-model`: make packed files.

use super::{
    console::{bar, note, set_unit},
    shared::read_text,
    usage::{at_least_one, count, no_effect, wrong},
};
use clap::Args;
use coexec::{
    CancelToken,
    model::{
        WeightFormat,
        packed::PackedSummary,
        quant::Quantizer,
        random,
        source::{self, transform::outliers::with_outliers},
    },
    runtime::{
        import::ImportOptions,
        recipe::{self, CookProgress, Recipe},
        transform::{self, WatchedText},
    },
};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A Hugging Face directory or a GGUF file
    source: PathBuf,
    /// The .coexec file to write
    out: PathBuf,
    #[command(flatten)]
    common: PackArgs,
    /// Calibrate on this text: static scales and outlier channels, which the NPU needs
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// For tests: an equivalent model with activation outliers like those of large models, drawn by this seed
    #[arg(long, hide = true, requires = "calibrate", value_name = "SEED", value_parser = count::<u64>)]
    outliers: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RandomModelArgs {
    /// A named shape, e.g. qwen2.5-0.5b; an unknown name lists them
    config: String,
    /// The .coexec file to write
    out: PathBuf,
    #[command(flatten)]
    common: PackArgs,
    /// Calibrate on random tokens, so that the simulated NPU can run it
    #[arg(long)]
    calibrate: bool,
    /// Seed of the weights
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count::<u64>)]
    seed: u64,
}

#[derive(Debug, Args)]
struct PackArgs {
    /// Format of the linears: f32, f16, q8, q4 or q4s [default: q8]
    #[arg(long, value_name = "FORMAT")]
    weights: Option<WeightFormat>,
    /// How to quantise, in one line: transforms (smooth, awq, rotate), weights (q8, q4, q4s), how linears run on the NPU (u8,
    /// u8+shadow, u8+float, u16, or auto=1% for what keeps that quality), scales=max|p99.9|mse|output; e.g. smooth,q8,auto
    #[arg(long, default_value = "q8", conflicts_with = "weights", value_name = "RECIPE")]
    quant: Recipe,
    /// Format of the embedding, of which a token reads one row [default: q8 beside 4-bit linears, else theirs]
    #[arg(long, value_name = "FORMAT")]
    embed: Option<WeightFormat>,
    /// Format of the head, which every token reads whole [default: the embedding's]. A tied model gets a head beside its
    /// embedding where the two differ
    #[arg(long, value_name = "FORMAT")]
    head: Option<WeightFormat>,
    /// How codes and scales are chosen: absmax, mse (least squared error), or gptq (error feedback; with --calibrate)
    /// [default: mse; for random models absmax]
    #[arg(long, value_name = "NAME")]
    quantizer: Option<Quantizer>,
    /// Compress nothing: a larger file, which is mapped in place and opens without decompressing anything
    #[arg(long)]
    raw: bool,
    /// Most tokens of the text to calibrate on
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = at_least_one::<usize>)]
    calibration_tokens: usize,
    /// CPU workers of the calibration; 0 is one per core
    #[arg(long, short = 't', default_value_t = 0, value_name = "N", value_parser = count::<usize>)]
    threads: usize,
}

impl PackArgs {
    fn options(
        &self,
        quantizer: Quantizer,
        calibrate: Option<String>,
        cancel: &CancelToken,
    ) -> anyhow::Result<ImportOptions> {
        if let (Some(option), Some(item)) = (self.quantizer, self.quant.quantizer) {
            let text =
                format!("option --quantizer = {option}: the recipe of --quant says {item}; leave one of them out");
            return Err(wrong(text));
        }
        if calibrate.is_none() {
            no_effect(&["calibration-tokens"], "there is no --calibrate");
        }
        let weights = self.weights.or(self.quant.weights).unwrap_or(WeightFormat::Q8);
        if matches!(weights, WeightFormat::F32 | WeightFormat::F16) {
            no_effect(&["quantizer"], format!("{weights} weights are not quantised"));
        }
        Ok(ImportOptions {
            weights,
            embed: self.embed,
            head: self.head,
            quantizer: self.quantizer.unwrap_or(quantizer),
            raw: self.raw,
            calibrate,
            calibration_tokens: self.calibration_tokens,
            threads: self.threads,
            cancel: cancel.clone(),
            ..ImportOptions::default()
        })
    }
}

pub(crate) fn import(args: &ImportArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let text = args.calibrate.as_deref().map(read_text).transpose()?;
    let source = source::open(&args.source)?;
    let mut options = args.common.options(Quantizer::default(), text, cancel)?;
    options.read = args.calibrate.iter().collect();
    if let (Some(seed), Some(text)) = (args.outliers, &options.calibrate) {
        let (max_tokens, threads, cancel) = (options.calibration_tokens, options.threads, cancel.clone());
        let watched = WatchedText { max_tokens, threads, cancel, ..WatchedText::new(text) };
        let rare = transform::rare_neurons(&*source, &watched)?;
        return pack(&with_outliers(&*source, seed, &rare)?, &args.out, &args.common, &options);
    }
    pack(&*source, &args.out, &args.common, &options)
}

pub(crate) fn random_model(args: &RandomModelArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let source = random::RandomSource::new(random::named_config(&args.config)?, args.seed);
    let calibrate = args.calibrate.then(|| "random".to_owned());
    // Nobody judges the quality of random weights: the quickest rounding will do.
    let options = args.common.options(Quantizer::Absmax, calibrate, cancel)?;
    pack(&source, &args.out, &args.common, &options)
}

fn pack(source: &dyn source::ModelSource, out: &Path, args: &PackArgs, options: &ImportOptions) -> anyhow::Result<()> {
    let bar = bar("operations");
    let (passes, auto) = args.quant.passes();
    let steps = passes + 1 + usize::from(auto);
    let progress = |p: CookProgress| {
        let (step, what, done, total) = match p {
            CookProgress::Watching { pass, done, total } => (pass, "watching activations".to_owned(), done, total),
            CookProgress::Importing(p) => (passes, p.tensor.to_string(), p.done, p.total),
            CookProgress::Measuring { done, total } => {
                (passes + 1, "measuring linears".to_owned(), done as u64, total as u64)
            }
        };
        let step = step + 1;
        // The time that is left is judged by this step's pace.
        let prefix = if steps == 1 { String::new() } else { format!("step {step} of {steps}  ") };
        if bar.prefix() != prefix {
            bar.reset();
            bar.set_prefix(prefix);
            set_unit(&bar, if matches!(p, CookProgress::Measuring { .. }) { "windows" } else { "operations" });
        }
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(what);
    };
    let recipe = Recipe { weights: Some(options.weights), ..args.quant.clone() };
    let result = recipe::cook(source, out, &recipe, options, &progress);
    bar.finish_and_clear();
    let summary = result?;
    note!("{}", describe(&source.describe(), &summary, options));
    Ok(())
}

fn describe(source: &str, s: &PackedSummary, options: &ImportOptions) -> String {
    let mib = |b: u64| b as f64 / f64::from(1 << 20);
    let calibrated = if options.calibrate.is_some() { "calibrated" } else { "not calibrated: runs on the CPU only" };
    format!(
        "{source}\n-> {}: {} weights, {} embedding, {} head, {:.1} MiB ({:.1} MiB before zstd), {calibrated}",
        s.path.display(),
        options.weights,
        options.embed_format(),
        options.head_format(),
        mib(s.file_bytes),
        mib(s.total.raw_bytes),
    )
}
