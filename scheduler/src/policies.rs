//! The policies, one per file. Each is pure and breaks its last ties by program order, so each is deterministic.

mod critical_path;
mod in_order;
mod npu_stall;
mod staggered;

pub use critical_path::CriticalPath;
pub use in_order::InOrder;
pub use npu_stall::{NpuStall, Unlocked};
pub use staggered::Staggered;
