#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("qnn-sys binds the 64-bit ABI of QNN; Hexagon NPUs that run language models have 64-bit hosts");

#[cfg(not(unix))]
compile_error!("qnn-sys loads libraries as Unix does (Linux, Android)");

#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    missing_debug_implementations,
    clippy::undocumented_unsafe_blocks,
    clippy::all,
    reason = "generated, with C's names"
)]
mod bindings {
    #[cfg(not(feature = "sdk-headers"))]
    include!("bindings.rs");
    #[cfg(feature = "sdk-headers")]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
mod code;
mod environment;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod find;
mod htp;
mod library;
mod log;
mod provider;
mod quiet;

pub use bindings::*;
pub use code::{ErrorInfo, describe};
pub use environment::{adsp_library_path, prepare_environment};
pub use error::LoadError;
pub use htp::{DeviceOptionLayout, SignedDomainOption, SocOption};
pub use library::{HtpLibrary, SystemLibrary};
pub use log::{LOG_LINE_BYTES, format_log};
pub use provider::{GetProviders, GetSystemProviders, ProviderInfo, Version};
