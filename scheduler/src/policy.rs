//! The seam between deciding and running: a policy picks, somebody else starts.
//!
//! Called by the driver (under its lock, so keep it to microseconds), the simulator and tests.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::graph::TaskGraph;
use crate::policies::{CriticalPath, InOrder, NpuStall, Staggered};
use crate::state::State;
use crate::task::{Processor, TaskId};

/// Decides which task a free processor starts next.
///
/// Contract: `pick` is a pure function of its arguments (same state, same answer; no clock, no randomness, no memory). It
/// is asked only when `state.can_serve(processor)`. It returns a task of [`State::startable`] or `None`, "wait"; a task
/// that cannot start ends the run with an error that names the policy. When nothing runs and it answers `None` for both
/// processors the run is stuck, which is an error too: a policy may wait only for something that runs.
pub trait Policy: Sync {
    /// Its name on the command line and in traces.
    fn name(&self) -> &'static str;

    /// The task to start now on `processor`, or `None` to wait for the next completion.
    fn pick(&self, state: &State<'_>, processor: Processor) -> Option<TaskId>;
}

/// The policies that come with this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// [`InOrder`]: naive overlap, the baseline.
    InOrder,
    /// [`NpuStall`]: the paper's Eq. 5.
    NpuStall,
    /// [`CriticalPath`]: longest remaining path first.
    CriticalPath,
    /// [`Staggered`]: critical path with the chunks kept out of step; the best known.
    #[default]
    Staggered,
}

impl PolicyKind {
    /// All of them, the baseline first.
    pub const ALL: [Self; 4] = [Self::InOrder, Self::NpuStall, Self::CriticalPath, Self::Staggered];

    /// Its name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::NpuStall => "npu-stall",
            Self::CriticalPath => "critical-path",
            Self::Staggered => "staggered",
        }
    }

    /// The policy itself.
    pub fn create(self) -> Box<dyn Policy + Send> {
        match self {
            Self::InOrder => Box::new(InOrder),
            Self::NpuStall => Box::new(NpuStall::default()),
            Self::CriticalPath => Box::new(CriticalPath),
            Self::Staggered => Box::new(Staggered::default()),
        }
    }

    /// The policy itself, tuned to `graph` where it has settings ([`Staggered::tuned`]: some ms).
    pub fn create_for(self, graph: &TaskGraph, cpu_workers: u16) -> Box<dyn Policy + Send> {
        match self {
            Self::Staggered => Box::new(Staggered::tuned(graph, cpu_workers)),
            other => other.create(),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no policy's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown policy `{given}`; use one of: in-order, npu-stall, critical-path, staggered")]
pub struct ParsePolicyError {
    /// What was given.
    pub given: String,
}

impl FromStr for PolicyKind {
    type Err = ParsePolicyError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == s).ok_or_else(|| ParsePolicyError { given: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.name().parse::<PolicyKind>(), Ok(kind));
            assert_eq!(kind.create().name(), kind.name());
        }
    }

    #[test]
    fn unknown_name_lists_the_known_ones() {
        let message = "fifo".parse::<PolicyKind>().unwrap_err().to_string();
        for kind in PolicyKind::ALL {
            assert!(message.contains(kind.name()), "{message}");
        }
    }
}
