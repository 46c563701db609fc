//! What shadow did in a prefill and what it cost: values, channels, bytes, time, and the NPU's waiting for it.

use super::plan::{PrefillPlan, Stage};
use coexec_cpu::Residuals;
use coexec_scheduler::{Processor, RunReport};
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// The shadow of one prefill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShadowWork {
    /// Activations that were corrected.
    pub corrected: u64,
    /// Input channels that were read for it, counted once per linear and chunk.
    pub channels: u64,
    /// Bytes of float rows in memory that were read.
    pub hot_bytes: u64,
    /// Bytes of packed weights that were read instead.
    pub cold_bytes: u64,
    /// Time of all shadow tasks, one after another.
    pub time_ns: u64,
    /// Time in which the NPU had nothing to do while one of its results waited for its shadow.
    pub npu_stall_ns: u64,
}

/// Counts while tasks run.
#[derive(Debug, Default)]
pub(crate) struct ShadowCounters {
    corrected: AtomicU64,
    channels: AtomicU64,
    hot_bytes: AtomicU64,
    cold_bytes: AtomicU64,
}

impl ShadowCounters {
    /// A linear of a chunk: its residuals, over `k` input channels.
    pub(crate) fn linear(&self, residuals: &Residuals, k: usize) {
        let mut seen = vec![false; k];
        let mut channels = 0;
        for channel in &residuals.channel {
            if let Some(seen) = seen.get_mut(*channel as usize) {
                channels += u64::from(!std::mem::replace(seen, true));
            }
        }
        self.corrected.fetch_add(residuals.len() as u64, Ordering::Relaxed);
        self.channels.fetch_add(channels, Ordering::Relaxed);
    }

    /// Rows that were read.
    pub(crate) fn rows(&self, hot_bytes: usize, cold_bytes: usize) {
        self.hot_bytes.fetch_add(hot_bytes as u64, Ordering::Relaxed);
        self.cold_bytes.fetch_add(cold_bytes as u64, Ordering::Relaxed);
    }

    /// Everything, with the times of the finished run.
    pub(crate) fn finish(self, plan: &PrefillPlan, report: &RunReport) -> ShadowWork {
        let (time_ns, npu_stall_ns) = times(plan, report);
        ShadowWork {
            corrected: self.corrected.into_inner(),
            channels: self.channels.into_inner(),
            hot_bytes: self.hot_bytes.into_inner(),
            cold_bytes: self.cold_bytes.into_inner(),
            time_ns,
            npu_stall_ns,
        }
    }
}

/// Time of shadow tasks, and the NPU's idle time during which a finished linear waited for its shadow.
fn times(plan: &PrefillPlan, report: &RunReport) -> (u64, u64) {
    let (mut linears, mut shadows, mut time_ns) = (HashMap::new(), Vec::new(), 0);
    for event in &report.events {
        let task = plan.tasks[event.task.index()];
        match task.stage {
            Stage::Linear(kind) => {
                linears.insert((kind, task.layer, task.chunk), event.end_ns);
            }
            Stage::Shadow(kind) => {
                time_ns += event.end_ns - event.start_ns;
                shadows.push(((kind, task.layer, task.chunk), event.end_ns));
            }
            _ => {}
        }
    }
    // From the end of a linear to the end of its shadow, overlaps counted once.
    let mut waits: Vec<(u64, u64)> = shadows
        .into_iter()
        .filter_map(|(key, end_ns)| Some((*linears.get(&key)?, end_ns)).filter(|(from, to)| from < to))
        .collect();
    waits.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in waits {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    let overlap = |from: u64, to: u64| merged.iter().map(|w| w.1.min(to).saturating_sub(w.0.max(from))).sum::<u64>();
    let stall_ns = report.idle_gaps(Processor::Npu).iter().map(|gap| overlap(gap.start_ns, gap.end_ns)).sum();
    (time_ns, stall_ns)
}
