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
        let found: serde_json::Value = serde_json::from_str(&replay).expect("JSON");
        assert!(found["no_prompt"].as_str().is_some_and(|r| r.contains("all layers")), "{found}");
        for report in found["contexts"].as_array().expect("reports") {
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
            assert_eq!(replay["contexts"][0]["passed"], true, "{replay}");
            // What these are worth for a real model is said by name.
            let warnings = json["warnings"].to_string();
            assert_eq!(
                warnings.contains("in u8"),
                placement != "split" && activation == "u8",
                "{placement}: {warnings}"
            );
            assert_eq!(warnings.contains("not measured"), placement != "split" && activation != "f16", "{warnings}");
            assert_eq!(warnings.contains("--npu-weights i4"), weights == "i4", "{warnings}");
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
        let cancel = coexec::CancelToken::new();
        Compiler::Child(child).run(&request, None, &cancel, &mut || {}).expect_err("fails").to_string()
    };
    let crashed = run("kill -SEGV $$");
    assert!(crashed.contains("signal") && crashed.contains("crashed"), "{crashed}");
    assert!(run("echo no JSON").contains("no result"));
    assert!(run("echo '{\"error\":\"because\"}'").contains("because"));
    let missing = ChildCompiler { program: "/nowhere/coexec".into(), args: Vec::new() };
    let cancel = coexec::CancelToken::new();
    let missing = Compiler::Child(missing).run(&request, None, &cancel, &mut || {}).expect_err("fails").to_string();
    assert!(missing.contains("/nowhere/coexec") && missing.contains("started"), "{missing}");
    // What a job that was to be stopped says, or how it ended, does not matter: it was stopped.
    cancel.cancel();
    let child = ChildCompiler { program: "sh".into(), args: vec!["-c".into(), "kill -INT $$".into()] };
    let error = Compiler::Child(child).run(&request, None, &cancel, &mut || {}).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled));
    // Cancelling ends the child.
    let cancel = coexec::CancelToken::new();
    cancel.cancel();
    let child = ChildCompiler { program: "sleep".into(), args: vec!["100".into()] };
    let error = Compiler::Child(child).run(&request, None, &cancel, &mut || {}).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled));
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
        let printed = ok(&cache, &args);
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
        assert!(replayed.status.success(), "{replayed_text} {}", String::from_utf8_lossy(&replayed.stderr));
        let line = "prompt of 32 tokens beside the simulated NPU: 24 graphs on real activations, 24 bit-equal";
        assert!(replayed_text.contains(line) && replayed_text.contains("logits bit-equal"), "{replayed_text}");
    }
    let out = here.join("for sm8550 in u16");
    let other = ["run", "Hello", "-n", "1", "--npu-dir", text(&out)];
    let with = |extra: &[&'static str]| other.iter().copied().chain(extra.iter().copied()).collect::<Vec<_>>();
    fails(&cache, &with(&["--activations", "u8"]), &["qkv of layer 0", "u16", "in u8", "--activations"]);
    fails(&cache, &with(&["--npu", "sim"]), &["--npu-dir", "--npu qnn", "sim"]);
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
    fails(dir.path(), &args, &["--npu-weights", "block", "q8 weights", "q4 ones", "use i8"]);
    assert!(!block.exists(), "nothing is left of a directory that was made for nothing");
    for format in ["q4s", "f16"] {
        let model = dir.path().join(format!("{format}.coexec"));
        let args =
            ["random-model", "tiny", text(&model), "--weights", format, "--calibrate", "--calibration-tokens", "64"];
        ok(dir.path(), &args);
        let args = ["compile", text(&model), "--npu-weights", "block", "--chunk-len", "32", "-o", text(&block)];
        fails(dir.path(), &args, &["--npu-weights", &format!("{format} weights")]);
    }
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

/// 17 layers and four chunk lengths are more graphs than one context with shared weights takes: two contexts, which the
/// library accepts, each weight once.
#[test]
fn deep_models_are_cut_into_contexts_that_the_library_takes() {
    if !library("deep_models_are_cut_into_contexts_that_the_library_takes") {
        return;
    }
    assert_eq!(compiled_deep(17), [256, 16]);
}

/// The same for 36 and 80 layers.
#[test]
#[ignore = "takes minutes: `cargo xtask long` runs it"]
fn real_depths_are_cut_into_contexts_that_the_library_takes() {
    assert_eq!(compiled_deep(36), [256, 256, 64]);
    assert_eq!(compiled_deep(80), [256; 5]);
}

/// Graphs of each context of a narrow model with this many layers, compiled with shared weights.
fn compiled_deep(layers: u32) -> Vec<usize> {
    use coexec::{
        model::{WeightFormat, random},
        runtime::compile::{CompileOptions, Compiler, compile},
    };
    let mut config = random::named_config("tiny").expect("known");
    (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size) = (layers, 32, 32, 64);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (1, 1, 32);
    let packed = Packed::of(&random::RandomSource::new(config, 1), WeightFormat::Q8, Some("random".to_owned()));
    let engine = packed.engine(EngineOptions::default());
    let dir = tempfile::tempdir().expect("a directory");
    let options = CompileOptions { chunk_lens: vec![32, 64, 128, 256], record: false, ..CompileOptions::default() };
    let cancel = coexec::CancelToken::new();
    let compiled = compile(engine.model(), &options, None, dir.path(), &Compiler::InProcess, &cancel, &mut |_| {})
        .expect("compiles");
    let names: Vec<_> = compiled.contexts.iter().map(|c| c.manifest.spec.name.clone()).collect();
    assert!(names.iter().enumerate().all(|(i, name)| *name == format!("split.{i}")), "{names:?}");
    assert!(compiled.files().all(|file| dir.path().join(file).is_file()));
    compiled.contexts.iter().map(|c| c.manifest.spec.graphs.len()).collect()
}
