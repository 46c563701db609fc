//! Read-only memory mappings of whole files: the only module of this crate, with `lost` in it, that may be unsafe.
//!
//! The packed reader and the importers read files through [`Mapping`]. A mapping is shared with the page cache: mapped
//! pages are clean, so the system drops and reloads them as it likes.
//!
//! **What the caller owes.** Nobody may truncate or rewrite the file while it is mapped: the system would answer a read of a
//! lost page with `SIGBUS`, which ends the process. coexec writes its own files by rename, which never changes a mapped file.
//! A program may have [`report_lost_pages`] say what happened; an app that keeps models where others can write should copy
//! them to its own storage first.

#[cfg(unix)]
mod lost;

#[cfg(unix)]
pub use lost::report_lost_pages;

use std::{fs::File, io, ops::Range, path::Path};

/// A whole file, mapped read-only. The mapping outlives the file handle and the file's name.
pub struct Mapping {
    /// Before the mapping, so that it is dropped first: its addresses may be another's after it.
    #[cfg(unix)]
    _listed: lost::Listed,
    map: memmap2::Mmap,
}

impl Mapping {
    /// Maps the file at `path`. An empty file gives an empty mapping.
    ///
    /// # Errors
    /// When `path` is no regular file, or it cannot be opened or mapped. The caller knows the path and adds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        // A FIFO would block in open(2), a device has no length: look before opening, and again after.
        refuse_special(&std::fs::metadata(path)?)?;
        Self::of(&File::open(path)?)
    }

    /// Maps an open file, as it is now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(file: &File) -> io::Result<Self> {
        refuse_special(&file.metadata()?)?;
        // SAFETY: the map is private to `Self`, read-only, and hands out `&[u8]` bounded by its own lifetime. That the
        // file is not changed underneath is the documented duty of whoever owns the file (module head).
        #[expect(unsafe_code, reason = "mapping a file is unsafe because other processes can change it")]
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self {
            #[cfg(unix)]
            _listed: lost::Listed::new(&map),
            map,
        })
    }

    /// Asks the system to read `range` (bytes) soon, in the background. A range outside the file is cut; advice that the
    /// system does not know is ignored.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((at, len)) = self.cut(range) {
            // Only advice: when it is refused the pages are read on first use.
            let _ = self.map.advise_range(memmap2::Advice::WillNeed, at, len);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Lets the system drop the resident pages that lie wholly inside `range` (bytes); they are read again on next use.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((at, len)) = self.cut(range) {
            // Whole pages only: 64 KiB is a multiple of every page size in use.
            const PAGE: usize = 64 * 1024;
            let (start, end) = (at.next_multiple_of(PAGE), (at + len) / PAGE * PAGE);
            if start < end {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                #[expect(
                    unsafe_code,
                    reason = "MADV_DONTNEED is unsafe for mappings with private changes; this has none"
                )]
                // SAFETY: the mapping is file-backed, read-only and never written: dropping its pages cannot change what
                // a read sees.
                let _ = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    #[cfg(unix)]
    fn cut(&self, range: Range<usize>) -> Option<(usize, usize)> {
        let end = range.end.min(self.map.len());
        (range.start < end).then(|| (range.start, end - range.start))
    }
}

fn refuse_special(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")) }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i * 7 / 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = Mapping::open(&path).unwrap();
        assert_eq!(&map[..], bytes);
        map.will_need(10..usize::MAX);
        map.will_need(7..7);
        map.release(1..299_999);
        map.release(400_000..500_000);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&map[..], bytes, "released pages are read again, also after unlink");
    }

    #[test]
    fn odd_files_are_errors_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mapping::open(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Mapping::open(dir.path()).is_err());
        #[cfg(unix)]
        assert!(Mapping::open(Path::new("/dev/zero")).is_err());
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(Mapping::open(&empty).unwrap().is_empty());
    }
}
