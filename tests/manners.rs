//! The manners of the command line, command by command: nobody reads, the disk is full, a signal comes, no terminal is there.

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};
use support::{
    cli::{self, coexec, text},
    demo_dir, root,
};

/// No command that is asked to end takes longer than this, however busy the machine is: what does is killed and fails.
const HANG: Duration = Duration::from_secs(120);

/// What reads `{text}`, `{out}` and `{dir}` in a command.
struct Places {
    dir: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn command(&self, line: &str) -> Command {
        let demo = demo_dir().join("demo.coexec");
        let measured = root().join("tests/data/valid.txt");
        let args: Vec<String> = line
            .split_whitespace()
            .map(|word| match word {
                "TEXT" => text(&measured).to_owned(),
                "DEMO" => text(&demo).to_owned(),
                "SOURCE" => text(&demo_dir()).to_owned(),
                "OUT" => text(&self.dir.path().join("out")).to_owned(),
                "CHAT" => text(chat_model()).to_owned(),
                "FIFO" => text(&self.dir.path().join("fifo")).to_owned(),
                "LONG" => text(&self.dir.path().join("long.txt")).to_owned(),
                word => word.replace('_', " "),
            })
            .collect();
        let mut command = coexec(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("COEXEC_CACHE_DIR", self.dir.path().join("cache"));
        if line.starts_with("chat") {
            let question = self.dir.path().join("question");
            fs::write(&question, "Hello there\n").expect("write");
            command.stdin(File::open(question).expect("just written"));
        }
        command
    }
}

/// A tiny model that has a chat template.
fn chat_model() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chat.coexec");
        cli::ok(&["import", text(&root().join("tests/data/tiny/llama3")), text(&path)]);
        (dir, path)
    };
    &MODEL.get_or_init(make).1
}

/// Every command that prints results, in a form that is over soon.
const PRINTING: [&str; 18] = [
    "",
    "--help",
    "--version",
    "run --help",
    "run Hello -n 4",
    "run Hello -n 4 --format json",
    "chat CHAT -n 4",
    "bench -p 8 -n 2 -r 1",
    "bench -p 8 -n 2 -r 1 -o jsonl",
    "plan --prompt-len 40 --tasks",
    "simulate --prompt-len 300",
    "simulate --prompt-len 300 --format json",
    "inspect --tensors --calibration",
    "inspect --format json",
    "cache list",
    "eval perplexity --text TEXT --windows 1 --window 64",
    "schedule DEMO --text TEXT --windows 1 --window 32 --prompt-len 64 --dry-run",
    "eval sweep SOURCE --calibrate TEXT --text TEXT --windows 2 --recipe cpu:q8 --recipes-only --out OUT",
];

fn one_line_of_error(line: &str, out: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "coexec {line}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "coexec {line}: {stderr}");
    assert!(!stderr.contains("internal error") && !stderr.contains("panicked"), "coexec {line}: {stderr}");
    words.iter().for_each(|word| assert!(errors[0].contains(word), "coexec {line}: `{word}` is not in {stderr}"));
}

#[test]
fn results_that_cannot_be_written_are_one_line_of_error() {
    for line in PRINTING {
        let places = Places::new();
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux");
        let out = places.command(line).stdout(full).output().expect("coexec starts");
        one_line_of_error(line, &out, &["standard output", "No space left"]);

        let mut child = places.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        drop(child.stdout.take());
        let out = child.wait_with_output().expect("it ends");
        one_line_of_error(line, &out, &["standard output", "Broken pipe"]);
    }
}

#[test]
fn nobody_needs_to_read_what_is_told_on_the_side() {
    for line in PRINTING {
        let places = Places::new();
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux");
        let out = places.command(line).stderr(full).output().expect("coexec starts");
        assert_eq!(out.status.code(), Some(0), "coexec {line}");
        assert!(!out.stdout.is_empty(), "coexec {line}");
    }
    // An error stays an error where it cannot be told.
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux");
    let out = Places::new().command("run Hello --model /no/such").stderr(full).output().expect("coexec starts");
    assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0));
}

#[test]
fn quiet_prints_results_and_nothing_else() {
    for line in ["run Hello -n 4", "eval perplexity --text TEXT --windows 1 --window 64", "random-model tiny OUT"] {
        let out = Places::new().command(&format!("--quiet {line}")).output().expect("coexec starts");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && stderr.is_empty(), "coexec {line}: {stderr}");
    }
    let out = Places::new().command("run Hello -q --model /no/such").output().expect("coexec starts");
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("error: "), "errors are told");
}

/// Sends a signal once the command is under way.
fn signalled(child: Child, signal: &str, after: Duration) -> Output {
    thread::sleep(after);
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().is_ok_and(|s| s.success()), "it ended before");
    let started = Instant::now();
    let watch = thread::spawn(move || {
        while started.elapsed() < HANG {
            thread::sleep(Duration::from_millis(50));
            // A process that is waited for is no longer there.
            if !Path::new("/proc").join(&id).exists() {
                return false;
            }
        }
        Command::new("kill").args(["-KILL", &id]).status().is_ok()
    });
    let out = child.wait_with_output().expect("it ends");
    assert!(!watch.join().expect("the watch"), "it did not end");
    out
}

/// Every command that takes long, in a form that takes minutes or for ever.
const LASTING: [&str; 13] = [
    "run Hello -n 2000 --ignore-eos --kernels reference --npu none",
    "run --prompt-file FIFO",
    "run --prompt-file LONG",
    "bench -p 1024 -n 64 -r 1000",
    "random-model llama3.2-3b OUT",
    "random-model qwen2.5-0.5b OUT --calibrate --quantizer gptq",
    "import SOURCE OUT --calibrate FIFO",
    "import SOURCE OUT --calibrate TEXT --calibration-tokens 2000 --quant q8,auto=1%",
    "export-gguf llama3.2-3b OUT",
    "eval perplexity --text TEXT --kernels reference",
    "eval logits --prompt Hello --out FIFO",
    "eval sweep SOURCE --calibrate TEXT --text TEXT --out OUT",
    "schedule DEMO --text TEXT --windows 64 --window 512 --dry-run",
];

#[test]
fn every_signal_ends_every_command() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for line in LASTING {
            let places = Places::new();
            if line.contains("FIFO") {
                let fifo = places.dir.path().join("fifo");
                assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()));
            }
            if line.contains("LONG") {
                fs::write(places.dir.path().join("long.txt"), "some words of a tale ".repeat(2 << 20)).expect("write");
            }
            let child = places.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
            let out = signalled(child, signal, Duration::from_millis(700));
            let stderr = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(code), "coexec {line}: {stderr}");
            assert_eq!(stderr.lines().last(), Some("cancelled"), "coexec {line}: {stderr}");
            let left: Vec<_> =
                fs::read_dir(places.dir.path()).expect("a directory").flatten().map(|e| e.file_name()).collect();
            assert!(left.iter().all(|name| name == "fifo" || name == "long.txt"), "coexec {line}: {left:?} is left");
        }
    }
}

#[test]
fn every_signal_ends_a_chat_that_waits() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Places::new().command("chat CHAT");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let waits = child.stdin.take();
        let out = signalled(child, signal, Duration::from_millis(700));
        assert_eq!(out.status.code(), Some(code), "{signal}: {}", String::from_utf8_lossy(&out.stderr));
        drop(waits);
    }
}

#[test]
fn nohup_keeps_it_running_when_the_terminal_goes() {
    let places = Places::new();
    let shell = "trap '' HUP; exec \"$0\" \"$@\"";
    let run = places.command("run Hello -n 300 --ignore-eos --kernels reference --npu none");
    let mut command = Command::new("sh");
    command.args(["-c", shell]).arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh starts");
    thread::sleep(Duration::from_millis(150));
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().is_ok_and(|s| s.success()));
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn measured_results_are_printed_before_a_later_one_fails() {
    let places = Places::new();
    for (form, head) in [("md", "pp8 |"), ("csv", "n_prompt"), ("json", "\"n_prompt\": 8"), ("jsonl", "\"n_prompt\":8")]
    {
        let out = places.command(&format!("bench -p 8,99999 -n 0 -r 1 -o {form}")).output().expect("coexec starts");
        let printed = String::from_utf8_lossy(&out.stdout);
        assert!(printed.contains(head), "{form}: {printed}");
        one_line_of_error("bench", &out, &["99999"]);
    }
}

#[test]
fn nothing_from_outside_reaches_the_terminal_as_an_escape() {
    let places = Places::new();
    let name = "/no/such/\x1b[2Jmodel";
    let out = coexec(&["run", "Hello", "--model", name]).output().expect("coexec starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && !stderr.contains('\x1b') && stderr.contains("\\u{1b}[2J"), "{stderr:?}");
    // A template's own error.
    let model = places.dir.path().join("model");
    fs::create_dir(&model).expect("a directory");
    for entry in fs::read_dir(root().join("tests/data/tiny/llama")).expect("a tiny model").flatten() {
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copy");
    }
    fs::write(model.join("chat_template.jinja"), "{{ raise_exception('\x1b]0;title\x07') }}").expect("write");
    let packed = places.dir.path().join("m.coexec");
    let out = coexec(&["import", text(&model), text(&packed)]).output().expect("coexec starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = coexec(&["run", "--chat", "Hello", "--model", text(&packed)]).output().expect("coexec starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.code() == Some(1) && stderr.contains("title") && !stderr.contains(['\x1b', '\x07']),
        "{stderr:?}"
    );
}

#[test]
fn options_without_effect_and_contradictions_are_told() {
    let told = |line: &str| {
        let out = Places::new().command(line).output().expect("coexec starts");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (line, option) in [
        ("run Hello -n 1 --greedy --seed 5", "--seed"),
        ("run Hello -n 1 --temp 0 --top-k 5", "--top-k"),
        ("run Hello -n 1 --npu none --npu-performance burst", "--npu-performance"),
        ("run Hello -n 1 --npu sim --npu-process child", "--npu-process"),
        ("run Hello -n 1 --npu none --activations u16", "--activations"),
        ("random-model tiny OUT --calibration-tokens 9", "--calibration-tokens"),
        ("export-gguf DEMO OUT --seed 5", "--seed"),
        ("bench --limits -p 5", "--n-prompt"),
        ("bench -p 0 -n 1 -r 1 --npu sim", "--npu"),
        ("inspect --format json --tensors", "--tensors"),
        ("plan --format json --tasks", "--tasks"),
    ] {
        let (code, stderr) = told(line);
        let note = format!("note: {option} has no effect");
        assert!(code == Some(0) && stderr.contains(&note), "coexec {line}: {code:?} {stderr}");
    }
    for line in [
        "run Hello --greedy --temp 1",
        "run Hello --npu none --npu-dir OUT",
        "run Hello --activations u8 --prune 0.5",
        "schedule DEMO --text TEXT --dry-run --out OUT",
        "compile --estimate --out OUT",
    ] {
        assert_eq!(told(line).0, Some(2), "coexec {line}: {}", told(line).1);
    }
}

#[test]
fn a_colourless_terminal_gets_no_colours() {
    let out = coexec(&["--log", "debug", "run", "Hello", "-n", "1"]).output().expect("coexec starts");
    assert!(!String::from_utf8_lossy(&out.stderr).contains('\x1b'), "no terminal, no colours");
    // Whatever standard input is: nothing is read from it where a prompt is given.
    let closed = File::open("/dev/null").expect("Linux");
    let mut child = coexec(&["run", "Hello", "-n", "1"]).stdin(closed).stdout(Stdio::piped()).spawn().expect("starts");
    let mut told = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
    assert!(child.wait().expect("it ends").success() && told.starts_with("Hello"), "{told}");
}
