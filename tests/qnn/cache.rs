//! What is compiled once and kept: used again, made again when damaged, by one process at a time, and left whole by Ctrl-C.

use crate::{coexec, fails, library, ok, text};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

#[test]
fn run_compiles_once_and_says_what_it_took() {
    if !library("run_compiles_once_and_says_what_it_took") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let args =
        ["run", "Once upon a time", "--greedy", "-n", "8", "--npu", "qnn", "--chunk-len", "32", "--format", "json"];
    let first: serde_json::Value = serde_json::from_str(&ok(dir.path(), &args)).expect("JSON");
    assert_eq!(first["stats"]["npu_device"], "qnn");
    assert_eq!(first["stats"]["ran_elsewhere"], serde_json::json!([]));
    let binary = |dir: &Path| {
        let model =
            fs::read_dir(dir.join("npu")).expect("the cache").next().expect("one model").expect("readable").path();
        model.join("split.c32.bin")
    };
    let made = fs::metadata(binary(dir.path())).and_then(|m| m.modified()).expect("a binary");
    let again: serde_json::Value = serde_json::from_str(&ok(dir.path(), &args)).expect("JSON");
    assert_eq!(again["tokens"], first["tokens"]);
    assert_eq!(fs::metadata(binary(dir.path())).and_then(|m| m.modified()).expect("a binary"), made, "compiled once");

    // A flipped weight, which the library would load and compute garbage with, is found; nothing is silently used.
    let mut bytes = fs::read(binary(dir.path())).expect("a binary");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(binary(dir.path()), &bytes).expect("writes");
    let out = coexec(dir.path(), &args);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["tokens"], first["tokens"], "made again");
    assert_eq!(json["stats"]["npu_device"], "qnn");
    assert_eq!(json["stats"]["ran_elsewhere"], serde_json::json!([]));
    assert_ne!(fs::read(binary(dir.path())).expect("a binary"), bytes, "the damaged binary is gone");
    // A truncated one too.
    fs::write(binary(dir.path()), &bytes[..middle]).expect("writes");
    let json: serde_json::Value = serde_json::from_str(&ok(dir.path(), &args)).expect("JSON");
    assert_eq!(json["tokens"], first["tokens"]);

    let auto: serde_json::Value =
        serde_json::from_str(&ok(dir.path(), &["run", "Once", "-n", "1", "--npu", "auto", "--format", "json"]))
            .expect("JSON");
    assert_eq!(auto["stats"]["npu_device"], "sim", "the emulation is not what auto takes");
    assert!(auto["stats"]["npu_reason"].as_str().is_some_and(|r| r.contains("no NPU on this machine")), "{auto}");
}

/// Files of a cache, but for locks.
fn kept(cache: &Path) -> usize {
    ["npu", "tmp"].iter().map(|dir| fs::read_dir(cache.join(dir)).map_or(0, Iterator::count)).sum()
}

/// Ctrl-C at a terminal goes to the whole process group, while graphs are compiled for the first time: that is no crash of
/// the compiler, and nothing half-made stays. The same for `compile`, whose earlier result stays as it was.
#[test]
fn ctrl_c_while_compiling_ends_it_and_leaves_nothing() {
    use std::{io::BufRead as _, os::unix::process::CommandExt as _};
    if !library("ctrl_c_while_compiling_ends_it_and_leaves_nothing") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let interrupted = |args: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coexec"))
            .args(args)
            .env_remove("COEXEC_LOG")
            .env("COEXEC_CACHE_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("coexec starts");
        let mut lines = std::io::BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let started = lines.find(|line| line.starts_with("compiling ")).expect("says that it compiles");
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args(["-INT", "--", &group]).status().is_ok_and(|s| s.success()));
        let said: Vec<String> = lines.collect();
        assert_eq!(child.wait().expect("ends").code(), Some(130), "{started} {said:?}");
        assert_eq!(said.last().map(String::as_str), Some("cancelled"), "{said:?}");
        assert!(!said.iter().any(|line| line.contains("crashed")), "{said:?}");
        started
    };
    let said = interrupted(&["run", "Once", "-n", "1", "--npu", "qnn"]);
    for words in ["96 static graphs in 4 contexts", "first use", "of memory", "on the disk"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(kept(dir.path()), 0, "nothing half-made");
    let out = dir.path().join("out");
    interrupted(&["compile", "--chunk-len", "32,64,128,256", "-o", text(&out)]);
    assert!(!out.exists());
    ok(dir.path(), &["compile", "--chunk-len", "16,32", "--layers", "0..1", "--no-record", "-o", text(&out)]);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&out).expect("made").map(|e| e.expect("readable").file_name()).collect();
        names.sort();
        names
    };
    let before = (names(), fs::read(out.join("compiled.json")).expect("an index"));
    interrupted(&["compile", "--chunk-len", "32,64,128,256", "-o", text(&out)]);
    assert_eq!((names(), fs::read(out.join("compiled.json")).expect("an index")), before);
    // A result that replaces another leaves none of its files.
    ok(dir.path(), &["compile", "--chunk-len", "32", "--layers", "0..1", "--no-record", "-o", text(&out)]);
    assert_eq!(names(), ["compiled.json", "split.c32.bin"]);
}

/// Two that start at once compile once; the cache lists it, and lets it go when nobody uses it.
#[test]
fn two_processes_compile_once_and_the_cache_can_be_listed_and_cleared() {
    if !library("two_processes_compile_once_and_the_cache_can_be_listed_and_cleared") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["run", "Once", "-n", "2", "--greedy", "--npu", "qnn", "--chunk-len", "32,64", "--format", "json"];
    let outputs: Vec<Output> = std::thread::scope(|s| {
        let both = [(); 2].map(|()| s.spawn(|| coexec(dir.path(), &args)));
        both.into_iter().map(|run| run.join().expect("runs")).collect()
    });
    let said: Vec<_> = outputs.iter().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).collect();
    assert!(outputs.iter().all(|o| o.status.success()), "{said:?}");
    assert_eq!(said.iter().filter(|s| s.contains("compiling ")).count(), 1, "{said:?}");
    let tokens = |o: &Output| serde_json::from_slice::<serde_json::Value>(&o.stdout).expect("JSON")["tokens"].clone();
    assert_eq!(tokens(&outputs[0]), tokens(&outputs[1]));
    let listed = || -> serde_json::Value {
        serde_json::from_str(&ok(dir.path(), &["cache", "list", "--format", "json"])).expect("JSON")
    };
    let entries = listed()["entries"].clone();
    assert_eq!(entries.as_array().map(Vec::len), Some(1), "{entries}");
    let entry = &entries[0];
    assert!(entry["label"].as_str().is_some_and(|l| l.contains("embedded model") && l.contains("sm8650")), "{entry}");
    assert!(entry["bytes"].as_u64().is_some_and(|b| b > 1_000_000) && entry["in_use"] == false, "{entry}");
    fails(dir.path(), &["cache", "clear", "nothing"], &["nothing", "coexec cache list"]);
    let key = entry["key"].as_str().expect("a key");
    assert!(ok(dir.path(), &["cache", "list"]).contains(key));
    assert!(ok(dir.path(), &["cache", "clear", key]).contains("1 entry removed"));
    assert_eq!(listed()["entries"], serde_json::json!([]));
    assert_eq!(kept(dir.path()), 0);
}
