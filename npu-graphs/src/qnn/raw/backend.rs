//! The library with its log and backend handle: what devices are made from.

use super::{Handle, log};
use crate::{NpuError, error::describe_code};
use qnn_sys::{HtpLibrary, InterfaceTable, Qnn_ErrorHandle_t, QnnLog_Level_t, SystemLibrary, entry};
use std::{ffi::CStr, ptr::null_mut, sync::Arc};

/// Library, log handle and backend handle. Freed when the last device is gone.
pub(crate) struct Backend {
    htp: HtpLibrary,
    system: SystemLibrary,
    /// Name of the device for errors, e.g. `qnn:sm8650`.
    name: String,
    log: Handle,
    handle: Handle,
}

impl Backend {
    /// Makes log and backend.
    pub(crate) fn create(
        htp: HtpLibrary,
        system: SystemLibrary,
        name: &str,
        level: u32,
    ) -> Result<Arc<Self>, NpuError> {
        let mut backend = Self { htp, system, name: name.to_owned(), log: Handle::NULL, handle: Handle::NULL };
        let (log_create, create) = (entry!(backend.htp, logCreate)?, entry!(backend.htp, backendCreate)?);
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: the callback lives as long as the program and is safe to call from any thread; the handle is a local.
        let code = unsafe { log_create(Some(log::callback), QnnLog_Level_t(level), &raw mut handle) };
        if code == 0 {
            backend.log = Handle(handle);
        } else {
            // Logging is a help, not a need.
            tracing::warn!(target: "qnn", "logCreate answered {}; the library's log is lost", code & 0xffff);
        }
        let mut handle = null_mut();
        // SAFETY: the log handle is the library's own (or null), no config list, the handle is a local.
        let code = unsafe { create(backend.log.0, null_mut(), &raw mut handle) };
        backend.check(code, "create backend", "library", mark)?;
        backend.handle = Handle(handle);
        Ok(Arc::new(backend))
    }

    pub(super) fn table(&self) -> &InterfaceTable {
        self.htp.table()
    }

    pub(crate) fn htp(&self) -> &HtpLibrary {
        &self.htp
    }

    pub(crate) fn system(&self) -> &SystemLibrary {
        &self.system
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn log_handle(&self) -> Handle {
        self.log
    }

    /// Build of the library, e.g. `v2.51.0.260929181845`.
    pub(crate) fn build_id(&self) -> Option<String> {
        let get = self.table().backendGetBuildId?;
        let mut text = std::ptr::null();
        // SAFETY: the argument is a local; on success it is a C string of the library's own.
        let code = unsafe { get(&raw mut text) };
        // SAFETY: as above; null was excluded.
        (code == 0 && !text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }

    /// Success, or an error that quotes the library's error lines since `mark`.
    pub(super) fn check(
        &self,
        answer: Qnn_ErrorHandle_t,
        operation: &'static str,
        what: &str,
        mark: log::Mark,
    ) -> Result<(), NpuError> {
        if answer == 0 {
            return Ok(());
        }
        let code = (answer & 0xffff) as u32;
        let mut meaning = describe_code(code);
        if let Some(lines) = log::errors_since(mark) {
            meaning = format!("{meaning}; the library says: {lines}");
        }
        Err(NpuError::Code { device: self.name.clone(), operation, what: what.to_owned(), code, meaning })
    }

    /// Reports an error of a call whose caller cannot do anything about it (freeing).
    pub(super) fn report(&self, answer: Qnn_ErrorHandle_t, operation: &'static str) {
        if answer != 0 {
            tracing::warn!(target: "qnn", "{}: {operation} answered code {}", self.name, answer & 0xffff);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !self.handle.is_null()
            && let Some(free) = self.table().backendFree
        {
            // SAFETY: our handle, freed once; devices and contexts hold this object, so they are gone.
            let answer = unsafe { free(self.handle.0) };
            self.report(answer, "free backend");
        }
        if !self.log.is_null()
            && let Some(free) = self.table().logFree
        {
            // SAFETY: our handle, freed once, after the backend that logs through it.
            let answer = unsafe { free(self.log.0) };
            self.report(answer, "free log");
        }
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("name", &self.name).field("library", self.htp.info()).finish_non_exhaustive()
    }
}
