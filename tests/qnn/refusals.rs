//! Compiled models that are damaged, of another model or for other options: refused by name, with what to do.

use crate::{coexec, fails, library, ok, refuses, support::root, text};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

#[test]
fn a_compiled_model_that_is_not_right_is_refused_with_what_differs() {
    if !library("a_compiled_model_that_is_not_right_is_refused_with_what_differs") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let good = dir.path().join("good");
    ok(dir.path(), &["compile", "--chunk-len", "32", "--no-record", "-o", text(&good)]);
    let run = |npu_dir: &Path, extra: &[&str], words: &[&str]| {
        let args = ["run", "Once", "-n", "1", "--npu", "qnn", "--npu-dir", text(npu_dir)];
        let args: Vec<&str> = args.iter().chain(extra).copied().collect();
        fails(dir.path(), &args, words);
    };
    let bad = |name: &str, change: &dyn Fn(&Path)| {
        let to = dir.path().join(name);
        fs::create_dir(&to).expect("a directory");
        for entry in fs::read_dir(&good).expect("the compiled model") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
        }
        change(&to);
        to
    };
    let edit = |dir: &Path, from: &str, to: &str| {
        let path = dir.join("compiled.json");
        let json = fs::read_to_string(&path).expect("the index");
        assert!(json.contains(from), "{from}");
        fs::write(path, json.replace(from, to)).expect("writes");
    };
    ok(dir.path(), &["run", "Once", "-n", "1", "--npu", "qnn", "--npu-dir", text(&good)]);
    run(&dir.path().join("nowhere"), &[], &["compiled.json", "cannot be read"]);
    run(&bad("index", &|d| edit(d, "\"contexts\"", "\"kontexts\"")), &[], &["compiled.json", "damaged"]);
    run(&bad("version", &|d| edit(d, "v2.51", "v2.99")), &[], &["QNN v2.99", "QNN v2.51", "compile the model again"]);
    // An index that claims an older library than made the binary is found when the binary is read.
    run(&bad("older", &|d| edit(d, "v2.51", "v2.40")), &[], &["QNN build", "v2.40", "v2.51"]);
    let shared = dir.path().join("shared");
    ok(dir.path(), &["compile", "--chunk-len", "32,64", "--no-record", "-o", text(&shared)]);
    run(&shared, &[], &["weight sharing", "emulation"]);
    fails(dir.path(), &["selftest", text(&shared)], &["weight sharing", "--no-weight-sharing"]);
    let layers = dir.path().join("layers");
    ok(dir.path(), &["compile", "--chunk-len", "32", "--layers", "0..1", "--no-record", "-o", text(&layers)]);
    run(&layers, &[], &["layers 0..1", "all layers"]);
    run(&bad("escape", &|d| edit(d, "\"split.c32.bin\"", "\"../x.bin\"")), &[], &["no file of this directory"]);
    run(&bad("gone", &|d| fs::remove_file(d.join("split.c32.bin")).expect("removes")), &[], &["split.c32.bin"]);
    let cut = bad("cut", &|d| {
        let bytes = fs::read(d.join("split.c32.bin")).expect("the binary");
        fs::write(d.join("split.c32.bin"), &bytes[..bytes.len() - 1]).expect("writes");
    });
    run(&cut, &[], &["split.c32.bin", "compile the model again"]);
    let flipped = bad("flipped", &|d| {
        let mut bytes = fs::read(d.join("split.c32.bin")).expect("the binary");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(d.join("split.c32.bin"), bytes).expect("writes");
    });
    run(&flipped, &[], &["binary hash"]);
    run(&good, &["--npu-profile", "sm8550"], &["sm8650", "sm8550"]);
    run(&good, &["--chunk-len", "64"], &["[32]", "64"]);
    fails(dir.path(), &["selftest", text(&good)], &["no recordings", "--no-record"]);
    let other = dir.path().join("other.coexec");
    ok(dir.path(), &["random-model", "tiny", text(&other), "--calibrate", "--calibration-tokens", "64"]);
    fails(dir.path(), &["selftest", text(&good), "--model", text(&other)], &["was compiled from model"]);
}

/// Runs a line that was printed for the user, as a shell would, with this coexec.
fn as_printed(dir: &Path, cache: &Path, line: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_coexec")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .env("PATH", path)
        .env_remove("COEXEC_LOG")
        .env("COEXEC_CACHE_DIR", cache)
        .stdin(Stdio::null())
        .output()
        .expect("sh starts")
}

/// The command that a line of output gives after its label.
fn hint<'a>(output: &'a str, label: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no `{label}` in: {output}")).trim()
}

/// A compiled model knows its model, chip, chunk lengths and how linears run: the lines that `compile` prints work as they
/// are, for another model than the demo, in u16, with spaces in names. A model that moved or changed is found out.
#[test]
fn printed_hints_work_as_printed_and_a_moved_model_is_told() {
    if !library("printed_hints_work_as_printed_and_a_moved_model_is_told") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (cache, here) = (dir.path().join("cache"), dir.path().join("my models"));
    fs::create_dir(&here).expect("a directory");
    let model = here.join("it's a copy.coexec");
    fs::copy(root().join("models/demo/demo.coexec"), &model).expect("copies");
    for activation in ["u8", "u16"] {
        let out = here.join(format!("for sm8550 in {activation}"));
        let args =
            ["compile", text(&model), "--soc", "43", "--activation", activation, "--chunk-len", "32", "-o", text(&out)];
        let compiled = coexec(&cache, &args);
        let told = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success() && told.contains("24 of 24 graphs compared"), "{told}");
        let printed = String::from_utf8(compiled.stdout).expect("UTF-8");
        let run = format!("{} --greedy -n 8 --format json", hint(&printed, "run them: "));
        let done = as_printed(&here, &cache, &run);
        assert!(done.status.success(), "{run}: {}", String::from_utf8_lossy(&done.stderr));
        let done: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!(
            (&done["stats"]["npu_device"], &done["stats"]["ran_elsewhere"]),
            (&"qnn".into(), &serde_json::json!([]))
        );
        let schedule = if activation == "u16" { "u16" } else { "auto" };
        let sim =
            ["run", "Hello", "--npu", "sim", "--activations", schedule, "--chunk-len", "32", "--greedy", "-n", "8"];
        let sim: serde_json::Value =
            serde_json::from_str(&ok(&cache, &[&sim[..], &["--format", "json"]].concat())).expect("JSON");
        assert_eq!(done["tokens"], sim["tokens"], "{activation}");
        let replayed = as_printed(&here, &cache, hint(&printed, "replay them: "));
        let replayed_text = String::from_utf8_lossy(&replayed.stdout);
        let told = String::from_utf8_lossy(&replayed.stderr);
        assert!(replayed.status.success(), "{replayed_text} {told}");
        assert!(told.contains("24 of 24 graphs replayed") && told.contains("a prompt of 32 tokens"), "{told}");
        let line = "prompt of 32 tokens beside the simulated NPU: 24 graphs on real activations, 24 bit-equal";
        assert!(replayed_text.contains(line) && replayed_text.contains("logits bit-equal"), "{replayed_text}");
    }
    let out = here.join("for sm8550 in u16");
    let other = ["run", "Hello", "-n", "1", "--npu-dir", text(&out)];
    let with = |extra: &[&'static str]| other.iter().copied().chain(extra.iter().copied()).collect::<Vec<_>>();
    fails(&cache, &with(&["--activations", "u8"]), &["qkv of layer 0", "u16", "in u8", "--activations"]);
    refuses(&cache, &with(&["--npu", "sim"]), &["--npu-dir", "--npu qnn", "sim"]);
    fails(&cache, &with(&["--npu-profile", "sm8650"]), &["qnn:sm8550", "qnn:sm8650"]);
    // The model is somewhere else: said, and its new place can be named.
    let moved = here.join("moved.coexec");
    fs::rename(&model, &moved).expect("renames");
    fails(&cache, &other, &["it's a copy.coexec", "not there", "--model"]);
    fails(&cache, &["selftest", text(&out)], &["it's a copy.coexec", "not there", "--model"]);
    ok(&cache, &[&other[..], &["--model", text(&moved)]].concat());
    // Another model stands where it was.
    ok(&cache, &["random-model", "tiny", text(&model), "--calibrate", "--calibration-tokens", "64"]);
    fails(
        &cache,
        &["selftest", text(&out)],
        &["was compiled from model", "it's a copy.coexec", "compile the model again"],
    );
}

/// Every form of weights on the NPU that is not the file's numbers is refused by `run`, or cannot be compiled.
#[test]
fn weights_that_are_not_the_files_are_refused_by_name() {
    if !library("weights_that_are_not_the_files_are_refused_by_name") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("i4");
    let printed =
        ok(dir.path(), &["compile", "--npu-weights", "i4", "--chunk-len", "32", "--no-record", "-o", text(&out)]);
    assert!(!printed.contains("run them"), "what `run` refuses is no hint: {printed}");
    fails(
        dir.path(),
        &["run", "Once", "--npu-dir", text(&out)],
        &["--npu-weights i4", "q8 weights", "KL", "--weights q4"],
    );
    let block = dir.path().join("block");
    let args = ["compile", "--npu-weights", "block", "--chunk-len", "32", "-o", text(&block)];
    refuses(dir.path(), &args, &["--npu-weights", "block", "q8 weights", "q4 ones", "use i8"]);
    assert!(!block.exists(), "nothing is left of a directory that was made for nothing");
    for format in ["q4s", "f16"] {
        let model = dir.path().join(format!("{format}.coexec"));
        let args =
            ["random-model", "tiny", text(&model), "--weights", format, "--calibrate", "--calibration-tokens", "64"];
        ok(dir.path(), &args);
        let args = ["compile", text(&model), "--npu-weights", "block", "--chunk-len", "32", "-o", text(&block)];
        refuses(dir.path(), &args, &["--npu-weights", &format!("{format} weights")]);
    }
}
