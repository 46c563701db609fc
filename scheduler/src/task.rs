//! What one task is: ids, processor, label, costs and the resources it holds.
//!
//! Plain data, no invariants of its own; [`GraphBuilder::build`](crate::GraphBuilder::build) checks a whole graph.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A task of one graph: its index in the order in which tasks were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The id as an index into a slice with one entry per task.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A counted resource of one graph, in the order in which resources were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId(pub u16);

impl ResourceId {
    /// The id as an index into a slice with one entry per resource.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Processor {
    /// The NPU: one task at a time (paper Eq. 4).
    Npu,
    /// The CPU: as many tasks at a time as there are free lanes.
    Cpu,
}

impl Processor {
    /// Both processors, NPU first: the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Npu, Self::Cpu];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Npu => 0,
            Self::Cpu => 1,
        }
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Npu => "NPU",
            Self::Cpu => "CPU",
        })
    }
}

/// What a task is called in messages, traces and pictures. Displays as `qkv L3 C1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The stage's name: `qkv`, `attend`, …
    pub stage: Cow<'static, str>,
    /// The layer, counted from 0; `None` for what belongs to no layer (embedding, head).
    pub layer: Option<u32>,
    /// The chunk of the prompt, counted from 0.
    pub chunk: Option<u32>,
}

impl Label {
    /// A label with neither layer nor chunk.
    pub fn new(stage: impl Into<Cow<'static, str>>) -> Self {
        Self { stage: stage.into(), layer: None, chunk: None }
    }

    /// The same label, in `layer`.
    #[must_use]
    pub fn layer(mut self, layer: u32) -> Self {
        self.layer = Some(layer);
        self
    }

    /// The same label, for `chunk`.
    #[must_use]
    pub fn chunk(mut self, chunk: u32) -> Self {
        self.chunk = Some(chunk);
        self
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        if let Some(layer) = self.layer {
            write!(f, " L{layer}")?;
        }
        if let Some(chunk) = self.chunk {
            write!(f, " C{chunk}")?;
        }
        Ok(())
    }
}

/// One stage of one layer of one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Where it runs.
    pub processor: Processor,
    /// The most CPU workers it can use, at least 1. Means nothing for NPU tasks.
    pub lanes: u16,
    /// Expected time in ns: of an NPU task as it runs, of a CPU task on *one* lane.
    pub cost_ns: u64,
    /// Changes of resource levels. A positive one is acquired when the task starts (it cannot start when that would pass
    /// the limit), a negative one is given back when the task completes. `(r, +1), (r, -1)` holds `r` while it runs.
    pub resources: Vec<(ResourceId, i32)>,
    /// What it is called.
    pub label: Label,
}

impl Task {
    /// A task with one lane and no resources.
    pub fn new(processor: Processor, cost_ns: u64, label: Label) -> Self {
        Self { processor, lanes: 1, cost_ns, resources: Vec::new(), label }
    }

    /// The same task, able to use `lanes` CPU workers.
    #[must_use]
    pub fn lanes(mut self, lanes: u16) -> Self {
        self.lanes = lanes;
        self
    }

    /// The same task, with one more change of a resource's level.
    #[must_use]
    pub fn resource(mut self, resource: ResourceId, delta: i32) -> Self {
        self.resources.push((resource, delta));
        self
    }
}
