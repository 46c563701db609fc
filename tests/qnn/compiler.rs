//! `coexec compile`: chips, placements, limits of the library, and a compiler that crashes.

use crate::{library, ok, support::Packed, text};
use coexec::EngineOptions;

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
        Compiler::Child(child).run(&request, None, &cancel, &mut |_| {}).expect_err("fails").to_string()
    };
    let crashed = run("kill -SEGV $$");
    assert!(crashed.contains("signal") && crashed.contains("crashed"), "{crashed}");
    assert!(run("echo no JSON").contains("no result"));
    assert!(run("echo '{\"error\":\"because\"}'").contains("because"));
    let missing = ChildCompiler { program: "/nowhere/coexec".into(), args: Vec::new() };
    let cancel = coexec::CancelToken::new();
    let missing = Compiler::Child(missing).run(&request, None, &cancel, &mut |_| {}).expect_err("fails").to_string();
    assert!(missing.contains("/nowhere/coexec") && missing.contains("started"), "{missing}");
    // Ctrl-C may reach a child before this process has noticed it: that is no crash.
    let child = ChildCompiler { program: "sh".into(), args: vec!["-c".into(), "kill -INT $$".into()] };
    let error = Compiler::Child(child.clone()).run(&request, None, &cancel, &mut |_| {}).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled), "{error}");
    // What a job that was to be stopped says, or how it ended, does not matter: it was stopped.
    cancel.cancel();
    let error = Compiler::Child(child).run(&request, None, &cancel, &mut |_| {}).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled));
    // Cancelling ends the child.
    let cancel = coexec::CancelToken::new();
    cancel.cancel();
    let child = ChildCompiler { program: "sleep".into(), args: vec!["100".into()] };
    let error = Compiler::Child(child).run(&request, None, &cancel, &mut |_| {}).expect_err("cancelled");
    assert!(matches!(error, coexec::RuntimeError::Cancelled));
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
