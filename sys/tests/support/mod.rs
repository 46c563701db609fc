//! Skips that are counted.

use std::io::Write as _;

/// Prints a skip and leaves it where `cargo xtask test` counts it.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // One write: other tests write at the same time.
        let line = format!("{test}: {reason}\n");
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the skip log can be written");
    }
}
