//! The two libraries, loaded for the life of the process.

use crate::{
    GetProviders, GetSystemProviders, InterfaceTable, LoadError, ProviderInfo, SystemTable, Version,
    find::{self, Origin, Surroundings},
    provider,
    quiet::without_stdout,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::{
    fmt,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
};

/// libQnnHtp.so with its function table.
///
/// Once opened the library stays loaded: its worker threads run its code until the process ends, and its `dlclose` does
/// not unmap it anyway. Dropping this frees nothing; opening the same file again costs almost nothing.
pub struct HtpLibrary {
    table: InterfaceTable,
    info: ProviderInfo,
    _library: Option<ManuallyDrop<Library>>,
}

/// libQnnSystem.so with its function table. It stays loaded as [`HtpLibrary`] does.
pub struct SystemLibrary {
    table: SystemTable,
    info: ProviderInfo,
    _library: Option<ManuallyDrop<Library>>,
}

impl HtpLibrary {
    /// File name of the library on Linux and Android.
    pub const FILE_NAME: &str = "libQnnHtp.so";

    /// Looks for the library ([`find`](crate::find)) and opens it. `folder` comes before every other place.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`LoadError::NotFound`] lists the places when it is in none.
    pub fn search(folder: Option<&Path>) -> Result<Self, LoadError> {
        let found = find::locate(Self::FILE_NAME, folder)?;
        match Self::open(&found.path) {
            Err(LoadError::Open { reason, .. }) if found.origin == Origin::Linker => {
                let places = find::candidates(Self::FILE_NAME, &Surroundings::here(folder));
                Err(LoadError::NotFound { name: Self::FILE_NAME, places, linker: Some(reason) })
            }
            opened => opened,
        }
    }

    /// Loads libQnnHtp.so (or a library of the same interface) and checks its versions. A path without a slash is
    /// looked up by the dynamic linker.
    ///
    /// Loading it prints a line on standard output; that goes to /dev/null, and with it what other threads of the
    /// process print in that moment (0.2 s). Open the library before such threads start.
    ///
    /// # Errors
    /// When the file cannot be loaded, is another library, or is of a version we do not know.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let library = load(path)?;
        // SAFETY: in libQnnHtp.so this symbol has this type; other libraries have no such symbol.
        let entry = unsafe { library.get::<GetProviders>(b"QnnInterface_getProviders\0") };
        let entry = *entry.map_err(|_| LoadError::Symbol {
            path: path.to_owned(),
            symbol: "QnnInterface_getProviders",
            expected: "a QNN backend such as libQnnHtp.so",
        })?;
        // SAFETY: the library's own entry point keeps the library's contract, and the library is never unloaded.
        let (info, table) = unsafe { provider::htp(path, entry) }?;
        Ok(Self { table, info, _library: Some(library) })
    }

    /// The same gate for a table that is in the process already, such as one made for tests.
    ///
    /// # Safety
    /// `get_providers` must keep QNN's contract: it answers an error code, or success and a list of pointers to
    /// structs of the version they state, which stay valid for the life of the process, as must the functions.
    ///
    /// # Errors
    /// When no provider is of a version we know.
    pub unsafe fn from_provider(get_providers: GetProviders) -> Result<Self, LoadError> {
        // SAFETY: the caller vouches for it.
        let (info, table) = unsafe { provider::htp(Path::new("(in-process table)"), get_providers) }?;
        Ok(Self { table, info, _library: None })
    }

    /// The function table; entries that the library's version lacks are `None`. See [`entry!`](crate::entry).
    #[must_use]
    pub fn table(&self) -> &InterfaceTable {
        &self.table
    }

    /// Name, versions and path.
    #[must_use]
    pub fn info(&self) -> &ProviderInfo {
        &self.info
    }

    /// Name of the provider, `HTP_QTI_AISW`.
    #[must_use]
    pub fn provider_name(&self) -> &str {
        &self.info.name
    }

    /// Backend id, 6 for HTP.
    #[must_use]
    pub fn backend_id(&self) -> u32 {
        self.info.backend_id
    }

    /// Version of the core API: function table and structs.
    #[must_use]
    pub fn core_api_version(&self) -> Version {
        self.info.api
    }

    /// Version of HTP's own options and structs.
    #[must_use]
    pub fn backend_api_version(&self) -> Version {
        self.info.backend_api
    }

    /// The path it was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.info.path
    }
}

impl SystemLibrary {
    /// File name of the library on Linux and Android.
    pub const FILE_NAME: &str = "libQnnSystem.so";

    /// Looks for the library ([`find`](crate::find)) and opens it. `folder` comes before every other place.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`LoadError::NotFound`] lists the places when it is in none.
    pub fn search(folder: Option<&Path>) -> Result<Self, LoadError> {
        let found = find::locate(Self::FILE_NAME, folder)?;
        match Self::open(&found.path) {
            Err(LoadError::Open { reason, .. }) if found.origin == Origin::Linker => {
                let places = find::candidates(Self::FILE_NAME, &Surroundings::here(folder));
                Err(LoadError::NotFound { name: Self::FILE_NAME, places, linker: Some(reason) })
            }
            opened => opened,
        }
    }

    /// Loads libQnnSystem.so and checks its version.
    ///
    /// # Errors
    /// As [`HtpLibrary::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let library = load(path)?;
        // SAFETY: in libQnnSystem.so this symbol has this type; other libraries have no such symbol.
        let entry = unsafe { library.get::<GetSystemProviders>(b"QnnSystemInterface_getProviders\0") };
        let entry = *entry.map_err(|_| LoadError::Symbol {
            path: path.to_owned(),
            symbol: "QnnSystemInterface_getProviders",
            expected: "libQnnSystem.so",
        })?;
        // SAFETY: the library's own entry point keeps the library's contract, and the library is never unloaded.
        let (info, table) = unsafe { provider::system(path, entry) }?;
        Ok(Self { table, info, _library: Some(library) })
    }

    /// The same gate for a table that is in the process already.
    ///
    /// # Safety
    /// As [`HtpLibrary::from_provider`].
    ///
    /// # Errors
    /// When no provider is of a version we know.
    pub unsafe fn from_provider(get_providers: GetSystemProviders) -> Result<Self, LoadError> {
        // SAFETY: the caller vouches for it.
        let (info, table) = unsafe { provider::system(Path::new("(in-process table)"), get_providers) }?;
        Ok(Self { table, info, _library: None })
    }

    /// The function table; entries that the library's version lacks are `None`. See [`entry!`](crate::entry).
    #[must_use]
    pub fn table(&self) -> &SystemTable {
        &self.table
    }

    /// Name, version and path.
    #[must_use]
    pub fn info(&self) -> &ProviderInfo {
        &self.info
    }
}

impl fmt::Debug for HtpLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HtpLibrary").field(&self.info).finish()
    }
}

impl fmt::Debug for SystemLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SystemLibrary").field(&self.info).finish()
    }
}

/// A function of the table by name, or [`LoadError::MissingEntry`]: `entry!(library, graphCreate)?`.
#[macro_export]
macro_rules! entry {
    ($library:expr, $name:ident) => {
        $library.table().$name.ok_or_else(|| $crate::LoadError::MissingEntry {
            name: stringify!($name),
            path: $library.info().path.clone(),
            version: $library.info().api,
        })
    };
}

/// Loads a library for ever. Each of its files must be found beside it (its run path says so).
fn load(path: &Path) -> Result<ManuallyDrop<Library>, LoadError> {
    // SAFETY: initialisers of the library run. The caller of this crate chose the file to be Qualcomm's library, whose
    // initialisers print a line and nothing else that is visible; RTLD_LOCAL keeps its symbols out of ours.
    let library = without_stdout(|| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) });
    library.map(ManuallyDrop::new).map_err(|error| {
        let advice = if path.components().count() > 1 && !path.exists() {
            "no such file: give the folder of Qualcomm's libraries (COEXEC_QNN_LIB_DIR)"
        } else if path.exists() {
            "the file must be a library for this machine, with the files it needs beside it"
        } else {
            "not on the system's library path: give the folder of Qualcomm's libraries (COEXEC_QNN_LIB_DIR)"
        };
        LoadError::Open { path: PathBuf::from(path), reason: reason(&error), advice }
    })
}

/// The dynamic linker's words, which libloading keeps as the source.
fn reason(error: &libloading::Error) -> String {
    error.to_string()
}

#[cfg(test)]
#[path = "library/tests.rs"]
mod tests;
