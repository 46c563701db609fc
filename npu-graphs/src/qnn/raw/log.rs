//! Lines of the library's log: to `tracing`, and the last errors into a ring, because QNN's codes say little (every
//! failed preparation is code 1002) and the reason is only in the log.

use parking_lot::Mutex;
use qnn_sys::QnnLog_Level_t;
use std::{
    collections::VecDeque,
    ffi::{c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    thread::ThreadId,
};

/// Error lines kept.
const KEPT: usize = 64;
/// Of those, lines quoted in an error: the first ones name the op, the last only say that something failed.
const QUOTED: usize = 6;
/// What every finalize of QNN 2.51 reports as an error without consequence.
const HARMLESS: &str = "unexpected GraphHtpSettings option 66";

/// The callback of QNN has no user data, so there is one ring in the process.
static RING: Mutex<Ring> = Mutex::new(Ring { next: 0, lines: VecDeque::new() });

struct Ring {
    /// Number of the next line.
    next: u64,
    lines: VecDeque<Line>,
}

struct Line {
    number: u64,
    thread: ThreadId,
    text: String,
}

/// A moment in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

/// Now.
pub(super) fn mark() -> Mark {
    Mark(RING.lock().next)
}

/// The first error lines since then: those of this thread, or of any when it has none (contexts are made on
/// several threads at a time).
pub(super) fn errors_since(mark: Mark) -> Option<String> {
    let ring = RING.lock();
    let here = std::thread::current().id();
    let since = || ring.lines.iter().filter(|line| line.number >= mark.0);
    let mut lines: Vec<_> = since().filter(|line| line.thread == here).take(QUOTED).collect();
    if lines.is_empty() {
        lines = since().take(QUOTED).collect();
    }
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join(" | "))
}

fn record(level: QnnLog_Level_t, line: &str) {
    let line = line.trim();
    match level {
        QnnLog_Level_t::QNN_LOG_LEVEL_ERROR if line.contains(HARMLESS) => tracing::debug!(target: "qnn", "{line}"),
        QnnLog_Level_t::QNN_LOG_LEVEL_ERROR => {
            {
                let mut ring = RING.lock();
                let number = ring.next;
                ring.next += 1;
                if ring.lines.len() == KEPT {
                    ring.lines.pop_front();
                }
                let thread = std::thread::current().id();
                ring.lines.push_back(Line { number, thread, text: line.to_owned() });
            }
            // Whether it is an error for the caller is for the call that fails to say.
            tracing::warn!(target: "qnn", "{line}");
        }
        QnnLog_Level_t::QNN_LOG_LEVEL_WARN => tracing::info!(target: "qnn", "{line}"),
        QnnLog_Level_t::QNN_LOG_LEVEL_INFO => tracing::debug!(target: "qnn", "{line}"),
        _ => tracing::trace!(target: "qnn", "{line}"),
    }
}

/// QNN's log callback. Called on any thread; never unwinds into C.
pub(super) unsafe extern "C" fn callback(
    format: *const c_char,
    level: QnnLog_Level_t,
    _timestamp: u64,
    args: *mut c_void,
) {
    // SAFETY: these are what QNN calls back with, not read before.
    let line = unsafe { qnn_sys::format_log(format, args) };
    // A subscriber that panics must not unwind through C frames; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| record(level, &line)));
}
