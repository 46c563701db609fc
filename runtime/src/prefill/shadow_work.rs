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
    /// Activations of linears without shadow that their codes clipped: nobody put back what was lost.
    pub uncorrected: u64,
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
    uncorrected: AtomicU64,
    channels: AtomicU64,
    hot_bytes: AtomicU64,
    cold_bytes: AtomicU64,
}

impl ShadowCounters {
    /// What codes of a linear's input clipped, and whether it has a shadow.
    pub(crate) fn clipped(&self, residuals: &Residuals, has_shadow: bool) {
        let count = if has_shadow { &self.corrected } else { &self.uncorrected };
        count.fetch_add(residuals.len() as u64, Ordering::Relaxed);
    }

    /// Channels of a linear that are read for all tokens of a chunk.
    pub(crate) fn channels(&self, channels: usize) {
        self.channels.fetch_add(channels as u64, Ordering::Relaxed);
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
            uncorrected: self.uncorrected.into_inner(),
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
    let gaps: Vec<(u64, u64)> = report.idle_gaps(Processor::Npu).iter().map(|gap| (gap.start_ns, gap.end_ns)).collect();
    (time_ns, overlap(&gaps, &merged))
}

/// Time that is in spans of both lists; each list is in order and its spans do not meet.
fn overlap(a: &[(u64, u64)], b: &[(u64, u64)]) -> u64 {
    let (mut i, mut j, mut sum) = (0, 0, 0);
    while let (Some(a), Some(b)) = (a.get(i), b.get(j)) {
        sum += a.1.min(b.1).saturating_sub(a.0.max(b.0));
        // The one that ends first meets nothing further on.
        if a.1 < b.1 { i += 1 } else { j += 1 }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn overlaps_are_counted_once() {
        let (a, b) = ([(0, 10), (20, 30), (40, 50)], [(5, 25), (26, 28), (45, 60), (70, 80)]);
        assert_eq!((overlap(&a, &b), overlap(&b, &a)), (5 + 5 + 2 + 5, 17));
        assert_eq!((overlap(&a, &[]), overlap(&a, &a), overlap(&[(10, 20)], &a)), (0, 30, 0));
    }
}
