//! The command line as a user meets it: output, errors of one line, exit codes, Ctrl-C.

mod support;

use std::{
    fs,
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    cli::{coexec, fails, ok, refuses, run, text},
    demo_dir, root,
};

#[test]
fn alone_it_tells_a_tale_with_numbers_and_what_to_try() {
    let out = ok(&[]);
    for words in
        ["Once upon a time", "prefill", "decode", "simulated NPU", "temperature", "coexec run", "coexec simulate"]
    {
        assert!(out.contains(words), "{words}: {out}");
    }
}

#[test]
fn json_has_the_promised_fields() {
    let out = ok(&["run", "Once upon a time", "--greedy", "--max-tokens", "12", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!(json["tokens"].as_array().map(Vec::len), Some(12));
    assert_eq!(json["prompt_tokens"], 4);
    assert!(json["text"].as_str().is_some_and(|t| !t.is_empty()));
    let stats = &json["stats"];
    for number in [
        "ttft_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "npu_busy_ms",
        "cpu_busy_ms",
        "chunks",
        "peak_rss_bytes",
    ] {
        assert!(stats[number].as_f64().is_some_and(|v| v > 0.0), "{number}: {stats}");
    }
    assert!(stats["bubble_rate"].is_null(), "the simulated NPU is untimed");
    assert_eq!(stats["npu_device"], "sim");
    assert_eq!(stats["ran_elsewhere"], serde_json::json!([]));
}

#[test]
fn the_same_seed_tells_the_same_tale() {
    let tale = |seed| ok(&["run", "A little bear", "--temp", "0.9", "--seed", seed, "--max-tokens", "30"]);
    assert_eq!(tale("5"), tale("5"));
    assert_ne!(tale("5"), tale("6"));
}

#[test]
fn traces_timelines_plans_and_simulations_are_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (trace, svg) = (dir.path().join("t.json"), dir.path().join("t.svg"));
    ok(&["run", "Hello", "--max-tokens", "2", "--chunk-len", "32", "--trace", text(&trace), "--timeline", text(&svg)]);
    let trace: serde_json::Value = serde_json::from_slice(&fs::read(&trace).expect("trace")).expect("JSON");
    assert!(trace["traceEvents"].as_array().is_some_and(|e| e.len() > 50));
    assert!(fs::read_to_string(&svg).expect("timeline").starts_with("<svg"));
    let plan: serde_json::Value =
        serde_json::from_str(&ok(&["plan", "--prompt-len", "100", "--chunk-len", "32", "--format", "json"]))
            .expect("JSON");
    assert_eq!(plan["chunks"].as_array().map(Vec::len), Some(4));
    let simulated = ok(&["simulate", "--prompt-len", "512"]);
    assert!(simulated.contains("simulated") && simulated.contains("staggered") && simulated.contains("source: "));
    assert!(ok(&["inspect", "--verify"]).contains("every checksum holds"));
    let bench = ok(&["bench", "-p", "16", "-n", "4", "-r", "2", "-o", "md"]);
    assert!(bench.contains("| model") && bench.contains("pp16") && bench.contains("tg4"), "{bench}");
    for format in ["csv", "json", "jsonl"] {
        let out = ok(&["bench", "-p", "8", "-n", "0", "-r", "1", "-o", format]);
        assert!(out.contains("avg_ts") && out.contains("n_prompt"), "{out}");
    }
}

#[test]
fn logits_are_written_as_npz() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("logits.npz");
    ok(&["eval", "logits", "--prompt", "Once upon a time", "--out", text(&out), "--npu", "none"]);
    let golden = support::Golden::read(&out);
    assert_eq!((golden.ids.len(), golden.vocab, golden.logits.len()), (4, 4096, 4 * 4096));
}

#[test]
fn a_sweep_of_recipes_alone_measures_them_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (model, out) = (demo_dir(), dir.path().join("out"));
    let (calibrate, measure) = (model.join("calibration.txt"), root().join("tests/data/valid.txt"));
    let texts = ["--calibrate", text(&calibrate), "--text", text(&measure), "--windows", "2"];
    let chosen = ["--recipe", "cpu:q8", "--recipe", "q8,u8+shadow", "--recipes-only", "--out", text(&out)];
    let table = ok(&[&["eval", "sweep", text(&model)][..], &texts, &chosen].concat());
    assert_eq!(fs::read_to_string(out.join("accuracy.md")).expect("the table") + "\n", table);
    for words in ["| `cpu:q8` |", "| `q8,u8+shadow` |", "Simulated: the shape of", "2 windows"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    assert!(!table.contains("importance") && !table.contains("pruning"), "{table}");
    let json = fs::read(out.join("sweep.json")).expect("the numbers");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["pruned"], serde_json::json!([]));
}

#[test]
fn wrong_arguments_exit_with_2() {
    for args in [&["run", "--no-such-flag"][..], &["nonsense"], &["run", "a", "--prompt-file", "b"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    // A value that cannot be is named with what can.
    for (args, words) in [
        (&["run", "a", "--max-tokens", "-1"][..], &["-1", "--max-tokens", "0 or more"][..]),
        (&["run", "a", "--temp", "warm"], &["warm", "--temp", "a number such as 0.7"]),
        (&["run", "a", "--temp", "NaN"], &["NaN", "--temp"]),
        (&["run", "a", "--chunk-len", "0"], &["--chunk-len", "1 or more"]),
        (&["eval", "perplexity", "--text", "x", "--windows", "0"], &["--windows", "1 or more"]),
        (&["bench", "-r", "0"], &["-r", "1 or more"]),
        (&["bench", "-p", "-5"], &["-5", "-p", "0 or more"]),
        (&["plan", "--prompt-len", "-3"], &["--prompt-len", "1 or more"]),
    ] {
        let out = run(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
        words.iter().for_each(|word| assert!(stderr.contains(word), "{args:?}: `{word}` is not in {stderr}"));
    }
}

#[test]
fn wrong_values_and_missing_files_are_named() {
    fails(&["run", "a", "--model", "/no/such/model.coexec"], &["/no/such/model.coexec", "No such file"]);
    fails(&["run", ""], &["prompt is empty"]);
    fails(&["run", "--prompt-file", "/no/such/prompt"], &["/no/such/prompt"]);
    refuses(&["run", "a", "--npu", "tpu"], &["--npu", "tpu", "sim, real, none or auto"]);
    refuses(&["run", "a", "--policy", "best"], &["best", "npu-stall"]);
    refuses(&["run", "a", "--chunk-len", "9999999"], &["--chunk-len"]);
    refuses(&["run", "a", "--prune", "7"], &["--prune"]);
    refuses(&["run", "a", "--kernels", "sse9"], &["sse9", "reference"]);
    refuses(&["run", "a", "--temp", "-1"], &["temperature", "0 or more"]);
    fails(&["import", "/no/such/model", "/tmp/x.coexec"], &["/no/such/model"]);
    refuses(&["random-model", "gpt-9", "/tmp/x.coexec"], &["gpt-9", "qwen2.5-0.5b"]);
    let twice = ["random-model", "tiny", "/tmp/x.coexec", "--quant", "q4,gptq", "--quantizer", "mse"];
    refuses(&twice, &["--quantizer = mse", "gptq"]);
    refuses(&["--log", "a=b=c", "run", "a"], &["log filter"]);
    let long = "word ".repeat(5000);
    fails(&["run", &long], &["context", "2048"]);
    let text_file = root().join("Cargo.lock");
    refuses(&["eval", "perplexity", "--text", text(&text_file), "--window", "1"], &["--window"]);
}

#[test]
fn damaged_models_are_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("damaged.coexec");
    let whole = fs::read(demo_dir().join("demo.coexec")).expect("the packed demo model");
    for len in [0, 1, 64, 127, 128, 5000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("write");
        fails(&["run", "a", "--model", text(&path)], &["damaged.coexec"]);
    }
    for at in [0, 9, 40, 100, whole.len() / 3, whole.len() / 2, whole.len() - 40] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, flipped).expect("write");
        fails(&["run", "a", "--model", text(&path)], &["damaged.coexec"]);
    }
}

#[test]
fn damaged_sources_are_refused_in_one_line() {
    let out = tempfile::tempdir().expect("a temporary directory");
    let target = out.path().join("out.coexec");
    let tiny = root().join("tests/data/tiny/llama");
    let broken = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, words: &[&str]| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in
            ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        {
            fs::copy(tiny.join(name), dir.path().join(name)).expect("copy");
        }
        let bytes = fs::read(dir.path().join(file)).expect("read");
        fs::write(dir.path().join(file), change(bytes)).expect("write");
        fails(&["import", text(dir.path()), text(&target)], words);
        assert!(!target.exists(), "no unfinished file is left");
    };
    broken("model.safetensors", &|b| b[..b.len() / 2].to_vec(), &["model.safetensors"]);
    broken(
        "model.safetensors",
        &|mut b| {
            b[3] ^= 0xFF;
            b
        },
        &["model.safetensors"],
    );
    broken("tokenizer.json", &|b| b[..b.len() / 2].to_vec(), &["tokenizer"]);
    broken("config.json", &|b| b[..b.len() / 2].to_vec(), &["config.json"]);
    for (key, value) in [
        ("num_hidden_layers", "1000000000000"),
        ("vocab_size", "-5"),
        ("hidden_size", "0"),
        ("rms_norm_eps", "\"x\""),
        // More than a packed file can hold: not found out at the end of the import.
        ("max_position_embeddings", "268435456"),
    ] {
        broken(
            "config.json",
            &|b| {
                let mut json: serde_json::Value = serde_json::from_slice(&b).expect("JSON");
                json[key] = serde_json::from_str(value).expect("JSON");
                json.to_string().into_bytes()
            },
            &["config.json", key],
        );
    }
    let gguf = fs::read(tiny.join("llama-F32.gguf")).expect("a GGUF");
    let path = out.path().join("cut.gguf");
    for len in [3, 10, 200, gguf.len() / 2] {
        fs::write(&path, &gguf[..len]).expect("write");
        fails(&["import", text(&path), text(&target)], &["cut.gguf"]);
    }
}

#[test]
fn a_flawed_generation_config_is_one_line_and_no_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(root().join("tests/data/tiny/llama").join(name), dir.path().join(name)).expect("copy");
    }
    let target = dir.path().join("out.coexec");
    for (text_of, words) in
        [("{\"do_sample\": true, \"temperature\": 0.6,}", "trailing comma"), ("{\"top_k\": -1}", "top_k")]
    {
        fs::write(dir.path().join("generation_config.json"), text_of).expect("write");
        let out = run(&["import", text(dir.path()), text(&target)]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && target.exists(), "{stderr}");
        let warnings: Vec<&str> = stderr.lines().filter(|l| l.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{stderr}");
        assert!(warnings[0].contains("generation_config.json") && warnings[0].contains(words), "{stderr}");
        fs::remove_file(&target).expect("remove");
    }
}

/// Starts coexec, sends SIGINT after `after`, and returns its exit code and output.
fn interrupted(args: &[&str], after: Duration) -> (Option<i32>, String) {
    let mut child = coexec(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("coexec starts");
    std::thread::sleep(after);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().is_ok_and(|s| s.success()));
    let start = Instant::now();
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    let status = child.wait().expect("it ends");
    assert!(start.elapsed() < Duration::from_secs(60), "Ctrl-C must end it soon");
    (status.code(), stderr)
}

#[test]
fn ctrl_c_ends_import_and_run_cleanly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out.coexec");
    // Large enough to be under way for many seconds.
    let (code, stderr) = interrupted(&["random-model", "llama3.2-3b", text(&out)], Duration::from_millis(1500));
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("cancelled"), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0, "no unfinished file is left");
    // A calibration ends as cleanly.
    let args = ["random-model", "qwen2.5-0.5b", text(&out), "--calibrate", "--quantizer", "gptq"];
    let (code, stderr) = interrupted(&args, Duration::from_millis(3000));
    assert_eq!(code, Some(130), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0, "no unfinished file is left");
    // A generation keeps what it has told.
    let (code, stderr) = interrupted(
        &["run", "Once upon a time", "--max-tokens", "2000", "--ignore-eos", "--kernels", "reference", "--npu", "none"],
        Duration::from_millis(700),
    );
    assert_eq!(code, Some(130), "{stderr}");
}
