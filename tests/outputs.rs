//! Files that commands write: never one that is read, never in place of a device, refused before the work when they cannot be
//! written, whole when two write at once, and gone when their process was killed.

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
};
use support::{
    cli::{coexec, fails, ok, text},
    demo_dir, root, skip,
};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("there")
        .map(|e| e.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

const DEMO: &str = "models/demo/demo.coexec";

/// Every command that reads one file and writes another, told to write what it reads: under the same name, through a link, a
/// link to a link, a hard link, a detour.
#[test]
fn what_is_read_is_never_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let texts = at("text");
    fs::copy(root().join("tests/data/valid.txt"), &texts).expect("copies");
    fs::copy(root().join(DEMO), at("model.coexec")).expect("copies");
    ok(&["export-gguf", text(&at("model.coexec")), text(&at("model.gguf")), "--type", "q8_0"]);
    fs::create_dir(at("hf")).expect("a directory");
    for entry in fs::read_dir(demo_dir()).expect("the demo's sources").filter_map(Result::ok) {
        fs::copy(entry.path(), at("hf").join(entry.file_name())).expect("copies");
    }
    // The name is looked at before what is in it.
    fs::write(at("estimates"), b"{}").expect("writes");
    let disguises = |path: &Path| {
        let (parent, name) = (path.parent().expect("in a directory"), path.file_name().expect("a name"));
        let [link, twice, hard] = ["link", "twice", "hard"].map(&at);
        [&link, &twice, &hard].into_iter().for_each(|old| drop(fs::remove_file(old)));
        symlink(path, &link).expect("a link");
        symlink(&link, &twice).expect("a link");
        fs::hard_link(path, &hard).expect("a link");
        let detour = parent.join("..").join(parent.file_name().expect("a name")).join(name);
        [path.to_owned(), link, twice, hard, detour]
    };
    let (model, gguf, hf) = (at("model.coexec"), at("model.gguf"), at("hf"));
    let (estimates, hf_weights) = (at("estimates"), hf.join("model.safetensors"));
    let cases: Vec<(&Path, Vec<&str>)> = vec![
        (&gguf, vec!["import", text(&gguf)]),
        (&hf_weights, vec!["import", text(&hf)]),
        (&texts, vec!["import", text(&gguf), "--calibrate", text(&texts)]),
        (&texts, vec!["import", text(&gguf), "--quant", "q8,auto", "--calibrate", text(&texts)]),
        (&model, vec!["export-gguf", text(&model)]),
        (&gguf, vec!["export-gguf", text(&gguf)]),
        (&model, vec!["run", "Once", "-n", "1", "-m", text(&model), "--timeline"]),
        (&texts, vec!["run", "--prompt-file", text(&texts), "-n", "1", "--trace"]),
        (&model, vec!["simulate", "--model", text(&model), "--timeline"]),
        (&estimates, vec!["simulate", "--shape", "tiny", "--estimates", text(&estimates), "--trace"]),
        (&model, vec!["eval", "logits", "--prompt", "Once", "-m", text(&model), "--out"]),
        (&model, vec!["schedule", text(&model), "--text", text(&texts), "--out"]),
        (&texts, vec!["schedule", text(&model), "--text", text(&texts), "--out"]),
    ];
    for (path, args) in cases {
        let before = fs::read(path).expect("readable");
        for out in disguises(path) {
            fails(&[&args[..], &[text(&out)]].concat(), &["which is read here", "name another file"]);
        }
        assert!(fs::read(path).expect("still there") == before, "{args:?}");
    }
    assert!(names(dir.path()).iter().all(|name| !name.contains("partial")), "{:?}", names(dir.path()));
}

/// Every option that names a file to write, with the rest of a quick command.
fn writers(dir: &Path) -> Vec<Vec<String>> {
    let gguf = dir.join("source.gguf");
    if !gguf.exists() {
        ok(&["export-gguf", DEMO, text(&gguf), "--type", "q8_0"]);
    }
    let gguf = text(&gguf);
    let of = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    vec![
        of(&["import", gguf]),
        of(&["random-model", "tiny"]),
        of(&["export-gguf", "tiny"]),
        of(&["run", "Once", "-n", "1", "--timeline"]),
        of(&["run", "Once", "-n", "1", "--trace"]),
        of(&["simulate", "--shape", "tiny", "--timeline"]),
        of(&["simulate", "--shape", "tiny", "--trace"]),
        of(&["eval", "logits", "--prompt", "Once", "--out"]),
        of(&["schedule", DEMO, "--text", "tests/data/valid.txt", "--windows", "2", "--window", "32", "--out"]),
    ]
}

fn to<'a>(writer: &'a [String], out: &'a Path) -> Vec<&'a str> {
    writer.iter().map(String::as_str).chain([text(out)]).collect()
}

/// A device, a FIFO and a link stay what they are; the bytes arrive.
#[test]
fn devices_fifos_and_links_are_written_into() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let writers = writers(dir.path());
    assert!(Command::new("mkfifo").arg(at("fifo")).status().is_ok_and(|s| s.success()));
    symlink("file", at("link")).expect("a link");
    for writer in &writers {
        ok(&to(writer, &at("link")));
        let direct = fs::read(at("file")).expect("written through the link");
        assert!(at("link").is_symlink() && !direct.is_empty(), "{writer:?}");
        let through = std::thread::scope(|s| {
            let reader = s.spawn(|| fs::read(at("fifo")).expect("reads"));
            ok(&to(writer, &at("fifo")));
            reader.join().expect("reads")
        });
        assert!(at("fifo").metadata().is_ok_and(|m| m.file_type().is_fifo()));
        // Traces and timelines tell of times, which differ; GGUF files say what they are called.
        let differs = ["run", "export-gguf"].contains(&&*writer[0]);
        assert!(differs && !through.is_empty() || through == direct, "{writer:?}");
        ok(&to(writer, Path::new("/dev/null")));
        assert!(Path::new("/dev/null").metadata().is_ok_and(|m| m.file_type().is_char_device()));
        fails(&to(writer, Path::new("/dev/full")), &["/dev/full", "No space left", "free some space"]);
        fs::remove_file(at("file")).expect("ours");
    }
    // What was printed before is not overwritten when the file is standard output under another name.
    let out = fs::File::create(at("printed")).expect("a file");
    let args = ["simulate", "--shape", "tiny", "--timeline", "/dev/stdout"];
    assert!(coexec(&args).stdout(out).status().is_ok_and(|s| s.success()));
    let printed = fs::read_to_string(at("printed")).expect("UTF-8");
    assert!(printed.contains("<svg") && printed.contains("lower bound"), "{printed}");
}

/// Names that cannot be are refused before the work: each of these would take minutes.
#[test]
fn names_that_cannot_be_are_refused_before_the_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = dir.path().join("n".repeat(256));
    let cases = [
        (dir.path().to_owned(), "directory"),
        (dir.path().join("new/"), "ends in `/`"),
        (dir.path().join("no/such"), "directories are not created"),
        (long, "too long"),
    ];
    let minutes: [&[&str]; 5] = [
        &["random-model", "llama3.2-3b"],
        &["export-gguf", "llama3.2-3b"],
        &["run", "Once upon a time", "-n", "2000000", "--ignore-eos", "--timeline"],
        &["run", "Once upon a time", "-n", "2000000", "--ignore-eos", "--trace"],
        &[
            "import",
            "models/demo",
            "--quant",
            "awq,q4,auto",
            "--quantizer",
            "gptq",
            "--calibrate",
            "models/demo/calibration.txt",
        ],
    ];
    for (path, words) in &cases {
        for args in minutes {
            fails(&[args, &[text(path)]].concat(), &[words]);
        }
    }
    assert!(names(dir.path()).is_empty());
    // The directories of `compile` and `eval sweep`.
    let file = dir.path().join("file");
    fs::write(&file, b"mine").expect("writes");
    fails(&["compile", "-o", text(&file)], &["file"]);
    let sweep = [
        "eval",
        "sweep",
        "models/demo",
        "--calibrate",
        "models/demo/calibration.txt",
        "--text",
        "tests/data/valid.txt",
    ];
    fails(&[&sweep[..], &["-o", text(&file)]].concat(), &["file"]);
    assert_eq!(fs::read(&file).expect("still there"), b"mine");
}

/// One of two results is there, whole; nothing else stays.
#[test]
fn two_processes_that_write_one_file_do_not_meet() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("model.coexec");
    let start = |seed: &str| -> Child {
        coexec(&["random-model", "tiny", text(&out), "--seed", seed]).stderr(Stdio::null()).spawn().expect("starts")
    };
    let both = ["1", "2"].map(start);
    for mut child in both {
        assert!(child.wait().is_ok_and(|s| s.success()));
    }
    ok(&["inspect", text(&out), "--verify"]);
    assert_eq!(names(dir.path()), ["model.coexec"]);
}

/// `kill -9` leaves an unfinished file, which the next run that writes there removes; what another run is making stays.
#[test]
fn what_a_killed_run_leaves_is_removed_by_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("model.coexec");
    let start = || -> Child {
        let mut command = coexec(&["random-model", "llama3.2-3b", text(&out)]);
        command.stderr(Stdio::null()).spawn().expect("starts")
    };
    let wait_for = |is: &dyn Fn(&[String]) -> bool| {
        for _ in 0..600 {
            if is(&names(dir.path())) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{:?}", names(dir.path()));
    };
    let mut killed = start();
    wait_for(&|names| names.len() == 1);
    killed.kill().expect("kills");
    killed.wait().expect("ends");
    assert_eq!(names(dir.path()).len(), 1, "nothing could tidy up");
    let left = names(dir.path());
    let mut making = start();
    wait_for(&|names| names.len() == 1 && names != left);
    let others = names(dir.path());
    ok(&["random-model", "tiny", text(&dir.path().join("other.coexec"))]);
    assert_eq!(names(dir.path()), [others[0].clone(), "other.coexec".to_owned()]);
    making.kill().expect("kills");
    making.wait().expect("ends");
    ok(&["random-model", "tiny", text(&out)]);
    assert_eq!(names(dir.path()), ["model.coexec", "other.coexec"]);
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mount =
        |args: &[&str]| Command::new("mount").args(args).arg(dir.path()).output().is_ok_and(|o| o.status.success());
    if !mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        skip("outputs::a_full_disk_leaves_what_was_there", "cannot mount a small tmpfs to fill");
        return;
    }
    let out = dir.path().join("out");
    let result = std::panic::catch_unwind(|| {
        fs::write(&out, b"before").expect("writes");
        fails(&["import", "models/demo", text(&out)], &["out", "space"]);
        fails(&["export-gguf", DEMO, text(&out)], &["out", "space"]);
        fails(
            &[
                "eval",
                "logits",
                "--prompt",
                "Once upon a time, there was a little dog who lived in a house with a girl and her mother",
                "--out",
                text(&out),
            ],
            &["out", "space"],
        );
        assert_eq!(
            (fs::read(&out).expect("still there"), names(dir.path())),
            (b"before".to_vec(), vec!["out".to_owned()])
        );
    });
    assert!(Command::new("umount").arg(dir.path()).status().is_ok_and(|s| s.success()), "umount");
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
