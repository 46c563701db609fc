//! Failures that the simulated device injects, counted over all contexts of the device so that a retry can succeed.

use std::sync::atomic::{AtomicU64, Ordering};

/// A failure of the nth `prepare` or `load` (from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareFault {
    /// Which call, from 0.
    pub nth: u64,
    /// QNN error code to answer, e.g. 1002, 4000, 5000, 14001.
    pub code: u32,
}

/// What goes wrong with a submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitFault {
    /// The subsystem restarts: this and every other context of the device is dead, a fresh one works.
    Lost,
    /// The graph ends with this error code; the context lives on.
    Code(u32),
    /// The graph never ends.
    Hang,
}

/// The failures to inject. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Failures of `prepare` and `load`.
    pub prepare: Vec<PrepareFault>,
    /// Failures of submits: which one (from 0), and how.
    pub submit: Vec<(u64, SubmitFault)>,
}

#[derive(Debug)]
pub(super) struct FaultState {
    plan: FaultPlan,
    prepares: AtomicU64,
    submits: AtomicU64,
}

impl FaultState {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, prepares: AtomicU64::new(0), submits: AtomicU64::new(0) }
    }

    /// Counts a prepare; the code it shall fail with.
    pub(super) fn next_prepare(&self) -> Option<u32> {
        let nth = self.prepares.fetch_add(1, Ordering::Relaxed);
        self.plan.prepare.iter().find(|f| f.nth == nth).map(|f| f.code)
    }

    /// Counts a submit; how it shall fail.
    pub(super) fn next_submit(&self) -> Option<SubmitFault> {
        let nth = self.submits.fetch_add(1, Ordering::Relaxed);
        self.plan.submit.iter().find(|(n, _)| *n == nth).map(|(_, f)| *f)
    }
}
