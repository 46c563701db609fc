//! A directory of what is expensive to make: found by a key of what it was made from, made once, kept below a size.
//!
//! ```text
//! ROOT/<kind>/<key>/            an entry: what its maker wrote. It appears when it is complete
//! ROOT/locks/<kind>.<key>       locked while somebody makes the entry
//! ROOT/tmp/<kind>.<key>.<pid>/  what is being made, or is on its way out
//! ```
//! Whoever uses an entry holds a shared lock on its directory, and only an entry that nobody holds is evicted. All locks
//! are the system's (`flock`): they go with their process, however that ends.

use crate::RuntimeError;
use coexec_model::output::write_whole;
use coexec_scheduler::CancelToken;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Static graphs that Qualcomm's compiler made.
pub const NPU: &str = "npu";
/// Every kind of entry: nothing else below the root is listed or removed.
const KINDS: [&str; 1] = [NPU];
/// Most bytes that all entries take together, when nobody says.
pub const DEFAULT_LIMIT_BYTES: u64 = 8 << 30;
/// Beside what the maker wrote: one line that says what the entry is.
const LABEL: &str = "label.txt";
/// How often a lock that somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(25);

/// `COEXEC_CACHE_DIR`, else `XDG_CACHE_HOME/coexec`, else `~/.cache/coexec`.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // A relative XDG directory is to be ignored.
    let xdg = || dir("XDG_CACHE_HOME").filter(|d| d.is_absolute()).map(|d| d.join("coexec"));
    dir("COEXEC_CACHE_DIR").or_else(xdg).or_else(|| dir("HOME").map(|d| d.join(".cache/coexec")))
}

/// A cache; nothing is made on the disk before the first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
    limit_bytes: u64,
}

/// What to find or make.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// One of this module's kinds, e.g. [`NPU`].
    pub kind: &'static str,
    /// A file name that holds a hash of everything the entry depends on.
    pub key: &'a str,
    /// One line for people.
    pub label: &'a str,
}

/// An entry that stays until this is dropped.
#[derive(Debug)]
pub struct InUse {
    path: PathBuf,
    _lock: File,
}

impl InUse {
    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An entry as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Kind.
    pub kind: String,
    /// Key: the name of its directory.
    pub key: String,
    /// What it is, in words.
    pub label: String,
    /// Its directory.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was used last, in seconds since 1970.
    pub used_unix_s: u64,
    /// Whether a process uses it now.
    pub in_use: bool,
}

/// What [`Cache::clear`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// Entries that are gone.
    pub removed: Vec<Entry>,
    /// Entries that stay, because they are in use.
    pub kept: Vec<Entry>,
}

impl Cache {
    /// A cache in a directory, which need not be there.
    #[must_use]
    pub fn new(root: PathBuf, limit_bytes: u64) -> Self {
        Self { root, limit_bytes }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Most bytes of all entries.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The entry, when `check` takes what is there (`None` is an entry that is not complete); else `make` writes it into an empty directory, which then gets the
    /// entry's name. One process makes, others wait for it and then use what it made; `waiting` is called once with the
    /// id of the process that is waited for. Afterwards the entries that were not used for longest are removed until all
    /// together keep the limit.
    ///
    /// # Errors
    /// Those of `make`, and of `check` on what was made; a directory that cannot be written; [`RuntimeError::Cancelled`].
    pub fn get_or_make<T>(
        &self,
        wanted: Wanted<'_>,
        cancel: &CancelToken,
        waiting: &mut dyn FnMut(Option<u32>),
        check: &mut dyn FnMut(&Path) -> Result<Option<T>, RuntimeError>,
        make: &mut dyn FnMut(&Path) -> Result<(), RuntimeError>,
    ) -> Result<(InUse, T), RuntimeError> {
        if let Ok(Some(found)) = self.look(wanted, check) {
            return Ok(found);
        }
        let _lock = self.lock(wanted, cancel, waiting)?;
        // It may have been made while this process waited.
        match self.look(wanted, check) {
            Ok(Some(found)) => return Ok(found),
            Err(error) => tracing::warn!(%error, "what the cache holds is not used; it is made again"),
            Ok(None) => {}
        }
        // Under the lock nobody else makes this entry: what is left was left by a process that died.
        for old in self.unfinished(wanted) {
            remove_dir(&old)?;
        }
        let temp = self.temp(wanted, "");
        let guard = Unfinished(temp.clone());
        fs::create_dir_all(&temp).map_err(|e| self.cannot_write(&temp, &e))?;
        make(&temp)?;
        write_whole(&temp.join(LABEL), wanted.label.as_bytes())?;
        let path = self.path(wanted);
        let parent = self.root.join(wanted.kind);
        fs::create_dir_all(&parent).map_err(|e| self.cannot_write(&parent, &e))?;
        let old = self.temp(wanted, ".old");
        match fs::rename(&path, &old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.cannot_write(&path, &e)),
            _ => {}
        }
        fs::rename(&temp, &path).map_err(|e| self.cannot_write(&path, &e))?;
        drop(guard);
        remove_dir(&old)?;
        match self.look(wanted, check) {
            Ok(Some(found)) => {
                self.evict();
                Ok(found)
            }
            Err(error) => Err(error),
            Ok(None) => Err(cache_error(&path, "vanished as soon as it was made; try again")),
        }
    }

    /// Whether entries can be made: makes the directory and a file in it, which is removed again.
    ///
    /// # Errors
    /// Says what cannot be written, and what to do.
    pub fn probe(&self) -> Result<(), RuntimeError> {
        let temp = self.root.join("tmp");
        let file = temp.join(format!("probe.{}", std::process::id()));
        let written =
            fs::create_dir_all(&temp).and_then(|()| fs::write(&file, b"")).and_then(|()| fs::remove_file(&file));
        written.map_err(|e| self.cannot_write(&temp, &e))
    }

    /// All entries, those that were used last first.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for kind in KINDS {
            for entry in children(&self.root.join(kind)) {
                let (Ok(meta), Some(key)) = (entry.metadata(), entry.file_name().to_str().map(str::to_owned)) else {
                    continue;
                };
                if !meta.is_dir() {
                    continue;
                }
                let path = entry.path();
                let used = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
                entries.push(Entry {
                    kind: kind.to_owned(),
                    label: fs::read_to_string(path.join(LABEL)).unwrap_or_default().trim().to_owned(),
                    bytes: bytes_below(&path),
                    used_unix_s: used.map_or(0, |d| d.as_secs()),
                    in_use: File::open(&path)
                        .is_ok_and(|dir| !try_lock(&dir, FlockOperation::NonBlockingLockExclusive)),
                    key,
                    path,
                });
            }
        }
        entries.sort_by(|a, b| b.used_unix_s.cmp(&a.used_unix_s).then_with(|| a.key.cmp(&b.key)));
        entries
    }

    /// Removes the entries that `which` names, unless they are in use, and what dead processes left half-made.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn clear(&self, which: &dyn Fn(&Entry) -> bool) -> Result<Cleared, RuntimeError> {
        let mut done = Cleared::default();
        for entry in self.list().into_iter().filter(|entry| which(entry)) {
            if self.remove(&entry)? { done.removed.push(entry) } else { done.kept.push(entry) }
        }
        for dir in children(&self.root.join("tmp")).into_iter().map(|e| e.path()) {
            // `<kind>.<key>.<pid>…`: whoever still makes it holds the lock of `<kind>.<key>`.
            let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let lock = name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
            let free = match File::open(self.root.join("locks").join(lock)) {
                Ok(file) => try_lock(&file, FlockOperation::NonBlockingLockExclusive),
                Err(_) => true,
            };
            // A file that is there for a moment: see `probe`.
            if free && !name.starts_with("probe.") {
                remove_dir(&dir)?;
            }
        }
        Ok(done)
    }

    /// Removes entries, oldest use first, until the limit holds. What cannot be removed is left for the next time.
    fn evict(&self) {
        let mut entries = self.list();
        let mut total: u64 = entries.iter().map(|e| e.bytes).sum();
        while total > self.limit_bytes {
            let Some(oldest) = entries.pop() else { return };
            match self.remove(&oldest) {
                Ok(true) => {
                    tracing::info!(
                        entry = oldest.label,
                        bytes = oldest.bytes,
                        "removed from the cache, which was full"
                    );
                    total -= oldest.bytes;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the cache is larger than its limit"),
            }
        }
    }

    /// Removes an entry that nobody uses; whether it is gone.
    fn remove(&self, entry: &Entry) -> Result<bool, RuntimeError> {
        let Ok(dir) = File::open(&entry.path) else { return Ok(true) };
        if !try_lock(&dir, FlockOperation::NonBlockingLockExclusive) {
            return Ok(false);
        }
        // Out of the way first: nobody finds half of it.
        let old = self.root.join("tmp").join(format!("{}.{}.{}.old", entry.kind, entry.key, std::process::id()));
        let moved = fs::create_dir_all(self.root.join("tmp")).and_then(|()| fs::rename(&entry.path, &old));
        moved.map_err(|e| self.cannot_write(&entry.path, &e))?;
        remove_dir(&old)?;
        Ok(true)
    }

    /// What is there, held: `None` when there is nothing, or nothing complete.
    fn look<T>(
        &self,
        wanted: Wanted<'_>,
        check: &mut dyn FnMut(&Path) -> Result<Option<T>, RuntimeError>,
    ) -> Result<Option<(InUse, T)>, RuntimeError> {
        let path = self.path(wanted);
        let Ok(dir) = File::open(&path) else { return Ok(None) };
        // Whoever lists or evicts holds it for a moment.
        let held = (0..20).any(|_| {
            let held = try_lock(&dir, FlockOperation::NonBlockingLockShared);
            if !held {
                std::thread::sleep(RETRY / 5);
            }
            held
        });
        if !held || !is_same_file(&dir, &path) {
            return Ok(None);
        }
        Ok(check(&path)?.map(|found| {
            // Not even a directory that may not be written stops the use of what is there.
            let _ = dir.set_modified(SystemTime::now());
            (InUse { path, _lock: dir }, found)
        }))
    }

    /// Waits until nobody else makes the entry.
    fn lock(
        &self,
        wanted: Wanted<'_>,
        cancel: &CancelToken,
        waiting: &mut dyn FnMut(Option<u32>),
    ) -> Result<File, RuntimeError> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir).map_err(|e| self.cannot_write(&dir, &e))?;
        let path = dir.join(format!("{}.{}", wanted.kind, wanted.key));
        let mut told = false;
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = file.map_err(|e| self.cannot_write(&path, &e))?;
            if try_lock(&file, FlockOperation::NonBlockingLockExclusive) && is_same_file(&file, &path) {
                // For whoever waits; that it cannot be written matters to nobody.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                return Ok(file);
            }
            if !std::mem::replace(&mut told, true) {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                waiting(pid);
            }
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            std::thread::sleep(RETRY);
        }
    }

    fn path(&self, wanted: Wanted<'_>) -> PathBuf {
        self.root.join(wanted.kind).join(wanted.key)
    }

    fn temp(&self, wanted: Wanted<'_>, suffix: &str) -> PathBuf {
        self.root.join("tmp").join(format!("{}.{}.{}{suffix}", wanted.kind, wanted.key, std::process::id()))
    }

    /// Directories of makers of this entry.
    fn unfinished(&self, wanted: Wanted<'_>) -> Vec<PathBuf> {
        let prefix = format!("{}.{}.", wanted.kind, wanted.key);
        let all = children(&self.root.join("tmp")).into_iter();
        let mine = |name: &OsString| name.to_str().is_some_and(|n| n.starts_with(&prefix));
        all.filter(|e| mine(&e.file_name())).map(|e| e.path()).collect()
    }

    fn cannot_write(&self, path: &Path, error: &io::Error) -> RuntimeError {
        let root = self.root.display();
        let reason = match error.kind() {
            io::ErrorKind::StorageFull => {
                format!("cannot be written: the disk of `{root}` is full; `coexec cache clear` makes room")
            }
            _ => format!(
                "cannot be written ({error}); make `{root}` writable or name another directory in COEXEC_CACHE_DIR"
            ),
        };
        cache_error(path, &reason)
    }
}

fn cache_error(path: &Path, reason: &str) -> RuntimeError {
    RuntimeError::Cache { path: path.to_owned(), reason: reason.to_owned() }
}

/// Removed when dropped.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed or never made: then there is nothing. Otherwise the next maker tries again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes a directory, or a file that stands where one is expected.
fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_dir() => fs::remove_file(path),
        _ => fs::remove_dir_all(path),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cache_error(path, &format!("cannot be removed: {e}"))),
        _ => Ok(()),
    }
}

fn try_lock(file: &File, operation: FlockOperation) -> bool {
    flock(file, operation).is_ok()
}

/// Whether an open file is what stands at the path now.
fn is_same_file(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn children(dir: &Path) -> Vec<fs::DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten().collect()
}

/// Bytes of all files below a directory.
fn bytes_below(dir: &Path) -> u64 {
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    children(dir).into_iter().map(size).sum()
}

#[cfg(test)]
mod tests;
