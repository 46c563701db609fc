//! A context: graphs that live together.

use super::{BinaryInfo, Handle, MemoryHandle, RawDevice, TensorRef, log};
use crate::NpuError;
use parking_lot::Mutex;
use qnn_sys::{
    Qnn_MemDescriptor_t, Qnn_MemHandle_t, Qnn_MemIonInfo_t, Qnn_MemShape_t, Qnn_MemType_t, QnnContext_Config_t,
    QnnContext_ConfigOption_t, QnnHtpContext_ConfigOption_t, QnnHtpContext_CustomConfig_t,
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
    /// Shared memory that the device has mapped for this context, by file descriptor, element type and dimensions.
    memory: Mutex<Vec<Registered>>,
    /// The group's first context must outlive the others.
    _group: Option<Arc<RawContext>>,
}

#[derive(Debug)]
struct Registered {
    fd: i32,
    tensor: TensorRef,
    handle: Handle,
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
        Self {
            device: Arc::clone(device),
            handle: Handle(handle),
            name: options.name.clone(),
            info,
            memory: Mutex::default(),
            _group: group,
        }
    }

    /// Size that [`Self::binary`] would have at most, in bytes.
    pub(crate) fn binary_bytes(&self) -> Result<u64, NpuError> {
        let backend = self.device.backend();
        let size_of = entry!(backend.htp(), contextGetBinarySize)?;
        let mark = log::mark();
        let mut size = 0u64;
        // SAFETY: our handle, a local.
        let answer = unsafe { size_of(self.handle.0, &raw mut size) };
        backend.check(answer, "size of the binary", &self.name, mark)?;
        Ok(size)
    }

    /// The context as a binary; all graphs must be finalised.
    pub(crate) fn binary(&self) -> Result<Vec<u8>, NpuError> {
        let backend = self.device.backend();
        let get = entry!(backend.htp(), contextGetBinary)?;
        let size = self.binary_bytes()?;
        let mark = log::mark();
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

impl RawContext {
    /// Registers memory for a tensor, or finds what was registered before.
    pub(crate) fn register_memory(&self, fd: i32, tensor: &TensorRef) -> Result<MemoryHandle, NpuError> {
        let mut all = self.memory.lock();
        if let Some(known) = all.iter().find(|r| r.fd == fd && r.tensor.same_form(tensor)) {
            return Ok(MemoryHandle(known.handle));
        }
        let backend = self.device.backend();
        let register = entry!(backend.htp(), memRegister)?;
        let (dims, data_type) = tensor.form();
        let mut descriptor = Qnn_MemDescriptor_t {
            memShape: Qnn_MemShape_t {
                numDim: dims.len() as u32,
                dimSize: dims.as_ptr().cast_mut(),
                ..Default::default()
            },
            dataType: data_type,
            memType: Qnn_MemType_t::QNN_MEM_TYPE_ION,
            ..Default::default()
        };
        descriptor.__bindgen_anon_1.ionInfo = Qnn_MemIonInfo_t { fd };
        let mark = log::mark();
        let mut handle: Qnn_MemHandle_t = null_mut();
        // SAFETY: our handle, one descriptor whose pointers outlive the call, a local.
        let answer = unsafe { register(self.handle.0, &raw const descriptor, 1, &raw mut handle) };
        backend.check(answer, "register memory", &format!("{}:{}", self.name, tensor.name()), mark)?;
        all.push(Registered { fd, tensor: tensor.clone(), handle: Handle(handle) });
        Ok(MemoryHandle(Handle(handle)))
    }

    /// Takes back every registration of this memory.
    pub(super) fn forget_memory(&self, fd: i32) {
        let mut all = self.memory.lock();
        all.retain(|r| {
            if r.fd == fd {
                self.deregister(r.handle);
            }
            r.fd != fd
        });
    }

    fn deregister(&self, handle: Handle) {
        let backend = self.device.backend();
        if let Some(deregister) = backend.table().memDeRegister {
            // SAFETY: a handle of this context, taken back once.
            let answer = unsafe { deregister(&raw const handle.0, 1) };
            backend.report(answer, "deregister memory");
        }
    }
}

impl Drop for RawContext {
    fn drop(&mut self) {
        for registered in std::mem::take(self.memory.get_mut()) {
            self.deregister(registered.handle);
        }
        let backend = self.device.backend();
        if let Some(free) = backend.table().contextFree {
            // SAFETY: our handle, freed once; graphs hold this object, so they are gone. No profile.
            let answer = unsafe { free(self.handle.0, null_mut()) };
            backend.report(answer, "free context");
        }
    }
}
