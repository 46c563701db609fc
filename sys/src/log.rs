//! Text of a log line: C's format string and arguments.

use std::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    /// C declares the last parameter `va_list`. On x86-64 System V that is an array, which decays to a pointer; on
    /// AArch64 AAPCS it is a struct of 32 bytes, which is passed by reference: a pointer in both cases, the very one
    /// that the log callback receives. (Apple's arm64 has a plain pointer.)
    fn vsnprintf(text: *mut c_char, size: usize, format: *const c_char, args: *mut c_void) -> c_int;
}

/// Longest line kept, in bytes; a longer one is cut and ends with `…`.
pub const LOG_LINE_BYTES: usize = 4096;

/// Formats what a QNN log callback received. Bytes that are not UTF-8 become `�`; line ends at the end are cut.
///
/// # Safety
/// `format` and `args` must be the first and last argument of a [`QnnLog_Callback_t`](crate::QnnLog_Callback_t) call
/// that is still running, and the arguments must not have been read before: reading uses them up.
#[must_use]
pub unsafe fn format_log(format: *const c_char, args: *mut c_void) -> String {
    if format.is_null() {
        return String::new();
    }
    let mut text = [0u8; LOG_LINE_BYTES];
    // SAFETY: the caller vouches for format and arguments; vsnprintf writes at most `text.len()` bytes.
    let wanted = unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, args) };
    let Ok(wanted) = usize::try_from(wanted) else {
        return String::from("(a log line that C's library could not format)");
    };
    let kept = &text[..wanted.min(LOG_LINE_BYTES - 1)];
    let mut line = String::from_utf8_lossy(kept).trim_end().to_owned();
    if wanted > kept.len() {
        line.push('…');
    }
    line
}
