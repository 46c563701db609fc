//! Where Qualcomm's libraries may be.

use crate::LoadError;
use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

/// Environment variable that names the folder of the libraries.
pub const LIB_DIR_VARIABLE: &str = "COEXEC_QNN_LIB_DIR";

/// Environment variables that name an SDK, in this order.
pub const SDK_VARIABLES: [&str; 2] = ["QNN_SDK_ROOT", "QAIRT_SDK_ROOT"];

/// The wheel's folder below Cargo's target directory (whatever that is called), where `cargo xtask qnn` unpacks it.
const UNPACKED: &str = "qnn/onnxruntime_qnn";

/// Why a place is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The caller named the folder.
    Argument,
    /// `COEXEC_QNN_LIB_DIR`.
    Variable,
    /// An SDK, through `QNN_SDK_ROOT` or `QAIRT_SDK_ROOT`.
    Sdk,
    /// Beside the executable.
    Executable,
    /// Beside the shared library that holds this code: an Android app's folder of native libraries.
    Module,
    /// `qnn` of the target directory that the executable stands in.
    Checkout,
    /// The bare name: the dynamic linker's own path.
    Linker,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argument => "given folder",
            Self::Variable => LIB_DIR_VARIABLE,
            Self::Sdk => "QNN_SDK_ROOT or QAIRT_SDK_ROOT",
            Self::Executable => "beside the executable",
            Self::Module => "beside this library",
            Self::Checkout => "qnn/onnxruntime_qnn in the target directory",
            Self::Linker => "dynamic linker's path",
        })
    }
}

/// A path to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Folder and file name, or the bare file name for [`Origin::Linker`].
    pub path: PathBuf,
    /// Why.
    pub origin: Origin,
}

/// What the search depends on. [`Surroundings::here`] takes it from the process.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The folder that the caller named.
    pub folder: Option<PathBuf>,
    /// Value of `COEXEC_QNN_LIB_DIR`.
    pub variable: Option<PathBuf>,
    /// Roots of SDKs.
    pub sdks: Vec<PathBuf>,
    /// The running executable.
    pub executable: Option<PathBuf>,
    /// The shared library (or executable) that holds this code.
    pub module: Option<PathBuf>,
}

impl Surroundings {
    /// The process's environment and files. `folder` comes before all of it.
    #[must_use]
    pub fn here(folder: Option<&Path>) -> Self {
        // An empty variable is how shells unset one for a command.
        let variable = |name: &str| env::var_os(name).filter(|v: &OsString| !v.is_empty()).map(PathBuf::from);
        Self {
            folder: folder.map(Path::to_owned),
            variable: variable(LIB_DIR_VARIABLE),
            sdks: SDK_VARIABLES.into_iter().filter_map(variable).collect(),
            executable: env::current_exe().ok(),
            module: module_path(),
        }
    }
}

/// Every path to try for the library `name`, best first. A folder that the caller or the variable names is the only one:
/// who names a folder must not get a library from elsewhere.
#[must_use]
pub fn candidates(name: &str, surroundings: &Surroundings) -> Vec<Candidate> {
    let explicit = [(&surroundings.folder, Origin::Argument), (&surroundings.variable, Origin::Variable)];
    if let Some((folder, origin)) = explicit.into_iter().find_map(|(f, o)| f.as_ref().map(|f| (f, o))) {
        return vec![Candidate { path: folder.join(name), origin }];
    }
    let mut all = Vec::new();
    let mut add = |folder: PathBuf, origin| {
        let path = folder.join(name);
        if !all.iter().any(|c: &Candidate| c.path == path) {
            all.push(Candidate { path, origin });
        }
    };
    for sdk in &surroundings.sdks {
        for folder in sdk_folders() {
            add(sdk.join("lib").join(folder), Origin::Sdk);
        }
    }
    for (file, origin) in [(&surroundings.executable, Origin::Executable), (&surroundings.module, Origin::Module)] {
        if let Some(folder) = file.as_ref().and_then(|f| f.parent()) {
            add(folder.to_owned(), origin);
        }
    }
    for ancestor in surroundings.executable.iter().flat_map(|e| e.ancestors().skip(1)) {
        // Only where it is: an executable in /usr/bin has ancestors that are nobody's checkout.
        if ancestor.join(UNPACKED).is_dir() {
            add(ancestor.join(UNPACKED), Origin::Checkout);
        }
    }
    all.push(Candidate { path: PathBuf::from(name), origin: Origin::Linker });
    all
}

/// The first candidate that is a file, or the bare name for the dynamic linker when there is none and no folder was
/// named.
///
/// # Errors
/// [`LoadError::NotFound`] with the place tried, when the folder named by the caller or by `COEXEC_QNN_LIB_DIR` has no
/// such file.
pub fn locate(name: &'static str, folder: Option<&Path>) -> Result<Candidate, LoadError> {
    let places = candidates(name, &Surroundings::here(folder));
    match places.iter().find(|c| c.origin == Origin::Linker || c.path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(LoadError::NotFound { name, places, linker: None }),
    }
}

/// Folders of an SDK's `lib` that hold libraries for this target.
fn sdk_folders() -> &'static [&'static str] {
    if cfg!(all(target_os = "android", target_arch = "aarch64")) {
        &["aarch64-android"]
    } else if cfg!(target_arch = "aarch64") {
        &["aarch64-oe-linux-gcc11.2", "aarch64-oe-linux-gcc9.3", "aarch64-oe-linux-gcc8.2", "aarch64-ubuntu-gcc9.4"]
    } else {
        &["x86_64-linux-clang"]
    }
}

/// The file that holds the code of this function, as the dynamic linker knows it.
fn module_path() -> Option<PathBuf> {
    use std::{
        ffi::{CStr, OsStr, c_char, c_int, c_void},
        os::unix::ffi::OsStrExt as _,
        ptr::{null, null_mut},
    };
    /// `Dl_info` of dlfcn.h.
    #[repr(C)]
    struct Info {
        file: *const c_char,
        base: *mut c_void,
        symbol: *const c_char,
        address: *mut c_void,
    }
    unsafe extern "C" {
        fn dladdr(address: *const c_void, info: *mut Info) -> c_int;
    }
    let mut info = Info { file: null(), base: null_mut(), symbol: null(), address: null_mut() };
    // SAFETY: dladdr takes any address and fills the struct, whose layout POSIX systems share.
    let known = unsafe { dladdr(module_path as *const c_void, &raw mut info) };
    if known == 0 || info.file.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded; the name belongs to the linker and lives as long as this code is loaded.
    let file = unsafe { CStr::from_ptr(info.file) };
    // A program started by a bare name is known by that name: without a folder it says nothing.
    Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(candidates: &[Candidate]) -> Vec<(&str, Origin)> {
        candidates.iter().map(|c| (c.path.to_str().expect("UTF-8"), c.origin)).collect()
    }

    #[test]
    fn a_named_folder_is_the_only_place() {
        let mut surroundings = Surroundings {
            folder: Some("/named".into()),
            variable: Some("/variable".into()),
            sdks: vec!["/sdk".into()],
            executable: Some("/bin/coexec".into()),
            module: None,
        };
        assert_eq!(paths(&candidates("l.so", &surroundings)), [("/named/l.so", Origin::Argument)]);
        surroundings.folder = None;
        assert_eq!(paths(&candidates("l.so", &surroundings)), [("/variable/l.so", Origin::Variable)]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn order_without_a_named_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path().to_str().expect("UTF-8");
        std::fs::create_dir_all(dir.path().join(UNPACKED)).expect("folder");
        let surroundings = Surroundings {
            sdks: vec!["/a".into(), "/b".into()],
            executable: Some(format!("{root}/target/release/coexec").into()),
            module: Some("/app/lib/libcoexec.so".into()),
            ..Surroundings::default()
        };
        let found = candidates("l.so", &surroundings);
        let wanted = [
            ("/a/lib/x86_64-linux-clang/l.so", Origin::Sdk),
            ("/b/lib/x86_64-linux-clang/l.so", Origin::Sdk),
            (&format!("{root}/target/release/l.so"), Origin::Executable),
            ("/app/lib/l.so", Origin::Module),
            (&format!("{root}/{UNPACKED}/l.so"), Origin::Checkout),
            ("l.so", Origin::Linker),
        ];
        assert_eq!(paths(&found), wanted);
    }

    #[test]
    fn module_of_a_test_is_the_test() {
        let executable = env::current_exe().expect("a path").canonicalize().expect("a file");
        assert_eq!(module_path(), Some(executable));
    }

    #[test]
    fn locate_takes_files_and_reports_places() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let missing = locate("l.so", Some(dir.path())).expect_err("the folder is empty").to_string();
        assert!(missing.contains(dir.path().to_str().expect("UTF-8")) && missing.contains("given folder"), "{missing}");
        std::fs::write(dir.path().join("l.so"), "").expect("file");
        assert_eq!(locate("l.so", Some(dir.path())).expect("there").path, dir.path().join("l.so"));
    }
}
