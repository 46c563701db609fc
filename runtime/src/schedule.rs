//! Which linears run how on the NPU: what each choice costs in quality, measured on the model, and the fastest schedule that keeps
//! a quality target.
//!
//! The reference is the model's own CPU path. With every linear in u16 the model is nearly that; from there one linear at a
//! time is set to u8, and to u8 with shadow, and the mean KL divergence from the reference says what that does to the model's
//! distribution. Small errors of different linears are nearly independent, so their divergences add up: a schedule's loss is
//! predicted by their sum, and then measured on other windows of the text: those that it was checked on. The fastest of a few
//! schedules that keep the target there is taken, so that their divergences are slightly better than on further text. The
//! *importance* of a linear's shadow is the difference between its two divergences.
//!
//! In expectation over the model's own distribution, KL is the increase of the negative log-likelihood: a target of 1 % of
//! perplexity is a budget of ln 1.01 nats. KL is what is measured because its noise over a short text is far smaller.

use crate::{
    Engine, EngineOptions, NpuChoice, RuntimeError, ScheduleChoice,
    eval::{Quality, Reference, Windows, quality},
    prefill::{Placement, PlanOptions, plan, plan::StageCosts},
};
use coexec_model::{
    Calibration, DecoderConfig, LinearCalibration, LinearKind, Schedule, Treatment,
    output::{OutputFile, ReadFiles},
    packed::{PackedFile, PackedOptions, PackedSummary, PackedWriter},
};
use coexec_scheduler::{CancelToken, PolicyKind, simulate};
use serde::Serialize;
use std::{cell::Cell, path::Path};

/// Options of [`decide`].
#[derive(Clone, Debug)]
pub struct ScheduleOptions {
    /// Share of perplexity that may be lost against the CPU path: 0.01 is 1 %.
    pub max_quality_loss: f64,
    /// Tokens per window.
    pub window: usize,
    /// Windows of the text on which linears are measured; as many again check the result.
    pub windows: usize,
    /// Prompt that schedules are timed on, in tokens.
    pub prompt_len: usize,
    /// CPU workers of the simulated phone.
    pub phone_workers: usize,
    /// What engines are opened with; the NPU is the simulated one.
    pub engine: EngineOptions,
    /// Stops between prefills.
    pub cancel: CancelToken,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        Self {
            max_quality_loss: 0.01,
            window: 256,
            windows: 4,
            prompt_len: 512,
            phone_workers: 4,
            engine: EngineOptions::default(),
            cancel: CancelToken::new(),
        }
    }
}

/// What one linear does to the model's distribution, the others being in u16: KL divergence in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Divergence {
    /// In u8.
    pub plain: f64,
    /// In u8 with shadow.
    pub shadow: f64,
}

impl Divergence {
    /// What shadow gains.
    #[must_use]
    pub fn importance(self) -> f64 {
        self.plain - self.shadow
    }

    fn of(self, treatment: Treatment) -> f64 {
        match treatment {
            Treatment::Plain => self.plain.max(0.0),
            Treatment::Shadow => self.shadow.max(0.0),
            // Never chosen: shadow repairs the same channels with less work.
            Treatment::Split => f64::INFINITY,
            Treatment::Wide => 0.0,
        }
    }
}

/// A schedule, and what it was found to be like.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Where it comes from.
    pub name: String,
    /// How each linear runs.
    pub schedule: Schedule,
    /// Divergence from the CPU path on the windows that candidates are checked on, in nats.
    pub kl: f64,
    /// Its standard error.
    pub kl_std_error: f64,
    /// Perplexity over the reference's, on the same windows.
    pub perplexity_ratio: f64,
    /// Simulated time of the prompt, in nanoseconds.
    pub simulated_ns: u64,
}

impl Candidate {
    /// Linears that run this way.
    #[must_use]
    pub fn count(&self, treatment: Treatment) -> usize {
        self.schedule.iter().flatten().filter(|t| **t == treatment).count()
    }
}

/// What [`decide`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// By layer and linear.
    pub divergence: Vec<[Divergence; 4]>,
    /// What was compared, the uniform schedules first.
    pub candidates: Vec<Candidate>,
    /// Index of the one that was chosen.
    pub chosen: usize,
    /// Whether it keeps the target on the windows that it was checked on; if not, it is the one that comes nearest.
    pub kept: bool,
    /// Where simulated times come from.
    pub simulated: String,
}

/// Opens engines of one file with different schedules.
pub struct Bench<'a> {
    path: &'a Path,
    options: EngineOptions,
    cancel: CancelToken,
    window_begins: &'a dyn Fn(),
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bench({})", self.path.display())
    }
}

impl<'a> Bench<'a> {
    /// Engines of the file at `path`; their NPU is the simulated one.
    #[must_use]
    pub fn new(path: &'a Path, options: &EngineOptions, cancel: &CancelToken) -> Self {
        let options = EngineOptions { cancel: cancel.clone(), ..options.clone() };
        Self { path, options, cancel: cancel.clone(), window_begins: &|| {} }
    }

    /// Calls `window_begins` before every window whose quality is measured.
    #[must_use]
    pub fn with_progress(self, window_begins: &'a dyn Fn()) -> Self {
        Self { window_begins, ..self }
    }

    /// An engine without NPU: the reference.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn cpu(&self) -> Result<Engine, RuntimeError> {
        Engine::open(self.path, EngineOptions { npu: NpuChoice::None, ..self.options.clone() })
    }

    /// Quality of a schedule.
    ///
    /// # Errors
    /// When the file cannot be opened, is not calibrated, or a prefill fails.
    pub fn quality(
        &self,
        schedule: ScheduleChoice,
        windows: &Windows,
        reference: &Reference,
    ) -> Result<Quality, RuntimeError> {
        let options = EngineOptions {
            npu: NpuChoice::Sim,
            chunk_lens: vec![windows.window_tokens().min(crate::options::MAX_CHUNK_LEN)],
            schedule,
            ..self.options.clone()
        };
        quality(&Engine::open(self.path, options)?, windows, Some(reference), &self.cancel, &mut |_, _| {
            (self.window_begins)();
        })
    }

    /// What each linear does in u8 with and without shadow while all others are in u16.
    ///
    /// # Errors
    /// As [`Self::quality`].
    pub fn divergence(
        &self,
        layers: usize,
        windows: &Windows,
        reference: &Reference,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<[Divergence; 4]>, RuntimeError> {
        let all = vec![[Treatment::Wide; 4]; layers];
        let kl = |schedule: Schedule| {
            let quality = self.quality(ScheduleChoice::Given(schedule), windows, reference)?;
            Ok::<_, RuntimeError>(quality.reference.map_or(0.0, |r| r.kl))
        };
        let floor = kl(all.clone())?;
        let mut out = vec![[Divergence::default(); 4]; layers];
        for (i, (l, kind)) in (0..layers).flat_map(|l| (0..4).map(move |kind| (l, kind))).enumerate() {
            progress(i, 4 * layers);
            let one = |treatment| {
                let mut schedule = all.clone();
                schedule[l][kind] = treatment;
                Ok::<_, RuntimeError>(kl(schedule)? - floor)
            };
            out[l][kind] = Divergence { plain: one(Treatment::Plain)?, shadow: one(Treatment::Shadow)? };
        }
        Ok(out)
    }
}

/// Simulated time of a prompt on a phone.
#[derive(Clone, Debug)]
pub struct Phone {
    config: DecoderConfig,
    costs: StageCosts,
    prompt_len: usize,
    workers: usize,
}

impl Phone {
    /// A phone for models of this shape.
    ///
    /// # Errors
    /// [`RuntimeError::Option`] for an unknown chip.
    pub fn new(config: &DecoderConfig, options: &ScheduleOptions) -> Result<Self, RuntimeError> {
        Ok(Self {
            config: config.clone(),
            costs: StageCosts::phone(crate::npu::profile(&options.engine.npu_profile)?),
            prompt_len: options.prompt_len,
            workers: options.phone_workers,
        })
    }

    /// Where the times come from.
    #[must_use]
    pub fn source(&self) -> String {
        let npu = self.costs.npu.timing.map_or("no timing model", coexec_npu::TimingModel::source);
        format!("{}, {} tokens; NPU: {npu}; {}", self.costs.npu.name, self.prompt_len, StageCosts::CPU_SOURCE)
    }

    /// Nanoseconds that a schedule takes whose shadows correct these shares of the inputs ([`shadow_shares`]).
    ///
    /// # Errors
    /// When the plan cannot be made.
    pub fn time_ns(&self, schedule: &Schedule, shares: &[[f32; 4]]) -> Result<u64, RuntimeError> {
        let options = PlanOptions {
            placement: Placement::Split,
            chunk_lens: crate::options::CHUNK_LENS.to_vec(),
            schedule: schedule.clone(),
            shadow_shares: shares.to_vec(),
            all_logits: false,
            cpu_workers: self.workers,
            max_chunks_in_flight: crate::prefill::MAX_CHUNKS_IN_FLIGHT,
            costs: self.costs.clone(),
        };
        let plan = plan::plan(&self.config, &options, self.prompt_len, 0)?;
        let workers = u16::try_from(self.workers).unwrap_or(u16::MAX);
        let cost = |task| plan.graph.task(task).cost_ns;
        // The best of the policies: a policy's anomaly on one schedule shall not decide between two.
        let mut best_ns = u64::MAX;
        for policy in PolicyKind::ALL {
            let report = simulate(&plan.graph, &*policy.create(), &cost, workers)
                .map_err(|e| RuntimeError::Schedule(e.to_string()))?;
            best_ns = best_ns.min(report.makespan_ns);
        }
        Ok(best_ns)
    }
}

/// Share of the input elements that the CPU computes beside each linear of a schedule: what codes with shadow clip, or the hot
/// channels whole.
#[must_use]
pub fn shadow_shares(config: &DecoderConfig, calibration: &Calibration, schedule: &[[Treatment; 4]]) -> Vec<[f32; 4]> {
    let share = |layer: &[LinearCalibration; 4], kind: usize, treatment: Treatment| match treatment {
        Treatment::Plain | Treatment::Wide => 0.0,
        Treatment::Shadow => layer[kind].clipped_share,
        Treatment::Split => {
            let (_, k) = config.linear_shape(LinearKind::ALL[kind]);
            layer[kind].hot_channels.len() as f32 / k.max(1) as f32
        }
    };
    let layers = calibration.layers.iter().zip(schedule);
    layers.map(|(layer, treatments)| std::array::from_fn(|i| share(layer, i, treatments[i]))).collect()
}

/// The cheapest treatments whose predicted divergences sum up to at most `budget`, when a linear's shadow costs `shadow_cost` of
/// what its u16 costs (infinite: no shadow): from all in u8, upgrades in the order of divergence saved per cost.
#[must_use]
pub fn choose(config: &DecoderConfig, divergence: &[[Divergence; 4]], budget: f64, shadow_cost: f64) -> Schedule {
    let mut schedule = vec![[Treatment::Plain; 4]; divergence.len()];
    let mut left = predicted(divergence, &schedule);
    let macs = |kind: usize| {
        let (n, k) = config.linear_shape(LinearKind::ALL[kind]);
        n as f64 * k as f64
    };
    let cost = |treatment, kind| match treatment {
        Treatment::Plain => 0.0,
        Treatment::Shadow => macs(kind) * shadow_cost,
        Treatment::Wide | Treatment::Split => macs(kind),
    };
    while left > budget {
        let mut best: Option<(f64, usize, usize, Treatment)> = None;
        for (l, layer) in divergence.iter().enumerate() {
            for (kind, d) in layer.iter().enumerate() {
                let now = schedule[l][kind];
                for to in [Treatment::Shadow, Treatment::Wide] {
                    let (gain, more) = (d.of(now) - d.of(to), cost(to, kind) - cost(now, kind));
                    if gain <= 0.0 || !more.is_finite() {
                        continue;
                    }
                    let rate = gain / more.max(1e-9);
                    if best.is_none_or(|b| rate > b.0) {
                        best = Some((rate, l, kind, to));
                    }
                }
            }
        }
        let Some((_, l, kind, to)) = best else { break };
        left -= divergence[l][kind].of(schedule[l][kind]) - divergence[l][kind].of(to);
        schedule[l][kind] = to;
    }
    schedule
}

/// Sum of the divergences of a schedule's linears.
fn predicted(divergence: &[[Divergence; 4]], schedule: &[[Treatment; 4]]) -> f64 {
    let both = divergence.iter().flatten().zip(schedule.iter().flatten());
    both.map(|(divergence, treatment)| divergence.of(*treatment)).sum()
}

/// Schedules that are checked: the uniform ones, and about as many for each price of shadow.
const CHECKED: usize = 4 * Treatment::ALL.len();

/// Measures the linears of the calibrated model at `path` on `text` and finds its schedule. `progress` is told how many windows
/// were run, and how many will be at most.
///
/// # Errors
/// When the file is not calibrated or has no tokenizer, the text is too short, or a prefill fails.
pub fn decide(
    path: &Path,
    text: &str,
    options: &ScheduleOptions,
    progress: &dyn Fn(usize, usize),
) -> Result<Decision, RuntimeError> {
    let (done, total) = (Cell::new(0usize), Cell::new(usize::MAX));
    let windows_done = |windows: usize| {
        done.set(done.get() + windows);
        progress(done.get().min(total.get()), total.get());
    };
    let window_begins = || windows_done(1);
    let bench = Bench::new(path, &options.engine, &options.cancel).with_progress(&window_begins);
    let cpu = bench.cpu()?;
    let config = cpu.model().config().clone();
    let calibration = cpu.model().calibration().ok_or(RuntimeError::NotCalibrated)?.clone();
    let window = options.window.min(config.max_position_embeddings as usize);
    let all = Windows::of_text(&cpu, text, window, 2 * options.windows.max(1))?;
    if all.len() < 2 {
        return Err(RuntimeError::Option {
            option: "--text",
            value: format!("{} tokens", all.len() * window),
            reason: format!("two windows of {window} tokens are the least: one to choose on, one to check on"),
        });
    }
    // Before anything takes long: a prompt that cannot be planned is an error now.
    let phone = Phone::new(&config, options)?;
    phone.time_ns(&calibration.schedule(), &[])?;
    let (seen, other) = (all.part(0..all.len() / 2), all.part(all.len() / 2..all.len()));
    let layers = config.num_hidden_layers as usize;
    // References, one linear at a time in two ways beside none, checks.
    total.set(all.len() + (8 * layers + 1) * seen.len() + CHECKED * other.len());
    let reference = seen.reference(&cpu, &options.cancel)?;
    windows_done(seen.len());
    let divergence = bench.divergence(layers, &seen, &reference, &mut |_, _| {})?;
    let reference = other.reference(&cpu, &options.cancel)?;
    windows_done(other.len());
    drop(cpu);

    let check = |name: String, schedule: Schedule| {
        let quality = bench.quality(ScheduleChoice::Given(schedule.clone()), &other, &reference)?;
        let (kl, kl_std_error, base) =
            quality.reference.map_or((0.0, 0.0, 1.0), |r| (r.kl, r.kl_std_error, r.perplexity));
        let simulated_ns = phone.time_ns(&schedule, &shadow_shares(&config, &calibration, &schedule))?;
        let perplexity_ratio = quality.perplexity / base;
        Ok::<_, RuntimeError>(Candidate { name, schedule, kl, kl_std_error, perplexity_ratio, simulated_ns })
    };
    let mut candidates = Vec::new();
    for treatment in Treatment::ALL {
        candidates.push(check(treatment.name().to_owned(), vec![[treatment; 4]; divergence.len()])?);
    }
    let target = options.max_quality_loss.ln_1p();
    for shadow_cost in [0.02, 0.3, f64::INFINITY] {
        let (mut budget, mut last) = (target, None);
        // What was predicted may be a little off on other text: then less is asked for.
        for _ in 0..4 {
            let schedule = choose(&config, &divergence, budget, shadow_cost);
            if last.as_ref() == Some(&schedule) {
                break; // nothing better is for sale
            }
            let known = candidates.iter().find(|c| c.schedule == schedule).map(|c| c.kl);
            let kl = match known {
                Some(kl) => kl,
                None => {
                    let name = match shadow_cost {
                        f64::INFINITY => "u8 and u16".to_owned(),
                        cost => format!("mixed, shadow at {cost} of u16"),
                    };
                    let candidate = check(name, schedule.clone())?;
                    let kl = candidate.kl;
                    candidates.push(candidate);
                    kl
                }
            };
            if kl <= target {
                break;
            }
            // Below what this one was predicted to cost, or it would be chosen again.
            budget = budget.min(predicted(&divergence, &schedule)) * (0.9 * target / kl).min(0.8);
            last = Some(schedule);
        }
    }
    let keeps = |c: &&Candidate| c.kl <= target;
    let fastest = candidates.iter().enumerate().filter(|(_, c)| keeps(c)).min_by_key(|(_, c)| c.simulated_ns);
    let nearest = candidates.iter().enumerate().min_by(|a, b| a.1.kl.total_cmp(&b.1.kl));
    let chosen = fastest.or(nearest).map_or(0, |(i, _)| i);
    Ok(Decision { divergence, chosen, kept: fastest.is_some(), candidates, simulated: phone.source() })
}

/// Writes a copy of the file at `path` to `out` with what was decided: importances and schedule. `out` may be `path`.
///
/// # Errors
/// When the file cannot be read or the copy not be written; `out` then stays as it was.
pub fn store(path: &Path, decision: &Decision, out: &Path) -> Result<PackedSummary, RuntimeError> {
    store_into(path, decision, OutputFile::create(out, &ReadFiles::none())?)
}

/// The same into a place that was claimed.
///
/// # Errors
/// Those of [`store`].
pub fn store_into(path: &Path, decision: &Decision, out: OutputFile) -> Result<PackedSummary, RuntimeError> {
    let file = PackedFile::open(path)?;
    let mut calibration = file.calibration().ok_or(RuntimeError::NotCalibrated)?.clone();
    if let Some(chosen) = decision.candidates.get(decision.chosen) {
        calibration.set_schedule(&chosen.schedule);
    }
    for (layer, divergence) in calibration.layers.iter_mut().zip(&decision.divergence) {
        layer.iter_mut().zip(divergence).for_each(|(linear, d)| linear.importance = d.importance() as f32);
    }
    let mut writer = PackedWriter::new(out, PackedOptions::default())?;
    for entry in file.tensors() {
        writer.copy(&file, entry)?;
    }
    Ok(writer.finish(file.config(), file.tokenizer(), Some(&calibration))?)
}
