//! Skips that are counted.

use std::io::Write as _;

/// Prints a skip and leaves it where `cargo xtask test` counts it.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        writeln!(file.expect("the skip log can be written"), "{test}: {reason}").expect("the skip log can be written");
    }
}
