//! `coexec eval sweep`: recipes × models in one table, and quality against what it costs.

mod plot;
mod table;

use super::{
    console::{bar, has_bars, note, outln},
    shared::read_text,
    usage::{at_least_one, count},
};
use anyhow::{Context as _, ensure};
use clap::Args;
use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice, ScheduleChoice,
    model::{
        Calibration, Schedule, WeightFormat,
        output::{OutputFile, PartialDir, ReadFiles},
        packed::PackedFile,
        random,
        source::{self, ModelSource},
    },
    runtime::{
        calibrate,
        eval::{Reference, Windows},
        import::ImportOptions,
        recipe::{self, CookProgress, Recipe},
        schedule::{Bench, Phone, ScheduleOptions, shadow_shares},
        study,
        transform::{self, WatchedText},
    },
};
use indicatif::ProgressBar;
use plot::{Axis, plot};
use std::path::{Path, PathBuf};
use table::{Importance, Pruned, Row, Sweep};

/// What is compared unless --recipe says otherwise. `cpu` in front: the CPU path, which is decode's.
const RECIPES: [&str; 23] = [
    "cpu:q8",
    "cpu:q4s",
    "cpu:q4s,gptq",
    "cpu:q4",
    "cpu:q4,gptq",
    "q8,u8,scales=max",
    "q8,u8,scales=p99.9",
    "q8,u8,scales=mse",
    "q8,u8",
    "q8,u8+float",
    "q8,u8+shadow",
    "smooth,q8,u8",
    "smooth,q8,u8+shadow",
    "rotate,q8,u8",
    "rotate,q8,u8+shadow",
    "q8,u16",
    "awq,q4,u16",
    "q4,u8",
    "q4,u8+shadow",
    "q4,u16",
    "q4,gptq,u16",
    "smooth,q8,auto=1%",
    "q8,auto=1%",
];
/// Steps of measuring pruning: the estimate, leaving one out on two halves, nine rates.
const PRUNING_STEPS: u64 = 12;
/// Shape whose simulated prefill speed is shown: the models that can be measured here are far too small for it.
const SPEED_SHAPE: &str = "qwen1.5-1.8b";

#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Models: Hugging Face directories or GGUF files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Text to calibrate on
    #[arg(long, value_name = "F")]
    calibrate: PathBuf,
    /// Text to measure on, which calibration does not see
    #[arg(long, value_name = "F")]
    text: PathBuf,
    /// Windows to measure on
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = at_least_one::<usize>)]
    windows: usize,
    /// Windows that importance is judged on, at most; it is estimated on half as many. On few of them, linears whose shadow is
    /// worth little rank by chance
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(4..))]
    importance_windows: u32,
    /// Also measure an equivalent version of each model that has activation outliers, drawn by this seed
    #[arg(long, value_name = "SEED", value_parser = count::<u64>)]
    outliers: Option<u64>,
    /// A recipe, as for `import --quant`, `cpu:` in front for the CPU path; may be repeated [default: all kinds]
    #[arg(long, value_name = "RECIPE")]
    recipe: Vec<String>,
    /// Measure the recipes alone, not pruning and importance, which take a hundred times as long on models of many layers
    #[arg(long)]
    recipes_only: bool,
    /// Directory of accuracy.md, sweep.json and the plots
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// CPU workers; 0 is one per core
    #[arg(long, short = 't', default_value_t = 0, value_name = "N", value_parser = count::<usize>)]
    threads: usize,
}

struct Sweeper<'a> {
    args: &'a SweepArgs,
    calibrate: String,
    text: String,
    cancel: &'a CancelToken,
    dir: PartialDir,
    steps: Steps,
    out: Sweep,
}

pub(crate) fn sweep(args: &SweepArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let is_new = !args.out.exists();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let done = sweep_into(args, cancel);
    if done.is_err() && is_new {
        // Only where it is empty.
        let _ = std::fs::remove_dir(&args.out);
    }
    done
}

fn sweep_into(args: &SweepArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let read: ReadFiles = args.models.iter().chain([&args.calibrate, &args.text]).collect();
    let file = |name: &str| OutputFile::create(&args.out.join(name), &read);
    let (results, tables) = (file("sweep.json")?, file("accuracy.md")?);
    let mut sweeper = Sweeper {
        args,
        calibrate: read_text(&args.calibrate)?,
        text: read_text(&args.text)?,
        cancel,
        dir: results.partial_dir()?,
        steps: Steps::new(args),
        out: Sweep::default(),
    };
    let swept = args.models.iter().try_for_each(|path| sweeper.models_of(path));
    sweeper.steps.bar.finish_and_clear();
    if sweeper.out.rows.is_empty() {
        swept?;
        return Ok(());
    }
    // What was measured before something failed is kept and shown.
    sweeper.out.texts = args.describe_texts();
    let json = serde_json::to_string(&sweeper.out)?;
    let table = sweeper.out.markdown()?;
    results.fill(|out| out.write_all(json.as_bytes()))?;
    tables.fill(|out| out.write_all(table.as_bytes()))?;
    let axes: [(&str, &str, Axis); 3] = [
        ("pruning", "share of linears without shadow", |p| p.pruning_rate),
        ("shadow-bytes", "bytes of float rows in memory", |p| p.shadow_bytes as f64),
        ("speed", "tokens/s of a 512-token prompt, simulated, in the shape of Qwen1.5-1.8B", |p| {
            p.simulated_tokens_per_s
        }),
    ];
    for (name, axis, x) in axes {
        if let Some(svg) = plot(axis, &sweeper.out.pruned, x)? {
            file(&format!("accuracy-{name}.svg"))?.fill(|out| out.write_all(svg.as_bytes()))?;
        }
    }
    note!("-> {}", args.out.display());
    outln!("{table}")?;
    swept
}

/// How far a sweep is, in recipes and steps of the same kind.
struct Steps {
    bar: ProgressBar,
    done: u64,
}

impl Steps {
    /// Positions of the bar per step.
    const PARTS: u64 = 1000;

    fn new(args: &SweepArgs) -> Self {
        let recipes = if args.recipe.is_empty() { RECIPES.len() } else { args.recipe.len() };
        let per_model = recipes as u64 + if args.recipes_only { 0 } else { PRUNING_STEPS };
        let models = args.models.len() as u64 * if args.outliers.is_some() { 2 } else { 1 };
        let bar = bar("");
        bar.set_length(models * per_model * Self::PARTS);
        Self { bar, done: 0 }
    }

    fn begin(&self, what: String) {
        if !has_bars() {
            note!("{what}");
        }
        self.bar.set_message(what);
    }

    fn part(&self, done: u64, of: u64) {
        self.bar.set_position(self.done * Self::PARTS + done * Self::PARTS / of.max(1));
    }

    fn end(&mut self) {
        self.done += 1;
        self.part(0, 1);
    }
}

impl Sweeper<'_> {
    fn options(&self) -> EngineOptions {
        EngineOptions { threads: self.args.threads, npu: NpuChoice::None, ..EngineOptions::default() }
    }

    /// A model, and with `--outliers` its louder twin.
    fn models_of(&mut self, path: &Path) -> anyhow::Result<()> {
        let source = source::open(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        self.model(&name, &*source)?;
        let Some(seed) = self.args.outliers else { return Ok(()) };
        let (threads, cancel) = (self.args.threads, self.cancel.clone());
        let watched = WatchedText { threads, cancel, ..WatchedText::new(&self.calibrate) };
        let rare = transform::rare_neurons(&*source, &watched)?;
        let loud = source::transform::outliers::with_outliers(&*source, seed, &rare)?;
        self.model(&format!("{name} + outliers"), &loud)
    }

    fn cook(&self, source: &dyn ModelSource, recipe: &Recipe, calibrated: bool) -> anyhow::Result<(PathBuf, u64)> {
        let path = self.dir.path().join("model.coexec");
        let options = ImportOptions {
            calibrate: calibrated.then(|| self.calibrate.clone()),
            threads: self.args.threads,
            cancel: self.cancel.clone(),
            ..ImportOptions::default()
        };
        let summary = recipe::cook(source, &path, recipe, &options, &|p| {
            let (done, total) = match p {
                CookProgress::Watching { done, total, .. } => (done, total),
                CookProgress::Importing(p) => (p.done, p.total),
                CookProgress::Measuring { done, total } => (done as u64, total as u64),
            };
            self.steps.part(done, total);
        })?;
        Ok((path, summary.file_bytes))
    }

    fn model(&mut self, name: &str, source: &dyn ModelSource) -> anyhow::Result<()> {
        let float = Recipe { weights: Some(WeightFormat::F32), ..Recipe::default() };
        let (path, _) = self.cook(source, &float, false)?;
        let engine = Engine::open(&path, self.options())?;
        let window = 256.min(engine.model().config().max_position_embeddings as usize);
        let windows = Windows::of_text(&engine, &self.text, window, self.args.windows)?;
        let halves = Windows::of_text(&engine, &self.text, window, 2)?.len();
        ensure!(halves == 2, "--text: {name} reads one window of {window} tokens in it; two are the least");
        let reference = windows.reference(&engine, self.cancel)?;
        drop(engine);
        let recipes: Vec<String> = if self.args.recipe.is_empty() {
            RECIPES.iter().map(ToString::to_string).collect()
        } else {
            self.args.recipe.clone()
        };
        for text in recipes {
            self.steps.begin(format!("{name}: {text}"));
            let row = self.recipe(name, source, &text, &windows, &reference)?;
            self.out.rows.push(row);
            self.steps.end();
        }
        if self.args.recipes_only {
            return Ok(());
        }
        self.pruning(name, source, &windows, &reference)
    }

    fn recipe(
        &mut self,
        model: &str,
        source: &dyn ModelSource,
        text: &str,
        windows: &Windows,
        reference: &Reference,
    ) -> anyhow::Result<Row> {
        let (on_cpu, recipe) = text.strip_prefix("cpu:").map_or((false, text), |rest| (true, rest));
        let (path, file_bytes) = self.cook(source, &recipe.parse()?, true)?;
        let options = self.options();
        let bench = Bench::new(&path, &options, self.cancel);
        let calibration = calibration(&path)?;
        let (quality, speed, shadow_bytes) = if on_cpu {
            let engine = bench.cpu()?;
            let mut tell = |done, total| self.steps.part(done as u64, total as u64);
            let quality = coexec::runtime::eval::quality(&engine, windows, Some(reference), self.cancel, &mut tell)?;
            (quality, None, 0)
        } else {
            let quality = bench.quality(ScheduleChoice::File, windows, reference)?;
            let schedule = calibration.schedule();
            let bytes = calibration.hot_row_bytes(PackedFile::open(&path)?.config(), &schedule);
            (quality, Some(self.speed(&path, &calibration, &schedule)?), bytes)
        };
        let (model, recipe) = (model.to_owned(), text.to_owned());
        Ok(Row { model, recipe, file_bytes, shadow_bytes, simulated_tokens_per_s: speed, quality })
    }

    /// Tokens per second of a prompt when every layer of the large shape runs as the layer of the same relative depth.
    fn speed(&mut self, path: &Path, calibration: &Calibration, schedule: &Schedule) -> anyhow::Result<f64> {
        let shares = shadow_shares(PackedFile::open(path)?.config(), calibration, schedule);
        let config = random::named_config(SPEED_SHAPE)?;
        let layers = config.num_hidden_layers as usize;
        let from = |l: usize| l * calibration.layers.len() / layers;
        let options = ScheduleOptions::default();
        let phone = Phone::new(&config, &options)?;
        self.out.simulated = phone.source();
        let stretched: Vec<[f32; 4]> = (0..layers).map(|l| shares[from(l)]).collect();
        let ns = phone.time_ns(&(0..layers).map(|l| schedule[from(l)]).collect(), &stretched)?;
        Ok(options.prompt_len as f64 * 1e9 / ns.max(1) as f64)
    }

    /// Quality when more and more linears run without shadow, by measured importance, and how good that measure is.
    fn pruning(
        &mut self,
        model: &str,
        source: &dyn ModelSource,
        windows: &Windows,
        reference: &Reference,
    ) -> anyhow::Result<()> {
        self.steps.begin(format!("{model}: pruning"));
        let (path, _) = self.cook(source, &"q8,u8+shadow".parse()?, true)?;
        let options = self.options();
        let bench = Bench::new(&path, &options, self.cancel);
        let mut calibration = calibration(&path)?;
        let layers = calibration.layers.len();
        let cpu = bench.cpu()?;
        let config = cpu.model().config().clone();
        let judged = self.args.importance_windows as usize;
        // The calibration text's end: the estimate has not seen the text it is judged on.
        let all = Windows::of_text(&cpu, &self.calibrate, windows.window_tokens(), usize::MAX)?;
        let seen = all.part(all.len().saturating_sub(judged / 2)..all.len());
        let seen_reference = seen.reference(&cpu, self.cancel)?;
        // Judged by halves of equal length, whose agreement says how well any estimate can do.
        let unseen = Windows::of_text(&cpu, &self.text, windows.window_tokens(), judged)?;
        let half = unseen.len() / 2;
        let (first, second) = (unseen.part(0..half), unseen.part(half..2 * half));
        let references = (first.reference(&cpu, self.cancel)?, second.reference(&cpu, self.cancel)?);
        drop(cpu);
        let mut tell = |done: usize, total: usize| self.steps.part(done as u64, total as u64);
        let divergence = bench.divergence(layers, &seen, &seen_reference, &mut tell)?;
        self.steps.end();
        let estimate: Vec<f64> = divergence.iter().flatten().map(|d| d.importance()).collect();
        let mut leave_out = |half, reference| {
            let mut tell = |done: usize, total: usize| self.steps.part(done as u64, total as u64);
            let left_out = study::leave_one_out(&bench, layers, half, reference, &mut tell);
            self.steps.end();
            left_out
        };
        let halves = (leave_out(&first, &references.0)?, leave_out(&second, &references.1)?);
        let truth: Vec<f64> = halves.0.iter().zip(&halves.1).map(|(a, b)| a + b).collect();
        self.out.importance.push(Importance {
            model: model.to_owned(),
            measured: study::rank_correlation(&estimate, &truth),
            max_over_scale: study::rank_correlation(&study::max_over_scale(&calibration), &truth),
            halves: study::rank_correlation(&halves.0, &halves.1),
        });
        for (linear, importance) in calibration.layers.iter_mut().flatten().zip(&estimate) {
            linear.importance = *importance as f32;
        }
        for eighth in 0..=8 {
            let pruning_rate = f64::from(eighth) / 8.0;
            let schedule = calibrate::pruned(&calibration, pruning_rate as f32);
            let quality = bench.quality(ScheduleChoice::Given(schedule.clone()), windows, reference)?;
            let point = Pruned {
                model: model.to_owned(),
                pruning_rate,
                shadow_bytes: calibration.hot_row_bytes(&config, &schedule),
                simulated_tokens_per_s: self.speed(&path, &calibration, &schedule)?,
                quality,
            };
            self.out.pruned.push(point);
            self.steps.end();
        }
        Ok(())
    }
}

fn calibration(path: &Path) -> anyhow::Result<Calibration> {
    PackedFile::open(path)?.calibration().cloned().context("the model was imported with a calibration text")
}

impl SweepArgs {
    fn describe_texts(&self) -> String {
        let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let importance = |text: String| if self.recipes_only { String::new() } else { text };
        format!(
            "Made by `coexec eval sweep`. Calibrated on the first {} tokens of `{}` ({}`auto`: on its later half), measured \
             on the first {} windows of `{}`{}.",
            ImportOptions::default().calibration_tokens,
            name(&self.calibrate),
            importance(format!("importance: on its last {} windows; ", self.importance_windows / 2)),
            self.windows,
            name(&self.text),
            importance(format!(" (importance: {} at most)", self.importance_windows)),
        )
    }
}
