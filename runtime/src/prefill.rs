//! Prefill: a prompt cut into chunks, its layers cut into tasks, run on NPU and CPU out of order.
//!
//! [`chunks`] cuts the prompt, [`plan`] says what there is to do, [`buffers`] holds what tasks hand to each other, [`run`]
//! does it, [`ShadowWork`] counts what shadow did.

pub mod buffers;
pub mod chunks;
pub mod plan;
pub mod run;
mod shadow_work;

pub use chunks::Chunk;
pub use plan::{MAX_CHUNKS_IN_FLIGHT, Placement, PlanOptions, PrefillPlan, Stage, StageTask};
pub use run::{LogitsWanted, PrefillOptions, PrefillOutput};
pub(crate) use shadow_work::ShadowCounters;
pub use shadow_work::ShadowWork;
