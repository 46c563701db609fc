//! Runs a prefill plan: the executor that turns task ids into work on the chunk's buffers.

use super::{
    buffers::{ChunkBuffers, MainBuffers, ShadowBuffers},
    plan::{Placement, PrefillPlan, Stage, StageTask},
    shadow_work::{ShadowCounters, ShadowWork},
};
use crate::{
    RuntimeError,
    kv::KvCache,
    layer,
    model::Model,
    npu::PreparedNpu,
    shadow::{Join, OutputPart, ShadowRows},
};
use coexec_cpu::{CodeWidth, Ctx, Kernels, Pool};
use coexec_model::{LayerIdx, LinearCalibration, LinearKind, Treatment, WeightFormat, memory};
use coexec_scheduler::{CancelToken, Driver, Executor, Policy, RunError, RunReport, TaskId};
use std::sync::atomic::{AtomicU64, Ordering};

/// Which positions' logits a prefill returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitsWanted {
    /// The last position's, `[1, vocab_size]`.
    #[default]
    Last,
    /// Every position's, `[tokens, vocab_size]`.
    All,
}

/// Options of one prefill.
#[derive(Clone, Debug, Default)]
pub struct PrefillOptions {
    /// Which logits to return.
    pub logits: LogitsWanted,
    /// Stops the prefill at the next task; the session stays as it was.
    pub cancel: CancelToken,
}

/// What a prefill gives.
#[derive(Debug)]
pub struct PrefillOutput {
    /// Logits as wanted.
    pub logits: Vec<f32>,
    /// The plan that ran.
    pub plan: PrefillPlan,
    /// When each task ran.
    pub report: RunReport,
    /// What shadow did.
    pub shadow: ShadowWork,
    /// NPU outputs that had saturated. Those of linears with shadow were computed again, others stay as they are.
    pub saturated: u64,
    /// Work that ran elsewhere than planned, and why.
    pub ran_elsewhere: Vec<String>,
    /// Failures of NPUs during the prompt, in order; also those that a fresh context cured.
    pub npu_failures: Vec<String>,
}

/// Everything a prefill run reads.
pub(crate) struct Runner<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a PrefillPlan,
    pub(crate) npu: Option<&'a PreparedNpu>,
    pub(crate) kv: &'a KvCache,
    pub(crate) tokens: &'a [u32],
    pub(crate) pool: &'a Pool,
    pub(crate) kernels: &'static Kernels,
    pub(crate) all_logits: bool,
    pub(crate) jitter_us: u64,
}

/// Counters and buffers of a run.
struct Execution<'a> {
    runner: &'a Runner<'a>,
    buffers: Vec<ChunkBuffers>,
    shadow: ShadowCounters,
    saturated: AtomicU64,
}

/// The input of a linear in float.
#[derive(Clone, Copy)]
enum Input<'a> {
    /// `[m, K]`.
    Whole(&'a [f32]),
    /// So many rows, made one by one.
    Rows(usize, &'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// What a run gives besides K and V.
pub(crate) struct RunOutcome {
    pub(crate) logits: Vec<f32>,
    pub(crate) report: RunReport,
    pub(crate) shadow: ShadowWork,
    pub(crate) saturated: u64,
}

impl Runner<'_> {
    /// Runs the plan on the driver's threads.
    pub(crate) fn run(&self, policy: &dyn Policy, cancel: &CancelToken) -> Result<RunOutcome, RuntimeError> {
        let execution = Execution {
            runner: self,
            buffers: self.plan.chunks.iter().map(|_| ChunkBuffers::default()).collect(),
            shadow: ShadowCounters::default(),
            saturated: AtomicU64::new(0),
        };
        let workers = u16::try_from(self.pool.threads()).unwrap_or(u16::MAX);
        let report = Driver::new(workers).run(&self.plan.graph, policy, &execution, cancel).map_err(|e| match e {
            RunError::Failed { source, .. } => source,
            RunError::Cancelled { .. } => RuntimeError::Cancelled,
            RunError::Panicked { label, message, .. } => {
                RuntimeError::TaskPanicked { task: label.to_string(), message }
            }
            other => RuntimeError::Schedule(other.to_string()),
        })?;
        let mut logits = Vec::new();
        for part in execution.buffers.iter().map(|b| std::mem::take(&mut b.main.lock().logits)) {
            if logits.is_empty() {
                logits = part;
            } else {
                memory::reserve(&mut logits, part.len(), "logits")?;
                logits.extend_from_slice(&part);
            }
        }
        Ok(RunOutcome {
            logits,
            shadow: execution.shadow.finish(self.plan, &report),
            report,
            saturated: execution.saturated.into_inner(),
        })
    }
}

impl Executor for Execution<'_> {
    type Error = RuntimeError;

    fn execute(&self, task: TaskId, lanes: u16) -> Result<(), RuntimeError> {
        let StageTask { stage, layer, chunk } = self.runner.plan.tasks[task.index()];
        self.delay(task);
        match stage {
            Stage::Embed => self.embed(chunk),
            Stage::AttnIn => self.attn_in(layer, chunk, lanes),
            Stage::Linear(kind) if self.split() => self.npu_linear(kind, layer, chunk),
            Stage::Linear(kind) => self.cpu_linear(kind, layer, chunk, lanes),
            Stage::Shadow(kind) => self.shadow(kind, layer, chunk, lanes),
            Stage::KvWrite => self.kv_write(layer, chunk, lanes),
            Stage::Attend => self.attend(layer, chunk, lanes),
            Stage::FfnIn => self.ffn_in(layer, chunk, lanes),
            Stage::Act => self.act(layer, chunk, lanes),
            Stage::Out => self.out(layer, chunk, lanes),
        }
    }
}

impl Execution<'_> {
    fn split(&self) -> bool {
        self.runner.plan.placement == Placement::Split
    }

    fn ctx(&self, lanes: u16) -> Ctx<'_> {
        Ctx { kernels: self.runner.kernels, pool: self.runner.pool, lanes: usize::from(lanes) }
    }

    /// Sleeps for a pseudo-random time below the jitter, so that tests see many interleavings.
    fn delay(&self, task: TaskId) {
        let jitter = self.runner.jitter_us;
        if jitter > 0 {
            let mixed = (u64::from(task.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(std::process::id());
            std::thread::sleep(std::time::Duration::from_micros((mixed >> 17) % jitter));
        }
    }

    fn calibration(&self, kind: LinearKind, layer: usize) -> Result<&LinearCalibration, RuntimeError> {
        let calibration = self.runner.model.calibration().ok_or(RuntimeError::NotCalibrated)?;
        calibration.linear(LayerIdx(layer as u32), kind).ok_or(RuntimeError::NotCalibrated)
    }

    fn embed(&self, chunk: usize) -> Result<(), RuntimeError> {
        let c = self.runner.plan.chunks[chunk];
        let mut main = self.buffers[chunk].main.lock();
        layer::embed(self.runner.model, &self.runner.tokens[c.offset..c.offset + c.tokens], &mut main.x)
    }

    fn attn_in(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let mut main = self.buffers[chunk].main.lock();
        let (ctx, layer) = (self.ctx(lanes), self.runner.model.layer(l));
        if !self.split() {
            let MainBuffers { x, outputs, ready, .. } = &mut *main;
            let add = (l > 0).then_some(&outputs[LinearKind::Down.index()][..]);
            return layer.input(&ctx, self.linear(LinearKind::Qkv, l), x, add, ready);
        }
        if l > 0 {
            self.join(LinearKind::Down, l - 1, chunk, lanes, &mut main)?;
            let MainBuffers { x, outputs, .. } = &mut *main;
            coexec_cpu::add_rows(&ctx, x, &outputs[LinearKind::Down.index()])?;
        }
        let MainBuffers { x, input, .. } = &mut *main;
        layer.attn_in(&ctx, x, input)?;
        self.quantise(LinearKind::Qkv, l, chunk, lanes, Input::Whole(input))
    }

    fn kv_write(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let c = self.runner.plan.chunks[chunk];
        let mut main = self.buffers[chunk].main.lock();
        self.join(LinearKind::Qkv, l, chunk, lanes, &mut main)?;
        let MainBuffers { outputs, qkv, .. } = &mut *main;
        let output = &outputs[LinearKind::Qkv.index()];
        self.runner.model.layer(l).kv_write(&self.ctx(lanes), output, c.start_pos, self.runner.kv, l, qkv)?;
        drop(main);
        let last_layer = l + 1 == self.runner.model.config().num_hidden_layers as usize;
        if last_layer && !self.runner.all_logits && chunk + 1 < self.buffers.len() {
            self.buffers[chunk].release();
        }
        Ok(())
    }

    fn attend(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let c = self.runner.plan.chunks[chunk];
        let mut main = self.buffers[chunk].main.lock();
        let MainBuffers { input, qkv, .. } = &mut *main;
        self.runner.model.layer(l).attend(&self.ctx(lanes), &qkv.q, c.start_pos, self.runner.kv, l, input)?;
        self.quantise(LinearKind::O, l, chunk, lanes, Input::Whole(input))
    }

    fn ffn_in(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let mut main = self.buffers[chunk].main.lock();
        let (ctx, layer) = (self.ctx(lanes), self.runner.model.layer(l));
        if !self.split() {
            let MainBuffers { x, outputs, ready, .. } = &mut *main;
            let add = Some(&outputs[LinearKind::O.index()][..]);
            return layer.input(&ctx, self.linear(LinearKind::GateUp, l), x, add, ready);
        }
        self.join(LinearKind::O, l, chunk, lanes, &mut main)?;
        let MainBuffers { x, outputs, input, .. } = &mut *main;
        coexec_cpu::add_rows(&ctx, x, &outputs[LinearKind::O.index()])?;
        layer.ffn_in(&ctx, x, input)?;
        self.quantise(LinearKind::GateUp, l, chunk, lanes, Input::Whole(input))
    }

    fn act(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let treatment = |kind| self.calibration(kind, l).map(|c| c.treatment);
        if !treatment(LinearKind::GateUp)?.has_shadow() && treatment(LinearKind::Down)? != Treatment::Split {
            return self.act_rows(l, chunk, lanes);
        }
        let mut main = self.buffers[chunk].main.lock();
        self.join(LinearKind::GateUp, l, chunk, lanes, &mut main)?;
        let MainBuffers { outputs, input, .. } = &mut *main;
        self.runner.model.layer(l).act(&self.ctx(lanes), &outputs[LinearKind::GateUp.index()], input)?;
        self.quantise(LinearKind::Down, l, chunk, lanes, Input::Whole(input))
    }

    /// The same where nothing is corrected and the input of down is not wanted in float: from codes to codes, row by row.
    fn act_rows(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let (ctx, saturated) = (self.ctx(lanes), AtomicU64::new(0));
        self.with_join(LinearKind::GateUp, l, chunk, |join| {
            let row = |r: usize, out: &mut [f32]| {
                saturated.fetch_add(join.silu_mul(&ctx, r, out) as u64, Ordering::Relaxed);
            };
            self.quantise(LinearKind::Down, l, chunk, lanes, Input::Rows(join.m, &row))
        })?;
        self.saturated.fetch_add(saturated.into_inner(), Ordering::Relaxed);
        Ok(())
    }

    fn out(&self, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let hidden = self.runner.model.config().hidden_size as usize;
        let mut main = self.buffers[chunk].main.lock();
        self.join(LinearKind::Down, l, chunk, lanes, &mut main)?;
        let MainBuffers { x, outputs, forward, logits, .. } = &mut *main;
        coexec_cpu::add_rows(&self.ctx(lanes), x, &outputs[LinearKind::Down.index()])?;
        let rows = if self.runner.all_logits { &x[..] } else { &x[x.len() - hidden..] };
        layer::head(&self.ctx(lanes), self.runner.model, rows, logits, forward)?;
        drop(main);
        self.buffers[chunk].release();
        Ok(())
    }

    /// A linear of a layer, and the format of its weights.
    fn linear(&self, kind: LinearKind, l: usize) -> (LinearKind, WeightFormat) {
        (kind, self.runner.model.linear(l, kind).format())
    }

    /// A linear on the CPU. Gate and up make the input of down at once.
    fn cpu_linear(&self, kind: LinearKind, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let (ctx, model) = (self.ctx(lanes), self.runner.model);
        let mut main = self.buffers[chunk].main.lock();
        let MainBuffers { input, outputs, ready, activated, linear, .. } = &mut *main;
        let w = model.linear(l, kind);
        let ready = match kind {
            LinearKind::GateUp => {
                let (_, next) = self.linear(LinearKind::Down, l);
                return Ok(coexec_cpu::linear_swiglu(&ctx, &w.panels(), ready, next, activated, linear)?);
            }
            LinearKind::Down => activated,
            LinearKind::O => {
                ready.copy(&ctx, w.format(), input, w.k())?;
                ready
            }
            LinearKind::Qkv => ready,
        };
        let output = &mut outputs[kind.index()];
        memory::resize(output, ready.rows() * w.n(), 0.0, "activations")?;
        Ok(coexec_cpu::linear_input(&ctx, &w.panels(), ready, output, linear)?)
    }

    /// Turns the input of a linear into codes for the NPU and residuals for the shadow.
    fn quantise(
        &self,
        kind: LinearKind,
        l: usize,
        chunk: usize,
        lanes: u16,
        input: Input<'_>,
    ) -> Result<(), RuntimeError> {
        if !self.split() {
            return Ok(());
        }
        let k = self.runner.model.linear(l, kind).k();
        let elems = match input {
            Input::Whole(x) => x.len(),
            Input::Rows(m, _) => m * k,
        };
        let calibration = self.calibration(kind, l)?;
        let (treatment, coded) = (calibration.treatment, calibration.codes());
        let chunk_len = self.runner.plan.chunks[chunk].chunk_len;
        let parts = self.runner.model.config().linear_parts(kind);
        let mut npu = self.buffers[chunk].npu.lock();
        let bindings = npu.allocate(kind, treatment, || self.npu()?.bindings(chunk_len * coded.bytes(), k, &parts))?;
        let mut codes = bindings.inputs[0].write()?;
        let mut shadow = self.buffers[chunk].shadow.lock();
        let (used, padding) = codes.split_at_mut(elems * coded.bytes());
        let (ctx, residuals) = (self.ctx(lanes), &mut shadow.residuals);
        let (scale, width) = (coded.input_step(), if coded.wide { CodeWidth::U16 } else { CodeWidth::U8 });
        match input {
            Input::Whole(x) => coexec_cpu::quantize(&ctx, x, k, scale, width, used, residuals)?,
            Input::Rows(m, row) => coexec_cpu::quantize_rows(&ctx, m, k, row, scale, width, used, residuals)?,
        }
        if coded.wide {
            padding.chunks_exact_mut(2).for_each(|code| code.copy_from_slice(&coded.zero_point().to_le_bytes()));
        } else {
            if let (Treatment::Split, Input::Whole(x)) = (treatment, input) {
                residuals.take_channels(x, k, &calibration.hot_channels, used)?;
            }
            padding.fill(coded.zero_point() as u8);
        }
        self.shadow.clipped(&shadow.residuals, treatment.has_shadow());
        Ok(())
    }

    fn npu(&self) -> Result<&PreparedNpu, RuntimeError> {
        self.runner.npu.ok_or(RuntimeError::NotCalibrated)
    }

    fn npu_linear(&self, kind: LinearKind, l: usize, chunk: usize) -> Result<(), RuntimeError> {
        let treatment = self.calibration(kind, l)?.treatment;
        let bindings = self.buffers[chunk].npu.lock().get(kind, treatment).cloned().unwrap_or_default();
        self.npu()?.run(self.runner.plan.chunks[chunk].chunk_len, l, kind, &bindings)
    }

    fn shadow(&self, kind: LinearKind, l: usize, chunk: usize, lanes: u16) -> Result<(), RuntimeError> {
        let weight = self.runner.model.linear(l, kind);
        let rows = ShadowRows { weight, hot: self.runner.model.hot(l, kind), counters: &self.shadow };
        let tokens = self.runner.plan.chunks[chunk].tokens;
        let mut shadow = self.buffers[chunk].shadow.lock();
        let ShadowBuffers { residuals, corrections } = &mut *shadow;
        let correction = &mut corrections[kind.index()];
        memory::resize(correction, tokens * weight.n(), 0.0, "corrections of the shadow")?;
        Ok(coexec_cpu::shadow(&self.ctx(lanes), residuals, &rows, weight.n(), correction)?)
    }

    /// Joins the NPU's output and the shadow's correction into `main.outputs`.
    fn join(
        &self,
        kind: LinearKind,
        l: usize,
        chunk: usize,
        lanes: u16,
        main: &mut MainBuffers,
    ) -> Result<(), RuntimeError> {
        if !self.split() {
            return Ok(());
        }
        let output = &mut main.outputs[kind.index()];
        let saturated = self.with_join(kind, l, chunk, |join| {
            memory::resize(output, join.m * join.n, 0.0, "activations")?;
            join.run(&self.ctx(lanes), output)
        })?;
        self.saturated.fetch_add(saturated as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `f` with the NPU's output of a linear and the shadow's correction of it.
    fn with_join<R>(
        &self,
        kind: LinearKind,
        l: usize,
        chunk: usize,
        f: impl FnOnce(&Join<'_>) -> Result<R, RuntimeError>,
    ) -> Result<R, RuntimeError> {
        let calibration = self.calibration(kind, l)?;
        let weight = self.runner.model.linear(l, kind);
        let (treatment, coded) = (calibration.treatment, calibration.codes());
        let bindings = self.buffers[chunk].npu.lock().get(kind, treatment).cloned().unwrap_or_default();
        let shadow = treatment.has_shadow().then(|| self.buffers[chunk].shadow.lock());
        let input = bindings.inputs.first().map(coexec_npu::NpuBuffer::read).transpose()?;
        let outputs = bindings.outputs.iter().map(coexec_npu::NpuBuffer::read).collect::<Result<Vec<_>, _>>()?;
        let mut first = 0;
        let parts: Vec<OutputPart<'_>> = self
            .runner
            .model
            .config()
            .linear_parts(kind)
            .into_iter()
            .zip(coded.output_steps())
            .zip(&outputs)
            .map(|((width, scale), codes)| {
                first += width;
                OutputPart { first: first - width, width, scale, codes }
            })
            .collect();
        let join = Join {
            m: self.runner.plan.chunks[chunk].tokens,
            n: weight.n(),
            parts: &parts,
            correction: shadow.as_ref().map(|shadow| &shadow.corrections[kind.index()][..]),
            input_codes: input.as_deref().unwrap_or_default(),
            input_scale: coded.input_step(),
            weight,
            wide: coded.wide,
        };
        f(&join)
    }
}
