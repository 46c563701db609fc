//! Which of a library's function tables we may read: the version gate, before any table is touched.

use crate::{
    InterfaceTable, LoadError, Qnn_ErrorHandle_t, Qnn_Version_t, QnnInterface_t, QnnSystemInterface_t,
    SYSTEM_TABLE_MINOR, SystemTable, TABLE_MINOR,
};
use std::{
    ffi::{CStr, c_char},
    fmt,
    mem::size_of,
    path::{Path, PathBuf},
    ptr::addr_of,
};

/// Entry point of a backend library: hands out a list of function tables and its length.
pub type GetProviders =
    unsafe extern "C" fn(list: *mut *mut *const QnnInterface_t, count: *mut u32) -> Qnn_ErrorHandle_t;

/// Entry point of libQnnSystem.
pub type GetSystemProviders =
    unsafe extern "C" fn(list: *mut *mut *const QnnSystemInterface_t, count: *mut u32) -> Qnn_ErrorHandle_t;

/// Core API: structs and tables only grow at their end within a major version.
const CORE_MAJOR: u32 = 2;
/// HTP backend API.
const HTP_MAJOR: u32 = 5;
/// System API.
const SYSTEM_MAJOR: u32 = 1;
/// Backend id of HTP.
const HTP_ID: u32 = 6;
/// More providers than any library has: a larger number is a sign of memory read wrongly.
const MOST_PROVIDERS: u32 = 64;

/// An API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// Additions.
    pub minor: u32,
    /// Corrections.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl From<Qnn_Version_t> for Version {
    fn from(v: Qnn_Version_t) -> Self {
        Self { major: v.major, minor: v.minor, patch: v.patch }
    }
}

/// Who a library says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    /// Where the library was loaded from.
    pub path: PathBuf,
    /// Name of the provider, `HTP_QTI_AISW` for HTP.
    pub name: String,
    /// Backend id, 6 for HTP.
    pub backend_id: u32,
    /// Core API version (system API version for the system library).
    pub api: Version,
    /// Backend API version; zeros for the system library.
    pub backend_api: Version,
}

impl fmt::Display for ProviderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (backend id {}, API {}", self.name, self.backend_id, self.api)?;
        if self.backend_api.major > 0 {
            write!(f, ", backend API {}", self.backend_api)?;
        }
        write!(f, ")")
    }
}

/// Lengths of the table that we know: core API minor version, entries. Later versions append.
const TABLE_ENTRIES: [(u32, usize); 1] = [(32, 71)];

/// How many entries the table of a core API version has at least, as far as ours has room for them. `None` for versions
/// before the first known one: the length of their table would be a guess.
fn entries(minor: u32) -> Option<usize> {
    let ours = size_of::<InterfaceTable>() / size_of::<usize>();
    if minor >= TABLE_MINOR {
        return Some(ours);
    }
    TABLE_ENTRIES.iter().rev().find(|(known, _)| *known <= minor).map(|(_, entries)| ours.min(*entries))
}

/// The oldest core API minor version accepted.
fn oldest_minor() -> u32 {
    TABLE_MINOR.min(TABLE_ENTRIES[0].0)
}

/// The first HTP provider with versions we know, and a copy of its table.
///
/// # Safety
/// `get_providers` must keep QNN's contract: a list of valid pointers that stay valid, or an error code.
pub(crate) unsafe fn htp(
    path: &Path,
    get_providers: GetProviders,
) -> Result<(ProviderInfo, InterfaceTable), LoadError> {
    let mut list = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: both arguments point to locals of the types that the entry point writes.
    let handle = unsafe { get_providers(&raw mut list, &raw mut count) };
    // SAFETY: the caller vouches for the list.
    let pointers = unsafe { pointers(path, handle, list, count) }?;
    let mut seen = Vec::new();
    for provider in pointers {
        // SAFETY: the caller vouches for the pointer. Only fields that every version has at the same place are read;
        // no reference to the whole struct is made, as its table may be shorter than ours.
        let info = unsafe {
            ProviderInfo {
                path: path.to_owned(),
                name: name(addr_of!((*provider).providerName).read()),
                backend_id: addr_of!((*provider).backendId).read(),
                api: addr_of!((*provider).apiVersion.coreApiVersion).read().into(),
                backend_api: addr_of!((*provider).apiVersion.backendApiVersion).read().into(),
            }
        };
        let known = info.backend_id == HTP_ID && info.api.major == CORE_MAJOR && info.backend_api.major == HTP_MAJOR;
        if let Some(entries) = entries(info.api.minor).filter(|_| known) {
            let mut table = InterfaceTable::default();
            // SAFETY: the library's table begins where ours does and has at least `entries` entries of the size of a
            // pointer (the version says so); ours has room for them. A zeroed entry is `None`.
            unsafe {
                let from = addr_of!((*provider).__bindgen_anon_1).cast::<usize>();
                std::ptr::copy_nonoverlapping(from, (&raw mut table).cast(), entries);
            }
            return Ok((info, table));
        }
        seen.push(info);
    }
    Err(refusal(
        path,
        &seen,
        format!(
            "backend id {HTP_ID} (HTP), core API {CORE_MAJOR}.{} or a later {CORE_MAJOR}.x, backend API {HTP_MAJOR}.x",
            oldest_minor()
        ),
        seen.iter().any(|i| i.api.major > CORE_MAJOR || i.backend_api.major > HTP_MAJOR),
    ))
}

/// The first system provider with a version we know, and a copy of its table.
///
/// # Safety
/// As for [`htp`].
pub(crate) unsafe fn system(
    path: &Path,
    get_providers: GetSystemProviders,
) -> Result<(ProviderInfo, SystemTable), LoadError> {
    let mut list = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: both arguments point to locals of the types that the entry point writes.
    let handle = unsafe { get_providers(&raw mut list, &raw mut count) };
    // SAFETY: the caller vouches for the list.
    let pointers = unsafe { pointers(path, handle, list, count) }?;
    let mut seen = Vec::new();
    for provider in pointers {
        // SAFETY: as in `htp`.
        let info = unsafe {
            ProviderInfo {
                path: path.to_owned(),
                name: name(addr_of!((*provider).providerName).read()),
                backend_id: addr_of!((*provider).backendId).read(),
                api: addr_of!((*provider).systemApiVersion).read().into(),
                backend_api: Version { major: 0, minor: 0, patch: 0 },
            }
        };
        if info.api.major == SYSTEM_MAJOR && info.api.minor >= SYSTEM_TABLE_MINOR {
            let mut table = SystemTable::default();
            // SAFETY: as in `htp`; a table of this minor version or a later one is at least as long as ours.
            unsafe {
                let from = addr_of!((*provider).__bindgen_anon_1).cast::<SystemTable>();
                std::ptr::copy_nonoverlapping(from, &raw mut table, 1);
            }
            return Ok((info, table));
        }
        seen.push(info);
    }
    Err(refusal(
        path,
        &seen,
        format!("system API {SYSTEM_MAJOR}.{SYSTEM_TABLE_MINOR} or a later {SYSTEM_MAJOR}.x"),
        seen.iter().any(|i| i.api.major > SYSTEM_MAJOR),
    ))
}

/// The list as a vector, without null pointers.
///
/// # Safety
/// If `handle` is success and `list` is not null, it must point to `count` pointers.
unsafe fn pointers<T>(
    path: &Path,
    handle: Qnn_ErrorHandle_t,
    list: *mut *const T,
    count: u32,
) -> Result<Vec<*const T>, LoadError> {
    let code = (handle & 0xffff) as u32;
    if handle != 0 || list.is_null() || count > MOST_PROVIDERS {
        return Err(LoadError::Providers { path: path.to_owned(), code });
    }
    // SAFETY: the caller vouches for the list.
    let all = unsafe { std::slice::from_raw_parts(list, count as usize) };
    Ok(all.iter().copied().filter(|p| !p.is_null()).collect())
}

/// # Safety
/// `name` must be null or a C string.
unsafe fn name(name: *const c_char) -> String {
    if name.is_null() {
        return String::from("(no name)");
    }
    // SAFETY: the caller vouches for the string.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

fn refusal(path: &Path, seen: &[ProviderInfo], accepted: String, newer: bool) -> LoadError {
    let found: Vec<String> = seen.iter().map(ToString::to_string).collect();
    let (found, advice) = if found.is_empty() {
        (String::from("no function table"), "the file is damaged, get it again")
    } else if newer {
        (found.join(", "), "this library is newer than coexec knows; use an older one or a newer coexec")
    } else {
        (found.join(", "), "use a newer library of Qualcomm's package, and all its files from one version")
    };
    LoadError::Version { path: path.to_owned(), found, accepted, advice }
}
