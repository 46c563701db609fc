//! A device handle for one SoC.

use super::{Backend, Handle, log};
use crate::NpuError;
use qnn_sys::{QnnDevice_Config_t, QnnDevice_ConfigOption_t, SocOption, entry};
use std::{
    ptr::{null, null_mut},
    sync::Arc,
};

/// A device. Freed when the last context is gone.
#[derive(Debug)]
pub(crate) struct RawDevice {
    backend: Arc<Backend>,
    handle: Handle,
    soc_id: u32,
}

impl RawDevice {
    /// A device of this SoC. Without one QNN 2.51 would compile for SoC 30 (v68), which computes other numbers.
    pub(crate) fn create(backend: &Arc<Backend>, soc_id: u32) -> Result<Arc<Self>, NpuError> {
        let create = entry!(backend.htp(), deviceCreate)?;
        let soc = SocOption::new(soc_id);
        let mut config = QnnDevice_Config_t {
            option: QnnDevice_ConfigOption_t::QNN_DEVICE_CONFIG_OPTION_CUSTOM,
            ..Default::default()
        };
        config.__bindgen_anon_1.customConfig = soc.as_custom_config();
        let mut list = [&raw const config, null()];
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: the list is null-ended, its configs are locals that outlive the call, the log handle is the backend's.
        let answer = unsafe { create(backend.log_handle().0, list.as_mut_ptr(), &raw mut handle) };
        backend.check(answer, "create device", &format!("SoC {soc_id}"), mark)?;
        Ok(Arc::new(Self { backend: Arc::clone(backend), handle: Handle(handle), soc_id }))
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(crate) fn soc_id(&self) -> u32 {
        self.soc_id
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Drop for RawDevice {
    fn drop(&mut self) {
        if let Some(free) = self.backend.table().deviceFree {
            // SAFETY: our handle, freed once; contexts hold this object, so they are gone.
            let answer = unsafe { free(self.handle.0) };
            self.backend.report(answer, "free device");
        }
    }
}
