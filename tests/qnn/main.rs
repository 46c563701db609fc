//! The real NPU's library as a user meets it: compile, run, selftest, doctor; damage and mismatch found before it is used.
//!
//! Needs Qualcomm's library (`cargo xtask qnn`); without it the tests are counted as skipped.

mod cache;
mod compiler;
mod doctor;
mod equality;
mod estimate;
mod refusals;
#[path = "../support/mod.rs"]
mod support;

use coexec::npu::qnn::library_places;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
};
use support::skip;

/// Whether the library is here; a test without it is counted as skipped.
fn library(test: &str) -> bool {
    let is_there = library_places(None).iter().any(|p| p.is_there);
    if !is_there {
        skip(test, "no QNN library; `cargo xtask qnn` gets it");
    }
    is_there
}

fn coexec(cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coexec"))
        .args(args)
        .env_remove("COEXEC_LOG")
        .env("COEXEC_CACHE_DIR", cache)
        .stdin(Stdio::null())
        .output()
        .expect("coexec starts")
}

fn ok(cache: &Path, args: &[&str]) -> String {
    let out = coexec(cache, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Asserts exit code 1 and a last line of error that contains every word.
fn fails(cache: &Path, args: &[&str], words: &[&str]) {
    fails_with(1, cache, args, words);
}

/// Asserts exit code 2, of wrong arguments, and a last line of error that contains every word.
fn refuses(cache: &Path, args: &[&str], words: &[&str]) {
    fails_with(2, cache, args, words);
}

fn fails_with(code: i32, cache: &Path, args: &[&str], words: &[&str]) {
    let out = coexec(cache, args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    let error = stderr.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: "), "{args:?}: {stderr}");
    for word in words {
        assert!(error.contains(word), "{args:?}: `{word}` is not in {error}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}
