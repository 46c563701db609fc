//! Activation buffers that host and NPU share, with checked access and no `unsafe` for the caller.
//!
//! A buffer is a handle: clones share the memory, and the memory lives until the last handle *and* the last submit that
//! binds it are gone. At any time a buffer is in one of these states, and a call that does not fit errs at once:
//!
//! | state | host read | host write | bind as input | bind as output |
//! |---|---|---|---|---|
//! | free | yes | yes | yes | yes |
//! | read by the host or by graphs in flight | yes | busy | yes | busy |
//! | written by the host or by a graph in flight | busy | busy | busy | busy |
//!
//! A submit takes its buffers' states when it is called and gives them back before `wait` of its ticket returns (also when
//! nobody waits). Coherence: the end of a host write flushes, the start of a host read invalidates; on heap memory both
//! are nothing, on rpcmem/ION memory the device's [`HostMemory`] does what the cache mode needs.

use crate::NpuError;
use coexec_model::{align::AlignedBytes, memory::OutOfMemory};
use parking_lot::{ArcRwLockReadGuard, ArcRwLockWriteGuard, RawRwLock, RwLock};
use std::{any::Any, fmt, ops::Deref, ops::DerefMut, sync::Arc};

/// Where the memory of a buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// Ordinary memory; a device that needs its own copies it.
    Heap,
    /// Memory that the NPU maps (rpcmem, ION, DMA-BUF): no copies.
    Shared,
}

/// Memory behind a buffer. Devices implement it; callers see only [`NpuBuffer`].
pub trait HostMemory: Any + Send + Sync + fmt::Debug {
    /// The bytes.
    fn as_slice(&self) -> &[u8];
    /// The bytes, writable.
    fn as_mut_slice(&mut self) -> &mut [u8];
    /// Where they come from.
    fn kind(&self) -> BufferKind;
    /// Makes host writes visible to the NPU.
    fn flush(&self) {}
    /// Makes NPU writes visible to the host.
    fn invalidate(&self) {}
    /// For a device that looks for its own memory type (file descriptor, handle).
    fn as_any(&self) -> &dyn Any;
}

impl HostMemory for AlignedBytes {
    fn as_slice(&self) -> &[u8] {
        self.as_slice()
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
    fn kind(&self) -> BufferKind {
        BufferKind::Heap
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

type Memory = RwLock<Box<dyn HostMemory>>;

/// A buffer for one graph input or output. Any device's buffer can be bound at any device (so that a prompt can be
/// finished on another one); its own are the fastest.
#[derive(Clone)]
pub struct NpuBuffer {
    memory: Arc<Memory>,
    len_bytes: usize,
    kind: BufferKind,
}

impl NpuBuffer {
    /// A buffer over a device's memory.
    #[must_use]
    pub fn new(memory: Box<dyn HostMemory>) -> Self {
        let (len_bytes, kind) = (memory.as_slice().len(), memory.kind());
        Self { memory: Arc::new(RwLock::new(memory)), len_bytes, kind }
    }

    /// A zeroed buffer in ordinary memory, 64-byte aligned.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn heap(len_bytes: usize) -> Result<Self, OutOfMemory> {
        Ok(Self::new(Box::new(AlignedBytes::try_zeroed(len_bytes, "a buffer of the NPU")?)))
    }

    /// Size in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Where the memory comes from.
    #[must_use]
    pub fn kind(&self) -> BufferKind {
        self.kind
    }

    /// Whether both handles are of one buffer.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// Host access for reading. Never blocks.
    ///
    /// # Errors
    /// [`NpuError::BufferBusy`] while the host or a graph in flight writes the buffer.
    pub fn read(&self) -> Result<BufferRead, NpuError> {
        let guard = self.memory.try_read_arc().ok_or_else(|| NpuError::BufferBusy {
            tensor: "host read".to_owned(),
            advice: "wait for the graph that writes it, or end the host write",
        })?;
        guard.invalidate();
        Ok(BufferRead { guard })
    }

    /// Host access for writing; dropping it makes the bytes visible to the NPU. Never blocks.
    ///
    /// # Errors
    /// [`NpuError::BufferBusy`] while anybody reads or writes the buffer.
    pub fn write(&self) -> Result<BufferWrite, NpuError> {
        let guard = self.memory.try_write_arc().ok_or_else(|| NpuError::BufferBusy {
            tensor: "host write".to_owned(),
            advice: "wait for the graphs that use it, or end the other host access",
        })?;
        Ok(BufferWrite { guard })
    }
}

impl fmt::Debug for NpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NpuBuffer({} bytes, {:?})", self.len_bytes, self.kind)
    }
}

/// Read access to a buffer: derefs to its bytes.
pub struct BufferRead {
    guard: ArcRwLockReadGuard<RawRwLock, Box<dyn HostMemory>>,
}

impl BufferRead {
    /// The memory, for a device that looks for its own type.
    #[must_use]
    pub fn memory(&self) -> &dyn HostMemory {
        &**self.guard
    }
}

impl Deref for BufferRead {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.guard.as_slice()
    }
}

impl fmt::Debug for BufferRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferRead({} bytes)", self.len())
    }
}

/// Write access to a buffer: derefs to its bytes.
pub struct BufferWrite {
    guard: ArcRwLockWriteGuard<RawRwLock, Box<dyn HostMemory>>,
}

impl BufferWrite {
    /// The memory, for a device that looks for its own type.
    #[must_use]
    pub fn memory(&self) -> &dyn HostMemory {
        &**self.guard
    }
}

impl Deref for BufferWrite {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.guard.as_slice()
    }
}

impl DerefMut for BufferWrite {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.guard.as_mut_slice()
    }
}

impl Drop for BufferWrite {
    fn drop(&mut self) {
        self.guard.flush();
    }
}

impl fmt::Debug for BufferWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferWrite({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_exclusive() {
        let buffer = NpuBuffer::heap(3).unwrap();
        let twin = buffer.clone();
        assert!(buffer.same_as(&twin) && !buffer.same_as(&NpuBuffer::heap(3).unwrap()));
        let mut w = buffer.write().expect("free");
        w.copy_from_slice(&[1, 2, 3]);
        assert!(matches!(twin.read(), Err(NpuError::BufferBusy { .. })));
        assert!(matches!(twin.write(), Err(NpuError::BufferBusy { .. })));
        drop(w);
        let (a, b) = (twin.read().expect("free"), buffer.read().expect("readers share"));
        assert_eq!((&*a, &*b), (&[1u8, 2, 3][..], &[1u8, 2, 3][..]));
        assert!(twin.write().is_err());
    }
}
