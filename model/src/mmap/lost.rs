//! What happens when a page of a mapped file is lost: the file was cut short while it was in use, or its disk failed.
//!
//! The system then sends `SIGBUS` to whoever reads the page, which ends the process without a word. A program may let
//! [`report_lost_pages`] say what happened instead. A library must not do that on its own: signals belong to the process.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What is said: without a name, since nothing may be allocated or locked.
const MESSAGE: &[u8] =
    b"error: a model file was cut short or its disk failed while it was in use: put the whole file back \
                         (write it beside and rename it, never in place) and run again\n";

/// Start and end of a mapping; both 0 where there is none.
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
}

/// The mappings of this process.
static PLACES: [Place; 256] = [const { Place { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; 256];
/// There were more than fit: any page counts as one of theirs.
static MORE: AtomicBool = AtomicBool::new(false);
/// Who had the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Where a mapping is listed, as long as this lives.
#[derive(Debug)]
pub(super) struct Listed(Option<usize>);

impl Listed {
    pub(super) fn new(map: &[u8]) -> Self {
        let start = map.as_ptr().addr();
        if map.is_empty() {
            return Self(None);
        }
        let free = |place: &Place| place.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let found = PLACES.iter().position(free);
        match found {
            // Read in whole pages: a lost page is reported where it begins or anywhere in it.
            Some(at) => PLACES[at].end.store(start + map.len().next_multiple_of(1 << 16), Ordering::Release),
            None => MORE.store(true, Ordering::Relaxed),
        }
        Self(found)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(at) = self.0 {
            PLACES[at].end.store(0, Ordering::Release);
            PLACES[at].start.store(0, Ordering::Release);
        }
    }
}

fn is_ours(address: usize) -> bool {
    let inside =
        |place: &Place| place.start.load(Ordering::Acquire) <= address && address < place.end.load(Ordering::Acquire);
    MORE.load(Ordering::Relaxed) || PLACES.iter().any(inside)
}

/// From now on a lost page of a [`Mapping`](super::Mapping) ends the process with a sentence on standard error and exit code 1.
/// Any other `SIGBUS` goes where it went before. For programs: the signal is the whole process's. Without it a lost page
/// ends the process by the signal.
pub fn report_lost_pages() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_lost_page;
    #[expect(unsafe_code, reason = "a handler of a signal can be installed in no other way")]
    // SAFETY: both structs are valid for the calls, which only read and write them. The handler calls nothing but functions
    // that a handler may call, and is installed once `BEFORE` is set.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 || BEFORE.set(before).is_err() {
            return;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "what a handler of a signal may call is not Rust")]
extern "C" fn on_lost_page(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes a valid `info` to a handler with SA_SIGINFO, and SIGBUS has an address. write, _exit and
    // sigaction may be called in a handler; loads of atomics take no lock, and `BEFORE` was set before this was installed.
    unsafe {
        if is_ours((*info).si_addr().addr()) {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
        if let Some(before) = BEFORE.get() {
            // The read is tried again when this returns, and fails as it would have.
            libc::sigaction(signal, before, std::ptr::null_mut());
        }
    }
}
