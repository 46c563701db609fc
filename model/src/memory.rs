//! Memory whose size a file, a prompt or an option decides. It is asked for here, so that a system that has none left makes one
//! call fail and not the process end. Small things (below [`LARGE_BYTES`]) are allocated as in any Rust program: when even
//! those cannot be had, the process aborts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests from this size on are to come through this module.
pub const LARGE_BYTES: usize = 64 << 10;

/// The system has no such memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: {bytes} bytes for {what} cannot be had")]
pub struct OutOfMemory {
    /// What it was for.
    pub what: &'static str,
    /// How much was asked for; `u64::MAX` when that is no number of bytes.
    pub bytes: u64,
}

/// A vector of `len` times `value`.
///
/// # Errors
/// [`OutOfMemory`].
pub fn filled<T: Clone>(len: usize, value: T, what: &'static str) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    resize(&mut vec, len, value, what)?;
    Ok(vec)
}

/// Makes a vector `len` long; new elements are `value`. What is there already costs nothing.
///
/// # Errors
/// [`OutOfMemory`]; the vector is as it was.
pub fn resize<T: Clone>(vec: &mut Vec<T>, len: usize, value: T, what: &'static str) -> Result<(), OutOfMemory> {
    reserve(vec, len.saturating_sub(vec.len()), what)?;
    vec.resize(len, value);
    Ok(())
}

/// Makes room for `more` elements.
///
/// # Errors
/// [`OutOfMemory`]; the vector is as it was.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize, what: &'static str) -> Result<(), OutOfMemory> {
    if vec.capacity() - vec.len() >= more {
        return Ok(());
    }
    let bytes = vec.len().checked_add(more).and_then(|len| len.checked_mul(size_of::<T>()));
    let refused = OutOfMemory { what, bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64) };
    ask(bytes.ok_or(refused)?, what)?;
    vec.try_reserve(more).map_err(|_| refused)
}

/// Counts a request that is about to be made, and refuses it where a test wants that.
pub(crate) fn ask(bytes: usize, what: &'static str) -> Result<(), OutOfMemory> {
    if bytes >= LARGE_BYTES && fault::ARMED.load(Ordering::Relaxed) != 0 && fault::is_due() {
        return Err(OutOfMemory { what, bytes: bytes as u64 });
    }
    Ok(())
}

/// For tests: the n-th large request from now on fails, in the whole process.
#[doc(hidden)]
pub mod fault {
    use super::{AtomicU64, Ordering};

    /// Which request is refused, from 1 on; 0 when nothing is counted.
    pub(super) static ARMED: AtomicU64 = AtomicU64::new(0);
    static COUNT: AtomicU64 = AtomicU64::new(0);

    /// Refuses the `nth` large request from now on, counted from 1; `u64::MAX` counts only.
    pub fn fail_nth(nth: u64) {
        COUNT.store(0, Ordering::SeqCst);
        ARMED.store(nth, Ordering::SeqCst);
    }

    /// Refuses nothing any more; how many large requests there were since [`fail_nth`].
    pub fn disarm() -> u64 {
        ARMED.store(0, Ordering::SeqCst);
        COUNT.load(Ordering::SeqCst)
    }

    /// Counts nothing until [`resume`], which takes what this returns.
    #[must_use]
    pub fn pause() -> u64 {
        ARMED.swap(0, Ordering::SeqCst)
    }

    /// Goes on counting after [`pause`].
    pub fn resume(armed: u64) {
        ARMED.store(armed, Ordering::SeqCst);
    }

    pub(super) fn is_due() -> bool {
        COUNT.fetch_add(1, Ordering::SeqCst) + 1 == ARMED.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_and_changes_nothing() {
        let mut vec = vec![1u64, 2];
        for len in [usize::MAX, usize::MAX / 8, 1 << 59] {
            let error = resize(&mut vec, len, 0, "a test").expect_err("no machine has that");
            assert!(error.to_string().contains("for a test"), "{error}");
            assert_eq!(vec, [1, 2]);
        }
        resize(&mut vec, 4, 7, "a test").expect("32 bytes");
        assert_eq!(vec, [1, 2, 7, 7]);
        resize(&mut vec, 1, 0, "a test").expect("less");
        assert_eq!((vec, filled(2, 1u8, "a test")), (vec![1], Ok(vec![1, 1])));
    }
}
