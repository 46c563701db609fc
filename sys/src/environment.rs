//! Where the DSP looks for its side of the library (the Skel): `ADSP_LIBRARY_PATH`.

use std::path::Path;

/// Folders of the phone's own DSP libraries. The list of the process replaces the system's, so they are named again.
const VENDOR: [&str; 4] = ["/system/lib/rfsa/adsp", "/system/vendor/lib/rfsa/adsp", "/vendor/dsp", "/dsp"];

/// The variable's value with `folder` first, then what the user set, then the vendor's folders; each once. Separated by
/// semicolons: with colons the DSP takes the whole string for one folder.
#[must_use]
pub fn adsp_library_path(folder: &Path, set: Option<&str>) -> String {
    let folder = folder.to_string_lossy();
    let mut all: Vec<&str> = vec![&folder];
    for part in set.into_iter().flat_map(|s| s.split(';')).chain(VENDOR) {
        if !part.is_empty() && !all.contains(&part) {
            all.push(part);
        }
    }
    all.join(";")
}

/// Lets the DSP find the Skel in `folder` (the folder of libQnnHtp.so). Does something on Android only.
///
/// # Safety
/// Sets an environment variable: no other thread may read or write the environment at the same time (in C code also).
/// Call it at the start of the process, before the first QNN library is opened: the DSP's client reads it once.
pub unsafe fn prepare_environment(folder: &Path) {
    if cfg!(target_os = "android") {
        for variable in ["ADSP_LIBRARY_PATH", "DSP_LIBRARY_PATH"] {
            let set = std::env::var(variable).ok();
            // SAFETY: the caller sees to it that no other thread touches the environment.
            unsafe { std::env::set_var(variable, adsp_library_path(folder, set.as_deref())) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_folders_follow() {
        assert_eq!(
            adsp_library_path(Path::new("/data/app/lib"), None),
            "/data/app/lib;/system/lib/rfsa/adsp;/system/vendor/lib/rfsa/adsp;/vendor/dsp;/dsp"
        );
    }

    #[test]
    fn what_the_user_set_stays_and_nothing_is_there_twice() {
        assert_eq!(
            adsp_library_path(Path::new("/x"), Some("/mine;/dsp;;/x")),
            "/x;/mine;/dsp;/system/lib/rfsa/adsp;/system/vendor/lib/rfsa/adsp;/vendor/dsp"
        );
    }
}
