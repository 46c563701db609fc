//! `coexec chat` and prompts on standard input, over a pipe and in a terminal.

mod support;

use coexec::{
    Message,
    model::{DecoderConfig, WeightFormat, source},
};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};
use support::{
    Configured, Packed,
    cli::{coexec, fails, fed, ok, one_line, text},
    demo_dir, root,
};

/// A small model that says anything, for a long time when it is let, with a template that refuses tools.
static MODEL: LazyLock<Packed> = LazyLock::new(|| {
    let source = source::open(&root().join("tests/data/tiny/qwen2")).expect("the tiny model");
    let config = DecoderConfig { max_position_embeddings: 100_000, ..source.config().clone() };
    let mut model = Configured::new(&*source, config);
    let template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\
        {{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    model.tokenizer.chat_templates.insert("default".to_owned(), template.to_owned());
    Packed::of(&model, WeightFormat::F32, None)
});

fn model() -> &'static str {
    text(&MODEL.path)
}

/// `chat` over a pipe: greedy answers of at most 9 tokens.
fn chat(input: &str, more: &[&str]) -> std::process::Output {
    fed(input.as_bytes(), &[&["chat", model(), "--greedy", "-n", "9", "--quiet"], more].concat())
}

fn saved(path: &Path) -> Vec<Message> {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("saved")).expect("JSON");
    assert_eq!(json["model"], model());
    serde_json::from_value(json["messages"].clone()).expect("messages")
}

#[test]
fn over_a_pipe_every_line_is_a_turn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("talk.json");
    let input = format!("One\n\nTwo\\\n more\n\"\"\"\n/three\n\"\"\"\n/system Be kind.\n/save {}\n /four", text(&file));
    let out = chat(&input, &[]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let messages = saved(&file);
    let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant", "user", "assistant"]);
    let said = |role: &str| {
        messages.iter().filter(|m| m.role == role).map(|m| m.content.as_str().expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(said("user"), ["One", "Two\n more", "/three"]);
    // Standard output has the answers, each with a line end, and nothing else.
    let stdout = String::from_utf8(out.stdout).expect("UTF-8");
    let known = said("assistant").iter().map(|answer| format!("{answer}\n")).collect::<String>();
    assert!(stdout.starts_with(&known) && stdout.len() > known.len() + 1, "{stdout:?} {known:?}");
    // The first answer is that of `run --chat`.
    let first = ok(&["run", "-m", model(), "--chat", "One", "--greedy", "-n", "9"]);
    assert_eq!(first, format!("{}\n", said("assistant")[0]));
}

#[test]
fn a_saved_conversation_goes_on_as_if_it_had_not_ended() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [whole, half, rest] = ["whole", "half", "rest"].map(|name| dir.path().join(name));
    assert!(chat(&format!("One\nTwo\nThree\n/save {}\n", text(&whole)), &[]).status.success());
    assert!(chat(&format!("One\nTwo\n/save {}\n", text(&half)), &[]).status.success());
    assert!(chat(&format!("Three\n/save {}\n", text(&rest)), &["--load", text(&half)]).status.success());
    assert_eq!(saved(&rest), saved(&whole));
    // Over itself, by /load, and from a list without a frame; what is taken back is not there.
    fs::write(&half, serde_json::to_string(&saved(&half)).expect("JSON")).expect("write");
    let input = format!("/load {0}\nThree\nFour\n/undo\n/save {0}\n/clear\n/undo\n", text(&half));
    one_line(&chat(&input, &[]), 1, &["chat"], &["no turn to take back"]);
    assert_eq!(saved(&half), saved(&whole));
}

#[test]
fn the_first_error_over_a_pipe_ends_it_in_one_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("write");
        path
    };
    let notes = file("notes", "my notes");
    let cases = [
        ("/nonsense\n".to_owned(), "line 1: /nonsense is no command"),
        ("\n\n/save\n".to_owned(), "line 3: /save: give a file"),
        ("\"\"\"open\nand open".to_owned(), "line 1: the text that begins with \"\"\" is not closed"),
        ("/load /no/such/file\n".to_owned(), "/no/such/file"),
        (format!("/load {}\n", text(&notes)), "is no saved conversation"),
        (format!("/load {}\n", text(&file("cut", "{\"messages\": [{\"role\""))), "is no saved conversation"),
        (format!("/load {}\n", text(&file("role", "[{\"content\": \"a\"}]"))), "role"),
        (format!("/load {}\n", text(&file("number", "[{\"role\": \"user\", \"content\": 7}]"))), "message 1"),
        (
            format!(
                "/load {}\n",
                text(&file(
                    "tool",
                    "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"tool\", \"content\": \"b\"}]"
                ))
            ),
            "no tools here",
        ),
        (format!("/save {}\n", text(&notes)), "is no saved conversation"),
        (format!("/save {}\n", model()), "is no saved conversation"),
        (format!("/save {}/\n", text(dir.path())), "name a file"),
        ("/save /no/such/dir/file\n".to_owned(), "directories are not created"),
        ("/regen\n".to_owned(), "no answer to give again"),
    ];
    for (input, words) in &cases {
        let out = chat(input, &[]);
        one_line(&out, 1, &[input], &[words]);
        assert!(out.stdout.is_empty(), "{input}");
    }
    assert_eq!(fs::read_to_string(&notes).expect("still there"), "my notes");
    one_line(&fed(b"One\xff\n", &["chat", model()]), 1, &["chat"], &["line 1", "not UTF-8"]);
    fails(&["chat", text(&demo_dir().join("demo.coexec"))], &["no chat template", "instruct model"]);
    fails(&["chat", "/no/such/model.coexec"], &["/no/such/model.coexec"]);
    let full = Stdio::from(fs::File::options().write(true).open("/dev/full").expect("Linux"));
    let input = Stdio::from(fs::File::open(root().join("README.md")).expect("a file"));
    let out = coexec(&["chat", model(), "-n", "2", "-q"]).stdin(input).stdout(full).output().expect("starts");
    one_line(&out, 1, &["chat"], &["standard output", "No space left"]);
    let long = format!("{}\n", "long ".repeat(100_000));
    one_line(&chat(&long, &[]), 1, &["chat"], &["nothing is left for an answer", "/clear"]);
}

#[test]
fn a_prompt_is_read_from_standard_input() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = ["run", "--greedy", "-n", "4", "--quiet"];
    let given = ok(&[&run[..], &["Once upon a time"]].concat());
    let file = dir.path().join("prompt");
    fs::write(&file, "Once upon a time\n").expect("write");
    for (input, more) in [
        ("Once upon a time", &[][..]),
        ("Once upon a time\r\n", &[]),
        ("Once upon a time\n", &["--prompt-file", "-"]),
        ("not looked at", &["Once upon a time"]),
        ("not looked at", &["--prompt-file", text(&file)]),
        // The demo's own prompt.
        ("", &[]),
    ] {
        let out = fed(input.as_bytes(), &[&run[..], more].concat());
        assert_eq!(
            (String::from_utf8_lossy(&out.stdout), out.status.code()),
            (given.as_str().into(), Some(0)),
            "{input}"
        );
    }
    let args = ["run", "-m", model()];
    one_line(&fed(b"", &args), 2, &args, &["no prompt", "standard input is empty", "coexec chat"]);
    one_line(&fed(b"\n", &["run", "--prompt-file", "-"]), 1, &args, &["prompt is empty"]);
    one_line(&fed(b"a\xffb", &args), 1, &args, &["standard input is not UTF-8"]);
    one_line(&fed(&vec![b'a'; (64 << 20) + 1], &args), 1, &args, &["standard input has more than 64 MiB"]);
    // What is read is not written.
    let from_file = || Stdio::from(fs::File::open(&file).expect("a file"));
    let out = coexec(&["run", "--trace", text(&file)]).stdin(from_file()).output().expect("starts");
    one_line(&out, 1, &["run"], &["which is read here"]);
    assert_eq!(fs::read_to_string(&file).expect("still there"), "Once upon a time\n");
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().is_ok_and(|s| s.success()));
}

#[test]
fn ctrl_c_over_a_pipe_ends_the_command() {
    let args = ["chat", model(), "-n", "90000", "--ignore-eos"];
    let mut child = coexec(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"Talk\n").expect("is read");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("an answer begins");
    interrupt(&child);
    let out = child.wait_with_output().expect("it ends, although its input is open");
    assert_eq!(out.status.code(), Some(130));
    drop(stdin);
    // Also while it waits for the next line, after an answer.
    let mut child =
        coexec(&["chat", model(), "-n", "2"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"Talk\n").expect("is read");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("an answer begins");
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&child);
    assert_eq!(child.wait_with_output().expect("it ends, although its input is open").status.code(), Some(130));
    drop(stdin);
}

/// A command in a terminal of 80 columns.
struct Terminal {
    keys: fs::File,
    child: Child,
    shown: Arc<Mutex<String>>,
    looked_at: usize,
}

impl Terminal {
    fn new(args: &[&str], state: &Path) -> Self {
        use rustix::{fs as unix, pty, termios};
        let keys = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).expect("a terminal");
        pty::grantpt(&keys).and_then(|()| pty::unlockpt(&keys)).expect("a terminal");
        let name = pty::ptsname(&keys, Vec::new()).expect("its name");
        let flags = unix::OFlags::RDWR | unix::OFlags::NOCTTY;
        let screen = fs::File::from(unix::open(&name, flags, unix::Mode::empty()).expect("its other side"));
        let size = termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&screen, size).expect("a size");
        let end = || Stdio::from(screen.try_clone().expect("a copy"));
        let mut command = coexec(args);
        command.env("COEXEC_STATE_DIR", state).env("TERM", "xterm").env_remove("NO_COLOR");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts");
        let keys = fs::File::from(keys);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (keys.try_clone().expect("a copy"), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The other side is closed: an error, or nothing.
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                writer.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { keys, child, shown, looked_at: 0 }
    }

    fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).expect("is read");
    }

    /// Waits until this is shown, after what was waited for before.
    fn shows(&mut self, text: &str) {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let shown = self.shown.lock().expect("no panic").clone();
            if let Some(at) = shown[self.looked_at..].find(text) {
                self.looked_at += at + text.len();
                return;
            }
            let end: String =
                shown[self.looked_at..].chars().rev().take(400).collect::<Vec<_>>().iter().rev().collect();
            assert!(Instant::now() < patience, "{text:?} is not shown: …{end:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types what ends the command in good order.
    fn ends_by(&mut self, text: &str) {
        self.types(text);
        let patience = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(Instant::now() < patience, "{text:?} does not end it"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0));
    }

    /// Lets an answer begin, then ends it with Ctrl-C.
    fn stops_an_answer(&mut self) {
        // The line editor lets go of the terminal.
        self.shows("\x1b[?2004l");
        while self.shown.lock().expect("no panic").len() < self.looked_at + 100 {
            assert!(self.child.try_wait().expect("a child").is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        interrupt(&self.child);
        self.shows("[stopped; what was said stays in the conversation]");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failure it would go on talking.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn in_a_terminal_it_edits_stops_saves_and_remembers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("talk.json");
    let state = dir.path().join("state");
    let args = ["chat", model(), "-n", "90000", "--ignore-eos"];
    let mut terminal = Terminal::new(&args, &state);
    terminal.shows("/help shows the commands");
    terminal.shows("> ");
    terminal.types("/xyz\r");
    terminal.shows("error: /xyz is no command");
    terminal.types("/undo\r");
    terminal.shows("error: there is no turn to take back");
    // Backspace, and Ctrl-A to the beginning of the line.
    terminal.types("alkx\x7f\x01T\r");
    terminal.shows("Talk");
    terminal.stops_an_answer();
    terminal.shows("> ");
    terminal.types("unfinished\x03");
    terminal.shows("(/quit or Ctrl-D ends)");
    terminal.types("/stats\r");
    terminal.shows("2 messages");
    terminal.shows("ended by Ctrl-C");
    terminal.types("/system Be brief.\r");
    terminal.shows("[a new message of the system]");
    terminal.types(&format!("/save {}\r", text(&file)));
    terminal.shows("[3 messages saved");
    terminal.types("\"\"\"one\r  two\"\"\"\r");
    terminal.shows("two\"\"\"");
    terminal.stops_an_answer();
    terminal.types(&format!("/save {}\r", text(&file)));
    terminal.shows("[5 messages saved");
    terminal.shows("> ");
    terminal.ends_by("\x04");
    let messages = saved(&file);
    assert_eq!((&messages[1], &messages[3]), (&Message::new("user", "Talk"), &Message::new("user", "one\n  two")));
    assert!(messages[2].content.as_str().is_some_and(|said| !said.is_empty()));
    // What was typed is there the next time, unless it is not wanted.
    let mut again = Terminal::new(&args, &state);
    again.shows("> ");
    again.types("\x1b[A\x1b[A");
    again.shows("  two\"\"\"");
    again.types("\x03");
    again.shows("(/quit or Ctrl-D ends)");
    again.shows("> ");
    again.ends_by("/quit\r");
    let elsewhere = dir.path().join("elsewhere");
    let mut without = Terminal::new(&[&args[..], &["--no-history"]].concat(), &elsewhere);
    without.shows("> ");
    without.ends_by("/quit\r");
    assert!(!elsewhere.join("chat_history").exists());
}
