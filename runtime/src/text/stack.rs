//! A stack for what strangers' files make recursive.

/// Stack of the thread that works, for the deepest recursion of any build.
const STACK_BYTES: usize = 64 << 20;

/// Runs `work` on a thread of its own: what comes in files is nested, and macros call themselves as deep as tool descriptions
/// are, deeper than a caller's stack may hold. A thread of an app may have half a megabyte.
///
/// # Errors
/// When no thread can be had, or `work` panicked.
pub(super) fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).name("text".to_owned());
        let running = thread.spawn_scoped(scope, work).map_err(|e| e.to_string())?;
        running.join().map_err(|_| "it panicked".to_owned())
    })
}
