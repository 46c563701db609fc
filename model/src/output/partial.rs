//! Unfinished outputs: named so that nobody's own file is ever taken for one, locked while their process lives, and removed by
//! the next run when it does not.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

const PREFIX: &str = ".coexec-";
const SUFFIX: &str = ".partial";
/// Random letters between the two.
const RANDOM: usize = 6;

/// What this process is making now, for an end that runs no destructors.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes every unfinished output of this process: for a program that is about to end without unwinding.
pub fn remove_partials() {
    let live = LIVE.lock().map(|mut live| std::mem::take(&mut *live)).unwrap_or_default();
    live.iter().for_each(|path| remove(path));
}

/// Removes a file or a directory; what is gone already is fine.
fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "an unfinished file stays behind");
        }
        _ => {}
    }
}

/// An entry of [`LIVE`], and what it names; both go when this is dropped.
#[derive(Debug)]
struct Live(Option<PathBuf>);

impl Live {
    fn new(path: PathBuf) -> Self {
        if let Ok(mut live) = LIVE.lock() {
            live.push(path.clone());
        }
        Self(Some(path))
    }

    fn forget(&mut self) -> Option<PathBuf> {
        let path = self.0.take()?;
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|other| *other != path);
        }
        Some(path)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(path) = self.forget() {
            remove(&path);
        }
    }
}

/// A temporary file, gone on drop unless it was renamed.
#[derive(Debug)]
pub(super) struct PartialFile {
    live: Live,
    /// Holds the lock.
    _file: File,
}

impl PartialFile {
    /// A new file in the directory of `path`. Unfinished ones there whose processes are gone are removed.
    pub(super) fn beside(path: &Path) -> io::Result<(File, Self)> {
        let dir = directory_of(path);
        sweep(dir);
        let mut last = None;
        // Another process that sweeps can take a file away between its creation and its lock.
        for _ in 0..16 {
            let mut builder = builder();
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let (file, path) = builder.tempfile_in(dir)?.into_parts();
            let live = Live::new(path.keep().map_err(|e| e.error)?);
            if lock(&file, true) != Lock::Lost && is_there(&file) {
                return Ok((file.try_clone()?, Self { live, _file: file }));
            }
            last = Some(live);
        }
        drop(last);
        Err(io::Error::other("other processes remove the temporary file again and again"))
    }

    /// Gives the file its name.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        let Some(path) = self.live.0.as_ref() else { return Ok(()) };
        fs::rename(path, to)?;
        self.live.forget();
        Ok(())
    }
}

/// A temporary directory inside another, gone on drop with what is in it.
#[derive(Debug)]
pub struct PartialDir {
    live: Live,
    /// Holds the lock.
    _dir: File,
}

impl PartialDir {
    /// A new directory in `dir`. Unfinished ones there whose processes are gone are removed.
    ///
    /// # Errors
    /// When `dir` is none, or cannot be written.
    pub fn inside(dir: &Path) -> io::Result<Self> {
        sweep(dir);
        for _ in 0..16 {
            let live = Live::new(builder().tempdir_in(dir)?.keep());
            let Some(handle) = live.0.as_ref().and_then(|path| File::open(path).ok()) else { continue };
            if lock(&handle, true) != Lock::Lost && live.0.as_ref().is_some_and(|path| path.is_dir()) {
                return Ok(Self { live, _dir: handle });
            }
        }
        Err(io::Error::other("other processes remove the temporary directory again and again"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.live.0.as_deref().unwrap_or(Path::new(""))
    }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    builder
}

/// The directory that a path lies in.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what killed processes left in a directory. Nothing depends on it, so nothing is said when it fails.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        let is_ours = random.is_some_and(|r| r.len() == RANDOM && r.bytes().all(|b| b.is_ascii_alphanumeric()));
        let is_plain = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir());
        if !is_ours || !is_plain {
            continue;
        }
        // What cannot be locked is in use, or nobody can tell.
        if let Ok(file) = File::open(entry.path())
            && lock(&file, false) == Lock::Held
        {
            remove(&entry.path());
        }
    }
}

#[derive(PartialEq, Eq)]
enum Lock {
    Held,
    /// Somebody else has it.
    Lost,
    /// The file system knows no locks.
    Unknown,
}

#[cfg(unix)]
fn lock(file: &File, wait: bool) -> Lock {
    use rustix::fs::{FlockOperation, flock};
    let operation = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
    match rustix::io::retry_on_intr(|| flock(file, operation)) {
        Ok(()) => Lock::Held,
        Err(rustix::io::Errno::WOULDBLOCK) => Lock::Lost,
        Err(_) => Lock::Unknown,
    }
}

#[cfg(not(unix))]
fn lock(_: &File, _: bool) -> Lock {
    Lock::Unknown
}

/// Whether a file still has a name.
fn is_there(file: &File) -> bool {
    #[cfg(unix)]
    return file.metadata().is_ok_and(|metadata| std::os::unix::fs::MetadataExt::nlink(&metadata) > 0);
    #[cfg(not(unix))]
    return file.metadata().is_ok();
}
