//! The one way in which coexec writes a file: claimed before the work begins, there under its name whole or not at all.
//!
//! [`OutputFile::create`] finds out at once whether the file can be written, so that no hour of work ends at a name that is too
//! long. A regular file is written as a temporary beside it and renamed; through a link the file that it points to is
//! replaced, not the link. What is no regular file (a device, a FIFO) is written *into* and never replaced, and so is
//! the process's own standard output under whatever name.

mod partial;

pub use partial::{PartialDir, remove_partials};

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// What `OUT` may not be: the files that the work reads, by device and inode, whatever their names.
#[derive(Clone, Debug, Default)]
pub struct ReadFiles(Vec<(FileId, PathBuf)>);

impl ReadFiles {
    /// Nothing is read.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a file, or a directory with all the files in it. What is not there is left out.
    pub fn add(&mut self, path: &Path) {
        let Ok(metadata) = fs::metadata(path) else { return };
        let inside = if metadata.is_dir() {
            fs::read_dir(path).into_iter().flatten()
        } else {
            self.push(path);
            return;
        };
        inside
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .for_each(|p| self.push(&p));
    }

    /// Adds what is in `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn push(&mut self, path: &Path) {
        if let Ok(id) = FileId::of(path) {
            self.0.push((id, path.to_owned()));
        }
    }

    fn find(&self, id: &FileId) -> Option<&Path> {
        self.0.iter().find(|(read, _)| read == id).map(|(_, path)| path.as_path())
    }
}

impl<P: AsRef<Path>> FromIterator<P> for ReadFiles {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        let mut files = Self::none();
        paths.into_iter().for_each(|path| files.add(path.as_ref()));
        files
    }
}

/// A file, whatever it is called: device and inode (elsewhere its full path).
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileId(#[cfg(unix)] (u64, u64), #[cfg(not(unix))] PathBuf);

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        return fs::metadata(path).map(|metadata| Self::of_metadata(&metadata));
        #[cfg(not(unix))]
        return fs::canonicalize(path).map(Self);
    }

    #[cfg(unix)]
    fn of_metadata(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self((metadata.dev(), metadata.ino()))
    }
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}{hint}", path = path.display(), hint = hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// It is one of the files that are read.
    #[error("cannot write {path}: it is {read}, which is read here; name another file", path = path.display(), read = read.display())]
    IsRead {
        /// The file as it was named for writing.
        path: PathBuf,
        /// The same file as it was named for reading.
        read: PathBuf,
    },
    /// It is no place for a file.
    #[error("cannot write {path}: {reason}", path = path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: &'static str,
    },
}

impl OutputError {
    /// The kind of the system's answer; `InvalidInput` where it was not asked.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

/// What to do about a refusal of the system; empty when nothing is known.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free some space there, or choose another place",
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            ": check the permissions, or choose another place"
        }
        io::ErrorKind::NotFound => ": check the path; directories are not created",
        io::ErrorKind::FileTooLarge => ": the file system or a limit allows no file this large",
        _ => "",
    }
}

/// A file being written. Dropped without [`OutputFile::finish`] it leaves nothing, and what stood under its name stays.
#[derive(Debug)]
pub struct OutputFile {
    file: BufWriter<File>,
    place: Place,
    path: PathBuf,
    at_bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// A temporary beside the file, renamed at the end.
    Beside(partial::PartialFile),
    /// Bytes are kept in a nameless file and copied into this one at the end.
    Into(File),
    /// The file itself, for tests of failing devices.
    #[cfg(test)]
    Itself,
}

impl OutputFile {
    /// Claims `path`, which must be none of the files `read`. A FIFO is waited for until somebody reads it.
    ///
    /// # Errors
    /// When `path` is a directory, names one, lies in none, is write-protected, is one of `read`, or cannot be created.
    pub fn create(path: &Path, read: &ReadFiles) -> Result<Self, OutputError> {
        let failed = |action| move |source| OutputError::Io { path: path.to_owned(), action, source };
        let refused = |reason| Err(OutputError::Refused { path: path.to_owned(), reason });
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refused("the name ends in `/`; name a file");
        }
        let old = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("write")(error)),
        };
        if let Some(old) = &old {
            if old.is_dir() {
                return refused("it is a directory; name a file in it");
            }
            if let Some(read) = FileId::of(path).ok().and_then(|id| read.find(&id)) {
                return Err(OutputError::IsRead { path: path.to_owned(), read: read.to_owned() });
            }
            if let Some(stream) = standard_stream(old) {
                return Self::into(path.to_owned(), stream).map_err(failed("write"));
            }
            if !old.is_file() {
                let file = File::options().write(true).open(path).map_err(failed("write"))?;
                return Self::into(path.to_owned(), file).map_err(failed("write"));
            }
            if old.permissions().readonly() {
                return refused("it is write-protected; remove it first, or name another file");
            }
        }
        let target = resolve(path).map_err(failed("write"))?;
        if target.file_name().is_none() {
            return refused("the path names no file");
        }
        let action = if old.is_some() { "create a temporary file beside" } else { "create" };
        Self::beside(target, old.map(|old| old.permissions())).map_err(failed(action))
    }

    fn beside(path: PathBuf, permissions: Option<fs::Permissions>) -> io::Result<Self> {
        let (file, partial) = partial::PartialFile::beside(&path)?;
        if let Some(permissions) = permissions {
            // A file that is replaced keeps who may read it, where the file system knows that.
            let _ = file.set_permissions(permissions);
        }
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), place: Place::Beside(partial), path, at_bytes: 0 })
    }

    fn into(path: PathBuf, target: File) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file), place: Place::Into(target), path, at_bytes: 0 })
    }

    /// Writes into `file` itself, which is not renamed: for tests of failing devices.
    #[cfg(test)]
    pub(crate) fn over(file: File, path: &Path) -> Self {
        Self { file: BufWriter::new(file), place: Place::Itself, path: path.to_owned(), at_bytes: 0 }
    }

    /// The final path, links followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory for what the work needs until the file is complete: beside it, so that it is on the same device and has
    /// as much room, or where the system keeps temporary files when the file is a device.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn partial_dir(&self) -> Result<PartialDir, OutputError> {
        let dir = match self.place {
            Place::Into(_) => std::env::temp_dir(),
            _ => partial::directory_of(&self.path).to_owned(),
        };
        PartialDir::inside(&dir).map_err(self.failed("create a temporary directory beside"))
    }

    /// Where the next byte goes.
    pub(crate) fn at_bytes(&self) -> u64 {
        self.at_bytes
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> OutputError + use<> {
        let path = self.path.clone();
        move |source| OutputError::Io { path: path.clone(), action, source }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.write_all(bytes).map_err(self.failed("write"))
    }

    /// Writes zeros up to the next multiple of `align_bytes`.
    pub(crate) fn align(&mut self, align_bytes: u64) -> Result<(), OutputError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut missing = self.at_bytes.next_multiple_of(align_bytes) - self.at_bytes;
        while missing > 0 {
            let now = missing.min(ZEROS.len() as u64);
            self.put(&ZEROS[..now as usize])?;
            missing -= now;
        }
        Ok(())
    }

    /// Overwrites the first bytes and waits until everything is on the device. Returns the file as it is, to be read again.
    pub(crate) fn seal(&mut self, head: &[u8]) -> Result<File, OutputError> {
        let done = (|| {
            self.file.flush()?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(head)?;
            self.file.seek(SeekFrom::End(0))?;
            self.file.get_ref().sync_all()?;
            self.file.get_ref().try_clone()
        })();
        done.map_err(self.failed("write"))
    }

    /// Writes what `write` writes, and finishes.
    ///
    /// # Errors
    /// Those of `write` and of [`Self::finish`].
    pub fn fill(mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), OutputError> {
        write(&mut self).map_err(self.failed("write"))?;
        self.finish()
    }

    /// Gives the file its name once everything is on the device, replacing what was there; or copies it to where it goes.
    ///
    /// # Errors
    /// When the system refuses; then nothing has changed, or part of the bytes is in the device.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let (failed, not_renamed) = (self.failed("write"), self.failed("rename the temporary file to"));
        self.file.flush().map_err(&failed)?;
        match self.place {
            Place::Beside(partial) => {
                self.file.get_ref().sync_all().map_err(&failed)?;
                partial.rename(&self.path).map_err(not_renamed)?;
                // The name survives a power loss once the directory is synced. Not every file system can; the file is
                // whole either way.
                #[cfg(unix)]
                if let Some(Ok(dir)) = self.path.parent().map(File::open) {
                    let _ = dir.sync_all();
                }
                Ok(())
            }
            Place::Into(mut target) => {
                let file = self.file.get_mut();
                file.seek(SeekFrom::Start(0)).map_err(&failed)?;
                let mut piece = vec![0; 1 << 16];
                loop {
                    let bytes = file.read(&mut piece).map_err(&failed)?;
                    if bytes == 0 {
                        return target.flush().map_err(&failed);
                    }
                    target.write_all(&piece[..bytes]).map_err(&failed)?;
                }
            }
            #[cfg(test)]
            Place::Itself => Ok(()),
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.at_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a small file of coexec's own, whole or not at all, on the device when this returns.
///
/// # Errors
/// Those of [`OutputFile`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = OutputFile::create(path, &ReadFiles::none())?;
    out.put(bytes)?;
    out.finish()
}

/// The regular file that `path` stands for when links are followed, whether it is there or not.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    // As many links as Linux follows.
    let mut at = path.to_owned();
    for _ in 0..40 {
        let is_link = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_link {
            return Ok(at);
        }
        let to = fs::read_link(&at)?;
        at = at.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::other("too many links lead from one to the next"))
}

/// This process's standard output or error, when that is the file: a second handle would overwrite what was printed.
#[cfg(unix)]
fn standard_stream(file: &fs::Metadata) -> Option<File> {
    use std::os::fd::AsFd as _;
    let id = FileId::of_metadata(file);
    let (out, err) = (io::stdout(), io::stderr());
    [out.as_fd(), err.as_fd()]
        .into_iter()
        .filter_map(|stream| stream.try_clone_to_owned().ok().map(File::from))
        .find(|stream| stream.metadata().is_ok_and(|metadata| FileId::of_metadata(&metadata) == id))
}

#[cfg(not(unix))]
fn standard_stream(_: &fs::Metadata) -> Option<File> {
    None
}

#[cfg(test)]
mod tests;
