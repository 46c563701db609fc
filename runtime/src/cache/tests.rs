//! The cache as its users meet it: made once, waited for, kept below a size, never taken from under anybody.

use super::*;
use std::sync::{
    Arc, Barrier,
    atomic::{AtomicUsize, Ordering},
};

fn wanted(key: &str) -> Wanted<'_> {
    Wanted { kind: NPU, key, label: "a model" }
}

/// An entry is complete with a file `whole`, whose bytes are its value.
fn check(path: &Path) -> Result<Option<Vec<u8>>, RuntimeError> {
    match fs::read(path.join("whole")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        whole => whole.map(Some).map_err(|e| cache_error(path, &e.to_string())),
    }
}

fn get(cache: &Cache, key: &str, bytes: usize) -> Result<(InUse, Vec<u8>), RuntimeError> {
    let mut make =
        |dir: &Path| fs::write(dir.join("whole"), vec![7; bytes]).map_err(|e| cache_error(dir, &e.to_string()));
    cache.get_or_make(wanted(key), &CancelToken::new(), &mut |_| {}, &mut check, &mut make)
}

fn age(cache: &Cache, key: &str, seconds: u64) {
    let dir = File::open(cache.root().join(NPU).join(key)).expect("is there");
    dir.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("ours");
}

fn keys(cache: &Cache) -> Vec<String> {
    cache.list().into_iter().map(|e| e.key).collect()
}

#[test]
fn an_entry_is_made_once_and_again_when_it_is_not_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path().join("not/yet"), 1 << 20);
    assert_eq!(cache.list(), []);
    let made = AtomicUsize::new(0);
    let get = || {
        let mut make = |dir: &Path| {
            made.fetch_add(1, Ordering::Relaxed);
            fs::write(dir.join("whole"), b"x").map_err(|e| cache_error(dir, &e.to_string()))
        };
        let (held, value) =
            cache.get_or_make(wanted("a"), &CancelToken::new(), &mut |_| {}, &mut check, &mut make).expect("makes");
        assert_eq!(value, b"x");
        held.path().to_owned()
    };
    let path = get();
    assert_eq!((get(), made.load(Ordering::Relaxed)), (path.clone(), 1));
    let listed = cache.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].label.as_str(), listed[0].bytes, listed[0].in_use), ("a model", 8, false));
    fs::remove_file(path.join("whole")).expect("ours");
    fs::write(path.join("stale"), b"y").expect("ours");
    get();
    assert_eq!(made.load(Ordering::Relaxed), 2);
    assert!(!path.join("stale").exists(), "what was there is gone");
    assert_eq!(children(&cache.root().join("tmp")).len(), 0, "nothing half-made stays");
}

#[test]
fn a_maker_that_fails_or_is_cancelled_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path().to_owned(), 1 << 20);
    let mut make = |dir: &Path| {
        fs::write(dir.join("half"), b"x").expect("ours");
        Err(RuntimeError::Cancelled)
    };
    let error =
        cache.get_or_make(wanted("a"), &CancelToken::new(), &mut |_| {}, &mut check, &mut make).expect_err("cancelled");
    assert!(matches!(error, RuntimeError::Cancelled));
    assert_eq!(cache.list(), []);
    assert_eq!(children(&dir.path().join("tmp")).len(), 0);
    // Of a process that was killed: what it left goes when somebody makes the same, or with `clear`.
    let left = dir.path().join("tmp/npu.a.4000000000");
    fs::create_dir(&left).expect("ours");
    get(&cache, "a", 1).expect("makes");
    assert!(!left.exists());
    fs::create_dir(&left).expect("ours");
    cache.clear(&|_| false).expect("ours");
    assert!(!left.exists());
}

#[test]
fn two_that_want_the_same_make_it_once_and_the_second_says_that_it_waits() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path().to_owned(), 1 << 20);
    let (made, waited) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (started, go_on) = (Barrier::new(2), Barrier::new(2));
    let get = |slow: bool| {
        let mut make = |dir: &Path| {
            made.fetch_add(1, Ordering::Relaxed);
            started.wait();
            go_on.wait();
            fs::write(dir.join("whole"), b"x").map_err(|e| cache_error(dir, &e.to_string()))
        };
        if !slow {
            started.wait();
        }
        let mut waiting = |pid: Option<u32>| {
            assert_eq!(pid, Some(std::process::id()));
            waited.fetch_add(1, Ordering::Relaxed);
            go_on.wait();
        };
        cache.get_or_make(wanted("a"), &CancelToken::new(), &mut waiting, &mut check, &mut make).expect("there").1
    };
    std::thread::scope(|s| {
        let slow = s.spawn(|| get(true));
        assert_eq!(get(false), b"x");
        assert_eq!(slow.join().expect("makes"), b"x");
    });
    assert_eq!((made.load(Ordering::Relaxed), waited.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn waiting_can_be_cancelled_and_a_dead_process_holds_no_lock() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path().to_owned(), 1 << 20);
    fs::create_dir_all(dir.path().join("locks")).expect("ours");
    let lock = dir.path().join("locks/npu.a");
    // Left by a process that is gone: its text is there, its lock is not.
    fs::write(&lock, "4000000000").expect("ours");
    get(&cache, "a", 1).expect("takes it over");
    fs::remove_dir_all(dir.path().join("npu/a")).expect("ours");
    let held = File::open(&lock).expect("is there");
    assert!(try_lock(&held, FlockOperation::NonBlockingLockExclusive));
    let cancel = CancelToken::new();
    let mut make = |_: &Path| -> Result<(), RuntimeError> { unreachable!("somebody else makes it") };
    let mut waiting = |_| cancel.cancel();
    let error = cache.get_or_make(wanted("a"), &cancel, &mut waiting, &mut check, &mut make).expect_err("cancelled");
    assert!(matches!(error, RuntimeError::Cancelled));
}

#[test]
fn the_limit_removes_what_was_not_used_for_longest_and_never_what_is_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    // Each entry also has its label of 7 bytes.
    let cache = Cache::new(dir.path().to_owned(), 3 * 1007);
    for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
        get(&cache, key, 1000).expect("makes");
        age(&cache, key, 1000 - 100 * i as u64);
    }
    assert_eq!(keys(&cache), ["c", "b", "a"]);
    drop(get(&cache, "a", 1000).expect("used again"));
    assert_eq!(keys(&cache), ["a", "c", "b"]);
    get(&cache, "d", 1000).expect("makes");
    assert_eq!(cache.list().len(), 3);
    assert!(!keys(&cache).contains(&"b".to_owned()), "{:?}", keys(&cache));
    age(&cache, "c", 2000);
    let (held, _) = get(&cache, "c", 1000).expect("is there");
    age(&cache, "c", 2000);
    age(&cache, "a", 1000);
    get(&cache, "e", 1000).expect("makes");
    let mut left = keys(&cache);
    left.sort();
    assert_eq!(left, ["c", "d", "e"], "c is oldest, but in use");
    assert!(cache.list().iter().any(|e| e.key == "c" && e.in_use));
    // More than the limit by itself: it stays while it is used, all others go.
    get(&cache, "huge", 9000).expect("makes");
    let mut left = keys(&cache);
    left.sort();
    assert_eq!(left, ["c", "huge"]);
    let cleared = cache.clear(&|_| true).expect("ours");
    assert_eq!((cleared.removed.len(), cleared.kept.len()), (1, 1));
    drop(held);
    assert_eq!(cache.clear(&|e| e.key == "other").expect("ours"), Cleared::default());
    assert_eq!(cache.clear(&|_| true).expect("ours").removed.len(), 1);
    assert_eq!(cache.list(), []);
}

#[test]
fn a_directory_that_cannot_be_written_is_told_and_still_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("ours");
    let cache = Cache::new(file.join("cache"), 1);
    let text = cache.probe().expect_err("a file is in the way").to_string();
    assert!(text.contains("cannot be written") && text.contains("COEXEC_CACHE_DIR"), "{text}");
    let text = get(&cache, "a", 1).map(|_| ()).expect_err("alike").to_string();
    assert!(text.contains("cannot be written") && text.contains("COEXEC_CACHE_DIR"), "{text}");
    let good = Cache::new(dir.path().join("good"), 1 << 20);
    good.probe().expect("writable");
    assert_eq!(children(&good.root().join("tmp")).len(), 0, "nothing stays of the probe");
}

#[test]
fn nothing_but_entries_is_listed_or_cleared() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Arc::new(Cache::new(dir.path().to_owned(), 1 << 20));
    fs::create_dir_all(dir.path().join("photos/summer")).expect("ours");
    fs::create_dir_all(dir.path().join(NPU)).expect("ours");
    fs::write(dir.path().join(NPU).join("notes.txt"), b"mine").expect("ours");
    get(&cache, "a", 1).expect("makes");
    assert_eq!(keys(&cache), ["a"]);
    cache.clear(&|_| true).expect("ours");
    assert!(dir.path().join("photos/summer").is_dir() && dir.path().join(NPU).join("notes.txt").is_file());
}

#[test]
fn a_file_in_an_entrys_place_is_replaced_and_what_is_left_of_it_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(dir.path().to_owned(), 1 << 20);
    fs::create_dir_all(dir.path().join(NPU)).expect("ours");
    fs::write(dir.path().join(NPU).join("a"), b"x").expect("ours");
    assert_eq!(get(&cache, "a", 3).expect("makes it").1, [7; 3]);
    assert_eq!(children(&dir.path().join("tmp")).len(), 0);
    // As a version left it that could not remove it.
    fs::write(dir.path().join("tmp/npu.b.4000000000.old"), b"x").expect("ours");
    assert_eq!(get(&cache, "b", 3).expect("makes it").1, [7; 3]);
    fs::write(dir.path().join("tmp/npu.c.4000000000.old"), b"x").expect("ours");
    cache.clear(&|_| true).expect("clears");
    assert_eq!(children(&dir.path().join("tmp")).len(), 0);
}
