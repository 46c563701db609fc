//! The command line as a child process.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// A command that is not started yet, with an empty stdin.
pub(crate) fn coexec(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coexec"));
    command.args(args).env_remove("COEXEC_LOG").stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Output {
    coexec(args).output().expect("coexec starts")
}

/// Runs to the end with a text on standard input.
pub(crate) fn fed(input: &[u8], args: &[&str]) -> Output {
    let mut command = coexec(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // It may end before it has read everything.
        scope.spawn(move || _ = stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    })
}

/// What it prints; it must succeed.
pub(crate) fn ok(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Asserts an error of one line with exit code 1 that contains every word.
pub(crate) fn fails(args: &[&str], words: &[&str]) {
    fails_with(1, args, words);
}

/// Asserts an error of one line with exit code 2, of the arguments, that contains every word.
pub(crate) fn refuses(args: &[&str], words: &[&str]) {
    fails_with(2, args, words);
}

fn fails_with(code: i32, args: &[&str], words: &[&str]) {
    one_line(&run(args), code, args, words);
}

/// Asserts an error of one line on standard error, with this exit code, that contains every word.
pub(crate) fn one_line(out: &Output, code: i32, args: &[&str], words: &[&str]) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().filter(|l| !l.is_empty()).count(), 1, "{args:?}: one line, not {stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.matches("os error").count() <= 1, "the cause is said twice: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: `{word}` is not in {stderr}");
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}
