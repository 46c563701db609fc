//! An NPU in another process: a crash of the driver or of Qualcomm's library costs that process and not this one.
//!
//! ```text
//! RemoteDevice --start--> child: serve_stdio --open--> any NpuDevice
//!      | load, submit  ==frames==>   one thread per context
//!      '--> NpuContext <==frames==   results, errors as data
//! ```
//!
//! * [`RemoteDevice`] starts a program and is an [`crate::NpuDevice`] that can `load` but not `prepare`.
//! * [`serve`] is the other side, for any device; [`serve_stdio`] on the standard streams, [`open_qnn`] with Qualcomm's NPU.
//! * Input and output buffers travel as copies in frames (`protocol`), so buffers are ordinary memory.
//! * However the child ends (signal, exit, garbage on its output, silence beyond a deadline), every call answers
//!   [`crate::NpuError::DeviceLost`] that says how. A lost child is not started again: open another device.

mod client;
mod connection;
mod protocol;
mod server;

pub use client::{RemoteContext, RemoteDevice, RemoteOptions};
pub use server::{Served, open_qnn, serve, serve_stdio};
