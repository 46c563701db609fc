//! A flag that stops a run from another thread. The driver looks at it before it starts each task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops runs that were given a clone of it; once cancelled it stays cancelled.
///
/// No wake-up is needed: a driver thread sleeps only while some task runs, and the flag is read when that task completes.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on nothing new is started.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called on this token or a clone of it.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
