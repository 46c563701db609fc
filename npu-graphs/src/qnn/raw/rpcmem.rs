//! Memory that host and NPU share without copies: `rpcmem` of the phone's libcdsprpc.so.
//!
//! Coherence: the memory is allocated cached. Qualcomm's driver cleans host caches before a call of the DSP and
//! invalidates them after it for every buffer that the call uses, so flushing and invalidating do nothing here. The rule
//! for callers stays the one of [`crate::buffer`]: end a host write before the submit, start a host read after the wait.
//!
//! Nothing of this can run on x86-64 (the library answers 1000 to `memRegister`); buffers are heap memory there.

use super::RawContext;
use crate::{BufferKind, buffer::HostMemory};
use libloading::os::unix::Library;
use parking_lot::Mutex;
use std::{
    any::Any,
    ffi::{c_int, c_void},
    ptr::NonNull,
    sync::{Arc, Weak},
};

/// The system's heap.
const HEAP_SYSTEM: c_int = 25;
/// Cached memory.
const FLAG_CACHED: u32 = 1;

pub(super) type Alloc = unsafe extern "C" fn(heap: c_int, flags: u32, size: c_int) -> *mut c_void;
pub(super) type Free = unsafe extern "C" fn(memory: *mut c_void);
pub(super) type ToFd = unsafe extern "C" fn(memory: *mut c_void) -> c_int;

/// The allocator of shared memory.
pub(crate) struct RpcMem {
    pub(super) alloc: Alloc,
    pub(super) free: Free,
    pub(super) to_fd: ToFd,
    pub(super) _library: Option<Library>,
}

impl RpcMem {
    /// Opens libcdsprpc.so; `None`, with a note in the log, where it is not (an Android app must name it in its manifest
    /// with `<uses-native-library>`).
    pub(crate) fn open() -> Option<Arc<Self>> {
        // SAFETY: a system library without initialisers that matter to us.
        let library = unsafe { Library::new("libcdsprpc.so") };
        let library = library.inspect_err(|e| tracing::debug!(target: "qnn", "no shared memory: {e}")).ok()?;
        // SAFETY: in this library the symbols have these types.
        let entries = unsafe {
            let (alloc, free) = (library.get::<Alloc>(b"rpcmem_alloc\0"), library.get::<Free>(b"rpcmem_free\0"));
            (alloc.ok().map(|f| *f), free.ok().map(|f| *f), library.get::<ToFd>(b"rpcmem_to_fd\0").ok().map(|f| *f))
        };
        let (Some(alloc), Some(free), Some(to_fd)) = entries else {
            tracing::warn!(target: "qnn", "libcdsprpc.so has no rpcmem functions; buffers will be copied");
            return None;
        };
        Some(Arc::new(Self { alloc, free, to_fd, _library: Some(library) }))
    }

    /// Zeroed memory; `None` when there is none (callers take heap memory then).
    pub(crate) fn allocate(self: &Arc<Self>, len: usize) -> Option<RpcMemory> {
        let size = c_int::try_from(len).ok().filter(|n| *n > 0)?;
        // SAFETY: a positive size.
        let at = NonNull::new(unsafe { (self.alloc)(HEAP_SYSTEM, FLAG_CACHED, size) }.cast::<u8>())?;
        // SAFETY: memory just allocated, `len` bytes.
        unsafe { at.as_ptr().write_bytes(0, len) };
        // SAFETY: memory that rpcmem gave.
        let fd = unsafe { (self.to_fd)(at.as_ptr().cast()) };
        let memory = RpcMemory { rpc: Arc::clone(self), at, len, fd, registered: Mutex::default() };
        (fd >= 0).then_some(memory)
    }
}

impl std::fmt::Debug for RpcMem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RpcMem")
    }
}

/// A piece of shared memory.
#[derive(Debug)]
pub(crate) struct RpcMemory {
    rpc: Arc<RpcMem>,
    at: NonNull<u8>,
    len: usize,
    fd: i32,
    /// Contexts that know this memory. They do not keep it, nor it them.
    registered: Mutex<Vec<Weak<RawContext>>>,
}

// SAFETY: the memory is owned by this value; references to it follow Rust's rules through `&self` and `&mut self`.
unsafe impl Send for RpcMemory {}
// SAFETY: as above.
unsafe impl Sync for RpcMemory {}

impl RpcMemory {
    pub(crate) fn fd(&self) -> i32 {
        self.fd
    }

    /// Notes that a context registered this memory, so that it lets go before the memory is freed.
    pub(crate) fn registered_with(&self, context: &Arc<RawContext>) {
        let mut all = self.registered.lock();
        if !all.iter().any(|c| c.as_ptr() == Arc::as_ptr(context)) {
            all.retain(|c| c.strong_count() > 0);
            all.push(Arc::downgrade(context));
        }
    }
}

impl HostMemory for RpcMemory {
    fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
    fn kind(&self) -> BufferKind {
        BufferKind::Shared
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for RpcMemory {
    fn drop(&mut self) {
        for context in self.registered.get_mut().drain(..).filter_map(|c| c.upgrade()) {
            context.forget_memory(self.fd);
        }
        // SAFETY: memory that rpcmem gave, freed once; no context maps it any more.
        unsafe { (self.rpc.free)(self.at.as_ptr().cast()) };
    }
}
