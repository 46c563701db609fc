//! Where a chat's turns come from: a terminal with line editing and history, or a pipe.

use super::{
    command::WORDS,
    entry::{self, Entry},
};
use crate::cli::{
    console::{note, warning},
    shared::{MAX_PROMPT_BYTES, state_dir},
};
use anyhow::Context as _;
use coexec::runtime::error::chain;
use rustyline::{
    Behavior, Config, Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

const PROMPT: &str = "> ";

/// Lines of the history that are kept.
const HISTORY_LINES: usize = 1000;

pub(super) enum Input {
    Terminal(Box<Terminal>),
    /// Standard input, and how many of its lines were read.
    Pipe(usize),
}

pub(super) struct Terminal {
    editor: Editor<Lines, FileHistory>,
    history: Option<PathBuf>,
}

impl Input {
    /// Standard input, whatever it is; with or without a history of what is typed.
    pub(super) fn new(with_history: bool) -> anyhow::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe(0));
        }
        // Where answers go into a file, the prompt does not.
        let behavior = if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder().behavior(behavior).max_history_size(HISTORY_LINES)?.build();
        let history = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(Lines));
        let mut terminal = Terminal { editor, history: None };
        if with_history && let Err(error) = terminal.open_history() {
            note!("note: no history of what is typed ({})", chain(error.as_ref()));
        }
        Ok(Self::Terminal(Box::new(terminal)))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(super) fn history_path(&self) -> Option<&Path> {
        match self {
            Self::Terminal(terminal) => terminal.history.as_deref(),
            Self::Pipe(_) => None,
        }
    }

    /// The next message or command; `None` at the end.
    ///
    /// # Errors
    /// Over a pipe, also a command that is none.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        match self {
            Self::Terminal(terminal) => terminal.next(),
            Self::Pipe(lines) => from_pipe(lines),
        }
    }
}

impl Terminal {
    fn open_history(&mut self) -> anyhow::Result<()> {
        let dir = state_dir().context("there is no home directory")?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let path = dir.join("chat_history");
        match self.editor.load_history(&path) {
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.with_context(|| format!("cannot read `{}`", path.display()))?,
        }
        self.history = Some(path);
        Ok(())
    }

    fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        loop {
            let entered = match self.editor.readline(PROMPT) {
                Ok(entered) => entered,
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => {
                    note!("(/quit or Ctrl-D ends)");
                    continue;
                }
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            if !entered.trim().is_empty() {
                self.remember(&entered);
            }
            match entry::read(&entered) {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(error) => warning!("error: {}", chain(error.as_ref())),
            }
        }
    }

    /// Adds what was entered to the history, at once: nothing is lost when the program is killed.
    fn remember(&mut self, entered: &str) {
        let Some(path) = &self.history else {
            // Only in memory, where it cannot fail.
            let _ = self.editor.add_history_entry(entered);
            return;
        };
        let added = self.editor.add_history_entry(entered);
        if let Err(error) = added.and_then(|_| self.editor.append_history(path)) {
            note!("note: the history is not written any more (`{}`: {error})", path.display());
            self.history = None;
        }
    }
}

fn from_pipe(lines: &mut usize) -> anyhow::Result<Option<Entry>> {
    let mut entered = String::new();
    let mut begin = *lines + 1;
    loop {
        let Some(line) = line(*lines + 1)? else {
            return if entered.is_empty() { Ok(None) } else { entry::read(&entered).with_context(|| at(begin)) };
        };
        *lines += 1;
        entered.push_str(&line);
        anyhow::ensure!(
            entered.len() <= MAX_PROMPT_BYTES,
            "{}: the text is longer than {MAX_PROMPT_BYTES} bytes",
            at(begin)
        );
        if entry::goes_on(&entered) {
            entered.push('\n');
            continue;
        }
        if let Some(entry) = entry::read(&entered).with_context(|| at(begin))? {
            return Ok(Some(entry));
        }
        entered.clear();
        begin = *lines + 1;
    }
}

fn at(line: usize) -> String {
    format!("standard input, line {line}")
}

/// A line without its end; `None` at the end of the input.
fn line(number: usize) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let limit = MAX_PROMPT_BYTES as u64 + 2;
    io::stdin().lock().take(limit).read_until(b'\n', &mut bytes).with_context(|| at(number))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    anyhow::ensure!(bytes.len() as u64 != limit, "{}: it is longer than {MAX_PROMPT_BYTES} bytes", at(number));
    let mut text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8 text", at(number)))?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.ends_with('\r') {
        text.pop();
    }
    Ok(Some(text))
}

/// Tells the editor when a text of several lines is complete, and completes commands.
pub(super) struct Lines;

impl Helper for Lines {}
impl Highlighter for Lines {}
impl Hinter for Lines {
    type Hint = String;
}

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let goes_on = entry::goes_on(context.input());
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let words = WORDS.iter().filter(|word| typed.starts_with('/') && word.starts_with(typed));
        Ok((0, words.map(|word| (*word).to_owned()).collect()))
    }
}
