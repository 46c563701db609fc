//! Which NPU an engine uses now. Static graphs stay open between prompts; after a failure of the device they are made anew
//! once, and when that does not help the engine steps down to the next NPU, last to the CPU, and stays there.
//!
//! A prompt holds a [`Lease`] while it runs. Graphs are opened and dropped only while nobody holds one, so that new graphs
//! never compete with lost ones for the device's memory.

use super::{Chosen, NpuBackend, PreparedNpu, marker};
use crate::{EngineOptions, Model, RuntimeError};
use coexec_npu::NpuError;
use coexec_scheduler::CancelToken;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;

/// What reports call the end of the line.
const CPU: &str = "the CPU";
/// Failures of one NPU during one prompt after which it is given up.
const GIVE_UP_AFTER: u32 = 2;

/// The NPUs of an engine, best first, and the one in use.
pub(crate) struct Npus {
    backends: Vec<Arc<dyn NpuBackend>>,
    /// Whether the first was asked for by name: that it cannot be opened is then the caller's error.
    explicit: bool,
    /// Held for moments only.
    current: Mutex<Current>,
    /// Shared by prompts that run, alone by who opens or drops graphs.
    gate: RwLock<()>,
}

struct Current {
    /// Index of the NPU in use; past the last one it is the CPU.
    tier: usize,
    reason: String,
    prepared: Option<Arc<PreparedNpu>>,
    /// Steps down that no prompt has reported yet.
    untold: Vec<String>,
}

/// The right of a prompt to run on an NPU (or on the CPU) until dropped.
pub(crate) struct Lease<'a> {
    tier: usize,
    // Goes before the gate opens.
    npu: Option<Arc<PreparedNpu>>,
    _gate: Option<RwLockReadGuard<'a, ()>>,
}

impl Lease<'_> {
    /// The static graphs; `None` on the CPU.
    pub(crate) fn npu(&self) -> Option<&PreparedNpu> {
        self.npu.as_deref()
    }

    /// Which of the engine's NPUs it is; the number of NPUs for the CPU.
    pub(crate) fn tier(&self) -> usize {
        self.tier
    }
}

/// What went wrong with NPUs during one prompt.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    first_tier: Option<usize>,
    /// The NPU that failed last, and how often.
    failed: (usize, u32),
    causes: Vec<String>,
}

impl Trouble {
    /// Every failure, in order.
    pub(crate) fn into_causes(self) -> Vec<String> {
        self.causes
    }

    /// Books a failure; how many of this NPU that makes.
    fn book(&mut self, tier: usize, name: &str, error: &RuntimeError) -> u32 {
        tracing::warn!(npu = name, error = %error, "the NPU failed");
        self.causes.push(error.to_string());
        let times = if self.failed.0 == tier { self.failed.1 } else { 0 };
        self.failed = (tier, times + 1);
        times + 1
    }
}

impl Npus {
    /// The NPUs chosen for an engine. When none was asked for by name, real ones that took their process down are left out.
    pub(crate) fn new(chosen: Chosen, options: &EngineOptions) -> Self {
        let Chosen { mut backends, mut reason } = chosen;
        let explicit = options.npu.is_by_name();
        if let Some(dir) = options.state_dir.as_deref().filter(|_| !explicit) {
            backends.retain(|b| {
                let crashed = if b.is_real() { marker::crash_report(dir, b.name()) } else { None };
                if let Some(report) = &crashed {
                    tracing::warn!(npu = b.name(), report, "an NPU is left out");
                    reason = format!("auto: {} is left out: {report}", b.name());
                }
                crashed.is_none()
            });
        }
        let current = Current { tier: 0, reason, prepared: None, untold: Vec::new() };
        Self { backends, explicit, current: Mutex::new(current), gate: RwLock::new(()) }
    }

    /// The NPU in use; `None` on the CPU.
    pub(crate) fn backend(&self) -> Option<&Arc<dyn NpuBackend>> {
        self.backends.get(self.current.lock().tier)
    }

    /// Why that one.
    pub(crate) fn reason(&self) -> String {
        self.current.lock().reason.clone()
    }

    /// Bytes that the open graphs hold.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.look().1.map_or(0, |npu| npu.memory_bytes())
    }

    fn name(&self, tier: usize) -> &'static str {
        self.backends.get(tier).map_or(CPU, |b| b.name())
    }

    /// What is in use and open.
    fn look(&self) -> (usize, Option<Arc<PreparedNpu>>) {
        let current = self.current.lock();
        (current.tier, current.prepared.clone())
    }

    /// Waits until nobody changes NPUs, and gives the one in use, open. Steps down past those that cannot be opened.
    ///
    /// # Errors
    /// When the NPU that was asked for by name cannot be opened for a prompt that has not begun to run;
    /// [`RuntimeError::Cancelled`] while one is opened.
    pub(crate) fn lease(
        &self,
        model: &Model,
        options: &EngineOptions,
        cancel: &CancelToken,
        trouble: &mut Trouble,
    ) -> Result<Lease<'_>, RuntimeError> {
        loop {
            let gate = self.gate.read();
            let (tier, prepared) = self.look();
            trouble.first_tier.get_or_insert(tier);
            if tier >= self.backends.len() {
                return Ok(Lease { tier, npu: None, _gate: None });
            }
            if prepared.is_some() {
                return Ok(Lease { tier, npu: prepared, _gate: Some(gate) });
            }
            drop(gate);
            let alone = self.gate.write();
            let (tier, prepared) = self.look();
            let Some(backend) = self.backends.get(tier).filter(|_| prepared.is_none()) else { continue };
            match PreparedNpu::open(backend.as_ref(), model, options, cancel) {
                Ok(opened) => {
                    let opened = Arc::new(opened);
                    self.current.lock().prepared = Some(Arc::clone(&opened));
                    let gate = RwLockWriteGuard::downgrade(alone);
                    return Ok(Lease { tier, npu: Some(opened), _gate: Some(gate) });
                }
                Err(error) => self.could_not_open(tier, error, trouble)?,
            }
        }
    }

    /// Books that an NPU could not be opened, and steps down where opening it again is of no use.
    fn could_not_open(&self, tier: usize, error: RuntimeError, trouble: &mut Trouble) -> Result<(), RuntimeError> {
        let asked_for = self.explicit && tier == 0 && trouble.causes.is_empty();
        // What is wrong with the model's file is wrong everywhere.
        let damaged = matches!(&error, RuntimeError::Npu(e) if matches!(**e, NpuError::Weights { .. }));
        if asked_for || damaged || matches!(error, RuntimeError::Cancelled) {
            return Err(error);
        }
        let times = trouble.book(tier, self.name(tier), &error);
        if times >= GIVE_UP_AFTER || !error.is_device_failure() {
            self.step_down(tier, &error);
        }
        Ok(())
    }

    /// Books a failure of the device while a prompt ran and drops its graphs. The next lease opens them anew, or after the
    /// second failure is one on the next NPU.
    pub(crate) fn failed(&self, lease: Lease<'_>, error: &RuntimeError, trouble: &mut Trouble) {
        let Lease { tier, npu, _gate: gate } = lease;
        drop(gate);
        let times = trouble.book(tier, self.name(tier), error);
        // Others that run on the same graphs end first: well, or with an error of their own.
        let _alone = self.gate.write();
        let mut current = self.current.lock();
        let same = match (&current.prepared, &npu) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let lost = if same { current.prepared.take() } else { None };
        drop(current);
        drop((lost, npu));
        if times >= GIVE_UP_AFTER {
            self.step_down(tier, error);
        }
    }

    fn step_down(&self, tier: usize, error: &RuntimeError) {
        let mut current = self.current.lock();
        if current.tier != tier {
            return;
        }
        current.tier = tier + 1;
        current.reason = format!("{} was given up: {error}", self.name(tier));
        let graphs = current.prepared.take();
        drop(current);
        drop(graphs);
        tracing::warn!(from = self.name(tier), to = self.name(tier + 1), "prefill runs elsewhere from now on");
    }

    /// What a prompt that ended on `tier` has to say about where it ran, with what was left over from before.
    pub(crate) fn ran_elsewhere(&self, tier: usize, trouble: &Trouble) -> Vec<String> {
        let mut told = std::mem::take(&mut self.current.lock().untold);
        told.extend(self.moved(tier, trouble));
        told
    }

    fn moved(&self, tier: usize, trouble: &Trouble) -> Option<String> {
        let first = trouble.first_tier.filter(|first| *first != tier)?;
        let why = trouble.causes.join("; then ");
        let why = if why.is_empty() { self.reason() } else { why };
        Some(format!("prefill ran on {} instead of {}: {why}", self.name(tier), self.name(first)))
    }

    /// Keeps what [`Self::ran_elsewhere`] would say for the next prompt: `trouble` came up before it.
    pub(crate) fn tell_later(&self, lease: &Lease<'_>, trouble: &Trouble) {
        if let Some(text) = self.moved(lease.tier, trouble) {
            self.current.lock().untold.push(text);
        }
    }
}
