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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    /// A va_list that says that all arguments are on the stack, which is `slots`.
    fn format(text: &CStr, slots: &mut [u64]) -> String {
        let stack = slots.as_mut_ptr().cast::<c_void>();
        #[cfg(target_arch = "x86_64")]
        #[repr(C)]
        struct List(u32, u32, *mut c_void, *mut c_void);
        #[cfg(target_arch = "x86_64")]
        let mut list = List(48, 176, stack, std::ptr::null_mut());
        #[cfg(target_arch = "aarch64")]
        #[repr(C)]
        struct List(*mut c_void, *mut c_void, *mut c_void, c_int, c_int);
        #[cfg(target_arch = "aarch64")]
        let mut list = List(stack, std::ptr::null_mut(), std::ptr::null_mut(), 0, 0);
        // SAFETY: the list is laid out as the platform's ABI says and its slots are what the format asks for.
        unsafe { format_log(text.as_ptr(), (&raw mut list).cast()) }
    }

    #[test]
    fn numbers_and_texts() {
        let name = c"layer.0";
        let mut slots = [7, name.as_ptr() as u64, (-3i64).cast_unsigned(), 1.5f64.to_bits()];
        assert_eq!(format(c"%d of %s: %lld, %.2f\n", &mut slots), "7 of layer.0: -3, 1.50");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = std::ffi::CString::new(vec![b'x'; 10_000]).expect("no zeros");
        let line = format(c"%s", &mut [long.as_ptr() as u64]);
        assert_eq!(line.len(), LOG_LINE_BYTES - 1 + '…'.len_utf8());
        assert!(line.ends_with("x…"));
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        let odd = c"a\xffb";
        assert_eq!(format(c"%s", &mut [odd.as_ptr() as u64]), "a\u{fffd}b");
    }

    #[test]
    fn no_format() {
        // SAFETY: a null format reads no arguments.
        assert_eq!(unsafe { format_log(std::ptr::null(), std::ptr::null_mut()) }, "");
    }
}
