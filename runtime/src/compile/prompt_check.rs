//! A prompt's real activations through the compiled graphs: graph by graph beside the simulated NPU, then the logits.
//!
//! Random codes show that the chip computes what it should; they do not show what that is worth. So the same prompt runs
//! on the simulated NPU, whose inputs of every graph also go through the chip's, and then on the chip alone.

use super::{
    CompiledModel,
    selftest::{SelftestStep, compare, execute},
};
use crate::{
    Engine, EngineOptions, Model, NpuChoice, RuntimeError, ScheduleChoice,
    npu::{NpuBackend, OpenNpu, QnnChoice, SimBackend},
    prefill::{LogitsWanted, PrefillOptions},
};
use coexec_model::{SplitMix64, TokenId};
use coexec_npu::{
    Bindings, Completion, ContextSpec, DeviceProfile, GraphId, NpuContext, NpuDevice, NpuError, Placement, Ticket,
    decoder::Activation,
};
use coexec_scheduler::CancelToken;
use parking_lot::Mutex;
use serde::Serialize;
use std::{path::Path, sync::Arc, time::Duration};

/// What runs when nobody gives a text.
const TEXT: &str = "The old harbour town had two bridges, one of stone and one of iron, and everybody agreed that the stone \
    one was older. In the spring of 1871 a flood took the iron bridge, and the council met to decide what it would cost to \
    build another: about 12,400 crowns, said the engineer, if the work began before June. A fisherman asked whether the river \
    would not simply take that one too. \"It might,\" she said, \"but not before you have crossed it.\" So they voted, seven \
    against five, and the new bridge still stands; children walk over it to school every morning, and count the boats below.";

/// How a prompt fared on one chunk length's graphs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptCheck {
    /// Chunk length, and the prompt's tokens.
    pub chunk_len: usize,
    /// Graphs that ran on real activations.
    pub graphs: usize,
    /// Of those, graphs with outputs bit-equal to the simulated NPU's.
    pub equal: usize,
    /// Largest difference as a share of what is allowed.
    pub worst_share: f64,
    /// Graph with that difference.
    pub worst_graph: String,
    /// Whether all logits are bit-equal to the simulated NPU's.
    pub logits_equal: bool,
    /// Mean divergence of the next token's distribution from the simulated NPU's, in nats.
    pub mean_kl: f64,
    /// Share of the positions where the likeliest next token is the same.
    pub same_top: f64,
    /// Whether it passes: all graphs within what is allowed, divergence below 0.01.
    pub passed: bool,
}

/// Largest mean divergence that passes: what a step of rounding here and there costs, and no more.
const MOST_KL: f64 = 0.01;

/// The tokens of a prompt of `len`: of a text, again and again, or drawn where the model has no tokenizer.
fn tokens(model: &Model, text: Option<&str>, len: usize) -> Result<Vec<TokenId>, RuntimeError> {
    let ids = match model.tokenizer() {
        Some(tokenizer) => tokenizer.encode(text.unwrap_or(TEXT), crate::text::Special::AddBos)?,
        None => {
            let mut random = SplitMix64::new(1);
            let token = |_| TokenId((random.next_u64() % u64::from(model.config().vocab_size)) as u32);
            (0..len).map(token).collect()
        }
    };
    if ids.is_empty() {
        return Err(RuntimeError::EmptyPrompt);
    }
    Ok(ids.into_iter().cycle().take(len).collect())
}

/// Where the compiled model and the library are, and what the prompt says.
#[derive(Clone, Copy)]
pub(super) struct Prompted<'a> {
    pub(super) dir: &'a Path,
    pub(super) library_dir: Option<&'a Path>,
    pub(super) text: Option<&'a str>,
}

/// Runs a prompt of each chunk length; `Err(reason)` inside when these graphs are not what prompts run on.
///
/// # Errors
/// The device's, the model's; [`RuntimeError::Cancelled`].
pub(super) fn check_prompt(
    model: &Model,
    compiled: &CompiledModel,
    prompted: Prompted<'_>,
    device: &Arc<dyn NpuDevice>,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(SelftestStep),
) -> Result<Result<Vec<PromptCheck>, &'static str>, RuntimeError> {
    let Prompted { dir, library_dir, text } = prompted;
    let o = &compiled.options;
    if o.placement != Placement::Split || o.activation == Activation::F16 || o.layers.is_some() {
        return Ok(Err("prompts run on split graphs in u8 or u16 of all layers"));
    }
    let Some(schedule) = o.schedule_of(model) else { return Ok(Err("the model is not calibrated")) };
    let limit = model.config().max_position_embeddings as usize;
    let mut checks = Vec::new();
    for &chunk_len in o.chunk_lens.iter().filter(|len| **len <= limit) {
        let options = EngineOptions {
            npu: NpuChoice::Qnn,
            npu_profile: device.profile().name.clone(),
            chunk_lens: vec![chunk_len],
            schedule: ScheduleChoice::Given(schedule.clone()),
            qnn: QnnChoice {
                library_dir: library_dir.map(Path::to_owned),
                compiled_dir: Some(dir.to_owned()),
                ..QnnChoice::default()
            },
            ..EngineOptions::default()
        };
        let prompt = tokens(model, text, chunk_len)?;
        progress(SelftestStep::Prompt { chunk_len });
        let run = |engine: &Engine| {
            let options = PrefillOptions { logits: LogitsWanted::All, cancel: cancel.clone() };
            let done = engine.session().prefill(&prompt, &options)?;
            match done.ran_elsewhere.first() {
                Some(elsewhere) => Err(RuntimeError::Schedule(format!("the NPU failed: {elsewhere}"))),
                None => Ok(done.logits),
            }
        };
        let found = Arc::new(Mutex::new(PromptCheck {
            chunk_len,
            graphs: 0,
            equal: 0,
            worst_share: 0.0,
            worst_graph: String::new(),
            logits_equal: false,
            mean_kl: 0.0,
            same_top: 0.0,
            passed: false,
        }));
        let sim = SimBackend::new(&options, Arc::new(options.pool()?))?;
        let beside = Beside {
            sim,
            device: Arc::clone(device),
            compiled: compiled.clone(),
            dir: dir.to_owned(),
            found: Arc::clone(&found),
        };
        let simulated = run(&Engine::of(Arc::clone(model.file()), options.clone(), Some(Arc::new(beside)))?)?;
        let chips = run(&Engine::of(Arc::clone(model.file()), options, None)?)?;
        let mut check = found.lock().clone();
        let vocab = model.config().vocab_size as usize;
        check.logits_equal = simulated.iter().map(|v| v.to_bits()).eq(chips.iter().map(|v| v.to_bits()));
        (check.mean_kl, check.same_top) = distance(&simulated, &chips, vocab);
        check.passed = check.graphs > 0 && check.worst_share <= 1.0 && check.mean_kl <= MOST_KL;
        checks.push(check);
    }
    Ok(Ok(checks))
}

/// Mean divergence of the second's distributions from the first's, and the share of equal likeliest tokens.
fn distance(wanted: &[f32], found: &[f32], vocab: usize) -> (f64, f64) {
    let log_sum = |row: &[f32]| {
        let most = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        f64::from(most) + row.iter().map(|v| f64::from(v - most).exp()).sum::<f64>().ln()
    };
    let top = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    let (mut kl, mut same, mut rows) = (0.0, 0usize, 0usize);
    for (a, b) in wanted.chunks_exact(vocab).zip(found.chunks_exact(vocab)) {
        let (sum_a, sum_b) = (log_sum(a), log_sum(b));
        let term = |(a, b): (&f32, &f32)| {
            let (a, b) = (f64::from(*a) - sum_a, f64::from(*b) - sum_b);
            a.exp() * (a - b)
        };
        kl += a.iter().zip(b).map(term).sum::<f64>();
        same += usize::from(top(a) == top(b));
        rows += 1;
    }
    (kl / rows.max(1) as f64, same as f64 / rows.max(1) as f64)
}

/// The simulated NPU, whose every graph also runs on another device, to be compared.
struct Beside {
    sim: SimBackend,
    device: Arc<dyn NpuDevice>,
    compiled: CompiledModel,
    dir: std::path::PathBuf,
    found: Arc<Mutex<PromptCheck>>,
}

impl NpuBackend for Beside {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn is_real(&self) -> bool {
        false
    }

    fn profile(&self) -> &DeviceProfile {
        self.sim.profile()
    }

    fn open(&self, model: &Model, chunk_lens: &[usize], cancel: &CancelToken) -> Result<OpenNpu, RuntimeError> {
        let OpenNpu { contexts, device } = self.sim.open(model, chunk_lens, cancel)?;
        let is_used = |spec: &ContextSpec| {
            spec.graphs.iter().filter_map(|g| g.inputs.first()).any(|x| chunk_lens.contains(&x.rows()))
        };
        let mut chips = Vec::new();
        for context in self.compiled.contexts.iter().filter(|c| is_used(&c.manifest.spec)) {
            let bytes = context.read_binary(&self.dir)?;
            chips.push(self.device.load(&bytes, &context.manifest)?);
        }
        let chips: Arc<[Box<dyn NpuContext>]> = chips.into();
        let beside = |inner| -> Box<dyn NpuContext> {
            let (chips, device, found) = (Arc::clone(&chips), Arc::clone(&self.device), Arc::clone(&self.found));
            Box::new(BesideContext { inner, chips, device, found })
        };
        Ok(OpenNpu { contexts: contexts.into_iter().map(beside).collect(), device })
    }
}

struct BesideContext {
    inner: Box<dyn NpuContext>,
    chips: Arc<[Box<dyn NpuContext>]>,
    device: Arc<dyn NpuDevice>,
    found: Arc<Mutex<PromptCheck>>,
}

impl NpuContext for BesideContext {
    fn spec(&self) -> &ContextSpec {
        self.inner.spec()
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        self.inner.graph(name)
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.inner.submit(graph, bindings)
    }

    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.inner.wait(ticket, deadline)
    }

    fn run(&self, id: GraphId, bindings: &Bindings, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        let done = self.inner.run(id, bindings, deadline)?;
        let Some(graph) = self.spec().graphs.get(id.0 as usize) else { return Ok(done) };
        let read = |all: &[coexec_npu::NpuBuffer]| {
            all.iter().map(|b| Ok(b.read()?.to_vec())).collect::<Result<Vec<_>, NpuError>>()
        };
        let (inputs, ours) = (read(&bindings.inputs)?, read(&bindings.outputs)?);
        let Some(chip) = self.chips.iter().find(|c| c.graph(&graph.name).is_some()) else {
            return Err(NpuError::Process {
                process: graph.name.clone(),
                reason: "no compiled context has this graph; compile the model again".to_owned(),
            });
        };
        let theirs = execute(&*self.device, &**chip, graph, &inputs, 1).map_err(|e| match e {
            RuntimeError::Npu(e) => *e,
            e => NpuError::Process { process: graph.name.clone(), reason: e.to_string() },
        })?;
        let (equal, worst, allowed) = compare(graph, &theirs.outputs, &ours);
        let mut found = self.found.lock();
        found.graphs += 1;
        found.equal += usize::from(equal);
        if found.worst_graph.is_empty() || worst / allowed > found.worst_share {
            found.worst_share = worst / allowed;
            found.worst_graph.clone_from(&graph.name);
        }
        Ok(done)
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        self.inner.serialize()
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_compared_row_by_row() {
        let (kl, same) = distance(&[1.0, 2.0, 3.0, 0.0], &[1.0, 2.0, 3.0, 0.0], 2);
        assert_eq!((kl, same), (0.0, 1.0));
        // A constant added to all logits of a row changes nothing.
        let (kl, same) = distance(&[1.0, 2.0], &[11.0, 12.0], 2);
        assert!(kl.abs() < 1e-6 && same == 1.0, "{kl}");
        // Halves against a quarter and three quarters, the likeliest token another one in one row of two.
        let (kl, same) = distance(&[0.0, 0.0, 5.0, 0.0], &[0.0, 3f32.ln(), 5.0, 0.0], 2);
        let wanted = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl - wanted / 2.0).abs() < 1e-6 && same == 0.5, "{kl} {same}");
    }
}
