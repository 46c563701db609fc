//! Task graph, policies, threaded driver, virtual-clock simulator, bounds and traces; knows no tensors.
//!
//! A [`TaskGraph`] says which tasks there are, on which [`Processor`] each runs, what it waits for and which counted
//! resources it holds. A [`Policy`] decides which ready task a free processor starts next; it is pure, so the very same
//! policy runs on threads ([`Driver`]) and on a virtual clock ([`simulate`]). Both return a [`RunReport`], from which
//! [`write_chrome_trace`] and [`write_timeline_svg`] draw pictures. [`bounds`] says how far from the best possible a run is.
//!
//! ```
//! use coexec_scheduler::{GraphBuilder, Label, PolicyKind, Processor, Task, simulate};
//!
//! let mut builder = GraphBuilder::new();
//! let norm = builder.add_task(Task::new(Processor::Cpu, 2_000, Label::new("norm_quant")).lanes(2));
//! let qkv = builder.add_task(Task::new(Processor::Npu, 5_000, Label::new("qkv").layer(0).chunk(0)));
//! builder.add_edge(norm, qkv);
//! let graph = builder.build()?;
//!
//! let policy = PolicyKind::CriticalPath.create();
//! let report = simulate(&graph, policy.as_ref(), &|task| graph.task(task).cost_ns, 2)?;
//! assert_eq!(report.makespan_ns, 1_000 + 5_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The protocol of the threaded driver, and why it cannot deadlock, is in `README.md` beside this crate's manifest.
#![forbid(unsafe_code)]

pub mod bounds;
mod cancel;
mod driver;
mod graph;
mod policies;
mod policy;
mod report;
mod simulate;
mod state;
pub mod synthetic;
mod task;
mod timeline;
mod trace;

pub use cancel::CancelToken;
pub use driver::{Driver, Executor, RunError};
pub use graph::{GraphBuilder, GraphError, TaskGraph};
pub use policies::{CriticalPath, InOrder, NpuStall, Staggered, Unlocked};
pub use policy::{ParsePolicyError, Policy, PolicyKind};
pub use report::{Clock, Event, IdleGap, RunReport};
pub use simulate::{SimulateError, duration_ns, simulate};
pub use state::{Running, State, TaskStatus};
pub use task::{Label, Processor, ResourceId, Task, TaskId};
pub use timeline::{ColourBy, TimelineOptions, write_timeline_svg};
pub use trace::{SimulatedProfile, TraceMeta, write_chrome_trace};
