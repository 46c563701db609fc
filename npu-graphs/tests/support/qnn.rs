//! Qualcomm's library for tests: there, or a counted skip.

use coexec_npu::{NpuError, QnnDevice, QnnOptions};

/// A device of this chip; `None`, with a skip that `cargo xtask test` counts, where the library is not.
pub fn device(test: &str, chip: &str) -> Option<QnnDevice> {
    device_with(test, QnnOptions::chip(chip))
}

/// The same with options.
pub fn device_with(test: &str, options: QnnOptions) -> Option<QnnDevice> {
    match QnnDevice::open(options) {
        Ok(device) => Some(device),
        Err(NpuError::Library(qnn_sys::LoadError::NotFound { .. })) => {
            skip(test, "Qualcomm's library is not here; `cargo xtask qnn` gets it");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Prints a skip and leaves it where `cargo xtask test` counts it.
pub fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // One write: other tests write at the same time.
        let line = format!("{test}: {reason}\n");
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the skip log can be written");
    }
}

/// Resident memory of this process in bytes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb << 10)
}
