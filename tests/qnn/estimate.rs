//! `coexec compile --estimate`: what Qualcomm's compiler expects of a chip.

use crate::{fails, library, ok, text};
use std::fs;

#[test]
fn estimates_are_labelled_and_feed_the_simulator() {
    if !library("estimates_are_labelled_and_feed_the_simulator") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["compile", "--estimate", "--soc", "77", "--shape", "tiny", "--chunk-len", "32,64"];
    let json = ok(dir.path(), &[&args[..], &["--format", "json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        report["source"].as_str().is_some_and(|s| s.contains("Qualcomm's compiler estimate") && s.contains("no RPC"))
    );
    assert_eq!(report["graphs"].as_array().map(Vec::len), Some(8));
    for graph in report["graphs"].as_array().expect("graphs") {
        assert!(graph["estimate"]["us"].as_u64().is_some_and(|us| us > 0), "{graph}");
        assert!(graph["estimate"]["cycles"].as_u64().is_some_and(|c| c > 0), "{graph}");
    }
    let table = ok(dir.path(), &args);
    assert!(table.contains("chip 77") && table.contains("tok/s of the NPU's part"), "{table}");
    let file = dir.path().join("estimates.json");
    fs::write(&file, &json).expect("writes");
    let simulated = ok(dir.path(), &["simulate", "--shape", "tiny", "--prompt-len", "100", "--estimates", text(&file)]);
    assert!(simulated.contains("simulated") && simulated.contains("chip 77"), "{simulated}");
    fails(dir.path(), &["simulate", "--shape", "qwen2.5-0.5b", "--estimates", text(&file)], &["layers"]);
    fails(dir.path(), &["compile", "--estimate", "--soc", "57", "--shape", "tiny"], &["57", "77"]);
    // Of a file: its weights, and each linear in the type that it runs in, counted layer by layer.
    let model = dir.path().join("q4.coexec");
    let recipe = ["--quant", "q4,u16", "--calibrate", "--calibration-tokens", "64"];
    ok(dir.path(), &[&["random-model", "tiny", text(&model)][..], &recipe].concat());
    let of = |extra: &[&str]| -> serde_json::Value {
        let args = ["compile", text(&model), "--estimate", "--chunk-len", "32", "--format", "json"];
        serde_json::from_str(&ok(dir.path(), &[&args[..], extra].concat())).expect("JSON")
    };
    let (file, narrow) = (of(&[]), of(&["--npu-weights", "i8"]));
    assert_eq!(
        (&file["options"]["weights"], &narrow["options"]["weights"]),
        (&"block_expansion".into(), &"per_channel_i8".into())
    );
    for graph in file["graphs"].as_array().expect("graphs") {
        assert_eq!((&graph["activation"], &graph["count"]), (&"u16".into(), &file["layers"]), "{graph}");
    }
    assert_ne!(file["chunks"][0]["ddr_bytes"], narrow["chunks"][0]["ddr_bytes"], "4 bits are fewer bytes to read");
}
