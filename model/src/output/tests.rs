//! Outputs in all disguises: what is read, devices, FIFOs, links, names that cannot be, and what killed processes leave.

use super::*;
use std::ffi::OsString;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_whole(path, bytes)
}

fn refusal(path: &Path, read: &ReadFiles) -> String {
    let error = OutputFile::create(path, read).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let dir = dir();
    let path = dir.path().join("out");
    let mut out = OutputFile::create(&path, &ReadFiles::none()).unwrap();
    out.put(b"half").unwrap();
    assert!(!path.exists());
    drop(out);
    assert!(names(dir.path()).is_empty());
    write(&path, b"old").unwrap();
    let mut out = OutputFile::create(&path, &ReadFiles::none()).unwrap();
    out.put(b"newer").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    out.finish().unwrap();
    assert_eq!((fs::read(&path).unwrap(), names(dir.path()).len()), (b"newer".to_vec(), 1));
}

#[test]
fn two_writers_of_one_file_do_not_meet() {
    let dir = dir();
    let path = dir.path().join("out");
    let [mut first, mut second] = [(); 2].map(|()| OutputFile::create(&path, &ReadFiles::none()).unwrap());
    first.put(b"first").unwrap();
    second.put(b"second").unwrap();
    first.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    second.finish().unwrap();
    assert_eq!((fs::read(&path).unwrap(), names(dir.path()).len()), (b"second".to_vec(), 1));
}

#[cfg(unix)]
#[test]
fn what_is_read_is_not_written_under_any_name() {
    use std::os::unix::fs::symlink;
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("model")).unwrap();
    for file in ["source", "model/config.json", "model/notes"] {
        fs::write(at(file), b"precious").unwrap();
    }
    symlink(at("source"), at("link")).unwrap();
    symlink("link", at("link to link")).unwrap();
    symlink("model", at("other")).unwrap();
    fs::hard_link(at("source"), at("hard")).unwrap();
    let read: ReadFiles = [at("source"), at("model"), at("not there")].iter().collect();
    for name in
        ["source", "link", "link to link", "hard", "model/../source", "model/config.json", "model/notes", "other/notes"]
    {
        let error = refusal(&at(name), &read);
        assert!(error.contains("which is read here") && error.contains("name another file"), "{error}");
    }
    // The same for what is read through a link.
    assert!(refusal(&at("source"), &[at("link")].iter().collect()).contains("link"));
    for name in ["new", "model/new"] {
        OutputFile::create(&at(name), &read).unwrap().finish().unwrap();
    }
    assert_eq!(fs::read(at("source")).unwrap(), b"precious");
}

#[cfg(unix)]
#[test]
fn links_are_followed_also_to_nothing() {
    use std::os::unix::fs::symlink;
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    symlink("sub/real", at("link")).unwrap();
    for text in [b"once", b"more"] {
        write(&at("link"), text).unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("sub/real")).unwrap(), text);
    }
    symlink("loop", at("loop")).unwrap();
    refusal(&at("loop"), &ReadFiles::none());
    symlink("nowhere/file", at("lost")).unwrap();
    assert!(refusal(&at("lost"), &ReadFiles::none()).contains("directories are not created"));
    assert_eq!(names(dir.path()), ["link", "loop", "lost", "sub"]);
}

#[cfg(unix)]
#[test]
fn devices_and_fifos_are_written_into() {
    let dir = dir();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let long = vec![b'x'; 200_000];
    let read = std::thread::scope(|s| {
        let reader = s.spawn(|| fs::read(&fifo).unwrap());
        write(&fifo, &long).unwrap();
        reader.join().unwrap()
    });
    assert!(read == long && !fifo.is_file() && fifo.exists());
    write(Path::new("/dev/null"), b"away").unwrap();
    assert!(!Path::new("/dev/null").is_file());
    if Path::new("/dev/full").exists() {
        let error = write(Path::new("/dev/full"), b"too much").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("free some space"), "{error}");
    }
}

#[test]
fn names_that_cannot_be_are_refused_at_once() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("file"), b"").unwrap();
    let none = ReadFiles::none();
    let of = |path: &Path| refusal(path, &none);
    assert!(of(&at("sub")).contains("directory"));
    assert!(of(&at("new/")).contains("ends in `/`"));
    assert!(of(&at("sub/..")).contains("directory"));
    assert!(of(&at("no/such")).contains("directories are not created"));
    of(&at("file/below"));
    of(&at(&"n".repeat(256)));
    assert!(OutputFile::create(Path::new(""), &none).is_err());
    // A name as long as names may be has room for no more letters, and needs none.
    write(&at(&"n".repeat(255)), b"").unwrap();
    // A name that is no UTF-8.
    #[cfg(unix)]
    write(&dir.path().join(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff, 0xfe])), b"").unwrap();
    assert_eq!(names(dir.path()).len(), 4);
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_mode_and_a_protected_one_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = dir();
    let path = dir.path().join("out");
    write(&path, b"old").unwrap();
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    // What the process's mask leaves, as for every new file.
    fs::write(dir.path().join("plain"), b"").unwrap();
    assert_eq!(mode(), fs::metadata(dir.path().join("plain")).unwrap().permissions().mode() & 0o777);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    write(&path, b"new").unwrap();
    assert_eq!((mode(), fs::read(&path).unwrap()), (0o640, b"new".to_vec()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(write(&path, b"newer").unwrap_err().to_string().contains("write-protected"));
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn what_killed_processes_left_goes_and_nothing_else() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    // Of a dead process: no lock. A directory of one as well.
    fs::write(at(".coexec-aB3dE6.partial"), b"half").unwrap();
    fs::create_dir(at(".coexec-aaaaaa.partial")).unwrap();
    fs::write(at(".coexec-aaaaaa.partial/part"), b"half").unwrap();
    // Of living ones, and what only looks like it.
    let mine = OutputFile::create(&at("mine"), &ReadFiles::none()).unwrap();
    let making = PartialDir::inside(dir.path()).unwrap();
    let others = [".coexec-notes.partial", ".coexec-aB3dE6.partial.txt", ".coexec-aB3-E6.partial", "out.1.partial"];
    others.iter().for_each(|name| fs::write(at(name), b"the user's").unwrap());
    std::os::unix::fs::symlink("out.1.partial", at(".coexec-bbbbbb.partial")).unwrap();
    write(&at("out"), b"new").unwrap();
    assert!(!at(".coexec-aB3dE6.partial").exists() && !at(".coexec-aaaaaa.partial").exists());
    assert!(others.iter().all(|name| at(name).exists()) && at(".coexec-bbbbbb.partial").is_symlink());
    assert!(making.path().is_dir());
    mine.finish().unwrap();
    drop(making);
    assert_eq!(names(dir.path()).len(), others.len() + 3);
}
