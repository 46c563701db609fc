//! `coexec doctor`: what is there, what is not, and what to do.

use crate::{coexec, fails, library, ok, text};
use std::fs;

#[test]
fn doctor_finds_the_library_or_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("a directory");
    fails(dir.path(), &["doctor", "--qnn-lib", text(&empty)], &["cannot be used here"]);
    let out = coexec(dir.path(), &["doctor", "--qnn-lib", text(&empty), "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["npu_usable"], false);
    let failed =
        json["findings"].as_array().and_then(|f| f.iter().find(|f| f["status"] == "failed")).expect("a failure");
    assert!(failed["found"].as_str().is_some_and(|f| f.contains("libQnnHtp.so")), "{failed}");
    assert!(failed["advice"].as_str().is_some_and(|a| a.contains("cargo xtask qnn")), "{failed}");
    fails(dir.path(), &["run", "Once", "-n", "1", "--npu", "qnn", "--qnn-lib", text(&empty)], &["libQnnHtp.so"]);
    // A file that is no library at all.
    fs::write(empty.join("libQnnHtp.so"), b"not a library").expect("writes");
    fails(dir.path(), &["run", "Once", "-n", "1", "--npu", "qnn", "--qnn-lib", text(&empty)], &["libQnnHtp.so"]);
    if !library("doctor_finds_the_library_or_says_what_to_do") {
        return;
    }
    let json: serde_json::Value = serde_json::from_str(&ok(dir.path(), &["doctor", "--format", "json"])).expect("JSON");
    assert_eq!(json["npu_usable"], true, "{json}");
    let text = json.to_string();
    for words in ["HTP_QTI_AISW", "SoC 57", "v75", "equal to the simulated NPU bit for bit"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    fails(dir.path(), &["doctor", "--soc", "9999"], &["cannot be used here"]);
    // A cache that cannot be written is no `ok`, wherever the cause lies: here a file is in the way.
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("writes");
    let json: serde_json::Value = serde_json::from_str(&ok(&file, &["doctor", "--format", "json"])).expect("JSON");
    let found = json["findings"].as_array().and_then(|f| f.iter().find(|f| f["what"] == "cache")).expect("a finding");
    assert!(
        found["status"] == "failed" && found["found"].as_str().is_some_and(|f| f.contains("cannot be written")),
        "{found}"
    );
    assert!(found["advice"].as_str().is_some_and(|a| a.contains("--npu-dir")), "{found}");
    fails(&file, &["run", "Once", "-n", "1", "--npu", "qnn"], &["cannot be written", "COEXEC_CACHE_DIR"]);
}
