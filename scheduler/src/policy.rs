//! The seam between deciding and running: a policy picks, somebody else starts.
//!
//! Called by the driver (under its lock, so keep it to microseconds), the simulator and tests.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::policies::{CriticalPath, InOrder, NpuStall};
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
    #[default]
    CriticalPath,
}

impl PolicyKind {
    /// All of them, the baseline first.
    pub const ALL: [Self; 3] = [Self::InOrder, Self::NpuStall, Self::CriticalPath];

    /// Its name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::NpuStall => "npu-stall",
            Self::CriticalPath => "critical-path",
        }
    }

    /// The policy itself.
    pub fn create(self) -> Box<dyn Policy + Send> {
        match self {
            Self::InOrder => Box::new(InOrder),
            Self::NpuStall => Box::new(NpuStall::default()),
            Self::CriticalPath => Box::new(CriticalPath),
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
#[error("unknown policy `{given}`; use one of: in-order, npu-stall, critical-path")]
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
