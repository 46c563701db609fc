//! Byte buffers on a 64-byte boundary, so that panels can be viewed as `f32`, `f16` or whole SIMD registers; large ones on huge
//! pages.

use crate::memory::{self, OutOfMemory};

/// One cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Size and boundary of a huge page where the system has them (x86-64, aarch64 with 4 KiB pages).
const HUGE_PAGE: usize = 2 << 20;
/// Buffers from this size are mapped, on huge pages where the system grants them: a stream of weights then needs a page
/// walk per 2 MiB, not per 4 KiB.
const MAPPED_MIN_BYTES: usize = 2 * HUGE_PAGE;

/// A zero-initialised byte buffer whose first byte lies on a 64-byte boundary.
#[derive(Default)]
pub struct AlignedBytes {
    memory: Memory,
    len_bytes: usize,
}

enum Memory {
    Lines(Vec<Line>),
    /// An anonymous mapping; the buffer starts at `start`, on a huge page's boundary.
    Mapped {
        map: memmap2::MmapMut,
        start: usize,
    },
}

impl Default for Memory {
    fn default() -> Self {
        Self::Lines(Vec::new())
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        Self::copy_of(self)
    }
}

impl AlignedBytes {
    /// A buffer of `len_bytes` zeros, of a size that nobody outside decides: see [`Self::try_zeroed`].
    ///
    /// # Panics
    /// When the system has no such memory.
    #[must_use]
    pub fn zeroed(len_bytes: usize) -> Self {
        Self::try_zeroed(len_bytes, "a buffer").unwrap_or_else(|error| panic!("{error}"))
    }

    /// A buffer of `len_bytes` zeros, for `what`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn try_zeroed(len_bytes: usize, what: &'static str) -> Result<Self, OutOfMemory> {
        if len_bytes >= MAPPED_MIN_BYTES
            && let Some(memory) = mapped(len_bytes)
        {
            memory::ask(len_bytes, what)?;
            return Ok(Self { memory, len_bytes });
        }
        let lines = memory::filled(len_bytes.div_ceil(64), Line([0; 64]), what)?;
        Ok(Self { memory: Memory::Lines(lines), len_bytes })
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut out = Self::zeroed(bytes.len());
        out.as_mut_slice().copy_from_slice(bytes);
        out
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Lines(lines) => &bytemuck::cast_slice(lines)[..self.len_bytes],
            Memory::Mapped { map, start } => &map[*start..*start + self.len_bytes],
        }
    }

    /// The bytes, writable.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Lines(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len_bytes],
            Memory::Mapped { map, start } => &mut map[*start..*start + self.len_bytes],
        }
    }
}

/// Zeros in a mapping of their own; `None` when the system refuses one.
fn mapped(len_bytes: usize) -> Option<Memory> {
    let map = memmap2::MmapMut::map_anon(len_bytes.checked_add(HUGE_PAGE)?).ok()?;
    let start = map.as_ptr().align_offset(HUGE_PAGE);
    // A mapping's end lies within an allocation of `isize::MAX` bytes, so the offset is no more than a huge page.
    let fits = start <= HUGE_PAGE;
    // Only advice: without huge pages the buffer works as well.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    fits.then_some(Memory::Mapped { map, start })
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_aligned_and_equal() {
        for len in [0, 1, 63, 64, 65, 1000, MAPPED_MIN_BYTES - 1, MAPPED_MIN_BYTES, MAPPED_MIN_BYTES + 77] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let aligned = AlignedBytes::copy_of(&bytes);
            assert_eq!(aligned.as_slice(), bytes);
            assert_eq!(aligned.as_slice().as_ptr() as usize % 64, 0);
            let mut twin = aligned.clone();
            assert!(twin.iter().eq(aligned.iter()));
            twin.as_mut_slice().fill(1);
            assert_eq!(aligned.as_slice(), bytes, "a clone is a copy");
            assert!(AlignedBytes::zeroed(len).iter().all(|b| *b == 0));
        }
    }
}
