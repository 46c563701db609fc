//! What a command says: results on standard output, all else on standard error.
//!
//! Nobody may be reading: a closed pipe or a full disk behind standard output is an error of one line, behind standard error
//! it is nothing. Text of models, files and templates may hold control characters: a terminal never sees them as such.

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Prints a result.
macro_rules! out {
    ($($arg:tt)*) => { $crate::cli::console::print(format_args!($($arg)*)) };
}

/// Prints a result and ends the line.
macro_rules! outln {
    () => { $crate::cli::console::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::cli::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Tells what happens, in a line on standard error; `--quiet` silences it.
macro_rules! note {
    ($($arg:tt)*) => { $crate::cli::console::tell_unless_quiet(format_args!($($arg)*)) };
}

/// Tells what may go wrong or has gone wrong, in a line on standard error.
macro_rules! warning {
    ($($arg:tt)*) => { $crate::cli::console::tell(format_args!($($arg)*)) };
}

pub(crate) use {note, out, outln, warning};

/// Whether `--quiet` was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on notes and bars are left out.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes to standard output, at once.
pub(crate) fn print(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let text = text.to_string();
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() { plain(&text) } else { Cow::Borrowed(text.as_str()) };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Writes help, with its colours where there are some.
pub(crate) fn print_styled(text: &clap::builder::StyledStr) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let has_colour = stdout.is_terminal() && has_colour();
    let text = if has_colour { text.ansi().to_string() } else { text.to_string() };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// [`note!`].
pub(crate) fn tell_unless_quiet(text: fmt::Arguments<'_>) {
    if !is_quiet() {
        tell(text);
    }
}

/// [`warning!`].
pub(crate) fn tell(text: fmt::Arguments<'_>) {
    // Whoever closed standard error does not want to know.
    let _ = writeln!(io::stderr(), "{}", plain(&text.to_string()));
}

/// Text with its control characters, but line ends and tabs, written as escapes.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a string cannot fail.
        let _ = if is_harmful(c) { write!(out, "{}", c.escape_default()) } else { out.write_char(c) };
    }
    Cow::Owned(out)
}

/// Whether standard error is a terminal that can move its cursor.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a terminal's colours are wanted: <https://no-color.org>.
pub(crate) fn has_colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether bars are drawn.
pub(crate) fn has_bars() -> bool {
    is_terminal() && !is_quiet()
}

/// A bar for work of more than two seconds: the share done, what is being done, its rate in `unit` per second, the time it
/// took and the time left. Nothing is drawn where standard error is no terminal, or with `--quiet`.
pub(crate) fn bar(unit: &'static str) -> ProgressBar {
    let target = if has_bars() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    set_unit(&bar, unit);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A bar for work whose end nobody knows: how many `units` are done, and for how long.
pub(crate) fn spinner(units: &'static str) -> ProgressBar {
    let bar = bar(units);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.with_message(units)
}

/// Counts in another unit from now on.
pub(crate) fn set_unit(bar: &ProgressBar, unit: &'static str) {
    let template = "{prefix}{bar:32} {percent:>3} %  {msg}{rate}  {elapsed}, {eta} left";
    let Ok(style) = ProgressStyle::with_template(template) else { return };
    let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Nowhere to report that to.
        let _ = out.write_str(&rate(state.per_sec(), unit));
    };
    bar.set_style(style.progress_chars("━━╌").with_key("rate", rate));
}

/// `  12.3 M elements/s`; nothing before a rate is known.
fn rate(per_s: f64, unit: &str) -> String {
    let (value, prefix) = match per_s {
        v if v >= 1e9 => (v / 1e9, "G "),
        v if v >= 1e6 => (v / 1e6, "M "),
        v if v >= 1e4 => (v / 1e3, "k "),
        v => (v, ""),
    };
    match value {
        v if !v.is_finite() || v <= 0.0 => String::new(),
        v => format!("  {v:.1} {prefix}{unit}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_no_control_character() {
        assert_eq!(plain("two\nlines\tand é"), "two\nlines\tand é");
        assert_eq!(plain("\x1b[2Jgone\x07\r\u{9b}31m"), "\\u{1b}[2Jgone\\u{7}\\r\\u{9b}31m");
        assert!(matches!(plain("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn rates() {
        assert_eq!(rate(1.25, "windows"), "  1.2 windows/s");
        assert_eq!(rate(123_456_789.0, "elements"), "  123.5 M elements/s");
        assert_eq!((rate(0.0, "x"), rate(f64::NAN, "x"), rate(f64::INFINITY, "x")), Default::default());
    }
}
