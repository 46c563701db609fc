//! A context: graphs that live together.

use super::{BinaryInfo, Handle, RawDevice, log};
use crate::NpuError;
use qnn_sys::{
    QnnContext_Config_t, QnnContext_ConfigOption_t, QnnHtpContext_ConfigOption_t, QnnHtpContext_CustomConfig_t,
    QnnHtpContext_GroupRegistration_t, entry,
};
use std::{
    ptr::{null, null_mut},
    sync::Arc,
};

/// How a context is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContextOptions {
    /// Name of the context, for messages.
    pub(crate) name: String,
    /// Equal static tensors of several graphs are stored once.
    pub(crate) weight_sharing: bool,
    /// One spill-fill buffer of this many bytes for a group of contexts.
    pub(crate) spill_fill: Option<SpillFill>,
}

/// Contexts that share a spill-fill buffer.
#[derive(Clone, Debug)]
pub(crate) struct SpillFill {
    /// The group's first context; `None` starts a group.
    pub(crate) first: Option<Arc<RawContext>>,
    /// The largest need of the group.
    pub(crate) bytes: u64,
}

/// A context. Freed when the last graph is gone; freeing waits for a running execute.
#[derive(Debug)]
pub(crate) struct RawContext {
    device: Arc<RawDevice>,
    handle: Handle,
    name: String,
    /// Of a context that came from a binary: what the binary says of its graphs.
    info: Option<BinaryInfo>,
    /// The group's first context must outlive the others.
    _group: Option<Arc<RawContext>>,
}

/// The config list of a context and what it points to.
struct Configs {
    customs: Vec<QnnHtpContext_CustomConfig_t>,
    configs: Vec<QnnContext_Config_t>,
    list: Vec<*const QnnContext_Config_t>,
}

impl Configs {
    fn new(options: &ContextOptions) -> Self {
        let mut customs = Vec::new();
        if options.weight_sharing {
            let mut custom = QnnHtpContext_CustomConfig_t {
                option: QnnHtpContext_ConfigOption_t::QNN_HTP_CONTEXT_CONFIG_OPTION_WEIGHT_SHARING_ENABLED,
                ..Default::default()
            };
            custom.__bindgen_anon_1.weightSharingEnabled = true;
            customs.push(custom);
        }
        if let Some(group) = &options.spill_fill {
            let mut custom = QnnHtpContext_CustomConfig_t {
                option: QnnHtpContext_ConfigOption_t::QNN_HTP_CONTEXT_CONFIG_OPTION_REGISTER_MULTI_CONTEXTS,
                ..Default::default()
            };
            custom.__bindgen_anon_1.groupRegistration = QnnHtpContext_GroupRegistration_t {
                firstGroupHandle: group.first.as_ref().map_or(null_mut(), |c| c.handle.0),
                maxSpillFillBuffer: group.bytes,
            };
            customs.push(custom);
        }
        let mut out = Self { customs, configs: Vec::new(), list: Vec::new() };
        for custom in &mut out.customs {
            let mut config = QnnContext_Config_t {
                option: QnnContext_ConfigOption_t::QNN_CONTEXT_CONFIG_OPTION_CUSTOM,
                ..Default::default()
            };
            config.__bindgen_anon_1.customConfig = (&raw mut *custom).cast();
            out.configs.push(config);
        }
        out.list = out.configs.iter().map(|c| &raw const *c).chain([null()]).collect();
        out
    }

    /// A null-ended list, or null for none.
    fn list(&mut self) -> *mut *const QnnContext_Config_t {
        if self.configs.is_empty() { null_mut() } else { self.list.as_mut_ptr() }
    }
}

impl RawContext {
    /// An empty context.
    pub(crate) fn create(device: &Arc<RawDevice>, options: &ContextOptions) -> Result<Arc<Self>, NpuError> {
        let backend = device.backend();
        let create = entry!(backend.htp(), contextCreate)?;
        let mut configs = Configs::new(options);
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: handles of living objects; the config list and what it points to outlive the call.
        let answer = unsafe { create(backend.handle().0, device.handle().0, configs.list(), &raw mut handle) };
        backend.check(answer, "create context", &options.name, mark)?;
        Ok(Arc::new(Self::new(device, handle, None, options)))
    }

    /// The context of a binary. The bytes may be dropped afterwards.
    pub(crate) fn from_binary(
        device: &Arc<RawDevice>,
        bytes: &[u8],
        info: BinaryInfo,
        options: &ContextOptions,
    ) -> Result<Arc<Self>, NpuError> {
        let backend = device.backend();
        let create = entry!(backend.htp(), contextCreateFromBinary)?;
        let mut configs = Configs::new(options);
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: as in `create`; the bytes are readable for the length given and only read. No profile.
        let answer = unsafe {
            create(
                backend.handle().0,
                device.handle().0,
                configs.list(),
                bytes.as_ptr().cast(),
                bytes.len() as u64,
                &raw mut handle,
                null_mut(),
            )
        };
        backend.check(answer, "load", &options.name, mark)?;
        Ok(Arc::new(Self::new(device, handle, Some(info), options)))
    }

    fn new(
        device: &Arc<RawDevice>,
        handle: *mut std::ffi::c_void,
        info: Option<BinaryInfo>,
        options: &ContextOptions,
    ) -> Self {
        let group = options.spill_fill.as_ref().and_then(|g| g.first.clone());
        Self { device: Arc::clone(device), handle: Handle(handle), name: options.name.clone(), info, _group: group }
    }

    /// The context as a binary; all graphs must be finalised.
    pub(crate) fn binary(&self) -> Result<Vec<u8>, NpuError> {
        let backend = self.device.backend();
        let (size_of, get) = (entry!(backend.htp(), contextGetBinarySize)?, entry!(backend.htp(), contextGetBinary)?);
        let mark = log::mark();
        let mut size = 0u64;
        // SAFETY: our handle, a local.
        let answer = unsafe { size_of(self.handle.0, &raw mut size) };
        backend.check(answer, "size of the binary", &self.name, mark)?;
        let len = usize::try_from(size).ok().filter(|n| *n <= isize::MAX as usize);
        let mut bytes = Vec::new();
        let reserved = len.is_some_and(|n| bytes.try_reserve_exact(n).is_ok());
        if !reserved {
            let reason = format!("the library asks for a buffer of {size} bytes, which cannot be had");
            return Err(NpuError::Blob { reason });
        }
        bytes.resize(len.unwrap_or(0), 0u8);
        let mut written = 0u64;
        // SAFETY: our handle; the buffer has the length given.
        let answer = unsafe { get(self.handle.0, bytes.as_mut_ptr().cast(), bytes.len() as u64, &raw mut written) };
        backend.check(answer, "serialize", &self.name, mark)?;
        if written > size {
            return Err(NpuError::Blob { reason: format!("the library wrote {written} of {size} bytes") });
        }
        bytes.truncate(written as usize);
        Ok(bytes)
    }

    pub(crate) fn device(&self) -> &Arc<RawDevice> {
        &self.device
    }

    pub(crate) fn info(&self) -> Option<&BinaryInfo> {
        self.info.as_ref()
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Drop for RawContext {
    fn drop(&mut self) {
        let backend = self.device.backend();
        if let Some(free) = backend.table().contextFree {
            // SAFETY: our handle, freed once; graphs hold this object, so they are gone. No profile.
            let answer = unsafe { free(self.handle.0, null_mut()) };
            backend.report(answer, "free context");
        }
    }
}
