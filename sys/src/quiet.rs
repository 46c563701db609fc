//! Standard output held back while a library prints on it.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};
use std::{
    ffi::{c_int, c_void},
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

unsafe extern "C" {
    fn fflush(stream: *mut c_void) -> c_int;
}

/// One redirection at a time in the process.
static LOCK: Mutex<()> = Mutex::new(());

/// Runs `work` with file descriptor 1 at /dev/null.
///
/// Descriptors belong to the process: what other threads print meanwhile is lost. Where standard output is closed or
/// /dev/null cannot be opened, `work` runs without the redirection.
pub(crate) fn without_stdout<R>(work: impl FnOnce() -> R) -> R {
    let _one_at_a_time = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let _restored_on_every_path = Redirected::new().ok();
    work()
}

/// Writes out what Rust's and C's standard output hold in memory, so that it goes where the descriptor points now.
fn flush() {
    // A closed pipe is for the writers to notice.
    let _ = io::stdout().flush();
    // SAFETY: fflush with null flushes every output stream of C's library; it takes no other argument.
    unsafe { fflush(std::ptr::null_mut()) };
}

struct Redirected {
    original: OwnedFd,
}

impl Redirected {
    fn new() -> io::Result<Self> {
        let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let original = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        flush();
        rustix::stdio::dup2_stdout(&null)?;
        Ok(Self { original })
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        flush();
        // Only a process out of its senses has no descriptor 1 to replace; there is nobody to tell.
        let _ = rustix::stdio::dup2_stdout(&self.original);
    }
}
