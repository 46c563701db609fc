//! `coexec eval sweep`: recipes × models in one table, and quality against what it costs.

use super::{
    console::{note, outln},
    shared::read_text,
    usage::{at_least_one, count},
};
use anyhow::{Context as _, ensure};
use clap::Args;
use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice, ScheduleChoice,
    model::{
        Calibration, Schedule, WeightFormat,
        output::{OutputFile, ReadFiles},
        packed::PackedFile,
        random,
        source::{self, ModelSource},
    },
    runtime::{
        calibrate,
        eval::{Quality, Reference, Windows},
        import::ImportOptions,
        recipe::{self, Recipe},
        schedule::{Bench, Phone, ScheduleOptions, shadow_shares},
        study::{self, RankCorrelation},
        transform::{self, WatchedText},
    },
};
use plotters::prelude::*;
use serde::Serialize;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

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
/// What stands before the tables, behind the texts.
const HEAD: &str = "[recipes.md](recipes.md) says what the recipes are and what follows. Perplexity is against the float
model over the same windows of 256 tokens, second half scored; divergence is the mean KL of the model's distribution from
float's, with its standard error over windows; *shadow* is the float rows that stay in memory. `cpu:` is the CPU path, which is
decode's; all others run prefill on the simulated NPU. Speeds are simulated.
";
const PRUNING: &str = "
## Quality against pruning

`q8,u8+shadow`; more and more linears run without shadow, the least important ones by measurement first.

![divergence against the pruning rate](accuracy-pruning.svg)
![divergence against the bytes of float rows in memory](accuracy-shadow-bytes.svg)
![divergence against simulated prefill speed](accuracy-speed.svg)

";
const IMPORTANCE: &str = "
## Does importance rank linears?

Spearman's correlation, over linears, of an importance found on the calibration text's last windows with what leaving that
linear's shadow out does to the divergence from the CPU path on the text to measure on; 95 % bootstrap intervals. *Halves*:
how leaving one out on one half of that text correlates with the other half, h. An estimate without any error could be
expected to reach √(2h / (1 + h)) (Spearman and Brown). More text, `--importance-windows`, makes both surer.

";
/// Longest line of the tables' text.
const WIDTH: usize = 120;
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

/// A recipe on a model.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    recipe: String,
    file_bytes: u64,
    /// Float rows of hot channels.
    shadow_bytes: u64,
    /// Simulated, as if the model had [`SPEED_SHAPE`].
    simulated_tokens_per_s: Option<f64>,
    quality: Quality,
}

/// A point of the curve of pruning.
#[derive(Debug, Serialize)]
struct Pruned {
    model: String,
    pruning_rate: f64,
    shadow_bytes: u64,
    simulated_tokens_per_s: f64,
    quality: Quality,
}

#[derive(Debug, Serialize)]
struct Importance {
    model: String,
    /// Of our estimate on the calibration text with leaving one out on the other text.
    measured: RankCorrelation,
    /// Of llm.npu's largest activation over scale.
    max_over_scale: RankCorrelation,
    /// Of leaving one out on one half of that text with the other half.
    halves: RankCorrelation,
}

#[derive(Debug, Default, Serialize)]
struct Sweep {
    /// Which texts were used for what.
    texts: String,
    simulated: String,
    rows: Vec<Row>,
    pruned: Vec<Pruned>,
    importance: Vec<Importance>,
}

struct Sweeper<'a> {
    args: &'a SweepArgs,
    calibrate: String,
    text: String,
    cancel: &'a CancelToken,
    dir: tempfile::TempDir,
    out: Sweep,
}

pub(crate) fn sweep(args: &SweepArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let read: ReadFiles = args.models.iter().chain([&args.calibrate, &args.text]).collect();
    let file = |name: &str| OutputFile::create(&args.out.join(name), &read);
    let (results, tables) = (file("sweep.json")?, file("accuracy.md")?);
    let mut sweeper = Sweeper {
        args,
        calibrate: read_text(&args.calibrate)?,
        text: read_text(&args.text)?,
        cancel,
        dir: tempfile::tempdir()?,
        out: Sweep::default(),
    };
    for path in &args.models {
        let source = source::open(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        sweeper.model(&name, &*source)?;
        if let Some(seed) = args.outliers {
            let (threads, cancel) = (args.threads, cancel.clone());
            let watched = WatchedText { threads, cancel, ..WatchedText::new(&sweeper.calibrate) };
            let rare = transform::rare_neurons(&*source, &watched)?;
            let loud = source::transform::outliers::with_outliers(&*source, seed, &rare)?;
            sweeper.model(&format!("{name} + outliers"), &loud)?;
        }
    }
    sweeper.out.texts = args.describe_texts();
    let json = serde_json::to_string(&sweeper.out)?;
    let table = sweeper.out.markdown()?;
    outln!("{table}")?;
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
    Ok(())
}

impl Sweeper<'_> {
    fn options(&self) -> EngineOptions {
        EngineOptions { threads: self.args.threads, npu: NpuChoice::None, ..EngineOptions::default() }
    }

    fn cook(&self, source: &dyn ModelSource, recipe: &Recipe, calibrated: bool) -> anyhow::Result<(PathBuf, u64)> {
        let path = self.dir.path().join("model.coexec");
        let options = ImportOptions {
            calibrate: calibrated.then(|| self.calibrate.clone()),
            threads: self.args.threads,
            cancel: self.cancel.clone(),
            ..ImportOptions::default()
        };
        let summary = recipe::cook(source, &path, recipe, &options, &|_| {})?;
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
            note!("{name}: {text}");
            let row = self.recipe(name, source, &text, &windows, &reference)?;
            self.out.rows.push(row);
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
            let quality =
                coexec::runtime::eval::quality(&engine, windows, Some(reference), self.cancel, &mut |_, _| {})?;
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
        note!("{model}: pruning");
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
        let divergence = bench.divergence(layers, &seen, &seen_reference, &mut |_, _| {})?;
        let estimate: Vec<f64> = divergence.iter().flatten().map(|d| d.importance()).collect();
        let leave_out = |half, reference| study::leave_one_out(&bench, layers, half, reference, &mut |_, _| {});
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
        }
        Ok(())
    }
}

fn calibration(path: &Path) -> anyhow::Result<Calibration> {
    PackedFile::open(path)?.calibration().cloned().context("the model was imported with a calibration text")
}

impl Sweep {
    fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut out = format!("# Accuracy\n\n{}\n{HEAD}\n", wrapped(&self.texts));
        writeln!(
            out,
            "| model | recipe | perplexity | against float | divergence, nats | same top-1 | file KiB | shadow KiB | simulated tok/s |"
        )?;
        writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|")?;
        for r in &self.rows {
            let Some(a) = &r.quality.reference else { continue };
            writeln!(
                out,
                "| {} | `{}` | {:.3} | {:+.2} % | {:.5} ± {:.5} | {:.2} % | {} | {} | {} |",
                r.model,
                r.recipe,
                r.quality.perplexity,
                100.0 * (r.quality.perplexity / a.perplexity - 1.0),
                a.kl,
                a.kl_std_error,
                100.0 * a.top1,
                r.file_bytes / 1024,
                r.shadow_bytes / 1024,
                r.simulated_tokens_per_s.map_or_else(|| "–".to_owned(), |s| format!("{s:.0}")),
            )?;
        }
        if !self.pruned.is_empty() {
            self.pruning_markdown(&mut out)?;
        }
        if !self.simulated.is_empty() {
            let simulated = format!("Simulated: the shape of {SPEED_SHAPE}, {}.", self.simulated);
            write!(out, "\n{}", wrapped(&simulated))?;
        }
        Ok(out)
    }

    fn pruning_markdown(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(PRUNING);
        writeln!(
            out,
            "| model | without shadow | perplexity against float | divergence, nats | shadow KiB | simulated tok/s |"
        )?;
        writeln!(out, "|---|---:|---:|---:|---:|---:|")?;
        for p in &self.pruned {
            let Some(a) = &p.quality.reference else { continue };
            writeln!(
                out,
                "| {} | {:.1} % | {:+.2} % | {:.5} | {} | {:.0} |",
                p.model,
                100.0 * p.pruning_rate,
                100.0 * (p.quality.perplexity / a.perplexity - 1.0),
                a.kl,
                p.shadow_bytes / 1024,
                p.simulated_tokens_per_s,
            )?;
        }
        out.push_str(IMPORTANCE);
        writeln!(
            out,
            "| model | our estimate | 95 % interval | largest activation / scale | 95 % interval | halves |"
        )?;
        writeln!(out, "|---|---:|---|---:|---|---:|")?;
        for i in &self.importance {
            let (a, b, halves) = (i.measured, i.max_over_scale, i.halves.value);
            writeln!(
                out,
                "| {} | {:.2} | {:.2} … {:.2} | {:.2} | {:.2} … {:.2} | {halves:.2} |",
                i.model, a.value, a.low, a.high, b.value, b.low, b.high
            )?;
        }
        Ok(())
    }
}

/// Lines of at most [`WIDTH`] characters, where words allow; each ends.
fn wrapped(text: &str) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let len = word.chars().count();
        let fits = used + 1 + len <= WIDTH;
        if used > 0 {
            out.push(if fits { ' ' } else { '\n' });
        }
        used = if used > 0 && fits { used + 1 + len } else { len };
        out.push_str(word);
    }
    out.push('\n');
    out
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

/// What a plot shows to the right.
type Axis = fn(&Pruned) -> f64;

/// Divergence against `x`, one line per model.
/// A picture as SVG; `None` where there is nothing to draw.
fn plot(axis: &str, points: &[Pruned], x: Axis) -> anyhow::Result<Option<String>> {
    let y = |p: &Pruned| p.quality.reference.as_ref().map_or(f64::NAN, |a| a.kl).max(1e-6);
    let range = |f: &dyn Fn(&Pruned) -> f64| {
        let values = || points.iter().map(f).filter(|v| v.is_finite());
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((x0, x1), (y0, y1)) = (range(&x), range(&y));
    if points.is_empty() || !(x0.is_finite() && y0.is_finite()) {
        return Ok(None);
    }
    let margin = (0.04 * (x1 - x0)).max(1e-9);
    let broken = |e: &dyn std::fmt::Display| anyhow::anyhow!("cannot draw a plot: {e}");
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (760, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| broken(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x0 - margin..x1 + margin, (y0 * 0.7..y1 * 1.4).log_scale())
        .map_err(|e| broken(&e))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("divergence from float, nats")
        .y_label_formatter(&|v| format!("{v:.0e}"))
        .draw()
        .map_err(|e| broken(&e))?;
    for (i, line) in points.chunk_by(|a, b| a.model == b.model).enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        let at = || line.iter().map(|p| (x(p), y(p)));
        chart
            .draw_series(LineSeries::new(at(), colour.stroke_width(2)))
            .map_err(|e| broken(&e))?
            .label(&line[0].model)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(at().map(|at| Circle::new(at, 3, colour.filled()))).map_err(|e| broken(&e))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| broken(&e))?;
    root.present().map_err(|e| broken(&e))?;
    drop((chart, root));
    Ok(Some(svg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words() {
        let long = "a word ".repeat(60) + &"x".repeat(200);
        let text = wrapped(&long);
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), long.split_whitespace().collect::<Vec<_>>());
        assert!(text.lines().all(|line| line.len() <= WIDTH || !line.contains(' ')), "{text}");
        assert_eq!(wrapped("one"), "one\n");
    }
}
