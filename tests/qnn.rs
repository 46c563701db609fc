//! The real NPU's library as a user meets it: compile, run, selftest, doctor; damage and mismatch found before it is used.
//!
//! Needs Qualcomm's library (`cargo xtask qnn`); without it the tests are counted as skipped.

mod support;

use coexec::{
    Engine, EngineOptions, GenerateRequest, NpuChoice, SamplerOptions, ScheduleChoice, Special,
    model::{TokenId, Treatment, packed::PackedFile, source},
    npu::qnn::library_places,
    runtime::{
        npu::QnnChoice,
        prefill::{LogitsWanted, PrefillOptions},
    },
};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};
use support::{Packed, demo_dir, root, skip};

/// Whether the library is here; a test without it is counted as skipped.
fn library(test: &str) -> bool {
    let is_there = library_places(None).iter().any(|p| p.is_there);
    if !is_there {
        skip(test, "no QNN library; `cargo xtask qnn` gets it");
    }
    is_there
}

fn coexec(cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coexec"))
        .args(args)
        .env_remove("COEXEC_LOG")
        .env("COEXEC_CACHE_DIR", cache)
        .stdin(Stdio::null())
        .output()
        .expect("coexec starts")
}

fn ok(cache: &Path, args: &[&str]) -> String {
    let out = coexec(cache, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Asserts exit code 1 and a last line of error that contains every word.
fn fails(cache: &Path, args: &[&str], words: &[&str]) {
    let out = coexec(cache, args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
    let error = stderr.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: "), "{args:?}: {stderr}");
    for word in words {
        assert!(error.contains(word), "{args:?}: `{word}` is not in {error}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}

fn demo() -> PackedFile {
    PackedFile::open(&root().join("models/demo/demo.coexec")).expect("the demo model")
}

fn engine(npu: NpuChoice, cache: &Path, chunk_lens: &[usize]) -> Engine {
    let qnn = QnnChoice { cache_dir: Some(cache.to_owned()), ..QnnChoice::default() };
    let options = EngineOptions { npu, qnn, threads: 1, chunk_lens: chunk_lens.to_vec(), ..EngineOptions::default() };
    Engine::new(demo(), options).expect("opens")
}

fn greedy(engine: &Engine, prompt: &[TokenId], max_tokens: usize) -> Vec<TokenId> {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens,
        sampler: SamplerOptions::greedy(),
        stop: Vec::new(),
        ignore_eos: true,
        draft_tokens: 0,
        cancel: coexec::CancelToken::new(),
    };
    let done = engine.session().generate(&request, &mut |_| {}).expect("generates");
    assert!(done.stats.ran_elsewhere.is_empty(), "{:?}", done.stats.ran_elsewhere);
    done.tokens
}

fn logits(engine: &Engine, tokens: &[TokenId]) -> Vec<f32> {
    let options = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
    let done = engine.session().prefill(tokens, &options).expect("prefills");
    assert!(done.ran_elsewhere.is_empty(), "{:?}", done.ran_elsewhere);
    done.logits
}

/// A tale of 64 tokens, token by token and all at once: the same numbers as on the simulated NPU, so no near-ties to argue
/// about. Chunk lengths 32 and 64 both run.
#[test]
fn a_tale_on_the_emulated_chip_equals_the_simulated_one_bit_for_bit() {
    if !library("a_tale_on_the_emulated_chip_equals_the_simulated_one_bit_for_bit") {
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let [qnn, sim] = [NpuChoice::Qnn, NpuChoice::Sim].map(|npu| engine(npu, cache.path(), &[32, 64]));
    assert_eq!((qnn.npu_device(), sim.npu_device()), ("qnn", "sim"));
    let prompt = qnn.model().require_tokenizer().expect("has one").encode("Once upon a time", coexec::Special::AddBos);
    let mut tale = prompt.expect("encodes");
    let told = greedy(&qnn, &tale, 64);
    assert_eq!(told, greedy(&sim, &tale, 64));
    tale.extend(told);
    assert_eq!(logits(&qnn, &tale), logits(&sim, &tale), "{} tokens in chunks of 32 and 64", tale.len());
}

/// Linears in u8, in u8 with shadow, in u16 and in u8 with hot channels in float, beside each other in every layer; and a file by
/// each kind of recipe, whose linears compile and give the simulated NPU's numbers.
#[test]
fn every_treatment_equals_the_simulated_one_bit_for_bit() {
    if !library("every_treatment_equals_the_simulated_one_bit_for_bit") {
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let compare = |packed: &dyn Fn() -> PackedFile, schedule: &ScheduleChoice| {
        let [qnn, sim] = [NpuChoice::Qnn, NpuChoice::Sim].map(|npu| {
            let qnn = QnnChoice { cache_dir: Some(cache.path().to_owned()), ..QnnChoice::default() };
            let (schedule, chunk_lens) = (schedule.clone(), vec![16]);
            let options = EngineOptions { npu, qnn, threads: 1, chunk_lens, schedule, ..EngineOptions::default() };
            Engine::new(packed(), options).expect("opens")
        });
        let prompt = sim.model().require_tokenizer().expect("has one").encode("Once upon a time", Special::AddBos);
        let prompt = prompt.expect("encodes");
        assert_eq!(logits(&qnn, &prompt), logits(&sim, &prompt), "{schedule}");
    };
    let [plain, shadow, wide, split] = Treatment::ALL;
    let mixed = [[plain, wide, shadow, split], [shadow, plain, split, wide], [wide, split, plain, shadow]];
    let mixed = ScheduleChoice::Given((0..6).map(|l| mixed[l % 3]).collect());
    compare(&demo, &mixed);
    let source = source::open(&demo_dir()).expect("the demo model");
    for recipe in ["smooth,q8,u8,scales=max", "rotate,q8,u16", "awq,q4,u8+shadow", "q4,gptq,u16"] {
        let packed = Packed::cooked(&*source, recipe);
        compare(&|| PackedFile::open(&packed.path).expect("our own file"), &ScheduleChoice::File);
    }
}

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

#[test]
fn three_chips_compile_and_replay() {
    if !library("three_chips_compile_and_replay") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for chip in ["sm8550", "sm8650", "sm8750"] {
        let out = dir.path().join(chip);
        let args = ["compile", "--soc", chip, "--chunk-len", "32,64", "--layers", "0..2", "--format", "json", "-o"];
        let shared = |extra: &[&str]| {
            let args: Vec<&str> = args.iter().copied().chain([text(&out)]).chain(extra.iter().copied()).collect();
            let json: serde_json::Value = serde_json::from_str(&ok(dir.path(), &args)).expect("JSON");
            let contexts = json["contexts"].as_array().expect("contexts").clone();
            for context in &contexts {
                let against = &context["against_sim"];
                assert_eq!(against["equal"], against["graphs"], "{chip}: {against}");
            }
            contexts
        };
        let sizes = |contexts: &[serde_json::Value]| {
            contexts.iter().map(|c| c["binary_bytes"].as_u64().expect("bytes")).sum::<u64>()
        };
        let with = shared(&[]);
        assert_eq!((with.len(), with[0]["graphs"].as_u64()), (1, Some(16)));
        let without = shared(&["--no-weight-sharing"]);
        assert_eq!(without.len(), 2);
        let (with, without) = (sizes(&with), sizes(&without));
        assert!(with * 10 < without * 8, "{chip}: {with} bytes with shared weights, {without} without");
        let replay = ok(dir.path(), &["selftest", text(&out), "--format", "json"]);
        let reports: serde_json::Value = serde_json::from_str(&replay).expect("JSON");
        for report in reports.as_array().expect("reports") {
            assert_eq!(report["passed"], true, "{report}");
            assert!(report["graphs"].as_array().is_some_and(|g| g.len() == 8 && g.iter().all(|g| g["equal"] == true)));
        }
    }
}

#[test]
fn other_placements_compile_replay_and_stay_near_the_simulation() {
    if !library("other_placements_compile_replay_and_stay_near_the_simulation") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let q4 = dir.path().join("q4.coexec");
    ok(
        dir.path(),
        &["random-model", "tiny", text(&q4), "--weights", "q4", "--calibrate", "--calibration-tokens", "64"],
    );
    let mut cases = Vec::new();
    for activation in ["u8", "u16", "f16"] {
        for placement in ["split", "fused", "layer"] {
            cases.extend([(placement, activation, "i8"), (placement, activation, "i4")]);
            if activation != "f16" {
                cases.push((placement, activation, "block"));
            }
        }
    }
    {
        for (placement, activation, weights) in cases {
            let out = dir.path().join(format!("{placement}-{activation}-{weights}"));
            let args = [
                "compile",
                text(&q4),
                "--npu-weights",
                weights,
                "--placement",
                placement,
                "--activation",
                activation,
                "--chunk-len",
                "32",
                "--kv-len",
                "32",
                "--layers",
                "0..1",
                "--format",
                "json",
                "-o",
                text(&out),
            ];
            let json: serde_json::Value = serde_json::from_str(&ok(dir.path(), &args)).expect("JSON");
            let worst = json["contexts"][0]["against_sim"]["worst_share"].as_f64().expect("a number");
            assert!(worst <= 1.0, "{placement} {activation} {weights}: {json}");
            let replay: serde_json::Value =
                serde_json::from_str(&ok(dir.path(), &["selftest", text(&out), "-m", text(&q4), "--format", "json"]))
                    .expect("JSON");
            assert_eq!(replay[0]["passed"], true, "{replay}");
        }
    }
}

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
}

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
}

#[test]
fn a_compiler_that_crashes_is_an_error_not_a_crash() {
    if !library("a_compiler_that_crashes_is_an_error_not_a_crash") {
        return;
    }
    use coexec::runtime::compile::{ChildCompiler, CompileOptions, Compiler, JobRequest, JobTask};
    let request = JobRequest {
        options: CompileOptions::default(),
        library_dir: None,
        shape: Some("tiny".to_owned()),
        task: JobTask::Estimate,
    };
    let run = |script: &str| {
        let child = ChildCompiler { program: "sh".into(), args: vec!["-c".into(), script.into()] };
        Compiler::Child(child).run(&request, None, &coexec::CancelToken::new()).expect_err("fails").to_string()
    };
    let crashed = run("kill -SEGV $$");
    assert!(crashed.contains("signal") && crashed.contains("crashed"), "{crashed}");
    assert!(run("echo no JSON").contains("no result"));
    assert!(run("echo '{\"error\":\"because\"}'").contains("because"));
    let missing = ChildCompiler { program: "/nowhere/coexec".into(), args: Vec::new() };
    let missing =
        Compiler::Child(missing).run(&request, None, &coexec::CancelToken::new()).expect_err("fails").to_string();
    assert!(missing.contains("/nowhere/coexec") && missing.contains("started"), "{missing}");
    // Cancelling ends the child.
    let cancel = coexec::CancelToken::new();
    cancel.cancel();
    let child = ChildCompiler { program: "sleep".into(), args: vec!["100".into()] };
    let error = Compiler::Child(child).run(&request, None, &cancel).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled));
}
