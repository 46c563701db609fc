//! The file being written: a temporary beside its final path, which appears whole or not at all.

use super::PackedError;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A temporary file, removed on drop unless [`Output::publish`] gave it its name.
#[derive(Debug)]
pub(crate) struct Output {
    file: BufWriter<File>,
    temp: Option<PathBuf>,
    path: PathBuf,
    at_bytes: u64,
}

impl Output {
    /// Creates a temporary beside `path`, which must be free or a regular file.
    pub(crate) fn create(path: &Path) -> Result<Self, PackedError> {
        let refuse = |kind, reason| Err(PackedError::io(path, "write", io::Error::new(kind, reason)));
        match std::fs::metadata(path) {
            Ok(m) if m.is_dir() => return refuse(io::ErrorKind::IsADirectory, "it is a directory; name a file"),
            Ok(m) if !m.is_file() => return refuse(io::ErrorKind::InvalidInput, "it is no regular file"),
            _ => {}
        }
        let Some(name) = path.file_name() else {
            return refuse(io::ErrorKind::InvalidInput, "the path names no file");
        };
        // Through a link the file that it points to is replaced, not the link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // Two writers of one path, in one process or two, must not share a temporary.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mut temp_name = std::ffi::OsString::from(".");
        temp_name.push(name);
        temp_name.push(format!(".{}-{}.partial", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let temp = path.with_file_name(temp_name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temp)
            .map_err(|e| PackedError::io(&path, "create a temporary file beside", e))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), temp: Some(temp), path, at_bytes: 0 })
    }

    /// Writes into `file` itself, which is not renamed: for tests of failing devices.
    #[cfg(test)]
    pub(crate) fn over(file: File, path: &Path) -> Self {
        Self { file: BufWriter::new(file), temp: None, path: path.to_owned(), at_bytes: 0 }
    }

    /// The final path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next byte goes.
    pub(crate) fn at_bytes(&self) -> u64 {
        self.at_bytes
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), PackedError> {
        self.file.write_all(bytes).map_err(|e| PackedError::io(&self.path, "write", e))?;
        self.at_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to the next multiple of `align_bytes`.
    pub(crate) fn align(&mut self, align_bytes: u64) -> Result<(), PackedError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut missing = self.at_bytes.next_multiple_of(align_bytes) - self.at_bytes;
        while missing > 0 {
            let now = missing.min(ZEROS.len() as u64);
            self.write(&ZEROS[..now as usize])?;
            missing -= now;
        }
        Ok(())
    }

    /// Overwrites the first bytes and waits until everything is on the device. Returns the path of the temporary.
    pub(crate) fn seal(&mut self, head: &[u8]) -> Result<&Path, PackedError> {
        let done = (|| {
            self.file.flush()?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(head)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        })();
        done.map_err(|e| PackedError::io(&self.path, "write", e))?;
        Ok(self.temp.as_deref().unwrap_or(&self.path))
    }

    /// Gives the sealed file its name, replacing what was there.
    pub(crate) fn publish(mut self) -> Result<(), PackedError> {
        let Some(temp) = self.temp.as_ref() else { return Ok(()) };
        std::fs::rename(temp, &self.path)
            .map_err(|e| PackedError::io(&self.path, "rename the temporary file to", e))?;
        self.temp = None;
        // The name survives a power loss once the directory is synced. Not every file system can; the file is whole
        // either way.
        #[cfg(unix)]
        if let Some(Ok(dir)) = self.path.parent().map(File::open) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temp) = self.temp.take()
            && let Err(error) = std::fs::remove_file(&temp)
        {
            tracing::warn!(path = %temp.display(), %error, "temporary file stays behind");
        }
    }
}
